//! String instructions. Alone they are ordinary moves. A repeated MOVS or STOS is done by the host's, if it
//! goes upwards and stays in one fast page: it is a single pass then (`emu-core/src/interp/string.rs`). The
//! rest is left to the interpreter.

use dynasm::dynasm;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi};
use emu_core::cpu::flags;
use emu_core::cpu::tlb::WRITE_TABLE;
use emu_core::decode::Insn;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::memory::Direction;
use super::{Ops, Stub, Translator};
use crate::encode::{self, Rm};
use crate::layout::{self, EFLAGS, host, seg_base};

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

pub(super) fn is_native(ins: &Instruction, insn: &Insn, segmented: bool) -> bool {
    if !ins.is_string_instruction() || insn.addr16() && !segmented {
        return false;
    }
    // The source must be in a segment that is taken to be flat.
    let source = (0..ins.op_count()).any(|n| ins.op_kind(n) == OpKind::MemorySegESI);
    if source && !segmented && !matches!(ins.memory_segment(), Register::DS | Register::ES | Register::SS) {
        return false;
    }
    match operation(ins) {
        Some((Operation::Move | Operation::Store, _)) => true,
        Some(_) => !is_repeated(insn),
        None => false,
    }
}

/// The host's instruction.
fn copy(ops: &mut Ops, operation: Operation, size: u32) {
    match (operation, size) {
        (Operation::Move, 1) => dynasm!(ops ; .arch x64 ; rep movsb),
        (Operation::Move, 2) => dynasm!(ops ; .arch x64 ; rep movsw),
        (Operation::Move, _) => dynasm!(ops ; .arch x64 ; rep movsd),
        (_, 1) => dynasm!(ops ; .arch x64 ; rep stosb),
        (_, 2) => dynasm!(ops ; .arch x64 ; rep stosw),
        _ => dynasm!(ops ; .arch x64 ; rep stosd),
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
            if self.is_segmented() {
                self.repeat_in_segments(operation, size, slow);
            } else {
                self.repeat(operation, size, slow);
            }
            dynasm!(self.ops ; .arch x64 ; =>back);
            return;
        }
        let step = size as i32;
        let wide = u8::from(size != 1);
        match operation {
            Operation::Move => {
                let rm = self.element(ESI, size, Direction::Read, slow);
                encode::op(&mut self.ops, size, &[0x8A | wide], host::R11, rm);
                let rm = self.element(EDI, size, Direction::Write, slow);
                encode::op(&mut self.ops, size, &[0x88 | wide], host::R11, rm);
                self.advance(ESI, step);
                self.advance(EDI, step);
            }
            Operation::Store => {
                let rm = self.element(EDI, size, Direction::Write, slow);
                encode::op(&mut self.ops, size, &[0x88 | wide], host::RAX, rm);
                self.advance(EDI, step);
            }
            Operation::Load => {
                let rm = self.element(ESI, size, Direction::Read, slow);
                encode::op(&mut self.ops, size, &[0x8A | wide], host::RAX, rm);
                self.advance(ESI, step);
            }
            Operation::Scan => {
                let rm = self.element(EDI, size, Direction::Read, slow);
                encode::op(&mut self.ops, size, &[0x3A | wide], host::RAX, rm);
                self.advance(EDI, step);
                self.flags_set();
            }
        }
        dynasm!(self.ops ; .arch x64 ; =>back);
    }

    /// Checks the element that ESI or EDI points to.
    fn element(&mut self, r: u8, size: u32, direction: Direction, slow: DynamicLabel) -> Rm {
        if !self.is_segmented() {
            return self.check(r, size, direction, slow);
        }
        self.offset(host::R8, r);
        let segment = self.segment_of(r);
        self.check_in_segment(segment, size, direction, slow)
    }

    /// The offset in ESI or EDI, in the address size. No flag changes.
    fn offset(&mut self, into: u8, r: u8) {
        if self.insns[self.n].addr16() {
            dynasm!(self.ops ; .arch x64 ; movzx Rd(into), Rw(r));
        } else {
            dynasm!(self.ops ; .arch x64 ; mov Rd(into), Rd(r));
        }
    }

    /// The segment that ESI or EDI points into.
    fn segment_of(&self, r: u8) -> u8 {
        if r == EDI { 0 } else { self.insns[self.n].seg }
    }

    /// ESI or EDI goes on. No flag changes.
    fn advance(&mut self, r: u8, by: i32) {
        if self.insns[self.n].addr16() {
            dynasm!(self.ops ; .arch x64 ; lea Rw(r), [Rq(r) + by]);
        } else {
            dynasm!(self.ops ; .arch x64 ; lea Rd(r), [Rq(r) + by]);
        }
    }

    /// r10 becomes a register plus the length of all elements minus 1.
    fn last_byte(&mut self, of: u8, size: u32) {
        match size {
            1 => dynasm!(self.ops ; .arch x64 ; lea r10, [Rq(of) + rcx - 1]),
            2 => dynasm!(self.ops ; .arch x64 ; lea r10, [Rq(of) + rcx * 2 - 1]),
            _ => dynasm!(self.ops ; .arch x64 ; lea r10, [Rq(of) + rcx * 4 - 1]),
        }
    }

    /// The linear address of all elements that ESI or EDI points to, if they lie in the segment and in one page.
    /// Changes r10.
    fn range(&mut self, into: u8, r: u8, size: u32, direction: Direction, slow: DynamicLabel) {
        let segment = self.segment_of(r);
        let limit = match direction {
            Direction::Read => layout::read_limit(segment),
            Direction::Write => layout::write_limit(segment),
        };
        self.offset(into, r);
        self.last_byte(into, size);
        dynasm!(self.ops ; .arch x64 ; cmp r10, [r13 + limit] ; jg =>slow);
        if self.insns[self.n].addr16() {
            dynasm!(self.ops ; .arch x64 ; cmp r10, 0xFFFF ; jg =>slow);
        }
        dynasm!(self.ops ; .arch x64 ; add Rd(into), [BYTE r13 + seg_base(segment) as i8]);
        self.last_byte(into, size);
        dynasm!(self.ops ; .arch x64 ; xor r10d, Rd(into) ; shr r10d, 12 ; jnz =>slow);
    }

    /// [`Translator::repeat`] in segments that are not flat.
    fn repeat_in_segments(&mut self, operation: Operation, size: u32, slow: DynamicLabel) {
        let done = self.ops.new_dynamic_label();
        let narrow = self.insns[self.n].addr16();
        let most = (0x1000 / size) as i32;
        // A count of 0 touches nothing.
        if narrow {
            dynasm!(self.ops ; .arch x64 ; cmp cx, most as i16 ; ja =>slow ; test cx, cx ; jz =>done);
        } else {
            dynasm!(self.ops ; .arch x64 ; cmp ecx, most ; ja =>slow ; test ecx, ecx ; jz =>done);
        }
        dynasm!(self.ops ; .arch x64 ; push rsi ; push rdi ; push rcx);
        let unsaved = self.ops.new_dynamic_label();
        if narrow {
            dynasm!(self.ops ; .arch x64 ; movzx ecx, cx);
        }
        if operation == Operation::Move {
            self.range(host::R8, ESI, size, Direction::Read, unsaved);
            dynasm!(self.ops
                ; .arch x64
                ; mov r11d, r8d
                ; shr r11d, 12
                ; mov r11, [r15 + r11 * 8]
                ; test r11, r11
                ; jz =>unsaved
                ; lea rsi, [r11 + r8 - 1]
            );
        }
        self.range(host::R8, EDI, size, Direction::Write, unsaved);
        dynasm!(self.ops
            ; .arch x64
            ; mov r9d, r8d
            ; shr r9d, 12
            ; mov r9, [r15 + r9 * 8 + WRITE_TABLE as i32]
            ; test r9, r9
            ; jz =>unsaved
            ; lea rdi, [r9 + r8 - 1]
        );
        copy(&mut self.ops, operation, size);
        dynasm!(self.ops ; .arch x64 ; pop rcx ; pop rdi ; pop rsi);
        dynasm!(self.ops ; .arch x64 ; mov r10d, ecx);
        if narrow {
            dynasm!(self.ops ; .arch x64 ; movzx r10d, r10w ; xor cx, cx);
        } else {
            dynasm!(self.ops ; .arch x64 ; xor ecx, ecx);
        }
        if size > 1 {
            dynasm!(self.ops ; .arch x64 ; shl r10d, size.trailing_zeros() as i8);
        }
        for r in [ESI, EDI] {
            if r == ESI && operation != Operation::Move {
                continue;
            }
            if narrow {
                dynasm!(self.ops ; .arch x64 ; add Rw(r), r10w);
            } else {
                dynasm!(self.ops ; .arch x64 ; add Rd(r), r10d);
            }
        }
        dynasm!(self.ops ; .arch x64 ; =>done);
        self.clobber();
        self.stubs.push(Stub::Unsaved { at: unsaved, slow });
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
        copy(&mut self.ops, operation, size);
        if operation == Operation::Move {
            dynasm!(self.ops ; .arch x64 ; sub rsi, r8 ; lea esi, [rsi + 1]);
        }
        dynasm!(self.ops ; .arch x64 ; sub rdi, r9 ; lea edi, [rdi + 1] ; =>done);
        self.clobber();
    }
}
