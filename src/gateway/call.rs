//! One JSON-RPC request in, its response out, for callers without a session: the router's own initialised sessions are
//! shared by all of them, with rewritten ids, so that nobody gets another's answer.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::{sync::watch, time::Instant};

use super::{
    shared::Gateway,
    under_way::{CallKey, Cancelled},
};
use crate::{
    metrics::{Method, Outcome, Took},
    protocol::{
        jsonrpc::{Head, Kind},
        mcp::{self, Repeatable},
        trace_context::TraceContext,
    },
    session::{pause_before_retry, recovery::MAX_ATTEMPTS},
    settings::UpstreamSettings,
    traces::{Kind as SpanKind, Place, Span, Tracer, fresh_span},
    upstream::{
        Service,
        actor::{Call, CallError, Initialized, Notify, UpstreamActor},
        call::flatten,
        tools::{self, Bounds, WalkError},
    },
};

/// Why a call was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnswered {
    /// As many as may be are under way (`MCP_REST_MAX_INFLIGHT`).
    #[error("too many calls under way")]
    TooMany,
    /// Every breaker of the service is open.
    #[error("no server of service {service} is healthy; the request was not executed")]
    NoEndpoint {
        /// The service.
        service: String,
    },
    /// The server has not answered, or with something that is no answer.
    #[error(transparent)]
    Upstream(#[from] CallError),
}

/// Why the tools of a service cannot be listed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotListed {
    /// No server gives its list.
    #[error(transparent)]
    Call(#[from] NotAnswered),
    /// What it gives is no list, or one without an end.
    #[error("{0}")]
    List(String),
}

/// One of the calls that may be under way.
#[derive(Debug)]
pub struct Slot<'a>(&'a AtomicUsize);

impl<'a> Slot<'a> {
    /// One more call; it counts until this is dropped.
    ///
    /// # Errors
    /// There are `limit` already.
    pub fn take(counter: &'a AtomicUsize, limit: usize) -> Result<Self, NotAnswered> {
        let slot = Self(counter);
        if counter.fetch_add(1, Ordering::AcqRel) >= limit {
            return Err(NotAnswered::TooMany);
        }
        Ok(slot)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Runs one request, and gives its response the caller's id. `key`: by which a cancel of the caller finds it; `place`: where it stands in a trace. To be
/// dropped when the caller is gone: its server is told then.
///
/// # Errors
/// See [`NotAnswered`].
pub async fn request(
    gateway: &Rc<Gateway>,
    service: &Arc<Service>,
    head: &Head<'_>,
    body: &Bytes,
    (key, place): (CallKey, Option<&Place>),
) -> Result<Bytes, NotAnswered> {
    let counted = Counted::begin(gateway, service, head.method().unwrap_or_default(), place);
    let (known, counting) = (gateway.shared.calls.register(key), &counted);
    let tools_version = service.tools.version();
    let response = if head.method() == Some(mcp::INITIALIZE) {
        // The shared session is initialised already; a second time would change it for everybody.
        on_some_endpoint(gateway, service, |upstream| async move { flatten(upstream.send(Initialized).await) }).await
    } else {
        run(gateway, service, (head, body), known.given_up(), counting).await
    };
    let response = response.inspect_err(|error| counted.failed(error))?;
    let Kind::Request { id, .. } = &head.kind else { return Ok(response) };
    let answer = Head::parse(&response).map_err(|_| CallError::Nonsense)?;
    counted.answered(matches!(answer.kind, Kind::Response { success: true, .. }));
    if let (Some(mcp::LIST_TOOLS), Some(result)) = (head.method(), answer.result) {
        service.tools.remember_page(result.get(), mcp::is_first_page(head.params), tools_version);
    }
    Ok(answer.with_id(&response, id.as_json()))
}

/// Sends a notification to some server of the service.
///
/// # Errors
/// See [`NotAnswered`].
pub async fn notify(gateway: &Rc<Gateway>, service: &Arc<Service>, body: &Bytes) -> Result<(), NotAnswered> {
    on_some_endpoint(gateway, service, |upstream| {
        let body = body.clone();
        async move { flatten(upstream.send(Notify { body }).await) }
    })
    .await
}

/// A caller gives its own call up. The caller's ids mean nothing on the shared session, or somebody else's call, so that
/// the notification itself goes nowhere. `key`: of the call that it names, if it names one.
pub fn cancel(gateway: &Gateway, key: Option<&CallKey>) {
    if key.map(|key| gateway.shared.calls.cancel(key)) != Some(Cancelled::One) {
        gateway.env.metrics.dropped.with_label_values(&["cancel_of_nothing"]).inc();
    }
}

/// All pages of the service's own `tools/list`, the tools as they came. From one server: what a cursor means is its own
/// affair.
///
/// # Errors
/// See [`NotListed`].
pub async fn list_tools(gateway: &Rc<Gateway>, service: &Arc<Service>) -> Result<Vec<Box<RawValue>>, NotListed> {
    let upstream = &gateway.env.settings.upstream;
    let (timeout, bounds) = (upstream.post_timeout, Bounds::new(upstream));
    let listed = on_some_endpoint(gateway, service, |upstream| {
        let service = Arc::clone(service);
        async move {
            let list = |body| {
                let upstream = upstream.clone();
                async move { flatten(upstream.send(Call { body, timeout, given_up: None, place: None }).await) }
            };
            match tools::walk(&service.tools, bounds, list).await {
                Ok(listed) => Ok(Ok(listed)),
                Err(WalkError::Call(error)) => Err(error),
                Err(error) => Ok(Err(error.to_string())),
            }
        }
    });
    listed.await?.map_err(NotListed::List)
}

/// Sends a request until it is answered, within its time limit. REQ-3
async fn run(
    gateway: &Rc<Gateway>,
    service: &Arc<Service>,
    (head, body): (&Head<'_>, &Bytes),
    mut given_up: watch::Receiver<bool>,
    counted: &Counted,
) -> Result<Bytes, NotAnswered> {
    let settings = &gateway.env.settings.upstream;
    let deadline = Instant::now() + settings.request_timeout;
    let mut tries = Tries::default();
    loop {
        let place = counted.sent();
        let call = |upstream: Addr<UpstreamActor>| {
            let timeout = deadline.saturating_duration_since(Instant::now());
            let call = Call { body: body.clone(), timeout, given_up: Some(given_up.clone()), place: place.clone() };
            async move { flatten(upstream.send(call).await) }
        };
        let error = match on_some_endpoint(gateway, service, call).await {
            Ok(answer) => return Ok(answer),
            Err(NotAnswered::Upstream(error)) => error,
            Err(error) => return Err(error),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        match tries.after(error, settings, left, || is_repeatable(service, head)) {
            Next::AtOnce => {}
            Next::After(pause) => tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = given_up.changed() => return Err(CallError::Cancelled.into()),
            },
            Next::Over(error) => return Err(error.into()),
        }
    }
}

/// A call for the metrics; a caller that leaves before its answer has cancelled it.
pub(super) struct Counted {
    service: Arc<Service>,
    method: Method,
    begun: Instant,
    /// For the last time.
    sent: Cell<Option<Instant>>,
    is_over: Cell<bool>,
    /// Where it stands in a trace, and the span about its way to a server.
    traced: Option<(Tracer, TraceContext)>,
    under_way: Cell<Option<([u8; 8], std::time::Instant)>>,
}

impl Counted {
    pub(super) fn begin(gateway: &Gateway, service: &Arc<Service>, method: &str, place: Option<&Place>) -> Self {
        let method = Method::of(method);
        let (sent, is_over, under_way) = (Cell::new(None), Cell::new(false), Cell::new(None));
        let traced = gateway.env.traces.clone().zip(place.map(|place| place.context.clone()));
        Self { service: Arc::clone(service), method, begun: Instant::now(), sent, is_over, traced, under_way }
    }

    /// What its server is told of its place in a trace.
    pub(super) fn sent(&self) -> Option<TraceContext> {
        self.sent.set(Some(Instant::now()));
        let (_, context) = self.traced.as_ref()?;
        self.came_back(Some("sent_again"));
        if !context.is_sampled() {
            return Some(context.clone());
        }
        let span_id = fresh_span();
        self.under_way.set(Some((span_id, std::time::Instant::now())));
        Some(context.with_span(span_id))
    }

    fn came_back(&self, failed: Option<&'static str>) {
        if let Some(((tracer, context), (span_id, since))) = self.traced.as_ref().zip(self.under_way.take()) {
            let span = Span::child(context, "upstream", SpanKind::Client, since);
            tracer.record(span.known_as(span_id).failed_if(failed));
        }
    }

    pub(super) fn answered(&self, success: bool) {
        self.ended(if success { Outcome::Ok } else { Outcome::Error }, self.sent.get().map(|sent| sent.elapsed()));
    }

    pub(super) fn failed(&self, error: &NotAnswered) {
        let outcome = match error {
            NotAnswered::Upstream(CallError::Cancelled) => Outcome::Cancelled,
            NotAnswered::TooMany | NotAnswered::NoEndpoint { .. } => Outcome::Refused,
            NotAnswered::Upstream(CallError::Unreachable(_) | CallError::NotNow { .. } | CallError::Refused(_)) => {
                Outcome::Refused
            }
            NotAnswered::Upstream(_) => Outcome::Unknown,
        };
        self.ended(outcome, None);
    }

    fn ended(&self, outcome: Outcome, upstream: Option<Duration>) {
        self.is_over.set(true);
        self.came_back(match outcome {
            Outcome::Ok => None,
            Outcome::Error => Some("error"),
            Outcome::Refused => Some("refused"),
            Outcome::Unknown => Some("unknown"),
            Outcome::Cancelled => Some("cancelled"),
        });
        let took = Took { whole: self.begun.elapsed(), upstream, store: Duration::ZERO };
        self.service.metrics.ended(self.method, outcome, took);
        if let Some((_, context)) = self.traced.as_ref().filter(|(_, context)| context.is_sampled()) {
            self.service.metrics.is_of_trace(took.whole, context);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.is_over.get() {
            self.came_back(Some("cancelled"));
            self.service.metrics.count(self.method, Outcome::Cancelled);
        }
    }
}

/// How often a call was tried.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// It was sent, and no answer came.
    lost: u32,
    /// It was not taken.
    refused: u32,
}

/// What is done about a call that has failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    AtOnce,
    After(Duration),
    Over(CallError),
}

impl Tries {
    /// Again at once if its outcome is unknown and that does no harm, and after a pause if no server takes it for the time
    /// being. `left`: of the call's time.
    pub(super) fn after(
        &mut self,
        error: CallError,
        settings: &UpstreamSettings,
        left: Duration,
        is_repeatable: impl FnOnce() -> bool,
    ) -> Next {
        match error {
            CallError::Lost(_) if self.lost + 1 < MAX_ATTEMPTS && is_repeatable() => {
                self.lost += 1;
                Next::AtOnce
            }
            CallError::NotNow { retry_after, .. } => {
                let pause = pause_before_retry(settings, retry_after, self.refused);
                if pause >= left {
                    return Next::Over(error);
                }
                self.refused += 1;
                Next::After(pause)
            }
            // The whole limit, not what was left of it.
            CallError::TimedOut(_) => Next::Over(CallError::TimedOut(settings.request_timeout)),
            error => Next::Over(error),
        }
    }
}

/// It may run twice without harm.
pub(super) fn is_repeatable(service: &Service, head: &Head<'_>) -> bool {
    match mcp::repeatable(head.method().unwrap_or_default(), head.params) {
        Repeatable::Yes => true,
        Repeatable::No => false,
        Repeatable::IfToolSays(tool) => service.tools.repeatable(&tool) == Some(true),
    }
}

/// Tries healthy endpoints, least busy first, and then the others, until one takes the request. Another is tried only when
/// the one before has not seen the request.
async fn on_some_endpoint<T, F, Fut>(
    gateway: &Rc<Gateway>,
    service: &Arc<Service>,
    operation: F,
) -> Result<T, NotAnswered>
where
    F: Fn(Addr<UpstreamActor>) -> Fut,
    Fut: Future<Output = Result<T, CallError>>,
{
    let mut last = None;
    for endpoint in service.candidates() {
        match operation(gateway.member.lines.actor(&endpoint)).await {
            Ok(done) => return Ok(done),
            Err(error) => last = Some(next_endpoint(last, error)?),
        }
    }
    Err(last.map_or_else(|| NotAnswered::NoEndpoint { service: service.name.clone() }, NotAnswered::Upstream))
}

/// What the caller is told if no other endpoint takes the call. `last`: what it was to be told so far.
///
/// # Errors
/// No other one may be tried: this one may have seen the call.
pub(super) fn next_endpoint(last: Option<CallError>, error: CallError) -> Result<CallError, CallError> {
    match error {
        // One that only has no time now is worth another try.
        CallError::NotNow { .. } => Ok(error),
        CallError::Unreachable(_) => Ok(last.unwrap_or(error)),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn not_now() -> CallError {
        CallError::NotNow { status: 429, retry_after: None }
    }

    fn lost() -> CallError {
        CallError::Lost("x".to_owned())
    }

    /// REQ-3
    #[test]
    fn a_call_of_unknown_outcome_is_repeated_only_where_that_does_no_harm_and_not_for_ever() {
        let settings = Settings::from_pairs([("", ""); 0]).unwrap().upstream;
        let left = Duration::from_secs(60);
        let mut tries = Tries::default();
        assert_eq!(tries.after(lost(), &settings, left, || false), Next::Over(lost()));
        for _ in 1..MAX_ATTEMPTS {
            assert_eq!(tries.after(lost(), &settings, left, || true), Next::AtOnce);
        }
        assert_eq!(tries.after(lost(), &settings, left, || true), Next::Over(lost()));
        for over in [
            CallError::Refused(400),
            CallError::Unreachable("x".to_owned()),
            CallError::Nonsense,
            CallError::TooLarge { limit: 1 },
            CallError::Cancelled,
        ] {
            assert_eq!(Tries::default().after(over.clone(), &settings, left, || true), Next::Over(over));
        }
    }

    #[test]
    fn a_call_that_no_server_takes_waits_while_there_is_time() {
        let settings = Settings::from_pairs([("", ""); 0]).unwrap().upstream;
        let mut tries = Tries::default();
        let Next::After(pause) = tries.after(not_now(), &settings, Duration::from_secs(60), || false) else {
            panic!("it is worth another try")
        };
        assert!(pause >= settings.backoff_min / 2);
        assert_eq!(tries.refused, 1);
        assert_eq!(tries.after(not_now(), &settings, Duration::ZERO, || false), Next::Over(not_now()));
        let late = CallError::TimedOut(Duration::from_millis(3));
        let whole = CallError::TimedOut(settings.request_timeout);
        assert_eq!(tries.after(late, &settings, Duration::ZERO, || true), Next::Over(whole));
    }

    #[test]
    fn another_server_is_asked_only_if_this_one_has_not_seen_the_call() {
        let unreachable = || CallError::Unreachable("x".to_owned());
        for (last, error, expected) in [
            (None, unreachable(), Ok(unreachable())),
            (None, not_now(), Ok(not_now())),
            // Which of them tells the caller more.
            (Some(not_now()), unreachable(), Ok(not_now())),
            (Some(unreachable()), not_now(), Ok(not_now())),
            (Some(not_now()), lost(), Err(lost())),
            (None, CallError::Refused(400), Err(CallError::Refused(400))),
            (None, CallError::TimedOut(Duration::ZERO), Err(CallError::TimedOut(Duration::ZERO))),
        ] {
            assert_eq!(next_endpoint(last, error), expected);
        }
    }

    #[test]
    fn a_place_is_given_back_also_by_whom_there_was_none_for() {
        let counter = AtomicUsize::new(0);
        let first = Slot::take(&counter, 1).unwrap();
        assert_eq!(Slot::take(&counter, 1).unwrap_err(), NotAnswered::TooMany);
        drop(first);
        assert!(Slot::take(&counter, 1).is_ok());
        assert_eq!(counter.load(Ordering::Relaxed), 0);
    }
}
