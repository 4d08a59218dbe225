//! What the router promises, tested on a real deployment: its own processes, redis-server, nginx and stock clients.
//!
//! A test's name is the promise; its doc line names the guarantee (`docs/guarantees.md`). One binary, so that it is linked
//! once; each test starts only the parts that it needs.

#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod bounds;
mod browser;
mod calls_at_a_time;
mod client_certificates;
mod conformance;
mod connections;
mod credentials;
mod dashboard;
mod deployment;
mod discovery;
mod doubt;
mod drain;
mod edge;
mod events;
mod failover;
mod held;
mod held_ends;
mod ids;
mod inbox;
mod leaks;
mod logs;
mod metrics;
mod modern_sdks;
mod modern_tasks;
mod modern_upstreams;
mod monitoring;
mod neighbours;
mod odd_messages;
mod odd_posts;
mod older_data;
mod own_tls;
mod own_tls_limits;
mod ownership;
mod policy;
mod principals;
mod redis_cluster;
mod redis_tls;
mod refusals;
mod reload;
mod replay;
mod requests;
mod rest_calls;
mod returning;
mod room;
mod scripts;
mod sdk;
mod secure_upstreams;
mod sentinel;
mod server_death;
mod smoke;
mod starting;
mod stateless;
mod storms;
mod streamable;
mod streamable_upstreams;
mod supervision;
mod surfaces;
mod suspicion;
mod token_matrix;
mod token_streams;
mod tokens;
mod tools;
mod traces;
mod upstream_urls;
mod upstreams;
mod watchdog;
mod web;
