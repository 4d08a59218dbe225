//! What the table says of one setting, for whoever reads it by name. The table makes the rows; the reader is handed them.

/// One row of the table.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) group: &'static str,
    pub(super) env: &'static str,
    pub(super) default: &'static str,
    pub(super) unit: &'static str,
    pub(super) help: &'static str,
}

/// The rows of all groups in one list, which has so many.
pub(super) const fn joined<const LEN: usize>(groups: &[&[Row]]) -> [Row; LEN] {
    let mut all = [Row { group: "", env: "", default: "", unit: "", help: "" }; LEN];
    let (mut group, mut at) = (0, 0);
    while group < groups.len() {
        let mut row = 0;
        while row < groups[group].len() {
            all[at] = groups[group][row];
            (row, at) = (row + 1, at + 1);
        }
        group += 1;
    }
    all
}
