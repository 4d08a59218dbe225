//! What `--help` says besides the settings.

pub(super) const ABOUT: &str =
    "A gateway for the Model Context Protocol whose sessions survive the death of any instance.";

pub(super) const AFTER_HELP: &str = "\
A setting is looked for in this order: flag, process environment, env file, default. An empty value means unset. \
Durations are written like 500ms, 30s or 1h30m; sizes like 4MiB, 512KiB or 1000 (bytes). \
Wrong settings are reported all together, with exit code 64.

`mcp-router check [FLAG…]` tells what a start with these settings would find (address, Redis, clocks, instances, servers), and starts \
nothing. `mcp-router key NAME [FILE]` makes a key for clients (MCP_AUTH_KEYS_FILE).";

/// A setting's lines in `--help`.
pub(super) fn help_text(text: &str, unit: &str, default: &str) -> String {
    let default = if default.is_empty() { "unset" } else { default };
    format!("{} [unit: {unit}] [default: {default}]", text.trim())
}
