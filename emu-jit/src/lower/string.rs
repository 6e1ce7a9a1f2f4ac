//! String instructions. Alone they are ordinary moves. A repeated MOVS or STOS is done by the host's, if it
//! goes upwards and stays in one fast page: it is a single pass then (`emu-core/src/interp/string.rs`). The
//! rest is left to the interpreter.

use dynasm::dynasm;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi};
use emu_core::cpu::flags;
use emu_core::cpu::tlb::WRITE_TABLE;
use emu_core::decode::Insn;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::Translator;
use super::memory::Direction;
use crate::encode;
use crate::layout::{EFLAGS, host};

const ESI: u8 = 6;
const EDI: u8 = 7;

/// What is done with each element.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Move,
    Store,
    Load,
    Scan,
}

/// Operation and element size.
fn operation(ins: &Instruction) -> Option<(Operation, u32)> {
    Some(match ins.mnemonic() {
        Mnemonic::Movsb => (Operation::Move, 1),
        Mnemonic::Movsw => (Operation::Move, 2),
        Mnemonic::Movsd => (Operation::Move, 4),
        Mnemonic::Stosb => (Operation::Store, 1),
        Mnemonic::Stosw => (Operation::Store, 2),
        Mnemonic::Stosd => (Operation::Store, 4),
        Mnemonic::Lodsb => (Operation::Load, 1),
        Mnemonic::Lodsw => (Operation::Load, 2),
        Mnemonic::Lodsd => (Operation::Load, 4),
        Mnemonic::Scasb => (Operation::Scan, 1),
        Mnemonic::Scasw => (Operation::Scan, 2),
        Mnemonic::Scasd => (Operation::Scan, 4),
        _ => return None,
    })
}

fn is_repeated(insn: &Insn) -> bool {
    insn.flags & (Insn::REP | Insn::REPNE) != 0
}

pub(super) fn is_native(ins: &Instruction, insn: &Insn) -> bool {
    if !ins.is_string_instruction() || insn.addr16() {
        return false;
    }
    // The source must be in a segment that is taken to be flat.
    let source = (0..ins.op_count()).any(|n| ins.op_kind(n) == OpKind::MemorySegESI);
    if source && !matches!(ins.memory_segment(), Register::DS | Register::ES | Register::SS) {
        return false;
    }
    match operation(ins) {
        Some((Operation::Move | Operation::Store, _)) => true,
        Some(_) => !is_repeated(insn),
        None => false,
    }
}

impl Translator<'_> {
    /// Lowers the current instruction.
    pub(super) fn string(&mut self) {
        let Some((operation, size)) = operation(&self.insn()) else { return };
        let (slow, back) = self.slow();
        let df = (flags::DF >> 8) as i8;
        dynasm!(self.ops ; .arch x64 ; test BYTE [BYTE r13 + (EFLAGS as i8 + 1)], df ; jnz =>slow);
        if is_repeated(&self.insns[self.n]) {
            self.repeat(operation, size, slow);
            dynasm!(self.ops ; .arch x64 ; =>back);
            return;
        }
        let step = size as i32;
        let wide = u8::from(size != 1);
        match operation {
            Operation::Move => {
                let rm = self.check(ESI, size, Direction::Read, slow);
                encode::op(&mut self.ops, size, &[0x8A | wide], host::R11, rm);
                let rm = self.check(EDI, size, Direction::Write, slow);
                encode::op(&mut self.ops, size, &[0x88 | wide], host::R11, rm);
                dynasm!(self.ops ; .arch x64 ; lea esi, [rsi + step] ; lea edi, [rdi + step]);
            }
            Operation::Store => {
                let rm = self.check(EDI, size, Direction::Write, slow);
                encode::op(&mut self.ops, size, &[0x88 | wide], host::RAX, rm);
                dynasm!(self.ops ; .arch x64 ; lea edi, [rdi + step]);
            }
            Operation::Load => {
                let rm = self.check(ESI, size, Direction::Read, slow);
                encode::op(&mut self.ops, size, &[0x8A | wide], host::RAX, rm);
                dynasm!(self.ops ; .arch x64 ; lea esi, [rsi + step]);
            }
            Operation::Scan => {
                let rm = self.check(EDI, size, Direction::Read, slow);
                encode::op(&mut self.ops, size, &[0x3A | wide], host::RAX, rm);
                dynasm!(self.ops ; .arch x64 ; lea edi, [rdi + step]);
                self.flags_set();
            }
        }
        dynasm!(self.ops ; .arch x64 ; =>back);
    }

    /// Bytes up to the end of the page at an address are at least as many as are to be done. Changes r10.
    fn check_room(&mut self, address: u8, size: u32, slow: DynamicLabel) {
        dynasm!(self.ops ; .arch x64 ; mov r10d, Rd(address) ; and r10d, 0xFFF);
        match size {
            1 => dynasm!(self.ops ; .arch x64 ; add r10d, ecx),
            2 => dynasm!(self.ops ; .arch x64 ; lea r10d, [r10 + rcx * 2]),
            _ => dynasm!(self.ops ; .arch x64 ; lea r10d, [r10 + rcx * 4]),
        }
        dynasm!(self.ops ; .arch x64 ; cmp r10d, 0x1000 ; ja =>slow);
    }

    /// REP MOVS, REP STOS.
    fn repeat(&mut self, operation: Operation, size: u32, slow: DynamicLabel) {
        let done = self.ops.new_dynamic_label();
        let most = (0x1000 / size) as i32;
        // A count of 0 touches nothing.
        dynasm!(self.ops ; .arch x64 ; cmp ecx, most ; ja =>slow ; test ecx, ecx ; jz =>done);
        if operation == Operation::Move {
            self.check_room(ESI, size, slow);
            dynasm!(self.ops
                ; .arch x64
                ; mov r8d, esi
                ; shr r8d, 12
                ; mov r8, [r15 + r8 * 8]
                ; test r8, r8
                ; jz =>slow
            );
        }
        self.check_room(EDI, size, slow);
        dynasm!(self.ops
            ; .arch x64
            ; mov r9d, edi
            ; shr r9d, 12
            ; mov r9, [r15 + r9 * 8 + WRITE_TABLE as i32]
            ; test r9, r9
            ; jz =>slow
            // To host addresses, and back.
            ; lea rdi, [r9 + rdi - 1]
        );
        if operation == Operation::Move {
            dynasm!(self.ops ; .arch x64 ; lea rsi, [r8 + rsi - 1]);
        }
        match (operation, size) {
            (Operation::Move, 1) => dynasm!(self.ops ; .arch x64 ; rep movsb),
            (Operation::Move, 2) => dynasm!(self.ops ; .arch x64 ; rep movsw),
            (Operation::Move, _) => dynasm!(self.ops ; .arch x64 ; rep movsd),
            (_, 1) => dynasm!(self.ops ; .arch x64 ; rep stosb),
            (_, 2) => dynasm!(self.ops ; .arch x64 ; rep stosw),
            _ => dynasm!(self.ops ; .arch x64 ; rep stosd),
        }
        if operation == Operation::Move {
            dynasm!(self.ops ; .arch x64 ; sub rsi, r8 ; lea esi, [rsi + 1]);
        }
        dynasm!(self.ops ; .arch x64 ; sub rdi, r9 ; lea edi, [rdi + 1] ; =>done);
        self.clobber();
    }
}
