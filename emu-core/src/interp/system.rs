//! Descriptor-table, control, debug and model-specific registers, CPUID, RDTSC, HLT, INVLPG,
//! SYSENTER, SYSEXIT, RDRAND.

use iced_x86::{Code, Mnemonic};

use super::Env;
use super::operand::{Dst, M, R0, Src, Width};
use crate::cpu::debug_regs::{DR6_BD, DR7_GD};
use crate::cpu::flags::{CF, Flags, RF};
use crate::cpu::state::TableReg;
use crate::cpu::{CpuState, Exec, Trap, control, cpuid, cr0, cr4, descriptor, far, gpr, msr, vector};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};

/// #GP(0) above CPL 0 (VM86 mode included).
#[inline]
fn privileged(cpu: &CpuState) -> Exec {
    if cpu.cpl == 0 { Ok(()) } else { Err(Trap::GP0) }
}

/// #UD in real and VM86 mode.
#[inline]
fn protected_only(cpu: &CpuState) -> Exec {
    if cpu.real_or_vm86() { Err(Trap::UD) } else { Ok(()) }
}

// ---- descriptor tables ---------------------------------------------------------------------------

fn table_operand(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<TableReg> {
    privileged(cpu)?;
    let lin = env.linear_read(cpu, i.seg, i.ea(cpu), 6)?;
    let limit = env.read(cpu, lin)?;
    let base: u32 = env.read(cpu, lin.wrapping_add(2))?;
    // A 16-bit operand size loads 24 bits of base, as on the 286.
    Ok(TableReg { base: if i.op16() { base & 0x00FF_FFFF } else { base }, limit })
}

fn lgdt(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    cpu.gdtr = table_operand(cpu, env, i)?;
    Ok(())
}

fn lidt(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    cpu.idtr = table_operand(cpu, env, i)?;
    Ok(())
}

/// Silicon stores all 32 bits of the base whatever the operand size.
///
/// A word and a doubleword are stored, each of which has to be aligned for alignment checks (SDM vol. 3,
/// 3.5.1: a pseudo-descriptor belongs at an odd word address).
fn store_table(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, table: TableReg) -> Exec {
    let lin = env.linear_write(cpu, i.seg, i.ea(cpu), 6)?;
    env.aligned(cpu, lin, 2)?;
    env.aligned(cpu, lin.wrapping_add(2), 4)?;
    env.probe_write(cpu, lin, 6)?;
    env.write(cpu, lin, table.limit)?;
    env.write(cpu, lin.wrapping_add(2), table.base)
}

fn sgdt(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    store_table(cpu, env, i, cpu.gdtr)
}

fn sidt(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    store_table(cpu, env, i, cpu.idtr)
}

fn lldt<S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    protected_only(cpu)?;
    privileged(cpu)?;
    let selector: u16 = S::read(cpu, env, i)?;
    descriptor::load_ldtr(cpu, env, selector)
}

fn ltr<S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    protected_only(cpu)?;
    privileged(cpu)?;
    let selector: u16 = S::read(cpu, env, i)?;
    descriptor::load_tr(cpu, env, selector)
}

fn sldt<W: Width, D: Dst>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    protected_only(cpu)?;
    D::write(cpu, env, i, W::trunc(cpu.ldtr.selector.into()))
}

fn str<W: Width, D: Dst>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    protected_only(cpu)?;
    D::write(cpu, env, i, W::trunc(cpu.tr.selector.into()))
}

// ---- control and debug registers -----------------------------------------------------------------

fn smsw<W: Width, D: Dst>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    D::write(cpu, env, i, W::trunc(cpu.cr0))
}

/// LMSW changes PE, MP, EM and TS and cannot clear PE.
fn lmsw<S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    privileged(cpu)?;
    let value: u16 = S::read(cpu, env, i)?;
    let new = (cpu.cr0 & !0xE) | (u32::from(value) & 0xF);
    control::write_cr0(cpu, env, new)
}

fn clts(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    privileged(cpu)?;
    cpu.cr0 &= !cr0::TS;
    env.end_block();
    Ok(())
}

fn mov_from_cr(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    let value = match i.r1 {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        _ => return Err(Trap::UD),
    };
    privileged(cpu)?;
    cpu.set_r32(i.r0, value);
    Ok(())
}

fn mov_to_cr(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    if !matches!(i.r0, 0 | 2 | 3 | 4) {
        return Err(Trap::UD);
    }
    privileged(cpu)?;
    let value = cpu.r32(i.r1);
    match i.r0 {
        0 => control::write_cr0(cpu, env, value),
        3 => control::load_cr3(cpu, env, value),
        4 => control::write_cr4(cpu, env, value),
        _ => {
            cpu.cr2 = value;
            Ok(())
        }
    }
}

/// Number of the debug register meant: DR4 and DR5 are DR6 and DR7 unless CR4.DE is set.
fn debug_register(cpu: &mut CpuState, number: u8) -> Exec<u8> {
    if number >= 8 {
        return Err(Trap::UD);
    }
    privileged(cpu)?;
    let number = match number {
        4 | 5 if cpu.cr4 & cr4::DE != 0 => return Err(Trap::UD),
        4 | 5 => number + 2,
        _ => number,
    };
    if cpu.dr[7] & DR7_GD != 0 {
        cpu.dr[6] |= DR6_BD;
        // A fault: its handler returns here without hitting an instruction breakpoint.
        cpu.eflags |= RF;
        return Err(Trap::exception(vector::DB));
    }
    Ok(number)
}

fn mov_from_dr(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    let n = debug_register(cpu, i.r1)?;
    let value = cpu.dr[usize::from(n & 7)];
    cpu.set_r32(i.r0, value);
    Ok(())
}

fn mov_to_dr(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let n = debug_register(cpu, i.r0)?;
    let value = cpu.r32(i.r1);
    match n {
        6 => control::set_dr6(cpu, value),
        7 => control::set_dr7(cpu, env, value),
        _ => control::set_breakpoint_address(cpu, env, usize::from(n), value),
    }
    Ok(())
}

/// INVLPG does not access its operand: no limit or page check.
fn invlpg(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    privileged(cpu)?;
    let base = cpu.seg[usize::from(i.seg) % 6].base;
    let lin = base.wrapping_add(i.ea(cpu));
    env.mem.views.invlpg(lin);
    env.end_block();
    Ok(())
}

// ---- machine state -------------------------------------------------------------------------------

fn hlt(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    privileged(cpu)?;
    cpu.halted = true;
    env.end_block();
    Ok(())
}

/// WBINVD, INVD: there are no caches.
fn flush_caches(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    privileged(cpu)
}

fn identify(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    let [a, b, c, d] = cpuid::cpuid(cpu, cpu.gpr[gpr::EAX], cpu.gpr[gpr::ECX]);
    cpu.gpr[gpr::EAX] = a;
    cpu.gpr[gpr::EBX] = b;
    cpu.gpr[gpr::ECX] = c;
    cpu.gpr[gpr::EDX] = d;
    Ok(())
}

fn set_edx_eax(cpu: &mut CpuState, value: u64) {
    cpu.gpr[gpr::EAX] = value as u32;
    cpu.gpr[gpr::EDX] = (value >> 32) as u32;
}

fn rdtsc(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    if cpu.cr4 & cr4::TSD != 0 {
        privileged(cpu)?;
    }
    let value = msr::tsc(cpu, env);
    set_edx_eax(cpu, value);
    Ok(())
}

/// Counters of the P6 family; none of them ever counts anything.
const PERFORMANCE_COUNTERS: u32 = 2;

fn rdpmc(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    if cpu.protected() && cpu.cr4 & cr4::PCE == 0 {
        privileged(cpu)?;
    }
    if cpu.gpr[gpr::ECX] >= PERFORMANCE_COUNTERS {
        return Err(Trap::GP0);
    }
    set_edx_eax(cpu, 0);
    Ok(())
}

fn rdmsr(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    privileged(cpu)?;
    let value = msr::read(cpu, env, cpu.gpr[gpr::ECX])?;
    set_edx_eax(cpu, value);
    Ok(())
}

fn wrmsr(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    privileged(cpu)?;
    let value = u64::from(cpu.gpr[gpr::EDX]) << 32 | u64::from(cpu.gpr[gpr::EAX]);
    msr::write(cpu, env, cpu.gpr[gpr::ECX], value)?;
    env.end_block();
    Ok(())
}

fn rdrand<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let value = env.sys.random();
    W::set(cpu, i.r0, W::trunc(value));
    cpu.flags = Flags::set(CF);
    Ok(())
}

fn sysenter(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    far::sysenter(cpu, env)
}

fn sysexit(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    far::sysexit(cpu, env)
}

/// Dispatch rows that do not end a block.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    macro_rules! store {
        ($f:ident) => {
            match (d.form, d.size) {
                (Form::R, 4) => Some($f::<u32, R0> as ExecFn),
                (Form::R, _) => Some($f::<u16, R0> as ExecFn),
                _ => Some($f::<u16, M> as ExecFn),
            }
        };
    }
    match d.mnemonic {
        Mnemonic::Sgdt => Some(sgdt),
        Mnemonic::Sidt => Some(sidt),
        Mnemonic::Sldt => store!(sldt),
        Mnemonic::Str => store!(str),
        Mnemonic::Smsw => store!(smsw),
        Mnemonic::Mov if d.code == Code::Mov_r32_cr => Some(mov_from_cr),
        Mnemonic::Cpuid => Some(identify),
        Mnemonic::Rdtsc => Some(rdtsc),
        Mnemonic::Rdpmc => Some(rdpmc),
        Mnemonic::Rdmsr => Some(rdmsr),
        Mnemonic::Rdrand if d.op16 => Some(rdrand::<u16>),
        Mnemonic::Rdrand => Some(rdrand::<u32>),
        // WBNOINVD is not offered: its encoding is WBINVD with a prefix that means nothing.
        Mnemonic::Wbinvd | Mnemonic::Wbnoinvd | Mnemonic::Invd => Some(flush_caches),
        _ => None,
    }
}

/// Dispatch rows that end a block: they change mode, translation or what the run loop looks at.
pub(super) fn select_ending(d: &Decoded<'_>) -> Option<ExecFn> {
    let register = d.form == Form::R;
    macro_rules! source {
        ($f:ident) => {
            Some(if register { $f::<R0> as ExecFn } else { $f::<M> as ExecFn })
        };
    }
    match d.mnemonic {
        Mnemonic::Lgdt => Some(lgdt),
        Mnemonic::Lidt => Some(lidt),
        Mnemonic::Lldt => source!(lldt),
        Mnemonic::Ltr => source!(ltr),
        Mnemonic::Lmsw => source!(lmsw),
        Mnemonic::Clts => Some(clts),
        Mnemonic::Mov => match d.code {
            Code::Mov_cr_r32 => Some(mov_to_cr),
            Code::Mov_r32_dr => Some(mov_from_dr),
            Code::Mov_dr_r32 => Some(mov_to_dr),
            _ => None,
        },
        Mnemonic::Invlpg => Some(invlpg),
        Mnemonic::Hlt => Some(hlt),
        Mnemonic::Wrmsr => Some(wrmsr),
        Mnemonic::Sysenter => Some(sysenter),
        Mnemonic::Sysexit => Some(sysexit),
        _ => None,
    }
}
