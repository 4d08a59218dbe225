//! How many connections each client address has, and the end of those that are too many.
//!
//! Role: called once for each connection, before anything of it is read. A refused one gets one line of an answer and is
//! closed; no request of it is read. Addresses of trusted proxies are not counted: theirs are their clients' connections.

use std::{
    collections::HashMap,
    net::{IpAddr, Shutdown},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix_web::rt::net::TcpStream;
use ipnet::IpNet;
use prometheus::IntGauge;
use socket2::SockRef;

use super::forwarded::is_within;

/// What a refused connection is told; a JSON-RPC error like every other.
const REFUSAL: &str = concat!(
    "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-type: application/json\r\n",
    "x-content-type-options: nosniff\r\ncache-control: no-store\r\ncontent-length: 187\r\n\r\n",
    r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"too many connections from this address; close some or try again later","data":{"reason":"too_many_connections","retry":true}}}"#,
);

/// The open connections of one process by address.
#[derive(Debug)]
pub struct Connections {
    most: usize,
    trusted: Vec<IpNet>,
    open: Mutex<HashMap<IpAddr, usize>>,
    /// Of all addresses.
    count: IntGauge,
    /// More of them than this are a crowd.
    crowd: usize,
}

/// One counted connection; it counts until this is dropped.
#[derive(Debug)]
pub struct Admitted {
    connections: Arc<Connections>,
    address: IpAddr,
}

/// Kept with a connection, and gone with it.
#[derive(Debug)]
pub struct Open {
    alive: Arc<()>,
    connections: Arc<Connections>,
    /// Requests under way, of HTTP/2.
    under_way: Arc<AtomicUsize>,
}

/// One of the requests that a connection has under way, until this is dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Open {
    /// Tells whether the connection is still there.
    pub fn watch(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }

    /// One more request on it, unless there are `most`.
    pub fn begin(&self, most: usize) -> Option<UnderWay> {
        let one = UnderWay(Arc::clone(&self.under_way));
        (self.under_way.fetch_add(1, Ordering::AcqRel) < most).then_some(one)
    }

    /// The process has so many connections that files may run out.
    pub fn is_crowded(&self) -> bool {
        usize::try_from(self.connections.count.get()).is_ok_and(|count| count > self.connections.crowd)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.count.dec();
    }
}

impl Connections {
    /// At most `most` of each address, or half of `files`, how many files the process may open: whichever is less. `count`:
    /// shows how many there are.
    pub fn new(most: usize, files: u64, trusted: Vec<IpNet>, count: IntGauge) -> Arc<Self> {
        let half = usize::try_from(files / 2).unwrap_or(usize::MAX);
        let open = Mutex::default();
        Arc::new(Self { most: most.min(half).max(1), trusted, open, count, crowd: half })
    }

    /// A connection of whatever address is there.
    pub fn open(self: &Arc<Self>) -> Open {
        self.count.inc();
        Open { alive: Arc::default(), connections: Arc::clone(self), under_way: Arc::default() }
    }

    /// Counts a connection of `address`. `Err`: there are too many already.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Option<Admitted>, TooMany> {
        if is_within(address, &self.trusted) {
            return Ok(None);
        }
        let address = group(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= self.most {
            return Err(TooMany);
        }
        *count += 1;
        Ok(Some(Admitted { connections: Arc::clone(self), address }))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// One address has as many connections as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// Of IPv6 the network of 64 bits: one host has all of its addresses.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address => address,
    }
}

/// Says no, and closes.
pub fn refuse(stream: &TcpStream) {
    // Past tokio, which does not know yet that it can be written to. Whoever does not get to read it sees the connection
    // closed, which says enough.
    let socket = SockRef::from(stream);
    let _ = socket.send(REFUSAL.as_bytes());
    let _ = socket.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count() -> IntGauge {
        IntGauge::new("connections", "Of the test").unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_its_own_share_and_proxies_have_none() {
        let connections = Connections::new(2, 1000, vec!["127.0.0.0/8".parse().unwrap()], count());
        let admit = |text: &str| connections.admit(address(text));
        let first = admit("10.0.0.1").unwrap();
        let _second = admit("::ffff:10.0.0.1").unwrap();
        assert_eq!(admit("10.0.0.1").unwrap_err(), TooMany);
        assert!(admit("10.0.0.2").is_ok());
        drop(first);
        assert!(admit("10.0.0.1").is_ok());
        let _network = [admit("2001:db8::1").unwrap(), admit("2001:db8::2").unwrap()];
        assert!(admit("2001:db8::3").is_err() && admit("2001:db8:0:1::3").is_ok());
        for _ in 0..10 {
            assert!(admit("127.0.0.1").unwrap().is_none());
        }
        drop((_second, _network));
        assert!(connections.open.lock().unwrap().is_empty(), "nothing is kept of addresses that are gone");
    }

    #[test]
    fn no_address_takes_more_than_half_of_the_files() {
        let connections = Connections::new(1000, 5, Vec::new(), count());
        let _two = [connections.admit(address("10.0.0.1")).unwrap(), connections.admit(address("10.0.0.1")).unwrap()];
        assert!(connections.admit(address("10.0.0.1")).is_err());
    }

    #[test]
    fn more_connections_than_half_of_the_files_are_a_crowd() {
        let connections = Connections::new(1000, 4, Vec::new(), count());
        let mut open: Vec<Open> = (0..2).map(|_| connections.open()).collect();
        assert!(!open[0].is_crowded());
        open.push(connections.open());
        assert!(open[0].is_crowded());
        open.pop();
        assert!(!open[0].is_crowded());
        let watch = open[0].watch();
        open.clear();
        assert_eq!(watch.strong_count(), 0);
    }

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let (head, body) = REFUSAL.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).unwrap()["error"]["code"].is_i64());
    }
}
