//! The event streams of a session: its own, which is opened again whenever it ends, and over Streamable HTTP one for each
//! call that is not answered at once, which the client comes back to by `Last-Event-ID`.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use serde_json::Value;
use testkit::{
    Event,
    events::{Answer as Response, Events},
    sse::Piece,
};

use super::{
    board::bump,
    ledger::{Kind, Open, Way},
    session::{INITIALIZE, Session},
};

/// Pause before the next try when an instance did not even answer.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);
/// How long a stream is read on after its answer: what comes twice comes soon after.
const TAIL: Duration = Duration::from_secs(1);

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By itself.
    Broken,
    /// The client gave it up, because an answer did not come.
    Silent,
    /// The client needs it no more.
    Unneeded,
}

impl Session {
    /// Opens the session's own stream as often as it ends.
    pub(super) async fn keep_stream(self: Rc<Self>) {
        loop {
            let last_id = self.state.borrow().last_event_id.clone();
            let opened = match self.open_stream(last_id.as_deref()).await {
                Some(mut events) => {
                    let end = self.read_stream(&mut events, None).await;
                    self.note_end(end);
                    true
                }
                None => false,
            };
            self.pause(opened).await;
        }
    }

    /// Reads the stream of a call to its answer, and comes back to it as often as it breaks.
    pub(super) async fn follow(self: Rc<Self>, id: u64, mut events: Events) {
        let (mut last_id, mut broken) = (None, None);
        loop {
            let end = self.read_stream(&mut events, Some(id)).await;
            if !events.last_id.is_empty() {
                last_id = Some(String::from_utf8_lossy(&events.last_id).into_owned());
            }
            if !self.waits_for(id) {
                self.note_cut(broken);
                return;
            }
            self.note_end(end);
            broken.get_or_insert_with(Instant::now);
            // Without a cursor there is nothing to come back to; the answer may still come on the session's own stream.
            let Some(last_id) = &last_id else { return };
            let mut opened = true;
            events = loop {
                self.pause(opened).await;
                if !self.waits_for(id) {
                    self.note_cut(broken);
                    return;
                }
                match self.open_stream(Some(last_id)).await {
                    Some(events) => break events,
                    None => opened = false,
                }
            };
        }
    }

    fn waits_for(&self, id: u64) -> bool {
        if id == INITIALIZE { !self.state.borrow().initialized } else { self.ledger.borrow().is_open(id) }
    }

    fn note_cut(&self, broken: Option<Instant>) {
        let millis = broken.map(|broken| u32::try_from(broken.elapsed().as_millis()).unwrap_or(u32::MAX));
        self.board.cut.borrow_mut().extend(millis);
    }

    fn note_end(&self, end: End) {
        match end {
            End::Broken => bump(&self.board.broken),
            End::Silent => bump(&self.board.silent),
            End::Unneeded => {}
        }
    }

    /// Before a stream is opened again; `opened`: the last try became one.
    async fn pause(&self, opened: bool) {
        let told = Duration::from_millis(self.state.borrow().retry.unwrap_or(1000));
        match (self.plan.comes_back_at_once(self.number), opened) {
            // One that ends at once is not to be asked for without end.
            (true, true) if self.is_streamable => tokio::time::sleep(REFUSED_PAUSE).await,
            (true, true) => {}
            (true, false) => tokio::time::sleep(REFUSED_PAUSE).await,
            (false, _) => tokio::time::sleep(told).await,
        }
    }

    /// One GET; `None` when it did not become a stream.
    async fn open_stream(&self, last_id: Option<&str>) -> Option<Events> {
        let target = if self.is_streamable { &self.plan.mcp } else { &self.plan.sse };
        let cursor = last_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let request = target.get_stream(&(self.headers() + &cursor));
        let asked = Events::ask(target.address, self.source, &request);
        match tokio::time::timeout(self.plan.open_limit, asked).await {
            Ok(Ok(Response::Stream(events, _))) => {
                bump(&self.board.streams);
                Some(events)
            }
            Ok(Ok(Response::Other(status, ..))) => {
                *self.board.refused_streams.borrow_mut().entry(status).or_default() += 1;
                self.ledger.borrow_mut().session_lost |= status == 404;
                None
            }
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Reads one connection to its end. `call`: it shows the stream of that call.
    async fn read_stream(&self, events: &mut Events, call: Option<u64>) -> End {
        let opened = Instant::now();
        let mut unneeded = None;
        let mut watch = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                piece = events.next_piece() => {
                    let Ok(Some(piece)) = piece else { return End::Broken };
                    if let Some(retry) = events.take_retry() {
                        self.state.borrow_mut().retry = Some(retry);
                    }
                    if let Piece::Event(event) = piece {
                        self.take_event(&event.into(), call);
                    }
                }
                _ = watch.tick() => {
                    if self.is_silent(opened, call) {
                        return End::Silent;
                    }
                    if call.is_some_and(|id| !self.waits_for(id))
                        && unneeded.get_or_insert_with(Instant::now).elapsed() > TAIL
                    {
                        return End::Unneeded;
                    }
                }
            }
        }
    }

    /// An answer is overdue: the instance at the other end of this connection may hang.
    fn is_silent(&self, opened: Instant, call: Option<u64>) -> bool {
        let is_overdue = |open: &Open| {
            let own = if let Kind::Wait(millis) = open.kind { Duration::from_millis(millis) } else { Duration::ZERO };
            let since = open.accepted.unwrap_or(open.sent).max(opened);
            since.elapsed() > self.plan.silence + own
        };
        let ledger = self.ledger.borrow();
        let mut unanswered = ledger.unanswered();
        match call {
            Some(id) => unanswered.any(|(other, open)| other == id && is_overdue(open)),
            // On the session's own stream over Streamable HTTP no answer is due.
            None => !self.is_streamable && unanswered.any(|(_, open)| is_overdue(open)),
        }
    }

    fn take_event(&self, event: &Event, call: Option<u64>) {
        if let (Some(id), None) = (&event.id, call) {
            self.state.borrow_mut().last_event_id = Some(id.clone());
        }
        match event.name.as_str() {
            "endpoint" => self.take_endpoint(&event.data),
            "message" => self.take_message(event, call),
            _ => {}
        }
    }

    fn take_endpoint(&self, path: &str) {
        let Ok(endpoint) = self.plan.sse.join(path) else {
            self.ledger.borrow_mut().complain(format!("session {}: no URL: {path}", self.number));
            return;
        };
        let id = endpoint.url.query_pairs().find(|(name, _)| name == "sessionId").map(|(_, id)| id.into_owned());
        self.take_id(id);
        self.state.borrow_mut().endpoint = Some(endpoint);
        self.changed.notify_waiters();
    }

    fn take_message(&self, event: &Event, call: Option<u64>) {
        let message: Value = serde_json::from_str(&event.data).unwrap_or_default();
        {
            let mut ledger = self.ledger.borrow_mut();
            let is_primer = event.data.is_empty();
            match &event.id {
                Some(id) if self.is_streamable && !ledger.event_of(id, self.number, call, is_primer) => return,
                Some(id) if !self.is_streamable && !ledger.event(id, self.number) => return,
                None if message["method"] == "notifications/message" => {
                    ledger.gap_told(self.number, &message["params"]["data"].to_string());
                    return;
                }
                Some(_) | None => {}
            }
            if is_primer {
                return;
            }
        }
        if message["method"].is_null() {
            self.take_answer(&message, if call.is_some() { Way::OwnStream } else { Way::SessionStream });
        }
    }

    /// An answer, by whatever way it came.
    pub(super) fn take_answer(&self, message: &Value, way: Way) {
        match message["id"].as_u64() {
            Some(INITIALIZE) => {
                self.state.borrow_mut().initialized = true;
                self.changed.notify_waiters();
            }
            Some(id) => {
                let answer = self.ledger.borrow_mut().answer(self.number, id, message, &self.call_name(id), way);
                if let Some(answer) = answer {
                    self.board.answered(self.number, id, &answer);
                }
            }
            None => {
                let complaint = format!("session {}: an answer without an id: {message}", self.number);
                self.ledger.borrow_mut().complain(complaint);
            }
        }
    }
}
