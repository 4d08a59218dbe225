//! At the start every right that the router needs is tried once, so that a user who lacks one is told at once which, and not
//! by the first client that needs it. Least rights: docs/operations.md.
//!
//! What is tried leaves nothing behind: keys of a session that there cannot be (its id is no id), deleted again in the same
//! pipeline; on keys that all instances share only what changes nothing.

use std::collections::BTreeSet;

use redis::{Pipeline, Value};

use super::{
    keys::Keys,
    link::Link,
    place::Place,
    refusal::{denied_command, is_denied, server_error},
    scripts::{self, Call},
};
use crate::store::{StoreError, StoreResult};

/// Commands, and the key of each: `P` a plain key of a session, `Q` its request table, `I` its inbox, `R` its record of
/// POSTs, `L` the lease of an instance, `X` an index of sessions; `n` and `d` are the list of
/// instances and the id of the data, which are everybody's; `c` is a channel. A key of each kind is deleted before its
/// next use and at the end.
const TRIALS: &[&str] = &[
    "PING",
    "TIME",
    "UNWATCH",
    "SCAN 0 COUNT 1",
    "EVALSHA 0000000000000000000000000000000000000000 0",
    "EXISTS P",
    "HSET P f v",
    "HMGET P f",
    "HGET P f",
    "HGETALL P",
    "HKEYS P",
    "HDEL P g",
    "PEXPIRE P 1000",
    "DEL P",
    "SETNX P v",
    "UNLINK P",
    "HSETNX Q f v",
    "HSET Q f v",
    "HGET Q f",
    "HLEN Q",
    "HSTRLEN Q f",
    "HKEYS Q",
    "HGETALL Q",
    "HDEL Q g",
    "PEXPIRE Q 1000",
    "UNLINK Q",
    "HSET I 1 v",
    "HGET I 1",
    "HMGET I 1",
    "HLEN I",
    "HKEYS I",
    "HSTRLEN I 1",
    "HDEL I 1",
    "PEXPIRE I 1000",
    "UNLINK I",
    "RPUSH E v",
    "LLEN E",
    "LINDEX E 0",
    "LRANGE E 0 -1",
    "LTRIM E 0 -1",
    "PEXPIRE E 1000",
    "UNLINK E",
    "ZADD R NX 1 m",
    "ZSCORE R m",
    "ZCARD R",
    "ZREM R m",
    "ZRANGEBYLEX R - +",
    "ZREVRANGEBYSCORE R +inf -inf",
    "ZREMRANGEBYSCORE R -inf 0",
    "PEXPIRE R 1000",
    "UNLINK R",
    "HSET L f v",
    "PEXPIRE L 1000",
    "PTTL L",
    "DEL L",
    "SADD X m",
    "SMEMBERS X",
    "SREM X m",
    "PEXPIRE X 1000",
    "UNLINK X",
    "SREM n -",
    "SMEMBERS n",
    "GET d",
    "PUBLISH c -",
];

/// Where replicas must have what is acknowledged.
const COPIES_TRIALS: &[&str] = &["SET P v PX 1", "UNLINK P", "WAIT 0 1"];

/// In a Redis Cluster.
const CLUSTER_TRIALS: &[&str] = &["CLUSTER INFO", "CLUSTER SLOTS", "ASKING"];

/// The id of a session that cannot be one.
const NOBODY: &str = "probe-of-rights";

/// Arguments of a script that is run for its right only: as many as any script looks at before it finds that there is no
/// such session. `0` is also a life of no milliseconds, for what it would write all the same.
const ARGUMENTS: usize = 24;

/// Tries all rights.
///
/// # Errors
/// `Unusable` with every right that is missing, by the name that ACL SETUSER has for it.
pub(super) async fn check(link: &Link, keys: &Keys) -> StoreResult<()> {
    let places = link.topology.places();
    let (all, mut away) = (places.len(), Vec::new());
    for place in places {
        match check_one(link, keys, place).await {
            Err(error @ StoreError::Unusable(_)) => return Err(error),
            Err(error) => away.push(error),
            Ok(()) => {}
        }
    }
    // What is on a node that is away waits for its successor, which has the users of its own file.
    if away.len() == all { away.pop().map_or(Ok(()), Err) } else { Ok(()) }
}

/// Of one node: those of a cluster have users of their own. A right is looked at before the key is: also where a node does not
/// have a key (`MOVED`) it says that the right is missing.
async fn check_one(link: &Link, keys: &Keys, place: Place) -> StoreResult<()> {
    let mut missing = BTreeSet::new();
    let is_cluster = link.topology.is_cluster();
    let of_copies = COPIES_TRIALS.iter().filter(|_| link.copies > 0);
    let tried: Vec<&str> =
        TRIALS.iter().chain(of_copies).chain(CLUSTER_TRIALS.iter().filter(|_| is_cluster)).copied().collect();
    let trials: Vec<Vec<String>> = tried.iter().map(|trial| words(trial, keys)).collect();
    let mut pipeline = Pipeline::with_capacity(trials.len());
    for trial in &trials {
        let command = pipeline.cmd(&trial[0]);
        for word in &trial[1..] {
            command.arg(word);
        }
    }
    for (answer, trial) in link.ask(place, &pipeline).await?.into_iter().zip(tried) {
        if !(is_cluster && is_elsewhere(&answer)) {
            judge(answer, trial, keys, &mut missing)?;
        }
    }
    if let Err(error) = link.try_channel(place, &channel(keys)).await {
        missing.insert(missing_right(&error, "SUBSCRIBE c", keys).ok_or(error)?);
    }
    if !missing.is_empty() {
        return Err(lacking(&missing));
    }
    let calls = scripts::all().map(|script| {
        let call = Call::script(script, 4);
        let call = ["P", "I", "Q", "R"].iter().fold(call, |call, key| call.arg(&word(key, keys)));
        (0..ARGUMENTS).fold(call, |call, _| call.arg("0"))
    });
    let mut pipeline = Pipeline::new();
    for call in calls {
        pipeline.add_command(call.cmd);
    }
    for (answer, script) in link.ask(place, &pipeline).await?.into_iter().zip(scripts::all()) {
        let Value::ServerError(error) = answer else { continue };
        match server_error(&error) {
            StoreError::Corrupt(text) => {
                return Err(StoreError::Unusable(format!("it cannot run the script {script:?} ({text})")));
            }
            _ if is_denied(&error) => {
                return Err(StoreError::Unusable(format!(
                    "NOPERM: the user of REDIS_URL may not do what {script:?} does"
                )));
            }
            // Full, a replica, starting: what needs it waits.
            _ => {}
        }
    }
    Ok(())
}

/// The node does not have the key.
fn is_elsewhere(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if matches!(error.code(), "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN"))
}

fn judge(answer: Value, trial: &str, keys: &Keys, missing: &mut BTreeSet<String>) -> StoreResult<()> {
    let Value::ServerError(error) = answer else { return Ok(()) };
    if is_denied(&error) {
        let text = StoreError::Unusable(error.details().unwrap_or_default().to_owned());
        missing.extend(missing_right(&text, trial, keys));
        return Ok(());
    }
    match error.code() {
        "MOVED" | "ASK" | "CROSSSLOT" => Err(StoreError::Unusable(server_error(&error).reason())),
        "ERR" if error.details().is_some_and(|text| text.starts_with("unknown command")) => {
            Err(StoreError::Unusable(server_error(&error).reason()))
        }
        // Full, a replica, starting: this is about rights, and those are looked at first.
        _ => Ok(()),
    }
}

/// As ACL SETUSER names it.
fn missing_right(error: &StoreError, trial: &str, keys: &Keys) -> Option<String> {
    let text = error.reason();
    let mut parts = trial.split(' ');
    let command = parts.next().unwrap_or_default();
    if let Some(command) = denied_command(&text) {
        return Some(format!("+{command}"));
    }
    if text.contains("channel") {
        return Some(format!("&{}*", keys.wake_prefix()));
    }
    if text.contains("key") {
        let key = word(parts.next().unwrap_or_default(), keys);
        let brace = if key.starts_with('{') { "{" } else { "" };
        return Some(format!("~{brace}{}:*", keys.prefix()));
    }
    text.contains("NOPERM").then(|| format!("+{}", command.to_ascii_lowercase()))
}

fn lacking(missing: &BTreeSet<String>) -> StoreError {
    let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
    StoreError::Unusable(format!(
        "NOPERM: the user of REDIS_URL lacks {} (ACL SETUSER); docs/operations.md has the least ACL",
        missing.join(" ")
    ))
}

fn channel(keys: &Keys) -> String {
    format!("{}{NOBODY}", keys.wake_prefix())
}

fn words(trial: &str, keys: &Keys) -> Vec<String> {
    trial.split(' ').enumerate().map(|(at, text)| if at == 1 { word(text, keys) } else { text.to_owned() }).collect()
}

/// The key that a letter stands for; anything else is itself.
fn word(text: &str, keys: &Keys) -> String {
    let prefix = keys.prefix();
    match text {
        "P" => format!("{prefix}:sessions:{NOBODY}"),
        "Q" => format!("{{{prefix}:sessions:{NOBODY}}}:req"),
        "I" => format!("{{{prefix}:sessions:{NOBODY}}}:inbox"),
        "E" => format!("{{{prefix}:sessions:{NOBODY}}}:log:g"),
        "R" => format!("{{{prefix}:sessions:{NOBODY}}}:rid"),
        "L" => keys.lease(NOBODY),
        "X" => keys.index(NOBODY),
        "n" => keys.instances(),
        "d" => keys.dataset(),
        "c" => channel(keys),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that stands in quotes after this.
    fn quoted<'a>(text: &'a str, after: &str, quote: char) -> BTreeSet<&'a str> {
        text.split(after).skip(1).filter_map(|rest| rest.split(quote).next()).collect()
    }

    #[test]
    fn every_command_of_the_router_is_tried() {
        let tried: BTreeSet<&str> = TRIALS.iter().filter_map(|trial| trial.split(' ').next()).collect();
        for source in scripts::sources() {
            for command in quoted(source, "call('", '\'') {
                assert!(tried.contains(command), "{command}");
            }
        }
        for source in [include_str!("sessions.rs"), include_str!("instances.rs"), include_str!("mod.rs")] {
            for command in quoted(source, "Call::command(\"", '"') {
                assert!(tried.contains(command), "{command}");
            }
        }
    }

    #[test]
    fn a_right_has_the_name_that_acl_setuser_knows() {
        let keys = Keys::new("mcp");
        let right = |text: &str, trial: &str| missing_right(&StoreError::Unusable(text.to_owned()), trial, &keys);
        for (text, trial, expected) in [
            ("this user has no permissions to run the 'script|load' command", "SCRIPT", Some("+script|load")),
            ("User x has no permissions to run the 'time' command", "TIME", Some("+time")),
            ("this user has no permissions to access one of the keys used as arguments", "HGET P f", Some("~mcp:*")),
            ("No permissions to access a key", "HGET Q f", Some("~{mcp:*")),
            ("No permissions to access a channel", "PUBLISH c -", Some("&mcp:wake:*")),
            ("no answer in time", "PING", None),
        ] {
            assert_eq!(right(text, trial).as_deref(), expected, "{text}");
        }
    }
}
