//! MCP 2026-07-28, the stateless era: what its requests, headers and results say. Pure.
//!
//! | file | what stands there |
//! |---|---|
//! | `meta` | what a request says of itself in `params`, and changes of its `_meta` |
//! | `era` | of which era a request is, and whether its headers say what its body says |
//! | `header` | how a value stands in a header |
//! | `schema` | which arguments of a tool are mirrored into headers (`x-mcp-header`) |
//! | `result` | what a result says of itself, and how one of one era becomes one of the other |
//! | `refusal` | the errors of this era, with their data and statuses |
//! | `edit` | objects with other members, all other bytes as they were |

pub mod edit;
pub mod era;
pub mod header;
pub mod meta;
pub mod refusal;
pub mod result;
pub mod schema;

use super::mcp;

/// The version of this era that the router speaks.
pub const VERSION: &str = mcp::STATELESS_VERSION;

/// Prefix of the `_meta` keys that are the protocol's own.
pub const META_PREFIX: &str = "io.modelcontextprotocol/";
/// The version of a request; equals its header.
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// What the client of a request can do.
pub const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// Who the client of a request is.
pub const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
/// From which level on log messages are wanted on the stream of a request. Without it none may be sent.
pub const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// The id of the `subscriptions/listen` that a message belongs to.
pub const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// Who the server of a result is.
pub const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";

/// What a server is, and which versions it speaks.
pub const DISCOVER: &str = mcp::DISCOVER;
/// A stream of changes.
pub const LISTEN: &str = "subscriptions/listen";
/// The first message on it.
pub const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
/// Reads a resource.
pub const READ_RESOURCE: &str = "resources/read";
/// Fills in a prompt.
pub const GET_PROMPT: &str = "prompts/get";
/// The tasks extension, by its name in the capabilities of both sides.
pub const TASKS: &str = "io.modelcontextprotocol/tasks";

/// Methods of earlier versions that this one does not have: 404, whoever the server is.
const REMOVED: [&str; 7] =
    [mcp::INITIALIZE, mcp::PING, mcp::SET_LEVEL, mcp::SUBSCRIBE, mcp::UNSUBSCRIBE, "tasks/list", "tasks/result"];

/// It was a method of earlier versions, and is none of this one.
pub fn is_removed(method: &str) -> bool {
    REMOVED.contains(&method)
}

/// Complete results of this method say how long they may be kept, and by whom.
pub fn is_cacheable(method: &str) -> bool {
    matches!(
        method,
        mcp::DISCOVER
            | mcp::LIST_TOOLS
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | READ_RESOURCE
    )
}

/// A server may ask its client something before it answers this method (`input_required`).
pub fn may_ask(method: &str) -> bool {
    matches!(method, mcp::CALL_TOOL | GET_PROMPT | READ_RESOURCE)
}
