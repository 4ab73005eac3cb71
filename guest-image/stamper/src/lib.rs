//! The stamper: a bare-metal arm64 guest that fills its memory with pages that know where they
//! belong, and checks them all. A page that was lost, that is stale, or that came back with the
//! bytes of another is found and named.
//!
//! It boots like a Linux kernel (an arm64 Image, the device tree in x0), at whatever 2 MiB aligned
//! address it was loaded; takes the machine from the device tree (console, PSCI, CPUs, memory);
//! brings up every vCPU; does what its command line says; and powers the machine off.
//!
//! # Words on the command line
//!
//! Words are separated by white space. Action words are done in the order in which they stand;
//! without any, two generations are stamped and verified. An unknown word is an error.
//!
//! | action | what it does |
//! |---|---|
//! | `generations=N` | N times: stamps the next generation and verifies it |
//! | `stamp` | all vCPUs write the next generation (the first is 1) into every page |
//! | `verify` | all vCPUs check every page against the last generation; without an earlier `stamp`, against the first (`from=G`), which a run before this one may have left |
//! | `echo` | repeats each line of console input as `stamper: echo "LINE"`, until the line `quit` |
//! | `reset`, `reset=N` | resets the machine, once or N times in the life of this memory, then goes on; the count is kept in memory, so the reset must keep it |
//! | `crash=undef` | executes an undefined instruction |
//! | `crash=unmapped` | loads a word from the page below memory, where no device is |
//! | `crash=nisv` | loads a pair of registers there, which a hypervisor can't decode from the syndrome |
//! | `crash=fetch` | jumps there |
//! | `storm` | storms the balloon and checks all of its memory meanwhile: see [`storm`]; all of it has stamps of its own afterwards |
//! | `spin` | keeps every vCPU busy for ever |
//! | `idle` | lets every vCPU wait for an interrupt that never comes |
//! | `poweroff` | leaves out what follows |
//!
//! | option | what it changes |
//! |---|---|
//! | `full` | every 8 bytes of a page are written and checked, instead of its first and last cache line and one word of each line between |
//! | `from=G` | the first generation is G, not 1 |
//! | `seed=N` | what all choices of a storm follow from; 1 |
//! | `steps=N`, `seconds=N` | where a storm ends, whichever comes first; after 1000 steps |
//! | `every=N` | steps between two lines of its progress; 32 |
//! | `unit=BYTES` | what the balloon clears at once when it is put in whole, without MUST_TELL_HOST; it owes nothing |
//!
//! # Lines on the console
//!
//! Each line starts with `stamper: ` and a word, ends with CR LF, and carries `key=value` fields
//! separated by one space. Numbers are decimal, or hexadecimal after `0x`; `A+B` is a range that
//! starts at A and is B bytes long, lists are joined by commas. New fields come last.
//!
//! ```text
//! boot image=0x40000000+0x6d000 el=1 us=81    the first bytes: us is the age of the virtual counter
//! ready cpus=4 ram=0x40000000+0x20000000 pages=130988
//! stamp pages=130988 generation=1 us=12345
//! verify pages=130988 generation=1 bad=0 us=12345
//! bad address=0x40400000 kind=KIND ...        at most 8 of each vCPU and pass; see `stamp::Damage`
//! echo ready | echo "LINE" | echo lines=N
//! reset count=1 of=3                          before the reset
//! crash kind=unmapped address=0x3ffff000      before the crash
//! survived kind=unmapped value=0x0            after it, where the access came back
//! storm seed=1 steps=1000 pages=31987 offered=0x3f    the features that the balloon offers
//! bind step=0 features=0x3e poison=0x0                 those that were taken, and what free pages hold
//! storm step=32 held=5120 inflated=... us=12345        pages, but for step, binds, answers and us
//! bad step=17 act=ACT shape=SHAPE address=0x40400000 kind=KIND ...
//! storm done steps=1000 bad=0 inflated=... us=12345
//! FAIL storm seed=1 step=17 act=ACT shape=SHAPE bad=1
//! spin | idle
//! done ok                                     the last line, then power-off
//! FAIL REASON                                 the last line, then power-off
//! FAIL exception cpu=0 kind=sync esr=0x2000000 elr=0x40001234 far=0x0
//! ```
//!
//! # Map
//!
//! What can be tested anywhere is kept apart from what needs the machine.
//!
//! | module | what it holds |
//! |---|---|
//! | [`words`] | the command line |
//! | [`stamp`] | what a page holds, and what is wrong with it |
//! | [`storm`] | what a storm does, and what each page may hold |
//! | `bare` (arm64) | stage-1 tables, vCPUs, traps, and the run itself |
//!
//! Entry, device tree, console and PSCI are those of the crate `board`.
//!
//! The program is an image only when the build asks for one (`build.rs`): its entry code and its
//! linker script make sense nowhere else. Otherwise it is an ordinary program that says so.

#![cfg_attr(not(test), no_std)]

#[cfg(target_arch = "aarch64")]
pub mod bare;
pub mod stamp;
pub mod storm;
pub mod words;
