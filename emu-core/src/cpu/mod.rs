//! The processor: state, flags, segments, paging, exceptions, interrupts.

pub mod control;
pub mod cpuid;
pub mod debug_regs;
pub mod descriptor;
pub mod far;
pub mod fault;
pub mod flags;
mod frame;
pub mod interrupt;
pub mod iret;
pub mod msr;
pub mod paging;
pub mod segment;
pub mod state;
pub mod task;
pub mod tlb;

pub use fault::{Exception, Exec, Trap, TrapKind, vector};
pub use segment::{Segment, seg};
pub use state::{CpuState, ModeKey, cr0, cr4, gpr};
