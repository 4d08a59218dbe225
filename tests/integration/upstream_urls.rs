//! URLs of servers: what is secret in them is shown to nobody, credentials are sent, and redirects are followed within the
//! server's own origin.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use crate::harness::{
    Cluster, OddUpstream, eventually,
    http::{self, Request, header},
    mcp_client::{request, tool_call},
    odd_upstream::{Get, Step},
};

const REST: &str = "/mcp/router/route/mcp-server-v6";
const STRANGER: &str = "203.0.113.9";

/// SEC-2: a key in the query, user and password: in no answer to a stranger, and masked for operators, in logs, metrics,
/// errors and the store. What the server gets is whole.
#[tokio::test]
async fn secrets_in_the_url_of_a_server_are_shown_to_nobody() {
    let upstream = OddUpstream::posts(|_| None).await;
    let url = format!("http://us%40er:PASS123@{}/sse?api_key=SECRET123&v=SECRET456", upstream.addr());
    // Another one that is not there: what is said of failures.
    let gone = "http://u:PASS123@127.0.0.1:9/sse?k=SECRET123".to_owned();
    let cluster = Cluster::builder()
        .upstream_urls([url, gone])
        .env("LOG_LEVEL", "debug")
        .env("MCP_ADMIN_TOKEN", "operator")
        .env("MCP_UPSTREAM_HEALTH_INTERVAL", "50ms")
        .start()
        .await;
    let addr = cluster.addr(0);
    let client = cluster.client().initialize().await;
    client.call("x", json!({})).await;
    http::post(addr, REST, request(1, "ping", json!({})).to_string()).await;
    eventually("the other one is down", || async { cluster.routers[0].health().await["status"] == "DEGRADED" }).await;

    for (path, get_headers) in upstream.gets_seen() {
        assert_eq!(path, "/sse?api_key=SECRET123&v=SECRET456");
        assert_eq!(header(&get_headers, "authorization"), Some("Basic dXNAZXI6UEFTUzEyMw=="));
    }
    assert!(
        upstream
            .client_posts()
            .iter()
            .all(|post| { header(&post.headers, "authorization") == Some("Basic dXNAZXI6UEFTUzEyMw==") })
    );

    let secrets = ["SECRET123", "SECRET456", "PASS123", "us%40er", "us@er", "dXNAZXI6"];
    let hides = |what: &str, text: &str| {
        for secret in secrets {
            assert!(!text.contains(secret), "{what} shows {secret}: {text}");
        }
    };
    let paths = [
        "/actuator/health",
        "/actuator/info",
        "/actuator/prometheus",
        "/mcp/router/services",
        "/mcp/router/services/mcp-server-v6/instances",
        "/mcp/router/sessions",
    ];
    let session_path = format!("/mcp/router/sessions/{}", client.session());
    for path in paths.into_iter().chain([session_path.as_str()]) {
        let open = Request::get(path).header("x-forwarded-for", STRANGER).send(addr).await.text();
        hides(path, &open);
        assert!(!open.contains(&upstream.addr().to_string()), "{path} shows a stranger where a server is: {open}");
        assert!(!open.contains("lastError"), "{path}: {open}");
        let operator = Request::get(path).header("authorization", "Bearer operator").send(addr).await.text();
        hides(path, &operator);
    }
    let masked = format!("http://***@{}/sse?api_key=***&v=***", upstream.addr());
    for path in ["/actuator/health", "/mcp/router/services/mcp-server-v6/instances", &session_path] {
        let operator = Request::get(path).header("authorization", "Bearer operator").send(addr).await.text();
        assert!(operator.contains(&masked), "{path}: {operator}");
    }
    hides("the log", &cluster.routers[0].log_text());
}

/// A server that redirects to a path with a slash (Starlette's default is 307): GET and POST, with method and body.
#[tokio::test]
async fn redirects_within_the_server_are_followed() {
    for (status, depth) in [("307 Temporary Redirect", 1), ("308 Permanent Redirect", 5)] {
        let on = move |path: &str, to: &str, query: &str| {
            let hops = path.matches("/hop").count();
            let target =
                if hops + 1 < depth { format!("{}/hop", path.split('?').next().unwrap()) } else { to.to_owned() };
            let target = if query.is_empty() { target } else { format!("{target}?{query}") };
            vec![("location", target)]
        };
        let upstream = OddUpstream::start(
            move |path| match path {
                "/there/" => Get::Open(Vec::new(), "post?sid={sid}".to_owned()),
                _ => Get::Respond(status, on(path, "/there/", "")),
            },
            move |post| {
                (!post.path.starts_with("/end?")).then(|| {
                    let query = post.path.split_once('?').unwrap().1;
                    vec![Step::Respond(status, on(&post.path, "/end", query), Vec::new())]
                })
            },
        )
        .await;
        let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
        let client = cluster.client().initialize().await;
        client.call("x", json!({})).await;
        let rest = http::post(cluster.addr(0), REST, tool_call(1, "x", json!({})).to_string()).await;
        assert_eq!(rest.json()["result"]["content"][0]["text"], "x", "{status}: {}", rest.text());
        let posts = upstream.client_posts();
        // Relative to where the stream was found.
        assert!(posts[0].path.starts_with("/there/post?sid="), "{}", posts[0].path);
        assert_eq!(posts.iter().filter(|post| post.path.starts_with("/end?")).count(), posts.len() / (depth + 1));
        let bodies: Vec<&Value> = posts[..=depth].iter().map(|post| &post.json).collect();
        assert!(bodies.iter().all(|body| *body == bodies[0]));
    }
}

/// Not to another origin, not for ever, not without a target: a clear error, and nothing is sent there.
#[tokio::test]
async fn redirects_elsewhere_are_refused() {
    let elsewhere = OddUpstream::posts(|_| None).await;
    let target = format!("{}?key=SECRET", elsewhere.url());
    for (location, expected) in
        [(Some(target.as_str()), "another origin"), (Some("/sse"), "more than 5 times"), (None, "without saying where")]
    {
        let lines = || location.map(|location| ("location", location.to_owned())).into_iter().collect::<Vec<_>>();
        let answer = lines();
        let gets = OddUpstream::gets(move |_| Get::Respond("307 Temporary Redirect", answer.clone())).await;
        let post_answer =
            if location == Some("/sse") { vec![("location", "/message?sid=1".to_owned())] } else { lines() };
        let posts = OddUpstream::posts(move |post| {
            (post.json["method"] == "tools/call")
                .then(|| vec![Step::Respond("307 Temporary Redirect", post_answer.clone(), Vec::new())])
        })
        .await;
        let cluster = Cluster::builder()
            .upstream_urls([gets.url()])
            .env("MCP_UPSTREAM_RELINK_TIMEOUT", "300ms")
            .env("MCP_UPSTREAM_HEALTH_INTERVAL", "50ms")
            .start()
            .await;
        let client = cluster.client().connect().await;
        let id = client.start("initialize", json!({ "protocolVersion": "2025-11-25" })).await;
        assert_eq!(client.response(id).await["error"]["code"], -32000);
        let error = || async {
            let path = "/mcp/router/services/mcp-server-v6/instances";
            http::get(cluster.addr(0), path).await.json()["instances"][0]["lastError"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        eventually(expected, || async { error().await.contains(expected) }).await;
        assert!(!error().await.contains("SECRET"));

        let cluster = Cluster::builder().upstream_urls([posts.url()]).start().await;
        let client = cluster.client().initialize().await;
        let id = client.start_call("write", json!({})).await;
        let error = client.response(id).await["error"].clone();
        assert!(error["message"].as_str().unwrap().contains(expected), "{error}");
        assert_eq!(error["data"]["retry"], false);
        let rest = http::post(cluster.addr(0), REST, tool_call(1, "write", json!({})).to_string()).await;
        assert!(rest.json()["error"]["message"].as_str().unwrap().contains(expected), "{}", rest.text());
    }
    assert!(elsewhere.gets_seen().is_empty());
}

/// The `endpoint` event: an absolute path, a whole URL of the same origin, a relative reference, a query alone.
#[tokio::test]
async fn every_form_of_the_endpoint_event_is_understood() {
    for (form, path) in [
        ("/message?sid={sid}", "/message?sid="),
        ("{origin}/abs?sid={sid}", "/abs?sid="),
        ("rel?sid={sid}", "/rel?sid="),
        ("?sid={sid}", "/sse?sid="),
        ("  /padded?sid={sid} ", "/padded?sid="),
    ] {
        let own = Arc::new(OnceLock::<String>::new());
        let of_this = Arc::clone(&own);
        let upstream = OddUpstream::gets(move |_| {
            let origin = of_this.get().cloned().unwrap_or_default();
            Get::Open(Vec::new(), form.replace("{origin}", &origin))
        })
        .await;
        own.set(format!("http://{}", upstream.addr())).unwrap();
        let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
        let client = cluster.client().initialize().await;
        client.call("x", json!({})).await;
        assert!(upstream.client_posts()[0].path.starts_with(path), "{form}: {}", upstream.client_posts()[0].path);
    }
    let foreign = OddUpstream::gets(|_| Get::Open(Vec::new(), "http://192.0.2.1/message?sid={sid}".to_owned())).await;
    let cluster =
        Cluster::builder().upstream_urls([foreign.url()]).env("MCP_UPSTREAM_RELINK_TIMEOUT", "300ms").start().await;
    let rest = http::post(cluster.addr(0), REST, request(1, "ping", json!({})).to_string()).await;
    assert!(rest.text().contains("another origin, http://192.0.2.1"), "{}", rest.text());
}
