//! The x87 unit (SDM vol. 1, chapter 8): its register stack, what every instruction does before and
//! after it computes, and the choice of instruction functions.
//!
//! The course of an instruction:
//!
//! 1. [`begin`] raises #NM, and #MF for an exception that an earlier instruction left pending.
//! 2. A memory operand is read completely, or its place checked for writing. Nothing has changed yet.
//! 3. [`note`] or [`note_memory`] (for memory operands [`load`] and [`store`] call it) records the
//!    instruction for FSTENV; from here on it cannot fault.
//! 4. A register that should not be empty (or should) is a stack fault: [`X87::stack_fault`].
//! 5. The operation computes with a [`softfloat::Env`]. Unmasked invalid operations, denormal operands
//!    and zero divides leave registers and stack alone; everything else delivers its result.
//! 6. [`conclude`] merges the exceptions into the status word. Unmasked ones are then pending: step 1
//!    of the next waiting instruction signals them.

mod arith;
mod compare;
mod control;
mod environment;
mod load_store;
mod transcendental;

use super::Env;
use crate::cpu::state::X87;
use crate::cpu::tlb::Scalar;
use crate::cpu::{CpuState, Exec, Trap, cr0, seg};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};
use crate::softfloat::exception::{ALL, DE, IE, ZE};
use crate::softfloat::{self, Class, F32, F64, F80};

/// Status word: stack fault.
const SF: u16 = 1 << 6;
/// Status word: an unmasked exception is pending. Derived, never stored.
const ES: u16 = 1 << 7;
/// Status word: condition code 0.
const C0: u16 = 1 << 8;
/// Status word: condition code 1.
const C1: u16 = 1 << 9;
/// Status word: condition code 2.
const C2: u16 = 1 << 10;
/// Status word: condition code 3.
const C3: u16 = 1 << 14;
/// Status word: busy; a copy of ES since the 80387.
const BUSY: u16 = 1 << 15;
/// The exception flags of the status word and masks of the control word.
const EXCEPTIONS: u16 = ALL as u16;
/// Status word bits that are stored: not TOP, ES and B.
const STORED_STATUS: u16 = EXCEPTIONS | SF | C0 | C1 | C2 | C3;
/// Control word bits that can be written: masks, PC, RC and the 80287's infinity control.
const CONTROL_BITS: u16 = 0x1F3F;
/// Control word bit that always reads 1.
const CONTROL_FIXED: u16 = 1 << 6;

impl X87 {
    /// The status word as FSTSW stores it: TOP inserted, ES and B derived from the pending exceptions.
    #[inline]
    pub fn status_word(&self) -> u16 {
        let summary = if self.is_pending() { ES | BUSY } else { 0 };
        self.status & STORED_STATUS | u16::from(self.top & 7) << 11 | summary
    }

    /// Loads the status word, TOP included; ES and B follow from the rest.
    #[inline]
    pub fn set_status_word(&mut self, value: u16) {
        self.status = value & STORED_STATUS;
        self.top = (value >> 11 & 7) as u8;
    }

    /// Loads the control word; bits that do not exist take their fixed values.
    #[inline]
    pub fn set_control_word(&mut self, value: u16) {
        self.control = value & CONTROL_BITS | CONTROL_FIXED;
    }

    /// The tag word as FSTENV stores it, computed from the registers: 0 valid, 1 zero, 2 special
    /// (infinity, NaN, denormal, unsupported), 3 empty; two bits per physical register.
    pub fn tag_word(&self) -> u16 {
        self.regs.iter().enumerate().fold(0, |word, (n, reg)| {
            let value = F80 { sig: reg.significand, se: reg.sign_exponent };
            let tag = if self.valid >> n & 1 == 0 {
                3
            } else {
                match value.class() {
                    Class::Normal => 0,
                    Class::Zero => 1,
                    _ => 2,
                }
            };
            word | tag << (2 * n)
        })
    }

    /// Loads the tag word; only "empty" is remembered, the other tags follow from the contents.
    pub fn set_tag_word(&mut self, word: u16) {
        self.valid = (0..8).fold(0, |valid, n| valid | u8::from(word >> (2 * n) & 3 != 3) << n);
    }

    /// An exception flag is set whose mask is clear: waiting instructions signal it.
    #[inline(always)]
    pub fn is_pending(&self) -> bool {
        self.status & !self.control & EXCEPTIONS != 0
    }

    /// The invalid-operation exception is masked.
    #[inline(always)]
    fn masks_invalid(&self) -> bool {
        self.control & u16::from(IE) != 0
    }

    #[inline(always)]
    fn physical(&self, n: u8) -> usize {
        usize::from(self.top.wrapping_add(n) & 7)
    }

    /// ST(`n`) is empty.
    #[inline(always)]
    fn is_empty(&self, n: u8) -> bool {
        self.valid >> self.physical(n) & 1 == 0
    }

    /// The contents of ST(`n`), whatever its tag.
    #[inline(always)]
    fn st(&self, n: u8) -> F80 {
        let reg = &self.regs[self.physical(n)];
        F80 { sig: reg.significand, se: reg.sign_exponent }
    }

    /// Writes ST(`n`), which is valid then.
    #[inline(always)]
    fn set_st(&mut self, n: u8, value: F80) {
        let at = self.physical(n);
        self.regs[at].significand = value.sig;
        self.regs[at].sign_exponent = value.se;
        self.valid |= 1 << at;
    }

    /// Marks ST(`n`) as empty; its contents stay.
    #[inline(always)]
    fn free(&mut self, n: u8) {
        self.valid &= !(1 << self.physical(n));
    }

    /// Empties ST(0) and makes ST(1) the top.
    #[inline(always)]
    fn pop(&mut self) {
        self.free(0);
        self.top = self.top.wrapping_add(1) & 7;
    }

    /// Makes a value the new ST(0).
    #[inline(always)]
    fn push(&mut self, value: F80) {
        self.top = self.top.wrapping_sub(1) & 7;
        self.set_st(0, value);
    }

    /// The register that a push would fill is in use.
    #[inline(always)]
    fn is_full(&self) -> bool {
        !self.is_empty(7)
    }

    /// Replaces the condition codes C0 to C3.
    #[inline(always)]
    fn set_codes(&mut self, codes: u16) {
        self.status = self.status & !(C0 | C1 | C2 | C3) | codes;
    }

    /// Clears C1: what every instruction does that neither rounds nor faults.
    #[inline(always)]
    fn clear_c1(&mut self) {
        self.status &= !C1;
    }

    /// Records a stack fault: IE, SF, and C1 for an overflow. True if the exception is masked, so that
    /// the instruction is to go on with the indefinite value.
    #[cold]
    fn stack_fault(&mut self, overflow: bool) -> bool {
        self.status = self.status & !C1 | u16::from(IE) | SF | if overflow { C1 } else { 0 };
        self.masks_invalid()
    }
}

/// What every waiting instruction does first.
///
/// # Errors
/// #NM if CR0.EM or CR0.TS says so; for a pending exception #MF, or (CR0.NE = 0) the instruction is
/// executed again until the interrupt that FERR# requests has been taken or IGNNE# lets it pass.
#[inline(always)]
fn begin(cpu: &CpuState, env: &mut Env<'_>) -> Exec {
    available(cpu)?;
    signal_pending(cpu, env)
}

/// What instructions that do not wait (FNSTSW, FNSAVE, FXSAVE …) do first: #NM only.
#[inline(always)]
fn available(cpu: &CpuState) -> Exec {
    if cpu.cr0 & (cr0::EM | cr0::TS) != 0 { Err(Trap::NM) } else { Ok(()) }
}

/// Signals an exception an earlier instruction left pending.
#[inline(always)]
pub(crate) fn signal_pending(cpu: &CpuState, env: &mut Env<'_>) -> Exec {
    if cpu.x87.is_pending() { signal(cpu, env) } else { Ok(()) }
}

#[cold]
#[inline(never)]
fn signal(cpu: &CpuState, env: &mut Env<'_>) -> Exec {
    if cpu.cr0 & cr0::NE != 0 {
        return Err(Trap::MF);
    }
    if env.sys.ferr(true) { Ok(()) } else { Err(Trap::RESTART) }
}

/// Withdraws FERR# if the instruction ended what was pending before it.
#[inline]
fn release_ferr(cpu: &CpuState, env: &mut Env<'_>, was_pending: bool) {
    if was_pending && !cpu.x87.is_pending() && cpu.cr0 & cr0::NE == 0 {
        env.sys.ferr(false);
    }
}

/// Records the instruction as the last non-control one. Its operand pointer stays.
#[inline(always)]
fn note(cpu: &mut CpuState, i: &Insn) {
    cpu.x87.ip = cpu.eip.wrapping_sub(u32::from(i.len));
    cpu.x87.cs = cpu.seg[seg::CS].selector;
    cpu.x87.opcode = i.imm2;
}

/// [`note`] with the memory operand at `offset`.
#[inline(always)]
fn note_memory(cpu: &mut CpuState, i: &Insn, offset: u32) {
    note(cpu, i);
    cpu.x87.dp = offset;
    if let Some(segment) = cpu.seg.get(usize::from(i.seg)) {
        cpu.x87.ds = segment.selector;
    }
}

/// Reads the memory operand of a non-control instruction and records both.
#[inline(always)]
fn load<T: Scalar>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<T> {
    let offset = i.ea(cpu);
    let lin = env.linear_read(cpu, i.seg, offset, size_of::<T>() as u32)?;
    env.aligned(cpu, lin, size_of::<T>() as u32)?;
    let value = env.read(cpu, lin)?;
    note_memory(cpu, i, offset);
    Ok(value)
}

/// Writes the memory operand of a non-control instruction and records both.
#[inline(always)]
fn store<T: Scalar>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, value: T) -> Exec {
    let offset = i.ea(cpu);
    let lin = env.linear_write(cpu, i.seg, offset, size_of::<T>() as u32)?;
    env.aligned(cpu, lin, size_of::<T>() as u32)?;
    env.write(cpu, lin, value)?;
    note_memory(cpu, i, offset);
    Ok(())
}

/// Modes of the control word.
#[inline(always)]
fn modes(cpu: &CpuState) -> softfloat::Env {
    softfloat::Env::x87(cpu.x87.control)
}

/// Merges what an operation raised into the status word; C1 becomes "rounded up".
#[inline(always)]
fn conclude(cpu: &mut CpuState, fp: &softfloat::Env) {
    let c1 = if fp.c1 { C1 } else { 0 };
    cpu.x87.status = cpu.x87.status & !C1 | u16::from(fp.flags) | c1;
}

/// A memory operand widened to 80 bits without quieting it.
#[derive(Clone, Copy)]
struct Wide {
    value: F80,
    /// It was a denormal of its own format (and is a normal number now).
    denormal: bool,
}

impl Wide {
    #[inline(always)]
    fn exact(value: F80) -> Self {
        Self { value, denormal: false }
    }

    #[inline(always)]
    fn from_f32(bits: u32) -> Self {
        let mut fp = softfloat::Env::DEFAULT;
        let value = F80::from_f32(F32(bits), &mut fp);
        Self::unquieted(value, fp.flags)
    }

    #[inline(always)]
    fn from_f64(bits: u64) -> Self {
        let mut fp = softfloat::Env::DEFAULT;
        let value = F80::from_f64(F64(bits), &mut fp);
        Self::unquieted(value, fp.flags)
    }

    /// The NaN rules of an operation look at the operand as it was in memory.
    #[inline(always)]
    fn unquieted(value: F80, flags: u8) -> Self {
        let quiet = if flags & IE != 0 { 1 << 62 } else { 0 };
        Self { value: F80 { sig: value.sig & !quiet, se: value.se }, denormal: flags & DE != 0 }
    }

    /// Adds to what an operation raised the DE of a denormal operand, which an invalid operation, a NaN
    /// and a zero divide hide. Unmasked it stops the operation before it rounds.
    #[inline(always)]
    fn raise_denormal(self, fp: &mut softfloat::Env, nan_result: bool) {
        if self.denormal {
            raise_denormal(fp, nan_result);
        }
    }
}

#[cold]
fn raise_denormal(fp: &mut softfloat::Env, nan_result: bool) {
    if fp.flags & (IE | ZE) != 0 || nan_result {
        return;
    }
    if fp.masked & DE == 0 {
        fp.flags = 0;
        fp.c1 = false;
    }
    fp.flags |= DE;
}

/// A memory operand that an instruction reads into the unit.
trait Source {
    /// See [`load`].
    fn load(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<Wide>;
}

/// m32fp.
struct Single;
/// m64fp.
struct Double;
/// m16int.
struct Word;
/// m32int.
struct Short;
/// m64int.
struct Long;

impl Source for Single {
    #[inline(always)]
    fn load(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<Wide> {
        load(cpu, env, i).map(Wide::from_f32)
    }
}

impl Source for Double {
    #[inline(always)]
    fn load(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<Wide> {
        load(cpu, env, i).map(Wide::from_f64)
    }
}

impl Source for Word {
    #[inline(always)]
    fn load(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<Wide> {
        let v: u16 = load(cpu, env, i)?;
        Ok(Wide::exact(F80::from_i64(i64::from(v as i16))))
    }
}

impl Source for Short {
    #[inline(always)]
    fn load(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<Wide> {
        let v: u32 = load(cpu, env, i)?;
        Ok(Wide::exact(F80::from_i64(i64::from(v as i32))))
    }
}

impl Source for Long {
    #[inline(always)]
    fn load(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<Wide> {
        let v: u64 = load(cpu, env, i)?;
        Ok(Wide::exact(F80::from_i64(v as i64)))
    }
}

// ---- MMX ---------------------------------------------------------------------------------------

/// What every instruction with an MMX register checks first.
///
/// # Errors
/// #UD if CR0.EM, #NM if CR0.TS, and as every x87 instruction for a pending exception.
#[inline(always)]
pub(crate) fn mmx_check(cpu: &CpuState, env: &mut Env<'_>) -> Exec {
    if cpu.cr0 & cr0::EM != 0 {
        return Err(Trap::UD);
    }
    if cpu.cr0 & cr0::TS != 0 {
        return Err(Trap::NM);
    }
    signal_pending(cpu, env)
}

/// What an MMX instruction does to the x87 once it cannot fault any more: TOP becomes 0 and no register
/// is empty. MMn is `x87.regs[n].significand`; a write also sets `sign_exponent` to FFFFh.
#[inline(always)]
pub(crate) fn mmx_commit(cpu: &mut CpuState) {
    cpu.x87.top = 0;
    cpu.x87.valid = 0xFF;
}

/// Dispatch rows of this family.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    arith::select(d)
        .or_else(|| load_store::select(d))
        .or_else(|| compare::select(d))
        .or_else(|| transcendental::select(d))
        .or_else(|| control::select(d))
        .or_else(|| environment::select(d))
}
