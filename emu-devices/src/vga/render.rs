//! The picture: RGBA pixels from text, planes or the frame buffer.

use super::Vga;
use super::regs::Registers;
use super::spec::*;

/// Appends a 00RRGGBB color.
fn rgba(color: u32) -> [u8; 4] {
    let [b, g, r, _] = color.to_le_bytes();
    [r, g, b, 0xFF]
}

impl Vga {
    /// Draws the screen into `out` as rows of R, G, B, A bytes. Returns width and height in pixels
    /// (0 and 0 before a guest has set a mode).
    pub fn render(&self, out: &mut Vec<u8>) -> (u32, u32) {
        out.clear();
        let (width, height) = self.picture_size();
        out.resize(usize::from(width) * usize::from(height) * 4, 0);
        if out.is_empty() {
            return (0, 0);
        }
        let blank = self.regs.palette_source == 0 || self.regs.clocking & CLOCK_OFF != 0;
        if self.vbe.active {
            self.draw_vbe(out, usize::from(width));
        } else if blank {
            out.chunks_exact_mut(4).for_each(|pixel| pixel.copy_from_slice(&rgba(0)));
        } else if self.graphics {
            self.draw_planes(out, width);
        } else {
            self.draw_text(out, usize::from(width));
        }
        (width.into(), height.into())
    }

    /// Size of the picture in pixels.
    pub fn picture_size(&self) -> (u16, u16) {
        if self.graphics {
            return (self.width, self.height);
        }
        let (cell_width, cell_height) = self.cell_size();
        (self.columns.saturating_mul(cell_width), self.rows.saturating_mul(cell_height))
    }

    fn cell_size(&self) -> (u16, u16) {
        let clocking = self.regs.clocking;
        let width = if clocking & CLOCK_HALF != 0 {
            16
        } else if clocking & CLOCK_8DOT != 0 {
            8
        } else {
            9
        };
        (width, u16::from(self.regs.max_scan & 0x1F) + 1)
    }

    fn dac(&self, index: u8) -> u32 {
        self.regs.palette.get(usize::from(index & self.regs.dac_mask)).copied().unwrap_or(0)
    }

    // ---- text ----------------------------------------------------------------------------------

    fn draw_text(&self, out: &mut [u8], width: usize) {
        let regs = &self.regs;
        let (cell_width, cell_height) = self.cell_size();
        let (cell_width, cell_height) = (usize::from(cell_width), usize::from(cell_height));
        let [page_a, page_b] = regs.font_pages();
        let two_fonts = page_a != page_b;
        let text_color = |n: u8| {
            let entry = regs.attr_palette.get(usize::from(n & 0x0F)).copied().unwrap_or(0);
            rgba(self.dac(entry))
        };
        let colors: [[u8; 4]; 16] = std::array::from_fn(|n| text_color(n as u8));
        let color = |n: u8| colors.get(usize::from(n)).copied().unwrap_or_default();
        let foreground_mask = if two_fonts { 0x07 } else { 0x0F };
        let background_mask = if regs.attr_mode & ATTR_BLINK != 0 { 0x07 } else { 0x0F };
        let cursor = self.cursor();
        let [cursor_first, cursor_last] = self.cursor_lines();

        let row_bytes = width * 4 * cell_height;
        for (row, (cells, lines)) in self.text_cells().iter().zip(out.chunks_mut(row_bytes)).enumerate() {
            for (y, line) in lines.chunks_mut(width * 4).enumerate() {
                for (column, (&(character, attribute), pixels)) in
                    cells.iter().zip(line.chunks_mut(cell_width * 4)).enumerate()
                {
                    let page = if two_fonts && attribute & 8 == 0 { page_b } else { page_a };
                    let glyph = page * 0x2000 + usize::from(character) * 32;
                    let mut dots = self.planes.get(2, glyph + y);
                    let here = cursor.is_some_and(|(c, r)| usize::from(c) == column && usize::from(r) == row);
                    if here && (usize::from(cursor_first)..=usize::from(cursor_last)).contains(&y) {
                        dots = 0xFF;
                    }
                    let ninth = regs.attr_mode & ATTR_LINE_GRAPHICS != 0 && character & 0xE0 == 0xC0
                        || here && dots == 0xFF;
                    let foreground = color(attribute & foreground_mask);
                    let background = color(attribute >> 4 & background_mask);
                    for (x, pixel) in pixels.chunks_exact_mut(4).enumerate() {
                        let lit = match (cell_width, x) {
                            (16, _) => dots & 0x80 >> (x / 2) != 0,
                            (_, 8) => ninth && dots & 1 != 0,
                            _ => dots & 0x80 >> x != 0,
                        };
                        pixel.copy_from_slice(if lit { &foreground } else { &background });
                    }
                }
            }
        }
    }

    // ---- planes --------------------------------------------------------------------------------

    fn draw_planes(&self, out: &mut [u8], width: u16) {
        let regs = &self.regs;
        let view = PlaneView::new(regs);
        let colors: [[u8; 4]; 256] = std::array::from_fn(|n| rgba(self.dac(plane_color(regs, n as u8))));
        let split = regs.scan_line_to_row(regs.line_compare.saturating_add(1));
        let pan = usize::from(if view.eight_bit { regs.panning >> 1 } else { regs.panning });
        let byte_pan = usize::from(regs.preset_row >> 5 & 3);
        for (y, line) in (0u16..).zip(out.chunks_exact_mut(usize::from(width) * 4)) {
            let (row, start, pan, byte_pan) = match y.checked_sub(split) {
                None => (y, usize::from(regs.start_address), pan, byte_pan),
                Some(row) if regs.attr_mode & ATTR_PAN_SPLIT != 0 => (row, 0, 0, 0),
                Some(row) => (row, 0, pan, byte_pan),
            };
            let line_addr = view.line(usize::from(row));
            let mut loaded = None;
            let mut pixels = [0u8; 8];
            for (x, out) in line.chunks_exact_mut(4).enumerate() {
                // Position in a row without end, then the group of pixels fetched together.
                let position = line_addr.first + x + pan;
                let group = position / view.group;
                if loaded != Some(group) {
                    loaded = Some(group);
                    let addr = start + byte_pan + ((group * view.group) >> view.shift);
                    pixels = view.fetch(self.planes.all(line_addr.substitute(addr)));
                }
                let index = pixels.get(position % view.group).copied().unwrap_or(0);
                out.copy_from_slice(&colors.get(usize::from(index)).copied().unwrap_or_default());
            }
        }
    }

    // ---- frame buffer --------------------------------------------------------------------------

    fn draw_vbe(&self, out: &mut [u8], width: usize) {
        let vbe = &self.vbe;
        let bytes = vbe.pixel_bytes();
        let palette: [[u8; 4]; 256] = std::array::from_fn(|n| rgba(self.dac(n as u8)));
        let start = vbe.start() * bytes;
        let source = vbe.memory.get(start..).unwrap_or_default();
        for (line, source) in out.chunks_exact_mut(width * 4).zip(source.chunks(width * bytes)) {
            for (pixel, raw) in line.chunks_exact_mut(4).zip(source.chunks_exact(bytes)) {
                let color = match (vbe.bpp, raw) {
                    (15, &[low, high]) => {
                        let v = u16::from_le_bytes([low, high]);
                        [scale(v >> 10 & 31, 31), scale(v >> 5 & 31, 31), scale(v & 31, 31), 0xFF]
                    }
                    (_, &[low, high]) => {
                        let v = u16::from_le_bytes([low, high]);
                        [scale(v >> 11, 31), scale(v >> 5 & 63, 63), scale(v & 31, 31), 0xFF]
                    }
                    (_, &[b, g, r] | &[b, g, r, _]) => [r, g, b, 0xFF],
                    (_, &[index]) => palette.get(usize::from(index)).copied().unwrap_or_default(),
                    _ => [0, 0, 0, 0xFF],
                };
                pixel.copy_from_slice(&color);
            }
        }
    }
}

/// Widens a color component from 0..=`max` to 0..=255.
fn scale(value: u16, max: u16) -> u8 {
    (value * 255 / max) as u8
}

/// DAC index of a pixel value in a planar mode.
fn plane_color(regs: &Registers, pixel: u8) -> u8 {
    let mut mask = 0xFF;
    let mut fixed = 0;
    if regs.attr_mode & ATTR_P54 != 0 {
        mask = 0xCF;
        fixed = regs.color_select << 4 & 0x30;
    }
    if regs.attr_mode & ATTR_8BIT != 0 {
        return pixel & mask | fixed;
    }
    let entry = regs.attr_palette.get(usize::from(pixel & regs.plane_enable & 0x0F)).copied().unwrap_or(0);
    entry & mask & 0x3F | fixed | regs.color_select << 4 & 0xC0
}

/// How pixels of a planar mode are found in memory.
struct PlaneView {
    eight_bit: bool,
    shift_mode: u8,
    /// Pixels made from one fetch of the four planes.
    group: usize,
    /// log2 of pixels per address.
    shift: u8,
    /// Pixels from one row to the next.
    pitch: usize,
    /// Address bits that come from the row counter: 13, 14.
    row_bits: [bool; 2],
}

/// A row: where it begins, and its substituted address bits.
struct Line {
    first: usize,
    mask: usize,
    bits: usize,
}

impl Line {
    fn substitute(&self, addr: usize) -> usize {
        addr & !self.mask | self.bits
    }
}

impl PlaneView {
    fn new(regs: &Registers) -> Self {
        let eight_bit = regs.attr_mode & ATTR_8BIT != 0;
        let dword = regs.underline & UNDERLINE_DWORD != 0;
        let byte = !dword && regs.crtc_mode & MODE_BYTE != 0;
        // Word addressing moves 4 pixels per address, byte 8, doubleword 2; half of it with wide
        // pixels.
        let shift = 2 + u8::from(byte) - u8::from(dword) - u8::from(eight_bit);
        Self {
            eight_bit,
            shift_mode: regs.gc_mode & GC_SHIFT,
            group: if eight_bit { 4 } else { 8 },
            shift,
            pitch: usize::from(regs.offset) << if eight_bit { 3 } else { 4 },
            row_bits: [regs.crtc_mode & 1 == 0, regs.crtc_mode & 2 == 0],
        }
    }

    fn line(&self, row: usize) -> Line {
        let (mask, bits, row) = match self.row_bits {
            [false, false] => (0, 0, row),
            [true, false] => (0x2000, (row & 1) << 13, row >> 1),
            [false, true] => (0x4000, (row & 1) << 14, row >> 1),
            [true, true] => (0x6000, (row & 3) << 13, row >> 2),
        };
        Line { first: row * self.pitch, mask, bits }
    }

    /// Pixel values from the four planes' bytes at one address.
    fn fetch(&self, planes: u32) -> [u8; 8] {
        let [p0, p1, p2, p3] = planes.to_le_bytes();
        let nibbles: [u8; 8] = match self.shift_mode {
            0x00 => std::array::from_fn(|i| {
                let bit = |plane: u8| plane >> (7 - i) & 1;
                bit(p0) | bit(p1) << 1 | bit(p2) << 2 | bit(p3) << 3
            }),
            0x20 => std::array::from_fn(|i| {
                let (low, high) = if i < 4 { (p0, p2) } else { (p1, p3) };
                let pair = |plane: u8| plane >> (6 - 2 * (i % 4)) & 3;
                pair(low) | pair(high) << 2
            }),
            _ => {
                let high = |plane: u8| plane >> 4;
                let low = |plane: u8| plane & 0x0F;
                [high(p0), low(p0), high(p1), low(p1), high(p2), low(p2), high(p3), low(p3)]
            }
        };
        if !self.eight_bit {
            return nibbles;
        }
        let [a, b, c, d, e, f, g, h] = nibbles;
        [a << 4 | b, c << 4 | d, e << 4 | f, g << 4 | h, 0, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::testing::TestBoard;
    use emu_core::bus::AccessSize;

    fn pixel(out: &[u8], width: u32, x: u32, y: u32) -> [u8; 3] {
        let at = ((y * width + x) * 4) as usize;
        assert_eq!(out[at + 3], 0xFF);
        [out[at], out[at + 1], out[at + 2]]
    }

    /// Registers of the legacy graphics modes: (crtc 01, 02, 07, 09, 12, 13, 14, 15, 17), sequencer
    /// memory mode, graphics mode and misc, attribute mode.
    fn set_mode(vga: &mut Vga, board: &mut TestBoard, crtc: [u8; 9], seq4: u8, gc: [u8; 2], attr: u8) {
        vga.set_text_mode_3();
        for (index, value) in [1, 2, 7, 9, 0x12, 0x13, 0x14, 0x15, 0x17].into_iter().zip(crtc) {
            board.outb(vga, 0x3D4, index);
            board.outb(vga, 0x3D5, value);
        }
        for (port, index, value) in [(0x3C4, 4, seq4), (0x3C4, 2, 0x0F), (0x3CE, 5, gc[0]), (0x3CE, 6, gc[1])]
        {
            board.outb(vga, port, index);
            board.outb(vga, port + 1, value);
        }
        board.inb(vga, 0x3DA);
        for value in [0x10, attr, 0x12, 0x0F, 0x13, 0x00, 0x20] {
            board.outb(vga, 0x3C0, value);
        }
        vga.planes.bytes.fill(0);
    }

    #[test]
    fn vga_text_picture_shows_glyphs_colors_and_cursor() {
        let mut vga = Vga::new(0);
        vga.set_text_mode_3();
        let mut board = TestBoard::new();
        vga.mmio_write(&mut board.ctx(), 0xB8002, AccessSize::Word, 0x1EDB); // yellow full block on blue
        vga.mmio_write(&mut board.ctx(), 0xB8004, AccessSize::Word, 0x1E20);
        let mut out = Vec::new();
        assert_eq!(vga.render(&mut out), (720, 400));
        assert_eq!(pixel(&out, 720, 9, 0), [0xFF, 0xFF, 0x57]);
        assert_eq!(pixel(&out, 720, 17, 15), [0xFF, 0xFF, 0x57], "ninth dot of a block");
        assert_eq!(pixel(&out, 720, 18, 0), [0, 0, 0xA8]);
        assert_eq!(pixel(&out, 720, 0, 12), [0, 0, 0]);
        assert_eq!(pixel(&out, 720, 0, 13), [0xA8; 3], "cursor");
        board.outb(&mut vga, 0x3C0, 0x00);
        vga.render(&mut out);
        assert_eq!(pixel(&out, 720, 9, 0), [0; 3], "palette source off blanks the screen");
    }

    #[test]
    fn vga_mode_13h_shows_one_byte_per_pixel() {
        let (mut vga, mut board) = (Vga::new(0), TestBoard::new());
        let crtc = [0x4F, 0x50, 0x1F, 0x41, 0x8F, 0x28, 0x40, 0x96, 0xA3];
        set_mode(&mut vga, &mut board, crtc, 0x0E, [0x40, 0x05], 0x41);
        assert_eq!(vga.picture_size(), (320, 200));
        vga.mmio_write(&mut board.ctx(), 0xA0000 + 320 * 7 + 5, AccessSize::Byte, 0x0F);
        vga.regs.palette[0x0F] = 0x123456;
        let mut out = Vec::new();
        vga.render(&mut out);
        assert_eq!(pixel(&out, 320, 5, 7), [0x12, 0x34, 0x56]);
        assert_eq!(pixel(&out, 320, 4, 7), [0; 3]);
        vga.regs.dac_mask = 0;
        vga.render(&mut out);
        assert_eq!(pixel(&out, 320, 5, 7), [0; 3]);
    }

    #[test]
    fn vga_mode_12h_shows_planes_with_start_address_panning_and_split() {
        let (mut vga, mut board) = (Vga::new(0), TestBoard::new());
        let crtc = [0x4F, 0x50, 0x3E, 0x40, 0xDF, 0x28, 0x00, 0xE7, 0xE3];
        set_mode(&mut vga, &mut board, crtc, 0x06, [0x00, 0x05], 0x01);
        assert_eq!(vga.picture_size(), (640, 480));
        board.outb(&mut vga, 0x3C4, 2);
        board.outb(&mut vga, 0x3C5, 0x0C); // light red: planes 2 and 3
        vga.mmio_write(&mut board.ctx(), 0xA0000 + 80 * 3 + 1, AccessSize::Byte, 0x80);
        let mut out = Vec::new();
        vga.render(&mut out);
        assert_eq!(pixel(&out, 640, 8, 3), [0xFF, 0x57, 0x57]);
        vga.regs.start_address = 160;
        vga.regs.panning = 3;
        vga.render(&mut out);
        assert_eq!(pixel(&out, 640, 5, 1), [0xFF, 0x57, 0x57]);
        // Below the split, memory begins at 0 again.
        vga.regs.line_compare = 99;
        vga.render(&mut out);
        assert_eq!(pixel(&out, 640, 5, 103), [0xFF, 0x57, 0x57]);
        vga.regs.attr_mode |= ATTR_PAN_SPLIT;
        vga.render(&mut out);
        assert_eq!(pixel(&out, 640, 8, 103), [0xFF, 0x57, 0x57]);
    }

    #[test]
    fn vga_cga_mode_interleaves_rows_at_8_kib() {
        let (mut vga, mut board) = (Vga::new(0), TestBoard::new());
        let crtc = [0x27, 0x28, 0x1F, 0xC1, 0x8F, 0x14, 0x00, 0x96, 0xA2];
        set_mode(&mut vga, &mut board, crtc, 0x02, [0x30, 0x0F], 0x01);
        assert_eq!(vga.picture_size(), (320, 200));
        vga.regs.map_mask = 3;
        // Row 1, first byte: pixels 3, 2, 1, 0.
        vga.mmio_write(&mut board.ctx(), 0xB8000 + 0x2000, AccessSize::Byte, 0b11_10_01_00);
        let mut out = Vec::new();
        vga.render(&mut out);
        let expected = [3, 2, 1, 0].map(|n| rgba(vga.regs.palette[n]));
        for (x, color) in (0..).zip(expected) {
            assert_eq!(pixel(&out, 320, x, 1), color[..3]);
        }
        assert_eq!(pixel(&out, 320, 0, 0), [0; 3]);
    }

    #[test]
    fn vga_vbe_pictures_in_all_depths() {
        let mut board = TestBoard::new();
        for (bpp, value, expected) in [
            (8u16, 0x05u32, [0x11, 0x22, 0x33]),
            (15, 0x7C1F, [0xFF, 0x00, 0xFF]),
            (16, 0x07E0, [0x00, 0xFF, 0x00]),
            (24, 0x0A0B0C, [0x0A, 0x0B, 0x0C]),
            (32, 0x0A0B0C, [0x0A, 0x0B, 0x0C]),
        ] {
            let mut vga = Vga::new(1 << 20);
            vga.regs.palette[5] = 0x112233;
            for (index, value) in [(1, 64), (2, 48), (3, bpp), (4, 0x41)] {
                vga.port_write(&mut board.ctx(), 0x1CE, AccessSize::Word, index);
                vga.port_write(&mut board.ctx(), 0x1CF, AccessSize::Word, u32::from(value));
            }
            let at = LFB_BASE + (64 * 2 + 3) * u64::from(bpp.div_ceil(8));
            vga.mmio_write(&mut board.ctx(), at, AccessSize::Dword, value);
            let mut out = Vec::new();
            assert_eq!(vga.render(&mut out), (64, 48));
            assert_eq!(pixel(&out, 64, 3, 2), expected, "{bpp} bits");
            vga.vbe.y_offset = 1;
            vga.render(&mut out);
            assert_eq!(pixel(&out, 64, 3, 1), expected, "{bpp} bits, scrolled");
        }
    }

    #[test]
    fn vga_picture_larger_than_memory_ends_in_black() {
        let (mut vga, mut board) = (Vga::new(0), TestBoard::new());
        for (index, value) in [(1, 2560), (2, 1600), (3, 32), (4, 1), (9, 0xFFFF), (8, 0xFFFF)] {
            vga.port_write(&mut board.ctx(), 0x1CE, AccessSize::Word, index);
            vga.port_write(&mut board.ctx(), 0x1CF, AccessSize::Word, value);
        }
        let mut out = Vec::new();
        assert_eq!(vga.render(&mut out), (2560, 1600));
        assert!(out.iter().all(|&b| b == 0));
    }

    #[test]
    fn vga_text_of_many_rows_with_tall_characters_is_no_larger_than_the_crtc_counts() {
        let (mut vga, mut board) = (Vga::new(0), TestBoard::new());
        vga.set_text_mode_3();
        let mut crtc = |vga: &mut Vga, index: u8, value: u8| {
            board.outb(vga, 0x3D4, index);
            board.outb(vga, 0x3D5, value);
        };
        // Unprotected; 256 columns, as many rows as there are lines, which are one line high.
        for (index, value) in
            [(0x11, 0), (1, 0xFF), (2, 0xFF), (7, 0x5A), (9, 0x60), (0x12, 0xFF), (0x15, 0xFF)]
        {
            crtc(&mut vga, index, value);
        }
        assert!(vga.rows > 900, "{} rows", vga.rows);
        // No picture at all, but characters of 32 lines, twice as wide.
        crtc(&mut vga, 2, 0);
        crtc(&mut vga, 9, 0x7F);
        board.outb(&mut vga, 0x3C4, 1);
        board.outb(&mut vga, 0x3C5, 8);
        let mut out = Vec::new();
        let (width, height) = vga.render(&mut out);
        assert!(width <= 256 * 16 && height <= 1024, "{width} x {height}");
        assert!(out.capacity() <= 4 << 22);
    }
}
