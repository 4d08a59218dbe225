//! Sends requests over connections that are kept: one for each request that is under way at the same time, opened when it
//! is needed. It never tries again; whoever sends decides what an error means.

use std::{
    io,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::{
    connection::{Connection, Target, invalid},
    events::Answer,
};

/// Why there is no answer.
#[derive(Debug)]
pub enum SendError {
    /// Nobody took the connection: the request was surely not seen.
    NoConnection(io::Error),
    /// The connection broke: the request may have been executed.
    Broken(io::Error),
}

impl From<SendError> for io::Error {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NoConnection(error) | SendError::Broken(error) => error,
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Poster {
    target: Target,
    source: Option<IpAddr>,
    idle: Mutex<Vec<Connection>>,
}

impl Poster {
    /// To this server, from this address of this machine.
    pub fn new(target: Target, source: Option<IpAddr>) -> Self {
        Self { target, source, idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and reads its response: status and body. The connection is kept unless something was wrong with it.
    ///
    /// # Errors
    /// There was no response; any status is one.
    pub async fn send(&self, request: &[u8]) -> Result<(u16, Bytes), SendError> {
        let mut connection = self.connection().await?;
        // A server that refuses early may close while the body is still on its way; its answer counts.
        let written = connection.write(request).await;
        let answer = connection.read_response().await;
        let is_whole = written.is_ok();
        let (head, body) = answer.map_err(|error| SendError::Broken(written.err().unwrap_or(error)))?;
        self.keep(Some(connection).filter(|_| is_whole && !head.closes));
        Ok((head.status, body))
    }

    /// As [`Self::send`], for a request that may be answered with an event stream, which takes its connection with it.
    ///
    /// # Errors
    /// As there.
    pub async fn ask(&self, request: &[u8]) -> Result<Answer, SendError> {
        let mut connection = self.connection().await?;
        let written = connection.write(request).await;
        let is_whole = written.is_ok();
        let answer = Answer::read(connection).await;
        let (answer, connection) = answer.map_err(|error| SendError::Broken(written.err().unwrap_or(error)))?;
        self.keep(connection.filter(|_| is_whole));
        Ok(answer)
    }

    /// One that is kept, or a new one.
    async fn connection(&self) -> Result<Connection, SendError> {
        let kept = self.idle().pop();
        match kept.filter(Connection::is_quiet) {
            Some(connection) => Ok(connection),
            None => Connection::open(self.target.address, self.source).await.map_err(SendError::NoConnection),
        }
    }

    fn keep(&self, connection: Option<Connection>) {
        self.idle().extend(connection);
    }

    /// As [`Self::send`].
    ///
    /// # Errors
    /// Any status but 2xx is one, too.
    pub async fn deliver(&self, request: &[u8]) -> io::Result<Bytes> {
        match self.send(request).await? {
            (200..=299, body) => Ok(body),
            (status, _) => Err(invalid(format!("a POST is answered with status {status}"))),
        }
    }

    /// Closes what is kept.
    pub fn hang_up(&self) {
        self.idle().clear();
    }
}
