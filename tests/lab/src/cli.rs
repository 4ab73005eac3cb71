//! The command line.

use clap::{Args, Parser, Subcommand};

use crate::host::Shape;
use crate::kernel::Kind;
use crate::monitor::MonitorArgs;

/// An arm64 KVM host on any Linux machine, and the runner of every check.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", version)]
pub(crate) struct Cli {
    /// A Debian mirror, for machines whose own apt has none: ADDRESS[,SECURITY-ADDRESS].
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(crate) mirror: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring what is missing, and say what is used.
    Setup {
        /// Forget what is cached and bring the newest.
        #[arg(long)]
        refresh: bool,
    },
    /// Run quire: on this machine's KVM if it is an arm64 host, else in an emulated one.
    Run {
        /// The emulated host.
        #[command(flatten)]
        host: HostArgs,
        /// quire's subcommand and arguments; without any, the built-in guest runs.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run any arm64 program (static, or a script) in the emulated host.
    Exec {
        /// The emulated host.
        #[command(flatten)]
        host: HostArgs,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<String>,
    },
    /// Check everything: formatting, lints, unit and doc tests, scenarios. Ends with one count.
    Test {
        /// A step (fmt, clippy, unit, loom, doc, arm64, monitor, e2e, advisories), or a part of a test's name.
        filter: Option<String>,
        /// Only on a host with this kernel; without it, on each.
        #[arg(long, value_enum)]
        kernel: Option<Kind>,
        /// Let scenarios run quire as users get it, optimised as a whole: minutes more to build.
        #[arg(long)]
        release: bool,
    },
    /// Run the fuzz targets, each for a bounded time (nightly toolchain and cargo-fuzz).
    Fuzz {
        /// One target; without it, all.
        target: Option<String>,
        /// How long each runs.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Measure: start-up and the release of memory in a host that counts instructions, stage2 on the walker, and
    /// cargo's benchmarks.
    Bench {
        /// One measurement; without it, all.
        name: Option<String>,
        /// Words for it, such as the part of `release` that is to be measured.
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Test stage2 under the MMU: the monitor, bare at EL2 on an emulated board.
    Monitor(MonitorArgs),
    /// A shell in the emulated host.
    Shell {
        /// The emulated host.
        #[command(flatten)]
        host: HostArgs,
    },
}

/// The emulated host's kernel and size.
#[derive(Debug, Clone, Args)]
pub(crate) struct HostArgs {
    /// The host's kernel.
    #[arg(long, value_enum, default_value = "new")]
    pub(crate) kernel: Kind,
    /// The host's memory.
    #[arg(long, default_value = "6G", value_name = "SIZE")]
    pub(crate) memory: String,
    /// The host's CPUs.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub(crate) cpus: u32,
    /// Count instructions instead of time: what is measured repeats. One thread.
    #[arg(long)]
    pub(crate) deterministic: bool,
    /// Added to the host kernel's command line.
    #[arg(long, default_value = "", value_name = "WORDS")]
    pub(crate) append: String,
}

impl HostArgs {
    /// As the host takes it.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            memory: self.memory.clone(),
            cpus: self.cpus,
            deterministic: self.deterministic,
            append: self.append.clone(),
            still: false,
        }
    }
}
