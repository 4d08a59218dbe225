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
};
use crate::{
    gateway::{
        Gateway, answered,
        deliver::{self, NotDelivered},
        disown, subject,
    },
    protocol::{jsonrpc::Said, post_id::PostId, session_id::SessionId},
    session::messages::{Delivered, Posted, Tries},
    settings::SecuritySettings,
    store::Binding,
};

/// See the module's text.
pub(super) struct Sent {
    pub(super) posted: Arc<Posted>,
    /// Its name may be that of others, too.
    is_correlated: bool,
    /// When the whole of it was there.
    begun: Instant,
    /// A token that it came with.
    token: Option<principal::Token>,
}

impl Sent {
    /// `at`: its place among the messages of this request. `own_stream`, `version`: see [`Posted`].
    pub(super) fn new(
        request: &HttpRequest,
        security: &SecuritySettings,
        (service, by): (Option<Arc<str>>, Binding),
        (body, said): (Bytes, Said),
        at: usize,
        own_stream: bool,
        version: Option<&'static str>,
    ) -> Self {
        // nginx gives all its tries of one request the same one.
        let name = forwarded::request_name(request, &security.trusted_proxies);
        let post_id = match name {
            Some(name) if at > 0 => PostId::of(&format!("{} {at}", name.text()), &body),
            Some(name) => PostId::of(name.text(), &body),
            None => PostId::random(),
        };
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
                tries: Tries::default(),
            }),
            is_correlated: matches!(name, Some(Name::Correlation(_))),
            begun: Instant::now(),
            token: principal::token(request),
        }
    }

    /// Only after this the journal has it. REQ-1
    pub(super) async fn deliver(&self, gateway: &Rc<Gateway>, session: SessionId) -> Result<Delivered, NotDelivered> {
        if let Some((token, lasts)) = self.token.as_ref().and_then(principal::Token::shown) {
            let (service, by) = (self.posted.service.as_deref(), &self.posted.by);
            subject::remember(gateway, session, service, by, (token, lasts)).await?;
        }
        match self.is_correlated {
            true => answered::deliver(gateway, session, &self.posted).await,
            false => deliver::deliver(gateway, session, &self.posted).await,
        }
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
