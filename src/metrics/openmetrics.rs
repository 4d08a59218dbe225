//! The metrics as OpenMetrics 1.0 has them, with exemplars: for each bucket of a histogram a trace of which one of its calls
//! was. Asked for by `Accept`, and only where calls are traced.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use crate::protocol::trace_context::{Hex, TraceContext};

/// The media type, for `Content-Type`.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A call that a bucket counts.
#[derive(Debug, Clone)]
struct Exemplar {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    value: f64,
    /// Seconds since 1970.
    at: f64,
}

/// The last call of each bucket of one histogram that belongs to a trace which is recorded.
#[derive(Debug)]
pub(super) struct Exemplars<const N: usize>(Mutex<[Option<Exemplar>; N]>);

impl<const N: usize> Default for Exemplars<N> {
    fn default() -> Self {
        Self(Mutex::new([const { None }; N]))
    }
}

/// Those of all histograms that have some, by family and service, as they stand behind the rows of buckets.
pub(super) type Written = HashMap<(&'static str, String), Vec<Option<String>>>;

impl<const N: usize> Exemplars<N> {
    /// `bounds`: of the buckets but the last one.
    pub(super) fn note(&self, bounds: &[f64], value: f64, of: &TraceContext) {
        let at = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = kept.get_mut(at) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            *place = Some(Exemplar { trace_id: of.trace_id, span_id: of.span_id, value, at: now });
        }
    }

    pub(super) fn written(&self) -> Vec<Option<String>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|exemplar| exemplar.as_ref().map(Exemplar::written)).collect()
    }
}

impl Exemplar {
    fn written(&self) -> String {
        let Self { trace_id, span_id, value, at } = self;
        format!(r#" # {{trace_id="{}",span_id="{}"}} {value} {at:.3}"#, Hex(trace_id), Hex(span_id))
    }
}

/// The whole text.
pub(super) fn render(families: &[MetricFamily], exemplars: &Written) -> String {
    let mut text = String::new();
    for family in families {
        let name = family.name();
        // A counter's family has its name without what its rows end in.
        let (bare, kind) = match family.get_field_type() {
            MetricType::COUNTER => (name.strip_suffix("_total").unwrap_or(name), "counter"),
            MetricType::HISTOGRAM => (name, "histogram"),
            MetricType::GAUGE => (name, "gauge"),
            MetricType::SUMMARY | MetricType::UNTYPED => (name, "unknown"),
        };
        let _ = writeln!(text, "# HELP {bare} {}\n# TYPE {bare} {kind}", escaped(family.help()));
        for metric in family.get_metric() {
            let row = |text: &mut String, ending: &str, more: Option<&str>, value: f64, behind: &str| {
                let name = if kind == "counter" { bare } else { name };
                let _ = writeln!(text, "{name}{ending}{} {value}{behind}", labels(metric.get_label(), more));
            };
            match family.get_field_type() {
                MetricType::COUNTER => row(&mut text, "_total", None, metric.get_counter().get_value(), ""),
                MetricType::HISTOGRAM => {
                    let shown = exemplars_of(name, metric, exemplars);
                    let behind = |at: usize| shown.and_then(|all| all.get(at)?.as_deref()).unwrap_or_default();
                    let histogram = metric.get_histogram();
                    let buckets = histogram.get_bucket();
                    for (at, bucket) in buckets.iter().enumerate() {
                        let (bound, count) = (bucket.upper_bound().to_string(), bucket.cumulative_count() as f64);
                        row(&mut text, "_bucket", Some(&bound), count, behind(at));
                    }
                    let count = histogram.get_sample_count() as f64;
                    row(&mut text, "_bucket", Some("+Inf"), count, behind(buckets.len()));
                    row(&mut text, "_sum", None, histogram.get_sample_sum(), "");
                    row(&mut text, "_count", None, count, "");
                }
                MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => {
                    row(&mut text, "", None, metric.get_gauge().get_value(), "");
                }
            }
        }
    }
    text.push_str("# EOF\n");
    text
}

fn exemplars_of<'w>(family: &str, metric: &Metric, exemplars: &'w Written) -> Option<&'w Vec<Option<String>>> {
    let service = metric.get_label().iter().find(|label| label.name() == "service")?.value();
    exemplars.iter().find(|((of, by), _)| *of == family && by == service).map(|(_, written)| written)
}

fn labels(labels: &[LabelPair], bound: Option<&str>) -> String {
    let pairs = labels.iter().map(|label| (label.name(), escaped(label.value())));
    let pairs = pairs.chain(bound.map(|bound| ("le", bound.to_owned())));
    let written: Vec<String> = pairs.map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    if written.is_empty() { String::new() } else { format!("{{{}}}", written.join(",")) }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Method, Metrics, Outcome, Took};

    #[test]
    fn both_forms_say_the_same_and_one_names_a_trace() {
        let metrics = Metrics::new();
        let service = metrics.service("s\"1");
        let context = TraceContext::read("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None).unwrap();
        let took =
            Took { whole: Duration::from_millis(70), upstream: Some(Duration::from_millis(50)), ..Took::default() };
        service.ended(Method::of("tools/call"), Outcome::Ok, took);
        service.is_of_trace(took.whole, &context);
        let (plain, open) = (metrics.render(), metrics.render_open());
        let rows = |text: &str| -> Vec<(String, f64)> {
            let rows = text.lines().filter(|line| !line.starts_with('#'));
            let rows = rows.map(|line| line.split(" # ").next().unwrap_or_default());
            let rows = rows.filter_map(|row| row.rsplit_once(' '));
            // What the kernel says changes from one look to the next.
            let rows = rows.filter(|(name, _)| !name.starts_with("process_"));
            let mut rows: Vec<_> = rows.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect();
            rows.sort_by(|one, other| one.0.cmp(&other.0));
            rows
        };
        assert_eq!(rows(&plain), rows(&open));
        assert!(open.ends_with("# EOF\n") && !plain.contains("trace_id"));
        assert!(open.contains("# TYPE mcp_router_calls counter\n"), "{open}");
        let named: Vec<&str> = open.lines().filter(|line| line.contains("trace_id")).collect();
        let [row] = named.as_slice() else { panic!("{named:?}") };
        let begin = r#"mcp_router_call_duration_seconds_bucket{service="s\"1",le="0.1"} 1 # {trace_id="4bf92f3577b34da6a3ce929d0e0e4736",span_id="00f067aa0ba902b7"} 0.07 "#;
        assert!(row.starts_with(begin), "{row}");
    }
}
