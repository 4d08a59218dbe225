//! The actor of a session, for the rest of the process ([`SessionHandle`]): where it can be told and asked what stands in
//! [`super::messages`]. Who has one knows nothing of the actor itself.

use std::sync::Arc;

use actix::{dev::SendError, prelude::*};

use super::messages::{AttachLocal, Deliver, Detached, Drain, Look, MakeRoom, TakeSnapshot, Tick};
use crate::fair::{Thread, fair};

/// See the module's text. Clones are the same; two handles of one actor are equal.
#[derive(Debug, Clone)]
pub struct SessionHandle(Arc<Recipients>);

/// Takes messages of this kind.
pub trait Takes<M>
where
    M: Message + Send,
    M::Result: Send,
{
    /// Where.
    fn recipient(&self) -> &Recipient<M>;
}

macro_rules! recipients {
    ($($name:ident: $message:ident,)*) => {
        #[derive(Debug)]
        struct Recipients {
            $($name: Recipient<$message>,)*
            /// On which it runs.
            thread: Thread,
        }

        impl SessionHandle {
            /// Of this actor, which is on this thread.
            pub fn new<A>(actor: &Addr<A>) -> Self
            where
                A: Actor<Context = Context<A>> $(+ Handler<$message>)*,
            {
                Self(Arc::new(Recipients { $($name: actor.clone().recipient(),)* thread: Thread::current() }))
            }
        }

        $(impl Takes<$message> for SessionHandle {
            fn recipient(&self) -> &Recipient<$message> {
                &self.0.$name
            }
        })*
    };
}

recipients! {
    attach: AttachLocal,
    deliver: Deliver,
    detached: Detached,
    drain: Drain,
    look: Look,
    make_room: MakeRoom,
    snapshot: TakeSnapshot,
    tick: Tick,
}

impl SessionHandle {
    /// Waits for room in the mailbox, then for the reply. An error: the actor has ended, and may not have seen it.
    pub async fn send<M>(&self, message: M) -> Result<M::Result, MailboxError>
    where
        Self: Takes<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let reply = self.recipient().send(message);
        if self.0.thread.is_current() { reply.await } else { fair(reply).await }
    }

    /// Puts the message into the mailbox.
    ///
    /// # Errors
    /// It is full, or the actor has ended.
    pub fn try_send<M>(&self, message: M) -> Result<(), SendError<M>>
    where
        Self: Takes<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        self.recipient().try_send(message)
    }

    /// The actor takes messages.
    pub fn connected(&self) -> bool {
        self.0.look.connected()
    }
}

impl PartialEq for SessionHandle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.look == other.0.look
    }
}

impl Eq for SessionHandle {}
