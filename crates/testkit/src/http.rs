//! HTTP/1.1 for tests: one request a connection, any header, any body, exactly as a test wants it.

use std::{io, net::SocketAddr};

use serde_json::Value;

pub use crate::connection::header;
use crate::{
    connection::{BodyLength, Connection, Headers},
    secrets, soon,
};

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct Request {
    method: &'static str,
    path: String,
    headers: Headers,
    body: Vec<u8>,
}

impl Request {
    /// Without a body.
    pub fn get(path: impl Into<String>) -> Self {
        let path = path.into();
        secrets::note_path(&path);
        Self { method: "GET", path, headers: Vec::new(), body: Vec::new() }
    }

    /// Without a body.
    pub fn delete(path: impl Into<String>) -> Self {
        Self { method: "DELETE", ..Self::get(path) }
    }

    /// With any method, without a body.
    pub fn with_method(method: &'static str, path: impl Into<String>) -> Self {
        Self { method, ..Self::get(path) }
    }

    /// With a JSON body.
    pub fn post(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { method: "POST", body: body.into(), ..Self::get(path) }.header("content-type", "application/json")
    }

    /// Sets a header; an earlier one of the same name is replaced. `host` replaces the default one.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.also(name, value)
    }

    /// Adds a header beside those of the same name.
    pub fn also(mut self, name: &str, value: &str) -> Self {
        let name = name.to_ascii_lowercase();
        secrets::note_header(&name, value);
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Leaves a header out.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self
    }

    /// Its bytes; without `keep_open` it says that the connection is to be closed.
    pub fn to_bytes(&self, addr: SocketAddr, keep_open: bool) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name == "host") {
            head.push_str(&format!("host: {addr}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.method == "POST" && !self.headers.iter().any(|(name, _)| name == "content-length") {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        if !keep_open {
            head.push_str("connection: close\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    /// No connection, or it broke before the answer was complete.
    pub async fn try_send(&self, addr: SocketAddr) -> io::Result<Response> {
        let exchange = async {
            let mut connection = Connection::open(addr, None).await?;
            // A server that refuses early may close while the body is still on its way; its answer counts.
            let written = connection.write(&self.to_bytes(addr, false)).await;
            let answer = self.read_response(&mut connection).await;
            if answer.is_err() {
                written?;
            }
            answer
        };
        let what = format!("answer to {} {}", self.method, self.path.split('?').next().unwrap_or_default());
        soon(&what, exchange).await
    }

    async fn read_response(&self, connection: &mut Connection) -> io::Result<Response> {
        let (head, headers) = connection.read_head_and_headers().await?;
        let length = if self.method == "HEAD" { BodyLength::UntilClose } else { head.body };
        let body = connection.read_body(length).await?.to_vec();
        Ok(Response { status: head.status, headers, body })
    }

    /// As [`Self::try_send`], for a server that must answer.
    pub async fn send(&self, addr: SocketAddr) -> Response {
        let answer = self.try_send(addr).await;
        answer.unwrap_or_else(|error| panic!("{} {} at {addr}: {error}", self.method, self.path))
    }
}

/// `GET` with nothing special.
pub async fn get(addr: SocketAddr, path: &str) -> Response {
    Request::get(path).send(addr).await
}

/// `POST` of a JSON body with nothing special.
pub async fn post(addr: SocketAddr, path: &str, body: impl Into<Vec<u8>>) -> Response {
    Request::post(path, body).send(addr).await
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Headers,
    /// Its body.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Its body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}), status {}: {}", self.status, self.text()))
    }

    /// Code of the JSON-RPC error in its body.
    pub fn error_code(&self) -> Option<i64> {
        serde_json::from_slice::<Value>(&self.body).ok()?["error"]["code"].as_i64()
    }
}
