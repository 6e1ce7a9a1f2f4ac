//! CLC STC CMC CLD STD CLI STI LAHF SAHF SALC PUSHF POPF.

use iced_x86::Mnemonic;

use super::Env;
use super::operand::Width;
use crate::cpu::flags::{
    self, AC, AF, ARITH, CF, DF, Flags, ID, IF, IOPL, NT, PF, RF, SF, TF, VIF, VIP, VM, ZF,
};
use crate::cpu::{CpuState, Exec, Trap, cr4, iret};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};

fn clc(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    cpu.flags.set_cf(false);
    Ok(())
}

fn stc(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    cpu.flags.set_cf(true);
    Ok(())
}

fn cmc(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    let cf = cpu.flags.cf();
    cpu.flags.set_cf(!cf);
    Ok(())
}

fn cld(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    cpu.eflags &= !DF;
    Ok(())
}

fn std(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    cpu.eflags |= DF;
    Ok(())
}

/// What CLI and STI act on.
enum InterruptFlag {
    /// IF.
    Real,
    /// VIF (CR4.VME in VM86 mode, CR4.PVI at CPL 3).
    Virtual,
}

fn interrupt_flag(cpu: &CpuState) -> Exec<InterruptFlag> {
    if !cpu.protected() || cpu.iopl() >= cpu.cpl {
        return Ok(InterruptFlag::Real);
    }
    let extension = if cpu.vm86() { cr4::VME } else { cr4::PVI };
    if cpu.cr4 & extension != 0 && cpu.cpl == 3 { Ok(InterruptFlag::Virtual) } else { Err(Trap::GP0) }
}

/// Masking takes effect at once and needs no look around: CLI does not end its block.
fn cli(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    match interrupt_flag(cpu)? {
        InterruptFlag::Real => cpu.eflags &= !IF,
        InterruptFlag::Virtual => cpu.eflags &= !VIF,
    }
    Ok(())
}

fn sti(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    match interrupt_flag(cpu)? {
        InterruptFlag::Real => {
            if cpu.eflags & IF == 0 {
                cpu.eflags |= IF;
                cpu.int_shadow = true;
                env.end_block();
            }
        }
        InterruptFlag::Virtual if cpu.eflags & VIP != 0 => return Err(Trap::GP0),
        InterruptFlag::Virtual => cpu.eflags |= VIF,
    }
    Ok(())
}

fn lahf(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    let f = cpu.flags.get() | flags::FIXED;
    cpu.set_r8(4, f as u8);
    Ok(())
}

fn sahf(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    let mask = SF | ZF | AF | PF | CF;
    let f = (cpu.flags.get() & !mask) | (u32::from(cpu.r8(4)) & mask);
    cpu.flags = Flags::set(f);
    Ok(())
}

fn salc(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    let v = if cpu.flags.cf() { 0xFF } else { 0 };
    cpu.set_r8(0, v);
    Ok(())
}

/// VM86 mode with IOPL below 3: PUSHF and POPF need CR4.VME and 16-bit operands.
fn is_virtualized<W: Width>(cpu: &CpuState) -> Exec<bool> {
    if !cpu.vm86() || cpu.iopl() == 3 {
        return Ok(false);
    }
    if cpu.cr4 & cr4::VME != 0 && W::BYTES == 2 { Ok(true) } else { Err(Trap::GP0) }
}

fn pushf<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    let mut image = cpu.eflags() & !(VM | RF);
    if is_virtualized::<W>(cpu)? {
        image = (image & !IF) | IOPL | if image & VIF != 0 { IF } else { 0 };
    }
    env.push(cpu, W::trunc(image))
}

fn popf<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    let virtualized = is_virtualized::<W>(cpu)?;
    let image = env.peek::<W>(cpu, 0)?.zext();
    if virtualized {
        iret::check_virtual_if(cpu, image)?;
    }
    cpu.set_sp(cpu.sp().wrapping_add(W::BYTES));
    if virtualized {
        iret::load_virtual_flags(cpu, env, image);
        return Ok(());
    }
    let mut mask = ARITH | TF | DF | NT | AC | ID;
    if !cpu.protected() || cpu.cpl == 0 {
        mask |= IOPL | IF;
    } else if cpu.cpl <= cpu.iopl() {
        mask |= IF;
    }
    if W::BYTES == 2 {
        mask &= 0xFFFF;
    }
    // RF is cleared whatever the image says.
    iret::change_eflags(cpu, env, image & !RF, mask | RF);
    Ok(())
}

/// Dispatch rows that do not end a block.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.mnemonic {
        Mnemonic::Clc => Some(clc),
        Mnemonic::Stc => Some(stc),
        Mnemonic::Cmc => Some(cmc),
        Mnemonic::Cld => Some(cld),
        Mnemonic::Std => Some(std),
        Mnemonic::Cli => Some(cli),
        Mnemonic::Lahf => Some(lahf),
        Mnemonic::Sahf => Some(sahf),
        Mnemonic::Salc => Some(salc),
        Mnemonic::Pushf => Some(pushf::<u16>),
        Mnemonic::Pushfd => Some(pushf::<u32>),
        _ => None,
    }
}

/// Dispatch rows that end a block: interrupts or single-step may become possible.
pub(super) fn select_ending(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.mnemonic {
        Mnemonic::Sti => Some(sti),
        Mnemonic::Popf => Some(popf::<u16>),
        Mnemonic::Popfd => Some(popf::<u32>),
        _ => None,
    }
}
