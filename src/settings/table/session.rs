//! Sessions: identity of this instance, lifetimes, and the lease that tells the others it lives.

use std::{ffi::OsString, time::Duration};

use crate::settings::{
    help_text::help_text,
    parse::{self, DAY, HOUR, MILLI, MINUTE, SECOND, duration, off_or, whole},
    row::Row,
    source::Reader,
};

group! {
    /// Sessions: identity of this instance, lifetimes, and the lease that tells the others it lives.
    "Session", SessionFlags => SessionSettings {
        /// Name of this instance among those that share a Redis; no two may have the same. {address} and {port} stand
        /// for those listened on, which are unique on one host; set it when instances run on several.
        MCP_SESSION_INSTANCE_ID = "{address}:{port}", "1 to 128 of A-Z a-z 0-9 . _ : -"
            => instance_id: String, parse::instance_id;

        /// Idle time after which a session is forgotten. Long enough for a laptop that sleeps through a meeting, short
        /// enough for abandoned sessions not to pile up.
        MCP_SESSION_TTL = "30m", "duration" => ttl: Duration, duration(SECOND..=30 * DAY);

        /// Lifetime of a session whose client went away without ever sending initialize. Such are probes (health
        /// checks, a transport being guessed): a minute lets a slow client begin.
        MCP_SESSION_UNINITIALIZED_TTL = "60s", "duration"
            => uninitialized_ttl: Duration, duration(100 * MILLI..=DAY);

        /// How long the upstream connection of a session whose client is gone is kept; it is made again when the client
        /// returns. Clients that open a session for each call leave one behind for each. Reconnects take seconds, so a
        /// minute disturbs none. With subscriptions or an open question of the server: MCP_RESUME_WINDOW, if that is longer.
        MCP_SESSION_REST = "1m", "duration" => rest: Duration, duration(100 * MILLI..=30 * DAY);

        /// First part of every key in Redis; change it to let two routers share one. Braces would move the keys of a
        /// session to different cluster slots.
        MCP_SESSION_REDIS_PREFIX = "mcp", "1 to 64 of A-Z a-z 0-9 . _ : -" => redis_prefix: String, parse::redis_prefix;

        /// How long an instance counts as alive after its last sign of life. It bounds how long the sessions of a hung
        /// instance wait; below a second, a pause of the machine looks like death.
        MCP_LEASE = "3s", "duration" => lease: Duration, duration(10 * MILLI..=HOUR);

        /// How often the sign of life is given. At most half of MCP_LEASE, so that one lost renewal costs nothing.
        MCP_LEASE_RENEW = "1s", "duration" => lease_renew: Duration, duration(MILLI..=HOUR);

        /// How often an instance looks for work that a lost wake-up left behind. Wake-ups do the usual work, so this
        /// may be slow; it bounds the delay when one is lost.
        MCP_POLL_INTERVAL = "5s", "duration" => poll_interval: Duration, duration(10 * MILLI..=HOUR);

        /// Messages that the mailbox of a session's actor holds. One session rarely has more than its
        /// MCP_MAX_INFLIGHT under way; a full mailbox pushes back instead of growing.
        MCP_MAILBOX = "256", "messages" => mailbox: usize, whole(1..=1_000_000);

        /// How long an instance tries to connect to the address of an owner that does not listen for wake-ups: if the
        /// connection is refused, the owner is dead, and its sessions are adopted before its MCP_LEASE is over; 0s turns
        /// that off. On one machine the table of processes tells, and this is not needed. Off, because a firewall that
        /// refuses connections between instances, or equal addresses in two networks, would make a living owner look dead.
        MCP_DEATH_PROBE = "0s", "duration" => death_probe: Duration, off_or(duration(MILLI..=MINUTE));

        /// Sessions of a dead instance that this one takes over per second. Each costs the upstream an initialize; the
        /// bound keeps a takeover from becoming a storm.
        MCP_ADOPT_RATE = "500", "sessions per second" => adopt_rate: u32, whole(1..=1_000_000);
    }
}
