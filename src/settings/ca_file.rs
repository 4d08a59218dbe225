//! A file of certificates ([`CaFile`]). Unlike other settings this one is read where it is parsed, so that a file which is
//! not there or holds something else is told with whatever else is wrong.

use std::path::{Path, PathBuf};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
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
