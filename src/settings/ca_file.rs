//! Files of certificates and keys ([`CaFile`], [`PemFile`]). Unlike other settings these are read where they are parsed, so
//! that a file which is not there or holds something else is told with whatever else is wrong.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::parse::Parsed;

/// Certificates of issuers that are trusted, in PEM; at least one.
#[derive(Debug, Clone)]
pub struct CaFile {
    path: PathBuf,
    certificates: Vec<CertificateDer<'static>>,
}

impl CaFile {
    /// As it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}

/// Reads it.
pub(super) fn ca_file(text: &str) -> Parsed<CaFile> {
    let path = PathBuf::from(text);
    let expected = |fault: String| format!("a readable PEM file of certificates ({fault})");
    let certificates = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|fault| expected(fault.to_string()))?;
    if certificates.is_empty() {
        return Err(expected("there is none in it".to_owned()));
    }
    for certificate in &certificates {
        RootCertStore::empty().add(certificate.clone()).map_err(|fault| expected(fault.to_string()))?;
    }
    Ok(CaFile { path, certificates })
}

/// What a PEM file holds, which was looked at.
#[derive(Clone)]
pub struct PemFile {
    path: PathBuf,
    text: Vec<u8>,
}

/// Without the text, which may be a key (SEC-2).
impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl PemFile {
    /// As it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text.
    pub fn expose(&self) -> &[u8] {
        &self.text
    }

    fn read(text: &str, expected: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        match std::fs::read(&path) {
            Ok(text) => Ok(Self { path, text }),
            Err(fault) => Err(format!("{expected} ({fault})")),
        }
    }
}

/// Reads a file of at least one certificate.
pub(super) fn certificates(text: &str) -> Parsed<PemFile> {
    const EXPECTED: &str = "a readable PEM file of certificates";
    let file = PemFile::read(text, EXPECTED)?;
    let read = CertificateDer::pem_slice_iter(&file.text).collect::<Result<Vec<_>, _>>();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(format!("{EXPECTED} (there is none in it)")),
        Ok(_) => Ok(file),
        Err(fault) => Err(format!("{EXPECTED} ({fault})")),
    }
}

/// Reads a file of a secret key.
pub(super) fn secret_key(text: &str) -> Parsed<PemFile> {
    const EXPECTED: &str = "a readable PEM file of a secret key without a password";
    let file = PemFile::read(text, EXPECTED)?;
    match PrivateKeyDer::from_pem_slice(&file.text) {
        Ok(_) => Ok(file),
        Err(fault) => Err(format!("{EXPECTED} ({fault})")),
    }
}
