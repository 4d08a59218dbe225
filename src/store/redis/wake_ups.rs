//! Wake-ups through Redis: `PUBLISH` here, the subscription in `pubsub.rs`.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{RedisStore, pubsub::Subscription, reply, scripts::Call};
use crate::{
    protocol::session_id::SessionId,
    store::{StoreResult, Wake, WakeUps},
};

#[async_trait]
impl WakeUps for RedisStore {
    async fn wake(&self, incarnation: &str, session: SessionId) -> StoreResult<u64> {
        let channel = self.wake_channel(incarnation);
        let keys = self.keys.session(&session);
        // Counted is who hears it at that node: see `pubsub.rs`.
        let call = Call::command("PUBLISH").arg(&channel).arg(keys.id()).beside(keys.plain());
        reply::number(self.lanes.call(call).await?, "wake")
    }

    async fn subscribe(&self, incarnation: &str, capacity: usize) -> StoreResult<mpsc::Receiver<Wake>> {
        let subscription = Subscription {
            link: self.link.clone(),
            keys: self.keys.clone(),
            channel: self.wake_channel(incarnation),
            backoff: self.config.backoff,
            probe: self.config.probe,
        };
        subscription.start(capacity).await
    }
}
