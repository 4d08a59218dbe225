//! Whether an address refuses connections: the one sign of a process's death that needs nothing but its network. Knows no
//! lease and no session; the [judge](super::ownership) asks.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::net::TcpStream;

/// Where an instance can be found that listens on `address`; `None` where that means nothing to this process.
pub(super) fn probed_address(address: SocketAddr, shares_network: bool) -> Option<SocketAddr> {
    match address.ip() {
        ip if ip.is_unspecified() && shares_network => {
            let loopback = if ip.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
            Some(SocketAddr::new(loopback, address.port()))
        }
        ip if ip.is_unspecified() => None,
        // Of each network its own.
        ip if (ip.is_loopback() || is_link_local(ip)) && !shares_network => None,
        _ => Some(address),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Only a refusal counts: a time-out or an unreachable network says nothing of the process.
pub(super) async fn refuses(address: SocketAddr, limit: Duration) -> bool {
    let connected = tokio::time::timeout(limit, TcpStream::connect(address)).await;
    matches!(connected, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_tried_only_where_it_means_the_owner() {
        for (address, shares_network, expected) in [
            ("10.0.0.7:8051", false, Some("10.0.0.7:8051")),
            ("[fd00::7]:8051", false, Some("[fd00::7]:8051")),
            ("127.0.0.1:8051", false, None),
            ("[::1]:8051", false, None),
            ("0.0.0.0:8051", false, None),
            ("[::]:8051", false, None),
            ("169.254.1.2:8051", false, None),
            ("[fe80::1]:8051", false, None),
            ("127.0.0.1:8051", true, Some("127.0.0.1:8051")),
            ("0.0.0.0:8051", true, Some("127.0.0.1:8051")),
            ("[::]:8051", true, Some("[::1]:8051")),
            ("10.0.0.7:8051", true, Some("10.0.0.7:8051")),
        ] {
            let probed = probed_address(address.parse().unwrap(), shares_network);
            assert_eq!(probed, expected.map(|address| address.parse().unwrap()), "{address} {shares_network}");
        }
    }

    #[tokio::test]
    async fn only_a_refused_connection_is_a_refusal() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limit = Duration::from_secs(5);
        assert!(!refuses(address, limit).await);
        drop(listener);
        assert!(refuses(address, limit).await);
    }
}
