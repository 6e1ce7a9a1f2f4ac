//! Compiled code in miniature: accesses relative to ESP and EBP with arithmetic between them, near page
//! boundaries.

use crate::gen_int::{self, Rng};
use crate::{ARENA, State};

/// A program that ends with INT 80h, and a state to run it from.
pub fn frame_case(rng: &mut Rng) -> (Vec<u8>, State) {
    let mut code = Vec::new();
    append(rng, &mut code);
    code.extend_from_slice(&[0xCD, 0x80]);
    let mut before = gen_int::state(rng);
    registers(rng, &mut before.gpr);
    (code, before)
}

/// ESP and EBP for such a program.
pub fn registers(rng: &mut Rng, gpr: &mut [u32; 8]) {
    let near = |rng: &mut Rng| match rng.below(16) {
        0 => rng.below(64).wrapping_sub(32),
        1 => 0x2F_FFE0 + rng.below(64),
        n => ARENA + 0x1000 * (n & 3) + 0x800 + rng.below(if n < 8 { 0x900 } else { 0x40 }),
    };
    gpr[4] = near(rng);
    gpr[5] = near(rng);
    if rng.below(4) != 0 {
        gpr[4] &= !3;
        gpr[5] &= !3;
    }
}

/// Appends 4 to 17 instructions.
pub fn append(rng: &mut Rng, code: &mut Vec<u8>) {
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
}
