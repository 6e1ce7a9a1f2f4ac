//! LDMXCSR and STMXCSR.

use iced_x86::Mnemonic;

use super::sse_check;
use crate::cpu::{CpuState, Exec, Trap};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};
use crate::interp::Env;

/// Bits of MXCSR that exist (MXCSR_MASK of FXSAVE): flags, DAZ, masks, RC, FZ.
const MXCSR_MASK: u32 = 0xFFFF;

fn ldmxcsr(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v: u32 = env.load(cpu, i)?;
    if v & !MXCSR_MASK != 0 {
        return Err(Trap::GP0);
    }
    cpu.mxcsr = v;
    Ok(())
}

fn stmxcsr(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = cpu.mxcsr;
    env.store(cpu, i, v)
}

/// Dispatch rows of this family.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.mnemonic {
        Mnemonic::Ldmxcsr => Some(ldmxcsr),
        Mnemonic::Stmxcsr => Some(stmxcsr),
        _ => None,
    }
}
