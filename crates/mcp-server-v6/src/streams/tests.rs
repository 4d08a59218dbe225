use std::task::Waker;

use super::*;

const LIMITS: Limits = Limits { keeps: true, unread: 4, events: 8, bytes: 1 << 20, streams: 2 };

/// What the connection can take now; whether the stream goes on.
fn take(attachment: &Attachment, most: usize, taken: &mut Vec<(EventId, Outgoing)>) -> bool {
    let cx = Context::from_waker(Waker::noop());
    for _ in 0..most {
        match attachment.poll_event(&cx) {
            Poll::Ready(Some(event)) => taken.push(event),
            Poll::Ready(None) => return false,
            Poll::Pending => return true,
        }
    }
    true
}

/// A stream is written to, read, broken and resumed at random: its client has all of it, once and in order, or is told
/// that it cannot, and that only after it has missed more than is kept.
#[test]
fn a_client_that_comes_back_has_everything_once_or_is_told_that_it_cannot() {
    let mut random = fastrand::Rng::with_seed(testkit::seed());
    let (mut completed, mut refused) = (0, 0);
    for _ in 0..2000 {
        let streams = Streams::new(LIMITS);
        let mut shown = Some(streams.begin(1));
        let number = shown.as_ref().unwrap().number();
        let mut last_id = shown.as_ref().unwrap().prime();
        let (mut sent, mut taken) = (Vec::new(), Vec::new());
        let length = random.usize(0..40);
        let is_complete = loop {
            match random.u8(0..6) {
                0..=2 if sent.len() < length => {
                    let message = format!("message {}", sent.len());
                    if streams.send_if_room(number, message.clone()) {
                        sent.push(message);
                    }
                }
                0..=2 if sent.len() == length => {
                    sent.push("answer".to_owned());
                    streams.answer(number, "answer".to_owned());
                }
                3 => shown = None,
                4 if shown.is_none() => match streams.resume(last_id, true) {
                    Ok(attachment) => shown = Some(attachment),
                    Err(why) => {
                        assert_eq!(why, Refused::UnknownId);
                        assert!(sent.len() - taken.len() > LIMITS.events, "{} of {}", taken.len(), sent.len());
                        break false;
                    }
                },
                _ => {
                    let Some(attachment) = &shown else { continue };
                    let goes_on = take(attachment, random.usize(1..6), &mut taken);
                    last_id = taken.last().map_or(last_id, |(id, _)| *id);
                    if !goes_on {
                        break true;
                    }
                }
            }
        };
        let messages: Vec<_> = taken.iter().map(|(_, message)| message.clone()).collect();
        assert_eq!(messages, sent[..taken.len()]);
        assert!(taken.windows(2).all(|pair| pair[0].0.place < pair[1].0.place), "{taken:?}");
        if is_complete {
            assert_eq!(messages.last().map(String::as_str), Some("answer"));
            assert_eq!(messages.len(), length + 1);
            completed += 1;
        } else {
            refused += 1;
        }
    }
    assert!(completed > 100 && refused > 10, "{completed} {refused}");
}

#[test]
fn a_session_that_is_over_holds_nothing_and_shows_nothing() {
    let streams = Streams::new(LIMITS);
    let shown = streams.begin(1);
    streams.send_if_room(MAIN, "kept".to_owned());
    streams.close();
    assert!(!take(&shown, 1, &mut Vec::new()));
    assert!(!take(&streams.listen(true).unwrap_or_else(|_| panic!("refused")), 1, &mut Vec::new()));
    assert!(!take(&streams.begin(1), 1, &mut Vec::new()));
    drop(shown);
    let inner = streams.inner();
    assert!(inner.streams.is_empty() && inner.over.is_empty() && inner.bytes == 0);
}

#[test]
fn what_is_held_stays_within_its_limits() {
    let limits = Limits { bytes: 100, ..LIMITS };
    let streams = Streams::new(limits);
    for round in 0..20 {
        let shown = streams.begin(1);
        streams.answer(shown.number(), "x".repeat(60));
        if round % 2 == 0 {
            take(&shown, 2, &mut Vec::new());
        }
        drop(shown);
        streams.send_if_room(MAIN, "y".repeat(30));
        let inner = streams.inner();
        let held: usize = inner.streams.values().flat_map(|log| &log.events).map(|event| event.message.len()).sum();
        assert_eq!(held, inner.bytes);
        // One answer and one message of the session's own stream are kept whatever their size.
        assert!(inner.over.len() <= limits.streams && held <= limits.bytes.max(60 + 30), "{held}");
    }
}
