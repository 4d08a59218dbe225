//! Servers that are being told that a session of theirs is over: a process that ends waits for that ([`Farewells`]).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// See the module's text.
#[derive(Debug, Default)]
pub struct Farewells(Arc<AtomicUsize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Farewell(Arc<AtomicUsize>);

impl Farewells {
    /// One begins.
    pub fn begin(&self) -> Farewell {
        self.0.fetch_add(1, Ordering::AcqRel);
        Farewell(Arc::clone(&self.0))
    }

    /// All have been told.
    pub fn are_over(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
