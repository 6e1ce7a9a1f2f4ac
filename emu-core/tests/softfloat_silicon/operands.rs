//! Pseudo-random operands that favour the corners of the formats.

use emu_core::softfloat::F80;

/// A small fast generator (SplitMix64); the same sequence on every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Zero, one bit, a run of ones, few bits, all ones or uniform.
    pub fn significand(&mut self) -> u64 {
        let (p, q) = (self.below(64) as u32, self.below(64) as u32);
        match self.below(12) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << p,
            3 => u64::MAX << p,
            4 => u64::MAX >> p,
            5 => (u64::MAX << p) ^ 1 << q,
            6 => 1 << p | 1 << q,
            // Just around the middle between two numbers of 24 and 53 bits.
            7 => (self.next() << 40 | 1 << 39).wrapping_add(self.below(3)).wrapping_sub(1),
            8 => (self.next() << 11 | 1 << 10).wrapping_add(self.below(3)).wrapping_sub(1),
            9 => self.next() << p,
            _ => self.next(),
        }
    }

    /// An 80-bit operand: all classes, exponents piled up at the ends and around 1.
    pub fn f80(&mut self) -> F80 {
        let exp = match self.below(16) {
            0 => 0,
            1 => 1 + self.below(3) as u16,
            2 => 0x7fff,
            3 => 0x7ffe - self.below(3) as u16,
            4 => self.below(0x8000) as u16,
            5 => 0x4000 + self.below(0x2000) as u16,
            6 => 0x1fff + self.below(0x2000) as u16,
            7 => 0x3fff - 1022 - self.below(70) as u16,
            8 => 0x3fff - 126 - self.below(40) as u16,
            9 => 0x3fff + 127 + self.below(3) as u16,
            10 => 0x3fff + 1022 + self.below(4) as u16,
            11..=13 => 0x3fff - 66 + self.below(132) as u16,
            _ => 0x3fff - 4 + self.below(8) as u16,
        };
        let mut sig = self.significand();
        // Mostly supported encodings.
        if exp != 0 && self.below(24) != 0 {
            sig |= 1 << 63;
        } else if exp == 0 && self.below(4) != 0 {
            sig &= !(1 << 63);
        }
        F80 { sig, se: exp | (self.next() as u16 & 0x8000) }
    }

    /// A pair whose result is often delicate: near-cancellation, or products and quotients at the
    /// ends of the exponent range.
    pub fn f80_pair(&mut self) -> (F80, F80) {
        let a = self.f80();
        let mut b = self.f80();
        let exp = i32::from(a.exponent());
        let near = self.below(6) as i32 - 3;
        let partner = match self.below(8) {
            0 => {
                b.sig = a.sig.wrapping_add(self.below(5)).wrapping_sub(2);
                exp
            }
            1 => exp + near,
            2 => exp + self.below(140) as i32 - 70,
            // Products around the smallest and largest numbers.
            3 => 0x3fff - exp - self.below(70) as i32,
            4 => 0x3fff + 0x7fff - exp + near,
            // Quotients there.
            5 => exp + 0x3fff + near - 4 + self.below(70) as i32,
            6 => exp - 0x4000 + near,
            _ => i32::from(b.exponent()),
        };
        if (1..0x7fff).contains(&partner) && b.sig >> 63 != 0 {
            b.se = b.se & 0x8000 | partner as u16;
        }
        (a, b)
    }

    /// An image of a binary format with `e` exponent and `m` fraction bits.
    pub fn binary(&mut self, e: u32, m: u32) -> u64 {
        let max = (1u64 << e) - 1;
        let bias = max >> 1;
        let exp = match self.below(12) {
            0 | 1 => 0,
            2 => 1 + self.below(2),
            3 => max,
            4 => max - 1 - self.below(2),
            5 | 6 => self.below(max + 1),
            7 => bias / 2 + self.below(4),
            8 => bias + bias / 2 + self.below(4),
            9 => bias + 22 + self.below(12),
            _ => bias - 3 + self.below(6),
        };
        (self.next() & 1) << (e + m) | exp << m | self.significand() >> (64 - m)
    }

    /// A pair of such images, often with a delicate result.
    pub fn binary_pair(&mut self, e: u32, m: u32) -> (u64, u64) {
        let a = self.binary(e, m);
        let mut b = self.binary(e, m);
        let max = (1i64 << e) - 1;
        let bias = max >> 1;
        let exp = (a >> m) as i64 & max;
        let near = self.below(6) as i64 - 3;
        let partner = match self.below(8) {
            0 => {
                b = b & !((1 << m) - 1) | a.wrapping_add(self.below(5)).wrapping_sub(2) & ((1 << m) - 1);
                exp
            }
            1 => exp + near,
            2 => exp + self.below(u64::from(2 * m)) as i64 - i64::from(m),
            3 => bias - exp - self.below(u64::from(m)) as i64,
            4 => bias + max - exp + near,
            5 => exp + bias + near + self.below(u64::from(m)) as i64,
            6 => exp - bias + near,
            _ => -1,
        };
        if (1..max).contains(&partner) {
            b = b & !((max as u64) << m) | (partner as u64) << m;
        }
        (a, b)
    }
}

/// How many cases to run: `cases` times the factor in `SOFTFLOAT_CASES` (default 1).
pub fn scaled(cases: u32) -> u32 {
    let factor = std::env::var("SOFTFLOAT_CASES").ok().and_then(|value| value.parse().ok()).unwrap_or(1);
    cases * factor
}

/// Collects differences, so that a failing run shows several at once.
pub struct Differences {
    found: Vec<String>,
    count: u32,
}

impl Differences {
    pub fn new() -> Self {
        Self { found: Vec::new(), count: 0 }
    }

    pub fn report(&mut self, describe: impl FnOnce() -> String) {
        self.count += 1;
        if self.found.len() < 20 {
            self.found.push(describe());
        }
    }

    pub fn assert_none(self) {
        assert!(self.count == 0, "{} differences:\n{}", self.count, self.found.join("\n"));
    }
}
