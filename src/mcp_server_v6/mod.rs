//! The reference upstream.
