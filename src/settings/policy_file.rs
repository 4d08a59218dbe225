//! The file of rules (TOML), and what it may say.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use super::parse::Parsed;

/// A rule: all that it says must fit, and then it allows.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Said to who is refused.
    pub name: String,
    /// Principals, as `key:ci` or `token:*`; `anybody` where nobody is asked who he is.
    who: Patterns,
    #[serde(default)]
    services: Patterns,
    /// Methods, besides those that every session needs.
    #[serde(default)]
    pub methods: Patterns,
    /// Names of tools.
    #[serde(default)]
    pub tools: Patterns,
    /// Names of prompts.
    #[serde(default)]
    pub prompts: Patterns,
    /// URIs of resources.
    #[serde(default)]
    pub resources: Patterns,
    /// Scopes that the credential must have.
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// Texts in which `*` stands for any text. Left out: anything.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct Patterns(Vec<String>);

impl Default for Patterns {
    fn default() -> Self {
        Self(vec!["*".to_owned()])
    }
}

impl Patterns {
    /// One of them fits.
    pub fn covers(&self, text: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, text))
    }

    /// Any text fits.
    pub fn are_all(&self) -> bool {
        self.0.iter().any(|pattern| pattern == "*")
    }

    /// `[]`: none ever fits.
    pub fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }
}

/// `*` is any text, all else itself.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        // The first place is the best: it leaves most for what follows.
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

impl Rule {
    /// It is about this principal (`kind:name`) at this service.
    pub fn is_about(&self, who: &str, service: &str) -> bool {
        self.who.covers(who) && self.services.covers(service)
    }
}

/// A file of rules, as it was read.
#[derive(Debug, Clone)]
pub struct PolicyFile {
    path: PathBuf,
    rules: Vec<Arc<Rule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    rule: Vec<Rule>,
}

impl PolicyFile {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|fault| fault.to_string())?;
        let written: Written = toml::from_str(&text).map_err(|fault| fault.to_string())?;
        let mut names = HashSet::new();
        for rule in &written.rule {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if !(1..=64).contains(&rule.name.len()) || !rule.name.chars().all(is_plain) {
                return Err(format!(
                    "the name {:?} of a rule is not 1 to 64 characters of A-Z a-z 0-9 . _ -",
                    rule.name
                ));
            }
            if !names.insert(&rule.name) {
                return Err(format!("two rules have the name {:?}", rule.name));
            }
        }
        Ok(Self { path: path.to_owned(), rules: written.rule.into_iter().map(Arc::new).collect() })
    }

    /// Reads it again.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_again(&self) -> Result<Self, String> {
        Self::read(&self.path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says.
    pub fn rules(&self) -> Vec<Arc<Rule>> {
        self.rules.clone()
    }
}

/// Reads it where it is named, as all files that settings name.
pub(super) fn policy_file(text: &str) -> Parsed<PolicyFile> {
    PolicyFile::read(Path::new(text))
        .map_err(|fault| format!("a readable file of rules (docs/operations.md#who-may-do-what): {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "x", true),
            ("", "", true),
            ("", "x", false),
            ("get*", "getPerson", true),
            ("get*", "forget", false),
            ("*get", "forget", true),
            ("file:///a/*.md", "file:///a/b/c.md", true),
            ("file:///a/*.md", "file:///a/b.mdx", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("get", "GET", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
