//! Flags that a block leaves behind without computing them.
//!
//! Most flags that are live at the end of a block are overwritten by the next one before anything reads them.
//! A block whose last flags can be computed from registers therefore stores only a *marker* in the slot: the
//! number of a description ([`Lazy`]). The next block is entered that way only if nothing in it can ask for the
//! flags before it has overwritten them, except where it is left for Rust code, which computes them then
//! ([`resolve`]); until there it leaves the registers of the description alone. All other edges lead through a few
//! instructions that compute the flags ([`emit`]).

use dynasm::dynasm;
use dynasmrt::DynasmApi;
use emu_core::cpu::CpuState;
use emu_core::cpu::flags::{self, Flags};
use emu_core::decode::block::KeyMap;

use crate::assembler::Assembler as Ops;
use crate::assume::{pack, set_slot, slot};
use crate::encode::{self, Rm};
use crate::layout::{CARRY, LAZY_OPERAND, LAZY_PAGE, host, pinned};
use crate::lower::store_flags;

/// How the flags come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// `x` is a sum of which `y` was the second operand.
    Sum,
    /// `x` is a difference of which `y` was the second operand.
    Difference,
    /// `x` minus `y`.
    Compare,
    /// `x` and `y`.
    Test,
    /// `x` is what INC has left; CF is in [`CARRY`].
    Inc,
    /// The same of DEC.
    Dec,
}

/// An operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operand {
    /// A guest register, in byte operations 4-7 are AH CH DH BH; or [`MEMORY`].
    Register(u8),
    Constant(u32),
}

/// Flags that have not been computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lazy {
    pub(crate) op: Op,
    /// Of the operands, in bytes. 4 if registers have been changed.
    pub(crate) size: u32,
    /// A register, or [`MEMORY`].
    pub(crate) x: u8,
    pub(crate) y: Operand,
}

/// Number of something that was loaded from memory, or is what memory holds now: [`LAZY_OPERAND`].
pub(crate) const MEMORY: u8 = 16;

/// Bit of the slot that LAHF always sets: where it is clear, the rest is the number of a description.
const STORED: u16 = 1 << 9;

/// Most descriptions; reaching it drops all translations.
pub(crate) const MAX_LAZY: usize = 1 << 15;

fn marker(number: u16) -> u16 {
    number & (STORED - 1) | (number & !(STORED - 1)) << 1
}

fn number(slot: u16) -> Option<usize> {
    (slot & STORED == 0).then(|| usize::from(slot & (STORED - 1) | (slot >> 1) & !(STORED - 1)))
}

/// Descriptions by number.
#[derive(Default)]
pub(crate) struct Lazies {
    list: Vec<Lazy>,
    numbers: KeyMap<Lazy, u16>,
}

impl Lazies {
    /// All of them.
    pub(crate) fn list(&self) -> &[Lazy] {
        &self.list
    }

    /// The marker of a description. There must be room.
    pub(crate) fn marker(&mut self, lazy: Lazy) -> u16 {
        let list = &mut self.list;
        marker(*self.numbers.entry(lazy).or_insert_with(|| {
            list.push(lazy);
            (list.len() - 1) as u16
        }))
    }

    /// A description by its marker.
    pub(crate) fn get(&self, marker: u16) -> Option<Lazy> {
        self.list.get(number(marker)?).copied()
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.numbers.clear();
    }
}

impl Lazy {
    /// Mask of the guest registers it needs.
    pub(crate) fn registers(self) -> u16 {
        let mask = |r: u8| match r {
            MEMORY => 0,
            _ if self.size == 1 => 1u16 << (r & 3),
            _ => 1 << (r & 7),
        };
        mask(self.x)
            | match self.y {
                Operand::Register(r) => mask(r),
                Operand::Constant(_) => 0,
            }
    }

    /// [`LAZY_OPERAND`] is needed.
    pub(crate) fn takes_memory(self) -> bool {
        self.x == MEMORY || self.y == Operand::Register(MEMORY)
    }

    fn register(self, cpu: &CpuState, r: u8) -> u32 {
        if r == MEMORY {
            return cpu.pages[LAZY_PAGE] as u32 & u32::MAX >> (32 - 8 * self.size);
        }
        match self.size {
            1 if r >= 4 => cpu.gpr[usize::from(r & 3)] >> 8 & 0xFF,
            1 => cpu.gpr[usize::from(r & 3)] & 0xFF,
            2 => cpu.gpr[usize::from(r & 7)] & 0xFFFF,
            _ => cpu.gpr[usize::from(r & 7)],
        }
    }

    /// The arithmetic flags.
    fn compute(self, cpu: &CpuState, carry: bool) -> Flags {
        let x = self.register(cpu, self.x);
        let y = match self.y {
            Operand::Register(r) => self.register(cpu, r),
            Operand::Constant(c) => c,
        };
        let bits = 8 * self.size;
        let top = 1 << (bits - 1);
        let mask = u32::MAX >> (32 - bits);
        let y = y & mask;
        let of_bits = |f: bool, bit: u32| if f { bit } else { 0 };
        let common = |result: u32| {
            of_bits(result == 0, flags::ZF)
                | of_bits(result & top != 0, flags::SF)
                | of_bits((result as u8).count_ones() & 1 == 0, flags::PF)
        };
        let sum = |a: u32, b: u32| {
            let r = a.wrapping_add(b) & mask;
            common(r)
                | of_bits(r < a, flags::CF)
                | of_bits((a ^ r) & (b ^ r) & top != 0, flags::OF)
                | (a ^ b ^ r) & flags::AF
        };
        let difference = |a: u32, b: u32| {
            let r = a.wrapping_sub(b) & mask;
            common(r)
                | of_bits(a < b, flags::CF)
                | of_bits((a ^ b) & (a ^ r) & top != 0, flags::OF)
                | (a ^ b ^ r) & flags::AF
        };
        let kept = |f: u32| f & !flags::CF | of_bits(carry, flags::CF);
        Flags::set(match self.op {
            Op::Sum => sum(x.wrapping_sub(y) & mask, y),
            Op::Difference => difference(x.wrapping_add(y) & mask, y),
            Op::Compare => difference(x, y),
            Op::Test => common(x & y),
            Op::Inc => kept(sum(x.wrapping_sub(1) & mask, 1)),
            Op::Dec => kept(difference(x.wrapping_add(1) & mask, 1)),
        })
    }
}

/// Computes the flags if the slot has only a marker. Registers must be in the state.
#[inline]
pub(crate) fn resolve(cpu: &mut CpuState, list: &[Lazy]) {
    if let Some(n) = number(slot(cpu))
        && let Some(lazy) = list.get(n)
    {
        let carry = (cpu.bindings[0] >> 24) & 1 != 0;
        let value = pack(lazy.compute(cpu, carry));
        set_slot(cpu, value);
    }
}

/// What computes the flags into the slot. Changes r9, r10 and the host's flags.
fn emit(ops: &mut Ops, lazy: Lazy) {
    let Lazy { op, size, x, y } = lazy;
    let name = |r: u8| match r {
        MEMORY => host::R9,
        _ if size == 1 => r,
        _ => pinned(r),
    };
    if lazy.takes_memory() {
        dynasm!(ops ; .arch x64 ; mov r9d, [r13 + LAZY_OPERAND]);
    }
    match (op, y) {
        (Op::Compare | Op::Test, Operand::Register(y)) => {
            let opcode = if op == Op::Test { 0x84 } else { 0x38 };
            encode::op(ops, size, &[opcode | u8::from(size != 1)], name(y), Rm::Reg(name(x)));
        }
        (Op::Compare | Op::Test, Operand::Constant(c)) => {
            let (opcode, number) = if op == Op::Test { (0xF6, 0) } else { (0x80, 7) };
            encode::op(ops, size, &[opcode | u8::from(size != 1)], number, Rm::Reg(name(x)));
            encode::imm(ops, size, c);
        }
        (Op::Inc, _) => dynasm!(ops
            ; .arch x64
            ; bt WORD [BYTE r13 + CARRY as i8], 0
            ; lea r10d, [Rq(name(x)) - 1]
            ; inc r10d
        ),
        (Op::Dec, _) => dynasm!(ops
            ; .arch x64
            ; bt WORD [BYTE r13 + CARRY as i8], 0
            ; lea r10d, [Rq(name(x)) + 1]
            ; dec r10d
        ),
        (Op::Sum, Operand::Register(y)) => {
            let (x, y) = (name(x), name(y));
            dynasm!(ops ; .arch x64 ; mov r10d, Rd(x) ; sub r10d, Rd(y) ; add r10d, Rd(y));
        }
        (Op::Sum, Operand::Constant(c)) => {
            let (x, c) = (name(x), c as i32);
            dynasm!(ops ; .arch x64 ; mov r10d, Rd(x) ; sub r10d, c ; add r10d, c);
        }
        (Op::Difference, Operand::Register(y)) => {
            let (x, y) = (name(x), name(y));
            dynasm!(ops ; .arch x64 ; mov r10d, Rd(x) ; add r10d, Rd(y) ; sub r10d, Rd(y));
        }
        (Op::Difference, Operand::Constant(c)) => {
            let (x, c) = (name(x), c as i32);
            dynasm!(ops ; .arch x64 ; mov r10d, Rd(x) ; add r10d, c ; sub r10d, c);
        }
    }
    store_flags(ops);
}

/// Code for `address` that computes the flags into the slot and goes on at `to`.
pub(crate) fn bridge(lazy: Lazy, to: usize, address: usize) -> Option<Vec<u8>> {
    let mut ops = Ops::new();
    emit(&mut ops, lazy);
    ops.push(0xE9);
    ops.push_distance_to(to);
    ops.finish_at(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_and_number_are_inverse() {
        for n in 0..MAX_LAZY as u16 {
            let m = marker(n);
            assert_eq!(m & STORED, 0);
            assert_eq!(number(m), Some(usize::from(n)));
        }
        assert_eq!(number(pack(Flags::set(0))), None);
        assert_eq!(number(pack(Flags::set(0xFFFF_FFFF))), None);
    }

    #[test]
    fn computed_flags_equal_the_processors() {
        let values =
            [0u32, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, !0];
        let mut cpu = CpuState::default();
        for a in values {
            for b in values {
                cpu.gpr[0] = a;
                cpu.gpr[3] = b;
                let compare = |size, op| Lazy { op, size, x: 0, y: Operand::Register(3) };
                let eight = a.wrapping_sub(b) & 0xFF;
                let f = compare(1, Op::Compare).compute(&cpu, false);
                assert_eq!(f.zf(), eight == 0);
                assert_eq!(f.cf(), (a as u8) < b as u8);
                assert_eq!(f.of(), (a as i8).checked_sub(b as i8).is_none());
                let f = compare(4, Op::Compare).compute(&cpu, false);
                assert_eq!((f.zf(), f.cf()), (a == b, a < b));
                assert_eq!(f.of(), (a as i32).checked_sub(b as i32).is_none());
                assert_eq!(f.sf(), (a.wrapping_sub(b) as i32) < 0);
                assert_eq!(f.af(), (a & 15) < (b & 15));
                cpu.gpr[0] = a.wrapping_add(b);
                let f = compare(4, Op::Sum).compute(&cpu, false);
                assert_eq!((f.zf(), f.cf()), (a.wrapping_add(b) == 0, a.checked_add(b).is_none()));
                assert_eq!(f.of(), (a as i32).checked_add(b as i32).is_none());
                assert_eq!(f.af(), (a & 15) + (b & 15) > 15);
                cpu.gpr[0] = a.wrapping_sub(b);
                let f = compare(4, Op::Difference).compute(&cpu, false);
                assert_eq!((f.zf(), f.cf()), (a == b, a < b));
            }
            // Of what was in memory only the operand's bytes count.
            cpu.pages[LAZY_PAGE] = u64::from(a);
            let memory = Lazy { op: Op::Compare, size: 1, x: MEMORY, y: Operand::Constant(0x80) };
            let f = memory.compute(&cpu, false);
            assert_eq!((f.zf(), f.cf()), (a as u8 == 0x80, (a as u8) < 0x80));
            cpu.gpr[0] = a.wrapping_add(1);
            let step = Lazy { op: Op::Inc, size: 4, x: 0, y: Operand::Constant(0) };
            let f = step.compute(&cpu, true);
            assert!(f.cf());
            assert_eq!((f.zf(), f.of()), (a == u32::MAX, a == 0x7FFF_FFFF));
        }
    }
}
