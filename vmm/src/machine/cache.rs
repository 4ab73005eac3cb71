//! The caches that a vCPU says it has, as the device tree describes them.
//!
//! Linux counts the caches in CLIDR_EL1 (DDI 0487, CLIDR_EL1) and looks for each of them in the tree;
//! where one is missing it takes none and complains. So the tree follows the register, which KVM keeps
//! simpler than the host's, and takes sizes from the host where it has a cache of that level and type.

use std::fs;
use std::path::Path;

/// Where the host describes its caches.
pub const HOST: &str = "/sys/devices/system/cpu/cpu0/cache";

/// The levels that CLIDR_EL1 has room for.
const LEVELS: u32 = 7;

/// The type of a cache, by its number in CLIDR_EL1.Ctype; 3 is the first two side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Instructions only (1).
    Instruction,
    /// Data only (2).
    Data,
    /// Both in one (4).
    Unified,
}

/// How large a cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in all.
    pub size: u32,
    /// Bytes per line, where known.
    pub line: Option<u32>,
    /// Sets, where known.
    pub sets: Option<u32>,
}

/// The caches of one level; the first is that next to the CPU.
pub type Level = Vec<(Kind, Option<Geometry>)>;

/// The levels of a vCPU whose CLIDR_EL1 is `clidr`, with sizes from the folder `host`, laid out as
/// [`HOST`]. Empty where a size is not known that Linux needs to count the level: it tells that a level
/// has an instruction or a data cache by its size alone.
pub fn levels(clidr: u64, host: &Path) -> Vec<Level> {
    let mut levels = Vec::new();
    for level in 1..=LEVELS {
        let kinds: &[Kind] = match clidr >> (3 * (level - 1)) & 7 {
            1 => &[Kind::Instruction],
            2 => &[Kind::Data],
            3 => &[Kind::Data, Kind::Instruction],
            4 => &[Kind::Unified],
            _ => break,
        };
        let caches: Level = kinds.iter().map(|&kind| (kind, geometry(host, level, kind))).collect();
        if caches.iter().any(|(kind, geometry)| *kind != Kind::Unified && geometry.is_none()) {
            return Vec::new();
        }
        levels.push(caches);
    }
    levels
}

/// What the host says of its cache of this level and type.
fn geometry(host: &Path, level: u32, kind: Kind) -> Option<Geometry> {
    let word = match kind {
        Kind::Instruction => "Instruction",
        Kind::Data => "Data",
        Kind::Unified => "Unified",
    };
    fs::read_dir(host).ok()?.flatten().find_map(|index| {
        let read = |file: &str| Some(fs::read_to_string(index.path().join(file)).ok()?.trim().to_owned());
        let number = |file: &str| read(file)?.parse::<u32>().ok().filter(|&number| number > 0);
        if number("level")? != level || read("type")? != word {
            return None;
        }
        let kib: u32 = read("size")?.strip_suffix('K')?.parse().ok()?;
        let size = kib.checked_mul(1024).filter(|&size| size > 0)?;
        Some(Geometry { size, line: number("coherency_line_size"), sets: number("number_of_sets") })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::tempdir::TempDir;

    /// A made-up host: level, type, size.
    fn host(caches: &[(&str, &str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (index, (level, kind, size)) in caches.iter().enumerate() {
            let folder = root.as_path().join(format!("index{index}"));
            fs::create_dir(&folder).unwrap();
            for (file, text) in
                [("level", *level), ("type", *kind), ("size", *size), ("coherency_line_size", "64")]
            {
                fs::write(folder.join(file), format!("{text}\n")).unwrap();
            }
        }
        root
    }

    fn sized(size: u32) -> Option<Geometry> {
        Some(Geometry { size, line: Some(64), sets: None })
    }

    #[test]
    fn the_register_says_which_and_the_host_how_large() {
        let root = host(&[("1", "Data", "64K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K")]);
        let found = levels(0o43, root.as_path());
        let first = vec![(Kind::Data, sized(64 << 10)), (Kind::Instruction, sized(32 << 10))];
        assert_eq!(found, [first, vec![(Kind::Unified, sized(1 << 20))]]);
        // What KVM makes of a CPU whose caches need no maintenance: one unified level.
        assert_eq!(levels(0o4, root.as_path()), [vec![(Kind::Unified, None)]]);
        assert_eq!(levels(0o41, root.as_path()).len(), 2);
        assert!(levels(0, root.as_path()).is_empty());
    }

    #[test]
    fn without_a_size_only_unified_caches_are_told() {
        let missing = Path::new("/nowhere");
        assert_eq!(levels(0o4, missing), [vec![(Kind::Unified, None)]]);
        for clidr in [0o1, 0o2, 0o3, 0o43, 0o14] {
            assert!(levels(clidr, missing).is_empty(), "{clidr:#o}");
        }
    }

    #[test]
    fn sizes_that_are_none_are_not_known() {
        for size in ["0K", "many", "64", "99999999K", ""] {
            let root = host(&[("1", "Unified", size)]);
            assert_eq!(levels(0o4, root.as_path()), [vec![(Kind::Unified, None)]], "{size}");
        }
    }
}
