//! IN and OUT, and what INS and OUTS share with them: permission and the bus cycle.

use iced_x86::Code;

use super::Env;
use crate::bus::AccessSize;
use crate::cpu::{CpuState, Exec, Trap, debug_regs, gpr, task};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};

/// Port of the VMware back door.
const BACKDOOR: u16 = 0x5658;

/// Checks IOPL and the I/O permission bitmap for `size` bytes at `port` (SDM vol. 1, 19.5).
///
/// # Errors
/// #GP(0), or #PF of the bitmap.
pub fn check_io(cpu: &mut CpuState, env: &mut Env<'_>, port: u16, size: u32) -> Exec {
    if !cpu.protected() || (cpu.cpl <= cpu.iopl() && !cpu.vm86()) {
        return Ok(());
    }
    check_bitmap(cpu, env, port, size)
}

#[cold]
fn check_bitmap(cpu: &mut CpuState, env: &mut Env<'_>, port: u16, size: u32) -> Exec {
    let tr = cpu.tr;
    if !task::has_tss32(cpu) || tr.limit < task::IO_MAP_BASE + 1 {
        return Err(Trap::GP0);
    }
    let map: u16 = env.read_system(cpu, tr.base.wrapping_add(task::IO_MAP_BASE))?;
    // Two bytes are always looked at, so that one check serves any alignment.
    let at = u32::from(map) + u32::from(port >> 3);
    if at + 1 > tr.limit {
        return Err(Trap::GP0);
    }
    let bits: u16 = env.read_system(cpu, tr.base.wrapping_add(at))?;
    let mask = ((1u32 << size) - 1) << (port & 7);
    if u32::from(bits) & mask != 0 { Err(Trap::GP0) } else { Ok(()) }
}

/// Reads a port whose permission was checked. The run loop looks around afterwards.
pub fn port_in(cpu: &mut CpuState, env: &mut Env<'_>, port: u16, size: AccessSize) -> u32 {
    if cpu.debug_armed {
        debug_regs::note_port_access(cpu, port, size.bytes());
    }
    let cx = env.context(cpu);
    let value = env.sys.port_in(env.mem, cx, port, size);
    env.end_block();
    value & size.ones()
}

/// Writes a port whose permission was checked. The run loop looks around afterwards.
pub fn port_out(cpu: &mut CpuState, env: &mut Env<'_>, port: u16, size: AccessSize, value: u32) {
    if cpu.debug_armed {
        debug_regs::note_port_access(cpu, port, size.bytes());
    }
    let cx = env.context(cpu);
    env.sys.port_out(env.mem, cx, port, size, value & size.ones());
    env.end_block();
}

fn read_port(cpu: &mut CpuState, env: &mut Env<'_>, port: u16, size: AccessSize) -> Exec {
    check_io(cpu, env, port, size.bytes())?;
    match size {
        AccessSize::Byte => {
            let v = port_in(cpu, env, port, size);
            cpu.set_r8(0, v as u8);
        }
        AccessSize::Word => {
            let v = port_in(cpu, env, port, size);
            cpu.set_r16(0, v as u16);
        }
        AccessSize::Dword => {
            if port != BACKDOOR || !backdoor(cpu, env) {
                let v = port_in(cpu, env, port, size);
                cpu.set_r32(0, v);
            }
        }
    }
    Ok(())
}

/// Lets the machine answer through the general registers. False if it did not.
fn backdoor(cpu: &mut CpuState, env: &mut Env<'_>) -> bool {
    const REGISTERS: [usize; 6] = [gpr::EAX, gpr::EBX, gpr::ECX, gpr::EDX, gpr::ESI, gpr::EDI];
    let Some(values) = env.sys.backdoor(REGISTERS.map(|r| cpu.gpr[r])) else { return false };
    for (r, v) in REGISTERS.into_iter().zip(values) {
        cpu.gpr[r] = v;
    }
    env.end_block();
    true
}

fn write_port(cpu: &mut CpuState, env: &mut Env<'_>, port: u16, size: AccessSize) -> Exec {
    check_io(cpu, env, port, size.bytes())?;
    let value = cpu.gpr[gpr::EAX];
    port_out(cpu, env, port, size, value);
    Ok(())
}

const fn access(size: usize) -> AccessSize {
    match size {
        1 => AccessSize::Byte,
        2 => AccessSize::Word,
        _ => AccessSize::Dword,
    }
}

fn in_imm<const SIZE: usize>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    read_port(cpu, env, (i.imm & 0xFF) as u16, access(SIZE))
}

fn in_dx<const SIZE: usize>(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    let port = cpu.r16(gpr::EDX as u8);
    read_port(cpu, env, port, access(SIZE))
}

fn out_imm<const SIZE: usize>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    write_port(cpu, env, (i.imm & 0xFF) as u16, access(SIZE))
}

fn out_dx<const SIZE: usize>(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    let port = cpu.r16(gpr::EDX as u8);
    write_port(cpu, env, port, access(SIZE))
}

/// Dispatch rows of this family. All of them end their block.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.code {
        Code::In_AL_imm8 => Some(in_imm::<1>),
        Code::In_AX_imm8 => Some(in_imm::<2>),
        Code::In_EAX_imm8 => Some(in_imm::<4>),
        Code::In_AL_DX => Some(in_dx::<1>),
        Code::In_AX_DX => Some(in_dx::<2>),
        Code::In_EAX_DX => Some(in_dx::<4>),
        Code::Out_imm8_AL => Some(out_imm::<1>),
        Code::Out_imm8_AX => Some(out_imm::<2>),
        Code::Out_imm8_EAX => Some(out_imm::<4>),
        Code::Out_DX_AL => Some(out_dx::<1>),
        Code::Out_DX_AX => Some(out_dx::<2>),
        Code::Out_DX_EAX => Some(out_dx::<4>),
        _ => None,
    }
}
