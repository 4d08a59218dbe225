//! The subscription to the wake-ups of one process.
//!
//! There is one connection to each place of the topology. `PUBLISH` goes to all nodes of a Redis Cluster, but counts only who is
//! subscribed at the node that it was sent to; and that count is what tells a silent owner from one that has heard. So each
//! process listens at all primaries, and takes a wake-up from the one alone that has the session's keys, where the script
//! published it: the copies that come by the others are passed over, unless that one cannot be heard.
//!
//! A task for each owns its connection, makes it again whenever it breaks and then says [`Wake::All`], since wake-ups may have
//! been lost meanwhile. A link that is dead without saying so is found by a ping that is not answered (OWN-10). For as long as
//! there is none, it says `All` from time to time, so that a lost wake-up costs delay and nothing else.
//! The tasks end when the receiver is dropped.

use std::{
    collections::BTreeMap,
    future::pending,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, future::join_all};
use redis::{
    Msg, RedisResult, Value,
    aio::{PubSubSink, PubSubStream},
};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{keys::Keys, link::Link, place::Place, refusal::connecting};
use crate::{
    backoff::Backoff,
    protocol::session_id::SessionId,
    store::{StoreError, StoreResult, Wake},
};

/// After keys have moved, copies from everywhere are taken for so long: one may have been published where they were.
const UNSETTLED: Duration = Duration::from_secs(2);

/// What the task needs to know.
pub(super) struct Subscription {
    pub(super) link: Arc<Link>,
    pub(super) keys: Keys,
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

/// A connection on which wake-ups are heard.
type Heard = (PubSubSink, PubSubStream);

/// What the tasks of one subscription share.
struct Ears {
    of: Subscription,
    wakes: mpsc::Sender<Wake>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Each place, and whether it is heard now.
    places: BTreeMap<Place, bool>,
    /// Keys may have moved before that.
    unsettled: Option<Instant>,
}

impl Subscription {
    /// Subscribes, and keeps it up for as long as the receiver lives.
    pub(super) async fn start(self, capacity: usize) -> StoreResult<mpsc::Receiver<Wake>> {
        let topology = &self.link.topology;
        let map = topology.map();
        let subscribe = async |place| (place, self.subscribe(place).await);
        let firsts = join_all(topology.places().into_iter().map(subscribe)).await;
        if firsts.iter().all(|(_, first)| first.is_err()) {
            let error = firsts.into_iter().find_map(|(_, first)| first.err());
            return Err(error.unwrap_or_else(|| StoreError::NotDone("no node is known".to_owned())));
        }
        let (wakes, receiver) = mpsc::channel(capacity.max(1));
        let ears = Arc::new(Ears { of: self, wakes, known: Mutex::default() });
        tokio::spawn(ears.keep(map, firsts));
        Ok(receiver)
    }

    async fn subscribe(&self, place: Place) -> StoreResult<Heard> {
        let subscribe = async {
            let (mut sink, stream) = self.link.subscribe(place).await?.split();
            sink.subscribe(self.channel.as_str()).await?;
            RedisResult::Ok((sink, stream))
        };
        match timeout(self.link.timeout, subscribe).await {
            Ok(Ok(subscribed)) => Ok(subscribed),
            Ok(Err(error)) => Err(connecting(&error)),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
        }
    }
}

impl Ears {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One task for each place that there is.
    async fn keep(self: Arc<Self>, mut map: watch::Receiver<u64>, firsts: Vec<(Place, StoreResult<Heard>)>) {
        let (mut tasks, mut of_places) = (JoinSet::new(), BTreeMap::new());
        for (place, first) in firsts {
            let first =
                first.inspect_err(|error| tracing::warn!(%error, "wake-ups of one node are not heard yet")).ok();
            of_places.insert(place, tasks.spawn(self.clone().keep_up(place, first)));
        }
        loop {
            tokio::select! {
                () = self.wakes.closed() => return,
                changed = map.changed() => if changed.is_err() { return },
            }
            if !self.of.link.topology.is_cluster() {
                continue;
            }
            let places = self.of.link.topology.places();
            self.known().unsettled = Some(Instant::now() + UNSETTLED);
            of_places.retain(|place, task| {
                let stays = places.contains(place);
                if !stays {
                    task.abort();
                    self.known().places.remove(place);
                }
                stays
            });
            for place in places {
                of_places.entry(place).or_insert_with(|| tasks.spawn(self.clone().keep_up(place, None)));
            }
        }
    }

    /// Whether a wake-up that is heard there is to be taken.
    fn takes(&self, session: SessionId, place: Place) -> bool {
        if !self.of.link.topology.is_cluster() {
            return true;
        }
        let its = self.of.link.topology.place_of(self.of.keys.session(&session).plain());
        let mut known = self.known();
        if known.unsettled.is_some_and(|until| until < Instant::now()) {
            known.unsettled = None;
        }
        its == place || known.unsettled.is_some() || known.places.get(&its) != Some(&true)
    }

    async fn keep_up(self: Arc<Self>, place: Place, first: Option<Heard>) {
        // Wake-ups were lost, or did not fit: `All` is owed.
        let mut owed = first.is_none();
        // Seen from before the first subscription was made, or its successor.
        let mut node = self.of.link.node();
        let mut heard = first;
        loop {
            if let Some((sink, mut stream)) = heard.take() {
                self.known().places.insert(place, true);
                let ended = self.listen(place, sink, &mut stream, &mut owed, &mut node).await;
                self.known().places.insert(place, false);
                match ended {
                    Ended::Unwanted => return,
                    Ended::Lost(reason) => {
                        self.of.link.topology.lost(place);
                        tracing::warn!(reason, "the subscription to wake-ups is made again");
                    }
                }
            }
            let mut backoff = Backoff::new(self.of.backoff.0, self.of.backoff.1);
            let mut looked: Option<Instant> = None;
            let mut begun = Instant::now();
            heard = loop {
                // Counts from the beginning of the last attempt: against a Redis that hangs that was a pause already.
                tokio::select! {
                    () = sleep_until(begun + backoff.pause()) => {}
                    () = self.wakes.closed() => return,
                }
                begun = Instant::now();
                node.mark_unchanged();
                match self.of.subscribe(place).await {
                    Ok(subscribed) => break Some(subscribed),
                    Err(error) => tracing::debug!(%error, "the subscription to wake-ups is still away"),
                }
                // The other connections may work: what cannot be heard is looked for, at the pace of the probe. What does
                // not fit is covered by what lies there.
                if looked.is_none_or(|at| at.elapsed() >= self.of.probe) {
                    looked = Some(Instant::now());
                    let _ = self.wakes.try_send(Wake::All);
                }
            };
            owed = true;
        }
    }

    /// Passes wake-ups on until the connection ends.
    async fn listen(
        &self,
        place: Place,
        sink: PubSubSink,
        stream: &mut PubSubStream,
        owed: &mut bool,
        node: &mut watch::Receiver<u64>,
    ) -> Ended {
        let wakes = &self.wakes;
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
                    Some(message) => self.pass_on(place, &message, owed),
                    None => return Ended::Lost("the connection is closed"),
                },
            }
        }
    }

    /// Returns when the server does not answer any more.
    async fn silence(&self, mut sink: PubSubSink) {
        loop {
            sleep(self.of.probe).await;
            if !matches!(timeout(self.of.link.timeout, sink.ping::<Value>()).await, Ok(Ok(_))) {
                return;
            }
        }
    }

    fn pass_on(&self, place: Place, message: &Msg, owed: &mut bool) {
        let session = std::str::from_utf8(message.get_payload_bytes()).ok().and_then(|text| text.parse().ok());
        let Some(session) = session else {
            tracing::warn!("a wake-up names no session");
            return;
        };
        // While `All` is owed it covers this one.
        if !*owed
            && self.takes(session, place)
            && matches!(self.wakes.try_send(Wake::Session(session)), Err(TrySendError::Full(_)))
        {
            *owed = true;
        }
    }
}
