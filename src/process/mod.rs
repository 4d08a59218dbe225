//! One router process from settings to exit code: store → lease → wake-ups → HTTP → drain. The roof of the house; nobody below
//! names it but `http`, which is given a [`node::Node`].
//!
//! | file | what stands there |
//! |---|---|
//! | `boot` | the order in which everything begins |
//! | `listen` | the HTTP server, its socket and its threads |
//! | `drain` | what ends the process, and how everything is handed over |
//! | `fatal` | why the process cannot run, and the exit codes |
//! | `audit_file` | checks an audit log |
//! | `key` | makes keys for clients |
//! | `figures` | metrics of what stands elsewhere |
//! | `supervisor` | what systemd is told |
//! | `upstreams` | the list of services and servers, which may change, and what is found by names |
//! | `check` | what a start would find |
//! | `node` | a worker thread of this process, as the surfaces see it |

pub mod audit_file;
pub mod boot;
mod certificates;
pub mod check;
mod drain;
pub mod fatal;
mod figures;
pub mod key;
mod listen;
pub mod node;
mod supervisor;
mod upstreams;
