//! Ping-rebind: a client that may have had a session, and shows nothing that names it, is asked who it is. The TypeScript
//! SDK, Spring AI, mcp-remote and supergateway keep their old endpoint URL until they get another one, so a JSON-RPC `ping`
//! is the first thing on the stream, and the URL to which its answer comes names the session.
//!
//! Who very likely had a session gets no new one while the answer may still come: while the store or an instance hangs it
//! is waited for, and then the stream is ended, so that the client comes round again. Who may as well be new waits for its
//! endpoint up to `MCP_REBIND_TIMEOUT`, and only while a session of its kind has just lost its stream.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot::Receiver;

use super::{
    open::{Asked, By, NotOpened, Opening, Ready},
    patience::{StoreUnavailable, patiently},
    principal::Principal,
    shared::Gateway,
};
use crate::{
    cluster::{orphans, rebinds::Rebinds},
    protocol::{
        jsonrpc::{Head, Kind},
        mcp,
        session_id::SessionId,
    },
    session::{
        attachment::{Aborted, Pump},
        returning::Fit,
    },
    store::Hint,
};

/// So often in a row, on one instance, the streams of a kind of clients are ended unanswered; then it is believed that they
/// answer no `ping`, and one gets a new session as others do.
const MAX_IN_VAIN: u32 = 3;

/// Between two looks whether something still hangs.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What the client said.
enum Reply {
    /// It speaks for this session.
    Session(SessionId),
    /// It spoke for one that is gone.
    Gone,
    /// Nothing yet.
    Silence,
}

/// A client that is being asked.
#[derive(Debug)]
pub struct Question<F> {
    /// The request that asks it, to be sent as it is.
    pub ping: String,
    /// Its stream, once it is known which. To be dropped when the client has gone.
    pub stream: F,
}

/// Asks the client who it is, then goes on with its session or with a new one.
pub fn ask(opening: Opening, asked: Asked) -> Question<impl Future<Output = Result<Pump, Aborted>>> {
    let gateway = &opening.gateway;
    let (nonce, answered) = gateway.cluster.rebinds.register();
    let id = Answer { incarnation: (*gateway.env.me.incarnation).into(), nonce }.id();
    let ping = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{}"}}"#, mcp::PING);
    let forget = ForgetRebind { gateway: Rc::clone(&opening.gateway), nonce };
    let stream = async move {
        let _forget = forget;
        match find(&opening, asked, answered).await {
            Ok(Some(ready)) => Ok(ready.pump),
            // The client tries again; a status is not possible any more.
            Ok(None) => Err(Aborted("the session is still being looked for")),
            Err(_) => Err(Aborted("the session could not be opened")),
        }
    };
    Question { ping, stream }
}

/// `None`: the client should come back and be asked again.
async fn find(opening: &Opening, asked: Asked, mut answered: Receiver<SessionId>) -> Result<Option<Ready>, NotOpened> {
    let gateway = &opening.gateway;
    let settings = &gateway.env.settings.stream;
    let (client, count) = (&opening.client, |outcome| gateway.env.metrics.rebinds.with_label_values(&[outcome]).inc());
    // A client with cookies answers nothing before it has an endpoint.
    let patience = if asked.cookie.is_some() { settings.rebind_timeout / 3 } else { settings.rebind_timeout };
    let deadline = Instant::now() + settings.rebind_patience.max(patience);
    let mut reply = listen(&mut answered, patience).await;
    if let (Reply::Silence, Some(session)) = (&reply, asked.cookie) {
        count("cookie");
        return match opening.resume(session, None, By::Cookie).await? {
            Some(ready) => Ok(Some(ready)),
            None => opening.create(None).await.map(Some),
        };
    }
    let likely = asked.fit == Fit::Likely;
    if likely {
        // A little longer, so that whoever hangs can be seen to hang: by a sign of life that is overdue.
        let visible = gateway.env.settings.session.lease_renew * 2;
        reply = more(reply, &mut answered, visible.saturating_sub(patience).max(patience / 2)).await;
    }
    let mut hangs = false;
    while matches!(reply, Reply::Silence) && Instant::now() < deadline {
        let still = something_hangs(gateway).await;
        if !still && !hangs {
            break;
        }
        hangs = true;
        reply = listen(&mut answered, LOOK_AGAIN.min(patience)).await;
        if !still {
            break;
        }
    }
    match reply {
        Reply::Session(session) => {
            gateway.cluster.rebinds.answers(client.key());
            count("answered");
            if let Some(ready) = opening.resume(session, None, By::Rebind).await? {
                return Ok(Some(ready));
            }
        }
        Reply::Gone => {
            gateway.cluster.rebinds.answers(client.key());
            count("gone");
        }
        Reply::Silence if hangs && likely && gateway.cluster.rebinds.in_vain(client.key()) < MAX_IN_VAIN => {
            count("ended");
            return Ok(None);
        }
        Reply::Silence => count("silence"),
    }
    opening.create(None).await.map(Some)
}

async fn more(reply: Reply, answered: &mut Receiver<SessionId>, patience: Duration) -> Reply {
    if matches!(reply, Reply::Silence) { listen(answered, patience).await } else { reply }
}

/// The store, or an instance in which the answer may be stuck.
async fn something_hangs(gateway: &Gateway) -> bool {
    orphans::somebody_hangs(&gateway.cluster).await.unwrap_or(true)
}

async fn listen(answered: &mut Receiver<SessionId>, patience: Duration) -> Reply {
    match tokio::time::timeout(patience, answered).await {
        Ok(Ok(session)) => Reply::Session(session),
        Ok(Err(_)) => Reply::Gone,
        Err(_) => Reply::Silence,
    }
}

/// A client that leaves while it is being asked leaves nothing behind.
struct ForgetRebind {
    gateway: Rc<Gateway>,
    nonce: u64,
}

impl Drop for ForgetRebind {
    fn drop(&mut self) {
        self.gateway.cluster.rebinds.forget(self.nonce);
    }
}

/// Which question a client has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Incarnation of the process that asked.
    incarnation: String,
    /// Of the stream that waits there.
    nonce: u64,
}

impl Answer {
    /// `None`: the message is no answer to such a question.
    pub fn of(head: &Head<'_>) -> Option<Self> {
        let Kind::Response { id: Some(id), .. } = &head.kind else { return None };
        let text = id.as_json().strip_prefix("\"rebind.")?.strip_suffix('"')?;
        let (incarnation, nonce) = text.split_once('.')?;
        Some(Self { incarnation: incarnation.to_owned(), nonce: nonce.parse().ok()? })
    }

    /// The id of the question, and so of its answer, as JSON.
    fn id(&self) -> String {
        format!("\"rebind.{}.{}\"", self.incarnation, self.nonce)
    }
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The stream that waits knows of it.
    Waiting,
    /// Nobody waits, so that it is an ordinary message, whatever its id looks like.
    Nobody,
}

/// Tells the stream that waits, on whichever instance, that its client speaks for `session`. `by`: who says so.
///
/// # Errors
/// The store does not answer: nobody may have been told.
pub async fn answered(
    gateway: &Rc<Gateway>,
    session: SessionId,
    answer: Answer,
    by: &Principal,
) -> Result<Told, StoreUnavailable> {
    if by.is_known()
        && let Some(head) = patiently(gateway, || gateway.env.store.load(session)).await?
        && !head.binding.admits(&by.binding())
    {
        // SEC-1
        return Ok(Told::Nobody);
    }
    let told = |somebody| if somebody { Told::Waiting } else { Told::Nobody };
    let Answer { incarnation, nonce } = answer;
    if incarnation == *gateway.env.me.incarnation {
        return Ok(told(gateway.cluster.rebinds.complete(nonce, session)));
    }
    let store = &gateway.env.store;
    let found = Hint::Rebind(nonce);
    if !patiently(gateway, || store.hint(session, &found)).await? {
        // The one that asked learns that there is nothing to wait for.
        if let Some(word) = Rebinds::word_of_gone(nonce) {
            patiently(gateway, || store.wake(&incarnation, word)).await?;
        }
        return Ok(Told::Nobody);
    }
    // No listener: no instance of this deployment has asked.
    Ok(told(patiently(gateway, || store.wake(&incarnation, session)).await? > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_the_stream_that_has_asked() {
        let answer = Answer { incarnation: "ab-1".to_owned(), nonce: u64::MAX };
        let message = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, answer.id());
        assert_eq!(Answer::of(&Head::parse(message.as_bytes()).unwrap()), Some(answer));
        for other in [
            r#"{"jsonrpc":"2.0","id":"rebind.x.1","method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":"rebind.x","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":"rebind.x.y","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":""}}"#,
        ] {
            assert_eq!(Answer::of(&Head::parse(other.as_bytes()).unwrap()), None, "{other}");
        }
    }

    #[tokio::test]
    async fn the_word_that_a_session_is_gone_ends_the_waiting_and_is_no_session() {
        let rebinds = Rebinds::default();
        let (nonce, mut answered) = rebinds.register();
        assert!(!rebinds.gone(SessionId::random()));
        assert!(matches!(listen(&mut answered, Duration::from_millis(1)).await, Reply::Silence));
        assert!(rebinds.gone(Rebinds::word_of_gone(nonce).unwrap()));
        assert!(matches!(listen(&mut answered, Duration::from_secs(60)).await, Reply::Gone));
        assert!(rebinds.gone(Rebinds::word_of_gone(nonce).unwrap()), "also when nobody waits any more");
    }
}
