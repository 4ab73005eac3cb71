//! A dump in the style of the kernel's (`/sys/kernel/debug/kvm/*/stage2_page_tables`): one line for every
//! stretch of leaves of one size that say the same. `cargo run -p stage2 --example dump`
//!
//! | column | |
//! |---|---|
//! | range, size | input addresses, as one leaf after the other covers them |
//! | level | `PTE`, `PMD`, `PUD`, `P4D`, `PGD` by number of levels above the page |
//! | `R W X U` | readable, writable, executable by EL1 (`X`), by EL0 (`U`) |
//! | `AF`, `D` | accessed, dirty |
//! | `CON` | contiguous groups |
//! | `BLK` | blocks |
//! | memory | type, and shareability |

use std::error::Error;
use std::fmt;
use std::ops::Range;

use stage2::{
    Attributes, Clear, Config, Execute, Executor, Existing, Frames, G4K, Granule, HeapFrames, Leaf, Level,
    Marker, Memory, NoMmu, Shareability, Tables,
};

/// Leaves of one size that say the same, one after the other.
#[derive(PartialEq)]
struct Line {
    range: Range<u64>,
    level: Level,
    contiguous: bool,
    attributes: Attributes,
}

impl Line {
    fn new<G: Granule>(leaf: &Leaf, config: &Config<G>) -> Self {
        Self {
            range: leaf.range(),
            level: leaf.level,
            contiguous: leaf.is_group(),
            attributes: leaf.attributes(config),
        }
    }

    /// Takes in `next` if it goes on where this ends, and says the same.
    fn extend(&mut self, next: &Self) -> bool {
        let follows = self.range.end == next.range.start
            && (self.level, self.contiguous, self.attributes)
                == (next.level, next.contiguous, next.attributes);
        if follows {
            self.range.end = next.range.end;
        }
        follows
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let a = &self.attributes;
        let flag = |on: bool, name: &'static str| if on { name } else { "" };
        let el1 = matches!(a.execute, Execute::Any | Execute::El1);
        let el0 = matches!(a.execute, Execute::Any | Execute::El0);
        let memory = match a.memory {
            Memory::WriteBack => "MEM/NORMAL",
            Memory::NonCacheable => "MEM/NORMAL-NC",
            Memory::Stage1 => "MEM/STAGE1",
            Memory::DevicenGnRnE => "DEVICE/nGnRnE",
            Memory::DevicenGnRE => "DEVICE/nGnRE",
            Memory::DevicenGRE => "DEVICE/nGRE",
            Memory::DeviceGRE => "DEVICE/GRE",
        };
        let shared = match a.shareability {
            Shareability::Non => "",
            Shareability::Outer => "OSH",
            Shareability::Inner => "ISH",
        };
        write!(
            f,
            "{:#018x}-{:#018x} {:>8} {:<3} {:1} {:1} {:1} {:1} {:2} {:1} {:3} {:3} {:3} {memory}",
            self.range.start,
            self.range.end,
            Size(self.range.end - self.range.start).to_string(),
            name(self.level),
            flag(a.read, "R"),
            flag(a.write, "W"),
            flag(el1, "X"),
            flag(el0, "U"),
            flag(a.young, "AF"),
            flag(a.dirty, "D"),
            flag(self.contiguous, "CON"),
            flag(!self.level.is_last(), "BLK"),
            shared,
        )
    }
}

/// The kernel's name of a level.
fn name(level: Level) -> &'static str {
    match level.number() {
        3 => "PTE",
        2 => "PMD",
        1 => "PUD",
        0 => "P4D",
        _ => "PGD",
    }
}

/// Bytes in the largest unit that leaves no rest.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["", "K", "M", "G", "T", "P"];
        let steps = (self.0.trailing_zeros() / 10).min(5);
        write!(f, "{}{}", self.0 >> (10 * steps), units[steps as usize])
    }
}

/// Prints what `tables` translate.
fn dump<G: Granule, F: Frames, E: Executor>(tables: &Tables<G, F, E>) -> Result<(), stage2::Error> {
    let mut line: Option<Line> = None;
    tables.leaves(tables.whole(), |leaf| {
        let next = Line::new(&leaf, tables.config());
        if !line.as_mut().is_some_and(|line| line.extend(&next))
            && let Some(done) = line.replace(next)
        {
            println!("{done}");
        }
    })?;
    if let Some(done) = line {
        println!("{done}");
    }
    println!("{} of table frames, start level {:?}", Size(tables.frame_bytes()), tables.config().start());
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    let config = Config::<G4K>::passive(36)?;
    let mut tables = Tables::new(config, HeapFrames::<G4K>::new(), NoMmu)?;

    // 3.5 GiB of RAM, a device, and some of what happens to them.
    tables.map(GIB..4 * GIB + GIB / 2, 0, &Attributes::RAM, Existing::Refuse)?;
    tables.map(0x0900_0000..0x0900_1000, 0x0900_0000, &Attributes::DEVICE, Existing::Refuse)?;
    tables.write_protect(2 * GIB..2 * GIB + 3 * MIB, |_| {})?;
    tables.mark(GIB + 64 * MIB..GIB + 66 * MIB, stage2::Marks { young: true, dirty: true })?;
    tables.get_and_clear(3 * GIB..3 * GIB + 40 * MIB, Clear::leaving(Marker::Released), |_| {})?;
    tables.get_and_clear(GIB + 20 * 4096..GIB + 21 * 4096, Clear::default(), |_| {})?;
    dump(&tables)?;
    Ok(())
}
