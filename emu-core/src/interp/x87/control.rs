//! FINIT FCLEX FLDCW FSTCW FSTSW WAIT FINCSTP FDECSTP FFREE FFREEP FNOP, the 8087's and 80287's
//! leftovers.

use iced_x86::Code;

use super::{EXCEPTIONS, SF, available, begin, note, release_ferr};
use crate::cpu::state::X87;
use crate::cpu::{CpuState, Exec, Trap, cr0, gpr};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};
use crate::interp::Env;

/// What FNINIT and FNSAVE leave; the register contents stay.
pub(super) fn initialise(x87: &mut X87) {
    *x87 = X87 { regs: x87.regs, ..X87::reset() };
}

fn fninit(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    available(cpu)?;
    let was_pending = cpu.x87.is_pending();
    initialise(&mut cpu.x87);
    release_ferr(cpu, env, was_pending);
    Ok(())
}

fn fnclex(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    available(cpu)?;
    let was_pending = cpu.x87.is_pending();
    cpu.x87.status &= !(EXCEPTIONS | SF);
    release_ferr(cpu, env, was_pending);
    Ok(())
}

/// FLDCW. Clearing the mask of an exception whose flag is set makes it pending.
fn fldcw(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    let was_pending = cpu.x87.is_pending();
    let value = env.load(cpu, i)?;
    cpu.x87.set_control_word(value);
    release_ferr(cpu, env, was_pending);
    Ok(())
}

fn fnstcw(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    available(cpu)?;
    let value = cpu.x87.control;
    env.store(cpu, i, value)
}

fn fnstsw(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    available(cpu)?;
    let value = cpu.x87.status_word();
    env.store(cpu, i, value)
}

fn fnstsw_ax(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    available(cpu)?;
    let value = cpu.x87.status_word();
    cpu.set_r16(gpr::EAX as u8, value);
    Ok(())
}

/// WAIT: CR0.EM does not concern it, and CR0.TS only together with MP.
fn wait(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    if cpu.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS {
        return Err(Trap::NM);
    }
    super::signal_pending(cpu, env)
}

/// FINCSTP and FDECSTP move TOP without touching tags.
fn rotate<const BY: u8>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    x87.top = x87.top.wrapping_add(BY) & 7;
    x87.clear_c1();
    Ok(())
}

/// FFREE, and the undocumented FFREEP, which pops as well.
fn ffree<const POP: bool>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    cpu.x87.clear_c1();
    cpu.x87.free(i.r0);
    if POP {
        cpu.x87.pop();
    }
    Ok(())
}

fn fnop(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    Ok(())
}

/// FNENI, FNDISI (8087) and FNSETPM (80287): nothing since the 80387.
fn obsolete(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    available(cpu)
}

/// Dispatch rows of this file.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    Some(match d.code {
        Code::Fninit => fninit,
        Code::Fnclex => fnclex,
        Code::Fldcw_m2byte => fldcw,
        Code::Fnstcw_m2byte => fnstcw,
        Code::Fnstsw_m2byte => fnstsw,
        Code::Fnstsw_AX => fnstsw_ax,
        Code::Wait => wait,
        Code::Fincstp => rotate::<1>,
        Code::Fdecstp => rotate::<7>,
        Code::Ffree_sti => ffree::<false>,
        Code::Ffreep_sti => ffree::<true>,
        Code::Fnop => fnop,
        Code::Fneni | Code::Fndisi | Code::Fnsetpm => obsolete,
        _ => return None,
    })
}
