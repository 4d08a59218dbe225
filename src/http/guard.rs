//! SEC-3, before any handler: requests of foreign hosts and origins end here.
//!
//! Written out, where `middleware::from_fn` would put two futures of every request on the heap.

use std::future::{Ready, ready};

use actix_web::{
    Error,
    dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
};
use futures_util::future::Either;

use super::{WorkerData, forwarded};

/// The middleware.
#[derive(Debug)]
pub struct Guard;

/// A service behind the guard.
#[derive(Debug)]
pub struct Guarded<S> {
    service: S,
}

impl<S, B> Transform<S, ServiceRequest> for Guard
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Transform = Guarded<S>;
    type InitError = ();
    type Future = Ready<Result<Guarded<S>, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(Guarded { service }))
    }
}

impl<S, B> Service<ServiceRequest> for Guarded<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Future = Either<Ready<Result<ServiceResponse<B>, Error>>, S::Future>;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let worker = request.app_data::<WorkerData>().expect("every app is built with its worker");
        match forwarded::check_host_and_origin(request.request(), &worker.app.settings.security) {
            Ok(()) => Either::Right(self.service.call(request)),
            Err(refused) => Either::Left(ready(Err(refused.into()))),
        }
    }
}
