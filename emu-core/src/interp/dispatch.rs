//! From a decoded instruction to the function that executes it.
//!
//! Each family file owns its rows (`select`). A form without a row is one that CPUID does not offer:
//! it executes as #UD. `tests/dispatch.rs` walks all opcodes and proves that nothing offered is
//! missing.

use iced_x86::FlowControl;

use super::{
    Env, arith, bcd, bit, branch, data, flagops, interrupts, io, muldiv, segops, shift, simd, stack, string,
    system, x87,
};
use crate::cpu::{CpuState, Exec, Trap};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};

/// #UD.
///
/// Never inlined, so that it has one address: "has no row" is the comparison with this function.
#[inline(never)]
pub fn undefined(_: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    Err(Trap::UD)
}

type Family = fn(&Decoded<'_>) -> Option<ExecFn>;

/// Families whose instructions never end a block on their own account.
const STRAIGHT: &[Family] = &[
    data::select,
    arith::select,
    stack::select,
    shift::select,
    muldiv::select,
    bit::select,
    string::select,
    simd::select,
    bcd::select,
    x87::select,
    flagops::select,
    segops::select,
    system::select,
];

/// Families whose instructions always end the block: they change EIP, the mode, interrupt
/// acceptance or what lies behind a port.
const ENDING: &[Family] = &[
    branch::select,
    string::select_io,
    flagops::select_ending,
    segops::select_ending,
    interrupts::select,
    system::select_ending,
    io::select,
];

/// The function for an instruction, and whether it ends its block.
pub fn select(d: &Decoded<'_>) -> (ExecFn, bool) {
    let flow = !matches!(d.ins.flow_control(), FlowControl::Next);
    if let Some(f) = STRAIGHT.iter().find_map(|family| family(d)) {
        return (f, flow);
    }
    match ENDING.iter().find_map(|family| family(d)) {
        Some(f) => (f, true),
        None => (undefined, true),
    }
}
