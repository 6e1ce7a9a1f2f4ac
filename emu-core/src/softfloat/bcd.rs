//! FBLD and FBSTP: 18-digit packed decimal integers.

use super::exception::IE;
use super::round::round_to_integer;
use super::{Env, F80};

/// Ten bytes of packed decimal: nine bytes of two digits, least significant first, and a sign byte.
pub type PackedBcd = [u8; 10];

/// What FBSTP stores for an invalid operation.
const INDEFINITE: PackedBcd = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

impl F80 {
    /// FBLD: exact. Digits above nine count with their binary value.
    pub fn from_bcd(bcd: PackedBcd) -> Self {
        let [digits @ .., sign] = bcd;
        let magnitude = digits
            .iter()
            .rev()
            .fold(0u64, |value, pair| value * 100 + u64::from(pair >> 4) * 10 + u64::from(pair & 15));
        Self::from_magnitude(sign & 0x80 != 0, magnitude)
    }

    /// FBSTP: rounds to an integer; more than 18 digits give IE and the packed indefinite.
    pub fn to_bcd(self, env: &mut Env) -> PackedBcd {
        let mut bcd = [0; 10];
        if self.is_zero() {
            bcd[9] = u8::from(self.is_negative()) << 7;
            return bcd;
        }
        let x = self.finite();
        let exp = x.exp - Self::BIAS;
        if exp > 63 || self.is_unsupported() {
            env.raise(IE);
            return INDEFINITE;
        }
        let (mut magnitude, inexact, up) = round_to_integer(x.neg, exp, x.sig, env.rounding);
        if magnitude >= 1_000_000_000_000_000_000 {
            env.raise(IE);
            return INDEFINITE;
        }
        if inexact {
            env.inexact(up);
        }
        let [digits @ .., sign] = &mut bcd;
        for pair in digits {
            let two = (magnitude % 100) as u8;
            *pair = ((two / 10) << 4) | (two % 10);
            magnitude /= 100;
        }
        *sign = u8::from(x.neg) << 7;
        bcd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bcd_largest_number_survives_the_round_trip() {
        let mut env = Env::DEFAULT;
        let bcd = [0x99, 0x99, 0x99, 0x99, 0x99, 0x99, 0x99, 0x99, 0x99, 0x80];
        assert_eq!(F80::from_bcd(bcd).to_bcd(&mut env), bcd);
        assert_eq!(env.flags, 0);
        let above = F80::from_i64(1_000_000_000_000_000_000);
        assert_eq!((above.to_bcd(&mut env), env.flags), (INDEFINITE, IE));
    }
}
