//! What is written is read, and the names stay.

use proptest::{collection::btree_map, option, prelude::*};

use super::*;

/// What may stand in ids, URIs and names of streams.
fn name() -> impl Strategy<Value = String> {
    "[ -~é:\"]{0,12}"
}

fn continuation() -> impl Strategy<Value = Continuation> {
    let texts = || option::of(".{0,20}");
    let initialized = option::of(prop_oneof![Just(Initialized::Plain), Just(Initialized::WithVersion)]);
    let texts_by = || btree_map(name(), ".{0,8}", 0..3);
    let maps = (texts_by(), texts_by(), texts_by(), btree_map(name(), any::<u64>(), 0..3), texts_by());
    let moved = proptest::collection::btree_set(any::<u64>(), 0..3);
    let upstream = (texts(), texts(), texts(), texts());
    (texts(), texts(), texts(), upstream, initialized, any::<bool>(), maps, moved).prop_map(
        |(initialize_request, initialize_result, log_level, upstream, initialized, assumed, maps, moved)| {
            let (subscriptions, questions, resumable, cancelled, traces) = maps;
            let (endpoint, upstream_session, upstream_cursor, version) = upstream;
            Continuation {
                initialize_request,
                initialize_result,
                version,
                initialized,
                assumed,
                log_level,
                endpoint,
                upstream_session,
                upstream_cursor,
                resumable,
                subscriptions,
                questions,
                cancelled,
                moved,
                traces,
            }
        },
    )
}

fn stream() -> impl Strategy<Value = StreamHead> {
    let holder = option::of(("[a-z0-9-]{0,8}", any::<u64>()))
        .prop_map(|holder| holder.map(|(incarnation, id)| Holder { incarnation: incarnation.into(), id }));
    (any::<[u64; 5]>(), holder, any::<[Option<u64>; 2]>()).prop_map(|(numbers, holder, [left_at, sent])| {
        let [last_seq, first_seq, gone, bytes, attach_count] = numbers;
        StreamHead { last_seq, first_seq, gone, bytes, holder, attach_count, left_at, sent }
    })
}

fn head() -> impl Strategy<Value = SessionHead> {
    let ownership = option::of((".{0,8}", ".{0,8}", any::<u64>(), any::<u32>())).prop_map(|ownership| {
        ownership.map(|(instance_id, incarnation, generation, epoch)| Ownership {
            owner: Owner { instance_id: instance_id.into(), incarnation: incarnation.into() },
            generation,
            epoch,
        })
    });
    let texts = (".{0,8}", ".{0,8}", ".{0,8}", ".{0,8}", ".{0,8}", ".{0,8}");
    let hints = any::<[Option<u64>; 2]>();
    let streams = btree_map(name(), stream(), 0..4);
    (ownership, texts, any::<[u64; 5]>(), continuation(), hints, streams).prop_map(
        |(ownership, texts, numbers, continuation, [doubted, rebind], streams)| {
            let (service, transport, principal, scopes, rules, client) = texts;
            let [created_ms, last_active_ms, ttl_ms, in_seq, in_claimed] = numbers;
            SessionHead {
                ownership,
                service,
                transport,
                binding: Binding::stored(principal, scopes, rules),
                client,
                created_ms,
                last_active_ms,
                ttl_ms,
                in_seq,
                in_claimed,
                continuation,
                doubted,
                rebind,
                streams,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_head_that_was_written_is_read_as_it_was(head in head()) {
        let (read, is_sound) = SessionHead::read(head.fields());
        prop_assert_eq!(is_sound, head.ownership.is_some());
        prop_assert_eq!(read, head);
    }

    #[test]
    fn no_field_whatever_is_an_error(fields in btree_map("[a-z_:]{1,12}", ".{0,8}", 0..8)) {
        let (head, _) = SessionHead::read(fields);
        prop_assert_eq!(head.ownership, None);
    }

    /// The embedded store changes the values, Redis the fields: with the same effect.
    #[test]
    fn a_change_of_values_is_that_of_fields(before in continuation(), changes in prop::collection::vec(change(), 0..6)) {
        let mut fields: BTreeMap<String, String> = before.pairs().into_iter().collect();
        let FieldChanges { set, delete } = FieldChanges::of(&changes);
        fields.extend(set.into_iter().map(|(field, value)| (field.into_owned(), value.to_owned())));
        for field in delete {
            fields.remove(&*field);
        }
        let mut after = before;
        after.apply(&changes);
        prop_assert_eq!(after.pairs().into_iter().collect::<BTreeMap<_, _>>(), fields);
    }
}

fn change() -> impl Strategy<Value = HeadChange> {
    let few = || "[ab]";
    prop_oneof![
        few().prop_map(HeadChange::InitializeRequest),
        few().prop_map(HeadChange::InitializeResult),
        option::of(few()).prop_map(HeadChange::Version),
        Just(HeadChange::Initialized(Initialized::WithVersion)),
        any::<bool>().prop_map(HeadChange::Assumed),
        few().prop_map(HeadChange::LogLevel),
        few().prop_map(HeadChange::Endpoint),
        option::of(few()).prop_map(HeadChange::UpstreamSession),
        option::of(few()).prop_map(HeadChange::UpstreamCursor),
        (few(), few()).prop_map(|(id_key, at)| HeadChange::Resumable { id_key: id_key.into(), at }),
        few().prop_map(|id_key| HeadChange::NotResumable { id_key: id_key.into() }),
        (few(), few()).prop_map(|(uri, request)| HeadChange::Subscribed { uri, request }),
        few().prop_map(|uri| HeadChange::Unsubscribed { uri }),
        (few(), few()).prop_map(|(id, upstream_id)| HeadChange::Asked { id, upstream_id }),
        few().prop_map(|id| HeadChange::Settled { id }),
        few().prop_map(|id_key| HeadChange::CancelMoot { id_key: id_key.into() }),
        (few(), option::of(few())).prop_map(|(id_key, context)| HeadChange::Traced { id_key: id_key.into(), context }),
    ]
}

fn read(fields: &[(&str, &str)]) -> (SessionHead, bool) {
    SessionHead::read(fields.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())))
}

/// Another build must find what this one has written.
#[test]
fn fields_have_the_documented_names_and_forms() {
    let fields = [
        ("owner", "one"),
        ("incarnation", "i-1"),
        ("generation", "4"),
        ("epoch", "77"),
        ("service", "s"),
        ("transport", "sse"),
        ("principal", "p"),
        ("scopes", "a b"),
        ("rules", "r s"),
        ("client", "k w"),
        ("created_ms", "1"),
        ("last_active_ms", "2"),
        ("ttl_ms", "3"),
        ("in_seq", "9"),
        ("in_claimed", "8"),
        ("initialize_request", "{}"),
        ("initialize_result", "{1}"),
        ("version", "2025-11-25"),
        ("initialized", "v"),
        ("assumed", "1"),
        ("log_level", "{2}"),
        ("upstream_endpoint", "http://h/sse"),
        ("upstream_session", "2025-11-25 abc"),
        ("upstream_cursor", "1/2"),
        ("rs:\"a\"", "7 3/4"),
        ("doubted", "5"),
        ("rebind", "6"),
        ("sub:file:///a", "{3}"),
        ("sr:\"ask-1\"", "4"),
        ("cx:\"a\"", "7"),
        ("s:g:seq", "11"),
        ("s:g:first", "10"),
        ("s:g:bytes", "120"),
        ("s:g:gone", "8"),
        ("a:g", "i-2 13"),
        ("ac:g", "2"),
        ("d:g", "9"),
        ("sent:g", "10"),
    ];
    let (head, is_sound) = read(&fields);
    assert!(is_sound);
    let written = fields.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned()));
    assert_eq!(head.fields(), written.collect::<BTreeMap<_, _>>());
    let stream = &head.streams["g"];
    assert_eq!((stream.last_seq, stream.first_seq, stream.gone, stream.bytes), (11, 10, 8, 120));
    assert_eq!((stream.attach_count, stream.left_at, stream.sent), (2, Some(9), Some(10)));
    assert_eq!(head.holder("g"), Some(&Holder { incarnation: "i-2".into(), id: 13 }));
    assert_eq!(head.continuation.questions["\"ask-1\""], "4");
    assert_eq!(head.continuation.cancelled["\"a\""], 7);
    assert!(head.has_unclaimed());
}

#[test]
fn what_makes_no_sense_is_absent_and_said_where_an_owner_needs_it() {
    let owned = [("owner", ""), ("incarnation", ""), ("generation", "1"), ("epoch", "1")];
    let with = |field, value| [&owned[..], &[(field, value)]].concat();
    for (fields, sound) in [
        (owned.to_vec(), true),
        (owned[..3].to_vec(), false),
        (with("epoch", "4294967296"), false),
        (with("generation", "x"), false),
        (with("s:g:seq", ""), false),
        (with("a:g", "nobody"), false),
        (with("a:g", "i x"), false),
        (with("in_seq", "x"), true),
        (with("s:g:first", "x"), true),
        (with("doubted", ""), true),
        (with("cx:1", "x"), true),
        (with("op_result", "1 2 -"), true),
        (with("of a later build", "x"), true),
    ] {
        let (head, is_sound) = read(&fields);
        assert_eq!(is_sound, sound, "{fields:?}");
        assert!(head.streams.is_empty() && head.continuation == Continuation::default() && head.doubted.is_none());
    }
}

/// `hot` counts, and not the fields that it stands for.
#[test]
fn what_every_message_changes_is_read_from_one_field() {
    let fields = [
        ("owner", "o"),
        ("incarnation", "i"),
        ("generation", "4"),
        ("epoch", "77"),
        ("in_seq", "9"),
        ("in_claimed", "8"),
        ("s:g:seq", "11"),
        ("s:g:first", "10"),
        ("s:g:bytes", "120"),
        ("a:g", "i-2 13"),
        ("hot", "4 77 20 500 1 31 12 300 5 19 31"),
    ];
    let (head, is_sound) = read(&fields);
    assert!(is_sound);
    assert_eq!((head.in_seq, head.in_claimed), (20, 20));
    let stream = &head.streams["g"];
    assert_eq!((stream.last_seq, stream.first_seq, stream.bytes, stream.gone), (31, 12, 300, 5));
    assert!(stream.holder.is_some());
    for bad in [
        "",
        "4",
        "4 77 20 500 1 31 12 300 5 19 31 1",
        "4 77 20 500 1 31 12 300 5 x 31",
        "4 77 -1 500 1 31 12 300 5 19 31",
    ] {
        let (_, is_sound) = read(&[&fields[..10], &[("hot", bad)]].concat());
        assert!(!is_sound, "{bad:?}");
    }
}

proptest! {
    #[test]
    fn a_hot_field_is_read_as_it_was_written(numbers in prop::collection::vec(any::<u64>(), 10), epoch: u32) {
        let mut words: Vec<String> = numbers.iter().map(u64::to_string).collect();
        words.insert(1, epoch.to_string());
        let text = words.join(" ");
        prop_assert_eq!(Hot::read(&text).unwrap().to_string(), text);
    }
}
