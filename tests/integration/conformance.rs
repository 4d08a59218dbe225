//! The official conformance suite: what a server passes by itself, it passes through nginx and the router.

use crate::harness::{
    ConformanceServer,
    conformance_suite::{RUNS, Verdicts},
};

/// Scenarios that did not pass, with what the suite says.
fn failures(verdicts: &Verdicts) -> Vec<String> {
    let failed = verdicts.iter().filter(|(_, verdict)| !verdict.is_passed());
    failed.map(|(scenario, verdict)| format!("{scenario}: {:?}", verdict.wrong)).collect()
}

/// The fixture by itself passes all of it: what fails behind the router is not the fixture's.
#[tokio::test]
async fn the_fixture_passes_the_conformance_suite() {
    let dir = tempfile::tempdir().unwrap();
    let server = ConformanceServer::start(dir.path()).await;
    for run in RUNS {
        let verdicts = run.against(&server.streamable_url()).await;
        assert!(verdicts.len() >= 30, "{run}: {:?}", verdicts.keys());
        assert_eq!(failures(&verdicts), [""; 0], "{run}");
    }
}
