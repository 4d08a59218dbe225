//! Settings: what is promised to whoever configures the router.
#![allow(clippy::unwrap_used, reason = "in a test it is the right way to fail; clippy spares only the test functions")]

use std::{ffi::OsString, fmt::Write as _, fs, net::IpAddr, path::Path, time::Duration};

use mcp_router::settings::{
    Allowed, LogFormat, Origin, Problem, Settings, SettingsError, UpstreamService, all, help, load_from,
};
use tempfile::TempDir;

/// Loads as the program does, from these flags, this environment, and the env files in `directory`.
fn load(flags: &[&str], environment: &[(&str, &str)], directory: &Path) -> Result<Settings, SettingsError> {
    let args = ["mcp-router"].iter().chain(flags).map(OsString::from);
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load_from(args, environment, directory)
}

fn one(name: &str, value: &str) -> Result<Settings, SettingsError> {
    Settings::from_pairs([(name, value)])
}

fn problems(result: Result<Settings, SettingsError>) -> Vec<Problem> {
    let error = result.expect_err("wrong settings must not pass");
    assert_eq!(error.exit_code(), 64);
    error.problems().to_vec()
}

fn defaults() -> Settings {
    Settings::from_pairs::<_, String, String>([]).expect("the defaults are valid")
}

fn directory_with(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

mod documentation {
    use super::*;

    const HEADER: &str = "\
# Settings of mcp-router, each with its default.
#
# Copy this file to .env and take away the # before what you change; or name another file with --env-file or ENV_FILE.
# Each setting is a flag, too: SERVER_PORT=8051 is --server-port 8051. The first of these that has a value wins: flag,
# process environment, env file, default. An empty value means unset.
# Durations are written like 500ms, 30s or 1h30m; sizes like 4MiB, 512KiB or 1000 (bytes). Put single quotes around
# values that hold spaces, double quotes, # or $, and double quotes around those that hold single quotes or end with a
# backslash; in these write \\\\, \\\" and \\$.
";

    /// `.env.example` as it follows from the code.
    fn env_example() -> String {
        let mut text = HEADER.to_owned();
        let mut group = "";
        for setting in all() {
            if setting.group != group {
                group = setting.group;
                write!(text, "\n# ==== {group} ====\n").unwrap();
            }
            let mut line = "#".to_owned();
            text.push('\n');
            for word in format!("{} [{}]", setting.help, setting.unit).split_whitespace() {
                if line.len() + 1 + word.len() > 118 {
                    writeln!(text, "{line}").unwrap();
                    line = "#".to_owned();
                }
                write!(line, " {word}").unwrap();
            }
            writeln!(text, "{line}\n# {}={}", setting.env, setting.default).unwrap();
        }
        text
    }

    fn env_example_path() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(".env.example")
    }

    #[test]
    fn env_example_says_what_the_code_says() {
        if std::env::var_os("UPDATE_ENV_EXAMPLE").is_some() {
            fs::write(env_example_path(), env_example()).unwrap();
        }
        let text = fs::read_to_string(env_example_path()).unwrap();
        assert!(text == env_example(), "write it anew: UPDATE_ENV_EXAMPLE=1 cargo test --test settings");
    }

    #[test]
    fn env_example_holds_each_setting_once_and_no_other() {
        let text = fs::read_to_string(env_example_path()).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("# ")?.split_once('='));
        let is_name = |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        let found: Vec<_> = lines.filter(|(name, _)| !name.is_empty() && is_name(name)).collect();
        let known: Vec<_> = all().into_iter().map(|setting| (setting.env, setting.default)).collect();
        assert_eq!(found, known);
    }

    #[test]
    fn env_example_without_its_comment_signs_changes_nothing() {
        let uncommented: String = fs::read_to_string(env_example_path())
            .unwrap()
            .lines()
            .map(|line| match all().iter().any(|setting| line.starts_with(&format!("# {}=", setting.env))) {
                true => format!("{}\n", &line[2..]),
                false => format!("{line}\n"),
            })
            .collect();
        let directory = directory_with(&[(".env", &uncommented)]);
        let settings = load(&[], &[], directory.path()).unwrap();
        assert_eq!(format!("{settings:?}"), format!("{:?}", defaults()));
    }

    #[test]
    fn help_tells_variable_flag_unit_default_and_reason_of_each_setting() {
        let unwrapped = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let help = unwrapped(&help());
        for setting in all() {
            let default = if setting.default.is_empty() { "unset" } else { setting.default };
            for part in [
                format!("{} <VALUE>", setting.flag),
                format!("[env: {}]", setting.env),
                unwrapped(setting.help),
                format!("[unit: {}]", setting.unit),
                format!("[default: {default}]"),
            ] {
                assert!(help.contains(&part), "{}: {part:?} is not in the help", setting.env);
            }
        }
        assert!(help.contains("--env-file <FILE>"));
    }

    #[test]
    fn flags_are_the_variables_in_kebab_case() {
        let flags: Vec<_> = all().into_iter().map(|setting| setting.flag).collect();
        for flag in ["--server-port", "--mcp-session-ttl", "--redis-url", "--drain-streams-per-second"] {
            assert!(flags.iter().any(|known| known == flag), "{flag}");
        }
    }

    #[test]
    fn help_and_version_are_no_failure() {
        let directory = directory_with(&[]);
        for flag in ["--help", "-h", "--version"] {
            let error = load(&[flag], &[("SERVER_PORT", "wrong")], directory.path()).unwrap_err();
            assert_eq!(error.exit_code(), 0, "{flag}");
        }
    }

    #[test]
    fn every_setting_has_a_flag_that_works() {
        let directory = directory_with(&[]);
        for setting in all() {
            let flag = format!("{}=\u{1}", setting.flag);
            let found = problems(load(&[&flag], &[], directory.path()));
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].name.as_str(), &found[0].origin), (setting.env, &Origin::Flag));
        }
    }
}

mod precedence {
    use super::*;

    #[test]
    fn flag_beats_environment_beats_env_file_beats_default() {
        let directory = directory_with(&[(".env", "SERVER_PORT=1\nMCP_LEASE=4s\nMCP_MAX_SESSIONS=7\n")]);
        let environment = [("SERVER_PORT", "2"), ("MCP_LEASE", "5s")];
        let settings = load(&["--server-port", "3"], &environment, directory.path()).unwrap();
        assert_eq!(settings.server.port, 3);
        assert_eq!(settings.session.lease, Duration::from_secs(5));
        assert_eq!(settings.limits.max_sessions, 7);
        assert_eq!(settings.limits.max_inflight, 64);
    }

    #[test]
    fn an_empty_value_is_unset_in_every_layer() {
        let directory = directory_with(&[(".env", "SERVER_PORT=1\nMCP_LEASE=\nREDIS_POOL_SIZE=''\n")]);
        let environment = [("SERVER_PORT", ""), ("MCP_LEASE", " ")];
        let settings = load(&["--server-port", ""], &environment, directory.path()).unwrap();
        assert_eq!(settings.server.port, 1);
        assert_eq!(settings.session.lease, Duration::from_secs(3));
        assert_eq!(settings.redis.pool_size, 8);
    }

    #[test]
    fn only_the_first_wrong_layer_is_judged() {
        let directory = directory_with(&[(".env", "SERVER_PORT=wrong")]);
        assert_eq!(load(&[], &[("SERVER_PORT", "2")], directory.path()).unwrap().server.port, 2);
    }
}

mod env_files {
    use super::*;

    #[test]
    fn a_named_file_is_read_instead_of_dot_env() {
        let directory = directory_with(&[
            (".env", "SERVER_PORT=1\nMCP_MAX_SESSIONS=1"),
            ("a.env", "SERVER_PORT=2"),
            ("b.env", "SERVER_PORT=3"),
        ]);
        let port = |flags: &[&str], environment: &[(&str, &str)]| {
            let settings = load(flags, environment, directory.path()).unwrap();
            (settings.server.port, settings.limits.max_sessions)
        };
        assert_eq!(port(&[], &[]), (1, 1));
        assert_eq!(port(&[], &[("ENV_FILE", "a.env")]), (2, 10_000));
        assert_eq!(port(&["--env-file", "b.env"], &[("ENV_FILE", "a.env")]), (3, 10_000));
        assert_eq!(port(&[], &[("ENV_FILE", "")]), (1, 1));
        let absolute = directory.path().join("b.env");
        assert_eq!(port(&["--env-file", absolute.to_str().unwrap()], &[]), (3, 10_000));
    }

    #[test]
    fn dot_env_may_be_missing_but_a_named_file_may_not() {
        let directory = directory_with(&[]);
        load(&[], &[], directory.path()).expect("there is no .env, and none is needed");

        let found = problems(load(&["--env-file", "gone.env", "--server-port", "x"], &[], directory.path()));
        let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 2, "{shown:?}");
        assert_eq!(shown[0], r#"ENV_FILE="gone.env" (flag): expected the name of an env file; there is no such file"#);
        assert!(shown[1].starts_with(r#"SERVER_PORT="x" (flag): expected"#), "{}", shown[1]);
    }

    #[test]
    fn an_unreadable_file_is_an_error_and_not_an_endless_read() {
        let directory = directory_with(&[]);
        fs::create_dir(directory.path().join(".env")).unwrap();
        let found = problems(load(&[], &[], directory.path()));
        assert!(found[0].expected.starts_with("a readable env file"), "{found:?}");
    }

    #[test]
    fn a_malformed_line_is_named_by_number_and_its_value_is_not_shown() {
        for (line, name) in [
            ("MCP_ADMIN_TOKEN='tops3cret", "MCP_ADMIN_TOKEN"),
            ("MCP_ADMIN_TOKEN=tops3cret two", "MCP_ADMIN_TOKEN"),
            ("redis://u:tops3cret@h/?db=1", "a line"),
            ("tops3cret", "a line"),
        ] {
            let directory = directory_with(&[(".env", &format!("# first\n\n{line}\n"))]);
            let error = load(&[], &[], directory.path()).unwrap_err();
            assert_eq!(error.problems()[0].name, name);
            assert!(error.to_string().contains("(line 3)"), "{error}");
            assert!(!format!("{error} {error:?}").contains("tops3cret"), "{error:?}");
        }
    }

    #[test]
    fn names_that_look_misspelt_are_warned_about_and_others_are_not() {
        let file = "MCP_SESION_TTL=1m\nREDIS_HOST=x\nHTTP_PROXY=y\nSERVER_PORT=1\nSERVER_PORT=2\n";
        let directory = directory_with(&[("my.env", file)]);
        let settings = load(&["--env-file=my.env"], &[("MCP_LEESE", "1s")], directory.path()).unwrap();
        assert_eq!(settings.server.port, 1);
        assert_eq!(settings.warnings.len(), 2, "{:?}", settings.warnings);
        assert!(settings.warnings[0].contains("MCP_SESION_TTL") && settings.warnings[0].contains("MCP_SESSION_TTL"));
        assert!(settings.warnings[1].contains("SERVER_PORT stands there twice"));
    }
}

mod errors {
    use super::*;

    #[test]
    fn all_wrong_settings_are_reported_together_by_name_value_and_expectation() {
        let directory = directory_with(&[(".env", "MCP_MAX_BODY=4MB\nLOG_FORMAT=xml\n")]);
        let environment = [("MCP_SESSION_TTL", "30"), ("MCP_UPSTREAMS", "a=ftp://h")];
        let error = load(&["--server-port", "70000"], &environment, directory.path()).unwrap_err();
        assert_eq!(error.exit_code(), 64);
        assert_eq!(
            error.to_string(),
            "\
5 settings are wrong:
  SERVER_PORT=\"70000\" (flag): expected a whole number from 0 to 65535
  MCP_SESSION_TTL=\"30\" (environment): expected a duration with its unit, such as 500ms, 30s or 1h30m, from 1s to 30days
  MCP_UPSTREAMS=\"a=ftp://h\" (environment): expected name=url,url;name2=url with http or https URLs, or dns+http, dns+srv+http, nacos+http ones (service 1)
  MCP_MAX_BODY=\"4MB\" (.env): expected a size such as 4MiB, 512KiB or 1000 (bytes), from 1KiB to 1GiB
  LOG_FORMAT=\"xml\" (.env): expected text or json
`mcp-router --help` explains each setting."
        );
    }

    #[test]
    fn every_setting_but_free_text_rejects_nonsense() {
        let nonsense: Vec<_> = all().into_iter().map(|setting| (setting.env, "\u{1} ,;")).collect();
        let names: Vec<_> = problems(Settings::from_pairs(nonsense)).into_iter().map(|problem| problem.name).collect();
        let known: Vec<_> = all().into_iter().map(|setting| setting.env.to_owned()).collect();
        assert_eq!(names, known);
    }

    #[test]
    fn unknown_flags_and_stray_words_exit_with_64() {
        let directory = directory_with(&[]);
        for flags in [&["--server-prot", "1"][..], &["serve"], &["--server-port"]] {
            let error = load(flags, &[], directory.path()).unwrap_err();
            assert_eq!(error.exit_code(), 64, "{flags:?}");
            assert!(matches!(error, SettingsError::CommandLine(_)));
        }
    }

    #[test]
    fn an_unknown_name_from_a_program_is_an_error() {
        let found = problems(one("SERVER_PROT", "1"));
        assert_eq!((found[0].name.as_str(), &found[0].origin), ("SERVER_PROT", &Origin::Program));
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_no_text_is_reported_like_any_other() {
        use std::os::unix::ffi::OsStringExt;
        let bytes = OsString::from_vec(vec![b'8', 0xff]);
        let found = problems(Settings::from_pairs([("SERVER_PORT", bytes)]));
        assert_eq!(found[0].expected, "UTF-8 text");
    }

    #[test]
    fn no_secret_is_in_any_error_or_debug_output() {
        let pairs = [
            ("REDIS_URL", "redisss://user:tops3cret@host:6379/0?pass=tops3cret"),
            ("MCP_ADMIN_TOKEN", "tops3cret tops3cret"),
            // Credentials are allowed there; another scheme is not.
            ("MCP_UPSTREAMS", "a=ftp://user:tops3cret@host/sse?key=tops3cret"),
        ];
        let error = Settings::from_pairs(pairs).unwrap_err();
        assert_eq!(error.problems().len(), 3);
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("tops3cret"), "{shown}");
        assert!(shown.contains("redisss://***@host:6379/0?***"), "{shown}");

        let pairs = [
            ("REDIS_URL", "redis://user:tops3cret@host"),
            ("MCP_ADMIN_TOKEN", "tops3cret"),
            ("MCP_UPSTREAMS", "a=http://user:tops3cret@host/sse?key=tops3cret"),
        ];
        let settings = Settings::from_pairs(pairs).unwrap();
        assert!(!format!("{settings:?}").contains("tops3cret"));
        assert_eq!(settings.redis.url.unwrap().expose(), "redis://user:tops3cret@host");
        assert_eq!(settings.security.admin_token.unwrap().expose(), "tops3cret");
    }

    #[test]
    fn settings_that_contradict_each_other_are_reported_with_both_values() {
        for (pairs, name, expected) in [
            (
                [("MCP_LEASE", "2s"), ("MCP_LEASE_RENEW", "1001ms")],
                "MCP_LEASE_RENEW",
                r#"at most half of MCP_LEASE, which is "2s" (given by the program)"#,
            ),
            (
                [("DRAIN_DEADLINE", "30s"), ("SHUTDOWN_TIMEOUT", "")],
                "DRAIN_DEADLINE",
                r#"less than SHUTDOWN_TIMEOUT, which is "30s" (default)"#,
            ),
            (
                [("MCP_RETRY_MIN", "2s"), ("MCP_RETRY_MAX", "1s")],
                "MCP_RETRY_MIN",
                r#"at most MCP_RETRY_MAX, which is "1s" (given by the program)"#,
            ),
            (
                [("MCP_UPSTREAM_BACKOFF_MAX", "99ms"), ("SERVER_PORT", "1")],
                "MCP_UPSTREAM_BACKOFF_MIN",
                r#"at most MCP_UPSTREAM_BACKOFF_MAX, which is "99ms" (given by the program)"#,
            ),
        ] {
            let found = problems(Settings::from_pairs(pairs));
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].name.as_str(), found[0].expected.as_str()), (name, expected));
        }
        for pairs in [
            [("MCP_LEASE", "2s"), ("MCP_LEASE_RENEW", "1s")],
            [("DRAIN_DEADLINE", "29s"), ("SHUTDOWN_TIMEOUT", "30s")],
            [("MCP_RETRY_MIN", "1s"), ("MCP_RETRY_MAX", "1s")],
        ] {
            Settings::from_pairs(pairs).unwrap();
        }
    }

    #[test]
    fn a_setting_wrong_by_itself_is_not_compared() {
        let found = problems(Settings::from_pairs([("MCP_LEASE", "soon"), ("MCP_LEASE_RENEW", "1h")]));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].name, "MCP_LEASE");
    }
}

mod values {
    use super::*;

    fn names(list: &[&str]) -> Allowed {
        Allowed::Listed(list.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn defaults_are_as_documented() {
        let settings = defaults();
        assert_eq!((settings.server.port, settings.server.address), (8051, IpAddr::from([127, 0, 0, 1])));
        assert_eq!(settings.server.base_path, "");
        assert_eq!(settings.session.instance_id, "127.0.0.1:8051");
        assert_eq!(settings.session.ttl, Duration::from_secs(30 * 60));
        assert_eq!(settings.session.redis_prefix, "mcp");
        assert!(settings.redis.url.is_none() && settings.security.admin_token.is_none());
        assert_eq!(settings.upstream.services, []);
        assert_eq!(settings.upstream.max_message, 16 << 20);
        assert_eq!(settings.stream.rebind_timeout, Duration::from_millis(1500));
        assert_eq!(settings.limits.max_body, 4 << 20);
        assert_eq!(settings.security.allowed_hosts, names(&["localhost", "127.0.0.1", "[::1]", "mcp-bridge.local"]));
        assert_eq!(settings.security.allowed_origins, names(&[]));
        assert_eq!(settings.security.trusted_proxies.len(), 2);
        assert_eq!((settings.log.format, settings.log.level.as_str()), (LogFormat::Text, "info"));
        assert_eq!(settings.lifecycle.drain_deadline, Duration::from_secs(20));
        assert_eq!(
            settings.lifecycle.watchdog, settings.session.lease,
            "who is silent for so long has lost its sessions"
        );
        assert_eq!(settings.warnings, [""; 0]);
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("9ms", None),
            ("10ms", Some(10)),
            ("1500ms", Some(1500)),
            ("2s", Some(2000)),
            (" 1m 30s ", Some(90_000)),
            ("1h", Some(3_600_000)),
            ("30", None),
            ("", Some(15_000)),
            ("-1s", None),
            ("1.5s", Some(1500)),
            ("0s", None),
            ("1ns", None),
            ("61m", None),
            ("584542046091y", None),
            ("99999999999999999999s", None),
            ("soon", None),
        ] {
            let found = one("MCP_HEARTBEAT", text).ok().map(|settings| settings.stream.heartbeat);
            let expected = milliseconds.map(Duration::from_millis);
            assert_eq!(found, expected, "{text:?}");
        }
        for (text, milliseconds) in [("0s", Some(0)), ("300ms", Some(300)), ("299ms", None), ("3", None), ("61m", None)]
        {
            let found = one("MCP_WATCHDOG", text).ok().map(|settings| settings.lifecycle.watchdog);
            assert_eq!(found, milliseconds.map(Duration::from_millis), "{text:?}");
        }
        let expected = &problems(one("MCP_WATCHDOG", "soon"))[0].expected;
        assert!(expected.ends_with(", or 0s for off"), "{expected}");
        for env in ["REDIS_WAIT", "MCP_UPSTREAM_ORDER_WAIT", "DRAIN_DEADLINE"] {
            one(env, "0s").expect("no wait at all is a choice");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1024", Some(1024)),
            ("2000B", Some(2000)),
            ("512KiB", Some(512 << 10)),
            ("4MiB", Some(4 << 20)),
            ("4 mib", Some(4 << 20)),
            ("1GiB", Some(1 << 30)),
            ("1025MiB", None),
            ("1000", None),
            ("4MB", None),
            ("4M", None),
            ("4.5MiB", None),
            ("MiB", None),
            ("-1", None),
            ("+4096", None),
            ("0x1000", None),
            ("18014398509481985KiB", None),
            ("99999999999999999999999", None),
        ] {
            let found = one("MCP_MAX_BODY", text).ok().map(|settings| settings.limits.max_body);
            assert_eq!(found, bytes, "{text:?}");
        }
    }

    #[test]
    fn service_lists() {
        let service = |name: &str, urls: &[&str]| UpstreamService {
            name: name.to_owned(),
            endpoints: urls.iter().map(|url| url.parse().unwrap()).collect(),
            sources: Vec::new(),
        };
        for (text, services) in [
            ("", vec![]),
            ("a=http://h", vec![service("a", &["http://h/"])]),
            (
                "mcp-server-v6=http://127.0.0.1:8071,http://127.0.0.1:8072",
                vec![service("mcp-server-v6", &["http://127.0.0.1:8071", "http://127.0.0.1:8072"])],
            ),
            (
                " a = http://h/sse?x=1 , http://[::1]:1/mcp ; b.c_d-E=http://h; ",
                vec![service("a", &["http://h/sse?x=1", "http://[::1]:1/mcp"]), service("b.c_d-E", &["http://h"])],
            ),
        ] {
            assert_eq!(one("MCP_UPSTREAMS", text).unwrap().upstream.services, services, "{text:?}");
        }
    }

    #[test]
    fn wrong_service_lists() {
        let long = format!("{}=http://h", "n".repeat(65));
        for (text, why) in [
            ("a", "= before the URLs"),
            ("http://h", "= before the URLs"),
            ("a=", "at least one URL"),
            ("a=http://h,", "none empty"),
            ("a=http://h;;b=http://h", "= before the URLs"),
            (";", "= before the URLs"),
            ("=http://h", "1 to 64 characters"),
            ("a b=http://h", "1 to 64 characters"),
            ("a/b=http://h", "1 to 64 characters"),
            ("..=http://h", "1 to 64 characters"),
            (&long, "1 to 64 characters"),
            ("router=http://h", "a name other than router and message"),
            ("message=http://h", "a name other than router and message"),
            ("a=https://[::1]/sse", "a host name or an IPv4 address"),
            ("a=ftp://h", "http or https URLs, or dns+http, dns+srv+http, nacos+http ones"),
            ("a=127.0.0.1:8071", "http"),
            ("a=http://", "empty host"),
            ("a=http://h:70000", "invalid port"),
            ("a=http://h#f", "without a fragment"),
            ("a=http://h,http://h/", "each URL of a service once"),
            ("a=http://h;a=http://g", "a stands there twice"),
        ] {
            let found = problems(one("MCP_UPSTREAMS", text));
            assert!(found[0].expected.contains(why), "{text:?}: {}", found[0].expected);
        }
        let found = problems(one("MCP_UPSTREAMS", "a=ftp://h;router=http://h;c=http://h"));
        assert!(found[0].expected.contains("(service 1)") && found[0].expected.contains("(service 2)"), "{found:?}");
    }

    #[test]
    fn a_file_of_certificates_is_read_at_once_and_must_hold_some() {
        let ca = testkit::tls::Ca::new();
        let (pem, key) = (ca.pem(), ca.key_pem());
        let both = pem.repeat(2);
        let broken = pem.replacen("MII", "!!!", 1);
        let directory =
            directory_with(&[("two.pem", &both), ("empty.pem", ""), ("key.pem", &key), ("broken.pem", &broken)]);
        let path = |name: &str| directory.path().join(name).display().to_string();
        let settings = one("MCP_UPSTREAM_CA_FILE", &path("two.pem")).unwrap();
        assert_eq!(settings.upstream.ca_file.unwrap().certificates().len(), 2);
        for wrong in ["empty.pem", "key.pem", "broken.pem", "none.pem", ""] {
            let found = problems(one("MCP_UPSTREAM_CA_FILE", &path(wrong)));
            assert!(found[0].expected.contains("a readable PEM file of certificates"), "{wrong}: {found:?}");
        }
    }

    #[test]
    fn addresses_and_base_paths() {
        for (text, address) in [("0.0.0.0", "0.0.0.0"), ("::", "::"), ("[::1]", "::1")] {
            let settings = Settings::from_pairs([("SERVER_ADDRESS", text), ("MCP_AUTH", "none")]).unwrap();
            assert_eq!(settings.server.address, address.parse::<IpAddr>().unwrap(), "{text:?}");
        }
        for text in ["localhost", "127.0.0.1:80", "[127.0.0.1", "1.2.3"] {
            problems(one("SERVER_ADDRESS", text));
        }
        for (text, path) in [("/mcp-bridge", "/mcp-bridge"), ("/a/b.c/", "/a/b.c"), ("/", ""), ("/~u/1_2", "/~u/1_2")] {
            assert_eq!(one("SERVER_BASE_PATH", text).unwrap().server.base_path, path, "{text:?}");
        }
        for text in ["mcp", "//", "/a//b", "/a/../b", "/.", "/{x}", "/a b", "/a?b", "/a%20b", "/é"] {
            problems(one("SERVER_BASE_PATH", text));
        }
    }

    /// SEC-5
    #[test]
    fn where_others_may_come_somebody_says_who_is_asked_for_what() {
        let keys = directory_with(&[("keys", &format!("ci sha256:{}", "0".repeat(64)))]);
        let file = keys.path().join("keys").display().to_string();
        let with = |pairs: &[(&str, &str)]| Settings::from_pairs(pairs.iter().copied());
        for address in ["0.0.0.0", "10.0.0.7", "::", "::ffff:10.0.0.7"] {
            let address = ("SERVER_ADDRESS", address);
            let found = problems(with(&[address]));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].name == "MCP_AUTH" && found[0].expected.contains("none by name"), "{found:?}");
            for auth in [
                &[("MCP_AUTH", "none")][..],
                &[("MCP_AUTH", "proxy")],
                &[("MCP_AUTH", "keys"), ("MCP_AUTH_KEYS_FILE", &*file)],
            ] {
                with(&[&[address], auth].concat()).unwrap();
            }
        }
        for address in ["127.0.0.1", "127.9.0.1", "::1", "::ffff:127.0.0.1"] {
            with(&[("SERVER_ADDRESS", address)]).unwrap();
        }
        for (pairs, wrong) in [
            (&[("MCP_AUTH", "keys")][..], "MCP_AUTH_KEYS_FILE"),
            (&[("MCP_AUTH", "proxy"), ("MCP_TRUSTED_PROXIES", "none")], "MCP_TRUSTED_PROXIES"),
            (&[("MCP_AUTH", "no"), ("SERVER_ADDRESS", "0.0.0.0")], "MCP_AUTH"),
            (&[("MCP_AUTH_PROXY_HEADER", "Host")], "MCP_AUTH_PROXY_HEADER"),
        ] {
            let found = problems(with(pairs));
            assert_eq!(found.iter().map(|problem| &*problem.name).collect::<Vec<_>>(), [wrong]);
        }
    }

    #[test]
    fn the_instance_id_follows_address_and_port() {
        let id = |pairs: &[(&str, &str)]| Settings::from_pairs(pairs.iter().copied()).unwrap().session.instance_id;
        assert_eq!(id(&[("SERVER_PORT", "8052")]), "127.0.0.1:8052");
        assert_eq!(id(&[("SERVER_ADDRESS", "::1")]), "::1:8051");
        assert_eq!(id(&[("MCP_SESSION_INSTANCE_ID", "router-instance-1")]), "router-instance-1");
        assert_eq!(id(&[("MCP_SESSION_INSTANCE_ID", "pod-7:{port}")]), "pod-7:8051");
        for text in ["a b", "a/b", "{host}", "é", &"n".repeat(129)] {
            problems(one("MCP_SESSION_INSTANCE_ID", text));
        }
        one("MCP_SESSION_INSTANCE_ID", &"n".repeat(128)).unwrap();
    }

    #[test]
    fn a_port_bound_later_reaches_the_instance_id() {
        let mut settings = one("SERVER_PORT", "0").unwrap();
        settings.set_bound_port(40_001);
        assert_eq!((settings.server.port, settings.session.instance_id.as_str()), (40_001, "127.0.0.1:40001"));

        let mut settings = Settings::from_pairs([("SERVER_PORT", "0"), ("MCP_SESSION_INSTANCE_ID", "one")]).unwrap();
        settings.set_bound_port(40_001);
        assert_eq!(settings.session.instance_id, "one");
    }

    #[test]
    fn an_instance_id_that_other_hosts_would_share_is_warned_about() {
        let shared = [("SERVER_ADDRESS", "0.0.0.0"), ("MCP_AUTH", "none"), ("REDIS_URL", "redis://redis")];
        assert_eq!(Settings::from_pairs(shared).unwrap().warnings.len(), 1);
        let named = shared.into_iter().chain([("MCP_SESSION_INSTANCE_ID", "one")]);
        assert_eq!(Settings::from_pairs(named).unwrap().warnings, [""; 0]);
        assert_eq!(Settings::from_pairs(shared.into_iter().take(2)).unwrap().warnings, [""; 0]);
        // Three of these would be three separate routers.
        let alone = one("MCP_SESSION_INSTANCE_ID", "router-instance-1").unwrap().warnings;
        assert!(alone.len() == 1 && alone[0].contains("REDIS_URL"), "{alone:?}");
    }

    #[test]
    fn redis_urls() {
        for text in [
            "redis://localhost",
            "redis://user:p%40ss@10.0.0.1:6380/2",
            "redis://[::1]:6379",
            "redis+unix:///run/redis.sock?db=1",
        ] {
            assert_eq!(one("REDIS_URL", text).unwrap().redis.url.unwrap().expose(), text);
        }
        for text in ["localhost:6379", "http://h", "redis://", "redis://h/x", "redis://h:99999", "unix:///r.sock"] {
            problems(one("REDIS_URL", text));
        }
        let sentinels = "redis+sentinel://user:p%40ss@a,b:26380,[::1]/sessions/2?sentinel_user=s&sentinel_password=pw";
        let url = one("REDIS_URL", sentinels).unwrap().redis.url.unwrap();
        let watched = url.watched().unwrap();
        assert_eq!(watched.sentinels, ["redis://s:pw@a:26379", "redis://s:pw@b:26380", "redis://s:pw@[::1]:26379"]);
        assert_eq!((&*watched.name, &*watched.node), ("sessions", "redis://user:p%40ss@localhost/2"));
        assert_eq!(url.to_string(), "redis+sentinel://***@a,b:26380,[::1]/sessions/2?***");
        let url = one("REDIS_URL", "redis+sentinel://10.0.0.1/sessions").unwrap().redis.url.unwrap();
        assert_eq!(url.watched().unwrap().sentinels, ["redis://10.0.0.1:26379"]);
        for text in [
            "h",
            "h/",
            "/name",
            "h,/name",
            "h:x/name",
            "h/name/db",
            "h/a b",
            "h/name?db=1",
            "h/name?sentinel_user",
            "u@h@i,j/n/0/1",
        ] {
            problems(one("REDIS_URL", &format!("redis+sentinel://{text}")));
        }
        for text in ["rediss://user:pw@h:6380/1", "rediss+sentinel://a,b/name"] {
            assert_eq!(one("REDIS_URL", text).unwrap().redis.url.unwrap().expose(), text);
        }
        let url = one("REDIS_URL", "rediss+sentinel://a/name").unwrap().redis.url.unwrap();
        let watched = url.watched().unwrap();
        assert_eq!((&*watched.sentinels[0], &*watched.node), ("rediss://a:26379", "rediss://localhost/0"));
        // The client takes it for a wish to believe any certificate.
        problems(one("REDIS_URL", "rediss://h#insecure"));
    }

    #[test]
    fn urls_of_a_redis_cluster() {
        let url = one("REDIS_URL", "redis-cluster://user:p%40ss@a,b:7001,[::1]/0").unwrap().redis.url.unwrap();
        let nodes = [("a", 6379), ("b", 7001), ("::1", 6379)].map(|(host, port)| (host.to_owned(), port));
        assert_eq!(url.spread().unwrap().nodes, nodes);
        assert_eq!(url.spread().unwrap().node, "redis://user:p%40ss@localhost");
        assert_eq!(url.to_string(), "redis-cluster://***@a,b:7001,[::1]/0");
        let url = one("REDIS_URL", "rediss-cluster://10.0.0.1").unwrap().redis.url.unwrap();
        assert_eq!(url.spread().unwrap().node, "rediss://localhost");
        for text in ["", "h,", "h:x", "h/1", "h/name", "h?db=1", "h#insecure"] {
            problems(one("REDIS_URL", &format!("redis-cluster://{text}")));
        }
        problems(one("REDIS_URL", "rediss-cluster://h#insecure"));
    }

    #[test]
    fn key_prefixes() {
        assert_eq!(one("MCP_SESSION_REDIS_PREFIX", "team:mcp").unwrap().session.redis_prefix, "team:mcp");
        for text in ["a b", "{a}", "a*", &"p".repeat(65)] {
            problems(one("MCP_SESSION_REDIS_PREFIX", text));
        }
    }

    #[test]
    fn allowed_hosts() {
        for (text, hosts) in [
            ("*", Allowed::Any),
            ("Example.COM, 10.0.0.1", names(&["example.com", "10.0.0.1"])),
            ("[::1]", names(&["[::1]"])),
            ("[0:0::1]", names(&["[::1]"])),
        ] {
            assert_eq!(one("MCP_ALLOWED_HOSTS", text).unwrap().security.allowed_hosts, hosts, "{text:?}");
        }
        for text in ["localhost:80", "::1", "*.example.com", "a,,b", "a,*", "http://h", "a b"] {
            problems(one("MCP_ALLOWED_HOSTS", text));
        }
    }

    #[test]
    fn allowed_origins() {
        for (text, origins) in [
            ("*", Allowed::Any),
            ("https://App.example.com", names(&["https://app.example.com"])),
            ("https://a:443/,http://b:80,http://c:3000", names(&["https://a", "http://b", "http://c:3000"])),
            ("vscode-webview://abc", names(&["vscode-webview://abc"])),
        ] {
            assert_eq!(one("MCP_ALLOWED_ORIGINS", text).unwrap().security.allowed_origins, origins, "{text:?}");
        }
        for text in ["null", "example.com", "https://a/path", "https://*.a", "https://u@a", "https://a?b", "file:///"] {
            problems(one("MCP_ALLOWED_ORIGINS", text));
        }
    }

    #[test]
    fn trusted_proxies() {
        let networks = |text: &str| one("MCP_TRUSTED_PROXIES", text).unwrap().security.trusted_proxies;
        assert_eq!(networks("none"), []);
        assert_eq!(
            networks("10.0.0.0/8, 10.1.2.3,::1"),
            ["10.0.0.0/8".parse().unwrap(), "10.1.2.3/32".parse().unwrap(), "::1/128".parse().unwrap(),]
        );
        for text in ["10.0.0.0/33", "nginx", "10.0.0.1,", "none,::1"] {
            problems(one("MCP_TRUSTED_PROXIES", text));
        }
    }

    #[test]
    fn log_levels() {
        for text in ["off", "WARN", "info,mcp_router=debug", "mcp_router::session[run{id=1}]=trace"] {
            assert_eq!(one("LOG_LEVEL", text).unwrap().log.level, text);
        }
        for text in ["inof", "debug,inof", "a=b=c", "mcp_router=loud"] {
            problems(one("LOG_LEVEL", text));
        }
        assert_eq!(one("LOG_FORMAT", "JSON").unwrap().log.format, LogFormat::Json);
    }

    #[test]
    fn whole_numbers() {
        for (env, text, valid) in [
            ("SERVER_PORT", "0", true),
            ("SERVER_PORT", "65535", true),
            ("SERVER_PORT", "65536", false),
            ("SERVER_PORT", "-1", false),
            ("SERVER_PORT", "80 81", false),
            ("SERVER_WORKERS", "0", true),
            ("MCP_NEW_SESSION_RATE", "0", true),
            ("MCP_MAILBOX", "0", false),
            ("MCP_ADOPT_RATE", "0", false),
            ("MCP_MAX_SESSIONS", "1e4", false),
        ] {
            assert_eq!(one(env, text).is_ok(), valid, "{env}={text}");
        }
    }
}
