//! Model-specific registers.
//!
//! A register that is not known reads as 0 and ignores writes, as in v86: kernels probe many. Those that
//! belong to features CPUID denies raise #GP(0) (SDM vol. 2, RDMSR and WRMSR), so that a probe finds out.

use super::fault::Trap;
use super::state::CpuState;
use crate::interp::Env;

const TSC: u32 = 0x10;
const APIC_BASE: u32 = 0x1B;
const PLATFORM_INFO: u32 = 0xCE;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const MISC_ENABLE: u32 = 0x1A0;

/// IA32_EFER. Reads as zero: no feature it controls is there.
const EFER: u32 = 0xC000_0080;

/// Registers that raise #GP: speculation control, machine-check banks, x2APIC, and what came with 64-bit
/// processors.
fn absent(index: u32) -> bool {
    match index {
        EFER => false,
        0x48 | 0x49 | 0x10B | 0x400..=0x47F | 0x800..=0xBFF | 0xC000_0000..=0xC000_01FF => true,
        _ => false,
    }
}

/// Time stamp counter.
pub fn tsc(cpu: &CpuState, env: &mut Env<'_>) -> u64 {
    let cx = env.context(cpu);
    env.sys.tsc(cx).wrapping_add(cpu.tsc_offset)
}

/// RDMSR.
///
/// # Errors
/// #GP(0) for a register that does not exist.
pub fn read(cpu: &CpuState, env: &mut Env<'_>, index: u32) -> Result<u64, Trap> {
    if absent(index) {
        return Err(Trap::GP0);
    }
    Ok(match index {
        TSC => tsc(cpu, env),
        APIC_BASE => env.sys.apic_base().unwrap_or(0),
        // Maximum non-turbo ratio: 1.
        PLATFORM_INFO => 0x100,
        SYSENTER_CS => cpu.sysenter_cs.into(),
        SYSENTER_ESP => cpu.sysenter_esp.into(),
        SYSENTER_EIP => cpu.sysenter_eip.into(),
        // Fast strings enabled.
        MISC_ENABLE => 1,
        _ => 0,
    })
}

/// WRMSR.
///
/// # Errors
/// #GP(0) for a register that does not exist.
pub fn write(cpu: &mut CpuState, env: &mut Env<'_>, index: u32, value: u64) -> Result<(), Trap> {
    if absent(index) {
        return Err(Trap::GP0);
    }
    match index {
        TSC => {
            let cx = env.context(cpu);
            cpu.tsc_offset = value.wrapping_sub(env.sys.tsc(cx));
        }
        APIC_BASE => env.sys.set_apic_base(value),
        SYSENTER_CS => cpu.sysenter_cs = value as u32 & 0xFFFF,
        SYSENTER_ESP => cpu.sysenter_esp = value as u32,
        SYSENTER_EIP => cpu.sysenter_eip = value as u32,
        _ => {}
    }
    Ok(())
}
