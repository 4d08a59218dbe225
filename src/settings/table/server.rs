//! Where the router listens, and how much it takes on.

use std::{ffi::OsString, net::IpAddr, time::Duration};

use crate::settings::{
    ca_file::{PemFile, certificates, secret_key},
    help_text::help_text,
    parse::{self, HOUR, MILLI, duration, optional, whole},
    row::Row,
    source::Reader,
};

group! {
    /// Where the router listens, and how much it takes on.
    "Server", ServerFlags => ServerSettings {
        /// TCP port to listen on; 0 takes a free one, which tests need. 8051 is the first of the ports that
        /// nginx.conf balances over.
        SERVER_PORT = "8051", "port, 0 to 65535" => port: u16, whole(0..=65535);

        /// IP address to listen on. Loopback, because nginx in front is what faces the network; 0.0.0.0 (or ::) opens
        /// the router to it.
        SERVER_ADDRESS = "127.0.0.1", "IP address" => address: IpAddr, parse::address;

        /// PEM file of the certificate that clients are shown, with its chain: the router itself speaks TLS then (1.2 and 1.3, HTTP/2
        /// and HTTP/1.1), and nothing else, on its port. Unset, because nginx in front does. With SERVER_KEY_FILE; both are read again when
        /// they change (MCP_AUTH_RELOAD), and at SIGHUP.
        SERVER_CERT_FILE = "", "file" => cert_file: Option<PemFile>, optional(certificates);

        /// PEM file of its secret key, without a password.
        SERVER_KEY_FILE = "", "file" => key_file: Option<PemFile>, optional(secret_key);

        /// Requests that one connection of HTTP/2 may have under way; more get 503. Clients that know no limit use a hundred, so
        /// that one connection must not be as good as a thousand.
        SERVER_MAX_STREAMS = "256", "requests per connection" => max_streams: usize, whole(1..=100_000);

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
}
