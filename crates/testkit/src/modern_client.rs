//! A client of MCP 2026-07-28: each request for itself, headers and `_meta` as that version wants them. It remembers nothing but
//! what it can do.

use std::{io, net::SocketAddr};

use serde_json::{Value, json};

use crate::{
    event_stream::{EventStream, Item, Opened, StreamEnd},
    http::Request,
    secrets, soon,
};

/// See the module's text. Clones are the same client.
#[derive(Debug, Clone)]
pub struct ModernClient {
    service: String,
    capabilities: Value,
    meta: Value,
    headers: Vec<(String, String)>,
}

/// What came of a request.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// What came before the response.
    pub before: Vec<Value>,
    /// The response.
    pub response: Value,
}

impl Answered {
    /// The result of a response that must be one.
    pub fn result(&self) -> &Value {
        assert!(self.response.get("result").is_some(), "no result: {} {}", self.status, self.response);
        &self.response["result"]
    }

    /// The code of a response that must be an error.
    pub fn error_code(&self) -> i64 {
        self.response["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {}", self.response))
    }
}

impl ModernClient {
    /// Of this service.
    pub fn of(service: &str) -> Self {
        Self { service: service.to_owned(), capabilities: json!({}), meta: json!({}), headers: Vec::new() }
    }

    /// It declares these capabilities.
    pub fn declaring(mut self, capabilities: Value) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Its requests have this in their `_meta`, too.
    pub fn meta(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.meta[name] = value.into();
        self
    }

    /// Its requests have this header, too.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A request as it goes out.
    pub fn request(&self, id: &Value, method: &str, params: Value) -> Request {
        secrets::note_call(method, &params);
        let mut params = params;
        let mut meta = self.meta.clone();
        meta["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
        meta["io.modelcontextprotocol/clientCapabilities"] = self.capabilities.clone();
        meta["io.modelcontextprotocol/clientInfo"] = json!({ "name": "testkit", "version": "0" });
        params["_meta"] = meta;
        let about = match method {
            "tools/call" | "prompts/get" => params["name"].as_str(),
            "resources/read" => params["uri"].as_str(),
            _ if method.starts_with("tasks/") => params["taskId"].as_str(),
            _ => None,
        };
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let mut request = Request::post(format!("/mcp/{}", self.service), body.to_string())
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", method);
        if let Some(about) = about {
            request = request.header("mcp-name", about);
        }
        self.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    /// Sends it.
    ///
    /// # Errors
    /// No connection, or it broke before the head of an answer.
    pub async fn open(&self, addr: SocketAddr, id: &Value, method: &str, params: Value) -> io::Result<Opened> {
        EventStream::exchange(addr, &self.request(id, method, params)).await
    }

    /// Sends it and reads all that comes.
    ///
    /// # Errors
    /// It broke before the response, as it does when the instance is killed.
    pub async fn try_call(&self, addr: SocketAddr, method: &str, params: Value) -> io::Result<Answered> {
        let id = json!(format!("request-{:08x}", fastrand::u32(..)));
        let mut stream = match self.open(addr, &id, method, params).await? {
            Opened::Refused(response) => {
                return Ok(Answered { status: response.status, before: Vec::new(), response: response.json() });
            }
            Opened::Stream(stream) => stream,
        };
        let mut before = Vec::new();
        loop {
            match stream.read().await {
                Item::Event(event) => {
                    let message: Value = serde_json::from_str(&event.data).expect("messages are JSON");
                    if message.get("method").is_none() {
                        assert_eq!(message["id"], id, "{message}");
                        return Ok(Answered { status: 200, before, response: message });
                    }
                    before.push(message);
                }
                Item::Comment(_) => {}
                Item::End(StreamEnd::Clean) => return Err(io::Error::other("the stream ended without a response")),
                Item::End(StreamEnd::Abrupt) => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
    }

    /// As [`Self::try_call`], at an instance that must answer.
    pub async fn call(&self, addr: SocketAddr, method: &str, params: Value) -> Answered {
        let answered = soon(method, self.try_call(addr, method, params)).await;
        answered.unwrap_or_else(|error| panic!("{method} at {addr}: {error}"))
    }

    /// Calls a tool, at an instance that must answer.
    pub async fn tool(&self, addr: SocketAddr, name: &str, arguments: Value) -> Answered {
        self.call(addr, "tools/call", json!({ "name": name, "arguments": arguments })).await
    }
}
