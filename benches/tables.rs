//! Criterion benches of what the router takes from a library although it could be a few lines of its own: the table of
//! sessions that every message is looked up in, and the hash of its keys. docs/decisions/0011 lists the others.
//!
//! `cargo bench --bench tables`

#![allow(missing_docs, reason = "criterion's macros write public functions")]

use std::{
    collections::HashMap,
    hash::BuildHasher,
    hint::black_box,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use criterion::{Criterion, criterion_group, criterion_main};
use dashmap::DashMap;
use mcp_router::protocol::session_id::{IdHash, SessionId};

/// Sessions of a busy instance.
const SESSIONS: usize = 10_000;
const SHARDS: usize = 64;

/// Takes an id for its own hash.
#[derive(Default, Clone)]
struct Itself;

struct Number(u64);

impl BuildHasher for Itself {
    type Hasher = Number;

    fn build_hasher(&self) -> Number {
        Number(0)
    }
}

impl std::hash::Hasher for Number {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What the router had before: maps behind locks of their own.
struct Sharded<S>(Vec<Mutex<HashMap<SessionId, Arc<()>, S>>>);

impl<S: BuildHasher + Default> Sharded<S> {
    fn of(ids: &[SessionId]) -> Self {
        let table = Self((0..SHARDS).map(|_| Mutex::default()).collect());
        for id in ids {
            table.shard(id).lock().expect("nobody panics").insert(*id, Arc::default());
        }
        table
    }

    fn shard(&self, id: &SessionId) -> &Mutex<HashMap<SessionId, Arc<()>, S>> {
        &self.0[usize::from(id.shard_byte()) % SHARDS]
    }

    fn get(&self, id: &SessionId) -> Option<Arc<()>> {
        self.shard(id).lock().expect("nobody panics").get(id).cloned()
    }
}

/// Looks up one after the other, alone and while another thread does the same.
fn looked_up(c: &mut Criterion, name: &str, ids: &Arc<Vec<SessionId>>, get: impl Fn(&SessionId) -> bool + Sync) {
    let mut group = c.benchmark_group("session_of_an_id");
    let mut next = ids.iter().cycle();
    group.bench_function(name, |b| b.iter(|| get(black_box(next.next().expect("it goes round")))));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for id in ids.iter().rev().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                black_box(get(id));
            }
        });
        let name = format!("{name}, beside another thread");
        group.bench_function(name, |b| b.iter(|| get(black_box(next.next().expect("it goes round")))));
        stop.store(true, Ordering::Relaxed);
    });
    group.finish();
}

fn tables(c: &mut Criterion) {
    let ids: Arc<Vec<SessionId>> = Arc::new((0..SESSIONS).map(|_| SessionId::random()).collect());
    let dash: DashMap<SessionId, Arc<()>, IdHash> = ids.iter().map(|id| (*id, Arc::default())).collect();
    looked_up(c, "dashmap, foldhash", &ids, |id| dash.get(id).map(|value| Arc::clone(&value)).is_some());
    let dash: DashMap<SessionId, Arc<()>, Itself> = ids.iter().map(|id| (*id, Arc::default())).collect();
    looked_up(c, "dashmap, the id itself", &ids, |id| dash.get(id).map(|value| Arc::clone(&value)).is_some());
    let own = Sharded::<IdHash>::of(&ids);
    looked_up(c, "own shards, foldhash", &ids, |id| own.get(id).is_some());
    let own = Sharded::<Itself>::of(&ids);
    looked_up(c, "own shards, the id itself", &ids, |id| own.get(id).is_some());
}

criterion_group!(benches, tables);
criterion_main!(benches);
