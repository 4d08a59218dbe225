//! What an owner remembers of what it was handed: never more than is allowed, and what it was handed it never takes for new.

use bytes::Bytes;
use mcp_router::{
    protocol::session_id::SessionId,
    store::{ClientMessage, Fence, HandedLately, InboxEntry, Known, Owner, Restored, Rewrite},
};

use super::choices::Choices;

/// As many as are remembered.
const MOST: usize = 128;
/// More make a run slow and show nothing.
const STEPS: usize = 512;

fn entry([kind, seq, body]: [u8; 3]) -> InboxEntry {
    let id_key = || format!("{}", seq % 8).into();
    let message = match kind % 4 {
        0 => ClientMessage::Request { id_key: id_key() },
        1 => ClientMessage::Notification,
        2 => ClientMessage::Cancel { id_key: id_key() },
        _ => ClientMessage::Response,
    };
    InboxEntry { seq: u64::from(seq), message, body: Bytes::copy_from_slice(&[body % 4]) }
}

/// Bytes: what is handed, or looked for, in steps of four.
pub fn older(data: &[u8]) {
    let mut choices = Choices::of(data);
    let mut handed = HandedLately::default();
    let mut all: Vec<InboxEntry> = Vec::new();
    let mut unclaimed = Vec::new();
    for _ in 0..(data.len() / 4).min(STEPS) {
        let [step, rest @ ..] = choices.bytes::<4>();
        let one = entry(rest);
        match step % 8 {
            0..=4 => {
                handed.note(&one);
                all.push(one);
            }
            5 if step == 5 => {
                handed.clear();
                all.clear();
            }
            _ => unclaimed.push(one),
        }
    }
    let is_one = |noted: &&InboxEntry, one: &InboxEntry| (noted.seq, &noted.body) == (one.seq, &one.body);
    for one in &unclaimed {
        let was_handed = all.iter().any(|noted| is_one(&noted, one));
        let lately = all.iter().rev().take(MOST).any(|noted| is_one(&noted, one));
        let knows = handed.knows(one);
        assert_eq!(knows == Known::Handled, lately, "{one:?}");
        assert!(!(was_handed && knows == Known::New), "{one:?} would run twice");
        // Of a number above all that were forgotten everything is known.
        let forgotten = all.len().saturating_sub(MOST);
        let highest = all[..forgotten].iter().map(|noted| noted.seq).max().unwrap_or_default();
        assert_eq!(knows == Known::Unclear, !lately && one.seq <= highest, "{one:?}");
    }
    decided(handed, &unclaimed);
}

/// Each entry stays, is told to be unclear, or is over; and what is under way does not come again.
fn decided(handed: HandedLately, unclaimed: &[InboxEntry]) {
    let owner = Owner { instance_id: "a".into(), incarnation: "i".into() };
    let restored = Restored { pending: vec![("3".to_owned(), 1)], ..Restored::default() };
    let session = "00112233445566778899aabbccddeeff".parse::<SessionId>().expect("an id");
    let fence = Fence { session, epoch: 1, generation: 1, incarnation: "i".into() };
    let rewrite = Rewrite { fence, owner, epoch: 1, next: 1, restored, handed: handed.clone() };
    let (stay, unclear) = rewrite.decide(unclaimed);
    let is_pending = |one: &&InboxEntry| matches!(&one.message, ClientMessage::Request { id_key } if &**id_key == "3");
    let free: Vec<&InboxEntry> = unclaimed.iter().filter(|one| !is_pending(one)).collect();
    let new: Vec<u64> = free.iter().filter(|one| handed.knows(one) == Known::New).map(|one| one.seq).collect();
    assert_eq!(stay, new);
    let asked = free.iter().filter(|one| matches!(one.message, ClientMessage::Request { .. }));
    assert_eq!(unclear.len(), asked.filter(|one| handed.knows(one) == Known::Unclear).count());
    assert!(unclear.iter().all(|id| &**id != "3"));
}
