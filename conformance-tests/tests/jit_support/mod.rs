//! Runs programs on the interpreter and on translated code and compares everything.
#![allow(dead_code, reason = "not every test uses all of it")]

use conformance_tests::gen_int::Rng;
use conformance_tests::rig::Rig;
use conformance_tests::{CODE, State};
use emu_core::cpu::CpuState;
use emu_core::engine::Exit;
use emu_core::interp::Interpreter;
use emu_core::mem::Memory;
use emu_jit::{Jit, Options};

/// Cases of a test; `JIT_CASES` overrides the default.
pub fn cases(default: u32) -> u32 {
    std::env::var("JIT_CASES").ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

fn options(n: u32) -> Options {
    let all = Options::default();
    match n {
        0 => Options { threshold: 1, region_threshold: 1, ..all },
        1 => Options { threshold: 1, native: false, ..all },
        2 => Options { threshold: 2, link: false, ..all },
        _ => Options { threshold: 2, region_threshold: 1, cache_bytes: 64 << 10, ..all },
    }
}

/// Random programs from `generate`, with slices from `slice`; every register, flag, fault and count is compared
/// at every slice boundary, and memory at the end.
pub fn compare(
    seed: u64,
    count: u32,
    opt: u32,
    generate: impl FnMut(&mut Rng) -> (Vec<u8>, State),
    slice: impl Fn(&mut Rng) -> u64,
) {
    compare_prepared(seed, count, opt, generate, slice, |_, _| {});
}

/// [`compare`] with processor and memory changed before each program.
pub fn compare_prepared(
    seed: u64,
    count: u32,
    opt: u32,
    mut generate: impl FnMut(&mut Rng) -> (Vec<u8>, State),
    slice: impl Fn(&mut Rng) -> u64,
    prepare: impl Fn(&mut CpuState, &mut Memory),
) {
    let mut a = Rig::new(Interpreter::new()).unwrap();
    let mut b = Rig::new(Jit::with_options(options(opt)).unwrap()).unwrap();
    let mut rng = Rng::new(seed);
    let mut ends = [0u32; 4];
    for case in 0..count {
        let (code, before) = generate(&mut rng);
        // Some programs lie across a page boundary.
        let at = if rng.below(3) == 0 { (CODE & !0xFFF) + 0x1000 - rng.below(60) } else { CODE };
        a.load(at, &code, &before);
        b.load(at, &code, &before);
        prepare(&mut a.cpu, &mut a.mem);
        prepare(&mut b.cpu, &mut b.mem);
        for _ in 0..200 {
            let budget = slice(&mut rng);
            let (x, y) = (a.run(budget), b.run(budget));
            let (ra, rb) = (a.registers(), b.registers());
            assert!(
                x == y && ra == rb,
                "seed {seed:#x} case {case} options {opt} at {at:#x}\n{code:02x?}\n{before_gpr:08x?} {flags:x}\n\
                 interpreter {x:?} {ra}\ntranslated  {y:?} {rb}",
                before_gpr = before.gpr,
                flags = before.eflags,
            );
            if x != Exit::Budget {
                ends[usize::from(a.cpu.eip == 0x9_3081)] += 1;
                break;
            }
        }
        let (ma, mb) = (a.memory(), b.memory());
        if ma != mb {
            let differ: Vec<_> =
                ma.iter().zip(&mb).enumerate().filter(|(_, (x, y))| x != y).take(8).collect();
            panic!("seed {seed:#x} case {case} options {opt}\n{code:02x?}\nmemory {differ:x?}");
        }
    }
    assert!(ends[0] > 0 && ends[1] > 0, "{ends:?}");
    println!("options {opt}: faults, ends {ends:?} {:?}", b.engine.jit_stats());
    assert!(b.engine.jit_stats().translated > 0);
}
