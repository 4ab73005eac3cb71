//! Where the kernel, the device tree and the initial RAM disk lie in RAM.
//!
//! The kernel goes to the start of RAM plus its `text_offset`, the device tree into the 2 MiB
//! behind it and the initial RAM disk behind that: the kernel maps the device tree with one block,
//! and takes an initial RAM disk within 32 GiB of itself (Documentation/arch/arm64/booting.rst).

use super::layout::Window;

/// The most that a device tree may take, and its alignment: one level-2 block of the kernel's.
pub const FDT_SIZE: u64 = 2 << 20;
/// Alignment of the initial RAM disk: the largest page that a guest may have.
const INITRD_ALIGN: u64 = 64 << 10;
/// How far behind the kernel the initial RAM disk may end.
const INITRD_REACH: u64 = 32 << 30;

/// What is to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Offset of the kernel from a 2 MiB boundary.
    pub text_offset: u64,
    /// Memory that the kernel takes from there, its file's size at least.
    pub image_size: u64,
    /// Size of the initial RAM disk, where there is one.
    pub initrd_size: Option<u64>,
}

/// Where everything lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The kernel's memory; execution begins at its base.
    pub kernel: Window,
    /// Room for the device tree.
    pub fdt: Window,
    /// The initial RAM disk.
    pub initrd: Option<Window>,
}

/// Why something has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// RAM ends before the kernel and its device tree do.
    #[error(
        "the kernel needs {} MiB of memory with its device tree, and the guest has {} MiB: \
         give it more with --memory",
        .needed.div_ceil(1 << 20), .ram >> 20
    )]
    Kernel {
        /// Bytes from the start of RAM.
        needed: u64,
        /// Bytes of RAM.
        ram: u64,
    },
    /// RAM ends before the initial RAM disk does.
    #[error(
        "the initrd of {} MiB does not fit: with it the guest needs at least {} MiB of memory, \
         and it has {} MiB: give it more with --memory",
        .size.div_ceil(1 << 20), .needed.div_ceil(1 << 20), .ram >> 20
    )]
    Initrd {
        /// Bytes of the initial RAM disk.
        size: u64,
        /// Bytes from the start of RAM.
        needed: u64,
        /// Bytes of RAM.
        ram: u64,
    },
    /// The kernel could not reach the initial RAM disk.
    #[error("the initrd of {} MiB ends beyond the 32 GiB that a kernel reaches", .size.div_ceil(1 << 20))]
    OutOfReach {
        /// Bytes of the initial RAM disk.
        size: u64,
    },
}

/// Finds a place for `demand` in `ram`, whose base is 2 MiB aligned.
///
/// # Errors
/// [`Error`] says what does not fit and how much it takes. Sizes so large that their sum has no
/// 64-bit form count as not fitting.
pub fn place(demand: Demand, ram: Window) -> Result<Placement, Error> {
    let kernel_error = |needed| Error::Kernel { needed, ram: ram.size };
    let fdt_offset = demand
        .text_offset
        .checked_add(demand.image_size)
        .and_then(|end| end.checked_next_multiple_of(FDT_SIZE))
        .ok_or(kernel_error(u64::MAX))?;
    let fdt_end = fdt_offset.checked_add(FDT_SIZE).ok_or(kernel_error(u64::MAX))?;
    if fdt_end > ram.size {
        return Err(kernel_error(fdt_end));
    }
    let initrd = match demand.initrd_size {
        None => None,
        Some(size) => {
            let offset = fdt_end.next_multiple_of(INITRD_ALIGN);
            let needed = offset.saturating_add(size);
            if needed > ram.size {
                return Err(Error::Initrd { size, needed, ram: ram.size });
            }
            if needed > INITRD_REACH {
                return Err(Error::OutOfReach { size });
            }
            Some(Window { base: ram.base + offset, size })
        }
    };
    Ok(Placement {
        kernel: Window { base: ram.base + demand.text_offset, size: demand.image_size },
        fdt: Window { base: ram.base + fdt_offset, size: FDT_SIZE },
        initrd,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: Window = Window { base: 1 << 30, size: 256 << 20 };

    fn demand(image_size: u64, initrd_size: Option<u64>) -> Demand {
        Demand { text_offset: 0, image_size, initrd_size }
    }

    #[test]
    fn everything_lies_behind_one_another() {
        let placement = place(demand(40 << 20 | 1, Some(12345)), RAM).unwrap();
        assert_eq!(placement.kernel.base, RAM.base);
        assert_eq!(placement.fdt.base, RAM.base + (42 << 20));
        assert_eq!(placement.initrd, Some(Window { base: RAM.base + (44 << 20), size: 12345 }));
    }

    #[test]
    fn text_offset_moves_the_kernel() {
        let placement = place(Demand { text_offset: 0x8_0000, ..demand(1 << 20, None) }, RAM).unwrap();
        assert_eq!(placement.kernel.base, RAM.base + 0x8_0000);
    }

    #[test]
    fn an_initrd_that_fills_ram_fits_and_one_byte_more_does_not() {
        let room = RAM.size - (4 << 20);
        assert!(place(demand(1 << 20, Some(room)), RAM).is_ok());
        assert_eq!(
            place(demand(1 << 20, Some(room + 1)), RAM),
            Err(Error::Initrd { size: room + 1, needed: RAM.size + 1, ram: RAM.size })
        );
    }

    #[test]
    fn a_kernel_larger_than_ram_is_refused() {
        let error = place(demand(RAM.size, None), RAM).unwrap_err();
        assert_eq!(error, Error::Kernel { needed: RAM.size + FDT_SIZE, ram: RAM.size });
        assert!(error.to_string().contains("needs 258 MiB"), "{error}");
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        for hostile in [u64::MAX, u64::MAX - FDT_SIZE] {
            assert!(matches!(place(demand(hostile, None), RAM), Err(Error::Kernel { .. })));
            assert!(matches!(place(demand(1, Some(hostile)), RAM), Err(Error::Initrd { .. })));
            let offset = Demand { text_offset: hostile, image_size: hostile, initrd_size: None };
            assert!(place(offset, RAM).is_err());
        }
    }

    #[test]
    fn an_initrd_out_of_the_kernels_reach_is_refused() {
        let ram = Window { base: 1 << 30, size: 64 << 30 };
        assert!(matches!(place(demand(1 << 20, Some(33 << 30)), ram), Err(Error::OutOfReach { .. })));
    }
}
