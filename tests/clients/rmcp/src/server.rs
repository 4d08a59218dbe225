//! A server on rmcp with one tool that takes its time: `server PORT`, Streamable HTTP at /mcp.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ListToolsResult, PaginatedRequestParams,
        ServerCapabilities, Tool,
    },
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::json;
use tokio::sync::Mutex;

/// How often a call with this key was carried out.
#[derive(Clone, Default)]
struct Slow(Arc<Mutex<HashMap<String, u64>>>);

impl ServerHandler for Slow {
    fn get_info(&self) -> rmcp::model::ServerConfig {
        rmcp::model::ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let schema = json!({
            "type": "object", "required": ["key", "ms"],
            "properties": { "key": { "type": "string" }, "ms": { "type": "integer" } },
        });
        let schema = schema.as_object().cloned().unwrap_or_default();
        let tool = Tool::new("slow", "Waits for ms, then says how often a call with this key was carried out.", schema);
        Ok(ListToolsResult::with_all_items(vec![tool]))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let given = request.arguments.unwrap_or_default();
        let key = given.get("key").and_then(|key| key.as_str()).unwrap_or_default().to_owned();
        let ms = given.get("ms").and_then(|ms| ms.as_u64()).unwrap_or_default();
        let count = {
            let mut counts = self.0.lock().await;
            let count = counts.entry(key.clone()).or_default();
            *count += 1;
            *count
        };
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok(CallToolResult::success(vec![ContentBlock::text(format!("{key}: {count}"))]).into())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let port: u16 = std::env::args().nth(1).and_then(|port| port.parse().ok()).expect("server PORT");
    let slow = Slow::default();
    let sessions = Arc::new(LocalSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(slow.clone()), sessions, StreamableHttpServerConfig::default());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, axum::Router::new().nest_service("/mcp", service)).await
}
