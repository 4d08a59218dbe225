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
pub mod rebind;
pub mod under_way;

pub use self::patience::StoreUnavailable;
