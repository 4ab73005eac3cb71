//! `quire stress`: storms.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::failure::Failure;
use crate::config::{self, BalloonConfig, MemoryConfig};
use crate::stress::Options;
use crate::stress::options::MOST_VMS;

/// The options of `quire stress`.
#[derive(Debug, Args)]
pub struct StressArgs {
    #[command(subcommand)]
    storm: Storm,
}

#[derive(Debug, Subcommand)]
enum Storm {
    /// Memory goes into the balloon and comes back, is reported and hinted, written and read.
    ///
    /// The built-in guest checks every page of its memory; the ledger is held against the host; canaries lie around
    /// guest memory. What happens follows from the seed.
    Balloon(BalloonArgs),
}

/// The options of `quire stress balloon`.
#[derive(Debug, Args)]
pub struct BalloonArgs {
    /// What everything follows from; VM number I has the seed N + I [default: another one each time].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How long; with --guest linux from when the guest drives its balloon.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    seconds: u64,
    /// End after so many steps of the guest, if that is before.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// How many VMs at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_VMS)))]
    vms: u32,
    /// Memory of each, as `quire run` takes it. With more than one VM, a file's name gets the VM's number
    /// [default: 128M].
    #[arg(long, value_name = "SIZE[,KEY=VALUE]...")]
    memory: Option<MemoryConfig>,
    /// vCPUs of each.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// The balloon of each, as `quire run` takes it [default: everything on].
    #[arg(long, value_name = "KEY=VALUE,...")]
    balloon: Option<BalloonConfig>,
    /// Who runs in them.
    #[arg(long, value_enum, default_value_t = Guest::BuiltIn)]
    guest: Guest,
    /// Kernel of a Linux guest.
    #[arg(long, value_name = "FILE", required_if_eq("guest", "linux"))]
    kernel: Option<PathBuf>,
    /// Initial RAM disk of a Linux guest; it has to load virtio_balloon where that is a module.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Command line of a Linux guest.
    #[arg(long, value_name = "TEXT", requires = "kernel", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// The most of the host's memory that is used to press it, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pressure: u64,
    /// The report as JSON, on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Guest {
    /// The stamper: checks every page.
    BuiltIn,
    /// A stock kernel.
    Linux,
}

/// Why there was no storm.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kernel without a guest to boot it.
    #[error("--kernel is for --guest linux: the built-in guest has none")]
    Kernel,
    /// The VMs can't be as they are described.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// No seed can be had.
    #[error("the host gives no random seed: choose one with --seed")]
    Seed(#[source] rustix::io::Errno),
    /// Built for another architecture.
    #[cfg(not(target_arch = "aarch64"))]
    #[error(
        "a storm needs an arm64 KVM host, and this quire is built for {}: `cargo lab run -- stress balloon` sets one \
         up on any machine",
        std::env::consts::ARCH
    )]
    Architecture,
    /// The storm.
    #[cfg(target_arch = "aarch64")]
    #[error(transparent)]
    Storm(#[from] crate::stress::storm::Error),
    /// Standard output takes nothing.
    #[cfg(target_arch = "aarch64")]
    #[error("can't write the report: {0}")]
    Write(#[from] std::io::Error),
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Kernel | Self::Config(_) => 2,
            #[cfg(target_arch = "aarch64")]
            Self::Storm(crate::stress::storm::Error::Drive(crate::stress::drive::Error::Config(_))) => 2,
            _ => 1,
        }
    }
}

impl StressArgs {
    /// Storms.
    ///
    /// # Errors
    /// [`Error`]; a storm that went wrong is none, but an exit code.
    pub fn run(&self) -> Result<ExitCode, Error> {
        let Storm::Balloon(args) = &self.storm;
        run(&args.options()?, args.json)
    }
}

impl BalloonArgs {
    fn options(&self) -> Result<Options, Error> {
        use crate::stress::Guest as Who;

        let guest = match (self.guest, &self.kernel) {
            (Guest::BuiltIn, Some(_)) => return Err(Error::Kernel),
            (Guest::Linux, Some(kernel)) => Who::Linux {
                kernel: kernel.clone(),
                initrd: self.initrd.clone(),
                cmdline: self.cmdline.clone(),
            },
            // clap has asked for a kernel where there has to be one.
            (_, None) => Who::BuiltIn,
        };
        let seed = match self.seed {
            Some(seed) => seed,
            None => {
                let mut bytes = [0; 4];
                rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
                    .map_err(Error::Seed)?;
                u32::from_le_bytes(bytes).into()
            }
        };
        let memory = MemoryConfig { size: 128 << 20, ..MemoryConfig::default() };
        let options = Options {
            seed,
            length: Duration::from_secs(self.seconds),
            steps: self.steps,
            vms: self.vms,
            memory: self.memory.clone().unwrap_or(memory),
            cpus: self.cpus,
            balloon: self.balloon.clone().unwrap_or_else(Options::balloon),
            guest,
            pressure: self.pressure.saturating_mul(1 << 20),
        };
        // Before anything is said of a storm; where the consoles go does not matter for that.
        options.config(0, Path::new("/dev/null"), BalloonConfig::PAGE)?;
        Ok(options)
    }
}

#[cfg(target_arch = "aarch64")]
fn run(options: &Options, json: bool) -> Result<ExitCode, Error> {
    use std::io::{self, IsTerminal, stderr};
    use std::sync::atomic::Ordering;

    use super::print::print;
    use crate::config::Size;
    use crate::say::say;
    use crate::stress::drive::Status;
    use crate::stress::report::Vms;
    use crate::stress::{Verdict, storm};

    say(format_args!(
        "quire: storming {} of {} for {} s, seed {}\n",
        Vms(options.vms as usize),
        Size(options.memory.size),
        options.length.as_secs(),
        options.seed
    ));
    let is_terminal = stderr().is_terminal();
    let mut last = Duration::ZERO;
    let show = |since: Duration, statuses: &[Status]| {
        // A person sees it move each second; a file gets a line now and then.
        let pace = Duration::from_secs(if is_terminal { 1 } else { 5 });
        if since < last + pace {
            return;
        }
        last = since;
        let sum = |value: fn(&Status) -> u64| statuses.iter().map(value).sum::<u64>();
        let (start, end) = if is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        say(format_args!(
            "{start}quire: {:4} s: {} steps, {} pages checked, {} MiB in balloons, {} host actions{end}",
            since.as_secs(),
            sum(|status| status.steps.load(Ordering::Relaxed)),
            sum(|status| status.checked.load(Ordering::Relaxed)),
            sum(|status| status.held.load(Ordering::Relaxed)) >> 8,
            sum(|status| status.actions.load(Ordering::Relaxed)),
        ));
    };
    let report = storm::storm(options, show)?;
    if is_terminal {
        say(format_args!("\n"));
    }
    let text = if json {
        serde_json::to_string_pretty(&report).map_err(io::Error::from)?
    } else {
        report.to_string()
    };
    print(&format!("{text}\n"))?;
    Ok(match report.verdict {
        Verdict::Passed | Verdict::Interrupted => ExitCode::SUCCESS,
        Verdict::Failed => ExitCode::FAILURE,
    })
}

#[cfg(not(target_arch = "aarch64"))]
fn run(_: &Options, _: bool) -> Result<ExitCode, Error> {
    Err(Error::Architecture)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::stress::Guest as Who;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: StressArgs,
    }

    fn options(words: &[&str]) -> Result<Options, Error> {
        let line = Line::parse_from([&["stress", "balloon"], words].concat());
        let Storm::Balloon(args) = line.args.storm;
        args.options()
    }

    #[test]
    fn every_option_reaches_the_storm() {
        let words = [
            "--seed",
            "7",
            "--seconds",
            "3",
            "--steps",
            "9",
            "--vms",
            "2",
            "--memory",
            "64M,backing=memfd",
            "--cpus",
            "3",
            "--balloon",
            "report=on",
            "--pressure",
            "5",
        ];
        let options = options(&words).unwrap();
        assert_eq!((options.seed, options.steps, options.vms, options.cpus), (7, Some(9), 2, 3));
        assert_eq!((options.length, options.pressure), (Duration::from_secs(3), 5 << 20));
        assert_eq!((options.memory.size, options.guest), (64 << 20, Who::BuiltIn));
        assert!(options.balloon.report && !options.balloon.hint);
    }

    #[test]
    fn a_storm_without_options_has_everything_on() {
        let options = options(&[]).unwrap();
        assert_eq!((options.vms, options.length), (1, Duration::from_secs(30)));
        assert!(options.balloon.report && options.balloon.hint && options.balloon.must_tell_host);
    }

    #[test]
    fn a_kernel_is_for_linux() {
        assert!(matches!(options(&["--kernel", "Image"]), Err(Error::Kernel)));
        let options = options(&["--guest", "linux", "--kernel", "Image"]).unwrap();
        assert!(matches!(options.guest, Who::Linux { .. }));
        for words in [&["--guest", "linux"][..], &["--vms", "0"], &["--vms", "65"], &["--seconds", "0"]] {
            let words = [&["stress", "balloon"], words].concat();
            assert!(Line::try_parse_from(&words).is_err(), "{words:?}");
        }
    }
}
