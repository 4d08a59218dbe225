//! Sessions of the gateway's own, for clients that have none.

use std::{ffi::OsString, time::Duration};

use crate::settings::{
    help_text::help_text,
    parse::{DAY, GIB, HOUR, MILLI, duration, off_or, size, whole},
    row::Row,
    source::Reader,
};

group! {
    /// Sessions of the gateway's own, for clients that have none.
    "Clients without sessions", InnerFlags => InnerSettings {
        /// Sessions of its own that an instance keeps at most, in which it works for clients of 2026-07-28 at servers of older
        /// versions; each is one at the server, too. Calls beyond it are refused and not executed. They count in
        /// MCP_MAX_SESSIONS.
        MCP_INNER_SESSIONS = "1000", "sessions" => sessions: usize, whole(1..=1_000_000);

        /// Calls at once in one of them; more open another one. Those of clients that can be asked something, or want logs, are
        /// alone in theirs. Never more than MCP_MAX_INFLIGHT, which holds for these sessions as for any.
        MCP_INNER_CALLS = "32", "calls per session" => calls: usize, whole(1..=1_000_000);

        /// How long one of them is kept without a call: opening one costs the server an initialize. As long as connections to
        /// servers are kept (MCP_UPSTREAM_IDLE_TIMEOUT).
        MCP_INNER_IDLE = "5m", "duration" => idle: Duration, duration(100 * MILLI..=DAY);

        /// How long a call waits for its client when its server has asked something (input_required); then it is cancelled. The
        /// longest that a user may take to answer; MCP_UPSTREAM_REQUEST_TIMEOUT runs meanwhile.
        MCP_INPUT_WAIT = "5m", "duration" => input_wait: Duration, duration(100 * MILLI..=DAY);

        /// How long what came of a call is kept that has an idempotency key, or has become a task. Clients ask again within
        /// minutes. Its time begins when the call ends; before that it has MCP_UPSTREAM_REQUEST_TIMEOUT besides.
        MCP_CALL_KEEP = "10m", "duration" => keep: Duration, duration(100 * MILLI..=DAY);

        /// Bytes of such results that an instance has in the store at most; beyond it a call with a key is refused and not
        /// executed, and no call becomes a task. What one client asks must not fill the Redis of all; in MCP_CALL_KEEP even
        /// long lists of orders stay far below it.
        MCP_CALL_KEPT = "64MiB", "bytes" => kept: usize, size(1..=64 * GIB);

        /// After so long a tools/call becomes a task, for clients that declare the tasks extension
        /// (io.modelcontextprotocol/tasks); 0s: never. Most calls take less, and a task costs a poll at least.
        MCP_TASK_AFTER = "5s", "duration" => task_after: Duration, off_or(duration(MILLI..=HOUR));

        /// How often a client of a task is to ask how it stands (pollIntervalMs).
        MCP_TASK_POLL = "1s", "duration" => task_poll: Duration, duration(MILLI..=HOUR);
    }
}
