use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const OTHER: StreamKey = StreamKey::Request(7);

fn event(text: impl Into<Bytes>) -> NewEvent {
    NewEvent::message(text.into())
}

fn no_news() -> Option<u64> {
    None
}

fn done(seqs: impl IntoIterator<Item = u64>) -> Result<Appended, StoreError> {
    Ok(Appended::Done { seqs: seqs.into_iter().map(Some).collect(), shown: Vec::new() })
}

fn away() -> Result<Appended, StoreError> {
    Err(StoreError::Unavailable("away".into()))
}

fn texts(events: &[NewEvent]) -> Vec<&[u8]> {
    events.iter().map(|event| &event.body[..]).collect()
}

#[test]
fn one_append_is_under_way_and_takes_all_that_has_gathered() {
    let mut outbox = Outbox::default();
    assert!(outbox.next(no_news).is_none());
    outbox.push(event("a"));
    let first = outbox.next(no_news).unwrap().clone();
    outbox.push(event("b"));
    outbox.push(event("c"));
    assert!(outbox.next(no_news).is_none(), "one at a time");
    assert!(matches!(outbox.told(first.op, done([1]), Duration::ZERO), Told::Logged(_)));
    let second = outbox.next(|| Some(1)).unwrap();
    assert_eq!((second.op, second.sent, texts(&second.events)), (first.op + 1, Some(1), vec![&b"b"[..], b"c"]));
}

#[test]
fn an_append_is_bounded_and_one_large_event_goes_alone() {
    let mut outbox = Outbox::default();
    let small = Bytes::from(vec![b'x'; APPEND_BYTES / 4]);
    for body in
        [Bytes::from(vec![b'y'; APPEND_BYTES * 2]), small.clone(), small.clone(), small.clone(), small.clone(), small]
    {
        outbox.push(event(body));
    }
    (0..2 * APPEND_EVENTS).for_each(|_| outbox.push(event("z")));
    let mut sizes = Vec::new();
    let mut last = 0;
    while let Some(batch) = outbox.next(no_news) {
        let (op, count) = (batch.op, batch.events.len() as u64);
        sizes.push(count);
        outbox.told(op, done(last + 1..=last + count), Duration::ZERO);
        last += count;
    }
    assert_eq!(sizes, [1, 4, 64, 64, 1]);
}

#[test]
fn events_of_all_streams_share_an_append_and_a_sequence() {
    let mut outbox = Outbox::default();
    outbox.inherit(4);
    for (stream, text) in [(StreamKey::Main, "a"), (OTHER, "b"), (OTHER, "c"), (StreamKey::Main, "d")] {
        outbox.push(event(text).on(stream));
    }
    let batch = outbox.next(no_news).unwrap();
    assert_eq!(texts(&batch.events), [&b"a"[..], b"b", b"c", b"d"]);
    let op = batch.op;
    let Told::Logged(logged) = outbox.told(op, done(5..=8), Duration::ZERO) else { panic!() };
    let follows = |entry: &Entry<'_>| matches!(entry, Entry::Event { seq, expected, .. } if seq == expected);
    assert!(logged.entries().all(|entry| follows(&entry)), "EVT-1");
    let views: Vec<_> = logged.entries().map(|entry| matches!(entry, Entry::Event { view: OTHER, .. })).collect();
    assert_eq!((views, outbox.last_seq()), (vec![false, true, true, false], 8));
}

/// REQ-2, EVT-1
#[test]
fn a_second_answer_has_no_place_and_a_hole_is_seen() {
    let mut outbox = Outbox::default();
    for id in ["1", "2", "3"] {
        outbox.push(NewEvent::answer(id.into(), Bytes::from_static(b"{}")));
    }
    let op = outbox.next(no_news).unwrap().op;
    assert_eq!(outbox.answers().collect::<Vec<_>>(), ["1", "2", "3"]);
    let seqs = Ok(Appended::Done { seqs: vec![Some(1), None, Some(3)], shown: vec![3] });
    let Told::Logged(logged) = outbox.told(op, seqs, Duration::ZERO) else { panic!() };
    let body = &Bytes::from_static(b"{}");
    assert_eq!(
        logged.entries().collect::<Vec<_>>(),
        [
            Entry::Event { seq: 1, expected: 1, view: StreamKey::Main, is_answer: true, is_shown: false, body },
            Entry::SecondAnswer,
            Entry::Event { seq: 3, expected: 2, view: StreamKey::Main, is_answer: true, is_shown: true, body },
        ]
    );
    assert_eq!(outbox.last_seq(), 3);
    assert!(outbox.is_empty() && logged.has_answers() && logged.bytes() == 6);
}

#[test]
fn an_append_without_an_answer_is_made_again_under_its_number() {
    let mut outbox = Outbox::default();
    outbox.push(event("a"));
    let op = outbox.next(no_news).unwrap().op;
    let Told::Again(pause, _) = outbox.told(op, away(), Duration::ZERO) else { panic!() };
    assert!(pause > Duration::ZERO);
    let Told::Again(pause, _) = outbox.told(op, away(), Duration::from_secs(10)) else { panic!() };
    assert_eq!(pause, Duration::ZERO, "the attempt was a pause");
    assert_eq!(texts(&outbox.same(op).unwrap().events), [b"a"]);
    assert!(outbox.next(no_news).is_none() && outbox.same(op + 1).is_none());
}

/// DUR-1
#[test]
fn what_was_under_way_when_the_log_was_lost_is_appended_anew_and_only_that() {
    let mut outbox = Outbox::default();
    outbox.inherit(9);
    outbox.push(event("a"));
    let lost = outbox.next(|| Some(9)).unwrap().op;
    let refused = outbox.told(lost, Ok(Appended::NotFound), Duration::ZERO);
    assert!(matches!(refused, Told::Refused(Refusal::NotFound)));
    outbox.restart();
    outbox.push(event("b"));
    assert!(outbox.next(no_news).is_none(), "the older one goes first");
    let anew = outbox.again(no_news).unwrap().clone();
    assert_eq!((anew.sent, texts(&anew.events)), (None, vec![&b"a"[..]]));
    assert!(matches!(outbox.told(lost, done([10]), Duration::ZERO), Told::Stale));
    assert!(outbox.same(lost).is_none());
    assert!(matches!(outbox.told(anew.op, done([1]), Duration::ZERO), Told::Logged(_)));
    assert_eq!(outbox.last_seq(), 1);

    outbox.next(no_news).unwrap();
    assert!(outbox.again(no_news).is_none(), "it is of this life, and under way");
}

/// A store that executes each append once, whatever becomes of its answer, and forgets all when it is told to.
#[derive(Default)]
struct Log {
    events: Vec<(StreamKey, Bytes)>,
    answered: Vec<Bytes>,
    last: Option<(u64, Vec<Option<u64>>)>,
}

impl Log {
    fn append(&mut self, batch: &Batch) -> Vec<Option<u64>> {
        if let Some((op, seqs)) = &self.last
            && *op == batch.op
        {
            return seqs.clone();
        }
        let log = &mut self.events;
        let place = |event: &NewEvent| {
            if event.answers.is_some() {
                if self.answered.contains(&event.body) {
                    return None;
                }
                self.answered.push(event.body.clone());
            }
            log.push((event.view, event.body.clone()));
            Some(log.len() as u64)
        };
        let seqs: Vec<_> = batch.events.iter().map(place).collect();
        self.last = Some((batch.op, seqs.clone()));
        seqs
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Push {
        other: bool,
        answer: bool,
        size: usize,
    },
    Append,
    /// The append is executed, its answer is lost, and it is made again.
    LostAnswer,
    /// It is not executed.
    Away,
    LoseAll,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<bool>(), any::<bool>(), prop_oneof![9 => 0..64_usize, 1 => Just(APPEND_BYTES / 2)])
            .prop_map(|(other, answer, size)| Step::Push { other, answer, size }),
        3 => Just(Step::Append),
        1 => Just(Step::LostAnswer),
        1 => Just(Step::Away),
        1 => Just(Step::LoseAll),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// EVT-1, EVT-2, REQ-2: whatever becomes of answers, and whatever the store loses, each event is delivered once, in
    /// its stream's order, at the place where the log has it.
    #[test]
    fn each_event_is_delivered_once_in_order_where_the_log_has_it(steps in prop::collection::vec(step(), 0..80)) {
        let (mut outbox, mut log) = (Outbox::default(), Log::default());
        let mut pushed: BTreeMap<StreamKey, Vec<Bytes>> = BTreeMap::new();
        let mut delivered: BTreeMap<StreamKey, Vec<Bytes>> = BTreeMap::new();
        let (mut waiting, mut number) = (0, 0_u32);
        let end = [Step::Append; 80];
        for step in steps.into_iter().chain(end) {
            match step {
                Step::Push { other, answer, size } => {
                    let stream = if other { OTHER } else { StreamKey::Main };
                    number += 1;
                    let mut body = vec![0; size.max(4)];
                    body[..4].copy_from_slice(&number.to_be_bytes());
                    let body = Bytes::from(body);
                    pushed.entry(stream).or_default().push(body.clone());
                    waiting += body.len();
                    let id = Arc::from(number.to_string());
                    outbox.push(if answer { NewEvent::answer(id, body) } else { event(body) }.on(stream));
                }
                Step::LoseAll => {
                    log = Log::default();
                    delivered.clear();
                    outbox.restart();
                    // Of what is lost, nobody is told but by the epoch.
                    let left = |stream| {
                        let under_way = outbox.under_way.iter().flat_map(|batch| batch.events.iter());
                        let left = under_way.chain(&outbox.waiting).filter(|event| event.view == stream);
                        left.map(|event| event.body.clone()).collect()
                    };
                    pushed = [StreamKey::Main, OTHER].map(|stream| (stream, left(stream))).into();
                    if let Some(batch) = outbox.again(no_news) {
                        prop_assert!(!batch.events.is_empty());
                    }
                }
                Step::Append | Step::LostAnswer | Step::Away => {
                    if outbox.under_way.is_none() && outbox.next(no_news).is_none() {
                        continue;
                    }
                    let batch = outbox.under_way.clone().unwrap();
                    prop_assert!(batch.events.len() <= APPEND_EVENTS);
                    let bytes: usize = batch.events.iter().map(|event| event.body.len()).sum();
                    prop_assert!(bytes <= APPEND_BYTES || batch.events.len() == 1);
                    if !matches!(step, Step::Append) {
                        if matches!(step, Step::LostAnswer) {
                            log.append(&batch);
                        }
                        let told = outbox.told(batch.op, away(), Duration::ZERO);
                        prop_assert!(matches!(told, Told::Again(..)));
                        continue;
                    }
                    let seqs = log.append(&batch);
                    let Told::Logged(logged) = outbox.told(batch.op, Ok(Appended::Done { seqs, shown: Vec::new() }), Duration::ZERO) else {
                        panic!("nobody made it anew");
                    };
                    waiting -= logged.bytes();
                    for entry in logged.entries() {
                        let Entry::Event { seq, expected, view, body, .. } = entry else { continue };
                        prop_assert_eq!(seq, expected);
                        delivered.entry(view).or_default().push(body.clone());
                        prop_assert_eq!(&log.events[seq as usize - 1], &(view, body.clone()));
                    }
                    prop_assert_eq!(outbox.last_seq(), log.events.len() as u64);
                }
            }
        }
        prop_assert!(outbox.is_empty());
        prop_assert_eq!(waiting, 0, "the gate is open again");
        pushed.retain(|_, events| !events.is_empty());
        delivered.retain(|_, events| !events.is_empty());
        prop_assert_eq!(delivered, pushed);
    }
}
