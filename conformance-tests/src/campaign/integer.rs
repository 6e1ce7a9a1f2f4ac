//! Programs of integer instructions: everything in [`rows`], in segments of all kinds.

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use super::coverage::Coverage;
use super::program::{Program, reads_flags};
use super::rows::{Kind, Row, rows};
use super::{Family, snippets};
use crate::gen_int::Rng;
use crate::layout::{
    self, BAD, BASED_DATA, BASED_STACKS, CODE_LEN, CODE16, CODE32, CS, DS, ES, FLAT_DATA, FLAT_STACKS,
    Registers, SS, USER_CS, USER_DS, base, is_based, selector, with_exit,
};
use crate::{ARENA, ARENA_LEN, CODE};

/// Which programs are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Flat segments, now and then others.
    Flat,
    /// Segments of the LDT, 16-bit code and addresses.
    Segments,
}

/// The family of integer instructions.
pub struct Integer {
    rows: Vec<Row>,
    /// Row numbers, frequent ones repeatedly.
    lottery: Vec<u16>,
    flavour: Flavour,
    info: InstructionInfoFactory,
}

/// A program being written.
pub struct Writer<'a> {
    /// The program.
    pub p: &'a mut Program,
    /// Where instructions are counted.
    pub coverage: &'a mut Coverage,
    /// Random numbers.
    pub rng: &'a mut Rng,
    /// Selectors as they will be.
    pub seg: [u16; 6],
    /// Registers that hold pointers (still).
    pub pointers: u8,
    /// Registers that hold small numbers (still).
    pub small: u8,
    info: &'a mut InstructionInfoFactory,
}

impl Integer {
    /// All rows.
    pub fn new(flavour: Flavour) -> Self {
        let rows = rows();
        let mut lottery = Vec::new();
        for (n, row) in rows.iter().enumerate() {
            let tickets = match row.kind {
                Kind::Faults => 2,
                Kind::Far | Kind::Selector => 12,
                Kind::Near => 6,
                Kind::Divide => 8,
                Kind::Plain => match row.mnemonic {
                    Mnemonic::Reservednop | Mnemonic::Prefetch | Mnemonic::Prefetchw => 2,
                    Mnemonic::Into | Mnemonic::Bound => 4,
                    _ => 10,
                },
            };
            lottery.extend(std::iter::repeat_n(n as u16, tickets));
        }
        Self { rows, lottery, flavour, info: InstructionInfoFactory::new() }
    }

    /// The rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Chooses segments and roles of registers.
    fn set_up(&self, rng: &mut Rng, p: &mut Program) {
        let pick = |rng: &mut Rng, list: &[usize]| selector(list[rng.below(list.len() as u32) as usize]);
        let segments = self.flavour == Flavour::Segments;
        p.based = segments && rng.below(3) != 0;
        p.seg = [USER_DS, USER_CS, USER_DS, USER_DS, USER_DS, USER_DS];
        if segments {
            p.seg[CS] = match rng.below(if p.based { 6 } else { 3 }) {
                0 => USER_CS,
                1 | 2 => pick(rng, &CODE32),
                _ => pick(rng, &CODE16),
            };
            let (data, stacks): (&[usize], &[usize]) =
                if p.based { (&BASED_DATA, &BASED_STACKS) } else { (&FLAT_DATA, &FLAT_STACKS) };
            p.seg[SS] = if !p.based && rng.below(3) != 0 { USER_DS } else { pick(rng, stacks) };
            for n in [ES, DS] {
                p.seg[n] = if !p.based && rng.below(3) != 0 { USER_DS } else { pick(rng, data) };
                // Plain ones are the most useful.
                if p.based && rng.below(4) != 0 {
                    p.seg[n] = selector(BASED_DATA[[0, 3][rng.below(2) as usize]]);
                }
            }
            if p.based && rng.below(3) != 0 {
                p.seg[SS] = selector(BASED_STACKS[[0, 3][rng.below(2) as usize]]);
            }
            for n in [4, 5] {
                p.seg[n] = match rng.below(8) {
                    0 => 0,
                    1 | 2 => pick(rng, &FLAT_DATA),
                    _ => pick(rng, &BASED_DATA),
                };
            }
        }
        p.pointers = 1 << 4
            | rng.next_u64() as u8 & rng.next_u64() as u8
            | [0xE8, 0x60, 0x28, 0xC8][rng.below(4) as usize];
        if rng.below(4) != 0 {
            p.pointers &= !2;
        }
        p.small = !p.pointers & (rng.next_u64() as u8 | 2);
        p.aligned = rng.below(24) == 0;
        let segment_start = if p.seg[CS] == selector(21) && rng.below(3) == 0 { 0x17C0 } else { 0 };
        let offset = match rng.below(32) {
            _ if segment_start != 0 => segment_start + rng.below(0x40),
            // Across the page boundary inside, and into the page behind.
            0 => 0xFC0 + rng.below(0x40),
            1 if segments => CODE_LEN - 1 - rng.below(0x30),
            _ => rng.below(0xE00),
        };
        // The first instruction must lie within the segment: the far jump to it is not part of the case.
        let offset = if p.seg[CS] == selector(21) && offset >= 0x1800 { offset & 0x7FF } else { offset };
        p.at = CODE + offset;
    }
}

impl Family for Integer {
    fn name(&self) -> &'static str {
        match self.flavour {
            Flavour::Flat => "integer",
            Flavour::Segments => "segments",
        }
    }

    fn program(&mut self, rng: &mut Rng, coverage: &mut Coverage, p: &mut Program) {
        p.clear();
        self.set_up(rng, p);
        let count = 1 + rng.below(8);
        let (seg, pointers, small) = (p.seg, p.pointers, p.small);
        let mut w = Writer { p, coverage, rng, seg, pointers, small, info: &mut self.info };
        let mut tries = 0;
        while (w.p.steps.len() as u32) < count && tries < 40 {
            tries += 1;
            let n = w.rng.below(self.lottery.len() as u32) as usize;
            let row = &self.rows[usize::from(self.lottery[n])];
            match row.kind {
                Kind::Plain | Kind::Faults => drop(w.plain(row, true)),
                Kind::Near => {
                    let inner = self.lottery[w.rng.below(self.lottery.len() as u32) as usize];
                    snippets::near(&mut w, row, &self.rows[usize::from(inner)]);
                }
                Kind::Far => snippets::far(&mut w, row),
                Kind::Selector => snippets::select(&mut w, row),
                Kind::Divide => snippets::divide(&mut w, row),
            }
            if w.rng.below(128) == 0 {
                snippets::modify_code(&mut w);
            }
        }
        let big = layout::is_big(w.seg[CS]);
        p.code = with_exit(&p.code, big);
        let room = (CODE + CODE_LEN - p.at) as usize;
        p.code.truncate(room);
    }

    fn registers(&mut self, rng: &mut Rng, p: &Program, regs: &mut Registers) {
        for n in 0..8 {
            let bit = 1u8 << n;
            regs.gpr[n] = if p.pointers & bit != 0 {
                pointer(rng, p.based, p.aligned)
            } else if p.small & bit != 0 {
                match rng.below(8) {
                    0 => 0u32.wrapping_sub(rng.below(40)),
                    _ => rng.below(40),
                }
            } else {
                rng.corner()
            };
        }
        regs.seg = p.seg;
        regs.eip = p.at.wrapping_sub(base(p.seg[CS]));
        regs.eflags = 0x202 | rng.next_u64() as u32 & 0x8D5;
        if rng.below(4) == 0 {
            regs.eflags |= 0x400;
        }
        if p.aligned {
            regs.eflags |= 1 << 18;
        }
        if rng.below(16) == 0 {
            regs.eflags |= 1 << 21;
        }
    }

    fn perturb(&mut self, rng: &mut Rng, p: &Program, regs: &Registers, both: &mut dyn FnMut(u32, &[u8])) {
        for _ in 0..4 {
            let value = if rng.below(4) == 0 { pointer(rng, p.based, false) } else { rng.corner() };
            let near = p.pointers.trailing_zeros().min(4) as usize;
            let home = if p.based { ARENA } else { 0 };
            let at = match rng.below(3) {
                0 => regs.gpr[4].wrapping_add(home),
                1 => regs.gpr[near].wrapping_add(home),
                _ => ARENA + rng.below(ARENA_LEN),
            }
            .wrapping_add(rng.below(32))
            .clamp(ARENA, ARENA + ARENA_LEN - 4);
            both(at, &value.to_le_bytes());
        }
    }
}

/// A pointer: mostly well inside the arena; sometimes around its inner page boundaries or its ends.
pub fn pointer(rng: &mut Rng, based: bool, aligned: bool) -> u32 {
    let at = match rng.below(64) {
        0 => (rng.below(2) * ARENA_LEN).wrapping_add(rng.below(48).wrapping_sub(24)),
        1..=3 => ((1 + rng.below(3)) * 0x1000).wrapping_add(rng.below(32).wrapping_sub(16)),
        4 => 0x2345 - 16 + rng.below(32),
        _ => 0x200 + rng.below(ARENA_LEN - 0x600),
    };
    let at = if aligned || rng.below(4) == 0 { at & !3 } else { at };
    if based { at } else { at.wrapping_add(ARENA) }
}

impl Writer<'_> {
    /// Code is 32-bit.
    pub fn big(&self) -> bool {
        layout::is_big(self.seg[CS])
    }

    /// Linear address of the next byte.
    pub fn here(&self) -> u32 {
        self.p.at + self.p.code.len() as u32
    }

    /// Offset of linear address `lin` in the code segment.
    pub fn offset(&self, lin: u32) -> u32 {
        lin.wrapping_sub(base(self.seg[CS]))
    }

    /// Decodes what has just been composed.
    pub fn decode(&self, bytes: &[u8]) -> Instruction {
        let bits = if self.big() { 32 } else { 16 };
        Decoder::with_ip(bits, bytes, self.offset(self.here()).into(), DecoderOptions::NONE).decode()
    }

    /// Adds a composed instruction.
    pub fn push(&mut self, bytes: &[u8]) {
        let ins = self.decode(bytes);
        debug_assert!(!ins.is_invalid() && ins.len() == bytes.len(), "{bytes:02x?} {ins:?}");
        self.push_decoded(bytes, &ins, true);
    }

    /// Adds `bytes`, which are `ins`.
    pub fn push_decoded(&mut self, bytes: &[u8], ins: &Instruction, certain: bool) {
        let place = self.coverage.place(ins);
        self.p.push(bytes, ins, certain, place);
        let info = self.info.info(ins);
        for used in info.used_registers() {
            let written = matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            );
            let r = used.register().full_register32();
            // Stack and string instructions move pointers a little.
            let moved = ins.is_string_instruction() || (r == Register::ESP && ins.is_stack_instruction());
            if written && r.is_gpr32() && !moved {
                let bit = 1u8 << r.number();
                self.pointers &= !bit;
                self.small &= !bit;
            }
        }
    }

    /// A register of a mask, or any.
    pub fn register(&mut self, mask: u8) -> Option<u8> {
        if mask == 0 {
            return None;
        }
        let start = self.rng.below(8);
        (0..8).map(|n| ((start + n) & 7) as u8).find(|r| mask & 1 << r != 0)
    }

    /// ModRM with a memory operand through `segment`.
    pub fn memory(&mut self, reg: u8, segment: u16, wide: bool, out: &mut Vec<u8>) {
        let near = is_based(segment);
        let usable = near == self.p.based || (!wide && near);
        let wild = self.rng.below(64) == 0;
        let absolute = self.absolute(segment);
        let pointers = if usable || wild { self.pointers } else { 0 };
        if wide {
            self.memory32(reg, pointers, absolute, wild, out)
        } else {
            self.memory16(reg, pointers, absolute, out)
        }
    }

    /// An address for operands that have a displacement only.
    pub fn absolute(&mut self, segment: u16) -> u32 {
        let at = pointer(self.rng, true, self.p.aligned);
        if is_based(segment) { at } else { at.wrapping_add(ARENA).wrapping_sub(base(segment)) }
    }

    fn displacement(&mut self) -> u8 {
        let d = self.rng.next_u64() as u8;
        if self.p.aligned { d & !3 } else { d }
    }

    fn memory32(&mut self, reg: u8, pointers: u8, absolute: u32, wild: bool, out: &mut Vec<u8>) {
        let Some(b) = self.register(pointers) else {
            if self.small != 0 && self.rng.below(4) == 0 {
                // index * scale + disp32
                let x = self.register(self.small & !(1 << 4)).unwrap_or(4);
                out.extend_from_slice(&[reg << 3 | 4, (self.rng.below(4) as u8) << 6 | x << 3 | 5]);
            } else if self.rng.below(8) == 0 {
                out.extend_from_slice(&[reg << 3 | 4, (self.rng.below(4) as u8) << 6 | 4 << 3 | 5]);
            } else {
                out.push(reg << 3 | 5);
            }
            out.extend_from_slice(&absolute.to_le_bytes());
            return;
        };
        let style = self.rng.below(8);
        let index = if wild {
            self.rng.below(8) as u8
        } else {
            self.register(self.small & !(1 << 4)).filter(|_| self.rng.below(3) != 0).unwrap_or(4)
        };
        let scale = (self.rng.below(4) as u8) << 6;
        // A wide displacement: the base is moved by it and by what is left of the pointer.
        let far = (self.rng.below(0x200) as i32 - 0x100) & if self.p.aligned { !3 } else { !0 };
        match style {
            0 => {
                out.push(reg << 3 | 5);
                out.extend_from_slice(&absolute.to_le_bytes());
            }
            1 | 2 if b != 4 && b != 5 => out.push(reg << 3 | b),
            3 | 4 if b != 4 => out.extend_from_slice(&[0x40 | reg << 3 | b, self.displacement()]),
            5 if b != 4 => {
                out.push(0x80 | reg << 3 | b);
                out.extend_from_slice(&far.to_le_bytes());
            }
            6 if b != 5 => out.extend_from_slice(&[reg << 3 | 4, scale | index << 3 | b]),
            7 => {
                out.extend_from_slice(&[0x80 | reg << 3 | 4, scale | index << 3 | b]);
                out.extend_from_slice(&far.to_le_bytes());
            }
            _ => out.extend_from_slice(&[0x40 | reg << 3 | 4, scale | index << 3 | b, self.displacement()]),
        }
    }

    fn memory16(&mut self, reg: u8, pointers: u8, absolute: u32, out: &mut Vec<u8>) {
        const PAIRS: [(u8, u8); 4] = [(3, 6), (3, 7), (5, 6), (5, 7)];
        const SINGLE: [u8; 4] = [6, 7, 5, 3];
        let has = |mask: u8, r: u8| mask & 1 << r != 0;
        let small = self.small;
        let choice = self.rng.below(8) as u8;
        let fits = match choice {
            0..=3 => {
                let (b, x) = PAIRS[usize::from(choice)];
                (has(pointers, b) && has(small, x))
                    || (has(small, b) && has(pointers, x))
                    || self.rng.below(16) == 0
            }
            _ => has(pointers, SINGLE[usize::from(choice) - 4]) || self.rng.below(32) == 0,
        };
        if !fits {
            out.push(reg << 3 | 6);
            out.extend_from_slice(&(absolute as u16).to_le_bytes());
            return;
        }
        match self.rng.below(3) {
            0 if choice != 6 => out.push(reg << 3 | choice),
            1 => {
                out.push(0x80 | reg << 3 | choice);
                let far = (self.rng.below(0x200) as i16).wrapping_sub(0x100);
                let far = if self.p.aligned { far & !3 } else { far };
                out.extend_from_slice(&far.to_le_bytes());
            }
            _ => out.extend_from_slice(&[0x40 | reg << 3 | choice, self.displacement()]),
        }
    }

    /// Encodes a row with random operands and adds it; false if what came out does not fit here.
    pub fn plain(&mut self, row: &Row, certain: bool) -> bool {
        let mut bytes = Vec::with_capacity(32);
        let Some(ins) = self.encode(row, &mut bytes) else { return false };
        if ins.mnemonic() == Mnemonic::Push
            && ins.op0_kind() == OpKind::Register
            && ins.op0_register().is_segment_register()
            && ins.code().op_code().operand_size() != 16
        {
            // The upper half is written as 0 or not at all, which the SDM allows: let it be 0 before.
            let prefix: &[u8] = if self.big() { &[] } else { &[0x66] };
            let spare = self.register(!self.pointers & !(1 << 4)).unwrap_or(0);
            if !certain {
                return false;
            }
            self.push(&[prefix, &[0x6A, 0]].concat());
            self.push(&[prefix, &[0x58 | spare]].concat());
        }
        if ins.rep_needs_small_count() && self.small & 2 == 0 && self.rng.below(8) != 0 {
            if !certain {
                return false;
            }
            let count = self.rng.below(30);
            self.load_register(1, count);
        }
        self.push_decoded(&bytes, &ins, certain);
        true
    }

    /// MOV r, imm of the code's operand size.
    pub fn load_register(&mut self, r: u8, value: u32) {
        let mut bytes = vec![0xB8 | r];
        if self.big() {
            bytes.extend_from_slice(&value.to_le_bytes());
        } else {
            bytes.extend_from_slice(&(value as u16).to_le_bytes());
        }
        self.push(&bytes);
    }

    fn segment_prefix(&mut self) -> Option<usize> {
        let n = if self.p.seg[4] == USER_DS { 40 } else { 6 };
        (self.rng.below(n) == 0).then(|| [ES, CS, SS, DS, 4, 5, 4, 5][self.rng.below(8) as usize])
    }

    fn encode(&mut self, row: &Row, out: &mut Vec<u8>) -> Option<Instruction> {
        let big = self.big();
        let op_prefix = self.rng.below(4) == 0;
        let mut address_prefix = self.rng.below(if big { 12 } else { 3 }) == 0;
        let mut segment = self.segment_prefix();
        if address_prefix && big && !self.p.based {
            // 16-bit addresses are of use in a segment based in the arena only.
            match [4, 5].into_iter().find(|s| is_based(self.seg[*s])) {
                Some(s) if row.memory == Some(true) => segment = Some(s),
                _ => address_prefix = self.rng.below(16) == 0,
            }
        }
        let string = matches!(row.opcode[..], [0x6C..=0x6F | 0xA4..=0xA7 | 0xAA..=0xAF]);
        let lock = match row.memory {
            Some(true) => self.rng.below(40) == 0,
            _ => self.rng.below(1000) == 0,
        };
        // AMD's processors take LOCK MOV CR0 as MOV CR8.
        let lock = lock && !matches!(row.opcode[..], [0x0F, 0x20..=0x23]);
        let repeat = if string { self.rng.below(2) == 0 } else { self.rng.below(300) == 0 };
        let mut prefixes = [0u8; 5];
        let mut n = 0;
        let mut add = |b: u8| {
            prefixes[n] = b;
            n += 1;
        };
        if let Some(s) = segment {
            add([0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65][s]);
        }
        if op_prefix {
            add(0x66);
        }
        if address_prefix {
            add(0x67);
        }
        if lock {
            add(0xF0);
        }
        if let Some(p) = row.prefix {
            add(p);
        } else if repeat {
            add([0xF2, 0xF3][self.rng.below(2) as usize]);
        }
        // Any order will do.
        if n > 1 && self.rng.below(2) == 0 {
            prefixes[..n].reverse();
        }
        out.extend_from_slice(&prefixes[..n]);
        out.extend_from_slice(&row.opcode);
        let wide = big != address_prefix;
        self.operands(row, segment, wide, big == op_prefix, out);
        // Immediates: as many bytes as it takes.
        let known = out.len();
        out.extend_from_slice(&self.rng.corner().to_le_bytes());
        out.extend_from_slice(&self.rng.corner().to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        self.patch(row, known, out);
        let mut ins = self.decode(out);
        if ins.is_invalid() && lock {
            // What LOCK forbids: as long as without.
            let at = out.iter().position(|b| *b == 0xF0)?;
            out[at] = 0x3E;
            ins = self.decode(out);
            out[at] = 0xF0;
        }
        if ins.is_invalid() || !self.accept(row, &ins) {
            return None;
        }
        out.truncate(ins.len());
        Some(ins)
    }

    /// ModRM, or the address of a MOV without one.
    fn operands(&mut self, row: &Row, segment: Option<usize>, wide: bool, op16: bool, out: &mut Vec<u8>) {
        let Some(memory) = row.memory else {
            if matches!(row.opcode[..], [0xA0..=0xA3]) {
                let at = self.absolute(self.seg[segment.unwrap_or(DS)]);
                let bytes = at.to_le_bytes();
                out.extend_from_slice(if wide { &bytes } else { &bytes[..2] });
            }
            return;
        };
        let mut reg = row.reg.unwrap_or(self.rng.below(8) as u8);
        if !memory {
            // Destinations are rarely pointers.
            let mut rm = self.rng.below(8) as u8;
            if self.rng.below(8) != 0 && self.pointers & 1 << rm != 0 {
                rm = self.rng.below(8) as u8;
            }
            out.push(0xC0 | reg << 3 | rm);
            return;
        }
        let bits = matches!(row.opcode[..], [0x0F, 0xA3 | 0xAB | 0xB3 | 0xBB]);
        if bits && !op16 && self.rng.below(8) != 0 {
            // Bit numbers reach far: mostly a small one.
            reg = self.register(self.small).unwrap_or(1);
        }
        if row.reg.is_none() && self.rng.below(4) != 0 && self.pointers & 1 << reg != 0 && !bits {
            reg = self.rng.below(8) as u8;
        }
        let at = out.len();
        self.memory(reg, self.seg[segment.unwrap_or(DS)], wide, out);
        // EBP, ESP and BP go through SS, which may be of another kind.
        let modrm = out[at];
        let stack = if wide {
            let b = if modrm & 7 == 4 { out[at + 1] & 7 } else { modrm & 7 };
            b == 4 || (b == 5 && modrm >> 6 != 0)
        } else {
            matches!(modrm & 7, 2 | 3) || (modrm & 7 == 6 && modrm >> 6 != 0)
        };
        if stack && segment.is_none() && is_based(self.seg[SS]) != is_based(self.seg[DS]) {
            out.truncate(at);
            self.memory(reg, self.seg[SS], wide, out);
        }
    }

    /// Immediates that make sense.
    fn patch(&mut self, row: &Row, at: usize, out: &mut [u8]) {
        match row.opcode[..] {
            // ENTER
            [0xC8] => {
                out[at] &= 0x3F;
                out[at + 1] = 0;
                if self.rng.below(4) != 0 {
                    out[at + 2] &= 3;
                }
            }
            // INT: not the host's system call.
            [0xCD] if out[at] == 0x80 => out[at] = 0x81,
            // SHLD, SHRD with 16 bits: counts above 16 are undefined.
            [0x0F, 0xA4 | 0xAC] => out[at] &= 0xEF,
            _ => {}
        }
    }

    /// The instruction is that of the row, defined, and reads no flag that is undefined.
    fn accept(&mut self, row: &Row, ins: &Instruction) -> bool {
        use Mnemonic as M;
        if reads_flags(ins) & self.p.undefined != 0 {
            return false;
        }
        // What is implied points somewhere, mostly.
        let needs: u8 = match ins.mnemonic() {
            M::Movsb | M::Movsw | M::Movsd | M::Cmpsb | M::Cmpsw | M::Cmpsd => 0xC0,
            M::Lodsb | M::Lodsw | M::Lodsd => 0x40,
            M::Stosb | M::Stosw | M::Stosd | M::Scasb | M::Scasw | M::Scasd => 0x80,
            M::Xlatb => 8,
            M::Leave | M::Enter => 0x20,
            _ => 0,
        };
        if needs & !self.pointers != 0 && self.rng.below(16) != 0 {
            return false;
        }
        match ins.mnemonic() {
            // Newer processors have it.
            M::Tpause | M::Clwb | M::Clflushopt => false,
            // A prefix has made something else of it, which newer processors have.
            M::Tzcnt | M::Lzcnt => false,
            M::Popcnt => row.mnemonic == M::Popcnt,
            M::Shld | M::Shrd => ins.op_kind(2) != OpKind::Register || ins.memory_or_register_size() != 2,
            // ESP stays what it is.
            _ => {
                let esp = ins.op_count() > 0
                    && ins.op0_kind() == OpKind::Register
                    && matches!(ins.op0_register(), Register::ESP | Register::SP)
                    && !matches!(ins.mnemonic(), M::Push | M::Cmp | M::Test | M::Bt);
                !esp || self.rng.below(6) == 0
            }
        }
    }

    /// A selector to load into segment register `n`.
    pub fn some_selector(&mut self, n: usize) -> u16 {
        let pick = |rng: &mut Rng, list: &[usize]| selector(list[rng.below(list.len() as u32) as usize]);
        let rng = &mut *self.rng;
        match rng.below(20) {
            // Not 1 to 3: the host's kernel makes 0 of them whenever it returns.
            0 => [0, USER_CS, 0x33, 0x08, 0x10, 0x1B, 0x2A, 0x28, 0x80, 0xFFFF, 0x60][rng.below(11) as usize],
            1 => pick(rng, &BAD),
            2 => rng.below(30) as u16 * 8 + 4 + rng.below(4) as u16,
            _ => match (n, self.p.based) {
                (SS, true) => pick(rng, &BASED_STACKS),
                (SS, false) if rng.below(2) == 0 => USER_DS,
                (SS, false) => pick(rng, &FLAT_STACKS),
                (_, true) => pick(rng, &BASED_DATA),
                _ if rng.below(2) == 0 => USER_DS,
                (_, false) => pick(rng, &FLAT_DATA),
            },
        }
    }
}

/// What the writer asks of an instruction.
trait Questions {
    fn rep_needs_small_count(&self) -> bool;
    fn memory_or_register_size(&self) -> usize;
}

impl Questions for Instruction {
    fn rep_needs_small_count(&self) -> bool {
        (self.has_rep_prefix() || self.has_repne_prefix()) && self.is_string_instruction()
    }

    fn memory_or_register_size(&self) -> usize {
        match self.op0_kind() {
            OpKind::Register => self.op0_register().size(),
            _ => self.memory_size().size(),
        }
    }
}
