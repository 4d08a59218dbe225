//! What changes at a server of this era: one stream (`subscriptions/listen`) of all that the client wants to hear of, opened anew
//! whenever that is something else. The new one is acknowledged before the old one is left.

use std::{collections::BTreeSet, rc::Rc, time::Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::AbortHandle};

use super::{
    outgoing::Outgoing,
    posting::Taken,
    state::State,
    subscriptions::{Heard, Subscriptions, honoured},
    told,
};
use crate::{
    protocol::{
        jsonrpc::{self, Head},
        mcp,
        modern::{self, meta},
    },
    upstream::{
        notice::{LinkError, LinkEvent, LinkLimits, Outlet},
        resumption::{Again, Resumption},
        transport::http::{
            answer::PostError,
            line::Line,
            reply::{Piece, Reply},
        },
    },
};

/// Why a stream is over.
enum End {
    /// The server has no such streams.
    Unknown,
    /// Nobody takes the connection.
    NotConnected(String),
    /// It has ended, or was not to be had this time.
    Over,
}

/// A stream that is read, until this is dropped.
struct Stream(AbortHandle);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes its word back when nobody asks any more.
struct Asking<'a>(&'a Subscriptions);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.heard.send_replace(None);
    }
}

impl State {
    /// Shows what changes to `outlet` for as long as this is waited for.
    pub(super) async fn listen(
        self: Rc<Self>,
        line: Line,
        limits: LinkLimits,
        outlet: Outlet,
        mut attempts: Resumption,
    ) {
        let subscriptions = &self.subscriptions;
        let mut wanted = subscriptions.wanted.subscribe();
        subscriptions.heard.send_replace(Some(Heard::default()));
        let _asking = Asking(subscriptions);
        let outlet = Rc::new(outlet);
        let (mut is_missing, mut current): (bool, Option<Stream>) = (false, None);
        loop {
            let state = *wanted.borrow_and_update();
            let Some(filter) = subscriptions.filter() else {
                current = None;
                subscriptions.heard.send_replace(Some(Heard { wanted: state, uris: BTreeSet::new() }));
                // The sender is here.
                let _ = wanted.changed().await;
                continue;
            };
            let (acknowledge, acknowledged) = oneshot::channel();
            let (over, mut is_over) = oneshot::channel();
            let reads = Rc::clone(&self).read_changes(line.clone(), limits, filter, Rc::clone(&outlet), acknowledge);
            let task = actix_rt::spawn(async move {
                // Whoever asked may be gone.
                let _ = over.send(reads.await);
            });
            let next = Stream(task.abort_handle());
            let begun = Instant::now();
            let end = match tokio::time::timeout(line.settings().post_timeout, acknowledged).await {
                Ok(Ok(uris)) => {
                    subscriptions.heard.send_replace(Some(Heard { wanted: state, uris }));
                    current = Some(next);
                    attempts.worked();
                    if std::mem::take(&mut is_missing) && outlet.put_all(subscriptions.missed()).await.is_err() {
                        return;
                    }
                    tokio::select! {
                        end = &mut is_over => end.unwrap_or(End::Over),
                        _ = wanted.changed() => continue,
                    }
                }
                Ok(Err(_)) => is_over.await.unwrap_or(End::Over),
                // It is given up, with its connection.
                Err(_) => End::Over,
            };
            let was_heard = current.take().is_some();
            is_missing |= was_heard;
            attempts.ended(begun.elapsed());
            let pause = match end {
                End::Unknown => {
                    // Until something else is wanted, which it will not know either.
                    subscriptions.heard.send_replace(Some(Heard { wanted: u64::MAX, uris: BTreeSet::new() }));
                    return std::future::pending().await;
                }
                End::NotConnected(why) => match attempts.next(None) {
                    Again::After(pause) => pause,
                    Again::Never => {
                        // A receiver that is gone has no use for it.
                        let _ = outlet.put_all(vec![LinkEvent::Closed(LinkError::Lost(why))]).await;
                        return;
                    }
                },
                End::Over => attempts.pause(None),
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One stream, to its end. `acknowledge` gets the resources that the server will tell of.
    async fn read_changes(
        self: Rc<Self>,
        line: Line,
        limits: LinkLimits,
        filter: Value,
        outlet: Rc<Outlet>,
        acknowledge: oneshot::Sender<BTreeSet<String>>,
    ) -> End {
        let id = self.next_id();
        let body =
            json!({ "jsonrpc": "2.0", "id": 0, "method": modern::LISTEN, "params": { "notifications": filter } });
        let outgoing = Outgoing::of(&Bytes::from(body.to_string()), &id, &self.client.borrow());
        let Some(outgoing) = outgoing else { return End::Unknown };
        let reply = match self.post(&line, &outgoing).await {
            Ok(Taken::Reply(reply)) => reply,
            Ok(Taken::Error(error)) => {
                return if told::code_of(&error) == Some(jsonrpc::METHOD_NOT_FOUND) { End::Unknown } else { End::Over };
            }
            Err(PostError::NotSent(why)) => return End::NotConnected(why),
            Err(_) => return End::Over,
        };
        read(reply, limits, &outlet, acknowledge).await
    }
}

async fn read(
    mut reply: Reply,
    limits: LinkLimits,
    outlet: &Outlet,
    acknowledge: oneshot::Sender<BTreeSet<String>>,
) -> End {
    let mut acknowledge = Some(acknowledge);
    loop {
        let Piece { events, end } = reply.next(limits).await;
        let mut shown = Vec::new();
        for event in events {
            let LinkEvent::Message(body) = event else { continue };
            let Ok(head) = Head::parse(&body) else { continue };
            match head.method() {
                Some(modern::ACKNOWLEDGED) => {
                    if let Some(acknowledge) = acknowledge.take() {
                        // Whoever asked may be gone.
                        let _ = acknowledge.send(honoured(head.params.map_or("{}", |params| params.get())));
                    }
                }
                // Its end, by either word that servers have for it.
                None | Some(mcp::CANCELLED) => return End::Over,
                Some(_) => shown
                    .push(LinkEvent::Message(meta::with_meta(&body, |_| false, &[]).unwrap_or_else(|| body.clone()))),
            }
        }
        if outlet.put_all(shown).await.is_err() || end.is_some() {
            return End::Over;
        }
    }
}
