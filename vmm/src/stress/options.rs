//! What storm is wanted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{self, Backing, BalloonConfig, ConsoleConfig, MemoryConfig, VmConfig};

/// The most VMs: each takes a handful of threads and descriptors.
pub const MOST_VMS: u32 = 64;

/// A storm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What everything follows from.
    pub seed: u64,
    /// How long it goes on; the built-in guest ends with the step that it is in.
    pub length: Duration,
    /// Steps after which it ends before that.
    pub steps: Option<u64>,
    /// How many VMs at once.
    pub vms: u32,
    /// Of each of them.
    pub memory: MemoryConfig,
    /// Of each of them.
    pub cpus: u32,
    /// Of each of them.
    pub balloon: BalloonConfig,
    /// Who runs in them.
    pub guest: Guest,
    /// The most of the host's memory that is used beside them to press it, in bytes.
    pub pressure: u64,
}

/// Who runs in the VMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guest {
    /// The stamper.
    BuiltIn,
    /// A Linux kernel with its virtio-balloon driver; whatever its init does, it must go on doing.
    Linux {
        /// Its kernel.
        kernel: PathBuf,
        /// Its initial RAM disk.
        initrd: Option<PathBuf>,
        /// Its command line.
        cmdline: Option<String>,
    },
}

impl Options {
    /// The balloon of a storm: everything is offered.
    pub fn balloon() -> BalloonConfig {
        BalloonConfig { stats: 1, report: true, hint: true, deflate_on_oom: true, ..BalloonConfig::default() }
    }

    /// The seed of one of the VMs.
    pub fn seed_of(&self, index: u32) -> u64 {
        self.seed.wrapping_add(index.into())
    }

    /// What a person types to see one of the VMs fail once more, alone, up to the step at which it did; `None` for a
    /// Linux guest, which takes its own time.
    pub fn again(&self, seed: u64, step: Option<u64>) -> Option<String> {
        if self.guest != Guest::BuiltIn {
            return None;
        }
        let Self { memory, cpus, balloon, pressure, .. } = self;
        let steps = step.or(self.steps).map(|steps| format!(" --steps {steps}")).unwrap_or_default();
        Some(format!(
            "quire stress balloon --seed {seed}{steps} --seconds {} --memory {} --cpus {cpus} --balloon {} --pressure {}",
            self.length.as_secs(),
            quoted(&memory.to_string()),
            quoted(&balloon.to_string()),
            pressure >> 20,
        ))
    }

    /// How far ledger and host may be apart, in bytes for each VM: the ledger is asked a moment before the
    /// host is, and khugepaged may make a block of pages meanwhile; a file system keeps blocks of its own.
    pub fn tolerance(&self) -> u64 {
        let blocks = 2 * (2 << 20);
        match self.memory.backing {
            Backing::File(_) => blocks + self.memory.size / 64,
            _ => blocks,
        }
    }

    /// The configuration of one VM; its console goes to `console`.
    ///
    /// # Errors
    /// What [`VmConfig::validate`] finds.
    pub fn config(&self, index: u32, console: &Path, page: u64) -> Result<VmConfig, config::Error> {
        let (kernel, initrd, cmdline) = match &self.guest {
            Guest::BuiltIn => (None, None, Some(self.words(index, page))),
            Guest::Linux { kernel, initrd, cmdline } => {
                (Some(kernel.clone()), initrd.clone(), cmdline.clone())
            }
        };
        let mut memory = self.memory.clone();
        if let Backing::File(path) = &mut memory.backing
            && self.vms > 1
        {
            // Each has a file of its own.
            let mut name = path.clone().into_os_string();
            name.push(format!(".{index}"));
            *path = name.into();
        }
        let config = VmConfig {
            kernel,
            initrd,
            cmdline,
            cpus: self.cpus,
            memory,
            balloon: Some(self.balloon.clone()),
            console: ConsoleConfig::File(console.to_owned()),
            ..VmConfig::default()
        };
        config.validate()?;
        Ok(config)
    }

    /// The command line of the built-in guest. `page` is the host's page size.
    fn words(&self, index: u32, page: u64) -> String {
        let seconds = self.length.as_secs().max(1);
        let steps = self.steps.unwrap_or(u64::MAX);
        let mut words =
            format!("storm seed={} steps={steps} seconds={seconds} every=16", self.seed_of(index));
        // What is put into the balloon whole is cleared at once where the contract asks for it; a huge page is more
        // than one descriptor names, and a file system may not know how to give a part of a file back.
        if matches!(self.memory.backing, Backing::Anon | Backing::Memfd) {
            words.push_str(&format!(" unit={page}"));
        }
        words
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "=,:./_-+".contains(char);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            seed: 7,
            length: Duration::from_secs(3),
            steps: None,
            vms: 2,
            memory: MemoryConfig { size: 128 << 20, ..MemoryConfig::default() },
            cpus: 1,
            balloon: Options::balloon(),
            guest: Guest::BuiltIn,
            pressure: 0,
        }
    }

    #[test]
    fn each_vm_has_a_seed_of_its_own_that_replays_it_alone() {
        let config = options().config(1, Path::new("/dev/null"), 4096).unwrap();
        let alone = Options { seed: 8, vms: 1, ..options() }.config(0, Path::new("/dev/null"), 4096).unwrap();
        assert_eq!(config, alone);
        let words = config.cmdline.unwrap();
        assert_eq!(words, format!("storm seed=8 steps={} seconds=3 every=16 unit=4096", u64::MAX));
    }

    #[test]
    fn steps_end_a_storm_before_its_time() {
        let options = Options { steps: Some(17), ..options() };
        let config = options.config(0, Path::new("/dev/null"), 16384).unwrap();
        assert_eq!(config.cmdline.unwrap(), "storm seed=7 steps=17 seconds=3 every=16 unit=16384");
    }

    #[test]
    fn vms_share_no_file() {
        let memory = MemoryConfig { backing: Backing::File("/tmp/ram".into()), ..options().memory };
        let options = Options { memory, ..options() };
        let backing = |index| options.config(index, Path::new("/dev/null"), 4096).unwrap().memory.backing;
        assert_eq!(backing(0), Backing::File("/tmp/ram.0".into()));
        assert_ne!(backing(0), backing(1));
        assert!(options.tolerance() > 4 << 20);
    }

    #[test]
    fn what_fails_is_seen_again_by_what_is_printed() {
        let memory = MemoryConfig { backing: Backing::File("/tmp/it's".into()), ..options().memory };
        let options = Options { memory, pressure: 5 << 20, ..options() };
        assert_eq!(
            options.again(8, Some(17)).unwrap(),
            "quire stress balloon --seed 8 --steps 17 --seconds 3 --memory '128M,backing=file:/tmp/it'\\''s' --cpus 1 \
             --balloon size=0,stats=1,report=on,hint=on,deflate-on-oom=on --pressure 5"
        );
        let linux = Guest::Linux { kernel: "Image".into(), initrd: None, cmdline: None };
        assert_eq!(Options { guest: linux, ..options }.again(8, Some(17)), None);
    }

    #[test]
    fn a_linux_guest_is_booted_as_it_is() {
        let guest = Guest::Linux { kernel: "Image".into(), initrd: Some("initrd".into()), cmdline: None };
        let config = Options { guest, ..options() }.config(0, Path::new("/dev/null"), 4096).unwrap();
        assert_eq!(config.kernel, Some("Image".into()));
        assert_eq!((config.initrd, config.cmdline), (Some("initrd".into()), None));
    }
}
