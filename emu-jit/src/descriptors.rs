//! Segment descriptors that were checked before. An entry is good as long as the descriptor in the table has
//! the same bits: it is read each time, so that nothing has to be told about writes to the table.

use emu_core::cpu::segment::Segment;
use emu_core::cpu::{CpuState, descriptor};
use emu_core::interp::Env;

const ENTRIES: usize = 32;

#[derive(Clone, Copy, Default)]
struct Entry {
    raw: u64,
    selector: u16,
    cpl: u8,
    segment: Segment,
}

/// A small cache, by selector.
#[derive(Default)]
pub(crate) struct Descriptors {
    entries: [Entry; ENTRIES],
}

impl Descriptors {
    /// What a load of ES, DS, FS or GS with `selector` gives. `None` if that has effects besides, or raises
    /// something, or is unusual.
    #[inline(always)]
    pub(crate) fn data_segment(&mut self, cpu: &CpuState, env: &Env<'_>, selector: u16) -> Option<Segment> {
        if cpu.real_or_vm86() || cpu.alignment_checked {
            return None;
        }
        if descriptor::is_null(selector) {
            return Some(Segment::null(selector));
        }
        let at = u32::from(selector & !7);
        if selector & 4 != 0 || at + 7 > u32::from(cpu.gdtr.limit) {
            return None;
        }
        let raw = env.mem.peek_system(cpu.gdtr.base.wrapping_add(at))?;
        let entry = &mut self.entries[usize::from(selector >> 3) % ENTRIES];
        // No descriptor of a data segment is 0.
        if entry.raw != raw || entry.selector != selector || entry.cpl != cpu.cpl || raw == 0 {
            let segment = descriptor::accessed_data_segment(raw, selector, cpu.cpl)?;
            *entry = Entry { raw, selector, cpl: cpu.cpl, segment };
        }
        Some(entry.segment)
    }
}
