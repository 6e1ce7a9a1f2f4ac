//! MUL IMUL DIV IDIV.
//!
//! Undefined flags (`docs/undefined-flags.md`): multiplications set SF, ZF and PF by the low half and
//! clear AF; divisions change no flag.

use iced_x86::Mnemonic;

use super::Env;
use super::operand::{M, R0, R1, Src, Width};
use crate::cpu::flags::Flags;
use crate::cpu::{CpuState, Exec, Trap, gpr};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};

const EAX: u8 = gpr::EAX as u8;
const EDX: u8 = gpr::EDX as u8;
const AH: u8 = 4;

/// Writes a double-width result to AX, DX:AX or EDX:EAX.
fn set_pair<W: Width>(cpu: &mut CpuState, v: u64) {
    if W::BITS == 8 {
        cpu.set_r16(EAX, v as u16);
    } else {
        W::set(cpu, EAX, W::trunc(v as u32));
        W::set(cpu, EDX, W::trunc((v >> W::BITS) as u32));
    }
}

fn pair<W: Width>(cpu: &CpuState) -> u64 {
    if W::BITS == 8 {
        u64::from(cpu.r16(EAX))
    } else {
        u64::from(W::get(cpu, EDX).zext()) << W::BITS | u64::from(W::get(cpu, EAX).zext())
    }
}

fn set_product_flags<W: Width>(cpu: &mut CpuState, low: W, overflow: bool) {
    cpu.flags = Flags::logic(low.sext());
    cpu.flags.set_cf_of(overflow, overflow);
}

fn mul<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let b: W = S::read(cpu, env, i)?;
    let product = u64::from(W::get(cpu, EAX).zext()) * u64::from(b.zext());
    set_pair::<W>(cpu, product);
    set_product_flags(cpu, W::trunc(product as u32), product >> W::BITS != 0);
    Ok(())
}

fn signed<W: Width>(v: W) -> i64 {
    i64::from(v.sext() as i32)
}

fn imul<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let b: W = S::read(cpu, env, i)?;
    let product = signed(W::get(cpu, EAX)) * signed(b);
    set_pair::<W>(cpu, product as u64);
    let low = W::trunc(product as u32);
    set_product_flags(cpu, low, signed(low) != product);
    Ok(())
}

fn imul_to_register<W: Width>(cpu: &mut CpuState, r: u8, a: W, b: W) {
    let product = signed(a) * signed(b);
    let low = W::trunc(product as u32);
    W::set(cpu, r, low);
    set_product_flags(cpu, low, signed(low) != product);
}

fn imul2<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let b: W = S::read(cpu, env, i)?;
    let a = W::get(cpu, i.r0);
    imul_to_register(cpu, i.r0, a, b);
    Ok(())
}

fn imul3<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let a: W = S::read(cpu, env, i)?;
    imul_to_register(cpu, i.r0, a, W::trunc(i.imm));
    Ok(())
}

fn set_quotient<W: Width>(cpu: &mut CpuState, quotient: u32, remainder: u32) {
    W::set(cpu, EAX, W::trunc(quotient));
    let r = if W::BITS == 8 { AH } else { EDX };
    W::set(cpu, r, W::trunc(remainder));
}

fn div<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let divisor = u64::from(S::read::<W>(cpu, env, i)?.zext());
    let dividend = pair::<W>(cpu);
    let quotient = dividend.checked_div(divisor).ok_or(Trap::DE)?;
    if quotient >> W::BITS != 0 {
        return Err(Trap::DE);
    }
    set_quotient::<W>(cpu, quotient as u32, (dividend % divisor) as u32);
    Ok(())
}

fn idiv<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let divisor = signed(S::read::<W>(cpu, env, i)?);
    let shift = 64 - 2 * W::BITS;
    let dividend = ((pair::<W>(cpu) << shift) as i64) >> shift;
    let quotient = dividend.checked_div(divisor).ok_or(Trap::DE)?;
    if signed(W::trunc(quotient as u32)) != quotient {
        return Err(Trap::DE);
    }
    set_quotient::<W>(cpu, quotient as u32, (dividend % divisor) as u32);
    Ok(())
}

macro_rules! one_operand {
    ($d:expr, $f:ident) => {
        match ($d.form, $d.size) {
            (Form::R, 1) => Some($f::<u8, R0> as ExecFn),
            (Form::R, 2) => Some($f::<u16, R0> as ExecFn),
            (Form::R, _) => Some($f::<u32, R0> as ExecFn),
            (_, 1) => Some($f::<u8, M> as ExecFn),
            (_, 2) => Some($f::<u16, M> as ExecFn),
            (_, _) => Some($f::<u32, M> as ExecFn),
        }
    };
}

/// Dispatch rows of this family.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.mnemonic {
        Mnemonic::Mul => one_operand!(d, mul),
        Mnemonic::Div => one_operand!(d, div),
        Mnemonic::Idiv => one_operand!(d, idiv),
        Mnemonic::Imul => match (d.ins.op_count(), d.form, d.size) {
            (1, ..) => one_operand!(d, imul),
            (2, Form::RR, 2) => Some(imul2::<u16, R1>),
            (2, Form::RR, _) => Some(imul2::<u32, R1>),
            (2, _, 2) => Some(imul2::<u16, M>),
            (2, ..) => Some(imul2::<u32, M>),
            (_, Form::RR, 2) => Some(imul3::<u16, R1>),
            (_, Form::RR, _) => Some(imul3::<u32, R1>),
            (_, _, 2) => Some(imul3::<u16, M>),
            _ => Some(imul3::<u32, M>),
        },
        _ => None,
    }
}
