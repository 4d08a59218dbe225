//! On rmcp 3.x, which speaks both eras.

use std::sync::Arc;

use rmcp::{
    ErrorData, Peer, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, InputRequiredResult, ListToolsResult,
        PaginatedRequestParams, ProtocolVersion, ServerConfig, SubscribeRequestParams, SubscriptionFilter,
    },
    service::{RequestContext, SubscriptionContext},
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, broadcast};

use super::{Counts, NOTE, Tell, capabilities, form, hello, made, progress, run, tools};

#[derive(Clone)]
struct Matrix {
    counts: Counts,
    /// Those with sessions.
    watchers: Arc<Mutex<Vec<Peer<RoleServer>>>>,
    /// Those without.
    changes: broadcast::Sender<()>,
}

impl ServerHandler for Matrix {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(made(capabilities()))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools().into_iter().map(made).collect()))
    }

    async fn subscribe(&self, _: SubscribeRequestParams, context: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.watchers.lock().await.push(context.peer);
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.changes.subscribe();
        loop {
            tokio::select! {
                () = context.cancelled() => return Ok(()),
                changed = changes.recv() => {
                    if changed.is_err() || context.sink().notify_resource_updated(NOTE).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let given = Value::Object(request.arguments.clone().unwrap_or_default());
        let token = context.meta.get_progress_token();
        let peer = context.peer.clone();
        let tell: Tell = Box::new(move |done, total| {
            let (peer, token) = (peer.clone(), token.clone());
            Box::pin(async move {
                if let Some(token) = token {
                    // Who is gone hears nothing.
                    let _ = peer.notify_progress(made(progress(&token, done, total))).await;
                }
            })
        });
        let text = match &*request.name {
            "ask" if context.protocol_version() == Some(ProtocolVersion::V_2026_07_28) => {
                let Some(given) = &request.input_responses else {
                    let requests = json!({ "name": { "method": "elicitation/create", "params": form() } });
                    return Ok(InputRequiredResult::new(Some(made(requests)), None).into());
                };
                hello(&serde_json::to_value(given).unwrap_or_default()["name"])
            }
            "ask" => {
                let asked = context.peer.create_elicitation(made(form())).await;
                let answer = asked.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
                hello(&serde_json::to_value(answer).unwrap_or_default())
            }
            "change" => {
                for watcher in &*self.watchers.lock().await {
                    let _ = watcher.notify_resource_updated(made(json!({ "uri": NOTE }))).await;
                }
                // Nobody may listen.
                let _ = self.changes.send(());
                "changed".to_owned()
            }
            name => {
                let done = run((name, &given), &self.counts, tell, context.ct.cancelled()).await;
                done.ok_or_else(|| ErrorData::invalid_params(format!("no tool {name}"), None))?
            }
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }
}

pub fn router() -> axum::Router {
    let server = Matrix { counts: Counts::default(), watchers: Arc::default(), changes: broadcast::channel(16).0 };
    let sessions = Arc::new(LocalSessionManager::default());
    let service =
        StreamableHttpService::new(move || Ok(server.clone()), sessions, StreamableHttpServerConfig::default());
    axum::Router::new().nest_service("/mcp", service)
}
