//! Inputs that are a program and the state it starts in, and seeds of that kind.
//!
//! Format: mode, CR0 and CR4 bits, EFLAGS, eight registers, debug registers, changes of tables and
//! memory, external interrupts, one byte of choices for the target, and the rest is code.

use conformance_tests::gen_int::{self, Rng};
use conformance_tests::gen_simd;

use crate::input::{Input, Seed};
use crate::pc::{CODE, DATA};

/// How the CPU runs at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real mode.
    Real,
    /// Virtual-8086 mode.
    Vm86,
    /// Protected mode, 16-bit segments, ring 0.
    Protected16,
    /// Protected mode, 32-bit segments, ring 0.
    Kernel,
    /// The same in ring 3.
    User,
}

/// How linear addresses become physical ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// Not at all.
    Off,
    /// Two levels.
    TwoLevels,
    /// Two levels, 4 MiB pages.
    Large,
    /// Three levels.
    Pae,
}

/// A change of what lies in memory at first.
#[derive(Clone, Copy, Debug)]
pub enum Patch<'a> {
    /// Descriptor `.0` of the GDT.
    Gdt(u8, [u8; 8]),
    /// Descriptor `.0` of the IDT; of the interrupt table in real mode, twice as many.
    Idt(u8, [u8; 8]),
    /// Descriptor `.0` of the LDT.
    Ldt(u8, [u8; 8]),
    /// Dword `.0` of the TSS.
    Tss(u8, u32),
    /// Page-table entry `.0`.
    Page(u16, u64),
    /// Code of the handler of a vector.
    Handler(u8, &'a [u8]),
    /// Bytes in the data area.
    Data(u16, &'a [u8]),
}

/// A program and its surroundings.
#[derive(Debug)]
pub struct Case<'a> {
    /// Mode at first.
    pub mode: Mode,
    /// Paging at first.
    pub paging: Paging,
    /// Bits for CR0, see [`crate::pc`].
    pub cr0: u8,
    /// Bits 10:0 of CR4.
    pub cr4: u16,
    /// EFLAGS but for VM.
    pub eflags: u32,
    /// EAX to EDI.
    pub gpr: [u32; 8],
    /// DR0's offset in the code, and DR7; 0 = off.
    pub breakpoint: (u16, u32),
    /// Changes of memory.
    pub patches: Vec<Patch<'a>>,
    /// External interrupts that are pending at first.
    pub interrupts: &'a [u8],
    /// For the target.
    pub choice: u8,
    /// The program.
    pub code: &'a [u8],
}

/// Longest program, bytes: it must not reach the next area.
const MAX_CODE: usize = 0x1000;

fn register(input: &mut Input<'_>) -> u32 {
    let kind = input.u8();
    let small = u32::from(kind >> 2);
    match kind & 3 {
        0 => small,
        1 => DATA + small * 64,
        2 => CODE + small * 4,
        _ => input.u32(),
    }
}

fn patch<'a>(input: &mut Input<'a>) -> Patch<'a> {
    let what = input.u8();
    match what & 7 {
        0 => Patch::Gdt(input.u8(), input.u64().to_le_bytes()),
        1 => Patch::Idt(input.u8(), input.u64().to_le_bytes()),
        2 => Patch::Ldt(input.u8(), input.u64().to_le_bytes()),
        3 => Patch::Tss(input.u8(), input.u32()),
        4 | 5 => Patch::Page(input.u16(), input.u64()),
        6 => Patch::Handler(input.u8(), input.bytes(usize::from(what >> 4))),
        _ => Patch::Data(input.u16(), input.bytes(usize::from(what >> 3))),
    }
}

impl<'a> Case<'a> {
    /// Reads an input.
    pub fn read(data: &'a [u8]) -> Self {
        let input = &mut Input::new(data);
        let kind = input.u8();
        let mode =
            [Mode::Real, Mode::Vm86, Mode::Protected16, Mode::Kernel, Mode::User][usize::from(kind & 7) % 5];
        let paging = match mode {
            Mode::Real => Paging::Off,
            _ => [Paging::Off, Paging::TwoLevels, Paging::Large, Paging::Pae][usize::from(kind >> 3 & 3)],
        };
        let (cr0, cr4, eflags) = (input.u8(), input.u16(), input.u32());
        let gpr = std::array::from_fn(|_| register(input));
        let breakpoint = match input.u8() {
            0 => (0, 0),
            bits => (input.u16(), u32::from(bits) << 16 | 0x402),
        };
        let patches = (0..input.u8() & 31).map(|_| patch(input)).collect();
        let count = input.u8() & 7;
        let interrupts = input.bytes(count.into());
        let choice = input.u8();
        let code = input.rest();
        let code = &code[..code.len().min(MAX_CODE)];
        Self { mode, paging, cr0, cr4, eflags, gpr, breakpoint, patches, interrupts, choice, code }
    }
}

/// Beginning of a seed without patches.
fn begin(kind: u8, gpr: &[u32; 8], eflags: u32, choice: u8) -> Seed {
    let seed = Seed::new().u8(kind).u8(0x31).u16(0x600).u32(eflags);
    let seed = gpr.iter().fold(seed, |seed, v| seed.u8(3).u32(*v));
    seed.u8(0).u8(0).u8(0).u8(choice)
}

/// Registers that point to data.
fn pointers(rng: &mut Rng) -> [u32; 8] {
    std::array::from_fn(|n| match n {
        4 => 0xE000,
        1 => rng.below(20),
        _ if rng.below(3) == 0 => rng.next_u64() as u32,
        _ => DATA + rng.below(0x1000),
    })
}

/// System instructions: far transfers, tables, control registers, ports, interrupts.
const SYSTEM: &[&[u8]] = &[
    &[0xCD, 0x20],
    &[0xCF],
    &[0x9C, 0x9D],
    &[0xFA, 0xFB, 0x90],
    &[0xF4],
    &[0x0F, 0x20, 0xC0, 0x0F, 0x22, 0xC0],
    &[0x0F, 0x20, 0xD8, 0x0F, 0x22, 0xD8],
    &[0x0F, 0x20, 0xE0, 0x0F, 0x22, 0xE0],
    &[0x0F, 0x23, 0xF8, 0x0F, 0x21, 0xF0],
    &[0xEA, 0, 0, 1, 0, 8, 0],
    &[0x9A, 0, 0, 1, 0, 8, 0],
    &[0xCB],
    &[0x8E, 0xD8, 0x1E, 0x1F],
    &[0x16, 0x17],
    &[0x0F, 0xA0, 0x0F, 0xA1],
    &[0x0F, 0xB2, 0x26],
    &[0xC5, 0x06],
    &[0x0F, 0x00, 0xD8],
    &[0x0F, 0x00, 0xD0],
    &[0x0F, 0x00, 0xE0],
    &[0x0F, 0x01, 0x16],
    &[0x0F, 0x01, 0x1E],
    &[0x0F, 0x01, 0x38],
    &[0x0F, 0x02, 0xC3],
    &[0x63, 0xC8],
    &[0x0F, 0xA2],
    &[0x0F, 0x30],
    &[0x0F, 0x32],
    &[0x0F, 0x31],
    &[0x0F, 0x34],
    &[0x0F, 0x35],
    &[0x0F, 0x06, 0x0F, 0x08, 0x0F, 0x09],
    &[0x6C, 0x6F],
    &[0xF3, 0x6C],
    &[0xF3, 0x6F],
    &[0xE4, 0x60, 0xE6, 0x60, 0xEC, 0xEF],
    &[0xC8, 8, 0, 3, 0xC9],
    &[0x62, 0x06],
    &[0xDD, 0x06, 0xD9, 0xFE, 0xDD, 0x1E],
    &[0x0F, 0xAE, 0x06, 0x0F, 0xAE, 0x0E],
    &[0xDD, 0x36, 0xDD, 0x26],
    &[0x9B, 0xDB, 0xE3],
    &[0xF0, 0x0F, 0xC7, 0x0E],
    &[0x89, 0x05, 0, 0, 1, 0],
    &[0xEB, 0xFE],
    &[0xE2, 0xFC],
];

/// Seeds of all modes: integer and vector code of the conformance tests, system instructions.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(1);
    let rows = gen_simd::rows();
    let mut seeds = Vec::new();
    for kind in 0..5u8 {
        for paging in 0..4u8 {
            let choice = kind * 4 + paging;
            let start = |rng: &mut Rng| begin(kind | paging << 3, &pointers(rng), 0x3202, choice);
            let mut integer = start(&mut rng);
            for _ in 0..4 {
                integer = integer.bytes(&gen_int::sequence(&mut rng).code);
            }
            seeds.push(integer.bytes(&[0xEB, 0xFE]).0);
            let mut vector = start(&mut rng);
            for _ in 0..12 {
                let row = &rows[rng.below(rows.len() as u32) as usize];
                vector = vector.bytes(&gen_simd::encode(&mut rng, row));
            }
            seeds.push(vector.bytes(&[0xCD, 0x30]).0);
            let mut system = start(&mut rng);
            for _ in 0..6 {
                system = system.bytes(SYSTEM[rng.below(SYSTEM.len() as u32) as usize]);
            }
            seeds.push(system.0);
        }
    }
    seeds.extend(SYSTEM.iter().enumerate().map(|(n, code)| {
        let patched = Seed::new().u8(n as u8 % 40).u8(0x31).u16(0x600).u32(0x3202).bytes(&[1; 8]).u8(0);
        // One of each patch, and an interrupt.
        let patched = patched
            .u8(7)
            .bytes(&[0, 15, 0xFF, 0xFF, 0, 0, 1, 0x9A, 0xCF, 0])
            .bytes(&[1, 0x20, 0, 0x50, 8, 0, 0, 0xEE, 0, 0])
            .bytes(&[2, 1, 0xFF, 0xFF, 0, 0, 1, 0xF2, 0xCF, 0])
            .bytes(&[3, 7, 0, 0, 0x10, 0])
            .bytes(&[4, 0x20, 0, 5, 0, 2, 0, 0, 0, 0, 0])
            .bytes(&[0x26, 0x20, 0x90, 0xCF])
            .bytes(&[0x27, 0, 0, 1, 2, 3, 4]);
        patched.u8(1).u8(0x20).u8(n as u8).bytes(code).bytes(code).0
    }));
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_read_with_their_code() {
        for seed in seeds() {
            let case = Case::read(&seed);
            assert!(!case.code.is_empty(), "{case:?}");
        }
    }
}
