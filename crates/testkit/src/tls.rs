//! TLS with certificates made for the test, and in front of a server that speaks none: what an operator's proxy does.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{io::copy_bidirectional, net::TcpStream, task::AbortHandle};
pub use tokio_rustls::TlsAcceptor;
use tokio_rustls::TlsConnector;

use crate::listen;

/// Who issues certificates.
#[derive(Debug)]
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    /// A new one that nobody knows yet.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its secret key.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Writes its certificate to a file in this folder.
    pub fn file(&self, dir: &Path) -> PathBuf {
        let path = dir.join("ca.pem");
        std::fs::write(&path, &self.pem).expect("a file in the test's folder");
        path
    }

    fn issue(&self, names: &[&str]) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        let mut params = params.expect("names");
        // Under the authority's own name OpenSSL takes it for self-signed.
        params.distinguished_name.push(DnType::CommonName, "test");
        (params.signed_by(&key, &self.issuer).expect("a certificate"), key)
    }

    /// Writes a certificate for these names and addresses, and its secret key, to two files in this folder.
    pub fn certificate_files(&self, dir: &Path, names: &[&str]) -> [PathBuf; 2] {
        let (certificate, key) = self.issue(names);
        [("server.pem", certificate.pem()), ("server.key", key.serialize_pem())].map(|(name, text)| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("a file in the test's folder");
            path
        })
    }

    /// Takes TLS connections, with a certificate of its own for these names and addresses.
    pub fn acceptor(&self, names: &[&str]) -> TlsAcceptor {
        self.acceptor_for(names, Arc::new(NoClientAuth))
    }

    /// The same, of clients that have a certificate of this authority.
    pub fn acceptor_asking(&self, names: &[&str]) -> TlsAcceptor {
        let mut issuers = RootCertStore::empty();
        issuers.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("a certificate")).expect("an issuer");
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(issuers), provider).build();
        self.acceptor_for(names, verifier.expect("there is an issuer"))
    }

    fn acceptor_for(&self, names: &[&str], verifier: Arc<dyn ClientCertVerifier>) -> TlsAcceptor {
        let (certificate, key) = self.issue(names);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has what TLS needs")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("the key is the certificate's");
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Default for Ca {
    fn default() -> Self {
        Self::new()
    }
}

/// See module documentation.
#[derive(Debug)]
pub struct TlsFront {
    addr: SocketAddr,
    accepting: AbortHandle,
}

impl TlsFront {
    /// Takes TLS connections for `target`, with a certificate of `ca` for these names.
    pub async fn start(target: SocketAddr, ca: &Ca, names: &[&str]) -> Self {
        let acceptor = ca.acceptor(names);
        let (addr, accepting) = listen(move |client| pass(acceptor.clone(), client, target)).await;
        Self { addr, accepting }
    }

    /// The same, of clients that have a certificate of `ca`.
    pub async fn asking(target: SocketAddr, ca: &Ca, names: &[&str]) -> Self {
        let acceptor = ca.acceptor_asking(names);
        let (addr, accepting) = listen(move |client| pass(acceptor.clone(), client, target)).await;
        Self { addr, accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The event stream of the server behind it.
    pub fn url(&self) -> String {
        format!("https://{}/sse", self.addr)
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The other way round: takes plain connections, and speaks TLS to a server, so that what speaks plain HTTP, and any bytes that
/// are none, get to it.
#[derive(Debug)]
pub struct TlsTo {
    addr: SocketAddr,
    accepting: AbortHandle,
}

impl TlsTo {
    /// To this server on this machine, whose certificate is for `localhost` and of whom this PEM file has.
    pub async fn start(server: SocketAddr, ca: &Path) -> Self {
        let mut issuers = RootCertStore::empty();
        issuers.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("an issuer");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has what TLS needs")
            .with_root_certificates(issuers)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let (addr, accepting) = listen(move |client| speak(connector.clone(), client, server)).await;
        Self { addr, accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for TlsTo {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn speak(connector: TlsConnector, mut client: TcpStream, server: SocketAddr) {
    let _ = client.set_nodelay(true);
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = server.set_nodelay(true);
    let name = ServerName::try_from("localhost").expect("a name");
    let Ok(mut server) = connector.connect(name, server).await else { return };
    // What the server has said before its end comes through, however it ends.
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = tokio::io::split(&mut server);
    tokio::select! {
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
    }
}

async fn pass(acceptor: TlsAcceptor, client: TcpStream, target: SocketAddr) {
    let _ = client.set_nodelay(true);
    let Ok(mut client) = acceptor.accept(client).await else { return };
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let _ = server.set_nodelay(true);
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
