//! Requests of 2026-07-28, which have no session.

use std::{ffi::OsString, time::Duration};

use crate::settings::{
    help_text::help_text,
    parse::{DAY, GIB, HOUR, MILLI, SECOND, duration, off_or, size, whole},
    row::Row,
    source::Reader,
};

group! {
    /// Requests of 2026-07-28, which have no session.
    "Stateless", StatelessFlags => StatelessSettings {
        /// Requests of 2026-07-28 under way on this instance, streams of changes (subscriptions/listen) among them; beyond it 503.
        /// Each holds a connection on either side and no more, so as many as there may be sessions.
        MCP_STATELESS_MAX_INFLIGHT = "10000", "requests" => max_inflight: usize, whole(1..=10_000_000);

        /// How long a client may show again what a server has given it while it asked something (requestState). People answer
        /// such questions; the SDKs' own servers give them 10 minutes, and say so themselves when they give less.
        MCP_REQUEST_STATE_LIFE = "1h", "duration" => state_life: Duration, duration(SECOND..=30 * DAY);

        /// How long a client may ask about a task of a server that has tasks itself (taskId). The server says how long it keeps one,
        /// and may change its mind; this bounds a handle whose server says nothing.
        MCP_TASK_HANDLE_LIFE = "30d", "duration" => task_life: Duration, duration(SECOND..=365 * DAY);

        /// Memory for results that their servers say may be kept (ttlMs, cacheScope), of all services. 0: each request is passed
        /// on. Lists of tools are some ten KiB each.
        MCP_STATELESS_CACHE = "16MiB", "bytes" => cache: usize, size(0..=64 * GIB);

        /// How long a server that does not tell of changes (subscriptions/listen) is left alone before the router asks it again, on a
        /// stream of its own, while it keeps results of it; 0s: servers are not listened to. It is the longest pause after a
        /// stream that broke, too. A missed change costs no more than ttlMs.
        MCP_STATELESS_LISTEN_AGAIN = "1m", "duration" => listen_again: Duration, off_or(duration(MILLI..=DAY));

        /// How long a stream of changes whose server is gone is kept while another one is looked for. A restart takes less; a
        /// client that is told of the end sooner asks for the same again.
        MCP_LISTEN_PATIENCE = "30s", "duration" => listen_patience: Duration, duration(Duration::ZERO..=HOUR);
    }
}
