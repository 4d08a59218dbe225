//! The project's own nginx configuration, run as the current user in front of a test's routers.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{eventually, leaks, ports::Port, process::Process};

/// Longest wait for nginx to take its workers with it.
const STOP: Duration = Duration::from_secs(5);

/// How it is configured.
#[derive(Debug, Clone, Default)]
pub struct Front {
    /// Otherwise the routers are met in turn.
    pub ip_hash: bool,
    /// As `nginx/nginx-edge.conf` has it, with these settings for `edge.lua`; otherwise as `nginx/nginx.conf`.
    pub edge: Option<String>,
    /// Certificate and key: it speaks HTTPS and HTTP/2, too.
    pub tls: Option<[PathBuf; 2]>,
    /// Who issues certificates of clients: there it asks for one.
    pub clients: Option<PathBuf>,
}

impl Front {
    /// As `nginx/nginx.conf` has it; or, to run the same tests with the other one, as nginx-edge.conf, with `MCP_TEST_FRONT=edge`.
    pub fn stock(ip_hash: bool) -> Self {
        let edge = std::env::var_os("MCP_TEST_FRONT").is_some_and(|front| front == "edge").then(String::new);
        Self { ip_hash, edge, ..Self::default() }
    }

    /// As `nginx/nginx-edge.conf` has it, the routers in turn. `settings`: for `edge.lua`.
    pub fn edge(settings: &str) -> Self {
        Self { edge: Some(settings.to_owned()), ..Self::default() }
    }
}

/// The tests of nginx-edge.conf are to be left out, since nginx's Lua module cannot be had here.
pub fn edge_is_missing() -> bool {
    let is_missing = std::env::var_os("MCP_TEST_EDGE").is_some_and(|value| value == "skip");
    if is_missing {
        eprintln!("LEFT OUT: nginx's Lua module could not be installed (scripts/setup.sh --edge)");
    }
    is_missing
}

/// See module documentation.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    port: Port,
    tls_port: Port,
    dir: PathBuf,
    front: Front,
    routers: Vec<SocketAddr>,
}

impl Nginx {
    /// Renders its configuration for these routers and runs it.
    pub async fn start(dir: &Path, routers: &[SocketAddr], front: Front) -> Self {
        let (port, tls_port) = (Port::reserve(), Port::reserve());
        let dir = dir.join("nginx");
        render(&dir, [&port, &tls_port], routers, &front);

        let mut command = Command::new(program());
        command.arg("-e").arg(dir.join("nginx-error.log")).arg("-p").arg(&dir).arg("-c").arg(dir.join("nginx.conf"));
        command.args(["-g", "daemon off;"]);
        let process = Process::spawn("nginx", &mut command, &dir.join("nginx-output.log"));
        let mut nginx = Self { process, port, tls_port, dir, front, routers: routers.to_vec() };
        let addr = nginx.addr();
        eventually("nginx listening", || {
            assert!(!nginx.process.has_ended(), "nginx did not start: {}", nginx.process.log_text());
            async move { tokio::net::TcpStream::connect(addr).await.is_ok() }
        })
        .await;
        nginx
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Where it listens for HTTPS.
    pub fn tls_addr(&self) -> SocketAddr {
        self.tls_port.addr()
    }

    /// Lets it read its configuration again: new workers, while the old ones end.
    pub fn reload(&mut self) {
        render(&self.dir, [&self.port, &self.tls_port], &self.routers, &self.front);
        self.process.signal("HUP");
    }

    /// Secrets in what it has logged. `also`: more of them.
    pub fn leaks(&self, also: &[&str]) -> Vec<String> {
        leaks::of("nginx", [&self.logs()], also)
    }

    /// What it has logged: accesses and errors.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(&self.dir).expect("nginx's folder").flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                text.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default());
            }
        }
        text
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.end();
        leaks::assert_none(&self.leaks(&[]));
    }
}

impl Nginx {
    fn end(&mut self) {
        // SIGKILL would leave its worker behind.
        self.process.signal("TERM");
        let deadline = Instant::now() + STOP;
        while !self.process.has_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn render(dir: &Path, [port, tls_port]: [&Port; 2], routers: &[SocketAddr], front: &Front) {
    let router_ports: Vec<String> = routers.iter().map(|addr| addr.port().to_string()).collect();
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/nginx-local.sh"));
    command
        .arg("render")
        .arg(dir)
        .env("NGINX_PORT", port.number().to_string())
        .env("ROUTER_PORTS", router_ports.join(" "))
        .env("IP_HASH", if front.ip_hash { "on" } else { "off" })
        .env("EDGE", if front.edge.is_some() { "on" } else { "off" })
        .env("EDGE_OPTIONS", front.edge.as_deref().unwrap_or_default())
        .env("RUN_DIR", dir)
        .env("LOG_DIR", dir);
    if let Some([certificate, key]) = &front.tls {
        command.env("TLS_PORT", tls_port.number().to_string()).env("TLS_CERTIFICATE", certificate).env("TLS_KEY", key);
    }
    if let Some(clients) = &front.clients {
        command.env("TLS_CLIENTS", clients);
    }
    let rendered = command.output().expect("scripts/nginx-local.sh can be run");
    assert!(rendered.status.success(), "render: {}", String::from_utf8_lossy(&rendered.stderr));
}

/// Debian keeps it where only root's PATH looks.
fn program() -> &'static str {
    ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/opt/homebrew/bin/nginx"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("nginx")
}
