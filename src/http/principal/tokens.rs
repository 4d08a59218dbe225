//! Tokens of an authorization server: JWTs (RFC 9068, RFC 7519) that it has signed for this router and no other.
//!
//! A token is checked once; then it is found by its hash. What `jsonwebtoken` does is the form, the key's algorithm and the
//! signature. All that the claims say is judged here, from one reading of them in which each has the type that it must have:
//! the library compares what it finds, and passes over a claim of another type.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Validation, jwk::KeyAlgorithm};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    introspection::{Introspection, Told, Word},
    jwks::{IssuerKey, Jwks},
    resource::{self, Audience},
    ring_verifier,
};
use crate::{
    gateway::principal::{Kind, Principal},
    settings::AuthSettings,
};

/// Longest token that is looked at, in bytes; heads of requests are smaller as a whole.
const TOKEN_MAX: usize = 16 << 10;

/// Keys of one id that are tried.
const TRIED_MAX: usize = 4;

/// So many seconds a token counts whose end its authorization server does not say; it is asked again before.
const UNSAID_END: u64 = 3600;

type TokenHash = [u8; 32];

/// See the module's text.
#[derive(Debug)]
pub(super) struct Tokens {
    issuer: String,
    leeway: u64,
    scopes: Vec<String>,
    pub(super) jwks: Jwks,
    /// Who is asked about tokens that say nothing by themselves.
    pub(super) introspection: Option<Introspection>,
    known: RwLock<Cache>,
}

/// A token that was checked.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) principal: Principal,
    /// In their canonical form.
    audience: Arc<[String]>,
    /// Seconds since 1970, leeway included.
    ends: u64,
    /// It has every scope that is asked of all.
    is_enough: bool,
}

impl Checked {
    /// How long it counts yet.
    pub(super) fn left(&self) -> Duration {
        Duration::from_secs(self.ends.saturating_sub(unix_now()))
    }
}

/// Checked tokens: those of now, and those of before, which make way for the next ones.
#[derive(Debug, Default)]
struct Cache {
    now: HashMap<TokenHash, Checked>,
    before: HashMap<TokenHash, Checked>,
    most: usize,
    /// Of the keys by which they were checked.
    version: u64,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It is wrong, for good.
    Wrong(&'static str),
    /// It is right, and allows too little.
    TooLittle,
    /// It names a key that is not known (yet).
    UnknownKey,
    /// No key is known (yet).
    NoKeys,
    /// Its authorization server has not said (yet) what it is worth.
    Unsaid,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: Option<String>,
    client_id: Option<String>,
    aud: OneOrMany,
    exp: f64,
    nbf: Option<f64>,
    scope: Option<String>,
    /// As Azure and Okta have it.
    scp: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// It is no JWT (RFC 7519, section 3).
pub(super) fn is_opaque(token: &str) -> bool {
    token.split('.').count() != 3
}

pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Tokens {
    pub(super) fn new(issuer: &str, settings: &AuthSettings) -> Self {
        ring_verifier::install();
        Self {
            issuer: issuer.to_owned(),
            leeway: settings.leeway.as_secs(),
            scopes: settings.scopes.clone(),
            jwks: Jwks::new(issuer, settings),
            introspection: Introspection::new(settings),
            known: RwLock::new(Cache { most: settings.token_cache, ..Cache::default() }),
        }
    }

    /// Who shows this token, and for how long it counts. `for_us`: what it must be for.
    pub(super) fn holder(&self, token: &str, for_us: &Audience) -> Result<(Principal, Duration), Trouble> {
        let now = unix_now();
        let checked = self.checked(token, now)?;
        self.counts(checked, for_us, now)
    }

    /// What is known of this token, as far as it says or its authorization server does; whatever is asked for.
    ///
    /// # Errors
    /// It is no token of the issuer, or nobody can say that now.
    pub(super) fn checked(&self, token: &str, now: u64) -> Result<Checked, Trouble> {
        if let Some(introspection) = self.introspection.as_ref().filter(|_| is_opaque(token)) {
            let told = match introspection.word(token) {
                Word::Active(told) => told,
                Word::Inactive => return Err(Trouble::Wrong("a token that does not count")),
                Word::Unsaid => return Err(Trouble::Unsaid),
            };
            return self.judge(self.claims(&told, now)?, now);
        }
        let hash: TokenHash = Sha256::digest(token).into();
        let version = self.jwks.version();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&hash, version);
        if let Some(checked) = known {
            return Ok(checked);
        }
        let checked = self.check(token, now)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.put(hash, checked.clone(), version);
        Ok(checked)
    }

    /// Who has it, if it is for what is asked.
    fn counts(&self, checked: Checked, for_us: &Audience, now: u64) -> Result<(Principal, Duration), Trouble> {
        if now >= checked.ends {
            return Err(Trouble::Wrong("the token has expired"));
        }
        if !checked.audience.iter().any(|audience| for_us.is(audience)) {
            return Err(Trouble::Wrong("the token is for another resource"));
        }
        if !checked.is_enough {
            return Err(Trouble::TooLittle);
        }
        Ok((checked.principal, Duration::from_secs(checked.ends - now)))
    }

    /// Waits until it is said what this token is worth, or keys are known: for as long as either may take.
    pub(super) async fn learn(&self, token: &str) {
        match self.introspection.as_ref().filter(|_| is_opaque(token)) {
            Some(introspection) if token.len() <= TOKEN_MAX => introspection.learn(token).await,
            Some(_) => {}
            None => self.jwks.learn().await,
        }
    }

    /// As a token says them that says something. What its authorization server leaves out is as it always is there; for
    /// whom a token is it must say.
    fn claims(&self, told: &Told, now: u64) -> Result<Claims, Trouble> {
        let aud = told.aud.clone().and_then(|aud| serde_json::from_value(aud).ok());
        Ok(Claims {
            iss: told.iss.clone().unwrap_or_else(|| self.issuer.clone()),
            sub: told.sub.clone(),
            client_id: told.client_id.clone(),
            aud: aud.ok_or(Trouble::Wrong("the token is for no resource"))?,
            exp: told.exp.unwrap_or((now + UNSAID_END) as f64),
            nbf: told.nbf,
            scope: told.scope.clone(),
            scp: None,
        })
    }

    fn check(&self, token: &str, now: u64) -> Result<Checked, Trouble> {
        const NONE: Trouble = Trouble::Wrong("no token of the issuer");
        if token.len() > TOKEN_MAX {
            return Err(NONE);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| NONE)?;
        // RFC 9068, section 2.1; many issuers do not say at+jwt. Never a token that says it is for something else.
        let is_access_token = header.typ.as_deref().is_none_or(|typ| {
            let typ = typ.to_ascii_lowercase();
            ["jwt", "at+jwt", "application/at+jwt"].contains(&&*typ)
        });
        // RFC 7515, section 4.1.11: what must be understood, and nothing is.
        if !is_access_token || header.crit.is_some() {
            return Err(NONE);
        }
        let keys = self.jwks.keys();
        if keys.is_empty() {
            return Err(Trouble::NoKeys);
        }
        let fits = |key: &&IssuerKey| match (&header.kid, &key.id) {
            (Some(named), Some(id)) => named == id,
            (Some(_), None) => false,
            // Who has one key need not name it.
            (None, _) => keys.len() == 1,
        };
        let mut fitting = keys.iter().filter(fits).take(TRIED_MAX).peekable();
        if fitting.peek().is_none() {
            return Err(Trouble::UnknownKey);
        }
        let claims = fitting.find_map(|key| signed_by(key, token, header.alg)).ok_or(NONE)?;
        self.judge(claims, now)
    }

    fn judge(&self, claims: Claims, now: u64) -> Result<Checked, Trouble> {
        if claims.iss != self.issuer {
            return Err(Trouble::Wrong("the token is of another issuer"));
        }
        let seconds = |at: f64| at.is_finite().then_some(at.max(0.0) as u64);
        let exp = seconds(claims.exp).ok_or(Trouble::Wrong("the token has no end"))?;
        let nbf = claims.nbf.map(seconds);
        if nbf.is_some_and(|nbf| nbf.is_none_or(|nbf| nbf > now.saturating_add(self.leeway))) {
            return Err(Trouble::Wrong("the token does not count yet"));
        }
        // RFC 9068 has both; without a user the client speaks for itself.
        let who = claims.sub.or(claims.client_id).filter(|who| !who.is_empty());
        let who = who.ok_or(Trouble::Wrong("the token names nobody"))?;
        let scopes = claims.scope.into_iter().chain(claims.scp.map(OneOrMany::into_vec).unwrap_or_default());
        let scopes: Vec<String> =
            scopes.flat_map(|some| some.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
        let given = scopes.iter().map(String::as_str).filter(|scope| !scope.is_empty());
        let principal = Principal::new(Kind::Token, &self.issuer, &who, given);
        Ok(Checked {
            principal,
            // What is no URI is for nothing that is here.
            audience: claims.aud.into_vec().iter().filter_map(|uri| resource::canonical(uri)).collect(),
            ends: exp.saturating_add(self.leeway),
            is_enough: self.scopes.iter().all(|needed| scopes.contains(needed)),
        })
    }
}

/// What the token says, if this key has signed it.
fn signed_by(key: &IssuerKey, token: &str, algorithm: jsonwebtoken::Algorithm) -> Option<Claims> {
    let is_its = ring_verifier::algorithms(key.family).contains(&algorithm)
        && key.algorithm.is_none_or(|said| {
            said == KeyAlgorithm::UNKNOWN_ALGORITHM || format!("{said:?}") == format!("{algorithm:?}")
        });
    if !is_its {
        return None;
    }
    // Its claims are judged by `judge`.
    let mut form = Validation::new(algorithm);
    form.required_spec_claims.clear();
    (form.validate_exp, form.validate_nbf, form.validate_aud) = (false, false, false);
    jsonwebtoken::decode::<Claims>(token, &key.key, &form).ok().map(|decoded| decoded.claims)
}

impl Cache {
    fn get(&self, hash: &TokenHash, version: u64) -> Option<Checked> {
        if version != self.version {
            return None;
        }
        self.now.get(hash).or_else(|| self.before.get(hash)).cloned()
    }

    fn put(&mut self, hash: TokenHash, checked: Checked, version: u64) {
        if version != self.version {
            // A key may be gone, and with it what it had signed.
            (self.now, self.before, self.version) = (HashMap::new(), HashMap::new(), version);
        }
        if self.now.len() >= self.most / 2 {
            self.before = std::mem::take(&mut self.now);
        }
        self.now.insert(hash, checked);
    }
}
