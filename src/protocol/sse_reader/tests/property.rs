//! Streams of every legal form, and of none, cut anywhere.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// Name, data, and whether something of it had to be replaced.
type Event = (String, String, bool);

/// Ids and times as they are told, and between which events.
type Marks = Vec<(usize, String)>;

/// All events that are read of `text` cut at `cuts`, and whether it was given up.
fn read_cut(text: &[u8], cuts: &[prop::sample::Index], limit: usize, skip_limit: usize) -> (Vec<Event>, bool) {
    let (events, _, is_given_up) = read_all(text, cuts, limit, skip_limit);
    (events, is_given_up)
}

/// The same, with ids and times.
fn read_all(text: &[u8], cuts: &[prop::sample::Index], limit: usize, skip_limit: usize) -> (Vec<Event>, Marks, bool) {
    let cuts: BTreeSet<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([text.len()]).collect();
    let mut reader = Reader::new(limit, skip_limit);
    let (mut events, mut marks, mut from) = (Vec::new(), Marks::new(), 0);
    for to in cuts {
        let fed = reader.feed(&text[from..to], |read| match read {
            Read::Event { name, data, is_altered } => {
                assert!(data.len() <= limit, "an event of {} bytes", data.len());
                events.push((name.to_owned(), String::from_utf8(data.to_vec()).unwrap(), is_altered));
            }
            Read::Id(id) => marks.push((events.len(), format!("id {id}"))),
            Read::Retry(pause) => marks.push((events.len(), format!("retry {pause}"))),
            Read::TooLarge(_) => {}
        });
        if fed.is_err() {
            return (events, marks, true);
        }
        let kept = reader.data.as_ref().map_or(0, Vec::len);
        let skipped = reader.skipping.as_ref().map_or(0, |skipping| skipping.skipped);
        assert!(kept <= limit && reader.name.len() <= MAX_NAME && reader.field.len() <= MAX_FIELD);
        assert!(reader.id.as_ref().is_none_or(|id| id.len() <= MAX_ID + 1) && reader.retry.len() <= MAX_RETRY + 1);
        assert!(skipped <= skip_limit, "{skipped} bytes of an event");
        from = to;
    }
    (events, marks, false)
}

/// The specification (WHATWG HTML, section 9.2.6) word for word, of a whole text. Names are kept up to a length, ids told up to
/// one.
fn read_by_the_book(text: &[u8]) -> (Vec<Event>, Marks) {
    let text = text.strip_prefix(&BOM).unwrap_or(text);
    let (mut lines, mut line, mut after_cr) = (Vec::new(), Vec::new(), false);
    for &byte in text {
        match byte {
            b'\n' if after_cr => {}
            b'\n' | b'\r' => lines.push(std::mem::take(&mut line)),
            _ => line.push(byte),
        }
        after_cr = byte == b'\r';
    }
    let (mut events, mut name, mut data) = (Vec::new(), Vec::new(), None::<Vec<u8>>);
    let (mut marks, mut id) = (Marks::new(), None::<Vec<u8>>);
    for line in lines {
        if line.is_empty() {
            if let Some(id) = id.take().filter(|id| id.len() <= MAX_ID) {
                marks.push((events.len(), format!("id {}", String::from_utf8_lossy(&id))));
            }
            let mut name = std::mem::take(&mut name);
            let Some(mut data) = data.take() else { continue };
            data.pop();
            if name.is_empty() {
                name = b"message".to_vec();
            }
            name.truncate(MAX_NAME);
            let text = String::from_utf8_lossy(&data).into_owned();
            let is_altered = text.as_bytes() != data;
            events.push((String::from_utf8(name).unwrap_or_default(), text, is_altered));
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = colon.map_or((&line[..], &b""[..]), |colon| (&line[..colon], &line[colon + 1..]));
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                let data = data.get_or_insert_default();
                data.extend_from_slice(value);
                data.push(b'\n');
            }
            b"event" => name = value.to_vec(),
            b"id" if !value.contains(&0) => id = Some(value.to_vec()),
            b"retry" if !value.is_empty() && value.len() <= MAX_RETRY && value.iter().all(u8::is_ascii_digit) => {
                let pause: u64 = std::str::from_utf8(value).unwrap().parse().unwrap();
                marks.push((events.len(), format!("retry {pause}")));
            }
            _ => {}
        }
    }
    (events, marks)
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    vec(any::<prop::sample::Index>(), 0..12)
}

/// Whatever a server could send, and what it could not.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let pieces: &[&[u8]] = &[
        b"data: ",
        b"data:",
        b"data",
        b"event: ",
        b"event:",
        b"event",
        b"id: 1",
        b"id:",
        b"id",
        b"retry: 5",
        b"retry:",
        b"0",
        b": hb",
        b":",
        b" ",
        b"x",
        b"\n",
        b"\n",
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b"\xef\xbb\xbf",
        b"\xef\xbb",
        b"\xef",
        b"\xff",
        b"\xf0\x9f",
        "é".as_bytes(),
        b"endpoint",
        b"datab: ",
        b"\0",
        br#"{"id":7,"result":{"#,
        br#""jsonrpc":"2.0"}}"#,
    ];
    let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
    vec(prop_oneof![30 => select(pieces), 1 => vec(any::<u8>(), 0..90)], 0..40).prop_map(|pieces| pieces.concat())
}

/// An event, and one of the ways in which it may be written.
fn written() -> impl Strategy<Value = (Event, Vec<u8>)> {
    let name = prop_oneof![Just(String::new()), Just("endpoint".to_owned()), "[a-z:é]{1,12}"];
    let data = vec("[ :a-zé😀{}\"]{0,12}", 1..4);
    let noise = select(&[": hb", ":", "id: 7", "id", "retry: 100", "other: x", "data2: y", "Data: z"][..]);
    let ending = select(&["\n", "\r\n", "\r"][..]);
    (name, data, vec((any::<prop::sample::Index>(), noise), 0..3), vec(ending, 1..4), vec(any::<bool>(), 1..4))
        .prop_map(|(name, data, noise, endings, spaces)| {
            let mut spaces = spaces.iter().cycle();
            let mut field = |field: &str, value: &str| {
                // One space behind the colon is no part of the value.
                let is_spaced = *spaces.next().unwrap() || value.starts_with(' ');
                match (value.is_empty(), is_spaced) {
                    (true, true) => field.to_owned(),
                    (_, true) => format!("{field}: {value}"),
                    (_, false) => format!("{field}:{value}"),
                }
            };
            let mut lines: Vec<String> = data.iter().map(|line| field("data", line)).collect();
            if !name.is_empty() {
                lines.insert(0, field("event", &name));
            }
            for (at, line) in noise {
                lines.insert(at.index(lines.len() + 1), line.to_owned());
            }
            lines.push(String::new());
            let mut endings = endings.iter().cycle();
            let mut text = String::new();
            for line in &lines {
                let ending = *endings.next().unwrap();
                // A CR and the LF of an empty line would be one ending.
                let ending = if line.is_empty() && text.ends_with('\r') && ending == "\n" { "\r" } else { ending };
                text.extend([line, ending]);
            }
            let name = if name.is_empty() { "message".to_owned() } else { name };
            ((name, data.join("\n"), false), text.into_bytes())
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn events_are_read_as_they_were_written(written in vec(written(), 0..6), bom: bool, cuts in cuts()) {
        let mut text = if bom { BOM.to_vec() } else { Vec::new() };
        text.extend(written.iter().flat_map(|(_, text)| text));
        let events: Vec<Event> = written.into_iter().map(|(event, _)| event).collect();
        prop_assert_eq!(read_cut(&text, &cuts, 1 << 20, 1 << 20), (events, false));
    }

    #[test]
    fn whatever_comes_is_read_by_the_book_however_it_is_cut(text in soup(), cuts in cuts(), limit in 0usize..40) {
        let (mut events, marks) = read_by_the_book(&text);
        prop_assert_eq!(read_all(&text, &cuts, 1 << 20, 1 << 20), (events.clone(), marks, false));
        events.retain(|(_, data, _)| data.len() <= limit);
        prop_assert_eq!(read_cut(&text, &cuts, limit, 1 << 20), (events, false));
    }

    #[test]
    fn no_more_is_kept_or_passed_over_than_is_allowed(
        text in prop_oneof![soup(), vec(any::<u8>(), 0..300)],
        cuts in cuts(),
        limit in 0usize..20,
        skip_limit in 0usize..40,
    ) {
        prop_assert_eq!(read_all(&text, &cuts, limit, skip_limit), read_all(&text, &[], limit, skip_limit));
    }
}
