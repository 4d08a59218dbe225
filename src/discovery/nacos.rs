//! Servers that have registered themselves with Nacos: `GET …/v2/ns/instance/list` of its Open API (2.2 and later), or `/v1/` (1.x, 2.x), asked
//! again and again (<https://nacos.io/docs/latest/manual/user/open-api/>). What is healthy, enabled and has a weight counts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use awc::{Client, Connector, SendClientRequest, http::StatusCode};
use rustls::ClientConfig;
use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::source::Source;
use crate::settings::{DiscoverySettings, NacosUrl, UpstreamUrl};

/// No answer is larger.
const SIZE_MAX: usize = 4 << 20;

/// See the module's text.
pub(super) struct Nacos {
    url: NacosUrl,
    client: Client,
    token: Option<(String, Instant)>,
}

#[derive(Deserialize)]
struct Listed {
    hosts: Vec<Instance>,
}

/// Of `/v2`: what `/v1` answers stands in `data`.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    code: i64,
    data: Option<Listed>,
}

#[derive(Deserialize)]
struct Instance {
    ip: String,
    port: u16,
    #[serde(default = "yes")]
    healthy: bool,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default = "one")]
    weight: f64,
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

/// Of `/v1/auth/login`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    access_token: String,
    #[serde(default)]
    token_ttl: u64,
}

impl Nacos {
    /// For the current thread.
    pub(super) fn new(url: NacosUrl, settings: &DiscoverySettings, tls: Option<Arc<ClientConfig>>) -> Self {
        let timeout = settings.timeout;
        let connector = Connector::new().timeout(timeout).handshake_timeout(timeout);
        let connector = match tls {
            Some(tls) => connector.rustls_0_23(tls),
            None => connector,
        };
        let client = Client::builder().connector(connector).disable_redirects().timeout(timeout).finish();
        Self { url, client, token: None }
    }

    fn at(&self, path: &str, query: &[(&str, &str)]) -> String {
        let mut url = self.url.api.clone();
        url.set_path(&format!("{}{path}", self.url.api.path()));
        let given = query.iter().filter(|(_, value)| !value.is_empty());
        url.query_pairs_mut().extend_pairs(given);
        url.into()
    }

    /// Who logs in has a token for a while.
    async fn log_in(&mut self) -> Result<Option<String>, String> {
        let Some((user, password)) = &self.url.login else { return Ok(None) };
        if let Some((token, until)) = &self.token
            && Instant::now() < *until
        {
            return Ok(Some(token.clone()));
        }
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("username", user)
            .append_pair("password", password)
            .finish();
        let request = self.client.post(self.at("/v1/auth/login", &[]));
        let request = request.insert_header(("content-type", "application/x-www-form-urlencoded"));
        let (status, body) = read(request.send_body(form)).await?;
        if status != StatusCode::OK {
            return Err(format!("its login: status {}", status.as_u16()));
        }
        let token: Token = serde_json::from_slice(&body).map_err(|_| "its login gives no token".to_owned())?;
        let until = Instant::now() + Duration::from_secs(token.token_ttl.min(86_400)) * 4 / 5;
        self.token = Some((token.access_token.clone(), until));
        Ok(Some(token.access_token))
    }

    async fn ask(&mut self) -> Result<(StatusCode, Vec<u8>), String> {
        let token = self.log_in().await?.unwrap_or_default();
        let NacosUrl { service, group, namespace, cluster, is_v1, .. } = &self.url;
        let (path, clusters) =
            if *is_v1 { ("/v1/ns/instance/list", "clusters") } else { ("/v2/ns/instance/list", "clusterName") };
        let query = [
            ("serviceName", service.as_str()),
            ("groupName", group),
            ("namespaceId", namespace),
            (clusters, cluster),
            ("healthyOnly", "true"),
            ("accessToken", &token),
        ];
        read(self.client.get(self.at(path, &query)).insert_header(("accept", "application/json")).send()).await
    }
}

async fn read(sent: SendClientRequest) -> Result<(StatusCode, Vec<u8>), String> {
    // Its text may hold the URL, and that a token.
    let mut response = sent.await.map_err(|_| "it does not answer".to_owned())?;
    let body = response.body().limit(SIZE_MAX).await.map_err(|fault| fault.to_string())?;
    Ok((response.status(), body.to_vec()))
}

#[async_trait(?Send)]
impl Source for Nacos {
    async fn find(&mut self) -> Result<(Vec<UpstreamUrl>, Option<Duration>), String> {
        let mut answer = self.ask().await?;
        if matches!(answer.0, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) && self.token.take().is_some() {
            answer = self.ask().await?;
        }
        let (status, body) = answer;
        if status != StatusCode::OK {
            return Err(format!("status {}", status.as_u16()));
        }
        let hosts = hosts(&body, self.url.is_v1)?;
        let urls = hosts.iter().map(|host| server(host, &self.url)).collect::<Result<_, _>>()?;
        Ok((urls, None))
    }
}

fn hosts(body: &[u8], is_v1: bool) -> Result<Vec<Instance>, String> {
    let unreadable = |_| "its answer is no list of instances".to_owned();
    let listed = if is_v1 {
        serde_json::from_slice(body).map_err(unreadable)?
    } else {
        let Answer { code, data } = serde_json::from_slice(body).map_err(unreadable)?;
        if code != 0 {
            return Err(format!("its answer has the code {code}"));
        }
        data.ok_or_else(|| "its answer has no data".to_owned())?
    };
    let counts = |host: &Instance| host.healthy && host.enabled && host.weight > 0.0;
    Ok(listed.hosts.into_iter().filter(counts).collect())
}

fn server(host: &Instance, asked: &NacosUrl) -> Result<UpstreamUrl, String> {
    let ip = if host.ip.contains(':') { format!("[{}]", host.ip) } else { host.ip.clone() };
    let url = Url::parse(&format!("{}://{ip}:{}{}", asked.scheme, host.port, asked.path));
    url.map(UpstreamUrl::new).map_err(|_| "an instance whose address stands in no URL".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_healthy_enabled_and_has_a_weight_counts() {
        let hosts_of = r#"{"name":"g@@s","hosts":[{"ip":"10.0.0.1","port":1,"healthy":true,"enabled":true,"weight":1.0},
            {"ip":"10.0.0.2","port":2,"healthy":false,"weight":1},{"ip":"10.0.0.3","port":3,"enabled":false},
            {"ip":"10.0.0.4","port":4,"weight":0},{"ip":"::1","port":5}]}"#;
        let v2 = format!(r#"{{"code":0,"message":"success","data":{hosts_of}}}"#);
        for (body, is_v1) in [(hosts_of, true), (&v2, false)] {
            let found = hosts(body.as_bytes(), is_v1).unwrap();
            assert_eq!(found.iter().map(|host| host.port).collect::<Vec<_>>(), [1, 5]);
        }
        for (wrong, is_v1) in
            [("[]", true), (r#"{"code":21008,"data":null}"#, false), (r#"{"code":0}"#, false), ("x", true)]
        {
            assert!(hosts(wrong.as_bytes(), is_v1).is_err(), "{wrong}");
        }
    }
}
