//! Ports and registers of the VGA and of the Bochs display interface (DISPI).

/// Legacy window: first address.
pub const WINDOW_BASE: u64 = 0xA0000;
/// Legacy window: length.
pub const WINDOW_LEN: u64 = 0x20000;
/// Linear frame buffer: first address. It cannot be moved.
pub const LFB_BASE: u64 = 0xE000_0000;
/// Bytes of one memory plane, and of a bank of the frame buffer.
pub const PLANE_LEN: usize = 0x1_0000;

// ---- ports -----------------------------------------------------------------------------------------

/// Attribute controller: index and data (write), index (read).
pub const PORT_ATTR: u16 = 0x3C0;
/// Attribute controller: data (read).
pub const PORT_ATTR_READ: u16 = 0x3C1;
/// Miscellaneous output (write).
pub const PORT_MISC_WRITE: u16 = 0x3C2;
/// Sequencer index.
pub const PORT_SEQ_INDEX: u16 = 0x3C4;
/// Sequencer data.
pub const PORT_SEQ_DATA: u16 = 0x3C5;
/// DAC: pixel mask.
pub const PORT_DAC_MASK: u16 = 0x3C6;
/// DAC: read index (write), state (read).
pub const PORT_DAC_READ: u16 = 0x3C7;
/// DAC: write index.
pub const PORT_DAC_WRITE: u16 = 0x3C8;
/// DAC: data.
pub const PORT_DAC_DATA: u16 = 0x3C9;
/// Feature control (read).
pub const PORT_FEATURE_READ: u16 = 0x3CA;
/// Miscellaneous output (read).
pub const PORT_MISC_READ: u16 = 0x3CC;
/// Graphics controller index.
pub const PORT_GC_INDEX: u16 = 0x3CE;
/// Graphics controller data.
pub const PORT_GC_DATA: u16 = 0x3CF;
/// CRT controller index.
pub const PORT_CRTC_INDEX: u16 = 0x3D4;
/// CRT controller data.
pub const PORT_CRTC_DATA: u16 = 0x3D5;
/// Input status 1.
pub const PORT_STATUS: u16 = 0x3DA;
/// DISPI index.
pub const PORT_DISPI_INDEX: u16 = 0x1CE;
/// DISPI data.
pub const PORT_DISPI_DATA: u16 = 0x1CF;

// ---- bits ------------------------------------------------------------------------------------------

/// Status 1: display disabled (horizontal or vertical blank).
pub const STATUS_BLANK: u8 = 0x01;
/// Status 1: vertical retrace.
pub const STATUS_RETRACE: u8 = 0x08;

/// Attribute index: the palette feeds the screen (0 blanks it).
pub const ATTR_PALETTE_SOURCE: u8 = 0x20;
/// Attribute mode: graphics.
pub const ATTR_GRAPHICS: u8 = 0x01;
/// Attribute mode: the ninth dot of line graphics repeats the eighth.
pub const ATTR_LINE_GRAPHICS: u8 = 0x04;
/// Attribute mode: bit 7 of text attributes blinks.
pub const ATTR_BLINK: u8 = 0x08;
/// Attribute mode: panning stops at line compare.
pub const ATTR_PAN_SPLIT: u8 = 0x20;
/// Attribute mode: 8 bits per pixel.
pub const ATTR_8BIT: u8 = 0x40;
/// Attribute mode: palette bits 5:4 come from the color select register.
pub const ATTR_P54: u8 = 0x80;

/// Clocking mode: 8 dots per character.
pub const CLOCK_8DOT: u8 = 0x01;
/// Clocking mode: dot clock halved.
pub const CLOCK_HALF: u8 = 0x08;
/// Clocking mode: screen off.
pub const CLOCK_OFF: u8 = 0x20;

/// Memory mode: chain 4.
pub const SEQ_CHAIN4: u8 = 0x08;
/// Memory mode: odd/even addressing off.
pub const SEQ_SEQUENTIAL: u8 = 0x04;

/// Graphics mode: read mode 1 (color compare).
pub const GC_READ_COMPARE: u8 = 0x08;
/// Graphics mode: odd/even reads.
pub const GC_ODD_EVEN: u8 = 0x10;
/// Graphics mode: shift register mode.
pub const GC_SHIFT: u8 = 0x60;

/// Maximum scan line: lines are doubled.
pub const SCAN_DOUBLE: u8 = 0x80;
/// Cursor start: cursor off.
pub const CURSOR_OFF: u8 = 0x20;
/// Mode control: byte addressing.
pub const MODE_BYTE: u8 = 0x40;
/// Underline location: doubleword addressing.
pub const UNDERLINE_DWORD: u8 = 0x40;

// ---- CRT controller --------------------------------------------------------------------------------

/// Horizontal display end.
pub const CRTC_HDISP_END: u8 = 0x01;
/// Horizontal blank start.
pub const CRTC_HBLANK_START: u8 = 0x02;
/// Overflow bits of the vertical registers.
pub const CRTC_OVERFLOW: u8 = 0x07;
/// Preset row scan, byte panning.
pub const CRTC_PRESET_ROW: u8 = 0x08;
/// Maximum scan line.
pub const CRTC_MAX_SCAN: u8 = 0x09;
/// Cursor start.
pub const CRTC_CURSOR_START: u8 = 0x0A;
/// Cursor end.
pub const CRTC_CURSOR_END: u8 = 0x0B;
/// Start address, high.
pub const CRTC_START_HIGH: u8 = 0x0C;
/// Start address, low.
pub const CRTC_START_LOW: u8 = 0x0D;
/// Cursor address, high.
pub const CRTC_CURSOR_HIGH: u8 = 0x0E;
/// Cursor address, low.
pub const CRTC_CURSOR_LOW: u8 = 0x0F;
/// Vertical display end.
pub const CRTC_VDISP_END: u8 = 0x12;
/// Offset (pitch).
pub const CRTC_OFFSET: u8 = 0x13;
/// Underline location.
pub const CRTC_UNDERLINE: u8 = 0x14;
/// Vertical blank start.
pub const CRTC_VBLANK_START: u8 = 0x15;
/// Mode control.
pub const CRTC_MODE: u8 = 0x17;
/// Line compare.
pub const CRTC_LINE_COMPARE: u8 = 0x18;
/// Number of registers.
pub const CRTC_COUNT: usize = 0x19;

// ---- DISPI -----------------------------------------------------------------------------------------

/// Version.
pub const DISPI_ID: u16 = 0;
/// Horizontal resolution.
pub const DISPI_XRES: u16 = 1;
/// Vertical resolution.
pub const DISPI_YRES: u16 = 2;
/// Bits per pixel.
pub const DISPI_BPP: u16 = 3;
/// Enable and options.
pub const DISPI_ENABLE: u16 = 4;
/// Bank of the legacy window.
pub const DISPI_BANK: u16 = 5;
/// Virtual width.
pub const DISPI_VIRT_WIDTH: u16 = 6;
/// First visible column.
pub const DISPI_X_OFFSET: u16 = 8;
/// First visible row.
pub const DISPI_Y_OFFSET: u16 = 9;
/// Video memory in 64 KiB units.
pub const DISPI_MEMORY: u16 = 0x0A;

/// Enable: on.
pub const DISPI_ON: u16 = 0x01;
/// Enable: resolution registers read the maximum.
pub const DISPI_GET_CAPS: u16 = 0x02;
/// Enable: 8-bit DAC.
pub const DISPI_8BIT_DAC: u16 = 0x20;
/// Enable: keep the frame buffer.
pub const DISPI_NO_CLEAR: u16 = 0x80;
