//! Counters with one label whose values are known: each row is there from the start with 0, so that its first rise is seen, and
//! is found without a lock.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// What a value is counted as that has no row.
const OTHER: &str = "other";

/// One counter a value of the label; clones count the same.
#[derive(Debug, Clone)]
pub struct Rows(Box<[(&'static str, IntCounter)]>);

impl Rows {
    /// Registers them. `values`: all that the label may have.
    pub(super) fn new(registry: &Registry, name: &str, help: &str, label: &str, values: &[&'static str]) -> Self {
        let family = IntCounterVec::new(Opts::new(name, help), &[label]).expect("names are constant and valid");
        registry.register(Box::new(family.clone())).expect("each name is registered once");
        let row = |value: &&'static str| (*value, family.with_label_values(&[*value]));
        Self(values.iter().chain(&[OTHER]).map(row).collect())
    }

    /// The row of this value. One that nobody has declared counts as `other`: add it to the list beside its name in
    /// `src/metrics.rs`.
    pub fn with_label_values(&self, [value]: &[&str; 1]) -> &IntCounter {
        let known = self.0.iter().find(|(known, _)| known == value);
        debug_assert!(known.is_some(), "{value:?} has no row: declare it in src/metrics.rs");
        let (_, counter) = known.unwrap_or_else(|| self.0.last().expect("there is a row for others"));
        counter
    }
}
