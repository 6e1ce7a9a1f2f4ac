//! The run loop, and the bookkeeping of translations and links.

use std::io;

use emu_core::bus::SystemBus;
use emu_core::cpu::{CpuState, flags};
use emu_core::decode::{BlockId, Insn};
use emu_core::engine::{Counter, CpuEngine, EngineStats, Exit};
use emu_core::interp::{Env, Fetched, Interpreter};
use emu_core::mem::Memory;

use crate::assume;
use crate::code::CodeCache;
use crate::counts::Counts;
use crate::descriptors::Descriptors;
use crate::entry::{Left, NO_TARGET, Routines, Site, TARGET_COUNT, Target};
use crate::listing::{self, Listing};
use crate::lower::{self, Features, Place};
use crate::options::Options;
use crate::parts::Part;
use crate::verify;

/// Counters of a [`Jit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JitStats {
    /// Blocks translated.
    pub translated: u64,
    /// Instructions translated, and those of them that were lowered natively.
    pub instructions: u64,
    /// See [`JitStats::instructions`].
    pub native: u64,
    /// Bytes of host code emitted.
    pub bytes: u64,
    /// Translations dropped because their guest code was overwritten.
    pub dropped: u64,
    /// Times the whole cache was dropped.
    pub flushes: u64,
    /// Times host code was entered.
    pub entries: u64,
    /// Host code was left for: a trap or something to look at, an unlinked branch, an unknown indirect
    /// target, an exhausted budget or a dropped block, a changed mode.
    pub left: [u64; 5],
    /// Exits of the first kind by cause: a trap that shuts down, the budget, overwritten code, an interrupt
    /// or request, HLT or debugging, a mode without translations.
    pub attention: [u64; 6],
    /// Blocks left because SSE or x87 registers could not be used.
    pub refused: u64,
    /// Direct branches linked to a translation.
    pub linked: u64,
    /// Links undone because their target was dropped.
    pub unlinked: u64,
    /// Indirect targets entered into the table.
    pub targets: u64,
    /// Returns, if [`Options::count`] asks for it.
    pub returns: u64,
    /// Returns that did not go behind the call they belong to.
    pub returns_missed: u64,
    /// Returns without a call in the same stay.
    pub returns_unpaired: u64,
    /// Interpreter functions called from host code for instructions without a lowering.
    pub calls: u64,
    /// Interpreter functions called from host code because an access was not fast, or another condition of
    /// the lowering did not hold.
    pub slow: u64,
    /// Looks around that found nothing to do and did not leave host code.
    pub passed: u64,
    /// Instructions executed by the interpreter.
    pub interpreted: u64,
}

/// What is known of a decoded block.
#[derive(Clone, Copy, Default)]
struct Slot {
    runs: u16,
    /// Number of its translation + 1; 0 = none.
    code: u32,
}

/// A translation.
struct Code {
    entry: u32,
    dead: u32,
    len: u32,
    block: BlockId,
    /// Edges that lead here.
    incoming: Vec<u32>,
}

/// A direct branch in emitted code.
#[derive(Clone, Copy)]
struct Edge {
    branch: u32,
    stub: u32,
    code_entry: Option<u32>,
    /// Physical page of the branch.
    pfn: u32,
    /// Translation it is linked to, or [`UNLINKED`].
    to: u32,
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
    targets: Box<[Target; TARGET_COUNT]>,
    /// [`emu_core::decode::BlockCache::clears`] as of the last look.
    clears: u32,
    stats: JitStats,
    counts: Box<Counts>,
    descriptors: Descriptors,
    symbols: Option<Symbols>,
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
            targets: Box::new([NO_TARGET; TARGET_COUNT]),
            stats: JitStats::default(),
            counts: Counts::new(options.has(Part::Looks)),
            descriptors: Descriptors::default(),
            symbols: None,
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
            self.slots.get(code.block as usize).is_some_and(|slot| slot.code as usize == n + 1)
        };
        let alive = self.codes.iter().enumerate().filter(is_alive);
        let lists = alive.filter_map(|(_, code)| {
            let block = self.core.cache().block(code.block);
            let guest = mem.ram().get(u64::from(block.phys()), block.bytes() as usize)?;
            let host = self.cache.read(code.entry, code.len)?;
            let address = self.cache.address(code.entry);
            Some(Listing {
                phys: block.phys(),
                guest: guest.to_vec(),
                address,
                host: host.to_vec(),
                guest_text: listing::guest_text(guest, block.phys() & 0xFFF),
                host_text: listing::host_text(host, address, &self.routines),
            })
        });
        lists.collect()
    }

    /// Drops all translations; decoded blocks stay.
    fn drop_all(&mut self) {
        self.cache.reset();
        self.codes.clear();
        self.edges.clear();
        self.sites.clear();
        self.targets.fill(NO_TARGET);
        for slot in &mut self.slots {
            slot.code = 0;
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
        for id in std::mem::take(dropped) {
            if let Some(slot) = self.slots.get_mut(id as usize)
                && slot.code != 0
            {
                let code = slot.code - 1;
                slot.code = 0;
                self.kill(code);
            }
        }
    }

    /// A translation must not be entered any more.
    fn kill(&mut self, number: u32) {
        let Some(code) = self.codes.get_mut(number as usize) else { return };
        let (entry, dead) = (code.entry, code.dead);
        let incoming = std::mem::take(&mut code.incoming);
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

    /// The translation of a block, made now if it is due.
    #[inline]
    fn code(&mut self, id: BlockId, mem: &Memory) -> Option<u32> {
        let n = id as usize;
        if n >= self.slots.len() {
            self.slots.resize(n + 1, Slot::default());
        }
        let slot = &mut self.slots[n];
        if slot.code != 0 {
            return Some(slot.code - 1);
        }
        slot.runs = slot.runs.saturating_add(1).min(Options::NEVER - 1);
        if slot.runs < self.options.threshold || mem.has_code_writes() {
            return None;
        }
        self.translate(id, mem)
    }

    #[cold]
    fn translate(&mut self, id: BlockId, mem: &Memory) -> Option<u32> {
        if self.sites.len() > MAX_RECORDS || self.edges.len() > MAX_RECORDS {
            self.drop_all();
        }
        let lowered = match self.lower(id, mem) {
            Some(lowered) => lowered,
            None => {
                // Something the lowering does not expect: leave the block to the interpreter for long.
                self.slots[id as usize].runs = 0;
                return None;
            }
        };
        let entry = match self.cache.append(&lowered.code) {
            Some(entry) => entry,
            None => {
                // Addresses in the code depend on where it lies, and numbers on what there is.
                self.drop_all();
                let lowered = self.lower(id, mem)?;
                let entry = self.cache.append(&lowered.code)?;
                return Some(self.record(id, entry, lowered));
            }
        };
        Some(self.record(id, entry, lowered))
    }

    fn lower(&self, id: BlockId, mem: &Memory) -> Option<lower::Lowered> {
        let block = self.core.cache().block(id);
        if block.second_page().is_some() {
            return None;
        }
        let insns = self.core.cache().insns(block.run(id));
        let bytes = mem.ram().get(u64::from(block.phys()), block.bytes() as usize)?;
        let place = Place {
            address: self.cache.next_address(),
            routines: &self.routines,
            in_page: block.phys() & 0xFFF,
            pfn: block.phys() >> 12,
            block: id,
            first_site: self.sites.len(),
            first_edge: self.edges.len(),
            features: self.features,
        };
        let address = place.address;
        let lowered = lower::translate(place, bytes, insns);
        if self.options.verify
            && let Some(lowered) = &lowered
        {
            verify::check(lowered, address, &self.routines);
        }
        lowered
    }

    fn record(&mut self, id: BlockId, entry: u32, lowered: lower::Lowered) -> u32 {
        let block = self.core.cache().block(id);
        let pfn = block.phys() >> 12;
        self.stats.translated += 1;
        self.stats.instructions += u64::from(block.count());
        self.stats.native += u64::from(lowered.native);
        self.stats.bytes += lowered.code.len() as u64;
        self.sites.extend_from_slice(&lowered.sites);
        self.edges.extend(lowered.edges.iter().map(|e| Edge {
            branch: entry + e.branch,
            stub: entry + e.stub,
            code_entry: e.code_entry.map(|at| entry + at),
            pfn,
            to: UNLINKED,
        }));
        let number = self.codes.len() as u32;
        if let Some(symbols) = &mut self.symbols {
            let name = format!("guest-{:08x}", block.phys());
            symbols(self.cache.address(entry), lowered.code.len(), &name);
        }
        let (dead, len) = (entry + lowered.dead, lowered.code.len() as u32);
        self.codes.push(Code { entry, dead, len, block: id, incoming: Vec::new() });
        self.slots[id as usize].code = number + 1;
        number
    }

    /// Remembers how the last stay in translated code ended: control now goes to block `id`, which has
    /// translation `code`.
    fn link(&mut self, from: Origin, id: BlockId, code: u32, eip: u32) {
        if !self.options.link
            || matches!(from, Origin::Edge(_)) && !self.options.has(Part::Links)
            || matches!(from, Origin::Target) && !self.options.has(Part::Indirect)
        {
            return;
        }
        let pfn = self.core.cache().block(id).phys() >> 12;
        let Some(target) = self.codes.get_mut(code as usize) else { return };
        match from {
            Origin::None => {}
            Origin::Edge(number) => {
                let Some(&edge) = self.edges.get(number as usize) else { return };
                match edge.code_entry {
                    None if edge.pfn != pfn => return,
                    None => {}
                    Some(at) => self.cache.patch(at, &(pfn + 1).to_le_bytes()),
                }
                if edge.to == code {
                    // Linked already: its page was not in the view.
                    return;
                }
                self.stats.linked += 1;
                self.edges[number as usize].to = code;
                target.incoming.push(number);
                self.cache.patch_branch(edge.branch, target.entry);
            }
            Origin::Target => {
                self.stats.targets += 1;
                let address = self.cache.address(target.entry) as u64;
                let slot = &mut self.targets[eip as usize & (TARGET_COUNT - 1)];
                *slot = Target { eip, code_entry: pfn + 1, address };
            }
        }
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
            let flat = assume::is_flat(cpu);
            let count = u64::from(self.core.cache().block(id).count());
            let flushes = self.stats.flushes;
            let code = if flat && end - cpu.retired >= count { self.code(id, env.mem) } else { None };
            // Making room drops all edges.
            let from = if self.stats.flushes == flushes { from } else { Origin::None };
            let trap = match code {
                None => self.interpret(cpu, &mut env, cpu.eip, (id, 0), end),
                Some(code) => {
                    self.link(from, id, code, cpu.eip);
                    let Some(address) = self.codes.get(code as usize).map(|c| self.cache.address(c.entry))
                    else {
                        continue;
                    };
                    let in_page = self.core.cache().block(id).phys() & 0xFFF;
                    let (left, stay) = self.routines.run(
                        cpu,
                        &mut env,
                        &self.sites,
                        &self.targets,
                        &mut self.counts,
                        &mut self.descriptors,
                        address,
                        in_page,
                        end,
                    );
                    self.stats.entries += 1;
                    self.stats.passed += stay.passed;
                    let [returns, missed, unpaired] = stay.returns;
                    self.stats.returns += returns;
                    self.stats.returns_missed += missed;
                    self.stats.returns_unpaired += unpaired;
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
