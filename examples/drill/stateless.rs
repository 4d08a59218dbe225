//! Clients without sessions (MCP 2026-07-28): each calls without a pause, and a call whose connection breaks is asked again under a
//! new id, as the specification wants it. With an idempotency key it must run once all the same.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{
    ModernClient,
    page::{Marks, Page, Plot, shares},
};

use super::{
    Arguments,
    cluster::{Cluster, Fault},
    fault_named, increments, progress, written,
};

/// Before a call is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What has come of a call.
struct Told {
    key: String,
    /// It has a result; otherwise nobody knows its outcome.
    is_result: bool,
    /// From the first request to the answer.
    took: Duration,
    tries: u32,
}

struct Callers {
    addr: SocketAddr,
    service: String,
    run: String,
    with_keys: bool,
    patience: Duration,
    stopping: Cell<bool>,
    told: RefCell<Vec<Told>>,
    lost: RefCell<Vec<String>>,
}

impl Callers {
    async fn play(self: Rc<Self>, caller: usize) {
        let mut number = 0;
        while !self.stopping.get() {
            number += 1;
            let key = format!("{} caller {caller} call {number}", self.run);
            match self.call(&key).await {
                Some(told) => self.told.borrow_mut().push(told),
                None => self.lost.borrow_mut().push(key),
            }
        }
    }

    /// `None`: no answer within its time.
    async fn call(&self, key: &str) -> Option<Told> {
        let client = ModernClient::of(&self.service);
        let client = if self.with_keys { client.header("Idempotency-Key", key) } else { client };
        let began = Instant::now();
        let mut tries = 0;
        while began.elapsed() < self.patience {
            tries += 1;
            let params = json!({ "name": "increment", "arguments": { "key": key } });
            let left = self.patience.saturating_sub(began.elapsed());
            let answered = tokio::time::timeout(left, client.try_call(self.addr, "tools/call", params)).await;
            if let Ok(Ok(answered)) = answered
                && let Some(is_result) = judge(&answered.response)
            {
                return Some(Told { key: key.to_owned(), is_result, took: began.elapsed(), tries });
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        None
    }
}

/// Whether a response is a result, or that nobody knows; `None`: it is to be asked again.
fn judge(response: &Value) -> Option<bool> {
    if response.get("result").is_some() {
        return Some(true);
    }
    let details = &response["error"]["data"];
    (details["outcome"] == "unknown" && details["retry"] != true).then_some(false)
}

/// Runs it. `false`: a call was lost, or one with a key ran twice, or was told a result that it does not have.
pub(super) async fn run(arguments: &Arguments, cluster: &Rc<Cluster>, run: String, seed: u64) -> Result<bool, String> {
    let addr = arguments.url.socket_addrs(|| None).map_err(|error| error.to_string())?;
    let callers = Rc::new(Callers {
        addr: *addr.first().ok_or("the URL names no address")?,
        service: arguments.service.clone(),
        run: run.clone(),
        with_keys: !arguments.without_keys,
        patience: Duration::from_secs(arguments.patience),
        stopping: Cell::new(false),
        told: RefCell::default(),
        lost: RefCell::default(),
    });
    let mut rng = fastrand::Rng::with_seed(seed);
    let faults = arguments.faults.iter().map(|name| fault_named(name)).collect::<Result<Vec<_>, _>>()?;
    let playing: Vec<_> =
        (0..arguments.sessions).map(|caller| actix_rt::spawn(Rc::clone(&callers).play(caller))).collect();
    let began = Instant::now();
    let progress = progress::of(arguments);
    let mut back = Vec::new();
    for round in 1..=arguments.rounds {
        tokio::time::sleep(Duration::from_millis(rng.u64(200..=arguments.pause.max(200)))).await;
        let fault = faults[rng.usize(..faults.len())];
        let instance = cluster.instances[rng.usize(..cluster.instances.len())].clone();
        let signal = match fault {
            Fault::Kill => "KILL",
            Fault::Term => "TERM",
            Fault::Stop => "STOP",
            _ => return Err(format!("{} is not for clients without sessions", fault.name())),
        };
        let at = cluster.signal(&instance, signal)?;
        if fault == Fault::Stop {
            tokio::time::sleep_until((at + Duration::from_millis(arguments.stop_for)).into()).await;
            cluster.resume(&instance, Duration::ZERO).await?;
        } else {
            cluster.restart(&instance, Duration::from_millis(rng.u64(0..500))).await?;
        }
        cluster.until_all_ready().await?;
        let took = at.elapsed().as_secs_f64();
        progress.suspend(|| println!("{round:>4}  {} of {}, back after {took:.1} s", fault.name(), instance.port));
        progress.set_position(round as u64);
        back.push((round as f64, took));
    }
    callers.stopping.set(true);
    for playing in playing {
        playing.await.map_err(|error| error.to_string())?;
    }
    let runs = increments(&arguments.counts, &run)?;
    progress.finish_and_clear();
    let (page, is_kept) = report(&callers, &runs, began.elapsed(), back);
    if let Some(file) = &arguments.report {
        written(&page, file)?;
    }
    Ok(is_kept)
}

/// Prints the table; the same as a page, and whether all was kept. `back`: each fault, and the seconds until its instance was back.
fn report(
    callers: &Callers,
    runs: &std::collections::HashMap<String, u64>,
    ran: Duration,
    back: Vec<(f64, f64)>,
) -> (Page, bool) {
    let (told, lost) = (callers.told.borrow(), callers.lost.borrow());
    let count = |key: &str| runs.get(key).copied().unwrap_or(0);
    let twice: Vec<&str> = told.iter().map(|told| told.key.as_str()).filter(|key| count(key) > 1).collect();
    let never: Vec<&str> =
        told.iter().filter(|told| told.is_result && count(&told.key) == 0).map(|told| told.key.as_str()).collect();
    let again: Vec<&Told> = told.iter().filter(|told| told.tries > 1).collect();
    let slowest = again.iter().map(|told| told.took).max().unwrap_or_default();
    let unknown = told.iter().filter(|told| !told.is_result).count();
    let rows = [
        ("calls answered", told.len(), format!("   in {:.1} s", ran.as_secs_f64())),
        ("  asked more than once", again.len(), format!("   slowest {:.2} s", slowest.as_secs_f64())),
        ("  outcome unknown", unknown, String::new()),
        ("lost", lost.len(), String::new()),
        ("ran more than once", twice.len(), String::new()),
        ("told a result, and never ran", never.len(), String::new()),
    ];
    println!();
    for (name, count, more) in &rows {
        println!("{name:<30} {count:>8}{more}");
    }
    for key in twice.iter().chain(&never).chain(&lost.iter().map(String::as_str).collect::<Vec<_>>()).take(20) {
        println!("    {key}: ran {} times", count(key));
    }
    let is_kept = lost.is_empty() && never.is_empty() && (!callers.with_keys || twice.is_empty());
    println!("{}", if is_kept { "PASSED" } else { "FAILED" });
    let plot = |title: &str, x: &str, y: &str, marks, points| Plot {
        title: title.to_owned(),
        x: x.to_owned(),
        y: y.to_owned(),
        marks,
        names: Vec::new(),
        series: vec![(String::new(), points)],
    };
    let times = shares(again.iter().map(|told| told.took.as_secs_f64() * 1000.0).collect());
    let failed = || "calls were lost, ran more than once, or were told a result that they do not have".to_owned();
    let page = Page {
        title: "Failover drill: clients without sessions".to_owned(),
        failures: (!is_kept).then(failed).into_iter().collect(),
        passed: "PASSED".to_owned(),
        figures: rows.iter().map(|(name, count, more)| (name.trim().to_owned(), format!("{count}{more}"))).collect(),
        plots: vec![
            plot("Share of calls cut that are answered by then", "ms from the first request", "%", Marks::Line, times),
            plot("Until the instance was back", "fault", "s", Marks::Dots, back),
        ],
    };
    (page, is_kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_asked_again_is_no_answer() {
        for (response, expected) in [
            (json!({ "result": {} }), Some(true)),
            (json!({ "error": { "data": { "outcome": "unknown", "retry": false } } }), Some(false)),
            (json!({ "error": { "data": { "outcome": "unknown", "retry": true } } }), None),
            (json!({ "error": { "data": { "outcome": "not_executed" } } }), None),
            (json!({ "error": {} }), None),
        ] {
            assert_eq!(judge(&response), expected, "{response}");
        }
    }
}
