//! Where an upstream sends a request on to (RFC 9110, section 15.4), and when it wants it again (section 10.2.3): pure.
//!
//! Only within its own origin: a message carries what the client said, and the router's credentials for that server.

use std::time::{Duration, SystemTime};

use actix_http::{
    Uri,
    header::{self, HeaderMap, HttpDate},
};

/// Followed for one request. A server that adds a slash and a default page needs two; browsers stop at twenty.
pub(super) const MAX_REDIRECTS: usize = 5;

/// Why a redirect is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFollowed {
    /// Without a `Location` that is a URL.
    #[error("it redirects (status {0}) without saying where to")]
    Nowhere(u16),
    /// Elsewhere.
    #[error(
        "it redirects (status {0}) to another origin, {1}, which is not followed: name that server in MCP_UPSTREAMS"
    )]
    OtherOrigin(u16, String),
    /// In circles, perhaps.
    #[error("it redirects more than {MAX_REDIRECTS} times")]
    TooOften,
}

/// The statuses with which a request is to be repeated as it is elsewhere; a GET also where a POST would become one.
pub(super) fn is_redirect(status: u16, is_get: bool) -> bool {
    matches!(status, 307 | 308) || (is_get && matches!(status, 301..=303))
}

/// Resolves `Location` against the URL that was asked for. Without a fragment and without credentials.
pub(super) fn target(from: &url::Url, status: u16, headers: &HeaderMap) -> Result<url::Url, NotFollowed> {
    let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
    let to = location.and_then(|location| from.join(location.trim()).ok()).ok_or(NotFollowed::Nowhere(status))?;
    if to.origin() != from.origin() {
        return Err(NotFollowed::OtherOrigin(status, to.origin().ascii_serialization()));
    }
    Ok(bare(to))
}

/// Without what is not sent in a request line.
pub(in crate::upstream) fn bare(mut url: url::Url) -> url::Url {
    url.set_fragment(None);
    // Both fail only for URLs that cannot have them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

/// As the request line has it.
pub(in crate::upstream) fn to_uri(url: &url::Url) -> Option<Uri> {
    url.as_str().parse().ok()
}

/// `Retry-After`: seconds or a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let given = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = given.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at: HttpDate = given.parse().ok()?;
    Some(SystemTime::from(at).duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_redirect_stays_within_its_origin() {
        let from: url::Url = "http://h:8071/a/sse?k=1".parse().unwrap();
        for (location, to) in [
            ("/a/sse/?k=1", Some("http://h:8071/a/sse/?k=1")),
            ("sse/", Some("http://h:8071/a/sse/")),
            ("?k=2#x", Some("http://h:8071/a/sse?k=2")),
            ("http://h:8071/b", Some("http://h:8071/b")),
            ("http://u:pw@h:8071/b", Some("http://h:8071/b")),
            ("http://h:8072/b", None),
            ("https://h:8071/b", None),
            ("//other/b", None),
            ("http://[", None),
        ] {
            let target = target(&from, 307, &headers(header::LOCATION, location));
            assert_eq!(target.ok().as_ref().map(url::Url::as_str), to, "{location}");
        }
        let secret = target(&from, 308, &headers(header::LOCATION, "http://u:pw@other/b?key=s")).unwrap_err();
        assert!(!secret.to_string().contains("pw") && !secret.to_string().contains("key"), "{secret}");
    }

    #[test]
    fn only_a_get_is_sent_on_where_a_post_would_change() {
        for (status, get, post) in [
            (301, true, false),
            (302, true, false),
            (303, true, false),
            (307, true, true),
            (308, true, true),
            (304, false, false),
            (300, false, false),
        ] {
            assert_eq!((is_redirect(status, true), is_redirect(status, false)), (get, post), "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let of = |value: &str| retry_after(&headers(header::RETRY_AFTER, value));
        assert_eq!(of("3"), Some(Duration::from_secs(3)));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(of("Fri, 01 Jan 2100 00:00:00 GMT").unwrap() > Duration::from_secs(86_400));
        assert_eq!(of("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
