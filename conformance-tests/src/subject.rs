//! Our CPU, set up like a 32-bit process on the host: ring 3 with paging, only code and arena mapped, and
//! the host's descriptors. A kernel takes exceptions and halts: any engine can be asked.

use emu_core::bus::NoBus;
use emu_core::cpu::state::TableReg;
use emu_core::cpu::{CpuState, Segment, cr0, cr4};
use emu_core::engine::{CpuEngine, Exit};
use emu_core::interp::Interpreter;
use emu_core::mem::Memory;

use crate::fp::FpState;
use crate::layout::{CODE_LEN, CS, ENDLESS, EXIT_CS, End, LDT, LEAVE, Processor, Registers, SS, THUNK, run};
use crate::{ARENA, ARENA_LEN, CODE, Fault, Outcome, State};

/// Physical addresses of the kernel's structures. The supervisor sees them from [`KERNEL`] on.
const DIRECTORY: u32 = 0x8_0000;
const USER_TABLE: u32 = 0x8_1000;
const KERNEL_TABLE: u32 = 0x8_2000;
const THUNK_TABLE: u32 = 0x8_3000;
const TABLES: u32 = 0x9_0000;
const THUNK_PAGE: u32 = 0x9_8000;
/// Linear address of [`TABLES`], far from all small numbers.
const KERNEL: u32 = 0xC850_5000;
const KERNEL_PAGES: u32 = 6;
const GDT: u32 = 0;
const LDT_AT: u32 = 0x800;
const IDT: u32 = 0x1000;
const TSS: u32 = 0x2000;
const HANDLERS: u32 = 0x3000;
const STACK_TOP: u32 = 0x5000;

const KERNEL_CS: u16 = 8;
const KERNEL_DS: u16 = 0x18;
/// Of the host's 16 entries; those of TSS and LDT are not visible in ring 3.
const GDT_ENTRIES: [(usize, u64); 6] = [
    (1, 0x00CF_9B00_0000_FFFF),
    (2, 0x00AF_9B00_0000_FFFF),
    (3, 0x00CF_9300_0000_FFFF),
    (4, 0x00CF_FB00_0000_FFFF),
    (5, 0x00CF_F300_0000_FFFF),
    // Of the host this one is 64-bit code.
    (6, 0x00AF_FB00_0000_FFFF),
];
/// Limit of the host's GDT.
const GDT_LIMIT: u16 = 0x7F;
const TSS_SELECTOR: u16 = 0x40;
const LDT_SELECTOR: u16 = 0x50;

/// Instructions and passes of string instructions that a case may take.
const BUDGET: u64 = 300_000;

/// Our CPU, memory and an engine.
pub struct Subject<E: CpuEngine = Interpreter> {
    cpu: CpuState,
    mem: Memory,
    engine: E,
    /// A case may be stopped and resumed after so many instructions, again and again.
    pub slice: u64,
    stored: u32,
}

/// Linear addresses that only one of the two processors has: what touches them cannot be compared.
pub fn is_reserved(lin: u32) -> bool {
    (KERNEL..KERNEL + KERNEL_PAGES * 0x1000).contains(&lin.wrapping_add(64))
        || (THUNK..THUNK + 0x1000).contains(&lin.wrapping_add(64))
        || (KERNEL..KERNEL + KERNEL_PAGES * 0x1000).contains(&lin)
        || (THUNK..THUNK + 0x1000).contains(&lin)
}

/// Loads the hidden part of a segment register as the processor does.
fn load_segment(cpu: &mut CpuState, n: usize, selector: u16) {
    let image = match (selector & 4, usize::from(selector >> 3)) {
        (0, entry) => GDT_ENTRIES.iter().find(|(e, _)| *e == entry).map(|(_, image)| *image),
        (_, entry) => LDT.get(entry).copied().flatten().map(|d| d.image()),
    };
    let segment = match image {
        Some(image) if selector > 3 => Segment::from_descriptor(selector, image as u32, (image >> 32) as u32),
        _ => Segment::null(selector),
    };
    cpu.set_segment(n, segment);
}

impl Subject {
    /// The interpreter.
    ///
    /// # Errors
    /// The host's when it has no memory.
    pub fn new() -> std::io::Result<Self> {
        Self::with_engine(Interpreter::new())
    }
}

impl<E: CpuEngine> Subject<E> {
    /// Any engine.
    ///
    /// # Errors
    /// The host's when it has no memory.
    pub fn with_engine(engine: E) -> std::io::Result<Self> {
        let mut mem = Memory::new(4 << 20)?;
        let mut map = |table: u32, lin: u32, phys: u32, bits: u32| {
            let at = u64::from(table) + u64::from(lin >> 12 & 0x3FF) * 4;
            assert!(mem.dma_write(at, &(phys | bits).to_le_bytes()));
            let at = u64::from(DIRECTORY) + u64::from(lin >> 22) * 4;
            assert!(mem.dma_write(at, &(table | 0x67).to_le_bytes()));
        };
        // Present, writable, user, accessed, dirty.
        for page in (CODE..CODE + CODE_LEN).chain(ARENA..ARENA + ARENA_LEN).step_by(4096) {
            map(USER_TABLE, page & !0xFFF, page & !0xFFF, 0x67);
        }
        map(THUNK_TABLE, THUNK, THUNK_PAGE, 0x65);
        for n in 0..KERNEL_PAGES {
            map(KERNEL_TABLE, KERNEL + n * 0x1000, TABLES + n * 0x1000, 0x63);
        }
        let mut put = |at: u32, bytes: &[u8]| assert!(mem.dma_write(u64::from(TABLES + at), bytes));
        for (n, image) in GDT_ENTRIES {
            put(GDT + 8 * n as u32, &image.to_le_bytes());
        }
        for (n, d) in LDT.iter().enumerate() {
            put(LDT_AT + 8 * n as u32, &d.map_or(0, |d| d.image()).to_le_bytes());
        }
        for vector in 0..256u32 {
            let at = KERNEL + HANDLERS + vector;
            // Ring 3 may call INT3 and INTO only.
            let access = if matches!(vector, 3 | 4) { 0xEE00 } else { 0x8E00 };
            let low = u32::from(KERNEL_CS) << 16 | (at & 0xFFFF);
            put(IDT + 8 * vector, &low.to_le_bytes());
            put(IDT + 8 * vector + 4, &((at & 0xFFFF_0000) | access).to_le_bytes());
        }
        put(TSS + 4, &(KERNEL + STACK_TOP).to_le_bytes());
        put(TSS + 8, &u32::from(KERNEL_DS).to_le_bytes());
        put(TSS + 0x66, &0x68u16.to_le_bytes());
        put(HANDLERS, &[0xF4; 256]);
        assert!(mem.dma_write(u64::from(THUNK_PAGE), &[0xF4; 4096]));
        assert!(mem.dma_write(u64::from(CODE), &[0xF4; CODE_LEN as usize]));
        let mut cpu = CpuState::new();
        cpu.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::ET | cr0::NE | cr0::MP | cr0::AM;
        cpu.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::DE;
        cpu.cr3 = DIRECTORY;
        cpu.gdtr = TableReg { base: KERNEL + GDT, limit: GDT_LIMIT };
        cpu.idtr = TableReg { base: KERNEL + IDT, limit: 0x7FF };
        cpu.ldtr = Segment {
            base: KERNEL + LDT_AT,
            limit: 8 * LDT.len() as u32 - 1,
            selector: LDT_SELECTOR,
            attr: 0x82,
        };
        cpu.tr = Segment { base: KERNEL + TSS, limit: 0x67, selector: TSS_SELECTOR, attr: 0x8B };
        mem.flush_views();
        Ok(Self { cpu, mem, engine, slice: BUDGET, stored: 0 })
    }

    /// The engine.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    fn pushed(&self, n: u32) -> u32 {
        self.mem.dma_read_u32(u64::from(self.cpu.gpr[4].wrapping_sub(KERNEL) + TABLES + 4 * n)).unwrap_or(0)
    }

    /// What the kernel's handler finds.
    fn exception(&self, regs: &mut Registers) -> Fault {
        let vector = self.cpu.eip.wrapping_sub(KERNEL + HANDLERS + 1) as u8;
        let has_error = matches!(vector, 8 | 10..=14 | 17);
        let frame = u32::from(has_error);
        regs.eip = self.pushed(frame);
        regs.seg[CS] = self.pushed(frame + 1) as u16;
        regs.eflags = self.pushed(frame + 2);
        regs.gpr[4] = self.pushed(frame + 3);
        regs.seg[SS] = self.pushed(frame + 4) as u16;
        let cr2 = if vector == 14 { self.cpu.cr2 } else { 0 };
        let error = if has_error { self.pushed(0) } else { 0 };
        Fault { vector, error, cr2, eip: regs.eip }
    }

    /// Runs `code` from the given state to its end.
    pub fn run(&mut self, code: &[u8], before: &State) -> Outcome {
        run(self, code, before)
    }
}

impl<E: CpuEngine> Processor for Subject<E> {
    fn store(&mut self, at: u32, bytes: &[u8]) {
        assert!(self.mem.dma_write(at.into(), bytes));
        if (CODE..CODE + CODE_LEN).contains(&at) {
            // Old blocks are dead; keep what is alive in the caches.
            self.stored += 1;
            if self.stored == 4096 {
                self.stored = 0;
                self.engine.flush(&mut self.mem);
            }
        }
    }

    fn memory(&self, at: u32, len: u32) -> &[u8] {
        self.mem.dma_slice(at.into(), len as usize).unwrap_or(&[])
    }

    fn exec(&mut self, before: &Registers, fp: bool) -> End {
        self.begin(before, fp);
        let end = self.cpu.retired + BUDGET;
        let exit = loop {
            let left = end.saturating_sub(self.cpu.retired);
            let exit = self.engine.run(&mut self.cpu, &mut self.mem, &mut NoBus, self.slice.min(left));
            if exit != Exit::Budget || self.cpu.retired >= end {
                break exit;
            }
        };
        self.end(before, fp, exit)
    }
}

impl<E: CpuEngine> Subject<E> {
    /// Runs a case an instruction at a time and shows each before it is executed: its linear address, whether
    /// it is 32-bit code, and what is in memory there. Ends where the case does, or after some thousands.
    pub fn trace(&mut self, before: &Registers, fp: bool, show: &mut dyn FnMut(u32, bool, &[u8])) {
        const LONGEST: u32 = 10_000;
        self.begin(before, fp);
        for _ in 0..LONGEST {
            let cs = &self.cpu.seg[CS];
            let lin = cs.base.wrapping_add(self.cpu.eip);
            let places = [(CODE, CODE_LEN), (ARENA, ARENA_LEN)];
            let place = places.iter().find(|(at, len)| lin.wrapping_sub(*at) < *len);
            let Some((at, len)) = place.filter(|_| self.cpu.cpl == 3) else { return };
            show(lin, cs.is_big(), self.memory(lin, (at + len - lin).min(15)));
            if self.engine.run(&mut self.cpu, &mut self.mem, &mut NoBus, 1) != Exit::Budget {
                return;
            }
        }
    }

    /// Puts registers in place.
    fn begin(&mut self, before: &Registers, fp: bool) {
        let cpu = &mut self.cpu;
        cpu.gpr[..8].copy_from_slice(&before.gpr);
        cpu.cpl = 3;
        cpu.halted = false;
        cpu.set_eflags(before.eflags | 0x202);
        cpu.update_alignment_check();
        for (n, selector) in before.seg.into_iter().enumerate() {
            if cpu.seg[n].selector != selector || cpu.alignment_checked {
                load_segment(cpu, n, selector);
            }
        }
        if fp {
            before.fp.load(cpu);
        }
        cpu.eip = before.eip;
        self.mem.select_view(true);
    }

    /// What came of it.
    fn end(&self, before: &Registers, fp: bool, exit: Exit) -> End {
        let cpu = &self.cpu;
        let mut regs = Registers { eip: cpu.eip, eflags: cpu.eflags(), ..Registers::default() };
        regs.gpr.copy_from_slice(&cpu.gpr[..8]);
        for (n, s) in cpu.seg.iter().enumerate() {
            regs.seg[n] = s.selector;
        }
        regs.fp = if fp { FpState::of(cpu) } else { before.fp.clone() };
        let fault = match exit {
            Exit::Halted => {
                let fault = self.exception(&mut regs);
                let regular = fault.vector == 13 && fault.eip == LEAVE && regs.seg[CS] == EXIT_CS;
                if regular {
                    // The handler's frame has it set for HLT.
                    regs.eflags &= !emu_core::cpu::flags::RF;
                }
                (!regular).then_some(fault)
            }
            _ => Some(Fault { vector: ENDLESS, error: 0, cr2: 0, eip: regs.eip }),
        };
        End { regs, fault }
    }
}
