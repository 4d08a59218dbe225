//! Every setting of the router once: environment variable, flag, default, unit and reason.
//!
//! [`load`] reads them at the start of the process; [`Settings::from_pairs`] serves tests and programs that embed the
//! router. Both read everything before they judge, and report *all* that is wrong together. A value is taken from the
//! flag, else the process environment, else the env file (`.env`, or what `--env-file` or `ENV_FILE` names), else the
//! default; an empty value is unset. Secrets appear in no error and no `Debug` output.
//!
//! The settings themselves stand in `table`; this file owns how they come together. It starts nothing and logs nothing.

#[macro_use]
mod macros;
mod auth;
mod ca_file;
mod credentials_file;
mod help_text;
mod mask;
mod parse;
mod policy_file;
mod row;
mod source;
mod source_url;
mod spring;
mod table;
mod traces;
mod upstream_url;
mod upstreams;
mod upstreams_file;
mod value;

use std::{
    env,
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, parser::ValueSource};

use source::{Layer, Reader};
use table::{CommandLine, TABLE};

pub use auth::{Auth, KEY_PREFIX, KeyFile, KeyHash, KeySource, is_key_name, is_trusted_url};
pub use ca_file::{CaFile, PemFile};
pub use credentials_file::{CredentialsFile, Grant, ServiceCredential};
pub use policy_file::{PolicyFile, Rule};
pub use source::{Origin, Problem};
pub use source_url::{NacosUrl, SourceUrl};
pub use table::{
    AuthSettings, DiscoverySettings, InnerSettings, LifecycleSettings, LimitSettings, LogSettings, RedisSettings,
    SecuritySettings, ServerSettings, SessionSettings, Settings, StatelessSettings, StreamSettings, TraceSettings,
    UpstreamSettings, defaults,
};
pub use traces::{Sampler, SamplerSetting};
pub use upstream_url::UpstreamUrl;
pub use upstreams_file::UpstreamsFile;
pub use value::{Allowed, EraSetting, LogFormat, RedisUrl, Secret, Spread, Transport, UpstreamService, Watched};

/// Exit code for wrong settings: `EX_USAGE` of sysexits.h.
pub const EXIT_USAGE: u8 = 64;

/// Read when no other env file is named, and may be missing.
const DEFAULT_ENV_FILE: &str = ".env";

/// Names the env file; not a setting itself, as it cannot stand in that file.
const ENV_FILE: &str = "ENV_FILE";

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The command line itself is not understood; or it asked for help or the version, which is no failure.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// These settings are wrong; at least one.
    #[error("{}", listed(.0))]
    Invalid(Vec<Problem>),
}

impl SettingsError {
    /// With what the process should exit: 64, or 0 after help or version.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::CommandLine(text) if !text.use_stderr() => 0,
            _ => EXIT_USAGE,
        }
    }

    /// What is wrong, one entry a setting; empty when the command line was not understood.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::CommandLine(_) => &[],
            Self::Invalid(problems) => problems,
        }
    }
}

impl From<&SettingsError> for ExitCode {
    fn from(error: &SettingsError) -> Self {
        Self::from(error.exit_code())
    }
}

fn listed(problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "1 setting is wrong:".to_owned(),
        many => format!("{many} settings are wrong:"),
    };
    let lines = problems.iter().map(|problem| format!("\n  {problem}"));
    std::iter::once(count).chain(lines).chain(["\n`mcp-router --help` explains each setting.".to_owned()]).collect()
}

/// What there is to know about one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingDoc {
    /// Heading under which the help lists it, such as `Server`.
    pub group: &'static str,
    /// Environment variable, such as `SERVER_PORT`.
    pub env: &'static str,
    /// Flag, such as `--server-port`.
    pub flag: String,
    /// Default as one would write it; empty: unset.
    pub default: &'static str,
    /// Unit or form of the value.
    pub unit: &'static str,
    /// What it does and why its default is what it is.
    pub help: &'static str,
}

/// Every setting, in the order of the help.
pub fn all() -> Vec<SettingDoc> {
    let doc = |row: &row::Row| SettingDoc {
        group: row.group,
        env: row.env,
        flag: format!("--{}", row.env.to_ascii_lowercase().replace('_', "-")),
        default: row.default,
        unit: row.unit,
        help: row.help,
    };
    TABLE.iter().map(doc).collect()
}

/// What `mcp-router --help` prints.
pub fn help() -> String {
    CommandLine::command().render_long_help().to_string()
}

/// The settings of this process. `--help` and `--version` print their text and end it with code 0.
///
/// # Errors
/// All that is wrong with the settings, or an unknown flag; to be printed, and the process to exit with
/// [`SettingsError::exit_code`].
pub fn load() -> Result<Settings, SettingsError> {
    load_of(env::args_os())
}

/// [`load`] with another command line (program name first).
///
/// # Errors
/// As [`load`].
pub fn load_of(args: impl IntoIterator<Item = OsString>) -> Result<Settings, SettingsError> {
    match load_from(args, env::vars_os(), Path::new("")) {
        Err(SettingsError::CommandLine(text)) if !text.use_stderr() => text.exit(),
        result => result,
    }
}

/// [`load`] with its inputs named: the command line (program name first), the process environment, and the directory
/// in which `.env` and relative names of env files are looked for.
///
/// # Errors
/// As [`load`]; help and version come back as [`SettingsError::CommandLine`].
pub fn load_from<A, E>(args: A, environment: E, directory: &Path) -> Result<Settings, SettingsError>
where
    A: IntoIterator<Item = OsString>,
    E: IntoIterator<Item = (OsString, OsString)>,
{
    let flags = flags(args)?;
    let environment: Layer =
        environment.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();

    let mut reader = Reader::new(TABLE);
    let mut warnings = Vec::new();
    let env_file = env_file(&flags, &environment);
    reader.add(Origin::Flag, flags);
    reader.add(Origin::Environment, environment);
    add_env_file(&mut reader, &mut warnings, env_file, directory);
    finish(reader, warnings)
}

/// The flags given, by variable. The command also declares the variables, for its help; the values that clap has found
/// in them are left to the environment's own layer.
fn flags(args: impl IntoIterator<Item = OsString>) -> Result<Layer, clap::Error> {
    let matches = CommandLine::command().try_get_matches_from(spring::plain_flags(args))?;
    let mut flags = Layer::new();
    for id in matches.ids() {
        let name = id.as_str();
        if matches.value_source(name) != Some(ValueSource::CommandLine) {
            continue;
        }
        // Groups have ids, too, but no value.
        if let Ok(Some(value)) = matches.try_get_one::<OsString>(name) {
            flags.insert(name.to_ascii_uppercase(), value.clone());
        }
    }
    Ok(flags)
}

/// The env file that was asked for, and where.
fn env_file(flags: &Layer, environment: &Layer) -> Option<(Origin, OsString)> {
    let named = |origin: Origin, layer: &Layer| {
        let name = layer.get(ENV_FILE).filter(|name| !source::is_blank(name))?;
        Some((origin, name.clone()))
    };
    named(Origin::Flag, flags).or_else(|| named(Origin::Environment, environment))
}

/// Adds the env file as the lowest layer. A named one must be there; the default one may be missing.
fn add_env_file(reader: &mut Reader, warnings: &mut Vec<String>, named: Option<(Origin, OsString)>, directory: &Path) {
    let must_exist = named.is_some();
    let (origin, name) = named.unwrap_or_else(|| (Origin::Default, DEFAULT_ENV_FILE.into()));
    let expected = match source::read_env_file(&directory.join(&name), TABLE) {
        Ok(Some(file)) => {
            warnings.extend(file.warnings);
            file.problems.into_iter().for_each(|problem| reader.report(problem));
            reader.add(Origin::EnvFile(name.into()), file.values);
            return;
        }
        Ok(None) if !must_exist => return,
        Ok(None) => "the name of an env file; there is no such file".to_owned(),
        Err(fault) => format!("a readable env file ({fault})"),
    };
    let value = name.to_string_lossy().into_owned();
    reader.report(Problem { name: ENV_FILE.to_owned(), value, origin, expected });
}

impl LimitSettings {
    /// What one session's messages may hold: one of the largest always fits.
    pub fn inbox_bytes(&self) -> usize {
        self.max_inbox_bytes.max(self.max_body)
    }
}

impl Settings {
    /// Settings from pairs of variable and value over the defaults; neither the environment nor a file is read. For
    /// tests, and for programs that embed the router.
    ///
    /// # Errors
    /// As [`load`]; here a name that is no setting is an error, too.
    pub fn from_pairs<P, N, V>(pairs: P) -> Result<Self, SettingsError>
    where
        P: IntoIterator<Item = (N, V)>,
        N: Into<String>,
        V: AsRef<OsStr>,
    {
        let mut reader = Reader::new(TABLE);
        let mut given = Layer::new();
        for (name, value) in pairs {
            let name: String = name.into();
            if TABLE.iter().any(|row| row.env == name) {
                given.insert(name, value.as_ref().to_owned());
            } else {
                reader.report(Problem {
                    name,
                    value: mask::MASK.to_owned(),
                    origin: Origin::Program,
                    expected: "the variable of a setting".to_owned(),
                });
            }
        }
        reader.add(Origin::Program, given);
        finish(reader, Vec::new())
    }

    /// Tells the settings which port was bound when `SERVER_PORT` is 0, so that the port and an instance id that holds
    /// it are true from then on. To be called before anything uses either.
    pub fn set_bound_port(&mut self, port: u16) {
        self.server.port = port;
        self.session.instance_id =
            parse::expand_instance_id(&self.instance_id_template, &self.server.address.to_string(), port);
    }
}

/// Reads all settings, checks how they go together, and decides.
fn finish(mut reader: Reader, mut warnings: Vec<String>) -> Result<Settings, SettingsError> {
    let mut settings = Settings::read(&mut reader);
    check_relations(&settings, &mut reader);
    let shares_redis = settings.redis.url.is_some();
    if shares_redis && settings.server.address.is_unspecified() && !reader.is_given("MCP_SESSION_INSTANCE_ID") {
        warnings.push(format!(
            "MCP_SESSION_INSTANCE_ID is not set and SERVER_ADDRESS is {}: instances on other hosts would have the \
             same id; set it when they share this Redis",
            settings.server.address,
        ));
    }
    let has_name = settings.session.instance_id != defaults::MCP_SESSION_INSTANCE_ID;
    if !shares_redis && has_name {
        warnings.push(
            "MCP_SESSION_INSTANCE_ID is set, but REDIS_URL is not: this instance keeps its sessions in its own memory, \
             shares them with no other instance, and loses them with a restart. Set REDIS_URL, the same for all instances; \
             for one instance alone no id is needed"
                .to_owned(),
        );
    }
    if let Some(file) = &settings.upstream.file {
        if !settings.upstream.services.is_empty() {
            warnings.push(format!(
                "MCP_UPSTREAMS is not used, since MCP_UPSTREAMS_FILE is set: the services are those of {}",
                file.path().display(),
            ));
        }
        settings.upstream.services = file.services().to_vec();
    }
    let problems = reader.into_problems();
    if !problems.is_empty() {
        return Err(SettingsError::Invalid(problems));
    }
    settings.instance_id_template = settings.session.instance_id.clone();
    settings.set_bound_port(settings.server.port);
    settings.warnings = warnings;
    Ok(settings)
}

/// What no single setting can tell.
fn check_relations(settings: &Settings, reader: &mut Reader) {
    let Settings { server, auth, session, redis, upstream, stream, lifecycle, .. } = settings;
    reader.require(
        "REDIS_CERT_FILE",
        redis.cert_file.is_some() == redis.key_file.is_some(),
        "to be set together with REDIS_KEY_FILE, or neither",
    );
    for (file, other, is_paired) in [
        ("SERVER_CERT_FILE", "SERVER_KEY_FILE", server.cert_file.is_some() == server.key_file.is_some()),
        (
            "MCP_UPSTREAM_CERT_FILE",
            "MCP_UPSTREAM_KEY_FILE",
            upstream.cert_file.is_some() == upstream.key_file.is_some(),
        ),
    ] {
        reader.require(file, is_paired, &format!("to be set together with {other}, or neither"));
    }
    let is_client = auth.client_id.is_some() && auth.client_secret.is_some();
    reader.require(
        "MCP_AUTH_INTROSPECTION",
        auth.introspection.is_none() || is_client,
        "to be set together with MCP_AUTH_CLIENT_ID and MCP_AUTH_CLIENT_SECRET_FILE",
    );
    reader.require(
        "MCP_AUTH",
        auth.by != Auth::Unset || server.address.to_canonical().is_loopback(),
        "how clients show who they are, since SERVER_ADDRESS is no loopback address and anybody may come: keys, tokens, proxy (docs/operations.md#who-may-ask), or none by name, where others see to that",
    );
    let is_named = auth.keys_file.is_some() || !auth.by.by_keys();
    reader.require(
        "MCP_AUTH_KEYS_FILE",
        is_named,
        "the file of keys, since MCP_AUTH says keys; `mcp-router key NAME FILE` makes one",
    );
    let has_issuer = auth.issuer.is_some() || !auth.by.by_tokens();
    reader.require("MCP_AUTH_ISSUER", has_issuer, "whose tokens count, since MCP_AUTH says tokens");
    let is_somewhere =
        !auth.by.by_tokens() || auth.resource.is_some() || settings.security.allowed_hosts != Allowed::Any;
    reader.require(
        "MCP_AUTH_RESOURCE",
        is_somewhere,
        "where clients reach the router, since MCP_ALLOWED_HOSTS takes any host, and a token would be for whatever its bearer says",
    );
    let is_heard = !auth.by.by_proxy() || !settings.security.trusted_proxies.is_empty();
    reader.require("MCP_TRUSTED_PROXIES", is_heard, "the proxy whose word counts, since MCP_AUTH says proxy");
    reader.check("MCP_LEASE_RENEW", "MCP_LEASE", session.lease_renew <= session.lease / 2, "at most half of");
    reader.check(
        "MCP_UPSTREAM_BACKOFF_MIN",
        "MCP_UPSTREAM_BACKOFF_MAX",
        upstream.backoff_min <= upstream.backoff_max,
        "at most",
    );
    reader.check("MCP_RETRY_MIN", "MCP_RETRY_MAX", stream.retry_min <= stream.retry_max, "at most");
    let in_order = stream.streamable_retry_min <= stream.streamable_retry_max;
    reader.check("MCP_STREAMABLE_RETRY_MIN", "MCP_STREAMABLE_RETRY_MAX", in_order, "at most");
    reader.check(
        "DRAIN_DEADLINE",
        "SHUTDOWN_TIMEOUT",
        lifecycle.drain_deadline < lifecycle.shutdown_timeout,
        "less than",
    );
}
