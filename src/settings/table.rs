//! Every setting of the router, once: variable, default, unit, field, parser, and the reason.
//!
//! The flag of a setting is its variable in kebab case (`SERVER_PORT` is `--server-port`). An empty default means
//! unset. The text above a row is the documentation of the field *and* what `--help` prints.

use std::{ffi::OsString, net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

use super::{
    auth::{Auth, KeyFile, KeySource, auth, header_name, issuer, key_file, key_source, scopes},
    ca_file::{CaFile, PemFile, ca_file, certificates, secret_key},
    help_text::{ABOUT, AFTER_HELP, help_text},
    parse::{self, DAY, GIB, HOUR, KIB, MILLI, MINUTE, SECOND, duration, off_or, optional, size, whole},
    policy_file::{PolicyFile, policy_file},
    row::Row,
    source::Reader,
    upstreams::upstreams,
    value::{Allowed, LogFormat, RedisUrl, Secret, Transport, UpstreamService},
};

settings! {
    /// Where the router listens, and how much it takes on.
    "Server", ServerFlags => server: ServerSettings {
        /// TCP port to listen on; 0 takes a free one, which tests need. 8051 is the first of the ports that
        /// nginx.conf balances over.
        SERVER_PORT = "8051", "port, 0 to 65535" => port: u16, whole(0..=65535);

        /// IP address to listen on. Loopback, because nginx in front is what faces the network; 0.0.0.0 (or ::) opens
        /// the router to it.
        SERVER_ADDRESS = "127.0.0.1", "IP address" => address: IpAddr, parse::address;

        /// Worker threads; 0 starts one for each core, which is what work that never blocks wants.
        SERVER_WORKERS = "0", "threads" => workers: usize, whole(0..=1024);

        /// Connections that one worker keeps open. Each client stream holds one for hours, so this is far above what
        /// a server of short requests needs; keep the process's limit of open files above workers times this.
        SERVER_MAX_CONNECTIONS = "25000", "connections per worker" => max_connections: usize, whole(1..=1_000_000);

        /// Connections from one client address at a time; more are closed at once, and so are those beyond half of the
        /// files that the process may open, so that no single address shuts out the others. A hundred clients behind one
        /// NAT hold a few each. Addresses in MCP_TRUSTED_PROXIES are not counted: behind nginx all come from there.
        SERVER_MAX_CONNECTIONS_PER_ADDRESS = "1000", "connections"
            => max_connections_per_address: usize, whole(1..=1_000_000);

        /// How long the head of a connection's first request may take. A sender that says nothing holds a connection for
        /// nothing; honest ones need one round trip.
        SERVER_HEADER_TIMEOUT = "5s", "duration" => header_timeout: Duration, duration(10 * MILLI..=HOUR);

        /// How long the body of a POST may take, however it comes; then 408. While there are more connections than half of
        /// the files that the process may open it is 5 s, so that a flood of slow ones is soon over. nginx hands over whole bodies at once, so it
        /// is for clients without a proxy: MCP_MAX_BODY over a line of 1 Mbit/s takes 34 s, what is usual milliseconds.
        SERVER_BODY_TIMEOUT = "40s", "duration" => body_timeout: Duration, duration(10 * MILLI..=HOUR);

        /// Path prefix that the router itself serves, such as /mcp-bridge. Unset, because nginx strips the prefix and
        /// names it in X-Forwarded-Prefix.
        SERVER_BASE_PATH = "", "path" => base_path: String, parse::base_path;
    }

    /// Sessions: identity of this instance, lifetimes, and the lease that tells the others it lives.
    "Session", SessionFlags => session: SessionSettings {
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

    /// The shared store.
    "Redis", RedisFlags => redis: RedisSettings {
        /// Redis that the instances share: redis://user:password@host:port/db, of which only the host is needed,
        /// redis+unix:///path/of/the/socket, or, where Sentinels watch it,
        /// redis+sentinel://user:password@host:port,host:port/name/db (user and password of the nodes; those of the
        /// Sentinels as ?sentinel_user=…&sentinel_password=…). Unset keeps sessions in memory: one instance, and a
        /// restart loses them. By TLS as rediss:// and rediss+sentinel://, the latter of nodes and Sentinels alike.
        REDIS_URL = "", "URL" => url: Option<RedisUrl>, optional(parse::redis_url);

        /// PEM file of certificates whose issuers are trusted for rediss, instead of those that the system trusts. Read at
        /// the start. Unset: the system's.
        REDIS_CA_FILE = "", "file" => ca_file: Option<PemFile>, optional(certificates);

        /// PEM file of the certificate by which the router shows who it is to a Redis that asks (tls-auth-clients, which is
        /// on unless it is turned off). Needs REDIS_KEY_FILE. Read at the start.
        REDIS_CERT_FILE = "", "file" => cert_file: Option<PemFile>, optional(certificates);

        /// PEM file of the secret key of REDIS_CERT_FILE. Read at the start.
        REDIS_KEY_FILE = "", "file" => key_file: Option<PemFile>, optional(secret_key);

        /// Connections to Redis. Commands are pipelined, so few are enough; more only help when scripts queue behind
        /// large replays.
        REDIS_POOL_SIZE = "8", "connections" => pool_size: usize, whole(1..=10_000);

        /// Longest wait for one answer of Redis. Scripts take well under a millisecond: after two seconds the link is
        /// half-dead rather than slow.
        REDIS_TIMEOUT = "2s", "duration" => timeout: Duration, duration(10 * MILLI..=HOUR);

        /// How long a start waits for Redis before it gives up: containers started together come up in any order.
        REDIS_START_TIMEOUT = "30s", "duration" => start_timeout: Duration, duration(MILLI..=DAY);

        /// Commands put into one pipeline. Enough to share a round trip among many sessions, few enough for one
        /// pipeline not to hold up the next.
        REDIS_BATCH = "128", "commands" => batch: usize, whole(1..=100_000);

        /// Commands that may wait for a pipeline. Beyond it callers are refused at once, which is kinder than a queue
        /// that outlives their patience.
        REDIS_QUEUE = "8192", "commands" => queue: usize, whole(1..=10_000_000);

        /// How long a POST waits for an unavailable Redis before it is answered 503. It spans a restart or failover of
        /// Redis, and stays below nginx's and the clients' own limits.
        REDIS_WAIT = "3s", "duration" => wait: Duration, duration(Duration::ZERO..=HOUR);

        /// How long a request over Streamable HTTP waits for Redis that may have taken it already: answered then, or never, it
        /// is neither lost nor done twice, and after that nobody can tell. REDIS_WAIT if that is longer. It spans what
        /// Redis hangs for while it saves or forks, and stays below nginx's and the clients' own limits.
        REDIS_DOUBT_WAIT = "30s", "duration" => doubt_wait: Duration, duration(Duration::ZERO..=HOUR);
    }

    /// The MCP servers behind the router.
    "Upstream", UpstreamFlags => upstream: UpstreamSettings {
        /// Services and their equal endpoints: name=url,url;name2=url. A service is reached at /sse/NAME and the like.
        /// Unset: the router starts an mcp-server-v6 inside its own process, so that it can be tried at once.
        MCP_UPSTREAMS = "", "name=url,url;name2=url" => services: Vec<UpstreamService>, upstreams;

        /// MCP transport of the endpoints. auto: a URL whose path ends in /sse is HTTP+SSE, one that ends in /mcp is
        /// Streamable HTTP, and any other is asked, as the specification says: an initialize that it refuses with 400, 404
        /// or 405 means HTTP+SSE. Set it for servers whose URLs say the wrong thing.
        MCP_UPSTREAM_TRANSPORT = "auto", "auto, sse or streamable" => transport: Transport, parse::transport;

        /// PEM file of certificates whose issuers are trusted for https endpoints, besides those that the system trusts:
        /// for servers with a certificate of one's own. Read at the start. Unset: the system's alone.
        MCP_UPSTREAM_CA_FILE = "", "file" => ca_file: Option<CaFile>, optional(ca_file);

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
    }

    /// Streams towards clients: heartbeats, what is kept for a resume, and how much may be under way.
    "Stream", StreamFlags => stream: StreamSettings {
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

    /// How much the router takes on before it says no.
    "Limits", LimitFlags => limits: LimitSettings {
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

    /// Who may talk to the router.
    "Security", SecurityFlags => security: SecuritySettings {
        /// Host names, without port, that requests may be addressed to; * allows any. It stops a web page that lets
        /// its own name point at this machine (DNS rebinding).
        MCP_ALLOWED_HOSTS = "localhost,127.0.0.1,[::1],mcp-bridge.local", "host,host or *"
            => allowed_hosts: Allowed, parse::allowed_hosts;

        /// Origins of web pages that may call the router, besides loopback ones; * allows any. Programs send no
        /// Origin, so none is needed unless a browser is the client.
        MCP_ALLOWED_ORIGINS = "", "scheme://host[:port],... or *" => allowed_origins: Allowed, parse::allowed_origins;

        /// Networks whose X-Forwarded-* headers are believed; none trusts nobody. Loopback, where nginx runs.
        MCP_TRUSTED_PROXIES = "127.0.0.0/8,::1/128", "network,network or none"
            => trusted_proxies: Vec<IpNet>, parse::networks;

        /// Bearer token that the administrative endpoints ask of everybody but this machine itself (loopback, without a
        /// proxy in between). Unset, because a token that everybody knows is none.
        MCP_ADMIN_TOKEN = "", "visible ASCII" => admin_token: Option<Secret>, optional(parse::token);
    }

    /// How clients show who they are. A session answers to nobody but the principal that opened it.
    "Authentication", AuthFlags => auth: AuthSettings {
        /// By what clients show who they are: keys (MCP_AUTH_KEYS_FILE), tokens (MCP_AUTH_ISSUER), proxy (MCP_AUTH_PROXY_HEADER).
        /// Unset nobody is asked, and the router listens on loopback only; none says that this is meant elsewhere, too.
        MCP_AUTH = "", "none, or a list of keys, tokens, proxy" => by: Auth, auth;

        /// File with the SHA-256 of each key and a name, one a line, as `mcp-router key NAME` prints it. Clients send the key as
        /// Authorization: Bearer or as X-API-Key. It is read again when it changes, and at SIGHUP.
        MCP_AUTH_KEYS_FILE = "", "path" => keys_file: Option<KeyFile>, optional(key_file);

        /// Header in which a proxy of MCP_TRUSTED_PROXIES names the principal: a user, or the subject of a client certificate.
        /// The proxy must set it in every request, or clients would name themselves.
        MCP_AUTH_PROXY_HEADER = "X-MCP-Principal", "name of a header" => proxy_header: String, header_name;

        /// Authorization server whose tokens count (JWTs, RFC 9068), exactly as they name it in iss. The router is an OAuth 2.1
        /// resource server: it tells clients at /.well-known/oauth-protected-resource where to get a token.
        MCP_AUTH_ISSUER = "", "https URL" => issuer: Option<String>, optional(issuer);

        /// Where its public keys are (JWKS). Unset they are found by its metadata (RFC 8414, OpenID Connect Discovery).
        MCP_AUTH_JWKS = "", "https URL or path" => jwks: Option<KeySource>, optional(key_source);

        /// URL at which clients reach the router, with the path before /mcp: tokens must be for it or for a service below it
        /// (aud). Unset it is taken from each request, by Host and X-Forwarded-*, as far as MCP_ALLOWED_HOSTS lists the host.
        MCP_AUTH_RESOURCE = "", "https URL" => resource: Option<String>, optional(issuer);

        /// Scopes that every token must have; clients are told of them. A token with fewer gets 403.
        MCP_AUTH_SCOPES = "", "scopes with spaces between them" => scopes: Vec<String>, scopes;

        /// How far the clocks of router and authorization server may differ: so long before nbf and after exp a token counts.
        MCP_AUTH_LEEWAY = "30s", "duration" => leeway: Duration, duration(Duration::ZERO..=HOUR);

        /// How often the keys are fetched again. Servers announce new ones hours before they sign with them.
        MCP_AUTH_JWKS_TTL = "10m", "duration" => jwks_ttl: Duration, duration(SECOND..=DAY);

        /// How often at most they are fetched because a token names one that is not known: anybody can make up such a token.
        MCP_AUTH_JWKS_FLOOR = "10s", "duration" => jwks_floor: Duration, duration(10 * MILLI..=HOUR);

        /// How long a fetch of keys may take; a request whose token waits for one gets 401 or 503 then.
        MCP_AUTH_JWKS_TIMEOUT = "5s", "duration" => jwks_timeout: Duration, duration(10 * MILLI..=MINUTE);

        /// Checked tokens that are remembered, at about 1 KiB each; one that was forgotten is checked again.
        MCP_AUTH_TOKEN_CACHE = "10000", "tokens" => token_cache: usize, whole(2..=10_000_000);

        /// File with rules which principals may do what (TOML). With it nothing is allowed that no rule allows. It is read again
        /// as the file of keys.
        MCP_POLICY_FILE = "", "path" => policy: Option<PolicyFile>, optional(policy_file);

        /// How often the files of keys and rules are looked at for a change. Who must lose access at once sends SIGHUP.
        MCP_AUTH_RELOAD = "2s", "duration" => reload: Duration, duration(10 * MILLI..=HOUR);
    }

    /// What is logged, to standard error.
    "Log", LogFlags => log: LogSettings {
        /// Form of the lines: text for people, who come first, or json for collectors.
        LOG_FORMAT = "text", "text or json" => format: LogFormat, parse::log_format;

        /// Least severe level that is logged, or directives of tracing's EnvFilter such as info,mcp_router=debug. info
        /// tells what changed, not each message.
        LOG_LEVEL = "info", "level or directives" => level: String, parse::log_level;

        /// File for who has called what and with which outcome, as chained JSON lines without payloads; - is standard output.
        /// mcp-router audit FILE checks the chain. It is opened anew at SIGHUP and SIGUSR1.
        MCP_AUDIT_LOG = "", "path or -" => audit: Option<PathBuf>, optional(parse::path);

        /// Lines of the audit log that may wait to be written. Beyond it they are lost, and counted: no call waits for a disk.
        MCP_AUDIT_QUEUE = "8192", "lines" => audit_queue: usize, whole(1..=1_000_000);

        /// Lines that may wait to be written. Beyond it they are dropped and counted: a log on a full disk, or in a pipe
        /// that nobody reads, must hold nobody up. As many as a storm of reconnects writes in a second.
        LOG_QUEUE = "4096", "lines" => queue: usize, whole(1..=1_000_000);
    }

    /// How the router ends, and what ends it when it hangs.
    "Lifecycle", LifecycleFlags => lifecycle: LifecycleSettings {
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

#[cfg(test)]
mod tests;
