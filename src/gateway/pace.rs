//! How often one principal may ask (`MCP_PRINCIPAL_RATE`), and how many of its calls may be under way
//! (`MCP_PRINCIPAL_CALLS`), at all instances together. The store counts.

use std::{rc::Rc, time::Duration};

use super::{
    patience::{StoreUnavailable, patiently},
    shared::Gateway,
};
use crate::{
    protocol::{jsonrpc::IdKey, session_id::SessionId},
    session::calls::{self, Counted},
    store::{Binding, Entered, Paced, Rate},
};

/// A client that has an answer may ask again before the store has heard that its call is over: for so long it is looked
/// again.
const LEAVING: [Duration; 3] = [Duration::from_millis(5), Duration::from_millis(20), Duration::from_millis(80)];

/// One more request of it. Of nobody in particular none is counted.
///
/// # Errors
/// The store does not answer.
pub async fn pace(gateway: &Rc<Gateway>, by: &Binding) -> Result<Paced, StoreUnavailable> {
    let limits = &gateway.env.settings.limits;
    if limits.principal_rate == 0 || by.principal().is_empty() {
        return Ok(Paced::Now);
    }
    let rate = Rate { between: Duration::from_secs(1) / limits.principal_rate, burst: limits.principal_burst };
    patiently(gateway, || gateway.env.store.pace(by.principal(), rate)).await
}

/// A call on its way, which is over when this is dropped, unless its session's owner keeps it.
#[must_use = "the call is over when it is dropped"]
#[derive(Debug, Default)]
pub struct Admitted {
    counted: Option<Counted>,
    /// Its session's owner keeps it under the same name.
    is_of_session: bool,
    /// Somebody else keeps it: this is another try.
    is_another: bool,
}

impl Admitted {
    /// Its session has it now.
    pub fn is_taken(mut self) {
        if let Some(counted) = self.counted.take_if(|_| self.is_of_session) {
            counted.passed_on();
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(counted) = self.counted.take().filter(|_| self.is_another) {
            counted.passed_on();
        }
    }
}

/// One more call of it, if it counts. `None`: as many as may be are under way.
///
/// # Errors
/// The store does not answer.
pub async fn admit(
    gateway: &Rc<Gateway>,
    by: &Binding,
    session: Option<&SessionId>,
    (id, method): (&IdKey, &str),
) -> Result<Option<Admitted>, StoreUnavailable> {
    let env = &gateway.env;
    let Some((limit, life)) = env.calls.limit(by).filter(|_| calls::is_counted(method)) else {
        return Ok(Some(Admitted::default()));
    };
    let name = env.calls.name(session.map(|session| (session, id)));
    let mut pauses = LEAVING.into_iter();
    let entered = loop {
        let entered = patiently(gateway, || env.store.enter(by.principal(), &name, limit, life)).await?;
        match (entered, pauses.next()) {
            (Entered::Full, Some(pause)) => tokio::time::sleep(pause).await,
            (entered, _) => break entered,
        }
    };
    let is_another = match entered {
        Entered::Full => return Ok(None),
        Entered::Already => true,
        Entered::New => false,
    };
    Ok(Some(Admitted { counted: Some(env.calls.hold(by, name)), is_of_session: session.is_some(), is_another }))
}
