//! Servers by their names in DNS: addresses (A, or AAAA where there is none), or SRV records (RFC 2782), of which those with the
//! best priority count; weights do not, since sessions are balanced by what they are.

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{RData, RecordType},
};
use url::Url;

use super::source::Source;
use crate::settings::{DiscoverySettings, UpstreamUrl};

/// See the module's text.
pub(super) struct Dns {
    url: UpstreamUrl,
    are_services: bool,
    resolver: TokioResolver,
}

impl Dns {
    /// Asks whom the settings name, or whom the system asks.
    pub(super) fn new(url: UpstreamUrl, are_services: bool, settings: &DiscoverySettings) -> Result<Self, String> {
        let mut builder = match settings.dns {
            Some(server) => {
                let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                (udp.port, tcp.port) = (server.port(), server.port());
                let server = NameServerConfig::new(server.ip(), true, vec![udp, tcp]);
                let config = ResolverConfig::from_name_servers(vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
            None => TokioResolver::builder_tokio().map_err(|fault| fault.to_string())?,
        };
        let options = builder.options_mut();
        // One server with two addresses is not two.
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        // It is asked when what it has said is over, and not before.
        options.cache_size = 0;
        options.attempts = 2;
        options.timeout = settings.timeout / 3;
        let resolver = builder.build().map_err(|fault| fault.to_string())?;
        Ok(Self { url, are_services, resolver })
    }

    async fn addresses(&self, name: &str) -> Result<(Vec<UpstreamUrl>, Duration), String> {
        let found = self.resolver.lookup_ip(name).await.map_err(|fault| fault.to_string())?;
        let at = |address: IpAddr| {
            self.with(|url| url.set_ip_host(address).map_err(|()| "an address that stands in no URL".to_owned()))
        };
        let urls = found.iter().map(at).collect::<Result<_, _>>()?;
        Ok((urls, left(found.valid_until())))
    }

    async fn services(&self, name: &str) -> Result<(Vec<UpstreamUrl>, Duration), String> {
        let found = self.resolver.lookup(name, RecordType::SRV).await.map_err(|fault| fault.to_string())?;
        let records = || {
            found.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(service) => Some(service),
                _ => None,
            })
        };
        let best = records().map(|service| service.priority).min();
        // A root for a target says that there is none (RFC 2782).
        let counts = records().filter(|service| Some(service.priority) == best && !service.target.is_root());
        let at = |target: &str, port: u16| {
            self.with(|url| {
                url.set_host(Some(target.trim_end_matches('.'))).map_err(|fault| fault.to_string())?;
                url.set_port(Some(port)).map_err(|()| "a port that stands in no URL".to_owned())
            })
        };
        let urls = counts.map(|service| at(&service.target.to_string(), service.port)).collect::<Result<_, _>>()?;
        Ok((urls, left(found.valid_until())))
    }

    /// The URL of one server.
    fn with(&self, change: impl FnOnce(&mut Url) -> Result<(), String>) -> Result<UpstreamUrl, String> {
        self.url.elsewhere(change)
    }
}

fn left(until: std::time::Instant) -> Duration {
    until.saturating_duration_since(std::time::Instant::now())
}

#[async_trait(?Send)]
impl Source for Dns {
    async fn find(&mut self) -> Result<(Vec<UpstreamUrl>, Option<Duration>), String> {
        let name = self.url.request_url().host_str().unwrap_or_default();
        let found = if self.are_services { self.services(name).await } else { self.addresses(name).await };
        found.map(|(urls, lasts)| (urls, Some(lasts)))
    }
}
