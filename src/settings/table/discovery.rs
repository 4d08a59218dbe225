//! Servers that are found by names.

use std::{ffi::OsString, net::SocketAddr, time::Duration};

use crate::settings::{
    help_text::help_text,
    parse::{DAY, MILLI, MINUTE, duration, optional, whole},
    row::Row,
    source::Reader,
};

fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let with_port = || text.parse::<std::net::IpAddr>().map(|address| SocketAddr::new(address, 53));
    text.parse()
        .or_else(|_| with_port())
        .map_err(|_| "an address such as 127.0.0.1:8600, [::1]:53 or 10.0.0.2".to_owned())
}

group! {
    /// Servers that are found by names: dns+http://, dns+srv+http:// and nacos+http:// in the list of upstreams.
    "Discovery", DiscoveryFlags => DiscoverySettings {
        /// How often they are looked for; a name in DNS sooner, where its answer counts for less long (its TTL), and once a
        /// second at most. Until something is found again what was found last counts.
        MCP_DISCOVERY_INTERVAL = "10s", "duration" => interval: Duration, duration(10 * MILLI..=DAY);

        /// How long one look may take, with all its tries. A start waits so long for the first one.
        MCP_DISCOVERY_TIMEOUT = "5s", "duration" => timeout: Duration, duration(10 * MILLI..=MINUTE);

        /// Servers that one name may have. More are taken for a mistake, and change nothing.
        MCP_DISCOVERY_MOST = "256", "servers" => most: usize, whole(1..=10_000);

        /// DNS server to ask instead of the system's (/etc/resolv.conf), such as that of Consul.
        MCP_DISCOVERY_DNS = "", "address:port" => dns: Option<SocketAddr>, optional(dns_server);
    }
}
