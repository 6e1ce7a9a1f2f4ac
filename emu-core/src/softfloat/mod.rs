//! Software floating point for the i386: the x87's 80-bit format and the f32/f64 of SSE.
//!
//! Everything is integer arithmetic on bit images; no host floating point is involved, so the result
//! does not depend on the host's modes, libraries or architecture. Results, exception flags and the
//! C1 "rounded up" bit follow the silicon bit for bit (SDM volume 1, chapters 4, 8 and 11); the test
//! `softfloat_silicon` compares them with the processor the tests run on.
//!
//! # How an instruction uses it
//!
//! 1. Build an [`Env`] from the control word ([`Env::x87`]) or MXCSR ([`Env::sse`]). Its `flags` start
//!    empty: they are what *this* instruction raised, to be ORed into the status word or MXCSR.
//! 2. Call the operation.
//! 3. If [`Env::suppresses_result`] (x87 registers), [`Env::suppresses_store`] (x87 memory operands and
//!    integers) or [`Env::unmasked`] (SSE) says so, leave the destination alone and signal the
//!    exception; otherwise write the result, and signal if [`Env::unmasked`].

mod bcd;
mod binary;
mod f32;
mod f64;
mod f80;
mod f80_arith;
mod f80_convert;
mod f80_remainder;
mod f80_scale;
mod logarithmic;
mod round;
mod sqrt;
mod tables;
mod trigonometric;
mod wide;

pub use bcd::PackedBcd;
pub use f32::F32;
pub use f64::F64;
pub use f80::{Class, F80};
pub use f80_remainder::Remainder;

/// Exception flags, in the bit positions the x87 status word and MXCSR share.
pub mod exception {
    /// Invalid operation: signalling NaN, unsupported format, or an operation without a result.
    pub const IE: u8 = 1 << 0;
    /// Denormal operand.
    pub const DE: u8 = 1 << 1;
    /// Division of a finite number by zero.
    pub const ZE: u8 = 1 << 2;
    /// Overflow.
    pub const OE: u8 = 1 << 3;
    /// Underflow.
    pub const UE: u8 = 1 << 4;
    /// Precision: the result was rounded.
    pub const PE: u8 = 1 << 5;
    /// All six of them.
    pub const ALL: u8 = 0x3f;
}

use exception::{ALL, DE, IE, OE, UE, ZE};

/// Rounding mode, numbered as the RC field of the x87 control word and of MXCSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest = 0,
    /// Towards minus infinity.
    Down = 1,
    /// Towards plus infinity.
    Up = 2,
    /// Towards zero (truncation).
    Zero = 3,
}

impl Rounding {
    /// The mode of a two-bit RC field (higher bits are ignored).
    #[inline]
    pub const fn from_rc(rc: u32) -> Self {
        match rc & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// Significand precision of x87 add, subtract, multiply, divide and square root: the PC field.
/// The exponent keeps its 15 bits whatever the precision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Precision {
    /// 24 bits.
    Single = 0,
    /// 53 bits.
    Double = 2,
    /// 64 bits.
    Extended = 3,
}

impl Precision {
    /// The precision of a two-bit PC field. The reserved encoding 01 selects 64 bits.
    #[inline]
    pub const fn from_pc(pc: u32) -> Self {
        match pc & 3 {
            0 => Self::Single,
            2 => Self::Double,
            _ => Self::Extended,
        }
    }
}

/// Outcome of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// First operand below the second.
    Less,
    /// Equal (the zeros are equal to each other).
    Equal,
    /// First operand above the second.
    Greater,
    /// At least one operand is a NaN or an unsupported format.
    Unordered,
}

/// The modes an operation runs under, and what it reports.
///
/// `c1` and `flags` lie at odd offsets so that compilers do not widen their loads: a wide load right
/// after the byte stores of an operation stalls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Env {
    /// Rounding mode.
    pub rounding: Rounding,
    /// Set when the last rounding increased the magnitude (C1 of the status word).
    /// Operations never clear it.
    pub c1: bool,
    /// Masked exceptions ([`exception`] bits; a set bit is a masked exception).
    pub masked: u8,
    /// Exceptions raised so far ([`exception`] bits, sticky).
    pub flags: u8,
    /// x87 precision control. SSE operations do not look at it.
    pub precision: Precision,
    /// MXCSR.FZ: flush tiny results to zero while underflow is masked.
    pub ftz: bool,
    /// MXCSR.DAZ: treat denormal operands as zeros.
    pub daz: bool,
}

impl Env {
    /// All exceptions masked, round to nearest, 64-bit precision: the state after FNINIT.
    pub const DEFAULT: Self = Self {
        rounding: Rounding::Nearest,
        precision: Precision::Extended,
        masked: ALL,
        flags: 0,
        c1: false,
        ftz: false,
        daz: false,
    };

    /// Modes of an x87 control word.
    #[inline]
    pub const fn x87(control: u16) -> Self {
        Self {
            rounding: Rounding::from_rc((control >> 10) as u32),
            precision: Precision::from_pc((control >> 8) as u32),
            masked: control as u8 & ALL,
            ..Self::DEFAULT
        }
    }

    /// Modes of an MXCSR value.
    #[inline]
    pub const fn sse(mxcsr: u32) -> Self {
        Self {
            rounding: Rounding::from_rc(mxcsr >> 13),
            masked: (mxcsr >> 7) as u8 & ALL,
            ftz: mxcsr & (1 << 15) != 0,
            daz: mxcsr & (1 << 6) != 0,
            ..Self::DEFAULT
        }
    }

    /// The exceptions raised that are not masked.
    #[inline]
    pub const fn unmasked(&self) -> u8 {
        self.flags & !self.masked
    }

    /// Whether an x87 instruction with a register destination must leave it (and the stack) alone:
    /// an unmasked invalid operation, denormal operand or zero divide stops it before it computes.
    /// Unmasked overflow and underflow deliver the result with its exponent wrapped instead
    /// (SDM volume 1, 8.5.4 and 8.5.5), and unmasked precision the rounded result.
    #[inline]
    pub const fn suppresses_result(&self) -> bool {
        self.unmasked() & (IE | DE | ZE) != 0
    }

    /// Whether an x87 store to memory must leave memory (and the stack) alone: unmasked overflow and
    /// underflow count too, because there is no wrapped result in the narrower formats.
    #[inline]
    pub const fn suppresses_store(&self) -> bool {
        self.unmasked() & (IE | DE | ZE | OE | UE) != 0
    }

    /// Records exceptions.
    #[inline(always)]
    fn raise(&mut self, flags: u8) {
        self.flags |= flags;
    }

    /// Whether an exception is masked.
    #[inline(always)]
    const fn masks(&self, flag: u8) -> bool {
        self.masked & flag != 0
    }

    /// Records an inexact result and the direction its magnitude was rounded in.
    #[inline(always)]
    fn inexact(&mut self, up: bool) {
        self.flags |= exception::PE;
        self.c1 = up;
    }
}

impl Default for Env {
    fn default() -> Self {
        Self::DEFAULT
    }
}
