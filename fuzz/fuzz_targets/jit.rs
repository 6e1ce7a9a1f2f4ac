//! Translated code: the interpreter and the JIT end every slice of every program in the same state.

#![no_main]

use conformance_tests::gen_int::{self, Rng};
use conformance_tests::rig::{CODE_PAGES, Rig};
use conformance_tests::{CODE, State};
use emu_core::engine::Exit;
use emu_core::interp::Interpreter;
use emu_jit::{Jit, Options};
use env86_fuzz::input::{Input, Seed};
use env86_fuzz::pc::Pc;
use env86_fuzz::programs::{self, Case};

/// Instructions of a program of ring 3, all slices together.
const TOTAL: u64 = 1000;

fn jit(choice: u8) -> Jit {
    let some = Options { threshold: 1, region_threshold: 1, cache_bytes: 256 << 10, ..Options::default() };
    let options = match choice & 7 {
        0 => Options { threshold: 2, region_threshold: 0, ..some },
        1 => Options { native: false, ..some },
        2 => Options { link: false, ..some },
        3 => Options { cache_bytes: 64 << 10, ..some },
        _ => some,
    };
    Jit::with_options(options).expect("a code cache")
}

/// Any mode, tables and all.
fn system(data: &[u8]) {
    let case = Case::read(data);
    let mut a = Pc::new(&case, Interpreter::new());
    let mut b = Pc::new(&case, jit(case.choice));
    let budget = if case.choice & 0x80 == 0 { 400 } else { 1 + u64::from(case.choice >> 3 & 15) };
    loop {
        let (x, y) = (a.slice(budget), b.slice(budget));
        assert_eq!(x, y, "one of the engines stopped");
        if !x {
            break;
        }
    }
    if let Some(difference) = a.difference(&b) {
        panic!("interpreter and translated code differ: {difference}");
    }
}

/// Ring 3 with paging, as the conformance tests have it: the state follows from a seed.
fn user(data: &[u8]) {
    let input = &mut Input::new(data);
    let before: State = gen_int::state(&mut Rng::new(input.u64()));
    let (choice, slice, at) = (input.u8(), input.u8(), input.u16());
    let code = input.rest();
    let at = CODE + u32::from(at) % 0x1000;
    let room = (CODE & !0xFFF) + CODE_PAGES * 0x1000 - at;
    let code = &code[..code.len().min(room as usize)];
    let mut a = Rig::new(Interpreter::new()).expect("memory");
    let mut b = Rig::new(jit(choice)).expect("memory");
    a.load(at, code, &before);
    b.load(at, code, &before);
    let budget = if slice & 0x80 == 0 { TOTAL } else { 1 + u64::from(slice & 31) };
    while a.cpu.retired < TOTAL {
        let (x, y) = (a.run(budget), b.run(budget));
        assert_eq!((x, a.registers()), (y, b.registers()), "interpreter and translated code");
        if x != Exit::Budget {
            break;
        }
    }
    assert!(a.memory() == b.memory(), "memory differs");
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = programs::seeds().into_iter().map(|seed| [&[0], &seed[..]].concat()).collect();
    let mut rng = Rng::new(2);
    for n in 0..60u8 {
        let mut seed = Seed::new().u8(1).u64(rng.next_u64()).u8(n).u8(if n % 3 == 0 { 0x87 } else { 0 });
        seed = seed.u16(if n % 5 == 0 { 0xFF0 } else { 0 });
        // MOV ECX, 3, and a loop over the rest
        seed = seed.bytes(&[0xB9, 3, 0, 0, 0]);
        let start = seed.0.len();
        for _ in 0..1 + n % 3 {
            seed = seed.bytes(&gen_int::sequence(&mut rng).code);
        }
        let back = start as i32 - (seed.0.len() as i32 + 7);
        seeds.push(seed.bytes(&[0x49, 0x0F, 0x85]).u32(back as u32).bytes(&[0xCD, 0x80]).0);
    }
    seeds
}

env86_fuzz::target!(seeds, |data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    if kind & 1 == 0 { system(rest) } else { user(rest) }
});
