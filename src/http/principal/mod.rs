//! Who asks: the one place that decides it, before any handler runs (`super::guard`). Handlers take what was found with
//! [`of`], and hand it down with what they ask for. SEC-1
//!
//! | file | what stands there |
//! |---|---|
//! | this | which credential counts, and what is said to who shows none |
//! | `keys` | keys of a file, which may change |
//!
//! A credential that a client shows and that is wrong is refused, whatever else the request carries: nobody falls back to
//! being somebody else.

mod keys;

use std::sync::Arc;

use actix_web::{
    HttpMessage as _, HttpRequest,
    http::header::{self, HeaderName},
};
use ipnet::IpNet;

use self::keys::Keys;
use super::{error::ApiError, forwarded};
use crate::{
    gateway::principal::{Kind, Principal},
    settings::{Auth, Settings},
};

static API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Longest name that a proxy may give, in bytes: a distinguished name of a certificate with room to spare.
const NAME_MAX: usize = 1024;

/// See the module's text.
#[derive(Debug)]
pub struct Authority {
    keys: Option<Keys>,
    proxy: Option<HeaderName>,
    trusted: Vec<IpNet>,
}

/// What a request shows, kept with it.
#[derive(Debug, Clone)]
struct Shown {
    principal: Principal,
    ends: Ends,
}

/// When what was shown does not count any more, for responses that go on for long.
#[derive(Debug, Clone)]
enum Ends {
    Never,
    WithKey(keys::Watched),
}

impl Authority {
    /// `None`: nobody is asked who he is.
    pub fn new(settings: &Settings) -> Option<Arc<Self>> {
        let auth = &settings.auth;
        let Auth::By { keys, proxy } = auth.by else { return None };
        let keys = auth.keys_file.clone().filter(|_| keys).map(|file| Keys::new(file, auth.reload));
        let header = || HeaderName::from_bytes(auth.proxy_header.as_bytes()).expect("the setting is checked");
        let trusted = settings.security.trusted_proxies.clone();
        Some(Arc::new(Self { keys, proxy: proxy.then(header), trusted }))
    }

    /// Looks after what may change while the process runs, for as long as it does.
    pub async fn keep_up(&self) {
        match &self.keys {
            Some(keys) => keys.keep_up().await,
            None => std::future::pending().await,
        }
    }

    /// Finds out who asks, and keeps it with the request.
    ///
    /// # Errors
    /// Nobody that is known here.
    pub(super) fn establish(&self, request: &HttpRequest) -> Result<(), ApiError> {
        let shown = self.judge(request)?;
        request.extensions_mut().insert(shown);
        Ok(())
    }

    fn judge(&self, request: &HttpRequest) -> Result<Shown, ApiError> {
        if let Some(keys) = &self.keys
            && let Some(key) = key(request)?
        {
            let (principal, watched) = keys.holder(key).ok_or_else(|| refused(Some("no such key")))?;
            return Ok(Shown { principal, ends: Ends::WithKey(watched) });
        }
        let named = self.proxy.as_ref().filter(|_| forwarded::from_trusted_proxy(request, &self.trusted));
        let mut names = named.into_iter().flat_map(|header| request.headers().get_all(header));
        let name = names.next().ok_or_else(|| refused(None))?;
        if names.next().is_some() {
            return Err(refused(Some("more than one principal is named")));
        }
        let name = name.to_str().ok().filter(|name| (1..=NAME_MAX).contains(&name.len()));
        let name = name.ok_or_else(|| refused(None))?;
        Ok(Shown { principal: Principal::new(Kind::Proxy, "", name, []), ends: Ends::Never })
    }
}

/// The key that a client shows, if any. Another scheme (Basic, for example) may be for a proxy before us.
fn key(request: &HttpRequest) -> Result<Option<&str>, ApiError> {
    let headers = request.headers();
    let mut shown = headers.get_all(header::AUTHORIZATION).filter_map(|value| bearer(value.as_bytes()));
    let mut keys = headers.get_all(&API_KEY).map(header::HeaderValue::as_bytes);
    let first = match (shown.next(), keys.next()) {
        (None, None) => return Ok(None),
        (Some(one), None) | (None, Some(one)) => one,
        // The same twice is no contradiction.
        (Some(one), Some(other)) if one == other => one,
        (Some(_), Some(_)) => return Err(refused(Some("two keys in one request"))),
    };
    if shown.next().is_some() || keys.next().is_some() {
        return Err(refused(Some("two keys in one request")));
    }
    Ok(Some(std::str::from_utf8(first).unwrap_or_default()))
}

/// RFC 9110, section 11.1: the scheme in any case, and some spaces behind it (section 11.4).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| rest.trim_ascii_start())
}

/// RFC 6750, section 3: without an error where no credential was shown. What is wrong is said in words of our own alone.
fn refused(wrong: Option<&'static str>) -> ApiError {
    let challenge = match wrong {
        Some(wrong) => {
            format!(r#"Bearer realm="mcp-router", error="invalid_token", error_description="{wrong}""#)
        }
        None => r#"Bearer realm="mcp-router""#.to_owned(),
    };
    ApiError::Unauthorized { challenge }
}

/// Who asks. Nobody in particular, where nobody is asked who he is.
pub(super) fn of(request: &HttpRequest) -> Principal {
    request.extensions().get::<Shown>().map(|shown| shown.principal.clone()).unwrap_or_default()
}

/// Comes to its end when what the request has shown does not count any more. `None`: it never does.
pub(super) fn end(request: &HttpRequest) -> Option<impl Future<Output = ()> + 'static> {
    match &request.extensions().get::<Shown>()?.ends {
        Ends::Never => None,
        Ends::WithKey(watched) => Some(watched.clone().gone()),
    }
}
