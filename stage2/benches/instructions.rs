//! Instructions per scenario, counted by callgrind: the same number in every run of one build.
//!
//! `cargo bench -p stage2 --bench instructions [FILTER]`. Runs itself once per scenario under valgrind,
//! which counts nothing but the function `measured`. Where valgrind is missing it says so and measures
//! nothing; the frame figures need none.

mod scenarios;

use std::any::Any;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs, io};

use scenarios::{Scenario, Work, goals};

/// Tells a child what to run.
const SCENARIO: &str = "STAGE2_SCENARIO";

/// Callgrind counts every round of an x86 string instruction as an instruction, so that zeroing a table by
/// `rep stosb` would cost 4096. Vector stores say better what a memset costs, here and on other machines.
const NO_STRING_INSTRUCTIONS: &str =
    "glibc.cpu.x86_rep_stosb_threshold=1000000000:glibc.cpu.x86_rep_movsb_threshold=1000000000";

/// All that is counted: callgrind switches on when it is entered and off when it is left.
#[inline(never)]
fn measured(work: Work) -> Box<dyn Any> {
    work()
}

fn main() -> ExitCode {
    let all = scenarios::all();
    if let Some(name) = env::var_os(SCENARIO) {
        if let Some(scenario) = all.iter().find(|scenario| name == scenario.name) {
            drop(measured((scenario.prepare)()));
        }
        return ExitCode::SUCCESS;
    }
    print_frames();
    let filter = env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    match count_all(&all, &filter) {
        Ok(counts) => {
            print_counts(&all, &counts);
            print_goals(&counts);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn count_all(all: &[Scenario], filter: &str) -> Result<BTreeMap<&'static str, u64>, Box<dyn Error>> {
    let version = Command::new("valgrind").arg("--version").stdin(Stdio::null()).output();
    match version {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(
                "valgrind is not on PATH: install it, or use `cargo bench -p stage2 --bench time`".into()
            );
        }
        other => println!("\n{}", String::from_utf8_lossy(&other?.stdout).trim()),
    }
    let this = env::current_exe()?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(folder)?;
    let mut counts = BTreeMap::new();
    for scenario in all.iter().filter(|scenario| scenario.name.contains(filter)) {
        let report = folder.join(format!("callgrind-{}", std::process::id()));
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=instructions::measured*"])
            .arg(format!("--callgrind-out-file={}", report.display()))
            .arg(&this)
            .env(SCENARIO, scenario.name)
            .env("GLIBC_TUNABLES", NO_STRING_INSTRUCTIONS)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("callgrind on {}: {}: {complaint}", scenario.name, output.status).into());
        }
        let text = fs::read_to_string(&report)?;
        fs::remove_file(&report)?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).map(str::trim);
        let total = total.ok_or("callgrind's report has no total")?.parse()?;
        if total == 0 {
            return Err("callgrind counted nothing: it did not find `measured` in the symbols".into());
        }
        counts.insert(scenario.name, total);
    }
    Ok(counts)
}

fn print_frames() {
    println!("{:<44} {:>14}", "frames", "bytes");
    for (name, bytes) in scenarios::frames() {
        let goal = goals::FRAMES.iter().find(|(goal, _)| *goal == name);
        let verdict = goal.map_or(String::new(), |(_, most)| {
            format!("at most {most}: {}", if bytes <= *most { "met" } else { "MISSED" })
        });
        println!("{name:<44} {bytes:>14}  {verdict}");
    }
}

fn print_counts(all: &[Scenario], counts: &BTreeMap<&str, u64>) {
    println!("{:<44} {:>14} {:>12}", "instructions", "total", "per entry");
    for scenario in all {
        if let Some(count) = counts.get(scenario.name) {
            let each = *count as f64 / scenario.entries as f64;
            println!("{:<44} {count:>14} {each:>12.2}", scenario.name);
        }
    }
}

fn print_goals(counts: &BTreeMap<&str, u64>) {
    println!("\n{:<88} {:>8} {:>8}", "goal", "ratio", "at most");
    for goal in goals::INSTRUCTIONS {
        let left = counts.get(goal.left);
        let right = goal.right.iter().filter_map(|name| counts.get(name)).min();
        if let (Some(left), Some(right)) = (left, right) {
            let ratio = *left as f64 / *right as f64;
            let verdict = if ratio <= goal.at_most { "met" } else { "MISSED" };
            println!("{:<88} {ratio:>8.4} {:>8.4}  {verdict}", goal.claim, goal.at_most);
        }
    }
}
