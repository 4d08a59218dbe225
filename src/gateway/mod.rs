//! What any instance does for any client, by whichever surface it comes: open a stream, take a message, ask who somebody
//! is, call a server.
//!
//! Knows nothing of HTTP: it is told plain facts and answers in named enums, which the surfaces map. It owns nothing of a
//! session; owners and streams are `session`'s, who lives is `cluster`'s to judge.
//!
//! | file | what stands there |
//! |---|---|
//! | `principal` | who asks |
//! | `open` | a client's stream: which session is its own, and a new one if none is |
//! | `resume` | attaches it to a session that it had |
//! | `rebind` | a client that shows nothing is asked which session it had |
//! | `deliver` | a message of a client, into its session's journal |
//! | `answered` | the same for a POST whose name may be another one's, too |
//! | `disown` | a request of which nobody can say whether it was taken: no answer comes after the error |
//! | `doubt` | the first message of a client that a cookie alone has led to a session |
//! | `call` | requests without a session, over the router's shared ones |
//! | `inner` | the gateway as a client of sessions: for clients that have none |
//! | `proofs` | whose doubt is settled |
//! | `under_way` | which of them a caller's cancel means |
//! | `pace` | how often one principal may ask |
//! | `subject`, `subjects` | what a client shows, for servers that are asked in its name |
//! | `patience` | how long a client waits for the store |
//! | `shared` | what they hold |
//! | `stateless` | requests of 2026-07-28, each for itself |
//!
//! They import each other in one direction: `answered` → `deliver`, `disown` → `deliver` and `resume`, `rebind` and `resume` → `open`,
//! `inner` → `deliver`, `disown` and `resume`, `stateless` → all of them, all → `patience` →
//! `shared` → `proofs`, `subjects`, `under_way`.

pub mod answered;
pub mod call;
pub mod deliver;
pub mod disown;
pub mod doubt;
pub mod inner;
pub mod open;
pub mod pace;
mod patience;
pub mod principal;
mod proofs;
pub mod rebind;
pub mod resume;
mod shared;
pub mod stateless;
pub mod subject;
mod subjects;
pub mod under_way;

pub use self::{
    patience::StoreUnavailable,
    shared::{Gateway, Shared},
};
