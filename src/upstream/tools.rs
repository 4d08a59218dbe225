//! What the tools of a service say of themselves: whether a call may be repeated (REQ-3). Learned from every `tools/list` that
//! passes, page by page, and from the router's own walk through the pages.
//!
//! A page vouches for the tools on it. That a tool is *not* there, which means the worst, only a whole list says. All of it is
//! believed for a while, and forgotten when a server says that its tools have changed; an answer to what was asked before
//! that is not believed any more.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    protocol::{
        by_name::{ByName, by_name},
        jsonrpc::Head,
        mcp,
    },
    settings::UpstreamSettings,
};

/// How long annotations are believed: servers are replaced by newer ones without a word.
const BELIEVED: Duration = Duration::from_secs(60);

/// Tools of one service that are remembered. Beyond it one is as good as unknown, which only means that its calls are not
/// repeated; real lists are a hundred times shorter.
const MAX_TOOLS: usize = 10_000;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Tools {
    known: Mutex<Known>,
    /// Raised whenever the tools may have changed.
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    tools: HashMap<String, Seen>,
    /// When a whole list was seen last.
    whole: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    repeatable: bool,
    at: Instant,
}

/// One page of a list, as far as the router needs it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    tools: Vec<ByName<mcp::ListedTool>>,
    #[serde(default)]
    next_cursor: Option<String>,
}

impl Tools {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be asked when a list is asked for, and given with its answer.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The tools may have changed.
    pub fn forget(&self) {
        let mut known = self.known();
        self.version.fetch_add(1, Ordering::AcqRel);
        *known = Known::default();
    }

    /// Whether calls of `tool` may be repeated; `None` when that is not known (any more).
    pub fn repeatable(&self, tool: &str) -> Option<bool> {
        let known = self.known();
        let seen = known.tools.get(tool).filter(|seen| is_fresh(seen.at)).map(|seen| seen.repeatable);
        // A tool that a whole list does not have cannot be vouched for.
        seen.or_else(|| known.is_whole().then_some(false))
    }

    /// A whole list is known and fresh.
    pub fn are_known(&self) -> bool {
        self.known().is_whole()
    }

    /// Remembers the annotations of a `tools/list` result (JSON text). `first`: the request named no cursor.
    pub fn remember_page(&self, result: &str, first: bool, version: u64) {
        let Some(page) = by_name::<Page>(result) else { return };
        let is_whole = first && next(page.next_cursor).is_none();
        self.remember(page.tools.into_iter().map(|ByName(tool)| tool), is_whole, version);
    }

    fn remember(&self, tools: impl ExactSizeIterator<Item = mcp::ListedTool>, is_whole: bool, version: u64) {
        let mut known = self.known();
        // Under the lock, so that a change is not missed in between.
        if version != self.version() {
            return;
        }
        let at = Instant::now();
        if is_whole {
            *known = Known { tools: HashMap::new(), whole: Some(at) };
        }
        if known.tools.len() + tools.len() > MAX_TOOLS {
            known.tools.retain(|_, seen| is_fresh(seen.at));
        }
        for tool in tools {
            let seen = Seen { repeatable: tool.repeatable(), at };
            if known.tools.len() < MAX_TOOLS || known.tools.contains_key(&tool.name) {
                known.tools.insert(tool.name, seen);
            } else {
                // What is not remembered must not count as absent.
                known.whole = None;
            }
        }
    }
}

impl Known {
    fn is_whole(&self) -> bool {
        self.whole.is_some_and(is_fresh)
    }
}

fn is_fresh(at: Instant) -> bool {
    at.elapsed() < BELIEVED
}

/// Some servers write an empty cursor for the end of a list; the SDKs' clients take it for that, too.
fn next(cursor: Option<String>) -> Option<String> {
    cursor.filter(|cursor| !cursor.is_empty())
}

/// Bounds of a walk.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Pages at most.
    pub pages: usize,
    /// Bytes of all pages at most.
    pub bytes: usize,
}

impl Bounds {
    /// As they are set.
    pub fn new(settings: &UpstreamSettings) -> Self {
        Self { pages: settings.tool_pages, bytes: settings.max_message }
    }
}

/// Why a walk through the pages of a list did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalkError<E> {
    /// A page could not be fetched.
    #[error("{0}")]
    Call(E),
    /// An answer is no page of a list.
    #[error("the server did not answer tools/list with a list")]
    NoList,
    /// It would never end.
    #[error("the server's tools/list does not end: a nextCursor repeats")]
    Repeats,
    /// Longer than allowed.
    #[error("the server's tools/list has more than {0} pages (MCP_UPSTREAM_TOOL_PAGES)")]
    TooManyPages(usize),
    /// Larger than allowed.
    #[error("the server's tools/list is larger than {0} bytes (MCP_UPSTREAM_MAX_MESSAGE)")]
    TooLarge(usize),
}

/// Most walks through a list that changes meanwhile. Some servers say that it has, whenever a session begins: one more is then
/// enough.
const WALKS: usize = 3;

/// Walks through one server's list with `call`, as [`walk`] does, and again if it has changed meanwhile: what was fetched is not
/// believed then.
///
/// # Errors
/// [`WalkError`].
pub async fn learn<F, Fut, E>(tools: &Tools, bounds: Bounds, call: F) -> Result<(), WalkError<E>>
where
    F: Fn(Bytes) -> Fut,
    Fut: Future<Output = Result<Bytes, E>>,
{
    for _ in 0..WALKS {
        let version = tools.version();
        walk(tools, bounds, &call).await?;
        if version == tools.version() {
            break;
        }
    }
    Ok(())
}

/// Fetches all pages of one server's list with `call`, which takes a request and returns its response, and remembers them. The
/// tools as they came.
///
/// # Errors
/// [`WalkError`]; the pages before it are remembered all the same.
pub async fn walk<F, Fut, E>(tools: &Tools, bounds: Bounds, call: F) -> Result<Vec<Box<RawValue>>, WalkError<E>>
where
    F: Fn(Bytes) -> Fut,
    Fut: Future<Output = Result<Bytes, E>>,
{
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RawPage {
        tools: Vec<Box<RawValue>>,
        #[serde(default)]
        next_cursor: Value,
    }
    let version = tools.version();
    let (mut all, mut cursors) = (Vec::new(), HashSet::new());
    let (mut cursor, mut bytes) = (None::<String>, 0);
    for _ in 0..bounds.pages {
        let mut request = json!({ "jsonrpc": "2.0", "id": 0, "method": mcp::LIST_TOOLS });
        if let Some(cursor) = &cursor {
            request["params"] = json!({ "cursor": cursor });
        }
        let answer = call(Bytes::from(request.to_string())).await.map_err(WalkError::Call)?;
        bytes += answer.len();
        if bytes > bounds.bytes {
            return Err(WalkError::TooLarge(bounds.bytes));
        }
        let result = Head::parse(&answer).ok().and_then(|head| head.result).ok_or(WalkError::NoList)?;
        tools.remember_page(result.get(), cursor.is_none(), version);
        let page: RawPage = by_name(result.get()).ok_or(WalkError::NoList)?;
        all.extend(page.tools);
        cursor = match page.next_cursor {
            Value::Null => None,
            Value::String(next_cursor) => next(Some(next_cursor)),
            _ => return Err(WalkError::NoList),
        };
        match &cursor {
            Some(next) if !cursors.insert(next.clone()) => return Err(WalkError::Repeats),
            Some(_) => {}
            None => {
                let listed: Vec<_> = all.iter().filter_map(|tool| by_name(tool.get())).collect();
                tools.remember(listed.into_iter(), true, version);
                return Ok(all);
            }
        }
    }
    Err(WalkError::TooManyPages(bounds.pages))
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        convert::Infallible,
    };

    use super::*;

    fn page(names: &[&str], next: Option<&str>) -> String {
        let tools: Vec<Value> =
            names.iter().map(|name| json!({ "name": name, "annotations": { "readOnlyHint": true } })).collect();
        json!({ "tools": tools, "nextCursor": next }).to_string()
    }

    #[test]
    fn each_page_vouches_for_its_tools_and_only_a_whole_list_says_what_is_not_there() {
        let tools = Tools::default();
        tools.remember_page(&page(&["a"], Some("2")), true, 0);
        tools.remember_page(&page(&["b"], None), false, 0);
        assert_eq!(["a", "b", "c"].map(|tool| tools.repeatable(tool)), [Some(true), Some(true), None]);
        assert!(!tools.are_known());
        tools.remember_page(&page(&["b"], Some("")), true, 0);
        assert_eq!(["a", "b", "c"].map(|tool| tools.repeatable(tool)), [Some(false), Some(true), Some(false)]);
        assert!(tools.are_known());
    }

    #[test]
    fn what_was_asked_before_a_change_is_not_believed_after_it() {
        let tools = Tools::default();
        let before = tools.version();
        tools.remember_page(&page(&["a"], None), true, before);
        tools.forget();
        assert_eq!(tools.repeatable("a"), None);
        tools.remember_page(&page(&["a"], None), true, before);
        assert_eq!(tools.repeatable("a"), None);
        tools.remember_page(r#"{"tools":[{"name":"a"}]}"#, true, tools.version());
        assert_eq!(tools.repeatable("a"), Some(false));
    }

    #[test]
    fn what_is_no_object_says_nothing_of_a_tool() {
        for page in [
            r#"[[{"name":"a","annotations":{"readOnlyHint":true}}],null]"#,
            r#"{"tools":[["a",{"readOnlyHint":true}]]}"#,
            r#"{"tools":[{"name":"a","annotations":[true]}]}"#,
        ] {
            let tools = Tools::default();
            tools.remember_page(page, true, 0);
            assert_eq!((tools.repeatable("a"), tools.are_known()), (None, false), "{page}");
        }
    }

    /// Walks through a server's pages: by the cursor of the request, names and the next cursor.
    async fn walked(pages: usize, answer: impl Fn(Option<&str>) -> String) -> (Result<usize, String>, Tools, usize) {
        let (tools, calls) = (Tools::default(), RefCell::new(0));
        let call = |request: Bytes| {
            let request: Value = serde_json::from_slice(&request).unwrap();
            *calls.borrow_mut() += 1;
            let body =
                format!(r#"{{"jsonrpc":"2.0","id":0,"result":{}}}"#, answer(request["params"]["cursor"].as_str()));
            std::future::ready(Ok::<_, Infallible>(Bytes::from(body)))
        };
        let walked = walk(&tools, Bounds { pages, bytes: 10_000 }, call).await;
        let walked = walked.map(|all| all.len()).map_err(|error| error.to_string());
        let calls = *calls.borrow();
        (walked, tools, calls)
    }

    #[tokio::test]
    async fn a_walk_comes_to_the_end_of_the_list() {
        let (walked, tools, calls) = walked(3, |cursor| match cursor {
            None => page(&["a"], Some("2")),
            Some("2") => page(&["b"], Some("3")),
            _ => page(&["c"], None),
        })
        .await;
        assert_eq!((walked, calls), (Ok(3), 3));
        assert_eq!(["a", "b", "c", "d"].map(|tool| tools.repeatable(tool) == Some(true)), [true, true, true, false]);
        assert!(tools.are_known());
    }

    #[tokio::test]
    async fn a_list_that_changes_meanwhile_is_fetched_again_but_not_for_ever() {
        for (changes, calls, known) in [(0, 1, true), (1, 2, true), (2, 3, true), (usize::MAX, WALKS, false)] {
            let (tools, asked) = (Tools::default(), Cell::new(0));
            let call = |_| {
                asked.set(asked.get() + 1);
                if asked.get() <= changes {
                    tools.forget();
                }
                let body = format!(r#"{{"jsonrpc":"2.0","id":0,"result":{}}}"#, page(&["a"], None));
                std::future::ready(Ok::<_, Infallible>(Bytes::from(body)))
            };
            learn(&tools, Bounds { pages: 3, bytes: 10_000 }, call).await.unwrap();
            assert_eq!((asked.get(), tools.repeatable("a")), (calls, known.then_some(true)), "{changes}");
        }
    }

    #[tokio::test]
    async fn a_list_that_does_not_end_is_an_error() {
        let (repeats, tools, calls) = walked(100, |cursor| match cursor {
            None => page(&["a"], Some("2")),
            _ => page(&["b"], Some("2")),
        })
        .await;
        assert_eq!((calls, tools.repeatable("a"), tools.repeatable("c")), (2, Some(true), None));
        assert!(repeats.unwrap_err().contains("repeats"));
        let (circle, _, calls) = walked(100, |cursor| match cursor {
            None | Some("3") => page(&["a"], Some("2")),
            _ => page(&["b"], Some("3")),
        })
        .await;
        assert!(circle.unwrap_err().contains("repeats") && calls == 3);
        let next = RefCell::new(0);
        let (longer, _, calls) = walked(5, |_| {
            *next.borrow_mut() += 1;
            page(&["a"], Some(&next.borrow().to_string()))
        })
        .await;
        assert!(longer.unwrap_err().contains("more than 5 pages") && calls == 5);
        let (large, _, _) = walked(100, |_| page(&["a"; 500], Some("2"))).await;
        assert!(large.unwrap_err().contains("larger"));
        let (nonsense, _, _) = walked(100, |_| r#"{"tools":1}"#.to_owned()).await;
        assert!(nonsense.is_err());
    }
}
