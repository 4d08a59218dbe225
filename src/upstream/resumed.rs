//! One attempt to go on with the answer to a POST whose stream has ended without the response. The same for a client's session
//! and for the router's own; what follows from it is theirs to say.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    notice::Marks,
    resumption::{Again, Resumption},
    transport::{http::reply::Reply, streamable::NoStream},
    uplink::Uplink,
};

/// What came of it.
#[derive(Debug)]
pub enum Resumed {
    /// What follows.
    On(Reply),
    /// Nothing this time.
    Again,
    /// Nothing this time, because nobody takes the connection.
    NotConnected(NoStream),
    /// The server does not know the session any more.
    SessionGone(NoStream),
    /// Nothing, now and later: it is refused, or the time is over.
    Never,
}

/// Asks for what follows in a stream that has said this of itself, which answers this request: after a pause, unless `at_once`.
///
/// # Errors
/// Why it is not asked (any more).
pub fn resume(
    uplink: Uplink,
    request: Option<Bytes>,
    marks: Marks,
    attempts: &mut Resumption,
    at_once: bool,
    until: Instant,
) -> Result<impl Future<Output = Resumed> + use<>, &'static str> {
    if marks.cursor.is_none() {
        return Err("the answer ended without a response");
    }
    let pause = match attempts.next(marks.retry) {
        Again::After(_) if at_once => Duration::ZERO,
        Again::After(pause) => pause,
        Again::Never => return Err("its stream cannot be resumed"),
    };
    Ok(async move {
        sleep(pause).await;
        match timeout_at(until, uplink.resume(request, marks)).await {
            Ok(Ok(reply)) => Resumed::On(reply),
            Ok(Err(error)) => Resumed::of(error),
            Err(_) => Resumed::Never,
        }
    })
}

impl Resumed {
    fn of(error: NoStream) -> Self {
        match error {
            NoStream::NotConnected(_) => Self::NotConnected(error),
            NoStream::SessionGone => Self::SessionGone(error),
            NoStream::Broken(_) | NoStream::Refused(408 | 425 | 429 | 500..) => Self::Again,
            NoStream::None | NoStream::Refused(_) => Self::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// REQ-3: what is asked for again, and what is given up.
    #[test]
    fn a_server_that_cannot_answer_now_is_asked_again() {
        for status in [408, 425, 429, 500, 503] {
            assert!(matches!(Resumed::of(NoStream::Refused(status)), Resumed::Again), "{status}");
        }
        for status in [400, 401, 405, 410] {
            assert!(matches!(Resumed::of(NoStream::Refused(status)), Resumed::Never), "{status}");
        }
        assert!(matches!(Resumed::of(NoStream::SessionGone), Resumed::SessionGone(_)));
        assert!(matches!(Resumed::of(NoStream::None), Resumed::Never));
    }
}
