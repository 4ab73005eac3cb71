//! What a person reads of the API's documents.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::balloon::Standing;
use crate::config::{Size, TrackConfig, Watch};
use crate::machine::tracking::{Aged, Collected};
use crate::memory::ledger::Check;
use crate::memory::young::Answer;

/// Fields of the statistics that count bytes.
const BYTES: [&str; 6] =
    ["swap_in", "swap_out", "free_memory", "total_memory", "available_memory", "disk_caches"];

/// `quire ctl status`.
pub(super) fn status(root: &Value, config: &Value, balloon: Option<&Standing>) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let ours = &config["quire"];
    let memory = ["size", "backing", "block"].map(|key| text(&ours["memory"][key]));
    let balloon = match balloon {
        None => "none".into(),
        Some(balloon) if !balloon.active => "the guest does not drive it".into(),
        Some(Standing { target, actual, .. }) if target == actual => format!("{}", Size(*actual)),
        Some(Standing { target, actual, .. }) => {
            format!("{} on its way to {}", Size(*actual), Size(*target))
        }
    };
    rows([
        ("state", text(&root["state"]).to_lowercase()),
        ("vCPUs", ours["cpus"].to_string()),
        ("memory", format!("{}, backing={}, block={}", memory[0], memory[1], memory[2])),
        ("balloon", balloon),
        ("program", format!("quire {}, {}", text(&root["vmm_version"]), text(&root["id"]))),
    ])
}

/// `quire ctl stats`.
pub(super) fn statistics(document: &Map<String, Value>) -> String {
    let value = |key: &str, value: &Value| match value.as_u64() {
        Some(bytes) if BYTES.contains(&key) => Size(bytes).to_string(),
        _ => value.to_string(),
    };
    rows(document.iter().map(|(key, it)| (key.as_str(), value(key, it))))
}

/// `quire ctl track`.
pub(super) fn track(track: &TrackConfig) -> String {
    rows([
        ("dirty", if track.dirty { "on" } else { "off: all of memory counts as written" }.into()),
        (
            "young",
            match track.young {
                Watch::Off => "off: all of memory counts as used".into(),
                watch => watch.to_string(),
            },
        ),
    ])
}

/// `quire ctl collect`.
pub(super) fn collected(collected: &Collected) -> String {
    rows([
        ("written since the last time", Size(collected.dirty).to_string()),
        ("as it was", Size(collected.clean).to_string()),
    ])
}

/// `quire ctl age`.
pub(super) fn aged(aged: &Aged) -> String {
    let old = match aged.known {
        Answer::Complete => "not used",
        Answer::Partial => "not seen to be used",
        Answer::Unknown => "not used (nobody watches: see `quire ctl track`)",
    };
    rows([("used since the last time", Size(aged.young).to_string()), (old, Size(aged.old).to_string())])
}

/// `quire ctl check`.
pub(super) fn check(check: &Check) -> String {
    let mut text = rows([
        ("memory", Size(check.total).to_string()),
        ("populated in the ledger", Size(check.populated).to_string()),
        ("present at the host", Size(check.present).to_string()),
        ("filled since the last look", Size(check.filled).to_string()),
        ("read while released", Size(check.read).to_string()),
    ]);
    for (what, ranges) in [("released, and not zero", &check.broken), ("lost", &check.lost)] {
        for range in ranges {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{what}: {:#x}..{:#x}", range.start, range.end);
        }
    }
    text.push_str(if check.holds() {
        "The ledger and the host agree.\n"
    } else {
        "The ledger and the host do not agree.\n"
    });
    text
}

fn rows<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}
