//! A client stream (SSE body), on whatever instance the client happens to be.
//!
//! [`Attachment`] is its mailbox: the owner, if it is in this process, pushes fresh events; anybody may ask it to look
//! at the log. [`Pump`] is the body: it keeps the client's cursor, takes a pushed event only if it is the next one, and
//! reads the log otherwise. So replay joins live without gap or duplicate (EVT-3) by construction, a full queue costs a
//! read and never an event (MEM-1), and it makes no difference where the session's owner is (OWN-6).
//!
//! | file | what stands there |
//! |---|---|
//! | `pump` | the body: mailbox and log in order, heartbeats |
//! | `log` | what is taken from the log, and holes in it |
//! | `replay` | pure: what is sent again to a client without a cursor |
//! | `doubt` | whose stream it is while only a cookie says so |
//! | `hold` | who holds it in the store: attached, taken back, left |
//! | `waiting` | the stream of a request, until it is known how it is answered |
//! | `told` | what a client is told, before it becomes bytes |

mod doubt;
mod hold;
mod log;
mod pump;
mod replay;
mod told;
mod waiting;

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::time::Instant;

pub use self::{
    hold::Joining,
    pump::{Aborted, Doubt, Pump},
    told::{Block, Told, resume_failed},
    waiting::{Answered, Waiting},
};
use super::core::streams::{Connection, StreamKey};
use crate::{fair::Thread, protocol::session_id::SessionId};

/// The mailbox of one client stream.
#[derive(Debug)]
pub struct Attachment {
    /// Random id; the store knows the stream's holder by it.
    pub id: u64,
    /// The session.
    pub session: SessionId,
    /// The stream within the session.
    pub key: StreamKey,
    /// Its name.
    pub stream: Arc<str>,
    queue: Mutex<Queue>,
    queue_limit: usize,
    woken: AtomicWaker,
    /// Of its reader.
    thread: OnceLock<Thread>,
    sent: AtomicU64,
    /// Key of its client, if that client can be asked who it is when it comes back without a cursor.
    client: OnceLock<Arc<str>>,
    /// It is to be listed under that key: its session is one to come back to.
    listed: AtomicBool,
    /// Nobody has said that the one who looks on is the session's own client; see [`Pump::in_doubt`].
    doubted: AtomicBool,
    /// When somebody last looked whether the session still has an owner, or is going to.
    owner_checked: Mutex<Option<Instant>>,
}

/// How often at most a wake-up of a stream, whose owner is elsewhere, asks who the owner is.
const OWNER_CHECK: Duration = Duration::from_secs(1);

/// What an event takes in a mailbox, and later on the wire, beside its body: id, field names, its place in the queue.
const EVENT_COST: usize = 128;

/// An event that the owner has appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The session's.
    pub epoch: u32,
    /// Between this place and its own the log has nothing for this stream.
    pub after: u64,
    /// Its place in the log.
    pub seq: u64,
    /// It is the answer to which the stream belongs: nothing follows.
    pub is_last: bool,
    /// The message.
    pub body: Bytes,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Pushed>,
    bytes: usize,
    look: bool,
    end: Option<End>,
}

impl Queue {
    /// For a stream that has taken all there was before; a parked one only waits for its end.
    fn has_news(&self, parked: bool) -> bool {
        let ends = !may_go_on(self.end);
        ends || (self.end == Some(End::Superseded) && !parked) || (!parked && (self.look || !self.events.is_empty()))
    }
}

/// How a client stream ends by the router's will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client should come back: the connection is aborted, without a last chunk (some clients give up after a
    /// clean end).
    Abort(&'static str),
    /// The session is over: a clean end.
    Finished,
    /// Another connection shows this stream now. This one stays open and silent, so that its client does not reconnect
    /// and take the stream back (OWN-7); when the other one has gone, it goes on.
    Superseded,
}

impl Connection for Attachment {
    fn id(&self) -> u64 {
        self.id
    }

    fn key(&self) -> StreamKey {
        self.key
    }

    fn sent(&self) -> u64 {
        self.sent()
    }

    fn shrink(&self) {
        self.shrink();
    }
}

impl Attachment {
    /// A mailbox that holds up to `queue_limit` bytes.
    pub fn new(session: SessionId, key: StreamKey, queue_limit: usize) -> Arc<Self> {
        Self::with_id(Self::random_id(), session, key, queue_limit)
    }

    /// For [`Self::with_id`].
    pub fn random_id() -> u64 {
        fastrand::u64(1..u64::MAX)
    }

    /// As [`Self::new`], for a holder that the store knows already.
    pub fn with_id(id: u64, session: SessionId, key: StreamKey, queue_limit: usize) -> Arc<Self> {
        Arc::new(Self {
            id,
            session,
            key,
            stream: key.name().into(),
            queue: Mutex::default(),
            queue_limit,
            woken: AtomicWaker::new(),
            thread: OnceLock::new(),
            sent: AtomicU64::new(0),
            client: OnceLock::new(),
            listed: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            owner_checked: Mutex::new(None),
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The owner has appended an event. When the queue is full the pump will read it from the log instead. MEM-1.
    pub fn push(&self, event: Pushed) {
        let mut queue = self.queue();
        // What was pushed before the end goes out. What comes after it may be of another epoch, and would hide from the
        // client what that one's log has before it.
        if !may_go_on(queue.end) {
            return;
        }
        // Also when the log is going to be read: that may fail, and for as long as the store is away nothing else has it.
        let cost = EVENT_COST + event.body.len();
        if queue.bytes + cost > self.queue_limit && !queue.events.is_empty() {
            queue.events.clear();
            queue.bytes = 0;
            queue.look = true;
        } else {
            queue.bytes += cost;
            queue.events.push_back(event);
        }
        drop(queue);
        self.wake();
    }

    fn wake(&self) {
        if let Some(reader) = self.woken.take() {
            match self.thread.get() {
                Some(thread) => thread.wake(reader),
                None => reader.wake(),
            }
        }
    }

    /// The reader is woken by the next news.
    fn register(&self, reader: &Waker) {
        self.woken.register(reader);
        // A reader stays on its thread.
        self.thread.get_or_init(Thread::current);
    }

    /// What waits for the client to read.
    pub fn queued_bytes(&self) -> usize {
        self.queue().bytes
    }

    /// Gives back the memory of events that have been taken.
    pub fn shrink(&self) {
        self.queue().events.shrink_to_fit();
    }

    /// Something about the log may have changed.
    pub fn look(&self) {
        self.queue().look = true;
        self.wake();
    }

    fn is_to_look(&self) -> bool {
        self.queue().look
    }

    /// Ends the stream; the first reason counts, but a superseded stream can still be ended.
    pub fn end(&self, end: End) {
        let mut queue = self.queue();
        if may_go_on(queue.end) {
            queue.end = Some(end);
        }
        drop(queue);
        self.wake();
    }

    /// How long to wait before looking whether the session still has an owner; `None` if somebody will look anyway.
    pub fn next_owner_check(&self) -> Option<Duration> {
        let mut checked = self.owner_checked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let at = next_check(*checked, now)?;
        *checked = Some(at);
        Some(at.saturating_duration_since(now))
    }

    /// Whose it is.
    pub fn of_client(&self, key: Arc<str>) {
        // Said once, when it is opened.
        let _ = self.client.set(key);
    }

    /// From now on it is listed under its client's key. The key, if it has one.
    pub fn list(&self) -> Option<Arc<str>> {
        self.listed.store(true, Ordering::Release);
        self.client.get().cloned()
    }

    /// The key under which it is listed.
    pub fn listed(&self) -> Option<Arc<str>> {
        self.client.get().filter(|_| self.listed.load(Ordering::Acquire)).cloned()
    }

    /// The answer to the request whose stream this is, if that is the first thing that comes for it, within this time. What
    /// else comes stays for a [`Pump`].
    pub async fn answer_within(&self, patience: Duration) -> Option<Bytes> {
        if patience.is_zero() {
            return None;
        }
        let answer = poll_fn(|context| {
            self.register(context.waker());
            let mut queue = self.queue();
            let answers = !queue.look && queue.events.front().is_some_and(|first| first.is_last);
            if answers {
                return Poll::Ready(queue.events.pop_front().map(|answer| answer.body));
            }
            if queue.has_news(false) { Poll::Ready(None) } else { Poll::Pending }
        });
        tokio::time::timeout(patience, answer).await.ok().flatten()
    }

    /// Its client has proved to be the session's own.
    pub fn prove(&self) {
        self.doubted.store(false, Ordering::Release);
        self.look();
    }

    fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    /// Events up to here were handed to the connection.
    pub(super) fn has_sent(&self, seq: u64) {
        self.sent.store(seq, Ordering::Release);
    }

    /// Sequence up to which events were handed to the connection.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }
}

/// The stream is not at its end; a superseded one may be shown again.
fn may_go_on(end: Option<End>) -> bool {
    matches!(end, None | Some(End::Superseded))
}

/// After every wake-up somebody looks, if not at once then when the last look is long enough ago: the wake-up may be the
/// one by which a draining owner announces that it has let the session go, and no other follows it. OWN-9
fn next_check(last: Option<Instant>, now: Instant) -> Option<Instant> {
    match last {
        Some(last) if last > now => None,
        Some(last) => Some((last + OWNER_CHECK).max(now)),
        None => Some(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(epoch: u32, seq: u64, body: &'static [u8]) -> Pushed {
        Pushed { epoch, after: seq - 1, seq, is_last: false, body: Bytes::from_static(body) }
    }

    /// EVT-2, DUR-1: between a wake-up and the reading of the log the store may be lost, and with it the only other copy.
    #[test]
    fn an_event_is_kept_although_the_log_is_going_to_be_read() {
        let attachment = Attachment::new(SessionId::random(), StreamKey::Main, 100);
        attachment.look();
        attachment.push(pushed(7, 1, b"one"));
        assert_eq!(attachment.queue().events, [pushed(7, 1, b"one")]);
        assert!(attachment.queue().look);
    }

    /// EVT-5, EVT-6
    #[test]
    fn nothing_is_pushed_after_the_end() {
        let attachment = Attachment::new(SessionId::random(), StreamKey::Main, 100);
        attachment.push(pushed(7, 1, b"of this epoch"));
        attachment.end(End::Abort("the session store lost its data"));
        attachment.push(pushed(8, 2, b"of the next epoch"));
        assert_eq!(attachment.queue().events, [pushed(7, 1, b"of this epoch")]);
    }

    /// MEM-1
    #[test]
    fn a_full_mailbox_costs_a_look_and_no_memory() {
        let attachment = Attachment::new(SessionId::random(), StreamKey::Main, 400);
        for seq in 1..=10 {
            attachment.push(pushed(7, seq, &[b'x'; 40]));
            assert!(attachment.queue().bytes <= 400);
        }
        assert!(attachment.queue().look);
    }

    /// OWN-9
    #[test]
    fn no_wake_up_goes_without_a_look_and_looks_are_rare() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        assert_eq!(next_check(None, start), Some(start));
        assert_eq!(next_check(Some(start), after(400)), Some(after(1000)), "later, but surely");
        assert_eq!(next_check(Some(after(1000)), after(500)), None, "it is on its way");
        assert_eq!(next_check(Some(after(1000)), after(1001)), Some(after(2000)));
        assert_eq!(next_check(Some(start), after(5000)), Some(after(5000)));
    }
}
