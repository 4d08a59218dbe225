//! What is done for a client of 2026-07-28, whose requests stand each for itself (docs/decisions/0021).
//!
//! | file | what stands there |
//! |---|---|
//! | `asked` | a request as its surface has read and checked it, and what comes of it |
//! | `pass` | for a server of the same era: the request goes on, and its answer comes back, as they are |
//! | `held` | for a server of sessions: a session that the gateway itself holds |
//! | `seal` | what a client is given to show again at any instance |
//!
//! Which of the two ways it is, is chosen here, by the era of the service's endpoints.

mod asked;
mod held;
mod pass;
pub mod seal;

use std::rc::Rc;

pub use self::asked::{Asked, Messages, NotServed, Outcome};
use super::shared::Gateway;

/// By what a request of this era reaches a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Pass,
    Held,
}

/// Does what is asked. To be dropped when its client is gone: that is how a client of this era cancels.
///
/// # Errors
/// See [`NotServed`].
pub async fn answer(gateway: &Rc<Gateway>, asked: Asked<'_>) -> Result<Outcome, NotServed> {
    match way(&asked) {
        Way::Pass => pass::answer(gateway, asked).await,
        Way::Held => held::answer(gateway, asked).await,
    }
}

/// Nothing is known yet of an endpoint that speaks this era.
fn way(asked: &Asked<'_>) -> Way {
    let speaks = |_endpoint| false;
    if asked.service.endpoints.iter().any(speaks) { Way::Pass } else { Way::Held }
}
