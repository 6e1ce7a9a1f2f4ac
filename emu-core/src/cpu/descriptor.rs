//! Descriptors: fetching them from GDT and LDT, and loading segment registers, LDTR and TR
//! (SDM vol. 3, chapters 3.4, 3.5 and 5).
//!
//! Tables are read and written with supervisor rights whatever CPL is. Every function checks
//! everything that can fault before it changes a register.

use super::fault::{Exec, Trap};
use super::segment::{Segment, attr, seg};
use super::state::CpuState;
use crate::interp::Env;

/// Types of system descriptors (SDM vol. 3, table 3-2).
#[allow(missing_docs)]
pub mod system_type {
    pub const TSS16_AVAILABLE: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS16_BUSY: u8 = 3;
    pub const CALL_GATE16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INTERRUPT_GATE16: u8 = 6;
    pub const TRAP_GATE16: u8 = 7;
    pub const TSS32_AVAILABLE: u8 = 9;
    pub const TSS32_BUSY: u8 = 11;
    pub const CALL_GATE32: u8 = 12;
    pub const INTERRUPT_GATE32: u8 = 14;
    pub const TRAP_GATE32: u8 = 15;
}

/// Makes an exception from an error code: [`Trap::gp`] and its like.
pub type Fault = fn(u16) -> Trap;

/// A descriptor as it lies in its table.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// First dword.
    pub low: u32,
    /// Second dword.
    pub high: u32,
    /// Linear address of the descriptor.
    pub at: u32,
}

impl Descriptor {
    /// Privilege level.
    pub const fn dpl(&self) -> u8 {
        ((self.high >> 13) & 3) as u8
    }

    /// P bit.
    pub const fn is_present(&self) -> bool {
        self.high & 1 << 15 != 0
    }

    /// S bit clear: LDT, TSS or gate.
    pub const fn is_system(&self) -> bool {
        self.high & 1 << 12 == 0
    }

    /// Type, bits 3:0.
    pub const fn kind(&self) -> u8 {
        ((self.high >> 8) & 15) as u8
    }

    /// Code segment.
    pub const fn is_code(&self) -> bool {
        !self.is_system() && self.kind() & 8 != 0
    }

    /// Conforming code segment.
    pub const fn is_conforming(&self) -> bool {
        !self.is_system() && self.kind() & 12 == 12
    }

    /// Data segment, or code segment that may be read.
    pub const fn is_readable(&self) -> bool {
        !self.is_system() && self.kind() & 10 != 8
    }

    /// Data segment that may be written.
    pub const fn is_writable(&self) -> bool {
        !self.is_system() && self.kind() & 10 == 2
    }

    /// 32-bit TSS or gate (not for task gates).
    pub const fn is_32(&self) -> bool {
        self.kind() & 8 != 0
    }

    /// Segment register contents for this descriptor.
    pub const fn segment(&self, selector: u16) -> Segment {
        Segment::from_descriptor(selector, self.low, self.high)
    }

    /// Gate: target selector.
    pub const fn gate_selector(&self) -> u16 {
        (self.low >> 16) as u16
    }

    /// Call, interrupt or trap gate: target offset.
    pub const fn gate_offset(&self) -> u32 {
        let low = self.low & 0xFFFF;
        if self.is_32() { low | (self.high & 0xFFFF_0000) } else { low }
    }

    /// Call gate: number of parameters.
    pub const fn gate_parameters(&self) -> u32 {
        self.high & 31
    }

    /// Sets the accessed bit in the table if it is clear.
    ///
    /// # Errors
    /// #PF.
    pub fn set_accessed(&mut self, cpu: &mut CpuState, env: &mut Env<'_>) -> Exec {
        if self.high & 1 << 8 == 0 {
            env.write_system(cpu, self.at.wrapping_add(5), (self.high >> 8) as u8 | 1)?;
            self.high |= 1 << 8;
        }
        Ok(())
    }
}

/// Null selector: index 0 of the GDT with any RPL.
pub const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// Requested privilege level.
pub const fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// Error code that names a selector; `ext` is 1 while an event external to the program is delivered.
pub const fn error_code(selector: u16, ext: u16) -> u16 {
    selector & !3 | ext
}

/// Linear address of a selector's descriptor; `None` if it lies outside its table.
fn locate(cpu: &CpuState, selector: u16) -> Option<u32> {
    let (base, limit) = if selector & 4 == 0 {
        (cpu.gdtr.base, u32::from(cpu.gdtr.limit))
    } else if cpu.ldtr.is_present() {
        (cpu.ldtr.base, cpu.ldtr.limit)
    } else {
        return None;
    };
    let offset = u32::from(selector & !7);
    (offset + 7 <= limit).then(|| base.wrapping_add(offset))
}

/// Reads the descriptor of a selector; `None` if the selector lies outside its table. The caller
/// has dealt with null selectors.
///
/// # Errors
/// #PF.
pub fn try_fetch(cpu: &mut CpuState, env: &mut Env<'_>, selector: u16) -> Exec<Option<Descriptor>> {
    let Some(at) = locate(cpu, selector) else { return Ok(None) };
    let raw: u64 = env.read_system(cpu, at)?;
    Ok(Some(Descriptor { low: raw as u32, high: (raw >> 32) as u32, at }))
}

/// Reads the descriptor of a selector.
///
/// # Errors
/// `fault(selector)` if it lies outside its table, #PF.
pub fn fetch(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    selector: u16,
    fault: Fault,
    ext: u16,
) -> Exec<Descriptor> {
    try_fetch(cpu, env, selector)?.ok_or_else(|| fault(error_code(selector, ext)))
}

/// Changes CPL with everything that follows from it.
pub fn set_cpl(cpu: &mut CpuState, env: &mut Env<'_>, cpl: u8) {
    cpu.cpl = cpl;
    env.mem.select_view(cpl == 3);
    cpu.update_alignment_check();
    env.end_block();
}

/// Loads a segment register in real or VM86 mode.
///
/// Real mode changes the base only: limit and B bit of an earlier descriptor stay ("big real
/// mode"). VM86 mode sets everything.
pub fn load_real(cpu: &mut CpuState, index: usize, selector: u16) {
    let fresh = Segment::real(selector, if cpu.vm86() { 3 } else { 0 });
    let old = cpu.seg[index];
    let segment = if cpu.vm86() || !old.is_present() {
        fresh
    } else {
        Segment { limit: old.limit, attr: fresh.attr | (old.attr & (attr::DB | attr::G)), ..fresh }
    };
    cpu.set_segment(index, segment);
}

/// Loads CS in real or VM86 mode, see [`load_real`] and [`set_code`].
pub fn load_real_code(cpu: &mut CpuState, env: &mut Env<'_>, selector: u16) {
    load_real(cpu, seg::CS, selector);
    env.end_block();
}

/// Sets CS. The run loop must look at it: what it knows of the block that follows another one at an
/// offset holds for one code segment only.
pub fn set_code(cpu: &mut CpuState, env: &mut Env<'_>, segment: Segment) {
    cpu.set_segment(seg::CS, segment);
    env.end_block();
}

/// Loads ES, SS, DS, FS or GS as MOV, POP and LxS do.
///
/// # Errors
/// #GP, #NP, #SS with the selector, #PF.
pub fn load_segment(cpu: &mut CpuState, env: &mut Env<'_>, index: usize, selector: u16) -> Exec {
    if cpu.real_or_vm86() {
        load_real(cpu, index, selector);
        return Ok(());
    }
    let segment = if index == seg::SS {
        stack_segment(cpu, env, selector)?
    } else if is_null(selector) {
        Segment::null(selector)
    } else {
        data_segment(cpu, env, selector, Trap::gp)?
    };
    cpu.set_segment(index, segment);
    if index == seg::SS {
        // Its B bit is part of the mode that code is decoded for.
        env.end_block();
    }
    Ok(())
}

fn stack_segment(cpu: &mut CpuState, env: &mut Env<'_>, selector: u16) -> Exec<Segment> {
    if is_null(selector) {
        return Err(Trap::GP0);
    }
    let cpl = cpu.cpl;
    let mut d = fetch(cpu, env, selector, Trap::gp, 0)?;
    check_stack_descriptor(&d, selector, cpl, Trap::gp, 0)?;
    d.set_accessed(cpu, env)?;
    Ok(d.segment(selector))
}

/// Checks a stack segment for privilege level `cpl`: RPL and DPL equal to it, writable data.
///
/// # Errors
/// `fault(selector)`; #SS if not present.
pub fn check_stack_descriptor(d: &Descriptor, selector: u16, cpl: u8, fault: Fault, ext: u16) -> Exec {
    let code = error_code(selector, ext);
    if rpl(selector) != cpl || d.dpl() != cpl || !d.is_writable() {
        return Err(fault(code));
    }
    if !d.is_present() {
        return Err(Trap::ss(code));
    }
    Ok(())
}

/// Contents of DS, ES, FS or GS for a selector that is not null, with the rights of CPL.
///
/// # Errors
/// `fault(selector)`; #NP if not present; #PF.
pub fn data_segment(cpu: &mut CpuState, env: &mut Env<'_>, selector: u16, fault: Fault) -> Exec<Segment> {
    let mut d = fetch(cpu, env, selector, fault, 0)?;
    let code = error_code(selector, 0);
    if !d.is_readable() || (!d.is_conforming() && d.dpl() < rpl(selector).max(cpu.cpl)) {
        return Err(fault(code));
    }
    if !d.is_present() {
        return Err(Trap::np(code));
    }
    d.set_accessed(cpu, env)?;
    Ok(d.segment(selector))
}

/// Contents of DS, ES, FS or GS for a selector and the bits of its descriptor, if a load succeeds and has no
/// effect on the table.
pub fn accessed_data_segment(raw: u64, selector: u16, cpl: u8) -> Option<Segment> {
    let d = Descriptor { low: raw as u32, high: (raw >> 32) as u32, at: 0 };
    let allowed = d.is_readable() && (d.is_conforming() || d.dpl() >= rpl(selector).max(cpl));
    let accessed = d.high & 1 << 8 != 0;
    (allowed && d.is_present() && accessed).then(|| d.segment(selector))
}

/// Contents of LDTR for a selector.
///
/// # Errors
/// `fault(selector)`; `absent(selector)` if not present; #PF.
pub fn ldt_segment(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    selector: u16,
    fault: Fault,
    absent: Fault,
) -> Exec<Segment> {
    if is_null(selector) {
        return Ok(Segment::null(selector));
    }
    let code = error_code(selector, 0);
    if selector & 4 != 0 {
        return Err(fault(code));
    }
    let d = fetch(cpu, env, selector, fault, 0)?;
    if !d.is_system() || d.kind() != system_type::LDT {
        return Err(fault(code));
    }
    if !d.is_present() {
        return Err(absent(code));
    }
    Ok(d.segment(selector))
}

/// LLDT.
///
/// # Errors
/// #GP, #NP, #PF.
pub fn load_ldtr(cpu: &mut CpuState, env: &mut Env<'_>, selector: u16) -> Exec {
    cpu.ldtr = ldt_segment(cpu, env, selector, Trap::gp, Trap::np)?;
    Ok(())
}

/// LTR: the TSS must be available and becomes busy.
///
/// # Errors
/// #GP, #NP, #PF.
pub fn load_tr(cpu: &mut CpuState, env: &mut Env<'_>, selector: u16) -> Exec {
    if is_null(selector) {
        return Err(Trap::GP0);
    }
    let code = error_code(selector, 0);
    if selector & 4 != 0 {
        return Err(Trap::gp(code));
    }
    let mut d = fetch(cpu, env, selector, Trap::gp, 0)?;
    if !is_available_tss(&d) {
        return Err(Trap::gp(code));
    }
    if !d.is_present() {
        return Err(Trap::np(code));
    }
    set_busy(cpu, env, &mut d, true)?;
    cpu.tr = d.segment(selector);
    Ok(())
}

/// TSS that is not busy.
pub fn is_available_tss(d: &Descriptor) -> bool {
    d.is_system() && matches!(d.kind(), system_type::TSS16_AVAILABLE | system_type::TSS32_AVAILABLE)
}

/// TSS that is busy.
pub fn is_busy_tss(d: &Descriptor) -> bool {
    d.is_system() && matches!(d.kind(), system_type::TSS16_BUSY | system_type::TSS32_BUSY)
}

/// Sets or clears the busy bit of a TSS descriptor in its table.
///
/// # Errors
/// #PF.
pub fn set_busy(cpu: &mut CpuState, env: &mut Env<'_>, d: &mut Descriptor, busy: bool) -> Exec {
    let high = if busy { d.high | 1 << 9 } else { d.high & !(1 << 9) };
    env.write_system(cpu, d.at.wrapping_add(5), (high >> 8) as u8)?;
    d.high = high;
    Ok(())
}

/// After a return to an outer level: data segments that CPL may not use become null.
pub fn drop_inaccessible_segments(cpu: &mut CpuState) {
    for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
        let s = cpu.seg[index];
        let conforming = attr::S | attr::CODE | attr::DC;
        if s.is_present() && s.attr & conforming != conforming && s.dpl() < cpu.cpl {
            cpu.set_segment(index, Segment::null(0));
        }
    }
}
