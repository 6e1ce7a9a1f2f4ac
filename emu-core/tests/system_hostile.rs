//! Random code, descriptor tables, TSSs and page tables: whatever a guest does, the engine neither
//! panics nor runs past its budget, and derived state stays consistent.

mod common;

use common::*;
use emu_core::cpu::{cr0, seg};
use emu_core::engine::{CpuEngine, Exit};

/// xorshift64*: reproducible, no dependency.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    fn below(&mut self, n: u32) -> u32 {
        self.next() % n
    }

    fn pick(&mut self, values: &[u8]) -> u8 {
        values[self.below(values.len() as u32) as usize]
    }
}

/// First opcode bytes of the system instructions, prefixes, and what moves ESP.
const OPCODES: &[u8] = &[
    0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, 0x26, 0x2E, 0x36, 0x3E, 0x50, 0x54, 0x58, 0x5C, 0x60, 0x61,
    0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x6C, 0x6D, 0x6E, 0x6F, 0x8C, 0x8E, 0x90, 0x9A, 0x9C, 0x9D, 0x9E,
    0x9F, 0xC4, 0xC5, 0xC8, 0xC9, 0xCA, 0xCB, 0xCC, 0xCD, 0xCE, 0xCF, 0xE4, 0xE6, 0xEA, 0xEC, 0xEE, 0xEF,
    0xF0, 0xF1, 0xF3, 0xF4, 0xFA, 0xFB, 0xFF, 0xB8, 0xB9, 0xBC, 0x89, 0x8B, 0xC7,
];
const OPCODES_0F: &[u8] = &[
    0x00, 0x01, 0x02, 0x03, 0x06, 0x08, 0x09, 0x0B, 0x20, 0x21, 0x22, 0x23, 0x30, 0x31, 0x32, 0x34, 0x35,
    0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xB2, 0xB4, 0xB5, 0xC7,
];

fn random_code(m: &mut Machine, r: &mut Random, at: u32) {
    let mut bytes = Vec::new();
    while bytes.len() < 0x800 {
        match r.below(4) {
            0 => bytes.push(r.next() as u8),
            1 => bytes.extend([0x0F, r.pick(OPCODES_0F)]),
            _ => bytes.push(r.pick(OPCODES)),
        }
        for _ in 0..r.below(4) {
            // Mostly small numbers: selectors and displacements that name something.
            bytes.push(if r.below(2) == 0 { (r.below(24) * 8 + r.below(4)) as u8 } else { r.next() as u8 });
        }
    }
    m.write(at, &bytes);
}

fn random_tables(m: &mut Machine, r: &mut Random) {
    for _ in 0..r.below(6) {
        let selector = (r.below(24) * 8) as u16;
        let kind = if r.below(3) == 0 { r.next() & 0xFF } else { 0x80 | r.next() & 0x7F };
        let d = if r.below(2) == 0 {
            descriptor(r.next() & 0x3_F000, r.next() & 0xF_FFFF, kind, r.below(16))
        } else {
            gate((r.below(24) * 8 + r.below(4)) as u16, r.next() & 0x3_FFFF, kind, r.below(32))
        };
        m.set_gdt(selector, d);
    }
    for _ in 0..r.below(20) {
        let d = gate((r.below(24) * 8) as u16, CODE + r.below(0x800), 0x80 | r.next() & 0x7F, 0);
        m.set_idt(r.below(32) as u8, d);
    }
    for _ in 0..r.below(10) {
        let v = if r.below(2) == 0 { r.below(24) * 8 } else { r.next() & 0x3_FFFF };
        m.write_u32(TSS + r.below(26) * 4, v);
    }
}

fn random_machine(seed: u64) -> Machine {
    let mut r = Random(seed | 1);
    let mut m = match r.below(5) {
        0 => Machine::real(),
        1 => Machine::vm86(r.below(4)),
        2 => Machine::user(),
        _ => Machine::protected(),
    };
    if m.cpu.protected() {
        random_tables(&mut m, &mut r);
        if r.below(2) == 0 {
            m.enable_paging();
            for _ in 0..r.below(8) {
                let lin = r.below(0x40) << 12;
                m.set_pte(lin, (r.below(0x40) << 12) | (r.next() & 0xFFF));
            }
            m.cpu.cr0 |= if r.below(2) == 0 { cr0::WP } else { 0 };
        }
        m.set_cr4(r.next() & 0x1F & r.next());
    }
    if r.below(4) == 0 {
        m.cpu.dr[0] = CODE + r.below(0x100);
        m.cpu.dr[7] = 0x402 | r.next() & 0xF_0000;
        emu_core::cpu::debug_regs::update_armed(&mut m.cpu);
    }
    random_code(&mut m, &mut r, CODE);
    random_code(&mut m, &mut r, HANDLERS);
    for n in 0..8 {
        let v = match r.below(4) {
            0 | 1 => r.next(),
            2 => DATA + r.below(0x1000),
            // Stores change the code that runs.
            _ => CODE + r.below(0x100),
        };
        if n != 4 {
            m.set(n, v);
        }
    }
    for _ in 0..r.below(4) {
        m.bus.interrupts.push_back(r.below(64) as u8);
    }
    m.bus.trigger = Some(r.below(256) as u16);
    m
}

fn run_one(seed: u64) {
    let mut m = random_machine(seed);
    for _ in 0..20 {
        let before = m.cpu.retired;
        let exit = m.run(50);
        assert!(m.cpu.retired - before <= 53, "budget exceeded: {}", m.cpu.retired - before);
        check_state(&m);
        match exit {
            Exit::Shutdown => return,
            Exit::Halted => {
                m.bus.nmi = true;
                m.cpu.nmi_blocked = false;
            }
            _ => {}
        }
    }
}

/// What is derived from other state agrees with it.
fn check_state(m: &Machine) {
    let c = &m.cpu;
    assert_eq!(c.mode.code32(), c.seg[seg::CS].is_big());
    assert_eq!(c.mode.stack32(), c.seg[seg::SS].is_big());
    assert_eq!(c.gpr[8], 0);
    assert_eq!(c.eflags & 2, 2);
    assert!(c.cpl <= 3);
    if c.vm86() {
        assert_eq!(c.cpl, 3);
        for s in &c.seg {
            assert_eq!((s.base, s.limit), (u32::from(s.selector) << 4, 0xFFFF));
        }
    }
    if !c.protected() {
        assert_eq!(c.cpl, 0);
        assert!(!c.vm86());
    } else if !c.vm86() && c.seg[seg::CS].is_present() && c.seg[seg::CS].selector & 3 != 0 {
        assert_eq!(u16::from(c.cpl), c.seg[seg::CS].selector & 3);
    }
    assert_eq!(c.alignment_checked, c.cpl == 3 && c.cr0 & cr0::AM != 0 && c.eflags & (1 << 18) != 0);
    assert_eq!(c.debug_armed, c.dr[7] & 0xFF != 0);
}

#[test]
fn random_guests_neither_panic_nor_exceed_their_budget() {
    for seed in 1..1500u64 {
        let result = std::panic::catch_unwind(|| run_one(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        assert!(result.is_ok(), "seed {seed}");
    }
}

/// State and RAM after (about) 600 instructions in slices of at most `budget`; a halt ends with an NMI.
/// `forgetful`: nothing that was decoded outlasts its slice.
fn run_sliced(seed: u64, budget: u64, forgetful: bool) -> (String, Vec<u8>) {
    const TOTAL: u64 = 600;
    let mut m = random_machine(seed);
    while m.cpu.retired < TOTAL {
        if forgetful {
            m.engine.flush(&mut m.mem);
        }
        match m.run(budget.min(TOTAL - m.cpu.retired)) {
            Exit::Shutdown => break,
            Exit::Halted if m.cpu.retired < TOTAL => {
                m.bus.nmi = true;
                m.cpu.nmi_blocked = false;
            }
            _ => {}
        }
    }
    let c = &m.cpu;
    let state = format!(
        "retired {} eip {:x} eflags {:x} gpr {:x?} seg {:x?} cr {:x} {:x} {:x} {:x} dr {:x?} cpl {} halted {} {:?} {:?} {:?}",
        c.retired,
        c.eip,
        c.eflags(),
        c.gpr,
        c.seg,
        c.cr0,
        c.cr2,
        c.cr3,
        c.cr4,
        c.dr,
        c.cpl,
        c.halted,
        m.bus.outs,
        m.bus.interrupts,
        m.engine.stats().exceptions,
    );
    let mut memory = vec![0; 0x11_0000];
    assert!(m.mem.dma_read(0, &mut memory));
    (state, memory)
}

#[test]
fn random_guests_run_alike_in_slices_of_any_size_and_without_cached_code() {
    for seed in 1..300u64 {
        let seed = seed.wrapping_mul(0xD134_2543_DE82_EF95);
        let (want, memory) = run_sliced(seed, u64::MAX, false);
        for (budget, forgetful) in [(7, false), (1, false), (1, true)] {
            let (got, same) = run_sliced(seed, budget, forgetful);
            assert_eq!(got, want, "seed {seed:x} budget {budget} forgetful {forgetful}");
            assert!(same == memory, "seed {seed:x} budget {budget} forgetful {forgetful}");
        }
    }
}
