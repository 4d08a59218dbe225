//! What the end of an audit log says of one session.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use serde_json::Value;

/// So much of the end of the file is looked through, in bytes.
const LOOKED_THROUGH: u64 = 1 << 20;
/// The newest lines about the session of this handle, without their hashes, oldest first. Nothing where there is no file. Blocks.
pub fn about(path: &Path, session: &str, most: usize) -> Vec<Value> {
    let read = || {
        let mut file = File::open(path)?;
        let known = file.metadata()?;
        let mut tail = Vec::new();
        // A device has no end.
        if known.is_file() {
            file.seek(SeekFrom::Start(known.len().saturating_sub(LOOKED_THROUGH)))?;
            file.take(LOOKED_THROUGH).read_to_end(&mut tail)?;
        }
        std::io::Result::Ok(tail)
    };
    let tail = read().unwrap_or_default();
    let wanted = format!("\"session\":\"{session}\"");
    // Most lines are about others, and need no parser.
    let about = |line: &&[u8]| memchr::memmem::find(line, wanted.as_bytes()).is_some();
    let lines = tail.rsplit(|byte| *byte == b'\n').filter(about);
    let mut lines: Vec<Value> = lines
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter(|line| line["session"] == session)
        .take(most)
        .collect();
    lines.reverse();
    for line in lines.iter_mut().filter_map(Value::as_object_mut) {
        line.retain(|name, _| !matches!(name.as_str(), "prev" | "hash" | "session" | "service"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Audit, Entry};

    #[test]
    fn only_lines_of_the_session_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        assert_eq!(about(&path, "a1", 2), [] as [Value; 0]);
        let lost = prometheus::IntCounter::new("lost", "lost").unwrap();
        let audit = Audit::start(&path, "router-1", 64, &lost).unwrap();
        for (session, target) in [("a1", "echo"), ("b2", "\"session\":\"a1\""), ("a1", "add")] {
            let (session, target) = (session.to_owned(), target.to_owned());
            audit.note(Entry { what: "asked", session, target, ..Entry::default() });
        }
        let told = || about(&path, "a1", 2).iter().map(|line| line["target"].to_string()).collect::<Vec<_>>();
        let begun = std::time::Instant::now();
        while told().len() < 2 && begun.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        assert_eq!(told(), [r#""echo""#, r#""add""#]);
    }
}
