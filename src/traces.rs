//! Traces: where a message stands in the trace that its client began, what this process did for it, and the way of that to a
//! receiver of OTLP (`OTEL_EXPORTER_OTLP_ENDPOINT`).
//!
//! Who has no [`Tracer`] traces nothing: that is one branch a message. Nobody waits for a receiver: what does not fit into the
//! queue is dropped and counted. No span holds a payload, a token or a session id (SEC-2): a session is named by a hash.

mod export;
mod otlp;
mod sample;
mod span;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};

pub use self::{
    export::Exporter,
    span::{Fact, Kind, Span},
};
use crate::{
    metrics::Metrics,
    protocol::{
        session_id::SessionId,
        trace_context::{Hex, TraceContext},
    },
    settings::TraceSettings,
};

/// How long the end of the process waits for the last spans, at most.
const FAREWELL: Duration = Duration::from_secs(2);

/// See the module's text. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sampler: sample::Sampler,
    orders: mpsc::Sender<Order>,
    metrics: Metrics,
}

#[derive(Debug)]
enum Order {
    Send(Box<Span>),
    /// Tell when everything before it is sent, or dropped.
    Flush(oneshot::Sender<()>),
}

/// Where a message stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The span that is about its arrival here; of a trace that is not recorded, its caller's.
    pub context: TraceContext,
    /// Its caller's span.
    pub parent: Option<[u8; 8]>,
}

impl Tracer {
    /// With what sends its spans. `None`: nothing is to be traced.
    pub fn new(settings: &TraceSettings, instance: &str, metrics: &Metrics) -> Option<(Self, Exporter)> {
        let url = export::url(settings).filter(|_| !settings.disabled)?;
        let (orders, ordered) = mpsc::channel(settings.queue);
        let shared = Shared { sampler: sample::Sampler::new(settings), orders, metrics: metrics.clone() };
        let exporter = Exporter::new(settings, url, instance, ordered, metrics.clone());
        Some((Self(Arc::new(shared)), exporter))
    }

    /// Where a message stands whose caller stands here; one without a caller begins a trace. `None`: there is nothing to tell
    /// anybody.
    pub fn arrives(&self, caller: Option<TraceContext>) -> Option<Place> {
        let Some(caller) = caller else {
            let begun = TraceContext::begin(fastrand::u128(1..).to_be_bytes(), fresh_span());
            let is_recorded = self.0.sampler.records(&begun.trace_id, None);
            return is_recorded.then_some(Place { context: begun, parent: None });
        };
        let parent = Some(caller.span_id);
        let is_recorded = self.0.sampler.records(&caller.trace_id, Some(caller.is_sampled()));
        let context = if is_recorded { caller.with_span(fresh_span()) } else { caller };
        Some(Place { context: context.sampled(is_recorded), parent })
    }

    /// Takes a span that is over. Never waits.
    pub fn record(&self, span: Span) {
        if !span.context.is_sampled() {
            return;
        }
        if self.0.orders.try_send(Order::Send(Box::new(span))).is_err() {
            self.0.metrics.spans_dropped.with_label_values(&["queue_full"]).inc();
        }
    }

    /// Spans that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.0.orders.max_capacity() - self.0.orders.capacity()
    }

    /// Waits until everything that was recorded is sent, but not for long.
    pub async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        let flushed = async {
            if self.0.orders.send(Order::Flush(done)).await.is_ok() {
                let _ = is_done.await;
            }
        };
        if tokio::time::timeout(FAREWELL, flushed).await.is_err() {
            tracing::warn!("the last spans could not be sent in time");
        }
    }
}

/// The id of another span.
pub fn fresh_span() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}

/// When that was by the clock that spans are told by.
pub fn at(instant: Instant) -> SystemTime {
    SystemTime::now() - instant.elapsed()
}

/// How spans name a session: the same for all instances, and nothing by which it could be used.
pub fn name_of(session: &SessionId) -> String {
    Hex(&Sha256::digest(session.reveal().as_bytes())[..8]).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn tracer(pairs: &[(&str, &str)]) -> Option<(Tracer, Exporter)> {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
        let settings = Settings::from_pairs(pairs.iter().copied().chain([endpoint])).unwrap().traces;
        Tracer::new(&settings, "i", &Metrics::new())
    }

    #[test]
    fn nothing_is_traced_unless_it_is_asked_for() {
        let settings = Settings::from_pairs([("", ""); 0]).unwrap().traces;
        assert!(Tracer::new(&settings, "i", &Metrics::new()).is_none());
        assert!(tracer(&[("OTEL_SDK_DISABLED", "true")]).is_none());
        assert!(tracer(&[]).is_some());
    }

    #[test]
    fn a_message_goes_on_with_its_callers_trace() {
        let caller = TraceContext::read(PARENT, Some("a=1")).unwrap();
        let (tracer, _exporter) = tracer(&[]).unwrap();
        let place = tracer.arrives(Some(caller.clone())).unwrap();
        assert_eq!((place.context.trace_id, place.parent), (caller.trace_id, Some(caller.span_id)));
        assert!(place.context.is_sampled() && place.context.span_id != caller.span_id);
        assert_eq!(place.context.state, caller.state);
        let unsampled = caller.sampled(false);
        let place = tracer.arrives(Some(unsampled.clone())).unwrap();
        assert_eq!(place.context, unsampled, "it is passed on as it came");
        let begun = tracer.arrives(None).unwrap();
        assert!(begun.context.is_sampled() && begun.parent.is_none());
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (tracer, _exporter) = tracer(&[("OTEL_BSP_MAX_QUEUE_SIZE", "1")]).unwrap();
        let place = tracer.arrives(None).unwrap();
        let dropped = || tracer.0.metrics.spans_dropped.with_label_values(&["queue_full"]).get();
        tracer.record(Span::of(&place, "x", Kind::Server, Instant::now()));
        assert_eq!(dropped(), 0);
        tracer.record(Span::of(&place, "x", Kind::Server, Instant::now()));
        assert_eq!(dropped(), 1);
        let place = Place { context: place.context.sampled(false), parent: None };
        tracer.record(Span::of(&place, "x", Kind::Server, Instant::now()));
        assert_eq!(dropped(), 1, "of what is not recorded nothing is dropped");
    }
}
