//! Nobody is let in by a token that the issuer has not signed, however it is written; and nobody but its bearer by the one that
//! it has.

use std::{cell::OnceCell, sync::Arc, time::Duration};

use actix::System;
use actix_web::{
    http::header::{AUTHORIZATION, HeaderValue},
    test::TestRequest,
};
use mcp_router::{http::principal::Authority, settings::Settings};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// The public key of an issuer whose secret one nobody has any more, and what it has signed: a token until the year 2286.
const JWKS: &str = include_str!("token.jwks.json");
const TOKEN: &str = include_str!("token.jwt");

thread_local! {
    static AUTHORITY: OnceCell<Arc<Authority>> = const { OnceCell::new() };
}

/// As a router has it, with the keys of that issuer.
fn authority() -> Arc<Authority> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, JWKS).expect("it is written");
    let pairs = [
        ("MCP_AUTH", "tokens"),
        ("MCP_AUTH_ISSUER", "https://as.example"),
        ("MCP_AUTH_JWKS", file.to_str().expect("a path")),
        ("MCP_AUTH_RESOURCE", "https://mcp.example"),
        ("MCP_AUTH_TOKEN_CACHE", "2"),
    ];
    let authority = Authority::new(&Settings::from_pairs(pairs).expect("settings")).expect("somebody is asked");
    let tls = || {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().expect("ring has what TLS needs");
        Arc::new(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
    };
    System::new().block_on(async {
        let known = async {
            while !is_let_in(&authority, format!("Bearer {}", TOKEN.trim()).as_bytes()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = authority.keep_up(tls) => panic!("it keeps up"),
            known = tokio::time::timeout(Duration::from_secs(20), known) => known.expect("its token counts"),
        }
    });
    authority
}

fn is_let_in(authority: &Arc<Authority>, value: &[u8]) -> bool {
    let Ok(value) = HeaderValue::from_bytes(value) else { return false };
    let request = TestRequest::with_uri("/mcp/s").append_header((AUTHORIZATION, value)).to_http_request();
    authority.who(&request).is_some()
}

/// Bytes: the value of `Authorization`; without a scheme that of a bearer.
pub fn token(data: &[u8]) {
    AUTHORITY.with(|authority| {
        let authority = authority.get_or_init(self::authority);
        let good = TOKEN.trim().as_bytes();
        for value in [data.to_vec(), [b"Bearer ", data].concat()] {
            let is_good = value.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Bearer"))
                && value.get(6).is_some_and(|byte| matches!(byte, b' ' | b'\t'))
                && value[6..].trim_ascii_start() == good;
            assert_eq!(is_let_in(authority, &value), is_good, "{:?}", String::from_utf8_lossy(&value));
        }
    });
}
