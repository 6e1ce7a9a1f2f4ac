//! ADD ADC SUB SBB CMP INC DEC NEG AND OR XOR TEST NOT.

use iced_x86::Mnemonic;

use super::Env;
use super::operand::{Dst, Imm, M, R0, R1, Src, Width};
use crate::by_width;
use crate::cpu::flags::Flags;
use crate::cpu::{CpuState, Exec};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};

/// `a + b + carry` with all flags.
#[inline(always)]
pub(crate) fn add<W: Width>(cpu: &mut CpuState, a: W, b: W, carry: u32) -> W {
    let (a, b) = (a.sext(), b.sext());
    let res = W::trunc(a.wrapping_add(b).wrapping_add(carry));
    let r = res.sext();
    cpu.flags = Flags::arith(r, (a & b) | ((a | b) & !r), W::BITS);
    res
}

/// `a - b - borrow` with all flags.
#[inline(always)]
pub(crate) fn sub<W: Width>(cpu: &mut CpuState, a: W, b: W, borrow: u32) -> W {
    let (a, b) = (a.sext(), b.sext());
    let res = W::trunc(a.wrapping_sub(b).wrapping_sub(borrow));
    let r = res.sext();
    cpu.flags = Flags::arith(r, (!a & b) | ((!a | b) & r), W::BITS);
    res
}

/// A two-operand operation that produces a result.
trait Op {
    fn apply<W: Width>(cpu: &mut CpuState, a: W, b: W) -> W;
}

macro_rules! ops {
    ($($name:ident |$cpu:ident, $a:ident, $b:ident| $body:expr;)*) => {$(
        struct $name;
        impl Op for $name {
            #[inline(always)]
            fn apply<W: Width>($cpu: &mut CpuState, $a: W, $b: W) -> W { $body }
        }
    )*};
}

#[inline(always)]
fn logic<W: Width>(cpu: &mut CpuState, r: u32) -> W {
    let res = W::trunc(r);
    cpu.flags = Flags::logic(res.sext());
    res
}

ops! {
    Add |cpu, a, b| add(cpu, a, b, 0);
    Adc |cpu, a, b| { let c = u32::from(cpu.flags.cf()); add(cpu, a, b, c) };
    Sub |cpu, a, b| sub(cpu, a, b, 0);
    Sbb |cpu, a, b| { let c = u32::from(cpu.flags.cf()); sub(cpu, a, b, c) };
    And |cpu, a, b| logic(cpu, a.zext() & b.zext());
    Or |cpu, a, b| logic(cpu, a.zext() | b.zext());
    Xor |cpu, a, b| logic(cpu, a.zext() ^ b.zext());
}

fn binary<W: Width, O: Op, D: Dst, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let b: W = S::read(cpu, env, i)?;
    D::update(cpu, env, i, |cpu, a: W| O::apply(cpu, a, b))
}

fn cmp<W: Width, D: Src, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let a: W = D::read(cpu, env, i)?;
    let b: W = S::read(cpu, env, i)?;
    sub(cpu, a, b, 0);
    Ok(())
}

fn test<W: Width, D: Src, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let a: W = D::read(cpu, env, i)?;
    let b: W = S::read(cpu, env, i)?;
    cpu.flags = Flags::logic(W::trunc(a.zext() & b.zext()).sext());
    Ok(())
}

fn inc<W: Width, D: Dst>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    D::update(cpu, env, i, |cpu, a: W| {
        let cf = cpu.flags.cf();
        let r = add(cpu, a, W::trunc(1), 0);
        cpu.flags.set_cf(cf);
        r
    })
}

fn dec<W: Width, D: Dst>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    D::update(cpu, env, i, |cpu, a: W| {
        let cf = cpu.flags.cf();
        let r = sub(cpu, a, W::trunc(1), 0);
        cpu.flags.set_cf(cf);
        r
    })
}

fn neg<W: Width, D: Dst>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    D::update(cpu, env, i, |cpu, a: W| sub(cpu, W::trunc(0), a, 0))
}

fn not<W: Width, D: Dst>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    D::update(cpu, env, i, |_, a: W| W::trunc(!a.zext()))
}

fn forms<O: Op>(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.form {
        Form::RR => by_width!(d.size, binary, O, R0, R1),
        Form::RM => by_width!(d.size, binary, O, R0, M),
        Form::MR => by_width!(d.size, binary, O, M, R1),
        Form::RI => by_width!(d.size, binary, O, R0, Imm),
        Form::MI => by_width!(d.size, binary, O, M, Imm),
        _ => None,
    }
}

/// Dispatch rows of this family.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.mnemonic {
        Mnemonic::Add => forms::<Add>(d),
        Mnemonic::Adc => forms::<Adc>(d),
        Mnemonic::Sub => forms::<Sub>(d),
        Mnemonic::Sbb => forms::<Sbb>(d),
        Mnemonic::And => forms::<And>(d),
        Mnemonic::Or => forms::<Or>(d),
        Mnemonic::Xor => forms::<Xor>(d),
        Mnemonic::Cmp => match d.form {
            Form::RR => by_width!(d.size, cmp, R0, R1),
            Form::RM => by_width!(d.size, cmp, R0, M),
            Form::MR => by_width!(d.size, cmp, M, R1),
            Form::RI => by_width!(d.size, cmp, R0, Imm),
            Form::MI => by_width!(d.size, cmp, M, Imm),
            _ => None,
        },
        Mnemonic::Test => match d.form {
            Form::RR => by_width!(d.size, test, R0, R1),
            Form::MR => by_width!(d.size, test, M, R1),
            Form::RI => by_width!(d.size, test, R0, Imm),
            Form::MI => by_width!(d.size, test, M, Imm),
            _ => None,
        },
        Mnemonic::Inc if d.form == Form::R => by_width!(d.size, inc, R0),
        Mnemonic::Inc => by_width!(d.size, inc, M),
        Mnemonic::Dec if d.form == Form::R => by_width!(d.size, dec, R0),
        Mnemonic::Dec => by_width!(d.size, dec, M),
        Mnemonic::Neg if d.form == Form::R => by_width!(d.size, neg, R0),
        Mnemonic::Neg => by_width!(d.size, neg, M),
        Mnemonic::Not if d.form == Form::R => by_width!(d.size, not, R0),
        Mnemonic::Not => by_width!(d.size, not, M),
        _ => None,
    }
}
