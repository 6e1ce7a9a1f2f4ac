//! The IEEE 754 interchange formats with SSE's semantics, generic over `E` exponent and `M` fraction
//! bits. Images travel as `u64`; `f32.rs` and `f64.rs` give them types.

use super::exception::{DE, IE, ZE};
use super::round::{div_128_by_64, round_binary, round_to_integer, shift_right_jam64};
use super::sqrt::{sqrt_rem_64, sqrt_rem_128};
use super::{Env, Relation, Rounding};

/// Masks and properties of a format's images.
pub(super) struct Format<const E: u32, const M: u32>;

impl<const E: u32, const M: u32> Format<E, M> {
    pub(super) const EXP_MAX: u64 = (1 << E) - 1;
    pub(super) const BIAS: i32 = (1 << (E - 1)) - 1;
    pub(super) const SIGN: u64 = 1 << (E + M);
    pub(super) const INFINITY: u64 = Self::EXP_MAX << M;
    pub(super) const QUIET: u64 = 1 << (M - 1);
    pub(super) const DEFAULT_NAN: u64 = Self::SIGN | Self::INFINITY | Self::QUIET;
    const FRACTION: u64 = (1 << M) - 1;

    #[inline(always)]
    pub(super) const fn magnitude(bits: u64) -> u64 {
        bits & (Self::SIGN - 1)
    }

    #[inline(always)]
    pub(super) const fn is_negative(bits: u64) -> bool {
        bits & Self::SIGN != 0
    }

    #[inline(always)]
    pub(super) const fn is_nan(bits: u64) -> bool {
        Self::magnitude(bits) > Self::INFINITY
    }

    #[inline(always)]
    pub(super) const fn is_signalling(bits: u64) -> bool {
        Self::is_nan(bits) && bits & Self::QUIET == 0
    }

    #[inline(always)]
    pub(super) const fn is_infinity(bits: u64) -> bool {
        Self::magnitude(bits) == Self::INFINITY
    }

    #[inline(always)]
    pub(super) const fn is_zero(bits: u64) -> bool {
        Self::magnitude(bits) == 0
    }

    #[inline(always)]
    pub(super) const fn is_denormal(bits: u64) -> bool {
        Self::magnitude(bits) <= Self::FRACTION && !Self::is_zero(bits)
    }

    #[inline(always)]
    const fn exponent(bits: u64) -> u64 {
        bits >> M & Self::EXP_MAX
    }

    /// Normalised and finite: the fast path of every operation.
    #[inline(always)]
    const fn is_normal(bits: u64) -> bool {
        Self::exponent(bits).wrapping_sub(1) < Self::EXP_MAX - 1
    }

    #[inline(always)]
    const fn normal(bits: u64) -> Finite {
        Finite {
            neg: Self::is_negative(bits),
            exp: Self::exponent(bits) as i32,
            sig: 1 << 63 | (bits & Self::FRACTION) << (63 - M),
        }
    }

    /// Unpacks any finite nonzero number; denormals are normalised.
    #[inline]
    pub(super) const fn finite(bits: u64) -> Finite {
        if Self::exponent(bits) != 0 {
            return Self::normal(bits);
        }
        let sig = Self::magnitude(bits) << (63 - M);
        let shift = sig.leading_zeros();
        Finite { neg: Self::is_negative(bits), exp: 1 - shift as i32, sig: sig << shift }
    }

    /// An invalid operation's masked response.
    #[cold]
    fn invalid(env: &mut Env) -> u64 {
        env.raise(IE);
        Self::DEFAULT_NAN
    }

    /// The result if an operand is a NaN: the first operand unless only the second is one (SDM
    /// volume 1, table 4-7).
    fn nan2(a: u64, b: u64, env: &mut Env) -> Option<u64> {
        let first = if Self::is_nan(a) { a } else { b };
        if !Self::is_nan(first) {
            return None;
        }
        if Self::is_signalling(a) || Self::is_signalling(b) {
            env.raise(IE);
        }
        Some(first | Self::QUIET)
    }

    /// Zero in place of a denormal if MXCSR.DAZ asks for it.
    #[inline(always)]
    pub(super) fn flush_operand(bits: u64, env: &Env) -> u64 {
        if env.daz && Self::is_denormal(bits) { bits & Self::SIGN } else { bits }
    }

    /// Raises DE for denormal operands (already flushed under DAZ). True if that is unmasked: the
    /// operation stops there.
    #[inline]
    fn denormal_stops(a: u64, b: u64, env: &mut Env) -> bool {
        if Self::is_denormal(a) || Self::is_denormal(b) {
            env.raise(DE);
            return !env.masks(DE);
        }
        false
    }
}

/// A finite nonzero number: `(-1)^neg * sig * 2^(exp - bias - 63)` with bit 63 of `sig` set.
#[derive(Clone, Copy)]
pub(super) struct Finite {
    pub neg: bool,
    pub exp: i32,
    pub sig: u64,
}

/// Addition; `flip` is the sign bit for a subtraction and 0 for an addition.
#[inline]
pub(super) fn add<const E: u32, const M: u32>(a: u64, b: u64, flip: u64, env: &mut Env) -> u64 {
    if Format::<E, M>::is_normal(a) && Format::<E, M>::is_normal(b) {
        return add_finite::<E, M>(Format::<E, M>::normal(a), Format::<E, M>::normal(b ^ flip), env);
    }
    add_special::<E, M>(a, b, flip, env)
}

#[inline]
fn add_finite<const E: u32, const M: u32>(a: Finite, b: Finite, env: &mut Env) -> u64 {
    let (a, b) = if a.exp > b.exp || (a.exp == b.exp && a.sig >= b.sig) { (a, b) } else { (b, a) };
    // One bit of headroom for the carry; the significands are short enough to lose nothing.
    let large = a.sig >> 1;
    let small = shift_right_jam64(b.sig >> 1, (a.exp - b.exp) as u32);
    let sum = if a.neg == b.neg { large + small } else { large - small };
    if sum == 0 {
        return zero_sum::<E, M>(env);
    }
    let shift = sum.leading_zeros();
    round_binary::<E, M>(a.neg, a.exp + 1 - shift as i32, sum << shift, env)
}

/// The exact zero sum of operands with different signs.
#[inline]
fn zero_sum<const E: u32, const M: u32>(env: &Env) -> u64 {
    if env.rounding == Rounding::Down { Format::<E, M>::SIGN } else { 0 }
}

#[cold]
fn add_special<const E: u32, const M: u32>(a: u64, b: u64, flip: u64, env: &mut Env) -> u64 {
    if let Some(nan) = Format::<E, M>::nan2(a, b, env) {
        return nan;
    }
    let a = Format::<E, M>::flush_operand(a, env);
    let b = Format::<E, M>::flush_operand(b, env) ^ flip;
    let (a_inf, b_inf) = (Format::<E, M>::is_infinity(a), Format::<E, M>::is_infinity(b));
    if a_inf && b_inf && a != b {
        return Format::<E, M>::invalid(env);
    }
    if Format::<E, M>::denormal_stops(a, b, env) || a_inf {
        return a;
    }
    if b_inf {
        return b;
    }
    match (Format::<E, M>::is_zero(a), Format::<E, M>::is_zero(b)) {
        (true, true) if a == b => a,
        (true, true) => zero_sum::<E, M>(env),
        (true, false) => round_operand::<E, M>(b, env),
        (false, true) => round_operand::<E, M>(a, env),
        (false, false) => add_finite::<E, M>(Format::<E, M>::finite(a), Format::<E, M>::finite(b), env),
    }
}

/// A number that is the result already, but may be tiny.
fn round_operand<const E: u32, const M: u32>(a: u64, env: &mut Env) -> u64 {
    let a = Format::<E, M>::finite(a);
    round_binary::<E, M>(a.neg, a.exp, a.sig, env)
}

/// Multiplication.
#[inline]
pub(super) fn mul<const E: u32, const M: u32>(a: u64, b: u64, env: &mut Env) -> u64 {
    if Format::<E, M>::is_normal(a) && Format::<E, M>::is_normal(b) {
        return mul_finite::<E, M>(Format::<E, M>::normal(a), Format::<E, M>::normal(b), env);
    }
    mul_special::<E, M>(a, b, env)
}

#[inline]
fn mul_finite<const E: u32, const M: u32>(a: Finite, b: Finite, env: &mut Env) -> u64 {
    let product = u128::from(a.sig) * u128::from(b.sig);
    let sig = (product >> 64) as u64 | u64::from(product as u64 != 0);
    let shift = sig.leading_zeros();
    let exp = a.exp + b.exp - (Format::<E, M>::BIAS - 1) - shift as i32;
    round_binary::<E, M>(a.neg != b.neg, exp, sig << shift, env)
}

#[cold]
fn mul_special<const E: u32, const M: u32>(a: u64, b: u64, env: &mut Env) -> u64 {
    if let Some(nan) = Format::<E, M>::nan2(a, b, env) {
        return nan;
    }
    let a = Format::<E, M>::flush_operand(a, env);
    let b = Format::<E, M>::flush_operand(b, env);
    let sign = (a ^ b) & Format::<E, M>::SIGN;
    let infinite = Format::<E, M>::is_infinity(a) || Format::<E, M>::is_infinity(b);
    let zero = Format::<E, M>::is_zero(a) || Format::<E, M>::is_zero(b);
    if infinite && zero {
        return Format::<E, M>::invalid(env);
    }
    if Format::<E, M>::denormal_stops(a, b, env) {
        return a;
    }
    if infinite {
        return sign | Format::<E, M>::INFINITY;
    }
    if zero {
        return sign;
    }
    mul_finite::<E, M>(Format::<E, M>::finite(a), Format::<E, M>::finite(b), env)
}

/// Division.
#[inline]
pub(super) fn div<const E: u32, const M: u32>(a: u64, b: u64, env: &mut Env) -> u64 {
    if Format::<E, M>::is_normal(a) && Format::<E, M>::is_normal(b) {
        return div_finite::<E, M>(Format::<E, M>::normal(a), Format::<E, M>::normal(b), env);
    }
    div_special::<E, M>(a, b, env)
}

#[inline]
fn div_finite<const E: u32, const M: u32>(a: Finite, b: Finite, env: &mut Env) -> u64 {
    // A quotient in (2^62, 2^64); both ways the remainder is jammed into its last bit.
    let quotient = if M < 31 {
        // The significands have their low 32 bits clear.
        let (num, divisor) = (a.sig >> 1, b.sig >> 32);
        ((num / divisor) << 32) | u64::from(num % divisor != 0)
    } else {
        let (quotient, rem) = div_128_by_64(a.sig >> 1, a.sig << 63, b.sig);
        quotient | u64::from(rem != 0)
    };
    let shift = quotient.leading_zeros();
    let exp = a.exp - b.exp + Format::<E, M>::BIAS - shift as i32;
    round_binary::<E, M>(a.neg != b.neg, exp, quotient << shift, env)
}

#[cold]
fn div_special<const E: u32, const M: u32>(a: u64, b: u64, env: &mut Env) -> u64 {
    if let Some(nan) = Format::<E, M>::nan2(a, b, env) {
        return nan;
    }
    let a = Format::<E, M>::flush_operand(a, env);
    let b = Format::<E, M>::flush_operand(b, env);
    let sign = (a ^ b) & Format::<E, M>::SIGN;
    let (a_inf, b_inf) = (Format::<E, M>::is_infinity(a), Format::<E, M>::is_infinity(b));
    let (a_zero, b_zero) = (Format::<E, M>::is_zero(a), Format::<E, M>::is_zero(b));
    if (a_inf && b_inf) || (a_zero && b_zero) {
        return Format::<E, M>::invalid(env);
    }
    if b_zero && !a_inf {
        env.raise(ZE);
        return sign | Format::<E, M>::INFINITY;
    }
    if Format::<E, M>::denormal_stops(a, b, env) {
        return a;
    }
    if a_inf {
        return sign | Format::<E, M>::INFINITY;
    }
    if a_zero || b_inf {
        return sign;
    }
    div_finite::<E, M>(Format::<E, M>::finite(a), Format::<E, M>::finite(b), env)
}

/// Square root.
#[inline]
pub(super) fn sqrt<const E: u32, const M: u32>(a: u64, env: &mut Env) -> u64 {
    if Format::<E, M>::is_normal(a) && !Format::<E, M>::is_negative(a) {
        return sqrt_finite::<E, M>(Format::<E, M>::normal(a), env);
    }
    sqrt_special::<E, M>(a, env)
}

#[inline]
fn sqrt_finite<const E: u32, const M: u32>(a: Finite, env: &mut Env) -> u64 {
    let exp = a.exp - Format::<E, M>::BIAS;
    let odd = (exp & 1) as u32;
    let sig = if M < 31 {
        // 32 bits of root are enough for 24 and the rounding bits.
        let (root, rem) = sqrt_rem_64(a.sig >> (1 - odd));
        root << 32 | u64::from(rem != 0)
    } else {
        let (root, rem) = sqrt_rem_128(u128::from(a.sig) << (63 + odd));
        root | u64::from(rem != 0)
    };
    round_binary::<E, M>(false, (exp >> 1) + Format::<E, M>::BIAS, sig, env)
}

#[cold]
fn sqrt_special<const E: u32, const M: u32>(a: u64, env: &mut Env) -> u64 {
    if let Some(nan) = Format::<E, M>::nan2(a, a, env) {
        return nan;
    }
    let a = Format::<E, M>::flush_operand(a, env);
    if Format::<E, M>::is_zero(a) {
        return a;
    }
    if Format::<E, M>::is_negative(a) {
        return Format::<E, M>::invalid(env);
    }
    if Format::<E, M>::is_infinity(a) || Format::<E, M>::denormal_stops(a, a, env) {
        return a;
    }
    sqrt_finite::<E, M>(Format::<E, M>::finite(a), env)
}

/// Compares; `signalling` makes quiet NaNs an invalid operation too.
#[inline]
pub(super) fn compare<const E: u32, const M: u32>(
    a: u64,
    b: u64,
    signalling: bool,
    env: &mut Env,
) -> Relation {
    let (mut a, mut b) = (a, b);
    if !(Format::<E, M>::is_normal(a) && Format::<E, M>::is_normal(b)) {
        if Format::<E, M>::is_nan(a) || Format::<E, M>::is_nan(b) {
            if signalling || Format::<E, M>::is_signalling(a) || Format::<E, M>::is_signalling(b) {
                env.raise(IE);
            }
            return Relation::Unordered;
        }
        a = Format::<E, M>::flush_operand(a, env);
        b = Format::<E, M>::flush_operand(b, env);
        Format::<E, M>::denormal_stops(a, b, env);
    }
    // Two's complement keys order like the values, and map both zeros to 0.
    let key = |x: u64| {
        let magnitude = Format::<E, M>::magnitude(x) as i64;
        if Format::<E, M>::is_negative(x) { -magnitude } else { magnitude }
    };
    match key(a).cmp(&key(b)) {
        core::cmp::Ordering::Less => Relation::Less,
        core::cmp::Ordering::Equal => Relation::Equal,
        core::cmp::Ordering::Greater => Relation::Greater,
    }
}

/// MINPS and MAXPS: `wanted` is the relation in which the first operand is the result. NaNs and two
/// zeros select the second operand, which is not quieted.
#[inline]
pub(super) fn select<const E: u32, const M: u32>(a: u64, b: u64, wanted: Relation, env: &mut Env) -> u64 {
    let result = if compare::<E, M>(a, b, true, env) == wanted { a } else { b };
    Format::<E, M>::flush_operand(result, env)
}

/// Converts to a 32-bit integer; out of range gives IE and 80000000h.
#[inline]
pub(super) fn to_i32<const E: u32, const M: u32>(a: u64, mode: Rounding, env: &mut Env) -> i32 {
    let a = Format::<E, M>::flush_operand(a, env);
    if Format::<E, M>::is_zero(a) {
        return 0;
    }
    let x = Format::<E, M>::finite(a);
    let exp = x.exp - Format::<E, M>::BIAS;
    if exp > 31 {
        env.raise(IE);
        return i32::MIN;
    }
    let (magnitude, inexact, up) = round_to_integer(x.neg, exp, x.sig, mode);
    if magnitude > i32::MAX as u64 + u64::from(x.neg) {
        env.raise(IE);
        return i32::MIN;
    }
    if inexact {
        env.inexact(up);
    }
    (if x.neg { -(magnitude as i64) } else { magnitude as i64 }) as i32
}

/// Converts a 32-bit integer.
#[inline]
pub(super) fn from_i32<const E: u32, const M: u32>(value: i32, env: &mut Env) -> u64 {
    if value == 0 {
        return 0;
    }
    let magnitude = u64::from(value.unsigned_abs());
    let shift = magnitude.leading_zeros();
    round_binary::<E, M>(value < 0, Format::<E, M>::BIAS + 63 - shift as i32, magnitude << shift, env)
}

/// Converts between formats: from `E1`, `M1` to `E2`, `M2`.
#[inline]
pub(super) fn convert<const E1: u32, const M1: u32, const E2: u32, const M2: u32>(
    a: u64,
    env: &mut Env,
) -> u64 {
    let sign = if Format::<E1, M1>::is_negative(a) { Format::<E2, M2>::SIGN } else { 0 };
    if !Format::<E1, M1>::is_normal(a) {
        if Format::<E1, M1>::is_nan(a) {
            if Format::<E1, M1>::is_signalling(a) {
                env.raise(IE);
            }
            // The top of the fraction is kept.
            let fraction = a << (64 - M1) >> (64 - M2);
            return sign | Format::<E2, M2>::INFINITY | Format::<E2, M2>::QUIET | fraction;
        }
        let a = Format::<E1, M1>::flush_operand(a, env);
        if Format::<E1, M1>::is_infinity(a) {
            return sign | Format::<E2, M2>::INFINITY;
        }
        if Format::<E1, M1>::is_zero(a) || Format::<E1, M1>::denormal_stops(a, a, env) {
            return sign;
        }
    }
    let x = Format::<E1, M1>::finite(a);
    let exp = x.exp - Format::<E1, M1>::BIAS + Format::<E2, M2>::BIAS;
    round_binary::<E2, M2>(x.neg, exp, x.sig, env)
}

/// Gives a format's image type its operations.
macro_rules! binary_type {
    ($name:ident, $bits:ty, $exponent:literal, $fraction:literal, $format:literal) => {
        #[doc = concat!("An ", $format, " image, with SSE's semantics.")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name(
            /// The bits.
            pub $bits,
        );

        impl $name {
            #[inline(always)]
            fn wide(self) -> u64 {
                u64::from(self.0)
            }

            /// Sum.
            #[inline]
            pub fn add(self, b: Self, env: &mut Env) -> Self {
                Self(binary::add::<$exponent, $fraction>(self.wide(), b.wide(), 0, env) as $bits)
            }

            /// Difference.
            #[inline]
            pub fn sub(self, b: Self, env: &mut Env) -> Self {
                let sign = Format::<$exponent, $fraction>::SIGN;
                Self(binary::add::<$exponent, $fraction>(self.wide(), b.wide(), sign, env) as $bits)
            }

            /// Product.
            #[inline]
            pub fn mul(self, b: Self, env: &mut Env) -> Self {
                Self(binary::mul::<$exponent, $fraction>(self.wide(), b.wide(), env) as $bits)
            }

            /// Quotient.
            #[inline]
            pub fn div(self, b: Self, env: &mut Env) -> Self {
                Self(binary::div::<$exponent, $fraction>(self.wide(), b.wide(), env) as $bits)
            }

            /// Square root.
            #[inline]
            pub fn sqrt(self, env: &mut Env) -> Self {
                Self(binary::sqrt::<$exponent, $fraction>(self.wide(), env) as $bits)
            }

            /// The smaller operand; `b` (unquieted) if either is a NaN or both are zeros.
            #[inline]
            pub fn min(self, b: Self, env: &mut Env) -> Self {
                Self(binary::select::<$exponent, $fraction>(self.wide(), b.wide(), Relation::Less, env)
                    as $bits)
            }

            /// The larger operand; `b` (unquieted) if either is a NaN or both are zeros.
            #[inline]
            pub fn max(self, b: Self, env: &mut Env) -> Self {
                Self(binary::select::<$exponent, $fraction>(self.wide(), b.wide(), Relation::Greater, env)
                    as $bits)
            }

            /// Comparison in which any NaN raises IE (COMISS, the LT and LE predicates).
            #[inline]
            pub fn compare(self, b: Self, env: &mut Env) -> Relation {
                binary::compare::<$exponent, $fraction>(self.wide(), b.wide(), true, env)
            }

            /// Comparison in which only signalling NaNs raise IE (UCOMISS, the EQ and UNORD predicates).
            #[inline]
            pub fn compare_quiet(self, b: Self, env: &mut Env) -> Relation {
                binary::compare::<$exponent, $fraction>(self.wide(), b.wide(), false, env)
            }

            /// The predicate of CMPPS and its relatives, by bits 2-0 of its immediate: EQ, LT, LE,
            /// UNORD, NEQ, NLT, NLE, ORD.
            #[inline]
            pub fn predicate(self, b: Self, predicate: u8, env: &mut Env) -> bool {
                let signalling = matches!(predicate & 3, 1 | 2);
                let relation =
                    binary::compare::<$exponent, $fraction>(self.wide(), b.wide(), signalling, env);
                let holds = match predicate & 3 {
                    0 => relation == Relation::Equal,
                    1 => relation == Relation::Less,
                    2 => matches!(relation, Relation::Less | Relation::Equal),
                    _ => relation == Relation::Unordered,
                };
                holds != (predicate & 4 != 0)
            }

            /// Rounded to a 32-bit integer; IE and 80000000h out of range.
            #[inline]
            pub fn to_i32(self, env: &mut Env) -> i32 {
                binary::to_i32::<$exponent, $fraction>(self.wide(), env.rounding, env)
            }

            /// Truncated to a 32-bit integer; IE and 80000000h out of range.
            #[inline]
            pub fn to_i32_truncated(self, env: &mut Env) -> i32 {
                binary::to_i32::<$exponent, $fraction>(self.wide(), Rounding::Zero, env)
            }

            /// From a 32-bit integer.
            #[inline]
            pub fn from_i32(value: i32, env: &mut Env) -> Self {
                Self(binary::from_i32::<$exponent, $fraction>(value, env) as $bits)
            }
        }
    };
}
pub(super) use binary_type;
