use proptest::prelude::*;

use super::*;

const REQUEST: &str = r#"{"jsonrpc":"2.0","id":"mine","method":"initialize","params":{"a":[1, 2]}}"#;
const RESULT: &str = r#"{"capabilities":{"tools":{"listChanged":true},"prompts":{}},"serverInfo":{"name":"x"}}"#;

fn id(number: usize) -> IdKey {
    IdKey::from_stored(number.to_string())
}

fn answer() -> NewEvent {
    NewEvent::answer("1".into(), Bytes::from_static(b"{}"))
}

fn answered(setup: &mut Setup, method: &str, body: &str, result: Option<&str>) -> Vec<HeadChange> {
    let effect = Effect::of(method, &Bytes::from(body.to_owned()), || 7);
    setup.answered(effect, result, || "http://server".to_owned(), answer()).changes
}

fn initialized() -> Setup {
    let mut setup = Setup::default();
    answered(&mut setup, mcp::INITIALIZE, REQUEST, Some(RESULT));
    setup
}

fn rest(setup: &Setup) -> Vec<String> {
    let mut number = 0;
    let next_id = || {
        number += 1;
        id(number)
    };
    setup.rest(next_id).iter().map(text).collect()
}

#[test]
fn a_new_upstream_session_hears_the_clients_own_words_under_ids_of_the_router() {
    let mut setup = initialized();
    assert_eq!(text(&setup.replayed_initialize(&id(9)).unwrap()), REQUEST.replace(r#""mine""#, "9"));
    assert!(rest(&setup).is_empty(), "the client has not said so");
    assert!(setup.says_initialized());
    let level = r#"{"jsonrpc":"2.0","id":4,"method":"logging/setLevel","params":{"level":"debug"}}"#;
    let watch = r#"{"jsonrpc":"2.0","id":5,"method":"resources/subscribe","params":{"uri":"file:///a"}}"#;
    answered(&mut setup, mcp::SET_LEVEL, level, None);
    answered(&mut setup, mcp::SUBSCRIBE, watch, None);
    let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let replayed = |text: &str, from, to| text.replace(from, to);
    assert_eq!(
        rest(&setup),
        [note.to_owned(), replayed(level, r#""id":4"#, r#""id":1"#), replayed(watch, r#""id":5"#, r#""id":2"#)]
    );
    answered(&mut setup, mcp::UNSUBSCRIBE, &watch.replace("subscribe", "unsubscribe"), None);
    assert!(setup.has_no_subscriptions() && rest(&setup).len() == 2);
}

/// The version that the client is to name in its requests is put on record with the answer that it reads it in.
#[test]
fn the_version_is_the_one_that_the_client_was_told() {
    let mut setup = initialized();
    assert_eq!(setup.version(), None, "the server did not say");
    let result = r#"{"protocolVersion":"2025-06-18","capabilities":{}}"#;
    let changes = answered(&mut setup, mcp::INITIALIZE, REQUEST, Some(result));
    assert!(changes.contains(&HeadChange::Version(Some("2025-06-18".to_owned()))), "{changes:?}");
    assert_eq!(setup.version(), Some("2025-06-18"));
    let mut record = Continuation::default();
    setup.put(&mut record);
    assert_eq!(record.version.as_deref(), setup.version());
    assert_eq!(Setup::inherit(&mut record).version(), setup.version());
    let mut assumed = Setup::default();
    assumed.assume();
    assumed.answered_again(result);
    assert_eq!(assumed.version(), None, "nobody was told");
}

#[test]
fn a_client_that_has_set_up_nothing_finds_nothing_replayed() {
    let setup = Setup::default();
    assert!(setup.replayed_initialize(&id(1)).is_none() && rest(&setup).is_empty());
    assert!(!setup.is_done() && setup.told().is_none() && setup.lists_that_change().is_empty());
    for (method, missing) in [
        ("tools/call", true),
        (mcp::SET_LEVEL, true),
        (mcp::INITIALIZE, false),
        (mcp::PING, false),
        (mcp::DISCOVER, false),
    ] {
        assert_eq!(setup.is_missing_for(method), missing, "{method}");
        assert!(!initialized().is_missing_for(method));
    }
}

#[test]
fn other_capabilities_than_the_client_was_told_are_seen_and_do_not_become_what_it_was_told() {
    let mut setup = initialized();
    for (result, expected) in [
        (RESULT, Again::Same),
        (r#"{"serverInfo":{"name":"y"},"capabilities":{"prompts":{}, "tools":{"listChanged":true}}}"#, Again::Same),
        (r#"{"capabilities":{"prompts":{}}}"#, Again::Differs),
        ("{}", Again::Differs),
    ] {
        assert_eq!(setup.answered_again(result), expected, "{result}");
        assert_eq!(setup.told(), Some(RESULT));
    }
    assert_eq!(setup.lists_that_change(), ["tools"]);
}

#[test]
fn the_routers_own_handshake_stands_until_the_client_makes_one() {
    let mut setup = Setup::default();
    let changes = setup.assume();
    assert!(changes.contains(&HeadChange::Assumed(true)));
    assert!(setup.is_done() && setup.is_assumed() && setup.told().is_none(), "the client was told nothing");
    assert!(!setup.says_initialized(), "the server was told");
    let Again::Assumed(changes) = setup.answered_again(RESULT) else { panic!("nobody was told") };
    assert!(changes.contains(&HeadChange::InitializeResult(RESULT.to_owned())));
    assert_eq!(setup.lists_that_change(), ["tools"]);

    setup.begins();
    let changes = answered(&mut setup, mcp::INITIALIZE, REQUEST, Some("{}"));
    assert!(changes.contains(&HeadChange::Assumed(false)));
    assert_eq!(setup.told(), Some("{}"));
    assert!(setup.says_initialized(), "its own is told to the server, too");
    setup.begins();
    assert!(!setup.says_initialized(), "once");
}

#[test]
fn only_what_sets_up_something_has_an_effect() {
    let body = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"uri":"u","cursor":"c"}}"#);
    let text = text(&body);
    for (method, expected) in [
        ("tools/call", Effect::None),
        (mcp::INITIALIZE, Effect::Initialize(body.clone())),
        (mcp::SET_LEVEL, Effect::LogLevel(text.clone())),
        (mcp::SUBSCRIBE, Effect::Subscribe("u".to_owned(), text)),
        (mcp::UNSUBSCRIBE, Effect::Unsubscribe("u".to_owned())),
        (mcp::LIST_TOOLS, Effect::Tools { first: false, version: 7 }),
    ] {
        assert_eq!(Effect::of(method, &body, || 7), expected, "{method}");
    }
    assert_eq!(Effect::of(mcp::SUBSCRIBE, &Bytes::from_static(b"{}"), || 7), Effect::None, "of nothing");
}

#[derive(Debug, Clone)]
enum Step {
    Initialize(String),
    SaysInitialized,
    Assume,
    Level(u8),
    Subscribe(u8),
    Unsubscribe(u8),
    NewLink(String),
}

fn step() -> impl Strategy<Value = Step> {
    let versioned = r#"{"protocolVersion":"2025-06-18","capabilities":{}}"#;
    let result = move || prop_oneof![Just("{}".to_owned()), Just(RESULT.to_owned()), Just(versioned.to_owned())];
    prop_oneof![
        result().prop_map(Step::Initialize),
        Just(Step::SaysInitialized),
        Just(Step::Assume),
        any::<u8>().prop_map(Step::Level),
        (0..3_u8).prop_map(Step::Subscribe),
        (0..3_u8).prop_map(Step::Unsubscribe),
        result().prop_map(Step::NewLink),
    ]
}

fn put_on_record(record: &mut Continuation, changes: Vec<HeadChange>) {
    for change in changes {
        match change {
            HeadChange::InitializeRequest(request) => record.initialize_request = Some(request),
            HeadChange::InitializeResult(result) => record.initialize_result = Some(result),
            HeadChange::Version(version) => record.version = version,
            HeadChange::Initialized(how) => record.initialized = Some(how),
            HeadChange::Assumed(assumed) => record.assumed = assumed,
            HeadChange::LogLevel(request) => record.log_level = Some(request),
            HeadChange::Subscribed { uri, request } => drop(record.subscriptions.insert(uri, request)),
            HeadChange::Unsubscribed { uri } => drop(record.subscriptions.remove(&uri)),
            HeadChange::Endpoint(_) => {}
            other => panic!("not the setup's: {other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// OWN-5: whatever a client does, an heir that reads what was put on record sets up the same, and so does one that
    /// reads a session that was written again.
    #[test]
    fn an_heir_sets_up_what_the_owner_would(steps in prop::collection::vec(step(), 0..40)) {
        let (mut setup, mut record) = (Setup::default(), Continuation::default());
        for step in steps {
            let changes = match step {
                Step::Initialize(result) => {
                    if setup.told().is_some() {
                        continue;
                    }
                    setup.begins();
                    answered(&mut setup, mcp::INITIALIZE, REQUEST, Some(&result))
                }
                Step::SaysInitialized => {
                    setup.says_initialized();
                    // As its journaling does.
                    vec![HeadChange::Initialized(Initialized::WithVersion)]
                }
                Step::Assume if setup.is_done() => continue,
                Step::Assume => setup.assume(),
                Step::Level(level) => {
                    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"level":{level}}}}}"#);
                    answered(&mut setup, mcp::SET_LEVEL, &body, None)
                }
                Step::Subscribe(uri) => {
                    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"uri":"{uri}"}}}}"#);
                    answered(&mut setup, mcp::SUBSCRIBE, &body, None)
                }
                Step::Unsubscribe(uri) => {
                    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"uri":"{uri}"}}}}"#);
                    answered(&mut setup, mcp::UNSUBSCRIBE, &body, None)
                }
                Step::NewLink(result) => match setup.answered_again(&result) {
                    Again::Assumed(changes) => changes,
                    Again::Same | Again::Differs => continue,
                },
            };
            put_on_record(&mut record, changes);
            let mut again = Continuation::default();
            setup.put(&mut again);
            for mut found in [record.clone(), again] {
                let heir = Setup::inherit(&mut found);
                prop_assert_eq!(heir.replayed_initialize(&id(0)), setup.replayed_initialize(&id(0)));
                prop_assert_eq!((heir.told(), heir.is_assumed()), (setup.told(), setup.is_assumed()));
                prop_assert_eq!(heir.lists_that_change(), setup.lists_that_change());
                // One that finds the note of a client whose handshake is not done yet tells the server once more.
                let is_settled = setup.initialized || record.initialized.is_none();
                if is_settled {
                    prop_assert_eq!(rest(&heir), rest(&setup));
                }
            }
        }
    }
}
