//! Tasks of a server of this era (`io.modelcontextprotocol/tasks`): a task is known to the server that made it and to no other,
//! so what its client is given as `taskId` names that server, sealed ([`Handle`]). What is asked about it goes there and nowhere
//! else.

use std::time::Duration;

use super::{
    seal::Seal,
    state::{self, Name},
};
use crate::{
    protocol::{
        jsonrpc::Head,
        members::Members,
        modern::{ACKNOWLEDGED, edit, meta, result},
    },
    store::Binding,
    upstream::Endpoint,
};
use bytes::Bytes;

/// What a server tells of a task to who listens.
const CHANGED: &str = "notifications/tasks";

/// Bytes of the length of the scopes.
const LENGTH: usize = 2;

/// It is asked about a task.
pub(super) fn is_about(method: &str) -> bool {
    matches!(method, "tasks/get" | "tasks/update" | "tasks/cancel")
}

fn purpose(service: &str) -> String {
    format!("task of {service}")
}

/// What a client is given as `taskId`, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handle {
    /// The server that made the task.
    pub(super) endpoint: Name,
    /// Its id there.
    pub(super) id: String,
}

/// Of one service, for one principal.
pub(super) struct Handles<'h> {
    pub(super) seal: &'h Seal,
    pub(super) service: &'h str,
    pub(super) by: &'h Binding,
}

impl Handles<'_> {
    /// What the client shows. `None`: it was not given this, or by a stronger credential. SEC-1
    pub(super) fn open(&self, shown: &str) -> Option<Handle> {
        let payload = self.seal.open(&purpose(self.service), self.by.principal(), shown)?;
        let (endpoint, rest) = payload.split_at_checked(size_of::<Name>())?;
        let (length, rest) = rest.split_at_checked(LENGTH)?;
        let (scopes, id) = rest.split_at_checked(u16::from_be_bytes(length.try_into().ok()?).into())?;
        let scopes = std::str::from_utf8(scopes).ok()?.split(' ').filter(|scope| !scope.is_empty());
        if !Binding::new(self.by.principal(), scopes).admits(self.by) {
            return None;
        }
        Some(Handle { endpoint: endpoint.try_into().ok()?, id: std::str::from_utf8(id).ok()?.to_owned() })
    }

    fn close(&self, from: &Endpoint, id: &str, life: Duration) -> Option<String> {
        let scopes = self.by.scopes().as_bytes();
        let length = u16::try_from(scopes.len()).ok()?.to_be_bytes();
        let payload = [&state::name(from)[..], &length, scopes, id.as_bytes()].concat();
        Some(self.seal.close(&purpose(self.service), self.by.principal(), life, &payload))
    }

    /// The response to a call with the handle of the task that it has become in place of the id. `None`: it has become none.
    pub(super) fn sealed(&self, response: &[u8], from: &Endpoint, life: Duration) -> Option<Bytes> {
        let said = result::Said::of(Head::parse(response).ok()?.result?.get())?;
        let id: String = serde_json::from_str(said.task_id.filter(|_| said.kind() == result::TASK)?.get()).ok()?;
        result::with_members(response, &[("taskId", &text(&self.close(from, &id, life)?))])
    }
}

fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A request about the task of this id at its server.
pub(super) fn asked(request: &[u8], id: &str) -> Option<Bytes> {
    meta::with_params(request, &[], &[("taskId", &text(id))])
}

/// What the server says of a task, as its client knows it: by this handle. A result without an id stays as it is.
pub(super) fn told(response: &Bytes, shown: &str) -> Bytes {
    let result = Head::parse(response).ok().and_then(|head| head.result);
    let names_one = result.and_then(|result| Members::of(result.get())?.get("taskId").map(drop)).is_some();
    let with_handle = || result::with_members(response, &[("taskId", &text(shown))]);
    names_one.then(with_handle).flatten().unwrap_or_else(|| response.clone())
}

/// Tasks that a client listens to: those of one server, since there is one stream.
#[derive(Debug, Default, Clone)]
pub(super) struct Watched {
    /// The server.
    pub(super) endpoint: Name,
    /// The ids there, and the handles by which the client knows them.
    ids: Vec<(String, String)>,
}

/// A client asks to hear of tasks (`notifications`, JSON text), in whatever form.
pub(super) fn are_wanted(notifications: &str) -> bool {
    Members::of(notifications).is_some_and(|members| members.get("taskIds").is_some())
}

fn param<'m>(message: &'m [u8], name: &str) -> Option<&'m str> {
    Members::of(Head::parse(message).ok()?.params?.get())?.get(name)
}

fn task_ids(message: &[u8]) -> Option<Vec<String>> {
    serde_json::from_str(Members::of(param(message, "notifications")?)?.get("taskIds")?).ok()
}

/// The message about other tasks; none of them: about none.
fn with_task_ids(message: &[u8], ids: &[&str]) -> Option<Bytes> {
    let notifications = param(message, "notifications")?;
    let ids = serde_json::to_string(ids).ok()?;
    let puts = [("taskIds", ids.as_str())];
    let puts = if ids == "[]" { &[][..] } else { &puts };
    let notifications = edit::edited(notifications, |name| name == "taskIds", puts)?;
    meta::with_params(message, &[], &[("notifications", &notifications)])
}

impl Watched {
    /// What a client asks to hear of, as the server of the first task gets it; and as all others do: without tasks. `None`: it
    /// cannot be read.
    pub(super) fn of(request: &[u8], handles: &Handles<'_>) -> Option<(Option<Self>, Bytes, Bytes)> {
        let shown = task_ids(request).unwrap_or_default();
        let opened = shown.into_iter().filter_map(|shown| Some((handles.open(&shown)?, shown)));
        let mut watched: Option<Self> = None;
        for (handle, shown) in opened {
            let of = watched.get_or_insert_with(|| Self { endpoint: handle.endpoint, ids: Vec::new() });
            if of.endpoint == handle.endpoint {
                of.ids.push((handle.id, shown));
            }
        }
        let ids: Vec<&str> = watched.iter().flat_map(|watched| &watched.ids).map(|(id, _)| id.as_str()).collect();
        let there = with_task_ids(request, &ids)?;
        let elsewhere = with_task_ids(request, &[])?;
        Some((watched, there, elsewhere))
    }

    fn shown(&self, id: &str) -> Option<&str> {
        self.ids.iter().find(|(known, _)| known == id).map(|(_, shown)| shown.as_str())
    }

    /// What the server says on the stream, as its client knows it. `None`: it is about a task that was not asked about.
    pub(super) fn told(&self, notification: &Bytes) -> Option<Bytes> {
        let head = Head::parse(notification).ok()?;
        match head.method() {
            Some(CHANGED) => {
                let id: String = serde_json::from_str(param(notification, "taskId")?).ok()?;
                asked(notification, self.shown(&id)?)
            }
            Some(ACKNOWLEDGED) => match task_ids(notification) {
                Some(ids) => {
                    let shown: Vec<&str> = ids.iter().filter_map(|id| self.shown(id)).collect();
                    with_task_ids(notification, &shown)
                }
                None => Some(notification.clone()),
            },
            _ => Some(notification.clone()),
        }
    }
}

/// As [`Watched::told`] for a stream on which no tasks were asked about.
pub(super) fn is_of_no_task(notification: &[u8]) -> bool {
    Head::parse(notification).map_or(true, |head| head.method() != Some(CHANGED))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        metrics::Metrics,
        settings::{EraSetting, Transport},
        upstream::Pool,
    };

    const LIFE: Duration = Duration::from_secs(60);

    fn endpoint(url: &str) -> std::sync::Arc<Endpoint> {
        let hour = Duration::from_secs(3600);
        let spoken = (Transport::Auto, EraSetting::Modern);
        let pool = Pool::new([("s".to_owned(), vec![url.parse().unwrap()])], &Metrics::new(), spoken, 1, hour, hour);
        std::sync::Arc::clone(&pool.only_service().unwrap().endpoints()[0])
    }

    fn by(principal: &str, scopes: &[&str]) -> Binding {
        Binding::new(principal, scopes.iter().copied())
    }

    fn json_of(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    /// SEC-1
    #[test]
    fn a_task_is_reached_at_its_server_by_whom_it_was_given_to_and_by_no_weaker_credential() {
        let (seal, alice) = (Seal::new(b"secret"), by("token:alice", &["a", "b"]));
        fn of<'h>(seal: &'h Seal, service: &'h str, by: &'h Binding) -> Handles<'h> {
            Handles { seal, service, by }
        }
        let from = endpoint("http://h:1/mcp");
        let response = br#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"task","taskId":"t\"1","status":"working"}}"#;
        let sealed = of(&seal, "s", &alice).sealed(response, &from, LIFE).unwrap();
        let shown = json_of(&sealed)["result"]["taskId"].as_str().unwrap().to_owned();
        assert!(!shown.contains("t\"1") && json_of(&sealed)["result"]["status"] == "working");
        let expected = Handle { endpoint: state::name(&from), id: "t\"1".to_owned() };
        assert_eq!(of(&seal, "s", &alice).open(&shown), Some(expected.clone()));
        let stronger = by("token:alice", &["a", "b", "c"]);
        assert_eq!(of(&seal, "s", &stronger).open(&shown), Some(expected));
        for (service, other) in [
            ("t", alice.clone()),
            ("s", by("token:bob", &["a", "b"])),
            ("s", by("token:alice", &["a"])),
            ("s", by("token:alice", &[])),
        ] {
            assert_eq!(of(&seal, service, &other).open(&shown), None, "{service} {other:?}");
        }
        assert_eq!(of(&seal, "s", &alice).open("t\"1"), None, "the server's own id is nothing here");
        for none in [
            &br#"{"jsonrpc":"2.0","id":1,"result":{"taskId":"t","content":[]}}"#[..],
            br#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"task"}}"#,
            br#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#,
        ] {
            assert_eq!(of(&seal, "s", &alice).sealed(none, &from, LIFE), None);
        }
    }

    #[test]
    fn a_client_knows_its_task_by_the_handle_alone() {
        let request = br#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"handle","_meta":{}}}"#;
        assert_eq!(json_of(&asked(request, "t").unwrap())["params"], json!({ "taskId": "t", "_meta": {} }));
        let about = br#"{"jsonrpc":"2.0","id":1,"result":{"taskId":"t","status":"completed","result":{"taskId":"x","n":1e400}}}"#;
        assert_eq!(
            told(&Bytes::from_static(about), "handle"),
            &br#"{"jsonrpc":"2.0","id":1,"result":{"taskId":"handle","status":"completed","result":{"taskId":"x","n":1e400}}}"#[..]
        );
        let done = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}"#);
        assert_eq!(told(&done, "handle"), done);
    }

    #[test]
    fn who_listens_hears_of_his_tasks_at_one_server_and_of_no_others() {
        let (seal, alice) = (Seal::new(b"secret"), by("key:alice", &[]));
        let handles = Handles { seal: &seal, service: "s", by: &alice };
        let (one, other) = (endpoint("http://h:1/mcp"), endpoint("http://h:2/mcp"));
        let [a, b, c] = [(&one, "a"), (&other, "b"), (&one, "c")].map(|(at, id)| handles.close(at, id, LIFE).unwrap());
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {
            "notifications": { "toolsListChanged": true, "taskIds": [a, b, "forged", c] } } });
        let (watched, there, elsewhere) = Watched::of(request.to_string().as_bytes(), &handles).unwrap();
        let watched = watched.unwrap();
        assert_eq!(watched.endpoint, state::name(&one));
        let wanted = |message: &[u8]| json_of(message)["params"]["notifications"].clone();
        assert_eq!(wanted(&there), json!({ "toolsListChanged": true, "taskIds": ["a", "c"] }));
        assert_eq!(wanted(&elsewhere), json!({ "toolsListChanged": true }), "ids mean nothing to another server");

        let said = |method: &str, params: Value| {
            Bytes::from(json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string())
        };
        let acknowledged = said(ACKNOWLEDGED, json!({ "notifications": { "taskIds": ["c", "z"] } }));
        assert_eq!(wanted(&watched.told(&acknowledged).unwrap()), json!({ "taskIds": [c] }));
        let changed = |id: &str| said(CHANGED, json!({ "taskId": id, "status": "working" }));
        assert_eq!(json_of(&watched.told(&changed("c")).unwrap())["params"]["taskId"], c);
        assert_eq!(watched.told(&changed("z")), None);
        let list = said("notifications/tools/list_changed", json!({}));
        assert_eq!(watched.told(&list), Some(list.clone()));
        assert!(is_of_no_task(&list) && !is_of_no_task(&changed("c")));
        // Nothing that a client writes there comes to a server as it is.
        for odd in [r#"["a",5]"#, r#""a""#, r#"["a"],"taskIds":["c"]"#, r#"["a"],"task\u0049ds":["c"]"#] {
            let notifications = format!(r#"{{"taskIds":{odd}}}"#);
            assert!(are_wanted(&notifications), "{odd}");
            let request =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"notifications":{notifications}}}}}"#);
            let (watched, there, _) = Watched::of(request.as_bytes(), &handles).unwrap();
            assert!(watched.is_none() && wanted(&there) == json!({}), "{odd}");
        }
        assert!(!are_wanted("{}") && !are_wanted("[]"));
    }
}
