//! What any instance does for any client, by whichever surface it comes: open a stream, take a message, ask who somebody
//! is, call a server.
//!
//! Knows nothing of HTTP: it is told plain facts and answers in named enums, which the surfaces map. It owns nothing of a
//! session; owners and streams are `session`'s, who lives is `cluster`'s to judge.
//!
//! | file | what stands there |
//! |---|---|
//! | `open` | a client's stream: a new session, or one that it had |
//! | `rebind` | a client that shows nothing is asked which session it had |
//! | `deliver` | a message of a client, into its session's journal |
//! | `answered` | the same for a POST whose name may be another one's, too |
//! | `doubt` | the first message of a client that a cookie alone has led to a session |
//! | `call` | requests without a session, over the router's shared ones |
//! | `proofs` | whose doubt is settled |
//! | `under_way` | which of them a caller's cancel means |
//! | `patience` | how long a client waits for the store |
//!
//! They import each other in one direction: `answered` → `deliver`, `rebind` → `open`, `call` → `under_way`, all →
//! `patience`.

pub mod answered;
pub mod call;
pub mod deliver;
pub mod doubt;
pub mod open;
mod patience;
mod proofs;
pub mod rebind;
pub mod under_way;

pub use self::patience::StoreUnavailable;

use std::{
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
};

use self::{proofs::Proofs, under_way::Calls};
use crate::{
    cluster::{Cluster, Member, limiter::RateLimiter},
    session::{env::Env, room::Guests},
    settings::LimitSettings,
};

/// What the gateways of all threads share.
#[derive(Debug)]
pub struct Shared {
    /// Sessions of each client.
    guests: Arc<Guests>,
    /// Streams found by a cookie whose clients have shown who they are.
    proofs: Proofs,
    /// Bounds new sessions per second.
    openings: RateLimiter,
    /// Calls without a session under way, and whose.
    calls: Calls,
    /// How many requests without a session are under way.
    pub in_flight: AtomicUsize,
}

impl Shared {
    /// With nobody there.
    pub fn new(limits: &LimitSettings) -> Self {
        Self {
            guests: Arc::default(),
            proofs: Proofs::default(),
            openings: RateLimiter::new(limits.new_session_rate),
            calls: Calls::default(),
            in_flight: AtomicUsize::new(0),
        }
    }
}

/// What this instance does for clients, on one worker thread.
#[derive(Debug)]
pub struct Gateway {
    env: Arc<Env>,
    cluster: Arc<Cluster>,
    member: Rc<Member>,
    /// With the other threads.
    pub shared: Arc<Shared>,
}

impl Gateway {
    /// On the thread of this member.
    pub fn new(member: Rc<Member>, shared: Arc<Shared>) -> Self {
        let cluster = Arc::clone(&member.cluster);
        Self { env: Arc::clone(&cluster.env), cluster, member, shared }
    }
}
