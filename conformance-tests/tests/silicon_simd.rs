//! Random MMX, SSE, SSE2 and SSE3 instructions on the host's CPU and on the interpreter: results,
//! MXCSR, x87 state behind MMX registers, and every fault.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance_tests::compare::compare;
use conformance_tests::gen_int::Rng;
use conformance_tests::gen_simd::{Family, Place, Program, generate, rows, start};
use conformance_tests::layout::Processor;
use conformance_tests::operand::Places;
use conformance_tests::oracle::Silicon;
use conformance_tests::policy::{Case, Host, settle};
use conformance_tests::report::difference;
use conformance_tests::subject::Subject;
use conformance_tests::{CODE, State};
use emu_jit::{Jit, Options};

/// Compares the rows of some families.
fn compare_families(families: &[Family]) {
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let per_row: u32 = std::env::var("SILICON_CASES").ok().and_then(|s| s.parse().ok()).unwrap_or(50);
    let mut subject = Subject::new().unwrap();
    let host = Host::probe(|code, before| silicon.run(code, before));
    let mut rng = Rng::new(0x51D);
    let mut failures = Vec::new();
    let mut completed = 0;
    let (mut code, mut before) = (Vec::new(), State::default());
    for row in rows().iter().filter(|row| families.contains(&row.family)) {
        let mut differences = 0;
        for _ in 0..per_row {
            code.clear();
            start(&mut rng, row, &mut before);
            let mut program = Program {
                rng: &mut rng,
                code: &mut code,
                state: &mut before,
                unknown: 0,
                count: 0,
                places: &mut Places::default(),
            };
            program.append(row);
            let mut want = silicon.run(&code, &before);
            let got = subject.run(&code, &before);
            if want.fault.is_none() {
                completed += 1;
            }
            if want != got {
                let case = Case::flat(&code, &before);
                settle(host, case, &mut want, &got);
            }
            if want != got {
                differences += 1;
                if differences <= 2 {
                    failures.push(format!(
                        "{}\n{}",
                        row.name,
                        difference(&code, CODE, 32, &before, &want, &got)
                    ));
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

/// Programs of up to eight instructions.
fn check(subject: &mut impl Processor) {
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default);
    let cases = number("SILICON_CASES", 50) * 400;
    let result = compare(&mut *silicon, subject, generate, number("SILICON_SEED", 0x51E), cases);
    println!("{cases} cases, {} faulted, {} differ", result.faults, result.found);
    assert!(result.found == 0, "{} of {cases} differ\n{}", result.found, result.text);
    assert!(result.faults > cases / 20 && result.faults < cases / 2, "{} of {cases}", result.faults);
}

#[test]
fn mixed_programs_agree_with_silicon() {
    check(&mut Subject::new().unwrap());
}

#[test]
fn translated_mixed_programs_agree_with_silicon() {
    let jit = Jit::with_options(Options { threshold: 1, ..Options::default() }).unwrap();
    check(&mut Subject::with_engine(jit).unwrap());
}

#[test]
fn mmx_integers_agree_with_silicon() {
    compare_families(&[Family::Mmx]);
}

#[test]
fn xmm_integers_agree_with_silicon() {
    compare_families(&[Family::XmmInteger]);
}

#[test]
fn moves_agree_with_silicon() {
    compare_families(&[Family::Move]);
}

#[test]
fn shuffles_agree_with_silicon() {
    compare_families(&[Family::Shuffle]);
}

#[test]
fn float_arithmetic_agrees_with_silicon() {
    compare_families(&[Family::Arithmetic]);
}

#[test]
fn float_comparisons_agree_with_silicon() {
    compare_families(&[Family::Compare]);
}

#[test]
fn float_approximations_are_close_to_silicon() {
    compare_families(&[Family::Approximate]);
}

#[test]
fn conversions_agree_with_silicon() {
    compare_families(&[Family::Convert]);
}

#[test]
fn control_and_masked_stores_agree_with_silicon() {
    compare_families(&[Family::Control]);
}

/// Every instruction of the sets this CPU reports has a row in the table of cases.
#[test]
fn table_covers_offered_instructions() {
    use iced_x86::{Code, CpuidFeature as F, Decoder, DecoderOptions};
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
        // FISTTP is the x87's.
        let elsewhere = features.contains(&F::FPU);
        if offered && !elsewhere && code.op_code().mode32() {
            assert!(covered.contains(&code), "no case for {code:?}");
        }
    }
}
