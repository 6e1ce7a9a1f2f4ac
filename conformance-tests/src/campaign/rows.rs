//! Every integer instruction our CPU offers, found by walking the opcode maps: what decodes, has a
//! function in the interpreter and belongs to no floating-point or vector set.

use emu_core::cpu::ModeKey;
use emu_core::decode::iced::{Decode, decode};
use emu_core::interp::dispatch;
use iced_x86::{CpuidFeature as F, Decoder, DecoderOptions, Instruction, Mnemonic};

/// What the generator does with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Encoded with random operands.
    Plain,
    /// Transfers control within a segment.
    Near,
    /// Transfers control to a selector.
    Far,
    /// Loads or examines a selector.
    Selector,
    /// DIV, IDIV.
    Divide,
    /// Always raises an exception in ring 3.
    Faults,
}

/// One opcode with one mandatory prefix, reg field and kind of operand.
#[derive(Clone, Debug)]
pub struct Row {
    /// F2, F3 or nothing.
    pub prefix: Option<u8>,
    /// 0F and opcode.
    pub opcode: Vec<u8>,
    /// Reg field of ModRM, where it is part of the opcode.
    pub reg: Option<u8>,
    /// ModRM: `None` = there is none, else whether its operand is memory.
    pub memory: Option<bool>,
    /// How it is generated.
    pub kind: Kind,
    /// Of its 32-bit form.
    pub mnemonic: Mnemonic,
}

/// Instructions that ring 3 of this host cannot be asked about, and why.
pub const EXCLUDED: &[(Mnemonic, &str)] = &[
    (Mnemonic::Cpuid, "tells what the processor is"),
    (Mnemonic::Rdtsc, "reads a clock"),
    (Mnemonic::Rdrand, "random by definition"),
    (Mnemonic::Sgdt, "Linux emulates it (UMIP)"),
    (Mnemonic::Sidt, "Linux emulates it (UMIP)"),
    (Mnemonic::Sldt, "Linux emulates it (UMIP)"),
    (Mnemonic::Str, "Linux emulates it (UMIP)"),
    (Mnemonic::Smsw, "Linux emulates it (UMIP)"),
    (Mnemonic::Sysenter, "enters the host's kernel; AMD's has none below a 64-bit kernel"),
    (Mnemonic::Sysexit, "AMD's has none below a 64-bit kernel"),
    (Mnemonic::Int1, "hypervisors deliver it with the address of the instruction"),
    (Mnemonic::Rsm, "answered by the hypervisor"),
];

/// No floating point and no vectors.
fn is_integer(ins: &Instruction) -> bool {
    let other = ins
        .cpuid_features()
        .iter()
        .any(|f| matches!(f, F::FPU | F::FPU287 | F::FPU387 | F::MMX | F::SSE | F::SSE2 | F::SSE3 | F::FXSR));
    use Mnemonic as M;
    let nothing = matches!(
        ins.mnemonic(),
        M::Lfence
            | M::Mfence
            | M::Sfence
            | M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Prefetchw
    );
    (!other || nothing) && ins.mnemonic() != M::Wait
}

fn offered(bytes: &[u8]) -> Option<Instruction> {
    let ins = Decoder::new(32, bytes, DecoderOptions::NONE).decode();
    let Decode::Insn(ours) = decode(bytes, ModeKey(ModeKey::CODE32 | ModeKey::STACK32)) else { return None };
    let ud = matches!(ins.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2);
    let undefined = ours.exec as usize == dispatch::undefined as *const () as usize && !ud;
    // AMD's processors have these as TZCNT and LZCNT, and take LOCK in front of MOV CR0.
    let newer = matches!(ins.mnemonic(), Mnemonic::Tzcnt | Mnemonic::Lzcnt);
    let excluded = EXCLUDED.iter().any(|(m, _)| *m == ins.mnemonic());
    (!ins.is_invalid() && is_integer(&ins) && !undefined && !excluded && !newer).then_some(ins)
}

fn kind(ins: &Instruction) -> Kind {
    use Mnemonic as M;
    match ins.mnemonic() {
        M::Div | M::Idiv => Kind::Divide,
        M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss | M::Lar | M::Lsl | M::Verr | M::Verw | M::Arpl => {
            Kind::Selector
        }
        M::Retf | M::Iret | M::Iretd => Kind::Far,
        _ if ins.is_jmp_far()
            || ins.is_call_far()
            || ins.is_jmp_far_indirect()
            || ins.is_call_far_indirect() =>
        {
            Kind::Far
        }
        M::Ret => Kind::Near,
        _ if ins.is_jcc_short_or_near()
            || ins.is_jmp_short_or_near()
            || ins.is_jmp_near_indirect()
            || ins.is_call_near()
            || ins.is_call_near_indirect()
            || ins.is_jcx_short()
            || ins.is_loop()
            || ins.is_loopcc() =>
        {
            Kind::Near
        }
        M::Hlt
        | M::Cli
        | M::Sti
        | M::Clts
        | M::Lmsw
        | M::Lgdt
        | M::Lidt
        | M::Lldt
        | M::Ltr
        | M::Invd
        | M::Wbinvd
        | M::Wbnoinvd
        | M::Invlpg
        | M::Rdmsr
        | M::Wrmsr
        | M::Rdpmc
        | M::Ud0
        | M::Ud1
        | M::Ud2
        | M::Int3
        | M::Int
        | M::Int1
        | M::In
        | M::Out => Kind::Faults,
        M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => Kind::Faults,
        _ if is_system_register(ins) => Kind::Faults,
        _ if touches_segment(ins) => Kind::Selector,
        _ => Kind::Plain,
    }
}

fn is_system_register(ins: &Instruction) -> bool {
    (0..ins.op_count()).any(|n| {
        let r = ins.op_register(n);
        ins.op_kind(n) == iced_x86::OpKind::Register && (r.is_cr() || r.is_dr() || r.is_tr())
    })
}

/// MOV to and POP of segment registers.
fn touches_segment(ins: &Instruction) -> bool {
    ins.op0_kind() == iced_x86::OpKind::Register
        && ins.op0_register().is_segment_register()
        && matches!(ins.mnemonic(), Mnemonic::Mov | Mnemonic::Pop)
}

/// The table.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for prefix in [None, Some(0xF3), Some(0xF2)] {
        for two in [false, true] {
            for op in 0..=255u8 {
                if !two && matches!(op, 0x0F | 0x26 | 0x2E | 0x36 | 0x3E | 0x64..=0x67 | 0xF0 | 0xF2 | 0xF3) {
                    continue;
                }
                let opcode = if two { vec![0x0F, op] } else { vec![op] };
                add(&mut rows, prefix, opcode);
            }
        }
    }
    rows
}

fn add(rows: &mut Vec<Row>, prefix: Option<u8>, opcode: Vec<u8>) {
    let bytes = |modrm: u8| {
        let mut b: Vec<u8> = prefix.into_iter().collect();
        b.extend_from_slice(&opcode);
        b.push(modrm);
        b.extend_from_slice(&[0; 12]);
        b
    };
    let without = |modrm: u8| {
        let mut b = opcode.clone();
        b.push(modrm);
        b.extend_from_slice(&[0; 12]);
        offered(&b).map(|i| i.mnemonic())
    };
    let ins = |modrm: u8| {
        let ins = offered(&bytes(modrm))?;
        // A prefix that changes nothing has no row of its own.
        (prefix.is_none() || without(modrm) != Some(ins.mnemonic())).then_some(ins)
    };
    // A memory operand with disp32 is four bytes longer than a register.
    let has_modrm = (0..8).any(|reg| match (ins(reg << 3 | 5), ins(0xC0 | reg << 3)) {
        (Some(m), Some(r)) => m.len() != r.len(),
        (m, r) => m.is_some() != r.is_some(),
    });
    if !has_modrm {
        if let Some(i) = ins(0xC0) {
            rows.push(Row {
                prefix,
                opcode,
                reg: None,
                memory: None,
                kind: kind(&i),
                mnemonic: i.mnemonic(),
            });
        }
        return;
    }
    for memory in [true, false] {
        let form = |reg: u8| ins(if memory { reg << 3 | 5 } else { 0xC0 | reg << 3 });
        let all: Vec<Option<Instruction>> = (0..8).map(form).collect();
        let code = |i: &Option<Instruction>| i.as_ref().map(Instruction::code);
        // Segment registers are worth a row each.
        let same = all.iter().all(|i| code(i) == code(&all[0])) && opcode != [0x8E];
        if opcode == [0x0F, 0x0D] && !memory {
            // AMD's processors raise #UD, Intel's do nothing.
            continue;
        }
        for (reg, i) in all.iter().enumerate().take(if same { 1 } else { 8 }) {
            if let Some(i) = i {
                let reg = (!same).then_some(reg as u8);
                let (prefix, opcode) = (prefix, opcode.clone());
                rows.push(Row {
                    prefix,
                    opcode,
                    reg,
                    memory: Some(memory),
                    kind: kind(i),
                    mnemonic: i.mnemonic(),
                });
            }
        }
    }
}

/// An instruction for each operand size and memory form that programs of these rows should contain.
pub fn expected_instructions(rows: &[Row]) -> Vec<Instruction> {
    /// ModRM and what follows: one of each [`super::coverage::Form`] for 32-bit addresses, then for 16-bit ones.
    const WIDE: [&[u8]; 5] =
        [&[0x05], &[0x03], &[0x43, 0x10], &[0x44, 0x4B, 0x10], &[0x84, 0x8B, 1, 2, 3, 4]];
    const NARROW: [&[u8]; 3] = [&[0x06, 1, 2], &[0x44, 0x10], &[0x40, 0x10]];
    let mut all = Vec::new();
    for row in rows {
        for op16 in [false, true] {
            let mut add = |prefix: &[u8], modrm: &[u8]| {
                let mut bytes = prefix.to_vec();
                if op16 {
                    bytes.push(0x66);
                }
                bytes.extend(row.prefix);
                bytes.extend_from_slice(&row.opcode);
                let at = bytes.len();
                bytes.extend_from_slice(modrm);
                if let (Some(reg), Some(_)) = (row.reg, row.memory) {
                    bytes[at] |= reg << 3;
                }
                bytes.extend_from_slice(&[0; 12]);
                let ins = Decoder::new(32, &bytes, DecoderOptions::NONE).decode();
                if !ins.is_invalid() && ins.mnemonic() != Mnemonic::Tpause {
                    all.push(ins);
                }
            };
            match row.memory {
                None => {
                    add(&[], &[0]);
                    if matches!(row.opcode[..], [0xE0..=0xE3]) {
                        add(&[0x67], &[0]);
                    }
                }
                Some(false) => add(&[], &[0xC1]),
                // Prepared operands have a displacement only.
                Some(true) if matches!(row.kind, Kind::Near | Kind::Far | Kind::Selector) => {
                    add(&[], WIDE[0]);
                    add(&[0x67], NARROW[0]);
                }
                Some(true) => {
                    WIDE.iter().for_each(|m| add(&[], m));
                    NARROW.iter().for_each(|m| add(&[0x67], m));
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::Family;
    use super::super::coverage::{Coverage, Key};
    use super::super::integer::{Flavour, Integer};
    use super::super::program::Program;
    use super::*;
    use crate::gen_int::Rng;
    use iced_x86::Code;
    use std::collections::HashSet;

    /// iced's list of integer instructions: what our CPU executes has a row or a reason.
    #[test]
    fn rows_cover_offered_integer_instructions() {
        let known: HashSet<Code> = expected_instructions(&rows()).iter().map(Instruction::code).collect();
        let mut missing = Vec::new();
        for code in Code::values() {
            let op = code.op_code();
            if op.encoding() != iced_x86::EncodingKind::Legacy || !op.mode32() {
                continue;
            }
            let excluded = EXCLUDED.iter().any(|(m, _)| *m == code.mnemonic())
                // WAIT is the x87's; see `add` for 0F 0D; UD0 without ModRM is what AMD's processors decode.
                || matches!(
                    code,
                    Code::Wait | Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Ud0
                )
                // Not instructions.
                || code == Code::INVALID
                || code == Code::Zero_bytes
                || matches!(
                    code,
                    Code::DeclareByte | Code::DeclareWord | Code::DeclareDword | Code::DeclareQword
                );
            let features = code.cpuid_features();
            let base = features.iter().all(|f| {
                matches!(
                    f,
                    F::INTEL8086
                        | F::INTEL186
                        | F::INTEL286
                        | F::INTEL386
                        | F::INTEL486
                        | F::CMOV
                        | F::CX8
                        | F::POPCNT
                        | F::PAUSE
                        | F::MULTIBYTENOP
                        | F::MSR
                )
            });
            if base && !excluded && !known.contains(&code) {
                missing.push(code);
            }
        }
        assert!(missing.is_empty(), "{missing:?}");
    }

    /// Every row in every operand size and memory form is generated.
    #[test]
    fn programs_contain_every_row() {
        let mut rng = Rng::new(7);
        let mut coverage = Coverage::default();
        let mut program = Program::default();
        for flavour in [Flavour::Flat, Flavour::Segments] {
            let mut family = Integer::new(flavour);
            for _ in 0..125_000 {
                family.program(&mut rng, &mut coverage, &mut program);
            }
        }
        let met: HashSet<Key> = coverage.rows().map(|(key, ..)| key).collect();
        let wanted: HashSet<Key> = expected_instructions(&rows()).iter().map(Key::of).collect();
        let missing: Vec<_> = wanted
            .difference(&met)
            .map(|k| (Mnemonic::values().nth(k.mnemonic.into()), k.size, k.form))
            .collect();
        assert!(missing.is_empty(), "{} of {}: {missing:?}", missing.len(), wanted.len());
    }
}
