//! The gateway as a client of sessions: for clients that have none, and for calls that must outlive the instance at which they
//! came. An inner session is a session of the store like any other: an actor owns it, an heir adopts it, its journal and its
//! log are the truth. So what is asked here goes on when an instance dies, and nothing of delivery or recovery is done twice.
//!
//! | file | what stands there |
//! |---|---|
//! | `session` | opens one, speaks to it, ends it |
//! | `reading` | the stream of one of its requests, or its main one, message by message |
//! | `pool` | lends them to calls, and ends those that nobody needs |
//! | `kept` | which there are: plain state |
//!
//! They import each other in one direction: `pool` → `session` → `reading`, `pool` → `kept`.

pub mod kept;
pub mod pool;
pub mod reading;
pub mod session;

pub use self::{
    kept::{Kind, Use},
    pool::Lent,
    reading::{At, Ended, Reading, Said},
    session::{Asked, Failed, Inner},
};
