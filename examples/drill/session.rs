//! One MCP session as a client sees it: a stream that is opened again whenever it ends, and calls that never cease.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{
    Event,
    connection::{Target, source_of},
    events::{Answer as Opened, Events},
    poster::{Poster, SendError},
    sse::Piece,
};
use tokio::sync::{Notify, watch};

use super::ledger::{Answer, Kind, Ledger, Outcome};

/// How a client comes back after its stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Reconnect {
    /// Without a pause.
    AtOnce,
    /// After the time that the server has told by `retry:`, as an `EventSource` does.
    Retry,
    /// Every other session at once.
    Mixed,
}

/// What all sessions have in common.
#[derive(Debug)]
pub struct Plan {
    /// Where the stream is opened.
    pub stream: Target,
    /// In each key and text, so that runs on one cluster do not meet.
    pub run: String,
    /// Calls of a session side by side.
    pub calls: usize,
    /// Longest pause between two calls.
    pub think: Duration,
    /// A call without an answer for longer makes the client open its stream anew.
    pub silence: Duration,
    /// A GET without an answer for longer is tried again.
    pub open_limit: Duration,
    /// A call without an answer for longer is lost.
    pub patience: Duration,
    /// Probes of all sessions together, a second.
    pub probe_rate: f64,
    /// See there.
    pub reconnect: Reconnect,
    /// Each session comes from an address of its own.
    pub spread: bool,
    /// Seed of all that is random.
    pub seed: u64,
}

/// Figures of all sessions, and the board on which faults are written.
#[derive(Debug)]
pub struct Board {
    /// Streams opened.
    pub streams: Cell<u64>,
    /// Streams that ended by themselves.
    pub broken: Cell<u64>,
    /// Streams that the client gave up because an answer did not come.
    pub silent: Cell<u64>,
    /// Streams refused with a status, after which stock clients would never come back.
    pub refused_streams: RefCell<BTreeMap<u16, u64>>,
    /// POSTs sent again, by what had become of them.
    pub repeated_posts: RefCell<BTreeMap<String, u64>>,
    /// What each answer took beyond what the call takes, milliseconds.
    pub delays: RefCell<Vec<u32>>,
    /// The slowest of them, in words.
    pub slowest: RefCell<Vec<(Duration, String)>>,
    /// The current fault and when it happened.
    fault: Cell<Option<(usize, Instant)>>,
    /// By fault and session: when the first answer came to a call that was sent after it.
    recovered: RefCell<Vec<Vec<Option<Duration>>>>,
    sessions: usize,
    announce: watch::Sender<usize>,
    /// No new calls.
    pub stopping: Cell<bool>,
}

impl Board {
    /// For so many sessions.
    pub fn new(sessions: usize) -> Self {
        Self {
            streams: Cell::new(0),
            broken: Cell::new(0),
            silent: Cell::new(0),
            refused_streams: RefCell::default(),
            repeated_posts: RefCell::default(),
            delays: RefCell::default(),
            slowest: RefCell::default(),
            fault: Cell::new(None),
            recovered: RefCell::default(),
            sessions,
            announce: watch::Sender::new(0),
            stopping: Cell::new(false),
        }
    }

    /// A fault has just happened. Its number.
    pub fn fault_at(&self, at: Instant) -> usize {
        let mut recovered = self.recovered.borrow_mut();
        recovered.push(vec![None; self.sessions]);
        let fault = recovered.len() - 1;
        self.fault.set(Some((fault, at)));
        self.announce.send_replace(fault + 1);
        fault
    }

    /// When each session was served again after a fault.
    pub fn recoveries(&self, fault: usize) -> Vec<Option<Duration>> {
        self.recovered.borrow()[fault].clone()
    }

    fn has_recovered(&self, fault: usize, session: usize) -> bool {
        self.recovered.borrow()[fault][session].is_some()
    }

    fn answered(&self, session: usize, id: u64, answer: &Answer) {
        let Answer { kind, sent, accepted, delay } = *answer;
        self.delays.borrow_mut().push(u32::try_from(delay.as_millis()).unwrap_or(u32::MAX));
        self.note_slow(delay, || {
            let since = match self.fault.get() {
                Some((fault, at)) if sent >= at => {
                    format!("{} ms after fault {}", sent.duration_since(at).as_millis(), fault + 1)
                }
                Some((fault, at)) => format!("{} ms before fault {}", at.duration_since(sent).as_millis(), fault + 1),
                None => "before any fault".to_owned(),
            };
            let accepted = match accepted {
                Some(accepted) => format!("accepted after {} ms", accepted.duration_since(sent).as_millis()),
                None => "answered before it was accepted".to_owned(),
            };
            format!("session {session}, call {id} ({kind:?}), sent {since}, {accepted}")
        });
        let Some((fault, at)) = self.fault.get() else { return };
        if sent >= at {
            self.recovered.borrow_mut()[fault][session].get_or_insert_with(|| at.elapsed());
        }
    }

    fn since_fault(&self) -> String {
        match self.fault.get() {
            Some((fault, at)) => format!("{} ms after fault {}", at.elapsed().as_millis(), fault + 1),
            None => "before any fault".to_owned(),
        }
    }

    fn note_slow(&self, delay: Duration, describe: impl FnOnce() -> String) {
        const KEPT: usize = 5;
        let mut slowest = self.slowest.borrow_mut();
        if slowest.len() < KEPT || slowest.last().is_some_and(|(least, _)| *least < delay) {
            slowest.push((delay, describe()));
            slowest.sort_by_key(|(delay, _)| std::cmp::Reverse(*delay));
            slowest.truncate(KEPT);
        }
    }
}

fn bump(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// See the module's text.
pub struct Session {
    number: usize,
    plan: Rc<Plan>,
    board: Rc<Board>,
    source: Option<IpAddr>,
    poster: Poster,
    /// What was promised and what came.
    pub ledger: RefCell<Ledger>,
    stream: RefCell<StreamState>,
    changed: Notify,
    rng: RefCell<fastrand::Rng>,
    next_id: Cell<u64>,
}

#[derive(Debug, Default)]
struct StreamState {
    endpoint: Option<Target>,
    session_id: Option<String>,
    last_event_id: Option<String>,
    retry: Option<u64>,
    open_since: Option<Instant>,
    initialized: bool,
}

/// Calls of a session that may be open before no more probes are sent: half of `MCP_MAX_INFLIGHT`.
const MOST_OPEN: usize = 32;

/// JSON-RPC id of `initialize`; calls have the ids above.
const INITIALIZE: u64 = 0;
/// Pause before the next try when an instance did not even answer.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);
/// A POST is tried so often.
const POST_TRIES: usize = 30;
/// The proxy in front answers sooner.
const POST_LIMIT: Duration = Duration::from_secs(30);
/// After a fault each session sends a call in this rhythm until one is answered, whatever else it waits for.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

enum Posted {
    Accepted,
    Refused,
    Doubtful,
}

impl Session {
    /// A session that has not been opened yet.
    pub fn new(number: usize, plan: Rc<Plan>, board: Rc<Board>) -> Rc<Self> {
        // All of 127/8 is this machine; nginx's ip_hash looks at the first three numbers.
        let source = plan.spread.then(|| source_of(u32::try_from(number).unwrap_or(u32::MAX)));
        let rng = fastrand::Rng::with_seed(plan.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Rc::new(Self {
            number,
            source,
            poster: Poster::new(plan.stream.clone(), source),
            ledger: RefCell::default(),
            stream: RefCell::default(),
            changed: Notify::new(),
            rng: RefCell::new(rng),
            next_id: Cell::new(1),
            plan,
            board,
        })
    }

    /// Opens the session, shakes hands, and starts to call.
    ///
    /// # Errors
    /// The handshake did not come to its end within the patience of the plan.
    pub async fn start(self: &Rc<Self>) -> Result<(), String> {
        actix_rt::spawn(Rc::clone(self).keep_stream());
        let limit = self.plan.patience;
        let shaken = tokio::time::timeout(limit, self.shake_hands());
        shaken.await.map_err(|_| format!("session {}: no handshake within {limit:?}", self.number))?;
        for _ in 0..self.plan.calls {
            actix_rt::spawn(Rc::clone(self).keep_calling());
        }
        actix_rt::spawn(Rc::clone(self).probe());
        Ok(())
    }

    /// The session's id, once it has one.
    pub fn id(&self) -> Option<String> {
        self.stream.borrow().session_id.clone()
    }

    /// The name of a call: text of an echo, key of an increment.
    pub fn call_name(&self, id: u64) -> String {
        format!("{}-{}-{id}", self.plan.run, self.number)
    }

    // --- The stream ------------------------------------------------------------------------------------------------

    async fn keep_stream(self: Rc<Self>) {
        loop {
            let opened = self.stream_once().await;
            self.stream.borrow_mut().open_since = None;
            let at_once = match self.plan.reconnect {
                Reconnect::AtOnce => true,
                Reconnect::Retry => false,
                Reconnect::Mixed => self.number.is_multiple_of(2),
            };
            let told = Duration::from_millis(self.stream.borrow().retry.unwrap_or(1000));
            match (at_once, opened) {
                (true, true) => {}
                (true, false) => tokio::time::sleep(REFUSED_PAUSE).await,
                (false, _) => tokio::time::sleep(told).await,
            }
        }
    }

    /// One connection, from GET to its end; `false` when it did not become a stream.
    async fn stream_once(&self) -> bool {
        let last_id = self.stream.borrow().last_event_id.clone();
        let headers = last_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let target = &self.plan.stream;
        let request = target.get_stream(&headers);
        let asked = Events::ask(target.address, self.source, &request);
        let mut events = match tokio::time::timeout(self.plan.open_limit, asked).await {
            Ok(Ok(Opened::Stream(events, _))) => events,
            Ok(Ok(Opened::Other(status, ..))) => {
                *self.board.refused_streams.borrow_mut().entry(status).or_default() += 1;
                return false;
            }
            Ok(Err(_)) | Err(_) => return false,
        };
        bump(&self.board.streams);
        self.stream.borrow_mut().open_since = Some(Instant::now());
        let mut watch = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                piece = events.next_piece() => {
                    let Ok(Some(piece)) = piece else {
                        bump(&self.board.broken);
                        return true;
                    };
                    if let Some(retry) = events.take_retry() {
                        self.stream.borrow_mut().retry = Some(retry);
                    }
                    if let Piece::Event(event) = piece {
                        self.take_event(event.into());
                    }
                }
                _ = watch.tick() => if self.is_silent() {
                    bump(&self.board.silent);
                    return true;
                }
            }
        }
    }

    /// An answer is overdue: the instance at the other end of this connection may hang.
    fn is_silent(&self) -> bool {
        let Some(open_since) = self.stream.borrow().open_since else { return false };
        self.ledger.borrow().unanswered().any(|(_, open)| {
            let own = if let Kind::Wait(millis) = open.kind { Duration::from_millis(millis) } else { Duration::ZERO };
            let since = open.accepted.unwrap_or(open.sent).max(open_since);
            since.elapsed() > self.plan.silence + own
        })
    }

    fn take_event(&self, event: Event) {
        if let Some(id) = &event.id {
            self.stream.borrow_mut().last_event_id = Some(id.clone());
        }
        match event.name.as_str() {
            "endpoint" => self.take_endpoint(&event.data),
            "message" => self.take_message(&event),
            _ => {}
        }
    }

    fn take_endpoint(&self, path: &str) {
        let mut stream = self.stream.borrow_mut();
        let Ok(endpoint) = self.plan.stream.join(path) else {
            self.ledger.borrow_mut().complain(format!("session {}: no URL: {path}", self.number));
            return;
        };
        let id = endpoint.url.query_pairs().find(|(name, _)| name == "sessionId").map(|(_, id)| id.into_owned());
        if stream.session_id.is_some() && stream.session_id != id {
            let mut ledger = self.ledger.borrow_mut();
            ledger.session_lost = true;
            ledger.complain(format!("session {}: the client got another session", self.number));
        }
        stream.session_id = id;
        stream.endpoint = Some(endpoint);
        drop(stream);
        self.changed.notify_waiters();
    }

    fn take_message(&self, event: &Event) {
        let message: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let mut ledger = self.ledger.borrow_mut();
        match &event.id {
            Some(id) if !ledger.event(id, self.number) => return,
            None if message["method"] == "notifications/message" => {
                ledger.gap_told(self.number, &message["params"]["data"].to_string());
                return;
            }
            Some(_) | None => {}
        }
        if !message["method"].is_null() {
            return;
        }
        match message["id"].as_u64() {
            Some(INITIALIZE) => {
                self.stream.borrow_mut().initialized = true;
                self.changed.notify_waiters();
            }
            Some(id) => {
                let answer = ledger.answer(self.number, id, &message, &self.call_name(id));
                drop(ledger);
                if let Some(answer) = answer {
                    self.board.answered(self.number, id, &answer);
                }
            }
            None => ledger.complain(format!("session {}: an answer without an id: {message}", self.number)),
        }
    }

    async fn until(&self, ready: impl Fn(&StreamState) -> bool) {
        loop {
            let changed = self.changed.notified();
            if ready(&self.stream.borrow()) {
                return;
            }
            changed.await;
        }
    }

    // --- Calls -----------------------------------------------------------------------------------------------------

    async fn shake_hands(&self) {
        let initialize = json!({ "jsonrpc": "2.0", "id": INITIALIZE, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": { "name": "failover-drill", "version": env!("CARGO_PKG_VERSION") },
        }});
        self.post(INITIALIZE, Kind::Echo, initialize.to_string()).await;
        self.until(|stream| stream.initialized).await;
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        self.post(INITIALIZE, Kind::Echo, initialized.to_string()).await;
    }

    async fn keep_calling(self: Rc<Self>) {
        while !self.board.stopping.get() {
            let (kind, think) = {
                let mut rng = self.rng.borrow_mut();
                let kind = match rng.u8(..4) {
                    0 => Kind::Echo,
                    1 => Kind::Increment,
                    _ => Kind::Wait(rng.u64(5..=300)),
                };
                (kind, self.plan.think.mul_f64(rng.f64()))
            };
            self.call(kind).await;
            tokio::time::sleep(think).await;
        }
    }

    /// After a fault: finds out when the session is served again, even while all its calls hang.
    async fn probe(self: Rc<Self>) {
        let mut faults = self.board.announce.subscribe();
        while faults.changed().await.is_ok() {
            let Some(fault) = faults.borrow_and_update().checked_sub(1) else { continue };
            // They are to find the recovery, not to prevent it.
            let pause = PROBE_PAUSE.max(Duration::from_secs_f64(self.board.sessions as f64 / self.plan.probe_rate));
            let offset = pause.mul_f64(self.rng.borrow_mut().f64());
            let end = Instant::now() + self.plan.patience;
            tokio::time::sleep(offset).await;
            while Instant::now() < end {
                let over = self.board.has_recovered(fault, self.number) || faults.has_changed().unwrap_or(true);
                if over || self.board.stopping.get() {
                    break;
                }
                // A long hang must not end at the router's own bound on calls in flight.
                if self.ledger.borrow().open_ids().len() < MOST_OPEN {
                    let session = Rc::clone(&self);
                    actix_rt::spawn(async move { session.call(Kind::Echo).await });
                }
                tokio::time::sleep(pause).await;
            }
        }
    }

    async fn call(&self, kind: Kind) {
        let id = self.next_id.replace(self.next_id.get() + 1);
        let text = self.call_name(id);
        let (tool, arguments) = match kind {
            Kind::Echo => ("echo", json!({ "text": text })),
            Kind::Wait(millis) => ("wait", json!({ "ms": millis, "text": text })),
            Kind::Increment => ("increment", json!({ "key": text })),
        };
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call",
                           "params": { "name": tool, "arguments": arguments } });
        let answered = self.ledger.borrow_mut().open(id, kind);
        match self.post(id, kind, body.to_string()).await {
            Posted::Accepted => {
                self.ledger.borrow_mut().accepted(id);
                if tokio::time::timeout(self.plan.patience, answered).await.is_err() {
                    let age = self.board.since_fault();
                    let mut ledger = self.ledger.borrow_mut();
                    ledger.complain(format!(
                        "session {}: call {id} ({kind:?}) was accepted {:?} ago and has no answer, {age}",
                        self.number, self.plan.patience
                    ));
                    ledger.give_up(id, Outcome::Lost);
                }
            }
            Posted::Refused => self.ledger.borrow_mut().give_up(id, Outcome::Refused),
            Posted::Doubtful => {
                // Perhaps it was accepted, and only the word of it was lost.
                let _ = tokio::time::timeout(self.plan.patience / 3, answered).await;
                self.ledger.borrow_mut().give_up(id, Outcome::Doubtful);
            }
        }
    }

    /// Sends a message, again if need be. A call with a side effect is sent again only when it surely was not taken: its
    /// id protects it while it is pending, and not when it has been answered meanwhile.
    async fn post(&self, id: u64, kind: Kind, body: String) -> Posted {
        let mut taken_perhaps = false;
        for tries in 0..POST_TRIES {
            self.until(|stream| stream.endpoint.is_some()).await;
            let Some(endpoint) = self.stream.borrow().endpoint.clone() else { continue };
            let request = endpoint.post_json("", &body);
            let failure = match tokio::time::timeout(POST_LIMIT, self.poster.send(&request)).await {
                Ok(Ok((200..=299, _))) => return Posted::Accepted,
                Ok(Ok((status, text))) => {
                    let error: Value = serde_json::from_slice(&text).unwrap_or_default();
                    if status < 500 {
                        let mut ledger = self.ledger.borrow_mut();
                        ledger.session_lost |= status == 404;
                        ledger.complain(format!("session {}: a POST got status {status}: {error}", self.number));
                        return Posted::Refused;
                    }
                    taken_perhaps |= error["error"]["data"]["retry"] != true;
                    format!("{status} {}", error["error"]["data"]["reason"].as_str().unwrap_or("?"))
                }
                Ok(Err(SendError::NoConnection(_))) => "no connection".to_owned(),
                Ok(Err(SendError::Broken(error))) => {
                    taken_perhaps = true;
                    format!("broken: {error}")
                }
                Err(_) => {
                    taken_perhaps = true;
                    "no answer".to_owned()
                }
            };
            if id != INITIALIZE && !self.ledger.borrow().is_open(id) {
                return Posted::Accepted;
            }
            if taken_perhaps && kind == Kind::Increment {
                *self.board.repeated_posts.borrow_mut().entry(format!("{failure}, not repeated")).or_default() += 1;
                return Posted::Doubtful;
            }
            if taken_perhaps {
                self.ledger.borrow_mut().repeated(id);
            }
            if tries + 1 < POST_TRIES {
                *self.board.repeated_posts.borrow_mut().entry(failure).or_default() += 1;
            }
            let pause = 100 + self.rng.borrow_mut().u64(..200);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        if taken_perhaps { Posted::Doubtful } else { Posted::Refused }
    }
}
