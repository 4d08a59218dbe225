//! Why the process cannot run ([`Fatal`]), for people, and the exit code that says it to scripts.

use std::{io::ErrorKind, net::SocketAddr, process::ExitCode, time::Duration};

use crate::store::StoreError;

/// A needed service does not answer, or does not let itself be used (sysexits `EX_UNAVAILABLE`).
pub const EXIT_UNAVAILABLE: u8 = 69;
/// A part of the process has ended by itself: a bug (`EX_SOFTWARE`).
pub const EXIT_SOFTWARE: u8 = 70;
/// The operating system refuses: the port is taken (`EX_OSERR`).
pub const EXIT_OS: u8 = 71;
/// The deployment is configured wrongly: the instance id is in use (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The port is taken.
    #[error(
        "cannot listen on {address}: {source}. See who has the port with: ss -ltnp 'sport = :{}' (or lsof -i :{0}), \
         or choose another by SERVER_PORT", address.port()
    )]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The address is another machine's.
    #[error(
        "cannot listen on {address}: this machine has no address {}. SERVER_ADDRESS is the address of one of its own \
         interfaces (see ip addr), 127.0.0.1 for this machine only, or 0.0.0.0 for all of them", address.ip()
    )]
    ForeignAddress {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The port is for privileged processes.
    #[error(
        "cannot listen on {address}: the system does not allow it (ports below 1024 are for privileged processes). \
         Choose another by SERVER_PORT, and let nginx listen on the low one"
    )]
    NotAllowed {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The audit log cannot be written.
    #[error("cannot open the audit log {path} (MCP_AUDIT_LOG): {source}")]
    AuditLog {
        /// Where it should be.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A certificate cannot be used.
    #[error("a certificate cannot be used: {fault}")]
    Certificate {
        /// What is wrong with which file.
        fault: String,
    },
    /// Redis does not answer.
    #[error(
        "Redis at {url} does not answer for {waited:?}: {source}. Check REDIS_URL, or unset it for one instance with an embedded store"
    )]
    Redis {
        /// Without its password.
        url: String,
        /// How long was waited.
        waited: Duration,
        /// The last failure.
        source: StoreError,
    },
    /// Redis does not let itself be used, and waiting does not change that.
    #[error("Redis at {url} cannot be used: {reason}")]
    RedisUnusable {
        /// Without its password.
        url: String,
        /// Why, and what to do.
        reason: String,
    },
    /// OWN-11.
    #[error(
        "instance id {id:?} is in use by a running router at {address} (started {started}); \
         give each instance its own MCP_SESSION_INSTANCE_ID"
    )]
    InstanceId {
        /// The id.
        id: String,
        /// Where the other listens.
        address: String,
        /// When it started.
        started: String,
    },
    /// The HTTP server failed.
    #[error("the HTTP server failed: {0}")]
    Http(#[from] std::io::Error),
    /// A part that the process cannot do without has ended. Nothing is drained: who should do it may be what is missing, and
    /// other instances adopt the sessions as after a crash.
    #[error(
        "{what} has ended: this process cannot go on, and must be started again (its supervisor does). This is a bug; the lines before tell more"
    )]
    Part {
        /// Which.
        what: &'static str,
    },
}

impl Fatal {
    /// The address cannot be listened on.
    pub(super) fn listen(address: SocketAddr, source: std::io::Error) -> Self {
        match source.kind() {
            ErrorKind::AddrNotAvailable => Self::ForeignAddress { address },
            ErrorKind::PermissionDenied => Self::NotAllowed { address },
            _ => Self::Listen { address, source },
        }
    }

    /// The exit code that says it to scripts.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Listen { .. }
            | Self::ForeignAddress { .. }
            | Self::NotAllowed { .. }
            | Self::AuditLog { .. }
            | Self::Http(_) => EXIT_OS,
            Self::Redis { .. } | Self::RedisUnusable { .. } => EXIT_UNAVAILABLE,
            Self::InstanceId { .. } | Self::Certificate { .. } => EXIT_CONFIG,
            Self::Part { .. } => EXIT_SOFTWARE,
        })
    }
}
