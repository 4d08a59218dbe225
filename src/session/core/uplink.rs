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
        let Some(way) = self.way().cloned() else { return false };
        self.link = Link::Open { way };
        self.end_search();
        self.last_heard = now;
        true
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settings::Settings;

    fn settings() -> UpstreamSettings {
        let pairs = [
            ("MCP_UPSTREAM_BACKOFF_MIN", "100ms"),
            ("MCP_UPSTREAM_BACKOFF_MAX", "1s"),
            ("MCP_UPSTREAM_RELINK_TIMEOUT", "10s"),
        ];
        Settings::from_pairs(pairs).unwrap().upstream
    }

    fn way() -> &'static str {
        "http://upstream/messages"
    }

    /// STM-2
    #[test]
    fn attempts_come_soon_for_callers_then_at_growing_pauses_and_end() {
        let (start, settings) = (Instant::now(), settings());
        let bounds = (settings.backoff_min, settings.backoff_max);
        for (calls_wait, first) in [(true, 10), (false, 500)] {
            let first = Pause::Within(Duration::from_millis(first));
            let mut uplink = Uplink::<&str>::new(start);
            for expected in [first, Pause::After(bounds, 0), Pause::After(bounds, 1), Pause::After(bounds, 2)] {
                assert!(uplink.want(start));
                assert_eq!(uplink.failed(start, calls_wait, &settings), NoLink::Wait(expected));
                assert!(!uplink.want(start), "it waits");
                assert!(uplink.avoids_last() && uplink.pause_is_over());
            }
            let late = start + settings.relink_timeout;
            assert_eq!(uplink.failed(late, calls_wait, &settings), NoLink::GiveUp);
            assert!(uplink.is_idle() && !uplink.pause_is_over(), "nobody tries any more");
            assert!(uplink.want(late), "until somebody wants it again");
            assert_eq!(uplink.failed(late, calls_wait, &settings), NoLink::Wait(first), "from the beginning");
        }
    }

    /// REQ-3: until what was open is sorted out nothing of the client goes up.
    #[test]
    fn messages_flow_only_when_the_handshake_is_replayed_and_open_requests_are_sorted_out() {
        let start = Instant::now();
        let id = |text| IdKey::of_json(text).unwrap();
        let mut uplink = Uplink::<&str>::new(start);
        assert!(uplink.want(start));
        assert_eq!((uplink.opening(), uplink.name(), uplink.way()), (1, "opening", None));
        uplink.shake_hands(way(), id("7"));
        assert_eq!((uplink.name(), uplink.way(), uplink.open_way()), ("handshake", Some(&way()), None));
        assert_eq!(uplink.handshake_answered(&id("8")), None, "of something else");
        let answered = uplink.handshake_answered(&id("7")).unwrap();
        uplink.recover(answered);
        assert_eq!((uplink.name(), uplink.way(), uplink.open_way()), ("recovering", Some(&way()), None));
        assert_eq!(uplink.handshake_answered(&id("7")), None, "once");
        assert!(uplink.settled(start));
        assert_eq!((uplink.name(), uplink.open_way()), ("open", Some(&way())));
        assert!(!uplink.want(start));
        assert!(uplink.lost() && !uplink.lost());
        assert!(!uplink.settled(start), "what was being sorted out was for a link that is gone");
        assert!(!uplink.heard(1, start) && uplink.is_idle());
    }

    #[test]
    fn a_silent_server_is_asked_and_then_left() {
        let (start, idle) = (Instant::now(), Duration::from_secs(30));
        let mut uplink = Uplink::<&str>::new(start);
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(uplink.check(after(100), false, idle), Check::Fine);
        assert_eq!(uplink.check(after(0), true, idle), Check::Open);
        uplink.opening();
        assert_eq!(uplink.check(after(100), true, idle), Check::Fine, "others look after that");
        uplink.recover(way());
        assert!(uplink.settled(start));
        for (seconds, expected) in [(30, Check::Fine), (31, Check::Ping), (60, Check::Ping), (61, Check::Silent)] {
            assert_eq!(uplink.check(after(seconds), true, idle), expected, "after {seconds} s");
        }
        assert!(uplink.heard(1, after(61)));
        assert_eq!(uplink.check(after(62), true, idle), Check::Fine);
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Want,
        NoEndpoint,
        Opened,
        HandshakeDone,
        Sorted,
        Lost,
        Rest,
        PauseOver,
        Pass(u16),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Want),
            1 => Just(Event::NoEndpoint),
            3 => Just(Event::Opened),
            3 => Just(Event::HandshakeDone),
            3 => Just(Event::Sorted),
            3 => Just(Event::Lost),
            1 => Just(Event::Rest),
            3 => Just(Event::PauseOver),
            2 => (0u16..4000).prop_map(Event::Pass),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// STM-2: in whatever order things happen, no number names two links, a search ends within its limit, and as long as
        /// one goes on somebody is about to make the next attempt.
        #[test]
        fn a_search_goes_on_until_it_finds_or_is_over(events in prop::collection::vec(event(), 0..200)) {
            let settings = settings();
            let mut now = Instant::now();
            let mut uplink = Uplink::<&str>::new(now);
            let mut last_number = 0;
            let mut searching_since = None;
            let mut timers = 0_u32;
            for event in events {
                let mut failed = false;
                match event {
                    Event::Want => if uplink.want(now) {
                        searching_since.get_or_insert(now);
                        let number = uplink.opening();
                        prop_assert!(number > last_number);
                        last_number = number;
                    },
                    Event::NoEndpoint => if uplink.want(now) {
                        searching_since.get_or_insert(now);
                        failed = true;
                    },
                    Event::Opened => if uplink.is_opening() {
                        uplink.shake_hands(way(), IdKey::of_json("1").unwrap());
                    },
                    Event::HandshakeDone => if let Some(way) = uplink.handshake_answered(&IdKey::of_json("1").unwrap()) {
                        uplink.recover(way);
                    },
                    Event::Sorted => if uplink.name() == "recovering" {
                        prop_assert!(uplink.settled(now));
                        searching_since = None;
                    },
                    Event::Lost => {
                        let had_one = uplink.way().is_some() || uplink.is_opening();
                        prop_assert_eq!(uplink.lost(), had_one);
                        if had_one {
                            searching_since.get_or_insert(now);
                            failed = true;
                        }
                    }
                    Event::Rest => {
                        uplink.rest();
                        searching_since = None;
                    }
                    Event::PauseOver => if timers > 0 {
                        timers -= 1;
                        uplink.pause_is_over();
                    },
                    Event::Pass(millis) => now += Duration::from_millis(u64::from(millis)),
                }
                if failed {
                    let tired = searching_since.is_some_and(|since| now - since >= settings.relink_timeout);
                    match uplink.failed(now, true, &settings) {
                        NoLink::Wait(_) => {
                            prop_assert!(!tired);
                            prop_assert_eq!(uplink.name(), "waiting");
                            timers += 1;
                        }
                        NoLink::GiveUp => {
                            prop_assert!(tired && uplink.is_idle());
                            searching_since = None;
                        }
                    }
                }
                prop_assert!(uplink.name() != "waiting" || timers > 0, "it waits, and nobody wakes it");
                prop_assert!(uplink.number() >= last_number);
                last_number = uplink.number();
            }
        }
    }
}
