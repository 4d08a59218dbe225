//! Tokens that say nothing by themselves: their authorization server is asked what they are worth (RFC 7662).
//!
//! What it says is kept for a while, also that it knows nothing of a token. One task of the process asks ([`Introspection::keep_up`]),
//! so many questions at a time; who finds no place is told to come again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use futures_util::StreamExt as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use url::{Url, form_urlencoded};

use super::fetch::Fetcher;
use crate::settings::AuthSettings;

/// Questions under way.
const AT_ONCE: usize = 32;

/// Questions that wait for those.
const WAITING_MAX: usize = 256;

/// So long it is not asked again about a token that it does not know, or when it does not answer.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

type TokenHash = [u8; 32];

/// What it says of a token that counts, as far as that is needed (RFC 7662, section 2.2).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Told {
    active: bool,
    pub(super) iss: Option<String>,
    pub(super) sub: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) aud: Option<serde_json::Value>,
    pub(super) exp: Option<f64>,
    pub(super) nbf: Option<f64>,
    pub(super) scope: Option<String>,
}

/// What is known of a token.
#[derive(Debug, Clone)]
pub(super) enum Word {
    /// It counts.
    Active(Arc<Told>),
    /// It does not.
    Inactive,
    /// Nobody has said.
    Unsaid,
}

/// See the module's text.
pub(super) struct Introspection {
    url: Url,
    authorization: String,
    ttl: Duration,
    timeout: Duration,
    pub(super) patience: Duration,
    most: usize,
    known: Mutex<HashMap<TokenHash, (Word, Instant)>>,
    questions: (mpsc::Sender<Question>, Mutex<Option<mpsc::Receiver<Question>>>),
}

struct Question {
    token: String,
    answered: oneshot::Sender<()>,
}

impl std::fmt::Debug for Introspection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Introspection").finish_non_exhaustive()
    }
}

impl Introspection {
    /// `None`: it is not asked.
    pub(super) fn new(settings: &AuthSettings) -> Option<Self> {
        let (url, id, secret) =
            (settings.introspection.clone()?, settings.client_id.as_ref()?, settings.client_secret.as_ref()?);
        let coded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", coded(id), coded(secret.expose()));
        let (ask, asked) = mpsc::channel(WAITING_MAX);
        Some(Self {
            url,
            authorization: format!("Basic {}", BASE64.encode(pair.as_bytes())),
            ttl: settings.introspection_ttl,
            timeout: settings.jwks_timeout,
            patience: settings.introspection_patience,
            most: settings.token_cache,
            known: Mutex::default(),
            questions: (ask, Mutex::new(Some(asked))),
        })
    }

    /// What is known of it now.
    pub(super) fn word(&self, token: &str) -> Word {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&hash_of(token)) {
            Some((word, until)) if *until > Instant::now() => word.clone(),
            _ => Word::Unsaid,
        }
    }

    /// Until when that is known.
    pub(super) fn word_ends(&self, token: &str) -> Option<Instant> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&hash_of(token)).map(|(_, until)| *until)
    }

    /// Asks, and waits for what is said.
    pub(super) async fn learn(&self, token: &str) {
        let (answered, answer) = oneshot::channel();
        if self.questions.0.try_send(Question { token: token.to_owned(), answered }).is_ok() {
            let _ = tokio::time::timeout(self.timeout, answer).await;
        }
    }

    /// Asks for as long as the process runs. Once.
    pub(super) async fn keep_up(&self, fetcher: &Fetcher) {
        let questions = self.questions.1.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut questions) = questions else { return };
        let questions = futures_util::stream::poll_fn(move |context| questions.poll_recv(context));
        questions.for_each_concurrent(AT_ONCE, |question| self.ask(fetcher, question)).await;
    }

    async fn ask(&self, fetcher: &Fetcher, Question { token, answered }: Question) {
        // Somebody has asked meanwhile, or nobody waits any more.
        if !matches!(self.word(&token), Word::Unsaid) || answered.is_closed() {
            let _ = answered.send(());
            return;
        }
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("token", &token).append_pair("token_type_hint", "access_token");
        let said = fetcher.post(self.url.as_str(), &self.authorization, form.finish()).await;
        let said = said.and_then(|body| {
            serde_json::from_slice::<Told>(&body).map_err(|_| "its answer says nothing of a token".to_owned())
        });
        match said {
            Ok(told) if told.active => self.note(&token, Word::Active(Arc::new(told)), self.ttl),
            Ok(_) => self.note(&token, Word::Inactive, self.ttl.min(UNKNOWN_FOR)),
            Err(fault) => tracing::warn!(url = %self.url, fault, "what a token is worth cannot be asked"),
        }
        let _ = answered.send(());
    }

    fn note(&self, token: &str, word: Word, lasts: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= self.most {
            let now = Instant::now();
            known.retain(|_, (_, until)| *until > now);
            if known.len() >= self.most {
                // Those that do not count are had cheaply again; whoever makes them up must not push out the others.
                known.retain(|_, (word, _)| matches!(word, Word::Active(_)));
            }
            if known.len() >= self.most {
                known.clear();
            }
        }
        known.insert(hash_of(token), (word, Instant::now() + lasts));
    }
}

fn hash_of(token: &str) -> TokenHash {
    Sha256::digest(token).into()
}
