//! Who may talk to the router.

use std::ffi::OsString;

use ipnet::IpNet;

use crate::settings::{
    help_text::help_text,
    parse::{self, optional},
    row::Row,
    source::Reader,
    value::{Allowed, Secret},
};

group! {
    /// Who may talk to the router.
    "Security", SecurityFlags => SecuritySettings {
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
}
