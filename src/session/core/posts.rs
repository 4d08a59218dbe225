//! What goes up to the server next, what waits for its acknowledgement, what is late, and what is sent again on a new link;
//! with the table of requests in flight ([`Requests`]). REQ-3, REQ-5
//!
//! Messages go up in the order of their sequences, one after the other: each waits for the acknowledgement of the one before
//! it, but not for long. A POST's outcome is about that POST alone: by the time it comes, its message may have been answered,
//! or be on its way to another upstream session. So POSTs have numbers of their own.
//!
//! `H` is the caller's handle to a POST that it has made, `K` what it keeps with a request. Nothing is copied here but
//! numbers: messages move from the queue into a POST, and back if they go up again.

mod failed;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;

pub use self::failed::{Failed, NotNow, Settled};
use super::{
    pace::Pace,
    recovery::Progress,
    requests::{CANCEL_GRACE, InFlight, Requests},
};
use crate::protocol::{
    jsonrpc::{Head, IdKey},
    mcp,
};

/// Deadlines are looked at this often at most.
const SHORTEST_ROUND: Duration = Duration::from_millis(10);

/// A message on its way to the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// The message.
    pub body: Bytes,
    /// Set for requests.
    pub id: Option<IdKey>,
    /// Number of the link whose upstream session alone understands it: an answer to a question of it, or a cancel.
    pub only_on: Option<u64>,
}

impl Outbound {
    /// It may be sent on the link of this number.
    fn may_go_on(&self, link: u64) -> bool {
        self.only_on.is_none_or(|only| only == link)
    }

    /// A call that runs may wait for it: an answer of the client, or a cancel.
    fn is_urgent(&self) -> bool {
        let head = Head::parse(&self.body);
        self.id.is_none() && head.is_ok_and(|head| head.method().is_none_or(|method| method == mcp::CANCELLED))
    }
}

/// A POST to the upstream without an acknowledgement.
#[derive(Debug)]
pub struct UnderWay<H> {
    /// Sequence of the message.
    pub seq: u64,
    /// The message.
    pub outbound: Outbound,
    /// The link on which it went.
    pub link: u64,
    since: Instant,
    handle: H,
}

/// A POST that is to be made, and told of with [`Posts::made`].
#[derive(Debug)]
pub struct Next {
    /// Number of the POST.
    pub number: u64,
    /// The message.
    pub outbound: Outbound,
    /// It carries a request that is in flight.
    pub is_request: bool,
    seq: u64,
}

/// Whether another POST may be made.
#[derive(Debug, PartialEq, Eq)]
pub enum Room<H> {
    /// Yes.
    Free,
    /// Yes, when this one is given up: its outcome is of no use to anybody.
    Instead(H),
    /// No.
    Full,
}

/// How long the next message waits for the acknowledgement of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderWait {
    /// From now on.
    pub left: Duration,
    /// Altogether: for [`Posts::waited`].
    pub patience: Duration,
}

/// When something happens, and what is known of the server then.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// When.
    pub now: Instant,
    /// Number of the present link.
    pub link: u64,
    /// When something has last come from the server.
    pub last_heard: Instant,
}

/// What became of a cancelled request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// The server has never seen it: it can be forgotten.
    NeverSent,
    /// The server may work on it.
    Sent,
    /// It is not in flight.
    Unknown,
}

/// What a new link leaves of the old one's messages.
#[derive(Debug)]
pub struct Resent<H> {
    /// POSTs whose outcome is of no interest any more.
    pub given_up: Vec<H>,
    /// Messages that were for the old session alone.
    pub for_nobody: usize,
}

/// See the module's text.
#[derive(Debug)]
pub struct Posts<H, K> {
    to_send: BTreeMap<u64, Outbound>,
    /// Number of a POST that waits for its acknowledgement, and the next message for it.
    posting: Option<u64>,
    next: u64,
    /// By number. Not by sequence: a message may be sent again while an earlier POST of it is still under way to a session
    /// that was given up.
    under_way: BTreeMap<u64, UnderWay<H>>,
    pace: Pace,
    /// Messages that the upstream has not had yet, as far as is known.
    outstanding: BTreeSet<u64>,
    requests: Requests<K>,
    order_timer: bool,
    deadline_timer: bool,
}

impl<H, K> Default for Posts<H, K> {
    fn default() -> Self {
        Self {
            to_send: BTreeMap::new(),
            posting: None,
            next: 0,
            under_way: BTreeMap::new(),
            pace: Pace::default(),
            outstanding: BTreeSet::new(),
            requests: Requests::default(),
            order_timer: false,
            deadline_timer: false,
        }
    }
}

/// What is in flight, and what waits.
impl<H: Copy, K> Posts<H, K> {
    /// The table of requests.
    pub fn requests(&self) -> &Requests<K> {
        &self.requests
    }

    /// The table of requests.
    pub fn requests_mut(&mut self) -> &mut Requests<K> {
        &mut self.requests
    }

    /// Messages that wait to be sent.
    pub fn queued(&self) -> usize {
        self.to_send.len()
    }

    /// This one waits to be sent.
    pub fn is_queued(&self, seq: u64) -> bool {
        self.to_send.contains_key(&seq)
    }

    /// The next one is a request.
    pub fn next_is_request(&self) -> bool {
        self.to_send.first_key_value().is_some_and(|(_, next)| next.id.is_some())
    }

    /// A POST waits for its acknowledgement, and the next message for it.
    pub fn next_waits(&self) -> bool {
        self.posting.is_some()
    }

    /// No message waits, and no POST is under way whose outcome matters. Requests may wait for their answers.
    pub fn are_settled(&self) -> bool {
        self.to_send.is_empty() && !self.under_way.iter().any(|(number, post)| self.matters(*number, post))
    }

    /// Up to here every message has been had by the upstream, or stands in the request table. `next`: the lowest sequence that
    /// was not handled.
    pub fn acked(&self, next: u64) -> u64 {
        self.outstanding.first().map_or(next, |first| *first).min(next).saturating_sub(1)
    }

    /// An adopter finds this message in the store.
    pub fn inherit(&mut self, seq: u64) {
        self.outstanding.insert(seq);
    }

    /// An adopter finds this request in the store.
    pub fn inherit_request(&mut self, id: IdKey, request: InFlight<K>) {
        self.outstanding.insert(request.seq);
        self.requests.insert(id, request);
    }

    /// Nothing is to be done for this message any more.
    pub fn is_done(&mut self, seq: u64) {
        self.outstanding.remove(&seq);
    }

    /// A message is to go up.
    pub fn queue(&mut self, seq: u64, outbound: Outbound) {
        self.outstanding.insert(seq);
        self.to_send.insert(seq, outbound);
    }

    /// A request is to go up, and waits for its answer from now on.
    pub fn queue_request(&mut self, id: IdKey, request: InFlight<K>, body: Bytes) {
        let seq = request.seq;
        self.requests.insert(id.clone(), request);
        self.queue(seq, Outbound { body, id: Some(id), only_on: None });
    }

    /// The request of this id has its answer. With it: whether the next message need not wait any longer.
    pub fn answered(&mut self, id: &IdKey) -> Option<(InFlight<K>, bool)> {
        let (_, request) = self.requests.remove(id)?;
        self.outstanding.remove(&request.seq);
        // Its server has had it, and what comes after it need not wait for the acknowledgement.
        let Some(number) = request.post.filter(|number| self.under_way.contains_key(number)) else {
            return Some((request, false));
        };
        self.pace.acknowledged_late();
        let goes_on = self.posting.take_if(|posting| *posting == number).is_some();
        Some((request, goes_on))
    }

    /// The request of this id is ended from here: taken out of the table and off the queue.
    pub fn end_request(&mut self, id: &IdKey) -> Option<(IdKey, InFlight<K>)> {
        let (id, request) = self.requests.remove(id)?;
        self.to_send.remove(&request.seq);
        self.outstanding.remove(&request.seq);
        self.pace.taken(request.seq);
        Some((id, request))
    }

    /// The client gives this request up. REQ-4
    pub fn cancel(&mut self, id: &IdKey, now: Instant) -> Cancelled {
        let Some(request) = self.requests.get_mut(id) else { return Cancelled::Unknown };
        request.cancelled = Some(now);
        if self.to_send.contains_key(&request.seq) { Cancelled::NeverSent } else { Cancelled::Sent }
    }

    /// Cancelled and unanswered: off the books, and to be taken off the store's.
    pub fn forget_request(&mut self, id: &IdKey) {
        if let Some((_, request)) = self.end_request(id) {
            self.requests.forget(&request);
        }
    }

    /// No endpoint can be reached: what waits is dropped. How many messages.
    pub fn drop_queued(&mut self) -> usize {
        let dropped = std::mem::take(&mut self.to_send);
        for seq in dropped.keys() {
            self.outstanding.remove(seq);
        }
        dropped.len()
    }

    /// Gives back what the last burst has left: nothing waits and nothing is in flight.
    pub fn shrink(&mut self) {
        self.to_send = BTreeMap::new();
        if self.under_way.is_empty() {
            self.under_way = BTreeMap::new();
        }
        self.pace.shrink();
        self.outstanding = std::mem::take(&mut self.outstanding).into_iter().collect();
        self.requests.shrink();
    }
}

/// POSTs, from their making to their acknowledgement.
impl<H: Copy, K> Posts<H, K> {
    /// A message waits for the acknowledgement of the one before it: a timer is to be set, unless one is. A server that
    /// answers a POST only when the work is done must not hold up a cancel behind it. `usual`: how long, where the server
    /// acknowledges at once.
    pub fn order_wait(&mut self, now: Instant, usual: Duration) -> Option<OrderWait> {
        let since = self.posting_since().filter(|_| !self.order_timer)?;
        self.order_timer = true;
        let patience = self.pace.patience(usual);
        Some(OrderWait { left: patience.saturating_sub(now.saturating_duration_since(since)), patience })
    }

    /// That timer has run out.
    pub fn waited(&mut self, patience: Duration, moment: Moment) {
        self.order_timer = false;
        let since = self.posting_since();
        let is_late = since.is_none_or(|since| moment.now.saturating_duration_since(since) >= patience);
        // A server from which nothing has come since may be out of reach: then each message that does not wait its full
        // time may overtake the one before (REQ-5).
        if self.posting.take_if(|_| is_late).is_some() && since.is_some_and(|since| moment.last_heard > since) {
            self.pace.acknowledged_late();
        }
    }

    fn posting_since(&self) -> Option<Instant> {
        self.posting.and_then(|number| self.under_way.get(&number)).map(|post| post.since)
    }

    /// Whether there may be another POST, of so many. Of those whose request is answered already, the oldest makes room.
    pub fn make_room(&mut self, limit: usize) -> Room<H> {
        if self.under_way.len() < limit {
            return Room::Free;
        }
        let useless = self.under_way.iter().find(|(number, post)| !self.matters(**number, post));
        let Some(number) = useless.map(|(number, _)| *number) else { return Room::Full };
        self.under_way.remove(&number).map_or(Room::Free, |post| Room::Instead(post.handle))
    }

    /// The message that goes up now. While the server wants to be left alone, only what running calls wait for.
    pub fn next(&mut self, now: Instant) -> Option<Next> {
        let is_paused = self.pace.is_paused(now);
        let mut waiting = self.to_send.iter().filter(|(_, outbound)| !is_paused || outbound.is_urgent());
        let seq = *waiting.next()?.0;
        let outbound = self.to_send.remove(&seq)?;
        let number = self.next;
        self.next += 1;
        let request = outbound.id.as_ref().and_then(|id| self.requests.get_mut(id));
        let is_request = request.is_some();
        if let Some(request) = request {
            request.progress = Progress::MaybeSent;
            request.attempts += 1;
            request.post = Some(number);
            request.sent.get_or_insert(now);
        }
        Some(Next { number, outbound, is_request, seq })
    }

    /// It is on its way.
    pub fn made(&mut self, next: Next, now: Instant, link: u64, handle: H) {
        let Next { number, outbound, seq, .. } = next;
        self.posting = Some(number);
        self.under_way.insert(number, UnderWay { seq, outbound, link, since: now, handle });
    }

    /// This POST has an outcome, and the next message does not wait for it any more. `None`: it was given up.
    pub fn ended(&mut self, number: u64) -> Option<UnderWay<H>> {
        self.posting.take_if(|posting| *posting == number);
        self.under_way.remove(&number)
    }

    /// It was acknowledged. `usual`: what is no late acknowledgement. `true`: the request that it carried waits for its answer.
    pub fn acknowledged(&mut self, number: u64, post: &UnderWay<H>, now: Instant, usual: Duration) -> bool {
        self.outstanding.remove(&post.seq);
        self.pace.taken(post.seq);
        let carries = post.outbound.id.as_ref().is_some_and(|id| self.carries(number, id));
        if carries && now.saturating_duration_since(post.since) < usual {
            self.pace.acknowledged_early();
        }
        carries
    }

    /// A former owner has made the POST that carries this request: it gets a number here, too.
    pub fn adopt(&mut self, id: &IdKey) -> Option<u64> {
        let number = self.next;
        self.requests.get_mut(id)?.post = Some(number);
        self.next += 1;
        Some(number)
    }

    /// The request of this id is in flight, and this POST is the last one that has carried it.
    pub fn carries(&self, number: u64, id: &IdKey) -> bool {
        self.requests.is_carried_by(number, id)
    }

    /// Something depends on its outcome: it carries a notification or an answer, or a request that is not answered yet.
    fn matters(&self, number: u64, post: &UnderWay<H>) -> bool {
        post.outbound.id.as_ref().is_none_or(|id| self.carries(number, id))
    }

    /// Nothing has come from the server since then, and it works on nothing that could keep it from acknowledging.
    pub fn seems_dead(&self, since: Instant, moment: Moment) -> bool {
        let works = self.under_way.iter().any(|(number, post)| {
            post.link == moment.link && post.outbound.id.as_ref().is_some_and(|id| self.carries(*number, id))
        });
        moment.last_heard < since && !works
    }

    /// The link is lost: what was for its session alone is for nobody. How many messages.
    pub fn link_lost(&mut self, link: u64) -> usize {
        self.pace.forget_link();
        self.drop_link_bound(link)
    }

    /// Messages for other sessions than that of this link. How many.
    pub fn drop_link_bound(&mut self, link: u64) -> usize {
        let outstanding = &mut self.outstanding;
        let before = self.to_send.len();
        self.to_send.retain(|seq, outbound| {
            let stays = outbound.may_go_on(link);
            if !stays {
                outstanding.remove(seq);
            }
            stays
        });
        before - self.to_send.len()
    }

    /// The upstream session was given up, and there is another. What went to the old one and may not have arrived goes up
    /// again, before all that comes after it (REQ-5); the outcome of that POST is of no interest any more.
    pub fn new_link(&mut self, link: u64) -> Resent<H> {
        // Requests are sorted out from the request table.
        let is_of_old = |post: &UnderWay<H>| post.link != link && post.outbound.id.is_none();
        let old: Vec<u64> =
            self.under_way.iter().filter(|(_, post)| is_of_old(post)).map(|(number, _)| *number).collect();
        let mut given_up = Vec::with_capacity(old.len());
        for post in old.into_iter().filter_map(|number| self.under_way.remove(&number)) {
            given_up.push(post.handle);
            self.to_send.insert(post.seq, post.outbound);
        }
        let under_way = &self.under_way;
        self.posting.take_if(|posting| under_way.get(posting).is_none_or(|post| post.link != link));
        Resent { given_up, for_nobody: self.drop_link_bound(link) }
    }

    /// When deadlines are to be looked at, if a timer is to be set: one at a time, and only while something is in flight.
    /// `limit`: for a request; `post_limit`: for an acknowledgement.
    pub fn next_deadline(&mut self, now: Instant, limit: Duration, post_limit: Duration) -> Option<Duration> {
        if self.deadline_timer || (self.requests.is_empty() && self.under_way.is_empty()) {
            return None;
        }
        self.deadline_timer = true;
        let posts = self.under_way.values().map(|post| post.since + post_limit).filter(|at| *at > now);
        let next = self.requests.deadlines(limit).chain(posts).min();
        let next = next.map_or(limit, |at| at.saturating_duration_since(now));
        // A cancel or a POST that comes meanwhile is seen at the next round.
        Some(next.min(post_limit).clamp(SHORTEST_ROUND, CANCEL_GRACE))
    }

    /// That timer has run out. POSTs that are late: their numbers, handles and ages.
    pub fn late(&mut self, moment: Moment, limit: Duration, post_limit: Duration) -> Vec<(u64, H, Duration)> {
        self.deadline_timer = false;
        let is_late = |post: &UnderWay<H>, age: Duration| {
            // That of a request may come when the work is done: the limit of the request is its limit, too.
            age >= limit || (age >= post_limit && post.outbound.id.is_none() && self.seems_dead(post.since, moment))
        };
        let posts = self.under_way.iter().map(|(number, post)| {
            let age = moment.now.saturating_duration_since(post.since);
            (number, post, age)
        });
        posts
            .filter(|(_, post, age)| is_late(post, *age))
            .map(|(number, post, age)| (*number, post.handle, age))
            .collect()
    }
}

#[cfg(test)]
mod tests;
