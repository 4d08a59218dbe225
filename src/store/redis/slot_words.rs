//! What nodes of a Redis Cluster say of it: who has which slots, and where a key is.

use redis::{ErrorKind, Pipeline, RedisError, RedisResult, Value};

use super::{keys::SLOTS, reply::told};

/// Host and port.
pub(super) type Address = (String, u16);

/// What one node says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) is_up: bool,
    pub(super) epoch: u64,
    /// First and last slot, and who has them.
    pub(super) ranges: Vec<(u16, u16, Address)>,
}

/// What a node is asked for [`told_by`].
pub(super) fn questions() -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    pipeline
}

/// The answers to the two questions. A node that does not know its own address means the one at which it was asked.
pub(super) fn told_by(answers: Vec<Value>, asked: &str) -> RedisResult<Told> {
    let unclear = || RedisError::from((ErrorKind::Client, "what a node says of its cluster is not understood"));
    let mut answers = answers.into_iter();
    let (info, slots) = (answers.next().ok_or_else(unclear)?, answers.next().ok_or_else(unclear)?);
    for answer in [&info, &slots] {
        if let Value::ServerError(error) = answer {
            return Err(error.clone().into());
        }
    }
    let info: String = redis::from_redis_value(info)?;
    let Value::Array(slots) = slots else { return Err(unclear()) };
    let ranges: Option<Vec<_>> = slots.into_iter().map(|range| range_of(range, asked)).collect();
    let ranges = ranges.filter(|ranges| !ranges.is_empty()).ok_or_else(unclear)?;
    let epoch = told(&info, "cluster_current_epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Ok(Told { is_up: told(&info, "cluster_state") == Some("ok"), epoch, ranges })
}

/// `first, last, [host, port, …], …replicas`
fn range_of(range: Value, asked: &str) -> Option<(u16, u16, Address)> {
    let Value::Array(parts) = range else { return None };
    let mut parts = parts.into_iter();
    let mut slot = || match parts.next()? {
        Value::Int(slot) => u16::try_from(slot).ok().filter(|slot| *slot < SLOTS),
        _ => None,
    };
    let (first, last) = (slot()?, slot()?);
    let Value::Array(primary) = parts.next()? else { return None };
    let mut primary = primary.into_iter();
    let host = match primary.next()? {
        Value::BulkString(host) => String::from_utf8(host).ok().filter(|host| !host.is_empty() && host != "?"),
        _ => None,
    };
    let Value::Int(port) = primary.next()? else { return None };
    (first <= last).then_some((first, last, (host.unwrap_or_else(|| asked.to_owned()), u16::try_from(port).ok()?)))
}

/// `slot host:port`, behind `MOVED` or `ASK`. Without a host it is the one that says so.
pub(super) fn redirection(details: &str, from: &str) -> Option<(u16, Address)> {
    let (slot, address) = details.split_once(' ')?;
    let (host, port) = address.rsplit_once(':')?;
    let host = if host.is_empty() || host == "?" { from } else { host };
    Some((slot.parse().ok()?, (host.to_owned(), port.trim().parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        Value::Array(vec![
            Value::Int(first),
            Value::Int(last),
            Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(vec![])]),
        ])
    }

    #[test]
    fn what_a_node_says_has_a_primary_for_each_range() {
        let info = text("cluster_state:ok\r\ncluster_current_epoch:7\r\n");
        let slots = vec![range(0, 8191, text("10.0.0.2"), 6379), range(8192, 16383, text(""), 6380)];
        let told = told_by(vec![info.clone(), Value::Array(slots)], "asked").unwrap();
        assert_eq!((told.is_up, told.epoch), (true, 7));
        assert_eq!(told.ranges[0], (0, 8191, ("10.0.0.2".to_owned(), 6379)));
        assert_eq!(told.ranges[1], (8192, 16383, ("asked".to_owned(), 6380)), "it does not know its address");
        for wrong in [range(0, 16384, text("h"), 1), range(2, 1, text("h"), 1), range(0, 1, text("h"), 70_000)] {
            assert!(told_by(vec![info.clone(), Value::Array(vec![wrong])], "asked").is_err());
        }
        assert!(told_by(vec![info, Value::Array(vec![])], "asked").is_err(), "nobody has any");
    }

    #[test]
    fn a_redirection_names_slot_and_node() {
        let there = |host: &str, port| Some((3999, (host.to_owned(), port)));
        assert_eq!(redirection("3999 127.0.0.1:6381", "me"), there("127.0.0.1", 6381));
        assert_eq!(redirection("3999 ::1:6381", "me"), there("::1", 6381));
        assert_eq!(redirection("3999 :6381", "me"), there("me", 6381));
        assert_eq!(redirection("3999", "me"), None);
        assert_eq!(redirection("x 127.0.0.1:6381", "me"), None);
    }
}
