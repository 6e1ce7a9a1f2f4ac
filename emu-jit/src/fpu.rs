//! The guest's x87 unit in the host's.
//!
//! During a stay in translated code the first x87 or MMX instruction loads the guest's unit into the
//! host's, where it stays until something needs it in the [`CpuState`]: an interpreter function of an x87
//! or MMX instruction, a change of CR0.EM or TS, the end of the stay. Rust code does not touch the x87
//! unit, so other calls leave it alone.
//!
//! The unit is loaded only while the guest masks all exceptions and may use it; then no instruction can
//! trap, and `FPU != 0` is all that translated code has to test.
//!
//! The host records addresses of its own code as pointers to the last instruction. They are never looked
//! at: translated code records the guest's ([`Note`]), the selectors apart, which are filled in by [`settle`]
//! before they can change.
#![allow(unsafe_code)] // loads and stores the host's x87 unit

use std::arch::asm;
use std::mem::{MaybeUninit, offset_of};

use emu_core::cpu::{CpuState, cr0, seg};

use crate::layout::{DATA_SEGMENT, FPU, WIDE_SEGMENTS};

/// The last x87 instruction of translated code as it is kept in a spare register slot
/// ([`crate::layout::X87_NOTE`]): offset in its page, and from bit 12 the opcode. Bit 31 is set; 0 means that
/// the state has it.
#[derive(Clone, Copy)]
pub(crate) struct Note(pub(crate) u32);

/// Register slots of [`crate::layout::X87_NOTE`] and [`crate::layout::X87_PAGE`].
const NOTE: usize = 9;
const PAGE: usize = 13;

impl Note {
    /// An instruction's offset in its page and its opcode (11 bits).
    pub(crate) fn new(offset: u32, opcode: u16) -> Self {
        Self(1 << 31 | u32::from(opcode) << 12 | offset & 0xFFF)
    }
}

/// Value of the byte at [`FPU`]: the state holds the unit.
pub(crate) const AWAY: u8 = 0;
/// The host's unit is the guest's.
pub(crate) const RESIDENT: u8 = 1;
/// Value of the byte at [`DATA_SEGMENT`]: the pointer to the last operand is complete. Others are the number of
/// the segment whose selector it lacks.
pub(crate) const NO_SEGMENT: u8 = 0xFF;

/// Masks of all exceptions in the control word.
pub(crate) const ALL_MASKED: u16 = 0x3F;
/// MXCSR that Rust code runs with.
const HOST_MXCSR: u32 = 0x1F80;

/// What FXSAVE64 stores and FXRSTOR64 loads.
#[repr(C, align(16))]
struct Image {
    control: u16,
    status: u16,
    valid: u8,
    reserved: u8,
    opcode: u16,
    ip: u64,
    dp: u64,
    mxcsr: u32,
    mxcsr_mask: u32,
    /// ST(0) to ST(7).
    registers: [[u64; 2]; 8],
    /// XMM0-XMM15 and what is not used.
    rest: [u64; 44],
}

const _: () = assert!(size_of::<Image>() == 512 && offset_of!(Image, registers) == 32);

/// Bytes of the last binding, from [`WIDE_SEGMENTS`] on.
fn byte(cpu: &CpuState, at: i32) -> u8 {
    cpu.bindings[3].to_le_bytes()[(at - WIDE_SEGMENTS) as usize]
}

fn set_byte(cpu: &mut CpuState, at: i32, value: u8) {
    let mut bytes = cpu.bindings[3].to_le_bytes();
    bytes[(at - WIDE_SEGMENTS) as usize] = value;
    cpu.bindings[3] = u64::from_le_bytes(bytes);
}

/// The last binding's bits when the unit is not resident.
pub(crate) const BINDING: u64 = (AWAY as u64) << 16 | (NO_SEGMENT as u64) << 24;
/// Those of its bits that belong here.
pub(crate) const BINDING_MASK: u64 = 0xFFFF << 16;

const _: () = assert!(FPU == WIDE_SEGMENTS + 2 && DATA_SEGMENT == WIDE_SEGMENTS + 3);

/// The guest's unit can be loaded.
pub(crate) fn is_usable(cpu: &CpuState) -> bool {
    cpu.cr0 & (cr0::EM | cr0::TS) == 0 && cpu.x87.control & ALL_MASKED == ALL_MASKED
}

/// The host's unit is the guest's.
pub(crate) fn is_resident(cpu: &CpuState) -> bool {
    byte(cpu, FPU) != AWAY
}

/// Loads the guest's unit, for which [`is_usable`] holds, into the host's.
pub(crate) fn load(cpu: &mut CpuState) {
    let mut image = MaybeUninit::<Image>::uninit();
    let p = image.as_mut_ptr();
    let x87 = &cpu.x87;
    // SAFETY: fields of the image are written through a pointer to it. FXRSTOR reads all of it, also what
    // has not been written (host registers that are declared as changed get unspecified contents); every
    // field in which values are reserved is written. Rust code does not use the x87 registers.
    unsafe {
        (*p).control = x87.control;
        (*p).status = x87.status_word();
        (*p).valid = x87.valid;
        (*p).reserved = 0;
        (*p).opcode = 0;
        (*p).ip = 0;
        (*p).dp = 0;
        (*p).mxcsr = HOST_MXCSR;
        (*p).mxcsr_mask = 0;
        for n in 0..8 {
            let reg = &x87.regs[(usize::from(x87.top) + n) & 7];
            (*p).registers[n] = [reg.significand, u64::from(reg.sign_exponent)];
        }
        asm!(
            "fxrstor64 [{0}]",
            in(reg) p,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack, readonly)
        );
    }
    set_byte(cpu, FPU, RESIDENT);
    set_byte(cpu, DATA_SEGMENT, NO_SEGMENT);
    cpu.gpr[NOTE] = 0;
}

/// Stores the host's unit, if it is the guest's, in the state.
pub(crate) fn store(cpu: &mut CpuState) {
    if !is_resident(cpu) {
        return;
    }
    settle(cpu);
    set_byte(cpu, FPU, AWAY);
    let mut image = MaybeUninit::<Image>::uninit();
    let p = image.as_mut_ptr();
    // SAFETY: FXSAVE writes every field that is read below.
    unsafe {
        asm!("fxsave64 [{0}]", in(reg) p, options(nostack));
        let x87 = &mut cpu.x87;
        x87.set_control_word((*p).control);
        x87.set_status_word((*p).status);
        x87.valid = (*p).valid;
        for n in 0..8 {
            let [significand, high] = (*p).registers[n];
            let reg = &mut x87.regs[(usize::from(x87.top) + n) & 7];
            reg.significand = significand;
            reg.sign_exponent = high as u16;
        }
    }
}

/// Leaves the host's unit as other code expects it.
pub(crate) fn reset() {
    // SAFETY: the ABI wants an empty register stack and default modes, which this gives.
    unsafe { asm!("fninit", options(nomem, nostack)) };
}

/// Completes the pointers to the last instruction and operand with the selectors, which are about to
/// change or to be looked at.
pub(crate) fn settle(cpu: &mut CpuState) {
    let segment = usize::from(byte(cpu, DATA_SEGMENT));
    set_byte(cpu, DATA_SEGMENT, NO_SEGMENT);
    let note = std::mem::take(&mut cpu.gpr[NOTE]);
    if note != 0 {
        cpu.x87.ip = cpu.gpr[PAGE].wrapping_add(note & 0xFFF);
        cpu.x87.opcode = (note >> 12 & 0x7FF) as u16;
        cpu.x87.cs = cpu.seg[seg::CS].selector;
    }
    if let Some(segment) = cpu.seg.get(segment) {
        cpu.x87.ds = segment.selector;
    }
}
