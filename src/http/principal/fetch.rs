//! Small documents of the issuer of tokens: its metadata and its keys.

use std::{sync::Arc, time::Duration};

use awc::{Client, Connector, SendClientRequest, http::StatusCode};
use rustls::ClientConfig;

/// No such document is larger.
const SIZE_MAX: usize = 256 << 10;

/// For one thread.
pub(super) struct Fetcher {
    client: Client,
    timeout: Duration,
}

impl Fetcher {
    /// `tls`: of whom certificates are believed.
    pub(super) fn new(tls: Arc<ClientConfig>, timeout: Duration) -> Self {
        let connector = Connector::new().timeout(timeout).handshake_timeout(timeout).rustls_0_23(tls);
        // A document that is elsewhere is another one: the URL is what is trusted.
        let client = Client::builder().connector(connector).disable_redirects().timeout(timeout).finish();
        Self { client, timeout }
    }

    /// # Errors
    /// What went wrong, in words for the log.
    pub(super) async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        self.read(self.client.get(url).insert_header(("accept", "application/json")).send()).await
    }

    /// What is said to a form.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(super) async fn post(&self, url: &str, authorization: &str, form: String) -> Result<Vec<u8>, String> {
        let request = self.client.post(url).insert_header(("accept", "application/json"));
        let request = request.insert_header(("content-type", "application/x-www-form-urlencoded"));
        self.read(request.insert_header(("authorization", authorization)).send_body(form)).await
    }

    async fn read(&self, sent: SendClientRequest) -> Result<Vec<u8>, String> {
        let got = async {
            let mut response = sent.await.map_err(|fault| fault.to_string())?;
            if response.status() != StatusCode::OK {
                return Err(format!("status {}", response.status().as_u16()));
            }
            let body = response.body().limit(SIZE_MAX).await.map_err(|fault| fault.to_string())?;
            Ok(body.to_vec())
        };
        tokio::time::timeout(self.timeout, got)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout)))
    }
}
