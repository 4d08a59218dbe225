//! Of which era a server of Streamable HTTP is: it is asked with `server/discover` (MCP 2026-07-28, "Versioning and
//! Compatibility"), which a server of that era must know. What it says counts for its endpoint until that fails
//! ([`Choice`](super::choice::Choice)). An answer that says nothing of the server, because it is busy or something before it speaks, decides
//! nothing; what begins meanwhile begins as it did before, or with a handshake.

use std::{rc::Rc, time::Instant};

use actix_http::header::HeaderValue;
use bytes::Bytes;
use serde::Deserialize;

use super::{
    LinkEvent, Piece,
    choice::{Era, Spoken},
    notice::{Address, LinkLimits, Outlet},
    transport::{
        http::line::{Answered, Line},
        modern::head::{self, METHOD},
    },
};
use crate::{
    protocol::{
        by_name::{ByName, by_name},
        jsonrpc::INTERNAL_ERROR,
        mcp,
        modern::{
            self,
            refusal::{HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION},
        },
    },
    settings::UpstreamSettings,
};

/// What is asked.
fn question() -> Bytes {
    let meta = serde_json::json!({
        modern::META_VERSION: modern::VERSION,
        modern::META_CAPABILITIES: {},
        modern::META_CLIENT: { "name": "mcp-router", "version": env!("CARGO_PKG_VERSION") },
    });
    let question = serde_json::json!({
        "jsonrpc": "2.0", "id": "mcp-router-era", "method": mcp::DISCOVER, "params": { "_meta": meta },
    });
    question.to_string().into()
}

/// Of which era the endpoint is, as far as it says; asks it, unless that is known. One asks at a time, and the others go by what
/// that one was told.
pub async fn find(line: &Line, settings: &UpstreamSettings) -> Option<Era> {
    let choice = &line.endpoint.transport;
    if choice.is_era_open(Instant::now()) {
        let _asking = choice.asking.lock().await;
        if choice.is_era_open(Instant::now()) {
            ask(line, settings).await;
        }
    }
    choice.era()
}

/// Opens a session with an endpoint of Streamable HTTP, of whichever era: nothing has to be connected for it.
pub(super) async fn open(line: Line, settings: Rc<UpstreamSettings>, outlet: Outlet) {
    find(&line, &settings).await;
    let address = match line.endpoint.transport.next() {
        Spoken::Modern => Address::Modern,
        Spoken::Sse | Spoken::Streamable => Address::Streamable,
    };
    outlet.open_at_once(address).await;
}

async fn ask(line: &Line, settings: &UpstreamSettings) {
    let asked = tokio::time::timeout(settings.health_timeout, said(line, LinkLimits::from(settings))).await;
    let choice = &line.endpoint.transport;
    match asked.ok().flatten() {
        Some(era) => {
            if choice.is_of(era) {
                tracing::info!(service = line.endpoint.service, endpoint = %line.endpoint.url, ?era, "upstream endpoint is of this era");
            }
        }
        None => choice.era_is_not_said(Instant::now(), settings.health_interval),
    }
}

/// One question and its answer.
async fn said(line: &Line, limits: LinkLimits) -> Option<Era> {
    let head = head::of_post(line);
    head.insert(METHOD, HeaderValue::from_static(mcp::DISCOVER));
    let (url, question) = (line.uri().ok()?, question());
    let Answered { head, reply, .. } = line.exchange(&head, url, &question).await.ok()?;
    let mut told = None;
    if let Some(mut reply) = reply {
        loop {
            let Piece { events, end } = reply.next(limits).await;
            told = events.iter().find_map(|event| match event {
                LinkEvent::Message(body) => Told::of(body),
                _ => None,
            });
            if let Some(super::ReplyEnd::Nameless(error)) = &end {
                told = told.or_else(|| Told::of_error(error));
            }
            if told.is_some() || end.is_some() {
                break;
            }
        }
    }
    verdict(head.status.as_u16(), told)
}

/// What a body says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It answers the question, with this version of ours.
    Modern,
    /// It answers the question, with none of ours.
    OtherVersions,
    /// The server has failed.
    Failed,
    /// An error that servers of both eras know.
    Error,
}

impl Told {
    /// `None`: it is no response.
    fn of(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Response<'a> {
            #[serde(default)]
            result: Option<ByName<Discovered>>,
            #[serde(borrow, default)]
            error: Option<&'a serde_json::value::RawValue>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Discovered {
            supported_versions: Vec<String>,
        }
        let response: Response<'_> = by_name(std::str::from_utf8(body).ok()?)?;
        match (response.result, response.error) {
            (Some(ByName(found)), _) => {
                let is_ours = found.supported_versions.iter().any(|version| version == modern::VERSION);
                Some(if is_ours { Self::Modern } else { Self::OtherVersions })
            }
            (None, Some(error)) => Self::of_error(error.get().as_bytes()),
            (None, None) => None,
        }
    }

    /// The error of a response.
    fn of_error(error: &[u8]) -> Option<Self> {
        let error: RpcError = by_name(std::str::from_utf8(error).ok()?)?;
        Some(match error.code {
            HEADER_MISMATCH | MISSING_CAPABILITY => Self::Modern,
            UNSUPPORTED_VERSION if error.supports_ours() => Self::Modern,
            UNSUPPORTED_VERSION => Self::OtherVersions,
            INTERNAL_ERROR => Self::Failed,
            _ => Self::Error,
        })
    }
}

#[derive(Deserialize)]
struct RpcError {
    code: i64,
    #[serde(default)]
    data: Option<ByName<Data>>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    supported: Vec<String>,
}

impl RpcError {
    fn supports_ours(&self) -> bool {
        self.data.as_ref().is_some_and(|ByName(data)| data.supported.iter().any(|version| version == modern::VERSION))
    }
}

/// `None`: nothing is said of the server.
fn verdict(status: u16, told: Option<Told>) -> Option<Era> {
    match (status, told) {
        (401 | 403 | 407 | 408 | 425 | 429, _) | (_, Some(Told::Failed)) => None,
        (501, _) => Some(Era::Legacy),
        (500.., _) => None,
        (_, Some(Told::Modern)) => Some(Era::Modern),
        (200..=299 | 400..=499, _) => Some(Era::Legacy),
        _ => None,
    }
}

/// This refusal of `initialize` (a JSON-RPC response) is that of a server without a handshake.
pub(super) fn refuses_handshakes(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Response {
        error: ByName<RpcError>,
    }
    std::str::from_utf8(body)
        .ok()
        .and_then(by_name::<Response>)
        .is_some_and(|Response { error: ByName(error) }| error.code == UNSUPPORTED_VERSION && error.supports_ours())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_to_the_question_tells_its_era_and_what_others_say_does_not() {
        let ours = r#"{"jsonrpc":"2.0","id":"x","result":{"supportedVersions":["2026-07-28"],"capabilities":{}}}"#;
        let older = r#"{"jsonrpc":"2.0","id":"x","result":{"supportedVersions":["2025-11-25"]}}"#;
        let error = |code: i64, data: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":{code},"message":"m"{data}}}}}"#)
        };
        let names_ours = r#","data":{"supported":["2026-07-28"]}"#;
        for (status, body, era) in [
            (200, ours.to_owned(), Some(Era::Modern)),
            (200, older.to_owned(), Some(Era::Legacy)),
            (200, error(-32601, ""), Some(Era::Legacy)),
            (200, error(-32603, ""), None),
            (400, error(-32603, ""), None),
            (400, error(-32020, ""), Some(Era::Modern)),
            (400, error(-32022, names_ours), Some(Era::Modern)),
            (400, error(-32022, r#","data":{"supported":["2027-01-01"]}"#), Some(Era::Legacy)),
            (400, error(-32600, ""), Some(Era::Legacy)),
            (400, error(-32000, r#","data":"other""#), Some(Era::Legacy)),
            (400, String::new(), Some(Era::Legacy)),
            (404, error(-32000, ""), Some(Era::Legacy)),
            (404, error(-32601, ""), Some(Era::Legacy)),
            (405, String::new(), Some(Era::Legacy)),
            (202, String::new(), Some(Era::Legacy)),
            (501, String::new(), Some(Era::Legacy)),
            (401, error(-32600, ""), None),
            (403, String::new(), None),
            (429, String::new(), None),
            (500, error(-32600, ""), None),
            (502, String::new(), None),
            (503, String::new(), None),
            (302, String::new(), None),
        ] {
            assert_eq!(verdict(status, Told::of(body.as_bytes())), era, "{status} {body}");
        }
    }

    #[test]
    fn a_refused_handshake_names_the_version_that_has_none() {
        for (body, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"m","data":{"supported":["2026-07-28"]}}}"#,
                true,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"m","data":{"supported":["2025-11-25"]}}}"#,
                false,
            ),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"m"}}"#, false),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"m"}}"#, false),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, false),
        ] {
            assert_eq!(refuses_handshakes(body.as_bytes()), expected, "{body}");
        }
    }
}
