//! Random code for segments that are not flat: 16 and 32 bits, bases, limits, real mode and VM86.

use emu_core::cpu::{Segment, seg};

use crate::gen_int::{ROWS, Rng, encode_in};
use crate::rig::{LOW_ARENA, LOW_CODE};
use crate::{ARENA, ARENA_LEN, CODE};

/// What kind of mode a block runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Protected mode at CPL 3.
    Protected,
    /// VM86.
    Vm86,
    /// Real mode.
    Real,
}

/// Mode and segment registers of a block.
#[derive(Clone, Debug)]
pub struct Segments {
    /// The mode.
    pub kind: Kind,
    /// ES CS SS DS FS GS. GS holds the loop counter, at 12.
    pub seg: [Segment; 6],
    /// EIP of the block.
    pub eip: u32,
    /// IOPL in VM86.
    pub iopl: u32,
}

impl Segments {
    fn is_big(&self) -> bool {
        self.seg[seg::CS].is_big()
    }
}

const BIG: u16 = 1 << 14;

fn data(rng: &mut Rng) -> Segment {
    let (mut base, limits) = match rng.below(4) {
        0 => (0, [u32::MAX, u32::MAX, ARENA + 0x2FFF, 0xFFFF]),
        1 | 2 => (LOW_ARENA, [0xFFFF, 0xFFFF, 0xFFFF, rng.below(0x1_0000)]),
        _ => (ARENA, [0xFFFF, ARENA_LEN - 1, 0xFF, rng.below(0x5000)]),
    };
    if base != 0 && rng.below(2) == 0 {
        base = base.wrapping_add(rng.below(0x300)).wrapping_sub(0x100);
    }
    let limit = limits[rng.below(4) as usize];
    let attr = match rng.below(24) {
        // Expand-down.
        0 | 1 => 0xF7,
        // Read-only.
        2 => 0xF1,
        // Code that can be read, and code that cannot.
        3 => 0xFB,
        4 => 0xF9,
        5 => return Segment::null(0),
        _ => 0xF3,
    };
    let big = if rng.below(2) == 0 { BIG } else { 0 };
    Segment { base, limit, selector: 0x33, attr: attr | big }
}

/// Mode and segments for a block whose first byte lies `offset` bytes into the code.
pub fn segments(rng: &mut Rng, kind: Kind, offset: u32) -> Segments {
    let counter = ARENA_LEN - 16;
    if kind == Kind::Protected {
        let linear = if rng.below(3) == 0 { LOW_CODE } else { CODE & !0xFFF } + offset;
        let big = rng.below(3) == 0;
        let eip = match rng.below(8) {
            _ if big && rng.below(2) == 0 => linear,
            0 => 0xFC00 + rng.below(0x300),
            1 if big => rng.next_u64() as u32,
            2 => (linear & 0xFFF) + rng.below(14) * 0x1000,
            _ => rng.below(0xE000),
        };
        let limit = match rng.below(4) {
            0 => eip.saturating_add(rng.below(0x180)),
            1 => u32::MAX,
            _ if big => u32::MAX,
            _ => 0xFFFF,
        };
        let attr = 0xFB | if big { BIG } else { 0 };
        let cs = Segment { base: linear.wrapping_sub(eip), limit, selector: 0x1B, attr };
        let stack = match rng.below(4) {
            0 => Segment { base: 0, limit: u32::MAX, selector: 0x23, attr: 0xF3 | BIG },
            1 => Segment { base: ARENA - 2, limit: rng.below(0x5000), selector: 0x33, attr: 0xF3 | BIG },
            2 => Segment { base: ARENA, limit: rng.below(0x2000), selector: 0x33, attr: 0xF7 },
            _ => Segment { base: LOW_ARENA + rng.below(16), limit: 0xFFFF, selector: 0x33, attr: 0xF3 },
        };
        let gs = Segment { base: ARENA + counter, limit: 15, selector: 0x3B, attr: 0xF3 };
        let seg = [data(rng), cs, stack, data(rng), data(rng), gs];
        return Segments { kind, seg, eip, iopl: 0 };
    }
    let linear = LOW_CODE + offset;
    if kind == Kind::Real && rng.below(12) == 0 {
        // Flat real mode.
        let wide = Segment { base: 0, limit: u32::MAX, selector: 0, attr: 0x93 | BIG };
        let mut seg = [wide; 6];
        seg[seg::GS] = Segment::real(((LOW_ARENA + counter) >> 4) as u16, 0);
        return Segments { kind, seg, eip: linear, iopl: 0 };
    }
    let farthest = [4, 0x800][rng.below(2) as usize];
    let selector = (linear >> 4) - rng.below(farthest);
    let eip = linear - (selector << 4);
    let dpl = if kind == Kind::Vm86 { 3 } else { 0 };
    let real = |at: u32| Segment::real((at >> 4) as u16, dpl);
    let mut seg: [Segment; 6] = std::array::from_fn(|_| real(LOW_ARENA + rng.below(0x200) - 0x100));
    seg[seg::CS] = Segment::real(selector as u16, dpl);
    seg[seg::GS] = real(LOW_ARENA + counter);
    if kind == Kind::Real {
        // What protected mode has left behind.
        for s in &mut seg {
            match rng.below(16) {
                0 => s.limit = u32::MAX,
                1 => s.attr |= BIG,
                _ => {}
            }
        }
        if seg[seg::CS].is_big() {
            seg[seg::CS].limit = u32::MAX;
        }
    }
    Segments { kind, seg, eip, iopl: [3, 3, 3, 0][rng.below(4) as usize] }
}

/// General registers: offsets, addresses, anything.
pub fn registers(rng: &mut Rng, gpr: &mut [u32; 8]) {
    for r in gpr.iter_mut() {
        *r = match rng.below(8) {
            0 => ARENA + rng.below(ARENA_LEN),
            2 => rng.corner(),
            3 => rng.below(ARENA_LEN) | rng.next_u64() as u32 & 0xFFFF_0000,
            _ => rng.below(ARENA_LEN),
        };
    }
    if rng.below(2) == 0 {
        gpr[1] = rng.below(40);
    }
}

/// Appends the loop of a block, which ends with INT 80h.
pub fn append(rng: &mut Rng, segments: &Segments, rounds: u32, into: &mut Vec<u8>) {
    let big = segments.is_big();
    let start = into.len();
    let eip = segments.eip.wrapping_sub(start as u32);
    into.extend_from_slice(if big {
        &[0x65, 0xC7, 0x05, 12, 0, 0, 0]
    } else {
        &[0x65, 0x66, 0xC7, 0x06, 12, 0]
    });
    into.extend_from_slice(&rounds.to_le_bytes());
    let again = into.len();
    for _ in 0..2 + rng.below(7) {
        item(rng, segments, eip, into);
    }
    into.extend_from_slice(if big {
        &[0x65, 0xFF, 0x0D, 12, 0, 0, 0]
    } else {
        &[0x65, 0x66, 0xFF, 0x0E, 12, 0]
    });
    let back = (again as i32) - (into.len() as i32);
    into.extend_from_slice(&[0x0F, 0x85]);
    if big {
        into.extend_from_slice(&(back - 6).to_le_bytes());
    } else {
        into.extend_from_slice(&((back - 4) as i16).to_le_bytes());
    }
    into.extend_from_slice(&[0xCD, 0x80]);
}

/// An immediate or distance of the operand size.
fn word(big: bool, value: u32, into: &mut Vec<u8>) {
    into.extend_from_slice(&value.to_le_bytes()[..if big { 4 } else { 2 }]);
}

fn plain(rng: &mut Rng, big: bool, into: &mut Vec<u8>) {
    let row = &ROWS[rng.below(ROWS.len() as u32) as usize];
    if rng.below(5) == 0 {
        into.push([0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65][rng.below(6) as usize]);
    }
    into.extend_from_slice(&encode_in(rng, row, big));
}

/// A selector that can be loaded.
fn selector(rng: &mut Rng, kind: Kind) -> u32 {
    match kind {
        Kind::Protected => [0x23, 0x33, 0x3B, 0, 0x33][rng.below(5) as usize],
        _ => (LOW_ARENA >> 4) + rng.below(0x40),
    }
}

fn item(rng: &mut Rng, segments: &Segments, eip: u32, into: &mut Vec<u8>) {
    let big = segments.is_big();
    match rng.below(20) {
        0 | 1 => {
            let mut skipped = Vec::new();
            plain(rng, big, &mut skipped);
            if rng.below(6) == 0 {
                into.push([0x66, 0x67][rng.below(2) as usize]);
            }
            let opcode = [0x70 | rng.below(16) as u8, 0xE0, 0xE1, 0xE2, 0xE3, 0xEB][rng.below(6) as usize];
            into.extend_from_slice(&[opcode, skipped.len() as u8]);
            into.extend_from_slice(&skipped);
        }
        // A function: CALL, JMP over it, body, RET.
        2 | 3 => {
            let mut body = Vec::new();
            for _ in 0..rng.below(3) {
                plain(rng, big, &mut body);
            }
            let far = rng.below(4) == 0;
            body.push(if far { 0xCB } else { 0xC3 });
            if far {
                into.push(0x0E);
            }
            let jump = if big { 5 } else { 3 };
            into.push(0xE8);
            word(big, jump, into);
            into.push(0xE9);
            word(big, body.len() as u32, into);
            into.extend_from_slice(&body);
        }
        // A call of the rest, whose return address may get lost.
        4 => {
            into.push(0xE8);
            word(big, 0, into);
            plain(rng, big, into);
            into.push(0xC3);
        }
        // MOV AX, selector; MOV Sreg, AX.
        5 => {
            into.push(0xB8);
            word(big, selector(rng, segments.kind), into);
            into.extend_from_slice(&[0x8E, [0xC0, 0xD8, 0xE0][rng.below(3) as usize]]);
        }
        // PUSH Sreg; POP Sreg.
        6 => {
            if rng.below(6) == 0 {
                into.push(0x66);
            }
            into.push([0x06, 0x0E, 0x16, 0x1E][rng.below(4) as usize]);
            into.push([0x07, 0x1F][rng.below(2) as usize]);
        }
        // PUSH selector; POP Sreg.
        7 => {
            into.push(0x68);
            word(big, selector(rng, segments.kind), into);
            into.extend_from_slice([&[0x07][..], &[0x1F], &[0x0F, 0xA1]][rng.below(3) as usize]);
        }
        // MOV EAX, behind; JMP or CALL EAX.
        8 => {
            into.push(0xB8);
            let behind = into.len() as u32 + if big { 6 } else { 4 };
            word(big, eip.wrapping_add(behind), into);
            into.extend_from_slice(&[0xFF, [0xE0, 0xD0][rng.below(2) as usize]]);
        }
        // A segment override.
        9 | 10 => {
            into.push([0x26, 0x2E, 0x36, 0x64][rng.below(4) as usize]);
            into.extend_from_slice(&[
                [0x8B, 0x89, 0x01, 0x03][rng.below(4) as usize],
                0x40 | rng.below(32) as u8,
            ]);
            into.push(rng.next_u64() as u8);
        }
        // A few x87 and SSE instructions with memory.
        11 => {
            into.extend_from_slice(
                [
                    &[0xD9, 0x40][..],
                    &[0xDD, 0x41],
                    &[0xDB, 0x42],
                    &[0xD8, 0x43],
                    &[0x0F, 0x10, 0x40],
                    &[0x0F, 0x11, 0x41],
                    &[0x0F, 0x6F, 0x45],
                ][rng.below(7) as usize],
            );
            into.push(rng.next_u64() as u8);
        }
        // CLI STI, PUSHF POPF, LES, MOV r, Sreg.
        12 => into.extend_from_slice(
            [&[0xFA][..], &[0xFB], &[0x9C, 0x9D], &[0xC4, 0x40, 0x10], &[0x8C, 0xD8], &[0x8C, 0x40, 0x20]]
                [rng.below(6) as usize],
        ),
        _ => plain(rng, big, into),
    }
}
