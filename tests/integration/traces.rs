//! Traces: what a router tells of a call stands in the trace of its client, whoever it is that does it, and goes to a receiver
//! that nobody waits for. docs/operations.md, "Traces"

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};

use crate::harness::{
    Cluster, McpClient, SpanReceiver, StreamableUpstream, Transport, cluster, eventually,
    http::Request,
    mcp_client::tool_call,
    odd_upstream::Gate,
    over_both_transports,
    streamable_upstream::{Act, response},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

fn traced(receiver: &SpanReceiver) -> cluster::Builder {
    Cluster::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_RETRY_MAX", "30ms")
        .env("MCP_STREAMABLE_RETRY_MIN", "10ms")
        .env("MCP_STREAMABLE_RETRY_MAX", "30ms")
}

fn text(call: &Value) -> Value {
    response(call, &json!({ "content": [{ "type": "text", "text": "done" }] }))
}

/// The first call of all waits at the gate; the others are answered.
async fn holding_the_first(gate: &Gate) -> StreamableUpstream {
    let (gate, is_first) = (gate.clone(), Arc::new(AtomicBool::new(true)));
    StreamableUpstream::calls(move |call| match is_first.swap(false, Ordering::SeqCst) {
        true => vec![Act::Wait(gate.clone()), Act::Json(text(call))],
        false => vec![Act::Json(text(call))],
    })
    .await
}

/// A call that says in itself where it stands in a trace.
fn call_in_trace(id: u64, flags: &str) -> Value {
    let mut call = tool_call(id, "read", json!({ "secret": "payload-of-the-call" }));
    call["params"]["_meta"] = json!({ "traceparent": parent(flags), "tracestate": "vendor=1" });
    call
}

async fn ask_in_trace(client: &McpClient, flags: &str) -> Value {
    let id = client.fresh_id();
    client.post(&call_in_trace(id, flags)).await;
    client.response(id).await
}

/// One trace over the client, the instance that takes the call and is killed, its heir, and the server.
async fn a_call_is_one_trace_over_the_death_of_its_instance(transport: Transport) {
    let (receiver, gate) = (SpanReceiver::start().await, Gate::default());
    let upstream = holding_the_first(&gate).await;
    let mut cluster = traced(&receiver).routers(2).short_lease().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().over(transport).initialize().await;
    let id = client.fresh_id();
    client.post_at(cluster.addr(0), &call_in_trace(id, "01")).await;
    upstream.wait_for("tools/call", 1).await;
    let first = upstream.posts("tools/call")[0].clone();
    let named = |name: &'static str, instance: &'static str| {
        move |span: &crate::harness::ReceivedSpan| {
            span.trace == TRACE && span.name == name && span.facts["service.instance.id"] == instance
        }
    };
    let (one, two) = ("router-instance-1", "router-instance-2");
    // What it has not sent when it is killed is lost.
    let arrival = receiver.span("the arrival of the call", named("tools/call", one)).await;
    assert_eq!((&*arrival.parent, arrival.kind, &*arrival.state), (SPAN, 2, "vendor=1"));
    let accepted = receiver.span("its journaling", named("store accept", one)).await;
    assert_eq!(accepted.parent, arrival.id);
    cluster.routers[0].kill();
    client.reconnect(Some(1));
    assert_eq!(client.response(id).await["result"]["content"][0]["text"], "done");
    let adopt = receiver.span("the adoption", named("adopt", two)).await;
    let sent = receiver.span("the way to the server", named("upstream", two)).await;
    let append = receiver.span("the way into the log", named("store append", two)).await;
    let deliver = receiver.span("the way to the client", named("deliver", two)).await;
    for span in [&adopt, &sent, &append, &deliver] {
        assert_eq!(span.parent, arrival.id, "{span:?}");
        assert!(span.time.0 <= span.time.1, "{span:?}");
        assert_eq!(span.state, "vendor=1");
    }
    let calls = upstream.posts("tools/call");
    assert_eq!(calls.len(), 2);
    let told: BTreeSet<&str> = calls.iter().filter_map(|call| call.header("traceparent")).collect();
    assert_eq!(told.len(), 2, "each POST is a span of its own: {told:?}");
    assert_eq!(calls[1].header("traceparent"), Some(&*format!("00-{TRACE}-{}-01", sent.id)));
    for call in &calls {
        assert_eq!(call.header("tracestate"), Some("vendor=1"));
        assert_eq!(call.json["params"]["_meta"]["traceparent"], parent("01"), "the message itself stays as it is");
    }
    assert!(first.header("traceparent").unwrap().contains(TRACE));
    // What was kept for the heir has gone with the answer.
    let redis = cluster.redis_client().await;
    let head = redis.fields(&client.session()).await;
    assert!(!head.keys().any(|field| field.starts_with("tp:")), "{head:?}");
    let written: String = receiver.requests().iter().map(|(.., body)| String::from_utf8_lossy(body)).collect();
    for secret in ["payload-of-the-call", &client.session()] {
        assert!(!written.contains(secret), "SEC-2");
    }
    cluster.assert_no_violations().await;
}

/// A message that another instance takes than the owner: its place is told by the journal.
async fn an_owner_knows_the_trace_of_what_others_have_taken(transport: Transport) {
    let receiver = SpanReceiver::start().await;
    let upstream = StreamableUpstream::calls(|call| vec![Act::Json(text(call))]).await;
    let cluster = traced(&receiver).routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().over(transport).initialize().await;
    let id = client.fresh_id();
    client.post_at(cluster.addr(1), &call_in_trace(id, "01")).await;
    client.response(id).await;
    let arrival = receiver.span("the arrival", |span| span.trace == TRACE && span.name == "tools/call").await;
    assert_eq!(arrival.facts["service.instance.id"], "router-instance-2");
    let sent = receiver.span("the way to the server", |span| span.trace == TRACE && span.name == "upstream").await;
    assert_eq!((&sent.parent, &*sent.facts["service.instance.id"]), (&arrival.id, "router-instance-1"));
    let told = upstream.posts("tools/call")[0].header("traceparent").map(str::to_owned);
    assert_eq!(told, Some(format!("00-{TRACE}-{}-01", sent.id)));
}

/// Whoever began the trace does not record it: nor does the router, and the server is told so.
async fn a_trace_that_is_not_sampled_makes_no_span(transport: Transport) {
    let receiver = SpanReceiver::start().await;
    let upstream = StreamableUpstream::calls(|call| vec![Act::Json(text(call))]).await;
    let mut cluster = traced(&receiver).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().over(transport).initialize().await;
    ask_in_trace(&client, "00").await;
    assert_eq!(upstream.posts("tools/call")[0].header("traceparent"), Some(&*parent("00")));
    // Everything is sent before it ends.
    cluster.routers[0].process().signal("TERM");
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
    let spans = receiver.spans();
    assert!(spans.iter().any(|span| span.name == "initialize"), "others are sent: {spans:?}");
    assert!(spans.iter().all(|span| span.trace != TRACE), "{spans:?}");
}

over_both_transports! {
    a_call_is_one_trace_over_the_death_of_its_instance
    an_owner_knows_the_trace_of_what_others_have_taken
    a_trace_that_is_not_sampled_makes_no_span
}

/// Nobody waits for a receiver: calls go on, and what cannot be sent is counted. When it is back, what comes then is sent.
#[tokio::test]
async fn a_receiver_that_is_away_costs_spans_and_no_call() {
    let receiver = SpanReceiver::start().await;
    let upstream = StreamableUpstream::calls(|call| vec![Act::Json(text(call))]).await;
    let cluster = traced(&receiver)
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "2")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", "300")
        .upstream_urls([upstream.url()])
        .start()
        .await;
    receiver.refuse("503 Service Unavailable");
    let client = cluster.client().initialize().await;
    for _ in 0..20 {
        assert_eq!(ask_in_trace(&client, "01").await["result"]["content"][0]["text"], "done");
    }
    let dropped = "mcp_router_trace_spans_dropped_total";
    for reason in ["queue_full", "not_sent"] {
        eventually(reason, || async { cluster.routers[0].metric(dropped, Some(reason)).await > 0.0 }).await;
    }
    assert!(receiver.spans().is_empty());
    receiver.take();
    eventually("a span of a later call", || async {
        ask_in_trace(&client, "01").await;
        !receiver.spans().is_empty()
    })
    .await;
    assert!(cluster.routers[0].metric("mcp_router_trace_spans_exported_total", None).await > 0.0);
    assert!(cluster.routers[0].log_text().contains("spans could not be sent"));
}

/// A caller without a session, whose call is one HTTP request: by the header, and by what stands in the message.
#[tokio::test]
async fn calls_without_sessions_are_traced_too() {
    let receiver = SpanReceiver::start().await;
    let upstream = StreamableUpstream::calls(|call| vec![Act::Json(text(call))]).await;
    let cluster = traced(&receiver)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b")
        .env("OTEL_SERVICE_NAME", "bridge")
        .without_redis()
        .upstream_urls([upstream.url()])
        .start()
        .await;
    let body = tool_call(1, "read", json!({})).to_string();
    let post = Request::post("/mcp/router/route/mcp-server-v6", body).header("content-type", "application/json");
    let post = post.header("traceparent", &parent("01"));
    assert_eq!(post.try_send(cluster.addr(0)).await.unwrap().status, 200);
    let arrival = receiver.span("the arrival", |span| span.trace == TRACE && span.kind == 2).await;
    assert_eq!((&*arrival.parent, &*arrival.facts["service.name"]), (SPAN, "bridge"));
    assert_eq!(arrival.facts["mcp.method.name"], "tools/call");
    let sent = receiver.span("the way to the server", |span| span.trace == TRACE && span.kind == 3).await;
    assert_eq!(sent.parent, arrival.id);
    let (target, headers, _) = &receiver.requests()[0];
    assert_eq!(target, "/v1/traces");
    assert!(headers.iter().any(|(name, value)| name == "x-key" && value == "a b"), "{headers:?}");
}
