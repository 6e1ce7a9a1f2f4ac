//! Random x87 programs of one to eight instructions, MMX among them: every encoding of D8 to DF with
//! every register and all kinds of memory operands, from random states of the unit whose values lie at
//! the corners of the formats.
//!
//! Nothing is allocated per case: code and state are those of the case before, changed. What the arena
//! holds besides the operands of a case are operands of earlier ones.

use crate::fp::{FpState, Pointers};
use crate::gen_int::Rng;
use crate::operand::{self, Places};
use crate::values::{self, LOW_80};
use crate::{ARENA, ARENA_LEN, State};

/// What a memory operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// m32fp.
    Single,
    /// m64fp.
    Double,
    /// m80fp.
    Extended,
    /// m16int.
    Word,
    /// m32int.
    Short,
    /// m64int.
    Long,
    /// m80bcd.
    Decimal,
    /// FLDCW.
    Control,
    /// FLDENV and FNSTENV, with operands of 32 bits.
    Environment,
    /// With operands of 16 bits.
    Environment16,
    /// FRSTOR and FNSAVE, with operands of 32 bits.
    Save,
    /// With operands of 16 bits.
    Save16,
    /// FXRSTOR and FXSAVE.
    Fx,
    /// An MMX register's.
    Quad,
}

impl Kind {
    fn len(self) -> u32 {
        match self {
            Kind::Word | Kind::Control => 2,
            Kind::Single | Kind::Short => 4,
            Kind::Double | Kind::Long | Kind::Quad => 8,
            Kind::Extended | Kind::Decimal => 10,
            Kind::Environment | Kind::Environment16 => 28,
            Kind::Save | Kind::Save16 => 108,
            Kind::Fx => 512,
        }
    }

    /// Of the memory operand of opcode D8+`row` with `reg` in ModRM.
    fn of(row: u8, reg: u8) -> Self {
        match (row, reg) {
            (0, _) | (1, 0..=3) => Kind::Single,
            (1, 4 | 6) => Kind::Environment,
            (1, 5) => Kind::Control,
            (1, _) | (5, 7) => Kind::Word,
            (2, _) | (3, 0..=3) => Kind::Short,
            (3, _) => Kind::Extended,
            (4, _) | (5, 0 | 2 | 3) => Kind::Double,
            (5, 1) | (7, 5 | 7) => Kind::Long,
            (5, _) => Kind::Save,
            (6, _) | (7, 0..=3) => Kind::Word,
            _ => Kind::Decimal,
        }
    }
}

/// D9 F0 to FF whose value vendors compute with different errors.
fn is_transcendental(modrm: u8) -> bool {
    matches!(modrm, 0xF0..=0xF3 | 0xF9 | 0xFB | 0xFE | 0xFF)
}

/// Instructions of MMX that a program may contain.
const MMX: &[u8] = &[0x6F, 0x7F, 0x6E, 0x7E, 0xEF, 0xFE, 0xF5, 0x61, 0xDB, 0xE7];

/// What programs may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// FXSAVE, whose image differs between vendors.
    pub images: bool,
    /// The code segment is one of 16 bits.
    pub small: bool,
}

impl Mode {
    /// Everything in 32-bit code.
    pub const ALL: Self = Self { images: true, small: false };
    /// Everything in 16-bit code.
    pub const SMALL: Self = Self { images: true, small: true };
}

/// A program in the making.
struct Program<'a> {
    rng: &'a mut Rng,
    code: &'a mut Vec<u8>,
    state: &'a mut State,
    count: u32,
    /// The last instruction has to be the program's last: what follows would depend on what vendors do
    /// differently.
    last: bool,
    /// Memory operands that are read.
    places: &'a mut Places<Kind>,
    mode: Mode,
    /// C1 is up to the vendor (behind FCOMI): nothing may store the status word.
    vague: bool,
}

/// Makes a program and a state to run it from; returns how many instructions it has. All of them are
/// executed unless one faults.
pub fn generate(rng: &mut Rng, code: &mut Vec<u8>, state: &mut State) -> u32 {
    if state.arena.len() != ARENA_LEN as usize || rng.below(4096) == 0 {
        state.arena.resize(ARENA_LEN as usize, 0);
        fill(rng, &mut state.arena);
    }
    program(rng, code, state, &mut Places::default(), Mode::ALL)
}

/// As [`generate`] without looking after the arena, which may be empty. `places` gets the memory
/// operands that are read.
pub fn program(
    rng: &mut Rng,
    code: &mut Vec<u8>,
    state: &mut State,
    places: &mut Places<Kind>,
    mode: Mode,
) -> u32 {
    code.clear();
    places.clear();
    registers(rng, state);
    unit(rng, &mut state.fp);
    let length = if rng.below(2) == 0 { 1 } else { 2 + rng.below(7) };
    let mut p = Program { rng, code, state, count: 0, last: false, vague: false, places, mode };
    while p.count < length && !p.last {
        p.instruction();
    }
    // What the pointers and tags are, which the state afterwards may hide.
    if !p.last && !p.vague && p.rng.below(8) == 0 {
        p.environment();
    }
    p.count
}

/// Other contents for the memory operands of a program.
pub fn refill(rng: &mut Rng, fp: &FpState, places: &Places<Kind>, store: &mut dyn FnMut(u32, &[u8])) {
    let mut bytes = [0; 512];
    for (at, kind) in places.iter() {
        let len = contents(rng, fp, kind, &mut bytes);
        operand::clipped(at, &bytes[..len], store);
    }
}

/// Fills the arena with operands of all kinds.
pub fn fill(rng: &mut Rng, arena: &mut [u8]) {
    const KINDS: [Kind; 7] =
        [Kind::Single, Kind::Double, Kind::Extended, Kind::Word, Kind::Short, Kind::Long, Kind::Decimal];
    let fp = FpState::default();
    let mut bytes = [0; 512];
    let mut rest = arena;
    while !rest.is_empty() {
        let kind = KINDS[rng.below(7) as usize];
        let len = contents(rng, &fp, kind, &mut bytes).min(rest.len());
        let (cells, tail) = rest.split_at_mut(len);
        cells.copy_from_slice(&bytes[..len]);
        rest = tail;
    }
}

/// General registers: pointers into the arena. ESP too.
fn registers(rng: &mut Rng, state: &mut State) {
    for r in &mut state.gpr {
        *r = ARENA + rng.below(ARENA_LEN);
    }
    state.gpr[0] = rng.corner();
    state.eflags = rng.next_u64() as u32 & 0xCD5;
    if rng.below(32) == 0 {
        // Alignment check
        state.eflags |= 1 << 18;
    }
}

/// A control word: every exception masked for half of them.
fn control(rng: &mut Rng) -> u16 {
    let masks = match rng.below(8) {
        0..=3 => 0x3F,
        4 | 5 => 0x3F & !(1 << rng.below(6)),
        6 => rng.next_u64() as u16 & 0x3F,
        _ => 0,
    };
    0x40 | masks | rng.next_u64() as u16 & 0x1F00
}

/// Everything about the unit.
pub fn unit(rng: &mut Rng, fp: &mut FpState) {
    fp.control = control(rng);
    let mut top = rng.below(8);
    fp.valid = match rng.below(8) {
        0 => rng.next_u64() as u8,
        1 => !(1 << rng.below(8)),
        2 => 0xFF,
        3 => 0,
        // A stack that grew to a depth.
        _ => (0xFF00_u16 >> rng.below(9)) as u8,
    };
    if fp.valid != 0 && rng.below(4) != 0 {
        // Mostly with a valid top and an empty register above it.
        while fp.valid >> top & 1 == 0 {
            top = (top + 1) & 7;
        }
        if rng.below(2) == 0 {
            while fp.valid >> ((top + 7) & 7) & 1 != 0 && fp.valid != 0xFF {
                top = (top + 7) & 7;
            }
        }
    }
    let mut status = rng.next_u64() as u16 & 0x477F;
    if rng.below(12) != 0 {
        // Nothing is pending.
        status &= !0x3F | fp.control;
    }
    let pending = status & !fp.control & 0x3F != 0;
    fp.status = status | (top as u16) << 11 | if pending { 0x8080 } else { 0 };
    for st in &mut fp.st {
        *st = values::extended(rng);
    }
    // ST(0) and another one in a delicate relation.
    let (a, b) = values::extended_pair(rng);
    fp.st[0] = a;
    fp.st[1 + rng.below(2) as usize * rng.below(7) as usize] = b;
    fp.pointers = Pointers {
        opcode: rng.next_u64() as u16 & 0x7FF,
        ip: rng.next_u64() as u32,
        cs: rng.next_u64() as u16,
        dp: rng.next_u64() as u32,
        ds: rng.next_u64() as u16,
    };
    fp.mxcsr = 0x1F80;
}

/// An operand's address.
fn address(rng: &mut Rng, kind: Kind) -> u32 {
    let at = operand::place(rng, kind.len());
    match kind {
        Kind::Fx if rng.below(8) != 0 => at & !15,
        _ if rng.below(2) == 0 => at & !7,
        _ => at,
    }
}

/// Makes an operand; returns its length.
fn contents(rng: &mut Rng, fp: &FpState, kind: Kind, bytes: &mut [u8; 512]) -> usize {
    match kind {
        Kind::Single => {
            let near = rng.below(4) == 0;
            let v = if near { values::near_single(fp.st[0]) } else { values::single(rng) };
            bytes[..4].copy_from_slice(&v.to_le_bytes());
        }
        Kind::Double => {
            let near = rng.below(4) == 0;
            let v = if near { values::near_double(fp.st[0]) } else { values::double(rng) };
            bytes[..8].copy_from_slice(&v.to_le_bytes());
        }
        Kind::Extended => bytes[..16].copy_from_slice(&values::extended(rng).to_le_bytes()),
        Kind::Word | Kind::Short | Kind::Long | Kind::Quad => {
            bytes[..8].copy_from_slice(&values::integer(rng).to_le_bytes());
        }
        Kind::Decimal => bytes[..10].copy_from_slice(&values::decimal(rng)),
        Kind::Control => bytes[..2].copy_from_slice(&control(rng).to_le_bytes()),
        Kind::Environment | Kind::Save => image(rng, false, bytes),
        Kind::Environment16 | Kind::Save16 => image(rng, true, bytes),
        Kind::Fx => fx_image(rng, bytes),
    }
    kind.len() as usize
}

/// What FLDENV and FRSTOR load: 14 (`words`) or 28 bytes and registers. Bits that do not exist are set
/// too.
fn image(rng: &mut Rng, words: bool, bytes: &mut [u8; 512]) {
    let size = if words { 2 } else { 4 };
    let tags = match rng.below(3) {
        0 => rng.next_u64() as u16,
        1 => 0xFFFF << (2 * rng.below(8)),
        _ => 0,
    };
    let control = if rng.below(2) == 0 { control(rng) } else { rng.next_u64() as u16 };
    let mut status = rng.next_u64() as u16;
    if rng.below(2) == 0 {
        status &= !0x3F | control;
    }
    for n in 0..7 {
        let v = match n {
            0 => u32::from(control) | 0xFFFF_0000,
            1 => u32::from(status) | 0xFFFF_0000,
            2 => u32::from(tags) | 0xFFFF_0000,
            _ => rng.next_u64() as u32,
        };
        bytes[n * size..][..size].copy_from_slice(&v.to_le_bytes()[..size]);
    }
    for n in 0..8 {
        let v = values::extended(rng).to_le_bytes();
        bytes[7 * size + 10 * n..][..10].copy_from_slice(&v[..10]);
    }
}

/// What FXRSTOR loads.
pub(crate) fn fx_image(rng: &mut Rng, bytes: &mut [u8; 512]) {
    image(rng, false, bytes);
    let (control, status) = (control(rng), rng.next_u64() as u16);
    bytes[0..2].copy_from_slice(&control.to_le_bytes());
    bytes[2..4].copy_from_slice(&status.to_le_bytes());
    bytes[4] = rng.next_u64() as u8;
    bytes[24..28].copy_from_slice(&values::mxcsr(rng).to_le_bytes());
    for n in 0..8 {
        bytes[32 + 16 * n..][..16].copy_from_slice(&(values::extended(rng) & LOW_80).to_le_bytes());
        let v = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
        bytes[160 + 16 * n..][..16].copy_from_slice(&v.to_le_bytes());
    }
}

impl Program<'_> {
    /// Appends one instruction, with its memory operand.
    fn instruction(&mut self) {
        match self.rng.below(64) {
            // FWAIT
            0 | 1 => self.plain(&[0x9B]),
            // EMMS
            2 => self.plain(&[0x0F, 0x77]),
            3..=6 => self.mmx(),
            7 => {
                // FXSAVE must be last: which pointers it stores is up to the vendor.
                let load = if self.vague || !self.mode.images { 1 } else { self.rng.below(2) as u8 };
                self.last = load == 0;
                self.memory(&[0x0F, 0xAE], load, Kind::Fx, true);
            }
            8..=15 => {
                // D9 E0 to FF: the operations without operand.
                let modrm = 0xE0 | self.rng.below(32) as u8;
                self.last = is_transcendental(modrm);
                self.plain(&[0xD9, modrm]);
            }
            16 if !self.vague => self.environment(),
            16..=38 => {
                let (row, modrm) = (self.rng.below(8) as u8, 0xC0 | self.rng.below(64) as u8);
                if self.vague && (row, modrm) == (7, 0xE0) {
                    return;
                }
                self.vague |= matches!(row, 3 | 7) && matches!(modrm, 0xE8..=0xF7);
                self.last = row == 1 && is_transcendental(modrm);
                self.plain(&[0xD8 + row, modrm]);
            }
            _ => {
                let (row, reg) = (self.rng.below(8) as u8, self.rng.below(8) as u8);
                if self.vague && matches!((row, reg), (1, 6) | (5, 6 | 7)) {
                    return;
                }
                let kind = Kind::of(row, reg);
                let images = matches!(kind, Kind::Environment | Kind::Save);
                let words = self.rng.below(if images { 2 } else { 24 }) == 0;
                if words {
                    self.code.push(0x66);
                }
                let words = words != self.mode.small;
                let kind = match kind {
                    Kind::Environment if words => Kind::Environment16,
                    Kind::Save if words => Kind::Save16,
                    _ => kind,
                };
                let stores = matches!((row, reg), (1 | 3 | 5 | 7, 1..=3) | (1 | 5 | 7, 6) | (1 | 3 | 5, 7));
                self.memory(&[0xD8 + row], reg, kind, !stores);
            }
        }
    }

    /// FNSTENV or FNSAVE.
    fn environment(&mut self) {
        let row = if self.rng.below(4) == 0 { 5 } else { 1 };
        self.memory(&[0xD8 + row], 6, Kind::of(row, 6), false);
    }

    /// An instruction without memory operand, sometimes behind a prefix that changes nothing.
    fn plain(&mut self, bytes: &[u8]) {
        match self.rng.below(128) {
            0 => self.code.push(0x66),
            1 => self.code.push(0x67),
            2 => self.code.push(0xF2),
            3 => self.code.push(0xF3),
            4 => self.code.push(0xF0),
            5 => self.code.push(0x3E),
            _ => {}
        }
        self.code.extend_from_slice(bytes);
        self.count += 1;
    }

    fn mmx(&mut self) {
        let op = MMX[self.rng.below(MMX.len() as u32) as usize];
        let reg = self.rng.below(8) as u8;
        // MOVD to a general register would change a pointer: only EAX.
        if self.rng.below(2) == 0 && op != 0xE7 {
            let rm = if op == 0x7E { 0 } else { self.rng.below(8) as u8 };
            self.plain(&[0x0F, op, 0xC0 | reg << 3 | rm]);
        } else {
            self.memory(&[0x0F, op], reg, Kind::Quad, !matches!(op, 0x7F | 0x7E | 0xE7));
        }
    }

    /// An instruction with a memory operand, which is filled if it is read.
    fn memory(&mut self, opcode: &[u8], reg: u8, kind: Kind, loads: bool) {
        let at = address(self.rng, kind);
        if loads && (kind == Kind::Fx || self.rng.below(8) != 0) {
            let mut bytes = [0; 512];
            let len = contents(self.rng, &self.state.fp, kind, &mut bytes);
            operand::put(self.state, at, &bytes[..len]);
            self.places.push(at, kind);
        }
        if self.rng.below(32) == 0 {
            self.code.push([0x26, 0x2E, 0x36, 0x3E, 0xF3, 0xF2, 0xF0, 0x3E][self.rng.below(8) as usize]);
        }
        if self.mode.small {
            // Addresses of 32 bits all the same.
            self.code.push(0x67);
        }
        self.code.extend_from_slice(opcode);
        // EAX may have been changed by FNSTSW or MOVD.
        operand::encode(self.rng, self.code, reg, at, self.state, 1, self.count > 0);
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Code, Decoder, DecoderOptions};

    #[test]
    fn programs_contain_every_x87_encoding() {
        let mut rng = Rng::new(1);
        let (mut code, mut state) = (Vec::new(), State::default());
        let mut seen = std::collections::HashSet::new();
        let mut counts = [0u32; 10];
        for _ in 0..200_000 {
            let count = generate(&mut rng, &mut code, &mut state);
            counts[count as usize] += 1;
            assert!(code.len() <= 120, "{code:02x?}");
            for ins in Decoder::new(32, &code, DecoderOptions::NONE) {
                seen.insert((ins.code(), ins.op0_register(), ins.op1_register()));
            }
        }
        assert!(counts[1] > 0 && counts[8] > 0, "{counts:?}");
        for op in 0xD8..=0xDFu8 {
            for modrm in 0..=0xFFu8 {
                for prefix in [0x90, 0x66] {
                    let bytes = [prefix, op, modrm, 0, 0, 0, 0, 0, 0];
                    let start = usize::from(prefix == 0x90);
                    let ins = Decoder::new(32, &bytes[start..], DecoderOptions::NONE).decode();
                    if ins.code() != Code::INVALID {
                        let key = (ins.code(), ins.op0_register(), ins.op1_register());
                        assert!(seen.contains(&key), "{key:?}");
                    }
                }
            }
        }
        for code in [Code::Fxsave_m512byte, Code::Fxrstor_m512byte, Code::Wait, Code::Emms] {
            assert!(seen.iter().any(|s| s.0 == code), "{code:?}");
        }
    }
}
