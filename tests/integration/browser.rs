//! What a person sees of the dashboard in a real Chromium, through nginx, while instances go: `tests/clients/browser` drives it.

use std::{cell::Cell, path::Path, process::Command, time::Duration};

use futures_util::future::{join, join_all};
use serde_json::json;

use crate::harness::{
    Cluster, FakeUpstream, Front, McpClient, PostTo, Process, cluster, eventually,
    fake_upstream::Reply,
    http::{self, Request},
    mcp_client::tool_call,
};

const TOKEN: &str = "a-token-of-operators";

/// Says why, if so.
fn is_missing() -> bool {
    let is_missing = std::env::var_os("MCP_TEST_BROWSER").is_some_and(|value| value == "skip");
    if is_missing {
        eprintln!("LEFT OUT: Chromium could not be installed (scripts/setup.sh --browser)");
    }
    is_missing
}

fn builder() -> cluster::Builder {
    let builder = Cluster::builder().short_lease().env("MCP_UI_PUBLISH", "200ms").env("MCP_ADMIN_TOKEN", TOKEN);
    builder.routers(3).front(Front { ip_hash: true, ..Front::default() })
}

async fn deployment() -> Cluster {
    builder().upstreams(2).start().await
}

/// A scenario of the driver that runs.
struct Person(Process);

impl Person {
    /// Looks through nginx.
    fn looks(cluster: &Cluster, scenario: &str, arguments: &[&str]) -> Self {
        let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/browser");
        assert!(
            driver.join("node_modules/playwright-core").exists(),
            "the driver's packages are not installed. Run scripts/test.sh, or: cd tests/clients/browser && npm ci"
        );
        let mut command = Command::new("node");
        let front = cluster.nginx.as_ref().expect("nginx in front").addr();
        command.arg(driver.join("driver.mjs")).arg(scenario).arg(format!("http://{front}")).args(arguments);
        command.env("MCP_TEST_TOKEN", TOKEN);
        Self(Process::spawn(scenario, &mut command, &cluster.dir().join(format!("{scenario}.log"))))
    }

    async fn says(&mut self, line: &str) {
        eventually(line, || {
            assert!(!self.0.has_ended() || self.0.log_text().contains(line), "{}", self.0.log_text());
            std::future::ready(self.0.log_text().lines().any(|said| said == line))
        })
        .await;
    }

    async fn has_seen_it(mut self) {
        let code = self.0.exit_code().await;
        assert_eq!(code, Some(0), "{}", self.0.log_text());
    }
}

fn handle(client: &McpClient) -> String {
    client.session()[..12].to_owned()
}

/// An instance is killed: a person sees it go, its sessions move, and how soon they were served again.
#[tokio::test]
async fn a_person_sees_an_instance_die_and_its_sessions_go_on() {
    if is_missing() {
        return;
    }
    let mut cluster = deployment().await;
    let addrs = [cluster.addr(2), cluster.addr(0)];
    let client = McpClient::builder(addrs).post_to(PostTo::Only(1)).initialize().await;
    let mut person = Person::looks(&cluster, "death", &["router-instance-3", "router-instance-1", &handle(&client)]);
    person.says("ready").await;
    cluster.routers[2].kill();
    assert_eq!(client.text("echo", json!({ "text": "still there" })).await, "still there");
    person.has_seen_it().await;
}

/// An instance is drained by keyboard, and a person sees it go in peace.
#[tokio::test]
async fn a_person_drains_an_instance() {
    if is_missing() {
        return;
    }
    let mut cluster = deployment().await;
    let person = Person::looks(&cluster, "drain", &["router-instance-2"]);
    assert_eq!(cluster.routers[1].process().exit_code().await, Some(0));
    person.has_seen_it().await;
}

/// A session is found by its first digits and deleted; others are left alone.
#[tokio::test]
async fn a_person_finds_a_session_and_deletes_it() {
    if is_missing() {
        return;
    }
    let cluster = deployment().await;
    let (client, other) = (cluster.client_of(0).initialize().await, cluster.client_of(1).initialize().await);
    // Its client begins anew, under another name.
    let (gone, stays) = (handle(&client), handle(&other));
    Person::looks(&cluster, "remove", &[&gone, &stays]).has_seen_it().await;
    let status = async |name: &str| http::get(cluster.addr(0), &format!("/mcp/router/sessions/{name}")).await.status;
    assert_eq!((status(&gone).await, status(&stays).await), (404, 200));
}

/// What becomes of a call is seen while it is under way.
#[actix_web::test]
async fn a_person_follows_a_call() {
    if is_missing() {
        return;
    }
    let upstream = FakeUpstream::answering(|message| match message["method"].as_str() {
        Some("initialize") => Reply::Result(json!({ "protocolVersion": "2024-11-05", "capabilities": {} })),
        _ => Reply::Silence,
    })
    .await;
    let cluster = builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client_of(0).initialize().await;
    client.post(&tool_call(77, "hold", json!({ "text": "a secret word" }))).await;
    let calls = upstream.wait_for("tools/call", 1).await;
    let mut person = Person::looks(&cluster, "timeline", &[&handle(&client), "77"]);
    person.says("under way").await;
    upstream.send(upstream.open_sessions()[0], &json!({ "jsonrpc": "2.0", "id": calls[0]["id"], "result": {} })).await;
    person.has_seen_it().await;
}

/// Two languages, two themes, kept over a reload; axe-core finds nothing in any of them.
#[tokio::test]
async fn the_dashboard_speaks_two_languages_in_two_themes_without_findings() {
    if is_missing() {
        return;
    }
    let cluster = deployment().await;
    let client = cluster.client_of(0).initialize().await;
    let mut person = Person::looks(&cluster, "languages", &[&handle(&client)]);
    for language in ["zh", "en"] {
        for look in ["light", "dark"] {
            person.says(&format!("no findings in {language}, {look}")).await;
        }
    }
    person.has_seen_it().await;
}

/// All of it is reached by Tab, and seen to be.
#[tokio::test]
async fn the_dashboard_is_usable_by_keyboard() {
    if is_missing() {
        return;
    }
    let cluster = deployment().await;
    Person::looks(&cluster, "keyboard", &["router-instance-1"]).has_seen_it().await;
}

/// SEC-11: the page breaks nothing of its policy, and what somebody puts into it does not run.
#[tokio::test]
async fn the_policy_of_the_dashboard_holds_in_a_browser() {
    if is_missing() {
        return;
    }
    let cluster = deployment().await;
    Person::looks(&cluster, "policy", &[]).has_seen_it().await;
    // What came through nginx without a token has seen nothing.
    let front = cluster.nginx.as_ref().unwrap().addr();
    assert_eq!(Request::get("/mcp/router/deployment").send(front).await.status, 403);
}

/// No test: `scripts/screenshots.sh` draws the pictures of the README with it.
#[tokio::test]
#[ignore = "draws docs/screenshots"]
async fn pictures_of_the_dashboard() {
    let mut cluster = builder().upstreams(2).start().await;
    let front = cluster.nginx.as_ref().unwrap().addr();
    let clients = join_all((0..12).map(|_| McpClient::builder([front]).initialize())).await;
    let done = Cell::new(false);
    let work = async |client: &McpClient| {
        while !done.get() {
            client.call("echo", json!({ "text": "x" })).await;
            let pause = Duration::from_millis(fastrand::u64(50..400));
            client.call("wait", json!({ "ms": fastrand::u64(1..40), "text": "x" })).await;
            tokio::time::sleep(pause).await;
        }
    };
    let look = async {
        // Enough for the lines of a minute at the pace of these tests.
        tokio::time::sleep(Duration::from_secs(9)).await;
        cluster.routers[1].kill();
        tokio::time::sleep(Duration::from_secs(4)).await;
        cluster.routers[1].restart().await;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/screenshots");
        let person = Person::looks(&cluster, "pictures", &[folder.to_str().unwrap(), &handle(&clients[0])]);
        person.has_seen_it().await;
        done.set(true);
    };
    join(join_all(clients.iter().map(work)), look).await;
}

/// What stands in `src/http/ui/dist` is what `ui/` makes, and its types fit.
#[test]
fn the_files_of_the_dashboard_are_what_their_sources_build() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui");
    let has_node = Command::new("node").arg("--version").output().is_ok_and(|said| said.status.success());
    if !has_node || !sources.join("node_modules/esbuild").exists() {
        eprintln!("LEFT OUT: Node.js or the packages of ui/ are not installed (npm ci --prefix ui)");
        return;
    }
    let checked = Command::new("npm").args(["run", "--silent", "check"]).current_dir(&sources).output().unwrap();
    assert!(
        checked.status.success(),
        "{}{}",
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr)
    );
}
