//! Debug registers: breakpoints on code and data (SDM vol. 3, chapter 18.2).

use super::state::CpuState;

/// DR6 bit: single-step.
pub const DR6_BS: u32 = 1 << 14;
/// DR6 bit: task switch with the T flag.
pub const DR6_BT: u32 = 1 << 15;
/// DR6 bit: access to debug registers with DR7.GD.
pub const DR6_BD: u32 = 1 << 13;
/// DR7 bit: general detect.
pub const DR7_GD: u32 = 1 << 13;

/// Bit of `CpuState::debug_hits`: single-step.
pub const PENDING_STEP: u8 = 1 << 7;
/// Bit of `CpuState::debug_hits`: a task was entered whose TSS has the T flag.
pub const PENDING_TASK: u8 = 1 << 6;

/// Moves the pending debug traps to DR6. True if there were any: #DB is to be raised.
#[must_use]
pub fn report_pending(cpu: &mut CpuState) -> bool {
    let pending = std::mem::take(&mut cpu.debug_hits);
    if pending == 0 {
        return false;
    }
    let mut dr6 = (cpu.dr[6] & !15) | u32::from(pending & 15);
    if pending & PENDING_STEP != 0 {
        dr6 |= DR6_BS;
    }
    if pending & PENDING_TASK != 0 {
        dr6 |= DR6_BT;
    }
    cpu.dr[6] = dr6;
    true
}

/// Kind of a breakpoint, DR7 R/W field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Execute,
    Write,
    Io,
    ReadWrite,
}

fn breakpoint(cpu: &CpuState, n: usize) -> Option<(Kind, u32, u32)> {
    let dr7 = cpu.dr[7];
    if dr7 >> (2 * n) & 3 == 0 {
        return None;
    }
    let len = match dr7 >> (18 + 4 * n) & 3 {
        0 => 1,
        1 => 2,
        3 => 4,
        _ => 8,
    };
    let kind = match dr7 >> (16 + 4 * n) & 3 {
        0 => Kind::Execute,
        1 => Kind::Write,
        2 => Kind::Io,
        _ => Kind::ReadWrite,
    };
    Some((kind, cpu.dr[n] & !(len - 1), len))
}

/// Recomputes `cpu.debug_armed` after a change of DR7.
pub fn update_armed(cpu: &mut CpuState) {
    cpu.debug_armed = cpu.dr[7] & 0xFF != 0;
}

/// True if a data breakpoint lies in a linear page: its accesses must not become fast.
pub fn watches_page(cpu: &CpuState, lin_page: u32) -> bool {
    (0..4).any(|n| {
        breakpoint(cpu, n).is_some_and(|(kind, at, _)| {
            matches!(kind, Kind::Write | Kind::ReadWrite) && at >> 12 == lin_page
        })
    })
}

/// Compares a data access with the breakpoints; hits are collected in `cpu.debug_hits`.
pub fn note_data_access(cpu: &mut CpuState, lin: u32, size: u32, write: bool) {
    for n in 0..4 {
        if let Some((kind, at, len)) = breakpoint(cpu, n)
            && (kind == Kind::ReadWrite || (kind == Kind::Write && write))
            && (lin.wrapping_sub(at) < len || at.wrapping_sub(lin) < size)
        {
            cpu.debug_hits |= 1 << n;
        }
    }
}

/// Compares a port access with the I/O breakpoints (CR4.DE).
pub fn note_port_access(cpu: &mut CpuState, port: u16, size: u32) {
    if cpu.cr4 & super::state::cr4::DE == 0 {
        return;
    }
    for n in 0..4 {
        if let Some((Kind::Io, at, len)) = breakpoint(cpu, n)
            && (u32::from(port).wrapping_sub(at) < len || at.wrapping_sub(u32::from(port)) < size)
        {
            cpu.debug_hits |= 1 << n;
        }
    }
}

/// DR6 bits of the instruction breakpoints at linear address `lin`.
pub fn code_hits(cpu: &CpuState, lin: u32) -> u8 {
    (0..4)
        .filter(|&n| matches!(breakpoint(cpu, n), Some((Kind::Execute, at, _)) if at == lin))
        .fold(0, |hits, n| hits | 1 << n)
}
