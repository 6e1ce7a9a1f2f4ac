//! What translated code keeps in the spare places of [`CpuState`], and what it takes for granted.

use emu_core::cpu::flags::{self, Flags};
use emu_core::cpu::segment::attr as seg_attr;
use emu_core::cpu::{CpuState, Segment, cr0, cr4, seg};

use crate::fpu;
use crate::layout::QUIET;
#[cfg(doc)]
use crate::layout::SLOT;

/// Arithmetic flags in the form of [`SLOT`].
pub(crate) fn pack(f: Flags) -> u16 {
    let bits = f.get();
    ((bits & 0xD5) << 8 | flags::FIXED << 8 | u32::from(bits & flags::OF != 0)) as u16
}

/// Arithmetic flags from the form of [`SLOT`].
pub(crate) fn unpack(slot: u16) -> Flags {
    Flags::set(u32::from(slot >> 8) & 0xD5 | if slot & 1 != 0 { flags::OF } else { 0 })
}

/// The flags as translated code leaves them.
pub(crate) fn slot(cpu: &CpuState) -> u16 {
    cpu.bindings[0] as u16
}

/// The flags as translated code finds them.
pub(crate) fn set_slot(cpu: &mut CpuState, value: u16) {
    cpu.bindings[0] = (cpu.bindings[0] & !0xFFFF) | u64::from(value);
}

/// Linear address of the page that runs.
pub(crate) fn page_base(cpu: &CpuState) -> u32 {
    (cpu.bindings[0] >> 32) as u32
}

/// Everything translated code takes for granted: 32-bit code and stack, and ES, CS, SS, DS flat.
pub(crate) fn is_flat(cpu: &CpuState) -> bool {
    let cs = &cpu.seg[seg::CS];
    cpu.mode.0 == 3
        && cpu.flat_read & 0b1111 == 0b1111
        && cpu.flat_write & 0b1101 == 0b1101
        && cs.base == 0
        && cs.limit == u32::MAX
}

/// Segments that can be read and written at any offset.
fn wide_segments(cpu: &CpuState) -> u64 {
    if cpu.alignment_checked {
        return 0;
    }
    (0..6).filter(|&n| is_wide(&cpu.seg[n])).fold(0, |mask, n| mask | 1 << n)
}

/// It can be read and written at any offset.
pub(crate) fn is_wide(s: &Segment) -> bool {
    let expands_down = s.attr & (seg_attr::CODE | seg_attr::DC) == seg_attr::DC;
    s.is_readable() && s.is_writable() && s.limit == u32::MAX && !expands_down
}

/// What translated code looks up instead of computing: [`crate::layout::WIDE_SEGMENTS`],
/// [`crate::layout::SSE_USABLE`], [`crate::layout::HOST_MXCSR`].
pub(crate) fn assumptions(cpu: &CpuState, quiet: bool) -> u64 {
    let sse = cpu.cr0 & (cr0::EM | cr0::TS) == 0 && cpu.cr4 & cr4::OSFXSR != 0;
    let quiet = if quiet { u64::from(QUIET) } else { 0 };
    wide_segments(cpu) | quiet | u64::from(sse) << 8 | 0x1F80 << 32
}

/// Takes note of changed [`assumptions`].
pub(crate) fn assume(cpu: &mut CpuState, quiet: bool) {
    cpu.bindings[3] = cpu.bindings[3] & fpu::BINDING_MASK | assumptions(cpu, quiet);
}
