//! Conversions between integers and the floating-point formats.

use iced_x86::Mnemonic;

use super::float::Float;
use super::{Part, Source, Vector, by_source, conclude, modes, sse_check, x87_check};
use crate::cpu::{CpuState, Exec};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};
use crate::interp::Env;
use crate::softfloat::{self, F32, F64};

/// Doubleword `n` as an integer.
#[inline(always)]
fn int(v: u128, n: u32) -> i32 {
    (v >> (32 * n)) as i32
}

/// An integer at doubleword `n` of an otherwise empty vector.
#[inline(always)]
fn int_at(v: i32, n: u32) -> u128 {
    u128::from(v as u32) << (32 * n)
}

/// `count` integers converted to elements.
#[inline(always)]
fn from_ints<F: Float>(v: u128, count: u32, fp: &mut softfloat::Env) -> u128 {
    (0..count).fold(0, |r, n| r | F::from_i32(int(v, n), fp).at(n))
}

/// `count` elements converted to integers.
#[inline(always)]
fn to_ints<F: Float>(v: u128, count: u32, truncate: bool, fp: &mut softfloat::Env) -> u128 {
    (0..count).fold(0, |r, n| r | int_at(F::lane(v, n).to_i32(truncate, fp), n))
}

// ---- between XMM registers ---------------------------------------------------------------------

/// A conversion of a packed operand.
trait Packed {
    /// The operand has 16 bytes; otherwise 8, of a register's low half or of memory.
    const WIDE: bool;
    fn apply(v: u128, fp: &mut softfloat::Env) -> u128;

    #[inline(always)]
    fn read<S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<u128> {
        if Self::WIDE { S::vector(cpu, env, i) } else { S::part::<u64>(cpu, env, i).map(u128::from) }
    }
}

macro_rules! packed {
    ($($name:ident $wide:literal |$v:ident, $fp:ident| $body:expr;)*) => {$(
        struct $name;
        impl Packed for $name {
            const WIDE: bool = $wide;
            #[inline(always)]
            fn apply($v: u128, $fp: &mut softfloat::Env) -> u128 { $body }
        }
    )*};
}

packed! {
    Cvtdq2ps true |v, fp| from_ints::<F32>(v, 4, fp);
    Cvtdq2pd false |v, fp| from_ints::<F64>(v, 2, fp);
    Cvtps2dq true |v, fp| to_ints::<F32>(v, 4, false, fp);
    Cvttps2dq true |v, fp| to_ints::<F32>(v, 4, true, fp);
    Cvtpd2dq true |v, fp| to_ints::<F64>(v, 2, false, fp);
    Cvttpd2dq true |v, fp| to_ints::<F64>(v, 2, true, fp);
    Cvtps2pi false |v, fp| to_ints::<F32>(v, 2, false, fp);
    Cvttps2pi false |v, fp| to_ints::<F32>(v, 2, true, fp);
    Cvtps2pd false |v, fp| (0..2).fold(0, |r, n| r | F32::lane(v, n).to_f64(fp).at(n));
    Cvtpd2ps true |v, fp| (0..2).fold(0, |r, n| r | F64::lane(v, n).to_f32(fp).at(n));
}

fn packed<C: Packed, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = C::read::<S>(cpu, env, i)?;
    let mut fp = modes(cpu);
    let r = C::apply(v, &mut fp);
    conclude(cpu, &fp)?;
    u128::set(cpu, i.r0, r);
    Ok(())
}

fn cvtss2sd<S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = F32(S::part(cpu, env, i)?);
    let mut fp = modes(cpu);
    let r = v.to_f64(&mut fp);
    conclude(cpu, &fp)?;
    let r = r.0.merged(u128::get(cpu, i.r0));
    u128::set(cpu, i.r0, r);
    Ok(())
}

fn cvtsd2ss<S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = F64(S::part(cpu, env, i)?);
    let mut fp = modes(cpu);
    let r = v.to_f32(&mut fp);
    conclude(cpu, &fp)?;
    let r = r.0.merged(u128::get(cpu, i.r0));
    u128::set(cpu, i.r0, r);
    Ok(())
}

// ---- general registers -------------------------------------------------------------------------

#[inline(always)]
fn set_from_int<F: Float>(cpu: &mut CpuState, i: &Insn, v: u32) -> Exec {
    let mut fp = modes(cpu);
    let r = F::from_i32(v as i32, &mut fp);
    conclude(cpu, &fp)?;
    let r = r.bits().merged(u128::get(cpu, i.r0));
    u128::set(cpu, i.r0, r);
    Ok(())
}

/// CVTSI2SS, CVTSI2SD from a general register.
fn from_gpr<F: Float>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = cpu.r32(i.r1);
    set_from_int::<F>(cpu, i, v)
}

/// CVTSI2SS, CVTSI2SD from memory.
fn from_m32<F: Float>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = env.load(cpu, i)?;
    set_from_int::<F>(cpu, i, v)
}

/// CVTSS2SI, CVTTSS2SI, CVTSD2SI, CVTTSD2SI.
#[inline(always)]
fn scalar_to_gpr<F: Float, S: Source>(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    i: &Insn,
    truncate: bool,
) -> Exec {
    sse_check(cpu)?;
    let v = F::from_bits(S::part(cpu, env, i)?);
    let mut fp = modes(cpu);
    let r = v.to_i32(truncate, &mut fp);
    conclude(cpu, &fp)?;
    cpu.set_r32(i.r0, r as u32);
    Ok(())
}

fn to_gpr<F: Float, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    scalar_to_gpr::<F, S>(cpu, env, i, false)
}

fn to_gpr_truncated<F: Float, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    scalar_to_gpr::<F, S>(cpu, env, i, true)
}

// ---- MMX registers -----------------------------------------------------------------------------

/// A packed operand to an MMX register: CVTPS2PI and its relatives.
fn to_mmx<C: Packed, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    x87_check(cpu, env)?;
    let v = C::read::<S>(cpu, env, i)?;
    // Even if an unmasked exception follows.
    u64::touch(cpu);
    let mut fp = modes(cpu);
    let r = C::apply(v, &mut fp);
    conclude(cpu, &fp)?;
    u64::set(cpu, i.r0, r as u64);
    Ok(())
}

#[inline(always)]
fn set_cvtpi2ps(cpu: &mut CpuState, i: &Insn, v: u64) -> Exec {
    let mut fp = modes(cpu);
    let r = from_ints::<F32>(u128::from(v), 2, &mut fp);
    conclude(cpu, &fp)?;
    let r = (r as u64).merged(u128::get(cpu, i.r0));
    u128::set(cpu, i.r0, r);
    Ok(())
}

fn cvtpi2ps_mm(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    x87_check(cpu, env)?;
    let v = u64::get(cpu, i.r1);
    // Even if an unmasked exception follows.
    u64::touch(cpu);
    set_cvtpi2ps(cpu, i, v)
}

/// Without an MMX register the x87 is not involved.
fn cvtpi2ps_mem(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = env.load(cpu, i)?;
    set_cvtpi2ps(cpu, i, v)
}

fn cvtpi2pd_mm(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    x87_check(cpu, env)?;
    let v = u64::get(cpu, i.r1);
    u64::touch(cpu);
    let r = from_ints::<F64>(u128::from(v), 2, &mut modes(cpu));
    u128::set(cpu, i.r0, r);
    Ok(())
}

/// Dispatch rows of this family.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.mnemonic {
        Mnemonic::Cvtdq2ps => by_source!(d, packed, Cvtdq2ps),
        Mnemonic::Cvtdq2pd => by_source!(d, packed, Cvtdq2pd),
        Mnemonic::Cvtps2dq => by_source!(d, packed, Cvtps2dq),
        Mnemonic::Cvttps2dq => by_source!(d, packed, Cvttps2dq),
        Mnemonic::Cvtpd2dq => by_source!(d, packed, Cvtpd2dq),
        Mnemonic::Cvttpd2dq => by_source!(d, packed, Cvttpd2dq),
        Mnemonic::Cvtps2pd => by_source!(d, packed, Cvtps2pd),
        Mnemonic::Cvtpd2ps => by_source!(d, packed, Cvtpd2ps),
        Mnemonic::Cvtss2sd => by_source!(d, cvtss2sd),
        Mnemonic::Cvtsd2ss => by_source!(d, cvtsd2ss),
        Mnemonic::Cvtsi2ss if d.form == Form::RR => Some(from_gpr::<F32>),
        Mnemonic::Cvtsi2ss => Some(from_m32::<F32>),
        Mnemonic::Cvtsi2sd if d.form == Form::RR => Some(from_gpr::<F64>),
        Mnemonic::Cvtsi2sd => Some(from_m32::<F64>),
        Mnemonic::Cvtss2si => by_source!(d, to_gpr, F32),
        Mnemonic::Cvttss2si => by_source!(d, to_gpr_truncated, F32),
        Mnemonic::Cvtsd2si => by_source!(d, to_gpr, F64),
        Mnemonic::Cvttsd2si => by_source!(d, to_gpr_truncated, F64),
        Mnemonic::Cvtps2pi => by_source!(d, to_mmx, Cvtps2pi),
        Mnemonic::Cvttps2pi => by_source!(d, to_mmx, Cvttps2pi),
        Mnemonic::Cvtpd2pi => by_source!(d, to_mmx, Cvtpd2dq),
        Mnemonic::Cvttpd2pi => by_source!(d, to_mmx, Cvttpd2dq),
        Mnemonic::Cvtpi2ps if d.form == Form::RR => Some(cvtpi2ps_mm),
        Mnemonic::Cvtpi2ps => Some(cvtpi2ps_mem),
        Mnemonic::Cvtpi2pd if d.form == Form::RR => Some(cvtpi2pd_mm),
        // The 8 bytes of memory are what CVTDQ2PD reads too.
        Mnemonic::Cvtpi2pd => Some(packed::<Cvtdq2pd, super::Mem>),
        _ => None,
    }
}
