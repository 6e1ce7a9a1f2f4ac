//! CT1745 mixer of the Sound Blaster 16: registers and the gain they mean.

/// Mixer register: interrupt select.
pub const IRQ_SELECT: u8 = 0x80;
/// Mixer register: DMA select.
pub const DMA_SELECT: u8 = 0x81;
/// Mixer register: interrupt status.
pub const IRQ_STATUS: u8 = 0x82;

const MASTER_LEFT: u8 = 0x30;
const VOICE_LEFT: u8 = 0x32;
const OUTPUT_GAIN_LEFT: u8 = 0x41;

/// Old registers hold two 4-bit volumes that are the high halves of two new ones.
const LEGACY: [(u8, u8); 5] = [(0x04, 0x32), (0x22, 0x30), (0x26, 0x34), (0x28, 0x36), (0x2E, 0x38)];

/// The mixer, without the registers that belong to the card around it (80h-82h).
pub struct Ct1745 {
    /// Register selected at port 224h.
    pub(super) index: u8,
    pub(super) registers: [u8; 256],
}

impl Default for Ct1745 {
    fn default() -> Self {
        Self::new()
    }
}

impl Ct1745 {
    /// A mixer with its power-up volumes.
    pub fn new() -> Self {
        let mut mixer = Self { index: 0, registers: [0; 256] };
        mixer.reset();
        mixer
    }

    /// Volumes as after power-up.
    pub fn reset(&mut self) {
        self.registers = [0; 256];
        for (first, last, value) in [
            (0x30, 0x35, 24 << 3), // master, voice, MIDI
            (0x3C, 0x3C, 0x1F),    // output switches
            (0x3D, 0x3D, 0x15),    // input switches
            (0x3E, 0x3E, 0x0B),
            (0x44, 0x47, 8 << 4), // treble, bass
        ] {
            if let Some(registers) = self.registers.get_mut(first..=last) {
                registers.fill(value);
            }
        }
    }

    fn get(&self, register: u8) -> u8 {
        self.registers.get(usize::from(register)).copied().unwrap_or(0)
    }

    fn set(&mut self, register: u8, value: u8) {
        if let Some(cell) = self.registers.get_mut(usize::from(register)) {
            *cell = value;
        }
    }

    /// Reads a register.
    pub fn read(&self, register: u8) -> u8 {
        match LEGACY.iter().find(|(old, _)| *old == register) {
            Some(&(_, left)) => self.get(left) & 0xF0 | self.get(left + 1) >> 4,
            None => self.get(register),
        }
    }

    /// Writes a register; 0 resets the mixer.
    pub fn write(&mut self, register: u8, value: u8) {
        if register == 0 {
            return self.reset();
        }
        match LEGACY.iter().find(|(old, _)| *old == register) {
            Some(&(_, left)) => {
                self.set(left, value & 0xF0 | self.get(left) & 0x0F);
                self.set(left + 1, value << 4 | self.get(left + 1) & 0x0F);
            }
            None => self.set(register, value),
        }
    }

    /// Gain of digitised sound on the left (0) and right (1) channel, 1.0 = unchanged.
    pub fn voice_gain(&self) -> [f32; 2] {
        [0, 1].map(|channel| {
            let decibels = |register: u8| (f32::from(self.get(register + channel) >> 3) - 31.0) * 2.0;
            let boost = f32::from(self.get(OUTPUT_GAIN_LEFT + channel) >> 6) * 6.0;
            // The power-up volume (24 of 31, twice) is what guests expect to be plainly audible.
            let total = decibels(MASTER_LEFT) + decibels(VOICE_LEFT) + boost + 28.0;
            10f32.powf(total.min(12.0) / 20.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ct1745_legacy_register_is_a_view_of_the_new_ones() {
        let mut mixer = Ct1745::new();
        assert_eq!(mixer.read(0x22), 0xCC);
        mixer.write(0x22, 0x5A);
        assert_eq!((mixer.read(0x30), mixer.read(0x31)), (0x50, 0xA0));
        mixer.write(0x30, 0xF8);
        assert_eq!(mixer.read(0x22), 0xFA);
        mixer.write(0, 1);
        assert_eq!((mixer.read(0x22), mixer.read(0x3C)), (0xCC, 0x1F));
    }

    #[test]
    fn ct1745_gain_is_one_after_power_up_and_falls_with_the_volume() {
        let mut mixer = Ct1745::new();
        assert!(mixer.voice_gain().iter().all(|g| (g - 1.0).abs() < 1e-6));
        mixer.write(MASTER_LEFT, 0);
        let [left, right] = mixer.voice_gain();
        assert!(left < 0.01 && (right - 1.0).abs() < 1e-6);
    }
}
