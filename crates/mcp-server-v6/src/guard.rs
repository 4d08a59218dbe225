//! Protection of a server on loopback against web pages (DNS rebinding).
//!
//! A page from anywhere can have its own host name resolve to 127.0.0.1 and then talk to whatever listens there. Such a
//! request still says the name of the page in `Host` and, if it is not a plain GET, in `Origin`. So a server that
//! listens on loopback answers only to loopback names. A server on any other address cannot know by what names it is
//! rightly called, and lets all of them pass. (MCP 2024-11-05, transports, "Security Warning".)

use std::net::IpAddr;

use actix_web::{
    Error, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{StatusCode, header},
    middleware::Next,
    web,
};
use url::{Host, Url};

use crate::state::ServerState;

/// Refuses what does not come to, or from, a loopback name.
pub(crate) async fn loopback_names_only<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let guarded = request.app_data::<web::Data<ServerState>>().is_some_and(|state| state.options.address.is_loopback());
    if guarded {
        let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        if let Some(status) = refusal(text(header::HOST), text(header::ORIGIN)) {
            return Ok(request.into_response(HttpResponse::new(status)));
        }
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

/// 421 for a foreign `Host`, 403 for a foreign `Origin`, as the Python servers answer.
fn refusal(host: Option<&str>, origin: Option<&str>) -> Option<StatusCode> {
    // A request without these headers comes from no browser.
    if host.is_some_and(|authority| !names_loopback(&format!("http://{authority}"))) {
        Some(StatusCode::MISDIRECTED_REQUEST)
    } else if origin.is_some_and(|origin| !names_loopback(origin)) {
        Some(StatusCode::FORBIDDEN)
    } else {
        None
    }
}

fn names_loopback(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_pass() {
        let (misdirected, forbidden) = (Some(StatusCode::MISDIRECTED_REQUEST), Some(StatusCode::FORBIDDEN));
        for (host, origin, expected) in [
            (None, None, None),
            (Some("127.0.0.1:8071"), None, None),
            (Some("LOCALHOST"), Some("http://localhost:6274"), None),
            (Some("[::1]:8071"), Some("https://127.0.0.1"), None),
            (Some("evil.example:8071"), None, misdirected),
            (Some("localhost.evil.example"), None, misdirected),
            (Some("127.0.0.1@evil.example"), None, misdirected),
            (Some(""), None, misdirected),
            (Some("127.0.0.1:8071"), Some("http://evil.example"), forbidden),
            (Some("127.0.0.1:8071"), Some("null"), forbidden),
        ] {
            assert_eq!(refusal(host, origin), expected, "{host:?} {origin:?}");
        }
    }
}
