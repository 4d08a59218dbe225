//! Who asks: the one place that decides it, before any handler runs (`super::guard`). Handlers take what was found with
//! `of`, and hand it down with what they ask for. SEC-1
//!
//! | file | what stands there |
//! |---|---|
//! | this | which credential counts, and what is said to who shows none |
//! | `keys` | keys of a file, which may change |
//! | `tokens` | tokens of an authorization server, checked once each |
//! | `resource` | what they must be for, and what clients are told of that |
//! | `introspection` | tokens of which their authorization server says what they are worth |
//! | `outlived` | those that are taken back before their end |
//! | `jwks`, `fetch`, `ring_verifier` | the keys that have signed them, how they are had, and what checks a signature |
//!
//! A credential that a client shows and that is wrong is refused, whatever else the request carries: nobody falls back to
//! being somebody else.

mod fetch;
mod introspection;
mod jwks;
mod keys;
mod outlived;
mod resource;
mod ring_verifier;
mod tokens;

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse,
    http::header::{self, HeaderName},
};
use futures_util::future;
use ipnet::IpNet;
use rustls::ClientConfig;
use tokio::time::Instant;

pub(super) use self::resource::WELL_KNOWN;
use self::{
    fetch::Fetcher,
    keys::Keys,
    resource::{Audience, Resource},
    tokens::{Tokens, Trouble},
};
use super::{error::ApiError, forwarded};
use crate::{
    gateway::principal::{Kind, Principal},
    settings::{Auth, KEY_PREFIX, Settings},
};

static API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Longest name that a proxy may give, in bytes: a distinguished name of a certificate with room to spare.
const NAME_MAX: usize = 1024;

/// See the module's text.
#[derive(Debug)]
pub struct Authority {
    keys: Option<Keys>,
    tokens: Option<(Tokens, Resource)>,
    proxy: Option<HeaderName>,
    trusted: Vec<IpNet>,
    timeout: Duration,
}

/// What a request shows, kept with it.
#[derive(Debug, Clone)]
struct Shown {
    principal: Principal,
    ends: Ends,
    /// By whom it was judged, for what is asked of a token later.
    by: Arc<Authority>,
}

/// When what was shown does not count any more, for responses that go on for long.
#[derive(Debug, Clone)]
enum Ends {
    Never,
    WithKey(keys::Watched),
    At(Instant),
}

/// Why nobody was found.
#[derive(Debug)]
pub(super) enum Unfound {
    /// For good. With the reason, for the counter.
    Refused(ApiError, &'static str),
    /// Keys of the issuer may tell: [`Authority::learn`].
    Unclear,
}

impl Authority {
    /// `None`: nobody is asked who he is.
    pub fn new(settings: &Settings) -> Option<Arc<Self>> {
        let auth = &settings.auth;
        let Auth::By { keys, tokens, proxy } = auth.by else { return None };
        let keys = auth.keys_file.clone().filter(|_| keys).map(|file| Keys::new(file, auth.reload));
        let issuer = auth.issuer.as_deref().filter(|_| tokens);
        let tokens = issuer.map(|issuer| (Tokens::new(issuer, auth), Resource::new(issuer, settings)));
        let header = || HeaderName::from_bytes(auth.proxy_header.as_bytes()).expect("the setting is checked");
        let trusted = settings.security.trusted_proxies.clone();
        let proxy = proxy.then(header);
        Some(Arc::new(Self { keys, tokens, proxy, trusted, timeout: auth.jwks_timeout }))
    }

    /// Looks after what may change while the process runs, for as long as it does. `tls`: of whom certificates are believed.
    pub async fn keep_up(&self, tls: impl FnOnce() -> Arc<ClientConfig>) {
        let keys = async {
            if let Some(keys) = &self.keys {
                keys.keep_up().await;
            }
        };
        let tokens = async {
            if let Some((tokens, _)) = &self.tokens {
                let fetcher = Fetcher::new(tls(), self.timeout);
                let introspection = async {
                    if let Some(introspection) = &tokens.introspection {
                        introspection.keep_up(&fetcher).await;
                    }
                };
                future::join(tokens.jwks.keep_up(&fetcher), introspection).await;
            }
        };
        future::join(keys, tokens).await;
    }

    /// Who asks, as far as that is known without waiting.
    pub fn who(self: &Arc<Self>, request: &HttpRequest) -> Option<Principal> {
        self.judge(request, true).ok().map(|shown| shown.principal)
    }

    /// Finds out who asks, and keeps it with the request. `is_last`: what is not known now is not waited for.
    ///
    /// # Errors
    /// See [`Unfound`].
    pub(super) fn establish(self: &Arc<Self>, request: &HttpRequest, is_last: bool) -> Result<(), Unfound> {
        let shown = self.judge(request, is_last)?;
        request.extensions_mut().insert(shown);
        Ok(())
    }

    /// Waits until more is known of the token that was shown, for as long as that may take.
    pub(super) async fn learn(&self, request: &HttpRequest) {
        let shown = self.credential(request).ok().flatten().map(|(token, _)| token.to_owned());
        if let (Some((tokens, _)), Some(token)) = (&self.tokens, shown) {
            tokens.learn(&token).await;
        }
    }

    /// What clients are told of the router as a resource (RFC 9728). `is_service`: there is one of this name.
    pub(super) fn metadata(&self, request: &HttpRequest, is_service: impl Fn(&str) -> bool) -> Option<HttpResponse> {
        self.tokens.as_ref()?.1.metadata(request, is_service)
    }

    fn judge(self: &Arc<Self>, request: &HttpRequest, is_last: bool) -> Result<Shown, Unfound> {
        if let Some((credential, is_key)) = self.credential(request)? {
            return match (&self.keys, &self.tokens) {
                (_, Some((tokens, resource))) if !is_key => {
                    let audience = resource.audience(request);
                    let (principal, left) = tokens
                        .holder(credential, &audience)
                        .map_err(|trouble| told(tokens, resource, &audience, trouble, is_last))?;
                    Ok(self.shown(principal, Ends::At(Instant::now() + left)))
                }
                (Some(keys), _) => {
                    let found = keys.holder(credential);
                    let (principal, watched) =
                        found.ok_or_else(|| self.refused(request, Some("no such key"), "unknown_key"))?;
                    Ok(self.shown(principal, Ends::WithKey(watched)))
                }
                (None, _) => Err(self.refused(request, Some("no such key"), "unknown_key")),
            };
        }
        let named = self.proxy.as_ref().filter(|_| forwarded::from_trusted_proxy(request, &self.trusted));
        let mut names = named.into_iter().flat_map(|header| request.headers().get_all(header));
        let nobody = || self.refused(request, None, "no_credential");
        let name = names.next().ok_or_else(nobody)?;
        if names.next().is_some() {
            return Err(self.refused(request, Some("more than one principal is named"), "ambiguous"));
        }
        let name = name.to_str().ok().filter(|name| (1..=NAME_MAX).contains(&name.len()));
        let name = name.ok_or_else(nobody)?;
        Ok(self.shown(Principal::new(Kind::Proxy, "", name, []), Ends::Never))
    }

    fn shown(self: &Arc<Self>, principal: Principal, ends: Ends) -> Shown {
        Shown { principal, ends, by: Arc::clone(self) }
    }

    /// What the client shows, if anything that is looked at here, and whether it is a key. Another scheme (Basic, for
    /// example) may be for a proxy before us, and so may a bearer's where neither keys nor tokens count.
    fn credential<'r>(&self, request: &'r HttpRequest) -> Result<Option<(&'r str, bool)>, Unfound> {
        if self.keys.is_none() && self.tokens.is_none() {
            return Ok(None);
        }
        let headers = request.headers();
        let mut bearers = headers.get_all(header::AUTHORIZATION).filter_map(|value| bearer(value.as_bytes()));
        let mut keys = headers.get_all(&API_KEY).map(header::HeaderValue::as_bytes).filter(|_| self.keys.is_some());
        let (first, is_key) = match (bearers.next(), keys.next()) {
            (None, None) => return Ok(None),
            (None, Some(key)) => (key, true),
            (Some(bearer), key) if key.is_none_or(|key| key == bearer) => {
                // The same twice is no contradiction.
                (bearer, key.is_some() || self.tokens.is_none() || bearer.starts_with(KEY_PREFIX.as_bytes()))
            }
            (Some(_), _) => return Err(self.refused(request, Some("two credentials in one request"), "ambiguous")),
        };
        if bearers.next().is_some() || keys.next().is_some() {
            return Err(self.refused(request, Some("two credentials in one request"), "ambiguous"));
        }
        Ok(Some((std::str::from_utf8(first).unwrap_or_default(), is_key)))
    }

    /// RFC 6750, section 3: without an error where no credential was shown. What is wrong is said in words of our own alone.
    fn refused(&self, request: &HttpRequest, wrong: Option<&str>, reason: &'static str) -> Unfound {
        let error = wrong.map(|wrong| ("invalid_token", wrong));
        let challenge = match (&self.tokens, error) {
            (Some((_, resource)), error) => resource.challenge(&resource.audience(request), error),
            (None, Some((error, wrong))) => {
                format!(r#"Bearer realm="mcp-router", error="{error}", error_description="{wrong}""#)
            }
            (None, None) => r#"Bearer realm="mcp-router""#.to_owned(),
        };
        Unfound::Refused(ApiError::Unauthorized { challenge }, reason)
    }
}

fn told(tokens: &Tokens, resource: &Resource, audience: &Audience, trouble: Trouble, is_last: bool) -> Unfound {
    let wrong =
        |text: &str| ApiError::Unauthorized { challenge: resource.challenge(audience, Some(("invalid_token", text))) };
    match trouble {
        Trouble::NoKeys | Trouble::UnknownKey if !is_last && tokens.jwks.may_learn() => Unfound::Unclear,
        Trouble::Unsaid if !is_last => Unfound::Unclear,
        Trouble::NoKeys | Trouble::Unsaid => Unfound::Refused(ApiError::NoIssuer, "no_issuer"),
        Trouble::UnknownKey => Unfound::Refused(wrong("a key that the issuer does not have"), "unknown_signer"),
        Trouble::Wrong(text) => Unfound::Refused(wrong(text), "bad_token"),
        Trouble::TooLittle => {
            let text = "the token lacks a scope";
            let challenge = resource.challenge(audience, Some(("insufficient_scope", text)));
            Unfound::Refused(ApiError::TooLittle { challenge }, "insufficient_scope")
        }
    }
}

/// RFC 9110, section 11.1: the scheme in any case, and some spaces behind it (section 11.4). Of a bearer who bears nothing the
/// empty text, which is wrong.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let end = value.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
    let (scheme, rest) = value.split_at(end);
    scheme.eq_ignore_ascii_case(b"Bearer").then(|| rest.trim_ascii_start())
}

/// Who asks. Nobody in particular, where nobody is asked who he is.
pub(super) fn of(request: &HttpRequest) -> Principal {
    request.extensions().get::<Shown>().map(|shown| shown.principal.clone()).unwrap_or_default()
}

/// The token by which somebody has shown who he is. Not for logs.
pub(super) struct Token {
    header: header::HeaderValue,
    ends: Instant,
}

impl Token {
    /// Its text, and how long it counts yet.
    pub(super) fn shown(&self) -> Option<(&str, Duration)> {
        let token = bearer(self.header.as_bytes()).and_then(|token| std::str::from_utf8(token).ok())?;
        Some((token, self.ends.saturating_duration_since(Instant::now())))
    }
}

/// The token that the request has shown, if it is one.
pub(super) fn token(request: &HttpRequest) -> Option<Token> {
    let ends = match request.extensions().get::<Shown>() {
        Some(Shown { principal, ends: Ends::At(ends), .. }) if principal.kind() == Some(Kind::Token) => *ends,
        _ => return None,
    };
    let mut headers = request.headers().get_all(header::AUTHORIZATION);
    headers.find(|header| bearer(header.as_bytes()).is_some()).map(|header| Token { header: header.clone(), ends })
}

/// The answer to who would be allowed to do it with a token of these scopes (RFC 6750, section 3.1).
pub(super) fn lacks(request: &HttpRequest, scopes: &[String]) -> ApiError {
    let authority = request.extensions().get::<Shown>().map(|shown| Arc::clone(&shown.by));
    let challenge = match authority.as_ref().and_then(|authority| authority.tokens.as_ref()) {
        Some((_, resource)) => {
            let text = Some(("insufficient_scope", "the token lacks a scope"));
            resource.challenge_for(&resource.audience(request), text, scopes)
        }
        None => r#"Bearer realm="mcp-router", error="insufficient_scope""#.to_owned(),
    };
    ApiError::TooLittle { challenge }
}

/// Comes to its end when what the request has shown does not count any more. `None`: it never does.
pub(super) fn end(request: &HttpRequest) -> Option<impl Future<Output = ()> + 'static> {
    let Shown { principal, ends, by } = request.extensions().get::<Shown>()?.clone();
    if matches!(ends, Ends::Never) {
        return None;
    }
    let token = token(request);
    Some(async move {
        match ends {
            Ends::Never => {}
            Ends::WithKey(watched) => watched.gone().await,
            Ends::At(then) => match (&by.tokens, token.as_ref().and_then(Token::shown)) {
                (Some((tokens, _)), Some((token, _))) => tokens.outlived(token, &principal, then).await,
                _ => tokio::time::sleep_until(then).await,
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::bearer;

    /// Who shows a credential is not taken for whom a proxy names, however empty it is. SEC-1
    #[test]
    fn a_bearer_is_one_in_any_case_and_with_nothing() {
        for (value, expected) in [
            ("Bearer x", Some("x")),
            ("bEARER   x y", Some("x y")),
            ("Bearer\tx", Some("x")),
            ("Bearer", Some("")),
            ("Bearer ", Some("")),
            ("Bearerx", None),
            ("Basic x", None),
            ("", None),
        ] {
            assert_eq!(bearer(value.as_bytes()), expected.map(str::as_bytes), "{value:?}");
        }
    }
}
