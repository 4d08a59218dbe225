//! The link to Redis: reconnecting, and one round trip with many commands.
//!
//! Connections come from the [`Topology`]. Used by the lanes ([`super::pipeline`]) and for bulk work. Never retries a command
//! whose outcome is unknown: that is the caller's to decide.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
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
    refusal::{Refusal, connecting, server_error},
    reply::told,
    scripts::{self, Call},
    sentinel::Sentinel,
    topology::{CHECK_TIMEOUT, Fate, Standalone, Topology},
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

/// What the scripts need: `PEXPIRE … NX`, and `TIME` before a write.
const OLDEST_REDIS: u32 = 7;

/// See module documentation.
pub(super) struct Link {
    topology: Box<dyn Topology>,
    pub(super) timeout: Duration,
    pub(super) batch: usize,
    backoff: Backoff,
    refusal: Refusal,
    pub(super) metrics: RedisMetrics,
}

impl Link {
    pub(super) fn new(config: &RedisConfig) -> StoreResult<Self> {
        Ok(Self {
            topology: match &config.sentinel {
                None => Box::new(Standalone::new(config)?),
                Some(sentinel) => Box::new(Sentinel::new(config, sentinel)?),
            },
            timeout: config.timeout,
            batch: config.batch.max(1),
            backoff: Backoff::new(config.backoff),
            refusal: Refusal::default(),
            metrics: config.metrics.clone(),
        })
    }

    /// For the subscription, which needs a connection of its own kind.
    pub(super) async fn subscribe(&self) -> RedisResult<PubSub> {
        self.topology.subscribe().await
    }

    /// See [`Topology::node`]: connections made under an older number are given up.
    pub(super) fn node(&self) -> watch::Receiver<u64> {
        self.topology.node()
    }

    /// Why writes are refused, if they are.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.cause()
    }

    /// Every kind of write has been done just now.
    pub(super) fn writes_done(&self) {
        if self.refusal.over() {
            // Some connections may still lead to a node that is no primary any more.
            self.topology.moved();
        }
    }

    /// A connection of the pool, for bulk work.
    async fn borrow(&self) -> StoreResult<Connection> {
        self.patiently(Instant::now() + self.timeout, || self.topology.borrow()).await
    }

    /// A new connection for a lane, which keeps it.
    pub(super) async fn dial(&self, deadline: Instant) -> StoreResult<MultiplexedConnection> {
        self.patiently(deadline, || self.topology.dial()).await
    }

    /// The connection, if it still answers.
    pub(super) async fn check(&self, mut connection: MultiplexedConnection) -> Option<MultiplexedConnection> {
        let ping = redis::cmd("PING");
        let answer = timeout(self.timeout.min(CHECK_TIMEOUT), connection.send_packed_command(&ping)).await;
        matches!(answer, Ok(Ok(_))).then_some(connection)
    }

    /// Tries until `deadline`, with the pauses of the back-off.
    async fn patiently<T, E: Failure, F>(&self, deadline: Instant, mut attempt: impl FnMut() -> F) -> StoreResult<T>
    where
        F: Future<Output = Result<T, E>>,
    {
        let mut failure = "not connected".to_owned();
        loop {
            let not_before = self.backoff.not_before();
            if not_before >= deadline {
                tokio::time::sleep_until(deadline).await;
                return Err(StoreError::NotDone(failure));
            }
            tokio::time::sleep_until(not_before).await;
            let begun = Instant::now();
            match timeout_at(deadline, attempt()).await {
                Ok(Ok(connection)) => {
                    self.backoff.succeeded();
                    return Ok(connection);
                }
                Ok(Err(error)) => {
                    failure = error.text();
                    self.refusal.note_text(&failure);
                }
                Err(_) => failure = "no connection in time".to_owned(),
            }
            self.metrics.answers.set(0);
            self.backoff.failed(begun);
        }
    }

    /// One round trip with all commands of `pipeline`; `Err`, or [`Answers::redial`], means that the connection is of no
    /// use any more. Scripts that Redis does not know are taught and asked again, in order, before anything later can be.
    pub(super) async fn exchange(
        &self,
        connection: &mut MultiplexedConnection,
        pipeline: &Pipeline,
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
        match exchanged {
            Ok(Ok(values)) if values.len() == pipeline.len() => Ok(self.judged(values)),
            Ok(Ok(_)) => Err(StoreError::Unavailable("answers are missing".to_owned())),
            Ok(Err(error)) => Err(lost(error)),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
        }
    }

    fn judged(&self, values: Vec<Value>) -> Answers {
        let mut redial = false;
        let mut judge = |value| match value {
            Value::ServerError(error) => {
                let first = self.refusal.note(&error);
                if self.topology.fate(&error) == Fate::Dropped {
                    redial = true;
                    // The others lead to the same former primary.
                    if first { self.topology.moved() } else { self.refusal.redialled() }
                }
                Err(server_error(&error))
            }
            value => Ok(value),
        };
        let results = values.into_iter().map(&mut judge).collect();
        if redial {
            self.backoff.refused(self.refusal.redials());
        }
        Answers { results, redial }
    }

    /// Many commands on a connection from the pool; each has its own result.
    pub(super) async fn bulk(&self, calls: Vec<Call>) -> StoreResult<Vec<StoreResult<Value>>> {
        // Counted as what it begins with.
        let (first, begun) = (calls.first().map(|call| call.operation), Instant::now());
        let done = self.bulk_uncounted(calls).await;
        if let Some(operation) = first {
            self.metrics.operation(operation).observe(begun.elapsed().as_secs_f64());
        }
        done
    }

    async fn bulk_uncounted(&self, calls: Vec<Call>) -> StoreResult<Vec<StoreResult<Value>>> {
        let mut results = Vec::with_capacity(calls.len());
        if calls.is_empty() {
            return Ok(results);
        }
        let node = self.node();
        let mut connection = self.borrow().await?;
        let mut pipeline = Pipeline::with_capacity(self.batch);
        let mut redial = false;
        let mut calls = calls.into_iter().peekable();
        while let Some(call) = calls.next() {
            pipeline.add_command(call.cmd);
            if pipeline.len() >= self.batch || calls.peek().is_none() {
                match self.exchange(&mut connection, &pipeline).await {
                    Ok(answers) => {
                        results.extend(answers.results);
                        redial |= answers.redial;
                    }
                    Err(error) => {
                        discard(connection);
                        return Err(error);
                    }
                }
                pipeline.clear();
            }
        }
        if redial || node.has_changed().unwrap_or(true) {
            discard(connection);
        }
        Ok(results)
    }

    /// As [`Self::bulk`], for one command.
    pub(super) async fn single(&self, call: Call) -> StoreResult<Value> {
        let mut results = self.bulk(vec![call]).await?;
        results.pop().unwrap_or_else(|| Err(StoreError::Unavailable("answers are missing".to_owned())))
    }

    /// One round trip on a connection of its own, which judges nothing.
    pub(super) async fn ask(&self, pipeline: &Pipeline) -> StoreResult<Vec<Value>> {
        let asking = async {
            let dialled = self.topology.dial().await;
            let mut connection = dialled.map_err(|error| connecting(&error))?;
            let asked = connection.send_packed_commands(pipeline, 0, pipeline.len()).await;
            asked.map_err(|error| connecting(&error))
        };
        timeout(self.timeout, asking)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".to_owned())))
    }

    /// Subscribes once.
    pub(super) async fn try_channel(&self, channel: &str) -> StoreResult<()> {
        let trying = async {
            let mut subscription = self.topology.subscribe().await.map_err(|error| connecting(&error))?;
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

    /// Whether this Redis can be used: that it is one, of which version and kind, that it lets the user in, and knows the
    /// scripts.
    ///
    /// # Errors
    /// `Unusable` when trying again does not help.
    pub(super) async fn prepare(&self) -> StoreResult<()> {
        let deadline = Instant::now() + self.timeout;
        let late = || StoreError::Unavailable("no answer in time".to_owned());
        let dialled = timeout_at(deadline, self.topology.dial()).await.map_err(|_| late())?;
        let mut connection = dialled.map_err(|error| connecting(&error))?;
        // What it does not tell (INFO may be forbidden) is believed to be right: the scripts will show it.
        let asking = async { redis::cmd("INFO").query_async::<String>(&mut connection).await };
        let server = match timeout_at(deadline, asking).await.map_err(|_| late())? {
            Ok(server) => server,
            Err(error) if error.is_io_error() || error.code() == Some("LOADING") || error.code() == Some("NOAUTH") => {
                return Err(connecting(&error));
            }
            Err(_) => String::new(),
        };
        check_version(&server)?;
        self.topology.fits(&server)?;
        warn_of_eviction(&server, &mut connection).await;
        let taught = timeout_at(deadline, teach(&mut connection)).await.map_err(|_| late())?;
        taught.map_err(|error| scripts_refused(&error))
    }
}

/// The answers of one round trip.
pub(super) struct Answers {
    /// One a command.
    pub(super) results: Vec<StoreResult<Value>>,
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

/// A server that does not tell its version is believed to be the right one.
fn check_version(server: &str) -> StoreResult<()> {
    let version = told(server, "redis_version").unwrap_or_default();
    match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major < OLDEST_REDIS => Err(StoreError::Unusable(format!(
            "Redis {OLDEST_REDIS}.0 or later is needed, this one is {version}; upgrade it"
        ))),
        _ => Ok(()),
    }
}

/// A Redis that evicts keys loses sessions without a word. Where it does not tell its policy nothing is said.
async fn warn_of_eviction(server: &str, connection: &mut MultiplexedConnection) {
    let policy = match told(server, "maxmemory_policy") {
        Some(policy) => Some(policy.to_owned()),
        None => {
            let ask = redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").to_owned();
            let asking = ask.query_async::<Vec<String>>(connection);
            timeout(CHECK_TIMEOUT, asking).await.ok().and_then(Result::ok).and_then(|pair| pair.into_iter().nth(1))
        }
    };
    if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
        tracing::warn!(
            "Redis has maxmemory-policy {policy}: when its memory is full it deletes sessions without a word. Set \
             maxmemory-policy noeviction: it then refuses writes, which clients are told"
        );
    }
}

/// Teaching failed: by a right that is missing, or since the server does not understand the scripts.
fn scripts_refused(error: &redis::RedisError) -> StoreError {
    if error.is_io_error() {
        return connecting(error);
    }
    let errors = error.clone().into_server_errors();
    match errors.as_deref().and_then(|errors| errors.first()) {
        Some((_, error)) => match server_error(error) {
            StoreError::NotDone(text) if error.code() == "NOPERM" => {
                StoreError::Unusable(format!("{text}; missing: +script|load"))
            }
            StoreError::Corrupt(text) => StoreError::Unusable(format!("it does not take the scripts ({text})")),
            other => other,
        },
        None => connecting(error),
    }
}

/// Throws a connection away instead of giving it back.
fn discard(connection: Connection) {
    drop(Connection::take(connection));
}

async fn teach(connection: &mut MultiplexedConnection) -> RedisResult<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_is_too_old_is_refused() {
        for right in ["# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n", "redis_version:10.2\r\n", ""] {
            assert!(check_version(right).is_ok(), "{right}");
        }
        assert!(matches!(check_version("redis_version:6.2.14\r\n"), Err(StoreError::Unusable(_))));
    }
}
