//! Tasks of servers of MCP 2026-07-28 (the extension `io.modelcontextprotocol/tasks`): each is known to one server alone, and is
//! found there from any instance.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{
    Cluster, ModernClient, StatelessServer,
    cluster::SERVICE,
    event_stream::{EventStream, Opened},
};

const TASKS: &str = "io.modelcontextprotocol/tasks";

fn client() -> ModernClient {
    ModernClient::of(SERVICE).declaring(json!({ "extensions": { TASKS: {} }, "elicitation": {} }))
}

/// Two servers whose tasks have the same ids, behind two instances.
async fn two_servers() -> (Cluster, [StatelessServer; 2], tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let start = async |name| StatelessServer::start(dir.path(), name, &[("TASKS", "1")]).await;
    let servers = [start("one").await, start("two").await];
    let cluster = Cluster::builder().routers(2).upstream_urls(servers.iter().map(StatelessServer::url)).start().await;
    (cluster, servers, dir)
}

async fn begin(cluster: &Cluster) -> String {
    let begun = client().tool(cluster.addr(0), "as_task", json!({})).await;
    assert_eq!((&begun.result()["resultType"], &begun.result()["status"]), (&json!("task"), &json!("working")));
    begun.result()["taskId"].as_str().unwrap().to_owned()
}

/// Gives the task its word, at the other instance, and says which server it has reached.
async fn complete(cluster: &Cluster, task: &str) -> String {
    let addr = cluster.addr(1);
    let about = json!({ "taskId": task });
    let asks = client().call(addr, "tasks/get", about.clone()).await;
    assert_eq!((&asks.result()["status"], &asks.result()["taskId"]), (&json!("input_required"), &json!(task)));
    let (key, _) = asks.result()["inputRequests"].as_object().unwrap().iter().next().unwrap();
    let mut update = about.clone();
    update["inputResponses"] = json!({ key: { "action": "accept", "content": { "word": "yes" } } });
    assert_eq!(client().call(addr, "tasks/update", update).await.result(), &json!({ "resultType": "complete" }));
    let ended = client().call(addr, "tasks/get", about).await.result().clone();
    assert_eq!(ended["status"], "completed", "{ended}");
    let text = ended["result"]["content"][0]["text"].as_str().unwrap();
    text.strip_suffix(": yes").unwrap().to_owned()
}

/// One task of each server, by its name, not completed.
async fn one_of_each(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for _ in 0..100 {
        let (task, other) = (begin(cluster).await, begin(cluster).await);
        // Which server it is tells one that was made with it.
        let (handle, name) = (task.clone(), complete(cluster, &other).await);
        if same_server(&task, &other) {
            found.insert(name, handle);
        }
        if found.len() == 2 {
            return found;
        }
    }
    panic!("one server alone makes tasks: {found:?}");
}

/// The name of the server stands in the handle, behind its tag and its time.
fn same_server(one: &str, other: &str) -> bool {
    let name = |handle: &str| {
        let bytes = data_encoding::BASE64URL_NOPAD.decode(handle.as_bytes()).unwrap();
        bytes[40..48].to_vec()
    };
    name(one) == name(other)
}

#[tokio::test]
async fn a_task_is_asked_about_at_the_server_that_has_made_it_from_any_instance() {
    let (cluster, mut servers, _dir) = two_servers().await;
    let discovered = client().call(cluster.addr(0), "server/discover", json!({})).await;
    assert!(discovered.result()["capabilities"]["extensions"][TASKS].is_object());
    let tasks = one_of_each(&cluster).await;
    for (name, task) in &tasks {
        assert!(!task.contains("task-"));
        assert_eq!(complete(&cluster, task).await, *name);
    }
    let cancelled = json!({ "taskId": begin(&cluster).await });
    client().call(cluster.addr(1), "tasks/cancel", cancelled.clone()).await.result();
    assert_eq!(client().call(cluster.addr(0), "tasks/get", cancelled).await.result()["status"], "cancelled");

    // The server's own ids are nothing to a client, nor is what others have made.
    for foreign in ["task-1", "", "AAAA"] {
        let about = json!({ "taskId": foreign });
        assert_eq!(client().call(cluster.addr(0), "tasks/get", about).await.error_code(), -32602, "{foreign}");
    }
    let undeclared =
        ModernClient::of(SERVICE).call(cluster.addr(0), "tasks/get", json!({ "taskId": tasks["one"] })).await;
    assert_eq!(undeclared.error_code(), -32021);
    // Nobody else is asked in its place, who may have a task of the same id.
    servers[0].kill();
    let lost = client().call(cluster.addr(1), "tasks/get", json!({ "taskId": tasks["one"] })).await;
    assert_eq!(
        (lost.error_code(), &lost.response["error"]["data"]["retry"]),
        (-32603, &json!(true)),
        "{}",
        lost.response
    );
}

async fn next(stream: &mut EventStream) -> Value {
    serde_json::from_str(&stream.event().await.data).unwrap()
}

#[tokio::test]
async fn who_listens_to_tasks_hears_of_those_of_one_server_by_their_handles() {
    let (cluster, _servers, _dir) = two_servers().await;
    let tasks = one_of_each(&cluster).await;
    let (mine, others) = (&tasks["two"], &tasks["one"]);
    let wanted = json!({ "notifications": { "taskIds": [mine, others, "task-1"] } });
    let opened = client().open(cluster.addr(0), &json!(5), "subscriptions/listen", wanted).await.unwrap();
    let Opened::Stream(mut stream) = opened else { panic!("no stream") };
    let acknowledged = next(&mut stream).await;
    assert_eq!(acknowledged["params"]["notifications"], json!({ "taskIds": [mine] }));
    for task in [others, mine] {
        complete(&cluster, task).await;
    }
    let told = next(&mut stream).await;
    assert_eq!((&told["method"], &told["params"]["taskId"]), (&json!("notifications/tasks"), &json!(mine)));
    assert_eq!(told["params"]["result"]["content"][0]["text"], "two: yes");
}

/// Across the bridge there are no tasks: a client with a session cannot know them, and a call with a key is in a session.
#[tokio::test]
async fn a_server_with_tasks_makes_none_for_clients_of_sessions_or_calls_with_a_key() {
    let (cluster, _servers, _dir) = two_servers().await;
    let keyed = client().header("idempotency-key", "one").tool(cluster.addr(0), "as_task", json!({})).await;
    assert_eq!(keyed.error_code(), -32602, "{}", keyed.response);
    let session = cluster.client().initialize().await;
    let id = session.start_call("as_task", json!({})).await;
    let told = session.response(id).await;
    assert_eq!(told["error"]["code"], -32602, "{told}");
}
