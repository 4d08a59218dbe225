//! A DNS server over UDP on loopback, with the records that the test gives it (RFC 1035, RFC 2782).

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{net::UdpSocket, task::JoinHandle};

const A: u16 = 1;
const SRV: u16 = 33;

/// What a name has.
#[derive(Debug, Clone)]
pub enum Records {
    /// Addresses, for so many seconds.
    Addresses(u32, Vec<Ipv4Addr>),
    /// Priority, port and host, for so many seconds.
    Services(u32, Vec<(u16, u16, String)>),
    /// The server cannot say (SERVFAIL).
    Failure,
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<String, Records>,
    asked: HashMap<String, usize>,
    is_silent: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct DnsServer {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl DnsServer {
    /// Starts one without names.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let (addr, state) = (socket.local_addr().expect("it is bound"), Arc::<Mutex<State>>::default());
        let task = tokio::spawn(serve(socket, Arc::clone(&state)));
        Self { addr, state, task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on the name has these.
    pub fn set(&self, name: &str, records: Records) {
        self.state().names.insert(name.to_owned(), records);
    }

    /// From now on there is no such name (NXDOMAIN).
    pub fn remove(&self, name: &str) {
        self.state().names.remove(name);
    }

    /// From now on it answers nothing, or again.
    pub fn silence(&self, is_silent: bool) {
        self.state().is_silent = is_silent;
    }

    /// How often it was asked for the name.
    pub fn asked(&self, name: &str) -> usize {
        self.state().asked.get(name).copied().unwrap_or(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut query = [0; 512];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut query).await else { continue };
        let answer = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            answer(&query[..length], &mut state)
        };
        if let Some(answer) = answer {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// `None`: it is no question, or nothing is answered.
fn answer(query: &[u8], state: &mut State) -> Option<Vec<u8>> {
    let (name, end) = name(query)?;
    let kind = u16::from_be_bytes(query.get(end..end + 2)?.try_into().ok()?);
    *state.asked.entry(name.clone()).or_default() += 1;
    if state.is_silent {
        return None;
    }
    let (code, records) = match state.names.get(&name) {
        None => (3, Vec::new()),
        Some(Records::Failure) => (2, Vec::new()),
        Some(Records::Addresses(ttl, addresses)) if kind == A => {
            (0, addresses.iter().map(|address| record(A, *ttl, &address.octets())).collect())
        }
        Some(Records::Services(ttl, services)) if kind == SRV => {
            (0, services.iter().map(|service| record(SRV, *ttl, &service_data(service))).collect())
        }
        Some(_) => (0, Vec::new()),
    };
    let count = u16::try_from(records.len()).ok()?.to_be_bytes();
    let mut answer = query.get(..2)?.to_vec();
    // A response, authoritative, recursion available.
    answer.extend([0x84 | query[2] & 1, 0x80 | code]);
    answer.extend([0, 1, count[0], count[1], 0, 0, 0, 0]);
    answer.extend(query.get(12..end + 4)?);
    records.into_iter().for_each(|record: Vec<u8>| answer.extend(record));
    Some(answer)
}

/// The name that is asked for, in lower case and without a dot at its end, and where it ends.
fn name(query: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
}

/// Of the name that was asked for, which stands behind the head.
fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("a short one");
    let head: [&[u8]; 5] = [&[0xC0, 12], &kind.to_be_bytes(), &[0, 1], &ttl.to_be_bytes(), &length.to_be_bytes()];
    [head.concat().as_slice(), data].concat()
}

fn service_data((priority, port, host): &(u16, u16, String)) -> Vec<u8> {
    let mut data = [priority.to_be_bytes(), [0, 1], port.to_be_bytes()].concat();
    for label in host.split('.').filter(|label| !label.is_empty()) {
        data.push(u8::try_from(label.len()).expect("a short one"));
        data.extend(label.bytes());
    }
    data.push(0);
    data
}
