//! Code in segments that are not flat: 16-bit code and stacks, bases, limits, real mode and VM86.
//!
//! Translated code for flat segments takes them for granted and never looks at them. All other code is translated
//! for a *world*: CS.D, SS.B, the limit of CS and the low bits of its base; and, as EIP does not follow from the
//! physical address, for one EIP. Then wraps of EIP and the limit of CS are settled when it is translated. Data is
//! accessed at the offset plus the base, after a comparison with the limit (`lower/memory.rs`); bases and limits
//! are read from the state, so loads of segment registers need not be noticed.
//!
//! World 0 is that of flat segments.

use emu_core::cpu::segment::attr;
use emu_core::cpu::{CpuState, ModeKey, Segment, seg};
use emu_core::decode::block::KeyMap;

use crate::assume::is_flat;

/// Flat segments.
pub(crate) const FLAT: u32 = 0;

/// Bits of a code entry: one more than the number of a physical page. The number of a world lies above.
pub(crate) const WORLD_SHIFT: u32 = 21;

/// Worlds there can be. The last number is that of no world, see [`crate::targets::NO_TARGET`].
const MAX_WORLDS: u32 = (1 << (32 - WORLD_SHIFT)) - 1;

/// What code is translated for, if segments are not flat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segmented {
    pub(crate) mode: ModeKey,
    /// EIP of the block.
    pub(crate) eip: u32,
    /// Limit of CS.
    pub(crate) limit: u32,
}

/// Mode, low bits of the base of CS, limit of CS.
fn key(cpu: &CpuState) -> u64 {
    let cs = &cpu.seg[seg::CS];
    u64::from(cs.limit) | u64::from(cs.base & 0xFFF) << 32 | u64::from(cpu.mode.0) << 44
}

/// Worlds by what they are.
pub(crate) struct Worlds {
    enabled: bool,
    numbers: KeyMap<u64, u32>,
    last: (u64, u32),
    /// There is no room for another one.
    pub(crate) full: bool,
}

impl Worlds {
    /// None but the flat one; no others ever unless `enabled`.
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled, numbers: KeyMap::default(), last: (u64::MAX, FLAT), full: false }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.enabled);
    }

    /// The world the CPU is in. `None`: one without translated code.
    #[inline]
    pub(crate) fn current(&mut self, cpu: &CpuState) -> Option<u32> {
        if is_flat(cpu) {
            return Some(FLAT);
        }
        if !self.enabled || cpu.alignment_checked {
            return None;
        }
        let key = key(cpu);
        if self.last.0 == key {
            return Some(self.last.1);
        }
        let number = match self.numbers.get(&key) {
            Some(&number) => number,
            None => {
                let number = self.numbers.len() as u32 + 1;
                if number >= MAX_WORLDS {
                    self.full = true;
                    return None;
                }
                self.numbers.insert(key, number);
                number
            }
        };
        self.last = (key, number);
        Some(number)
    }

    /// The CPU is still in a world that it was in: code for segments that are not flat is as good if they have
    /// become so.
    #[inline]
    pub(crate) fn stays(&self, cpu: &CpuState, world: u32) -> bool {
        if world == FLAT {
            return is_flat(cpu);
        }
        !cpu.alignment_checked && self.numbers.get(&key(cpu)) == Some(&world)
    }
}

/// Last offset that needs no closer look.
fn last_offset(s: &Segment, allowed: bool) -> i64 {
    let expands_down = s.attr & (attr::CODE | attr::DC) == attr::DC;
    if allowed && !expands_down { i64::from(s.limit) } else { -1 }
}

/// Tells translated code of the world and of the segments' limits.
pub(crate) fn publish(cpu: &mut CpuState, world: u32) {
    cpu.limits[12] = i64::from(world << WORLD_SHIFT);
    if world != FLAT {
        publish_limits(cpu);
    }
}

/// Tells translated code of the segments' limits.
pub(crate) fn publish_limits(cpu: &mut CpuState) {
    let real = cpu.real_or_vm86();
    for n in 0..cpu.seg.len() {
        let s = cpu.seg[n];
        cpu.limits[n] = last_offset(&s, s.is_readable());
        // In real mode and VM86 CS can be written, although its type may be that of code.
        cpu.limits[6 + n] = last_offset(&s, s.is_writable() || real && n == seg::CS);
    }
}
