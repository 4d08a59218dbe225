//! Failover: instances die, hang or leave with calls in flight, at random moments and at each named step of a message's
//! way (`src/fault.rs`). Whatever happens, each accepted request gets its one answer, nothing runs twice, nothing is lost,
//! doubled or reordered, and the session goes on.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{
    Cluster, FaultProxy, McpClient, Mode, Oracle, PostTo, Transport, cluster, eventually, mcp_client::tool_call,
    over_both_transports,
};

/// More than a living instance takes to answer a POST; a stopped one never does.
const POST_PATIENCE: Duration = Duration::from_secs(2);

const READ: &str = "read";
const INCREMENT: &str = "increment";

/// Settings under which a dead or hung instance is noticed soon.
fn quick() -> cluster::Builder {
    Cluster::builder()
        .routers(3)
        .short_lease()
        .env("MCP_POLL_INTERVAL", "200ms")
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_RETRY_MAX", "30ms")
        .env("MCP_STREAMABLE_RETRY_MIN", "10ms")
        .env("MCP_STREAMABLE_RETRY_MAX", "30ms")
}

/// Posts as nginx does: at the first instance that takes it, with the same `X-Request-ID` everywhere.
async fn post(client: &McpClient, addrs: &[SocketAddr], message: &Value) {
    let request_id = message["id"].as_str().unwrap().to_owned();
    for addr in addrs.iter().cycle().take(4 * addrs.len()) {
        let posted = client.try_post_at(*addr, message, Some(&request_id));
        if let Ok(Ok(response)) = tokio::time::timeout(POST_PATIENCE, posted).await
            && response.status == 202
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{request_id}: no instance takes it");
}

/// A call that only reads and takes a while, and one that must not run twice.
fn calls(round: &str) -> [Value; 2] {
    let (read, increment) = (format!("{READ} {round}"), format!("{INCREMENT} {round}"));
    [
        tool_call(read.as_str(), "wait", json!({ "ms": 100, "text": read })),
        tool_call(increment.as_str(), "increment", json!({ "key": increment })),
    ]
}

/// Waits for both answers, and judges them: a result, or for the increment the word that its outcome is unknown. `true`:
/// it was unknown.
async fn judge_answers(cluster: &Cluster, client: &McpClient, round: &str) -> bool {
    let read = client.response_to(&json!(format!("{READ} {round}"))).await;
    assert_eq!(read["result"]["content"][0]["text"], format!("{READ} {round}"), "{read}");
    let key = format!("{INCREMENT} {round}");
    let increment = client.response_to(&json!(key)).await;
    let runs = cluster.counts().get(&key).copied().unwrap_or(0);
    match increment["error"]["code"].as_i64() {
        None => assert_eq!(runs, 1, "its result was told: {increment}"),
        Some(-32001) => assert!(runs <= 1, "{key} ran {runs} times"),
        Some(_) => panic!("{increment}"),
    }
    increment.get("error").is_some()
}

/// The session works at every instance, and nothing was lost, doubled or reordered.
async fn judge_session(cluster: &Cluster, client: &McpClient) {
    for addr in cluster.addrs() {
        let id = format!("still here {}", client.fresh_id());
        let echo = tool_call(id.as_str(), "echo", json!({ "text": id }));
        post(client, &[addr], &echo).await;
        assert_eq!(client.response_to(&json!(id)).await["result"]["content"][0]["text"], id);
    }
    assert!(cluster.counts().values().all(|runs| *runs == 1), "{:?}", cluster.counts());
    Oracle::exactly_once(client);
    Oracle::every_request_answered_once(client);
    let redis = cluster.redis_client().await;
    Oracle::agrees_with_log(client, &redis).await;
    assert!(redis.pending(&client.session()).await.is_empty());
    cluster.assert_no_violations().await;
}

/// Instance 0 owns the session, instance `holder` has its stream.
async fn session_at(cluster: &Cluster, transport: Transport, holder: usize) -> McpClient {
    let client = cluster.client().over(transport).initialize().await;
    if holder != 0 {
        client.cut();
        client.reconnect(Some(holder));
        client.connection_count(2).await;
    }
    client
}

/// Where POSTs go first. Over Streamable HTTP that is where the streams of the calls are, too.
fn first_at(cluster: &Cluster, transport: Transport, holder: usize) -> Vec<SocketAddr> {
    let mut addrs = cluster.addrs();
    if transport == Transport::Streamable {
        addrs.rotate_left(holder);
    }
    addrs
}

/// What happens to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL; started again later.
    Kill,
    /// SIGTERM; started again later.
    Terminate,
    /// SIGSTOP past its lease, and then SIGCONT.
    Stop,
}

/// Calls are in flight on sessions whose owner is instance 0 and whose stream is at `holder`, when `faulty` get the
/// fault: right then, or some milliseconds later. Returns how many outcomes were unknown.
async fn survives(transport: Transport, fault: Fault, faulty: &[usize], holder: usize) -> usize {
    let mut cluster = quick().start().await;
    let mut unknown = 0;
    for moment in [0, 3, 10, 40, 80] {
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(session_at(&cluster, transport, holder).await);
        }
        let mut messages = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            messages.extend(calls(&format!("{moment} {number}")).map(|message| (client, message)));
        }
        let addrs = first_at(&cluster, transport, holder);
        let posts = join_all(messages.iter().map(|(client, message)| post(client, &addrs, message)));
        let faults = async {
            tokio::time::sleep(Duration::from_millis(moment)).await;
            for index in faulty {
                match fault {
                    Fault::Kill => cluster.routers[*index].kill(),
                    Fault::Terminate => cluster.routers[*index].process().signal("TERM"),
                    Fault::Stop => cluster.routers[*index].freeze(),
                }
            }
            for client in clients.iter().filter(|_| faulty.contains(&holder)) {
                // A client sees that a process has ended, but not that it has stopped.
                if fault == Fault::Stop {
                    client.cut();
                }
                client.reconnect(Some(2));
            }
        };
        tokio::join!(posts, faults);
        for (number, client) in clients.iter().enumerate() {
            unknown += usize::from(judge_answers(&cluster, client, &format!("{moment} {number}")).await);
        }
        for index in faulty {
            match fault {
                Fault::Kill => cluster.routers[*index].restart().await,
                Fault::Terminate => {
                    assert_eq!(cluster.routers[*index].process().exit_code().await, Some(0));
                    cluster.routers[*index].restart().await;
                }
                Fault::Stop => cluster.routers[*index].thaw(),
            }
        }
        for client in &clients {
            judge_session(&cluster, client).await;
        }
    }
    unknown
}

/// REQ-2, REQ-3, OWN-9: SIGKILL of the owner, which holds the stream too.
async fn a_killed_owner_costs_no_call(transport: Transport) {
    survives(transport, Fault::Kill, &[0], 0).await;
}

/// REQ-2, REQ-3, EVT-3: SIGKILL of the instance that holds the stream of another instance's session. The owner lives,
/// so every call has its result.
async fn a_killed_holder_of_the_stream_costs_nothing(transport: Transport) {
    assert_eq!(survives(transport, Fault::Kill, &[1], 1).await, 0);
}

/// REQ-2, REQ-3, OWN-9: SIGKILL of the owner and of the holder of the stream at once.
async fn owner_and_holder_killed_at_once_cost_no_call(transport: Transport) {
    survives(transport, Fault::Kill, &[0, 1], 1).await;
}

/// DRN-2: SIGTERM of the owner: calls in flight end as if nothing had been.
async fn an_owner_that_is_told_to_go_finishes_its_calls(transport: Transport) {
    assert_eq!(survives(transport, Fault::Terminate, &[0], 0).await, 0);
}

/// OWN-2, REQ-2, REQ-3: SIGSTOP of the owner past its lease, adoption, SIGCONT.
async fn an_owner_that_hangs_and_comes_back_costs_no_call(transport: Transport) {
    survives(transport, Fault::Stop, &[0], 0).await;
}

/// EVT-3, OWN-2: the same, when the stream is at an instance that lives.
async fn an_owner_that_hangs_does_not_disturb_a_stream_elsewhere(transport: Transport) {
    survives(transport, Fault::Stop, &[0], 1).await;
}

/// EVT-3, REQ-2: SIGTERM of the instance that holds the stream of another instance's session.
async fn a_holder_of_the_stream_that_is_told_to_go_costs_nothing(transport: Transport) {
    assert_eq!(survives(transport, Fault::Terminate, &[1], 1).await, 0);
}

/// EVT-3, REQ-2: SIGSTOP of the instance that holds the stream, and SIGCONT when its client is elsewhere.
async fn a_holder_of_the_stream_that_hangs_costs_nothing(transport: Transport) {
    assert_eq!(survives(transport, Fault::Stop, &[1], 1).await, 0);
}

/// What happens to Redis, or to the link of all instances to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RedisFault {
    /// SIGKILL, and started again with its append-only file.
    Restart,
    /// SIGSTOP past all leases, and SIGCONT.
    Pause,
    /// The network does this for longer than the leases last.
    Link(Mode),
}

/// Calls are in flight when Redis gets the fault, right then or some milliseconds later, and when it is over.
async fn survives_without_redis(transport: Transport, fault: RedisFault) {
    let builder = quick().redis_proxy().env("REDIS_TIMEOUT", "200ms").env("REDIS_WAIT", "500ms");
    let mut cluster = builder.redis_args(&["--appendonly", "yes", "--appendfsync", "always"]).start().await;
    for moment in [0, 10, 60] {
        let client = session_at(&cluster, transport, 1).await;
        let addrs = first_at(&cluster, transport, 1);
        let messages = calls(&format!("{moment}"));
        let posts = join_all(messages.iter().map(|message| post(&client, &addrs, message)));
        let faults = async {
            tokio::time::sleep(Duration::from_millis(moment)).await;
            // Past the lease: whoever may be taken for dead, is.
            let length = Duration::from_millis(800);
            match fault {
                RedisFault::Restart => cluster.redis().restart(),
                RedisFault::Pause => {
                    cluster.redis().freeze();
                    tokio::time::sleep(length).await;
                    cluster.redis().thaw();
                }
                RedisFault::Link(mode) => {
                    cluster.redis_proxy.as_ref().unwrap().set(mode);
                    tokio::time::sleep(length).await;
                    cluster.redis_proxy.as_ref().unwrap().set(Mode::Pass);
                }
            }
        };
        tokio::join!(posts, faults);
        judge_answers(&cluster, &client, &format!("{moment}")).await;
        for router in &cluster.routers {
            eventually("UP", || async { router.health().await["status"] == "UP" }).await;
        }
        judge_session(&cluster, &client).await;
    }
}

/// DUR-1, DUR-2, EVT-2: Redis dies and comes back with its data, with calls in flight.
async fn a_redis_that_restarts_with_its_data_costs_no_call(transport: Transport) {
    survives_without_redis(transport, RedisFault::Restart).await;
}

/// DUR-2, EVT-2, OWN-2: Redis hangs past all leases with calls in flight.
async fn a_redis_that_hangs_costs_no_call(transport: Transport) {
    survives_without_redis(transport, RedisFault::Pause).await;
}

/// DUR-2, EVT-2, OWN-10: nothing passes between the instances and Redis.
async fn a_redis_behind_a_black_hole_costs_no_call(transport: Transport) {
    survives_without_redis(transport, RedisFault::Link(Mode::BlackHole)).await;
}

/// DUR-2, EVT-2: the connections to Redis are cut, and no new ones can be made.
async fn a_redis_that_cannot_be_reached_costs_no_call(transport: Transport) {
    survives_without_redis(transport, RedisFault::Link(Mode::Cut)).await;
}

/// DUR-2, EVT-2, REQ-6: what the instances write arrives, and they never learn of it.
async fn a_redis_whose_answers_are_lost_costs_no_call(transport: Transport) {
    survives_without_redis(transport, RedisFault::Link(Mode::LoseAnswers)).await;
}

over_both_transports! {
    a_killed_owner_costs_no_call
    a_killed_holder_of_the_stream_costs_nothing
    owner_and_holder_killed_at_once_cost_no_call
    an_owner_that_is_told_to_go_finishes_its_calls
    an_owner_that_hangs_and_comes_back_costs_no_call
    an_owner_that_hangs_does_not_disturb_a_stream_elsewhere
    a_holder_of_the_stream_that_is_told_to_go_costs_nothing
    a_holder_of_the_stream_that_hangs_costs_nothing
    a_redis_that_restarts_with_its_data_costs_no_call
    a_redis_that_hangs_costs_no_call
    a_redis_behind_a_black_hole_costs_no_call
    a_redis_that_cannot_be_reached_costs_no_call
    a_redis_whose_answers_are_lost_costs_no_call
}

/// REQ-4, EVT-3: TCP between a client and nginx is cut, or loses what nginx says, with calls in flight: a call whose 202
/// was lost has its answer like the others, and nothing is lost, doubled or reordered.
#[tokio::test]
async fn a_connection_cut_between_client_and_nginx_costs_no_call() {
    let cluster = quick().nginx(false).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let wire = FaultProxy::start(nginx).await;
    let client = McpClient::builder([wire.addr(), nginx]).post_to(PostTo::Only(1)).initialize().await;
    client.reconnect(Some(0));
    let shows_its_stream = || async { client.connections().last().is_some_and(|last| !last.over) };
    for fault in [Mode::Cut, Mode::LoseAnswers, Mode::BlackHole] {
        let number = client.connections().len() - 1;
        let through = tool_call("through the wire", "increment", json!({ "key": format!("{fault:?}") }));
        let message = match fault {
            Mode::LoseAnswers => vec![through],
            _ => Vec::new(),
        };
        let id = client.start_call("wait", json!({ "ms": 50, "text": "on its way" })).await;
        wire.set(fault);
        // Its 202 is lost, and its connection ends with the others.
        let lost = join_all(message.iter().map(|message| client.try_post_at(wire.addr(), message, None)));
        let mended = async {
            for message in &message {
                let key = message["params"]["arguments"]["key"].as_str().unwrap();
                eventually("the call run", || std::future::ready(cluster.counts().contains_key(key))).await;
            }
            wire.set(Mode::Cut);
            client.connection_end(number).await;
            wire.set(Mode::Pass);
        };
        let (lost, ()) = tokio::join!(lost, mended);
        assert!(lost.iter().all(Result::is_err));
        assert_eq!(client.response(id).await["result"]["content"][0]["text"], "on its way");
        for message in &message {
            assert!(client.response_to(&message["id"]).await["result"].is_object());
        }
        eventually("the stream is back", shows_its_stream).await;
        assert!(client.connections().len() > number + 1);
    }
    Oracle::exactly_once(&client);
    Oracle::agrees_with_log(&client, &cluster.redis_client().await).await;
    Oracle::counted_once(&cluster.counts(), ["LoseAnswers"]);
    cluster.assert_no_violations().await;
}

/// Faults at named steps, where the moment is exact.
#[cfg(feature = "fault-points")]
mod steps {
    use mcp_router::fault;

    use super::*;

    /// The first instance that comes to the step with a message of the test dies there.
    async fn aborts_at(transport: Transport, step: &'static str) {
        at_step(transport, step, Fault::Kill).await;
    }

    /// The first instance that comes to the step with a message of the test stops there, and goes on when another has
    /// adopted the session.
    async fn stops_at(transport: Transport, step: &'static str) {
        at_step(transport, step, Fault::Stop).await;
    }

    async fn at_step(transport: Transport, step: &'static str, fault: Fault) {
        let dir = tempfile::tempdir().unwrap();
        let arm = dir.path().join("armed");
        let action = if fault == Fault::Stop { "stop" } else { "abort" };
        let mut cluster = quick()
            .env("MCP_FAULT_POINT", step)
            .env("MCP_FAULT_ACTION", action)
            .env("MCP_FAULT_ARM", arm.display())
            .start()
            .await;
        // Each of the two calls is once the first at the step.
        for first in [READ, INCREMENT] {
            let holder = usize::from(step == fault::BEFORE_DELIVER);
            let client = session_at(&cluster, transport, holder).await;
            // Where a message is journaled that does not come to its owner.
            let entry = usize::from(step == fault::QUEUED);
            let faulty = entry.max(holder);
            let healthy = if faulty == 0 { 1 } else { 2 };
            let mut addrs = first_at(&cluster, transport, holder);
            addrs.rotate_left(entry);
            let mut messages = calls(first);
            messages.sort_by_key(|message| !message["id"].as_str().unwrap().starts_with(first));
            std::fs::write(&arm, "").unwrap();
            let posts = async {
                let [earlier, later] = &messages;
                let later = async {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    post(&client, &addrs, later).await;
                };
                tokio::join!(post(&client, &addrs, earlier), later);
            };
            let faulted = async {
                eventually("the fault", || std::future::ready(!arm.exists())).await;
                if fault == Fault::Kill {
                    let process = cluster.routers[faulty].process();
                    assert_eq!(process.exit_code().await, None, "killed by a signal, not ended by a panic");
                }
                if faulty == holder {
                    client.cut();
                    client.reconnect(Some(healthy));
                }
            };
            tokio::join!(posts, faulted);
            judge_answers(&cluster, &client, first).await;
            let runs = cluster.counts();
            if fault == Fault::Kill {
                cluster.routers[faulty].restart().await;
            } else {
                cluster.routers[faulty].thaw();
                eventually("the old owner has given up", || async {
                    faulty != 0 || cluster.routers[0].metric("mcp_router_sessions", None).await == 0.0
                })
                .await;
            }
            judge_session(&cluster, &client).await;
            // OWN-2. Not when it was stopped between its look at the lease and the sending: what it sends then it had
            // marked before, so that nobody else sends it.
            if step != fault::BEFORE_POST {
                assert_eq!(cluster.counts(), runs, "nothing is forwarded late");
            }
        }
    }

    macro_rules! steps {
        ($($name:ident: $step:expr,)*) => {
            mod abort {
                use super::*;
                $(
                    /// REQ-1, REQ-2, REQ-3, OWN-5, EVT-2
                    async fn $name(transport: Transport) {
                        aborts_at(transport, $step).await;
                    }
                )*
                over_both_transports! { $($name)* }
            }
            mod stop {
                use super::*;
                $(
                    /// REQ-2, REQ-3, OWN-2, OWN-3, EVT-2
                    async fn $name(transport: Transport) {
                        stops_at(transport, $step).await;
                    }
                )*
                over_both_transports! { $($name)* }
            }
        };
    }

    steps! {
        after_the_message_is_journaled: fault::ACCEPTED,
        after_another_instance_has_journaled_the_message: fault::QUEUED,
        before_the_lease_is_looked_at: fault::BEFORE_FORWARD,
        before_the_request_is_sent: fault::BEFORE_POST,
        after_the_request_is_acknowledged: fault::AFTER_POST,
        before_the_answer_is_appended: fault::BEFORE_APPEND,
        after_the_answer_is_appended: fault::AFTER_APPEND,
        before_the_answer_is_on_the_stream_of_another_instance: fault::BEFORE_DELIVER,
    }
}

/// DUR-2: after Redis hung for longer than any pause between tries, calls go on at once and not at the end of such a pause.
#[tokio::test]
async fn calls_go_on_soon_after_a_redis_that_hung() {
    let mut cluster = Cluster::builder().routers(2).start().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(cluster.client().initialize().await);
    }
    let addrs = cluster.addrs();
    cluster.redis().freeze();
    // Each tries, with growing pauses, to have done what it has to do.
    let posts = clients.iter().enumerate().map(|(number, client)| {
        let (addr, call) = (addrs[number % 2], tool_call("in the hang", "echo", json!({ "text": "x" })));
        async move {
            let begun = Instant::now();
            let mut taken = false;
            while begun.elapsed() < Duration::from_secs(7) {
                let posted = client.try_post_at(addr, &call, Some("in the hang")).await;
                taken |= matches!(posted, Ok(answer) if answer.status == 202);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            taken
        }
    });
    let taken = join_all(posts).await;
    assert!(taken.iter().all(|taken| !taken), "Redis hangs");
    cluster.redis().thaw();
    let begun = Instant::now();
    let calls = clients.iter().map(|client| {
        let addrs = addrs.clone();
        async move {
            for addr in addrs {
                let id = format!("after {addr}");
                let call = tool_call(id.as_str(), "echo", json!({ "text": "x" }));
                eventually("a POST that is taken", || async {
                    matches!(client.try_post_at(addr, &call, Some(&id)).await, Ok(answer) if answer.status == 202)
                })
                .await;
                client.response_to(&json!(id)).await;
            }
        }
    });
    join_all(calls).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?} after the hang");
    cluster.assert_no_violations().await;
}
