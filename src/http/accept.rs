//! What a client takes, by its `Accept` (RFC 9110, section 12.5.1), as far as the two media types of MCP need it.

use actix_web::{HttpRequest, http::header};

/// An event stream.
pub(super) const EVENTS: &str = "text/event-stream";
/// One message, or an array of them.
pub(super) const JSON: &str = "application/json";

/// As the SDKs write it, so that most requests need no reading of lists.
const BOTH: &[u8] = b"application/json, text/event-stream";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Takes {
    /// Event streams.
    pub events: bool,
    /// JSON.
    pub json: bool,
}

impl Takes {
    /// Both without an `Accept`, too. An empty one names nothing (section 5.6.1.2).
    pub fn of(request: &HttpRequest) -> Self {
        let mut all = request.headers().get_all(header::ACCEPT);
        let (first, second) = (all.next(), all.next());
        let is_usual = first.is_none_or(|accept| accept.as_bytes() == BOTH);
        if is_usual && second.is_none() {
            return Self { events: true, json: true };
        }
        let named = |accept: &&str| accept.split(',').any(|range| !range.trim().is_empty());
        let texts = || request.headers().get_all(header::ACCEPT).filter_map(|value| value.to_str().ok()).filter(named);
        let takes = |media| texts().next().is_none() || covers(texts(), media);
        Self { events: takes(EVENTS), json: takes(JSON) }
    }
}

fn covers<'a>(accepts: impl Iterator<Item = &'a str>, media: &str) -> bool {
    // The most specific range that names the type decides.
    let mut best: Option<(u8, bool)> = None;
    for range in accepts.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().unwrap_or_default();
        let whole_type = |main: &str| media.split_once('/').is_some_and(|(of, _)| of.eq_ignore_ascii_case(main));
        let rank = match named {
            _ if named.eq_ignore_ascii_case(media) => 3,
            "*/*" | "*" => 1,
            _ if named.strip_suffix("/*").is_some_and(whole_type) => 2,
            _ => continue,
        };
        let refused = parts.any(|part| {
            let quality = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            quality.and_then(|quality| quality.trim().parse::<f32>().ok()).is_some_and(|quality| quality <= 0.0)
        });
        if best.is_none_or(|(best, _)| rank > best) {
            best = Some((rank, !refused));
        }
    }
    best.is_some_and(|(_, accepted)| accepted)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn what_the_header_says_holds_whether_it_is_the_usual_one_or_another() {
        let takes = |lines: &[&str]| {
            let request = lines
                .iter()
                .fold(TestRequest::default(), |request, line| request.append_header((header::ACCEPT, *line)));
            let Takes { events, json } = Takes::of(&request.to_http_request());
            (events, json)
        };
        assert_eq!(takes(&[]), (true, true));
        assert_eq!(takes(&[""]), (true, true));
        assert_eq!(takes(&["application/json, text/event-stream"]), (true, true));
        assert_eq!(takes(&["application/json, text/event-stream", "text/event-stream;q=0"]), (true, true));
        assert_eq!(takes(&["text/event-stream", "application/json"]), (true, true));
        assert_eq!(takes(&["application/json"]), (false, true));
        assert_eq!(takes(&["text/event-stream", ""]), (true, false));
        assert_eq!(takes(&["text/html"]), (false, false));
    }

    #[test]
    fn who_does_not_take_a_type_is_told_from_who_does() {
        for (accept, events, json) in [
            ("text/event-stream", true, false),
            ("application/json, text/event-stream", true, true),
            ("TEXT/Event-Stream; charset=utf-8", true, false),
            ("*/*", true, true),
            ("text/*;q=0.5", true, false),
            ("application/*", false, true),
            ("application/json, */*;q=0.1", true, true),
            ("application/json", false, true),
            ("text/html, application/xhtml+xml", false, false),
            ("text/event-stream;q=0", false, false),
            ("*/*, text/event-stream; q=0.0", false, true),
            ("*/*;q=0, text/event-stream", true, false),
            ("", false, false),
        ] {
            assert_eq!(covers(std::iter::once(accept), EVENTS), events, "{accept:?}");
            assert_eq!(covers(std::iter::once(accept), JSON), json, "{accept:?}");
        }
    }
}
