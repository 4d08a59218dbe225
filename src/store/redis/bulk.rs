//! Bulk work: many commands on connections of the pools, each with its own result.
//!
//! What goes to several nodes goes to all of them at once; a node that is away costs the others nothing.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use redis::{Pipeline, Value};
use tokio::time::{Instant, sleep};

use super::{
    link::{Judged, Link, discard, pause_before},
    place::Place,
    scripts::Call,
    topology::Turn,
};
use crate::store::{StoreError, StoreResult};

/// One command that has no answer yet.
struct Open {
    /// Which of the callers' it is.
    at: usize,
    call: Call,
    /// Behind an `ASKING`, there.
    asking: Option<Place>,
    /// It is asked of this node, whatever its keys are.
    stays: bool,
}

impl Link {
    /// Many commands, wherever their keys are.
    pub(super) async fn bulk(&self, calls: Vec<Call>) -> Vec<StoreResult<Value>> {
        // Counted as what it begins with.
        let (first, begun) = (calls.first().map(|call| call.operation), Instant::now());
        let done = self.bulk_uncounted(calls).await;
        if let Some(operation) = first {
            self.metrics.operation(operation).observe(begun.elapsed().as_secs_f64());
        }
        done
    }

    async fn bulk_uncounted(&self, calls: Vec<Call>) -> Vec<StoreResult<Value>> {
        let deadline = Instant::now() + self.timeout;
        let mut results: Vec<_> = calls.iter().map(|_| None).collect();
        let mut open: Vec<Open> =
            calls.into_iter().enumerate().map(|(at, call)| Open { at, call, asking: None, stays: false }).collect();
        for turn in 0.. {
            let mut places: BTreeMap<Place, Vec<Open>> = BTreeMap::new();
            for one in open.drain(..) {
                places.entry(one.asking.unwrap_or_else(|| self.topology.place(&one.call))).or_default().push(one);
            }
            let mut pause = false;
            let done = places.into_iter().map(|(place, calls)| self.at_place(place, calls, deadline));
            for (one, judged) in join_all(done).await.into_iter().flatten() {
                match judged {
                    Judged::Again(turn, _) if Instant::now() < deadline => {
                        let asking = if let Turn::Asking(place) = turn { Some(place) } else { None };
                        pause |= turn == Turn::Later;
                        open.push(Open { asking, ..one });
                    }
                    Judged::Again(_, error) => {
                        self.gave_up(&error, self.topology.place(&one.call));
                        results[one.at] = Some(Err(error));
                    }
                    Judged::Done(result) => results[one.at] = Some(result),
                }
            }
            if open.is_empty() {
                break;
            }
            if pause {
                sleep(pause_before(turn)).await;
            }
        }
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(missing()))).collect()
    }

    /// The commands whose keys are there, on one connection.
    async fn at_place(&self, place: Place, calls: Vec<Open>, deadline: Instant) -> Vec<(Open, Judged)> {
        let mut done = Vec::with_capacity(calls.len());
        let node = self.node();
        let Some(first) = calls.first() else { return done };
        let borrowed = tokio::select! {
            borrowed = self.borrow(place, deadline) => borrowed.map_err(|error| Judged::Done(Err(error))),
            () = self.is_elsewhere(&first.call, place), if first.asking.is_none() && !first.stays => {
                let error = StoreError::NotDone("its keys are at another node".to_owned());
                Err(Judged::Again(Turn::Later, error))
            }
        };
        let mut connection = match borrowed {
            Ok(connection) => connection,
            Err(judged) => return calls.into_iter().map(|one| (one, judged.clone())).collect(),
        };
        let mut redial = false;
        let mut calls = calls.into_iter().peekable();
        let (mut sent, mut pipeline) = (Vec::new(), Pipeline::with_capacity(self.batch));
        while let Some(one) = calls.next() {
            if one.asking.is_some() {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(one.call.cmd.clone());
            sent.push(one);
            if sent.len() < self.batch && calls.peek().is_some() {
                continue;
            }
            match self.exchange(&mut connection, &pipeline, place).await {
                Ok(answers) => {
                    redial |= answers.redial;
                    let mut judged = answers.results.into_iter();
                    for one in sent.drain(..) {
                        // That to `ASKING` is not looked at: what follows it tells.
                        let judged = judged.nth(usize::from(one.asking.is_some()));
                        done.push((one, judged.unwrap_or_else(|| Judged::Done(Err(missing())))));
                    }
                }
                Err(error) => {
                    discard(connection);
                    done.extend(sent.into_iter().chain(calls).map(|one| (one, Judged::Done(Err(error.clone())))));
                    return done;
                }
            }
            pipeline.clear();
        }
        if redial || node.has_changed().unwrap_or(true) {
            discard(connection);
        }
        done
    }

    /// As [`Self::bulk`], for one command.
    pub(super) async fn single(&self, call: Call) -> StoreResult<Value> {
        self.bulk(vec![call]).await.pop().unwrap_or_else(|| Err(missing()))
    }

    /// One command at this place, whatever its keys are.
    pub(super) async fn single_at(&self, place: Place, call: Call) -> StoreResult<Value> {
        let one = Open { at: 0, call, asking: None, stays: true };
        match self.at_place(place, vec![one], Instant::now() + self.timeout).await.pop() {
            Some((_, Judged::Done(result))) => result,
            Some((_, Judged::Again(_, error))) => Err(error),
            None => Err(missing()),
        }
    }
}

fn missing() -> StoreError {
    StoreError::Unavailable("answers are missing".to_owned())
}
