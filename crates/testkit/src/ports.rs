//! TCP ports for programs that must know theirs beforehand, or come back on the same one.
//!
//! They are below the range from which the kernel takes ports for outgoing connections, and the UDP port of the same
//! number is held as a lock: tests that run at the same time, in whatever processes, never get the same one.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    ops::Range,
};

const RANGE: Range<u16> = 12_000..30_000;

/// A TCP port of 127.0.0.1 that no other test uses while this lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: UdpSocket,
}

impl Port {
    /// Takes a free one.
    pub fn reserve() -> Self {
        for _ in 0..1000 {
            let number = fastrand::u16(RANGE);
            let Ok(lock) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else { continue };
            // Something outside of the tests may listen there.
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port in {RANGE:?}");
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// 127.0.0.1 with this port.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}
