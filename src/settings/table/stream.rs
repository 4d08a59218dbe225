//! Streams towards clients: heartbeats, what is kept for a resume, and how much may be under way.

use std::{ffi::OsString, time::Duration};

use crate::settings::{
    help_text::help_text,
    parse::{DAY, GIB, HOUR, KIB, MILLI, MINUTE, duration, size, whole},
    row::Row,
    source::Reader,
};

group! {
    /// Streams towards clients: heartbeats, what is kept for a resume, and how much may be under way.
    "Stream", StreamFlags => StreamSettings {
        /// How often a quiet stream gets a comment line. Common proxies cut a connection after 60 s of silence.
        MCP_HEARTBEAT = "15s", "duration" => heartbeat: Duration, duration(10 * MILLI..=HOUR);

        /// Shortest reconnect delay that a client is told. Each gets a random one, so that the clients of a dead
        /// instance do not all come back at the same moment.
        MCP_RETRY_MIN = "300ms", "duration" => retry_min: Duration, duration(MILLI..=HOUR);

        /// Longest reconnect delay that a client is told. Many clients make only two attempts, which must span a
        /// takeover; above a second people notice.
        MCP_RETRY_MAX = "800ms", "duration" => retry_max: Duration, duration(MILLI..=HOUR);

        /// Shortest reconnect delay that a client of Streamable HTTP is told. Its SDKs try no more than twice, each time
        /// after this delay: together they must span a takeover (MCP_LEASE).
        MCP_STREAMABLE_RETRY_MIN = "2s", "duration" => streamable_retry_min: Duration, duration(MILLI..=HOUR);

        /// Longest reconnect delay that a client of Streamable HTTP is told.
        MCP_STREAMABLE_RETRY_MAX = "3s", "duration" => streamable_retry_max: Duration, duration(MILLI..=HOUR);

        /// How long a request over Streamable HTTP waits for its answer before its response becomes an event stream: an
        /// answer within it goes as JSON, which costs half as much. A proxy may try the POST elsewhere until then; of
        /// clients without one, those behind whose POST the instance dies in this time get an error. 0 is always a stream.
        MCP_JSON_WAIT = "200ms", "duration" => json_wait: Duration, duration(Duration::ZERO..=MINUTE);

        /// How long the answer to a request over Streamable HTTP, whose connection is lost, waits for its client to come back
        /// to that stream; then it goes out on the session's GET stream. Longer than two tries of a client.
        MCP_ANSWER_GRACE = "7s", "duration" => answer_grace: Duration, duration(MILLI..=HOUR);

        /// How long events are kept for a client that comes back. It spans a suspended laptop or a lost network; the
        /// store pays for every minute.
        MCP_RESUME_WINDOW = "10m", "duration" => resume_window: Duration, duration(MILLI..=30 * DAY);

        /// Events kept for each stream; the oldest go first. More than a client falls behind in a reconnect, even while a
        /// tool reports progress.
        MCP_RESUME_EVENTS = "1000", "events" => resume_events: usize, whole(1..=10_000_000);

        /// Bytes of events kept for each stream; the newest event stays whatever its size. As large as the
        /// largest message that an upstream may send; streams of usual ones stay far below it.
        MCP_RESUME_BYTES = "16MiB", "bytes" => resume_bytes: usize, size(KIB..=GIB);

        /// Events that a replay reads from the store at a time: memory stays flat however long the backlog.
        MCP_REPLAY_PAGE_EVENTS = "128", "events" => replay_page_events: usize, whole(1..=100_000);

        /// Bytes that a replay reads from the store at a time (at least one event), for the same reason.
        MCP_REPLAY_PAGE_BYTES = "1MiB", "bytes" => replay_page_bytes: usize, size(KIB..=GIB);

        /// Bytes that may wait for a client that reads slowly. Beyond it the stream is closed; the events stay in the
        /// store, and the client resumes.
        MCP_CLIENT_QUEUE_BYTES = "1MiB", "bytes" => client_queue_bytes: usize, size(KIB..=GIB);

        /// How long a client may take nothing of what is sent before its stream is closed: a slow network recovers
        /// sooner, a stuck client holds memory for nothing.
        MCP_CLIENT_FLUSH_TIMEOUT = "30s", "duration" => client_flush_timeout: Duration, duration(10 * MILLI..=HOUR);

        /// How long the router waits for the answer to the ping that finds a reconnected client's session. Clients
        /// answer within milliseconds; one that does not is new.
        MCP_REBIND_TIMEOUT = "1500ms", "duration" => rebind_timeout: Duration, duration(MILLI..=MINUTE);

        /// How long such an answer is waited for while Redis or an instance hangs; then the stream is ended, so that the
        /// client comes back and is asked again. It spans MCP_WATCHDOG, and the retry of the answer. As long is waited
        /// until it is clear whether an instance that does not hear still has the session which a client's cookie names.
        MCP_REBIND_PATIENCE = "6s", "duration" => rebind_patience: Duration, duration(MILLI..=HOUR);

        /// How long after the end of a stream a client that may as well be a new one is asked whether the session is its
        /// own; it waits up to MCP_REBIND_TIMEOUT for its endpoint then. Clients come back within seconds.
        MCP_REBIND_WINDOW = "1m", "duration" => rebind_window: Duration, duration(Duration::ZERO..=30 * DAY);

        /// How many events before the last one handed to its lost connection are looked through for answers and open
        /// requests that such a client gets again: it tells no cursor, and takes an answer sent twice without harm.
        MCP_REBIND_REPLAY = "64", "events" => rebind_replay: u64, whole(0..=1_000_000);
    }
}
