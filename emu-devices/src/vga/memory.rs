//! Planar video memory behind the window at A0000h.

use super::regs::Registers;
use super::spec::*;

/// Four planes of 64 KiB and the read latches.
///
/// In text mode characters and attributes alternate in plane 0's storage and fonts are in plane 2;
/// snapshots of v86 keep them like that.
pub(super) struct Planes {
    pub(super) bytes: Box<[u8]>,
    /// One byte per plane, plane 0 lowest.
    pub(super) latch: u32,
}

/// The byte in all four planes.
fn spread(byte: u8) -> u32 {
    u32::from(byte) * 0x0101_0101
}

/// FFh in the planes whose bit is set.
fn expand(bits: u8) -> u32 {
    (0..4).fold(0, |v, plane| v | u32::from(0u8.wrapping_sub(bits >> plane & 1)) << (8 * plane))
}

/// Offset in the window selected by the graphics controller, `None` outside of it.
fn window_offset(regs: &Registers, addr: u64) -> Option<usize> {
    let (start, len) = match regs.gc_misc >> 2 & 3 {
        0 => (0xA0000, 0x20000),
        1 => (0xA0000, 0x10000),
        2 => (0xB0000, 0x08000),
        _ => (0xB8000, 0x08000),
    };
    let offset = addr.checked_sub(start)?;
    (offset < len).then_some(offset as usize)
}

impl Planes {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; 4 * PLANE_LEN].into_boxed_slice(), latch: 0 }
    }

    /// Byte of a plane; addresses wrap at 64 KiB.
    pub(super) fn get(&self, plane: usize, addr: usize) -> u8 {
        let index = (plane & 3) * PLANE_LEN + addr % PLANE_LEN;
        self.bytes.get(index).copied().unwrap_or(0)
    }

    fn put(&mut self, plane: usize, addr: usize, value: u8) {
        let index = (plane & 3) * PLANE_LEN + addr % PLANE_LEN;
        if let Some(byte) = self.bytes.get_mut(index) {
            *byte = value;
        }
    }

    /// The same byte of all planes.
    pub(super) fn all(&self, addr: usize) -> u32 {
        (0..4).fold(0, |v, plane| v | u32::from(self.get(plane, addr)) << (8 * plane))
    }

    /// Byte of the linear text memory.
    pub(super) fn text(&self, addr: usize) -> u8 {
        self.bytes.get(addr % (4 * PLANE_LEN)).copied().unwrap_or(0)
    }

    /// Read through the window.
    pub(super) fn read(&mut self, regs: &Registers, graphics: bool, addr: u64) -> u8 {
        let Some(offset) = window_offset(regs, addr) else { return 0 };
        self.latch = self.all(offset);
        if regs.gc_mode & GC_READ_COMPARE != 0 {
            let differing = (self.latch ^ expand(regs.color_compare)) & expand(regs.dont_care);
            let [a, b, c, d] = differing.to_le_bytes();
            return !(a | b | c | d);
        }
        if !graphics {
            return self.text((usize::from(regs.read_map & 3) * PLANE_LEN) | offset);
        }
        if regs.memory_mode & SEQ_CHAIN4 != 0 {
            self.get(offset & 3, offset & !3)
        } else if regs.gc_mode & GC_ODD_EVEN != 0 {
            self.get(offset & 1, offset & !1)
        } else {
            self.get(usize::from(regs.read_map), offset)
        }
    }

    /// Write through the window. False if nothing can have changed.
    pub(super) fn write(&mut self, regs: &Registers, graphics: bool, addr: u64, value: u8) -> bool {
        let Some(offset) = window_offset(regs, addr) else { return false };
        if graphics {
            self.write_graphics(regs, offset, value);
        } else if regs.map_mask & 3 != 0 {
            if let Some(byte) = self.bytes.get_mut(offset) {
                *byte = value;
            }
        } else if regs.map_mask & 4 != 0 {
            self.put(2, offset, value);
        }
        true
    }

    fn write_graphics(&mut self, regs: &Registers, offset: usize, value: u8) {
        let rotated = || value.rotate_right(u32::from(regs.rotate & 7));
        let set_reset = expand(regs.set_reset);
        let mut mask = spread(regs.bit_mask);
        let data = match regs.gc_mode & 3 {
            0 => {
                let enable = expand(regs.enable_set_reset);
                self.combine(regs, spread(rotated()) & !enable | set_reset & enable)
            }
            1 => {
                mask = 0; // the latches as they are
                0
            }
            2 => self.combine(regs, expand(value)),
            _ => {
                mask &= spread(rotated());
                set_reset
            }
        };
        let data = data & mask | self.latch & !mask;

        let (planes, addr) = if regs.memory_mode & SEQ_CHAIN4 != 0 {
            (1 << (offset & 3), offset & !3)
        } else if regs.memory_mode & SEQ_SEQUENTIAL == 0 {
            (0x5 << (offset & 1), offset & !1)
        } else {
            (0xF, offset)
        };
        let planes = planes & regs.map_mask;
        for (plane, byte) in data.to_le_bytes().into_iter().enumerate() {
            if planes & 1 << plane != 0 {
                self.put(plane, addr, byte);
            }
        }
    }

    /// Logical function between data and latches.
    fn combine(&self, regs: &Registers, data: u32) -> u32 {
        match regs.rotate >> 3 & 3 {
            0 => data,
            1 => data & self.latch,
            2 => data | self.latch,
            _ => data ^ self.latch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 0xA0000;

    fn planar() -> (Registers, Planes) {
        let mut regs = Registers::new();
        regs.gc_misc = 0x05;
        regs.memory_mode = 0x06;
        (regs, Planes::new())
    }

    #[test]
    fn vga_write_mode_0_applies_rotate_set_reset_function_and_mask() {
        let (mut r, mut p) = planar();
        r.map_mask = 0x0F;
        p.write(&r, true, A + 5, 0xF0);
        assert_eq!(p.all(5), 0xF0F0_F0F0);
        p.read(&r, true, A + 5);
        // XOR with 0Fh (F0h rotated by 4), plane 3 from set/reset, only the low 6 bits.
        (r.rotate, r.enable_set_reset, r.set_reset, r.bit_mask) = (0x1C, 0x08, 0x08, 0x3F);
        p.write(&r, true, A + 5, 0xF0);
        assert_eq!(p.all(5), 0xCFFF_FFFF);
    }

    #[test]
    fn vga_write_modes_1_to_3_use_latches_colors_and_masks() {
        let (mut r, mut p) = planar();
        for plane in 0..4 {
            p.put(plane, 7, 0x10 + plane as u8);
        }
        p.read(&r, true, A + 7);
        (r.gc_mode, r.map_mask) = (1, 0x05);
        p.write(&r, true, A + 8, 0xFF);
        assert_eq!(p.all(8), 0x0012_0010, "map mask applies to latched writes");
        (r.gc_mode, r.map_mask, r.bit_mask) = (2, 0x0F, 0xF0);
        p.write(&r, true, A + 9, 0x0A);
        assert_eq!(p.all(9), 0xF302_F100);
        (r.gc_mode, r.bit_mask, r.set_reset) = (3, 0xFC, 0x03);
        p.write(&r, true, A + 10, 0x0F);
        assert_eq!(p.all(10), 0x1312_1D1C);
    }

    #[test]
    fn vga_read_mode_1_compares_colors() {
        let (mut r, mut p) = planar();
        p.put(0, 3, 0b1100);
        p.put(1, 3, 0b1010);
        (r.gc_mode, r.color_compare, r.dont_care) = (8, 0b0001, 0b0011);
        assert_eq!(p.read(&r, true, A + 3), 0b0100);
        r.dont_care = 0;
        assert_eq!(p.read(&r, true, A + 3), 0xFF);
    }

    #[test]
    fn vga_chain_4_and_odd_even_select_planes_by_address() {
        let (mut r, mut p) = planar();
        r.memory_mode = 0x0E;
        for i in 0..8 {
            p.write(&r, true, A + i, 0x20 + i as u8);
        }
        assert_eq!((p.all(0), p.all(4)), (0x2322_2120, 0x2726_2524));
        assert_eq!(p.read(&r, true, A + 6), 0x26);
        assert_eq!(p.latch, 0, "latches come from the address as it is");
        r.memory_mode = 0x02;
        r.gc_mode = GC_ODD_EVEN;
        p.write(&r, true, A + 0x101, 0x55);
        assert_eq!(p.all(0x100), 0x5500_5500);
        assert_eq!(p.read(&r, true, A + 0x101), 0x55);
    }

    #[test]
    fn vga_text_memory_is_linear_and_plane_2_holds_fonts() {
        let (mut r, mut p) = planar();
        r.gc_misc = 0x0E;
        r.map_mask = 3;
        p.write(&r, false, 0xB8001, 0x1F);
        assert_eq!(p.bytes[1], 0x1F);
        assert_eq!(p.read(&r, false, 0xB8001), 0x1F);
        assert!(!p.write(&r, false, A, 1), "outside the window");
        assert_eq!(p.read(&r, false, A), 0);
        (r.gc_misc, r.map_mask, r.read_map) = (4, 4, 2);
        p.write(&r, false, A + 0x4000, 0x81);
        assert_eq!(p.bytes[2 * PLANE_LEN + 0x4000], 0x81);
        assert_eq!(p.read(&r, false, A + 0x4000), 0x81);
    }
}
