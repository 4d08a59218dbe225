//! One HTTP/1.1 request as it came, read by the servers that stand in for an MCP server.

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use crate::connection::{Headers, header};

/// A request.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// As it stands in the request line.
    pub method: String,
    /// Target of the request line.
    pub path: String,
    /// Names in lower case.
    pub headers: Headers,
    /// As long as `content-length` says.
    pub body: Vec<u8>,
}

/// The next request; `None` when the connection has ended.
pub(crate) async fn read_request(reader: &mut (impl AsyncBufRead + Unpin)) -> Option<Incoming> {
    let mut line = String::new();
    if reader.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = header(&headers, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.ok()?;
    Some(Incoming { method, path, headers, body })
}
