//! The bytes of event streams (WHATWG HTML, section 9.2), as the stock MCP clients need them: made here, once an event, and
//! nowhere else in the router. `session` and `gateway` hand over what a client is to be told ([`Told`]).
//!
//! It lives with the surfaces, and not with the protocol or the session, since only a surface knows that there is a
//! connection, what its transport calls things and where a client POSTs. That costs nothing: an owner hands the body of
//! an event on as it stands in the log, and the one copy, into the frame, is made on the thread of the connection, for all
//! that is written together in one piece. Ours because the bytes are measured needs (one block for the opening, a
//! heartbeat that is one comment line without a blank line). Reading is [`sse_reader`](crate::protocol::sse_reader)'s.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{Version, header},
};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};

use super::{accept::EVENTS, principal};
use crate::{
    protocol::{
        event_id::{EventId, PAUSED},
        session_id::SessionId,
    },
    session::attachment::{Aborted, Block, Pump, Told},
};

/// A comment line. Without a blank line behind it: one would dispatch an (empty) event in old Python clients once an
/// `id:` was seen.
pub const HEARTBEAT: &[u8] = b": hb\n";

/// A stream of a session, and where its client speaks to it.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a, E> {
    /// The session.
    pub session: SessionId,
    /// The stream's name within it.
    pub stream: &'a str,
    /// The client's endpoint, with the number of the attachment if the client is to prove who it is.
    pub endpoint: E,
}

/// The body of a response that shows this stream. An `Err` item closes the connection without a last chunk. `endpoint`: of
/// its session, see [`Named`].
pub fn body<E>(pump: Pump, endpoint: E) -> impl Stream<Item = Result<Bytes, Aborted>>
where
    E: Fn(&SessionId, Option<u64>) -> String,
{
    // Boxed: it is moved in and out for each event.
    stream::unfold(Some(Box::new((pump, endpoint))), |body| async move {
        let mut body = body?;
        let (pump, endpoint) = &mut *body;
        match pump.next().await {
            Ok(Some(told)) => {
                let shown = pump.attachment();
                let named = Named { session: shown.session, stream: &shown.stream, endpoint: &*endpoint };
                let bytes = block(&named, &told);
                Some((Ok(bytes), Some(body)))
            }
            Ok(None) => None,
            Err(aborted) => Some((Err(aborted), None)),
        }
    })
}

/// The response with this event stream. `with`: what else its head has.
pub(super) fn response(
    request: &HttpRequest,
    body: impl Stream<Item = Result<Bytes, Aborted>> + 'static,
    with: impl FnOnce(&mut HttpResponseBuilder),
) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response
        .content_type(EVENTS)
        .insert_header((header::CACHE_CONTROL, "no-cache, no-transform"))
        // For nginx in front whose configuration is not ours.
        .insert_header(("X-Accel-Buffering", "no"));
    with(&mut response);
    // HTTP/1.0 knows no chunks: the body ends with the connection (RFC 9112 section 6.1).
    let is_old = request.version() < Version::HTTP_11;
    if is_old {
        response.force_close();
    }
    // A credential that does not count any more shows nothing any more: its stream breaks, and a client that has another
    // one comes back with it. SEC-1
    let mut response = match principal::end(request) {
        None => response.streaming(body),
        Some(end) => response.streaming(until(end, body)),
    };
    response.head_mut().no_chunking(is_old);
    response
}

/// The stream, which breaks when `end` has come.
fn until(
    end: impl Future<Output = ()>,
    body: impl Stream<Item = Result<Bytes, Aborted>>,
) -> impl Stream<Item = Result<Bytes, Aborted>> {
    stream::unfold(Some((Box::pin(end), Box::pin(body))), |going_on| async move {
        let (mut end, mut body) = going_on?;
        let next = tokio::select! {
            () = &mut end => None,
            next = body.next() => Some(next),
        };
        match next {
            Some(next) => next.map(|next| (next, Some((end, body)))),
            None => Some((Err(Aborted("what its client has shown does not count any more")), None)),
        }
    })
}

/// All of a block in one piece.
pub fn block<E>(named: &Named<'_, E>, block: &Block) -> Bytes
where
    E: Fn(&SessionId, Option<u64>) -> String,
{
    let mut told = block.iter();
    if let (Some(Told::Heartbeat), None) = (told.next(), told.next()) {
        return Bytes::from_static(HEARTBEAT);
    }
    let mut frame = BytesMut::with_capacity(block.iter().map(|told| room_for(named.stream, told)).sum());
    for told in block.iter() {
        put(&mut frame, named, told);
    }
    frame.freeze()
}

/// The beginning of a stream that ends right after it: its client is to come back after `retry`, and goes on where it stood.
pub fn come_again(cursor: Option<&str>, retry: Duration) -> Bytes {
    let id = cursor.map(|cursor| format!("id: {cursor}\n")).unwrap_or_default();
    Bytes::from(format!("{id}retry: {}\ndata: \n\n", retry.as_millis()))
}

/// One `message` event without an id, for a client whose session is not known yet: it moves no cursor.
pub fn unnumbered(body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(AROUND + body.len());
    put_message(&mut frame, body);
    frame.freeze()
}

/// Most bytes of an event besides its body and the name of its stream.
const AROUND: usize = "id: \nevent: message\ndata: \n\n".len() + EventId::MAX_LEN_WITHOUT_STREAM;

/// Enough for nearly all of it: line breaks within a body, which no compact JSON has, take more.
fn room_for(stream: &str, told: &Told) -> usize {
    match told {
        Told::Opening { .. } => 192,
        Told::Prime { .. } | Told::Pause { .. } => AROUND + stream.len() + "retry: \n".len() + 20,
        Told::Event { body, .. } | Told::Unnumbered(body) => AROUND + stream.len() + body.len(),
        Told::Heartbeat => HEARTBEAT.len(),
    }
}

fn put<E>(frame: &mut BytesMut, named: &Named<'_, E>, told: &Told)
where
    E: Fn(&SessionId, Option<u64>) -> String,
{
    let Named { session, stream, endpoint } = named;
    match told {
        // Cursor, reconnection time, endpoint. EVT-7
        Told::Opening { epoch, seq, retry, proof } => {
            put_id(frame, session, stream, *epoch, *seq);
            let rest =
                format!("retry: {}\nevent: endpoint\ndata: {}\n\n", retry.as_millis(), endpoint(session, *proof));
            frame.extend_from_slice(rest.as_bytes());
        }
        Told::Prime { epoch, seq, retry } => {
            put_id(frame, session, stream, *epoch, *seq);
            frame.extend_from_slice(format!("retry: {}\ndata: \n\n", retry.as_millis()).as_bytes());
        }
        Told::Pause { epoch, seq, retry } => {
            frame.extend_from_slice(b"id: ");
            EventId::write(frame, session, stream, *epoch, *seq);
            frame.extend_from_slice(format!("{PAUSED}\nretry: {}\ndata: \n\n", retry.as_millis()).as_bytes());
        }
        Told::Event { epoch, seq, body } => {
            put_id(frame, session, stream, *epoch, *seq);
            put_message(frame, body);
        }
        Told::Unnumbered(body) => put_message(frame, body),
        Told::Heartbeat => frame.extend_from_slice(HEARTBEAT),
    }
}

fn put_id(frame: &mut BytesMut, session: &SessionId, stream: &str, epoch: u32, seq: u64) {
    frame.extend_from_slice(b"id: ");
    EventId::write(frame, session, stream, epoch, seq);
    frame.extend_from_slice(b"\n");
}

/// The rest of a `message` event. JSON has line breaks only between tokens, so splitting there and joining with LF keeps
/// the value.
fn put_message(frame: &mut BytesMut, mut body: &[u8]) {
    frame.extend_from_slice(b"event: message\n");
    while let Some(at) = memchr::memchr2(b'\n', b'\r', body) {
        frame.extend_from_slice(b"data: ");
        frame.extend_from_slice(&body[..at]);
        frame.extend_from_slice(b"\n");
        body = &body[at + 1..];
    }
    frame.extend_from_slice(b"data: ");
    frame.extend_from_slice(body);
    frame.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::protocol::sse_reader::{Read, Reader};

    fn named(session: SessionId) -> Named<'static, impl Fn(&SessionId, Option<u64>) -> String> {
        let endpoint = |_: &SessionId, proof: Option<u64>| match proof {
            Some(count) => format!("/m?attach={count}"),
            None => "/m".to_owned(),
        };
        Named { session, stream: "g", endpoint }
    }

    fn event(seq: u64, body: &'static str) -> Told {
        Told::Event { epoch: 0xff, seq, body: Bytes::from_static(body.as_bytes()) }
    }

    fn block_of(told: impl IntoIterator<Item = Told>) -> Block {
        let mut block = Block::default();
        told.into_iter().for_each(|told| block.push(told));
        block
    }

    #[test]
    fn each_thing_has_its_bytes_and_no_others() {
        let session = SessionId::random();
        let id = session.reveal();
        let retry = Duration::from_millis(420);
        for (told, expected) in [
            (
                Told::Opening { epoch: 0xff, seq: 3, retry, proof: None },
                format!("id: {id}.g.000000ff.3\nretry: 420\nevent: endpoint\ndata: /m\n\n"),
            ),
            (
                Told::Opening { epoch: 0xff, seq: 3, retry, proof: Some(2) },
                format!("id: {id}.g.000000ff.3\nretry: 420\nevent: endpoint\ndata: /m?attach=2\n\n"),
            ),
            (Told::Prime { epoch: 0xff, seq: 3, retry }, format!("id: {id}.g.000000ff.3\nretry: 420\ndata: \n\n")),
            (Told::Pause { epoch: 0xff, seq: 3, retry }, format!("id: {id}.g.000000ff.3.p\nretry: 420\ndata: \n\n")),
            (event(7, "{}"), format!("id: {id}.g.000000ff.7\nevent: message\ndata: {{}}\n\n")),
            (event(8, "{\r}"), format!("id: {id}.g.000000ff.8\nevent: message\ndata: {{\ndata: }}\n\n")),
            (Told::Unnumbered(Bytes::from_static(b"{}")), "event: message\ndata: {}\n\n".to_owned()),
            (Told::Heartbeat, ": hb\n".to_owned()),
        ] {
            assert_eq!(block(&named(session), &Block::one(told.clone())), expected.as_bytes(), "{told:?}");
        }
        assert_eq!(unnumbered(b"{}"), block(&named(session), &Block::one(Told::Unnumbered(Bytes::from_static(b"{}")))));
    }

    /// What ends at once costs its client nothing that it had.
    #[test]
    fn who_is_to_come_again_keeps_its_cursor() {
        let retry = Duration::from_millis(420);
        assert_eq!(come_again(Some("s.g.000000ff.3"), retry), "id: s.g.000000ff.3\nretry: 420\ndata: \n\n");
        assert_eq!(come_again(None, retry), "retry: 420\ndata: \n\n");
    }

    #[test]
    fn what_is_written_together_reads_as_if_it_was_not() {
        let session = SessionId::random();
        let all = [
            Told::Opening { epoch: 1, seq: 0, retry: Duration::from_millis(500), proof: None },
            Told::Heartbeat,
            event(1, "{\"a\":\n1}"),
            event(2, "{\"b\":\"\u{2028}é\"}"),
        ];
        let alone = all.iter().map(|told| block(&named(session), &Block::one(told.clone())));
        let alone: Vec<u8> = alone.flat_map(|bytes| bytes.to_vec()).collect();
        let together = block(&named(session), &block_of(all.clone()));
        assert_eq!(together, alone);
        let mut read = Vec::new();
        let fed = Reader::new(1 << 20, 1 << 20).feed(&together, |event| match event {
            Read::Event { name, data, .. } => read.push((name.to_owned(), data)),
            Read::Id(_) | Read::Retry(_) => {}
            Read::TooLarge(_) => panic!("nothing is"),
        });
        fed.unwrap();
        let expected = [("endpoint", "/m"), ("message", "{\"a\":\n1}"), ("message", "{\"b\":\"\u{2028}é\"}")];
        assert!(read.iter().map(|(name, data)| (name.as_str(), &**data)).eq(expected.map(|(n, d)| (n, d.as_bytes()))));
    }

    #[test]
    fn an_event_fits_into_what_is_reserved_for_it() {
        let longest = Told::Event { epoch: u32::MAX, seq: u64::MAX, body: Bytes::from_static(b"{}") };
        let bytes = block(&named(SessionId::random()), &Block::one(longest.clone()));
        assert!(bytes.len() <= room_for("g", &longest));
    }
}
