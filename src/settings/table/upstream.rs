//! The MCP servers behind the router.

use std::{ffi::OsString, time::Duration};

use crate::settings::{
    ca_file::{CaFile, PemFile, ca_file, certificates, secret_key},
    credentials_file::{CredentialsFile, credentials_file},
    help_text::help_text,
    parse::{self, DAY, GIB, HOUR, KIB, MILLI, MINUTE, duration, optional, size, whole},
    row::Row,
    source::Reader,
    upstreams::upstreams,
    upstreams_file::{UpstreamsFile, upstreams_file},
    value::{EraSetting, Transport, UpstreamService},
};

group! {
    /// The MCP servers behind the router.
    "Upstream", UpstreamFlags => UpstreamSettings {
        /// Services and their equal endpoints: name=url,url;name2=url. A service is reached at /sse/NAME and the like.
        /// Servers may also be found by names: dns+http://NAME:PORT/sse (A, AAAA), dns+srv+http://_mcp._tcp.NAME/sse (SRV) and
        /// nacos+http://HOST:8848/?service=NAME (MCP_DISCOVERY_INTERVAL).
        /// Unset: the router starts an mcp-server-v6 inside its own process, so that it can be tried at once.
        MCP_UPSTREAMS = "", "name=url,url;name2=url" => services: Vec<UpstreamService>, upstreams;

        /// File of services in the same form, one name=url,url a line; # begins a line that says nothing, and behind a comma at its
        /// end a line goes on in the next. It is read again when it changes (MCP_AUTH_RELOAD), and at SIGHUP: a new endpoint is used
        /// at once, one that is gone keeps what has begun there (MCP_UPSTREAM_LEAVE), and a file with a fault changes
        /// nothing. Where both are set, the file counts and MCP_UPSTREAMS does not.
        MCP_UPSTREAMS_FILE = "", "file" => file: Option<UpstreamsFile>, optional(upstreams_file);

        /// How long sessions and calls go on at an endpoint that the list has no more; then it counts as dead, and they are taken
        /// to others as from a server that died. As long as the longest call by default (MCP_UPSTREAM_REQUEST_TIMEOUT). One that
        /// nobody uses is let go at once.
        MCP_UPSTREAM_LEAVE = "5m", "duration" => leave: Duration, duration(Duration::ZERO..=DAY);

        /// MCP transport of the endpoints. auto: a URL whose path ends in /sse is HTTP+SSE, one that ends in /mcp is
        /// Streamable HTTP, and any other is asked, as the specification says: an initialize that it refuses with 400, 404
        /// or 405 means HTTP+SSE. Set it for servers whose URLs say the wrong thing.
        MCP_UPSTREAM_TRANSPORT = "auto", "auto, sse or streamable" => transport: Transport, parse::transport;

        /// Era of the protocol of the Streamable HTTP endpoints: legacy has a handshake (up to 2025-11-25), modern has none
        /// (2026-07-28). auto: each is asked with server/discover, and again when it has failed; modern where it speaks both.
        /// An answer such as 401, 429 or 5xx decides nothing. Set it for servers that cannot bear to be asked.
        MCP_UPSTREAM_ERA = "auto", "auto, legacy or modern" => era: EraSetting, parse::era;

        /// PEM file of certificates whose issuers are trusted for https endpoints, besides those that the system trusts:
        /// for servers with a certificate of one's own. Read at the start. Unset: the system's alone.
        MCP_UPSTREAM_CA_FILE = "", "file" => ca_file: Option<CaFile>, optional(ca_file);

        /// PEM file of the certificate with which the router shows itself to https endpoints that ask for one (mTLS), with its
        /// chain. With MCP_UPSTREAM_KEY_FILE; both are read again when they change.
        MCP_UPSTREAM_CERT_FILE = "", "file" => cert_file: Option<PemFile>, optional(certificates);

        /// PEM file of its secret key, without a password.
        MCP_UPSTREAM_KEY_FILE = "", "file" => key_file: Option<PemFile>, optional(secret_key);

        /// File of credentials towards servers (TOML), which names the files of their secrets: a header, or tokens of an
        /// authorization server, for the router itself or in the name of who asks. All of them are read again when they
        /// change (MCP_AUTH_RELOAD), and at SIGHUP.
        MCP_UPSTREAM_CREDENTIALS_FILE = "", "file" => credentials: Option<CredentialsFile>, optional(credentials_file);

        /// How long an authorization server may take to give such a token. What waits for it waits as long.
        MCP_UPSTREAM_TOKEN_TIMEOUT = "5s", "duration" => token_timeout: Duration, duration(10 * MILLI..=MINUTE);

        /// Longest wait for a TCP connection to an endpoint, and for its TLS handshake if it is an https one. A lost SYN is
        /// sent again after 1 s, so 3 s forgives one.
        MCP_UPSTREAM_CONNECT_TIMEOUT = "3s", "duration" => connect_timeout: Duration, duration(MILLI..=HOUR);

        /// Longest a request may run before it is answered with an error. Tools may work for minutes; most clients
        /// give up earlier.
        MCP_UPSTREAM_REQUEST_TIMEOUT = "5m", "duration" => request_timeout: Duration, duration(MILLI..=30 * DAY);

        /// Longest wait for the acknowledgement of a POST that expects no answer (notifications, answers of the client, the
        /// router's own). That of a request may come as late as its answer, as from servers that acknowledge when the
        /// work is done; some never answer a POST to a session they have forgotten.
        MCP_UPSTREAM_POST_TIMEOUT = "10s", "duration" => post_timeout: Duration, duration(MILLI..=HOUR);

        /// How long a message waits for the POST before it to be acknowledged. It keeps the order of a session's
        /// messages without letting one slow POST hold up the rest.
        MCP_UPSTREAM_ORDER_WAIT = "500ms", "duration" => order_wait: Duration, duration(Duration::ZERO..=HOUR);

        /// Silence on an upstream stream after which the router pings it. A half-open connection shows no other sign.
        MCP_UPSTREAM_IDLE_TIMEOUT = "5m", "duration" => idle_timeout: Duration, duration(10 * MILLI..=DAY);

        /// Connections that one worker has to one endpoint at a time. Every session with an HTTP+SSE upstream holds one,
        /// so this is as many as a worker has sessions at most, and room for their POSTs.
        MCP_UPSTREAM_MAX_CONNECTIONS = "20000", "connections per worker and endpoint"
            => max_connections: usize, whole(1..=1_000_000);

        /// How often each endpoint's health is checked, and so how soon an idle endpoint's death or return is noticed.
        MCP_UPSTREAM_HEALTH_INTERVAL = "5s", "duration" => health_interval: Duration, duration(10 * MILLI..=DAY);

        /// Longest wait for the answer to a health check. A server that needs longer for it is no use for work.
        MCP_UPSTREAM_HEALTH_TIMEOUT = "2s", "duration" => health_timeout: Duration, duration(MILLI..=HOUR);

        /// Failures in a row after which an endpoint gets no new work until it proves itself. One may be chance, three
        /// are not.
        MCP_UPSTREAM_BREAKER_FAILURES = "3", "failures" => breaker_failures: u32, whole(1..=1_000_000);

        /// First pause before an endpoint is tried again; it doubles, with jitter, up to MCP_UPSTREAM_BACKOFF_MAX.
        /// Short, because most faults are a restart that is soon over.
        MCP_UPSTREAM_BACKOFF_MIN = "100ms", "duration" => backoff_min: Duration, duration(MILLI..=HOUR);

        /// Longest pause before an endpoint is tried again, so that one that returns is in use soon: calls of sessions whose
        /// server died wait so long at most once there is one again. An attempt at a dead server costs little.
        MCP_UPSTREAM_BACKOFF_MAX = "2s", "duration" => backoff_max: Duration, duration(MILLI..=HOUR);

        /// How long a session looks for a working endpoint before its requests are answered with an error. It spans
        /// the restart of a service, and stays below the 60 s after which clients give up.
        MCP_UPSTREAM_RELINK_TIMEOUT = "30s", "duration" => relink_timeout: Duration, duration(MILLI..=DAY);

        /// Largest message accepted from an upstream. Tool results carry images and files; beyond this one message
        /// would crowd out the rest. A call whose answer is larger gets an error that says so; nothing else is touched.
        MCP_UPSTREAM_MAX_MESSAGE = "16MiB", "bytes" => max_message: usize, size(KIB..=GIB);

        /// Most bytes of a message beyond MCP_UPSTREAM_MAX_MESSAGE that are read and thrown away, so that the connection
        /// can go on behind it; one that has no end would hold up all others. At least MCP_UPSTREAM_MAX_MESSAGE.
        MCP_UPSTREAM_MAX_SKIPPED = "256MiB", "bytes" => max_skipped: usize, size(KIB..=GIB);

        /// Longest pause granted to a server that does not take a request now (408, 425, 429, 503 with Retry-After) before
        /// it is tried again, within MCP_UPSTREAM_REQUEST_TIMEOUT. Longer than most quotas ask for, far below the
        /// patience of clients.
        MCP_UPSTREAM_RETRY_AFTER_MAX = "10s", "duration" => retry_after_max: Duration, duration(MILLI..=HOUR);

        /// Attempts in a row to resume a stream of a Streamable HTTP server that bring nothing, before it is given up: the
        /// call that was waited for on it is settled as one of unknown outcome, and of a server that does not even accept a
        /// connection nothing more is expected. Their pauses are those of MCP_UPSTREAM_BACKOFF_MIN and _MAX, or what the server asks for:
        /// with the defaults some 3 s, in which a proxy is restarted.
        MCP_UPSTREAM_RESUME_ATTEMPTS = "6", "attempts" => resume_attempts: u32, whole(1..=1_000_000);

        /// Pages of a server's tools/list that the router follows when it lists the tools itself; all of them together
        /// are at most MCP_UPSTREAM_MAX_MESSAGE. Real lists have a few; a server that always names one more must not keep
        /// the router busy.
        MCP_UPSTREAM_TOOL_PAGES = "100", "pages" => tool_pages: usize, whole(1..=100_000);

        /// How often a server of 2026-07-28 may ask a client with a session something (input_required) before it answers one call.
        /// Each time its call is sent again; people are asked a few times at most, and a server must not ask for ever.
        MCP_UPSTREAM_ROUNDS = "100", "rounds" => rounds: usize, whole(1..=100_000);
    }
}
