//! What a client with a session would have at a server with one, kept here: who it is, its log level, what it has subscribed to,
//! which of its requests run, and what the server has asked it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use actix_http::Uri;
use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::{handshake::Client, subscriptions::Subscriptions};
use crate::{protocol::jsonrpc::IdKey, upstream::transport::http::line::Line};

/// Responses that may come before what they answer is known again; a session has fewer questions open.
const MAX_EARLY: usize = 256;

/// Where the client's response to a question goes, with the question's id.
pub(super) type Answers = mpsc::Sender<(String, Bytes)>;

/// See the module's text.
#[derive(Debug)]
pub(super) struct State {
    pub(super) client: RefCell<Client>,
    /// The server has said what it is.
    pub(super) is_open: Cell<bool>,
    /// Where POSTs are taken: at the endpoint's own URL, or where that sends them on to. `None`: it cannot be requested.
    pub(super) url: RefCell<Option<Uri>>,
    pub(super) subscriptions: Subscriptions,
    /// Requests without an answer, by the client's ids: who cancels one ends it.
    running: RefCell<HashMap<IdKey, Rc<Cancel>>>,
    /// What the server has asked, by the ids that it has here: where the client's responses go.
    asked: RefCell<HashMap<IdKey, Answers>>,
    /// Responses to what a former owner has asked, which have come before their request was gone on with.
    early: RefCell<Vec<(IdKey, Bytes)>>,
    /// Distinguishes the ids of this one from those of every other.
    nonce: u64,
    numbers: Cell<u64>,
}

/// Whether a request is given up.
#[derive(Debug, Default)]
pub(super) struct Cancel {
    is_given_up: Cell<bool>,
    told: Notify,
}

impl Cancel {
    fn give_up(&self) {
        self.is_given_up.set(true);
        self.told.notify_waiters();
    }

    /// Resolves when it is.
    pub(super) async fn given_up(&self) {
        let told = self.told.notified();
        if !self.is_given_up.get() {
            told.await;
        }
    }
}

impl State {
    pub(super) fn new(line: &Line) -> Self {
        Self {
            client: RefCell::default(),
            is_open: Cell::new(false),
            url: RefCell::new(line.uri().ok()),
            subscriptions: Subscriptions::default(),
            running: RefCell::default(),
            asked: RefCell::default(),
            early: RefCell::default(),
            nonce: fastrand::u64(..),
            numbers: Cell::new(0),
        }
    }

    /// An id that no other request has (JSON text).
    pub(super) fn next_id(&self) -> String {
        self.numbers.set(self.numbers.get() + 1);
        format!("\"{:016x}-{}\"", self.nonce, self.numbers.get())
    }

    /// The client gives this request up.
    pub(super) fn cancel(&self, id: &IdKey) {
        if let Some(cancel) = self.running.borrow_mut().remove(id) {
            cancel.give_up();
        }
    }

    /// The client responds to the question of this id.
    pub(super) fn answered(&self, id: &IdKey, response: &Bytes) {
        match self.asked.borrow_mut().remove(id) {
            // Whoever waited may be gone.
            Some(waits) => drop(waits.try_send((id.as_json().to_owned(), response.clone()))),
            None => {
                let mut early = self.early.borrow_mut();
                if early.len() < MAX_EARLY {
                    early.push((id.clone(), response.clone()));
                }
            }
        }
    }

    /// The response to the question of this id goes there.
    fn expect(&self, id: &IdKey, waits: &Answers) {
        let mut early = self.early.borrow_mut();
        match early.iter().position(|(answered, _)| answered == id) {
            Some(at) => drop(waits.try_send((id.as_json().to_owned(), early.swap_remove(at).1))),
            None => drop(self.asked.borrow_mut().insert(id.clone(), waits.clone())),
        }
    }
}

/// The request is one that runs, for as long as this lives.
#[derive(Debug)]
pub(super) struct Running {
    state: Rc<State>,
    id: IdKey,
    pub(super) cancel: Rc<Cancel>,
}

impl Running {
    pub(super) fn register(state: &Rc<State>, id: &IdKey) -> Self {
        let cancel = Rc::<Cancel>::default();
        state.running.borrow_mut().insert(id.clone(), Rc::clone(&cancel));
        Self { state: Rc::clone(state), id: id.clone(), cancel }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.state.running.borrow_mut();
        // A later one may have the id by now.
        if running.get(&self.id).is_some_and(|cancel| Rc::ptr_eq(cancel, &self.cancel)) {
            running.remove(&self.id);
        }
    }
}

/// Questions to the client are known by their ids, for as long as this lives.
#[derive(Debug)]
pub(super) struct Expected {
    state: Rc<State>,
    ids: Vec<IdKey>,
}

impl Expected {
    pub(super) fn none(state: &Rc<State>) -> Self {
        Self { state: Rc::clone(state), ids: Vec::new() }
    }

    /// The response to the question of this id (JSON text) goes there.
    pub(super) fn add(&mut self, id: &str, waits: &Answers) {
        if let Some(id) = IdKey::of_json(id) {
            self.state.expect(&id, waits);
            self.ids.push(id);
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut asked = self.state.asked.borrow_mut();
        self.ids.iter().for_each(|id| drop(asked.remove(id)));
    }
}
