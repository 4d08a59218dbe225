//! The official conformance suite: what a server passes by itself, it passes through nginx and the router.

use std::{fmt::Write as _, path::Path};

use crate::harness::{
    Cluster, ConformanceServer, StatelessServer,
    conformance_suite::{RUNS, Release, Run, STATELESS, Verdicts},
};

/// The READMEs that show the table, and the table's head in their language.
const READMES: [(&str, &str); 2] = [
    (
        "README.md",
        "| `@modelcontextprotocol/conformance` | by itself | Streamable HTTP behind the router | HTTP+SSE behind the router |",
    ),
    (
        "README.zh-CN.md",
        "| `@modelcontextprotocol/conformance` | 直连 | 路由器之后的 Streamable HTTP | 路由器之后的 HTTP+SSE |",
    ),
];
const TABLE_BEGIN: &str = "<!-- conformance: UPDATE_README=1 cargo test --test integration conformance -->\n";
const TABLE_END: &str = "<!-- /conformance -->";

/// Scenarios that did not pass, with what the suite says.
fn failures(verdicts: &Verdicts) -> Vec<String> {
    let failed = verdicts.iter().filter(|(_, verdict)| !verdict.is_passed());
    failed.map(|(scenario, verdict)| format!("{scenario}: {:?}", verdict.wrong)).collect()
}

/// In what the verdicts differ, by scenario.
fn differences(direct: &Verdicts, through: &Verdicts) -> Vec<String> {
    let mut differences = Vec::new();
    for scenario in direct.keys().chain(through.keys().filter(|scenario| !direct.contains_key(*scenario))) {
        let (Some(one), Some(other)) = (direct.get(scenario), through.get(scenario)) else {
            differences.push(format!("{scenario}: run on one side only"));
            continue;
        };
        if one.wrong_checks() != other.wrong_checks() || one.is_passed() != other.is_passed() {
            differences.push(format!("{scenario}: {:?} by itself, {:?} through the router", one.wrong, other.wrong));
        }
    }
    differences
}

fn cell(verdicts: &Verdicts) -> String {
    let passed = verdicts.values().filter(|verdict| verdict.is_passed()).count();
    format!("{passed} / {}", verdicts.len())
}

/// The table in a README is this one; `UPDATE_README` in the environment writes it.
fn check_readme(name: &str, head: &str, rows: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(TABLE_BEGIN).expect("where the table begins");
    let (_, after) = rest.split_once(TABLE_END).expect("where the table ends");
    let made = format!("{before}{TABLE_BEGIN}{head}\n|---|---|---|---|\n{rows}{TABLE_END}{after}");
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, &made).unwrap();
    } else {
        assert!(text == made, "{name} shows another table than\n{head}\n{rows}");
    }
}

/// Scenario by scenario, the official suite says of a server behind nginx and three routers, met in turn, what it says of it
/// directly: with the same transport on both sides, and with HTTP+SSE behind the router. The READMEs show the result.
#[tokio::test]
async fn the_conformance_suite_sees_no_difference_through_the_router() {
    let dir = tempfile::tempdir().unwrap();
    let server = ConformanceServer::start(dir.path()).await;
    let modern = StatelessServer::start(dir.path(), "modern", &[("LEGACY", "stateless")]).await;
    let upstreams = format!("streamable={};sse={};modern={}", server.streamable_url(), server.sse_url(), modern.url());
    let cluster = Cluster::builder().routers(3).upstreams(0).nginx(false).env("MCP_UPSTREAMS", upstreams).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let (mut rows, mut wrong) = (String::new(), Vec::new());
    for run in RUNS {
        let direct = run.against(&server.streamable_url()).await;
        assert!(direct.len() >= 30, "{run}: {:?}", direct.keys());
        assert_eq!(failures(&direct), [""; 0], "{run}: what fails behind the router must not be the fixture's");
        write!(rows, "| {run} | {} |", cell(&direct)).unwrap();
        for service in ["streamable", "sse"] {
            let through = run.against(&format!("http://{nginx}/mcp/{service}")).await;
            wrong.extend(differences(&direct, &through).into_iter().map(|text| format!("{run}, {service}: {text}")));
            write!(rows, " {} |", cell(&through)).unwrap();
        }
        rows.push('\n');
    }
    // The version without sessions, on either side. The scenarios of tasks, an extension that the fixture does not have, fail by
    // themselves.
    let [direct, through] = [modern.url(), format!("http://{nginx}/mcp/modern")];
    let (mut direct, mut through) = (STATELESS.against(&direct).await, STATELESS.against(&through).await);
    let [of_tasks, through_tasks] = [&mut direct, &mut through].map(|verdicts| {
        let (of_tasks, others) = std::mem::take(verdicts).into_iter().partition(|(name, _)| name.starts_with("tasks-"));
        *verdicts = others;
        let of_tasks: Verdicts = of_tasks;
        of_tasks
    });
    wrong.extend(differences(&direct, &through).into_iter().map(|text| format!("{STATELESS}: {text}")));
    // The router has tasks of its own, and so says of those that do not exist what is to be said.
    assert!(of_tasks.keys().eq(through_tasks.keys()), "{of_tasks:?}, {through_tasks:?}");
    for (scenario, verdict) in through_tasks {
        let new = verdict.wrong.keys().filter(|check| !of_tasks[&scenario].wrong.contains_key(*check));
        wrong.extend(new.map(|check| format!("{STATELESS}: {scenario}: {check} is wrong through the router alone")));
    }
    assert_eq!((failures(&direct), direct.len() >= 40), (Vec::new(), true), "{:?}", direct.keys());
    writeln!(rows, "| {STATELESS} | {} | {} | — |", cell(&direct), cell(&through)).unwrap();
    assert_eq!(wrong, [""; 0]);
    cluster.assert_no_violations().await;
    for (name, head) in READMES {
        check_readme(name, head, &rows);
    }
}

/// What concerns the router and not the server passes at an instance itself: the life of a session, and that a page which
/// comes by another name (DNS rebinding) is refused.
#[tokio::test]
async fn an_instance_passes_what_concerns_itself() {
    let cluster = Cluster::builder().start().await;
    for scenario in ["server-session-lifecycle", "dns-rebinding-protection"] {
        let run = Run { release: Release::Next, choice: ["--scenario", scenario] };
        let verdicts = run.against(&format!("http://{}/mcp/mcp-server-v6", cluster.addr(0))).await;
        assert_eq!((verdicts.len(), failures(&verdicts)), (1, Vec::new()), "{scenario}");
    }
}

/// Where the suite of one era fails at a server of the other, by run and scenario: the checks, as the table in the documentation has
/// them.
const ACROSS: &str = "docs/protocol.md";
const ACROSS_BEGIN: &str = "<!-- across: cargo test --test integration across_the_bridge -- --ignored -->\n";
const ACROSS_END: &str = "<!-- /across -->";

/// Row by row: run, scenario and what fails there. The last column is the reason.
fn told_across() -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(ACROSS)).unwrap();
    let (_, rest) = text.split_once(ACROSS_BEGIN).expect("where the table begins");
    let (table, _) = rest.split_once(ACROSS_END).expect("where the table ends");
    let rows = table.lines().skip(2).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [run, scenario, checks, reason] = cells[..] else { panic!("no row of four: {line}") };
        assert!(!reason.is_empty(), "no reason: {line}");
        (run.replace('`', ""), scenario.replace('`', ""), checks.replace('`', ""))
    });
    rows.collect()
}

/// The suite of each era at a server that has the other one alone, with the router between: it passes but where the table says why it
/// cannot. Two whole runs of the suite.
#[tokio::test]
#[ignore = "two more runs of the suite: cargo test --test integration across_the_bridge -- --ignored"]
async fn across_the_bridge_the_suite_of_either_era_fails_only_where_a_table_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let legacy = ConformanceServer::start(dir.path()).await;
    let modern = StatelessServer::start(dir.path(), "modern", &[]).await;
    let upstreams = format!("legacy={};modern={}", legacy.streamable_url(), modern.url());
    // The suite waits for no task as long as calls usually last.
    let builder = Cluster::builder().routers(3).upstreams(0).nginx(false).env("MCP_TASK_AFTER", "300ms");
    let cluster = builder.env("MCP_UPSTREAMS", upstreams).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let mut found = Vec::new();
    for (run, service) in [(RUNS[2], "modern"), (STATELESS, "legacy")] {
        let verdicts = run.against(&format!("http://{nginx}/mcp/{service}")).await;
        println!("{run} at {service}: {}", cell(&verdicts));
        for (scenario, verdict) in verdicts.iter().filter(|(_, verdict)| !verdict.is_passed()) {
            let checks = if verdict.wrong.is_empty() {
                "nothing is checked".to_owned()
            } else {
                verdict.wrong_checks().join(", ")
            };
            println!("| `{}` | `{scenario}` | {checks} | {:?}", run.choice[1], verdict.wrong);
            found.push((run.choice[1].to_owned(), scenario.clone(), checks));
        }
    }
    cluster.assert_no_violations().await;
    found.sort();
    let mut told = told_across();
    told.sort();
    assert_eq!(found, told);
}
