//! Rounding and packing, and the integer helpers the formats share.

use super::exception::{OE, PE, UE};
use super::{Env, F80, Precision, Rounding};

/// Whether rounding adds one unit in the last place to a magnitude that is cut off.
/// `half` is the first bit cut off, `sticky` the OR of those below it.
#[inline(always)]
pub(super) fn rounds_up(mode: Rounding, neg: bool, odd: bool, half: bool, sticky: bool) -> bool {
    match mode {
        Rounding::Nearest => half & (sticky | odd),
        Rounding::Down => neg & (half | sticky),
        Rounding::Up => !neg & (half | sticky),
        Rounding::Zero => false,
    }
}

/// Shifts right; bits shifted out are ORed into bit 0 ("jamming" keeps a remainder nonzero).
#[inline(always)]
pub(super) fn shift_right_jam(value: u128, count: u32) -> u128 {
    if count == 0 {
        value
    } else if count < 128 {
        (value >> count) | u128::from(value << (128 - count) != 0)
    } else {
        u128::from(value != 0)
    }
}

/// As [`shift_right_jam`] for 64 bits.
#[inline(always)]
pub(super) fn shift_right_jam64(value: u64, count: u32) -> u64 {
    if count == 0 {
        value
    } else if count < 64 {
        (value >> count) | u64::from(value << (64 - count) != 0)
    } else {
        u64::from(value != 0)
    }
}

/// Quotient and remainder of `hi:lo / divisor`. The divisor has bit 63 set and exceeds `hi`, so the
/// quotient fits 64 bits (Knuth's algorithm D with two 32-bit digits).
#[inline]
pub(super) fn div_128_by_64(hi: u64, lo: u64, divisor: u64) -> (u64, u64) {
    debug_assert!(divisor >> 63 == 1 && hi < divisor);
    const DIGIT: u64 = 0xffff_ffff;
    let (d1, d0) = (divisor >> 32, divisor & DIGIT);
    let digit = |rem: u64, next: u64| {
        let (mut q, mut r) = (rem / d1, rem % d1);
        // The estimate is at most two too large.
        while q > DIGIT || q * d0 > (r << 32 | next) {
            q -= 1;
            r += d1;
            if r > DIGIT {
                break;
            }
        }
        (q, (rem << 32 | next).wrapping_sub(q.wrapping_mul(divisor)))
    };
    let (q1, rem) = digit(hi, lo >> 32);
    let (q0, rem) = digit(rem, lo & DIGIT);
    (q1 << 32 | q0, rem)
}

/// Rounds `sig * 2^(exp - 63)` to an integer magnitude; `exp` is at most 63 and bit 63 of `sig` is
/// set. Returns the magnitude, whether it is inexact and whether it was rounded up.
#[inline]
pub(super) fn round_to_integer(neg: bool, exp: i32, sig: u64, mode: Rounding) -> (u64, bool, bool) {
    debug_assert!(exp <= 63);
    let (int, rem) = match exp {
        63 => return (sig, false, false),
        0..63 => (sig >> (63 - exp), sig << (exp + 1)),
        // Below one half only the sticky part is left.
        _ => (0, if exp == -1 { sig } else { 1 }),
    };
    if rem == 0 {
        return (int, false, false);
    }
    let up = rounds_up(mode, neg, int & 1 != 0, rem >> 63 != 0, rem << 1 != 0);
    (int + u64::from(up), true, up)
}

/// Number of low bits of a 128-bit significand that a precision cuts off.
#[inline(always)]
const fn dropped_bits(precision: Precision) -> u32 {
    match precision {
        Precision::Extended => 128 - 64,
        Precision::Double => 128 - 53,
        Precision::Single => 128 - 24,
    }
}

/// Rounds the low `drop` bits of a significand away. Returns the significand, whether it carried out
/// (the value is then the wrapped `0`, meaning 2^128), whether it is inexact, whether it was
/// rounded up.
#[inline(always)]
fn round_significand(neg: bool, sig: u128, drop: u32, mode: Rounding) -> (u128, bool, bool, bool) {
    let rem = sig << (128 - drop);
    if rem == 0 {
        return (sig, false, false, false);
    }
    let kept = sig >> drop;
    let up = rounds_up(mode, neg, kept & 1 != 0, rem >> 127 != 0, rem << 1 != 0);
    let (rounded, carry) = (kept << drop).overflowing_add(u128::from(up) << drop);
    (rounded, carry, true, up)
}

/// Rounds and packs `(-1)^neg * sig * 2^(exp - 16383 - 127)`; bit 127 of `sig` is set, its low bits
/// may be jammed, and `exp` may lie outside the format.
#[inline]
pub(super) fn round_f80(neg: bool, exp: i32, sig: u128, precision: Precision, env: &mut Env) -> F80 {
    debug_assert!(sig >> 127 == 1);
    if exp <= 0 || exp >= F80::EXP_MAX as i32 - 1 {
        return round_f80_extreme(neg, exp, sig, dropped_bits(precision), env);
    }
    let (hi, lo) = ((sig >> 64) as u64, sig as u64);
    let (kept, unit, rem) = match precision {
        Precision::Extended => (hi, 1, lo),
        // The lower half is only sticky.
        Precision::Double => split(hi, lo, 64 - 53),
        Precision::Single => split(hi, lo, 64 - 24),
    };
    if rem == 0 {
        return F80::pack(neg, exp as u16, kept);
    }
    let up = rounds_up(env.rounding, neg, kept & unit != 0, rem >> 63 != 0, rem << 1 != 0);
    env.inexact(up);
    match kept.overflowing_add(if up { unit } else { 0 }) {
        (sig, false) => F80::pack(neg, exp as u16, sig),
        (_, true) => F80::pack(neg, exp as u16 + 1, 1 << 63),
    }
}

/// Splits a significand above its low `drop` bits: what is kept, its unit, and what is cut off from
/// bit 63 down, jammed.
#[inline(always)]
fn split(hi: u64, lo: u64, drop: u32) -> (u64, u64, u64) {
    (hi >> drop << drop, 1 << drop, hi << (64 - drop) | u64::from(lo != 0))
}

/// Exponents at and beyond the ends of the format.
#[cold]
fn round_f80_extreme(neg: bool, mut exp: i32, sig: u128, drop: u32, env: &mut Env) -> F80 {
    let (rounded, carry, inexact, up) = round_significand(neg, sig, drop, env.rounding);
    // Tininess is detected after rounding to the precision with an unbounded exponent.
    let tiny = exp < 0 || (exp == 0 && !carry);
    if exp <= 0 && (env.masks(UE) || !tiny) {
        let denormal = shift_right_jam(sig, (1 - exp) as u32);
        // The significand is below 2^127, so this cannot carry out.
        let (rounded, _, inexact, up) = round_significand(neg, denormal, drop, env.rounding);
        if inexact {
            env.inexact(up);
            if tiny {
                env.raise(UE);
            }
        }
        let sig = (rounded >> 64) as u64;
        return F80::pack(neg, (sig >> 63) as u16, sig);
    }
    let hi = if carry {
        exp += 1;
        1 << 63
    } else {
        (rounded >> 64) as u64
    };
    if tiny {
        env.raise(UE);
        exp += F80::WRAP;
        if exp <= 0 {
            // Only FSCALE gets this far down or, below, up.
            env.inexact(false);
            return F80::zero(neg);
        }
    } else if exp >= F80::EXP_MAX as i32 {
        env.raise(OE);
        if env.masks(OE) {
            let to_infinity = rounds_up(env.rounding, neg, true, true, true);
            env.inexact(to_infinity);
            return if to_infinity {
                F80::infinity(neg)
            } else {
                F80::pack(neg, F80::EXP_MAX - 1, (u128::MAX << drop >> 64) as u64)
            };
        }
        exp -= F80::WRAP;
        if exp >= F80::EXP_MAX as i32 {
            env.inexact(true);
            return F80::infinity(neg);
        }
    }
    if inexact {
        env.inexact(up);
    }
    F80::pack(neg, exp as u16, hi)
}

/// Rounds and packs `(-1)^neg * sig * 2^(exp - bias - 63)` to the binary format with `E` exponent and
/// `M` fraction bits; bit 63 of `sig` is set and bit 0 may be jammed.
#[inline]
pub(super) fn round_binary<const E: u32, const M: u32>(neg: bool, exp: i32, sig: u64, env: &mut Env) -> u64 {
    debug_assert!(sig >> 63 == 1);
    let max = (1i32 << E) - 1;
    if exp <= 0 || exp >= max - 1 {
        return round_binary_extreme::<E, M>(neg, exp, sig, env);
    }
    let drop = 63 - M;
    let rem = sig << (64 - drop);
    let kept = sig >> drop;
    let sign = u64::from(neg) << (E + M);
    // The integer bit of the significand adds one to the exponent field, and so does a carry.
    let image = sign + (((exp - 1) as u64) << M) + kept;
    if rem == 0 {
        return image;
    }
    let up = rounds_up(env.rounding, neg, kept & 1 != 0, rem >> 63 != 0, rem << 1 != 0);
    env.inexact(up);
    image + u64::from(up)
}

/// Exponents at and beyond the ends of the format. An unmasked overflow or underflow suppresses the
/// store, so the image returned then is of no interest.
#[cold]
fn round_binary_extreme<const E: u32, const M: u32>(neg: bool, exp: i32, sig: u64, env: &mut Env) -> u64 {
    let max = (1i32 << E) - 1;
    let infinity = (max as u64) << M;
    let sign = u64::from(neg) << (E + M);
    let drop = 63 - M;
    let round = |sig: u64, mode| {
        let (rem, kept) = (sig << (64 - drop), sig >> drop);
        let up = rounds_up(mode, neg, kept & 1 != 0, rem >> 63 != 0, rem << 1 != 0);
        (kept + u64::from(up), rem != 0, up)
    };
    let (rounded, inexact, up) = round(sig, env.rounding);
    let carry = rounded >> (M + 1);
    if exp <= 0 {
        let tiny = exp < 0 || carry == 0;
        if tiny && !env.masks(UE) {
            env.raise(UE | if inexact { PE } else { 0 });
            return sign;
        }
        if tiny && env.ftz {
            env.raise(UE | PE);
            return sign;
        }
        let (rounded, inexact, up) = round(shift_right_jam64(sig, (1 - exp) as u32), env.rounding);
        if inexact {
            env.inexact(up);
            if tiny {
                env.raise(UE);
            }
        }
        return sign | rounded;
    }
    if exp + carry as i32 >= max {
        env.raise(OE);
        if !env.masks(OE) {
            env.raise(if inexact { PE } else { 0 });
            return sign | infinity;
        }
        let to_infinity = rounds_up(env.rounding, neg, true, true, true);
        env.inexact(to_infinity);
        return sign | (infinity - u64::from(!to_infinity));
    }
    if inexact {
        env.inexact(up);
    }
    sign + (((exp - 1) as u64) << M) + rounded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn div_128_by_64_extreme_digits_match_wide_division() {
        let picks =
            [0, 1, 2, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 1 << 63, (1 << 63) + 1, u64::MAX - 1, u64::MAX];
        for divisor in picks.into_iter().filter(|d| d >> 63 == 1) {
            for hi in picks.into_iter().filter(|hi| *hi < divisor) {
                for lo in picks {
                    let n = u128::from(hi) << 64 | u128::from(lo);
                    let d = u128::from(divisor);
                    assert_eq!(div_128_by_64(hi, lo, divisor), ((n / d) as u64, (n % d) as u64));
                }
            }
        }
    }

    #[test]
    fn round_to_integer_ties_go_to_even() {
        let half = 1 << 63;
        assert_eq!(round_to_integer(false, -1, half, Rounding::Nearest), (0, true, false));
        assert_eq!(round_to_integer(false, 0, 0b11 << 62, Rounding::Nearest), (2, true, true));
        assert_eq!(round_to_integer(true, -1, half, Rounding::Down), (1, true, true));
        assert_eq!(round_to_integer(false, -900, half, Rounding::Up), (1, true, true));
        assert_eq!(round_to_integer(false, 63, u64::MAX, Rounding::Up), (u64::MAX, false, false));
    }
}
