//! What is lowered natively, and which flags can be seen.

use emu_core::decode::Insn;
use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind, Register};

use super::Features;

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

/// Plans and visibility of flags, from the end of the block to its start.
pub(super) fn plan(ins: &[Instruction], insns: &[Insn], features: Features) -> (Vec<Plan>, Vec<bool>) {
    let mut plans = vec![Plan::Call; ins.len()];
    let mut visible = vec![true; ins.len()];
    // At the end of the block they are.
    let mut after = true;
    for n in (0..ins.len()).rev() {
        visible[n] = after;
        if features.native && is_native(&ins[n], &insns[n], after, features) {
            plans[n] = Plan::Native;
        }
        let leaves = plans[n] == Plan::Call
            || insns[n].flags & Insn::ENDS_BLOCK != 0
            || (has_memory(&ins[n]) && ins[n].mnemonic() != Mnemonic::Lea && !is_nop(ins[n].mnemonic()))
            || uses_stack(ins[n].mnemonic())
            || leaves_otherwise(ins[n].mnemonic());
        let reads = ins[n].rflags_read() & ARITH != 0;
        after = leaves || reads || (after && !sets_all(&ins[n]));
    }
    (plans, visible)
}

fn uses_stack(m: Mnemonic) -> bool {
    matches!(m, Mnemonic::Push | Mnemonic::Pop | Mnemonic::Leave | Mnemonic::Pushfd)
}

/// Native instructions that may be left to the interpreter although they access no memory, or whose
/// lowering needs the flags in the slot.
fn leaves_otherwise(m: Mnemonic) -> bool {
    matches!(
        m,
        Mnemonic::Div | Mnemonic::Idiv | Mnemonic::Cli | Mnemonic::Cld | Mnemonic::Std | Mnemonic::Cmpxchg
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
        | Mnemonic::Xadd => true,
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

/// A memory operand that the emitter can address: 32-bit addresses, and not through CS, which may not be
/// written.
fn is_addressable(ins: &Instruction, insn: &Insn) -> bool {
    !insn.addr16() && (ins.memory_segment() != Register::CS || ins.mnemonic() == Mnemonic::Lea)
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
    if is_nop(m) {
        return true;
    }
    let memory = has_memory(ins);
    if memory && !is_addressable(ins, insn) && m != Mnemonic::Lea {
        return false;
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
            let high = |n: u32| register(n) && is_high(ins.op_register(n));
            !(ins.op_count() == 2 && high(1) && matches!(ins.op0_register(), Register::ESP | Register::SP))
                && !(m == Mnemonic::Bswap && size(ins) == 2)
        }
        Mnemonic::Lea => is_addressable(ins, insn),
        Mnemonic::Cdq | Mnemonic::Cwde | Mnemonic::Cbw | Mnemonic::Cwd => true,
        Mnemonic::Push => !insn.op16() && (memory || register(0) || is_immediate(ins)),
        Mnemonic::Pop => !insn.op16() && register(0),
        Mnemonic::Leave => !insn.op16(),
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
            size(ins) == 4 && register(0) && shift_count(ins).is_some_and(|n| n != 0)
        }
        Mnemonic::Imul => ins.op_count() == 1 || size(ins) == 4 || register(1),
        Mnemonic::Mul => true,
        Mnemonic::Div | Mnemonic::Idiv => size(ins) == 4,
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => {
            register(0) || ins.op1_kind() == OpKind::Immediate8
        }
        Mnemonic::Bsf | Mnemonic::Bsr | Mnemonic::Tzcnt | Mnemonic::Lzcnt => size(ins) == 4,
        Mnemonic::Clc | Mnemonic::Stc | Mnemonic::Cmc | Mnemonic::Cld | Mnemonic::Std | Mnemonic::Cli => true,
        Mnemonic::Jmp => {
            ins.is_jmp_short_or_near() && !insn.op16() || ins.is_jmp_near_indirect() && !insn.op16()
        }
        Mnemonic::Call => !insn.op16() && (ins.is_call_near() || ins.is_call_near_indirect()),
        Mnemonic::Ret => !insn.op16(),
        Mnemonic::Loop | Mnemonic::Jecxz => {
            use iced_x86::Code;
            matches!(ins.code(), Code::Loop_rel8_32_ECX | Code::Jecxz_rel8_32)
        }
        _ if ins.is_jcc_short_or_near() => !insn.op16(),
        // SETcc and CMOVcc.
        _ => ins.condition_code() != ConditionCode::None && ins.op_count() <= 2 && !is_branch(ins),
    }
}

fn is_branch(ins: &Instruction) -> bool {
    matches!(ins.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32)
}

fn is_immediate(ins: &Instruction) -> bool {
    matches!(ins.op0_kind(), OpKind::Immediate32 | OpKind::Immediate8to32 | OpKind::Immediate8)
}

/// AH CH DH BH.
pub(super) fn is_high(r: Register) -> bool {
    matches!(r, Register::AH | Register::CH | Register::DH | Register::BH)
}
