//! AAA AAS AAM AAD DAA DAS (SDM vol. 2). Undefined flags: `docs/undefined-flags.md`.

use iced_x86::Mnemonic;

use super::Env;
use crate::cpu::flags::{self, Flags};
use crate::cpu::{CpuState, Exec, Trap, gpr};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};

const EAX: u8 = gpr::EAX as u8;

/// SF, ZF and PF of AL, with CF and AF as given and OF clear.
fn set_flags(cpu: &mut CpuState, cf: bool, af: bool) {
    let al = cpu.r8(EAX);
    let mut f = Flags::logic(al as i8 as u32).get() & !(flags::CF | flags::AF);
    if cf {
        f |= flags::CF;
    }
    if af {
        f |= flags::AF;
    }
    cpu.flags = Flags::set(f);
}

fn ascii_adjust(cpu: &mut CpuState, delta: u16) {
    let adjust = cpu.r8(EAX) & 15 > 9 || cpu.flags.af();
    if adjust {
        let ax = cpu.r16(EAX).wrapping_add(delta);
        cpu.set_r16(EAX, ax);
    }
    let al = cpu.r8(EAX);
    cpu.set_r8(EAX, al & 15);
    set_flags(cpu, adjust, adjust);
}

fn aaa(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    ascii_adjust(cpu, 0x106);
    Ok(())
}

fn aas(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    ascii_adjust(cpu, 0u16.wrapping_sub(0x106));
    Ok(())
}

fn aam(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    let base = i.imm as u8;
    let al = cpu.r8(EAX);
    let high = al.checked_div(base).ok_or(Trap::DE)?;
    cpu.set_r16(EAX, u16::from(high) << 8 | u16::from(al % base));
    set_flags(cpu, false, false);
    Ok(())
}

fn aad(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    let ax = cpu.r16(EAX);
    let al = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(i.imm as u8));
    cpu.set_r16(EAX, u16::from(al));
    set_flags(cpu, false, false);
    Ok(())
}

fn decimal_adjust(cpu: &mut CpuState, subtract: bool) {
    let old = cpu.r8(EAX);
    let old_cf = cpu.flags.cf();
    let af = old & 15 > 9 || cpu.flags.af();
    let high = old > 0x99 || old_cf;
    let mut al = old;
    let mut cf = high;
    let step = |al: u8, by: u8| if subtract { al.wrapping_sub(by) } else { al.wrapping_add(by) };
    if af {
        cf |= subtract && old < 6;
        al = step(al, 6);
    }
    if high {
        al = step(al, 0x60);
    }
    cpu.set_r8(EAX, al);
    set_flags(cpu, cf, af);
}

fn daa(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    decimal_adjust(cpu, false);
    Ok(())
}

fn das(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    decimal_adjust(cpu, true);
    Ok(())
}

/// Dispatch rows of this family.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.mnemonic {
        Mnemonic::Aaa => Some(aaa),
        Mnemonic::Aas => Some(aas),
        Mnemonic::Aam => Some(aam),
        Mnemonic::Aad => Some(aad),
        Mnemonic::Daa => Some(daa),
        Mnemonic::Das => Some(das),
        _ => None,
    }
}
