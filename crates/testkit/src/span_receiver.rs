//! A receiver of OTLP over HTTP inside the test, which keeps the spans that it is sent, in whichever of the two forms.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::Value;
use tokio::{
    io::{AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::AbortHandle,
};

use crate::{
    connection::{Headers, header},
    eventually_some,
    incoming::read_request,
    listen,
};

/// A span, as its receiver knows it.
#[derive(Debug, Clone)]
pub struct ReceivedSpan {
    /// Hexadecimal digits.
    pub trace: String,
    /// Hexadecimal digits.
    pub id: String,
    /// Hexadecimal digits; empty: it is the first of its trace.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// Number of its kind.
    pub kind: u64,
    /// Its own attributes, and those of its resource.
    pub facts: BTreeMap<String, String>,
    /// From and to, nanoseconds since 1970.
    pub time: (u128, u128),
    /// `tracestate`
    pub state: String,
    /// Its status is an error.
    pub is_error: bool,
}

#[derive(Default)]
struct State {
    spans: Vec<ReceivedSpan>,
    requests: Vec<(String, Headers, Vec<u8>)>,
    /// What is answered instead of success.
    refuses: Option<&'static str>,
}

/// See the module's text.
pub struct SpanReceiver {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: AbortHandle,
}

impl SpanReceiver {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let serving = Arc::clone(&state);
        let (addr, accepting) = listen(move |socket| serve(socket, Arc::clone(&serving))).await;
        Self { addr, state, accepting }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on it answers with this status line, and keeps nothing.
    pub fn refuse(&self, status: &'static str) {
        self.state().refuses = Some(status);
    }

    /// From now on it takes what comes.
    pub fn take(&self) {
        self.state().refuses = None;
    }

    /// Everything that was sent: target, headers and body of each request.
    pub fn requests(&self) -> Vec<(String, Headers, Vec<u8>)> {
        self.state().requests.clone()
    }

    /// The spans, in the order of their arrival.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        self.state().spans.clone()
    }

    /// Waits for a span of this trace that is the right one.
    pub async fn span(&self, what: &str, is_it: impl Fn(&ReceivedSpan) -> bool) -> ReceivedSpan {
        eventually_some(what, || std::future::ready(self.spans().into_iter().find(&is_it))).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }
}

impl Drop for SpanReceiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(socket: TcpStream, state: Arc<Mutex<State>>) {
    let (reader, mut writer) = socket.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(request) = read_request(&mut reader).await {
        let answer = {
            let mut state = state.lock().expect("no test panics while it holds this");
            let kind = header(&request.headers, "content-type").unwrap_or_default().to_owned();
            state.requests.push((request.path, request.headers, request.body.clone()));
            match state.refuses {
                Some(status) => format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"),
                None => {
                    let spans = spans_of(&request.body);
                    state.spans.extend(spans);
                    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: 0\r\n\r\n")
                }
            }
        };
        if writer.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn list<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    value[name].as_array().into_iter().flatten()
}

fn facts(of: &Value) -> impl Iterator<Item = (String, String)> + '_ {
    list(of, "attributes").map(|fact| {
        let value = fact["value"].as_object().and_then(|value| value.values().next());
        let text = value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        (fact["key"].as_str().unwrap_or_default().to_owned(), text.unwrap_or_default())
    })
}

fn spans_of(body: &[u8]) -> Vec<ReceivedSpan> {
    let sent: Value = serde_json::from_slice(body).expect("a request in JSON");
    let mut spans = Vec::new();
    for resource in list(&sent, "resourceSpans") {
        let common: BTreeMap<String, String> = facts(&resource["resource"]).collect();
        for span in list(resource, "scopeSpans").flat_map(|scope| list(scope, "spans")) {
            let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
            let time = |name: &str| text(name).parse().expect("a time in nanoseconds");
            let mut all = common.clone();
            all.extend(facts(span));
            spans.push(ReceivedSpan {
                trace: text("traceId"),
                id: text("spanId"),
                parent: text("parentSpanId"),
                name: text("name"),
                kind: span["kind"].as_u64().expect("a kind"),
                facts: all,
                time: (time("startTimeUnixNano"), time("endTimeUnixNano")),
                state: text("traceState"),
                is_error: span["status"]["code"] == 2,
            });
        }
    }
    spans
}
