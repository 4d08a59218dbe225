//! What a session decides, as plain logic: events in, actions out. Nothing here knows an actor, a store handle or a clock
//! (time comes in as a parameter), so that each part is tested alone, and the models of `tests/` check the very code that
//! runs. [`SessionActor`](super::actor::SessionActor) is the shell: it tells these structs what has happened, and does what
//! they say.
//!
//! | file | what it decides |
//! |---|---|
//! | `order` | in which order journaled messages are handled, and what was missed |
//! | `claims` | what is asked of the store next, and when |
//! | `posts`, `posts/failed`, `pace` | what goes up next, what is late, what is sent again |
//! | `requests` | the table of requests in flight |
//! | `uplink` | the link to the upstream: wanted, opened, lost, tried again, given up |
//! | `recovery` | what becomes of a request whose upstream died; whether an owner may forward |
//! | `setup` | what the client has set up, and what of it is replayed on a new link |
//! | `outbox` | what is appended to the log next, and what the store's answer means |
//! | `cursors` | how far the streams of the upstream session have been read, and what of that is on record |
//! | `questions` | which requests of the server, and of the router's own, are open, and under which ids |
//! | `streams` | which connection shows each of the client's streams, and since when none does |
//! | `unheard` | which answers nobody shows, and when they go out on the main stream |
//! | `pause` | a pause before something is tried again |

pub mod claims;
pub mod cursors;
pub mod order;
pub mod outbox;
mod pace;
pub mod pause;
pub mod posts;
pub mod questions;
pub mod recovery;
pub mod requests;
pub mod setup;
pub mod streams;
pub mod unheard;
pub mod uplink;
