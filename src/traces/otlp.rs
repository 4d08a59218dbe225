//! Spans as OTLP has them in JSON (OTLP 1.x, "JSON Protobuf Encoding"): ids in hexadecimal digits, 64-bit numbers as strings,
//! names in lowerCamelCase.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Serialize, Serializer};

use super::span::{Fact, Span};
use crate::{protocol::trace_context::Hex, settings::TraceSettings};

/// Bit 8 and 9 of a span's flags: it is known whether its parent is elsewhere, and it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// `STATUS_CODE_ERROR`
const ERROR: u32 = 2;

/// What is the same for all spans of a process.
#[derive(Debug)]
pub(super) struct Resource(Vec<(String, String)>);

/// An `ExportTraceServiceRequest`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'s> {
    resource_spans: [ResourceSpans<'s>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'s> {
    resource: Attributes<'s>,
    scope_spans: [ScopeSpans<'s>; 1],
}

#[derive(Serialize)]
struct ScopeSpans<'s> {
    scope: Scope,
    spans: Vec<Written<'s>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Attributes<'s> {
    attributes: Vec<Attribute<'s>>,
}

#[derive(Serialize)]
struct Attribute<'s> {
    key: &'s str,
    value: Value<'s>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Value<'s> {
    StringValue(&'s str),
    IntValue(Shown<i64>),
}

/// A number as a string.
struct Shown<T>(T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[derive(Serialize)]
struct Status {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u32>,
}

/// A `Span`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'s> {
    trace_id: Shown<Hex<'s>>,
    span_id: Shown<Hex<'s>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<Shown<Hex<'s>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_state: Option<&'s str>,
    flags: u32,
    name: &'s str,
    kind: u32,
    start_time_unix_nano: Shown<u128>,
    end_time_unix_nano: Shown<u128>,
    attributes: Vec<Attribute<'s>>,
    status: Status,
}

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
        Self(own.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// An `ExportTraceServiceRequest`.
    pub(super) fn request(&self, spans: &[Span]) -> Vec<u8> {
        let attributes =
            self.0.iter().map(|(key, value)| Attribute { key, value: Value::StringValue(value) }).collect();
        let scope = Scope { name: "mcp-router", version: env!("CARGO_PKG_VERSION") };
        let scope_spans = [ScopeSpans { scope, spans: spans.iter().map(Written::of).collect() }];
        let request = Request { resource_spans: [ResourceSpans { resource: Attributes { attributes }, scope_spans }] };
        serde_json::to_vec(&request).unwrap_or_default()
    }
}

/// How many spans the receiver has not taken of a request that it has answered with success.
pub(super) fn rejected(answer: &[u8]) -> u64 {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    let count = &answer["partialSuccess"]["rejectedSpans"];
    count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or_default()
}

impl<'s> Written<'s> {
    fn of(span: &'s Span) -> Self {
        let context = &span.context;
        let is_remote = span.kind == super::Kind::Server && span.parent.is_some();
        let facts = span.facts.iter().map(|(key, fact)| {
            let value = match fact {
                Fact::Text(value) => Value::StringValue(value),
                Fact::Number(value) => Value::IntValue(Shown(*value)),
            };
            Attribute { key, value }
        });
        let error = span.error.map(|reason| Attribute { key: "error.type", value: Value::StringValue(reason) });
        Self {
            trace_id: Shown(Hex(&context.trace_id)),
            span_id: Shown(Hex(&context.span_id)),
            parent_span_id: span.parent.as_ref().map(|parent| Shown(Hex(parent))),
            trace_state: context.state.as_deref(),
            flags: u32::from(context.flags()) | HAS_IS_REMOTE | if is_remote { IS_REMOTE } else { 0 },
            name: &span.name,
            kind: span.kind as u32,
            start_time_unix_nano: Shown(nanos(span.begun)),
            end_time_unix_nano: Shown(nanos(span.ended)),
            attributes: facts.chain(error).collect(),
            status: Status { code: span.error.map(|_| ERROR) },
        }
    }
}

fn nanos(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::{Resource, Span, rejected};
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
