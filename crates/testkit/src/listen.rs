//! What all servers here begin with: a free port of loopback, and a task for each connection that comes.

use std::{future::Future, net::SocketAddr};

use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// Listens from now on; `serve` makes what is done with a connection, which is spawned. Where, and what ends the listening
/// (connections that have come go on).
pub async fn listen<F>(mut serve: impl FnMut(TcpStream) -> F + Send + 'static) -> (SocketAddr, AbortHandle)
where
    F: Future<Output: Send> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("its address");
    let accepting = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket));
        }
    });
    (addr, accepting.abort_handle())
}
