//! One block: from guest instructions to host instructions.
//!
//! An instruction is lowered natively or by a call of its interpreter function. A native one that touches
//! memory checks its addresses first and changes nothing before; whenever a check fails, the whole
//! instruction is left to the interpreter function in a stub behind the block.
//!
//! # Flags
//!
//! The host's arithmetic flags are the guest's right behind a native instruction that sets them. Between
//! instructions they live in the state's slot ([`crate::layout::SLOT`]). A backward pass finds out which
//! results can be seen (by a reader, at a place where the code may be left, at the end of the block);
//! only those are stored.

mod control;
mod flags;
mod frame;
mod integer;
mod memory;
mod mmx;
mod plan;
mod poison;
mod shifts;
mod simd;
mod string;
mod system;
mod trace;
mod x87;

pub(crate) use flags::store_flags;
pub(crate) use trace::{Ending, Inner, Member, ending};

use dynasm::dynasm;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi};
use emu_core::cpu::tlb::CODE_TABLE;
use emu_core::decode::Insn;
use emu_core::decode::iced::register_number;
use iced_x86::{Decoder, DecoderOptions, Instruction};

use crate::assembler::Assembler;
use crate::code::CodeCache;
use crate::entry::{Routines, Site};
use crate::layout::{KEPT, PAGE_BASE, host, pinned};
use crate::lazy::Lazy;
use crate::parts::{Part, Parts};
use crate::segments::Segmented;
pub(crate) use frame::{ALWAYS, FOLLOWED};

use frame::Frames;
use memory::Direction;
use plan::{Plan, Recipe};

pub(crate) type Ops = Assembler;

/// What the host's CPU offers and what is switched on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    /// SHLX and its kin.
    pub(crate) bmi2: bool,
    /// Lower natively at all.
    pub(crate) native: bool,
    /// Parts that are switched off.
    pub(crate) without: Parts,
    /// Fill what is dead with garbage.
    pub(crate) poison: bool,
    /// Count returns.
    pub(crate) count: bool,
    /// What the block is translated for, if segments are not flat.
    pub(crate) segmented: Option<Segmented>,
}

impl Features {
    /// The part is not switched off.
    pub(crate) fn has(&self, part: Part) -> bool {
        !self.without.has(part)
    }
}

/// A direct branch out of the block, to be linked. Offsets are from the start of the emitted code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EdgeCode {
    /// Displacement of the branch.
    pub(crate) branch: u32,
    /// Where it leads while it is not linked.
    pub(crate) stub: u32,
    /// The immediate that is compared with the target page's code entry, for targets in other pages.
    pub(crate) code_entry: Option<u32>,
    /// Offset of the target in the same page.
    pub(crate) target: Option<u32>,
    /// The flags that a marker stands for.
    pub(crate) lazy: Option<Lazy>,
    /// If it leads back to where it belongs, what was looked up at the entry is still right.
    pub(crate) again: bool,
}

/// Host code of a block.
pub(crate) struct Lowered {
    pub(crate) code: Vec<u8>,
    /// Length of the part that runs often; offsets from there on belong to the other.
    pub(crate) hot: usize,
    /// Offset of the stub that leaves before the block's first instruction.
    pub(crate) dead: u32,
    pub(crate) edges: Vec<EdgeCode>,
    pub(crate) sites: Vec<Site>,
    /// Instructions lowered natively.
    pub(crate) native: u32,
    /// Where markers of lazy flags are to be filled in.
    pub(crate) markers: Vec<(u32, Lazy)>,
    /// The block may be entered with lazy flags whose registers are not in this mask.
    pub(crate) entry: Option<u16>,
    /// Of a trace: displacement of the jump that is taken if the budget does not cover it, to be led to its first
    /// block's own translation.
    pub(crate) fallback: Option<u32>,
    /// Where its own branches to its start lead, if [`EdgeCode::again`].
    pub(crate) again: u32,
}

/// Code emitted behind the block.
#[derive(Clone, Copy)]
enum Stub {
    /// The instruction is left to the interpreter's function.
    /// The flags before it may have to be computed first.
    /// So may the last x87 instruction have to be recorded.
    Slow {
        at: DynamicLabel,
        back: DynamicLabel,
        number: usize,
        flags: bool,
        recipe: Option<Recipe>,
        noted: Option<usize>,
        /// The XMM registers are relied upon behind it.
        xmm: bool,
    },
    /// Registers are needed that are not in the host's: calls a routine that loads them.
    Load {
        at: DynamicLabel,
        back: DynamicLabel,
        number: usize,
        recipe: Option<Recipe>,
        noted: Option<usize>,
        load: usize,
    },
    /// An access that is not aligned: does it cross a page?
    Unaligned { at: DynamicLabel, address: u8, size: u32, back: DynamicLabel, slow: DynamicLabel },
    /// A repeated string instruction is left to the interpreter, with what it has pushed on the host's stack.
    Unsaved { at: DynamicLabel, slow: DynamicLabel },
    /// A followed register's accesses do not lie in one fast page.
    NoFrame { at: DynamicLabel, back: DynamicLabel },
    /// An access relative to a followed register has to look for itself.
    Unframed {
        at: DynamicLabel,
        back: DynamicLabel,
        slow: DynamicLabel,
        register: u8,
        disp: i32,
        size: u32,
        direction: Direction,
    },
    /// The guest did not return to where the host did.
    Returned { at: DynamicLabel },
    /// A trace is left behind instruction `number`.
    Side { at: DynamicLabel, number: usize, target: i32, recipe: Option<Recipe>, noted: Option<usize> },
    /// An edge that is not linked, to an offset in the page.
    Edge { at: DynamicLabel, number: usize, target: i32 },
    /// An edge that is not linked, to the EIP in r8d.
    FarEdge { at: DynamicLabel, number: usize },
}

/// Where the block is and which numbers its sites and edges get.
pub(crate) struct Place<'a> {
    /// Where the code will be appended.
    pub(crate) cache: &'a CodeCache,
    pub(crate) routines: &'a Routines,
    /// Offset in the page from which the ends of instructions count.
    pub(crate) in_page: u32,
    /// Offset of the first instruction in the page.
    pub(crate) entry: u32,
    /// Physical page the block lies in.
    pub(crate) pfn: u32,
    /// Physical page that its only instruction continues in.
    pub(crate) second: Option<u32>,
    /// The blocks, in order; one that is no trace has one.
    pub(crate) members: &'a [Member],
    /// Of a trace: by instruction, branches that are followed.
    pub(crate) inner: &'a [Option<Inner>],
    /// A trace that leads back to its start.
    pub(crate) is_loop: bool,
    pub(crate) first_site: usize,
    pub(crate) first_edge: usize,
    pub(crate) features: Features,
}

/// A direct branch out of the block, as far as it is known while lowering; see [`EdgeCode`].
struct Edge {
    branch: usize,
    stub: DynamicLabel,
    code_entry: Option<usize>,
    lazy: Option<Lazy>,
    target: Option<i32>,
    again: bool,
}

struct Translator<'a> {
    ops: Ops,
    place: Place<'a>,
    insns: &'a [Insn],
    ins: Vec<Instruction>,
    plans: Vec<Plan>,
    /// Flags behind instruction n can be seen.
    visible: Vec<bool>,
    /// How to compute the flags behind instruction n again; they are not stored then.
    recipes: Vec<Option<Recipe>>,
    /// The recipe for the flags as they are now, if they are neither in the slot nor invisible.
    recipe: Option<Recipe>,
    /// Accesses relative to ESP and EBP.
    frames: Frames,
    /// The bytes of the block.
    bytes: &'a [u8],
    /// The instruction being lowered.
    n: usize,
    /// The host's arithmetic flags are the guest's.
    host: bool,
    /// The slot holds the guest's flags.
    slot: bool,
    /// The host's x87 unit is the guest's.
    fpu_ready: bool,
    /// The host's XMM registers and MXCSR are the guest's.
    xmm_ready: bool,
    /// The last x87 instruction, if it has not been recorded.
    noted: Option<usize>,
    /// The segment of the last x87 operand, if known to be recorded.
    data_segment: Option<u8>,
    stubs: Vec<Stub>,
    sites: Vec<Site>,
    edges: Vec<Edge>,
    /// INC and DEC that find CF in the host's flags.
    plan_carry: Vec<bool>,
    /// The flags that the block leaves behind without computing them.
    lazy: Option<Lazy>,
    markers: Vec<(usize, Lazy)>,
    entry: Option<u16>,
    /// See [`EdgeCode::again`].
    again: bool,
    /// Displacements to fill in: where they are and where they lead.
    fixes: Vec<(usize, usize)>,
}

/// Translates the block whose bytes and decoded instructions are given. `None` if the bytes are not what
/// was decoded.
pub(crate) fn translate<'a>(place: Place<'a>, bytes: &'a [u8], insns: &'a [Insn]) -> Option<Lowered> {
    let bits = if place.features.segmented.is_none_or(|s| s.mode.code32()) { 32 } else { 16 };
    let mut decoder = Decoder::new(bits, bytes, DecoderOptions::NONE);
    let mut ins = Vec::with_capacity(insns.len());
    for insn in insns {
        decoder.set_position(usize::from(insn.end).checked_sub(usize::from(insn.len))?).ok()?;
        let i = decoder.decode();
        // What the interpreter takes for #UD decodes as an instruction of length 1.
        if !i.is_invalid() && i.len() != usize::from(insn.len) {
            return None;
        }
        ins.push(i);
    }
    let plan::Planned { plans, visible, recipes, carries, entry } = plan::plan(&ins, insns, place.features);
    if place.inner.iter().zip(&plans).any(|(inner, &plan)| inner.is_some() && plan != Plan::Native) {
        return None;
    }
    let frames = match place.features.has(Part::Frames) && place.features.segmented.is_none() {
        true => frame::find(&ins, insns, &plans, !place.inner.is_empty(), place.is_loop),
        false => Frames::none(insns.len()),
    };
    let ops = Ops::new();
    let t = Translator {
        ops,
        place,
        insns,
        ins,
        plans,
        visible,
        recipes,
        recipe: None,
        frames,
        bytes,
        n: 0,
        host: false,
        slot: true,
        fpu_ready: false,
        xmm_ready: false,
        noted: None,
        data_segment: None,
        stubs: Vec::new(),
        sites: Vec::new(),
        edges: Vec::new(),
        plan_carry: carries,
        lazy: None,
        markers: Vec::new(),
        entry,
        again: false,
        fixes: Vec::new(),
    };
    t.run()
}

impl Translator<'_> {
    fn run(mut self) -> Option<Lowered> {
        let count = self.insns.len() as i8;
        let refused = self.ops.new_dynamic_label();
        let unframed = self.ops.new_dynamic_label();
        for k in 0..self.frames.lookups.len() {
            if self.frames.lookups[k].at_entry {
                self.look_up_at_entry(self.frames.lookups[k], unframed);
            }
        }
        let again = self.ops.offset().0 as u32;
        dynasm!(self.ops
            ; .arch x64
            ; sub r12, BYTE count
            ; js =>refused
        );
        if let Some(second) = self.place.second {
            // What follows must be mapped to the page it was; there is nothing behind the last page.
            dynasm!(self.ops
                ; .arch x64
                ; mov r8d, [BYTE r13 + PAGE_BASE as i8]
                ; add r8d, 0x1000
                ; jc =>refused
                ; shr r8d, 12
                ; cmp DWORD [r15 + r8 * 4 + CODE_TABLE as i32], (second + 1) as i32
                ; jne =>refused
            );
        }
        let mut native = 0;
        let mut ended = false;
        for n in 0..self.insns.len() {
            self.n = n;
            self.again = self.frames.steady && n + 1 == self.insns.len() && self.stays(n);
            for k in 0..self.frames.lookups.len() {
                if self.frames.lookups[k].at == n && !self.frames.lookups[k].at_entry {
                    self.look_up(self.frames.lookups[k]);
                }
            }
            let plan = self.plans[n];
            ended = match plan {
                _ if self.inner() => {
                    native += 1;
                    false
                }
                Plan::Native => {
                    native += 1;
                    self.native()
                }
                Plan::Call => self.call(),
            };
            if self.place.features.poison && !ended {
                self.poison();
            }
        }
        if !ended {
            let next = self.end_in_page();
            self.leave_lazy();
            self.edge(next as i32);
        }
        // A budget that does not cover the block, or another page.
        let hot = self.ops.offset().0;
        dynasm!(self.ops ; .arch x64 ; =>refused ; add r12, BYTE count ; =>unframed);
        let fallback = (!self.place.inner.is_empty()).then(|| {
            self.ops.push(0xE9);
            let at = self.ops.offset().0;
            self.ops.push_i32(0);
            self.fixes.push((at, at + 4));
            at as u32
        });
        let dead = self.ops.offset().0;
        let in_page = self.place.entry as i32;
        dynasm!(self.ops ; .arch x64 ; mov r8d, in_page);
        let entry = self.place.routines.entry;
        self.jump(entry);
        self.emit_stubs();
        let edges = std::mem::take(&mut self.edges);
        let edges = edges
            .into_iter()
            .map(|Edge { branch, stub, code_entry, lazy, target, again }| {
                let target = target.map(|t| t as u32);
                let stub = self.ops.place_of(stub)? as u32;
                Some(EdgeCode {
                    branch: branch as u32,
                    stub,
                    code_entry: code_entry.map(|c| c as u32),
                    target,
                    lazy,
                    again,
                })
            })
            .collect::<Option<Vec<_>>>()?;
        let mut fixes = std::mem::take(&mut self.fixes);
        fixes.extend(edges.iter().map(|e| (e.branch as usize, e.stub as usize)));
        for (at, to) in fixes {
            self.ops.lead(at, to);
        }
        let cache = self.place.cache;
        // If there is no room, what it is translated for does not matter.
        let cold = cache.cold_place(self.ops.offset().0 - hot).unwrap_or_default();
        let code = self.ops.finish(hot, cache.next_address(), cache.address(cold))?;
        let markers = self.markers.into_iter().map(|(at, lazy)| (at as u32, lazy)).collect();
        let (sites, entry) = (self.sites, self.entry);
        Some(Lowered { code, hot, dead: dead as u32, edges, sites, native, markers, entry, fallback, again })
    }

    /// Behind instruction `n`, the last, nothing has run that may have looked for pages of its own.
    fn stays(&self, n: usize) -> bool {
        let ins = &self.ins[n];
        self.insns[n].flags & Insn::ENDS_BLOCK == 0 || plan::is_direct(ins) && !ins.is_call_near()
    }

    /// The instruction being lowered.
    fn insn(&self) -> Instruction {
        self.ins[self.n]
    }

    /// EIP of the first byte of the page, if it is known.
    fn page_eip(&self) -> Option<u32> {
        self.place.features.segmented.map(|s| s.eip.wrapping_sub(self.place.in_page))
    }

    /// Offset behind the current instruction from the start of the page.
    fn end_in_page(&self) -> u32 {
        self.place.in_page + u32::from(self.insns[self.n].end)
    }

    /// Jump to a shared routine.
    fn jump(&mut self, target: usize) {
        self.ops.push(0xE9);
        self.ops.push_distance_to(target);
    }

    /// Call of a shared routine.
    fn call_routine(&mut self, target: usize) {
        self.ops.push(0xE8);
        self.ops.push_distance_to(target);
    }

    /// Number of a new site for instruction `n`.
    fn site(&mut self, n: usize) -> i32 {
        let insn = self.insns[n];
        let number = self.place.first_site + self.sites.len();
        let facts = plan::facts(&self.ins[n], &insn);
        let member = self.place.members.iter().rfind(|m| m.first <= n).copied().unwrap_or_default();
        self.sites.push(Site {
            insn,
            end_in_page: (self.place.in_page + u32::from(insn.end)) as u16,
            left: (self.insns.len() - n) as u16,
            index: (n - member.first) as u16,
            block: member.block,
            uses_flags: facts.uses_flags,
            loads_segment: facts.loads_segment,
            uses_fpu: facts.uses_fpu,
            mnemonic: self.ins[n].mnemonic() as u16,
            native: self.plans[n] == Plan::Native,
        });
        number as i32
    }

    /// Calls the interpreter's function. True if the block ends here.
    fn call(&mut self) -> bool {
        debug_assert!(self.slot && self.noted.is_none());
        let site = self.site(self.n);
        dynasm!(self.ops ; .arch x64 ; mov r8d, site);
        let exec = self.place.routines.exec;
        self.call_routine(exec);
        self.fpu_ready = false;
        self.xmm_ready = false;
        self.data_segment = None;
        self.host = false;
        self.slot = true;
        if self.insns[self.n].flags & Insn::ENDS_BLOCK == 0 {
            return false;
        }
        if system::falls_through(&self.insn()) {
            let next = self.end_in_page();
            self.edge(next as i32);
        } else {
            let target = self.place.routines.target_eip;
            self.jump(target);
        }
        true
    }

    /// A label for "this access is not fast": a stub calls the interpreter's function and comes back
    /// to the second label, which is to be placed behind the instruction.
    fn slow(&mut self) -> (DynamicLabel, DynamicLabel) {
        let at = self.ops.new_dynamic_label();
        let back = self.ops.new_dynamic_label();
        let flags = plan::facts(&self.ins[self.n], &self.insns[self.n]).sets_flags;
        let (number, recipe, noted, xmm) = (self.n, self.recipe, self.noted, self.xmm_ready);
        self.stubs.push(Stub::Slow { at, back, number, flags, recipe, noted, xmm });
        (at, back)
    }

    /// Calls a routine that loads registers if a byte of the state says that they are not in the host's.
    /// Changes the host's flags.
    fn need(&mut self, resident: i32, load: usize) {
        let at = self.ops.new_dynamic_label();
        let back = self.ops.new_dynamic_label();
        dynasm!(self.ops ; .arch x64 ; cmp BYTE [BYTE r13 + resident as i8], 0 ; je =>at ; =>back);
        self.clobber();
        let (number, recipe, noted) = (self.n, self.recipe, self.noted);
        self.stubs.push(Stub::Load { at, back, number, recipe, noted, load });
    }

    fn emit_stubs(&mut self) {
        self.recipe = None;
        self.again = false;
        // Stubs are only added by instructions, which are all lowered, and by ways out of a trace.
        let mut next = 0;
        while let Some(&stub) = self.stubs.get(next) {
            next += 1;
            match stub {
                Stub::Load { at, back, number, recipe, noted, load } => {
                    let site = self.site(number);
                    dynasm!(self.ops ; .arch x64 ; =>at);
                    if let Some(recipe) = recipe {
                        self.store_recipe(recipe);
                    }
                    if let Some(n) = noted {
                        self.store_note(n);
                    }
                    dynasm!(self.ops ; .arch x64 ; mov r8d, site * 2);
                    self.call_routine(load);
                    dynasm!(self.ops ; .arch x64 ; jmp =>back);
                }
                Stub::Slow { at, back, number, flags, recipe, noted, xmm } => {
                    let site = self.site(number);
                    dynasm!(self.ops ; .arch x64 ; =>at);
                    if let Some(recipe) = recipe {
                        self.store_recipe(recipe);
                    }
                    if let Some(n) = noted {
                        self.store_note(n);
                    }
                    // What r11 holds behind the instruction: what it held before it, or what the
                    // instruction would have put there.
                    let own = self.recipes[number];
                    let kept = if own.is_some_and(Recipe::is_of_memory) {
                        None
                    } else if own.is_some_and(Recipe::keeps_operand) {
                        let r = register_number(self.ins[number].op0_register());
                        Some(pinned(r))
                    } else if recipe.is_some_and(Recipe::keeps_operand) {
                        Some(host::R11)
                    } else {
                        None
                    };
                    if let Some(r) = kept {
                        dynasm!(self.ops ; .arch x64 ; mov [BYTE r13 + KEPT as i8], Rd(r));
                    }
                    dynasm!(self.ops ; .arch x64 ; mov r8d, site);
                    let routines = self.place.routines;
                    self.call_routine(if xmm { routines.exec_keep } else { routines.exec });
                    if own.is_some_and(Recipe::is_of_memory) {
                        // Nothing is known of the operand in memory, so what follows cannot rely on it.
                        let left = (self.insns.len() - number - 1) as i8;
                        dynasm!(self.ops ; .arch x64 ; add r12, BYTE left);
                        let target = self.place.routines.target_eip;
                        self.jump(target);
                        continue;
                    }
                    if kept.is_some() {
                        dynasm!(self.ops ; .arch x64 ; mov r11d, [BYTE r13 + KEPT as i8]);
                    }
                    if x87::is_x87(&self.ins[number]) || mmx::is_mmx(&self.ins[number]) {
                        // What follows relies on the unit.
                        dynasm!(self.ops ; .arch x64 ; mov r8d, site * 2 + 1);
                        let load = self.place.routines.load_fpu;
                        self.call_routine(load);
                    }
                    if self.insns[number].flags & Insn::ENDS_BLOCK != 0 {
                        let target = self.place.routines.target_eip;
                        self.jump(target);
                    } else {
                        if flags {
                            self.host = false;
                            self.flags_to_host();
                        }
                        dynasm!(self.ops ; .arch x64 ; jmp =>back);
                    }
                }
                Stub::Unaligned { at, address, size, back, slow } => {
                    dynasm!(self.ops
                        ; .arch x64
                        ; =>at
                        ; lea r10d, [Rq(address) + (size as i32 - 1)]
                        ; xor r10d, Rd(address)
                        ; shr r10d, 12
                        ; jz =>back
                        ; jmp =>slow
                    );
                }
                Stub::Unsaved { at, slow } => {
                    dynasm!(self.ops ; .arch x64 ; =>at ; pop rcx ; pop rdi ; pop rsi ; jmp =>slow);
                }
                Stub::NoFrame { at, back } => {
                    dynasm!(self.ops ; .arch x64 ; =>at ; xor r9d, r9d ; jmp =>back);
                }
                Stub::Unframed { at, back, slow, register, disp, size, direction } => {
                    dynasm!(self.ops ; .arch x64 ; =>at);
                    self.unframed(register, disp, size, direction, (slow, back));
                }
                Stub::Returned { at } => {
                    dynasm!(self.ops ; .arch x64 ; =>at);
                    let to = self.place.routines.return_missed;
                    self.jump(to);
                }
                Stub::Side { at, number, target, recipe, noted } => {
                    dynasm!(self.ops ; .arch x64 ; =>at);
                    self.side(number, target, recipe, noted);
                }
                Stub::Edge { at, number, target } => {
                    let number = (self.place.first_edge + number) as i32;
                    dynasm!(self.ops ; .arch x64 ; =>at ; mov r8d, target ; mov r9d, number);
                    let to = self.place.routines.edge_in_page;
                    self.jump(to);
                }
                Stub::FarEdge { at, number } => {
                    let number = (self.place.first_edge + number) as i32;
                    dynasm!(self.ops ; .arch x64 ; =>at ; mov r9d, number);
                    let to = self.place.routines.edge;
                    self.jump(to);
                }
            }
        }
    }
}
