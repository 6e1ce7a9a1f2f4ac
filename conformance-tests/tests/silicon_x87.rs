//! Random x87 programs on the host's CPU, on the interpreter and on translated code: the stack, tags,
//! status, control, the pointers of the last instruction, memory and every fault.
//! `SILICON_CASES=100000` runs ten million.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance_tests::compare::compare;
use conformance_tests::gen_x87::generate;
use conformance_tests::layout::Processor;
use conformance_tests::oracle::Silicon;
use conformance_tests::subject::Subject;
use emu_jit::{Jit, Options};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

fn check(subject: &mut impl Processor) {
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let cases = number("SILICON_CASES", 200) * 100;
    let result = compare(&mut *silicon, subject, generate, number("SILICON_SEED", 0x87), cases);
    println!("{cases} cases, {} faulted, {} differ", result.faults, result.found);
    assert!(result.found == 0, "{} of {cases} differ\n{}", result.found, result.text);
    // Both ends are met often.
    assert!(result.faults > cases / 20 && result.faults < cases / 2, "{} of {cases}", result.faults);
}

#[test]
fn x87_programs_agree_with_silicon() {
    check(&mut Subject::new().unwrap());
}

#[test]
fn translated_x87_programs_agree_with_silicon() {
    let jit = Jit::with_options(Options { threshold: 1, ..Options::default() }).unwrap();
    check(&mut Subject::with_engine(jit).unwrap());
}
