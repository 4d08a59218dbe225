//! Judges what clients have seen: nothing missing, nothing twice, everything in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

pub use testkit::mcp_client::Numbered;
use testkit::mcp_client::{McpClient, Record, Transport};

use super::RedisClient;

/// See module documentation.
pub struct Oracle;

impl Oracle {
    /// Over all connections together the client has seen each event of its one stream exactly once and in order, from
    /// the first. Returns how many.
    ///
    /// Over Streamable HTTP the events of all its streams have the numbers of one log, and answers that came as JSON have none:
    /// no number came twice, and each stream's rise.
    pub fn exactly_once(client: &McpClient) -> u64 {
        if client.transport() == Transport::Streamable {
            return Self::once_on_one_stream(client);
        }
        let mut expected = 1;
        for record in client.messages().iter().filter(|record| record.id.is_some()) {
            let at = place(record);
            assert_eq!(at.seq, expected, "connection {}: expected event {expected}, got {}", record.connection, at.seq);
            assert_eq!((at.session.as_str(), at.stream.as_str()), (client.session().as_str(), "g"));
            expected += 1;
        }
        Self::one_life(client);
        expected - 1
    }

    fn once_on_one_stream(client: &McpClient) -> u64 {
        let (mut streams, mut seen) = (BTreeMap::new(), BTreeMap::new());
        for record in client.messages().iter().filter(|record| record.id.is_some()) {
            let Numbered { session, stream, seq, .. } = place(record);
            assert_eq!(session, client.session());
            let before = seen.insert(seq, record.data.clone());
            assert!(before.is_none(), "event {seq} came twice: {before:?}, {}", record.data);
            let last = streams.insert(stream.clone(), seq).unwrap_or(0);
            assert!(last < seq, "on stream {stream} event {seq} came after {last}");
        }
        Self::one_life(client);
        client.messages().len() as u64
    }

    /// For clients that come back without a cursor: each event at least once, first times in order, and a repeated one
    /// is the same event. Returns how many distinct ones.
    pub fn at_least_once(client: &McpClient) -> u64 {
        let mut seen: BTreeMap<u64, String> = BTreeMap::new();
        for record in client.messages().iter().filter(|record| record.id.is_some()) {
            let at = place(record);
            let next = seen.last_key_value().map_or(0, |(last, _)| *last) + 1;
            assert!(at.seq <= next, "connection {}: event {next} is missing before {}", record.connection, at.seq);
            let before = seen.insert(at.seq, record.data.clone());
            assert!(before.is_none_or(|before| before == record.data), "event {} has changed", at.seq);
        }
        Self::one_life(client);
        seen.len() as u64
    }

    /// Every id that the client was given is of one session in one life.
    fn one_life(client: &McpClient) {
        let epochs: std::collections::BTreeSet<String> = client
            .records()
            .iter()
            .filter_map(|record| record.id.as_deref())
            .map(|id| Numbered::parse(id).epoch)
            .collect();
        assert!(epochs.len() <= 1, "several lives of one session: {epochs:?}");
    }

    /// Each accepted request has exactly one answer (an event sent again with its id counts once), and there is no
    /// answer to anything else.
    pub fn every_request_answered_once(client: &McpClient) {
        let mut answers: HashMap<String, BTreeMap<String, Value>> = HashMap::new();
        for (number, record) in client.messages().iter().enumerate() {
            let message: Value = serde_json::from_str(&record.data).expect("a message is JSON");
            if message.get("id").is_some() && message.get("method").is_none() {
                let event = record.id.clone().unwrap_or_else(|| format!("unnumbered {number}"));
                answers.entry(message["id"].to_string()).or_default().insert(event, message);
            }
        }
        let accepted = client.accepted_requests();
        for id in &accepted {
            let count = answers.get(id).map_or(0, BTreeMap::len);
            assert_eq!(count, 1, "request {id} has {count} answers: {:?}", answers.get(id));
        }
        for id in answers.keys() {
            assert!(accepted.contains(id), "an answer to {id}, which was never accepted");
        }
    }

    /// The store's log and the client agree: the same events with the same bodies (what the log has trimmed aside).
    pub async fn agrees_with_log(client: &McpClient, redis: &RedisClient) {
        let log = redis.log(&client.session()).await;
        let messages = client.messages();
        let seen: BTreeMap<u64, &str> = messages
            .iter()
            .filter(|record| record.id.is_some())
            .map(|record| (place(record).seq, record.data.as_str()))
            .collect();
        let bodies: BTreeSet<&str> = messages.iter().map(|record| record.data.as_str()).collect();
        for entry in &log {
            // Answers as JSON have no number, and one that has moved to the main stream stands in the log twice.
            if client.transport() == Transport::Streamable && !seen.contains_key(&entry.seq) {
                assert!(
                    bodies.contains(entry.body.as_str()),
                    "event {} of the log did not come: {}",
                    entry.seq,
                    entry.body
                );
                continue;
            }
            assert_eq!(seen.get(&entry.seq).copied(), Some(entry.body.as_str()), "event {} of the log", entry.seq);
        }
        let newest = log.last().map_or(0, |entry| entry.seq);
        let unknown: Vec<u64> = seen.keys().copied().filter(|seq| *seq > newest).collect();
        assert!(unknown.is_empty(), "events that the log does not have: {unknown:?}");
    }

    /// Each of `keys` was counted exactly once, and nothing else was.
    pub fn counted_once<'a>(counts: &BTreeMap<String, u64>, keys: impl IntoIterator<Item = &'a str>) {
        let expected: BTreeMap<String, u64> = keys.into_iter().map(|key| (key.to_owned(), 1)).collect();
        assert_eq!(*counts, expected);
    }
}

fn place(record: &Record) -> Numbered {
    Numbered::parse(record.id.as_deref().expect("a numbered event"))
}
