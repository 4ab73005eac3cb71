//! `cargo lab monitor`: the guest that holds `stage2` against the MMU, bare on QEMU's board with EL2.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Args;

use crate::check::here;
use crate::error::{Error, Result};
use crate::host::Stream;
use crate::progress::Step;
use crate::qemu::Qemu;
use crate::setup::Setup;
use crate::tap::Reader;
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// How long the monitor may say nothing: a race on a busy machine.
pub(crate) const SILENCE: Duration = Duration::from_secs(120);

/// `cargo lab monitor`.
#[derive(Debug, Clone, Args)]
pub(crate) struct MonitorArgs {
    /// The benchmark table instead of the tests.
    #[arg(long)]
    pub(crate) bench: bool,
    /// QEMU's name of a CPU: max, neoverse-n1, cortex-a710, cortex-a72 ...
    #[arg(long, default_value = "max", value_name = "MODEL")]
    pub(crate) cpu: String,
    /// CPUs of the board; the benchmark uses one.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) cpus: u32,
    /// Let CPUs run at once, instead of one at a time: slower to race, and truly concurrent.
    #[arg(long)]
    pub(crate) concurrent: bool,
    /// The monitor's command line: only=NAME, granule=SIZE, rounds=N.
    #[arg(trailing_var_arg = true)]
    pub(crate) words: Vec<String>,
}

/// A board, and what the monitor is to do on it.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    /// The CPU's model.
    pub(crate) cpu: String,
    /// How many.
    pub(crate) cpus: u32,
    /// Whether they run at once.
    pub(crate) concurrent: bool,
    /// Whether virtual time counts instructions.
    pub(crate) counting: bool,
    /// The command line.
    pub(crate) words: String,
}

impl Board {
    /// What it is, for people.
    pub(crate) fn name(&self) -> String {
        let at_once = if self.concurrent { " at once" } else { "" };
        format!("{} x {}{at_once}", self.cpus, self.cpu)
    }

    /// The command that boots the image on it, with the console as its standard output.
    pub(crate) fn command(&self, qemu: &Qemu, image: &std::path::Path) -> Command {
        let mut command = qemu.command();
        let threads = if self.concurrent { "multi" } else { "single" };
        command.args(["-machine", "virt,virtualization=on,gic-version=3", "-cpu", &self.cpu]);
        command.args([
            "-smp",
            &self.cpus.to_string(),
            "-m",
            "1G",
            "-accel",
            &format!("tcg,thread={threads}"),
        ]);
        if self.counting {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        command.args([
            "-display",
            "none",
            "-serial",
            "stdio",
            "-monitor",
            "none",
            "-net",
            "none",
            "-no-reboot",
        ]);
        command.arg("-kernel").arg(image).args(["-append", &self.words]);
        command
    }
}

/// The board on which the benchmark counts.
fn counting(cpu: &str) -> Board {
    Board { cpu: cpu.into(), cpus: 1, concurrent: false, counting: true, words: "bench".into() }
}

/// Runs it for a person; the exit code.
///
/// # Errors
/// Where something can't be brought or built, or the emulator does not start.
pub(crate) fn run(setup: &Setup, args: &MonitorArgs) -> Result<i32> {
    if args.bench && !args.words.is_empty() {
        return Err(Error::Usage(format!(
            "--bench takes no words for the tests: leave out {:?}",
            args.words
        )));
    }
    let board = match args.bench {
        true => counting(&args.cpu),
        false => Board {
            cpu: args.cpu.clone(),
            cpus: args.cpus,
            concurrent: args.concurrent,
            counting: false,
            words: args.words.join(" "),
        },
    };
    eprintln!("lab: monitor: stage2 under the MMU of an emulated board with EL2, {}", board.name());
    let (qemu, image) = parts(setup)?;
    if args.bench { measure(&board, &qemu, &image) } else { test(&board, &qemu, &image) }
}

/// `cargo lab bench monitor`.
pub(crate) fn bench(setup: &Setup) -> Result<i32> {
    let (qemu, image) = parts(setup)?;
    measure(&counting("max"), &qemu, &image)
}

fn parts(setup: &Setup) -> Result<(Qemu, PathBuf)> {
    let qemu = Qemu::set_up(setup)?;
    let workspace = Workspace::find()?;
    let toolchain = Toolchain::set_up(setup)?;
    let _step = Step::new("monitor", "building quire, which brings the image");
    Ok((qemu, workspace.monitor(&toolchain)?))
}

fn test(board: &Board, qemu: &Qemu, image: &std::path::Path) -> Result<i32> {
    let mut reader = Reader::default();
    let end = here::run(&mut board.command(qemu, image), SILENCE, &mut |stream, piece| match stream {
        Stream::Output => reader.feed(piece).iter().for_each(|line| println!("{line}")),
        Stream::Error => eprint!("{}", String::from_utf8_lossy(piece)),
    })?;
    println!(
        "\n  That was stage2, with the MMU of {} walking its tables: {}.",
        board.name(),
        reader.summary()
    );
    for (reason, count) in &reader.skipped {
        println!("  {count:>4} skipped: {reason}");
    }
    for (name, why) in &reader.not_ok {
        println!("  failed: {name}: {why}");
    }
    let trouble = reader.trouble();
    if let Some(trouble) = &trouble {
        println!("  the log can't be trusted: {trouble} ({end:?})");
    }
    Ok(i32::from(trouble.is_some() || !reader.not_ok.is_empty()))
}

fn measure(board: &Board, qemu: &Qemu, image: &std::path::Path) -> Result<i32> {
    let mut text = String::new();
    here::run(&mut board.command(qemu, image), SILENCE, &mut |stream, piece| {
        let piece = String::from_utf8_lossy(piece);
        match stream {
            Stream::Output => {
                print!("{piece}");
                text.push_str(&piece);
            }
            Stream::Error => eprint!("{piece}"),
        }
    })?;
    let goals: Vec<&str> = text.lines().filter(|line| line.starts_with("# goal: ")).collect();
    let missed = goals.iter().filter(|line| !line.trim_end().ends_with(": met")).count();
    let whole = text.lines().last().is_some_and(|line| line.trim_end() == "# done");
    println!(
        "\n  {} of {} goals met{}",
        goals.len() - missed,
        goals.len(),
        if whole { "" } else { "; it did not end" }
    );
    Ok(i32::from(!whole))
}
