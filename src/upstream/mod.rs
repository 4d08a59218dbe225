//! Upstreams: the services, their endpoints, and how they are talked to.
//!
//! | module | role |
//! |---|---|
//! | [`pool`] | the process-wide picture: which services and endpoints there are, which may change |
//! | [`service`] | equal endpoints, and which one is used next |
//! | [`endpoint`] | one server: how it is, and whether it is leaving |
//! | [`choice`], [`era`] | by which MCP transport an endpoint is talked to, and of which era it is |
//! | [`credential`] | by what the router shows servers who it is |
//! | [`breaker`], [`tools`], [`mirrors`] | what is known of an endpoint's health, and of a service's tools |
//! | [`uplink`] | what a session, or the router itself, holds of an upstream session: where its messages go |
//! | [`notice`] | what comes back, with its back-pressure |
//! | [`resumption`], [`resumed`] | when a stream of Streamable HTTP is asked for again, and what comes of it |
//! | [`question`] | one request of 2026-07-28, and the reading of what it is answered with |
//! | [`lines`] | what one worker thread has of all that: its lines and its actors |
//! | [`actor`] | one [`actor::UpstreamActor`] for each endpoint and worker thread, with the router's own shared session |
//! | [`transport`] | one file for each MCP transport, over HTTP |
//!
//! Knows nothing of client streams, and of a session no more than who wants to hear of its link.

pub mod actor;
pub mod breaker;
pub mod call;
mod caller;
pub mod choice;
pub mod credential;
pub mod endpoint;
pub mod era;
pub mod lines;
pub mod mirrors;
pub mod notice;
pub mod pool;
pub mod question;
pub mod resumed;
pub mod resumption;
pub mod service;
pub mod tools;
pub mod transport;
pub mod uplink;

pub use endpoint::Endpoint;
pub use notice::{Address, Gate, LinkError, LinkEvent, LinkHandle, LinkNotice, Via};
pub use pool::Pool;
pub use service::Service;
pub use transport::{
    http::{
        answer::PostError,
        reply::{Piece, Reply, ReplyEnd, STREAM_WAIT},
    },
    streamable::NoStream,
};
pub use uplink::Uplink;
