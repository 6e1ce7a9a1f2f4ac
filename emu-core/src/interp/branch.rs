//! Near control transfers: JMP, Jcc, CALL, RET, LOOP, JCXZ.

use iced_x86::{Code, Mnemonic};

use super::Env;
use super::operand::{M, R0, Src, Width};
use crate::cpu::{CpuState, Exec, Trap, gpr, seg};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};

/// Sets EIP after the limit check of a near transfer.
///
/// # Errors
/// #GP(0) if the target lies beyond the code segment's limit.
#[inline(always)]
pub(crate) fn jump_to(cpu: &mut CpuState, target: u32) -> Exec {
    if target > cpu.seg[seg::CS].limit {
        return Err(Trap::GP0);
    }
    cpu.eip = target;
    Ok(())
}

/// Target of a relative branch.
#[inline(always)]
fn relative(cpu: &CpuState, i: &Insn) -> u32 {
    let target = cpu.eip.wrapping_add(i.disp);
    if i.op16() { target & 0xFFFF } else { target }
}

fn jmp_rel(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    jump_to(cpu, relative(cpu, i))
}

fn jcc<const CC: u8>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    if cpu.flags.condition(CC) { jump_to(cpu, relative(cpu, i)) } else { Ok(()) }
}

fn jmp_near<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let target: W = S::read(cpu, env, i)?;
    jump_to(cpu, target.zext())
}

fn call<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, target: u32) -> Exec {
    if target > cpu.seg[seg::CS].limit {
        return Err(Trap::GP0);
    }
    if env.fast_push(cpu, W::trunc(cpu.eip)) {
        cpu.eip = target;
        return Ok(());
    }
    call_slow::<W>(cpu, env, target)
}

#[cold]
#[inline(never)]
fn call_slow<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, target: u32) -> Exec {
    env.push(cpu, W::trunc(cpu.eip))?;
    cpu.eip = target;
    Ok(())
}

fn call_rel<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let target = relative(cpu, i);
    call::<W>(cpu, env, target)
}

fn call_near<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let target: W = S::read(cpu, env, i)?;
    call::<W>(cpu, env, target.zext())
}

fn ret<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    match env.fast_top::<W>(cpu) {
        Some(target) if target.zext() <= cpu.seg[seg::CS].limit => {
            cpu.eip = target.zext();
            cpu.gpr[gpr::ESP] = cpu.gpr[gpr::ESP].wrapping_add(W::BYTES).wrapping_add(i.imm & 0xFFFF);
            Ok(())
        }
        _ => ret_slow::<W>(cpu, env, i),
    }
}

#[cold]
#[inline(never)]
fn ret_slow<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let target: W = env.peek(cpu, 0)?;
    jump_to(cpu, target.zext())?;
    cpu.set_sp(cpu.sp().wrapping_add(W::BYTES).wrapping_add(i.imm & 0xFFFF));
    Ok(())
}

/// Decrements the counter and tells whether it is not zero, without storing it.
#[inline(always)]
fn count<C: Width>(cpu: &CpuState) -> C {
    C::trunc(C::get(cpu, gpr::ECX as u8).zext().wrapping_sub(1))
}

fn loop_while<C: Width, const ZF: u8>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    let n = count::<C>(cpu);
    let wanted = match ZF {
        0 => !cpu.flags.zf(),
        1 => cpu.flags.zf(),
        _ => true,
    };
    if n.zext() != 0 && wanted {
        jump_to(cpu, relative(cpu, i))?;
    }
    C::set(cpu, gpr::ECX as u8, n);
    Ok(())
}

fn jcxz<C: Width>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    if C::get(cpu, gpr::ECX as u8).zext() == 0 { jump_to(cpu, relative(cpu, i)) } else { Ok(()) }
}

fn counter_is_16(code: Code) -> bool {
    matches!(
        code,
        Code::Loop_rel8_16_CX
            | Code::Loop_rel8_32_CX
            | Code::Loope_rel8_16_CX
            | Code::Loope_rel8_32_CX
            | Code::Loopne_rel8_16_CX
            | Code::Loopne_rel8_32_CX
    )
}

fn loop_form<const ZF: u8>(d: &Decoded<'_>) -> ExecFn {
    if counter_is_16(d.code) { loop_while::<u16, ZF> } else { loop_while::<u32, ZF> }
}

/// Dispatch rows of this family. All of them end their block.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    if d.ins.is_jcc_short_or_near() {
        const JCC: [ExecFn; 16] = [
            jcc::<0>, jcc::<1>, jcc::<2>, jcc::<3>, jcc::<4>, jcc::<5>, jcc::<6>, jcc::<7>, jcc::<8>,
            jcc::<9>, jcc::<10>, jcc::<11>, jcc::<12>, jcc::<13>, jcc::<14>, jcc::<15>,
        ];
        return Some(JCC[super::operand::condition_code(d.ins) as usize & 15]);
    }
    let by_op = |w: ExecFn, d32: ExecFn| Some(if d.op16 { w } else { d32 });
    match d.mnemonic {
        Mnemonic::Jmp if d.ins.is_jmp_short_or_near() => Some(jmp_rel),
        Mnemonic::Jmp if d.ins.is_jmp_near_indirect() => match d.form {
            Form::R => by_op(jmp_near::<u16, R0>, jmp_near::<u32, R0>),
            _ => by_op(jmp_near::<u16, M>, jmp_near::<u32, M>),
        },
        Mnemonic::Call if d.ins.is_call_near() => by_op(call_rel::<u16>, call_rel::<u32>),
        Mnemonic::Call if d.ins.is_call_near_indirect() => match d.form {
            Form::R => by_op(call_near::<u16, R0>, call_near::<u32, R0>),
            _ => by_op(call_near::<u16, M>, call_near::<u32, M>),
        },
        Mnemonic::Ret => by_op(ret::<u16>, ret::<u32>),
        Mnemonic::Loop => Some(loop_form::<2>(d)),
        Mnemonic::Loope => Some(loop_form::<1>(d)),
        Mnemonic::Loopne => Some(loop_form::<0>(d)),
        Mnemonic::Jcxz => Some(jcxz::<u16>),
        Mnemonic::Jecxz => Some(jcxz::<u32>),
        _ => None,
    }
}
