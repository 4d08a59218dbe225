//! The link to Redis: reconnecting, and one round trip with many commands.
//!
//! Connections come from the [`Topology`]. Used by the lanes ([`super::pipeline`]) and for bulk work ([`super::bulk`]). Never
//! retries a command whose outcome is unknown: that is the caller's to decide.

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool_redis::Connection;
use redis::{
    Pipeline, RedisResult, Value,
    aio::{MultiplexedConnection, PubSub},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    config::RedisConfig,
    place::Place,
    refusal::{Refusal, connecting, server_error},
    scripts::{self, Call},
    sentinel::Sentinel,
    slot_map::SlotMap,
    topology::{CHECK_TIMEOUT, Fate, Standalone, Topology, Turn},
};
use crate::{
    backoff::{Bounds, pause_after},
    metrics::RedisMetrics,
    store::{StoreError, StoreResult},
};

/// Bodies at most in one pipeline, so that one answer does not wait for the transfer of many large neighbours.
/// One larger body still goes, alone.
pub(super) const MAX_WEIGHT: usize = 1 << 20;

/// Longest pause before a connection is made again that led to a node which refuses to serve: writes are to be possible
/// soon after a change of the primary.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// A command that is to come again in a moment comes after this pause at first, and after [`LONGEST_TURN`] in the end: a
/// slot is moved in milliseconds, a primary replaced in seconds.
const SHORTEST_TURN: Duration = Duration::from_millis(5);

/// See [`SHORTEST_TURN`].
const LONGEST_TURN: Duration = Duration::from_millis(200);

/// See module documentation.
pub(super) struct Link {
    pub(super) topology: Box<dyn Topology>,
    pub(super) timeout: Duration,
    pub(super) batch: usize,
    /// See [`RedisConfig::copies`].
    pub(super) copies: usize,
    /// Of each place.
    backoffs: Mutex<BTreeMap<Place, Arc<Backoff>>>,
    pauses: Bounds,
    refusal: Refusal,
    pub(super) metrics: RedisMetrics,
}

impl Link {
    pub(super) fn new(config: &RedisConfig) -> StoreResult<Self> {
        Ok(Self {
            topology: match &config.sentinel {
                _ if !config.cluster.is_empty() => Box::new(SlotMap::new(config)?),
                None => Box::new(Standalone::new(config)?),
                Some(sentinel) => Box::new(Sentinel::new(config, sentinel)?),
            },
            timeout: config.timeout,
            batch: config.batch.max(1),
            copies: config.copies,
            backoffs: Mutex::default(),
            pauses: config.backoff,
            refusal: Refusal::default(),
            metrics: config.metrics.clone(),
        })
    }

    /// For the subscription, which needs a connection of its own kind.
    pub(super) async fn subscribe(&self, place: Place) -> RedisResult<PubSub> {
        self.topology.subscribe(place).await
    }

    /// See [`Topology::node`]: connections made under an older number are given up.
    pub(super) fn node(&self) -> watch::Receiver<u64> {
        self.topology.node()
    }

    /// Why writes are refused, if they are.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.cause()
    }

    /// Every kind of write has been done just now, at these places.
    pub(super) fn writes_done(&self, places: &[Place]) {
        if self.refusal.over(places) {
            // Some connections may still lead to a node that is no primary any more.
            self.topology.moved();
        }
    }

    /// A connection of the pool, for bulk work.
    pub(super) async fn borrow(&self, place: Place, deadline: Instant) -> StoreResult<Connection> {
        self.patiently(place, deadline, || self.topology.borrow(place)).await
    }

    /// A new connection for a lane, which keeps it.
    pub(super) async fn dial(&self, place: Place, deadline: Instant) -> StoreResult<MultiplexedConnection> {
        self.patiently(place, deadline, || self.topology.dial(place)).await
    }

    /// Returns when the keys of this command are elsewhere.
    pub(super) async fn is_elsewhere(&self, call: &Call, place: Place) {
        let mut map = self.topology.map();
        while self.topology.place(call) == place {
            if map.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    fn backoff(&self, place: Place) -> Arc<Backoff> {
        let mut backoffs = self.backoffs.lock().unwrap_or_else(PoisonError::into_inner);
        backoffs.entry(place).or_insert_with(|| Arc::new(Backoff::new(self.pauses))).clone()
    }

    /// The connection, if it still answers.
    pub(super) async fn check(&self, mut connection: MultiplexedConnection) -> Option<MultiplexedConnection> {
        let ping = redis::cmd("PING");
        let answer = timeout(self.timeout.min(CHECK_TIMEOUT), connection.send_packed_command(&ping)).await;
        matches!(answer, Ok(Ok(_))).then_some(connection)
    }

    /// Tries until `deadline`, with the pauses of the back-off.
    async fn patiently<T, E: Failure, F>(
        &self,
        place: Place,
        deadline: Instant,
        mut attempt: impl FnMut() -> F,
    ) -> StoreResult<T>
    where
        F: Future<Output = Result<T, E>>,
    {
        let backoff = self.backoff(place);
        let mut failure = "not connected".to_owned();
        loop {
            let not_before = backoff.not_before();
            if not_before >= deadline {
                tokio::time::sleep_until(deadline).await;
                return Err(StoreError::NotDone(failure));
            }
            tokio::time::sleep_until(not_before).await;
            let begun = Instant::now();
            match timeout_at(deadline, attempt()).await {
                Ok(Ok(connection)) => {
                    backoff.succeeded();
                    return Ok(connection);
                }
                Ok(Err(error)) => {
                    failure = error.text();
                    self.refusal.note_text(&failure, place);
                }
                Err(_) => failure = "no connection in time".to_owned(),
            }
            self.metrics.answers.set(0);
            self.topology.lost(place);
            backoff.failed(begun);
        }
    }

    /// One round trip with all commands of `pipeline`; `Err`, or [`Answers::redial`], means that the connection is of no
    /// use any more. Scripts that Redis does not know are taught and asked again, in order, before anything later can be.
    pub(super) async fn exchange(
        &self,
        connection: &mut MultiplexedConnection,
        pipeline: &Pipeline,
        place: Place,
    ) -> StoreResult<Answers> {
        let round_trips = async {
            let mut values = connection.send_packed_commands(pipeline, 0, pipeline.len()).await?;
            let forgotten: Vec<usize> = (0..values.len()).filter(|&i| is_noscript(&values[i])).collect();
            if !forgotten.is_empty() {
                teach(connection).await?;
                let mut again = Pipeline::with_capacity(forgotten.len());
                for (i, cmd) in pipeline.cmd_iter().enumerate() {
                    if forgotten.binary_search(&i).is_ok() {
                        again.add_command(cmd.clone());
                    }
                }
                let answers = connection.send_packed_commands(&again, 0, again.len()).await?;
                for (i, answer) in forgotten.into_iter().zip(answers) {
                    values[i] = answer;
                }
            }
            Ok(values)
        };
        let begun = Instant::now();
        let exchanged = timeout(self.timeout, round_trips).await;
        self.metrics.round_trip.observe(begun.elapsed().as_secs_f64());
        self.metrics.answers.set(i64::from(matches!(exchanged, Ok(Ok(_)))));
        if !matches!(exchanged, Ok(Ok(_))) {
            self.topology.lost(place);
        }
        match exchanged {
            Ok(Ok(values)) if values.len() == pipeline.len() => Ok(self.judged(values, place)),
            Ok(Ok(_)) => Err(StoreError::Unavailable("answers are missing".to_owned())),
            Ok(Err(error)) => Err(lost(error)),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
        }
    }

    fn judged(&self, values: Vec<Value>, place: Place) -> Answers {
        let mut redial = false;
        let mut judge = |value| {
            let Value::ServerError(error) = value else { return Judged::Done(Ok(value)) };
            match self.topology.fate(&error, place) {
                Fate::Again(turn) => {
                    self.metrics.redirected(error.code());
                    return Judged::Again(turn, server_error(&error));
                }
                fate => {
                    let first = self.refusal.note(&error, place);
                    if fate == Fate::Dropped {
                        redial = true;
                        // The others lead to the same former primary.
                        if first { self.topology.moved() } else { self.refusal.redialled() }
                    }
                }
            }
            Judged::Done(Err(server_error(&error)))
        };
        let results = values.into_iter().map(&mut judge).collect();
        if redial {
            self.backoff(place).refused(self.refusal.redials());
        }
        Answers { results, redial }
    }

    /// Nothing but refusals has come of a command, and its time is over.
    pub(super) fn gave_up(&self, error: &StoreError, place: Place) {
        self.refusal.note_text(&error.reason(), place);
    }

    /// One round trip on a connection of its own, which judges nothing.
    pub(super) async fn ask(&self, place: Place, pipeline: &Pipeline) -> StoreResult<Vec<Value>> {
        let asking = async {
            let dialled = self.topology.dial(place).await;
            let mut connection = dialled.map_err(|error| connecting(&error))?;
            let asked = connection.send_packed_commands(pipeline, 0, pipeline.len()).await;
            asked.map_err(|error| connecting(&error))
        };
        timeout(self.timeout, asking)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".to_owned())))
    }

    /// Subscribes once.
    pub(super) async fn try_channel(&self, place: Place, channel: &str) -> StoreResult<()> {
        let trying = async {
            let mut subscription = self.topology.subscribe(place).await.map_err(|error| connecting(&error))?;
            subscription.subscribe(channel).await.map_err(|error| match error.code() {
                // The text tells whether it is the command or the channel.
                Some("NOPERM") => StoreError::Unusable(error.detail().unwrap_or_default().to_owned()),
                _ => connecting(&error),
            })
        };
        timeout(self.timeout, trying)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".to_owned())))
    }
}

/// How long a command waits that is to come again in a moment, for the so-manieth time.
pub(super) fn pause_before(turn: u32) -> Duration {
    pause_after((SHORTEST_TURN, LONGEST_TURN), turn)
}

/// What came of a command.
#[derive(Debug, Clone)]
pub(super) enum Judged {
    /// This.
    Done(StoreResult<Value>),
    /// Nothing: it was not executed, and may be sent again. Whose time is over gets the error.
    Again(Turn, StoreError),
}

/// The answers of one round trip.
pub(super) struct Answers {
    /// One a command.
    pub(super) results: Vec<Judged>,
    /// The connection leads to a node that cannot serve: it must be made again.
    pub(super) redial: bool,
}

/// Why a connection could not be had.
trait Failure {
    fn text(&self) -> String;
}

impl Failure for redis::RedisError {
    fn text(&self) -> String {
        match connecting(self) {
            StoreError::NotDone(text) | StoreError::Unusable(text) => text,
            other => other.to_string(),
        }
    }
}

impl Failure for deadpool_redis::PoolError {
    fn text(&self) -> String {
        match self {
            Self::Backend(error) => error.text(),
            other => other.to_string(),
        }
    }
}

/// Throws a connection away instead of giving it back.
pub(super) fn discard(connection: Connection) {
    drop(Connection::take(connection));
}

pub(super) async fn teach(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    scripts::load_all().exec_async(connection).await
}

fn is_noscript(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

fn lost(error: redis::RedisError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// When the next attempt to connect may be made. One for all threads, so that a dead Redis is not hammered (STM-2).
struct Backoff {
    bounds: Bounds,
    state: Mutex<(u32, Instant)>,
}

impl Backoff {
    fn new(bounds: Bounds) -> Self {
        Self { bounds, state: Mutex::new((0, Instant::now())) }
    }

    fn not_before(&self) -> Instant {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn succeeded(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = 0;
    }

    /// The server has answered, and cannot serve: so many times by now. It may be another one soon, behind the same
    /// address.
    fn refused(&self, times: u32) {
        let pause = pause_after((self.bounds.0, REFUSED_PAUSE.min(self.bounds.1)), times);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = state.1.max(Instant::now() + pause);
    }

    /// An attempt has failed. The pause counts from its beginning: against a Redis that hangs it was one, and a second
    /// one behind it would only be missing when Redis goes on.
    fn failed(&self, begun: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Threads that failed together count once.
        if state.1 <= begun {
            *state = (state.0.saturating_add(1), begun + pause_after(self.bounds, state.0));
        }
    }
}
