//! One MCP session as a client holds it: its calls, which never cease. What its streams bring is read in `streams`.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{
    connection::{Headers, Target, header, source_of},
    events::{Answer as Response, Events},
    poster::{Poster, SendError},
};
use tokio::sync::Notify;

use super::{
    board::{Board, bump},
    ledger::{Kind, Ledger, Outcome, Way},
    plan::Plan,
};

/// See the module's text.
pub struct Session {
    pub(super) number: usize,
    pub(super) is_streamable: bool,
    pub(super) plan: Rc<Plan>,
    pub(super) board: Rc<Board>,
    pub(super) source: Option<IpAddr>,
    poster: Poster,
    /// What was promised and what came.
    pub ledger: RefCell<Ledger>,
    pub(super) state: RefCell<State>,
    pub(super) changed: Notify,
    rng: RefCell<fastrand::Rng>,
    next_id: Cell<u64>,
}

/// What the client knows.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Where to POST.
    pub(super) endpoint: Option<Target>,
    pub(super) id: Option<String>,
    /// Of the session's stream.
    pub(super) last_event_id: Option<String>,
    pub(super) retry: Option<u64>,
    pub(super) initialized: bool,
}

/// Calls of a session that may be open before no more probes are sent: half of `MCP_MAX_INFLIGHT`.
const MOST_OPEN: usize = 32;

/// JSON-RPC id of `initialize`; calls have the ids above.
pub(super) const INITIALIZE: u64 = 0;
/// A POST is tried so often.
const POST_TRIES: usize = 30;
/// The proxy in front answers sooner.
const POST_LIMIT: Duration = Duration::from_secs(30);
/// After a fault each session sends a call in this rhythm until one is answered, whatever else it waits for.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

enum Posted {
    Accepted(Brought),
    Refused,
    Doubtful,
}

/// What the response to a POST has besides its status.
enum Brought {
    /// The answer comes elsewhere, or there is none.
    Nothing,
    /// The answer.
    Json(Value),
    /// A stream that ends with the answer.
    Stream(Box<Events>),
}

impl Session {
    /// A session that has not been opened yet.
    pub fn new(number: usize, plan: Rc<Plan>, board: Rc<Board>) -> Rc<Self> {
        // All of 127/8 is this machine; nginx's ip_hash looks at the first three numbers.
        let source = plan.spread.then(|| source_of(u32::try_from(number).unwrap_or(u32::MAX)));
        let rng = fastrand::Rng::with_seed(plan.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let is_streamable = plan.is_streamable(number);
        let state = State { endpoint: is_streamable.then(|| plan.mcp.clone()), ..State::default() };
        Rc::new(Self {
            number,
            is_streamable,
            source,
            poster: Poster::new(plan.mcp.clone(), source),
            ledger: RefCell::default(),
            state: RefCell::new(state),
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
        // A session over Streamable HTTP has a stream only once it has an id.
        if !self.is_streamable {
            actix_rt::spawn(Rc::clone(self).keep_stream());
        }
        let limit = self.plan.patience;
        let shaken = tokio::time::timeout(limit, self.shake_hands());
        shaken.await.map_err(|_| format!("session {}: no handshake within {limit:?}", self.number))?;
        if self.is_streamable {
            actix_rt::spawn(Rc::clone(self).keep_stream());
        }
        for _ in 0..self.plan.calls {
            actix_rt::spawn(Rc::clone(self).keep_calling());
        }
        actix_rt::spawn(Rc::clone(self).probe());
        Ok(())
    }

    /// The session's id, once it has one.
    pub fn id(&self) -> Option<String> {
        self.state.borrow().id.clone()
    }

    /// Takes the session's id; another one than before is a loss.
    pub(super) fn take_id(&self, id: Option<String>) {
        let mut state = self.state.borrow_mut();
        if state.id.is_some() && state.id != id {
            let mut ledger = self.ledger.borrow_mut();
            ledger.session_lost = true;
            ledger.complain(format!("session {}: the client got another session", self.number));
        }
        state.id = id;
    }

    /// Header lines of each request: a session over Streamable HTTP is named there.
    pub(super) fn headers(&self) -> String {
        match &self.state.borrow().id {
            Some(id) if self.is_streamable => {
                format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n")
            }
            Some(_) | None => String::new(),
        }
    }

    /// The name of a call: text of an echo, key of an increment.
    pub fn call_name(&self, id: u64) -> String {
        format!("{}-{}-{id}", self.plan.run, self.number)
    }

    // --- Calls -----------------------------------------------------------------------------------------------------

    async fn shake_hands(self: &Rc<Self>) {
        let initialize = json!({ "jsonrpc": "2.0", "id": INITIALIZE, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": { "name": "failover-drill", "version": env!("CARGO_PKG_VERSION") },
        }});
        if let Posted::Accepted(brought) = self.post(INITIALIZE, Kind::Echo, initialize.to_string()).await {
            self.take(INITIALIZE, brought);
        }
        self.until(|state| state.initialized).await;
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

    async fn call(self: &Rc<Self>, kind: Kind) {
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
            Posted::Accepted(brought) => {
                self.ledger.borrow_mut().accepted(id);
                self.take(id, brought);
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

    /// What a POST has brought; a stream is read for as long as it takes.
    fn take(self: &Rc<Self>, id: u64, brought: Brought) {
        match brought {
            Brought::Nothing => {}
            Brought::Json(message) => {
                bump(&self.board.as_json);
                self.take_answer(&message, Way::Json);
            }
            Brought::Stream(events) => drop(actix_rt::spawn(Rc::clone(self).follow(id, *events))),
        }
    }

    async fn until(&self, ready: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            if ready(&self.state.borrow()) {
                return;
            }
            changed.await;
        }
    }

    /// Sends a message, again if need be. A call with a side effect is sent again only when it surely was not taken: its
    /// id protects it while it is pending, and not when it has been answered meanwhile.
    async fn post(&self, id: u64, kind: Kind, body: String) -> Posted {
        let mut taken_perhaps = false;
        for tries in 0..POST_TRIES {
            self.until(|state| state.endpoint.is_some()).await;
            let Some(endpoint) = self.state.borrow().endpoint.clone() else { continue };
            let request = endpoint.post_json(&self.headers(), &body);
            let failure = match tokio::time::timeout(POST_LIMIT, self.poster.ask(&request)).await {
                Ok(Ok(response)) => match self.read_response(response) {
                    Said::Taken(brought) => return Posted::Accepted(brought),
                    Said::Refused => return Posted::Refused,
                    Said::NotNow { surely_not_taken, why } => {
                        taken_perhaps |= !surely_not_taken;
                        why
                    }
                },
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
                return Posted::Accepted(Brought::Nothing);
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

    fn read_response(&self, response: Response) -> Said {
        let (status, headers, text) = match response {
            Response::Stream(events, headers) => {
                bump(&self.board.streams);
                self.learn(&headers);
                return Said::Taken(Brought::Stream(Box::new(events)));
            }
            Response::Other(status, headers, text) => (status, headers, text),
        };
        let message: Value = serde_json::from_slice(&text).unwrap_or_default();
        let data = &message["error"]["data"];
        let reason = || format!("{status} {}", data["reason"].as_str().unwrap_or("?"));
        match status {
            // Over Streamable HTTP a request that was not taken is answered like any other.
            200 if self.is_streamable && data["retry"] == true => {
                Said::NotNow { surely_not_taken: true, why: reason() }
            }
            200 if self.is_streamable => {
                self.learn(&headers);
                Said::Taken(Brought::Json(message))
            }
            200..=299 => Said::Taken(Brought::Nothing),
            500.. => Said::NotNow { surely_not_taken: data["retry"] == true, why: reason() },
            _ => {
                let mut ledger = self.ledger.borrow_mut();
                ledger.session_lost |= status == 404;
                ledger.complain(format!("session {}: a POST got status {status}: {message}", self.number));
                Said::Refused
            }
        }
    }

    fn learn(&self, headers: &Headers) {
        if let Some(id) = header(headers, "mcp-session-id") {
            self.take_id(Some(id.to_owned()));
        }
    }
}

/// What a response to a POST says.
enum Said {
    /// It was taken.
    Taken(Brought),
    /// It was not, and never will be.
    Refused,
    /// It may be taken another time; `why` is for the report.
    NotNow { surely_not_taken: bool, why: String },
}
