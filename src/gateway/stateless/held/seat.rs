//! In which session a call is: plain state.

use crate::gateway::inner::{Inner, Lent};

/// In which session a call is.
#[derive(Debug)]
pub enum Seat {
    /// One that goes back to where it was.
    Lent(Lent),
    /// One that is the call's own, wherever it was opened: it ends when the call is over.
    Own(Inner),
    /// One of another request for the same call, which sees to its end.
    Joined(Inner),
}

impl Seat {
    /// The session.
    pub fn inner(&self) -> &Inner {
        match self {
            Self::Lent(lent) => &lent.inner,
            Self::Own(inner) | Self::Joined(inner) => inner,
        }
    }
}
