//! F2XM1, FYL2X and FYL2XP1.
//!
//! Results are rounded from well over 100 bits. As on the silicon they always count as inexact, apart
//! from the special cases; outside of the ranges the SDM defines, the functions do what the silicon
//! does.

use super::exception::{PE, UE, ZE};
use super::f80::Finite;
use super::round::round_f80;
use super::tables::{EXP2_MINUS_1, LN_2, LOG2, LOG2_E, LOG2_FIRST, near_reciprocal};
use super::wide::{Wide, alternating_series, inverse_factorials, inverses, mul_high, series};
use super::{Env, F80, Precision};

/// `1/2!, 1/3!, ...`; the next term is below 2^-135 for arguments up to ln 2 / 32.
const EXP: [u128; 15] = inverse_factorials(2, 1);
/// `1/3, 1/5, ...`; the next term is below 2^-140 for arguments up to 1/128.
const ATANH: [u128; 9] = inverses(3, 2);

impl F80 {
    /// F2XM1: `2^self - 1` for a magnitude up to one. Larger finite numbers are returned as they are.
    pub fn exp2_minus_1(self, env: &mut Env) -> Self {
        if let Some(nan) = Self::nan1(self, env) {
            return nan;
        }
        if self.is_infinity() {
            return if self.is_negative() { Self::ONE.neg() } else { self };
        }
        if self.is_zero() || Self::denormal_stops(self.is_denormal(), env) {
            return self;
        }
        let x = self.finite();
        match x.exp - Self::BIAS {
            ..-5 => near_zero_exp2_minus_1(Wide::from_finite(x)).round(env),
            -5..0 => exp2_minus_1(Wide::from_finite(x)).round(env),
            _ => {
                env.raise(PE);
                // 2^-1 - 1 is -1/2, and 2^1 - 1 is 1 itself.
                let minus_one = self == Self::ONE.neg();
                if minus_one { Self { sig: self.sig, se: self.se - 1 } } else { self }
            }
        }
    }

    /// FYL2X: `y * log2(self)`.
    pub fn log2_times(self, y: Self, env: &mut Env) -> Self {
        let x = self;
        if let Some(nan) = Self::nan2(x, y, env) {
            return nan;
        }
        if x.is_negative() && !x.is_zero() {
            return Self::invalid(env);
        }
        if x.is_zero() {
            return match (y.is_zero(), y.is_infinity()) {
                (true, _) => Self::invalid(env),
                (_, true) => y.neg(),
                _ => {
                    env.raise(ZE);
                    Self::infinity(!y.is_negative())
                }
            };
        }
        let is_one = x == Self::ONE;
        if (x.is_infinity() && y.is_zero()) || (is_one && y.is_infinity()) {
            return Self::invalid(env);
        }
        if Self::denormal_stops(x.is_denormal() || y.is_denormal(), env) {
            return x;
        }
        // Whether the logarithm is negative.
        let neg = x.exponent() < Self::BIAS as u16;
        if y.is_zero() || y.is_infinity() || is_one || x.is_infinity() {
            let neg = y.is_negative() != neg;
            return if y.is_zero() || is_one { Self::zero(neg) } else { Self::infinity(neg) };
        }
        let (x, y) = (x.finite(), y.finite());
        let exp = x.exp - Self::BIAS;
        if x.sig << 1 == 0 {
            return integer_times(exp, y, env);
        }
        log2(exp, u128::from(x.sig) << 64).mul(Wide::from_finite(y)).round(env)
    }

    /// FYL2XP1: `y * log2(self + 1)`, accurate for a small operand. The SDM defines it up to
    /// `1 - sqrt(2) / 2`; any operand above -1 gets its logarithm, and others are returned as they are.
    pub fn log2_1p_times(self, y: Self, env: &mut Env) -> Self {
        let x = self;
        if let Some(nan) = Self::nan2(x, y, env) {
            return nan;
        }
        if (x.is_infinity() && (y.is_zero() || x.is_negative())) || (x.is_zero() && y.is_infinity()) {
            return Self::invalid(env);
        }
        if Self::denormal_stops(x.is_denormal() || y.is_denormal(), env) {
            return x;
        }
        let neg = x.is_negative() != y.is_negative();
        if x.is_infinity() || y.is_infinity() {
            return Self::infinity(neg);
        }
        if x.is_zero() || y.is_zero() {
            return Self::zero(neg);
        }
        let (a, y) = (x.finite(), y.finite());
        let exp = a.exp - Self::BIAS;
        if a.neg && exp >= 0 {
            env.raise(PE);
            return x;
        }
        let wide = Wide::from_finite(a);
        if exp < -7 {
            return near_one_log2(wide).mul(Wide::from_finite(y)).round(env);
        }
        let one = Wide { neg: false, exp: 0, sig: 1 << 127 };
        let sum = wide.add(one);
        if sum.sig << 1 == 0 {
            return integer_times(sum.exp, y, env);
        }
        log2(sum.exp, sum.sig).mul(Wide::from_finite(y)).round(env)
    }
}

/// `2^x - 1` for a magnitude below 1/32, as `y + y^2 / 2! + ...` of `y = x * ln 2`.
#[inline]
fn near_zero_exp2_minus_1(x: Wide) -> Wide {
    let y = x.mul_fraction(LN_2);
    let fraction = y.fraction();
    if y.neg {
        // Factor 1 - y / 2! + ...
        let below_one = mul_high(fraction, alternating_series(fraction, &EXP)).max(1);
        y.mul_fraction(below_one.wrapping_neg())
    } else {
        y.mul_one_plus(mul_high(fraction, series(fraction, &EXP)))
    }
}

/// `2^x - 1` for a magnitude from 1/32 up to one.
#[inline]
fn exp2_minus_1(x: Wide) -> Wide {
    let fraction = x.fraction();
    if !x.neg {
        return Wide::from_fraction(false, exp2_fraction(fraction), 0);
    }
    // 2^-x is half of 2^(1 - x), and so 1 - 2^-x half of 1 - (2^(1 - x) - 1).
    let above_half = exp2_fraction(fraction.wrapping_neg());
    Wide::from_fraction(true, above_half.wrapping_neg(), -1)
}

/// `2^x - 1` of a fraction; both with 128 fraction bits.
#[inline]
fn exp2_fraction(x: u128) -> u128 {
    // 2^(i / 32) * (1 + (e^y - 1)) - 1
    let base = EXP2_MINUS_1[(x >> 123) as usize];
    let y = mul_high(x & (u128::MAX >> 5), LN_2);
    let rest = y + mul_high(y, mul_high(y, series(y, &EXP)));
    base + rest + mul_high(base, rest)
}

/// `log2(m * 2^exp)` for a significand with 127 fraction bits. Not for a power of two.
fn log2(exp: i32, m: u128) -> Wide {
    // Bring m between sqrt(1/2) and sqrt(2), so that the exponent and its logarithm do not cancel.
    let halve = m >= 0xb504_f333 << 96;
    let exp = exp + i32::from(halve);
    let i = ((m >> if halve { 121 } else { 120 }) as usize + 1) >> 1;
    // r = m * c - 1 in units of 2^-128, c being 1 for m around 1. It is not zero for any m but 1.
    let (neg, r) = if i == 64 {
        if halve { (true, m.wrapping_neg()) } else { (false, m << 1) }
    } else {
        let product = (m >> 16) * u128::from(near_reciprocal(i));
        let unit = if halve { 120 } else { 119 };
        let one = 1 << unit;
        (product < one, product.abs_diff(one) << (128 - unit))
    };
    let mut sum = near_one_log2(Wide::from_fraction(neg, r, 0));
    if i != 64 {
        sum = sum.add(Wide::from_fraction(i < 64, LOG2[i - LOG2_FIRST], 0));
    }
    if exp != 0 {
        sum = sum.add(Wide::from_fraction(exp < 0, u128::from(exp.unsigned_abs()), 128));
    }
    sum
}

/// `log2(1 + r)` for a magnitude up to 1/64, as `2 / ln 2 * atanh(r / (2 + r))`.
#[inline]
fn near_one_log2(r: Wide) -> Wide {
    let two = Wide { neg: false, exp: 1, sig: 1 << 127 };
    let s = r.div(r.add(two));
    let z = s.square_fraction();
    let scale = Wide { neg: false, exp: 1, sig: LOG2_E };
    s.mul_one_plus(mul_high(z, series(z, &ATANH))).mul(scale)
}

/// The exact product of a logarithm that is an integer, rounded.
fn integer_times(logarithm: i32, y: Finite, env: &mut Env) -> F80 {
    let product = u128::from(y.sig) * u128::from(logarithm.unsigned_abs());
    let shift = product.leading_zeros();
    let exp = y.exp + 64 - shift as i32;
    let value = round_f80(y.neg != (logarithm < 0), exp, product << shift, Precision::Extended, env);
    // Counted as inexact like every other result, a denormal one as underflow too.
    env.raise(if value.is_denormal() { PE | UE } else { PE });
    value
}

#[cfg(test)]
mod tests {
    //! References are computed with 400 bits; the test `softfloat_silicon` has the special cases in
    //! full.

    use super::*;
    use crate::softfloat::Rounding;
    use crate::softfloat::exception::IE;

    fn f(se: u16, sig: u64) -> F80 {
        F80 { sig, se }
    }

    /// Checks a result rounded to nearest and truncated.
    fn check(name: &str, nearest: F80, truncated: F80, mut compute: impl FnMut(&mut Env) -> F80) {
        let mut env = Env::DEFAULT;
        assert_eq!(compute(&mut env), nearest, "{name} to nearest");
        assert_eq!(env.flags, PE, "{name}");
        let mut env = Env { rounding: Rounding::Zero, ..Env::DEFAULT };
        assert_eq!(compute(&mut env), truncated, "{name} truncated");
    }

    #[test]
    fn exp2_minus_1_matches_reference() {
        let cases = [
            (f(0x3fbf, 0x8000000000000001), f(0x3fbe, 0xb17217f7d1cf79ad), f(0x3fbe, 0xb17217f7d1cf79ad)),
            (f(0xbffe, 0xffffffffffffffff), f(0xbffd, 0xffffffffffffffff), f(0xbffd, 0xffffffffffffffff)),
            (f(0x3ffe, 0xffffffffffffffff), f(0x3ffe, 0xffffffffffffffff), f(0x3ffe, 0xfffffffffffffffe)),
            (f(0x3ffa, 0x8000000000000000), f(0x3ff9, 0xb361a62b0ae875d0), f(0x3ff9, 0xb361a62b0ae875cf)),
            (f(0xbff9, 0xffffffffffffffff), f(0xbff9, 0xaf89a491babf98b0), f(0xbff9, 0xaf89a491babf98af)),
            (f(0xbffd, 0xad733dcdef40af2e), f(0xbffc, 0xd64ebde2737828c4), f(0xbffc, 0xd64ebde2737828c3)),
            (f(0x3fdc, 0xdb69dc230af5ac87), f(0x3fdc, 0x9815fae33737cc90), f(0x3fdc, 0x9815fae33737cc8f)),
        ];
        for (x, nearest, truncated) in cases {
            check(&format!("{x:x?}"), nearest, truncated, |env| x.exp2_minus_1(env));
        }
    }

    #[test]
    fn log2_times_matches_reference() {
        let cases = [
            (
                f(0x4001, 0xc922b9ccf469aef8),
                f(0xbffe, 0xf5b9e1f5acdac615),
                f(0xc000, 0xa2eafe3dbeed676e),
                f(0xc000, 0xa2eafe3dbeed676e),
            ),
            (
                f(0x3ffd, 0xd2595daf49fbac36),
                f(0x3fff, 0xa6e46653c676176a),
                f(0xbfff, 0xd62eb61d3bcd3329),
                f(0xbfff, 0xd62eb61d3bcd3329),
            ),
            (
                f(0x4001, 0x9ed9c621de97faf0),
                f(0x3ffe, 0x93e7d611d163b764),
                f(0x3fff, 0xaaf1a5fdb9c19801),
                f(0x3fff, 0xaaf1a5fdb9c19801),
            ),
            (
                f(0x3fff, 0x8000000000000001),
                f(0xbfff, 0xf1b34e47e4e2aafd),
                f(0xbfc1, 0xae59993107f60f36),
                f(0xbfc1, 0xae59993107f60f35),
            ),
            (
                f(0x3ffe, 0xffffffffffffffff),
                f(0xbfff, 0x994b971761b2ceba),
                f(0x3fbf, 0xdd288870a7a4f7a9),
                f(0x3fbf, 0xdd288870a7a4f7a8),
            ),
            (
                f(0x3fff, 0xb504f333f9de6484),
                f(0x3fff, 0x8000000000000000),
                f(0x3ffd, 0xffffffffffffffff),
                f(0x3ffd, 0xfffffffffffffffe),
            ),
            (
                f(0x4d25, 0xdd02db430267ce8c),
                f(0x4004, 0xab68beef746ccfcd),
                f(0x4010, 0x8ce4a4f73313fd89),
                f(0x4010, 0x8ce4a4f73313fd88),
            ),
        ];
        for (x, y, nearest, truncated) in cases {
            check(&format!("{x:x?} {y:x?}"), nearest, truncated, |env| x.log2_times(y, env));
        }
    }

    #[test]
    fn log2_1p_times_matches_reference() {
        let cases = [
            (
                f(0x3ff9, 0xff4788955cdb7f4c),
                f(0xbffd, 0xfb53e13d7077b81d),
                f(0xbff9, 0xb2065077106f685b),
                f(0xbff9, 0xb2065077106f685a),
            ),
            (
                f(0xbff7, 0x9d1615ad353a09cf),
                f(0x4000, 0xab2df98dbcb3fd50),
                f(0xbff9, 0x97e74d2e7e36a0a9),
                f(0xbff9, 0x97e74d2e7e36a0a8),
            ),
            (
                f(0x3ff7, 0x9b44baf5264ed787),
                f(0x3ffe, 0xbfc24ec0952989c1),
                f(0x3ff7, 0xa7658a803a150b73),
                f(0x3ff7, 0xa7658a803a150b73),
            ),
            (
                f(0xbffb, 0xd5b8c2551f4d4cc5),
                f(0x4001, 0xe8c946b0ff353728),
                f(0xbfff, 0x940e151e33d9f7f7),
                f(0xbfff, 0x940e151e33d9f7f7),
            ),
            (
                f(0x3ed3, 0x8000000000000001),
                f(0xbfff, 0xb3a760e17a4e9ba3),
                f(0xbed4, 0x8197c44cff67272a),
                f(0xbed4, 0x8197c44cff672729),
            ),
            (
                f(0xbffd, 0x95f619980c4336f7),
                f(0x3fff, 0x8000000000000000),
                f(0xbffd, 0xffffffffffffffff),
                f(0xbffd, 0xffffffffffffffff),
            ),
            (
                f(0x3ff7, 0xffffffffffffffff),
                f(0xbfff, 0x8970425b7defb12b),
                f(0xbff8, 0xc582e6afe7996a86),
                f(0xbff8, 0xc582e6afe7996a85),
            ),
        ];
        for (x, y, nearest, truncated) in cases {
            check(&format!("{x:x?} {y:x?}"), nearest, truncated, |env| x.log2_1p_times(y, env));
        }
    }

    #[test]
    fn powers_of_two_have_exact_logarithms() {
        let mut env = Env { rounding: Rounding::Down, ..Env::DEFAULT };
        let three = F80::from_i64(3);
        assert_eq!(F80::from_i64(1 << 40).log2_times(three, &mut env), F80::from_i64(120));
        assert_eq!(F80::from_i64(7).log2_1p_times(three, &mut env), F80::from_i64(9));
        assert_eq!(F80::ONE.exp2_minus_1(&mut env), F80::ONE);
        assert_eq!(F80::ONE.neg().exp2_minus_1(&mut env), f(0xbffe, 1 << 63));
        assert!(!env.c1);
    }

    #[test]
    fn logarithm_special_operands_raise_their_exceptions() {
        let cases = [
            (F80::ZERO, F80::ONE, F80::infinity(true), ZE),
            (F80::zero(true), F80::ONE.neg(), F80::infinity(false), ZE),
            (F80::ZERO, F80::ZERO, F80::INDEFINITE, IE),
            (F80::ONE.neg(), F80::ONE, F80::INDEFINITE, IE),
            (F80::ONE, F80::infinity(false), F80::INDEFINITE, IE),
            (F80::ONE, F80::ONE.neg(), F80::zero(true), 0),
            (F80::infinity(false), F80::ONE.neg(), F80::infinity(true), 0),
        ];
        for (x, y, value, flags) in cases {
            let mut env = Env::DEFAULT;
            assert_eq!((x.log2_times(y, &mut env), env.flags), (value, flags), "{x:x?} {y:x?}");
        }
    }
}
