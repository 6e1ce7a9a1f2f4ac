//! A 128-bit working format for the transcendental functions: fixed-point fractions for polynomials
//! and a float for what needs a relative error. Operations truncate; each costs one or two units in
//! the 128th bit, which leaves well over 100 good bits in front of the rounding to 64.

use super::f80::Finite;
use super::round::{div_128_by_64, round_f80, shift_right_jam};
use super::{Env, F80, Precision};

/// `(-1)^neg * sig * 2^(exp - 127)` with bit 127 of `sig` set: never zero, and `exp` is not biased.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wide {
    pub neg: bool,
    pub exp: i32,
    pub sig: u128,
}

/// Upper half of a product: the product of two fractions with 128 fraction bits.
#[inline(always)]
pub(super) fn mul_high(a: u128, b: u128) -> u128 {
    let (a1, a0) = (a >> 64, a & u128::from(u64::MAX));
    let (b1, b0) = (b >> 64, b & u128::from(u64::MAX));
    let (mid_1, mid_2) = (a1 * b0, a0 * b1);
    let low = u128::from(u64::MAX);
    let carry = ((a0 * b0) >> 64) + (mid_1 & low) + (mid_2 & low);
    a1 * b1 + (mid_1 >> 64) + (mid_2 >> 64) + (carry >> 64)
}

/// `c[0] - z * (c[1] - z * (c[2] - ...))` in fractions with 128 fraction bits. The coefficients fall,
/// so nothing underflows.
#[inline(always)]
pub(super) fn alternating_series(z: u128, coefficients: &[u128]) -> u128 {
    coefficients.iter().rev().fold(0, |sum, c| c - mul_high(z, sum))
}

/// `c[0] + z * (c[1] + z * (c[2] + ...))` in fractions with 128 fraction bits.
#[inline(always)]
pub(super) fn series(z: u128, coefficients: &[u128]) -> u128 {
    coefficients.iter().rev().fold(0, |sum, c| c + mul_high(z, sum))
}

/// `n!` up to the largest that fits.
const fn factorial(n: u128) -> u128 {
    if n == 0 { 1 } else { n * factorial(n - 1) }
}

/// `1 / (first + step * i)!` with 128 fraction bits.
pub(super) const fn inverse_factorials<const N: usize>(first: u128, step: u128) -> [u128; N] {
    let mut table = [0; N];
    let mut i = 0;
    while i < N {
        table[i] = u128::MAX / factorial(first + step * i as u128);
        i += 1;
    }
    table
}

/// `1 / (first + step * i)` with 128 fraction bits.
pub(super) const fn inverses<const N: usize>(first: u128, step: u128) -> [u128; N] {
    let mut table = [0; N];
    let mut i = 0;
    while i < N {
        table[i] = u128::MAX / (first + step * i as u128);
        i += 1;
    }
    table
}

/// `a / b` in (1/2, 2) as a fraction with 127 fraction bits, for significands with bit 127 set.
fn divide_significands(a: u128, b: u128) -> u128 {
    // Two digits of 64 bits by Knuth's algorithm D; the numerator is halved to keep the quotient
    // below one.
    let (b1, b0) = ((b >> 64) as u64, b as u64);
    let mut rem = a >> 1;
    let mut digit = || {
        // The remainder is below the divisor, but its upper half may equal the divisor's.
        let hi = (rem >> 64) as u64;
        let (mut q, mut r) = if hi >= b1 {
            (u64::MAX, u128::from(rem as u64) + u128::from(b1))
        } else {
            let (q, r) = div_128_by_64(hi, rem as u64, b1);
            (q, u128::from(r))
        };
        // r:0 - q * b0, the estimate being at most two too large.
        let mut low = u128::from(q) * u128::from(b0);
        while r >> 64 == 0 && low > r << 64 {
            q -= 1;
            low -= u128::from(b0);
            r += u128::from(b1);
        }
        rem = (r << 64).wrapping_sub(low);
        q
    };
    let high = digit();
    u128::from(high) << 64 | u128::from(digit())
}

impl Wide {
    /// From a finite number of the 80-bit format.
    #[inline]
    pub(super) fn from_finite(a: Finite) -> Self {
        Self { neg: a.neg, exp: a.exp - F80::BIAS, sig: u128::from(a.sig) << 64 }
    }

    /// `(-1)^neg * value * 2^exp` of a nonzero fraction with 128 fraction bits.
    #[inline]
    pub(super) fn from_fraction(neg: bool, value: u128, exp: i32) -> Self {
        debug_assert!(value != 0);
        let shift = value.leading_zeros();
        Self { neg, exp: exp - 1 - shift as i32, sig: value << shift }
    }

    /// The magnitude as a fraction with 128 fraction bits; it has to be below one. Never zero.
    #[inline]
    pub(super) fn fraction(self) -> u128 {
        debug_assert!(self.exp < 0);
        shift_right_jam(self.sig, (-1 - self.exp) as u32)
    }

    /// The square as a fraction with 128 fraction bits; the magnitude has to be below one. Never zero.
    #[inline]
    pub(super) fn square_fraction(self) -> u128 {
        debug_assert!(self.exp < 0);
        shift_right_jam(mul_high(self.sig, self.sig), (-2 - 2 * self.exp) as u32)
    }

    /// The number with its sign inverted.
    #[inline]
    pub(super) fn negated(self) -> Self {
        Self { neg: !self.neg, ..self }
    }

    /// Product.
    #[inline]
    pub(super) fn mul(self, b: Self) -> Self {
        let product = mul_high(self.sig, b.sig);
        let shift = product.leading_zeros();
        Self { neg: self.neg != b.neg, exp: self.exp + b.exp + 1 - shift as i32, sig: product << shift }
    }

    /// Product with a nonzero fraction of 128 fraction bits.
    #[inline]
    pub(super) fn mul_fraction(self, fraction: u128) -> Self {
        let product = mul_high(self.sig, fraction);
        let shift = product.leading_zeros();
        Self { neg: self.neg, exp: self.exp - shift as i32, sig: product << shift }
    }

    /// `self * (1 + fraction)`, the fraction having 128 fraction bits.
    #[inline]
    pub(super) fn mul_one_plus(self, fraction: u128) -> Self {
        match self.sig.overflowing_add(mul_high(self.sig, fraction)) {
            (sig, false) => Self { sig, ..self },
            (sig, true) => Self { neg: self.neg, exp: self.exp + 1, sig: 1 << 127 | sig >> 1 },
        }
    }

    /// Quotient.
    #[inline]
    pub(super) fn div(self, b: Self) -> Self {
        let quotient = divide_significands(self.sig, b.sig);
        let shift = quotient.leading_zeros();
        Self { neg: self.neg != b.neg, exp: self.exp - b.exp - shift as i32, sig: quotient << shift }
    }

    /// Sum of numbers that do not cancel each other completely.
    pub(super) fn add(self, b: Self) -> Self {
        let (a, b) = if (self.exp, self.sig) >= (b.exp, b.sig) { (self, b) } else { (b, self) };
        let small = shift_right_jam(b.sig, (a.exp - b.exp) as u32);
        if a.neg != b.neg {
            return Self::from_fraction(a.neg, a.sig - small, a.exp + 1);
        }
        match a.sig.overflowing_add(small) {
            (sig, false) => Self { sig, ..a },
            (sig, true) => Self { neg: a.neg, exp: a.exp + 1, sig: 1 << 127 | sig >> 1 },
        }
    }

    /// Rounds a result that is known to be inexact to the 80-bit format.
    #[inline]
    pub(super) fn round(self, env: &mut Env) -> F80 {
        round_f80(self.neg, self.exp + F80::BIAS, self.sig | 1, Precision::Extended, env)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(neg: bool, exp: i32, sig: u128) -> Wide {
        Wide { neg, exp, sig }
    }

    #[test]
    fn divide_significands_awkward_digits_multiply_back() {
        let picks = [
            1 << 127,
            1 << 127 | 1,
            1 << 127 | u128::from(u64::MAX),
            u128::MAX << 64,
            u128::MAX << 64 | 1,
            u128::MAX - 1,
            u128::MAX,
            0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1,
        ];
        for a in picks {
            for b in picks {
                let quotient = divide_significands(a, b);
                // quotient * b <= a * 2^127 < (quotient + 1) * b, by the upper halves.
                let back = mul_high(quotient, b);
                assert!((a >> 1).abs_diff(back) <= 1, "{a:x} {b:x} {quotient:x}");
            }
        }
    }

    #[test]
    fn add_of_opposite_signs_normalises() {
        let one = wide(false, 0, 1 << 127);
        let below = wide(true, -1, u128::MAX << 1);
        let sum = one.add(below);
        assert_eq!((sum.neg, sum.exp, sum.sig), (false, -127, 1 << 127));
        let sum = one.add(one);
        assert_eq!((sum.exp, sum.sig), (1, 1 << 127));
    }
}
