//! Names of the fields of a session's hash. What ends in a colon is the beginning of one.

pub(super) const OWNER: &str = "owner";
pub(super) const INCARNATION: &str = "incarnation";
pub(super) const GENERATION: &str = "generation";
pub(super) const EPOCH: &str = "epoch";
pub(super) const SERVICE: &str = "service";
pub(super) const TRANSPORT: &str = "transport";
pub(super) const PRINCIPAL: &str = "principal";
pub(super) const SCOPES: &str = "scopes";
pub(super) const RULES: &str = "rules";
pub(super) const CLIENT: &str = "client";
pub(super) const CREATED_MS: &str = "created_ms";
pub(super) const LAST_ACTIVE_MS: &str = "last_active_ms";
pub(super) const TTL_MS: &str = "ttl_ms";
pub(super) const IN_SEQ: &str = "in_seq";
pub(super) const IN_CLAIMED: &str = "in_claimed";
pub(super) const HOT: &str = "hot";
pub(super) const INITIALIZE_REQUEST: &str = "initialize_request";
pub(super) const INITIALIZE_RESULT: &str = "initialize_result";
pub(super) const VERSION: &str = "version";
pub(super) const INITIALIZED: &str = "initialized";
pub(super) const ASSUMED: &str = "assumed";
pub(super) const LOG_LEVEL: &str = "log_level";
pub(super) const ENDPOINT: &str = "upstream_endpoint";
pub(super) const UPSTREAM_SESSION: &str = "upstream_session";
pub(super) const UPSTREAM_CURSOR: &str = "upstream_cursor";
pub(super) const DOUBTED: &str = "doubted";
pub(super) const REBIND: &str = "rebind";
/// + resource URI.
pub(super) const SUBSCRIPTION: &str = "sub:";
/// + id of a question towards the client.
pub(super) const QUESTION: &str = "sr:";
/// + sequence of a request of the client.
pub(super) const MOVED: &str = "mv:";
/// + id of a request of the client.
pub(super) const RESUMABLE: &str = "rs:";
/// + id of a request of the client.
pub(super) const CANCELLED: &str = "cx:";
/// + id of a request of the client. `lua/claim.lua`, `lua/forget_requests.lua` and `lua/disown.lua` know it, too.
pub(in crate::store) const TRACE: &str = "tp:";
/// + stream.
pub(super) const SENT: &str = "sent:";
/// + stream.
pub(super) const LEFT_AT: &str = "d:";
/// + stream.
pub(super) const HOLDER: &str = "a:";
/// + stream.
pub(super) const ATTACH_COUNT: &str = "ac:";
/// + stream + `:seq`, `:first` or `:bytes`.
pub(super) const LOG: &str = "s:";
