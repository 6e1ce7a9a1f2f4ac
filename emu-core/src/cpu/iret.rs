//! IRET in all its forms (SDM vol. 2, IRET; vol. 3, chapters 6.12 and 21.2.5).

use super::descriptor::{self, drop_inaccessible_segments, error_code, is_null, rpl, set_cpl};
use super::fault::{Exec, Trap};
use super::flags::{self, AC, ARITH, DF, FIXED, ID, IF, IOPL, NT, RF, TF, VIF, VIP, VM};
use super::segment::{Segment, seg};
use super::state::{CpuState, cr4, gpr};
use super::task;
use crate::interp::Env;
use crate::interp::operand::Width;

/// Replaces the bits of EFLAGS that `mask` names, and what follows from them.
pub fn change_eflags(cpu: &mut CpuState, env: &mut Env<'_>, value: u32, mask: u32) {
    let old = cpu.eflags();
    let new = (old & !mask) | (value & mask) | FIXED;
    cpu.set_eflags(new);
    cpu.update_alignment_check();
    // The run loop must look at interrupts that become possible, and at TF and RF.
    if new & (TF | RF) != 0 || new & !old & IF != 0 {
        env.end_block();
    }
}

/// IRET (`u16`) or IRETD (`u32`).
///
/// # Errors
/// #GP, #NP, #SS, #TS, #PF, #AC; shutdown.
pub fn iret<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>) -> Exec {
    if cpu.vm86() && cpu.iopl() < 3 {
        return if cpu.cr4 & cr4::VME != 0 && W::BYTES == 2 { iret_vme(cpu, env) } else { Err(Trap::GP0) };
    }
    cpu.nmi_blocked = false;
    if !cpu.protected() {
        // SDM: (temp AND 257FD5h) OR (EFLAGS AND 1A0000h)
        return iret_real::<W>(cpu, env, ARITH | TF | IF | DF | IOPL | NT | RF | AC | ID);
    }
    if cpu.vm86() {
        return iret_real::<W>(cpu, env, ARITH | TF | IF | DF | NT | RF | AC | ID);
    }
    if cpu.eflags & NT != 0 {
        return task::return_from_task(cpu, env);
    }
    iret_protected::<W>(cpu, env)
}

/// Bits of `mask` that an operand of this width reaches.
fn reachable<W: Width>(mask: u32) -> u32 {
    if W::BYTES == 2 { mask & 0xFFFF } else { mask }
}

/// Real mode, and VM86 mode with IOPL 3.
fn iret_real<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, mask: u32) -> Exec {
    let eip = env.peek::<W>(cpu, 0)?.zext();
    let cs = env.peek::<W>(cpu, W::BYTES)?.zext() as u16;
    let eflags = env.peek::<W>(cpu, 2 * W::BYTES)?.zext();
    if eip > cpu.seg[seg::CS].limit {
        return Err(Trap::GP0);
    }
    cpu.set_sp(cpu.sp().wrapping_add(3 * W::BYTES));
    descriptor::load_real_code(cpu, env, cs);
    cpu.eip = eip;
    change_eflags(cpu, env, eflags, reachable::<W>(mask));
    Ok(())
}

/// 16-bit IRET in VM86 mode with IOPL below 3 and CR4.VME: IF goes to VIF.
fn iret_vme(cpu: &mut CpuState, env: &mut Env<'_>) -> Exec {
    let ip: u16 = env.peek(cpu, 0)?;
    let cs: u16 = env.peek(cpu, 2)?;
    let image: u16 = env.peek(cpu, 4)?;
    let image = u32::from(image);
    check_virtual_if(cpu, image)?;
    if u32::from(ip) > cpu.seg[seg::CS].limit {
        return Err(Trap::GP0);
    }
    cpu.nmi_blocked = false;
    cpu.set_sp(cpu.sp().wrapping_add(6));
    descriptor::load_real_code(cpu, env, cs);
    cpu.eip = ip.into();
    load_virtual_flags(cpu, env, image);
    Ok(())
}

/// #GP(0) if a FLAGS image would enable virtual interrupts with one pending, or set TF (CR4.VME).
///
/// # Errors
/// #GP(0).
pub fn check_virtual_if(cpu: &CpuState, image: u32) -> Exec {
    let conflict = image & IF != 0 && cpu.eflags & VIP != 0;
    if conflict || image & TF != 0 { Err(Trap::GP0) } else { Ok(()) }
}

/// Loads a 16-bit FLAGS image with IF going to VIF and IOPL unchanged (CR4.VME).
pub fn load_virtual_flags(cpu: &mut CpuState, env: &mut Env<'_>, image: u32) {
    let vif = if image & IF != 0 { VIF } else { 0 };
    change_eflags(cpu, env, image | vif, ((ARITH | TF | DF | NT) & 0xFFFF) | VIF | RF);
}

/// A code segment selector of a return, checked.
///
/// # Errors
/// #GP, #NP, #PF.
pub(super) fn return_segment(cpu: &mut CpuState, env: &mut Env<'_>, cs: u16) -> Exec<descriptor::Descriptor> {
    if is_null(cs) {
        return Err(Trap::GP0);
    }
    let d = descriptor::fetch(cpu, env, cs, Trap::gp, 0)?;
    let code = error_code(cs, 0);
    let fits = if d.is_conforming() { d.dpl() <= rpl(cs) } else { d.dpl() == rpl(cs) };
    if !d.is_code() || rpl(cs) < cpu.cpl || !fits {
        return Err(Trap::gp(code));
    }
    if !d.is_present() {
        return Err(Trap::np(code));
    }
    Ok(d)
}

/// The outer stack of a return to the privilege level of `cs`, checked.
///
/// # Errors
/// #GP, #SS, #PF.
pub(super) fn return_stack(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    ss: u16,
    cs: u16,
) -> Exec<descriptor::Descriptor> {
    if is_null(ss) {
        return Err(Trap::GP0);
    }
    let d = descriptor::fetch(cpu, env, ss, Trap::gp, 0)?;
    descriptor::check_stack_descriptor(&d, ss, rpl(cs), Trap::gp, 0)?;
    Ok(d)
}

fn iret_protected<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>) -> Exec {
    let eip = env.peek::<W>(cpu, 0)?.zext();
    let cs = env.peek::<W>(cpu, W::BYTES)?.zext() as u16;
    let image = env.peek::<W>(cpu, 2 * W::BYTES)?.zext();
    if image & VM != 0 && W::BYTES == 4 && cpu.cpl == 0 {
        return iret_to_vm86(cpu, env, eip, cs, image);
    }
    let mut code = return_segment(cpu, env, cs)?;

    let mut mask = ARITH | TF | DF | NT | RF | AC | ID;
    if cpu.cpl <= cpu.iopl() {
        mask |= IF;
    }
    if cpu.cpl == 0 {
        mask |= IOPL | VIF | VIP;
    }
    let mask = reachable::<W>(mask);

    if rpl(cs) == cpu.cpl {
        if eip > code.segment(cs).limit {
            return Err(Trap::GP0);
        }
        code.set_accessed(cpu, env)?;
        cpu.set_sp(cpu.sp().wrapping_add(3 * W::BYTES));
        descriptor::set_code(cpu, env, code.segment(cs));
        cpu.eip = eip;
        change_eflags(cpu, env, image, mask);
        return Ok(());
    }

    let esp = env.peek::<W>(cpu, 3 * W::BYTES)?.zext();
    let ss = env.peek::<W>(cpu, 4 * W::BYTES)?.zext() as u16;
    let mut stack = return_stack(cpu, env, ss, cs)?;
    if eip > code.segment(cs).limit {
        return Err(Trap::GP0);
    }
    code.set_accessed(cpu, env)?;
    stack.set_accessed(cpu, env)?;
    descriptor::set_code(cpu, env, code.segment(cs));
    cpu.eip = eip;
    cpu.set_segment(seg::SS, stack.segment(ss));
    // With a 16-bit stack the upper half of ESP stays, as on silicon.
    cpu.set_sp(esp);
    set_cpl(cpu, env, rpl(cs));
    change_eflags(cpu, env, image, mask);
    drop_inaccessible_segments(cpu);
    Ok(())
}

fn iret_to_vm86(cpu: &mut CpuState, env: &mut Env<'_>, eip: u32, cs: u16, image: u32) -> Exec {
    let esp: u32 = env.peek(cpu, 12)?;
    let mut selectors = [0u16; 5];
    for (slot, n) in selectors.iter_mut().zip(4..) {
        *slot = env.peek::<u32>(cpu, 4 * n)? as u16;
    }
    if eip > 0xFFFF {
        return Err(Trap::GP0);
    }
    cpu.set_eflags(image & flags::ALL);
    descriptor::set_code(cpu, env, Segment::real(cs, 3));
    for (index, selector) in [seg::SS, seg::ES, seg::DS, seg::FS, seg::GS].into_iter().zip(selectors) {
        cpu.set_segment(index, Segment::real(selector, 3));
    }
    cpu.eip = eip;
    cpu.gpr[gpr::ESP] = esp;
    set_cpl(cpu, env, 3);
    Ok(())
}
