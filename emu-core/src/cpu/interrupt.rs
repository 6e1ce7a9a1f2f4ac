//! Delivery of exceptions and interrupts through IVT, IDT and TSS (SDM vol. 3, chapter 6, and the
//! operation section of INT in vol. 2).
//!
//! Nothing of the state changes before everything that can fault is done, so that a fault during
//! delivery meets the state of the original event.

use super::control;
use super::debug_regs::{DR7_GD, PENDING_STEP};
use super::descriptor::{self, Descriptor, error_code, is_null, set_cpl, system_type};
use super::fault::{Exception, Exec, Trap, TrapKind, vector};
use super::flags::{AC, IF, IOPL, NT, RF, TF, VIF, VM};
use super::frame::Frame;
use super::segment::{Segment, seg};
use super::state::{CpuState, cr4, gpr};
use super::task;
use crate::interp::Env;

/// Who asked for an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// INT n: subject to gate privilege and to IOPL in VM86 mode.
    IntN,
    /// INT3 and INTO: subject to gate privilege.
    Trap,
    /// INT1: no privilege check, and external to the program as far as error codes go.
    Int1,
    /// Exceptions and external interrupts.
    Hardware,
}

/// What is delivered.
#[derive(Clone, Copy, Debug)]
struct Event {
    vector: u8,
    error: Option<u16>,
    source: Source,
    /// EFLAGS to be pushed.
    eflags: u32,
}

impl Event {
    /// EXT bit of error codes raised while this event is delivered.
    fn ext(&self) -> u16 {
        u16::from(matches!(self.source, Source::Int1 | Source::Hardware))
    }

    /// Error code that names the event's IDT entry.
    fn idt_error(&self) -> u16 {
        u16::from(self.vector) * 8 + 2 + self.ext()
    }
}

/// Classes of table 6-4: they decide what becomes a double fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(v: u8) -> Class {
    match v {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
        vector::PF => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// Delivers an exception: fault to double fault to shutdown (table 6-5), error code, CR2, RF in
/// the pushed EFLAGS. EIP is what the handler returns to: the faulting instruction, or behind it
/// for debug traps.
///
/// A delivered exception counts as an instruction, so that a guest whose handlers do nothing but
/// fault uses up its budget all the same.
///
/// # Errors
/// `Trap::SHUTDOWN` after a triple fault.
pub fn deliver_exception(cpu: &mut CpuState, env: &mut Env<'_>, exception: Exception) -> Exec {
    cpu.retired += 1;
    deliver_until_taken(cpu, env, exception, Class::Benign)
}

/// Delivers an external interrupt or NMI between two instructions.
///
/// # Errors
/// `Trap::SHUTDOWN` after a triple fault.
pub fn deliver_external(cpu: &mut CpuState, env: &mut Env<'_>, vector: u8) -> Exec {
    let event = Event { vector, error: None, source: Source::Hardware, eflags: cpu.eflags() };
    match deliver(cpu, env, &event) {
        Ok(()) => Ok(()),
        Err(trap) => match trap.kind() {
            TrapKind::Exception(e) => deliver_until_taken(cpu, env, e, Class::Benign),
            _ => Err(trap),
        },
    }
}

/// INT n.
///
/// # Errors
/// Faults of the instruction.
pub fn software_interrupt(cpu: &mut CpuState, env: &mut Env<'_>, vector: u8) -> Exec {
    software(cpu, env, vector, Source::IntN)
}

/// INT3 and INTO, which are not sensitive to IOPL in VM86 mode.
///
/// # Errors
/// Faults of the instruction.
pub fn software_trap(cpu: &mut CpuState, env: &mut Env<'_>, vector: u8) -> Exec {
    software(cpu, env, vector, Source::Trap)
}

/// INT1: #DB without a gate privilege check.
///
/// # Errors
/// Faults of the instruction.
pub fn int1(cpu: &mut CpuState, env: &mut Env<'_>) -> Exec {
    software(cpu, env, vector::DB, Source::Int1)
}

fn software(cpu: &mut CpuState, env: &mut Env<'_>, vector: u8, source: Source) -> Exec {
    let event = Event { vector, error: None, source, eflags: cpu.eflags() };
    if cpu.vm86() && source == Source::IntN {
        if cpu.cr4 & cr4::VME != 0 && !task::interrupt_is_reflected(cpu, env, vector)? {
            return redirect_in_vm86(cpu, env, vector);
        }
        if cpu.iopl() < 3 {
            return Err(Trap::GP0);
        }
    }
    deliver(cpu, env, &event)
}

fn deliver_until_taken(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    mut exception: Exception,
    mut first: Class,
) -> Exec {
    loop {
        let second = class(exception.vector);
        if exception.vector == vector::PF {
            // CR2 follows every page fault that is detected, also one that ends as a double fault.
            cpu.cr2 = cpu.fault_address;
        }
        match (first, second) {
            (Class::DoubleFault, Class::Contributory | Class::PageFault) => return Err(Trap::SHUTDOWN),
            (Class::Contributory, Class::Contributory)
            | (Class::PageFault, Class::Contributory | Class::PageFault) => {
                exception = Exception { vector: vector::DF, error: Some(0) };
            }
            _ => {}
        }
        // Returning from a fault must not hit the instruction's breakpoint again; #DB decides itself.
        let resume = if exception.vector == vector::DB { 0 } else { RF };
        let event = Event {
            vector: exception.vector,
            error: exception.error,
            source: Source::Hardware,
            eflags: cpu.eflags() | resume,
        };
        match deliver(cpu, env, &event) {
            Ok(()) => {
                if exception.vector == vector::DB {
                    let dr7 = cpu.dr[7] & !DR7_GD;
                    control::set_dr7(cpu, env, dr7);
                }
                return Ok(());
            }
            Err(trap) => match trap.kind() {
                TrapKind::Exception(next) => {
                    first = class(exception.vector);
                    exception = next;
                }
                _ => return Err(trap),
            },
        }
    }
}

/// One attempt.
fn deliver(cpu: &mut CpuState, env: &mut Env<'_>, event: &Event) -> Exec {
    if cpu.protected() { protected_mode(cpu, env, event) } else { real_mode(cpu, env, event) }
}

/// What every delivered event ends: HLT, interrupt shadows, single-step of an INT instruction.
fn wake(cpu: &mut CpuState) {
    cpu.halted = false;
    cpu.int_shadow = false;
    cpu.debug_shadow = false;
    cpu.debug_hits &= !PENDING_STEP;
}

fn real_mode(cpu: &mut CpuState, env: &mut Env<'_>, event: &Event) -> Exec {
    let at = u32::from(event.vector) * 4;
    if at + 3 > u32::from(cpu.idtr.limit) {
        return Err(Trap::gp(event.idt_error()));
    }
    let entry: u32 = env.read_system(cpu, cpu.idtr.base.wrapping_add(at))?;
    let mut frame = Frame::new(cpu.seg[seg::SS], cpu.gpr[gpr::ESP], false, false);
    frame.push(event.eflags);
    frame.push(cpu.seg[seg::CS].selector.into());
    frame.push(cpu.eip);
    let sp = frame.check(cpu, env, Trap::ss(event.ext()))?;
    frame.store(cpu, env)?;

    wake(cpu);
    cpu.set_sp(sp);
    cpu.eflags &= !(IF | TF | AC | RF);
    descriptor::load_real_code(cpu, env, (entry >> 16) as u16);
    cpu.eip = entry & 0xFFFF;
    cpu.update_alignment_check();
    env.end_block();
    Ok(())
}

fn protected_mode(cpu: &mut CpuState, env: &mut Env<'_>, event: &Event) -> Exec {
    let at = u32::from(event.vector) * 8;
    if at + 7 > u32::from(cpu.idtr.limit) {
        return Err(Trap::gp(event.idt_error()));
    }
    let at = cpu.idtr.base.wrapping_add(at);
    let raw: u64 = env.read_system(cpu, at)?;
    let gate = Descriptor { low: raw as u32, high: (raw >> 32) as u32, at };
    use system_type as t;
    let known = matches!(
        gate.kind(),
        t::TASK_GATE | t::INTERRUPT_GATE16 | t::TRAP_GATE16 | t::INTERRUPT_GATE32 | t::TRAP_GATE32
    );
    let called = matches!(event.source, Source::IntN | Source::Trap);
    if !gate.is_system() || !known || (called && gate.dpl() < cpu.cpl) {
        return Err(Trap::gp(event.idt_error()));
    }
    if !gate.is_present() {
        return Err(Trap::np(event.idt_error()));
    }
    if gate.kind() == t::TASK_GATE {
        task_gate(cpu, env, event, &gate)
    } else {
        handler(cpu, env, event, &gate)
    }
}

fn task_gate(cpu: &mut CpuState, env: &mut Env<'_>, event: &Event, gate: &Descriptor) -> Exec {
    let selector = gate.gate_selector();
    let tss = task::gate_target(cpu, env, selector, event.ext())?;
    if event.source != Source::Hardware {
        return task::switch_by_instruction(cpu, env, selector, tss, task::Cause::Nest);
    }
    let result = task::switch(cpu, env, selector, tss, task::Cause::Nest, event.eflags, event.ext());
    match result {
        Ok(()) => match event.error {
            Some(code) => task::push_error_code(cpu, env, code),
            None => Ok(()),
        },
        Err(task::SwitchFault::Old(trap) | task::SwitchFault::New(trap)) => Err(trap),
    }
}

/// Interrupt and trap gates.
fn handler(cpu: &mut CpuState, env: &mut Env<'_>, event: &Event, gate: &Descriptor) -> Exec {
    let ext = event.ext();
    let selector = gate.gate_selector();
    if is_null(selector) {
        return Err(Trap::gp(ext));
    }
    let mut code = descriptor::fetch(cpu, env, selector, Trap::gp, ext)?;
    let code_error = error_code(selector, ext);
    if !code.is_code() || code.dpl() > cpu.cpl {
        return Err(Trap::gp(code_error));
    }
    if !code.is_present() {
        return Err(Trap::np(code_error));
    }
    let inner = !code.is_conforming() && code.dpl() < cpu.cpl;
    let cpl = if inner { code.dpl() } else { cpu.cpl };
    if cpu.vm86() && cpl != 0 {
        return Err(Trap::gp(code_error));
    }

    let wide = gate.is_32();
    let mut stack = None;
    let mut frame;
    let fault;
    if inner {
        let (ss, esp) = task::inner_stack(cpu, env, cpl, ext)?;
        let d = task::inner_stack_descriptor(cpu, env, ss, cpl, ext)?;
        frame = Frame::new(d.segment(ss), esp, wide, false);
        if cpu.vm86() {
            for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
                frame.push(cpu.seg[index].selector.into());
            }
        }
        frame.push(cpu.seg[seg::SS].selector.into());
        frame.push(cpu.gpr[gpr::ESP]);
        fault = Trap::ss(error_code(ss, ext));
        stack = Some((ss, d));
    } else {
        frame = Frame::new(cpu.seg[seg::SS], cpu.gpr[gpr::ESP], wide, cpl == 3);
        fault = Trap::ss(ext);
    }
    frame.push(event.eflags);
    frame.push(cpu.seg[seg::CS].selector.into());
    frame.push(cpu.eip);
    if let Some(error) = event.error {
        frame.push(error.into());
    }
    let sp = frame.check(cpu, env, fault)?;
    let target = gate.gate_offset();
    if target > code.segment(selector).limit {
        return Err(Trap::gp(ext));
    }
    code.set_accessed(cpu, env)?;
    if let Some((_, d)) = &mut stack {
        d.set_accessed(cpu, env)?;
    }
    frame.store(cpu, env)?;

    wake(cpu);
    if cpu.vm86() {
        for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
            cpu.set_segment(index, Segment::null(0));
        }
    }
    let off = if gate.kind() & 1 == 0 { IF } else { 0 };
    cpu.eflags &= !(TF | NT | RF | VM | off);
    descriptor::set_code(cpu, env, code.segment((selector & !3) | u16::from(cpl)));
    if let Some((ss, d)) = stack {
        cpu.set_segment(seg::SS, d.segment(ss));
    }
    cpu.set_sp(sp);
    cpu.eip = target;
    set_cpl(cpu, env, cpl);
    Ok(())
}

/// INT n in VM86 mode with CR4.VME whose bit in the redirection bitmap is clear: the 8086 program's
/// own handler is called (SDM vol. 3, 21.3.3.4 and 21.3.3.5).
fn redirect_in_vm86(cpu: &mut CpuState, env: &mut Env<'_>, vector: u8) -> Exec {
    let entry: u32 = env.read_system(cpu, u32::from(vector) * 4)?;
    let virtualized = cpu.iopl() < 3;
    let mut pushed = cpu.eflags();
    if virtualized {
        pushed = (pushed & !IF) | IOPL | if pushed & VIF != 0 { IF } else { 0 };
    }
    let mut frame = Frame::new(cpu.seg[seg::SS], cpu.gpr[gpr::ESP], false, true);
    frame.push(pushed);
    frame.push(cpu.seg[seg::CS].selector.into());
    frame.push(cpu.eip);
    let sp = frame.check(cpu, env, Trap::SS0)?;
    frame.store(cpu, env)?;

    wake(cpu);
    cpu.set_sp(sp);
    cpu.eflags &= !(TF | NT | RF | if virtualized { VIF } else { IF });
    descriptor::load_real_code(cpu, env, (entry >> 16) as u16);
    cpu.eip = entry & 0xFFFF;
    env.end_block();
    Ok(())
}
