//! Every opcode of the one-byte, 0F, 0F 38 and 0F 3A maps, with each ModRM byte, mandatory prefix and
//! code size: what CPUID offers has a function, everything else executes as #UD.
//!
//! What an encoding *is* and which CPUID bit it belongs to is iced-x86's knowledge; which bits this
//! processor sets is CPUID's. The families below are those bits; their names are printed, so the
//! output of `cargo test --test dispatch -- --show-output` is the list of what is covered.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use emu_core::cpu::{ModeKey, TrapKind, seg, vector};
use emu_core::decode::iced::{Decode, decode};
use emu_core::decode::{ExecFn, Insn};
use emu_core::interp::dispatch;
use iced_x86::{Code, CpuidFeature as F, Decoder, DecoderOptions, Mnemonic};

mod common;

use common::{CODE0, CODE0_16, Machine};

/// Where refused instructions are executed.
const AT: u32 = 0x8000;

/// A group of instructions that come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    I8086,
    I186,
    I286,
    I386,
    I486,
    Pentium,
    P6,
    X87,
    Mmx,
    Fxsr,
    Sse,
    Sse2,
    Sse3,
    Popcnt,
    Rdrand,
    /// Features that CPUID does not report, whose encodings are older instructions or no-operations
    /// on processors without them: compilers emit them unconditionally.
    Alias,
    /// Holes, UD0, UD1, UD2 and what CPUID does not offer.
    Refused,
}

/// The CPUID bits of each family; a form belongs to the last one that claims a feature of it.
const FAMILIES: &[(Family, &[F])] = &[
    (Family::I8086, &[F::INTEL8086, F::INTEL8086_ONLY]),
    (Family::I186, &[F::INTEL186]),
    (Family::I286, &[F::INTEL286]),
    (Family::I386, &[F::INTEL386]),
    (Family::I486, &[F::INTEL486]),
    (Family::Pentium, &[F::CPUID, F::CX8, F::MSR, F::TSC]),
    (Family::X87, &[F::FPU, F::FPU287, F::FPU387]),
    (Family::P6, &[F::RDPMC, F::CMOV, F::MULTIBYTENOP, F::SEP]),
    (Family::Mmx, &[F::MMX]),
    (Family::Fxsr, &[F::FXSR]),
    (Family::Sse, &[F::SSE]),
    (Family::Sse2, &[F::SSE2, F::PAUSE]),
    (Family::Sse3, &[F::SSE3]),
    (Family::Popcnt, &[F::POPCNT]),
    (Family::Rdrand, &[F::RDRAND]),
];

/// Encodings that are something harmless without their feature: BSF, BSR, WBINVD, and hint NOPs.
const ALIASES: &[Mnemonic] = &[
    Mnemonic::Tzcnt,
    Mnemonic::Lzcnt,
    Mnemonic::Wbnoinvd,
    Mnemonic::Endbr32,
    Mnemonic::Endbr64,
    Mnemonic::Rdsspd,
    Mnemonic::Cldemote,
    Mnemonic::Prefetchw,
    Mnemonic::Prefetchwt1,
    Mnemonic::Prefetch,
    Mnemonic::Prefetchit0,
    Mnemonic::Prefetchit1,
    Mnemonic::Reservednop,
];

fn family(code: Code) -> Family {
    let mnemonic = code.mnemonic();
    if ALIASES.contains(&mnemonic) {
        return Family::Alias;
    }
    if matches!(mnemonic, Mnemonic::INVALID | Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2) {
        return Family::Refused;
    }
    let mut found = None;
    for feature in code.cpuid_features() {
        let Some(at) = FAMILIES.iter().position(|(_, features)| features.contains(feature)) else {
            return Family::Refused;
        };
        found = found.max(Some(at));
    }
    found.map_or(Family::Refused, |at| FAMILIES[at].0)
}

/// One form in one code size.
struct Sample {
    family: Family,
    code: Code,
    mode: ModeKey,
    /// Encodings seen, and an example of one with and of one without a function.
    count: u32,
    with: Option<Vec<u8>>,
    without: Option<Vec<u8>>,
}

const PREFIXES: [&[u8]; 9] =
    [&[], &[0x66], &[0xF2], &[0xF3], &[0x66, 0xF2], &[0x66, 0xF3], &[0x67], &[0x67, 0x66], &[0x2E]];
const MAPS: [&[u8]; 4] = [&[], &[0x0F], &[0x0F, 0x38], &[0x0F, 0x3A]];
const MODES: [ModeKey; 2] = [ModeKey(0), ModeKey(ModeKey::CODE32 | ModeKey::STACK32)];

fn implemented(insn: &Insn) -> bool {
    !std::ptr::fn_addr_eq(insn.exec, dispatch::undefined as ExecFn)
}

/// All forms; iced's INVALID is one of them.
fn walk() -> &'static [Sample] {
    static SAMPLES: OnceLock<Vec<Sample>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let mut samples = BTreeMap::new();
        for mode in MODES {
            let bits = if mode.code32() { 32 } else { 16 };
            for (prefix, map) in PREFIXES.iter().flat_map(|p| MAPS.iter().map(move |m| (p, m))) {
                for n in 0..=0xFFFFu16 {
                    let [op, _] = n.to_be_bytes();
                    if map.is_empty()
                        && matches!(op, 0x0F | 0x26 | 0x2E | 0x36 | 0x3E | 0x64..=0x67 | 0xF0 | 0xF2 | 0xF3)
                    {
                        continue;
                    }
                    let bytes = [*prefix, *map, &n.to_be_bytes(), &[0; 9]].concat();
                    let code = Decoder::new(bits, &bytes, DecoderOptions::NONE).decode().code();
                    let Decode::Insn(insn) = decode(&bytes, mode) else { panic!("{bytes:02x?}") };
                    let sample = samples.entry((code as u16, mode.0)).or_insert_with(|| Sample {
                        family: family(code),
                        code,
                        mode,
                        count: 0,
                        with: None,
                        without: None,
                    });
                    sample.count += 1;
                    let example = if implemented(&insn) { &mut sample.with } else { &mut sample.without };
                    example.get_or_insert(bytes);
                }
            }
        }
        samples.into_values().collect()
    })
}

/// Asserts that every form of a family has a function, and that the walk has met at least so many mnemonics.
fn covers(family: Family, at_least: usize) {
    let forms: Vec<_> = walk().iter().filter(|s| s.family == family).collect();
    let missing: Vec<_> = forms
        .iter()
        .filter_map(|s| s.without.as_ref().map(|bytes| format!("{:?} {bytes:02x?}", s.code)))
        .collect();
    let mut names: Vec<_> = forms.iter().map(|s| format!("{:?}", s.code.mnemonic())).collect();
    names.sort();
    names.dedup();
    let encodings: u32 = forms.iter().map(|s| s.count).sum();
    println!(
        "{family:?}: {} mnemonics, {} forms, {encodings} encodings: {}",
        names.len(),
        forms.len(),
        names.join(" ")
    );
    assert!(missing.is_empty(), "without a row: {}", missing.join("\n"));
    assert!(names.len() >= at_least, "the walk found {} mnemonics only", names.len());
}

#[test]
fn dispatch_covers_every_8086_form() {
    covers(Family::I8086, 96);
}

#[test]
fn dispatch_covers_every_186_form() {
    covers(Family::I186, 19);
}

#[test]
fn dispatch_covers_every_286_form() {
    covers(Family::I286, 16);
}

#[test]
fn dispatch_covers_every_386_form() {
    covers(Family::I386, 121);
}

#[test]
fn dispatch_covers_every_486_form() {
    covers(Family::I486, 6);
}

#[test]
fn dispatch_covers_every_pentium_form() {
    covers(Family::Pentium, 5);
}

#[test]
fn dispatch_covers_every_p6_form() {
    covers(Family::P6, 32);
}

#[test]
fn dispatch_covers_every_x87_form() {
    covers(Family::X87, 78);
}

#[test]
fn dispatch_covers_every_mmx_form() {
    covers(Family::Mmx, 48);
}

#[test]
fn dispatch_covers_every_fxsr_form() {
    covers(Family::Fxsr, 2);
}

#[test]
fn dispatch_covers_every_sse_form() {
    covers(Family::Sse, 65);
}

#[test]
fn dispatch_covers_every_sse2_form() {
    covers(Family::Sse2, 125);
}

#[test]
fn dispatch_covers_every_sse3_form() {
    covers(Family::Sse3, 11);
}

#[test]
fn dispatch_covers_every_popcnt_form() {
    covers(Family::Popcnt, 1);
}

#[test]
fn dispatch_covers_every_rdrand_form() {
    covers(Family::Rdrand, 1);
}

/// Code for any x86 contains REP BSF and ENDBR32.
#[test]
fn dispatch_covers_encodings_that_older_processors_execute_as_something_else() {
    covers(Family::Alias, 13);
}

#[test]
fn dispatch_refuses_what_cpuid_does_not_offer() {
    let refused = || walk().iter().filter(|s| s.family == Family::Refused);
    let offered: Vec<_> =
        refused().filter_map(|s| s.with.as_ref().map(|bytes| format!("{:?} {bytes:02x?}", s.code))).collect();
    assert!(offered.is_empty(), "has a row: {}", offered.join("\n"));
    let mut m = Machine::protected();
    let mut names = Vec::new();
    for s in refused() {
        let bytes = s.without.as_ref().unwrap();
        // #UD changes nothing: the machine serves all of them.
        m.force_segment(seg::CS, if s.mode.code32() { CODE0 } else { CODE0_16 });
        m.cpu.eip = AT;
        m.write(AT, bytes);
        let got = m.engine.step(&mut m.cpu, &mut m.mem, &mut m.bus);
        let Err(TrapKind::Exception(e)) = got else { panic!("{:?} {bytes:02x?}: {got:?}", s.code) };
        assert_eq!((e.vector, e.error, m.cpu.eip), (vector::UD, None, AT), "{:?} {bytes:02x?}", s.code);
        names.push(format!("{:?}", s.code.mnemonic()));
    }
    names.sort();
    names.dedup();
    println!("refused: {}", names.join(" "));
    assert!(names.len() > 100, "the walk found {} mnemonics only", names.len());
}

/// RDSSPD leaves its register alone (the unwinder of libgcc depends on it), hints read no memory.
#[test]
fn hints_of_later_processors_change_nothing() {
    let hints: [&[u8]; 8] = [
        &[0xF3, 0x0F, 0x1E, 0xC8], // rdsspd eax
        &[0xF3, 0x0F, 0x1E, 0xFB], // endbr32
        &[0x0F, 0x1C, 0x00],       // cldemote [eax]
        &[0x0F, 0x0D, 0x00],       // prefetch [eax]
        &[0x0F, 0x0D, 0x08],       // prefetchw [eax]
        &[0x0F, 0x0D, 0x10],       // prefetchwt1 [eax]
        &[0x0F, 0x18, 0x38],       // prefetchit0 [eax]
        &[0x0F, 0x1F, 0x00],       // nop [eax]
    ];
    for bytes in hints {
        let mut m = Machine::protected();
        m.enable_paging();
        // Not mapped.
        m.cpu.gpr[..4].fill(0x00C0_0000);
        let (gpr, eflags) = (m.cpu.gpr, m.cpu.eflags());
        m.bytes(&[bytes, &[0xF4]].concat());
        m.finish();
        assert_eq!((m.cpu.gpr, m.cpu.eflags()), (gpr, eflags), "{bytes:02x?}");
        assert_eq!(m.cpu.eip, common::CODE + bytes.len() as u32 + 1, "{bytes:02x?}");
    }
}

/// The mnemonics that LOCK may precede, if their destination is memory (SDM vol. 2, LOCK).
const LOCKABLE: &[Mnemonic] = &[
    Mnemonic::Adc,
    Mnemonic::Add,
    Mnemonic::And,
    Mnemonic::Btc,
    Mnemonic::Btr,
    Mnemonic::Bts,
    Mnemonic::Cmpxchg,
    Mnemonic::Cmpxchg8b,
    Mnemonic::Dec,
    Mnemonic::Inc,
    Mnemonic::Neg,
    Mnemonic::Not,
    Mnemonic::Or,
    Mnemonic::Sbb,
    Mnemonic::Sub,
    Mnemonic::Xadd,
    Mnemonic::Xchg,
    Mnemonic::Xor,
];

#[test]
fn dispatch_takes_lock_before_read_modify_write_of_memory_only() {
    let mut locked = Vec::new();
    for mode in MODES {
        let bits = if mode.code32() { 32 } else { 16 };
        for (map, n) in MAPS[..2].iter().flat_map(|m| (0..=0xFFFFu16).map(move |n| (m, n))) {
            let [op, _] = n.to_be_bytes();
            if map.is_empty()
                && matches!(op, 0x0F | 0x26 | 0x2E | 0x36 | 0x3E | 0x64..=0x67 | 0xF0 | 0xF2 | 0xF3)
            {
                continue;
            }
            let plain = [*map, &n.to_be_bytes(), &[0; 9]].concat();
            let ins = Decoder::new(bits, &plain, DecoderOptions::NONE).decode();
            let memory = ins.op_count() > 0 && ins.op0_kind() == iced_x86::OpKind::Memory;
            let legal = memory && LOCKABLE.contains(&ins.mnemonic());
            let bytes = [&[0xF0], plain.as_slice()].concat();
            let Decode::Insn(insn) = decode(&bytes, mode) else { panic!("{bytes:02x?}") };
            assert_eq!(implemented(&insn), legal, "{bytes:02x?}");
            if legal {
                locked.push(ins.mnemonic());
            }
        }
    }
    locked.sort();
    locked.dedup();
    assert_eq!(locked, LOCKABLE);
}

/// What LOCK forbids is fetched as a whole: the fault of its last byte comes before #UD.
#[test]
fn instruction_that_lock_forbids_has_its_full_length() {
    let mode = ModeKey(ModeKey::CODE32 | ModeKey::STACK32);
    let len = |bytes: &[u8]| match decode(bytes, mode) {
        Decode::Insn(insn) => insn.len,
        _ => 0,
    };
    // LOCK BSR EDI, [EDX - 4Dh]
    let code = [0xF0, 0x0F, 0xBD, 0x7A, 0xB3, 0x90, 0x90];
    assert_eq!(len(&code), 5);
    assert!(matches!(decode(&code[..4], mode), Decode::NeedMore));
    // A hole in the opcode map has no length of its own.
    assert_eq!(len(&[0xF0, 0x0F, 0x04, 0, 0, 0]), 1);
}
