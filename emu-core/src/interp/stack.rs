//! PUSH, POP, PUSHA, POPA, ENTER, LEAVE of general registers, memory and immediates.
//!
//! Every form stores before ESP changes and translates all of what it touches before the first
//! effect, so a fault leaves the instruction restartable.

use iced_x86::{Code, Mnemonic};

use super::Env;
use super::operand::{Dst, Imm, M, R0, Src, Width};
use crate::cpu::{CpuState, Exec, gpr, seg};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};

fn push<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    match S::fast::<W>(cpu, env, i) {
        Some(v) if env.fast_push(cpu, v) => Ok(()),
        _ => push_slow::<W, S>(cpu, env, i),
    }
}

#[cold]
#[inline(never)]
fn push_slow<W: Width, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let v: W = S::read(cpu, env, i)?;
    env.push(cpu, v)
}

/// Pushes a segment register; the 32-bit form stores 16 bits and leaves the upper half of the slot
/// as it was (SDM vol. 2, PUSH), but checks the whole slot.
fn push_seg<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let selector = cpu.seg[usize::from(i.r0 % 6)].selector;
    let sp = cpu.sp().wrapping_sub(W::BYTES);
    let sp = if cpu.mode.stack32() { sp } else { sp & 0xFFFF };
    let lin = env.linear_write(cpu, seg::SS as u8, sp, W::BYTES)?;
    env.aligned(cpu, lin, W::BYTES)?;
    env.write(cpu, lin, selector)?;
    cpu.set_sp(sp);
    Ok(())
}

fn pop_r<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    match env.fast_top::<W>(cpu) {
        Some(v) => {
            cpu.gpr[gpr::ESP] = cpu.gpr[gpr::ESP].wrapping_add(W::BYTES);
            W::set(cpu, i.r0, v);
            Ok(())
        }
        None => pop_r_slow::<W>(cpu, env, i),
    }
}

#[cold]
#[inline(never)]
fn pop_r_slow<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let v: W = env.pop(cpu)?;
    W::set(cpu, i.r0, v);
    Ok(())
}

/// POP m computes its address with ESP already incremented.
fn pop_m<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let esp = cpu.gpr[gpr::ESP];
    let v: W = env.pop(cpu)?;
    let stored = M::write(cpu, env, i, v);
    if stored.is_err() {
        cpu.gpr[gpr::ESP] = esp;
    }
    stored
}

fn pusha<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    let saved = cpu.gpr[gpr::ESP];
    let old_sp = W::trunc(saved);
    for r in 0..8u8 {
        let v = if usize::from(r) == gpr::ESP { old_sp } else { W::get(cpu, r) };
        if let Err(trap) = env.push(cpu, v) {
            cpu.gpr[gpr::ESP] = saved;
            return Err(trap);
        }
    }
    Ok(())
}

fn popa<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    let mut values = [0u32; 8];
    for (n, v) in values.iter_mut().enumerate() {
        *v = env.peek::<W>(cpu, n as u32 * W::BYTES)?.zext();
    }
    for (n, v) in values.iter().enumerate() {
        let r = 7 - n;
        if r != gpr::ESP {
            W::set(cpu, r as u8, W::trunc(*v));
        }
    }
    cpu.set_sp(cpu.sp().wrapping_add(8 * W::BYTES));
    Ok(())
}

/// ENTER (SDM vol. 2): pushes EBP, copies `level - 1` frame pointers, reserves space. The store that
/// would touch the final stack top is checked too, as silicon does.
fn enter<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let size = i.imm & 0xFFFF;
    let level = u32::from(i.imm2) & 31;
    let saved_esp = cpu.gpr[gpr::ESP];
    let result = enter_frame::<W>(cpu, env, level, size);
    if result.is_err() {
        cpu.gpr[gpr::ESP] = saved_esp;
    }
    result
}

fn enter_frame<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, level: u32, size: u32) -> Exec {
    let wrap = |cpu: &CpuState, v: u32| if cpu.mode.stack32() { v } else { v & 0xFFFF };
    let old_bp = W::get(cpu, gpr::EBP as u8);
    env.push(cpu, old_bp)?;
    // All of ESP, also on a 16-bit stack.
    let frame = cpu.gpr[gpr::ESP];
    if level > 0 {
        let mut bp = wrap(cpu, cpu.gpr[gpr::EBP]);
        for _ in 1..level {
            bp = wrap(cpu, bp.wrapping_sub(W::BYTES));
            let lin = env.linear_read(cpu, seg::SS as u8, bp, W::BYTES)?;
            env.aligned(cpu, lin, W::BYTES)?;
            let v: W = env.read(cpu, lin)?;
            env.push(cpu, v)?;
        }
        env.push(cpu, W::trunc(frame))?;
    }
    let top = wrap(cpu, cpu.sp().wrapping_sub(size));
    let lin = env.linear_write(cpu, seg::SS as u8, top, W::BYTES)?;
    env.aligned(cpu, lin, W::BYTES)?;
    env.probe_write(cpu, lin, W::BYTES)?;
    cpu.set_sp(top);
    W::set(cpu, gpr::EBP as u8, W::trunc(frame));
    Ok(())
}

fn leave<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    let bp = cpu.gpr[gpr::EBP];
    let bp = if cpu.mode.stack32() { bp } else { bp & 0xFFFF };
    let lin = env.linear_read(cpu, seg::SS as u8, bp, W::BYTES)?;
    env.aligned(cpu, lin, W::BYTES)?;
    let v: W = env.read(cpu, lin)?;
    cpu.set_sp(bp.wrapping_add(W::BYTES));
    W::set(cpu, gpr::EBP as u8, v);
    Ok(())
}

/// Dispatch rows of this family. POP of a segment register is in `segops.rs`.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    let by_op = |w: ExecFn, d32: ExecFn| Some(if d.op16 { w } else { d32 });
    let segment = d.ins.op0_register().is_segment_register();
    match d.mnemonic {
        Mnemonic::Push if segment => by_op(push_seg::<u16>, push_seg::<u32>),
        Mnemonic::Push => match (d.form, d.code) {
            (_, Code::Push_imm16 | Code::Pushw_imm8) => Some(push::<u16, Imm>),
            (Form::I, _) => Some(push::<u32, Imm>),
            (Form::R, _) => by_op(push::<u16, R0>, push::<u32, R0>),
            _ => by_op(push::<u16, M>, push::<u32, M>),
        },
        Mnemonic::Pop if segment => None,
        Mnemonic::Pop if d.form == Form::R => by_op(pop_r::<u16>, pop_r::<u32>),
        Mnemonic::Pop => by_op(pop_m::<u16>, pop_m::<u32>),
        Mnemonic::Pusha => Some(pusha::<u16>),
        Mnemonic::Pushad => Some(pusha::<u32>),
        Mnemonic::Popa => Some(popa::<u16>),
        Mnemonic::Popad => Some(popa::<u32>),
        Mnemonic::Enter => by_op(enter::<u16>, enter::<u32>),
        Mnemonic::Leave => by_op(leave::<u16>, leave::<u32>),
        _ => None,
    }
}
