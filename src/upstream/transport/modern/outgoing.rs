//! A request of a client with a session as one of this era: what stands in its `_meta`, and in its headers.

use actix_http::header::{HeaderName, HeaderValue};
use bytes::Bytes;

use super::{
    handshake::Client,
    head::{self, METHOD, NAME},
};
use crate::{
    protocol::{
        jsonrpc::Head,
        mcp,
        modern::{
            self, META_CAPABILITIES, META_CLIENT, META_LOG_LEVEL, META_VERSION, era, header as value, meta, schema,
        },
    },
    upstream::transport::http::{connection, line::Line},
};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) body: Bytes,
    pub(super) method: String,
    name: Option<String>,
    arguments: Option<String>,
}

impl Outgoing {
    /// Of this request, or notification, under this id (JSON text). `None`: its parameters are no object.
    pub(super) fn of(body: &Bytes, id: &str, client: &Client) -> Option<Self> {
        let level = client.level.as_ref().map(|level| serde_json::Value::String(level.clone()).to_string());
        let version = format!("\"{}\"", modern::VERSION);
        let mut puts =
            vec![(META_VERSION, &*version), (META_CAPABILITIES, &*client.capabilities), (META_CLIENT, &*client.info)];
        puts.extend(level.as_deref().map(|level| (META_LOG_LEVEL, level)));
        let body = meta::with_meta(body, |_| false, &puts)?;
        let head = Head::parse(&body).ok()?;
        let said = meta::Said::of(head.params)?;
        let method = head.method()?.to_owned();
        let name = era::named(&method, &said).flatten().map(str::to_owned);
        let arguments = said.arguments.filter(|_| method == mcp::CALL_TOOL).map(|arguments| arguments.get().to_owned());
        Some(Self { body: head.with_id(&body, id), method, name, arguments })
    }

    /// The same with other parameters (JSON texts), which is another request.
    pub(super) fn going_on(&self, id: &str, puts: &[(&'static str, String)]) -> Option<Self> {
        let puts: Vec<(&str, &str)> = puts.iter().map(|(name, value)| (*name, &**value)).collect();
        let body = meta::with_params(&self.body, &["inputResponses", "requestState"], &puts)?;
        let body = Head::parse(&body).ok()?.with_id(&body, id);
        Some(Self { body, method: self.method.clone(), name: self.name.clone(), arguments: self.arguments.clone() })
    }

    /// The head of its POST.
    pub(super) fn head(&self, line: &Line) -> connection::Head {
        let head = head::of_post(line);
        let put = |name: HeaderName, text: &str| {
            if let Ok(text) = HeaderValue::from_str(text) {
                head.insert(name, text);
            }
        };
        put(METHOD, &self.method);
        if let Some(name) = &self.name {
            put(NAME, &value::encoded(name));
        }
        if let Some(tool) = self.name.as_ref().filter(|_| self.method == mcp::CALL_TOOL) {
            let mirrors = line.endpoint.mirrors.of(tool);
            for (name, text) in schema::headers(&mirrors, self.arguments.as_deref()) {
                if let Ok(name) = HeaderName::try_from(name) {
                    put(name, &text);
                }
            }
        }
        head
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_request_says_who_asks_and_keeps_all_else() {
        let client =
            Client { level: Some("error".into()), capabilities: r#"{"roots":{}}"#.into(), ..Client::default() };
        let body = Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"a","arguments":{"n":1},"_meta":{"progressToken":0}}}"#,
        );
        let first = Outgoing::of(&body, "\"own\"", &client).unwrap();
        assert!(std::str::from_utf8(&first.body).unwrap().contains(r#""arguments":{"n":1}"#));
        let head = Head::parse(&first.body).unwrap();
        assert_eq!(head.id_text(), Some("\"own\""));
        let said = meta::Said::of(head.params).unwrap();
        assert!(said.complete().is_ok() && said.declares(&["roots"]));
        assert_eq!((said.version(), said.log_level()), (Some(modern::VERSION), Some("error")));
        assert_eq!(said.progress_token(), Some("0"));
        let more = [("inputResponses", r#"{"k":{}}"#.to_owned()), ("requestState", "\"s\"".to_owned())];
        let second = first.going_on("\"next\"", &more).unwrap();
        let third = second.going_on("\"last\"", &more[..1]).unwrap();
        let sent: Value = serde_json::from_slice(&third.body).unwrap();
        assert_eq!((&sent["id"], &sent["params"]["inputResponses"]), (&json!("last"), &json!({ "k": {} })));
        assert!(sent["params"].get("requestState").is_none() && sent["params"]["name"] == "a");
    }

    #[test]
    fn parameters_by_position_are_none() {
        let body = Bytes::from_static(br#"{"jsonrpc":"2.0","id":5,"method":"x","params":[1]}"#);
        assert!(Outgoing::of(&body, "1", &Client::default()).is_none());
    }
}
