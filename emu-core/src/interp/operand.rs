//! Operand widths and places, so that one function body serves every form of an instruction.

use super::Env;
use crate::cpu::tlb::Scalar;
use crate::cpu::{CpuState, Exec};
use crate::decode::Insn;

/// An operand width: `u8`, `u16` or `u32`.
pub trait Width: Scalar + Eq + 'static {
    /// Bits.
    const BITS: u32;
    /// Bytes.
    const BYTES: u32;
    /// Zero-extended.
    fn zext(self) -> u32;
    /// Sign-extended.
    fn sext(self) -> u32;
    /// Low bits of `v`.
    fn trunc(v: u32) -> Self;
    /// Reads register `r`.
    fn get(cpu: &CpuState, r: u8) -> Self;
    /// Writes register `r`, keeping the rest of the 32-bit register.
    fn set(cpu: &mut CpuState, r: u8, v: Self);
}

impl Width for u8 {
    const BITS: u32 = 8;
    const BYTES: u32 = 1;
    #[inline(always)]
    fn zext(self) -> u32 {
        u32::from(self)
    }
    #[inline(always)]
    fn sext(self) -> u32 {
        self as i8 as u32
    }
    #[inline(always)]
    fn trunc(v: u32) -> Self {
        v as u8
    }
    #[inline(always)]
    fn get(cpu: &CpuState, r: u8) -> Self {
        cpu.r8(r)
    }
    #[inline(always)]
    fn set(cpu: &mut CpuState, r: u8, v: Self) {
        cpu.set_r8(r, v);
    }
}

impl Width for u16 {
    const BITS: u32 = 16;
    const BYTES: u32 = 2;
    #[inline(always)]
    fn zext(self) -> u32 {
        u32::from(self)
    }
    #[inline(always)]
    fn sext(self) -> u32 {
        self as i16 as u32
    }
    #[inline(always)]
    fn trunc(v: u32) -> Self {
        v as u16
    }
    #[inline(always)]
    fn get(cpu: &CpuState, r: u8) -> Self {
        cpu.r16(r)
    }
    #[inline(always)]
    fn set(cpu: &mut CpuState, r: u8, v: Self) {
        cpu.set_r16(r, v);
    }
}

impl Width for u32 {
    const BITS: u32 = 32;
    const BYTES: u32 = 4;
    #[inline(always)]
    fn zext(self) -> u32 {
        self
    }
    #[inline(always)]
    fn sext(self) -> u32 {
        self
    }
    #[inline(always)]
    fn trunc(v: u32) -> Self {
        v
    }
    #[inline(always)]
    fn get(cpu: &CpuState, r: u8) -> Self {
        cpu.r32(r)
    }
    #[inline(always)]
    fn set(cpu: &mut CpuState, r: u8, v: Self) {
        cpu.set_r32(r, v);
    }
}

/// Where a value is read from.
///
/// The `fast` forms do the whole access if nothing about it is unusual and nothing at all otherwise;
/// the caller then starts again with the complete form. Kept apart like this, the hot instruction
/// functions call nothing and need no stack frame.
pub trait Src {
    /// Reads it.
    fn read<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<W>;
    /// Reads it if that takes no slow path.
    fn fast<W: Width>(cpu: &CpuState, env: &Env<'_>, i: &Insn) -> Option<W>;
}

/// Where a result goes, and where the first operand comes from.
pub trait Dst: Src {
    /// Writes it.
    fn write<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, v: W) -> Exec;
    /// Read-modify-write; `f` runs only if the write cannot fault.
    fn update<W: Width>(
        cpu: &mut CpuState,
        env: &mut Env<'_>,
        i: &Insn,
        f: impl FnOnce(&mut CpuState, W) -> W,
    ) -> Exec;
    /// Writes it if that takes no slow path.
    #[must_use]
    fn fast_write<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, v: W) -> bool;
    /// Read-modify-write if that takes no slow path; else `f` is not called.
    #[must_use]
    fn fast_update<W: Width>(
        cpu: &mut CpuState,
        env: &mut Env<'_>,
        i: &Insn,
        f: impl FnOnce(&mut CpuState, W) -> W,
    ) -> bool;
}

/// Register named by operand 0.
pub struct R0;
/// Register named by operand 1.
pub struct R1;
/// The memory operand.
pub struct M;
/// The immediate.
pub struct Imm;
/// The constant 1 (shifts by 1, INC, DEC).
pub struct One;
/// CL.
pub struct Cl;

impl Src for R0 {
    #[inline(always)]
    fn read<W: Width>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec<W> {
        Ok(W::get(cpu, i.r0))
    }
    #[inline(always)]
    fn fast<W: Width>(cpu: &CpuState, _: &Env<'_>, i: &Insn) -> Option<W> {
        Some(W::get(cpu, i.r0))
    }
}

impl Src for R1 {
    #[inline(always)]
    fn read<W: Width>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec<W> {
        Ok(W::get(cpu, i.r1))
    }
    #[inline(always)]
    fn fast<W: Width>(cpu: &CpuState, _: &Env<'_>, i: &Insn) -> Option<W> {
        Some(W::get(cpu, i.r1))
    }
}

impl Src for M {
    #[inline(always)]
    fn read<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<W> {
        env.load(cpu, i)
    }
    #[inline(always)]
    fn fast<W: Width>(cpu: &CpuState, env: &Env<'_>, i: &Insn) -> Option<W> {
        env.fast_load(cpu, i)
    }
}

impl Src for Imm {
    #[inline(always)]
    fn read<W: Width>(_: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec<W> {
        Ok(W::trunc(i.imm))
    }
    #[inline(always)]
    fn fast<W: Width>(_: &CpuState, _: &Env<'_>, i: &Insn) -> Option<W> {
        Some(W::trunc(i.imm))
    }
}

impl Src for One {
    #[inline(always)]
    fn read<W: Width>(_: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec<W> {
        Ok(W::trunc(1))
    }
    #[inline(always)]
    fn fast<W: Width>(_: &CpuState, _: &Env<'_>, _: &Insn) -> Option<W> {
        Some(W::trunc(1))
    }
}

impl Src for Cl {
    #[inline(always)]
    fn read<W: Width>(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec<W> {
        Ok(W::trunc(u32::from(cpu.r8(1))))
    }
    #[inline(always)]
    fn fast<W: Width>(cpu: &CpuState, _: &Env<'_>, _: &Insn) -> Option<W> {
        Some(W::trunc(u32::from(cpu.r8(1))))
    }
}

impl Dst for R0 {
    #[inline(always)]
    fn write<W: Width>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn, v: W) -> Exec {
        W::set(cpu, i.r0, v);
        Ok(())
    }
    #[inline(always)]
    fn update<W: Width>(
        cpu: &mut CpuState,
        _: &mut Env<'_>,
        i: &Insn,
        f: impl FnOnce(&mut CpuState, W) -> W,
    ) -> Exec {
        let old = W::get(cpu, i.r0);
        let new = f(cpu, old);
        W::set(cpu, i.r0, new);
        Ok(())
    }
    #[inline(always)]
    fn fast_write<W: Width>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn, v: W) -> bool {
        W::set(cpu, i.r0, v);
        true
    }
    #[inline(always)]
    fn fast_update<W: Width>(
        cpu: &mut CpuState,
        _: &mut Env<'_>,
        i: &Insn,
        f: impl FnOnce(&mut CpuState, W) -> W,
    ) -> bool {
        let new = f(cpu, W::get(cpu, i.r0));
        W::set(cpu, i.r0, new);
        true
    }
}

impl Dst for M {
    #[inline(always)]
    fn write<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, v: W) -> Exec {
        env.store(cpu, i, v)
    }
    #[inline(always)]
    fn update<W: Width>(
        cpu: &mut CpuState,
        env: &mut Env<'_>,
        i: &Insn,
        f: impl FnOnce(&mut CpuState, W) -> W,
    ) -> Exec {
        env.update(cpu, i, f)
    }
    #[inline(always)]
    fn fast_write<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, v: W) -> bool {
        env.fast_store(cpu, i, v)
    }
    #[inline(always)]
    fn fast_update<W: Width>(
        cpu: &mut CpuState,
        env: &mut Env<'_>,
        i: &Insn,
        f: impl FnOnce(&mut CpuState, W) -> W,
    ) -> bool {
        env.fast_modify(cpu, i, f)
    }
}

/// Picks the instance of a generic instruction function for the decoded operand size.
#[macro_export]
macro_rules! by_width {
    ($size:expr, $f:ident $(, $p:ty)*) => {
        match $size {
            1 => Some($f::<u8 $(, $p)*> as $crate::decode::ExecFn),
            2 => Some($f::<u16 $(, $p)*> as $crate::decode::ExecFn),
            4 => Some($f::<u32 $(, $p)*> as $crate::decode::ExecFn),
            _ => None,
        }
    };
}

/// Condition number (low 4 bits of the opcode) of a Jcc, SETcc or CMOVcc.
pub(crate) fn condition_code(ins: &iced_x86::Instruction) -> u8 {
    use iced_x86::ConditionCode as C;
    match ins.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        _ => 15,
    }
}
