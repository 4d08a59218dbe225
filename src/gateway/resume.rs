//! A client's stream, attached to a session that it had: where it begins, what the client is told first, and who owns the
//! session from then on. Which session that is [`super::open`] finds out, and [`super::rebind`].

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    open::{By, Mark, NotOpened, Opening, Ready, streamable_retry},
    patience::{LOST_DATA_PAUSE, StoreUnavailable, patiently},
};
use crate::{
    cluster::{
        look_after::{ATTACH, settle},
        ownership,
    },
    lifecycle::Phase,
    protocol::{event_id::EventId, session_id::SessionId},
    session::{
        MAIN_STREAM, StreamKey,
        attachment::{Attachment, Block, Doubt, Joining, Pump, Told, resume_failed},
        messages::AttachLocal,
        returning::key_of,
        shown,
    },
    store::{Attach, Attached, AttachedTo, Hint, SessionHead},
};

/// What a server needs to notice that the client of a request has closed its connection long ago. A client may have given a GET
/// up while the process was paused and be served elsewhere by now: the server finds that out in the meantime, and drops us
/// before we take the stream away.
pub(super) const GONE_CLIENT_PAUSE: Duration = Duration::from_millis(2);

/// After so long a client comes back whose stream was ended for its counter's sake.
const PAUSE: Duration = Duration::from_millis(100);

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

/// What a client does about the ends of its streams that others do not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Habits {
    /// Its stream has broken, and it counts how often that happens.
    pub has_lost_one: bool,
    /// It comes back to a stream that has broken, and never to one that has ended.
    pub gives_up_at_an_end: bool,
    /// A proxy goes on with the stream, of which the client has seen no end.
    pub has_kept_it: bool,
}

/// What a client of Streamable HTTP gets that asks for a stream.
#[expect(clippy::large_enum_variant, reason = "made once a stream, and taken apart at once")]
#[derive(Debug)]
pub enum Listening {
    /// This one.
    To(Pump),
    /// The stream has ended: what it had is elsewhere.
    Over,
    /// Nothing: client and server have agreed on another protocol version than it names.
    OtherVersion,
}

impl Opening {
    /// Attaches to a session after `cursor` (none: as far as its connection had come). `None`: it is gone.
    pub(super) async fn resume(
        &self,
        session: SessionId,
        cursor: Option<EventId>,
        by: By,
    ) -> Result<Option<Ready>, NotOpened> {
        let gateway = &self.gateway;
        let before = match &cursor {
            Some(_) => Before::default(),
            None => self.before(session, self.load(session).await?),
        };
        let sent = before.sent;
        let attachment = Attachment::new(session, StreamKey::Main, gateway.env.settings.stream.client_queue_bytes);
        let attach = attachment.attach(&gateway.env);
        tokio::time::sleep(GONE_CLIENT_PAUSE).await;
        let joining = Joining::begin(&gateway.env, &attachment);
        let Some(joined) = self.attach(attach).await? else { return Ok(None) };
        if by == By::Cookie {
            // Before the client has the endpoint to which it could say who it is.
            let doubted = Hint::Doubted(Some(joined.attach_count));
            patiently(&self.gateway, || gateway.env.store.hint(session, &doubted)).await?;
        }
        gateway.env.metrics.resumed.with_label_values(&[by.label()]).inc();
        let replay = gateway.env.settings.stream.rebind_replay;
        let Start { from, told, misfit } = start(cursor.as_ref(), joined.epoch, by, sent, replay);
        let mut first = Block::default();
        if by == By::Edge {
            // Only that there is somebody: the client has its endpoint, and the proxy its cursor.
            first.push(Told::Heartbeat);
        } else if by != By::Rebind {
            // After a ping-rebind the client keeps its endpoint; others expect one on every connection.
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

    /// Makes it the holder of its stream. `None`: the session is gone, of another service, or not for who asks.
    async fn attach(&self, mut attach: Attach) -> Result<Option<AttachedTo>, StoreUnavailable> {
        let gateway = &self.gateway;
        attach.by = Some(self.by.clone());
        let deadline = Instant::now() + gateway.env.settings.redis.wait;
        loop {
            match patiently(gateway, || gateway.env.store.attach(attach.clone())).await? {
                Attached::Attached(joined) => {
                    return Ok(Some(joined).filter(|joined| joined.service == self.service.name));
                }
                // The store came back empty: the session's owner, if it lives, is about to write it again.
                Attached::NotFound if Instant::now() < deadline && gateway.env.data_lost().await => {
                    tokio::time::sleep(LOST_DATA_PAUSE).await;
                }
                Attached::NotFound => return Ok(None),
            }
        }
    }

    /// The stream of a Streamable HTTP session that its client asks for: that of which it has seen the event `cursor`, or else
    /// the main one, from where its last connection had come to. `version`: the protocol version that it names. `None`: the
    /// session is gone.
    ///
    /// # Errors
    /// See [`NotOpened`].
    pub async fn listen(
        &self,
        session: SessionId,
        version: Option<&str>,
        cursor: Mark<EventId>,
        habits: Habits,
    ) -> Result<Option<Listening>, NotOpened> {
        let gateway = &self.gateway;
        if gateway.cluster.lifecycle.phase() != Phase::Ready {
            return Err(NotOpened::Draining);
        }
        let (cursor, mut lost) = match cursor {
            Mark::Is(cursor) if cursor.session == session => (Some(cursor), None),
            // EVT-6, EVT-8
            Mark::Is(_) | Mark::Unreadable => (None, Some("cursor_foreign")),
            Mark::Absent => (None, None),
        };
        let key = cursor.as_ref().map_or(Some(StreamKey::Main), |cursor| StreamKey::of_name(&cursor.stream));
        if key.is_none() {
            lost = Some("cursor_foreign");
        }
        let key = key.unwrap_or_default();
        let head = self.load(session).await?;
        if let Some(head) = &head {
            if head.continuation.has_other_version(version) {
                return Ok(Some(Listening::OtherVersion));
            }
            if let StreamKey::Request(seq) = key
                && head.continuation.moved.contains(&seq)
            {
                // Its answer has gone out on the main stream. EVT-8
                return Ok(Some(Listening::Over));
            }
        }
        let sent = if cursor.is_some() { 0 } else { self.before(session, head).sent };
        let attachment = Attachment::new(session, key, gateway.env.settings.stream.client_queue_bytes);
        tokio::time::sleep(GONE_CLIENT_PAUSE).await;
        let joining = Joining::begin(&gateway.env, &attachment);
        let Some(joined) = self.attach(attachment.attach(&gateway.env)).await? else { return Ok(None) };
        let from = match &cursor {
            Some(cursor) if cursor.epoch == joined.epoch && lost.is_none() => cursor.seq,
            Some(_) => {
                lost.get_or_insert("epoch");
                0
            }
            None => sent,
        };
        let by = match (&cursor, habits.has_kept_it) {
            (_, true) => By::Edge,
            (Some(_), false) => By::LastEventId,
            (None, false) => By::SessionId,
        };
        gateway.env.metrics.resumed.with_label_values(&[by.label()]).inc();
        let mut first = Block::one(match habits.has_kept_it {
            true => Told::Heartbeat,
            false => {
                let retry = streamable_retry(&gateway.env.settings.stream);
                Told::Prime { epoch: joined.epoch, seq: from, retry }
            }
        });
        if let Some(reason) = lost {
            gateway.env.metrics.resume_failed.with_label_values(&[reason]).inc();
            first.push(resume_failed(reason, cursor.as_ref().map_or(0, |cursor| cursor.seq), from + 1));
        }
        let pump = Pump::new(Arc::clone(&gateway.env), Arc::clone(&attachment), joined.epoch, from, first).resumed();
        joining.done();
        self.join_owner(session, &joined, attachment).await;
        let pump = pump.ending_cleanly(!habits.gives_up_at_an_end);
        let pump = if habits.has_lost_one { pump.pausing(PAUSE) } else { pump };
        Ok(Some(Listening::To(pump)))
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

    /// The session, if there is one for who asks.
    async fn load(&self, session: SessionId) -> Result<Option<SessionHead>, StoreUnavailable> {
        let head = patiently(&self.gateway, || self.gateway.env.store.load(session)).await?;
        Ok(head.filter(|head| head.binding.admits(&self.by)))
    }

    /// What the store knows of the session's last connection.
    fn before(&self, session: SessionId, head: Option<SessionHead>) -> Before {
        let gateway = &self.gateway;
        let here =
            gateway.env.directory.attachments(&session).iter().map(|attachment| attachment.sent()).max().unwrap_or(0);
        let Some(head) = head else { return Before { sent: here, ..Before::default() } };
        let stream = head.stream(MAIN_STREAM);
        Before {
            sent: here.max(stream.and_then(|stream| stream.sent).unwrap_or(0)),
            client: key_of(&head.client),
            is_used: head.in_seq != 0,
            left_at: stream.and_then(|stream| stream.left_at),
            in_seq: head.in_seq,
        }
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
