//! MMX, and what SSE and SSE2 added for MMX registers, passed through: the registers are the significands of
//! the x87's, and the host's x87 unit is the guest's ([`crate::fpu`]). Instructions that mix MMX and XMM
//! registers are calls.

use dynasm::dynasm;
use dynasmrt::{DynasmApi, DynasmLabelApi};
use iced_x86::{Instruction, Mnemonic, OpKind};

use super::integer::Kind;
use super::memory::Direction;
use super::{Translator, plan};
use crate::encode::Rm;

/// How an instruction's operands are encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Operand 0 in ModRM.reg.
    Load,
    /// Operand 1 in ModRM.reg.
    Store,
    /// Operand 0 in ModRM.rm, a shift by a constant.
    Shift,
    /// EMMS.
    None,
}

fn shape(ins: &Instruction) -> Option<Shape> {
    use Mnemonic as M;
    if ins.mnemonic() == M::Emms {
        return Some(Shape::None);
    }
    let is_mm = |n| ins.op_register(n).is_mm();
    if !(0..ins.op_count()).any(is_mm) || (0..ins.op_count()).any(|n| ins.op_register(n).is_xmm()) {
        return None;
    }
    match ins.mnemonic() {
        M::Movq | M::Movd if is_mm(0) && !(is_mm(1) && is_store_form(ins)) => Some(Shape::Load),
        M::Movq | M::Movd => Some(Shape::Store),
        M::Movntq => Some(Shape::Store),
        M::Psllw | M::Pslld | M::Psllq | M::Psrlw | M::Psrld | M::Psrlq | M::Psraw | M::Psrad
            if ins.op1_kind() == OpKind::Immediate8 =>
        {
            Some(Shape::Shift)
        }
        M::Psllw | M::Pslld | M::Psllq | M::Psrlw | M::Psrld | M::Psrlq | M::Psraw | M::Psrad => {
            Some(Shape::Load)
        }
        M::Paddb | M::Paddw | M::Paddd | M::Paddq | M::Psubb | M::Psubw | M::Psubd | M::Psubq => {
            Some(Shape::Load)
        }
        M::Paddsb | M::Paddsw | M::Paddusb | M::Paddusw => Some(Shape::Load),
        M::Psubsb | M::Psubsw | M::Psubusb | M::Psubusw => Some(Shape::Load),
        M::Pmullw | M::Pmulhw | M::Pmulhuw | M::Pmuludq | M::Pmaddwd | M::Psadbw => Some(Shape::Load),
        M::Pavgb | M::Pavgw | M::Pminub | M::Pmaxub | M::Pminsw | M::Pmaxsw => Some(Shape::Load),
        M::Pcmpeqb | M::Pcmpeqw | M::Pcmpeqd | M::Pcmpgtb | M::Pcmpgtw | M::Pcmpgtd => Some(Shape::Load),
        M::Pand | M::Pandn | M::Por | M::Pxor | M::Packsswb | M::Packuswb | M::Packssdw => Some(Shape::Load),
        M::Punpcklbw | M::Punpcklwd | M::Punpckldq => Some(Shape::Load),
        M::Punpckhbw | M::Punpckhwd | M::Punpckhdq => Some(Shape::Load),
        M::Pshufw | M::Pinsrw | M::Pextrw | M::Pmovmskb => Some(Shape::Load),
        _ => None,
    }
}

/// MOVQ between registers in the form of a store.
fn is_store_form(ins: &Instruction) -> bool {
    ins.code() == iced_x86::Code::Movq_mmm64_mm
}

/// The instruction is one of those that are passed through.
pub(super) fn is_mmx(ins: &Instruction) -> bool {
    shape(ins).is_some()
}

impl Translator<'_> {
    /// A register operand's number as the host encodes it.
    fn mmx_register(&self, n: u32) -> u8 {
        let r = self.insn().op_register(n);
        if r.is_mm() { r.number() as u8 } else { self.reg(n) }
    }

    /// Lowers an instruction for which [`is_mmx`] holds.
    pub(super) fn mmx(&mut self) {
        let ins = self.insn();
        let Some(shape) = shape(&ins) else { return };
        let code = self.simd_opcode();
        self.need_fpu();
        let (reg, rm, direction) = match shape {
            Shape::None => {
                dynasm!(self.ops ; .arch x64 ; emms);
                return;
            }
            Shape::Shift => {
                let (extension, count) = self.shift_bytes();
                let d = self.mmx_register(0);
                self.simd_op(code, extension, Rm::Reg(d));
                self.ops.push(count);
                return;
            }
            Shape::Load => (0, 1, Direction::Read),
            Shape::Store => (1, 0, Direction::Write),
        };
        let labels = plan::has_memory(&ins).then(|| self.slow());
        let rm = match (self.kind(rm), labels) {
            (Kind::Memory, Some((slow, _))) => self.operand(ins.memory_size().size() as u32, direction, slow),
            _ => Rm::Reg(self.mmx_register(rm)),
        };
        let reg = self.mmx_register(reg);
        self.simd_op(code, reg, rm);
        if ins.op_count() == 3 {
            self.ops.push(self.insns[self.n].imm as u8);
        }
        if let Some((_, back)) = labels {
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }
}
