//! Where the servers of a service are found, where they are not written down: names in DNS, and registries.
//!
//! | form | servers |
//! |---|---|
//! | `dns+http://NAME:PORT/PATH` | the addresses of the name (A, else AAAA) |
//! | `dns+srv+http://_SERVICE._PROTO.NAME/PATH`, `dns+srv+https://…` | hosts and ports of its SRV records (RFC 2782) |
//! | `nacos+http://[USER:PASSWORD@]HOST:8848/?service=NAME`, `nacos+https://…` | what a Nacos registry has of the service |

use std::fmt;

use url::{Host, Url};

use super::upstream_url::UpstreamUrl;

/// See the module's text. `Debug` and `Display` show no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum SourceUrl {
    /// Addresses of a name in DNS: the URL of each server with the name in the place of its address.
    Addresses(UpstreamUrl),
    /// SRV records: the same with the name of the records as host, and without a port.
    Services(UpstreamUrl),
    /// A registry.
    Nacos(NacosUrl),
}

/// What is asked of a Nacos registry (its Open API, `/v1` and `/v2` of `ns/instance/list`).
#[derive(Clone, PartialEq, Eq)]
pub struct NacosUrl {
    /// Of its API, such as `http://host:8848/nacos`, without user and password.
    pub api: Url,
    /// User and password, if it asks for them.
    pub login: Option<(String, String)>,
    /// `v1` of the API instead of `v2`.
    pub is_v1: bool,
    /// What is asked for, as the API names it.
    pub service: String,
    /// Empty: `DEFAULT_GROUP`.
    pub group: String,
    /// Empty: `public`.
    pub namespace: String,
    /// Empty: all of them.
    pub cluster: String,
    /// How its servers are reached: `http` or `https`, and the path.
    pub scheme: &'static str,
    /// Of each server.
    pub path: String,
}

impl SourceUrl {
    /// All of it, secrets too, by which one is known from others: never to be shown.
    pub fn key(&self) -> String {
        let of = |kind: &str, url: &UpstreamUrl| {
            format!("{kind} {} {}", url.request_url(), url.authorization().unwrap_or_default())
        };
        match self {
            Self::Addresses(url) => of("dns", url),
            Self::Services(url) => of("srv", url),
            Self::Nacos(url) => {
                let NacosUrl { api, login, is_v1, service, group, namespace, cluster, scheme, path } = url;
                format!("nacos {api} {:?}", (login, is_v1, service, group, namespace, cluster, scheme, path))
            }
        }
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses(url) => write!(f, "dns+{url}"),
            Self::Services(url) => write!(f, "dns+srv+{url}"),
            Self::Nacos(NacosUrl { api, service, .. }) => write!(f, "nacos+{api}?service={service}"),
        }
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `None`: it is no such URL. An error says what would have been right.
pub(super) fn source(text: &str) -> Option<Result<SourceUrl, String>> {
    if let Some(rest) = text.strip_prefix("dns+srv+") {
        return Some(services(rest));
    }
    if let Some(rest) = text.strip_prefix("dns+") {
        return Some(addresses(rest));
    }
    text.strip_prefix("nacos+").map(nacos)
}

fn plain(text: &str, schemes: &[&str], expected: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|fault| format!("{expected} ({fault})"))?;
    let is_right = schemes.contains(&url.scheme()) && url.fragment().is_none();
    if is_right { Ok(url) } else { Err(expected.to_owned()) }
}

fn addresses(text: &str) -> Result<SourceUrl, String> {
    // A certificate is for a name, and what is found are addresses.
    const EXPECTED: &str = "dns+http://NAME:PORT/PATH with a host name";
    let url = plain(text, &["http"], EXPECTED)?;
    let is_name = matches!(url.host(), Some(Host::Domain(_)));
    if is_name { Ok(SourceUrl::Addresses(UpstreamUrl::new(url))) } else { Err(EXPECTED.to_owned()) }
}

fn services(text: &str) -> Result<SourceUrl, String> {
    const EXPECTED: &str = "dns+srv+http://_SERVICE._PROTO.NAME/PATH (or https), without a port";
    let url = plain(text, &["http", "https"], EXPECTED)?;
    // `Url` forgets a port that is its scheme's own.
    let authority = text.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    let has_port = authority.rsplit('@').next().is_some_and(|host| host.contains(':'));
    let is_name = matches!(url.host(), Some(Host::Domain(_))) && !has_port;
    if is_name { Ok(SourceUrl::Services(UpstreamUrl::new(url))) } else { Err(EXPECTED.to_owned()) }
}

fn nacos(text: &str) -> Result<SourceUrl, String> {
    const EXPECTED: &str = "nacos+http://[USER:PASSWORD@]HOST:8848/?service=NAME with group, namespace, cluster, path, \
                            scheme (http, https) and api (v1, v2) behind it as they are needed";
    let wrong = || EXPECTED.to_owned();
    let mut url = plain(text, &["http", "https"], EXPECTED)?;
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let login =
        (!url.username().is_empty()).then(|| (decoded(url.username()), decoded(url.password().unwrap_or_default())));
    let mut found = NacosUrl {
        api: url.clone(),
        login,
        is_v1: false,
        service: String::new(),
        group: String::new(),
        namespace: String::new(),
        cluster: String::new(),
        scheme: "http",
        path: "/sse".to_owned(),
    };
    for (name, value) in url.query_pairs() {
        let value = value.into_owned();
        match (&*name, value.as_str()) {
            ("service", _) => found.service = value,
            ("group", _) => found.group = value,
            ("namespace", _) => found.namespace = value,
            ("cluster", _) => found.cluster = value,
            ("path", path) if path.starts_with('/') => found.path = value,
            ("scheme", "http") => found.scheme = "http",
            ("scheme", "https") => found.scheme = "https",
            ("api", "v1") => found.is_v1 = true,
            ("api", "v2") => found.is_v1 = false,
            _ => return Err(wrong()),
        }
    }
    if found.service.is_empty() {
        return Err(wrong());
    }
    // Both fail only for URLs that have no host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    let context = match url.path().trim_end_matches('/') {
        "" => "/nacos".to_owned(),
        context => context.to_owned(),
    };
    url.set_path(&context);
    found.api = url;
    Ok(SourceUrl::Nacos(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_found_by_names_and_registries() {
        for (text, shown) in [
            ("dns+http://mcp.svc:8000/sse", "dns+http://mcp.svc:8000/sse"),
            ("dns+http://u:SECRET@mcp.svc/mcp?k=SECRET", "dns+http://***@mcp.svc/mcp?k=***"),
            ("dns+srv+http://_mcp._tcp.example.com/mcp", "dns+srv+http://_mcp._tcp.example.com/mcp"),
            ("dns+srv+https://_mcp._tcp.example.com/mcp", "dns+srv+https://_mcp._tcp.example.com/mcp"),
            ("nacos+http://u:SECRET@n:8848/?service=a&path=/mcp&api=v1", "nacos+http://n:8848/nacos?service=a"),
        ] {
            assert_eq!(source(text).unwrap().unwrap().to_string(), shown, "{text}");
        }
        for wrong in [
            "dns+https://mcp.svc/mcp",
            "dns+http://127.0.0.1/mcp",
            "dns+srv+http://_mcp._tcp.example.com:80/mcp",
            "dns+ftp://x/",
            "nacos+http://n:8848/",
            "nacos+http://n:8848/?service=a&path=mcp",
            "nacos+http://n:8848/?service=a&what=b",
        ] {
            assert!(source(wrong).unwrap().is_err(), "{wrong}");
        }
        assert!(source("http://dns+x/").is_none());
        let Some(Ok(SourceUrl::Nacos(found))) = source("nacos+https://a%40b:p%3A@n/context/?service=s%26t&group=g")
        else {
            panic!("it is one");
        };
        assert_eq!((found.api.as_str(), found.login), ("https://n/context", Some(("a@b".into(), "p:".into()))));
        assert_eq!((found.service.as_str(), found.group.as_str(), found.path.as_str()), ("s&t", "g", "/sse"));
    }
}
