//! FSIN, FCOS, FSINCOS, FPTAN and FPATAN.
//!
//! The angle is reduced exactly modulo pi / 2 with the 66-bit pi of the x87 (SDM volume 1, 8.3.8), so
//! that the functions have the processor's values for large angles too, not the mathematical ones.
//! Results are rounded from well over 100 bits. As on the silicon they always count as inexact, apart
//! from the special cases.

use super::f80::Finite;
use super::tables::{ATAN, PI_OVER_4};
use super::wide::{Wide, alternating_series, inverse_factorials, inverses, mul_high};
use super::{Env, F80};

/// pi / 2 of the x87 with 65 fraction bits: the 66-bit number 0.C90FDAA22168C234C * 2.
const HALF_PI: u128 = 0x3_243f_6a88_85a3_08d3;
/// 2 / pi with 128 fraction bits, rounded down.
const TWO_OVER_PI: u128 = two_over_pi();

const fn two_over_pi() -> u128 {
    // Long division of 2^(65 + 128) by HALF_PI.
    let mut rem: u128 = 1 << 65;
    let mut quotient = 0;
    let mut i = 0;
    while i < 128 {
        rem <<= 1;
        quotient <<= 1;
        if rem >= HALF_PI {
            rem -= HALF_PI;
            quotient |= 1;
        }
        i += 1;
    }
    quotient
}

/// `1/3!, 1/5!, ...`; the next term is below 2^-133 for angles up to pi / 4.
const SIN: [u128; 15] = inverse_factorials(3, 2);
/// `1/2!, 1/4!, ...`
const COS: [u128; 15] = inverse_factorials(2, 2);
/// `1/3, 1/5, ...`; the next term is below 2^-132 for tangents up to 1/64.
const ATAN_SERIES: [u128; 10] = inverses(3, 2);

/// Operand of FSIN, FCOS, FSINCOS and FPTAN.
enum Angle {
    /// To be computed.
    Finite(Finite),
    /// A zero. Also an unmasked denormal, whose result is not written.
    Zero,
    /// The result is this NaN.
    Nan(F80),
}

impl F80 {
    /// FSIN: the sine, or `None` (C2) for a magnitude from 2^63 on.
    pub fn sin(self, env: &mut Env) -> Option<Self> {
        match angle(self, env) {
            Angle::Finite(x) => Some(sine_in_quadrant(reduce(x)?, 0).round(env)),
            Angle::Zero => Some(self),
            Angle::Nan(nan) => Some(nan),
        }
    }

    /// FCOS: the cosine, or `None` (C2) for a magnitude from 2^63 on.
    pub fn cos(self, env: &mut Env) -> Option<Self> {
        match angle(self, env) {
            Angle::Finite(x) => Some(sine_in_quadrant(reduce(x)?, 1).round(env)),
            Angle::Zero => Some(Self::ONE),
            Angle::Nan(nan) => Some(nan),
        }
    }

    /// FSINCOS: sine and cosine, or `None` (C2) for a magnitude from 2^63 on. The cosine is pushed.
    pub fn sin_cos(self, env: &mut Env) -> Option<(Self, Self)> {
        match angle(self, env) {
            Angle::Finite(x) => {
                let reduced = reduce(x)?;
                Some((sine_in_quadrant(reduced, 0).round(env), sine_in_quadrant(reduced, 1).round(env)))
            }
            Angle::Zero => Some((self, Self::ONE)),
            Angle::Nan(nan) => Some((nan, nan)),
        }
    }

    /// FPTAN: the tangent and what is pushed on top of it (1.0, or the NaN again), or `None` (C2) for a
    /// magnitude from 2^63 on.
    pub fn tan(self, env: &mut Env) -> Option<(Self, Self)> {
        match angle(self, env) {
            Angle::Finite(x) => {
                let (quadrant, r) = reduce(x)?;
                Some((tangent_in_quadrant(quadrant, r).round(env), Self::ONE))
            }
            Angle::Zero => Some((self, Self::ONE)),
            Angle::Nan(nan) => Some((nan, nan)),
        }
    }

    /// FPATAN: the angle of the point (`x`, `self`), from -pi to pi.
    pub fn atan2(self, x: Self, env: &mut Env) -> Self {
        let y = self;
        if let Some(nan) = Self::nan2(y, x, env) {
            return nan;
        }
        if Self::denormal_stops(y.is_denormal() || x.is_denormal(), env) {
            return y;
        }
        let neg = y.is_negative();
        let eighths = match (y.is_infinity(), x.is_infinity()) {
            (true, true) if x.is_negative() => 3,
            (true, true) => 1,
            (true, false) => 2,
            (false, true) if x.is_negative() => 4,
            (false, true) => 0,
            (false, false) if y.is_zero() => u128::from(x.is_negative()) * 4,
            (false, false) if x.is_zero() => 2,
            (false, false) => {
                let angle = arctangent(y.finite(), x.finite());
                return Wide { neg, ..angle }.round(env);
            }
        };
        if eighths == 0 { Self::zero(neg) } else { Wide { neg, ..quarter_pis(eighths) }.round(env) }
    }
}

fn angle(a: F80, env: &mut Env) -> Angle {
    if a.is_normal() {
        return Angle::Finite(a.normal());
    }
    if a.is_infinity() {
        return Angle::Nan(F80::invalid(env));
    }
    if let Some(nan) = F80::nan1(a, env) {
        return Angle::Nan(nan);
    }
    if a.is_zero() || F80::denormal_stops(a.is_denormal(), env) {
        return Angle::Zero;
    }
    Angle::Finite(a.finite())
}

/// `n * pi / 4`, n from 1 to 4.
fn quarter_pis(n: u128) -> Wide {
    if n == 3 {
        return quarter_pis(4).add(quarter_pis(1).negated());
    }
    Wide::from_fraction(false, PI_OVER_4, n.trailing_zeros() as i32)
}

/// Reduces an angle to within pi / 4 of zero: quadrant (any number modulo 4) and rest, or `None` from
/// 2^63 on. The rest is never zero, because the odd 66-bit `HALF_PI` divides no shifted 64-bit number.
#[inline]
fn reduce(a: Finite) -> Option<(u32, Wide)> {
    let exp = a.exp - F80::BIAS;
    if exp < -1 {
        return Some((0, Wide::from_finite(a)));
    }
    if exp >= 63 {
        return None;
    }
    // The angle with the 65 fraction bits of HALF_PI.
    let angle = u128::from(a.sig) << (exp + 2);
    // At most one too small.
    let mut quotient = mul_high(angle, TWO_OVER_PI) >> 65;
    let mut rest = angle - quotient * HALF_PI;
    if rest >= HALF_PI {
        rest -= HALF_PI;
        quotient += 1;
    }
    let mut neg = a.neg;
    if rest > HALF_PI / 2 {
        rest = HALF_PI - rest;
        quotient += 1;
        neg = !neg;
    }
    // A negative angle lies in the quadrants counted backwards.
    let quadrant = if a.neg { (quotient as u32).wrapping_neg() } else { quotient as u32 };
    Some((quadrant & 3, Wide::from_fraction(neg, rest, 128 - 65)))
}

/// Sine of a reduced angle in its quadrant, `ahead` quadrants on.
#[inline]
fn sine_in_quadrant((quadrant, r): (u32, Wide), ahead: u32) -> Wide {
    let quadrant = quadrant + ahead;
    let value = if quadrant & 1 == 0 { sine(r) } else { cosine(r) };
    Wide { neg: value.neg != (quadrant & 2 != 0), ..value }
}

/// Tangent of a reduced angle in its quadrant.
#[inline]
fn tangent_in_quadrant(quadrant: u32, r: Wide) -> Wide {
    match quadrant & 1 {
        // The tangent exceeds a tiny angle by less than 128 bits show; rounding knows it is inexact.
        0 if r.exp < -60 => r,
        0 => sine(r).div(cosine(r)),
        _ => cosine(r).div(sine(r)).negated(),
    }
}

/// Sine of a reduced angle.
#[inline]
fn sine(r: Wide) -> Wide {
    let z = r.square_fraction();
    // The factor 1 - z / 6 + ... of the angle; below one even for the smallest angle.
    let below_one = mul_high(z, alternating_series(z, &SIN)).max(1);
    r.mul_fraction(below_one.wrapping_neg())
}

/// Cosine of a reduced angle.
#[inline]
fn cosine(r: Wide) -> Wide {
    let z = r.square_fraction();
    let below_one = mul_high(z, alternating_series(z, &COS)).max(1);
    Wide::from_fraction(false, below_one.wrapping_neg(), 0)
}

/// Angle of the point (`x`, `|y|`).
fn arctangent(y: Finite, x: Finite) -> Wide {
    let steep = (y.exp, y.sig) > (x.exp, x.sig);
    let (num, den) = if steep { (x, y) } else { (y, x) };
    let angle = arctangent_of_quotient(num, den);
    match (steep, x.neg) {
        (false, false) => angle,
        (true, false) => quarter_pis(2).add(angle.negated()),
        (true, true) => quarter_pis(2).add(angle),
        (false, true) => quarter_pis(4).add(angle.negated()),
    }
}

/// Arctangent of the magnitude of `num / den`, which is at most one.
fn arctangent_of_quotient(num: Finite, den: Finite) -> Wide {
    let num = Finite { neg: false, ..num };
    let den = Finite { neg: false, ..den };
    let distance = den.exp - num.exp;
    // The nearest 32nd, from the leading bits; a quotient below about 1/64 needs no table.
    let nearest = if distance > 6 {
        0
    } else {
        let sixty_fourths = (num.sig >> 32 << 6 >> distance) / (den.sig >> 32);
        (sixty_fourths + 1) >> 1
    };
    if nearest == 0 {
        return small_arctangent(Wide::from_finite(num).div(Wide::from_finite(den)));
    }
    // atan(t) = atan(c) + atan((t - c) / (1 + t * c)), multiplied by 32 * den on both sides.
    let n = u128::from(num.sig) << (32 - distance);
    let d = u128::from(den.sig) << 32;
    let c = u128::from(nearest);
    let (above, below) = (32 * n, c * d);
    let base = Wide::from_fraction(false, ATAN[nearest as usize], 0);
    if above == below {
        return base;
    }
    let rest = Wide::from_fraction(above < below, above.abs_diff(below), 0);
    let scale = Wide::from_fraction(false, 32 * d + c * n, 0);
    base.add(small_arctangent(rest.div(scale)))
}

/// Arctangent of a quotient up to about 1/64.
#[inline]
fn small_arctangent(t: Wide) -> Wide {
    let z = t.square_fraction();
    let below_one = mul_high(z, alternating_series(z, &ATAN_SERIES)).max(1);
    t.mul_fraction(below_one.wrapping_neg())
}

#[cfg(test)]
mod tests {
    //! References are computed with 400 bits, reducing angles with the 66-bit pi; the test
    //! `softfloat_silicon` has the special cases in full.

    use super::*;
    use crate::softfloat::Rounding;
    use crate::softfloat::exception::{IE, PE};

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
    fn sin_matches_reference() {
        let cases = [
            (f(0x3fd7, 0x8000000000000001), f(0x3fd7, 0x8000000000000001), f(0x3fd7, 0x8000000000000000)),
            (f(0x4000, 0xc90fdaa22168c235), f(0xbfbf, 0x8000000000000000), f(0xbfbe, 0xffffffffffffffff)),
            (f(0x403d, 0xffffffffffffffff), f(0x3ffe, 0xe0ab9300da6d2684), f(0x3ffe, 0xe0ab9300da6d2684)),
            (f(0x3ff9, 0xcda4f9fc3c6da5d7), f(0x3ff9, 0xcd9f7290231bac15), f(0x3ff9, 0xcd9f7290231bac15)),
            (f(0xbfff, 0xa7ac435a7a97c643), f(0xbffe, 0xf756f5bd0a4164c4), f(0xbffe, 0xf756f5bd0a4164c3)),
            (f(0x400c, 0x8ca5996666ceab36), f(0xbffe, 0xac0591f224c7dda4), f(0xbffe, 0xac0591f224c7dda3)),
            (f(0x402b, 0x8f1099c6c3e1b258), f(0xbffe, 0xf86ae51bec100174), f(0xbffe, 0xf86ae51bec100173)),
        ];
        for (x, nearest, truncated) in cases {
            check(&format!("{x:x?}"), nearest, truncated, |env| x.sin(env).unwrap());
        }
    }

    #[test]
    fn cos_matches_reference() {
        let cases = [
            (f(0x3fd7, 0x8000000000000001), f(0x3fff, 0x8000000000000000), f(0x3ffe, 0xffffffffffffffff)),
            (f(0x4000, 0xc90fdaa22168c235), f(0xbfff, 0x8000000000000000), f(0xbffe, 0xffffffffffffffff)),
            (f(0x403d, 0xffffffffffffffff), f(0x3ffd, 0xf56ec1e0a37c4176), f(0x3ffd, 0xf56ec1e0a37c4176)),
            (f(0x3ffa, 0xc6d4ac7a5c3902b3), f(0x3ffe, 0xffb2cd0bda603ed6), f(0x3ffe, 0xffb2cd0bda603ed6)),
            (f(0x3fff, 0xb6e2f24b43000de0), f(0x3ffc, 0x90ea4cb65c4fab57), f(0x3ffc, 0x90ea4cb65c4fab56)),
            (f(0xc00b, 0xc2a00403ce80c4b0), f(0x3ffc, 0xd0ede7f2bf8f568d), f(0x3ffc, 0xd0ede7f2bf8f568d)),
            (f(0xc034, 0xca25e4664f5253a0), f(0x3ffd, 0xb3cc8bb863b1482e), f(0x3ffd, 0xb3cc8bb863b1482d)),
        ];
        for (x, nearest, truncated) in cases {
            check(&format!("{x:x?}"), nearest, truncated, |env| x.cos(env).unwrap());
        }
    }

    #[test]
    fn tan_matches_reference() {
        let cases = [
            (f(0x3fd7, 0x8000000000000001), f(0x3fd7, 0x8000000000000001), f(0x3fd7, 0x8000000000000001)),
            (f(0x4000, 0xc90fdaa22168c235), f(0x3fbf, 0x8000000000000000), f(0x3fbf, 0x8000000000000000)),
            (f(0x403d, 0xffffffffffffffff), f(0x3fff, 0xea57f75b8bfebb70), f(0x3fff, 0xea57f75b8bfebb70)),
            (f(0xbffe, 0xd66002249b191bf4), f(0xbfff, 0x8e0e89d74e3e0379), f(0xbfff, 0x8e0e89d74e3e0378)),
            (f(0xc000, 0xad83a8233fb62d2c), f(0x3ffd, 0xeb14ea3ddc9de278), f(0x3ffd, 0xeb14ea3ddc9de277)),
            (f(0xc00c, 0xf1cfd99216df6486), f(0xbffe, 0x84523562c082ef18), f(0xbffe, 0x84523562c082ef17)),
            (f(0x4030, 0x9286a1754abcb06a), f(0xbffb, 0xcfd9587a7e47672b), f(0xbffb, 0xcfd9587a7e47672b)),
        ];
        for (x, nearest, truncated) in cases {
            check(&format!("{x:x?}"), nearest, truncated, |env| x.tan(env).unwrap().0);
        }
    }

    #[test]
    fn atan2_matches_reference() {
        let cases = [
            (
                f(0xbfff, 0xb1f3b9238224b122),
                f(0xbfff, 0xee58d5ca49c7b59b),
                f(0xc000, 0x8d936f565c1927ba),
                f(0xc000, 0x8d936f565c1927b9),
            ),
            (
                f(0x4002, 0xc278c2614e1bcb38),
                f(0x3fff, 0x8bdbc23a14c15c91),
                f(0x3ffb, 0xb79d3eb715987cfc),
                f(0x3ffb, 0xb79d3eb715987cfb),
            ),
            (
                f(0x4000, 0x84d4cd1f47ca7883),
                f(0x3ffd, 0xd7c49391b36cc9aa),
                f(0x3ffc, 0xcd21a293c2ed22e1),
                f(0x3ffc, 0xcd21a293c2ed22e1),
            ),
            (
                f(0x3fff, 0x91021c9e32111ac1),
                f(0xbfff, 0xa1f65507a2909cb6),
                f(0xbffe, 0xd72fbc28bba89063),
                f(0xbffe, 0xd72fbc28bba89063),
            ),
            (
                f(0x3fff, 0xef98bca35b17b966),
                f(0xbfe6, 0xe78131c132decd6b),
                f(0xbfe5, 0xf75aa2762fd73e55),
                f(0xbfe5, 0xf75aa2762fd73e54),
            ),
            (
                f(0xbfe4, 0xb54a23020fc5b043),
                f(0xbfff, 0x9d8cf4d4950b16ff),
                f(0xbfff, 0xc90fdab48a93439b),
                f(0xbfff, 0xc90fdab48a93439b),
            ),
            (
                f(0x3fff, 0xc000000000000000),
                f(0x3fff, 0xc000000000000000),
                f(0x3ffe, 0xc90fdaa22168c235),
                f(0x3ffe, 0xc90fdaa22168c234),
            ),
        ];
        for (x, y, nearest, truncated) in cases {
            check(&format!("{x:x?} {y:x?}"), nearest, truncated, |env| y.atan2(x, env));
        }
    }

    #[test]
    fn angles_from_two_to_the_63rd_are_out_of_range() {
        let mut env = Env::DEFAULT;
        assert_eq!(f(0x403e, 1 << 63).sin(&mut env), None);
        assert_eq!(f(0xfffe, u64::MAX).sin_cos(&mut env), None);
        assert_eq!(env.flags, 0);
        assert_eq!(F80::infinity(true).tan(&mut env), Some((F80::INDEFINITE, F80::INDEFINITE)));
        assert_eq!(env.flags, IE);
    }

    #[test]
    fn atan2_special_points_have_exact_angles() {
        let (one, inf) = (F80::ONE, F80::infinity(false));
        let pi = F80::pi(Rounding::Nearest);
        let half_pi = F80 { se: pi.se - 1, ..pi };
        let cases = [
            (F80::zero(true), one, F80::zero(true)),
            (F80::zero(true), one.neg(), pi.neg()),
            (one, F80::ZERO, half_pi),
            (inf, one, half_pi),
            (one, inf, F80::ZERO),
            (one.neg(), inf.neg(), pi.neg()),
            (inf, inf.neg(), f(0x4000, 0x96cb_e3f9_990e_91a8)),
        ];
        for (y, x, angle) in cases {
            assert_eq!(y.atan2(x, &mut Env::default()), angle, "{y:x?} {x:x?}");
        }
    }
}
