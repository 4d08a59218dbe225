//! The many spellings that JSON has for one value, for the tests beside the code.

use std::fmt::Write as _;

/// `value` as a JSON string; `ways` say, in turns, which letter is written as an escape and how.
pub(super) fn respelled(value: &str, ways: &[u8]) -> String {
    let mut text = String::from("\"");
    let mut ways = ways.iter().cycle();
    for letter in value.chars() {
        let short = match letter {
            '"' | '\\' | '/' => Some(letter),
            '\u{8}' => Some('b'),
            '\u{c}' => Some('f'),
            '\n' => Some('n'),
            '\r' => Some('r'),
            '\t' => Some('t'),
            _ => None,
        };
        let must = letter < ' ' || letter == '"' || letter == '\\';
        match (ways.next().map_or(0, |way| way % 4), short) {
            (0 | 1, Some(short)) if must => text.extend(['\\', short]),
            (1, Some(short)) => text.extend(['\\', short]),
            (0 | 1, _) if !must => text.push(letter),
            (way, _) => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    if way == 3 { write!(text, "\\u{unit:04X}") } else { write!(text, "\\u{unit:04x}") }.unwrap();
                }
            }
        }
    }
    text.push('"');
    text
}

/// `number` times ten to the power of `exponent` as a JSON number, in one of the ways that there are.
pub(super) fn decimal(number: i128, exponent: i32, way: u8) -> String {
    let (sign, digits) = (if number < 0 { "-" } else { "" }, number.unsigned_abs().to_string());
    match way % 6 {
        0 => format!("{sign}{digits}e{exponent}"),
        1 => format!("{sign}{digits}.00E{exponent:+}"),
        2 if number != 0 => format!("{sign}{digits}0e{}", exponent - 1),
        3 => format!("{sign}0.{digits}e{:+03}", exponent + digits.len() as i32),
        4 if number == 0 => "-0.0".to_owned(),
        _ if exponent < 0 => {
            let places = exponent.unsigned_abs() as usize;
            let padded = format!("{digits:0>width$}", width = places + 1);
            let (whole, fraction) = padded.split_at(padded.len() - places);
            format!("{sign}{whole}.{fraction}")
        }
        _ if number == 0 => "0".to_owned(),
        _ => format!("{sign}{digits}{}", "0".repeat(exponent.unsigned_abs() as usize)),
    }
}
