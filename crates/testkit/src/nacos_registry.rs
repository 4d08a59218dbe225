//! A registry that answers as Nacos' Open API says: `/nacos/v1/ns/instance/list`, `/nacos/v2/ns/instance/list`, and `/nacos/v1/auth/login`
//! where it asks who comes (<https://nacos.io/docs/latest/manual/user/open-api/>).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::incoming::{Incoming, read_request};

#[derive(Debug, Default)]
struct State {
    /// As they stand in `hosts`.
    hosts: Vec<Value>,
    /// Paths and queries that came.
    asked: Vec<String>,
    /// User and password in the form's coding, and the token that counts.
    login: Option<(String, String)>,
    is_broken: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct NacosRegistry {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl NacosRegistry {
    /// Starts one without instances, which asks nobody who he is.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (addr, state) = (listener.local_addr().expect("it is bound"), Arc::<Mutex<State>>::default());
        let of_task = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&of_task)));
            }
        });
        Self { addr, state, task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on these are registered, as they stand in `hosts`.
    pub fn set(&self, hosts: impl IntoIterator<Item = Value>) {
        let hosts = hosts.into_iter().collect();
        self.with(|state| state.hosts = hosts);
    }

    /// From now on only who has this token, which a login with this form gives, is answered.
    pub fn asks(&self, form: &str, token: &str) {
        self.with(|state| state.login = Some((form.to_owned(), token.to_owned())));
    }

    /// From now on it fails (500), or works again.
    pub fn breaks(&self, is_broken: bool) {
        self.with(|state| state.is_broken = is_broken);
    }

    /// Paths and queries that came.
    pub fn asked(&self) -> Vec<String> {
        self.with(|state| state.asked.clone())
    }
}

impl Drop for NacosRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader).await {
        let (status, body) = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            answer(&request, &mut state)
        };
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json;charset=UTF-8\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if reader.get_mut().write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await.is_err() {
            return;
        }
    }
}

fn answer(Incoming { method, path, body, .. }: &Incoming, state: &mut State) -> (u16, Value) {
    state.asked.push(path.clone());
    if state.is_broken {
        return (500, json!({ "code": 30000, "message": "server error", "data": null }));
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    if let Some((form, token)) = &state.login {
        if (method.as_str(), path) == ("POST", "/nacos/v1/auth/login") {
            let is_right = String::from_utf8_lossy(body) == form.as_str();
            return if is_right { (200, json!({ "accessToken": token, "tokenTtl": 18000 })) } else { (403, json!({})) };
        }
        if !query.split('&').any(|pair| pair == format!("accessToken={token}")) {
            return (403, json!({ "code": 10001, "message": "access denied", "data": null }));
        }
    }
    let listed = json!({ "name": "DEFAULT_GROUP@@s", "cacheMillis": 10000, "hosts": state.hosts });
    match (method.as_str(), path) {
        ("GET", "/nacos/v1/ns/instance/list") => (200, listed),
        ("GET", "/nacos/v2/ns/instance/list") => (200, json!({ "code": 0, "message": "success", "data": listed })),
        _ => (404, json!({})),
    }
}
