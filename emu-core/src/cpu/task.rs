//! Hardware tasks: TSS, task switches, inner stacks (SDM vol. 3, chapter 7).

use super::control;
use super::debug_regs::PENDING_TASK;
use super::descriptor::{self, Descriptor, error_code, is_null, rpl, set_cpl};
use super::fault::{Exec, Trap, TrapKind};
use super::flags::NT;
use super::interrupt;
use super::segment::{Segment, seg};
use super::state::{CpuState, cr0, gpr};
use crate::interp::Env;

/// What causes a task switch; decides about busy bits, NT and the back link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// JMP: the old task is no longer busy.
    Jump,
    /// CALL or an interrupt: the old task stays busy, the new one is nested in it.
    Nest,
    /// IRET with NT set.
    Return,
}

/// A fault of a task switch.
#[derive(Clone, Copy, Debug)]
pub enum SwitchFault {
    /// Nothing has happened: it belongs to the old task.
    Old(Trap),
    /// The switch is done: it belongs to the new task, whose EIP is in place.
    New(Trap),
}

/// Registers in the order of a TSS: EAX ECX EDX EBX ESP EBP ESI EDI.
type Registers = [u32; 8];

/// Segment registers in the order of a TSS.
const SEGMENTS: [usize; 6] = [seg::ES, seg::CS, seg::SS, seg::DS, seg::FS, seg::GS];

/// Fields of a TSS that a switch loads.
struct NewState {
    eip: u32,
    eflags: u32,
    gpr: Registers,
    selectors: [u16; 6],
    ldt: u16,
    cr3: u32,
    trap: bool,
}

/// Offsets of the saved state in a TSS.
struct Layout {
    /// Smallest limit of the segment.
    min_limit: u32,
    eip: u32,
    selectors: u32,
    /// Segment registers: 16-bit TSSs have no FS and GS.
    segments: usize,
    ldt: u32,
    /// Bytes per register.
    width: u32,
}

const LAYOUT16: Layout =
    Layout { min_limit: 0x2B, eip: 0x0E, selectors: 0x22, segments: 4, ldt: 0x2A, width: 2 };
const LAYOUT32: Layout =
    Layout { min_limit: 0x67, eip: 0x20, selectors: 0x48, segments: 6, ldt: 0x60, width: 4 };

/// Offset of the I/O map base in a 32-bit TSS.
pub const IO_MAP_BASE: u32 = 0x66;

fn layout(wide: bool) -> &'static Layout {
    if wide { &LAYOUT32 } else { &LAYOUT16 }
}

/// True if TR holds a 32-bit TSS.
pub fn has_tss32(cpu: &CpuState) -> bool {
    cpu.tr.is_present() && cpu.tr.system_type() & 8 != 0
}

/// SS and ESP for privilege level `cpl` from the current TSS.
///
/// # Errors
/// #TS with TR's selector if the TSS is too small; #PF.
pub fn inner_stack(cpu: &mut CpuState, env: &mut Env<'_>, cpl: u8, ext: u16) -> Exec<(u16, u32)> {
    let tr = cpu.tr;
    let wide = has_tss32(cpu);
    let (at, last) = if wide {
        let at = u32::from(cpl) * 8 + 4;
        (at, at + 5)
    } else {
        let at = u32::from(cpl) * 4 + 2;
        (at, at + 3)
    };
    if !tr.is_present() || last > tr.limit {
        return Err(Trap::ts(error_code(tr.selector, ext)));
    }
    let at = tr.base.wrapping_add(at);
    if wide {
        let esp = env.read_system(cpu, at)?;
        Ok((env.read_system(cpu, at.wrapping_add(4))?, esp))
    } else {
        let sp: u16 = env.read_system(cpu, at)?;
        Ok((env.read_system(cpu, at.wrapping_add(2))?, u32::from(sp)))
    }
}

/// Descriptor of an inner stack's SS for privilege level `cpl`.
///
/// # Errors
/// #TS or #SS with the selector; #PF.
pub fn inner_stack_descriptor(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    selector: u16,
    cpl: u8,
    ext: u16,
) -> Exec<Descriptor> {
    if is_null(selector) {
        return Err(Trap::ts(ext));
    }
    let d = descriptor::fetch(cpu, env, selector, Trap::ts, ext)?;
    descriptor::check_stack_descriptor(&d, selector, cpl, Trap::ts, ext)?;
    Ok(d)
}

/// Switches to the task of an available TSS, for an instruction: a fault in the new task is
/// delivered there, and the instruction counts as complete.
///
/// # Errors
/// A fault that belongs to the instruction; shutdown.
pub fn switch_by_instruction(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    selector: u16,
    tss: Descriptor,
    cause: Cause,
) -> Exec {
    let eflags = cpu.eflags();
    match switch(cpu, env, selector, tss, cause, eflags, 0) {
        Ok(()) => Ok(()),
        Err(SwitchFault::Old(trap)) => Err(trap),
        Err(SwitchFault::New(trap)) => match trap.kind() {
            TrapKind::Exception(e) => interrupt::deliver_exception(cpu, env, e),
            _ => Err(trap),
        },
    }
}

/// IRET with NT: back to the task the current TSS links to.
///
/// # Errors
/// #TS, #NP, #PF; shutdown.
pub fn return_from_task(cpu: &mut CpuState, env: &mut Env<'_>) -> Exec {
    let link: u16 = env.read_system(cpu, cpu.tr.base)?;
    let code = error_code(link, 0);
    if is_null(link) || link & 4 != 0 {
        return Err(Trap::ts(code));
    }
    let d = descriptor::fetch(cpu, env, link, Trap::ts, 0)?;
    if !descriptor::is_busy_tss(&d) {
        return Err(Trap::ts(code));
    }
    if !d.is_present() {
        return Err(Trap::np(code));
    }
    switch_by_instruction(cpu, env, link, d, Cause::Return)
}

/// Fetches and checks the TSS that a task gate names.
///
/// # Errors
/// #GP or #NP with the TSS selector; #PF.
pub fn gate_target(cpu: &mut CpuState, env: &mut Env<'_>, selector: u16, ext: u16) -> Exec<Descriptor> {
    let code = error_code(selector, ext);
    if is_null(selector) || selector & 4 != 0 {
        return Err(Trap::gp(code));
    }
    let d = descriptor::fetch(cpu, env, selector, Trap::gp, ext)?;
    if !descriptor::is_available_tss(&d) {
        return Err(Trap::gp(code));
    }
    if !d.is_present() {
        return Err(Trap::np(code));
    }
    Ok(d)
}

/// The task switch. `eflags` is the image saved in the old TSS.
///
/// # Errors
/// See [`SwitchFault`].
pub fn switch(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    selector: u16,
    tss: Descriptor,
    cause: Cause,
    eflags: u32,
    ext: u16,
) -> Result<(), SwitchFault> {
    let wide = tss.is_32();
    let new = leave_old_task(cpu, env, selector, tss, cause, eflags, ext).map_err(SwitchFault::Old)?;
    enter_new_task(cpu, env, &new, wide).map_err(SwitchFault::New)
}

/// Everything up to the commit point: old state saved, busy bits and back link written, TR loaded.
fn leave_old_task(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    selector: u16,
    mut tss: Descriptor,
    cause: Cause,
    eflags: u32,
    ext: u16,
) -> Exec<NewState> {
    let target = tss.segment(selector);
    let wide = tss.is_32();
    if target.limit < layout(wide).min_limit {
        return Err(Trap::ts(error_code(selector, ext)));
    }
    let old = cpu.tr;
    let old_wide = has_tss32(cpu);
    let save = layout(old_wide);
    let old_end = save.selectors + save.segments as u32 * save.width;
    if !old.is_present() || old_end - 1 > old.limit {
        return Err(Trap::ts(error_code(old.selector, ext)));
    }

    // Everything that can fault comes first.
    let mut new = read_state(cpu, env, target.base, wide)?;
    let saved_from = old.base.wrapping_add(save.eip);
    env.probe_write_as(cpu, saved_from, old_end - save.eip, false)?;
    if cause == Cause::Nest {
        env.probe_write_as(cpu, target.base, 2, false)?;
    }
    let mut old_descriptor = None;
    if cause != Cause::Nest && !is_null(old.selector) {
        old_descriptor = descriptor::try_fetch(cpu, env, old.selector)?;
        if let Some(d) = old_descriptor {
            env.probe_write_as(cpu, d.at.wrapping_add(5), 1, false)?;
        }
    }
    if cause != Cause::Return {
        env.probe_write_as(cpu, tss.at.wrapping_add(5), 1, false)?;
    }

    let eflags = if cause == Cause::Return { eflags & !NT } else { eflags };
    save_state(cpu, env, old.base, old_wide, eflags)?;
    if let Some(mut d) = old_descriptor {
        descriptor::set_busy(cpu, env, &mut d, false)?;
    }
    if cause == Cause::Nest {
        env.write_system(cpu, target.base, old.selector)?;
        new.eflags |= NT;
    }
    if cause != Cause::Return {
        descriptor::set_busy(cpu, env, &mut tss, true)?;
    }
    cpu.tr = tss.segment(selector);
    Ok(new)
}

fn read_state(cpu: &mut CpuState, env: &mut Env<'_>, base: u32, wide: bool) -> Exec<NewState> {
    let at = layout(wide);
    let mut register = |cpu: &mut CpuState, n: u32| -> Exec<u32> {
        let lin = base.wrapping_add(at.eip + n * at.width);
        if wide { env.read_system(cpu, lin) } else { Ok(env.read_system::<u16>(cpu, lin)?.into()) }
    };
    let eip = register(cpu, 0)?;
    let eflags = register(cpu, 1)?;
    let mut gpr = [0; 8];
    for (slot, n) in gpr.iter_mut().zip(2..) {
        // The upper halves, which a 16-bit TSS does not hold, become ones.
        *slot = register(cpu, n)? | if wide { 0 } else { 0xFFFF_0000 };
    }
    let mut selectors = [0u16; 6];
    for (slot, n) in selectors.iter_mut().take(at.segments).zip(0..) {
        *slot = env.read_system(cpu, base.wrapping_add(at.selectors + n * at.width))?;
    }
    let ldt = env.read_system(cpu, base.wrapping_add(at.ldt))?;
    let (cr3, trap) = if wide {
        let flags: u16 = env.read_system(cpu, base.wrapping_add(0x64))?;
        (env.read_system(cpu, base.wrapping_add(0x1C))?, flags & 1 != 0)
    } else {
        (0, false)
    };
    Ok(NewState { eip, eflags, gpr, selectors, ldt, cr3, trap })
}

fn save_state(cpu: &mut CpuState, env: &mut Env<'_>, base: u32, wide: bool, eflags: u32) -> Exec {
    let at = layout(wide);
    let mut values = [0; 10];
    values[0] = cpu.eip;
    values[1] = eflags;
    values[2..].copy_from_slice(&cpu.gpr[..8]);
    for (&value, n) in values.iter().zip(0..) {
        let lin = base.wrapping_add(at.eip + n * at.width);
        if wide {
            env.write_system(cpu, lin, value)?;
        } else {
            env.write_system(cpu, lin, value as u16)?;
        }
    }
    for (&index, n) in SEGMENTS.iter().take(at.segments).zip(0..) {
        let selector = cpu.seg[index].selector;
        env.write_system(cpu, base.wrapping_add(at.selectors + n * at.width), selector)?;
    }
    Ok(())
}

/// Behind the commit point: loads the new task's state. A fault leaves the registers loaded, and
/// the segments that were not reached unusable.
fn enter_new_task(cpu: &mut CpuState, env: &mut Env<'_>, new: &NewState, wide: bool) -> Exec {
    cpu.cr0 |= cr0::TS;
    // Local breakpoints end with their task (SDM vol. 3, 18.2.4).
    let dr7 = cpu.dr[7] & !0x155;
    control::set_dr7(cpu, env, dr7);
    cpu.debug_hits &= 15;
    cpu.halted = false;
    cpu.int_shadow = false;
    cpu.debug_shadow = false;

    cpu.eip = new.eip;
    cpu.set_eflags(new.eflags);
    cpu.gpr[..8].copy_from_slice(&new.gpr);
    let vm86 = wide && cpu.vm86();
    for (index, selector) in SEGMENTS.into_iter().zip(new.selectors) {
        let segment = if vm86 { Segment::real(selector, 3) } else { Segment::null(selector) };
        cpu.set_segment(index, segment);
    }
    cpu.ldtr = Segment::null(new.ldt);
    set_cpl(cpu, env, if vm86 { 3 } else { rpl(new.selectors[1]) });

    if wide && cpu.cr0 & cr0::PG != 0 {
        control::load_cr3(cpu, env, new.cr3)?;
    }
    cpu.ldtr = descriptor::ldt_segment(cpu, env, new.ldt, Trap::ts, Trap::ts)?;
    if !vm86 {
        load_code(cpu, env, new.selectors[1])?;
        load_stack(cpu, env, new.selectors[2])?;
        for index in [seg::DS, seg::ES, seg::FS, seg::GS] {
            let selector = cpu.seg[index].selector;
            if !is_null(selector) {
                let segment = descriptor::data_segment(cpu, env, selector, Trap::ts)?;
                cpu.set_segment(index, segment);
            }
        }
    }
    if new.trap {
        cpu.debug_hits |= PENDING_TASK;
    }
    if cpu.eip > cpu.seg[seg::CS].limit {
        return Err(Trap::GP0);
    }
    Ok(())
}

fn load_code(cpu: &mut CpuState, env: &mut Env<'_>, selector: u16) -> Exec {
    let code = error_code(selector, 0);
    if is_null(selector) {
        return Err(Trap::ts(code));
    }
    let mut d = descriptor::fetch(cpu, env, selector, Trap::ts, 0)?;
    let privilege_fits = if d.is_conforming() { d.dpl() <= rpl(selector) } else { d.dpl() == rpl(selector) };
    if !d.is_code() || !privilege_fits {
        return Err(Trap::ts(code));
    }
    if !d.is_present() {
        return Err(Trap::np(code));
    }
    d.set_accessed(cpu, env)?;
    descriptor::set_code(cpu, env, d.segment(selector));
    Ok(())
}

fn load_stack(cpu: &mut CpuState, env: &mut Env<'_>, selector: u16) -> Exec {
    let cpl = cpu.cpl;
    let mut d = inner_stack_descriptor(cpu, env, selector, cpl, 0)?;
    d.set_accessed(cpu, env)?;
    cpu.set_segment(seg::SS, d.segment(selector));
    Ok(())
}

/// Pushes the error code of an exception that was delivered through a task gate, in the new task.
///
/// # Errors
/// #SS(1), #PF.
pub fn push_error_code(cpu: &mut CpuState, env: &mut Env<'_>, error: u16) -> Exec {
    let user = cpu.cpl == 3;
    let mut frame = super::frame::Frame::new(cpu.seg[seg::SS], cpu.gpr[gpr::ESP], has_tss32(cpu), user);
    frame.push(error.into());
    let sp = frame.check(cpu, env, Trap::ss(1))?;
    frame.store(cpu, env)?;
    cpu.set_sp(sp);
    Ok(())
}

/// True if the software interrupt redirection bitmap sends `vector` to the protected-mode handler
/// (SDM vol. 3, 21.3.3; CR4.VME).
///
/// # Errors
/// #GP(0) if the TSS has no bitmap; #PF.
pub fn interrupt_is_reflected(cpu: &mut CpuState, env: &mut Env<'_>, vector: u8) -> Exec<bool> {
    let tr = cpu.tr;
    if !has_tss32(cpu) || tr.limit < IO_MAP_BASE + 1 {
        return Err(Trap::GP0);
    }
    let map: u16 = env.read_system(cpu, tr.base.wrapping_add(IO_MAP_BASE))?;
    let Some(at) = u32::from(map).checked_sub(32).map(|start| start + u32::from(vector >> 3)) else {
        return Err(Trap::GP0);
    };
    if at > tr.limit {
        return Err(Trap::GP0);
    }
    let bits: u8 = env.read_system(cpu, tr.base.wrapping_add(at))?;
    Ok(bits & 1 << (vector & 7) != 0)
}
