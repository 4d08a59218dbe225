//! The body of the answer to a POST, when it may hold messages: servers that answer where they were asked, with one
//! message, an array of them, or an event stream (as MCP's Streamable HTTP has it).
//!
//! What it holds goes the way of what comes on the link's stream; what comes on both counts once, as any second answer.

use std::time::Duration;

use super::{
    connection::{Body, BodyKind},
    line::Line,
    transport::{LinkEvent, Outlet, sort_event, sort_message, sse::LinkLimits},
};
use crate::protocol::{
    jsonrpc::Head,
    scan::{Scan, Told},
    sse_reader::{Reader, to_text},
};

/// See the module's text.
pub struct Reply {
    body: Body,
    kind: BodyKind,
    line: Line,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// How the reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyEnd {
    /// There is nothing more to come.
    Whole,
    /// The connection broke, or nobody could read on: an answer in it is lost.
    Broken,
}

impl Reply {
    pub(super) fn new(body: Body, kind: BodyKind, line: Line) -> Self {
        Self { body, kind, line }
    }

    /// Reads to the end, and puts each message into `outlet` as soon as it is there; not for longer than `patience`.
    pub async fn read(self, limits: LinkLimits, outlet: Outlet, patience: Duration) -> ReplyEnd {
        let read = async {
            match self.kind {
                BodyKind::Json => self.read_json(limits, &outlet).await,
                BodyKind::Events => self.read_events(limits, &outlet).await,
            }
        };
        tokio::time::timeout(patience, read).await.unwrap_or(ReplyEnd::Broken)
    }

    async fn read_events(mut self, limits: LinkLimits, outlet: &Outlet) -> ReplyEnd {
        let mut reader = Reader::new(limits.max_message, limits.max_skipped);
        while let Some(chunk) = self.body.next().await {
            let Ok(chunk) = chunk else { return ReplyEnd::Broken };
            let mut events = Vec::new();
            let readable = reader.feed(&chunk, |read| sort_event(read, &mut events, |_| ()));
            drop(chunk);
            if outlet.put_all(events).await.is_err() || readable.is_err() {
                return ReplyEnd::Broken;
            }
        }
        self.give_back();
        ReplyEnd::Whole
    }

    async fn read_json(mut self, limits: LinkLimits, outlet: &Outlet) -> ReplyEnd {
        let mut text = Vec::new();
        let mut too_large: Option<(Scan, usize)> = None;
        while let Some(chunk) = self.body.next().await {
            let Ok(chunk) = chunk else { return ReplyEnd::Broken };
            if too_large.is_none() && text.len() + chunk.len() <= limits.max_message {
                text.extend_from_slice(&chunk);
                continue;
            }
            let (scan, skipped) = too_large.get_or_insert_default();
            scan.feed(&std::mem::take(&mut text));
            scan.feed(&chunk);
            *skipped += chunk.len();
            if *skipped > limits.max_skipped {
                break;
            }
        }
        let mut events = Vec::new();
        match too_large {
            Some((scan, _)) => events.extend(scan.finish().into_iter().map(LinkEvent::TooLarge)),
            None => {
                let (text, is_altered) = to_text(text);
                sort_message(text, is_altered, &mut events);
                // Many acknowledge with JSON of their own, which is no message and says nothing.
                events.retain(|event| match event {
                    LinkEvent::Message(body) | LinkEvent::Altered(body) => {
                        Head::parse(body).is_ok() || Scan::of(body) != [Told::Nothing]
                    }
                    _ => true,
                });
            }
        }
        self.give_back();
        if outlet.put_all(events).await.is_err() { ReplyEnd::Broken } else { ReplyEnd::Whole }
    }

    fn give_back(self) {
        if let Some(connection) = self.body.into_connection() {
            self.line.keep(connection);
        }
    }
}
