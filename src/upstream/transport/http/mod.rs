//! HTTP towards upstreams: a [`line::Line`] from each worker thread to each endpoint.
//!
//! Two clients, and a line knows which one serves what. `connection` is the router's own, for the streams and the messages
//! of `http://` endpoints; `client` is awc, for `https://` endpoints and for health checks (docs/decisions). Neither decides
//! what an answer means for the message that was sent: `answer` does, `redirect` says whether it is sent on, and [`reply`]
//! reads what an answer holds.

pub mod answer;
mod body;
mod client;
pub(in crate::upstream) mod connection;
pub(in crate::upstream) mod connections;
pub mod line;
pub mod redirect;
pub mod reply;
pub mod tls;

use std::{io, time::Duration};

/// How long the rest of an answer to a POST may take after its head, before its connection is given up.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// What a server says to a POST beyond its status is of no interest; so much of it is read to keep the connection.
const MAX_ACKNOWLEDGEMENT: usize = 4096;

/// What bounds the connections from one thread to one endpoint, whichever client makes them.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// For each connection; in TLS for its handshake once more.
    connect_timeout: Duration,
    /// Connections at a time.
    max_connections: usize,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::upstream) enum Broken {
    /// No connection: nothing was sent.
    #[error("{0}")]
    NotConnected(io::Error),
    /// Nothing or not all of an answer came back.
    #[error("{0}")]
    NoAnswer(String),
}

impl Broken {
    /// Nothing was sent.
    pub(in crate::upstream) fn is_not_connected(&self) -> bool {
        matches!(self, Self::NotConnected(_))
    }
}

fn not_connected(why: impl Into<String>) -> Broken {
    Broken::NotConnected(io::Error::other(why.into()))
}
