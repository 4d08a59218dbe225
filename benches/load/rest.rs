//! Tool calls as plain POSTs: the response is the answer.

use std::{io, rc::Rc};

use testkit::{
    connection::{invalid, source_of},
    poster::Poster,
};

use crate::{
    call::{Request, header_lines},
    closed_loop::{self, Caller},
    figures::Figures,
    options::Load,
};

struct RestCaller {
    poster: Poster,
    request: Request,
}

impl Caller for RestCaller {
    async fn call(&mut self) -> io::Result<()> {
        let answer = self.poster.deliver(self.request.next()).await?;
        if self.request.is_answered_by(&answer)? { Ok(()) } else { Err(invalid("no answer")) }
    }
}

pub async fn run(load: &Rc<Load>) -> io::Result<Figures> {
    let common = &load.common;
    let headers = header_lines(&common.headers)?;
    let callers = (0..common.sessions)
        .map(|number| RestCaller {
            poster: Poster::new(common.url.clone(), common.spread.then(|| source_of(number))),
            request: Request::new(&common.url, &headers, number, &common.tool, load.payload),
        })
        .collect();
    closed_loop::run("rest", load, callers).await
}
