//! The death of an owner: sessions work in a closed loop, one process is killed, and the clients do what a good client
//! does. A broken event stream is opened again at once with `Last-Event-ID`; a POST that failed is sent again.

use std::{
    cell::{Cell, RefCell},
    io,
    net::IpAddr,
    process::Command,
    rc::Rc,
    time::{Duration, Instant},
};

use testkit::{
    connection::{Target, invalid},
    events::Events,
    poster::Poster,
};
use tokio::task::JoinSet;

use crate::{
    Fault,
    call::{Answer, Request},
    closed_loop::Window,
    figures::{Figures, Latencies, Recovery},
    options::Failover,
    process::Sample,
    progress,
    session::{Client, open_many},
    sse::Session,
};

/// First pause after a failed attempt; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How long the last calls may take after the run.
const GRACE: Duration = Duration::from_secs(5);

/// What all sessions of the run share.
struct Drill {
    window: Rc<Window>,
    killed: Cell<Option<Instant>>,
    think: Duration,
    answered: Cell<u32>,
    recovery: RefCell<Latencies>,
    first_answer: RefCell<Latencies>,
    broken: Cell<u64>,
    replaced: Cell<u64>,
    refused_calls: Cell<u64>,
    repeated_answers: Cell<u64>,
    repeated_posts: Cell<u64>,
    failed_reconnects: Cell<u64>,
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

pub async fn run(options: &Rc<Failover>) -> Result<Figures, Fault> {
    let load = &options.load;
    let client = Client::new(&load.common, load.payload)?;
    let mut sessions = open_many(&client, 0, load.common.sessions, Session::open).await?;
    for session in &mut sessions {
        // The router repeats only what is known to be repeatable.
        session.list_tools().await?;
    }
    let drill = Rc::new(Drill {
        window: Window::new(),
        killed: Cell::new(None),
        think: load.think,
        answered: Cell::new(0),
        recovery: RefCell::default(),
        first_answer: RefCell::default(),
        broken: Cell::new(0),
        replaced: Cell::new(0),
        refused_calls: Cell::new(0),
        repeated_answers: Cell::new(0),
        repeated_posts: Cell::new(0),
        failed_reconnects: Cell::new(0),
    });
    let mut tasks = JoinSet::new();
    for session in sessions {
        tasks.spawn_local(Worker { session, drill: Rc::clone(&drill), streams: 0, recovered: false }.work());
    }
    tokio::time::sleep(load.warmup).await;

    let before = Sample::take(&load.common.groups)?;
    drill.window.begin();
    let start = Instant::now();
    drill.killed.set(Some(start));
    let killed = Command::new("kill").args(["-KILL", &options.kill.to_string()]).status()?;
    if !killed.success() {
        return Err(format!("process {} cannot be killed", options.kill).into());
    }
    let progress = progress::over("failover", load.seconds);
    tokio::time::sleep(load.seconds).await;
    drop(progress);
    while drill.answered.get() < load.common.sessions && start.elapsed() < options.patience && !tasks.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drill.window.end();
    let elapsed = start.elapsed();
    let after = Sample::take(&load.common.groups)?;
    // Those that wait for an answer in vain are counted as lost below.
    let _ = tokio::time::timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;

    let lost = u64::from(load.common.sessions - drill.answered.get());
    let mut figures = Figures::new("failover", &load.common);
    figures.payload = Some(load.payload);
    drill.window.report(&mut figures, elapsed);
    figures.set_processes(&before, &after, figures.calls, u64::from(load.common.sessions));
    if lost > 0 {
        figures.add_error(format!("{lost} sessions were not answered any more"));
    }
    figures.failover = Some(Recovery {
        broken: drill.broken.get(),
        recovery_ms: drill.recovery.borrow_mut().quantiles(),
        first_answer_ms: drill.first_answer.borrow_mut().quantiles(),
        lost,
        replaced: drill.replaced.get(),
        refused_calls: drill.refused_calls.get(),
        repeated_answers: drill.repeated_answers.get(),
        repeated_posts: drill.repeated_posts.get(),
        failed_reconnects: drill.failed_reconnects.get(),
    });
    Ok(figures)
}

/// One session.
struct Worker {
    session: Session,
    drill: Rc<Drill>,
    /// How many event streams there were after the first one.
    streams: u32,
    recovered: bool,
}

impl Worker {
    async fn work(mut self) {
        let mut answered = false;
        while self.drill.window.is_open() {
            let start = Instant::now();
            if let Err(error) = self.call().await {
                self.drill.window.failed(&format!("session {}: {error}", self.session.number));
                return;
            }
            self.drill.window.done(start);
            if let Some(killed) = self.drill.killed.get() {
                if !std::mem::replace(&mut answered, true) {
                    self.drill.first_answer.borrow_mut().add_since(killed);
                    self.drill.answered.set(self.drill.answered.get() + 1);
                }
                if self.streams > 0 && !std::mem::replace(&mut self.recovered, true) {
                    self.drill.recovery.borrow_mut().add_since(killed);
                }
            }
            if !self.drill.think.is_zero() {
                let (_, mut listener) = parts(&mut self.session, &self.drill, &mut self.streams);
                // Nothing is expected, but a stream that breaks meanwhile is opened again.
                let _ = tokio::time::timeout(self.drill.think, listener.answer()).await;
            }
        }
    }

    /// One call to its end: its POST is accepted, and it is answered (be it with an error).
    async fn call(&mut self) -> io::Result<()> {
        self.session.request.next();
        let drill = &*self.drill;
        let done = Cell::new(false);
        let (poster, mut listener) = parts(&mut self.session, drill, &mut self.streams);
        let posted = deliver(poster, listener.request.again(), drill, &done);
        let answered = async {
            let answer = listener.answer().await;
            done.set(true);
            answer
        };
        let (posted, answer) = tokio::join!(posted, answered);
        posted?;
        match answer? {
            Answer::Right => Ok(()),
            Answer::Error => {
                count(&drill.refused_calls);
                Ok(())
            }
            other => Err(invalid(format!("{other:?}"))),
        }
    }
}

/// The two halves of a session that work side by side.
fn parts<'a>(session: &'a mut Session, drill: &'a Drill, streams: &'a mut u32) -> (&'a Poster, Listener<'a>) {
    let Session { client, number, events, endpoint, poster, request } = session;
    (poster, Listener { client, source: client.source(*number), endpoint, request, events, drill, streams })
}

/// POSTs until it is accepted, or answered (then it was).
async fn deliver(poster: &Poster, request: &[u8], drill: &Drill, done: &Cell<bool>) -> io::Result<()> {
    let mut pause = PAUSE_MIN;
    loop {
        match poster.send(request).await {
            Ok((200..=299, _)) => return Ok(()),
            Ok((status @ 400..=499, _)) => return Err(invalid(format!("a POST is answered with status {status}"))),
            Ok(_) | Err(_) if done.get() || !drill.window.is_open() => return Ok(()),
            Ok(_) | Err(_) => count(&drill.repeated_posts),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The event stream of a session, opened again whenever it breaks.
struct Listener<'a> {
    client: &'a Client,
    source: Option<IpAddr>,
    endpoint: &'a Target,
    request: &'a Request,
    events: &'a mut Events,
    drill: &'a Drill,
    streams: &'a mut u32,
}

impl Listener<'_> {
    /// Waits for the answer to the current call.
    async fn answer(&mut self) -> io::Result<Answer> {
        loop {
            let Ok(event) = self.events.next_event().await else {
                if *self.streams == 0 {
                    count(&self.drill.broken);
                }
                self.reconnect().await?;
                continue;
            };
            if !event.is_message() {
                continue;
            }
            match self.request.check(&event.data) {
                Answer::None => {}
                Answer::Earlier => count(&self.drill.repeated_answers),
                answer => return Ok(answer),
            }
        }
    }

    async fn reconnect(&mut self) -> io::Result<()> {
        let Client { target, headers, .. } = self.client;
        let last_id = String::from_utf8_lossy(&self.events.last_id).into_owned();
        let headers = format!("{headers}Last-Event-ID: {last_id}\r\n");
        let mut pause = PAUSE_MIN;
        loop {
            let opened = async {
                let mut events = Events::open(target, self.source, &headers).await?;
                let endpoint = target.join(&events.read_endpoint().await?)?;
                Ok::<_, io::Error>((events, endpoint))
            };
            match opened.await {
                Ok((events, endpoint)) if session_of(&endpoint) == session_of(self.endpoint) => {
                    *self.events = events;
                    *self.streams += 1;
                    return Ok(());
                }
                Ok(_) => {
                    count(&self.drill.replaced);
                    return Err(invalid("the session was replaced by a new one"));
                }
                Err(error) if !self.drill.window.is_open() => return Err(error),
                Err(_) => count(&self.drill.failed_reconnects),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn session_of(endpoint: &Target) -> Option<String> {
    endpoint.url.query_pairs().find(|(name, _)| name == "sessionId").map(|(_, value)| value.into_owned())
}
