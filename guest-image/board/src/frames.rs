//! Pages for stage-1 tables.

#![expect(unsafe_code, reason = "the trait that hands out tables is unsafe in part")]

use core::mem::MaybeUninit;
use core::ptr::NonNull;

use aarch64_paging::descriptor::{PagingAttributes, PhysicalAddress};
use aarch64_paging::paging::{PageTable, Translation};

use crate::console;

/// One translation table.
pub type Frame<A> = PageTable<A>;

/// Pages for tables, taken one after another and never given back.
#[derive(Debug)]
pub struct Frames<A: PagingAttributes + 'static>(&'static mut [MaybeUninit<Frame<A>>]);

impl<A: PagingAttributes> Frames<A> {
    /// All of these.
    pub fn new(pages: &'static mut [MaybeUninit<Frame<A>>]) -> Self {
        Self(pages)
    }
}

impl<A: PagingAttributes> Translation<A> for Frames<A> {
    fn allocate_table(&mut self) -> (NonNull<Frame<A>>, PhysicalAddress) {
        let Some((frame, rest)) = core::mem::take(&mut self.0).split_first_mut() else {
            console::fail(format_args!("memory is in too many pieces: no page is left for its tables"));
        };
        self.0 = rest;
        let frame = NonNull::from(frame.write(Frame::default()));
        (frame, PhysicalAddress(frame.as_ptr() as usize))
    }

    unsafe fn deallocate_table(&mut self, _table: NonNull<Frame<A>>) {}

    fn physical_to_virtual(&self, address: PhysicalAddress) -> NonNull<Frame<A>> {
        NonNull::new(address.0 as *mut Frame<A>).expect("tables lie in the image, never at address 0")
    }
}
