//! A small MCP client over HTTP+SSE that shows what really is on the wire: comments, the last chunk or its absence, and
//! the moment a connection ends.

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};
use testkit::{
    connection::{Connection, Target},
    event_stream::EventStream,
    http::Request,
    poster,
};
pub use testkit::{eventually, soon};

/// The `POST` half of a client; it may outlive the stream.
#[derive(Clone)]
pub struct Poster {
    pub url: String,
    connections: Arc<poster::Poster>,
}

impl Poster {
    /// Posts to `url`.
    pub fn new(url: String) -> Self {
        let connections = Arc::new(poster::Poster::new(target(&url), None));
        Self { url, connections }
    }

    /// Posts a body; the status of the response.
    pub async fn post(&self, body: impl AsRef<[u8]>) -> u16 {
        let target = target(&self.url);
        let request = Request::post(target.path(), body.as_ref()).to_bytes(target.address, true);
        soon("response to a POST", self.connections.send(&request)).await.unwrap().0
    }
}

fn target(url: &str) -> Target {
    url.parse().unwrap()
}

/// A client with a live session.
pub struct Client {
    pub stream: EventStream,
    pub poster: Poster,
    last_id: i64,
}

impl Client {
    /// Opens a stream and learns its endpoint.
    pub async fn connect(addr: SocketAddr) -> Self {
        let mut stream = EventStream::open(addr, &Request::get("/sse")).await;
        let first = stream.event().await;
        assert_eq!(first.name, "endpoint");
        assert!(first.data.starts_with("/mcp/message?sessionId="), "{}", first.data);
        Self { stream, poster: Poster::new(format!("http://{addr}{}", first.data)), last_id: 0 }
    }

    /// As [`Self::connect`], initialized, as a client that offers sampling.
    pub async fn initialized(addr: SocketAddr) -> Self {
        let mut client = Self::connect(addr).await;
        let answer = client.request("initialize", initialize_params("2025-11-25")).await;
        assert!(answer["result"].is_object(), "{answer}");
        client.send(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
        client
    }

    /// Posts a message that the server must accept.
    pub async fn send(&self, message: Value) {
        assert_eq!(self.poster.post(message.to_string()).await, 202, "{message}");
    }

    /// The next message on the stream.
    pub async fn next(&mut self) -> Value {
        let event = self.stream.event().await;
        assert_eq!(event.name, "message");
        serde_json::from_str(&event.data).unwrap()
    }

    /// Sends a request without waiting; its id.
    pub async fn start(&mut self, method: &str, params: Value) -> i64 {
        self.last_id += 1;
        self.send(json!({ "jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params })).await;
        self.last_id
    }

    /// Sends a request; the next message must be its answer.
    pub async fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.start(method, params).await;
        let answer = self.next().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// As [`Self::request`]; the result.
    pub async fn result(&mut self, method: &str, params: Value) -> Value {
        let mut answer = self.request(method, params).await;
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].take()
    }

    /// As [`Self::request`]; the code of the error.
    pub async fn error(&mut self, method: &str, params: Value) -> i64 {
        let answer = self.request(method, params).await;
        assert!(answer.get("result").is_none(), "{answer}");
        answer["error"]["code"].as_i64().unwrap()
    }

    /// Calls a tool; its result.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.result("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// Calls a tool that succeeds; its text.
    pub async fn text(&mut self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments).await;
        assert_eq!(result["isError"], false, "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    /// Ends the stream's connection. What still is open of it is handed back.
    pub async fn disconnect(self, how: StreamDrop) -> (Poster, Option<Connection>) {
        let mut connection = self.stream.into_connection();
        let rest = match how {
            StreamDrop::Close => None,
            StreamDrop::Reset => {
                connection.reset();
                None
            }
            StreamDrop::HalfClose => {
                connection.shutdown().await.unwrap();
                Some(connection)
            }
        };
        (self.poster, rest)
    }
}

/// How a client leaves its stream.
#[derive(Clone, Copy, Debug)]
pub enum StreamDrop {
    /// The socket is closed: FIN, or RST if something was unread.
    Close,
    /// RST.
    Reset,
    /// FIN, and the socket stays open for reading.
    HalfClose,
}

/// Parameters of `initialize`.
pub fn initialize_params(version: &str) -> Value {
    json!({
        "protocolVersion": version,
        "capabilities": { "sampling": {} },
        "clientInfo": { "name": "test", "version": "0" },
    })
}
