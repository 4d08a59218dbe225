//! How far the drill is, as a bar on a terminal; elsewhere there is none.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Arguments;

/// Of faults, or of seconds if their number is not known.
pub fn of(arguments: &Arguments) -> ProgressBar {
    let (length, unit) = match arguments.minutes {
        Some(minutes) => (Duration::from_secs_f64(minutes * 60.0).as_secs(), "s"),
        None => (arguments.rounds as u64, "faults"),
    };
    let bar = ProgressBar::new(length);
    let template = format!("{{bar:40}} {{pos}}/{{len}} {unit}, {{elapsed}} gone, {{eta}} left");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
