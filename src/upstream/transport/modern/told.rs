//! What a server of this era says in the answer to a request, for a client that has a session. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use crate::protocol::{
    by_name::by_name,
    jsonrpc::{self, Head, Kind, with_part},
    modern::{
        refusal::{HEADER_MISMATCH, INVALID_PARAMS, MISSING_CAPABILITY, UNSUPPORTED_VERSION},
        result::{self, COMPLETE, INPUT_REQUIRED},
        schema::{self, Mirrored},
    },
};

/// See the module's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The answer.
    Answer(Bytes),
    /// It asks something first.
    Asks(Asked),
    /// Something that belongs to the request.
    Other(Bytes),
    /// Nothing that a client could use: a request, an answer to nothing.
    Nothing,
}

/// What a server asks before it answers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// To be shown again: JSON text.
    pub(super) state: Option<String>,
    /// By their keys.
    pub(super) questions: Vec<Question>,
}

/// One thing that it asks.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Question {
    pub(super) key: String,
    pub(super) method: String,
    /// JSON text.
    pub(super) params: Option<String>,
}

impl Question {
    /// JSON text.
    pub(super) fn params(&self) -> &str {
        self.params.as_deref().unwrap_or("{}")
    }
}

/// What this message means for the client that knows the request by `id` (JSON text).
pub(super) fn told(message: &Bytes, id: &str) -> Told {
    let Ok(head) = Head::parse(message) else { return Told::Other(message.clone()) };
    match head.kind {
        Kind::Notification { .. } => Told::Other(message.clone()),
        Kind::Request { .. } | Kind::Response { id: None, .. } => Told::Nothing,
        Kind::Response { success: false, .. } => Told::Answer(
            jsonrpc::error_of(message)
                .map_or_else(|| head.with_id(message, id), |error| jsonrpc::failed_response(id, &for_client(&error))),
        ),
        Kind::Response { .. } => {
            let result = head.result.map_or("{}", RawValue::get);
            let Some(said) = result::Said::of(result) else { return Told::Answer(head.with_id(message, id)) };
            match said.kind() {
                COMPLETE => Told::Answer(
                    result::plain(result)
                        .map_or_else(|| head.with_id(message, id), |plain| jsonrpc::result_response(id, &plain)),
                ),
                INPUT_REQUIRED => {
                    Asked::of(&said).map_or_else(|| Told::Answer(unreadable(id, INPUT_REQUIRED)), Told::Asks)
                }
                kind => Told::Answer(unreadable(id, kind)),
            }
        }
    }
}

fn unreadable(id: &str, kind: &str) -> Bytes {
    let why = format!("the server has answered with a result of the kind {kind:?}, which means nothing here");
    let details = json!({ "reason": "upstream_result_type", "outcome": "unknown", "retry": false });
    jsonrpc::error_response(id, jsonrpc::INTERNAL_ERROR, &why, Some(&details))
}

impl Asked {
    fn of(said: &result::Said<'_>) -> Option<Self> {
        #[derive(Deserialize)]
        struct Request<'a> {
            method: String,
            #[serde(borrow, default)]
            params: Option<&'a RawValue>,
        }
        let state = said.request_state.filter(|state| state.get().starts_with('"')).map(|state| state.get().to_owned());
        let questions: BTreeMap<String, &RawValue> = match said.input_requests {
            Some(questions) => by_name(questions.get())?,
            None => BTreeMap::new(),
        };
        let question = |(key, asked): (String, &RawValue)| {
            let Request { method, params } = by_name(asked.get())?;
            Some(Question { key, method, params: params.map(|params| params.get().to_owned()) })
        };
        let questions = questions.into_iter().map(question).collect::<Option<Vec<_>>>()?;
        (state.is_some() || !questions.is_empty()).then_some(Self { state, questions })
    }
}

/// The code of an error object.
pub(super) fn code_of(error: &[u8]) -> Option<i64> {
    #[derive(Deserialize)]
    struct Coded {
        code: i64,
    }
    by_name::<Coded>(std::str::from_utf8(error).ok()?).map(|coded| coded.code)
}

/// An error object for a client with a session, to whom the codes of this era mean nothing.
pub(super) fn for_client(error: &[u8]) -> Bytes {
    #[derive(Deserialize)]
    struct Code<'a> {
        #[serde(borrow)]
        code: &'a RawValue,
    }
    let code = match code_of(error) {
        Some(HEADER_MISMATCH | UNSUPPORTED_VERSION) => jsonrpc::INTERNAL_ERROR,
        Some(MISSING_CAPABILITY) => INVALID_PARAMS,
        _ => return Bytes::copy_from_slice(error),
    };
    let text = std::str::from_utf8(error).unwrap_or_default();
    match by_name::<Code<'_>>(text) {
        Some(Code { code: before }) => with_part(error, before.get(), &code.to_string()),
        None => Bytes::copy_from_slice(error),
    }
}

/// What a page of tools says of headers: each tool with those that it has, if it may have them.
pub(super) fn mirrored(result: &str) -> Option<Vec<(String, Option<Vec<Mirrored>>)>> {
    Some(page(result)?.into_iter().map(|(tool, _)| tool).collect())
}

/// The response without the tools that clients of this era must not be shown. `None`: there is none.
pub(super) fn without_forbidden(response: &Bytes, result: &str) -> Option<Bytes> {
    let page = page(result)?;
    if page.iter().all(|((_, mirrored), _)| mirrored.is_some()) {
        return None;
    }
    let shown: Vec<&str> = page.iter().filter(|((_, mirrored), _)| mirrored.is_some()).map(|(_, text)| *text).collect();
    result::with_members(response, &[("tools", &format!("[{}]", shown.join(",")))])
}

type Listed<'a> = ((String, Option<Vec<Mirrored>>), &'a str);

fn page(result: &str) -> Option<Vec<Listed<'_>>> {
    #[derive(Deserialize)]
    struct Page<'a> {
        #[serde(borrow)]
        tools: Vec<&'a RawValue>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Tool<'a> {
        #[serde(default)]
        name: String,
        #[serde(borrow, default)]
        input_schema: Option<&'a RawValue>,
    }
    let page: Page<'_> = by_name(result)?;
    let listed = page.tools.into_iter().map(|text| {
        let Some(Tool { name, input_schema }) = by_name::<Tool<'_>>(text.get()) else {
            return ((String::new(), Some(Vec::new())), text.get());
        };
        let mirrored = input_schema.map_or(Ok(Vec::new()), schema::mirrored);
        ((name, mirrored.ok()), text.get())
    });
    Some(listed.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn response(result: &str) -> Bytes {
        Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":"own","result":{result}}}"#))
    }

    #[test]
    fn an_answer_is_one_of_earlier_versions_under_the_clients_id() {
        let answer = response(r#"{"resultType":"complete","ttlMs":5,"cacheScope":"public","content":[ 1e400 ]}"#);
        assert_eq!(
            told(&answer, "7"),
            Told::Answer(r#"{"jsonrpc":"2.0","id":7,"result":{"content":[ 1e400 ]}}"#.into())
        );
        assert_eq!(told(&response("{}"), "\"a\""), Told::Answer(r#"{"jsonrpc":"2.0","id":"a","result":{}}"#.into()));
        for (code, expected) in [(-32020, -32603), (-32021, -32602), (-32022, -32603), (-32602, -32602), (5, 5)] {
            let error =
                format!(r#"{{"jsonrpc":"2.0","id":"own","error":{{"message":"m", "code":{code},"data":[1]}}}}"#);
            let expected =
                format!(r#"{{"jsonrpc":"2.0","id":7,"error":{{"message":"m", "code":{expected},"data":[1]}}}}"#);
            assert_eq!(told(&error.into(), "7"), Told::Answer(expected.into()));
        }
    }

    #[test]
    fn what_the_server_asks_is_told_from_what_it_answers() {
        let asks = response(
            r#"{"resultType":"input_required","requestState":"s\"","inputRequests":{"b":{"method":"roots/list"},"a":{"method":"elicitation/create","params":{"message":"?"}}}}"#,
        );
        let Told::Asks(Asked { state, mut questions }) = told(&asks, "7") else { panic!() };
        assert_eq!(state.as_deref(), Some(r#""s\"""#));
        questions.sort_by(|one, other| one.key.cmp(&other.key));
        let question = |key: &str, method: &str, params: Option<&str>| Question {
            key: key.into(),
            method: method.into(),
            params: params.map(Into::into),
        };
        assert_eq!(
            questions,
            [question("a", "elicitation/create", Some(r#"{"message":"?"}"#)), question("b", "roots/list", None)]
        );
        let once_more = response(r#"{"resultType":"input_required","requestState":"s"}"#);
        assert!(matches!(told(&once_more, "7"), Told::Asks(Asked { questions, .. }) if questions.is_empty()));
        for result in [
            r#"{"resultType":"input_required"}"#,
            r#"{"resultType":"input_required","inputRequests":[]}"#,
            r#"{"resultType":"input_required","inputRequests":{"a":1}}"#,
            r#"{"resultType":"task","taskId":"t"}"#,
        ] {
            let Told::Answer(answer) = told(&response(result), "7") else { panic!("{result}") };
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(7), &json!(-32603)), "{result}");
        }
    }

    #[test]
    fn what_belongs_to_the_request_is_passed_on_and_requests_are_not() {
        let note =
            Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1}}"#);
        assert_eq!(told(&note, "7"), Told::Other(note.clone()));
        assert_eq!(told(&Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), "7"), Told::Nothing);
    }

    #[test]
    fn tools_with_forbidden_headers_are_not_shown() {
        let tool = |name: &str, of: &str| {
            format!(
                r#"{{"name":"{name}","inputSchema":{{"type":"object","properties":{{"a":{{"type":"{of}","x-mcp-header":"A"}}}}}}}}"#
            )
        };
        let (fine, bad) = (tool("fine", "string"), tool("bad", "number"));
        let result = format!(r#"{{"tools":[{fine}, {bad}],"nextCursor":"2"}}"#);
        let shown = without_forbidden(&response(&result), &result).unwrap();
        let expected: Value = serde_json::from_str(&format!(r#"{{"tools":[{fine}],"nextCursor":"2"}}"#)).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&shown).unwrap()["result"], expected);
        let learned = mirrored(&result).unwrap();
        assert_eq!((learned[0].1.as_ref().map(Vec::len), learned[1].1.is_none()), (Some(1), true));
        let fine = format!(r#"{{"tools":[{fine}]}}"#);
        assert_eq!(without_forbidden(&response(&fine), &fine), None);
    }
}
