//! Wake-ups between the routers of one process.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{protocol::session_id::SessionId, store::Wake};

/// Who listens, by incarnation.
#[derive(Default)]
pub(super) struct Wakes {
    listeners: Mutex<HashMap<Arc<str>, Listener>>,
}

struct Listener {
    wakes: mpsc::Sender<Wake>,
    /// A wake-up did not fit: a task waits for room to say `All`, which covers every later one too.
    owed: Arc<AtomicBool>,
}

impl Wakes {
    pub(super) fn subscribe(&self, incarnation: &str, capacity: usize) -> mpsc::Receiver<Wake> {
        let (wakes, receiver) = mpsc::channel(capacity.max(1));
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|_, listener| !listener.wakes.is_closed());
        listeners.insert(incarnation.into(), Listener { wakes, owed: Arc::default() });
        receiver
    }

    /// Returns how many were told: 0 or 1.
    pub(super) fn wake(&self, incarnation: &str, session: SessionId) -> u64 {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(listener) = listeners.get(incarnation) else { return 0 };
        if listener.wakes.is_closed() {
            listeners.remove(incarnation);
            return 0;
        }
        if listener.owed.load(Ordering::Acquire) {
            return 1;
        }
        if let Err(TrySendError::Full(_)) = listener.wakes.try_send(Wake::Session(session))
            && !listener.owed.swap(true, Ordering::AcqRel)
        {
            let (wakes, owed) = (listener.wakes.clone(), listener.owed.clone());
            tokio::spawn(async move {
                if let Ok(room) = wakes.reserve().await {
                    // Before the send: what comes in between is then sent by itself, not lost.
                    owed.store(false, Ordering::Release);
                    room.send(Wake::All);
                }
            });
        }
        1
    }
}
