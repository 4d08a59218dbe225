//! Who may call what: rules from a file, and what they say of a message. Pure but for the file, which may change while the
//! router runs. SEC-7
//!
//! A rule allows; what no rule allows is refused. So a message that could be read in two ways is refused, too: what is judged
//! here must be what the server reads.

mod list;

use std::sync::{Arc, PoisonError, RwLock};

pub use self::list::{List, filtered, shows_tool};
use crate::{
    protocol::{jsonrpc::Head, mcp, modern},
    settings::{PolicyFile, Rule},
};

/// The rules of now.
#[derive(Debug)]
pub struct Policy {
    rules: RwLock<Arc<[Arc<Rule>]>>,
}

/// The rules that are about one principal at one service.
#[derive(Debug, Clone)]
pub struct Grant {
    rules: Arc<[Arc<Rule>]>,
    /// Those whose scopes its credential lacks.
    out_of_reach: Arc<[Arc<Rule>]>,
}

/// What the rules say of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Allowed,
    /// No rule allows it: what it is, and the names of the rules that were looked at.
    Refused {
        /// Method, and tool, prompt or resource.
        what: String,
        /// Names.
        rules: String,
    },
    /// A rule would allow it, with these scopes.
    Lacks(Vec<String>),
}

/// What a message asks for, as the rules see it.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// What every session needs, and nothing else.
    Session,
    Tool(String),
    Prompt(String),
    Resource(String),
    /// Several at once: each must be allowed.
    Resources(Vec<String>),
    Method,
    /// It can be read in two ways, or not at all.
    Unclear,
}

impl Policy {
    /// By these rules.
    pub fn new(file: &PolicyFile) -> Self {
        Self { rules: RwLock::new(file.rules().into()) }
    }

    /// From now on by these. Whether they are others.
    pub fn replace(&self, file: &PolicyFile) -> bool {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *rules, file.rules().into());
        before != *rules
    }

    /// What they say of this principal (`kind:name`) at this service. `has`: its credential has the scope.
    pub fn grant(&self, who: &str, service: &str, has: impl Fn(&str) -> bool) -> Grant {
        let rules = Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner));
        let of_it = rules.iter().filter(|rule| rule.is_about(who, service)).cloned();
        let (rules, out_of_reach): (Vec<_>, Vec<_>) =
            of_it.partition(|rule| rule.scopes.iter().all(|scope| has(scope)));
        Grant { rules: rules.into(), out_of_reach: out_of_reach.into() }
    }

    /// The rules of these names; of one that is gone nothing is left.
    pub fn named(&self, names: &str) -> Grant {
        let rules = Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner));
        let named = rules.iter().filter(|rule| names.split(' ').any(|name| name == rule.name)).cloned();
        Grant { rules: named.collect(), out_of_reach: Arc::new([]) }
    }
}

impl Grant {
    /// There is none.
    pub fn is_nothing(&self) -> bool {
        self.rules.is_empty() && self.out_of_reach.is_empty()
    }

    /// Their names, with a space between them.
    pub fn names(&self) -> String {
        self.rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// What they say of this message.
    pub fn judge(&self, head: &Head<'_>, body: &[u8]) -> Verdict {
        let asked = asked(head, body);
        let method = head.method().unwrap_or_default();
        let parts = match asked {
            Asked::Resources(uris) if !uris.is_empty() => uris.into_iter().map(Asked::Resource).collect(),
            Asked::Resources(_) => vec![Asked::Method],
            asked => vec![asked],
        };
        parts
            .iter()
            .map(|asked| self.judge_part(method, asked))
            .find(|verdict| *verdict != Verdict::Allowed)
            .unwrap_or(Verdict::Allowed)
    }

    fn judge_part(&self, method: &str, asked: &Asked) -> Verdict {
        if self.rules.iter().any(|rule| allows(rule, method, asked)) {
            return Verdict::Allowed;
        }
        if let Some(rule) = self.out_of_reach.iter().find(|rule| allows(rule, method, asked)) {
            return Verdict::Lacks(rule.scopes.clone());
        }
        let what = match asked {
            Asked::Tool(name) => format!("{method} of the tool {name:?}"),
            Asked::Prompt(name) => format!("{method} of the prompt {name:?}"),
            Asked::Resource(uri) => format!("{method} of the resource {uri:?}"),
            Asked::Unclear => format!("{method} in a form that can be read in two ways"),
            Asked::Session | Asked::Method | Asked::Resources(_) => method.to_owned(),
        };
        Verdict::Refused { what, rules: self.names() }
    }

    /// It may see this tool, prompt or resource in a list.
    pub fn shows(&self, list: List, name: &str) -> bool {
        self.rules.iter().any(|rule| match list {
            List::Tools => rule.tools.covers(name),
            List::Prompts => rule.prompts.covers(name),
            // A template stands for resources that nobody can list; which of them are allowed is asked when one is read.
            List::ResourceTemplates => !rule.resources.is_nothing(),
            List::Resources => rule.resources.covers(name),
        })
    }
}

/// What a message is about besides its method: a tool, a prompt, a resource. Empty: nothing, or not readable.
pub fn target(head: &Head<'_>) -> String {
    let params = head.params.map_or("{}", |params| params.get());
    let name = match head.method().unwrap_or_default() {
        mcp::CALL_TOOL | "prompts/get" => "name",
        "resources/read" | mcp::SUBSCRIBE | mcp::UNSUBSCRIBE => "uri",
        _ => return String::new(),
    };
    list::text_of(params, name).unwrap_or_default()
}

fn allows(rule: &Rule, method: &str, asked: &Asked) -> bool {
    match asked {
        Asked::Session => true,
        // Its parts are judged.
        Asked::Unclear | Asked::Resources(_) => false,
        Asked::Tool(name) => rule.methods.covers(method) && rule.tools.covers(name),
        Asked::Prompt(name) => rule.methods.covers(method) && rule.prompts.covers(name),
        // What leads out of a pattern is for rules without one.
        Asked::Resource(uri) => {
            let resources = &rule.resources;
            rule.methods.covers(method) && resources.covers(uri) && (resources.are_all() || !list::climbs(uri))
        }
        Asked::Method => rule.methods.covers(method),
    }
}

fn asked(head: &Head<'_>, body: &[u8]) -> Asked {
    if !list::is_plain(body, &["jsonrpc", "id", "method", "params", "result", "error"]) {
        return Asked::Unclear;
    }
    let Some(method) = head.method() else { return Asked::Session };
    let params = head.params.map_or("{}", |params| params.get());
    let of_params = |name: &str| list::text_of(params, name);
    let named = |name: &str, asked: fn(String) -> Asked| of_params(name).map_or(Asked::Unclear, asked);
    match method {
        mcp::INITIALIZE | mcp::PING | mcp::INITIALIZED | mcp::CANCELLED | mcp::DISCOVER => Asked::Session,
        mcp::CALL_TOOL => named("name", Asked::Tool),
        "prompts/get" => named("name", Asked::Prompt),
        "resources/read" | mcp::SUBSCRIBE | mcp::UNSUBSCRIBE => named("uri", Asked::Resource),
        modern::LISTEN => list::listened(params).map_or(Asked::Unclear, Asked::Resources),
        "completion/complete" => match list::completed(params) {
            Some((true, name)) => Asked::Prompt(name),
            Some((false, uri)) => Asked::Resource(uri),
            None => Asked::Unclear,
        },
        _ => Asked::Method,
    }
}

#[cfg(test)]
mod tests;
