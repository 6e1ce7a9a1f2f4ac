//! Short campaigns against silicon: every family on the interpreter, on translated code, and on engines
//! that are stopped and resumed all the time.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance_tests::campaign::coverage::Coverage;
use conformance_tests::campaign::float::{Float, Unit};
use conformance_tests::campaign::integer::{Flavour, Integer};
use conformance_tests::campaign::{Campaign, Counts, Family, report};
use conformance_tests::oracle::Silicon;
use conformance_tests::policy::Host;
use conformance_tests::subject::Subject;
use emu_core::engine::CpuEngine;
use emu_core::interp::Interpreter;
use emu_jit::{Jit, Options};

/// Runs some chunks of each family; `slice` is the budget that our engine gets at a time.
fn compare<E: CpuEngine>(engine: impl Fn() -> E, seed: u64, chunks: u64, slice: impl Fn(u64) -> u64) {
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let chunks = std::env::var("SILICON_CHUNKS").ok().and_then(|s| s.parse().ok()).unwrap_or(chunks);
    let host = Host::probe(|code, before| silicon.run(code, before));
    let mut families: Vec<Box<dyn Family>> = vec![
        Box::new(Integer::new(Flavour::Flat)),
        Box::new(Integer::new(Flavour::Segments)),
        Box::new(Float::new(Unit::X87, host)),
        Box::new(Float::new(Unit::Simd, host)),
    ];
    for family in &mut families {
        let mut campaign = Campaign {
            silicon: &mut silicon,
            subject: Subject::with_engine(engine()).unwrap(),
            coverage: Coverage::default(),
            counts: Counts::default(),
            saved: Vec::new(),
        };
        for n in 0..chunks {
            campaign.subject.slice = slice(n);
            if let Some(case) = campaign.chunk(family.as_mut(), seed << 32 | n) {
                let small = report::minimise(&mut campaign, family.as_mut(), &case);
                panic!("{}", report::describe(&mut campaign, family.as_mut(), &small));
            }
        }
        let c = campaign.counts;
        println!("{} {c:?}", family.name());
        assert!(c.cases > 100 * chunks, "{c:?}");
        // Both ends of programs are met often, and what cannot be compared is rare.
        assert!(c.faults > c.cases / 50 && c.faults < c.cases / 2, "{c:?}");
        assert!(c.skipped < c.cases / 500, "{c:?}");
    }
}

#[test]
fn random_programs_agree_with_silicon() {
    compare(Interpreter::new, 1, 60, |_| u64::MAX);
}

#[test]
fn translated_programs_agree_with_silicon() {
    let options = Options { threshold: 1, ..Options::default() };
    compare(|| Jit::with_options(options).unwrap(), 2, 40, |_| u64::MAX);
}

/// Silicon in ring 3 cannot be asked to take an interrupt between two passes of a string instruction:
/// our engine is stopped there instead, and what comes out must be the same.
#[test]
fn programs_that_are_stopped_at_any_instruction_agree_with_silicon() {
    compare(Interpreter::new, 3, 40, |n| 1 + n % 7);
}

#[test]
fn translated_programs_that_are_stopped_agree_with_silicon() {
    let options = Options { threshold: 1, ..Options::default() };
    compare(|| Jit::with_options(options).unwrap(), 4, 40, |n| 1 + n % 11);
}
