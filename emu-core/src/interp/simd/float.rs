//! Packed and scalar floating point: arithmetic, comparison, minimum and maximum, square roots,
//! reciprocals.

use iced_x86::Mnemonic;

use super::{Part, Source, Vector, by_source, conclude, modes, sse_check};
use crate::cpu::flags::Flags;
use crate::cpu::{CpuState, Exec};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};
use crate::interp::Env;
use crate::softfloat::{self, F32, F64, Relation};

/// An element format: [`F32`] or [`F64`].
pub(super) trait Float: Copy + 'static {
    /// Image of one element.
    type Bits: Part + Into<u128>;
    /// Elements of an XMM register.
    const LANES: u32;
    /// Bits of an element.
    const WIDTH: u32;
    /// Image with all bits set or none: the result of a comparison.
    fn truth(holds: bool) -> Self;
    /// From an image.
    fn from_bits(bits: Self::Bits) -> Self;
    /// To an image.
    fn bits(self) -> Self::Bits;
    /// Sum.
    fn add(self, b: Self, fp: &mut softfloat::Env) -> Self;
    /// Difference.
    fn sub(self, b: Self, fp: &mut softfloat::Env) -> Self;
    /// Product.
    fn mul(self, b: Self, fp: &mut softfloat::Env) -> Self;
    /// Quotient.
    fn div(self, b: Self, fp: &mut softfloat::Env) -> Self;
    /// Minimum.
    fn min(self, b: Self, fp: &mut softfloat::Env) -> Self;
    /// Maximum.
    fn max(self, b: Self, fp: &mut softfloat::Env) -> Self;
    /// Square root.
    fn sqrt(self, fp: &mut softfloat::Env) -> Self;
    /// Comparison; `signalling` makes quiet NaNs invalid too.
    fn relation(self, b: Self, signalling: bool, fp: &mut softfloat::Env) -> Relation;
    /// CMPccPS.
    fn predicate(self, b: Self, predicate: u8, fp: &mut softfloat::Env) -> bool;
    /// Rounded to an integer by MXCSR, or truncated.
    fn to_i32(self, truncate: bool, fp: &mut softfloat::Env) -> i32;
    /// From an integer.
    fn from_i32(v: i32, fp: &mut softfloat::Env) -> Self;

    /// Element `n` of a vector.
    #[inline(always)]
    fn lane(v: u128, n: u32) -> Self {
        Self::from_bits(Self::Bits::of(v >> (n * Self::WIDTH)))
    }

    /// The element at position `n` of an otherwise empty vector.
    #[inline(always)]
    fn at(self, n: u32) -> u128 {
        self.bits().into() << (n * Self::WIDTH)
    }
}

macro_rules! float {
    ($t:ident, $bits:ty, $lanes:literal) => {
        impl Float for $t {
            type Bits = $bits;
            const LANES: u32 = $lanes;
            const WIDTH: u32 = <$bits>::BITS;
            #[inline(always)]
            fn truth(holds: bool) -> Self {
                Self(if holds { <$bits>::MAX } else { 0 })
            }
            #[inline(always)]
            fn from_bits(bits: $bits) -> Self {
                Self(bits)
            }
            #[inline(always)]
            fn bits(self) -> $bits {
                self.0
            }
            #[inline(always)]
            fn add(self, b: Self, fp: &mut softfloat::Env) -> Self {
                $t::add(self, b, fp)
            }
            #[inline(always)]
            fn sub(self, b: Self, fp: &mut softfloat::Env) -> Self {
                $t::sub(self, b, fp)
            }
            #[inline(always)]
            fn mul(self, b: Self, fp: &mut softfloat::Env) -> Self {
                $t::mul(self, b, fp)
            }
            #[inline(always)]
            fn div(self, b: Self, fp: &mut softfloat::Env) -> Self {
                $t::div(self, b, fp)
            }
            #[inline(always)]
            fn min(self, b: Self, fp: &mut softfloat::Env) -> Self {
                $t::min(self, b, fp)
            }
            #[inline(always)]
            fn max(self, b: Self, fp: &mut softfloat::Env) -> Self {
                $t::max(self, b, fp)
            }
            #[inline(always)]
            fn sqrt(self, fp: &mut softfloat::Env) -> Self {
                $t::sqrt(self, fp)
            }
            #[inline(always)]
            fn relation(self, b: Self, signalling: bool, fp: &mut softfloat::Env) -> Relation {
                if signalling { self.compare(b, fp) } else { self.compare_quiet(b, fp) }
            }
            #[inline(always)]
            fn predicate(self, b: Self, predicate: u8, fp: &mut softfloat::Env) -> bool {
                $t::predicate(self, b, predicate, fp)
            }
            #[inline(always)]
            fn to_i32(self, truncate: bool, fp: &mut softfloat::Env) -> i32 {
                if truncate { self.to_i32_truncated(fp) } else { $t::to_i32(self, fp) }
            }
            #[inline(always)]
            fn from_i32(v: i32, fp: &mut softfloat::Env) -> Self {
                $t::from_i32(v, fp)
            }
        }
    };
}

float!(F32, u32, 4);
float!(F64, u64, 2);

/// An operation on two elements.
trait Op {
    fn apply<F: Float>(a: F, b: F, fp: &mut softfloat::Env) -> F;
}

macro_rules! ops {
    ($($name:ident |$a:ident, $b:ident, $fp:ident| $body:expr;)*) => {$(
        struct $name;
        impl Op for $name {
            #[inline(always)]
            fn apply<F: Float>($a: F, $b: F, $fp: &mut softfloat::Env) -> F { $body }
        }
    )*};
}

ops! {
    Add |a, b, fp| a.add(b, fp);
    Sub |a, b, fp| a.sub(b, fp);
    Mul |a, b, fp| a.mul(b, fp);
    Div |a, b, fp| a.div(b, fp);
    Min |a, b, fp| a.min(b, fp);
    Max |a, b, fp| a.max(b, fp);
    Sqrt |_a, b, fp| b.sqrt(fp);
}

fn packed<F: Float, O: Op, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let b = S::vector(cpu, env, i)?;
    let a = u128::get(cpu, i.r0);
    let mut fp = modes(cpu);
    let r = (0..F::LANES).fold(0, |r, n| r | O::apply(F::lane(a, n), F::lane(b, n), &mut fp).at(n));
    conclude(cpu, &fp)?;
    u128::set(cpu, i.r0, r);
    Ok(())
}

fn scalar<F: Float, O: Op, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let b = F::from_bits(S::part(cpu, env, i)?);
    let a = u128::get(cpu, i.r0);
    let mut fp = modes(cpu);
    let r = O::apply(F::lane(a, 0), b, &mut fp);
    conclude(cpu, &fp)?;
    u128::set(cpu, i.r0, r.bits().merged(a));
    Ok(())
}

/// CMPPS, CMPPD: bits 2-0 of the immediate are the predicate.
fn compare_packed<F: Float, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let b = S::vector(cpu, env, i)?;
    let a = u128::get(cpu, i.r0);
    let mut fp = modes(cpu);
    let r = (0..F::LANES)
        .fold(0, |r, n| r | F::truth(F::lane(a, n).predicate(F::lane(b, n), i.imm as u8, &mut fp)).at(n));
    conclude(cpu, &fp)?;
    u128::set(cpu, i.r0, r);
    Ok(())
}

/// CMPSS, CMPSD.
fn compare_scalar<F: Float, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let b = F::from_bits(S::part(cpu, env, i)?);
    let a = u128::get(cpu, i.r0);
    let mut fp = modes(cpu);
    let r = F::truth(F::lane(a, 0).predicate(b, i.imm as u8, &mut fp));
    conclude(cpu, &fp)?;
    u128::set(cpu, i.r0, r.bits().merged(a));
    Ok(())
}

#[inline(always)]
fn compare_flags<F: Float, S: Source>(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    i: &Insn,
    signalling: bool,
) -> Exec {
    const CF: u32 = 1 << 0;
    const PF: u32 = 1 << 2;
    const ZF: u32 = 1 << 6;
    sse_check(cpu)?;
    let b = F::from_bits(S::part(cpu, env, i)?);
    let a = F::lane(u128::get(cpu, i.r0), 0);
    let mut fp = modes(cpu);
    let relation = a.relation(b, signalling, &mut fp);
    conclude(cpu, &fp)?;
    cpu.flags = Flags::set(match relation {
        Relation::Less => CF,
        Relation::Equal => ZF,
        Relation::Greater => 0,
        Relation::Unordered => ZF | PF | CF,
    });
    Ok(())
}

/// COMISS, COMISD.
fn comis<F: Float, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    compare_flags::<F, S>(cpu, env, i, true)
}

/// UCOMISS, UCOMISD.
fn ucomis<F: Float, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    compare_flags::<F, S>(cpu, env, i, false)
}

/// HADDPS, HSUBPD …: neighbours combined, those of operand 0 first.
fn horizontal<F: Float, O: Op, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let b = S::vector(cpu, env, i)?;
    let a = u128::get(cpu, i.r0);
    let mut fp = modes(cpu);
    let half = F::LANES / 2;
    let r = (0..F::LANES).fold(0, |r, n| {
        let (v, pair) = if n < half { (a, n) } else { (b, n - half) };
        r | O::apply(F::lane(v, 2 * pair), F::lane(v, 2 * pair + 1), &mut fp).at(n)
    });
    conclude(cpu, &fp)?;
    u128::set(cpu, i.r0, r);
    Ok(())
}

/// ADDSUBPS, ADDSUBPD: even elements are subtracted, odd ones added.
fn addsub<F: Float, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let b = S::vector(cpu, env, i)?;
    let a = u128::get(cpu, i.r0);
    let mut fp = modes(cpu);
    let r = (0..F::LANES).fold(0, |r, n| {
        let (a, b) = (F::lane(a, n), F::lane(b, n));
        r | if n & 1 == 0 { a.sub(b, &mut fp) } else { a.add(b, &mut fp) }.at(n)
    });
    conclude(cpu, &fp)?;
    u128::set(cpu, i.r0, r);
    Ok(())
}

/// An approximation: raises nothing and looks at no mode.
trait Approximation {
    fn apply(v: F32) -> F32;
}

struct Rcp;
struct Rsqrt;

impl Approximation for Rcp {
    #[inline(always)]
    fn apply(v: F32) -> F32 {
        v.reciprocal()
    }
}

impl Approximation for Rsqrt {
    #[inline(always)]
    fn apply(v: F32) -> F32 {
        v.reciprocal_sqrt()
    }
}

fn approximate_packed<A: Approximation, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let b: u128 = S::vector(cpu, env, i)?;
    let r = b.zip32(b, |x, _| A::apply(F32(x)).0);
    u128::set(cpu, i.r0, r);
    Ok(())
}

fn approximate_scalar<A: Approximation, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let b = F32(S::part(cpu, env, i)?);
    let r = A::apply(b).0.merged(u128::get(cpu, i.r0));
    u128::set(cpu, i.r0, r);
    Ok(())
}

/// Dispatch rows of this family.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    macro_rules! rows {
        ($($op:ident $ps:ident $pd:ident $ss:ident $sd:ident;)*) => {
            match d.mnemonic {
                $(
                    Mnemonic::$ps => by_source!(d, packed, F32, $op),
                    Mnemonic::$pd => by_source!(d, packed, F64, $op),
                    Mnemonic::$ss => by_source!(d, scalar, F32, $op),
                    Mnemonic::$sd => by_source!(d, scalar, F64, $op),
                )*
                _ => select_other(d),
            }
        };
    }
    rows! {
        Add Addps Addpd Addss Addsd;
        Sub Subps Subpd Subss Subsd;
        Mul Mulps Mulpd Mulss Mulsd;
        Div Divps Divpd Divss Divsd;
        Min Minps Minpd Minss Minsd;
        Max Maxps Maxpd Maxss Maxsd;
        Sqrt Sqrtps Sqrtpd Sqrtss Sqrtsd;
    }
}

fn select_other(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.mnemonic {
        Mnemonic::Cmpps => by_source!(d, compare_packed, F32),
        Mnemonic::Cmppd => by_source!(d, compare_packed, F64),
        Mnemonic::Cmpss => by_source!(d, compare_scalar, F32),
        Mnemonic::Cmpsd if !d.ins.is_string_instruction() => by_source!(d, compare_scalar, F64),
        Mnemonic::Comiss => by_source!(d, comis, F32),
        Mnemonic::Comisd => by_source!(d, comis, F64),
        Mnemonic::Ucomiss => by_source!(d, ucomis, F32),
        Mnemonic::Ucomisd => by_source!(d, ucomis, F64),
        Mnemonic::Haddps => by_source!(d, horizontal, F32, Add),
        Mnemonic::Haddpd => by_source!(d, horizontal, F64, Add),
        Mnemonic::Hsubps => by_source!(d, horizontal, F32, Sub),
        Mnemonic::Hsubpd => by_source!(d, horizontal, F64, Sub),
        Mnemonic::Addsubps => by_source!(d, addsub, F32),
        Mnemonic::Addsubpd => by_source!(d, addsub, F64),
        Mnemonic::Rcpps => by_source!(d, approximate_packed, Rcp),
        Mnemonic::Rcpss => by_source!(d, approximate_scalar, Rcp),
        Mnemonic::Rsqrtps => by_source!(d, approximate_packed, Rsqrt),
        Mnemonic::Rsqrtss => by_source!(d, approximate_scalar, Rsqrt),
        _ => None,
    }
}
