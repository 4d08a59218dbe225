//! CORS (Fetch standard, "CORS protocol"): what a web page of an allowed origin may send and read.
//!
//! Role: the headers of preflights and of answers. Who is allowed is decided by [`super::forwarded`] alone, so that the
//! check of DNS rebinding (SEC-3) and this one cannot disagree; that is why no middleware of its own (actix-cors) does it,
//! which would also put a future of every request on the heap. Credentials are not allowed: a page has no use for our
//! cookie, and tokens travel in headers.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};

/// What a page may read of an answer besides the headers that every page may. The Streamable HTTP transport's are among
/// them, so that a page can tell them from missing ones.
static EXPOSED: HeaderValue = HeaderValue::from_static(
    "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After, X-Request-ID, Allow, Accept-Encoding",
);

/// What every path takes together; which path takes what a 405 says.
static METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, DELETE, OPTIONS");

/// For a preflight that asks for no headers by name.
static HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type, Accept, Authorization, Last-Event-ID, Mcp-Session-Id, MCP-Protocol-Version, Mcp-Method, Mcp-Name, X-Request-ID",
);

/// Seconds for which a browser need not ask again; the most that Chromium takes is two hours.
static MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// An answer to a preflight differs by each of these.
static PREFLIGHT_VARY: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

/// Longest list of header names that is allowed back.
const REQUESTED_HEADERS_MAX: usize = 1024;

static REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
static ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// A browser asks whether it may send a request.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight of an allowed origin, whatever the path: what is there the request itself will tell.
pub(super) fn preflight(request: &HttpRequest, origin: &HeaderValue) -> HttpResponse {
    let asked = request.headers();
    let headers = asked
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .filter(|names| is_list_of_names(names.as_bytes()))
        .unwrap_or(&HEADERS);
    let mut response = HttpResponse::NoContent();
    response
        .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()))
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, METHODS.clone()))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone()))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, MAX_AGE.clone()))
        .insert_header((header::VARY, PREFLIGHT_VARY.clone()));
    if asked.contains_key(&REQUEST_PRIVATE_NETWORK) {
        response.insert_header((ALLOW_PRIVATE_NETWORK.clone(), HeaderValue::from_static("true")));
    }
    response.finish()
}

/// Names the origin in an answer to it, so that its page may read it.
pub(super) fn expose(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED.clone());
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}

/// Field names (RFC 9110, section 5.1) with commas and spaces between them, and not too many.
fn is_list_of_names(text: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~, \t".contains(byte);
    !text.is_empty() && text.len() <= REQUESTED_HEADERS_MAX && text.iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_preflight_allows_the_headers_that_were_asked_for() {
        let long = "x".repeat(REQUESTED_HEADERS_MAX + 1);
        let fallback = HEADERS.to_str().unwrap();
        for (asked, allowed) in [
            (Some("content-type, x-api-key"), "content-type, x-api-key"),
            (None, fallback),
            (Some(""), fallback),
            (Some("a\"b"), fallback),
            (Some(long.as_str()), fallback),
        ] {
            let mut request = TestRequest::default();
            if let Some(asked) = asked {
                request = request.insert_header((header::ACCESS_CONTROL_REQUEST_HEADERS, asked));
            }
            let response = preflight(&request.to_http_request(), &HeaderValue::from_static("https://a.example"));
            assert_eq!(response.status(), 204);
            assert_eq!(response.headers().get(header::ACCESS_CONTROL_ALLOW_HEADERS).unwrap(), allowed, "{asked:?}");
            assert!(response.headers().get(&ALLOW_PRIVATE_NETWORK).is_none());
        }
    }

    #[test]
    fn only_a_request_for_a_method_is_a_preflight() {
        let request = TestRequest::default().method(Method::OPTIONS);
        assert!(!is_preflight(&Method::OPTIONS, request.to_http_request().headers()));
        let request = TestRequest::default().insert_header((header::ACCESS_CONTROL_REQUEST_METHOD, "POST"));
        let request = request.to_http_request();
        assert!(is_preflight(&Method::OPTIONS, request.headers()));
        assert!(!is_preflight(&Method::POST, request.headers()));
    }
}
