//! Messages of one era for the other, on the way between a client of 2026-07-28 and a server of sessions: pure.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use sha2::{Digest as _, Sha256};

use crate::protocol::{
    by_name::by_name,
    jsonrpc::{self, Head},
    mcp::{self, ELICIT, LIST_ROOTS, SAMPLE},
    modern::{
        edit,
        meta::{Said, with_meta, with_params},
        refusal::INVALID_PARAMS,
        result,
    },
    same,
};

/// Earlier versions: the resource is not there.
const RESOURCE_NOT_FOUND: i64 = -32002;
/// 2025-11-25: the user has to visit a page first.
const URL_ELICITATION: i64 = -32042;

/// What the client of a request can be asked, as a client of earlier versions declares it (JSON text). Extensions and tasks
/// are not for the other era. The same for the same capabilities, however they are written.
pub fn capabilities(declared: &str) -> String {
    let declared: Map<String, Value> = serde_json::from_str(declared).unwrap_or_default();
    let mut known: Map<String, Value> =
        declared.into_iter().filter(|(name, _)| matches!(&**name, "elicitation" | "roots" | "sampling")).collect();
    known.retain(|_, value| value.is_object());
    if let Some(Value::Object(roots)) = known.get_mut("roots") {
        // It has no way to say so any more.
        roots.remove("listChanged");
    }
    Value::Object(known).to_string()
}

/// Parameters that mean nothing to a server of sessions, or something else: `task` asks for a task of 2025-11-25, and is to be ignored
/// (Tasks extension, Backward Compatibility).
const OF_THE_OTHER_ERA: [&str; 3] = ["requestState", "inputResponses", "task"];

/// The parameters of a request as a server of sessions gets them (JSON text). `token`: by which it names its progress, if its
/// client wants that. `None`: they are no object.
pub fn params(body: &[u8], token: Option<&str>) -> Option<String> {
    let puts = token.map(|token| ("progressToken", token));
    let body = with_meta(body, |_| false, puts.as_slice())?;
    let body = with_params(&body, &OF_THE_OTHER_ERA, &[])?;
    let params = Head::parse(&body).ok()?.params?.get().to_owned();
    Some(params)
}

/// What a request is about, without what differs between its rounds: the same text means the same request.
pub fn fingerprint(service: &str, method: &str, body: &[u8]) -> String {
    let params = Head::parse(body).ok().and_then(|head| head.params).map(RawValue::get).unwrap_or("{}");
    let of_a_round = |name: &str| matches!(name, "_meta" | "requestState" | "inputResponses");
    let params = edit::edited(params, of_a_round, &[]).unwrap_or_else(|| params.to_owned());
    let mut hasher = Sha256::new();
    for part in [service, method, &same::canonical(&params)] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    data_encoding::HEXLOWER.encode(&hasher.finalize()[..16])
}

/// A response of the other era, and its HTTP status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// It is part of an error.
    pub status: u16,
    /// The message.
    pub body: Bytes,
}

impl Response {
    /// A result (JSON text). `id`: JSON text.
    pub fn result(id: &str, result: &str) -> Self {
        Self { status: 200, body: jsonrpc::result_response(id, result) }
    }
}

/// The response of a server of sessions to a request of this method. `id`: the client's, JSON text. `server`: who it is, JSON
/// text. `said`: of the request.
pub fn response(answer: &Bytes, id: &str, method: &str, server: Option<&str>, said: &Said<'_>) -> Response {
    let result = Head::parse(answer).ok().and_then(|head| head.result);
    if let Some(result) = result {
        let completed = result::completed(result.get(), method, server);
        return match completed {
            Some(completed) => Response::result(id, &completed),
            None => broken(id),
        };
    }
    error(answer, id, said)
}

fn broken(id: &str) -> Response {
    let why = "the server answered, but not with a result that is an object";
    Response { status: 200, body: jsonrpc::error_response(id, jsonrpc::INTERNAL_ERROR, why, None) }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    error: &'a RawValue,
}

#[derive(Deserialize)]
struct Error<'a> {
    code: i64,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// Codes that have no meaning in this era, or another one, are told as what they are: errors of the server.
fn error(answer: &[u8], id: &str, said: &Said<'_>) -> Response {
    let error = std::str::from_utf8(answer).ok().and_then(by_name::<Answer<'_>>).map(|answer| answer.error.get());
    let Some(Error { code, message, data }) = error.and_then(by_name) else { return broken(id) };
    if code == URL_ELICITATION
        && said.declares(&["elicitation", "url"])
        && let Some(asks) = data.and_then(|data| visits(data.get()))
    {
        // Nothing was executed: the client asks anew when its user has been there.
        return Response::result(id, &input_required(&asks, None));
    }
    let code = match code {
        RESOURCE_NOT_FOUND => INVALID_PARAMS,
        -32099..=-32000 => jsonrpc::INTERNAL_ERROR,
        code => code,
    };
    let status = if code == jsonrpc::METHOD_NOT_FOUND { 404 } else { 200 };
    let body = match data {
        Some(data) => jsonrpc::error_response_with(id, code, &message, &data),
        None => jsonrpc::error_response(id, code, &message, None),
    };
    Response { status, body }
}

/// One thing that a server asks its client: its key, and the request as this era has it (JSON text).
pub type Ask = (String, String);

/// The pages that the user is to visit, by the data of the error that says so.
fn visits(data: &str) -> Option<Vec<Ask>> {
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        elicitations: Vec<&'a RawValue>,
    }
    let Data { elicitations } = by_name(data)?;
    let ask = |(at, params): (usize, &&RawValue)| {
        let params = edit::edited(params.get(), |name| name == "elicitationId", &[("mode", r#""url""#)])?;
        Some((format!("url-{}", at + 1), asked(ELICIT, Some(&params))))
    };
    let asks: Option<Vec<Ask>> = elicitations.iter().enumerate().map(ask).collect();
    asks.filter(|asks| !asks.is_empty())
}

/// A request of the server as this era has it (JSON text). `None`: its client has not declared that it can be asked this.
pub fn ask(question: &[u8], said: &Said<'_>) -> Option<String> {
    let head = Head::parse(question).ok()?;
    let method = head.method()?;
    let params = head.params.map_or("{}", RawValue::get);
    let Asking { mode, meta } = by_name(params)?;
    let is_declared = match method {
        ELICIT if mode.is_some_and(|mode| mode.get() == r#""url""#) => said.declares(&["elicitation", "url"]),
        ELICIT => said.declares(&["elicitation"]),
        SAMPLE => said.declares(&["sampling"]),
        LIST_ROOTS => said.declares(&["roots"]),
        _ => false,
    };
    if !is_declared {
        return None;
    }
    // Nobody hears of progress in the other direction.
    let meta = meta.and_then(|meta| edit::edited(meta.get(), |name| name == "progressToken", &[]));
    // What is asked stays as its server has written it: people see its fields in that order.
    let params = edit::edited(params, |name| matches!(name, "elicitationId" | "_meta"), &[])?;
    let params = match &meta {
        Some(meta) => edit::edited(&params, |_| false, &[("_meta", meta)])?,
        None => params,
    };
    Some(asked(method, Some(&*params).filter(|params| method != LIST_ROOTS || *params != "{}")))
}

#[derive(Deserialize)]
struct Asking<'a> {
    #[serde(borrow, default)]
    mode: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

/// One of the requests of a result that asks something.
fn asked(method: &str, params: Option<&str>) -> String {
    let params = params.map(|params| format!(r#","params":{params}"#)).unwrap_or_default();
    format!(r#"{{"method":{}{params}}}"#, Value::from(method))
}

/// An object of these, by their keys (JSON text).
pub fn requests(asks: &[Ask]) -> String {
    let requests: Vec<String> = asks.iter().map(|(key, ask)| format!("{}:{ask}", Value::from(key.as_str()))).collect();
    format!("{{{}}}", requests.join(","))
}

/// A result that asks the client this (JSON text). `state`: what it is to show again.
pub fn input_required(asks: &[Ask], state: Option<&str>) -> String {
    let state = state.map(|state| format!(r#","requestState":{}"#, Value::from(state))).unwrap_or_default();
    format!(r#"{{"resultType":"input_required","inputRequests":{}{state}}}"#, requests(asks))
}

/// A notification that the server sends while it works on a request, for that request's client. `token`: by which the client
/// wants to hear of its progress (JSON text), if it does. `None`: it is not for this client, or there is none of this kind in
/// this era.
pub fn notification(body: &Bytes, method: &str, token: Option<&str>, wants_logs: bool) -> Option<Bytes> {
    match method {
        mcp::PROGRESS => {
            let head = Head::parse(body).ok()?;
            let named = mcp::progress_token_named(head.params)?;
            Some(jsonrpc::with_part(body, named, token?))
        }
        "notifications/message" => wants_logs.then(|| body.clone()),
        mcp::CANCELLED | mcp::ELICITED | "notifications/resources/updated" => None,
        // Of the tasks of another era.
        "notifications/tasks/status" => None,
        method if method.ends_with("/list_changed") => None,
        _ => Some(body.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    /// Of a client that declares these capabilities.
    fn declaring(capabilities: &Value) -> Box<RawValue> {
        raw(&json!({ "_meta": { "io.modelcontextprotocol/clientCapabilities": capabilities } }).to_string())
    }

    fn told(response: &Response) -> Value {
        serde_json::from_slice(&response.body).unwrap()
    }

    #[test]
    fn a_server_of_sessions_is_told_what_it_may_ask_and_nothing_else() {
        for (declared, expected) in [
            ("{}", "{}"),
            (
                r#"{"sampling":{},"elicitation":{"url":{},"form":{}}}"#,
                r#"{"elicitation":{"form":{},"url":{}},"sampling":{}}"#,
            ),
            (r#"{"roots":{"listChanged":true},"extensions":{"x":{}},"tasks":{},"sampling":null}"#, r#"{"roots":{}}"#),
        ] {
            assert_eq!(capabilities(declared), expected, "{declared}");
        }
    }

    #[test]
    fn a_request_loses_what_is_of_its_era_and_keeps_what_is_its_own() {
        let body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"n":1e400},"requestState":"s","inputResponses":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","progressToken":0,"traceparent":"t"}}}"#;
        let with = params(body, Some("\"call-1\"")).unwrap();
        assert_eq!(
            with,
            r#"{"_meta":{"progressToken":"call-1","traceparent":"t"},"name":"a","arguments":{"n":1e400}}"#
        );
        assert_eq!(params(br#"{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}"#, None), None);
    }

    #[test]
    fn the_rounds_of_one_request_have_one_fingerprint() {
        let of = |params: &str| {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
            fingerprint("s", "tools/call", body.as_bytes())
        };
        let first = of(r#"{"name":"a","arguments":{"x":1,"y":[2]}}"#);
        assert_eq!(
            of(r#"{"arguments":{"y":[2], "x":1},"name":"a","requestState":"q","inputResponses":{},"_meta":{}}"#),
            first
        );
        for other in [
            r#"{"name":"b","arguments":{"x":1,"y":[2]}}"#,
            r#"{"name":"a","arguments":{"x":2,"y":[2]}}"#,
            r#"{"name":"a","arguments":{"x":1,"y":[2],"z":1e400}}"#,
            r#"{"name":"a","arguments":{"x":1,"y":[2],"z":"\ud800"}}"#,
        ] {
            assert_ne!(of(other), first);
        }
        for (one, other) in [
            (r#"{"x":12345678901234567890123}"#, r#"{"x":12345678901234567890124}"#),
            (r#"{"x":1e400}"#, r#"{"x":2e400}"#),
            (r#"{"x":"\ud800a"}"#, r#"{"x":"\ud800b"}"#),
        ] {
            let of = |arguments: &str| of(&format!(r#"{{"name":"a","arguments":{arguments}}}"#));
            assert_ne!(of(one), of(other), "{one}");
        }
    }

    #[test]
    fn errors_of_the_other_era_mean_something_in_this_one() {
        let said = Said::default();
        for (code, expected, status) in [
            (-32002, -32602, 200),
            (-32601, -32601, 404),
            (-32602, -32602, 200),
            (-32001, -32603, 200),
            (-32020, -32603, 200),
            (-32042, -32603, 200),
            (-32700, -32700, 200),
            (7, 7, 200),
        ] {
            let answer =
                json!({ "jsonrpc": "2.0", "id": "x", "error": { "code": code, "message": "m", "data": { "a": 1 } } });
            let response = response(&answer.to_string().into(), "5", "tools/call", None, &said);
            let expected =
                json!({ "jsonrpc": "2.0", "id": 5, "error": { "code": expected, "message": "m", "data": { "a": 1 } } });
            assert_eq!((response.status, told(&response)), (status, expected));
        }
        let no_object =
            response(&Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":[]}"#), "5", "tools/call", None, &said);
        assert_eq!(told(&no_object)["error"]["code"], -32603);
    }

    #[test]
    fn a_page_that_must_be_visited_first_becomes_a_question() {
        let params = declaring(&json!({ "elicitation": { "url": {} } }));
        let said = Said::of(Some(&params)).unwrap();
        let answer = json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": -32042, "message": "m", "data": { "elicitations": [
            { "mode": "url", "elicitationId": "e", "url": "https://a/", "message": "visit" } ] } } });
        let result = told(&response(&answer.to_string().into(), "5", "tools/call", None, &said))["result"].clone();
        assert_eq!(
            result,
            json!({ "resultType": "input_required", "inputRequests": { "url-1": { "method": "elicitation/create",
            "params": { "mode": "url", "url": "https://a/", "message": "visit" } } } })
        );
    }

    #[test]
    fn a_client_is_asked_only_what_it_has_declared() {
        let params = declaring(&json!({ "elicitation": {}, "roots": {} }));
        let said = Said::of(Some(&params)).unwrap();
        let question = |method: &str, params: Value| {
            json!({ "jsonrpc": "2.0", "id": "q", "method": method, "params": params }).to_string()
        };
        let form = ask(
            question(ELICIT, json!({ "message": "?", "elicitationId": "e", "_meta": { "progressToken": 1 } }))
                .as_bytes(),
            &said,
        );
        assert_eq!(form.unwrap(), r#"{"method":"elicitation/create","params":{"_meta":{},"message":"?"}}"#);
        let odd = br#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"?","requestedSchema":{"properties":{"z":{"maximum":12345678901234567890123},"a":{}}}}}"#;
        assert_eq!(
            ask(odd, &said).unwrap(),
            r#"{"method":"elicitation/create","params":{"message":"?","requestedSchema":{"properties":{"z":{"maximum":12345678901234567890123},"a":{}}}}}"#
        );
        let roots = ask(br#"{"jsonrpc":"2.0","id":"q","method":"roots/list"}"#, &said);
        assert_eq!(roots.unwrap(), r#"{"method":"roots/list"}"#);
        for (method, params) in [(ELICIT, json!({ "mode": "url" })), (SAMPLE, json!({})), ("ping", json!({}))] {
            assert_eq!(ask(question(method, params).as_bytes(), &said), None, "{method}");
        }
    }

    #[test]
    fn of_what_a_server_says_meanwhile_its_client_hears_what_it_has_asked_for() {
        let said = |method: &str, params: Value| {
            Bytes::from(json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string())
        };
        let progress = said(mcp::PROGRESS, json!({ "progressToken": "call-1", "progress": 1 }));
        let heard = notification(&progress, mcp::PROGRESS, Some("0"), false).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&heard).unwrap()["params"]["progressToken"], 0);
        assert_eq!(notification(&progress, mcp::PROGRESS, None, false), None);
        let log = said("notifications/message", json!({ "level": "info", "data": "x" }));
        assert!(notification(&log, "notifications/message", None, true).is_some());
        for method in [
            "notifications/message",
            "notifications/tools/list_changed",
            "notifications/resources/updated",
            mcp::CANCELLED,
        ] {
            assert_eq!(notification(&log, method, Some("0"), false), None, "{method}");
        }
        assert!(notification(&log, "notifications/vendor", None, false).is_some());
    }

    #[test]
    fn what_a_server_asks_stands_by_its_key() {
        let asks = [("a\"".to_owned(), r#"{"method":"roots/list"}"#.to_owned())];
        let asked: Value = serde_json::from_str(&input_required(&asks, Some("s"))).unwrap();
        assert_eq!(
            asked,
            json!({ "resultType": "input_required", "inputRequests": { "a\"": { "method": "roots/list" } }, "requestState": "s" })
        );
    }
}
