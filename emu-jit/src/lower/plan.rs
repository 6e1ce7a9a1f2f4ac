//! What is lowered natively, and which flags can be seen.

use emu_core::decode::Insn;
use emu_core::decode::iced::register_number;
use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind, Register};

use super::{Features, mmx, simd, string, system, x87};
use crate::layout::{host, pinned};
use crate::parts::Part;
use crate::segments::Segmented;

/// How an instruction is lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Host instructions.
    Native,
    /// A call of the interpreter's function.
    Call,
}

/// The arithmetic flags in iced's notation.
const ARITH: u32 = iced_x86::RflagsBits::OF
    | iced_x86::RflagsBits::SF
    | iced_x86::RflagsBits::ZF
    | iced_x86::RflagsBits::AF
    | iced_x86::RflagsBits::CF
    | iced_x86::RflagsBits::PF;

/// What calls of the interpreter's function have to know.
pub(super) struct Facts {
    pub(super) uses_flags: bool,
    pub(super) sets_flags: bool,
    pub(super) loads_segment: bool,
    pub(super) uses_fpu: bool,
}

pub(super) fn facts(ins: &Instruction, insn: &Insn) -> Facts {
    let ends = insn.flags & Insn::ENDS_BLOCK != 0;
    let sets_flags = ins.rflags_modified() & ARITH != 0;
    let far = matches!(
        ins.mnemonic(),
        Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss
    );
    let segment = |n| n < ins.op_count() && ins.op_register(n).is_segment_register();
    Facts {
        uses_flags: ends || ins.is_invalid() || sets_flags || ins.rflags_read() & ARITH != 0,
        sets_flags,
        loads_segment: ends || far || segment(0),
        uses_fpu: x87::uses_unit(ins),
    }
}

/// The instruction has an explicit memory operand of the ordinary kind.
pub(super) fn has_memory(ins: &Instruction) -> bool {
    (0..ins.op_count()).any(|n| ins.op_kind(n) == OpKind::Memory)
}

/// Size of operand 0 in bytes.
pub(super) fn size(ins: &Instruction) -> u32 {
    match ins.op0_kind() {
        OpKind::Register => ins.op0_register().size() as u32,
        _ => ins.memory_size().size() as u32,
    }
}

/// How to compute flags again from registers. Sizes other than 32 bits are kept for those that need no
/// arithmetic.
#[derive(Clone, Copy, Debug)]
pub(super) enum Recipe {
    /// The result of a logical operation is in a register.
    Logic { size: u32, r: u8 },
    /// `r` is the sum of what it was and a constant.
    AddImm { r: u8, imm: i32 },
    /// `r` is what it was minus a constant.
    SubImm { r: u8, imm: i32 },
    /// `r` is the sum of what it was and `s`.
    Add { r: u8, s: u8 },
    /// `r` is what it was minus `s`.
    Sub { r: u8, s: u8 },
    /// CMP or TEST of registers, instruction `n`.
    Compare { n: usize },
    /// INC (0) or DEC (1) of `r`; CF was kept ([`crate::layout::CARRY`]).
    Step { r: u8, number: u8 },
    /// A shift of what `r11` holds.
    Shift { size: u32, number: u8, count: u32 },
    /// `r` is the sum of `r11` and something in memory.
    AddMemory { r: u8 },
    /// `r` is `r11` minus something in memory.
    SubMemory { r: u8 },
    /// CMP or TEST, instruction `n`, of what `r11` was loaded with from memory.
    CompareMemory { n: usize },
    /// `r` is the sum of `r11`, `s` and CF.
    Adc { r: u8, s: u8 },
    /// The same with a constant.
    AdcImm { r: u8, imm: i32 },
    /// `r` is `r11` minus `s` and CF.
    Sbb { r: u8, s: u8 },
    /// The same with a constant.
    SbbImm { r: u8, imm: i32 },
    /// EDX:EAX is a product.
    Product { signed: bool },
    /// `r` is the lower half of a product, and bit 0 of `r11` tells whether the upper half matters.
    LowProduct { r: u8 },
}

impl Recipe {
    /// The instruction puts something into r11, which must stay there.
    pub(super) fn keeps_operand(self) -> bool {
        self.is_of_memory()
            || matches!(self, Self::Shift { .. } | Self::AddMemory { .. } | Self::SubMemory { .. })
            || matches!(self, Self::Adc { .. } | Self::AdcImm { .. } | Self::Sbb { .. } | Self::SbbImm { .. })
            || matches!(self, Self::LowProduct { .. })
    }

    /// The instruction puts its operand in memory, or what memory holds behind it, into r11.
    pub(super) fn is_of_memory(self) -> bool {
        match self {
            Self::CompareMemory { .. } => true,
            Self::Logic { r, .. }
            | Self::AddImm { r, .. }
            | Self::SubImm { r, .. }
            | Self::Add { r, .. }
            | Self::Sub { r, .. }
            | Self::Step { r, .. } => r == host::R11,
            _ => false,
        }
    }

    /// The flags can be computed into the host's, not only into the slot.
    fn is_for_host(self) -> bool {
        !matches!(self, Self::Shift { .. } | Self::Product { .. } | Self::LowProduct { .. })
    }

    /// The flags can be left to another block ([`crate::lazy`]).
    fn is_lazy(self) -> bool {
        let of_registers = matches!(
            self,
            Self::Logic { .. }
                | Self::AddImm { .. }
                | Self::SubImm { .. }
                | Self::Step { .. }
                | Self::Add { .. }
                | Self::Sub { .. }
                | Self::Compare { .. }
        );
        of_registers || matches!(self, Self::CompareMemory { .. } | Self::AddMemory { .. })
    }
}

/// In masks of registers: r11, which keeps an operand for a recipe.
const KEPT: u16 = 1 << 8;

/// What is known of a block's instructions before they are lowered.
pub(super) struct Planned {
    pub(super) plans: Vec<Plan>,
    /// The flags behind the instruction can be seen and must be stored.
    pub(super) visible: Vec<bool>,
    /// The flags behind the instruction can be seen only where memory accesses are slow, and can be
    /// computed there.
    pub(super) recipes: Vec<Option<Recipe>>,
    /// INC and DEC that find CF in the host's flags.
    pub(super) carries: Vec<bool>,
    /// See [`super::Lowered::entry`].
    pub(super) entry: Option<u16>,
}

/// Nothing asks for the flags that a block is entered with before it has overwritten them, except where it may be
/// left: a mask of the registers that are written before that.
fn entry(ins: &[Instruction], insns: &[Insn], plans: &[Plan]) -> Option<u16> {
    let (mut early, mut so_far) = (0, 0);
    for n in 0..ins.len() {
        let i = &ins[n];
        if leaves_always(i, &insns[n], plans[n]) || i.rflags_read() & ARITH != 0 {
            return None;
        }
        if may_be_slow(i) {
            early |= so_far;
        }
        if sets_all(i) {
            return Some(early);
        }
        if i.rflags_modified() & ARITH != 0 {
            return None;
        }
        so_far |= written(i);
    }
    None
}

/// The host's CF is still the guest's in front of instruction `n`.
fn has_carry(n: usize, ins: &[Instruction], plans: &[Plan]) -> bool {
    for k in (0..n).rev() {
        let i = &ins[k];
        // Behind a change of ESP or EBP its page is looked up.
        if plans[k] != Plan::Native || written(i) & (1 << 4 | 1 << 5) != 0 {
            return false;
        }
        match i.mnemonic() {
            Mnemonic::Mov | Mnemonic::Lea | Mnemonic::Movzx | Mnemonic::Movsx
                if (has_memory(i) && i.mnemonic() != Mnemonic::Lea)
                    || (0..i.op_count()).any(|n| i.op_register(n).is_segment_register()) =>
            {
                return false;
            }
            Mnemonic::Mov | Mnemonic::Lea | Mnemonic::Movzx | Mnemonic::Movsx => {}
            Mnemonic::Add
            | Mnemonic::Adc
            | Mnemonic::Sub
            | Mnemonic::Sbb
            | Mnemonic::Cmp
            | Mnemonic::And
            | Mnemonic::Or
            | Mnemonic::Xor
            | Mnemonic::Test
            | Mnemonic::Neg => return true,
            Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar => {
                return shift_count(i).is_some_and(|count| count != 0);
            }
            _ => return false,
        }
    }
    false
}

/// Plans and visibility of flags, from the end of the block to its start.
pub(super) fn plan(ins: &[Instruction], insns: &[Insn], features: Features) -> Planned {
    let mut plans = vec![Plan::Call; ins.len()];
    let mut visible = vec![true; ins.len()];
    let mut carries = vec![false; ins.len()];
    // At the end of the block they are.
    let mut after = true;
    for n in (0..ins.len()).rev() {
        visible[n] = after;
        if features.native && is_native(&ins[n], &insns[n], after, features) {
            plans[n] = Plan::Native;
        }
        let reads = ins[n].rflags_read() & ARITH != 0;
        after = !features.has(Part::Flags)
            || leaves_always(&ins[n], &insns[n], plans[n])
            || may_be_slow(&ins[n])
            || reads
            || (after && !sets_all(&ins[n]));
    }
    // From the start: what comes before is planned natively or not by now.
    for n in 0..ins.len() {
        let step = matches!(ins[n].mnemonic(), Mnemonic::Inc | Mnemonic::Dec);
        // Storing a shift's flags changes CF, so they must not be stored in between.
        carries[n] = features.has(Part::Flags)
            && step
            && plans[n] == Plan::Native
            && !has_memory(&ins[n])
            && has_carry(n, ins, &plans);
    }
    // Where INC or DEC has CF already, it leaves nothing of what was before it.
    let mut after = true;
    for n in (0..ins.len()).rev() {
        visible[n] = after;
        after = !features.has(Part::Flags)
            || leaves_always(&ins[n], &insns[n], plans[n])
            || may_be_slow(&ins[n])
            || ins[n].rflags_read() & ARITH != 0
            || (after && !sets_all(&ins[n]) && !carries[n]);
    }
    let mut recipes = vec![None; ins.len()];
    let with_recipes = features.has(Part::Recipes) && features.has(Part::Flags);
    let lazy = features.has(Part::Lazy);
    for n in 0..ins.len() {
        if with_recipes
            && visible[n]
            && plans[n] == Plan::Native
            && let Some((recipe, registers)) = recipe(n, &ins[n], &insns[n])
            && is_enough(n, recipe, registers, ins, insns, &plans, &carries, lazy)
        {
            recipes[n] = Some(recipe);
            visible[n] = false;
        }
    }
    let entry = if lazy { entry(ins, insns, &plans) } else { None };
    Planned { plans, visible, recipes, carries, entry }
}

/// The flags have to be in the slot for this instruction.
fn leaves_always(ins: &Instruction, insn: &Insn, plan: Plan) -> bool {
    plan == Plan::Call || insn.flags & Insn::ENDS_BLOCK != 0 || leaves_otherwise(ins.mnemonic())
}

/// A native instruction that is left to the interpreter when an access is slow.
fn may_be_slow(ins: &Instruction) -> bool {
    let m = ins.mnemonic();
    (has_memory(ins) && m != Mnemonic::Lea && !is_nop(m))
        || uses_stack(m)
        || is_vector_or_float(ins)
        || ins.is_string_instruction()
}

/// Instructions that need more than the general registers.
fn is_vector_or_float(ins: &Instruction) -> bool {
    simd::is_simd(ins) || x87::is_x87(ins) || mmx::is_mmx(ins)
}

/// The recipe for an instruction's flags, and a mask of the guest registers it needs.
fn recipe(n: usize, ins: &Instruction, insn: &Insn) -> Option<(Recipe, u16)> {
    let full = |r: Register| 1u16 << r.full_register32().number();
    if let Mnemonic::Mul | Mnemonic::Imul = ins.mnemonic()
        && ins.op_count() == 1
    {
        let signed = ins.mnemonic() == Mnemonic::Imul;
        return (size(ins) == 4).then_some((Recipe::Product { signed }, 1 << 0 | 1 << 2));
    }
    if has_memory(ins)
        && let Some(found) = recipe_of_memory(n, ins, insn)
    {
        return Some(found);
    }
    if ins.op0_kind() != OpKind::Register {
        return None;
    }
    let op0 = ins.op0_register();
    let size = op0.size() as u32;
    let r = pinned_or_byte(op0);
    let imm = insn.imm as i32;
    let source = (ins.op1_kind() == OpKind::Register).then(|| ins.op1_register());
    let is_memory = ins.op1_kind() == OpKind::Memory;
    Some(match ins.mnemonic() {
        Mnemonic::And | Mnemonic::Or | Mnemonic::Xor => (Recipe::Logic { size, r }, full(op0)),
        Mnemonic::Cmp | Mnemonic::Test if !is_memory => {
            (Recipe::Compare { n }, full(op0) | source.map_or(0, full))
        }
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar if size == 4 => {
            let number = match ins.mnemonic() {
                Mnemonic::Shr => 5,
                Mnemonic::Sar => 7,
                _ => 4,
            };
            (Recipe::Shift { size, number, count: shift_count(ins)? }, KEPT)
        }
        Mnemonic::Imul if size == 4 && !is_memory => (Recipe::LowProduct { r }, full(op0) | KEPT),
        _ if size != 4 || source == Some(op0) || is_memory && ins.mnemonic() == Mnemonic::Cmp => return None,
        Mnemonic::Adc if !is_memory => match source {
            Some(s) => (Recipe::Adc { r, s: pinned_or_byte(s) }, full(op0) | full(s) | KEPT),
            None => (Recipe::AdcImm { r, imm }, full(op0) | KEPT),
        },
        Mnemonic::Sbb if !is_memory => match source {
            Some(s) => (Recipe::Sbb { r, s: pinned_or_byte(s) }, full(op0) | full(s) | KEPT),
            None => (Recipe::SbbImm { r, imm }, full(op0) | KEPT),
        },
        Mnemonic::Inc => (Recipe::Step { r, number: 0 }, full(op0)),
        Mnemonic::Dec => (Recipe::Step { r, number: 1 }, full(op0)),
        Mnemonic::Add if is_memory => (Recipe::AddMemory { r }, full(op0) | KEPT),
        Mnemonic::Sub if is_memory => (Recipe::SubMemory { r }, full(op0) | KEPT),
        Mnemonic::Add => match source {
            Some(s) => (Recipe::Add { r, s: pinned_or_byte(s) }, full(op0) | full(s)),
            None => (Recipe::AddImm { r, imm }, full(op0)),
        },
        Mnemonic::Sub => match source {
            Some(s) => (Recipe::Sub { r, s: pinned_or_byte(s) }, full(op0) | full(s)),
            None => (Recipe::SubImm { r, imm }, full(op0)),
        },
        _ => return None,
    })
}

/// The recipe of an instruction that compares with memory, or changes memory: its operand, or its result, can be kept
/// in r11.
fn recipe_of_memory(n: usize, ins: &Instruction, insn: &Insn) -> Option<(Recipe, u16)> {
    let full = |r: Register| 1u16 << r.full_register32().number();
    let register = (0..2).map(|k| ins.op_register(k)).find(|&r| r != Register::None);
    // They cannot be named together with r11.
    if register.is_some_and(is_high) {
        return None;
    }
    let others = register.map_or(0, full);
    let r = host::R11;
    let imm = insn.imm as i32;
    let recipe = match ins.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Test => return Some((Recipe::CompareMemory { n }, others | KEPT)),
        _ if ins.op0_kind() != OpKind::Memory || size(ins) != 4 => return None,
        Mnemonic::And | Mnemonic::Or | Mnemonic::Xor => return Some((Recipe::Logic { size: 4, r }, KEPT)),
        Mnemonic::Inc => Recipe::Step { r, number: 0 },
        Mnemonic::Dec => Recipe::Step { r, number: 1 },
        Mnemonic::Add => match register {
            Some(s) => Recipe::Add { r, s: pinned_or_byte(s) },
            None => Recipe::AddImm { r, imm },
        },
        Mnemonic::Sub => match register {
            Some(s) => Recipe::Sub { r, s: pinned_or_byte(s) },
            None => Recipe::SubImm { r, imm },
        },
        _ => return None,
    };
    Some((recipe, others | KEPT))
}

fn pinned_or_byte(r: Register) -> u8 {
    let n = register_number(r);
    if r.is_gpr8() { n } else { pinned(n) }
}

/// Everything that can see the flags behind instruction `n` can compute them again: slow accesses, readers that
/// want them in the host's flags, the end of the block; and the registers are as instruction `n` left them there.
#[allow(clippy::too_many_arguments)] // all of what is known of the block
fn is_enough(
    n: usize,
    recipe: Recipe,
    registers: u16,
    ins: &[Instruction],
    insns: &[Insn],
    plans: &[Plan],
    carries: &[bool],
    lazy: bool,
) -> bool {
    let mut intact = true;
    for k in n + 1..ins.len() {
        let i = &ins[k];
        if plans[k] == Plan::Native && insns[k].flags & Insn::ENDS_BLOCK != 0 {
            // Transfers leave r11 alone until the flags have been left behind.
            return lazy
                && intact
                && recipe.is_lazy()
                && is_direct(i)
                && written(i) & registers & !KEPT == 0
                && (i.rflags_read() & ARITH == 0 || recipe.is_for_host());
        }
        if leaves_always(i, &insns[k], plans[k]) {
            return false;
        }
        if i.rflags_read() & ARITH != 0 && (!intact || !recipe.is_for_host() || !rereads(i)) {
            return false;
        }
        // PUSH of memory and MOVS change r11 before their second check.
        let twice = i.mnemonic() == Mnemonic::Push || i.is_string_instruction();
        let early = twice && written(i) & KEPT & registers != 0;
        if may_be_slow(i) && (!intact || early) {
            return false;
        }
        if sets_all(i) || carries[k] {
            return true;
        }
        if i.rflags_modified() & ARITH != 0 {
            return false;
        }
        intact &= written(i) & registers == 0;
    }
    // The next block follows without a branch.
    lazy && intact && recipe.is_lazy()
}

/// A direct transfer: an edge can lead through what computes the flags. It may be a call.
pub(super) fn is_direct(i: &Instruction) -> bool {
    i.is_jcc_short_or_near()
        || i.is_jmp_short_or_near()
        || i.is_call_near()
        || matches!(i.mnemonic(), Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Loop)
}

/// It reads flags from the host's, so they may be computed again for it.
fn rereads(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Adc | Mnemonic::Sbb)
        || i.condition_code() != ConditionCode::None && i.op_count() <= 2 && only_general(i)
}

/// Guest registers a native instruction may write: more than it does, never fewer.
pub(super) fn written(ins: &Instruction) -> u16 {
    // Most moves leave r11 alone.
    let keeps = matches!(
        ins.mnemonic(),
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Lea | Mnemonic::Not | Mnemonic::Bswap
    ) || ins.mnemonic() == Mnemonic::Push && !has_memory(ins);
    let mut mask = if keeps { 0 } else { KEPT };
    let looks = matches!(
        ins.mnemonic(),
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt | Mnemonic::Push | Mnemonic::Jmp | Mnemonic::Call
    );
    for n in 0..ins.op_count().min(if looks { 0 } else { 2 }) {
        let r = ins.op_register(n);
        if ins.op_kind(n) == OpKind::Register
            && is_general(r)
            && (n == 0 || matches!(ins.mnemonic(), Mnemonic::Xchg | Mnemonic::Xadd))
        {
            mask |= 1 << register_number(r.full_register32());
        }
    }
    mask | match ins.mnemonic() {
        Mnemonic::Loop => 1 << 1,
        Mnemonic::Call | Mnemonic::Ret => 1 << 4,
        Mnemonic::Fnstsw => 1 << 0,
        Mnemonic::Cdq | Mnemonic::Cwd => 1 << 2,
        Mnemonic::Cwde | Mnemonic::Cbw => 1 << 0,
        Mnemonic::Mul | Mnemonic::Imul | Mnemonic::Div | Mnemonic::Idiv => 1 << 0 | 1 << 2,
        Mnemonic::Push | Mnemonic::Pop | Mnemonic::Pushf | Mnemonic::Pushfd => 1 << 4,
        Mnemonic::Cmpxchg => 1 << 0,
        Mnemonic::Cmpxchg8b => 1 << 0 | 1 << 2,
        _ if ins.is_string_instruction() => 1 << 0 | 1 << 1 | 1 << 6 | 1 << 7,
        Mnemonic::Leave => 1 << 4 | 1 << 5,
        _ => 0,
    }
}

fn uses_stack(m: Mnemonic) -> bool {
    matches!(m, Mnemonic::Push | Mnemonic::Pop | Mnemonic::Leave | Mnemonic::Pushf | Mnemonic::Pushfd)
}

/// Native instructions that may be left to the interpreter although they access no memory, or whose
/// lowering needs the flags in the slot.
fn leaves_otherwise(m: Mnemonic) -> bool {
    matches!(
        m,
        Mnemonic::Div
            | Mnemonic::Idiv
            | Mnemonic::Cli
            | Mnemonic::Cld
            | Mnemonic::Std
            | Mnemonic::Pushf
            | Mnemonic::Pushfd
    )
}

/// A native lowering leaves no arithmetic flag as it was, whatever the operands.
fn sets_all(ins: &Instruction) -> bool {
    match ins.mnemonic() {
        Mnemonic::Add
        | Mnemonic::Adc
        | Mnemonic::Sub
        | Mnemonic::Sbb
        | Mnemonic::Cmp
        | Mnemonic::Neg
        | Mnemonic::And
        | Mnemonic::Or
        | Mnemonic::Xor
        | Mnemonic::Test
        | Mnemonic::Mul
        | Mnemonic::Imul
        | Mnemonic::Cmpxchg
        | Mnemonic::Xadd
        | Mnemonic::Ucomisd
        | Mnemonic::Ucomiss
        | Mnemonic::Comisd
        | Mnemonic::Comiss
        | Mnemonic::Fcomi
        | Mnemonic::Fcomip
        | Mnemonic::Fucomi
        | Mnemonic::Fucomip => true,
        // Native with a count of at least 1 only.
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar | Mnemonic::Shld | Mnemonic::Shrd => {
            shift_count(ins).is_some_and(|n| n != 0)
        }
        _ => false,
    }
}

/// The count of a shift by a constant.
pub(super) fn shift_count(ins: &Instruction) -> Option<u32> {
    let last = ins.op_count() - 1;
    match ins.op_kind(last) {
        OpKind::Immediate8 => Some(ins.immediate(last) as u32 & 31),
        _ => None,
    }
}

pub(super) fn is_nop(m: Mnemonic) -> bool {
    matches!(
        m,
        Mnemonic::Nop
            | Mnemonic::Pause
            | Mnemonic::Prefetchnta
            | Mnemonic::Prefetcht0
            | Mnemonic::Prefetcht1
            | Mnemonic::Prefetcht2
            | Mnemonic::Lfence
            | Mnemonic::Mfence
            | Mnemonic::Sfence
            | Mnemonic::Endbr32
    )
}

/// A memory operand that the emitter can address. Where segments are taken to be flat: 32-bit addresses, and not
/// through CS, which may not be written.
fn is_addressable(ins: &Instruction, insn: &Insn, features: Features) -> bool {
    features.segmented.is_some()
        || !insn.addr16() && (ins.memory_segment() != Register::CS || ins.mnemonic() == Mnemonic::Lea)
}

fn is_general(r: Register) -> bool {
    r.is_gpr8() || r.is_gpr16() || r.is_gpr32()
}

/// All register operands are general registers.
fn only_general(ins: &Instruction) -> bool {
    (0..ins.op_count()).all(|n| ins.op_kind(n) != OpKind::Register || is_general(ins.op_register(n)))
}

fn is_native(ins: &Instruction, insn: &Insn, visible: bool, features: Features) -> bool {
    if ins.is_invalid() || insn.exec as usize == emu_core::interp::dispatch::undefined as *const () as usize {
        return false;
    }
    let m = ins.mnemonic();
    if is_off(ins, insn, features) {
        return false;
    }
    if is_nop(m) {
        return true;
    }
    let memory = has_memory(ins);
    if is_vector_or_float(ins) {
        return !memory || is_addressable(ins, insn, features);
    }
    if memory && !is_addressable(ins, insn, features) && m != Mnemonic::Lea {
        return false;
    }
    let segmented = features.segmented.is_some();
    if system::is_native(ins, insn, segmented) || string::is_native(ins, insn, segmented) {
        return true;
    }
    if !only_general(ins) {
        return false;
    }
    let register = |n: u32| ins.op_kind(n) == OpKind::Register;
    match m {
        Mnemonic::Mov
        | Mnemonic::Add
        | Mnemonic::Adc
        | Mnemonic::Sub
        | Mnemonic::Sbb
        | Mnemonic::Cmp
        | Mnemonic::Neg
        | Mnemonic::And
        | Mnemonic::Or
        | Mnemonic::Xor
        | Mnemonic::Test
        | Mnemonic::Inc
        | Mnemonic::Dec
        | Mnemonic::Not
        | Mnemonic::Movzx
        | Mnemonic::Movsx
        | Mnemonic::Xchg
        | Mnemonic::Bswap => {
            // MOVZX and MOVSX from AH to ESP would need a register name that does not exist.
            let high = ins.op_count() == 2 && register(1) && is_high(ins.op1_register());
            let to_esp = matches!(ins.op0_register(), Register::ESP | Register::SP);
            let word_swap = m == Mnemonic::Bswap && size(ins) == 2;
            !(high && to_esp || word_swap)
        }
        Mnemonic::Lea => is_addressable(ins, insn, features),
        Mnemonic::Cdq | Mnemonic::Cwde | Mnemonic::Cbw | Mnemonic::Cwd => true,
        Mnemonic::Push => (segmented || !insn.op16()) && (memory || register(0) || is_immediate(ins)),
        Mnemonic::Pop => (segmented || !insn.op16()) && register(0),
        Mnemonic::Leave => segmented || !insn.op16(),
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar => match shift_count(ins) {
            Some(count) => count != 0 && count < 8 * size(ins),
            None => !visible || (features.bmi2 && register(0) && size(ins) == 4),
        },
        Mnemonic::Rol | Mnemonic::Ror => match shift_count(ins) {
            Some(count) => count != 0 && count < 8 * size(ins),
            None => !visible,
        },
        Mnemonic::Rcl | Mnemonic::Rcr => shift_count(ins) == Some(1),
        Mnemonic::Shld | Mnemonic::Shrd => {
            size(ins) == 4 && register(0) && shift_count(ins).map_or(!visible, |n| n != 0)
        }
        Mnemonic::Imul => ins.op_count() == 1 || size(ins) == 4 || register(1),
        Mnemonic::Mul => true,
        Mnemonic::Cmpxchg => !(is_high(ins.op1_register()) || register(0) && is_high(ins.op0_register())),
        Mnemonic::Xadd => memory && !is_high(ins.op1_register()),
        Mnemonic::Cmpxchg8b => memory,
        Mnemonic::Div | Mnemonic::Idiv => size(ins) == 4,
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => {
            let based = matches!(ins.memory_segment(), Register::FS | Register::GS);
            register(0) || ins.op1_kind() == OpKind::Immediate8 || (size(ins) == 4 && !based && !segmented)
        }
        Mnemonic::Bsf | Mnemonic::Bsr | Mnemonic::Tzcnt | Mnemonic::Lzcnt => size(ins) == 4,
        Mnemonic::Clc | Mnemonic::Stc | Mnemonic::Cmc | Mnemonic::Cld | Mnemonic::Std | Mnemonic::Cli => true,
        Mnemonic::Jmp => {
            ins.is_jmp_short_or_near() && is_reached(insn, features)
                || ins.is_jmp_near_indirect() && (segmented || !insn.op16())
        }
        Mnemonic::Call => {
            ins.is_call_near() && is_reached(insn, features)
                || ins.is_call_near_indirect() && (segmented || !insn.op16())
        }
        Mnemonic::Ret => segmented || !insn.op16(),
        Mnemonic::Loop | Mnemonic::Jecxz if !segmented => {
            use iced_x86::Code;
            matches!(ins.code(), Code::Loop_rel8_32_ECX | Code::Jecxz_rel8_32)
        }
        Mnemonic::Loop | Mnemonic::Jecxz | Mnemonic::Jcxz => segmented && is_reached(insn, features),
        _ if ins.is_jcc_short_or_near() => is_reached(insn, features),
        // SETcc and CMOVcc.
        _ => ins.condition_code() != ConditionCode::None && ins.op_count() <= 2 && !is_branch(ins),
    }
}

/// Whether a relative branch needs no check of its target.
fn is_reached(insn: &Insn, features: Features) -> bool {
    match features.segmented {
        None => !insn.op16(),
        Some(segmented) => target(insn, segmented) <= segmented.limit,
    }
}

/// Where a relative branch leads.
pub(super) fn target(insn: &Insn, segmented: Segmented) -> u32 {
    let eip = segmented.eip.wrapping_add(u32::from(insn.end)).wrapping_add(insn.disp);
    if insn.op16() { eip & 0xFFFF } else { eip }
}

/// The part of the translator that lowers the instruction is switched off.
fn is_off(ins: &Instruction, insn: &Insn, features: Features) -> bool {
    let off = |part| !features.has(part);
    let branch = insn.flags & Insn::ENDS_BLOCK != 0 && !system::is_system(ins);
    if off(Part::Memory) && may_be_slow(ins) && (!is_vector_or_float(ins) || has_memory(ins)) {
        return true;
    }
    off(if simd::is_simd(ins) {
        Part::Simd
    } else if mmx::is_mmx(ins) {
        Part::Mmx
    } else if x87::is_x87(ins) {
        Part::Fpu
    } else if ins.is_string_instruction() {
        Part::Strings
    } else if system::loads_segment(ins) && off(Part::Descriptors) {
        Part::Descriptors
    } else if system::is_system(ins) || ins.mnemonic() == Mnemonic::Cli {
        Part::System
    } else if branch {
        Part::Branches
    } else {
        Part::Integer
    })
}

fn is_branch(ins: &Instruction) -> bool {
    matches!(ins.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32)
}

fn is_immediate(ins: &Instruction) -> bool {
    matches!(
        ins.op0_kind(),
        OpKind::Immediate32
            | OpKind::Immediate16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to16
            | OpKind::Immediate8
    )
}

/// AH CH DH BH.
pub(super) fn is_high(r: Register) -> bool {
    matches!(r, Register::AH | Register::CH | Register::DH | Register::BH)
}
