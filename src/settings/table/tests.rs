use super::*;
use crate::settings::source::probably_meant;

#[test]
fn a_misspelt_name_is_recognised_and_a_foreign_one_is_not() {
    for (name, meant) in [
        ("MCP_SESION_TTL", Some("MCP_SESSION_TTL")),
        ("MCP_SESSION_TLL", Some("MCP_SESSION_TTL")),
        ("mcp_session_ttl", Some("MCP_SESSION_TTL")),
        ("mcp.session.ttl", Some("MCP_SESSION_TTL")),
        ("MCP_UPSTREAM", Some("MCP_UPSTREAMS")),
        ("MCP_SERVER_PORT", Some("SERVER_PORT")),
        ("SERVER_PROT", Some("SERVER_PORT")),
        ("SERVER_LOG_LEVEL", Some("LOG_LEVEL")),
        ("REDIS_URI", Some("REDIS_URL")),
        ("REDIS_HOST", None),
        ("REDIS_PASSWORD", None),
        ("MCP_INSPECTOR_PROXY_PORT", None),
        ("PATH", None),
        ("LOGLEVEL", None),
    ] {
        assert_eq!(probably_meant(name, TABLE), meant, "{name}");
    }
}

#[test]
fn every_default_parses() {
    let mut reader = Reader::new(TABLE);
    let _ = Settings::read(&mut reader);
    assert_eq!(reader.into_problems(), []);
}
