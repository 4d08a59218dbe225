//! What the sessions of a run have in common, over whichever transport.

use std::{future::Future, io, net::IpAddr, rc::Rc};

use testkit::connection::{Target, invalid, source_of};

use crate::{call::header_lines, options::Common};

pub const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"load","version":"1"}}}"#;
pub const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// See the module's text.
#[derive(Debug)]
pub struct Client {
    pub target: Target,
    pub headers: String,
    pub tool: String,
    pub payload: usize,
    spread: bool,
}

impl Client {
    pub fn new(common: &Common, payload: usize) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            target: common.url.clone(),
            headers: header_lines(&common.headers)?,
            tool: common.tool.clone(),
            payload,
            spread: common.spread,
        }))
    }

    /// The address that a session speaks from.
    pub fn source(&self, session: u32) -> Option<IpAddr> {
        self.spread.then(|| source_of(session))
    }
}

/// The answer to `initialize` must be a result.
pub fn check_initialized(answer: &[u8]) -> io::Result<()> {
    if memchr::memmem::find(answer, b"\"result\"").is_none() {
        return Err(invalid(format!("initialize failed: {}", String::from_utf8_lossy(answer))));
    }
    Ok(())
}

/// How many sessions are being opened at a time.
const OPENERS: usize = 32;

/// Opens sessions `first..first + count`, each by `open`.
pub async fn open_many<S, F>(
    client: &Rc<Client>,
    first: u32,
    count: u32,
    open: impl Fn(Rc<Client>, u32) -> F,
) -> io::Result<Vec<S>>
where
    F: Future<Output = io::Result<S>>,
{
    use futures_util::{StreamExt as _, TryStreamExt as _, stream};
    stream::iter(first..first + count)
        .map(|number| open(Rc::clone(client), number))
        .buffer_unordered(OPENERS)
        .try_collect()
        .await
}
