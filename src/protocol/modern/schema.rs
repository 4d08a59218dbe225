//! Which arguments of a tool are mirrored into headers: those whose property has `x-mcp-header` in the tool's schema
//! (2026-07-28, Streamable HTTP, Custom Headers from Tool Parameters).

use std::collections::HashSet;

use serde_json::{Map, Value, value::RawValue};

use super::{
    header,
    refusal::{Refusal, Refusal::Headers},
};
use crate::protocol::members::Members;

/// Before the name that a schema gives a header.
pub const PARAM: &str = "Mcp-Param-";

/// Integers beyond are not the same to every reader.
const SAFE: f64 = 9_007_199_254_740_991.0;

const ANNOTATION: &str = "x-mcp-header";

/// One argument, and the header in which it stands, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    /// The whole name of the header.
    pub header: String,
    /// The names that lead to the value in the arguments.
    path: Vec<String>,
    is_integer: bool,
}

/// An annotation that the specification forbids: the tool is to be left out of what clients are shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Forbidden(String);

/// Those of a tool with this `inputSchema`.
///
/// # Errors
/// [`Forbidden`]
pub fn mirrored(schema: &RawValue) -> Result<Vec<Mirrored>, Forbidden> {
    // Nearly no tool has any: most are not parsed.
    if memchr::memmem::find(schema.get().as_bytes(), ANNOTATION.as_bytes()).is_none() && !schema.get().contains('\\') {
        return Ok(Vec::new());
    }
    let schema: Value = serde_json::from_str(schema.get()).map_err(|error| Forbidden(error.to_string()))?;
    let mut walk = Walk::default();
    walk.schema(&schema, &mut Vec::new(), true)?;
    Ok(walk.found)
}

#[derive(Default)]
struct Walk {
    found: Vec<Mirrored>,
    names: HashSet<String>,
}

impl Walk {
    /// `is_reached`: by `properties` alone.
    fn schema(&mut self, schema: &Value, path: &mut Vec<String>, is_reached: bool) -> Result<(), Forbidden> {
        let Value::Object(members) = schema else { return Ok(()) };
        if let Some(name) = members.get(ANNOTATION) {
            self.annotation(name, members, path, is_reached)?;
        }
        for (keyword, value) in members {
            match (keyword.as_str(), value) {
                ("properties", Value::Object(properties)) => {
                    for (name, schema) in properties {
                        path.push(name.clone());
                        self.schema(schema, path, is_reached)?;
                        path.pop();
                    }
                }
                // Values, not schemas.
                ("default" | "const" | "enum" | "examples" | ANNOTATION, _) => {}
                ("patternProperties" | "$defs" | "definitions" | "dependentSchemas", Value::Object(schemas)) => {
                    schemas.values().try_for_each(|schema| self.schema(schema, path, false))?;
                }
                (_, Value::Array(schemas)) => {
                    schemas.iter().try_for_each(|schema| self.schema(schema, path, false))?;
                }
                (_, schema) => self.schema(schema, path, false)?,
            }
        }
        Ok(())
    }

    fn annotation(
        &mut self,
        name: &Value,
        members: &Map<String, Value>,
        path: &[String],
        is_reached: bool,
    ) -> Result<(), Forbidden> {
        let forbidden = |why: &str| Err(Forbidden(format!("{ANNOTATION} of {:?}: {why}", path.join("."))));
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let name = match name {
            Value::String(name) if !name.is_empty() && name.bytes().all(is_token) => name,
            _ => return forbidden("no name of a header"),
        };
        if !is_reached || path.is_empty() {
            return forbidden("not at a property that is reached by properties alone");
        }
        let is_integer = match members.get("type").and_then(Value::as_str) {
            Some("integer") => true,
            Some("string" | "boolean") => false,
            _ => return forbidden("neither string nor integer nor boolean"),
        };
        if !self.names.insert(name.to_ascii_lowercase()) {
            return forbidden("another property has the same name");
        }
        self.found.push(Mirrored { header: format!("{PARAM}{name}"), path: path.to_vec(), is_integer });
        Ok(())
    }
}

impl Mirrored {
    /// What stands in the header for these arguments, not coded yet. `None`: it is left out.
    fn value(&self, arguments: &str) -> Option<String> {
        // What stands beside it may be odd: only its own value is read. Of two of one name the last one counts, as for most who read.
        let member = |object, name| {
            let Members(members) = Members::of(object)?;
            members.iter().rev().find(|(member, _)| member == name).map(|(_, value)| *value)
        };
        let value = self.path.iter().try_fold(arguments, member)?;
        match serde_json::from_str(value).ok()? {
            Value::String(text) => Some(text),
            Value::Bool(is) => Some(is.to_string()),
            Value::Number(number) => Some(match number.as_f64() {
                // 42.0 is an integer, too, and written as one.
                Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= SAFE => format!("{float:.0}"),
                _ => number.to_string(),
            }),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn says_the_same(&self, shown: &str, expected: &str) -> bool {
        let number = |text: &str| text.trim().parse::<f64>().ok();
        shown == expected || self.is_integer && number(shown).is_some_and(|shown| Some(shown) == number(expected))
    }
}

/// The headers of a call with these arguments (JSON text): name and value, as it stands there.
pub fn headers(mirrored: &[Mirrored], arguments: Option<&str>) -> Vec<(String, String)> {
    if mirrored.is_empty() {
        return Vec::new();
    }
    let arguments = arguments.unwrap_or("{}");
    let header = |one: &Mirrored| Some((one.header.clone(), header::encoded(&one.value(arguments)?).into_owned()));
    mirrored.iter().filter_map(header).collect()
}

/// The headers of a call say what its arguments (JSON text) say. `shown`: the header of this name.
///
/// # Errors
/// They do not.
pub fn agree<'h>(
    mirrored: &[Mirrored],
    arguments: Option<&str>,
    shown: impl Fn(&str) -> Option<&'h [u8]>,
) -> Result<(), Refusal> {
    if mirrored.is_empty() {
        return Ok(());
    }
    let arguments = arguments.unwrap_or("{}");
    for one in mirrored {
        let name = &one.header;
        let Some(header) = shown(name) else {
            match one.value(arguments) {
                Some(_) => return Err(Headers(format!("the header {name} is missing"))),
                None => continue,
            }
        };
        let Some(value) = header::decoded(header) else { return Err(Headers(format!("{name} cannot be read"))) };
        match one.value(arguments) {
            Some(expected) if one.says_the_same(&value, &expected) => {}
            Some(expected) => return Err(Headers(format!("{name} is {value:?}, and the body says {expected:?}"))),
            None => return Err(Headers(format!("{name} is {value:?}, and the body says nothing of it"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(schema: &Value) -> Result<Vec<Mirrored>, Forbidden> {
        mirrored(&RawValue::from_string(schema.to_string()).unwrap())
    }

    fn property(of: &str, name: &Value) -> Value {
        json!({ "type": "object", "properties": { "a": { "type": of, "x-mcp-header": name } } })
    }

    #[test]
    fn annotated_arguments_stand_in_headers() {
        let schema = json!({ "type": "object", "properties": {
            "region": { "type": "string", "x-mcp-header": "Region" },
            "deep": { "type": "object", "properties": { "count": { "type": "integer", "x-mcp-header": "Count" } } },
            "dry": { "type": "boolean", "x-mcp-header": "Dry" },
            "x-mcp-header": { "type": "number" },
        } });
        let found = of(&schema).unwrap();
        let headers = |arguments: Value| {
            let mut headers = headers(&found, Some(&arguments.to_string()));
            headers.sort();
            headers
        };
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(
            headers(json!({ "region": "世", "deep": { "count": 42.0 }, "dry": false })),
            pairs(&[("Mcp-Param-Count", "42"), ("Mcp-Param-Dry", "false"), ("Mcp-Param-Region", "=?base64?5LiW?=")])
        );
        assert_eq!(headers(json!({ "region": null, "deep": 1 })), []);
        let odd = r#"{"region":"x","region":"eu","n":1e400,"s":"\ud800","deep":{"count":7,"n":-1e400}}"#;
        let mut beside = super::headers(&found, Some(odd));
        beside.sort();
        assert_eq!(beside, pairs(&[("Mcp-Param-Count", "7"), ("Mcp-Param-Region", "eu")]));
        for (count, arguments, is_right) in [
            (Some("42.0"), json!({ "deep": { "count": 42 } }), true),
            (Some("42"), json!({ "deep": { "count": -42 } }), false),
            (Some("x"), json!({ "deep": { "count": 42 } }), false),
            (None, json!({ "deep": { "count": 42 } }), false),
            (None, json!({ "deep": { "count": null } }), true),
            (Some("42"), json!({}), false),
            (None, json!({}), true),
        ] {
            let shown = |name: &str| count.filter(|_| name == "Mcp-Param-Count").map(str::as_bytes);
            assert_eq!(agree(&found, Some(&arguments.to_string()), shown).is_ok(), is_right, "{count:?} {arguments}");
        }
    }

    #[test]
    fn what_the_specification_forbids_is_found() {
        for schema in [
            property("number", &json!("A")),
            property("object", &json!("A")),
            property("string", &json!("")),
            property("string", &json!("a b")),
            property("string", &json!("a\r\nb")),
            property("string", &json!(1)),
            json!({ "x-mcp-header": "A", "type": "string" }),
            json!({ "properties": { "a": { "type": "string", "x-mcp-header": "A" }, "b": { "type": "string", "x-mcp-header": "a" } } }),
            json!({ "properties": { "a": { "type": "array", "items": { "type": "string", "x-mcp-header": "A" } } } }),
            json!({ "oneOf": [{ "properties": { "a": { "type": "string", "x-mcp-header": "A" } } }] }),
            json!({ "$defs": { "a": { "type": "string", "x-mcp-header": "A" } } }),
        ] {
            assert!(of(&schema).is_err(), "{schema}");
        }
        for schema in [
            property("string", &json!("A-1")),
            json!({ "properties": { "a": { "default": { "x-mcp-header": "" } } } }),
            json!({ "properties": { "a": { "type": "string" } } }),
            json!(true),
        ] {
            assert!(of(&schema).is_ok(), "{schema}");
        }
    }
}
