//! The router's own connections from one thread to one endpoint: how many there may be, and those that are idle.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_http::{KeepAlive, ServiceConfig};
use tokio::sync::Semaphore;

use super::{
    Bounds, Broken,
    connection::{Connection, Scratch},
    not_connected,
};
/// Connections that are idle longer are not used again: uvicorn, Node and actix close theirs after 5 s, and a POST on
/// a connection that is just being closed has an unknown outcome.
pub(in crate::upstream) const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// Idle connections that one thread keeps to one endpoint: as many as POSTs are usually under way at a time.
const MAX_IDLE: usize = 256;

/// See the module's text.
pub(in crate::upstream) struct Connections {
    config: ServiceConfig,
    connect_timeout: Duration,
    /// Connections that there may be at a time.
    limit: Arc<Semaphore>,
    /// Since when, the one used last at the end.
    idle: RefCell<Vec<(Instant, Connection)>>,
    scratch: Rc<Scratch>,
}

impl Connections {
    /// What those of a thread share. To be made on the thread, which must have a `LocalSet` (actix's has).
    pub(super) fn config() -> ServiceConfig {
        ServiceConfig::new(KeepAlive::Os, Duration::ZERO, Duration::ZERO, false, None)
    }

    pub(super) fn new(bounds: Bounds, config: ServiceConfig) -> Self {
        Self {
            config,
            connect_timeout: bounds.connect_timeout,
            limit: Arc::new(Semaphore::new(bounds.max_connections)),
            idle: RefCell::default(),
            scratch: Rc::default(),
        }
    }

    /// A new one, within the time limit for it.
    pub(super) async fn connect(&self, url: &url::Url) -> Result<Connection, Broken> {
        // Idle ones count, too.
        if self.limit.available_permits() == 0 {
            self.let_go_of_oldest();
        }
        let limit = self.connect_timeout;
        let opened = Connection::open(url, &self.config, &self.limit, &self.scratch);
        let late = |_| not_connected(format!("no connection within {limit:?}"));
        tokio::time::timeout(limit, opened).await.map_err(late)?
    }

    /// One that is idle and can be used.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let (since, connection) = idle.pop()?;
        if since.elapsed() < KEEP_ALIVE && connection.is_idle() {
            return Some(connection);
        }
        // Those that have been idle for longer are no better.
        if since.elapsed() >= KEEP_ALIVE {
            idle.clear();
        }
        None
    }

    pub(super) fn keep(&self, connection: Connection) {
        if self.idle.borrow().len() >= MAX_IDLE {
            self.let_go_of_oldest();
        }
        self.idle.borrow_mut().push((Instant::now(), connection));
    }

    fn let_go_of_oldest(&self) {
        let mut idle = self.idle.borrow_mut();
        if !idle.is_empty() {
            idle.remove(0);
        }
    }

    /// Closes what has been idle for too long. To be called from time to time.
    pub(super) fn sweep(&self) {
        self.idle.borrow_mut().retain(|(since, _)| since.elapsed() < KEEP_ALIVE);
    }
}
