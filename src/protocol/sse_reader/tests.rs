use super::*;

mod property;

fn read_with(text: &[u8], size: usize, limit: usize) -> Vec<(String, String)> {
    let mut reader = Reader::new(limit, 1 << 20);
    let mut events = Vec::new();
    for piece in text.chunks(size) {
        let taken = reader.feed(piece, |read| {
            events.push(match read {
                Read::Event { name, data, .. } => (name.to_owned(), String::from_utf8(data.to_vec()).unwrap()),
                Read::TooLarge(told) => ("too large".to_owned(), format!("{told:?}")),
                Read::Id(_) | Read::Retry(_) => return,
            });
        });
        taken.unwrap();
    }
    events
}

fn read_in_pieces(text: &[u8], size: usize) -> Vec<(String, String)> {
    read_with(text, size, 1 << 20)
}

#[test]
fn a_stream_reads_the_same_however_it_is_cut() {
    let opening = "id: 1\nretry: 500\nevent: endpoint\ndata: /x?sessionId=1\n\n: hb\n";
    let events =
        "id: 2\nevent: message\ndata: {\"a\":\ndata: 1}\n\nid: 3\nevent: message\ndata: {\"b\":\"\u{2028}é\"}\n\n";
    let text = [opening, events].concat().into_bytes();
    let expected = [
        ("endpoint".to_owned(), "/x?sessionId=1".to_owned()),
        ("message".to_owned(), "{\"a\":\n1}".to_owned()),
        ("message".to_owned(), "{\"b\":\"\u{2028}é\"}".to_owned()),
    ];
    for size in 1..text.len() {
        assert_eq!(read_in_pieces(&text, size), expected, "pieces of {size}");
    }
}

#[test]
fn every_line_ending_of_the_specification_is_read() {
    for ending in ["\n", "\r\n", "\r"] {
        let text = format!("event: endpoint{ending}data: /m{ending}{ending}data: x{ending}{ending}");
        for size in 1..text.len() {
            assert_eq!(read_in_pieces(text.as_bytes(), size).len(), 2, "{ending:?} in pieces of {size}");
        }
    }
    let mixed = b"data: a\rdata: b\r\ndata: c\n\r\n: x\r\n\ndata:d\n\revent\ndata\ndata: e\r\r";
    for size in 1..mixed.len() {
        let datas: Vec<String> = read_in_pieces(mixed, size).into_iter().map(|(_, data)| data).collect();
        assert_eq!(datas, ["a\nb\nc", "d", "\ne"], "pieces of {size}");
    }
}

#[test]
fn a_byte_order_mark_at_the_start_is_no_part_of_the_stream() {
    let text = b"\xef\xbb\xbfevent: endpoint\ndata: /m\n\n";
    for size in 1..text.len() {
        assert_eq!(read_in_pieces(text, size), [("endpoint".to_owned(), "/m".to_owned())], "pieces of {size}");
    }
    // Only there; and what only begins like one is a line of its own.
    let later = b"data: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n";
    assert_eq!(read_in_pieces(later, 5).len(), 2);
    assert_eq!(read_in_pieces(b"\xef\xbbdata: a\n\ndata: b\n\n", 1), [("message".to_owned(), "b".to_owned())]);
}

#[test]
fn bytes_that_are_no_text_are_replaced_and_harm_nothing_else() {
    let text = b"data: caf\xe9 \xf0\x9f\ndata: \xc3\xa9\n\ndata: next\n\n";
    for size in 1..text.len() {
        let datas: Vec<String> = read_in_pieces(text, size).into_iter().map(|(_, data)| data).collect();
        assert_eq!(datas, ["caf\u{fffd} \u{fffd}\n\u{e9}", "next"], "pieces of {size}");
    }
}

/// The short way and the long one agree, whatever comes.
#[test]
fn whole_chunks_are_read_as_single_bytes_are() {
    let lines = [
        "data: a",
        "data:b",
        "data",
        "event: x",
        "event:",
        "event",
        "id: 1",
        ": hb",
        "",
        "",
        "",
        "retry: 5",
        "other: y",
        "data: \r",
        "data:  two",
        "eventual: z",
        "data0: z",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..2000 {
        let mut text = String::new();
        for _ in 0..random.usize(1..12) {
            text.push_str(lines[random.usize(..lines.len())]);
            text.push_str(if random.u8(..8) == 0 { "\r\n" } else { "\n" });
        }
        text.push_str("\n\n");
        let size = random.usize(1..9);
        assert_eq!(
            read_in_pieces(text.as_bytes(), text.len()),
            read_in_pieces(text.as_bytes(), 1),
            "{round}: {text:?}"
        );
        assert_eq!(read_in_pieces(text.as_bytes(), size), read_in_pieces(text.as_bytes(), 1), "{round}: {text:?}");
    }
}

#[test]
fn an_event_beyond_the_limit_is_passed_over_and_its_id_told_once() {
    let filler = "x".repeat(300);
    for (event, told) in [
        (format!(r#"data: {{"id":7,"result":"{filler}"}}"#), Some(r#"Answer("7")"#)),
        (format!("event: message\ndata: {{\"result\":\"{filler}\",\ndata: \"id\":\"a\"}}"), Some(r#"Answer("\"a\"")"#)),
        (format!(r#"data: {{"id":7,"method":"m","params":"{filler}"}}"#), Some(r#"Request("7")"#)),
        (format!(r#"data: {{"method":"m","params":"{filler}"}}"#), Some("Nothing")),
        (format!(r#"data: [{{"method":"m"}},{{"result":"{filler}","id":7}}]"#), Some(r#"Answer("7")"#)),
        (format!(r#"data: [{{"method":"m"}},"{filler}"]"#), Some("Nothing")),
        (format!("data: {filler}"), Some("Nothing")),
        (format!("data: {}", "a\ndata: ".repeat(200)), Some("Nothing")),
        (format!("event: other\ndata: {filler}"), None),
        // Not data: nothing to keep, nothing to skip.
        (format!(": {filler}"), None),
        (format!("{filler}: {filler}"), None),
        (filler.clone(), None),
    ] {
        let text = format!("data: before\n\n{event}\n\ndata: after\n\n");
        let mut expected = vec![("message".to_owned(), "before".to_owned())];
        expected.extend(told.map(|told| ("too large".to_owned(), told.to_owned())));
        expected.push(("message".to_owned(), "after".to_owned()));
        for size in [1, 7, 100, text.len()] {
            assert_eq!(read_with(text.as_bytes(), size, 100), expected, "{event} in pieces of {size}");
        }
    }
}

#[test]
fn an_event_without_an_end_is_told_at_once_and_given_up_at_a_bound() {
    let mut reader = Reader::new(100, 1000);
    let mut told = Vec::new();
    let mut feed = |reader: &mut Reader, text: &[u8]| reader.feed(text, |read| told.push(format!("{read:?}")));
    assert_eq!(feed(&mut reader, b"data: {\"id\":7,\"result\":\""), Ok(()));
    for _ in 0..9 {
        assert_eq!(feed(&mut reader, &[b'x'; 100]), Ok(()));
    }
    assert!(feed(&mut reader, &[b'x'; 100]).is_err());
    assert_eq!(told, [r#"TooLarge(Answer("7"))"#]);
}

/// Ids and times, with the events among them.
fn marks(text: &[u8], size: usize) -> Vec<String> {
    let mut reader = Reader::new(100, 1 << 20);
    let mut told = Vec::new();
    for piece in text.chunks(size) {
        let taken = reader.feed(piece, |read| {
            told.push(match read {
                Read::Event { data, .. } => format!("data {}", String::from_utf8_lossy(&data)),
                Read::Id(id) => format!("id {id}"),
                Read::Retry(pause) => format!("retry {pause}"),
                Read::TooLarge(_) => "too large".to_owned(),
            });
        });
        taken.unwrap();
    }
    told
}

#[test]
fn an_id_is_told_before_its_event_and_without_one_and_a_time_at_once() {
    let long = "x".repeat(MAX_ID + 1);
    for (text, expected) in [
        ("id: 1\nretry: 500\ndata: a\n\ndata: b\n\n", &["retry 500", "id 1", "data a", "data b"][..]),
        // The priming event of MCP, in both of its forms.
        ("id: p\ndata: \n\nid: q\n\n", &["id p", "data ", "id q"]),
        ("id: a\nid:b\ndata: x\n\n", &["id b", "data x"]),
        ("id: é: 2\n\nid\n\nid: \n\n", &["id é: 2", "id ", "id "]),
        ("id: a\nid: b\0\n\n", &["id a"]),
        ("id: \0\ndata: x\n\n", &["data x"]),
        ("retry: 5\nretry: 6\n\nretry: 7 \nretry: -8\nretry\nretry: \n\n", &["retry 5", "retry 6"]),
        ("retry: 9999999999999999999999\ndata: x\n\n", &["data x"]),
        // It has not ended.
        ("id: 1\ndata: x\n", &[]),
        (&format!("id: {long}\ndata: x\n\nid: {}\n\n", &long[1..]), &["data x", &format!("id {}", &long[1..])]),
        (&format!("id: 1\ndata: {long}\n\n"), &["id 1", "too large"]),
    ] {
        for ending in ["\n", "\r\n", "\r"] {
            let text = text.replace('\n', ending);
            for size in [1, 2, 3, 7, text.len()] {
                assert_eq!(marks(text.as_bytes(), size), expected, "{text:.60?} in pieces of {size}");
            }
        }
    }
}

#[test]
fn a_reader_keeps_nothing_between_events() {
    let mut reader = Reader::new(1 << 20, 1 << 20);
    let text = format!("event: e\r\nid: 1\r\nretry: 5\r\ndata: {}\r\n\r\n", "x".repeat(1 << 19));
    reader.feed(text.as_bytes(), |_| ()).unwrap();
    assert!(reader.data.is_none() && reader.name.capacity() == 0 && reader.field.capacity() == 0);
    assert!(reader.id.is_none() && reader.id_before.is_none() && reader.retry.capacity() == 0);
}
