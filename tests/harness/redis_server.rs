//! A real `redis-server` for one test: own port, own directory, killed when dropped. Unix only.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a server may take to answer its first PING, on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(20);

/// Another process may take the free port before the server does.
const ATTEMPTS: usize = 5;

/// See module documentation.
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    dir: TempDir,
    args: Vec<String>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// If there is no `redis-server`: without it these tests prove nothing, so they fail instead of being skipped.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with more arguments.
    pub fn start_with(args: &[&str]) -> Self {
        (0..ATTEMPTS)
            .find_map(|_| Self::start_at(free_port(), args))
            .unwrap_or_else(|| panic!("redis-server did not answer on any of {ATTEMPTS} ports"))
    }

    /// On this port; `None` if it is another's.
    pub fn start_at(port: u16, args: &[&str]) -> Option<Self> {
        let mut server = Self {
            child: None,
            port,
            dir: tempfile::tempdir().expect("a temporary directory"),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        server.try_resume().then_some(server)
    }

    /// `redis://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port it listens on.
    #[allow(dead_code, reason = "each test binary uses its part of the harness")]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it, as `kill -9` does. What it held is lost.
    #[allow(dead_code, reason = "each test binary uses its part of the harness")]
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("redis-server can be killed");
            child.wait().expect("redis-server can be waited for");
        }
    }

    /// Starts it again on the same port, empty.
    #[allow(dead_code, reason = "each test binary uses its part of the harness")]
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.try_resume(), "redis-server did not come back on port {}", self.port);
    }

    /// Keeps its data as they are now, for [`Self::restart_with_older_data`].
    #[allow(dead_code, reason = "each test binary uses its part of the harness")]
    pub fn keep_data(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection to redis-server");
        let mut ok = [0; 5];
        stream.write_all(b"SAVE\r\n").and_then(|()| stream.read_exact(&mut ok)).expect("an answer to SAVE");
        assert_eq!(ok, *b"+OK\r\n");
        std::fs::rename(self.dir.path().join("dump.rdb"), self.dir.path().join("older.rdb"))
            .expect("a file with the data");
    }

    /// Kills it, and starts it again on the same port with the data that were kept.
    #[allow(dead_code, reason = "each test binary uses its part of the harness")]
    pub fn restart_with_older_data(&mut self) {
        self.kill();
        let dump = self.dir.path().join("dump.rdb");
        std::fs::copy(self.dir.path().join("older.rdb"), &dump).expect("data that were kept");
        assert!(self.try_resume(), "redis-server did not come back on port {}", self.port);
        std::fs::remove_file(dump).expect("the file can be removed");
    }

    /// Stops it (SIGSTOP): connections stay open and nothing is answered.
    #[allow(dead_code, reason = "each test binary uses its part of the harness")]
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on after [`Self::freeze`].
    #[allow(dead_code, reason = "each test binary uses its part of the harness")]
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("redis-server runs");
        let status = Command::new("kill").arg(signal).arg(child.id().to_string()).status().expect("kill can be run");
        assert!(status.success());
    }

    fn try_resume(&mut self) -> bool {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.dir.path())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("these tests need `redis-server` (7.0 or later) in PATH and cannot start it: {error}")
            });
        let child = self.child.insert(child);
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if child.try_wait().expect("the state of redis-server").is_some() {
                self.child = None;
                return false;
            }
            if answers(self.port) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut pong = [0; 7];
    stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
        && stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut pong).is_ok()
        && pong == *b"+PONG\r\n"
}
