//! The list of services and their endpoints: `name=url,url;name2=url`.

use url::Url;

use super::{
    parse::{Parsed, is_name},
    source_url::source,
    upstream_url::UpstreamUrl,
    value::UpstreamService,
};

/// Names that stand for something else in the router's own paths, and so cannot name a service.
const RESERVED: [&str; 2] = ["router", "message"];

/// Reads the whole list and tells everything that is wrong with it. Empty text is no service; one `;` may end the list.
pub(super) fn upstreams(text: &str) -> Parsed<Vec<UpstreamService>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut services: Vec<UpstreamService> = Vec::new();
    let mut faults = Vec::new();
    let entries = text.strip_suffix(';').unwrap_or(text).split(';');
    for (position, entry) in entries.enumerate() {
        match service(entry.trim()) {
            Ok(service) if services.iter().any(|known| known.name == service.name) => {
                faults.push(format!("each service once ({} stands there twice)", service.name));
            }
            Ok(service) => services.push(service),
            Err(expected) => faults.push(format!("{expected} (service {})", position + 1)),
        }
    }
    if faults.is_empty() { Ok(services) } else { Err(format!("name=url,url;name2=url with {}", faults.join("; "))) }
}

pub(super) fn service(entry: &str) -> Parsed<UpstreamService> {
    let (name, urls) = entry.split_once('=').ok_or("a name and = before the URLs")?;
    let name = name.trim();
    let well_formed = is_name(name, 64) && !name.contains(':') && name != "." && name != "..";
    if !well_formed {
        return Err("a name of 1 to 64 characters of A-Z a-z 0-9 . _ -".to_owned());
    }
    if RESERVED.contains(&name) {
        return Err(format!("a name other than {}, which the router's own paths use", RESERVED.join(" and ")));
    }
    let (mut endpoints, mut sources) = (Vec::new(), Vec::new());
    for url in urls.split(',') {
        if let Some(source) = source(url.trim()) {
            let source = source?;
            if sources.contains(&source) {
                return Err("each URL of a service once".to_owned());
            }
            sources.push(source);
            continue;
        }
        let endpoint = endpoint(url.trim())?;
        if endpoints.contains(&endpoint) {
            return Err("each URL of a service once".to_owned());
        }
        endpoints.push(endpoint);
    }
    Ok(UpstreamService { name: name.to_owned(), endpoints, sources })
}

fn endpoint(text: &str) -> Parsed<UpstreamUrl> {
    if text.is_empty() {
        return Err("at least one URL for each service, and none empty".to_owned());
    }
    let url = Url::parse(text).map_err(|fault| format!("URLs such as http://127.0.0.1:8071 ({fault})"))?;
    match url.scheme() {
        "http" => {}
        // A certificate is for a name; awc takes the brackets for a part of it.
        "https" if matches!(url.host(), Some(url::Host::Ipv6(_))) => {
            return Err("https URLs with a host name or an IPv4 address".to_owned());
        }
        "https" => {}
        _ => return Err("http or https URLs, or dns+http, dns+srv+http, nacos+http ones".to_owned()),
    }
    if url.fragment().is_some() {
        return Err("URLs without a fragment".to_owned());
    }
    Ok(UpstreamUrl::new(url))
}
