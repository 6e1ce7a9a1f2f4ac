//! Integer square roots with remainder (Zimmermann's "Karatsuba square root").

/// Square root of a radicand with bit 63 or 62 set: root below 2^32 and remainder.
#[inline]
pub(super) fn sqrt_rem_64(radicand: u64) -> (u64, u64) {
    let root = radicand.isqrt();
    (root, radicand - root * root)
}

/// Square root of a radicand with bit 127 or 126 set: root (bit 63 set) and remainder, which is at
/// most twice the root.
#[inline]
pub(super) fn sqrt_rem_128(radicand: u128) -> (u64, u128) {
    debug_assert!(radicand >> 126 != 0);
    let (s1, r1) = sqrt_rem_64((radicand >> 64) as u64);
    let low = radicand as u64;
    // One more digit of 32 bits: divide the remainder by twice the root so far.
    let num = u128::from(r1) << 32 | u128::from(low >> 32);
    let den = s1 << 1;
    // The numerator may need 65 bits; its excess over 64 bits is one multiple of 2^64.
    let (mut q, mut u) = if num >> 64 == 0 {
        (num as u64 / den, num as u64 % den)
    } else {
        let d = u128::from(den);
        ((num / d) as u64, (num % d) as u64)
    };
    // The quotient estimate can only exceed a digit by reaching 2^32 exactly or one above.
    if q > 0xffff_ffff {
        u += (q - 0xffff_ffff) * den;
        q = 0xffff_ffff;
    }
    let mut root = (s1 << 32) + q;
    let mut rem =
        (i128::from(u) << 32 | i128::from(low & 0xffff_ffff)) - (u128::from(q) * u128::from(q)) as i128;
    if rem < 0 {
        rem += 2 * i128::from(root) - 1;
        root -= 1;
    }
    (root, rem as u128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqrt_rem_128_edges_satisfy_definition() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed
        };
        for i in 0..20_000u32 {
            let mut n = u128::from(next()) << 64 | u128::from(next());
            match i % 5 {
                0 => n |= u128::MAX << 64,
                1 => n |= 1 << 126,
                // Squares and their neighbours.
                2 => {
                    let r = u128::from(next() | 1 << 63);
                    n = r * r;
                }
                3 => {
                    let r = u128::from(next() | 1 << 63);
                    n = r * r - 1;
                }
                _ => n |= 0b11 << 126,
            }
            n |= if n >> 126 == 0 { 1 << 126 } else { 0 };
            let (root, rem) = sqrt_rem_128(n);
            let wide = u128::from(root);
            assert_eq!(wide * wide + rem, n, "{n:x}");
            assert!(rem <= 2 * wide, "{n:x}");
        }
    }
}
