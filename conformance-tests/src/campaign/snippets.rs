//! Instructions that need something prepared: addresses to jump to, selectors, divisors.

use super::integer::Writer;
use super::rows::{Kind, Row};
use crate::layout::{BASED_DATA, CODE16, CODE32, CS, DS, FLAT_DATA, SS, USER_CS, USER_DS, base, selector};

/// Prefix for operands of the other size.
const OP: u8 = 0x66;

impl Writer<'_> {
    /// MOV word or dword [at], value through DS.
    fn store(&mut self, at: u32, value: u32, dword: bool) {
        let mut bytes = Vec::with_capacity(12);
        if dword != self.big() {
            bytes.push(OP);
        }
        bytes.push(0xC7);
        self.absolute_modrm(0, at, &mut bytes);
        let value = value.to_le_bytes();
        bytes.extend_from_slice(if dword { &value } else { &value[..2] });
        self.push(&bytes);
    }

    /// ModRM with a displacement only, of the code's address size.
    fn absolute_modrm(&mut self, reg: u8, at: u32, bytes: &mut Vec<u8>) {
        if self.big() {
            bytes.push(reg << 3 | 5);
            bytes.extend_from_slice(&at.to_le_bytes());
        } else {
            bytes.push(reg << 3 | 6);
            bytes.extend_from_slice(&(at as u16).to_le_bytes());
        }
    }

    /// PUSH imm of 2 or 4 bytes.
    fn push_immediate(&mut self, value: u32, dword: bool) {
        let mut bytes = Vec::with_capacity(6);
        if dword != self.big() {
            bytes.push(OP);
        }
        bytes.push(0x68);
        let value = value.to_le_bytes();
        bytes.extend_from_slice(if dword { &value } else { &value[..2] });
        self.push(&bytes);
    }

    /// Whether an instruction with an address as operand has 32 bits of it: mostly where 16 are enough
    /// for all of the code.
    fn dword_target(&mut self, target: u32) -> bool {
        let fits = target < 0xFF00;
        match (self.big(), fits) {
            (true, true) => self.rng.below(3) != 0,
            (true, false) => self.rng.below(100) != 0,
            (false, _) => self.rng.below(3) == 0,
        }
    }

    /// Opcode of `row` with an operand-size prefix where `dword` asks for it.
    fn opcode(&self, row: &Row, dword: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(12);
        if dword != self.big() {
            bytes.push(OP);
        }
        bytes.extend_from_slice(&row.opcode);
        bytes
    }

    /// A register that is not needed as pointer.
    fn spare(&mut self) -> u8 {
        self.register(!self.pointers & !(1 << 4)).unwrap_or(0)
    }

    /// Offset in DS for something stored, which is a multiple of 4 while alignment is checked.
    fn place(&mut self) -> u32 {
        self.absolute(self.seg[DS])
    }
}

/// Transfers within the segment. Relative ones jump over one instruction, or none.
pub(super) fn near(w: &mut Writer<'_>, row: &Row, inner: &Row) {
    match row.opcode[..] {
        [0x70..=0x7F | 0xE0..=0xE3 | 0xE8 | 0xE9 | 0xEB] | [0x0F, 0x80..=0x8F] => relative(w, row, inner),
        [0xC2 | 0xC3] => {
            let dword = w.dword_target(w.offset(w.here() + 16));
            // The length of what comes is known only afterwards.
            let start = w.p.code.len();
            let size = if dword != w.big() { 1 } else { 0 } + if dword { 5 } else { 3 };
            let ret = usize::from(dword != w.big()) + if row.opcode[0] == 0xC2 { 3 } else { 1 };
            let target = w.offset(w.p.at + (start + size + ret) as u32);
            w.push_immediate(target, dword);
            let mut bytes = w.opcode(row, dword);
            if row.opcode[0] == 0xC2 {
                bytes.extend_from_slice(&(w.rng.below(16) as u16 * 4).to_le_bytes());
            }
            w.push(&bytes);
        }
        _ => indirect(w, row),
    }
}

fn relative(w: &mut Writer<'_>, row: &Row, inner: &Row) {
    // Conditions must be defined.
    let condition = matches!(row.opcode[..], [0x70..=0x7F | 0xE0 | 0xE1] | [0x0F, 0x80..=0x8F]);
    if condition && w.p.undefined != 0 {
        return;
    }
    let short = matches!(row.opcode[..], [0x70..=0x7F | 0xE0..=0xE3 | 0xEB]);
    let dword = w.dword_target(w.offset(w.here() + 40));
    let mut bytes = w.opcode(row, dword);
    if matches!(row.opcode[..], [0xE0..=0xE3]) && w.rng.below(4) == 0 {
        bytes.insert(0, 0x67);
    }
    let len = bytes.len()
        + if short {
            1
        } else if dword {
            4
        } else {
            2
        };
    let jump = w.p.code.len();
    let place = |bytes: &[u8], distance: u32| {
        let mut bytes = bytes.to_vec();
        let d = distance.to_le_bytes();
        bytes.extend_from_slice(if short {
            &d[..1]
        } else if dword {
            &d
        } else {
            &d[..2]
        });
        bytes
    };
    let first = place(&bytes, 0);
    debug_assert_eq!(first.len(), len);
    w.push(&first);
    if w.rng.below(4) == 0 || inner.kind != Kind::Plain || !w.plain(inner, false) {
        return;
    }
    let distance = w.p.code.len() - jump - len;
    let filled = place(&bytes, distance as u32);
    w.p.code[jump..jump + len].copy_from_slice(&filled);
}

/// JMP and CALL through a register or memory.
fn indirect(w: &mut Writer<'_>, row: &Row) {
    let dword = w.dword_target(w.offset(w.here() + 30));
    let reg = row.reg.unwrap_or(4);
    let call = w.opcode(row, dword);
    let wild = w.rng.below(100) == 0;
    if row.memory == Some(true) {
        let at = w.place();
        let mut bytes = call;
        w.absolute_modrm(reg, at, &mut bytes);
        let start = w.p.code.len();
        let store = usize::from(dword != w.big()) + if w.big() { 6 } else { 4 } + if dword { 4 } else { 2 };
        let target = w.offset(w.p.at + (start + store + bytes.len()) as u32);
        let target = if wild { w.rng.corner() } else { target };
        w.store(at, target, dword);
        w.push(&bytes);
    } else {
        let r = w.spare();
        let mut bytes = call;
        bytes.push(0xC0 | reg << 3 | r);
        let load = if w.big() { 5 } else { 3 };
        let target = w.offset(w.here() + load + bytes.len() as u32);
        let target = if wild { w.rng.corner() } else { target };
        w.load_register(r, target);
        w.push(&bytes);
    }
}

/// Another code segment, and whether it can be entered.
fn code_selector(w: &mut Writer<'_>) -> (u16, bool) {
    let pick = |w: &mut Writer<'_>, list: &[usize]| selector(list[w.rng.below(list.len() as u32) as usize]);
    match w.rng.below(24) {
        0 => (w.some_selector(CS), false),
        1 => ([0, 3, USER_DS, 0x10, 0x08, 0x1B, 0xFFFF, 0x88][w.rng.below(8) as usize], false),
        2..=5 => (USER_CS, true),
        6..=12 if w.p.based => (pick(w, &CODE16), true),
        _ => (pick(w, &CODE32), true),
    }
}

/// Transfers to another segment, to the next instruction.
pub(super) fn far(w: &mut Writer<'_>, row: &Row) {
    let (target, good) = code_selector(w);
    if target & !3 == 0x30 {
        return;
    }
    let mut dword = if w.big() { w.rng.below(3) != 0 } else { w.rng.below(3) == 0 };
    let mut instruction = Vec::new();
    // What is prepared and the instruction itself; the second time the length is known.
    let start = w.p.code.len();
    let reserve = w.here() + 48;
    if reserve.wrapping_sub(base(target)) > 0xFF00 && w.rng.below(100) != 0 {
        dword = true;
    }
    let prefix = usize::from(dword != w.big());
    let word = if dword { 4 } else { 2 };
    let at = w.place();
    let address = if w.big() { 6 } else { 4 };
    let immediate = prefix + 1 + word;
    let (prepared, own) = match row.opcode[..] {
        [0x9A | 0xEA] => (0, prefix + 1 + word + 2),
        [0xFF] => {
            let selector = usize::from(w.big()) + address + 2;
            (prefix + address + word + selector, prefix + address)
        }
        [0xCA] => (2 * immediate, prefix + 3),
        [0xCB] => (2 * immediate, prefix + 1),
        _ => (3 * immediate, prefix + 1),
    };
    let next = w.p.at + (start + prepared + own) as u32;
    let offset = next.wrapping_sub(base(target));
    match row.opcode[..] {
        [0x9A | 0xEA] => {
            instruction.extend_from_slice(&w.opcode(row, dword));
            let bytes = offset.to_le_bytes();
            instruction.extend_from_slice(&bytes[..word]);
            instruction.extend_from_slice(&target.to_le_bytes());
        }
        [0xFF] => {
            w.store(at, offset, dword);
            w.store(at.wrapping_add(word as u32), target.into(), false);
            instruction.extend_from_slice(&w.opcode(row, dword));
            let reg = row.reg.unwrap_or(5);
            w.absolute_modrm(reg, at, &mut instruction);
        }
        _ => {
            if row.opcode == [0xCF] {
                let noise = w.rng.next_u64() as u32;
                // Now and then single-step; NT as rarely, since it concerns the next IRET.
                let rare = if w.rng.below(32) == 0 { 0x4100 } else { 0 };
                let flags = noise & (0x003F_3ED7 | rare) & !(1 << 18 | 0x10000)
                    | if w.rng.below(16) == 0 { 1 << 18 } else { 0 };
                w.push_immediate(flags, dword);
            }
            w.push_immediate(target.into(), dword);
            w.push_immediate(offset, dword);
            instruction.extend_from_slice(&w.opcode(row, dword));
            if row.opcode == [0xCA] {
                instruction.extend_from_slice(&(w.rng.below(8) as u16 * 4).to_le_bytes());
            }
        }
    }
    debug_assert_eq!(w.p.code.len() + instruction.len(), start + prepared + own);
    let ins = w.decode(&instruction);
    w.push_decoded(&instruction, &ins, true);
    if good {
        w.seg[CS] = target;
    }
}

/// Loads of segment registers, far pointers, and questions about selectors.
pub(super) fn select(w: &mut Writer<'_>, row: &Row) {
    let memory = row.memory == Some(true);
    let loaded = match row.opcode[..] {
        [0x8E] => row.reg.map(usize::from),
        [0x07] | [0xC4] => Some(0),
        [0x17] | [0x0F, 0xB2] => Some(SS),
        [0x1F] | [0xC5] => Some(DS),
        [0x0F, 0xA1 | 0xB4] => Some(4),
        [0x0F, 0xA9 | 0xB5] => Some(5),
        _ => None,
    };
    let sel = match loaded {
        Some(n) => w.some_selector(n),
        None => {
            let n = w.rng.below(8) as usize;
            match w.rng.below(4) {
                0 => selector([BASED_DATA[n], FLAT_DATA[n]][w.rng.below(2) as usize]),
                1 => selector(w.rng.below(31) as usize),
                _ => w.some_selector(n.min(5)),
            }
        }
    };
    // Null in SS would only fault: often enough elsewhere.
    let other = w.rng.below(4) == 0;
    let dword = w.big() != other;
    match row.opcode[..] {
        [0x07 | 0x17 | 0x1F] | [0x0F, 0xA1 | 0xA9] => {
            w.push_immediate(sel.into(), dword);
            let bytes = w.opcode(row, dword);
            w.push(&bytes);
        }
        [0xC4 | 0xC5] | [0x0F, 0xB2 | 0xB4 | 0xB5] => {
            let at = w.place();
            let value = super::integer::pointer(w.rng, w.p.based, w.p.aligned);
            w.store(at, value, dword);
            w.store(at.wrapping_add(if dword { 4 } else { 2 }), sel.into(), false);
            let r = w.spare();
            let mut bytes = w.opcode(row, dword);
            w.absolute_modrm(r, at, &mut bytes);
            w.push(&bytes);
        }
        _ => {
            let reg = row.reg.unwrap_or_else(|| w.rng.below(8) as u8);
            let reg = if row.reg.is_none() && reg == 4 { 0 } else { reg };
            let at = w.place();
            let r = w.spare();
            if memory {
                w.store(at, sel.into(), false)
            } else {
                w.load_register(r, sel.into())
            }
            let mut bytes = w.opcode(row, dword);
            if memory {
                w.absolute_modrm(reg, at, &mut bytes)
            } else {
                bytes.push(0xC0 | reg << 3 | r)
            }
            w.push(&bytes);
        }
    }
    if let Some(n) = loaded {
        w.seg[n] = sel;
    }
}

/// Divisions whose quotient fits, mostly.
pub(super) fn divide(w: &mut Writer<'_>, row: &Row) {
    if w.rng.below(16) != 0 {
        let signed = row.reg == Some(7);
        let byte = row.opcode == [0xF6];
        if byte {
            // MOV AH, small
            let high = w.rng.below(2) as u8;
            w.push(&[0xB4, if signed { high.wrapping_neg() } else { high }]);
        } else {
            let high = w.rng.below(2);
            w.load_register(2, if signed { high.wrapping_neg() } else { high });
        }
    }
    w.plain(row, true);
}

/// Stores into an instruction that comes soon: INC and DEC of registers become each other.
pub(super) fn modify_code(w: &mut Writer<'_>) {
    let sel = w.seg[DS];
    if !w.big() || w.p.based || sel == selector(4) || !matches!(sel, USER_DS | 0x07 | 0x17 | 0x1F) {
        return;
    }
    let r = w.spare();
    let gap = w.rng.below(3);
    let target = w.here() + 7 + gap;
    // MOV byte [target], INC or DEC r
    let mut bytes = vec![0xC6, 0x05];
    bytes.extend_from_slice(&target.wrapping_sub(base(sel)).to_le_bytes());
    bytes.push(0x40 | (w.rng.below(2) as u8) << 3 | r);
    w.push(&bytes);
    for _ in 0..gap {
        w.push(&[0x90]);
    }
    let original = 0x40 | (w.rng.below(2) as u8) << 3 | r;
    w.push(&[original]);
}
