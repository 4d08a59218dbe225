//! The process and whoever looks after it: what systemd is told, and files of logs that are moved away.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::harness::{Cluster, RouterProcess, eventually, http, router_process::Env};

/// What `socket` is told within the patience of a test.
fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("something is told in time");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn until(socket: &UnixDatagram, word: &str) -> String {
    loop {
        let text = told(socket);
        if text.lines().any(|line| line == word) {
            return text;
        }
    }
}

/// `Type=notify`: it is ready when it serves and not before, gives signs of life while it runs and none while it is stopped,
/// and says that it goes down.
#[tokio::test]
async fn systemd_is_told_when_it_serves_that_it_lives_and_when_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let env = Env::from([
        ("NOTIFY_SOCKET".to_owned(), path.display().to_string()),
        ("WATCHDOG_USEC".to_owned(), "300000".to_owned()),
    ]);
    let mut router = RouterProcess::launch(dir.path(), "notifying", &env);
    let ready = until(&socket, "READY=1");
    assert!(ready.contains("STATUS=serving mcp-server-v6 at 127.0.0.1:"), "{ready}");
    assert_eq!(http::get(router.addr(), "/actuator/health/readiness").await.status, 200, "it said so when it was");
    (0..5).for_each(|_| drop(until(&socket, "WATCHDOG=1")));
    router.freeze();
    // What was told before it was stopped.
    socket.set_read_timeout(Some(Duration::from_millis(900))).unwrap();
    while socket.recv(&mut [0; 4096]).is_ok() {}
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    router.thaw();
    until(&socket, "WATCHDOG=1");
    router.process().signal("TERM");
    let stopping = until(&socket, "STOPPING=1");
    assert!(stopping.contains("STATUS=draining"), "{stopping}");
    eventually("its end", || std::future::ready(!router.is_running())).await;
}

/// As logrotate does it: the file is moved away, the process is told, and the next lines are in a new file.
#[tokio::test]
async fn a_log_that_is_moved_away_goes_on_in_a_new_file() {
    for signal in ["HUP", "USR1"] {
        let dir = tempfile::tempdir().unwrap();
        let (log, moved) = (dir.path().join("router.log"), dir.path().join("router.log.1"));
        let env = Env::from([("MCP_LOG_FILE".to_owned(), log.display().to_string())]);
        let mut router = RouterProcess::start(dir.path(), "logging", &env).await;
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        eventually("the first lines", || std::future::ready(read(&log).contains("mcp-router is ready"))).await;
        assert_eq!(router.log_text(), "", "nothing goes to standard error");
        fs::rename(&log, &moved).unwrap();
        router.process().signal(signal);
        eventually("the new file", || std::future::ready(read(&log).contains("opened anew"))).await;
        assert!(!read(&log).contains("mcp-router is ready") && read(&moved).contains("mcp-router is ready"));
        assert!(router.is_running());
    }
}

/// Who reloads a service, or closes a terminal, does not end it: not every instance has a file to read again.
#[tokio::test]
async fn a_hangup_ends_nobody() {
    let mut cluster = Cluster::builder().without_redis().start().await;
    for hangups in 1..=3 {
        cluster.routers[0].process().signal("HUP");
        let taken = || cluster.routers[0].log_text().matches("opened anew").count();
        eventually("it was taken", || std::future::ready(taken() == hangups)).await;
    }
    assert_eq!(http::get(cluster.addrs()[0], "/actuator/health/readiness").await.status, 200);
}

/// The exit code and the text say what is wrong with a log that cannot be opened.
#[test]
fn a_log_that_cannot_be_opened_is_said_before_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-router"));
    command.env_clear().current_dir(dir.path()).env("MCP_LOG_FILE", "/no/such/folder/log").stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(71), "{said}");
    assert!(said.contains("MCP_LOG_FILE=/no/such/folder/log cannot be opened: No such file"), "{said}");
}

/// The unit is one that systemd understands, and that keeps the process from what it does not need.
#[test]
fn the_unit_for_systemd_is_valid_and_narrow() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("LEFT OUT: systemd-analyze is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/mcp-router@.service");
    let unit = fs::read_to_string(shipped).unwrap();
    let path = dir.path().join("mcp-router@.service");
    let analyze = |unit: &str, args: &[&str]| {
        fs::write(&path, unit.replace("/usr/bin/mcp-router", env!("CARGO_BIN_EXE_mcp-router"))).unwrap();
        let output = Command::new("systemd-analyze").args(args).arg(&path).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let verified = analyze(&unit, &["verify"]);
    assert!(verified.0 && !verified.1.contains("mcp-router@"), "{verified:?}");
    let narrow = ["security", "--offline=true", "--threshold=20"];
    let judged = analyze(&unit, &narrow);
    assert!(judged.0, "{}", judged.1);
    let wide = unit.replace("ProtectSystem=strict", "").replace("CapabilityBoundingSet=", "#");
    assert!(!analyze(&wide, &narrow).0, "it would have been found out");
}
