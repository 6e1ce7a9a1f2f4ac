//! What comparisons with silicon leave out, instruction by instruction, and why: one table.
//!
//! Everything that compares (tests, campaigns, recorded answers) calls [`settle`] when two outcomes
//! differ; what differs afterwards is a mistake. `docs/undefined-flags.md` shows the same table.

use std::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::fp::Pointers;
use crate::layout::{self, USER_DS};
use crate::{ARENA, CODE, Outcome, State};

/// EFLAGS bits that are compared: CF PF AF ZF SF DF OF.
pub const FLAGS: u32 = 0xCD5;

const CF: u32 = 1;
const PF: u32 = 4;
const AF: u32 = 0x10;
const ZF: u32 = 0x40;
const SF: u32 = 0x80;
const OF: u32 = 0x800;
const ALL: u32 = CF | PF | AF | ZF | SF | OF;

/// Condition codes of the x87 status word.
const C0: u16 = 1 << 8;
const C1: u16 = 1 << 9;
const C2: u16 = 1 << 10;
const C3: u16 = 1 << 14;
/// Precision, underflow, overflow; ES and B.
const INEXACT: u16 = 0x38 | 0x8080;

/// Shift counts, after masking to five bits, for which flags are undefined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// The instruction has none, or all.
    Any,
    /// Not 0.
    Nonzero,
    /// 2 and more.
    Multiple,
    /// The width of the operand and more.
    Width,
    /// More than the width: double shifts of 16 bits.
    Beyond,
}

/// What of an outcome is not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// EFLAGS bits behind the instruction.
    Flags(u32, Count),
    /// The whole outcome.
    Everything(Count),
    /// EFLAGS when the instruction faults.
    FaultFlags,
    /// CR2.
    FaultAddress,
    /// General registers when the instruction faults.
    FaultRegisters,
    /// CR2 within the page of the operand, and what has been stored of it.
    FaultImage,
    /// Whether a misaligned operand is #AC or #GP while alignment is checked.
    FaultAlignment,
    /// x87 status bits behind the instruction.
    Status(u16),
    /// As [`Mask::Status`], on processors that are not AMD's.
    ForeignStatus(u16),
    /// The whole outcome, on processors that are not AMD's.
    Foreign,
    /// A unit in the last place of a result, C1, and on processors that are not AMD's PE.
    LastPlace,
    /// Relative errors of 1.5 * 2^-12.
    Approximation,
    /// Parts of what FXSAVE stores.
    FxImage,
    /// The whole outcome, if AMD's misaligned mode was turned on.
    Misaligned,
    /// The upper half of a selector on the stack.
    Selector,
    /// The pointers of the last x87 instruction after any fault.
    FaultPointers,
    /// The selectors, or all pointers, on processors that do not keep them.
    HostPointers,
    /// Integer programs only: `campaign` leaves it out.
    Campaign,
}

/// One row of the table.
pub struct Rule {
    /// Instructions as the documentation lists them.
    pub instructions: &'static str,
    /// The same as mnemonics; empty: see `instructions`.
    pub mnemonics: &'static [Mnemonic],
    /// What is left out.
    pub mask: Mask,
    /// The same in words.
    pub masked: &'static str,
    /// What our CPU does.
    pub here: &'static str,
    /// Where the manuals say so.
    pub source: &'static str,
}

macro_rules! rules {
    ($($text:literal [$($m:ident)*] $mask:expr, $masked:literal, $here:literal, $source:literal;)*) => {
        &[$(Rule {
            instructions: $text,
            mnemonics: &[$(Mnemonic::$m),*],
            mask: $mask,
            masked: $masked,
            here: $here,
            source: $source,
        }),*]
    };
}

/// The table.
pub const RULES: &[Rule] = rules! {
    "AND OR XOR TEST" [And Or Xor Test] Mask::Flags(AF, Count::Any),
        "AF", "cleared", "SDM vol. 2A, AND, Flags Affected";
    "SHL SHR SAR, count ≠ 0" [Shl Sal Shr Sar] Mask::Flags(AF, Count::Nonzero),
        "AF", "cleared", "SDM vol. 2B, SAL/SAR/SHL/SHR, Flags Affected";
    "SHL SHR SAR, count > 1" [Shl Sal Shr Sar] Mask::Flags(OF, Count::Multiple),
        "OF", "last step", "SDM vol. 2B, SAL/SAR/SHL/SHR, Flags Affected";
    "SHL SHR, 8/16 bits, count ≥ width" [Shl Sal Shr] Mask::Flags(CF, Count::Width),
        "CF", "bit shifted out last, 0 beyond the width", "SDM vol. 2B, SAL/SAR/SHL/SHR, Flags Affected";
    "ROL ROR RCL RCR, count > 1" [Rol Ror Rcl Rcr] Mask::Flags(OF, Count::Multiple),
        "OF", "last step", "SDM vol. 2B, RCL/RCR/ROL/ROR, Flags Affected";
    "SHLD SHRD, count ≠ 0" [Shld Shrd] Mask::Flags(AF, Count::Nonzero),
        "AF", "cleared", "SDM vol. 2B, SHLD, Flags Affected";
    "SHLD SHRD, count > 1" [Shld Shrd] Mask::Flags(OF, Count::Multiple),
        "OF", "last step", "SDM vol. 2B, SHLD, Flags Affected";
    "SHLD SHRD, 16 bits, count > 16" [Shld Shrd] Mask::Everything(Count::Beyond),
        "result, all flags", "shifts through dst:src:dst", "SDM vol. 2B, SHLD, Description";
    "MUL IMUL" [Mul Imul] Mask::Flags(SF | ZF | AF | PF, Count::Any),
        "SF ZF AF PF", "SF ZF PF by the low half, AF cleared", "SDM vol. 2A/2B, IMUL and MUL, Flags Affected";
    "DIV IDIV" [Div Idiv] Mask::Flags(ALL, Count::Any),
        "all six", "unchanged", "SDM vol. 2A, DIV, Flags Affected";
    "AAA AAS" [Aaa Aas] Mask::Flags(OF | SF | ZF | PF, Count::Any),
        "OF SF ZF PF", "SF ZF PF by AL, OF cleared", "SDM vol. 2A, AAA, Flags Affected";
    "DAA DAS" [Daa Das] Mask::Flags(OF, Count::Any),
        "OF", "cleared", "SDM vol. 2A, DAA, Flags Affected";
    "AAM AAD" [Aam Aad] Mask::Flags(OF | AF | CF, Count::Any),
        "OF AF CF", "cleared", "SDM vol. 2A, AAD, Flags Affected";
    "BT BTS BTR BTC" [Bt Bts Btr Btc] Mask::Flags(OF | SF | AF | PF, Count::Any),
        "OF SF AF PF", "unchanged", "SDM vol. 2A, BT, Flags Affected";
    "BSF BSR" [Bsf Bsr] Mask::Flags(CF | OF | SF | AF | PF, Count::Any),
        "all but ZF", "unchanged", "SDM vol. 2A, BSF, Flags Affected";
    "PUSH of a segment register, 32 bits" [Push] Mask::Selector,
        "bytes 2 and 3 on the stack", "unchanged", "SDM vol. 2B, PUSH, Description: 0 or unchanged";
    "CMPS that faults" [Cmpsb Cmpsw Cmpsd] Mask::FaultAddress,
        "CR2", "the first operand is read first", "SDM vol. 2A, CMPS, Operation: no order is given";
    "repeated CMPS and SCAS that fault" [Cmpsb Cmpsw Cmpsd Scasb Scasw Scasd] Mask::FaultFlags,
        "all six", "by the last comparison", "SDM vol. 2B, REP: restored; Zen: by form";
    "POPA that faults" [Popa Popad] Mask::FaultRegisters,
        "general registers", "unchanged", "SDM vol. 2B, POPA, Operation: what a fault leaves is not said";
    "FSTENV FLDENV FSAVE FRSTOR FXSAVE FXRSTOR that fault"
        [Fnstenv Fldenv Fnsave Frstor Fxsave Fxrstor] Mask::FaultImage,
        "CR2 within its page; what has been stored", "lowest address; nothing",
        "SDM vol. 2A, FXSAVE: the order of accesses is not said";
    "FXSAVE FXRSTOR, misaligned, alignment checked" [Fxsave Fxrstor] Mask::FaultAlignment,
        "#AC or #GP", "#GP", "SDM vol. 2A, FXSAVE, Protected Mode Exceptions: varies with the implementation";
    "CMPS that faults, in campaigns" [Cmpsb Cmpsw Cmpsd] Mask::Campaign,
        "which of two exceptions", "that of the first operand", "SDM vol. 2A, CMPS, Operation: no order is given";
    "UD0 UD1" [Ud0 Ud1] Mask::Campaign,
        "an exception while fetching ModRM", "raised instead of #UD", "SDM vol. 2B, UD: some processors do not fetch it";
    "CALL RET IRET that fault" [Call Retf Iret Iretd] Mask::Campaign,
        "exception of the stack or of the target", "by the order of the SDM's operation sections",
        "SDM vol. 3A, 6.9, table 6-2: no order within a class";
    "CALL PUSHA ENTER that fault" [Call Pusha Pushad Enter] Mask::Campaign,
        "stack below ESP", "nothing is stored", "SDM vol. 2A, ENTER, Operation: what a fault leaves is not said";
    "IRET with NT" [Iret Iretd] Mask::Campaign,
        "everything", "a task switch", "SDM vol. 2A, IRET: #GP in the compatibility mode that the host uses";
    "a repeated store into the program" [Movsb Movsw Movsd Stosb Stosw Stosd Insb Insw Insd] Mask::Campaign,
        "everything", "the next pass sees it", "SDM vol. 3A, 9.1.3: self-modifying code";
    "any, run as other instructions than were generated" [] Mask::Campaign,
        "everything, if one of those instructions is in this table or INT1", "as any code",
        "what such instructions leave undefined is not worked out";
    "any, by what the host is" [] Mask::Campaign,
        "null selectors 1 to 3; the execute-disable bit of an error code; cases that execute the arena, load \
         selectors 33h and 7Bh, touch the few pages that only one side has, or do not end",
        "as 32-bit processors do", "APM vol. 2, 4.5: compatibility mode";
    "any that faults" [] Mask::FaultPointers,
        "FIP FCS FDP FDS FOP", "by the last instruction",
        "APM vol. 2, 11.4.4, FXSAVE: saved only while an exception is pending; the host's signal frame \
         has no selectors";
    "x87, processors without FCS and FDS or with FDP for exceptions only" [] Mask::HostPointers,
        "FIP FCS FDP FDS FOP", "stored by every non-control instruction",
        "SDM vol. 1, 8.1.8; CPUID 7.EBX bits 6 and 13";
    "FXSAVE" [Fxsave] Mask::FxImage,
        "FIP FCS FDP FDS FOP unless an exception is pending, MXCSR_MASK, bytes 5 and 288 to 511",
        "stored; 0000FFFFh; unchanged", "APM vol. 2, 11.4.4; SDM vol. 1, 11.6.6: depends on the model";
    "FCOMI FCOMIP FUCOMI FUCOMIP" [Fcomi Fcomip Fucomi Fucomip] Mask::Status(C1),
        "C1", "0", "SDM vol. 2A, FCOMI: 0; APM vol. 5, FCOMI: unchanged without a stack fault";
    "F2XM1 FYL2X FYL2XP1 FPTAN FPATAN FSIN FCOS FSINCOS"
        [F2xm1 Fyl2x Fyl2xp1 Fptan Fpatan Fsin Fcos Fsincos] Mask::LastPlace,
        "one unit in the last place of the result with the flags that follow from it; C1",
        "correctly rounded", "SDM vol. 1, 8.3.10: errors below 1 ulp";
    "LDMXCSR FXRSTOR of MXCSR bit 17" [] Mask::Misaligned,
        "everything", "#GP", "APM vol. 2, 3.1.8 and CPUID 8000_0001.ECX bit 7: AMD's misaligned mode";
    "RCPPS RCPSS RSQRTPS RSQRTSS" [Rcpps Rcpss Rsqrtps Rsqrtss] Mask::Approximation,
        "relative errors up to 1.5 · 2^-12; tiny results may be 0", "see `docs/quirks.md`",
        "SDM vol. 2B, RCPPS, Description";
    "F2XM1, |ST(0)| > 1; FYL2XP1 outside of its range; FSTPNCE FFREEP"
        [F2xm1 Fyl2xp1 Fstpnce Ffreep] Mask::Foreign,
        "everything (compared with AMD's processors only)", "as AMD's processors", "SDM vol. 2A, F2XM1, Description";
    "FFREE FFREEP FNOP FCLEX FLDCW" [Ffree Ffreep Fnop Fnclex Fldcw] Mask::ForeignStatus(C0 | C1 | C2 | C3),
        "C0 to C3 (compared with AMD's processors only)", "as AMD's processors", "SDM vol. 2A, FFREE, FPU Flags Affected";
    "FPREM FPREM1" [Fprem Fprem1] Mask::ForeignStatus(C0 | C1 | C3),
        "C0 C1 C3 without a quotient (compared with AMD's processors only)", "as AMD's processors",
        "SDM vol. 2A, FPREM, FPU Flags Affected";
    "FSIN FCOS FSINCOS FPTAN" [Fsin Fcos Fsincos Fptan] Mask::ForeignStatus(C0 | C3),
        "C0 C3 (compared with AMD's processors only)", "unchanged", "SDM vol. 2A, FSIN, FPU Flags Affected";
    "other x87 instructions that do not compare or load the status"
        [] Mask::ForeignStatus(C0 | C2 | C3),
        "C0 C2 C3 (compared with AMD's processors only)", "unchanged", "SDM vol. 1, table 8-1";
};

/// x87 instructions that define all condition codes.
const DEFINES_CODES: &[Mnemonic] = &[
    Mnemonic::Fcom,
    Mnemonic::Fcomp,
    Mnemonic::Fcompp,
    Mnemonic::Fucom,
    Mnemonic::Fucomp,
    Mnemonic::Fucompp,
    Mnemonic::Ficom,
    Mnemonic::Ficomp,
    Mnemonic::Ftst,
    Mnemonic::Fxam,
    Mnemonic::Fldenv,
    Mnemonic::Frstor,
    Mnemonic::Fnsave,
    Mnemonic::Fninit,
    Mnemonic::Fnstsw,
    Mnemonic::Fxsave,
    Mnemonic::Fxrstor,
];

/// Instructions that write all six flags whatever their operands are (shifts by 0 write none).
const WRITES_ALL: &[Mnemonic] = &[
    Mnemonic::Add,
    Mnemonic::Or,
    Mnemonic::Adc,
    Mnemonic::Sbb,
    Mnemonic::And,
    Mnemonic::Sub,
    Mnemonic::Xor,
    Mnemonic::Cmp,
    Mnemonic::Test,
    Mnemonic::Neg,
    Mnemonic::Mul,
    Mnemonic::Imul,
    Mnemonic::Div,
    Mnemonic::Idiv,
    Mnemonic::Aaa,
    Mnemonic::Aas,
    Mnemonic::Daa,
    Mnemonic::Das,
    Mnemonic::Aam,
    Mnemonic::Aad,
    Mnemonic::Bsf,
    Mnemonic::Bsr,
    Mnemonic::Popcnt,
    Mnemonic::Cmpxchg,
    Mnemonic::Xadd,
    Mnemonic::Cmpsb,
    Mnemonic::Cmpsw,
    Mnemonic::Cmpsd,
    Mnemonic::Scasb,
    Mnemonic::Scasw,
    Mnemonic::Scasd,
    Mnemonic::Comiss,
    Mnemonic::Comisd,
    Mnemonic::Ucomiss,
    Mnemonic::Ucomisd,
    Mnemonic::Fcomi,
    Mnemonic::Fcomip,
    Mnemonic::Fucomi,
    Mnemonic::Fucomip,
    Mnemonic::Popf,
    Mnemonic::Popfd,
];

/// What is special about the processor that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// AMD's: what the SDM leaves undefined in the x87 is as on ours.
    pub amd: bool,
    /// It keeps all pointers of the last x87 instruction.
    pub pointers: bool,
}

impl Host {
    /// The one whose answers are recorded.
    pub const AMD: Self = Self { amd: true, pointers: true };

    /// What the processor of this process does to x87 instructions of translated code.
    pub fn native() -> Self {
        #[cfg(target_arch = "x86_64")]
        // No other vendor has SSE4A.
        let amd = std::is_x86_feature_detected!("sse4a");
        #[cfg(not(target_arch = "x86_64"))]
        let amd = true;
        Self { amd, pointers: true }
    }

    /// What two processors have in common.
    pub fn and(self, other: Self) -> Self {
        Self { amd: self.amd && other.amd, pointers: self.pointers && other.pointers }
    }

    /// Finds out by running a case.
    pub fn probe(mut run: impl FnMut(&[u8], &State) -> Outcome) -> Self {
        // FLD dword [ARENA]: FDP and FDS tell.
        let [a, b, c, d] = ARENA.to_le_bytes();
        let mut before = State { arena: vec![0; crate::ARENA_LEN as usize], ..State::default() };
        before.fp.pointers = Pointers { opcode: 1, ip: 1, cs: 1, dp: 1, ds: 1 };
        let after = run(&[0xD9, 0x05, a, b, c, d], &before).state.fp.pointers;
        let amd = Self::native().amd;
        Self { amd, pointers: after.dp == ARENA && after.ds > 1 && after.cs > 1 }
    }
}

/// A case: what ran.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// Its bytes.
    pub code: &'a [u8],
    /// EIP of the first.
    pub origin: u32,
    /// Default operand size: 16 or 32.
    pub bits: u32,
    /// Selector of the stack segment.
    pub ss: u16,
    /// State before.
    pub before: &'a State,
}

impl<'a> Case<'a> {
    /// In flat 32-bit segments.
    pub fn flat(code: &'a [u8], before: &'a State) -> Self {
        Self { code, origin: CODE, bits: 32, ss: USER_DS, before }
    }
}

/// Takes over from `got` into `want` what is not compared.
pub fn settle(host: Host, case: Case<'_>, want: &mut Outcome, got: &Outcome) {
    let (w, g) = (&mut want.state, &got.state);
    w.eflags = w.eflags & FLAGS | g.eflags & !FLAGS;
    if want.fault.is_some() || !host.pointers {
        w.fp.pointers = g.fp.pointers;
    }
    // Our CPU never has this bit.
    let misaligned = w.fp.mxcsr >> 17 & 1 != 0;
    let mut undefined = Undefined { everything: misaligned, ..Undefined::default() };
    let mut trusted_from = 0;
    let fault = want.fault.map(|f| f.eip.wrapping_sub(case.origin) as usize);
    let decoder = Decoder::with_ip(case.bits, case.code, u64::from(case.origin), DecoderOptions::NONE);
    let mut first = true;
    let mut last = None;
    for ins in decoder {
        let at = (ins.ip() as u32).wrapping_sub(case.origin) as usize;
        if Some(at) == fault {
            undefined.at_fault(&ins, want, got);
            last = None;
            break;
        }
        let count = shift_count(&ins, first.then_some(case.before));
        undefined.behind(host, &ins, count, at >= trusted_from);
        // What one x87 instruction leaves undefined would be seen by the next.
        undefined.everything |= !host.amd && !first && is_x87(&ins);
        if ins.is_jcc_short_or_near() || ins.is_jmp_short() || ins.is_jcx_short() || ins.is_loop() {
            trusted_from = (ins.near_branch32().wrapping_sub(case.origin) as usize).max(trusted_from);
        }
        last = Some(ins);
        first = false;
    }
    if undefined.everything {
        want.clone_from(got);
        return;
    }
    if let Some(ins) = last {
        settle_result(host, case.ss, &ins, want, got);
    }
    let (w, g) = (&mut want.state, &got.state);
    w.eflags = w.eflags & !undefined.flags | g.eflags & undefined.flags;
    w.fp.status = w.fp.status & !undefined.status | g.fp.status & undefined.status;
}

/// What the instructions up to some point leave undefined.
#[derive(Default)]
struct Undefined {
    flags: u32,
    status: u16,
    everything: bool,
}

impl Undefined {
    /// Goes on behind `ins`. `certain`: it is executed whatever the flags are.
    fn behind(&mut self, host: Host, ins: &Instruction, count: Option<u32>, certain: bool) {
        let mnemonic = ins.mnemonic();
        let repeated = ins.has_rep_prefix() || ins.has_repne_prefix();
        if certain && !repeated && WRITES_ALL.contains(&mnemonic) {
            self.flags = 0;
        }
        let x87 = is_x87(ins);
        for rule in RULES {
            let named = rule.mnemonics.contains(&mnemonic);
            match rule.mask {
                Mask::Flags(bits, when) if named && applies(when, ins, count) => self.flags |= bits,
                Mask::Everything(when) if named && applies(when, ins, count) => self.everything = true,
                Mask::Status(bits) if named => self.status |= bits,
                Mask::ForeignStatus(bits) if named && !host.amd => self.status |= bits,
                Mask::ForeignStatus(bits)
                    if rule.mnemonics.is_empty()
                        && x87
                        && !host.amd
                        && !DEFINES_CODES.contains(&mnemonic) =>
                {
                    self.status |= bits;
                }
                Mask::Foreign if named && !host.amd => self.everything = true,
                _ => {}
            }
        }
    }

    /// The instruction that faults.
    fn at_fault(&mut self, ins: &Instruction, want: &mut Outcome, got: &Outcome) {
        let Some(g) = &got.fault else { return };
        let repeated = ins.has_rep_prefix() || ins.has_repne_prefix();
        for rule in RULES.iter().filter(|r| r.mnemonics.contains(&ins.mnemonic())) {
            let Some(w) = &mut want.fault else { return };
            match rule.mask {
                Mask::FaultFlags if repeated => self.flags = ALL,
                Mask::FaultAddress if w.vector == 14 => w.cr2 = g.cr2,
                Mask::FaultRegisters => want.state.gpr = got.state.gpr,
                Mask::FaultAlignment if w.vector == 17 && g.vector == 13 => w.vector = 13,
                Mask::FaultImage => {
                    let len = image_len(ins);
                    let at = address(ins, &got.state);
                    if w.vector == 14 && w.cr2 >> 12 == g.cr2 >> 12 && w.cr2.wrapping_sub(at) < len {
                        w.cr2 = g.cr2;
                    }
                    if matches!(ins.mnemonic(), Mnemonic::Fnstenv | Mnemonic::Fnsave | Mnemonic::Fxsave) {
                        take_memory(want, got, at, len);
                    }
                }
                _ => {}
            }
        }
    }
}

/// What only the last instruction may do, because nothing uses its result.
fn settle_result(host: Host, ss: u16, ins: &Instruction, want: &mut Outcome, got: &Outcome) {
    for rule in RULES.iter().filter(|r| r.mnemonics.contains(&ins.mnemonic())) {
        match rule.mask {
            Mask::LastPlace => settle_last_place(host, want, got),
            Mask::Approximation => {
                let n = ins.op0_register() as usize - Register::XMM0 as usize;
                let (w, g) = (&mut want.state.fp.xmm[n & 7], got.state.fp.xmm[n & 7]);
                if (0..4).all(|n| is_close((*w >> (32 * n)) as u32, (g >> (32 * n)) as u32)) {
                    *w = g;
                }
            }
            Mask::Selector
                if ins.op0_register().is_segment_register() && ins.stack_pointer_increment() == -4 =>
            {
                let offset = got.state.gpr[4] & if layout::is_big(ss) { u32::MAX } else { 0xFFFF };
                take_memory(want, got, layout::base(ss).wrapping_add(offset).wrapping_add(2), 2);
            }
            Mask::FxImage => {
                let at = address(ins, &got.state);
                let status = got.state.fp.status;
                if status & 0x80 == 0 || !host.pointers {
                    take_memory(want, got, at.wrapping_add(6), 18);
                }
                take_memory(want, got, at.wrapping_add(5), 1);
                take_memory(want, got, at.wrapping_add(28), 4);
                take_memory(want, got, at.wrapping_add(288), 224);
            }
            _ => {}
        }
    }
}

/// Registers that differ by one unit in the last place, and what may follow from that.
fn settle_last_place(host: Host, want: &mut Outcome, got: &Outcome) {
    let (w, g) = (&mut want.state.fp, &got.state.fp);
    let mut deviates = false;
    for (a, b) in w.st.iter_mut().zip(&g.st) {
        if *a != *b && is_next(*a, *b) {
            deviates = true;
            *a = *b;
        }
    }
    // C1 tells whether the value before rounding was above or below, which approximations know only
    // roughly, and of one of two results. A deviation may lie across an end of the normal numbers.
    let mut mask = C1;
    if deviates {
        mask |= 0x18 | 0x8080;
    }
    if !host.amd {
        mask |= INEXACT;
    }
    w.status = w.status & !mask | g.status & mask;
}

/// Two 80-bit values are neighbours (or equal), and not both special.
fn is_next(a: u128, b: u128) -> bool {
    let ordinary = |v: u128| v >> 64 & 0x7FFF != 0x7FFF && v as u64 != 0;
    // The order of an image among the numbers of its sign.
    let position = |v: u128| {
        let magnitude = (v >> 64 & 0x7FFF) as i128 * (1 << 63) + i128::from(v as u64 & !(1 << 63));
        if v >> 79 & 1 != 0 { -magnitude } else { magnitude }
    };
    (ordinary(a) || ordinary(b)) && (position(a) - position(b)).abs() <= 1
}

/// Two approximations of the same value, each with a relative error below 1.5 * 2^-12 (what RCPPS and
/// RSQRTPS promise), which the SDM allows to flush tiny results.
fn is_close(a: u32, b: u32) -> bool {
    let (x, y) = (f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b)));
    let tiny = f64::from(f32::MIN_POSITIVE) * 1.001;
    a == b
        || (x - y).abs() <= x.abs() * 3.0 / 4096.0
        || (x.abs() <= tiny && y.abs() <= tiny && x.is_sign_negative() == y.is_sign_negative())
}

/// The masked count of a shift, if it is known: CL only before anything ran (`before`).
fn shift_count(ins: &Instruction, before: Option<&State>) -> Option<u32> {
    let operand = ins.op_count().saturating_sub(1);
    match ins.op_kind(operand) {
        OpKind::Immediate8 => Some(u32::from(ins.immediate8()) & 31),
        _ => before.map(|s| s.gpr[1] & 31),
    }
}

fn applies(when: Count, ins: &Instruction, count: Option<u32>) -> bool {
    let bits = match ins.op0_kind() {
        OpKind::Register => ins.op0_register().size() as u32 * 8,
        _ => ins.memory_size().size() as u32 * 8,
    };
    let at_least = |n: u32| count.is_none_or(|c| c >= n);
    match when {
        Count::Any => true,
        Count::Nonzero => at_least(1),
        Count::Multiple => at_least(2),
        Count::Width => bits < 32 && at_least(bits),
        Count::Beyond => bits == 16 && at_least(17),
    }
}

fn is_x87(ins: &Instruction) -> bool {
    let info = ins.cpuid_features();
    info.iter().any(|f| {
        matches!(
            f,
            iced_x86::CpuidFeature::FPU | iced_x86::CpuidFeature::FPU287 | iced_x86::CpuidFeature::FPU387
        )
    })
}

fn image_len(ins: &Instruction) -> u32 {
    match ins.mnemonic() {
        Mnemonic::Fnstenv | Mnemonic::Fldenv => 28,
        Mnemonic::Fnsave | Mnemonic::Frstor => 108,
        _ => 512,
    }
}

/// Linear address of the memory operand.
fn address(ins: &Instruction, state: &State) -> u32 {
    let value = |register: Register, _: usize, _: usize| {
        if register.is_segment_register() {
            return Some(0);
        }
        let full = register.full_register32();
        let n = (full as usize).wrapping_sub(Register::EAX as usize);
        let mask = if register.size() == 2 { 0xFFFF } else { u32::MAX };
        state.gpr.get(n).map(|v| u64::from(v & mask))
    };
    ins.virtual_address(0, 0, value).unwrap_or(0) as u32
}

fn take_memory(want: &mut Outcome, got: &Outcome, at: u32, len: u32) {
    for n in 0..len {
        let offset = at.wrapping_add(n).wrapping_sub(ARENA) as usize;
        if let (Some(w), Some(g)) = (want.state.arena.get_mut(offset), got.state.arena.get(offset)) {
            *w = *g;
        }
    }
}

/// Whether the table leaves out something of an instruction, or a campaign does not ask for it.
pub fn mentions(mnemonic: Mnemonic) -> bool {
    mnemonic == Mnemonic::Int1 || RULES.iter().any(|rule| rule.mnemonics.contains(&mnemonic))
}

/// The table in Markdown, as the documentation has it.
pub fn table() -> String {
    let mut text = String::from(
        "| instruction | not compared | what happens here | source |\n| --- | --- | --- | --- |\n",
    );
    for r in RULES {
        let _ = writeln!(text, "| {} | {} | {} | {} |", r.instructions, r.masked, r.here, r.source);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_shows_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/undefined-flags.md");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(&table()), "docs/undefined-flags.md should contain\n\n{}", table());
    }

    fn outcome() -> Outcome {
        Outcome {
            state: State { arena: vec![0; crate::ARENA_LEN as usize], ..State::default() },
            fault: None,
        }
    }

    /// Which EFLAGS bits are compared behind `code`.
    fn compared(code: &[u8], ecx: u32) -> u32 {
        let mut before = outcome().state;
        before.gpr[1] = ecx;
        let (mut want, mut got) = (outcome(), outcome());
        want.state.eflags = u32::MAX;
        got.state.eflags = 0;
        settle(Host::AMD, Case::flat(code, &before), &mut want, &got);
        want.state.eflags
    }

    #[test]
    fn flags_are_masked_by_instruction_and_count() {
        assert_eq!(compared(&[0x01, 0xC8], 0), FLAGS, "add");
        assert_eq!(compared(&[0x21, 0xC8], 0), FLAGS & !AF, "and");
        assert_eq!(compared(&[0x21, 0xC8, 0x01, 0xC8], 0), FLAGS, "and, add");
        assert_eq!(compared(&[0xD3, 0xE0], 0x20), FLAGS, "shl by 0");
        assert_eq!(compared(&[0xD3, 0xE0], 1), FLAGS & !AF, "shl by 1");
        assert_eq!(compared(&[0xD1, 0xE0], 9), FLAGS & !AF, "shl by 1");
        assert_eq!(compared(&[0xC0, 0xE0, 8], 0), FLAGS & !(AF | OF | CF), "shl of 8 bits by 8");
        assert_eq!(compared(&[0xC1, 0xE0, 31], 0), FLAGS & !(AF | OF), "shl of 32 bits by 31");
        assert_eq!(compared(&[0x40, 0xD3, 0xC0], 1), FLAGS & !OF, "rol by what inc left");
        // jz over add: it may not have run.
        assert_eq!(compared(&[0x21, 0xC8, 0x74, 2, 0x01, 0xC8], 0), FLAGS & !AF);
    }

    #[test]
    fn neighbours_are_one_unit_apart() {
        let one: u128 = 0x3FFF_8000_0000_0000_0000;
        assert!(is_next(one, one + 1));
        assert!(is_next(one, 0x3FFE_FFFF_FFFF_FFFF_FFFF));
        assert!(!is_next(one, one + 2));
        assert!(!is_next(one, one | 1 << 79));
        assert!(!is_next(0x7FFF_8000_0000_0000_0000, 0x7FFF_8000_0000_0000_0001));
    }

    /// iced's table of undefined flags, made independently, says the same.
    #[test]
    fn undefined_flags_agree_with_iced() {
        use crate::gen_int::{ROWS, Rng, encode};
        use iced_x86::RflagsBits as R;
        let mut rng = Rng::new(7);
        for row in ROWS {
            for _ in 0..50 {
                let code = encode(&mut rng, row);
                let ins = Decoder::new(32, &code, DecoderOptions::NONE).decode();
                let pairs = [(R::CF, CF), (R::PF, PF), (R::AF, AF), (R::ZF, ZF), (R::SF, SF), (R::OF, OF)];
                let theirs =
                    pairs.iter().filter(|(r, _)| ins.rflags_undefined() & r != 0).fold(0, |m, (_, b)| m | b);
                let ours = FLAGS & !compared(&code, 2);
                // iced does not look at counts.
                if !RULES.iter().any(|r| {
                    matches!(r.mask, Mask::Flags(_, Count::Multiple)) && r.mnemonics.contains(&ins.mnemonic())
                }) {
                    assert_eq!(ours, theirs, "{} {code:02x?}", row.name);
                }
            }
        }
    }
}
