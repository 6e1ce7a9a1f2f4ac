//! Register file of the VGA: sequencer, graphics, attribute and CRT controllers, DAC.
//!
//! All registers keep what is written; nothing here knows memory or time.

use super::spec::*;

/// The registers. CRT controller registers that matter are fields of their own, assembled from the
/// overflow bits they are spread over; the others are in `crtc`.
#[derive(Clone)]
pub(super) struct Registers {
    pub(super) misc_output: u8,

    pub(super) seq_index: u8,
    pub(super) clocking: u8,
    pub(super) map_mask: u8,
    pub(super) char_map: u8,
    pub(super) memory_mode: u8,

    pub(super) gc_index: u8,
    pub(super) set_reset: u8,
    pub(super) enable_set_reset: u8,
    pub(super) color_compare: u8,
    pub(super) rotate: u8,
    pub(super) read_map: u8,
    pub(super) gc_mode: u8,
    pub(super) gc_misc: u8,
    pub(super) dont_care: u8,
    pub(super) bit_mask: u8,

    /// `None`: the next write to 3C0h is an index.
    pub(super) attr_index: Option<u8>,
    pub(super) palette_source: u8,
    pub(super) attr_palette: [u8; 16],
    pub(super) attr_mode: u8,
    pub(super) plane_enable: u8,
    pub(super) panning: u8,
    pub(super) color_select: u8,

    pub(super) crtc_index: u8,
    pub(super) crtc: [u8; CRTC_COUNT],
    pub(super) hdisp_end: u8,
    pub(super) hblank_start: u8,
    /// 10 bits.
    pub(super) vdisp_end: u16,
    /// 10 bits.
    pub(super) vblank_start: u16,
    /// 10 bits.
    pub(super) line_compare: u16,
    pub(super) preset_row: u8,
    pub(super) max_scan: u8,
    pub(super) cursor_start: u8,
    pub(super) cursor_end: u8,
    pub(super) start_address: u16,
    pub(super) cursor_address: u16,
    pub(super) offset: u8,
    pub(super) underline: u8,
    pub(super) crtc_mode: u8,

    pub(super) dac_mask: u8,
    /// 0 = read, 3 = write.
    pub(super) dac_state: u8,
    /// Color index · 3 + component.
    pub(super) dac_write: u16,
    pub(super) dac_read: u16,
    /// 00RRGGBB.
    pub(super) palette: [u32; 256],
}

impl Registers {
    pub(super) fn new() -> Self {
        Self {
            misc_output: 0xFF,
            seq_index: 0xFF,
            clocking: 0,
            map_mask: 0x0F,
            char_map: 0,
            memory_mode: 0,
            gc_index: 0xFF,
            set_reset: 0,
            enable_set_reset: 0,
            color_compare: 0,
            rotate: 0,
            read_map: 0,
            gc_mode: 0,
            gc_misc: 0,
            dont_care: 0,
            bit_mask: 0xFF,
            attr_index: None,
            palette_source: ATTR_PALETTE_SOURCE,
            attr_palette: [0; 16],
            attr_mode: 0,
            plane_enable: 0,
            panning: 0,
            color_select: 0,
            crtc_index: 0,
            crtc: [0; CRTC_COUNT],
            hdisp_end: 0,
            hblank_start: 0,
            vdisp_end: 0,
            vblank_start: 0,
            line_compare: 0,
            preset_row: 0,
            max_scan: 0,
            cursor_start: 14,
            cursor_end: 15,
            start_address: 0,
            cursor_address: 0,
            offset: 0,
            underline: 0,
            crtc_mode: 0,
            dac_mask: 0xFF,
            dac_state: 0,
            dac_write: 0,
            dac_read: 0,
            palette: [0; 256],
        }
    }

    // ---- sequencer -----------------------------------------------------------------------------

    pub(super) fn read_seq(&self) -> u8 {
        match self.seq_index {
            1 => self.clocking,
            2 => self.map_mask,
            3 => self.char_map,
            4 => self.memory_mode,
            6 => 0x12,
            _ => 0,
        }
    }

    pub(super) fn write_seq(&mut self, value: u8) {
        match self.seq_index {
            1 => self.clocking = value,
            2 => self.map_mask = value,
            3 => self.char_map = value,
            4 => self.memory_mode = value,
            _ => {}
        }
    }

    /// Font pages A and B (8 KiB each in plane 2) of the character map select register. The order
    /// of the pages in memory is interleaved.
    pub(super) fn font_pages(&self) -> [usize; 2] {
        let page = |n: u8| match n {
            0..=3 => usize::from(n) * 2,
            _ => usize::from(n) * 2 - 7,
        };
        let m = self.char_map;
        [page(m >> 2 & 3 | m >> 3 & 4), page(m & 3 | m >> 2 & 4)]
    }

    // ---- graphics controller -------------------------------------------------------------------

    pub(super) fn read_gc(&self) -> u8 {
        match self.gc_index {
            0 => self.set_reset,
            1 => self.enable_set_reset,
            2 => self.color_compare,
            3 => self.rotate,
            4 => self.read_map,
            5 => self.gc_mode,
            6 => self.gc_misc,
            7 => self.dont_care,
            8 => self.bit_mask,
            _ => 0,
        }
    }

    pub(super) fn write_gc(&mut self, value: u8) {
        match self.gc_index {
            0 => self.set_reset = value,
            1 => self.enable_set_reset = value,
            2 => self.color_compare = value,
            3 => self.rotate = value,
            4 => self.read_map = value,
            5 => self.gc_mode = value,
            6 => self.gc_misc = value,
            7 => self.dont_care = value,
            8 => self.bit_mask = value,
            _ => {}
        }
    }

    // ---- attribute controller ------------------------------------------------------------------

    pub(super) fn read_attr_index(&self) -> u8 {
        self.attr_index.map_or(0xFF, |index| index | self.palette_source)
    }

    pub(super) fn read_attr(&self) -> u8 {
        match self.attr_index {
            None => 0,
            Some(0x10) => self.attr_mode,
            Some(0x12) => self.plane_enable,
            Some(0x13) => self.panning,
            Some(0x14) => self.color_select,
            Some(index) => self.attr_palette.get(usize::from(index)).copied().unwrap_or(0xFF),
        }
    }

    /// Write to 3C0h. True if the mode register was written with a new value.
    pub(super) fn write_attr(&mut self, value: u8) -> bool {
        let Some(index) = self.attr_index.take() else {
            self.attr_index = Some(value & 0x1F);
            self.palette_source = value & ATTR_PALETTE_SOURCE;
            return false;
        };
        match index {
            0x10 => return std::mem::replace(&mut self.attr_mode, value) != value,
            0x12 => self.plane_enable = value,
            0x13 => self.panning = value & 0x0F,
            0x14 => self.color_select = value,
            _ => {
                if let Some(entry) = self.attr_palette.get_mut(usize::from(index)) {
                    *entry = value;
                }
            }
        }
        false
    }

    // ---- CRT controller ------------------------------------------------------------------------

    pub(super) fn read_crtc(&self) -> u8 {
        let stored = self.crtc.get(usize::from(self.crtc_index)).copied();
        match self.crtc_index {
            CRTC_HDISP_END => self.hdisp_end,
            CRTC_HBLANK_START => self.hblank_start,
            CRTC_OVERFLOW => {
                let bits = self.vdisp_end >> 7 & 0x02
                    | self.vblank_start >> 5 & 0x08
                    | self.line_compare >> 4 & 0x10
                    | self.vdisp_end >> 3 & 0x40;
                bits as u8 | stored.unwrap_or(0) & !0x5A
            }
            CRTC_PRESET_ROW => self.preset_row,
            CRTC_MAX_SCAN => self.max_scan,
            CRTC_CURSOR_START => self.cursor_start,
            CRTC_CURSOR_END => self.cursor_end,
            // Swapped, as on v86: guests that save and restore these two saw no other card.
            CRTC_START_HIGH => self.start_address as u8,
            CRTC_START_LOW => (self.start_address >> 8) as u8,
            CRTC_CURSOR_HIGH => (self.cursor_address >> 8) as u8,
            CRTC_CURSOR_LOW => self.cursor_address as u8,
            CRTC_VDISP_END => self.vdisp_end as u8,
            CRTC_OFFSET => self.offset,
            CRTC_UNDERLINE => self.underline,
            CRTC_VBLANK_START => self.vblank_start as u8,
            CRTC_MODE => self.crtc_mode,
            CRTC_LINE_COMPARE => self.line_compare as u8,
            _ => stored.unwrap_or(0),
        }
    }

    /// True if the size of the picture may have changed.
    pub(super) fn write_crtc(&mut self, value: u8) -> bool {
        let wide = u16::from(value);
        match self.crtc_index {
            CRTC_HDISP_END => self.hdisp_end = value,
            CRTC_HBLANK_START => self.hblank_start = value,
            CRTC_OVERFLOW => {
                self.vdisp_end = self.vdisp_end & 0x0FF | (wide & 0x02) << 7 | (wide & 0x40) << 3;
                self.line_compare = self.line_compare & 0x2FF | (wide & 0x10) << 4;
                self.vblank_start = self.vblank_start & 0x2FF | (wide & 0x08) << 5;
            }
            CRTC_PRESET_ROW => self.preset_row = value,
            CRTC_MAX_SCAN => {
                self.max_scan = value;
                self.line_compare = self.line_compare & 0x1FF | (wide & 0x40) << 3;
                self.vblank_start = self.vblank_start & 0x1FF | (wide & 0x20) << 4;
            }
            CRTC_CURSOR_START => self.cursor_start = value,
            CRTC_CURSOR_END => self.cursor_end = value,
            CRTC_START_HIGH => self.start_address = self.start_address & 0x00FF | wide << 8,
            CRTC_START_LOW => self.start_address = self.start_address & 0xFF00 | wide,
            CRTC_CURSOR_HIGH => self.cursor_address = self.cursor_address & 0x00FF | wide << 8,
            CRTC_CURSOR_LOW => self.cursor_address = self.cursor_address & 0xFF00 | wide,
            CRTC_VDISP_END => self.vdisp_end = self.vdisp_end & 0x300 | wide,
            CRTC_OFFSET => self.offset = value,
            CRTC_UNDERLINE => self.underline = value,
            CRTC_VBLANK_START => self.vblank_start = self.vblank_start & 0x300 | wide,
            CRTC_MODE => self.crtc_mode = value,
            CRTC_LINE_COMPARE => self.line_compare = self.line_compare & 0x300 | wide,
            _ => {}
        }
        if let Some(cell) = self.crtc.get_mut(usize::from(self.crtc_index)) {
            *cell = match self.crtc_index {
                CRTC_OVERFLOW => value & !0x5A,
                0x00 | 0x03..=0x06 | 0x10 | 0x11 | 0x16 => value,
                _ => 0,
            };
        }
        !matches!(self.crtc_index, CRTC_CURSOR_START..=CRTC_CURSOR_LOW)
    }

    /// Scan lines of the picture.
    pub(super) fn scan_lines(&self) -> u16 {
        (1 + self.vdisp_end).min(self.vblank_start)
    }

    /// Characters across the picture.
    pub(super) fn characters(&self) -> u16 {
        (1 + u16::from(self.hdisp_end)).min(u16::from(self.hblank_start))
    }

    /// Row of pixels (graphics) or characters (text) that begins at or after a scan line.
    pub(super) fn scan_line_to_row(&self, line: u16) -> u16 {
        let line = if self.max_scan & SCAN_DOUBLE != 0 { line / 2 } else { line };
        let row = line.div_ceil(1 + u16::from(self.max_scan & 0x1F));
        // Address bits 13 and 14 may come from the row counter: rows of their own in CGA modes.
        row << u16::from(!self.crtc_mode & 1) << u16::from(!self.crtc_mode >> 1 & 1)
    }

    // ---- DAC -----------------------------------------------------------------------------------

    pub(super) fn set_dac_read(&mut self, index: u8) {
        self.dac_read = u16::from(index) * 3;
        self.dac_state = 0;
    }

    pub(super) fn set_dac_write(&mut self, index: u8) {
        self.dac_write = u16::from(index) * 3;
        self.dac_state = 3;
    }

    pub(super) fn read_dac(&mut self, eight_bit: bool) -> u8 {
        let position = self.dac_read;
        self.dac_read = (position + 1) % 768;
        let color = self.palette.get(usize::from(position / 3)).copied().unwrap_or(0);
        let value = (color >> (16 - 8 * (position % 3))) as u8;
        if eight_bit { value } else { value >> 2 }
    }

    pub(super) fn write_dac(&mut self, value: u8, eight_bit: bool) {
        let position = self.dac_write;
        self.dac_write = (position + 1) % 768;
        // 6 bits are widened so that 3Fh becomes FFh.
        let value = if eight_bit { value } else { (value & 0x3F) << 2 | if value & 1 != 0 { 3 } else { 0 } };
        let shift = 16 - 8 * (position % 3);
        if let Some(color) = self.palette.get_mut(usize::from(position / 3)) {
            *color = *color & !(0xFF << shift) | u32::from(value) << shift;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vga_crtc_vertical_values_are_assembled_from_overflow_bits() {
        let mut r = Registers::new();
        for (index, value) in [(0x12, 0x8F), (0x15, 0x96), (0x18, 0xFF), (0x07, 0x1F), (0x09, 0x4F)] {
            r.crtc_index = index;
            r.write_crtc(value);
        }
        assert_eq!((r.vdisp_end, r.vblank_start, r.line_compare), (0x18F, 0x196, 0x3FF));
        assert_eq!(r.scan_lines(), 400);
        r.crtc_index = 7;
        assert_eq!(r.read_crtc(), 0x1F);
        r.crtc_index = 0x19;
        r.write_crtc(0x55);
        assert_eq!(r.read_crtc(), 0);
    }

    #[test]
    fn vga_start_address_reads_swapped() {
        let mut r = Registers::new();
        for (index, value) in [(0x0C, 0x12), (0x0D, 0x34)] {
            r.crtc_index = index;
            r.write_crtc(value);
        }
        assert_eq!(r.start_address, 0x1234);
        r.crtc_index = 0x0C;
        assert_eq!(r.read_crtc(), 0x34);
        r.crtc_index = 0x0D;
        assert_eq!(r.read_crtc(), 0x12);
    }

    #[test]
    fn vga_dac_widens_six_bits_and_wraps() {
        let mut r = Registers::new();
        r.set_dac_write(255);
        for v in [0x3F, 0x2A, 0x01, 0x15] {
            r.write_dac(v, false);
        }
        assert_eq!(r.palette[255], 0xFF_A8_07);
        assert_eq!(r.palette[0], 0x57_00_00);
        r.set_dac_read(255);
        assert_eq!([0; 4].map(|_| r.read_dac(false)), [0x3F, 0x2A, 0x01, 0x15]);
        r.set_dac_write(1);
        r.write_dac(0x81, true);
        r.set_dac_read(1);
        assert_eq!(r.read_dac(true), 0x81);
    }

    #[test]
    fn vga_attribute_flip_flop_and_unsupported_indexes() {
        let mut r = Registers::new();
        assert_eq!(r.read_attr_index(), 0xFF);
        r.write_attr(0x33);
        assert_eq!(r.read_attr_index(), 0x33);
        r.write_attr(0xFF);
        r.write_attr(0x13);
        assert_eq!((r.read_attr(), r.palette_source), (0x0F, 0));
        r.attr_index = Some(0x11);
        assert_eq!(r.read_attr(), 0xFF);
        r.attr_index = Some(0x10);
        assert!(r.write_attr(1));
        r.attr_index = Some(0x10);
        assert!(!r.write_attr(1), "same value");
    }

    #[test]
    fn vga_font_pages_are_interleaved() {
        let mut r = Registers::new();
        r.char_map = 0x2C | 0x02;
        assert_eq!(r.font_pages(), [7, 4]);
        r.char_map = 0x10;
        assert_eq!(r.font_pages(), [0, 1]);
    }
}
