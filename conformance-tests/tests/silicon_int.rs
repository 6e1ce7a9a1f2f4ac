//! Random integer instructions on the host's CPU and on the interpreter.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance_tests::gen_int::{ROWS, Rng, encode, sequence, state};
use conformance_tests::oracle::Silicon;
use conformance_tests::policy::{Case, Host, settle};
use conformance_tests::report::difference;
use conformance_tests::subject::Subject;
use conformance_tests::{CODE, State};

/// Cases per row, or of which sequences get a multiple.
fn cases() -> u32 {
    std::env::var("SILICON_CASES").ok().and_then(|s| s.parse().ok()).unwrap_or(200)
}

/// Both processors and what was found.
struct Comparison<'a> {
    silicon: &'a mut Silicon,
    host: Host,
    subject: Subject,
    failures: Vec<String>,
    faults: u32,
}

impl<'a> Comparison<'a> {
    fn new(silicon: &'a mut Silicon) -> Self {
        let host = Host::probe(|code, before| silicon.run(code, before));
        Self { silicon, host, subject: Subject::new().unwrap(), failures: Vec::new(), faults: 0 }
    }

    fn run(&mut self, code: &[u8], before: &State) {
        let mut want = self.silicon.run(code, before);
        let got = self.subject.run(code, before);
        self.faults += u32::from(want.fault.is_some());
        if want != got {
            settle(self.host, Case::flat(code, before), &mut want, &got);
        }
        if want != got && self.failures.len() < 20 {
            self.failures.push(difference(code, CODE, 32, before, &want, &got));
        }
    }

    fn assert_none(&self) {
        assert!(
            self.failures.is_empty(),
            "{} differences\n{}",
            self.failures.len(),
            self.failures.join("\n")
        );
    }
}

#[test]
fn integer_instructions_agree_with_silicon() {
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let mut both = Comparison::new(&mut silicon);
    let mut rng = Rng::new(0x1234);
    for row in ROWS {
        for _ in 0..cases() {
            let code = encode(&mut rng, row);
            both.run(&code, &state(&mut rng));
        }
    }
    both.assert_none();
}

/// Two to eight instructions with jumps among them, up to the end or the first fault.
#[test]
fn integer_sequences_agree_with_silicon() {
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let mut both = Comparison::new(&mut silicon);
    let mut rng = Rng::new(0x5678);
    let total = cases() * 100;
    for _ in 0..total {
        let seq = sequence(&mut rng);
        both.run(&seq.code, &state(&mut rng));
    }
    both.assert_none();
    // Both ends of a sequence are met often.
    let faults = both.faults;
    assert!(faults > total / 10 && faults < total - total / 10, "{faults} of {total} faulted");
}

/// Prefixes in front of anything, around the limit of 15 bytes.
#[test]
fn instruction_length_limit_agrees_with_silicon() {
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let mut both = Comparison::new(&mut silicon);
    let mut rng = Rng::new(0x9ABC);
    for _ in 0..cases() * 20 {
        let row = &ROWS[rng.below(ROWS.len() as u32) as usize];
        let tail = encode(&mut rng, row);
        let prefixes = (10 + rng.below(8) as usize).saturating_sub(tail.len() / 2);
        let mut code: Vec<u8> =
            (0..prefixes).map(|_| [0x26, 0x2E, 0x36, 0x3E][rng.below(4) as usize]).collect();
        // A hole in the opcode map, an undefined instruction, or the row's.
        match rng.below(8) {
            0 => code.extend_from_slice(&[0x0F, 0x04]),
            1 => code.extend_from_slice(&[0x0F, 0x0B]),
            _ => code.extend_from_slice(&tail),
        }
        both.run(&code, &state(&mut rng));
    }
    both.assert_none();
}
