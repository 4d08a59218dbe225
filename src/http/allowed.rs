//! What the rules allow (`crate::policy`), on its way to HTTP: of a message, of a service as a whole.

use std::rc::Rc;

use actix_web::HttpRequest;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::{error::ApiError, principal};
use crate::{
    audit::Entry,
    gateway::{
        deliver::NotDelivered,
        pace::{self, Admitted},
    },
    policy::{self, Grant, List, Verdict, filtered, shows_tool},
    process::node::Node,
    protocol::{
        jsonrpc::{Head, Said},
        mcp,
        session_id::SessionId,
    },
    session::messages::Delivered,
    store::{Binding, Paced},
};

/// Who asks, and what he may at one service.
pub(super) struct Allowed<'r> {
    request: &'r HttpRequest,
    /// What the store is told of who asks.
    pub(super) by: Binding,
    /// `None`: there are no rules.
    pub(super) grant: Option<Grant>,
    /// For the audit log.
    service: String,
}

/// Of a message that its session has, the owner keeps count. One that it had before is perhaps answered.
pub(super) fn taken(admitted: Admitted, delivered: Result<&Delivered, &NotDelivered>) {
    if let Ok(Delivered::Accepted(_)) = delivered {
        admitted.is_taken();
    }
}

impl<'r> Allowed<'r> {
    /// # Errors
    /// No rule is about who asks at this service.
    pub(super) fn at(node: &Rc<Node>, request: &'r HttpRequest, service: &str) -> Result<Self, ApiError> {
        let principal = principal::of(request);
        // Each call comes here: nothing is copied for an audit log that there is not.
        let noted = node.env.audit.as_ref().map(|_| service.to_owned()).unwrap_or_default();
        let Some(grant) = principal.grant(node.env.policy.as_ref(), service) else {
            return Ok(Self { request, by: principal.binding(), grant: None, service: noted });
        };
        if grant.is_nothing() {
            node.env.metrics.router_errors.with_label_values(&["policy"]).inc();
            return Err(ApiError::Policy { what: format!("the service {service:?}"), rules: String::new() });
        }
        Ok(Self { request, by: principal.binding().with_rules(grant.names()), grant: Some(grant), service: noted })
    }

    /// # Errors
    /// It is not allowed.
    fn check(&self, node: &Rc<Node>, head: &Head<'_>, body: &[u8]) -> Result<(), ApiError> {
        let Some(grant) = &self.grant else { return Ok(()) };
        let error = match grant.judge(head, body) {
            Verdict::Allowed => return Ok(()),
            Verdict::Refused { what, rules } => ApiError::Policy { what, rules },
            Verdict::Lacks(scopes) => principal::lacks(self.request, &scopes),
        };
        node.env.metrics.router_errors.with_label_values(&["policy"]).inc();
        Err(error)
    }

    /// Whether this may be done: by the rules, not too often, and not with too much at a time; and notes for the audit log
    /// what came of it. The call counts until what is returned is dropped, or its session has it.
    ///
    /// # Errors
    /// It may not.
    pub(super) async fn judge(
        &self,
        node: &Rc<Node>,
        session: Option<&SessionId>,
        (head, body, said): (&Head<'_>, &[u8], &Said),
    ) -> Result<Admitted, ApiError> {
        let judged = match self.check(node, head, body) {
            // By its answer clients tell of which era a server is: a 429 or 503 would be taken for one.
            Ok(()) if head.method() == Some(mcp::DISCOVER) => Ok(Admitted::default()),
            Ok(()) => self.admit(node, session, said).await,
            Err(refused) => Err(refused),
        };
        if let (Some(audit), Said::Request { id, method }) = (&node.env.audit, said) {
            let (what, outcome) = match &judged {
                Ok(_) => ("asked", "accepted"),
                Err(error) => ("refused", error.reason()),
            };
            audit.note(Entry {
                what,
                who: principal::of(self.request).who(),
                service: self.service.clone(),
                session: session.map(|session| session.handle().to_string()).unwrap_or_default(),
                request: id.as_json().to_owned(),
                method: method.to_string(),
                target: policy::target(head),
                outcome: outcome.to_owned(),
            });
        }
        judged
    }

    /// One more request, if this is one.
    ///
    /// # Errors
    /// There were too many of them, or there are.
    async fn admit(&self, node: &Rc<Node>, session: Option<&SessionId>, said: &Said) -> Result<Admitted, ApiError> {
        let Said::Request { id, method } = said else { return Ok(Admitted::default()) };
        let too_many = |reason| node.env.metrics.router_errors.with_label_values(&[reason]).inc();
        if let Paced::After(wait) = pace::pace(&node.gateway, &self.by).await? {
            too_many("too_often");
            let retry = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
            return Err(ApiError::TooOften { retry: retry.max(1) });
        }
        let admitted = pace::admit(&node.gateway, &self.by, session, (id, method)).await?;
        admitted.ok_or_else(|| {
            too_many("too_many_calls");
            ApiError::TooManyCalls
        })
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
