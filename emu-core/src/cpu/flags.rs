//! EFLAGS and the lazy form of its arithmetic bits.
//!
//! The six arithmetic flags are kept as the last result and a word of carries, from which each flag
//! is one or two operations away; there is no "kind" to dispatch on and no separate materialised
//! form: any combination of flags can be expressed ([`Flags::set`]).

/// Carry.
pub const CF: u32 = 1 << 0;
/// Parity.
pub const PF: u32 = 1 << 2;
/// Auxiliary carry.
pub const AF: u32 = 1 << 4;
/// Zero.
pub const ZF: u32 = 1 << 6;
/// Sign.
pub const SF: u32 = 1 << 7;
/// Trap (single-step).
pub const TF: u32 = 1 << 8;
/// Interrupt enable.
pub const IF: u32 = 1 << 9;
/// Direction.
pub const DF: u32 = 1 << 10;
/// Overflow.
pub const OF: u32 = 1 << 11;
/// I/O privilege level, two bits.
pub const IOPL: u32 = 3 << 12;
/// Nested task.
pub const NT: u32 = 1 << 14;
/// Resume.
pub const RF: u32 = 1 << 16;
/// Virtual-8086 mode.
pub const VM: u32 = 1 << 17;
/// Alignment check.
pub const AC: u32 = 1 << 18;
/// Virtual interrupt flag.
pub const VIF: u32 = 1 << 19;
/// Virtual interrupt pending.
pub const VIP: u32 = 1 << 20;
/// CPUID available.
pub const ID: u32 = 1 << 21;
/// Bit 1, always set.
pub const FIXED: u32 = 1 << 1;
/// The six arithmetic flags.
pub const ARITH: u32 = CF | PF | AF | ZF | SF | OF;
/// Every bit that exists.
pub const ALL: u32 = ARITH | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID | FIXED;

/// The arithmetic flags.
///
/// * `res`: last result, sign-extended to 32 bits: ZF is `res == 0`.
/// * `aux`: bit 31 is CF, bit 30 is CF xor OF ("partial overflow": the carry into the sign bit),
///   bit 3 is AF, bits 15:8 are XORed with the result's low byte before its parity is taken, bit 0
///   inverts the sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flags {
    /// Result part.
    pub res: u32,
    /// Carry part.
    pub aux: u32,
}

impl Flags {
    /// After an addition or subtraction of `bits` width: sign-extended result, carry-out vector
    /// (bit n = carry out of bit n).
    #[inline(always)]
    pub fn arith(res: u32, carries: u32, bits: u32) -> Self {
        Self { res, aux: (carries & 8) | ((carries << (32 - bits)) & 0xC000_0000) }
    }

    /// After a logical operation: CF, OF and AF clear.
    #[inline(always)]
    pub fn logic(res: u32) -> Self {
        Self { res, aux: 0 }
    }

    /// From the arithmetic bits of an EFLAGS image.
    pub fn set(eflags: u32) -> Self {
        let cf = eflags & CF != 0;
        let of = eflags & OF != 0;
        let mut aux = 0;
        if cf {
            aux |= 1 << 31;
        }
        if cf != of {
            aux |= 1 << 30;
        }
        if eflags & AF != 0 {
            aux |= 8;
        }
        // res = 0 for ZF, else 1; sign by the inverter; parity by the delta byte.
        let res = u32::from(eflags & ZF == 0);
        if eflags & SF != 0 {
            aux |= 1;
        }
        let even = res == 0;
        if (eflags & PF != 0) != even {
            aux |= 1 << 8;
        }
        Self { res, aux }
    }

    /// The arithmetic bits as EFLAGS has them.
    pub fn get(self) -> u32 {
        let mut f = 0;
        if self.cf() {
            f |= CF;
        }
        if self.pf() {
            f |= PF;
        }
        if self.af() {
            f |= AF;
        }
        if self.zf() {
            f |= ZF;
        }
        if self.sf() {
            f |= SF;
        }
        if self.of() {
            f |= OF;
        }
        f
    }

    /// Carry.
    #[inline(always)]
    pub fn cf(self) -> bool {
        self.aux >> 31 != 0
    }

    /// Parity of the low byte.
    #[inline(always)]
    pub fn pf(self) -> bool {
        ((self.res ^ (self.aux >> 8)) as u8).count_ones() & 1 == 0
    }

    /// Auxiliary carry.
    #[inline(always)]
    pub fn af(self) -> bool {
        self.aux & 8 != 0
    }

    /// Zero.
    #[inline(always)]
    pub fn zf(self) -> bool {
        self.res == 0
    }

    /// Sign.
    #[inline(always)]
    pub fn sf(self) -> bool {
        (self.res >> 31) ^ (self.aux & 1) != 0
    }

    /// Overflow.
    #[inline(always)]
    pub fn of(self) -> bool {
        (self.aux ^ (self.aux << 1)) >> 31 != 0
    }

    /// Changes CF only.
    #[inline(always)]
    pub fn set_cf(&mut self, cf: bool) {
        let of = self.of();
        self.set_cf_of(cf, of);
    }

    /// Changes CF and OF only.
    #[inline(always)]
    pub fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.aux = (self.aux & 0x3FFF_FFFF) | (u32::from(cf) << 31) | (u32::from(cf ^ of) << 30);
    }

    /// Changes ZF only.
    pub fn set_zf(&mut self, zf: bool) {
        *self = Self::set((self.get() & !ZF) | if zf { ZF } else { 0 });
    }

    /// Condition `cc` of Jcc, SETcc and CMOVcc (low 4 bits of the opcode; SDM vol. 2 app. B.1.4.7).
    #[inline(always)]
    pub fn condition(self, cc: u8) -> bool {
        let base = match (cc >> 1) & 7 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() | self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() | (self.sf() != self.of()),
        };
        base != (cc & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_every_combination_survives_set_and_get() {
        for bits in 0..64u32 {
            let f = [CF, PF, AF, ZF, SF, OF]
                .iter()
                .enumerate()
                .filter(|(i, _)| bits >> i & 1 != 0)
                .fold(0, |a, (_, &b)| a | b);
            assert_eq!(Flags::set(f).get(), f, "{f:#x}");
        }
    }

    #[test]
    fn flags_set_cf_and_of_leave_the_others() {
        for bits in 0..64u32 {
            let all = [CF, PF, AF, ZF, SF, OF];
            let f = all.iter().enumerate().filter(|(i, _)| bits >> i & 1 != 0).fold(0, |a, (_, &b)| a | b);
            let mut x = Flags::set(f);
            x.set_cf_of(true, false);
            assert_eq!(x.get(), (f | CF) & !OF);
            x.set_cf(false);
            assert_eq!(x.get(), f & !CF & !OF);
            x.set_zf(true);
            assert_eq!(x.get(), (f & !CF & !OF) | ZF);
        }
    }
}
