//! The actions of the command line, one after another.

#![expect(unsafe_code, reason = "counts resets in a page of its own")]

use arrayvec::ArrayVec;
use board::clock::{self, Instant};
use board::ram::Ram;
use board::say;
use board::{console, power};

use crate::bare::paging::Stage1;
use crate::bare::team::{Task, Team};
use crate::bare::{crash, storm};
use crate::words::{Action, Program};

/// Bytes of a line of input; a longer one is taken in pieces.
const INPUT: usize = 256;
/// How often input is looked for: often enough for a person, seldom enough for the host.
const POLL_MICROS: u64 = 1000;

/// What the actions work on.
#[derive(Debug)]
pub struct Run<'a> {
    /// The CPUs.
    pub team: Team,
    /// The tables that they use.
    pub tables: &'a mut Stage1,
    /// Whole pages of memory that they own.
    pub pages: u64,
    /// Where memory starts.
    pub memory: u64,
    /// The page that counts resets: mapped, and nobody else's.
    pub mark: u64,
    /// What a storm needs, where there is one, and the memory that it is about: what the CPUs own.
    pub storm: Option<(storm::Needs, Ram)>,
    /// The generation in memory; `None` before the first.
    pub generation: Option<u64>,
}

impl Run<'_> {
    /// Does all that the program says, and powers off.
    pub fn all(mut self, program: &Program) -> ! {
        for &action in &program.actions {
            match action {
                Action::Generations(count) => {
                    for _ in 0..count {
                        self.stamp(program.first);
                        self.verify(program.first);
                    }
                }
                Action::Stamp => self.stamp(program.first),
                Action::Verify => self.verify(program.first),
                Action::Echo => echo(),
                Action::Reset(count) => self.reset(count),
                Action::Crash(kind) => crash::crash(kind, self.memory, self.tables),
                Action::Storm => self.storm(program),
                Action::Spin => {
                    say!("spin");
                    self.team.run(Task::Spin, 0);
                }
                Action::Idle => {
                    say!("idle");
                    self.team.run(Task::Idle, 0);
                }
                Action::PowerOff => break,
            }
        }
        say!("done ok");
        power::off()
    }

    fn stamp(&mut self, first: u64) {
        let generation = match self.generation {
            None => first,
            Some(last) => last.wrapping_add(1),
        };
        let start = Instant::now();
        self.team.run(Task::Stamp, generation);
        let (pages, micros) = (self.pages, start.micros());
        say!("stamp pages={pages} generation={generation} us={micros}");
        self.generation = Some(generation);
    }

    fn verify(&mut self, first: u64) {
        let generation = *self.generation.get_or_insert(first);
        let start = Instant::now();
        let bad = self.team.run(Task::Verify, generation);
        let (pages, micros) = (self.pages, start.micros());
        say!("verify pages={pages} generation={generation} bad={bad} us={micros}");
        if bad > 0 {
            console::fail(format_args!("verify bad={bad}"));
        }
    }

    fn storm(&mut self, program: &Program) {
        let Some((needs, ram)) = &self.storm else { return };
        // SAFETY: the memory belongs to the CPUs, which wait for a job; the rest was carved for this.
        unsafe { storm::run(ram, needs, program.pattern, program.storm) };
        // What is there now is no generation of theirs.
        self.generation = None;
    }

    fn reset(&mut self, wanted: u32) {
        /// Says that a count follows, and that it was this code that wrote it.
        const MAGIC: u64 = u64::from_le_bytes(*b"STAMPRST");
        let mark = self.mark as *mut [u64; 3];
        // SAFETY: a mapped page that is ours alone. Volatile, as what is read was written before a
        // reset.
        let [magic, count, inverse] = unsafe { mark.read_volatile() };
        let known = magic == MAGIC && inverse == !count;
        let count = if known { count } else { 0 };
        if count >= u64::from(wanted) {
            return;
        }
        let count = count + 1;
        // SAFETY: as above.
        unsafe { mark.write_volatile([MAGIC, count, !count]) };
        say!("reset count={count} of={wanted}");
        console::fail(format_args!("reset refused: {}", power::reset()))
    }
}

/// Repeats lines of input.
fn echo() {
    say!("echo ready");
    let mut line = ArrayVec::<u8, INPUT>::new();
    let mut lines = 0;
    loop {
        let Some(byte) = console::receive() else {
            clock::sleep(POLL_MICROS);
            continue;
        };
        let ends = matches!(byte, b'\r' | b'\n');
        if !ends {
            line.push(byte);
        }
        // CR LF ends one line, not two.
        if line.is_empty() || !(ends || line.is_full()) {
            continue;
        }
        if ends && line.as_slice() == b"quit" {
            say!("echo lines={lines}");
            return;
        }
        say!("echo \"{}\"", line.escape_ascii());
        lines += 1;
        line.clear();
    }
}
