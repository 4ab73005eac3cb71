//! First uses, seen by userfaultfd: of what nobody has used yet, and of what was discarded since.
//!
//! A thread resolves the faults, each with a zero page. It is for memory that is populated by use; a page at a time,
//! so huge pages only form later. When the value goes, memory is as it would be without.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use vm_memory::{Address, GuestMemoryBackend};

use crate::lock::lock;

use super::super::marks::Marks;
use super::super::piece::Piece;
use super::super::{GuestMemory, Host};
use super::fault::Userfaultfd;
use super::{Answer, Source};
use vm_memory::bitmap::Bitmap;

/// Why there are no faults to see.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No userfaultfd.
    #[error("userfaultfd is not to be had: run as root, or sysctl vm.unprivileged_userfaultfd=1")]
    Open(#[source] io::Error),
    /// The kernel doesn't take memory of this kind.
    #[error("userfaultfd doesn't take this guest's memory: it is for backing=anon and backing=memfd")]
    Register(#[source] io::Error),
    /// No thread.
    #[error("can't start the thread that resolves faults")]
    Thread(#[source] io::Error),
}

/// What userfaultfd offers to this process, for the faults of the kernel too (KVM's among them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Faults on write-protected pages.
    pub write_protect: bool,
}

/// What userfaultfd offers here.
///
/// # Errors
///
/// The kernel's; EPERM where only root may.
pub fn offered() -> io::Result<Offered> {
    Ok(Offered { write_protect: Userfaultfd::new()?.write_protects() })
}

/// The first uses of one guest's memory.
#[derive(Debug)]
pub struct Faults {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    memory: GuestMemory,
    page: u64,
    userfaultfd: Userfaultfd,
    /// The addresses in this process whose faults are ours.
    registered: Mutex<Vec<Range<usize>>>,
    /// What was used, for each region.
    used: Vec<Marks>,
    /// Readable when the thread is to end.
    stop: OwnedFd,
}

impl Faults {
    /// Sees the first uses from now on. What is there already was used before, and is not seen.
    ///
    /// # Errors
    ///
    /// [`Error`]; then memory is as it was.
    pub fn new(memory: &GuestMemory) -> Result<Self, Error> {
        let userfaultfd = Userfaultfd::new().map_err(Error::Open)?;
        let page = Host::live().page_size();
        let used = memory.iter().map(|region| Marks::new(region.size(), page));
        let used: Vec<_> = used.inspect(|marks| marks.track(true)).collect();
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| Error::Thread(error.into()))?;
        let registered = Mutex::default();
        let memory = memory.clone();
        let shared = Arc::new(Shared { memory, page, userfaultfd, registered, used, stop });
        let server = Arc::clone(&shared);
        let serve = move || {
            if let Err(error) = server.serve() {
                tracing::error!(%error, "first uses of guest memory are no longer seen");
                // Nobody would resolve them any more: the guest would stand still.
                server.unregister();
            }
        };
        // Before there is a fault that it has to resolve.
        let thread = Builder::new().name("faults".into()).spawn(serve).map_err(Error::Thread)?;
        let faults = Self { shared, thread: Some(thread) };
        for region in faults.shared.memory.iter() {
            let host = region.host()..region.host() + region.size() as usize;
            faults.shared.userfaultfd.register(&host).map_err(Error::Register)?;
            lock(&faults.shared.registered).push(host);
        }
        Ok(faults)
    }
}

impl Shared {
    /// Resolves faults until it is to end. It touches no guest memory: it would wait for itself.
    fn serve(&self) -> io::Result<()> {
        loop {
            let mut events =
                [PollFd::new(self.userfaultfd.fd(), PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            match poll(&mut events, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if !events[1].revents().is_empty() {
                return Ok(());
            }
            for address in self.userfaultfd.faults()? {
                // Marked first: once it is resolved, the page may be used, discarded and taken.
                self.mark(address);
                self.userfaultfd.zero(address)?;
            }
        }
    }

    fn unregister(&self) {
        for host in lock(&self.registered).drain(..) {
            if let Err(error) = self.userfaultfd.unregister(&host) {
                tracing::error!(%error, "the guest may stand still at its next page fault");
            }
        }
    }

    fn mark(&self, address: u64) {
        let found = self.memory.iter().zip(&self.used).find_map(|(region, marks)| {
            let offset = address.checked_sub(region.host() as u64)?;
            (offset < region.size()).then_some((marks, offset))
        });
        if let Some((marks, offset)) = found {
            marks.mark_dirty(offset as usize, 1);
        }
    }
}

impl Source for Faults {
    fn take(&self, ranges: &[Range<u64>], visit: &mut dyn FnMut(Range<u64>)) -> io::Result<Answer> {
        let shared = &self.shared;
        for piece in Piece::of(&shared.memory, shared.page, ranges).map_err(io::Error::other)? {
            let start = piece.region().guest().raw_value();
            let of = |region: &super::super::Region| region.guest().raw_value() == start;
            let marks = shared.memory.iter().zip(&shared.used).find(|(region, _)| of(region));
            let Some((_, marks)) = marks else { continue };
            let bytes = piece.guest().start - start..piece.guest().end - start;
            marks.take(bytes, &mut |run| visit(run.start + start..run.end + start));
        }
        Ok(Answer::Partial)
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        // Before there is nobody to resolve them.
        self.shared.unregister();
        if rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes()).is_err() {
            return;
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
