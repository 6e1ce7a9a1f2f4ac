//! x87 instructions, passed through to the host's unit (`docs/engine.md`, "The x87 unit").
//!
//! What is exact by IEEE 754 is here. The transcendental functions, FPREM and FPREM1 (whose partial
//! results processors disagree about), decimal conversions and whatever moves the whole unit are calls.

use dynasm::dynasm;
use dynasmrt::{DynasmApi, DynasmLabelApi};
use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic};

use super::Translator;
use super::memory::Direction;
use super::plan::Plan;
use crate::encode::{self, Rm};
use crate::fpu::{self, Note};
use crate::layout::{DATA_SEGMENT, FPU, PAGE_BASE, X87_DP, X87_NOTE, X87_PAGE, host, seg_base};

/// How an instruction is passed through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// As it is: operands are registers of the unit, or AX.
    Register,
    /// The same, and it reads EFLAGS.
    Conditional,
    /// The same, and it sets EFLAGS.
    Compare,
    /// Reads memory.
    Load,
    /// Writes memory.
    Store,
    /// FLDCW.
    Modes,
    /// WAIT: nothing can be pending.
    Nothing,
}

#[derive(Clone, Copy)]
struct Row {
    shape: Shape,
    /// Recorded as the last instruction.
    noted: bool,
}

fn row(ins: &Instruction) -> Option<Row> {
    let noted = |shape| Some(Row { shape, noted: true });
    let control = |shape| Some(Row { shape, noted: false });
    match ins.code() {
        Code::Wait => control(Shape::Nothing),
        Code::Fnstsw_AX | Code::Fnclex => control(Shape::Register),
        Code::Fnstcw_m2byte | Code::Fnstsw_m2byte => control(Shape::Store),
        Code::Fldcw_m2byte => control(Shape::Modes),
        Code::Fld_m32fp | Code::Fld_m64fp | Code::Fld_m80fp => noted(Shape::Load),
        Code::Fild_m16int | Code::Fild_m32int | Code::Fild_m64int => noted(Shape::Load),
        Code::Fst_m32fp | Code::Fst_m64fp | Code::Fstp_m32fp | Code::Fstp_m64fp | Code::Fstp_m80fp => {
            noted(Shape::Store)
        }
        Code::Fist_m16int | Code::Fist_m32int => noted(Shape::Store),
        Code::Fistp_m16int | Code::Fistp_m32int | Code::Fistp_m64int => noted(Shape::Store),
        Code::Fisttp_m16int | Code::Fisttp_m32int | Code::Fisttp_m64int => noted(Shape::Store),
        Code::Fadd_m32fp | Code::Fmul_m32fp | Code::Fsub_m32fp | Code::Fsubr_m32fp => noted(Shape::Load),
        Code::Fdiv_m32fp | Code::Fdivr_m32fp | Code::Fcom_m32fp | Code::Fcomp_m32fp => noted(Shape::Load),
        Code::Fadd_m64fp | Code::Fmul_m64fp | Code::Fsub_m64fp | Code::Fsubr_m64fp => noted(Shape::Load),
        Code::Fdiv_m64fp | Code::Fdivr_m64fp | Code::Fcom_m64fp | Code::Fcomp_m64fp => noted(Shape::Load),
        Code::Fiadd_m16int | Code::Fimul_m16int | Code::Fisub_m16int | Code::Fisubr_m16int => {
            noted(Shape::Load)
        }
        Code::Fidiv_m16int | Code::Fidivr_m16int | Code::Ficom_m16int | Code::Ficomp_m16int => {
            noted(Shape::Load)
        }
        Code::Fiadd_m32int | Code::Fimul_m32int | Code::Fisub_m32int | Code::Fisubr_m32int => {
            noted(Shape::Load)
        }
        Code::Fidiv_m32int | Code::Fidivr_m32int | Code::Ficom_m32int | Code::Ficomp_m32int => {
            noted(Shape::Load)
        }
        Code::Fadd_st0_sti | Code::Fadd_sti_st0 | Code::Faddp_sti_st0 => noted(Shape::Register),
        Code::Fmul_st0_sti | Code::Fmul_sti_st0 | Code::Fmulp_sti_st0 => noted(Shape::Register),
        Code::Fsub_st0_sti | Code::Fsub_sti_st0 | Code::Fsubp_sti_st0 => noted(Shape::Register),
        Code::Fsubr_st0_sti | Code::Fsubr_sti_st0 | Code::Fsubrp_sti_st0 => noted(Shape::Register),
        Code::Fdiv_st0_sti | Code::Fdiv_sti_st0 | Code::Fdivp_sti_st0 => noted(Shape::Register),
        Code::Fdivr_st0_sti | Code::Fdivr_sti_st0 | Code::Fdivrp_sti_st0 => noted(Shape::Register),
        Code::Fsqrt | Code::Frndint | Code::Fabs | Code::Fchs | Code::Fscale | Code::Fxtract => {
            noted(Shape::Register)
        }
        Code::Fcom_st0_sti | Code::Fcom_st0_sti_DCD0 => noted(Shape::Register),
        Code::Fcomp_st0_sti | Code::Fcomp_st0_sti_DCD8 | Code::Fcomp_st0_sti_DED0 => noted(Shape::Register),
        Code::Fucom_st0_sti | Code::Fucomp_st0_sti | Code::Fcompp | Code::Fucompp => noted(Shape::Register),
        Code::Ftst | Code::Fxam | Code::Fnop => noted(Shape::Register),
        Code::Fcomi_st0_sti | Code::Fcomip_st0_sti | Code::Fucomi_st0_sti | Code::Fucomip_st0_sti => {
            noted(Shape::Compare)
        }
        Code::Fld_sti | Code::Fst_sti => noted(Shape::Register),
        Code::Fstp_sti | Code::Fstp_sti_DFD0 | Code::Fstp_sti_DFD8 => noted(Shape::Register),
        Code::Fxch_st0_sti | Code::Fxch_st0_sti_DDC8 | Code::Fxch_st0_sti_DFC8 => noted(Shape::Register),
        Code::Fld1 | Code::Fldl2t | Code::Fldl2e | Code::Fldpi => noted(Shape::Register),
        Code::Fldlg2 | Code::Fldln2 | Code::Fldz => noted(Shape::Register),
        Code::Fincstp | Code::Fdecstp | Code::Ffree_sti | Code::Ffreep_sti => noted(Shape::Register),
        Code::Fcmovb_st0_sti | Code::Fcmove_st0_sti | Code::Fcmovbe_st0_sti | Code::Fcmovu_st0_sti => {
            noted(Shape::Conditional)
        }
        Code::Fcmovnb_st0_sti | Code::Fcmovne_st0_sti | Code::Fcmovnbe_st0_sti | Code::Fcmovnu_st0_sti => {
            noted(Shape::Conditional)
        }
        _ => None,
    }
}

/// The instruction is one of those that are passed through.
pub(super) fn is_x87(ins: &Instruction) -> bool {
    row(ins).is_some()
}

/// The interpreter's function for the instruction may look at the x87 unit or change it.
pub(super) fn uses_unit(ins: &Instruction) -> bool {
    use CpuidFeature::{D3NOW, D3NOWEXT, FPU, FPU287, FPU287XL_ONLY, FPU387, FPU387SL_ONLY, FXSR, MMX};
    let own = [FPU, FPU287, FPU287XL_ONLY, FPU387, FPU387SL_ONLY, FXSR, MMX, D3NOW, D3NOWEXT];
    ins.mnemonic() == Mnemonic::Wait
        || ins.cpuid_features().iter().any(|f| own.contains(f))
        || (0..ins.op_count()).any(|n| ins.op_register(n).is_mm() || ins.op_register(n).is_st())
}

impl Translator<'_> {
    /// Behind it the host's x87 unit is the guest's. Changes the host's flags.
    pub(super) fn need_fpu(&mut self) {
        if !self.fpu_ready {
            self.fpu_ready = true;
            self.need(FPU, self.place.routines.load_fpu);
        }
    }

    /// Lowers an instruction for which [`is_x87`] holds.
    pub(super) fn x87(&mut self) {
        let ins = self.insn();
        let Some(row) = row(&ins) else { return };
        self.need_fpu();
        let insn = self.insns[self.n];
        let [modrm, first] = insn.imm2.to_le_bytes();
        let code = [0xD8 | first & 7, modrm];
        let direction = match row.shape {
            Shape::Nothing => return,
            Shape::Register | Shape::Conditional | Shape::Compare => {
                if row.shape == Shape::Conditional {
                    self.flags_to_host();
                }
                self.ops.extend(&code);
                if row.noted {
                    self.note();
                }
                if row.shape == Shape::Compare {
                    // C1 is cleared, which not every processor does.
                    dynasm!(self.ops ; .arch x64 ; fincstp ; fdecstp);
                    self.flags_set();
                }
                return;
            }
            Shape::Store => Direction::Write,
            Shape::Load | Shape::Modes => Direction::Read,
        };
        let size = ins.memory_size().size() as u32;
        let (slow, back) = self.slow();
        let rm = self.operand(size, direction, slow);
        if row.shape == Shape::Modes {
            encode::op(&mut self.ops, 4, &[0x0F, 0xB7], host::R10, rm);
            dynasm!(self.ops
                ; .arch x64
                ; not r10d
                ; test r10d, i32::from(fpu::ALL_MASKED)
                ; jnz =>slow
            );
        }
        encode::op(&mut self.ops, 4, &code[..1], modrm >> 3 & 7, rm);
        if row.noted {
            self.note_operand(rm, insn.seg);
            self.note();
        }
        dynasm!(self.ops ; .arch x64 ; =>back);
    }

    /// The current instruction becomes the last x87 instruction: recorded now if no other follows before
    /// the end of the block or a call, and otherwise in the stubs of what comes before that. Changes r8.
    fn note(&mut self) {
        let is_noted = |k: usize| row(&self.ins[k]).is_some_and(|row| row.noted);
        let next = (self.n + 1..self.ins.len()).find(|&k| self.plans[k] == Plan::Call || is_noted(k));
        if next.is_some_and(|k| self.plans[k] != Plan::Call) {
            self.noted = Some(self.n);
        } else {
            self.noted = None;
            self.store_note(self.n);
        }
    }

    /// Records instruction `n` as the last x87 instruction. Changes r8.
    pub(super) fn store_note(&mut self, n: usize) {
        let insn = self.insns[n];
        let offset = self.place.in_page + u32::from(insn.end) - u32::from(insn.len);
        let note = Note::new(offset, insn.imm2);
        dynasm!(self.ops
            ; .arch x64
            ; mov r8d, [BYTE r13 + PAGE_BASE as i8]
            ; mov DWORD [BYTE r13 + X87_NOTE as i8], note.0 as i32
            ; mov [BYTE r13 + X87_PAGE as i8], r8d
        );
    }

    /// Records the offset of the operand that was just accessed. Changes r10 and the host's flags.
    fn note_operand(&mut self, rm: Rm, segment: u8) {
        let Rm::Guest(_, address, disp) = rm else { return };
        if matches!(segment, 4 | 5) || self.is_segmented() {
            dynasm!(self.ops
                ; .arch x64
                ; mov r10d, Rd(address)
                ; sub r10d, [BYTE r13 + seg_base(segment) as i8]
                ; mov [r13 + X87_DP], r10d
            );
        } else if disp == 0 {
            dynasm!(self.ops ; .arch x64 ; mov [r13 + X87_DP], Rd(address));
        } else {
            dynasm!(self.ops ; .arch x64 ; lea r10d, [Rq(address) + disp] ; mov [r13 + X87_DP], r10d);
        }
        if self.data_segment != Some(segment) {
            self.data_segment = Some(segment);
            dynasm!(self.ops ; .arch x64 ; mov BYTE [BYTE r13 + DATA_SEGMENT as i8], segment as i8);
        }
    }
}
