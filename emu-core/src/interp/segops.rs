//! Segment registers and far transfers: MOV Sreg, POP Sreg, LDS … LGS, far JMP, CALL, RET, and the
//! instructions that look at descriptors: LAR LSL VERR VERW ARPL.

use iced_x86::{Code, Mnemonic};

use super::Env;
use super::operand::{Dst, M, R0, R1, Src, Width};
use crate::cpu::descriptor::{self, Descriptor, rpl, system_type};
use crate::cpu::{CpuState, Exec, Trap, far, seg};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};

/// Loads a segment register for MOV and POP; a load of SS holds back interrupts and debug
/// exceptions for one instruction.
fn load(cpu: &mut CpuState, env: &mut Env<'_>, index: usize, selector: u16) -> Exec {
    descriptor::load_segment(cpu, env, index, selector)?;
    if index == seg::SS {
        cpu.int_shadow = true;
        cpu.debug_shadow = true;
        env.end_block();
    }
    Ok(())
}

fn mov_to_seg<S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let selector: u16 = S::read(cpu, env, i)?;
    load(cpu, env, usize::from(i.r0), selector)
}

fn mov_from_seg<W: Width, D: Dst>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let selector = cpu.seg[usize::from(i.r1 % 6)].selector;
    D::write(cpu, env, i, W::trunc(selector.into()))
}

/// POP Sreg reads a whole slot and uses its low half.
fn pop_seg<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let index = usize::from(i.r0);
    let value: W = env.peek(cpu, 0)?;
    let sp = cpu.sp().wrapping_add(W::BYTES);
    // The increment is by the stack size before the load: POP SS may change it.
    let esp = cpu.gpr[4];
    cpu.set_sp(sp);
    let loaded = load(cpu, env, index, value.zext() as u16);
    if loaded.is_err() {
        cpu.gpr[4] = esp;
    }
    loaded
}

/// The far pointer in memory: offset of the operand size, then the selector.
fn far_pointer<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<(u16, u32)> {
    let lin = env.linear_read(cpu, i.seg, i.ea(cpu), W::BYTES + 2)?;
    env.aligned(cpu, lin, W::BYTES)?;
    let offset: W = env.read(cpu, lin)?;
    let selector = env.read(cpu, lin.wrapping_add(W::BYTES))?;
    Ok((selector, offset.zext()))
}

fn load_pointer<W: Width, const SEG: usize>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let (selector, offset) = far_pointer::<W>(cpu, env, i)?;
    descriptor::load_segment(cpu, env, SEG, selector)?;
    W::set(cpu, i.r0, W::trunc(offset));
    Ok(())
}

fn jmp_pointer(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    far::jump(cpu, env, i.imm2, i.imm)
}

fn jmp_memory<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let (selector, offset) = far_pointer::<W>(cpu, env, i)?;
    far::jump(cpu, env, selector, offset)
}

fn call_pointer<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    far::call::<W>(cpu, env, i.imm2, i.imm)
}

fn call_memory<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let (selector, offset) = far_pointer::<W>(cpu, env, i)?;
    far::call::<W>(cpu, env, selector, offset)
}

fn ret_far<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    far::ret::<W>(cpu, env, i.imm & 0xFFFF)
}

/// The descriptor that LAR, LSL, VERR and VERW look at: `None` if the selector is null or lies
/// outside its table.
fn look_up<S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<Option<(Descriptor, u16)>> {
    if cpu.real_or_vm86() {
        return Err(Trap::UD);
    }
    let selector: u16 = S::read(cpu, env, i)?;
    if descriptor::is_null(selector) {
        return Ok(None);
    }
    Ok(descriptor::try_fetch(cpu, env, selector)?.map(|d| (d, selector)))
}

/// CPL and RPL may look at the descriptor.
fn is_visible(cpu: &CpuState, d: &Descriptor, selector: u16) -> bool {
    d.is_conforming() || d.dpl() >= cpu.cpl.max(rpl(selector))
}

fn lar<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    use system_type as t;
    let found = look_up::<S>(cpu, env, i)?.filter(|(d, selector)| {
        let known = !d.is_system()
            || matches!(
                d.kind(),
                t::TSS16_AVAILABLE
                    | t::LDT
                    | t::TSS16_BUSY
                    | t::CALL_GATE16
                    | t::TASK_GATE
                    | t::TSS32_AVAILABLE
                    | t::TSS32_BUSY
                    | t::CALL_GATE32
            );
        known && is_visible(cpu, d, *selector)
    });
    cpu.flags.set_zf(found.is_some());
    if let Some((d, _)) = found {
        // The SDM leaves bits 19:16 undefined; processors give what the descriptor has there.
        W::set(cpu, i.r0, W::trunc(d.high & 0x00FF_FF00));
    }
    Ok(())
}

fn lsl<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    use system_type as t;
    let found = look_up::<S>(cpu, env, i)?.filter(|(d, selector)| {
        let known = !d.is_system()
            || matches!(
                d.kind(),
                t::TSS16_AVAILABLE | t::LDT | t::TSS16_BUSY | t::TSS32_AVAILABLE | t::TSS32_BUSY
            );
        known && is_visible(cpu, d, *selector)
    });
    cpu.flags.set_zf(found.is_some());
    if let Some((d, selector)) = found {
        W::set(cpu, i.r0, W::trunc(d.segment(selector).limit));
    }
    Ok(())
}

fn verr<S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let found = look_up::<S>(cpu, env, i)?;
    let zf = found.is_some_and(|(d, selector)| d.is_readable() && is_visible(cpu, &d, selector));
    cpu.flags.set_zf(zf);
    Ok(())
}

fn verw<S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let found = look_up::<S>(cpu, env, i)?;
    let zf = found.is_some_and(|(d, selector)| d.is_writable() && is_visible(cpu, &d, selector));
    cpu.flags.set_zf(zf);
    Ok(())
}

fn arpl<D: Dst>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    if cpu.real_or_vm86() {
        return Err(Trap::UD);
    }
    let limit = cpu.r16(i.r1) & 3;
    let selector: u16 = D::read(cpu, env, i)?;
    let raise = selector & 3 < limit;
    if raise {
        // Only then is the operand written: a read-only segment does otherwise.
        D::write(cpu, env, i, (selector & !3) | limit)?;
    }
    cpu.flags.set_zf(raise);
    Ok(())
}

/// Dispatch rows that do not end a block.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    let register = matches!(d.form, Form::R | Form::RR);
    macro_rules! source {
        ($f:ident, $reg:ident) => {
            Some(if register { $f::<$reg> as ExecFn } else { $f::<M> as ExecFn })
        };
    }
    macro_rules! source_by_width {
        ($f:ident) => {
            match (d.op16, register) {
                (true, true) => Some($f::<u16, R1> as ExecFn),
                (true, false) => Some($f::<u16, M> as ExecFn),
                (false, true) => Some($f::<u32, R1> as ExecFn),
                (false, false) => Some($f::<u32, M> as ExecFn),
            }
        };
    }
    match d.mnemonic {
        Mnemonic::Mov if d.ins.op1_register().is_segment_register() => match (d.form, d.size) {
            (Form::RR, 4) => Some(mov_from_seg::<u32, R0>),
            (Form::RR, _) => Some(mov_from_seg::<u16, R0>),
            _ => Some(mov_from_seg::<u16, M>),
        },
        Mnemonic::Lar => source_by_width!(lar),
        Mnemonic::Lsl => source_by_width!(lsl),
        Mnemonic::Verr => source!(verr, R0),
        Mnemonic::Verw => source!(verw, R0),
        Mnemonic::Arpl => source!(arpl, R0),
        _ => None,
    }
}

/// Dispatch rows that end a block: translated code may depend on what a segment register holds.
pub(super) fn select_ending(d: &Decoded<'_>) -> Option<ExecFn> {
    let by_op = |w: ExecFn, d32: ExecFn| Some(if d.op16 { w } else { d32 });
    let target = d.ins.op0_register();
    match d.mnemonic {
        Mnemonic::Mov if target.is_segment_register() && target != iced_x86::Register::CS => {
            Some(if d.form == Form::RR { mov_to_seg::<R1> } else { mov_to_seg::<M> })
        }
        Mnemonic::Pop if target.is_segment_register() => by_op(pop_seg::<u16>, pop_seg::<u32>),
        Mnemonic::Lds => by_op(load_pointer::<u16, { seg::DS }>, load_pointer::<u32, { seg::DS }>),
        Mnemonic::Les => by_op(load_pointer::<u16, { seg::ES }>, load_pointer::<u32, { seg::ES }>),
        Mnemonic::Lss => by_op(load_pointer::<u16, { seg::SS }>, load_pointer::<u32, { seg::SS }>),
        Mnemonic::Lfs => by_op(load_pointer::<u16, { seg::FS }>, load_pointer::<u32, { seg::FS }>),
        Mnemonic::Lgs => by_op(load_pointer::<u16, { seg::GS }>, load_pointer::<u32, { seg::GS }>),
        Mnemonic::Retf => by_op(ret_far::<u16>, ret_far::<u32>),
        _ => match d.code {
            Code::Jmp_ptr1616 | Code::Jmp_ptr1632 => Some(jmp_pointer),
            Code::Jmp_m1616 => Some(jmp_memory::<u16>),
            Code::Jmp_m1632 => Some(jmp_memory::<u32>),
            Code::Call_ptr1616 => Some(call_pointer::<u16>),
            Code::Call_ptr1632 => Some(call_pointer::<u32>),
            Code::Call_m1616 => Some(call_memory::<u16>),
            Code::Call_m1632 => Some(call_memory::<u32>),
            _ => None,
        },
    }
}
