//! What a server of this era asks before it answers, as requests of a server with a session, and the client's answers to them as
//! the server wants them. Pure.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::told::{Asked, Question};
use crate::protocol::{
    by_name::by_name,
    mcp::{ELICIT, ELICITED, LIST_ROOTS, SAMPLE},
};

/// Largest record of a round. A larger one, which only a large state of the server's makes, is lost with its owner.
const MAX_STORED: usize = 64 << 10;

/// Questions in one round: as many as a session may have open (the default of `MCP_MAX_SERVER_REQUESTS`). What an heir needs is
/// written anew with each of them.
const MAX_QUESTIONS: usize = 256;

/// What is asked in one round, and what has been answered.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Round {
    /// JSON text.
    state: Option<String>,
    unasked: VecDeque<Question>,
    open: Vec<Open>,
    /// Key and result, JSON text.
    answers: Vec<(String, String)>,
    /// Ids of URL elicitations.
    elicitations: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Open {
    key: String,
    method: String,
    /// JSON text.
    id: String,
}

impl Round {
    /// Of what is asked.
    ///
    /// # Errors
    /// Something is asked that the client, which can do this (JSON text), has not declared; too much is asked at once.
    pub(super) fn begin(asked: Asked, capabilities: &str) -> Result<Self, String> {
        let able: Value = serde_json::from_str(capabilities).unwrap_or_default();
        let is_able = |question: &Question| match question.method.as_str() {
            ELICIT => !able["elicitation"][mode(question.params())].is_null(),
            SAMPLE => !able["sampling"].is_null(),
            LIST_ROOTS => !able["roots"].is_null(),
            _ => false,
        };
        if asked.questions.len() > MAX_QUESTIONS {
            let many = asked.questions.len();
            return Err(format!("the server asks {many} things at once, and {MAX_QUESTIONS} may be asked"));
        }
        match asked.questions.iter().find(|question| !is_able(question)) {
            Some(Question { method, .. }) => {
                Err(format!("the server asks its client for {method}, which that has not declared"))
            }
            None => Ok(Self { state: asked.state, unasked: asked.questions.into(), ..Self::default() }),
        }
    }

    /// As a former owner has left it ([`Self::stored`]).
    pub(super) fn inherit(stored: &str) -> Option<Self> {
        by_name(stored)
    }

    /// What an heir needs to go on with it.
    pub(super) fn stored(&self) -> Option<String> {
        let unasked = self.unasked.iter().map(|question| question.key.len() + question.params().len());
        let answers = self.answers.iter().map(|(key, answer)| key.len() + answer.len());
        let least = self.state.as_ref().map_or(0, String::len) + unasked.chain(answers).sum::<usize>();
        if least > MAX_STORED {
            return None;
        }
        serde_json::to_string(self).ok().filter(|stored| stored.len() <= MAX_STORED)
    }

    /// The next request to the client, under an id from `next_id` (JSON texts).
    pub(super) fn ask_next(&mut self, mut next_id: impl FnMut() -> String) -> Option<String> {
        let question = self.unasked.pop_front()?;
        let params = question.params().to_owned();
        let is_url = question.method == ELICIT && mode(&params) == "url";
        let params = if is_url { self.with_id(params, &mut next_id) } else { params };
        let (Question { key, method, .. }, id) = (question, next_id());
        let request =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{},"params":{params}}}"#, Value::String(method.clone()));
        self.open.push(Open { key, method, id });
        Some(request)
    }

    /// Clients with sessions know an elicitation by URL by its id, which this era does not have.
    fn with_id(&mut self, params: String, next_id: &mut impl FnMut() -> String) -> String {
        let Ok(mut params) = serde_json::from_str::<Value>(&params) else { return params };
        let id = match params["elicitationId"].as_str() {
            Some(id) => id.to_owned(),
            None => next_id().trim_matches('"').to_owned(),
        };
        params["elicitationId"] = Value::String(id.clone());
        self.elicitations.push(id);
        params.to_string()
    }

    /// The ids of what is not answered.
    pub(super) fn open_ids(&self) -> impl Iterator<Item = &str> {
        self.open.iter().map(|open| open.id.as_str())
    }

    /// How much is not answered, or not asked yet.
    pub(super) fn unanswered(&self) -> usize {
        self.open.len() + self.unasked.len()
    }

    /// Everything is asked and answered.
    pub(super) fn is_over(&self) -> bool {
        self.unanswered() == 0
    }

    /// The client was asked something.
    pub(super) fn has_asked(&self) -> bool {
        !self.answers.is_empty() || !self.open.is_empty()
    }

    /// The client's response to the request of this id.
    ///
    /// # Errors
    /// The client cannot answer, and the server takes no error for an answer: what it said.
    pub(super) fn take(&mut self, id: &str, response: &[u8]) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Response<'a> {
            #[serde(borrow, default)]
            result: Option<&'a RawValue>,
            #[serde(borrow, default)]
            error: Option<&'a RawValue>,
        }
        let Some(at) = self.open.iter().position(|open| open.id == id) else { return Ok(()) };
        let Open { key, method, .. } = self.open.swap_remove(at);
        let response: Option<Response<'_>> = std::str::from_utf8(response).ok().and_then(by_name);
        let (result, error) = response.map_or((None, None), |said| (said.result, said.error));
        let error = || error.map_or_else(|| "nothing".to_owned(), |error| error.get().to_owned());
        let answer = match (result.map(RawValue::get).filter(|result| result.starts_with('{')), method.as_str()) {
            (Some(result), _) => result.to_owned(),
            (None, ELICIT) => r#"{"action":"cancel"}"#.to_owned(),
            (None, LIST_ROOTS) => r#"{"roots":[]}"#.to_owned(),
            (None, _) => return Err(error()),
        };
        self.answers.push((key, answer));
        Ok(())
    }

    /// What is put into the parameters of the request, which is sent again.
    pub(super) fn puts(&self) -> Vec<(&'static str, String)> {
        let answers = self.answers.iter().map(|(key, answer)| format!("{}:{answer}", Value::String(key.clone())));
        let answers = (!self.answers.is_empty()).then(|| format!("{{{}}}", answers.collect::<Vec<_>>().join(",")));
        let answers = answers.map(|answers| ("inputResponses", answers));
        answers.into_iter().chain(self.state.clone().map(|state| ("requestState", state))).collect()
    }

    /// What the client is told once the server is content: the pages that it was sent to are done with.
    pub(super) fn done_with(&self) -> Vec<String> {
        let done = |id: &String| json!({ "jsonrpc": "2.0", "method": ELICITED, "params": { "elicitationId": id } });
        self.elicitations.iter().map(|id| done(id).to_string()).collect()
    }
}

fn mode(params: &str) -> String {
    #[derive(Deserialize)]
    struct Mode {
        #[serde(default)]
        mode: Option<String>,
    }
    by_name::<Mode>(params).and_then(|asked| asked.mode).unwrap_or_else(|| "form".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABLE: &str = r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}"#;

    fn question(key: &str, method: &str, params: Option<&str>) -> Question {
        Question { key: key.into(), method: method.into(), params: params.map(Into::into) }
    }

    fn ids() -> impl FnMut() -> String {
        let mut next = 0;
        move || {
            next += 1;
            format!("\"q-{next}\"")
        }
    }

    #[test]
    fn questions_become_requests_and_their_answers_go_back_by_their_keys() {
        let questions = vec![
            question("a", ELICIT, Some(r#"{"message":"?","requestedSchema":{"type":"object"}}"#)),
            question("b", SAMPLE, Some(r#"{"messages":[]}"#)),
            question("c", LIST_ROOTS, None),
        ];
        let asked = Asked { state: Some("\"s\"".into()), questions };
        let (mut begun, mut ids) = (Round::begin(asked, ABLE).unwrap(), ids());
        let first = begun.ask_next(&mut ids).unwrap();
        // Its owner dies, and an heir goes on.
        let mut round = Round::inherit(&begun.stored().unwrap()).unwrap();
        let rest = std::iter::from_fn(|| round.ask_next(&mut ids));
        let sent: Vec<Value> =
            [first].into_iter().chain(rest).map(|text| serde_json::from_str(&text).unwrap()).collect();
        assert_eq!((&sent[0]["id"], &sent[0]["method"]), (&json!("q-1"), &json!(ELICIT)));
        assert_eq!(sent[2], json!({ "jsonrpc": "2.0", "id": "q-3", "method": LIST_ROOTS, "params": {} }));
        assert_eq!(round.open_ids().collect::<Vec<_>>(), ["\"q-1\"", "\"q-2\"", "\"q-3\""]);
        round.take("\"q-2\"", br#"{"jsonrpc":"2.0","id":"q-2","result":{"role":"assistant"}}"#).unwrap();
        round.take("\"q-1\"", br#"{"jsonrpc":"2.0","id":"q-1","error":{"code":-1,"message":"no"}}"#).unwrap();
        round.take("\"q-9\"", b"").unwrap();
        assert!(!round.is_over());
        round.take("\"q-3\"", br#"{"jsonrpc":"2.0","id":"q-3","error":{"code":-32601,"message":"no"}}"#).unwrap();
        assert!(round.is_over());
        let puts = round.puts();
        assert_eq!(
            puts[0],
            ("inputResponses", r#"{"b":{"role":"assistant"},"a":{"action":"cancel"},"c":{"roots":[]}}"#.to_owned())
        );
        assert_eq!(puts[1], ("requestState", "\"s\"".to_owned()));
    }

    #[test]
    fn an_error_is_no_answer_to_a_request_for_sampling() {
        let asked = Asked { state: None, questions: vec![question("a", SAMPLE, None)] };
        let mut round = Round::begin(asked, ABLE).unwrap();
        round.ask_next(ids());
        let refused =
            round.take("\"q-1\"", br#"{"jsonrpc":"2.0","id":"q-1","error":{"code":-1,"message":"rejected"}}"#);
        assert!(refused.unwrap_err().contains("rejected"));
    }

    #[test]
    fn what_the_client_has_not_declared_is_not_asked() {
        for (able, method, params) in [
            ("{}", LIST_ROOTS, None),
            (r#"{"roots":{}}"#, SAMPLE, None),
            (r#"{"elicitation":{"form":{}}}"#, ELICIT, Some(r#"{"mode":"url"}"#)),
            (r#"{"elicitation":{"url":{}}}"#, ELICIT, Some("{}")),
            (ABLE, "vendor/ask", None),
        ] {
            let asked = Asked { state: None, questions: vec![question("a", method, params)] };
            assert!(Round::begin(asked, able).is_err_and(|why| why.contains(method)), "{able} {method}");
        }
    }

    /// What is written for an heir with each of them grows with their number.
    #[test]
    fn no_more_is_asked_at_once_than_may_be() {
        let asked = |count: usize| {
            let questions = (0..count).map(|at| question(&at.to_string(), LIST_ROOTS, None)).collect();
            Asked { state: None, questions }
        };
        assert!(Round::begin(asked(MAX_QUESTIONS), ABLE).is_ok());
        assert!(Round::begin(asked(MAX_QUESTIONS + 1), ABLE).is_err_and(|why| why.contains("257 things")));
    }

    #[test]
    fn an_elicitation_by_url_has_an_id_and_is_told_to_be_done() {
        let asked =
            Asked { state: None, questions: vec![question("a", ELICIT, Some(r#"{"mode":"url","url":"https://h"}"#))] };
        let mut round = Round::begin(asked, ABLE).unwrap();
        let sent: Value = serde_json::from_str(&round.ask_next(ids()).unwrap()).unwrap();
        assert_eq!((&sent["params"]["elicitationId"], &sent["id"]), (&json!("q-1"), &json!("q-2")));
        assert!(round.done_with()[0].contains("q-1"));
    }
}
