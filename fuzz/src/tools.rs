//! Only what a server has said of a tool by its name lets a call of it be repeated, and a walk through its list ends.

use std::{cell::Cell, collections::BTreeMap, convert::Infallible};

use bytes::Bytes;
use futures_util::FutureExt as _;
use mcp_router::upstream::tools::{Bounds, Tools, WalkError, walk};
use serde_json::Value;

use super::json::value;

/// Bytes: pages (results of `tools/list`, JSON text), with a line feed between two of them.
pub fn tools(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut pages: Vec<&str> = text.split('\n').take(8).collect();
    pages.iter().for_each(|page| Tools::default().remember_page(page, true, 0));
    // The judge must have a value for it.
    pages.retain(|page| value(page.as_bytes()).is_some());
    if pages.is_empty() {
        return;
    }
    let said = said(&pages);

    let seen = Tools::default();
    for (at, page) in pages.iter().enumerate() {
        seen.remember_page(page, at == 0, seen.version());
    }
    check(&seen, &said);
    seen.forget();
    assert!(!seen.are_known() && said.keys().all(|name| seen.repeatable(name).is_none()));

    let walked = Tools::default();
    let (calls, bytes) = (Cell::new(0), Cell::new(0));
    let bounds = Bounds { pages: 6, bytes: 3000 };
    let call = |_: Bytes| {
        // The last page comes for ever.
        let page = pages[calls.get().min(pages.len() - 1)];
        let answer = format!(r#"{{"jsonrpc":"2.0","id":0,"result":{page}}}"#);
        calls.set(calls.get() + 1);
        bytes.set(bytes.get() + answer.len());
        std::future::ready(Ok::<_, Infallible>(Bytes::from(answer)))
    };
    let list = walk(&walked, bounds, call).now_or_never().expect("nothing is waited for");
    assert!(calls.get() <= bounds.pages);
    check(&walked, &said);
    match list {
        Ok(list) => {
            assert!(bytes.get() <= bounds.bytes && walked.are_known());
            let listed: usize = (0..calls.get()).map(|call| in_page(pages[call.min(pages.len() - 1)]).len()).sum();
            assert_eq!(list.len(), listed, "each tool of each page");
            assert_eq!(walked.repeatable("a name that no list has: \u{1}"), Some(false));
        }
        Err(WalkError::TooManyPages(most)) => assert_eq!((most, calls.get()), (bounds.pages, bounds.pages)),
        Err(WalkError::TooLarge(most)) => assert!(bytes.get() > most),
        Err(WalkError::Repeats | WalkError::NoList) => {}
        Err(WalkError::Call(never)) => match never {},
    }
}

/// Each tool that is named, and whether anything that is said of it lets its calls be repeated.
fn said(pages: &[&str]) -> BTreeMap<String, bool> {
    let mut said = BTreeMap::new();
    for tool in pages.iter().flat_map(|page| in_page(page)) {
        let Some(name) = tool.as_object().and_then(|tool| tool.get("name")?.as_str()) else { continue };
        let hints = &tool["annotations"];
        let may = hints.is_object() && (hints["readOnlyHint"] == true || hints["idempotentHint"] == true);
        *said.entry(name.to_owned()).or_default() |= may;
    }
    said
}

fn in_page(page: &str) -> Vec<Value> {
    let page = value(page.as_bytes()).filter(Value::is_object);
    page.and_then(|page| page.get("tools")?.as_array().cloned()).unwrap_or_default()
}

fn check(tools: &Tools, said: &BTreeMap<String, bool>) {
    for (name, may) in said {
        assert!(*may || tools.repeatable(name) != Some(true), "nobody has said that {name:?} may be repeated");
    }
    for never in ["readOnlyHint", "annotations", "true", ""] {
        assert!(said.contains_key(never) || tools.repeatable(never) != Some(true), "{never:?} is no tool");
    }
}
