//! Who the client of a session is to servers to which the router speaks in its name: what it has shown last, at whichever
//! instance.

use std::sync::Arc;

use async_trait::async_trait;

use super::actor::SessionActor;
use crate::{
    protocol::session_id::SessionId,
    store::SessionStore,
    upstream::{
        Service,
        credential::{Shown, Subject, Who},
    },
};

struct OfSession {
    store: Arc<dyn SessionStore>,
    session: SessionId,
    service: Arc<Service>,
}

#[async_trait]
impl Subject for OfSession {
    async fn shown(&self) -> Result<Option<Shown>, String> {
        let kept = self.store.subject(self.session).await;
        let sealed = kept.map_err(|_| "the session store does not answer".to_owned())?;
        Ok(sealed.and_then(|sealed| self.service.credentials.open(&self.session.reveal(), &sealed)))
    }
}

impl SessionActor {
    /// In whose name its messages go to its server.
    pub(super) fn who(&self) -> Who {
        Who::Subject(Arc::new(OfSession {
            store: Arc::clone(&self.env.store),
            session: self.fence.session,
            service: Arc::clone(&self.service),
        }))
    }
}
