//! Memory operands with 32-bit addresses: a place is chosen first, then a way to address it.

use crate::gen_int::Rng;
use crate::{ARENA, ARENA_LEN, State};

/// General registers whose contents a generator no longer knows: bit n is register n.
pub type Unknown = u8;

/// Appends ModRM (with `reg`), SIB and displacement that address `at`. No base or index is `unknown`;
/// if nothing `ran` before, a register may be moved so that a short displacement reaches.
pub fn encode(
    rng: &mut Rng,
    code: &mut Vec<u8>,
    reg: u8,
    at: u32,
    state: &mut State,
    unknown: Unknown,
    ran: bool,
) {
    let base = rng.below(8) as u8;
    let known = unknown >> base & 1 == 0;
    let distance = at.wrapping_sub(state.gpr[usize::from(base)]);
    match rng.below(4) {
        1 if known && base != 4 && !ran => {
            let short = rng.next_u64() as i8;
            state.gpr[usize::from(base)] = at.wrapping_sub(short as u32);
            code.extend_from_slice(&[0x40 | reg << 3 | base, short as u8]);
        }
        2 if known && base != 4 => {
            code.push(0x80 | reg << 3 | base);
            code.extend_from_slice(&distance.to_le_bytes());
        }
        3 if known => {
            let index = rng.below(8) as u8;
            let scale = rng.below(4) as u8;
            // Index 4 is none.
            let rest = match index {
                4 => distance,
                _ if unknown >> index & 1 != 0 => return absolute(code, reg, at),
                _ => distance.wrapping_sub(state.gpr[usize::from(index)] << scale),
            };
            code.extend_from_slice(&[0x84 | reg << 3, scale << 6 | index << 3 | base]);
            code.extend_from_slice(&rest.to_le_bytes());
        }
        _ => absolute(code, reg, at),
    }
}

fn absolute(code: &mut Vec<u8>, reg: u8, at: u32) {
    code.push(reg << 3 | 5);
    code.extend_from_slice(&at.to_le_bytes());
}

/// A place for `len` bytes: anywhere in the arena, often across a page boundary or over an end.
pub fn place(rng: &mut Rng, len: u32) -> u32 {
    match rng.below(16) {
        0 | 1 => ARENA + 0x1000 * (1 + rng.below(3)) - rng.below(len + 1),
        2 => ARENA + ARENA_LEN - rng.below(len + 1),
        3 => (ARENA + 8).wrapping_sub(rng.below(len + 9)),
        _ => ARENA + rng.below(ARENA_LEN - len),
    }
}

/// Writes to the arena as far as `at` lies there.
pub fn put(state: &mut State, at: u32, bytes: &[u8]) {
    let offset = at.wrapping_sub(ARENA) as usize;
    if let Some(cells) = state.arena.get_mut(offset..offset.wrapping_add(bytes.len())) {
        cells.copy_from_slice(bytes);
        return;
    }
    for (n, b) in bytes.iter().enumerate() {
        if let Some(cell) = state.arena.get_mut(offset.wrapping_add(n) & 0xFFFF_FFFF) {
            *cell = *b;
        }
    }
}

/// Memory operands of a program, to be filled anew for another run of it.
pub struct Places<K: Copy> {
    list: [Option<(u32, K)>; 9],
    len: usize,
}

impl<K: Copy> Default for Places<K> {
    fn default() -> Self {
        Self { list: [None; 9], len: 0 }
    }
}

impl<K: Copy> Places<K> {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Remembers one; more than a program has are not kept.
    pub fn push(&mut self, at: u32, kind: K) {
        if let Some(slot) = self.list.get_mut(self.len) {
            *slot = Some((at, kind));
            self.len += 1;
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u32, K)> + '_ {
        self.list[..self.len].iter().flatten().copied()
    }
}

/// Hands on the part of `bytes` that lies in the arena.
pub fn clipped(at: u32, bytes: &[u8], store: &mut dyn FnMut(u32, &[u8])) {
    let skip = ARENA.saturating_sub(at) as usize;
    let end = (ARENA + ARENA_LEN).saturating_sub(at) as usize;
    if let Some(part) = bytes.get(skip..end.min(bytes.len())).filter(|p| !p.is_empty()) {
        store(at + skip as u32, part);
    }
}
