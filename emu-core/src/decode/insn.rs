//! The decoded instruction both engines consume.

use crate::cpu::{CpuState, Exec};
use crate::interp::Env;

/// Function that executes one instruction. `cpu.eip` already points behind it.
pub type ExecFn = fn(&mut CpuState, &mut Env<'_>, &Insn) -> Exec;

/// A decoded instruction, 32 bytes.
///
/// Operands are found by position: a register operand's number is in `r0`, `r1` or `r2`, a memory
/// operand is described by `base`, `index`, `scale`, `disp` and `seg`, an immediate is in `imm`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Insn {
    /// Executes it.
    pub exec: ExecFn,
    /// Displacement of the memory operand; for direct branches the target offset (EIP-relative
    /// branches hold the distance from the end of the instruction).
    pub disp: u32,
    /// Immediate, sign-extended to the operand size. Far pointers: the offset.
    pub imm: u32,
    /// Base register or [`crate::cpu::gpr::ZERO`].
    pub base: u8,
    /// Index register or [`crate::cpu::gpr::ZERO`].
    pub index: u8,
    /// Shift applied to the index.
    pub scale: u8,
    /// Segment of the memory operand (overrides applied).
    pub seg: u8,
    /// Register number of operand 0.
    pub r0: u8,
    /// Register number of operand 1.
    pub r1: u8,
    /// Length in bytes.
    pub len: u8,
    /// See the associated constants.
    pub flags: u8,
    /// Second immediate (ENTER's level, EXTRQ-like forms), far pointer's selector, x87 opcode (11 bits).
    pub imm2: u16,
    /// Offset of the byte behind the instruction from the start of its block.
    pub end: u16,
}

const _: () = assert!(size_of::<Insn>() == 32);

impl Insn {
    /// 16-bit address size: effective addresses wrap at 64 KiB.
    pub const ADDR16: u8 = 1 << 0;
    /// 16-bit operand size (instructions whose mnemonic does not tell).
    pub const OP16: u8 = 1 << 1;
    /// REP or REPE prefix.
    pub const REP: u8 = 1 << 2;
    /// REPNE prefix.
    pub const REPNE: u8 = 1 << 3;
    /// LOCK prefix.
    pub const LOCK: u8 = 1 << 4;
    /// The last instruction of its block: it may change control flow or what decoding depends on.
    pub const ENDS_BLOCK: u8 = 1 << 5;

    /// 16-bit address size.
    #[inline(always)]
    pub fn addr16(&self) -> bool {
        self.flags & Self::ADDR16 != 0
    }

    /// 16-bit operand size.
    #[inline(always)]
    pub fn op16(&self) -> bool {
        self.flags & Self::OP16 != 0
    }

    /// Effective address of the memory operand.
    #[inline(always)]
    pub fn ea(&self, cpu: &CpuState) -> u32 {
        let a =
            cpu.r32(self.base).wrapping_add(cpu.r32(self.index) << (self.scale & 3)).wrapping_add(self.disp);
        if self.addr16() { a & 0xFFFF } else { a }
    }
}
