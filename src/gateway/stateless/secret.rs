//! The seal of this deployment: by a secret that the store keeps for all instances, asked for once.

use std::rc::Rc;

use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::seal::Seal;
use crate::gateway::{
    patience::{StoreUnavailable, patiently},
    shared::Gateway,
};

/// Bytes of the secret.
const LENGTH: usize = 32;

/// The seal by which all instances know what one of them has given out.
///
/// # Errors
/// The store has not said the secret yet, and does not answer.
pub async fn seal(gateway: &Rc<Gateway>) -> Result<Seal, StoreUnavailable> {
    let (env, kept) = (&gateway.env, &gateway.shared.stateless);
    // Data that were lost took their secret with them.
    let dataset = env.dataset.id();
    if let Some(seal) = kept.seal(&dataset) {
        return Ok(seal);
    }
    let mut candidate = [0; LENGTH];
    SystemRandom::new().fill(&mut candidate).map_err(|_| StoreUnavailable)?;
    let candidate = HEXLOWER.encode(&candidate);
    let secret = patiently(gateway, || env.store.secret(&candidate)).await?;
    let seal = Seal::new(secret.as_bytes());
    kept.keep_seal(dataset, seal.clone());
    Ok(seal)
}
