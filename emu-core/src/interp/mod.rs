//! The interpreter: the specification of every instruction, and an execution engine.
//!
//! | file | instructions |
//! | --- | --- |
//! | `data.rs` | MOV, MOVZX, XCHG, LEA, CMOV, SETcc, BSWAP, XLAT, CMPXCHG … |
//! | `arith.rs` | ADD … CMP, INC, DEC, NEG, AND, OR, XOR, TEST, NOT |
//! | `shift.rs` `muldiv.rs` `bcd.rs` `bit.rs` | as named |
//! | `stack.rs` `branch.rs` `string.rs` `flagops.rs` | as named |
//! | `segops.rs` `interrupts.rs` | segment loads, far transfers; INT n, IRET, BOUND |
//! | `system.rs` `io.rs` | control, debug and model-specific registers, CPUID, HLT; ports |
//! | `simd/` | MMX, SSE, SSE2, SSE3 |
//! | `x87/` | x87 floating point, FXSAVE, FXRSTOR |
//! | `dispatch.rs` | instruction → function |
//! | `env.rs` | memory and bus access |

pub mod arith;
pub mod bcd;
pub mod bit;
pub mod branch;
pub mod data;
pub mod dispatch;
pub mod env;
pub mod flagops;
pub mod interrupts;
pub mod io;
pub mod muldiv;
pub mod operand;
pub mod segops;
pub mod shift;
pub mod simd;
pub mod stack;
pub mod string;
pub mod system;
pub mod x87;

pub use env::Env;

use crate::bus::SystemBus;
use crate::cpu::paging::{self, Access};
use crate::cpu::{CpuState, Exec, Trap, TrapKind, debug_regs, flags, interrupt, seg, vector};
use crate::decode::block::{self, BlockCache, BlockId};
use crate::decode::iced::{self, Decode};
use crate::decode::insn::Insn;
use crate::engine::{CpuEngine, EngineStats, Exit};
use crate::mem::{Memory, PageKind};

/// The interpreting engine (tier T0).
#[derive(Default)]
pub struct Interpreter {
    cache: BlockCache,
    stats: EngineStats,
    /// Identifies everything a link between blocks silently assumes; see [`Interpreter::restamp`].
    stamp: u32,
    stamped: Assumptions,
}

/// What a link from one block to another assumes besides EIP.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Assumptions {
    views: u64,
    blocks: u32,
    cs_base: u32,
    cs_limit: u32,
    mode: u32,
    cpl: u8,
}

/// No block was run before.
const NOWHERE: BlockId = BlockId::MAX;

/// What to execute next.
pub enum Fetched {
    /// A cached block.
    Block(BlockId),
    /// One instruction that must not be cached: it lies in device memory, straddles into it, or the
    /// code segment's limit cuts the block.
    Single(Insn),
}

impl Interpreter {
    /// An engine with an empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// The decoded blocks. An engine that translates attaches its code to them.
    pub fn cache(&self) -> &BlockCache {
        &self.cache
    }

    /// The decoded blocks, to take what was dropped.
    pub fn cache_mut(&mut self) -> &mut BlockCache {
        &mut self.cache
    }

    /// Counters that an engine around this one keeps in its [`Env`] while it runs.
    pub fn stats_mut(&mut self) -> &mut EngineStats {
        &mut self.stats
    }

    /// Drops blocks whose bytes were written.
    fn drop_written(&mut self, mem: &mut Memory) {
        while mem.has_code_writes() {
            for write in mem.take_code_writes() {
                self.cache.invalidate(mem, write);
            }
        }
    }

    /// Takes a new stamp if anything changed that links assume. Called at every look around: nothing
    /// of it can change without one.
    fn restamp(&mut self, cpu: &CpuState, mem: &Memory) -> bool {
        let cs = &cpu.seg[seg::CS];
        let now = Assumptions {
            views: mem.views.generation,
            blocks: self.cache.generation,
            cs_base: cs.base,
            cs_limit: cs.limit,
            mode: cpu.mode.0,
            cpl: cpu.cpl,
        };
        if now == self.stamped {
            return false;
        }
        self.stamped = now;
        // 0 is the stamp of links that were never set.
        self.stamp = self.stamp.wrapping_add(1).max(1);
        true
    }

    /// Finds or decodes what CS:EIP points to.
    ///
    /// # Errors
    /// The fault of the fetch.
    #[inline(always)]
    pub fn fetch(&mut self, cpu: &mut CpuState, env: &mut Env<'_>) -> Exec<Fetched> {
        let cs = &cpu.seg[seg::CS];
        let (base, limit) = (cs.base, cs.limit);
        let lin = base.wrapping_add(cpu.eip);
        let entry = env.mem.views.code_entry(lin);
        if entry != 0 {
            let phys = (entry - 1) << 12 | (lin & 0xFFF);
            if let Some(id) = self.cache.find(block::block_key(phys, cpu.mode)) {
                let b = self.cache.block(id);
                let last = cpu.eip.wrapping_add(b.bytes() - 1);
                let second = b.second_page().is_none_or(|pfn| {
                    env.mem.views.code_entry((lin & !0xFFF).wrapping_add(0x1000)) == pfn + 1
                });
                if last >= cpu.eip && last <= limit && second {
                    return Ok(Fetched::Block(id));
                }
            }
        }
        self.fetch_slow(cpu, env, lin, limit)
    }

    #[cold]
    #[inline(never)]
    fn fetch_slow(&mut self, cpu: &mut CpuState, env: &mut Env<'_>, lin: u32, limit: u32) -> Exec<Fetched> {
        if cpu.eip > limit {
            return Err(Trap::GP0);
        }
        let user = cpu.cpl == 3;
        let phys = paging::translate(cpu, env.mem, lin, Access::Fetch, user)?;
        if env.mem.kind(phys >> 12) == PageKind::Device {
            return self.fetch_bytewise(cpu, env, lin, limit).map(Fetched::Single);
        }
        let phys = phys as u32;
        let key = block::block_key(phys, cpu.mode);
        if let Some(id) = self.cache.find(key) {
            let b = self.cache.block(id);
            let last = cpu.eip.wrapping_add(b.bytes() - 1);
            if last >= cpu.eip && last <= limit {
                let Some(second) = b.second_page() else { return Ok(Fetched::Block(id)) };
                let next = (lin & !0xFFF).wrapping_add(0x1000);
                let phys2 = paging::translate(cpu, env.mem, next, Access::Fetch, user)?;
                if phys2 >> 12 == u64::from(second) {
                    return Ok(Fetched::Block(id));
                }
            }
            return self.fetch_bytewise(cpu, env, lin, limit).map(Fetched::Single);
        }
        self.decode_block(cpu, env, lin, phys, limit)
    }

    fn decode_block(
        &mut self,
        cpu: &mut CpuState,
        env: &mut Env<'_>,
        lin: u32,
        phys: u32,
        limit: u32,
    ) -> Exec<Fetched> {
        let mut insns: Vec<Insn> = Vec::with_capacity(block::MAX_INSNS);
        let start = (phys & 0xFFF) as usize;
        // No more than the longest block: copying the page would take longer than decoding.
        let len = (0x1000 - start).min(block::MAX_INSNS * iced::MAX_LEN);
        let mut bytes = [0u8; block::MAX_INSNS * iced::MAX_LEN];
        let Some(bytes) = bytes.get_mut(..len) else {
            return self.fetch_bytewise(cpu, env, lin, limit).map(Fetched::Single);
        };
        if !env.mem.dma_read(u64::from(phys), bytes) {
            return self.fetch_bytewise(cpu, env, lin, limit).map(Fetched::Single);
        }
        let end = start + len;
        let mut at = start;
        while insns.len() < block::MAX_INSNS && at < end {
            match iced::decode(&bytes[at - start..], cpu.mode) {
                Decode::Insn(mut insn) => {
                    at += usize::from(insn.len);
                    insn.end = (at - start) as u16;
                    insns.push(insn);
                    if insn.flags & Insn::ENDS_BLOCK != 0 {
                        break;
                    }
                }
                // The instruction that leaves the page gets a block of its own.
                Decode::NeedMore | Decode::TooLong => break,
            }
        }
        let bytes = (at - start) as u32;
        if insns.is_empty() {
            return self.decode_straddling(cpu, env, lin, phys, limit);
        }
        let last = cpu.eip.wrapping_add(bytes - 1);
        if last < cpu.eip || last > limit {
            return self.fetch_bytewise(cpu, env, lin, limit).map(Fetched::Single);
        }
        let key = block::block_key(phys, cpu.mode);
        Ok(Fetched::Block(self.cache.insert(env.mem, key, &insns, bytes, None)))
    }

    /// Decodes the one instruction at the end of a page that continues in the next.
    fn decode_straddling(
        &mut self,
        cpu: &mut CpuState,
        env: &mut Env<'_>,
        lin: u32,
        phys: u32,
        limit: u32,
    ) -> Exec<Fetched> {
        let mut insn = self.fetch_bytewise(cpu, env, lin, limit)?;
        let here = 0x1000 - (phys & 0xFFF);
        if u32::from(insn.len) <= here {
            return Ok(Fetched::Single(insn));
        }
        let user = cpu.cpl == 3;
        let phys2 = paging::translate(cpu, env.mem, lin.wrapping_add(here), Access::Fetch, user)?;
        if env.mem.kind(phys2 >> 12) == PageKind::Device {
            return Ok(Fetched::Single(insn));
        }
        insn.end = u16::from(insn.len);
        let key = block::block_key(phys, cpu.mode);
        let second = Some((phys2 >> 12) as u32);
        Ok(Fetched::Block(self.cache.insert(env.mem, key, &[insn], u32::from(insn.len), second)))
    }

    /// Fetches one instruction byte by byte, with the checks of each byte in order.
    fn fetch_bytewise(&mut self, cpu: &mut CpuState, env: &mut Env<'_>, lin: u32, limit: u32) -> Exec<Insn> {
        let user = cpu.cpl == 3;
        let mut bytes = [0u8; iced::MAX_LEN];
        let mut n = 0;
        loop {
            if n >= bytes.len() {
                return Err(Trap::GP0);
            }
            if cpu.eip.checked_add(n as u32).is_none_or(|last| last > limit) {
                return Err(Trap::GP0);
            }
            let at = lin.wrapping_add(n as u32);
            let phys = paging::translate(cpu, env.mem, at, Access::Fetch, user)?;
            bytes[n] = env.read_phys(cpu, phys);
            n += 1;
            match iced::decode(&bytes[..n], cpu.mode) {
                Decode::Insn(mut insn) => {
                    insn.end = u16::from(insn.len);
                    return Ok(insn);
                }
                Decode::NeedMore => {}
                Decode::TooLong => return Err(Trap::GP0),
            }
        }
    }

    /// Delivers a trap that instruction or fetch raised; EIP is at the instruction.
    ///
    /// # Errors
    /// Why the engine has to be left.
    #[cold]
    #[inline(never)]
    pub fn deliver(&mut self, cpu: &mut CpuState, env: &mut Env<'_>, trap: Trap) -> Result<(), Exit> {
        env.attention = true;
        match trap.kind() {
            TrapKind::Restart => {
                cpu.retired += 1;
                Ok(())
            }
            TrapKind::Shutdown => Err(Exit::Shutdown),
            TrapKind::Exception(e) => {
                env.stats.exceptions[usize::from(e.vector & 31)] += 1;
                interrupt::deliver_exception(cpu, env, e).map_err(|_| Exit::Shutdown)
            }
        }
    }

    /// Looks at everything that may be due between two instructions.
    ///
    /// # Errors
    /// Why the engine has to be left.
    #[inline(never)]
    pub fn look_around(&mut self, cpu: &mut CpuState, env: &mut Env<'_>) -> Result<(), Exit> {
        self.drop_written(env.mem);
        env.mem.select_view(cpu.cpl == 3);
        if env.sys.must_exit() {
            return Err(Exit::Request);
        }
        // Debug traps come before interrupts; the step that follows raises them.
        let traps_pending = cpu.debug_hits != 0 && !cpu.debug_shadow;
        if !cpu.int_shadow && !traps_pending {
            if !cpu.nmi_blocked && env.sys.take_nmi() {
                interrupt::deliver_external(cpu, env, vector::NMI).map_err(|_| Exit::Shutdown)?;
                cpu.nmi_blocked = true;
            } else if cpu.eflags & flags::IF != 0
                && env.sys.interrupt_pending()
                && let Some(v) = {
                    let cx = env.context(cpu);
                    env.sys.ack_interrupt(env.mem, cx)
                }
            {
                env.stats.interrupts += 1;
                interrupt::deliver_external(cpu, env, v).map_err(|_| Exit::Shutdown)?;
            }
            // Delivery may itself have written to code (stack in a code page).
            self.drop_written(env.mem);
        }
        if cpu.halted && !traps_pending { Err(Exit::Halted) } else { Ok(()) }
    }

    /// One instruction with everything that is rare: single-step, breakpoints, interrupt shadow,
    /// and debug traps that are still to be raised.
    ///
    /// Order of SDM vol. 3, table 6-2: traps of the previous instruction, instruction breakpoints,
    /// faults of the fetch, the instruction. (Interrupts were considered by `look_around`.)
    ///
    /// # Errors
    /// Why the engine has to be left.
    #[cold]
    #[inline(never)]
    pub fn step_with_debug(&mut self, cpu: &mut CpuState, env: &mut Env<'_>) -> Result<(), Exit> {
        // Behind MOV SS debug exceptions wait for one more instruction, which is not broken at either.
        let held_back = std::mem::take(&mut cpu.debug_shadow);
        cpu.int_shadow = false;
        if !held_back {
            if debug_regs::report_pending(cpu) {
                return self.deliver(cpu, env, Trap::exception(vector::DB));
            }
            if cpu.debug_armed && cpu.eflags & flags::RF == 0 {
                let hits = debug_regs::code_hits(cpu, cpu.seg[seg::CS].base.wrapping_add(cpu.eip));
                if hits != 0 {
                    cpu.dr[6] = (cpu.dr[6] & !15) | u32::from(hits);
                    return self.deliver(cpu, env, Trap::exception(vector::DB));
                }
            }
        }
        let insn = match self.fetch(cpu, env) {
            Ok(Fetched::Single(insn)) => insn,
            Ok(Fetched::Block(id)) => self.cache.insns(self.cache.block(id).run(id))[0],
            Err(trap) => {
                cpu.debug_hits = 0;
                return self.deliver(cpu, env, trap);
            }
        };
        // RF lasts for one instruction; IRET and task switches may set it for the next.
        cpu.eflags &= !flags::RF;
        if cpu.eflags & flags::TF != 0 {
            cpu.debug_hits |= debug_regs::PENDING_STEP;
        }
        let start = cpu.eip;
        cpu.eip = start.wrapping_add(u32::from(insn.len));
        env.index = 0;
        env.limit = 1;
        env.attention = true;
        match (insn.exec)(cpu, env, &insn) {
            Ok(()) => cpu.retired += 1,
            Err(Trap::RESTART) => {
                cpu.eip = start;
                cpu.retired += 1;
                if cpu.debug_armed {
                    // The breakpoint at the instruction has fired before its first iteration.
                    cpu.eflags |= flags::RF;
                }
            }
            Err(trap) => {
                cpu.eip = start;
                // The instruction has not happened, nor have its accesses.
                cpu.debug_hits = 0;
                return self.deliver(cpu, env, trap);
            }
        }
        // Traps: after the instruction, unless it is MOV SS, which only breakpoints outlast.
        if cpu.debug_shadow {
            cpu.debug_hits &= !debug_regs::PENDING_STEP;
        } else if debug_regs::report_pending(cpu) {
            return self.deliver(cpu, env, Trap::exception(vector::DB));
        }
        Ok(())
    }

    /// Executes one instruction and delivers nothing: the trap it raised is returned, with EIP at
    /// the instruction. For tests and debuggers; interrupts and single-step traps are not looked at.
    ///
    /// # Errors
    /// The trap.
    pub fn step(
        &mut self,
        cpu: &mut CpuState,
        mem: &mut Memory,
        sys: &mut dyn SystemBus,
    ) -> Result<(), TrapKind> {
        self.drop_written(mem);
        mem.select_view(cpu.cpl == 3);
        let mut stats = EngineStats::default();
        let mut env =
            Env { mem, sys, index: 0, limit: 1, attention: false, touched_device: false, stats: &mut stats };
        let insn = match self.fetch(cpu, &mut env) {
            Ok(Fetched::Single(insn)) => insn,
            Ok(Fetched::Block(id)) => self.cache.insns(self.cache.block(id).run(id))[0],
            Err(trap) => return Err(trap.kind()),
        };
        env.limit = 1;
        let start = cpu.eip;
        cpu.eip = start.wrapping_add(u32::from(insn.len));
        match (insn.exec)(cpu, &mut env, &insn) {
            Ok(()) => {
                cpu.retired += 1;
                Ok(())
            }
            Err(trap) => {
                cpu.eip = start;
                Err(trap.kind())
            }
        }
    }

    /// Runs the instructions of a block. Returns the trap that ended it, with EIP at its instruction.
    #[inline(always)]
    pub fn run_block(cpu: &mut CpuState, env: &mut Env<'_>, insns: &[Insn]) -> Option<Trap> {
        let base = cpu.eip;
        Self::run_rest(cpu, env, base, insns)
    }

    /// Runs the last instructions of a block that begins at `base`, from the one EIP is at.
    #[inline(always)]
    pub fn run_rest(cpu: &mut CpuState, env: &mut Env<'_>, base: u32, insns: &[Insn]) -> Option<Trap> {
        let mut start = cpu.eip;
        let mut done = 0;
        for insn in insns {
            env.index = done;
            let next = base.wrapping_add(u32::from(insn.end));
            cpu.eip = next;
            if let Err(trap) = (insn.exec)(cpu, env, insn) {
                cpu.eip = start;
                cpu.retired += u64::from(done);
                return Some(trap);
            }
            start = next;
            done += 1;
            if env.limit == 0 {
                break;
            }
        }
        cpu.retired += u64::from(done);
        None
    }
}

impl CpuEngine for Interpreter {
    fn run(&mut self, cpu: &mut CpuState, mem: &mut Memory, sys: &mut dyn SystemBus, budget: u64) -> Exit {
        let end = cpu.retired.saturating_add(budget);
        let mut stats = std::mem::take(&mut self.stats);
        let mut env =
            Env { mem, sys, index: 0, limit: 0, attention: true, touched_device: false, stats: &mut stats };
        let mut previous = NOWHERE;
        let exit = loop {
            if env.attention {
                env.attention = false;
                env.index = 0;
                if let Err(exit) = self.look_around(cpu, &mut env) {
                    break exit;
                }
                if self.restamp(cpu, env.mem) {
                    previous = NOWHERE;
                }
                if !cpu.debug_armed {
                    // Only instruction breakpoints look at RF, and faults push it set anyway.
                    cpu.eflags &= !flags::RF;
                }
                let shadow = cpu.int_shadow || cpu.debug_shadow;
                if shadow || cpu.debug_armed || cpu.debug_hits != 0 || cpu.eflags & flags::TF != 0 {
                    if cpu.retired >= end {
                        break Exit::Budget;
                    }
                    if let Err(exit) = self.step_with_debug(cpu, &mut env) {
                        break exit;
                    }
                    env.attention = true;
                    continue;
                }
            }
            if cpu.retired >= end {
                break Exit::Budget;
            }
            let linked = self.cache.follow(previous, cpu.eip, self.stamp);
            let next = match linked {
                Some(run) => run,
                None => {
                    env.index = 0;
                    match self.fetch(cpu, &mut env) {
                        Ok(Fetched::Block(id)) => {
                            let run = self.cache.block(id).run(id);
                            if self.cache.generation == self.stamped.blocks {
                                self.cache.link(previous, cpu.eip, run, self.stamp);
                            } else {
                                env.attention = true;
                            }
                            run
                        }
                        Ok(Fetched::Single(insn)) => {
                            env.limit = 1;
                            env.attention = true;
                            previous = NOWHERE;
                            if let Some(trap) = Self::run_block(cpu, &mut env, std::slice::from_ref(&insn))
                                && let Err(exit) = self.deliver(cpu, &mut env, trap)
                            {
                                break exit;
                            }
                            continue;
                        }
                        Err(trap) => {
                            previous = NOWHERE;
                            if let Err(exit) = self.deliver(cpu, &mut env, trap) {
                                break exit;
                            }
                            continue;
                        }
                    }
                }
            };
            previous = next.id();
            self.cache.look_ahead(previous);
            let insns = self.cache.insns(next);
            let left = end - cpu.retired;
            let n = insns.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            env.limit = n as u32;
            let trap = Self::run_block(cpu, &mut env, &insns[..n]);
            if let Some(trap) = trap {
                env.index = 0;
                if let Err(exit) = self.deliver(cpu, &mut env, trap) {
                    break exit;
                }
            }
        };
        self.stats = stats;
        exit
    }

    fn flush(&mut self, mem: &mut Memory) {
        self.cache.clear(mem);
        let _ = mem.take_code_writes();
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            blocks_decoded: self.cache.decoded,
            blocks_invalidated: self.cache.invalidated,
            ..self.stats
        }
    }
}
