//! Random x87 programs on the host's CPU and on the interpreter: the stack, tags, status, control, the
//! pointers of the last instruction, memory and every fault.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance_tests::gen_int::Rng;
use conformance_tests::gen_x87::generate;
use conformance_tests::oracle::Silicon;
use conformance_tests::policy::{Case, Host, settle};
use conformance_tests::report::difference;
use conformance_tests::subject::Subject;
use conformance_tests::{CODE, State};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

#[test]
fn x87_programs_agree_with_silicon() {
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let cases = number("SILICON_CASES", 200) * 100;
    let mut subject = Subject::new().unwrap();
    let host = Host::probe(|code, before| silicon.run(code, before));
    let mut rng = Rng::new(number("SILICON_SEED", 0x87));
    let (mut code, mut before) = (Vec::new(), State::default());
    let mut failures = Vec::new();
    let (mut faults, mut found) = (0, 0);
    for _ in 0..cases {
        generate(&mut rng, &mut code, &mut before);
        let got = subject.run(&code, &before);
        let case = Case { code: &code, origin: CODE, bits: 32, before: &before };
        // The host's kernel forgets the pointers of the last instruction when it interrupts a case.
        let mut tries = 0..3;
        let want = loop {
            let mut want = silicon.run(&code, &before);
            if want != got {
                settle(host, case, &mut want, &got);
            }
            if want == got || tries.next().is_none() {
                break want;
            }
        };
        faults += u64::from(want.fault.is_some());
        if want != got {
            found += 1;
            if failures.len() < 20 {
                failures.push(difference(&code, CODE, 32, &before, &want, &got));
            }
        }
    }
    println!("{cases} cases, {faults} faulted, {found} differ, {host:?}");
    assert!(failures.is_empty(), "{found} of {cases} differ\n{}", failures.join("\n"));
    // Both ends are met often.
    assert!(faults > cases / 20 && faults < cases / 2, "{faults} of {cases} faulted");
}
