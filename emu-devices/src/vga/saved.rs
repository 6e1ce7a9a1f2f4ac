//! State of the card in snapshots: slot 52.
//!
//! | v86's array | here |
//! | --- | --- |
//! | 1-5, 7, 8, 10-14, 17, 22-35, 41, 43, 44, 46-52, 54-60, 62, 63 | registers |
//! | 53 | offset register (42 the same again) |
//! | 6, 11 | planes, latches |
//! | 9 | graphics mode |
//! | 15, 16, 18-21, 37, 38 | extended modes |
//! | 39 | frame buffer |
//!
//! Written for v86, but not read: 0 (video memory: the board's), 36 (phase of status register 1: guest
//! time says it), 42, 45 (start address latched at retrace), 64 (two fonts: derived from 63). 61 (v86's
//! cache of color indices) is written as `null` and computed by v86.
//!
//! The frame buffer is written up to its last byte that is not 0: v86 takes shorter ones.
//!
//! Files from before February 2022 have no planes in 6. Then the planes were the first 256 KiB of the
//! frame buffer.
//!
//! Version and offsets of the Bochs interface and the size of the picture, which v86 does not save, are
//! in our own part.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::memory::Planes;
use super::regs::Registers;
use super::spec::*;
use super::vbe::{OLDEST_VERSION, VERSION as VBE_VERSION, Vbe};
use super::{MAX_COLUMNS, MAX_LINES, Vga};
use crate::device::DeviceState;
use crate::limits::{VGA_MAX_HEIGHT, VGA_MAX_WIDTH};

/// Layout of our own part.
const VERSION: i64 = 1;

/// Positions of the DAC: 256 colors with three components.
const DAC_POSITIONS: u16 = 768;
/// The vertical values of the CRT controller have ten bits.
const TEN_BITS: u16 = 0x3FF;
/// Tallest picture of a legacy mode: all lines, each of them four rows of an interleaved mode.
const MAX_ROWS_OF_PIXELS: u16 = MAX_LINES << 2;

/// The card's state as plain data.
pub(super) struct SavedVga {
    memory_size: usize,
    regs: Registers,
    /// `None`: there are none in the snapshot.
    planes: Option<Vec<u8>>,
    latch: u32,
    status: u8,
    graphics: bool,
    columns: u16,
    rows: u16,
    width: u16,
    height: u16,
    vbe: SavedVbe,
}

/// The extended modes.
struct SavedVbe {
    index: u16,
    version: u16,
    width: u16,
    height: u16,
    bpp: u16,
    enable: u16,
    active: bool,
    bank: u16,
    x_offset: u16,
    y_offset: u16,
    /// Frame buffer; what is missing at the end is 0. `None`: there is none in the snapshot.
    memory: Option<Vec<u8>>,
}

/// Index registers start at -1 on v86; FFh selects nothing either.
fn index_to_v86(index: u8) -> Value {
    if index == 0xFF { Value::Int(-1) } else { index.into() }
}

impl SavedVga {
    /// The registers of a card without its memories; `status` is what status register 1 shows.
    pub(super) fn registers_of(card: &Vga, status: u8) -> Self {
        let Vga {
            regs,
            planes: Planes { bytes: _, latch },
            vbe,
            graphics,
            columns,
            rows,
            width,
            height,
            changed: _,
        } = card;
        let Vbe {
            index,
            version,
            width: vbe_width,
            height: vbe_height,
            bpp,
            enable,
            active,
            bank,
            x_offset,
            y_offset,
            memory,
            used: _,
        } = vbe;
        Self {
            memory_size: memory.len(),
            regs: regs.clone(),
            planes: None,
            latch: *latch,
            status,
            graphics: *graphics,
            columns: *columns,
            rows: *rows,
            width: *width,
            height: *height,
            vbe: SavedVbe {
                index: *index,
                version: *version,
                width: *vbe_width,
                height: *vbe_height,
                bpp: *bpp,
                enable: *enable,
                active: *active,
                bank: *bank,
                x_offset: *x_offset,
                y_offset: *y_offset,
                memory: None,
            },
        }
    }

    /// The state of a card. Its memories are copied once.
    pub(super) fn capture(card: &Vga, status: u8) -> Self {
        let mut saved = Self::registers_of(card, status);
        saved.planes = Some(card.planes.bytes.to_vec());
        saved.vbe.memory = Some(card.vbe.contents().to_vec());
        saved
    }

    /// Puts the state into a card that was reset. A frame buffer of full length is moved.
    pub(super) fn apply(self, card: &mut Vga) {
        let Self {
            memory_size: _,
            regs,
            planes,
            latch,
            status: _,
            graphics,
            columns,
            rows,
            width,
            height,
            vbe,
        } = self;
        card.regs = regs;
        card.planes.latch = latch;
        match (planes, &vbe.memory) {
            (Some(planes), _) => {
                card.planes.bytes = planes.into_boxed_slice();
            }
            (None, Some(memory)) => {
                card.planes.bytes.iter_mut().zip(memory).for_each(|(to, from)| *to = *from);
            }
            (None, None) => {}
        }
        card.vbe.index = vbe.index;
        card.vbe.version =
            if (OLDEST_VERSION..=VBE_VERSION).contains(&vbe.version) { vbe.version } else { VBE_VERSION };
        card.vbe.width = vbe.width.min(VGA_MAX_WIDTH);
        card.vbe.height = vbe.height.min(VGA_MAX_HEIGHT);
        card.vbe.bpp = if Vbe::has_depth(vbe.bpp) { vbe.bpp } else { 32 };
        card.vbe.enable = vbe.enable;
        card.vbe.active = vbe.active && card.vbe.width != 0 && card.vbe.height != 0;
        card.vbe.bank = if card.vbe.active { vbe.bank } else { 0 };
        (card.vbe.x_offset, card.vbe.y_offset) = (vbe.x_offset, vbe.y_offset);
        if let Some(memory) = vbe.memory {
            card.vbe.set_contents(memory);
        }
        card.graphics = graphics || card.vbe.active;
        card.columns = columns.clamp(1, MAX_COLUMNS);
        // No more lines than the registers can mean.
        let cell_height = u16::from(card.regs.max_scan & 0x1F) + 1;
        card.rows = rows.clamp(1, MAX_LINES / cell_height);
        card.width = width.min(VGA_MAX_WIDTH);
        card.height = height.min(MAX_ROWS_OF_PIXELS);
        card.changed = true;
    }

    pub(super) fn into_state(self) -> DeviceState {
        let Self { memory_size, regs, planes, latch, status, graphics, columns, rows, width, height, vbe } =
            self;
        let [page_a, page_b] = regs.font_pages();
        let Registers {
            misc_output,
            seq_index,
            clocking,
            map_mask,
            char_map,
            memory_mode,
            gc_index,
            set_reset,
            enable_set_reset,
            color_compare,
            rotate,
            read_map,
            gc_mode,
            gc_misc,
            dont_care,
            bit_mask,
            attr_index,
            palette_source,
            attr_palette,
            attr_mode,
            plane_enable,
            panning,
            color_select,
            crtc_index,
            crtc,
            hdisp_end,
            hblank_start,
            vdisp_end,
            vblank_start,
            line_compare,
            preset_row,
            max_scan,
            cursor_start,
            cursor_end,
            start_address,
            cursor_address,
            offset,
            underline,
            crtc_mode,
            dac_mask,
            dac_state,
            dac_write,
            dac_read,
            palette,
        } = regs;
        let start = u32::from(vbe.y_offset) * u32::from(vbe.width) + u32::from(vbe.x_offset);
        let v86 = values![
            memory_size as u32,
            cursor_address,
            cursor_start,
            cursor_end,
            columns,
            rows,
            planes.map(Value::bytes),
            dac_state,
            start_address,
            graphics,
            Value::i32s(&palette),
            Value::signed(latch),
            color_compare,
            dont_care,
            gc_misc,
            vbe.width,
            vbe.height,
            crtc_mode,
            vbe.active,
            vbe.bpp,
            Value::signed(u32::from(vbe.bank) << 16),
            start,
            crtc_index,
            dac_write,
            dac_read,
            Value::bytes(attr_palette),
            index_to_v86(seq_index),
            map_mask,
            memory_mode,
            index_to_v86(gc_index),
            read_map,
            gc_mode,
            rotate,
            bit_mask,
            max_scan,
            misc_output,
            status,
            vbe.index,
            vbe.enable,
            vbe.memory.map(Value::bytes),
            Value::Null,
            attr_index.map_or(-1, i32::from),
            offset,
            set_reset,
            enable_set_reset,
            start_address,
            Value::bytes(crtc),
            hdisp_end,
            hblank_start,
            vdisp_end,
            vblank_start,
            underline,
            preset_row,
            offset,
            palette_source,
            attr_mode,
            plane_enable,
            panning,
            color_select,
            clocking,
            line_compare,
            Value::Null,
            dac_mask,
            char_map,
            page_a != page_b,
        ];
        let extra = values![VERSION, vbe.version, vbe.x_offset, vbe.y_offset, width, height];
        DeviceState { v86, extra }
    }

    /// Takes over what a snapshot says. True if it says how large the picture is.
    ///
    /// # Errors
    /// A field is of a wrong type, or the frame buffer is larger than the card's.
    pub(super) fn read(&mut self, mut state: DeviceState) -> Result<bool, FieldError> {
        if let Some(mut f) = Fields::of(&mut state.v86)? {
            self.read_v86(&mut f)?;
        }
        match Fields::of(&mut state.extra) {
            Ok(Some(mut f)) => self.read_extra(&mut f).map(|()| true),
            other => other.map(|_| false),
        }
        .map_err(FieldError::in_extra)
    }

    fn read_v86(&mut self, f: &mut Fields<'_>) -> Result<(), FieldError> {
        // A macro, because each field keeps its value if the file says nothing.
        macro_rules! take {
            ($($method:ident: $($index:literal $to:expr),*;)*) => {$($(
                if let Some(value) = f.$method($index)? {
                    $to = value;
                }
            )*)*};
        }
        let (r, vbe) = (&mut self.regs, &mut self.vbe);
        take! {
            u8: 2 r.cursor_start, 3 r.cursor_end, 7 r.dac_state, 12 r.color_compare, 13 r.dont_care,
                14 r.gc_misc, 17 r.crtc_mode, 22 r.crtc_index, 26 r.seq_index, 27 r.map_mask,
                28 r.memory_mode, 29 r.gc_index, 30 r.read_map, 31 r.gc_mode, 32 r.rotate, 33 r.bit_mask,
                34 r.max_scan, 35 r.misc_output, 42 r.offset, 43 r.set_reset, 44 r.enable_set_reset,
                47 r.hdisp_end, 48 r.hblank_start, 51 r.underline, 52 r.preset_row, 53 r.offset,
                54 r.palette_source, 55 r.attr_mode, 56 r.plane_enable, 57 r.panning, 58 r.color_select,
                59 r.clocking, 62 r.dac_mask, 63 r.char_map;
            u16: 1 r.cursor_address, 4 self.columns, 5 self.rows, 8 r.start_address, 15 vbe.width,
                16 vbe.height, 19 vbe.bpp, 23 r.dac_write, 24 r.dac_read, 37 vbe.index, 38 vbe.enable,
                49 r.vdisp_end, 50 r.vblank_start, 60 r.line_compare;
            u32: 11 self.latch;
            bool: 9 self.graphics, 18 vbe.active;
            u8s: 25 r.attr_palette, 46 r.crtc;
            u32s: 10 r.palette;
        }
        f.u32(0)?;
        f.u32(36)?;
        f.u32(45)?;
        f.bool(64)?;
        if let Some(bank) = f.u32(20)? {
            vbe.bank = (bank >> 16) as u16;
        }
        if let Some(start) = f.u32(21)? {
            let width = u32::from(vbe.width.max(1));
            vbe.y_offset = u16::try_from(start / width).unwrap_or(u16::MAX);
            vbe.x_offset = (start % width) as u16;
        }
        if let Some(index) = f.u32(41)? {
            // -1: the next write is an index.
            r.attr_index = u8::try_from(index).ok().map(|index| index & 0x1F);
        }
        // The planes were elsewhere when 6 was something else.
        if matches!(f.get(6), Value::Typed(_)) {
            self.planes = f.bytes(6, 4 * PLANE_LEN)?;
        } else if !matches!(f.get(6), Value::Null | Value::Array(_)) {
            return Err(FieldError::at(6, format!("expected a typed array, found {}", f.get(6).describe())));
        }
        vbe.memory = f.bytes_up_to(39, self.memory_size)?;
        mask_registers(r);
        Ok(())
    }

    fn read_extra(&mut self, f: &mut Fields<'_>) -> Result<(), FieldError> {
        if f.i64(0)? != Some(VERSION) {
            return Err(FieldError::at(0, "unknown layout"));
        }
        let vbe = &mut self.vbe;
        vbe.version = f.u16(1)?.unwrap_or(vbe.version);
        vbe.x_offset = f.u16(2)?.unwrap_or(vbe.x_offset);
        vbe.y_offset = f.u16(3)?.unwrap_or(vbe.y_offset);
        self.width = f.u16(4)?.unwrap_or(self.width);
        self.height = f.u16(5)?.unwrap_or(self.height);
        Ok(())
    }
}

/// Registers keep only the bits they have.
fn mask_registers(r: &mut Registers) {
    r.dac_state &= 3;
    r.dac_write %= DAC_POSITIONS;
    r.dac_read %= DAC_POSITIONS;
    r.vdisp_end &= TEN_BITS;
    r.vblank_start &= TEN_BITS;
    r.line_compare &= TEN_BITS;
    r.palette_source &= ATTR_PALETTE_SOURCE;
    r.panning &= 0x0F;
    r.palette.iter_mut().for_each(|color| *color &= 0x00FF_FFFF);
}

#[cfg(test)]
mod tests;
