//! What the lab is doing: a moving line on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Something that takes a while. Says so when it starts and, when dropped, how long it took.
pub(crate) struct Step {
    name: String,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Starts one.
    pub(crate) fn new(name: &str, what: &str) -> Step {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} lab: {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_message(format!("{name}: {what}"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("lab: {name}: {what}");
        }
        Step { name: name.into(), since: Instant::now(), bar }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("lab: {}: {:.1} s", self.name, self.since.elapsed().as_secs_f64());
    }
}
