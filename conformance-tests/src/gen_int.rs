//! Random integer instructions: encodings, registers and memory chosen to hit corners.

use crate::fp::FpState;
use crate::{ARENA, ARENA_LEN, State};

/// A small deterministic generator (SplitMix64).
pub struct Rng(u64);

impl Rng {
    /// Seeded.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n` (n > 0).
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(n)) >> 32) as u32
    }

    /// A value biased to corners: 0, 1, -1, sign bits, small, or anything.
    pub fn corner(&mut self) -> u32 {
        const CORNERS: [u32; 16] = [
            0,
            1,
            2,
            0x7F,
            0x80,
            0xFF,
            0x100,
            0x7FFF,
            0x8000,
            0xFFFF,
            0x1_0000,
            0x7FFF_FFFF,
            0x8000_0000,
            0xFFFF_FFFF,
            0xFFFF_FF80,
            0x8000_8080,
        ];
        match self.below(4) {
            0 => CORNERS[self.below(16) as usize],
            1 => self.below(64),
            _ => self.next_u64() as u32,
        }
    }
}

/// One row of the table: opcode bytes and how to go on.
#[derive(Clone, Copy)]
pub struct Row {
    /// Name in reports; also selects the undefined-flag mask.
    pub name: &'static str,
    /// Opcode bytes.
    pub opcode: &'static [u8],
    /// ModRM: `None` = none, `Some(8)` = any reg field, `Some(n)` = that extension.
    pub modrm: Option<u8>,
    /// Immediate: 0, 1 byte, or 4 = operand-size.
    pub imm: u8,
    /// ModRM must be memory.
    pub memory_only: bool,
}

/// EFLAGS bits that silicon leaves undefined for a row.
pub fn undefined_flags(name: &str) -> u32 {
    const CF: u32 = 1;
    const PF: u32 = 4;
    const AF: u32 = 0x10;
    const ZF: u32 = 0x40;
    const SF: u32 = 0x80;
    const OF: u32 = 0x800;
    match name {
        "and" | "or" | "xor" | "test" => AF,
        "shl" | "shr" | "sar" | "shld" | "shrd" => AF | OF,
        "rol" | "ror" | "rcl" | "rcr" => OF,
        "shl8" | "shr8" => AF | OF | CF,
        "mul" | "imul" => SF | ZF | AF | PF,
        "div" | "idiv" => CF | PF | AF | ZF | SF | OF,
        "aaa" | "aas" => OF | SF | ZF | PF,
        "daa" | "das" => OF,
        "aam" | "aad" => OF | AF | CF,
        "bt" => OF | SF | AF | PF,
        "bsf" | "bsr" => CF | OF | SF | AF | PF,
        _ => 0,
    }
}

macro_rules! rows {
    ($($name:literal $op:expr, $modrm:expr, $imm:expr $(, $mem:literal)?;)*) => {
        &[$(Row { name: $name, opcode: &$op, modrm: $modrm, imm: $imm, memory_only: false $(|| $mem)? }),*]
    };
}

const R: Option<u8> = Some(8);

/// Integer instructions of ring 3.
pub const ROWS: &[Row] = rows! {
    "add" [0x00], R, 0; "add" [0x01], R, 0; "add" [0x02], R, 0; "add" [0x03], R, 0; "add" [0x04], None, 1; "add" [0x05], None, 4;
    "or" [0x08], R, 0; "or" [0x09], R, 0; "or" [0x0A], R, 0; "or" [0x0B], R, 0; "or" [0x0C], None, 1; "or" [0x0D], None, 4;
    "adc" [0x10], R, 0; "adc" [0x11], R, 0; "adc" [0x12], R, 0; "adc" [0x13], R, 0; "adc" [0x14], None, 1; "adc" [0x15], None, 4;
    "sbb" [0x18], R, 0; "sbb" [0x19], R, 0; "sbb" [0x1A], R, 0; "sbb" [0x1B], R, 0; "sbb" [0x1C], None, 1; "sbb" [0x1D], None, 4;
    "and" [0x20], R, 0; "and" [0x21], R, 0; "and" [0x22], R, 0; "and" [0x23], R, 0; "and" [0x24], None, 1; "and" [0x25], None, 4;
    "sub" [0x28], R, 0; "sub" [0x29], R, 0; "sub" [0x2A], R, 0; "sub" [0x2B], R, 0; "sub" [0x2C], None, 1; "sub" [0x2D], None, 4;
    "xor" [0x30], R, 0; "xor" [0x31], R, 0; "xor" [0x32], R, 0; "xor" [0x33], R, 0; "xor" [0x34], None, 1; "xor" [0x35], None, 4;
    "cmp" [0x38], R, 0; "cmp" [0x39], R, 0; "cmp" [0x3A], R, 0; "cmp" [0x3B], R, 0; "cmp" [0x3C], None, 1; "cmp" [0x3D], None, 4;
    "add" [0x80], Some(0), 1; "or" [0x80], Some(1), 1; "adc" [0x80], Some(2), 1; "sbb" [0x80], Some(3), 1;
    "and" [0x80], Some(4), 1; "sub" [0x80], Some(5), 1; "xor" [0x80], Some(6), 1; "cmp" [0x80], Some(7), 1;
    "add" [0x81], Some(0), 4; "or" [0x81], Some(1), 4; "adc" [0x81], Some(2), 4; "sbb" [0x81], Some(3), 4;
    "and" [0x81], Some(4), 4; "sub" [0x81], Some(5), 4; "xor" [0x81], Some(6), 4; "cmp" [0x81], Some(7), 4;
    "add" [0x83], Some(0), 1; "or" [0x83], Some(1), 1; "adc" [0x83], Some(2), 1; "sbb" [0x83], Some(3), 1;
    "and" [0x83], Some(4), 1; "sub" [0x83], Some(5), 1; "xor" [0x83], Some(6), 1; "cmp" [0x83], Some(7), 1;
    "add" [0x82], Some(0), 1; "cmp" [0x82], Some(7), 1;
    "test" [0x84], R, 0; "test" [0x85], R, 0; "test" [0xA8], None, 1; "test" [0xA9], None, 4; "test" [0xF6], Some(0), 1; "test" [0xF7], Some(0), 4; "test" [0xF6], Some(1), 1;
    "inc" [0x40], None, 0; "inc" [0x45], None, 0; "dec" [0x4B], None, 0; "dec" [0x4F], None, 0;
    "inc" [0xFE], Some(0), 0; "dec" [0xFE], Some(1), 0; "inc" [0xFF], Some(0), 0; "dec" [0xFF], Some(1), 0;
    "not" [0xF6], Some(2), 0; "not" [0xF7], Some(2), 0; "neg" [0xF6], Some(3), 0; "neg" [0xF7], Some(3), 0;
    "mul" [0xF6], Some(4), 0; "mul" [0xF7], Some(4), 0; "imul" [0xF6], Some(5), 0; "imul" [0xF7], Some(5), 0;
    "div" [0xF6], Some(6), 0; "div" [0xF7], Some(6), 0; "idiv" [0xF6], Some(7), 0; "idiv" [0xF7], Some(7), 0;
    "imul" [0x0F, 0xAF], R, 0; "imul" [0x69], R, 4; "imul" [0x6B], R, 1;
    "rol" [0xC0], Some(0), 1; "ror" [0xC0], Some(1), 1; "rcl" [0xC0], Some(2), 1; "rcr" [0xC0], Some(3), 1;
    "shl8" [0xC0], Some(4), 1; "shr8" [0xC0], Some(5), 1; "sar" [0xC0], Some(7), 1; "shl8" [0xC0], Some(6), 1;
    "rol" [0xC1], Some(0), 1; "ror" [0xC1], Some(1), 1; "rcl" [0xC1], Some(2), 1; "rcr" [0xC1], Some(3), 1;
    "shl8" [0xC1], Some(4), 1; "shr8" [0xC1], Some(5), 1; "sar" [0xC1], Some(7), 1;
    "rol1" [0xD0], Some(0), 0; "ror1" [0xD0], Some(1), 0; "rcl1" [0xD0], Some(2), 0; "rcr1" [0xD0], Some(3), 0;
    "and" [0xD0], Some(4), 0; "and" [0xD0], Some(5), 0; "and" [0xD0], Some(7), 0;
    "rol1" [0xD1], Some(0), 0; "ror1" [0xD1], Some(1), 0; "rcl1" [0xD1], Some(2), 0; "rcr1" [0xD1], Some(3), 0;
    "and" [0xD1], Some(4), 0; "and" [0xD1], Some(5), 0; "and" [0xD1], Some(7), 0;
    "rol" [0xD2], Some(0), 0; "ror" [0xD2], Some(1), 0; "rcl" [0xD2], Some(2), 0; "rcr" [0xD2], Some(3), 0;
    "shl8" [0xD2], Some(4), 0; "shr8" [0xD2], Some(5), 0; "sar" [0xD2], Some(7), 0;
    "rol" [0xD3], Some(0), 0; "ror" [0xD3], Some(1), 0; "rcl" [0xD3], Some(2), 0; "rcr" [0xD3], Some(3), 0;
    "shl8" [0xD3], Some(4), 0; "shr8" [0xD3], Some(5), 0; "sar" [0xD3], Some(7), 0;
    "shld" [0x0F, 0xA4], R, 1; "shld" [0x0F, 0xA5], R, 0; "shrd" [0x0F, 0xAC], R, 1; "shrd" [0x0F, 0xAD], R, 0;
    "bt" [0x0F, 0xA3], R, 0; "bt" [0x0F, 0xAB], R, 0; "bt" [0x0F, 0xB3], R, 0; "bt" [0x0F, 0xBB], R, 0;
    "bt" [0x0F, 0xBA], Some(4), 1; "bt" [0x0F, 0xBA], Some(5), 1; "bt" [0x0F, 0xBA], Some(6), 1; "bt" [0x0F, 0xBA], Some(7), 1;
    "bsf" [0x0F, 0xBC], R, 0; "bsr" [0x0F, 0xBD], R, 0; "popcnt" [0xF3, 0x0F, 0xB8], R, 0;
    "aaa" [0x37], None, 0; "aas" [0x3F], None, 0; "daa" [0x27], None, 0; "das" [0x2F], None, 0; "aam" [0xD4], None, 1; "aad" [0xD5], None, 1;
    "mov" [0x88], R, 0; "mov" [0x89], R, 0; "mov" [0x8A], R, 0; "mov" [0x8B], R, 0; "mov" [0xC6], Some(0), 1; "mov" [0xC7], Some(0), 4;
    "mov" [0xB4], None, 1; "mov" [0xBE], None, 4; "lea" [0x8D], R, 0, true; "xchg" [0x86], R, 0; "xchg" [0x87], R, 0; "xchg" [0x96], None, 0;
    "movzx" [0x0F, 0xB6], R, 0; "movzx" [0x0F, 0xB7], R, 0; "movsx" [0x0F, 0xBE], R, 0; "movsx" [0x0F, 0xBF], R, 0;
    "cmpxchg" [0x0F, 0xB0], R, 0; "cmpxchg" [0x0F, 0xB1], R, 0; "xadd" [0x0F, 0xC0], R, 0; "xadd" [0x0F, 0xC1], R, 0; "cmpxchg8b" [0x0F, 0xC7], Some(1), 0, true;
    "cbw" [0x98], None, 0; "cwd" [0x99], None, 0; "bswap" [0x0F, 0xC9], None, 0;
    "cmov" [0x0F, 0x40], R, 0; "cmov" [0x0F, 0x42], R, 0; "cmov" [0x0F, 0x44], R, 0; "cmov" [0x0F, 0x47], R, 0; "cmov" [0x0F, 0x4A], R, 0; "cmov" [0x0F, 0x4D], R, 0; "cmov" [0x0F, 0x4E], R, 0;
    "setcc" [0x0F, 0x90], R, 0; "setcc" [0x0F, 0x93], R, 0; "setcc" [0x0F, 0x95], R, 0; "setcc" [0x0F, 0x96], R, 0; "setcc" [0x0F, 0x98], R, 0; "setcc" [0x0F, 0x9C], R, 0; "setcc" [0x0F, 0x9F], R, 0;
    "push" [0x50], None, 0; "push" [0x54], None, 0; "push" [0x68], None, 4; "push" [0x6A], None, 1; "push" [0xFF], Some(6), 0; "pop" [0x59], None, 0; "pop" [0x5C], None, 0; "pop" [0x8F], Some(0), 0;
    "pusha" [0x60], None, 0; "popa" [0x61], None, 0; "enter" [0xC8, 0x08, 0x00], None, 1; "leave" [0xC9], None, 0; "pushf" [0x9C], None, 0;
    "movs" [0xA4], None, 0; "movs" [0xA5], None, 0; "cmps" [0xA6], None, 0; "cmps" [0xA7], None, 0; "stos" [0xAA], None, 0; "stos" [0xAB], None, 0;
    "lods" [0xAC], None, 0; "lods" [0xAD], None, 0; "scas" [0xAE], None, 0; "scas" [0xAF], None, 0; "xlat" [0xD7], None, 0;
    "rep movs" [0xF3, 0xA4], None, 0; "rep movs" [0xF3, 0xA5], None, 0; "rep stos" [0xF3, 0xAA], None, 0; "rep stos" [0xF3, 0xAB], None, 0; "rep lods" [0xF3, 0xAD], None, 0;
    "repe cmps" [0xF3, 0xA6], None, 0; "repne cmps" [0xF2, 0xA7], None, 0; "repe scas" [0xF3, 0xAF], None, 0; "repne scas" [0xF2, 0xAE], None, 0;
    "clc" [0xF8], None, 0; "stc" [0xF9], None, 0; "cmc" [0xF5], None, 0; "cld" [0xFC], None, 0; "std" [0xFD], None, 0; "lahf" [0x9F], None, 0; "sahf" [0x9E], None, 0; "salc" [0xD6], None, 0;
};

/// Encodes `row` with random prefixes, ModRM and immediate, for 32-bit code.
pub fn encode(rng: &mut Rng, row: &Row) -> Vec<u8> {
    encode_in(rng, row, true)
}

/// The same for 32-bit code (`big`) or 16-bit code.
pub fn encode_in(rng: &mut Rng, row: &Row, big: bool) -> Vec<u8> {
    let mut code = Vec::with_capacity(16);
    let op16 = (rng.below(4) == 0) == big;
    if op16 == big {
        code.push(0x66);
    }
    if rng.below(16) == 0 {
        code.push([0x26, 0x2E, 0x36, 0x3E][rng.below(4) as usize]);
    }
    // The mandatory prefix of the row may stand on either side of 67.
    let address16 = (rng.below(12) == 0) == big;
    if address16 == big {
        code.push(0x67);
    }
    code.extend_from_slice(row.opcode);
    if let Some(reg) = row.modrm {
        let reg = if reg == 8 { rng.below(8) as u8 } else { reg };
        let memory = row.memory_only || rng.below(2) == 0;
        if memory && address16 {
            modrm_memory16(rng, reg, &mut code);
        } else if memory {
            modrm_memory(rng, reg, &mut code);
        } else {
            code.push(0xC0 | reg << 3 | rng.below(8) as u8);
        }
    }
    match row.imm {
        0 => {}
        1 => code.push(rng.corner() as u8),
        _ => {
            let v = rng.corner().to_le_bytes();
            code.extend_from_slice(if op16 { &v[..2] } else { &v });
        }
    }
    code
}

/// EFLAGS bits a row's instruction reads.
fn reads_flags(name: &str) -> u32 {
    match name {
        "adc" | "sbb" | "rcl" | "rcr" | "rcl1" | "rcr1" | "cmc" | "salc" => 1,
        "daa" | "das" | "aaa" | "aas" => 0x11,
        "cmov" | "setcc" | "pushf" | "lahf" => 0x8D5,
        _ => 0,
    }
}

/// The row's instruction leaves no flag as it was, whatever its operands.
fn writes_all_flags(name: &str) -> bool {
    matches!(
        name,
        "add"
            | "or"
            | "adc"
            | "sbb"
            | "and"
            | "sub"
            | "xor"
            | "cmp"
            | "test"
            | "neg"
            | "mul"
            | "imul"
            | "div"
            | "idiv"
            | "aaa"
            | "aas"
            | "daa"
            | "das"
            | "aam"
            | "aad"
            | "bsf"
            | "bsr"
            | "popcnt"
            | "cmpxchg"
            | "xadd"
            | "cmps"
            | "scas"
    )
}

/// One instruction of a [`Sequence`].
pub struct Step {
    /// Offset of its first byte.
    pub offset: usize,
    /// Name of its row.
    pub name: &'static str,
    /// Flags that are undefined before it.
    pub undefined: u32,
}

/// Several instructions in a row.
pub struct Sequence {
    /// Their bytes.
    pub code: Vec<u8>,
    /// Each of them.
    pub steps: Vec<Step>,
    /// Flags that are undefined behind the last.
    pub undefined: u32,
}

/// Two to eight instructions, some behind a short conditional jump over them. None reads a flag that
/// an earlier one leaves undefined.
pub fn sequence(rng: &mut Rng) -> Sequence {
    let mut code = Vec::new();
    let mut steps = Vec::new();
    let mut undefined = 0;
    let count = 2 + rng.below(7);
    while (steps.len() as u32) < count {
        let row = &ROWS[rng.below(ROWS.len() as u32) as usize];
        let bytes = encode(rng, row);
        // 16-bit double shifts by more than 16 have undefined results.
        let shifts16 = row.name.starts_with("sh") && row.name.ends_with('d') && bytes[0] == 0x66;
        if reads_flags(row.name) & undefined != 0 || shifts16 {
            continue;
        }
        let jump = match rng.below(8) {
            0 if undefined == 0 => Some(0x70 | rng.below(16) as u8),
            1 => Some(0xE3), // JECXZ
            2 => Some(0xE2), // LOOP
            3 => Some(0xEB),
            _ => None,
        };
        if let Some(opcode) = jump {
            steps.push(Step { offset: code.len(), name: "jump", undefined });
            code.extend_from_slice(&[opcode, bytes.len() as u8]);
        }
        steps.push(Step { offset: code.len(), name: row.name, undefined });
        code.extend_from_slice(&bytes);
        let kept = if writes_all_flags(row.name) && jump.is_none() { 0 } else { undefined };
        undefined = kept | undefined_flags(row.name);
    }
    Sequence { code, steps, undefined }
}

/// 16-bit addresses reach the first 64 KiB, where nothing is mapped: LEA shows what is computed, and
/// CR2 of the fault does for the others.
fn modrm_memory16(rng: &mut Rng, reg: u8, code: &mut Vec<u8>) {
    let rm = rng.below(8) as u8;
    match rng.below(3) {
        0 => {
            code.push(reg << 3 | rm);
            if rm == 6 {
                code.extend_from_slice(&(rng.next_u64() as u16).to_le_bytes());
            }
        }
        1 => code.extend_from_slice(&[0x40 | reg << 3 | rm, rng.next_u64() as u8]),
        _ => {
            code.push(0x80 | reg << 3 | rm);
            code.extend_from_slice(&(rng.next_u64() as u16).to_le_bytes());
        }
    }
}

fn modrm_memory(rng: &mut Rng, reg: u8, code: &mut Vec<u8>) {
    match rng.below(4) {
        // disp32
        0 => {
            code.push(reg << 3 | 5);
            let at = ARENA - 8 + rng.below(ARENA_LEN + 16);
            code.extend_from_slice(&at.to_le_bytes());
        }
        // base + disp8
        1 => {
            let mut base = rng.below(8) as u8;
            if base == 4 {
                base = 3;
            }
            code.push(0x40 | reg << 3 | base);
            code.push(rng.next_u64() as u8);
        }
        // SIB, no displacement
        2 => {
            code.push(reg << 3 | 4);
            let mut sib = rng.next_u64() as u8;
            if sib & 7 == 5 {
                sib ^= 1;
            }
            code.push(sib);
        }
        // SIB + disp8
        _ => {
            code.push(0x40 | reg << 3 | 4);
            code.push(rng.next_u64() as u8);
            code.push(rng.next_u64() as u8);
        }
    }
}

/// A state whose registers point into the arena half of the time.
pub fn state(rng: &mut Rng) -> State {
    let mut gpr = [0; 8];
    for r in &mut gpr {
        *r = if rng.below(2) == 0 { pointer(rng) } else { rng.corner() };
    }
    // ESP: mostly a valid stack; small counts for ECX
    if rng.below(8) != 0 {
        gpr[4] = pointer(rng);
    }
    if rng.below(2) == 0 {
        gpr[1] = rng.below(40);
    }
    let eflags = rng.next_u64() as u32 & 0xCD5;
    let mut arena = vec![0; ARENA_LEN as usize];
    for chunk in arena.chunks_exact_mut(4) {
        chunk.copy_from_slice(&rng.corner().to_le_bytes());
    }
    State { gpr, eflags, fp: FpState::default(), arena }
}

/// An address in the arena or near its ends.
pub fn pointer(rng: &mut Rng) -> u32 {
    match rng.below(8) {
        // around the ends and the inner page boundaries
        0 => ARENA.wrapping_add(rng.below(5) * 0x1000).wrapping_sub(8).wrapping_add(rng.below(16)),
        _ => ARENA + rng.below(ARENA_LEN),
    }
}
