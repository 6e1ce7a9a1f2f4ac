//! SSE, SSE2 and SSE3 on XMM registers, passed through: the same host instruction, with the registers in
//! the state. MMX is left to the interpreter.
//!
//! Floating point runs with the guest's MXCSR if it masks all exceptions, so that the host collects the
//! flags that the interpreter would; otherwise the instruction is left to the interpreter. Instructions
//! whose result depends on the processor's maker (RCPPS, RSQRTPS) are not here.

use dynasm::dynasm;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::Translator;
use super::integer::Kind;
use super::memory::Direction;
use crate::encode::{self, Rm};
use crate::layout::{HOST_MXCSR, MXCSR, SSE_USABLE, host, xmm};

/// How an instruction's operands are used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `xmm, xmm/m`: reads and writes operand 0.
    Binary,
    /// `xmm, xmm/m`: writes all of operand 0 without reading it.
    Load,
    /// `m, xmm`.
    Store,
    /// `xmm, r/m32`: writes all of operand 0.
    FromGeneral,
    /// `r32, xmm/m`.
    ToGeneral,
    /// `r/m32, xmm`.
    MovdStore,
    /// `xmm, imm8`: a shift.
    Shift,
    /// `xmm, xmm/m` that sets the flags.
    Compare,
    /// `xmm, r/m32` that keeps the upper part of operand 0.
    Convert,
}

#[derive(Clone, Copy)]
struct Row {
    shape: Shape,
    /// Depends on MXCSR.
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
        M::Movss | M::Movsd if x0 => loose(Shape::Binary),
        M::Movss | M::Movsd => loose(Shape::Store),
        M::Movlps | M::Movlpd | M::Movhps | M::Movhpd if x0 => loose(Shape::Binary),
        M::Movlps | M::Movlpd | M::Movhps | M::Movhpd => loose(Shape::Store),
        M::Movlhps | M::Movhlps => loose(Shape::Binary),
        M::Movd if x0 => loose(Shape::FromGeneral),
        M::Movd => loose(Shape::MovdStore),
        M::Pmovmskb | M::Movmskps | M::Movmskpd => loose(Shape::ToGeneral),
        M::Pslldq | M::Psrldq => plain(Shape::Shift),
        M::Psllw | M::Pslld | M::Psllq | M::Psrlw | M::Psrld | M::Psrlq | M::Psraw | M::Psrad => {
            plain(if ins.op1_kind() == OpKind::Immediate8 { Shape::Shift } else { Shape::Binary })
        }
        M::Pshufd | M::Pshufhw | M::Pshuflw => plain(Shape::Load),
        M::Paddb | M::Paddw | M::Paddd | M::Paddq | M::Psubb | M::Psubw | M::Psubd | M::Psubq => {
            plain(Shape::Binary)
        }
        M::Pand | M::Pandn | M::Por | M::Pxor | M::Andps | M::Andpd | M::Andnps | M::Andnpd => {
            plain(Shape::Binary)
        }
        M::Orps | M::Orpd | M::Xorps | M::Xorpd => plain(Shape::Binary),
        M::Pcmpeqb | M::Pcmpeqw | M::Pcmpeqd | M::Pcmpgtb | M::Pcmpgtw | M::Pcmpgtd => plain(Shape::Binary),
        M::Pminub | M::Pmaxub | M::Pminsw | M::Pmaxsw | M::Pavgb | M::Pavgw | M::Psadbw => {
            plain(Shape::Binary)
        }
        M::Punpcklbw | M::Punpcklwd | M::Punpckldq | M::Punpcklqdq => plain(Shape::Binary),
        M::Punpckhbw | M::Punpckhwd | M::Punpckhdq | M::Punpckhqdq => plain(Shape::Binary),
        M::Packsswb | M::Packuswb | M::Packssdw | M::Pmullw | M::Pmulhw | M::Pmulhuw => plain(Shape::Binary),
        M::Pmuludq | M::Pmaddwd => plain(Shape::Binary),
        M::Paddsb | M::Paddsw | M::Paddusb | M::Paddusw => plain(Shape::Binary),
        M::Psubsb | M::Psubsw | M::Psubusb | M::Psubusw => plain(Shape::Binary),
        M::Unpcklps | M::Unpckhps | M::Unpcklpd | M::Unpckhpd | M::Shufps | M::Shufpd => plain(Shape::Binary),
        M::Addss | M::Addsd | M::Addps | M::Addpd | M::Subss | M::Subsd | M::Subps | M::Subpd => {
            float(Shape::Binary)
        }
        M::Mulss | M::Mulsd | M::Mulps | M::Mulpd | M::Divss | M::Divsd | M::Divps | M::Divpd => {
            float(Shape::Binary)
        }
        M::Minss | M::Minsd | M::Minps | M::Minpd | M::Maxss | M::Maxsd | M::Maxps | M::Maxpd => {
            float(Shape::Binary)
        }
        M::Sqrtss | M::Sqrtsd | M::Sqrtps | M::Sqrtpd => float(Shape::Binary),
        M::Cmpss | M::Cmpps | M::Cmppd => float(Shape::Binary),
        M::Cmpsd if ins.op_count() == 3 => float(Shape::Binary),
        M::Cvtss2sd | M::Cvtsd2ss => float(Shape::Binary),
        M::Cvtsi2sd | M::Cvtsi2ss => float(Shape::Convert),
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
    fn simd_op(&mut self, code: (u8, u8), reg: u8, rm: Rm) {
        if code.0 != 0 {
            self.ops.push(code.0);
        }
        encode::op(&mut self.ops, 4, &[0x0F, code.1], reg, rm);
    }

    fn load_xmm(&mut self, into: u8, from: u8) {
        dynasm!(self.ops ; .arch x64 ; movaps Rx(into), [r13 + xmm(from)]);
    }

    fn store_xmm(&mut self, from: u8, into: u8) {
        dynasm!(self.ops ; .arch x64 ; movaps [r13 + xmm(into)], Rx(from));
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

    /// Source operand `n`: memory, or the XMM register loaded into xmm1.
    fn simd_source(&mut self, row: Row, slow: DynamicLabel) -> Rm {
        if self.kind(1) == Kind::Memory {
            self.simd_operand(row, Direction::Read, slow)
        } else {
            let s = self.xmm_number(1);
            self.load_xmm(1, s);
            Rm::Reg(1)
        }
    }

    /// Lowers an instruction for which [`is_simd`] holds.
    pub(super) fn simd(&mut self) {
        let ins = self.insn();
        let Some(row) = row(&ins) else { return };
        let code = opcode(self.instruction_bytes());
        let (slow, back) = self.slow();
        dynasm!(self.ops ; .arch x64 ; cmp BYTE [BYTE r13 + SSE_USABLE as i8], 0 ; je =>slow);
        if row.float {
            dynasm!(self.ops
                ; .arch x64
                ; mov r10d, [r13 + MXCSR]
                ; not r10d
                ; test r10d, 0x1F80
                ; jnz =>slow
            );
        }
        self.clobber();
        let imm = (ins.op_count() == 3).then(|| self.insns[self.n].imm as u8);
        match row.shape {
            Shape::Binary | Shape::Load => {
                let d = self.xmm_number(0);
                let rm = self.simd_source(row, slow);
                if row.shape == Shape::Binary {
                    self.load_xmm(0, d);
                }
                self.enter_float(row);
                self.simd_op(if row.float { code } else { load_form(code) }, 0, rm);
                if let Some(imm) = imm {
                    self.ops.push(imm);
                }
                self.leave_float(row);
                self.store_xmm(0, d);
            }
            Shape::Compare => {
                let d = self.xmm_number(0);
                let rm = self.simd_source(row, slow);
                self.load_xmm(0, d);
                self.enter_float(row);
                self.simd_op(code, 0, rm);
                self.leave_float(row);
                self.flags_set();
            }
            Shape::Store => {
                let s = self.xmm_number(1);
                let rm = self.simd_operand(row, Direction::Write, slow);
                self.load_xmm(0, s);
                self.simd_op(code, 0, rm);
            }
            Shape::FromGeneral | Shape::Convert => {
                let d = self.xmm_number(0);
                let rm = if self.kind(1) == Kind::Memory {
                    self.simd_operand(row, Direction::Read, slow)
                } else {
                    Rm::Reg(self.reg(1))
                };
                if row.shape == Shape::Convert {
                    self.load_xmm(0, d);
                }
                self.enter_float(row);
                self.simd_op(code, 0, rm);
                self.leave_float(row);
                self.store_xmm(0, d);
            }
            Shape::ToGeneral => {
                let d = self.reg(0);
                let rm = self.simd_source(row, slow);
                self.enter_float(row);
                self.simd_op(code, host::R11, rm);
                self.leave_float(row);
                dynasm!(self.ops ; .arch x64 ; mov Rd(d), r11d);
            }
            Shape::MovdStore => {
                let s = self.xmm_number(1);
                let rm = if self.kind(0) == Kind::Memory {
                    self.simd_operand(row, Direction::Write, slow)
                } else {
                    Rm::Reg(self.reg(0))
                };
                self.load_xmm(0, s);
                self.simd_op(code, 0, rm);
            }
            Shape::Shift => {
                let d = self.xmm_number(0);
                self.load_xmm(1, d);
                // The register is in ModRM.rm, an opcode extension in ModRM.reg.
                let (extension, count) = match self.instruction_bytes() {
                    [.., modrm, count] => (*modrm >> 3 & 7, *count),
                    _ => (0, 0),
                };
                self.simd_op(code, extension, Rm::Reg(1));
                self.ops.push(count);
                self.store_xmm(1, d);
            }
        }
        dynasm!(self.ops ; .arch x64 ; =>back);
    }

    fn enter_float(&mut self, row: Row) {
        if row.float {
            dynasm!(self.ops ; .arch x64 ; ldmxcsr [r13 + MXCSR]);
        }
    }

    fn leave_float(&mut self, row: Row) {
        if row.float {
            dynasm!(self.ops ; .arch x64 ; stmxcsr [r13 + MXCSR] ; ldmxcsr [r13 + HOST_MXCSR]);
        }
    }
}
