//! Calls of a session that belong to a trace, until their answers are in the log: what was done for each, as spans, and where
//! in the trace the server is told that it stands. What an heir needs for that is on record with the request.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;

use crate::{
    protocol::trace_context::TraceContext,
    store::{HeadChange, NewEvent},
    traces::{Kind, Span, Tracer, fresh_span},
};

/// See the module's text. Of most sessions, and of all where nothing is traced, there is nothing.
#[derive(Debug, Default)]
pub(super) struct Traced(Option<Box<Open>>);

/// By canonical id.
#[derive(Debug, Default)]
struct Open(HashMap<Arc<str>, Call, RandomState>);

#[derive(Debug)]
struct Call {
    /// The span about its arrival, at whichever instance.
    context: TraceContext,
    /// The span about the POST to its server, and since when.
    sent: Option<(TraceContext, Instant)>,
    /// This owner has found it in the journal of another, and has not decided about it.
    adopted: Option<Instant>,
}

/// Where an answer went when it was in the log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Delivered {
    /// To a connection of this process.
    Here,
    /// To one of another instance, as far as is known.
    Elsewhere,
    /// To nobody yet.
    Kept,
}

impl Delivered {
    fn name(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Elsewhere => "elsewhere",
            Self::Kept => "kept",
        }
    }
}

/// A call on record is to be known by its place in its trace.
pub fn on_record(id_key: Arc<str>, context: &TraceContext) -> HeadChange {
    HeadChange::Traced { id_key, context: Some(context.stored()) }
}

impl Traced {
    /// As an adopter finds them.
    pub(super) fn inherit(found: BTreeMap<String, String>) -> Self {
        let mut traced = Self::default();
        for (id_key, context) in found {
            traced.finds(id_key.into(), &context, Some(Instant::now()));
        }
        traced
    }

    /// What is on record of them, for a session that is written again.
    pub(super) fn stored(&self) -> BTreeMap<String, String> {
        let open = self.0.iter().flat_map(|open| &open.0);
        open.map(|(id_key, call)| ((**id_key).to_owned(), call.context.stored())).collect()
    }

    /// A call was journaled that stands here in its trace.
    pub(super) fn begins(&mut self, id_key: Arc<str>, context: TraceContext) {
        let open = self.0.get_or_insert_default();
        open.0.insert(id_key, Call { context, sent: None, adopted: None });
    }

    /// Calls that others have journaled.
    pub(super) fn found(&mut self, found: BTreeMap<String, String>) {
        for (id_key, context) in found {
            if self.0.as_ref().is_none_or(|open| !open.0.contains_key(&*id_key)) {
                self.finds(id_key.into(), &context, None);
            }
        }
    }

    fn finds(&mut self, id_key: Arc<str>, context: &str, adopted: Option<Instant>) {
        // What makes no sense is not traced, and stays on record with its session.
        if let Some(context) = TraceContext::from_stored(context) {
            self.0.get_or_insert_default().0.insert(id_key, Call { context, sent: None, adopted });
        }
    }

    /// Where this call stands in a trace that is recorded.
    pub(super) fn recorded(&self, id_key: &str) -> Option<&TraceContext> {
        let call = self.0.as_ref()?.0.get(id_key)?;
        Some(&call.context).filter(|context| context.is_sampled())
    }

    fn get(&mut self, id_key: &str) -> Option<&mut Call> {
        self.0.as_mut()?.0.get_mut(id_key)
    }

    /// The fates of calls that were found are decided, or are being.
    pub(super) fn adopted(&mut self, tracer: Option<&Tracer>) {
        let Some((open, tracer)) = self.0.as_mut().zip(tracer) else { return };
        open.0.values_mut().for_each(|call| call.is_adopted(tracer));
    }

    /// The call is sent to its server, for the first time or again. What that is told of its place.
    pub(super) fn goes_up(&mut self, id_key: &str, tracer: Option<&Tracer>) -> Option<TraceContext> {
        let (call, tracer) = (self.get(id_key)?, tracer?);
        call.came_back(tracer, Some("sent_again"));
        let context = match call.context.is_sampled() {
            true => call.context.with_span(fresh_span()),
            false => call.context.clone(),
        };
        call.sent = Some((context.clone(), Instant::now()));
        Some(context)
    }

    /// The server has answered, or will not. `failed`: why it is no success.
    pub(super) fn came_back(&mut self, id_key: &str, tracer: Option<&Tracer>, failed: Option<&'static str>) {
        if let Some((call, tracer)) = self.get(id_key).zip(tracer) {
            call.came_back(tracer, failed);
        }
    }

    /// The answer is on its way into the log, and takes with it what is on record.
    pub(super) fn is_answered(&mut self, event: NewEvent, tracer: Option<&Tracer>) -> NewEvent {
        if self.0.is_none() {
            return event;
        }
        let Some(id_key) = event.answers.clone() else { return event };
        let Some(call) = self.get(&id_key) else { return event };
        if let Some(tracer) = tracer {
            call.is_adopted(tracer);
            call.came_back(tracer, None);
        }
        event.changing(HeadChange::Traced { id_key, context: None })
    }

    /// The answer is in the log, which took so long, and went there; `None`: it was answered before.
    pub(super) fn is_logged(
        &mut self,
        id_key: &str,
        tracer: Option<&Tracer>,
        took: Duration,
        delivered: Option<Delivered>,
    ) {
        let Some((call, tracer)) = self.forget(id_key).zip(tracer) else { return };
        let Some(delivered) = delivered else { return };
        let now = Instant::now();
        tracer.record(Span::child(&call.context, "store append", Kind::Client, now.checked_sub(took).unwrap_or(now)));
        let span = Span::child(&call.context, "deliver", Kind::Producer, now);
        tracer.record(span.fact("mcp_router.delivered", delivered.name()));
    }

    /// Nobody wants it any more.
    pub(super) fn is_cancelled(&mut self, id_key: &str, tracer: Option<&Tracer>) {
        if let Some((mut call, tracer)) = self.forget(id_key).zip(tracer) {
            call.came_back(tracer, Some("cancelled"));
        }
    }

    fn forget(&mut self, id_key: &str) -> Option<Call> {
        let open = self.0.as_mut()?;
        let call = open.0.remove(id_key);
        if open.0.is_empty() {
            self.0 = None;
        }
        call
    }
}

impl Call {
    fn is_adopted(&mut self, tracer: &Tracer) {
        if let Some(since) = self.adopted.take() {
            tracer.record(Span::child(&self.context, "adopt", Kind::Internal, since));
        }
    }

    fn came_back(&mut self, tracer: &Tracer, failed: Option<&'static str>) {
        if let Some((context, since)) = self.sent.take() {
            let span = Span::child(&self.context, "upstream", Kind::Client, since);
            tracer.record(span.known_as(context.span_id).failed_if(failed));
        }
    }
}
