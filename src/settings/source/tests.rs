//! Env files of every form are read as they were written, and whatever else stands in one is told and harms nothing.

use std::collections::BTreeMap;

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};

use super::*;

fn read(content: &[u8]) -> io::Result<EnvFile> {
    env_file(Path::new(".env"), content, &[])
}

/// `value` so that it is read back; in double quotes everything can be said.
fn quoted(value: &str, way: u8) -> String {
    let is_plain = value.chars().all(|c| c.is_alphanumeric() || "_-./:,@*=?&%+".contains(c));
    // A backslash before the closing quote is refused, unless it is one of a pair.
    let backslashes = value.chars().rev().take_while(|c| *c == '\\').count();
    let is_literal = !value.contains('\'') && backslashes % 2 == 0;
    match way % 3 {
        0 if is_plain => value.to_owned(),
        0 | 1 if is_literal => format!("'{value}'"),
        _ => {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$");
            format!("\"{}\"", if way < 100 { escaped.replace('\n', "\\n") } else { escaped })
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(
        pairs in btree_map("[A-Z_][A-Za-z0-9_]{0,9}", (prop_oneof!["[ -~é\n]{0,12}", any::<String>()], any::<u8>()), 0..5),
        noise in vec(select(&["", "# it's a comment", "   ", "\t# \"x"][..]), 1..4),
        ending in select(&["\n", "\r\n"][..]),
        before in select(&["", "export ", "  "][..]),
        equals in select(&["", " ", "  "][..]),
        after in select(&["", " ", "   ", " # it's", "  # it's", "\t # \""][..]),
        bom: bool,
        last: bool,
    ) {
        let mut noise = noise.iter().cycle();
        let lines: Vec<String> = pairs
            .iter()
            .map(|(name, (value, way))| {
                let line = format!("{before}{name}{equals}={equals}{}{after}", quoted(value, *way));
                format!("{}{ending}{line}", noise.next().unwrap())
            })
            .collect();
        let bom = if bom { "\u{feff}" } else { "" };
        let text = format!("{bom}{}{}", lines.join(ending), if last { ending } else { "" });
        let file = read(text.as_bytes()).unwrap();
        prop_assert!(file.problems.is_empty() && file.warnings.is_empty(), "{:?} of {:?}", file, text);
        let written: BTreeMap<String, OsString> =
            pairs.into_iter().map(|(name, (value, _))| (name, value.into())).collect();
        prop_assert_eq!(file.values.into_iter().collect::<BTreeMap<_, _>>(), written, "{:?}", text);
    }

    /// SEC-2: of a line that is none nothing is told but a name.
    #[test]
    fn whatever_stands_in_a_file_harms_nothing(
        content in prop_oneof![
            "([A-C]|[='\"$#{}\\\\ .\t\r\n]|export |é|\u{feff}){0,40}".prop_map(String::into_bytes),
            any::<String>().prop_map(String::into_bytes),
            vec(any::<u8>(), 0..60),
        ],
    ) {
        match read(&content) {
            Ok(file) => {
                for problem in file.problems {
                    prop_assert_eq!(&problem.value, MASK);
                    let is_name = problem.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                    prop_assert!(is_name || problem.name == "a line", "{}", problem);
                }
            }
            Err(_) => prop_assert!(std::str::from_utf8(&content).is_err()),
        }
    }
}

/// dotenvy would go on to the next quote, and take the lines in between for the value. Both readings end with the line:
/// the other lines are read.
#[test]
fn a_backslash_before_a_quote_inside_single_quotes_is_told() {
    for value in [r"'x\'", r"'it\'s'", r"'a\\\'", r"x' \'", "'more\nlines\\'"] {
        let text = format!("A=1\nSECRET={value}\nB='y'\n");
        let line = format!("(line {})", 2 + value.matches('\n').count());
        let file = read(text.as_bytes()).unwrap();
        let values: BTreeMap<_, _> =
            file.values.iter().map(|(name, value)| (&**name, value.to_str().unwrap())).collect();
        assert_eq!(values, [("A", "1"), ("B", "y")].into(), "{text}");
        let told: Vec<String> = file.problems.iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].starts_with("SECRET=") && told[0].contains(&line), "{told:?}");
        assert!(told[0].contains("double quotes") && !told[0].contains(value), "{told:?}");
    }
}

/// Two of them are two of them, as everything is in single quotes.
#[test]
fn an_even_number_of_backslashes_before_the_closing_quote_is_read() {
    let file = read(b"A='x\\\\'\nB=y\\\\\nC=\"z\\\\\"\n").unwrap();
    assert!(file.problems.is_empty(), "{file:?}");
    let values: BTreeMap<_, _> = file.values.iter().map(|(name, value)| (&**name, value.to_str().unwrap())).collect();
    assert_eq!(values, [("A", "x\\\\"), ("B", "y\\"), ("C", "z\\")].into());
}

#[test]
fn a_quote_in_a_comment_hides_no_line() {
    let file = read(b"A=1  # don't\nB=2\nC='3 # '  # don't\nD=4#5\nE=\\ #6 ").unwrap();
    assert!(file.problems.is_empty(), "{file:?}");
    let values: BTreeMap<_, _> = file.values.iter().map(|(name, value)| (&**name, value.to_str().unwrap())).collect();
    assert_eq!(values, [("A", "1"), ("B", "2"), ("C", "3 # "), ("D", "4#5"), ("E", " #6")].into());
}
