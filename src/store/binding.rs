//! To whom a session answers: what the store keeps of the principal that opened it, and the rule. SEC-1
//!
//! The rule stands here for the embedded store and for what was loaded, and in `lua/stranger.lua` for Redis; the contract
//! tests hold both against each other.

use std::sync::Arc;

use crate::fault;

/// What the store keeps of a principal. The default is nobody in particular: nobody was asked who he is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding(Option<Arc<Bound>>);

#[derive(Debug, PartialEq, Eq)]
struct Bound {
    principal: String,
    scopes: String,
    rules: String,
}

impl Binding {
    /// `principal`: a hash of who it is and of the class of its credential, the same for each of its credentials of that
    /// class; without spaces, not `*`. `scopes`: what the credential allows, in words.
    pub fn new<'s>(principal: &str, scopes: impl IntoIterator<Item = &'s str>) -> Self {
        let mut scopes: Vec<&str> = scopes.into_iter().collect();
        scopes.sort_unstable();
        scopes.dedup();
        Self::stored(principal.to_owned(), scopes.join(" "), String::new())
    }

    /// As the store has it.
    pub(super) fn stored(principal: String, scopes: String, rules: String) -> Self {
        let is_nobody = principal.is_empty() && scopes.is_empty() && rules.is_empty();
        Self((!is_nobody).then(|| Arc::new(Bound { principal, scopes, rules })))
    }

    /// With the names of the rules that are about it, for the owner of its session.
    pub fn with_rules(&self, rules: String) -> Self {
        Self::stored(self.principal().to_owned(), self.scopes().to_owned(), rules)
    }

    /// Names with a space between them. They say nothing of whose the session is.
    pub fn rules(&self) -> &str {
        self.0.as_ref().map_or("", |bound| &bound.rules)
    }

    /// Empty: nobody in particular.
    pub fn principal(&self) -> &str {
        self.0.as_ref().map_or("", |bound| &bound.principal)
    }

    /// Words in alphabetical order, with a space between them.
    pub fn scopes(&self) -> &str {
        self.0.as_ref().map_or("", |bound| &bound.scopes)
    }

    /// The session that belongs to this one answers to who `asks`: it is the same principal, by a credential that allows
    /// no less than those by which the session was used. To others the session does not exist.
    pub fn admits(&self, asks: &Self) -> bool {
        if fault::unprotected(fault::BINDING) || self == asks {
            return true;
        }
        let given = asks.scopes();
        let has = |word: &str| given.split(' ').any(|given| given == word);
        self.principal() == asks.principal() && self.scopes().split(' ').filter(|word| !word.is_empty()).all(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_answers_to_its_principal_with_no_weaker_credential() {
        let opened = Binding::new("p", ["b", "a", "a"]);
        assert_eq!((opened.principal(), opened.scopes()), ("p", "a b"));
        for (asks, expected) in [
            (Binding::new("p", ["a", "b"]), true),
            (Binding::new("p", ["c", "b", "a"]), true),
            (Binding::new("p", ["a"]), false),
            (Binding::new("p", ["ab"]), false),
            (Binding::new("p", []), false),
            (Binding::new("q", ["a", "b"]), false),
            (Binding::default(), false),
        ] {
            assert_eq!(opened.admits(&asks), expected, "{asks:?}");
        }
        // Nobody was asked then; now somebody is.
        assert!(!Binding::default().admits(&opened) && Binding::default().admits(&Binding::default()));
        assert!(Binding::new("p", []).admits(&opened));
    }
}
