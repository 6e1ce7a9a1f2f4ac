//! Regions: what runs most is translated a second time, block by block along the way that control takes.
//!
//! The run loop sees the block at which a stay's budget ends, which is where the guest spends its time. A block
//! that it has entered often enough becomes the *head* of a region: from there the interpreter runs block by block
//! and the way is recorded, until it comes back to the head (a loop, which is then unrolled), leaves the page, or
//! meets something that is no direct branch. What was recorded is lowered as one block ([`crate::lower`]), to which
//! all branches to the head then lead. The head keeps its own translation, for budgets that do not cover a region.
//!
//! A region dies with any of its blocks. Which way is recorded depends only on what the guest executes, so it is the
//! same each time; besides, nothing that the guest can see depends on it.

use emu_core::decode::{BlockId, Insn};
use emu_core::mem::Memory;

use super::{FLAT_CODE, Home, Jit, MAX_RECORDS};
use crate::lazy::MAX_LAZY;
use crate::lower::{self, Ending, Inner, Lowered, Member, Place, ending};
use crate::options::Options;
use crate::parts::Part;
use crate::targets;

/// Most blocks of a region.
const MAX_BLOCKS: usize = 16;
/// Most instructions: the budget's immediate has a byte.
const MAX_INSNS: usize = 120;
/// Loops are unrolled up to so many instructions.
const UNROLLED: usize = 48;
/// And so many times.
const MAX_COPIES: usize = 4;
/// Ways that are recorded from a head before it is taken for one that makes no region.
const MAX_TRIES: u8 = 4;

/// The way from a head on, as far as it was taken.
pub(super) struct Recording {
    /// EIP of the head.
    eip: u32,
    blocks: Vec<BlockId>,
    insns: usize,
    /// It has come back to the head.
    closed: bool,
}

/// A region before it is lowered.
struct Trace {
    insns: Vec<Insn>,
    members: Vec<Member>,
    inner: Vec<Option<Inner>>,
    is_loop: bool,
}

impl Jit {
    /// The region that begins with a block, if there is one, instead of the block's own translation.
    #[inline]
    pub(super) fn best(&self, code: u32) -> u32 {
        match self.codes.get(code as usize) {
            Some(c) if c.partner != 0 && !c.is_region => c.partner - 1,
            _ => code,
        }
    }

    /// The translation to enter at a block; `None` to let the interpreter run it.
    #[inline]
    pub(super) fn choose(
        &mut self,
        id: BlockId,
        home: Home,
        limit: u32,
        eip: u32,
        mem: &Memory,
    ) -> Option<u32> {
        // Regions are for flat segments.
        if !home.is_flat() {
            self.recording = None;
            return self.code(id, home, limit, mem);
        }
        if self.recording.is_some() && self.follow(id, mem) {
            return None;
        }
        let code = self.code(id, home, limit, mem)?;
        let threshold = self.options.region_threshold;
        if threshold == Options::NEVER {
            return Some(code);
        }
        let slot = self.slots.get_mut(id as usize)?;
        slot.entered = slot.entered.saturating_add(1);
        if slot.entered <= threshold || !self.start(id, eip, code) {
            return Some(code);
        }
        None
    }

    /// Begins to record. The block's instructions are to be interpreted then.
    #[cold]
    fn start(&mut self, id: BlockId, eip: u32, code: u32) -> bool {
        let slot = &mut self.slots[id as usize];
        slot.entered = 0;
        // It has taken ways of which none made a region.
        if slot.tries >= MAX_TRIES {
            return false;
        }
        let wanted = [Part::Regions, Part::Links, Part::Branches, Part::Integer];
        if !self.options.native
            || !self.options.link
            || !wanted.into_iter().all(|part| self.options.has(part))
            || self.codes.get(code as usize).is_none_or(|c| c.partner != 0)
        {
            return false;
        }
        self.slots[id as usize].tries += 1;
        let insns = self.core.cache().block(id).count() as usize;
        self.recording = Some(Recording { eip, blocks: vec![id], insns, closed: false });
        true
    }

    /// Control has come to a block while a way is being recorded. False if the recording ends here; the region is
    /// there then, if it is worth one.
    #[cold]
    fn follow(&mut self, id: BlockId, mem: &Memory) -> bool {
        let Some(mut recording) = self.recording.take() else { return false };
        let block = self.core.cache().block(id);
        let count = block.count() as usize;
        let has_region = || {
            let code = self.slots.get(id as usize).map_or(0, |slot| slot.code[FLAT_CODE]);
            code != 0 && self.codes.get(code as usize - 1).is_some_and(|c| c.partner != 0)
        };
        let last = recording.blocks.last().copied().unwrap_or(id);
        let joined = self.joint(last, id, mem).is_some();
        recording.closed = joined && recording.blocks.first() == Some(&id);
        let goes_on = joined
            && !recording.closed
            && recording.blocks.len() < MAX_BLOCKS
            && recording.insns + count <= MAX_INSNS
            && !recording.blocks.contains(&id)
            && !has_region();
        if goes_on {
            recording.blocks.push(id);
            recording.insns += count;
            self.recording = Some(recording);
        } else if !mem.has_code_writes() {
            self.make_region(&recording, mem);
        }
        goes_on
    }

    /// How control gets from one block to another in the same page. `None` if it cannot within a region.
    fn joint(&self, from: BlockId, to: BlockId, mem: &Memory) -> Option<Option<Inner>> {
        let cache = self.core.cache();
        let (a, b) = (cache.block(from), cache.block(to));
        if a.phys() >> 12 != b.phys() >> 12 || b.second_page().is_some() || a.second_page().is_some() {
            return None;
        }
        let last = cache.insns(a.run(from)).last()?;
        let bytes = mem.ram().get(u64::from(a.phys()), a.bytes() as usize)?;
        let start = b.phys() & 0xFFF;
        match ending(last, bytes, a.phys() & 0xFFF) {
            Ending::Through(next) if next == start => Some(None),
            Ending::Jump(target) if target == start => Some(Some(Inner::Jump)),
            Ending::Branch { next, .. } if next == start => Some(Some(Inner::NotTaken)),
            Ending::Branch { target, .. } if target == start => Some(Some(Inner::Taken)),
            _ => None,
        }
    }

    /// Instructions of a recorded way as one list. Their ends count from the start of the page.
    fn trace(&self, recording: &Recording, mem: &Memory) -> Option<Trace> {
        let cache = self.core.cache();
        let copies = match recording.closed {
            true => (UNROLLED / recording.insns.max(1)).clamp(1, MAX_COPIES),
            false => 1,
        };
        let blocks = recording.blocks.repeat(copies);
        if blocks.len() < 2 {
            return None;
        }
        let mut trace =
            Trace { insns: Vec::new(), members: Vec::new(), inner: Vec::new(), is_loop: recording.closed };
        for (n, &id) in blocks.iter().enumerate() {
            let block = cache.block(id);
            trace.members.push(Member { block: id, first: trace.insns.len() });
            let in_page = (block.phys() & 0xFFF) as u16;
            let own = cache.insns(block.run(id)).iter();
            trace.insns.extend(own.map(|insn| Insn { end: in_page + insn.end, ..*insn }));
            trace.inner.resize(trace.insns.len(), None);
            if let Some(&next) = blocks.get(n + 1) {
                let inner = self.joint(id, next, mem)?;
                *trace.inner.last_mut()? = inner;
                if inner.is_some() {
                    // It does not end the trace.
                    trace.insns.last_mut()?.flags &= !Insn::ENDS_BLOCK;
                }
            }
        }
        (trace.insns.len() <= MAX_INSNS).then_some(trace)
    }

    fn lower_region(&self, trace: &Trace, mem: &Memory) -> Option<Lowered> {
        let phys = self.core.cache().block(trace.members.first()?.block).phys();
        let page = mem.ram().get(u64::from(phys & !0xFFF), 0x1000)?;
        let place = Place {
            cache: &self.cache,
            routines: &self.routines,
            in_page: 0,
            entry: phys & 0xFFF,
            pfn: phys >> 12,
            second: None,
            members: &trace.members,
            inner: &trace.inner,
            is_loop: trace.is_loop,
            first_site: self.sites.len(),
            first_edge: self.edges.len(),
            features: self.features,
        };
        let lowered = lower::translate(place, page, &trace.insns)?;
        self.check(&lowered);
        Some(lowered)
    }

    fn make_region(&mut self, recording: &Recording, mem: &Memory) -> Option<()> {
        let trace = self.trace(recording, mem)?;
        let head = *recording.blocks.first()?;
        let of = self.slots.get(head as usize)?.code[FLAT_CODE].checked_sub(1)?;
        let full = self.lazies.list().len() + trace.members.len() + 1 > MAX_LAZY
            || self.sites.len() > MAX_RECORDS
            || self.edges.len() > MAX_RECORDS;
        if full {
            return None;
        }
        let mut lowered = self.lower_region(&trace, mem)?;
        let first = self.codes.get(of as usize)?;
        let home = first.home;
        // What enters the region may be sent on to its first block.
        lowered.entry = lowered.entry.zip(first.lazy_entry).map(|(a, b)| a | b);
        let target = first.entry;
        // Without room for it there will soon be room for everything.
        let at = self.cache.append_both(&lowered.code, lowered.hot)?;
        let first_edge = self.edges.len();
        let number = self.install(head, home, at, &lowered, "region");
        let hot = lowered.hot as u32;
        if let Some(jump) = lowered.fallback {
            let place = if jump < hot { at.0 + jump } else { at.1 + (jump - hot) };
            self.cache.patch_branch(place, target);
        }
        self.stats.regions += 1;
        self.stats.region_instructions += trace.insns.len() as u64;
        if let Some(region) = self.codes.get_mut(number as usize) {
            region.partner = of + 1;
        }
        let incoming = match self.codes.get_mut(of as usize) {
            Some(first) => {
                first.partner = number + 1;
                first.incoming.clone()
            }
            None => Vec::new(),
        };
        for &block in &recording.blocks {
            self.members.entry(block).or_default().push(number);
        }
        // Branches to the head lead to the region from now on.
        let phys = self.core.cache().block(head).phys();
        for edge in incoming {
            if self.edges.get(edge as usize).is_some_and(|edge| edge.to == of) {
                self.link_edge(edge, of, phys >> 12);
            }
        }
        let address = self.cache.address(at.0) as u64;
        let slot = &mut self.targets[targets::place(recording.eip)];
        if slot.eip == recording.eip && slot.address == self.cache.address(target) as u64 {
            slot.address = address;
        }
        self.link_new(first_edge, number, phys);
        Some(())
    }

    /// A block is gone, and with it all regions that it is part of.
    pub(super) fn kill_regions(&mut self, id: BlockId) {
        for number in self.members.remove(&id).unwrap_or_default() {
            let Some(region) = self.codes.get(number as usize) else { continue };
            let of = region.partner.wrapping_sub(1);
            let Some(first) = self.codes.get_mut(of as usize) else { continue };
            if first.partner == number + 1 {
                first.partner = 0;
                self.kill(number);
                self.stats.dropped -= 1;
                self.stats.regions_dropped += 1;
            }
        }
    }
}
