//! Pure protocol code: no I/O, no actors, imports nothing else of this crate.

pub mod session_id;
