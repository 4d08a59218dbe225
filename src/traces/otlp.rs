//! Spans as OTLP has them in JSON (OTLP 1.x, "JSON Protobuf Encoding"): ids in hexadecimal digits, 64-bit numbers as strings,
//! names in lowerCamelCase.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::span::{Fact, Span};
use crate::{protocol::trace_context::Hex, settings::TraceSettings};

/// Bit 8 and 9 of a span's flags: it is known whether its parent is elsewhere, and it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// `STATUS_CODE_ERROR`
const ERROR: u32 = 2;

/// What is the same for all spans of a process.
#[derive(Debug)]
pub(super) struct Resource(Value);

impl Resource {
    pub(super) fn new(settings: &TraceSettings, instance: &str) -> Self {
        let own = [
            ("service.name", settings.service.as_str()),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", instance),
        ];
        let more = settings.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        // What is set for this program alone goes before what stands in the list.
        let more = more.filter(|(name, _)| own.iter().all(|(known, _)| known != name));
        let attributes: Vec<_> = own.into_iter().chain(more).map(|(name, value)| text(name, value)).collect();
        Self(json!({ "attributes": attributes }))
    }

    /// An `ExportTraceServiceRequest`.
    pub(super) fn request(&self, spans: &[Span]) -> Vec<u8> {
        let spans: Vec<Value> = spans.iter().map(span).collect();
        let scope = json!({ "name": "mcp-router", "version": env!("CARGO_PKG_VERSION") });
        let request = json!({
            "resourceSpans": [{ "resource": self.0, "scopeSpans": [{ "scope": scope, "spans": spans }] }],
        });
        request.to_string().into_bytes()
    }
}

/// How many spans the receiver has not taken of a request that it has answered with success.
pub(super) fn rejected(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let count = &answer["partialSuccess"]["rejectedSpans"];
    count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or_default()
}

fn span(span: &Span) -> Value {
    let is_remote = span.kind == super::Kind::Server && span.parent.is_some();
    let flags = u32::from(span.context.flags()) | HAS_IS_REMOTE | if is_remote { IS_REMOTE } else { 0 };
    let mut facts: Vec<Value> = span
        .facts
        .iter()
        .map(|(name, fact)| match fact {
            Fact::Text(value) => text(name, value),
            Fact::Number(value) => json!({ "key": name, "value": { "intValue": value.to_string() } }),
        })
        .collect();
    facts.extend(span.error.map(|reason| text("error.type", reason)));
    let mut written = json!({
        "traceId": Hex(&span.context.trace_id).to_string(),
        "spanId": Hex(&span.context.span_id).to_string(),
        "flags": flags,
        "name": span.name,
        "kind": span.kind as u32,
        "startTimeUnixNano": nanos(span.begun),
        "endTimeUnixNano": nanos(span.ended),
        "attributes": facts,
        "status": if span.error.is_some() { json!({ "code": ERROR }) } else { json!({}) },
    });
    if let Some(parent) = span.parent {
        written["parentSpanId"] = Hex(&parent).to_string().into();
    }
    if let Some(state) = &span.context.state {
        written["traceState"] = (**state).into();
    }
    written
}

fn text(name: &str, value: &str) -> Value {
    json!({ "key": name, "value": { "stringValue": value } })
}

fn nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        protocol::trace_context::TraceContext,
        settings::Settings,
        traces::{Kind, Place},
    };

    #[test]
    fn a_request_holds_what_otlp_says() {
        let pairs = [("OTEL_SERVICE_NAME", "s"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=no,zone=a")];
        let resource = Resource::new(&Settings::from_pairs(pairs).unwrap().traces, "i-1");
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::read(parent, Some("a=1")).unwrap();
        let place = Place { context: context.clone(), parent: Some([1; 8]) };
        let long = "x".repeat(1000);
        let spans = [
            Span::of(&place, "tools/call", Kind::Server, Instant::now()).fact("a", long).number("n", 5),
            Span::child(&context, "store accept", Kind::Client, Instant::now()).failed("unavailable"),
        ];
        let written: Value = serde_json::from_slice(&resource.request(&spans)).unwrap();
        let of = &written["resourceSpans"][0];
        let attributes = of["resource"]["attributes"].as_array().unwrap();
        assert_eq!(attributes[0], json!({ "key": "service.name", "value": { "stringValue": "s" } }));
        assert_eq!((&attributes[2]["value"]["stringValue"], attributes.len()), (&json!("i-1"), 4));
        let [first, second] = of["scopeSpans"][0]["spans"].as_array().unwrap().as_slice() else { panic!("{of}") };
        assert_eq!(first["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(
            (&first["spanId"], &first["parentSpanId"]),
            (&json!("00f067aa0ba902b7"), &json!("0101010101010101"))
        );
        assert_eq!((&first["kind"], &first["flags"], &first["traceState"]), (&json!(2), &json!(0x301), &json!("a=1")));
        assert_eq!(first["attributes"][0]["value"]["stringValue"].as_str().map(str::len), Some(128));
        assert_eq!(first["attributes"][1]["value"]["intValue"], "5");
        assert_eq!((&second["parentSpanId"], &second["status"]["code"]), (&first["spanId"], &json!(2)));
        assert!(second["startTimeUnixNano"].as_str() <= second["endTimeUnixNano"].as_str());
        assert_eq!(second["attributes"][0]["key"], "error.type");
    }

    #[test]
    fn a_receiver_can_take_a_part() {
        for (answer, count) in [
            (r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#, 3),
            (r#"{"partialSuccess":{"rejectedSpans":2}}"#, 2),
            ("{}", 0),
            ("", 0),
        ] {
            assert_eq!(rejected(answer.as_bytes()), count, "{answer}");
        }
    }
}
