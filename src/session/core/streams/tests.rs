use proptest::prelude::*;

use super::*;
use crate::protocol::session_id::SessionId;
use crate::session::attachment::Attachment;

const CALL: StreamKey = StreamKey::Request(3);

fn connection(key: StreamKey) -> Arc<Attachment> {
    Attachment::new(SessionId::random(), key, 100)
}

#[test]
fn a_key_is_found_by_its_name_alone() {
    for key in [StreamKey::Main, StreamKey::Request(0), StreamKey::Request(u64::MAX)] {
        assert_eq!(StreamKey::of_name(&key.name()), Some(key));
    }
    for other in ["", "r", "r01", "r+1", "r-1", "x1", "gg", "R1"] {
        assert_eq!(StreamKey::of_name(other), None, "{other}");
    }
}

/// OWN-7
#[test]
fn a_stream_is_superseded_only_by_one_that_came_after_it() {
    for (holder, joined_since, expected) in [
        (Some(2), false, true),
        // The former one, in an answer from before this one joined.
        (Some(2), true, false),
        (Some(1), false, false),
        // Whoever came after it has gone again.
        (None, false, false),
    ] {
        assert_eq!(is_superseded(1, holder, joined_since), expected, "{holder:?} {joined_since}");
    }
}

/// OWN-7
#[test]
fn the_stores_word_of_holders_is_about_those_that_had_joined_when_it_was_asked() {
    let mut streams = Streams::<Attachment>::default();
    let main = connection(StreamKey::Main);
    streams.join(Arc::clone(&main), 0);
    let asked = streams.joins();
    let call = connection(CALL);
    streams.join(Arc::clone(&call), 0);
    let elsewhere = |_| Some(1);
    assert_eq!(streams.take_superseded(asked, elsewhere).map(|taken| taken.id), Some(main.id));
    assert!(streams.take_superseded(asked, elsewhere).is_none(), "the other one has joined since");
    assert!(streams.get(CALL).is_some() && streams.get(StreamKey::Main).is_none());
    let now = streams.joins();
    assert!(streams.take_superseded(now, |_| Some(call.id)).is_none());
    assert_eq!(streams.take_superseded(now, elsewhere).map(|taken| taken.id), Some(call.id));
}

/// OWN-8
#[test]
fn a_session_is_left_alone_by_the_last_connection_that_shows_it_and_by_no_other() {
    let now = Instant::now();
    let (mut streams, first) = (Streams::default(), connection(StreamKey::Main));
    assert!(streams.join(Arc::clone(&first), 0).is_none());
    assert!(streams.join(Arc::clone(&first), 0).is_none(), "no successor of its own");
    let (second, call) = (connection(StreamKey::Main), connection(CALL));
    assert_eq!(streams.join(Arc::clone(&second), 0).map(|before| before.id), Some(first.id));
    streams.join(Arc::clone(&call), 0);
    assert!(!streams.leave(first.id, now), "it is not shown any more");
    assert!(!streams.leave(second.id, now), "another stream is");
    assert_eq!(streams.alone_since(), None);
    assert!(streams.leave(call.id, now));
    assert_eq!(streams.alone_for(now + Duration::from_secs(1)), Duration::from_secs(1));
    assert!(!streams.leave(call.id, now + Duration::from_secs(1)), "once");
    streams.join(first, 0);
    assert_eq!((streams.alone_since(), streams.alone_for(now)), (None, Duration::ZERO));
}

#[test]
fn an_adopter_finds_the_connections_of_its_own_process_once() {
    let now = Instant::now();
    let (main, other) = (connection(StreamKey::Main), connection(StreamKey::Main));
    for (held, found) in [(vec![Arc::clone(&other), Arc::clone(&main)], true), (vec![other], false), (vec![], false)] {
        let mut streams = Streams::inherited([(StreamKey::Main, main.id)], now);
        assert_eq!(streams.alone_since(), Some(now));
        streams.find_inherited(&held);
        assert_eq!(streams.get(StreamKey::Main).is_some(), found);
        assert_eq!(streams.alone_since().is_none(), found);
        assert!(!streams.has_inherited());
    }
}

#[test]
fn a_look_that_finds_nobody_begins_the_time_alone_and_does_not_begin_it_again() {
    let now = Instant::now();
    let later = now + Duration::from_secs(5);
    let mut streams = Streams::<Attachment>::default();
    streams.looked(true, now);
    assert_eq!(streams.alone_since(), None);
    streams.looked(false, now);
    streams.looked(false, later);
    assert_eq!(streams.alone_since(), Some(now));
    streams.alone_from(later);
    assert_eq!(streams.alone_since(), Some(later));
    streams.looked(true, later);
    assert_eq!(streams.alone_since(), None);
}

#[test]
fn the_store_is_told_once_how_far_a_connection_had_come() {
    let (mut streams, main) = (Streams::default(), connection(StreamKey::Main));
    assert_eq!(streams.news_of_sent(), None, "nobody shows it");
    streams.join(Arc::clone(&main), 0);
    main.has_sent(4);
    assert_eq!(streams.news_of_sent(), Some(4));
    assert_eq!(streams.news_of_sent(), None);
    let next = connection(StreamKey::Main);
    next.has_sent(3);
    streams.join(Arc::clone(&next), 0);
    assert_eq!(streams.news_of_sent(), None, "its predecessor had come further");
    streams.restart();
    assert_eq!(streams.news_of_sent(), Some(3));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Join(bool, u64),
    Leave(u64),
    /// The store is asked; it answers that this one, or a stranger, holds the streams.
    Ask,
    Answered(bool, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let one = 0..4_u64;
    prop_oneof![
        3 => (any::<bool>(), one.clone()).prop_map(|(main, which)| Step::Join(main, which)),
        2 => one.clone().prop_map(Step::Leave),
        1 => Just(Step::Ask),
        2 => (any::<bool>(), one).prop_map(|(stranger, which)| Step::Answered(stranger, which)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// OWN-7, OWN-8: each stream is shown by the connection that joined last and has not gone, and the session is alone
    /// exactly while none shows it.
    #[test]
    fn each_stream_is_shown_by_who_joined_it_last(steps in prop::collection::vec(step(), 0..60)) {
        let start = Instant::now();
        let known = [StreamKey::Main, CALL].map(|key| (0..4).map(|_| connection(key)).collect::<Vec<_>>());
        let mut streams = Streams::<Attachment>::default();
        // What a table kept by hand says: for each stream, who shows it and whether it has joined since the question.
        let mut shown: [Option<(u64, bool)>; 2] = [None, None];
        let mut asked = streams.joins();
        for (at, step) in steps.into_iter().enumerate() {
            let now = start + Duration::from_secs(at as u64);
            match step {
                Step::Join(main, which) => {
                    let of = usize::from(!main);
                    let joining = &known[of][which as usize];
                    let before = streams.join(Arc::clone(joining), 0);
                    let expected = shown[of].map(|(id, _)| id).filter(|id| *id != joining.id);
                    prop_assert_eq!(before.map(|before| before.id), expected);
                    shown[of] = Some((joining.id, true));
                }
                Step::Leave(which) => {
                    for of in [0, 1] {
                        let id = known[of][which as usize].id;
                        let is_it = shown[of].is_some_and(|(shown, _)| shown == id);
                        if is_it {
                            shown[of] = None;
                        }
                        prop_assert_eq!(streams.leave(id, now), is_it && shown == [None, None]);
                    }
                }
                Step::Ask => {
                    asked = streams.joins();
                    shown.iter_mut().flatten().for_each(|(_, joined_since)| *joined_since = false);
                }
                Step::Answered(stranger, which) => {
                    let holder = |of: usize| if stranger { 0 } else { known[of][which as usize].id };
                    let by_key = |key| Some(holder(usize::from(key != StreamKey::Main)));
                    while let Some(taken) = streams.take_superseded(asked, by_key) {
                        let of = usize::from(taken.key != StreamKey::Main);
                        prop_assert_eq!(shown[of], Some((taken.id, false)));
                        prop_assert_ne!(taken.id, holder(of));
                        shown[of] = None;
                    }
                    for of in [0, 1] {
                        let stays = shown[of].is_none_or(|(id, joined_since)| joined_since || id == holder(of));
                        prop_assert!(stays);
                    }
                }
            }
            for (of, key) in [StreamKey::Main, CALL].into_iter().enumerate() {
                let by_table = shown[of].map(|(id, _)| id);
                prop_assert_eq!(streams.get(key).map(|attachment| attachment.id), by_table);
            }
            prop_assert_eq!(streams.iter().count(), shown.iter().flatten().count());
            if streams.is_shown_here() {
                prop_assert_eq!(streams.alone_since(), None);
            }
        }
    }
}

/// EVT-3: between two events of one stream the log may have others', and a connection that has had the one before takes it.
#[test]
fn an_event_says_from_where_on_the_log_has_nothing_else_for_its_stream() {
    let (mut streams, main, call) = (Streams::default(), connection(StreamKey::Main), connection(CALL));
    streams.join(Arc::clone(&main), 3);
    streams.join(Arc::clone(&call), 4);
    let mut next = |stream, seq| streams.next_on(stream, seq).map(|(shown, after)| (shown.id, after));
    assert_eq!(next(CALL, 5), Some((call.id, 4)));
    assert_eq!(next(StreamKey::Main, 6), Some((main.id, 3)));
    assert_eq!(next(CALL, 7), Some((call.id, 5)));
    assert_eq!(next(StreamKey::Request(9), 8), None, "nobody shows it");
    assert_eq!(next(StreamKey::Main, 9), Some((main.id, 6)));
    assert_eq!(streams.over(CALL, Instant::now()).map(|shown| shown.id), Some(call.id));
    assert!(streams.over(CALL, Instant::now()).is_none() && streams.get(CALL).is_none());
}
