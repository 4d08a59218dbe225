//! The file of credentials towards servers (TOML), and the files of secrets that it names.

use std::{
    collections::HashSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use actix_web::http::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use url::Url;

use super::{auth::is_trusted_url, parse::Parsed, value::Secret};

/// Longest secret that is read, in bytes.
const SECRET_MAX: usize = 8 << 10;

/// By what the router shows servers of one service who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceCredential {
    /// The same header in each request.
    Header {
        /// Its name.
        name: HeaderName,
        /// Its value, which shows itself to nobody.
        value: HeaderValue,
    },
    /// A token of an authorization server.
    Grant(Grant),
}

/// How tokens are had (RFC 6749, section 4.4; RFC 8693).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Where.
    pub token_endpoint: Url,
    /// As whom.
    pub client_id: String,
    /// And by what.
    pub client_secret: Secret,
    /// With which scopes; empty: as the authorization server has it.
    pub scope: String,
    /// For which resource (RFC 8707).
    pub resource: Option<String>,
    /// For whom, as the authorization server names it (RFC 8693, section 2.1).
    pub audience: Option<String>,
    /// In the name of who asks: his token is exchanged. Else in the router's own.
    pub as_user: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    service: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    header: Option<String>,
    value_file: Option<PathBuf>,
    token_endpoint: Option<String>,
    client_id: Option<String>,
    client_secret_file: Option<PathBuf>,
    #[serde(default)]
    scope: String,
    resource: Option<String>,
    audience: Option<String>,
    #[serde(default)]
    as_user: bool,
}

/// A file of credentials, as it was read, with the secrets of the files that it names.
#[derive(Clone)]
pub struct CredentialsFile {
    path: PathBuf,
    secrets: Vec<PathBuf>,
    services: Vec<(String, ServiceCredential)>,
}

impl fmt::Debug for CredentialsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl CredentialsFile {
    /// It, and the files that it names.
    pub fn paths(&self) -> Vec<PathBuf> {
        std::iter::once(&self.path).chain(&self.secrets).cloned().collect()
    }

    /// What it says of each service.
    pub fn services(&self) -> &[(String, ServiceCredential)] {
        &self.services
    }

    /// Reads it again.
    ///
    /// # Errors
    /// What is wrong with it, in words; never a secret.
    pub fn read_again(&self) -> Result<Self, String> {
        Self::read(&self.path)
    }

    fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|fault| fault.to_string())?;
        // Its message shows the line: whoever writes a secret here instead of naming its file must not find it in a log.
        let written: Written =
            toml::from_str(&text).map_err(|fault| format!("{}{}", fault.message(), at(&text, fault.span())))?;
        let (mut names, mut secrets, mut services) = (HashSet::new(), Vec::new(), Vec::new());
        let folder = path.parent().unwrap_or(Path::new(""));
        for entry in written.service {
            let name = entry.name.clone();
            if !names.insert(name.clone()) {
                return Err(format!("service {name:?} stands there twice"));
            }
            let credential = entry.read(folder, &mut secrets).map_err(|fault| format!("service {name:?}: {fault}"))?;
            services.push((name, credential));
        }
        Ok(Self { path: path.to_owned(), secrets, services })
    }
}

fn at(text: &str, span: Option<std::ops::Range<usize>>) -> String {
    let line = span.and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
    line.map(|line| format!(" (line {line})")).unwrap_or_default()
}

impl Entry {
    fn read(self, folder: &Path, secrets: &mut Vec<PathBuf>) -> Result<ServiceCredential, String> {
        let mut secret = |path: PathBuf| {
            // As seen from the file that names it.
            let path = folder.join(path);
            let read = fs::read_to_string(&path).map_err(|fault| format!("{}: {fault}", path.display()))?;
            let text = read.trim();
            if text.is_empty() || text.len() > SECRET_MAX || !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                return Err(format!("{} holds no secret (one line of visible ASCII)", path.display()));
            }
            secrets.push(path);
            Ok(text.to_owned())
        };
        match self {
            Self {
                value_file: Some(file),
                header,
                token_endpoint: None,
                client_id: None,
                client_secret_file: None,
                ..
            } => {
                let name = header.as_deref().unwrap_or("Authorization");
                let name = name.parse().map_err(|_| format!("{name:?} is no name of a header"))?;
                if is_the_transports(&name) {
                    return Err(format!("the header {name} is the transport's own"));
                }
                let mut value = HeaderValue::from_str(&secret(file)?).map_err(|_| "no value of a header".to_owned())?;
                value.set_sensitive(true);
                Ok(ServiceCredential::Header { name, value })
            }
            Self {
                token_endpoint: Some(url),
                client_id: Some(client_id),
                client_secret_file: Some(file),
                value_file: None,
                header: None,
                scope,
                resource,
                audience,
                as_user,
                ..
            } => {
                let token_endpoint = Url::parse(&url).ok().filter(|_| is_trusted_url(&url));
                let token_endpoint = token_endpoint.ok_or("token_endpoint is no https URL (http on this machine)")?;
                let client_secret = Secret::new(&secret(file)?);
                let grant = Grant { token_endpoint, client_id, client_secret, scope, resource, audience, as_user };
                Ok(ServiceCredential::Grant(grant))
            }
            _ => Err("value_file, or token_endpoint with client_id and client_secret_file, is needed".to_owned()),
        }
    }
}

fn is_the_transports(name: &HeaderName) -> bool {
    let names =
        ["host", "content-type", "content-length", "transfer-encoding", "connection", "accept", "last-event-id"];
    names.contains(&name.as_str()) || name.as_str().starts_with("mcp-")
}

/// Reads it where it is named, as all files that settings name.
pub(super) fn credentials_file(text: &str) -> Parsed<CredentialsFile> {
    CredentialsFile::read(Path::new(text)).map_err(|fault| {
        format!("a readable file of credentials (docs/operations.md#credentials-towards-servers): {fault}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(folder: &Path, text: &str) -> Result<Vec<(String, ServiceCredential)>, String> {
        let path = folder.join("credentials.toml");
        fs::write(&path, text).unwrap();
        CredentialsFile::read(&path).map(|file| file.services)
    }

    #[test]
    fn a_service_has_a_header_or_a_grant_and_its_secrets_stand_in_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "Bearer open-sesame\n").unwrap();
        let text = r#"
            [[service]]
            name = "a"
            value_file = "secret"
            [[service]]
            name = "b"
            token_endpoint = "https://auth.example/token"
            client_id = "router"
            client_secret_file = "secret"
            as_user = true
        "#;
        let services = read(folder.path(), text).unwrap();
        let ServiceCredential::Header { name, value } = &services[0].1 else { panic!("{services:?}") };
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("authorization", "Bearer open-sesame"));
        let ServiceCredential::Grant(grant) = &services[1].1 else { panic!("{services:?}") };
        assert!(grant.as_user && grant.client_secret.expose() == "Bearer open-sesame");
        // SEC-2
        assert!(!format!("{services:?}").contains("sesame"));
    }

    #[test]
    fn what_is_wrong_with_it_is_told_without_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "open-sesame").unwrap();
        fs::write(folder.path().join("empty"), "\n").unwrap();
        let entry = |more: &str| format!("[[service]]\nname = \"a\"\n{more}");
        for (text, told) in [
            (entry(""), "is needed"),
            (entry("value = \"open-sesame\""), "line 3"),
            (entry("value_file = \"none\""), "none"),
            (entry("value_file = \"empty\""), "no secret"),
            (entry("value_file = \"secret\"\nheader = \"Mcp-Session-Id\""), "transport"),
            (entry("value_file = \"secret\"\nclient_id = \"x\""), "is needed"),
            (
                entry("token_endpoint = \"http://auth.example\"\nclient_id = \"x\"\nclient_secret_file = \"secret\""),
                "https",
            ),
            (entry("value_file = \"secret\"\n[[service]]\nname = \"a\"\nvalue_file = \"secret\""), "twice"),
        ] {
            let fault = read(folder.path(), &text).unwrap_err();
            assert!(fault.contains(told) && !fault.contains("sesame"), "{fault}");
        }
    }
}
