//! VGA with the Bochs display interface.
//!
//! The card keeps three memories: four planes of 64 KiB behind the window at A0000h (text and
//! legacy graphics), and, separate from them, the frame buffer of the extended modes at E0000000h.
//! Nothing is drawn unless the host asks: [`Vga::render`] and [`Vga::text_screen`] look at the
//! registers and memories as they are.

use std::any::Any;

use emu_core::bus::AccessSize;
use emu_core::snapshot::FieldError;
use emu_core::time::VmTime;

use self::memory::Planes;
use self::regs::Registers;
use self::saved::SavedVga;
use self::spec::*;
use self::vbe::Vbe;
use crate::device::{Ctx, Device, DeviceState, ResetKind};

pub mod spec;

mod font;
mod memory;
mod regs;
mod render;
mod saved;
mod text;
mod vbe;

pub use self::text::cp437;

/// Time of a scan line, nanoseconds (25.175 MHz, 800 dots).
const LINE_NS: u64 = 31_778;
/// The part of it that is displayed.
const LINE_VISIBLE_NS: u64 = 25_422;

/// Most characters in a row, and most scan lines, the registers can mean.
const MAX_COLUMNS: u16 = 256;
const MAX_LINES: u16 = 1024;

/// The card.
pub struct Vga {
    regs: Registers,
    planes: Planes,
    vbe: Vbe,
    /// True in graphics modes, legacy or extended.
    graphics: bool,
    /// Size of the text screen, characters.
    columns: u16,
    rows: u16,
    /// Size of the picture in graphics modes, pixels.
    width: u16,
    height: u16,
    /// Something visible may have changed since [`Vga::take_changed`].
    changed: bool,
}

impl Vga {
    /// Home ports.
    pub const PORTS: &'static [(u16, u16)] = &[
        (0x1CE, 2),
        (0x3B4, 2),
        (0x3BA, 1),
        (0x3C0, 0x0B),
        (PORT_MISC_READ, 1),
        (PORT_GC_INDEX, 2),
        (PORT_CRTC_INDEX, 2),
        (PORT_STATUS, 1),
    ];

    /// A card with `memory_size` bytes of frame buffer (rounded up to a power of two between 256 KiB
    /// and 256 MiB).
    pub fn new(memory_size: usize) -> Self {
        Self {
            regs: Registers::new(),
            planes: Planes::new(),
            vbe: Vbe::new(memory_size),
            graphics: false,
            columns: 80,
            rows: 25,
            width: 0,
            height: 0,
            changed: true,
        }
    }

    /// Bytes of the frame buffer, and so the length of its window at [`LFB_BASE`].
    pub fn memory_size(&self) -> usize {
        self.vbe.memory.len()
    }

    /// True in graphics modes.
    pub fn is_graphics(&self) -> bool {
        self.graphics
    }

    /// True if the picture may have changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Derives the size of the screen from the registers. While they make no sense it stays, but text
    /// never has more lines than the CRT controller counts: a guest could otherwise combine the rows of one
    /// character height with another, larger one.
    fn update_size(&mut self) {
        self.derive_size();
        let cell_height = 1 + u16::from(self.regs.max_scan & 0x1F);
        self.rows = self.rows.min(MAX_LINES / cell_height);
    }

    fn derive_size(&mut self) {
        if self.vbe.active {
            (self.width, self.height) = (self.vbe.width, self.vbe.height);
            return;
        }
        let (characters, lines) = (self.regs.characters(), self.regs.scan_lines());
        if characters == 0 || lines == 0 {
            return;
        }
        if self.graphics {
            let wide = self.regs.attr_mode & ATTR_8BIT != 0;
            self.width = if wide { characters * 4 } else { characters * 8 };
            self.height = self.regs.scan_line_to_row(lines);
            return;
        }
        let lines = if self.regs.max_scan & SCAN_DOUBLE != 0 { lines / 2 } else { lines };
        let rows = lines / (1 + u16::from(self.regs.max_scan & 0x1F));
        if rows != 0 {
            (self.columns, self.rows) = (characters, rows);
        }
    }

    /// Input status 1 at guest time `now`: the beam moves whether anybody looks or not, so that
    /// guests that wait for it always go on.
    fn status(&self, now: VmTime) -> u8 {
        let visible = if self.vbe.active { self.vbe.height } else { self.regs.scan_lines() };
        let visible = u64::from(visible.max(1));
        let total = if visible <= 400 { 449 } else { visible + 45 };
        let in_frame = now % (total * LINE_NS);
        let line = in_frame / LINE_NS;
        let blank = line >= visible || in_frame % LINE_NS >= LINE_VISIBLE_NS;
        // Real cards pulse for two lines only; a guest that polls slowly should still see it.
        let retrace = line >= visible + (total - visible) / 4;
        (u8::from(blank) * STATUS_BLANK) | (u8::from(retrace) * STATUS_RETRACE)
    }

    // ---- ports ---------------------------------------------------------------------------------

    fn read_byte(&mut self, now: VmTime, port: u16) -> Option<u8> {
        let eight_bit = self.vbe.eight_bit_dac();
        let regs = &mut self.regs;
        Some(match port {
            PORT_ATTR => regs.read_attr_index(),
            PORT_ATTR_READ => regs.read_attr(),
            PORT_SEQ_INDEX => regs.seq_index,
            PORT_SEQ_DATA => regs.read_seq(),
            PORT_DAC_MASK => regs.dac_mask,
            PORT_DAC_READ => regs.dac_state,
            PORT_DAC_WRITE => (regs.dac_write / 3) as u8,
            PORT_DAC_DATA => regs.read_dac(eight_bit),
            PORT_FEATURE_READ => 0,
            PORT_MISC_READ => regs.misc_output,
            PORT_GC_INDEX => regs.gc_index,
            PORT_GC_DATA => regs.read_gc(),
            PORT_CRTC_INDEX => regs.crtc_index,
            PORT_CRTC_DATA => regs.read_crtc(),
            PORT_STATUS => {
                regs.attr_index = None;
                self.status(now)
            }
            _ => return None,
        })
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        let eight_bit = self.vbe.eight_bit_dac();
        let regs = &mut self.regs;
        match port {
            PORT_ATTR => {
                let mode_changed = regs.write_attr(value);
                if mode_changed {
                    self.attribute_mode_changed();
                }
            }
            PORT_MISC_WRITE => regs.misc_output = value,
            PORT_SEQ_INDEX => regs.seq_index = value,
            PORT_SEQ_DATA => regs.write_seq(value),
            PORT_DAC_MASK => regs.dac_mask = value,
            PORT_DAC_READ => regs.set_dac_read(value),
            PORT_DAC_WRITE => regs.set_dac_write(value),
            PORT_DAC_DATA => regs.write_dac(value, eight_bit),
            PORT_GC_INDEX => regs.gc_index = value,
            PORT_GC_DATA => regs.write_gc(value),
            PORT_CRTC_INDEX => regs.crtc_index = value,
            PORT_CRTC_DATA => {
                let size_changed = regs.write_crtc(value);
                if size_changed {
                    self.update_size();
                }
            }
            _ => {}
        }
        self.changed = true;
    }

    fn attribute_mode_changed(&mut self) {
        self.vbe.finish_disable();
        if !self.vbe.active {
            self.graphics = self.regs.attr_mode & ATTR_GRAPHICS != 0;
        }
        self.update_size();
    }

    fn write_dispi(&mut self, value: u16, vm86: bool) {
        let was_active = self.vbe.active;
        self.vbe.write(value, vm86);
        if self.vbe.active && self.vbe.index == DISPI_ENABLE {
            self.graphics = true;
            self.update_size();
        }
        if was_active && !self.vbe.active {
            self.graphics = self.regs.attr_mode & ATTR_GRAPHICS != 0;
            self.update_size();
        }
        self.changed = true;
    }

    /// The monochrome addresses are aliases of the color ones.
    fn color_port(port: u16) -> u16 {
        match port {
            0x3B4 | 0x3B5 | 0x3BA => port + 0x20,
            _ => port,
        }
    }

    // ---- memory --------------------------------------------------------------------------------

    fn read_window(&mut self, addr: u64) -> u8 {
        if self.vbe.active {
            let byte = self.vbe.banked(addr).and_then(|offset| self.vbe.read_memory(offset, 1));
            return byte.unwrap_or(0) as u8;
        }
        self.planes.read(&self.regs, self.graphics, addr)
    }

    fn write_window(&mut self, addr: u64, value: u8) {
        self.changed |= if self.vbe.active {
            self.vbe.banked(addr).is_some_and(|offset| self.vbe.write_memory(offset, 1, value.into()))
        } else {
            self.planes.write(&self.regs, self.graphics, addr, value)
        };
    }
}

/// Addresses of the bytes of an access to the legacy window.
fn window_bytes(addr: u64, size: AccessSize) -> impl Iterator<Item = (u32, u64)> {
    (0..size.bytes()).map(move |i| (8 * i, addr.wrapping_add(u64::from(i))))
}

impl Device for Vga {
    fn name(&self) -> &'static str {
        "vga"
    }

    fn port_read(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        let port = Self::color_port(port);
        match (port, size) {
            (PORT_DISPI_INDEX, AccessSize::Word) => Some(self.vbe.index.into()),
            (PORT_DISPI_DATA, AccessSize::Word) => Some(self.vbe.read(self.width).into()),
            (PORT_ATTR, AccessSize::Word) => {
                let regs = &self.regs;
                Some(u32::from(regs.read_attr_index()) | u32::from(regs.read_attr()) << 8)
            }
            (PORT_CRTC_DATA, AccessSize::Word) => Some(self.regs.read_crtc().into()),
            (_, AccessSize::Byte) => self.read_byte(ctx.now, port).map(u32::from),
            _ => None,
        }
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        let port = Self::color_port(port);
        match (port, size) {
            (PORT_DISPI_INDEX, AccessSize::Word) => self.vbe.index = value as u16,
            (PORT_DISPI_DATA, AccessSize::Word) => self.write_dispi(value as u16, ctx.cpu_vm86),
            // Index and data in one go.
            (PORT_SEQ_INDEX | PORT_GC_INDEX | PORT_CRTC_INDEX | PORT_DAC_WRITE, AccessSize::Word) => {
                self.write_byte(port, value as u8);
                self.write_byte(port + 1, (value >> 8) as u8);
            }
            (PORT_CRTC_DATA, AccessSize::Word) | (_, AccessSize::Byte) => self.write_byte(port, value as u8),
            _ => {}
        }
    }

    fn mmio_read(&mut self, _: &mut Ctx<'_>, addr: u64, size: AccessSize) -> Option<u32> {
        match addr.checked_sub(LFB_BASE) {
            Some(offset) => self.vbe.read_memory(offset, size.bytes() as usize),
            None => Some(
                window_bytes(addr, size)
                    .fold(0, |v, (shift, at)| v | u32::from(self.read_window(at)) << shift),
            ),
        }
    }

    fn mmio_write(&mut self, _: &mut Ctx<'_>, addr: u64, size: AccessSize, value: u32) {
        match addr.checked_sub(LFB_BASE) {
            Some(offset) => {
                self.changed |= self.vbe.write_memory(offset, size.bytes() as usize, value);
            }
            None => {
                for (shift, at) in window_bytes(addr, size) {
                    self.write_window(at, (value >> shift) as u8);
                }
            }
        }
    }

    fn reset(&mut self, _: &mut Ctx<'_>, kind: ResetKind) {
        // A warm reset leaves the picture; the video BIOS sets a mode again.
        if kind == ResetKind::Cold {
            let mut vbe = std::mem::replace(&mut self.vbe, Vbe::new(0));
            vbe.reset();
            *self = Self { vbe, ..Self::new(0) };
        }
    }

    fn save(&mut self, ctx: &mut Ctx<'_>) -> DeviceState {
        SavedVga::capture(self, self.status(ctx.now)).into_state()
    }

    fn restore(&mut self, _: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        let mut saved = SavedVga::registers_of(self, 0);
        let sized = saved.read(state)?;
        saved.apply(self);
        if !sized {
            self.update_size();
        }
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestBoard;

    fn dispi(board: &mut TestBoard, vga: &mut Vga, index: u32, value: u32) {
        vga.port_write(&mut board.ctx(), PORT_DISPI_INDEX, AccessSize::Word, index);
        vga.port_write(&mut board.ctx(), PORT_DISPI_DATA, AccessSize::Word, value);
    }

    #[test]
    fn vga_ports_answer_at_their_widths_only() {
        let (mut board, mut vga) = (TestBoard::new(), Vga::new(0));
        assert_eq!([0x3C2, 0x3C3, 0x3CA, 0x1CE].map(|p| board.inb(&mut vga, p)), [0xFF, 0xFF, 0, 0xFF]);
        assert_eq!(board.port_in(&mut vga, 0x3C4, AccessSize::Word), 0xFFFF);
        vga.port_write(&mut board.ctx(), 0x3C4, AccessSize::Word, 0x0302);
        assert_eq!((board.inb(&mut vga, 0x3C4), board.inb(&mut vga, 0x3C5)), (2, 3));
        vga.port_write(&mut board.ctx(), 0x3B4, AccessSize::Word, 0x1234_0D0F);
        assert_eq!((board.inb(&mut vga, 0x3D4), board.inb(&mut vga, 0x3D5)), (0x0F, 0x0D));
        board.outb(&mut vga, 0x3C4, 6);
        assert_eq!(board.inb(&mut vga, 0x3C5), 0x12);
    }

    #[test]
    fn vga_status_polling_always_sees_display_and_retrace() {
        for graphics in [false, true] {
            let (mut board, mut vga) = (TestBoard::new(), Vga::new(0));
            vga.set_text_mode_3();
            vga.graphics = graphics;
            let mut seen = [false; 4];
            for _ in 0..20_000 {
                board.now += 1_000;
                let status = board.inb(&mut vga, 0x3DA);
                assert_eq!(status & !9, 0);
                seen[usize::from(status & 1 | status >> 2)] = true;
            }
            assert_eq!(seen, [true, true, false, true], "retrace implies blank");
        }
        let (mut board, mut vga) = (TestBoard::new(), Vga::new(0));
        board.now = u64::MAX;
        board.inb(&mut vga, 0x3DA);
    }

    #[test]
    fn vga_status_read_resets_the_attribute_flip_flop() {
        let (mut board, mut vga) = (TestBoard::new(), Vga::new(0));
        board.outb(&mut vga, 0x3C0, 0x05);
        board.inb(&mut vga, 0x3BA);
        board.outb(&mut vga, 0x3C0, 0x06);
        board.outb(&mut vga, 0x3C0, 0x2A);
        assert_eq!((vga.regs.attr_palette[5], vga.regs.attr_palette[6]), (0, 0x2A));
    }

    #[test]
    fn vga_dispi_switches_to_graphics_and_back_to_text() {
        let (mut board, mut vga) = (TestBoard::new(), Vga::new(8 << 20));
        vga.set_text_mode_3();
        for (index, value) in [(1, 800), (2, 600), (3, 32), (4, 0x41)] {
            dispi(&mut board, &mut vga, index, value);
        }
        assert!(vga.is_graphics());
        assert_eq!(vga.picture_size(), (800, 600));
        vga.port_write(&mut board.ctx(), PORT_DISPI_INDEX, AccessSize::Word, 6);
        assert_eq!(board.port_in(&mut vga, PORT_DISPI_DATA, AccessSize::Word), 800);
        // The legacy window is a bank of the frame buffer.
        dispi(&mut board, &mut vga, 5, 2);
        vga.mmio_write(&mut board.ctx(), 0xA0004, AccessSize::Dword, 0x0403_0201);
        assert_eq!(vga.mmio_read(&mut board.ctx(), LFB_BASE + 0x2_0005, AccessSize::Word), Some(0x0302));
        assert_eq!(vga.mmio_read(&mut board.ctx(), 0xB8000, AccessSize::Byte), Some(0));
        dispi(&mut board, &mut vga, 4, 0);
        assert!(!vga.is_graphics());
        assert_eq!(vga.text_screen().len(), 25);
        assert_eq!(vga.mmio_read(&mut board.ctx(), 0xB8000, AccessSize::Word), Some(0x0720));
    }

    #[test]
    fn vga_vm86_disable_is_finished_by_a_legacy_mode_set() {
        let (mut board, mut vga) = (TestBoard::new(), Vga::new(0));
        vga.set_text_mode_3();
        for (index, value) in [(1, 320), (2, 200), (3, 8), (4, 1)] {
            dispi(&mut board, &mut vga, index, value);
        }
        vga.port_write(&mut board.ctx(), PORT_DISPI_INDEX, AccessSize::Word, 4);
        let mut ctx = board.ctx();
        ctx.cpu_vm86 = true;
        vga.port_write(&mut ctx, PORT_DISPI_DATA, AccessSize::Word, 0);
        assert!(vga.is_graphics());
        board.outb(&mut vga, 0x3C0, 0x10);
        board.outb(&mut vga, 0x3C0, 0x08);
        assert!(!vga.is_graphics());
    }

    #[test]
    fn vga_change_flag_follows_memory_and_registers() {
        let (mut board, mut vga) = (TestBoard::new(), Vga::new(0));
        vga.set_text_mode_3();
        assert!(vga.take_changed());
        assert!(!vga.take_changed());
        vga.mmio_read(&mut board.ctx(), 0xB8000, AccessSize::Dword);
        vga.mmio_write(&mut board.ctx(), 0xA0000, AccessSize::Dword, 1);
        assert!(!vga.take_changed(), "outside the decoded window");
        vga.mmio_write(&mut board.ctx(), 0xB8000, AccessSize::Dword, 1);
        assert!(vga.take_changed());
        vga.mmio_write(&mut board.ctx(), LFB_BASE + (256 << 10), AccessSize::Byte, 1);
        assert!(!vga.take_changed());
    }

    #[test]
    fn vga_reset_cold_forgets_and_warm_keeps_the_picture() {
        let (mut board, mut vga) = (TestBoard::new(), Vga::new(1 << 20));
        vga.set_text_mode_3();
        vga.mmio_write(&mut board.ctx(), LFB_BASE, AccessSize::Dword, 7);
        vga.mmio_write(&mut board.ctx(), 0xB8000, AccessSize::Byte, u32::from(b'x'));
        vga.reset(&mut board.ctx(), ResetKind::Warm);
        assert_eq!(vga.text_screen()[0], "x");
        vga.reset(&mut board.ctx(), ResetKind::Cold);
        assert_eq!(vga.memory_size(), 1 << 20);
        assert_eq!(vga.mmio_read(&mut board.ctx(), LFB_BASE, AccessSize::Dword), Some(0));
        assert_eq!(vga.text_screen().concat(), "");
    }
}
