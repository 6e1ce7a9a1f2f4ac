//! Bochs display interface and the linear frame buffer.

use super::spec::*;
use crate::limits::{VGA_MAX_HEIGHT, VGA_MAX_WIDTH, VGA_MEMORY_MAX, VGA_MEMORY_MIN};

/// Newest version of the interface.
pub(super) const VERSION: u16 = 0xB0C5;
/// Oldest version a guest may ask for.
pub(super) const OLDEST_VERSION: u16 = 0xB0C0;

/// Registers and memory of the extended modes.
pub(super) struct Vbe {
    pub(super) index: u16,
    pub(super) version: u16,
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) bpp: u16,
    /// Enable register as written.
    pub(super) enable: u16,
    /// True while an extended mode is on the screen.
    pub(super) active: bool,
    pub(super) bank: u16,
    pub(super) x_offset: u16,
    pub(super) y_offset: u16,
    pub(super) memory: Vec<u8>,
    /// First byte of `memory` that was never written since it was last cleared.
    pub(super) used: usize,
}

impl Vbe {
    /// `size` is brought into the allowed range and rounded up to a power of two, as a PCI BAR
    /// needs it.
    pub(super) fn new(size: usize) -> Self {
        let size = size.clamp(VGA_MEMORY_MIN, VGA_MEMORY_MAX).next_power_of_two();
        Self {
            index: 0,
            version: VERSION,
            width: 0,
            height: 0,
            bpp: 32,
            enable: 0,
            active: false,
            bank: 0,
            x_offset: 0,
            y_offset: 0,
            memory: vec![0; size],
            used: 0,
        }
    }

    /// Power-up values; the memory is cleared.
    pub(super) fn reset(&mut self) {
        self.clear();
        let memory = std::mem::take(&mut self.memory);
        *self = Self { memory, ..Self::new(VGA_MEMORY_MIN) };
    }

    pub(super) fn eight_bit_dac(&self) -> bool {
        self.enable & DISPI_8BIT_DAC != 0
    }

    /// True for the numbers of bits per pixel that exist.
    pub(super) fn has_depth(bpp: u16) -> bool {
        matches!(bpp, 8 | 15 | 16 | 24 | 32)
    }

    /// The memory up to its last byte that is not 0.
    pub(super) fn contents(&self) -> &[u8] {
        content_of(self.memory.get(..self.used).unwrap_or_default())
    }

    /// Replaces the contents of cleared memory; what `contents` lacks at the end is 0. Memory of the
    /// full length is taken as it is.
    pub(super) fn set_contents(&mut self, contents: Vec<u8>) {
        self.clear();
        self.used = content_of(&contents).len();
        if contents.len() == self.memory.len() {
            self.memory = contents;
        } else if let Some(start) = self.memory.get_mut(..contents.len()) {
            start.copy_from_slice(&contents);
        }
    }

    /// Bytes per pixel.
    pub(super) fn pixel_bytes(&self) -> usize {
        usize::from(self.bpp).div_ceil(8)
    }

    /// First visible pixel, counted in pixels.
    pub(super) fn start(&self) -> usize {
        usize::from(self.y_offset) * usize::from(self.width) + usize::from(self.x_offset)
    }

    fn clear(&mut self) {
        if let Some(used) = self.memory.get_mut(..self.used) {
            used.fill(0);
        }
        self.used = 0;
    }

    /// Reads the selected register; `screen_width` is the width of the picture in pixels.
    pub(super) fn read(&self, screen_width: u16) -> u16 {
        let caps = self.enable & DISPI_GET_CAPS != 0;
        match self.index {
            DISPI_ID => self.version,
            DISPI_XRES if caps => VGA_MAX_WIDTH,
            DISPI_XRES => self.width,
            DISPI_YRES if caps => VGA_MAX_HEIGHT,
            DISPI_YRES => self.height,
            DISPI_BPP if caps => 32,
            DISPI_BPP => self.bpp,
            DISPI_ENABLE => self.enable,
            DISPI_BANK => self.bank,
            // Some drivers divide by it.
            DISPI_VIRT_WIDTH => screen_width.max(1),
            DISPI_X_OFFSET => self.x_offset,
            DISPI_Y_OFFSET => self.y_offset,
            DISPI_MEMORY => (self.memory.len() / PLANE_LEN) as u16,
            _ => 0xFF,
        }
    }

    /// Writes the selected register. A switch-off from virtual-8086 mode (`vm86`) is put off until
    /// the guest programs a legacy mode: Windows 9x lets the video BIOS of a DOS box through to
    /// these ports, but not to the VGA's.
    pub(super) fn write(&mut self, value: u16, vm86: bool) {
        match self.index {
            DISPI_ID if (OLDEST_VERSION..=VERSION).contains(&value) => self.version = value,
            DISPI_XRES => self.width = value.min(VGA_MAX_WIDTH),
            DISPI_YRES => self.height = value.min(VGA_MAX_HEIGHT),
            DISPI_BPP if Self::has_depth(value) => self.bpp = value,
            DISPI_ENABLE => self.write_enable(value, vm86),
            DISPI_BANK => self.bank = value,
            DISPI_X_OFFSET => self.x_offset = value,
            DISPI_Y_OFFSET => self.y_offset = value,
            _ => {}
        }
        if self.width == 0 || self.height == 0 {
            self.active = false;
        }
        if !self.active {
            self.bank = 0;
        }
    }

    fn write_enable(&mut self, value: u16, vm86: bool) {
        self.enable = value;
        let on = value & DISPI_ON != 0;
        if !on && self.active && vm86 {
            return;
        }
        if on && value & DISPI_NO_CLEAR == 0 {
            self.clear();
        }
        if on && !self.active {
            (self.x_offset, self.y_offset) = (0, 0);
        }
        self.active = on;
    }

    /// A legacy mode was set: carries out a switch-off that was put off. True if it did.
    pub(super) fn finish_disable(&mut self) -> bool {
        let due = self.active && self.enable & DISPI_ON == 0;
        if due {
            self.active = false;
            self.bank = 0;
        }
        due
    }

    /// Frame buffer offset of an address in the legacy window, `None` outside the bank.
    pub(super) fn banked(&self, addr: u64) -> Option<u64> {
        let offset = addr.checked_sub(WINDOW_BASE)?;
        (offset < PLANE_LEN as u64).then_some(u64::from(self.bank) * PLANE_LEN as u64 + offset)
    }

    /// Little-endian read of the frame buffer, `None` outside.
    pub(super) fn read_memory(&self, offset: u64, bytes: usize) -> Option<u32> {
        let start = usize::try_from(offset).ok()?;
        let src = self.memory.get(start..start.checked_add(bytes)?)?;
        Some(src.iter().rev().fold(0, |v, &b| v << 8 | u32::from(b)))
    }

    /// Little-endian write to the frame buffer. False outside.
    pub(super) fn write_memory(&mut self, offset: u64, bytes: usize, value: u32) -> bool {
        let Ok(start) = usize::try_from(offset) else { return false };
        let Some(end) = start.checked_add(bytes) else { return false };
        let Some(dst) = self.memory.get_mut(start..end) else { return false };
        dst.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
        self.used = self.used.max(end);
        true
    }
}

/// `memory` without the zeros at its end.
fn content_of(memory: &[u8]) -> &[u8] {
    // Whole blocks first, which is fast; video memory is large and mostly empty.
    const BLOCK: usize = 4096;
    let is_used = |block: &&[u8]| block.iter().fold(0, |all, byte| all | byte) != 0;
    let blocks = memory.chunks(BLOCK).rposition(|block| is_used(&block)).map_or(0, |last| last + 1);
    let memory = memory.get(..blocks * BLOCK).unwrap_or(memory);
    let len = memory.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    memory.get(..len).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(vbe: &mut Vbe, index: u16, value: u16) {
        vbe.index = index;
        vbe.write(value, false);
    }

    fn get(vbe: &mut Vbe, index: u16) -> u16 {
        vbe.index = index;
        vbe.read(640)
    }

    fn mode(vbe: &mut Vbe, flags: u16) {
        for (index, value) in [(DISPI_XRES, 640), (DISPI_YRES, 480), (DISPI_BPP, 32)] {
            set(vbe, index, value);
        }
        set(vbe, DISPI_ENABLE, DISPI_ON | flags);
    }

    #[test]
    fn vbe_registers_report_version_memory_and_capabilities() {
        let mut vbe = Vbe::new(2 << 20);
        let values = [DISPI_ID, DISPI_MEMORY, 7].map(|i| get(&mut vbe, i));
        assert_eq!(values, [0xB0C5, 0x20, 0xFF]);
        set(&mut vbe, DISPI_ID, 0xB0C0);
        set(&mut vbe, DISPI_ID, 0xB0C6);
        assert_eq!(get(&mut vbe, DISPI_ID), 0xB0C0);
        set(&mut vbe, DISPI_ENABLE, DISPI_GET_CAPS);
        assert_eq!([1, 2, 3].map(|i| get(&mut vbe, i)), [2560, 1600, 32]);
        assert_eq!(Vbe::new(3 << 20).memory.len(), 4 << 20);
        assert_eq!(Vbe::new(0).memory.len(), 256 << 10);
    }

    #[test]
    fn vbe_enable_without_a_size_has_no_effect() {
        let mut vbe = Vbe::new(0);
        set(&mut vbe, DISPI_ENABLE, DISPI_ON);
        assert!(!vbe.active);
        assert_eq!(get(&mut vbe, DISPI_ENABLE), 1);
        mode(&mut vbe, 0);
        assert!(vbe.active);
    }

    #[test]
    fn vbe_enable_clears_memory_unless_told_not_to_and_resets_offsets() {
        let mut vbe = Vbe::new(8 << 20);
        mode(&mut vbe, 0);
        assert!(vbe.write_memory(5, 4, 0xAABB_CCDD));
        assert!(vbe.write_memory((8 << 20) - 1, 1, 0x11));
        set(&mut vbe, DISPI_Y_OFFSET, 7);
        assert_eq!(vbe.start(), 7 * 640);
        mode(&mut vbe, DISPI_NO_CLEAR);
        assert_eq!((vbe.read_memory(5, 4), vbe.start()), (Some(0xAABB_CCDD), 7 * 640));
        set(&mut vbe, DISPI_ENABLE, 0);
        mode(&mut vbe, 0);
        assert_eq!((vbe.read_memory(5, 4), vbe.read_memory((8 << 20) - 1, 1)), (Some(0), Some(0)));
        assert_eq!(vbe.start(), 0);
        assert_eq!(vbe.read_memory(8 << 20, 1), None);
        assert!(!vbe.write_memory(u64::MAX, 4, 0));
    }

    #[test]
    fn vbe_disable_from_vm86_waits_for_a_legacy_mode() {
        let mut vbe = Vbe::new(0);
        mode(&mut vbe, 0);
        vbe.index = DISPI_ENABLE;
        vbe.write(0, true);
        assert!(vbe.active);
        assert!(vbe.finish_disable());
        assert!(!vbe.active && !vbe.finish_disable());
    }

    #[test]
    fn vbe_bank_selects_64_kib_of_the_frame_buffer() {
        let mut vbe = Vbe::new(1 << 20);
        mode(&mut vbe, 0);
        set(&mut vbe, DISPI_BANK, 3);
        assert_eq!(vbe.banked(0xA0010), Some(0x3_0010));
        assert_eq!(vbe.banked(0xB0000), None);
        set(&mut vbe, DISPI_ENABLE, 0);
        assert_eq!(get(&mut vbe, DISPI_BANK), 0);
    }
}
