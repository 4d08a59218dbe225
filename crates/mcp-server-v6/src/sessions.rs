//! The live sessions, and the stream that keeps each HTTP+SSE session alive.
//!
//! Such a session lives exactly as long as the body of its `GET /sse` response. [`EventStream`] is that body; when it is
//! dropped (the client is gone, or the server stops), the session leaves the registry, its running calls are aborted
//! and its questions to the client are forgotten. There is no task, timer or lock that would keep it longer.
//!
//! A Streamable HTTP session lives until its client deletes it or is not heard of for some time. Those that were left
//! are looked for when another one begins, and when somebody asks for one.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use actix_web_lab::sse;
use futures_util::Stream;
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use crate::{rpc::Outgoing, session::Session, session_id::SessionId, streams::ClientGone};

/// The live sessions of a server, and who watches which resource.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<Registry>);

#[derive(Default)]
struct Registry {
    live: HashMap<SessionId, Arc<Session>>,
    /// How many of them speak Streamable HTTP.
    streamable: usize,
    /// When left sessions were looked for.
    swept: Option<Instant>,
    /// By resource. Only resources that can change are ever in here, so it stays tiny.
    watchers: HashMap<&'static str, Vec<SessionId>>,
}

impl Registry {
    fn remove(&mut self, session: &Session) {
        if self.live.remove(&session.id()).is_some() && session.streams().is_some() {
            self.streamable -= 1;
        }
        for watchers in self.watchers.values_mut() {
            watchers.retain(|watcher| *watcher != session.id());
        }
        session.close();
    }
}

impl Sessions {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an HTTP+SSE session: the receiving end of its queue goes into its [`EventStream`].
    pub fn open(&self, queue_capacity: usize) -> (Arc<Session>, mpsc::Receiver<Outgoing>) {
        let (session, queue) = Session::of_sse(queue_capacity);
        self.registry().live.insert(session.id(), Arc::clone(&session));
        (session, queue)
    }

    /// Begins a Streamable HTTP session; `false` if there are `max` of them already. Others that are idle for `idle` are
    /// ended first.
    pub fn admit(&self, session: &Arc<Session>, max: usize, idle: Duration) -> bool {
        let mut registry = self.registry();
        // Often enough that they do not pile up, and seldom enough that nobody waits for it.
        let is_due = registry.swept.is_none_or(|swept| swept.elapsed() > idle / 8);
        if is_due || registry.streamable >= max {
            registry.swept = Some(Instant::now());
            let left: Vec<_> = registry.live.values().filter(|session| session.is_idle(idle)).cloned().collect();
            left.iter().for_each(|session| registry.remove(session));
        }
        if registry.streamable >= max {
            return false;
        }
        registry.streamable += 1;
        registry.live.insert(session.id(), Arc::clone(session));
        true
    }

    /// The live HTTP+SSE session with this id.
    pub fn find(&self, id: &SessionId) -> Option<Arc<Session>> {
        self.registry().live.get(id).filter(|session| session.streams().is_none()).cloned()
    }

    /// The live Streamable HTTP session with this id; one that was idle for `idle` is ended.
    pub fn find_streamable(&self, id: &SessionId, idle: Duration) -> Option<Arc<Session>> {
        let session = self.registry().live.get(id).filter(|session| session.streams().is_some()).cloned()?;
        if session.is_idle(idle) {
            self.close(&session);
            return None;
        }
        Some(session)
    }

    /// How many Streamable HTTP sessions are live.
    pub fn streamable(&self) -> usize {
        self.registry().streamable
    }

    /// How many sessions are live.
    pub fn len(&self) -> usize {
        self.registry().live.len()
    }

    /// Ends a session.
    pub fn close(&self, session: &Session) {
        self.registry().remove(session);
    }

    /// Tells the session from now on when the resource changes.
    pub fn watch(&self, session: &Session, uri: &'static str) {
        let mut registry = self.registry();
        // A subscription that overlaps the end of its session would stay for ever.
        if !registry.live.contains_key(&session.id()) {
            return;
        }
        let watchers = registry.watchers.entry(uri).or_default();
        if !watchers.contains(&session.id()) {
            watchers.push(session.id());
        }
    }

    /// Ends [`Self::watch`].
    pub fn unwatch(&self, session: &Session, uri: &str) {
        if let Some(watchers) = self.registry().watchers.get_mut(uri) {
            watchers.retain(|watcher| *watcher != session.id());
        }
    }

    /// The sessions that watch a resource.
    pub fn watchers(&self, uri: &str) -> Vec<Arc<Session>> {
        let registry = self.registry();
        let Some(watchers) = registry.watchers.get(uri) else { return Vec::new() };
        watchers.iter().filter_map(|watcher| registry.live.get(watcher).cloned()).collect()
    }
}

/// The body of a `GET /sse` response: the endpoint, then messages as they come, and comments so that it is never silent
/// for long. It does not end by itself. Dropping it ends the session.
pub(crate) struct EventStream {
    sessions: Arc<Sessions>,
    session: Arc<Session>,
    endpoint: Option<String>,
    queue: mpsc::Receiver<Outgoing>,
    heartbeat: Interval,
}

impl EventStream {
    /// Begins a session whose first event names `endpoint` followed by its id.
    pub fn open(sessions: Arc<Sessions>, endpoint: &str, queue_capacity: usize, heartbeat: Duration) -> Self {
        let (session, queue) = sessions.open(queue_capacity);
        let endpoint = Some(format!("{endpoint}{}", session.id().reveal()));
        let mut heartbeat = interval_at(Instant::now() + heartbeat, heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tracing::debug!(session = %session.id(), "session begins");
        Self { sessions, session, endpoint, queue, heartbeat }
    }
}

impl Stream for EventStream {
    type Item = Result<sse::Event, ClientGone>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(endpoint) = self.endpoint.take() {
            return Poll::Ready(Some(Ok(sse::Data::new(endpoint).event("endpoint").into())));
        }
        // The session holds a sender, so the queue cannot end while its stream lives.
        if let Poll::Ready(Some(message)) = self.queue.poll_recv(cx) {
            return Poll::Ready(Some(Ok(sse::Data::new(message).event("message").into())));
        }
        if self.heartbeat.poll_tick(cx).is_ready() {
            return Poll::Ready(Some(Ok(sse::Event::Comment("heartbeat".into()))));
        }
        Poll::Pending
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.sessions.close(&self.session);
        tracing::debug!(session = %self.session.id(), "session ends");
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::StreamExt as _;

    use super::*;
    use crate::rpc::RequestId;

    const HEARTBEAT: Duration = Duration::from_secs(15);

    fn open(sessions: &Arc<Sessions>) -> (EventStream, Arc<Session>) {
        let stream = EventStream::open(Arc::clone(sessions), "/?", 4, HEARTBEAT);
        let session = Arc::clone(&stream.session);
        (stream, session)
    }

    /// Awaits what must come at once, so that a broken promise fails instead of hanging.
    async fn soon<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(10), future).await.expect("not within 10 s")
    }

    fn id(number: u32) -> RequestId {
        serde_json::from_str(&number.to_string()).unwrap()
    }

    /// Resolves its receiver when it is dropped.
    fn drop_witness() -> (tokio::sync::oneshot::Sender<()>, tokio::sync::oneshot::Receiver<()>) {
        tokio::sync::oneshot::channel()
    }

    #[actix_web::test]
    async fn running_calls_and_questions_end_with_the_stream() {
        let sessions = Arc::new(Sessions::default());
        let (stream, session) = open(&sessions);
        let (held, witness) = drop_witness();
        let call = async move {
            let _held = held;
            pending::<String>().await
        };
        session.start(session.outlet(), id(1), call, 1).unwrap();
        let mut question = session.ask();
        sessions.watch(&session, "persons://stats");

        drop(stream);

        assert!(soon(witness).await.is_err(), "the call was dropped");
        assert!(soon(&mut question.answer).await.is_err(), "the question was closed");
        assert!(sessions.find(&session.id()).is_none());
        assert!(sessions.watchers("persons://stats").is_empty());
        assert_eq!(sessions.len(), 0);
        // What comes late finds nothing to hold on to.
        sessions.watch(&session, "persons://stats");
        assert!(sessions.registry().watchers.values().all(Vec::is_empty));
        session.start(session.outlet(), id(2), pending(), 1).unwrap();
        assert_eq!(session.cancel(&id(2)), 0);
        assert!(soon(&mut session.ask().answer).await.is_err());
    }

    #[actix_web::test]
    async fn a_cancelled_call_does_not_run_on() {
        let sessions = Arc::new(Sessions::default());
        let (_stream, session) = open(&sessions);
        let (held, witness) = drop_witness();
        let call = async move {
            let _held = held;
            pending::<String>().await
        };
        session.start(session.outlet(), id(1), call, 1).unwrap();
        assert_eq!(session.cancel(&id(1)), 1);
        assert!(soon(witness).await.is_err(), "the call was dropped");
    }

    #[actix_web::test]
    async fn a_call_cancelled_while_its_answer_waits_for_room_sends_none() {
        let sessions = Arc::new(Sessions::default());
        let (mut stream, session) = open(&sessions);
        for _ in 0..4 {
            session.tell("filler".to_owned());
        }
        let (held, witness) = drop_witness();
        let call = async move {
            drop(held);
            "cancelled".to_owned()
        };
        session.start(session.outlet(), id(1), call, 2).unwrap();
        session.start(session.outlet(), id(2), std::future::ready("kept".to_owned()), 2).unwrap();
        assert!(soon(witness).await.is_err(), "the call has run to its end");
        assert_eq!(session.cancel(&id(1)), 1);

        let mut events = Vec::new();
        for _ in 0..6 {
            events.push(format!("{:?}", soon(stream.next()).await.unwrap().unwrap()));
        }
        assert!(events[5].contains("kept"), "{events:?}");
        assert!(!events.iter().any(|event| event.contains("cancelled")), "{events:?}");
    }
}
