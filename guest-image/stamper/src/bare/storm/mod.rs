//! A storm on the machine: `crate::storm` says what is to be done and what each page may hold, the driver does it.
//!
//! | module | what it holds |
//! |---|---|
//! | `exchange` | what is given to the device and taken back |
//! | `pages` | what is written, read and checked |

#![expect(unsafe_code, reason = "the book lies in memory that is owned by address")]

use core::mem::MaybeUninit;
use core::slice;

use arrayvec::ArrayVec;
use board::clock::Instant;
use board::ram::{PAGE_SIZE, Ram, Span};
use board::{console, say};

use crate::bare::balloon::{self, Balloon, DriverError};
use crate::bare::dma;
use crate::stamp::Pattern;
use crate::storm::book::{Book, Entry, Packed};
use crate::storm::dice::Dice;
use crate::storm::plan::{Act, Pick, Step};
use crate::words;

mod exchange;
mod pages;

/// Bad pages that are named.
const NAMED: u64 = 8;

/// What a storm needs beside the memory that it is about.
#[derive(Clone, Debug)]
pub struct Needs {
    /// The windows in which a balloon may be; mapped.
    pub windows: ArrayVec<Span, { board::tree::MAX_VIRTIO }>,
    /// Pages for the virtqueues.
    queues: Span,
    /// Memory for the book.
    book: Span,
}

impl Needs {
    /// Takes what it needs out of `ram`; `None` where there is no room.
    pub fn carve(windows: ArrayVec<Span, { board::tree::MAX_VIRTIO }>, ram: &mut Ram) -> Option<Self> {
        let queues = ram.carve(dma::PAGES as u64 * PAGE_SIZE)?;
        let bytes = Book::len_for(ram) * size_of::<Packed>() as u64;
        let book = ram.carve(bytes.next_multiple_of(PAGE_SIZE))?;
        Some(Self { windows, queues, book })
    }
}

/// Sums, for the lines of progress.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    inflated: u64,
    deflated: u64,
    reported: u64,
    hinted: u64,
    stamped: u64,
    checked: u64,
    /// Pages that were cleared when they came back.
    cleared: u64,
    /// Pages that came back as they were.
    kept: u64,
    binds: u64,
}

/// A storm that is on.
#[derive(Debug)]
struct Storm<'a> {
    book: Book<'a>,
    balloon: Balloon,
    pattern: Pattern,
    options: words::Storm,
    poison: u32,
    generation: u32,
    number: u64,
    step: Option<Step>,
    sweep: u64,
    bad: u64,
    counts: Counts,
}

/// Storms, and returns when all is well.
///
/// # Safety
///
/// `ram` is mapped, as is what `needs` says, and nobody uses any of it.
pub unsafe fn run(ram: &Ram, needs: &Needs, pattern: Pattern, options: words::Storm) {
    let len = Book::len_for(ram) as usize;
    let pages = needs.book.start as *mut MaybeUninit<Packed>;
    // SAFETY: it was carved for this many of them, is mapped, and nobody else uses it.
    let pages = unsafe { slice::from_raw_parts_mut(pages, len) };
    pages.fill(MaybeUninit::new(Packed::default()));
    // SAFETY: all of them have just been written.
    let pages = unsafe { slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), len) };
    // SAFETY: these pages were carved for it.
    unsafe { dma::provide(needs.queues) };
    // SAFETY: the windows are mapped, and what is in there was left alone so far.
    let balloon = match unsafe { Balloon::find(&needs.windows) } {
        Ok(balloon) => balloon,
        Err(error) => console::fail(format_args!("storm {error}")),
    };
    let book = Book::new(ram, pages);
    Storm {
        book,
        balloon,
        pattern,
        options,
        poison: 0,
        generation: 0,
        number: 0,
        step: None,
        sweep: 0,
        bad: 0,
        counts: Counts::default(),
    }
    .all();
}

impl Storm<'_> {
    fn all(mut self) {
        let words::Storm { seed, steps, seconds, every, .. } = self.options;
        let total = self.book.owned();
        say!("storm seed={seed} steps={steps} pages={total} offered={:#x}", self.balloon.offered());
        let start = Instant::now();
        let whole = 0..self.book.len();
        self.stamp(whole.clone());
        self.bind(&mut Dice::of_step(seed, 0));
        for number in 1..=steps {
            self.number = number;
            let mut dice = Dice::of_step(seed, number);
            let step = Step::roll(&mut dice);
            self.step = Some(step);
            let pick = step.pick(&mut dice, &self.book);
            if let Err(error) = self.take(step, &pick, &mut dice) {
                self.fail(format_args!("{error}"));
            }
            self.sweep();
            self.end_on_damage();
            let over = seconds.is_some_and(|seconds| start.micros() >= seconds.saturating_mul(1_000_000));
            if number % every == 0 || over {
                self.progress(start);
            }
            if over {
                break;
            }
        }
        self.step = None;
        self.check(whole.clone());
        self.end_on_damage();
        // All of it comes back, is whole, and can be used.
        let done = self.deflate(slice::from_ref(&whole), false).and_then(|()| self.balloon.reset());
        if let Err(error) = done {
            self.fail(format_args!("{error}"));
        }
        self.check(whole.clone());
        self.stamp(whole.clone());
        self.check(whole);
        self.end_on_damage();
        let (steps, micros) = (self.number, start.micros());
        say!("storm done steps={steps} bad=0 {} us={micros}", self.sums());
    }

    /// Does one step.
    fn take(&mut self, step: Step, pick: &Pick, dice: &mut Dice) -> Result<(), DriverError> {
        match step.act {
            Act::Inflate => self.inflate(pick, dice.chance(1, 3))?,
            Act::Deflate => {
                let early = dice.chance(1, 2);
                self.deflate(pick, early)?;
            }
            Act::Follow => self.follow(dice)?,
            Act::Report => self.report(pick)?,
            Act::Hint => match self.balloon.hint_wanted() {
                Some(id) => self.hint(id, pick)?,
                None => self.read(pick),
            },
            Act::Dirty => pick.iter().for_each(|range| self.stamp(range.clone())),
            Act::Read => self.read(pick),
            Act::Rebind => self.rebind(dice)?,
        }
        let free = self.book.owned() * PAGE_SIZE;
        self.balloon.attend(free, free + self.book.held() * PAGE_SIZE)
    }

    /// Takes the device with a part of what it offers.
    fn bind(&mut self, dice: &mut Dice) {
        let mut features = self.balloon.offered();
        if dice.chance(1, 2) {
            features &= !balloon::MUST_TELL_HOST;
        }
        for bit in 1..6 {
            if dice.chance(1, 6) {
                features &= !(1 << bit);
            }
        }
        self.poison = if dice.chance(1, 3) { 0xaaaa_aaaa } else { 0 };
        if features & balloon::PAGE_POISON == 0 {
            self.poison = 0;
        }
        if let Err(error) = self.balloon.bind(features, self.poison) {
            self.fail(format_args!("{error}"));
        }
        self.counts.binds += 1;
        say!("bind step={} features={features:#x} poison={:#x}", self.number, self.poison);
    }

    /// Resets the device and takes it anew; the balloon may be full.
    fn rebind(&mut self, dice: &mut Dice) -> Result<(), DriverError> {
        let whole = 0..self.book.len();
        if dice.chance(1, 2) {
            self.deflate(slice::from_ref(&whole), false)?;
        }
        self.balloon.reset()?;
        for index in whole {
            if matches!(self.book.get(index), Entry::Held(_)) {
                self.learn(index);
            }
        }
        self.bind(dice);
        Ok(())
    }

    fn bad(&mut self, index: u64, what: core::fmt::Arguments<'_>) {
        self.bad += 1;
        if self.bad <= NAMED {
            say!(
                "bad step={} {} address={:#x} {what}",
                self.number,
                Place(self.step),
                self.book.address(index)
            );
        }
    }

    fn end_on_damage(&self) {
        if self.bad > 0 {
            self.fail(format_args!("bad={}", self.bad));
        }
    }

    fn fail(&self, what: core::fmt::Arguments<'_>) -> ! {
        let (seed, step) = (self.options.seed, self.number);
        console::fail(format_args!("storm seed={seed} step={step} {} {what}", Place(self.step)))
    }

    fn progress(&self, start: Instant) {
        let (step, held, answers) = (self.number, self.book.held(), self.balloon.answers());
        say!("storm step={step} held={held} {} answers={answers} us={}", self.sums(), start.micros());
    }

    fn sums(&self) -> impl core::fmt::Display {
        let Counts { inflated, deflated, reported, hinted, stamped, checked, cleared, kept, binds } =
            self.counts;
        core::fmt::from_fn(move |f| {
            write!(
                f,
                "inflated={inflated} deflated={deflated} reported={reported} hinted={hinted} stamped={stamped} \
                 checked={checked} cleared={cleared} kept={kept} binds={binds}"
            )
        })
    }
}

/// The step, or that it is the storm's beginning or end.
struct Place(Option<Step>);

impl core::fmt::Display for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Some(step) => step.fmt(f),
            None => f.write_str("act=all"),
        }
    }
}
