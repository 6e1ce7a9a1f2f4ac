//! Random values at the corners of the floating-point and integer formats.

use crate::gen_int::Rng;

/// The bits of an 80-bit value.
pub const LOW_80: u128 = (1 << 80) - 1;

/// Zero, one bit, a run of ones, few bits, all ones or anything.
pub fn significand(rng: &mut Rng) -> u64 {
    let (p, q) = (rng.below(64), rng.below(64));
    match rng.below(12) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << p,
        3 => u64::MAX << p,
        4 => u64::MAX >> p,
        5 => (u64::MAX << p) ^ 1 << q,
        6 => 1 << p | 1 << q,
        // Around the middle between two numbers of 24 and of 53 bits.
        7 => (rng.next_u64() << 40 | 1 << 39).wrapping_add(u64::from(rng.below(3))).wrapping_sub(1),
        8 => (rng.next_u64() << 11 | 1 << 10).wrapping_add(u64::from(rng.below(3))).wrapping_sub(1),
        9 => rng.next_u64() << p,
        _ => rng.next_u64(),
    }
}

fn pack(sign_exponent: u32, significand: u64) -> u128 {
    u128::from(sign_exponent & 0xFFFF) << 64 | u128::from(significand)
}

/// An 80-bit value of any class: zeros, denormals, pseudo-denormals, unnormals, pseudo-NaNs and
/// -infinities among them, the exponents piled up at the ends, around 1 and around the limits of the
/// smaller formats.
pub fn extended(rng: &mut Rng) -> u128 {
    let exponent = match rng.below(18) {
        0 => 0,
        1 => 1 + rng.below(3),
        2 => 0x7FFF,
        3 => 0x7FFE - rng.below(3),
        4 => rng.below(0x8000),
        5 => 0x4000 + rng.below(0x2000),
        6 => 0x1FFF + rng.below(0x2000),
        7 => 0x3FFF - 1022 - rng.below(70),
        8 => 0x3FFF - 126 - rng.below(40),
        9 => 0x3FFF + 127 + rng.below(3),
        10 => 0x3FFF + 1022 + rng.below(4),
        11..=13 => 0x3FFF - 66 + rng.below(132),
        // Integers and halves at the limits of the integer formats.
        14 => return near_integer(rng),
        15 => return near_decimal(rng),
        _ => 0x3FFF - 4 + rng.below(8),
    };
    let mut sig = significand(rng);
    // Mostly supported encodings.
    if exponent != 0 && rng.below(24) != 0 {
        sig |= 1 << 63;
    } else if exponent == 0 && rng.below(4) != 0 {
        sig &= !(1 << 63);
    }
    pack(exponent | rng.below(2) << 15, sig)
}

/// `numerator / 2^shift` as an 80-bit value.
fn fraction(numerator: u64, shift: u32, negative: bool) -> u128 {
    if numerator == 0 {
        return pack(u32::from(negative) << 15, 0);
    }
    let zeros = numerator.leading_zeros();
    pack((0x3FFF + 63 - zeros - shift) | u32::from(negative) << 15, numerator << zeros)
}

/// Around the limits of 16, 32 and 64 bits, in quarters.
fn near_integer(rng: &mut Rng) -> u128 {
    let negative = rng.below(2) == 0;
    match rng.below(4) {
        0 => fraction((1 << 17) - 8 + u64::from(rng.below(17)), 2, negative),
        1 => fraction((1 << 33) - 8 + u64::from(rng.below(17)), 2, negative),
        2 => {
            // 2^63 - 2 … 2^63 + 4
            let value = (1u128 << 63) - 2 + u128::from(rng.below(8));
            fraction(value as u64, 0, negative)
        }
        _ => fraction(u64::from(rng.below(64)), 2, negative),
    }
}

/// Around ±10^18, the limit of packed decimal numbers.
fn near_decimal(rng: &mut Rng) -> u128 {
    let quarters = 4_000_000_000_000_000_000 - 8 + u64::from(rng.below(16));
    fraction(quarters, 2, rng.below(2) == 0)
}

/// Two values whose sum, product or quotient is often delicate: near-cancellation, results at the ends
/// of the exponent range.
pub fn extended_pair(rng: &mut Rng) -> (u128, u128) {
    let (a, mut b) = (extended(rng), extended(rng));
    let exponent = (a >> 64) as i32 & 0x7FFF;
    let near = rng.below(6) as i32 - 3;
    let mut sig = b as u64;
    let partner = match rng.below(8) {
        0 => {
            sig = (a as u64).wrapping_add(u64::from(rng.below(5))).wrapping_sub(2);
            exponent
        }
        1 => exponent + near,
        2 => exponent + rng.below(140) as i32 - 70,
        // Products around the smallest and largest numbers.
        3 => 0x3FFF - exponent - rng.below(70) as i32,
        4 => 0x3FFF + 0x7FFF - exponent + near,
        // Quotients there.
        5 => exponent + 0x3FFF + near - 4 + rng.below(70) as i32,
        6 => exponent - 0x4000 + near,
        _ => 0,
    };
    if (1..0x7FFF).contains(&partner) && sig >> 63 != 0 {
        b = pack((b >> 64) as u32 & 0x8000 | partner as u32, sig);
    }
    (a, b)
}

/// An image of a format with `exponent` and `fraction` bits, corners preferred.
fn binary(rng: &mut Rng, exponent: u32, fraction: u32) -> u64 {
    let max = (1u64 << exponent) - 1;
    let bias = max >> 1;
    let mut near = |from: u64, n: u32| from + u64::from(rng.below(n));
    let e = match near(0, 13) {
        0 | 1 => 0,
        2 => near(1, 2),
        3 => max,
        4 => max - near(1, 2),
        5 | 6 => near(0, max as u32 + 1),
        7 => near(bias / 2, 4),
        8 => near(bias + bias / 2, 4),
        9 => near(bias + 22, 12),
        10 => near(bias + 60, 6),
        _ => near(bias - 3, 6),
    };
    (rng.next_u64() & 1) << (exponent + fraction) | e << fraction | significand(rng) >> (64 - fraction)
}

/// An f32 image.
pub fn single(rng: &mut Rng) -> u32 {
    binary(rng, 8, 23) as u32
}

/// An f64 image.
pub fn double(rng: &mut Rng) -> u64 {
    binary(rng, 11, 52)
}

/// The f32 whose leading bits are those of an 80-bit value, so that comparisons come out close.
pub fn near_single(value: u128) -> u32 {
    let exponent = (value >> 64) as i32 & 0x7FFF;
    let narrow = (exponent - 0x3FFF + 127).clamp(0, 255) as u32;
    ((value >> 79) as u32) << 31 | narrow << 23 | (value as u64 >> 40) as u32 & 0x7F_FFFF
}

/// As [`near_single`] in f64.
pub fn near_double(value: u128) -> u64 {
    let exponent = (value >> 64) as i64 & 0x7FFF;
    let narrow = (exponent - 0x3FFF + 1023).clamp(0, 2047) as u64;
    ((value >> 79) as u64) << 63 | narrow << 52 | value as u64 >> 11 & ((1 << 52) - 1)
}

/// Integers: the limits of all widths, small ones, anything.
pub fn integer(rng: &mut Rng) -> u64 {
    match rng.below(6) {
        0 => u64::from(rng.corner()) | u64::from(rng.corner()) << 32,
        1 => (1u64 << rng.below(64)).wrapping_sub(u64::from(rng.below(3))),
        2 => 0u64.wrapping_sub(u64::from(rng.below(70))),
        3 => u64::from(rng.below(70)),
        4 => significand(rng),
        _ => rng.next_u64() >> rng.below(64),
    }
}

/// Packed decimal: mostly digits, the sign byte anything, sometimes invalid digits.
pub fn decimal(rng: &mut Rng) -> [u8; 10] {
    let mut bytes = [0; 10];
    let (v, w) = (rng.next_u64(), rng.next_u64());
    let kind = rng.below(8);
    for (n, byte) in bytes.iter_mut().enumerate() {
        let (a, b) = ((v >> (4 * n)) as u8 & 15, (w >> (4 * n)) as u8 & 15);
        *byte = match kind {
            0 => a << 4 | b,
            1 => 0x99,
            2 => 0,
            _ => (a % 10) << 4 | (b % 10),
        };
    }
    bytes[9] = match rng.below(4) {
        0 => v as u8,
        1 => 0x80,
        _ => 0,
    };
    bytes
}

/// MXCSR, mostly one that may be loaded. The bit that only AMD's processors have (17) comes with others
/// that do not exist.
pub fn mxcsr(rng: &mut Rng) -> u32 {
    let valid = rng.next_u64() as u32 & 0xFFFF;
    match rng.below(8) {
        0 => valid | 1 << 16,
        1 => valid | (rng.next_u64() as u32 & 0xFFFE_0000) | 1 << (18 + rng.below(14)),
        _ => valid,
    }
}
