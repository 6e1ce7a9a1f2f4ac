//! From bytes to instructions to blocks. Both engines consume what is decoded here, so they cannot
//! disagree about what an instruction is.

pub mod block;
pub mod iced;
pub mod insn;

pub use block::{Block, BlockCache, BlockId, Run};
pub use insn::{ExecFn, Insn};
