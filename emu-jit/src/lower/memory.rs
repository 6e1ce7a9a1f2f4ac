//! The one way to guest memory: the view tables (`docs/engine.md`), indexed by linear page.

use dynasm::dynasm;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi};
use emu_core::cpu::tlb::WRITE_TABLE;
use emu_core::decode::iced::register_number;
use iced_x86::{Instruction, Register};

use super::plan::is_high;
use super::{Stub, Translator};
use crate::encode::Rm;
use crate::layout::{WIDE_SEGMENTS, host, pinned, seg_base};

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    /// Also for read-modify-write.
    Write,
}

impl Translator<'_> {
    /// Computes the effective address of the memory operand. Changes no flags. The result is in r8 or in
    /// a guest register.
    pub(super) fn effective_address(&mut self, ins: &Instruction) -> u8 {
        let disp = ins.memory_displacement32() as i32;
        let base = ins.memory_base();
        let index = ins.memory_index();
        let number = |r: Register| pinned(register_number(r));
        match (base, index) {
            (Register::None, Register::None) => dynasm!(self.ops ; .arch x64 ; mov r8d, disp),
            (_, Register::None) if disp == 0 => return number(base),
            (_, Register::None) => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(number(base)) + disp]),
            (Register::None, _) => {
                let i = number(index);
                match ins.memory_index_scale() {
                    1 => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(i) + disp]),
                    2 => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(i) * 2 + disp]),
                    4 => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(i) * 4 + disp]),
                    _ => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(i) * 8 + disp]),
                }
            }
            _ => {
                let (b, i) = (number(base), number(index));
                match ins.memory_index_scale() {
                    1 => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(b) + Rq(i) * 1 + disp]),
                    2 => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(b) + Rq(i) * 2 + disp]),
                    4 => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(b) + Rq(i) * 4 + disp]),
                    _ => dynasm!(self.ops ; .arch x64 ; lea r8d, [Rq(b) + Rq(i) * 8 + disp]),
                }
            }
        }
        host::R8
    }

    /// Checks the memory operand of the current instruction. Behind it the operand can be accessed as
    /// the result says, until r8 or r9 changes. Changes r8-r10 and the host's flags.
    pub(super) fn operand(&mut self, size: u32, direction: Direction, slow: DynamicLabel) -> Rm {
        let ins = self.insn();
        let mut address = self.effective_address(&ins);
        let segment = match ins.memory_segment() {
            Register::FS => 4,
            Register::GS => 5,
            _ => 0,
        };
        // High byte registers change places during the access: then the address must be a copy.
        let high = (0..ins.op_count()).any(|n| is_high(ins.op_register(n)));
        if (segment != 0 || high) && address != host::R8 {
            dynasm!(self.ops ; .arch x64 ; mov r8d, Rd(address));
            address = host::R8;
        }
        if segment != 0 {
            dynasm!(self.ops
                ; .arch x64
                ; test BYTE [BYTE r13 + WIDE_SEGMENTS as i8], 1 << segment
                ; jz =>slow
            );
            if size > 1 {
                // An offset that wraps lies outside of every segment.
                dynasm!(self.ops ; .arch x64 ; cmp r8d, -(size as i32) ; ja =>slow);
            }
            dynasm!(self.ops ; .arch x64 ; add r8d, [BYTE r13 + seg_base(segment) as i8]);
        }
        self.check(address, size, direction, slow)
    }

    /// Checks `size` bytes at the linear address in a host register.
    pub(super) fn check(&mut self, address: u8, size: u32, direction: Direction, slow: DynamicLabel) -> Rm {
        dynasm!(self.ops ; .arch x64 ; mov r9d, Rd(address) ; shr r9d, 12);
        match direction {
            Direction::Read => dynasm!(self.ops ; .arch x64 ; mov r9, [r15 + r9 * 8]),
            Direction::Write => dynasm!(self.ops ; .arch x64 ; mov r9, [r15 + r9 * 8 + WRITE_TABLE as i32]),
        }
        dynasm!(self.ops ; .arch x64 ; test r9, r9 ; jz =>slow);
        if size > 1 {
            let at = self.ops.new_dynamic_label();
            let back = self.ops.new_dynamic_label();
            let mask = size as i8 - 1;
            if address == host::RAX {
                dynasm!(self.ops ; .arch x64 ; test al, mask);
            } else {
                dynasm!(self.ops ; .arch x64 ; test Rb(address), mask);
            }
            dynasm!(self.ops ; .arch x64 ; jnz =>at ; =>back);
            self.stubs.push(Stub::Unaligned { at, address, size, back, slow });
        }
        self.clobber();
        Rm::Guest(host::R9, address)
    }
}
