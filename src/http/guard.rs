//! SEC-3, before any handler: requests of foreign hosts and origins end here. Answers to allowed origins are marked for
//! their browsers on the way back ([`super::cors`]).
//!
//! Written out, where `middleware::from_fn` would put two futures of every request on the heap.

use std::future::{Ready, ready};

use actix_web::{
    Error,
    body::BoxBody,
    dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
    http::header,
};
use futures_util::future::{Either, FutureExt as _, LocalBoxFuture};

use super::{cors, error::ApiError, extract::NodeData, forwarded, unread};

/// The middleware.
#[derive(Debug)]
pub struct Guard;

/// A service behind the guard.
#[derive(Debug)]
pub struct Guarded<S> {
    service: S,
}

type Outcome = Result<ServiceResponse<BoxBody>, Error>;

impl<S> Transform<S, ServiceRequest> for Guard
where
    S: Service<ServiceRequest, Response = ServiceResponse<BoxBody>, Error = Error>,
    S::Future: 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Transform = Guarded<S>;
    type InitError = ();
    type Future = Ready<Result<Guarded<S>, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(Guarded { service }))
    }
}

impl<S> Service<ServiceRequest> for Guarded<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<BoxBody>, Error = Error>,
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
            Err(refused) => return Either::Right(Either::Left(ready(Err(refused.into())))),
        };
        let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        if origin.is_none() && !is_chunked {
            return Either::Left(self.service.call(request));
        }
        if let Some(origin) = &origin
            && cors::is_preflight(request.method(), request.headers())
        {
            let answer = cors::preflight(request.request(), origin);
            return Either::Right(Either::Left(ready(Ok(request.into_response(answer)))));
        }
        let answering = self.service.call(request).map(move |outcome| {
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

fn is_probe(path: &str, base: &str) -> bool {
    let path = path.strip_prefix(base).unwrap_or_default();
    matches!(path, "/actuator/health/liveness" | "/actuator/health/readiness")
}
