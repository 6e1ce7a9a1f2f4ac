//! Add, subtract, multiply, divide, square root, compare and round to integer of the 80-bit format.

use super::exception::{IE, ZE};
use super::f80::Finite;
use super::round::{div_128_by_64, round_f80, round_to_integer, shift_right_jam};
use super::sqrt::sqrt_rem_128;
use super::{Env, F80, Relation, Rounding};

impl F80 {
    /// FADD: `self + b`, rounded to the precision control.
    #[inline]
    pub fn add(self, b: Self, env: &mut Env) -> Self {
        if self.is_normal() && b.is_normal() {
            return add_finite(self.normal(), b.normal(), env);
        }
        add_special(self, b, 0, env)
    }

    /// FSUB: `self - b`, rounded to the precision control.
    #[inline]
    pub fn sub(self, b: Self, env: &mut Env) -> Self {
        if self.is_normal() && b.is_normal() {
            return add_finite(self.normal(), b.neg().normal(), env);
        }
        add_special(self, b, 0x8000, env)
    }

    /// FMUL: `self * b`, rounded to the precision control.
    #[inline]
    pub fn mul(self, b: Self, env: &mut Env) -> Self {
        if self.is_normal() && b.is_normal() {
            return mul_finite(self.normal(), b.normal(), env);
        }
        mul_special(self, b, env)
    }

    /// FDIV: `self / b`, rounded to the precision control.
    #[inline]
    pub fn div(self, b: Self, env: &mut Env) -> Self {
        if self.is_normal() && b.is_normal() {
            return div_finite(self.normal(), b.normal(), env);
        }
        div_special(self, b, env)
    }

    /// FSQRT: square root, rounded to the precision control. The root of -0 is -0.
    #[inline]
    pub fn sqrt(self, env: &mut Env) -> Self {
        if self.is_normal() && !self.is_negative() {
            return sqrt_finite(self.normal(), env);
        }
        sqrt_special(self, env)
    }

    /// FRNDINT: rounds to an integral value in the current rounding mode.
    pub fn round_to_integral(self, env: &mut Env) -> Self {
        if let Some(nan) = Self::nan1(self, env) {
            return nan;
        }
        if self.is_zero() || self.is_infinity() || Self::denormal_stops(self.is_denormal(), env) {
            return self;
        }
        let x = self.finite();
        let exp = x.exp - Self::BIAS;
        if exp >= 63 {
            return self;
        }
        let (magnitude, inexact, up) = round_to_integer(x.neg, exp, x.sig, env.rounding);
        if inexact {
            env.inexact(up);
        }
        Self::from_magnitude(x.neg, magnitude)
    }

    /// FCOM, FTST, FCOMI: comparison in which any NaN is an invalid operation.
    #[inline]
    pub fn compare(self, b: Self, env: &mut Env) -> Relation {
        if self.is_normal() && b.is_normal() {
            return compare_ordered(self, b);
        }
        compare_special(self, b, true, env)
    }

    /// FUCOM, FUCOMI: comparison in which only signalling NaNs and unsupported formats are invalid
    /// operations.
    #[inline]
    pub fn compare_quiet(self, b: Self, env: &mut Env) -> Relation {
        if self.is_normal() && b.is_normal() {
            return compare_ordered(self, b);
        }
        compare_special(self, b, false, env)
    }

    /// An integer magnitude with a sign, exactly.
    #[inline]
    pub(super) fn from_magnitude(neg: bool, magnitude: u64) -> Self {
        if magnitude == 0 {
            return Self::zero(neg);
        }
        let shift = magnitude.leading_zeros();
        Self::pack(neg, (Self::BIAS + 63) as u16 - shift as u16, magnitude << shift)
    }
}

/// The sign of an exact zero sum of operands with different signs.
#[inline]
fn zero_sum(env: &Env) -> F80 {
    F80::zero(env.rounding == Rounding::Down)
}

#[inline]
fn add_finite(a: Finite, b: Finite, env: &mut Env) -> F80 {
    // Order by magnitude, so that the smaller one is shifted and subtracted.
    let (a, b) = if a.exp > b.exp || (a.exp == b.exp && a.sig >= b.sig) { (a, b) } else { (b, a) };
    // One bit of headroom for the carry.
    let large = u128::from(a.sig) << 63;
    let small = shift_right_jam(u128::from(b.sig) << 63, (a.exp - b.exp) as u32);
    let sum = if a.neg == b.neg { large + small } else { large - small };
    if sum == 0 {
        return zero_sum(env);
    }
    let shift = sum.leading_zeros();
    round_f80(a.neg, a.exp + 1 - shift as i32, sum << shift, env.precision, env)
}

#[cold]
fn add_special(a: F80, b: F80, flip: u16, env: &mut Env) -> F80 {
    if let Some(nan) = F80::nan2(a, b, env) {
        return nan;
    }
    let b = F80 { sig: b.sig, se: b.se ^ flip };
    if a.is_infinity() && b.is_infinity() && a.is_negative() != b.is_negative() {
        return F80::invalid(env);
    }
    if F80::denormal_stops(a.is_denormal() || b.is_denormal(), env) {
        return a;
    }
    if a.is_infinity() {
        return a;
    }
    if b.is_infinity() {
        return b;
    }
    match (a.is_zero(), b.is_zero()) {
        (true, true) if a.is_negative() == b.is_negative() => a,
        (true, true) => zero_sum(env),
        // The other operand still has to be rounded to the precision.
        (true, false) => round_operand(b, env),
        (false, true) => round_operand(a, env),
        (false, false) => add_finite(a.finite(), b.finite(), env),
    }
}

fn round_operand(a: F80, env: &mut Env) -> F80 {
    let a = a.finite();
    round_f80(a.neg, a.exp, u128::from(a.sig) << 64, env.precision, env)
}

#[inline]
fn mul_finite(a: Finite, b: Finite, env: &mut Env) -> F80 {
    let product = u128::from(a.sig) * u128::from(b.sig);
    let shift = (product.leading_zeros() & 1) as i32;
    round_f80(a.neg != b.neg, a.exp + b.exp - (F80::BIAS - 1) - shift, product << shift, env.precision, env)
}

#[cold]
fn mul_special(a: F80, b: F80, env: &mut Env) -> F80 {
    if let Some(nan) = F80::nan2(a, b, env) {
        return nan;
    }
    let neg = a.is_negative() != b.is_negative();
    if (a.is_infinity() && b.is_zero()) || (a.is_zero() && b.is_infinity()) {
        return F80::invalid(env);
    }
    if F80::denormal_stops(a.is_denormal() || b.is_denormal(), env) {
        return a;
    }
    if a.is_infinity() || b.is_infinity() {
        return F80::infinity(neg);
    }
    if a.is_zero() || b.is_zero() {
        return F80::zero(neg);
    }
    mul_finite(a.finite(), b.finite(), env)
}

#[inline]
fn div_finite(a: Finite, b: Finite, env: &mut Env) -> F80 {
    let mut exp = a.exp - b.exp + F80::BIAS;
    // A quotient in [2^63, 2^64).
    let (hi, lo) = if a.sig < b.sig {
        exp -= 1;
        (a.sig, 0)
    } else {
        (a.sig >> 1, a.sig << 63)
    };
    let (quotient, rem) = div_128_by_64(hi, lo, b.sig);
    // What follows the quotient: its first bit, and whether anything is below that.
    let tail = if rem == 0 { 0 } else { u64::from(rem >= b.sig - rem) << 63 | u64::from(rem != b.sig - rem) };
    round_f80(a.neg != b.neg, exp, u128::from(quotient) << 64 | u128::from(tail), env.precision, env)
}

#[cold]
fn div_special(a: F80, b: F80, env: &mut Env) -> F80 {
    if let Some(nan) = F80::nan2(a, b, env) {
        return nan;
    }
    let neg = a.is_negative() != b.is_negative();
    if (a.is_infinity() && b.is_infinity()) || (a.is_zero() && b.is_zero()) {
        return F80::invalid(env);
    }
    if b.is_zero() && !a.is_infinity() {
        env.raise(ZE);
        return F80::infinity(neg);
    }
    if F80::denormal_stops(a.is_denormal() || b.is_denormal(), env) {
        return a;
    }
    if a.is_infinity() {
        return F80::infinity(neg);
    }
    if a.is_zero() || b.is_infinity() {
        return F80::zero(neg);
    }
    div_finite(a.finite(), b.finite(), env)
}

#[inline]
fn sqrt_finite(a: Finite, env: &mut Env) -> F80 {
    let exp = a.exp - F80::BIAS;
    // An even exponent leaves a significand in [1, 2) and an odd one in [2, 4).
    let (root, rem) = sqrt_rem_128(u128::from(a.sig) << (63 + (exp & 1)));
    // A root is never half way between two numbers of twice its length, so "above half" suffices.
    let tail = u64::from(rem != 0) | u64::from(rem > u128::from(root)) << 63;
    round_f80(false, (exp >> 1) + F80::BIAS, u128::from(root) << 64 | u128::from(tail), env.precision, env)
}

#[cold]
fn sqrt_special(a: F80, env: &mut Env) -> F80 {
    if let Some(nan) = F80::nan1(a, env) {
        return nan;
    }
    if a.is_zero() {
        return a;
    }
    if a.is_negative() {
        return F80::invalid(env);
    }
    if a.is_infinity() || F80::denormal_stops(a.is_denormal(), env) {
        return a;
    }
    sqrt_finite(a.finite(), env)
}

/// Compares numbers that are not NaN. A pseudo-denormal has the value its image orders by, except
/// against the normals of exponent 1, which it equals.
#[inline]
fn compare_ordered(a: F80, b: F80) -> Relation {
    if a.is_zero() && b.is_zero() {
        return Relation::Equal;
    }
    if a.is_negative() != b.is_negative() {
        return if a.is_negative() { Relation::Less } else { Relation::Greater };
    }
    let key = |x: F80| (if x.is_zero() { 0 } else { x.exponent().max(1) }, x.sig);
    let (first, second) = if a.is_negative() { (key(b), key(a)) } else { (key(a), key(b)) };
    match first.cmp(&second) {
        core::cmp::Ordering::Less => Relation::Less,
        core::cmp::Ordering::Equal => Relation::Equal,
        core::cmp::Ordering::Greater => Relation::Greater,
    }
}

#[cold]
fn compare_special(a: F80, b: F80, signalling: bool, env: &mut Env) -> Relation {
    if a.is_unsupported() || b.is_unsupported() || a.is_signalling() || b.is_signalling() {
        env.raise(IE);
        return Relation::Unordered;
    }
    if a.is_nan() || b.is_nan() {
        if signalling {
            env.raise(IE);
        }
        return Relation::Unordered;
    }
    F80::denormal_stops(a.is_denormal() || b.is_denormal(), env);
    compare_ordered(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::softfloat::exception::{OE, PE, UE};

    fn f(exp: u16, sig: u64) -> F80 {
        F80 { sig, se: exp }
    }

    #[test]
    fn add_unmasked_overflow_wraps_the_exponent() {
        let max = f(0x7ffe, u64::MAX);
        let mut env = Env { masked: !OE, ..Env::DEFAULT };
        assert_eq!(max.add(max, &mut env), f(0x7fff - 0x6000, u64::MAX));
        assert_eq!(env.flags, OE);
        assert!(!env.suppresses_result() && env.suppresses_store());
        let mut env = Env::DEFAULT;
        assert_eq!(max.add(max, &mut env), F80::infinity(false));
        assert_eq!((env.flags, env.c1), (OE | PE, true));
    }

    #[test]
    fn mul_unmasked_underflow_signals_exact_tiny_results() {
        let min = f(1, 1 << 63);
        let half = f(0x3ffe, 1 << 63);
        let mut env = Env::DEFAULT;
        assert_eq!(min.mul(half, &mut env), f(0, 1 << 62));
        assert_eq!(env.flags, 0);
        let mut env = Env { masked: !UE, ..Env::DEFAULT };
        assert_eq!(min.mul(half, &mut env), f(0x6000, 1 << 63));
        assert_eq!(env.flags, UE);
    }

    #[test]
    fn sqrt_of_four_is_exact() {
        let mut env = Env::DEFAULT;
        assert_eq!(f(0x4001, 1 << 63).sqrt(&mut env), f(0x4000, 1 << 63));
        assert_eq!(env.flags, 0);
    }

    #[test]
    fn compare_pseudo_denormal_equals_smallest_normal() {
        let mut env = Env::DEFAULT;
        assert_eq!(f(0, 1 << 63).compare(f(1, 1 << 63), &mut env), Relation::Equal);
        assert_eq!(F80::ZERO.compare(F80::zero(true), &mut env), Relation::Equal);
    }
}
