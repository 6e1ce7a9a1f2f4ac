//! Far JMP, CALL and RET through code segments, call gates, task gates and TSSs; SYSENTER and
//! SYSEXIT (operation sections of SDM vol. 2; vol. 3, chapter 5.8).

use super::descriptor::{
    self, Descriptor, drop_inaccessible_segments, error_code, is_null, rpl, set_cpl, system_type,
};
use super::fault::{Exec, Trap};
use super::flags::{IF, RF, VM};
use super::frame::Frame;
use super::iret::{return_segment, return_stack};
use super::segment::{Segment, seg};
use super::state::{CpuState, gpr};
use super::task::{self, Cause};
use crate::interp::Env;
use crate::interp::operand::Width;

/// Far JMP to `selector:offset`.
///
/// # Errors
/// #GP, #NP, #TS, #PF; shutdown.
pub fn jump(cpu: &mut CpuState, env: &mut Env<'_>, selector: u16, offset: u32) -> Exec {
    if cpu.real_or_vm86() {
        if offset > cpu.seg[seg::CS].limit {
            return Err(Trap::GP0);
        }
        descriptor::load_real_code(cpu, env, selector);
        cpu.eip = offset;
        return Ok(());
    }
    let d = target(cpu, env, selector)?;
    if !d.is_system() {
        check_direct(cpu, &d, selector)?;
        return enter_segment(cpu, env, d, selector, offset);
    }
    check_gate(cpu, &d, selector)?;
    if d.kind() == system_type::CALL_GATE16 || d.kind() == system_type::CALL_GATE32 {
        let (code, selector) = gate_code(cpu, env, &d)?;
        if !code.is_conforming() && code.dpl() != cpu.cpl {
            return Err(Trap::gp(error_code(selector, 0)));
        }
        if !code.is_present() {
            return Err(Trap::np(error_code(selector, 0)));
        }
        return enter_segment(cpu, env, code, selector, d.gate_offset());
    }
    switch_task(cpu, env, d, selector, Cause::Jump)
}

/// Far CALL to `selector:offset`; `W` is the operand size.
///
/// # Errors
/// #GP, #NP, #SS, #TS, #PF, #AC; shutdown.
pub fn call<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, selector: u16, offset: u32) -> Exec {
    let wide = W::BYTES == 4;
    if cpu.real_or_vm86() {
        let (frame, sp) = return_frame(cpu, env, wide)?;
        if offset > cpu.seg[seg::CS].limit {
            return Err(Trap::GP0);
        }
        frame.store(cpu, env)?;
        cpu.set_sp(sp);
        descriptor::load_real_code(cpu, env, selector);
        cpu.eip = offset;
        return Ok(());
    }
    let d = target(cpu, env, selector)?;
    if !d.is_system() {
        check_direct(cpu, &d, selector)?;
        return call_segment(cpu, env, d, selector, offset, wide);
    }
    check_gate(cpu, &d, selector)?;
    if d.kind() == system_type::CALL_GATE16 || d.kind() == system_type::CALL_GATE32 {
        let (code, selector) = gate_code(cpu, env, &d)?;
        if !code.is_present() {
            return Err(Trap::np(error_code(selector, 0)));
        }
        if !code.is_conforming() && code.dpl() < cpu.cpl {
            return call_inner(cpu, env, &d, code, selector);
        }
        return call_segment(cpu, env, code, selector, d.gate_offset(), d.is_32());
    }
    switch_task(cpu, env, d, selector, Cause::Nest)
}

/// Far RET that releases `release` bytes of parameters.
///
/// # Errors
/// #GP, #NP, #SS, #PF, #AC.
pub fn ret<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, release: u32) -> Exec {
    let eip = env.peek::<W>(cpu, 0)?.zext();
    let cs = env.peek::<W>(cpu, W::BYTES)?.zext() as u16;
    if cpu.real_or_vm86() {
        if eip > cpu.seg[seg::CS].limit {
            return Err(Trap::GP0);
        }
        cpu.set_sp(cpu.sp().wrapping_add(2 * W::BYTES).wrapping_add(release));
        descriptor::load_real_code(cpu, env, cs);
        cpu.eip = eip;
        return Ok(());
    }
    let mut code = return_segment(cpu, env, cs)?;
    if rpl(cs) == cpu.cpl {
        if eip > code.segment(cs).limit {
            return Err(Trap::GP0);
        }
        code.set_accessed(cpu, env)?;
        cpu.set_sp(cpu.sp().wrapping_add(2 * W::BYTES).wrapping_add(release));
        descriptor::set_code(cpu, env, code.segment(cs));
        cpu.eip = eip;
        return Ok(());
    }
    let outer = release.wrapping_add(2 * W::BYTES);
    let esp = env.peek::<W>(cpu, outer)?.zext();
    let ss = env.peek::<W>(cpu, outer.wrapping_add(W::BYTES))?.zext() as u16;
    let mut stack = return_stack(cpu, env, ss, cs)?;
    if eip > code.segment(cs).limit {
        return Err(Trap::GP0);
    }
    code.set_accessed(cpu, env)?;
    stack.set_accessed(cpu, env)?;
    descriptor::set_code(cpu, env, code.segment(cs));
    cpu.eip = eip;
    cpu.set_segment(seg::SS, stack.segment(ss));
    cpu.set_sp(esp.wrapping_add(release));
    set_cpl(cpu, env, rpl(cs));
    drop_inaccessible_segments(cpu);
    Ok(())
}

/// Descriptor of a far transfer's target.
fn target(cpu: &mut CpuState, env: &mut Env<'_>, selector: u16) -> Exec<Descriptor> {
    if is_null(selector) {
        return Err(Trap::GP0);
    }
    descriptor::fetch(cpu, env, selector, Trap::gp, 0)
}

/// Privilege checks of a direct transfer to a code segment.
fn check_direct(cpu: &CpuState, d: &Descriptor, selector: u16) -> Exec {
    let code = error_code(selector, 0);
    let allowed =
        if d.is_conforming() { d.dpl() <= cpu.cpl } else { d.dpl() == cpu.cpl && rpl(selector) <= cpu.cpl };
    if !d.is_code() || !allowed {
        return Err(Trap::gp(code));
    }
    if d.is_present() { Ok(()) } else { Err(Trap::np(code)) }
}

/// Type, privilege and presence of a gate or TSS.
fn check_gate(cpu: &CpuState, d: &Descriptor, selector: u16) -> Exec {
    use system_type as t;
    let code = error_code(selector, 0);
    let known = matches!(
        d.kind(),
        t::CALL_GATE16 | t::CALL_GATE32 | t::TASK_GATE | t::TSS16_AVAILABLE | t::TSS32_AVAILABLE
    );
    if !known || d.dpl() < cpu.cpl.max(rpl(selector)) {
        return Err(Trap::gp(code));
    }
    if d.is_present() { Ok(()) } else { Err(Trap::np(code)) }
}

/// The code segment a call gate leads to. Presence is left to the caller.
fn gate_code(cpu: &mut CpuState, env: &mut Env<'_>, gate: &Descriptor) -> Exec<(Descriptor, u16)> {
    let selector = gate.gate_selector();
    let code = target(cpu, env, selector)?;
    if !code.is_code() || code.dpl() > cpu.cpl {
        return Err(Trap::gp(error_code(selector, 0)));
    }
    Ok((code, selector))
}

fn switch_task(cpu: &mut CpuState, env: &mut Env<'_>, d: Descriptor, selector: u16, cause: Cause) -> Exec {
    if d.kind() == system_type::TASK_GATE {
        let selector = d.gate_selector();
        let tss = task::gate_target(cpu, env, selector, 0)?;
        return task::switch_by_instruction(cpu, env, selector, tss, cause);
    }
    if selector & 4 != 0 {
        return Err(Trap::gp(error_code(selector, 0)));
    }
    task::switch_by_instruction(cpu, env, selector, d, cause)
}

/// Jumps to a checked code segment at the same privilege level.
fn enter_segment(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    mut code: Descriptor,
    selector: u16,
    offset: u32,
) -> Exec {
    if offset > code.segment(selector).limit {
        return Err(Trap::GP0);
    }
    code.set_accessed(cpu, env)?;
    let cpl = u16::from(cpu.cpl);
    descriptor::set_code(cpu, env, code.segment((selector & !3) | cpl));
    cpu.eip = offset;
    Ok(())
}

/// The frame of CS and EIP on the current stack.
fn return_frame(cpu: &mut CpuState, env: &mut Env<'_>, wide: bool) -> Exec<(Frame, u32)> {
    let mut frame = Frame::new(cpu.seg[seg::SS], cpu.gpr[gpr::ESP], wide, cpu.cpl == 3);
    frame.push(cpu.seg[seg::CS].selector.into());
    frame.push(cpu.eip);
    let sp = frame.check(cpu, env, Trap::SS0)?;
    Ok((frame, sp))
}

fn call_segment(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    mut code: Descriptor,
    selector: u16,
    offset: u32,
    wide: bool,
) -> Exec {
    let (frame, sp) = return_frame(cpu, env, wide)?;
    if offset > code.segment(selector).limit {
        return Err(Trap::GP0);
    }
    code.set_accessed(cpu, env)?;
    frame.store(cpu, env)?;
    cpu.set_sp(sp);
    let cpl = u16::from(cpu.cpl);
    descriptor::set_code(cpu, env, code.segment((selector & !3) | cpl));
    cpu.eip = offset;
    Ok(())
}

/// Call gate to a more privileged segment: stack switch and parameter copy.
fn call_inner(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    gate: &Descriptor,
    mut code: Descriptor,
    selector: u16,
) -> Exec {
    let cpl = code.dpl();
    let wide = gate.is_32();
    let (ss, esp) = task::inner_stack(cpu, env, cpl, 0)?;
    let mut stack = task::inner_stack_descriptor(cpu, env, ss, cpl, 0)?;
    let mut frame = Frame::new(stack.segment(ss), esp, wide, false);
    frame.push(cpu.seg[seg::SS].selector.into());
    frame.push(cpu.gpr[gpr::ESP]);
    for n in (0..gate.gate_parameters()).rev() {
        let value = if wide { env.peek::<u32>(cpu, 4 * n)? } else { env.peek::<u16>(cpu, 2 * n)?.into() };
        frame.push(value);
    }
    frame.push(cpu.seg[seg::CS].selector.into());
    frame.push(cpu.eip);
    let sp = frame.check(cpu, env, Trap::ss(error_code(ss, 0)))?;
    let offset = gate.gate_offset();
    if offset > code.segment(selector).limit {
        return Err(Trap::GP0);
    }
    code.set_accessed(cpu, env)?;
    stack.set_accessed(cpu, env)?;
    frame.store(cpu, env)?;
    cpu.set_segment(seg::SS, stack.segment(ss));
    cpu.set_sp(sp);
    descriptor::set_code(cpu, env, code.segment((selector & !3) | u16::from(cpl)));
    cpu.eip = offset;
    set_cpl(cpu, env, cpl);
    Ok(())
}

/// A flat 4 GiB segment as SYSENTER and SYSEXIT load: type 11 (code) or 3 (data).
const fn flat(selector: u16, kind: u16, dpl: u16) -> Segment {
    Segment { base: 0, limit: u32::MAX, selector, attr: 0xC090 | kind | dpl << 5 }
}

fn enter_flat(cpu: &mut CpuState, env: &mut Env<'_>, cs: u16, cpl: u8) {
    let dpl = u16::from(cpl);
    descriptor::set_code(cpu, env, flat(cs | dpl, 11, dpl));
    cpu.set_segment(seg::SS, flat(cs.wrapping_add(8) | dpl, 3, dpl));
    set_cpl(cpu, env, cpl);
}

/// SYSENTER.
///
/// # Errors
/// #GP(0) in real mode or without a target.
pub fn sysenter(cpu: &mut CpuState, env: &mut Env<'_>) -> Exec {
    let cs = cpu.sysenter_cs as u16 & !3;
    if !cpu.protected() || cs == 0 {
        return Err(Trap::GP0);
    }
    cpu.eflags &= !(VM | IF | RF);
    cpu.gpr[gpr::ESP] = cpu.sysenter_esp;
    cpu.eip = cpu.sysenter_eip;
    enter_flat(cpu, env, cs, 0);
    Ok(())
}

/// SYSEXIT.
///
/// # Errors
/// #GP(0) in real mode, above CPL 0, or without a target.
pub fn sysexit(cpu: &mut CpuState, env: &mut Env<'_>) -> Exec {
    let cs = cpu.sysenter_cs as u16 & !3;
    if !cpu.protected() || cpu.cpl != 0 || cs == 0 {
        return Err(Trap::GP0);
    }
    cpu.gpr[gpr::ESP] = cpu.gpr[gpr::ECX];
    cpu.eip = cpu.gpr[gpr::EDX];
    enter_flat(cpu, env, cs.wrapping_add(16), 3);
    Ok(())
}
