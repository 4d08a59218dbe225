//! Where log lines go: into a bounded queue that a thread of its own empties to standard error, or to a file.
//!
//! A full disk, a closed pipe or a pipe whose reader is stuck costs lines, which are counted, and nothing else: no thread
//! that serves anybody writes to the log itself, and no error of a write gets further than here.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use prometheus::{IntCounterVec, Opts};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that were not written, by reason: `queue_full` (the log is written too slowly) or `write_failed`. Of the process,
/// like its standard error.
pub static DROPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = Opts::new("mcp_router_log_lines_dropped_total", "Log lines that could not be written");
    let counters = IntCounterVec::new(opts, &["reason"]).expect("names are constant and valid");
    for reason in [QUEUE_FULL, WRITE_FAILED] {
        counters.with_label_values(&[reason]).inc_by(0);
    }
    counters
});

const QUEUE_FULL: &str = "queue_full";
const WRITE_FAILED: &str = "write_failed";

/// How long the end of the process waits for the last lines: far more than a log needs that is written at all.
const FAREWELL: Duration = Duration::from_millis(500);

/// The queue of this process.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// The way into the queue.
#[derive(Debug, Clone)]
pub struct Queue {
    lines: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    queued: AtomicU64,
    /// Written, or tried in vain.
    done: AtomicU64,
}

impl Queue {
    /// Starts a thread that writes to `target` what is put into a queue of at most `capacity` lines.
    fn start(capacity: usize, target: impl Write + Send + 'static) -> Self {
        let (lines, queue) = sync_channel(capacity);
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let started = std::thread::Builder::new().name("log".to_owned()).spawn(move || write(&queue, target, &counted));
        // Without the thread every line is counted as dropped.
        drop(started);
        Self { lines, counts }
    }

    fn put(&self, line: Vec<u8>) {
        // Before the line is there: whoever waits for `done` must not miss it.
        self.counts.queued.fetch_add(1, Ordering::AcqRel);
        if let Err(refused) = self.lines.try_send(line) {
            self.counts.done.fetch_add(1, Ordering::AcqRel);
            let reason = if matches!(refused, TrySendError::Full(_)) { QUEUE_FULL } else { WRITE_FAILED };
            DROPPED.with_label_values(&[reason]).inc();
        }
    }

    /// Waits until what was put in before is written, but not longer than `limit`.
    fn flush(&self, limit: Duration) {
        let (upto, deadline) = (self.counts.queued.load(Ordering::Acquire), Instant::now() + limit);
        while self.counts.done.load(Ordering::Acquire) < upto && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The thread.
fn write(queue: &Receiver<Vec<u8>>, mut target: impl Write, counts: &Counts) {
    let mut told = 0;
    while let Ok(line) = queue.recv() {
        let written = target.write_all(&line).and_then(|()| target.flush());
        counts.done.fetch_add(1, Ordering::AcqRel);
        if written.is_err() {
            DROPPED.with_label_values(&[WRITE_FAILED]).inc();
            continue;
        }
        // The log can be written again: it should say that something is missing in it.
        let dropped = [QUEUE_FULL, WRITE_FAILED].iter().map(|reason| DROPPED.with_label_values(&[*reason]).get()).sum();
        if dropped > told {
            tracing::warn!(
                lines = dropped - told,
                "log lines were dropped: the log could not be written, or too slowly"
            );
            told = dropped;
        }
    }
}

/// The queue to standard error, or to this file; started at the first call.
///
/// # Errors
/// The file cannot be opened.
pub(super) fn start(capacity: usize, file: Option<&Path>) -> io::Result<Queue> {
    let started = match file {
        Some(path) => Queue::start(capacity, Reopened::open(path)?),
        None => Queue::start(capacity, io::stderr()),
    };
    Ok(QUEUE.get_or_init(|| started).clone())
}

/// Somebody has moved the log's file away, and the next line is to go into a new one.
pub fn reopen() {
    REOPEN.store(true, Ordering::Release);
}

static REOPEN: AtomicBool = AtomicBool::new(false);

/// A file that is opened anew, under the same name, when it is told so.
#[derive(Debug)]
struct Reopened {
    path: PathBuf,
    file: File,
}

impl Reopened {
    fn open(path: &Path) -> io::Result<Self> {
        let open = || OpenOptions::new().create(true).append(true).mode(0o640).open(path);
        Ok(Self { path: path.to_owned(), file: open()? })
    }
}

impl Write for Reopened {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if REOPEN.swap(false, Ordering::AcqRel) {
            match Self::open(&self.path) {
                Ok(anew) => *self = anew,
                // The old one is better than none; the next signal tries again.
                Err(error) => {
                    let _ =
                        writeln!(self.file, "the log's file {} cannot be opened anew: {error}", self.path.display());
                }
            }
        }
        self.file.write(part)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines that wait to be written.
pub fn waiting() -> u64 {
    let counts = QUEUE.get().map(|queue| &queue.counts);
    counts.map_or(0, |counts| counts.queued.load(Ordering::Acquire).saturating_sub(counts.done.load(Ordering::Acquire)))
}

/// Waits for the last lines, for half a second at most. To be called before the process ends by itself.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FAREWELL);
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: self, text: Vec::new() }
    }
}

/// One line on its way; put into the queue when it is dropped.
#[derive(Debug)]
pub struct Line<'a> {
    queue: &'a Queue,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.queue.put(std::mem::take(&mut self.text));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn dropped(reason: &str) -> u64 {
        DROPPED.with_label_values(&[reason]).get()
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(part);
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_come_whole_and_in_order() {
        let written = Shared::default();
        let queue = Queue::start(100, written.clone());
        for number in 0..100 {
            let mut line = queue.make_writer();
            write!(line, "line ").unwrap();
            writeln!(line, "{number}").unwrap();
        }
        queue.flush(Duration::from_secs(10));
        let expected: String = (0..100).map(|number| format!("line {number}\n")).collect();
        assert_eq!(String::from_utf8(written.0.lock().unwrap().clone()).unwrap(), expected);
    }

    #[test]
    fn a_log_that_cannot_be_written_costs_counted_lines_and_nothing_else() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (queue, before) = (Queue::start(10, full), dropped(WRITE_FAILED));
        writeln!(queue.make_writer(), "lost").unwrap();
        queue.flush(Duration::from_secs(10));
        assert!(dropped(WRITE_FAILED) > before);
    }

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_up() {
        let (reader, writer) = io::pipe().unwrap();
        let (queue, before) = (Queue::start(10, writer), dropped(QUEUE_FULL));
        let line = "x".repeat(64 << 10);
        for _ in 0..100 {
            writeln!(queue.make_writer(), "{line}").unwrap();
        }
        assert!(dropped(QUEUE_FULL) >= before + 80, "a pipe and the queue hold a few");
        drop(reader);
    }
}
