//! The way of spans to their receiver: gathered into batches, each of which is tried for a while (OTLP 1.x, "OTLP/HTTP").

use std::{sync::Arc, time::Duration};

use awc::{
    Client, Connector,
    http::{StatusCode, header},
};
use rustls::ClientConfig;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use url::Url;

use super::{
    Order, Span,
    otlp::{Resource, rejected},
};
use crate::{
    backoff::Backoff,
    metrics::Metrics,
    settings::{Secret, TraceSettings},
};

/// No answer of a receiver is larger.
const MAX_ANSWER: usize = 64 << 10;

/// Pauses before a batch is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A receiver that is away is told of in the log this often at most.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// See the module's text.
#[derive(Debug)]
pub struct Exporter {
    url: Url,
    headers: Vec<(String, Secret)>,
    timeout: Duration,
    batch: usize,
    delay: Duration,
    resource: Resource,
    ordered: mpsc::Receiver<Order>,
    metrics: Metrics,
}

/// Where spans go.
pub(super) fn url(settings: &TraceSettings) -> Option<Url> {
    if let Some(url) = &settings.traces_endpoint {
        return Some(url.clone());
    }
    let mut url = settings.endpoint.clone()?;
    url.path_segments_mut().ok()?.pop_if_empty().extend(["v1", "traces"]);
    Some(url)
}

/// Why a batch was not taken.
enum NotSent {
    /// It may be another time.
    Now(String),
    /// It never will be.
    Ever(String),
}

impl Exporter {
    pub(super) fn new(
        settings: &TraceSettings,
        url: Url,
        instance: &str,
        ordered: mpsc::Receiver<Order>,
        metrics: Metrics,
    ) -> Self {
        Self {
            url,
            headers: settings.headers.clone(),
            timeout: settings.timeout,
            batch: settings.batch,
            delay: settings.delay,
            resource: Resource::new(settings, instance),
            ordered,
            metrics,
        }
    }

    /// It needs to know of whom certificates are believed.
    pub fn is_secure(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Sends what is recorded, for as long as anybody can record. On a thread of actix.
    pub async fn run(mut self, tls: Option<Arc<ClientConfig>>) {
        let connector = Connector::new().timeout(self.timeout).handshake_timeout(self.timeout);
        let connector = match tls {
            Some(tls) => connector.rustls_0_23(tls),
            None => connector,
        };
        let client = Client::builder().connector(connector).disable_redirects().timeout(self.timeout).finish();
        let (mut spans, mut told_at) = (Vec::new(), None);
        while let Some(flushed) = self.gather(&mut spans).await {
            if !spans.is_empty() {
                self.send(&client, &spans, &mut told_at).await;
                spans.clear();
            }
            if let Some(flushed) = flushed {
                let _ = flushed.send(());
            }
        }
    }

    /// Spans for one request; with it who waits for them to be sent. `None`: there will be no more.
    async fn gather(&mut self, spans: &mut Vec<Span>) -> Option<Option<oneshot::Sender<()>>> {
        match self.ordered.recv().await? {
            Order::Send(span) => spans.push(*span),
            Order::Flush(done) => return Some(Some(done)),
        }
        let until = Instant::now() + self.delay;
        while spans.len() < self.batch {
            match timeout_at(until, self.ordered.recv()).await {
                Ok(Some(Order::Send(span))) => spans.push(*span),
                Ok(Some(Order::Flush(done))) => return Some(Some(done)),
                Ok(None) | Err(_) => break,
            }
        }
        Some(None)
    }

    async fn send(&self, client: &Client, spans: &[Span], told_at: &mut Option<Instant>) {
        let body = bytes::Bytes::from(self.resource.request(spans));
        let until = Instant::now() + self.timeout;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let why = loop {
            let sent = timeout_at(until, self.send_once(client, body.clone())).await;
            let (why, asked) = match sent {
                Ok(Ok(rejected)) => {
                    let count = spans.len() as u64;
                    let rejected = rejected.min(count);
                    self.metrics.spans_exported.inc_by(count - rejected);
                    self.metrics.spans_dropped.with_label_values(&["rejected"]).inc_by(rejected);
                    return;
                }
                Ok(Err((NotSent::Ever(why), _))) => break why,
                Ok(Err((NotSent::Now(why), asked))) => (why, asked),
                Err(_) => break format!("no answer within {:?}", self.timeout),
            };
            let pause = asked.unwrap_or_else(|| backoff.pause());
            if Instant::now() + pause >= until {
                break why;
            }
            tokio::time::sleep(pause).await;
        };
        self.metrics.spans_dropped.with_label_values(&["not_sent"]).inc_by(spans.len() as u64);
        if told_at.is_none_or(|told: Instant| told.elapsed() >= TOLD_EVERY) {
            *told_at = Some(Instant::now());
            tracing::warn!(spans = spans.len(), "spans could not be sent to OTEL_EXPORTER_OTLP_ENDPOINT: {why}");
        }
    }

    /// How many spans were not taken; or why none was, and how long it wants to be left alone.
    async fn send_once(&self, client: &Client, body: bytes::Bytes) -> Result<u64, (NotSent, Option<Duration>)> {
        let request = client.post(self.url.as_str()).insert_header((header::CONTENT_TYPE, "application/json"));
        let request = self
            .headers
            .iter()
            .fold(request, |request, (name, value)| request.insert_header((name.as_str(), value.expose())));
        let mut response = request.send_body(body).await.map_err(|error| (NotSent::Now(error.to_string()), None))?;
        let status = response.status();
        let asked = response.headers().get(header::RETRY_AFTER);
        let asked = asked.and_then(|asked| asked.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let answer = response.body().limit(MAX_ANSWER).await.unwrap_or_default();
        match status {
            status if status.is_success() => Ok(rejected(&answer)),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err((NotSent::Now(format!("status {}", status.as_u16())), asked)),
            status => Err((NotSent::Ever(format!("status {}", status.as_u16())), None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::Settings;

    #[test]
    fn spans_go_below_the_endpoint_or_to_that_of_traces() {
        let url = |pairs: &[(&str, &str)]| {
            let settings = Settings::from_pairs(pairs.iter().copied()).unwrap().traces;
            super::url(&settings).map(String::from)
        };
        let (all, traces) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        assert_eq!(url(&[]), None);
        for (endpoint, expected) in [
            ("http://a:4318", "http://a:4318/v1/traces"),
            ("http://a:4318/", "http://a:4318/v1/traces"),
            ("https://a/x/", "https://a/x/v1/traces"),
        ] {
            assert_eq!(url(&[(all, endpoint)]).as_deref(), Some(expected));
        }
        assert_eq!(url(&[(all, "http://a"), (traces, "http://b/here")]).as_deref(), Some("http://b/here"));
    }
}
