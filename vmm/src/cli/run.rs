//! `quire run`: a guest, from its description to its end.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::time::{ClockId, clock_gettime};

use super::failure::Failure;
use crate::config::{
    self, BalloonConfig, ConsoleConfig, DiskConfig, El2, MemoryConfig, TrackConfig, VmConfig,
};

/// The largest configuration file in bytes; whatever is larger is another file.
const MAX_CONFIG_SIZE: u64 = 1 << 20;

/// The options of `quire run`.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// Kernel: an arm64 Image, a gzip'ed Image or an EFI zboot file (gzip, zstd), told apart by content
    /// [default: a built-in guest, one that checks its memory, or with --el2 the one that tests stage2].
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel command line [default: a console on the serial port].
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Number of vCPUs [default: 1].
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Start the guest at EL2, so that it can be a hypervisor itself [default: off].
    ///
    /// The host needs nested virtualisation. With "e2h0" the guest may also leave HCR_EL2.E2H at 0, where the
    /// CPU can give it that; otherwise it is always 1.
    #[arg(
        long,
        value_name = "on|e2h0|off",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "on"
    )]
    el2: Option<El2>,
    /// Guest RAM [default: 512M].
    ///
    /// SIZE takes the suffixes K, M, G and T. The keys:
    ///
    ///   backing=anon|memfd|hugetlb|file:PATH|private:PATH  what the host allocates it from [default: anon]
    ///
    ///   block=auto|4K|64K|2M|32M|1G  the unit in which it does [default: auto]
    ///
    ///   prefault=on|off  populate all of it before the guest starts [default: off]
    ///
    /// A comma that belongs to PATH is written twice.
    #[arg(long, value_name = "SIZE[,KEY=VALUE]...")]
    memory: Option<MemoryConfig>,
    /// Disk on a raw file, read-only with ",ro"; may be given again for more. A comma that belongs to PATH
    /// is written twice.
    #[arg(long, value_name = "PATH[,ro]")]
    disk: Vec<DiskConfig>,
    /// Balloon: memory that the guest gives back while it runs.
    ///
    /// It has these keys, none of which is needed:
    ///
    ///   size=SIZE  what the guest is asked for from the start [default: 0]
    ///
    ///   stats=SECONDS  ask for the guest's statistics that often [default: 0, never]
    ///
    ///   report=on|off  free page reporting: the guest names free blocks by itself [default: off]
    ///
    ///   hint=on|off  free page hinting: it names them when asked [default: off]
    ///
    ///   deflate-on-oom=on|off  it may take pages back when it has no others [default: off]
    ///
    ///   block=auto|4K|64K|2M|32M|1G  the unit in which memory goes back to the host [default: auto]
    ///
    ///   repopulate=off|block  bring blocks back whole when they leave the balloon [default: off]
    ///
    ///   must-tell-host=on|off  ask the guest to tell before it uses a page again [default: on]
    #[arg(long, value_name = "KEY=VALUE,...", num_args = 0..=1, default_missing_value = "")]
    balloon: Option<BalloonConfig>,
    /// Track what the guest does with its memory, from its start [default: off].
    ///
    /// What is not tracked is not known, and counts as written and used:
    ///
    ///   dirty=on|off  KVM's dirty log, and the writes of devices
    ///
    ///   young=off|presence|faults|damon  what sees pages used: their presence in the page tables (memfd and
    ///   file), first uses by userfaultfd (anon and memfd), or DAMON (for root)
    #[arg(long, value_name = "KEY=VALUE,...")]
    track: Option<TrackConfig>,
    /// The other end of the serial port [default: stdio, where Ctrl-A x quits].
    #[arg(long, value_name = "stdio|pty|file:PATH|null")]
    console: Option<ConsoleConfig>,
    /// Unix socket of the HTTP API, made here and removed at the end; its client is `quire ctl` [default:
    /// none].
    #[arg(long, value_name = "PATH")]
    api_sock: Option<PathBuf>,
    /// The same as JSON, with the keys kernel, initrd, cmdline, cpus, el2, memory, disks, balloon,
    /// track, console and api_sock. What the command line says too, it says last.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print how long it took from process start to the first guest instruction and the first console
    /// byte, on standard error.
    #[arg(long)]
    timing: bool,
}

/// When the program began, for `--timing`.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// When `main` began.
    pub main: Instant,
    /// The processor time that had been used by then: by the loader, mostly.
    pub before: Duration,
}

impl Start {
    /// To be asked first thing in `main`.
    #[must_use]
    pub fn now() -> Self {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        // Never negative; were it so, there is nothing to add.
        Self { main: Instant::now(), before: Duration::try_from(used).unwrap_or_default() }
    }
}

/// Why there is no guest, or no guest any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file can't be read.
    #[error("can't read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The configuration file is too large to be one.
    #[error("{} is larger than {} KiB: that is no configuration file", path.display(), MAX_CONFIG_SIZE >> 10)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The configuration file has something wrong in it.
    #[error("can't use the configuration file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: config::Error,
    },
    /// File and command line together describe no VM.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Built for another architecture.
    #[cfg(not(target_arch = "aarch64"))]
    #[error(
        "running a guest needs an arm64 KVM host, and this quire is built for {}: `cargo lab run` sets one up on any \
         machine",
        std::env::consts::ARCH
    )]
    Architecture,
    /// The API's socket.
    #[cfg(target_arch = "aarch64")]
    #[error(transparent)]
    Api(#[from] crate::api::Error),
    /// The handle of the machine.
    #[cfg(target_arch = "aarch64")]
    #[error("can't create the machine's event: {0}")]
    Event(io::Error),
    /// The machine.
    #[cfg(target_arch = "aarch64")]
    #[error(transparent)]
    Machine(#[from] crate::machine::Error),
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Read { .. } | Self::TooLarge { .. } | Self::File { .. } | Self::Config(_) => 2,
            #[cfg(not(target_arch = "aarch64"))]
            Self::Architecture => 1,
            #[cfg(target_arch = "aarch64")]
            Self::Api(_) | Self::Event(_) | Self::Machine(_) => 1,
        }
    }
}

impl RunArgs {
    /// Runs the guest to its end.
    ///
    /// # Errors
    /// [`Error`]; where the configuration is at fault, before anything has been started.
    pub fn run(&self, start: Start) -> Result<ExitCode, Error> {
        let config = self.config()?;
        tracing::debug!(?config, "assembled the configuration");
        self.run_machine(&config, start)
    }

    /// What the configuration file and the command line say together, validated.
    ///
    /// # Errors
    /// Everything but the last two of [`Error`].
    pub fn config(&self) -> Result<VmConfig, Error> {
        let base = match &self.config {
            Some(path) => VmConfig::from_json(&read(path)?)
                .map_err(|source| Error::File { path: path.clone(), source })?,
            None => VmConfig::default(),
        };
        let config = self.over(base);
        config.validate()?;
        Ok(config)
    }

    /// The command line over what a file says: each option that is given replaces the whole value of the
    /// file, and any `--disk` replaces all of its disks.
    fn over(&self, base: VmConfig) -> VmConfig {
        VmConfig {
            kernel: self.kernel.clone().or(base.kernel),
            initrd: self.initrd.clone().or(base.initrd),
            cmdline: self.cmdline.clone().or(base.cmdline),
            cpus: self.cpus.unwrap_or(base.cpus),
            el2: self.el2.unwrap_or(base.el2),
            memory: self.memory.clone().unwrap_or(base.memory),
            disks: if self.disk.is_empty() { base.disks } else { self.disk.clone() },
            balloon: self.balloon.clone().or(base.balloon),
            track: self.track.unwrap_or(base.track),
            console: self.console.clone().unwrap_or(base.console),
            api_sock: self.api_sock.clone().or(base.api_sock),
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn run_machine(&self, config: &VmConfig, start: Start) -> Result<ExitCode, Error> {
        use std::sync::Arc;

        use crate::api::Server;
        use crate::machine::{self, Outcome, control::Control, timing::Timeline};
        use crate::say::say;

        let timeline = Arc::new(Timeline::new(start.main, start.before));
        let control = Control::new(config.clone()).map_err(Error::Event)?;
        // Before anything that takes long: a path that can't be had is said at once.
        let server =
            config.api_sock.as_deref().map(|path| Server::start(path, control.clone())).transpose()?;
        let ended = machine::run(&control, &timeline);
        if self.timing {
            say(format_args!("{timeline}"));
        }
        let ended = ended?;
        // A guest that powers itself off has said so; one that was stopped has not. Said before its memory goes: how
        // long that takes depends on how much there is.
        match &ended.outcome {
            Ok(Outcome::PowerOff) => tracing::info!("the guest powered itself off"),
            Ok(Outcome::Signal(signal)) => say(format_args!("quire: stopped the guest on {signal}\n")),
            Ok(Outcome::Asked) => say(format_args!("quire: stopped the guest as the API asked for it\n")),
            Ok(Outcome::Quit) => say(format_args!("quire: stopped the guest on Ctrl-A x\n")),
            Err(_) => {}
        }
        // Nobody asks for a memory that is about to go.
        drop(server);
        ended.tear_down().map_err(Error::Machine)?;
        Ok(ExitCode::SUCCESS)
    }

    #[cfg(not(target_arch = "aarch64"))]
    fn run_machine(&self, _: &VmConfig, _: Start) -> Result<ExitCode, Error> {
        Err(Error::Architecture)
    }
}

/// Reads a configuration file, which may be a device that never ends.
fn read(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CONFIG_SIZE + 1).read_to_string(&mut text))
        .map_err(|source| Error::Read { path: path.into(), source })?;
    if text.len() as u64 > MAX_CONFIG_SIZE {
        return Err(Error::TooLarge { path: path.into() });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::{Backing, BlockSize, Watch};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }

    fn parse(words: &[&str]) -> RunArgs {
        Line::parse_from([&["run"], words].concat()).args
    }

    /// The same with a configuration file.
    fn with_file(json: &str, words: &[&str]) -> Result<VmConfig, Error> {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("vm.json");
        std::fs::write(&path, json).unwrap();
        RunArgs { config: Some(path), ..parse(words) }.config()
    }

    #[test]
    fn no_option_is_the_default_vm() {
        assert_eq!(parse(&[]).config().unwrap(), VmConfig::default());
    }

    #[test]
    fn every_option_reaches_the_configuration() {
        let args = parse(&[
            "--kernel",
            "Image",
            "--initrd",
            "initrd",
            "--cmdline",
            "-x quiet",
            "--cpus",
            "4",
            "--el2=e2h0",
            "--memory",
            "3G,backing=hugetlb,block=1G,prefault=on",
            "--disk",
            "a.img",
            "--disk",
            "b.img,ro",
            "--balloon",
            "size=1G,report=on",
            "--track",
            "dirty=on,young=faults",
            "--console",
            "null",
            "--api-sock",
            "api.sock",
        ]);
        let expected = VmConfig {
            kernel: Some("Image".into()),
            initrd: Some("initrd".into()),
            cmdline: Some("-x quiet".into()),
            cpus: 4,
            el2: El2::E2h0,
            memory: MemoryConfig {
                size: 3 << 30,
                backing: Backing::Hugetlb,
                block: BlockSize::Size1G,
                prefault: true,
            },
            disks: vec![
                DiskConfig { path: "a.img".into(), read_only: false },
                DiskConfig { path: "b.img".into(), read_only: true },
            ],
            balloon: Some(BalloonConfig { size: 1 << 30, report: true, ..BalloonConfig::default() }),
            track: TrackConfig { dirty: true, young: Watch::Faults },
            console: ConsoleConfig::Null,
            api_sock: Some("api.sock".into()),
        };
        assert_eq!(args.config().unwrap(), expected);
    }

    #[test]
    fn a_balloon_needs_no_value() {
        let config = parse(&["--balloon", "--cpus", "2"]).config().unwrap();
        assert_eq!((config.balloon, config.cpus), (Some(BalloonConfig::default()), 2));
    }

    #[test]
    fn the_command_line_overrides_the_file_value_by_value() {
        let json = r#"{ "kernel": "Image", "cpus": 4, "memory": "1G,backing=memfd",
                        "disks": ["a.img", "b.img"], "console": "pty", "api_sock": "a.sock" }"#;
        let config = with_file(json, &["--cpus", "2", "--memory", "2G", "--disk", "c.img,ro"]).unwrap();
        let expected = VmConfig {
            kernel: Some("Image".into()),
            cpus: 2,
            memory: MemoryConfig { size: 2 << 30, ..MemoryConfig::default() },
            disks: vec![DiskConfig { path: "c.img".into(), read_only: true }],
            console: ConsoleConfig::Pty,
            api_sock: Some("a.sock".into()),
            ..VmConfig::default()
        };
        assert_eq!(config, expected);
        assert_eq!(with_file(json, &[]).unwrap().disks.len(), 2);
    }

    #[test]
    fn a_value_that_is_overridden_need_not_be_valid() {
        assert!(matches!(with_file(r#"{ "cpus": 0 }"#, &[]), Err(Error::Config(config::Error::CpusZero))));
        assert_eq!(with_file(r#"{ "cpus": 0 }"#, &["--cpus", "1"]).unwrap(), VmConfig::default());
    }

    #[test]
    fn a_file_that_is_no_configuration_is_named() {
        let refused = with_file("{ \"cpu\": 1 }", &[]).unwrap_err();
        assert!(matches!(&refused, Error::File { source: config::Error::UnknownKey { .. }, .. }));
        assert!(refused.to_string().ends_with("vm.json"));
        let endless = RunArgs { config: Some("/dev/zero".into()), ..RunArgs::default() };
        assert!(matches!(endless.config(), Err(Error::TooLarge { .. })));
        let missing = RunArgs { config: Some("/nowhere".into()), ..RunArgs::default() };
        assert!(matches!(missing.config(), Err(Error::Read { .. })));
    }
}
