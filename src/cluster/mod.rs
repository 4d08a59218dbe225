//! What instances know of each other.
//!
//! | file | what stands there |
//! |---|---|
//! | `dataset` | which data the store holds |
//! | `lease` | this process's lease as it knows it |
//! | `ownership` | whether the owner of a session is gone, and what is done about it: the one judge (OWN-4) |
//! | `process` | which process an instance is, and whether it still exists |

pub mod dataset;
pub mod lease;
pub mod ownership;
pub mod process;
