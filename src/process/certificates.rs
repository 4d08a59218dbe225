//! The certificates of this process: read at the start, and again when their files change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{ServerConfig, crypto::ring};

use super::fatal::Fatal;
use crate::{
    certificate::{self, Own},
    reread,
    settings::{PemFile, Settings},
};

/// A certificate, and where it is from.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// What connections are shown.
    pub(super) own: Arc<Own>,
    files: [PathBuf; 2],
}

/// See the module's text.
#[derive(Debug, Clone)]
pub(super) struct Certificates {
    /// On the router's own port.
    pub(super) server: Option<Kept>,
    /// Towards servers that ask for one.
    pub(super) upstream: Option<Kept>,
}

impl Certificates {
    /// Reads those that the settings name.
    ///
    /// # Errors
    /// [`Fatal::Certificate`]
    pub(super) fn read(settings: &Settings) -> Result<Self, Fatal> {
        let (server, upstream) = (&settings.server, &settings.upstream);
        Ok(Self {
            server: Kept::read(server.cert_file.as_ref(), server.key_file.as_ref())?,
            upstream: Kept::read(upstream.cert_file.as_ref(), upstream.key_file.as_ref())?,
        })
    }

    /// Looks after them for as long as the process runs. `within`: so soon a change counts.
    pub(super) fn keep(&self, within: Duration) {
        for kept in [&self.server, &self.upstream].into_iter().flatten().cloned() {
            actix_rt::spawn(async move {
                let paths = || kept.files.to_vec();
                let [certificate, key] = kept.files.clone();
                let read = move || certificate::read(&certificate, &key);
                reread::keep(paths, within, read, |next| kept.own.replace(next)).await;
            });
        }
    }
}

impl Kept {
    fn read(certificate: Option<&PemFile>, key: Option<&PemFile>) -> Result<Option<Self>, Fatal> {
        let path = |file: Option<&PemFile>| file.map(PemFile::path).map(Path::to_owned);
        let (Some(certificate), Some(key)) = (path(certificate), path(key)) else { return Ok(None) };
        let own = certificate::read(&certificate, &key).map_err(|fault| Fatal::Certificate { fault })?;
        Ok(Some(Self { own: Own::new(own), files: [certificate, key] }))
    }

    /// TLS 1.2 and 1.3, for a server. Which protocols are spoken over it actix adds: HTTP/2 and HTTP/1.1.
    pub(super) fn server_config(&self) -> ServerConfig {
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has what TLS 1.2 and 1.3 need")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.own) as Arc<_>)
    }
}
