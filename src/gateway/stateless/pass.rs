//! For a server of the same era: the request goes on as it is, under headers that are made anew, and what it answers comes back
//! as it is, but for what its client must not see, or must show again here.

use std::{pin::Pin, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    asked::{Asked, NotServed, Outcome},
    discover, listen,
    passing::{Passing, shown},
    told::{Reading, Told},
};
use crate::{
    gateway::{
        call::{Next, NotAnswered, Tries},
        shared::Gateway,
    },
    protocol::modern,
    upstream::{Endpoint, actor::CallError},
};

/// See the module's text.
pub(super) async fn answer(gateway: &Rc<Gateway>, asked: &Asked<'_>) -> Result<Outcome, NotServed> {
    if asked.method == modern::DISCOVER {
        return Ok(discover::answer(gateway, asked).await);
    }
    let key = Passing::key(gateway, asked);
    if let Some(key) = &key {
        let kept = gateway.shared.stateless.cache.get(key, asked.id.as_json(), std::time::Instant::now());
        let outcome = if kept.is_some() { "hit" } else { "miss" };
        gateway.env.metrics.stateless_cache.with_label_values(&[outcome]).inc();
        if let Some(kept) = kept {
            return Ok(Outcome::Whole { status: 200, body: shown(asked.method, asked.grant, kept)? });
        }
    }
    let passing = Passing::new(gateway, asked, key).await?;
    if asked.method == modern::LISTEN {
        return listen::answer(passing).await;
    }
    let time = Time::of(gateway);
    let mut begun: Beginning = Box::pin(begin(passing, time));
    // While nothing is said, only a proxy needs a sign of life; an error that comes meanwhile keeps its status. Who takes no
    // stream waits for the whole of it.
    let patience = if asked.takes_events { gateway.env.settings.stream.heartbeat } else { Duration::MAX };
    let Ok(begun) = timeout(patience, &mut begun).await else {
        return Ok(streamed(At::Begins(begun, time)));
    };
    match begun? {
        Begun::Whole { status, body } => Ok(Outcome::Whole { status, body }),
        Begun::Goes(going) if asked.takes_events => Ok(streamed(At::Goes(going, time))),
        Begun::Goes(mut going) => loop {
            if let (body, true) = going.next(time).await? {
                return Ok(Outcome::Whole { status: 200, body });
            }
        },
    }
}

/// How long a request may take, and until when that is.
#[derive(Debug, Clone, Copy)]
struct Time {
    limit: Duration,
    until: Instant,
}

impl Time {
    fn of(gateway: &Gateway) -> Self {
        let limit = gateway.env.settings.upstream.request_timeout;
        Self { limit, until: Instant::now() + limit }
    }

    async fn bound<T>(self, work: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        timeout_at(self.until, work).await.unwrap_or(Err(CallError::TimedOut(self.limit)))
    }
}

/// What there is first.
enum Begun {
    /// The response.
    Whole { status: u16, body: Bytes },
    /// Something else, and more to come.
    Goes(Box<Going>),
}

type Beginning = Pin<Box<dyn Future<Output = Result<Begun, NotServed>>>>;

/// A request whose server has begun to speak of it.
struct Going {
    passing: Passing,
    endpoint: Arc<Endpoint>,
    reading: Reading,
    /// Read, and not told yet.
    first: Option<Bytes>,
}

impl Going {
    /// The next message, and whether it is the response.
    async fn next(&mut self, time: Time) -> Result<(Bytes, bool), NotServed> {
        if let Some(first) = self.first.take() {
            return Ok((first, false));
        }
        match time.bound(self.reading.next_of(&self.endpoint)).await {
            Ok(Told::Notification(body)) => {
                self.passing.heard(&body);
                Ok((body, false))
            }
            Ok(Told::Response { body, success }) => {
                self.passing.counted.answered(success);
                Ok((self.passing.finished(body, &self.endpoint).await?, true))
            }
            Ok(Told::Nameless(error)) => Ok((self.passing.failed(&error), true)),
            Err(error) => Err(self.passing.lost(NotAnswered::Upstream(error))),
        }
    }
}

/// Asks until a server answers or has begun to. REQ-3
async fn begin(passing: Passing, time: Time) -> Result<Begun, NotServed> {
    let mut tries = Tries::default();
    loop {
        let (endpoint, mut reading, status) = match passing.ask(time.until, time.limit).await {
            Ok(asked) => asked,
            Err(NotAnswered::Upstream(error)) => {
                again(&passing, &mut tries, error, time).await?;
                continue;
            }
            Err(error) => return Err(passing.lost(error)),
        };
        match time.bound(reading.next_of(&endpoint)).await {
            Ok(Told::Response { body, success }) => {
                passing.counted.answered(success);
                let body = passing.finished(body, &endpoint).await?;
                return Ok(Begun::Whole { status, body });
            }
            Ok(Told::Nameless(error)) => {
                passing.is_of_another_era(&endpoint, status).await?;
                return Ok(Begun::Whole { status, body: passing.failed(&error) });
            }
            Ok(Told::Notification(first)) => {
                passing.heard(&first);
                let going = Going { passing, endpoint, reading, first: Some(first) };
                return Ok(Begun::Goes(Box::new(going)));
            }
            Err(error) => again(&passing, &mut tries, error, time).await?,
        }
    }
}

/// It may be asked once more, perhaps after a pause.
async fn again(passing: &Passing, tries: &mut Tries, error: CallError, time: Time) -> Result<(), NotServed> {
    let left = time.until.saturating_duration_since(Instant::now());
    match tries.after(error, passing.settings(), left, || passing.is_repeatable()) {
        Next::AtOnce => Ok(()),
        Next::After(pause) => {
            tokio::time::sleep(pause).await;
            Ok(())
        }
        Next::Over(error) => Err(passing.lost(NotAnswered::Upstream(error))),
    }
}

/// Where a stream stands.
enum At {
    Begins(Beginning, Time),
    Goes(Box<Going>, Time),
    Over,
}

fn streamed(at: At) -> Outcome {
    let messages = stream::unfold(at, |at| async move {
        let (mut going, time) = match at {
            At::Over => return None,
            At::Goes(going, time) => (going, time),
            At::Begins(begun, time) => match begun.await {
                Ok(Begun::Whole { body, .. }) => return Some((Ok(body), At::Over)),
                Ok(Begun::Goes(going)) => (going, time),
                Err(error) => return Some((Err(error), At::Over)),
            },
        };
        match going.next(time).await {
            Ok((body, false)) => Some((Ok(body), At::Goes(going, time))),
            Ok((response, true)) => Some((Ok(response), At::Over)),
            Err(error) => Some((Err(error), At::Over)),
        }
    });
    Outcome::Stream(messages.boxed_local())
}
