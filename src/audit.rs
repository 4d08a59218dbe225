//! Who has called what, when, and what came of it: JSON lines in a file of their own (`MCP_AUDIT_LOG`), without payloads.
//!
//! Each line has the hash of the one before and its own over both, so that a line which is changed, taken out or put in shows
//! (`mcp-router audit FILE`). A thread writes; nobody waits for it. What does not fit into its queue is lost, counted, and said
//! in the next line that is written. After SIGHUP or SIGUSR1 the file is opened anew, and the chain goes on in the new one.

pub mod tail;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::SystemTime,
};

use prometheus::IntCounter;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// Longest text of a client that a line holds, in bytes.
const TEXT_MAX: usize = 256;

/// Lines are written together as long as there are more, up to this.
const TOGETHER: usize = 256;

/// No line is longer, in bytes: ten texts, each of which JSON may make six times as long.
const LINE_MAX: u64 = 32 << 10;

/// So much of the end of a file is looked through for its last line.
const TAIL: u64 = 64 << 10;

/// What has happened.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// `asked`, `answered` or `refused`.
    pub what: &'static str,
    /// As rules name it; empty where only the session is known.
    pub who: String,
    /// The service.
    pub service: String,
    /// The session, as operators name it.
    pub session: String,
    /// Id of the request, as JSON.
    pub request: String,
    /// Method, or path where nobody was let in.
    pub method: String,
    /// Name of the tool or prompt, or URI of the resource.
    pub target: String,
    /// `accepted`, `ok`, `error`, or why it was refused.
    pub outcome: String,
}

enum Word {
    Note(Box<Entry>, SystemTime),
    Reopen,
}

/// See the module's text.
#[derive(Debug)]
pub struct Audit {
    words: SyncSender<Word>,
    lost: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
    counter: IntCounter,
}

/// Writes to a file, or to standard output (`-`).
struct Writer {
    path: PathBuf,
    instance: String,
    out: Box<dyn Write + Send>,
    /// Hash of the last line.
    last: String,
    /// The file may end within a line, which is to stay one of its own: the next one must be readable.
    is_cut: bool,
    lost: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
    counter: IntCounter,
}

impl Audit {
    /// Opens the file and starts to write. `lost`: counts lines that could not be written.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn start(path: &Path, instance: &str, queue: usize, lost: &IntCounter) -> io::Result<Self> {
        let (words, told) = sync_channel(queue);
        let audit = Self { words, lost: Arc::default(), reopen: Arc::default(), counter: lost.clone() };
        let (out, last) = open(path)?;
        let writer = Writer {
            path: path.to_owned(),
            instance: instance.to_owned(),
            out,
            last,
            is_cut: true,
            lost: Arc::clone(&audit.lost),
            reopen: Arc::clone(&audit.reopen),
            counter: lost.clone(),
        };
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&told))?;
        Ok(audit)
    }

    /// Notes it, or counts that it is lost. Never waits.
    pub fn note(&self, entry: Entry) {
        if self.words.try_send(Word::Note(Box::new(entry), SystemTime::now())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.counter.inc();
        }
    }

    /// Opens the file anew: somebody has moved it away.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        // A full queue is being written, and looked at the mark.
        let _ = self.words.try_send(Word::Reopen);
    }
}

fn open(path: &Path) -> io::Result<(Box<dyn Write + Send>, String)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdout()), String::new()));
    }
    let last = last_hash(path);
    let head = read_head(path);
    if !head.is_empty() && head != last {
        tracing::error!(file = %path.display(), "the audit log does not end with the line that was written last: lines are missing");
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    Ok((Box::new(file), last))
}

/// A file to which lines are added ends within one: cut off by a full disk, or left so by an editor.
pub fn ends_within_a_line(path: &Path) -> bool {
    let last = || {
        let mut last = [0];
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        io::Result::Ok(last)
    };
    // What is no file, or empty, has no lines.
    fs::metadata(path).is_ok_and(|known| known.is_file()) && last().is_ok_and(|last| last != *b"\n")
}

/// Of the last line of a file that goes on.
fn last_hash(path: &Path) -> String {
    let read = || {
        let known = fs::metadata(path)?;
        let mut tail = Vec::new();
        // A device has no last line, and perhaps no end.
        if known.is_file() {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(known.len().saturating_sub(TAIL)))?;
            file.take(TAIL).read_to_end(&mut tail)?;
        }
        io::Result::Ok(tail)
    };
    let tail = read().unwrap_or_default();
    let line = tail.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap_or_default();
    let line: Value = serde_json::from_slice(line).unwrap_or_default();
    line["hash"].as_str().unwrap_or_default().to_owned()
}

/// Where the hash of the last line stands besides.
fn head_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".head");
    PathBuf::from(name)
}

/// Empty: nobody says which line was the last.
fn read_head(path: &Path) -> String {
    let mut text = String::new();
    // It is as long as a hash.
    let read = File::open(head_of(path)).and_then(|file| file.take(128).read_to_string(&mut text));
    read.map(|_| text.trim().to_owned()).unwrap_or_default()
}

fn hash_of(line: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(line))
}

/// Text of a client, cut.
fn short(text: &str) -> &str {
    let end = (0..=TEXT_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    &text[..end]
}

impl Writer {
    fn run(mut self, told: &Receiver<Word>) {
        while let Ok(first) = told.recv() {
            if self.reopen.swap(false, Ordering::AcqRel) {
                self.open_anew();
            }
            let (mut text, mut count, mut told_lost, mut last) = (String::new(), 0, 0, self.last.clone());
            let more = told.try_iter().take(TOGETHER);
            for word in std::iter::once(first).chain(more) {
                let Word::Note(entry, at) = word else { continue };
                let lost = self.lost.swap(0, Ordering::Relaxed);
                last = self.put(&mut text, &entry, at, lost, &last);
                count += 1;
                told_lost += lost;
            }
            if self.is_cut && ends_within_a_line(&self.path) {
                text.insert(0, '\n');
            }
            match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
                Ok(()) => {
                    (self.last, self.is_cut) = (last, false);
                    self.say_head(&self.last);
                }
                Err(error) => {
                    // What of it has been written breaks the chain, as it should: something is missing there.
                    self.is_cut = true;
                    // These lines have not said it, either.
                    self.lost.fetch_add(count + told_lost, Ordering::Relaxed);
                    self.counter.inc_by(count);
                    tracing::error!(file = %self.path.display(), %error, lines = count, "the audit log cannot be written");
                }
            }
        }
    }

    /// Says which line is the last one. Whole or not at all: a reader must not find half of it.
    fn say_head(&self, hash: &str) {
        if !fs::metadata(&self.path).is_ok_and(|known| known.is_file()) {
            return;
        }
        let (head, mut next) = (head_of(&self.path), self.path.as_os_str().to_owned());
        next.push(".head.new");
        let write = || {
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(format!("{hash}\n").as_bytes())?;
            fs::rename(&next, &head)
        };
        if let Err(error) = write() {
            tracing::debug!(file = %head.display(), %error, "the head of the audit log cannot be written");
        }
    }

    /// The hash of the line that is added.
    fn put(&self, text: &mut String, entry: &Entry, at: SystemTime, lost: u64, before: &str) -> String {
        let mut line = Map::new();
        line.insert("at".to_owned(), json!(humantime::format_rfc3339_millis(at).to_string()));
        line.insert("instance".to_owned(), json!(self.instance));
        for (name, value) in [
            ("what", entry.what),
            ("who", &*entry.who),
            ("service", &*entry.service),
            ("session", &*entry.session),
            ("request", &*entry.request),
            ("method", &*entry.method),
            ("target", &*entry.target),
            ("outcome", &*entry.outcome),
        ] {
            if !value.is_empty() {
                line.insert(name.to_owned(), json!(short(value)));
            }
        }
        if lost > 0 {
            line.insert("lost".to_owned(), json!(lost));
        }
        line.insert("prev".to_owned(), json!(before));
        let unsigned = Value::Object(line).to_string();
        let hash = hash_of(&unsigned);
        text.push_str(&unsigned[..unsigned.len() - 1]);
        text.push_str(&format!(r#","hash":"{hash}"}}"#));
        text.push('\n');
        hash
    }

    fn open_anew(&mut self) {
        match open(&self.path) {
            // The chain goes on from the file that was moved away.
            Ok((out, last)) => {
                (self.out, self.is_cut) = (out, true);
                // Of what was moved away the first line here tells the end.
                self.say_head(&last);
                if !last.is_empty() {
                    self.last = last;
                }
                tracing::info!(file = %self.path.display(), "audit log opened anew");
            }
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "the audit log cannot be opened; it goes on where it was");
            }
        }
    }
}

/// Checks the chain of a file: how many lines it has. The first one may follow on lines elsewhere. The last one must not come
/// before that of the head, if there is one.
///
/// # Errors
/// The number of the first line that does not fit, and why.
pub fn verify(path: &Path) -> Result<u64, String> {
    // First, since the file may grow meanwhile.
    let head = read_head(path);
    let mut file = BufReader::new(File::open(path).map_err(|fault| fault.to_string())?);
    let mut before: Option<String> = None;
    let (mut count, mut has_head) = (0, head.is_empty());
    loop {
        let mut line = Vec::new();
        // A file of another kind may have no end of a line.
        let read = (&mut file).take(LINE_MAX).read_until(b'\n', &mut line).map_err(|fault| fault.to_string())?;
        if read == 0 {
            break;
        }
        count += 1;
        if line.pop_if(|last| *last == b'\n').is_none() && line.len() as u64 >= LINE_MAX {
            return Err(format!("line {count} is longer than any of an audit log"));
        }
        let line = String::from_utf8(line).map_err(|_| format!("line {count} is no line of an audit log"))?;
        let told: Value =
            serde_json::from_str(&line).map_err(|_| format!("line {count} is no line of an audit log"))?;
        let (hash, prev) = (told["hash"].as_str().unwrap_or_default(), told["prev"].as_str().unwrap_or_default());
        let unsigned = line.strip_suffix(&format!(r#","hash":"{hash}"}}"#)).map(|rest| format!("{rest}}}"));
        if unsigned.is_none_or(|unsigned| hash_of(&unsigned) != hash) {
            return Err(format!("line {count} was changed"));
        }
        if before.is_some_and(|before| before != prev) {
            return Err(format!("line {count} does not follow on the one before: something was taken out or put in"));
        }
        has_head |= hash == head;
        before = Some(hash.to_owned());
    }
    if has_head {
        Ok(count)
    } else {
        Err(format!("lines are missing behind line {count}: the last one that was written is not there"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u32) -> Entry {
        Entry { what: "asked", who: "key:ci".to_owned(), method: format!("m{number}"), ..Entry::default() }
    }

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn until(path: &Path, count: usize) -> Vec<String> {
        for _ in 0..1000 {
            let lines = lines(path);
            if lines.len() >= count {
                return lines;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{:?}", lines(path));
    }

    /// SEC-8
    #[test]
    fn a_line_that_is_changed_taken_out_or_put_in_shows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let lost = IntCounter::new("lost", "x").unwrap();
        let audit = Audit::start(&path, "one", 64, &lost).unwrap();
        (0..5).for_each(|number| audit.note(entry(number)));
        let lines = until(&path, 5);
        assert_eq!(verify(&path), Ok(5));
        drop(audit);
        // The next process goes on with the chain.
        let audit = Audit::start(&path, "one", 64, &lost).unwrap();
        audit.note(entry(5));
        until(&path, 6);
        assert_eq!(verify(&path), Ok(6));
        let write = |lines: &[String]| std::fs::write(&path, format!("{}\n", lines.join("\n"))).unwrap();
        let mut changed = lines.clone();
        changed[2] = changed[2].replace("m2", "m9");
        write(&changed);
        assert!(verify(&path).unwrap_err().contains("line 3 was changed"));
        write(&[&lines[..2], &lines[3..]].concat());
        assert!(verify(&path).unwrap_err().contains("line 3 does not follow"));
        write(&[&lines[..2], &lines[1..]].concat());
        assert!(verify(&path).is_err());
        // A cut-off end is one, as long as the head is there.
        write(&lines[..4]);
        assert!(verify(&path).unwrap_err().contains("missing behind line 4"));
        std::fs::remove_file(head_of(&path)).unwrap();
        assert_eq!(verify(&path), Ok(4));
        assert_eq!(lost.get(), 0);
    }

    #[test]
    fn a_file_without_ends_of_lines_is_not_read_to_its_end() {
        assert!(verify(Path::new("/dev/zero")).unwrap_err().contains("line 1 is longer"));
    }

    #[test]
    fn a_line_that_was_cut_off_stays_one_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        std::fs::write(&path, r#"{"at":"2026"#).unwrap();
        let audit = Audit::start(&path, "one", 64, &IntCounter::new("lost", "x").unwrap()).unwrap();
        audit.note(entry(0));
        assert!(until(&path, 2)[1].starts_with(r#"{"at":"#));
        assert_eq!(verify(&path).unwrap_err(), "line 1 is no line of an audit log");
    }

    #[test]
    fn the_first_line_after_a_full_disk_says_how_many_are_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let lost = IntCounter::new("lost", "x").unwrap();
        let audit = Audit::start(&path, "one", 64, &lost).unwrap();
        for number in 0..3 {
            audit.note(entry(number));
            while lost.get() <= u64::from(number) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        std::fs::remove_file(&path).unwrap();
        audit.reopen.store(true, Ordering::Release);
        audit.note(entry(3));
        let line: Value = serde_json::from_str(&until(&path, 1)[0]).unwrap();
        assert_eq!((&line["method"], &line["lost"]), (&json!("m3"), &json!(3)));
        assert_eq!(verify(&path), Ok(1));
    }

    #[test]
    fn nobody_waits_for_a_log_that_cannot_be_written_and_what_is_lost_is_counted() {
        let lost = IntCounter::new("lost", "x").unwrap();
        let audit = Audit::start(Path::new("/dev/full"), "one", 4, &lost).unwrap();
        (0..1000).for_each(|number| audit.note(entry(number)));
        for _ in 0..1000 {
            if lost.get() == 1000 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{}", lost.get());
    }
}
