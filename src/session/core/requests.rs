//! The requests in flight: taken from the client, not answered yet. REQ-2, REQ-4
//!
//! Owns the table, and the list of cancelled requests that are still on the store's. `K` is what the caller keeps with each
//! request; it goes when the request goes.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;

use super::recovery::Progress;
use crate::protocol::jsonrpc::IdKey;

/// How long a cancelled request may still be answered before it is forgotten.
pub const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// A request without an answer.
#[derive(Debug)]
pub struct InFlight<K> {
    /// Its sequence in the journal.
    pub seq: u64,
    /// Its name in the store's request table.
    pub table_key: Arc<str>,
    /// How far it has come.
    pub progress: Progress,
    /// How often an upstream may have begun with it.
    pub attempts: u32,
    /// Number of the POST that carries it: what becomes of an earlier one is not about it any more.
    pub post: Option<u64>,
    /// When this owner took it.
    pub since: Instant,
    /// When it was first sent.
    pub sent: Option<Instant>,
    /// When the client gave it up.
    pub cancelled: Option<Instant>,
    /// The caller's.
    pub kept: K,
}

impl<K> InFlight<K> {
    /// Journaled, and not sent.
    pub fn new(seq: u64, table_key: Arc<str>, now: Instant, kept: K) -> Self {
        Self {
            seq,
            table_key,
            progress: Progress::NotSent,
            attempts: 0,
            post: None,
            since: now,
            sent: None,
            cancelled: None,
            kept,
        }
    }

    /// As an adopter finds it.
    pub fn inherited(seq: u64, table_key: Arc<str>, forwarded: bool, now: Instant, kept: K) -> Self {
        // An earlier owner's attempts are not recorded; one is what is sure.
        let (progress, attempts) = (Progress::on_record(forwarded), u32::from(forwarded));
        Self { progress, attempts, ..Self::new(seq, table_key, now, kept) }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Requests<K> {
    open: HashMap<IdKey, InFlight<K>, RandomState>,
    /// Key and sequence of cancelled requests that are to be taken off the store's table.
    forgotten: Vec<(String, u64)>,
    /// The store is being told of them.
    telling: bool,
}

impl<K> Default for Requests<K> {
    fn default() -> Self {
        Self { open: HashMap::default(), forgotten: Vec::new(), telling: false }
    }
}

impl<K> Requests<K> {
    /// How many.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Somebody waits for an answer.
    pub fn anybody_waits(&self) -> bool {
        self.open.values().any(|request| request.cancelled.is_none())
    }

    /// One of this id is in flight.
    pub fn contains(&self, id: &IdKey) -> bool {
        self.open.contains_key(id)
    }

    /// The one of this id.
    pub fn get(&self, id: &IdKey) -> Option<&InFlight<K>> {
        self.open.get(id)
    }

    /// The one of this id.
    pub fn get_mut(&mut self, id: &IdKey) -> Option<&mut InFlight<K>> {
        self.open.get_mut(id)
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&IdKey, &InFlight<K>)> {
        self.open.iter()
    }

    /// All, in the order in which they were journaled, with how far each has come.
    pub fn in_order(&self) -> Vec<(IdKey, Progress)> {
        let mut open: Vec<_> = self.open.iter().map(|(id, request)| (request.seq, id, request.progress)).collect();
        open.sort_unstable_by_key(|(seq, ..)| *seq);
        open.into_iter().map(|(_, id, progress)| (id.clone(), progress)).collect()
    }

    /// What is kept with each.
    pub fn kept_mut(&mut self) -> impl Iterator<Item = &mut K> {
        self.open.values_mut().map(|request| &mut request.kept)
    }

    pub(super) fn insert(&mut self, id: IdKey, request: InFlight<K>) {
        self.open.insert(id, request);
    }

    pub(super) fn remove(&mut self, id: &IdKey) -> Option<(IdKey, InFlight<K>)> {
        self.open.remove_entry(id)
    }

    /// The POST of this number is the last one that has carried the request of this id, which is in flight.
    pub(super) fn is_carried_by(&self, number: u64, id: &IdKey) -> bool {
        self.open.get(id).is_some_and(|request| request.post == Some(number))
    }

    /// The marks on requests as an adopter finds them. One that has lost its request is to be taken off the table.
    pub fn inherit_cancel(&mut self, id: &IdKey, seq: u64, now: Instant) {
        match self.open.get_mut(id).filter(|request| request.seq == seq) {
            Some(request) => request.cancelled = Some(now),
            None => self.forgotten.push((id.key().to_owned(), seq)),
        }
    }

    /// Cancelled requests.
    pub fn cancelled(&self) -> impl Iterator<Item = &InFlight<K>> {
        self.open.values().filter(|request| request.cancelled.is_some())
    }

    pub(super) fn forget(&mut self, request: &InFlight<K>) {
        self.forgotten.push(((*request.table_key).to_owned(), request.seq));
    }

    /// Forgotten requests that the store is to be told of now: one step at a time.
    pub fn tell_forgotten(&mut self) -> Option<Vec<(String, u64)>> {
        if self.forgotten.is_empty() || self.telling {
            return None;
        }
        self.telling = true;
        Some(self.forgotten.clone())
    }

    /// That step has ended; the store has taken note of so many of them.
    pub fn told_forgotten(&mut self, count: usize) {
        self.telling = false;
        self.forgotten.drain(..count);
    }

    /// Cancelled, and not answered in the time that is left for that.
    pub fn given_up(&self, now: Instant) -> Vec<IdKey> {
        let is_over = |request: &InFlight<K>| {
            request.cancelled.is_some_and(|at| now.saturating_duration_since(at) >= CANCEL_GRACE)
        };
        self.open.iter().filter(|(_, request)| is_over(request)).map(|(id, _)| id.clone()).collect()
    }

    /// Not answered within `limit`, and how far each has come.
    pub fn late(&self, now: Instant, limit: Duration) -> Vec<(IdKey, Progress)> {
        let is_late = |request: &InFlight<K>| {
            request.cancelled.is_none() && now.saturating_duration_since(request.since) >= limit
        };
        self.open.iter().filter(|(_, request)| is_late(request)).map(|(id, r)| (id.clone(), r.progress)).collect()
    }

    /// When the next of them is over, or forgotten.
    pub(super) fn deadlines(&self, limit: Duration) -> impl Iterator<Item = Instant> {
        self.open.values().map(move |request| request.cancelled.map_or(request.since + limit, |at| at + CANCEL_GRACE))
    }

    pub(super) fn shrink(&mut self) {
        self.open.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn id(number: u64) -> IdKey {
        IdKey::of_json(&number.to_string()).unwrap()
    }

    fn table(now: Instant, seqs: &[u64]) -> Requests<()> {
        let mut requests = Requests::default();
        for &seq in seqs {
            requests.insert(id(seq), InFlight::new(seq, id(seq).shared_key(), now, ()));
        }
        requests
    }

    /// REQ-2, REQ-4: each ends some time: by its limit, or, if nobody wants it any more, soon.
    #[test]
    fn each_request_has_an_end() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut requests = table(start, &[1, 2]);
        requests.get_mut(&id(2)).unwrap().cancelled = Some(after(10));
        assert_eq!(requests.deadlines(LIMIT).min(), Some(after(15)));
        for (at, late, given_up) in
            [(14, vec![], vec![]), (15, vec![], vec![id(2)]), (60, vec![(id(1), Progress::NotSent)], vec![id(2)])]
        {
            assert_eq!((requests.late(after(at), LIMIT), requests.given_up(after(at))), (late, given_up), "{at}");
        }
    }

    #[test]
    fn they_are_given_up_in_the_order_in_which_they_came() {
        let requests = table(Instant::now(), &[3, 1, 2]);
        let ids: Vec<_> = requests.in_order().into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, [id(1), id(2), id(3)]);
    }

    /// REQ-4: what the store was not told of is told again; what was forgotten meanwhile is told after it.
    #[test]
    fn the_store_is_told_of_each_forgotten_request_until_it_has_heard() {
        let now = Instant::now();
        let mut requests = table(now, &[1, 2]);
        requests.inherit_cancel(&id(1), 1, now);
        assert!(requests.get(&id(1)).is_some_and(|request| request.cancelled == Some(now)));
        requests.inherit_cancel(&id(2), 7, now);
        assert!(requests.get(&id(2)).is_some_and(|request| request.cancelled.is_none()), "the mark is of another one");
        let of = |seqs: &[(u64, u64)]| -> Vec<(String, u64)> {
            seqs.iter().map(|(name, seq)| (id(*name).key().to_owned(), *seq)).collect()
        };
        assert_eq!(requests.tell_forgotten(), Some(of(&[(2, 7)])));
        assert_eq!(requests.tell_forgotten(), None, "one step at a time");
        let (_, first) = requests.remove(&id(1)).unwrap();
        requests.forget(&first);
        requests.told_forgotten(0);
        assert_eq!(requests.tell_forgotten(), Some(of(&[(2, 7), (1, 1)])));
        requests.told_forgotten(1);
        assert_eq!(requests.tell_forgotten(), Some(of(&[(1, 1)])));
        requests.told_forgotten(1);
        assert_eq!(requests.tell_forgotten(), None);
    }

    #[test]
    fn an_adopter_takes_for_sent_what_was_marked() {
        let request = |forwarded| InFlight::inherited(1, "1".into(), forwarded, Instant::now(), ());
        assert_eq!((request(true).progress, request(true).attempts), (Progress::MaybeSent, 1));
        assert_eq!((request(false).progress, request(false).attempts), (Progress::Accepted, 0));
    }
}
