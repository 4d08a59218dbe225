//! What the user of Redis must be allowed, and what else must be right before a router starts.

use mcp_router::store::{Operators as _, Publication, StoreError};
use redis::cmd;

use super::{redis_only::Raw, *};

/// The least rights, as docs/operations.md has them.
fn least_rights() -> Vec<String> {
    let text = include_str!("../../docs/operations.md");
    let begin = text.find("ACL SETUSER mcp-router on >PASSWORD").expect("the least ACL stands in the document");
    let block = text[begin..].split("```").next().unwrap();
    let words = block.split_whitespace().filter(|word| *word != "\\").skip(5);
    words.map(str::to_owned).collect()
}

async fn as_user(server: &RedisServer, rights: &[String]) -> Result<RedisStore, StoreError> {
    let mut raw = Raw::at(&server.url()).await;
    let mut command = cmd("ACL");
    command.arg("SETUSER").arg("mcp-router").arg("reset").arg("on").arg(">secret");
    let _: () = raw.ask(command.arg(rights)).await;
    let url = server.url().replace("redis://", "redis://mcp-router:secret@");
    RedisStore::connect(RedisConfig { timeout: PATIENCE, ..RedisConfig::new(url) }).await
}

#[tokio::test]
async fn the_documented_rights_are_enough_and_each_that_is_missing_is_named() {
    let server = RedisServer::start();
    let rights = least_rights();
    assert!(rights.len() > 30, "{rights:?}");
    let store = as_user(&server, &rights).await.expect("the least rights");
    // Scripts whose commands a trial without a session does not reach.
    let living = instance::instance("a", "a");
    store.lease_acquire(&living, PATIENCE).await.unwrap();
    store.lease_release(&living.owner).await.unwrap();
    assert!(store.has_given_up(&living.owner).await.unwrap());
    store.forget_instance(&living.owner.instance_id).await.unwrap();
    // Without these the router starts: it believes that the version is right, and picks database 0.
    let optional = ["-@all", "+info", "+select", "resetchannels"];
    for missing in rights.iter().filter(|right| !optional.contains(&right.as_str())) {
        let others: Vec<String> = rights.iter().filter(|right| *right != missing).cloned().collect();
        match as_user(&server, &others).await.map(drop) {
            Err(StoreError::Unusable(text)) => {
                assert!(text.contains(missing.as_str()), "{missing} is not named: {text}");
                assert!(!text.contains("secret") && !text.contains("local "), "{text}");
            }
            other => panic!("without {missing}: {other:?}"),
        }
    }
    let without: Vec<String> = rights.iter().filter(|right| *right != "+info").cloned().collect();
    as_user(&server, &without).await.expect("INFO is not needed");
    let keys: Vec<String> = Raw::at(&server.url()).await.ask(cmd("KEYS").arg("*")).await;
    assert_eq!(keys, [""; 0], "nothing is left");
}

/// What is told to operators is told in the words of that user, and bounded in time as all else.
#[tokio::test]
async fn the_documented_rights_are_enough_for_the_dashboard() {
    let server = RedisServer::start();
    let store = as_user(&server, &least_rights()).await.expect("the least rights");
    let living = instance::instance("a", "a");
    store.lease_acquire(&living, PATIENCE).await.unwrap();
    let incidents = ["{}".to_owned()];
    let owner = &living.owner;
    let told = || Publication {
        owner,
        figures: "{}".into(),
        known: "".into(),
        life: PATIENCE,
        incidents: &incidents,
        keep: 9,
    };
    assert!(!store.publish(told()).await.unwrap().drain);
    store.ask_about("a session", PATIENCE).await.unwrap();
    assert!(store.ask_to_drain(owner).await.unwrap() && store.publish(told()).await.unwrap().drain);
    assert_eq!((store.published().await.unwrap().len(), store.incidents(9).await.unwrap().len()), (1, 2));
    let mut raw = Raw::at(&server.url()).await;
    let keys: Vec<String> = raw.ask(cmd("KEYS").arg("*")).await;
    for key in keys {
        let left: i64 = raw.ask(cmd("PTTL").arg(&key)).await;
        assert!(left > 0, "{key} {left}");
    }
}

#[tokio::test]
async fn what_does_not_change_by_waiting_is_told_at_once() {
    let server = RedisServer::start();
    let mut raw = Raw::at(&server.url()).await;
    let () = raw.ask(cmd("CONFIG").arg("SET").arg("requirepass").arg("open-sesame")).await;
    for login in ["", ":wrong@", "stranger:wrong@"] {
        let url = server.url().replace("redis://", &format!("redis://{login}"));
        match RedisStore::connect(config(url)).await.map(drop) {
            Err(StoreError::Unusable(text)) => {
                assert!(text.contains("NOAUTH") || text.contains("WRONGPASS"), "{login}: {text}");
            }
            other => panic!("{login}: {other:?}"),
        }
    }
    let cluster = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let refused = RedisStore::connect(config(cluster.url())).await.map(drop);
    assert!(matches!(&refused, Err(StoreError::Unusable(text)) if text.contains("Cluster")), "{refused:?}");
    // A web server.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let refused = RedisStore::connect(config(url)).await.map(drop);
    assert!(matches!(&refused, Err(StoreError::Unusable(text)) if text.contains("no Redis")), "{refused:?}");
    let database = RedisServer::start();
    let refused = RedisStore::connect(config(format!("{}/99", database.url()))).await.map(drop);
    assert!(matches!(&refused, Err(StoreError::Unusable(_))), "{refused:?}");
}

/// A user who may do everything, on a Redis that is full or a replica, has all rights.
#[tokio::test]
async fn a_start_looks_at_rights_and_not_at_what_may_pass() {
    let server = RedisServer::start();
    let mut raw = Raw::at(&server.url()).await;
    let _: () = raw.ask(cmd("CONFIG").arg("SET").arg("maxmemory").arg("1")).await;
    RedisStore::connect(config(server.url())).await.expect("a full Redis");
    let _: () = raw.ask(cmd("CONFIG").arg("SET").arg("maxmemory").arg("0")).await;
    let _: () = raw.ask(cmd("REPLICAOF").arg("127.0.0.1").arg("1")).await;
    RedisStore::connect(config(server.url())).await.expect("a replica, which may be promoted");
}
