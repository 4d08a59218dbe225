//! The official conformance suite (`@modelcontextprotocol/conformance`), as published: `tests/clients/conformance`.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// A release of the suite.
#[derive(Debug, Clone, Copy)]
pub enum Release {
    /// The newest.
    Stable,
    /// The newest pre-release.
    Next,
}

/// What is run of it.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub release: Release,
    /// The arguments that choose the scenarios.
    pub choice: [&'static str; 2],
}

/// Every run that is shown.
pub const RUNS: [Run; 3] = [
    Run { release: Release::Stable, choice: ["--suite", "active"] },
    Run { release: Release::Next, choice: ["--suite", "active"] },
    Run { release: Release::Next, choice: ["--requirements", "2025-11-25"] },
];

/// The run for the version without sessions.
pub const STATELESS: Run = Run { release: Release::Next, choice: ["--requirements", "2026-07-28"] };

/// What became of one scenario.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Checks that succeeded.
    pub passed: usize,
    /// Checks that failed or warned, with the suite's reason. What the suite only tells (INFO, SKIPPED) is left out: it
    /// depends on what a server chooses where the specification leaves a choice, as between JSON and an event stream.
    pub wrong: BTreeMap<String, String>,
}

impl Verdict {
    /// Something succeeded, nothing failed or warned.
    pub fn is_passed(&self) -> bool {
        self.passed > 0 && self.wrong.is_empty()
    }

    /// What is wrong, without the reasons.
    pub fn wrong_checks(&self) -> Vec<&str> {
        self.wrong.keys().map(String::as_str).collect()
    }
}

/// By scenario.
pub type Verdicts = BTreeMap<String, Verdict>;

impl Release {
    fn package(self) -> PathBuf {
        let name = match self {
            Self::Stable => "conformance",
            Self::Next => "conformance-next",
        };
        Path::new(CLIENTS).join("conformance/node_modules").join(name)
    }

    /// Its version, as installed.
    pub fn version(self) -> String {
        let manifest = self.package().join("package.json");
        let text = std::fs::read_to_string(manifest).expect(
            "the suite is not installed. Run scripts/test.sh, or: cd tests/clients/conformance && npm ci (Node 22 or newer)",
        );
        let manifest: Value = serde_json::from_str(&text).expect("a package's manifest");
        manifest["version"].as_str().expect("a version").to_owned()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{} {}`", self.release.version(), self.choice[0], self.choice[1])
    }
}

impl Run {
    /// Runs it against the Streamable HTTP endpoint `url`, beside the test's own runtime.
    pub async fn against(self, url: &str) -> Verdicts {
        let url = url.to_owned();
        tokio::task::spawn_blocking(move || self.run(&url)).await.expect("the suite runs to its end")
    }

    fn run(self, url: &str) -> Verdicts {
        self.release.version();
        let results = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(node_22());
        command.arg(self.release.package().join("dist/index.js")).args(["server", "--url", url]).args(self.choice);
        let output = command.arg("--output-dir").arg(results.path()).output().expect("node can be run");
        let verdicts: Verdicts = std::fs::read_dir(results.path())
            .expect("a folder of results")
            .map(|entry| entry.expect("an entry").path())
            .map(|folder| (scenario(&folder), verdict(&folder)))
            .collect();
        // It fails as soon as one check does, so that its exit code says nothing of whether it could be run.
        assert!(!verdicts.is_empty(), "{self} against {url}: {}", String::from_utf8_lossy(&output.stderr));
        verdicts
    }
}

/// Results are in folders named `server-{scenario}-{time}`; the time has a fixed length.
fn scenario(folder: &Path) -> String {
    let name = folder.file_name().and_then(|name| name.to_str()).expect("a folder's name");
    let name = name.strip_prefix("server-").unwrap_or(name);
    name[..name.len() - "-2026-11-28T04-58-17-218Z".len()].to_owned()
}

fn verdict(folder: &Path) -> Verdict {
    let checks = std::fs::read_to_string(folder.join("checks.json")).expect("the checks of a scenario");
    let checks: Vec<Value> = serde_json::from_str(&checks).expect("a list of checks");
    let mut verdict = Verdict::default();
    for check in checks {
        match check["status"].as_str().expect("a status") {
            "SUCCESS" => verdict.passed += 1,
            status @ ("FAILURE" | "WARNING") => {
                let id = check["id"].as_str().expect("an id").to_owned();
                verdict.wrong.insert(id, format!("{status}: {} {}", check["errorMessage"], check["details"]));
            }
            _ => {}
        }
    }
    verdict
}

/// The suite needs Node 22; `scripts/test.sh` installs one for it where the system's is older.
fn node_22() -> PathBuf {
    let own = Path::new(CLIENTS).join("node_modules/.bin/node");
    if own.exists() { own } else { "node".into() }
}
