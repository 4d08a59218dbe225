//! The event store of `mcp-server-v6`: what a broken connection costs a client of Streamable HTTP, which is nothing with
//! the store, and the answer without it.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in its helpers too")]

#[path = "server/streamable.rs"]
mod streamable;

use std::time::Duration;

use mcp_server_v6::{Answers, ServerOptions};
use serde_json::{Value, json};
use streamable::{PATH, client_of, nobody, options, progress_of, start, wait_call};
use testkit::{
    Item, Reply, Shown, StreamEnd, StreamableClient, eventually,
    mcp_client::{request, tool_call},
    streamable_client::Asked,
};

/// Watches the statistics, on the session's own stream.
async fn watch(client: &StreamableClient) -> Shown {
    client.result("resources/subscribe", json!({ "uri": "persons://stats" })).await;
    client.listen().await.stream()
}

fn is_update(message: &Value) -> bool {
    message["method"] == "notifications/resources/updated"
}

#[actix_web::test]
async fn a_call_whose_connection_the_server_ends_is_answered_when_the_client_comes_back() {
    for answers in [Answers::Auto, Answers::Stream] {
        let client = client_of(ServerOptions { answers, ..options() }).await;
        let call = wait_call(1000, 40, &[("hangUp", json!(true))]);
        let mut shown = client.post(&call).await.stream();
        assert_eq!(shown.event().await.data, "", "only the priming event comes");
        assert_eq!(shown.next().await, Item::End(StreamEnd::Clean));

        let mut rest = client.resume(shown.last_id().unwrap()).await.stream();
        for step in 1..=3 {
            assert_eq!(progress_of(&rest.message().await), Some(step));
        }
        assert_eq!(rest.message().await["result"]["content"][0]["text"], "done");
        assert_eq!(rest.next().await, Item::End(StreamEnd::Clean));
        assert_eq!(client.repeated_ids(), Vec::<String>::new());
    }
}

#[actix_web::test]
async fn nothing_is_hung_up_that_the_client_could_not_resume() {
    for (version, event_store) in [("2025-06-18", true), ("2025-11-25", false)] {
        let client = StreamableClient::new([start(ServerOptions { event_store, ..options() })], PATH);
        client.initialize(version, json!({})).await;
        let mut shown = client.post(&wait_call(1000, 8, &[("hangUp", json!(true))])).await.stream();
        assert_eq!(shown.answer(&json!(1000)).await["result"]["content"][0]["text"], "done");
    }
}

#[actix_web::test]
async fn a_call_runs_on_when_its_connection_breaks_and_is_resumed_exactly_where_it_broke() {
    let client = client_of(options()).await;
    for broken_after in 0..=4_usize {
        let id = 1000 + broken_after as u64;
        let mut shown = client.post(&wait_call(id, 40, &[])).await.stream();
        shown.event().await;
        for _ in 0..broken_after {
            shown.message().await;
        }
        let last_id = shown.last_id().unwrap().to_owned();
        shown.reset();
        let mut rest = client.resume(&last_id).await.stream();
        for step in broken_after as u64 + 1..=3 {
            assert_eq!(progress_of(&rest.message().await), Some(step));
        }
        if broken_after < 4 {
            assert_eq!(rest.message().await["id"], id);
        }
        assert_eq!(rest.next().await, Item::End(StreamEnd::Clean), "after {broken_after}");
    }
    assert_eq!(client.repeated_ids(), Vec::<String>::new());
    assert!(client.messages().values().all(|times| *times == 1), "{:?}", client.messages());
}

#[actix_web::test]
async fn the_rest_of_a_stream_can_be_had_more_than_once_from_any_place_and_has_no_other_streams_events() {
    let client = client_of(options()).await;
    let mut own = watch(&client).await;
    let mut one = client.post(&wait_call(1000, 20, &[])).await.stream();
    let mut two = client.post(&wait_call(1001, 20, &[])).await.stream();
    client.call("addPerson", nobody()).await;
    one.answer(&json!(1000)).await;
    two.answer(&json!(1001)).await;
    assert!(is_update(&own.message().await));

    let seen = client.seen();
    for connection in 0..3 {
        let events: Vec<_> = seen.iter().filter(|seen| seen.connection == connection).cloned().collect();
        for (index, event) in events.iter().enumerate() {
            let mut again = client.resume(event.id.as_deref().unwrap()).await.stream();
            for expected in &events[index + 1..] {
                let event = again.event().await;
                assert_eq!((&event.id, &event.data), (&expected.id, &expected.data));
            }
            if connection > 0 {
                assert_eq!(again.next().await, Item::End(StreamEnd::Clean));
            }
        }
    }
    let ids: Vec<_> = seen.iter().filter_map(|seen| seen.id.as_deref()).collect();
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(ids.len(), distinct.len(), "an id is given once in a session");
}

#[actix_web::test]
async fn the_sessions_own_stream_is_resumed_without_loss_and_begins_anew_without_an_id() {
    let client = client_of(options()).await;
    client.result("resources/subscribe", json!({ "uri": "persons://stats" })).await;
    client.call("addPerson", nobody()).await;
    // The first stream of a session has what was said before it.
    let mut own = client.listen().await.stream();
    assert!(is_update(&own.message().await));
    let last_id = own.last_id().unwrap().to_owned();
    drop(own);
    for _ in 0..2 {
        client.call("addPerson", nobody()).await;
    }

    let mut anew = client.listen().await.stream();
    assert_eq!(anew.event().await.data, "");
    let mut resumed = client.resume(&last_id).await.stream();
    assert_eq!(anew.end().await, StreamEnd::Clean, "the newest connection wins");
    for _ in 0..2 {
        assert!(is_update(&resumed.message().await));
    }
    client.call("addPerson", nobody()).await;
    assert!(is_update(&resumed.message().await), "it goes on");
    assert_eq!(client.repeated_ids(), Vec::<String>::new());
}

#[actix_web::test]
async fn a_second_connection_is_refused_if_told_so_until_the_first_is_gone() {
    let client = client_of(ServerOptions { refuse_second_stream: true, ..options() }).await;
    let mut own = client.listen().await.stream();
    assert_eq!(client.listen().await.whole().status, 409);
    let mut call = client.post(&tool_call(1000, "wait", json!({ "ms": 60_000 }))).await.stream();
    call.event().await;
    let id = call.last_id().unwrap().to_owned();
    assert_eq!(client.resume(&id).await.whole().status, 409);
    own.event().await;
    drop((own, call));
    for last_id in [None, Some(id.as_str())] {
        eventually("the end of the first connection", || async {
            let request = client.get_request(last_id);
            let reply = client.try_send(client.next_addr(), &request, Asked::Listen).await;
            matches!(reply, Ok(Reply::Stream(_)))
        })
        .await;
    }
}

#[actix_web::test]
async fn the_newest_connection_of_a_call_wins() {
    let client = client_of(options()).await;
    let mut first = client.post(&tool_call(1000, "wait", json!({ "ms": 60_000 }))).await.stream();
    first.event().await;
    let _second = client.resume(first.last_id().unwrap()).await.stream();
    assert_eq!(first.end().await, StreamEnd::Clean);
}

#[actix_web::test]
async fn what_is_no_longer_kept_is_refused_and_never_left_out() {
    let client = client_of(ServerOptions { stored_events: 2, stored_streams: 1, ..options() }).await;
    let mut shown = client.post(&wait_call(1000, 20, &[])).await.stream();
    shown.answer(&json!(1000)).await;
    // Four events followed the priming one: the last two are kept.
    let ids: Vec<_> = client.seen().into_iter().filter_map(|seen| seen.id).collect();
    for (id, status) in ids.iter().zip([400, 400, 200, 200, 200]) {
        let reply = match client.resume(id).await {
            Reply::Stream(mut shown) => {
                shown.end().await;
                200
            }
            Reply::Whole(response) => response.status,
        };
        assert_eq!(reply, status, "{id} of {ids:?}");
    }
    // A stream that is over is given up for the next one.
    let mut shown = client.post(&wait_call(1001, 4, &[])).await.stream();
    shown.end().await;
    assert_eq!(client.resume(ids.last().unwrap()).await.whole().status, 400);
}

#[actix_web::test]
async fn a_client_that_reads_late_gets_everything_and_a_message_larger_than_the_store_passes() {
    for event_store in [true, false] {
        let limits = ServerOptions { stored_events: 1, stored_bytes: 1000, queue_capacity: 1, ..options() };
        let client = client_of(ServerOptions { event_store, answers: Answers::Stream, ..limits }).await;
        let mut late = client.post(&wait_call(1000, 4, &[])).await.stream();
        for bytes in [1 << 20, 4 << 20] {
            let result = client.call("payload", json!({ "bytes": bytes })).await;
            assert_eq!(result["content"][0]["text"].as_str().unwrap().len(), bytes);
        }
        for step in 1..=3 {
            assert_eq!(progress_of(&late.message().await), Some(step));
        }
        assert_eq!(late.message().await["id"], 1000);
    }
}

#[actix_web::test]
async fn without_the_store_no_event_has_an_id_and_the_answer_of_a_broken_call_is_lost_but_the_call_runs_on() {
    let client = client_of(ServerOptions { event_store: false, ..options() }).await;
    let mut own = watch(&client).await;
    let mut shown = client.post(&wait_call(1000, 20, &[])).await.stream();
    assert_eq!(progress_of(&shown.message().await), Some(1));
    shown.answer(&json!(1000)).await;
    client.call("addPerson", nobody()).await;
    assert!(is_update(&own.message().await));
    assert!(client.seen().iter().all(|seen| seen.id.is_none() && !seen.data.is_empty()), "{:?}", client.seen());

    let broken = client.post(&wait_call(1002, 20, &[])).await.stream();
    broken.reset();
    // An id can only be a foreign one: it opens the session's own stream, as at stock servers without a store.
    let mut anew = client.resume("1-1").await.stream();
    assert_eq!(own.end().await, StreamEnd::Clean);
    client.call("addPerson", nobody()).await;
    assert!(is_update(&anew.message().await));
    assert_eq!(client.result("ping", json!({})).await, json!({}));
    assert!(!client.messages().keys().any(|message| message.contains("\"id\":1002")));
}

#[actix_web::test]
async fn a_side_effect_happens_once_however_often_its_stream_breaks() {
    let client = client_of(ServerOptions { answers: Answers::Stream, ..options() }).await;
    let mut shown = client.post(&tool_call(1000, "increment", json!({ "key": "k" }))).await.stream();
    shown.event().await;
    let last_id = shown.last_id().unwrap().to_owned();
    shown.reset();
    for _ in 0..3 {
        let mut again = client.resume(&last_id).await.stream();
        assert_eq!(again.answer(&json!(1000)).await["result"]["structuredContent"]["value"], 1);
    }
    let counts = client.call("counts", json!({})).await;
    assert_eq!(counts["structuredContent"]["counters"], json!({ "k": 1 }));
}

#[actix_web::test]
async fn without_a_stream_of_its_own_a_session_still_resumes_its_calls() {
    let client = client_of(ServerOptions { get_stream: false, ..options() }).await;
    let refused = client.listen().await.whole();
    assert_eq!((refused.status, refused.header("allow")), (405, Some("POST, DELETE")));
    let answer =
        client.post(&wait_call(1000, 20, &[("hangUp", json!(true))])).await.stream().follow(&json!(1000)).await;
    assert_eq!(answer["result"]["content"][0]["text"], "done");
}

#[actix_web::test]
async fn a_silent_stream_carries_heartbeats() {
    let client = client_of(ServerOptions { heartbeat: Duration::from_millis(20), ..options() }).await;
    let call = client.post(&tool_call(1000, "wait", json!({ "ms": 60_000 }))).await.stream();
    for mut shown in [client.listen().await.stream(), call] {
        assert!(matches!(shown.next().await, Item::Event(_)), "never the first");
        for _ in 0..2 {
            assert_eq!(shown.next().await, Item::Comment("heartbeat".to_owned()));
        }
    }
}

#[actix_web::test]
async fn streams_are_resumed_across_workers() {
    let client = client_of(ServerOptions { workers: 3, ..options() }).await;
    for id in 1000..1006 {
        let shown = client.post(&wait_call(id, 20, &[("hangUp", json!(true))])).await.stream();
        assert_eq!(shown.follow(&json!(id)).await["result"]["content"][0]["text"], "done");
    }
    assert_eq!(client.post(&request(1, "ping", json!({}))).await.whole().status, 200);
}
