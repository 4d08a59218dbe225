//! The dashboard, and what instances tell for it.

use std::{ffi::OsString, time::Duration};

use crate::settings::{
    help_text::help_text,
    parse::{self, MILLI, MINUTE, duration, whole},
    row::Row,
    source::Reader,
};

group! {
    /// The dashboard, and what instances tell for it.
    "Dashboard", UiFlags => UiSettings {
        /// Whether this instance has the dashboard at /ui, and tells the others' what goes on here: on or off. On, since it
        /// shows nothing to anybody but operators: this machine without a proxy in between, and whoever has MCP_ADMIN_TOKEN.
        /// Without that token, there is nothing at /ui for those who come through a proxy or from elsewhere.
        MCP_UI = "on", "on or off" => is_on: bool, parse::on_or_off;

        /// How often an instance tells the store its figures (some KiB) and what has happened, for the dashboards of all; how
        /// old what they show may be, and how soon an instance hears that it shall drain. A second is as often as people look.
        MCP_UI_PUBLISH = "1s", "duration" => publish: Duration, duration(100 * MILLI..=MINUTE);

        /// Adoptions, drains, deaths and the like that are kept for the dashboard: those of all instances in the store, about 250
        /// bytes each, and so many of one that wait for the next MCP_UI_PUBLISH. More than a death of one instance makes.
        MCP_UI_INCIDENTS = "1000", "incidents" => incidents: usize, whole(1..=100_000);
    }
}
