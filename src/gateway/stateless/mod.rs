//! What is done for a client of 2026-07-28, whose requests stand each for itself (docs/decisions/0021).
//!
//! | file | what stands there |
//! |---|---|
//! | `asked` | a request as its surface has read and checked it, and what comes of it |
//! | `pass` | for a server of the same era: the request goes on, and its answer comes back, as they are |
//! | `passing` | such a request on its way |
//! | `told` | what its server says of it, message by message |
//! | `listen` | a stream of changes |
//! | `discover` | what the servers of a service are |
//! | `state` | what a server gives its client to show again |
//! | `tasks` | tasks that a server has made of calls |
//! | `cache` | results that may be kept |
//! | `changes` | servers of which some are kept say that they have changed |
//! | `held` | for a server of sessions: a session that the gateway itself holds |
//! | `seal`, `secret` | what a client is given to show again at any instance, and the secret by which all know it |
//! | `results` | how much is kept for who asks again |
//! | `kept` | what the threads keep of all that |
//!
//! Which of the two ways it is, is chosen here, by the era of the service's endpoints.

mod asked;
mod cache;
mod changes;
mod discover;
pub mod held;
pub mod kept;
mod listen;
mod pass;
mod passing;
mod results;
pub mod seal;
pub mod secret;
mod state;
mod tasks;
mod told;

use std::rc::Rc;

use futures_util::future;

pub use self::asked::{Asked, Messages, NotServed, Outcome};
use super::{call::NotAnswered, shared::Gateway};
use crate::{
    protocol::{jsonrpc, modern},
    upstream::{Service, choice::Era},
};

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
    match way(gateway, asked.service).await {
        // What must outlive this instance is in a session, whoever the server is.
        Some(Way::Pass) if held::is_kept(gateway, &asked).await? => held::answer(gateway, asked, false).await,
        Some(Way::Pass) => match pass::answer(gateway, &asked).await {
            Err(NotServed::OtherEra) => held::answer(gateway, asked, true).await,
            answered => answered,
        },
        Some(Way::Held) => held::answer(gateway, asked, true).await,
        None if asked.method == modern::DISCOVER => {
            let body = jsonrpc::result_response(asked.id.as_json(), &discover::unknown());
            Ok(Outcome::Whole { status: 200, body })
        }
        None => Err(NotAnswered::NoEndpoint { service: asked.service.name.clone() }.into()),
    }
}

/// `None`: no server of the service has told its era yet.
async fn way(gateway: &Rc<Gateway>, service: &Service) -> Option<Way> {
    let endpoints = service.endpoints();
    let eras = endpoints.iter().map(|endpoint| gateway.member.lines.era(endpoint));
    // Where both are, the one that needs no session.
    future::join_all(eras).await.into_iter().flatten().fold(None, |way, era| match (way, era) {
        (Some(Way::Pass), _) | (_, Era::Modern) => Some(Way::Pass),
        (_, Era::Legacy) => Some(Way::Held),
    })
}
