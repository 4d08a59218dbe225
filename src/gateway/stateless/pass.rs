//! For a server of the same era: the request goes on as it is, under headers that are made anew, and what it answers comes back
//! as it is.

use std::rc::Rc;

use super::asked::{Asked, NotServed, Outcome};
use crate::gateway::shared::Gateway;

/// See the module's text.
#[allow(clippy::unused_async)] // What it will do waits.
pub(super) async fn answer(_gateway: &Rc<Gateway>, _asked: Asked<'_>) -> Result<Outcome, NotServed> {
    Err(NotServed::SessionsOnly)
}
