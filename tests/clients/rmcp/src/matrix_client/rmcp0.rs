//! rmcp 0.10.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rmcp_sse::{
    ClientHandler, ErrorData, RoleClient, ServiceExt,
    model::{
        CallToolRequest, ClientInfo, ClientRequest, CreateElicitationRequestParam, CreateElicitationResult,
        ElicitationAction, ProgressNotificationParam, ResourceUpdatedNotificationParam, SubscribeRequestParam,
    },
    service::{NotificationContext, PeerRequestOptions, RequestContext, RunningService},
    transport::StreamableHttpClientTransport,
};
use serde_json::{Value, json};

use super::{Seen, Stock, filled, text_of};

#[derive(Clone)]
struct Handler(Arc<Seen>);

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientInfo {
        let mut info = ClientInfo::default();
        info.capabilities = serde_json::from_value(json!({ "elicitation": {} })).unwrap_or_default();
        info
    }

    async fn create_elicitation(
        &self,
        request: CreateElicitationRequestParam,
        _: RequestContext<RoleClient>,
    ) -> Result<CreateElicitationResult, ErrorData> {
        let schema = serde_json::to_value(&request.requested_schema).unwrap_or_default();
        Ok(CreateElicitationResult { action: ElicitationAction::Accept, content: Some(filled(&schema)) })
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
}

pub async fn connect(url: &str) -> Result<Client, String> {
    let seen = Arc::new(Seen::default());
    let transport = StreamableHttpClientTransport::from_uri(url.to_owned());
    let running = Handler(Arc::clone(&seen)).serve(transport).await.map_err(|error| error.to_string())?;
    Ok(Client { running, seen })
}

fn asked(tool: &str, arguments: &Value) -> rmcp_sse::model::CallToolRequestParam {
    rmcp_sse::model::CallToolRequestParam { name: tool.to_owned().into(), arguments: arguments.as_object().cloned() }
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
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(asked(tool, arguments)));
        let handle = self.running.send_cancellable_request(request, PeerRequestOptions::no_options()).await;
        let handle = handle.map_err(|error| error.to_string())?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        handle.cancel(Some("the user".to_owned())).await.map_err(|error| error.to_string())
    }

    async fn watch(&mut self, uri: &str) -> Result<(), String> {
        let wanted = SubscribeRequestParam { uri: uri.to_owned() };
        self.running.subscribe(wanted).await.map_err(|error| error.to_string())
    }

    async fn updated(&mut self) -> Result<(), String> {
        self.seen.updated.notified().await;
        Ok(())
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn version(&self) -> String {
        self.running.peer_info().map(|info| info.protocol_version.to_string()).unwrap_or_default()
    }
}
