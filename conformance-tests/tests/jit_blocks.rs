//! Random programs on the interpreter and on translated code: every register, flag, byte of memory,
//! fault and count is compared, at every slice boundary.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod jit_support;

use conformance_tests::gen_int::{self, Rng, sequence};
use conformance_tests::gen_simd;
use conformance_tests::operand::Places;
use conformance_tests::{ARENA, ARENA_LEN, State};
use jit_support::{cases, compare};

/// A loop of a few rounds over random instructions, then INT 80h. The counter is the arena's last dword.
fn program(rng: &mut Rng, rounds: u32, into: &mut Vec<u8>) {
    let counter = ARENA + ARENA_LEN - 4;
    into.extend_from_slice(&[0xC7, 0x05]);
    into.extend_from_slice(&counter.to_le_bytes());
    into.extend_from_slice(&rounds.to_le_bytes());
    let start = into.len();
    for _ in 0..1 + rng.below(3) {
        let code = sequence(rng).code;
        match rng.below(8) {
            // A call of the rest, whose return address may get lost.
            0 => {
                into.extend_from_slice(&[0xE8, 0, 0, 0, 0]);
                into.extend_from_slice(&code);
                into.push(0xC3);
            }
            // An access through a segment with a base.
            1 => {
                into.extend_from_slice(&[
                    [0x64, 0x65][rng.below(2) as usize],
                    0x8B,
                    0x40 | rng.below(4) as u8,
                ]);
                into.push(rng.next_u64() as u8);
                into.extend_from_slice(&code);
            }
            // MOV ES, AX and POP DS: what translated code assumes may end.
            2 => {
                let load = [0x8E, [0xC0, 0xD8][rng.below(2) as usize]];
                into.extend_from_slice(&load);
                into.extend_from_slice(&code);
            }
            _ => into.extend_from_slice(&code),
        }
    }
    into.extend_from_slice(&[0xFF, 0x0D]);
    into.extend_from_slice(&counter.to_le_bytes());
    let back = (start as i32) - (into.len() as i32 + 6);
    into.extend_from_slice(&[0x0F, 0x85]);
    into.extend_from_slice(&back.to_le_bytes());
    into.extend_from_slice(&[0xCD, 0x80]);
}

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

/// Compiled code in miniature: accesses relative to ESP and EBP with arithmetic between them, near page
/// boundaries.
fn frame_case(rng: &mut Rng) -> (Vec<u8>, State) {
    let mut code = Vec::new();
    for _ in 0..4 + rng.below(14) {
        let r = [0u8, 1, 2, 3, 6, 7][rng.below(6) as usize];
        let d = (rng.below(24) as u8 * 4).wrapping_sub(32);
        let d = if rng.below(8) == 0 { rng.next_u64() as u8 } else { d };
        // ModRM with [esp + d8] or [ebp + d8]
        let place = |reg: u8, esp: bool| -> Vec<u8> {
            if esp { vec![0x44 | reg << 3, 0x24, d] } else { vec![0x45 | reg << 3, d] }
        };
        let at = |op: &[u8], reg: u8, esp: bool| -> Vec<u8> { [op, &place(reg, esp)].concat() };
        let esp = rng.below(3) != 0;
        let piece = match rng.below(28) {
            0 | 1 => vec![0x50 | r],
            2 => vec![0x58 | r],
            3 | 4 => at(&[0x8B], r, esp),
            5 | 6 => at(&[0x89], r, esp),
            7 => at(&[0x01], r, esp),
            8 => at(&[0x03], r, esp),
            9 => at(&[0x2B], r, esp),
            10 => at(&[0x3B], r, esp),
            11 => at(&[0x0F, 0xB6], r, esp),
            12 => at(&[0x88], r, esp),
            13 => at(&[0xFF], 6, esp),
            14 => at(&[0xFF], 0, esp),
            15 => [at(&[0x83], 4, esp), vec![d]].concat(),
            16 => vec![0x83, 0xC4, d],
            17 => vec![0x83, 0xEC, d],
            18 => vec![0x8D, 0x64, 0x24, d],
            19 => vec![0x89, 0xE5],
            20 => vec![0xC9],
            21 => at(&[0x87], r, esp),
            22 => vec![0xC1, [0xE0, 0xE8, 0xF8][rng.below(3) as usize] | r, 1 + (d & 15)],
            23 => vec![0x40 | [0u8, 8][rng.below(2) as usize] | r],
            24 => vec![0x83, 0xC0 | r, d],
            25 => vec![0x13, 0xC0 | r],
            26 => vec![[0x21, 0x31, 0x39, 0x85, 0x29][rng.below(5) as usize], 0xC0 | r],
            _ => vec![0x0F, 0x90 | rng.below(16) as u8, 0xC0 | (r & 3)],
        };
        code.extend_from_slice(&piece);
    }
    code.extend_from_slice(&[0xCD, 0x80]);
    let mut before = gen_int::state(rng);
    let near = |rng: &mut Rng| match rng.below(16) {
        0 => rng.below(64).wrapping_sub(32),
        1 => 0x2F_FFE0 + rng.below(64),
        n => ARENA + 0x1000 * (n & 3) + 0x800 + rng.below(if n < 8 { 0x900 } else { 0x40 }),
    };
    before.gpr[4] = near(rng);
    before.gpr[5] = near(rng);
    if rng.below(4) != 0 {
        before.gpr[4] &= !3;
        before.gpr[5] &= !3;
    }
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
