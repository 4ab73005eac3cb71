//! What can be checked of a VM without looking at a host.

use std::path::Path;

use super::{Backing, BalloonConfig, BlockSize, ConsoleConfig, Error, MemoryConfig, VmConfig};

/// The longest kernel command line in bytes: arm64's COMMAND_LINE_SIZE of 2048 with its final NUL.
pub const MAX_CMDLINE: usize = 2047;

/// The most vCPUs that KVM runs on arm64 (VGIC_V3_MAX_CPUS); what a host allows may be less.
pub const MAX_CPUS: u32 = 512;

/// The largest IPA space of the architecture in bytes (52 bits; DDI 0487, D8.1.8).
const LARGEST_IPA_SPACE: u64 = 1 << 52;

impl VmConfig {
    /// Checks everything that can be checked without looking at the host.
    ///
    /// # Errors
    /// The first thing that is wrong, in the order of the fields.
    pub fn validate(&self) -> Result<(), Error> {
        if self.initrd.is_some() && self.kernel.is_none() {
            return Err(Error::InitrdWithoutKernel);
        }
        if let Some(cmdline) = &self.cmdline {
            validate_cmdline(cmdline)?;
        }
        match self.cpus {
            0 => return Err(Error::CpusZero),
            1..=MAX_CPUS => {}
            cpus => return Err(Error::CpusTooMany { cpus }),
        }
        self.memory.validate()?;
        if let Some(balloon) = &self.balloon {
            balloon.validate(self.memory.size)?;
        }
        self.validate_paths()
    }

    /// No path is empty, and no file that something writes has a second role.
    fn validate_paths(&self) -> Result<(), Error> {
        let roles = self.roles();
        for (index, role) in roles.iter().enumerate() {
            if role.path.as_os_str().is_empty() {
                return Err(Error::EmptyPath { what: role.name });
            }
            let path = plain(role.path);
            for earlier in &roles[..index] {
                if plain(earlier.path) != path {
                    continue;
                }
                if role.name == "disk" && earlier.name == "disk" {
                    return Err(Error::DiskTwice { path: role.path.into() });
                }
                if role.written || earlier.written {
                    return Err(Error::PathTwice {
                        path: role.path.into(),
                        first: earlier.name,
                        second: role.name,
                    });
                }
            }
        }
        Ok(())
    }

    /// Every file that the VM names, and what it does with it.
    fn roles(&self) -> Vec<Role<'_>> {
        let mut roles = Vec::new();
        let mut add = |name, path, written| roles.push(Role { name, path, written });
        if let Some(kernel) = &self.kernel {
            add("kernel", kernel.as_path(), false);
        }
        if let Some(initrd) = &self.initrd {
            add("initrd", initrd, false);
        }
        match &self.memory.backing {
            Backing::File(path) => add("backing file", path, true),
            Backing::Private(path) => add("backing file", path, false),
            Backing::Anon | Backing::Memfd | Backing::Hugetlb => {}
        }
        for disk in &self.disks {
            add("disk", &disk.path, !disk.read_only);
        }
        if let ConsoleConfig::File(path) = &self.console {
            add("console file", path, true);
        }
        if let Some(path) = &self.api_sock {
            add("API socket", path, true);
        }
        roles
    }
}

/// A file that the VM names.
struct Role<'a> {
    name: &'static str,
    path: &'a Path,
    written: bool,
}

/// `./a` and `a` are the same file. Whether two different names are, only the host can tell.
fn plain(path: &Path) -> &Path {
    path.strip_prefix(".").unwrap_or(path)
}

impl MemoryConfig {
    fn validate(&self) -> Result<(), Error> {
        if self.size == 0 {
            return Err(Error::MemoryZero);
        }
        if self.size > LARGEST_IPA_SPACE {
            return Err(Error::MemoryTooLarge { size: self.size });
        }
        let hugetlb = self.backing == Backing::Hugetlb;
        if hugetlb && self.block == BlockSize::Size4K {
            return Err(Error::HugetlbBasePages);
        }
        // The smallest unit that there is, where the host is to choose.
        let smallest = if hugetlb { BlockSize::Size64K } else { BlockSize::Size4K };
        let block = self.block.bytes().or(smallest.bytes()).unwrap_or(1);
        if self.size.is_multiple_of(block) {
            return Ok(());
        }
        let divides = |block: &BlockSize| block.bytes().is_some_and(|bytes| self.size.is_multiple_of(bytes));
        Err(Error::MemoryNotBlocks {
            size: self.size,
            block,
            // No overflow: the size is at most 2^52.
            fitting: self.size.next_multiple_of(block),
            smaller: BlockSize::FIXED
                .into_iter()
                .rev()
                .filter(divides)
                .find(|block| block.bytes() >= smallest.bytes()),
        })
    }
}

impl BalloonConfig {
    fn validate(&self, memory: u64) -> Result<(), Error> {
        let size = self.size;
        if size > memory {
            return Err(Error::BalloonTooLarge { size, memory });
        }
        if size > Self::LARGEST {
            return Err(Error::BalloonUncountable { size });
        }
        if !size.is_multiple_of(Self::PAGE) {
            return Err(Error::BalloonNotPages { size, fitting: size - size % Self::PAGE });
        }
        if self.stats > Self::LONGEST_INTERVAL {
            return Err(Error::StatisticsTooSeldom { seconds: self.stats });
        }
        match self.block.bytes() {
            Some(bytes) if bytes > memory => Err(Error::BalloonBlock { block: self.block, memory }),
            _ => Ok(()),
        }
    }
}

fn validate_cmdline(cmdline: &str) -> Result<(), Error> {
    let printable = |char: char| matches!(char, ' '..='~' | '\t' | '\n');
    if let Some((offset, character)) = cmdline.char_indices().find(|(_, char)| !printable(*char)) {
        return Err(Error::CmdlineCharacter { character, offset });
    }
    if cmdline.len() > MAX_CMDLINE {
        return Err(Error::CmdlineTooLong { length: cmdline.len() });
    }
    Ok(())
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
