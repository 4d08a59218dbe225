//! A client's token on its way to the instance that needs it: by the store, which must not be able to read it. The key is
//! made of the client secret, which the router's instances share, and nobody else has but the authorization server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand::{SecureRandom as _, SystemRandom},
};

use super::{Credentials, Shown};

fn key(secret: &[u8]) -> Option<LessSafeKey> {
    let made = Salt::new(HKDF_SHA256, b"mcp-router").extract(secret);
    let key: UnboundKey = made.expand(&[b"subject token"], &AES_256_GCM).ok()?.into();
    Some(LessSafeKey::new(key))
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Credentials {
    /// `of`: the session to which it belongs; at another it opens nothing. `lasts`: how long the token counts. `None`: this
    /// service is not asked in its users' names.
    pub fn seal(&self, of: &str, shown: &Shown, lasts: Duration) -> Option<String> {
        let key = key(&self.secret_of_users()?)?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let ends = unix_now().saturating_add(lasts.as_secs());
        let mut sealed = format!("{ends}\n{}\n{}", shown.key, shown.token).into_bytes();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(of), &mut sealed).ok()?;
        Some(BASE64URL_NOPAD.encode(&[&nonce[..], &sealed].concat()))
    }

    /// `None`: it is not this session's, another client secret has sealed it, or the token does not count any more.
    pub fn open(&self, of: &str, sealed: &str) -> Option<Shown> {
        let key = key(&self.secret_of_users()?)?;
        let mut sealed = BASE64URL_NOPAD.decode(sealed.as_bytes()).ok()?;
        let (nonce, text) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = key.open_in_place(nonce, Aad::from(of), text).ok()?;
        let mut lines = std::str::from_utf8(text).ok()?.splitn(3, '\n');
        let (ends, key, token) = (lines.next()?, lines.next()?, lines.next()?);
        (ends.parse::<u64>().ok()? > unix_now()).then(|| Shown { key: key.into(), token: token.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Grant, Secret, ServiceCredential};

    fn credentials(secret: &str) -> Credentials {
        let credentials = Credentials::new(crate::metrics::Metrics::new().upstream_tokens);
        credentials.replace(Some(ServiceCredential::Grant(Grant {
            token_endpoint: "https://auth.example/token".parse().unwrap(),
            client_id: "router".to_owned(),
            client_secret: Secret::from(secret),
            scope: String::new(),
            resource: None,
            audience: None,
            as_user: true,
        })));
        credentials
    }

    #[test]
    fn only_its_session_and_its_secret_open_it_and_only_while_it_counts() {
        let (mine, other) = (credentials("open-sesame"), credentials("open-barley"));
        let shown = Shown { key: "token:ab mcp:use".into(), token: "ey.x.y".to_owned() };
        let hour = Duration::from_secs(3600);
        let sealed = mine.seal("session", &shown, hour).unwrap();
        assert!(!sealed.contains("ey.x.y") && sealed != mine.seal("session", &shown, hour).unwrap());
        let opened = mine.open("session", &sealed).unwrap();
        assert_eq!((&*opened.key, &*opened.token), ("token:ab mcp:use", "ey.x.y"));
        assert!(mine.open("another", &sealed).is_none() && other.open("session", &sealed).is_none());
        assert!(mine.open("session", "").is_none() && mine.open("session", &sealed[1..]).is_none());
        let over = mine.seal("session", &shown, Duration::ZERO).unwrap();
        assert!(mine.open("session", &over).is_none());
    }
}
