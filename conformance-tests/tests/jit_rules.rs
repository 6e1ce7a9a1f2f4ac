//! What the translating engine promises apart from instructions: code that changes under it, segments
//! that change under it, counts, bounded memory.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance_tests::gen_int::{Rng, state};
use conformance_tests::rig::Rig;
use conformance_tests::{ARENA, CODE, State};
use emu_core::engine::{CpuEngine, Exit};
use emu_core::interp::Interpreter;
use emu_jit::{Jit, JitStats, Options};

fn jit(options: Options) -> Rig<Jit> {
    Rig::new(Jit::with_options(options).unwrap()).unwrap()
}

fn eager() -> Options {
    Options { threshold: 1, region_threshold: 0, ..Options::default() }
}

/// Each block for itself.
fn without_regions() -> Options {
    Options { region_threshold: Options::NEVER, ..eager() }
}

fn quiet() -> State {
    let mut before = state(&mut Rng::new(1));
    before.gpr = [0, 0, 0, 0, ARENA + 0x800, 0, ARENA, ARENA + 0x100];
    before.eflags = 0;
    before
}

/// Runs both and expects equal ends, with regions and without.
fn agree(code: &[u8], before: &State, budget: u64) -> Rig<Jit> {
    let mut rig = None;
    for region_threshold in [0, Options::NEVER] {
        let mut a = Rig::new(Interpreter::new()).unwrap();
        let mut b = jit(Options { region_threshold, ..eager() });
        a.load(CODE, code, before);
        b.load(CODE, code, before);
        assert_eq!(a.run(budget), b.run(budget));
        assert_eq!(a.registers(), b.registers());
        assert!(a.memory() == b.memory());
        rig = Some(b);
    }
    rig.unwrap()
}

#[test]
fn store_into_the_next_instruction_is_seen_by_it() {
    // mov byte [next + 1], 5; next: mov al, 1; int 80h
    let mut code = vec![0xC6, 0x05];
    code.extend_from_slice(&(CODE + 8).to_le_bytes());
    code.extend_from_slice(&[0x05, 0xB0, 0x01, 0xCD, 0x80]);
    let rig = agree(&code, &quiet(), 100);
    assert_eq!(rig.cpu.gpr[0] & 0xFF, 5);
}

#[test]
fn loop_that_rewrites_itself_runs_its_new_code_each_time() {
    // mov ecx, 50; again: inc byte [value]; value-1: add eax, imm8 1; dec ecx; jnz again; int 80h
    let mut code = vec![0xB9, 50, 0, 0, 0, 0xFE, 0x05];
    let at = CODE + code.len() as u32 + 4 + 2;
    code.extend_from_slice(&at.to_le_bytes());
    code.extend_from_slice(&[0x83, 0xC0, 0x01, 0x49, 0x75, 0xF4, 0xCD, 0x80]);
    let rig = agree(&code, &quiet(), 1000);
    assert_eq!(rig.cpu.gpr[0], (2..=51).sum::<u32>());
    assert!(rig.engine.jit_stats().dropped > 10);
}

#[test]
fn linked_block_that_is_overwritten_is_not_entered_again() {
    // A caller in a loop, and a callee whose constant the host changes between two runs.
    // mov ecx, 100; again: call f; dec ecx; jnz again; int 80h; f: mov eax, 7; ret
    let code = [0xB9, 100, 0, 0, 0, 0xE8, 5, 0, 0, 0, 0x49, 0x75, 0xF8, 0xCD, 0x80, 0xB8, 7, 0, 0, 0, 0xC3];
    let mut rig = jit(eager());
    rig.load(CODE, &code, &quiet());
    assert_eq!(rig.run(200), Exit::Budget);
    assert_eq!(rig.cpu.gpr[0], 7);
    assert!(rig.mem.dma_write(u64::from(CODE) + 16, &[9]));
    assert_eq!(rig.run(20), Exit::Budget);
    assert_eq!(rig.cpu.gpr[0], 9);
}

#[test]
fn target_page_that_is_mapped_elsewhere_is_not_entered_through_a_link() {
    // A loop that calls a function in the next page; then that page is mapped to another frame.
    let page = (CODE & !0xFFF) + 0x1000;
    let mut code = vec![0xB9, 0, 1, 0, 0, 0xE8];
    code.extend_from_slice(&(page - (CODE + 10)).to_le_bytes());
    code.extend_from_slice(&[0x49, 0x75, 0xF8, 0xCD, 0x80]);
    let mut rig = jit(eager());
    rig.load(CODE, &code, &quiet());
    assert!(rig.mem.dma_write(u64::from(page), &[0xB0, 1, 0xC3]));
    assert!(rig.mem.dma_write(u64::from(page) + 0x1000, &[0xB0, 2, 0xC3]));
    assert_eq!(rig.run(200), Exit::Budget);
    assert_eq!(rig.cpu.gpr[0], 1);
    let slot = 0x8_1000 + u64::from(page >> 12) * 4;
    assert!(rig.mem.dma_write(slot, &((page + 0x1000) | 0x67).to_le_bytes()));
    rig.mem.flush_views();
    assert_eq!(rig.run(200), Exit::Budget);
    assert_eq!(rig.cpu.gpr[0], 2);
}

#[test]
fn instruction_in_two_pages_is_translated_and_follows_mapping_and_stores() {
    // mov ecx, 1000; again: mov eax, 7 (two bytes of it in the first page); dec ecx; jnz again; int 80h
    let page = (CODE & !0xFFF) + 0x1000;
    let code = [0xB9, 0xE8, 3, 0, 0, 0xB8, 7, 0, 0, 0, 0x49, 0x75, 0xF8, 0xCD, 0x80];
    let at = page - 7;
    let mut rig = jit(without_regions());
    rig.load(at, &code, &quiet());
    assert_eq!(rig.run(300), Exit::Budget);
    assert_eq!(rig.cpu.gpr[0], 7);
    let stats = rig.engine.jit_stats();
    assert!(stats.interpreted < 10 && stats.left.iter().sum::<u64>() < 20, "{stats:?}");

    // Another frame, in which the loop is `dec ecx; mov al, 9; jnz again`.
    assert!(rig.mem.dma_write(u64::from(page) + 0x1000, &[0, 0, 0, 0x49, 0xB0, 9, 0x75, 0xF6, 0xCD, 0x80]));
    let slot = 0x8_1000 + u64::from(page >> 12) * 4;
    assert!(rig.mem.dma_write(slot, &((page + 0x1000) | 0x67).to_le_bytes()));
    rig.mem.flush_views();
    assert_eq!(rig.run(301), Exit::Budget);
    assert_eq!(rig.cpu.gpr[0], 9);
    assert!(rig.mem.dma_write(slot, &(page | 0x67).to_le_bytes()));
    rig.mem.flush_views();
    rig.cpu.eip = at + 5;
    assert_eq!(rig.run(300), Exit::Budget);
    assert_eq!(rig.cpu.gpr[0], 7);
    // The constant's second byte, in the second page.
    assert!(rig.mem.dma_write(u64::from(page), &[1]));
    assert_eq!(rig.run(30), Exit::Budget);
    assert_eq!(rig.cpu.gpr[0], 0x107);
}

/// Runs code with returns counted.
fn count_returns(code: &[u8], budget: u64) -> JitStats {
    let mut rig = jit(Options { count: true, ..without_regions() });
    rig.load(CODE, code, &quiet());
    assert_eq!(rig.run(budget), Exit::Budget);
    rig.engine.jit_stats()
}

#[test]
fn returns_of_calls_made_in_earlier_stays_go_behind_them() {
    // again: mov edx, 40; call f; jmp again; f: dec edx; jz done; call f; done: ret
    let code =
        [0xBA, 40, 0, 0, 0, 0xE8, 2, 0, 0, 0, 0xEB, 0xF4, 0x4A, 0x74, 5, 0xE8, 0xF8, 0xFF, 0xFF, 0xFF, 0xC3];
    let stats = count_returns(&code, 2_000_000);
    assert!(stats.left.iter().sum::<u64>() > 50 && stats.returns > 100_000, "{stats:?}");
    assert_eq!([stats.returns_missed, stats.returns_resumed], [0; 2], "{stats:?}");
    // The first call finds its stack not in the view yet.
    assert!(stats.returns_unpaired <= 1, "{stats:?}");
}

#[test]
fn return_past_a_call_without_return_finds_the_call_before_it() {
    // again: call f; jmp again; f: call g; ret; g: add esp, 4; ret
    let code = [0xE8, 2, 0, 0, 0, 0xEB, 0xF9, 0xE8, 1, 0, 0, 0, 0xC3, 0x83, 0xC4, 4, 0xC3];
    let stats = count_returns(&code, 100_000);
    assert!(stats.returns > 15_000 && stats.returns_resumed + 2 >= stats.returns, "{stats:?}");
    assert!(stats.returns_missed + stats.returns_unpaired <= 1, "{stats:?}");
}

#[test]
fn return_without_a_call_leaves_the_calls_under_way_alone() {
    // again: call f; jmp again; f: push offset x; ret; x: ret
    let mut code = vec![0xE8, 2, 0, 0, 0, 0xEB, 0xF9, 0x68];
    code.extend_from_slice(&(CODE + 13).to_le_bytes());
    code.extend_from_slice(&[0xC3, 0xC3]);
    let stats = count_returns(&code, 100_000);
    assert!(stats.returns > 30_000 && stats.returns_missed.abs_diff(stats.returns / 2) < 10, "{stats:?}");
    assert!(stats.returns_resumed == 0 && stats.returns_unpaired <= 2, "{stats:?}");
}

#[test]
fn segment_that_gets_a_limit_is_checked_by_the_next_instruction() {
    // mov ax, 3Bh; mov ds, ax; mov eax, [200h]: beyond the limit of 255
    let code = [0x66, 0xB8, 0x3B, 0, 0x8E, 0xD8, 0xA1, 0, 2, 0, 0, 0xCD, 0x80];
    let rig = agree(&code, &quiet(), 100);
    assert_eq!(rig.cpu.eip, 0x9_300E, "#GP");
}

#[test]
fn every_budget_ends_after_exactly_that_many_instructions() {
    let code = [0xB9, 0, 1, 0, 0, 0x83, 0xC0, 3, 0x50, 0x5A, 0x49, 0x75, 0xF8, 0xEB, 0xF1];
    let mut rig = jit(eager());
    rig.load(CODE, &code, &quiet());
    for budget in 1..500 {
        let before = rig.cpu.retired;
        assert_eq!(rig.run(budget), Exit::Budget);
        assert_eq!(rig.cpu.retired, before + budget);
    }
}

/// mov ecx, 1000; again: add eax, 3; test al, 1; jz even; xor edx, eax; jmp on; even: add edx, 5; on: push eax;
/// pop ebx; dec ecx; jnz again; int 80h. The immediate behind `add edx` is at [`EVEN`].
const TWO_WAYS: [u8; 30] = [
    0xB9, 0xE8, 3, 0, 0, 0x83, 0xC0, 3, 0xA8, 1, 0x74, 4, 0x31, 0xC2, 0xEB, 3, 0x83, 0xC2, 5, 0x50, 0x5B,
    0x49, 0x75, 0xED, 0xCD, 0x80, 0x90, 0x90, 0x90, 0x90,
];
const EVEN: u64 = CODE as u64 + 18;

#[test]
fn region_ends_at_any_budget_where_the_interpreter_does() {
    for region_threshold in [0, 1] {
        let mut a = Rig::new(Interpreter::new()).unwrap();
        let mut b = jit(Options { region_threshold, ..eager() });
        let mut regions = 0;
        for short in 1..200 {
            a.load(CODE, &TWO_WAYS, &quiet());
            b.load(CODE, &TWO_WAYS, &quiet());
            // Long enough for regions to be made, then cut short.
            for budget in [500, short, 300, short, short, 200] {
                assert_eq!(a.run(budget), b.run(budget));
                assert_eq!(a.registers(), b.registers(), "{short} {budget}");
                assert_eq!(a.cpu.retired, b.cpu.retired);
            }
            regions = b.engine.jit_stats().regions;
        }
        assert!(regions > 0, "{region_threshold}");
    }
}

#[test]
fn region_is_dropped_with_any_of_its_blocks() {
    let mut a = Rig::new(Interpreter::new()).unwrap();
    let mut b = jit(eager());
    a.load(CODE, &TWO_WAYS, &quiet());
    b.load(CODE, &TWO_WAYS, &quiet());
    for constant in 6..40 {
        for _ in 0..3 {
            assert_eq!(a.run(61), b.run(61));
            assert_eq!(a.registers(), b.registers());
        }
        assert!(a.mem.dma_write(EVEN, &[constant]));
        assert!(b.mem.dma_write(EVEN, &[constant]));
    }
    let stats = b.engine.jit_stats();
    assert!(stats.regions > 10 && stats.regions_dropped > 10, "{stats:?}");
}

#[test]
fn region_that_overwrites_a_block_of_its_own_is_left_at_once() {
    // mov ecx, 60; again: inc byte [value]; test al, 1; jz over; inc edx; over: add eax, imm8 1; dec ecx; jnz
    // again; int 80h
    let mut code = vec![0xB9, 60, 0, 0, 0, 0xFE, 0x05];
    let at = CODE + code.len() as u32 + 4 + 2 + 2 + 1 + 2;
    code.extend_from_slice(&at.to_le_bytes());
    code.extend_from_slice(&[0xA8, 1, 0x74, 1, 0x42, 0x83, 0xC0, 0x01, 0x49, 0x75, 0xEF, 0xCD, 0x80]);
    let rig = agree(&code, &quiet(), 1000);
    assert_eq!(rig.cpu.gpr[0], (2..=61).sum::<u32>());
}

#[test]
fn cache_of_the_smallest_size_runs_more_code_than_it_holds() {
    let mut rig = jit(Options { cache_bytes: 0, ..without_regions() });
    // 1,000 blocks: inc eax; jmp +0. Then back to the first.
    let mut code = Vec::new();
    for _ in 0..1000 {
        code.extend_from_slice(&[0x40, 0xEB, 0]);
    }
    let back = -(code.len() as i32 + 5);
    code.push(0xE9);
    code.extend_from_slice(&back.to_le_bytes());
    rig.load(CODE & !0xFFF, &code, &quiet());
    assert_eq!(rig.run(20_010), Exit::Budget);
    assert_eq!(rig.cpu.gpr[0], 10_000);
    assert!(rig.engine.jit_stats().flushes > 5);
}

#[test]
fn flush_forgets_everything_and_goes_on() {
    let code = [0x40, 0xEB, 0xFD];
    let mut rig = jit(eager());
    rig.load(CODE, &code, &quiet());
    assert_eq!(rig.run(1000), Exit::Budget);
    rig.engine.flush(&mut rig.mem);
    assert!(rig.mem.dma_write(u64::from(CODE), &[0x48]));
    assert_eq!(rig.run(1000), Exit::Budget);
    assert_eq!(rig.cpu.gpr[0], 0);
}

#[test]
fn storm_of_invalidations_never_runs_old_code() {
    // 32 functions in one page, MOV EAX, n; RET, called in turn from a loop in another; their constants change
    // between slices of any length, by DMA, and the sum must be what the interpreter has.
    let page = (CODE & !0xFFF) + 0x1000;
    let mut code = vec![0xB9, 0xFF, 0xFF, 0, 0];
    let start = code.len() as i32;
    for n in 0..32 {
        code.push(0xE8);
        let behind = CODE + code.len() as u32 + 4;
        code.extend_from_slice(&(page + n * 0x40 - behind).to_le_bytes());
        code.extend_from_slice(&[0x01, 0xC2]);
    }
    code.extend_from_slice(&[0x49, 0x0F, 0x85]);
    code.extend_from_slice(&(start - (code.len() as i32 + 4)).to_le_bytes());
    code.extend_from_slice(&[0xCD, 0x80]);
    for options in [eager(), Options { cache_bytes: 0, ..eager() }, Options { threshold: 2, ..eager() }] {
        let mut a = Rig::new(Interpreter::new()).unwrap();
        let mut b = jit(options);
        let mut rng = Rng::new(9);
        a.load(CODE, &code, &quiet());
        b.load(CODE, &code, &quiet());
        let write = |a: &mut Rig<Interpreter>, b: &mut Rig<Jit>, at: u32, bytes: &[u8]| {
            assert!(a.mem.dma_write(u64::from(at), bytes) && b.mem.dma_write(u64::from(at), bytes));
        };
        for n in 0..32 {
            write(&mut a, &mut b, page + n * 0x40, &[0xB8, n as u8, 0, 0, 0, 0xC3]);
        }
        for _ in 0..1500 {
            let budget = 1 + u64::from(rng.below(300));
            assert_eq!((a.run(budget), b.run(budget)), (Exit::Budget, Exit::Budget));
            assert_eq!(a.registers(), b.registers());
            for _ in 0..rng.below(4) {
                write(&mut a, &mut b, page + rng.below(32) * 0x40 + 1, &[rng.next_u64() as u8]);
            }
        }
        let stats = b.engine.jit_stats();
        assert!(stats.dropped > 500 && stats.translated > 500, "{stats:?}");
        assert!(stats.linked > 100 && stats.unlinked > 0, "{stats:?}");
    }
}

#[test]
fn every_size_of_cache_gives_the_same_run() {
    // 200 small blocks in a ring.
    let mut code = Vec::new();
    for n in 0..200u8 {
        code.extend_from_slice(&[0x05, n, n, 0, 0, 0xEB, 0]);
    }
    let back = -(code.len() as i32 + 5);
    code.push(0xE9);
    code.extend_from_slice(&back.to_le_bytes());
    let mut a = Rig::new(Interpreter::new()).unwrap();
    a.load(CODE, &code, &quiet());
    assert_eq!(a.run(30_000), Exit::Budget);
    let mut flushes = Vec::new();
    for pages in 16..40 {
        let mut b = jit(Options { cache_bytes: pages << 12, ..eager() });
        b.load(CODE, &code, &quiet());
        assert_eq!(b.run(30_000), Exit::Budget);
        assert_eq!(a.registers(), b.registers(), "{pages} pages");
        flushes.push(b.engine.jit_stats().flushes);
    }
    assert!(flushes.iter().all(|n| *n == 0) || flushes.windows(2).all(|w| w[0] >= w[1]), "{flushes:?}");
}
