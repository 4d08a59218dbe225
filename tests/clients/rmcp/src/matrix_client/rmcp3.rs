//! rmcp 3.x, of both eras.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rmcp::{
    ClientHandler, ClientLifecycleMode, ClientServiceExt, ErrorData, RoleClient, ServiceExt,
    model::{
        CallToolRequestParams, ClientConfig, ElicitRequestParams, ElicitResult, ProgressNotificationParam,
        ProtocolVersion, ResourceUpdatedNotificationParam, ServerNotification,
    },
    service::{NotificationContext, RequestContext, RunningService, Subscription},
    transport::StreamableHttpClientTransport,
};
use serde_json::{Value, json};

use super::{Seen, Stock, filled, text_of};

#[derive(Clone)]
struct Handler(Arc<Seen>);

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let mut info = ClientConfig::default();
        info.capabilities = serde_json::from_value(json!({ "elicitation": {} })).unwrap_or_default();
        info
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let schema = serde_json::to_value(&request).unwrap_or_default()["requestedSchema"].clone();
        let answer = json!({ "action": "accept", "content": filled(&schema) });
        serde_json::from_value(answer).map_err(|error| ErrorData::internal_error(error.to_string(), None))
    }

    async fn on_progress(&self, _: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.0.progress.fetch_add(1, Ordering::Relaxed);
    }

    async fn on_resource_updated(&self, _: ResourceUpdatedNotificationParam, _: NotificationContext<RoleClient>) {
        self.0.updated.notify_one();
    }
}

pub struct Client {
    running: RunningService<RoleClient, Handler>,
    seen: Arc<Seen>,
    listening: Option<Subscription>,
}

pub async fn connect(url: &str, is_auto: bool) -> Result<Client, String> {
    let seen = Arc::new(Seen::default());
    let transport = StreamableHttpClientTransport::from_uri(url.to_owned());
    let handler = Handler(Arc::clone(&seen));
    let running = if is_auto {
        let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
        let mode = ClientLifecycleMode::Auto { preferred_versions, legacy_version: None };
        handler.serve_with_lifecycle(transport, mode).await
    } else {
        handler.serve(transport).await
    };
    Ok(Client { running: running.map_err(|error| error.to_string())?, seen, listening: None })
}

fn asked(tool: &str, arguments: &Value) -> CallToolRequestParams {
    CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments.as_object().cloned().unwrap_or_default())
}

impl Stock for Client {
    async fn names(&self) -> Result<Vec<String>, String> {
        let listed = self.running.list_tools(None).await.map_err(|error| error.to_string())?;
        Ok(listed.tools.into_iter().map(|tool| tool.name.into_owned()).collect())
    }

    async fn call(&self, tool: &str, arguments: &Value) -> Result<String, String> {
        let result = self.running.call_tool(asked(tool, arguments)).await;
        result.map(|result| text_of(&result)).map_err(|error| error.to_string())
    }

    async fn give_up(&self, tool: &str, arguments: &Value) -> Result<(), String> {
        // Dropping the call cancels it.
        match tokio::time::timeout(Duration::from_secs(1), self.running.call_tool(asked(tool, arguments))).await {
            Ok(_) => Err("unexpected: it was answered".to_owned()),
            Err(_) => Ok(()),
        }
    }

    async fn watch(&mut self, uri: &str) -> Result<(), String> {
        if self.version() >= "2026".to_owned() {
            let wanted =
                serde_json::from_value(json!({ "resourceSubscriptions": [uri] })).map_err(|error| error.to_string())?;
            self.listening = Some(self.running.listen(wanted).await.map_err(|error| error.to_string())?);
            return Ok(());
        }
        let wanted = serde_json::from_value(json!({ "uri": uri })).map_err(|error| error.to_string())?;
        #[expect(deprecated, reason = "for servers of earlier versions there is nothing else")]
        self.running.subscribe(wanted).await.map_err(|error| error.to_string())
    }

    async fn updated(&mut self) -> Result<(), String> {
        let Some(listening) = &mut self.listening else {
            self.seen.updated.notified().await;
            return Ok(());
        };
        loop {
            match listening.next().await.map_err(|error| error.to_string())? {
                Some(ServerNotification::ResourceUpdatedNotification(_)) => return Ok(()),
                Some(_) => {}
                None => return Err("the stream of changes has ended".to_owned()),
            }
        }
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn version(&self) -> String {
        self.running.peer_info().map(|info| info.protocol_version.to_string()).unwrap_or_default()
    }
}
