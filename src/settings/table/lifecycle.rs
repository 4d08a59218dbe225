//! How the router ends, and what ends it when it hangs.

use std::{ffi::OsString, time::Duration};

use crate::settings::{
    help_text::help_text,
    parse::{DAY, HOUR, MILLI, duration, off_or, whole},
    row::Row,
    source::Reader,
};

group! {
    /// How the router ends, and what ends it when it hangs.
    "Lifecycle", LifecycleFlags => LifecycleSettings {
        /// Time from SIGTERM to the end of the process, come what may. Equal to the 30 s that Kubernetes waits before
        /// it kills; raise both together.
        SHUTDOWN_TIMEOUT = "30s", "duration" => shutdown_timeout: Duration, duration(MILLI..=DAY);

        /// How long calls in flight may finish after SIGTERM; what is left is handed over by the journal. Below
        /// SHUTDOWN_TIMEOUT, so that time remains to release sessions and streams.
        DRAIN_DEADLINE = "20s", "duration" => drain_deadline: Duration, duration(Duration::ZERO..=DAY);

        /// Client streams let go per second while draining, so that the other instances get their clients at a rate
        /// they can take.
        DRAIN_STREAMS_PER_SECOND = "500", "streams per second" => drain_streams_per_second: u32, whole(1..=1_000_000);

        /// Silence of this process after which a guard kills it, so that its clients move to other instances at once; 0s
        /// turns that off, for a debugger. As long as MCP_LEASE: a process that was silent for so long has lost its
        /// sessions to others already. Without REDIS_URL there are no others, and no guard.
        MCP_WATCHDOG = "3s", "duration" => watchdog: Duration, off_or(duration(300 * MILLI..=HOUR));
    }
}
