//! F2XM1 FYL2X FYL2XP1 FPTAN FPATAN FSIN FCOS FSINCOS.

use iced_x86::Code;

use super::arith::{Unary, unary};
use super::{C2, begin, conclude, modes, note};
use crate::cpu::{CpuState, Exec};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};
use crate::interp::Env;
use crate::softfloat::{self, F80};

struct Exp2Minus1;

impl Unary for Exp2Minus1 {
    fn apply(a: F80, fp: &mut softfloat::Env) -> F80 {
        a.exp2_minus_1(fp)
    }
}

/// A function of ST(0) and ST(1) whose value replaces both.
trait TwoToOne {
    fn apply(st0: F80, st1: F80, fp: &mut softfloat::Env) -> F80;
}

struct Yl2x;
struct Yl2xp1;
struct Patan;

impl TwoToOne for Yl2x {
    fn apply(st0: F80, st1: F80, fp: &mut softfloat::Env) -> F80 {
        st0.log2_times(st1, fp)
    }
}

impl TwoToOne for Yl2xp1 {
    fn apply(st0: F80, st1: F80, fp: &mut softfloat::Env) -> F80 {
        st0.log2_1p_times(st1, fp)
    }
}

impl TwoToOne for Patan {
    fn apply(st0: F80, st1: F80, fp: &mut softfloat::Env) -> F80 {
        st1.atan2(st0, fp)
    }
}

fn two_to_one<O: TwoToOne>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    if x87.is_empty(0) || x87.is_empty(1) {
        if x87.stack_fault(false) {
            x87.set_st(1, F80::INDEFINITE);
            x87.pop();
        }
        return Ok(());
    }
    let (a, b) = (x87.st(0), x87.st(1));
    let mut fp = modes(cpu);
    let value = O::apply(a, b, &mut fp);
    conclude(cpu, &fp);
    if !fp.suppresses_result() {
        cpu.x87.set_st(1, value);
        cpu.x87.pop();
    }
    Ok(())
}

/// FSIN and FCOS: C2 tells that the angle is out of range and nothing was done.
fn sin_or_cos<const COS: bool>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    x87.status &= !C2;
    if x87.is_empty(0) {
        if x87.stack_fault(false) {
            x87.set_st(0, F80::INDEFINITE);
        }
        return Ok(());
    }
    let a = x87.st(0);
    let mut fp = modes(cpu);
    let value = if COS { a.cos(&mut fp) } else { a.sin(&mut fp) };
    conclude(cpu, &fp);
    match value {
        None => cpu.x87.status |= C2,
        Some(value) if !fp.suppresses_result() => cpu.x87.set_st(0, value),
        Some(_) => {}
    }
    Ok(())
}

/// A function of ST(0) with two values: one replaces it, the other is pushed.
trait OneToTwo {
    fn apply(a: F80, fp: &mut softfloat::Env) -> Option<(F80, F80)>;
}

struct SinCos;
struct Ptan;

impl OneToTwo for SinCos {
    fn apply(a: F80, fp: &mut softfloat::Env) -> Option<(F80, F80)> {
        a.sin_cos(fp)
    }
}

impl OneToTwo for Ptan {
    fn apply(a: F80, fp: &mut softfloat::Env) -> Option<(F80, F80)> {
        a.tan(fp)
    }
}

fn one_to_two<O: OneToTwo>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    x87.status &= !C2;
    if x87.is_empty(0) || x87.is_full() {
        let overflow = !x87.is_empty(0);
        if x87.stack_fault(overflow) {
            x87.set_st(0, F80::INDEFINITE);
            x87.push(F80::INDEFINITE);
        }
        return Ok(());
    }
    let a = x87.st(0);
    let mut fp = modes(cpu);
    let values = O::apply(a, &mut fp);
    conclude(cpu, &fp);
    match values {
        None => cpu.x87.status |= C2,
        Some((replacing, pushed)) if !fp.suppresses_result() => {
            cpu.x87.set_st(0, replacing);
            cpu.x87.push(pushed);
        }
        Some(_) => {}
    }
    Ok(())
}

/// Dispatch rows of this file.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    Some(match d.code {
        Code::F2xm1 => unary::<Exp2Minus1>,
        Code::Fyl2x => two_to_one::<Yl2x>,
        Code::Fyl2xp1 => two_to_one::<Yl2xp1>,
        Code::Fpatan => two_to_one::<Patan>,
        Code::Fsin => sin_or_cos::<false>,
        Code::Fcos => sin_or_cos::<true>,
        Code::Fsincos => one_to_two::<SinCos>,
        Code::Fptan => one_to_two::<Ptan>,
        _ => return None,
    })
}
