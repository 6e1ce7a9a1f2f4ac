//! Text mode: the characters on the screen, and the state a video BIOS leaves for mode 3.

use super::Vga;
use super::font::font_page;
use super::spec::*;

/// Characters 80h-FFh of code page 437.
const HIGH: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{A0}";
/// Characters 01h-1Fh of code page 437; 7Fh is a house.
const LOW: &str = "☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";

/// Character of code page 437.
pub fn cp437(byte: u8) -> char {
    let from = |table: &str, index: u8| table.chars().nth(usize::from(index)).unwrap_or(' ');
    match byte {
        0 => ' ',
        0x01..=0x1F => from(LOW, byte - 1),
        0x7F => '⌂',
        0x80.. => from(HIGH, byte - 0x80),
        _ => char::from(byte),
    }
}

/// Registers of mode 3 (80x25, 16 colors, 9x16 cells), in the order of their indexes.
const MODE_3_CRTC: [u8; CRTC_COUNT] = [
    0x5F, 0x4F, 0x50, 0x82, 0x55, 0x81, 0xBF, 0x1F, 0x00, 0x4F, 0x0D, 0x0E, 0x00, 0x00, 0x00, 0x00, 0x9C,
    0x8E, 0x8F, 0x28, 0x1F, 0x96, 0xB9, 0xA3, 0xFF,
];
const MODE_3_SEQ: [u8; 5] = [0x03, 0x00, 0x03, 0x00, 0x02];
const MODE_3_GC: [u8; 9] = [0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0E, 0x00, 0xFF];
const MODE_3_ATTR: [u8; 21] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F, 0x0C,
    0x00, 0x0F, 0x08, 0x00,
];
const MODE_3_MISC: u8 = 0x67;

impl Vga {
    /// What a character cell and its row hold, row by row: `(character, attribute)` for each column.
    /// Empty in graphics modes.
    pub(super) fn text_cells(&self) -> Vec<Vec<(u8, u8)>> {
        if self.graphics {
            return Vec::new();
        }
        let regs = &self.regs;
        let (columns, rows) = (usize::from(self.columns), usize::from(self.rows));
        let extra = (usize::from(regs.offset) * 2).saturating_sub(columns) * 2;
        let split = usize::from(regs.scan_line_to_row(regs.line_compare));
        let mut addr = usize::from(regs.start_address) * 2;
        (0..rows)
            .map(|row| {
                if row == split {
                    addr = 0;
                }
                let cells = (0..columns)
                    .map(|column| {
                        let at = addr + 2 * column;
                        (self.planes.text(at), self.planes.text(at | 1))
                    })
                    .collect();
                addr += 2 * columns + extra;
                cells
            })
            .collect()
    }

    /// Column and row of the cursor, if it is on the screen and not switched off.
    pub fn cursor(&self) -> Option<(u16, u16)> {
        let regs = &self.regs;
        let [first, last] = self.cursor_lines();
        if self.graphics || regs.cursor_start & CURSOR_OFF != 0 || first >= last {
            return None;
        }
        let pitch = self.columns.max(u16::from(regs.offset) * 2).max(1);
        let (cells, first_row) = match regs.cursor_address.checked_sub(regs.start_address) {
            Some(cells) => (cells, 0),
            None => (regs.cursor_address, regs.scan_line_to_row(regs.line_compare)),
        };
        let (column, row) = (cells % pitch, (cells / pitch).saturating_add(first_row));
        (column < self.columns && row < self.rows).then_some((column, row))
    }

    /// First and last scan line of the cursor in its cell.
    pub(super) fn cursor_lines(&self) -> [u8; 2] {
        let max = self.regs.max_scan & 0x1F;
        [self.regs.cursor_start, self.regs.cursor_end].map(|line| (line & 0x1F).min(max))
    }

    /// The text on the screen, one string per row without trailing blanks; empty in graphics modes.
    pub fn text_screen(&self) -> Vec<String> {
        self.text_cells()
            .into_iter()
            .map(|cells| {
                let mut row: String = cells.into_iter().map(|(character, _)| cp437(character)).collect();
                row.truncate(row.trim_end().len());
                row
            })
            .collect()
    }

    /// Leaves the registers, the palette, an empty screen and an 8x16 font as a video BIOS does for
    /// mode 3. For guests that are started without firmware.
    pub fn set_text_mode_3(&mut self) {
        self.vbe.reset();
        let regs = &mut self.regs;
        regs.misc_output = MODE_3_MISC;
        for (index, value) in (0..).zip(MODE_3_SEQ) {
            regs.seq_index = index;
            regs.write_seq(value);
        }
        for (index, value) in (0..).zip(MODE_3_GC) {
            regs.gc_index = index;
            regs.write_gc(value);
        }
        for (index, value) in (0..).zip(MODE_3_CRTC) {
            regs.crtc_index = index;
            regs.write_crtc(value);
        }
        for (index, value) in (0..).zip(MODE_3_ATTR) {
            regs.attr_index = Some(index);
            regs.write_attr(value);
        }
        regs.attr_index = None;
        regs.palette_source = ATTR_PALETTE_SOURCE;
        regs.dac_mask = 0xFF;
        regs.set_dac_write(0);
        for color in 0..=255u8 {
            // The 64 colors of an EGA: two thirds from the low bits, one third from the high ones.
            let color = color & 0x3F;
            for bit in [2, 1, 0] {
                let level = (color >> bit & 1) * 0x2A + (color >> (bit + 3) & 1) * 0x15;
                regs.write_dac(level, false);
            }
        }
        self.planes.latch = 0;
        self.planes.bytes.fill(0);
        if let Some(text) = self.planes.bytes.get_mut(..0x8000) {
            for cell in text.chunks_exact_mut(2) {
                cell.copy_from_slice(&[b' ', 0x07]);
            }
        }
        if let Some(plane) = self.planes.bytes.get_mut(2 * PLANE_LEN..) {
            plane.iter_mut().zip(font_page()).for_each(|(to, from)| *to = from);
        }
        self.graphics = false;
        self.update_size();
        self.changed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestBoard;
    use emu_core::bus::AccessSize;

    use crate::device::Device;

    fn mode_3() -> Vga {
        let mut vga = Vga::new(0);
        vga.set_text_mode_3();
        vga
    }

    fn print(vga: &mut Vga, at: u64, text: &[u8]) {
        let mut board = TestBoard::new();
        for (n, &byte) in (0..).zip(text) {
            vga.mmio_write(
                &mut board.ctx(),
                0xB8000 + 2 * (at + n),
                AccessSize::Word,
                0x0700 | u32::from(byte),
            );
        }
    }

    #[test]
    fn vga_mode_3_is_an_empty_80_by_25_screen_with_cursor_and_colors() {
        let vga = mode_3();
        assert_eq!(vga.text_screen(), vec![String::new(); 25]);
        assert_eq!((vga.columns, vga.rows), (80, 25));
        assert_eq!(vga.cursor(), Some((0, 0)));
        let color = |n: usize| vga.regs.palette[usize::from(vga.regs.attr_palette[n])];
        assert_eq!([color(1), color(6), color(7), color(15)], [0xA8, 0xA85700, 0xA8A8A8, 0xFFFFFF]);
        let a = &vga.planes.bytes[2 * PLANE_LEN + 32 * usize::from(b'A')..][..16];
        assert!(a.iter().any(|&row| row != 0));
    }

    #[test]
    fn vga_text_screen_follows_start_address_and_split() {
        let mut vga = mode_3();
        print(&mut vga, 0, b"first");
        print(&mut vga, 80, b"second \xC4\x80");
        assert_eq!(vga.text_screen()[..3], ["first", "second ─Ç", ""]);
        vga.regs.start_address = 80;
        vga.regs.cursor_address = 85;
        assert_eq!(vga.text_screen()[0], "second ─Ç");
        assert_eq!(vga.cursor(), Some((5, 0)));
        // Split at scan line 160, row 10: address 0 again.
        vga.regs.line_compare = 160;
        assert_eq!(vga.text_screen()[10], "first");
    }

    #[test]
    fn vga_cursor_can_be_hidden() {
        let mut vga = mode_3();
        vga.regs.cursor_start = 0x2D;
        assert_eq!(vga.cursor(), None);
        // What Linux writes for "no cursor".
        (vga.regs.cursor_start, vga.regs.cursor_end) = (31, 30);
        assert_eq!(vga.cursor(), None);
        (vga.regs.cursor_start, vga.regs.cursor_end) = (0, 15);
        assert_eq!(vga.cursor(), Some((0, 0)));
        vga.regs.cursor_address = 2000;
        assert_eq!(vga.cursor(), None);
    }

    #[test]
    fn cp437_tables_are_complete() {
        assert_eq!(LOW.chars().count(), 31);
        assert_eq!(HIGH.chars().count(), 128);
        assert_eq!([cp437(0xB3), cp437(0xDB), cp437(0xE1), cp437(0xFE)], ['│', '█', 'ß', '■']);
    }
}
