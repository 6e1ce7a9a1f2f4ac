//! FPREM and FPREM1: exact remainders, partial beyond an exponent difference of 63.

use super::round::{div_128_by_64, round_f80};
use super::{Env, F80, Precision};

/// Outcome of FPREM or FPREM1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remainder {
    /// The (partial) remainder.
    pub value: F80,
    /// Low three bits of the quotient; zero for a partial remainder. Bit 2 goes to C0, bit 1 to C3
    /// and bit 0 to C1.
    pub quotient: u8,
    /// The reduction is incomplete (C2): repeat the instruction.
    pub partial: bool,
}

impl Remainder {
    const fn complete(value: F80) -> Self {
        Self { value, quotient: 0, partial: false }
    }
}

impl F80 {
    /// FPREM: remainder of `self / b` with the quotient truncated towards zero. Exact.
    pub fn remainder_truncated(self, b: Self, env: &mut Env) -> Remainder {
        remainder(self, b, false, env)
    }

    /// FPREM1: the IEEE remainder, with the quotient rounded to nearest even. Exact.
    pub fn remainder_nearest(self, b: Self, env: &mut Env) -> Remainder {
        remainder(self, b, true, env)
    }
}

fn remainder(a: F80, b: F80, nearest: bool, env: &mut Env) -> Remainder {
    if let Some(nan) = F80::nan2(a, b, env) {
        return Remainder::complete(nan);
    }
    if a.is_infinity() || b.is_zero() {
        return Remainder::complete(F80::invalid(env));
    }
    if F80::denormal_stops(a.is_denormal() || b.is_denormal(), env) || a.is_zero() {
        return Remainder::complete(a);
    }
    let x = a.finite();
    if b.is_infinity() {
        // Unmasked underflow signals a tiny dividend even though it is returned as it is.
        return Remainder::complete(round_f80(
            x.neg,
            x.exp,
            u128::from(x.sig) << 64,
            Precision::Extended,
            env,
        ));
    }
    let y = b.finite();
    let distance = x.exp - y.exp;
    if distance < -1 || (distance == -1 && !nearest) {
        return Remainder::complete(round_f80(
            x.neg,
            x.exp,
            u128::from(x.sig) << 64,
            Precision::Extended,
            env,
        ));
    }
    if distance >= 64 {
        return partial(x.neg, x.sig, x.exp, y.sig, distance, env);
    }
    // With the dividend below the divisor's exponent, shift the divisor's view instead: the quotient
    // is 0 and the remainder the dividend, in units of half the divisor's last place.
    let (mut quotient, mut rem, unit_exp, divisor) = if distance < 0 {
        (0, u128::from(x.sig), x.exp, u128::from(y.sig) << 1)
    } else {
        let shifted = u128::from(x.sig) << distance;
        let (hi, lo) = ((shifted >> 64) as u64, shifted as u64);
        let (quotient, rem) = div_128_by_64(hi, lo, y.sig);
        (quotient, u128::from(rem), y.exp, u128::from(y.sig))
    };
    let mut neg = x.neg;
    if nearest && (2 * rem > divisor || (2 * rem == divisor && quotient & 1 != 0)) {
        rem = divisor - rem;
        neg = !neg;
        quotient = quotient.wrapping_add(1);
    }
    Remainder {
        value: pack_exact(neg, unit_exp, rem, x.neg, env),
        quotient: (quotient & 7) as u8,
        partial: false,
    }
}

/// One step of a reduction over 64 or more exponents: subtracts a multiple of the divisor scaled so
/// that the exponent falls by 32 to 63 (SDM volume 2, FPREM).
fn partial(neg: bool, sig: u64, exp: i32, divisor: u64, distance: i32, env: &mut Env) -> Remainder {
    let step = 32 + distance % 32;
    let shifted = u128::from(sig) << step;
    let (_, rem) = div_128_by_64((shifted >> 64) as u64, shifted as u64, divisor);
    Remainder { value: pack_exact(neg, exp - step, u128::from(rem), neg, env), quotient: 0, partial: true }
}

/// Packs a remainder in units of `2^(exp - 16383 - 63)`; a zero takes the dividend's sign.
fn pack_exact(neg: bool, exp: i32, rem: u128, zero_neg: bool, env: &mut Env) -> F80 {
    if rem == 0 {
        return F80::zero(zero_neg);
    }
    let shift = rem.leading_zeros() as i32;
    round_f80(neg, exp + 64 - shift, rem << shift, Precision::Extended, env)
}
