//! By what the router shows the servers of a service who it is: a header of its own, or tokens of an authorization server, for
//! itself or in the name of who asks. Never by what a client has shown (MCP, "Token Passthrough").
//!
//! | file | what stands there |
//! |---|---|
//! | this | which header a request gets, and which tokens are known |
//! | `grant` | how a token is had |
//! | `token` | a token, or why there is none |
//! | `sealed` | a client's token on its way to the instance that needs it |
//!
//! A token is asked for once for all who need it, and kept until it ends. One that a server refuses is dropped, and the
//! request goes again with another, once.

mod grant;
mod sealed;
mod token;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use actix_http::header::{self, HeaderName, HeaderValue};
use async_trait::async_trait;

use self::token::Token;
pub(super) use self::{grant::Client, token::NoCredential};
use crate::{
    metrics::Rows,
    settings::{Grant, ServiceCredential},
};

/// Tokens of one service that are kept, each of about 2 KiB.
const TOKENS_MAX: usize = 10_000;

/// For so long nobody asks again where no token was had: an authorization server in trouble is not helped by calls.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// Who asks, where tokens are had in his name.
#[async_trait]
pub trait Subject: Send + Sync {
    /// What tells him and what he may do from all others.
    async fn shown(&self) -> Result<Option<Shown>, String>;
}

/// What somebody has shown to this router.
#[derive(Clone)]
pub struct Shown {
    /// What tells him, and what his credential allows, from all others.
    pub key: Arc<str>,
    /// His token. Not for logs.
    pub token: String,
}

/// In whose name something is sent.
#[derive(Clone, Default)]
pub enum Who {
    /// Nobody's: enough where the router speaks for itself.
    #[default]
    Nobody,
    /// The router's own, also where others have tokens of their own: it looks whether a server is well.
    Itself,
    /// A client's.
    Subject(Arc<dyn Subject>),
}

impl fmt::Debug for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "Nobody",
            Self::Itself => "Itself",
            Self::Subject(_) => "Subject",
        })
    }
}

/// A header that is to be sent.
pub(super) type Credential = (HeaderName, HeaderValue);

/// See the module's text. Of one service.
pub struct Credentials {
    kind: RwLock<Option<ServiceCredential>>,
    tokens: Mutex<HashMap<Arc<str>, Arc<Slot>>>,
    counter: Rows,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// The token of one of those who need one. Who finds it locked waits for what comes of it.
type Slot = tokio::sync::Mutex<Option<Result<Token, (NoCredential, Instant)>>>;

impl Credentials {
    /// None, until [`Self::replace`]. `counter`: counts tokens by what came of them.
    pub fn new(counter: Rows) -> Self {
        Self { kind: RwLock::default(), tokens: Mutex::default(), counter }
    }

    /// From now on. Whether that is another one than before.
    pub fn replace(&self, kind: Option<ServiceCredential>) -> bool {
        let mut known = self.kind.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = *known != kind;
        if is_other {
            *known = kind;
            self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        is_other
    }

    /// Tokens are had in the name of who asks.
    pub fn are_of_users(&self) -> bool {
        let kind = self.kind.read().unwrap_or_else(PoisonError::into_inner);
        matches!(&*kind, Some(ServiceCredential::Grant(Grant { as_user: true, .. })))
    }

    /// The secret that only the router and its authorization server know, of a service whose tokens are its users'.
    pub fn secret_of_users(&self) -> Option<Vec<u8>> {
        let kind = self.kind.read().unwrap_or_else(PoisonError::into_inner);
        match &*kind {
            Some(ServiceCredential::Grant(grant)) if grant.as_user => {
                Some(grant.client_secret.expose().as_bytes().to_vec())
            }
            _ => None,
        }
    }

    /// The header for a request; `None`: it needs none. `refused`: the one that the server did not take.
    pub(super) async fn header(
        &self,
        who: &Who,
        client: &Client,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<Credential>, NoCredential> {
        let kind = self.kind.read().unwrap_or_else(PoisonError::into_inner).clone();
        let grant = match kind {
            None => return Ok(None),
            Some(ServiceCredential::Header { name, value }) => return Ok(Some((name, value))),
            Some(ServiceCredential::Grant(grant)) => grant,
        };
        let shown = match who {
            Who::Subject(subject) if grant.as_user => match subject.shown().await.map_err(NoCredential::NotNow)? {
                Some(shown) => Some(shown),
                None => {
                    let why = "its users' tokens are exchanged, and who asks has shown none that counts now";
                    return Err(NoCredential::Never(why.to_owned()));
                }
            },
            Who::Nobody if grant.as_user => {
                let why = "its users' tokens are exchanged, and this is asked in nobody's name";
                return Err(NoCredential::Never(why.to_owned()));
            }
            _ => None,
        };
        let slot = self.slot(shown.as_ref().map_or("", |shown| &shown.key));
        let mut slot = slot.lock().await;
        let now = Instant::now();
        match &*slot {
            Some(Ok(token)) if token.ends > now && refused != Some(&token.value) => {
                return Ok(Some((header::AUTHORIZATION, token.value.clone())));
            }
            Some(Err((error, until))) if *until > now => return Err(error.clone()),
            _ => {}
        }
        if refused.is_some() {
            self.counter.with_label_values(&["refused"]).inc();
        }
        let had = client.token(&grant, shown.as_ref().map(|shown| &*shown.token)).await;
        self.counter.with_label_values(&[if had.is_ok() { "had" } else { "failed" }]).inc();
        if let Err(error) = &had {
            tracing::warn!(endpoint = %grant.token_endpoint, %error, "no token for a server could be had");
        }
        let value = had.as_ref().map(|token| (header::AUTHORIZATION, token.value.clone())).map_err(Clone::clone);
        *slot = Some(had.map_err(|error| (error, Instant::now() + FAILED_PAUSE)));
        value.map(Some)
    }

    fn slot(&self, key: &str) -> Arc<Slot> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = tokens.get(key) {
            return Arc::clone(slot);
        }
        if tokens.len() >= TOKENS_MAX {
            let now = Instant::now();
            let counts = |slot: &Arc<Slot>| match slot.try_lock() {
                Ok(known) => matches!(&*known, Some(Ok(token)) if token.ends > now),
                // Somebody is at it.
                Err(_) => true,
            };
            tokens.retain(|_, slot| counts(slot));
            if tokens.len() >= TOKENS_MAX {
                // All of them count: half of them are had again when they are needed.
                let mut keeps = false;
                tokens.retain(|_, _| {
                    keeps = !keeps;
                    keeps
                });
            }
        }
        let slot = Arc::<Slot>::default();
        tokens.insert(key.into(), Arc::clone(&slot));
        slot
    }
}
