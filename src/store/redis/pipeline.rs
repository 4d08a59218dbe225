//! Grouping: what many sessions write at the same time goes to Redis in one pipeline.
//!
//! Each thread that uses a store has one *lane* for each place of the topology: a bounded queue and a task that takes what
//! waits in it, sends it as one pipeline on a connection it keeps, and hands out the answers. Only one pipeline of a lane is on
//! its way at a time, so the operations of one thread on the keys of one place reach Redis in the order of their calls; what
//! arrives meanwhile is the next pipeline. A lane whose operations are to be done elsewhere hands them on to that lane, in
//! their order. Only what a node asks to have again in a moment (`TRYAGAIN`) may be overtaken.
//!
//! Never: one operation's error is another's; nothing is sent twice that may have been executed.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{Pipeline, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::{Instant, sleep},
};

use super::{
    link::{Judged, Link, MAX_WEIGHT, pause_before},
    place::Place,
    scripts::Call,
    topology::Turn,
};
use crate::store::{StoreError, StoreResult};

/// One operation in a lane.
struct Op {
    call: Call,
    deadline: Instant,
    reply: oneshot::Sender<StoreResult<Value>>,
    /// Behind an `ASKING`, at this place.
    asking: Option<Place>,
    /// How often it was told to come again in a moment.
    turns: u32,
}

/// All lanes of one store. The queues end with it, and with them the tasks.
pub(super) struct Lanes(Arc<Inner>);

struct Inner {
    /// Tells the stores of one process apart.
    id: u64,
    link: Arc<Link>,
    queue: usize,
    senders: Mutex<Vec<(Place, mpsc::Sender<Op>)>>,
    own: Weak<Self>,
}

/// The answer to an operation that is on its way.
pub(super) struct Pending(oneshot::Receiver<StoreResult<Value>>);

impl Pending {
    pub(super) async fn answer(self) -> StoreResult<Value> {
        let closed = |_| Err(StoreError::Unavailable("the store is closed".to_owned()));
        self.0.await.unwrap_or_else(closed)
    }
}

thread_local! {
    /// This thread's lanes of each store. Weak, so that a store that is dropped ends its lanes in all threads.
    static LANES: RefCell<Vec<(u64, Place, mpsc::WeakSender<Op>)>> = const { RefCell::new(Vec::new()) };
}

/// A connection that was not used for so long is asked whether it lives before operations are trusted to it: a restart
/// or an idle time-out of the server then costs a round trip, and no operation.
const TRUST: Duration = Duration::from_secs(1);

/// So often an operation is sent to another node without a pause.
const TURNS_AT_ONCE: u32 = 5;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Lanes {
    pub(super) fn new(link: Arc<Link>, queue: usize) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new_cyclic(|own| Inner {
            id,
            link,
            queue: queue.max(1),
            senders: Mutex::default(),
            own: own.clone(),
        }))
    }

    /// Sends one call and waits for its answer.
    pub(super) async fn call(&self, call: Call) -> StoreResult<Value> {
        let (operation, begun, metrics) = (call.operation, Instant::now(), &self.0.link.metrics);
        let answer = self.post(call).answer().await;
        metrics.operation(operation).observe(begun.elapsed().as_secs_f64());
        answer
    }

    /// Puts one call into its lane: what this thread calls after it comes after it, if it has the same place.
    pub(super) fn post(&self, call: Call) -> Pending {
        let (reply, answer) = oneshot::channel();
        let op = Op { call, deadline: Instant::now() + self.0.link.timeout, reply, asking: None, turns: 0 };
        // Who is refused is told so as anybody is told anything.
        self.0.send(op);
        Pending(answer)
    }
}

impl Inner {
    /// Puts it into the lane of its place, or says why not.
    fn send(&self, op: Op) {
        let place = op.asking.unwrap_or_else(|| self.link.topology.place(&op.call));
        self.link.metrics.queued.inc();
        if let Err(refused) = self.sender(place).try_send(op) {
            self.link.metrics.queued.dec();
            let (op, error) = match refused {
                TrySendError::Full(op) => (op, StoreError::Overloaded),
                TrySendError::Closed(op) => (op, StoreError::NotDone("the store is closed".to_owned())),
            };
            let _ = op.reply.send(Err(error));
        }
    }

    fn sender(&self, place: Place) -> mpsc::Sender<Op> {
        LANES.with_borrow_mut(|lanes| {
            let known = lanes.iter().find(|(id, at, _)| *id == self.id && *at == place);
            // A lane is closed when the runtime in which its task ran has ended.
            let known = known.and_then(|(_, _, lane)| lane.upgrade()).filter(|sender| !sender.is_closed());
            known.unwrap_or_else(|| {
                let sender = self.open(place);
                lanes.retain(|(id, at, lane)| (*id != self.id || *at != place) && lane.strong_count() > 0);
                lanes.push((self.id, place, sender.downgrade()));
                sender
            })
        })
    }

    fn open(&self, place: Place) -> mpsc::Sender<Op> {
        let (sender, queue) = mpsc::channel(self.queue);
        tokio::spawn(Lane { place, link: self.link.clone(), lanes: self.own.clone() }.run(queue));
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of nodes that have no keys any more end when what is in them is done.
        let places = self.link.topology.places();
        senders.retain(|(at, sender)| !sender.is_closed() && places.contains(at));
        senders.push((place, sender.clone()));
        sender
    }
}

/// What is sent together.
#[derive(Default)]
struct Batch {
    pipeline: Pipeline,
    /// What is in it.
    sent: Vec<Sent>,
    weight: usize,
    /// Whose key stands for all in it that want copies.
    copied: Option<String>,
    is_waiting: bool,
}

/// An operation, but for its command, which is in the pipeline.
struct Sent {
    op: Op,
    /// Where in the pipeline.
    at: usize,
}

impl Batch {
    fn push(&mut self, mut op: Op, now: Instant) {
        // DUR-2: what has waited too long is not sent any more, since its caller is about to say so.
        if op.deadline < now {
            let _ = op.reply.send(Err(StoreError::NotDone("waited too long for its turn".to_owned())));
            return;
        }
        if op.asking.is_some() {
            self.pipeline.cmd("ASKING");
        }
        self.weight += op.call.weight;
        if op.call.wants_copies && self.copied.is_none() {
            self.copied = op.call.key().map(|key| String::from_utf8_lossy(key).into_owned());
        }
        self.pipeline.add_command(std::mem::take(&mut op.call.cmd));
        self.sent.push(Sent { op, at: self.pipeline.len() - 1 });
    }

    /// Has the replicas told of, too. `WAIT` speaks of what this connection has written, and what is done a second time may write
    /// nothing: so something is written that stands behind it in the order of all writes.
    fn wait_for(&mut self, copies: usize, patience: Duration) {
        let Some(key) = self.copied.take().filter(|_| copies > 0) else { return };
        let key = if key.starts_with('{') { key } else { format!("{{{key}}}") };
        self.pipeline.cmd("SET").arg(format!("{key}:copies")).arg("").arg("PX").arg(1);
        self.pipeline.cmd("WAIT").arg(copies).arg(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        self.is_waiting = true;
    }

    fn has_room(&self, batch: usize) -> bool {
        self.sent.len() < batch && self.weight < MAX_WEIGHT
    }
}

/// A lane, as its task has it.
struct Lane {
    place: Place,
    link: Arc<Link>,
    lanes: Weak<Inner>,
}

impl Lane {
    async fn run(self, mut queue: mpsc::Receiver<Op>) {
        let link = &self.link;
        let mut kept: Option<(MultiplexedConnection, Instant)> = None;
        let node = link.node();
        let mut led_to = *node.borrow();
        let mut batch = Batch::default();
        while let Some(op) = queue.recv().await {
            link.metrics.queued.dec();
            let Some(op) = self.mine(op) else { continue };
            let leads_to = *node.borrow();
            let trusted = match kept.take().filter(|_| leads_to == led_to) {
                Some((connection, used)) if used.elapsed() < TRUST => Some(connection),
                Some((connection, _)) => link.check(connection).await,
                None => None,
            };
            let mut connection = match trusted {
                Some(connection) => connection,
                None => {
                    let dialled = tokio::select! {
                        dialled = link.dial(self.place, op.deadline) => dialled,
                        () = link.is_elsewhere(&op.call, self.place), if op.asking.is_none() => {
                            self.hand_on(op);
                            continue;
                        }
                    };
                    match dialled {
                        Ok(connection) => connection,
                        Err(error) => {
                            let _ = op.reply.send(Err(error));
                            continue;
                        }
                    }
                }
            };
            led_to = leads_to;
            let now = Instant::now();
            batch.push(op, now);
            while batch.has_room(link.batch) {
                match queue.try_recv() {
                    Ok(op) => {
                        link.metrics.queued.dec();
                        if let Some(op) = self.mine(op) {
                            batch.push(op, now);
                        }
                    }
                    Err(_) => break,
                }
            }
            if batch.sent.is_empty() {
                kept = Some((connection, now));
                continue;
            }
            batch.wait_for(link.copies, link.timeout / 2);
            let answers = link.exchange(&mut connection, &batch.pipeline, self.place).await;
            // After an error nobody knows which answer would come next on this connection: it is dropped. So is one to a node
            // that cannot serve: the address may lead to another one by now.
            let good = answers.as_ref().is_ok_and(|answers| !answers.redial);
            kept = good.then(|| (connection, Instant::now()));
            self.finish(&mut batch, answers.map(|answers| answers.results));
        }
    }

    /// The operation, if it is to be done here; otherwise it is handed on.
    fn mine(&self, op: Op) -> Option<Op> {
        if op.asking.is_some() || self.link.topology.place(&op.call) == self.place {
            return Some(op);
        }
        self.hand_on(op);
        None
    }

    fn hand_on(&self, op: Op) {
        match self.lanes.upgrade() {
            Some(lanes) => lanes.send(op),
            None => {
                let _ = op.reply.send(Err(StoreError::NotDone("the store is closed".to_owned())));
            }
        }
    }

    /// Hands the answers out. Whose caller is gone has nobody to tell; its effect stands.
    fn finish(&self, batch: &mut Batch, results: StoreResult<Vec<Judged>>) {
        match results {
            Ok(results) => {
                let too_few = batch.is_waiting && self.too_few(results.last());
                let (mut results, mut next) = (results.into_iter(), 0);
                for Sent { op, at } in batch.sent.drain(..) {
                    let result = results.nth(at - next);
                    next = at + 1;
                    match result {
                        Some(Judged::Done(Ok(_))) if too_few && op.call.wants_copies => {
                            let error = StoreError::Unavailable("too few replicas have it (REDIS_COPIES)".to_owned());
                            let _ = op.reply.send(Err(error));
                        }
                        Some(Judged::Done(result)) => drop(op.reply.send(result)),
                        Some(Judged::Again(turn, error)) => {
                            let cmd = batch.pipeline.cmd_iter().nth(at).cloned().unwrap_or_default();
                            self.again(Op { call: op.call.with(cmd), ..op }, turn, error);
                        }
                        None => {}
                    }
                }
            }
            Err(error) => {
                for Sent { op, .. } in batch.sent.drain(..) {
                    let _ = op.reply.send(Err(error.clone()));
                }
            }
        }
        batch.pipeline.clear();
        (batch.weight, batch.copied, batch.is_waiting) = (0, None, false);
    }

    /// By the answer to `WAIT`.
    fn too_few(&self, waited: Option<&Judged>) -> bool {
        let is_enough = matches!(waited, Some(Judged::Done(Ok(Value::Int(copies))))
            if usize::try_from(*copies).is_ok_and(|copies| copies >= self.link.copies));
        if !is_enough {
            self.link.metrics.too_few_copies.inc();
        }
        !is_enough
    }

    /// It was not executed, and is sent again until its time is over.
    fn again(&self, mut op: Op, turn: Turn, error: StoreError) {
        if Instant::now() >= op.deadline {
            self.link.gave_up(&error, self.place);
            let _ = op.reply.send(Err(error));
            return;
        }
        op.turns += 1;
        op.asking = if let Turn::Asking(place) = turn { Some(place) } else { None };
        // Nodes that send it to each other do not agree yet.
        if turn != Turn::Later && op.turns < TURNS_AT_ONCE {
            return self.hand_on(op);
        }
        let lanes = self.lanes.clone();
        tokio::spawn(async move {
            sleep(pause_before(op.turns)).await;
            match lanes.upgrade() {
                Some(lanes) => lanes.send(op),
                None => drop(op.reply.send(Err(error))),
            }
        });
    }
}
