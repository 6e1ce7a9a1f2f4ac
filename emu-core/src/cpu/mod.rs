//! The processor: state, flags, segments, paging, exceptions, interrupts.

pub mod debug_regs;
pub mod fault;
pub mod flags;
pub mod interrupt;
pub mod paging;
pub mod segment;
pub mod state;
pub mod tlb;

pub use fault::{Exception, Exec, Trap, TrapKind, vector};
pub use segment::{Segment, seg};
pub use state::{CpuState, ModeKey, cr0, cr4, gpr};
