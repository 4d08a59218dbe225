//! The Lua scripts: one a job, each atomic, every key it touches declared.
//!
//! A [`Call`] is one command on its way to Redis; for a script it knows which, so that a Redis that has forgotten the
//! scripts (restart, `SCRIPT FLUSH`, failover) can be taught again.

use std::{borrow::Cow, fmt, io::Write, sync::LazyLock};

use bytes::Bytes;
use redis::{Arg, Cmd, RedisWrite, ToRedisArgs};

use super::keys::slot_of;
use crate::{
    fault,
    metrics::Operation,
    store::{Binding, Fence},
};

macro_rules! scripts {
    ($($name:ident = [$($file:literal),+];)+) => {
        /// One script.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Script { $($name),+ }

        const ALL: &[Script] = &[$(Script::$name),+];

        /// Source of each script, in the order of [`Script`].
        const SOURCES: &[&str] = &[$(concat!($(include_str!(concat!("../lua/", $file, ".lua"))),+)),+];
    };
}

scripts! {
    Create = ["create"];
    Accept = ["fence", "stranger", "inbox", "ack", "held", "hot", "accept"];
    AcceptHot = ["accept_hot"];
    Claim = ["fence", "inbox", "ack", "hot", "claim"];
    MarkForwarded = ["fence", "inbox", "mark_forwarded"];
    Append = ["fence", "inbox", "ack", "hot", "append"];
    AppendHot = ["append_hot"];
    Pending = ["inbox", "pending"];
    ForgetRequests = ["fence", "hot", "forget_requests"];
    ForgetPost = ["forget_post"];
    Disown = ["hot", "disown"];
    Hint = ["hint"];
    Update = ["fence", "update"];
    ReadPage = ["hot", "read_page"];
    Attach = ["stranger", "attach"];
    Detach = ["hot", "detach"];
    ClientNote = ["client_note"];
    ClientSessions = ["client_sessions"];
    Renew = ["hot", "renew"];
    Rewrite = ["inbox", "hot", "rewrite"];
    Adopt = ["inbox", "hot", "adopt"];
    Release = ["fence", "hot", "release"];
    Touch = ["touch"];
    Purge = ["stranger", "purge"];
    Subject = ["stranger", "subject"];
    Rate = ["rate"];
    Enter = ["enter"];
    KeepCalls = ["keep_calls"];
    Call = ["call"];
    LeaseAcquire = ["lease_acquire"];
    LeaseRenew = ["lease_renew"];
    LeaseRelease = ["lease_release"];
    ForgetInstance = ["forget_instance"];
}

static HASHES: LazyLock<Vec<String>> =
    LazyLock::new(|| SOURCES.iter().map(|source| redis::Script::new(&guarded(source)).get_hash().to_owned()).collect());

/// How the protections begin that a test can switch off.
const FENCE_HEAD: &str = "function fenced(h)";
const STRANGER_HEAD: &str = "function stranger(principal, scopes, asks, with)";

/// The source as it is taught; only in a test's negative control the fence lets everybody pass, or nobody is a stranger.
fn guarded(source: &'static str) -> Cow<'static, str> {
    let passes = |head: &str| source.replace(head, &format!("{head} if true then return false end"));
    if fault::unprotected(fault::FENCE) && source.contains(FENCE_HEAD) {
        return passes(FENCE_HEAD).into();
    }
    if fault::unprotected(fault::BINDING) && source.contains(STRANGER_HEAD) {
        return passes(STRANGER_HEAD).into();
    }
    source.into()
}

/// All scripts.
pub(super) fn all() -> impl Iterator<Item = Script> {
    ALL.iter().copied()
}

#[cfg(test)]
pub(super) fn sources() -> &'static [&'static str] {
    SOURCES
}

/// Commands that teach Redis every script.
pub(super) fn load_all() -> redis::Pipeline {
    let mut pipeline = redis::Pipeline::with_capacity(SOURCES.len());
    for source in SOURCES {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(&*guarded(source));
    }
    pipeline
}

fn operation(script: Script) -> Operation {
    match script {
        Script::Accept | Script::AcceptHot => Operation::Accept,
        Script::Claim => Operation::Claim,
        Script::Append | Script::AppendHot => Operation::Append,
        Script::ReadPage => Operation::ReadPage,
        Script::Attach => Operation::Attach,
        Script::Adopt => Operation::Adopt,
        Script::LeaseAcquire | Script::LeaseRenew | Script::LeaseRelease => Operation::Lease,
        _ => Operation::Other,
    }
}

/// What clients are told of (`create`, `accept`, `append`), what is done once (`claim`, `mark_forwarded`, `disown`, `call`), and
/// who does it (`adopt`, `renew`, `rewrite`). Not: what is a hint, said again or noticed when it is missing (streams and who
/// shows them, indexes, leases, rates).
fn wants_copies(script: Script) -> bool {
    matches!(
        script,
        Script::Create
            | Script::Accept
            | Script::AcceptHot
            | Script::Append
            | Script::AppendHot
            | Script::Claim
            | Script::MarkForwarded
            | Script::Disown
            | Script::Call
            | Script::Adopt
            | Script::Renew
            | Script::Rewrite
    )
}

/// One command on its way to Redis.
pub(super) struct Call {
    pub(super) cmd: Cmd,
    /// Bytes of its bodies, by which pipelines are bounded.
    pub(super) weight: usize,
    /// As what it is counted.
    pub(super) operation: Operation,
    /// Of another key than its own; see [`Call::slot`].
    beside: Option<u16>,
    /// Somebody is told of it, or does what must not be done twice, as soon as it is answered.
    pub(super) wants_copies: bool,
}

impl Call {
    /// Slot of the first key, with which all its others are. `None`: it has none, and any node can do it.
    pub(super) fn slot(&self) -> Option<u16> {
        let mut words = self.cmd.args_iter().filter_map(|word| match word {
            Arg::Simple(word) => Some(word),
            _ => None,
        });
        let key = match words.next()? {
            b"EVALSHA" => words.nth(2),
            b"PING" | b"TIME" | b"SCAN" => None,
            _ => words.next(),
        };
        self.beside.or_else(|| key.map(slot_of))
    }

    /// Its first key.
    pub(super) fn key(&self) -> Option<&[u8]> {
        match self.cmd.args_iter().nth(3) {
            Some(Arg::Simple(key)) => Some(key),
            _ => None,
        }
    }

    /// The same, with its command again.
    pub(super) fn with(self, cmd: Cmd) -> Self {
        Self { cmd, ..self }
    }

    /// It goes to the node that has this key, which it does not name.
    pub(super) fn beside(mut self, key: &str) -> Self {
        self.beside = Some(slot_of(key.as_bytes()));
        self
    }

    /// A plain command.
    pub(super) fn command(name: &str) -> Self {
        Self::new(name, 4, 128)
    }

    /// A script with `keys` keys; they are the next arguments.
    pub(super) fn script(script: Script, keys: usize) -> Self {
        Self::script_with_body(script, keys, 0)
    }

    /// A script whose arguments hold about `body` bytes besides the usual short ones.
    pub(super) fn script_with_body(script: Script, keys: usize, body: usize) -> Self {
        // 24 arguments and 640 bytes hold what `accept` and `append` need without growing.
        let (operation, wants_copies) = (operation(script), wants_copies(script));
        let call = Self { operation, wants_copies, ..Self::new("EVALSHA", 24, 640 + body) };
        call.arg(HASHES[script as usize].as_str()).number(keys as u64)
    }

    fn new(name: &str, args: usize, bytes: usize) -> Self {
        let mut cmd = Cmd::with_capacity(args, bytes);
        cmd.write_arg(name.as_bytes());
        Self { cmd, weight: 0, operation: Operation::Other, beside: None, wants_copies: false }
    }

    pub(super) fn arg(mut self, text: &str) -> Self {
        self.cmd.write_arg(text.as_bytes());
        self
    }

    pub(super) fn number(mut self, number: u64) -> Self {
        number.write_redis_args(&mut self.cmd);
        self
    }

    /// One argument made of these.
    pub(super) fn joined(mut self, head: &str, body: &Bytes) -> Self {
        self.weight += body.len();
        {
            let mut arg = self.cmd.writer_for_next_arg();
            // Into memory, which does not fail.
            let _ = arg.write_all(head.as_bytes()).and_then(|()| arg.write_all(body));
        }
        self
    }

    /// As its text.
    pub(super) fn show(mut self, value: &impl fmt::Display) -> Self {
        {
            let mut arg = self.cmd.writer_for_next_arg();
            // Into memory, which does not fail.
            let _ = write!(arg, "{value}");
        }
        self
    }

    pub(super) fn body(mut self, body: &Bytes) -> Self {
        self.weight += body.len();
        self.cmd.write_arg(body);
        self
    }

    /// ARGV 1 to 3 of an owner script.
    pub(super) fn fence(self, fence: &Fence) -> Self {
        self.arg(&fence.incarnation).number(fence.generation).number(u64::from(fence.epoch))
    }

    /// Who asks; `None`: the router itself. SEC-1
    pub(super) fn asked_by(self, asks: Option<&Binding>) -> Self {
        match asks {
            Some(asks) => self.arg(asks.principal()).arg(asks.scopes()),
            None => self.arg("*").arg(""),
        }
    }

    pub(super) fn pairs<F: AsRef<str>, V: AsRef<str>>(mut self, pairs: &[(F, V)]) -> Self {
        for (field, value) in pairs {
            self = self.arg(field.as_ref()).arg(value.as_ref());
        }
        self
    }

    pub(super) fn args<T: AsRef<str>>(mut self, texts: &[T]) -> Self {
        for text in texts {
            self = self.arg(text.as_ref());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_has_its_own_hash() {
        let mut hashes = HASHES.clone();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), SOURCES.len());
        assert_eq!(SOURCES.len(), Script::ForgetInstance as usize + 1);
    }

    #[test]
    fn the_protections_begin_where_a_test_switches_them_off() {
        assert!(SOURCES[Script::Claim as usize].contains(FENCE_HEAD));
        for script in [Script::Accept, Script::Attach, Script::Purge, Script::Subject] {
            assert!(SOURCES[script as usize].contains(STRANGER_HEAD), "{script:?}");
        }
    }
}
