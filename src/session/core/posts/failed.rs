//! What becomes of a message whose POST failed: sent again, answered with an error, or left to its link's end. REQ-3
//!
//! A POST says something of its own message alone. Only what says that the server or its session is gone ends the link;
//! a status, a broken connection or a late acknowledgement touch no other call.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Moment, Outbound, Posts, UnderWay};
use crate::{
    protocol::jsonrpc::IdKey,
    session::core::recovery::{self, Fate, Progress},
    upstream::PostError,
};

/// Sessions of the server that may be gone for one message in a row. What each of them is gone for is no matter of sessions.
const MAX_SESSIONS: u32 = 5;

/// What is to be done about a message whose POST failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Failed {
    /// Nothing: it is over, or its request's own time limit says the rest.
    Nothing,
    /// It goes no further, and nobody can be told: to be counted.
    Dropped,
    /// Its request gets an error: refused for good.
    Refused(IdKey),
    /// The server does not take it now: [`Posts::not_now`].
    NotNow(Outbound),
    /// Whether its request ran is not known. `link_may_end`: if the server is dead, its stream says so in this very moment.
    Unclear {
        /// The request.
        id: IdKey,
        /// Its message.
        body: Bytes,
        /// See above.
        link_may_end: bool,
    },
    /// It waits to be sent again, if it was not over. `ends_link`: the present link is lost.
    Again {
        /// It was for a session that is gone, and goes no further: to be counted.
        is_for_nobody: bool,
        /// See above.
        ends_link: bool,
    },
}

/// What becomes of a message that the server does not take for the time being.
#[derive(Debug, PartialEq, Eq)]
pub enum NotNow {
    /// It is tried again after the pause. `is_for_nobody`: not this one; it was for a session that is gone.
    Later {
        /// See above.
        is_for_nobody: bool,
    },
    /// Its time is over: the request gets an error.
    TooLate(IdKey),
    /// Its time is over, and nobody can be told: to be counted.
    Dropped,
}

/// What becomes of a request whose outcome is unknown although its link is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It has ended, is carried by another POST, or nobody wants it any more.
    Nothing,
    /// It waits to be sent again, after so many attempts.
    Again(u32),
    /// It is to be answered: the outcome is unknown.
    Unknown(IdKey),
}

impl<H: Copy, K> Posts<H, K> {
    /// This POST has ended so.
    pub fn failed(&mut self, number: u64, post: UnderWay<H>, error: &PostError, moment: Moment) -> Failed {
        let UnderWay { seq, since, outbound, link, .. } = post;
        // A request may have been answered since, and its id used again; or it is on its way a second time.
        let is_over = outbound.id.as_ref().is_some_and(|id| !self.carries(number, id));
        let is_current = link == moment.link;
        match error {
            // Nobody waits for it any more, and its message says nothing of the session.
            PostError::Late(_) | PostError::Unknown(_) | PostError::Failed(_) | PostError::NotNow { .. } if is_over => {
                Failed::Nothing
            }
            // The session has answered since: it lives, whatever has become of the acknowledgement.
            PostError::SessionGone if is_over && is_current && moment.last_heard > since => Failed::Nothing,
            PostError::SessionGone if !is_over && is_current && self.is_gone_for(seq, moment.now) => {
                match outbound.id {
                    Some(id) => Failed::Refused(id),
                    None => self.dropped(seq),
                }
            }
            PostError::Refused(_) | PostError::NotFollowed(_) | PostError::NoCredential(_) => match outbound.id {
                Some(_) if is_over => Failed::Nothing,
                Some(id) => Failed::Refused(id),
                None => self.dropped(seq),
            },
            PostError::NotNow { .. } => Failed::NotNow(outbound),
            PostError::Failed(_) | PostError::Unknown(_) if outbound.id.is_some() => {
                let Outbound { body, id: Some(id), .. } = outbound else { return Failed::Nothing };
                Failed::Unclear { id, body, link_may_end: matches!(error, PostError::Unknown(_)) }
            }
            // It had its time limit; the request's own says the rest.
            PostError::Late(_) if outbound.id.is_some() => Failed::Nothing,
            PostError::Failed(_) => self.dropped(seq),
            // The server lives, and keeps this one without a word.
            PostError::Late(_) if !self.seems_dead(since, moment) => self.dropped(seq),
            // At least once: the session that may have had it is given up.
            PostError::Late(_) | PostError::Unknown(_) => {
                let is_for_nobody = self.send_again(seq, outbound, moment.link);
                Failed::Again { is_for_nobody, ends_link: is_current }
            }
            PostError::NotSent(_) | PostError::SessionGone | PostError::OtherTransport if is_over => {
                Failed::Again { is_for_nobody: false, ends_link: is_current }
            }
            PostError::NotSent(_) | PostError::SessionGone | PostError::OtherTransport => {
                if let Some(request) = outbound.id.as_ref().and_then(|id| self.requests.get_mut(id)) {
                    request.progress = Progress::NotSent;
                }
                let is_for_nobody = self.send_again(seq, outbound, moment.link);
                Failed::Again { is_for_nobody, ends_link: is_current }
            }
        }
    }

    /// How often the server did not take this one for the time being.
    pub fn refusals(&self, seq: u64) -> u32 {
        self.pace.refusals(seq)
    }

    /// Not executed, and to be tried again: after this pause, as long as the message's own time limit allows it.
    pub fn not_now(
        &mut self,
        seq: u64,
        outbound: Outbound,
        pause: Duration,
        limit: Duration,
        moment: Moment,
    ) -> NotNow {
        let mut since = self.pace.not_taken(seq, moment.now);
        if let Some(request) = outbound.id.as_ref().and_then(|id| self.requests.get_mut(id)) {
            request.progress = Progress::NotSent;
            // It has met no endpoint yet.
            request.attempts = request.attempts.saturating_sub(1);
            since = request.since;
        }
        if moment.now + pause >= since + limit {
            return match outbound.id {
                Some(id) => NotNow::TooLate(id),
                None => {
                    self.dropped(seq);
                    NotNow::Dropped
                }
            };
        }
        let is_for_nobody = self.send_again(seq, outbound, moment.link);
        self.pace.pause_until(moment.now + pause);
        NotNow::Later { is_for_nobody }
    }

    /// The server is left alone until then.
    pub fn pause_until(&mut self, at: Instant) {
        self.pace.pause_until(at);
    }

    /// The outcome of a request that this POST carried is unknown, although its link is well: sent again if that is harmless.
    pub fn settle(&mut self, number: u64, seq: u64, id: IdKey, body: Bytes, is_repeatable: bool) -> Settled {
        let Some(request) = self.requests.get_mut(&id).filter(|request| request.post == Some(number)) else {
            return Settled::Nothing;
        };
        if request.cancelled.is_some() {
            return Settled::Nothing;
        }
        match recovery::fate(request.progress, is_repeatable, request.attempts) {
            Fate::Forward => {
                request.progress = Progress::NotSent;
                let attempts = request.attempts;
                self.queue(seq, Outbound { body, id: Some(id), only_on: None });
                Settled::Again(attempts)
            }
            Fate::OutcomeUnknown => Settled::Unknown(id),
        }
    }

    /// What means something to its own upstream session only goes no further. `true`: for nobody.
    fn send_again(&mut self, seq: u64, outbound: Outbound, link: u64) -> bool {
        if outbound.id.is_some() || outbound.may_go_on(link) {
            self.to_send.insert(seq, outbound);
            return false;
        }
        self.outstanding.remove(&seq);
        true
    }

    /// This message has met too many sessions that the server did not know.
    fn is_gone_for(&mut self, seq: u64, now: Instant) -> bool {
        self.pace.not_taken(seq, now);
        self.pace.refusals(seq) > MAX_SESSIONS
    }

    fn dropped(&mut self, seq: u64) -> Failed {
        self.outstanding.remove(&seq);
        self.pace.taken(seq);
        Failed::Dropped
    }
}
