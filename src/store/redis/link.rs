//! The link to Redis: connections, reconnecting, and one round trip with many commands.
//!
//! Owns the pool. Used by the lanes ([`super::pipeline`]) and for bulk work. Never retries a command whose outcome is
//! unknown: that is the caller's to decide.

use std::{
    fmt::Display,
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use deadpool_redis::{Connection, Manager, Pool, PoolConfig, Runtime, Timeouts};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisResult, Value,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    config::RedisConfig,
    reply::server_error,
    scripts::{self, Call},
};
use crate::{
    backoff::{doubled, jittered},
    store::{StoreError, StoreResult},
};

/// Bodies at most in one pipeline, so that one answer does not wait for the transfer of many large neighbours.
/// One larger body still goes, alone.
pub(super) const MAX_WEIGHT: usize = 1 << 20;

/// The kernel asks an idle peer whether it is still there. Only the second line: the first is the time-out of every
/// pipeline and the probe of the subscription.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A connection that was not used for a while is asked whether it lives; one that does not answer soon is replaced.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);

/// What the scripts need: `PEXPIRE … NX`, and `TIME` before a write.
const OLDEST_REDIS: u32 = 7;

/// See module documentation.
pub(super) struct Link {
    pool: Pool,
    client: Client,
    connection: AsyncConnectionConfig,
    pub(super) timeout: Duration,
    pub(super) batch: usize,
    backoff: Backoff,
}

impl Link {
    pub(super) fn new(config: &RedisConfig) -> StoreResult<Self> {
        let wrong_url = |_| StoreError::Unavailable("the Redis URL cannot be read".to_owned());
        let info: ConnectionInfo = config.url.as_str().into_connection_info().map_err(wrong_url)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true).set_keepalive(keepalive));
        // Each pipeline has its own time-out here; a second one inside would only cost a timer.
        let connection =
            AsyncConnectionConfig::new().set_connection_timeout(Some(config.timeout)).set_response_timeout(None);
        let manager = Manager::new_with_config(info.clone(), connection.clone()).map_err(wrong_url)?;
        let mut pool = PoolConfig::new(config.pool_size.max(1));
        pool.timeouts =
            Timeouts { wait: None, create: Some(config.timeout), recycle: Some(config.timeout.min(CHECK_TIMEOUT)) };
        let pool = Pool::builder(manager)
            .config(pool)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self {
            pool,
            client: Client::open(info).map_err(wrong_url)?,
            connection,
            timeout: config.timeout,
            batch: config.batch.max(1),
            backoff: Backoff::new(config.backoff),
        })
    }

    /// For the subscription, which needs a connection of its own kind.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// A connection of the pool, for bulk work.
    async fn borrow(&self) -> StoreResult<Connection> {
        self.patiently(Instant::now() + self.timeout, || self.pool.get()).await
    }

    /// A new connection for a lane, which keeps it. Not one that lies in the pool: that one is driven by the thread
    /// that made it, and a lane's round trip must stay on one thread.
    pub(super) async fn dial(&self, deadline: Instant) -> StoreResult<MultiplexedConnection> {
        self.patiently(deadline, || self.client.get_multiplexed_async_connection_with_config(&self.connection)).await
    }

    /// The connection, if it still answers.
    pub(super) async fn check(&self, mut connection: MultiplexedConnection) -> Option<MultiplexedConnection> {
        let ping = redis::cmd("PING");
        let answer = timeout(self.timeout.min(CHECK_TIMEOUT), connection.send_packed_command(&ping)).await;
        matches!(answer, Ok(Ok(_))).then_some(connection)
    }

    /// Tries until `deadline`, with the pauses of the back-off.
    async fn patiently<T, E: Display, F>(&self, deadline: Instant, mut attempt: impl FnMut() -> F) -> StoreResult<T>
    where
        F: Future<Output = Result<T, E>>,
    {
        let mut failure = "not connected".to_owned();
        loop {
            let not_before = self.backoff.not_before();
            if not_before >= deadline {
                tokio::time::sleep_until(deadline).await;
                return Err(StoreError::Unavailable(failure));
            }
            tokio::time::sleep_until(not_before).await;
            match timeout_at(deadline, attempt()).await {
                Ok(Ok(connection)) => {
                    self.backoff.succeeded();
                    return Ok(connection);
                }
                Ok(Err(error)) => failure = error.to_string(),
                Err(_) => failure = "no connection in time".to_owned(),
            }
            self.backoff.failed();
        }
    }

    /// One round trip with all commands of `pipeline`; `Err` means that the connection is of no use any more. Scripts
    /// that Redis does not know are taught and asked again, in order, before anything later can be.
    pub(super) async fn exchange(
        &self,
        connection: &mut MultiplexedConnection,
        pipeline: &Pipeline,
    ) -> StoreResult<Vec<StoreResult<Value>>> {
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
        match timeout(self.timeout, round_trips).await {
            Ok(Ok(values)) if values.len() == pipeline.len() => Ok(values.into_iter().map(answer).collect()),
            Ok(Ok(_)) => Err(StoreError::Unavailable("answers are missing".to_owned())),
            Ok(Err(error)) => Err(lost(error)),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
        }
    }

    /// Many commands on a connection from the pool; each has its own result.
    pub(super) async fn bulk(&self, calls: Vec<Call>) -> StoreResult<Vec<StoreResult<Value>>> {
        let mut results = Vec::with_capacity(calls.len());
        if calls.is_empty() {
            return Ok(results);
        }
        let mut connection = self.borrow().await?;
        let mut pipeline = Pipeline::with_capacity(self.batch);
        let mut calls = calls.into_iter().peekable();
        while let Some(call) = calls.next() {
            pipeline.add_command(call.cmd);
            if pipeline.len() >= self.batch || calls.peek().is_none() {
                match self.exchange(&mut connection, &pipeline).await {
                    Ok(answers) => results.extend(answers),
                    Err(error) => {
                        discard(connection);
                        return Err(error);
                    }
                }
                pipeline.clear();
            }
        }
        Ok(results)
    }

    /// As [`Self::bulk`], for one command.
    pub(super) async fn single(&self, call: Call) -> StoreResult<Value> {
        let mut results = self.bulk(vec![call]).await?;
        results.pop().unwrap_or_else(|| Err(StoreError::Unavailable("answers are missing".to_owned())))
    }

    /// Looks at the version and teaches Redis all scripts, which also shows whether it accepts them.
    pub(super) async fn prepare(&self) -> StoreResult<()> {
        let mut connection = self.borrow().await?;
        let preparing = async {
            let server: String = redis::cmd("INFO").arg("server").query_async(&mut *connection).await?;
            teach(&mut connection).await?;
            RedisResult::Ok(server)
        };
        let prepared = match timeout(self.timeout, preparing).await {
            Ok(prepared) => prepared.map_err(lost),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
        };
        match prepared {
            Ok(server) => check_version(&server),
            Err(error) => {
                discard(connection);
                Err(error)
            }
        }
    }
}

/// A server that does not tell its version is believed to be new enough.
fn check_version(server: &str) -> StoreResult<()> {
    let version = server.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default().trim();
    match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major < OLDEST_REDIS => {
            Err(StoreError::Corrupt(format!("Redis {OLDEST_REDIS}.0 or later is needed, this one is {version}")))
        }
        _ => Ok(()),
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

fn answer(value: Value) -> StoreResult<Value> {
    match value {
        Value::ServerError(error) => Err(server_error(&error)),
        value => Ok(value),
    }
}

fn lost(error: redis::RedisError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// When the next attempt to connect may be made. One for all threads, so that a dead Redis is not hammered (STM-2).
struct Backoff {
    bounds: (Duration, Duration),
    state: Mutex<(u32, Instant)>,
}

impl Backoff {
    fn new(bounds: (Duration, Duration)) -> Self {
        Self { bounds, state: Mutex::new((0, Instant::now())) }
    }

    fn not_before(&self) -> Instant {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn succeeded(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = 0;
    }

    fn failed(&self) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Threads that failed together count once.
        if state.1 <= now {
            *state = (state.0.saturating_add(1), now + jittered(doubled(self.bounds, state.0)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_is_too_old_is_refused() {
        assert!(check_version("# Server\r\nredis_version:7.0.15\r\n").is_ok());
        assert!(check_version("# Server\r\nredis_version:10.2\r\n").is_ok());
        assert!(check_version("").is_ok());
        assert!(matches!(check_version("redis_version:6.2.14\r\n"), Err(StoreError::Corrupt(_))));
    }
}
