//! A storm on the machine: `crate::storm` says what is to be done and what each page may hold, the driver does it.

#![expect(unsafe_code, reason = "writes into memory that is owned by address")]

use core::mem::MaybeUninit;
use core::ops::Range;
use core::slice;

use arrayvec::ArrayVec;
use board::clock::Instant;
use board::ram::{PAGE_SIZE, Ram, Span};
use board::{console, say};

use crate::bare::balloon::{self, Balloon, DriverError, PFNS, RANGES};
use crate::bare::dma;
use crate::stamp::{Damage, Page, Pattern, Stamp};
use crate::storm::book::{Book, Content, Entry, LAST_GENERATION, Packed, filled};
use crate::storm::dice::Dice;
use crate::storm::plan::{Act, Pick, Step};
use crate::words;

/// Lists of page numbers that are under way at once.
const LISTS: usize = 4;
/// Pages of one batch.
const BATCH: usize = LISTS * PFNS;
/// In so many steps every page is read once, besides those that a step reads.
const SWEEP: u64 = 64;
/// Pages that a step moves towards the device's target.
const STRIDE: u64 = 2048;
/// Bad pages that are named.
const NAMED: u64 = 8;
/// Bytes of the largest piece of a report or hint: what Linux reports at once is as large.
const PIECE: u64 = 4 << 20;

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

    fn must_tell(&self) -> bool {
        self.balloon.features() & balloon::MUST_TELL_HOST != 0
    }

    /// Puts what is owned of `ranges` into the balloon, by descending addresses where `down`.
    fn inflate(&mut self, ranges: &[Range<u64>], down: bool) -> Result<(), DriverError> {
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let batch = self.gather(&mut at, range.end, Act::Inflate);
                let mut order: ArrayVec<u64, BATCH> = batch.clone();
                if down {
                    order.reverse();
                }
                send(&self.book, &order, |lists| self.balloon.inflate(lists))?;
                self.counts.inflated += batch.len() as u64;
                self.put(&batch, &order);
            }
        }
        self.tell_actual()
    }

    /// Notes what has just been put into the balloon, in the order in which it was told.
    fn put(&mut self, batch: &[u64], order: &[u64]) {
        for &index in batch {
            if let Entry::Owned(content) = self.book.get(index) {
                self.book.set(index, Entry::Held(content));
            }
        }
        if self.must_tell() {
            return;
        }
        // The device is done with these pages: they hold what they will hold.
        for list in order.chunks(PFNS) {
            for &index in list {
                let Entry::Held(content) = self.book.get(index) else { continue };
                let Ok(now) = self.or_cleared(index, content) else { continue };
                self.book.set(index, Entry::Held(now));
                if now != Content::Blank && self.is_whole(index, list) {
                    self.bad(index, format_args!("kind=kept"));
                }
            }
        }
    }

    /// Whether all of the unit in which a page lies is in the list, which counts up or down.
    fn is_whole(&self, index: u64, list: &[u64]) -> bool {
        let Some(unit) = self.options.unit else { return false };
        let pages = (unit / PAGE_SIZE) as usize;
        let start = self.book.address(index) & !(unit - 1);
        let Some(at) = list.iter().position(|&other| self.book.address(other) == start) else { return false };
        let up = list.get(at..at + pages).is_some_and(|part| part.windows(2).all(|two| two[1] == two[0] + 1));
        let down = (at + 1).checked_sub(pages).and_then(|first| list.get(first..=at));
        up || down.is_some_and(|part| part.windows(2).all(|two| two[0] == two[1] + 1))
    }

    /// Takes what the balloon has of `ranges` out of it; where `early`, and the contract allows it, pages are
    /// written before the device is told.
    fn deflate(&mut self, ranges: &[Range<u64>], early: bool) -> Result<(), DriverError> {
        let early = early && !self.must_tell();
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let batch = self.gather(&mut at, range.end, Act::Deflate);
                if early {
                    let generation = self.next_generation();
                    batch.iter().for_each(|&index| self.write(index, generation));
                }
                send(&self.book, &batch, |lists| self.balloon.deflate(lists))?;
                self.counts.deflated += batch.len() as u64;
                for &index in &batch {
                    if early {
                        self.check(index..index + 1);
                    } else {
                        self.learn(index);
                    }
                }
            }
        }
        self.tell_actual()
    }

    /// Moves towards what the device wants.
    fn follow(&mut self, dice: &mut Dice) -> Result<(), DriverError> {
        let (held, target) = (self.book.held(), u64::from(self.balloon.target()));
        let (act, mut left) = if held < target {
            (Act::Inflate, (target - held).min(STRIDE))
        } else {
            (Act::Deflate, (held - target).min(STRIDE))
        };
        let mut from = dice.below(self.book.len());
        while left > 0 {
            let Some(start) = self.book.find(from, |entry| act.suits(entry)) else { break };
            let more = self.book.clip(start..start + left);
            let end = more.clone().find(|&index| !act.suits(self.book.get(index))).unwrap_or(more.end);
            let range = start..end;
            left -= end - start;
            from = end;
            match act {
                Act::Inflate => self.inflate(slice::from_ref(&range), false)?,
                _ => self.deflate(slice::from_ref(&range), false)?,
            }
        }
        Ok(())
    }

    fn tell_actual(&mut self) -> Result<(), DriverError> {
        self.balloon.set_actual(self.book.held() as u32)
    }

    /// Reports what is owned of `pick`, and looks what has become of it.
    fn report(&mut self, pick: &Pick) -> Result<(), DriverError> {
        let pieces = self.pieces(pick);
        if self.balloon.features() & balloon::PAGE_REPORTING == 0 || pieces.is_empty() {
            return Ok(());
        }
        let poison = self.balloon.features() & balloon::PAGE_POISON != 0;
        let word = u64::from(self.poison) << 32 | u64::from(self.poison);
        if poison {
            for index in pieces.iter().flat_map(Clone::clone) {
                self.page(index).fill(word);
                self.book.set(index, Entry::Owned(Content::Blank));
            }
        }
        let spans: ArrayVec<Span, RANGES> = pieces.iter().map(|piece| self.span(piece)).collect();
        // SAFETY: mapped pages that this storm owns, on its only CPU, and that are looked at anew below.
        let Some(mut used) = (unsafe { self.balloon.report(&spans) })?.map(u64::from) else { return Ok(()) };
        for index in pieces.iter().flat_map(Clone::clone) {
            self.counts.reported += 1;
            let is_used = used >= PAGE_SIZE;
            used = used.saturating_sub(PAGE_SIZE);
            if poison {
                if let Err(damage) = filled(self.page(index), word) {
                    self.bad(index, format_args!("{damage}"));
                }
                if word != 0 {
                    // Whoever takes a free page writes it.
                    let generation = self.next_generation();
                    self.write(index, generation);
                }
                continue;
            }
            self.learn(index);
            if is_used && self.book.get(index) != Entry::Owned(Content::Blank) {
                self.bad(index, format_args!("kind=used-not-cleared"));
            }
        }
        Ok(())
    }

    /// Hints what is owned of `pick`, then uses it again.
    fn hint(&mut self, id: u32, pick: &Pick) -> Result<(), DriverError> {
        let pieces = self.pieces(pick);
        let spans: ArrayVec<Span, RANGES> = pieces.iter().map(|piece| self.span(piece)).collect();
        // SAFETY: as in `report`.
        unsafe { self.balloon.hint(id, &spans) }?;
        for piece in pieces {
            self.counts.hinted += piece.end - piece.start;
            for index in piece.clone() {
                self.learn(index);
            }
            // Until the device is done with its round it may clear what was not written since.
            self.stamp(piece);
        }
        Ok(())
    }

    /// Checks what is owned of `pick`, and, where it may be looked at, what the balloon has.
    fn read(&mut self, pick: &Pick) {
        for range in pick {
            self.check(range.clone());
        }
    }

    /// Checks the next part of all memory.
    fn sweep(&mut self) {
        let (start, len) = (self.sweep, self.book.len());
        let end = (start + len.div_ceil(SWEEP)).min(len);
        self.check(start..end);
        self.sweep = if end == len { 0 } else { end };
    }

    /// The next pages up to `end` that suit `act`, as many as one batch takes.
    fn gather(&self, at: &mut u64, end: u64, act: Act) -> ArrayVec<u64, BATCH> {
        let mut batch = ArrayVec::new();
        while *at < end && !batch.is_full() {
            if act.suits(self.book.get(*at)) {
                batch.push(*at);
            }
            *at += 1;
        }
        batch
    }

    /// What is owned of `pick`, in pieces without gaps, as many as one report takes; each page once.
    fn pieces(&self, pick: &Pick) -> ArrayVec<Range<u64>, RANGES> {
        let mut pieces = ArrayVec::<Range<u64>, RANGES>::new();
        for index in pick.iter().flat_map(Clone::clone) {
            if !matches!(self.book.get(index), Entry::Owned(_))
                || pieces.iter().any(|piece| piece.contains(&index))
            {
                continue;
            }
            let grows =
                |last: &&mut Range<u64>| last.end == index && (last.end - last.start) * PAGE_SIZE < PIECE;
            if let Some(last) = pieces.last_mut().filter(grows) {
                last.end += 1;
            } else if pieces.try_push(index..index + 1).is_err() {
                break;
            }
        }
        pieces
    }

    fn span(&self, piece: &Range<u64>) -> Span {
        Span { start: self.book.address(piece.start), end: self.book.address(piece.end) }
    }

    /// Writes a new generation into what is owned of a range.
    fn stamp(&mut self, range: Range<u64>) {
        let generation = self.next_generation();
        for index in range {
            if matches!(self.book.get(index), Entry::Owned(_)) {
                self.write(index, generation);
            }
        }
    }

    fn next_generation(&mut self) -> u32 {
        if self.generation == LAST_GENERATION {
            self.fail(format_args!("{LAST_GENERATION} batches of stamps are all that the book can count"));
        }
        self.generation += 1;
        self.generation
    }

    fn write(&mut self, index: u64, generation: u32) {
        let stamp =
            Stamp { address: self.book.address(index), generation: generation.into(), pattern: self.pattern };
        stamp.write(self.page(index));
        self.book.set(index, Entry::Owned(Content::Stamped(generation)));
        self.counts.stamped += 1;
    }

    /// Checks every page of a range whose content is known: what is owned, and what the balloon has where the
    /// device is done with it.
    fn check(&mut self, range: Range<u64>) {
        let held_too = !self.must_tell();
        for index in range {
            let content = match self.book.get(index) {
                Entry::Owned(content) => content,
                // Reading brings memory back that was given away: a few are enough.
                Entry::Held(content) if held_too && index % 61 == self.number % 61 => content,
                _ => continue,
            };
            self.counts.checked += 1;
            if let Err(damage) = content.check(self.book.address(index), self.pattern, self.page(index)) {
                self.bad(index, format_args!("{damage}"));
            }
        }
    }

    /// Owns a page that may have been cleared, and notes what it holds.
    fn learn(&mut self, index: u64) {
        let (Entry::Owned(content) | Entry::Held(content)) = self.book.get(index) else { return };
        let now = self.or_cleared(index, content).unwrap_or(content);
        self.book.set(index, Entry::Owned(now));
    }

    /// What a page holds that may have been cleared; reports it where that is neither.
    fn or_cleared(&mut self, index: u64, content: Content) -> Result<Content, Damage> {
        self.counts.checked += 1;
        let now = content.or_cleared(self.book.address(index), self.pattern, self.page(index));
        match now {
            Ok(Content::Blank) => self.counts.cleared += 1,
            Ok(_) => self.counts.kept += 1,
            Err(damage) => self.bad(index, format_args!("{damage}")),
        }
        now
    }

    fn page(&mut self, index: u64) -> &mut Page {
        // SAFETY: a whole mapped page of the memory that the storm was given, on the only CPU that uses it.
        unsafe { &mut *(self.book.address(index) as *mut Page) }
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

/// Sends pages as lists of page numbers.
fn send(
    book: &Book<'_>,
    pages: &[u64],
    send: impl FnOnce(&[&[u8]]) -> Result<(), DriverError>,
) -> Result<(), DriverError> {
    if pages.is_empty() {
        return Ok(());
    }
    let mut bytes = ArrayVec::<u8, { BATCH * 4 }>::new();
    for &index in pages {
        // 32 bits hold the number of any page below 16 TiB; there is no more.
        bytes.extend(((book.address(index) / PAGE_SIZE) as u32).to_le_bytes());
    }
    let lists: ArrayVec<&[u8], LISTS> = bytes.chunks(PFNS * 4).collect();
    send(&lists)
}
