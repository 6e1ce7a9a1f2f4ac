//! Random programs on the interpreter and on translated code: every register, flag, byte of memory,
//! fault and count is compared, at every slice boundary.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod jit_support;

use conformance_tests::State;
use conformance_tests::blocks::program;
use conformance_tests::gen_frame::frame_case;
use conformance_tests::gen_int::{self, Rng, sequence};
use conformance_tests::gen_simd;
use conformance_tests::operand::Places;
use jit_support::{cases, compare};

fn integer_case(rng: &mut Rng) -> (Vec<u8>, State) {
    let mut code = Vec::new();
    let rounds = 1 + rng.below(4);
    program(rng, rounds, &mut code);
    (code, gen_int::state(rng))
}

/// Vector instructions, sometimes with integer ones among them.
fn simd_case(rows: &[gen_simd::Row], rng: &mut Rng) -> (Vec<u8>, State) {
    let (mut code, mut before) = (Vec::new(), State::default());
    let first = rng.below(rows.len() as u32) as usize;
    gen_simd::start(rng, &rows[first], &mut before);
    let (mut unknown, mut count) = (0, 0);
    for _ in 0..1 + rng.below(5) {
        let row = &rows[rng.below(rows.len() as u32) as usize];
        let mut program = gen_simd::Program {
            rng,
            code: &mut code,
            state: &mut before,
            unknown,
            count,
            places: &mut Places::default(),
        };
        program.append(row);
        (unknown, count) = (program.unknown, program.count);
        if rng.below(4) == 0 {
            code.extend_from_slice(&sequence(rng).code);
            unknown = 0xFF;
        }
    }
    code.extend_from_slice(&[0xCD, 0x80]);
    (code, before)
}

#[test]
fn translated_blocks_agree_with_the_interpreter() {
    compare(0x11, cases(20_000), 0, integer_case, |_| 1000);
}

#[test]
fn translated_blocks_stop_exactly_at_any_budget() {
    compare(0x12, cases(20_000), 0, integer_case, |rng| 1 + u64::from(rng.below(7)));
}

#[test]
fn called_blocks_agree_with_the_interpreter() {
    compare(0x13, cases(20_000), 1, integer_case, |_| 1000);
}

#[test]
fn unlinked_blocks_agree_with_the_interpreter() {
    compare(0x14, cases(20_000), 2, integer_case, |_| 1000);
}

#[test]
fn an_exhausted_cache_changes_nothing() {
    compare(0x15, cases(20_000), 3, integer_case, |_| 1000);
}

#[test]
fn vector_instructions_agree_with_the_interpreter() {
    let rows = gen_simd::rows();
    compare(0x16, cases(20_000), 0, |rng| simd_case(&rows, rng), |_| 1000);
}

#[test]
fn accesses_to_the_frame_agree_with_the_interpreter() {
    compare(0x17, cases(20_000), 0, frame_case, |_| 1000);
}

#[test]
fn accesses_to_the_frame_agree_at_any_budget() {
    compare(0x18, cases(20_000), 0, frame_case, |rng| 1 + u64::from(rng.below(9)));
}
