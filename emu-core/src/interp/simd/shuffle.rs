//! Unpack, shuffle, insert, extract, duplicate.

use iced_x86::{Code, Mnemonic};

use super::{Mem, Reg, Source, Vector, by_source, mmx_check, sse_check};
use crate::cpu::{CpuState, Exec};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};
use crate::interp::Env;

/// Elements of `N` bytes taken from `a` and `b` in turn, up to 16 bytes.
#[inline(always)]
fn interleave<const N: usize>(a: u64, b: u64) -> u128 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u128::from_le_bytes(std::array::from_fn(|at| {
        let element = at / N;
        let from = if element & 1 == 0 { &a } else { &b };
        from[element / 2 * N + at % N]
    }))
}

/// PUNPCKL…, UNPCKLPS, UNPCKLPD.
fn unpack_low<V: Vector, const N: usize, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let b: V = S::vector(cpu, env, i)?;
    let r = interleave::<N>(V::get(cpu, i.r0).low_half(), b.low_half());
    V::set(cpu, i.r0, V::narrow(r));
    Ok(())
}

/// PUNPCKL… of MMX registers reads only the 4 bytes of memory it needs.
fn unpack_low_mmx_mem<const N: usize>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    mmx_check(cpu, env)?;
    let b: u32 = env.load(cpu, i)?;
    let r = interleave::<N>(u64::get(cpu, i.r0).low_half(), u64::from(b));
    u64::set(cpu, i.r0, r as u64);
    Ok(())
}

/// PUNPCKH…, UNPCKHPS, UNPCKHPD.
fn unpack_high<V: Vector, const N: usize, S: Source>(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    i: &Insn,
) -> Exec {
    V::check(cpu, env)?;
    let b: V = S::vector(cpu, env, i)?;
    let r = interleave::<N>(V::get(cpu, i.r0).high_half(), b.high_half());
    V::set(cpu, i.r0, V::narrow(r));
    Ok(())
}

/// Four words chosen by the bit pairs of `order`.
#[inline(always)]
fn shuffle_words(v: u64, order: u32) -> u64 {
    (0..4).fold(0, |r, n| r | (v >> (16 * (order >> (2 * n) & 3)) & 0xFFFF) << (16 * n))
}

/// A doubleword of a vector.
#[inline(always)]
fn doubleword(v: u128, n: u32) -> u128 {
    v >> (32 * (n & 3)) & 0xFFFF_FFFF
}

/// A quadword of a vector.
#[inline(always)]
fn quadword(v: u128, n: u32) -> u128 {
    v >> (64 * (n & 1)) & u128::from(u64::MAX)
}

fn pshufw<S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    mmx_check(cpu, env)?;
    let b: u64 = S::vector(cpu, env, i)?;
    u64::set(cpu, i.r0, shuffle_words(b, i.imm));
    Ok(())
}

/// A permutation of operand 1 alone, controlled by the immediate.
trait Permutation {
    fn apply(v: u128, imm: u32) -> u128;
}

macro_rules! permutations {
    ($($name:ident |$v:ident, $imm:ident| $body:expr;)*) => {$(
        struct $name;
        impl Permutation for $name {
            #[inline(always)]
            fn apply($v: u128, $imm: u32) -> u128 { $body }
        }
    )*};
}

permutations! {
    Pshufd |v, imm| (0..4).fold(0, |r, n| r | doubleword(v, imm >> (2 * n)) << (32 * n));
    Pshuflw |v, imm| v >> 64 << 64 | u128::from(shuffle_words(v as u64, imm));
    Pshufhw |v, imm| u128::from(v as u64) | u128::from(shuffle_words((v >> 64) as u64, imm)) << 64;
    Movsldup |v, _imm| {
        let even = v & 0xFFFF_FFFF_0000_0000_FFFF_FFFF;
        even | even << 32
    };
    Movshdup |v, _imm| {
        let odd = v >> 32 & 0xFFFF_FFFF_0000_0000_FFFF_FFFF;
        odd | odd << 32
    };
}

fn permute<P: Permutation, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = S::vector(cpu, env, i)?;
    u128::set(cpu, i.r0, P::apply(v, i.imm));
    Ok(())
}

fn movddup<S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v: u64 = S::part(cpu, env, i)?;
    u128::set(cpu, i.r0, u128::from(v) | u128::from(v) << 64);
    Ok(())
}

fn shufps<S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let b = S::vector(cpu, env, i)?;
    let (a, imm) = (u128::get(cpu, i.r0), i.imm);
    let r = doubleword(a, imm)
        | doubleword(a, imm >> 2) << 32
        | doubleword(b, imm >> 4) << 64
        | doubleword(b, imm >> 6) << 96;
    u128::set(cpu, i.r0, r);
    Ok(())
}

fn shufpd<S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let b = S::vector(cpu, env, i)?;
    let r = quadword(u128::get(cpu, i.r0), i.imm) | quadword(b, i.imm >> 1) << 64;
    u128::set(cpu, i.r0, r);
    Ok(())
}

/// Position of the word an immediate selects.
#[inline(always)]
fn word_at<V: Vector>(i: &Insn) -> u32 {
    16 * (i.imm & (size_of::<V>() as u32 / 2 - 1))
}

fn pextrw<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let word = (V::get(cpu, i.r1).wide() >> word_at::<V>(i)) as u16;
    V::touch(cpu);
    cpu.set_r32(i.r0, u32::from(word));
    Ok(())
}

#[inline(always)]
fn insert_word<V: Vector>(cpu: &mut CpuState, i: &Insn, word: u16) {
    let at = word_at::<V>(i);
    let v = V::get(cpu, i.r0).wide() & !(0xFFFF << at) | u128::from(word) << at;
    V::set(cpu, i.r0, V::narrow(v));
}

fn pinsrw_reg<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let word = cpu.r16(i.r1);
    insert_word::<V>(cpu, i, word);
    Ok(())
}

fn pinsrw_mem<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let word = env.load(cpu, i)?;
    insert_word::<V>(cpu, i, word);
    Ok(())
}

fn low_rows<const N: usize>(d: &Decoded<'_>) -> Option<ExecFn> {
    match (d.form, d.ins.op0_register().is_mm()) {
        (Form::RR, true) => Some(unpack_low::<u64, N, Reg>),
        (Form::RM, true) => Some(unpack_low_mmx_mem::<N>),
        (Form::RR, false) => Some(unpack_low::<u128, N, Reg>),
        (Form::RM, false) => Some(unpack_low::<u128, N, Mem>),
        _ => None,
    }
}

fn high_rows<const N: usize>(d: &Decoded<'_>) -> Option<ExecFn> {
    match (d.form, d.ins.op0_register().is_mm()) {
        (Form::RR, true) => Some(unpack_high::<u64, N, Reg>),
        (Form::RM, true) => Some(unpack_high::<u64, N, Mem>),
        (Form::RR, false) => Some(unpack_high::<u128, N, Reg>),
        (Form::RM, false) => Some(unpack_high::<u128, N, Mem>),
        _ => None,
    }
}

/// Dispatch rows of this family.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.mnemonic {
        Mnemonic::Punpcklbw => low_rows::<1>(d),
        Mnemonic::Punpcklwd => low_rows::<2>(d),
        Mnemonic::Punpckldq | Mnemonic::Unpcklps => low_rows::<4>(d),
        Mnemonic::Punpcklqdq | Mnemonic::Unpcklpd => low_rows::<8>(d),
        Mnemonic::Punpckhbw => high_rows::<1>(d),
        Mnemonic::Punpckhwd => high_rows::<2>(d),
        Mnemonic::Punpckhdq | Mnemonic::Unpckhps => high_rows::<4>(d),
        Mnemonic::Punpckhqdq | Mnemonic::Unpckhpd => high_rows::<8>(d),
        Mnemonic::Pshufw => by_source!(d, pshufw),
        Mnemonic::Pshufd => by_source!(d, permute, Pshufd),
        Mnemonic::Pshuflw => by_source!(d, permute, Pshuflw),
        Mnemonic::Pshufhw => by_source!(d, permute, Pshufhw),
        Mnemonic::Movsldup => by_source!(d, permute, Movsldup),
        Mnemonic::Movshdup => by_source!(d, permute, Movshdup),
        Mnemonic::Movddup => by_source!(d, movddup),
        Mnemonic::Shufps => by_source!(d, shufps),
        Mnemonic::Shufpd => by_source!(d, shufpd),
        // (SSE4.1 has a form of PEXTRW with a memory operand.)
        Mnemonic::Pextrw if d.code == Code::Pextrw_r32_mm_imm8 => Some(pextrw::<u64>),
        Mnemonic::Pextrw if d.code == Code::Pextrw_r32_xmm_imm8 => Some(pextrw::<u128>),
        Mnemonic::Pinsrw => match (d.form, d.ins.op0_register().is_mm()) {
            (Form::RR, true) => Some(pinsrw_reg::<u64>),
            (Form::RM, true) => Some(pinsrw_mem::<u64>),
            (Form::RR, false) => Some(pinsrw_reg::<u128>),
            (Form::RM, false) => Some(pinsrw_mem::<u128>),
            _ => None,
        },
        _ => None,
    }
}
