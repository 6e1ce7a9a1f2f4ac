//! INT n, INT3, INT1, INTO, BOUND, IRET.

use iced_x86::Mnemonic;

use super::Env;
use super::operand::Width;
use crate::cpu::{CpuState, Exec, Trap, interrupt, iret, vector};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};

fn int_n(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    interrupt::software_interrupt(cpu, env, i.imm as u8)
}

fn int3(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    interrupt::software_trap(cpu, env, vector::BP)
}

fn int1(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    interrupt::int1(cpu, env)
}

fn into(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    if cpu.flags.of() { interrupt::software_trap(cpu, env, vector::OF) } else { Ok(()) }
}

/// BOUND: #BR if the signed index lies outside the pair of bounds in memory.
fn bound<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let lin = env.linear_read(cpu, i.seg, i.ea(cpu), 2 * W::BYTES)?;
    env.aligned(cpu, lin, W::BYTES)?;
    let lower = env.read::<W>(cpu, lin)?.sext() as i32;
    let upper = env.read::<W>(cpu, lin.wrapping_add(W::BYTES))?.sext() as i32;
    let index = W::get(cpu, i.r0).sext() as i32;
    if index < lower || index > upper { Err(Trap::exception(vector::BR)) } else { Ok(()) }
}

fn iret<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    iret::iret::<W>(cpu, env)
}

/// Dispatch rows of this family. All of them end their block.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.mnemonic {
        Mnemonic::Int => Some(int_n),
        Mnemonic::Int3 => Some(int3),
        Mnemonic::Int1 => Some(int1),
        Mnemonic::Into => Some(into),
        Mnemonic::Bound if d.op16 => Some(bound::<u16>),
        Mnemonic::Bound => Some(bound::<u32>),
        Mnemonic::Iret => Some(iret::<u16>),
        Mnemonic::Iretd => Some(iret::<u32>),
        _ => None,
    }
}
