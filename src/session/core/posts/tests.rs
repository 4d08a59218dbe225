mod property;

use super::*;
use crate::upstream::PostError;

const USUAL: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(60);
const POST_LIMIT: Duration = Duration::from_secs(10);

fn id(seq: u64) -> IdKey {
    IdKey::of_json(&seq.to_string()).unwrap()
}

fn note(only_on: Option<u64>) -> Outbound {
    Outbound { body: Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/x"}"#), id: None, only_on }
}

fn call(seq: u64) -> Bytes {
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{seq},"method":"tools/call"}}"#))
}

/// A session with a link, on which a clock can be turned.
struct World {
    posts: Posts<u64, ()>,
    moment: Moment,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self { posts: Posts::default(), moment: Moment { now, link: 1, last_heard: now } }
    }

    fn pass(&mut self, time: Duration) {
        self.moment.now += time;
    }

    fn hear(&mut self) {
        self.moment.last_heard = self.moment.now;
    }

    fn request(&mut self, seq: u64) {
        let request = InFlight::new(seq, id(seq).shared_key(), self.moment.now, ());
        self.posts.queue_request(id(seq), request, call(seq));
    }

    /// Number and sequence of the POST that is made now.
    fn send(&mut self) -> Option<(u64, u64)> {
        let next = self.posts.next(self.moment.now)?;
        let (number, seq) = (next.number, next.seq);
        self.posts.made(next, self.moment.now, self.moment.link, number);
        Some((number, seq))
    }

    fn acknowledge(&mut self, number: u64) -> bool {
        let post = self.posts.ended(number).unwrap();
        self.posts.acknowledged(number, &post, self.moment.now, USUAL)
    }

    fn fail(&mut self, number: u64, error: &PostError) -> Failed {
        let post = self.posts.ended(number).unwrap();
        self.posts.failed(number, post, error, self.moment)
    }
}

/// REQ-5
#[test]
fn each_message_waits_for_the_acknowledgement_of_the_one_before_it_but_not_for_long() {
    let mut world = World::new();
    world.posts.queue(1, note(None));
    world.posts.queue(2, note(None));
    let (first, _) = world.send().unwrap();
    assert!(world.posts.next_waits());
    let wait = world.posts.order_wait(world.moment.now, USUAL).unwrap();
    assert_eq!(wait, OrderWait { left: USUAL, patience: USUAL });
    assert_eq!(world.posts.order_wait(world.moment.now, USUAL), None, "one timer");
    world.pass(USUAL / 2);
    world.posts.waited(USUAL, world.moment);
    assert!(world.posts.next_waits(), "the timer was set for an earlier POST");
    world.pass(USUAL / 2);
    world.hear();
    world.posts.waited(USUAL, world.moment);
    assert!(!world.posts.next_waits());
    assert_eq!(world.send(), Some((first + 1, 2)));
    let wait = world.posts.order_wait(world.moment.now, USUAL).unwrap();
    assert_eq!(wait.patience, USUAL / 10, "the server lives, and acknowledges late");
}

/// REQ-5
#[test]
fn a_server_that_is_out_of_reach_is_waited_for_as_long_as_ever() {
    let mut world = World::new();
    world.posts.queue(1, note(None));
    world.send().unwrap();
    world.pass(USUAL);
    world.posts.waited(USUAL, world.moment);
    assert!(!world.posts.next_waits());
    world.posts.queue(2, note(None));
    world.send().unwrap();
    assert_eq!(world.posts.order_wait(world.moment.now, USUAL).unwrap().patience, USUAL);
}

#[test]
fn an_answer_is_as_good_as_an_acknowledgement() {
    let mut world = World::new();
    world.request(1);
    world.posts.queue(2, note(None));
    let (number, _) = world.send().unwrap();
    let (request, goes_on) = world.posts.answered(&id(1)).unwrap();
    assert!(goes_on && !world.posts.next_waits());
    assert_eq!((request.seq, request.progress, request.attempts), (1, Progress::MaybeSent, 1));
    assert!(!world.acknowledge(number), "nobody waits for its answer any more");
    assert!(world.posts.answered(&id(1)).is_none(), "once");
}

#[test]
fn a_post_that_nobody_needs_makes_room() {
    let mut world = World::new();
    world.request(1);
    world.request(2);
    let (first, _) = world.send().unwrap();
    world.posts.waited(Duration::ZERO, world.moment);
    world.send().unwrap();
    assert_eq!(world.posts.make_room(3), Room::Free);
    assert_eq!(world.posts.make_room(2), Room::Full);
    world.posts.answered(&id(1)).unwrap();
    assert_eq!(world.posts.make_room(2), Room::Instead(first));
    assert_eq!(world.posts.make_room(2), Room::Free);
}

/// REQ-3: one row for each thing that a POST's end can say of a message.
#[test]
fn what_a_failed_post_says() {
    let (refused, broken, late) =
        (PostError::Refused(400), PostError::Unknown("reset".to_owned()), PostError::Late(POST_LIMIT));
    let not_sent = PostError::NotSent("refused".to_owned());
    let again = |is_for_nobody, ends_link| Failed::Again { is_for_nobody, ends_link };
    let unclear = |link_may_end| Failed::Unclear { id: id(1), body: call(1), link_may_end };
    for (what, is_request, only_on, error, expected, is_queued) in [
        ("a call is refused", true, None, &refused, Failed::Refused(id(1)), false),
        ("a notification is refused", false, None, &refused, Failed::Dropped, false),
        ("a call was not sent", true, None, &not_sent, again(false, true), true),
        ("a notification was not sent", false, None, &not_sent, again(false, true), true),
        ("an answer was not sent", false, Some(1), &not_sent, again(false, true), true),
        ("an answer to another session was not sent", false, Some(0), &not_sent, again(true, true), false),
        ("the session of a call is gone", true, None, &PostError::SessionGone, again(false, true), true),
        ("the connection of a call broke", true, None, &broken, unclear(true), false),
        ("the connection of a notification broke", false, None, &broken, again(false, true), true),
        ("a call has failed", true, None, &PostError::Failed(500), unclear(false), false),
        ("a notification has failed", false, None, &PostError::Failed(500), Failed::Dropped, false),
        ("a call is not acknowledged", true, None, &late, Failed::Nothing, false),
        ("a notification is not acknowledged", false, None, &late, again(false, true), true),
    ] {
        let mut world = World::new();
        if is_request {
            world.request(1);
        } else {
            world.posts.queue(1, note(only_on));
        }
        world.pass(USUAL);
        let (number, _) = world.send().unwrap();
        assert_eq!((world.fail(number, error), world.posts.is_queued(1)), (expected, is_queued), "{what}");
        let is_open = is_request || is_queued;
        assert_eq!(world.posts.acked(2), u64::from(!is_open), "{what}: the inbox keeps what is not settled");
    }
}

/// Whatever a server says 404 to, be it with a new session each time, is not sent for ever.
#[test]
fn a_message_for_which_every_session_is_gone_is_refused() {
    for is_request in [true, false] {
        let mut world = World::new();
        if is_request {
            world.request(1);
        } else {
            world.posts.queue(1, note(None));
        }
        for _ in 0..5 {
            let (number, _) = world.send().unwrap();
            let failed = world.fail(number, &PostError::SessionGone);
            assert_eq!(failed, Failed::Again { is_for_nobody: false, ends_link: true });
        }
        let (number, _) = world.send().unwrap();
        let expected = if is_request { Failed::Refused(id(1)) } else { Failed::Dropped };
        assert_eq!(world.fail(number, &PostError::SessionGone), expected);
    }
}

/// The server lives: it keeps a notification without a word, or works on a call.
#[test]
fn a_late_acknowledgement_of_a_living_server_ends_no_link() {
    let late = PostError::Late(POST_LIMIT);
    let mut world = World::new();
    world.posts.queue(1, note(None));
    let (number, _) = world.send().unwrap();
    world.pass(POST_LIMIT);
    world.hear();
    assert_eq!(world.fail(number, &late), Failed::Dropped);
    world.request(2);
    world.send().unwrap();
    world.posts.waited(Duration::ZERO, world.moment);
    world.posts.queue(3, note(None));
    world.pass(USUAL);
    let (number, _) = world.send().unwrap();
    world.pass(POST_LIMIT);
    assert_eq!(world.fail(number, &late), Failed::Dropped, "it works");
}

#[test]
fn a_post_says_nothing_of_a_request_that_is_over_or_carried_by_another_post() {
    let broken = PostError::Unknown("reset".to_owned());
    let mut world = World::new();
    world.request(1);
    let (number, _) = world.send().unwrap();
    world.posts.answered(&id(1)).unwrap();
    assert_eq!(world.fail(number, &broken), Failed::Nothing);
    world.request(2);
    let (first, _) = world.send().unwrap();
    assert_eq!(world.posts.settle(first, 2, id(2), call(2), true), Settled::Again(1));
    world.posts.waited(Duration::ZERO, world.moment);
    let (second, _) = world.send().unwrap();
    assert_eq!(world.fail(first, &PostError::Refused(400)), Failed::Nothing, "it is on its way a second time");
    assert_eq!(world.posts.settle(first, 2, id(2), call(2), true), Settled::Nothing);
    assert_eq!(world.posts.settle(second, 2, id(2), call(2), false), Settled::Unknown(id(2)));
    world.posts.cancel(&id(2), world.moment.now);
    assert_eq!(world.posts.settle(second, 2, id(2), call(2), true), Settled::Nothing, "nobody wants it any more");
}

/// While a server wants to be left alone it still gets what its running calls wait for.
#[test]
fn a_server_that_takes_nothing_now_is_left_alone_for_as_long_as_the_message_has_time() {
    let busy = PostError::NotNow { status: 429, retry_after: None };
    let pause = Duration::from_secs(40);
    let mut world = World::new();
    world.request(1);
    let (number, _) = world.send().unwrap();
    let Failed::NotNow(outbound) = world.fail(number, &busy) else { panic!("it is to be tried again") };
    assert_eq!(world.posts.refusals(1), 0);
    let later = world.posts.not_now(1, outbound, pause, LIMIT, world.moment);
    assert_eq!((later, world.posts.refusals(1)), (NotNow::Later { is_for_nobody: false }, 1));
    assert_eq!(world.posts.requests().get(&id(1)).map(|r| (r.progress, r.attempts)), Some((Progress::NotSent, 0)));
    assert_eq!(world.send(), None, "it is left alone");
    let answer = Outbound { body: Bytes::from_static(br#"{"jsonrpc":"2.0","id":9,"result":{}}"#), ..note(Some(1)) };
    world.posts.queue(2, answer);
    assert_eq!(world.send().map(|(_, seq)| seq), Some(2));
    world.pass(pause);
    let (number, seq) = world.send().unwrap();
    assert_eq!(seq, 1);
    let Failed::NotNow(outbound) = world.fail(number, &busy) else { panic!("it is to be tried again") };
    assert_eq!(world.posts.not_now(1, outbound, pause, LIMIT, world.moment), NotNow::TooLate(id(1)));
}

/// REQ-5: what may not have arrived goes up again on a new link, before what comes after it.
#[test]
fn a_new_link_gets_what_the_old_one_may_not_have_had_and_nothing_that_was_for_it_alone() {
    let mut world = World::new();
    world.posts.queue(1, note(None));
    world.posts.queue(2, note(Some(1)));
    world.posts.queue(3, note(Some(1)));
    world.posts.queue(4, note(None));
    world.send().unwrap();
    world.posts.waited(Duration::ZERO, world.moment);
    world.send().unwrap();
    world.moment.link = 2;
    assert_eq!(world.posts.link_lost(2), 1, "the third");
    world.moment.link = 3;
    let resent = world.posts.new_link(3);
    assert_eq!((resent.given_up, resent.for_nobody), (vec![0, 1], 1), "and the second");
    assert!(!world.posts.next_waits());
    let sent = [world.send(), world.send(), world.send()].map(|sent| sent.map(|(_, seq)| seq));
    assert_eq!(sent, [Some(1), Some(4), None]);
}

#[test]
fn no_deadline_is_missed_and_no_timer_runs_for_nothing() {
    let mut world = World::new();
    assert_eq!(world.posts.next_deadline(world.moment.now, LIMIT, POST_LIMIT), None);
    world.posts.queue(1, note(None));
    let (number, _) = world.send().unwrap();
    let next = world.posts.next_deadline(world.moment.now, LIMIT, POST_LIMIT);
    assert_eq!(next, Some(CANCEL_GRACE), "a cancel may come meanwhile");
    assert_eq!(world.posts.next_deadline(world.moment.now, LIMIT, POST_LIMIT), None, "one timer");
    assert_eq!(world.posts.late(world.moment, LIMIT, POST_LIMIT), []);
    world.pass(POST_LIMIT - Duration::from_millis(200));
    let next = world.posts.next_deadline(world.moment.now, LIMIT, POST_LIMIT);
    assert_eq!(next, Some(Duration::from_millis(200)));
    world.pass(Duration::from_millis(200));
    world.hear();
    assert_eq!(world.posts.late(world.moment, LIMIT, POST_LIMIT), [], "the server lives");
    world.pass(LIMIT - POST_LIMIT);
    assert_eq!(world.posts.late(world.moment, LIMIT, POST_LIMIT), [(number, number, LIMIT)]);
}

/// REQ-4
#[test]
fn a_cancelled_request_is_forgotten_where_nobody_has_seen_it() {
    let mut world = World::new();
    world.request(1);
    world.request(2);
    world.send().unwrap();
    assert_eq!(world.posts.cancel(&id(1), world.moment.now), Cancelled::Sent);
    assert_eq!(world.posts.cancel(&id(2), world.moment.now), Cancelled::NeverSent);
    assert_eq!(world.posts.cancel(&id(3), world.moment.now), Cancelled::Unknown);
    world.posts.forget_request(&id(2));
    assert!(!world.posts.is_queued(2) && !world.posts.requests().contains(&id(2)));
    let told = world.posts.requests_mut().tell_forgotten().unwrap();
    assert_eq!(told, [(id(2).key().to_owned(), 2)]);
    assert!(!world.posts.requests().anybody_waits());
}
