use bytes::Bytes;

use super::*;

fn policy(text: &str) -> Policy {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    std::fs::write(&path, text).unwrap();
    Policy::new(&PolicyFile::read(&path).unwrap())
}

const RULES: &str = r#"
    [[rule]]
    name = "ci-reads"
    who = ["key:ci*"]
    services = ["a"]
    methods = ["tools/*", "resources/read"]
    tools = ["get*", "echo"]
    resources = ["file:///public/*"]

    [[rule]]
    name = "writers"
    who = ["token:*"]
    scopes = ["mcp:write"]

    [[rule]]
    name = "readers"
    who = ["token:*"]
    tools = ["get*"]
"#;

fn judge(grant: &Grant, message: &str) -> Verdict {
    grant.judge(&Head::parse(message.as_bytes()).unwrap(), message.as_bytes())
}

fn request(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

/// SEC-7
#[test]
fn what_no_rule_allows_is_refused() {
    let policy = policy(RULES);
    let ci = policy.grant("key:ci-1", "a", |_| false);
    for (method, params, expected) in [
        ("initialize", "{}", true),
        ("ping", "{}", true),
        ("tools/list", "{}", true),
        ("tools/call", r#"{"name":"getPerson"}"#, true),
        ("tools/call", r#"{"name":"echo","arguments":{"name":"delete"}}"#, true),
        ("tools/call", r#"{"name":"delete"}"#, false),
        ("tools/call", r#"{"name":"getPerson","name":"delete"}"#, false),
        ("tools/call", r#"{"name":"getPerson","Name":"delete"}"#, false),
        ("tools/call", r#"{"name":"getPerson","NAME":"delete"}"#, false),
        ("tools/call", r#"{"name":"getPerson","n\u0061me":"delete"}"#, false),
        ("tools/call", r#"{"Name":"getPerson"}"#, false),
        ("tools/call", r#"{"name":["getPerson"]}"#, false),
        ("tools/call", r#"["getPerson"]"#, false),
        ("tools/call", "{}", false),
        ("resources/read", r#"{"uri":"file:///public/x"}"#, true),
        ("resources/read", r#"{"uri":"file:///public/x..y/..z"}"#, true),
        ("resources/read", r#"{"uri":"file:///secret"}"#, false),
        // Readers of URLs and of paths make file:///secret of these.
        ("resources/read", r#"{"uri":"file:///public/../secret"}"#, false),
        ("resources/read", r#"{"uri":"file:///public/%2e%2E/secret"}"#, false),
        ("resources/read", r#"{"uri":"file:///public/..%2fsecret"}"#, false),
        ("resources/read", r#"{"uri":"file:///public/..\\secret"}"#, false),
        ("resources/read", r#"{"uri":"file:///public/.\t./secret"}"#, false),
        ("resources/read", r#"{"uri":"file:///public/x/../.."}"#, false),
        ("resources/subscribe", r#"{"uri":"file:///public/x"}"#, false),
        ("prompts/list", "{}", false),
        ("completion/complete", r#"{"ref":{"type":"ref/prompt","name":"x"}}"#, false),
        ("logging/setLevel", "{}", false),
    ] {
        let verdict = judge(&ci, &request(method, params));
        assert_eq!(verdict == Verdict::Allowed, expected, "{method} {params}: {verdict:?}");
        if let Verdict::Refused { what, rules } = verdict {
            assert!(what.starts_with(method) && rules == "ci-reads", "{what}");
        }
    }
    // Of two methods some server would read the other one.
    let two = r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call","params":{"name":"delete"}}"#;
    assert_ne!(judge(&ci, two), Verdict::Allowed);
    // Go takes `ſ` for s, in the names of members.
    for params in ["param\u{17f}", "PARAM\u{17f}", "param\\u017f"] {
        let two = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo"}},"{params}":{{"name":"delete"}}}}"#
        );
        assert_ne!(judge(&ci, &two), Verdict::Allowed, "{two}");
    }
    let any = policy.grant("token:alice", "a", |_| true);
    let above = request("resources/read", r#"{"uri":"file:///public/../secret"}"#);
    assert_eq!(judge(&any, &above), Verdict::Allowed, "a rule without a pattern is about all resources");
    for nobody in [policy.grant("key:ci", "b", |_| true), policy.grant("key:x", "a", |_| true)] {
        for method in ["initialize", "ping", "tools/list"] {
            assert_ne!(judge(&nobody, &request(method, "{}")), Verdict::Allowed);
        }
    }
}

#[test]
fn scopes_that_would_be_enough_are_named() {
    let policy = policy(RULES);
    let weak = policy.grant("token:alice", "a", |_| false);
    let strong = policy.grant("token:alice", "a", |scope| scope == "mcp:write");
    let delete = request("tools/call", r#"{"name":"delete"}"#);
    assert_eq!(judge(&weak, &delete), Verdict::Lacks(vec!["mcp:write".to_owned()]));
    assert_eq!(judge(&strong, &delete), Verdict::Allowed);
    assert_eq!(judge(&weak, &request("tools/call", r#"{"name":"getX"}"#)), Verdict::Allowed);
    assert_eq!((weak.names(), strong.names()), ("readers".to_owned(), "writers readers".to_owned()));
    assert!(policy.named("writers").shows(List::Tools, "delete"));
    assert!(!policy.named("readers gone").shows(List::Tools, "delete") && !policy.named("").shows(List::Tools, "get"));
}

#[test]
fn a_list_holds_what_its_client_may_have_and_other_bytes_stay() {
    let grant = policy(RULES).grant("key:ci", "a", |_| false);
    let answer = |tools: &str| {
        Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"tools":{tools}, "nextCursor":"c"}}}}"#))
    };
    let (all, some) = (
        answer(r#"[{"name":"getA", "x":1.0},{"name":"delete"},{"name":"echo"}]"#),
        answer(r#"[{"name":"getA", "x":1.0},{"name":"echo"}]"#),
    );
    assert_eq!(filtered(List::Tools, &grant, &all), Some(some.clone()));
    assert_eq!(filtered(List::Tools, &grant, &some), Some(some));
    assert_eq!(filtered(List::Tools, &grant, &answer(r#"[{"Name":"getA"},17]"#)), Some(answer("[]")));
    for broken in [
        answer("7"),
        Bytes::from_static(br#"{"jsonrpc":"2.0","id":7,"result":{"tools":[],"Tools":[{"name":"delete"}]}}"#),
    ] {
        assert_eq!(filtered(List::Tools, &grant, &broken), None);
    }
    let error = Bytes::from_static(br#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":""}}"#);
    assert_eq!(filtered(List::Tools, &grant, &error), Some(error));
}

#[test]
fn a_file_that_says_something_unknown_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    for wrong in [
        "[[rule]]\nname = \"a\"",
        "[[rule]]\nname = \"a\"\nwho = [\"*\"]\ntool = [\"x\"]",
        "[[rule]]\nname = \"a b\"\nwho = [\"*\"]",
        "[[rule]]\nname = \"a\"\nwho = \"*\"",
        "[[rules]]",
        "[[rule]]\nname = \"a\"\nwho = [\"*\"]\n[[rule]]\nname = \"a\"\nwho = [\"*\"]",
    ] {
        std::fs::write(&path, wrong).unwrap();
        assert!(PolicyFile::read(&path).is_err(), "{wrong}");
    }
    std::fs::write(&path, "").unwrap();
    assert!(PolicyFile::read(&path).unwrap().rules().is_empty());
}
