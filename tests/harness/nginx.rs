//! The project's own nginx configuration, run as the current user in front of a test's routers.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{eventually, ports::Port, process::Process};

/// Longest wait for nginx to take its workers with it.
const STOP: Duration = Duration::from_secs(5);

/// See module documentation.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    port: Port,
    dir: PathBuf,
}

impl Nginx {
    /// Renders `nginx/nginx.conf` for these routers and runs it. `ip_hash` off: the routers are met in turn.
    pub async fn start(dir: &Path, routers: &[SocketAddr], ip_hash: bool) -> Self {
        let port = Port::reserve();
        let dir = dir.join("nginx");
        let router_ports: Vec<String> = routers.iter().map(|addr| addr.port().to_string()).collect();
        let rendered = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/nginx-local.sh"))
            .arg("render")
            .arg(&dir)
            .env("NGINX_PORT", port.number().to_string())
            .env("ROUTER_PORTS", router_ports.join(" "))
            .env("IP_HASH", if ip_hash { "on" } else { "off" })
            .env("RUN_DIR", &dir)
            .env("LOG_DIR", &dir)
            .output()
            .expect("scripts/nginx-local.sh can be run");
        assert!(rendered.status.success(), "render: {}", String::from_utf8_lossy(&rendered.stderr));

        let mut command = Command::new(program());
        command.arg("-e").arg(dir.join("nginx-error.log")).arg("-p").arg(&dir).arg("-c").arg(dir.join("nginx.conf"));
        command.args(["-g", "daemon off;"]);
        let process = Process::spawn("nginx", &mut command, &dir.join("nginx-output.log"));
        let mut nginx = Self { process, port, dir };
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
        // SIGKILL would leave its worker behind.
        self.process.signal("TERM");
        let deadline = Instant::now() + STOP;
        while !self.process.has_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Debian keeps it where only root's PATH looks.
fn program() -> &'static str {
    ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/opt/homebrew/bin/nginx"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("nginx")
}
