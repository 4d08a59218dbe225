//! The dashboard's page and its files, for browsers. They hold no secret: what they show they ask of [`super::deployment`] and
//! [`super::admin`], as the operator who looks. Where nobody who asks could be one, there is no page.
//!
//! Nothing in it comes from elsewhere, and its policy (CSP Level 3) allows no script or style but its own files, no frame around
//! it, and no text that becomes code (Trusted Types).

mod assets;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, HeaderName, HeaderValue},
};

use self::assets::Asset;
use super::{admin, error::ApiError, extract::NodeData, forwarded};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Where the page is, below the base path.
const PAGE: &str = "/ui/";

/// `GET /ui/{file}`
///
/// # Errors
/// There is no such file, or nobody here who could be an operator.
pub async fn file(node: NodeData, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    check_reach(&node, &request)?;
    let name = request.path().rsplit('/').next().unwrap_or_default();
    let asset = Asset::named(name).ok_or(ApiError::NoSuchPath)?;
    let (coding, body) = match best_coding(&request) {
        Some("br") => (Some("br"), asset.brotli),
        Some(_) => (Some("gzip"), asset.gzip),
        None => (None, asset.plain),
    };
    // A strong one differs by coding (RFC 9110, section 8.8.3.3).
    let tag = format!("\"{}{}\"", asset.tag(), coding.map(|coding| format!("-{coding}")).unwrap_or_default());
    let is_known = request.headers().get_all(header::IF_NONE_MATCH).any(|tags| {
        let mut tags = tags.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        tags.any(|known| known == b"*" || known.strip_prefix(b"W/").unwrap_or(known) == tag.as_bytes())
    });
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header((header::ETAG, tag))
        // Kept, but never shown without a word with the router, whose next version has others.
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::VARY, "Accept-Encoding"));
    for (name, value) in PROTECTED {
        response.insert_header((name, value));
    }
    if is_known {
        return Ok(response.finish());
    }
    if let Some(coding) = coding {
        response.insert_header((header::CONTENT_ENCODING, coding));
    }
    Ok(response.content_type(asset.media_type).body(body))
}

const PROTECTED: [(HeaderName, HeaderValue); 5] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// `GET /ui`: its files are beside it only with a slash.
///
/// # Errors
/// As of [`file()`].
pub async fn slash(node: NodeData, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    check_reach(&node, &request)?;
    Ok(send_to_page(&node, &request))
}

/// `GET /`: browsers are sent to the page; for others there is nothing.
///
/// # Errors
/// It is no browser, or there is nothing for it.
pub async fn root(node: NodeData, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let accepted = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if !accepted.contains("text/html") || check_reach(&node, &request).is_err() {
        return Err(ApiError::NoSuchPath);
    }
    Ok(send_to_page(&node, &request))
}

fn send_to_page(node: &NodeData, request: &HttpRequest) -> HttpResponse {
    let settings = &node.env.settings;
    let prefix = forwarded::prefix(request, &settings.security.trusted_proxies);
    let page = format!("{prefix}{}{PAGE}", settings.server.base_path);
    HttpResponse::Found().insert_header((header::LOCATION, page)).finish()
}

/// Somebody who asks in this way could be an operator: he is, or he may know the token.
fn check_reach(node: &NodeData, request: &HttpRequest) -> Result<(), ApiError> {
    let may_be = node.env.settings.security.admin_token.is_some() || admin::is_admin(node, request);
    if may_be { Ok(()) } else { Err(ApiError::NotAdmin) }
}

/// What the client takes of what there is (RFC 9110, section 12.5.3), the smallest first.
fn best_coding(request: &HttpRequest) -> Option<&'static str> {
    let accepted: Vec<&str> =
        request.headers().get_all(header::ACCEPT_ENCODING).filter_map(|value| value.to_str().ok()).collect();
    let takes = |coding: &str| {
        accepted.iter().flat_map(|list| list.split(',')).any(|item| {
            let (name, weight) = item.split_once(';').unwrap_or((item, ""));
            let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
            name.trim().eq_ignore_ascii_case(coding) && weight.is_ok_and(|weight| weight > 0.0)
        })
    };
    ["br", "gzip"].into_iter().find(|coding| takes(coding))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::{assets::ASSETS, *};

    #[test]
    fn the_smallest_form_that_is_taken_is_sent() {
        for (accepted, best) in [
            ("gzip, deflate, br, zstd", Some("br")),
            ("gzip", Some("gzip")),
            ("br;q=0, gzip;q=0.5", Some("gzip")),
            ("identity", None),
            ("", None),
            ("brotli", None),
            ("BR", Some("br")),
        ] {
            let request = TestRequest::default().insert_header((header::ACCEPT_ENCODING, accepted)).to_http_request();
            assert_eq!(best_coding(&request), best, "{accepted:?}");
        }
    }

    /// A policy helps nothing that the page itself breaks.
    #[test]
    fn the_page_has_no_code_of_its_own_and_asks_nobody_else() {
        let page = std::str::from_utf8(Asset::named("").unwrap().plain).unwrap();
        for part in ["<script>", "<style", "style=", "onload", "onclick", "http:", "https:", "//"] {
            assert!(!page.contains(part), "{part}");
        }
        assert_eq!(ASSETS.iter().filter(|asset| page.contains(asset.name)).count(), 3, "script, style, icon");
        for asset in &ASSETS {
            assert!(asset.brotli.len() <= asset.plain.len() && asset.gzip.len() <= asset.plain.len() + 32, "{asset:?}");
            assert_eq!(asset.tag().len(), 16);
        }
    }
}
