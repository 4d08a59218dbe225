//! The instances under test: who they are, what they say of themselves, and what is done to them.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    rc::Rc,
    time::{Duration, Instant},
};

use serde_json::Value;
use testkit::http::{Request, Response};

/// What can be done to an instance, or to what the instances stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, then a restart.
    Kill,
    /// SIGTERM, then a restart.
    Term,
    /// SIGSTOP for longer than the lease; then a restart if its watchdog has killed it, else SIGCONT.
    Stop,
    /// The restart of all, one by one.
    Rolling,
    /// SIGSTOP of Redis for a while, then SIGCONT.
    RedisStop,
    /// SIGKILL of an MCP server, then a restart.
    ServerKill,
    /// Another node of Redis becomes a primary.
    RedisChange,
}

impl Fault {
    /// Its name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Term => "SIGTERM",
            Self::Stop => "SIGSTOP",
            Self::Rolling => "rolling restart",
            Self::RedisStop => "SIGSTOP of Redis",
            Self::ServerKill => "SIGKILL of a server",
            Self::RedisChange => "another primary of Redis",
        }
    }
}

/// One router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Where it listens on this machine.
    pub port: u16,
    pid_file: PathBuf,
}

/// Who an instance is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its id, the same after a restart.
    pub id: String,
    /// Its process.
    pub incarnation: String,
}

/// A session as the store has it.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Instance id of the owner.
    pub owner: String,
    /// Incarnations that hold its streams.
    pub holders: Vec<String>,
    /// How often the owner has changed, and one.
    pub generation: u64,
}

/// How long an instance may take to answer a question about itself.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// How long a restarted instance may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long an instance may take to end after SIGTERM: above its own limit.
const END_LIMIT: Duration = Duration::from_secs(45);

/// Counters of one process.
#[derive(Debug, Default, Clone, Copy)]
struct Counters {
    adoptions: f64,
    violations: f64,
}

/// Memory of one process at one time.
#[derive(Debug, Clone, Copy)]
pub struct MemorySample {
    /// Since the start of the drill.
    pub at: Duration,
    /// The router.
    pub port: u16,
    /// Its process.
    pub pid: u32,
    /// Kilobytes.
    pub rss: f64,
}

/// All of them.
pub struct Cluster {
    /// The routers.
    pub instances: Vec<Instance>,
    run_dir: PathBuf,
    restart: String,
    restarting: tokio::sync::Mutex<()>,
    rolling: String,
    counters: RefCell<HashMap<(u16, u32), Counters>>,
    memory: RefCell<Vec<MemorySample>>,
    paused: RefCell<Vec<u32>>,
    ended_paused: Cell<usize>,
    began: Instant,
}

/// The name of a session in the lists of the router: the first digits of its id, which is a secret.
pub fn handle(session: &str) -> &str {
    &session[..session.len().min(12)]
}

impl Cluster {
    /// Routers on these ports whose pids stand in `<run_dir>/router-<port>.pid`. `restart` is a command that starts the
    /// one whose port is added to it, `rolling` one that restarts all.
    pub fn new(ports: &[u16], run_dir: &std::path::Path, restart: String, rolling: String) -> Rc<Self> {
        let instance = |port: &u16| Instance { port: *port, pid_file: run_dir.join(format!("router-{port}.pid")) };
        Rc::new(Self {
            instances: ports.iter().map(instance).collect(),
            run_dir: run_dir.to_owned(),
            restart,
            restarting: tokio::sync::Mutex::default(),
            rolling,
            counters: RefCell::default(),
            memory: RefCell::default(),
            paused: RefCell::default(),
            ended_paused: Cell::default(),
            began: Instant::now(),
        })
    }

    async fn ask(&self, instance: &Instance, path: &str) -> Option<Response> {
        self.send(instance, &Request::get(path)).await
    }

    async fn send(&self, instance: &Instance, request: &Request) -> Option<Response> {
        let request = request.clone().header("host", "localhost");
        let asked = request.try_send((Ipv4Addr::LOCALHOST, instance.port).into());
        tokio::time::timeout(ASK_LIMIT, asked).await.ok()?.ok()
    }

    async fn ask_json(&self, instance: &Instance, path: &str) -> Option<Value> {
        let answer = self.ask(instance, path).await?;
        (answer.status == 200).then(|| serde_json::from_slice(&answer.body).ok()).flatten()
    }

    /// It takes new sessions.
    pub async fn is_ready(&self, instance: &Instance) -> bool {
        self.ask(instance, "/actuator/health/readiness").await.is_some_and(|answer| answer.status == 200)
    }

    async fn until_ready(&self, instance: &Instance) -> Result<(), String> {
        let deadline = Instant::now() + READY_LIMIT;
        while !self.is_ready(instance).await {
            if Instant::now() > deadline {
                return Err(format!("router {} is not ready after {READY_LIMIT:?}", instance.port));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// All are ready.
    pub async fn until_all_ready(&self) -> Result<(), String> {
        for instance in &self.instances {
            self.until_ready(instance).await?;
        }
        Ok(())
    }

    /// Who it is.
    pub async fn identity(&self, instance: &Instance) -> Option<Identity> {
        let info = self.ask_json(instance, "/actuator/info").await?;
        let text = |name: &str| info["instance"][name].as_str().map(str::to_owned);
        Some(Identity { id: text("id")?, incarnation: text("incarnation")? })
    }

    /// The sessions in the store, by handle ([`handle`]). Empty when no instance tells.
    pub async fn placements(&self) -> BTreeMap<String, Placement> {
        for instance in &self.instances {
            let Some(list) = self.ask_json(instance, "/mcp/router/sessions?limit=10000").await else { continue };
            let placement = |session: &Value| {
                let streams = session["streams"].as_object()?;
                let holders = streams.values().filter_map(|holder| holder.as_str().map(str::to_owned)).collect();
                let owner = session["owner"].as_str()?.to_owned();
                let generation = session["generation"].as_u64()?;
                Some((session["handle"].as_str()?.to_owned(), Placement { owner, holders, generation }))
            };
            return list["sessions"].as_array().into_iter().flatten().filter_map(placement).collect();
        }
        BTreeMap::new()
    }

    /// What each instance says of a session, for whoever has to find out what happened to it.
    pub async fn describe(&self, session: &str) -> Vec<String> {
        let mut said = Vec::new();
        for instance in &self.instances {
            let told = self.ask_json(instance, &format!("/mcp/router/sessions/{session}")).await;
            let text = told.map_or_else(|| "no answer".to_owned(), |told| told.to_string());
            // The log names sessions by their first digits.
            said.push(format!("router {}: {}", instance.port, text.replace(session, &session[..session.len().min(6)])));
        }
        said
    }

    /// Deletes a session of the drill.
    pub async fn delete(&self, session: &str) {
        for instance in &self.instances {
            let request = Request::delete(format!("/mcp/router/sessions/{session}"));
            if self.send(instance, &request).await.is_some() {
                return;
            }
        }
    }

    /// Its process.
    pub fn pid(&self, instance: &Instance) -> Option<u32> {
        read_pid(&instance.pid_file)
    }

    // --- Figures ---------------------------------------------------------------------------------------------------

    /// Reads the counters of one instance; they die with its process.
    pub async fn read_counters(&self, instance: &Instance) {
        let Some(pid) = self.pid(instance) else { return };
        let answer = self.ask(instance, "/actuator/prometheus").await;
        let Some(Response { status: 200, body: text, .. }) = answer else { return };
        let text = String::from_utf8_lossy(&text);
        let sum = |name: &str| {
            let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
            values.filter_map(|value| value.parse::<f64>().ok()).sum()
        };
        let counters = Counters {
            adoptions: sum("mcp_router_adoptions_total"),
            violations: sum("mcp_router_invariant_violations_total"),
        };
        self.counters.borrow_mut().insert((instance.port, pid), counters);
    }

    /// Of all instances.
    pub async fn read_all_counters(&self) {
        futures_util::future::join_all(self.instances.iter().map(|instance| self.read_counters(instance))).await;
    }

    /// Over all processes that there have been: adoptions, and broken guarantees by the router's own count.
    pub fn counted(&self) -> (f64, f64) {
        let counters = self.counters.borrow();
        (
            // The sum of nothing is -0.
            counters.values().map(|process| process.adoptions).sum::<f64>() + 0.0,
            counters.values().map(|process| process.violations).sum::<f64>() + 0.0,
        )
    }

    /// Reads the memory of all instances.
    pub fn read_memory(&self) {
        for instance in &self.instances {
            let Some(pid) = self.pid(instance) else { continue };
            let Ok(output) = Command::new("ps").args(["-o", "rss=", "-p", &pid.to_string()]).output() else { continue };
            if let Ok(rss) = String::from_utf8_lossy(&output.stdout).trim().parse::<f64>()
                && rss > 0.0
            {
                let sample = MemorySample { at: self.began.elapsed(), port: instance.port, pid, rss };
                self.memory.borrow_mut().push(sample);
            }
        }
    }

    /// All that was read.
    pub fn memory(&self) -> Vec<MemorySample> {
        self.memory.borrow().clone()
    }

    // --- Faults ----------------------------------------------------------------------------------------------------

    /// Sends a signal. The moment it was sent.
    pub fn signal(&self, instance: &Instance, signal: &str) -> Result<Instant, String> {
        let pid = self.pid(instance).ok_or_else(|| format!("router {} has no pid", instance.port))?;
        match signal {
            "STOP" => self.paused.borrow_mut().push(pid),
            "CONT" => self.paused.borrow_mut().retain(|paused| *paused != pid),
            _ => {}
        }
        send(pid, signal)?;
        Ok(Instant::now())
    }

    /// Lets a paused instance go on, and waits until it is ready. One that was killed meanwhile, as a watchdog does with one
    /// that hangs, is started again after `pause`.
    pub async fn resume(&self, instance: &Instance, pause: Duration) -> Result<(), String> {
        // Fails when the process is gone, which is seen below.
        let _ = self.signal(instance, "CONT");
        let deadline = Instant::now() + READY_LIMIT;
        while !self.is_ready(instance).await {
            let runs = self.pid(instance).is_some_and(|pid| send(pid, "0").is_ok());
            if !runs {
                self.ended_paused.set(self.ended_paused.get() + 1);
                self.restart(instance, pause).await?;
            } else if Instant::now() > deadline {
                return Err(format!("router {} is not ready after {READY_LIMIT:?}", instance.port));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.until_all_ready().await
    }

    /// Pauses a process that is no router. It goes on by [`Cluster::go_on`], or with the end of the drill.
    pub fn pause_other(&self, pid: u32) -> Result<Instant, String> {
        self.paused.borrow_mut().push(pid);
        send(pid, "STOP")?;
        Ok(Instant::now())
    }

    /// Lets it go on.
    pub fn go_on(&self, pid: u32) -> Result<(), String> {
        self.paused.borrow_mut().retain(|paused| *paused != pid);
        send(pid, "CONT")
    }

    /// Kills the MCP server on a port.
    pub fn kill_server(&self, port: u16) -> Result<Instant, String> {
        let pid = read_pid(&self.run_dir.join(format!("server-{port}.pid")));
        send(pid.ok_or_else(|| format!("server {port} has no pid"))?, "KILL")?;
        Ok(Instant::now())
    }

    /// Starts the MCP server on a port again.
    pub async fn restart_server(&self, port: u16, pause: Duration) -> Result<(), String> {
        tokio::time::sleep(pause).await;
        // start-instances.sh does one thing at a time.
        let _turn = self.restarting.lock().await;
        run(format!("{} {port}", self.restart)).await
    }

    /// How many instances were dead when they were to go on.
    pub fn ended_paused(&self) -> usize {
        self.ended_paused.get()
    }

    /// Nothing stays paused behind us.
    pub fn resume_all(&self) {
        for pid in self.paused.take() {
            // It may have ended meanwhile.
            let _ = send(pid, "CONT");
        }
    }

    /// Waits for the end of its process, starts it again, and waits until it is ready.
    pub async fn restart(&self, instance: &Instance, pause: Duration) -> Result<(), String> {
        if let Some(pid) = self.pid(instance) {
            let deadline = Instant::now() + END_LIMIT;
            while send(pid, "0").is_ok() {
                if Instant::now() > deadline {
                    return Err(format!("router {} has not ended within {END_LIMIT:?}", instance.port));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        tokio::time::sleep(pause).await;
        {
            // start-instances.sh does one thing at a time.
            let _turn = self.restarting.lock().await;
            run(format!("{} {}", self.restart, instance.port)).await?;
        }
        self.until_ready(instance).await
    }

    /// Restarts all of them, one by one.
    pub async fn roll(&self) -> Result<(), String> {
        run(self.rolling.clone()).await?;
        self.until_all_ready().await
    }
}

/// Makes another node of Redis a primary, and returns when it is one.
pub async fn change_redis(command: &str) -> Result<(), String> {
    run(command.to_owned()).await
}

fn read_pid(file: &std::path::Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn send(pid: u32, signal: &str) -> Result<(), String> {
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).output();
    match sent {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("kill cannot be run: {error}")),
    }
}

async fn run(command: String) -> Result<(), String> {
    let shown = command.clone();
    let output = actix_rt::task::spawn_blocking(move || Command::new("sh").args(["-c", &command]).output()).await;
    match output {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(format!(
            "{shown} failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
        Ok(Err(error)) => Err(format!("{shown} cannot be run: {error}")),
        Err(error) => Err(error.to_string()),
    }
}
