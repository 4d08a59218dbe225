//! Over Streamable HTTP: a POST and what comes of it. The stream of a call is gone on with until the call is answered: a stock
//! client comes back with `Last-Event-ID`, after the time that it was told, to whichever instance takes it.

use std::{io, net::SocketAddr, sync::Arc};

use serde_json::Value;
use tokio::sync::watch;

use super::{Inner, OF_A_CALL, RETRY, Want};
use crate::{
    connection::header,
    event_stream::{Event, EventStream, Item, Opened},
    http::{Request, Response},
};

/// As [`super::McpClient::try_post_at`].
pub(super) async fn post(
    inner: &Arc<Inner>,
    want: watch::Receiver<Want>,
    addr: SocketAddr,
    request: &Request,
    message: &Value,
) -> io::Result<Response> {
    let accepted = |headers| Response { status: 202, headers, body: Vec::new() };
    match EventStream::exchange(addr, request).await? {
        Opened::Stream(stream) => {
            let headers = stream.headers.clone();
            learn(inner, header(&headers, "mcp-session-id"));
            tokio::spawn(follow(Arc::clone(inner), want, stream, message["id"].to_string()));
            Ok(accepted(headers))
        }
        Opened::Refused(response) if response.status != 200 => Ok(response),
        Opened::Refused(response) => {
            if response.json()["error"]["data"]["retry"] == true {
                return Ok(Response { status: 503, ..response });
            }
            learn(inner, header(&response.headers, "mcp-session-id"));
            inner.note(OF_A_CALL, Event { id: None, name: "message".to_owned(), data: response.text() });
            Ok(accepted(response.headers))
        }
    }
}

fn learn(inner: &Inner, session: Option<&str>) {
    if let Some(session) = session {
        inner.state().session = Some(session.to_owned());
        inner.changed.notify_waiters();
    }
}

/// Until the request with this id (JSON text) has its answer, on this stream or elsewhere, or its client is dropped.
async fn follow(inner: Arc<Inner>, mut want: watch::Receiver<Want>, mut stream: EventStream, id: String) {
    let mut cursor = None;
    let mut turn = 0;
    loop {
        let cuts = want.borrow_and_update().cuts;
        loop {
            tokio::select! {
                item = stream.read() => match item {
                    Item::Event(event) => {
                        if event.id.is_some() {
                            cursor.clone_from(&event.id);
                        }
                        inner.note(OF_A_CALL, event);
                    }
                    Item::Comment(_) => {}
                    Item::End(_) => break,
                },
                cut = want.wait_for(|now| now.cuts != cuts) => match cut {
                    Ok(_) => break,
                    Err(_) => return,
                },
            }
        }
        stream = loop {
            let retry = stream.retry_ms().map_or(RETRY, std::time::Duration::from_millis);
            tokio::time::sleep(retry).await;
            let Ok(wanted) = want.wait_for(|want| want.open).await.map(|want| *want) else { return };
            if inner.state().answers.contains_key(&id) {
                return;
            }
            // Who has no cursor cannot come back to it: the answer comes on the session's stream.
            let Some(cursor) = &cursor else { return };
            let addrs = &inner.builder.addrs;
            let index = wanted.to.filter(|_| turn == 0).unwrap_or(turn) % addrs.len();
            turn = index + 1;
            let request = inner.get_request_after(Some(cursor));
            let opened = EventStream::request(addrs[index], &request);
            if let Ok(Ok(Opened::Stream(stream))) = tokio::time::timeout(super::COMES_BACK, opened).await {
                break stream;
            }
        };
    }
}
