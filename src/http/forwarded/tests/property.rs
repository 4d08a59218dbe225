//! Chains of proxies of every form, and what a client can put before them.

use std::net::{Ipv4Addr, Ipv6Addr};

use actix_web::test::TestRequest;
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

const TRUSTED: &str = "127.0.0.0/8,10.1.0.0/16,fd00:1::/32";
const TOLD: [&str; 5] =
    ["x-forwarded-for", "x-forwarded-prefix", "x-forwarded-proto", "x-request-id", "x-mcp-request-try"];
const HOSTS: &str = "localhost,127.0.0.1,[::1],router.example";
const ORIGINS: &str = "https://ok.example,http://other.example:3000";

fn settings() -> SecuritySettings {
    security(&[("MCP_TRUSTED_PROXIES", TRUSTED), ("MCP_ALLOWED_HOSTS", HOSTS), ("MCP_ALLOWED_ORIGINS", ORIGINS)])
}

/// In one of the networks above, as an own address or mapped into IPv6.
fn ours() -> impl Strategy<Value = IpAddr> {
    let v4 = prop_oneof![
        any::<[u8; 3]>().prop_map(|[a, b, c]| Ipv4Addr::new(127, a, b, c)),
        any::<[u8; 2]>().prop_map(|[a, b]| Ipv4Addr::new(10, 1, a, b)),
    ];
    prop_oneof![
        v4.clone().prop_map(IpAddr::from),
        v4.prop_map(|address| address.to_ipv6_mapped().into()),
        any::<[u16; 6]>().prop_map(|[a, b, c, d, e, f]| Ipv6Addr::new(0xfd00, 1, a, b, c, d, e, f).into()),
    ]
}

fn foreign() -> impl Strategy<Value = IpAddr> {
    let is_ours = |address: &IpAddr| is_within(*address, &settings().trusted_proxies);
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()),
        any::<[u8; 2]>().prop_map(|[a, b]| Ipv4Addr::new(10, 2, a, b).into()),
        any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).to_ipv6_mapped().into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).into()),
    ]
    .prop_filter("it is one of ours", move |address| !is_ours(address))
}

/// Whatever may stand in a header.
fn junk() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => "[ -~]{0,20}".prop_map(String::into_bytes),
        2 => select(&["127.0.0.1", "10.1.2.3, 127.0.0.1", "unknown", "", ",", "192.0.2.1:80", "[::1]", "fd00:1::1 "][..])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(prop_oneof![0x20u8..0x7f, 0x80u8..=0xff], 0..20),
    ]
}

fn request(peer: IpAddr, lines: &[(&'static str, Vec<u8>)]) -> HttpRequest {
    let request = TestRequest::default().peer_addr((peer, 4711).into());
    let add = |request: TestRequest, (name, value): &(&'static str, Vec<u8>)| {
        request.append_header((*name, HeaderValue::from_bytes(value).unwrap()))
    };
    lines.iter().fold(request, add).to_http_request()
}

/// The hops of `X-Forwarded-For`: some in one line, some in lines of their own.
fn lines(first: Option<Vec<u8>>, hops: &[IpAddr], own_line: &[bool]) -> Vec<(&'static str, Vec<u8>)> {
    let mut lines: Vec<Vec<u8>> = first.into_iter().collect();
    for (hop, own_line) in hops.iter().zip(own_line.iter().cycle()) {
        match lines.last_mut() {
            Some(line) if !own_line => line.extend(format!(", {hop}").bytes()),
            _ => lines.push(hop.to_string().into_bytes()),
        }
    }
    lines.into_iter().map(|line| ("x-forwarded-for", line)).collect()
}

fn recased(text: &str, ways: &[bool]) -> String {
    let letters = text.chars().zip(ways.iter().cycle());
    letters.map(|(letter, upper)| if *upper { letter.to_ascii_uppercase() } else { letter }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Each proxy of ours appends who has asked it: the last of those that is none of ours is the client.
    #[test]
    fn behind_our_proxies_the_client_is_who_asked_the_first_of_them(
        sent in proptest::option::of(junk()),
        client in foreign(),
        proxies in vec(ours(), 0..4),
        peer in ours(),
        own_line in vec(any::<bool>(), 1..4),
    ) {
        let hops: Vec<IpAddr> = std::iter::once(client).chain(proxies).collect();
        let request = request(peer, &lines(sent, &hops, &own_line));
        prop_assert_eq!(client_address(&request, &settings().trusted_proxies), Some(client));
    }

    #[test]
    fn where_all_are_ours_it_is_the_first(
        hops in vec(ours(), 1..4),
        peer in ours(),
        own_line in vec(any::<bool>(), 1..4),
    ) {
        let request = request(peer, &lines(None, &hops, &own_line));
        prop_assert_eq!(client_address(&request, &settings().trusted_proxies), hops.first().copied());
    }

    #[test]
    fn nobody_else_says_anything(
        peer in foreign(),
        lines in vec((
            select(&TOLD[..]),
            prop_oneof![junk(), Just(b"https".to_vec()), Just(b"/a".to_vec())],
        ), 0..6),
    ) {
        let (request, trusted) = (request(peer, &lines), settings().trusted_proxies);
        prop_assert_eq!(client_address(&request, &trusted), Some(peer));
        prop_assert_eq!(prefix(&request, &trusted), "");
        prop_assert!(!is_https(&request, &trusted));
        prop_assert_eq!(request_name(&request, &trusted), None);
    }

    /// It becomes a part of the endpoint that clients are told.
    #[test]
    fn a_prefix_is_a_path_or_none(
        peer in ours(),
        value in prop_oneof![3 => "(/{1,2}[a-z0-9._~-]{0,5}){0,4}/{0,2}", 1 => "[ -~]{0,12}", 1 => "/[a/]{250,260}"],
        others in vec("/[a-z]{1,3}", 0..2),
    ) {
        let line = [std::slice::from_ref(&value), &others[..]].concat().join(", ");
        let prefix = prefix(&request(peer, &[("x-forwarded-prefix", line.into_bytes())]), &settings().trusted_proxies);
        let first = value.split(',').next().unwrap().trim().trim_end_matches('/');
        let is_path = first.starts_with('/') && !first.starts_with("//") && first.len() <= 256;
        let is_plain = first.chars().all(|c| c.is_ascii_alphanumeric() || "/._~-".contains(c));
        prop_assert_eq!(prefix, if is_path && is_plain { first } else { "" });
    }

    /// SEC-3
    #[test]
    fn hosts_and_origins_are_those_of_the_lists_in_any_case_and_with_any_port(
        host in select(HOSTS.split(',').collect::<Vec<_>>()),
        origin in proptest::option::of(
            select(ORIGINS.split(',').chain(["http://localhost", "x://[::1]"]).collect::<Vec<_>>()),
        ),
        ports in any::<[Option<u16>; 2]>(),
        ways in vec(any::<bool>(), 1..5),
    ) {
        let with_port = |text: &str, port: Option<u16>| port.map_or(text.to_owned(), |port| format!("{text}:{port}"));
        let mut lines = vec![("host", with_port(&recased(host, &ways), ports[0]).into_bytes())];
        // Only loopback has any port.
        let origin = origin.map(|origin| match origin.contains("example") {
            true => recased(origin, &ways),
            false => with_port(origin, ports[1]),
        });
        lines.extend(origin.iter().map(|origin| ("origin", origin.clone().into_bytes())));
        let (request, settings) = (request([127, 0, 0, 1].into(), &lines), settings());
        let checked = check_host_and_origin(&request, &settings);
        prop_assert_eq!(checked.ok().map(|named| named.map(|named| named.to_str().unwrap().to_owned())), Some(origin));
    }

    /// SEC-3
    #[test]
    fn no_other_host_or_origin_may_speak_to_us(
        [host, origin] in proptest::array::uniform2(prop_oneof![
            "(http://|https://)?[a-z0-9.:\\[\\]-]{0,12}",
            "(http://|https://)?(localhost|ok[.]example|router[.]example|127[.]0[.]0[.]1|\\[::1\\])[a-z.:@/#-]{1,8}",
        ]),
        is_host: bool,
    ) {
        let settings = settings();
        let bare = |text: &str| text.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':').to_owned();
        let lines = match is_host {
            true => vec![("host", host.clone().into_bytes())],
            false => vec![("host", b"localhost".to_vec()), ("origin", origin.clone().into_bytes())],
        };
        let is_known = if is_host {
            [host.clone(), bare(&host)].iter().any(|host| HOSTS.split(',').any(|known| known == host))
        } else {
            let loopback = origin.split_once("://").map(|(_, host)| [host.to_owned(), bare(host)]);
            let is_loopback = |host: &String| ["localhost", "127.0.0.1", "[::1]"].contains(&host.as_str());
            let is_listed = ORIGINS.split(',').any(|known| known == origin);
            is_listed || loopback.is_some_and(|hosts| hosts.iter().any(is_loopback))
        };
        let checked = check_host_and_origin(&request([192, 0, 2, 1].into(), &lines), &settings).is_ok();
        prop_assert!(!checked || is_known, "{:?}", lines);
    }
}
