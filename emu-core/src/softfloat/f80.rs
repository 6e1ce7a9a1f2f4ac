//! The 80-bit double extended format: images, classes and NaN rules.

use super::exception::{DE, IE};
use super::{Env, Rounding};

/// An 80-bit double extended number as it lies in a register: 64-bit significand with an explicit
/// integer bit, sign and 15-bit exponent (bias 16383). Every image is representable, including the
/// encodings processors since the 80387 no longer support.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct F80 {
    /// Significand; bit 63 is the integer bit.
    pub sig: u64,
    /// Bit 15 the sign, bits 14-0 the biased exponent.
    pub se: u16,
}

/// Classes FXAM distinguishes, NaNs split by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Plus or minus zero.
    Zero,
    /// Normalised finite number.
    Normal,
    /// Denormal or pseudo-denormal (exponent field 0, integer bit 0 or 1).
    Denormal,
    /// Infinity.
    Infinity,
    /// Quiet NaN.
    QuietNan,
    /// Signalling NaN.
    SignallingNan,
    /// Unnormal, pseudo-infinity or pseudo-NaN: an invalid operand.
    Unsupported,
}

/// A finite nonzero number: `(-1)^neg * sig * 2^(exp - 16383 - 63)` with bit 63 of `sig` set.
#[derive(Clone, Copy)]
pub(super) struct Finite {
    pub neg: bool,
    pub exp: i32,
    pub sig: u64,
}

impl F80 {
    /// Largest exponent field: infinities and NaNs.
    pub(super) const EXP_MAX: u16 = 0x7fff;
    /// Exponent bias.
    pub(super) const BIAS: i32 = 0x3fff;
    /// What unmasked overflow and underflow subtract from and add to the exponent.
    pub(super) const WRAP: i32 = 0x6000;
    pub(super) const QUIET: u64 = 1 << 62;

    /// Plus zero (FLDZ).
    pub const ZERO: Self = Self { sig: 0, se: 0 };
    /// One (FLD1).
    pub const ONE: Self = Self { sig: 1 << 63, se: 0x3fff };
    /// The default NaN, "real indefinite".
    pub const INDEFINITE: Self = Self { sig: 0b11 << 62, se: 0xffff };

    /// Number with the given sign, exponent field and significand.
    #[inline(always)]
    pub const fn pack(neg: bool, exp: u16, sig: u64) -> Self {
        Self { sig, se: (neg as u16) << 15 | exp }
    }

    /// Infinity of a sign.
    #[inline]
    pub const fn infinity(neg: bool) -> Self {
        Self::pack(neg, Self::EXP_MAX, 1 << 63)
    }

    /// Zero of a sign.
    #[inline]
    pub const fn zero(neg: bool) -> Self {
        Self::pack(neg, 0, 0)
    }

    /// From the ten bytes of a memory operand. Raises nothing, as FLD m80.
    #[inline]
    pub const fn from_bytes(bytes: [u8; 10]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j] = bytes;
        Self { sig: u64::from_le_bytes([a, b, c, d, e, f, g, h]), se: u16::from_le_bytes([i, j]) }
    }

    /// The ten bytes of a memory operand, as FSTP m80 writes them.
    #[inline]
    pub const fn to_bytes(self) -> [u8; 10] {
        let [a, b, c, d, e, f, g, h] = self.sig.to_le_bytes();
        let [i, j] = self.se.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j]
    }

    /// The constant FLDL2T pushes: log2(10).
    pub const fn log2_10(rounding: Rounding) -> Self {
        Self { sig: 0xd49a_784b_cd1b_8afe + matches!(rounding, Rounding::Up) as u64, se: 0x4000 }
    }

    /// The constant FLDL2E pushes: log2(e).
    pub const fn log2_e(rounding: Rounding) -> Self {
        Self { sig: 0xb8aa_3b29_5c17_f0bc - rounds_down(rounding), se: 0x3fff }
    }

    /// The constant FLDPI pushes.
    pub const fn pi(rounding: Rounding) -> Self {
        Self { sig: 0xc90f_daa2_2168_c235 - rounds_down(rounding), se: 0x4000 }
    }

    /// The constant FLDLG2 pushes: log10(2).
    pub const fn log10_2(rounding: Rounding) -> Self {
        Self { sig: 0x9a20_9a84_fbcf_f799 - rounds_down(rounding), se: 0x3ffd }
    }

    /// The constant FLDLN2 pushes: ln(2).
    pub const fn ln_2(rounding: Rounding) -> Self {
        Self { sig: 0xb172_17f7_d1cf_79ac - rounds_down(rounding), se: 0x3ffe }
    }

    /// The sign bit.
    #[inline(always)]
    pub const fn is_negative(self) -> bool {
        self.se >> 15 != 0
    }

    /// The biased exponent field.
    #[inline(always)]
    pub const fn exponent(self) -> u16 {
        self.se & 0x7fff
    }

    /// FABS: clears the sign of any image.
    #[inline]
    pub const fn abs(self) -> Self {
        Self { sig: self.sig, se: self.se & 0x7fff }
    }

    /// FCHS: inverts the sign of any image.
    #[inline]
    pub const fn neg(self) -> Self {
        Self { sig: self.sig, se: self.se ^ 0x8000 }
    }

    /// The class of the image, as FXAM reports it.
    pub const fn class(self) -> Class {
        let integer = self.sig >> 63 != 0;
        match self.exponent() {
            0 if self.sig == 0 => Class::Zero,
            0 => Class::Denormal,
            _ if !integer => Class::Unsupported,
            Self::EXP_MAX if self.sig << 1 == 0 => Class::Infinity,
            Self::EXP_MAX if self.sig & Self::QUIET != 0 => Class::QuietNan,
            Self::EXP_MAX => Class::SignallingNan,
            _ => Class::Normal,
        }
    }

    /// Normalised and finite: the fast path of every operation.
    #[inline(always)]
    pub(super) const fn is_normal(self) -> bool {
        self.sig >> 63 != 0 && self.exponent().wrapping_sub(1) < Self::EXP_MAX - 1
    }

    #[inline(always)]
    pub(super) const fn is_zero(self) -> bool {
        self.exponent() == 0 && self.sig == 0
    }

    #[inline(always)]
    pub(super) const fn is_infinity(self) -> bool {
        self.exponent() == Self::EXP_MAX && self.sig == 1 << 63
    }

    /// Denormal or pseudo-denormal.
    #[inline(always)]
    pub(super) const fn is_denormal(self) -> bool {
        self.exponent() == 0 && self.sig != 0
    }

    #[inline(always)]
    pub(super) const fn is_nan(self) -> bool {
        self.exponent() == Self::EXP_MAX && self.sig > 1 << 63
    }

    #[inline(always)]
    pub(super) const fn is_signalling(self) -> bool {
        self.is_nan() && self.sig & Self::QUIET == 0
    }

    #[inline(always)]
    pub(super) const fn is_unsupported(self) -> bool {
        self.exponent() != 0 && self.sig >> 63 == 0
    }

    #[inline(always)]
    const fn quieted(self) -> Self {
        Self { sig: self.sig | Self::QUIET, se: self.se }
    }

    /// Unpacks a normalised finite number.
    #[inline(always)]
    pub(super) const fn normal(self) -> Finite {
        Finite { neg: self.is_negative(), exp: self.exponent() as i32, sig: self.sig }
    }

    /// Unpacks any finite nonzero number; denormals are normalised.
    #[inline]
    pub(super) const fn finite(self) -> Finite {
        if self.exponent() != 0 {
            return self.normal();
        }
        let shift = self.sig.leading_zeros();
        Finite { neg: self.is_negative(), exp: 1 - shift as i32, sig: self.sig << shift }
    }

    /// An invalid operation's masked response.
    #[cold]
    pub(super) fn invalid(env: &mut Env) -> Self {
        env.raise(IE);
        Self::INDEFINITE
    }

    /// The result of a one-operand operation whose operand is a NaN or unsupported.
    pub(super) fn nan1(a: Self, env: &mut Env) -> Option<Self> {
        if a.is_unsupported() {
            return Some(Self::invalid(env));
        }
        if !a.is_nan() {
            return None;
        }
        if a.is_signalling() {
            env.raise(IE);
        }
        Some(a.quieted())
    }

    /// The result of a two-operand operation if an operand is a NaN or unsupported (SDM volume 1,
    /// table 4-7): the only NaN, the quiet one of a mixed pair, else the one with the larger
    /// significand, else the positive one.
    pub(super) fn nan2(a: Self, b: Self, env: &mut Env) -> Option<Self> {
        if a.is_unsupported() || b.is_unsupported() {
            return Some(Self::invalid(env));
        }
        let (a_nan, b_nan) = (a.is_nan(), b.is_nan());
        if !a_nan && !b_nan {
            return None;
        }
        let (a_signals, b_signals) = (a.is_signalling(), b.is_signalling());
        if a_signals || b_signals {
            env.raise(IE);
        }
        let take_a = if a_nan && b_nan {
            if a_signals != b_signals {
                b_signals
            } else if a.sig != b.sig {
                a.sig > b.sig
            } else {
                !a.is_negative()
            }
        } else {
            a_nan
        };
        Some(if take_a { a.quieted() } else { b.quieted() })
    }

    /// Raises DE for a denormal operand. True if that is unmasked: the operation stops there.
    #[inline]
    pub(super) fn denormal_stops(denormal: bool, env: &mut Env) -> bool {
        if denormal {
            env.raise(DE);
        }
        denormal && !env.masks(DE)
    }
}

/// One unit for the modes that truncate a positive constant whose nearest value is above it.
const fn rounds_down(rounding: Rounding) -> u64 {
    matches!(rounding, Rounding::Down | Rounding::Zero) as u64
}
