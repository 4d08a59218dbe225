//! Whom an `https://` endpoint's certificate is believed of: the issuers that this machine trusts (its system's store, or
//! what `SSL_CERT_FILE` names), and those of `MCP_UPSTREAM_CA_FILE`.
//!
//! Not a list built into the router: a server inside a company has a certificate of the company's own, which the
//! machine knows and no such list does, and what the machine stops trusting is not trusted here either.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::settings::CaFile;

/// Reads the system's store: once for a process.
pub(in crate::upstream) fn client_config(more: Option<&CaFile>) -> Arc<ClientConfig> {
    let mut issuers = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "some of the certificates that this system trusts cannot be read");
    }
    let (known, unusable) = issuers.add_parsable_certificates(system.certs);
    let more = more.map_or(&[][..], CaFile::certificates);
    issuers.add_parsable_certificates(more.iter().cloned());
    tracing::debug!(known, unusable, more = more.len(), "issuers whose certificates are believed");
    if issuers.is_empty() {
        tracing::warn!(
            "no issuer of certificates is trusted, so no https upstream can be reached: install the system's \
             (ca-certificates), or name a file of them in MCP_UPSTREAM_CA_FILE"
        );
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has what TLS 1.2 and 1.3 need")
        .with_root_certificates(issuers);
    let mut config = config.with_no_client_auth();
    // HTTP/2 would put all streams of a thread on one connection, which ends for all of them.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
