//! Requests of 2026-07-28, which have no session: each POST is answered with its result. Calls, or lists of tools.

use std::io;

use memchr::memmem;
use testkit::{
    connection::{Target, invalid, source_of},
    poster::Poster,
};

use crate::{
    call::{self, Request, header_lines},
    closed_loop::{self, Caller},
    figures::Figures,
    options::Stateless,
};

/// What each request says of itself.
const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"load","version":"1"}}"#;

/// Header lines of a request of this method.
fn headers(method: &str, name: Option<&str>, more: &str) -> String {
    let name = name.map(|name| format!("Mcp-Name: {name}\r\n")).unwrap_or_default();
    format!("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n{name}{more}")
}

/// A request for the list of tools, which is only numbered.
struct List {
    session: u32,
    count: u64,
    bytes: Vec<u8>,
    place: usize,
}

impl List {
    fn new(target: &Target, more: &str, session: u32) -> Self {
        let number = call::number(session, 0);
        let id = String::from_utf8_lossy(&number);
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list","params":{{{META}}}}}"#);
        let bytes = target.post_json(&headers("tools/list", None, more), &body);
        let place = bytes.len() - body.len() + memmem::find(body.as_bytes(), &number).unwrap_or_default();
        Self { session, count: 0, bytes, place }
    }

    fn next(&mut self) -> &[u8] {
        self.count += 1;
        let number = call::number(self.session, self.count);
        self.bytes[self.place..self.place + number.len()].copy_from_slice(&number);
        &self.bytes
    }

    fn is_answered_by(&self, message: &[u8]) -> bool {
        let id = [&b"\"id\":"[..], &call::number(self.session, self.count)].concat();
        let has = |text: &[u8]| memmem::find(message, text).is_some();
        has(&id) && has(b"\"tools\":[{") && has(b"\"resultType\":\"complete\"")
    }
}

enum Asks {
    Call(Request),
    List(List),
}

struct StatelessCaller {
    poster: Poster,
    asks: Asks,
}

impl Caller for StatelessCaller {
    async fn call(&mut self) -> io::Result<()> {
        let is_right = match &mut self.asks {
            Asks::Call(request) => {
                let answer = self.poster.deliver(request.next()).await?;
                request.is_answered_by(&answer)?
            }
            Asks::List(list) => {
                let answer = self.poster.deliver(list.next()).await?;
                list.is_answered_by(&answer)
            }
        };
        if is_right { Ok(()) } else { Err(invalid("no answer")) }
    }
}

pub async fn run(options: &Stateless) -> io::Result<Figures> {
    let (load, common) = (&options.load, &options.load.common);
    let more = header_lines(&common.headers)?;
    let callers = (0..common.sessions).map(|number| {
        let poster = Poster::new(common.url.clone(), common.spread.then(|| source_of(number)));
        let asks = if options.list {
            Asks::List(List::new(&common.url, &more, number))
        } else {
            let lines = headers("tools/call", Some(&common.tool), &more);
            Asks::Call(Request::with_meta(&common.url, &lines, number, (&common.tool, META), load.payload))
        };
        StatelessCaller { poster, asks }
    });
    closed_loop::run("stateless", load, callers.collect()).await
}
