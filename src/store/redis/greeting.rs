//! Whether a Redis can be used: asked of each node at the start.

use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    link::{Link, teach},
    place::Place,
    refusal::{connecting, server_error},
    reply::told,
    topology::CHECK_TIMEOUT,
};
use crate::store::{StoreError, StoreResult};

/// What the scripts need: `PEXPIRE … NX`, and `TIME` before a write.
const OLDEST_REDIS: u32 = 7;

impl Link {
    /// Finds the nodes, and looks at each.
    ///
    /// # Errors
    /// `Unusable` when trying again does not help.
    pub(super) async fn prepare(&self) -> StoreResult<()> {
        let late = |_| StoreError::Unavailable("no answer in time".to_owned());
        let finding = timeout(self.timeout, self.topology.find()).await.map_err(late)?;
        finding.map_err(|error| connecting(&error))?;
        let (places, mut failure) = (self.topology.places(), None);
        let (mut good, all) = (0, places.len());
        for place in places {
            match self.prepare_one(place).await {
                Ok(()) => good += 1,
                Err(error @ StoreError::Unusable(_)) => return Err(error),
                Err(error) => {
                    if all > 1 {
                        tracing::warn!(%error, "a node of the Redis Cluster is away");
                    }
                    failure = Some(error);
                }
            }
        }
        // What is on a node that is away waits for its successor.
        failure.filter(|_| good == 0).map_or(Ok(()), Err)
    }

    /// Whether this Redis can be used: that it is one, of which version and kind, that it lets the user in, and knows the
    /// scripts.
    ///
    /// # Errors
    /// `Unusable` when trying again does not help.
    async fn prepare_one(&self, place: Place) -> StoreResult<()> {
        let deadline = Instant::now() + self.timeout;
        let late = || StoreError::Unavailable("no answer in time".to_owned());
        let dialled = timeout_at(deadline, self.topology.dial(place)).await.map_err(|_| late())?;
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
        let replicas = told(&server, "connected_slaves").and_then(|count| count.parse::<usize>().ok());
        if let Some(replicas) = replicas.filter(|replicas| *replicas < self.copies) {
            tracing::warn!(
                replicas,
                "a primary has fewer replicas than REDIS_COPIES asks for: nothing is acknowledged until it has"
            );
        }
        let taught = timeout_at(deadline, teach(&mut connection)).await.map_err(|_| late())?;
        taught.map_err(|error| scripts_refused(&error))
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
