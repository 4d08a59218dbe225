//! Names of keys and channels.
//!
//! All keys of one session share a slot of a Redis Cluster: the plain key is hashed whole, the others by what stands
//! in their braces, and that is the plain key.

use crate::protocol::session_id::SessionId;

/// The slot of a key in a Redis Cluster: CRC-16/XMODEM of what stands in its first braces, if anything does, else of the
/// whole, modulo 16384 (Redis Cluster specification, "Key distribution model").
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').map(|at| &key[at + 1..]);
    let tag = tag.and_then(|rest| rest.iter().position(|byte| *byte == b'}').map(|end| &rest[..end]));
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    hashed.iter().fold(0, |crc: u16, byte| (crc << 8) ^ CRC[usize::from((crc >> 8) as u8 ^ byte)]) % SLOTS
}

/// Slots of any Redis Cluster.
pub(super) const SLOTS: u16 = 16384;

/// Of CRC-16/XMODEM (polynomial 0x1021, no reflection, begins with 0).
const CRC: [u16; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let (mut crc, mut bit) = ((at as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

/// Makes the names for one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// The names that belong to one session. Writes into one buffer, since every operation needs several names for the
/// time of a copy only.
pub(super) struct SessionKeys {
    buffer: String,
    /// Length of `{<plain key>}:`.
    stem: usize,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn session(&self, session: &SessionId) -> SessionKeys {
        let mut buffer = String::with_capacity(self.prefix.len() + 64);
        buffer.push('{');
        buffer.push_str(&self.prefix);
        buffer.push_str(":sessions:");
        buffer.extend(session.reveal_bytes().iter().map(|digit| char::from(*digit)));
        buffer.push_str("}:");
        SessionKeys { stem: buffer.len(), buffer }
    }

    /// Pattern for `SCAN` that the plain session keys match and no other key does.
    pub(super) fn session_pattern(&self, digits: &str) -> String {
        let mut pattern = String::new();
        for c in self.prefix.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern + ":sessions:" + digits + "*"
    }

    /// The session whose plain key this is.
    pub(super) fn session_of(&self, key: &str) -> Option<SessionId> {
        key.strip_prefix(self.prefix.as_str())?.strip_prefix(":sessions:")?.parse().ok()
    }

    pub(super) fn lease(&self, instance_id: &str) -> String {
        format!("{}:instance:{instance_id}", self.prefix)
    }

    pub(super) fn index(&self, instance_id: &str) -> String {
        format!("{{{}:instance:{instance_id}}}:sessions", self.prefix)
    }

    /// What is listed of one client: `shown`, `of` or `left`. One slot for all three.
    pub(super) fn client(&self, client: &str, list: &str) -> String {
        format!("{{{}:client:{client}}}:{list}", self.prefix)
    }

    /// When the next request of a principal is due.
    pub(super) fn rate(&self, principal: &str) -> String {
        format!("{{{}:principal:{principal}}}:rate", self.prefix)
    }

    /// Calls of a principal that are under way.
    pub(super) fn calls(&self, principal: &str) -> String {
        format!("{{{}:principal:{principal}}}:calls", self.prefix)
    }

    /// What is on record of a call that outlives its instance.
    pub(super) fn record(&self, name: &str) -> String {
        format!("{}:call:{name}", self.prefix)
    }

    pub(super) fn given_up(&self, instance_id: &str) -> String {
        format!("{{{}:instance:{instance_id}}}:gone", self.prefix)
    }

    /// What an instance shows to operators, and what they ask of it.
    pub(super) fn shown(&self, instance_id: &str) -> String {
        format!("{{{}:instance:{instance_id}}}:shown", self.prefix)
    }

    /// What has happened to all instances.
    pub(super) fn incidents(&self) -> String {
        format!("{}:incidents", self.prefix)
    }

    /// Sessions that operators ask all instances about.
    pub(super) fn asked_about(&self) -> String {
        format!("{}:asked", self.prefix)
    }

    pub(super) fn dataset(&self) -> String {
        format!("{}:dataset", self.prefix)
    }

    pub(super) fn seal(&self) -> String {
        format!("{}:seal", self.prefix)
    }

    pub(super) fn instances(&self) -> String {
        format!("{}:instances", self.prefix)
    }

    /// What comes before the incarnation in the name of a wake-up channel.
    pub(super) fn wake_prefix(&self) -> String {
        format!("{}:wake:", self.prefix)
    }
}

impl SessionKeys {
    /// The session hash, `mcp:sessions:ID`.
    pub(super) fn plain(&self) -> &str {
        &self.buffer[1..self.stem - 2]
    }

    /// The 32 digits.
    pub(super) fn id(&self) -> &str {
        &self.buffer[self.stem - 34..self.stem - 2]
    }

    /// The inbox.
    pub(super) fn inbox(&mut self) -> &str {
        self.with("inbox", "")
    }

    /// The request table.
    pub(super) fn requests(&mut self) -> &str {
        self.with("req", "")
    }

    /// The record of seen request ids.
    pub(super) fn seen(&mut self) -> &str {
        self.with("rid", "")
    }

    /// The event log of a stream.
    pub(super) fn log(&mut self, stream: &str) -> &str {
        self.with("log:", stream)
    }

    fn with(&mut self, kind: &str, name: &str) -> &str {
        self.buffer.truncate(self.stem);
        self.buffer.push_str(kind);
        self.buffer.push_str(name);
        &self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_the_documented_ones() {
        let keys = Keys::new("mcp");
        let id: SessionId = "00112233445566778899aabbccddeeff".parse().unwrap();
        let mut names = keys.session(&id);
        assert_eq!(names.plain(), "mcp:sessions:00112233445566778899aabbccddeeff");
        assert_eq!(names.id(), id.reveal());
        assert_eq!(names.inbox(), "{mcp:sessions:00112233445566778899aabbccddeeff}:inbox");
        assert_eq!(names.requests(), "{mcp:sessions:00112233445566778899aabbccddeeff}:req");
        assert_eq!(names.seen(), "{mcp:sessions:00112233445566778899aabbccddeeff}:rid");
        assert_eq!(names.log("g"), "{mcp:sessions:00112233445566778899aabbccddeeff}:log:g");
        assert_eq!(names.plain(), "mcp:sessions:00112233445566778899aabbccddeeff");
        assert_eq!(keys.session_of(names.plain()), Some(id));
        assert_eq!(keys.session_of("other:sessions:00112233445566778899aabbccddeeff"), None);
        assert_eq!(keys.lease("router-instance-1"), "mcp:instance:router-instance-1");
        assert_eq!(keys.index("router-instance-1"), "{mcp:instance:router-instance-1}:sessions");
        assert_eq!(keys.client("c", "left"), "{mcp:client:c}:left");
        assert_eq!(keys.given_up("router-instance-1"), "{mcp:instance:router-instance-1}:gone");
        assert_eq!(keys.shown("router-instance-1"), "{mcp:instance:router-instance-1}:shown");
        assert_eq!(keys.incidents(), "mcp:incidents");
        assert_eq!(keys.asked_about(), "mcp:asked");
        assert_eq!(keys.rate("key:ab"), "{mcp:principal:key:ab}:rate");
        assert_eq!(keys.calls("key:ab"), "{mcp:principal:key:ab}:calls");
        assert_eq!(keys.record("ab"), "mcp:call:ab");
        assert_eq!(keys.instances(), "mcp:instances");
        assert_eq!(keys.wake_prefix(), "mcp:wake:");
    }

    /// The first is the check value of CRC-16/XMODEM, the others are what `CLUSTER KEYSLOT` of Redis 7.0.15 says.
    #[test]
    fn a_slot_is_the_one_that_redis_works_out() {
        assert_eq!(slot_of(b"123456789"), 0x31c3);
        for (key, slot) in [("foo", 12182), ("{foo}bar", 12182), ("a{foo}b{c}", 12182), ("", 0)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(slot_of(b"{}foo"), slot_of(b"{}foo"));
        assert_ne!(slot_of(b"{}foo"), slot_of(b"{}bar"), "empty braces are none");
        let mut names = Keys::new("mcp").session(&"00112233445566778899aabbccddeeff".parse().unwrap());
        let slot = slot_of(names.plain().as_bytes());
        for name in [names.inbox().to_owned(), names.log("g").to_owned()] {
            assert_eq!(slot_of(name.as_bytes()), slot, "{name}");
        }
    }

    #[test]
    fn the_scan_pattern_takes_the_prefix_literally() {
        assert_eq!(Keys::new("a*[b]").session_pattern("0f"), "a\\*\\[b\\]:sessions:0f*");
    }
}
