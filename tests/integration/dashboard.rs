//! What operators are shown of the whole deployment at any instance, and what they can do there: the API below `/mcp/router`
//! and the files of the page. What a person sees of it: `browser.rs`.

use serde_json::{Value, json};

use crate::{
    harness::{
        Cluster, EventStream, McpClient, PostTo, cluster, eventually, eventually_some,
        http::{self, Request},
        mcp_client::tool_call,
    },
    principals::key,
};

const TOKEN: &str = "a-token-of-operators";

fn quick() -> cluster::Builder {
    Cluster::builder().short_lease().env("MCP_UI_PUBLISH", "100ms")
}

async fn deployment(cluster: &Cluster, index: usize) -> Value {
    http::get(cluster.addr(index), "/mcp/router/deployment").await.json()
}

fn named<'a>(deployment: &'a Value, id: &str) -> Option<&'a Value> {
    deployment["instances"].as_array()?.iter().find(|instance| instance["id"] == id)
}

fn incidents(deployment: &Value, what: &str) -> Vec<Value> {
    let all = deployment["incidents"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|incident| incident["what"] == what).collect()
}

/// Each instance shows the same of all: who is there, what each does, and where the servers are.
#[tokio::test]
async fn any_instance_shows_the_whole_deployment() {
    let cluster = quick().routers(3).upstreams(2).start().await;
    let client = cluster.client_of(1).initialize().await;
    for index in 0..3 {
        let shown = eventually_some("all have told", || async {
            client.text("echo", json!({ "text": "x" })).await;
            let shown = deployment(&cluster, index).await;
            let told = shown["instances"].as_array()?.iter().filter(|instance| instance["figures"].is_object()).count();
            let rates = named(&shown, "router-instance-2")?["figures"]["rates"].as_array()?.clone();
            let has_calls = rates.iter().any(|sample| sample[0].as_f64() > Some(0.0) && sample[3].as_f64() > Some(0.0));
            (told == 3 && has_calls && rates.len() <= 60).then_some(shown)
        })
        .await;
        let owner = named(&shown, "router-instance-2").unwrap();
        assert_eq!((&owner["isAlive"], &owner["figures"]["phase"]), (&json!(true), &json!("ready")), "{owner}");
        assert_eq!(owner["figures"]["sessions"], 1);
        let servers = owner["figures"]["services"][0]["endpoints"].as_array().unwrap();
        assert_eq!(servers.len(), 2);
        assert!(servers.iter().all(|server| server["state"] == "closed"), "{servers:?}");
        assert_eq!(shown["store"], json!({ "kind": "redis", "isUp": true, "error": null }));
        assert_eq!(shown["isProxied"], false);
        assert_eq!(incidents(&shown, "joined").len(), 3);
        assert!(!shown.to_string().contains(&client.session()), "ids are secrets");
    }
}

/// A killed instance, the adoption of its session and how long that took appear at the others.
#[tokio::test]
async fn a_death_and_what_comes_of_it_are_shown_as_they_happen() {
    let mut cluster = quick().routers(2).start().await;
    let client = McpClient::builder([cluster.addr(1), cluster.addr(0)]).post_to(PostTo::Only(1)).initialize().await;
    eventually("both are shown", || async {
        let shown = deployment(&cluster, 0).await;
        shown["instances"]
            .as_array()
            .is_some_and(|all| all.iter().all(|one| one["figures"].is_object()) && all.len() == 2)
    })
    .await;
    let handle = client.session()[..12].to_owned();
    cluster.routers[1].kill();
    assert_eq!(client.text("echo", json!({ "text": "still there" })).await, "still there");
    let shown = eventually_some("it is told", || async {
        let shown = deployment(&cluster, 0).await;
        let is_told = ["gone", "adopted", "served"].iter().all(|what| incidents(&shown, what).len() == 1);
        is_told.then_some(shown)
    })
    .await;
    let adopted = &incidents(&shown, "adopted")[0];
    assert_eq!((&adopted["session"], &adopted["about"]), (&json!(handle), &json!("router-instance-2")), "{adopted}");
    assert_eq!((&adopted["instance"], &adopted["generation"]), (&json!("router-instance-1"), &json!(2)), "{adopted}");
    let served = &incidents(&shown, "served")[0];
    assert_eq!((&served["session"], &served["generation"]), (&json!(handle), &json!(2)), "{served}");
    assert!(served["tookUs"].as_u64() > Some(0), "{served}");
    assert_eq!(incidents(&shown, "gone")[0]["about"], "router-instance-2");
    assert!(named(&shown, "router-instance-2").is_none_or(|gone| gone["isAlive"] == false), "{shown}");
}

/// DRN-1: what SIGTERM does, an operator can do at any other instance; the last one is not drained.
#[tokio::test]
async fn an_instance_is_drained_from_another_one() {
    let mut cluster = quick().routers(2).start().await;
    let client = McpClient::builder([cluster.addr(1), cluster.addr(0)]).post_to(PostTo::Only(1)).initialize().await;
    let drain = |id: &str| Request::post(format!("/mcp/router/instances/{id}/drain"), "");
    assert_eq!(drain("nobody").send(cluster.addr(0)).await.status, 404);
    eventually_some("it is taken", || async {
        (drain("router-instance-2").send(cluster.addr(0)).await.status == 202).then_some(())
    })
    .await;
    assert_eq!(cluster.routers[1].process().exit_code().await, Some(0));
    assert_eq!(client.text("echo", json!({ "text": "moved" })).await, "moved");
    let shown = eventually_some("its last words", || async {
        let shown = deployment(&cluster, 0).await;
        (incidents(&shown, "drained").len() == 1).then_some(shown)
    })
    .await;
    assert_eq!(incidents(&shown, "draining")[0]["instance"], "router-instance-2");
    assert_eq!(incidents(&shown, "drain_asked")[0]["about"], "router-instance-2");
    let last = drain("router-instance-1").send(cluster.addr(0)).await;
    assert_eq!((last.status, last.json()["error"]["data"]["reason"].clone()), (409, json!("last_instance")));
    // The same id again is another process.
    cluster.routers[1].restart().await;
    eventually("it is ready", || async {
        let shown = deployment(&cluster, 0).await;
        named(&shown, "router-instance-2").is_some_and(|one| one["figures"]["phase"] == "ready")
    })
    .await;
}

/// SEC-2: of a session's messages it is told what became of them, and nothing that they say.
#[tokio::test]
async fn a_timeline_tells_what_became_of_messages_and_not_what_they_say() {
    let audit = tempfile::tempdir().unwrap();
    let log = audit.path().join("audit.log");
    let cluster = quick().env("MCP_AUDIT_LOG", log.display()).start().await;
    let client = cluster.client().initialize().await;
    client.text("echo", json!({ "text": "a secret word" })).await;
    client.post(&tool_call(77, "wait", json!({ "ms": 50_000, "text": "another secret" }))).await;
    let path = format!("/mcp/router/sessions/{}/timeline", &client.session()[..12]);
    let told = eventually_some("all of it", || async {
        let told = http::get(cluster.addr(0), &path).await.json();
        let forwarded = told["pending"].as_array()?.iter().any(|request| request["isForwarded"] == true);
        let lines = told["audit"]["lines"].as_array()?.len();
        (forwarded && lines >= 2 && told["streams"][0]["delivered"].as_u64()? >= 2).then_some(told)
    })
    .await;
    assert_eq!((&told["pending"][0]["request"], &told["pending"][0]["method"]), (&json!("77"), &json!("tools/call")));
    let events = told["streams"][0]["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["answers"].is_string() && event["isDelivered"] == true), "{told}");
    let text = told.to_string();
    assert!(!text.contains("secret") && !text.contains(&client.session()), "{text}");
    assert_eq!(http::get(cluster.addr(0), "/mcp/router/sessions/000000000000/timeline").await.status, 404);
}

/// Sessions are found by their first digits, their owner and their service.
#[tokio::test]
async fn sessions_are_found() {
    let cluster = quick().routers(2).start().await;
    let (first, second) = (cluster.client_of(0).initialize().await, cluster.client_of(1).initialize().await);
    let found = async |query: String| {
        let list = http::get(cluster.addr(0), &format!("/mcp/router/sessions?{query}")).await.json();
        let of = |session: &Value| session["handle"].as_str().unwrap().to_owned();
        let mut found: Vec<String> = list["sessions"].as_array().unwrap().iter().map(of).collect();
        found.sort();
        found
    };
    let handle = |client: &McpClient| client.session()[..12].to_owned();
    let mut both = vec![handle(&first), handle(&second)];
    both.sort();
    assert_eq!(found(format!("q={}", &first.session()[..8])).await, [handle(&first)]);
    assert_eq!(found("owner=router-instance-2".to_owned()).await, [handle(&second)]);
    assert_eq!(found(format!("owner=router-instance-2&q={}", &first.session()[..8])).await, [""; 0]);
    assert_eq!(found("q=Server-V6".to_owned()).await, both);
    assert_eq!(found("q=nothing-like-that".to_owned()).await, [""; 0]);
}

/// SEC-11: it is for operators, and what is done is done by their own page.
#[tokio::test]
async fn the_dashboard_is_for_operators_and_does_nothing_for_other_pages() {
    let cluster = quick().routers(2).env("MCP_ADMIN_TOKEN", TOKEN).start().await;
    let (addr, client) = (cluster.addr(0), cluster.client().initialize().await);
    let session = format!("/mcp/router/sessions/{}", &client.session()[..12]);
    let paths = ["/mcp/router/deployment".to_owned(), format!("{session}/timeline")];
    let asked = |path: &str| Request::get(path).header("x-forwarded-for", "203.0.113.9");
    for path in &paths {
        assert_eq!(asked(path).send(addr).await.status, 403, "{path}");
        let shown = asked(path).header("authorization", &format!("Bearer {TOKEN}")).send(addr).await;
        assert_eq!(shown.status, 200, "{path}");
        // A page of another port of this machine, which may speak MCP.
        let other = Request::get(path).header("origin", "http://localhost:6274").header("sec-fetch-site", "same-site");
        assert_eq!(other.send(addr).await.status, 403, "{path}");
    }
    let drain = "/mcp/router/instances/router-instance-2/drain";
    for request in [Request::delete(&session), Request::post(drain, "")] {
        let foreign = request.clone().header("origin", "http://localhost:6274");
        assert_eq!(foreign.send(addr).await.status, 403);
        let foreign = request.clone().header("sec-fetch-site", "cross-site");
        assert_eq!(foreign.send(addr).await.status, 403);
        let stranger = request.clone().header("x-forwarded-for", "203.0.113.9");
        assert_eq!(stranger.send(addr).await.status, 403);
    }
    // The page itself, also under a name that is no loopback one.
    let own = Request::delete(&session)
        .header("host", "mcp-bridge.local")
        .header("origin", "http://mcp-bridge.local")
        .header("sec-fetch-site", "same-origin");
    assert_eq!(own.send(addr).await.status, 204);
    let shown = eventually_some("it is told", || async {
        let shown = deployment(&cluster, 1).await;
        (!incidents(&shown, "session_deleted").is_empty()).then_some(shown)
    })
    .await;
    assert_eq!(incidents(&shown, "session_deleted")[0]["session"], client.session()[..12].to_owned());
}

/// The page's files: compressed where that is taken, kept by their tags, and under a policy that allows nothing else.
#[tokio::test]
async fn the_page_is_served_with_a_strict_policy() {
    let cluster = quick().without_redis().start().await;
    let addr = cluster.addr(0);
    for (path, kind) in [("/ui/", "text/html"), ("/ui/app.js", "text/javascript"), ("/ui/style.css", "text/css")] {
        let plain = http::get(addr, path).await;
        assert_eq!(plain.status, 200, "{path}");
        assert!(plain.header("content-type").unwrap().starts_with(kind), "{path}");
        let policy = plain.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(plain.header("x-content-type-options"), Some("nosniff"));
        let packed = Request::get(path).header("accept-encoding", "gzip, br").send(addr).await;
        assert_eq!(packed.header("content-encoding"), Some("br"), "{path}");
        assert!(packed.body.len() < plain.body.len(), "{path}");
        let tag = plain.header("etag").unwrap();
        assert_ne!(packed.header("etag"), Some(tag), "another form is another thing");
        assert_eq!(Request::get(path).header("if-none-match", tag).send(addr).await.status, 304);
        assert_eq!(Request::get(path).header("if-none-match", "\"x\"").send(addr).await.status, 200);
    }
    assert_eq!(http::get(addr, "/ui/nothing.js").await.status, 404);
    for path in ["/", "/ui"] {
        let sent = Request::get(path)
            .header("accept", "text/html,*/*;q=0.8")
            .header("x-forwarded-prefix", "/mcp-bridge")
            .header("authorization", &format!("Bearer {TOKEN}"));
        let far = sent.send(addr).await;
        assert_eq!(
            far.status,
            if path == "/" { 404 } else { 403 },
            "no token is set: nobody there could be an operator"
        );
        let near = Request::get(path).header("accept", "text/html").send(addr).await;
        assert_eq!((near.status, near.header("location")), (302, Some("/ui/")), "{path}");
    }
    assert_eq!(http::get(addr, "/").await.status, 404, "programs are sent nowhere");
    let off = quick().without_redis().env("MCP_UI", "off").start().await;
    for path in ["/ui/", "/ui", "/mcp/router/deployment"] {
        assert_eq!(http::get(off.addr(0), path).await.status, 404, "{path}");
    }
}

/// Where clients must show who they are, the page is there for the operator all the same, and a stranger learns nothing.
#[tokio::test]
async fn where_clients_show_who_they_are_the_operators_token_opens_the_dashboard() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let key = key(folder.path(), &keys, "someone");
    let cluster = quick()
        .env("MCP_AUTH", "keys")
        .env("MCP_AUTH_KEYS_FILE", keys.display())
        .env("MCP_ADMIN_TOKEN", TOKEN)
        .start()
        .await;
    let far = |path: &str| Request::get(path).header("x-forwarded-for", "203.0.113.9");
    let addr = cluster.addr(0);
    assert_eq!(far("/ui/").send(addr).await.status, 200);
    assert_eq!(far("/mcp/router/deployment").send(addr).await.status, 401);
    let operator = far("/mcp/router/deployment").header("authorization", &format!("Bearer {TOKEN}"));
    assert_eq!(operator.send(addr).await.status, 200);
    let key = far("/mcp/router/deployment").header("authorization", &format!("Bearer {key}"));
    assert_eq!(key.send(addr).await.status, 403, "a client is no operator");
}

/// While Redis is away there is still something to look at: that.
#[tokio::test]
async fn a_store_that_is_away_is_shown_as_such() {
    let mut cluster = quick().env("REDIS_TIMEOUT", "200ms").start().await;
    let stream = EventStream::open(cluster.addr(0), &Request::get("/sse/mcp-server-v6")).await;
    cluster.redis().kill();
    let shown = eventually_some("it is seen", || async {
        let shown = deployment(&cluster, 0).await;
        (shown["store"]["isUp"] == false).then_some(shown)
    })
    .await;
    assert!(shown["store"]["error"].is_string(), "{shown}");
    drop(stream);
}
