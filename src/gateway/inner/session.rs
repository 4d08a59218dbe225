//! One inner session: opened, initialised, spoken to, ended.

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::reading::{At, Ended, Reading, Said};
use crate::{
    gateway::{
        deliver::{self, NotDelivered},
        disown,
        open::{NotOpened, Opening},
        patience::patiently,
        shared::Gateway,
    },
    protocol::{
        jsonrpc::{self, Head, IdKey},
        mcp,
        post_id::PostId,
        session_id::SessionId,
        stream_key::{MAIN_STREAM, StreamKey},
    },
    session::{
        attachment::Waiting,
        messages::{DeliverError, Delivered, Posted, Tries},
        returning::Client,
    },
    store::Binding,
    traces::Place,
    upstream::Service,
};

/// Why a session of the gateway's own could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// It was not opened.
    #[error(transparent)]
    NotOpened(#[from] NotOpened),
    /// It did not take a message.
    #[error("the session did not take the message: {0:?}")]
    NotDelivered(NotDelivered),
    /// The server refused `initialize` with this response.
    #[error("the server refused initialize")]
    Refused(Bytes),
    /// It has ended, or cannot be read.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// Another call has just tried, and no server of the service was there for it.
    #[error("no server of service {0} takes a session")]
    NoServer(String),
    /// There are as many as may be (`MCP_INNER_SESSIONS`).
    #[error("too many sessions for clients without sessions")]
    TooMany,
}

impl From<NotDelivered> for Failed {
    fn from(error: NotDelivered) -> Self {
        Self::NotDelivered(error)
    }
}

impl Failed {
    /// The session is not there any more, and has not seen the message.
    pub fn is_gone(&self) -> bool {
        *self == Self::NotDelivered(NotDelivered::Refused(DeliverError::Gone))
    }

    /// Nobody knows whether the message was taken.
    pub fn is_in_doubt(&self) -> bool {
        *self == Self::NotDelivered(NotDelivered::Refused(DeliverError::InDoubt))
    }
}

/// A request on its way.
#[derive(Debug)]
pub struct Asked {
    /// Its stream.
    pub reading: Reading,
    /// Its id in the session.
    pub id: IdKey,
}

/// See the module's text. Dropped, nothing happens to the session.
#[derive(Debug, Clone)]
pub struct Inner {
    opening: Opening,
    /// Its name in the store.
    pub session: SessionId,
}

/// An id that no other request of any session has, as JSON text; also fit for a progress token.
pub fn fresh_id() -> IdKey {
    IdKey::from_stored(format!("\"call-{:032x}\"", fastrand::u128(..)))
}

impl Inner {
    /// One that there is.
    pub fn at(gateway: &Rc<Gateway>, service: &Arc<Service>, by: &Binding, session: SessionId) -> Self {
        Self { opening: opening(gateway, service, by), session }
    }

    /// A new one, without a handshake. `client`: as which it is opened.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn open(
        gateway: &Rc<Gateway>,
        service: &Arc<Service>,
        by: &Binding,
        client: Client,
    ) -> Result<Self, Failed> {
        let opening = Opening { client, ..opening(gateway, service, by) };
        let session = opening.begin().await?;
        Ok(Self { opening, session })
    }

    /// The handshake, with these capabilities of the client and this level of logs (JSON texts). The server's result of
    /// `initialize` (JSON text).
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn initialize(&self, capabilities: &str, level: Option<&str>) -> Result<Arc<str>, Failed> {
        let params = format!(
            r#"{{"protocolVersion":"{}","capabilities":{capabilities},"clientInfo":{{"name":"mcp-router-stateless","version":"{}"}}}}"#,
            mcp::NEWEST_VERSION,
            env!("CARGO_PKG_VERSION"),
        );
        let answer = self.answer(mcp::INITIALIZE, &params).await?;
        let head = Head::parse(&answer).ok();
        let Some(result) = head.and_then(|head| head.result).map(RawValue::get) else {
            return Err(Failed::Refused(answer));
        };
        self.notify(mcp::INITIALIZED, "{}").await?;
        if let Some(level) = level.filter(|_| logs(result)) {
            // A server that does not take it logs as it likes.
            self.answer(mcp::SET_LEVEL, &format!(r#"{{"level":{level}}}"#)).await?;
        }
        Ok(result.into())
    }

    /// # Errors
    /// It is gone ([`Failed::is_gone`]), or nobody can tell.
    pub async fn is_there(&self) -> Result<(), Failed> {
        let gateway = &self.opening.gateway;
        let head = patiently(gateway, || gateway.env.store.load(self.session)).await.map_err(|_| Ended::Unavailable)?;
        head.map(|_| ()).ok_or(Failed::NotDelivered(NotDelivered::Refused(DeliverError::Gone)))
    }

    /// Asks, and waits for the answer alone. `params`: JSON text.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn answer(&self, method: &str, params: &str) -> Result<Bytes, Failed> {
        let mut asked = self.ask(method, params, fresh_id(), PostId::random(), None).await?;
        loop {
            match asked.reading.next().await? {
                Said::Answer { body, .. } => return Ok(body),
                Said::Question { id, method, .. } => self.refuse(&id, &method).await?,
                Said::Notification { .. } | Said::Beat => {}
            }
        }
    }

    /// Asks. `place`: where that stands in a trace. The same `post` again, with the same id and parameters, is the same request, and runs once.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn ask(
        &self,
        method: &str,
        params: &str,
        id: IdKey,
        post: PostId,
        place: Option<Place>,
    ) -> Result<Asked, Failed> {
        let method_text = serde_json::Value::from(method);
        let id_text = id.as_json();
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id_text},"method":{method_text},"params":{params}}}"#);
        let said = jsonrpc::Said::Request { id: id.clone(), method: method.into() };
        let posted = self.posted(body.into(), said, (post, place), true);
        let gateway = &self.opening.gateway;
        let delivered = match deliver::deliver(gateway, self.session, &posted).await {
            Ok(delivered) => delivered,
            Err(error) => {
                disown::before_telling(gateway, self.session, &posted, &error).await;
                return Err(error.into());
            }
        };
        let Some(stream) = delivered.into_stream() else {
            return Err(NotDelivered::Refused(DeliverError::WrongService).into());
        };
        let at = At { epoch: stream.epoch, seq: stream.from };
        let pump = Waiting::new(&gateway.env, stream).stream();
        Ok(Asked { reading: Reading::of(self.opening.clone(), self.session, at, pump), id })
    }

    /// The stream of a request that was asked before, after this place.
    pub fn read(&self, key: StreamKey, at: At) -> Reading {
        Reading::after(self.opening.clone(), self.session, key, at)
    }

    /// Its main stream, from now on.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn read_main(&self) -> Result<Reading, Failed> {
        let gateway = &self.opening.gateway;
        let head = patiently(gateway, || gateway.env.store.load(self.session)).await.map_err(|_| Ended::Unavailable)?;
        let head = head.ok_or(Ended::Gone)?;
        let epoch = head.ownership.as_ref().map_or(0, |ownership| ownership.epoch);
        let seq = head.stream(MAIN_STREAM).map_or(0, |stream| stream.last_seq);
        Ok(self.read(StreamKey::Main, At { epoch, seq }))
    }

    /// What there is of a stream after this place, without showing it: whoever reads it goes on undisturbed.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn peek(&self, key: StreamKey, at: At) -> Result<Vec<Said>, Failed> {
        let mut reading = self.read(key, at);
        let mut found = Vec::new();
        while reading.look().await? {
            found.extend(std::iter::from_fn(|| reading.next_at_once()));
        }
        Ok(found)
    }

    /// Says something that wants no answer. `params`: JSON text.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn notify(&self, method: &str, params: &str) -> Result<(), Failed> {
        let method_text = serde_json::Value::from(method);
        let body = format!(r#"{{"jsonrpc":"2.0","method":{method_text},"params":{params}}}"#);
        self.say(body.into(), jsonrpc::Said::Notification { method: method.into() }).await
    }

    /// Answers a request of the server with this result (JSON text).
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn reply(&self, id: &IdKey, result: &str) -> Result<(), Failed> {
        let body = jsonrpc::result_response(id.as_json(), result);
        self.say(body, jsonrpc::Said::Response { id: Some(id.clone()) }).await
    }

    /// Answers a request of the server that nobody else will: a ping with what it wants, any other with an error.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn refuse(&self, id: &IdKey, method: &str) -> Result<(), Failed> {
        if method == mcp::PING {
            return self.reply(id, "{}").await;
        }
        let why = "the client of this call cannot be asked this";
        let body = jsonrpc::error_response(id.as_json(), jsonrpc::METHOD_NOT_FOUND, why, None);
        self.say(body, jsonrpc::Said::Response { id: Some(id.clone()) }).await
    }

    /// Gives a request up.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn cancel(&self, id: &IdKey, reason: &str) -> Result<(), Failed> {
        let reason = serde_json::Value::from(reason);
        self.notify(mcp::CANCELLED, &format!(r#"{{"requestId":{},"reason":{reason}}}"#, id.as_json())).await
    }

    /// Ends it, at its server, too.
    pub async fn end(&self) {
        let gateway = &self.opening.gateway;
        // Of one that the store cannot delete now its time is left.
        let _ = patiently(gateway, || gateway.env.store.purge(self.session, None)).await;
    }

    async fn say(&self, body: Bytes, said: jsonrpc::Said) -> Result<(), Failed> {
        let posted = self.posted(body, said, (PostId::random(), None), false);
        let delivered = deliver::deliver(&self.opening.gateway, self.session, &posted).await;
        delivered.map(|_: Delivered| ()).map_err(Failed::from)
    }

    fn posted(
        &self,
        body: Bytes,
        said: jsonrpc::Said,
        (post_id, place): (PostId, Option<Place>),
        own_stream: bool,
    ) -> Arc<Posted> {
        Arc::new(Posted {
            body,
            said,
            by: self.opening.by.clone(),
            service: Some(self.opening.service.name.as_str().into()),
            post_id,
            versioned: true,
            version: None,
            own_stream,
            place,
            tries: Tries::default(),
        })
    }
}

fn opening(gateway: &Rc<Gateway>, service: &Arc<Service>, by: &Binding) -> Opening {
    Opening { gateway: Rc::clone(gateway), service: Arc::clone(service), client: Client::gateway(), by: by.clone() }
}

/// The server has told that it logs.
fn logs(result: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Initialized {
        capabilities: Capabilities,
    }
    #[derive(serde::Deserialize)]
    struct Capabilities {
        #[serde(default)]
        logging: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_str::<Initialized>(result).is_ok_and(|told| told.capabilities.logging.is_some())
}
