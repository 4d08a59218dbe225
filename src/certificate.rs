//! Certificates of the router's own ([`Own`]): towards clients on its own port, and towards servers that ask for one. They may
//! change while the process runs; connections that are open keep theirs.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// See the module's text.
#[derive(Debug)]
pub struct Own(RwLock<Arc<CertifiedKey>>);

/// A certificate with its chain, and its key.
///
/// # Errors
/// What is wrong with the files, in words without the key.
pub fn read(certificate: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let told = |path: &Path, fault: &dyn std::fmt::Display| format!("{}: {fault}", path.display());
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|fault| told(certificate, &fault))?;
    if chain.is_empty() {
        return Err(told(certificate, &"there is no certificate in it"));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|fault| told(key, &fault))?;
    let provider = ring::default_provider();
    CertifiedKey::from_der(chain, secret, &provider).map_err(|fault| {
        let what = match fault {
            rustls::Error::InconsistentKeys(_) => "it is not the key of the certificate".to_owned(),
            fault => fault.to_string(),
        };
        told(key, &what)
    })
}

impl Own {
    /// This one, for now.
    pub fn new(first: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(first))))
    }

    /// For connections from now on. Whether it is another one.
    pub fn replace(&self, next: CertifiedKey) -> bool {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = known.cert != next.cert;
        *known = Arc::new(next);
        is_other
    }

    fn now(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
