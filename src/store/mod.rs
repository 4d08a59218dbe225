//! The session store: the one place where the truth about sessions stands.
//!
//! Role: [`SessionStore`] is what the rest of the router knows of persistence: the sum of roles, so that what needs one
//! can say so. Two implementations pass the same contract tests (`tests/store_contract.rs`): [`memory`] (embedded, one
//! instance) and [`redis`] (shared by many). Every operation is one atomic step; there is no operation whose half can be
//! seen.
//!
//! | role | what it keeps |
//! |---|---|
//! | [`Sessions`] | sessions as a whole: life, head ([`SessionHead`]), owner |
//! | [`Journal`] | what the client has sent, and the requests without an answer |
//! | [`EventLog`] | what goes to the client, a log for each stream, and who shows it |
//! | [`Instances`] | the processes: leases, and what they own |
//! | [`ClientLists`] | hints by which a client that comes back finds its session |
//! | [`Calls`] | calls that outlive the instance at which they came |
//! | [`Rates`] | how often principals may ask |
//! | [`Operators`] | what people are shown of all instances, and ask of one |
//! | [`WakeUps`] | "look at this session" |
//!
//! Words (see `docs/redis-model.md`): the *owner* of a session is the one process that talks to its upstream, named by
//! instance id and *incarnation* (random per process start). `generation` rises at every change of owner and, with
//! `epoch` (random at creation) and incarnation, is the [`Fence`] that every owner write carries (OWN-1).
//! The *inbox* holds what the client sent; the *request table* the requests without an answer; each *stream* is an
//! event log towards the client.
//!
//! Never: this module does not know HTTP, MCP methods or actors.

mod binding;
mod calls;
mod client_lists;
mod event_log;
mod head;
mod instances;
mod journal;
pub mod memory;
mod older;
mod operators;
mod rates;
pub mod redis;
mod sessions;
mod subjects;
mod types;
mod wake_ups;

use std::time::Duration;

use async_trait::async_trait;

use self::head::TRACE;

pub use self::{
    binding::Binding,
    calls::*,
    client_lists::*,
    event_log::*,
    head::{Continuation, HeadChange, Hint, Holder, Initialized, Ownership, SessionHead, StreamHead},
    instances::*,
    journal::*,
    older::*,
    operators::*,
    rates::*,
    sessions::*,
    subjects::*,
    types::*,
    wake_ups::*,
};

/// The store: all roles together.
#[async_trait]
pub trait SessionStore:
    Sessions + Journal + EventLog + Instances + ClientLists + WakeUps + Rates + Calls + Subjects + Operators + 'static
{
    /// One round trip.
    async fn ping(&self) -> StoreResult<()>;

    /// Why the store refuses writes now, in words for people, as far as it is known; known anew with each renewal of the
    /// lease.
    fn refusal(&self) -> Option<String> {
        None
    }

    /// How long every part of the store has answered this process without a gap. The lease of another instance may be on
    /// another part than its own: when that one comes back, the other may not have renewed it yet. OWN-4
    fn settled_for(&self) -> Duration {
        Duration::MAX
    }

    /// `memory` or `redis`.
    fn kind(&self) -> &'static str;
}
