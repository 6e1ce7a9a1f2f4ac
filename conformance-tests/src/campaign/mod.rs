//! Campaigns: many random cases on silicon and on ours.
//!
//! A program runs from several states. Both memories stay as a case left them and are the input of the
//! next, with a few dwords changed, so that no case copies the arena; each chunk of programs starts from
//! a fresh one. A chunk follows from its seed alone, so that a difference is found again by running the
//! chunk once more up to it.

pub mod coverage;
pub mod float;
pub mod integer;
pub mod program;
pub mod report;
pub mod rows;
mod snippets;

use coverage::Coverage;
use emu_core::engine::CpuEngine;
use program::Program;

use crate::gen_int::Rng;
use crate::layout::{CODE_LEN, CS, ENDLESS, End, LEAVE, Processor, Registers, SS, base, is_big};
use crate::oracle::Silicon;
use crate::policy;
use crate::subject::{Subject, is_reserved};
use crate::{ARENA, ARENA_LEN, CODE};

/// Programs from one seed.
pub const PROGRAMS_PER_CHUNK: u32 = 128;
/// States that each program runs from, if none of them faults: a fault costs the host as much as dozens
/// of other cases, and the next state would mostly meet it too.
pub const STATES: u32 = 4;

/// HLT faults in ring 3: nothing that strays gets far.
const HALTS: [u8; CODE_LEN as usize] = [0xF4; CODE_LEN as usize];

/// A kind of programs.
pub trait Family {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Writes the next program.
    fn program(&mut self, rng: &mut Rng, coverage: &mut Coverage, program: &mut Program);
    /// Registers for a run of it.
    fn registers(&mut self, rng: &mut Rng, program: &Program, regs: &mut Registers);
    /// Changes a little memory before a run.
    fn perturb(
        &mut self,
        rng: &mut Rng,
        program: &Program,
        regs: &Registers,
        both: &mut dyn FnMut(u32, &[u8]),
    );
    /// Fills the arena at the start of a chunk.
    fn fill(&mut self, rng: &mut Rng, arena: &mut [u8]) {
        for chunk in arena.chunks_exact_mut(4) {
            chunk.copy_from_slice(&rng.corner().to_le_bytes());
        }
    }
    /// Whether two ends with their arenas are the same but for what the policy leaves out; asked of
    /// programs with floating-point registers after everything else.
    fn agree(&mut self, _: &Program, _: &Registers, _want: (&End, &[u8]), _got: (&End, &[u8])) -> bool {
        false
    }
    /// Takes over into `want` what this family cannot compare.
    fn settle(&mut self, _: &Program, _: &Registers, _want: &mut End, _got: &mut End) {}
}

/// A case that can be run again.
#[derive(Clone)]
pub struct Case {
    /// The program.
    pub program: Program,
    /// Registers before it.
    pub regs: Registers,
    /// The arena before it.
    pub arena: Vec<u8>,
}

/// What came of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All the same.
    Same,
    /// Not comparable, for one of the reasons in `incomparable`.
    Skipped,
    /// A mistake.
    Differs,
}

/// Counts of a campaign.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Cases compared.
    pub cases: u64,
    /// Cases that could not be compared.
    pub skipped: u64,
    /// Cases that raised an exception.
    pub faults: u64,
    /// Differences.
    pub differences: u64,
}

/// EFLAGS bits compared: all that ring 3 can see, and what IRET and POPF may not change.
const FLAGS: u32 = 0x003F_7FD7;

/// Two processors and what is asked.
pub struct Campaign<'a, E: CpuEngine> {
    /// The host's.
    pub silicon: &'a mut Silicon,
    /// Ours.
    pub subject: Subject<E>,
    /// What has been met.
    pub coverage: Coverage,
    /// Counts.
    pub counts: Counts,
    /// The arena before a case with floating-point registers.
    pub saved: Vec<u8>,
}

impl<E: CpuEngine> Campaign<'_, E> {
    /// Runs the chunk of `seed`. A difference ends it and is returned.
    pub fn chunk(&mut self, family: &mut dyn Family, seed: u64) -> Option<Case> {
        let stopped = self.run_chunk(family, seed, None)?;
        // Once more, now knowing before which case the state is wanted.
        let counts = self.counts;
        let case = self.run_chunk(family, seed, Some(stopped.0)).and_then(|s| s.1);
        self.counts = counts;
        if case.as_ref().is_some_and(|case| self.strays(case)) {
            self.counts.cases -= 1;
            self.counts.skipped += 1;
            return None;
        }
        self.counts.differences += 1;
        case
    }

    /// The case executes something that its program does not consist of (it jumped into an instruction, into
    /// code of the other size, or wrote instructions) and of which the policy leaves out something.
    fn strays(&mut self, case: &Case) -> bool {
        let p = &case.program;
        self.subject.store(ARENA, &case.arena);
        self.store_code(p);
        let big = is_big(p.seg[CS]);
        let mut found = false;
        self.subject.trace(&case.regs, p.fp, &mut |lin, is_32, bytes| {
            let own = p.step_at(lin).filter(|_| is_32 == big);
            let own = own.and_then(|step| p.code.get(step.offset..step.offset + step.len));
            if own.is_none_or(|own| bytes.get(..own.len()) != Some(own)) {
                let bits = if is_32 { 32 } else { 16 };
                let ins = iced_x86::Decoder::new(bits, bytes, iced_x86::DecoderOptions::NONE).decode();
                found |= policy::mentions(ins.mnemonic());
            }
        });
        found
    }

    /// Runs until a difference, or to the case with number `stop`, whose input is returned.
    fn run_chunk(
        &mut self,
        family: &mut dyn Family,
        seed: u64,
        stop: Option<u32>,
    ) -> Option<(u32, Option<Case>)> {
        let mut rng = Rng::new(seed);
        let mut arena = vec![0; ARENA_LEN as usize];
        family.fill(&mut rng, &mut arena);
        self.silicon.store(ARENA, &arena);
        self.subject.store(ARENA, &arena);
        self.silicon.store(CODE, &HALTS);
        self.subject.store(CODE, &HALTS);
        let mut program = Program::default();
        let mut regs = Registers::default();
        let mut number = 0;
        for _ in 0..PROGRAMS_PER_CHUNK {
            // What strays must not run the rest of an earlier program either: the policy knows this one only.
            if let Some(old) = HALTS.get(..program.code.len()).filter(|old| !old.is_empty()) {
                self.silicon.store(program.at, old);
                self.subject.store(program.at, old);
            }
            family.program(&mut rng, &mut self.coverage, &mut program);
            self.store_code(&program);
            for _ in 0..STATES {
                family.registers(&mut rng, &program, &mut regs);
                let (silicon, subject) = (&mut *self.silicon, &mut self.subject);
                family.perturb(&mut rng, &program, &regs, &mut |at, bytes| {
                    silicon.store(at, bytes);
                    subject.store(at, bytes);
                });
                if stop == Some(number) {
                    let arena = self.silicon.memory(ARENA, ARENA_LEN).to_vec();
                    return Some((number, Some(Case { program, regs, arena })));
                }
                let (verdict, want, _) = self.compare(family, &program, &regs);
                if stop.is_none() {
                    self.count(&program, &want, verdict);
                }
                match verdict {
                    Verdict::Differs if stop.is_none() => return Some((number, None)),
                    Verdict::Skipped | Verdict::Differs => {
                        // The same memory for both again.
                        for (at, len) in [(ARENA, ARENA_LEN), (CODE, CODE_LEN)] {
                            let memory = self.silicon.memory(at, len).to_vec();
                            self.subject.store(at, &memory);
                        }
                    }
                    Verdict::Same => {}
                }
                if self.silicon.memory(program.at, program.code.len() as u32) != program.code {
                    self.store_code(&program);
                }
                number += 1;
                if want.fault.is_some() && rng.below(8) != 0 {
                    break;
                }
            }
        }
        None
    }

    fn store_code(&mut self, program: &Program) {
        self.silicon.store(program.at, &program.code);
        self.subject.store(program.at, &program.code);
    }

    /// Runs a case on both, from memories that are equal.
    pub fn compare(&mut self, family: &mut dyn Family, p: &Program, regs: &Registers) -> (Verdict, End, End) {
        if !p.fp {
            let got = self.subject.exec(regs, false);
            return self.compare_with(family, p, regs, got);
        }
        self.saved.clear();
        self.saved.extend_from_slice(self.silicon.memory(ARENA, ARENA_LEN));
        let got = self.subject.exec(regs, true);
        // The host's kernel forgets the pointers of the last x87 instruction when it interrupts a case.
        let mut tries = 0..3;
        loop {
            let result = self.compare_with(family, p, regs, got.clone());
            if result.0 != Verdict::Differs || tries.next().is_none() {
                return result;
            }
            self.silicon.store(ARENA, &self.saved);
            self.silicon.store(p.at, &p.code);
        }
    }

    /// Runs a case on silicon and compares with what ours made of it.
    fn compare_with(
        &mut self,
        family: &mut dyn Family,
        p: &Program,
        regs: &Registers,
        mut got: End,
    ) -> (Verdict, End, End) {
        let mut want = self.silicon.exec(regs, p.fp);
        let raw = want.clone();
        settle(p, &mut want, &mut got);
        if want.fault.is_some() {
            // See `policy::Mask::FaultPointers`; this one is too frequent for the complete policy.
            want.regs.fp.pointers = got.regs.fp.pointers;
        }
        let mut same = want == got;
        if !same && !p.fp {
            family.settle(p, regs, &mut want, &mut got);
            same = want == got;
        }
        if same && let Some(fault) = raw.fault {
            self.forgive_scratch(p, &raw, fault);
        }
        let memories = |at, len| self.silicon.memory(at, len) == self.subject.memory(at, len);
        let mut equal = same && memories(ARENA, ARENA_LEN) && memories(p.at, p.code.len() as u32);
        if !equal && p.fp {
            let memory = self.silicon.memory(ARENA, ARENA_LEN);
            equal = family.agree(p, regs, (&want, memory), (&got, self.subject.memory(ARENA, ARENA_LEN)));
            if equal {
                self.subject.store(ARENA, memory);
            }
        }
        let verdict = if equal {
            Verdict::Same
        } else if incomparable(p, &raw, &got) || self.repeats_over_code(p) {
            Verdict::Skipped
        } else {
            Verdict::Differs
        };
        (verdict, want, got)
    }

    /// What a faulting instruction has stored below the stack pointer is up to the processor.
    fn forgive_scratch(&mut self, p: &Program, end: &End, fault: crate::Fault) {
        for at in scratch_places(p, end, fault) {
            let byte = [self.silicon.memory(at, 1)[0]];
            self.subject.store(at, &byte);
        }
    }

    /// A repeated store has hit the program: processors look at the instruction again when they like.
    fn repeats_over_code(&self, p: &Program) -> bool {
        let len = p.code.len() as u32;
        p.steps.iter().any(|s| s.repeated)
            && (self.silicon.memory(p.at, len) != p.code || self.subject.memory(p.at, len) != p.code)
    }

    /// Runs a stored case again.
    pub fn replay(&mut self, family: &mut dyn Family, case: &Case) -> (Verdict, End, End) {
        self.silicon.store(ARENA, &case.arena);
        self.subject.store(ARENA, &case.arena);
        self.store_code(&case.program);
        self.compare(family, &case.program, &case.regs)
    }

    fn count(&mut self, p: &Program, end: &End, verdict: Verdict) {
        if verdict == Verdict::Skipped {
            self.counts.skipped += 1;
            return;
        }
        self.counts.cases += 1;
        match &end.fault {
            None => p.steps.iter().for_each(|s| self.coverage.count(s.place, None)),
            Some(fault) => {
                self.counts.faults += 1;
                // Traps point behind the instruction.
                let lin = base(end.regs.seg[CS]).wrapping_add(fault.eip);
                let offset = lin.wrapping_sub(p.at) as usize;
                let trap = matches!(fault.vector, 1 | 3 | 4);
                let step = p.steps.iter().find(|s| s.offset + if trap { s.len } else { 0 } == offset);
                if let Some(step) = step {
                    self.coverage.count(step.place, Some(fault.vector));
                }
            }
        }
    }
}

/// Brings what is up to the processor in line.
pub(crate) fn settle(p: &Program, want: &mut End, got: &mut End) {
    let mut undefined = p.undefined;
    if let (Some(w), Some(g)) = (&mut want.fault, &mut got.fault) {
        // The host has execute-disable and says that it was a fetch.
        if w.vector == 14 {
            w.error &= !0x10;
        }
        let lin = base(want.regs.seg[CS]).wrapping_add(w.eip);
        undefined = match p.step_at(lin) {
            Some(step) => {
                forgive(step, w, g, &mut want.regs, &got.regs);
                if step.repeated { u32::MAX } else { step.undefined | step.leaves }
            }
            None => p.ever_undefined,
        };
    }
    for end in [&mut *want, &mut *got] {
        // The host's kernel makes 0 of null selectors whenever it returns.
        end.regs.seg.iter_mut().filter(|s| **s < 4).for_each(|s| *s = 0);
    }
    let mask = FLAGS & !undefined;
    want.regs.eflags &= mask;
    got.regs.eflags &= mask;
}

/// Takes over what is up to the processor when an instruction faults.
fn forgive(
    step: &program::Step,
    want: &mut crate::Fault,
    got: &mut crate::Fault,
    regs: &mut Registers,
    ours: &Registers,
) {
    use iced_x86::Mnemonic as M;
    let stack = |f: &crate::Fault| matches!(f.vector, 12 | 14 | 17);
    match step.mnemonic {
        // Which operand is read first (Zen: by form).
        M::Cmpsb | M::Cmpsw | M::Cmpsd => *want = *got,
        // AMD's processors do not fetch the ModRM byte.
        M::Ud0 | M::Ud1 if want.vector == 6 => *want = *got,
        // Whether registers popped before the fault change.
        M::Popa | M::Popad if want.vector == got.vector => regs.gpr = ours.gpr,
        // Whether the stack or the target is looked at first, and how much of the stack.
        M::Call | M::Iret | M::Iretd | M::Retf if stack(want) && got.vector == 13 => *want = *got,
        _ => {}
    }
}

/// Addresses in the arena that an instruction may have written before it faulted.
pub(crate) fn scratch_places(
    p: &Program,
    end: &End,
    fault: crate::Fault,
) -> impl Iterator<Item = u32> + use<> {
    let lin = base(end.regs.seg[CS]).wrapping_add(fault.eip);
    let len = p.step_at(lin).map_or(0, scratch);
    let ss = end.regs.seg[SS];
    let sp = if is_big(ss) { end.regs.gpr[4] } else { end.regs.gpr[4] & 0xFFFF };
    let top = base(ss).wrapping_add(sp);
    (1..=len).map(move |n| top.wrapping_sub(n)).filter(|at| (ARENA..ARENA + ARENA_LEN).contains(at))
}

/// Stack memory that an instruction may have written before it faulted: bytes below ESP.
fn scratch(step: &program::Step) -> u32 {
    use iced_x86::Mnemonic as M;
    match step.mnemonic {
        M::Call => 8,
        M::Pusha | M::Pushad => 32,
        M::Enter => 33 * 4,
        _ => 0,
    }
}

/// What cannot be compared although it differs.
pub(crate) fn incomparable(p: &Program, want: &End, got: &End) -> bool {
    let in_arena = |lin: u32| (ARENA..ARENA + ARENA_LEN).contains(&lin);
    let strange = |end: &End| {
        // 64-bit code on the host; the entry of its GDT that tells the number of the processor.
        (end.fault.is_some() && end.regs.seg[CS] & !3 == 0x30 && end.regs.eip != LEAVE)
            || end.regs.seg.iter().any(|s| s & !7 == 0x78)
            || end.fault.is_some_and(|f| {
                is_reserved(f.cr2)
                    || (is_reserved(base(end.regs.seg[CS]).wrapping_add(f.eip)) && f.eip != LEAVE)
            })
    };
    let Some(fault) = want.fault else { return strange(want) || strange(got) };
    // The arena is not executable on the host; ours has no such thing without PAE.
    let data_as_code = fault.vector == 14 && fault.error & 0x10 != 0 && in_arena(fault.cr2);
    // IRET with NT: a task switch in legacy mode, #GP in compatibility mode.
    let lin = base(want.regs.seg[CS]).wrapping_add(fault.eip);
    let iret = p
        .step_at(lin)
        .is_some_and(|s| matches!(s.mnemonic, iced_x86::Mnemonic::Iret | iced_x86::Mnemonic::Iretd));
    let nested = iret && want.regs.eflags & 0x4000 != 0;
    let both_endless = fault.vector == ENDLESS && got.fault.is_some_and(|f| f.vector == ENDLESS);
    data_as_code || nested || both_endless || strange(want) || strange(got)
}
