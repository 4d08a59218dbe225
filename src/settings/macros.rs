//! The macros behind the table of settings ([`super::table`]).
//!
//! One row of the table is all there is to say about a setting: its reason, variable, default, unit, field and
//! parser. From the rows the macros make the constants in `defaults`, the flags that clap knows, the typed structs and
//! the list behind [`super::all`]; so none of them can drift from another. They decide nothing about values: that is
//! the parsers' work ([`super::parse`]).

/// One group of settings. A row reads:
///
/// ```text
/// /// What it does, and why the default is what it is.
/// VARIABLE = "default", "unit" => field: Type, parser;
/// ```
macro_rules! group {
    (
        $(#[doc = $group_doc:tt])+
        $heading:literal, $flags:ident => $group:ident {
            $(
                $(#[doc = $doc:tt])+
                $env:ident = $default:literal, $unit:literal => $field:ident: $type:ty, $parse:expr;
            )+
        }
    ) => {
        /// The default of each, as one would write it in the environment (empty: unset), with its reason.
        pub mod defaults {
            $(
                $(#[doc = $doc])+
                pub const $env: &str = $default;
            )+
        }

        $(#[doc = $group_doc])+
        #[derive(Debug, Clone)]
        pub struct $group {
            $(
                $(#[doc = $doc])+
                pub $field: $type,
            )+
        }

        impl $group {
            pub(super) fn read(reader: &mut Reader) -> Self {
                Self { $( $field: reader.read(stringify!($env), $parse), )+ }
            }
        }

        /// Declares the group's flags. Values stay raw here, so that all bad ones can be reported together; the
        /// reader takes them from `ArgMatches`, which also knows where each came from.
        #[derive(clap::Args)]
        #[command(next_help_heading = $heading)]
        #[allow(non_snake_case, dead_code, reason = "a field is named as its variable, and only declares it")]
        pub(super) struct $flags {
            $(
                #[arg(
                    long,
                    env,
                    hide_env_values = true,
                    value_name = "VALUE",
                    help = help_text(concat!($($doc),+), $unit, $default)
                )]
                $env: Option<OsString>,
            )+
        }

        pub(super) const ROWS: &[Row] = &[
            $(
                Row {
                    group: $heading,
                    env: stringify!($env),
                    default: $default,
                    unit: $unit,
                    help: concat!($($doc),+).trim_ascii_start(),
                },
            )+
        ];
    };
}

/// All groups, each in a file of its name, in the order of the help:
///
/// ```text
/// /// What it is about.
/// file: Group, Flags;
/// ```
macro_rules! settings {
    ($(
        $(#[doc = $group_doc:tt])+
        $file:ident: $group:ident, $flags:ident;
    )+) => {
        $( pub use $file::$group; )+

        /// The default of each setting, as one would write it in the environment (empty: unset), with its reason.
        pub mod defaults {
            $( pub use super::$file::defaults::*; )+
        }

        /// The command line. Every flag has a variable of the same name.
        #[derive(clap::Parser)]
        #[command(name = "mcp-router", version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 120)]
        #[allow(dead_code, reason = "only declares the flags")]
        pub(super) struct CommandLine {
            /// Read this file of NAME=value lines instead of `.env` in the current directory.
            #[arg(long, env, hide_env_values = true, value_name = "FILE")]
            env_file: Option<OsString>,
            $(
                #[command(flatten)]
                $file: $file::$flags,
            )+
        }

        /// All settings, typed and checked.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $(
                $(#[doc = $group_doc])+
                pub $file: $group,
            )+
            /// What is not wrong but probably not meant, such as a misspelt name in the env file. Log them at start.
            pub warnings: Vec<String>,
            /// The instance id before `{address}` and `{port}` were filled in.
            pub(super) instance_id_template: String,
        }

        impl Settings {
            /// Reads every setting as it stands; what is wrong stays noted in the reader.
            pub(super) fn read(reader: &mut Reader) -> Self {
                $( let $file = $group::read(reader); )+
                Self { $($file,)+ warnings: Vec::new(), instance_id_template: String::new() }
            }
        }

        /// Every setting in the order of the help, for tests and documents.
        pub(super) static TABLE: &[Row] = &row::joined::<{ 0 $( + $file::ROWS.len() )+ }>(&[$( $file::ROWS ),+]);
    };
}
