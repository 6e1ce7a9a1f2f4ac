//! Segment registers, EFLAGS as a whole, STI: what system calls and interrupt handlers begin and end with.

use dynasm::dynasm;
use dynasmrt::{DynasmApi, DynasmLabelApi};
use emu_core::cpu::flags;
use emu_core::decode::Insn;
use emu_core::decode::iced::register_number;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::memory::Direction;
use super::{Translator, plan};
use crate::encode::{self, Rm};
use crate::layout::{self, CPL, EFLAGS, QUIET, SLOT, WIDE_SEGMENTS, host, pinned};

/// An instruction of this file.
pub(super) fn is_system(ins: &Instruction) -> bool {
    let segment = |n| n < ins.op_count() && ins.op_register(n).is_segment_register();
    match ins.mnemonic() {
        Mnemonic::Push | Mnemonic::Pop => segment(0),
        Mnemonic::Mov => segment(0) || segment(1),
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Sti => true,
        _ => false,
    }
}

/// MOV or POP to a segment register.
pub(super) fn loads_segment(ins: &Instruction) -> bool {
    matches!(ins.mnemonic(), Mnemonic::Mov | Mnemonic::Pop)
        && ins.op_count() != 0
        && ins.op0_register().is_segment_register()
}

pub(super) fn is_native(ins: &Instruction, insn: &Insn, segmented: bool) -> bool {
    if !is_system(ins) {
        return false;
    }
    // Loads of SS hold back interrupts.
    let loadable = matches!(ins.op0_register(), Register::ES | Register::DS | Register::FS | Register::GS);
    let general = |n| ins.op_kind(n) == OpKind::Memory || !ins.op_register(n).is_gpr8();
    match ins.mnemonic() {
        Mnemonic::Push | Mnemonic::Pushf | Mnemonic::Pushfd => segmented || !insn.op16(),
        Mnemonic::Pop => (segmented || !insn.op16()) && loadable,
        Mnemonic::Mov if ins.op0_register().is_segment_register() => loadable && general(1),
        _ => true,
    }
}

/// Behind an instruction that ends its block and did not ask for a look around, execution goes on with the
/// next one, in the same page as before.
pub(super) fn falls_through(ins: &Instruction) -> bool {
    let segment = ins.op_count() != 0 && ins.op0_register().is_segment_register();
    match ins.mnemonic() {
        Mnemonic::Mov | Mnemonic::Pop => segment,
        Mnemonic::Popf
        | Mnemonic::Popfd
        | Mnemonic::Sti
        | Mnemonic::Lds
        | Mnemonic::Les
        | Mnemonic::Lfs
        | Mnemonic::Lgs
        | Mnemonic::Lgdt
        | Mnemonic::Lidt => true,
        _ => false,
    }
}

fn number(r: Register) -> u8 {
    register_number(r)
}

impl Translator<'_> {
    /// Lowers the current instruction; true if the block ends.
    pub(super) fn system(&mut self) -> bool {
        let ins = self.insn();
        match ins.mnemonic() {
            Mnemonic::Push => {
                let (slow, back) = self.slow();
                let unit = self.stack_unit() as i32;
                let rm = self.frame_access(0, -unit, Direction::Write, slow);
                let from = layout::selector(number(ins.op0_register()));
                // Only the lower half of the slot is written.
                dynasm!(self.ops ; .arch x64 ; movzx r10d, WORD [r13 + from]);
                encode::op(&mut self.ops, 2, &[0x89], host::R10, rm);
                self.set_stack(host::ESP, -unit);
                dynasm!(self.ops ; .arch x64 ; =>back);
                false
            }
            Mnemonic::Pushf | Mnemonic::Pushfd => {
                self.push_flags();
                false
            }
            Mnemonic::Sti => {
                self.enable_interrupts();
                true
            }
            Mnemonic::Mov if ins.op1_register().is_segment_register() => {
                self.store_segment();
                false
            }
            _ => {
                self.load_segment();
                true
            }
        }
    }

    fn store_segment(&mut self) {
        let ins = self.insn();
        let from = layout::selector(number(ins.op1_register()));
        if ins.op0_kind() == OpKind::Register {
            let r = pinned(number(ins.op0_register()));
            if plan::size(&ins) == 4 {
                dynasm!(self.ops ; .arch x64 ; movzx Rd(r), WORD [r13 + from]);
            } else {
                dynasm!(self.ops ; .arch x64 ; mov Rw(r), [r13 + from]);
            }
            return;
        }
        let (slow, back) = self.slow();
        let rm = self.operand(2, Direction::Write, slow);
        dynasm!(self.ops ; .arch x64 ; movzx r10d, WORD [r13 + from]);
        encode::op(&mut self.ops, 2, &[0x89], host::R10, rm);
        dynasm!(self.ops ; .arch x64 ; =>back);
    }

    /// MOV and POP to ES, DS, FS, GS.
    fn load_segment(&mut self) {
        let ins = self.insn();
        let (slow, _) = self.slow();
        let pop = ins.mnemonic() == Mnemonic::Pop;
        let rm = if pop {
            self.frame_access(0, 0, Direction::Read, slow)
        } else if ins.op1_kind() == OpKind::Register {
            Rm::Reg(pinned(number(ins.op1_register())))
        } else {
            self.operand(2, Direction::Read, slow)
        };
        encode::op(&mut self.ops, 4, &[0x0F, 0xB7], host::R8, rm);
        let index = i32::from(number(ins.op0_register()));
        dynasm!(self.ops ; .arch x64 ; mov r9d, index);
        let routine = self.place.routines.segment;
        self.call_routine(routine);
        dynasm!(self.ops ; .arch x64 ; test r8d, r8d ; jz =>slow);
        if pop {
            let unit = self.stack_unit() as i32;
            self.set_stack(host::ESP, unit);
        }
        self.clobber();
        let next = self.end_in_page();
        self.edge(next as i32);
    }

    fn push_flags(&mut self) {
        let (slow, back) = self.slow();
        let (kept, of) = (!(flags::VM | flags::RF) as i32, flags::OF.trailing_zeros() as i8);
        dynasm!(self.ops
            ; .arch x64
            ; movzx r11d, WORD [BYTE r13 + SLOT as i8]
            ; mov r10d, r11d
            ; shr r11d, 8
            ; and r11d, 0xD5
            ; and r10d, 1
            ; shl r10d, of
            ; or r11d, r10d
            ; mov r10d, [BYTE r13 + EFLAGS as i8]
            ; and r10d, kept
            ; or r11d, r10d
        );
        let unit = self.stack_unit();
        if self.is_segmented() {
            // VM86 has its own rules.
            dynasm!(self.ops ; .arch x64 ; test DWORD [BYTE r13 + EFLAGS as i8], flags::VM as i32 ; jnz =>slow);
        }
        let rm = self.frame_access(0, -(unit as i32), Direction::Write, slow);
        encode::op(&mut self.ops, unit, &[0x89], host::R11, rm);
        self.set_stack(host::ESP, -(unit as i32));
        dynasm!(self.ops ; .arch x64 ; =>back);
        self.clobber();
    }

    /// STI at CPL 0 with nothing pending and another instruction to come: the interrupt shadow makes no
    /// difference then ([`crate::look::is_quiet`]).
    fn enable_interrupts(&mut self) {
        let (slow, _) = self.slow();
        dynasm!(self.ops
            ; .arch x64
            ; cmp BYTE [r13 + CPL], 0
            ; jne =>slow
            ; test BYTE [BYTE r13 + WIDE_SEGMENTS as i8], QUIET as i8
            ; jz =>slow
            ; test r12, r12
            ; jle =>slow
            ; or DWORD [BYTE r13 + EFLAGS as i8], flags::IF as i32
        );
        self.clobber();
        let next = self.end_in_page();
        self.edge(next as i32);
    }
}
