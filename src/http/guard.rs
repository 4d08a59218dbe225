//! Before any handler: requests of foreign hosts and origins end here (SEC-3), and so do those of nobody that is known
//! ([`super::principal`], SEC-1). Answers to allowed origins are marked for
//! their browsers on the way back ([`super::cors`]).
//!
//! Written out, where `middleware::from_fn` would put two futures of every request on the heap.

use std::{
    future::{Ready, ready},
    rc::Rc,
    sync::Arc,
};

use actix_web::{
    Error,
    body::BoxBody,
    dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
    http::{Method, Version, header},
};
use futures_util::future::{Either, FutureExt as _, LocalBoxFuture};

use super::{
    admin,
    connections::Open,
    cors,
    error::ApiError,
    extract::NodeData,
    forwarded,
    principal::{Authority, Unfound},
    unread,
};
use crate::{audit::Entry, process::node::Node};

/// Longest head of a request of HTTP/2, in bytes: as long as actix takes one of HTTP/1.1. Below it, h2 takes up to 16 MiB.
const HEAD_MAX: usize = 128 << 10;

/// The middleware.
#[derive(Debug)]
pub struct Guard {
    authority: Option<Arc<Authority>>,
}

impl Guard {
    /// `authority`: `None`: nobody is asked who he is.
    pub fn new(authority: Option<Arc<Authority>>) -> Self {
        Self { authority }
    }
}

/// A service behind the guard.
#[derive(Debug)]
pub struct Guarded<S> {
    service: Rc<S>,
    authority: Option<Arc<Authority>>,
}

type Outcome = Result<ServiceResponse<BoxBody>, Error>;

impl<S> Transform<S, ServiceRequest> for Guard
where
    S: Service<ServiceRequest, Response = ServiceResponse<BoxBody>, Error = Error> + 'static,
    S::Future: 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Transform = Guarded<S>;
    type InitError = ();
    type Future = Ready<Result<Guarded<S>, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(Guarded { service: Rc::new(service), authority: self.authority.clone() }))
    }
}

impl<S> Service<ServiceRequest> for Guarded<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<BoxBody>, Error = Error> + 'static,
    S::Future: 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    // On the heap only for browsers and for bodies without a length.
    type Future = Either<S::Future, Either<Ready<Outcome>, LocalBoxFuture<'static, Outcome>>>;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let node = request.app_data::<NodeData>().expect("every app is built with its node");
        let security = &node.env.settings.security;
        let origin = match forwarded::check_host_and_origin(request.request(), security) {
            Ok(origin) => origin.cloned(),
            // Probes come with whatever Host the platform likes, and tell a stranger nothing.
            Err(ApiError::Host) if is_probe(request.path(), &node.env.settings.server.base_path) => None,
            // An answer, and no error: what is put on answers further out is not put on errors.
            Err(refused) => return Either::Right(Either::Left(ready(Ok(refuse(request, &refused))))),
        };
        // HTTP/1.1 has one request at a time.
        let under_way = if request.version() == Version::HTTP_2 {
            if head_length(&request) > HEAD_MAX {
                let refused = ApiError::LongHead { limit: HEAD_MAX };
                return Either::Right(Either::Left(ready(Ok(refuse(request, &refused)))));
            }
            let most = node.env.settings.server.max_streams;
            match request.request().conn_data::<Open>().map(|open| open.begin(most)) {
                Some(None) => {
                    let refused = ApiError::TooMany { what: "requests on one connection" };
                    return Either::Right(Either::Left(ready(Ok(refuse(request, &refused)))));
                }
                counted => counted.flatten(),
            }
        } else {
            None
        };
        let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        let found = self.authority.as_ref().map_or(Ok(()), |authority| identify(authority, node, &request, false));
        if origin.is_none()
            && !is_chunked
            && under_way.is_none()
            && let Ok(()) = found
        {
            return Either::Left(self.service.call(request));
        }
        if let Some(origin) = &origin
            && cors::is_preflight(request.method(), request.headers())
        {
            let answer = cors::preflight(request.request(), origin);
            return Either::Right(Either::Left(ready(Ok(request.into_response(answer)))));
        }
        let answering = match found {
            Ok(()) => Either::Left(self.service.call(request)),
            Err(Unfound::Refused(error, _)) => Either::Right(Either::Left(ready(Ok(refuse(request, &error))))),
            Err(Unfound::Unclear) => Either::Right(Either::Right(self.later(request))),
        };
        let answering = answering.map(move |outcome| {
            drop(under_way);
            outcome.map(|mut response| {
                if let Some(origin) = origin {
                    cors::expose(response.headers_mut(), origin);
                }
                if is_chunked { unread::close(response) } else { response }
            })
        });
        Either::Right(Either::Right(answering.boxed_local()))
    }
}

impl<S> Guarded<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<BoxBody>, Error = Error> + 'static,
    S::Future: 'static,
{
    /// Calls the service when it is known who asks.
    fn later(&self, request: ServiceRequest) -> LocalBoxFuture<'static, Outcome> {
        let (service, authority) = (Rc::clone(&self.service), self.authority.clone());
        let node = request.app_data::<NodeData>().expect("every app is built with its node").clone();
        async move {
            if let Some(authority) = authority {
                authority.learn(request.request()).await;
                match identify(&authority, &node, &request, true) {
                    Err(Unfound::Refused(error, _)) => return Ok(refuse(request, &error)),
                    // Not when it is the last time.
                    Err(Unfound::Unclear) => return Ok(refuse(request, &ApiError::NoIssuer)),
                    Ok(()) => {}
                }
            }
            service.call(request).await
        }
        .boxed_local()
    }
}

fn head_length(request: &ServiceRequest) -> usize {
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    request.uri().path().len() + request.query_string().len() + headers.sum::<usize>()
}

fn refuse(request: ServiceRequest, error: &ApiError) -> ServiceResponse<BoxBody> {
    request.into_response(error.response(None))
}

/// Keeps with the request who asks.
///
/// # Errors
/// Nobody that is known, where somebody must be.
fn identify(authority: &Arc<Authority>, node: &Node, request: &ServiceRequest, is_last: bool) -> Result<(), Unfound> {
    let unfound = match authority.establish(request.request(), is_last) {
        Ok(()) => return Ok(()),
        Err(unfound) => unfound,
    };
    let path = request.path().strip_prefix(&node.env.settings.server.base_path).unwrap_or_default();
    // How it is, anybody may ask (SEC-4), and what a path takes. What operators ask, they may.
    // The dashboard's page has nothing to hide, and a browser that asks for it has no way to show a token.
    let is_page = path == "/" || path == "/ui" || path.starts_with("/ui/");
    let is_open = path.starts_with("/actuator/") || is_page || request.method() == Method::OPTIONS;
    let is_for_operators = ["services", "tools", "sessions", "deployment", "instances"].iter().any(|what| {
        let rest = path.strip_prefix("/mcp/router/").and_then(|rest| rest.strip_prefix(what));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    if is_open || is_for_operators && admin::is_admin(node, request.request()) {
        return Ok(());
    }
    if let Unfound::Refused(_, reason) = &unfound {
        node.env.metrics.unauthorized.with_label_values(&[reason]).inc();
        if let Some(audit) = &node.env.audit {
            // Without what may be a session's id.
            let method = path.split('/').take(4).collect::<Vec<_>>().join("/");
            let outcome = (*reason).to_owned();
            audit.note(Entry { what: "refused", method, outcome, ..Entry::default() });
        }
    }
    Err(unfound)
}

fn is_probe(path: &str, base: &str) -> bool {
    let path = path.strip_prefix(base).unwrap_or_default();
    matches!(path, "/actuator/health/liveness" | "/actuator/health/readiness")
}
