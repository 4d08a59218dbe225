//! Random operations. Each case is run on the embedded store, on Redis and on a model of a few lines.
//!
//! A failing case is shrunk and printed with the seed; `MCP_ROUTER_TEST_SEED` runs a seed again.

use std::collections::VecDeque;

use mcp_router::store::{Accept, Attachment, Claim, LogLimits, Page, StoreError, StoreResult};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::{instance::instance, *};

const CASES: u32 = 60;

fn runner() -> TestRunner {
    let seed: u64 = match std::env::var("MCP_ROUTER_TEST_SEED") {
        Ok(seed) => seed.parse().expect("a seed is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("MCP_ROUTER_TEST_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Runs cases of `steps` against the two stores.
fn check<T, F>(steps: impl Strategy<Value = T>, case: impl Fn(Arc<dyn SessionStore>, Arc<dyn SessionStore>, T) -> F)
where
    T: std::fmt::Debug,
    F: Future<Output = Result<(), TestCaseError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let backend = runtime.block_on(Backend::redis());
    let (memory, redis) = (Backend::memory().store, backend.store.clone());
    let outcome = runner().run(&steps, |steps| runtime.block_on(case(memory.clone(), redis.clone(), steps)));
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[derive(Clone, Debug)]
enum LogStep {
    /// Bodies of these sizes, to one of two streams.
    Append {
        stream: bool,
        sizes: Vec<usize>,
        max_events: usize,
        max_bytes: usize,
    },
    /// The last append once more, as after a lost answer.
    Again,
    Adopt,
    Read {
        stream: bool,
        back: u64,
        max_events: usize,
        max_bytes: usize,
    },
}

fn log_step() -> impl Strategy<Value = LogStep> {
    let sizes = prop::collection::vec(0usize..40, 1..5);
    let limits = (prop_oneof![1usize..8, Just(1000)], prop_oneof![0usize..120, Just(100_000)]);
    prop_oneof![
        6 => (any::<bool>(), sizes, limits)
            .prop_map(|(stream, sizes, (max_events, max_bytes))| LogStep::Append { stream, sizes, max_events, max_bytes }),
        1 => Just(LogStep::Again),
        1 => Just(LogStep::Adopt),
        3 => (any::<bool>(), 0u64..40, 1usize..10, 0usize..200)
            .prop_map(|(stream, back, max_events, max_bytes)| LogStep::Read { stream, back, max_events, max_bytes }),
    ]
}

/// What a log is.
#[derive(Default)]
struct LogModel {
    last: u64,
    kept: VecDeque<(u64, usize)>,
}

impl LogModel {
    fn append(&mut self, sizes: &[usize], max_events: usize, max_bytes: usize) -> Vec<Option<u64>> {
        let mut seqs = Vec::new();
        for size in sizes {
            self.last += 1;
            self.kept.push_back((self.last, *size));
            seqs.push(Some(self.last));
        }
        let bytes = |kept: &VecDeque<(u64, usize)>| kept.iter().map(|(_, size)| size).sum::<usize>();
        while self.kept.len() > 1 && (self.kept.len() > max_events || bytes(&self.kept) > max_bytes) {
            self.kept.pop_front();
        }
        seqs
    }

    fn read(&self, after: u64, max_events: usize, max_bytes: usize) -> Vec<(u64, usize)> {
        let mut page = Vec::new();
        for event in self.kept.iter().filter(|(seq, _)| *seq > after).take(max_events) {
            page.push(*event);
            if page.iter().map(|(_, size)| size).sum::<usize>() >= max_bytes {
                break;
            }
        }
        page
    }

    fn first(&self) -> u64 {
        self.kept.front().map_or(self.last + 1, |(seq, _)| *seq)
    }
}

/// EVT-1
#[test]
fn sequences_stay_contiguous_through_appends_adoptions_and_trimming() {
    check(prop::collection::vec(log_step(), 1..60), |memory, redis, steps| async move {
        let new = new_session("0");
        let mut fence = fence_of(&new);
        for store in [&memory, &redis] {
            store.create(new.clone()).await.unwrap();
        }
        let mut models = [LogModel::default(), LogModel::default()];
        let mut last: Option<(Append, Vec<Option<u64>>)> = None;
        let name = |stream: bool| if stream { "g" } else { "r" }.to_owned();
        for (i, step) in steps.into_iter().enumerate() {
            match step {
                LogStep::Append { stream, sizes, max_events, max_bytes } => {
                    let expected = models[usize::from(stream)].append(&sizes, max_events, max_bytes);
                    let events = sizes.iter().map(|size| event(&"x".repeat(*size))).collect();
                    let limits = LogLimits { max_events, max_bytes, ..ROOMY };
                    let appending =
                        Append { stream: name(stream).into(), limits, ..append_of(&fence, i as u64 + 1, events) };
                    for store in [&memory, &redis] {
                        prop_assert_eq!(&append(&**store, appending.clone()).await, &expected, "{}", store.kind());
                    }
                    last = Some((appending, expected));
                }
                LogStep::Again => {
                    if let Some((appending, expected)) = &last {
                        for store in [&memory, &redis] {
                            prop_assert_eq!(&append(&**store, appending.clone()).await, expected, "{}", store.kind());
                        }
                    }
                }
                LogStep::Adopt => {
                    let mut next = fence.clone();
                    for store in [&memory, &redis] {
                        next = adopt(&**store, &fence, &i.to_string()).await.fence;
                    }
                    fence = next;
                    last = None;
                }
                LogStep::Read { stream, back, max_events, max_bytes } => {
                    let model = &models[usize::from(stream)];
                    let after = model.last.saturating_sub(back);
                    for store in [&memory, &redis] {
                        let page = store
                            .read_page(fence.session, &name(stream), StreamKey::Main, after, max_events, max_bytes)
                            .await;
                        let page = page.unwrap().unwrap();
                        let events: Vec<_> =
                            page.events.iter().map(|e| (e.seq, e.body.as_ref().map_or(0, Bytes::len))).collect();
                        prop_assert_eq!(&events, &model.read(after, max_events, max_bytes), "{}", store.kind());
                        prop_assert_eq!((page.first_seq, page.last_seq), (model.first(), model.last));
                        prop_assert!(events.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
                    }
                }
            }
        }
        Ok(())
    });
}

/// Anything that can happen to a session. Small numbers, so that ids, fences and attachments meet each other.
#[derive(Clone, Debug)]
enum Step {
    Accept {
        kind: u8,
        id: u8,
        post: u8,
        caller: Caller,
        forward_now: bool,
        acked: u64,
        caps: (usize, usize),
        field: u8,
        /// Somebody else, with less than it was used with, with more, or (mostly) as who opened it.
        asks: u8,
    },
    /// What most of them are: the owner journals a request and appends its answer.
    Call {
        caller: Caller,
        id: u8,
        answers: bool,
        /// The one or the other is done again, as after a lost answer.
        again: u8,
        view: bool,
        sent: bool,
    },
    Claim {
        caller: Caller,
        acked: u64,
        max_entries: usize,
        missing_from: Option<u64>,
        urgent_after: Option<u64>,
    },
    Forget {
        caller: Caller,
        requests: Vec<(u8, u64)>,
    },
    Mark {
        caller: Caller,
        ids: Vec<u8>,
    },
    Disown {
        post: u8,
        id: u8,
    },
    Append {
        caller: Caller,
        ids: Vec<Option<u8>>,
        acked: u64,
        again: bool,
    },
    Update {
        caller: Caller,
        field: u8,
        delete: bool,
    },
    Attach {
        stream: bool,
        process: u8,
        id: u64,
    },
    Detach {
        stream: bool,
        id: u64,
    },
    Adopt {
        process: u8,
        right: bool,
    },
    Release {
        caller: Caller,
    },
    Lease {
        process: u8,
        living: bool,
    },
}

/// With which fence.
#[derive(Clone, Copy, Debug)]
enum Caller {
    Owner,
    Former,
    Nobody,
}

fn step() -> impl Strategy<Value = Step> {
    let caller = || prop_oneof![8 => Just(Caller::Owner), 1 => Just(Caller::Former), 3 => Just(Caller::Nobody)];
    let acked = || prop_oneof![3 => Just(0u64), 2 => 0u64..30];
    let caps = (prop_oneof![1usize..5, Just(100)], prop_oneof![1usize..6, Just(100)]);
    prop_oneof![
        8 => (0u8..4, 0u8..5, 0u8..40, caller(), any::<bool>(), acked(), caps, (0u8..6, 0u8..40)).prop_map(
            |(kind, id, post, caller, forward_now, acked, caps, (field, asks))| Step::Accept {
                kind, id, post, caller, forward_now, acked, caps, field, asks
            }
        ),
        30 => (caller(), 0u8..5, prop::bool::weighted(0.8), 0u8..12, prop::bool::weighted(0.3), any::<bool>())
            .prop_map(|(caller, id, answers, again, view, sent)| Step::Call { caller, id, answers, again, view, sent }),
        4 => (caller(), acked(), 0usize..5, prop::option::of(1u64..30), prop::option::of(0u64..30)).prop_map(
            |(caller, acked, max_entries, missing_from, urgent_after)| Step::Claim {
                caller, acked, max_entries, missing_from, urgent_after
            }
        ),
        1 => (caller(), prop::collection::vec((0u8..5, 1u64..20), 0..6))
            .prop_map(|(caller, requests)| Step::Forget { caller, requests }),
        1 => (caller(), prop::collection::vec(0u8..5, 0..3)).prop_map(|(caller, ids)| Step::Mark { caller, ids }),
        2 => (0u8..40, 0u8..5).prop_map(|(post, id)| Step::Disown { post, id }),
        5 => (caller(), prop::collection::vec(prop::option::of(0u8..5), 1..4), acked(), prop::bool::weighted(0.1))
            .prop_map(|(caller, ids, acked, again)| Step::Append { caller, ids, acked, again }),
        1 => (caller(), 0u8..3, any::<bool>())
            .prop_map(|(caller, field, delete)| Step::Update { caller, field, delete }),
        2 => (any::<bool>(), 0u8..3, 1u64..4).prop_map(|(stream, process, id)| Step::Attach { stream, process, id }),
        1 => (any::<bool>(), 1u64..4).prop_map(|(stream, id)| Step::Detach { stream, id }),
        2 => (0u8..3, prop::bool::weighted(0.8)).prop_map(|(process, right)| Step::Adopt { process, right }),
        1 => caller().prop_map(|caller| Step::Release { caller }),
        1 => (0u8..3, any::<bool>()).prop_map(|(process, living)| Step::Lease { process, living }),
    ]
}

/// What both stores must agree on.
#[derive(Debug, PartialEq)]
struct Seen {
    outcome: String,
    pending: Vec<(u64, String, bool, Bytes)>,
    pages: [Page; 2],
    head: SessionHead,
}

/// Without the clocks.
fn comparable(head: SessionHead) -> SessionHead {
    SessionHead { created_ms: 0, last_active_ms: 0, ..head }
}

async fn outcome(store: &dyn SessionStore, step: &Step, i: u64, known: &Known) -> String {
    fn said<T: std::fmt::Debug>(outcome: StoreResult<T>) -> String {
        match outcome {
            Err(StoreError::Corrupt(_)) => "corrupt".to_owned(),
            outcome => format!("{:?}", outcome.unwrap()),
        }
    }
    let stream = |stream: &bool| if *stream { "g" } else { "r" };
    let session = known.owner.session;
    match step {
        Step::Accept { kind, id, post, caller, forward_now, acked, caps, field, asks } => {
            let accept = match kind {
                0 => request(session, &id.to_string()),
                1 => notification(session, "n"),
                3 => message(session, ClientMessage::Cancel { id_key: id.to_string().into() }, "c"),
                _ => message(session, ClientMessage::Response, "r"),
            };
            said(
                store
                    .accept(Accept {
                        by: match asks {
                            0 => Binding::default(),
                            1 => Binding::new("principal", ["read"]),
                            2 => Binding::new("principal", ["read", "call", "write"]),
                            _ => principal(),
                        },
                        post_id: PostId::of(&post.to_string(), b""),
                        // Of requests with one id some are the same, others are not.
                        body: format!("body {}", i % 3).into(),
                        fence: known.fence(*caller),
                        forward_now: *forward_now,
                        acked: *acked,
                        max_pending: caps.0,
                        max_inbox: caps.1,
                        changes: match field {
                            0..=2 => vec![set(&format!("x{field}"), &i.to_string())],
                            4 => vec![unset("x0"), unset("x1")],
                            _ => Vec::new(),
                        },
                        ..accept
                    })
                    .await,
            )
        }
        Step::Call { caller, id, answers, again, view, sent } => {
            let Some(fence) = known.fence(*caller) else { return String::new() };
            let id = format!("c{id}");
            let body = Bytes::from(format!("call {i}"));
            let accept = Accept {
                by: principal(),
                post_id: PostId::of(&format!("call {i}"), b""),
                body: body.clone(),
                fence: Some(fence.clone()),
                forward_now: true,
                ..request(session, &id)
            };
            let mut outcomes = vec![said(store.accept(accept.clone()).await)];
            if *again == 0 {
                outcomes.push(said(store.accept(accept.clone()).await));
            }
            if *answers {
                let view = if *view { StreamKey::Request(i) } else { StreamKey::Main };
                let events = vec![answer(&id).on(view).changing(set(&format!("of{}", i % 3), &i.to_string()))];
                let append = Append { sent: sent.then_some(i), ..append_of(&fence, i, events) };
                for _ in 0..=u8::from(*again == 1) {
                    outcomes.push(said(store.append(append.clone()).await));
                }
                if *again == 0 {
                    outcomes.push(said(store.accept(accept).await));
                }
            }
            outcomes.join("; ")
        }
        Step::Claim { caller, acked, max_entries, missing_from, urgent_after } => {
            let Some(fence) = known.fence(*caller) else { return String::new() };
            let (missing_from, urgent_after) = (*missing_from, *urgent_after);
            let claim = Claim { missing_from, urgent_after, ..Claim::new(fence, *acked, *max_entries) };
            match store.claim(claim).await {
                Ok(Claimed::Entries { handed, mut attachments }) => {
                    attachments.sort_by(|a, b| a.stream.cmp(&b.stream));
                    format!("{handed:?} {attachments:?}")
                }
                other => said(other),
            }
        }
        Step::Forget { caller, requests } => {
            let Some(fence) = known.fence(*caller) else { return String::new() };
            let requests: Vec<_> = requests.iter().map(|(id, seq)| (id.to_string(), *seq)).collect();
            said(store.forget_requests(&fence, &requests).await)
        }
        Step::Mark { caller, ids } => {
            let Some(fence) = known.fence(*caller) else { return String::new() };
            let ids: Vec<_> = ids.iter().map(u8::to_string).collect();
            said(store.mark_forwarded(&fence, &ids).await)
        }
        Step::Disown { post, id } => {
            said(store.disown(session, PostId::of(&post.to_string(), b""), &id.to_string()).await)
        }
        Step::Append { caller, ids, acked, again } => {
            let Some(fence) = known.fence(*caller) else { return String::new() };
            let events = ids.iter().map(|id| match id {
                Some(id) => answer(&id.to_string()).changing(set("answered", &id.to_string())),
                None if i.is_multiple_of(3) => event("e").changing(HeadChange::Moved { seq: i / 3 }),
                None => event("e"),
            });
            let op = if *again { i.saturating_sub(1).max(1) } else { i };
            said(store.append(Append { acked: *acked, ..append_of(&fence, op, events.collect()) }).await)
        }
        Step::Update { caller, field, delete } => {
            let Some(fence) = known.fence(*caller) else { return String::new() };
            let field = format!("x{field}");
            let change = if *delete { unset(&field) } else { set(&field, &i.to_string()) };
            said(store.update(&fence, &[change]).await)
        }
        Step::Attach { stream: name, process, id } => {
            let attachment =
                Attachment { stream: stream(name).to_owned(), incarnation: incarnation(&process.to_string()), id: *id };
            said(store.attach(Attach { session, attachment, by: None }).await)
        }
        Step::Detach { stream: name, id } => said(store.detach(session, stream(name), *id).await),
        Step::Adopt { process, right } => {
            let generation = known.generation + u64::from(!right);
            let adopted =
                store.adopt(session, &owner_with(&known.incarnation), generation, &owner(&process.to_string())).await;
            match adopted.unwrap() {
                Adopted::Adopted(rehydration) => {
                    let Rehydration { head, fence, inbox, pending } = *rehydration;
                    let head = comparable(head);
                    format!("{head:?} {fence:?} {inbox:?} {pending:?}")
                }
                other => format!("{other:?}"),
            }
        }
        Step::Release { caller } => {
            let Some(fence) = known.fence(*caller) else { return String::new() };
            said(store.release(&fence).await)
        }
        Step::Lease { process, living } => {
            let process = process.to_string();
            let instance = instance(&process, &process);
            if *living {
                said(store.lease_renew(&instance, Duration::from_secs(600)).await)
            } else {
                said(store.lease_release(&instance.owner).await)
            }
        }
    }
}

/// Who owns the session, as the test knows it.
struct Known {
    owner: Fence,
    former: Fence,
    incarnation: String,
    generation: u64,
}

impl Known {
    fn fence(&self, caller: Caller) -> Option<Fence> {
        match caller {
            Caller::Owner => Some(self.owner.clone()),
            Caller::Former => Some(self.former.clone()),
            Caller::Nobody => None,
        }
    }

    /// Learns from the session's head.
    fn learn(&mut self, head: &SessionHead) {
        let ownership = head.ownership.as_ref().unwrap();
        let (incarnation, generation) = (ownership.owner.incarnation.to_string(), ownership.generation);
        if (&self.incarnation, self.generation) != (&incarnation, generation) {
            self.former = self.owner.clone();
            self.owner = Fence { generation, incarnation: incarnation.as_str().into(), ..self.owner.clone() };
            (self.incarnation, self.generation) = (incarnation, generation);
        }
    }
}

async fn see(store: &dyn SessionStore, session: SessionId, outcome: String) -> Seen {
    let pending = store.pending(session).await.unwrap();
    let mut pages = Vec::new();
    for stream in ["g", "r"] {
        pages.push(store.read_page(session, stream, StreamKey::Main, 0, 1000, 100_000).await.unwrap().unwrap());
    }
    Seen {
        outcome,
        pending: pending.into_iter().map(|r| (r.seq, r.id_key.to_string(), r.forwarded, r.body)).collect(),
        pages: pages.try_into().unwrap(),
        head: comparable(head(store, session).await),
    }
}

#[test]
fn both_stores_say_the_same_to_any_sequence_of_operations() {
    check(prop::collection::vec(step(), 1..160), |memory, redis, steps| async move {
        let new = new_session("0");
        for store in [&memory, &redis] {
            store.create(new.clone()).await.unwrap();
        }
        let fence = fence_of(&new);
        let mut known = Known {
            owner: fence.clone(),
            former: Fence { incarnation: "former".into(), ..fence.clone() },
            incarnation: fence.incarnation.to_string(),
            generation: 1,
        };
        for (i, step) in steps.iter().enumerate() {
            let i = i as u64 + 1;
            let in_memory = outcome(&*memory, step, i, &known).await;
            let in_redis = outcome(&*redis, step, i, &known).await;
            let in_memory = see(&*memory, fence.session, in_memory).await;
            let in_redis = see(&*redis, fence.session, in_redis).await;
            prop_assert_eq!(&in_memory, &in_redis, "step {}: {:?}", i, step);
            known.learn(&in_memory.head);
        }
        Ok(())
    });
}
