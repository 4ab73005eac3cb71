//! A storm: memory goes into the balloon and comes back, is reported, hinted, written and read, in an order
//! that follows from a seed; and no page may ever hold what it should not.
//!
//! # What a page may hold
//!
//! | after | it holds | from |
//! |---|---|---|
//! | a write | the stamp, until it is released | - |
//! | an inflate that was acknowledged, without MUST_TELL_HOST | the stamp or zeros, and that for good: the device is done with it | 5.5.6, device requirements |
//! | a deflate that was acknowledged, or a device reset | the stamp or zeros, for good | the same |
//! | a write before the deflate, without MUST_TELL_HOST | the new stamp, whatever is deflated | 5.5.6, driver requirements |
//! | a report that was acknowledged | the stamp or zeros; as many bytes as the used length says are zeros | 5.5.6.7 |
//! | the same with PAGE_POISON | the poison value, which it was filled with | 5.5.6.6, 5.5.6.7 |
//! | a hint that was acknowledged, then a write | the new stamp | 5.5.6.5 |
//!
//! The sections are those of virtio 1.3. It asks for no zeros; a device that gives whole pages back has nothing
//! else to show. The option `unit=BYTES` makes that a duty: a whole, aligned unit that was put into the balloon
//! by one descriptor without MUST_TELL_HOST reads as zeros.
//!
//! | module | what it holds |
//! |---|---|
//! | [`dice`] | numbers that follow from a seed |
//! | [`plan`] | what a step does, and to which pages |
//! | [`book`] | what each page holds, and who has it |

pub mod book;
pub mod dice;
pub mod plan;
