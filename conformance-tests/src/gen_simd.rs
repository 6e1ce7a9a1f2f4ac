//! Random MMX, SSE, SSE2 and SSE3 instructions: encodings, registers and memory chosen to hit corners.

use std::sync::OnceLock;

use crate::fp::{FpState, Pointers};
use crate::gen_int::Rng;
use crate::gen_x87::fx_image;
use crate::operand::{self, Places, Unknown};
use crate::values;
use crate::{ARENA, ARENA_LEN, State};

/// Instruction sets a row belongs to, by the registers it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Packed integers in MMX registers.
    Mmx,
    /// Packed integers in XMM registers.
    XmmInteger,
    /// Moves.
    Move,
    /// Unpack, shuffle, insert, extract.
    Shuffle,
    /// Floating-point arithmetic.
    Arithmetic,
    /// Floating-point comparison.
    Compare,
    /// RCPPS, RSQRTPS and their scalar forms.
    Approximate,
    /// Conversions.
    Convert,
    /// LDMXCSR, STMXCSR, EMMS, MASKMOVQ …
    Control,
}

/// What ModRM may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Register or memory.
    Any,
    /// Memory only.
    Memory,
    /// Registers only.
    Register,
    /// No ModRM.
    None,
}

/// What registers and memory mostly hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Integers.
    Integer,
    /// f32 values.
    Single,
    /// f64 values.
    Double,
}

/// One opcode.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name in reports.
    pub name: &'static str,
    /// Family.
    pub family: Family,
    /// Mandatory prefix and opcode bytes.
    pub opcode: Vec<u8>,
    /// Form of the operands.
    pub place: Place,
    /// Fixed reg field of ModRM.
    pub extension: Option<u8>,
    /// An 8-bit immediate follows.
    pub imm: bool,
    /// Typical operands.
    pub fill: Fill,
}

const NP: &[u8] = &[0x0F];
const P66: &[u8] = &[0x66, 0x0F];
const PF3: &[u8] = &[0xF3, 0x0F];
const PF2: &[u8] = &[0xF2, 0x0F];

/// Packed integers that exist for MMX (no prefix) and XMM (66h) registers.
const INTEGER: &[(u8, &str)] = &[
    (0xFC, "paddb"),
    (0xFD, "paddw"),
    (0xFE, "paddd"),
    (0xD4, "paddq"),
    (0xEC, "paddsb"),
    (0xED, "paddsw"),
    (0xDC, "paddusb"),
    (0xDD, "paddusw"),
    (0xF8, "psubb"),
    (0xF9, "psubw"),
    (0xFA, "psubd"),
    (0xFB, "psubq"),
    (0xE8, "psubsb"),
    (0xE9, "psubsw"),
    (0xD8, "psubusb"),
    (0xD9, "psubusw"),
    (0xD5, "pmullw"),
    (0xE5, "pmulhw"),
    (0xE4, "pmulhuw"),
    (0xF4, "pmuludq"),
    (0xF5, "pmaddwd"),
    (0xF6, "psadbw"),
    (0xE0, "pavgb"),
    (0xE3, "pavgw"),
    (0xDA, "pminub"),
    (0xDE, "pmaxub"),
    (0xEA, "pminsw"),
    (0xEE, "pmaxsw"),
    (0x74, "pcmpeqb"),
    (0x75, "pcmpeqw"),
    (0x76, "pcmpeqd"),
    (0x64, "pcmpgtb"),
    (0x65, "pcmpgtw"),
    (0x66, "pcmpgtd"),
    (0xDB, "pand"),
    (0xDF, "pandn"),
    (0xEB, "por"),
    (0xEF, "pxor"),
    (0x63, "packsswb"),
    (0x67, "packuswb"),
    (0x6B, "packssdw"),
    (0xF1, "psllw"),
    (0xF2, "pslld"),
    (0xF3, "psllq"),
    (0xD1, "psrlw"),
    (0xD2, "psrld"),
    (0xD3, "psrlq"),
    (0xE1, "psraw"),
    (0xE2, "psrad"),
];

/// Shifts by an immediate: opcode, reg field.
const SHIFTS: &[(u8, u8, &str)] = &[
    (0x71, 2, "psrlw"),
    (0x71, 4, "psraw"),
    (0x71, 6, "psllw"),
    (0x72, 2, "psrld"),
    (0x72, 4, "psrad"),
    (0x72, 6, "pslld"),
    (0x73, 2, "psrlq"),
    (0x73, 6, "psllq"),
];

/// Unpacking for both register kinds.
const UNPACK: &[(u8, &str)] = &[
    (0x60, "punpcklbw"),
    (0x61, "punpcklwd"),
    (0x62, "punpckldq"),
    (0x68, "punpckhbw"),
    (0x69, "punpckhwd"),
    (0x6A, "punpckhdq"),
];

/// Arithmetic in its four forms: PS, PD, SS, SD.
const FLOAT: &[(u8, &str)] = &[
    (0x58, "add"),
    (0x5C, "sub"),
    (0x59, "mul"),
    (0x5E, "div"),
    (0x5D, "min"),
    (0x5F, "max"),
    (0x51, "sqrt"),
];

struct Table(Vec<Row>);

impl Table {
    fn add(
        &mut self,
        family: Family,
        fill: Fill,
        name: &'static str,
        prefix: &[u8],
        op: u8,
        place: Place,
    ) -> &mut Row {
        let opcode = [prefix, &[op]].concat();
        self.0.push(Row { name, family, opcode, place, extension: None, imm: false, fill });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }
}

/// All opcodes.
pub fn rows() -> Vec<Row> {
    let mut table = Table(Vec::new());
    integer_rows(&mut table);
    move_rows(&mut table);
    shuffle_rows(&mut table);
    float_rows(&mut table);
    convert_rows(&mut table);
    control_rows(&mut table);
    table.0
}

fn integer_rows(t: &mut Table) {
    use Fill::Integer;
    for &(op, name) in INTEGER {
        t.add(Family::Mmx, Integer, name, NP, op, Place::Any);
        t.add(Family::XmmInteger, Integer, name, P66, op, Place::Any);
    }
    for &(op, reg, name) in SHIFTS {
        for (family, prefix) in [(Family::Mmx, NP), (Family::XmmInteger, P66)] {
            let row = t.add(family, Integer, name, prefix, op, Place::Register);
            row.extension = Some(reg);
            row.imm = true;
        }
    }
    for (reg, name) in [(3, "psrldq"), (7, "pslldq")] {
        let row = t.add(Family::XmmInteger, Integer, name, P66, 0x73, Place::Register);
        row.extension = Some(reg);
        row.imm = true;
    }
    for (op, name) in [(0x54, "andp"), (0x55, "andnp"), (0x56, "orp"), (0x57, "xorp")] {
        t.add(Family::XmmInteger, Integer, name, NP, op, Place::Any);
        t.add(Family::XmmInteger, Integer, name, P66, op, Place::Any);
    }
}

fn move_rows(t: &mut Table) {
    use Fill::Integer;
    let mut any = |name, prefix, op| {
        t.add(Family::Move, Integer, name, prefix, op, Place::Any);
    };
    any("movups", NP, 0x10);
    any("movups", NP, 0x11);
    any("movupd", P66, 0x10);
    any("movupd", P66, 0x11);
    any("movss", PF3, 0x10);
    any("movss", PF3, 0x11);
    any("movsd", PF2, 0x10);
    any("movsd", PF2, 0x11);
    any("movlps/movhlps", NP, 0x12);
    any("movhps/movlhps", NP, 0x16);
    any("movaps", NP, 0x28);
    any("movaps", NP, 0x29);
    any("movapd", P66, 0x28);
    any("movapd", P66, 0x29);
    any("movd", NP, 0x6E);
    any("movd", P66, 0x6E);
    any("movd", NP, 0x7E);
    any("movd", P66, 0x7E);
    any("movq", NP, 0x6F);
    any("movq", NP, 0x7F);
    any("movq", PF3, 0x7E);
    any("movq", P66, 0xD6);
    any("movdqa", P66, 0x6F);
    any("movdqa", P66, 0x7F);
    any("movdqu", PF3, 0x6F);
    any("movdqu", PF3, 0x7F);
    any("movsldup", PF3, 0x12);
    any("movshdup", PF3, 0x16);
    any("movddup", PF2, 0x12);
    let mut memory = |name, prefix, op| {
        t.add(Family::Move, Integer, name, prefix, op, Place::Memory);
    };
    memory("movlpd", P66, 0x12);
    memory("movlps", NP, 0x13);
    memory("movlpd", P66, 0x13);
    memory("movhpd", P66, 0x16);
    memory("movhps", NP, 0x17);
    memory("movhpd", P66, 0x17);
    memory("movntps", NP, 0x2B);
    memory("movntpd", P66, 0x2B);
    memory("movntq", NP, 0xE7);
    memory("movntdq", P66, 0xE7);
    memory("movnti", NP, 0xC3);
    memory("lddqu", PF2, 0xF0);
    let mut register = |name, prefix, op| {
        t.add(Family::Move, Integer, name, prefix, op, Place::Register);
    };
    register("movq2dq", PF3, 0xD6);
    register("movdq2q", PF2, 0xD6);
    register("movmskps", NP, 0x50);
    register("movmskpd", P66, 0x50);
    register("pmovmskb", NP, 0xD7);
    register("pmovmskb", P66, 0xD7);
}

fn shuffle_rows(t: &mut Table) {
    use Fill::Integer;
    for &(op, name) in UNPACK {
        t.add(Family::Shuffle, Integer, name, NP, op, Place::Any);
        t.add(Family::Shuffle, Integer, name, P66, op, Place::Any);
    }
    for (name, prefix, op) in [
        ("punpcklqdq", P66, 0x6C),
        ("punpckhqdq", P66, 0x6D),
        ("unpcklps", NP, 0x14),
        ("unpcklpd", P66, 0x14),
        ("unpckhps", NP, 0x15),
        ("unpckhpd", P66, 0x15),
    ] {
        t.add(Family::Shuffle, Integer, name, prefix, op, Place::Any);
    }
    for (name, prefix, op, place) in [
        ("pshufw", NP, 0x70, Place::Any),
        ("pshufd", P66, 0x70, Place::Any),
        ("pshufhw", PF3, 0x70, Place::Any),
        ("pshuflw", PF2, 0x70, Place::Any),
        ("shufps", NP, 0xC6, Place::Any),
        ("shufpd", P66, 0xC6, Place::Any),
        ("pinsrw", NP, 0xC4, Place::Any),
        ("pinsrw", P66, 0xC4, Place::Any),
        ("pextrw", NP, 0xC5, Place::Register),
        ("pextrw", P66, 0xC5, Place::Register),
    ] {
        t.add(Family::Shuffle, Integer, name, prefix, op, place).imm = true;
    }
}

fn float_rows(t: &mut Table) {
    use Fill::{Double, Single};
    let forms = [(NP, Single), (P66, Double), (PF3, Single), (PF2, Double)];
    for &(op, name) in FLOAT {
        for (prefix, fill) in forms {
            t.add(Family::Arithmetic, fill, name, prefix, op, Place::Any);
        }
    }
    for (op, name) in [(0x7C, "hadd"), (0x7D, "hsub"), (0xD0, "addsub")] {
        t.add(Family::Arithmetic, Double, name, P66, op, Place::Any);
        t.add(Family::Arithmetic, Single, name, PF2, op, Place::Any);
    }
    for (prefix, fill) in forms {
        t.add(Family::Compare, fill, "cmp", prefix, 0xC2, Place::Any).imm = true;
    }
    for (op, name) in [(0x2E, "ucomis"), (0x2F, "comis")] {
        t.add(Family::Compare, Single, name, NP, op, Place::Any);
        t.add(Family::Compare, Double, name, P66, op, Place::Any);
    }
    for (op, name) in [(0x52, "rsqrt"), (0x53, "rcp")] {
        t.add(Family::Approximate, Single, name, NP, op, Place::Any);
        t.add(Family::Approximate, Single, name, PF3, op, Place::Any);
    }
}

fn convert_rows(t: &mut Table) {
    use Fill::{Double, Integer, Single};
    for (name, prefix, op, fill) in [
        ("cvtpi2ps", NP, 0x2A, Integer),
        ("cvtpi2pd", P66, 0x2A, Integer),
        ("cvtsi2ss", PF3, 0x2A, Integer),
        ("cvtsi2sd", PF2, 0x2A, Integer),
        ("cvttps2pi", NP, 0x2C, Single),
        ("cvttpd2pi", P66, 0x2C, Double),
        ("cvttss2si", PF3, 0x2C, Single),
        ("cvttsd2si", PF2, 0x2C, Double),
        ("cvtps2pi", NP, 0x2D, Single),
        ("cvtpd2pi", P66, 0x2D, Double),
        ("cvtss2si", PF3, 0x2D, Single),
        ("cvtsd2si", PF2, 0x2D, Double),
        ("cvtps2pd", NP, 0x5A, Single),
        ("cvtpd2ps", P66, 0x5A, Double),
        ("cvtss2sd", PF3, 0x5A, Single),
        ("cvtsd2ss", PF2, 0x5A, Double),
        ("cvtdq2ps", NP, 0x5B, Integer),
        ("cvtps2dq", P66, 0x5B, Single),
        ("cvttps2dq", PF3, 0x5B, Single),
        ("cvttpd2dq", P66, 0xE6, Double),
        ("cvtdq2pd", PF3, 0xE6, Integer),
        ("cvtpd2dq", PF2, 0xE6, Double),
    ] {
        t.add(Family::Convert, fill, name, prefix, op, Place::Any);
    }
}

fn control_rows(t: &mut Table) {
    use Fill::Integer;
    t.add(Family::Control, Integer, "ldmxcsr", NP, 0xAE, Place::Memory).extension = Some(2);
    t.add(Family::Control, Integer, "stmxcsr", NP, 0xAE, Place::Memory).extension = Some(3);
    t.add(Family::Control, Integer, "emms", NP, 0x77, Place::None);
    t.add(Family::Control, Integer, "maskmovq", NP, 0xF7, Place::Register);
    t.add(Family::Control, Integer, "maskmovdqu", P66, 0xF7, Place::Register);
    t.add(Family::Control, Integer, "fxsave", NP, 0xAE, Place::Memory).extension = Some(0);
    t.add(Family::Control, Integer, "fxrstor", NP, 0xAE, Place::Memory).extension = Some(1);
    for (name, reg) in [("lfence", 5), ("mfence", 6), ("sfence", 7)] {
        t.add(Family::Control, Integer, name, NP, 0xAE, Place::Register).extension = Some(reg);
    }
    for (name, reg) in [("prefetchnta", 0), ("prefetcht0", 1), ("prefetcht1", 2), ("prefetcht2", 3)] {
        t.add(Family::Control, Integer, name, NP, 0x18, Place::Memory).extension = Some(reg);
    }
    t.add(Family::Control, Integer, "pause", &[0xF3], 0x90, Place::None);
}

/// A program in the making.
pub struct Program<'a> {
    /// Randomness.
    pub rng: &'a mut Rng,
    /// Bytes so far.
    pub code: &'a mut Vec<u8>,
    /// The state it starts from.
    pub state: &'a mut State,
    /// General registers that it has written.
    pub unknown: Unknown,
    /// Instructions so far.
    pub count: u32,
    /// Memory operands that are read.
    pub places: &'a mut Places<Contents>,
}

/// The table, made once.
fn table() -> &'static [Row] {
    static TABLE: OnceLock<Vec<Row>> = OnceLock::new();
    TABLE.get_or_init(rows)
}

/// Makes a program of one to eight instructions and a state to run it from; returns how many it has.
/// Nothing is allocated per case: code and state are those of the case before, changed.
pub fn generate(rng: &mut Rng, code: &mut Vec<u8>, state: &mut State) -> u32 {
    program(rng, code, state, &mut Places::default(), true).0
}

/// As [`generate`], with the number of the row that the state is made for. `places` gets the memory
/// operands; without `images` there is no FXSAVE.
pub fn program(
    rng: &mut Rng,
    code: &mut Vec<u8>,
    state: &mut State,
    places: &mut Places<Contents>,
    images: bool,
) -> (u32, usize) {
    let rows = table();
    let number = rng.below(rows.len() as u32) as usize;
    let first = &rows[number];
    code.clear();
    places.clear();
    start(rng, first, state);
    let length = if rng.below(2) == 0 { 1 } else { 2 + rng.below(7) };
    let mut p = Program { rng, code, state, unknown: 0, count: 0, places };
    let mut last = first;
    loop {
        if images || last.name != "fxsave" {
            p.append(last);
        }
        if p.count >= length || last.ends_program() && p.count > 0 {
            return (p.count, number);
        }
        // Often of the same kind, so that results are used again.
        last = &rows[p.rng.below(rows.len() as u32) as usize];
        while last.fill != first.fill && p.rng.below(2) == 0 {
            last = &rows[p.rng.below(rows.len() as u32) as usize];
        }
    }
}

/// Other contents for the memory operands of a program.
pub fn refill(rng: &mut Rng, places: &Places<Contents>, store: &mut dyn FnMut(u32, &[u8])) {
    for (at, kind) in places.iter() {
        let mut bytes = [0; 512];
        let len = contents(rng, kind, &mut bytes);
        operand::clipped(at, &bytes[..len], store);
    }
}

/// Other floating-point registers for a program made for row `number`.
pub fn registers(rng: &mut Rng, number: usize, fp: &mut FpState) {
    if let Some(row) = table().get(number) {
        fp_state(rng, row, fp);
    }
}

/// What a memory operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Up to 16 bytes of data.
    Vector(Fill),
    /// LDMXCSR.
    Mxcsr,
    /// FXRSTOR.
    Image,
}

/// Makes an operand; returns its length.
fn contents(rng: &mut Rng, kind: Contents, bytes: &mut [u8; 512]) -> usize {
    let value = match kind {
        Contents::Vector(fill) => vector(rng, fill),
        Contents::Mxcsr => u128::from(values::mxcsr(rng)),
        Contents::Image => {
            fx_image(rng, bytes);
            return bytes.len();
        }
    };
    bytes[..16].copy_from_slice(&value.to_le_bytes());
    16
}

impl Row {
    /// Its results differ between vendors, or are images that do: nothing may follow that uses them.
    fn ends_program(&self) -> bool {
        self.family == Family::Approximate || self.name == "fxsave"
    }

    /// A general register is its destination.
    fn writes_register(&self) -> bool {
        let to_general = matches!(self.opcode.last(), Some(0x2C | 0x2D))
            && matches!(self.opcode.first(), Some(0xF2 | 0xF3));
        to_general || matches!(self.name, "movmskps" | "movmskpd" | "pmovmskb" | "pextrw")
    }
}

impl Program<'_> {
    /// Appends `row` with random prefixes, operands and immediate. A memory operand is filled.
    pub fn append(&mut self, row: &Row) {
        let rng = &mut *self.rng;
        match rng.below(64) {
            n @ 0..=3 => self.code.push([0x26, 0x2E, 0x36, 0x3E][n as usize]),
            // LOCK is undefined with all of them.
            4 if rng.below(8) == 0 => self.code.push(0xF0),
            _ => {}
        }
        // F2 and F3 win over 66.
        if matches!(row.opcode[0], 0xF2 | 0xF3) && rng.below(16) == 0 {
            self.code.push(0x66);
        }
        self.code.extend_from_slice(&row.opcode);
        let reg = row.extension.unwrap_or(rng.below(8) as u8);
        let memory = match row.place {
            Place::Any => rng.below(2) == 0,
            Place::Memory => true,
            Place::Register | Place::None => false,
        };
        if memory {
            let at = self.place(row);
            operand::encode(self.rng, self.code, reg, at, self.state, self.unknown, self.count > 0);
        } else if row.place != Place::None {
            let rm = rng.below(8) as u8;
            // MOVD's destination is r/m.
            if row.name == "movd" && row.opcode.last() == Some(&0x7E) {
                self.unknown |= 1 << rm;
            }
            self.code.push(0xC0 | reg << 3 | rm);
        }
        if row.writes_register() {
            self.unknown |= 1 << reg;
        }
        if row.imm {
            self.code.push(match self.rng.below(3) {
                0 => self.rng.next_u64() as u8,
                _ => self.rng.below(70) as u8,
            });
        }
        self.count += 1;
    }

    /// Chooses and fills the place of a memory operand: mostly aligned.
    fn place(&mut self, row: &Row) -> u32 {
        let rng = &mut *self.rng;
        let (len, kind) = match row.name {
            "fxsave" | "fxrstor" => (512, Contents::Image),
            "ldmxcsr" => (16, Contents::Mxcsr),
            _ => (16, Contents::Vector(row.fill)),
        };
        let mut at = operand::place(rng, len);
        if rng.below(if len == 512 { 8 } else { 5 }) != 0 {
            at &= !15;
        }
        if row.name != "fxsave" {
            let mut bytes = [0; 512];
            let len = contents(rng, kind, &mut bytes);
            operand::put(self.state, at, &bytes[..len]);
            self.places.push(at, kind);
        }
        at
    }
}

/// Mostly aligned addresses; the ends of the arena and of its pages are frequent.
fn pointer(rng: &mut Rng) -> u32 {
    let at = operand::place(rng, 16);
    if rng.below(5) == 0 { at } else { at & !15 }
}

/// One instruction of `row` whose operands may be anything: no register is known to hold an address.
pub fn encode(rng: &mut Rng, row: &Row) -> Vec<u8> {
    let (mut code, mut state) = (Vec::new(), State::default());
    let places = &mut Places::default();
    Program { rng, code: &mut code, state: &mut state, unknown: 0xFF, count: 0, places }.append(row);
    code
}

/// Makes a state for a program that starts with `row`.
pub fn start(rng: &mut Rng, row: &Row, state: &mut State) {
    for r in &mut state.gpr {
        *r = if rng.below(4) == 0 { integer(rng) } else { pointer(rng) };
    }
    state.eflags = rng.next_u64() as u32 & 0xCD5;
    if rng.below(16) == 0 {
        state.eflags |= 1 << 18;
    }
    if state.arena.len() != ARENA_LEN as usize || rng.below(4096) == 0 {
        state.arena.resize(ARENA_LEN as usize, 0);
        for n in 0..ARENA_LEN / 16 {
            let bytes = vector(rng, row.fill).to_le_bytes();
            operand::put(state, ARENA + 16 * n, &bytes);
        }
    }
    fp_state(rng, row, &mut state.fp);
    if row.name.starts_with("maskmov") && rng.below(3) == 0 {
        // Empty masks and masks that select little.
        let keep = if rng.below(2) == 0 { 0 } else { 1 << (rng.below(16) * 8 + 7) };
        let select = |v: u128| v & (0x7F7F_7F7F_7F7F_7F7F_7F7F_7F7F_7F7F_7F7F | keep);
        state.fp.st = state.fp.st.map(select);
        state.fp.xmm = state.fp.xmm.map(select);
    }
}

fn fp_state(rng: &mut Rng, row: &Row, fp: &mut FpState) {
    let status_codes = rng.next_u64() as u16 & 0x7F00;
    let mut control = 0x37F;
    let mut status = status_codes;
    match rng.below(12) {
        // An exception is pending.
        0 => {
            let flag = 1 << rng.below(6);
            control &= !flag;
            status |= flag | 0x8080;
        }
        // Masked ones are not.
        1 => status |= rng.next_u64() as u16 & 0x3F,
        _ => {}
    }
    let mut mxcsr = match rng.below(3) {
        0 => 0x1F80,
        1 => rng.next_u64() as u32 & 0x1F80,
        // One is unmasked.
        _ => 0x1F80 & !(0x80 << rng.below(6)),
    };
    mxcsr |= rng.below(4) << 13;
    if rng.below(3) == 0 {
        mxcsr |= 1 << 15;
    }
    if rng.below(3) == 0 {
        mxcsr |= 1 << 6;
    }
    if rng.below(3) == 0 {
        mxcsr |= rng.next_u64() as u32 & 0x3F;
    }
    (fp.control, fp.status, fp.mxcsr) = (control, status, mxcsr);
    fp.valid = rng.next_u64() as u8;
    fp.pointers = Pointers::default();
    for st in &mut fp.st {
        *st = vector(rng, row.fill) & values::LOW_80;
    }
    for xmm in &mut fp.xmm {
        *xmm = vector(rng, row.fill);
    }
}

/// Elements mostly of one kind.
fn vector(rng: &mut Rng, fill: Fill) -> u128 {
    let fill = match rng.below(12) {
        0 => Fill::Integer,
        1 => Fill::Single,
        2 => Fill::Double,
        _ => fill,
    };
    match fill {
        Fill::Integer => (0..4).fold(0, |v, n| v | u128::from(integer(rng)) << (32 * n)),
        Fill::Single => (0..4).fold(0, |v, n| v | u128::from(single(rng)) << (32 * n)),
        Fill::Double => u128::from(double(rng)) | u128::from(double(rng)) << 64,
    }
}

/// Integers: corners of all widths, small ones (shift counts), anything.
fn integer(rng: &mut Rng) -> u32 {
    match rng.below(6) {
        0 => rng.corner(),
        1 => rng.below(70),
        2 => 0u32.wrapping_sub(rng.below(70)),
        // Bytes and words at their limits.
        3 => (0..4).fold(0, |v, _| v << 8 | [0, 1, 0x7F, 0x80, 0xFF][rng.below(5) as usize]),
        // Halfway between f32 values.
        4 => (rng.below(1 << 25) | 1 << 24) << rng.below(8),
        _ => rng.next_u64() as u32,
    }
}

/// An image of a format with `exponent` and `fraction` bits, corners preferred.
fn float(rng: &mut Rng, exponent: u32, fraction: u32) -> u64 {
    let max = (1u64 << exponent) - 1;
    let bias = max >> 1;
    let ones = (1u64 << fraction) - 1;
    let sparse = match rng.below(4) {
        0 => 0,
        1 => 1 << rng.below(fraction),
        2 => ones - (1 << rng.below(fraction)) + 1,
        _ => rng.next_u64() & ones,
    };
    let image = match rng.below(16) {
        0 => 0,
        1 => [1, 2, ones, ones - 1, 1 << (fraction - 1)][rng.below(5) as usize],
        2 => rng.next_u64() & ones,
        // The smallest and largest normal numbers.
        3 => (1 + u64::from(rng.below(3))) << fraction | sparse,
        4 => (max - 1 - u64::from(rng.below(3))) << fraction | sparse,
        5 => max << fraction,
        // NaNs, quiet and signalling.
        6 => max << fraction | (rng.next_u64() & ones).max(1),
        7 => max << fraction | 1 << (fraction - 1) | rng.next_u64() & ones,
        // Around one.
        8 => (bias - 1 + u64::from(rng.below(3))) << fraction | sparse,
        // Around the limits of 32-bit integers.
        9 => (bias + 29 + u64::from(rng.below(4))) << fraction | sparse,
        // Integers and halves.
        10 | 11 => (bias + u64::from(rng.below(30))) << fraction | sparse & ones << (fraction / 2),
        // Square roots of the extremes: products over- and underflow.
        12 => (bias / 2 - 2 + u64::from(rng.below(4))) << fraction | sparse,
        13 => (bias + bias / 2 - 1 + u64::from(rng.below(4))) << fraction | sparse,
        _ => rng.next_u64() & (max << fraction | ones),
    };
    image | (rng.next_u64() & 1) << (exponent + fraction)
}

/// An f32 image.
pub fn single(rng: &mut Rng) -> u32 {
    float(rng, 8, 23) as u32
}

/// An f64 image; some lie at the limits of f32.
pub fn double(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        // Close to powers of two between f32's smallest denormal and largest number.
        0 => {
            let exponent = 1023 - 152 + u64::from(rng.below(32));
            exponent << 52 | rng.next_u64() >> 12 & (u64::MAX << rng.below(52)) | (rng.next_u64() & 1) << 63
        }
        1 => {
            let exponent = 1023 + 126 + u64::from(rng.below(3));
            let fraction = [0, (1 << 52) - (1 << rng.below(30)), rng.next_u64() >> 12][rng.below(3) as usize];
            exponent << 52 | fraction | (rng.next_u64() & 1) << 63
        }
        // Halves and their neighbours around 2^31.
        2 => {
            let base = (2_147_483_645 + u64::from(rng.below(5))) * 2 + u64::from(rng.below(2));
            let image = (base as f64 / 2.0).to_bits();
            image.wrapping_add(u64::from(rng.below(3))).wrapping_sub(1) | (rng.next_u64() & 1) << 63
        }
        _ => float(rng, 11, 52),
    }
}
