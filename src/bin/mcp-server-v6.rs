//! Starts mcp-server-v6.

fn main() {}
