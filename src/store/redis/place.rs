//! A place for data.

/// The number by which a topology knows a node that has keys. Where there is one primary it is [`ONLY`], whoever that is.
pub(super) type Place = u16;

/// The place of those who have one.
pub(super) const ONLY: Place = 0;
