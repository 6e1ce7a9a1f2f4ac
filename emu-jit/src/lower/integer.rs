//! Integer instructions.

use dynasm::dynasm;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi};
use emu_core::cpu::flags;
use emu_core::decode::iced::register_number;
use iced_x86::{Mnemonic, OpKind};

use super::control::condition;
use super::memory::Direction;
use super::plan::Recipe;
use super::{Translator, mmx, plan, simd, system, x87};
use crate::encode::{self, Rm};
use crate::layout::{CPL, EFLAGS, host, pinned};

/// Where an operand is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Register,
    Memory,
    Immediate,
}

impl Translator<'_> {
    pub(super) fn kind(&self, n: u32) -> Kind {
        match self.ins[self.n].op_kind(n) {
            OpKind::Register => Kind::Register,
            OpKind::Memory => Kind::Memory,
            _ => Kind::Immediate,
        }
    }

    /// Register operand `n` as the host names it (AH CH DH BH: 4-7).
    pub(super) fn reg(&self, n: u32) -> u8 {
        let r = self.ins[self.n].op_register(n);
        if r.is_gpr8() { register_number(r) } else { pinned(register_number(r)) }
    }

    /// Exchanges AH and AL (and so on) around an instruction that cannot name the former; gives the name
    /// to use meanwhile. No flag changes.
    fn swap_high(&mut self, size: u32, r: u8) -> u8 {
        if size != 1 || r < 4 {
            return r;
        }
        self.ops.extend(&[0x86, 0xC0 | r << 3 | (r - 4)]);
        r - 4
    }

    /// `opcode reg, [memory]` or the other direction.
    fn with_memory(&mut self, size: u32, opcode: &[u8], reg: u8, rm: Rm) {
        let low = self.swap_high(size, reg);
        encode::op(&mut self.ops, size, opcode, low, rm);
        self.swap_high(size, reg);
    }

    /// Opcode of a byte form whose wider form is the next number.
    pub(super) fn sized(size: u32, opcode: u8) -> u8 {
        opcode | u8::from(size != 1)
    }

    /// Lowers the current instruction; true if the block ends.
    pub(super) fn native(&mut self) -> bool {
        let ins = self.insn();
        let m = ins.mnemonic();
        let size = if ins.op_count() == 0 { 4 } else { plan::size(&ins) };
        if plan::is_nop(m) {
            return false;
        }
        if simd::is_simd(&ins) {
            self.simd();
            return false;
        }
        if mmx::is_mmx(&ins) {
            self.mmx();
            return false;
        }
        if x87::is_x87(&ins) {
            self.x87();
            return false;
        }
        if system::is_system(&ins) {
            return self.system();
        }
        if ins.is_string_instruction() {
            self.string();
            return false;
        }
        match m {
            Mnemonic::Mov => self.mov(size),
            Mnemonic::Add => self.alu(0, size),
            Mnemonic::Or => self.alu(1, size),
            Mnemonic::Adc => self.alu(2, size),
            Mnemonic::Sbb => self.alu(3, size),
            Mnemonic::And => self.alu(4, size),
            Mnemonic::Sub => self.alu(5, size),
            Mnemonic::Xor => self.alu(6, size),
            Mnemonic::Cmp => self.alu(7, size),
            Mnemonic::Test => self.test(size),
            Mnemonic::Inc => self.unary(size, 0xFE, 0),
            Mnemonic::Dec => self.unary(size, 0xFE, 1),
            Mnemonic::Not => self.unary(size, 0xF6, 2),
            Mnemonic::Neg => self.unary(size, 0xF6, 3),
            Mnemonic::Movzx => self.extend(size, 0xB6),
            Mnemonic::Movsx => self.extend(size, 0xBE),
            Mnemonic::Lea => self.lea(size),
            Mnemonic::Xchg => self.xchg(size),
            Mnemonic::Bswap => {
                let r = self.reg(0);
                dynasm!(self.ops ; .arch x64 ; bswap Rd(r));
            }
            Mnemonic::Cdq => dynasm!(self.ops ; .arch x64 ; cdq),
            Mnemonic::Cwde => dynasm!(self.ops ; .arch x64 ; cwde),
            Mnemonic::Cbw => dynasm!(self.ops ; .arch x64 ; cbw),
            Mnemonic::Cwd => dynasm!(self.ops ; .arch x64 ; cwd),
            Mnemonic::Cmpxchg => self.exchange(size, 0xB0),
            Mnemonic::Xadd => self.exchange(size, 0xC0),
            Mnemonic::Cmpxchg8b => {
                let (slow, back) = self.slow();
                let rm = self.operand(8, Direction::Write, slow);
                encode::op(&mut self.ops, 4, &[0x0F, 0xC7], 1, rm);
                self.zero_set();
                dynasm!(self.ops ; .arch x64 ; =>back);
            }
            Mnemonic::Push => self.push(),
            Mnemonic::Pop => {
                let (slow, back) = self.slow();
                let rm = self.frame_access(0, 0, Direction::Read, slow);
                let (r, unit) = (self.reg(0), self.stack_unit());
                // ESP as destination: the value read wins.
                encode::op(&mut self.ops, unit, &[0x8B], host::R11, rm);
                self.set_stack(host::ESP, unit as i32);
                encode::op(&mut self.ops, unit, &[0x89], host::R11, Rm::Reg(r));
                dynasm!(self.ops ; .arch x64 ; =>back);
            }
            Mnemonic::Leave => {
                let (slow, back) = self.slow();
                let rm = self.frame_access(1, 0, Direction::Read, slow);
                let unit = self.stack_unit();
                encode::op(&mut self.ops, unit, &[0x8B], host::R11, rm);
                self.set_stack(host::EBP, unit as i32);
                encode::op(&mut self.ops, unit, &[0x89], host::R11, Rm::Reg(host::EBP));
                dynasm!(self.ops ; .arch x64 ; =>back);
            }
            Mnemonic::Shl | Mnemonic::Sal => self.shift(size, 4),
            Mnemonic::Shr => self.shift(size, 5),
            Mnemonic::Sar => self.shift(size, 7),
            Mnemonic::Rol => self.rotate(size, 0),
            Mnemonic::Ror => self.rotate(size, 1),
            Mnemonic::Rcl => self.rotate(size, 2),
            Mnemonic::Rcr => self.rotate(size, 3),
            Mnemonic::Shld => self.double_shift(0xA4),
            Mnemonic::Shrd => self.double_shift(0xAC),
            Mnemonic::Imul if ins.op_count() > 1 => self.imul(size),
            Mnemonic::Mul => self.mul(size, 4),
            Mnemonic::Imul => self.mul(size, 5),
            Mnemonic::Div => self.div(false),
            Mnemonic::Idiv => self.div(true),
            Mnemonic::Bt => self.bit(size, 4),
            Mnemonic::Bts => self.bit(size, 5),
            Mnemonic::Btr => self.bit(size, 6),
            Mnemonic::Btc => self.bit(size, 7),
            Mnemonic::Bsf | Mnemonic::Tzcnt => self.scan(0xBC),
            Mnemonic::Bsr | Mnemonic::Lzcnt => self.scan(0xBD),
            Mnemonic::Clc => self.change_carry(true, false),
            Mnemonic::Stc => self.change_carry(true, true),
            Mnemonic::Cmc => self.change_carry(false, true),
            Mnemonic::Cld => {
                dynasm!(self.ops ; .arch x64 ; and DWORD [r13 + EFLAGS], !(flags::DF as i32));
                self.clobber();
            }
            Mnemonic::Std => {
                dynasm!(self.ops ; .arch x64 ; or DWORD [r13 + EFLAGS], flags::DF as i32);
                self.clobber();
            }
            Mnemonic::Cli => {
                // At CPL 0 every IOPL will do.
                let (slow, back) = self.slow();
                dynasm!(self.ops
                    ; .arch x64
                    ; cmp BYTE [r13 + CPL], 0
                    ; jne =>slow
                    ; and DWORD [r13 + EFLAGS], !(flags::IF as i32)
                    ; =>back
                );
                self.clobber();
            }
            _ => {
                if self.control() {
                    return true;
                }
                if ins.op_count() == 1 {
                    self.setcc();
                } else {
                    self.cmov(size);
                }
            }
        }
        false
    }

    fn mov(&mut self, size: u32) {
        match (self.kind(0), self.kind(1)) {
            (Kind::Register, Kind::Register) => {
                let (d, s) = (self.reg(0), self.reg(1));
                encode::op(&mut self.ops, size, &[Self::sized(size, 0x88)], s, Rm::Reg(d));
            }
            (Kind::Register, Kind::Immediate) => {
                let (d, v) = (self.reg(0), self.insns[self.n].imm);
                encode::op(&mut self.ops, size, &[Self::sized(size, 0xC6)], 0, Rm::Reg(d));
                encode::imm(&mut self.ops, size, v);
            }
            (Kind::Register, Kind::Memory) => {
                let (slow, back) = self.slow();
                let rm = self.operand(size, Direction::Read, slow);
                let d = self.reg(0);
                self.with_memory(size, &[Self::sized(size, 0x8A)], d, rm);
                dynasm!(self.ops ; .arch x64 ; =>back);
            }
            (Kind::Memory, Kind::Register) => {
                let (slow, back) = self.slow();
                let rm = self.operand(size, Direction::Write, slow);
                let s = self.reg(1);
                self.with_memory(size, &[Self::sized(size, 0x88)], s, rm);
                dynasm!(self.ops ; .arch x64 ; =>back);
            }
            _ => {
                let (slow, back) = self.slow();
                let rm = self.operand(size, Direction::Write, slow);
                let v = self.insns[self.n].imm;
                encode::op(&mut self.ops, size, &[Self::sized(size, 0xC6)], 0, rm);
                encode::imm(&mut self.ops, size, v);
                dynasm!(self.ops ; .arch x64 ; =>back);
            }
        }
    }

    /// ADD OR ADC SBB AND SUB XOR CMP, by their number in the opcode map.
    fn alu(&mut self, number: u8, size: u32) {
        let takes_carry = matches!(number, 2 | 3);
        let opcode = number << 3;
        let imm = self.insns[self.n].imm;
        let write = if number == 7 { Direction::Read } else { Direction::Write };
        let (k0, k1) = (self.kind(0), self.kind(1));
        let memory = k0 == Kind::Memory || k1 == Kind::Memory;
        let labels = memory.then(|| self.slow());
        let rm = labels.map(|(slow, _)| {
            self.operand(size, if k0 == Kind::Memory { write } else { Direction::Read }, slow)
        });
        if takes_carry {
            self.carry_to_host();
        }
        let recipe = self.recipes[self.n];
        if !memory && recipe.is_some_and(Recipe::keeps_operand) {
            let d = self.reg(0);
            dynasm!(self.ops ; .arch x64 ; mov r11d, Rd(d));
        }
        if let Some(rm) = rm
            && recipe.is_some_and(Recipe::is_of_memory)
        {
            if let Some(Recipe::CompareMemory { .. }) = recipe {
                self.load_operand(size, rm);
                self.compare_loaded();
            } else {
                self.change_loaded(number, rm);
            }
            return self.flags_of_memory(labels);
        }
        match (k0, k1, rm) {
            (Kind::Register, Kind::Memory, Some(rm)) => {
                let d = self.reg(0);
                if self.recipes[self.n].is_some_and(Recipe::keeps_operand) {
                    dynasm!(self.ops ; .arch x64 ; mov r11d, Rd(d));
                }
                self.with_memory(size, &[Self::sized(size, opcode | 2)], d, rm);
            }
            (Kind::Memory, Kind::Register, Some(rm)) => {
                let s = self.reg(1);
                self.with_memory(size, &[Self::sized(size, opcode)], s, rm);
            }
            (Kind::Register, Kind::Register, _) => {
                let (d, s) = (self.reg(0), self.reg(1));
                encode::op(&mut self.ops, size, &[Self::sized(size, opcode)], s, Rm::Reg(d));
            }
            _ => {
                let rm = rm.unwrap_or(Rm::Reg(if k0 == Kind::Register { self.reg(0) } else { 0 }));
                self.immediate_group(size, number, rm, imm);
            }
        }
        self.flags_set();
        if let Some((_, back)) = labels {
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }

    /// Loads an operand in memory into r11, for a recipe.
    fn load_operand(&mut self, size: u32, rm: Rm) {
        match size {
            4 => encode::op(&mut self.ops, 4, &[0x8B], host::R11, rm),
            _ => encode::op(&mut self.ops, 4, &[0x0F, Self::sized(size, 0xB6)], host::R11, rm),
        }
    }

    /// ADD OR AND SUB XOR to memory, by their number; the result stays in r11.
    fn change_loaded(&mut self, number: u8, rm: Rm) {
        self.load_operand(4, rm);
        if self.kind(1) == Kind::Register {
            let s = self.reg(1);
            encode::op(&mut self.ops, 4, &[number << 3 | 1], s, Rm::Reg(host::R11));
        } else {
            let imm = self.insns[self.n].imm;
            self.immediate_group(4, number, Rm::Reg(host::R11), imm);
        }
        encode::op(&mut self.ops, 4, &[0x89], host::R11, rm);
    }

    /// Behind an instruction with a recipe that takes memory's operand from r11.
    fn flags_of_memory(&mut self, labels: Option<(DynamicLabel, DynamicLabel)>) {
        self.flags_set();
        if let Some((_, back)) = labels {
            // Nobody comes back from the stub.
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }

    /// CMP or TEST with r11 in place of the operand in memory.
    pub(super) fn compare_loaded(&mut self) {
        let ins = self.insn();
        let size = plan::size(&ins);
        let is_test = ins.mnemonic() == Mnemonic::Test;
        match (self.kind(0), self.kind(1)) {
            (Kind::Register, _) => {
                let d = self.reg(0);
                let opcode = if is_test { 0x84 } else { 0x3A };
                encode::op(&mut self.ops, size, &[Self::sized(size, opcode)], d, Rm::Reg(host::R11));
            }
            (_, Kind::Register) => {
                let s = self.reg(1);
                let opcode = if is_test { 0x84 } else { 0x38 };
                encode::op(&mut self.ops, size, &[Self::sized(size, opcode)], s, Rm::Reg(host::R11));
            }
            _ => {
                let imm = self.insns[self.n].imm;
                if is_test {
                    encode::op(&mut self.ops, size, &[Self::sized(size, 0xF6)], 0, Rm::Reg(host::R11));
                    encode::imm(&mut self.ops, size, imm);
                } else {
                    self.immediate_group(size, 7, Rm::Reg(host::R11), imm);
                }
            }
        }
    }

    /// CMP or TEST of registers or a register and an immediate, for the flags.
    pub(super) fn compare(&mut self) {
        let ins = self.insn();
        let size = plan::size(&ins);
        let d = self.reg(0);
        let imm = self.insns[self.n].imm;
        let is_test = ins.mnemonic() == Mnemonic::Test;
        match (is_test, self.kind(1)) {
            (_, Kind::Register) => {
                let s = self.reg(1);
                let opcode = if is_test { 0x84 } else { 0x38 };
                encode::op(&mut self.ops, size, &[Self::sized(size, opcode)], s, Rm::Reg(d));
            }
            (true, _) => {
                encode::op(&mut self.ops, size, &[Self::sized(size, 0xF6)], 0, Rm::Reg(d));
                encode::imm(&mut self.ops, size, imm);
            }
            _ => self.immediate_group(size, 7, Rm::Reg(d), imm),
        }
    }

    /// `80`, `81` or `83` with an immediate.
    fn immediate_group(&mut self, size: u32, number: u8, rm: Rm, imm: u32) {
        let short = size != 1 && imm as i32 == i32::from(imm as i8);
        if short {
            encode::op(&mut self.ops, size, &[0x83], number, rm);
            self.ops.push(imm as u8);
        } else {
            encode::op(&mut self.ops, size, &[Self::sized(size, 0x80)], number, rm);
            encode::imm(&mut self.ops, size, imm);
        }
    }

    fn test(&mut self, size: u32) {
        let imm = self.insns[self.n].imm;
        let (k0, k1) = (self.kind(0), self.kind(1));
        let labels = (k0 == Kind::Memory).then(|| self.slow());
        let rm = match labels {
            Some((slow, _)) => self.operand(size, Direction::Read, slow),
            None => Rm::Reg(self.reg(0)),
        };
        if let Some(Recipe::CompareMemory { .. }) = self.recipes[self.n] {
            self.load_operand(size, rm);
            self.compare_loaded();
            return self.flags_of_memory(labels);
        }
        if k1 == Kind::Register {
            let s = self.reg(1);
            if labels.is_some() {
                self.with_memory(size, &[Self::sized(size, 0x84)], s, rm);
            } else {
                encode::op(&mut self.ops, size, &[Self::sized(size, 0x84)], s, rm);
            }
        } else {
            encode::op(&mut self.ops, size, &[Self::sized(size, 0xF6)], 0, rm);
            encode::imm(&mut self.ops, size, imm);
        }
        self.flags_set();
        if let Some((_, back)) = labels {
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }

    /// INC DEC NOT NEG.
    fn unary(&mut self, size: u32, opcode: u8, number: u8) {
        let labels = (self.kind(0) == Kind::Memory).then(|| self.slow());
        let rm = match labels {
            Some((slow, _)) => self.operand(size, Direction::Write, slow),
            None => Rm::Reg(self.reg(0)),
        };
        // INC and DEC keep CF, which is stored together with what they set.
        if opcode == 0xFE {
            if self.recipes[self.n].is_some() {
                self.keep_carry();
            } else if self.is_visible() && !self.plan_carry[self.n] {
                self.carry_to_host();
            }
        }
        if self.recipes[self.n].is_some_and(Recipe::is_of_memory) {
            self.load_operand(size, rm);
            encode::op(&mut self.ops, size, &[Self::sized(size, opcode)], number, Rm::Reg(host::R11));
            encode::op(&mut self.ops, size, &[0x89], host::R11, rm);
            return self.flags_of_memory(labels);
        }
        encode::op(&mut self.ops, size, &[Self::sized(size, opcode)], number, rm);
        if (opcode, number) != (0xF6, 2) {
            self.flags_set();
        }
        if let Some((_, back)) = labels {
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }

    fn extend(&mut self, size: u32, opcode: u8) {
        let ins = self.insn();
        let d = self.reg(0);
        if self.kind(1) == Kind::Register {
            let from = ins.op1_register().size() as u32;
            let s = self.reg(1);
            encode::op(&mut self.ops, size, &[0x0F, Self::sized(from, opcode)], d, Rm::Reg(s));
        } else {
            let from = ins.memory_size().size() as u32;
            let (slow, back) = self.slow();
            let rm = self.operand(from, Direction::Read, slow);
            encode::op(&mut self.ops, size, &[0x0F, Self::sized(from, opcode)], d, rm);
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }

    fn lea(&mut self, size: u32) {
        let ins = self.insn();
        let a = self.effective_address(&ins);
        let d = self.reg(0);
        encode::op(&mut self.ops, size, &[0x89], a, Rm::Reg(d));
    }

    fn xchg(&mut self, size: u32) {
        if self.kind(0) == Kind::Register && self.kind(1) == Kind::Register {
            let (a, b) = (self.reg(0), self.reg(1));
            encode::op(&mut self.ops, size, &[Self::sized(size, 0x86)], b, Rm::Reg(a));
            return;
        }
        let r = self.reg(if self.kind(0) == Kind::Register { 0 } else { 1 });
        let (slow, back) = self.slow();
        let rm = self.operand(size, Direction::Write, slow);
        let low = self.swap_high(size, r);
        encode::op(&mut self.ops, size, &[Self::sized(size, 0x8A)], host::R11, rm);
        encode::op(&mut self.ops, size, &[Self::sized(size, 0x88)], low, rm);
        encode::op(&mut self.ops, size, &[Self::sized(size, 0x88)], host::R11, Rm::Reg(low));
        self.swap_high(size, r);
        dynasm!(self.ops ; .arch x64 ; =>back);
    }

    /// CMPXCHG and XADD, which the host does as the guest would.
    fn exchange(&mut self, size: u32, opcode: u8) {
        let labels = (self.kind(0) == Kind::Memory).then(|| self.slow());
        let rm = match labels {
            Some((slow, _)) => self.operand(size, Direction::Write, slow),
            None => Rm::Reg(self.reg(0)),
        };
        let r = self.reg(1);
        encode::op(&mut self.ops, size, &[0x0F, Self::sized(size, opcode)], r, rm);
        self.flags_set();
        if let Some((_, back)) = labels {
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }

    fn push(&mut self) {
        let (slow, back) = self.slow();
        let unit = self.stack_unit();
        let value = match self.kind(0) {
            Kind::Register => Some(self.reg(0)),
            Kind::Immediate => None,
            Kind::Memory => {
                let rm = self.operand(unit, Direction::Read, slow);
                encode::op(&mut self.ops, unit, &[0x8B], host::R11, rm);
                Some(host::R11)
            }
        };
        let rm = self.frame_access(0, -(unit as i32), Direction::Write, slow);
        match value {
            Some(r) => encode::op(&mut self.ops, unit, &[0x89], r, rm),
            None => {
                let v = self.insns[self.n].imm;
                encode::op(&mut self.ops, unit, &[0xC7], 0, rm);
                encode::imm(&mut self.ops, unit, v);
            }
        }
        self.set_stack(host::ESP, -(unit as i32));
        dynasm!(self.ops ; .arch x64 ; =>back);
    }

    /// IMUL with two or three operands.
    fn imul(&mut self, size: u32) {
        let d = self.reg(0);
        let labels = (self.kind(1) == Kind::Memory).then(|| self.slow());
        let rm = match labels {
            Some((slow, _)) => self.operand(size, Direction::Read, slow),
            None => Rm::Reg(self.reg(1)),
        };
        if self.insn().op_count() == 3 {
            let v = self.insns[self.n].imm;
            encode::op(&mut self.ops, size, &[0x69], d, rm);
            encode::imm(&mut self.ops, size, v);
        } else {
            encode::op(&mut self.ops, size, &[0x0F, 0xAF], d, rm);
        }
        self.product_flags(|t| encode::op(&mut t.ops, size, &[0x85], d, Rm::Reg(d)));
        if let Some((_, back)) = labels {
            // The way back from the stub restores the host's flags, which nobody relies on.
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }

    /// MUL (4), IMUL (5) with one operand.
    fn mul(&mut self, size: u32, number: u8) {
        let labels = (self.kind(0) == Kind::Memory).then(|| self.slow());
        let rm = match labels {
            Some((slow, _)) => self.operand(size, Direction::Read, slow),
            None => Rm::Reg(self.reg(0)),
        };
        encode::op(&mut self.ops, size, &[Self::sized(size, 0xF6)], number, rm);
        self.product_flags(|t| encode::op(&mut t.ops, size, &[Self::sized(size, 0x84)], 0, Rm::Reg(0)));
        if let Some((_, back)) = labels {
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }

    /// DIV, IDIV of EDX:EAX. What may raise #DE is left to the interpreter.
    fn div(&mut self, signed: bool) {
        let (slow, back) = self.slow();
        if self.kind(0) == Kind::Memory {
            let rm = self.operand(4, Direction::Read, slow);
            encode::op(&mut self.ops, 4, &[0x8B], host::R11, rm);
        } else {
            let r = self.reg(0);
            dynasm!(self.ops ; .arch x64 ; mov r11d, Rd(r));
        }
        if signed {
            // A dividend of 32 significant bits, and neither 0 nor -1 as divisor.
            dynasm!(self.ops
                ; .arch x64
                ; mov r10d, eax
                ; sar r10d, 31
                ; cmp r10d, edx
                ; jne =>slow
                ; lea r10d, [r11 + 1]
                ; cmp r10d, 1
                ; jbe =>slow
                ; idiv r11d
                ; =>back
            );
        } else {
            dynasm!(self.ops ; .arch x64 ; cmp edx, r11d ; jae =>slow ; div r11d ; =>back);
        }
        self.clobber();
    }

    /// BT (4), BTS (5), BTR (6), BTC (7).
    fn bit(&mut self, size: u32, number: u8) {
        let direction = if number == 4 { Direction::Read } else { Direction::Write };
        if self.kind(0) == Kind::Memory && self.kind(1) == Kind::Register {
            return self.bit_string(number, direction);
        }
        let labels = (self.kind(0) == Kind::Memory).then(|| self.slow());
        let rm = match labels {
            Some((slow, _)) => self.operand(size, direction, slow),
            None => Rm::Reg(self.reg(0)),
        };
        if self.kind(1) == Kind::Register {
            let s = self.reg(1);
            encode::op(&mut self.ops, size, &[0x0F, 0x83 | number << 3], s, rm);
        } else {
            let v = self.insns[self.n].imm & (8 * size - 1);
            encode::op(&mut self.ops, size, &[0x0F, 0xBA], number, rm);
            self.ops.push(v as u8);
        }
        self.carry_set();
        if let Some((_, back)) = labels {
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }

    /// BT and its kin on a bit anywhere from a place in memory on, given by a 32-bit register.
    fn bit_string(&mut self, number: u8, direction: Direction) {
        let (slow, back) = self.slow();
        let ins = self.insn();
        let s = self.reg(1);
        let a = self.effective_address(&ins);
        dynasm!(self.ops
            ; .arch x64
            ; mov r10d, Rd(s)
            ; sar r10d, 5
            ; lea r8d, [Rq(a) + r10 * 4]
        );
        let rm = self.check(host::R8, 4, direction, slow);
        encode::op(&mut self.ops, 4, &[0x8B], host::R11, rm);
        // The number of the bit in its dword is taken modulo 32 by the register form.
        encode::op(&mut self.ops, 4, &[0x0F, 0x83 | number << 3], s, Rm::Reg(host::R11));
        if direction == Direction::Write {
            encode::op(&mut self.ops, 4, &[0x89], host::R11, rm);
        }
        self.carry_set();
        dynasm!(self.ops ; .arch x64 ; =>back);
    }

    /// BSF, BSR of 32 bits.
    fn scan(&mut self, opcode: u8) {
        let d = self.reg(0);
        let labels = (self.kind(1) == Kind::Memory).then(|| self.slow());
        let rm = match labels {
            Some((slow, _)) => self.operand(4, Direction::Read, slow),
            None => Rm::Reg(self.reg(1)),
        };
        encode::op(&mut self.ops, 4, &[0x8B], host::R11, rm);
        // With a source of 0 the destination stays as it was.
        encode::op(&mut self.ops, 4, &[0x0F, opcode], host::R10, Rm::Reg(host::R11));
        encode::op(&mut self.ops, 4, &[0x0F, 0x45], d, Rm::Reg(host::R10));
        self.zero_set();
        if let Some((_, back)) = labels {
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }

    fn setcc(&mut self) {
        let cc = condition(&self.insn());
        let opcode = [0x0F, 0x90 | cc];
        if self.kind(0) == Kind::Register {
            self.flags_to_host();
            let r = self.reg(0);
            encode::op(&mut self.ops, 1, &opcode, 0, Rm::Reg(r));
        } else {
            let (slow, back) = self.slow();
            let rm = self.operand(1, Direction::Write, slow);
            self.flags_to_host();
            encode::op(&mut self.ops, 1, &opcode, 0, rm);
            dynasm!(self.ops ; .arch x64 ; =>back);
            // Behind the stub they are not.
            self.clobber();
        }
    }

    fn cmov(&mut self, size: u32) {
        let cc = condition(&self.insn());
        let opcode = [0x0F, 0x40 | cc];
        let d = self.reg(0);
        if self.kind(1) == Kind::Register {
            self.flags_to_host();
            let s = self.reg(1);
            encode::op(&mut self.ops, size, &opcode, d, Rm::Reg(s));
        } else {
            let (slow, back) = self.slow();
            let rm = self.operand(size, Direction::Read, slow);
            self.flags_to_host();
            encode::op(&mut self.ops, size, &opcode, d, rm);
            dynasm!(self.ops ; .arch x64 ; =>back);
            self.clobber();
        }
    }
}
