//! What a message says, read so that it can be read in no other way; and lists without what their client may not have.

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use super::Grant;
use crate::protocol::{
    jsonrpc::{Head, with_part},
    members::Members,
};

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
    let members = Members::of(object)?;
    if !members.are_plain(&[name]) {
        return None;
    }
    serde_json::from_str(members.get(name)?).ok()
}

/// The resources that are listened to (2026-07-28, `subscriptions/listen`). `None`: that can be read in two ways.
pub(super) fn listened(params: &str) -> Option<Vec<String>> {
    let member = |object: &str, name: &str| -> Option<Option<String>> {
        let members = Members::of(object)?;
        let value = members.get(name).map(str::to_owned);
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
    let members = Members::of(params)?;
    let of = members.get("ref").filter(|_| members.are_plain(&["ref"]))?;
    match text_of(of, "type")?.as_str() {
        "ref/prompt" => Some((true, text_of(of, "name")?)),
        "ref/resource" => Some((false, text_of(of, "uri")?)),
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
    let members = Members::of(result)?;
    if !members.are_plain(&[member]) {
        return None;
    }
    let Some(items) = members.get(member) else { return Some(answer.clone()) };
    let all: Vec<&RawValue> = serde_json::from_str(items).ok()?;
    let shown = |item: &&&RawValue| text_of(item.get(), key).is_some_and(|name| grant.shows(list, &name));
    let kept: Vec<&str> = all.iter().filter(shown).map(|item| item.get()).collect();
    if kept.len() == all.len() {
        return Some(answer.clone());
    }
    Some(with_part(answer, items, &format!("[{}]", kept.join(","))))
}
