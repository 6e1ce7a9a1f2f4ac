//! A bare-metal machine for instruction tests: RAM, an interpreter, a bus that records, and a
//! protected-mode environment whose exception handlers halt, so that a test can look at the frame.
//!
//! ```text
//! 01000 GDT   02000 IDT   03000 TSS   03800 LDT   04000 handlers (one HLT each, 16 bytes apart)
//! 0F000 ring 0 stack   1F000 ring 3 stack   10000 code   20000 data   100000 page tables
//! ```
#![allow(dead_code)] // every test file uses a part of it
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{HashMap, VecDeque};

use emu_core::bus::{AccessSize, CpuContext, SystemBus};
use emu_core::cpu::segment::Segment;
use emu_core::cpu::state::TableReg;
use emu_core::cpu::{CpuState, cr0, cr4, gpr, seg};
use emu_core::engine::{CpuEngine, Exit};
use emu_core::interp::Interpreter;
use emu_core::mem::Memory;
use iced_x86::code_asm::CodeAssembler;

pub const GDT: u32 = 0x1000;
pub const IDT: u32 = 0x2000;
pub const TSS: u32 = 0x3000;
pub const LDT: u32 = 0x3800;
pub const HANDLERS: u32 = 0x4000;
/// Initial ESP of ring 0 code under test.
pub const STACK0: u32 = 0xE000;
/// ESP0 of the TSS.
pub const INNER_STACK: u32 = 0xF000;
pub const STACK3: u32 = 0x1F000;
pub const CODE: u32 = 0x10000;
pub const DATA: u32 = 0x20000;
pub const PAGE_DIR: u32 = 0x10_0000;
pub const PAGE_TABLE: u32 = 0x10_1000;

pub const CODE0: u16 = 0x08;
pub const DATA0: u16 = 0x10;
pub const CODE3: u16 = 0x1B;
pub const DATA3: u16 = 0x23;
pub const TSS_SEL: u16 = 0x28;
pub const LDT_SEL: u16 = 0x30;
pub const CODE0_16: u16 = 0x38;
pub const DATA0_16: u16 = 0x40;
pub const CONFORMING0: u16 = 0x48;
pub const CODE1: u16 = 0x50 | 1;
pub const DATA1: u16 = 0x58 | 1;
pub const READ_ONLY: u16 = 0x60;
pub const EXECUTE_ONLY: u16 = 0x68;
pub const ABSENT_DATA: u16 = 0x70;
/// First selector that is free for tests (nine entries up to 0xB8).
pub const FREE: u16 = 0x78;
/// Limit of the GDT: selectors above it are outside the table.
pub const GDT_LIMIT: u16 = 0xBF;

/// Access bytes of descriptors.
pub mod access {
    pub const CODE: u32 = 0x9B;
    pub const DATA: u32 = 0x93;
    pub const DPL3: u32 = 0x60;
}

/// Assembles instructions where CS:EIP points: `code!(m; mov(eax, 1); hlt());`
#[macro_export]
macro_rules! code {
    ($m:expr; $($op:ident($($arg:expr),* $(,)?));* $(;)?) => {
        $m.code(|a| { $( a.$op($($arg),*).unwrap(); )* })
    };
}

/// Assembles 32-bit instructions at an address: `code_at!(m, at; hlt());`
#[macro_export]
macro_rules! code_at {
    ($m:expr, $at:expr; $($op:ident($($arg:expr),* $(,)?));* $(;)?) => {
        $m.code_at($at, |a| { $( a.$op($($arg),*).unwrap(); )* })
    };
}

/// A bus without devices: ports are recorded, interrupts come from a queue.
#[derive(Default)]
pub struct TestBus {
    /// Values that IN reads; others read all ones.
    pub ports: HashMap<u16, u32>,
    /// OUTs: port, bytes, value.
    pub outs: Vec<(u16, u32, u32)>,
    /// INs: port, bytes.
    pub ins: Vec<(u16, u32)>,
    pub interrupts: VecDeque<u8>,
    pub nmi: bool,
    pub tsc: u64,
    pub random: u32,
    pub backdoor: Option<[u32; 6]>,
    pub backdoor_seen: Option<[u32; 6]>,
    pub apic_base: Option<u64>,
    /// An OUT to this port raises the interrupt whose vector is written.
    pub trigger: Option<u16>,
}

impl SystemBus for TestBus {
    fn port_in(&mut self, _: &mut Memory, _: CpuContext, port: u16, size: AccessSize) -> u32 {
        self.ins.push((port, size.bytes()));
        self.ports.get(&port).copied().unwrap_or(u32::MAX)
    }

    fn port_out(&mut self, _: &mut Memory, _: CpuContext, port: u16, size: AccessSize, value: u32) {
        if self.trigger == Some(port) {
            self.interrupts.push_back(value as u8);
        }
        self.outs.push((port, size.bytes(), value));
    }

    fn mmio_read(&mut self, _: &mut Memory, _: CpuContext, _: u64, _: AccessSize) -> u32 {
        u32::MAX
    }

    fn mmio_write(&mut self, _: &mut Memory, _: CpuContext, _: u64, _: AccessSize, _: u32) {}

    fn interrupt_pending(&self) -> bool {
        !self.interrupts.is_empty()
    }

    fn ack_interrupt(&mut self, _: &mut Memory, _: CpuContext) -> Option<u8> {
        self.interrupts.pop_front()
    }

    fn nmi_pending(&self) -> bool {
        self.nmi
    }

    fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi)
    }

    fn must_exit(&self) -> bool {
        false
    }

    fn tsc(&mut self, cx: CpuContext) -> u64 {
        self.tsc + cx.retired
    }

    fn apic_base(&self) -> Option<u64> {
        self.apic_base
    }

    fn set_apic_base(&mut self, value: u64) {
        self.apic_base = Some(value);
    }

    fn random(&mut self) -> u32 {
        self.random
    }

    fn backdoor(&mut self, regs: [u32; 6]) -> Option<[u32; 6]> {
        self.backdoor_seen = Some(regs);
        self.backdoor
    }
}

/// The frame a handler of the protected-mode environment was entered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub vector: u8,
    /// Error code, 0 for vectors without.
    pub error: u32,
    pub eip: u32,
    pub cs: u16,
    pub eflags: u32,
    /// ESP and SS if the privilege level changed.
    pub outer: Option<(u32, u16)>,
    /// ESP of the handler.
    pub sp: u32,
}

/// CPU, memory, bus and engine.
pub struct Machine {
    pub cpu: CpuState,
    pub mem: Memory,
    pub bus: TestBus,
    pub engine: Interpreter,
}

/// The dwords of a segment descriptor. `kind` is the access byte; `flags`: bit 3 G, bit 2 D/B.
pub fn descriptor(base: u32, limit: u32, kind: u32, flags: u32) -> (u32, u32) {
    let low = (base << 16) | (limit & 0xFFFF);
    let high = (base & 0xFF00_0000) | (flags << 20) | (limit & 0xF_0000) | (kind << 8) | (base >> 16 & 0xFF);
    (low, high)
}

/// The dwords of a gate. `kind` is the access byte.
pub fn gate(selector: u16, offset: u32, kind: u32, parameters: u32) -> (u32, u32) {
    (u32::from(selector) << 16 | offset & 0xFFFF, offset & 0xFFFF_0000 | kind << 8 | parameters)
}

/// Machine code of what `f` assembles at `at`.
pub fn assemble(bits: u32, at: u32, f: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).unwrap();
    f(&mut a);
    a.assemble(u64::from(at)).unwrap()
}

impl Machine {
    /// 16 MiB of RAM, CPU as after power-up, in real mode with usable segments.
    pub fn real() -> Self {
        let mut m = Self {
            cpu: CpuState::new(),
            mem: Memory::new(16 << 20).unwrap(),
            bus: TestBus::default(),
            engine: Interpreter::new(),
        };
        for s in 0..6 {
            m.cpu.set_segment(s, Segment::real(0, 0));
        }
        m.cpu.set_segment(seg::CS, Segment { attr: 0x9B, ..Segment::real((CODE >> 4) as u16, 0) });
        m.cpu.idtr = TableReg { base: 0, limit: 0x3FF };
        m.cpu.eip = 0;
        m.cpu.gpr[gpr::ESP] = 0xE000;
        // Handlers as in protected mode: CS 0400h, 16 bytes apart.
        for v in 0..256u32 {
            m.write_u32(v * 4, ((HANDLERS >> 4) << 16) | (v * 16));
            m.write(HANDLERS + v * 16, &[0xF4]);
        }
        m
    }

    /// Flat 32-bit protected mode at CPL 0, no paging. Interrupt gates with DPL 3 for all vectors.
    pub fn protected() -> Self {
        let mut m = Self::real();
        let flat = |kind| descriptor(0, 0xF_FFFF, kind, 0xC);
        let entries = [
            (CODE0, flat(access::CODE)),
            (DATA0, flat(access::DATA)),
            (CODE3, flat(access::CODE | access::DPL3)),
            (DATA3, flat(access::DATA | access::DPL3)),
            (TSS_SEL, descriptor(TSS, 0x7FF, 0x8B, 0)),
            (LDT_SEL, descriptor(LDT, 0xFF, 0x82, 0)),
            (CODE0_16, descriptor(0, 0xFFFF, access::CODE, 0)),
            (DATA0_16, descriptor(0, 0xFFFF, access::DATA, 0)),
            (CONFORMING0, flat(0x9F)),
            (CODE1, flat(access::CODE | 0x20)),
            (DATA1, flat(access::DATA | 0x20)),
            (READ_ONLY, flat(0x91)),
            (EXECUTE_ONLY, flat(0x99)),
            (ABSENT_DATA, flat(0x13)),
        ];
        for (selector, d) in entries {
            m.set_gdt(selector, d);
        }
        for v in 0..=255 {
            m.set_idt(v, gate(CODE0, HANDLERS + u32::from(v) * 16, 0xEE, 0));
        }
        // ESP0, SS0; ESP1, SS1; I/O map behind the TSS's first 104 bytes, all ports denied.
        m.write_u32(TSS + 4, INNER_STACK);
        m.write_u32(TSS + 8, DATA0.into());
        m.write_u32(TSS + 12, INNER_STACK - 0x800);
        m.write_u32(TSS + 16, DATA1.into());
        m.write_u16(TSS + 0x66, 0x88);
        m.write(TSS + 0x88, &[0xFF; 0x700]);
        m.cpu.gdtr = TableReg { base: GDT, limit: GDT_LIMIT };
        m.cpu.idtr = TableReg { base: IDT, limit: 0x7FF };
        m.cpu.tr = m.segment(TSS_SEL);
        m.cpu.ldtr = Segment::null(0);
        m.cpu.cr0 |= cr0::PE;
        m.set_level(CODE0, DATA0);
        m.cpu.gpr[gpr::ESP] = STACK0;
        m.cpu.eip = CODE;
        m
    }

    /// Like [`Machine::protected`], at CPL 3.
    pub fn user() -> Self {
        let mut m = Self::protected();
        m.set_level(CODE3, DATA3);
        m.cpu.gpr[gpr::ESP] = STACK3;
        m
    }

    /// VM86 mode at CPL 3 in segment [`CODE`] / 16, IP 0, with the given IOPL; stack at 1000h:F000h.
    pub fn vm86(iopl: u32) -> Self {
        let mut m = Self::protected();
        m.cpu.set_eflags(0x0002_0002 | iopl << 12);
        for s in 0..6 {
            m.cpu.set_segment(s, Segment::real(0, 3));
        }
        m.cpu.set_segment(seg::CS, Segment::real((CODE >> 4) as u16, 3));
        m.cpu.set_segment(seg::SS, Segment::real((CODE >> 4) as u16, 3));
        m.cpu.cpl = 3;
        m.cpu.eip = 0;
        m.cpu.gpr[gpr::ESP] = 0xF000;
        m
    }

    /// Identity-maps the first 4 MiB with 4 KiB user pages and switches paging on (WP clear).
    pub fn enable_paging(&mut self) {
        self.write_u32(PAGE_DIR, PAGE_TABLE | 7);
        for n in 0..1024 {
            self.write_u32(PAGE_TABLE + n * 4, n << 12 | 7);
        }
        self.cpu.cr3 = PAGE_DIR;
        self.cpu.cr0 |= cr0::PG;
        self.mem.flush_views();
    }

    /// Page-table entry of a linear address below 4 MiB.
    pub fn pte(&self, lin: u32) -> u32 {
        self.read_u32(PAGE_TABLE + (lin >> 12) * 4)
    }

    /// Sets the page-table entry of a linear address below 4 MiB and forgets translations.
    pub fn set_pte(&mut self, lin: u32, value: u32) {
        self.write_u32(PAGE_TABLE + (lin >> 12) * 4, value);
        self.mem.flush_views();
    }

    /// Loads CS with `code` and all others with `data`.
    pub fn set_level(&mut self, code: u16, data: u16) {
        let data = self.segment(data);
        for s in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
            self.cpu.set_segment(s, data);
        }
        let code = self.segment(code);
        self.cpu.set_segment(seg::CS, code);
        self.cpu.cpl = (code.selector & 3) as u8;
        self.cpu.update_alignment_check();
    }

    /// Register contents for a selector of the GDT.
    pub fn segment(&self, selector: u16) -> Segment {
        let at = GDT + u32::from(selector & !7);
        Segment::from_descriptor(selector, self.read_u32(at), self.read_u32(at + 4))
    }

    /// Loads a segment register without checks.
    pub fn force_segment(&mut self, index: usize, selector: u16) {
        let s = self.segment(selector);
        self.cpu.set_segment(index, s);
    }

    pub fn set_gdt(&mut self, selector: u16, (low, high): (u32, u32)) {
        let at = GDT + u32::from(selector & !7);
        self.write_u32(at, low);
        self.write_u32(at + 4, high);
    }

    pub fn gdt(&self, selector: u16) -> (u32, u32) {
        let at = GDT + u32::from(selector & !7);
        (self.read_u32(at), self.read_u32(at + 4))
    }

    pub fn set_idt(&mut self, vector: u8, (low, high): (u32, u32)) {
        let at = IDT + u32::from(vector) * 8;
        self.write_u32(at, low);
        self.write_u32(at + 4, high);
    }

    /// Puts code for the current mode where CS:EIP points.
    pub fn code(&mut self, f: impl FnOnce(&mut CodeAssembler)) {
        let bits = if self.cpu.mode.code32() { 32 } else { 16 };
        let at = self.cpu.seg[seg::CS].base.wrapping_add(self.cpu.eip);
        let bytes = assemble(bits, self.cpu.eip, f);
        self.write(at, &bytes);
    }

    /// Puts 32-bit code at `at`.
    pub fn code_at(&mut self, at: u32, f: impl FnOnce(&mut CodeAssembler)) {
        let bytes = assemble(32, at, f);
        self.write(at, &bytes);
    }

    /// Puts raw bytes where CS:EIP points.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let at = self.cpu.seg[seg::CS].base.wrapping_add(self.cpu.eip);
        self.write(at, bytes);
    }

    pub fn write(&mut self, at: u32, data: &[u8]) {
        assert!(self.mem.dma_write(at.into(), data));
    }

    pub fn write_u16(&mut self, at: u32, v: u16) {
        self.write(at, &v.to_le_bytes());
    }

    pub fn write_u32(&mut self, at: u32, v: u32) {
        self.write(at, &v.to_le_bytes());
    }

    pub fn read_u8(&self, at: u32) -> u8 {
        self.mem.dma_slice(at.into(), 1).unwrap()[0]
    }

    pub fn read_u16(&self, at: u32) -> u16 {
        self.mem.dma_read_u16(at.into()).unwrap()
    }

    pub fn read_u32(&self, at: u32) -> u32 {
        self.mem.dma_read_u32(at.into()).unwrap()
    }

    pub fn run(&mut self, budget: u64) -> Exit {
        self.engine.run(&mut self.cpu, &mut self.mem, &mut self.bus, budget)
    }

    /// Runs exactly one instruction (or exception).
    pub fn step(&mut self) {
        assert_eq!(self.run(1), Exit::Budget);
    }

    /// Runs until HLT and asserts that it is not one of an exception handler.
    pub fn finish(&mut self) {
        assert_eq!(self.run(10_000), Exit::Halted, "at {:#x}", self.cpu.eip);
        let at = self.cpu.seg[seg::CS].base.wrapping_add(self.cpu.eip);
        if (HANDLERS..HANDLERS + 0x1000).contains(&at) {
            panic!("unexpected {:?}", self.frame());
        }
    }

    /// Runs until a handler halts and returns its frame.
    pub fn fault(&mut self) -> Fault {
        assert_eq!(self.run(10_000), Exit::Halted, "at {:#x}", self.cpu.eip);
        let at = self.cpu.seg[seg::CS].base.wrapping_add(self.cpu.eip);
        assert!((HANDLERS..HANDLERS + 0x1000).contains(&at), "halted at {at:#x}, not in a handler");
        self.frame()
    }

    /// Vector and error code of the fault the code ends with.
    pub fn fault_code(&mut self) -> (u8, u32) {
        let f = self.fault();
        (f.vector, f.error)
    }

    fn frame(&self) -> Fault {
        let at = self.cpu.seg[seg::CS].base.wrapping_add(self.cpu.eip);
        let vector = ((at - 1 - HANDLERS) / 16) as u8;
        let sp = self.cpu.gpr[gpr::ESP];
        let base = self.cpu.seg[seg::SS].base;
        if !self.cpu.protected() {
            let slot = |n: u32| u32::from(self.read_u16(base + ((sp + 2 * n) & 0xFFFF)));
            let (eip, cs, eflags) = (slot(0), slot(1) as u16, slot(2));
            return Fault { vector, error: 0, eip, cs, eflags, outer: None, sp };
        }
        let slot = |n: u32| self.read_u32(base + sp + 4 * n);
        let n = u32::from(matches!(vector, 8 | 10..=14 | 17));
        let error = if n == 1 { slot(0) } else { 0 };
        let (eip, cs, eflags) = (slot(n), slot(n + 1) as u16, slot(n + 2));
        let inner = eflags & 1 << 17 != 0 || cs & 3 != self.cpu.seg[seg::CS].selector & 3;
        let outer = inner.then(|| (slot(n + 3), slot(n + 4) as u16));
        Fault { vector, error, eip, cs, eflags, outer, sp }
    }

    /// CR4.`bit` on, without the checks of MOV CR4.
    pub fn set_cr4(&mut self, bits: u32) {
        self.cpu.cr4 |= bits;
        if bits & (cr4::PAE | cr4::PSE | cr4::PGE) != 0 {
            self.mem.flush_views();
        }
    }

    /// Offset of the handler of a vector.
    pub fn handler(vector: u8) -> u32 {
        HANDLERS + u32::from(vector) * 16
    }

    /// Dword `n` of the stack.
    pub fn stack(&self, n: u32) -> u32 {
        self.read_u32(self.cpu.seg[seg::SS].base + self.cpu.sp() + 4 * n)
    }

    /// Word `n` of the stack.
    pub fn stack16(&self, n: u32) -> u16 {
        self.read_u16(self.cpu.seg[seg::SS].base + self.cpu.sp() + 2 * n)
    }

    /// Selector in a segment register.
    pub fn selector(&self, index: usize) -> u16 {
        self.cpu.seg[index].selector
    }

    /// Sets general registers.
    pub fn set(&mut self, r: usize, v: u32) -> &mut Self {
        self.cpu.gpr[r] = v;
        self
    }

    pub fn eax(&self) -> u32 {
        self.cpu.gpr[gpr::EAX]
    }
}
