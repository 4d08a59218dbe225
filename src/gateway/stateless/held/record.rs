//! What is on record of a call that outlives its instance: texts of the [store](crate::store::Calls). CALL-1

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::translate::Response;
use crate::{
    gateway::{
        inner::At,
        patience::{StoreUnavailable, patiently},
        shared::Gateway,
    },
    protocol::{
        by_name::by_name,
        jsonrpc::{self, IdKey},
        post_id::PostId,
        session_id::SessionId,
    },
    settings::Settings,
    store::{Binding, CallNote, CallRecord},
};

/// The name of a record: what it is about, of whom. Nobody finds that of another principal or service. SEC-1
pub fn name(what: &str, service: &str, by: &Binding, text: &str) -> String {
    let mut hasher = Sha256::new();
    for part in [what, service, by.principal(), text] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    data_encoding::HEXLOWER.encode(&hasher.finalize()[..20])
}

/// How long a record lives from now on: the call may run for its whole time first.
pub fn life(settings: &Settings) -> Duration {
    settings.upstream.request_timeout + settings.inner.input_wait + settings.inner.keep
}

/// What comes of one more call may be kept. Asked before a call begins: a result that is there is never dropped.
pub fn may_be_one_more(gateway: &Gateway) -> bool {
    let has_room = gateway.shared.stateless.results.has_room(gateway.env.settings.inner.kept, Instant::now());
    if !has_room {
        gateway.env.metrics.dropped.with_label_values(&["results_full"]).inc();
    }
    has_room
}

/// Notes what came of a call. What stands in its record now.
///
/// # Errors
/// The store does not answer.
pub async fn note_done(gateway: &Gateway, name: &str, done: &Done) -> Result<Option<CallRecord>, StoreUnavailable> {
    let (text, keep) = (done.write(), gateway.env.settings.inner.keep);
    let noted = patiently(gateway, || gateway.env.store.note_call(name, CallNote::Done, &text, keep)).await?;
    if noted.as_ref().is_some_and(|record| record.done.as_ref() == Some(&text)) {
        gateway.shared.stateless.results.add(text.len(), keep, Instant::now());
    }
    Ok(noted)
}

/// What was asked, and in which session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    session: String,
    id: String,
    /// See [`fingerprint`](super::translate::fingerprint).
    pub fingerprint: String,
    /// What the credential allows by which it was asked.
    #[serde(default)]
    scopes: String,
    /// When, in milliseconds since 1970.
    pub at: u64,
}

impl Asked {
    /// Now.
    pub fn new(session: SessionId, id: &IdKey, fingerprint: String, by: &Binding) -> Self {
        let scopes = by.scopes().to_owned();
        Self { session: session.reveal(), id: id.as_json().to_owned(), fingerprint, scopes, at: now() }
    }

    /// The call answers to who asks, who is the principal that the record is of: by a credential that allows no less. SEC-1
    pub fn admits(&self, by: &Binding) -> bool {
        let scopes = self.scopes.split(' ').filter(|scope| !scope.is_empty());
        Binding::new(by.principal(), scopes).admits(by)
    }

    /// The session.
    pub fn session(&self) -> Option<SessionId> {
        self.session.parse().ok()
    }

    /// The call's id in it.
    pub fn id(&self) -> Option<IdKey> {
        IdKey::of_json(&self.id)
    }

    /// The same call, whenever it was asked.
    pub fn is_same_call(&self, other: &Self) -> bool {
        (&self.session, &self.id, &self.fingerprint) == (&other.session, &other.id, &other.fingerprint)
    }

    /// For the store.
    pub fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From the store.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The call's name in its session's journal, the same whoever sends it and whatever else stands in it.
    pub fn post(&self) -> PostId {
        PostId::of(&self.id, b"")
    }
}

/// Where the answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The call's place among the messages of its session.
    pub request: u64,
    epoch: u32,
    seq: u64,
}

impl Place {
    /// Of the request at this place, whose stream begins there.
    pub fn new(request: u64, at: At) -> Self {
        Self { request, epoch: at.epoch, seq: at.seq }
    }

    /// Before the first message of its stream.
    pub fn at(&self) -> At {
        At { epoch: self.epoch, seq: self.seq }
    }

    /// For the store.
    pub fn write(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// From the store.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// When, in milliseconds since 1970.
    pub at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// The result (JSON text).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// The error (JSON text). Neither: it was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<RawValue>>,
}

impl Done {
    /// With this response.
    pub fn of(response: &Response) -> Self {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            result: Option<Box<RawValue>>,
            #[serde(default)]
            error: Option<Box<RawValue>>,
        }
        let answer = std::str::from_utf8(&response.body).ok().and_then(by_name::<Answer>);
        let (result, error) = answer.map(|answer| (answer.result, answer.error)).unwrap_or_default();
        Self { at: now(), status: Some(response.status), result, error }
    }

    /// Its client does not want it any more.
    pub fn cancelled() -> Self {
        Self { at: now(), status: None, result: None, error: None }
    }

    /// The response to a request of this id (JSON text).
    pub fn response(&self, id: &str) -> Response {
        let body = match (&self.result, &self.error) {
            (Some(result), _) => jsonrpc::result_response(id, result.get()),
            (None, Some(error)) => jsonrpc::failed_response(id, error.get().as_bytes()),
            (None, None) => jsonrpc::error_response(id, jsonrpc::INTERNAL_ERROR, "the call was cancelled", None),
        };
        Response { status: self.status.unwrap_or(200), body }
    }

    /// For the store.
    pub fn write(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// From the store.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SEC-1
    #[test]
    fn a_record_is_found_by_its_principal_alone() {
        let (alice, bob) = (Binding::new("key:a", []), Binding::new("key:b", []));
        let one = name("key", "s", &alice, "1");
        assert_eq!(one, name("key", "s", &Binding::new("key:a", ["more"]), "1"), "with whichever credential");
        for other in [name("key", "s", &bob, "1"), name("key", "t", &alice, "1"), name("task", "s", &alice, "1")] {
            assert_ne!(one, other);
        }
    }

    /// SEC-1
    #[test]
    fn a_call_does_not_answer_to_a_weaker_credential() {
        let asked = |scopes: &[&str]| {
            let by = Binding::new("token:a", scopes.iter().copied());
            Asked::new(SessionId::random(), &IdKey::of_json("1").unwrap(), String::new(), &by)
        };
        for (given, shown, expected) in [
            (&["read", "write"][..], &["write", "read"][..], true),
            (&["read"], &["read", "write"], true),
            (&["read", "write"], &["read"], false),
            (&["read"], &[], false),
            (&[], &[], true),
        ] {
            let by = Binding::new("token:a", shown.iter().copied()).with_rules("r".to_owned());
            assert_eq!(asked(given).admits(&by), expected, "{given:?} {shown:?}");
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let by = Binding::new("token:a", ["read", "write"]);
        let asked = Asked::new(SessionId::random(), &IdKey::of_json("\"call-1\"").unwrap(), "f".to_owned(), &by);
        assert_eq!(Asked::read(&asked.write()).as_ref(), Some(&asked));
        assert_eq!((asked.session().is_some(), asked.id().unwrap().as_json()), (true, "\"call-1\""));
        let place = Place::new(7, At { epoch: 1, seq: 2 });
        assert_eq!(Place::read(std::str::from_utf8(&place.write()).unwrap()), Some(place));
    }

    #[test]
    fn what_came_of_a_call_is_told_under_the_id_of_who_asks() {
        for (body, told) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{"a":1e400}}"#, r#"{"jsonrpc":"2.0","id":"x","result":{"a":1e400}}"#),
            (
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#,
                r#"{"jsonrpc":"2.0","id":"x","error":{"code":1,"message":""}}"#,
            ),
        ] {
            let response = Response { status: 404, body: Bytes::from_static(body.as_bytes()) };
            let done = Done::read(&Done::of(&response).write()).unwrap();
            assert_eq!(done.response("\"x\""), Response { status: 404, body: Bytes::from_static(told.as_bytes()) });
        }
        let cancelled = Done::read(&Done::cancelled().write()).unwrap();
        assert!(cancelled.result.is_none() && cancelled.error.is_none());
    }
}
