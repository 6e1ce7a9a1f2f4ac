//! Branches of translated code that lead straight to other translations.

use emu_core::cpu::{CpuState, seg};
use emu_core::decode::BlockId;
use emu_core::decode::block::block_key;

use super::{Jit, Origin};
use crate::lazy;
use crate::parts::Part;
use crate::segments::WORLD_SHIFT;
use crate::targets::{self, Target};

impl Jit {
    /// Remembers how the last stay in translated code ended: control now goes to block `id`, which has
    /// translation `code`.
    pub(super) fn link(&mut self, from: Origin, id: BlockId, code: u32, cpu: &CpuState) {
        if !self.options.link
            || matches!(from, Origin::Edge(_)) && !self.options.has(Part::Links)
            || matches!(from, Origin::Target) && !self.options.has(Part::Indirect)
        {
            return;
        }
        let pfn = self.core.cache().block(id).phys() >> 12;
        match from {
            Origin::None => {}
            Origin::Edge(number) => self.link_edge(number, code, pfn),
            Origin::Target => {
                let Some(target) = self.codes.get(self.best(code) as usize) else { return };
                self.stats.targets += 1;
                let address = self.cache.address(target.entry) as u64;
                let slot = &mut self.targets[targets::place(cpu.seg[seg::CS].base.wrapping_add(cpu.eip))];
                let code_entry = (pfn + 1) | target.home.world << WORLD_SHIFT;
                *slot = Target { eip: cpu.eip, code_entry, address };
            }
        }
    }

    /// Makes an edge lead to a translation, which lies in physical page `pfn`.
    pub(super) fn link_edge(&mut self, number: u32, code: u32, pfn: u32) {
        let Some(&edge) = self.edges.get(number as usize) else { return };
        let code = self.best(code);
        let Some(target) = self.codes.get(code as usize) else { return };
        let near = edge.code_entry.is_none();
        if near && edge.pfn != pfn
            || edge.home.world != target.home.world
            || near && edge.home.page_base != target.home.page_base
        {
            return;
        }
        if edge.to != code {
            let entry = if edge.again == Some(code) { target.again } else { target.entry };
            let to = match edge.lazy.and_then(|marker| self.lazies.get(marker)) {
                None => entry,
                Some(lazy) if target.lazy_entry.is_some_and(|early| lazy.registers() & early == 0) => entry,
                Some(lazy) => {
                    let bridge = lazy::bridge(lazy, self.cache.address(entry), self.cache.next_address());
                    // Without room the edge stays as it is.
                    let Some(at) = bridge.and_then(|code| self.cache.append(&code)) else { return };
                    at
                }
            };
            self.stats.linked += 1;
            self.edges[number as usize].to = code;
            self.codes[code as usize].incoming.push(number);
            self.cache.patch_branch(edge.branch, to);
        }
        // Also where it was linked already: its page was not in the view.
        if let Some(at) = edge.code_entry {
            self.cache.patch(at, &(pfn + 1).to_le_bytes());
        }
    }

    /// Links the edges of a new translation to what is there, and what waits for it to it.
    pub(super) fn link_new(&mut self, first_edge: usize, code: u32, phys: u32) {
        if !self.options.link || !self.options.has(Part::Links) {
            return;
        }
        let home = self.codes[code as usize].home;
        for edge in self.waiting.remove(&home.waiting_key(phys)).unwrap_or_default() {
            self.link_edge(edge, code, phys >> 12);
        }
        for number in first_edge..self.edges.len() {
            let edge = self.edges[number];
            let Some(offset) = edge.target else { continue };
            let to = edge.pfn << 12 | offset;
            let id = self.core.cache().peek(block_key(to, home.mode));
            match id.and_then(|id| self.slots.get(id as usize)).map(|slot| slot.code[home.kind()]) {
                Some(there) if there != 0 => self.link_edge(number as u32, there - 1, edge.pfn),
                _ => self.waiting.entry(home.waiting_key(to)).or_default().push(number as u32),
            }
        }
    }
}
