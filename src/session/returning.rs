//! Who a client without a name is: what it shows with every request, and whether a session that nobody shows can be its
//! own. Pure decisions; `registry::orphans` asks the store.
//!
//! Clients of the 2024-11-05 transport carry no identity. What stays the same over a reconnect is the service, the
//! `Authorization` and the `User-Agent`; what tells a first GET from a reconnect is `MCP-Protocol-Version`, which the
//! TypeScript SDK sends only once it is initialised, Java and @ai-sdk/mcp from their first GET on, and others never.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};

/// A client as its requests show it. No secret can be read from it (SEC-2): it goes into the store.
#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    /// Hash of service, `Authorization` and `User-Agent`: 32 hexadecimal digits.
    hash: Arc<str>,
    /// By which the sessions that it opens are listed: the hash, and whether it began with its version.
    key: Arc<str>,
    /// Hash of its address: 16 hexadecimal digits; all zero when it is unknown.
    place: Arc<str>,
    /// Hash of its `Authorization`, if it sent one: as `key`.
    credential: Option<Arc<str>>,
    /// The request carried `MCP-Protocol-Version`.
    pub versioned: bool,
    may_be_asked: bool,
    may_come_back: bool,
}

/// Key of [`Client::gateway`]; those of others are hexadecimal.
const GATEWAY: &str = "gateway";
/// Key of [`Client::gateway_in_passing`].
const IN_PASSING: &str = "gateway-in-passing";

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("versioned", &self.versioned).finish_non_exhaustive()
    }
}

impl Client {
    /// From what its GET says.
    pub fn of(
        service: &str,
        authorization: Option<&[u8]>,
        agent: Option<&[u8]>,
        address: Option<IpAddr>,
        versioned: bool,
    ) -> Self {
        let mut hasher = Sha256::new();
        for part in [Some(service.as_bytes()), authorization, agent] {
            // With its length, so that no two triples read the same; none is not empty.
            hasher.update(part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
            hasher.update(part.unwrap_or_default());
        }
        let place = address.map_or([0; 8], |address| {
            let mut short = [0; 8];
            short.copy_from_slice(&Sha256::digest(address.to_canonical().to_string())[..8]);
            short
        });
        let hash: Arc<str> = hex(&hasher.finalize()[..16]).into();
        Self {
            key: list_of(&hash, versioned),
            hash,
            place: hex(&place).into(),
            credential: authorization.map(|text| hex(&Sha256::digest(text)[..16]).into()),
            versioned,
            may_be_asked: may_be_asked(agent, versioned),
            may_come_back: may_be_asked(agent, true),
        }
    }

    /// The gateway itself, for clients that have no sessions. It comes back to the stream of each request that it has not
    /// given up, by whichever process; nobody else is like it.
    pub fn gateway() -> Self {
        Self::of_gateway(GATEWAY)
    }

    /// The same in a session to which nothing leads but this process: no record, and nothing that a client shows again. When the
    /// process is gone, nobody comes for it.
    pub fn gateway_in_passing() -> Self {
        Self::of_gateway(IN_PASSING)
    }

    fn of_gateway(key: &str) -> Self {
        Self {
            hash: key.into(),
            key: key.into(),
            place: hex(&[0; 8]).into(),
            credential: None,
            versioned: true,
            may_be_asked: false,
            may_come_back: false,
        }
    }

    /// Names the list of the sessions that clients like this one open.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Names the list of the sessions of clients like this one that opened them without their version.
    pub fn key_without_version(&self) -> Arc<str> {
        list_of(&self.hash, false)
    }

    /// It may be sent a `ping` before its endpoint. Python clients hang on that, for ever.
    pub fn may_be_asked(&self) -> bool {
        self.may_be_asked
    }

    /// Some day it may be asked: its sessions are listed.
    pub fn may_come_back(&self) -> bool {
        self.may_come_back
    }

    /// By what its sessions are counted: its address, and who it says it is.
    pub fn guest_keys(&self) -> Vec<Arc<str>> {
        let place = self.place.bytes().any(|digit| digit != b'0').then(|| Arc::clone(&self.place));
        place.into_iter().chain(self.credential.clone()).collect()
    }

    /// As the session's record keeps it.
    pub fn to_field(&self) -> String {
        format!("{} {}", self.key, self.place)
    }
}

/// The session of this client ([`Client::to_field`]) is of use to the process that opened it, and to no other.
pub fn ends_with_its_process(client: &str) -> bool {
    client.split(' ').next() == Some(IN_PASSING)
}

fn list_of(hash: &str, versioned: bool) -> Arc<str> {
    format!("{hash}{}", if versioned { "v" } else { "n" }).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Anybody but Python and command lines; and nobody who says neither a version nor a name.
fn may_be_asked(agent: Option<&[u8]>, versioned: bool) -> bool {
    let agent = agent.map(|agent| String::from_utf8_lossy(agent).to_ascii_lowercase()).unwrap_or_default();
    let is_python = ["python", "httpx", "aiohttp", "fastmcp"].iter().any(|name| agent.contains(name));
    let is_reader = ["curl/", "wget/"].iter().any(|name| agent.starts_with(name));
    !is_python && (versioned || !(agent.is_empty() || is_reader))
}

/// What the store knows of a session that nobody shows any more.
#[derive(Debug, Clone, Copy)]
pub struct Orphan<'a> {
    /// The client that opened it, see [`Client::to_field`].
    pub client: &'a str,
    /// The client had sent its version with `notifications/initialized`.
    pub spoke_version: bool,
    /// For how long nobody has shown it; none: the process that did does not hear.
    pub left: Option<Duration>,
}

/// Whether there can be a session of a client that opens a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// No.
    No,
    /// Perhaps; it may as well be a new client.
    Maybe,
    /// Very likely: it sends its version, as clients like it do only once they are initialised.
    Likely,
}

/// Whether an orphan can be the session of a client that begins in the same way as the orphan's did. `window`: how long a
/// client that may as well be new is believed to come back.
pub fn fits(now: &Client, orphan: Orphan<'_>, window: Duration) -> bool {
    let mut parts = orphan.client.split(' ');
    let (Some(key), Some(place)) = (parts.next(), parts.next()) else { return false };
    let is_fresh = !window.is_zero() && orphan.left.is_none_or(|left| left <= window);
    let close = place == &*now.place && is_fresh;
    // The client of a session that knows its version would send it.
    key == &*now.key && now.may_be_asked && close && (now.versioned || !orphan.spoke_version)
}

/// Whether the cookie of a session may lead to it: its client is of the same kind. (That nobody shows it has been asked.)
pub fn same_client(now: &Client, opened_by: &str) -> bool {
    key_of(opened_by).is_some_and(|key| key.get(..now.hash.len()) == Some(&*now.hash))
}

/// The session with this field is one of the gateway's own.
pub fn is_of_gateway(opened_by: &str) -> bool {
    opened_by.split(' ').next() == Some(GATEWAY)
}

/// The key in such a field.
pub fn key_of(field: &str) -> Option<Arc<str>> {
    field.split(' ').next().filter(|key| !key.is_empty()).map(Arc::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn client(agent: &str, versioned: bool) -> Client {
        Client::of("s", Some(b"Bearer x"), Some(agent.as_bytes()), "10.0.0.1".parse().ok(), versioned)
    }

    #[test]
    fn an_orphan_fits_only_who_can_be_its_client() {
        let (plain, java) = (client("node", false), client("Java-http-client/21", true));
        let elsewhere = Client::of("s", Some(b"Bearer x"), Some(b"node"), "10.0.0.2".parse().ok(), false);
        let (soon, late) = (Some(Duration::from_secs(1)), Some(Duration::from_secs(600)));
        for (name, now, opened_by, spoke_version, left, expected) in [
            ("without any mark", &plain, &plain, false, soon, true),
            ("its holder was killed", &plain, &plain, false, None, true),
            ("much later", &plain, &plain, false, late, false),
            ("from elsewhere", &elsewhere, &plain, false, soon, false),
            ("new, where one that knew its version has gone", &plain, &plain, true, soon, false),
            ("Java, comes back or is new", &java, &java, true, soon, true),
            ("Java, its holder was killed", &java, &java, true, None, true),
            ("Java, much later", &java, &java, true, late, false),
            ("without the version that it had", &client("Java-http-client/21", false), &java, true, soon, false),
            ("of another program", &client("undici", false), &plain, false, soon, false),
            ("Python", &client("python-httpx/0.28", true), &client("python-httpx/0.28", true), true, soon, false),
        ] {
            let orphan = Orphan { client: &opened_by.to_field(), spoke_version, left };
            assert_eq!(fits(now, orphan, WINDOW), expected, "{name}");
        }
        let stranger = Client::of("s", Some(b"Bearer y"), Some(b"node"), "10.0.0.1".parse().ok(), false);
        for (now, field) in [(&stranger, plain.to_field()), (&plain, String::new())] {
            let orphan = Orphan { client: &field, spoke_version: false, left: soon };
            assert!(!fits(now, orphan, WINDOW));
        }
    }

    #[test]
    fn one_that_sends_its_version_is_looked_for_among_those_that_began_without() {
        let (new, again) = (client("node", false), client("node", true));
        assert_ne!(new.key(), again.key());
        assert_eq!(again.key_without_version(), *new.key());
        assert!(same_client(&again, &new.to_field()) && same_client(&new, &again.to_field()));
        assert!(!same_client(&client("undici", true), &new.to_field()) && !same_client(&new, ""));
        assert_eq!(key_of(&new.to_field()), Some(Arc::clone(new.key())));
    }

    #[test]
    fn python_is_never_asked_and_nameless_clients_only_with_their_version() {
        for (agent, versioned, expected) in [
            (Some("node"), false, true),
            (Some("undici"), false, true),
            (Some("Java-http-client/21"), true, true),
            (None, true, true),
            (None, false, false),
            (Some(""), false, false),
            (Some("curl/8.5.0"), false, false),
            (Some("python-httpx/0.28.1"), true, false),
            (Some("Agents/Python 0.2"), true, false),
            (Some("fastmcp/4"), true, false),
        ] {
            let agent_bytes = agent.map(str::as_bytes);
            assert_eq!(may_be_asked(agent_bytes, versioned), expected, "{agent:?} {versioned}");
        }
    }

    /// SEC-2
    #[test]
    fn what_is_stored_shows_no_secret_and_keeps_clients_apart() {
        let one = Client::of("s", Some(b"Bearer secret"), Some(b"node"), None, false);
        assert!(!one.to_field().contains("secret") && !format!("{one:?}").contains("secret"));
        assert_eq!(one.key().len(), 33);
        for other in [
            Client::of("s", Some(b"Bearer secre"), Some(b"tnode"), None, false),
            Client::of("s", None, Some(b"node"), None, false),
            Client::of("s", Some(b""), Some(b"node"), None, false),
            Client::of("t", Some(b"Bearer secret"), Some(b"node"), None, false),
        ] {
            assert_ne!(one.key(), other.key());
        }
    }
}
