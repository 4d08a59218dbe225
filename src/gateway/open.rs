//! A client's stream: a new session, or one that the client had.
//!
//! A returning client is recognised, in this order, by its cursor, by the session that it names, by its cookie (only if
//! nobody else shows the session, and in doubt until its first message: [`super::doubt`]), and by being asked
//! ([`super::rebind`]), if a session that nobody shows can be its own. Otherwise it is a new client. Nothing is opened
//! upstream here: many who open a stream are probes.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    patience::{StoreUnavailable, patiently},
    shared::Gateway,
};
use crate::{
    backoff::Backoff,
    cluster::{
        look_after::{FIRST_PAUSE, look_after},
        orphans,
        turns::TakeTurn,
    },
    lifecycle::Phase,
    protocol::{event_id::EventId, session_id::SessionId},
    session::{
        MAIN_STREAM, StreamKey,
        actor::{SSE, STREAMABLE, SessionActor},
        attachment::{Attachment, Block, Pump, Told, resume_failed},
        returning::{Client, Fit, same_client},
        room::Guest,
        shown::{self, Stream},
    },
    settings::StreamSettings,
    store::{Binding, Created, Fence, NewSession},
    upstream::Service,
};

/// Who opens a stream, and where.
#[derive(Debug, Clone)]
pub struct Opening {
    /// On whose thread.
    pub gateway: Rc<Gateway>,
    /// The service asked for.
    pub service: Arc<Service>,
    /// The client, as far as it shows which program it is.
    pub client: Client,
    /// Who asks, with the rules about it. SEC-1
    pub by: Binding,
}

/// Something that a request may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark<T> {
    /// It does not.
    Absent,
    /// Not one that a router has made.
    Unreadable,
    /// It does.
    Is(T),
}

/// What a client shows of a session that it had.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its stream is kept for it by a proxy, which has lost it and knows its cursor.
    pub held: bool,
    /// The last event that it has seen.
    pub cursor: Mark<EventId>,
    /// The session that it names.
    pub named: Mark<SessionId>,
    /// The session that its cookie names.
    pub cookie: Option<SessionId>,
}

impl Shown {
    /// It is a new client.
    pub fn is_nothing(&self) -> bool {
        !self.held && matches!((&self.cursor, &self.named, &self.cookie), (Mark::Absent, Mark::Absent, None))
    }
}

/// A stream that is ready to be sent.
#[derive(Debug)]
pub struct Ready {
    /// Its session.
    pub session: SessionId,
    /// Its body.
    pub pump: Pump,
}

/// What a client that opens a stream gets.
#[expect(clippy::large_enum_variant, reason = "made once a stream, and taken apart at once")]
#[derive(Debug)]
pub enum Opened {
    /// Its stream.
    Ready(Ready),
    /// The question which session it had: [`super::rebind::ask`].
    Ask(Asked),
}

/// What is known of a client that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// How likely it had a session.
    pub fit: Fit,
    /// A session that its cookie names: for clients that hold all messages back until they get an endpoint.
    pub cookie: Option<SessionId>,
}

/// Why a stream was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// This instance goes down.
    #[error("this instance is draining")]
    Draining,
    /// The session that the client names is gone, or never was.
    #[error("no such session")]
    UnknownSession,
    /// More new sessions a second than there may be (`MCP_NEW_SESSION_RATE`).
    #[error("too many new sessions per second")]
    TooManyNew,
    /// Every session has a client (`MCP_MAX_SESSIONS`).
    #[error("this instance has as many sessions as it may")]
    Full,
    /// The client has its share (`MCP_MAX_SESSIONS_PER_CLIENT`).
    #[error("this client has {limit} sessions on this instance")]
    TooManyOfClient {
        /// The limit.
        limit: usize,
    },
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreUnavailable),
}

/// How a returning client was recognised; the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    LastEventId,
    SessionId,
    Cookie,
    Rebind,
    Edge,
}

impl By {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::LastEventId => "last_event_id",
            Self::SessionId => "session_id",
            Self::Cookie => "cookie",
            Self::Rebind => "ping_rebind",
            Self::Edge => "edge",
        }
    }
}

/// What a client shows that counts.
#[derive(Debug, PartialEq, Eq)]
enum Strongest {
    /// The cursor of a stream that its client still has.
    Held(EventId),
    Cursor(EventId),
    /// A cursor that no router has made.
    NoCursor,
    Named(SessionId),
    /// The name of none.
    NoSession,
    Cookie(Option<SessionId>),
}

/// A cursor before a name: an `EventSource` keeps its URL for ever, and the cursor is of its last stream.
fn strongest(shown: Shown) -> Strongest {
    match (shown.cursor, shown.named) {
        (Mark::Is(cursor), _) if shown.held => Strongest::Held(cursor),
        _ if shown.held => Strongest::NoSession,
        (Mark::Is(cursor), _) => Strongest::Cursor(cursor),
        (Mark::Unreadable, _) => Strongest::NoCursor,
        (Mark::Absent, Mark::Is(session)) => Strongest::Named(session),
        (Mark::Absent, Mark::Unreadable) => Strongest::NoSession,
        (Mark::Absent, Mark::Absent) => Strongest::Cookie(shown.cookie),
    }
}

/// The session to which a cookie leads without a question. Who very likely comes back is asked first: its cookie may be of
/// another tab of its browser.
fn at_once(cookie: Option<SessionId>, fit: Fit) -> Option<SessionId> {
    cookie.filter(|_| fit < Fit::Likely)
}

/// When a client of Streamable HTTP is to come back if its stream breaks. STM-1
pub fn streamable_retry(stream: &StreamSettings) -> Duration {
    between(stream.streamable_retry_min, stream.streamable_retry_max)
}

/// Those who lost one instance do not come back in step.
fn between(min: Duration, max: Duration) -> Duration {
    let (min, max) = (min.as_millis() as u64, max.as_millis() as u64);
    Duration::from_millis(fastrand::u64(min..=max.max(min)))
}

impl Opening {
    /// Finds the session of a client that shows this, or makes one.
    ///
    /// # Errors
    /// See [`NotOpened`].
    pub async fn open(&self, shown: Shown) -> Result<Opened, NotOpened> {
        let gateway = &self.gateway;
        if gateway.cluster.lifecycle.phase() != Phase::Ready {
            return Err(NotOpened::Draining);
        }
        let lost = match strongest(shown) {
            // No other session in its place: the client would not hear of its endpoint.
            Strongest::Held(cursor) => {
                let found = self.resume(cursor.session, Some(cursor), By::Edge).await?;
                return found.map(Opened::Ready).ok_or(NotOpened::UnknownSession);
            }
            Strongest::Cursor(cursor) => match self.resume(cursor.session, Some(cursor), By::LastEventId).await? {
                Some(ready) => return Ok(Opened::Ready(ready)),
                None => "session_gone",
            },
            Strongest::NoCursor => "cursor_foreign",
            Strongest::Named(session) => {
                let found = self.resume(session, None, By::SessionId).await?;
                return found.map(Opened::Ready).ok_or(NotOpened::UnknownSession);
            }
            Strongest::NoSession => return Err(NotOpened::UnknownSession),
            Strongest::Cookie(cookie) => return self.look(cookie).await,
        };
        // A refusal would stop stock clients for good: a new session, and the loss said aloud. EVT-6
        gateway.env.metrics.resume_failed.with_label_values(&[lost]).inc();
        self.create(Some(lost)).await.map(Opened::Ready)
    }

    /// Looks for the session of a client that shows a cookie at most.
    async fn look(&self, cookie: Option<SessionId>) -> Result<Opened, NotOpened> {
        let cookie = match cookie {
            Some(session) => self.cookie(session).await?,
            None => None,
        };
        let fit = patiently(&self.gateway, || orphans::find(&self.gateway.cluster, &self.client)).await?;
        if let Some(session) = at_once(cookie, fit)
            && let Some(ready) = self.resume(session, None, By::Cookie).await?
        {
            return Ok(Opened::Ready(ready));
        }
        if fit > Fit::No {
            return Ok(Opened::Ask(Asked { fit, cookie }));
        }
        self.create(None).await.map(Opened::Ready)
    }

    /// The session that the client's cookie names, if nobody shows it and its client was of this kind. Clients share a
    /// cookie jar: a session that somebody shows belongs to that one. A dead holder is no holder; one that does not hear is
    /// asked again until it does or is gone, for `MCP_REBIND_PATIENCE` at most, and then the session is its client's.
    async fn cookie(&self, session: SessionId) -> Result<Option<SessionId>, StoreUnavailable> {
        let gateway = &self.gateway;
        let settings = &gateway.env.settings;
        let deadline = Instant::now() + settings.stream.rebind_patience;
        let mut backoff = Backoff::new(FIRST_PAUSE, settings.session.lease_renew);
        loop {
            let Some(head) = patiently(gateway, || gateway.env.store.load(session)).await? else { return Ok(None) };
            if !same_client(&self.client, &head.client) || !head.binding.admits(&self.by) {
                return Ok(None);
            }
            let stream = patiently(gateway, || shown::look(&gateway.env, session, &head)).await?;
            if stream != Stream::Silent || Instant::now() >= deadline {
                return Ok((!stream.may_be_shown()).then_some(session));
            }
            actix_rt::time::sleep(backoff.pause()).await;
        }
    }

    /// When the client is to come back if its stream breaks. STM-1
    pub(super) fn retry(&self) -> Duration {
        let stream = &self.gateway.env.settings.stream;
        between(stream.retry_min, stream.retry_max)
    }

    /// Makes a session of HTTP+SSE. `lost`: why the client cannot have the one that it had.
    pub(super) async fn create(&self, lost: Option<&'static str>) -> Result<Ready, NotOpened> {
        let gateway = &self.gateway;
        let guest = self.admit().await?;
        let session = SessionId::random();
        let attachment = Attachment::new(session, StreamKey::Main, gateway.env.settings.stream.client_queue_bytes);
        if self.client.may_come_back() {
            attachment.of_client(Arc::clone(self.client.key()));
        }
        let epoch = self.make(session, guest, Some(Arc::clone(&attachment))).await?;
        let mut first = Block::one(Told::Opening { epoch, seq: 0, retry: self.retry(), proof: None });
        if let Some(reason) = lost {
            first.push(resume_failed(reason, 0, 1));
        }
        let pump = Pump::new(Arc::clone(&gateway.env), attachment, epoch, 0, first);
        Ok(Ready { session, pump })
    }

    /// Makes a session of Streamable HTTP.
    ///
    /// # Errors
    /// See [`NotOpened`].
    pub async fn begin(&self) -> Result<SessionId, NotOpened> {
        if self.gateway.cluster.lifecycle.phase() != Phase::Ready {
            return Err(NotOpened::Draining);
        }
        let guest = self.admit().await?;
        let session = SessionId::random();
        self.make(session, guest, None).await?;
        Ok(session)
    }

    /// Whether there may be one more.
    async fn admit(&self) -> Result<Guest, NotOpened> {
        let (client, gateway) = (&self.client, &self.gateway);
        let limits = &gateway.env.settings.limits;
        if !gateway.shared.openings.try_acquire() {
            return Err(NotOpened::TooManyNew);
        }
        if gateway.env.directory.session_count() >= limits.max_sessions && !gateway.env.lonely.make_room(None).await {
            return Err(NotOpened::Full);
        }
        match gateway.shared.guests.admit(client.guest_keys(), limits.max_sessions_per_client) {
            Ok(guest) => Ok(guest),
            Err(full) => {
                gateway.env.lonely.make_room(Some(&full)).await;
                let again = gateway.shared.guests.admit(client.guest_keys(), limits.max_sessions_per_client);
                again.map_err(|_| NotOpened::TooManyOfClient { limit: limits.max_sessions_per_client })
            }
        }
    }

    /// In the store, and its actor here. `attachment`: its one stream, for a transport that has one. Its epoch.
    async fn make(
        &self,
        session: SessionId,
        guest: Guest,
        attachment: Option<Arc<Attachment>>,
    ) -> Result<u32, StoreUnavailable> {
        let gateway = &self.gateway;
        let epoch = fastrand::u32(..);
        let new = NewSession {
            restored: None,
            session,
            epoch,
            service: self.service.name.clone(),
            transport: if attachment.is_some() { SSE } else { STREAMABLE }.to_owned(),
            binding: self.by.clone(),
            client: self.client.to_field(),
            owner: gateway.env.me.clone(),
            attachment: attachment.as_ref().map(|attachment| (MAIN_STREAM.to_owned(), attachment.id)),
            ttl: gateway.env.settings.session.ttl,
        };
        // Until the actor is known: the store says that the session is ours, and nobody must miss its actor.
        let _turn = gateway.cluster.turns.send(TakeTurn { session }).await;
        match patiently(gateway, || gateway.env.store.create(new.clone())).await {
            // Ours, too, when the answer to an earlier try was lost: ids do not repeat.
            Ok(Created::Created | Created::AlreadyExists) => {}
            Err(error) => {
                // It may have been made, for nobody.
                look_after(&gateway.member, session, "create");
                return Err(error);
            }
        }
        let fence = Fence { session, epoch, generation: 1, incarnation: Arc::clone(&gateway.env.me.incarnation) };
        let (env, lines, service) =
            (Arc::clone(&gateway.env), Rc::clone(&gateway.member.lines), Arc::clone(&self.service));
        let opened_by = (self.client.to_field(), self.by.clone());
        SessionActor::start_new(env, lines, service, fence, attachment, opened_by, guest);
        Ok(epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_client_shows_the_surest_counts() {
        let (session, cookie) = (SessionId::random(), SessionId::random());
        let cursor = EventId { session, stream: MAIN_STREAM.to_owned(), epoch: 1, seq: 2 };
        let shown = |cursor: Mark<&EventId>, named, cookie| {
            let cursor = match cursor {
                Mark::Absent => Mark::Absent,
                Mark::Unreadable => Mark::Unreadable,
                Mark::Is(cursor) => Mark::Is(cursor.clone()),
            };
            Shown { held: false, cursor, named, cookie }
        };
        for (shown, expected) in [
            (shown(Mark::Is(&cursor), Mark::Is(cookie), Some(cookie)), Strongest::Cursor(cursor.clone())),
            // A loss that is told, and no other session than the one that was lost.
            (shown(Mark::Unreadable, Mark::Is(session), Some(cookie)), Strongest::NoCursor),
            (shown(Mark::Absent, Mark::Is(session), Some(cookie)), Strongest::Named(session)),
            (shown(Mark::Absent, Mark::Unreadable, Some(cookie)), Strongest::NoSession),
            (shown(Mark::Absent, Mark::Absent, Some(cookie)), Strongest::Cookie(Some(cookie))),
            (shown(Mark::Absent, Mark::Absent, None), Strongest::Cookie(None)),
        ] {
            assert_eq!(strongest(shown), expected);
        }
        let held = Shown { held: true, ..shown(Mark::Is(&cursor), Mark::Is(session), Some(cookie)) };
        assert_eq!(strongest(held), Strongest::Held(cursor));
        let without_cursor = Shown { held: true, ..shown(Mark::Absent, Mark::Is(session), Some(cookie)) };
        assert_eq!(strongest(without_cursor), Strongest::NoSession);
    }

    #[test]
    fn a_cookie_leads_at_once_only_where_no_better_answer_is_likely() {
        let session = SessionId::random();
        assert_eq!(at_once(Some(session), Fit::No), Some(session));
        assert_eq!(at_once(Some(session), Fit::Maybe), Some(session));
        assert_eq!(at_once(Some(session), Fit::Likely), None);
        assert_eq!(at_once(None, Fit::No), None);
    }
}
