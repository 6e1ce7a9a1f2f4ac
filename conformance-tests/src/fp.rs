//! x87, MMX and SSE state of a case, and its FXSAVE image.

use emu_core::cpu::CpuState;

/// Bytes of an FXSAVE image.
pub const IMAGE_LEN: usize = 512;

/// Where, in the part of an FXSAVE image that is left to software, the oracle puts what FNSTENV stores.
/// AMD's processors write the pointers of the last instruction to the image itself only while an
/// exception is pending.
pub const ENVIRONMENT: usize = 464;

/// The pointers of the last x87 instruction that was no control instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pointers {
    /// FOP: 11 bits.
    pub opcode: u16,
    /// FIP.
    pub ip: u32,
    /// FCS.
    pub cs: u16,
    /// FDP.
    pub dp: u32,
    /// FDS.
    pub ds: u16,
}

/// What FXSAVE stores, with the pointers that FNSTENV stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FpState {
    /// x87 control word.
    pub control: u16,
    /// x87 status word with TOP.
    pub status: u16,
    /// Abridged tags: bit n set = physical register n is not empty.
    pub valid: u8,
    /// Pointers of the last instruction.
    pub pointers: Pointers,
    /// ST(0) to ST(7), 80 bits each.
    pub st: [u128; 8],
    /// MXCSR.
    pub mxcsr: u32,
    /// XMM0 to XMM7.
    pub xmm: [u128; 8],
}

impl Default for FpState {
    fn default() -> Self {
        Self {
            control: 0x37F,
            status: 0,
            valid: 0,
            pointers: Pointers::default(),
            st: [0; 8],
            mxcsr: 0x1F80,
            xmm: [0; 8],
        }
    }
}

const LOW_80: u128 = (1 << 80) - 1;

impl FpState {
    /// Physical register (MMX number) of ST(`n`).
    pub fn physical(&self, n: usize) -> usize {
        (usize::from(self.status >> 11) + n) & 7
    }

    /// The FXSAVE image.
    pub fn to_image(&self) -> [u8; IMAGE_LEN] {
        let mut image = [0; IMAGE_LEN];
        image[0..2].copy_from_slice(&self.control.to_le_bytes());
        image[2..4].copy_from_slice(&self.status.to_le_bytes());
        image[4] = self.valid;
        let p = &self.pointers;
        image[6..8].copy_from_slice(&p.opcode.to_le_bytes());
        image[8..12].copy_from_slice(&p.ip.to_le_bytes());
        image[12..14].copy_from_slice(&p.cs.to_le_bytes());
        image[16..20].copy_from_slice(&p.dp.to_le_bytes());
        image[20..22].copy_from_slice(&p.ds.to_le_bytes());
        image[24..28].copy_from_slice(&self.mxcsr.to_le_bytes());
        for (n, v) in self.st.iter().chain(&self.xmm).enumerate() {
            image[32 + 16 * n..][..16].copy_from_slice(&v.to_le_bytes());
        }
        image
    }

    /// From an FXSAVE image with an environment (32-bit protected mode) at [`ENVIRONMENT`].
    pub fn from_image(image: &[u8; IMAGE_LEN]) -> Self {
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let dword = |at: usize| u32::from(word(at)) | u32::from(word(at + 2)) << 16;
        let cell = |n: usize| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&image[32 + 16 * n..][..16]);
            u128::from_le_bytes(bytes)
        };
        Self {
            control: word(0),
            status: word(2),
            valid: image[4],
            pointers: Pointers {
                opcode: word(ENVIRONMENT + 18) & 0x7FF,
                ip: dword(ENVIRONMENT + 12),
                cs: word(ENVIRONMENT + 16),
                dp: dword(ENVIRONMENT + 20),
                ds: word(ENVIRONMENT + 24),
            },
            st: std::array::from_fn(|n| cell(n) & LOW_80),
            mxcsr: dword(24),
            xmm: std::array::from_fn(|n| cell(8 + n)),
        }
    }

    /// Loads our CPU.
    pub fn load(&self, cpu: &mut CpuState) {
        cpu.x87.control = self.control;
        // ES and B follow from flags and masks.
        cpu.x87.status = self.status & !(7 << 11 | 0x8080);
        cpu.x87.top = (self.status >> 11 & 7) as u8;
        cpu.x87.valid = self.valid;
        let p = &self.pointers;
        cpu.x87.opcode = p.opcode;
        cpu.x87.ip = p.ip;
        cpu.x87.cs = p.cs;
        cpu.x87.dp = p.dp;
        cpu.x87.ds = p.ds;
        for (n, v) in self.st.iter().enumerate() {
            let reg = &mut cpu.x87.regs[self.physical(n)];
            reg.significand = *v as u64;
            reg.sign_exponent = (v >> 64) as u16;
        }
        cpu.mxcsr = self.mxcsr;
        cpu.xmm = self.xmm;
    }

    /// The state of our CPU.
    pub fn of(cpu: &CpuState) -> Self {
        let x87 = &cpu.x87;
        let pending = x87.status & !x87.control & 0x3F != 0;
        Self {
            control: x87.control,
            status: x87.status | u16::from(x87.top) << 11 | if pending { 0x8080 } else { 0 },
            valid: x87.valid,
            pointers: Pointers { opcode: x87.opcode, ip: x87.ip, cs: x87.cs, dp: x87.dp, ds: x87.ds },
            st: std::array::from_fn(|n| {
                let reg = &x87.regs[(usize::from(x87.top) + n) & 7];
                u128::from(reg.significand) | u128::from(reg.sign_exponent) << 64
            }),
            mxcsr: cpu.mxcsr,
            xmm: cpu.xmm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_round_trips() {
        let state = FpState {
            control: 0x123F,
            status: 0x2841,
            valid: 0xA5,
            pointers: Pointers { opcode: 0x567, ip: 0x1122_3344, cs: 0x23, dp: 0x5566_7788, ds: 0x2B },
            st: std::array::from_fn(|n| 0x3FFF_8000_0000_0000_0000 + n as u128),
            mxcsr: 0x9FC1,
            xmm: std::array::from_fn(|n| u128::MAX - n as u128),
        };
        let mut image = state.to_image();
        // The environment beside it, as FNSTENV would store it.
        let (low, high) = image.split_at_mut(ENVIRONMENT);
        high[12..16].copy_from_slice(&low[8..12]);
        high[16..18].copy_from_slice(&low[12..14]);
        high[18..20].copy_from_slice(&low[6..8]);
        high[20..24].copy_from_slice(&low[16..20]);
        high[24..26].copy_from_slice(&low[20..22]);
        assert_eq!(FpState::from_image(&image), state);
        let mut cpu = CpuState::new();
        state.load(&mut cpu);
        assert_eq!(cpu.x87.regs[5].significand, 1 << 63);
        assert_eq!(FpState::of(&cpu), state);
    }
}
