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
    match S::fast::<W>(cpu, env, i) {
        Some(b) if D::fast_update(cpu, env, i, |cpu, a| O::apply(cpu, a, b)) => Ok(()),
        _ => binary_slow::<W, O, D, S>(cpu, env, i),
    }
}

#[cold]
#[inline(never)]
fn binary_slow<W: Width, O: Op, D: Dst, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let b: W = S::read(cpu, env, i)?;
    D::update(cpu, env, i, |cpu, a: W| O::apply(cpu, a, b))
}

/// An operation that only sets flags.
trait Probe {
    fn apply<W: Width>(cpu: &mut CpuState, a: W, b: W);
}

struct Cmp;
struct Test;

impl Probe for Cmp {
    #[inline(always)]
    fn apply<W: Width>(cpu: &mut CpuState, a: W, b: W) {
        sub(cpu, a, b, 0);
    }
}

impl Probe for Test {
    #[inline(always)]
    fn apply<W: Width>(cpu: &mut CpuState, a: W, b: W) {
        cpu.flags = Flags::logic(W::trunc(a.zext() & b.zext()).sext());
    }
}

fn probe<W: Width, P: Probe, D: Src, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    match (D::fast::<W>(cpu, env, i), S::fast::<W>(cpu, env, i)) {
        (Some(a), Some(b)) => {
            P::apply(cpu, a, b);
            Ok(())
        }
        _ => probe_slow::<W, P, D, S>(cpu, env, i),
    }
}

#[cold]
#[inline(never)]
fn probe_slow<W: Width, P: Probe, D: Src, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let a: W = D::read(cpu, env, i)?;
    let b: W = S::read(cpu, env, i)?;
    P::apply(cpu, a, b);
    Ok(())
}

/// A one-operand operation.
trait Unary {
    fn apply<W: Width>(cpu: &mut CpuState, a: W) -> W;
}

struct Inc;
struct Dec;
struct Neg;
struct Not;

impl Unary for Inc {
    #[inline(always)]
    fn apply<W: Width>(cpu: &mut CpuState, a: W) -> W {
        let cf = cpu.flags.cf();
        let r = add(cpu, a, W::trunc(1), 0);
        cpu.flags.set_cf(cf);
        r
    }
}

impl Unary for Dec {
    #[inline(always)]
    fn apply<W: Width>(cpu: &mut CpuState, a: W) -> W {
        let cf = cpu.flags.cf();
        let r = sub(cpu, a, W::trunc(1), 0);
        cpu.flags.set_cf(cf);
        r
    }
}

impl Unary for Neg {
    #[inline(always)]
    fn apply<W: Width>(cpu: &mut CpuState, a: W) -> W {
        sub(cpu, W::trunc(0), a, 0)
    }
}

impl Unary for Not {
    #[inline(always)]
    fn apply<W: Width>(_: &mut CpuState, a: W) -> W {
        W::trunc(!a.zext())
    }
}

fn unary<W: Width, O: Unary, D: Dst>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    if D::fast_update(cpu, env, i, |cpu, a: W| O::apply(cpu, a)) {
        return Ok(());
    }
    unary_slow::<W, O, D>(cpu, env, i)
}

#[cold]
#[inline(never)]
fn unary_slow<W: Width, O: Unary, D: Dst>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    D::update(cpu, env, i, |cpu, a: W| O::apply(cpu, a))
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

fn probes<P: Probe>(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.form {
        Form::RR => by_width!(d.size, probe, P, R0, R1),
        Form::RM => by_width!(d.size, probe, P, R0, M),
        Form::MR => by_width!(d.size, probe, P, M, R1),
        Form::RI => by_width!(d.size, probe, P, R0, Imm),
        Form::MI => by_width!(d.size, probe, P, M, Imm),
        _ => None,
    }
}

fn unaries<O: Unary>(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.form {
        Form::R => by_width!(d.size, unary, O, R0),
        _ => by_width!(d.size, unary, O, M),
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
        Mnemonic::Cmp => probes::<Cmp>(d),
        Mnemonic::Test => probes::<Test>(d),
        Mnemonic::Inc => unaries::<Inc>(d),
        Mnemonic::Dec => unaries::<Dec>(d),
        Mnemonic::Neg => unaries::<Neg>(d),
        Mnemonic::Not => unaries::<Not>(d),
        _ => None,
    }
}
