//! Random MMX, SSE, SSE2 and SSE3 instructions on the host's CPU and on the interpreter: results,
//! MXCSR, x87 state behind MMX registers, and every fault.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance_tests::gen_int::Rng;
use conformance_tests::gen_simd::{Family, Place, Row, encode, rows, state};
use conformance_tests::oracle::Silicon;
use conformance_tests::subject::Subject;
use conformance_tests::{Outcome, State};

/// EFLAGS bits compared: CF PF AF ZF SF DF OF.
const FLAGS: u32 = 0xCD5;

/// Two approximations of the same value, each with a relative error below 1.5 * 2^-12 (what RCPPS and
/// RSQRTPS promise), which the SDM allows to flush tiny results.
fn close(a: u32, b: u32) -> bool {
    let (x, y) = (f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b)));
    let tiny = f64::from(f32::MIN_POSITIVE) * 1.001;
    a == b
        || (x - y).abs() <= x.abs() * 3.0 / 4096.0
        || (x.abs() <= tiny && y.abs() <= tiny && x.is_sign_negative() == y.is_sign_negative())
}

/// Replaces our approximations that are close enough by the silicon's.
fn accept_approximations(want: &Outcome, got: &mut Outcome) {
    for (w, g) in want.state.fp.xmm.iter().zip(&mut got.state.fp.xmm) {
        if (0..4).all(|n| close((w >> (32 * n)) as u32, (*g >> (32 * n)) as u32)) {
            *g = *w;
        }
    }
}

fn report(row: &Row, code: &[u8], before: &State, want: &Outcome, got: &Outcome) -> String {
    let memory: Vec<_> = want
        .state
        .arena
        .iter()
        .zip(&got.state.arena)
        .enumerate()
        .filter(|(_, (a, b))| a != b)
        .take(4)
        .collect();
    format!(
        "{} {code:02x?}\n before {:08x?} {:x} {:x?}\n silicon {:08x?} {:03x} {:x?} {:x?}\n ours    {:08x?} {:03x} {:x?} {:x?}\n memory {memory:x?}",
        row.name,
        before.gpr,
        before.eflags,
        before.fp,
        want.state.gpr,
        want.state.eflags,
        want.state.fp,
        want.fault,
        got.state.gpr,
        got.state.eflags,
        got.state.fp,
        got.fault
    )
}

/// Compares the rows of some families.
fn compare(families: &[Family]) {
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let per_row: u32 = std::env::var("SILICON_CASES").ok().and_then(|s| s.parse().ok()).unwrap_or(50);
    let mut subject = Subject::new().unwrap();
    let mut rng = Rng::new(0x51D);
    let mut failures = Vec::new();
    let mut completed = 0;
    for row in rows().iter().filter(|row| families.contains(&row.family)) {
        let mut differences = 0;
        for _ in 0..per_row {
            let code = encode(&mut rng, row);
            let before = state(&mut rng, row);
            let mut want = silicon.run(&code, &before);
            let mut got = subject.run(&code, &before);
            if want.fault.is_some() {
                // RF is set in the image of a faulting instruction; the test of it is elsewhere.
                want.state.eflags = got.state.eflags;
                want.state.fp.pointers = got.state.fp.pointers;
            } else {
                completed += 1;
            }
            want.state.eflags &= FLAGS;
            got.state.eflags &= FLAGS;
            if row.family == Family::Approximate {
                accept_approximations(&want, &mut got);
            }
            // AMD's misaligned-mode bit, which our CPU does not have.
            if row.name == "ldmxcsr" && want.state.fp.mxcsr >> 17 & 1 != 0 {
                continue;
            }
            if want != got {
                differences += 1;
                if differences <= 2 {
                    failures.push(report(row, &code, &before, &want, &got));
                }
            }
        }
        if differences > 2 {
            failures.push(format!("{} {:x?}: {differences} of {per_row}", row.name, row.opcode));
        }
    }
    assert!(failures.is_empty(), "{} differences\n{}", failures.len(), failures.join("\n"));
    assert!(completed > 0, "all cases faulted");
}

#[test]
fn mmx_integers_agree_with_silicon() {
    compare(&[Family::Mmx]);
}

#[test]
fn xmm_integers_agree_with_silicon() {
    compare(&[Family::XmmInteger]);
}

#[test]
fn moves_agree_with_silicon() {
    compare(&[Family::Move]);
}

#[test]
fn shuffles_agree_with_silicon() {
    compare(&[Family::Shuffle]);
}

#[test]
fn float_arithmetic_agrees_with_silicon() {
    compare(&[Family::Arithmetic]);
}

#[test]
fn float_comparisons_agree_with_silicon() {
    compare(&[Family::Compare]);
}

#[test]
fn float_approximations_are_close_to_silicon() {
    compare(&[Family::Approximate]);
}

#[test]
fn conversions_agree_with_silicon() {
    compare(&[Family::Convert]);
}

#[test]
fn control_and_masked_stores_agree_with_silicon() {
    compare(&[Family::Control]);
}

/// Every instruction of the sets this CPU reports has a row in the table of cases.
#[test]
fn table_covers_offered_instructions() {
    use iced_x86::{Code, CpuidFeature as F, Decoder, DecoderOptions, Mnemonic};
    let mut covered = std::collections::HashSet::new();
    for row in rows() {
        for modrm in 0..=255u8 {
            let (register, reg) = (modrm >> 6 == 3, modrm >> 3 & 7);
            let fits = match row.place {
                Place::Any => true,
                Place::Memory => !register,
                Place::Register => register,
                Place::None => modrm == 0,
            };
            if fits && row.extension.is_none_or(|e| e == reg) {
                let bytes = [&row.opcode[..], &[modrm], &[0; 8]].concat();
                let ins = Decoder::new(32, &bytes, DecoderOptions::NONE).decode();
                assert!(!ins.is_invalid(), "{} {bytes:02x?}", row.name);
                covered.insert(ins.code());
            }
        }
    }
    for code in Code::values() {
        let features = code.cpuid_features();
        let offered = features.iter().any(|f| matches!(f, F::MMX | F::SSE | F::SSE2 | F::SSE3));
        // FISTTP is the x87's; fences and prefetches do nothing.
        let elsewhere = features.contains(&F::FPU)
            || matches!(
                code.mnemonic(),
                Mnemonic::Lfence
                    | Mnemonic::Mfence
                    | Mnemonic::Sfence
                    | Mnemonic::Prefetchnta
                    | Mnemonic::Prefetcht0
                    | Mnemonic::Prefetcht1
                    | Mnemonic::Prefetcht2
            );
        if offered && !elsewhere && code.op_code().mode32() {
            assert!(covered.contains(&code), "no case for {code:?}");
        }
    }
}
