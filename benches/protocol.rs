//! Criterion benches of the pure parts that every message passes: event streams, heads of messages, event ids.
//!
//! `cargo bench --bench protocol`

#![allow(missing_docs, reason = "criterion's macros write public functions")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mcp_router::{
    http::frame::{self, Named},
    protocol::{
        event_id::EventId,
        jsonrpc::Head,
        session_id::SessionId,
        sse_reader::{Read, Reader},
    },
    session::{
        MAIN_STREAM,
        attachment::{Block, Told},
    },
};

/// Texts of a tool's result: a word, a page, a picture.
const PAYLOADS: [(&str, usize); 3] = [("small", 64), ("4KiB", 4 << 10), ("1MiB", 1 << 20)];
/// What one read of a socket brings at most, about.
const SEGMENT: usize = 16 << 10;

fn answer(payload: usize) -> String {
    let text = "x".repeat(payload);
    format!(r#"{{"jsonrpc":"2.0","id":17,"result":{{"content":[{{"type":"text","text":"{text}"}}],"isError":false}}}}"#)
}

fn call(payload: usize) -> String {
    let text = "x".repeat(payload);
    format!(
        r#"{{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"{text}"}}}}}}"#
    )
}

fn event_stream(c: &mut Criterion) {
    let session = SessionId::random();
    let mut group = c.benchmark_group("sse");
    let endpoint = |_: &SessionId, _| String::new();
    let named = Named { session, stream: MAIN_STREAM, endpoint };
    for (name, payload) in PAYLOADS {
        let event = Told::Event { epoch: 1, seq: 42, body: answer(payload).into() };
        let event = Block::one(event);
        let frame = frame::block(&named, &event);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(BenchmarkId::new("message", name), |b| {
            b.iter(|| frame::block(&named, black_box(&event)));
        });
        group.bench_function(BenchmarkId::new("feed", name), |b| {
            let mut reader = Reader::new(16 << 20, 16 << 20);
            b.iter(|| {
                for segment in black_box(&frame).chunks(SEGMENT) {
                    let fed = reader.feed(segment, |read| {
                        black_box(matches!(read, Read::Event { .. }));
                    });
                    fed.expect("the frame is sound");
                }
            });
        });
    }
    group.finish();
}

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    for (name, payload) in PAYLOADS {
        for (kind, body) in [("request", call(payload)), ("response", answer(payload))] {
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_function(BenchmarkId::new(kind, name), |b| {
                b.iter(|| Head::parse(black_box(body.as_bytes())).map(|head| black_box(head.kind)));
            });
        }
        let body = call(payload);
        let head = Head::parse(body.as_bytes()).expect("the request is sound");
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("with_id", name), |b| {
            b.iter(|| head.with_id(black_box(body.as_bytes()), "4711"));
        });
    }
    group.finish();
}

fn event_ids(c: &mut Criterion) {
    let session = SessionId::random();
    let id = EventId { session, stream: MAIN_STREAM.to_owned(), epoch: 0xbeef, seq: 1_234_567 };
    let text = id.reveal();
    let mut group = c.benchmark_group("event_id");
    group.bench_function("write", |b| {
        let mut out = Vec::with_capacity(64);
        b.iter(|| {
            out.clear();
            EventId::write(&mut out, black_box(&session), MAIN_STREAM, 0xbeef, black_box(1_234_567));
            black_box(out.len())
        });
    });
    group.bench_function("parse", |b| b.iter(|| black_box(&text).parse::<EventId>()));
    group.finish();
}

criterion_group!(benches, event_stream, heads, event_ids);
criterion_main!(benches);
