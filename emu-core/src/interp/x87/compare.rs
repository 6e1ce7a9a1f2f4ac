//! FCOM FUCOM FICOM FCOMI FUCOMI FTST with their popping forms, and FXAM.

use iced_x86::Code;

use super::{C0, C1, C2, C3, Double, Short, Single, Source, Word, begin, conclude, modes, note};
use crate::cpu::flags::{self, Flags};
use crate::cpu::{CpuState, Exec};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};
use crate::interp::Env;
use crate::softfloat::{self, Class, F80, Relation};

/// Condition codes of an outcome (SDM vol. 2, FCOM).
#[inline(always)]
fn codes(relation: Relation) -> u16 {
    match relation {
        Relation::Greater => 0,
        Relation::Less => C0,
        Relation::Equal => C3,
        Relation::Unordered => C0 | C2 | C3,
    }
}

/// `a` against `b`; a `QUIET` comparison does not mind quiet NaNs.
#[inline(always)]
fn relation<const QUIET: bool>(a: F80, b: F80, fp: &mut softfloat::Env) -> Relation {
    if QUIET { a.compare_quiet(b, fp) } else { a.compare(b, fp) }
}

#[inline(always)]
fn pop_all(cpu: &mut CpuState, pops: u8) {
    for _ in 0..pops {
        cpu.x87.pop();
    }
}

/// Sets the condition codes and pops, unless an unmasked exception keeps the operands.
#[inline(always)]
fn finish(cpu: &mut CpuState, relation: Relation, fp: &softfloat::Env, pops: u8) {
    conclude(cpu, fp);
    cpu.x87.set_codes(codes(relation));
    if !fp.suppresses_result() {
        pop_all(cpu, pops);
    }
}

/// The outcome with an empty register.
#[cold]
fn underflow(cpu: &mut CpuState, pops: u8) {
    cpu.x87.set_codes(codes(Relation::Unordered));
    if cpu.x87.stack_fault(false) {
        pop_all(cpu, pops);
    }
}

/// ST(0) against ST(`n`).
#[inline(always)]
fn compare_register<const QUIET: bool, const POPS: u8>(cpu: &mut CpuState, n: u8) {
    let x87 = &cpu.x87;
    if x87.is_empty(0) || x87.is_empty(n) {
        return underflow(cpu, POPS);
    }
    let (a, b) = (x87.st(0), x87.st(n));
    let mut fp = modes(cpu);
    let relation = relation::<QUIET>(a, b, &mut fp);
    finish(cpu, relation, &fp, POPS);
}

/// FCOM FCOMP FUCOM FUCOMP.
fn registers<const QUIET: bool, const POPS: u8>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    compare_register::<QUIET, POPS>(cpu, i.r1);
    Ok(())
}

/// FCOMPP FUCOMPP.
fn twice_popping<const QUIET: bool>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    compare_register::<QUIET, 2>(cpu, 1);
    Ok(())
}

/// FCOM FCOMP FICOM FICOMP with memory.
fn memory<S: Source, const POPS: u8>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    let b = S::load(cpu, env, i)?;
    if cpu.x87.is_empty(0) {
        underflow(cpu, POPS);
        return Ok(());
    }
    let a = cpu.x87.st(0);
    let mut fp = modes(cpu);
    let relation = relation::<false>(a, b.value, &mut fp);
    b.raise_denormal(&mut fp, relation == Relation::Unordered);
    finish(cpu, relation, &fp, POPS);
    Ok(())
}

/// FTST: against +0.
fn ftst(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    if cpu.x87.is_empty(0) {
        underflow(cpu, 0);
        return Ok(());
    }
    let a = cpu.x87.st(0);
    let mut fp = modes(cpu);
    let relation = a.compare(F80::ZERO, &mut fp);
    finish(cpu, relation, &fp, 0);
    Ok(())
}

/// FCOMI FCOMIP FUCOMI FUCOMIP: the outcome goes to ZF, PF and CF; OF, SF and AF are cleared.
fn flags<const QUIET: bool, const POPS: u8>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    let mut fp = softfloat::Env::x87(x87.control);
    let (outcome, stopped) = if x87.is_empty(0) || x87.is_empty(i.r1) {
        (Relation::Unordered, !x87.stack_fault(false))
    } else {
        let outcome = relation::<QUIET>(x87.st(0), x87.st(i.r1), &mut fp);
        conclude(cpu, &fp);
        (outcome, fp.suppresses_result())
    };
    cpu.flags = Flags::set(match outcome {
        Relation::Greater => 0,
        Relation::Less => flags::CF,
        Relation::Equal => flags::ZF,
        Relation::Unordered => flags::ZF | flags::PF | flags::CF,
    });
    if !stopped {
        pop_all(cpu, POPS);
    }
    Ok(())
}

/// FXAM: class and sign of ST(0), the sign of an empty register too.
fn fxam(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    let value = x87.st(0);
    let class = if x87.is_empty(0) {
        C3 | C0
    } else {
        match value.class() {
            Class::Unsupported => 0,
            Class::QuietNan | Class::SignallingNan => C0,
            Class::Normal => C2,
            Class::Infinity => C2 | C0,
            Class::Zero => C3,
            Class::Denormal => C3 | C2,
        }
    };
    x87.set_codes(class | if value.is_negative() { C1 } else { 0 });
    Ok(())
}

/// Dispatch rows of this file.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    Some(match d.code {
        Code::Fcom_st0_sti | Code::Fcom_st0_sti_DCD0 => registers::<false, 0>,
        Code::Fcomp_st0_sti | Code::Fcomp_st0_sti_DCD8 | Code::Fcomp_st0_sti_DED0 => registers::<false, 1>,
        Code::Fucom_st0_sti => registers::<true, 0>,
        Code::Fucomp_st0_sti => registers::<true, 1>,
        Code::Fcompp => twice_popping::<false>,
        Code::Fucompp => twice_popping::<true>,
        Code::Fcom_m32fp => memory::<Single, 0>,
        Code::Fcomp_m32fp => memory::<Single, 1>,
        Code::Fcom_m64fp => memory::<Double, 0>,
        Code::Fcomp_m64fp => memory::<Double, 1>,
        Code::Ficom_m16int => memory::<Word, 0>,
        Code::Ficomp_m16int => memory::<Word, 1>,
        Code::Ficom_m32int => memory::<Short, 0>,
        Code::Ficomp_m32int => memory::<Short, 1>,
        Code::Ftst => ftst,
        Code::Fcomi_st0_sti => flags::<false, 0>,
        Code::Fcomip_st0_sti => flags::<false, 1>,
        Code::Fucomi_st0_sti => flags::<true, 0>,
        Code::Fucomip_st0_sti => flags::<true, 1>,
        Code::Fxam => fxam,
        _ => return None,
    })
}
