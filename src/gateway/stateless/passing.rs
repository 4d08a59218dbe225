//! A request on its way to a server of its own era ([`Passing`]): free of what its surface holds, so that it can go on as a
//! stream.

use std::{rc::Rc, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::IntGauge;
use tokio::time::{Instant, timeout_at};

use super::{
    asked::{Asked, NotServed},
    cache::Key,
    changes, secret,
    state::{self, Name},
    tasks::{self, Handle, Handles, Watched},
    told::{Reading, given_up},
};
use crate::{
    gateway::{
        call::{Counted, NotAnswered, is_repeatable, next_endpoint},
        shared::Gateway,
    },
    policy::{Grant, List, filtered},
    protocol::{
        jsonrpc::{self, Head, IdKey},
        mcp,
        modern::{self, era, meta, refusal::Refusal, result},
    },
    settings::UpstreamSettings,
    store::Binding,
    upstream::{
        Endpoint, Service,
        actor::CallError,
        choice::Era,
        credential::{Shown, Subject, Who},
        notice::LinkLimits,
        question::Question,
    },
};

const NO_SERVER: Refusal = Refusal::Params("the server that has this task is none of the service any more");

/// One of the requests that may be under way.
struct UnderWay(IntGauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Who has made this very request.
struct OfRequest(Shown);

#[async_trait]
impl Subject for OfRequest {
    async fn shown(&self) -> Result<Option<Shown>, String> {
        Ok(Some(self.0.clone()))
    }
}

/// See the module's text.
pub(super) struct Passing {
    pub(super) gateway: Rc<Gateway>,
    pub(super) service: Arc<Service>,
    pub(super) id: IdKey,
    method: String,
    /// Whom it is about.
    name: Option<String>,
    params: Vec<(String, String)>,
    pub(super) body: Bytes,
    by: Binding,
    /// In whose name it is asked.
    who: Who,
    grant: Option<Grant>,
    /// Where its answer may be kept.
    key: Option<Key>,
    /// The endpoint that has given it what it shows again.
    wanted: Option<Name>,
    /// The handle of the task that it is about, which only that endpoint has.
    task: Option<String>,
    /// The tasks that it listens to, and what other endpoints are asked instead.
    watched: Option<(Watched, Bytes)>,
    /// Of what is known of the tools when it begins.
    tools: u64,
    /// Of what is kept when it begins.
    kept: u64,
    /// For the metrics.
    pub(super) counted: Counted,
    _under_way: UnderWay,
}

impl Passing {
    /// # Errors
    /// There are too many already; what it shows again was not given to it.
    pub(super) async fn new(gateway: &Rc<Gateway>, asked: &Asked<'_>, key: Option<Key>) -> Result<Self, NotServed> {
        let (env, said) = (&gateway.env, asked.said);
        let gauge = &env.metrics.stateless;
        if gauge.get() >= i64::try_from(env.settings.stateless.max_inflight).unwrap_or(i64::MAX) {
            return Err(NotServed::TooMany);
        }
        gauge.inc();
        let under_way = UnderWay(gauge.clone());
        let (mut body, mut wanted) = (asked.body.clone(), None);
        let mut name = era::named(asked.method, said).flatten().map(str::to_owned);
        let (mut task, mut watched) = (None, None);
        if let Some(shown) = said.request_state.as_deref().filter(|_| modern::may_ask(asked.method)) {
            let seal = secret::seal(gateway).await?;
            let opened = state::opened(&body, &asked.service.name, shown, asked.by.principal(), &seal);
            // One of a call that is held, or of nobody.
            let (open, name) = opened.ok_or(NotServed::OtherEra)?;
            (body, wanted) = (open, Some(name));
        }
        if tasks::is_about(asked.method) {
            let shown = said.task_id.as_deref().ok_or(Refusal::Params("params has no taskId"))?;
            let seal = secret::seal(gateway).await?;
            let handles = Handles { seal: &seal, service: &asked.service.name, by: asked.by };
            // One of the router's own, or of nobody.
            let Handle { endpoint, id } = handles.open(shown).ok_or(NotServed::OtherEra)?;
            if asked.service.find(|known| state::name(known) == endpoint).is_none() {
                return Err(NO_SERVER.into());
            }
            body = tasks::asked(&body, &id).ok_or(NotServed::OtherEra)?;
            (wanted, name, task) = (Some(endpoint), Some(id), Some(shown.to_owned()));
        }
        if asked.method == modern::LISTEN && said.notifications.is_some_and(|wanted| tasks::are_wanted(wanted.get())) {
            let seal = secret::seal(gateway).await?;
            let handles = Handles { seal: &seal, service: &asked.service.name, by: asked.by };
            let asked = Watched::of(&body, &handles).ok_or(Refusal::Params("notifications cannot be read"))?;
            (wanted, body) = (asked.0.as_ref().map(|watched| watched.endpoint), asked.1);
            watched = asked.0.map(|watched| (watched, asked.2));
        }
        Ok(Self {
            gateway: Rc::clone(gateway),
            service: Arc::clone(asked.service),
            id: asked.id.clone(),
            method: asked.method.to_owned(),
            name,
            params: asked.params.to_vec(),
            body,
            by: asked.by.clone(),
            who: asked.shown.clone().map_or_else(Who::default, |shown| Who::Subject(Arc::new(OfRequest(shown)))),
            grant: asked.grant.cloned(),
            key,
            wanted,
            task,
            watched,
            tools: asked.service.tools.version(),
            kept: gateway.shared.stateless.cache.version(),
            counted: Counted::begin(gateway, asked.service, asked.method, asked.place),
            _under_way: under_way,
        })
    }

    /// Where the answer to this may be kept. `None`: nowhere.
    pub(super) fn key(gateway: &Gateway, asked: &Asked<'_>) -> Option<Key> {
        let is_kept = gateway.shared.stateless.cache.is_on()
            && asked.method != modern::DISCOVER
            && modern::is_cacheable(asked.method)
            && !asked.said.goes_on();
        is_kept.then(|| Key {
            service: asked.service.name.clone(),
            method: asked.method.to_owned(),
            params: meta::without_meta(asked.body),
            // What a stronger credential was told a weaker one is not. SEC-1
            principal: Some(format!("{} {}", asked.by.principal(), asked.by.scopes())),
        })
    }

    pub(super) fn settings(&self) -> &UpstreamSettings {
        &self.gateway.env.settings.upstream
    }

    /// May it run twice without harm?
    pub(super) fn is_repeatable(&self) -> bool {
        Head::parse(&self.body).is_ok_and(|head| is_repeatable(&self.service, &head))
    }

    /// Asks one endpoint after the other until one takes it; the one that it must go to, if there is one, first. `limit`: how
    /// long it may take in all, which is over at `until`.
    pub(super) async fn ask(
        &self,
        until: Instant,
        limit: Duration,
    ) -> Result<(Arc<Endpoint>, Reading, u16), NotAnswered> {
        timeout_at(until, self.ask_each()).await.unwrap_or(Err(NotAnswered::Upstream(CallError::TimedOut(limit))))
    }

    async fn ask_each(&self) -> Result<(Arc<Endpoint>, Reading, u16), NotAnswered> {
        let lines = &self.gateway.member.lines;
        let wanted = self.wanted.and_then(|name| self.service.find(|endpoint| state::name(endpoint) == name));
        let others = self.service.candidates().filter(|_| self.task.is_none());
        let (name, params) = (self.name.as_deref(), self.params.as_slice());
        let mut last = None;
        let first = wanted.as_ref().map(|endpoint| endpoint.number);
        for endpoint in wanted.into_iter().chain(others.filter(|other| Some(other.number) != first)) {
            if lines.era(&endpoint).await != Some(Era::Modern) {
                continue;
            }
            let place = self.counted.sent();
            let body = match &self.watched {
                Some((watched, elsewhere)) if state::name(&endpoint) != watched.endpoint => elsewhere,
                _ => &self.body,
            };
            let question = Question { method: &self.method, name, params, body, place: place.as_ref() };
            let asked = tokio::select! {
                biased;
                asked = lines.ask(&endpoint, self.who.clone(), question) => asked.map_err(CallError::from),
                () = endpoint.gone() => Err(given_up()),
            };
            match asked {
                Ok(replied) => {
                    let (limits, dropped) =
                        (LinkLimits::from(self.settings()), self.gateway.env.metrics.dropped.clone());
                    let reading = Reading::new(replied.reply, limits, self.id.clone(), dropped);
                    return Ok((endpoint, reading, replied.status));
                }
                Err(error) => last = Some(next_endpoint(last, error).map_err(NotAnswered::Upstream)?),
            }
        }
        let service = self.service.name.clone();
        Err(last.map_or(NotAnswered::NoEndpoint { service }, NotAnswered::Upstream))
    }

    /// A server that refuses a request of this era without saying whose it is may have become one of sessions.
    ///
    /// # Errors
    /// It has: whatever was asked is for [`super::held`].
    pub(super) async fn is_of_another_era(&self, endpoint: &Arc<Endpoint>, status: u16) -> Result<(), NotServed> {
        if !matches!(status, 400 | 404 | 405) {
            return Ok(());
        }
        endpoint.transport.doubt_era();
        match self.gateway.member.lines.era(endpoint).await {
            Some(Era::Legacy) => Err(NotServed::OtherEra),
            Some(Era::Modern) | None => Ok(()),
        }
    }

    /// Its server has said this.
    pub(super) fn heard(&self, notification: &[u8]) {
        changes::heard(&self.gateway, &self.service, notification);
    }

    /// What is said on a stream of changes, as its client may have it. `None`: it is not for it.
    pub(super) fn listened(&self, notification: Bytes) -> Option<Bytes> {
        match &self.watched {
            Some((watched, _)) => watched.told(&notification),
            None => tasks::is_of_no_task(&notification).then_some(notification),
        }
    }

    /// The response as its client may have it.
    pub(super) async fn finished(&self, response: Bytes, from: &Arc<Endpoint>) -> Result<Bytes, NotServed> {
        let is_cacheable = modern::is_cacheable(&self.method);
        if is_cacheable {
            self.remember(&response, from);
        }
        let response = match &self.task {
            Some(shown) => tasks::told(&response, shown),
            None if modern::may_ask(&self.method) => self.sealed(response, from).await?,
            None => response,
        };
        if is_cacheable { shown(&self.method, self.grant.as_ref(), response) } else { Ok(response) }
    }

    fn remember(&self, response: &[u8], from: &Arc<Endpoint>) {
        if self.key.is_none() && self.method != mcp::LIST_TOOLS {
            return;
        }
        let Ok(head) = Head::parse(response) else { return };
        let Some(result) = head.result else { return };
        if self.method == mcp::LIST_TOOLS {
            let is_first = Head::parse(&self.body).is_ok_and(|asked| mcp::is_first_page(asked.params));
            self.service.tools.remember_page(result.get(), is_first, self.tools);
        }
        let cache = &self.gateway.shared.stateless.cache;
        if let Some(key) = &self.key
            && cache.version() == self.kept
            && cache.put(key.clone(), result.get(), std::time::Instant::now())
        {
            changes::listen(&self.gateway, &self.service, from);
        }
    }

    async fn sealed(&self, response: Bytes, from: &Endpoint) -> Result<Bytes, NotServed> {
        // Nearly no response has one: most are not read.
        let has = |name: &[u8]| memchr::memmem::find(&response, name).is_some();
        let (has_state, has_task) = (has(b"requestState"), has(b"taskId"));
        if !has_state && !has_task {
            return Ok(response);
        }
        let seal = secret::seal(&self.gateway).await?;
        let settings = &self.gateway.env.settings.stateless;
        if has_task {
            let handles = Handles { seal: &seal, service: &self.service.name, by: &self.by };
            if let Some(sealed) = handles.sealed(&response, from, settings.task_life) {
                return Ok(sealed);
            }
        }
        let life = settings.state_life;
        let close = |purpose: &str, payload: &[u8]| seal.close(purpose, self.by.principal(), life, payload);
        Ok(state::sealed(&response, &self.service.name, from, close).unwrap_or(response))
    }

    /// There is no answer.
    pub(super) fn lost(&self, error: NotAnswered) -> NotServed {
        self.counted.failed(&error);
        error.into()
    }

    /// The response with an error (JSON text) of its server that names no request.
    pub(super) fn failed(&self, error: &[u8]) -> Bytes {
        self.counted.answered(false);
        jsonrpc::failed_response(self.id.as_json(), error)
    }
}

/// What the rules show of a response. SEC-7
pub(super) fn shown(method: &str, grant: Option<&Grant>, response: Bytes) -> Result<Bytes, NotServed> {
    let Some(grant) = grant else { return Ok(response) };
    let response = match List::of(method) {
        Some(list) => filtered(list, grant, &response).ok_or(NotServed::NoList)?,
        None => response,
    };
    // Another principal may not be shown the same.
    Ok(result::private(&response))
}
