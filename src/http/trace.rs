//! Where a message stands in the trace of its client, and what is told of its arrival.

use std::time::Instant;

use actix_web::{HttpRequest, http::header::HeaderName};

use crate::{
    metrics::Method,
    protocol::{session_id::SessionId, trace_context::TraceContext},
    session::env::Env,
    traces::{self, Kind, Place, Span, Tracer},
};

static PARENT: HeaderName = HeaderName::from_static("traceparent");
static STATE: HeaderName = HeaderName::from_static("tracestate");

/// Where this message stands: as it says itself (`params._meta`), or else as its request does, which may be that of a proxy.
/// `is_request`: it begins a trace where there is none. `None`: nothing is traced, or not this.
pub(super) fn place(env: &Env, request: &HttpRequest, body: &[u8], is_request: bool) -> Option<Place> {
    let tracer = env.traces.as_ref()?;
    let caller = TraceContext::of_message(body).or_else(|| of_headers(request));
    if caller.is_none() && !is_request {
        return None;
    }
    tracer.arrives(caller)
}

fn of_headers(request: &HttpRequest) -> Option<TraceContext> {
    let mut parents = request.headers().get_all(&PARENT);
    let parent = parents.next()?.to_str().ok()?;
    if parents.next().is_some() {
        return None;
    }
    // One list may stand in several (W3C Trace Context, section 3.3.1).
    let states = request.headers().get_all(&STATE).map(|state| state.to_str().ok()).collect::<Option<Vec<_>>>();
    TraceContext::read(parent, states.map(|states| states.join(",")).as_deref())
}

/// What there is to tell of an arrival.
pub(super) struct Arrival<'a> {
    pub(super) place: &'a Place,
    pub(super) method: &'a str,
    pub(super) service: Option<&'a str>,
    pub(super) session: Option<&'a SessionId>,
    /// When the whole of it was there.
    pub(super) begun: Instant,
}

impl Arrival<'_> {
    /// The message is taken, or, if it has no session, answered. `failed`: why not.
    pub(super) fn ends(self, tracer: Option<&Tracer>, failed: Option<&'static str>) {
        let Some(tracer) = tracer.filter(|_| self.place.context.is_sampled()) else { return };
        let method = Method::of(self.method).name();
        let mut span = Span::of(self.place, method, Kind::Server, self.begun).fact("mcp.method.name", method);
        if let Some(service) = self.service {
            span = span.fact("mcp_router.service", service.to_owned());
        }
        if let Some(session) = self.session {
            span = span.fact("mcp_router.session", traces::name_of(session));
        }
        tracer.record(span.failed_if(failed));
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_is_read_from_headers_that_name_one() {
        let of = |headers: &[(&'static str, &str)]| {
            let add = |request: TestRequest, header: &(&'static str, &str)| request.append_header(*header);
            let request = headers.iter().fold(TestRequest::default(), add).to_http_request();
            of_headers(&request).map(|context| context.stored())
        };
        assert_eq!(of(&[("traceparent", PARENT)]), Some(PARENT.to_owned()));
        let both = of(&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]);
        assert_eq!(both, Some(format!("{PARENT} a=1,b=2")));
        assert_eq!(of(&[("tracestate", "a=1")]), None);
        assert_eq!(of(&[("traceparent", PARENT), ("traceparent", PARENT)]), None);
        assert_eq!(of(&[("traceparent", "00-1-2-3")]), None);
    }
}
