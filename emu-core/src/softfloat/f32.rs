//! Single precision (f32), with the reciprocal approximations.

use super::binary::{self, Format, binary_type};
use super::{Env, F64, Relation, Rounding};

binary_type!(F32, u32, 8, 23, "f32");

impl F32 {
    /// CVTSS2SD: exact.
    #[inline]
    pub fn to_f64(self, env: &mut Env) -> F64 {
        F64(binary::convert::<8, 23, 11, 52>(self.wide(), env))
    }

    /// RCPPS: the reciprocal to a relative error below 2^-12. Raises nothing and ignores MXCSR.
    ///
    /// Processors of different vendors disagree in the bits of RCPPS and RSQRTPS; all engines share
    /// this function instead, which rounds the exact value to a 13-bit significand, so that powers of
    /// two stay exact. Denormals count as zeros, a zero gives an infinity, a NaN is quieted, and
    /// results that the SDM allows to be flushed to zero (of operands from 1.111111111101b * 2^125
    /// on) are.
    #[inline]
    pub fn reciprocal(self) -> Self {
        const FLUSHED: u32 = 0x7e7f_e800;
        let (sign, magnitude) = self.split();
        match magnitude {
            0..MIN_NORMAL => Self(sign | INFINITY),
            MIN_NORMAL..FLUSHED => {
                let (exp, sig) = unpack(magnitude);
                // 2^36 / sig is in (2^12, 2^13] for sig in [2^23, 2^24).
                let quotient = ((1 << 37) / sig + 1) >> 1;
                Self(sign | pack(127 - exp - 1, quotient))
            }
            FLUSHED..=INFINITY => Self(sign),
            _ => Self(self.0 | QUIET),
        }
    }

    /// RSQRTPS: the reciprocal of the square root to a relative error below 2^-12, as
    /// [`F32::reciprocal`]. A zero gives an infinity of its sign, other negative numbers the default
    /// NaN.
    #[inline]
    pub fn reciprocal_sqrt(self) -> Self {
        let (sign, magnitude) = self.split();
        match magnitude {
            0..MIN_NORMAL => Self(sign | INFINITY),
            MIN_NORMAL..=INFINITY if sign != 0 => Self(DEFAULT_NAN),
            MIN_NORMAL..INFINITY => {
                let (exp, sig) = unpack(magnitude);
                // An even exponent leaves sig in [2^23, 2^25), the radicand in (2^26, 2^28] and the
                // root in [2^13, 2^14].
                let radicand = (1 << 51) / (sig << (exp & 1));
                let root = (radicand.isqrt() + 1) >> 1;
                Self(pack(127 - (exp >> 1) - 1, root))
            }
            INFINITY => Self(0),
            _ => Self(self.0 | QUIET),
        }
    }

    #[inline(always)]
    const fn split(self) -> (u32, u32) {
        (self.0 & 1 << 31, self.0 & 0x7fff_ffff)
    }
}

const MIN_NORMAL: u32 = 1 << 23;
const INFINITY: u32 = 0xff << 23;
const QUIET: u32 = 1 << 22;
const DEFAULT_NAN: u32 = 1 << 31 | INFINITY | QUIET;

/// Unbiased exponent and 24-bit significand of a normal magnitude.
#[inline(always)]
const fn unpack(magnitude: u32) -> (i32, u64) {
    ((magnitude >> 23) as i32 - 127, (magnitude & (MIN_NORMAL - 1) | MIN_NORMAL) as u64)
}

/// Packs a 13-bit significand with the exponent field it has below 2^13; 2^13 carries into the
/// exponent.
#[inline(always)]
const fn pack(exp: i32, sig: u64) -> u32 {
    (((exp - 1) as u32) << 23) + ((sig as u32) << 11)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative error of an approximation, as a multiple of 2^-12, with the integers' help only:
    /// `|approx * x - 1|` for the reciprocal.
    fn reciprocal_error_in_2_to_minus_24(x: u32, y: u32) -> u64 {
        let ((ex, sx), (ey, sy)) = (unpack(x), unpack(y));
        // sx * sy * 2^(ex + ey - 46) against 1.
        let product = (sx * sy) >> (22 - ex - ey);
        product.abs_diff(1 << 24)
    }

    #[test]
    fn reciprocal_error_stays_below_bound() {
        let bound = 3 << 11;
        for mantissa in (0..1 << 23).step_by(37) {
            let x = 127 << 23 | mantissa;
            let y = F32(x).reciprocal().0;
            assert!(reciprocal_error_in_2_to_minus_24(x, y) <= bound, "{x:x} {y:x}");
        }
        assert_eq!(F32(0x3f80_0000).reciprocal(), F32(0x3f80_0000));
        assert_eq!(F32(0x4080_0000).reciprocal(), F32(0x3e80_0000));
    }

    #[test]
    fn reciprocal_sqrt_error_stays_below_bound() {
        for x in (126 << 23..128 << 23).step_by(37) {
            let y = F32(x).reciprocal_sqrt().0;
            // y * y approximates 1 / x with twice the relative error.
            let mut env = Env::DEFAULT;
            let square = F32(y).mul(F32(y), &mut env);
            assert!(reciprocal_error_in_2_to_minus_24(x, square.0) <= 6 << 11, "{x:x} {y:x}");
        }
        assert_eq!(F32(0x4080_0000).reciprocal_sqrt(), F32(0x3f00_0000));
    }

    #[test]
    fn reciprocals_special_operands_follow_sdm() {
        let cases = [
            (0, INFINITY, INFINITY),
            (1 << 31 | 5, 1 << 31 | INFINITY, 1 << 31 | INFINITY),
            (INFINITY, 0, 0),
            (1 << 31 | INFINITY, 1 << 31, DEFAULT_NAN),
            (0xbf80_0000, 0xbf80_0000, DEFAULT_NAN),
            (INFINITY | 1, INFINITY | QUIET | 1, INFINITY | QUIET | 1),
            (0x7f7f_ffff, 0, 0x1f80_0000),
        ];
        for (x, rcp, rsqrt) in cases {
            assert_eq!(F32(x).reciprocal().0, rcp, "{x:x}");
            assert_eq!(F32(x).reciprocal_sqrt().0, rsqrt, "{x:x}");
        }
        // The largest operand that must not be flushed still has a normal reciprocal.
        assert_eq!(F32(0x7e7f_e7ff).reciprocal().0 & INFINITY, 1 << 23);
    }
}
