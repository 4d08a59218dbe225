//! The URL of an upstream, which may hold a secret: user and password, or a key in its query.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use url::{Position, Url};

use super::mask::MASK;

/// `http` or `https` with a host, without a fragment. `Debug` and `Display` show neither credentials nor values of the query; only
/// [`Self::request_url`] and [`Self::authorization`] do, for the connection itself.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    url: Url,
    authorization: Option<String>,
}

impl UpstreamUrl {
    /// Credentials in the URL become the `Authorization` header (RFC 7617, UTF-8).
    pub fn new(mut url: Url) -> Self {
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        let authorization = has_credentials.then(|| {
            let mut pair = decoded(url.username());
            pair.push(b':');
            pair.extend(decoded(url.password().unwrap_or_default()));
            format!("Basic {}", STANDARD.encode(pair))
        });
        // Both fail only for URLs that have no host, and then no credentials.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Self { url, authorization }
    }

    /// What is requested, without credentials and with its query: never to be shown.
    pub fn request_url(&self) -> &Url {
        &self.url
    }

    /// The same for another server, with the same credentials.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn elsewhere<E>(&self, change: impl FnOnce(&mut Url) -> Result<(), E>) -> Result<Self, E> {
        let mut other = self.clone();
        change(&mut other.url)?;
        Ok(other)
    }

    /// It is an `https` one.
    pub fn is_secure(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Value of the `Authorization` header: never to be shown.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }
}

impl From<Url> for UpstreamUrl {
    fn from(url: Url) -> Self {
        Self::new(url)
    }
}

impl FromStr for UpstreamUrl {
    type Err = url::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::new)
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.authorization.is_some() { format!("{MASK}@") } else { String::new() };
        let (scheme, path) = (self.url.scheme(), &self.url[Position::BeforeHost..Position::AfterPath]);
        write!(f, "{scheme}://{user}{path}")?;
        let Some(query) = self.url.query() else { return Ok(()) };
        for (position, pair) in query.split('&').enumerate() {
            f.write_str(if position == 0 { "?" } else { "&" })?;
            match pair.split_once('=') {
                Some((name, value)) if value.contains(|c| c != '=') => write!(f, "{name}={MASK}")?,
                // A key alone may be the secret itself, in base64 with `=` at its end.
                _ => f.write_str(MASK)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_an_upstream_is_shown() {
        for (text, shown) in [
            ("http://h:8071/sse", "http://h:8071/sse"),
            ("http://h", "http://h/"),
            ("http://u:pw@h/sse", "http://***@h/sse"),
            ("http://token@h/sse", "http://***@h/sse"),
            ("http://:pw@h/sse", "http://***@h/sse"),
            ("http://h/sse?api_key=SECRET&x=1", "http://h/sse?api_key=***&x=***"),
            ("http://h/sse?SECRET", "http://h/sse?***"),
            ("http://h/sse?a=b=SECRET&SECRET", "http://h/sse?a=***&***"),
            ("http://[::1]:1/sse?k=", "http://[::1]:1/sse?***"),
            ("http://h/sse?U0VDUkVU==&a=b=", "http://h/sse?***&a=***"),
        ] {
            let url: UpstreamUrl = text.parse().unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn credentials_become_basic_authentication() {
        for (text, header) in [
            ("http://h/", None),
            ("http://Aladdin:open%20sesame@h/", Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")),
            ("http://t@h/", Some("Basic dDo=")),
            ("http://:%C3%A9@h/", Some("Basic OsOp")),
        ] {
            let url: UpstreamUrl = text.parse().unwrap();
            assert_eq!(url.authorization(), header, "{text}");
            assert_eq!(url.request_url().as_str(), "http://h/", "{text}");
        }
    }
}
