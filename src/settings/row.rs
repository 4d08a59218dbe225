//! What the table says of one setting, for whoever reads it by name. The table makes the rows; the reader is handed them.

/// One row of the table.
pub(super) struct Row {
    pub(super) group: &'static str,
    pub(super) env: &'static str,
    pub(super) default: &'static str,
    pub(super) unit: &'static str,
    pub(super) help: &'static str,
}
