//! What a request has led to, and why it has not.

use std::{collections::HashMap, sync::Arc};

use serde_json::value::RawValue;

use super::{
    call::{Call, Caller},
    translate::Response,
};
use crate::{
    gateway::{
        call::NotAnswered,
        inner::{Ended, Failed},
        open::NotOpened,
        patience::StoreUnavailable,
        stateless::asked::{Asked, NotServed, Outcome},
    },
    protocol::by_name::by_name,
};

/// What a request has led to.
#[expect(clippy::large_enum_variant, reason = "made once a request, and taken apart at once")]
pub(super) enum Begun {
    /// A call under way. Its records, in which its end is to be noted.
    Running(Call, Vec<String>),
    /// Its outcome.
    Over(Outcome),
}

/// Who asks what.
pub(super) fn caller(asked: &Asked<'_>) -> Caller {
    Caller {
        service: Arc::clone(asked.service),
        by: asked.by.clone(),
        body: asked.body.clone(),
        id: asked.id.as_json().to_owned(),
        method: asked.method.to_owned(),
        token: asked.said.progress_token().map(str::to_owned),
        wants_logs: asked.said.log_level().is_some(),
        server: None,
        trace: asked.place.cloned(),
    }
}

/// JSON texts by name.
pub(super) type Members<'a> = HashMap<String, &'a RawValue>;

/// Nothing was executed, or nobody knows.
pub(super) fn not_begun(caller: &Caller, error: Failed) -> Result<Outcome, NotServed> {
    match error {
        // Sessions are nothing that its client has heard of.
        error if error.is_gone() || error == Ended::Gone.into() => {
            let Response { status, body } = caller.failed(&Ended::Gone);
            Ok(Outcome::Whole { status, body })
        }
        // The server's word on the handshake is its word on this.
        Failed::Refused(answer) => {
            let Response { status, body } = caller.response(&answer);
            Ok(Outcome::Whole { status, body })
        }
        error => Err(not_served(error)),
    }
}

/// As the surface is told.
pub(super) fn not_served(error: Failed) -> NotServed {
    match error {
        Failed::NotOpened(error) => error.into(),
        Failed::NotDelivered(error) => error.into(),
        Failed::TooMany => NotServed::TooManySessions,
        Failed::NoServer(service) => NotAnswered::NoEndpoint { service }.into(),
        Failed::Ended(Ended::Draining) => NotOpened::Draining.into(),
        Failed::Ended(Ended::Gone | Ended::Unavailable) | Failed::Refused(_) => StoreUnavailable.into(),
    }
}

/// Who the server is (JSON text), by its result of `initialize`.
pub(super) fn server_of(told: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Told<'a> {
        #[serde(borrow, rename = "serverInfo")]
        server: &'a RawValue,
    }
    by_name::<Told<'_>>(told).map(|told| told.server.get().to_owned())
}
