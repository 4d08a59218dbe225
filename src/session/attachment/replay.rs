//! What is sent again to a client that came back without a cursor (the TypeScript SDK sends none): everything, but what a
//! later message of the client proves that it has had. A loss is worse than a repetition, so that only facts count: bytes
//! that were written to a socket, or acknowledged by TCP, prove nothing.
//!
//! | fact | what it proves |
//! |---|---|
//! | `notifications/initialized` | the answer to `initialize` |
//! | the answer to a question of the server | the question, and all that stands before it in the log: it came on one connection, in order |
//! | an id used again for another request | the earlier answer with that id (sent again it would be taken for the new one) |
//!
//! A question that the server or the router has taken back is not sent again either.

use std::collections::HashSet;

use crate::{
    protocol::{
        jsonrpc::{Head, IdKey, Kind},
        mcp,
    },
    session::MAIN_STREAM,
    store::{LoggedEvent, SessionHead},
};

/// What the store knows of the client's side.
#[derive(Debug, Default)]
pub struct Known {
    /// Open questions of the server; `None`: not known.
    open: Option<HashSet<IdKey>>,
    /// Ids of requests without an answer.
    pending: HashSet<IdKey>,
    /// The request `initialize` and the result that the client has confirmed.
    initialized: Option<(IdKey, String)>,
    /// Last sequence of the log.
    last_seq: u64,
    /// The same at an earlier moment, and what was pending then.
    earlier: (u64, HashSet<IdKey>),
}

impl Known {
    /// From the session's head and its request table.
    pub fn new(head: &SessionHead, pending: impl IntoIterator<Item = std::sync::Arc<str>>) -> Self {
        let before = &head.continuation;
        let open = before.questions.keys().map(|id| IdKey::from_stored(id.as_str()));
        let initialized = before.initialized.map(|_| {
            let request = before.initialize_request.as_ref()?;
            let Kind::Request { id, .. } = Head::parse(request.as_bytes()).ok()?.kind else { return None };
            Some((id, before.initialize_result.clone()?))
        });
        Self {
            open: Some(open.collect()),
            pending: pending.into_iter().map(IdKey::from_stored).collect(),
            initialized: initialized.flatten(),
            last_seq: head.stream(MAIN_STREAM).map_or(0, |stream| stream.last_seq),
            earlier: (0, HashSet::new()),
        }
    }
}

impl Known {
    /// With what was pending earlier: a request that was answered since has used its id again all the same, and what stood
    /// in the log by then is not its answer.
    pub fn and_before(mut self, before: Self) -> Self {
        self.earlier = (before.last_seq, before.pending);
        self
    }

    fn was_in_use(&self, id: &IdKey, seq: u64) -> bool {
        seq <= self.earlier.0 && self.earlier.1.contains(id)
    }
}

/// What kind of event it is, as far as it matters here.
enum Said {
    Question(IdKey),
    /// The question with this id is taken back.
    Withdrawal(IdKey),
    Notification,
    Answer {
        id: IdKey,
        confirms_initialize: bool,
    },
    /// Nothing that can be told apart.
    Other,
}

impl Said {
    fn of(body: &[u8], known: &Known) -> Self {
        let Ok(head) = Head::parse(body) else { return Self::Other };
        match head.kind {
            Kind::Request { id, .. } => Self::Question(id),
            Kind::Notification { method } if method == mcp::CANCELLED => {
                mcp::cancelled_request_id(head.params).and_then(IdKey::of_json).map_or(Self::Other, Self::Withdrawal)
            }
            Kind::Notification { .. } => Self::Notification,
            Kind::Response { id: None, .. } => Self::Other,
            Kind::Response { id: Some(id), .. } => {
                let initialize = known.initialized.as_ref();
                let confirms_initialize = initialize.is_some_and(|(request, result)| {
                    *request == id && head.result.is_some_and(|given| given.get() == result)
                });
                Self::Answer { id, confirms_initialize }
            }
        }
    }
}

/// Which of these events, which follow each other, are sent again. `handed_over`: up to this sequence a connection was given
/// them, so that notifications, which clients do not tell apart by an id, are not repeated. `to_the_end`: no event of the
/// log follows them.
pub fn wanted(events: &[LoggedEvent], known: &Known, handed_over: u64, to_the_end: bool) -> Vec<bool> {
    let said = |event: &LoggedEvent| event.body.as_deref().map_or(Said::Other, |body| Said::of(body, known));
    let said: Vec<Said> = events.iter().map(said).collect();
    let withdrawn: HashSet<&IdKey> =
        said.iter().filter_map(|said| if let Said::Withdrawal(id) = said { Some(id) } else { None }).collect();
    let is_open = |id: &IdKey| known.open.as_ref().is_none_or(|open| open.contains(id));
    let was_answered = |id: &IdKey| to_the_end && !is_open(id) && !withdrawn.contains(id);
    let proven = said.iter().rposition(|said| matches!(said, Said::Question(id) if was_answered(id)));
    let mut later: HashSet<&IdKey> = known.pending.iter().collect();
    let mut wanted = vec![true; events.len()];
    for (at, (said, event)) in said.iter().zip(events).enumerate().rev() {
        let had = proven.is_some_and(|proven| at < proven);
        wanted[at] = match said {
            Said::Question(id) => is_open(id),
            Said::Answer { id, confirms_initialize } => {
                later.insert(id) && !had && !confirms_initialize && !known.was_in_use(id, event.seq)
            }
            Said::Notification => !had && event.seq > handed_over,
            Said::Withdrawal(_) | Said::Other => !had,
        };
    }
    wanted
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn known(fields: &[(&str, &str)], pending: &[&str]) -> Known {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Known::new(&SessionHead::read(fields).0, pending.iter().map(|id| (*id).into()))
    }

    const INITIALIZE: [(&str, &str); 2] = [
        ("initialize_request", r#"{"jsonrpc":"2.0","id":0,"method":"initialize"}"#),
        ("initialize_result", r#"{"a":1}"#),
    ];

    /// Events in few letters: `i` the answer to initialize, `a1` an answer, `q1` a question, `x1` its withdrawal, `n` a
    /// notification.
    fn events(text: &str) -> Vec<LoggedEvent> {
        let body = |word: &str| match word.split_at(1) {
            ("i", _) => r#"{"jsonrpc":"2.0","id":0,"result":{"a":1}}"#.to_owned(),
            ("a", id) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#),
            ("q", id) => format!(r#"{{"jsonrpc":"2.0","id":"ask-{id}","method":"elicitation/create"}}"#),
            ("x", id) => {
                format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":"ask-{id}"}}}}"#)
            }
            _ => r#"{"jsonrpc":"2.0","method":"n"}"#.to_owned(),
        };
        let words = text.split(' ').enumerate();
        words.map(|(at, word)| LoggedEvent { seq: at as u64 + 1, body: Some(Bytes::from(body(word))) }).collect()
    }

    fn sent_again(text: &str, known: &Known, handed_over: u64, to_the_end: bool) -> String {
        let wanted = wanted(&events(text), known, handed_over, to_the_end);
        text.split(' ').zip(wanted).filter(|(_, wanted)| *wanted).map(|(word, _)| word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_what_is_not_proven_to_have_arrived_is_sent_again() {
        let initialized = [INITIALIZE[0], INITIALIZE[1], ("initialized", "1")];
        for (text, fields, pending, expected) in [
            // The answer to initialize: once the client has said so.
            ("i a1 a2", &INITIALIZE[..], &[][..], "i a1 a2"),
            ("i a1 a2", &initialized[..], &[], "a1 a2"),
            // Another answer under its id is another answer.
            ("i a0", &initialized[..], &[], "a0"),
            ("i a0 a1", &[("initialized", "1")], &[], "a0 a1"),
            // A question: while it is open.
            ("q1 a1", &[(r#"sr:"ask-1""#, "4")], &[], "q1 a1"),
            ("a1 q1 a2", &[], &[], "a2"),
            ("a1 q1 a2 q2 a3", &[(r#"sr:"ask-2""#, "4")], &[], "a2 q2 a3"),
            ("a1 q1 a2 q2 a3", &[(r#"sr:"ask-1""#, "4")], &[], "q1 a3"),
            // Taken back: proves nothing.
            ("a1 q1 x1 a2", &[], &[], "a1 x1 a2"),
            // An id used again.
            ("a1 a2 a1", &[], &[], "a2 a1"),
            ("a1 a2", &[], &["1"], "a2"),
            ("a1 a2", &[], &["1.0"], "a2"),
            ("a1 a2", &[], &["\"1\""], "a1 a2"),
        ] {
            assert_eq!(sent_again(text, &known(fields, pending), 0, true), expected, "{text} {fields:?} {pending:?}");
        }
    }

    #[test]
    fn notifications_that_were_handed_over_are_not_repeated() {
        let known = known(&[], &[]);
        assert_eq!(sent_again("n a1 n n a2", &known, 3, true), "a1 n a2");
        assert_eq!(sent_again("n q1 x1 n", &known, 4, true), "x1");
    }

    #[test]
    fn without_the_end_of_the_log_a_missing_question_proves_nothing() {
        assert_eq!(sent_again("a1 q1 a2", &known(&[], &[]), 0, false), "a1 a2");
    }

    #[test]
    fn without_word_from_the_store_everything_is_sent_again() {
        assert_eq!(sent_again("i q1 a1 a2", &Known::default(), 0, true), "i q1 a1 a2");
    }
}
