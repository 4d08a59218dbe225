//! The stream of a request whose POST waits for its answer: given up by a client that leaves, shown by a [`Pump`] when the
//! answer takes longer or something else comes first.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    pump::Pump,
    told::{Block, Told},
};
use crate::session::{
    env::Env,
    messages::{AnswerStream, Detached},
};

/// See the module's text.
#[derive(Debug)]
pub struct Waiting {
    env: Arc<Env>,
    stream: AnswerStream,
    /// Its answer is known, or somebody else shows it.
    is_done: bool,
}

/// How a request is answered.
#[expect(clippy::large_enum_variant, reason = "made once a request, and taken apart at once")]
#[derive(Debug)]
pub enum Answered {
    /// With this message.
    Whole(Bytes),
    /// With this stream.
    Stream(Pump),
}

impl Waiting {
    /// For this stream.
    pub fn new(env: &Arc<Env>, stream: AnswerStream) -> Self {
        Self { env: Arc::clone(env), stream, is_done: false }
    }

    /// The answer, if it is the first thing that comes and comes within `patience`; else its event stream, which begins with a
    /// cursor and the time after which the client is to come back (MCP 2025-11-25: a priming event).
    pub async fn answer(mut self, patience: Duration, retry: Duration) -> Answered {
        let prime = Told::Prime { epoch: self.stream.epoch, seq: self.stream.from, retry };
        if !self.stream.is_registered {
            // Its owner is in this process: it is given the answer.
            if let Some(answer) = self.stream.attachment.answer_within(patience).await {
                self.is_done = true;
                return Answered::Whole(answer);
            }
        }
        // Its owner is elsewhere, or this is not the first try of the request: the answer has to be looked for.
        let looks = self.stream.is_registered || self.stream.attachment.is_to_look();
        let mut pump = self.pump();
        let mut first = Block::one(prime);
        if looks && let Some(block) = pump.first_within(patience).await {
            if let (Some(answer), true) = (block.only_event(), pump.is_over()) {
                return Answered::Whole(answer.clone());
            }
            first.extend(block);
        }
        pump.begin_with(first);
        Answered::Stream(pump)
    }

    /// Its stream, for a reader who takes all that comes.
    pub fn stream(self) -> Pump {
        self.pump()
    }

    /// The answer alone, for a client that takes nothing else.
    pub async fn answer_alone(self) -> Option<Bytes> {
        self.pump().answer().await
    }

    fn pump(mut self) -> Pump {
        self.is_done = true;
        let AnswerStream { attachment, epoch, from, is_registered } = self.stream.clone();
        Pump::new(Arc::clone(&self.env), attachment, epoch, from, Block::default()).of_request(is_registered)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let attachment = &self.stream.attachment;
        if let Some(owner) = self.env.directory.session(&attachment.session) {
            // A full mailbox only delays the owner's clean-up: the answer ends the stream, too.
            let _ = owner.try_send(Detached { attachment: attachment.id });
        }
    }
}
