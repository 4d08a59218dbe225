//! The link of a session to its upstream as a state machine: wanted, opened, lost, tried again, given up. REQ-3, STM-2
//!
//! Owns the state of the link, its number, and the pauses between attempts. It opens and closes nothing: it says what is
//! to be done. Each link has a number of its own, and so has the time after its loss: whoever hears of a link compares the
//! numbers, and what is about an older one is about nothing any more.

use std::time::{Duration, Instant};

use super::pause::Pause;
use crate::{protocol::jsonrpc::IdKey, settings::UpstreamSettings};

/// The first attempt after a loss comes within this time where somebody waits for an answer: nearly at once.
const FIRST_FOR_CALLS: Duration = Duration::from_millis(10);
/// And within this time where nobody does: all sessions of a server lose their links together.
const FIRST_FOR_OTHERS: Duration = Duration::from_millis(500);

/// State of the upstream link.
#[derive(Debug)]
pub enum Link<W> {
    /// None, and none being opened.
    Idle,
    /// Wanted; the next attempt is due at a timer.
    Waiting,
    /// The event stream is being opened.
    Opening,
    /// Our replay of the client's `initialize` waits for its answer.
    Handshake {
        /// Where messages go.
        way: W,
        /// Id of the replayed request.
        id: IdKey,
    },
    /// Open requests are being sorted out.
    Recovering {
        /// Where messages go.
        way: W,
    },
    /// Messages flow.
    Open {
        /// Where messages go.
        way: W,
    },
}

/// What is to be done when no link came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoLink {
    /// Try again after a pause: [`Uplink::pause_is_over`].
    Wait(Pause),
    /// The time limit is reached: what waits is to be answered. The next message starts a new search.
    GiveUp,
}

/// What is to be done at a periodic look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Nothing.
    Fine,
    /// A link is wanted, and nobody opens one.
    Open,
    /// Nothing has come for long: ask for a sign of life.
    Ping,
    /// The ping of the round before has met silence: the link is lost.
    Silent,
}

/// See the module's text.
#[derive(Debug)]
pub struct Uplink<W> {
    link: Link<W>,
    number: u64,
    last_heard: Instant,
    /// Since when there has been no working link although one is wanted.
    unlinked_since: Option<Instant>,
    failures: u32,
}

impl<W: Clone> Uplink<W> {
    /// Without a link.
    pub fn new(now: Instant) -> Self {
        Self { link: Link::Idle, number: 0, last_heard: now, unlinked_since: None, failures: 0 }
    }

    /// The number of the present link, or of the time since the last one.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// There is none, and nobody opens one.
    pub fn is_idle(&self) -> bool {
        matches!(self.link, Link::Idle)
    }

    /// Its event stream is being opened.
    pub fn is_opening(&self) -> bool {
        matches!(self.link, Link::Opening)
    }

    /// The replayed `initialize` waits for its answer.
    pub fn is_in_handshake(&self) -> bool {
        matches!(self.link, Link::Handshake { .. })
    }

    /// Messages flow.
    pub fn is_open(&self) -> bool {
        matches!(self.link, Link::Open { .. })
    }

    /// Where messages of the client go, while they flow.
    pub fn open_way(&self) -> Option<&W> {
        if let Link::Open { way } = &self.link { Some(way) } else { None }
    }

    /// Where the router's own messages go.
    pub fn way(&self) -> Option<&W> {
        match &self.link {
            Link::Handshake { way, .. } | Link::Recovering { way } | Link::Open { way } => Some(way),
            Link::Idle | Link::Waiting | Link::Opening => None,
        }
    }

    /// For people.
    pub fn name(&self) -> &'static str {
        match self.link {
            Link::Idle => "idle",
            Link::Waiting => "waiting",
            Link::Opening => "opening",
            Link::Handshake { .. } => "handshake",
            Link::Recovering { .. } => "recovering",
            Link::Open { .. } => "open",
        }
    }

    /// When the server was last heard of.
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// The last attempts have failed: another endpoint is better than the last one.
    pub fn avoids_last(&self) -> bool {
        self.failures > 0
    }

    /// A link is wanted. `true`: one is to be opened ([`Uplink::opening`]), or it is to be said that there is nobody to
    /// link to ([`Uplink::failed`]).
    pub fn want(&mut self, now: Instant) -> bool {
        let begins = self.is_idle();
        if begins {
            self.unlinked_since.get_or_insert(now);
        }
        begins
    }

    /// An event stream is being opened. The number of the new link.
    pub fn opening(&mut self) -> u64 {
        self.number += 1;
        self.link = Link::Opening;
        self.number
    }

    /// Something has come by the link of this number. `false`: it is about an older one.
    pub fn heard(&mut self, number: u64, now: Instant) -> bool {
        let is_current = number == self.number;
        if is_current {
            self.last_heard = now;
        }
        is_current
    }

    /// The stream is open; the `initialize` of the client is replayed under this id.
    pub fn shake_hands(&mut self, way: W, id: IdKey) {
        self.link = Link::Handshake { way, id };
    }

    /// This answers the replayed `initialize`: where messages go.
    pub fn handshake_answered(&self, answered: &IdKey) -> Option<W> {
        match &self.link {
            Link::Handshake { way, id } if id == answered => Some(way.clone()),
            _ => None,
        }
    }

    /// The upstream session is where the client left the old one; what was open is being sorted out.
    pub fn recover(&mut self, way: W) {
        self.link = Link::Recovering { way };
    }

    /// Everything is sorted out: messages flow. `false`: there is no link for that.
    pub fn settled(&mut self, now: Instant) -> bool {
        let is_open = self.settled_unproven(now);
        if is_open {
            self.end_search();
        }
        is_open
    }

    /// The same, where nothing had to be connected for it: whether there is a server is seen by what is sent
    /// ([`Self::answered`]).
    pub fn settled_unproven(&mut self, now: Instant) -> bool {
        let Some(way) = self.way().cloned() else { return false };
        self.link = Link::Open { way };
        if self.failures == 0 {
            self.unlinked_since = None;
        }
        self.last_heard = now;
        true
    }

    /// Messages go another way from now on, which leads to the same server.
    pub fn turn(&mut self, to: W) {
        if let Link::Open { way } = &mut self.link {
            *way = to;
        }
    }

    /// The server of the present link has taken a message.
    pub fn answered(&mut self) {
        if self.is_open() {
            self.end_search();
        }
    }

    /// The link is broken or useless. `false`: there was none.
    pub fn lost(&mut self) -> bool {
        if matches!(self.link, Link::Idle | Link::Waiting) {
            return false;
        }
        self.close();
        true
    }

    /// No client is there: it is given back.
    pub fn rest(&mut self) {
        self.close();
        self.end_search();
    }

    /// No link has come about, or the one that there was is lost, and one is wanted. `calls_wait`: somebody waits for an
    /// answer. STM-2
    pub fn failed(&mut self, now: Instant, calls_wait: bool, settings: &UpstreamSettings) -> NoLink {
        let since = *self.unlinked_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= settings.relink_timeout {
            self.link = Link::Idle;
            self.end_search();
            return NoLink::GiveUp;
        }
        let pause = match (self.failures, calls_wait) {
            (0, true) => Pause::Within(FIRST_FOR_CALLS),
            (0, false) => Pause::Within(FIRST_FOR_OTHERS),
            (failures, _) => Pause::After((settings.backoff_min, settings.backoff_max), failures - 1),
        };
        self.failures = self.failures.saturating_add(1);
        self.link = Link::Waiting;
        NoLink::Wait(pause)
    }

    /// The pause of [`NoLink::Wait`] is over. `true`: the next attempt is due.
    pub fn pause_is_over(&mut self) -> bool {
        let waits = matches!(self.link, Link::Waiting);
        if waits {
            self.link = Link::Idle;
        }
        waits
    }

    /// A periodic look. `wanted`: there is something to do for a link.
    pub fn check(&self, now: Instant, wanted: bool, idle_timeout: Duration) -> Check {
        let silence = now.saturating_duration_since(self.last_heard);
        match &self.link {
            Link::Idle if wanted => Check::Open,
            Link::Open { .. } if silence > idle_timeout * 2 => Check::Silent,
            Link::Open { .. } if silence > idle_timeout => Check::Ping,
            _ => Check::Fine,
        }
    }

    /// The actor ends.
    pub fn end(&mut self) {
        self.link = Link::Idle;
    }

    fn close(&mut self) {
        self.number += 1;
        self.link = Link::Idle;
    }

    fn end_search(&mut self) {
        (self.unlinked_since, self.failures) = (None, 0);
    }
}

#[cfg(test)]
mod tests;
