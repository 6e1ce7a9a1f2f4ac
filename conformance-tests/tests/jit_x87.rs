//! Random x87 and MMX programs on the interpreter and on translated code, which keeps the unit in the host's.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod jit_support;

use conformance_tests::gen_int::{self, Rng, sequence};
use conformance_tests::gen_simd::{self, Family};
use conformance_tests::{ARENA, ARENA_LEN, State};
use emu_core::cpu::{CpuState, Segment, seg};
use emu_core::mem::Memory;
use jit_support::{cases, compare, compare_prepared};

/// Where programs find control words.
const CONTROL_WORDS: u32 = ARENA + 0x800;
/// Where 32-byte places for anything begin.
const VALUES: u32 = ARENA + 0x1000;
/// Loop counter of a program.
const COUNTER: u32 = ARENA + ARENA_LEN - 4;

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u32) as usize]
}

/// A ModRM operand of field `reg`: mostly a place with a value.
fn memory(rng: &mut Rng, reg: u8, code: &mut Vec<u8>) {
    match rng.below(8) {
        // Anywhere, the ends of pages included.
        0 => {
            let near = ARENA + 0x1000 * rng.below(5) + rng.below(24);
            code.push(reg << 3 | 5);
            code.extend_from_slice(&near.wrapping_sub(12).to_le_bytes());
        }
        1 | 2 => {
            code.push(reg << 3 | 5);
            code.extend_from_slice(&(VALUES + 8 * rng.below(64)).to_le_bytes());
        }
        // [esp + d8], [ebp + d8]
        3 => code.extend_from_slice(&[0x44 | reg << 3, 0x24, rng.below(16) as u8 * 4]),
        4 => code.extend_from_slice(&[0x45 | reg << 3, rng.below(16) as u8 * 4]),
        // [esi + ecx * 8]
        5 => code.extend_from_slice(&[0x04 | reg << 3, 0xCE]),
        // [ebx], [esi + d8]
        6 => code.push(0x03 | reg << 3),
        _ => code.extend_from_slice(&[0x46 | reg << 3, rng.next_u64() as u8 & 0x78]),
    }
}

/// What compilers emit, so that stacks stay in order.
fn orderly(rng: &mut Rng, code: &mut Vec<u8>) {
    let i = rng.below(3) as u8;
    match rng.below(24) {
        0..=3 => {
            code.push(pick(rng, &[0xD9, 0xDD]));
            memory(rng, 0, code);
        }
        4 => {
            code.push(0xDB);
            memory(rng, 0, code);
        }
        5 | 6 => {
            code.push(pick(rng, &[0xD9, 0xDD]));
            let reg = pick(rng, &[2, 3]);
            memory(rng, reg, code);
        }
        7 => code.extend_from_slice(&[0xD9, 0xC0 | i]),
        8 => code.extend_from_slice(&[0xD9, 0xC8 | i]),
        9 | 10 => {
            let operation = pick(rng, &[0u8, 1, 4, 5, 6, 7]) << 3;
            code.extend_from_slice(&[pick(rng, &[0xD8, 0xDC, 0xDE]), 0xC0 | operation | i]);
        }
        11..=13 => {
            code.push(pick(rng, &[0xD8, 0xDC]));
            let operation = pick(rng, &[0u8, 1, 4, 5, 6, 7]);
            memory(rng, operation, code);
        }
        14 => code.extend_from_slice(&[0xD9, pick(rng, &[0xE0, 0xE1, 0xFA, 0xFC, 0xE8, 0xEE, 0xEB, 0xE5])]),
        15 => code.extend_from_slice(&[0xDB, pick(rng, &[0xE8, 0xF0]) | i]),
        16 => code.extend_from_slice(&[0xDF, pick(rng, &[0xE8, 0xF0]) | i]),
        // FNSTSW AX, SAHF
        17 => code.extend_from_slice(&[0xD8, 0xD0 | i, 0xDF, 0xE0, 0x9E]),
        18 => code.extend_from_slice(&[0xDD, 0xD8 | i]),
        19 => code.extend_from_slice(&[pick(rng, &[0xDA, 0xDB]), pick(rng, &[0xC0, 0xC8, 0xD0, 0xD8]) | i]),
        // FISTP with truncation: FNSTCW, FLDCW, FISTP, FLDCW
        20 => {
            let saved = CONTROL_WORDS + 2 * rng.below(8);
            let other = CONTROL_WORDS + 2 * rng.below(8);
            for (reg, at) in [(7u8, saved), (5, other)] {
                code.extend_from_slice(&[0xD9, reg << 3 | 5]);
                code.extend_from_slice(&at.to_le_bytes());
            }
            code.push(pick(rng, &[0xDB, 0xDF]));
            let reg = pick(rng, &[1, 2, 3]);
            memory(rng, reg, code);
            code.extend_from_slice(&[0xD9, 0x2D]);
            code.extend_from_slice(&saved.to_le_bytes());
        }
        21 => code.push(0x9B),
        22 => {
            code.push(0xDB);
            let reg = pick(rng, &[5, 7]);
            memory(rng, reg, code);
        }
        _ => code.extend_from_slice(&[0xDD, 0xC0 | rng.below(8) as u8]),
    }
}

/// Any encoding.
fn any(rng: &mut Rng, code: &mut Vec<u8>) {
    if rng.below(16) == 0 {
        code.push(pick(rng, &[0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66]));
    }
    code.push(0xD8 | rng.below(8) as u8);
    if rng.below(2) == 0 {
        code.push(0xC0 | rng.below(64) as u8);
    } else {
        let reg = rng.below(8) as u8;
        memory(rng, reg, code);
    }
}

/// Integer code around it: the registers that hold pointers mostly survive.
fn integer(rng: &mut Rng, code: &mut Vec<u8>) {
    match rng.below(9) {
        0 => code.extend_from_slice(&[0x83, 0xC0 | rng.below(2) as u8, rng.next_u64() as u8]),
        1 => code.extend_from_slice(&[0x31, 0xC0 | rng.below(2) as u8 | 0x10]),
        2 => code.extend_from_slice(&[0xC1, pick(rng, &[0xE0, 0xE2]), 3]),
        3 => code.extend_from_slice(&[0x83, 0xE1, 0x3F]),
        4 => code.extend_from_slice(&[0x8B, 0x44, 0x24, rng.below(16) as u8 * 4]),
        5 => code.extend_from_slice(&[0x0F, 0x90 | rng.below(16) as u8, 0xC0]),
        // Over one instruction, with the flags as they are.
        6 => code.extend_from_slice(&[0x70 | rng.below(16) as u8, 0x02, 0xD9, 0xE8]),
        // STD and CLD around nothing: not in every mode native.
        7 => code.extend_from_slice(&[0x9C, 0x58]),
        _ => code.extend_from_slice(&sequence(rng).code),
    }
}

fn state(rng: &mut Rng) -> State {
    let rows = [gen_simd::Row {
        name: "",
        family: Family::Control,
        opcode: vec![0x0F],
        place: gen_simd::Place::None,
        extension: None,
        imm: false,
        fill: pick(rng, &[gen_simd::Fill::Double, gen_simd::Fill::Single, gen_simd::Fill::Integer]),
    }];
    let mut state = State::default();
    gen_simd::start(rng, &rows[0], &mut state);
    let anything = gen_int::state(rng);
    state.gpr = anything.gpr;
    state.gpr[1] = rng.below(32);
    state.gpr[3] = VALUES + 8 * rng.below(64);
    state.gpr[6] = VALUES + 8 * rng.below(64);
    let frame = |rng: &mut Rng| ARENA + 0x2000 + pick(rng, &[0x800, 0xFC0, 0xFE0, 0xFFC, 0x804, 0x801]);
    state.gpr[4] = frame(rng);
    state.gpr[5] = frame(rng);
    // Values: 80-bit ones, doubles, integers.
    for n in 0..128 {
        let at = (VALUES - ARENA) as usize + n * 8;
        let value = match rng.below(8) {
            0 => rng.next_u64(),
            1 => 0,
            2 => u64::from(rng.below(1000)),
            3 => (f64::from(rng.below(100_000)) / 64.0).to_bits(),
            4 => u64::from((rng.below(1000) as f32 / 8.0).to_bits()) << 32 | u64::from(1.5f32.to_bits()),
            5 => 0x8000_0000_0000_0000 | rng.next_u64(),
            6 => 0x3FF0 + u64::from(rng.below(64)),
            _ => gen_simd::double(rng),
        };
        state.arena[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let unmasked = rng.below(4) == 0;
    for n in 0..8 {
        let at = (CONTROL_WORDS - ARENA) as usize + n * 2;
        let modes = 0x3F | rng.below(16) << 8;
        let word = if unmasked && rng.below(3) == 0 { modes & rng.below(0x1000) } else { modes };
        state.arena[at..at + 2].copy_from_slice(&(word as u16).to_le_bytes());
    }
    let fp = &mut state.fp;
    let usual = rng.below(3) != 0;
    fp.control = 0x7F | (rng.below(32) << 8) as u16;
    fp.status = if usual { (8 - rng.below(4) as u16) << 11 } else { rng.next_u64() as u16 & 0x7F7F };
    fp.status &= 0x7F7F;
    match rng.below(12) {
        0 => fp.control &= !(1 << rng.below(6)),
        1 => fp.control &= rng.next_u64() as u16 | 0x1F40,
        _ => {}
    }
    if fp.status & !fp.control & 0x3F != 0 {
        fp.status |= 0x8080;
    }
    let top = fp.status >> 11 & 7;
    fp.valid = if usual { (0xFF00u16 >> (8 - top) << 8 >> 8) as u8 } else { rng.next_u64() as u8 };
    if usual {
        fp.valid = 0xFFu8.checked_shl(u32::from(top)).unwrap_or(0);
        for n in 0..8 {
            let exponent = (0x3FF7 + u128::from(rng.below(16))) | u128::from(rng.below(2)) << 15;
            let fraction = u128::from(rng.next_u64()) & !(u128::from(u64::MAX) >> rng.below(64));
            fp.st[n] = exponent << 64 | fraction | 1 << 63;
        }
    }
    state
}

/// A program of `pieces` pieces, run a few times, then INT 80h.
fn program(rng: &mut Rng, mut piece: impl FnMut(&mut Rng, &mut Vec<u8>)) -> (Vec<u8>, State) {
    let before = state(rng);
    let mut code = vec![0xC7, 0x05];
    code.extend_from_slice(&COUNTER.to_le_bytes());
    code.extend_from_slice(&(1 + rng.below(4)).to_le_bytes());
    let start = code.len();
    for _ in 0..2 + rng.below(14) {
        piece(rng, &mut code);
    }
    code.extend_from_slice(&[0xFF, 0x0D]);
    code.extend_from_slice(&COUNTER.to_le_bytes());
    let back = start as i32 - (code.len() as i32 + 6);
    code.extend_from_slice(&[0x0F, 0x85]);
    code.extend_from_slice(&back.to_le_bytes());
    code.extend_from_slice(&[0xCD, 0x80]);
    (code, before)
}

fn compiled(rng: &mut Rng) -> (Vec<u8>, State) {
    program(rng, |rng, code| if rng.below(4) == 0 { integer(rng, code) } else { orderly(rng, code) })
}

fn arbitrary(rng: &mut Rng) -> (Vec<u8>, State) {
    program(rng, |rng, code| match rng.below(8) {
        0 => integer(rng, code),
        1 | 2 => orderly(rng, code),
        _ => any(rng, code),
    })
}

/// MMX, SSE and x87 in turns.
fn mixed(rows: &[gen_simd::Row], rng: &mut Rng) -> (Vec<u8>, State) {
    let (code, mut before) = program(rng, |rng, code| match rng.below(8) {
        0 => integer(rng, code),
        1 => orderly(rng, code),
        2 => any(rng, code),
        3 => {
            let row = &rows[rng.below(rows.len() as u32) as usize];
            code.extend_from_slice(&gen_simd::encode(rng, row));
        }
        _ => {
            let row = loop {
                let row = &rows[rng.below(rows.len() as u32) as usize];
                if row.opcode[0] == 0x0F {
                    break row;
                }
            };
            code.extend_from_slice(&gen_simd::encode(rng, row));
        }
    });
    if rng.below(2) == 0 {
        let mut state = State::default();
        gen_simd::start(rng, &rows[0], &mut state);
        before.gpr = state.gpr;
    }
    (code, before)
}

/// Instructions that change whether the unit can be used, and instructions that change instructions.
fn privileged(rng: &mut Rng) -> (Vec<u8>, State) {
    program(rng, |rng, code| match rng.below(12) {
        0 => integer(rng, code),
        // MOV EAX, CR0; XOR EAX, TS, EM or MP; MOV CR0, EAX
        1 => {
            code.extend_from_slice(&[0x0F, 0x20, 0xC0, 0x83, 0xF0, pick(rng, &[8, 8, 8, 4, 2, 10])]);
            code.extend_from_slice(&[0x0F, 0x22, 0xC0]);
        }
        // CLTS
        2 | 3 => code.extend_from_slice(&[0x0F, 0x06]),
        // MOV DS, AX with one of the data segments, for the pointers to operands
        4 => {
            code.extend_from_slice(&[0xB8, pick(rng, &[0x10, 0x23]), 0, 0, 0]);
            code.extend_from_slice(&[0x8E, pick(rng, &[0xD8, 0xC0, 0xD0])]);
        }
        // CALL $+5; POP EDX; MOV BYTE [EDX + 6], ...; FADD that becomes another instruction
        5 => {
            code.extend_from_slice(&[0xE8, 0, 0, 0, 0, 0x5A, 0xC6, 0x42, 0x06, 0xC0 | rng.below(64) as u8]);
            code.extend_from_slice(&[pick(rng, &[0xD8, 0xD9, 0xDC, 0xDD]), 0xC0]);
        }
        6 => any(rng, code),
        // An XMM register, and MXCSR from anywhere
        7 => code.extend_from_slice(&[0x0F, 0x58, 0xC0 | rng.below(64) as u8]),
        _ => orderly(rng, code),
    })
}

/// Ring 0.
fn kernel(cpu: &mut CpuState, mem: &mut Memory) {
    for s in 0..6 {
        cpu.set_segment(s, Segment { base: 0, limit: u32::MAX, selector: 0x10, attr: 0xC093 });
    }
    cpu.set_segment(seg::CS, Segment { base: 0, limit: u32::MAX, selector: 8, attr: 0xC09B });
    cpu.cpl = 0;
    cpu.update_alignment_check();
    mem.select_view(false);
}

#[test]
fn code_that_withdraws_the_unit_agrees_with_the_interpreter() {
    compare_prepared(0x28, cases(20_000), 0, privileged, |_| 1000, kernel);
}

#[test]
fn code_that_withdraws_the_unit_agrees_at_any_budget() {
    compare_prepared(0x29, cases(20_000), 2, privileged, |rng| 1 + u64::from(rng.below(12)), kernel);
}

#[test]
fn compiled_x87_code_agrees_with_the_interpreter() {
    compare(0x21, cases(20_000), 0, compiled, |_| 1000);
}

#[test]
fn compiled_x87_code_agrees_at_any_budget() {
    compare(0x22, cases(20_000), 0, compiled, |rng| 1 + u64::from(rng.below(9)));
}

#[test]
fn arbitrary_x87_code_agrees_with_the_interpreter() {
    compare(0x23, cases(20_000), 0, arbitrary, |_| 1000);
}

#[test]
fn arbitrary_x87_code_agrees_at_any_budget() {
    compare(0x24, cases(20_000), 2, arbitrary, |rng| 1 + u64::from(rng.below(20)));
}

#[test]
fn called_x87_code_agrees_with_the_interpreter() {
    compare(0x25, cases(5_000), 1, arbitrary, |_| 1000);
}

#[test]
fn mixed_vector_and_x87_code_agrees_with_the_interpreter() {
    let rows = gen_simd::rows();
    compare(0x26, cases(20_000), 0, |rng| mixed(&rows, rng), |_| 1000);
}

#[test]
fn mixed_vector_and_x87_code_agrees_at_any_budget() {
    let rows = gen_simd::rows();
    compare(0x27, cases(20_000), 0, |rng| mixed(&rows, rng), |rng| 1 + u64::from(rng.below(12)));
}
