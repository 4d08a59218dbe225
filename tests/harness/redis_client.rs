//! What a person would do with `redis-cli`: look at a session's keys, and damage them.

use std::{collections::HashMap, time::Duration};

use redis::{FromRedisValue, aio::MultiplexedConnection};

use super::RedisServer;

/// Key prefix of the tests' routers: the default.
pub const PREFIX: &str = "mcp";

/// An entry of a session's event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its sequence.
    pub seq: u64,
    /// Its JSON-RPC message.
    pub body: String,
}

/// See module documentation.
#[derive(Clone)]
pub struct RedisClient {
    connection: MultiplexedConnection,
}

impl RedisClient {
    /// Connects to the server itself, past any proxy.
    pub async fn connect(server: &RedisServer) -> Self {
        let client = redis::Client::open(server.url()).expect("the URL of a test's Redis");
        // As long as a test waits for anything: the crate's own half a second is little on a busy machine.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        Self { connection: connection.expect("a connection to the test's Redis") }
    }

    /// Runs one command, given as its words.
    pub async fn run<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        let answer = command.query_async(&mut self.connection.clone()).await;
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The session's hash.
    pub fn session_key(session: &str) -> String {
        format!("{PREFIX}:sessions:{session}")
    }

    /// The session's event log.
    pub fn log_key(session: &str) -> String {
        format!("{{{PREFIX}:sessions:{session}}}:log:g")
    }

    /// The session's inbox.
    pub fn inbox_key(session: &str) -> String {
        format!("{{{PREFIX}:sessions:{session}}}:inbox")
    }

    /// The session's request table.
    pub fn requests_key(session: &str) -> String {
        format!("{{{PREFIX}:sessions:{session}}}:req")
    }

    /// One field of the session.
    pub async fn field(&self, session: &str, field: &str) -> Option<String> {
        self.fields(session).await.remove(field)
    }

    /// All fields of the session.
    pub async fn fields(&self, session: &str) -> HashMap<String, String> {
        let mut fields: HashMap<String, String> = self.run(&["HGETALL", &Self::session_key(session)]).await;
        if let Some(hot) = fields.remove("hot") {
            fields.extend(melted(&hot));
        }
        fields
    }

    /// Writes the fields that stand in `hot` for themselves, for a test that changes them.
    pub async fn thaw(&self, session: &str) {
        let key = Self::session_key(session);
        let Some(hot) = self.run::<Option<String>>(&["HGET", &key, "hot"]).await else { return };
        for (field, value) in melted(&hot) {
            self.run::<()>(&["HSET", &key, &field, &value]).await;
        }
        self.run::<()>(&["HDEL", &key, "hot"]).await;
    }

    /// The session's event log as it stands.
    pub async fn log(&self, session: &str) -> Vec<LogEntry> {
        let rows: Vec<String> = self.run(&["LRANGE", &Self::log_key(session), "0", "-1"]).await;
        rows.into_iter()
            .map(|entry| {
                let seq =
                    entry.split(' ').next().and_then(|seq| seq.parse().ok()).expect("entries begin with their number");
                let body = entry.splitn(4, ' ').nth(3).expect("a body stands behind stream and time").to_owned();
                LogEntry { seq, body }
            })
            .collect()
    }

    /// Requests without an answer: id (JSON text), place in the inbox's order, and whether it is marked forwarded.
    pub async fn pending(&self, session: &str) -> Vec<(String, u64, bool)> {
        let rows: Vec<(String, String)> = self.run(&["HGETALL", &Self::requests_key(session)]).await;
        rows.into_iter()
            // A field that only keeps the table alive.
            .filter(|(id, _)| !id.is_empty())
            .map(|(id, state)| {
                let mut words = state.split(' ');
                let seq = words.next().and_then(|seq| seq.parse().ok()).expect("a pending request has a sequence");
                (id, seq, words.next() == Some("1"))
            })
            .collect()
    }

    /// All keys. For a test's own small server; the program itself never does this.
    pub async fn keys(&self) -> Vec<String> {
        self.run(&["KEYS", "*"]).await
    }
}

/// What stands in the field `hot` of a session (docs/redis-model.md), but for the last append.
fn melted(hot: &str) -> Vec<(String, String)> {
    let numbers: Vec<&str> = hot.split(' ').collect();
    let names = [
        ("in_seq", 2),
        ("in_claimed", 2),
        ("held", 3),
        ("s:g:seq", 5),
        ("s:g:first", 6),
        ("s:g:bytes", 7),
        ("s:g:gone", 8),
        ("op", 9),
    ];
    names.map(|(name, at)| (name.to_owned(), numbers[at].to_owned())).to_vec()
}
