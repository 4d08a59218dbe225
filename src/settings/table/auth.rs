//! How clients show who they are. A session answers to nobody but the principal that opened it.

use std::{ffi::OsString, time::Duration};

use url::Url;

use crate::settings::{
    auth::{
        Auth, KeyFile, KeySource, auth, header_name, issuer, key_file, key_source, scopes, secret_file, trusted_url,
    },
    help_text::help_text,
    parse::{self, DAY, HOUR, MILLI, MINUTE, SECOND, duration, optional, whole},
    policy_file::{PolicyFile, policy_file},
    row::Row,
    source::Reader,
    value::Secret,
};

group! {
    /// How clients show who they are. A session answers to nobody but the principal that opened it.
    "Authentication", AuthFlags => AuthSettings {
        /// By what clients show who they are: keys (MCP_AUTH_KEYS_FILE), tokens (MCP_AUTH_ISSUER), proxy (MCP_AUTH_PROXY_HEADER).
        /// Unset nobody is asked, and the router listens on loopback only; none says that this is meant elsewhere, too.
        MCP_AUTH = "", "none, or a list of keys, tokens, proxy" => by: Auth, auth;

        /// File with the SHA-256 of each key and a name, one a line, as `mcp-router key NAME` prints it. Clients send the key as
        /// Authorization: Bearer or as X-API-Key. It is read again when it changes, and at SIGHUP.
        MCP_AUTH_KEYS_FILE = "", "path" => keys_file: Option<KeyFile>, optional(key_file);

        /// Header in which a proxy of MCP_TRUSTED_PROXIES names the principal: a user, or the subject of a client certificate.
        /// The proxy must set it in every request, or clients would name themselves.
        MCP_AUTH_PROXY_HEADER = "X-MCP-Principal", "name of a header" => proxy_header: String, header_name;

        /// Authorization server whose tokens count (JWTs, RFC 9068), exactly as they name it in iss. The router is an OAuth 2.1
        /// resource server: it tells clients at /.well-known/oauth-protected-resource where to get a token.
        MCP_AUTH_ISSUER = "", "https URL" => issuer: Option<String>, optional(issuer);

        /// Where its public keys are (JWKS). Unset they are found by its metadata (RFC 8414, OpenID Connect Discovery).
        MCP_AUTH_JWKS = "", "https URL or path" => jwks: Option<KeySource>, optional(key_source);

        /// URL at which clients reach the router, with the path before /mcp: tokens must be for it or for a service below it
        /// (aud). Unset it is taken from each request, by Host and X-Forwarded-*, as far as MCP_ALLOWED_HOSTS lists the host.
        MCP_AUTH_RESOURCE = "", "https URL" => resource: Option<String>, optional(issuer);

        /// Scopes that every token must have; clients are told of them. A token with fewer gets 403.
        MCP_AUTH_SCOPES = "", "scopes with spaces between them" => scopes: Vec<String>, scopes;

        /// How far the clocks of router and authorization server may differ: so long before nbf and after exp a token counts.
        MCP_AUTH_LEEWAY = "30s", "duration" => leeway: Duration, duration(Duration::ZERO..=HOUR);

        /// How often the keys are fetched again. Servers announce new ones hours before they sign with them.
        MCP_AUTH_JWKS_TTL = "10m", "duration" => jwks_ttl: Duration, duration(SECOND..=DAY);

        /// How often at most they are fetched because a token names one that is not known: anybody can make up such a token.
        MCP_AUTH_JWKS_FLOOR = "10s", "duration" => jwks_floor: Duration, duration(10 * MILLI..=HOUR);

        /// How long a fetch of keys may take; a request whose token waits for one gets 401 or 503 then.
        MCP_AUTH_JWKS_TIMEOUT = "5s", "duration" => jwks_timeout: Duration, duration(10 * MILLI..=MINUTE);

        /// Where the authorization server says what a token is worth that says nothing by itself (RFC 7662). Unset such tokens count
        /// for nothing. With MCP_AUTH_CLIENT_ID and MCP_AUTH_CLIENT_SECRET_FILE.
        MCP_AUTH_INTROSPECTION = "", "https URL" => introspection: Option<Url>, optional(trusted_url);

        /// As whom the router asks that (client_secret_basic).
        MCP_AUTH_CLIENT_ID = "", "visible ASCII" => client_id: Option<String>, optional(parse::visible);

        /// File with the secret of this client; read at the start.
        MCP_AUTH_CLIENT_SECRET_FILE = "", "file" => client_secret: Option<Secret>, optional(secret_file);

        /// How long its word on a token counts: so long at most a token goes on that was taken back, and so often it is asked again
        /// about the token of a stream that is open. Each new one costs a question.
        MCP_AUTH_INTROSPECTION_TTL = "30s", "duration" => introspection_ttl: Duration, duration(MILLI..=HOUR);

        /// How long an open stream goes on while the authorization server does not say what its token is worth. New requests
        /// get 503 then.
        MCP_AUTH_INTROSPECTION_PATIENCE = "5m", "duration" => introspection_patience: Duration, duration(Duration::ZERO..=DAY);

        /// Checked tokens that are remembered, at about 1 KiB each; one that was forgotten is checked again.
        MCP_AUTH_TOKEN_CACHE = "10000", "tokens" => token_cache: usize, whole(2..=10_000_000);

        /// File with rules which principals may do what (TOML). With it nothing is allowed that no rule allows. It is read again
        /// as the file of keys.
        MCP_POLICY_FILE = "", "path" => policy: Option<PolicyFile>, optional(policy_file);

        /// How often the files of keys and rules are looked at for a change. Who must lose access at once sends SIGHUP.
        MCP_AUTH_RELOAD = "2s", "duration" => reload: Duration, duration(10 * MILLI..=HOUR);
    }
}
