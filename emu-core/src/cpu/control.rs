//! Writes of control and debug registers with their checks and the flushes they cause
//! (SDM vol. 3, chapters 2.5, 4.10.4 and 18.2).

use super::debug_regs;
use super::fault::{Exec, Trap};
use super::paging;
use super::state::{CpuState, cr0, cr4};
use crate::interp::Env;

/// CR0 bits that exist.
pub(crate) const CR0_BITS: u32 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;

/// CR4 bits whose setting raises #GP. v86 stores every other bit, also those that CPUID does not
/// offer (VME, PVI, DE and bits without a function here such as MCE and SMEP): guests that run
/// there must run here.
pub(crate) const CR4_RESERVED: u32 = 1 << 11 | 1 << 12 | 1 << 15 | 1 << 16 | 1 << 19 | 0xFFC0_0000;

/// DR6 bits that can change; the others read as in [`DR6_ONES`].
const DR6_BITS: u32 = 0xE00F;
const DR6_ONES: u32 = 0xFFFF_0FF0;
/// DR7 bits that can change.
const DR7_BITS: u32 = 0xFFFF_23FF;
const DR7_ONES: u32 = 0x400;

/// MOV CR0.
///
/// # Errors
/// #GP(0) for PG without PE, NW without CD, invalid PDPTEs.
pub fn write_cr0(cpu: &mut CpuState, env: &mut Env<'_>, value: u32) -> Exec {
    let new = (value & CR0_BITS) | cr0::ET;
    if new & (cr0::PG | cr0::PE) == cr0::PG || new & (cr0::NW | cr0::CD) == cr0::NW {
        return Err(Trap::GP0);
    }
    let changed = cpu.cr0 ^ new;
    if new & cr0::PG != 0 && cpu.cr4 & cr4::PAE != 0 && changed & (cr0::PG | cr0::CD | cr0::NW) != 0 {
        paging::load_pdptes(cpu, env.mem, cpu.cr3)?;
    }
    cpu.cr0 = new;
    // Without paging neither WP nor PE changes a translation; DOS extenders toggle PE all the time.
    if changed & cr0::PG != 0 || (new & cr0::PG != 0 && changed & cr0::WP != 0) {
        env.mem.flush_views();
    }
    cpu.update_alignment_check();
    env.end_block();
    Ok(())
}

/// MOV CR3.
///
/// # Errors
/// #GP(0) for invalid PDPTEs.
pub fn load_cr3(cpu: &mut CpuState, env: &mut Env<'_>, value: u32) -> Exec {
    let value = value & !7;
    if cpu.cr0 & cr0::PG != 0 && cpu.cr4 & cr4::PAE != 0 {
        paging::load_pdptes(cpu, env.mem, value)?;
    }
    cpu.cr3 = value;
    env.mem.views.flush_non_global();
    env.end_block();
    Ok(())
}

/// MOV CR4.
///
/// # Errors
/// #GP(0) for reserved bits, invalid PDPTEs.
pub fn write_cr4(cpu: &mut CpuState, env: &mut Env<'_>, value: u32) -> Exec {
    if value & CR4_RESERVED != 0 {
        return Err(Trap::GP0);
    }
    let paging_bits = (cpu.cr4 ^ value) & (cr4::PAE | cr4::PSE | cr4::PGE);
    if paging_bits != 0 && cpu.cr0 & cr0::PG != 0 && value & cr4::PAE != 0 {
        paging::load_pdptes(cpu, env.mem, cpu.cr3)?;
    }
    cpu.cr4 = value;
    if paging_bits != 0 {
        env.mem.flush_views();
    }
    env.end_block();
    Ok(())
}

/// Writes DR0-DR3.
pub fn set_breakpoint_address(cpu: &mut CpuState, env: &mut Env<'_>, n: usize, value: u32) {
    if cpu.dr[n & 3] != value {
        cpu.dr[n & 3] = value;
        if cpu.debug_armed {
            // Accesses to a page with a breakpoint must not be fast.
            env.mem.flush_views();
        }
    }
}

/// Writes DR6.
pub fn set_dr6(cpu: &mut CpuState, value: u32) {
    cpu.dr[6] = (value & DR6_BITS) | DR6_ONES;
}

/// Writes DR7.
pub fn set_dr7(cpu: &mut CpuState, env: &mut Env<'_>, value: u32) {
    let value = (value & DR7_BITS) | DR7_ONES;
    if cpu.dr[7] == value {
        return;
    }
    let was_armed = cpu.debug_armed;
    cpu.dr[7] = value;
    debug_regs::update_armed(cpu);
    if was_armed || cpu.debug_armed {
        env.mem.flush_views();
        env.end_block();
    }
}
