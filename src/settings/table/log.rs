//! What is logged, to standard error or to a file.

use std::{ffi::OsString, path::PathBuf};

use crate::settings::{
    help_text::help_text,
    parse::{self, optional, whole},
    row::Row,
    source::Reader,
    value::LogFormat,
};

group! {
    /// What is logged, to standard error or to a file.
    "Log", LogFlags => LogSettings {
        /// Form of the lines: text for people, who come first, or json for collectors.
        LOG_FORMAT = "text", "text or json" => format: LogFormat, parse::log_format;

        /// Least severe level that is logged, or directives of tracing's EnvFilter such as info,mcp_router=debug. info
        /// tells what changed, not each message.
        LOG_LEVEL = "info", "level or directives" => level: String, parse::log_level;

        /// File for who has called what and with which outcome, as chained JSON lines without payloads; - is standard output.
        /// mcp-router audit FILE checks the chain. It is opened anew at SIGHUP and SIGUSR1.
        MCP_AUDIT_LOG = "", "path or -" => audit: Option<PathBuf>, optional(parse::path);

        /// Lines of the audit log that may wait to be written. Beyond it they are lost, and counted: no call waits for a disk.
        MCP_AUDIT_QUEUE = "8192", "lines" => audit_queue: usize, whole(1..=1_000_000);

        /// File for the log, instead of standard error. It is opened anew at SIGHUP and SIGUSR1, so that logrotate needs no
        /// copytruncate. Settings that are wrong, and what the watchdog says when it kills, are told on standard error all the same.
        MCP_LOG_FILE = "", "path" => file: Option<PathBuf>, optional(parse::path);

        /// Lines that may wait to be written. Beyond it they are dropped and counted: a log on a full disk, or in a pipe
        /// that nobody reads, must hold nobody up. As many as a storm of reconnects writes in a second.
        LOG_QUEUE = "4096", "lines" => queue: usize, whole(1..=1_000_000);
    }
}
