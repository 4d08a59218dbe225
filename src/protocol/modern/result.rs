//! What a result says of itself ([`Said`]), and results of one era for a client of the other.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{META_SERVER, edit, is_cacheable};
use crate::protocol::{
    by_name::by_name,
    jsonrpc::{Head, with_part},
    members::Members,
};

/// The result is all that there is to say.
pub const COMPLETE: &str = "complete";
/// The server asks its client something first.
pub const INPUT_REQUIRED: &str = "input_required";
/// It goes on as a task.
pub const TASK: &str = "task";

/// Members that results of earlier versions do not have.
const OF_THIS_ERA: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];

/// What a result says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said<'a> {
    #[serde(borrow, default)]
    result_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    ttl_ms: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cache_scope: Option<&'a RawValue>,
    /// What the server asks: an object, each request by its key.
    #[serde(borrow, default)]
    pub input_requests: Option<&'a RawValue>,
    /// What its client is to show again.
    #[serde(borrow, default)]
    pub request_state: Option<&'a RawValue>,
    /// As which it goes on.
    #[serde(borrow, default)]
    pub task_id: Option<&'a RawValue>,
    /// What a server can do.
    #[serde(borrow, default)]
    pub capabilities: Option<&'a RawValue>,
}

impl<'a> Said<'a> {
    /// Of this result (JSON text). `None`: it is no object, or says something twice.
    pub fn of(result: &'a str) -> Option<Self> {
        by_name(result)
    }

    /// Of what kind it is; one that does not say is complete.
    pub fn kind(&self) -> &str {
        self.result_type.as_deref().unwrap_or(COMPLETE)
    }

    /// How long it may be kept; zero where nothing sensible is said.
    pub fn ttl(&self) -> Duration {
        let number = self.ttl_ms.and_then(|ttl| ttl.get().parse::<f64>().ok());
        number
            .filter(|ttl| *ttl > 0.0)
            .and_then(|ttl| Duration::try_from_secs_f64(ttl / 1000.0).ok())
            .unwrap_or_default()
    }

    /// The text of that.
    pub fn ttl_text(&self) -> Option<&'a str> {
        self.ttl_ms.map(RawValue::get)
    }

    /// It may be kept for everybody.
    pub fn is_public(&self) -> bool {
        self.cache_scope.is_some_and(|scope| scope.get() == "\"public\"")
    }
}

/// A result of a server of sessions (JSON text) as one of this era, to a request of this method. `server`: who it is, JSON text.
/// `None`: it is no object.
pub fn completed(result: &str, method: &str, server: Option<&str>) -> Option<String> {
    let members = Members::of(result)?;
    let mut puts = vec![("resultType", "\"complete\"")];
    if is_cacheable(method) {
        // Nobody has said that it may be kept.
        puts.extend([("ttlMs", "0"), ("cacheScope", "\"private\"")]);
    }
    let meta = server.and_then(|server| {
        let meta = members.get("_meta").filter(|meta| *meta != "null").unwrap_or("{}");
        edit::edited(meta, |_| false, &[(META_SERVER, server)])
    });
    if let Some(meta) = &meta {
        puts.push(("_meta", meta));
    }
    edit::edited(result, |_| false, &puts)
}

/// A complete result of this era (JSON text) as one of earlier versions. `None`: it is no object.
pub fn plain(result: &str) -> Option<String> {
    edit::edited(result, |name| OF_THIS_ERA.contains(&name), &[])
}

/// The response with a result that nobody may keep for others; all other bytes stay.
pub fn private(response: &Bytes) -> Bytes {
    let head = Head::parse(response).ok();
    let scope = head.and_then(|head| head.result).and_then(|result| Said::of(result.get())?.cache_scope);
    match scope {
        Some(scope) if scope.get() != "\"private\"" => with_part(response, scope.get(), "\"private\""),
        _ => response.clone(),
    }
}

/// A result (JSON text) with other members, which come first. `None`: it is no object.
pub fn edited(result: &str, puts: &[(&str, &str)]) -> Option<String> {
    edit::edited(result, |_| false, puts)
}

/// A copy of a response whose result has other members (JSON text); all other bytes stay. `None`: it has no result that is an
/// object.
pub fn with_members(response: &[u8], puts: &[(&str, &str)]) -> Option<Bytes> {
    let result = Head::parse(response).ok()?.result?.get();
    Some(with_part(response, result, &edit::edited(result, |_| false, puts)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_says_how_long_it_may_be_kept_and_by_whom() {
        for (result, kind, ttl, is_public) in [
            (r#"{"resultType":"complete","ttlMs":1500,"cacheScope":"public"}"#, "complete", 1500, true),
            (r#"{"ttlMs":-1,"cacheScope":"private"}"#, "complete", 0, false),
            (r#"{"ttlMs":"9","cacheScope":null}"#, "complete", 0, false),
            (r#"{"ttlMs":1e400}"#, "complete", 0, false),
            (r#"{"resultType":"input_required","requestState":"s"}"#, "input_required", 0, false),
        ] {
            let said = Said::of(result).unwrap();
            assert_eq!((said.kind(), said.is_public()), (kind, is_public), "{result}");
            assert_eq!(said.ttl(), Duration::from_millis(ttl), "{result}");
        }
    }

    #[test]
    fn a_result_of_one_era_becomes_one_of_the_other() {
        let old = r#"{"tools":[ ],"_meta":{"a":1}}"#;
        let new = completed(old, "tools/list", Some(r#"{"name":"s"}"#)).unwrap();
        assert_eq!(
            new,
            r#"{"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"},"a":1},"tools":[ ]}"#
        );
        assert_eq!(completed("{}", "tools/call", None).unwrap(), r#"{"resultType":"complete"}"#);
        assert_eq!(
            plain(r#"{"resultType":"complete","tools":[ ],"ttlMs":0,"cacheScope":"private"}"#).unwrap(),
            r#"{"tools":[ ]}"#
        );
        assert_eq!(completed("[]", "tools/call", None), None);
    }

    #[test]
    fn what_a_route_filters_is_nobody_elses() {
        let response = |scope: &str| {
            Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"cacheScope":{scope},"tools":[]}}}}"#))
        };
        assert_eq!(private(&response("\"public\"")), response("\"private\""));
        assert_eq!(private(&response("\"private\"")), response("\"private\""));
        let error = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#);
        assert_eq!(private(&error), error);
    }
}
