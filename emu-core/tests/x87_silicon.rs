//! Every x87 instruction against the processor the test runs on: from a random state of the whole unit
//! (registers, tags, status, control) both execute one instruction, and all of the state and the memory
//! operand must agree afterwards. The pointers of the last instruction are not compared: they are host
//! addresses there. `SOFTFLOAT_CASES=100` runs a hundred times as many cases.
//!
//! Values of the transcendental functions may deviate by one unit in the last place, as vendors' do. What
//! the SDM leaves undefined follows AMD's processors (docs/quirks.md) and is not compared on others.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "the oracle is inline assembly")]

#[allow(dead_code, reason = "shared with another test")]
#[path = "softfloat_silicon/operands.rs"]
mod operands;
mod x87_support;

use emu_core::cpu::Trap;
use emu_core::cpu::flags::{self, Flags};
use emu_core::cpu::gpr::{EAX, EDI};
use emu_core::cpu::state::{X87, X87Reg};
use emu_core::decode::Insn;
use emu_core::decode::iced::{Decode, decode};
use emu_core::softfloat::{Env, F80};
use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic};
use operands::{Random, scaled};
use std::mem::offset_of;
use x87_support::Machine;

/// Size of the largest memory operand, rounded up.
const OPERAND: usize = 112;
/// What FRSTOR and FNSAVE transfer.
const IMAGE: usize = 108;
/// Guest address of the memory operand.
const AT: u32 = 0x2000;
/// Start of the pointers in the image, and their end.
const POINTERS: std::ops::Range<usize> = 12..28;

/// What one native run starts from and leaves.
#[repr(C)]
#[derive(Clone)]
struct Frame {
    operand: [u8; OPERAND],
    before: [u8; IMAGE],
    after: [u8; IMAGE],
    control: u16,
    flags: u64,
    rax: u64,
}

type Native = fn(&mut Frame);

/// Runs the instruction `OP MODRM`, whose memory operand is at RDI, from a state without pending
/// exceptions (or without waiting for them).
fn native<const OP: u8, const MODRM: u8>(frame: &mut Frame) {
    let (flags, rax): (u64, u64);
    // SAFETY: the block changes nothing but the frame, the named registers and the x87, which ends
    // empty and with the control word it had. The tested instruction is an x87 instruction (the
    // caller's duty) that touches at most `OPERAND` bytes at RDI, the frame's first field. FNSAVE does
    // not wait, so that exceptions which it leaves pending are never delivered. Of the flags only
    // arithmetic ones are set, and the stack pointer is back where it was.
    unsafe {
        core::arch::asm!(
            "fnstcw [rsi + {control}]",
            "push {flags}",
            "popfq",
            "frstor [rsi + {before}]",
            ".byte {op}, {modrm}",
            "fnsave [rsi + {after}]",
            "pushfq",
            "pop {flags}",
            "fldcw [rsi + {control}]",
            op = const OP,
            modrm = const MODRM,
            control = const offset_of!(Frame, control),
            before = const offset_of!(Frame, before),
            after = const offset_of!(Frame, after),
            flags = inout(reg) frame.flags => flags,
            inout("rax") frame.rax => rax,
            in("rdi") core::ptr::from_mut(frame),
            in("rsi") core::ptr::from_mut(frame),
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    frame.flags = flags;
    frame.rax = rax;
}

macro_rules! row {
    ($op:literal) => {
        row!($op:
            0x07 0x0f 0x17 0x1f 0x27 0x2f 0x37 0x3f
            0xc0 0xc1 0xc2 0xc3 0xc4 0xc5 0xc6 0xc7 0xc8 0xc9 0xca 0xcb 0xcc 0xcd 0xce 0xcf
            0xd0 0xd1 0xd2 0xd3 0xd4 0xd5 0xd6 0xd7 0xd8 0xd9 0xda 0xdb 0xdc 0xdd 0xde 0xdf
            0xe0 0xe1 0xe2 0xe3 0xe4 0xe5 0xe6 0xe7 0xe8 0xe9 0xea 0xeb 0xec 0xed 0xee 0xef
            0xf0 0xf1 0xf2 0xf3 0xf4 0xf5 0xf6 0xf7 0xf8 0xf9 0xfa 0xfb 0xfc 0xfd 0xfe 0xff)
    };
    ($op:literal: $($modrm:literal)*) => { [$(([$op, $modrm], native::<$op, $modrm> as Native)),*] };
}

/// Every encoding with a register, and every memory form with EDI.
const ENCODINGS: [[([u8; 2], Native); 72]; 8] =
    [row!(0xd8), row!(0xd9), row!(0xda), row!(0xdb), row!(0xdc), row!(0xdd), row!(0xde), row!(0xdf)];

fn is_memory(modrm: u8) -> bool {
    modrm < 0xc0
}

/// Signals exceptions that are pending before it.
fn waits(mnemonic: Mnemonic) -> bool {
    !matches!(
        mnemonic,
        Mnemonic::Fninit
            | Mnemonic::Fnclex
            | Mnemonic::Fnstcw
            | Mnemonic::Fnstsw
            | Mnemonic::Fnstenv
            | Mnemonic::Fnsave
            | Mnemonic::Fneni
            | Mnemonic::Fndisi
            | Mnemonic::Fnsetpm
    )
}

/// Its values may deviate.
fn is_transcendental(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::F2xm1
            | Mnemonic::Fyl2x
            | Mnemonic::Fyl2xp1
            | Mnemonic::Fptan
            | Mnemonic::Fpatan
            | Mnemonic::Fsin
            | Mnemonic::Fcos
            | Mnemonic::Fsincos
    )
}

/// A control word: every exception masked for half of them.
fn control(random: &mut Random) -> u16 {
    let masks = match random.below(8) {
        0..=3 => 0x3f,
        4..=5 => 0x3f & !(1 << random.below(6)),
        6 => random.next() as u16 & 0x3f,
        _ => 0,
    };
    0x40 | masks | (random.next() as u16 & 0x1f00)
}

/// A state of the unit; register `other` relates to ST(0).
fn state(random: &mut Random, other: u8, may_pend: bool) -> X87 {
    let mut x87 = X87::reset();
    x87.control = control(random);
    x87.top = random.below(8) as u8;
    x87.status = random.next() as u16 & 0x477f;
    if !may_pend {
        x87.status &= !0x3f | x87.control;
    }
    x87.valid = match random.below(8) {
        0 => random.next() as u8,
        1 => !(1 << random.below(8)),
        2 => 0xff,
        3 => 0,
        // A stack that grew to a depth.
        _ => (0xff00_u16 >> random.below(9)) as u8,
    };
    if x87.valid != 0 && random.below(4) != 0 {
        // Mostly with a valid top and an empty register above it.
        while x87.valid >> x87.top & 1 == 0 {
            x87.top = (x87.top + 1) & 7;
        }
        if random.below(2) == 0 {
            while x87.valid >> ((x87.top + 7) & 7) & 1 != 0 && x87.valid != 0xff {
                x87.top = (x87.top + 7) & 7;
            }
        }
    }
    for reg in &mut x87.regs {
        *reg = register(random.f80());
    }
    let (a, b) = random.f80_pair();
    x87.regs[usize::from(x87.top)] = register(a);
    x87.regs[usize::from((x87.top + other) & 7)] = register(b);
    x87
}

fn register(value: F80) -> X87Reg {
    X87Reg { significand: value.sig, sign_exponent: value.se, pad: [0; 3] }
}

/// The state as FRSTOR loads it, without pointers.
fn image(x87: &X87) -> [u8; IMAGE] {
    let mut image = [0; IMAGE];
    image[0..2].copy_from_slice(&x87.control.to_le_bytes());
    image[4..6].copy_from_slice(&(x87.status | u16::from(x87.top) << 11).to_le_bytes());
    let tags = (0..8).fold(0u16, |tags, n| tags | (3 * u16::from(x87.valid >> n & 1 == 0)) << (2 * n));
    image[8..10].copy_from_slice(&tags.to_le_bytes());
    for n in 0..8 {
        let reg = &x87.regs[(usize::from(x87.top) + n) & 7];
        let at = 28 + 10 * n;
        image[at..at + 8].copy_from_slice(&reg.significand.to_le_bytes());
        image[at + 8..at + 10].copy_from_slice(&reg.sign_exponent.to_le_bytes());
    }
    image
}

/// A memory operand for the instruction.
fn operand(random: &mut Random, mnemonic: Mnemonic, size: usize, float: bool, top: F80) -> [u8; OPERAND] {
    let mut bytes = [0xa5; OPERAND];
    let near_top = random.below(4) == 0;
    let mut env = Env::DEFAULT;
    let put = |bytes: &mut [u8; OPERAND], value: &[u8]| bytes[..value.len()].copy_from_slice(value);
    match (mnemonic, size) {
        (Mnemonic::Fldcw, _) => put(&mut bytes, &(random.next() as u16).to_le_bytes()),
        (Mnemonic::Fldenv | Mnemonic::Frstor, _) => {
            put(&mut bytes, &image(&state(random, 1, true)));
            let (status, control) = (random.next() as u16, random.next() as u16);
            bytes[0..2].copy_from_slice(&control.to_le_bytes());
            bytes[4..6].copy_from_slice(&status.to_le_bytes());
            if random.below(2) == 0 {
                bytes[8..10].copy_from_slice(&(random.next() as u16).to_le_bytes());
            }
        }
        (Mnemonic::Fbld, _) => {
            let mut digits = F80::from_i64(random.below(1_000_000_000_000_000_000) as i64).to_bcd(&mut env);
            digits[9] = random.next() as u8;
            put(&mut bytes, &digits);
        }
        (_, 10) => put(&mut bytes, &random.f80().to_bytes()),
        (_, 4) if float => {
            let value = if near_top { top.to_f32(&mut env).0 } else { random.binary(8, 23) as u32 };
            put(&mut bytes, &value.to_le_bytes());
        }
        (_, 8) if float => {
            let value = if near_top { top.to_f64(&mut env).0 } else { random.binary(11, 52) };
            put(&mut bytes, &value.to_le_bytes());
        }
        _ => {
            let shift = random.below(64) as u32;
            let value = if near_top { top.to_i64(&mut env) as u64 } else { random.significand() >> shift };
            put(&mut bytes, &value.to_le_bytes());
        }
    }
    bytes
}

/// Whether the host is one of those whose undefined behaviour is ours.
fn host_is_amd() -> bool {
    // No other vendor has SSE4A.
    std::is_x86_feature_detected!("sse4a")
}

/// Condition codes that the SDM leaves undefined.
fn undefined_codes(mnemonic: Mnemonic) -> u16 {
    const C0: u16 = 1 << 8;
    const C1: u16 = 1 << 9;
    const C2: u16 = 1 << 10;
    const C3: u16 = 1 << 14;
    match mnemonic {
        Mnemonic::Fcom
        | Mnemonic::Fcomp
        | Mnemonic::Fcompp
        | Mnemonic::Fucom
        | Mnemonic::Fucomp
        | Mnemonic::Fucompp
        | Mnemonic::Ficom
        | Mnemonic::Ficomp
        | Mnemonic::Ftst
        | Mnemonic::Fxam
        | Mnemonic::Fldenv
        | Mnemonic::Frstor
        | Mnemonic::Fnsave
        | Mnemonic::Fninit
        | Mnemonic::Fnstsw => 0,
        Mnemonic::Ffree | Mnemonic::Ffreep | Mnemonic::Fnop | Mnemonic::Fnclex | Mnemonic::Fldcw => {
            C0 | C1 | C2 | C3
        }
        Mnemonic::Fprem | Mnemonic::Fprem1 => C0 | C1 | C3,
        Mnemonic::Fsin | Mnemonic::Fcos | Mnemonic::Fsincos | Mnemonic::Fptan => C0 | C3,
        _ => C0 | C2 | C3,
    }
}

/// The SDM does not define the instruction, or not for this operand.
fn is_undefined(mnemonic: Mnemonic, top: F80) -> bool {
    match mnemonic {
        Mnemonic::Fstpnce | Mnemonic::Ffreep => true,
        Mnemonic::F2xm1 => (0x3fff..0x7fff).contains(&top.exponent()),
        Mnemonic::Fyl2xp1 => (0x3ffd..0x7fff).contains(&top.exponent()),
        _ => false,
    }
}

/// The order of an image among the numbers of its sign.
fn position(a: F80) -> i128 {
    let magnitude = i128::from(a.exponent()) << 63 | i128::from(a.sig & !(1 << 63));
    if a.is_negative() { -magnitude } else { magnitude }
}

fn is_ordinary(a: F80) -> bool {
    a.exponent() != 0x7fff && a.sig != 0
}

fn close(ours: F80, silicon: F80) -> bool {
    ours == silicon
        || ((is_ordinary(ours) || is_ordinary(silicon)) && (position(ours) - position(silicon)).abs() <= 1)
}

/// Makes registers that differ by one unit in the last place equal, with what may follow from that.
fn forgive(ours: &[u8; IMAGE], silicon: &mut [u8; IMAGE]) {
    let mut deviates = false;
    for at in (28..IMAGE).step_by(10) {
        let value = |image: &[u8; IMAGE]| F80::from_bytes(image[at..at + 10].try_into().unwrap());
        let (a, b) = (value(ours), value(silicon));
        if a != b && close(a, b) {
            deviates = true;
            silicon[at..at + 10].copy_from_slice(&ours[at..at + 10]);
        }
    }
    // Rounding up (C1). A deviation may lie across an end of the normal numbers: overflow, underflow,
    // their summary if unmasked, and tags.
    const FORGIVEN: [u8; 2] = [0x18 | 0x80, 0x82];
    if deviates {
        silicon[8..10].copy_from_slice(&ours[8..10]);
        for (n, mask) in FORGIVEN.iter().enumerate() {
            silicon[4 + n] = silicon[4 + n] & !mask | ours[4 + n] & mask;
        }
    } else {
        // C1 tells whether the value before rounding was above or below, which approximations know only
        // roughly, and of one of two results.
        silicon[5] = silicon[5] & !2 | ours[5] & 2;
    }
}

fn describe(image: &[u8; IMAGE]) -> String {
    let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let registers: Vec<String> = (28..IMAGE)
        .step_by(10)
        .map(|at| {
            let value = F80::from_bytes(image[at..at + 10].try_into().unwrap());
            format!("{:04x}:{:016x}", value.se, value.sig)
        })
        .collect();
    format!("cw {:04x} sw {:04x} tags {:04x} {}", word(0), word(4), word(8), registers.join(" "))
}

/// Runs `cases` random states through one encoding; returns the first differences.
fn check(machine: &mut Machine, (bytes, run): ([u8; 2], Native), cases: u32) -> Vec<String> {
    let mut differences = Vec::new();
    let mut random = Random::new(u64::from(u16::from_be_bytes(bytes)));
    let instruction = Decoder::new(32, &bytes, DecoderOptions::NONE).decode();
    let mnemonic = instruction.mnemonic();
    let memory = is_memory(bytes[1]);
    let size = instruction.memory_size().size();
    let float = matches!(bytes[0], 0xd8 | 0xd9 | 0xdc | 0xdd) && mnemonic != Mnemonic::Fisttp;
    let other = if memory || matches!(bytes[1], 0xd9 | 0xe0..=0xff) && bytes[0] & 3 != 0 && bytes[0] != 0xde {
        1
    } else {
        bytes[1] & 7
    };
    let amd = host_is_amd();
    for _ in 0..scaled(cases) {
        let before = state(&mut random, other, !waits(mnemonic));
        let top = before.regs[usize::from(before.top)];
        let top = F80 { sig: top.significand, se: top.sign_exponent };
        let mut frame = Frame {
            operand: operand(&mut random, mnemonic, size, float, top),
            before: image(&before),
            after: [0; IMAGE],
            control: 0,
            flags: 0x202 | random.next() & u64::from(flags::ARITH),
            rax: random.next() & 0xffff_ffff,
        };
        if !amd && is_undefined(mnemonic, top) {
            continue;
        }
        let start = frame.clone();

        machine.cpu.x87 = before;
        machine.cpu.flags = Flags::set(start.flags as u32);
        machine.cpu.gpr[EAX] = start.rax as u32;
        machine.cpu.gpr[EDI] = AT;
        machine.set_bytes(u64::from(AT), &start.operand);
        machine.execute(&bytes).unwrap();
        let mut ours_operand: [u8; OPERAND] = machine.bytes(u64::from(AT), OPERAND).try_into().unwrap();
        machine.cpu.gpr[EDI] = AT + 0x100;
        machine.execute(&[0xdd, 0x37]).unwrap();
        let mut ours: [u8; IMAGE] = machine.bytes(u64::from(AT) + 0x100, IMAGE).try_into().unwrap();

        run(&mut frame);
        ours[POINTERS].fill(0);
        frame.after[POINTERS].fill(0);
        if matches!(mnemonic, Mnemonic::Fnstenv | Mnemonic::Fnsave) {
            ours_operand[POINTERS].fill(0);
            frame.operand[POINTERS].fill(0);
        }
        if is_transcendental(mnemonic) {
            forgive(&ours, &mut frame.after);
        }
        if !amd {
            // Vendors also differ in the precision and underflow of transcendental results that are exact.
            let precision = if is_transcendental(mnemonic) { 0x80b0 } else { 0 };
            let mask = (undefined_codes(mnemonic) | precision).to_le_bytes();
            for (n, mask) in mask.iter().enumerate() {
                frame.after[4 + n] = frame.after[4 + n] & !mask | ours[4 + n] & mask;
            }
        }
        if matches!(mnemonic, Mnemonic::Fcomi | Mnemonic::Fcomip | Mnemonic::Fucomi | Mnemonic::Fucomip) {
            // Always 0 by the SDM; AMD's processors leave it alone.
            frame.after[5] &= !2;
        }
        let ours_flags = machine.cpu.flags.get();
        let flags = frame.flags as u32 & flags::ARITH;
        let eax = machine.cpu.gpr[EAX];
        if ours != frame.after
            || ours_operand != frame.operand
            || ours_flags != flags
            || eax != frame.rax as u32
        {
            differences.push(format!(
                "{mnemonic:?} {bytes:02x?}\n  start   {} {:02x?}\n  ours    {} {:02x?} eax {eax:08x} flags \
                     {ours_flags:03x}\n  silicon {} {:02x?} eax {:08x} flags {flags:03x}",
                describe(&start.before),
                &start.operand[..size],
                describe(&ours),
                &ours_operand[..size],
                describe(&frame.after),
                &frame.operand[..size],
                frame.rax,
            ));
            if differences.len() == 3 {
                break;
            }
        }
    }
    differences
}

/// Whether iced, and so the interpreter, knows the instruction.
fn is_defined(bytes: [u8; 2]) -> bool {
    Decoder::new(32, &bytes, DecoderOptions::NONE).decode().code() != Code::INVALID
}

/// Checks the encodings of one first opcode byte.
fn check_row(op: u8) {
    let mut machine = Machine::new();
    let mut differences = Vec::new();
    for (bytes, run) in ENCODINGS[usize::from(op & 7)] {
        if !is_defined(bytes) {
            assert_eq!(machine.execute(&bytes), Err(Trap::UD), "{bytes:02x?}");
            continue;
        }
        // Instructions with ST(i) share their cases.
        let alone = is_memory(bytes[1]) || (op & 7 == 1 && bytes[1] >= 0xe0);
        differences.extend(check(&mut machine, (bytes, run), if alone { 20_000 } else { 5000 }));
    }
    assert!(differences.is_empty(), "differences:\n{}", differences.join("\n"));
}

#[test]
fn d8_instructions_match_silicon() {
    check_row(0xd8);
}

#[test]
fn d9_instructions_match_silicon() {
    check_row(0xd9);
}

#[test]
fn da_instructions_match_silicon() {
    check_row(0xda);
}

#[test]
fn db_instructions_match_silicon() {
    check_row(0xdb);
}

#[test]
fn dc_instructions_match_silicon() {
    check_row(0xdc);
}

#[test]
fn dd_instructions_match_silicon() {
    check_row(0xdd);
}

#[test]
fn de_instructions_match_silicon() {
    check_row(0xde);
}

#[test]
fn df_instructions_match_silicon() {
    check_row(0xdf);
}

/// An FXSAVE image.
#[repr(C, align(16))]
#[derive(Clone)]
struct FxImage([u8; 512]);

impl FxImage {
    /// The part of the x87, without pointers: control, status and tags, then registers.
    fn x87(&self) -> (&[u8], &[u8]) {
        (&self.0[..6], &self.0[32..160])
    }
}

/// FXSAVE from the state that FRSTOR loads.
fn native_fxsave(before: &[u8; IMAGE]) -> FxImage {
    let mut image = FxImage([0xa5; 512]);
    // SAFETY: only the image is written, which has the size and alignment FXSAVE needs; the x87 ends
    // empty and in its initial state, which is the control word of the ABI.
    unsafe {
        core::arch::asm!(
            "frstor [{before}]",
            "fxsave [{image}]",
            "fninit",
            before = in(reg) before,
            image = in(reg) core::ptr::from_mut(&mut image),
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack),
        );
    }
    image
}

/// What FNSAVE stores after FXRSTOR of the x87's part of `image`.
fn native_fxrstor(image: &FxImage) -> [u8; IMAGE] {
    let mut merged = FxImage([0; 512]);
    let mut after = [0; IMAGE];
    // SAFETY: the first FXSAVE provides the SSE part, so that FXRSTOR leaves MXCSR and XMM registers as
    // they are; the copy in between replaces only the 160 bytes of the x87 apart from the eight bytes of
    // MXCSR and its mask. FNSAVE does not wait and leaves the initial state.
    unsafe {
        core::arch::asm!(
            "fxsave [{merged}]",
            "mov {count}, 2",
            "2:",
            "mov {t}, [{image} + 8*{count}]",
            "mov [{merged} + 8*{count}], {t}",
            "dec {count}",
            "jns 2b",
            "mov {count}, 19",
            "3:",
            "mov {t}, [{image} + 8*{count}]",
            "mov [{merged} + 8*{count}], {t}",
            "dec {count}",
            "cmp {count}, 4",
            "jge 3b",
            "fxrstor [{merged}]",
            "fnsave [{after}]",
            image = in(reg) core::ptr::from_ref(image),
            merged = in(reg) core::ptr::from_mut(&mut merged),
            after = in(reg) core::ptr::from_mut(&mut after),
            count = out(reg) _,
            t = out(reg) _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack),
        );
    }
    after
}

#[test]
fn fxsave_and_fxrstor_match_silicon() {
    let mut machine = Machine::new();
    let mut random = Random::new(0xae);
    machine.cpu.gpr[EDI] = AT;
    for _ in 0..scaled(20_000) {
        let before = state(&mut random, 1, true);
        machine.cpu.x87 = before;
        machine.set_bytes(u64::from(AT), &[0xa5; 512]);
        machine.execute(&[0x0f, 0xae, 0x07]).unwrap();
        let mut ours = FxImage(machine.bytes(u64::from(AT), 512).try_into().unwrap());
        let mut silicon = native_fxsave(&image(&before));
        // The opcode is a pointer.
        assert_eq!(ours.x87(), silicon.x87(), "{before:x?}");

        // Bits that do not exist, and padding.
        for at in (0..6).chain(32..160) {
            if random.below(4) == 0 {
                ours.0[at] = random.next() as u8;
            }
        }
        silicon.0.copy_from_slice(&ours.0);
        machine.set_bytes(u64::from(AT), &ours.0);
        machine.execute(&[0x0f, 0xae, 0x0f]).unwrap();
        machine.execute(&[0xdd, 0x37]).unwrap();
        let mut ours: [u8; IMAGE] = machine.bytes(u64::from(AT), IMAGE).try_into().unwrap();
        let mut after = native_fxrstor(&silicon);
        ours[POINTERS].fill(0);
        after[POINTERS].fill(0);
        assert!(ours == after, "ours    {}\nsilicon {}", describe(&ours), describe(&after));
    }
}

/// iced's table of x87 instructions has no row that the dispatch tables lack.
#[test]
fn every_decoded_x87_instruction_is_executed() {
    let mut machine = Machine::new();
    for op in 0xd8..=0xdf {
        for modrm in 0..=0xff {
            // With room for a displacement.
            let bytes = [op, modrm, 0, 0, 0, 0, 0, 0x90];
            let code = Decoder::new(32, &bytes, DecoderOptions::NONE).decode().code();
            let defined = code != Code::INVALID;
            let Decode::Insn(insn) = decode(&bytes, machine.cpu.mode) else { panic!("{bytes:02x?}") };
            if defined {
                assert_eq!(insn.imm2, u16::from(op & 7) << 8 | u16::from(modrm));
                assert_eq!(insn.flags & Insn::ENDS_BLOCK, 0, "{code:?}");
            }
            machine.cpu.gpr[..8].fill(0x2000);
            machine.cpu.x87 = X87::reset();
            let ran = machine.execute(&bytes);
            assert_eq!(ran.is_ok(), defined, "{bytes:02x?}: {ran:?}");
        }
    }
}
