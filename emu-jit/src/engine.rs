//! The run loop, and the bookkeeping of translations and links.

mod links;
mod regions;
mod stats;

use std::io;

use emu_core::bus::SystemBus;
use emu_core::cpu::ModeKey;
use emu_core::cpu::{CpuState, flags, seg};
use emu_core::decode::block::{Block, KeyMap, MAX_INSNS, block_key};
use emu_core::decode::{BlockId, Insn};
use emu_core::engine::{Counter, CpuEngine, EngineStats, Exit};
use emu_core::interp::{Env, Fetched, Interpreter};
use emu_core::mem::Memory;

use crate::calls::Calls;
use crate::code::CodeCache;
use crate::counts::Counts;
use crate::descriptors::Descriptors;
use crate::entry::{Left, Routines, Site};
use crate::lazy::{Lazies, MAX_LAZY};
use crate::listing::{self, Layout, Listing};
use crate::lower::{self, Features, Member, Place};
use crate::options::Options;
use crate::parts::Part;
use crate::segments::{FLAT, Segmented, Worlds};
use crate::targets::{NO_TARGET, TARGET_COUNT, Target};
use crate::verify;

pub use stats::JitStats;

/// What is known of a decoded block.
#[derive(Clone, Copy, Default)]
struct Slot {
    runs: u16,
    /// Times the run loop has entered its translation for flat segments.
    entered: u16,
    /// Ways that were recorded from there.
    tries: u8,
    /// Times it ran in another world, or at another EIP, than it was translated for.
    strayed: u16,
    /// Numbers + 1 of its translations for flat segments and for others; 0 = none.
    code: [u32; 2],
}

/// A translation.
struct Code {
    entry: u32,
    dead: u32,
    block: BlockId,
    home: Home,
    /// Lengths of the hot and the cold part.
    lens: (u32, u32),
    /// Where the cold part lies.
    cold: u32,
    /// See [`lower::Lowered::entry`].
    lazy_entry: Option<u16>,
    /// Edges that lead here.
    incoming: Vec<u32>,
    /// Of a block: number of the region that begins with it + 1; 0 = none. Of a region: number of its first block's
    /// own translation + 1.
    partner: u32,
    is_region: bool,
    /// See [`lower::Lowered::again`].
    again: u32,
}

/// Which of a block's translations is the one for flat segments.
const FLAT_CODE: usize = 0;

/// What a translation is for besides its block.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Home {
    /// See [`Worlds`].
    world: u32,
    /// EIP of the first byte of the page; 0 if segments are flat, where it may be any.
    page_base: u32,
    mode: ModeKey,
}

impl Home {
    fn is_flat(self) -> bool {
        self.world == FLAT
    }

    /// Which of a block's translations it is.
    fn kind(self) -> usize {
        if self.is_flat() { FLAT_CODE } else { 1 }
    }

    /// Of a block that waits for a translation.
    fn waiting_key(self, phys: u32) -> u64 {
        block_key(phys, self.mode) | (self.kind() as u64) << 40
    }
}

/// Times a block may run in other circumstances before it is translated again for these.
const MAX_STRAYED: u16 = 64;

/// A direct branch in emitted code.
#[derive(Clone, Copy)]
struct Edge {
    branch: u32,
    stub: u32,
    code_entry: Option<u32>,
    /// Physical page of the branch.
    pfn: u32,
    home: Home,
    /// Translation it is linked to, or [`UNLINKED`].
    to: u32,
    /// Marker of lazy flags.
    lazy: Option<u16>,
    /// Offset of the target in the same page.
    target: Option<u32>,
    /// See [`lower::EdgeCode::again`], with the number of the region that it belongs to.
    again: Option<u32>,
}

/// No translation has this number.
const UNLINKED: u32 = u32::MAX;

/// Never equal to a code entry.
const NO_CODE_ENTRY: u32 = u32::MAX;

/// The translating engine.
pub struct Jit {
    core: Interpreter,
    options: Options,
    features: Features,
    cache: CodeCache,
    routines: Routines,
    slots: Vec<Slot>,
    codes: Vec<Code>,
    edges: Vec<Edge>,
    sites: Vec<Site>,
    lazies: Lazies,
    /// Edges to blocks that have no translation yet, by physical address.
    waiting: KeyMap<u64, Vec<u32>>,
    targets: Box<[Target]>,
    /// [`emu_core::decode::BlockCache::clears`] as of the last look.
    clears: u32,
    stats: JitStats,
    counts: Box<Counts>,
    descriptors: Descriptors,
    worlds: Worlds,
    calls: Box<Calls>,
    symbols: Option<Symbols>,
    recording: Option<regions::Recording>,
    /// Regions that a block is part of.
    members: KeyMap<BlockId, Vec<u32>>,
}

/// Takes host address, length and name of what was translated.
type Symbols = Box<dyn FnMut(usize, usize, &str) + Send>;

/// Most edges or sites; reaching it drops all translations.
const MAX_RECORDS: usize = 4 << 20;

impl Jit {
    /// An engine with default options.
    ///
    /// # Errors
    /// The host gives no memory that may be executed.
    pub fn new() -> io::Result<Self> {
        Self::with_options(Options::default())
    }

    /// An engine.
    ///
    /// # Errors
    /// The host gives no memory that may be executed.
    pub fn with_options(options: Options) -> io::Result<Self> {
        let mut cache = CodeCache::new(options.cache_bytes.max(64 << 10).next_multiple_of(4096))?;
        let Some(routines) = Routines::emit(&mut cache) else {
            return Err(io::Error::other("the code cache is too small"));
        };
        let mut core = Interpreter::new();
        core.cache_mut().dropped = Some(Vec::new());
        Ok(Self {
            clears: core.cache().clears,
            core,
            features: Features {
                segmented: None,
                bmi2: std::arch::is_x86_feature_detected!("bmi2") && options.has(Part::Bmi2),
                native: options.native,
                without: options.without,
                poison: options.poison,
                count: options.count,
            },
            options,
            cache,
            routines,
            slots: Vec::new(),
            codes: Vec::new(),
            edges: Vec::new(),
            sites: Vec::new(),
            lazies: Lazies::default(),
            waiting: KeyMap::default(),
            targets: vec![NO_TARGET; TARGET_COUNT].into_boxed_slice(),
            stats: JitStats::default(),
            counts: Counts::new(options.has(Part::Looks)),
            descriptors: Descriptors::default(),
            worlds: Worlds::new(options.has(Part::Segments)),
            calls: Calls::new(),
            symbols: None,
            recording: None,
            members: KeyMap::default(),
        })
    }

    /// Counters since construction.
    pub fn jit_stats(&self) -> JitStats {
        JitStats {
            calls: self.counts.total(false),
            slow: self.counts.total(true),
            attention: self.counts.attention,
            refused: self.counts.refused,
            ..self.stats
        }
    }

    /// Interpreter functions called from host code, by mnemonic, most frequent first: instructions without
    /// a lowering, or (`slow`) with one whose conditions did not hold.
    pub fn calls_by_mnemonic(&self, slow: bool) -> Vec<(String, u64)> {
        self.counts.by_mnemonic(slow)
    }

    /// Tells names of translations from now on, for profilers: the guest-physical address of the block.
    pub fn set_symbols(&mut self, mut symbols: impl FnMut(usize, usize, &str) + Send + 'static) {
        let routines = self.routines.start(&self.cache);
        symbols(routines.0, routines.1, "translated-shared");
        self.symbols = Some(Box::new(symbols));
    }

    /// All translations that are alive, in the order in which they were made.
    pub fn listings(&self, mem: &Memory) -> Vec<Listing> {
        let is_alive = |(n, code): &(usize, &Code)| {
            let own = |number: usize, home: Home| {
                self.slots
                    .get(code.block as usize)
                    .is_some_and(|slot| slot.code[home.kind()] as usize == number + 1)
            };
            match code.is_region {
                false => own(*n, code.home),
                true => {
                    let of = (code.partner as usize).wrapping_sub(1);
                    own(of, code.home)
                        && self.codes.get(of).is_some_and(|first| first.partner as usize == n + 1)
                }
            }
        };
        let alive = self.codes.iter().enumerate().filter(is_alive);
        let lists = alive.filter_map(|(_, code)| {
            let block = self.core.cache().block(code.block);
            let guest = guest_bytes(block, mem)?;
            let hot = self.cache.read(code.entry, code.lens.0)?;
            let cold = self.cache.read(code.cold, code.lens.1)?;
            let layout = Layout {
                address: self.cache.address(code.entry),
                hot: hot.len(),
                cold_address: self.cache.address(code.cold),
                len: hot.len() + cold.len(),
            };
            let host = [hot, cold].concat();
            Some(Listing {
                phys: block.phys(),
                region: code.is_region,
                guest_text: listing::guest_text_of(
                    if code.home.mode.code32() { 32 } else { 16 },
                    &guest,
                    block.phys() & 0xFFF,
                ),
                host_text: listing::host_text(&host, layout, &self.routines),
                guest,
                address: layout.address,
                host,
            })
        });
        lists.collect()
    }

    /// Drops all translations; decoded blocks stay.
    fn drop_all(&mut self) {
        self.cache.reset();
        self.calls.forget();
        self.codes.clear();
        self.edges.clear();
        self.sites.clear();
        self.lazies.clear();
        self.waiting.clear();
        self.targets.fill(NO_TARGET);
        self.recording = None;
        self.members.clear();
        for slot in &mut self.slots {
            slot.code = [0; 2];
            slot.entered = 0;
            slot.tries = 0;
        }
        self.stats.flushes += 1;
    }

    /// Drops the translations of blocks that are gone. To be called before translated code is entered
    /// or linked, whenever blocks may have died.
    fn follow_core(&mut self) {
        if self.core.cache().clears != self.clears {
            self.clears = self.core.cache().clears;
            self.drop_all();
            self.slots.clear();
        }
        let Some(dropped) = &mut self.core.cache_mut().dropped else { return };
        if dropped.is_empty() {
            return;
        }
        self.recording = None;
        for id in std::mem::take(dropped) {
            self.kill_regions(id);
            if let Some(slot) = self.slots.get_mut(id as usize) {
                slot.tries = 0;
                for code in std::mem::take(&mut slot.code) {
                    if code != 0 {
                        self.kill(code - 1);
                    }
                }
            }
        }
    }

    /// A translation must not be entered any more.
    fn kill(&mut self, number: u32) {
        let Some(code) = self.codes.get_mut(number as usize) else { return };
        let (entry, dead) = (code.entry, code.dead);
        let incoming = std::mem::take(&mut code.incoming);
        self.calls.forget();
        self.cache.patch(entry, &[0xE9]);
        self.cache.patch_branch(entry + 1, dead);
        for edge in incoming {
            if let Some(edge) = self.edges.get_mut(edge as usize)
                && edge.to == number
            {
                edge.to = UNLINKED;
                self.stats.unlinked += 1;
                self.cache.patch_branch(edge.branch, edge.stub);
                if let Some(at) = edge.code_entry {
                    self.cache.patch(at, &NO_CODE_ENTRY.to_le_bytes());
                }
            }
        }
        self.stats.dropped += 1;
    }

    /// What a translation for the current state is for, of a block that starts `in_page` bytes into its page.
    #[inline]
    fn home(&mut self, cpu: &CpuState, id: BlockId) -> Option<Home> {
        match self.worlds.current(cpu)? {
            FLAT => Some(Home { mode: cpu.mode, ..Home::default() }),
            world => {
                let in_page = self.core.cache().block(id).phys() & 0xFFF;
                Some(Home { world, page_base: cpu.eip.wrapping_sub(in_page), mode: cpu.mode })
            }
        }
    }

    /// The translation of a block, made now if it is due.
    #[inline]
    fn code(&mut self, id: BlockId, home: Home, limit: u32, mem: &Memory) -> Option<u32> {
        let n = id as usize;
        if n >= self.slots.len() {
            self.slots.resize(n + 1, Slot::default());
        }
        let slot = &mut self.slots[n];
        let there = slot.code[home.kind()];
        if there != 0 {
            if home.kind() == 0 || self.codes[there as usize - 1].home == home {
                return Some(there - 1);
            }
            slot.strayed += 1;
            if slot.strayed < MAX_STRAYED || mem.has_code_writes() {
                return None;
            }
            slot.strayed = 0;
            slot.code[home.kind()] = 0;
            self.kill(there - 1);
            return self.translate(id, home, limit, mem);
        }
        slot.runs = slot.runs.saturating_add(1).min(Options::NEVER - 1);
        if slot.runs < self.options.threshold || mem.has_code_writes() {
            return None;
        }
        self.translate(id, home, limit, mem)
    }

    #[cold]
    fn translate(&mut self, id: BlockId, home: Home, limit: u32, mem: &Memory) -> Option<u32> {
        let lazies = self.lazies.list().len() + MAX_INSNS;
        if self.sites.len() > MAX_RECORDS || self.edges.len() > MAX_RECORDS || lazies > MAX_LAZY {
            self.drop_all();
        }
        let lowered = match self.lower(id, home, limit, mem) {
            Some(lowered) => lowered,
            None => {
                // Something the lowering does not expect: leave the block to the interpreter for long.
                self.slots[id as usize].runs = 0;
                return None;
            }
        };
        let at = match self.cache.append_both(&lowered.code, lowered.hot) {
            Some(at) => at,
            None => {
                // Addresses in the code depend on where it lies, and numbers on what there is.
                self.drop_all();
                let lowered = self.lower(id, home, limit, mem)?;
                let at = self.cache.append_both(&lowered.code, lowered.hot)?;
                return Some(self.record(id, home, at, lowered));
            }
        };
        Some(self.record(id, home, at, lowered))
    }

    fn lower(&self, id: BlockId, home: Home, limit: u32, mem: &Memory) -> Option<lower::Lowered> {
        let block = self.core.cache().block(id);
        let insns = self.core.cache().insns(block.run(id));
        if block.second_page().is_some() && !home.is_flat() {
            return None;
        }
        let bytes = guest_bytes(block, mem)?;
        let segmented = (!home.is_flat()).then(|| Segmented {
            mode: home.mode,
            eip: home.page_base.wrapping_add(block.phys() & 0xFFF),
            limit,
        });
        let place = Place {
            cache: &self.cache,
            routines: &self.routines,
            in_page: block.phys() & 0xFFF,
            entry: block.phys() & 0xFFF,
            pfn: block.phys() >> 12,
            second: block.second_page(),
            members: &[Member { block: id, first: 0 }],
            inner: &[],
            is_loop: false,
            first_site: self.sites.len(),
            first_edge: self.edges.len(),
            features: Features { segmented, ..self.features },
        };
        let lowered = lower::translate(place, &bytes, insns)?;
        self.check(&lowered);
        Some(lowered)
    }

    /// Verifies code that is about to be appended, if that is wanted.
    fn check(&self, lowered: &lower::Lowered) {
        let cold_len = lowered.code.len() - lowered.hot;
        if self.options.verify
            // Without room it is translated again.
            && let Some(cold) = self.cache.room(lowered.hot, cold_len)
        {
            let layout = Layout {
                address: self.cache.next_address(),
                hot: lowered.hot,
                cold_address: self.cache.address(cold),
                len: lowered.code.len(),
            };
            verify::check(lowered, layout, &self.routines);
        }
    }

    fn record(&mut self, id: BlockId, home: Home, at: (u32, u32), lowered: lower::Lowered) -> u32 {
        let phys = self.core.cache().block(id).phys();
        self.stats.translated += 1;
        self.stats.instructions += u64::from(self.core.cache().block(id).count());
        self.stats.native += u64::from(lowered.native);
        let first_edge = self.edges.len();
        let number = self.install(id, home, at, &lowered, "guest");
        self.slots[id as usize].code[home.kind()] = number + 1;
        self.link_new(first_edge, number, phys);
        number
    }

    /// Enters code that was appended into the lists. Its number.
    fn install(
        &mut self,
        id: BlockId,
        home: Home,
        at: (u32, u32),
        lowered: &lower::Lowered,
        kind: &str,
    ) -> u32 {
        let (entry, cold) = at;
        let hot = lowered.hot as u32;
        let place = |at: u32| if at < hot { entry + at } else { cold + (at - hot) };
        let block = self.core.cache().block(id);
        let phys = block.phys();
        let pfn = phys >> 12;
        self.stats.bytes += lowered.code.len() as u64;
        self.sites.extend_from_slice(&lowered.sites);
        for &(at, lazy) in &lowered.markers {
            let marker = self.lazies.marker(lazy);
            self.cache.patch(place(at), &marker.to_le_bytes());
        }
        let number = self.codes.len() as u32;
        let is_region = lowered.fallback.is_some();
        let lazies = &mut self.lazies;
        self.edges.extend(lowered.edges.iter().map(|e| Edge {
            branch: place(e.branch),
            stub: place(e.stub),
            code_entry: e.code_entry.map(place),
            pfn,
            home,
            to: UNLINKED,
            lazy: e.lazy.map(|lazy| lazies.marker(lazy)),
            target: e.target,
            again: (e.again && is_region).then_some(number),
        }));
        let lens = (hot, lowered.code.len() as u32 - hot);
        if let Some(symbols) = &mut self.symbols {
            let name = format!("{kind}-{phys:08x}");
            symbols(self.cache.address(entry), lens.0 as usize, &name);
            symbols(self.cache.address(cold), lens.1 as usize, &format!("{name}-cold"));
        }
        let (dead, lazy_entry) = (place(lowered.dead), lowered.entry);
        self.codes.push(Code {
            entry,
            dead,
            block: id,
            home,
            lens,
            cold,
            lazy_entry,
            incoming: Vec::new(),
            partner: 0,
            is_region,
            again: entry + lowered.again,
        });
        number
    }

    /// Runs instructions of a block in the interpreter, as many as the budget allows.
    #[inline]
    fn interpret(
        &mut self,
        cpu: &mut CpuState,
        env: &mut Env<'_>,
        base: u32,
        range: (BlockId, usize),
        end: u64,
    ) -> Option<emu_core::cpu::Trap> {
        let (id, first) = range;
        let cache = self.core.cache();
        let insns: &[Insn] = cache.insns(cache.block(id).run(id)).get(first..).unwrap_or(&[]);
        let left = end - cpu.retired;
        let n = insns.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        env.limit = n as u32;
        let before = cpu.retired;
        let trap = Interpreter::run_rest(cpu, env, base, &insns[..n]);
        self.stats.interpreted += cpu.retired - before;
        trap
    }
}

/// The guest code of a block.
fn guest_bytes(block: &Block, mem: &Memory) -> Option<Vec<u8>> {
    let (phys, len) = (block.phys(), block.bytes() as usize);
    let here = len.min(0x1000 - (phys & 0xFFF) as usize);
    let mut bytes = mem.ram().get(u64::from(phys), here)?.to_vec();
    if let Some(second) = block.second_page() {
        bytes.extend_from_slice(mem.ram().get(u64::from(second) << 12, len - here)?);
    }
    Some(bytes)
}

/// Where control came from.
#[derive(Clone, Copy)]
enum Origin {
    None,
    /// An unlinked edge.
    Edge(u32),
    /// An indirect branch whose target was not in the table.
    Target,
}

impl CpuEngine for Jit {
    fn run(&mut self, cpu: &mut CpuState, mem: &mut Memory, sys: &mut dyn SystemBus, budget: u64) -> Exit {
        let end = cpu.retired.saturating_add(budget);
        let mut stats = std::mem::take(self.core.stats_mut());
        let mut env =
            Env { mem, sys, index: 0, limit: 0, attention: true, touched_device: false, stats: &mut stats };
        let mut origin = Origin::None;
        let exit = loop {
            if env.attention {
                env.attention = false;
                env.index = 0;
                origin = Origin::None;
                if let Err(exit) = self.core.look_around(cpu, &mut env) {
                    break exit;
                }
                self.follow_core();
                self.recording = None;
                if !cpu.debug_armed {
                    cpu.eflags &= !flags::RF;
                }
                let shadow = cpu.int_shadow || cpu.debug_shadow;
                if shadow || cpu.debug_armed || cpu.debug_hits != 0 || cpu.eflags & flags::TF != 0 {
                    if cpu.retired >= end {
                        break Exit::Budget;
                    }
                    if let Err(exit) = self.core.step_with_debug(cpu, &mut env) {
                        break exit;
                    }
                    env.attention = true;
                    continue;
                }
            }
            if cpu.retired >= end {
                break Exit::Budget;
            }
            env.index = 0;
            let id = match self.core.fetch(cpu, &mut env) {
                Ok(Fetched::Block(id)) => id,
                Ok(Fetched::Single(insn)) => {
                    env.limit = 1;
                    env.attention = true;
                    if let Some(trap) = Interpreter::run_block(cpu, &mut env, std::slice::from_ref(&insn))
                        && let Err(exit) = self.core.deliver(cpu, &mut env, trap)
                    {
                        break exit;
                    }
                    continue;
                }
                Err(trap) => {
                    if let Err(exit) = self.core.deliver(cpu, &mut env, trap) {
                        break exit;
                    }
                    continue;
                }
            };
            // Decoding may have dropped everything.
            self.follow_core();
            let from = std::mem::replace(&mut origin, Origin::None);
            // Segments are loaded by instructions in the middle of blocks too.
            if self.worlds.full {
                self.drop_all();
                self.worlds.clear();
            }
            let home = self.home(cpu, id);
            if home.is_none() {
                // Calls of this mode are not seen.
                self.calls.forget();
            }
            let count = u64::from(self.core.cache().block(id).count());
            let flushes = self.stats.flushes;
            let code = match home {
                Some(home) if end - cpu.retired >= count => {
                    self.choose(id, home, cpu.seg[seg::CS].limit, cpu.eip, env.mem)
                }
                _ => None,
            };
            // Making room drops all edges.
            let from = if self.stats.flushes == flushes { from } else { Origin::None };
            let trap = match code {
                None => self.interpret(cpu, &mut env, cpu.eip, (id, 0), end),
                Some(code) => {
                    self.link(from, id, code, cpu);
                    let Some(address) =
                        self.codes.get(self.best(code) as usize).map(|c| self.cache.address(c.entry))
                    else {
                        continue;
                    };
                    let in_page = self.core.cache().block(id).phys() & 0xFFF;
                    let world = home.map_or(FLAT, |home| home.world);
                    let (left, stay) = self.routines.run(
                        cpu,
                        &mut env,
                        &self.sites,
                        self.lazies.list(),
                        &self.targets,
                        &mut self.counts,
                        &mut self.descriptors,
                        &mut self.worlds,
                        world,
                        &mut self.calls,
                        address,
                        in_page,
                        end,
                    );
                    self.stats.entries += 1;
                    self.stats.passed += stay.passed;
                    let [returns, missed, unpaired, resumed] = stay.returns;
                    self.stats.returns += returns;
                    self.stats.returns_missed += missed;
                    self.stats.returns_unpaired += unpaired;
                    self.stats.returns_resumed += resumed;
                    self.stats.left[left as usize] += 1;
                    match left {
                        Left::Edge => origin = Origin::Edge(stay.argument),
                        // A target that was dropped stays in the table until another takes its place.
                        Left::Target | Left::Entry => origin = Origin::Target,
                        _ => {}
                    }
                    if left == Left::Rest {
                        let in_page = self.core.cache().block(stay.block).phys() & 0xFFF;
                        let base = stay.page_base.wrapping_add(in_page);
                        let first = stay.argument as usize;
                        let rest = self.core.cache().block(stay.block).count() as usize > first;
                        if rest && cpu.retired < end {
                            self.interpret(cpu, &mut env, base, (stay.block, first), end)
                        } else {
                            None
                        }
                    } else {
                        stay.trap
                    }
                }
            };
            if let Some(trap) = trap {
                env.index = 0;
                if let Err(exit) = self.core.deliver(cpu, &mut env, trap) {
                    break exit;
                }
            }
        };
        *self.core.stats_mut() = stats;
        exit
    }

    fn flush(&mut self, mem: &mut Memory) {
        self.core.flush(mem);
        self.follow_core();
    }

    fn stats(&self) -> EngineStats {
        self.core.stats()
    }

    fn counters(&self) -> Vec<Counter> {
        let mut all = self.translator_counters();
        all.extend(self.core.stats().counters());
        all
    }
}
