//! FSCALE and FXTRACT.

use super::exception::ZE;
use super::round::round_f80;
use super::{Env, F80, Precision};

impl F80 {
    /// FSCALE: `self * 2^trunc(b)`.
    pub fn scale(self, b: Self, env: &mut Env) -> Self {
        if let Some(nan) = Self::nan2(self, b, env) {
            return nan;
        }
        let neg = self.is_negative();
        if b.is_infinity() && if b.is_negative() { self.is_infinity() } else { self.is_zero() } {
            return Self::invalid(env);
        }
        if Self::denormal_stops(self.is_denormal() || b.is_denormal(), env) {
            return self;
        }
        if b.is_infinity() {
            return if b.is_negative() { Self::zero(neg) } else { Self::infinity(neg) };
        }
        if self.is_zero() || self.is_infinity() {
            return self;
        }
        let a = self.finite();
        round_f80(a.neg, a.exp + scale_factor(b), u128::from(a.sig) << 64, Precision::Extended, env)
    }

    /// FXTRACT: the exponent as a number, and the significand with an exponent of zero.
    /// A zero gives minus infinity and ZE.
    pub fn extract(self, env: &mut Env) -> (Self, Self) {
        if let Some(nan) = Self::nan1(self, env) {
            return (nan, nan);
        }
        if self.is_infinity() {
            return (Self::infinity(false), self);
        }
        if self.is_zero() {
            env.raise(ZE);
            return (Self::infinity(true), self);
        }
        if Self::denormal_stops(self.is_denormal(), env) {
            return (self, self);
        }
        let a = self.finite();
        let exp = a.exp - Self::BIAS;
        let significand = Self::pack(a.neg, Self::BIAS as u16, a.sig);
        (Self::from_magnitude(exp < 0, u64::from(exp.unsigned_abs())), significand)
    }
}

/// The scale truncated to an integer, limited to what takes any number out of range.
fn scale_factor(b: F80) -> i32 {
    const LIMIT: i32 = 0x2_0000;
    if b.is_zero() || b.is_denormal() {
        return 0;
    }
    let exp = i32::from(b.exponent()) - F80::BIAS;
    let magnitude = match exp {
        ..0 => 0,
        0..17 => (b.sig >> (63 - exp)) as i32,
        _ => LIMIT,
    };
    if b.is_negative() { -magnitude } else { magnitude }
}
