//! FADD FSUB FSUBR FMUL FDIV FDIVR in all their forms, FSQRT FRNDINT FSCALE FPREM FPREM1 FXTRACT FABS
//! FCHS.

use iced_x86::Code;

use super::{C0, C1, C2, C3, Double, Short, Single, Source, Word, begin, conclude, modes, note};
use crate::cpu::{CpuState, Exec};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};
use crate::interp::Env;
use crate::softfloat::{self, Class, F80, Remainder};

/// A two-operand operation; the first operand is the destination.
trait Binary {
    fn apply(a: F80, b: F80, fp: &mut softfloat::Env) -> F80;
}

macro_rules! binary {
    ($($name:ident |$a:ident, $b:ident, $fp:ident| $body:expr;)*) => {$(
        struct $name;
        impl Binary for $name {
            #[inline(always)]
            fn apply($a: F80, $b: F80, $fp: &mut softfloat::Env) -> F80 { $body }
        }
    )*};
}

binary! {
    Add |a, b, fp| a.add(b, fp);
    Sub |a, b, fp| a.sub(b, fp);
    SubR |a, b, fp| b.sub(a, fp);
    Mul |a, b, fp| a.mul(b, fp);
    Div |a, b, fp| a.div(b, fp);
    DivR |a, b, fp| b.div(a, fp);
    Scale |a, b, fp| a.scale(b, fp);
}

/// `ST(r0) = ST(r0) op ST(r1)`.
fn registers<O: Binary, const POP: bool>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    binary::<O, POP>(cpu, i.r0, i.r1);
    Ok(())
}

#[inline(always)]
fn binary<O: Binary, const POP: bool>(cpu: &mut CpuState, to: u8, from: u8) {
    let x87 = &mut cpu.x87;
    if x87.is_empty(to) || x87.is_empty(from) {
        if x87.stack_fault(false) {
            x87.set_st(to, F80::INDEFINITE);
            if POP {
                x87.pop();
            }
        }
        return;
    }
    let (a, b) = (x87.st(to), x87.st(from));
    let mut fp = modes(cpu);
    let value = O::apply(a, b, &mut fp);
    conclude(cpu, &fp);
    if !fp.suppresses_result() {
        cpu.x87.set_st(to, value);
        if POP {
            cpu.x87.pop();
        }
    }
}

/// `ST(0) = ST(0) op memory`.
fn memory<O: Binary, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    let b = S::load(cpu, env, i)?;
    let x87 = &mut cpu.x87;
    if x87.is_empty(0) {
        if x87.stack_fault(false) {
            x87.set_st(0, F80::INDEFINITE);
        }
        return Ok(());
    }
    let a = x87.st(0);
    let mut fp = modes(cpu);
    let value = O::apply(a, b.value, &mut fp);
    b.raise_denormal(&mut fp, value.class() == Class::QuietNan);
    conclude(cpu, &fp);
    if !fp.suppresses_result() {
        cpu.x87.set_st(0, value);
    }
    Ok(())
}

/// FSCALE: `ST(0) = ST(0) * 2^ST(1)`.
fn fscale(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    binary::<Scale, false>(cpu, 0, 1);
    Ok(())
}

/// An operation on ST(0).
pub(super) trait Unary {
    fn apply(a: F80, fp: &mut softfloat::Env) -> F80;
}

struct Sqrt;
struct Rndint;
struct Abs;
struct Chs;

impl Unary for Sqrt {
    #[inline(always)]
    fn apply(a: F80, fp: &mut softfloat::Env) -> F80 {
        a.sqrt(fp)
    }
}

impl Unary for Rndint {
    #[inline(always)]
    fn apply(a: F80, fp: &mut softfloat::Env) -> F80 {
        a.round_to_integral(fp)
    }
}

impl Unary for Abs {
    #[inline(always)]
    fn apply(a: F80, _: &mut softfloat::Env) -> F80 {
        a.abs()
    }
}

impl Unary for Chs {
    #[inline(always)]
    fn apply(a: F80, _: &mut softfloat::Env) -> F80 {
        a.neg()
    }
}

pub(super) fn unary<O: Unary>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    if x87.is_empty(0) {
        if x87.stack_fault(false) {
            x87.set_st(0, F80::INDEFINITE);
        }
        return Ok(());
    }
    let a = x87.st(0);
    let mut fp = modes(cpu);
    let value = O::apply(a, &mut fp);
    conclude(cpu, &fp);
    if !fp.suppresses_result() {
        cpu.x87.set_st(0, value);
    }
    Ok(())
}

/// FPREM and FPREM1: the low bits of the quotient go to C0, C3 and C1, incompleteness to C2. Without a
/// quotient (NaNs, invalid operations, unmasked denormals) C0 and C3 stay.
fn remainder<const NEAREST: bool>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    if x87.is_empty(0) || x87.is_empty(1) {
        x87.status &= !C2;
        if x87.stack_fault(false) {
            x87.set_st(0, F80::INDEFINITE);
        }
        return Ok(());
    }
    let (a, b) = (x87.st(0), x87.st(1));
    let mut fp = modes(cpu);
    let Remainder { value, quotient, partial } =
        if NEAREST { a.remainder_nearest(b, &mut fp) } else { a.remainder_truncated(b, &mut fp) };
    conclude(cpu, &fp);
    if fp.suppresses_result() || value.class() == Class::QuietNan {
        cpu.x87.status &= !C2;
    } else {
        let bit = |n: u8, code: u16| if quotient >> n & 1 != 0 { code } else { 0 };
        cpu.x87.set_codes(bit(2, C0) | bit(1, C3) | bit(0, C1) | if partial { C2 } else { 0 });
    }
    if !fp.suppresses_result() {
        cpu.x87.set_st(0, value);
    }
    Ok(())
}

/// FXTRACT: the exponent replaces ST(0), the significand is pushed.
fn fxtract(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
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
    let (exponent, significand) = a.extract(&mut fp);
    conclude(cpu, &fp);
    if !fp.suppresses_result() {
        cpu.x87.set_st(0, exponent);
        cpu.x87.push(significand);
    }
    Ok(())
}

/// Dispatch rows of this file.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    Some(match d.code {
        Code::Fadd_st0_sti | Code::Fadd_sti_st0 => registers::<Add, false>,
        Code::Fmul_st0_sti | Code::Fmul_sti_st0 => registers::<Mul, false>,
        Code::Fsub_st0_sti | Code::Fsub_sti_st0 => registers::<Sub, false>,
        Code::Fsubr_st0_sti | Code::Fsubr_sti_st0 => registers::<SubR, false>,
        Code::Fdiv_st0_sti | Code::Fdiv_sti_st0 => registers::<Div, false>,
        Code::Fdivr_st0_sti | Code::Fdivr_sti_st0 => registers::<DivR, false>,
        Code::Faddp_sti_st0 => registers::<Add, true>,
        Code::Fmulp_sti_st0 => registers::<Mul, true>,
        Code::Fsubp_sti_st0 => registers::<Sub, true>,
        Code::Fsubrp_sti_st0 => registers::<SubR, true>,
        Code::Fdivp_sti_st0 => registers::<Div, true>,
        Code::Fdivrp_sti_st0 => registers::<DivR, true>,
        Code::Fadd_m32fp => memory::<Add, Single>,
        Code::Fmul_m32fp => memory::<Mul, Single>,
        Code::Fsub_m32fp => memory::<Sub, Single>,
        Code::Fsubr_m32fp => memory::<SubR, Single>,
        Code::Fdiv_m32fp => memory::<Div, Single>,
        Code::Fdivr_m32fp => memory::<DivR, Single>,
        Code::Fadd_m64fp => memory::<Add, Double>,
        Code::Fmul_m64fp => memory::<Mul, Double>,
        Code::Fsub_m64fp => memory::<Sub, Double>,
        Code::Fsubr_m64fp => memory::<SubR, Double>,
        Code::Fdiv_m64fp => memory::<Div, Double>,
        Code::Fdivr_m64fp => memory::<DivR, Double>,
        Code::Fiadd_m16int => memory::<Add, Word>,
        Code::Fimul_m16int => memory::<Mul, Word>,
        Code::Fisub_m16int => memory::<Sub, Word>,
        Code::Fisubr_m16int => memory::<SubR, Word>,
        Code::Fidiv_m16int => memory::<Div, Word>,
        Code::Fidivr_m16int => memory::<DivR, Word>,
        Code::Fiadd_m32int => memory::<Add, Short>,
        Code::Fimul_m32int => memory::<Mul, Short>,
        Code::Fisub_m32int => memory::<Sub, Short>,
        Code::Fisubr_m32int => memory::<SubR, Short>,
        Code::Fidiv_m32int => memory::<Div, Short>,
        Code::Fidivr_m32int => memory::<DivR, Short>,
        Code::Fsqrt => unary::<Sqrt>,
        Code::Frndint => unary::<Rndint>,
        Code::Fabs => unary::<Abs>,
        Code::Fchs => unary::<Chs>,
        Code::Fscale => fscale,
        Code::Fprem => remainder::<false>,
        Code::Fprem1 => remainder::<true>,
        Code::Fxtract => fxtract,
        _ => return None,
    })
}
