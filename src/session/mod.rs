//! Sessions: one [`SessionActor`](actor::SessionActor) for each session that this process owns, and the client streams
//! ([`attachment`]) that this process holds, whoever owns their session.
//!
//! | file | what stands there |
//! |---|---|
//! | `actor` | state, start, stop, handlers |
//! | `messages` | what it is told and asked |
//! | `handle` | the actor, for the rest of the process |
//! | `journal` | a message as it is journaled, and what is kept of it |
//! | `timing` | what the metrics are told of its calls |
//! | `traced` | calls that belong to traces |
//! | `inbound` | client → upstream: journal, order |
//! | `claim` | client → upstream: what other instances have journaled, and what was missed |
//! | `cancel` | client → upstream: requests that the client has given up |
//! | `forward` | client → upstream: POSTs and their ends |
//! | `refused` | client → upstream: what becomes of a message whose POST failed |
//! | `reading` | what is read beside the link's own stream: plain types |
//! | `reply` | upstream → client: what the answers to POSTs hold |
//! | `outbound` | upstream → client: append, deliver |
//! | `upstream_streams` | upstream → client: the streams of a Streamable HTTP session: its own, and those that are resumed |
//! | `questions` | requests of the server and their answers, under ids of both sides |
//! | `unheard` | upstream → client: answers whose streams nobody shows |
//! | `unreadable` | upstream → client: what is too large |
//! | `calls` | how many calls of each principal are under way, at all instances |
//! | `held` | what the requests of all sessions hold together |
//! | `link` | the upstream link: open, lose, give up |
//! | `life` | what a session gives back when its client is gone: link, place, all |
//! | `rehydrate` | a new upstream session: replay the handshake, recover what was open |
//! | `core` | what a session decides, as plain logic |
//! | `returning` | pure decisions about clients that come back |
//! | `attachment` | a client stream: replay and live events without gap or duplicate |
//! | `directory` | who is where in this process |
//! | `env` | what a session may use of its process |
//! | `farewell` | servers that are being told that a session is over |
//! | `room` | whose session makes room for a new one |
//! | `subject` | who its client is to servers to which the router speaks in its name |
//! | `shown` | who shows a session's stream |

pub mod actor;
pub mod attachment;
pub mod calls;
mod cancel;
mod claim;
pub mod core;
pub mod directory;
pub mod env;
pub mod farewell;
mod forward;
pub mod handle;
pub mod held;
mod inbound;
mod journal;
mod life;
mod link;
pub mod messages;
mod outbound;
mod questions;
mod reading;
mod refused;
mod rehydrate;
mod reply;
mod restore;
pub mod returning;
pub mod room;
pub mod shown;
mod subject;
mod timing;
mod traced;
mod unheard;
mod unreadable;
mod upstream_streams;

pub use self::{
    core::{
        pause::pause_before_retry,
        recovery,
        streams::{MAIN_STREAM, StreamKey},
    },
    journal::journal_view as inbound_view,
};
