//! One request of a client with a session, until its answer. What the server asks in between (`input_required`) becomes requests
//! to the client, and the request is sent again with the answers: nothing of it runs at the server meanwhile.

use std::{pin::Pin, rc::Rc};

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    handshake::result_of,
    outgoing::Outgoing,
    posting::{Taken, learn},
    questions::Round,
    state::{Answers, Expected, Running, State},
    told::{self, Asked, Told},
};
use crate::{
    protocol::{
        jsonrpc::{self, Head, IdKey, Kind},
        mcp, scan,
    },
    upstream::{
        notice::{LinkEvent, LinkLimits},
        resumption::{Again, Resumption},
        transport::http::{
            answer::PostError,
            line::Line,
            reply::{Piece, Reply, ReplyEnd, Source},
        },
    },
};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Exchange {
    session: Rc<State>,
    line: Line,
    /// The client's.
    id: IdKey,
    outgoing: Outgoing,
    stage: Stage,
    cancel: Running,
    rounds: usize,
    /// What the client is told with the answer.
    done_with: Vec<String>,
}

#[derive(Debug)]
enum Stage {
    Reading(Reply),
    Asking(Asking),
    Over,
}

/// What has been asked of the client.
#[derive(Debug)]
struct Asking {
    round: Round,
    sender: Answers,
    answers: mpsc::Receiver<(String, Bytes)>,
    expected: Expected,
    /// Whoever keeps the record was told that the request goes on.
    is_told: bool,
}

impl Exchange {
    /// Sends the request. `Ok(None)`: it was given up, and nobody waits for more.
    pub(super) async fn begin(
        session: Rc<State>,
        line: Line,
        id: IdKey,
        body: Bytes,
    ) -> Result<Option<Reply>, PostError> {
        let cancel = Running::register(&session, &id);
        let outgoing = Outgoing::of(&body, &session.next_id(), &session.client.borrow());
        let Some(outgoing) = outgoing else {
            let error = jsonrpc::error_response(id.as_json(), -32602, "params is no object", None);
            return Ok(Some(Reply::said(error)));
        };
        let taken = tokio::select! {
            biased;
            // The request is cut off, by which its server knows.
            () = cancel.cancel.given_up() => return Ok(None),
            taken = session.post(&line, &outgoing) => taken?,
        };
        let reply = match taken {
            Taken::Error(error) => {
                return Ok(Some(Reply::said(jsonrpc::failed_response(id.as_json(), &told::for_client(&error)))));
            }
            Taken::Reply(reply) => reply,
        };
        let stage = Stage::Reading(reply);
        let exchange = Self { session, line, id, outgoing, stage, cancel, rounds: 0, done_with: Vec::new() };
        Ok(Some(Reply::of_source(Box::new(exchange))))
    }

    /// Goes on with a request whose former owner has left it so: its server waits for what the client says. `None`: that cannot
    /// be read.
    pub(super) fn resume(session: Rc<State>, line: Line, body: &Bytes, state: &str) -> Option<Reply> {
        let Ok(Head { kind: Kind::Request { id, .. }, .. }) = Head::parse(body) else { return None };
        let round = Round::inherit(state)?;
        let outgoing = Outgoing::of(body, &session.next_id(), &session.client.borrow())?;
        let (stage, cancel) = (Stage::Asking(asking(&session, round)), Running::register(&session, &id));
        let exchange = Self { session, line, id, outgoing, stage, cancel, rounds: 1, done_with: Vec::new() };
        Some(Reply::of_source(Box::new(exchange)))
    }

    async fn step(&mut self, limits: LinkLimits) -> Piece {
        let cancel = Rc::clone(&self.cancel.cancel);
        loop {
            match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Over => return Piece { events: Vec::new(), end: Some(ReplyEnd::Whole) },
                Stage::Reading(mut reply) => {
                    let piece = tokio::select! {
                        biased;
                        () = cancel.given_up() => continue,
                        piece = reply.next(limits) => piece,
                    };
                    let Piece { events, end } = self.read(piece);
                    match (&self.stage, end) {
                        (Stage::Asking(_), _) if events.is_empty() => {}
                        (Stage::Asking(_), _) => return Piece { events, end: None },
                        (_, Some(ReplyEnd::Nameless(error))) => {
                            let answer = jsonrpc::failed_response(self.id.as_json(), &told::for_client(&error));
                            return Piece { events: self.answered(events, answer), end: Some(ReplyEnd::Whole) };
                        }
                        (_, Some(end)) => return Piece { events, end: Some(end) },
                        (_, None) => {
                            self.stage = Stage::Reading(reply);
                            return Piece { events, end: None };
                        }
                    }
                }
                Stage::Asking(mut asking) => {
                    let events = self.ask_next(&mut asking);
                    if !events.is_empty() {
                        self.stage = Stage::Asking(asking);
                        return Piece { events, end: None };
                    }
                    if !asking.round.is_over() {
                        let answer = tokio::select! {
                            biased;
                            () = cancel.given_up() => continue,
                            answer = asking.answers.recv() => answer,
                        };
                        match self.take(asking, answer) {
                            Some(piece) => return piece,
                            None => continue,
                        }
                    }
                    if asking.round.has_asked() && !std::mem::replace(&mut asking.is_told, true) {
                        self.stage = Stage::Asking(asking);
                        return Piece { events: vec![LinkEvent::GoesOn], end: None };
                    }
                    let gone_on = tokio::select! {
                        biased;
                        () = cancel.given_up() => continue,
                        gone_on = self.go_on(asking.round) => gone_on,
                    };
                    match gone_on {
                        Ok(reply) => self.stage = Stage::Reading(reply),
                        Err(piece) => return piece,
                    }
                }
            }
        }
    }

    /// What has come, as the client is told it.
    fn read(&mut self, piece: Piece) -> Piece {
        let mut events = Vec::new();
        for event in piece.events {
            let (body, is_altered) = match event {
                LinkEvent::Message(body) => (body, false),
                LinkEvent::Altered(body) => (body, true),
                // By the client's id.
                LinkEvent::TooLarge(scan::Told::Answer(_)) => {
                    events.push(LinkEvent::TooLarge(scan::Told::Answer(self.id.as_json().to_owned())));
                    continue;
                }
                // Its streams cannot be resumed.
                LinkEvent::Cursor(_) => continue,
                event => {
                    events.push(event);
                    continue;
                }
            };
            let event = if is_altered { LinkEvent::Altered } else { LinkEvent::Message };
            match told::told(&body, self.id.as_json()) {
                Told::Nothing => {}
                Told::Other(body) => events.push(event(body)),
                Told::Answer(answer) => {
                    let answer = self.listed(answer);
                    events.extend(self.done_with.drain(..).map(|note| LinkEvent::Message(note.into())));
                    events.push(event(answer));
                }
                Told::Asks(asked) => match self.begin_round(asked) {
                    Ok(()) => return Piece { events, end: None },
                    Err(why) => events.push(LinkEvent::Message(self.failed(&why))),
                },
            }
        }
        Piece { events, end: piece.end }
    }

    fn answered(&mut self, mut events: Vec<LinkEvent>, answer: Bytes) -> Vec<LinkEvent> {
        events.push(LinkEvent::Message(answer));
        events
    }

    /// A list of tools says which of their arguments stand in headers.
    fn listed(&self, answer: Bytes) -> Bytes {
        if self.outgoing.method != mcp::LIST_TOOLS {
            return answer;
        }
        let shown = result_of(&answer).and_then(|result| {
            learn(&self.line, result);
            told::without_forbidden(&answer, result)
        });
        shown.unwrap_or(answer)
    }

    /// The server asks.
    fn begin_round(&mut self, asked: Asked) -> Result<(), String> {
        self.rounds += 1;
        let most = self.line.settings().rounds;
        if self.rounds > most {
            return Err(format!(
                "the server has asked {most} times (MCP_UPSTREAM_ROUNDS) without an answer of its own"
            ));
        }
        let capabilities = self.session.client.borrow().capabilities.clone();
        let round = Round::begin(asked, &capabilities)?;
        self.stage = Stage::Asking(asking(&self.session, round));
        Ok(())
    }

    /// The requests to the client, each with what an heir needs to know once it is asked.
    fn ask_next(&self, asking: &mut Asking) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        while let Some(request) = asking.round.ask_next(|| self.session.next_id()) {
            if let Some(id) = asking.round.open_ids().last() {
                asking.expected.add(id, &asking.sender);
            }
            events.extend(waits(&asking.round, true));
            events.push(LinkEvent::Message(request.into()));
        }
        events
    }

    /// The client has answered. `Some`: what is told of it.
    fn take(&mut self, mut asking: Asking, answer: Option<(String, Bytes)>) -> Option<Piece> {
        let Some((id, response)) = answer else {
            return Some(Piece { events: Vec::new(), end: Some(ReplyEnd::Broken) });
        };
        if let Err(error) = asking.round.take(&id, &response) {
            let why = "another question of the same request was not answered";
            let withdrawn = asking.round.open_ids().map(|id| {
                json!({ "jsonrpc": "2.0", "method": mcp::CANCELLED, "params": { "requestId": raw(id), "reason": why } })
            });
            let mut events: Vec<_> = withdrawn.map(|note| LinkEvent::Message(note.to_string().into())).collect();
            let why = format!("the client did not answer what the server has asked: {error}");
            events.push(LinkEvent::Message(self.failed(&why)));
            return Some(Piece { events, end: Some(ReplyEnd::Whole) });
        }
        let events: Vec<_> = waits(&asking.round, false).filter(|_| !asking.round.is_over()).into_iter().collect();
        self.stage = Stage::Asking(asking);
        (!events.is_empty()).then_some(Piece { events, end: None })
    }

    fn failed(&self, why: &str) -> Bytes {
        let details = json!({ "reason": "upstream_asks", "outcome": "unknown", "retry": false });
        jsonrpc::error_response(self.id.as_json(), jsonrpc::INTERNAL_ERROR, why, Some(&details))
    }

    /// Sends the request again, with the client's answers.
    ///
    /// # Errors
    /// What the client is told instead.
    async fn go_on(&mut self, round: Round) -> Result<Reply, Piece> {
        self.done_with.extend(round.done_with());
        let next = self.outgoing.going_on(&self.session.next_id(), &round.puts());
        let broken = || Piece { events: Vec::new(), end: Some(ReplyEnd::Broken) };
        self.outgoing = next.ok_or_else(broken)?;
        let mut attempts = Resumption::new(self.line.settings());
        loop {
            let pause = match self.session.post(&self.line, &self.outgoing).await {
                Ok(Taken::Reply(reply)) => return Ok(reply),
                Ok(Taken::Error(error)) => {
                    let answer = jsonrpc::failed_response(self.id.as_json(), &told::for_client(&error));
                    return Err(Piece { events: vec![LinkEvent::Message(answer)], end: Some(ReplyEnd::Whole) });
                }
                // Not executed: it may be sent again, to this server alone, whose question it answers.
                Err(PostError::NotSent(_)) => attempts.next(None),
                Err(PostError::NotNow { retry_after, .. }) => attempts.next(retry_after),
                Err(error) => {
                    tracing::debug!(service = self.line.endpoint.service, %error, "a request could not be gone on with");
                    return Err(broken());
                }
            };
            match pause {
                Again::After(pause) => tokio::time::sleep(pause).await,
                Again::Never => return Err(broken()),
            }
        }
    }
}

/// The answers to what is open are waited for from now on.
fn asking(session: &Rc<State>, round: Round) -> Asking {
    // Each is answered once.
    let (sender, answers) = mpsc::channel(round.unanswered().max(1));
    let mut expected = Expected::none(session);
    round.open_ids().for_each(|id| expected.add(id, &sender));
    Asking { round, sender, answers, expected, is_told: false }
}

/// What an heir needs to know.
fn waits(round: &Round, with_next: bool) -> Option<LinkEvent> {
    round.stored().map(|state| LinkEvent::Waits { state: state.into(), with_next })
}

/// An id of our own, which is JSON text.
fn raw(id: &str) -> serde_json::Value {
    serde_json::from_str(id).unwrap_or_default()
}

impl Source for Exchange {
    fn next(&mut self, limits: LinkLimits) -> Pin<Box<dyn Future<Output = Piece> + '_>> {
        Box::pin(self.step(limits))
    }
}
