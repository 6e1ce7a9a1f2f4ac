//! Shifts and rotations.

use dynasm::dynasm;
use dynasmrt::{DynasmApi, DynasmLabelApi};

use super::integer::Kind;
use super::memory::Direction;
use super::{Translator, plan};
use crate::encode::{self, Rm};
use crate::layout::host;

impl Translator<'_> {
    /// The operand of a shift or rotation, checked for writing.
    fn shifted(&mut self, size: u32) -> (Rm, Option<dynasmrt::DynamicLabel>) {
        if self.kind(0) == Kind::Register {
            return (Rm::Reg(self.reg(0)), None);
        }
        let (slow, back) = self.slow();
        (self.operand(size, Direction::Write, slow), Some(back))
    }

    /// Shift or rotation by a constant. `exact` makes the last step a shift by 1, whose OF is defined.
    pub(super) fn shift_by(&mut self, size: u32, number: u8, rm: Rm, count: u32, exact: bool) {
        let first = if exact { count - 1 } else { count };
        if first != 0 {
            encode::op(&mut self.ops, size, &[Self::sized(size, 0xC0)], number, rm);
            self.ops.push(first as u8);
        }
        if exact {
            encode::op(&mut self.ops, size, &[Self::sized(size, 0xD0)], number, rm);
        }
    }

    /// SHL (4), SHR (5), SAR (7).
    pub(super) fn shift(&mut self, size: u32, number: u8) {
        let visible = self.is_visible();
        match plan::shift_count(&self.insn()) {
            Some(count) => {
                let (rm, back) = self.shifted(size);
                if let (Some(_), Rm::Reg(r)) = (self.recipes[self.n], rm) {
                    dynasm!(self.ops ; .arch x64 ; mov r11d, Rd(r));
                }
                self.shift_by(size, number, rm, count, visible);
                self.flags_set_but_af();
                if let Some(back) = back {
                    dynasm!(self.ops ; .arch x64 ; =>back);
                }
            }
            None if !visible => {
                let (rm, back) = self.shifted(size);
                encode::op(&mut self.ops, size, &[Self::sized(size, 0xD2)], number, rm);
                self.clobber();
                if let Some(back) = back {
                    dynasm!(self.ops ; .arch x64 ; =>back);
                }
            }
            None => {
                // A count of 0 changes no flag; else all but the last step, then a shift by 1.
                let r = self.reg(0);
                let done = self.ops.new_dynamic_label();
                dynasm!(self.ops
                    ; .arch x64
                    ; mov r11d, ecx
                    ; and r11d, 31
                    ; jz =>done
                    ; lea r11d, [r11 - 1]
                );
                match number {
                    4 => dynasm!(self.ops ; .arch x64 ; shlx Rd(r), Rd(r), r11d),
                    5 => dynasm!(self.ops ; .arch x64 ; shrx Rd(r), Rd(r), r11d),
                    _ => dynasm!(self.ops ; .arch x64 ; sarx Rd(r), Rd(r), r11d),
                }
                self.shift_by(size, number, Rm::Reg(r), 1, true);
                self.flags_set_but_af();
                dynasm!(self.ops ; .arch x64 ; =>done);
            }
        }
    }

    /// ROL (0), ROR (1), RCL (2), RCR (3).
    pub(super) fn rotate(&mut self, size: u32, number: u8) {
        let visible = self.is_visible();
        let (rm, back) = self.shifted(size);
        match plan::shift_count(&self.insn()) {
            Some(count) => {
                if number >= 2 {
                    self.carry_to_host();
                }
                self.shift_by(size, number, rm, count, visible);
            }
            None => encode::op(&mut self.ops, size, &[Self::sized(size, 0xD2)], number, rm),
        }
        self.carry_and_overflow_set();
        if let Some(back) = back {
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }

    /// SHLD, SHRD of 32-bit registers.
    pub(super) fn double_shift(&mut self, opcode: u8) {
        let (d, s) = (self.reg(0), self.reg(1));
        let Some(count) = plan::shift_count(&self.insn()) else {
            // By CL, and nobody looks at the flags.
            encode::op(&mut self.ops, 4, &[0x0F, opcode | 1], s, Rm::Reg(d));
            return self.clobber();
        };
        if !self.is_visible() {
            encode::op(&mut self.ops, 4, &[0x0F, opcode], s, Rm::Reg(d));
            self.ops.push(count as u8);
        } else {
            // All steps but one, then one with what the source has shifted in next.
            dynasm!(self.ops ; .arch x64 ; mov r11d, Rd(s));
            if count > 1 {
                encode::op(&mut self.ops, 4, &[0x0F, opcode], host::R11, Rm::Reg(d));
                self.ops.push(count as u8 - 1);
                let number = if opcode == 0xA4 { 4 } else { 5 };
                self.shift_by(4, number, Rm::Reg(host::R11), count - 1, false);
            }
            encode::op(&mut self.ops, 4, &[0x0F, opcode], host::R11, Rm::Reg(d));
            self.ops.push(1);
        }
        self.flags_set_but_af();
    }
}
