//! SSE, SSE2 and SSE3 on XMM registers, passed through: the same host instruction on the same registers.
//!
//! Registers and MXCSR are loaded into the host's by the first instruction that needs them, and stored when
//! something is called. That takes an MXCSR that masks all exceptions, so that the host collects the flags
//! that the interpreter would; otherwise the block is left to the interpreter. Instructions whose result
//! depends on the processor's maker (RCPPS, RSQRTPS) are not here.

use dynasm::dynasm;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::integer::Kind;
use super::memory::Direction;
use super::{Translator, plan};
use crate::encode::{self, Rm};
use crate::layout::XMM_RESIDENT;

/// How an instruction's operands are used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `xmm, xmm/m`.
    Load,
    /// `m, xmm`.
    Store,
    /// `xmm, r/m32`.
    FromGeneral,
    /// `r32, xmm/m`.
    ToGeneral,
    /// `r/m32, xmm`.
    MovdStore,
    /// `xmm, imm8`: a shift.
    Shift,
    /// `xmm, xmm/m` that sets the flags.
    Compare,
}

#[derive(Clone, Copy)]
struct Row {
    shape: Shape,
    /// Computes: register operands are as they are encoded.
    float: bool,
    /// A 16-byte memory operand must be aligned.
    aligned: bool,
}

fn row(ins: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    let is_xmm = |n| ins.op_kind(n) == OpKind::Register && ins.op_register(n).is_xmm();
    let memory = |n| ins.op_kind(n) == OpKind::Memory;
    let (x0, x1) = (is_xmm(0), ins.op_count() > 1 && is_xmm(1));
    if !(x0 || x1) || ins.op_count() > 3 || (0..ins.op_count()).any(|n| ins.op_register(n).is_mm()) {
        return None;
    }
    let plain = |shape| Some(Row { shape, float: false, aligned: true });
    let loose = |shape| Some(Row { shape, float: false, aligned: false });
    let float = |shape| Some(Row { shape, float: true, aligned: true });
    match ins.mnemonic() {
        M::Movaps | M::Movapd | M::Movdqa => plain(if x0 { Shape::Load } else { Shape::Store }),
        M::Movups | M::Movupd | M::Movdqu => loose(if x0 { Shape::Load } else { Shape::Store }),
        M::Lddqu => loose(Shape::Load),
        M::Movntps | M::Movntpd | M::Movntdq => plain(Shape::Store),
        M::Movq if x0 => loose(Shape::Load),
        M::Movq => loose(Shape::Store),
        M::Movss | M::Movsd if x0 && memory(1) => loose(Shape::Load),
        M::Movss | M::Movsd if x0 => loose(Shape::Load),
        M::Movss | M::Movsd => loose(Shape::Store),
        M::Movlps | M::Movlpd | M::Movhps | M::Movhpd if x0 => loose(Shape::Load),
        M::Movlps | M::Movlpd | M::Movhps | M::Movhpd => loose(Shape::Store),
        M::Movlhps | M::Movhlps => loose(Shape::Load),
        M::Movd if x0 => loose(Shape::FromGeneral),
        M::Movd => loose(Shape::MovdStore),
        M::Pmovmskb | M::Movmskps | M::Movmskpd => loose(Shape::ToGeneral),
        M::Pslldq | M::Psrldq => plain(Shape::Shift),
        M::Psllw | M::Pslld | M::Psllq | M::Psrlw | M::Psrld | M::Psrlq | M::Psraw | M::Psrad => {
            plain(if ins.op1_kind() == OpKind::Immediate8 { Shape::Shift } else { Shape::Load })
        }
        M::Pshufd | M::Pshufhw | M::Pshuflw => plain(Shape::Load),
        M::Paddb | M::Paddw | M::Paddd | M::Paddq | M::Psubb | M::Psubw | M::Psubd | M::Psubq => {
            plain(Shape::Load)
        }
        M::Pand | M::Pandn | M::Por | M::Pxor | M::Andps | M::Andpd | M::Andnps | M::Andnpd => {
            plain(Shape::Load)
        }
        M::Orps | M::Orpd | M::Xorps | M::Xorpd => plain(Shape::Load),
        M::Pcmpeqb | M::Pcmpeqw | M::Pcmpeqd | M::Pcmpgtb | M::Pcmpgtw | M::Pcmpgtd => plain(Shape::Load),
        M::Pminub | M::Pmaxub | M::Pminsw | M::Pmaxsw | M::Pavgb | M::Pavgw | M::Psadbw => plain(Shape::Load),
        M::Punpcklbw | M::Punpcklwd | M::Punpckldq | M::Punpcklqdq => plain(Shape::Load),
        M::Punpckhbw | M::Punpckhwd | M::Punpckhdq | M::Punpckhqdq => plain(Shape::Load),
        M::Packsswb | M::Packuswb | M::Packssdw | M::Pmullw | M::Pmulhw | M::Pmulhuw => plain(Shape::Load),
        M::Pmuludq | M::Pmaddwd => plain(Shape::Load),
        M::Paddsb | M::Paddsw | M::Paddusb | M::Paddusw => plain(Shape::Load),
        M::Psubsb | M::Psubsw | M::Psubusb | M::Psubusw => plain(Shape::Load),
        M::Unpcklps | M::Unpckhps | M::Unpcklpd | M::Unpckhpd | M::Shufps | M::Shufpd => plain(Shape::Load),
        M::Addss | M::Addsd | M::Addps | M::Addpd | M::Subss | M::Subsd | M::Subps | M::Subpd => {
            float(Shape::Load)
        }
        M::Mulss | M::Mulsd | M::Mulps | M::Mulpd | M::Divss | M::Divsd | M::Divps | M::Divpd => {
            float(Shape::Load)
        }
        M::Minss | M::Minsd | M::Minps | M::Minpd | M::Maxss | M::Maxsd | M::Maxps | M::Maxpd => {
            float(Shape::Load)
        }
        M::Sqrtss | M::Sqrtsd | M::Sqrtps | M::Sqrtpd => float(Shape::Load),
        M::Cmpss | M::Cmpps | M::Cmppd => float(Shape::Load),
        M::Cmpsd if ins.op_count() == 3 => float(Shape::Load),
        M::Cvtss2sd | M::Cvtsd2ss => float(Shape::Load),
        M::Cvtps2pd | M::Cvtpd2ps | M::Cvtdq2ps | M::Cvtps2dq | M::Cvttps2dq => float(Shape::Load),
        M::Cvtdq2pd | M::Cvtpd2dq | M::Cvttpd2dq => float(Shape::Load),
        M::Addsubps | M::Addsubpd | M::Haddps | M::Haddpd | M::Hsubps | M::Hsubpd => float(Shape::Load),
        M::Movsldup | M::Movshdup | M::Movddup => plain(Shape::Load),
        M::Pinsrw => loose(Shape::FromGeneral),
        M::Pextrw => loose(Shape::ToGeneral),
        M::Cvtsi2sd | M::Cvtsi2ss => float(Shape::FromGeneral),
        M::Cvttsd2si | M::Cvttss2si | M::Cvtsd2si | M::Cvtss2si => float(Shape::ToGeneral),
        M::Ucomisd | M::Ucomiss | M::Comisd | M::Comiss => float(Shape::Compare),
        _ => None,
    }
}

/// The instruction is one of those that are passed through.
pub(super) fn is_simd(ins: &Instruction) -> bool {
    row(ins).is_some()
}

/// The form of a move between registers whose destination is in ModRM.reg.
fn load_form(code: (u8, u8)) -> (u8, u8) {
    match code {
        (prefix, 0x11) => (prefix, 0x10),
        (prefix, 0x29) => (prefix, 0x28),
        (prefix @ (0x66 | 0xF3), 0x7F) => (prefix, 0x6F),
        (0x66, 0xD6) => (0xF3, 0x7E),
        other => other,
    }
}

/// Prefix that selects the instruction (or 0), and opcode behind 0F.
fn opcode(bytes: &[u8]) -> (u8, u8) {
    let mut prefix = 0;
    for (n, &b) in bytes.iter().enumerate() {
        match b {
            0x66 if prefix == 0 => prefix = 0x66,
            0xF2 | 0xF3 => prefix = b,
            0x0F => return (prefix, bytes.get(n + 1).copied().unwrap_or(0)),
            _ => {}
        }
    }
    (prefix, 0)
}

impl Translator<'_> {
    fn instruction_bytes(&self) -> &[u8] {
        let insn = &self.insns[self.n];
        let end = usize::from(insn.end);
        self.bytes.get(end.saturating_sub(usize::from(insn.len))..end).unwrap_or(&[])
    }

    /// `prefix 0F opcode` with an XMM or general register and an operand.
    pub(super) fn simd_op(&mut self, code: (u8, u8), reg: u8, rm: Rm) {
        if code.0 != 0 {
            self.ops.push(code.0);
        }
        encode::op(&mut self.ops, 4, &[0x0F, code.1], reg, rm);
    }

    /// Prefix and opcode of the current instruction.
    pub(super) fn simd_opcode(&self) -> (u8, u8) {
        opcode(self.instruction_bytes())
    }

    /// A shift by a constant: the register is in ModRM.rm, an opcode extension in ModRM.reg. The extension
    /// and the constant.
    pub(super) fn shift_bytes(&self) -> (u8, u8) {
        match self.instruction_bytes() {
            [.., modrm, count] => (*modrm >> 3 & 7, *count),
            _ => (0, 0),
        }
    }

    /// Behind it the host's XMM registers and MXCSR are the guest's. Changes the host's flags.
    fn need_xmm(&mut self) {
        if !self.xmm_ready {
            self.xmm_ready = true;
            self.need(XMM_RESIDENT, self.place.routines.load_xmm);
        }
    }

    fn xmm_number(&self, n: u32) -> u8 {
        (self.insn().op_register(n) as u32 - Register::XMM0 as u32) as u8 & 7
    }

    /// The instruction's memory operand, checked.
    fn simd_operand(&mut self, row: Row, direction: Direction, slow: DynamicLabel) -> Rm {
        let size = self.insn().memory_size().size() as u32;
        let rm = self.operand(size, direction, slow);
        if size == 16
            && row.aligned
            && let Rm::Guest(_, address, _) = rm
        {
            // Misaligned operands fault.
            dynasm!(self.ops ; .arch x64 ; test Rb(address), 15 ; jnz =>slow);
        }
        rm
    }

    /// Source operand 1: memory or an XMM register.
    fn simd_source(&mut self, row: Row, slow: DynamicLabel) -> Rm {
        if self.kind(1) == Kind::Memory {
            self.simd_operand(row, Direction::Read, slow)
        } else {
            Rm::Reg(self.xmm_number(1))
        }
    }

    /// An operand that is memory or a general register.
    fn general_operand(&mut self, n: u32, row: Row, direction: Direction, slow: DynamicLabel) -> Rm {
        if self.kind(n) == Kind::Memory {
            self.simd_operand(row, direction, slow)
        } else {
            Rm::Reg(self.reg(n))
        }
    }

    /// Lowers an instruction for which [`is_simd`] holds.
    pub(super) fn simd(&mut self) {
        let ins = self.insn();
        let Some(row) = row(&ins) else { return };
        let code = self.simd_opcode();
        self.need_xmm();
        let labels = plan::has_memory(&ins).then(|| self.slow());
        // Without memory nothing is slow.
        let slow = labels.map_or_else(|| self.ops.new_dynamic_label(), |(slow, _)| slow);
        match row.shape {
            Shape::Load => {
                let d = self.xmm_number(0);
                let rm = self.simd_source(row, slow);
                self.simd_op(if row.float { code } else { load_form(code) }, d, rm);
                if ins.op_count() == 3 {
                    self.ops.push(self.insns[self.n].imm as u8);
                }
            }
            Shape::Compare => {
                let d = self.xmm_number(0);
                let rm = self.simd_source(row, slow);
                self.simd_op(code, d, rm);
                self.flags_set();
            }
            Shape::Store => {
                let s = self.xmm_number(1);
                let rm = self.simd_operand(row, Direction::Write, slow);
                self.simd_op(code, s, rm);
            }
            Shape::FromGeneral => {
                let d = self.xmm_number(0);
                let rm = self.general_operand(1, row, Direction::Read, slow);
                self.simd_op(code, d, rm);
                if ins.op_count() == 3 {
                    self.ops.push(self.insns[self.n].imm as u8);
                }
            }
            Shape::ToGeneral => {
                let d = self.reg(0);
                let rm = self.simd_source(row, slow);
                self.simd_op(code, d, rm);
                if ins.op_count() == 3 {
                    self.ops.push(self.insns[self.n].imm as u8);
                }
            }
            Shape::MovdStore => {
                let s = self.xmm_number(1);
                let rm = self.general_operand(0, row, Direction::Write, slow);
                self.simd_op(code, s, rm);
            }
            Shape::Shift => {
                let d = self.xmm_number(0);
                let (extension, count) = self.shift_bytes();
                self.simd_op(code, extension, Rm::Reg(d));
                self.ops.push(count);
            }
        }
        if let Some((_, back)) = labels {
            dynasm!(self.ops ; .arch x64 ; =>back);
        }
    }
}
