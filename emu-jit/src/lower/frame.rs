//! Accesses relative to ESP and EBP. Where a block makes several of them with a known distance from what
//! the register was, the page they lie in is looked up once; each access then only tests whether that
//! went well.
//!
//! A trace does so for every register, where it is entered, and is entered only if that went well: its accesses have
//! nothing to test.

use emu_core::decode::Insn;
use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::plan::{self, Plan};

/// Registers that are followed, by their number.
pub(crate) const FOLLOWED: [u8; 8] = [4, 5, 0, 1, 2, 3, 6, 7];
/// Of these, those that are in every block.
pub(crate) const ALWAYS: usize = 2;
/// The same, by name.
pub(super) const NAMES: [Register; 8] = [
    Register::ESP,
    Register::EBP,
    Register::EAX,
    Register::ECX,
    Register::EDX,
    Register::EBX,
    Register::ESI,
    Register::EDI,
];
/// Fewer accesses are not worth the lookup.
const WORTH: u32 = 3;
/// At the start of a loop fewer are: accesses do not test whether the lookup went well, and all of them are made.
const WORTH_IN_LOOP: u32 = 2;
/// Most bytes of a lookup at the entry, which must lie in one page.
const NEAR: i32 = 512;
/// Farthest byte from the register that takes part.
const FAR: i32 = 1024;

/// A lookup in front of an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lookup {
    /// The instruction.
    pub(super) at: usize,
    /// Index into [`FOLLOWED`].
    pub(super) which: usize,
    /// First byte and the one behind the last, from the register. The register itself is among them.
    pub(super) low: i32,
    pub(super) high: i32,
    /// It is made before the trace is entered, and must go well.
    pub(super) at_entry: bool,
    /// Some access writes. Otherwise the page may be one that is only read.
    pub(super) write: bool,
}

/// How an access finds its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cover {
    /// It looks for itself.
    None,
    /// By a lookup that may have failed.
    Maybe,
    /// By one that went well, for reading.
    Read,
    /// The same for reading and writing.
    Write,
}

/// Where lookups are made and which instructions can rely on them.
pub(super) struct Frames {
    pub(super) lookups: Vec<Lookup>,
    /// By instruction and index into [`FOLLOWED`].
    pub(super) covered: Vec<[Cover; 8]>,
    /// Whoever comes back to the entry from the last instruction finds what was looked up there still right.
    pub(super) steady: bool,
}

impl Frames {
    /// No lookups.
    pub(super) fn none(count: usize) -> Self {
        Self { lookups: Vec::new(), covered: vec![[Cover::None; 8]; count], steady: true }
    }
}

/// What becomes of a register.
enum Change {
    By(i32),
    Lost,
}

/// What an instruction does with a register: its accesses relative to it (offset, size), and how it
/// changes it afterwards.
fn effect(
    ins: &Instruction,
    insn: &Insn,
    plan: Plan,
    which: usize,
    factory: &mut InstructionInfoFactory,
) -> (Vec<(i32, u32)>, Change) {
    let mut accesses = Vec::new();
    let register = NAMES[which];
    if plan == Plan::Call {
        return (accesses, if is_written(ins, register, factory) { Change::Lost } else { Change::By(0) });
    }
    let m = ins.mnemonic();
    if m != Mnemonic::Lea
        && !plan::is_nop(m)
        && plan::has_memory(ins)
        && is_relative(ins, register)
        && ins.memory_size().size() <= 8
        && (which < ALWAYS || !has_high(ins))
    {
        accesses.push((ins.memory_displacement32() as i32, ins.memory_size().size() as u32));
    }
    let stack = which == 0;
    let change = match m {
        Mnemonic::Push | Mnemonic::Call | Mnemonic::Pushfd if stack => {
            accesses.push((-4, 4));
            Change::By(-4)
        }
        Mnemonic::Pop if stack => {
            accesses.push((0, 4));
            if ins.op0_register() == Register::ESP { Change::Lost } else { Change::By(4) }
        }
        Mnemonic::Ret if stack => {
            accesses.push((0, 4));
            Change::Lost
        }
        Mnemonic::Leave if which < ALWAYS => {
            if !stack {
                accesses.push((0, 4));
            }
            Change::Lost
        }
        Mnemonic::Inc | Mnemonic::Dec if ins.op0_register() == register && !plan::has_memory(ins) => {
            Change::By(if m == Mnemonic::Inc { 1 } else { -1 })
        }
        Mnemonic::Add | Mnemonic::Sub
            if ins.op0_register() == register
                && ins.op1_kind() != OpKind::Register
                && !plan::has_memory(ins) =>
        {
            let imm = insn.imm as i32;
            Change::By(if m == Mnemonic::Add { imm } else { imm.wrapping_neg() })
        }
        Mnemonic::Lea if ins.op0_register() == register && is_relative(ins, register) => {
            Change::By(ins.memory_displacement32() as i32)
        }
        // What a native instruction writes is known without asking for all that it uses.
        _ if plan::written(ins) & 1 << FOLLOWED[which] != 0 => Change::Lost,
        _ => Change::By(0),
    };
    (accesses, change)
}

/// High byte registers change places with low ones during an access.
fn has_high(ins: &Instruction) -> bool {
    (0..ins.op_count()).any(|n| plan::is_high(ins.op_register(n)))
}

/// The instruction writes to memory, as far as can be told easily.
fn writes(ins: &Instruction, factory: &mut InstructionInfoFactory) -> bool {
    if matches!(ins.mnemonic(), Mnemonic::Push | Mnemonic::Pushfd | Mnemonic::Call) {
        return true;
    }
    ins.op0_kind() == OpKind::Memory
        && !matches!(factory.info(ins).op0_access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None)
}

/// The memory operand is the register plus a constant, in a flat segment.
pub(super) fn is_relative(ins: &Instruction, register: Register) -> bool {
    ins.memory_base() == register
        && ins.memory_index() == Register::None
        && !matches!(ins.memory_segment(), Register::FS | Register::GS | Register::CS)
}

/// The register or a part of it is written.
fn is_written(ins: &Instruction, register: Register, factory: &mut InstructionInfoFactory) -> bool {
    factory.info(ins).used_registers().iter().any(|used| {
        used.register().full_register32() == register
            && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None)
    })
}

/// A stretch of instructions over which the distance is known.
#[derive(Default)]
struct Stretch {
    at: usize,
    delta: i32,
    low: i32,
    high: i32,
    count: u32,
    write: bool,
    members: Vec<usize>,
}

impl Stretch {
    fn starting(at: usize) -> Self {
        Self { at, high: 1, ..Self::default() }
    }

    /// Takes bytes in if they are near.
    fn include(&mut self, offset: i32, size: u32) -> bool {
        let Some(first) = self.delta.checked_add(offset) else { return false };
        if !(-FAR..FAR).contains(&first) {
            return false;
        }
        self.low = self.low.min(first);
        self.high = self.high.max(first + size as i32);
        true
    }
}

/// Finds the accesses of a block, or of a trace, which can be refused where it is entered, or of one that is a loop.
pub(super) fn find(
    ins: &[Instruction],
    insns: &[Insn],
    plans: &[Plan],
    is_trace: bool,
    is_loop: bool,
) -> Frames {
    let mut frames = Frames::none(ins.len());
    let worth = if is_loop { WORTH_IN_LOOP } else { WORTH };
    let mut factory = InstructionInfoFactory::new();
    for which in 0..if is_trace { FOLLOWED.len() } else { ALWAYS } {
        let mut stretch = Stretch::starting(0);
        for n in 0..ins.len() {
            let (accesses, change) = effect(&ins[n], &insns[n], plans[n], which, &mut factory);
            // Either all of an instruction's accesses take part or none.
            if !accesses.is_empty() && accesses.iter().all(|&(offset, size)| stretch.include(offset, size)) {
                stretch.count += accesses.len() as u32;
                stretch.members.push(n);
                stretch.write |= is_trace && writes(&ins[n], &mut factory);
            }
            let lost = match change {
                Change::By(0) => false,
                Change::By(by) => {
                    stretch.delta = stretch.delta.wrapping_add(by);
                    // The register must not leave the page either: it must not wrap around.
                    !stretch.include(0, 1)
                }
                Change::Lost => true,
            };
            if lost || n + 1 == ins.len() {
                let done = std::mem::replace(&mut stretch, Stretch::starting(n + 1));
                let Stretch { at, low, high, write, .. } = done;
                let at_entry = is_trace && at == 0 && high - low <= NEAR && done.count >= worth;
                if at_entry && (lost || done.delta != 0) {
                    frames.steady = false;
                }
                if at_entry || which < ALWAYS && done.count >= WORTH {
                    let cover = match (at_entry, write) {
                        (false, _) => Cover::Maybe,
                        (true, false) => Cover::Read,
                        (true, true) => Cover::Write,
                    };
                    for &member in &done.members {
                        frames.covered[member][which] = cover;
                    }
                    frames.lookups.push(Lookup { at, which, low, high, at_entry, write });
                }
                if which >= ALWAYS {
                    // Only what is looked up at the entry is of use.
                    break;
                }
            }
        }
    }
    frames
}
