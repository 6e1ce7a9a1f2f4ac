//! Conversions between the 80-bit format, integers, f32 and f64.

use super::exception::{DE, IE, PE};
use super::f80::Finite;
use super::round::{round_binary, round_to_integer};
use super::{Env, F32, F64, F80, Rounding};

impl F80 {
    /// FILD: any integer, exactly.
    #[inline]
    pub fn from_i64(value: i64) -> Self {
        if value == 0 {
            return Self::ZERO;
        }
        Self::from_magnitude(value < 0, value.unsigned_abs())
    }

    /// FIST m16: out of range gives IE and 8000h.
    #[inline]
    pub fn to_i16(self, env: &mut Env) -> i16 {
        to_integer(self, env.rounding, i16::MAX as u64, env) as i16
    }

    /// FIST m32: out of range gives IE and 80000000h.
    #[inline]
    pub fn to_i32(self, env: &mut Env) -> i32 {
        to_integer(self, env.rounding, i32::MAX as u64, env) as i32
    }

    /// FISTP m64: out of range gives IE and 8000000000000000h.
    #[inline]
    pub fn to_i64(self, env: &mut Env) -> i64 {
        to_integer(self, env.rounding, i64::MAX as u64, env)
    }

    /// FISTTP m16: [`F80::to_i16`] with truncation.
    #[inline]
    pub fn to_i16_truncated(self, env: &mut Env) -> i16 {
        to_integer(self, Rounding::Zero, i16::MAX as u64, env) as i16
    }

    /// FISTTP m32: [`F80::to_i32`] with truncation.
    #[inline]
    pub fn to_i32_truncated(self, env: &mut Env) -> i32 {
        to_integer(self, Rounding::Zero, i32::MAX as u64, env) as i32
    }

    /// FISTTP m64: [`F80::to_i64`] with truncation.
    #[inline]
    pub fn to_i64_truncated(self, env: &mut Env) -> i64 {
        to_integer(self, Rounding::Zero, i64::MAX as u64, env)
    }

    /// FLD m32: exact; quiets a signalling NaN with IE and normalises a denormal with DE.
    #[inline]
    pub fn from_f32(value: F32, env: &mut Env) -> Self {
        from_binary::<8, 23>(u64::from(value.0), env)
    }

    /// FLD m64: exact; quiets a signalling NaN with IE and normalises a denormal with DE.
    #[inline]
    pub fn from_f64(value: F64, env: &mut Env) -> Self {
        from_binary::<11, 52>(value.0, env)
    }

    /// FST m32.
    #[inline]
    pub fn to_f32(self, env: &mut Env) -> F32 {
        F32(to_binary::<8, 23>(self, env) as u32)
    }

    /// FST m64.
    #[inline]
    pub fn to_f64(self, env: &mut Env) -> F64 {
        F64(to_binary::<11, 52>(self, env))
    }
}

/// Rounds to an integer of magnitude at most `max`, or `max + 1` if negative; otherwise raises IE and
/// returns the integer indefinite `-max - 1`.
#[inline]
fn to_integer(a: F80, mode: Rounding, max: u64, env: &mut Env) -> i64 {
    let indefinite = (!max) as i64;
    if a.is_zero() {
        return 0;
    }
    let x = a.finite();
    let exp = x.exp - F80::BIAS;
    if exp > 63 || a.is_unsupported() {
        env.raise(IE);
        return indefinite;
    }
    let (magnitude, inexact, up) = round_to_integer(x.neg, exp, x.sig, mode);
    if magnitude > max + u64::from(x.neg) {
        env.raise(IE);
        return indefinite;
    }
    if inexact {
        env.inexact(up);
    }
    if x.neg { (magnitude as i64).wrapping_neg() } else { magnitude as i64 }
}

#[inline]
fn from_binary<const E: u32, const M: u32>(bits: u64, env: &mut Env) -> F80 {
    let max = (1u64 << E) - 1;
    let neg = bits >> (E + M) & 1 != 0;
    let exp = bits >> M & max;
    let fraction = bits << (64 - M) >> 1;
    let rebias = F80::BIAS - ((1 << (E - 1)) - 1);
    if exp == max {
        if fraction == 0 {
            return F80::infinity(neg);
        }
        if fraction & F80::QUIET == 0 {
            env.raise(IE);
        }
        return F80::pack(neg, F80::EXP_MAX, 1 << 63 | F80::QUIET | fraction);
    }
    if exp == 0 {
        if fraction == 0 {
            return F80::zero(neg);
        }
        env.raise(DE);
        let shift = fraction.leading_zeros();
        return F80::pack(neg, (rebias + 1 - shift as i32) as u16, fraction << shift);
    }
    F80::pack(neg, (rebias + exp as i32) as u16, 1 << 63 | fraction)
}

#[inline]
fn to_binary<const E: u32, const M: u32>(a: F80, env: &mut Env) -> u64 {
    if a.is_normal() {
        return round_store::<E, M>(a.normal(), env);
    }
    let sign = u64::from(a.is_negative()) << (E + M);
    let infinity = ((1u64 << E) - 1) << M;
    if a.is_zero() {
        return sign;
    }
    if a.is_infinity() {
        return sign | infinity;
    }
    if let Some(nan) = F80::nan1(a, env) {
        let sign = u64::from(nan.is_negative()) << (E + M);
        return sign | infinity | nan.sig << 1 >> (64 - M);
    }
    round_store::<E, M>(a.finite(), env)
}

#[inline]
fn round_store<const E: u32, const M: u32>(a: Finite, env: &mut Env) -> u64 {
    let rebias = F80::BIAS - ((1 << (E - 1)) - 1);
    let image = round_binary::<E, M>(a.neg, a.exp - rebias, a.sig, env);
    if env.suppresses_store() {
        // Unlike SSE, the x87 reports nothing about the precision of what it does not store.
        env.flags &= !PE;
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_i16_rounding_out_of_range_is_indefinite() {
        let mut env = Env::DEFAULT;
        // 32767.5 rounds to 32768.
        let x = F80 { sig: 0xffff_0000_0000_0000, se: 0x400d };
        assert_eq!((x.to_i16(&mut env), env.flags), (i16::MIN, IE));
        let mut env = Env::DEFAULT;
        assert_eq!((x.to_i16_truncated(&mut env), env.flags), (i16::MAX, PE));
        let mut env = Env::DEFAULT;
        assert_eq!((F80::from_i64(-32768).to_i16(&mut env), env.flags), (i16::MIN, 0));
    }

    #[test]
    fn integers_survive_the_round_trip() {
        for value in [0, 1, -1, 255, i64::MAX, i64::MIN, i64::MIN + 1, 0x1234_5678_9abc_def1] {
            let mut env = Env::DEFAULT;
            assert_eq!(F80::from_i64(value).to_i64(&mut env), value);
            assert_eq!(env.flags, 0);
        }
    }
}
