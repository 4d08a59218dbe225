//! Of which era a request is: its header and its `_meta` say so, and must say the same (2026-07-28, Versioning, and Server
//! Validation of the transport). Also what else a header must say of the body.

use super::{
    GET_PROMPT, READ_RESOURCE, VERSION, header,
    meta::Said,
    refusal::{Refusal, Refusal::Headers},
};
use crate::protocol::mcp;

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// 2024-11-05 to 2025-11-25: a session, begun by `initialize`.
    Sessions,
    /// 2026-07-28: each request for itself.
    Stateless,
}

/// A header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown<'h> {
    /// It has none of this name.
    Nothing,
    /// It has one.
    One(&'h [u8]),
    /// It has several.
    Several,
}

impl<'h> Shown<'h> {
    /// Of all the headers of one name.
    pub fn of(mut all: impl Iterator<Item = &'h [u8]>) -> Self {
        match (all.next(), all.next()) {
            (None, _) => Self::Nothing,
            (Some(one), None) => Self::One(one),
            (Some(_), Some(_)) => Self::Several,
        }
    }

    fn text(self, name: &'static str) -> Result<&'h str, Refusal> {
        match self {
            Self::Nothing => Err(Headers(format!("the header {name} is missing"))),
            Self::Several => Err(Headers(format!("the header {name} stands there more than once"))),
            Self::One(value) => {
                let text =
                    std::str::from_utf8(value).ok().filter(|text| !text.contains(|letter: char| letter.is_control()));
                text.map(str::trim)
                    .ok_or_else(|| Headers(format!("the header {name} has characters that no header has")))
            }
        }
    }

    /// It names a version of this era.
    pub fn is_stateless(self) -> bool {
        matches!(self, Self::One(value) if std::str::from_utf8(value).is_ok_and(mcp::is_without_sessions))
    }
}

/// Of which era a message is. `shown`: its `MCP-Protocol-Version`; `method`: of a request or notification; `said`: its
/// parameters, if they can be read; `has_session`: it names a session.
///
/// # Errors
/// Header and `_meta` say different things; the version is served in neither way.
pub fn era(shown: Shown<'_>, method: &str, said: Option<&Said<'_>>, has_session: bool) -> Result<Era, Refusal> {
    let named = said.and_then(Said::version);
    let Some(named) = named else {
        // Clients of both eras offer this version in a handshake, too: which one it begins is for its answer to say.
        let is_stateless = shown.is_stateless() && method != mcp::INITIALIZE;
        return Ok(if is_stateless { Era::Stateless } else { Era::Sessions });
    };
    if has_session && mcp::VERSIONS.contains(&named) && !shown.is_stateless() {
        return Ok(Era::Sessions);
    }
    let shown = shown.text("MCP-Protocol-Version")?;
    if shown != named {
        return Err(Headers(format!("MCP-Protocol-Version is {shown:?}, and params._meta says {named:?}")));
    }
    if named != VERSION {
        return Err(Refusal::Version { requested: named.to_owned() });
    }
    Ok(Era::Stateless)
}

/// What `Mcp-Name` says of a request of this method. `None`: it has no such header.
pub fn named<'s>(method: &str, said: &'s Said<'_>) -> Option<Option<&'s str>> {
    match method {
        mcp::CALL_TOOL | GET_PROMPT => Some(said.name.as_deref()),
        READ_RESOURCE => Some(said.uri.as_deref()),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some(said.task_id.as_deref()),
        _ => None,
    }
}

/// `Mcp-Method` and `Mcp-Name` say what the body of a request says.
///
/// # Errors
/// They do not.
pub fn agree(shown_method: Shown<'_>, shown_name: Shown<'_>, method: &str, said: &Said<'_>) -> Result<(), Refusal> {
    let shown = shown_method.text("Mcp-Method")?;
    if shown != method {
        return Err(Headers(format!("Mcp-Method is {shown:?}, and the body says {method:?}")));
    }
    let Some(expected) = named(method, said) else { return Ok(()) };
    // Tasks are of an extension, whose clients need not send it.
    if method.starts_with("tasks/") && shown_name == Shown::Nothing {
        return Ok(());
    }
    let Some(expected) = expected else {
        return Err(Refusal::Params("params does not say whom this is about: name, or uri of a resource"));
    };
    let shown = shown_name.text("Mcp-Name")?;
    match header::decoded(shown.as_bytes()) {
        Some(value) if value == expected => Ok(()),
        Some(value) => Err(Headers(format!("Mcp-Name is {value:?}, and the body says {expected:?}"))),
        None => Err(Headers("Mcp-Name cannot be read".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn one(text: &str) -> Shown<'_> {
        Shown::One(text.as_bytes())
    }

    fn params(version: Option<&str>) -> Box<RawValue> {
        let meta = version.map_or_else(
            || "{}".to_owned(),
            |version| format!(r#"{{"io.modelcontextprotocol/protocolVersion":"{version}"}}"#),
        );
        RawValue::from_string(format!(r#"{{"name":"é","uri":"file:///a","_meta":{meta}}}"#)).unwrap()
    }

    #[test]
    fn the_era_is_what_header_and_meta_say_together() {
        let mismatch = |result: Result<Era, Refusal>| matches!(result, Err(Headers(_)));
        let (old, new) = ("2025-11-25", VERSION);
        let of = |shown: Shown<'_>, named: Option<&str>, method: &str, has_session| {
            let params = params(named);
            era(shown, method, Some(&Said::of(Some(&params)).unwrap()), has_session)
        };
        assert_eq!(of(one(new), Some(new), "tools/list", false), Ok(Era::Stateless));
        assert_eq!(of(one(new), Some(new), "tools/list", true), Ok(Era::Stateless), "the session is ignored");
        assert_eq!(of(one(new), None, "tools/list", false), Ok(Era::Stateless), "and what is missing is told");
        assert_eq!(of(one(new), None, "initialize", false), Ok(Era::Sessions));
        assert_eq!(of(one(new), Some(new), "initialize", false), Ok(Era::Stateless));
        for (shown, has_session) in [(Shown::Nothing, false), (one(old), false), (one(old), true)] {
            assert_eq!(of(shown, None, "tools/list", has_session), Ok(Era::Sessions));
            assert!(mismatch(of(shown, Some(new), "tools/list", has_session)), "{shown:?}");
        }
        assert!(mismatch(of(one(new), Some(old), "tools/list", true)));
        assert!(mismatch(of(Shown::Several, Some(new), "tools/list", false)));
        assert_eq!(of(one(old), Some(old), "tools/list", true), Ok(Era::Sessions));
        for version in [old, "2099-01-01", "1999-01-01"] {
            let expected = Err(Refusal::Version { requested: version.to_owned() });
            assert_eq!(of(one(version), Some(version), "tools/list", false), expected);
        }
        assert_eq!(era(one(new), "tools/list", None, false), Ok(Era::Stateless));
    }

    #[test]
    fn headers_say_what_the_body_says() {
        let params = params(Some(VERSION));
        let said = Said::of(Some(&params)).unwrap();
        let e = "=?base64?w6k=?=";
        for (method, shown_method, shown_name, is_right) in [
            ("tools/list", one("tools/list"), Shown::Nothing, true),
            ("tools/list", one("tools/list"), one("x"), true),
            ("tools/list", Shown::Nothing, Shown::Nothing, false),
            ("tools/list", Shown::Several, Shown::Nothing, false),
            ("tools/list", one("Tools/list"), Shown::Nothing, false),
            ("tools/call", one("tools/call"), one(e), true),
            ("tools/call", one("tools/call"), Shown::Nothing, false),
            ("tools/call", one("tools/call"), one("é"), false),
            ("tools/call", one("tools/call"), one("=?base64?!?="), false),
            ("tools/call", one("tools/call"), one("e"), false),
            ("tools/call", one("tools/list"), one(e), false),
            ("resources/read", one("resources/read"), one("file:///a"), true),
            ("resources/read", one("resources/read"), one(e), false),
        ] {
            let agreed = agree(shown_method, shown_name, method, &said);
            assert_eq!(agreed.is_ok(), is_right, "{method} {shown_method:?} {shown_name:?}");
            assert!(agreed.is_ok() || matches!(agreed, Err(Headers(_))));
        }
        let nobody = Said::default();
        let about = agree(one("tools/call"), one("x"), "tools/call", &nobody);
        assert!(matches!(about, Err(Refusal::Params(_))));
    }
}
