//! The architectural state, shared by interpreter and translated code (decision D3).
//!
//! One `repr(C)` struct whose hot part lies in the first 256 bytes; the asserts below it are the
//! contract that emitted code relies on. At every block exit and at every fault all architectural
//! state is here.

use std::mem::offset_of;

use super::flags::{self, Flags};
use super::segment::{Segment, seg};

/// Register numbers as ModRM encodes them.
#[allow(missing_docs)]
pub mod gpr {
    pub const EAX: usize = 0;
    pub const ECX: usize = 1;
    pub const EDX: usize = 2;
    pub const EBX: usize = 3;
    pub const ESP: usize = 4;
    pub const EBP: usize = 5;
    pub const ESI: usize = 6;
    pub const EDI: usize = 7;
    /// Not a register: a slot that always reads 0 (address operands without base or index).
    pub const ZERO: usize = 8;
}

/// CR0 bits.
#[allow(missing_docs)]
pub mod cr0 {
    pub const PE: u32 = 1 << 0;
    pub const MP: u32 = 1 << 1;
    pub const EM: u32 = 1 << 2;
    pub const TS: u32 = 1 << 3;
    pub const ET: u32 = 1 << 4;
    pub const NE: u32 = 1 << 5;
    pub const WP: u32 = 1 << 16;
    pub const AM: u32 = 1 << 18;
    pub const NW: u32 = 1 << 29;
    pub const CD: u32 = 1 << 30;
    pub const PG: u32 = 1 << 31;
}

/// CR4 bits.
#[allow(missing_docs)]
pub mod cr4 {
    pub const VME: u32 = 1 << 0;
    pub const PVI: u32 = 1 << 1;
    pub const TSD: u32 = 1 << 2;
    pub const DE: u32 = 1 << 3;
    pub const PSE: u32 = 1 << 4;
    pub const PAE: u32 = 1 << 5;
    pub const MCE: u32 = 1 << 6;
    pub const PGE: u32 = 1 << 7;
    pub const PCE: u32 = 1 << 8;
    pub const OSFXSR: u32 = 1 << 9;
    pub const OSXMMEXCPT: u32 = 1 << 10;
}

/// What decoded code depends on besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ModeKey(pub u32);

impl ModeKey {
    /// CS.D: 32-bit operands and addresses by default.
    pub const CODE32: u32 = 1 << 0;
    /// SS.B: the stack pointer is ESP.
    pub const STACK32: u32 = 1 << 1;

    /// 32-bit code segment.
    #[inline]
    pub const fn code32(self) -> bool {
        self.0 & Self::CODE32 != 0
    }

    /// 32-bit stack segment.
    #[inline]
    pub const fn stack32(self) -> bool {
        self.0 & Self::STACK32 != 0
    }
}

/// An 80-bit register image in a 16-byte cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct X87Reg {
    /// Significand with explicit integer bit; also the MMX register.
    pub significand: u64,
    /// Sign (bit 15) and biased exponent.
    pub sign_exponent: u16,
    /// Unused, zero.
    pub pad: [u16; 3],
}

/// The x87 unit.
///
/// The fields that every instruction reads lie where compilers cannot widen their loads (bytes at odd
/// offsets, words at odd multiples of two): a wide load right after a store to one half of it waits
/// until the store has left the store buffer, which costs more than the rest of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct X87 {
    /// Physical registers R0-R7; ST(i) is `regs[(top + i) & 7]`.
    pub regs: [X87Reg; 8],
    /// Opcode of the last non-control instruction, 11 bits.
    pub opcode: u16,
    /// Control word.
    pub control: u16,
    /// CS of the last non-control instruction.
    pub cs: u16,
    /// Status word without TOP (bits 13:11 zero).
    pub status: u16,
    /// Unused, zero.
    pub pad0: u8,
    /// Bit r set = physical register r is not empty (the abridged tag of FXSAVE).
    pub valid: u8,
    /// Unused, zero.
    pub pad1: u8,
    /// Top of stack, 0-7.
    pub top: u8,
    /// Offset of the last non-control instruction.
    pub ip: u32,
    /// Offset of the last memory operand.
    pub dp: u32,
    /// DS of the last memory operand.
    pub ds: u16,
    /// Unused, zero.
    pub pad2: u16,
}

const _: () = {
    assert!(offset_of!(X87, control) % 4 == 2 && offset_of!(X87, status) % 4 == 2);
    assert!(offset_of!(X87, valid) % 2 == 1 && offset_of!(X87, top) % 2 == 1);
};

impl X87 {
    /// State after FNINIT, registers zero.
    pub const fn reset() -> Self {
        Self {
            regs: [X87Reg { significand: 0, sign_exponent: 0, pad: [0; 3] }; 8],
            opcode: 0,
            control: 0x037F,
            cs: 0,
            status: 0,
            pad0: 0,
            valid: 0,
            pad1: 0,
            top: 0,
            ip: 0,
            dp: 0,
            ds: 0,
            pad2: 0,
        }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TableReg {
    /// Linear base.
    pub base: u32,
    /// Limit.
    pub limit: u16,
}

/// Architectural state of the processor.
#[repr(C, align(64))]
pub struct CpuState {
    // ---- hot: first 256 bytes
    /// EAX ECX EDX EBX ESP EBP ESI EDI, then a slot that always is 0 ([`gpr::ZERO`]) and spares.
    pub gpr: [u32; 16],
    /// Offset of the next instruction in CS.
    pub eip: u32,
    /// EFLAGS without the arithmetic bits (those are in `flags`).
    pub eflags: u32,
    /// Arithmetic flags.
    pub flags: Flags,
    /// See [`ModeKey`]; follows CS and SS.
    pub mode: ModeKey,
    /// Bit n: reads through segment n need no check and have base 0.
    pub flat_read: u8,
    /// Bit n: writes through segment n need no check and have base 0.
    pub flat_write: u8,
    /// Current privilege level.
    pub cpl: u8,
    /// The next instruction runs before interrupts are considered (STI, MOV SS, POP SS).
    pub int_shadow: bool,
    /// The next instruction runs before debug exceptions are considered (MOV SS, POP SS).
    pub debug_shadow: bool,
    /// Waiting for an interrupt.
    pub halted: bool,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// DR7 arms a breakpoint: code runs one instruction at a time, data accesses are compared.
    pub debug_armed: bool,
    /// CR0.AM, EFLAGS.AC and CPL 3: misaligned accesses raise #AC.
    pub alignment_checked: bool,
    /// Debug traps to be raised at the next instruction boundary: breakpoints hit (DR6 bits 3:0),
    /// [`super::debug_regs::PENDING_STEP`], [`super::debug_regs::PENDING_TASK`].
    pub debug_hits: u8,
    /// Linear address of the page fault being raised; becomes CR2 at delivery.
    pub fault_address: u32,
    /// Instructions completed and exceptions delivered since power-on.
    pub retired: u64,
    /// Reserved for host bindings of translated code (never saved).
    pub bindings: [u64; 4],
    /// ES CS SS DS FS GS.
    pub seg: [Segment; 6],

    // ---- warm
    /// XMM0-XMM7.
    pub xmm: [u128; 8],
    /// x87 and MMX.
    pub x87: X87,
    /// SSE control and status.
    pub mxcsr: u32,
    /// CR0.
    pub cr0: u32,
    /// CR2.
    pub cr2: u32,
    /// CR3.
    pub cr3: u32,
    /// CR4.
    pub cr4: u32,
    /// DR0-DR7.
    pub dr: [u32; 8],
    /// PAE page-directory pointers, loaded with CR3.
    pub pdpte: [u64; 4],
    /// GDTR.
    pub gdtr: TableReg,
    /// IDTR.
    pub idtr: TableReg,
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// MSR 174h.
    pub sysenter_cs: u32,
    /// MSR 175h.
    pub sysenter_esp: u32,
    /// MSR 176h.
    pub sysenter_eip: u32,
    /// Highest standard CPUID leaf reported.
    pub cpuid_level: u32,
    /// Added to the bus's time stamp counter.
    pub tsc_offset: u64,
    /// The machine has a local APIC (CPUID bit).
    pub has_apic: bool,
    /// More host bindings of translated code.
    pub pages: [u64; 7],
    /// Reserved for translated code in segments that are not flat (never saved).
    pub limits: [i64; 13],
}

const _: () = {
    assert!(offset_of!(CpuState, gpr) == 0);
    assert!(offset_of!(CpuState, seg) + size_of::<[Segment; 6]>() <= 256);
    assert!(offset_of!(CpuState, xmm) % 16 == 0);
    assert!(size_of::<CpuState>() <= 4096);
};

impl Default for CpuState {
    fn default() -> Self {
        Self::new()
    }
}

impl CpuState {
    /// State after power-up (SDM vol. 3, table 9-1), registers zero as v86 has them.
    pub fn new() -> Self {
        let mut cpu = Self {
            gpr: [0; 16],
            eip: 0xFFF0,
            eflags: flags::FIXED,
            flags: Flags::set(0),
            mode: ModeKey(0),
            flat_read: 0,
            flat_write: 0,
            cpl: 0,
            int_shadow: false,
            debug_shadow: false,
            halted: false,
            nmi_blocked: false,
            debug_armed: false,
            alignment_checked: false,
            debug_hits: 0,
            fault_address: 0,
            retired: 0,
            bindings: [0; 4],
            seg: [Segment::real(0, 0); 6],
            xmm: [0; 8],
            x87: X87::reset(),
            mxcsr: 0x1F80,
            cr0: cr0::ET | cr0::CD | cr0::NW,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            dr: [0, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400],
            pdpte: [0; 4],
            gdtr: TableReg { base: 0, limit: 0xFFFF },
            idtr: TableReg { base: 0, limit: 0xFFFF },
            ldtr: Segment { base: 0, limit: 0xFFFF, selector: 0, attr: 0x82 },
            tr: Segment { base: 0, limit: 0xFFFF, selector: 0, attr: 0x8B },
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            cpuid_level: 0x16,
            tsc_offset: 0,
            has_apic: false,
            pages: [0; 7],
            limits: [0; 13],
        };
        // v86 starts at F000:FFF0 with base F0000h (not FFFF0000h): the BIOS lies below 1 MiB too.
        cpu.set_segment(seg::CS, Segment { attr: 0x9B, ..Segment::real(0xF000, 0) });
        cpu
    }

    /// Complete EFLAGS.
    #[inline]
    pub fn eflags(&self) -> u32 {
        self.eflags | self.flags.get()
    }

    /// Replaces EFLAGS as a whole; bits that do not exist are dropped.
    #[inline]
    pub fn set_eflags(&mut self, value: u32) {
        self.eflags = (value & flags::ALL & !flags::ARITH) | flags::FIXED;
        self.flags = Flags::set(value);
    }

    /// Loads a segment register's cache and what follows from it (mode key, flat masks).
    pub fn set_segment(&mut self, index: usize, segment: Segment) {
        let bit = 1u8 << index;
        // With alignment checks on, every access takes the complete path.
        let flat = segment.is_flat() && !self.alignment_checked;
        let flip = |mask: &mut u8, on: bool| if on { *mask |= bit } else { *mask &= !bit };
        flip(&mut self.flat_read, flat && segment.is_readable());
        flip(&mut self.flat_write, flat && segment.is_writable());
        if let Some(slot) = self.seg.get_mut(index) {
            *slot = segment;
        }
        if index == seg::CS || index == seg::SS {
            self.update_mode();
        }
    }

    /// Recomputes the mode key from CS and SS.
    pub fn update_mode(&mut self) {
        let mut key = 0;
        if self.seg[seg::CS].is_big() {
            key |= ModeKey::CODE32;
        }
        if self.seg[seg::SS].is_big() {
            key |= ModeKey::STACK32;
        }
        self.mode = ModeKey(key);
    }

    /// Recomputes [`CpuState::alignment_checked`]; after changes of CR0, EFLAGS.AC or CPL.
    pub fn update_alignment_check(&mut self) {
        let checked = self.cpl == 3 && self.cr0 & cr0::AM != 0 && self.eflags & flags::AC != 0;
        if checked != self.alignment_checked {
            self.alignment_checked = checked;
            for n in 0..self.seg.len() {
                self.set_segment(n, self.seg[n]);
            }
        }
    }

    /// CR0.PE.
    #[inline]
    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// EFLAGS.VM.
    #[inline]
    pub fn vm86(&self) -> bool {
        self.eflags & flags::VM != 0
    }

    /// Real mode or VM86: segments are selectors times 16.
    #[inline]
    pub fn real_or_vm86(&self) -> bool {
        !self.protected() || self.vm86()
    }

    /// I/O privilege level.
    #[inline]
    pub fn iopl(&self) -> u8 {
        ((self.eflags >> 12) & 3) as u8
    }

    /// 32-bit register (number masked to 4 bits; 8 and up read 0).
    #[inline(always)]
    pub fn r32(&self, r: u8) -> u32 {
        self.gpr[usize::from(r & 15)]
    }

    /// Sets a 32-bit register 0-7.
    #[inline(always)]
    pub fn set_r32(&mut self, r: u8, v: u32) {
        self.gpr[usize::from(r & 7)] = v;
    }

    /// 16-bit register.
    #[inline(always)]
    pub fn r16(&self, r: u8) -> u16 {
        self.gpr[usize::from(r & 7)] as u16
    }

    /// Sets a 16-bit register, keeping the upper half.
    #[inline(always)]
    pub fn set_r16(&mut self, r: u8, v: u16) {
        let slot = &mut self.gpr[usize::from(r & 7)];
        *slot = (*slot & 0xFFFF_0000) | u32::from(v);
    }

    /// 8-bit register: AL CL DL BL AH CH DH BH.
    #[inline(always)]
    pub fn r8(&self, r: u8) -> u8 {
        (self.gpr[usize::from(r & 3)] >> ((r & 4) * 2)) as u8
    }

    /// Sets an 8-bit register.
    #[inline(always)]
    pub fn set_r8(&mut self, r: u8, v: u8) {
        let shift = (r & 4) * 2;
        let slot = &mut self.gpr[usize::from(r & 3)];
        *slot = (*slot & !(0xFF << shift)) | u32::from(v) << shift;
    }

    /// Stack pointer in the width of SS.B.
    #[inline(always)]
    pub fn sp(&self) -> u32 {
        let esp = self.gpr[gpr::ESP];
        if self.mode.stack32() { esp } else { esp & 0xFFFF }
    }

    /// Sets ESP or SP by SS.B.
    #[inline(always)]
    pub fn set_sp(&mut self, v: u32) {
        if self.mode.stack32() {
            self.gpr[gpr::ESP] = v;
        } else {
            self.set_r16(gpr::ESP as u8, v as u16);
        }
    }
}
