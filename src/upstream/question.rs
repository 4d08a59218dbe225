//! One request of 2026-07-28 to an endpoint: its headers are made anew, its body goes as it is, and what comes back is read by
//! whoever asks. Dropping it closes its connection, by which the server knows that nobody waits (Streamable HTTP, Cancellation).

use std::sync::Arc;

use actix_http::header::{HeaderName, HeaderValue};
use bytes::Bytes;

use super::{
    Endpoint, PostError, Reply,
    breaker::BreakerState,
    credential::Who,
    lines::Lines,
    transport::{
        http::{answer::outcome, line::Answered},
        modern::head::{self, METHOD, NAME},
    },
};
use crate::protocol::{modern::header::encoded, trace_context::TraceContext};

/// See the module's text.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Its method.
    pub method: &'a str,
    /// Whom it is about, for `Mcp-Name`.
    pub name: Option<&'a str>,
    /// Headers `Mcp-Param-…`, as they stand there: name and value.
    pub params: &'a [(String, String)],
    /// The request.
    pub body: &'a Bytes,
    /// Where it stands in a trace.
    pub place: Option<&'a TraceContext>,
}

/// What comes back.
#[derive(Debug)]
pub struct Replied {
    /// The HTTP status, which is part of an error.
    pub status: u16,
    /// The messages.
    pub reply: Reply,
}

impl Lines {
    /// Asks the endpoint, in this name. Without a time limit but that for a new connection.
    ///
    /// # Errors
    /// [`PostError`], which says whether the server may have seen it.
    pub async fn ask(&self, endpoint: &Arc<Endpoint>, who: Who, question: Question<'_>) -> Result<Replied, PostError> {
        let line = self.line(endpoint).in_name_of(who);
        let line = question.place.map_or_else(|| line.clone(), |place| line.at(place.clone()));
        let head = head::of_post(&line);
        let told = |_| PostError::NotSent("a header cannot be written".to_owned());
        head.insert(METHOD, HeaderValue::from_str(question.method).map_err(told)?);
        if let Some(name) = question.name {
            head.insert(NAME, HeaderValue::from_str(&encoded(name)).map_err(told)?);
        }
        for (name, value) in question.params {
            let name = HeaderName::try_from(name.as_str()).map_err(|error| PostError::NotSent(error.to_string()))?;
            head.insert(name, HeaderValue::from_str(value).map_err(told)?);
        }
        let url = line.uri().map_err(|error| PostError::NotSent(error.to_string()))?;
        let Answered { head, reply, .. } = line.exchange(&head, url, question.body).await?;
        let status = head.status.as_u16();
        match reply {
            // What they say is about another credential than the client's.
            Some(_) if matches!(status, 401 | 403) => Err(PostError::Refused(status)),
            Some(reply) => {
                if line.endpoint.state() != BreakerState::Closed {
                    line.endpoint.succeeded();
                }
                Ok(Replied { status, reply })
            }
            None if matches!(status, 400 | 404 | 405) => {
                // A server of this era says why: another one may stand there by now.
                line.endpoint.transport.doubt_era();
                Err(PostError::Refused(status))
            }
            None => Err(outcome(&head).err().unwrap_or_else(|| PostError::Unknown("it holds no message".to_owned()))),
        }
    }
}
