//! Which arguments of an endpoint's tools stand in headers, too (MCP 2026-07-28, Custom Headers from Tool Parameters), as far as
//! its list of tools has been seen. A tool that is not here has none, until its server says otherwise (-32020).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::protocol::modern::schema::Mirrored;

/// Tools with such arguments that are remembered, of one endpoint; of others the list is asked for when they are called.
const MAX_TOOLS: usize = 10_000;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Mirrors(Mutex<HashMap<String, Arc<[Mirrored]>>>);

impl Mirrors {
    /// Those of this tool.
    pub fn of(&self, tool: &str) -> Arc<[Mirrored]> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(tool).map_or_else(|| Arc::from([]), Arc::clone)
    }

    /// What a page of the list says of a tool.
    pub fn learn(&self, tool: String, mirrored: Vec<Mirrored>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if mirrored.is_empty() {
            known.remove(&tool);
        } else if known.len() < MAX_TOOLS || known.contains_key(&tool) {
            known.insert(tool, mirrored.into());
        }
    }
}
