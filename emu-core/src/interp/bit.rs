//! BT BTS BTR BTC BSF BSR POPCNT.
//!
//! BT and its kin change CF only. BSF and BSR of 0 set ZF and leave the destination as it was; their
//! other flags are undefined (`docs/undefined-flags.md`).

use iced_x86::{Mnemonic, OpKind};

use super::Env;
use super::operand::{M, R1, Src, Width};
use crate::cpu::flags::{self, Flags};
use crate::cpu::{CpuState, Exec};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};

/// What happens to the tested bit.
trait BitOp {
    /// The operand is written back.
    const WRITES: bool;
    fn apply(v: u32, mask: u32) -> u32;
}

struct Test;
struct Set;
struct Reset;
struct Complement;

impl BitOp for Test {
    const WRITES: bool = false;
    fn apply(v: u32, _: u32) -> u32 {
        v
    }
}
impl BitOp for Set {
    const WRITES: bool = true;
    fn apply(v: u32, mask: u32) -> u32 {
        v | mask
    }
}
impl BitOp for Reset {
    const WRITES: bool = true;
    fn apply(v: u32, mask: u32) -> u32 {
        v & !mask
    }
}
impl BitOp for Complement {
    const WRITES: bool = true;
    fn apply(v: u32, mask: u32) -> u32 {
        v ^ mask
    }
}

/// Bit number from the immediate or the register operand.
fn number<W: Width, const IMM: bool>(cpu: &CpuState, i: &Insn) -> u32 {
    if IMM { i.imm } else { W::get(cpu, i.r1).sext() }
}

fn bit_register<W: Width, O: BitOp, const IMM: bool>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    let mask = 1 << (number::<W, IMM>(cpu, i) & (W::BITS - 1));
    let v = W::get(cpu, i.r0).zext();
    if O::WRITES {
        W::set(cpu, i.r0, W::trunc(O::apply(v, mask)));
    }
    cpu.flags.set_cf(v & mask != 0);
    Ok(())
}

/// A register bit number selects the word in memory too (signed); an immediate does not.
fn bit_memory<W: Width, O: BitOp, const IMM: bool>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let n = number::<W, IMM>(cpu, i);
    let mask = 1 << (n & (W::BITS - 1));
    let mut ea = i.ea(cpu);
    if !IMM {
        let words = (n as i32) >> W::BITS.trailing_zeros();
        ea = ea.wrapping_add((words as u32).wrapping_mul(W::BYTES));
        if i.addr16() {
            ea &= 0xFFFF;
        }
    }
    if O::WRITES {
        let lin = env.linear_write(cpu, i.seg, ea, W::BYTES)?;
        env.aligned(cpu, lin, W::BYTES)?;
        env.modify(cpu, lin, |cpu, v: W| {
            cpu.flags.set_cf(v.zext() & mask != 0);
            W::trunc(O::apply(v.zext(), mask))
        })
    } else {
        let lin = env.linear_read(cpu, i.seg, ea, W::BYTES)?;
        env.aligned(cpu, lin, W::BYTES)?;
        let v: W = env.read(cpu, lin)?;
        cpu.flags.set_cf(v.zext() & mask != 0);
        Ok(())
    }
}

fn bsf<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let v = S::read::<W>(cpu, env, i)?.zext();
    cpu.flags.set_zf(v == 0);
    if v != 0 {
        W::set(cpu, i.r0, W::trunc(v.trailing_zeros()));
    }
    Ok(())
}

fn bsr<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let v = S::read::<W>(cpu, env, i)?.zext();
    cpu.flags.set_zf(v == 0);
    if v != 0 {
        W::set(cpu, i.r0, W::trunc(31 - v.leading_zeros()));
    }
    Ok(())
}

fn popcnt<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let v = S::read::<W>(cpu, env, i)?.zext();
    W::set(cpu, i.r0, W::trunc(v.count_ones()));
    cpu.flags = Flags::set(if v == 0 { flags::ZF } else { 0 });
    Ok(())
}

fn test_forms<O: BitOp>(d: &Decoded<'_>) -> Option<ExecFn> {
    let imm = d.ins.op1_kind() == OpKind::Immediate8;
    let memory = matches!(d.form, Form::MR | Form::MI);
    Some(match (memory, imm, d.size) {
        (false, false, 2) => bit_register::<u16, O, false>,
        (false, true, 2) => bit_register::<u16, O, true>,
        (false, false, _) => bit_register::<u32, O, false>,
        (false, true, _) => bit_register::<u32, O, true>,
        (true, false, 2) => bit_memory::<u16, O, false>,
        (true, true, 2) => bit_memory::<u16, O, true>,
        (true, false, _) => bit_memory::<u32, O, false>,
        (true, true, _) => bit_memory::<u32, O, true>,
    })
}

macro_rules! scan {
    ($d:expr, $f:ident) => {
        Some(match ($d.form, $d.size) {
            (Form::RR, 2) => $f::<u16, R1> as ExecFn,
            (Form::RR, _) => $f::<u32, R1> as ExecFn,
            (_, 2) => $f::<u16, M> as ExecFn,
            _ => $f::<u32, M> as ExecFn,
        })
    };
}

/// Dispatch rows of this family. TZCNT and LZCNT are not offered: their encodings are BSF and BSR.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.mnemonic {
        Mnemonic::Bt => test_forms::<Test>(d),
        Mnemonic::Bts => test_forms::<Set>(d),
        Mnemonic::Btr => test_forms::<Reset>(d),
        Mnemonic::Btc => test_forms::<Complement>(d),
        Mnemonic::Bsf | Mnemonic::Tzcnt => scan!(d, bsf),
        Mnemonic::Bsr | Mnemonic::Lzcnt => scan!(d, bsr),
        Mnemonic::Popcnt => scan!(d, popcnt),
        _ => None,
    }
}
