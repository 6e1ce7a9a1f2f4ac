//! Random kernels on the interpreter and on translated code: page tables that are edited while they are in
//! use, several address spaces, INVLPG, global and large pages, WP, rings 0 and 3, code that moves and
//! changes, interrupts and their shadows. Registers are compared at every slice, all of memory at the end.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance_tests::gen_int::Rng;
use emu_core::bus::{AccessSize, CpuContext, SystemBus};
use emu_core::cpu::{CpuState, Segment, cr0, seg};
use emu_core::engine::{CpuEngine, Exit};
use emu_core::interp::Interpreter;
use emu_core::mem::Memory;
use emu_jit::{Jit, Options};

const RAM: usize = 4 << 20;
const HANDLERS: u32 = 0x9_0000;
const IDT: u32 = 0x9_1000;
const GDT: u32 = 0x9_2000;
const TSS: u32 = 0x9_3000;
const KERNEL_STACK: u32 = 0x9_6000;
const DATA: u32 = 0x9_7000;
const USER_STACK: u32 = 0x1E_F000;
/// Where an exception goes on.
const RESUME: u32 = DATA;
const SUM: u32 = DATA + 4;
const FAULTS: u32 = DATA + 8;
const CODES: u32 = DATA + 12;
const TICKS: u32 = DATA + 16;
const NMIS: u32 = DATA + 20;
const ROUNDS: u32 = DATA + 24;
/// Three directories; the table of the first 4 MiB, which they share; a table each for the window behind.
const DIRECTORIES: u32 = 0xA_0000;
const KERNEL_TABLE: u32 = 0xA_3000;
const TABLES: u32 = 0xA_4000;
/// Frames that the window shows: data, then functions.
const FRAMES: u32 = 0xB_0000;
const DATA_FRAMES: u32 = 8;
const CODE_FRAMES: u32 = 4;
const WINDOW: u32 = 0x40_0000;
const PAGES: u32 = 12;
const CODE: u32 = 0x10_0000;
const USER_CODE: u32 = 0x1F_0000;

/// Port 80h makes interrupts pending.
#[derive(Default)]
struct Bus {
    interrupt: bool,
    nmi: bool,
    exit: bool,
}

impl SystemBus for Bus {
    fn port_in(&mut self, _: &mut Memory, cx: CpuContext, _: u16, _: AccessSize) -> u32 {
        cx.retired as u32
    }
    fn port_out(&mut self, _: &mut Memory, _: CpuContext, _: u16, _: AccessSize, value: u32) {
        self.interrupt = value & 1 != 0;
        self.nmi |= value & 2 != 0;
        self.exit |= value & 4 != 0;
    }
    fn mmio_read(&mut self, _: &mut Memory, _: CpuContext, _: u64, _: AccessSize) -> u32 {
        0x55
    }
    fn mmio_write(&mut self, _: &mut Memory, _: CpuContext, _: u64, _: AccessSize, _: u32) {}
    fn interrupt_pending(&self) -> bool {
        self.interrupt
    }
    fn ack_interrupt(&mut self, _: &mut Memory, _: CpuContext) -> Option<u8> {
        std::mem::take(&mut self.interrupt).then_some(0x20)
    }
    fn nmi_pending(&self) -> bool {
        self.nmi
    }
    fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi)
    }
    fn must_exit(&self) -> bool {
        self.exit
    }
    fn tsc(&mut self, cx: CpuContext) -> u64 {
        cx.retired
    }
    fn random(&mut self) -> u32 {
        4
    }
}

struct Machine<E> {
    cpu: CpuState,
    mem: Memory,
    engine: E,
    bus: Bus,
}

/// Bytes at addresses.
type Image = Vec<(u32, Vec<u8>)>;

impl<E: CpuEngine> Machine<E> {
    fn new(engine: E) -> Self {
        Self { cpu: CpuState::new(), mem: Memory::new(RAM).unwrap(), engine, bus: Bus::default() }
    }

    fn load(&mut self, image: &Image) {
        assert!(self.mem.dma_write(0, &vec![0; RAM]));
        for (at, bytes) in image {
            assert!(self.mem.dma_write(u64::from(*at), bytes));
        }
        self.mem.flush_views();
        self.bus = Bus::default();
        let retired = self.cpu.retired;
        let cpu = &mut self.cpu;
        *cpu = CpuState::new();
        cpu.retired = retired;
        cpu.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::ET | cr0::NE | cr0::MP;
        cpu.cr4 = 0x90;
        cpu.cr3 = DIRECTORIES;
        cpu.gdtr.base = GDT;
        cpu.gdtr.limit = 0x2F;
        cpu.idtr.base = IDT;
        cpu.idtr.limit = 0x7FF;
        cpu.tr = Segment { base: TSS, limit: 0x67, selector: 0x28, attr: 0x8B };
        cpu.set_segment(seg::CS, Segment { base: 0, limit: u32::MAX, selector: 8, attr: 0xC09B });
        for n in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
            cpu.set_segment(n, Segment { base: 0, limit: u32::MAX, selector: 0x10, attr: 0xC093 });
        }
        cpu.gpr[4] = KERNEL_STACK;
        cpu.eip = CODE;
    }

    fn run(&mut self, budget: u64) -> Exit {
        let exit = self.engine.run(&mut self.cpu, &mut self.mem, &mut self.bus, budget);
        if exit == Exit::Request {
            self.bus.exit = false;
        }
        exit
    }

    fn registers(&self) -> String {
        let c = &self.cpu;
        format!(
            "{:08x?} eip {:08x} eflags {:08x} cpl {} cr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} retired {} shadow {} {} \
             halted {} nmi {} {:x?} pending {} {}",
            &c.gpr[..8],
            c.eip,
            c.eflags(),
            c.cpl,
            c.cr0,
            c.cr2,
            c.cr3,
            c.cr4,
            c.retired,
            c.int_shadow,
            c.debug_shadow,
            c.halted,
            c.nmi_blocked,
            c.seg,
            self.bus.interrupt,
            self.bus.nmi,
        )
    }
}

/// Machine code.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
    /// Opcode bytes with a 32-bit address or immediate behind them.
    fn with(&mut self, opcode: &[u8], value: u32) -> &mut Self {
        self.bytes(opcode).bytes(&value.to_le_bytes())
    }
    /// MOV dword [at], value.
    fn store(&mut self, at: u32, value: u32) -> &mut Self {
        self.with(&[0xC7, 0x05], at).bytes(&value.to_le_bytes())
    }
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u32) as usize]
}

/// An address in the window, sometimes one whose access leaves its page.
fn address(rng: &mut Rng) -> u32 {
    let offset = match rng.below(8) {
        0 => 0xFFD + rng.below(3),
        1 => rng.below(0xFFC),
        _ => 4 * rng.below(0x3FF),
    };
    WINDOW + rng.below(PAGES) * 0x1000 + offset
}

fn frame(rng: &mut Rng) -> u32 {
    FRAMES + rng.below(DATA_FRAMES + CODE_FRAMES) * 0x1000
}

/// One or a few memory accesses.
fn access(rng: &mut Rng, code: &mut Code) {
    let at = address(rng);
    match rng.below(10) {
        0 | 1 => code.with(&[0xA1], at).with(&[0x01, 0x05], SUM),
        2 => code.store(at, rng.next_u64() as u32),
        3 => code.with(&[0xFF, 0x05], at),
        4 => code.with(&[0x0F, 0xB6, 0x05], at).with(&[0x01, 0x05], SUM),
        5 => code.with(&[0x89, 0x0D], at),
        6 => code.with(&[0xBB], at & !3).bytes(&[0x8B, 0x0B, 0x89, 0x4B, 0x04, 0x03, 0x4B, 0x08]),
        7 => code.with(&[0xFF, 0x35], at).bytes(&[0x59]),
        8 => code.with(&[0x0F, 0xB1, 0x0D], at),
        _ => {
            let (from, to) = (address(rng), address(rng));
            let count = if rng.below(6) == 0 { rng.below(0x600) } else { rng.below(20) };
            code.bytes(&[pick(rng, &[0xFC, 0xFC, 0xFC, 0xFD])]);
            code.with(&[0xBE], from).with(&[0xBF], to).with(&[0xB9], count);
            let operation = pick(rng, &[0xA4u8, 0xA5, 0xAA, 0xAB, 0xA6, 0xAE]);
            let repeated: &[u8] = if rng.below(3) == 0 { &[] } else { &[0xF3] };
            code.bytes(repeated).bytes(&[operation, 0xFC])
        }
    };
}

fn page_bits(rng: &mut Rng) -> u32 {
    pick(rng, &[7, 7, 7, 0x67, 0x27, 5, 3, 1, 0, 0x107, 0x167, 0x103, 0x65])
}

fn operation(rng: &mut Rng, code: &mut Code, user: &mut Code) {
    match rng.below(30) {
        0..4 => {
            let table = TABLES + rng.below(3) * 0x1000;
            let value = frame(rng) | page_bits(rng);
            let at = table + rng.below(PAGES) * 4;
            code.store(at, value);
            if rng.below(2) == 0 {
                code.with(&[0x0F, 0x01, 0x3D], WINDOW + (at & 0xFFF) / 4 * 0x1000);
            }
        }
        4 => {
            // A bit of an entry, as an operating system clears A or D.
            let at = TABLES + rng.below(3) * 0x1000 + rng.below(PAGES) * 4;
            code.with(&[0x81, 0x25], at).bytes(&(!pick(rng, &[0x20u32, 0x40, 0x60, 2, 1])).to_le_bytes());
        }
        5 => {
            let directory = DIRECTORIES + rng.below(3) * 0x1000 + 4;
            let table = TABLES + rng.below(3) * 0x1000;
            let value = match rng.below(6) {
                0 => pick(rng, &[0x87, 0x187, 0x83, 0xE7]),
                1 => 0,
                _ => table | pick(rng, &[7, 0x27, 5, 3]),
            };
            code.store(directory, value);
        }
        6 => {
            // The identity map of a frame or of a table of the window.
            let page = if rng.below(3) == 0 { TABLES + rng.below(3) * 0x1000 } else { frame(rng) };
            let bits = pick(rng, &[3, 3, 0x63, 1, 0x163, 0x103]);
            code.store(KERNEL_TABLE + (page >> 12) * 4, page | bits);
        }
        7..10 => {
            code.with(&[0xB8], DIRECTORIES + rng.below(3) * 0x1000).bytes(&[0x0F, 0x22, 0xD8]);
        }
        10 => {
            code.with(&[0x0F, 0x01, 0x3D], address(rng));
        }
        11 => {
            code.bytes(&[0x0F, 0x20, 0xC0]).with(&[0x35], cr0::WP).bytes(&[0x0F, 0x22, 0xC0]);
        }
        12 => {
            code.bytes(&[0x0F, 0x20, 0xE0])
                .with(&[0x35], pick(rng, &[0x80, 0x10]))
                .bytes(&[0x0F, 0x22, 0xE0]);
        }
        13..16 => {
            // To ring 3 and back by INT 30h.
            let target = USER_CODE + user.0.len() as u32;
            for _ in 0..1 + rng.below(4) {
                access(rng, user);
            }
            user.bytes(&[0xCD, 0x30]);
            code.bytes(&[0x6A, 0x23]).with(&[0x68], USER_STACK);
            code.with(&[0x68], pick(rng, &[2, 0x202, 0x8D7])).bytes(&[0x6A, 0x1B]).with(&[0x68], target);
            code.bytes(&[0xCF]);
        }
        16..18 => {
            // A function somewhere in the window, or whatever is there now.
            let page = WINDOW + rng.below(PAGES) * 0x1000;
            code.with(&[0xB8], page + 0x10 * rng.below(4)).bytes(&[0xFF, 0xD0]).with(&[0x01, 0x05], SUM);
        }
        18 => {
            // Its constant changes.
            let function = FRAMES + (DATA_FRAMES + rng.below(CODE_FRAMES)) * 0x1000 + 0x10 * rng.below(4);
            code.with(&[0xC6, 0x05], function + 1).bytes(&[rng.next_u64() as u8]);
        }
        19 | 20 => {
            code.bytes(&[0xB0, pick(rng, &[0, 1, 1, 1, 2, 3, 4]), 0xE6, 0x80]);
        }
        21 | 22 => {
            code.bytes(pick(rng, &[&[0xFBu8][..], &[0xFA], &[0xFB, 0xFA], &[0xFB, 0xFB, 0x40]]));
        }
        23 => {
            code.bytes(&[0x9C, 0x81, 0x34, 0x24]).bytes(&pick(rng, &[0x200u32, 0, 0x8D5]).to_le_bytes());
            code.bytes(&[0x9D]);
        }
        24 => {
            code.bytes(&[0x8C, 0xD0, 0x8E, 0xD0]);
        }
        25 => {
            code.bytes(pick(
                rng,
                &[&[0x1Eu8, 0x1F][..], &[0x06, 0x07], &[0x0F, 0xA0, 0x0F, 0xA1], &[0xE4, 0x81]],
            ));
        }
        _ => access(rng, code),
    }
}

fn descriptor(base: u32, limit: u32, attr: u32) -> u64 {
    let low = (base << 16) | (limit & 0xFFFF);
    let high = (base & 0xFF00_0000) | (limit & 0xF_0000) | ((base >> 16) & 0xFF) | attr << 8;
    u64::from(high) << 32 | u64::from(low)
}

fn kernel(rng: &mut Rng) -> Image {
    let mut image: Image = Vec::new();
    // Handlers: exceptions, INT 30h, interrupt, NMI.
    let mut handlers = Code::default();
    handlers.bytes(&[0x0F, 0x20, 0xD0]).with(&[0x01, 0x05], FAULTS).with(&[0xC1, 0x05], FAULTS).bytes(&[3]);
    handlers.bytes(&[0x58]).with(&[0x01, 0x05], CODES);
    let leave = HANDLERS + handlers.0.len() as u32;
    handlers.with(&[0xBC], KERNEL_STACK).with(&[0xFF, 0x25], RESUME);
    let tick = HANDLERS + handlers.0.len() as u32;
    handlers.with(&[0xFF, 0x05], TICKS).bytes(&[0xCF]);
    let nmi = HANDLERS + handlers.0.len() as u32;
    handlers.with(&[0xFF, 0x05], NMIS).bytes(&[0xCF]);
    image.push((HANDLERS, handlers.0));
    let mut idt = Vec::new();
    for n in 0..256u32 {
        let (target, attr) = match n {
            2 => (nmi, 0x8E00),
            0x20 => (tick, 0x8E00),
            0x30 => (leave, 0xEE00),
            _ => (HANDLERS, 0x8E00),
        };
        idt.extend_from_slice(&(8 << 16 | (target & 0xFFFF)).to_le_bytes());
        idt.extend_from_slice(&((target & 0xFFFF_0000) | attr).to_le_bytes());
    }
    image.push((IDT, idt));
    let gdt = [
        0,
        descriptor(0, 0xF_FFFF, 0xC09B),
        descriptor(0, 0xF_FFFF, 0xC093),
        descriptor(0, 0xF_FFFF, 0xC0FB),
        descriptor(0, 0xF_FFFF, 0xC0F3),
        descriptor(TSS, 0x67, 0x008B),
    ];
    image.push((GDT, gdt.iter().flat_map(|d| d.to_le_bytes()).collect()));
    image.push((TSS + 4, [KERNEL_STACK.to_le_bytes(), 0x10u32.to_le_bytes()].concat()));
    // Page tables.
    let mut table = vec![0u8; 0x1000];
    for n in 0..RAM as u32 >> 12 {
        let page = n << 12;
        let is_user = (USER_STACK - 0x1000..USER_CODE + 0x8000).contains(&page) || page == DATA;
        let bits = if is_user { 7 } else { 3 } | if n % 3 == 0 { 0x100 } else { 0 };
        table[n as usize * 4..][..4].copy_from_slice(&(page | bits).to_le_bytes());
    }
    image.push((KERNEL_TABLE, table));
    for n in 0..3 {
        let mut directory = vec![0u8; 8];
        directory[..4].copy_from_slice(&(KERNEL_TABLE | 7).to_le_bytes());
        directory[4..].copy_from_slice(&((TABLES + n * 0x1000) | 7).to_le_bytes());
        image.push((DIRECTORIES + n * 0x1000, directory));
        let entries: Vec<u8> = (0..PAGES).flat_map(|_| (frame(rng) | page_bits(rng)).to_le_bytes()).collect();
        image.push((TABLES + n * 0x1000, entries));
    }
    // Data, and functions: MOV AL, n; RET.
    for n in 0..DATA_FRAMES {
        let bytes = (0..0x1000).map(|_| rng.next_u64() as u8).collect();
        image.push((FRAMES + n * 0x1000, bytes));
    }
    for n in 0..CODE_FRAMES {
        for k in 0..4 {
            let at = FRAMES + (DATA_FRAMES + n) * 0x1000 + 0x10 * k;
            image.push((at, vec![0xB0, rng.next_u64() as u8, 0xC3]));
        }
    }
    // The program.
    let (mut code, mut user) = (Code::default(), Code::default());
    code.store(ROUNDS, 2 + rng.below(14));
    let start = CODE + code.0.len() as u32;
    for _ in 0..6 + rng.below(40) {
        let at = code.0.len();
        code.store(RESUME, 0);
        operation(rng, &mut code, &mut user);
        let next = CODE + code.0.len() as u32;
        code.0[at + 6..at + 10].copy_from_slice(&next.to_le_bytes());
    }
    code.bytes(&[0xFA]).with(&[0xBC], KERNEL_STACK).with(&[0xFF, 0x0D], ROUNDS);
    let behind = CODE + code.0.len() as u32 + 6;
    code.with(&[0x0F, 0x85], start.wrapping_sub(behind)).bytes(&[0xF4]);
    image.push((CODE, code.0));
    image.push((USER_CODE, user.0));
    image
}

fn compare(seed: u64, default: u32, options: Options, slice: impl Fn(&mut Rng) -> u64) {
    let cases = std::env::var("JIT_CASES").ok().and_then(|s| s.parse().ok()).unwrap_or(default);
    let mut a = Machine::new(Interpreter::new());
    let mut b = Machine::new(Jit::with_options(options).unwrap());
    let mut rng = Rng::new(seed);
    let (mut ends, mut ticks, mut faults) = (0, 0, 0);
    for case in 0..cases {
        let image = kernel(&mut rng);
        a.load(&image);
        b.load(&image);
        for _ in 0..400 {
            let budget = slice(&mut rng);
            let (x, y) = (a.run(budget), b.run(budget));
            let (ra, rb) = (a.registers(), b.registers());
            assert!(
                x == y && ra == rb,
                "seed {seed:#x} case {case}\ninterpreter {x:?} {ra}\ntranslated  {y:?} {rb}"
            );
            if matches!(x, Exit::Halted | Exit::Shutdown) {
                ends += 1;
                break;
            }
        }
        let (ma, mb) = (a.mem.ram().as_slice(), b.mem.ram().as_slice());
        if ma != mb {
            let differ: Vec<_> = ma.iter().zip(mb).enumerate().filter(|(_, (x, y))| x != y).take(8).collect();
            panic!("seed {seed:#x} case {case}: memory {differ:x?}");
        }
        let word = |at: u32| a.mem.dma_read_u32(u64::from(at)).unwrap_or(0);
        ticks += word(TICKS);
        faults += u32::from(word(FAULTS) != 0);
    }
    assert!(ends > cases / 2 && ticks > cases / 4 && faults > cases / 4, "{ends} {ticks} {faults}");
    assert!(b.engine.jit_stats().passed > u64::from(cases), "{:?}", b.engine.jit_stats());
}

fn eager() -> Options {
    Options { threshold: 1, region_threshold: 1, ..Options::default() }
}

#[test]
fn random_kernels_agree_with_the_interpreter() {
    compare(0x21, 1000, eager(), |_| 4000);
}

#[test]
fn random_kernels_agree_at_any_budget() {
    compare(0x22, 600, eager(), |rng| 1 + u64::from(rng.below(40)));
}

#[test]
fn random_kernels_agree_when_the_cache_is_small_and_code_warms_up() {
    compare(0x23, 600, Options { threshold: 3, cache_bytes: 64 << 10, ..eager() }, |_| 1500);
}

#[test]
fn random_kernels_agree_without_native_code_and_without_links() {
    compare(0x24, 400, Options { native: false, link: false, ..eager() }, |_| 1500);
}
