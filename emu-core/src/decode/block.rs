//! Decoded blocks, cached by physical address and mode, dropped when their bytes are written.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::insn::Insn;
use crate::cpu::ModeKey;
use crate::mem::{CodeWrite, Memory, line_mask};

/// Index of a block in the cache.
pub type BlockId = u32;

/// Most instructions of one block.
pub const MAX_INSNS: usize = 64;

/// Entries of the direct-mapped lookup table.
const FAST_ENTRIES: usize = 1 << 15;

/// Above this many stored instructions the cache starts afresh (about 128 MiB). A compiler's run over a few files
/// decodes two million.
const MAX_STORED: usize = 4 << 20;

/// A run of instructions up to a control transfer or the end of its page. One cache line: an idle
/// guest's timer tick runs thousands of blocks that have gone cold.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct Block {
    key: u64,
    first: u32,
    /// Page that the last instruction continues in, or [`NO_PAGE`].
    second: u32,
    count: u16,
    bytes: u16,
    alive: bool,
    /// Where control went from here: each entry is good for one stamp.
    links: [Link; 2],
}

/// No physical page: the block ends in the page it begins in.
const NO_PAGE: u32 = u32::MAX;

const _: () = assert!(size_of::<Block>() == 64);

/// "From this block, EIP `eip` is block `to`" - as long as the engine's stamp is `stamp`.
#[derive(Clone, Copy, Debug)]
struct Link {
    eip: u32,
    stamp: u32,
    to: Run,
}

/// A block to run: where its instructions lie is known without looking at the block itself, so the
/// processor fetches both at once.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    id: BlockId,
    first: u32,
    count: u16,
}

impl Run {
    /// The block.
    #[inline(always)]
    pub fn id(self) -> BlockId {
        self.id
    }
}

/// A stamp no engine ever has.
const NO_STAMP: u32 = 0;

const NO_LINK: Link = Link { eip: 0, stamp: NO_STAMP, to: Run { id: 0, first: 0, count: 0 } };

impl Block {
    /// Instructions.
    #[inline(always)]
    pub fn count(&self) -> u32 {
        u32::from(self.count)
    }

    /// Length in guest bytes.
    #[inline(always)]
    pub fn bytes(&self) -> u32 {
        u32::from(self.bytes)
    }

    /// The last instruction continues in this physical page (which is not necessarily the next).
    #[inline(always)]
    pub fn second_page(&self) -> Option<u32> {
        (self.second != NO_PAGE).then_some(self.second)
    }

    /// How to run it.
    #[inline(always)]
    pub fn run(&self, id: BlockId) -> Run {
        Run { id, first: self.first, count: self.count }
    }

    /// Physical address of the first byte.
    pub fn phys(&self) -> u32 {
        self.key as u32
    }

    fn overlaps(&self, write: CodeWrite) -> bool {
        let offset = self.phys() & 0xFFF;
        let here = 0x1000 - offset;
        let bytes = self.bytes();
        if self.phys() >> 12 == write.pfn && line_mask(offset, bytes.min(here)) & write.lines != 0 {
            return true;
        }
        self.second == write.pfn && line_mask(0, bytes.saturating_sub(here)) & write.lines != 0
    }

    fn lines_in(&self, pfn: u32) -> u64 {
        let offset = self.phys() & 0xFFF;
        let here = 0x1000 - offset;
        let mut lines = 0;
        if self.phys() >> 12 == pfn {
            lines |= line_mask(offset, self.bytes().min(here));
        }
        if self.second == pfn {
            lines |= line_mask(0, self.bytes().saturating_sub(here));
        }
        lines
    }
}

#[derive(Clone, Copy)]
struct Fast {
    key: u64,
    id: BlockId,
}

const NO_KEY: u64 = u64::MAX;

/// A fast hash for what is looked up all the time. A guest can choose its addresses so that they collide, at its own
/// expense: how many there can be is bounded.
#[derive(Clone, Copy, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        // A table takes places from the low bits and tags from the high ones.
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, key: u32) {
        self.write_u64(u64::from(key));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = (self.0.rotate_left(5) ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// A map from places in guest code.
pub type KeyMap<K, V> = HashMap<K, V, BuildHasherDefault<KeyHasher>>;

/// All decoded blocks.
pub struct BlockCache {
    blocks: Vec<Block>,
    insns: Vec<Insn>,
    fast: Box<[Fast]>,
    by_key: KeyMap<u64, BlockId>,
    by_page: KeyMap<u32, Vec<BlockId>>,
    /// Blocks decoded and dropped, for statistics.
    pub decoded: u64,
    /// Blocks dropped because their bytes were written.
    pub invalidated: u64,
    /// Changes whenever a block dies: ids and links from before are void.
    pub generation: u32,
    /// Counts the times everything was dropped: all ids from before are void.
    pub clears: u32,
    /// Blocks dropped one by one since an engine took them; `None` if none asks for them.
    pub dropped: Option<Vec<BlockId>>,
}

impl Default for BlockCache {
    fn default() -> Self {
        Self::new()
    }
}

/// Key of the block that starts at physical address `phys` in `mode`.
#[inline(always)]
pub fn block_key(phys: u32, mode: ModeKey) -> u64 {
    u64::from(phys) | u64::from(mode.0) << 32
}

#[inline(always)]
fn slot(key: u64) -> usize {
    let k = key as u32;
    ((k ^ (k >> 13) ^ ((key >> 32) as u32).wrapping_mul(0x9E37)) as usize) & (FAST_ENTRIES - 1)
}

impl BlockCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self {
            blocks: Vec::new(),
            insns: Vec::new(),
            fast: vec![Fast { key: NO_KEY, id: 0 }; FAST_ENTRIES].into_boxed_slice(),
            by_key: KeyMap::default(),
            by_page: KeyMap::default(),
            decoded: 0,
            invalidated: 0,
            generation: 0,
            clears: 0,
            dropped: None,
        }
    }

    /// Finds a block.
    #[inline(always)]
    pub fn find(&mut self, key: u64) -> Option<BlockId> {
        let e = self.fast[slot(key)];
        if e.key == key { Some(e.id) } else { self.find_slow(key) }
    }

    #[cold]
    fn find_slow(&mut self, key: u64) -> Option<BlockId> {
        let id = *self.by_key.get(&key)?;
        self.fast[slot(key)] = Fast { key, id };
        Some(id)
    }

    /// The block with this key, without remembering that it was asked for.
    #[inline]
    pub fn peek(&self, key: u64) -> Option<BlockId> {
        let e = self.fast[slot(key)];
        if e.key == key { Some(e.id) } else { self.by_key.get(&key).copied() }
    }

    /// The block.
    #[inline(always)]
    pub fn block(&self, id: BlockId) -> &Block {
        &self.blocks[id as usize]
    }

    /// The block that follows `from` at `eip`, if that was seen under the same stamp.
    #[inline(always)]
    pub fn follow(&self, from: BlockId, eip: u32, stamp: u32) -> Option<Run> {
        let links = &self.blocks.get(from as usize)?.links;
        if links[0].eip == eip && links[0].stamp == stamp {
            Some(links[0].to)
        } else if links[1].eip == eip && links[1].stamp == stamp {
            Some(links[1].to)
        } else {
            None
        }
    }

    /// Touches what will run after `id` if control goes where it went last: a guest that wakes from
    /// idle runs cold code, and these loads overlap with the block that runs meanwhile.
    #[inline(always)]
    pub fn look_ahead(&self, id: BlockId) {
        if let Some(block) = self.blocks.get(id as usize) {
            let next = block.links[0].to;
            if let Some(insn) = self.insns.get(next.first as usize) {
                std::hint::black_box(insn.len);
            }
            if let Some(block) = self.blocks.get(next.id as usize) {
                std::hint::black_box(block.alive);
            }
        }
    }

    /// Remembers that `from` continued at `eip` with block `to`.
    pub fn link(&mut self, from: BlockId, eip: u32, to: Run, stamp: u32) {
        if let Some(block) = self.blocks.get_mut(from as usize) {
            block.links[1] = block.links[0];
            block.links[0] = Link { eip, stamp, to };
        }
    }

    /// Its instructions.
    #[inline(always)]
    pub fn insns(&self, run: Run) -> &[Insn] {
        let first = run.first as usize;
        &self.insns[first..first + usize::from(run.count)]
    }

    /// Adds a decoded block and marks its lines as code.
    pub fn insert(
        &mut self,
        mem: &mut Memory,
        key: u64,
        insns: &[Insn],
        bytes: u32,
        second_page: Option<u32>,
    ) -> BlockId {
        if self.insns.len() + insns.len() > MAX_STORED {
            self.clear(mem);
        }
        let id = self.blocks.len() as BlockId;
        let block = Block {
            key,
            first: self.insns.len() as u32,
            count: insns.len() as u16,
            bytes: bytes as u16,
            second: second_page.unwrap_or(NO_PAGE),
            alive: true,
            links: [NO_LINK; 2],
        };
        self.insns.extend_from_slice(insns);
        self.decoded += 1;
        for pfn in [Some(block.phys() >> 12), second_page].into_iter().flatten() {
            mem.mark_code(pfn, block.lines_in(pfn));
            self.by_page.entry(pfn).or_default().push(id);
        }
        self.blocks.push(block);
        self.by_key.insert(key, id);
        self.fast[slot(key)] = Fast { key, id };
        id
    }

    /// Drops the blocks that overlap a write.
    pub fn invalidate(&mut self, mem: &mut Memory, write: CodeWrite) {
        let Some(ids) = self.by_page.remove(&write.pfn) else {
            mem.set_code_lines(write.pfn, 0);
            return;
        };
        let mut kept = Vec::with_capacity(ids.len());
        let mut lines = 0;
        for id in ids {
            let block = &mut self.blocks[id as usize];
            if !block.alive {
                continue;
            }
            if block.overlaps(write) {
                block.alive = false;
                self.invalidated += 1;
                self.generation = self.generation.wrapping_add(1);
                if let Some(dropped) = &mut self.dropped {
                    dropped.push(id);
                }
                let key = block.key;
                self.by_key.remove(&key);
                let f = &mut self.fast[slot(key)];
                if f.key == key {
                    f.key = NO_KEY;
                }
            } else {
                lines |= block.lines_in(write.pfn);
                kept.push(id);
            }
        }
        if !kept.is_empty() {
            self.by_page.insert(write.pfn, kept);
        }
        mem.set_code_lines(write.pfn, lines);
    }

    /// Drops everything.
    pub fn clear(&mut self, mem: &mut Memory) {
        self.generation = self.generation.wrapping_add(1);
        self.clears = self.clears.wrapping_add(1);
        if let Some(dropped) = &mut self.dropped {
            dropped.clear();
        }
        for &pfn in self.by_page.keys() {
            mem.set_code_lines(pfn, 0);
        }
        self.blocks.clear();
        self.insns.clear();
        self.by_key.clear();
        self.by_page.clear();
        self.fast.fill(Fast { key: NO_KEY, id: 0 });
    }
}
