//! What the session layer puts on record for whoever owns the session next, and its changes.
//!
//! Used by the session layer, which reads it once (an adopter) and otherwise changes it, one [`HeadChange`] at a time, in one
//! step with what it belongs to: an event, or the journaling of a message.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::field;

/// `1` in fields that say "yes" by being there.
const YES: &str = "1";

/// See [`Initialized::WithVersion`].
const WITH_VERSION: &str = "v";

/// What the session layer has put on record so that another owner can go on: the handshake, what it has set up, and what is
/// open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continuation {
    /// The client's `initialize` request, as it came.
    pub initialize_request: Option<String>,
    /// The upstream's `result` of it (JSON text).
    pub initialize_result: Option<String>,
    /// The protocol version that it names: what client and server have agreed on.
    pub version: Option<String>,
    /// The client has sent `notifications/initialized`.
    pub initialized: Option<Initialized>,
    /// The upstream session stands on the router's own `initialize`, because the client sent none.
    pub assumed: bool,
    /// The last successful `logging/setLevel` request.
    pub log_level: Option<String>,
    /// The upstream endpoint's URL. For people.
    pub endpoint: Option<String>,
    /// Of an upstream session of Streamable HTTP: the version that was agreed on (`-`: none), a space, and its id, if it has one.
    pub upstream_session: Option<String>,
    /// Last event id of its own stream that is in the log.
    pub upstream_cursor: Option<String>,
    /// Canonical id of a request that an upstream session of Streamable HTTP works on → the request's sequence, a space, and the
    /// last event id of the answer to its POST that is in the log. It counts for that sequence alone.
    pub resumable: BTreeMap<String, String>,
    /// Resource URI → the `resources/subscribe` request.
    pub subscriptions: BTreeMap<String, String>,
    /// Id towards the client (JSON text) of a request of the server that the client has not answered → its id at the server
    /// (JSON text). Empty or a method: written by an older build, which passed the id on unchanged.
    pub questions: BTreeMap<String, String>,
    /// Sequences of requests whose answers have gone out on the main stream, because nobody came for them.
    pub moved: BTreeSet<u64>,
    /// Canonical id of a request that the client has cancelled → the request's sequence. It goes with the request: with its
    /// answer (the owner clears it) or by [`crate::store::Journal::forget_requests`]. REQ-4
    pub cancelled: BTreeMap<String, u64>,
    /// Canonical id of a request without an answer → its place in the trace that its client began
    /// ([`TraceContext::stored`](crate::protocol::trace_context::TraceContext::stored)). Only where that is traced.
    pub traces: BTreeMap<String, String>,
}

/// How the client has sent `notifications/initialized`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initialized {
    /// Without its protocol version in the POST.
    Plain,
    /// With it: by that it is told from others when it comes back.
    WithVersion,
}

/// One thing that changes in the [`Continuation`]: by the owner, or in one step with the journaling of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadChange {
    /// [`Continuation::initialize_request`]
    InitializeRequest(String),
    /// [`Continuation::initialize_result`]
    InitializeResult(String),
    /// [`Continuation::version`]
    Version(Option<String>),
    /// [`Continuation::initialized`]
    Initialized(Initialized),
    /// [`Continuation::assumed`]
    Assumed(bool),
    /// [`Continuation::log_level`]
    LogLevel(String),
    /// [`Continuation::endpoint`]
    Endpoint(String),
    /// [`Continuation::upstream_session`]
    UpstreamSession(Option<String>),
    /// [`Continuation::upstream_cursor`]
    UpstreamCursor(Option<String>),
    /// Into [`Continuation::resumable`].
    Resumable {
        /// Canonical id of the request.
        id_key: Arc<str>,
        /// Its sequence, a space, and the event id.
        at: String,
    },
    /// Out of it: the request is over.
    NotResumable {
        /// Canonical id of the request.
        id_key: Arc<str>,
    },
    /// Into [`Continuation::subscriptions`].
    Subscribed {
        /// The resource.
        uri: String,
        /// The request.
        request: String,
    },
    /// Out of it.
    Unsubscribed {
        /// The resource.
        uri: String,
    },
    /// Into [`Continuation::questions`].
    Asked {
        /// Towards the client.
        id: String,
        /// At the server.
        upstream_id: String,
    },
    /// Out of it: answered, or taken back.
    Settled {
        /// Towards the client.
        id: String,
    },
    /// Into [`Continuation::moved`].
    Moved {
        /// Of the request.
        seq: u64,
    },
    /// Out of it: too long ago to matter.
    MovedLongAgo {
        /// Of the request.
        seq: u64,
    },
    /// Into [`Continuation::traces`], or out of it: the request has its answer.
    Traced {
        /// Canonical id of the request.
        id_key: Arc<str>,
        /// Its place.
        context: Option<String>,
    },
    /// Out of [`Continuation::cancelled`]: the request has its answer all the same.
    CancelMoot {
        /// Canonical id of the request.
        id_key: Arc<str>,
    },
}

impl Continuation {
    /// A request names this protocol version, and another one was agreed on.
    pub fn has_other_version(&self, named: Option<&str>) -> bool {
        named.zip(self.version.as_deref()).is_some_and(|(named, agreed)| named != agreed)
    }

    /// `false`: it is another one's field.
    pub(super) fn take(&mut self, field: &str, value: &str) -> bool {
        let text = || Some(value.to_owned());
        match field {
            field::INITIALIZE_REQUEST => self.initialize_request = text(),
            field::INITIALIZE_RESULT => self.initialize_result = text(),
            field::VERSION => self.version = text(),
            field::INITIALIZED if value == WITH_VERSION => self.initialized = Some(Initialized::WithVersion),
            field::INITIALIZED => self.initialized = Some(Initialized::Plain),
            field::ASSUMED => self.assumed = true,
            field::LOG_LEVEL => self.log_level = text(),
            field::ENDPOINT => self.endpoint = text(),
            field::UPSTREAM_SESSION => self.upstream_session = text(),
            field::UPSTREAM_CURSOR => self.upstream_cursor = text(),
            _ => {
                if let Some(uri) = field.strip_prefix(field::SUBSCRIPTION) {
                    self.subscriptions.insert(uri.to_owned(), value.to_owned());
                } else if let Some(id) = field.strip_prefix(field::QUESTION) {
                    self.questions.insert(id.to_owned(), value.to_owned());
                } else if let Some(id) = field.strip_prefix(field::RESUMABLE) {
                    self.resumable.insert(id.to_owned(), value.to_owned());
                } else if let Some(seq) = field.strip_prefix(field::MOVED) {
                    self.moved.extend(seq.parse::<u64>());
                } else if let Some(id) = field.strip_prefix(field::CANCELLED) {
                    self.cancelled.extend(value.parse().ok().map(|seq| (id.to_owned(), seq)));
                } else if let Some(id) = field.strip_prefix(field::TRACE) {
                    self.traces.insert(id.to_owned(), value.to_owned());
                } else {
                    return false;
                }
            }
        }
        true
    }

    /// As fields and values.
    pub(in crate::store) fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        let mut put = |name: String, value: &str| pairs.push((name, value.to_owned()));
        for (name, value) in [
            (field::INITIALIZE_REQUEST, self.initialize_request.as_deref()),
            (field::INITIALIZE_RESULT, self.initialize_result.as_deref()),
            (field::VERSION, self.version.as_deref()),
            (field::INITIALIZED, self.initialized.map(Initialized::as_str)),
            (field::ASSUMED, self.assumed.then_some(YES)),
            (field::LOG_LEVEL, self.log_level.as_deref()),
            (field::ENDPOINT, self.endpoint.as_deref()),
            (field::UPSTREAM_SESSION, self.upstream_session.as_deref()),
            (field::UPSTREAM_CURSOR, self.upstream_cursor.as_deref()),
        ] {
            if let Some(value) = value {
                put(name.to_owned(), value);
            }
        }
        for (uri, request) in &self.subscriptions {
            put(format!("{}{uri}", field::SUBSCRIPTION), request);
        }
        for (id, upstream_id) in &self.questions {
            put(format!("{}{id}", field::QUESTION), upstream_id);
        }
        for (id, at) in &self.resumable {
            put(format!("{}{id}", field::RESUMABLE), at);
        }
        for seq in &self.moved {
            put(format!("{}{seq}", field::MOVED), YES);
        }
        for (id, seq) in &self.cancelled {
            put(format!("{}{id}", field::CANCELLED), &seq.to_string());
        }
        for (id, context) in &self.traces {
            put(format!("{}{id}", field::TRACE), context);
        }
        pairs
    }

    /// What is set comes first, as in the scripts.
    pub fn apply(&mut self, changes: &[HeadChange]) {
        let text = |text: &str| Some(text.to_owned());
        for change in changes {
            match change {
                HeadChange::InitializeRequest(request) => self.initialize_request = text(request),
                HeadChange::InitializeResult(result) => self.initialize_result = text(result),
                HeadChange::Version(Some(version)) => self.version = text(version),
                HeadChange::Initialized(how) => self.initialized = Some(*how),
                HeadChange::Assumed(true) => self.assumed = true,
                HeadChange::LogLevel(request) => self.log_level = text(request),
                HeadChange::Endpoint(url) => self.endpoint = text(url),
                HeadChange::UpstreamSession(Some(session)) => self.upstream_session = text(session),
                HeadChange::UpstreamCursor(Some(cursor)) => self.upstream_cursor = text(cursor),
                HeadChange::Resumable { id_key, at } => {
                    self.resumable.insert((**id_key).to_owned(), at.clone());
                }
                HeadChange::Subscribed { uri, request } => {
                    self.subscriptions.insert(uri.clone(), request.clone());
                }
                HeadChange::Asked { id, upstream_id } => {
                    self.questions.insert(id.clone(), upstream_id.clone());
                }
                HeadChange::Moved { seq } => {
                    self.moved.insert(*seq);
                }
                HeadChange::Traced { id_key, context: Some(context) } => {
                    self.traces.insert((**id_key).to_owned(), context.clone());
                }
                HeadChange::Version(None)
                | HeadChange::Assumed(false)
                | HeadChange::UpstreamSession(None)
                | HeadChange::UpstreamCursor(None)
                | HeadChange::NotResumable { .. }
                | HeadChange::MovedLongAgo { .. }
                | HeadChange::Unsubscribed { .. }
                | HeadChange::Settled { .. }
                | HeadChange::Traced { context: None, .. }
                | HeadChange::CancelMoot { .. } => {}
            }
        }
        for change in changes {
            match change {
                HeadChange::Version(None) => self.version = None,
                HeadChange::Assumed(false) => self.assumed = false,
                HeadChange::UpstreamSession(None) => self.upstream_session = None,
                HeadChange::UpstreamCursor(None) => self.upstream_cursor = None,
                HeadChange::NotResumable { id_key } => drop(self.resumable.remove(&**id_key)),
                HeadChange::Unsubscribed { uri } => drop(self.subscriptions.remove(uri)),
                HeadChange::Settled { id } => drop(self.questions.remove(id)),
                HeadChange::MovedLongAgo { seq } => {
                    self.moved.remove(seq);
                }
                HeadChange::CancelMoot { id_key } => drop(self.cancelled.remove(&**id_key)),
                HeadChange::Traced { id_key, context: None } => drop(self.traces.remove(&**id_key)),
                _ => {}
            }
        }
    }
}

impl Initialized {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => YES,
            Self::WithVersion => WITH_VERSION,
        }
    }
}

/// What changes, as the scripts take it.
#[derive(Default)]
pub(in crate::store) struct FieldChanges<'a> {
    /// Field and value.
    pub(in crate::store) set: Vec<(Cow<'a, str>, &'a str)>,
    /// Fields that go, after that.
    pub(in crate::store) delete: Vec<Cow<'a, str>>,
}

impl<'a> FieldChanges<'a> {
    pub(in crate::store) fn of(changes: &'a [HeadChange]) -> Self {
        let mut fields = Self::default();
        for change in changes {
            let (name, value): (Cow<'a, str>, _) = match change {
                HeadChange::InitializeRequest(request) => (field::INITIALIZE_REQUEST.into(), Some(&**request)),
                HeadChange::InitializeResult(result) => (field::INITIALIZE_RESULT.into(), Some(&**result)),
                HeadChange::Version(version) => (field::VERSION.into(), version.as_deref()),
                HeadChange::Initialized(how) => (field::INITIALIZED.into(), Some(how.as_str())),
                HeadChange::Assumed(assumed) => (field::ASSUMED.into(), assumed.then_some(YES)),
                HeadChange::LogLevel(request) => (field::LOG_LEVEL.into(), Some(&**request)),
                HeadChange::Endpoint(url) => (field::ENDPOINT.into(), Some(&**url)),
                HeadChange::UpstreamSession(session) => (field::UPSTREAM_SESSION.into(), session.as_deref()),
                HeadChange::UpstreamCursor(cursor) => (field::UPSTREAM_CURSOR.into(), cursor.as_deref()),
                HeadChange::Resumable { id_key, at } => (format!("{}{id_key}", field::RESUMABLE).into(), Some(&**at)),
                HeadChange::NotResumable { id_key } => (format!("{}{id_key}", field::RESUMABLE).into(), None),
                HeadChange::Subscribed { uri, request } => {
                    (format!("{}{uri}", field::SUBSCRIPTION).into(), Some(&**request))
                }
                HeadChange::Unsubscribed { uri } => (format!("{}{uri}", field::SUBSCRIPTION).into(), None),
                HeadChange::Asked { id, upstream_id } => {
                    (format!("{}{id}", field::QUESTION).into(), Some(&**upstream_id))
                }
                HeadChange::Settled { id } => (format!("{}{id}", field::QUESTION).into(), None),
                HeadChange::Moved { seq } => (format!("{}{seq}", field::MOVED).into(), Some(YES)),
                HeadChange::MovedLongAgo { seq } => (format!("{}{seq}", field::MOVED).into(), None),
                HeadChange::Traced { id_key, context } => {
                    (format!("{}{id_key}", field::TRACE).into(), context.as_deref())
                }
                HeadChange::CancelMoot { id_key } => (format!("{}{id_key}", field::CANCELLED).into(), None),
            };
            match value {
                Some(value) => fields.set.push((name, value)),
                None => fields.delete.push(name),
            }
        }
        fields
    }

    /// Bytes, about.
    pub(in crate::store) fn len(&self) -> usize {
        self.set.iter().map(|(field, value)| field.len() + value.len()).sum()
    }
}
