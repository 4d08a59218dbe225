//! The public keys of the issuer of tokens (RFC 7517): where they are, and when they are fetched again.
//!
//! One task of the process fetches ([`Jwks::keep_up`]), so that however many requests want keys there is one fetch at a time;
//! it does so regularly, and when a token names a key that is not known, though not more often than a floor says: whoever
//! makes tokens up can make key ids up. What was known stays known while the issuer cannot be reached.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jsonwebtoken::{
    AlgorithmFamily, DecodingKey,
    jwk::{Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, watch},
};

use super::fetch::Fetcher;
use crate::{
    backoff::Backoff,
    settings::{AuthSettings, KeySource},
};

/// Keys of one set that are looked at; real ones have a handful.
const KEYS_MAX: usize = 64;

/// Requests that wait for keys at a time; others are told to come again.
const WAITING_MAX: usize = 256;

/// A key of the issuer.
pub(super) struct IssuerKey {
    pub(super) id: Option<String>,
    /// Of what it is said to be, if it is said.
    pub(super) algorithm: Option<KeyAlgorithm>,
    pub(super) family: AlgorithmFamily,
    pub(super) key: DecodingKey,
}

/// See the module's text.
pub(super) struct Jwks {
    source: KeySource,
    issuer: String,
    ttl: Duration,
    floor: Duration,
    timeout: Duration,
    reload: Duration,
    keys: RwLock<Arc<Vec<IssuerKey>>>,
    /// Rises when other keys are there than before.
    version: AtomicU64,
    /// Changes with it.
    changed: watch::Sender<()>,
    /// As it was read last.
    text: Mutex<Vec<u8>>,
    tried: Mutex<Option<Instant>>,
    wanted: (mpsc::Sender<()>, Mutex<Option<mpsc::Receiver<()>>>),
    /// Changes at the end of each try.
    rounds: watch::Sender<()>,
    waiting: Semaphore,
}

/// The part of RFC 8414 and OpenID Connect Discovery that is needed.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

impl std::fmt::Debug for Jwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwks").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Jwks {
    /// Of this issuer. Nothing is fetched yet.
    pub(super) fn new(issuer: &str, settings: &AuthSettings) -> Self {
        let (want, wanted) = mpsc::channel(1);
        Self {
            source: settings.jwks.clone().unwrap_or(KeySource::Discovered),
            issuer: issuer.to_owned(),
            ttl: settings.jwks_ttl,
            floor: settings.jwks_floor,
            timeout: settings.jwks_timeout,
            reload: settings.reload,
            keys: RwLock::default(),
            version: AtomicU64::new(0),
            changed: watch::Sender::new(()),
            text: Mutex::default(),
            tried: Mutex::default(),
            wanted: (want, Mutex::new(Some(wanted))),
            rounds: watch::Sender::new(()),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }

    /// What is known.
    pub(super) fn keys(&self) -> Arc<Vec<IssuerKey>> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Of what is known: another one, other keys.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Changes when other keys are there than before.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// It is worth waiting for keys: none are known, or those that are known are not just fetched.
    pub(super) fn may_learn(&self) -> bool {
        let tried = *self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        tried.is_none_or(|tried| tried.elapsed() >= self.floor)
    }

    /// Waits for the end of a fetch, for as long as one may take.
    pub(super) async fn learn(&self) {
        let Ok(_place) = self.waiting.try_acquire() else { return };
        let mut rounds = self.rounds.subscribe();
        // Full: somebody has asked already.
        let _ = self.wanted.0.try_send(());
        let _ = tokio::time::timeout(self.timeout, rounds.changed()).await;
    }

    /// Fetches for as long as the process runs. Once.
    pub(super) async fn keep_up(&self, fetcher: &Fetcher) {
        let wanted = self.wanted.1.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut wanted) = wanted else { return };
        let mut hangup = signal(SignalKind::hangup()).ok();
        let mut failures = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut is_well = true;
        loop {
            let got = self.get(fetcher).await.and_then(|text| self.take(text));
            *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            self.rounds.send_replace(());
            // Who asked meanwhile has been answered.
            while wanted.try_recv().is_ok() {}
            let pause = match &got {
                Ok(()) if matches!(self.source, KeySource::File(_)) => self.reload,
                Ok(()) => self.ttl,
                Err(_) => failures.pause().min(self.ttl),
            };
            match got {
                Ok(()) => {
                    if !std::mem::replace(&mut is_well, true) {
                        tracing::info!(issuer = self.issuer, "the keys of the issuer of tokens can be had again");
                    }
                    failures = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
                }
                Err(fault) => {
                    if std::mem::replace(&mut is_well, false) {
                        let known = self.keys().len();
                        tracing::warn!(
                            issuer = self.issuer,
                            fault,
                            known,
                            "the keys of the issuer of tokens cannot be had"
                        );
                    }
                }
            }
            let asked = async {
                match &mut hangup {
                    Some(hangup) => drop(hangup.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = asked => {}
                _ = wanted.recv() => {
                    // Between two fetches that others have brought about.
                    let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner).map(|tried| tried.elapsed());
                    tokio::time::sleep(self.floor.saturating_sub(tried.unwrap_or_default())).await;
                }
            }
        }
    }

    async fn get(&self, fetcher: &Fetcher) -> Result<Vec<u8>, String> {
        match &self.source {
            KeySource::File(path) => read(path.clone()).await,
            KeySource::Url(url) => fetcher.get(url.as_str()).await,
            KeySource::Discovered => {
                let mut fault = String::new();
                for url in well_known(&self.issuer) {
                    match fetcher.get(&url).await.and_then(|text| self.place(&text)) {
                        Ok(place) => return fetcher.get(&place).await,
                        Err(wrong) => fault = format!("{url}: {wrong}"),
                    }
                }
                Err(fault)
            }
        }
    }

    /// Where its metadata say that the keys are.
    fn place(&self, text: &[u8]) -> Result<String, String> {
        let metadata: Metadata = serde_json::from_slice(text).map_err(|_| "no metadata of an issuer".to_owned())?;
        // RFC 8414, section 3.3.
        if metadata.issuer != self.issuer {
            return Err("these are metadata of another issuer than MCP_AUTH_ISSUER names".to_owned());
        }
        let is_trusted = crate::settings::is_trusted_url(&metadata.jwks_uri);
        if is_trusted { Ok(metadata.jwks_uri) } else { Err("its keys are not at an https URL".to_owned()) }
    }

    fn take(&self, text: Vec<u8>) -> Result<(), String> {
        let mut known = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == text {
            return Ok(());
        }
        let keys = keys_of(&text)?;
        if keys.is_empty() {
            return Err("there is no key in it by which tokens can be checked".to_owned());
        }
        tracing::info!(issuer = self.issuer, keys = keys.len(), "keys of the issuer of tokens");
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        self.version.fetch_add(1, Ordering::AcqRel);
        self.changed.send_replace(());
        *known = text;
        Ok(())
    }
}

async fn read(path: PathBuf) -> Result<Vec<u8>, String> {
    // A file system may hang.
    let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
    read.map_err(|fault| fault.to_string())?.map_err(|fault| fault.to_string())
}

/// Where an issuer's metadata are: RFC 8414, section 3.1, and OpenID Connect Discovery 1.0, section 4, in the order in
/// which MCP clients ask (MCP 2025-11-25, Authorization Server Metadata Discovery).
fn well_known(issuer: &str) -> Vec<String> {
    let Ok(url) = url::Url::parse(issuer) else { return Vec::new() };
    let origin = url.origin().ascii_serialization();
    let path = url.path().trim_end_matches('/');
    let mut all = vec![
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
        format!("{origin}/.well-known/openid-configuration{path}"),
    ];
    if !path.is_empty() {
        all.push(format!("{origin}{path}/.well-known/openid-configuration"));
    }
    all
}

/// The keys that can check a signature; others are passed over.
fn keys_of(text: &[u8]) -> Result<Vec<IssuerKey>, String> {
    let set: Set = serde_json::from_slice(text).map_err(|_| "no set of keys (JWKS)".to_owned())?;
    let usable = |jwk: serde_json::Value| {
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        let common = &jwk.common;
        if common.public_key_use.as_ref().is_some_and(|public| *public != PublicKeyUse::Signature) {
            return None;
        }
        let key = DecodingKey::from_jwk(&jwk).ok().filter(|key| key.family() != AlgorithmFamily::Hmac)?;
        Some(IssuerKey { id: common.key_id.clone(), algorithm: common.key_algorithm, family: key.family(), key })
    };
    Ok(set.keys.into_iter().take(KEYS_MAX).filter_map(usable).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_looked_for_where_the_specifications_put_them() {
        assert_eq!(
            well_known("https://a.example"),
            [
                "https://a.example/.well-known/oauth-authorization-server",
                "https://a.example/.well-known/openid-configuration"
            ]
        );
        assert_eq!(
            well_known("https://a.example:8443/t/1/"),
            [
                "https://a.example:8443/.well-known/oauth-authorization-server/t/1",
                "https://a.example:8443/.well-known/openid-configuration/t/1",
                "https://a.example:8443/t/1/.well-known/openid-configuration",
            ]
        );
    }

    #[test]
    fn of_a_set_only_public_keys_for_signatures_count() {
        let set = br#"{"keys":[
            {"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"},
            {"kty":"oct","k":"c2VjcmV0","kid":"shared"},
            {"kty":"RSA","n":"AQAB","e":"AQAB","use":"enc","kid":"enc"},
            {"kty":"new","kid":"unknown"},
            17
        ]}"#;
        let keys = keys_of(set).unwrap();
        assert_eq!(keys.iter().map(|key| key.id.as_deref()).collect::<Vec<_>>(), [Some("a")]);
        assert!(keys_of(b"{}").is_err() && keys_of(b"[]").is_err());
    }
}
