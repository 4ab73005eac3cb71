//! The step `monitor`: `stage2` under the MMUs of several CPUs, bare on QEMU's board with EL2.

use std::path::PathBuf;

use super::here;
use super::steps::Check;
use super::tally::End;
use crate::error::Result;
use crate::host::Stream;
use crate::monitor::{Board, SILENCE};
use crate::qemu::Qemu;
use crate::tap::Reader;

/// What each board adds: everything that stage 2 can have, with CPUs that truly run at once, and again with
/// thousands of rounds of each race, one CPU at a time; no BBM, TTL or range invalidation; a small physical
/// address; no VHE, and nothing that hardware does by itself.
const BOARDS: [(&str, u32, bool, u32); 5] = [
    ("max", 2, true, 20),
    ("max", 3, false, 2000),
    ("neoverse-n1", 3, false, 500),
    ("cortex-a710", 3, false, 100),
    ("cortex-a72", 3, false, 500),
];

impl Check<'_> {
    /// Boots the monitor on each board.
    pub(super) fn monitor(&mut self, image: Result<PathBuf>) {
        self.tally.step("monitor", "stage2 under the MMU, bare at EL2 on emulated boards");
        let (qemu, image) = match Qemu::set_up(self.setup).and_then(|qemu| Ok((qemu, image?))) {
            Ok(parts) => parts,
            Err(error) => return self.tally.fail("monitor: build", &error.to_string()),
        };
        for (cpu, cpus, concurrent, rounds) in BOARDS {
            let words = format!("rounds={rounds}");
            let board = Board { cpu: cpu.into(), cpus, concurrent, counting: false, words };
            let (mut reader, mut complaint) = (Reader::default(), Vec::new());
            let end =
                here::run(&mut board.command(&qemu, &image), SILENCE, &mut |stream, piece| match stream {
                    Stream::Output => drop(reader.feed(piece)),
                    Stream::Error => complaint.extend_from_slice(piece),
                });
            let name = format!("monitor on {}", board.name());
            match end {
                Ok(End::Code(0)) => {}
                Ok(end) => {
                    self.tally.fail(&name, &format!("{end:?}: {}", String::from_utf8_lossy(&complaint)))
                }
                Err(error) => self.tally.fail(&name, &error.to_string()),
            }
            self.tally.tap(&name, &reader);
        }
    }
}
