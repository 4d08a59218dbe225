//! The client of the failover drill: plays MCP sessions through the front door, breaks instances behind it, and holds
//! what came against what was promised. `scripts/failover-drill.sh` and `scripts/soak.sh` give it a cluster.
//!
//! | file | role |
//! |---|---|
//! | `main` | the course of the drill |
//! | `plan` | what all clients have in common |
//! | `session` | one client: its calls |
//! | `streams` | its event streams |
//! | `board` | figures of all clients, and the faults |
//! | `ledger` | what was promised, what came, the verdict |
//! | `cluster` | the instances: questions, signals, restarts |
//! | `report` | the table, and the page |
//! | `progress` | the bar on a terminal |
//! | `stateless` | clients without sessions: their calls and their table |

#![forbid(unsafe_code)]

mod board;
mod cluster;
mod ledger;
mod plan;
mod progress;
mod report;
mod session;
mod stateless;
mod streams;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use clap::Parser;
use futures_util::{StreamExt as _, stream};
use testkit::{connection::Target, page::Page};
use url::Url;

use board::Board;
use cluster::{Cluster, Fault, Instance, handle};
use ledger::{Outcome, Totals};
use plan::{Plan, Reconnect, Transport};
use report::{Report, Round};
use session::Session;

/// Plays MCP sessions with calls in flight, breaks router instances, and checks that nothing is lost or happens twice.
///
/// Exit code 1 when anything was lost, duplicated, out of order, or ran twice.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where clients go: nginx
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: Url,
    /// The service; its servers must offer the drill tools
    #[arg(long, default_value = "mcp-server-v6")]
    service: String,
    /// How the clients speak
    #[arg(long, value_enum, default_value = "sse")]
    transport: Transport,
    /// Ports of the routers
    #[arg(long, value_delimiter = ' ', default_value = "8051 8052 8053")]
    ports: Vec<u16>,
    /// Where the files router-PORT.pid are
    #[arg(long, default_value = "run")]
    run_dir: PathBuf,
    /// Command that starts the router whose port is added to it
    #[arg(long, default_value = "scripts/start-instances.sh start")]
    restart: String,
    /// Command that restarts all routers, one by one
    #[arg(long, default_value = "scripts/start-instances.sh rolling-restart")]
    rolling: String,
    /// The servers' file of increments
    #[arg(long, default_value = "run/counts")]
    counts: PathBuf,

    /// Faults to choose from: kill, term, stop, rolling, redis-stop, redis-change, server-kill
    #[arg(long, value_delimiter = ',', default_value = "kill")]
    faults: Vec<String>,
    /// So many faults
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Instead of a number of faults: as many as fit into so many minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// The first instance is left alone, so that its memory can be watched
    #[arg(long)]
    spare_one: bool,
    /// Do not wait for an instance to be back before the next one is broken; one other is always ready
    #[arg(long)]
    overlap: bool,

    /// Sessions
    #[arg(long, default_value_t = 64)]
    sessions: usize,
    /// Calls of each session side by side
    #[arg(long, default_value_t = 3)]
    calls: usize,
    /// Longest pause of a session between two calls, milliseconds
    #[arg(long, default_value_t = 200)]
    think: u64,
    /// How clients come back [default: at-once; those of Streamable HTTP after retry, as the SDKs do]
    #[arg(long, value_enum)]
    reconnect: Option<Reconnect>,
    /// An answer that is overdue for so long makes a client open its stream anew, milliseconds
    #[arg(long, default_value_t = 2000)]
    silence: u64,
    /// A stream that is not opened after so long is tried again, milliseconds
    #[arg(long, default_value_t = 1000)]
    open_limit: u64,
    /// An answer that has not come after so many seconds is lost
    #[arg(long, default_value_t = 30)]
    patience: u64,
    /// After a fault, so many calls a second of all sessions together find out when each is served again
    #[arg(long, default_value_t = 1000.0)]
    probe_rate: f64,
    /// Clients without sessions give no idempotency key: what they ask again runs again, which is counted and is no failure
    #[arg(long)]
    without_keys: bool,
    /// Each session comes from an address of its own, 127.x.y.1, so that ip_hash spreads them (Linux)
    #[arg(long)]
    spread: bool,
    /// How long an instance is paused, milliseconds: longer than the lease and the watchdog
    #[arg(long, default_value_t = 5000)]
    stop_for: u64,
    /// Makes another node of Redis a primary, for redis-change
    #[arg(long)]
    redis_change: Option<String>,
    /// The process of Redis, for redis-stop
    #[arg(long)]
    redis_pid: Option<u32>,
    /// How long Redis is paused, milliseconds, from and to
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"], default_values_t = [3000, 9000])]
    redis_stop_for: Vec<u64>,
    /// Ports of the MCP servers, for server-kill
    #[arg(long, value_delimiter = ' ', default_value = "8071 8072")]
    server_ports: Vec<u16>,
    /// Longest pause before a fault, milliseconds
    #[arg(long, default_value_t = 1000)]
    pause: u64,
    /// Write what was found, with plots, into this file (HTML), too
    #[arg(long)]
    report: Option<PathBuf>,
    /// Seed of all that is random
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match actix_rt::System::new().block_on(drill(arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("failover-drill: {why}");
            ExitCode::from(2)
        }
    }
}

async fn drill(arguments: Arguments) -> Result<bool, String> {
    let faults = arguments.faults.iter().map(|name| fault_named(name)).collect::<Result<Vec<_>, _>>()?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..) >> 32);
    let plan = Rc::new(Plan {
        transport: arguments.transport,
        sse: below(&arguments.url, &format!("sse/{}", arguments.service))?,
        mcp: below(&arguments.url, &format!("mcp/{}", arguments.service))?,
        run: format!("drill-{:08x}", fastrand::u32(..)),
        calls: arguments.calls,
        think: Duration::from_millis(arguments.think),
        silence: Duration::from_millis(arguments.silence),
        open_limit: Duration::from_millis(arguments.open_limit),
        patience: Duration::from_secs(arguments.patience),
        probe_rate: arguments.probe_rate,
        reconnect: arguments.reconnect,
        spread: arguments.spread,
        seed,
    });
    println!("seed {seed}");
    let restart = arguments.restart.clone();
    let cluster = Cluster::new(&arguments.ports, &arguments.run_dir, restart, arguments.rolling.clone());
    cluster.until_all_ready().await?;
    if arguments.transport == Transport::Stateless {
        return stateless::run(&arguments, &cluster, plan.run.clone(), seed).await;
    }
    let board = Rc::new(Board::new(arguments.sessions));
    let sessions: Vec<Rc<Session>> =
        (0..arguments.sessions).map(|number| Session::new(number, Rc::clone(&plan), Rc::clone(&board))).collect();
    let began = Instant::now();
    let started: Vec<Result<(), String>> =
        stream::iter(&sessions).map(|session| session.start()).buffer_unordered(16).collect().await;
    started.into_iter().collect::<Result<Vec<()>, _>>()?;
    println!("{} sessions are open, after {:.1} s", sessions.len(), began.elapsed().as_secs_f64());

    let watcher = actix_rt::spawn(watch(Rc::clone(&cluster)));
    let course = Course {
        arguments: &arguments,
        faults,
        cluster: Rc::clone(&cluster),
        board: Rc::clone(&board),
        sessions: &sessions,
        rng: fastrand::Rng::with_seed(seed),
    };
    let ran = Instant::now();
    let outcome = tokio::select! {
        outcome = course.run() => outcome,
        _ = tokio::signal::ctrl_c() => {
            println!("interrupted; counting what there is");
            Ok(Vec::new())
        }
    };
    cluster.resume_all();
    let rounds = outcome?;
    let ran = ran.elapsed();
    settle(&sessions, &board, plan.patience).await;
    watcher.abort();
    cluster.read_all_counters().await;
    // Our own farewell breaks streams, too.
    let streams = (board.streams.get(), board.broken.get(), board.silent.get());

    let runs = increments(&arguments.counts, &plan.run)?;
    let mut totals = Totals::default();
    for session in &sessions {
        let count = |id: u64| runs.get(&session.call_name(id)).copied().unwrap_or(0);
        let mut ledger = session.ledger.borrow_mut();
        ledger.add_to(&mut totals, count);
        for id in ledger.ran_twice(count) {
            ledger.complain(format!("increment {} ran {} times", session.call_name(id), count(id)));
        }
    }
    let generations: u64 = {
        let placements = cluster.placements().await;
        let ours = sessions.iter().filter_map(|session| placements.get(handle(&session.id()?)));
        ours.map(|placement| placement.generation.saturating_sub(1)).sum()
    };
    for session in &sessions {
        for complaint in &session.ledger.borrow().complaints {
            println!("  {complaint}");
        }
        if let Some(id) = session.id() {
            if session.ledger.borrow().has_losses() {
                cluster.describe(&id).await.iter().for_each(|said| println!("    {said}"));
            }
            cluster.delete(&id).await;
        }
    }
    let report = Report {
        sessions: sessions.len(),
        ran,
        rounds,
        totals,
        streams,
        board: &board,
        cluster: &cluster,
        generations,
    };
    report.print();
    if let Some(file) = &arguments.report {
        written(&report.page(), file)?;
    }
    Ok(report.failures().is_empty())
}

fn written(page: &Page, file: &Path) -> Result<(), String> {
    page.write(file).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("Written: {}", file.display());
    Ok(())
}

fn below(url: &Url, path: &str) -> Result<Target, String> {
    url.join(path).map_err(|error| error.to_string())?.as_str().parse()
}

fn fault_named(name: &str) -> Result<Fault, String> {
    Ok(match name {
        "kill" => Fault::Kill,
        "term" => Fault::Term,
        "stop" => Fault::Stop,
        "rolling" => Fault::Rolling,
        "redis-stop" => Fault::RedisStop,
        "redis-change" => Fault::RedisChange,
        "server-kill" => Fault::ServerKill,
        _ => {
            return Err(format!(
                "no such fault: {name}; known: kill, term, stop, rolling, redis-stop, redis-change, server-kill"
            ));
        }
    })
}

/// Reads counters and memory, since both die with a process.
async fn watch(cluster: Rc<Cluster>) {
    loop {
        cluster.read_all_counters().await;
        cluster.read_memory();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// No new calls; those under way have until the end of everybody's patience.
async fn settle(sessions: &[Rc<Session>], board: &Board, patience: Duration) {
    board.stopping.set(true);
    let deadline = Instant::now() + patience + Duration::from_secs(1);
    let open = || sessions.iter().any(|session| !session.ledger.borrow().open_ids().is_empty());
    while open() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What comes twice comes soon after.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for session in sessions {
        let mut ledger = session.ledger.borrow_mut();
        for id in ledger.open_ids() {
            let accepted = ledger.unanswered().any(|(open, _)| open == id);
            ledger.give_up(id, if accepted { Outcome::Lost } else { Outcome::Doubtful });
        }
    }
}

/// How often each key of this run stands in the servers' file.
fn increments(file: &std::path::Path, run: &str) -> Result<HashMap<String, u64>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut runs = HashMap::new();
    for key in text.lines().filter(|key| key.starts_with(run)) {
        *runs.entry(key.to_owned()).or_default() += 1;
    }
    Ok(runs)
}

/// An instance to break, and the sessions that it serves.
struct Chosen {
    instance: Instance,
    name: String,
    /// Those whose stream it holds.
    streams: Vec<usize>,
    /// Those that it owns and whose stream is elsewhere.
    only_owned: Vec<usize>,
}

struct Course<'a> {
    arguments: &'a Arguments,
    faults: Vec<Fault>,
    cluster: Rc<Cluster>,
    board: Rc<Board>,
    sessions: &'a [Rc<Session>],
    rng: fastrand::Rng,
}

impl Course<'_> {
    async fn run(mut self) -> Result<Vec<Round>, String> {
        let began = Instant::now();
        let progress = progress::of(self.arguments);
        let mut rounds = Vec::new();
        let mut restarts: Vec<actix_rt::task::JoinHandle<Result<(), String>>> = Vec::new();
        loop {
            let done = match self.arguments.minutes {
                Some(minutes) => began.elapsed().as_secs_f64() >= minutes * 60.0,
                None => rounds.len() >= self.arguments.rounds,
            };
            if done {
                break;
            }
            let pause = Duration::from_millis(self.rng.u64(200..=self.arguments.pause.max(200)));
            tokio::time::sleep(pause).await;
            let fault = self.faults[self.rng.usize(..self.faults.len())];
            let round = match fault {
                Fault::Rolling => self.roll().await?,
                Fault::RedisStop => self.stop_redis().await?,
                Fault::ServerKill => self.kill_server().await?,
                Fault::RedisChange => self.change_redis().await?,
                Fault::Kill | Fault::Term | Fault::Stop => self.one(fault, &mut restarts).await?,
            };
            progress.suspend(|| println!("{:>4}  {round}", rounds.len() + 1));
            rounds.push(round);
            progress.set_position(match self.arguments.minutes {
                Some(_) => began.elapsed().as_secs(),
                None => rounds.len() as u64,
            });
            let (ended, running) = restarts.into_iter().partition(|restart| restart.is_finished());
            restarts = running;
            for restart in ended {
                restart.await.map_err(|error| error.to_string())??;
            }
        }
        for restart in restarts {
            restart.await.map_err(|error| error.to_string())??;
        }
        Ok(rounds)
    }

    /// The owner of a session chosen at random.
    async fn choose(&mut self) -> Result<Chosen, String> {
        loop {
            let mut ready = Vec::new();
            for (index, instance) in self.cluster.instances.iter().enumerate() {
                if self.cluster.is_ready(instance).await
                    && let Some(identity) = self.cluster.identity(instance).await
                {
                    ready.push((index, instance.clone(), identity));
                }
            }
            let enough = if self.arguments.overlap { 2 } else { self.cluster.instances.len() };
            let placements = self.cluster.placements().await;
            let owners: Vec<&str> = self
                .sessions
                .iter()
                .filter_map(|session| placements.get(handle(&session.id()?)).map(|placement| placement.owner.as_str()))
                .collect();
            if ready.len() >= enough && !owners.is_empty() {
                if self.arguments.spare_one {
                    ready.retain(|(index, _, _)| *index != 0);
                }
                // Who owns more is broken more often. The spared one gathers sessions and never loses one: when it is
                // drawn, one of the others is broken, with the streams that it holds.
                let owner = owners[self.rng.usize(..owners.len())];
                let drawn = ready.iter().position(|(_, _, identity)| identity.id == owner);
                let other = (self.arguments.spare_one && !ready.is_empty()).then(|| self.rng.usize(..ready.len()));
                if let Some((_, instance, identity)) = drawn.or(other).map(|index| ready.swap_remove(index)) {
                    let place = |session: &Rc<Session>| placements.get(handle(&session.id()?));
                    let (mut streams, mut only_owned) = (Vec::new(), Vec::new());
                    for (number, session) in self.sessions.iter().enumerate() {
                        let Some(placement) = place(session) else { continue };
                        if placement.holders.contains(&identity.incarnation) {
                            streams.push(number);
                        } else if placement.owner == identity.id {
                            only_owned.push(number);
                        }
                    }
                    return Ok(Chosen { instance, name: identity.id, streams, only_owned });
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn one(
        &mut self,
        fault: Fault,
        restarts: &mut Vec<actix_rt::task::JoinHandle<Result<(), String>>>,
    ) -> Result<Round, String> {
        let Chosen { instance, name, streams, only_owned } = self.choose().await?;
        self.cluster.read_counters(&instance).await;
        let signal = match fault {
            Fault::Kill => "KILL",
            Fault::Term => "TERM",
            _ => "STOP",
        };
        let at = self.cluster.signal(&instance, signal)?;
        let number = self.board.fault_at(at);
        let cluster = Rc::clone(&self.cluster);
        let pause = Duration::from_millis(self.rng.u64(0..1000));
        let stop_for = Duration::from_millis(self.arguments.stop_for);
        let back = actix_rt::spawn(async move {
            if fault == Fault::Stop {
                tokio::time::sleep_until((at + stop_for).into()).await;
                cluster.resume(&instance, pause).await
            } else {
                cluster.restart(&instance, pause).await
            }
        });
        let affected: Vec<usize> = streams.iter().chain(&only_owned).copied().collect();
        let recoveries = self.until_served(number, at, &affected).await;
        if self.arguments.overlap {
            restarts.push(back);
        } else {
            back.await.map_err(|error| error.to_string())??;
            self.until_quiet().await;
        }
        let times = |sessions: &[usize]| sessions.iter().filter_map(|session| recoveries[*session]).collect();
        Ok(Round {
            fault,
            instance: name,
            affected: streams.len() + only_owned.len(),
            streams: times(&streams),
            only_owned: times(&only_owned),
            took: at.elapsed(),
            held: Duration::ZERO,
        })
    }

    /// Waits until all these sessions are served again, or patience is over.
    async fn until_served(&self, fault: usize, at: Instant, sessions: &[usize]) -> Vec<Option<Duration>> {
        let deadline = at + Duration::from_secs(self.arguments.patience);
        loop {
            let recoveries = self.board.recoveries(fault);
            if sessions.iter().all(|session| recoveries[*session].is_some()) || Instant::now() >= deadline {
                return recoveries;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Redis answers nobody for a while: every session waits.
    async fn stop_redis(&mut self) -> Result<Round, String> {
        let pid = self.arguments.redis_pid.ok_or("redis-stop needs --redis-pid")?;
        self.until_all_ready_and_quiet().await?;
        let range = (self.arguments.redis_stop_for[0], self.arguments.redis_stop_for[1]);
        let held = Duration::from_millis(self.rng.u64(range.0..=range.1.max(range.0)));
        let at = self.cluster.pause_other(pid)?;
        let number = self.board.fault_at(at);
        tokio::time::sleep_until((at + held).into()).await;
        self.cluster.go_on(pid)?;
        self.for_all(Fault::RedisStop, "Redis".to_owned(), number, at, held).await
    }

    /// Another node of Redis becomes a primary, with calls in flight.
    async fn change_redis(&mut self) -> Result<Round, String> {
        let command = self.arguments.redis_change.clone().ok_or("redis-change needs --redis-change")?;
        self.until_all_ready_and_quiet().await?;
        let at = Instant::now();
        let number = self.board.fault_at(at);
        cluster::change_redis(&command).await?;
        self.for_all(Fault::RedisChange, "Redis".to_owned(), number, at, Duration::ZERO).await
    }

    /// An MCP server dies; what it worked on is sorted out, and its sessions go on at another one.
    async fn kill_server(&mut self) -> Result<Round, String> {
        self.until_all_ready_and_quiet().await?;
        let ports = &self.arguments.server_ports;
        let port = *ports.get(self.rng.usize(..ports.len().max(1))).ok_or("server-kill needs --server-ports")?;
        let at = self.cluster.kill_server(port)?;
        let number = self.board.fault_at(at);
        let (cluster, pause) = (Rc::clone(&self.cluster), Duration::from_millis(self.rng.u64(500..3000)));
        let back = actix_rt::spawn(async move { cluster.restart_server(port, pause).await });
        let round = self.for_all(Fault::ServerKill, format!("server {port}"), number, at, Duration::ZERO).await;
        back.await.map_err(|error| error.to_string())??;
        round
    }

    async fn until_all_ready_and_quiet(&self) -> Result<(), String> {
        self.cluster.until_all_ready().await?;
        self.until_quiet().await;
        Ok(())
    }

    /// What came of a fault that concerns every session. `held`: for so long nobody could be served.
    async fn for_all(
        &self,
        fault: Fault,
        instance: String,
        number: usize,
        at: Instant,
        held: Duration,
    ) -> Result<Round, String> {
        let all: Vec<usize> = (0..self.sessions.len()).collect();
        let recoveries = self.until_served(number, at, &all).await;
        self.until_quiet().await;
        let streams = recoveries.into_iter().flatten().map(|after| after.saturating_sub(held)).collect();
        Ok(Round { fault, instance, affected: all.len(), streams, only_owned: Vec::new(), took: at.elapsed(), held })
    }

    /// Waits until everything that the fault may have held up is answered: the next one starts from nothing.
    async fn until_quiet(&self) {
        let back = Instant::now();
        let deadline = back + Duration::from_secs(self.arguments.patience);
        let held_up = |session: &Rc<Session>| session.ledger.borrow().has_open_before(back);
        while self.sessions.iter().any(held_up) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn roll(&mut self) -> Result<Round, String> {
        let at = Instant::now();
        self.board.fault_at(at);
        self.cluster.roll().await?;
        Ok(Round {
            fault: Fault::Rolling,
            instance: "all".to_owned(),
            affected: 0,
            streams: Vec::new(),
            only_owned: Vec::new(),
            took: at.elapsed(),
            held: Duration::ZERO,
        })
    }
}

/// Memory over time by instance, for the report.
fn by_port(samples: &[cluster::MemorySample]) -> BTreeMap<u16, Vec<cluster::MemorySample>> {
    let mut ports: BTreeMap<u16, Vec<cluster::MemorySample>> = BTreeMap::new();
    for sample in samples {
        ports.entry(sample.port).or_default().push(*sample);
    }
    ports
}
