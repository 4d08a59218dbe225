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

/// STM-2: where nothing is connected in advance an open link is no proof of a server, and attempts do not begin from the
/// beginning each time.
#[test]
fn a_link_that_is_open_at_once_ends_the_search_when_the_server_has_answered() {
    let (start, settings) = (Instant::now(), settings());
    let bounds = (settings.backoff_min, settings.backoff_max);
    let mut uplink = Uplink::<&str>::new(start);
    let attempt = |uplink: &mut Uplink<&'static str>| {
        assert!(uplink.want(start));
        uplink.opening();
        uplink.recover(way());
        assert!(uplink.settled_unproven(start) && uplink.is_open() && uplink.lost());
        let no_link = uplink.failed(start, true, &settings);
        uplink.pause_is_over();
        no_link
    };
    let first = Pause::Within(Duration::from_millis(10));
    for expected in [first, Pause::After(bounds, 0), Pause::After(bounds, 1)] {
        assert_eq!(attempt(&mut uplink), NoLink::Wait(expected));
    }
    let late = start + settings.relink_timeout;
    uplink.recover(way());
    assert!(uplink.settled_unproven(late) && uplink.lost());
    assert_eq!(uplink.failed(late, true, &settings), NoLink::GiveUp, "the whole search has its limit");
    uplink.recover(way());
    assert!(uplink.settled_unproven(late));
    uplink.answered();
    assert!(uplink.lost() && !uplink.avoids_last());
    assert_eq!(uplink.failed(late, true, &settings), NoLink::Wait(first), "from the beginning");
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
