//! MMX, SSE, SSE2 and SSE3 (SDM vol. 1, chapters 9 to 12; vol. 2 for each instruction).
//!
//! | file | instructions |
//! | --- | --- |
//! | `mov.rs` | moves between registers and memory, non-temporal and masked stores, sign masks, EMMS |
//! | `int.rs` | packed integers, written once for the 64 bits of MMX and the 128 bits of XMM |
//! | `shuffle.rs` | unpack, shuffle, insert, extract, duplicate |
//! | `float.rs` | arithmetic, comparison, square roots, reciprocals |
//! | `convert.rs` | CVT… |
//! | `control.rs` | LDMXCSR, STMXCSR |
//!
//! The course of an instruction:
//!
//! 1. [`Vector::check`] raises #UD and #NM, and #MF where MMX registers are involved.
//! 2. A memory operand is read completely. 16-byte operands must be aligned: #GP(0), which comes
//!    before page faults. (The moves named "unaligned" are the exception.)
//! 3. Floating point computes all elements with one [`softfloat::Env`]; [`conclude`] merges what they
//!    raised into MXCSR and raises #XM if something of it is unmasked.
//! 4. The result is written. MMX registers alias the x87's: [`Vector::set`] does what that entails.

mod control;
mod convert;
mod float;
mod int;
mod lanes;
mod mov;
mod shuffle;

use super::Env;
use super::x87::{mmx_check, mmx_commit, signal_pending as x87_check};
use crate::cpu::tlb::Scalar;
use crate::cpu::{CpuState, Exec, Trap, cr0, cr4};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};
use crate::softfloat;
use crate::softfloat::exception::{DE, IE, ZE};

// ---- checks ------------------------------------------------------------------------------------

/// What every instruction with an XMM register or MXCSR checks first.
///
/// # Errors
/// #UD if CR0.EM or not CR4.OSFXSR, #NM if CR0.TS.
#[inline(always)]
fn sse_check(cpu: &CpuState) -> Exec {
    if sse_is_usable(cpu) { Ok(()) } else { Err(sse_unavailable(cpu)) }
}

#[inline(always)]
fn sse_is_usable(cpu: &CpuState) -> bool {
    cpu.cr0 & (cr0::EM | cr0::TS) == 0 && cpu.cr4 & cr4::OSFXSR != 0
}

#[cold]
#[inline(never)]
fn sse_unavailable(cpu: &CpuState) -> Trap {
    if cpu.cr0 & cr0::EM != 0 || cpu.cr4 & cr4::OSFXSR == 0 { Trap::UD } else { Trap::NM }
}

// ---- registers ---------------------------------------------------------------------------------

/// A vector register's contents: `u64` is an MMX register, `u128` an XMM register.
trait Vector: Scalar + 'static {
    /// The checks of instructions on these registers.
    fn check(cpu: &CpuState, env: &mut Env<'_>) -> Exec;
    /// The checks would pass.
    fn is_usable(cpu: &CpuState) -> bool;
    /// Reads register `r`.
    fn get(cpu: &CpuState, r: u8) -> Self;
    /// Writes register `r`.
    fn set(cpu: &mut CpuState, r: u8, v: Self);
    /// Side effects of an instruction that only reads a register.
    fn touch(cpu: &mut CpuState);
    /// Reads the memory operand, which must be aligned if it has 16 bytes.
    fn load(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<Self>;
    /// Reads the memory operand if that takes no slow path.
    fn fast_load(cpu: &CpuState, env: &Env<'_>, i: &Insn) -> Option<Self>;
    /// Writes the memory operand, which must be aligned if it has 16 bytes.
    fn store(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, v: Self) -> Exec;
    /// Writes the memory operand if that takes no slow path.
    fn fast_store(cpu: &CpuState, env: &mut Env<'_>, i: &Insn, v: Self) -> bool;
    /// Zero-extended.
    fn wide(self) -> u128;
    /// Low bits.
    fn narrow(v: u128) -> Self;
    /// The lower half, zero-extended.
    fn low_half(self) -> u64;
    /// The upper half, zero-extended.
    fn high_half(self) -> u64;
    /// Bytes of two vectors combined.
    fn zip8(self, b: Self, f: impl Fn(u8, u8) -> u8) -> Self;
    /// Words of two vectors combined.
    fn zip16(self, b: Self, f: impl Fn(u16, u16) -> u16) -> Self;
    /// Doublewords of two vectors combined.
    fn zip32(self, b: Self, f: impl Fn(u32, u32) -> u32) -> Self;
    /// Quadwords of two vectors combined.
    fn zip64(self, b: Self, f: impl Fn(u64, u64) -> u64) -> Self;
    /// The words of `self` and then of `b` narrowed.
    fn pack16(self, b: Self, narrow: impl Fn(i16) -> u8) -> Self;
    /// The doublewords of `self` and then of `b` narrowed.
    fn pack32(self, b: Self, narrow: impl Fn(i32) -> u16) -> Self;
}

/// A function of [`lanes`] on values.
macro_rules! lane_loop {
    ($name:ident, $f:ty) => {
        #[inline(always)]
        fn $name(self, b: Self, f: $f) -> Self {
            let mut a = self.to_le_bytes();
            lanes::$name(&mut a, &b.to_le_bytes(), f);
            Self::from_le_bytes(a)
        }
    };
}

/// What the implementations of [`Vector`] share.
macro_rules! shared {
    () => {
        #[inline(always)]
        fn wide(self) -> u128 {
            u128::from(self)
        }

        #[inline(always)]
        fn narrow(v: u128) -> Self {
            v as Self
        }

        #[inline(always)]
        fn low_half(self) -> u64 {
            (self & (Self::MAX >> (Self::BITS / 2))) as u64
        }

        #[inline(always)]
        fn high_half(self) -> u64 {
            (self >> (Self::BITS / 2)) as u64
        }

        lane_loop!(zip8, impl Fn(u8, u8) -> u8);
        lane_loop!(zip16, impl Fn(u16, u16) -> u16);
        lane_loop!(zip32, impl Fn(u32, u32) -> u32);
        lane_loop!(zip64, impl Fn(u64, u64) -> u64);
        lane_loop!(pack16, impl Fn(i16) -> u8);
        lane_loop!(pack32, impl Fn(i32) -> u16);
    };
}

/// The trap of a 16-byte operand that violates its segment: misalignment comes first, which shows in
/// the stack segment (#GP instead of #SS).
#[cold]
#[inline(never)]
fn misaligned_or(cpu: &CpuState, i: &Insn, trap: Trap) -> Trap {
    let base = cpu.seg.get(usize::from(i.seg)).map_or(0, |segment| segment.base);
    if base.wrapping_add(i.ea(cpu)) & 15 != 0 { Trap::GP0 } else { trap }
}

impl Vector for u128 {
    #[inline(always)]
    fn check(cpu: &CpuState, _: &mut Env<'_>) -> Exec {
        sse_check(cpu)
    }

    #[inline(always)]
    fn is_usable(cpu: &CpuState) -> bool {
        sse_is_usable(cpu)
    }

    #[inline(always)]
    fn get(cpu: &CpuState, r: u8) -> Self {
        cpu.xmm[usize::from(r & 7)]
    }

    #[inline(always)]
    fn set(cpu: &mut CpuState, r: u8, v: Self) {
        cpu.xmm[usize::from(r & 7)] = v;
    }

    #[inline(always)]
    fn touch(_: &mut CpuState) {}

    #[inline(always)]
    fn load(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<Self> {
        let lin = env.linear_read(cpu, i.seg, i.ea(cpu), 16).map_err(|trap| misaligned_or(cpu, i, trap))?;
        if lin & 15 != 0 {
            return Err(Trap::GP0);
        }
        env.read(cpu, lin)
    }

    #[inline(always)]
    fn fast_load(cpu: &CpuState, env: &Env<'_>, i: &Insn) -> Option<Self> {
        if i.ea(cpu) & 15 == 0 { env.fast_load(cpu, i) } else { None }
    }

    #[inline(always)]
    fn fast_store(cpu: &CpuState, env: &mut Env<'_>, i: &Insn, v: Self) -> bool {
        i.ea(cpu) & 15 == 0 && env.fast_store(cpu, i, v)
    }

    #[inline(always)]
    fn store(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, v: Self) -> Exec {
        let lin = env.linear_write(cpu, i.seg, i.ea(cpu), 16).map_err(|trap| misaligned_or(cpu, i, trap))?;
        if lin & 15 != 0 {
            return Err(Trap::GP0);
        }
        env.write(cpu, lin, v)
    }

    shared!();
}

impl Vector for u64 {
    #[inline(always)]
    fn check(cpu: &CpuState, env: &mut Env<'_>) -> Exec {
        mmx_check(cpu, env)
    }

    #[inline(always)]
    fn is_usable(cpu: &CpuState) -> bool {
        cpu.cr0 & (cr0::EM | cr0::TS) == 0 && !cpu.x87.is_pending()
    }

    #[inline(always)]
    fn get(cpu: &CpuState, r: u8) -> Self {
        cpu.x87.regs[usize::from(r & 7)].significand
    }

    #[inline(always)]
    fn set(cpu: &mut CpuState, r: u8, v: Self) {
        mmx_commit(cpu);
        let reg = &mut cpu.x87.regs[usize::from(r & 7)];
        reg.significand = v;
        reg.sign_exponent = 0xFFFF;
    }

    #[inline(always)]
    fn touch(cpu: &mut CpuState) {
        mmx_commit(cpu);
    }

    #[inline(always)]
    fn load(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<Self> {
        env.load(cpu, i)
    }

    #[inline(always)]
    fn fast_load(cpu: &CpuState, env: &Env<'_>, i: &Insn) -> Option<Self> {
        env.fast_load(cpu, i)
    }

    #[inline(always)]
    fn fast_store(cpu: &CpuState, env: &mut Env<'_>, i: &Insn, v: Self) -> bool {
        env.fast_store(cpu, i, v)
    }

    #[inline(always)]
    fn store(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, v: Self) -> Exec {
        env.store(cpu, i, v)
    }

    shared!();
}

// ---- second operand ----------------------------------------------------------------------------

/// Where the second operand comes from.
trait Source {
    /// A whole vector.
    fn vector<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<V>;
    /// The low part of an XMM register, or as many bytes of memory.
    fn part<T: Part>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<T>;
    /// A whole vector if that takes no slow path.
    fn fast_vector<V: Vector>(cpu: &CpuState, env: &Env<'_>, i: &Insn) -> Option<V>;
    /// A part if that takes no slow path.
    fn fast_part<T: Part>(cpu: &CpuState, env: &Env<'_>, i: &Insn) -> Option<T>;
}

/// A part of an XMM register: `u32` or `u64`.
trait Part: Scalar + 'static {
    /// The low part.
    fn of(v: u128) -> Self;
    /// `v` with its low part replaced.
    fn merged(self, v: u128) -> u128;
}

impl Part for u32 {
    #[inline(always)]
    fn of(v: u128) -> Self {
        v as u32
    }

    #[inline(always)]
    fn merged(self, v: u128) -> u128 {
        v >> 32 << 32 | u128::from(self)
    }
}

impl Part for u64 {
    #[inline(always)]
    fn of(v: u128) -> Self {
        v as u64
    }

    #[inline(always)]
    fn merged(self, v: u128) -> u128 {
        v >> 64 << 64 | u128::from(self)
    }
}

/// Register named by operand 1.
struct Reg;
/// The memory operand; 16 bytes must be aligned.
struct Mem;

impl Source for Reg {
    #[inline(always)]
    fn vector<V: Vector>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec<V> {
        Ok(V::get(cpu, i.r1))
    }

    #[inline(always)]
    fn part<T: Part>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec<T> {
        Ok(T::of(u128::get(cpu, i.r1)))
    }

    #[inline(always)]
    fn fast_vector<V: Vector>(cpu: &CpuState, _: &Env<'_>, i: &Insn) -> Option<V> {
        Some(V::get(cpu, i.r1))
    }

    #[inline(always)]
    fn fast_part<T: Part>(cpu: &CpuState, _: &Env<'_>, i: &Insn) -> Option<T> {
        Some(T::of(u128::get(cpu, i.r1)))
    }
}

impl Source for Mem {
    #[inline(always)]
    fn vector<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<V> {
        V::load(cpu, env, i)
    }

    #[inline(always)]
    fn part<T: Part>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<T> {
        env.load(cpu, i)
    }

    #[inline(always)]
    fn fast_vector<V: Vector>(cpu: &CpuState, env: &Env<'_>, i: &Insn) -> Option<V> {
        V::fast_load(cpu, env, i)
    }

    #[inline(always)]
    fn fast_part<T: Part>(cpu: &CpuState, env: &Env<'_>, i: &Insn) -> Option<T> {
        env.fast_load(cpu, i)
    }
}

/// Picks the instance of a generic instruction function for a register or memory as operand 1.
macro_rules! by_source {
    ($d:expr, $f:ident $(, $p:ty)*) => {
        match $d.form {
            $crate::decode::iced::Form::RR => Some($f::<$($p,)* $crate::interp::simd::Reg> as ExecFn),
            $crate::decode::iced::Form::RM => Some($f::<$($p,)* $crate::interp::simd::Mem> as ExecFn),
            _ => None,
        }
    };
}
use by_source;

/// [`by_source`] for a function that is generic over [`Vector`] too: the register named by operand 0
/// decides.
macro_rules! by_vector {
    ($d:expr, $f:ident $(, $p:ty)*) => {
        if $d.ins.op0_register().is_mm() {
            by_source!($d, $f, u64 $(, $p)*)
        } else {
            by_source!($d, $f, u128 $(, $p)*)
        }
    };
}
use by_vector;

// ---- floating point ----------------------------------------------------------------------------

/// The modes of MXCSR.
#[inline(always)]
fn modes(cpu: &CpuState) -> softfloat::Env {
    softfloat::Env::sse(cpu.mxcsr)
}

/// Merges what an instruction raised into MXCSR.
///
/// # Errors
/// #XM (or #UD without CR4.OSXMMEXCPT) if something is unmasked: the destination stays.
#[inline(always)]
fn conclude(cpu: &mut CpuState, fp: &softfloat::Env) -> Exec {
    if fp.unmasked() != 0 {
        return Err(unmasked(cpu, fp));
    }
    cpu.mxcsr |= u32::from(fp.flags);
    Ok(())
}

/// An unmasked exception. One that shows before computing (IE, DE, ZE) in any element keeps all
/// elements from reporting what rounding would raise (SDM vol. 1, 11.5.3).
#[cold]
#[inline(never)]
fn unmasked(cpu: &mut CpuState, fp: &softfloat::Env) -> Trap {
    const BEFORE: u8 = IE | DE | ZE;
    let reported = if fp.unmasked() & BEFORE != 0 { fp.flags & BEFORE } else { fp.flags };
    cpu.mxcsr |= u32::from(reported);
    if cpu.cr4 & cr4::OSXMMEXCPT != 0 { Trap::XM } else { Trap::UD }
}

/// Dispatch rows of these families.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    mov::select(d)
        .or_else(|| int::select(d))
        .or_else(|| shuffle::select(d))
        .or_else(|| float::select(d))
        .or_else(|| convert::select(d))
        .or_else(|| control::select(d))
}

#[cfg(test)]
mod tests {
    use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions};

    use crate::cpu::ModeKey;
    use crate::decode::Insn;
    use crate::decode::iced::{Decode, decode};

    /// Calls `f` for everything in the opcode maps 0F, 0F 38 and 0F 3A with each mandatory prefix:
    /// the instruction and whether a family has a row for it.
    fn walk(mut f: impl FnMut(Code, bool)) {
        const PREFIXES: [&[u8]; 4] = [&[], &[0x66], &[0xF3], &[0xF2]];
        const MAPS: [&[u8]; 3] = [&[0x0F], &[0x0F, 0x38], &[0x0F, 0x3A]];
        for (prefix, map) in PREFIXES.iter().flat_map(|p| MAPS.iter().map(move |m| (p, m))) {
            for n in 0..=0xFFFFu16 {
                let bytes = [prefix, *map, &n.to_be_bytes(), &[0; 8]].concat();
                let ins = Decoder::new(32, &bytes, DecoderOptions::NONE).decode();
                if let Decode::Insn(insn) = decode(&bytes, ModeKey(ModeKey::CODE32)) {
                    // What has no row executes as #UD, which ends the block; no vector instruction does.
                    f(ins.code(), insn.flags & Insn::ENDS_BLOCK == 0);
                }
            }
        }
    }

    #[test]
    fn select_offered_features_have_rows() {
        use CpuidFeature::{FPU, MMX, SSE, SSE2, SSE3};
        let mut seen = std::collections::HashSet::new();
        walk(|code, row| {
            let features = code.cpuid_features();
            if features.iter().any(|f| [MMX, SSE, SSE2, SSE3].contains(f)) && !features.contains(&FPU) {
                assert!(row, "{code:?} has no row");
                seen.insert(code);
            }
        });
        assert!(seen.len() > 300, "{}", seen.len());
    }

    #[test]
    fn select_features_not_offered_have_no_rows() {
        use CpuidFeature::{AES, CLFSH, MONITOR, PCLMULQDQ, SHA, SSE4_1, SSE4_2, SSE4A, SSSE3};
        let absent = [AES, CLFSH, MONITOR, PCLMULQDQ, SHA, SSE4_1, SSE4_2, SSE4A, SSSE3];
        let mut seen = std::collections::HashSet::new();
        walk(|code, row| {
            if code.cpuid_features().iter().any(|f| absent.contains(f)) {
                assert!(!row, "{code:?} has a row");
                seen.insert(code);
            }
        });
        assert!(seen.len() > 100, "{}", seen.len());
    }
}
