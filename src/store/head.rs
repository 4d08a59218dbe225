//! The head of a session: everything the store knows of it but the bodies of messages, as typed values.
//!
//! Owns the names of the fields and how each value is written. Both stores speak through here: Redis keeps the fields in a
//! hash (`docs/redis-model.md`), the embedded store keeps the values themselves. Instances of different builds share the
//! hash, so that a name or a form of writing never changes: an unknown field is somebody else's and left alone.
//!
//! Never: this file does not judge; who owns what is decided elsewhere.

mod continuation;
mod field;
mod hot;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

pub use self::continuation::{Continuation, HeadChange, Initialized};
pub(super) use self::{
    continuation::FieldChanges,
    field::TRACE,
    hot::{Hot, is_moved},
};
use super::{
    binding::Binding,
    types::{Attachment, Owner},
};
use crate::protocol::stream_key::MAIN_STREAM;

/// See module documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionHead {
    /// Whose it is. `None`: what the store has there makes no sense.
    pub ownership: Option<Ownership>,
    /// The service that it talks to.
    pub service: String,
    /// See [`super::NewSession::transport`].
    pub transport: String,
    /// To whom it answers. SEC-1
    pub binding: Binding,
    /// See [`super::NewSession::client`].
    pub client: String,
    /// Milliseconds since the Unix epoch, by the store's clock.
    pub created_ms: u64,
    /// The last touch, as `created_ms`.
    pub last_active_ms: u64,
    /// How long it lives without a touch, milliseconds.
    pub ttl_ms: u64,
    /// Sequence of the last message of the client.
    pub in_seq: u64,
    /// Up to here messages are in the hands of an owner.
    pub in_claimed: u64,
    /// What an heir needs.
    pub continuation: Continuation,
    /// Number of the attachment that was found by a cookie alone, until its client has shown whose it is.
    pub doubted: Option<u64>,
    /// Nonce of a ping-rebind that found this session.
    pub rebind: Option<u64>,
    /// Its streams, by name.
    pub streams: BTreeMap<String, StreamHead>,
}

/// Whose session it is, and which life of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The owner. Empty names: it was released.
    pub owner: Owner,
    /// See [`super::Fence::generation`].
    pub generation: u64,
    /// See [`super::Fence::epoch`].
    pub epoch: u32,
}

/// What is known of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHead {
    /// Sequence of the newest event ever appended; 0: none.
    pub last_seq: u64,
    /// Sequence of the oldest event still kept.
    pub first_seq: u64,
    /// Sequence of the newest event of the main stream that is kept no more; 0: none.
    pub gone: u64,
    /// Bytes of the bodies in the log.
    pub bytes: u64,
    /// Who shows it.
    pub holder: Option<Holder>,
    /// How many attachments it has had.
    pub attach_count: u64,
    /// Last sequence of the inbox when the stream was last detached.
    pub left_at: Option<u64>,
    /// Up to here events were handed to the client's connection, as far as that was kept.
    pub sent: Option<u64>,
}

impl Default for StreamHead {
    fn default() -> Self {
        Self { last_seq: 0, first_seq: 1, gone: 0, bytes: 0, holder: None, attach_count: 0, left_at: None, sent: None }
    }
}

/// Who shows a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process that holds the connection.
    pub incarnation: Arc<str>,
    /// Random id of the attachment.
    pub id: u64,
}

impl SessionHead {
    /// What is known of a stream, if anything.
    pub fn stream(&self, name: &str) -> Option<&StreamHead> {
        self.streams.get(name)
    }

    /// Who shows a stream, if anybody.
    pub fn holder(&self, stream: &str) -> Option<&Holder> {
        self.streams.get(stream)?.holder.as_ref()
    }

    /// Who shows which stream.
    pub fn attachments(&self) -> impl Iterator<Item = Attachment> {
        self.streams.iter().filter_map(|(name, stream)| {
            let Holder { incarnation, id } = stream.holder.clone()?;
            Some(Attachment { stream: name.clone(), incarnation, id })
        })
    }

    /// Something waits for its owner.
    pub fn has_unclaimed(&self) -> bool {
        self.in_seq != self.in_claimed
    }

    /// From the fields of the hash. What makes no sense is taken for absent; with it comes whether that was one of those
    /// fields that no owner can go on without: owner, generation, epoch, ends of logs, holders.
    pub fn read(fields: impl IntoIterator<Item = (String, String)>) -> (Self, bool) {
        let mut head = Self::default();
        let (mut principal, mut scopes, mut rules) = (String::new(), String::new(), String::new());
        let (mut instance_id, mut incarnation, mut generation, mut epoch) = (None, None, None, None);
        let (mut is_sound, mut hot) = (true, None);
        for (field, value) in fields {
            let number = || value.parse::<u64>().ok();
            match field.as_str() {
                field::OWNER => instance_id = Some(value.into()),
                field::INCARNATION => incarnation = Some(value.into()),
                field::GENERATION => generation = number(),
                field::EPOCH => epoch = value.parse().ok(),
                field::SERVICE => head.service = value,
                field::TRANSPORT => head.transport = value,
                field::PRINCIPAL => principal = value,
                field::SCOPES => scopes = value,
                field::RULES => rules = value,
                field::CLIENT => head.client = value,
                field::CREATED_MS => head.created_ms = number().unwrap_or_default(),
                field::LAST_ACTIVE_MS => head.last_active_ms = number().unwrap_or_default(),
                field::TTL_MS => head.ttl_ms = number().unwrap_or_default(),
                field::IN_SEQ => head.in_seq = number().unwrap_or_default(),
                field::IN_CLAIMED => head.in_claimed = number().unwrap_or_default(),
                field::HOT => hot = Some(value),
                field::DOUBTED => head.doubted = number(),
                field::REBIND => head.rebind = number(),
                _ if head.continuation.take(&field, &value) => {}
                _ => is_sound &= head.take_of_stream(&field, &value),
            }
        }
        if let Some(hot) = hot {
            match Hot::read(&hot) {
                Some(hot) => head.take_hot(&hot),
                None => is_sound = false,
            }
        }
        head.binding = Binding::stored(principal, scopes, rules);
        head.ownership = (|| {
            let owner = Owner { instance_id: instance_id?, incarnation: incarnation? };
            Some(Ownership { owner, generation: generation?, epoch: epoch? })
        })();
        is_sound &= head.ownership.is_some();
        (head, is_sound)
    }

    /// What it stands for.
    fn take_hot(&mut self, hot: &Hot) {
        (self.in_seq, self.in_claimed) = (hot.in_seq, hot.in_seq);
        let log = self.streams.entry(MAIN_STREAM.to_owned()).or_default();
        (log.last_seq, log.first_seq, log.bytes, log.gone) = (hot.seq, hot.first, hot.bytes, hot.gone);
    }

    /// `false`: a field that is needed makes no sense.
    fn take_of_stream(&mut self, field: &str, value: &str) -> bool {
        let number = value.parse::<u64>().ok();
        let of = |prefix: &str| field.strip_prefix(prefix);
        if let Some(name) = of(field::SENT) {
            self.note(name, number, |stream, sent| stream.sent = Some(sent));
        } else if let Some(name) = of(field::LEFT_AT) {
            self.note(name, number, |stream, left_at| stream.left_at = Some(left_at));
        } else if let Some(name) = of(field::ATTACH_COUNT) {
            self.note(name, number, |stream, count| stream.attach_count = count);
        } else if let Some(name) = of(field::HOLDER) {
            return self.note(name, Holder::read(value), |stream, holder| stream.holder = Some(holder));
        } else if let Some(rest) = of(field::LOG) {
            if let Some(name) = rest.strip_suffix(":seq") {
                return self.note(name, number, |stream, seq| stream.last_seq = seq);
            } else if let Some(name) = rest.strip_suffix(":first") {
                self.note(name, number, |stream, first| stream.first_seq = first);
            } else if let Some(name) = rest.strip_suffix(":gone") {
                self.note(name, number, |stream, gone| stream.gone = gone);
            } else if let Some(name) = rest.strip_suffix(":bytes") {
                self.note(name, number, |stream, bytes| stream.bytes = bytes);
            }
        }
        true
    }

    /// `false`: there is nothing to note.
    fn note<T>(&mut self, stream: &str, noted: Option<T>, note: impl FnOnce(&mut StreamHead, T)) -> bool {
        let Some(noted) = noted else { return false };
        match self.streams.get_mut(stream) {
            Some(known) => note(known, noted),
            None => note(self.streams.entry(stream.to_owned()).or_default(), noted),
        }
        true
    }

    /// The fields of the hash, as this build writes them.
    pub fn fields(&self) -> BTreeMap<String, String> {
        let mut fields: BTreeMap<String, String> = self.continuation.pairs().into_iter().collect();
        let mut put = |field: &str, value: String| fields.insert(field.to_owned(), value);
        if let Some(Ownership { owner, generation, epoch }) = &self.ownership {
            put(field::OWNER, owner.instance_id.to_string());
            put(field::INCARNATION, owner.incarnation.to_string());
            put(field::GENERATION, generation.to_string());
            put(field::EPOCH, epoch.to_string());
        }
        put(field::SERVICE, self.service.clone());
        put(field::TRANSPORT, self.transport.clone());
        put(field::PRINCIPAL, self.binding.principal().to_owned());
        for (field, value) in binding_pairs(&self.binding) {
            put(&field, value);
        }
        put(field::CLIENT, self.client.clone());
        put(field::CREATED_MS, self.created_ms.to_string());
        put(field::LAST_ACTIVE_MS, self.last_active_ms.to_string());
        put(field::TTL_MS, self.ttl_ms.to_string());
        put(field::IN_SEQ, self.in_seq.to_string());
        put(field::IN_CLAIMED, self.in_claimed.to_string());
        let hints = [self.doubted.map(|count| Hint::Doubted(Some(count))), self.rebind.map(Hint::Rebind)];
        for (name, value) in hints.iter().flatten().map(Hint::pair) {
            put(&name, value);
        }
        for (name, stream) in &self.streams {
            put(&format!("{}{name}:seq", field::LOG), stream.last_seq.to_string());
            put(&format!("{}{name}:first", field::LOG), stream.first_seq.to_string());
            put(&format!("{}{name}:bytes", field::LOG), stream.bytes.to_string());
            if stream.gone > 0 {
                put(&format!("{}{name}:gone", field::LOG), stream.gone.to_string());
            }
            if stream.attach_count > 0 {
                put(&format!("{}{name}", field::ATTACH_COUNT), stream.attach_count.to_string());
            }
            if let Some(Holder { incarnation, id }) = &stream.holder {
                put(&format!("{}{name}", field::HOLDER), format!("{incarnation} {id}"));
            }
            if let Some(left_at) = stream.left_at {
                put(&format!("{}{name}", field::LEFT_AT), left_at.to_string());
            }
            if let Some(sent) = stream.sent {
                let (field, sent) = sent_pair(name, sent);
                put(&field, sent);
            }
        }
        fields
    }
}

impl Holder {
    /// `<incarnation> <attachment id>`
    pub(super) fn read(value: &str) -> Option<Self> {
        let (incarnation, id) = value.split_once(' ')?;
        Some(Self { incarnation: incarnation.into(), id: id.parse().ok()? })
    }
}

/// One thing that any instance may note, without proof of ownership: for other instances, never for truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// [`SessionHead::doubted`]
    Doubted(Option<u64>),
    /// [`SessionHead::rebind`]
    Rebind(u64),
    /// [`StreamHead::sent`]
    Sent {
        /// The stream.
        stream: Arc<str>,
        /// The sequence.
        sent: u64,
    },
}

impl Hint {
    /// Field and value.
    pub(super) fn pair(&self) -> (Cow<'static, str>, String) {
        match self {
            // Settled: the empty value stays, for those who look at it.
            Self::Doubted(count) => (field::DOUBTED.into(), count.map(|count| count.to_string()).unwrap_or_default()),
            Self::Rebind(nonce) => (field::REBIND.into(), nonce.to_string()),
            Self::Sent { stream, sent } => sent_pair(stream, *sent),
        }
    }
}

/// See [`SessionHead::client`].
pub(super) fn client_pair(client: String) -> (String, String) {
    (field::CLIENT.to_owned(), client)
}

/// What else there is of [`SessionHead::binding`] than the principal.
pub(super) fn binding_pairs(binding: &Binding) -> impl Iterator<Item = (String, String)> {
    let pairs = [(field::SCOPES, binding.scopes()), (field::RULES, binding.rules())];
    pairs.into_iter().filter(|(_, value)| !value.is_empty()).map(|(field, value)| (field.to_owned(), value.to_owned()))
}

/// See [`StreamHead::sent`].
pub(super) fn sent_pair(stream: &str, sent: u64) -> (Cow<'static, str>, String) {
    (format!("{}{stream}", field::SENT).into(), sent.to_string())
}
