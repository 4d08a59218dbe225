//! `POST`, `GET` and `DELETE /mcp/{service}`: Streamable HTTP (MCP 2025-03-26 to 2025-11-25). What the client shows is read
//! here; what is done for it is [`gateway`](crate::gateway)'s.
//!
//! A POST with a request is answered with JSON if the answer is there soon (`MCP_JSON_WAIT`), and else with the event stream
//! of that request, which any instance goes on with for a client that comes back with its cursor.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, HeaderName},
    web,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, future, stream};

use super::{
    accept::{JSON, Takes},
    allowed::{Allowed, taken},
    error::ApiError,
    extract::{Named, NodeData, id_text, read_body_or_beginning},
    forwarded::Edge,
    frame,
    sent::Sent,
    sse, stateless,
};
use crate::{
    gateway::{
        deliver::NotDelivered,
        open::{Mark, NotOpened, Opening, streamable_retry},
        resume::{Habits, Listening},
    },
    process::node::Node,
    protocol::{
        event_id::PAUSED,
        jsonrpc::{self, Head, Said},
        mcp,
        modern::era::Era,
        session_id::SessionId,
    },
    session::{
        attachment::{Aborted, Answered, Pump, Waiting},
        messages::{AnswerStream, DeliverError, Delivered},
    },
    store::SessionHead,
    upstream::Service,
};

static SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
static VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
static LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// How the client of npm `@ai-sdk/mcp` names itself. It does not go on with the stream of a call.
const AI_SDK: &str = "ai-sdk/";

/// How long a call of a client that would lose its stream with an instance waits for a whole answer: until then a proxy tries it
/// at another instance. Less than the shipped nginx.conf waits for the head of a response (45 s).
const WITHOUT_RESUMING: Duration = Duration::from_secs(30);

/// What every handler here gets.
struct Call<'r> {
    node: &'r Rc<Node>,
    request: &'r HttpRequest,
    takes: Takes,
    service: Arc<Service>,
    allowed: Allowed<'r>,
}

/// `POST /mcp/{service}`
pub async fn post(
    node: NodeData,
    request: HttpRequest,
    Named(service): Named,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let call = match Call::new(&node, &request, service.as_deref()) {
        Ok(call) => call,
        Err(error) => return stateless::not_read(&node, &request, payload, error).await,
    };
    if !call.takes.events && !call.takes.json {
        return stateless::not_read(&node, &request, payload, ApiError::NeitherAcceptable).await;
    }
    let body = match read_body_or_beginning(&request, payload, &node.env.settings).await {
        Ok(body) => body,
        Err((error, beginning)) => return stateless::not_whole(&request, &beginning, error),
    };
    if let Some(messages) = jsonrpc::split_batch(&body) {
        return call.batch(messages).await;
    }
    let head = Head::parse(&body)?;
    match stateless::era_of(&request, &head, &body) {
        Ok(Era::Sessions) => {}
        Ok(Era::Stateless) => {
            return stateless::post(&node, &request, (&call.service, &call.allowed, call.takes), (&head, &body)).await;
        }
        Err(refusal) => {
            let error = ApiError::from(refusal);
            return Ok(head.id_text().map_or_else(|| error.response(None), |id| error.stateless(id)));
        }
    }
    let said = head.said();
    let shown = call.session()?;
    let begins = matches!(&said, Said::Request { method, .. } if **method == *mcp::INITIALIZE) && shown.is_none();
    let admitted = match call.allowed.judge(&node, shown.as_ref(), (&head, &body, &said)).await {
        Ok(admitted) => admitted,
        Err(refused) => return Ok(call.not_allowed(&refused, shown.is_some(), id_text(&said))),
    };
    // The one that it offers stands in the request.
    let version = if begins { None } else { call.version()? };
    let session = match shown {
        Some(session) => session,
        None if begins && !call.service.is_listed() => {
            return Ok(sse::unknown_service(&node, &call.service.name).response(id_text(&said)));
        }
        None if begins => match call.opening().begin().await {
            Ok(session) => session,
            Err(error) => return Ok(ApiError::from(error).knowing(&*node.env.store).response(id_text(&said))),
        },
        None if head.method() == Some(mcp::DISCOVER) => {
            return Ok(ApiError::Stateless { newest: mcp::NEWEST_VERSION }.response(id_text(&said)));
        }
        None => return Ok(ApiError::NoSessionHeader.response(id_text(&said))),
    };
    let offered = if begins { mcp::with_sessions(&body) } else { None };
    let sent = call.sent(offered.unwrap_or(body), said, 0, version);
    let delivered = sent.deliver(&node.gateway, session).await;
    taken(admitted, delivered.as_ref());
    let response = match delivered.map(Delivered::into_stream) {
        Ok(None) => HttpResponse::Accepted().finish(),
        Ok(Some(stream)) => call.answer(stream, begins.then_some(session)).await,
        Err(error) => {
            sent.is_refused(&node.gateway, session, &error).await;
            return Ok(call.refused(error, id_text(&sent.posted.said)));
        }
    };
    sent.is_answered(&node.gateway, session, &request);
    Ok(response)
}

/// `GET /mcp/{service}`
pub async fn get(node: NodeData, request: HttpRequest, Named(service): Named) -> Result<HttpResponse, ApiError> {
    stateless::refuse_method(&request)?;
    let call = Call::new(&node, &request, service.as_deref())?;
    if !call.takes.events {
        return Err(ApiError::NotAcceptable);
    }
    let session = call.session()?.ok_or(ApiError::NoSessionHeader)?;
    let version = call.version()?;
    let cursor = request.headers().get(&LAST_EVENT).filter(|value| !value.is_empty());
    let shown = cursor.map(|value| value.to_str().unwrap_or_default());
    let was_paused = shown.is_some_and(|cursor| cursor.ends_with(PAUSED));
    let shown_cursor = shown.map(|cursor| cursor.strip_suffix(PAUSED).unwrap_or(cursor));
    let cursor = shown_cursor.map_or(Mark::Absent, sse::mark);
    let is_one = matches!(cursor, Mark::Is(_));
    let edge = call.edge();
    let habits = Habits {
        // The Python SDK gives a stream up for good at its second break, however long it has lasted in between; a clean end,
        // after which it comes back, lets it count anew.
        has_lost_one: edge != Edge::GoesOn && !was_paused && shown.is_some() && is_agent(&request, "python-httpx"),
        // findings/ai-sdk-clean-end-of-stream-is-final.sh
        gives_up_at_an_end: edge != Edge::Absent || is_agent(&request, AI_SDK),
        has_kept_it: edge == Edge::GoesOn,
    };
    match call.opening().listen(session, version, cursor, habits).await {
        Ok(Some(Listening::To(pump))) => Ok(call.stream(pump, None)),
        Ok(Some(Listening::Over)) => Ok(call.events(stream::empty(), None)),
        Ok(Some(Listening::OtherVersion)) => Err(ApiError::OtherVersion),
        Ok(None) => Err(ApiError::UnknownSession),
        // Clients count refusals, and give a stream up after a few.
        Err(NotOpened::Store(_)) => {
            let stands_at = shown_cursor.filter(|_| is_one);
            let retry = streamable_retry(&node.env.settings.stream);
            let first = stream::once(future::ready(Ok(frame::come_again(stands_at, retry))));
            let end = habits.gives_up_at_an_end.then_some(Err(Aborted("the session store does not answer")));
            Ok(call.events(first.chain(stream::iter(end)), None))
        }
        Err(error) => Err(ApiError::from(error).knowing(&*node.env.store)),
    }
}

/// `DELETE /mcp/{service}`
pub async fn delete(node: NodeData, request: HttpRequest, Named(service): Named) -> Result<HttpResponse, ApiError> {
    stateless::refuse_method(&request)?;
    let call = Call::new(&node, &request, service.as_deref())?;
    let session = call.session()?.ok_or(ApiError::NoSessionHeader)?;
    let version = call.version()?;
    let by = &call.allowed.by;
    let head = node.env.store.load(session).await?;
    let is_there = |head: &SessionHead| head.service == call.service.name && head.binding.admits(by);
    let head = head.filter(is_there).ok_or(ApiError::UnknownSession)?;
    if head.continuation.has_other_version(version) {
        return Err(ApiError::OtherVersion);
    }
    if !node.env.store.purge(session, Some(by)).await? {
        return Err(ApiError::UnknownSession);
    }
    Ok(HttpResponse::NoContent().finish())
}

fn is_agent(request: &HttpRequest, name: &str) -> bool {
    let agent = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    agent.is_some_and(|agent| agent.starts_with(name))
}

/// It is about the session or the headers, and not about what is done with the request.
fn is_of_the_request(error: &NotDelivered) -> bool {
    matches!(error, NotDelivered::Refused(DeliverError::Gone | DeliverError::WrongService | DeliverError::OtherVersion))
}

/// Clients of this transport know where to speak.
fn no_endpoint(_: &SessionId, _: Option<u64>) -> String {
    String::new()
}

/// `new`: the session that this answer begins.
fn json(answer: Bytes, new: Option<SessionId>) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response.content_type(JSON);
    if let Some(session) = new {
        response.insert_header((SESSION.clone(), session.reveal()));
    }
    response.body(answer)
}

impl<'r> Call<'r> {
    fn new(node: &'r Rc<Node>, request: &'r HttpRequest, service: Option<&str>) -> Result<Self, ApiError> {
        let service = sse::find_service(node, service)?;
        let allowed = Allowed::at(node, request, &service.name)?;
        Ok(Self { node, request, takes: Takes::of(request), service, allowed })
    }

    /// The session that the client names.
    fn session(&self) -> Result<Option<SessionId>, ApiError> {
        let mut named = self.request.headers().get_all(&SESSION);
        let Some(first) = named.next() else { return Ok(None) };
        if named.next().is_some() {
            return Err(ApiError::Repeated { header: "Mcp-Session-Id" });
        }
        let session = first.to_str().ok().and_then(|text| text.parse().ok());
        session.map(Some).ok_or(ApiError::UnknownSession)
    }

    /// The version that the client names, which must be one with sessions; whether it is the session's is for those to say who
    /// know that. Who names none is believed to mean 2025-03-26 (MCP, Protocol Version Header), so who names that one says no
    /// more: the official conformance suite does, in a session of 2025-11-25
    /// (findings/conformance-names-another-version.sh).
    fn version(&self) -> Result<Option<&'static str>, ApiError> {
        let mut found = None;
        for named in self.request.headers().get_all(&VERSION) {
            let version = mcp::VERSIONS.into_iter().find(|version| version.as_bytes() == named.as_bytes());
            let version = version.ok_or_else(|| ApiError::ProtocolVersion { spoken: mcp::VERSIONS.join(", ") })?;
            if found.replace(version).is_some_and(|other| other != version) {
                return Err(ApiError::Repeated { header: "MCP-Protocol-Version" });
            }
        }
        Ok(found.filter(|version| *version != mcp::UNNAMED))
    }

    /// `at`: its place among the messages of this request.
    fn sent(&self, body: Bytes, said: Said, at: usize, version: Option<&'static str>) -> Sent {
        let own_stream = matches!(said, Said::Request { .. });
        let service = Some(self.service.name.as_str().into());
        let by = self.allowed.by.clone();
        Sent::new(self.request, &self.node.env, (service, by), (body, said), at, own_stream, version)
    }

    /// An array of messages, as MCP 2025-03-26 has it, and no later version. The answers come on one stream, each as a stream
    /// of its own with which its client may go on, or for a client that takes no stream in one array.
    async fn batch(&self, messages: Vec<Bytes>) -> Result<HttpResponse, ApiError> {
        let named = self.request.headers().get(&VERSION);
        if named.is_some_and(|version| version.as_bytes() != mcp::WITH_BATCHES.as_bytes()) {
            return Err(ApiError::Unexpected("an array of messages is for MCP 2025-03-26 alone: POST them one by one"));
        }
        let session = self.session()?.ok_or(ApiError::NoSessionHeader)?;
        let (env, gateway) = (&self.node.env, &self.node.gateway);
        let limit = env.settings.limits.max_inflight;
        if messages.is_empty() || messages.len() > limit {
            return Err(ApiError::Unexpected("an array of messages has one at least, and MCP_MAX_INFLIGHT at most"));
        }
        let (mut streams, mut refused) = (Vec::new(), Vec::new());
        let mut sent = Vec::with_capacity(messages.len());
        for body in messages {
            let head = Head::parse(&body)?;
            let said = head.said();
            if matches!(&said, Said::Request { method, .. } if **method == *mcp::INITIALIZE) {
                return Err(ApiError::Unexpected("initialize is not for an array of messages"));
            }
            let judged = self.allowed.judge(self.node, Some(&session), (&head, &body, &said)).await;
            let admitted = match (judged, id_text(&said)) {
                (Ok(admitted), _) => admitted,
                (Err(error @ ApiError::Policy { .. }), Some(id)) => {
                    refused.push(error.body(Some(id)));
                    continue;
                }
                (Err(error), id) => return Ok(error.response(id)),
            };
            sent.push((self.sent(body, said, sent.len(), Some(mcp::WITH_BATCHES)), admitted));
        }
        let (sent, admitted): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
        for (sent, admitted) in sent.iter().zip(admitted) {
            let delivered = sent.deliver(gateway, session).await;
            taken(admitted, delivered.as_ref());
            match (delivered, id_text(&sent.posted.said)) {
                (Ok(delivered), _) => {
                    streams.extend(delivered.into_stream().map(|stream| Waiting::new(env, stream)));
                }
                (Err(error), Some(id)) if !is_of_the_request(&error) => {
                    sent.is_refused(gateway, session, &error).await;
                    refused.push(ApiError::from(error).knowing(&*env.store).body(Some(id)));
                }
                (Err(error), id) => return Ok(self.refused(error, id)),
            }
        }
        let response = if streams.is_empty() && refused.is_empty() {
            HttpResponse::Accepted().finish()
        } else if self.takes.events {
            let retry = streamable_retry(&env.settings.stream);
            let said = refused.iter().map(|error| Ok(frame::unnumbered(error))).collect::<Vec<_>>();
            let mut bodies = Vec::with_capacity(streams.len());
            for waiting in streams {
                bodies.push(match waiting.answer(Duration::ZERO, retry).await {
                    Answered::Whole(answer) => {
                        stream::once(future::ready(Ok(frame::unnumbered(&answer)))).boxed_local()
                    }
                    Answered::Stream(pump) => frame::body(pump, no_endpoint).boxed_local(),
                });
            }
            self.events(stream::iter(said).chain(stream::select_all(bodies)), None)
        } else {
            let answers = future::join_all(streams.into_iter().map(Waiting::answer_alone)).await;
            refused.extend(answers.into_iter().flatten());
            json(Bytes::from([&b"["[..], &refused.join(&b","[..]), b"]"].concat()), None)
        };
        sent.iter().for_each(|sent| sent.is_answered(gateway, session, self.request));
        Ok(response)
    }

    fn opening(&self) -> Opening {
        let security = &self.node.env.settings.security;
        Opening {
            gateway: Rc::clone(&self.node.gateway),
            client: sse::client(self.request, &self.service, security),
            by: self.allowed.by.clone(),
            service: Arc::clone(&self.service),
        }
    }

    /// Of a session that lives, a request that was not taken has an answer like any other: clients give their session up for
    /// a status. Another instance takes what one does not take that goes down, if a proxy asks it.
    fn refused(&self, error: NotDelivered, id: Option<&str>) -> HttpResponse {
        let has_status = is_of_the_request(&error) || error == NotDelivered::Draining;
        let error = ApiError::from(error).knowing(&*self.node.env.store);
        match id {
            Some(id) if !has_status => error.answer(id),
            id => error.response(id),
        }
    }

    /// Of a session that lives, a request that may not be made has an answer like any other. A token with more scopes is
    /// asked for by a status.
    fn not_allowed(&self, error: &ApiError, has_session: bool, id: Option<&str>) -> HttpResponse {
        match (error, id) {
            (ApiError::Policy { .. }, Some(id)) if has_session => error.answer(id),
            (_, id) => error.response(id),
        }
    }

    /// The answer to a request. `new`: the session that it has begun.
    async fn answer(&self, stream: AnswerStream, new: Option<SessionId>) -> HttpResponse {
        let env = &self.node.env;
        let waiting = Waiting::new(env, stream);
        if !self.takes.events {
            return match waiting.answer_alone().await {
                Some(answer) => json(answer, new),
                // Its client asks again under the same id, and is given what there is then.
                None => ApiError::Draining.response(None),
            };
        }
        let settings = &env.settings.stream;
        let patience = match (self.takes.json, settings.json_wait) {
            (true, wait) if !wait.is_zero() && is_agent(self.request, AI_SDK) => wait.max(WITHOUT_RESUMING),
            (true, wait) => wait,
            (false, _) => Duration::ZERO,
        };
        match waiting.answer(patience, streamable_retry(settings)).await {
            Answered::Whole(answer) => json(answer, new),
            Answered::Stream(pump) => self.stream(pump.ending_cleanly(self.edge() == Edge::Absent), new),
        }
    }

    /// Whether a proxy keeps the client's streams.
    fn edge(&self) -> Edge {
        Edge::of(self.request, &self.node.env.settings.security.trusted_proxies)
    }

    fn stream(&self, pump: Pump, new: Option<SessionId>) -> HttpResponse {
        self.events(frame::body(pump, no_endpoint), new)
    }

    fn events(
        &self,
        body: impl Stream<Item = Result<Bytes, Aborted>> + 'static,
        new: Option<SessionId>,
    ) -> HttpResponse {
        frame::response(self.request, body, |response| {
            self.edge().answer(response);
            if let Some(session) = new {
                response.insert_header((SESSION.clone(), session.reveal()));
            }
        })
    }
}
