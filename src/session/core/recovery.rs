//! What becomes of a request whose upstream died: pure decisions, the same for a dead endpoint and a dead owner. REQ-3.
//! `tests/model.rs` checks them in every order of events.

/// How far a request had come when the link to its upstream broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Progress {
    /// In the inbox: not marked forwarded.
    Accepted,
    /// Marked forwarded, but this owner knows that the upstream has not seen it.
    NotSent,
    /// The upstream may have seen it, and may have executed it.
    MaybeSent,
}

impl Progress {
    /// What an adopter has to take for true: all it has is the mark that the former owner made before it sent anything.
    pub fn on_record(forwarded: bool) -> Self {
        if forwarded { Self::MaybeSent } else { Self::Accepted }
    }
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// To the new upstream.
    Forward,
    /// One JSON-RPC error that says that the outcome is unknown.
    OutcomeUnknown,
}

/// A request that kills every endpoint it meets must not wander through all of them for ever.
pub const MAX_ATTEMPTS: u32 = 3;

/// Decides. `repeatable`: by the protocol, or by what the tool says of itself; `attempts`: times it was sent already.
pub fn fate(progress: Progress, repeatable: bool, attempts: u32) -> Fate {
    match progress {
        // Nobody has executed it: forwarding it is the first time.
        Progress::Accepted | Progress::NotSent => Fate::Forward,
        // Executed or not, once more does no harm.
        Progress::MaybeSent if repeatable && attempts < MAX_ATTEMPTS => Fate::Forward,
        // It may have had its effect: never a second time.
        Progress::MaybeSent => Fate::OutcomeUnknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_forwarded_may_have_run() {
        assert_eq!(Progress::on_record(true), Progress::MaybeSent);
        assert_eq!(Progress::on_record(false), Progress::Accepted);
    }

    #[test]
    fn only_what_cannot_have_run_or_does_no_harm_is_sent_again() {
        for (progress, repeatable, attempts, expected) in [
            (Progress::Accepted, false, 0, Fate::Forward),
            (Progress::NotSent, false, 0, Fate::Forward),
            (Progress::MaybeSent, true, 1, Fate::Forward),
            (Progress::MaybeSent, false, 1, Fate::OutcomeUnknown),
            (Progress::MaybeSent, true, MAX_ATTEMPTS, Fate::OutcomeUnknown),
        ] {
            assert_eq!(fate(progress, repeatable, attempts), expected, "{progress:?} {repeatable} {attempts}");
        }
    }
}
