//! Generated programs on silicon and on an engine of ours.

use std::fmt::Write as _;

use crate::State;
use crate::gen_int::Rng;
use crate::layout::Processor;
use crate::policy::{Case, Host, settle};
use crate::report::difference;

/// Makes the next program and the state it starts from out of those before; returns the number of
/// instructions.
pub type Generate = fn(&mut Rng, &mut Vec<u8>, &mut State) -> u32;

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Programs compared.
    pub cases: u64,
    /// Of them, those that fault.
    pub faults: u64,
    /// Of them, those that differ.
    pub found: u64,
    /// The first differences in words.
    pub text: String,
}

/// Runs `cases` programs on both, in flat segments.
pub fn compare(
    silicon: &mut impl Processor,
    subject: &mut impl Processor,
    generate: Generate,
    seed: u64,
    cases: u64,
) -> Comparison {
    let host = Host::probe(|code, before| crate::layout::run(silicon, code, before));
    let mut rng = Rng::new(seed);
    let (mut code, mut before) = (Vec::new(), State::default());
    let mut result = Comparison { cases, ..Comparison::default() };
    for n in 0..cases {
        generate(&mut rng, &mut code, &mut before);
        let got = crate::layout::run(subject, &code, &before);
        // The host's kernel forgets the pointers of the last x87 instruction when it interrupts a case.
        let mut tries = 0..3;
        let want = loop {
            let mut want = crate::layout::run(silicon, &code, &before);
            if want != got {
                settle(host, Case::flat(&code, &before), &mut want, &got);
            }
            if want == got || tries.next().is_none() {
                break want;
            }
        };
        result.faults += u64::from(want.fault.is_some());
        if want != got {
            result.found += 1;
            if result.found <= 20 {
                let case = Case::flat(&code, &before);
                let text = difference(&code, case.origin, case.bits, &before, &want, &got);
                let _ = writeln!(result.text, "case {n} of seed {seed:#x}\n{text}");
            }
        }
    }
    result
}
