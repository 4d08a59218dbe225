//! On rmcp 0.10.

use std::sync::Arc;

use rmcp_sse::{
    ErrorData, Peer, RoleServer, ServerHandler,
    model::{
        CallToolRequestParam, CallToolResult, ListToolsResult, PaginatedRequestParam, ServerInfo, SubscribeRequestParam,
    },
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{Counts, NOTE, Tell, capabilities, form, hello, made, progress, run, said, tools};

#[derive(Clone, Default)]
struct Matrix {
    counts: Counts,
    watchers: Arc<Mutex<Vec<Peer<RoleServer>>>>,
}

impl ServerHandler for Matrix {
    fn get_info(&self) -> ServerInfo {
        ServerInfo { capabilities: made(capabilities()), ..ServerInfo::default() }
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParam>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(made(json!({ "tools": tools() })))
    }

    async fn subscribe(&self, _: SubscribeRequestParam, context: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.watchers.lock().await.push(context.peer);
        Ok(())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParam,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let given = Value::Object(request.arguments.unwrap_or_default());
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
            "ask" => {
                let asked = context.peer.create_elicitation(made(form())).await;
                let answer = asked.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
                hello(&serde_json::to_value(answer).unwrap_or_default())
            }
            "change" => {
                for watcher in &*self.watchers.lock().await {
                    let _ = watcher.notify_resource_updated(made(json!({ "uri": NOTE }))).await;
                }
                "changed".to_owned()
            }
            name => {
                let done = run((name, &given), &self.counts, tell, context.ct.cancelled()).await;
                done.ok_or_else(|| ErrorData::invalid_params(format!("no tool {name}"), None))?
            }
        };
        Ok(made(said(&text)))
    }
}

pub fn router() -> axum::Router {
    let (server, sessions) = (Matrix::default(), Arc::new(LocalSessionManager::default()));
    let service =
        StreamableHttpService::new(move || Ok(server.clone()), sessions, StreamableHttpServerConfig::default());
    axum::Router::new().nest_service("/mcp", service)
}
