//! Random numbers for tests, the same on every host, with a liking for what matters to a PC.

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// A number below `n`; 0 for 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.number() % n.max(1) as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Small numbers, addresses in 2 MiB of RAM, bounds of types, anything.
    pub fn value(&mut self) -> u32 {
        let v = self.number() as u32;
        match self.below(4) {
            0 => v & 0xFF,
            1 => v & 0x1F_FFFC,
            2 => self.pick(&[0, 1, 0x80, 0x7FFF_FFFF, 0x8000_0000, u32::MAX]),
            _ => v,
        }
    }

    /// A port: some device's, one of the assigned PCI regions, or any.
    pub fn port(&mut self) -> u16 {
        const DEVICES: &[(u16, u16)] = &[
            (0x00, 0x20),
            (0x20, 2),
            (0x40, 4),
            (0x60, 5),
            (0x70, 2),
            (0x80, 16),
            (0x92, 1),
            (0xA0, 2),
            (0xC0, 32),
            (0x170, 8),
            (0x1CE, 2),
            (0x1F0, 8),
            (0x220, 16),
            (0x300, 32),
            (0x330, 2),
            (0x376, 1),
            (0x378, 3),
            (0x388, 4),
            (0x3B4, 0x2C),
            (0x3F0, 16),
            (0x4D0, 2),
            (0x510, 2),
            (0xCF8, 8),
            (0x5658, 1),
            (0xAFE0, 4),
            (0xB000, 12),
        ];
        match self.below(8) {
            0 => self.number() as u16,
            1..=3 => 0xC000 + self.below(0x200) as u16,
            _ => {
                let (first, len) = self.pick(DEVICES);
                first + self.below(usize::from(len)) as u16
            }
        }
    }

    /// An address in a device window, or in RAM.
    pub fn address(&mut self) -> u32 {
        let base = self.pick(&[
            0xA_0000,
            0xB_8000,
            0xE000_0000,
            0xE003_FFF0,
            0xFEC0_0000,
            0xFEE0_0000,
            0xFEE0_0300,
            0x0,
            0x1F_FFE0,
            0x8_0000,
            0xFFFF_FFF0,
        ]);
        base + self.below(0x100) as u32 % (u32::MAX - base)
    }
}
