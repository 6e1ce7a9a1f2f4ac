//! A small complete machine around a random program: ring 3 with paging, a kernel whose exception
//! handlers halt. Whatever happens ends in a state that can be compared as a whole.

use emu_core::cpu::{CpuState, Segment, cr0, cr4, flags, seg};
use emu_core::engine::{CpuEngine, Exit};
use emu_core::mem::Memory;

use crate::gen_seg::{Kind, Segments};
use crate::{ARENA, ARENA_LEN, CODE, State};
use emu_core::bus::NoBus;

const DIRECTORY: u64 = 0x8_0000;
const TABLE: u64 = 0x8_1000;
const GDT: u32 = 0x9_0000;
const IDT: u32 = 0x9_1000;
const TSS: u32 = 0x9_2000;
const HANDLERS: u32 = 0x9_3000;
const KERNEL_STACK: u32 = 0x9_5000;
/// Table of real-mode interrupt vectors.
const VECTORS: u32 = 0x9_4000;
/// Where real mode and VM86 find their code: these pages themselves, and in VM86 those at [`CODE`].
pub const LOW_CODE: u32 = 0x2_0000;
/// The same for data.
pub const LOW_ARENA: u32 = 0x3_0000;
/// Pages for code.
pub const CODE_PAGES: u32 = 4;

const KERNEL_CS: u16 = 8;
const KERNEL_DS: u16 = 16;
const USER_CS: u16 = 0x1B;
const USER_DS: u16 = 0x23;
const TSS_SELECTOR: u16 = 0x28;
/// FS: base in the arena, no limit.
const BASED: u16 = 0x33;
/// GS: base in the arena, limit of 256 bytes.
const LIMITED: u16 = 0x3B;

/// Where and how long everything is that a program in protected mode can reach, page tables included.
pub const PLACES: [(u32, usize); 4] = [
    (DIRECTORY as u32, 0x2000),
    (GDT, 0x6000),
    (CODE & !0xFFF, CODE_PAGES as usize * 0x1000),
    (ARENA, ARENA_LEN as usize),
];

/// CPU, memory and an engine.
pub struct Rig<E: CpuEngine> {
    /// The processor.
    pub cpu: CpuState,
    /// Its memory.
    pub mem: Memory,
    /// What executes.
    pub engine: E,
    tables: Vec<u8>,
    /// What the programs rely on.
    fixed: Vec<(u32, Vec<u8>)>,
}

fn descriptor(base: u32, limit: u32, attr: u32) -> [u8; 8] {
    let low = (base << 16) | (limit & 0xFFFF);
    let high = (base & 0xFF00_0000) | (limit & 0xF_0000) | ((base >> 16) & 0xFF) | attr << 8;
    (u64::from(high) << 32 | u64::from(low)).to_le_bytes()
}

impl<E: CpuEngine> Rig<E> {
    /// Sets everything up.
    ///
    /// # Errors
    /// The host's when it has no memory.
    pub fn new(engine: E) -> std::io::Result<Self> {
        let mem = Memory::new(4 << 20)?;
        let mut tables = vec![0u8; 0x2000];
        tables[..4].copy_from_slice(&(TABLE as u32 | 0x67).to_le_bytes());
        let mut map = |page: u32, bits: u32| {
            let slot = 0x1000 + (page >> 12) as usize * 4;
            tables[slot..slot + 4].copy_from_slice(&(page | bits).to_le_bytes());
        };
        for n in 0..CODE_PAGES {
            map((CODE & !0xFFF) + n * 0x1000, 7);
        }
        let mut alias = |from: u32, to: u32| {
            let slot = 0x1000 + (from >> 12) as usize * 4;
            tables[slot..slot + 4].copy_from_slice(&(to | 7).to_le_bytes());
        };
        for n in 0..CODE_PAGES {
            alias(LOW_CODE + n * 0x1000, (CODE & !0xFFF) + n * 0x1000);
        }
        // Again and again, so that most 16-bit offsets lead somewhere.
        for n in 0..0x11 {
            alias(LOW_ARENA + n * 0x1000, ARENA + (n * 0x1000) % ARENA_LEN);
        }
        let mut map = |page: u32, bits: u32| {
            let slot = 0x1000 + (page >> 12) as usize * 4;
            tables[slot..slot + 4].copy_from_slice(&(page | bits).to_le_bytes());
        };
        // Neither accessed nor dirty: the tests compare these bits too.
        for page in (ARENA..ARENA + ARENA_LEN).step_by(4096) {
            map(page, 7);
        }
        for page in (0x9_0000..0x9_6000).step_by(4096) {
            map(page, 3);
        }
        let mut gdt = vec![0u8; 8];
        for d in [
            descriptor(0, 0xF_FFFF, 0xC09B),
            descriptor(0, 0xF_FFFF, 0xC093),
            descriptor(0, 0xF_FFFF, 0xC0FB),
            descriptor(0, 0xF_FFFF, 0xC0F3),
            descriptor(TSS, 0x67, 0x0089),
            descriptor(ARENA + 0x100, 0xF_FFFF, 0xC0F3),
            descriptor(ARENA + 0x200, 0xFF, 0x40F3),
        ] {
            gdt.extend_from_slice(&d);
        }
        let mut idt = Vec::new();
        for vector in 0..256u32 {
            let at = HANDLERS + vector;
            idt.extend_from_slice(&(at as u16).to_le_bytes());
            idt.extend_from_slice(&KERNEL_CS.to_le_bytes());
            // 32-bit interrupt gate, DPL 3
            idt.extend_from_slice(&[0, 0xEE]);
            idt.extend_from_slice(&((at >> 16) as u16).to_le_bytes());
        }
        let mut tss = [0u8; 0x68];
        tss[4..8].copy_from_slice(&(KERNEL_STACK + 0x1000).to_le_bytes());
        tss[8..12].copy_from_slice(&u32::from(KERNEL_DS).to_le_bytes());
        tss[0x66..].copy_from_slice(&0x68u16.to_le_bytes());
        let vectors: Vec<u8> = (0..256u32)
            .flat_map(|vector| {
                let at = ((HANDLERS >> 4) as u16).to_le_bytes();
                [vector as u8, 0, at[0], at[1]]
            })
            .collect();
        let fixed = vec![
            (GDT, gdt),
            (IDT, idt),
            (TSS, tss.to_vec()),
            (HANDLERS, vec![0xF4; 256]),
            (VECTORS, vectors),
        ];
        let mut rig = Self { cpu: CpuState::new(), mem, engine, tables, fixed };
        rig.load_fixed();
        Ok(rig)
    }

    /// Puts tables and handlers in place.
    pub fn load_fixed(&mut self) {
        for (at, bytes) in &self.fixed {
            assert!(self.mem.dma_write(u64::from(*at), bytes));
        }
    }

    /// Puts a program and a state in place.
    pub fn load(&mut self, at: u32, code: &[u8], before: &State) {
        let mem = &mut self.mem;
        assert!(mem.dma_write(DIRECTORY, &self.tables));
        assert!(mem.dma_write(u64::from(at), code));
        assert!(mem.dma_write(u64::from(ARENA), &before.arena));
        assert!(mem.dma_write(u64::from(KERNEL_STACK), &[0; 4096]));
        mem.flush_views();
        self.start(at, before);
    }

    /// Puts registers in place; memory stays as it is.
    pub fn start(&mut self, at: u32, before: &State) {
        let cpu = &mut self.cpu;
        let retired = cpu.retired;
        *cpu = CpuState::new();
        cpu.retired = retired;
        cpu.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::ET | cr0::NE | cr0::MP | cr0::AM;
        cpu.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
        cpu.cr3 = DIRECTORY as u32;
        cpu.gdtr.base = GDT;
        cpu.gdtr.limit = 8 * 8 - 1;
        cpu.idtr.base = IDT;
        cpu.idtr.limit = 0x7FF;
        cpu.tr = Segment { base: TSS, limit: 0x67, selector: TSS_SELECTOR, attr: 0x8B };
        for s in 0..6 {
            cpu.set_segment(s, Segment { base: 0, limit: u32::MAX, selector: USER_DS, attr: 0xC0F3 });
        }
        let based = Segment { base: ARENA + 0x100, limit: u32::MAX, selector: BASED, attr: 0xC0F3 };
        cpu.set_segment(seg::FS, based);
        let limited = Segment { base: ARENA + 0x200, limit: 0xFF, selector: LIMITED, attr: 0x40F3 };
        cpu.set_segment(seg::GS, limited);
        cpu.set_segment(seg::CS, Segment { base: 0, limit: u32::MAX, selector: USER_CS, attr: 0xC0FB });
        cpu.cpl = 3;
        self.mem.select_view(true);
        cpu.gpr[..8].copy_from_slice(&before.gpr);
        cpu.set_eflags(before.eflags | 0x202);
        cpu.update_alignment_check();
        before.fp.load(cpu);
        cpu.eip = at;
    }

    /// Changes mode and segments behind [`Rig::start`].
    pub fn set_segments(&mut self, segments: &Segments) {
        let cpu = &mut self.cpu;
        cpu.eip = segments.eip;
        match segments.kind {
            Kind::Protected => {}
            Kind::Vm86 => cpu.set_eflags(cpu.eflags() | flags::VM | segments.iopl << 12),
            Kind::Real => {
                cpu.cr0 = cr0::ET | cr0::NE;
                cpu.cpl = 0;
                cpu.idtr.base = VECTORS;
                cpu.idtr.limit = 0x3FF;
                self.mem.select_view(false);
            }
        }
        for (n, s) in segments.seg.iter().enumerate() {
            self.cpu.set_segment(n, *s);
        }
    }

    /// Runs at most `budget` instructions.
    pub fn run(&mut self, budget: u64) -> Exit {
        self.engine.run(&mut self.cpu, &mut self.mem, &mut NoBus, budget)
    }

    /// Everything the guest can see, except memory.
    pub fn registers(&self) -> String {
        let c = &self.cpu;
        let s: Vec<_> = c.seg.iter().map(|s| (s.selector, s.base, s.limit, s.attr)).collect();
        format!(
            "gpr {:08x?} eip {:08x} eflags {:08x} cpl {} cr2 {:08x} retired {} halted {} seg {s:x?} \
             mxcsr {:x} x87 {:x?} xmm {:x?}",
            &c.gpr[..8],
            c.eip,
            c.eflags(),
            c.cpl,
            c.cr2,
            c.retired,
            c.halted,
            c.mxcsr,
            c.x87,
            c.xmm
        )
    }

    /// Everything in [`PLACES`].
    pub fn memory(&self) -> Vec<u8> {
        let ram = self.mem.ram();
        PLACES.iter().flat_map(|&(at, len)| ram.get(u64::from(at), len).unwrap_or(&[])).copied().collect()
    }

    /// Tables and handlers are as they were put in place; of the TSS and of the GDT, what does not change.
    pub fn is_fixed(&self) -> bool {
        let is_there = |(at, bytes): &(u32, Vec<u8>)| {
            self.mem.ram().get(u64::from(*at), bytes.len()) == Some(bytes.as_slice())
        };
        self.fixed.iter().filter(|(at, _)| !matches!(*at, GDT | TSS)).all(is_there)
    }
}
