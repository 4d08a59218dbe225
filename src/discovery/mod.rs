//! Where the servers of a service are, where the list names a place to ask (`source`): names in DNS, and registries.
//!
//! | file | what stands there |
//! |---|---|
//! | this | how often they are asked, and what of an answer counts |
//! | `source` | what all of them have in common |
//! | `dns` | A, AAAA and SRV records |
//! | `nacos` | Nacos' Open API |
//!
//! What has been found counts until something else is: a place that does not answer, or has none, changes nothing.

mod dns;
mod nacos;
mod source;

use std::{sync::Arc, time::Duration};

use rustls::ClientConfig;
use tokio::time::Instant;

use self::{dns::Dns, nacos::Nacos, source::Source};
use crate::settings::{DiscoverySettings, SourceUrl, UpstreamUrl};

/// Soonest that a place is asked again, however short it says that its answer counts.
const SOONEST: Duration = Duration::from_secs(1);

/// One place, which is asked again and again. For one thread.
pub struct Finder {
    source: Box<dyn Source>,
    settings: DiscoverySettings,
}

impl std::fmt::Debug for Finder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finder").finish_non_exhaustive()
    }
}

impl Finder {
    /// `tls`: of whom certificates are believed.
    ///
    /// # Errors
    /// What there is to ask cannot be asked from here, in words.
    pub fn new(
        url: &SourceUrl,
        settings: &DiscoverySettings,
        tls: impl FnOnce() -> Arc<ClientConfig>,
    ) -> Result<Self, String> {
        let source: Box<dyn Source> = match url {
            SourceUrl::Addresses(url) => Box::new(Dns::new(url.clone(), false, settings)?),
            SourceUrl::Services(url) => Box::new(Dns::new(url.clone(), true, settings)?),
            SourceUrl::Nacos(url) => {
                Box::new(Nacos::new(url.clone(), settings, (url.api.scheme() == "https").then(tls)))
            }
        };
        Ok(Self { source, settings: settings.clone() })
    }

    /// The servers that there are now, in an order that all instances have, and when to ask again.
    ///
    /// # Errors
    /// There is no answer, none in it, or too many: in words, without a secret.
    pub async fn find(&mut self) -> (Result<Vec<UpstreamUrl>, String>, Instant) {
        let (timeout, interval) = (self.settings.timeout, self.settings.interval);
        let found = tokio::time::timeout(timeout, self.source.find()).await;
        let found = found.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")));
        let (found, lasts) = match found {
            Ok((found, lasts)) => (self.settled(found), lasts),
            Err(fault) => (Err(fault), None),
        };
        let pause = lasts.map_or(interval, |lasts| lasts.min(interval)).max(SOONEST.min(interval));
        // Not all instances at once.
        (found, Instant::now() + pause.mul_f64(0.9 + 0.1 * fastrand::f64()))
    }

    fn settled(&self, mut found: Vec<UpstreamUrl>) -> Result<Vec<UpstreamUrl>, String> {
        found.sort_by(|one, other| one.request_url().cmp(other.request_url()));
        found.dedup();
        match found.len() {
            0 => Err("it has no server".to_owned()),
            many if many > self.settings.most => {
                Err(format!("it has {many} servers, more than {} (MCP_DISCOVERY_MOST)", self.settings.most))
            }
            _ => Ok(found),
        }
    }
}
