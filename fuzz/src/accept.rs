//! What a client takes is what its `Accept` says in whatever case, with whatever space, in one line or in several.

use actix_web::{
    http::header::{ACCEPT, HeaderValue},
    test::TestRequest,
};
use mcp_router::http::accept::Takes;

fn takes(lines: &[&[u8]]) -> Option<(bool, bool)> {
    let mut request = TestRequest::default();
    for line in lines {
        request = request.append_header((ACCEPT, HeaderValue::from_bytes(line).ok()?));
    }
    let Takes { events, json } = Takes::of(&request.to_http_request());
    Some((events, json))
}

/// Bytes: the value of a header.
pub fn accept(data: &[u8]) {
    let Some(found) = takes(&[data]) else { return };
    let Ok(text) = std::str::from_utf8(data) else {
        // Letters that no media type has.
        return;
    };
    if !text.is_ascii() {
        return;
    }
    let shouted = text.to_ascii_uppercase();
    assert_eq!(takes(&[shouted.as_bytes()]), Some(found), "in upper case");
    let spaced = text.split(',').map(|range| format!("  {range}\t")).collect::<Vec<_>>().join(",");
    assert_eq!(takes(&[spaced.as_bytes()]), Some(found), "with space");
    // RFC 9110, section 5.3.
    let lines: Vec<&[u8]> = text.split(',').map(str::as_bytes).collect();
    if lines.len() <= 64 {
        assert_eq!(takes(&lines), Some(found), "in lines");
    }
    // Nobody gets what he has not named.
    let says_nothing = text.split(',').all(|range| range.trim().is_empty());
    let names = |media: &str| text.contains('*') || text.to_ascii_lowercase().contains(media);
    let may = (says_nothing || names("text/event-stream"), says_nothing || names("application/json"));
    assert!((may.0 || !found.0) && (may.1 || !found.1), "{text:?}: {found:?}");
    if says_nothing {
        assert_eq!(found, (true, true));
    }
}
