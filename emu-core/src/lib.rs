//! The i386: CPU state, decoder, interpreter, soft floating point, guest memory, bus and time traits.
//!
//! Map of this crate:
//!
//! | module | what |
//! | --- | --- |
//! | [`cpu`] | architectural state, flags, segments, paging, exceptions, interrupts, tasks |
//! | [`mem`] | guest RAM, the physical map, page flags |
//! | [`bus`], [`irq`], [`time`] | what devices and the CPU know of each other |
//!
//! The crate opens no file, socket, thread or clock.

pub mod bus;
pub mod cpu;
pub mod irq;
pub mod mem;
pub mod time;
