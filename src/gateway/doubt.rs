//! The first message of a client that was found by a cookie alone. Programs and browser tabs share a cookie jar: the
//! cookie names a session, not its client. A new client begins with `initialize`, and gets a session of its own under the
//! URL that it has; mcp-remote, which keeps cookies and begins with an `initialize` of its own when it comes back, is known
//! by that message's id; whoever goes on without one has had its handshake.

use std::rc::Rc;

use super::{
    patience::{StoreUnavailable, patiently},
    principal::Principal,
    shared::Gateway,
};
use crate::{
    protocol::{
        jsonrpc::{Head, Kind},
        mcp,
        session_id::SessionId,
    },
    session::shown,
    store::Hint,
};

/// Ids of mcp-remote's repeated `initialize` begin with this (0.15.1, measured).
const REINIT: &str = "\"mcp-remote-reinit-";

/// What the message says of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// It is the session's own.
    Own,
    /// It is another one.
    New,
    /// Nothing: any client answers a `ping`.
    Nothing,
}

fn word(head: &Head<'_>) -> Word {
    match &head.kind {
        // Clients of 2026-07-28 begin with it, and with `initialize` when it is refused.
        Kind::Request { method, .. } if method == mcp::DISCOVER => Word::New,
        Kind::Request { method, id } if method == mcp::INITIALIZE && !id.as_json().starts_with(REINIT) => Word::New,
        Kind::Response { .. } => Word::Nothing,
        _ => Word::Own,
    }
}

/// Takes the client's word before its message is journaled. `attach_count`: number of the attachment that was found by a
/// cookie; the client's URL carries it. `by`: who asks; of what is not his nothing is settled.
///
/// # Errors
/// The store does not answer: nothing is known of the client yet.
pub async fn settle(
    gateway: &Rc<Gateway>,
    session: SessionId,
    (attach_count, by): (u64, &Principal),
    head: &Head<'_>,
) -> Result<(), StoreUnavailable> {
    if gateway.shared.proofs.has(session, attach_count) {
        return Ok(());
    }
    let Some(known) = patiently(gateway, || gateway.env.store.load(session)).await? else { return Ok(()) };
    if !known.binding.admits(&by.binding()) {
        return Ok(());
    }
    if known.doubted == Some(attach_count) {
        match word(head) {
            Word::Nothing => return Ok(()),
            Word::Own => {
                let settled = Hint::Doubted(None);
                patiently(gateway, || gateway.env.store.hint(session, &settled)).await?;
            }
            Word::New => {
                tracing::info!(%session, "a cookie led another client here; the session begins anew for it");
                gateway.env.metrics.rebinds.with_label_values(&["renewed"]).inc();
                let epoch = fastrand::u32(..);
                patiently(gateway, || gateway.env.store.renew(session, epoch)).await?;
            }
        }
        for attachment in gateway.env.directory.attachments(&session) {
            if word(head) == Word::Own { attachment.prove() } else { attachment.look() }
        }
        if let Some(holder) = shown::holder(&known).filter(|holder| **holder != gateway.env.me.incarnation) {
            patiently(gateway, || gateway.env.store.wake(holder, session)).await?;
        }
    }
    gateway.shared.proofs.add(session, attach_count);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_client_is_told_from_one_that_comes_back() {
        for (message, expected) in [
            (r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#, Word::New),
            (r#"{"jsonrpc":"2.0","id":"x","method":"initialize","params":{}}"#, Word::New),
            (r#"{"jsonrpc":"2.0","id":"mcp-remote-reinit-1","method":"initialize","params":{}}"#, Word::Own),
            (r#"{"jsonrpc":"2.0","id":"d","method":"server/discover"}"#, Word::New),
            (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x"}}"#, Word::Own),
            (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, Word::Own),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Word::Nothing),
        ] {
            assert_eq!(word(&Head::parse(message.as_bytes()).unwrap()), expected, "{message}");
        }
    }
}
