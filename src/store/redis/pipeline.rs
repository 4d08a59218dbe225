//! Grouping: what many sessions write at the same time goes to Redis in one pipeline.
//!
//! Each thread that uses a store has one *lane*: a bounded queue and a task that takes what waits in it, sends it as
//! one pipeline on a connection it keeps, and hands out the answers. Only one pipeline of a lane is on its way at a
//! time, so the operations of one thread reach Redis in the order of their calls; what arrives meanwhile is the next
//! pipeline.
//!
//! Never: one operation's error is another's.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};

use super::{
    link::{Link, MAX_WEIGHT},
    scripts::Call,
};
use crate::store::{StoreError, StoreResult};

/// One operation in a lane.
struct Op {
    call: Call,
    /// Sent right after the call; their answers are of no interest.
    followers: Vec<Cmd>,
    deadline: Instant,
    reply: oneshot::Sender<StoreResult<Value>>,
}

/// All lanes of one store. The queues end with it, and with them the tasks.
pub(super) struct Lanes {
    /// Tells the stores of one process apart.
    id: u64,
    link: Arc<Link>,
    queue: usize,
    senders: Mutex<Vec<mpsc::Sender<Op>>>,
}

thread_local! {
    /// This thread's lane of each store. Weak, so that a store that is dropped ends its lanes in all threads.
    static LANES: RefCell<Vec<(u64, mpsc::WeakSender<Op>)>> = const { RefCell::new(Vec::new()) };
}

/// A connection that was not used for so long is asked whether it lives before operations are trusted to it: a restart
/// or an idle time-out of the server then costs a round trip, and no operation.
const TRUST: Duration = Duration::from_secs(1);

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Lanes {
    pub(super) fn new(link: Arc<Link>, queue: usize) -> Self {
        Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), link, queue: queue.max(1), senders: Mutex::default() }
    }

    /// Sends one call and waits for its answer.
    pub(super) async fn call(&self, call: Call) -> StoreResult<Value> {
        self.call_with(call, Vec::new()).await
    }

    /// As [`Self::call`]; the followers go in the same pipeline, after it.
    pub(super) async fn call_with(&self, call: Call, followers: Vec<Cmd>) -> StoreResult<Value> {
        let (reply, answer) = oneshot::channel();
        let (operation, begun, metrics) = (call.operation, Instant::now(), &self.link.metrics);
        let op = Op { call, followers, deadline: Instant::now() + self.link.timeout, reply };
        metrics.queued.inc();
        if let Err(refused) = self.sender().try_send(op) {
            metrics.queued.dec();
            return Err(match refused {
                TrySendError::Full(_) => StoreError::Overloaded,
                TrySendError::Closed(_) => StoreError::NotDone("the store is closed".to_owned()),
            });
        }
        let answer = answer.await;
        metrics.operation(operation).observe(begun.elapsed().as_secs_f64());
        answer.unwrap_or_else(|_| Err(StoreError::Unavailable("the store is closed".to_owned())))
    }

    fn sender(&self) -> mpsc::Sender<Op> {
        LANES.with_borrow_mut(|lanes| {
            let known = lanes.iter().find(|(id, _)| *id == self.id).and_then(|(_, lane)| lane.upgrade());
            // A lane is closed when the runtime in which its task ran has ended.
            if let Some(sender) = known.filter(|sender| !sender.is_closed()) {
                return sender;
            }
            let (sender, queue) = mpsc::channel(self.queue);
            tokio::spawn(run(self.link.clone(), queue));
            lanes.retain(|(id, lane)| *id != self.id && lane.strong_count() > 0);
            lanes.push((self.id, sender.downgrade()));
            let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
            senders.retain(|sender| !sender.is_closed());
            senders.push(sender.clone());
            sender
        })
    }
}

/// What is sent together.
#[derive(Default)]
struct Batch {
    pipeline: Pipeline,
    /// Of each operation: whom to answer, and how many commands it is.
    replies: Vec<(oneshot::Sender<StoreResult<Value>>, usize)>,
    weight: usize,
}

impl Batch {
    fn push(&mut self, op: Op, now: Instant) {
        // DUR-2: what has waited too long is not sent any more, since its caller is about to say so.
        if op.deadline < now {
            let _ = op.reply.send(Err(StoreError::NotDone("waited too long for its turn".to_owned())));
            return;
        }
        self.weight += op.call.weight;
        self.replies.push((op.reply, 1 + op.followers.len()));
        self.pipeline.add_command(op.call.cmd);
        for follower in op.followers {
            self.pipeline.add_command(follower);
        }
    }

    fn has_room(&self, batch: usize) -> bool {
        self.replies.len() < batch && self.weight < MAX_WEIGHT
    }

    fn finish(&mut self, results: StoreResult<Vec<StoreResult<Value>>>) {
        // An operation whose caller is gone has nobody to tell; its effect stands.
        match results {
            Ok(results) => {
                let mut results = results.into_iter();
                for (reply, commands) in self.replies.drain(..) {
                    if let Some(result) = results.next() {
                        let _ = reply.send(result);
                    }
                    for follower in results.by_ref().take(commands - 1) {
                        if let Err(error) = follower {
                            tracing::debug!(%error, "the index of sessions by instance was not written");
                        }
                    }
                }
            }
            Err(error) => {
                for (reply, _) in self.replies.drain(..) {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
        self.pipeline.clear();
        self.weight = 0;
    }
}

/// The task of one lane.
async fn run(link: Arc<Link>, mut queue: mpsc::Receiver<Op>) {
    let mut kept: Option<(MultiplexedConnection, Instant)> = None;
    let node = link.node();
    let mut led_to = *node.borrow();
    let mut batch = Batch::default();
    while let Some(op) = queue.recv().await {
        link.metrics.queued.dec();
        let leads_to = *node.borrow();
        let trusted = match kept.take().filter(|_| leads_to == led_to) {
            Some((connection, used)) if used.elapsed() < TRUST => Some(connection),
            Some((connection, _)) => link.check(connection).await,
            None => None,
        };
        let mut connection = match trusted {
            Some(connection) => connection,
            None => match link.dial(op.deadline).await {
                Ok(connection) => connection,
                Err(error) => {
                    let _ = op.reply.send(Err(error));
                    continue;
                }
            },
        };
        led_to = leads_to;
        let now = Instant::now();
        batch.push(op, now);
        while batch.has_room(link.batch) {
            match queue.try_recv() {
                Ok(op) => {
                    link.metrics.queued.dec();
                    batch.push(op, now);
                }
                Err(_) => break,
            }
        }
        if batch.replies.is_empty() {
            kept = Some((connection, now));
            continue;
        }
        let results = link.exchange(&mut connection, &batch.pipeline).await;
        // After an error nobody knows which answer would come next on this connection: it is dropped. So is one to a node
        // that cannot serve: the address may lead to another one by now.
        let good = results.as_ref().is_ok_and(|answers| !answers.redial);
        kept = good.then(|| (connection, Instant::now()));
        batch.finish(results.map(|answers| answers.results));
    }
}
