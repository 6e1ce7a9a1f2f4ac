//! The table of indirect branch targets, and the code that looks in it.

use dynasm::dynasm;
use dynasmrt::{DynasmApi, DynasmLabelApi};
use emu_core::cpu::tlb::CODE_TABLE;

use crate::assembler::Assembler as Ops;
use crate::layout::{PAGE_BASE, TARGETS, WORLD, seg_base};

/// An entry of the table of indirect branch targets.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Target {
    /// EIP.
    pub(crate) eip: u32,
    /// Code entry its page must have in the current view, and above it the world ([`crate::segments`]).
    pub(crate) code_entry: u32,
    /// Host address.
    pub(crate) address: u64,
}

/// Entries of the table of indirect branch targets.
pub(crate) const TARGET_COUNT: usize = 1 << 16;

/// The place in the table for a linear address.
pub(crate) fn place(linear: u32) -> usize {
    linear as usize & (TARGET_COUNT - 1)
}

/// An entry that never matches: no view has this code entry.
pub(crate) const NO_TARGET: Target = Target { eip: 0, code_entry: u32::MAX, address: 0 };

/// Emits: jump to the code of EIP r8d, or to `missed`. Changes r9, r10, r11 and the host's flags. With `call`, the
/// offset in the page of the instruction behind the guest's call, it is a host call, with that instruction's EIP on
/// the host's stack; execution goes on behind all this when it returns.
///
/// Code for flat segments leaves out what only matters in others.
pub(crate) fn emit_target(ops: &mut Ops, call: Option<i32>, flat: bool, missed: impl FnOnce(&mut Ops)) {
    let miss = ops.new_dynamic_label();
    if !flat {
        dynasm!(ops
            ; .arch x64
            ; mov r10d, r8d
            ; add r10d, [BYTE r13 + seg_base(1) as i8]
            ; mov r9d, r10d
            ; and r9d, (TARGET_COUNT as i32 - 1)
            ; shl r9d, 4
            ; add r9, [r13 + TARGETS]
            ; cmp r8d, [r9]
            ; jne =>miss
            ; mov r11d, r10d
            ; shr r11d, 12
            ; mov r11d, [r15 + r11 * 4 + CODE_TABLE as i32]
            ; or r11d, [r13 + WORLD]
            ; cmp r11d, [r9 + 4]
            ; jne =>miss
            ; and r10d, 0xFFF
            ; mov r11d, r8d
            ; sub r11d, r10d
        );
    } else {
        dynasm!(ops
            ; .arch x64
            ; mov r9d, r8d
            ; and r9d, (TARGET_COUNT as i32 - 1)
            ; shl r9d, 4
            ; add r9, [r13 + TARGETS]
            ; mov r10d, r8d
            ; shr r10d, 12
            ; cmp r8d, [r9]
            ; jne =>miss
            ; mov r11d, [r9 + 4]
            ; cmp r11d, [r15 + r10 * 4 + CODE_TABLE as i32]
            ; jne =>miss
            ; mov r11d, r8d
            ; and r11d, -0x1000
        );
    }
    let Some(next) = call else {
        dynasm!(ops ; .arch x64 ; mov [r13 + PAGE_BASE], r11d ; jmp QWORD [r9 + 8] ; =>miss);
        return missed(ops);
    };
    let returned = ops.new_dynamic_label();
    dynasm!(ops
        ; .arch x64
        ; mov r10d, [r13 + PAGE_BASE]
        ; add r10d, next
        ; push r10
        ; mov [r13 + PAGE_BASE], r11d
        ; call QWORD [r9 + 8]
        ; jmp =>returned
        ; =>miss
    );
    missed(ops);
    dynasm!(ops ; .arch x64 ; =>returned);
}
