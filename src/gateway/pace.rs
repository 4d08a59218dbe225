//! How often one principal may ask (`MCP_PRINCIPAL_RATE`), at all instances together. The store counts.

use std::{rc::Rc, time::Duration};

use super::{
    patience::{StoreUnavailable, patiently},
    shared::Gateway,
};
use crate::store::{Binding, Paced, Rate};

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
