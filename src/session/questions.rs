//! Requests of the server to the client (sampling, elicitation, roots, ping): under ids of the router's own towards the
//! client, and under the server's towards the server.
//!
//! A server begins to count anew with every upstream session, so its ids are not unique over the life of the client's
//! session: a late answer to the dead session's `ask-4` would be taken for one to the new one's. The router's ids are: a
//! random number for each life of the actor (owner, adopter, restored data), and a counter. They are strings, which every
//! SDK echoes exactly. Only the bytes of the id are replaced; `progressToken` is another matter and stays.

use std::collections::{BTreeMap, HashMap};

use actix::prelude::*;
use bytes::Bytes;
use foldhash::fast::RandomState;

use super::actor::SessionActor;
use crate::{
    protocol::{
        jsonrpc::{self, Head, IdKey},
        mcp,
    },
    store::{HeadChange, NewEvent},
};

/// The questions that the client has not answered, and the ids of our own requests to the server.
#[derive(Debug)]
pub struct Questions {
    open: HashMap<IdKey, Question, RandomState>,
    /// Distinguishes the ids of this actor from those of every other one.
    nonce: u64,
    asked: u64,
    /// Our own requests on the present link which the server has not answered. Told by what was sent, not by how they look:
    /// a client may be a router, too, and its ids look like ours.
    own: Vec<IdKey>,
    own_sent: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Question {
    /// `None` when an older build passed it on unchanged.
    upstream_id: Option<IdKey>,
    /// The link it came by; `None` for a former owner's.
    link: Option<u64>,
}

/// What a client's answer is about.
#[derive(Debug, PartialEq, Eq)]
enum Answered {
    /// A question of the present upstream session, under this id there (`None`: the same).
    Live(Option<IdKey>),
    /// One of an upstream session that is gone.
    Dead,
    /// None that is open.
    Nothing,
}

impl Questions {
    pub(super) fn new() -> Self {
        Self { open: HashMap::default(), nonce: fastrand::u64(..), asked: 0, own: Vec::new(), own_sent: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn shrink(&mut self) {
        self.open.shrink_to_fit();
        self.own.shrink_to_fit();
    }

    /// As an adopter finds it: the id towards the client, and what stands with it. Older builds wrote the method or nothing.
    pub(super) fn inherit(&mut self, id: &str, stored: &str) {
        let question = Question { upstream_id: IdKey::of_json(stored), link: None };
        self.open.insert(IdKey::from_stored(id), question);
    }

    /// As [`Continuation::questions`](crate::store::Continuation::questions).
    pub(super) fn stored(&self) -> BTreeMap<String, String> {
        let stored = self.open.iter().map(|(id, question)| {
            let upstream_id = question.upstream_id.as_ref().map_or("", IdKey::as_json);
            (id.as_json().to_owned(), upstream_id.to_owned())
        });
        stored.collect()
    }

    /// The id towards the client of a question that came by `link`.
    fn ask(&mut self, upstream_id: IdKey, link: u64) -> IdKey {
        self.asked += 1;
        let id = IdKey::from_stored(format!("\"ask-{:016x}-{}\"", self.nonce, self.asked));
        self.open.insert(id.clone(), Question { upstream_id: Some(upstream_id), link: Some(link) });
        id
    }

    fn answer(&mut self, id: &IdKey, link: u64) -> Answered {
        match self.open.remove(id) {
            Some(question) if question.link == Some(link) => Answered::Live(question.upstream_id),
            Some(_) => Answered::Dead,
            None => Answered::Nothing,
        }
    }

    /// The server takes a question back: its id towards the client.
    fn withdraw(&mut self, upstream_id: &IdKey, link: u64) -> Option<IdKey> {
        let is_it = |question: &Question| {
            question.link == Some(link) && question.upstream_id.as_ref().is_some_and(|id| id == upstream_id)
        };
        let id = self.open.iter().find(|(_, question)| is_it(question)).map(|(id, _)| id.clone())?;
        self.open.remove(&id);
        Some(id)
    }

    /// The id at the server of an open question.
    fn upstream_id(&self, id: &IdKey, link: u64) -> Option<&IdKey> {
        self.open.get(id).filter(|question| question.link == Some(link))?.upstream_id.as_ref()
    }

    /// Takes the questions of all links but this one.
    fn take_dead(&mut self, link: u64) -> Vec<IdKey> {
        self.open.extract_if(|_, question| question.link != Some(link)).map(|(id, _)| id).collect()
    }

    /// An id for a request of our own on the present link.
    pub(super) fn own_id(&mut self) -> IdKey {
        self.own_sent += 1;
        let id = IdKey::from_stored(format!("\"mcp-router-{:016x}-{}\"", self.nonce, self.own_sent));
        self.own.push(id.clone());
        id
    }

    /// Whether this answers a request of our own; it is not open any more then.
    pub(super) fn answers_own(&mut self, id: &IdKey) -> bool {
        let at = self.own.iter().position(|own| own == id);
        at.map(|at| self.own.swap_remove(at)).is_some()
    }

    /// The link is gone, and with it the answers to our own requests.
    pub(super) fn forget_own(&mut self) {
        self.own.clear();
    }
}

/// The question with this id towards the client is not open any more.
fn settled(id: &IdKey) -> HeadChange {
    HeadChange::Settled { id: id.as_json().to_owned() }
}

/// The same by the client's answer, which may write the id in another way.
pub(super) fn answered(id: &IdKey) -> HeadChange {
    HeadChange::Settled { id: id.key().to_owned() }
}

impl SessionActor {
    /// The server asks.
    pub(super) fn take_question(&mut self, upstream_id: IdKey, head: &Head<'_>, body: &Bytes, ctx: &mut Context<Self>) {
        let stored = upstream_id.as_json().to_owned();
        let id = self.questions.ask(upstream_id, self.link_number);
        let asked = HeadChange::Asked { id: id.as_json().to_owned(), upstream_id: stored };
        let event = NewEvent::message(head.with_id(body, id.as_json())).changing(asked);
        self.push_event(event, ctx);
    }

    /// The server takes a question back: after that an answer is of no use to it (MCP, cancellation).
    pub(super) fn take_upstream_cancel(&mut self, head: &Head<'_>, body: &Bytes, ctx: &mut Context<Self>) {
        let named = mcp::cancelled_request_id(head.params);
        let withdrawn =
            named.and_then(|named| Some((named, self.questions.withdraw(&IdKey::of_json(named)?, self.link_number)?)));
        let event = match withdrawn {
            Some((named, id)) => {
                NewEvent::message(jsonrpc::with_part(body, named, id.as_json())).changing(settled(&id))
            }
            None => NewEvent::message(body.clone()),
        };
        self.push_event(event, ctx);
    }

    /// The client answers.
    pub(super) fn take_answer(&mut self, seq: u64, id: Option<&IdKey>, body: Bytes) {
        let answered = id.map_or(Answered::Nothing, |id| self.questions.answer(id, self.link_number));
        let body = match answered {
            Answered::Live(None) => body,
            Answered::Live(Some(upstream_id)) => match Head::parse(&body) {
                Ok(head) => head.with_id(&body, upstream_id.as_json()),
                // It was read before.
                Err(_) => return,
            },
            Answered::Dead => return self.count_dropped("answer_to_dead_upstream"),
            Answered::Nothing => return self.count_dropped("answer_to_nothing"),
        };
        self.send_to_this_session(seq, body);
    }

    /// The client's word on a question that it cancels (which MCP does not foresee), under the server's id. `None`: it is about
    /// something else.
    pub(super) fn cancel_of_question(&self, target: &IdKey, body: &Bytes) -> Option<Bytes> {
        let upstream_id = self.questions.upstream_id(target, self.link_number)?;
        let head = Head::parse(body).ok()?;
        let named = mcp::cancelled_request_id(head.params)?;
        Some(jsonrpc::with_part(body, named, upstream_id.as_json()))
    }

    pub(super) fn count_dropped(&self, why: &'static str) {
        self.env.metrics.dropped.with_label_values(&[why]).inc();
    }

    /// Questions of dead upstream sessions cannot be answered any more: the client is told.
    pub(super) fn cancel_dead_questions(&mut self, ctx: &mut Context<Self>) {
        for id in self.questions.take_dead(self.link_number) {
            let body = format!(
                r#"{{"jsonrpc":"2.0","method":"{}","params":{{"requestId":{},"reason":"the server that asked is gone"}}}}"#,
                mcp::CANCELLED,
                id.as_json()
            );
            self.push_event(NewEvent::message(Bytes::from(body)).changing(settled(&id)), ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> IdKey {
        IdKey::of_json(text).unwrap()
    }

    #[test]
    fn an_answer_reaches_the_question_of_its_own_link_only() {
        let mut questions = Questions::new();
        let first = questions.ask(id("4"), 1);
        let second = questions.ask(id("4"), 3);
        assert_ne!(first, second);
        assert_eq!(questions.answer(&first, 3), Answered::Dead);
        assert_eq!(questions.answer(&second, 3), Answered::Live(Some(id("4"))));
        assert_eq!(questions.answer(&second, 3), Answered::Nothing);
        assert_eq!(questions.answer(&id("4"), 3), Answered::Nothing);
    }

    #[test]
    fn ids_of_two_owners_differ() {
        let (mut one, mut other) = (Questions::new(), Questions::new());
        assert_ne!(one.ask(id("1"), 1), other.ask(id("1"), 1));
        assert_ne!(one.own_id(), other.own_id());
    }

    #[test]
    fn a_question_is_withdrawn_by_the_value_of_its_id_and_on_its_link() {
        let mut questions = Questions::new();
        let asked = questions.ask(id(r#""\u00e9""#), 1);
        assert_eq!(questions.withdraw(&id(r#""é""#), 2), None);
        assert_eq!(questions.withdraw(&id(r#""é""#), 1), Some(asked.clone()));
        assert_eq!(questions.answer(&asked, 1), Answered::Nothing);
    }

    #[test]
    fn an_adopter_keeps_what_older_builds_wrote() {
        for (stored, upstream_id) in [("", None), ("sampling/createMessage", None), ("\"a\"", Some(id("\"a\"")))] {
            let mut questions = Questions::new();
            questions.inherit("\"ask-1\"", stored);
            let kept: Vec<_> = questions.stored().into_iter().collect();
            let value = upstream_id.as_ref().map_or("", IdKey::as_json);
            assert_eq!(kept, [("\"ask-1\"".to_owned(), value.to_owned())]);
            assert_eq!(questions.take_dead(1), [id("\"ask-1\"")], "its upstream session is gone");
        }
    }

    #[test]
    fn only_what_was_sent_is_our_own() {
        let mut questions = Questions::new();
        let own = questions.own_id();
        assert!(!questions.answers_own(&id("\"mcp-router-1-1\"")));
        assert!(questions.answers_own(&own));
        assert!(!questions.answers_own(&own), "once");
        let lost = questions.own_id();
        questions.forget_own();
        assert!(!questions.answers_own(&lost));
    }
}
