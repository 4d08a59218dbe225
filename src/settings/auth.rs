//! How clients show who they are ([`Auth`]), and the file of keys ([`KeyFile`]), which is read where it is parsed, as all
//! files that settings name, so that what is wrong with it is told with whatever else is wrong.

use std::{
    collections::HashSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER_PERMISSIVE;
use url::{Host, Url};

use super::{
    parse::{Parsed, is_name},
    value::Secret,
};

/// By what clients show who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Nobody has said; enough only where nobody but this machine can ask.
    Unset,
    /// Nobody is asked, and that is meant.
    Off,
    /// By one of these.
    By {
        /// Keys of the file `MCP_AUTH_KEYS_FILE`.
        keys: bool,
        /// Tokens of the issuer `MCP_AUTH_ISSUER`.
        tokens: bool,
        /// The header `MCP_AUTH_PROXY_HEADER` of a trusted proxy.
        proxy: bool,
    },
}

impl Auth {
    /// By keys.
    pub fn by_keys(self) -> bool {
        matches!(self, Self::By { keys: true, .. })
    }

    /// By tokens.
    pub fn by_tokens(self) -> bool {
        matches!(self, Self::By { tokens: true, .. })
    }

    /// By a trusted proxy's word.
    pub fn by_proxy(self) -> bool {
        matches!(self, Self::By { proxy: true, .. })
    }
}

pub(super) fn auth(text: &str) -> Parsed<Auth> {
    match text {
        "" => return Ok(Auth::Unset),
        "none" => return Ok(Auth::Off),
        _ => {}
    }
    let (mut keys, mut tokens, mut proxy) = (false, false, false);
    for kind in text.split(',') {
        let kind = match kind.trim() {
            "keys" => &mut keys,
            "tokens" => &mut tokens,
            "proxy" => &mut proxy,
            _ => return Err("none alone, or one or more of keys, tokens and proxy: keys,tokens".to_owned()),
        };
        *kind = true;
    }
    Ok(Auth::By { keys, tokens, proxy })
}

/// The name of a header that no client's program sends for something else.
pub(super) fn header_name(text: &str) -> Parsed<String> {
    let name = text.to_ascii_lowercase();
    let is_free = is_name(&name, 64) && !name.contains([':', '.']) && name.starts_with("x-");
    let is_taken = name.starts_with("x-forwarded-") || ["x-api-key", "x-request-id", "x-real-ip"].contains(&&*name);
    if is_free && !is_taken {
        Ok(name)
    } else {
        Err("the name of a header that begins with X- and has no other meaning, such as X-MCP-Principal".to_owned())
    }
}

/// Where the keys of the issuer of tokens are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Where its metadata say.
    Discovered,
    /// Here.
    Url(Url),
    /// In this file.
    File(PathBuf),
}

/// What comes from this URL comes from whom it names, unread by others: https, or on this machine.
pub fn is_trusted_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| match url.scheme() {
        "https" => url.has_host(),
        "http" => match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        },
        _ => false,
    })
}

/// An issuer, or a resource: as it is written, since tokens are compared with it.
pub(super) fn issuer(text: &str) -> Parsed<String> {
    let is_plain = |url: Url| url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if is_trusted_url(text) && Url::parse(text).is_ok_and(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("an https URL without a query, such as https://auth.example.com (http on this machine)".to_owned())
    }
}

pub(super) fn key_source(text: &str) -> Parsed<KeySource> {
    if !text.contains("://") {
        let path = PathBuf::from(text);
        fs::metadata(&path).map_err(|fault| format!("an https URL or a readable file ({fault})"))?;
        return Ok(KeySource::File(path));
    }
    let url = Url::parse(text).ok().filter(|_| is_trusted_url(text));
    url.map(KeySource::Url).ok_or_else(|| "an https URL (http on this machine) or a readable file".to_owned())
}

/// A URL by which nobody else can be reached.
pub(super) fn trusted_url(text: &str) -> Parsed<Url> {
    let url = Url::parse(text).ok().filter(|_| is_trusted_url(text));
    url.ok_or_else(|| "an https URL (http on this machine)".to_owned())
}

/// A file that holds one secret, in visible ASCII.
pub(super) fn secret_file(text: &str) -> Parsed<Secret> {
    const EXPECTED: &str = "a readable file with one line of visible ASCII";
    let read = fs::read_to_string(text).map_err(|fault| format!("{EXPECTED} ({fault})"))?;
    let secret = read.trim();
    if secret.is_empty() || !secret.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(EXPECTED.to_owned());
    }
    Ok(Secret::new(secret))
}

/// Words of RFC 6749, section 3.3.
pub(super) fn scopes(text: &str) -> Parsed<Vec<String>> {
    let is_scope = |scope: &str| scope.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E));
    let scopes: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
    if scopes.iter().all(|scope| is_scope(scope)) {
        Ok(scopes)
    } else {
        Err("scopes with spaces between them, such as mcp:use mcp:write".to_owned())
    }
}

/// What a key begins with, so that it is told from a token, and one that was left somewhere is known for what it is.
pub const KEY_PREFIX: &str = "mcpr_";

/// The SHA-256 of a key.
pub type KeyHash = [u8; 32];

/// Keys by which clients show who they are: each as its hash, with the name of who has it.
#[derive(Clone)]
pub struct KeyFile {
    path: PathBuf,
    keys: Vec<(String, KeyHash)>,
}

/// The hashes are no secrets, and of no use in a log.
impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("path", &self.path).field("keys", &self.keys.len()).finish()
    }
}

impl KeyFile {
    /// As it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name and hash of each key. Several keys may have one name: whoever has any of them is the same.
    pub fn keys(&self) -> &[(String, KeyHash)] {
        &self.keys
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// What is wrong with it, in words; never what stands in it.
    pub fn read_again(&self) -> Result<Self, String> {
        Self::read(&self.path)
    }

    /// # Errors
    /// As [`Self::read_again`].
    fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|fault| fault.to_string())?;
        let (mut keys, mut seen) = (Vec::new(), HashSet::new());
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) = key_of(line).ok_or_else(|| format!("line {} has another form", at + 1))?;
            if !seen.insert(hash) {
                return Err(format!("line {} has the key of an earlier one", at + 1));
            }
            keys.push((name.to_owned(), hash));
        }
        Ok(Self { path: path.to_owned(), keys })
    }
}

/// Who may have a key.
pub fn is_key_name(text: &str) -> bool {
    is_name(text, 64)
}

/// `<name> sha256:<64 hexadecimal digits>`
fn key_of(line: &str) -> Option<(&str, KeyHash)> {
    let mut words = line.split_ascii_whitespace();
    let (name, hash) = (words.next()?, words.next()?);
    let hash = HEXLOWER_PERMISSIVE.decode(hash.strip_prefix("sha256:")?.as_bytes()).ok()?;
    (is_key_name(name) && words.next().is_none()).then_some((name, hash.try_into().ok()?))
}

pub(super) fn key_file(text: &str) -> Parsed<KeyFile> {
    KeyFile::read(Path::new(text)).map_err(|fault| {
        format!("a readable file with lines such as \"ci sha256:<64 hexadecimal digits>\", as `mcp-router key ci` prints them ({fault})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_and_none_stands_alone() {
        assert_eq!(auth(""), Ok(Auth::Unset));
        assert_eq!(auth("none"), Ok(Auth::Off));
        assert_eq!(auth("keys"), Ok(Auth::By { keys: true, tokens: false, proxy: false }));
        assert_eq!(auth("proxy, tokens"), Ok(Auth::By { keys: false, tokens: true, proxy: true }));
        for wrong in ["none,keys", "key", "keys,", "Keys", "yes"] {
            assert!(auth(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_header_of_another_meaning_names_nobody() {
        assert_eq!(header_name("X-MCP-Principal"), Ok("x-mcp-principal".to_owned()));
        for wrong in ["", "Authorization", "x y", "X-Forwarded-For", "x-api-key", "x-a:b", "Host", "x-a\r\n"] {
            assert!(header_name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_of_keys_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let (one, two) = ("ab".repeat(32), "CD".repeat(32));
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            KeyFile::read(&path).map(|file| file.keys)
        };
        let keys = read(&format!("# who\n\nci sha256:{one}\n  ci\tsha256:{two}  \n")).unwrap();
        assert_eq!(keys, [("ci".to_owned(), [0xab; 32]), ("ci".to_owned(), [0xcd; 32])]);
        assert_eq!(read(""), Ok(Vec::new()));
        for wrong in [
            format!("ci {one}"),
            format!("ci sha256:{}", &one[2..]),
            format!("ci sha256:{one} x"),
            format!("sha256:{one}"),
            format!("a/b sha256:{one}"),
            format!("a sha256:{one}\nb sha256:{one}"),
        ] {
            let fault = read(&wrong).unwrap_err();
            assert!(fault.contains("line") && !fault.contains("abab"), "{fault}");
        }
        assert!(KeyFile::read(&folder.path().join("none")).is_err());
    }
}
