//! One stream of a session in memory: its event log and who shows it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    protocol::stream_key::StreamKey,
    store::{Holder, LogLimits, LoggedEvent, Page, StreamHead},
};

/// See module documentation.
#[derive(Default)]
pub(super) struct Stream {
    log: VecDeque<Logged>,
    /// Bodies in the log.
    bytes: usize,
    pub(super) last_seq: u64,
    /// See [`StreamHead::gone`].
    gone: u64,
    pub(super) holder: Option<Holder>,
    pub(super) attach_count: u64,
    /// See [`StreamHead::left_at`].
    pub(super) left_at: Option<u64>,
    /// See [`StreamHead::sent`].
    pub(super) sent: Option<u64>,
}

struct Logged {
    seq: u64,
    view: StreamKey,
    at: Instant,
    body: Bytes,
}

impl Stream {
    /// An empty stream that is shown already.
    pub(super) fn attached(holder: Holder) -> Self {
        Self { holder: Some(holder), attach_count: 1, ..Self::default() }
    }

    /// Begins anew; whoever shows it goes on to.
    pub(super) fn renew(&mut self) {
        self.log.clear();
        (self.bytes, self.last_seq, self.gone) = (0, 0, 0);
        (self.left_at, self.sent) = (None, None);
    }

    fn first_seq(&self) -> u64 {
        self.log.front().map_or(self.last_seq + 1, |oldest| oldest.seq)
    }

    pub(super) fn head(&self) -> StreamHead {
        StreamHead {
            last_seq: self.last_seq,
            first_seq: self.first_seq(),
            gone: self.gone,
            bytes: self.bytes as u64,
            holder: self.holder.clone(),
            attach_count: self.attach_count,
            left_at: self.left_at,
            sent: self.sent,
        }
    }

    pub(super) fn push(&mut self, view: StreamKey, body: Bytes, now: Instant) -> u64 {
        self.last_seq += 1;
        self.bytes += body.len();
        self.log.push_back(Logged { seq: self.last_seq, view, at: now, body });
        self.last_seq
    }

    /// Drops what the limits do not keep; the newest event always stays.
    pub(super) fn trim(&mut self, limits: &LogLimits, now: Instant) {
        while self.log.len() > 1 {
            let old = self.log.front().is_some_and(|oldest| age(oldest, now) > limits.max_age);
            if !old && self.log.len() <= limits.max_events && self.bytes <= limits.max_bytes {
                return;
            }
            if let Some(dropped) = self.log.pop_front() {
                self.bytes -= dropped.body.len();
                if dropped.view == StreamKey::Main {
                    self.gone = dropped.seq;
                }
            }
        }
    }

    /// `holder`: of the stream `view`.
    pub(super) fn page(
        &self,
        epoch: u32,
        (view, holder): (StreamKey, Option<u64>),
        after: u64,
        max_events: usize,
        max_bytes: usize,
    ) -> Page {
        let mut events = Vec::new();
        let mut bytes = 0;
        let start = self.log.partition_point(|logged| logged.seq <= after);
        for logged in self.log.range(start..).take(max_events) {
            let body = (logged.view == view).then(|| logged.body.clone());
            bytes += body.as_ref().map_or(0, Bytes::len);
            events.push(LoggedEvent { seq: logged.seq, body });
            if bytes >= max_bytes {
                break;
            }
        }
        let first_seq = self.first_seq();
        let gone = if view == StreamKey::Main { self.gone } else { first_seq - 1 };
        Page { events, last_seq: self.last_seq, first_seq, gone, epoch, holder }
    }
}

fn age(logged: &Logged, now: Instant) -> Duration {
    now.saturating_duration_since(logged.at)
}
