//! Ping-rebind: a client that may have had a session, and shows nothing that names it, is asked who it is. The TypeScript
//! SDK, Spring AI, mcp-remote and supergateway keep their old endpoint URL until they get another one, so a JSON-RPC `ping`
//! is the first thing on the stream, and the URL to which its answer comes names the session.
//!
//! Who very likely had a session gets no new one while the answer may still come: while the store or an instance hangs it
//! is waited for, and then the stream is ended, so that the client comes round again. Who may as well be new waits for its
//! endpoint up to `MCP_REBIND_TIMEOUT`, and only while a session of its kind has just lost its stream.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, future, stream};
use tokio::sync::oneshot::Receiver;

use super::{
    error::ApiError,
    message::rebind_id,
    sse::{By, Opening, Ready},
};
use crate::{
    app::{App, Worker},
    protocol::{mcp, session_id::SessionId, sse},
    registry::orphans,
    session::{
        attachment::Aborted,
        returning::{Client, Fit},
    },
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

/// What is known of the client that is asked.
pub(super) struct Asked {
    pub(super) client: Client,
    pub(super) fit: Fit,
    /// A session that its cookie names: for clients that hold all POSTs back until they get an endpoint.
    pub(super) cookie: Option<SessionId>,
}

/// Asks the client who it is, then goes on with its session or with a new one.
pub(super) fn ask(opening: Opening, asked: Asked) -> impl Stream<Item = Result<Bytes, Aborted>> {
    let app = Arc::clone(&opening.worker.app);
    let (nonce, answered) = app.rebinds.register();
    let id = rebind_id(&app.me.incarnation, nonce);
    let ping = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{}"}}"#, mcp::PING);
    let forget = ForgetRebind { worker: Rc::clone(&opening.worker), nonce };
    let rest = async move {
        let _forget = forget;
        match find(&opening, &asked, answered).await {
            Ok(Some(ready)) => ready.pump.into_stream().left_stream(),
            // The client tries again; a status is not possible any more.
            Ok(None) => ended("the session is still being looked for").right_stream(),
            Err(_) => ended("the session could not be opened").right_stream(),
        }
    };
    let first = sse::unnumbered("message", ping.as_bytes());
    stream::once(future::ready(Ok(first))).chain(stream::once(rest).flatten())
}

fn ended(why: &'static str) -> impl Stream<Item = Result<Bytes, Aborted>> {
    stream::once(future::ready(Err(Aborted(why))))
}

/// `None`: the client should come back and be asked again.
async fn find(opening: &Opening, asked: &Asked, mut answered: Receiver<SessionId>) -> Result<Option<Ready>, ApiError> {
    let app = &opening.worker.app;
    let settings = &app.settings.stream;
    let (client, count) = (&asked.client, |outcome| app.metrics.rebinds.with_label_values(&[outcome]).inc());
    // A client with cookies answers nothing before it has an endpoint.
    let patience = if asked.cookie.is_some() { settings.rebind_timeout / 3 } else { settings.rebind_timeout };
    let deadline = Instant::now() + settings.rebind_patience.max(patience);
    let mut reply = listen(&mut answered, patience).await;
    if let (Reply::Silence, Some(session)) = (&reply, asked.cookie) {
        count("cookie");
        return match opening.resume(session, None, By::Cookie).await? {
            Some(ready) => Ok(Some(ready)),
            None => opening.create(None, client).await.map(Some),
        };
    }
    let likely = asked.fit == Fit::Likely;
    if likely {
        // A little longer, so that whoever hangs can be seen to hang: by a sign of life that is overdue.
        let visible = app.settings.session.lease_renew * 2;
        reply = more(reply, &mut answered, visible.saturating_sub(patience).max(patience / 2)).await;
    }
    let mut hangs = false;
    while matches!(reply, Reply::Silence) && Instant::now() < deadline {
        let still = something_hangs(app).await;
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
            app.rebinds.answers(client.key());
            count("answered");
            if let Some(ready) = opening.resume(session, None, By::Rebind).await? {
                return Ok(Some(ready));
            }
        }
        Reply::Gone => {
            app.rebinds.answers(client.key());
            count("gone");
        }
        Reply::Silence if hangs && likely && app.rebinds.in_vain(client.key()) < MAX_IN_VAIN => {
            count("ended");
            return Ok(None);
        }
        Reply::Silence => count("silence"),
    }
    opening.create(None, client).await.map(Some)
}

async fn more(reply: Reply, answered: &mut Receiver<SessionId>, patience: Duration) -> Reply {
    if matches!(reply, Reply::Silence) { listen(answered, patience).await } else { reply }
}

/// The store, or an instance in which the answer may be stuck.
async fn something_hangs(app: &App) -> bool {
    orphans::somebody_hangs(app).await.unwrap_or(true)
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
    worker: Rc<Worker>,
    nonce: u64,
}

impl Drop for ForgetRebind {
    fn drop(&mut self) {
        self.worker.app.rebinds.forget(self.nonce);
    }
}
