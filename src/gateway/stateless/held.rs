//! For a server of sessions.

use std::rc::Rc;

use super::asked::{Asked, NotServed, Outcome};
use crate::gateway::shared::Gateway;

/// Such a client has to begin a session itself.
#[allow(clippy::unused_async)] // What it will do waits.
pub(super) async fn answer(_gateway: &Rc<Gateway>, _asked: Asked<'_>) -> Result<Outcome, NotServed> {
    Err(NotServed::SessionsOnly)
}
