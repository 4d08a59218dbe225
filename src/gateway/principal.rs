//! Who asks ([`Principal`]): established once a request by the surface by which it comes, and handed down to the store, which
//! keeps the sessions of one from all others. SEC-1
//!
//! It holds no credential, only who has shown one and of which kind: two keys of one name, or two tokens of one subject, are
//! the same principal; a key and a token never are.

use std::{fmt, sync::Arc};

use sha2::{Digest as _, Sha256};

use crate::{
    policy::{Grant, Policy},
    store::Binding,
};

/// By what somebody shows who he is: the class of the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A key that this deployment has given out.
    Key,
    /// A token of an authorization server.
    Token,
    /// A header of a trusted proxy, which has asked for the credential itself.
    Proxy,
}

impl Kind {
    /// As policies, logs and the store call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Token => "token",
            Self::Proxy => "proxy",
        }
    }
}

/// See the module's text. The default is nobody in particular, where nobody is asked who he is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Principal(Option<Arc<Known>>);

#[derive(PartialEq, Eq)]
struct Known {
    kind: Kind,
    name: String,
    binding: Binding,
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Principal").field(&self.0.as_ref().map(|known| known.kind)).finish()
    }
}

impl Principal {
    /// Somebody. `issuer`: who gives such names, if there are several. `scopes`: what the credential allows.
    pub fn new<'s>(kind: Kind, issuer: &str, name: &str, scopes: impl IntoIterator<Item = &'s str>) -> Self {
        let mut hasher = Sha256::new();
        for part in [kind.name(), issuer, name] {
            // With its length, so that no two of them read the same.
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let hash = data_encoding::HEXLOWER.encode(&hasher.finalize()[..16]);
        let binding = Binding::new(&format!("{}:{hash}", kind.name()), scopes);
        Self(Some(Arc::new(Known { kind, name: name.to_owned(), binding })))
    }

    /// Somebody was asked who he is, and has shown it.
    pub fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// What the store keeps of it.
    pub fn binding(&self) -> Binding {
        self.0.as_ref().map(|known| known.binding.clone()).unwrap_or_default()
    }

    /// As rules name it.
    pub fn who(&self) -> String {
        self.0.as_ref().map_or_else(|| "anybody".to_owned(), |known| format!("{}:{}", known.kind.name(), known.name))
    }

    /// What the rules say of it at this service; `None`: there are none.
    pub fn grant(&self, policy: Option<&Policy>, service: &str) -> Option<Grant> {
        let binding = self.binding();
        let has = |scope: &str| binding.scopes().split(' ').any(|given| given == scope);
        policy.map(|policy| policy.grant(&self.who(), service, has))
    }

    /// By what it has shown itself.
    pub fn kind(&self) -> Option<Kind> {
        self.0.as_ref().map(|known| known.kind)
    }

    /// Its name, as who gives such names spells it; empty for nobody in particular. Not for logs.
    pub fn name(&self) -> &str {
        self.0.as_ref().map_or("", |known| &known.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SEC-1
    #[test]
    fn a_principal_is_who_has_which_kind_of_credential_from_whom() {
        let one = Principal::new(Kind::Key, "", "marvin", []);
        assert_eq!(one.binding(), Principal::new(Kind::Key, "", "marvin", []).binding());
        for other in [
            Principal::new(Kind::Key, "", "marvi", []),
            Principal::new(Kind::Key, "mar", "vin", []),
            Principal::new(Kind::Proxy, "", "marvin", []),
            Principal::default(),
        ] {
            assert_ne!(one.binding().principal(), other.binding().principal());
            assert!(!one.binding().admits(&other.binding()));
        }
        assert!(one.is_known() && !Principal::default().is_known());
        // SEC-2: neither the store nor a log has its name.
        assert!(!one.binding().principal().contains("marvin") && !format!("{one:?}").contains("marvin"));
    }
}
