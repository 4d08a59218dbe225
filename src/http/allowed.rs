//! What the rules allow (`crate::policy`), on its way to HTTP: of a message, of a service as a whole.

use std::rc::Rc;

use actix_web::HttpRequest;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::{error::ApiError, principal};
use crate::{
    policy::{Grant, List, Verdict, filtered, shows_tool},
    process::node::Node,
    protocol::jsonrpc::Head,
    store::Binding,
};

/// Who asks, and what he may at one service.
pub(super) struct Allowed<'r> {
    request: &'r HttpRequest,
    /// What the store is told of who asks.
    pub(super) by: Binding,
    /// `None`: there are no rules.
    pub(super) grant: Option<Grant>,
}

impl<'r> Allowed<'r> {
    /// # Errors
    /// No rule is about who asks at this service.
    pub(super) fn at(node: &Rc<Node>, request: &'r HttpRequest, service: &str) -> Result<Self, ApiError> {
        let principal = principal::of(request);
        let Some(grant) = principal.grant(node.env.policy.as_ref(), service) else {
            return Ok(Self { request, by: principal.binding(), grant: None });
        };
        if grant.is_nothing() {
            node.env.metrics.router_errors.with_label_values(&["policy"]).inc();
            return Err(ApiError::Policy { what: format!("the service {service:?}"), rules: String::new() });
        }
        Ok(Self { request, by: principal.binding().with_rules(grant.names()), grant: Some(grant) })
    }

    /// # Errors
    /// It is not allowed.
    pub(super) fn check(&self, node: &Rc<Node>, head: &Head<'_>, body: &[u8]) -> Result<(), ApiError> {
        let Some(grant) = &self.grant else { return Ok(()) };
        let error = match grant.judge(head, body) {
            Verdict::Allowed => return Ok(()),
            Verdict::Refused { what, rules } => ApiError::Policy { what, rules },
            Verdict::Lacks(scopes) => principal::lacks(self.request, &scopes),
        };
        node.env.metrics.router_errors.with_label_values(&["policy"]).inc();
        Err(error)
    }

    /// What may be seen of the answer to a request of this method.
    ///
    /// # Errors
    /// It cannot be told what is in it.
    pub(super) fn shown(&self, method: Option<&str>, answer: Bytes) -> Result<Bytes, ApiError> {
        let (Some(grant), Some(list)) = (&self.grant, method.and_then(List::of)) else { return Ok(answer) };
        filtered(list, grant, &answer).ok_or_else(|| ApiError::ToolList("its list cannot be read".to_owned()))
    }

    /// It may see this tool.
    pub(super) fn shows_tool(&self, tool: &RawValue) -> bool {
        self.grant.as_ref().is_none_or(|grant| shows_tool(grant, tool))
    }
}
