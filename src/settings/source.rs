//! Where raw values come from, and the reader that turns them into settings and gathers what is wrong.
//!
//! Three layers lie over the defaults: flags, the process environment, the env file. The first that has a value wins;
//! an empty value is none. The process environment is only read: the env file is parsed by dotenvy and kept beside it,
//! so nothing depends on which threads run already, and an error can tell where a value stands.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::{
    mask::{MASK, masked},
    parse::Parsed,
    row::Row,
};

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flag,
    /// In the process environment.
    Environment,
    /// In the env file of this name.
    EnvFile(PathBuf),
    /// By the program that embeds the router ([`super::Settings::from_pairs`]).
    Program,
    /// Nowhere: the default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::EnvFile(path) => write!(f, "{}", path.display()),
            Self::Program => f.write_str("given by the program"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variable.
    pub name: String,
    /// Its value, with secrets masked.
    pub value: String,
    /// Where the value was given.
    pub origin: Origin,
    /// What would be right.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, origin, expected } = self;
        write!(f, "{name}={value:?} ({origin}): expected {expected}")
    }
}

/// Values of one layer by variable.
pub(super) type Layer = HashMap<String, OsString>;

/// All layers, first to last.
pub(super) struct Reader {
    /// Every setting that there is.
    rows: &'static [Row],
    layers: Vec<(Origin, Layer)>,
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn new(rows: &'static [Row]) -> Self {
        Self { rows, layers: Vec::new(), problems: Vec::new() }
    }

    /// Adds a layer below those that are there.
    pub(super) fn add(&mut self, origin: Origin, layer: Layer) {
        self.layers.push((origin, layer));
    }

    pub(super) fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// The setting's value. If what is given is wrong that is noted, and the default stands in so that the rest can be
    /// read.
    pub(super) fn read<T>(&mut self, env: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> T {
        if let Some((origin, value)) = self.given(env) {
            let parsed = match value.to_str() {
                Some(text) => parse(text.trim()),
                None => Err("UTF-8 text".to_owned()),
            };
            match parsed {
                Ok(value) => return value,
                Err(expected) => {
                    let value = masked(env, value.to_string_lossy().trim());
                    let problem = Problem { name: env.to_owned(), value, origin: origin.clone(), expected };
                    self.problems.push(problem);
                }
            }
        }
        parse(self.default_of(env)).expect("every default is valid: a test parses them all")
    }

    /// Notes a problem with how `env` goes together with `other`, unless one of them is wrong by itself already.
    pub(super) fn check(&mut self, env: &'static str, other: &'static str, agrees: bool, relation: &str) {
        let reported = |name: &str| self.problems.iter().any(|problem| problem.name == name);
        if agrees || reported(env) || reported(other) {
            return;
        }
        let (origin, value) = self.shown(env);
        let (other_origin, other_value) = self.shown(other);
        let expected = format!("{relation} {other}, which is {other_value:?} ({other_origin})");
        self.problems.push(Problem { name: env.to_owned(), value, origin, expected });
    }

    /// Notes that `env` is not what the rest needs, unless it is wrong by itself already.
    pub(super) fn require(&mut self, env: &'static str, holds: bool, expected: &str) {
        if holds || self.problems.iter().any(|problem| problem.name == env) {
            return;
        }
        let (origin, value) = self.shown(env);
        self.problems.push(Problem { name: env.to_owned(), value, origin, expected: expected.to_owned() });
    }

    /// Whether the setting is given at all.
    pub(super) fn is_given(&self, env: &str) -> bool {
        self.given(env).is_some()
    }

    /// What was wrong, if anything.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    fn given(&self, env: &str) -> Option<(&Origin, &OsStr)> {
        self.layers.iter().find_map(|(origin, layer)| {
            let value = layer.get(env).filter(|value| !is_blank(value))?;
            Some((origin, value.as_os_str()))
        })
    }

    fn shown(&self, env: &str) -> (Origin, String) {
        match self.given(env) {
            Some((origin, value)) => (origin.clone(), masked(env, value.to_string_lossy().trim())),
            None => (Origin::Default, self.default_of(env).to_owned()),
        }
    }

    fn default_of(&self, env: &str) -> &'static str {
        self.rows.iter().find(|row| row.env == env).expect("only settings of the table are read").default
    }
}

/// Whether a value counts as unset.
pub(super) fn is_blank(value: &OsStr) -> bool {
    value.to_str().is_some_and(|text| text.trim().is_empty())
}

/// Stands for the name of a line that has none.
const A_LINE: &str = "a line";

/// What an env file holds.
#[derive(Debug)]
pub(super) struct EnvFile {
    pub(super) values: Layer,
    pub(super) warnings: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

/// Reads the env file `path` as dotenvy understands it, for the settings that `rows` are. `None`: there is no such file.
pub(super) fn read_env_file(path: &Path, rows: &[Row]) -> io::Result<Option<EnvFile>> {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(fault) => return Err(fault),
    };
    env_file(path, &content, rows).map(Some)
}

fn env_file(path: &Path, content: &[u8], rows: &[Row]) -> io::Result<EnvFile> {
    let content = content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content);
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text");
    let Readable { content, doubtful } = &Readable::of(std::str::from_utf8(content).map_err(not_text)?);

    let mut file = EnvFile { values: Layer::new(), warnings: Vec::new(), problems: Vec::new() };
    file.problems.extend(doubtful.iter().map(|line| line.problem(path)));
    for line in dotenvy::from_read_iter(content.as_bytes()) {
        match line {
            Ok((name, value)) => file.add(path, rows, name, value),
            Err(dotenvy::Error::LineParse(line, _)) => file.problems.push(malformed(path, content, &line)),
            Err(fault) => return Err(io::Error::other(fault)),
        }
    }
    Ok(file)
}

/// The text of an env file as dotenvy is given it: the same lines, each with an end, but without what dotenvy would take
/// for something else.
///
/// - Comments. It knows one behind a value by one blank and not by two: a quote in it (`A=1  # don't`) would hide the lines
///   up to the next quote, and a blank at the very end is an error to it.
/// - Lines with a backslash before a quote inside single quotes: see [`Doubtful`].
#[derive(Debug, Default)]
struct Readable {
    content: String,
    doubtful: Vec<Doubtful>,
}

/// A line in which a backslash stands before a quote inside single quotes (`A='x\'`, `A='it\'s'`). To a shell the value ends
/// there, and others mean the quote to be in it; dotenvy takes it for both, one after the other, and would go on to the next
/// quote, lines further down.
#[derive(Debug, PartialEq, Eq)]
struct Doubtful {
    /// Counted from 1.
    number: usize,
    /// The variable, if it is plainly a name: the rest may be a secret.
    name: Option<String>,
}

impl Readable {
    fn of(content: &str) -> Self {
        let mut readable = Self { content: String::with_capacity(content.len() + 1), doubtful: Vec::new() };
        let (mut quote, mut begun) = (None, (0, 0, ""));
        for (index, line) in content.split_inclusive('\n').enumerate() {
            if quote.is_none() {
                begun = (index, readable.content.len(), line);
            }
            match readable.take(line, quote) {
                Ok(still_open) => quote = still_open,
                Err(Ambiguous) => {
                    let (first, offset, line) = begun;
                    readable.content.truncate(offset);
                    // Whatever was meant, it is over with its line; the lines that follow keep their numbers.
                    readable.content.extend((first..=index).map(|_| '\n'));
                    quote = None;
                    readable.doubtful.push(Doubtful { number: index + 1, name: name_of(line).map(str::to_owned) });
                }
            }
        }
        if !readable.content.ends_with('\n') {
            readable.content.push('\n');
        }
        readable
    }

    /// Adds a line, which begins inside `quote`. The quote that is open at its end.
    fn take(&mut self, line: &str, mut quote: Option<char>) -> Result<Option<char>, Ambiguous> {
        let (mut is_escaped, mut may_begin, mut is_comment) = (false, quote.is_none(), false);
        for letter in line.chars() {
            is_comment &= letter != '\n';
            is_comment |= letter == '#' && quote.is_none() && may_begin;
            if is_comment {
                continue;
            }
            self.content.push(letter);
            may_begin = letter.is_whitespace() && !is_escaped;
            let was_escaped = std::mem::take(&mut is_escaped);
            match (letter, quote) {
                ('\'', Some('\'')) if was_escaped => return Err(Ambiguous),
                _ if was_escaped => {}
                ('\\', _) => is_escaped = true,
                ('\'' | '"', None) => quote = Some(letter),
                (_, Some(opening)) if letter == opening => quote = None,
                _ => {}
            }
        }
        Ok(quote)
    }
}

/// Where a value ends depends on whom one asks.
struct Ambiguous;

impl Doubtful {
    fn problem(&self, path: &Path) -> Problem {
        Problem {
            name: self.name.clone().unwrap_or_else(|| A_LINE.to_owned()),
            value: MASK.to_owned(),
            origin: Origin::EnvFile(path.to_owned()),
            expected: format!(
                "no backslash before a quote inside single quotes (line {}): put the value in double quotes, with a \
                 backslash before each backslash, double quote and $ in it",
                self.number
            ),
        }
    }
}

impl EnvFile {
    fn add(&mut self, path: &Path, rows: &[Row], name: String, value: String) {
        let path = path.display();
        if !rows.iter().any(|row| row.env == name)
            && let Some(meant) = probably_meant(&name, rows)
        {
            self.warnings.push(format!("{path}: {name} is not a setting and has no effect; is {meant} meant?"));
        }
        if self.values.contains_key(&name) {
            self.warnings.push(format!("{path}: {name} stands there twice; the first value counts"));
            return;
        }
        self.values.insert(name, value.into());
    }
}

/// A line that dotenvy does not understand. Of its text only what is plainly a name is shown: the rest may be a secret.
fn malformed(path: &Path, content: &str, line: &str) -> Problem {
    // dotenvy tells no number, and of some lines only the value; a quote may have made it join several.
    let rest = line.lines().next().unwrap_or_default().trim_end();
    let is_it = |(_, candidate): &(usize, &str)| {
        !candidate.trim_start().starts_with('#') && candidate.trim_end().ends_with(rest)
    };
    let found = content.lines().enumerate().find(is_it);
    let place = found.map(|(index, _)| format!(" (line {})", index + 1)).unwrap_or_default();
    Problem {
        name: found.and_then(|(_, text)| name_of(text)).unwrap_or(A_LINE).to_owned(),
        value: MASK.to_owned(),
        origin: Origin::EnvFile(path.to_owned()),
        expected: format!(
            "NAME=value, with single quotes around a value that holds spaces, double quotes, # or ${place}"
        ),
    }
}

/// What a line gives a value, if it is plainly a name.
fn name_of(line: &str) -> Option<&str> {
    let (name, _) = line.split_once('=')?;
    let name = name.trim();
    (!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')).then_some(name)
}

/// The setting of which `name` looks like a misspelling: other case, a few letters off, or the prefix missing or too
/// much. Names that begin unlike ours are other programs' business.
pub(super) fn probably_meant(name: &str, rows: &[Row]) -> Option<&'static str> {
    const PREFIXES: [&str; 3] = ["MCP_", "REDIS_", "SERVER_"];
    let upper = name.to_ascii_uppercase().replace(['.', '-'], "_");
    if !PREFIXES.iter().any(|prefix| upper.starts_with(prefix)) {
        return None;
    }
    let same_but_prefix = |row: &&Row| {
        PREFIXES.iter().any(|prefix| {
            upper.strip_prefix(prefix) == Some(row.env) || row.env.strip_prefix(prefix) == Some(upper.as_str())
        })
    };
    let (nearest, edits) =
        rows.iter().map(|row| (row, strsim::levenshtein(&upper, row.env))).min_by_key(|(_, d)| *d)?;
    // One edit in five letters is a slip; more is another word.
    if edits <= upper.len().div_ceil(5).min(3) {
        return Some(nearest.env);
    }
    rows.iter().find(same_but_prefix).map(|row| row.env)
}

#[cfg(test)]
mod tests;
