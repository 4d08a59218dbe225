//! A message of a client on its way into its session's journal, by whichever surface it has come: what it is called over all
//! tries of a proxy, and when that name is forgotten. REQ-6

use std::{
    rc::Rc,
    sync::{Arc, Weak},
    time::Instant,
};

use actix_web::HttpRequest;
use bytes::Bytes;

use super::{
    connections::Open,
    forwarded::{self, Name},
    principal,
    trace::{self, Arrival},
};
use crate::{
    gateway::{
        Gateway, answered,
        deliver::{self, NotDelivered},
        disown, subject,
    },
    protocol::{jsonrpc::Said, post_id::PostId, session_id::SessionId},
    session::{
        env::Env,
        messages::{Delivered, Posted, Tries},
    },
    store::Binding,
    traces::Tracer,
};

/// See the module's text.
pub(super) struct Sent {
    pub(super) posted: Arc<Posted>,
    /// Its name may be that of others, too.
    is_correlated: bool,
    /// When the whole of it was there.
    begun: Instant,
    /// Takes what is to be told of its arrival.
    tracer: Option<Tracer>,
    /// A token that it came with.
    token: Option<principal::Token>,
}

impl Sent {
    /// `at`: its place among the messages of this request. `own_stream`, `version`: see [`Posted`].
    pub(super) fn new(
        request: &HttpRequest,
        env: &Env,
        (service, by): (Option<Arc<str>>, Binding),
        (body, said): (Bytes, Said),
        at: usize,
        own_stream: bool,
        version: Option<&'static str>,
    ) -> Self {
        // nginx gives all its tries of one request the same one.
        let name = forwarded::request_name(request, &env.settings.security.trusted_proxies);
        let post_id = match name {
            Some(name) if at > 0 => PostId::of(&format!("{} {at}", name.text()), &body),
            Some(name) => PostId::of(name.text(), &body),
            None => PostId::random(),
        };
        let place = trace::place(env, request, &body, matches!(said, Said::Request { .. }));
        let versioned = request.headers().contains_key("mcp-protocol-version");
        Self {
            posted: Arc::new(Posted {
                body,
                said,
                by,
                service,
                post_id,
                versioned,
                version,
                own_stream,
                place,
                tries: Tries::default(),
            }),
            is_correlated: matches!(name, Some(Name::Correlation(_))),
            begun: Instant::now(),
            tracer: env.traces.clone(),
            token: principal::token(request),
        }
    }

    /// Only after this the journal has it. REQ-1
    pub(super) async fn deliver(&self, gateway: &Rc<Gateway>, session: SessionId) -> Result<Delivered, NotDelivered> {
        if let Some((token, lasts)) = self.token.as_ref().and_then(principal::Token::shown) {
            let (service, by) = (self.posted.service.as_deref(), &self.posted.by);
            subject::remember(gateway, session, service, by, (token, lasts)).await?;
        }
        let delivered = match self.is_correlated {
            true => answered::deliver(gateway, session, &self.posted).await,
            false => deliver::deliver(gateway, session, &self.posted).await,
        };
        if let Some(place) = &self.posted.place {
            let (method, service) = (method_of(&self.posted.said), self.posted.service.as_deref());
            let arrival = Arrival { place, method, service, session: Some(&session), begun: self.begun };
            arrival.ends(self.tracer.as_ref(), delivered.is_err().then_some("not_taken"));
        }
        delivered
    }

    /// Its client is about to be told this.
    pub(super) async fn is_refused(&self, gateway: &Rc<Gateway>, session: SessionId, error: &NotDelivered) {
        disown::before_telling(gateway, session, &self.posted, error).await;
    }

    /// The response to it is about to be written.
    pub(super) fn is_answered(&self, gateway: &Rc<Gateway>, session: SessionId, request: &HttpRequest) {
        if self.is_correlated {
            let connection: Weak<()> = request.conn_data::<Open>().map(Open::watch).unwrap_or_default();
            answered::forget(gateway, connection, session, self.posted.post_id, self.begun);
        }
    }
}

fn method_of(said: &Said) -> &str {
    match said {
        Said::Request { method, .. } | Said::Notification { method } => method,
        Said::Response { .. } => "response",
    }
}
