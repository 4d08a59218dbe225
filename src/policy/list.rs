//! What a message says, read so that it can be read in no other way; and lists without what their client may not have.

use std::borrow::Cow;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::Grant;
use crate::protocol::jsonrpc::{Head, with_part};

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// `tools/list`
    Tools,
    /// `prompts/list`
    Prompts,
    /// `resources/list`
    Resources,
    /// `resources/templates/list`
    ResourceTemplates,
}

impl List {
    /// By the method that asks for it.
    pub fn of(method: &str) -> Option<Self> {
        match method {
            "tools/list" => Some(Self::Tools),
            "prompts/list" => Some(Self::Prompts),
            "resources/list" => Some(Self::Resources),
            "resources/templates/list" => Some(Self::ResourceTemplates),
            _ => None,
        }
    }

    /// Where it stands in the result, and by what its items are known.
    fn members(self) -> (&'static str, &'static str) {
        match self {
            Self::Tools => ("tools", "name"),
            Self::Prompts => ("prompts", "name"),
            Self::Resources => ("resources", "uri"),
            Self::ResourceTemplates => ("resourceTemplates", "uriTemplate"),
        }
    }
}

/// An object as it is written, each member of it.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        #[derive(Deserialize, PartialEq, Eq, Hash)]
        struct Key<'k>(#[serde(borrow)] Cow<'k, str>);
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(name), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

impl Members<'_> {
    /// Each of these names stands there once at most, and nothing that some readers take for it: there are those that do
    /// not look at case, not even at that of `ſ` and the Kelvin sign.
    fn are_plain(&self, names: &[&str]) -> bool {
        names.iter().all(|name| {
            let mut like = self.0.iter().filter(|(member, _)| is_like(member, name));
            like.next().is_none_or(|(member, _)| member == name) && like.next().is_none()
        })
    }
}

/// The same but for case, by the widest reading: any letter of which either case is one of ASCII (Go folds `ſ` to s, Java
/// `ı` to i). `name`: of ASCII.
fn is_like(member: &str, name: &str) -> bool {
    let folded = |letter: char| letter.to_uppercase().next().and_then(|upper| upper.to_lowercase().next());
    member.eq_ignore_ascii_case(name) || !member.is_ascii() && member.chars().map(folded).eq(name.chars().map(folded))
}

/// A URI of which some reader makes another one above it: by a segment `..`, plain or escaped, behind `/` or `\\`, and with
/// the characters in it that readers of URLs pass over.
pub(super) fn climbs(uri: &str) -> bool {
    let plain: Vec<u8> = percent_decode_str(uri).filter(|byte| !matches!(byte, b'\t' | b'\r' | b'\n')).collect();
    plain.split(|byte| matches!(byte, b'/' | b'\\' | b'?' | b'#')).any(|segment| segment == b"..")
}

/// The object has each of these members once at most, in whatever way it is read.
pub(super) fn is_plain(object: &[u8], names: &[&str]) -> bool {
    serde_json::from_slice::<Members<'_>>(object).is_ok_and(|members| members.are_plain(names))
}

/// A text member of an object that can be read in one way only.
pub(super) fn text_of(object: &str, name: &str) -> Option<String> {
    let members: Members<'_> = serde_json::from_str(object).ok()?;
    if !members.are_plain(&[name]) {
        return None;
    }
    let (_, value) = members.0.iter().find(|(member, _)| member == name)?;
    serde_json::from_str(value.get()).ok()
}

/// The resources that are listened to (2026-07-28, `subscriptions/listen`). `None`: that can be read in two ways.
pub(super) fn listened(params: &str) -> Option<Vec<String>> {
    let member = |object: &str, name: &str| -> Option<Option<String>> {
        let members: Members<'_> = serde_json::from_str(object).ok()?;
        let value = members.0.iter().find(|(member, _)| member == name).map(|(_, value)| value.get().to_owned());
        members.are_plain(&[name]).then_some(value)
    };
    let Some(notifications) = member(params, "notifications")? else { return Some(Vec::new()) };
    match member(&notifications, "resourceSubscriptions")? {
        Some(uris) => serde_json::from_str(&uris).ok(),
        None => Some(Vec::new()),
    }
}

/// Of what completion is asked: of a prompt, or of a resource.
pub(super) fn completed(params: &str) -> Option<(bool, String)> {
    let members: Members<'_> = serde_json::from_str(params).ok()?;
    let (_, of) = members.0.iter().find(|(member, _)| member == "ref").filter(|_| members.are_plain(&["ref"]))?;
    match text_of(of.get(), "type")?.as_str() {
        "ref/prompt" => Some((true, text_of(of.get(), "name")?)),
        "ref/resource" => Some((false, text_of(of.get(), "uri")?)),
        _ => None,
    }
}

/// The grant shows this tool, as it stands in a list.
pub fn shows_tool(grant: &Grant, tool: &RawValue) -> bool {
    text_of(tool.get(), "name").is_some_and(|name| grant.shows(List::Tools, &name))
}

/// The answer without what the grant does not show. Other bytes stay. `None`: what is there is no such list, and goes on to
/// nobody.
pub fn filtered(list: List, grant: &Grant, answer: &Bytes) -> Option<Bytes> {
    let head = Head::parse(answer).ok()?;
    // An error has no list.
    let Some(result) = head.result.map(RawValue::get).filter(|result| *result != "null") else {
        return Some(answer.clone());
    };
    let (member, key) = list.members();
    let members: Members<'_> = serde_json::from_str(result).ok()?;
    if !members.are_plain(&[member]) {
        return None;
    }
    let Some((_, items)) = members.0.iter().find(|(name, _)| name == member) else { return Some(answer.clone()) };
    let all: Vec<&RawValue> = serde_json::from_str(items.get()).ok()?;
    let shown = |item: &&&RawValue| text_of(item.get(), key).is_some_and(|name| grant.shows(list, &name));
    let kept: Vec<&str> = all.iter().filter(shown).map(|item| item.get()).collect();
    if kept.len() == all.len() {
        return Some(answer.clone());
    }
    Some(with_part(answer, items.get(), &format!("[{}]", kept.join(","))))
}
