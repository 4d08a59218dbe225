//! How much the router takes on before it says no.

use std::ffi::OsString;

use crate::settings::{
    help_text::help_text,
    parse::{GIB, KIB, size, whole},
    row::Row,
    source::Reader,
};

group! {
    /// How much the router takes on before it says no.
    "Limits", LimitFlags => LimitSettings {
        /// Sessions on this instance. Beyond it the one makes room whose client has been gone longest (its record stays in
        /// the store, and it goes on when the client returns); a new one gets 503 when all have clients. Each holds memory here, a connection upstream
        /// and keys in Redis, so a number is better than the kernel's out-of-memory killer.
        MCP_MAX_SESSIONS = "10000", "sessions" => max_sessions: usize, whole(1..=10_000_000);

        /// Sessions of one client address, and of one Authorization, on this instance; a new one beyond it gets 429. 0 is no
        /// limit. Four fifths of the default MCP_MAX_SESSIONS: nobody takes all of them, and no office behind one address
        /// (NAT, or a proxy that is not in MCP_TRUSTED_PROXIES) comes near it.
        MCP_MAX_SESSIONS_PER_CLIENT = "8000", "sessions" => max_sessions_per_client: usize, whole(0..=10_000_000);

        /// Requests that one principal (MCP_AUTH) may make in a second, at all instances together; beyond it 429. 0 is no limit,
        /// since what is much depends on the tools.
        MCP_PRINCIPAL_RATE = "0", "requests per second" => principal_rate: u32, whole(0..=1_000_000);

        /// Requests that it may make at once after a pause: clients begin with several.
        MCP_PRINCIPAL_BURST = "50", "requests" => principal_burst: u32, whole(1..=1_000_000);

        /// Calls of it that may be under way at a time, at all instances together; beyond it 429. 0 is no limit, since what is
        /// much depends on the tools.
        MCP_PRINCIPAL_CALLS = "0", "requests" => principal_calls: usize, whole(0..=1_000_000);

        /// Requests of one session without an answer. Clients run a handful at a time; more is a runaway.
        MCP_MAX_INFLIGHT = "64", "requests per session" => max_inflight: usize, whole(1..=1_000_000);

        /// Messages of one session that the upstream has not had yet: what may pile up while no endpoint works.
        /// Four times MCP_MAX_INFLIGHT leaves room for notifications.
        MCP_MAX_INBOX = "256", "messages per session" => max_inbox: usize, whole(1..=1_000_000);

        /// Requests of a server to one session's client without an answer (sampling, elicitation, roots, ping); beyond it the
        /// server gets an error at once. Four for each of MCP_MAX_INFLIGHT calls: servers ask once in a call, and a client
        /// that answers none must not fill the session's record.
        MCP_MAX_SERVER_REQUESTS = "256", "requests per session" => max_server_requests: usize, whole(1..=1_000_000);

        /// Bytes that the messages of one session may hold in the store until the upstream has had them and answered;
        /// beyond it requests are refused. Four of the largest bodies: with its event log (MCP_RESUME_BYTES) a session
        /// then takes 32 MiB of Redis at most. One
        /// body of MCP_MAX_BODY always fits.
        MCP_MAX_INBOX_BYTES = "16MiB", "bytes per session" => max_inbox_bytes: usize, size(KIB..=GIB);

        /// Bytes that the requests without an answer of all sessions on this instance may hold in the store together;
        /// beyond it those larger than 64 KiB get 503. Bounds what many sessions can do at once: a
        /// Redis of 4 GiB bears three such instances and their event logs.
        MCP_MAX_HELD_BYTES = "512MiB", "bytes" => max_held_bytes: usize, size(KIB..=64 * GIB);

        /// Largest body of a client's POST; a larger one gets 413. What an upstream answers is bounded by
        /// MCP_UPSTREAM_MAX_MESSAGE instead, so results of this size pass with their envelope.
        MCP_MAX_BODY = "4MiB", "bytes" => max_body: usize, size(KIB..=GIB);

        /// Plain REST calls under way on this instance. They wait in memory for their answer, without a session.
        MCP_REST_MAX_INFLIGHT = "1024", "requests" => rest_max_inflight: usize, whole(1..=1_000_000);

        /// New sessions per second on this instance; 0 is no limit. It keeps a reconnect storm of clients that lost
        /// their session from drowning those that did not.
        MCP_NEW_SESSION_RATE = "1000", "sessions per second" => new_session_rate: u32, whole(0..=1_000_000);
    }
}
