//! A request on its way into a session of the gateway's own; or back to the session in which its call waits.

use std::rc::Rc;

use serde_json::value::RawValue;

use super::{
    begun::{Begun, Members, caller, not_begun, server_of},
    call::{Call, Caller, key_of},
    keyed,
    seat::Seat,
    state::{self, State},
    translate,
};
use crate::{
    gateway::{
        inner::{Ended, Inner, Kind, Use, pool, session::fresh_id},
        patience::patiently,
        shared::Gateway,
        stateless::{
            asked::{Asked, NotServed},
            secret,
        },
    },
    protocol::{
        by_name::by_name,
        jsonrpc::IdKey,
        modern::{may_ask, meta::Said, refusal::Refusal},
        post_id::PostId,
        stream_key::StreamKey,
    },
};

/// The call, on its way; or what is to be said instead. `may_become_a_task`: its session must be its own.
pub(super) async fn begin(
    gateway: &Rc<Gateway>,
    asked: &Asked<'_>,
    key: Option<&str>,
    may_become_a_task: bool,
) -> Result<Begun, NotServed> {
    let said = asked.said;
    let mut caller = caller(asked);
    if let Some(state) = said.request_state.as_deref() {
        return go_on(gateway, caller, state, said, key).await;
    }
    let capabilities = match may_ask(asked.method) {
        true => translate::capabilities(said.capabilities().unwrap_or("{}")),
        false => "{}".to_owned(),
    };
    let level = said.log_level().map(|level| serde_json::Value::from(level).to_string());
    let is_for = if key.is_some() || may_become_a_task { Use::Recorded } else { Use::Calls };
    let kind = Kind::new(&caller.service.name, &caller.by, capabilities, level, is_for);
    if let Some(key) = key {
        return keyed::begin(gateway, caller, &kind, key).await;
    }
    let id = fresh_id();
    let params = caller.params(&id)?;
    let ask = async |inner: &Inner| {
        inner.ask(&caller.method, &params, id.clone(), PostId::random(), caller.trace.clone()).await
    };
    match pool::with_session(gateway, &caller.service, &caller.by, &kind, ask).await {
        Ok((lent, asked)) => {
            if may_become_a_task {
                lent.apart();
            }
            caller.server = server_of(&lent.told);
            let call = Call::new(gateway, caller, Seat::Lent(lent), (asked.id, asked.reading));
            Ok(Begun::Running(call, Vec::new()))
        }
        Err(error) => not_begun(&caller, error).map(Begun::Over),
    }
}

/// The client comes back to a call that waits in a session of the gateway's own.
pub(super) async fn goes_on(gateway: &Rc<Gateway>, asked: &Asked<'_>) -> Result<bool, NotServed> {
    let Some(sealed) = asked.said.request_state.as_deref() else { return Ok(false) };
    let opened = secret::seal(gateway).await?.open(state::PURPOSE, asked.by.principal(), sealed);
    Ok(opened.is_some())
}

/// The client comes back to a call that has asked something, with answers or without, at whichever instance.
async fn go_on(
    gateway: &Rc<Gateway>,
    caller: Caller,
    sealed: &str,
    said: &Said<'_>,
    key: Option<&str>,
) -> Result<Begun, NotServed> {
    const OTHER: Refusal = Refusal::Params("requestState was not given for this request, or its time is over");
    let opened = secret::seal(gateway).await?.open(state::PURPOSE, caller.by.principal(), sealed);
    let state = opened.and_then(|bytes| State::read(&bytes)).ok_or(OTHER)?;
    if state.fingerprint != caller.fingerprint() {
        return Err(OTHER.into());
    }
    let inner = Inner::at(gateway, &caller.service, &caller.by, state.session);
    let given = said.input_responses.map(RawValue::get).unwrap_or("{}");
    let given: Members<'_> = by_name(given).ok_or(Refusal::Params("inputResponses is no object"))?;
    let head = patiently(gateway, || gateway.env.store.load(state.session)).await?;
    let Some(head) = head.filter(|head| head.binding.admits(&caller.by)) else {
        return not_begun(&caller, Ended::Gone.into()).map(Begun::Over);
    };
    let names = match key {
        Some(key) => vec![keyed::goes_on(gateway, &caller, &state, key).await?],
        None => Vec::new(),
    };
    for id in &state.asked {
        let id = IdKey::from_stored(id.as_str());
        if let Some(result) = given.get(&key_of(&id))
            && let Err(error) = inner.reply(&id, result.get()).await
            && !error.is_gone()
        {
            return not_begun(&caller, error).map(Begun::Over);
        }
    }
    gateway.shared.inner.goes_on(&state.session);
    let reading = inner.read(StreamKey::Request(state.request), state.at);
    let server = head.continuation.initialize_result.as_deref().and_then(server_of);
    let caller = Caller { server, ..caller };
    let call = Call::new(gateway, caller, Seat::Own(inner), (state.id, reading)).resumed();
    Ok(Begun::Running(call, names))
}
