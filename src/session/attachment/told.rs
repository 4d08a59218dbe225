//! What a client is told by its stream, as events. How they look on a connection is the surface's affair
//! (`http::frame`); this room makes none of its bytes.

use std::time::Duration;

use bytes::Bytes;

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// First of all: where the stream stands, and where the client speaks to its session. EVT-7
    Opening {
        /// The session's epoch.
        epoch: u32,
        /// The client's cursor from here on.
        seq: u64,
        /// How long it waits before it comes back.
        retry: Duration,
        /// Set while the client is known by a cookie alone: number of the attachment that its messages are to carry.
        proof: Option<u64>,
    },
    /// First of all on a stream of Streamable HTTP: where it stands, and when to come back (MCP 2025-11-25, polling).
    Prime {
        /// The session's epoch.
        epoch: u32,
        /// The client's cursor from here on.
        seq: u64,
        /// How long it waits before it comes back.
        retry: Duration,
    },
    /// Last of all on a stream of Streamable HTTP that ends although there may be more: where to go on, and when.
    Pause {
        /// The session's epoch.
        epoch: u32,
        /// The client's cursor.
        seq: u64,
        /// How long it waits before it comes back.
        retry: Duration,
    },
    /// An event of the log.
    Event {
        /// The session's epoch when it was appended.
        epoch: u32,
        /// Its place in the stream.
        seq: u64,
        /// The message.
        body: Bytes,
    },
    /// A message that is in no log and moves no cursor.
    Unnumbered(Bytes),
    /// Only that the connection lives.
    Heartbeat,
}

/// What goes out in one write. One thing alone, the usual case, costs no allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    first: Option<Told>,
    others: Vec<Told>,
}

impl Block {
    /// One thing alone.
    pub fn one(told: Told) -> Self {
        Self { first: Some(told), others: Vec::new() }
    }

    /// And this.
    pub fn push(&mut self, told: Told) {
        if self.first.is_none() { self.first = Some(told) } else { self.others.push(told) }
    }

    /// And all of this.
    pub fn extend(&mut self, more: Self) {
        more.first.into_iter().chain(more.others).for_each(|told| self.push(told));
    }

    /// The message of the event that is all there is.
    pub fn only_event(&self) -> Option<&Bytes> {
        match (&self.first, self.others.as_slice()) {
            (Some(Told::Event { body, .. }), []) => Some(body),
            _ => None,
        }
    }

    /// Nothing.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// All of it, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Told> {
        self.first.iter().chain(&self.others)
    }
}

/// EVT-6, in the words of MCP: a log message of level error, which moves no cursor.
pub fn resume_failed(reason: &str, cursor: u64, next: u64) -> Told {
    let notification = serde_json::json!({
        "jsonrpc": "2.0", "method": "notifications/message",
        "params": { "level": "error", "logger": "mcp-router", "data": {
            "reason": reason, "lastSeen": cursor, "next": next,
            "message": "events between lastSeen and next cannot be delivered any more",
        }},
    });
    Told::Unnumbered(notification.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_keeps_what_it_was_given_in_order() {
        let mut block = Block::default();
        assert!(block.is_empty() && block.iter().next().is_none());
        let event = |seq| Told::Event { epoch: 1, seq, body: Bytes::from_static(b"{}") };
        for told in [Told::Heartbeat, event(1), event(2)] {
            block.push(told);
        }
        assert!(block.iter().eq([&Told::Heartbeat, &event(1), &event(2)]));
        assert!(Block::one(event(1)).iter().eq([&event(1)]));
    }
}
