//! Sessions: one [`SessionActor`](actor::SessionActor) for each session that this process owns, and the client streams
//! ([`attachment`]) that this process holds, whoever owns their session.
//!
//! | file | what stands there |
//! |---|---|
//! | `actor` | state, start, stop, handlers |
//! | `messages` | what it is told and asked |
//! | `inbound` | client → upstream: journal, order |
//! //! | `claim` | client → upstream: what other instances have journaled, and what was missed |
//! | `cancel` | client → upstream: requests that the client has given up |
//! | `forward` | client → upstream: POSTs and their ends |
//! | `refused` | client → upstream: what becomes of a message whose POST failed |
//! | `outbound` | upstream → client: append, deliver |
//! | `questions` | requests of the server and their answers, under ids of both sides |
//! | `unreadable` | upstream → client: what is too large |
//! | `held` | what the requests of all sessions hold together |
//! | `link` | the upstream link: open, lose, give up |
//! | `life` | what a session gives back when its client is gone: link, place, all |
//! | `rehydrate` | a new upstream session: replay the handshake, recover what was open |
//! | `core` | what a session decides, as plain logic |
//! | `returning` | pure decisions about clients that come back |
//! | `attachment` | a client stream: replay and live events without gap or duplicate |
//! | `directory` | who is where in this process |
//! | `env` | what a session may use of its process |
//! | `room` | whose session makes room for a new one |
//! | `shown` | who shows a session's stream |

pub mod actor;
pub mod attachment;
mod cancel;
mod claim;
pub mod core;
pub mod directory;
pub mod env;
mod forward;
pub mod held;
mod inbound;
mod life;
mod link;
pub mod messages;
mod outbound;
mod questions;
pub mod refused;
mod rehydrate;
mod restore;
pub mod returning;
pub mod room;
pub mod shown;
mod unreadable;

pub use self::core::recovery;
pub use inbound::journal_view as inbound_view;

/// Name of the one stream of a 2024-11-05 session (and of the GET stream of later transports).
pub const MAIN_STREAM: &str = "g";

/// Fields of the session's record that this layer writes.
pub mod field {
    /// The client's `initialize` request, as it came.
    pub const INITIALIZE_REQUEST: &str = "initialize_request";
    /// The upstream's `result` of it (JSON text).
    pub const INITIALIZE_RESULT: &str = "initialize_result";
    /// `1` once the client has sent `notifications/initialized`; [`WITH_VERSION`] if it sent its protocol version with it.
    pub const INITIALIZED: &str = "initialized";
    /// See [`INITIALIZED`].
    pub const WITH_VERSION: &str = "v";
    /// Who opened the session ([`super::returning::Client::to_field`]).
    pub use crate::store::CLIENT;
    /// The last successful `logging/setLevel` request.
    pub const LOG_LEVEL: &str = "log_level";
    /// The upstream endpoint's URL.
    pub const ENDPOINT: &str = "upstream_endpoint";
    /// Prefix + resource URI → the `resources/subscribe` request.
    pub const SUBSCRIPTION: &str = "sub:";
    /// Prefix + id (towards the client) of a server request that the client has not answered → its id at the server. Empty
    /// or a method: written by an older build, which passed the id on unchanged.
    pub const SERVER_REQUEST: &str = "sr:";
    pub use crate::store::{CANCELLED, LEFT_AT, SENT};
    /// Number of the attachment that was found by a cookie alone, until its client has shown whose it is.
    pub const DOUBTED: &str = "doubted";
    /// `1` while the upstream session stands on the router's own `initialize`, because the client sent none.
    pub const ASSUMED: &str = "assumed";
    /// Nonce of a ping-rebind that found this session.
    pub const REBIND: &str = "rebind";
}
