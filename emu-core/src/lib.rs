//! The i386: CPU state, decoder, interpreter, soft floating point, guest memory, bus and time traits.
//!
//! | module | what |
//! | --- | --- |
//! | [`cpu`] | architectural state, flags, segments, paging, exceptions, interrupts, tasks |
//! | [`decode`] | iced-x86 instructions turned into [`decode::Insn`], cached in blocks |
//! | [`interp`] | one function per instruction, and the engine that runs blocks of them |
//! | [`softfloat`] | f80 of the x87, f32 and f64 of SSE |
//! | [`mem`] | guest RAM, the physical map, page flags |
//! | [`bus`], [`irq`], [`time`] | what devices and the CPU know of each other |
//! | [`snapshot`] | the state container of v86, and the CPU's part of it |
//! | [`engine`] | the interface of an execution engine |
//!
//! The crate opens no file, socket, thread or clock.

#[cfg(target_endian = "big")]
compile_error!("guest memory is accessed in host byte order: little-endian hosts only");

pub mod bus;
pub mod cpu;
pub mod decode;
pub mod engine;
pub mod interp;
pub mod irq;
pub mod mem;
pub mod snapshot;
pub mod softfloat;
pub mod time;
