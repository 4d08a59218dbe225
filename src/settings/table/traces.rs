//! Traces: whether and where spans are sent, by the names that OpenTelemetry has for all programs.

use std::{ffi::OsString, time::Duration};

use url::Url;

use crate::settings::{
    ca_file::{CaFile, ca_file},
    help_text::help_text,
    parse::{self, HOUR, MINUTE, optional, whole},
    row::Row,
    source::Reader,
    traces::{SamplerSetting, endpoint, headers, millis, pairs, protocol, ratio, sampler, switch},
    value::Secret,
};

group! {
    /// Traces: whether and where spans are sent, by the names that OpenTelemetry has for all programs.
    "Traces", TraceFlags => TraceSettings {
        /// Where spans go, as OTLP over HTTP, to /v1/traces below it. Unset nothing is traced, and traceparent is passed on in
        /// messages alone, as they are.
        OTEL_EXPORTER_OTLP_ENDPOINT = "", "URL" => endpoint: Option<Url>, optional(endpoint);

        /// The same for traces alone, and exactly as it stands.
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT = "", "URL" => traces_endpoint: Option<Url>, optional(endpoint);

        /// Form of what is sent. The other two of OpenTelemetry are not spoken.
        OTEL_EXPORTER_OTLP_PROTOCOL = "http/json", "http/json" => protocol: (), protocol;

        /// Headers of each request to it, such as authorization=Bearer%20TOKEN.
        OTEL_EXPORTER_OTLP_HEADERS = "", "name=value,..." => headers: Vec<(String, Secret)>, headers;

        /// How long one batch is tried; then its spans are dropped and counted.
        OTEL_EXPORTER_OTLP_TIMEOUT = "10000", "ms" => timeout: Duration, millis(MINUTE);

        /// File of issuers whose certificates are believed of an https endpoint, besides those that the system trusts.
        OTEL_EXPORTER_OTLP_CERTIFICATE = "", "file" => certificate: Option<CaFile>, optional(ca_file);

        /// service.name of the spans: that of the deployment. An instance is told by service.instance.id.
        OTEL_SERVICE_NAME = "mcp-router", "text" => service: String, parse::visible;

        /// More about this process that each span bears, such as deployment.environment.name=production.
        OTEL_RESOURCE_ATTRIBUTES = "", "name=value,..." => attributes: Vec<(String, String)>, pairs;

        /// Which traces are recorded: always_on, always_off, traceidratio, or one of these with parentbased_ before it, which
        /// leaves that to whoever began the trace.
        OTEL_TRACES_SAMPLER = "parentbased_always_on", "name" => sampler: SamplerSetting, sampler;

        /// Part of the traces that traceidratio records.
        OTEL_TRACES_SAMPLER_ARG = "1", "0 to 1" => ratio: f64, ratio;

        /// Spans that may wait to be sent. Beyond it they are dropped and counted: no call waits for a receiver.
        OTEL_BSP_MAX_QUEUE_SIZE = "2048", "spans" => queue: usize, whole(1..=1_000_000);

        /// Spans in one request at most.
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE = "512", "spans" => batch: usize, whole(1..=10_000);

        /// How long a span waits for others to be sent with. What an instance has not sent when it is killed is lost.
        OTEL_BSP_SCHEDULE_DELAY = "5000", "ms" => delay: Duration, millis(HOUR);

        /// Traces nothing, whatever else is set.
        OTEL_SDK_DISABLED = "false", "true or false" => disabled: bool, switch;
    }
}
