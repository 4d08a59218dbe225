//! What OpenTelemetry's settings mean: their names, forms and defaults are its specification's, so that what is set for other
//! programs is right here, too.

use std::time::Duration;

use url::Url;

use super::{parse::Parsed, value::Secret};

/// Whether a trace is recorded (`OTEL_TRACES_SAMPLER`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// Every one.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// So many of them as `OTEL_TRACES_SAMPLER_ARG` says, by their ids.
    Ratio,
}

/// [`Sampler`], and whether a caller's own word goes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SamplerSetting {
    /// For traces that begin here, at least.
    pub sampler: Sampler,
    /// A trace that was begun elsewhere is recorded if it is there.
    pub asks_parent: bool,
}

pub(super) fn sampler(text: &str) -> Parsed<SamplerSetting> {
    let (name, asks_parent) = text.strip_prefix("parentbased_").map_or((text, false), |name| (name, true));
    let sampler = match name {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => Sampler::Ratio,
        _ => return Err("always_on, always_off or traceidratio, with or without parentbased_ before it".to_owned()),
    };
    Ok(SamplerSetting { sampler, asks_parent })
}

pub(super) fn ratio(text: &str) -> Parsed<f64> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "a number from 0 to 1".to_owned())
}

/// OpenTelemetry's durations are milliseconds without a unit; with one they are as everywhere here.
pub(super) fn millis(most: Duration) -> impl Fn(&str) -> Parsed<Duration> {
    move |text| {
        let plain = text.parse::<u64>().ok().map(Duration::from_millis);
        let duration = plain.or_else(|| humantime::parse_duration(text).ok());
        duration.filter(|duration| (Duration::from_millis(1)..=most).contains(duration)).ok_or_else(|| {
            format!("milliseconds, or a duration with its unit, from 1ms to {}", humantime::format_duration(most))
        })
    }
}

pub(super) fn endpoint(text: &str) -> Parsed<Url> {
    let url = Url::parse(text).ok().filter(|url| {
        let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain
    });
    url.ok_or_else(|| "an http or https URL without a name and a password, such as http://127.0.0.1:4318".to_owned())
}

/// Only one of the three is spoken, which each receiver of OTLP over HTTP takes at the same port.
pub(super) fn protocol(text: &str) -> Parsed<()> {
    match text {
        "http/json" => Ok(()),
        _ => Err("http/json, which receivers of http/protobuf take at the same URL".to_owned()),
    }
}

pub(super) fn switch(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// `name=value,name=value`, values percent-encoded (W3C Baggage without properties).
pub(super) fn pairs(text: &str) -> Parsed<Vec<(String, String)>> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8().ok()?;
        let name = name.trim();
        let is_whole = !name.is_empty() && !value.chars().any(char::is_control);
        is_whole.then(|| (name.to_owned(), value.into_owned()))
    };
    let pairs = text.split(',').filter(|text| !text.trim().is_empty()).map(pair).collect::<Option<_>>();
    pairs.ok_or_else(|| "name=value pairs with commas between them, values percent-encoded".to_owned())
}

/// [`pairs`] that are headers; their values are secrets.
pub(super) fn headers(text: &str) -> Parsed<Vec<(String, Secret)>> {
    const EXPECTED: &str = "name=value pairs of headers with commas between them, values percent-encoded";
    let pairs = pairs(text).map_err(|_| EXPECTED.to_owned())?;
    let is_header = |(name, value): &(String, String)| {
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        is_name && value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    if !pairs.iter().all(is_header) {
        return Err(EXPECTED.to_owned());
    }
    Ok(pairs.into_iter().map(|(name, value)| (name, Secret::new(&value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_opentelemetry_writes_them() {
        assert_eq!(
            sampler("parentbased_traceidratio"),
            Ok(SamplerSetting { sampler: Sampler::Ratio, asks_parent: true })
        );
        assert_eq!(sampler("always_off"), Ok(SamplerSetting { sampler: Sampler::AlwaysOff, asks_parent: false }));
        for wrong in ["", "parentbased", "jaeger_remote", "ALWAYS_ON"] {
            assert!(sampler(wrong).is_err(), "{wrong}");
        }
        let millis = millis(Duration::from_secs(60));
        assert_eq!((millis("5000"), millis("5s")), (Ok(Duration::from_secs(5)), Ok(Duration::from_secs(5))));
        assert!(millis("0").is_err() && millis("61000").is_err() && millis("x").is_err());
        assert!(ratio("0.25").is_ok() && ratio("1.1").is_err() && ratio("NaN").is_err());
        for wrong in ["127.0.0.1:4318", "ftp://a", "http://user:pass@a:4318", "unix:///x"] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
        let read = pairs("a=1, b = x%20y ,,c=").unwrap();
        let expected = [("a", "1"), ("b", "x y"), ("c", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read, expected);
        assert!(pairs("a").is_err() && pairs("=1").is_err() && pairs("a=%0d").is_err());
        let headers = headers("Authorization=Basic%20secret").unwrap();
        assert_eq!(headers[0].1.expose(), "Basic secret");
        assert!(!format!("{headers:?}").contains("secret"));
        assert!(super::headers("a b=1").is_err());
    }
}
