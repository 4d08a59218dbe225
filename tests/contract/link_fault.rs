//! Faults of the link: answers that are lost, silence without a reset.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU8, Ordering},
};

use mcp_router::store::{Accepted, Wake};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

const PASS: u8 = 0;
/// What the server says is swallowed.
const DEAF: u8 = 1;
/// Nothing passes, in either direction.
const BLACK_HOLE: u8 = 2;

/// A TCP proxy before Redis that can break the link without closing it.
struct FaultProxy {
    port: u16,
    /// What new connections begin with.
    mode: Arc<AtomicU8>,
    connections: Arc<Mutex<Vec<Arc<AtomicU8>>>>,
}

impl FaultProxy {
    async fn before(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, connections) = (Arc::new(AtomicU8::new(PASS)), Arc::<Mutex<Vec<Arc<AtomicU8>>>>::default());
        let (first_mode, all, upstream) = (mode.clone(), connections.clone(), server.port());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { continue };
                let own = Arc::new(AtomicU8::new(first_mode.load(Ordering::SeqCst)));
                all.lock().unwrap().push(own.clone());
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::spawn(pump(client_read, server_write, own.clone(), BLACK_HOLE));
                tokio::spawn(pump(server_read, client_write, own, DEAF));
            }
        });
        Self { port, mode, connections }
    }

    fn config(&self) -> RedisConfig {
        RedisConfig {
            timeout: Duration::from_millis(800),
            backoff: (Duration::from_millis(10), Duration::from_millis(50)),
            probe: Duration::from_millis(100),
            ..RedisConfig::new(format!("redis://127.0.0.1:{}", self.port))
        }
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
        self.set_open(mode);
    }

    /// Only what is open now; new connections are as before.
    fn set_open(&self, mode: u8) {
        self.connections.lock().unwrap().iter().for_each(|own| own.store(mode, Ordering::SeqCst));
    }
}

/// Swallows from mode `from` on.
async fn pump(
    mut read: tokio::net::tcp::OwnedReadHalf,
    mut write: tokio::net::tcp::OwnedWriteHalf,
    mode: Arc<AtomicU8>,
    from: u8,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = read.read(&mut buffer).await {
        if mode.load(Ordering::SeqCst) < from && write.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

struct Broken {
    server: RedisServer,
    proxy: FaultProxy,
    /// Through the proxy.
    store: RedisStore,
    /// Past it.
    witness: RedisStore,
}

async fn setup() -> Broken {
    let server = RedisServer::start();
    let proxy = FaultProxy::before(&server).await;
    let store = RedisStore::connect(proxy.config()).await.unwrap();
    let witness = RedisStore::connect(config(server.url())).await.unwrap();
    Broken { server, proxy, store, witness }
}

impl Broken {
    async fn heal(&self) {
        self.proxy.set(PASS);
        eventually("the store is back", || async { self.store.ping().await.ok() }).await;
    }
}

#[tokio::test]
async fn what_a_lost_answer_to_a_claim_held_is_handed_out_on_demand() {
    let broken = setup().await;
    let fence = session_of(&broken.store, "a").await;
    let session = fence.session;
    for i in 1..=3 {
        queue(&broken.store, request(session, &i.to_string())).await;
        queue(&broken.store, notification(session, "n")).await;
    }
    assert_eq!(claim(&broken.store, &fence, 0, 1).await.0[0].seq, 1);
    for claimed in [4, 6] {
        broken.proxy.set(DEAF);
        let again = Claim { missing_from: Some(2), ..Claim::new(fence.clone(), 0, 3) };
        broken.store.claim(again).await.unwrap_err();
        eventually("the claim has happened", || async {
            (head(&broken.witness, session).await.in_claimed == claimed).then_some(())
        })
        .await;
        broken.heal().await;
    }
    let looked = handed(&broken.store, Claim { missing_from: Some(2), ..Claim::new(fence, 0, 0) }).await;
    assert_eq!(looked.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    assert_eq!((&looked.entries[1].body, &looked.entries[2].body), (&"request 2".into(), &"n".into()));
    assert_eq!((looked.after, looked.upto, looked.more), (1, 6, false));
}

#[tokio::test]
async fn a_claim_that_never_arrived_is_made_by_the_next_one() {
    let broken = setup().await;
    let fence = session_of(&broken.store, "a").await;
    queue(&broken.store, request(fence.session, "1")).await;
    claim(&broken.store, &fence, 0, 1).await;
    queue(&broken.store, request(fence.session, "2")).await;
    broken.proxy.set(BLACK_HOLE);
    broken.store.claim(Claim::new(fence.clone(), 0, 3)).await.unwrap_err();
    broken.heal().await;
    let (entries, _) = claim(&broken.store, &fence, 0, 3).await;
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2], "and nothing is handed out twice");
}

/// EVT-1, REQ-2
#[tokio::test]
async fn an_append_whose_answer_was_lost_is_not_made_twice() {
    let broken = setup().await;
    let fence = session_of(&broken.store, "a").await;
    forward(&broken.store, &fence, request(fence.session, "1")).await;
    broken.proxy.set(DEAF);
    let append_1 = append_of(&fence, 1, vec![answer("1"), event("e")]);
    broken.store.append(append_1.clone()).await.unwrap_err();
    eventually("the append has happened", || async {
        (log(&broken.witness, fence.session, STREAM).await.len() == 2).then_some(())
    })
    .await;
    broken.heal().await;
    assert_eq!(append(&broken.store, append_1).await, [Some(1), Some(2)]);
    assert_eq!(log(&broken.store, fence.session, STREAM).await.len(), 2);
}

/// REQ-6
#[tokio::test]
async fn a_message_whose_answer_was_lost_is_known_when_it_comes_again() {
    let broken = setup().await;
    let fence = session_of(&broken.store, "a").await;
    let post = request(fence.session, "1");
    broken.proxy.set(DEAF);
    broken.store.accept(direct(&fence, post.clone())).await.unwrap_err();
    eventually("it is journaled", || async {
        (broken.witness.pending(fence.session).await.unwrap().len() == 1).then_some(())
    })
    .await;
    broken.heal().await;
    let again = broken.store.accept(direct(&fence, post)).await.unwrap();
    assert_eq!(again, Accepted::Duplicate { seq: 1, claimed: true, shown: None });
}

/// OWN-10
#[tokio::test]
async fn a_subscription_in_a_black_hole_is_noticed() {
    let broken = setup().await;
    let mut wakes = broken.store.subscribe(&incarnation("a"), 8).await.unwrap();
    broken.proxy.set_open(BLACK_HOLE);
    assert_eq!(next(&mut wakes).await, Wake::All);
    let session = SessionId::random();
    broken.witness.wake(&incarnation("a"), session).await.unwrap();
    assert_eq!(next(&mut wakes).await, Wake::Session(session));
    drop(broken.server);
}

/// OWN-10, negative control: without the probe the same hole is not noticed.
#[tokio::test]
async fn without_the_probe_a_black_hole_goes_unnoticed() {
    let broken = setup().await;
    let blind = RedisConfig { probe: Duration::from_secs(3600), ..broken.proxy.config() };
    let blind = RedisStore::connect(blind).await.unwrap();
    let mut wakes = blind.subscribe(&incarnation("a"), 8).await.unwrap();
    broken.proxy.set_open(BLACK_HOLE);
    broken.witness.wake(&incarnation("a"), SessionId::random()).await.unwrap();
    let with_probe = broken.proxy.config().timeout + broken.proxy.config().probe;
    assert!(tokio::time::timeout(2 * with_probe, wakes.recv()).await.is_err());
}
