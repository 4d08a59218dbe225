//! The subscription to the wake-ups of one process.
//!
//! A task owns the connection, makes it again whenever it breaks and then says [`Wake::All`], since wake-ups may have
//! been lost meanwhile. A link that is dead without saying so is found by a ping that is not answered (OWN-10). For as long as
//! there is none, it says `All` from time to time, so that a lost wake-up costs delay and nothing else.
//! The task ends when the receiver is dropped.

use std::{future::pending, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use redis::{
    Msg, RedisResult, Value,
    aio::{PubSubSink, PubSubStream},
};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{link::Link, refusal::connecting};
use crate::{
    backoff::Backoff,
    store::{StoreError, StoreResult, Wake},
};

/// What the task needs to know.
pub(super) struct Subscription {
    pub(super) link: Arc<Link>,
    pub(super) channel: String,
    pub(super) backoff: (Duration, Duration),
    pub(super) probe: Duration,
}

/// Why a connection is not read any more.
enum Ended {
    /// Nobody listens.
    Unwanted,
    /// It broke, or was silent.
    Lost(&'static str),
}

impl Subscription {
    /// Subscribes, and keeps it up for as long as the receiver lives.
    pub(super) async fn start(self, capacity: usize) -> StoreResult<mpsc::Receiver<Wake>> {
        let first = self.subscribe().await?;
        let (wakes, receiver) = mpsc::channel(capacity.max(1));
        tokio::spawn(self.keep_up(first, wakes));
        Ok(receiver)
    }

    async fn subscribe(&self) -> StoreResult<(PubSubSink, PubSubStream)> {
        let subscribe = async {
            let (mut sink, stream) = self.link.subscribe().await?.split();
            sink.subscribe(self.channel.as_str()).await?;
            RedisResult::Ok((sink, stream))
        };
        match timeout(self.link.timeout, subscribe).await {
            Ok(Ok(subscribed)) => Ok(subscribed),
            Ok(Err(error)) => Err(connecting(&error)),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
        }
    }

    async fn keep_up(self, first: (PubSubSink, PubSubStream), wakes: mpsc::Sender<Wake>) {
        let (mut sink, mut stream) = first;
        // Wake-ups were lost, or did not fit: `All` is owed.
        let mut owed = false;
        // Seen from before the first subscription was made, or its successor.
        let mut node = self.link.node();
        loop {
            match self.listen(sink, &mut stream, &wakes, &mut owed, &mut node).await {
                Ended::Unwanted => return,
                Ended::Lost(reason) => tracing::warn!(reason, "the subscription to wake-ups is made again"),
            }
            let mut backoff = Backoff::new(self.backoff.0, self.backoff.1);
            let mut looked: Option<Instant> = None;
            let mut begun = Instant::now();
            (sink, stream) = loop {
                // Counts from the beginning of the last attempt: against a Redis that hangs that was a pause already.
                tokio::select! {
                    () = sleep_until(begun + backoff.pause()) => {}
                    () = wakes.closed() => return,
                }
                begun = Instant::now();
                node.mark_unchanged();
                match self.subscribe().await {
                    Ok(subscribed) => break subscribed,
                    Err(error) => tracing::debug!(%error, "the subscription to wake-ups is still away"),
                }
                // The other connections may work: what cannot be heard is looked for, at the pace of the probe. What does
                // not fit is covered by what lies there.
                if looked.is_none_or(|at| at.elapsed() >= self.probe) {
                    looked = Some(Instant::now());
                    let _ = wakes.try_send(Wake::All);
                }
            };
            owed = true;
        }
    }

    /// Passes wake-ups on until the connection ends.
    async fn listen(
        &self,
        sink: PubSubSink,
        stream: &mut PubSubStream,
        wakes: &mpsc::Sender<Wake>,
        owed: &mut bool,
        node: &mut watch::Receiver<u64>,
    ) -> Ended {
        let mut silence = pin!(self.silence(sink));
        loop {
            let room = async { if *owed { wakes.reserve().await } else { pending().await } };
            tokio::select! {
                () = wakes.closed() => return Ended::Unwanted,
                _ = node.changed() => return Ended::Lost("the address of Redis leads to another node"),
                () = &mut silence => return Ended::Lost("no answer to a ping"),
                permit = room => match permit {
                    Ok(permit) => {
                        permit.send(Wake::All);
                        *owed = false;
                    }
                    Err(_) => return Ended::Unwanted,
                },
                message = stream.next() => match message {
                    Some(message) => pass_on(&message, wakes, owed),
                    None => return Ended::Lost("the connection is closed"),
                },
            }
        }
    }

    /// Returns when the server does not answer any more.
    async fn silence(&self, mut sink: PubSubSink) {
        loop {
            sleep(self.probe).await;
            if !matches!(timeout(self.link.timeout, sink.ping::<Value>()).await, Ok(Ok(_))) {
                return;
            }
        }
    }
}

fn pass_on(message: &Msg, wakes: &mpsc::Sender<Wake>, owed: &mut bool) {
    let Some(session) = std::str::from_utf8(message.get_payload_bytes()).ok().and_then(|text| text.parse().ok()) else {
        tracing::warn!("a wake-up names no session");
        return;
    };
    // While `All` is owed it covers this one.
    if !*owed && matches!(wakes.try_send(Wake::Session(session)), Err(TrySendError::Full(_))) {
        *owed = true;
    }
}
