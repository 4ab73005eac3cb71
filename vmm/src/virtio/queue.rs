//! A queue that the driver has set up: pop, serve, return.

use std::ops::ControlFlow;
use std::sync::Arc;

use virtio_queue::{Queue, QueueOwnedT, QueueT};

use crate::faults::{self, Fault};
use crate::memory::GuestMemory;

use super::chain::Chain;
use super::device::Stop;
use super::interrupt::Interrupt;

/// The driver broke the queue; there is no telling what it meant.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The available index is further ahead than the queue is long, or the rings can't be accessed.
    #[error("the driver's rings make no sense: {0}")]
    Rings(virtio_queue::Error),
    /// The available ring names a descriptor that the table doesn't have.
    #[error("the available ring names descriptor {head} of {size}")]
    Head {
        /// The index found.
        head: u16,
        /// Descriptors in the table.
        size: u16,
    },
}

impl From<virtio_queue::Error> for Error {
    fn from(error: virtio_queue::Error) -> Self {
        Self::Rings(error)
    }
}

/// How far a queue was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There was nothing more; the driver will notify.
    Idle,
    /// There is more: others shall have their turn first.
    More,
}

/// A popped chain's place in the descriptor table. It has to be given back.
#[derive(Debug)]
#[must_use = "a head that is not returned is lost to the driver"]
pub struct Head(u16);

/// What is done with each chain; see [`VirtQueue::take`].
type Each<'a> = dyn FnMut(&mut VirtQueue, &Chain, Head) -> Result<ControlFlow<()>, Error> + 'a;

/// A virtqueue with the memory that it is in, ready to be served.
#[derive(Debug)]
pub struct VirtQueue {
    queue: Queue,
    memory: GuestMemory,
    interrupt: Arc<Interrupt>,
    stop: Stop,
    chain: Chain,
}

impl VirtQueue {
    pub(super) fn new(queue: Queue, memory: GuestMemory, interrupt: Arc<Interrupt>, stop: Stop) -> Self {
        Self { queue, memory, interrupt, stop, chain: Chain::default() }
    }

    /// Takes the next chain that the driver offers. It replaces `chain`'s content.
    ///
    /// # Errors
    ///
    /// [`Error`]: the queue is to be given up.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<Option<Head>, Error> {
        let size = self.queue.size();
        let Some(found) = self.queue.iter(&self.memory)?.next() else { return Ok(None) };
        let head = found.head_index();
        if head >= size {
            return Err(Error::Head { head, size });
        }
        // A chain is no longer than its queue, indirect or not (virtio 1.3, 2.7.5.3.1).
        chain.walk(found, size);
        Ok(Some(Head(head)))
    }

    /// Gives a chain back, of whose writable part the first `written` bytes have been written, and
    /// tells the driver if it wants to know.
    ///
    /// # Errors
    ///
    /// [`Error`]: the queue is to be given up.
    pub fn finish(&mut self, head: Head, written: u32) -> Result<(), Error> {
        self.queue.add_used(&self.memory, head.0, written)?;
        if faults::is(Fault::ReturnTwice) {
            self.queue.add_used(&self.memory, head.0, written)?;
        }
        if self.queue.needs_notification(&self.memory)? {
            self.interrupt.used();
        }
        Ok(())
    }

    /// Hands chains to `each` until there are no more, one queue's length of them at most, so that a
    /// driver that adds to the queue all the time doesn't keep the thread to itself.
    ///
    /// `each` returns how many bytes it wrote at the start of the writable part, or `None` where it
    /// gave up because it was [asked](Stop) to: then the queue is about to go.
    ///
    /// # Errors
    ///
    /// [`Error`]: the queue is to be given up.
    pub fn serve(
        &mut self,
        mut each: impl FnMut(&GuestMemory, &Chain) -> Option<u32>,
    ) -> Result<Progress, Error> {
        self.take(|queue, chain, head| match each(&queue.memory, chain) {
            Some(written) => queue.finish(head, written).map(ControlFlow::Continue),
            None => Ok(ControlFlow::Break(())),
        })
    }

    /// The same for who gives chains back otherwise than one after the other: `each` has to
    /// [`finish`](Self::finish) every head that it is given, now or later. It breaks where it was
    /// [asked](Stop) to stop.
    ///
    /// # Errors
    ///
    /// [`Error`]: the queue is to be given up.
    pub fn take(
        &mut self,
        mut each: impl FnMut(&mut Self, &Chain, Head) -> Result<ControlFlow<()>, Error>,
    ) -> Result<Progress, Error> {
        let mut chain = std::mem::take(&mut self.chain);
        let progress = self.take_with(&mut chain, &mut each);
        self.chain = chain;
        progress
    }

    /// The memory that its buffers are in.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    fn take_with(&mut self, chain: &mut Chain, each: &mut Each<'_>) -> Result<Progress, Error> {
        let mut left = self.queue.size();
        loop {
            self.queue.disable_notification(&self.memory)?;
            while left > 0 {
                if self.stop.is_asked() {
                    return Ok(Progress::Idle);
                }
                let Some(head) = self.pop(chain)? else { break };
                if each(self, chain, head)?.is_break() {
                    return Ok(Progress::Idle);
                }
                left -= 1;
            }
            if left == 0 {
                return Ok(Progress::More);
            }
            if !self.queue.enable_notification(&self.memory)? {
                return Ok(Progress::Idle);
            }
        }
    }
}
