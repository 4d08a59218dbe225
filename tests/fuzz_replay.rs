//! What the fuzzer has found to be worth keeping, once more and without it: each file of `fuzz/corpus` through the property
//! of its target. `scripts/fuzz.sh` looks for more.

#![allow(clippy::unwrap_used)]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(path)
}

fn replay(target: &str, property: fn(&[u8])) {
    property(b"");
    let mut count = 0;
    for entry in fs::read_dir(folder("corpus").join(target)).unwrap() {
        let path = entry.unwrap().path();
        let input = fs::read(&path).unwrap();
        // Which of them it was, in what a failing test prints.
        println!("{}", path.display());
        property(&input);
        count += 1;
    }
    assert!(count > 0, "the corpus of {target} is empty");
}

macro_rules! replays {
    ($($target:ident)+) => {
        const TARGETS: &[&str] = &[$(stringify!($target)),+];
        $(
            #[test]
            fn $target() {
                replay(stringify!($target), fuzz::$target);
            }
        )+
    };
}

replays! {
    accept
    bridge
    credentials_file
    env_file
    forwarded
    frame
    held
    id_key
    ids
    jsonrpc
    key_file
    link
    mcp
    modern
    older
    policy
    redis_reply
    reply
    scan
    session_head
    settings
    sse_reader
    token
    tools
    trace_context
    upstreams
}

fn names(path: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder(path)).unwrap();
    entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn each_target_is_replayed() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|&target| target.to_owned()).collect();
    assert_eq!((&names("fuzz_targets"), &names("corpus")), (&targets, &targets));
    let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
    for target in &targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target} is no [[bin]]");
    }
}
