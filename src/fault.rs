//! Fault points: named steps of a message's way at which a test makes this process die, stop or hang, so that the moment
//! is exact. Only in a build with the feature `fault-points`; without it a point is nothing. Never in a release.
//!
//! `MCP_FAULT_POINT=name` or `name:n` (the n-th time, from 1) says where; `MCP_FAULT_ACTION=abort` (default: as a crash),
//! `stop` (SIGSTOP, until somebody sends SIGCONT), `wedge` (this thread alone, for good) or `panic` says what. Only passes count
//! while the file named by `MCP_FAULT_ARM` exists; who faults removes it, so that of many processes one does.
//!
//! Beside them the protections that a test can switch off, to show that it would see the fault which they keep away:
//! `MCP_FAULT_UNPROTECTED=fence,gap` says which.

/// The message is journaled, and the owner has not acted on it.
pub const ACCEPTED: &str = "accept.journaled";
/// Another instance has journaled the message, and has not looked after the owner.
pub const QUEUED: &str = "accept.queued";
/// The request is the next to be sent; the owner has not looked at its lease yet.
pub const BEFORE_FORWARD: &str = "forward.before";
/// The owner has found that it may send the request, and has not.
pub const BEFORE_POST: &str = "forward.decided";
/// The upstream has acknowledged the request.
pub const AFTER_POST: &str = "forward.acknowledged";
/// The answer is here, and not in the log.
pub const BEFORE_APPEND: &str = "append.before";
/// The answer is in the log, and on no client stream.
pub const AFTER_APPEND: &str = "append.after";
/// An event was read from the log for a client's stream (the owner's is usually elsewhere), and is not written there.
pub const BEFORE_DELIVER: &str = "deliver.before";

/// A call with an idempotency key is on record, and in no session.
pub const CALL_RECORDED: &str = "call.recorded";
/// Its session has it, and the record does not say where.
pub const CALL_SENT: &str = "call.sent";
/// The record says where.
pub const CALL_PLACED: &str = "call.placed";
/// Its answer is here, and not on record.
pub const CALL_ANSWERED: &str = "call.answered";
/// Its answer is on record, and nobody has been told.
pub const CALL_NOTED: &str = "call.noted";

/// The owner of a session was found gone, and this process is about to adopt the session.
pub const OWNER_GONE: &str = "adopt.judged";
/// Before the compare-and-set of the owner, whose lease in Redis has been looked at.
pub const LEASE_SEEN: &str = "adopt.seen";

/// The lease is about to be renewed.
pub const LEASE: &str = "lease.renew";

/// OWN-1: the store refuses what an owner of an older generation writes.
pub const FENCE: &str = "fence";
/// OWN-4: an owner that does not listen for wake-ups is only suspected to be gone, and the store lets nobody replace one
/// whose lease lives.
pub const JUDGE: &str = "judge";
/// OWN-4: so is a process that shows a client's stream.
pub const HOLDER: &str = "holder";
/// OWN-9: the table of processes says whether an owner on the same machine is dead. For tests of what is done without it.
pub const PROCESS_TABLE: &str = "process-table";
/// EVT-5: a stream ends at a hole in the log.
pub const GAP_CHECK: &str = "gap";
/// SEC-1: a session answers to nobody but the principal that opened it.
pub const BINDING: &str = "binding";
/// REQ-1: 202 only when the journal has the message.
pub const JOURNAL_FIRST: &str = "journal";
/// REQ-2: no answer follows the word that a request's outcome is unknown.
pub const DISOWN: &str = "disown";
/// EVT-2: an event goes out only when the log has it.
pub const APPEND_FIRST: &str = "append";

/// Every protection holds.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub const fn unprotected(_protection: &'static str) -> bool {
    false
}

/// The environment has switched this protection off.
#[cfg(feature = "fault-points")]
pub fn unprotected(protection: &'static str) -> bool {
    armed::is_off(protection)
}

/// Does nothing.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

/// Dies or stops here if the environment says so.
#[cfg(feature = "fault-points")]
pub fn point(name: &'static str) {
    armed::pass(name);
}

#[cfg(feature = "fault-points")]
mod armed {
    use std::{
        path::PathBuf,
        process::Command,
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    struct Plan {
        point: String,
        nth: u64,
        action: String,
        arm: PathBuf,
        passed: AtomicU64,
    }

    static OFF: LazyLock<Vec<String>> = LazyLock::new(|| {
        let off = std::env::var("MCP_FAULT_UNPROTECTED").unwrap_or_default();
        off.split(',').map(str::to_owned).collect()
    });

    pub(super) fn is_off(protection: &str) -> bool {
        OFF.iter().any(|off| off == protection)
    }

    static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
        let wanted = std::env::var("MCP_FAULT_POINT").ok()?;
        let (point, nth) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        Some(Plan {
            point: point.to_owned(),
            nth: nth.parse().expect("MCP_FAULT_POINT is name or name:number"),
            action: std::env::var("MCP_FAULT_ACTION").unwrap_or_default(),
            arm: std::env::var_os("MCP_FAULT_ARM").map(PathBuf::from).expect("MCP_FAULT_ARM names a file"),
            passed: AtomicU64::new(0),
        })
    });

    pub(super) fn pass(name: &str) {
        let Some(plan) = PLAN.as_ref().filter(|plan| plan.point == name) else { return };
        if !plan.arm.exists() || plan.passed.fetch_add(1, Ordering::Relaxed) + 1 != plan.nth {
            return;
        }
        if std::fs::remove_file(&plan.arm).is_err() {
            return;
        }
        plan.passed.store(0, Ordering::Relaxed);
        tracing::warn!(name, action = plan.action, "fault point");
        crate::telemetry::flush();
        match plan.action.as_str() {
            "stop" => {}
            "panic" => panic!("fault point"),
            "wedge" => loop {
                std::thread::park();
            },
            _ => std::process::abort(),
        }
        let pid = std::process::id().to_string();
        let sent = Command::new("kill").args(["-s", "STOP", &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -s STOP {pid}");
        // Another thread takes the signal, and may be late. From then on this one stops on its way out of any system
        // call, such as the look itself, so that it goes on after SIGCONT.
        while stop_is_pending() {
            std::thread::yield_now();
        }
    }

    /// No thread of this process has taken the SIGSTOP yet: proc(5), `ShdPnd`.
    fn stop_is_pending() -> bool {
        const STOP: u64 = 1 << (19 - 1);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & STOP != 0)
    }
}
