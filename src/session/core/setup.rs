//! What the client has set up at its server, and what is to be set up again at a new upstream session: the handshake, the
//! log level, the subscriptions. REQ-3, OWN-5
//!
//! Owns what the client was told and has asked for; each change comes with what an heir needs to know of it. On a new link
//! it goes in steps: the client's `initialize` is replayed ([`Setup::replayed_initialize`]), its answer is compared with what
//! the client was told ([`Setup::answered_again`]), and then all else follows ([`Setup::rest`]). The actor posts and records.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    protocol::{
        jsonrpc::{Head, IdKey},
        mcp,
    },
    store::{Continuation, HeadChange, Initialized, NewEvent},
};

/// Lists of which a server may say that they change.
const LISTS: [&str; 3] = ["tools", "resources", "prompts"];

/// See the module's text.
#[derive(Debug, Default)]
pub struct Setup {
    handshake: Option<Handshake>,
    /// The client has sent `notifications/initialized`, or need not.
    initialized: bool,
    /// The last successful `logging/setLevel` request.
    log_level: Option<String>,
    /// Resource URI → the `resources/subscribe` request.
    subscriptions: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Handshake {
    /// The `initialize` request.
    request: Bytes,
    /// The `result` that the client was told (JSON text).
    result: String,
    /// The protocol version that it names.
    version: Option<String>,
    /// It is the router's own, because the client sent none.
    assumed: bool,
}

/// What a successful answer means for the session's own state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The upstream session is initialised: the request that did it.
    Initialize(Bytes),
    /// The log level is set: the request that did it.
    LogLevel(String),
    /// A resource is subscribed: URI and request.
    Subscribe(String, String),
    /// It is not any more: URI.
    Unsubscribe(String),
    /// A page of the server's tools is known.
    Tools {
        /// It is the first.
        first: bool,
        /// What [`Tools::version`](crate::upstream::tools::Tools::version) was.
        version: u64,
    },
}

impl Effect {
    /// Of a successful answer to this request. The payload is looked into for the few methods that set up something.
    pub fn of(method: &str, body: &Bytes, tools_version: impl FnOnce() -> u64) -> Self {
        let text = || String::from_utf8_lossy(body).into_owned();
        let uri = || Head::parse(body).ok().and_then(|head| mcp::subscription_uri(head.params));
        match method {
            mcp::INITIALIZE => Self::Initialize(body.clone()),
            mcp::SET_LEVEL => Self::LogLevel(text()),
            mcp::SUBSCRIBE => uri().map_or(Self::None, |uri| Self::Subscribe(uri, text())),
            mcp::UNSUBSCRIBE => uri().map_or(Self::None, Self::Unsubscribe),
            mcp::LIST_TOOLS => {
                let first = Head::parse(body).is_ok_and(|head| mcp::is_first_page(head.params));
                Self::Tools { first, version: tools_version() }
            }
            _ => Self::None,
        }
    }
}

/// What the answer to a replayed `initialize` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Again {
    /// As the client was told.
    Same,
    /// It has other capabilities than the client was told.
    Differs,
    /// Nobody was told anything: this is to be put on record.
    Assumed(Vec<HeadChange>),
}

impl Setup {
    /// As an adopter finds it.
    pub fn inherit(found: &mut Continuation) -> Self {
        let assumed = found.assumed;
        let handshake = found.initialize_request.take().zip(found.initialize_result.take());
        Self {
            handshake: handshake.map(|(request, result)| Handshake::new(request.into(), result, assumed)),
            initialized: found.initialized.is_some(),
            log_level: found.log_level.take(),
            subscriptions: std::mem::take(&mut found.subscriptions),
        }
    }

    /// As an heir needs it, for a session that is written again.
    pub fn put(&self, record: &mut Continuation) {
        let handshake = self.handshake.as_ref();
        record.initialize_request = handshake.map(|handshake| text(&handshake.request));
        record.initialize_result = handshake.map(|handshake| handshake.result.clone());
        record.version = self.version().map(str::to_owned);
        record.assumed = self.is_assumed();
        record.initialized = self.initialized.then_some(Initialized::Plain);
        record.log_level.clone_from(&self.log_level);
        record.subscriptions.clone_from(&self.subscriptions);
    }

    /// There has been a handshake.
    pub fn is_done(&self) -> bool {
        self.handshake.is_some()
    }

    /// The client has said that it is initialised, or need not.
    pub fn is_initialized(&self) -> bool {
        self.initialized
    }

    /// It was the router's own.
    pub fn is_assumed(&self) -> bool {
        self.handshake.as_ref().is_some_and(|handshake| handshake.assumed)
    }

    /// The result that a second `initialize` of the client is answered with, which some servers would refuse. Not that of the
    /// router's own handshake: the client's replaces it.
    pub fn told(&self) -> Option<&str> {
        self.handshake.as_ref().filter(|handshake| !handshake.assumed).map(|handshake| &*handshake.result)
    }

    /// The protocol version that the client was told, and names in its requests. Not that of the router's own handshake.
    pub fn version(&self) -> Option<&str> {
        self.handshake.as_ref().filter(|handshake| !handshake.assumed)?.version.as_deref()
    }

    /// Nothing is expected of the server while nobody listens.
    pub fn has_no_subscriptions(&self) -> bool {
        self.subscriptions.is_empty()
    }

    /// The client begins a handshake of its own.
    pub fn begins(&mut self) {
        // After the router's own, which is replaced: the client's is to be told to the server, too.
        self.initialized &= !self.is_assumed();
    }

    /// The client says that it is initialised. `true`: the server is to be told; after a repeated handshake it has been.
    pub fn says_initialized(&mut self) -> bool {
        !std::mem::replace(&mut self.initialized, true)
    }

    /// A request was answered: what that changes here, and in the same step on record. `result`: of the answer. `endpoint`: of
    /// the server.
    pub fn answered(
        &mut self,
        effect: Effect,
        result: Option<&str>,
        endpoint: impl FnOnce() -> String,
        event: NewEvent,
    ) -> NewEvent {
        match effect {
            Effect::None | Effect::Tools { .. } => event,
            Effect::Initialize(request) => {
                let result = result.unwrap_or("{}").to_owned();
                let handshake = Handshake::new(request, result, false);
                let event = event
                    .changing(HeadChange::InitializeRequest(text(&handshake.request)))
                    .changing(HeadChange::InitializeResult(handshake.result.clone()))
                    .changing(HeadChange::Version(handshake.version.clone()))
                    .changing(HeadChange::Endpoint(endpoint()))
                    .changing(HeadChange::Assumed(false));
                self.handshake = Some(handshake);
                event
            }
            Effect::LogLevel(request) => {
                self.log_level = Some(request.clone());
                event.changing(HeadChange::LogLevel(request))
            }
            Effect::Subscribe(uri, request) => {
                self.subscriptions.insert(uri.clone(), request.clone());
                event.changing(HeadChange::Subscribed { uri, request })
            }
            Effect::Unsubscribe(uri) => {
                self.subscriptions.remove(&uri);
                event.changing(HeadChange::Unsubscribed { uri })
            }
        }
    }

    /// A client that calls this believes that it is initialised, and no upstream session is: it has come back on a new stream
    /// (some clients do without a handshake), and this session is its new one. Unless its handshake is under way.
    pub fn is_missing_for(&self, method: &str) -> bool {
        !self.is_done() && !matches!(method, mcp::INITIALIZE | mcp::PING | mcp::DISCOVER)
    }

    /// Stands in for the client's handshake with the router's own: no capabilities, since nobody knows what it can do. Its own
    /// `initialize`, should it come, replaces it. What an heir needs to know.
    pub fn assume(&mut self) -> Vec<HeadChange> {
        let request = serde_json::json!({
            "jsonrpc": "2.0", "id": 0, "method": mcp::INITIALIZE,
            "params": {
                "protocolVersion": mcp::NEWEST_VERSION, "capabilities": {},
                "clientInfo": { "name": "mcp-router", "version": env!("CARGO_PKG_VERSION") },
            },
        });
        let handshake = Handshake::new(Bytes::from(request.to_string()), "{}".to_owned(), true);
        self.initialized = true;
        let changes = handshake.as_assumed();
        self.handshake = Some(handshake);
        changes
    }

    /// First step at a new upstream session: the client's `initialize`, under this id. `None`: the client has set up nothing.
    pub fn replayed_initialize(&self, id: &IdKey) -> Option<Bytes> {
        replayed(&self.handshake.as_ref()?.request, id)
    }

    /// Second step: it was answered with this result.
    pub fn answered_again(&mut self, result: &str) -> Again {
        match &mut self.handshake {
            Some(handshake) if handshake.assumed => {
                result.clone_into(&mut handshake.result);
                Again::Assumed(handshake.as_assumed())
            }
            Some(handshake) if capabilities(&handshake.result) != capabilities(result) => Again::Differs,
            _ => Again::Same,
        }
    }

    /// Last step: what is to be posted then, in this order, under ids from `next_id`.
    pub fn rest(&self, mut next_id: impl FnMut() -> IdKey) -> Vec<Bytes> {
        let note = || Bytes::from(format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, mcp::INITIALIZED));
        let requests = self.log_level.iter().chain(self.subscriptions.values());
        let replayed = requests.filter_map(|request| replayed(request.as_bytes(), &next_id()));
        self.initialized.then(note).into_iter().chain(replayed).collect()
    }

    /// The lists of which the client was told that they may change.
    pub fn lists_that_change(&self) -> Vec<&'static str> {
        let Some(told) = self.handshake.as_ref().and_then(|handshake| capabilities(&handshake.result)) else {
            return Vec::new();
        };
        LISTS.into_iter().filter(|list| told[list]["listChanged"] == true).collect()
    }
}

impl Handshake {
    fn new(request: Bytes, result: String, assumed: bool) -> Self {
        let version = mcp::protocol_version(&result);
        Self { request, result, version, assumed }
    }

    fn as_assumed(&self) -> Vec<HeadChange> {
        vec![
            HeadChange::InitializeRequest(text(&self.request)),
            HeadChange::InitializeResult(self.result.clone()),
            HeadChange::Initialized(Initialized::Plain),
            HeadChange::Assumed(true),
        ]
    }
}

fn text(body: &Bytes) -> String {
    String::from_utf8_lossy(body).into_owned()
}

/// The request under another id.
fn replayed(request: &[u8], id: &IdKey) -> Option<Bytes> {
    Some(Head::parse(request).ok()?.with_id(request, id.as_json()))
}

fn capabilities(result: &str) -> Option<serde_json::Value> {
    let mut result: serde_json::Value = serde_json::from_str(result).ok()?;
    Some(result["capabilities"].take())
}

#[cfg(test)]
mod tests;
