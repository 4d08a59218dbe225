//! `requestState` of a server (2026-07-28, Multi Round-Trip Requests), as its client is given it: together with the endpoint that
//! gave it, since servers may keep a part of it to themselves, and sealed, so that only the principal that got it can show it.

use bytes::Bytes;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::seal::Seal;
use crate::{
    protocol::{
        jsonrpc::Head,
        modern::{meta, result},
    },
    upstream::Endpoint,
};

/// Bytes of the name of an endpoint.
const NAME: usize = 8;

/// By what an endpoint is known at every instance, and of which nobody can tell its URL.
pub(super) type Name = [u8; NAME];

/// See [`Name`].
pub(super) fn name(endpoint: &Endpoint) -> Name {
    let digest = Sha256::digest(endpoint.url.request_url().as_str());
    let mut name = [0; NAME];
    name.copy_from_slice(&digest[..NAME]);
    name
}

fn purpose(service: &str) -> String {
    format!("requestState of {service}")
}

/// The response with the state in it sealed. `None`: there is none in it.
pub(super) fn sealed(
    response: &[u8],
    service: &str,
    from: &Endpoint,
    seal: impl FnOnce(&str, &[u8]) -> String,
) -> Option<Bytes> {
    let said = result::Said::of(Head::parse(response).ok()?.result?.get())?;
    let state: String = serde_json::from_str(said.request_state.map(RawValue::get)?).ok()?;
    let sealed = seal(&purpose(service), &[&name(from)[..], state.as_bytes()].concat());
    result::with_members(response, &[("requestState", &format!("\"{sealed}\""))])
}

/// A request with the state as its server gave it, and which server that was. `None`: this deployment has not given it to this
/// principal, or too long ago.
pub(super) fn opened(request: &[u8], service: &str, shown: &str, by: &str, seal: &Seal) -> Option<(Bytes, Name)> {
    let payload = seal.open(&purpose(service), by, shown)?;
    let (name, state) = payload.split_at_checked(NAME)?;
    let state = serde_json::to_string(std::str::from_utf8(state).ok()?).ok()?;
    let request = meta::with_params(request, &[], &[("requestState", &state)])?;
    Some((request, name.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        metrics::Metrics,
        settings::{EraSetting, Transport},
        upstream::Pool,
    };

    fn endpoint(url: &str) -> std::sync::Arc<Endpoint> {
        let hour = Duration::from_secs(3600);
        let spoken = (Transport::Auto, EraSetting::Modern);
        let pool = Pool::new([("s".to_owned(), vec![url.parse().unwrap()])], &Metrics::new(), spoken, 1, hour, hour);
        std::sync::Arc::clone(&pool.only_service().unwrap().endpoints()[0])
    }

    /// SEC-1
    #[test]
    fn a_state_comes_back_as_it_was_from_whom_it_was_given_to_and_leads_to_who_gave_it() {
        let seal = Seal::new(b"secret");
        let from = endpoint("http://h:1/mcp");
        let response = br#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","requestState":"a\"b","inputRequests":{}}}"#;
        let close = |purpose: &str, payload: &[u8]| seal.close(purpose, "key:alice", Duration::from_secs(60), payload);
        let sealed = sealed(response, "s", &from, close).unwrap();
        let result = Head::parse(&sealed).unwrap().result.unwrap().get().to_owned();
        let shown: String =
            serde_json::from_str(result::Said::of(&result).unwrap().request_state.unwrap().get()).unwrap();
        assert!(!shown.contains("h:1"));
        let request = format!(
            r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"x","requestState":"{shown}"}}}}"#
        );
        let (open, leads_to) = opened(request.as_bytes(), "s", &shown, "key:alice", &seal).unwrap();
        assert_eq!(
            open,
            &br#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"requestState":"a\"b","name":"x"}}"#[..]
        );
        assert_eq!(leads_to, name(&from));
        assert_ne!(leads_to, name(&endpoint("http://h:2/mcp")));
        for (service, by) in [("s", "key:bob"), ("t", "key:alice")] {
            assert!(opened(request.as_bytes(), service, &shown, by, &seal).is_none(), "{service} {by}");
        }
    }
}
