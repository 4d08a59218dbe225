//! One thing that was done, from when to when, and for which message.

use std::{
    borrow::Cow,
    time::{Instant, SystemTime},
};

use super::{Place, at, fresh_span};
use crate::protocol::trace_context::TraceContext;

/// Longest text of a fact, in bytes.
const MAX_TEXT: usize = 128;

/// What a span is about (`SpanKind` of OTLP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Done within the process.
    Internal = 1,
    /// A request of somebody else was taken.
    Server = 2,
    /// Somebody else was asked.
    Client = 3,
    /// Something was sent to whoever waits for it.
    Producer = 4,
}

/// What is told of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A name.
    Text(Cow<'static, str>),
    /// A count.
    Number(i64),
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its own.
    pub context: TraceContext,
    pub(super) parent: Option<[u8; 8]>,
    pub(super) name: Cow<'static, str>,
    pub(super) kind: Kind,
    pub(super) begun: SystemTime,
    pub(super) ended: SystemTime,
    pub(super) facts: Vec<(&'static str, Fact)>,
    /// What went wrong.
    pub(super) error: Option<&'static str>,
}

impl Span {
    /// About the arrival of a message, which begins at `begun` and ends now.
    pub fn of(place: &Place, name: impl Into<Cow<'static, str>>, kind: Kind, begun: Instant) -> Self {
        Self::new(place.context.clone(), place.parent, name.into(), kind, begun)
    }

    /// About something that is done for this span, from `begun` until now.
    pub fn child(of: &TraceContext, name: impl Into<Cow<'static, str>>, kind: Kind, begun: Instant) -> Self {
        Self::new(of.with_span(fresh_span()), Some(of.span_id), name.into(), kind, begun)
    }

    fn new(
        context: TraceContext,
        parent: Option<[u8; 8]>,
        name: Cow<'static, str>,
        kind: Kind,
        begun: Instant,
    ) -> Self {
        let ended = SystemTime::now();
        Self { context, parent, name, kind, begun: at(begun).min(ended), ended, facts: Vec::new(), error: None }
    }

    /// That is its id: others were told of it when it began.
    pub fn known_as(mut self, span_id: [u8; 8]) -> Self {
        self.context.span_id = span_id;
        self
    }

    /// With this fact.
    pub fn fact(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        let mut value = value.into();
        if value.len() > MAX_TEXT {
            let end = (0..=MAX_TEXT).rev().find(|end| value.is_char_boundary(*end)).unwrap_or_default();
            value = Cow::Owned(value[..end].to_owned());
        }
        self.facts.push((name, Fact::Text(value)));
        self
    }

    /// With this number.
    pub fn number(mut self, name: &'static str, value: u64) -> Self {
        self.facts.push((name, Fact::Number(i64::try_from(value).unwrap_or(i64::MAX))));
        self
    }

    /// It has failed, for this reason.
    pub fn failed(mut self, reason: &'static str) -> Self {
        self.error = Some(reason);
        self
    }

    /// It has failed, if there is a reason.
    pub fn failed_if(self, reason: Option<&'static str>) -> Self {
        match reason {
            Some(reason) => self.failed(reason),
            None => self,
        }
    }
}
