//! Calls with an idempotency key: of all requests with the same key one runs, and all get what comes of it, at any instance.
//! CALL-1
//!
//! The key is put on record together with the session in which the call is to run before it is sent there, and the session's
//! journal takes it once. So whoever finds the record goes on with the call, wherever it stands.

use std::rc::Rc;

use super::{
    begun::{self, Begun},
    call::{Call, Caller},
    record::{self, Asked, Done, Place},
    seat::Seat,
    state::State,
    translate::Response,
};
use crate::{
    fault,
    gateway::{
        inner::{Ended, Inner, Kind, pool, session::fresh_id},
        patience::patiently,
        shared::Gateway,
        stateless::asked::{NotServed, Outcome},
    },
    protocol::{modern::refusal::Refusal, stream_key::StreamKey},
    store::{CallNote, CallRecord},
};

/// Of the call's record.
fn name(caller: &Caller, key: &str) -> String {
    record::name("key", &caller.service.name, &caller.by, key)
}

/// The call with this key, wherever it stands; or what has come of it.
pub(super) async fn begin(gateway: &Rc<Gateway>, caller: Caller, kind: &Kind, key: &str) -> Result<Begun, NotServed> {
    let name = name(&caller, key);
    let counted = &gateway.env.metrics.keyed_calls;
    let store = &gateway.env.store;
    if let Some(found) = patiently(gateway, || store.call(&name)).await? {
        return join(gateway, caller, name, found).await;
    }
    if !record::may_be_one_more(gateway) {
        return Err(NotServed::TooManyResults);
    }
    // What is put on record leads to this session alone: one that is gone would be the end of the key.
    let is_there = async |inner: &Inner| inner.is_there().await;
    let lent = match pool::with_session(gateway, &caller.service, &caller.by, kind, is_there).await {
        Ok((lent, ())) => lent,
        Err(error) => return begun::not_begun(&caller, error).map(Begun::Over),
    };
    let asked = Asked::new(lent.inner.session, &fresh_id(), caller.fingerprint(), &caller.by);
    let (text, life) = (asked.write(), record::life(&gateway.env.settings));
    let found = patiently(gateway, || store.begin_call(&name, &text, life)).await?;
    if found.asked != text {
        // Somebody was faster; the session waits for another call.
        return join(gateway, caller, name, found).await;
    }
    fault::point(fault::CALL_RECORDED);
    lent.apart();
    counted.with_label_values(&["first"]).inc();
    let caller = Caller { server: begun::server_of(&lent.told), ..caller };
    send(gateway, caller, Seat::Lent(lent), name, &asked).await
}

/// A call that has asked something goes on under this key, which is its own from now on: the name of its record.
///
/// # Errors
/// It is the key of another call, whose result it must not become.
pub(super) async fn goes_on(
    gateway: &Rc<Gateway>,
    caller: &Caller,
    state: &State,
    key: &str,
) -> Result<String, NotServed> {
    let name = name(caller, key);
    let store = &gateway.env.store;
    let asked = Asked::new(state.session, &state.id, caller.fingerprint(), &caller.by);
    let (text, life) = (asked.write(), record::life(&gateway.env.settings));
    // Its answers have not been passed on yet.
    if !record::may_be_one_more(gateway) && patiently(gateway, || store.call(&name)).await?.is_none() {
        return Err(NotServed::TooManyResults);
    }
    let found = patiently(gateway, || store.begin_call(&name, &text, life)).await?;
    let is_its = |found: &Asked| found.is_same_call(&asked) && found.admits(&caller.by);
    if !Asked::read(&found.asked).is_some_and(|found| is_its(&found)) {
        gateway.env.metrics.keyed_calls.with_label_values(&["other_request"]).inc();
        return Err(
            Refusal::Params("this idempotency key is not that of the call which requestState goes on with").into()
        );
    }
    if found.place.is_none() {
        let place = Place::new(state.request, state.at).write();
        patiently(gateway, || store.note_call(&name, CallNote::Place, &place, life)).await?;
    }
    Ok(name)
}

/// Sends the call to its session, which takes it once.
async fn send(
    gateway: &Rc<Gateway>,
    caller: Caller,
    seat: Seat,
    name: String,
    asked: &Asked,
) -> Result<Begun, NotServed> {
    let Some(id) = asked.id() else { return Ok(lost(&caller)) };
    let params = caller.params(&id)?;
    let sent = match seat.inner().ask(&caller.method, &params, id, asked.post(), caller.trace.clone()).await {
        Ok(sent) => sent,
        // It is on record: who asks again finds it there.
        Err(error) => return begun::not_begun(&caller, error).map(Begun::Over),
    };
    fault::point(fault::CALL_SENT);
    if let StreamKey::Request(request) = sent.reading.key() {
        let place = Place::new(request, sent.reading.at()).write();
        let life = record::life(&gateway.env.settings);
        // Without it the next one sends the call again, which the session knows.
        let _ = patiently(gateway, || gateway.env.store.note_call(&name, CallNote::Place, &place, life)).await;
    }
    fault::point(fault::CALL_PLACED);
    let call = Call::new(gateway, caller, seat, (sent.id, sent.reading)).resumed();
    Ok(Begun::Running(call, vec![name]))
}

/// The key is another request's, or that of this one.
async fn join(gateway: &Rc<Gateway>, caller: Caller, name: String, found: CallRecord) -> Result<Begun, NotServed> {
    let counted = &gateway.env.metrics.keyed_calls;
    let Some(asked) = Asked::read(&found.asked) else { return Ok(lost(&caller)) };
    // To a weaker credential the other call does not exist, and its key is taken all the same. SEC-1
    if asked.fingerprint != caller.fingerprint() || !asked.admits(&caller.by) {
        counted.with_label_values(&["other_request"]).inc();
        return Err(Refusal::Params("this idempotency key is that of another request").into());
    }
    if let Some(done) = found.done.as_deref().and_then(Done::read) {
        counted.with_label_values(&["replayed"]).inc();
        return Ok(whole(done.response(&caller.id)));
    }
    counted.with_label_values(&["joined"]).inc();
    let (Some(session), Some(id)) = (asked.session(), asked.id()) else { return Ok(lost(&caller)) };
    let inner = Inner::at(gateway, &caller.service, &caller.by, session);
    let head = patiently(gateway, || gateway.env.store.load(session)).await?;
    let told = head.and_then(|head| head.continuation.initialize_result);
    let caller = Caller { server: told.as_deref().and_then(begun::server_of), ..caller };
    let place = found.place.as_deref().and_then(Place::read);
    let Some(place) = place else {
        return send(gateway, caller, Seat::Joined(inner), name, &asked).await;
    };
    let reading = inner.read(StreamKey::Request(place.request), place.at());
    let call = Call::new(gateway, caller, Seat::Joined(inner), (id, reading)).resumed();
    Ok(Begun::Running(call, vec![name]))
}

fn whole(response: Response) -> Begun {
    Begun::Over(Outcome::Whole { status: response.status, body: response.body })
}

/// What is on record makes no sense.
fn lost(caller: &Caller) -> Begun {
    whole(caller.failed(&Ended::Gone))
}
