//! CPU, memory and a bus for programs: every mode, tables in low memory, device memory at A0000h.
//!
//! ```text
//! 00000 interrupt table   01000 GDT   02000 IDT   03000 TSS   03800 LDT
//! 04000 handlers, 16 bytes each: HLT, IRET   0F000 ring 0 stack   10000 code   20000 data
//! 100000 page tables
//! ```

use std::collections::VecDeque;

use emu_core::bus::{AccessSize, CpuContext, SystemBus};
use emu_core::cpu::segment::Segment;
use emu_core::cpu::state::TableReg;
use emu_core::cpu::{CpuState, cr0, cr4, debug_regs, flags, gpr, seg};
use emu_core::engine::{CpuEngine, Exit};
use emu_core::mem::{Memory, PageKind};

use crate::programs::{Case, Mode, Paging, Patch};

/// Where programs are.
pub const CODE: u32 = 0x1_0000;
/// Where their data are.
pub const DATA: u32 = 0x2_0000;
const RAM: usize = 2 << 20;
const GDT: u32 = 0x1000;
const IDT: u32 = 0x2000;
const TSS: u32 = 0x3000;
const LDT: u32 = 0x3800;
const HANDLERS: u32 = 0x4000;
const STACK: u32 = 0xE000;
const INNER_STACK: u32 = 0xF000;
/// Page directory and table; with PAE the pointer table, then directory and table.
const PAGES: u32 = 0x10_0000;

/// Instructions of one run.
const TOTAL: u64 = 800;
/// Halts that end with an NMI before the run is over.
const HALTS: u32 = 60;
/// An OUT here raises the interrupt whose number is written.
const TRIGGER: u16 = 0x60;
/// An OUT here makes the engine return.
const REQUEST: u16 = 0x70;
/// Instructions by which an engine may exceed its budget: deliveries at the end of it.
const OVERRUN: u64 = 3;

/// A bus whose answers depend on what was done to it, and on nothing else.
#[derive(Default)]
struct Bus {
    interrupts: VecDeque<u8>,
    nmi: bool,
    request: bool,
    apic_base: u64,
    ignne: bool,
    seen: u64,
}

impl Bus {
    fn note(&mut self, what: u64) -> u32 {
        self.seen = (self.seen ^ what).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
        (self.seen >> 7) as u32
    }
}

impl SystemBus for Bus {
    fn port_in(&mut self, _: &mut Memory, cx: CpuContext, port: u16, size: AccessSize) -> u32 {
        self.note(u64::from(port) << 8 | u64::from(size.bytes()) | cx.retired << 24) & size.ones()
    }
    fn port_out(&mut self, _: &mut Memory, cx: CpuContext, port: u16, size: AccessSize, value: u32) {
        self.note(u64::from(port) << 40 | u64::from(size.bytes()) << 32 | u64::from(value));
        self.note(cx.retired);
        if port == TRIGGER && self.interrupts.len() < 16 {
            self.interrupts.push_back(value as u8);
        }
        self.request |= port == REQUEST;
    }
    fn mmio_read(&mut self, _: &mut Memory, _: CpuContext, phys: u64, size: AccessSize) -> u32 {
        self.note(phys << 8 | u64::from(size.bytes())) & size.ones()
    }
    fn mmio_write(&mut self, _: &mut Memory, _: CpuContext, phys: u64, size: AccessSize, value: u32) {
        self.note(phys << 40 | u64::from(size.bytes()) << 32 | u64::from(value));
    }
    fn interrupt_pending(&self) -> bool {
        !self.interrupts.is_empty()
    }
    fn ack_interrupt(&mut self, _: &mut Memory, _: CpuContext) -> Option<u8> {
        self.interrupts.pop_front()
    }
    fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi)
    }
    fn must_exit(&self) -> bool {
        self.request
    }
    fn tsc(&mut self, cx: CpuContext) -> u64 {
        cx.retired
    }
    fn apic_base(&self) -> Option<u64> {
        Some(self.apic_base)
    }
    fn set_apic_base(&mut self, value: u64) {
        self.apic_base = value & 0x800 | 0xFEE0_0000;
    }
    fn random(&mut self) -> u32 {
        self.note(1)
    }
    fn backdoor(&mut self, regs: [u32; 6]) -> Option<[u32; 6]> {
        (self.note(regs[0].into()) & 1 == 0).then_some(regs)
    }
    fn ferr(&mut self, asserted: bool) -> bool {
        self.note(u64::from(asserted) + 2);
        self.ignne = !self.ignne;
        self.ignne
    }
}

/// CPU, memory, bus and engine.
pub struct Pc<E> {
    cpu: Box<CpuState>,
    mem: Memory,
    bus: Bus,
    engine: E,
    halts: u32,
}

fn descriptor(base: u32, limit: u32, kind: u32, bits: u32) -> [u8; 8] {
    let low = (base << 16) | (limit & 0xFFFF);
    let high = (base & 0xFF00_0000) | bits << 20 | (limit & 0xF_0000) | kind << 8 | (base >> 16 & 0xFF);
    (u64::from(high) << 32 | u64::from(low)).to_le_bytes()
}

/// The GDT: selectors 08 code, 10 data, 18 user code, 20 user data, 28 TSS, 30 LDT, 38 and 40 16-bit
/// code and data, 48 conforming code, 50 and 58 ring 1, 60 read-only, 68 execute-only, 70 absent,
/// 78 call gate, 80 task gate, 88 another TSS, 90 and on empty.
fn gdt() -> Vec<u8> {
    let flat = |kind| descriptor(0, 0xF_FFFF, kind, 0xC);
    let gate = |selector: u16, offset: u32, kind: u8| {
        let [a, b, c, d] = offset.to_le_bytes();
        let [s, t] = selector.to_le_bytes();
        [a, b, s, t, 0, kind, c, d]
    };
    [
        [0; 8],
        flat(0x9B),
        flat(0x93),
        flat(0xFB),
        flat(0xF3),
        descriptor(TSS, 0x7FF, 0x8B, 0),
        descriptor(LDT, 0xFF, 0x82, 0),
        descriptor(0, 0xFFFF, 0x9B, 0),
        descriptor(0, 0xFFFF, 0x93, 0),
        flat(0x9F),
        flat(0xBB),
        flat(0xB3),
        flat(0x91),
        flat(0x99),
        flat(0x13),
        gate(8, CODE + 0x100, 0xEC),
        gate(0x88, 0, 0xE5),
        descriptor(DATA + 0x800, 0x67, 0xE9, 0),
    ]
    .concat()
}

impl<E: CpuEngine> Pc<E> {
    /// A machine in the state that a case describes.
    ///
    /// # Panics
    /// If the host has no memory.
    pub fn new(case: &Case<'_>, engine: E) -> Self {
        let mem = Memory::new(RAM).expect("memory");
        let mut pc = Self { cpu: Box::new(CpuState::new()), mem, bus: Bus::default(), engine, halts: 0 };
        pc.mem.set_kind(0xA_0000, 0x2_0000, PageKind::Device);
        pc.bus.apic_base = 0xFEE0_0000;
        pc.bus.interrupts.extend(case.interrupts);
        pc.tables(case);
        for patch in &case.patches {
            pc.patch(case, patch);
        }
        pc.write(CODE, case.code);
        pc.registers(case);
        pc
    }

    fn write(&mut self, at: u32, data: &[u8]) {
        // What would lie outside RAM is left out.
        let _ = self.mem.dma_write(at.into(), data);
    }

    fn tables(&mut self, case: &Case<'_>) {
        let mut low = vec![0u8; (HANDLERS + 0x1000) as usize];
        let mut put = |at: u32, bytes: &[u8]| low[at as usize..][..bytes.len()].copy_from_slice(bytes);
        for v in 0..256u32 {
            // Real mode: CS 0400h. Protected mode: interrupt gates of ring 3.
            put(v * 4, &(HANDLERS >> 4 << 16 | v * 16).to_le_bytes());
            let [a, b, c, d] = (HANDLERS + v * 16).to_le_bytes();
            put(IDT + v * 8, &[a, b, 8, 0, 0, 0xEE, c, d]);
            put(HANDLERS + v * 16, &[0xF4, 0xCF]);
        }
        put(GDT, &gdt());
        put(TSS + 4, &INNER_STACK.to_le_bytes());
        put(TSS + 8, &[0x10]);
        put(TSS + 12, &(INNER_STACK - 0x800).to_le_bytes());
        put(TSS + 16, &[0x59]);
        // The I/O map lies behind: half of the ports are allowed.
        put(TSS + 0x66, &[0x88]);
        put(TSS + 0x88 + 0x10, &[0xFF; 0x700 - 0x10]);
        self.write(0, &low);
        let entry = |n: u32, bits: u32| (n | bits).to_le_bytes();
        let mut pages = Vec::new();
        match case.paging {
            Paging::Off => {}
            Paging::TwoLevels => {
                pages.extend(entry(PAGES + 0x1000, 7));
                pages.resize(0x1000, 0);
                (0..1024).for_each(|n| pages.extend(entry(n << 12, 7)));
            }
            Paging::Large => {
                pages.extend(entry(0, 0x87));
                pages.extend(entry(PAGES + 0x1000, 7));
                pages.resize(0x1000, 0);
                (0..1024).for_each(|n| pages.extend(entry(n << 12, 7)));
            }
            Paging::Pae => {
                pages.extend(u64::from(PAGES + 0x1000 | 1).to_le_bytes());
                pages.resize(0x1000, 0);
                pages.extend(u64::from(PAGES + 0x2000 | 7).to_le_bytes());
                pages.extend(0x87u64.to_le_bytes());
                pages.resize(0x2000, 0);
                (0..512u64).for_each(|n| pages.extend((n << 12 | 7).to_le_bytes()));
            }
        }
        self.write(PAGES, &pages);
    }

    fn patch(&mut self, case: &Case<'_>, patch: &Patch<'_>) {
        match *patch {
            Patch::Gdt(n, bytes) => self.write(GDT + u32::from(n % 24) * 8, &bytes),
            Patch::Idt(n, bytes) if case.mode == Mode::Real => self.write(u32::from(n % 128) * 8, &bytes),
            Patch::Idt(n, bytes) => self.write(IDT + u32::from(n) * 8, &bytes),
            Patch::Ldt(n, bytes) => self.write(LDT + u32::from(n % 32) * 8, &bytes),
            Patch::Tss(n, value) => self.write(TSS + u32::from(n) * 4, &value.to_le_bytes()),
            Patch::Page(n, value) if case.paging == Paging::Pae => {
                self.write(PAGES + u32::from(n % 0x600) * 8, &value.to_le_bytes());
            }
            Patch::Page(n, value) => {
                self.write(PAGES + u32::from(n % 0x800) * 4, &(value as u32).to_le_bytes());
            }
            Patch::Handler(v, bytes) => self.write(HANDLERS + u32::from(v) * 16, bytes),
            Patch::Data(at, bytes) => self.write(DATA + u32::from(at), bytes),
        }
    }

    /// Register contents for a selector of the GDT.
    fn segment(&self, selector: u16) -> Segment {
        let at = u64::from(GDT) + u64::from(selector & !7);
        let dword = |at| self.mem.dma_read_u32(at).unwrap_or_default();
        Segment::from_descriptor(selector, dword(at), dword(at + 4))
    }

    fn registers(&mut self, case: &Case<'_>) {
        let cpu = &mut *self.cpu;
        cpu.gpr[..8].copy_from_slice(&case.gpr);
        cpu.has_apic = case.choice & 1 != 0;
        let bit = |n: u8, value: u32| if case.cr0 >> n & 1 != 0 { value } else { 0 };
        cpu.cr0 = cr0::ET
            | bit(0, cr0::WP)
            | bit(1, cr0::AM)
            | bit(2, cr0::TS)
            | bit(3, cr0::EM)
            | bit(4, cr0::MP)
            | bit(5, cr0::NE);
        cpu.cr4 = u32::from(case.cr4) & 0x7FF & !cr4::PAE;
        if case.mode == Mode::Real {
            for s in 0..6 {
                cpu.set_segment(s, Segment::real(0, 0));
            }
            cpu.set_segment(seg::CS, Segment { attr: 0x9B, ..Segment::real((CODE >> 4) as u16, 0) });
            cpu.set_segment(seg::DS, Segment::real((DATA >> 4) as u16, 0));
            cpu.idtr = TableReg { base: 0, limit: 0x3FF };
            cpu.gdtr = TableReg { base: GDT, limit: 0xBF };
            cpu.eip = 0;
            cpu.set_eflags(case.eflags & !flags::VM);
        } else {
            self.enter_protected_mode(case);
        }
        let cpu = &mut *self.cpu;
        if case.gpr[gpr::ESP] < 64 {
            cpu.gpr[gpr::ESP] = STACK;
        }
        let (at, dr7) = case.breakpoint;
        cpu.dr[0] = CODE.wrapping_add(at.into());
        cpu.dr[1] = DATA.wrapping_add(at.into());
        cpu.dr[7] = dr7 | 0x400 | if dr7 != 0 { 8 } else { 0 };
        debug_regs::update_armed(cpu);
        cpu.update_alignment_check();
        self.mem.flush_views();
        self.mem.select_view(self.cpu.cpl == 3);
    }

    fn enter_protected_mode(&mut self, case: &Case<'_>) {
        let (code, data) = match case.mode {
            Mode::User | Mode::Vm86 => (0x1B, 0x23),
            Mode::Protected16 => (0x38, 0x40),
            _ => (0x08, 0x10),
        };
        let (code, data) = (self.segment(code), self.segment(data));
        let (tr, ldtr) = (self.segment(0x28), self.segment(0x30));
        let cpu = &mut *self.cpu;
        cpu.cr0 |= cr0::PE;
        cpu.gdtr = TableReg { base: GDT, limit: 0xBF };
        cpu.idtr = TableReg { base: IDT, limit: 0x7FF };
        (cpu.tr, cpu.ldtr) = (tr, ldtr);
        cpu.eip = CODE;
        cpu.cpl = if matches!(case.mode, Mode::User | Mode::Vm86) { 3 } else { 0 };
        if case.mode == Mode::Vm86 {
            cpu.set_eflags(case.eflags | flags::VM);
            for s in 0..6 {
                cpu.set_segment(s, Segment::real((DATA >> 4) as u16, 3));
            }
            cpu.set_segment(seg::CS, Segment::real((CODE >> 4) as u16, 3));
            cpu.eip = 0;
        } else {
            cpu.set_eflags(case.eflags & !flags::VM);
            for s in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
                cpu.set_segment(s, data);
            }
            // A 64 KiB segment that begins at the code.
            let base = if case.mode == Mode::Protected16 { CODE } else { 0 };
            cpu.set_segment(seg::CS, Segment { base, ..code });
            cpu.eip = CODE - base;
        }
        if case.paging == Paging::Off {
            return;
        }
        cpu.cr3 = PAGES;
        cpu.cr0 |= cr0::PG;
        match case.paging {
            Paging::Large => cpu.cr4 |= cr4::PSE,
            Paging::Pae => {
                cpu.cr4 |= cr4::PAE;
                cpu.pdpte = [u64::from(PAGES + 0x1000 | 1), 0, 0, 0];
            }
            Paging::Off | Paging::TwoLevels => {}
        }
    }

    /// Runs at most `budget` instructions, and ends what the engine returned for. `false`: the run is over.
    ///
    /// # Panics
    /// If the engine does not keep to its budget, or leaves a state that cannot be.
    pub fn slice(&mut self, budget: u64) -> bool {
        let before = self.cpu.retired;
        let budget = budget.min(TOTAL.saturating_sub(before));
        if budget == 0 {
            return false;
        }
        let exit = self.engine.run(&mut self.cpu, &mut self.mem, &mut self.bus, budget);
        let done = self.cpu.retired - before;
        assert!(done <= budget + OVERRUN, "{done} instructions with a budget of {budget}");
        self.check();
        match exit {
            Exit::Budget => {
                assert!(done > 0, "no progress");
                true
            }
            Exit::Shutdown => false,
            Exit::Request => {
                self.bus.request = false;
                true
            }
            Exit::Halted => {
                // Whoever halts when the run is over anyway must not see the NMI in one way of slicing only.
                if self.cpu.retired < TOTAL {
                    self.bus.nmi = true;
                    self.cpu.nmi_blocked = false;
                    self.halts += 1;
                }
                self.halts < HALTS
            }
        }
    }

    /// Forgets decoded and translated code.
    pub fn flush(&mut self) {
        self.engine.flush(&mut self.mem);
    }

    /// What is derived from other state agrees with it.
    fn check(&self) {
        let c = &*self.cpu;
        assert_eq!(c.mode.code32(), c.seg[seg::CS].is_big(), "size of code");
        assert_eq!(c.mode.stack32(), c.seg[seg::SS].is_big(), "size of the stack");
        assert_eq!(c.gpr[gpr::ZERO], 0, "the register that is no register");
        assert_eq!(c.eflags & flags::FIXED, flags::FIXED, "bit 1 of EFLAGS");
        assert!(c.cpl <= 3);
        if c.vm86() {
            assert_eq!(c.cpl, 3, "VM86 runs at CPL 3");
            for s in &c.seg {
                assert_eq!((s.base, s.limit), (u32::from(s.selector) << 4, 0xFFFF), "a VM86 segment");
            }
        }
        if !c.protected() {
            assert_eq!(c.cpl, 0, "real mode is CPL 0");
            assert!(!c.vm86());
        }
        let aligned = c.cpl == 3 && c.cr0 & cr0::AM != 0 && c.eflags & flags::AC != 0;
        assert_eq!(c.alignment_checked, aligned, "alignment checks");
        assert_eq!(c.debug_armed, c.dr[7] & 0xFF != 0, "breakpoints");
        assert!(c.x87.top <= 7);
    }

    /// What differs from another machine that did the same.
    pub fn difference<F>(&self, other: &Pc<F>) -> Option<String> {
        let (a, b) = (&*self.cpu, &*other.cpu);
        macro_rules! same {
            ($($field:ident)*) => {
                $(if a.$field != b.$field {
                    return Some(format!("{}: {:x?} and {:x?}", stringify!($field), a.$field, b.$field));
                })*
            };
        }
        same! {
            retired eip mode flat_read flat_write cpl int_shadow debug_shadow halted nmi_blocked debug_armed
            alignment_checked debug_hits seg xmm x87 mxcsr cr0 cr2 cr3 cr4 dr pdpte gdtr idtr ldtr tr sysenter_cs
            sysenter_esp sysenter_eip tsc_offset
        }
        // The slots behind the registers are translated code's own.
        if a.gpr[..=gpr::ZERO] != b.gpr[..=gpr::ZERO] {
            return Some(format!("registers: {:x?} and {:x?}", a.gpr, b.gpr));
        }
        if a.eflags() != b.eflags() {
            return Some(format!("eflags: {:x} and {:x}", a.eflags(), b.eflags()));
        }
        if self.bus.seen != other.bus.seen || self.bus.interrupts != other.bus.interrupts {
            return Some("the bus has seen something else".to_owned());
        }
        let (x, y) = (self.mem.ram().as_slice(), other.mem.ram().as_slice());
        if x != y {
            let at = x.iter().zip(y).position(|(x, y)| x != y);
            return Some(format!("memory at {at:x?}"));
        }
        None
    }
}
