//! Where guest state lives while translated code runs.
//!
//! | host | guest |
//! | --- | --- |
//! | eax ecx edx ebx ebp esi edi | the register of the same name |
//! | r14d | ESP |
//! | r13 | address of the `CpuState` + [`BIAS`]; as a count, 12 |
//! | r12 | instructions left in the slice |
//! | r15 | view tables of the current class |
//! | r8-r11 | scratch |
//! | xmm0-xmm7, MXCSR | the guest's while [`XMM_RESIDENT`] says so |
//! | x87 unit | the guest's while [`FPU`] says so |
//!
//! Bits 63:32 of the eight guest registers are zero at every instruction boundary.

use std::mem::offset_of;

use emu_core::cpu::CpuState;

/// Bias of r13: the hot part of the state is in reach of 8-bit displacements, and the lower five bits are 12, so that
/// SHRX by r13 makes the page number of an address.
pub(crate) const BIAS: i32 = 128 + 12;

/// Host registers.
pub(crate) mod host {
    pub(crate) const RAX: u8 = 0;
    /// Guest EBP.
    pub(crate) const EBP: u8 = 5;
    pub(crate) const R8: u8 = 8;
    pub(crate) const R9: u8 = 9;
    pub(crate) const R10: u8 = 10;
    pub(crate) const R11: u8 = 11;
    /// Guest ESP.
    pub(crate) const ESP: u8 = 14;
}

/// Host register that holds 32- or 16-bit guest register `n`.
pub(crate) const fn pinned(n: u8) -> u8 {
    if n == 4 { host::ESP } else { n & 7 }
}

const fn at(offset: usize) -> i32 {
    offset as i32 - BIAS
}

/// Guest register `n` in memory.
pub(crate) const fn gpr(n: u8) -> i32 {
    at(offset_of!(CpuState, gpr)) + 4 * n as i32
}

/// Base of segment `s`.
pub(crate) const fn seg_base(s: u8) -> i32 {
    at(offset_of!(CpuState, seg)) + s as i32 * size_of::<emu_core::cpu::Segment>() as i32
}

/// Selector of segment `s` (a word).
pub(crate) const fn selector(s: u8) -> i32 {
    seg_base(s) + offset_of!(emu_core::cpu::Segment, selector) as i32
}

/// A spare register slot: r11 while the interpreter's function runs.
pub(crate) const KEPT: i32 = gpr(12);

/// Spare register slots: the last x87 instruction, see [`crate::fpu::Note`], and EIP of the first byte of the
/// page it lies in.
pub(crate) const X87_NOTE: i32 = gpr(9);
/// See [`X87_NOTE`].
pub(crate) const X87_PAGE: i32 = gpr(13);

/// The table entry of the page that a register points into (8 bytes), by its number among those that are followed: ESP
/// (0) and EBP (1), for which spare register slots serve and which are 0 if accesses have to look for themselves, and
/// the others.
pub(crate) const fn frame(which: usize) -> i32 {
    match which {
        0 => gpr(14),
        1 => gpr(10),
        _ => at(offset_of!(CpuState, pages)) + 8 * (which as i32 - 2),
    }
}

/// What was in r11 at the end of a block whose last flags follow from it ([`crate::lazy`]).
pub(crate) const LAZY_OPERAND: i32 = at(offset_of!(CpuState, pages)) + 8 * LAZY_PAGE as i32;
/// Its place in [`CpuState::pages`].
pub(crate) const LAZY_PAGE: usize = 6;

/// EIP.
pub(crate) const EIP: i32 = at(offset_of!(CpuState, eip));
/// EFLAGS without the arithmetic flags.
pub(crate) const EFLAGS: i32 = at(offset_of!(CpuState, eflags));
/// Current privilege level (a byte).
pub(crate) const CPL: i32 = at(offset_of!(CpuState, cpl));

const BINDINGS: i32 = at(offset_of!(CpuState, bindings));

/// Arithmetic flags as translated code keeps them between instructions (a word): the high byte is what
/// LAHF gives, bit 0 is OF.
pub(crate) const SLOT: i32 = BINDINGS;
/// The host's XMM0-XMM7 and MXCSR are the guest's (a byte, 0 or 1).
pub(crate) const XMM_RESIDENT: i32 = BINDINGS + 2;
/// CF before the INC or DEC that set the flags last (a byte, 0 or 1; see [`crate::lazy`]).
pub(crate) const CARRY: i32 = BINDINGS + 3;
/// EIP of the first byte of the page the running block lies in.
pub(crate) const PAGE_BASE: i32 = BINDINGS + 4;
/// Address of the [`crate::entry::Context`].
pub(crate) const CONTEXT: i32 = BINDINGS + 8;
/// Address of the table of indirect branch targets.
pub(crate) const TARGETS: i32 = BINDINGS + 16;
/// Bit s: segment s covers all offsets for reading and writing, whatever its base. [`QUIET`]. (A byte.)
pub(crate) const WIDE_SEGMENTS: i32 = BINDINGS + 24;
/// In [`WIDE_SEGMENTS`]: a look around would find no interrupt even if they were enabled.
pub(crate) const QUIET: u8 = 1 << 7;
/// SSE instructions neither are undefined nor trap (a byte, 0 or 1).
pub(crate) const SSE_USABLE: i32 = BINDINGS + 25;
/// Where the guest's x87 unit is (a byte, see [`crate::fpu`]).
pub(crate) const FPU: i32 = BINDINGS + 26;
/// Segment of the last x87 operand whose selector has not been recorded (a byte, see [`crate::fpu`]).
pub(crate) const DATA_SEGMENT: i32 = BINDINGS + 27;
/// MXCSR.
pub(crate) const MXCSR: i32 = at(offset_of!(CpuState, mxcsr));
/// The value of MXCSR that Rust code runs with.
pub(crate) const HOST_MXCSR: i32 = BINDINGS + 28;

const LIMITS: i32 = at(offset_of!(CpuState, limits));

/// Last offset at which segment `s` can be read, or -1 if it is not that simple (8 bytes). See
/// [`crate::segments`].
pub(crate) const fn read_limit(s: u8) -> i32 {
    LIMITS + 8 * s as i32
}

/// The same for writing.
pub(crate) const fn write_limit(s: u8) -> i32 {
    LIMITS + 48 + 8 * s as i32
}

/// Number of the world that translated code runs in, in the upper bits ([`crate::segments::Worlds`]).
pub(crate) const WORLD: i32 = LIMITS + 96;

/// XMM register `n`.
pub(crate) const fn xmm(n: u8) -> i32 {
    at(offset_of!(CpuState, xmm)) + 16 * n as i32
}

const X87: i32 = at(offset_of!(CpuState, x87));
/// Offset of the last x87 operand.
pub(crate) const X87_DP: i32 = X87 + offset_of!(emu_core::cpu::state::X87, dp) as i32;

const _: () = {
    assert!(offset_of!(emu_core::cpu::Segment, base) == 0);
    assert!(seg_base(5) < 128 && gpr(9) >= -128);
    assert!(align_of::<CpuState>().is_multiple_of(32) && BIAS % 32 == 12);
    assert!(frame(7) < LAZY_OPERAND);
};
