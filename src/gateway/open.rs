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
    Gateway,
    patience::{LOST_DATA_PAUSE, StoreUnavailable, patiently},
};
use crate::{
    cluster::{
        look_after::{ATTACH, look_after, settle},
        orphans, ownership,
    },
    lifecycle::Phase,
    protocol::{event_id::EventId, session_id::SessionId},
    session::{
        MAIN_STREAM,
        actor::SessionActor,
        attachment::{Attachment, Block, Doubt, Joining, Pump, Told, resume_failed},
        core::streams::StreamKey,
        messages::AttachLocal,
        returning::{Client, Fit, key_of, same_client},
        shown,
    },
    store::{Attached, AttachedTo, Created, Fence, Hint, NewSession},
    upstream::Service,
};

/// What a server needs to notice that the client of a request has closed its connection long ago.
const GONE_CLIENT_PAUSE: Duration = Duration::from_millis(2);

/// Who opens a stream, and where.
#[derive(Clone)]
pub struct Opening {
    /// On whose thread.
    pub gateway: Rc<Gateway>,
    /// The service asked for.
    pub service: Arc<Service>,
    /// The client, as far as it shows who it is.
    pub client: Client,
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
    /// The last event that it has seen.
    pub cursor: Mark<EventId>,
    /// The session that it names.
    pub named: Mark<SessionId>,
    /// The session that its cookie names.
    pub cookie: Option<SessionId>,
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
}

impl By {
    fn label(self) -> &'static str {
        match self {
            Self::LastEventId => "last_event_id",
            Self::SessionId => "session_id",
            Self::Cookie => "cookie",
            Self::Rebind => "ping_rebind",
        }
    }
}

/// Where a stream of a session that goes on begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Start {
    /// Sent after this sequence.
    from: u64,
    /// The cursor that the opening tells.
    told: u64,
    /// Why the client's cursor is no place in its stream.
    misfit: Option<&'static str>,
}

/// `epoch`: of the session as it lives now. `sent`: how far its connections had come. `replay`: how many of those events
/// are looked at again for a client without a cursor.
fn start(cursor: Option<&EventId>, epoch: u32, by: By, sent: u64, replay: u64) -> Start {
    let misfit = cursor.and_then(|cursor| misfit(cursor, epoch));
    let from = match cursor {
        Some(cursor) if misfit.is_none() => cursor.seq,
        // Of another stream or life of the session: all of this one is new to the client, and it is told. EVT-6
        Some(_) => 0,
        // It may be somebody else: what was sent before is not for him.
        None if by == By::Cookie => sent,
        None => sent.saturating_sub(replay),
    };
    let told = cursor.filter(|_| misfit.is_none()).map_or(from.max(sent), |cursor| cursor.seq);
    Start { from, told, misfit }
}

/// Why a cursor into this session is no place in its stream.
fn misfit(cursor: &EventId, epoch: u32) -> Option<&'static str> {
    match cursor {
        cursor if cursor.stream != MAIN_STREAM => Some("cursor_foreign"),
        cursor if cursor.epoch != epoch => Some("epoch"),
        _ => None,
    }
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
        let lost = match shown.cursor {
            Mark::Is(cursor) => match self.resume(cursor.session, Some(cursor), By::LastEventId).await? {
                Some(ready) => return Ok(Opened::Ready(ready)),
                None => Some("session_gone"),
            },
            Mark::Unreadable => Some("cursor_foreign"),
            Mark::Absent => None,
        };
        if let Some(reason) = lost {
            // A status other than 200 would stop stock clients for good: a new session, and the loss said aloud. EVT-6
            gateway.env.metrics.resume_failed.with_label_values(&[reason]).inc();
            return self.create(Some(reason)).await.map(Opened::Ready);
        }
        match shown.named {
            Mark::Is(session) => {
                let found = self.resume(session, None, By::SessionId).await?;
                return found.map(Opened::Ready).ok_or(NotOpened::UnknownSession);
            }
            Mark::Unreadable => return Err(NotOpened::UnknownSession),
            Mark::Absent => {}
        }
        let cookie = match shown.cookie {
            Some(session) => self.cookie(session).await?,
            None => None,
        };
        let fit = patiently(&self.gateway, || orphans::find(&gateway.cluster, &self.client)).await?;
        // One that very likely comes back is asked first: its cookie may be of another tab of its browser.
        if let Some(session) = cookie.filter(|_| fit < Fit::Likely)
            && let Some(ready) = self.resume(session, None, By::Cookie).await?
        {
            return Ok(Opened::Ready(ready));
        }
        if fit > Fit::No {
            return Ok(Opened::Ask(Asked { fit, cookie }));
        }
        self.create(None).await.map(Opened::Ready)
    }

    fn retry(&self) -> Duration {
        let stream = &self.gateway.env.settings.stream;
        let (min, max) = (stream.retry_min.as_millis() as u64, stream.retry_max.as_millis() as u64);
        // STM-1: those who lost one instance do not come back in step.
        Duration::from_millis(fastrand::u64(min..=max.max(min)))
    }

    /// Makes a session. `lost`: why the client cannot have the one that it had.
    pub(super) async fn create(&self, lost: Option<&'static str>) -> Result<Ready, NotOpened> {
        let client = &self.client;
        let gateway = &self.gateway;
        let limits = &gateway.env.settings.limits;
        if !gateway.shared.openings.try_acquire() {
            return Err(NotOpened::TooManyNew);
        }
        if gateway.env.directory.session_count() >= limits.max_sessions && !gateway.env.lonely.make_room(None).await {
            return Err(NotOpened::Full);
        }
        let guest = match gateway.shared.guests.admit(client.guest_keys(), limits.max_sessions_per_client) {
            Ok(guest) => guest,
            Err(full) => {
                gateway.env.lonely.make_room(Some(&full)).await;
                let again = gateway.shared.guests.admit(client.guest_keys(), limits.max_sessions_per_client);
                again.map_err(|_| NotOpened::TooManyOfClient { limit: limits.max_sessions_per_client })?
            }
        };
        let session = SessionId::random();
        let epoch = fastrand::u32(..);
        let attachment = Attachment::new(session, StreamKey::Main, gateway.env.settings.stream.client_queue_bytes);
        if client.may_come_back() {
            attachment.of_client(Arc::clone(client.key()));
        }
        let new = NewSession {
            restored: None,
            session,
            epoch,
            service: self.service.name.clone(),
            transport: "sse".to_owned(),
            principal: String::new(),
            client: client.to_field(),
            owner: gateway.env.me.clone(),
            attachment: Some((MAIN_STREAM.to_owned(), attachment.id)),
            ttl: gateway.env.settings.session.ttl,
        };
        // Until the actor is known: the store says that the session is ours, and nobody must miss its actor.
        let _turn = gateway.cluster.turns.take(session);
        match patiently(&self.gateway, || gateway.env.store.create(new.clone())).await {
            // Ours, too, when the answer to an earlier try was lost: ids do not repeat.
            Ok(Created::Created | Created::AlreadyExists) => {}
            Err(error) => {
                // It may have been made, for nobody.
                look_after(&gateway.member, session, "create");
                return Err(error.into());
            }
        }
        let fence = Fence { session, epoch, generation: 1, incarnation: Arc::clone(&gateway.env.me.incarnation) };
        let mut first = Block::one(Told::Opening { epoch, seq: 0, retry: self.retry(), proof: None });
        if let Some(reason) = lost {
            first.push(resume_failed(reason, 0, 1));
        }
        let pump = Pump::new(Arc::clone(&gateway.env), Arc::clone(&attachment), epoch, 0, first);
        let (env, lines, service) =
            (Arc::clone(&gateway.env), Rc::clone(&gateway.member.lines), Arc::clone(&self.service));
        let actor = SessionActor::start_new(env, lines, service, fence, attachment, client.to_field(), guest);
        gateway.env.directory.insert_session(session, actor);
        Ok(Ready { session, pump })
    }

    /// Attaches to a session after `cursor` (none: as far as its connection had come). `None`: it is gone.
    pub(super) async fn resume(
        &self,
        session: SessionId,
        cursor: Option<EventId>,
        by: By,
    ) -> Result<Option<Ready>, NotOpened> {
        let gateway = &self.gateway;
        let before = if cursor.is_some() { Before::default() } else { self.before(session).await? };
        let sent = before.sent;
        let attachment = Attachment::new(session, StreamKey::Main, gateway.env.settings.stream.client_queue_bytes);
        let attach = attachment.attach(&gateway.env);
        // A client may have given this GET up while the process was paused and be served elsewhere by now. Its connection is
        // then closed; the server finds that out in the meantime, and drops us before we take the stream away.
        tokio::time::sleep(GONE_CLIENT_PAUSE).await;
        let joining = Joining::begin(&gateway.env, &attachment);
        let deadline = Instant::now() + gateway.env.settings.redis.wait;
        let joined = loop {
            match patiently(&self.gateway, || gateway.env.store.attach(attach.clone())).await? {
                Attached::Attached(joined) => break joined,
                // The store came back empty: the session's owner, if it lives, is about to write it again.
                Attached::NotFound if Instant::now() < deadline && gateway.env.data_lost().await => {
                    tokio::time::sleep(LOST_DATA_PAUSE).await;
                }
                Attached::NotFound => return Ok(None),
            }
        };
        if joined.service != self.service.name {
            return Ok(None);
        }
        if by == By::Cookie {
            // Before the client has the endpoint to which it could say who it is.
            let doubted = Hint::Doubted(Some(joined.attach_count));
            patiently(&self.gateway, || gateway.env.store.hint(session, &doubted)).await?;
        }
        gateway.env.metrics.resumed.with_label_values(&[by.label()]).inc();
        let replay = gateway.env.settings.stream.rebind_replay;
        let Start { from, told, misfit } = start(cursor.as_ref(), joined.epoch, by, sent, replay);
        let mut first = Block::default();
        // After a ping-rebind the client keeps its endpoint; others expect one on every connection.
        if by != By::Rebind {
            // mcp-remote 0.15 holds its messages back until the endpoint changes.
            let proof = (by == By::Cookie).then_some(joined.attach_count);
            first.push(Told::Opening { epoch: joined.epoch, seq: told, retry: self.retry(), proof });
        }
        if let Some(reason) = misfit {
            gateway.env.metrics.resume_failed.with_label_values(&[reason]).inc();
            first.push(resume_failed(reason, cursor.as_ref().map_or(0, |cursor| cursor.seq), 1));
        }
        let mut pump =
            Pump::new(Arc::clone(&gateway.env), Arc::clone(&attachment), joined.epoch, from, first).resumed();
        // From here on the pump does it.
        joining.done();
        if cursor.is_none() {
            pump = pump.resume_without_cursor(from, sent);
        }
        if by == By::Cookie {
            let (attach_count, in_seq) = (joined.attach_count, before.left_at.unwrap_or(before.in_seq));
            let replay_from = sent.saturating_sub(replay);
            pump = pump.in_doubt(Doubt { attach_count, in_seq, replay_from });
        }
        if let Some(client) = before.client {
            attachment.of_client(Arc::clone(&client));
            if before.is_used {
                attachment.list();
                shown::show(&gateway.env, client, session);
            }
        }
        self.join_owner(session, &joined, attachment).await;
        Ok(Some(Ready { session, pump }))
    }

    /// Lets the owner know of a stream on this process, or becomes the owner if there is none.
    async fn join_owner(&self, session: SessionId, joined: &AttachedTo, attachment: Arc<Attachment>) {
        let gateway = &self.gateway;
        // A predecessor on this very process learns at once; others by their wake-up.
        for other in gateway.env.directory.attachments(&session) {
            if other.id != attachment.id {
                other.look();
            }
        }
        if let Some(owner) = gateway.env.directory.session(&session)
            && owner.send(AttachLocal { attachment: Arc::clone(&attachment) }).await.is_ok()
        {
            return;
        }
        if ownership::is_suspect(&gateway.cluster, &session, &joined.owner, joined.listeners) {
            // Beside the stream, which reads the log whoever owns the session.
            let member = Rc::clone(&gateway.member);
            actix_rt::spawn(async move {
                // It may have been adopted before the stream was known here.
                if let Some(owner) = settle(&member, session, ATTACH).await {
                    // An owner that has ended meanwhile needs to know nothing.
                    let _ = owner.send(AttachLocal { attachment }).await;
                }
            });
        }
    }

    /// What the store knows of the session's last connection.
    async fn before(&self, session: SessionId) -> Result<Before, StoreUnavailable> {
        let gateway = &self.gateway;
        let here =
            gateway.env.directory.attachments(&session).iter().map(|attachment| attachment.sent()).max().unwrap_or(0);
        let Some(head) = patiently(&self.gateway, || gateway.env.store.load(session)).await? else {
            return Ok(Before { sent: here, ..Before::default() });
        };
        let stream = head.stream(MAIN_STREAM);
        Ok(Before {
            sent: here.max(stream.and_then(|stream| stream.sent).unwrap_or(0)),
            client: key_of(&head.client),
            is_used: head.in_seq != 0,
            left_at: stream.and_then(|stream| stream.left_at),
            in_seq: head.in_seq,
        })
    }

    /// The session that the client's cookie names, if nobody shows it and its client was of this kind. Clients share a
    /// cookie jar: a session that somebody shows belongs to that one. A dead holder is no holder.
    async fn cookie(&self, session: SessionId) -> Result<Option<SessionId>, StoreUnavailable> {
        let gateway = &self.gateway;
        let Some(head) = patiently(&self.gateway, || gateway.env.store.load(session)).await? else { return Ok(None) };
        let is_same = same_client(&self.client, &head.client);
        let is_shown = is_same && patiently(&self.gateway, || shown::is_shown(&gateway.env, session, &head)).await?;
        Ok((is_same && !is_shown).then_some(session))
    }
}

/// See [`Opening::before`].
#[derive(Default)]
struct Before {
    /// How far it had come.
    sent: u64,
    /// Key of the client that opened the session.
    client: Option<Arc<str>>,
    /// The client has sent something.
    is_used: bool,
    /// Messages that it had sent when its stream ended, if that was noted.
    left_at: Option<u64>,
    /// Messages that it has sent.
    in_seq: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u32 = 7;

    fn cursor(stream: &str, epoch: u32, seq: u64) -> EventId {
        EventId { session: SessionId::random(), stream: stream.to_owned(), epoch, seq }
    }

    /// EVT-3, EVT-6
    #[test]
    fn a_stream_goes_on_where_its_client_stopped_or_says_why_it_does_not() {
        let mine = cursor(MAIN_STREAM, EPOCH, 5);
        // With a cursor it is not asked how far its connections had come.
        for (name, cursor, by, sent, expected) in [
            ("where it stopped", Some(&mine), By::LastEventId, 0, (5, 5, None)),
            ("another life", Some(&cursor(MAIN_STREAM, 8, 5)), By::LastEventId, 0, (0, 0, Some("epoch"))),
            ("another stream", Some(&cursor("x", EPOCH, 5)), By::LastEventId, 0, (0, 0, Some("cursor_foreign"))),
            ("without a cursor", None, By::SessionId, 20, (12, 20, None)),
            ("asked", None, By::Rebind, 20, (12, 20, None)),
            ("perhaps somebody else", None, By::Cookie, 20, (20, 20, None)),
        ] {
            let start = start(cursor, EPOCH, by, sent, 8);
            assert_eq!((start.from, start.told, start.misfit), expected, "{name}");
        }
        assert_eq!(start(None, EPOCH, By::SessionId, 3, 8).from, 0);
    }
}
