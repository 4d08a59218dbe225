//! Clients without sessions (MCP 2026-07-28): each calls without a pause, and a call whose connection breaks is asked again under a
//! new id, as the specification wants it. With an idempotency key it must run once all the same.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::ModernClient;

use super::{
    Arguments,
    cluster::{Cluster, Fault},
    fault_named, increments,
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
        println!("{round:>4}  {} of {}, back after {:.1} s", fault.name(), instance.port, at.elapsed().as_secs_f64());
    }
    callers.stopping.set(true);
    for playing in playing {
        playing.await.map_err(|error| error.to_string())?;
    }
    let runs = increments(&arguments.counts, &run)?;
    Ok(report(&callers, &runs, began.elapsed()))
}

fn report(callers: &Callers, runs: &std::collections::HashMap<String, u64>, ran: Duration) -> bool {
    let (told, lost) = (callers.told.borrow(), callers.lost.borrow());
    let count = |key: &str| runs.get(key).copied().unwrap_or(0);
    let twice: Vec<&str> = told.iter().map(|told| told.key.as_str()).filter(|key| count(key) > 1).collect();
    let never: Vec<&str> =
        told.iter().filter(|told| told.is_result && count(&told.key) == 0).map(|told| told.key.as_str()).collect();
    let again: Vec<&Told> = told.iter().filter(|told| told.tries > 1).collect();
    let slowest = again.iter().map(|told| told.took).max().unwrap_or_default();
    println!();
    println!("calls answered                 {:>8}   in {:.1} s", told.len(), ran.as_secs_f64());
    println!("  asked more than once         {:>8}   slowest {:.2} s", again.len(), slowest.as_secs_f64());
    println!("  outcome unknown              {:>8}", told.iter().filter(|told| !told.is_result).count());
    println!("lost                           {:>8}", lost.len());
    println!("ran more than once             {:>8}", twice.len());
    println!("told a result, and never ran   {:>8}", never.len());
    for key in twice.iter().chain(&never).chain(&lost.iter().map(String::as_str).collect::<Vec<_>>()).take(20) {
        println!("    {key}: ran {} times", count(key));
    }
    let is_kept = lost.is_empty() && never.is_empty() && (!callers.with_keys || twice.is_empty());
    println!("{}", if is_kept { "PASSED" } else { "FAILED" });
    is_kept
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
