//! How a token is had: client credentials (RFC 6749, section 4.4), or the exchange of a client's token (RFC 8693).

use std::{
    cell::OnceCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_http::header::{self, HeaderValue};
use data_encoding::BASE64;
use rustls::ClientConfig;
use serde::Deserialize;
use url::form_urlencoded;

use super::token::{NoCredential, Token};
use crate::settings::Grant;

/// No answer of a token endpoint is larger.
const SIZE_MAX: usize = 64 << 10;

/// How long a token is used that does not say how long it counts.
const UNSAID: Duration = Duration::from_secs(300);

/// A token is not used in the last tenth of its time, of which this is the most: it must still count when it arrives.
const SLACK: Duration = Duration::from_secs(30);

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// For one thread.
#[derive(Clone)]
pub(in crate::upstream) struct Client {
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
    /// Made when it is needed, which it seldom is.
    client: Rc<OnceCell<awc::Client>>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: String,
    expires_in: Option<f64>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Client {
    /// `tls`: of whom certificates are believed.
    pub(in crate::upstream) fn new(tls: Option<Arc<ClientConfig>>, timeout: Duration) -> Self {
        Self { tls, timeout, client: Rc::default() }
    }

    fn client(&self) -> &awc::Client {
        self.client.get_or_init(|| {
            let connector = awc::Connector::new().timeout(self.timeout).handshake_timeout(self.timeout);
            let connector = match &self.tls {
                Some(tls) => connector.rustls_0_23(Arc::clone(tls)),
                None => connector,
            };
            // Elsewhere is somebody else.
            awc::Client::builder().connector(connector).disable_redirects().timeout(self.timeout).finish()
        })
    }

    /// `subject`: the token of who asks, in whose name it is had.
    pub(super) async fn token(&self, grant: &Grant, subject: Option<&str>) -> Result<Token, NoCredential> {
        let not_now = |why: String| NoCredential::NotNow(why);
        let asked = Instant::now();
        let request = self
            .client()
            .post(grant.token_endpoint.as_str())
            .insert_header((header::ACCEPT, "application/json"))
            .insert_header((header::CONTENT_TYPE, "application/x-www-form-urlencoded"))
            .insert_header((header::AUTHORIZATION, basic(grant)));
        let sent = async {
            let mut response = request.send_body(form(grant, subject)).await.map_err(|fault| fault.to_string())?;
            let body = response.body().limit(SIZE_MAX).await.map_err(|fault| fault.to_string())?;
            Ok::<_, String>((response.status(), body))
        };
        let sent = tokio::time::timeout(self.timeout, sent).await;
        let (status, body) = sent
            .unwrap_or_else(|_| Err(format!("the authorization server did not answer within {:?}", self.timeout)))
            .map_err(not_now)?;
        if status.is_success() {
            return read(&body, asked).map_err(not_now);
        }
        let said = serde_json::from_slice(&body).map(|refusal: Refusal| refusal.error);
        // RFC 6749, section 5.2: of a small set of characters, and not the text beside it.
        let code = said
            .ok()
            .filter(|error| error.len() <= 64 && error.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
        let why = format!(
            "the authorization server refuses it with status {} ({})",
            status.as_u16(),
            code.as_deref().unwrap_or("no reason")
        );
        match code.as_deref() {
            Some("invalid_grant" | "invalid_request" | "invalid_scope" | "invalid_target" | "unauthorized_client")
                if subject.is_some() =>
            {
                Err(NoCredential::Never(why))
            }
            _ => Err(NoCredential::NotNow(why)),
        }
    }
}

fn read(body: &[u8], asked: Instant) -> Result<Token, String> {
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| "the authorization server's answer is no token".to_owned())?;
    if !answer.token_type.eq_ignore_ascii_case("bearer") {
        return Err("the authorization server gives a token that is no bearer's".to_owned());
    }
    let value = HeaderValue::from_str(&format!("Bearer {}", answer.access_token));
    let mut value = value.map_err(|_| "the authorization server's token cannot stand in a header".to_owned())?;
    value.set_sensitive(true);
    let lasts = answer
        .expires_in
        .filter(|seconds| seconds.is_finite())
        .map_or(UNSAID, |seconds| Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0)));
    Ok(Token { value, ends: asked + lasts - SLACK.min(lasts / 10) })
}

/// RFC 6749, section 2.3.1: each in the form's own coding first.
fn basic(grant: &Grant) -> String {
    let coded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", coded(&grant.client_id), coded(grant.client_secret.expose()));
    format!("Basic {}", BASE64.encode(pair.as_bytes()))
}

fn form(grant: &Grant, subject: Option<&str>) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    match subject {
        Some(subject) => form
            .append_pair("grant_type", EXCHANGE)
            .append_pair("subject_token", subject)
            .append_pair("subject_token_type", ACCESS_TOKEN)
            .append_pair("requested_token_type", ACCESS_TOKEN),
        None => form.append_pair("grant_type", "client_credentials"),
    };
    let more = [("resource", grant.resource.as_deref()), ("audience", grant.audience.as_deref())];
    for (name, value) in more.into_iter().chain([("scope", Some(&*grant.scope).filter(|scope| !scope.is_empty()))]) {
        if let Some(value) = value {
            form.append_pair(name, value);
        }
    }
    form.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_used_while_it_surely_counts() {
        let now = Instant::now();
        let lasts = |expires: &str| {
            let body = format!(r#"{{"access_token":"x","token_type":"bearer"{expires}}}"#);
            (read(body.as_bytes(), now).unwrap().ends - now).as_secs()
        };
        assert_eq!((lasts(r#","expires_in":600"#), lasts(r#","expires_in":60"#), lasts("")), (570, 54, 270));
        for wrong in [
            &b"{}"[..],
            br#"{"access_token":"x","token_type":"mac"}"#,
            br#"{"access_token":"\n","token_type":"Bearer"}"#,
        ] {
            assert!(read(wrong, now).is_err());
        }
    }
}
