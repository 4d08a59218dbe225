//! What instances know of each other.
//!
//! | file | what stands there |
//! |---|---|
//! | `ownership` | whether the owner of a session is gone, and what is done about it: the one judge (OWN-4) |
//! | `process` | which process an instance is, and whether it still exists |

pub mod ownership;
pub mod process;
