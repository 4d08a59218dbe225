//! What the workers of one server share.

use std::{sync::Arc, time::Instant};

use serde_json::value::RawValue;

use crate::{counters::Counters, options::ServerOptions, persons::Persons, sessions::Sessions};

/// The options, the directory, the counters and the sessions.
pub(crate) struct ServerState {
    pub options: ServerOptions,
    pub started: Instant,
    /// The answer to `tools/list`. It never changes, so it is written once.
    pub tools: Box<RawValue>,
    pub persons: Persons,
    pub counters: Counters,
    pub sessions: Arc<Sessions>,
}
