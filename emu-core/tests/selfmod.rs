//! Code that changes: what is written is what is executed next, whoever wrote it and however much of it
//! had been decoded; decoding does not show in what a program does or in how much of it was run.

mod common;

use common::*;
use emu_core::cpu::{gpr, seg, vector};
use emu_core::engine::{CpuEngine, Exit};
use iced_x86::code_asm::*;

const HLT: u8 = 0xF4;
const NOP: u8 = 0x90;

/// `mov byte [at], value`
fn store8(at: u32, value: u8) -> Vec<u8> {
    [&[0xC6, 0x05], at.to_le_bytes().as_slice(), &[value]].concat()
}

/// `mov dword [at], value`
fn store32(at: u32, value: u32) -> Vec<u8> {
    [&[0xC7, 0x05], at.to_le_bytes().as_slice(), &value.to_le_bytes()].concat()
}

/// `mov al, value`
fn mov_al(value: u8) -> [u8; 2] {
    [0xB0, value]
}

fn machine(code: &[u8]) -> Machine {
    let mut m = Machine::protected();
    m.bytes(code);
    m
}

fn restart(m: &mut Machine, at: u32) {
    m.cpu.halted = false;
    m.cpu.eip = at;
}

#[test]
fn store_to_the_next_instruction_is_executed() {
    let store = store8(CODE + 8, 0x55);
    assert_eq!(store.len(), 7);
    let mut m = machine(&[&store[..], &mov_al(0x11), &[HLT]].concat());
    m.finish();
    assert_eq!(m.eax() & 0xFF, 0x55);
}

#[test]
fn store_to_a_later_instruction_of_the_running_block_is_executed() {
    let padding = [NOP; 20];
    let mut m = machine(&[&store8(CODE + 28, 0x55)[..], &padding, &mov_al(0x11), &[HLT]].concat());
    m.finish();
    assert_eq!(m.eax() & 0xFF, 0x55);
    assert_eq!(m.cpu.retired, 23);
}

#[test]
fn store_to_its_own_first_byte_is_executed_the_next_time() {
    // The store completes as it was; the jump back finds HLT.
    let mut m = machine(&[&store8(CODE, HLT)[..], &[0xEB, 0xF7]].concat());
    m.finish();
    assert_eq!((m.cpu.eip, m.cpu.retired), (CODE + 1, 3));
}

#[test]
fn store_to_an_earlier_instruction_of_the_loop_is_executed_in_the_next_turn() {
    // again: mov al, 1; add ebx, eax; inc byte [again + 1]; loop again; hlt
    let code =
        [&mov_al(1)[..], &[0x01, 0xC3], &[0xFE, 0x05], &(CODE + 1).to_le_bytes(), &[0xE2, 0xF4], &[HLT]]
            .concat();
    let mut m = machine(&code);
    m.set(gpr::EAX, 0).set(gpr::EBX, 0).set(gpr::ECX, 100);
    m.finish();
    assert_eq!(m.cpu.gpr[gpr::EBX], (1..=100).sum::<u32>());
}

#[test]
fn store_that_faults_leaves_the_code_as_it_was() {
    let end = CODE + 0xFFE;
    let code = [&store32(end, 0xF4F4_F4F4)[..], &[HLT]].concat();
    let mut m = Machine::user();
    m.bytes(&code);
    m.enable_paging();
    // The second half of the store hits an absent page.
    m.write(end, &[NOP, NOP]);
    m.set_pte(CODE + 0x1000, 0);
    let f = m.fault();
    assert_eq!((f.vector, f.error, m.cpu.cr2), (vector::PF, 6, CODE + 0x1000));
    assert_eq!(m.read_u16(end), 0x9090);
}

#[test]
fn store_across_a_page_boundary_changes_the_code_on_both_sides() {
    let edge = CODE + 0x1000;
    let mut m = machine(&[]);
    // Both sides were decoded and ran: al = 1 before the edge, bl = 2 behind it.
    m.write(edge - 2, &mov_al(1));
    m.write(edge, &[0xB3, 2, HLT]);
    restart(&mut m, edge - 2);
    m.finish();
    assert_eq!((m.eax() & 0xFF, m.cpu.gpr[gpr::EBX] & 0xFF), (1, 2));
    // mov dword [edge - 1], 0x0009B307 - the immediate of the first, all of the second.
    m.write(CODE, &[&store32(edge - 1, 0xF409_B307)[..], &[0xE9], &0xFEFu32.to_le_bytes()].concat());
    restart(&mut m, CODE);
    // jmp lies at CODE + 10 and ends at CODE + 15: the distance is to edge - 2.
    m.finish();
    assert_eq!((m.eax() & 0xFF, m.cpu.gpr[gpr::EBX] & 0xFF), (7, 9));
}

/// `mov eax, imm32` whose last three bytes lie in the next page.
fn straddling(m: &mut Machine) -> u32 {
    let at = CODE + 0x1000 - 2;
    m.write(at, &[0xB8, 0x11, 0x22, 0x33, 0x44, HLT]);
    at
}

#[test]
fn instruction_across_pages_whose_second_page_is_rewritten_is_decoded_again() {
    let mut m = machine(&[]);
    let at = straddling(&mut m);
    restart(&mut m, at);
    m.finish();
    assert_eq!(m.eax(), 0x4433_2211);
    let jump = at.wrapping_sub(CODE + 12);
    m.write(CODE, &[&store8(CODE + 0x1001, 0x99)[..], &[0xE9], &jump.to_le_bytes()].concat());
    restart(&mut m, CODE);
    m.finish();
    assert_eq!(m.eax(), 0x4499_2211);
}

#[test]
fn instruction_across_pages_whose_second_page_is_remapped_is_decoded_again() {
    let mut m = Machine::protected();
    m.enable_paging();
    let at = straddling(&mut m);
    let second = CODE + 0x1000;
    m.write(DATA, &[0xAA, 0xBB, 0xCC, HLT]);
    for (pte, want) in [
        (second | 7, 0x4433_2211),
        (DATA | 7, 0xCCBB_AA11),
        (second | 7, 0x4433_2211),
        (DATA | 7, 0xCCBB_AA11),
    ] {
        m.set_pte(second, pte);
        restart(&mut m, at);
        m.finish();
        assert_eq!(m.eax(), want);
    }
}

#[test]
fn instruction_across_pages_follows_a_remapping_by_the_running_loop() {
    let mut m = Machine::protected();
    m.enable_paging();
    let second = CODE + 0x1000;
    let at = second - 2;
    // add ebx, imm32 (81 C3 id), straddling; ret
    m.write(at, &[0x81, 0xC3, 1, 0, 0, 0, 0xC3]);
    m.write(DATA, &[0, 1, 0, 0, 0xC3]);
    let slot = PAGE_TABLE + (second >> 12) * 4;
    m.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.call(u64::from(at)).unwrap();
        a.xor(dword_ptr(slot), (second ^ DATA) as i32).unwrap();
        a.invlpg(byte_ptr(second)).unwrap();
        a.loop_(again).unwrap();
        a.hlt().unwrap();
    });
    m.set(gpr::EBX, 0).set(gpr::ECX, 10);
    m.finish();
    assert_eq!(m.cpu.gpr[gpr::EBX], 5 + 5 * 0x100);
}

#[test]
fn instruction_across_pages_faults_when_its_second_page_goes_away() {
    let mut m = Machine::protected();
    m.enable_paging();
    let at = straddling(&mut m);
    restart(&mut m, at);
    m.finish();
    m.set_pte(CODE + 0x1000, 0);
    restart(&mut m, at);
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.cpu.cr2), (vector::PF, at, CODE + 0x1000));
}

#[test]
fn code_written_through_another_linear_address_is_decoded_again() {
    let mut m = Machine::protected();
    m.enable_paging();
    let alias = 0x30_0000;
    m.set_pte(alias, CODE | 7);
    let store = store8(alias + 8, 0x55);
    m.bytes(&[&store[..], &mov_al(0x11), &[HLT]].concat());
    m.finish();
    assert_eq!(m.eax() & 0xFF, 0x55);
}

#[test]
fn code_mapped_elsewhere_is_the_code_of_its_page() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.write(CODE, &[&mov_al(1)[..], &[HLT]].concat());
    m.write(DATA, &[&mov_al(2)[..], &[HLT]].concat());
    for (page, want) in [(CODE, 1), (DATA, 2), (CODE, 1)] {
        m.set_pte(CODE, page | 7);
        restart(&mut m, CODE);
        m.finish();
        assert_eq!(m.eax() & 0xFF, want);
    }
}

#[test]
fn dma_write_to_code_is_executed() {
    let mut m = machine(&[&mov_al(1)[..], &[HLT]].concat());
    for value in 1..20 {
        assert!(m.mem.dma_write(u64::from(CODE) + 1, &[value]));
        restart(&mut m, CODE);
        m.finish();
        assert_eq!(m.eax() & 0xFF, u32::from(value));
    }
}

#[test]
fn push_over_the_next_instruction_is_executed() {
    // push 0xF4F4F4F4 with ESP behind the place it lands: the JMP to itself becomes HLT.
    let mut m = machine(&[0x68, HLT, HLT, HLT, HLT, 0xEB, 0xFE, NOP, NOP]);
    m.set(gpr::ESP, CODE + 9);
    assert_eq!(m.run(1000), Exit::Halted);
    assert_eq!((m.cpu.eip, m.cpu.retired), (CODE + 6, 2));
}

#[test]
fn exception_frame_over_code_is_executed() {
    // The frame's EFLAGS, CS and EIP overwrite what the handler jumps to: EIP's low byte is NOP (90h).
    let at = CODE + 0x90;
    let mut m = Machine::protected();
    m.write(at, &[0x0F, 0x0B]);
    let target = CODE + 0x400;
    m.write(target, &[0xEB, 0xFE, 0xEB, 0xFE]);
    // The code that is overwritten has run before: a jump to itself.
    restart(&mut m, target);
    assert_eq!(m.run(10), Exit::Budget);
    m.code_at(0x9000, |a| a.jmp(u64::from(target)).unwrap());
    m.set_idt(vector::UD, gate(CODE0, 0x9000, 0xEE, 0));
    m.set(gpr::ESP, target + 12);
    restart(&mut m, at);
    // nop; add [ecx], al (00 01); add [eax], cl (00 08, CS); ... = 90 00 01 00 08 00 00 00
    m.set(gpr::ECX, DATA).set(gpr::EAX, DATA);
    assert_eq!(m.run(3), Exit::Budget);
    assert_eq!(m.read_u32(target), at);
    assert_eq!(m.cpu.eip, target + 1);
}

#[test]
fn repeated_move_over_the_code_behind_it_is_executed() {
    let mut m = machine(&[&[0xF3, 0xA4][..], &mov_al(1), &[0xEB, 0xFE]].concat());
    m.write(DATA, &[&mov_al(9)[..], &[HLT, HLT]].concat());
    // Decoded as it is first.
    m.set(gpr::ECX, 0);
    assert_eq!(m.run(10), Exit::Budget);
    m.set(gpr::ECX, 4).set(gpr::ESI, DATA).set(gpr::EDI, CODE + 2);
    restart(&mut m, CODE);
    m.finish();
    assert_eq!(m.eax() & 0xFF, 9);
}

#[test]
fn page_of_code_that_becomes_data_is_written_without_further_invalidations() {
    let page = 0x3_0000;
    let mut m = Machine::protected();
    m.write(page, &[&mov_al(1)[..], &[HLT]].concat());
    restart(&mut m, page);
    m.finish();
    restart(&mut m, CODE);
    m.code(|a| {
        a.mov(edi, page).unwrap();
        a.mov(ecx, 1024).unwrap();
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.mov(dword_ptr(edi), ecx).unwrap();
        a.add(edi, 4).unwrap();
        a.loop_(again).unwrap();
        a.hlt().unwrap();
    });
    let before = m.engine.stats();
    for _ in 0..2 {
        restart(&mut m, CODE);
        m.cpu.retired = 0;
        m.finish();
    }
    let after = m.engine.stats();
    assert_eq!(after.blocks_invalidated - before.blocks_invalidated, 1);
    assert_eq!((m.read_u32(page), m.read_u32(page + 0xFFC)), (1024, 1));
    // And back.
    m.write(page, &[&mov_al(7)[..], &[HLT]].concat());
    restart(&mut m, page);
    m.finish();
    assert_eq!(m.eax() & 0xFF, 7);
}

#[test]
fn data_beside_code_does_not_drop_it() {
    // 64 stores to a line of the page that holds no code.
    let mut m = machine(&[0xB9, 64, 0, 0, 0, 0xFF, 0x05, 0, 0x08, 1, 0, 0xE2, 0xF8, HLT]);
    m.finish();
    assert_eq!(m.read_u32(CODE + 0x800), 64);
    assert_eq!(m.engine.stats().blocks_invalidated, 0);
}

#[test]
fn code_generated_again_and_again_always_runs_as_written() {
    // A generator as a JIT has it: writes `mov eax, n; ret`, calls it, sums.
    let page = 0x3_0000u32;
    let mut m = Machine::protected();
    m.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.mov(byte_ptr(page), 0xB8).unwrap();
        a.mov(dword_ptr(page + 1), ecx).unwrap();
        a.mov(byte_ptr(page + 5), 0xC3).unwrap();
        a.call(u64::from(page)).unwrap();
        a.add(ebx, eax).unwrap();
        a.dec(ecx).unwrap();
        a.jne(again).unwrap();
        a.hlt().unwrap();
    });
    const TURNS: u32 = 20_000;
    m.set(gpr::EBX, 0).set(gpr::ECX, TURNS);
    assert_eq!(m.run(1_000_000), Exit::Halted);
    assert_eq!(m.cpu.gpr[gpr::EBX], TURNS * (TURNS + 1) / 2);
    assert_eq!(m.cpu.retired, u64::from(TURNS) * 9 + 1);
}

#[test]
fn flush_forgets_code_and_changes_nothing_else() {
    let mut m = machine(&[&[NOP; 10][..], &mov_al(1), &[0xEB, 0xF2]].concat());
    assert_eq!(m.run(5), Exit::Budget);
    m.engine.flush(&mut m.mem);
    assert_eq!(m.run(8), Exit::Budget);
    assert_eq!((m.cpu.eip, m.cpu.retired, m.eax() & 0xFF), (CODE + 1, 13, 1));
}

// ---- instruction length --------------------------------------------------------------------------

#[test]
fn instruction_of_15_bytes_runs_and_of_16_raises_gp_0() {
    for at in [CODE, CODE + 0x1000 - 15, CODE + 0x1000 - 7, CODE + 0x1000 - 1] {
        for (prefixes, legal) in [(13, true), (14, false), (15, false), (30, false)] {
            let mut m = Machine::protected();
            m.write(at, &[vec![0x3E; prefixes], mov_al(5).to_vec(), vec![HLT]].concat());
            restart(&mut m, at);
            if legal {
                m.finish();
                assert_eq!(m.eax() & 0xFF, 5, "{prefixes} prefixes at {at:x}");
            } else {
                let f = m.fault();
                assert_eq!((f.vector, f.error, f.eip), (vector::GP, 0, at), "{prefixes} prefixes at {at:x}");
            }
        }
    }
}

#[test]
fn instruction_too_long_is_judged_by_its_length_before_its_opcode() {
    // 15 prefixes and UD2: the opcode is never reached.
    let mut m = machine(&[vec![0x66; 15], vec![0x0F, 0x0B]].concat());
    assert_eq!(m.fault().vector, vector::GP);
    // 13 prefixes and UD2 are 15 bytes.
    let mut m = machine(&[vec![0x66; 13], vec![0x0F, 0x0B]].concat());
    assert_eq!(m.fault().vector, vector::UD);
}

#[test]
fn instruction_too_long_does_not_touch_the_page_behind_its_limit() {
    // 15 prefixes end the page; the next is absent, and no byte of it is needed to know.
    let mut m = Machine::protected();
    m.enable_paging();
    let at = CODE + 0x1000 - 15;
    m.write(at, &[0x3E; 15]);
    m.set_pte(CODE + 0x1000, 0);
    restart(&mut m, at);
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

// ---- 16-bit code ---------------------------------------------------------------------------------

#[test]
fn jumps_of_16_bit_code_wrap_at_64_kib() {
    let mut m = Machine::real();
    let base = m.cpu.seg[seg::CS].base;
    // FFF0: jmp short +20h -> 0012; 0012: jmp near -20h -> FFF5 (through 0015 - 20h); hlt
    m.write(base + 0xFFF0, &[0xEB, 0x20]);
    m.write(base + 0x12, &[0xE9, 0xE0, 0xFF]);
    m.write(base + 0xFFF5, &[HLT]);
    restart(&mut m, 0xFFF0);
    m.finish();
    assert_eq!((m.cpu.eip, m.cpu.retired), (0xFFF6, 3));
}

#[test]
fn call_at_the_end_of_16_bit_code_pushes_a_wrapped_address() {
    let mut m = Machine::real();
    let base = m.cpu.seg[seg::CS].base;
    // The call ends exactly at 10000h: the word pushed is 0, where HLT is.
    m.write(base + 0xFFFD, &[0xE8, 0x00, 0x10]);
    m.write(base + 0x1000, &[0xC3]);
    m.write(base, &[HLT]);
    restart(&mut m, 0xFFFD);
    m.finish();
    assert_eq!(m.cpu.eip, 1);
}

#[test]
fn code_running_over_64_kib_raises_gp_and_does_not_wrap() {
    let mut m = Machine::real();
    let base = m.cpu.seg[seg::CS].base;
    m.write(base + 0xFFFE, &[NOP, NOP, HLT]);
    restart(&mut m, 0xFFFE);
    assert_eq!(m.fault().vector, vector::GP);
    assert_eq!(m.cpu.retired, 4); // two NOPs, the delivery, HLT
}

// ---- code segments -------------------------------------------------------------------------------

/// A far return at CS:0 that goes to offset 100h of segments in turn, each of which comes back with
/// another: what followed the first time does not follow the second.
fn alternate(mut m: Machine, home: u16, targets: [(u16, u32); 2], frame_words: u32, ret: &[u8]) {
    let base = m.cpu.seg[seg::CS].base;
    m.write(base, ret);
    m.write(base + 0x200, &[HLT]);
    m.write(targets[0].1 + 0x100, &[&[0x40], ret].concat()); // inc (e)ax
    m.write(targets[1].1 + 0x100, &[&[0x43], ret].concat()); // inc (e)bx
    let mut slot = m.cpu.seg[seg::SS].base + m.cpu.sp();
    let width = if m.cpu.mode.code32() { 4 } else { 2 };
    let mut push = |m: &mut Machine, offset: u32, code: u16| {
        for v in [offset, code.into(), 2].into_iter().take(frame_words as usize) {
            m.write(slot, &v.to_le_bytes()[..width]);
            slot += width as u32;
        }
    };
    for n in 0..6 {
        push(&mut m, 0x100, targets[n % 2].0);
        push(&mut m, if n == 5 { 0x200 } else { 0 }, home);
    }
    m.set(gpr::EAX, 0).set(gpr::EBX, 0);
    let vm86 = m.cpu.vm86();
    if vm86 {
        assert_eq!(m.fault().eip, 0x200, "HLT is privileged");
    } else {
        m.finish();
    }
    assert_eq!((m.eax(), m.cpu.gpr[gpr::EBX], m.cpu.retired), (3, 3, 6 * 3 + 1 + u64::from(vm86)));
}

#[test]
fn far_returns_to_the_same_offset_of_other_segments_find_their_code() {
    let targets = [(0x2000, 0x2_0000), (0x3000, 0x3_0000)];
    for (words, ret) in [(2, [0xCB]), (3, [0xCF])] {
        let mut m = Machine::real();
        m.cpu.gpr[gpr::ESP] = 0x8000;
        alternate(m, (CODE >> 4) as u16, targets, words, &ret);
        let mut m = Machine::vm86(3);
        m.cpu.gpr[gpr::ESP] = 0x8000;
        alternate(m, (CODE >> 4) as u16, targets, words, &ret);
        let mut m = Machine::protected();
        for (n, base) in [CODE, 0x2_0000, 0x3_0000].into_iter().enumerate() {
            m.set_gdt(FREE + 8 * n as u16, descriptor(base, 0xFFFF, access::CODE, 4));
        }
        m.force_segment(seg::CS, FREE);
        m.cpu.eip = 0;
        m.cpu.gpr[gpr::ESP] = 0x8000;
        alternate(m, FREE, [(FREE + 8, 0x2_0000), (FREE + 16, 0x3_0000)], words, &ret);
    }
}

#[test]
fn far_jumps_and_calls_to_the_same_offset_of_other_segments_find_their_code() {
    // jmp far [bx] and call far [bx], the pointer is changed by the target.
    for modrm in [0x2F, 0x1F] {
        let mut m = Machine::real();
        m.write(CODE, &[0xFF, modrm]);
        m.write_u32(0x5000, 0x2000_0100);
        // mov word [5002h], 3000h; jmp 1000h:0
        m.write(0x2_0100, &[0xC7, 0x06, 0x02, 0x50, 0x00, 0x30, 0xEA, 0, 0, 0, 0x10]);
        m.write(0x3_0100, &[HLT]);
        m.set(gpr::EBX, 0x5000);
        m.finish();
        assert_eq!((m.selector(seg::CS), m.cpu.eip, m.cpu.retired), (0x3000, 0x101, 5));
    }
}

#[test]
fn stack_size_changed_by_lss_is_that_of_the_code_behind_it() {
    let mut m = Machine::protected();
    m.set_gdt(FREE, descriptor(0, 0xFFFF, access::DATA, 0));
    // Pointers to a 32-bit and a 16-bit stack, taken in turn by the same code.
    for (at, offset, selector) in [(DATA, 0x1_8000u32, DATA0), (DATA + 8, 0x1_8000, FREE)] {
        m.write_u32(at, offset);
        m.write_u16(at + 4, selector);
    }
    m.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.lss(esp, fword_ptr(ebx)).unwrap();
        a.push(ebx).unwrap();
        a.xor(ebx, 8).unwrap();
        a.loop_(again).unwrap();
        a.hlt().unwrap();
    });
    m.set(gpr::EBX, DATA).set(gpr::ECX, 4);
    m.finish();
    assert_eq!((m.read_u32(0x1_7FFC), m.read_u32(0x7FFC)), (DATA, DATA + 8));
}

// ---- slicing -------------------------------------------------------------------------------------

/// What a run must not depend on.
#[derive(Debug, PartialEq)]
struct End {
    gpr: [u32; 8],
    eip: u32,
    eflags: u32,
    retired: u64,
    cr2: u32,
    outs: Vec<(u16, u32, u32)>,
}

/// A program of everything that ends blocks early: repeated moves through absent pages that the fault
/// handler maps, code that rewrites itself, interrupts raised by OUT, time-stamp reads, exceptions.
fn busy_program() -> Machine {
    let mut m = Machine::protected();
    m.enable_paging();
    m.bus.trigger = Some(0x80);
    let handler = 0x9000;
    m.code_at(handler, |a| {
        a.push(eax).unwrap();
        a.mov(eax, cr2).unwrap();
        a.shr(eax, 12).unwrap();
        a.or(dword_ptr(eax * 4 + PAGE_TABLE), 1).unwrap();
        a.pop(eax).unwrap();
        a.add(esp, 4).unwrap();
        a.iretd().unwrap();
    });
    m.set_idt(vector::PF, gate(CODE0, handler, 0x8E, 0));
    let counter = 0x9100;
    m.code_at(counter, |a| {
        a.inc(dword_ptr(DATA)).unwrap();
        a.iretd().unwrap();
    });
    for v in [0x40, 0x80] {
        m.set_idt(v, gate(CODE0, counter, 0xEE, 0));
    }
    // Code that changes what follows it: inc byte [patched + 1]; nop; patched: mov al, 10h; out 81h, al; ret
    let patching = 0x9200u32;
    let patched = patching + 7;
    let inc = [&[0xFE, 0x05], (patched + 1).to_le_bytes().as_slice()].concat();
    m.write(patching, &[&inc[..], &[NOP, 0xB0, 0x10, 0xE6, 0x81, 0xC3]].concat());
    for page in [0x20_2000, 0x20_3000, 0x20_6000, 0x21_1000, 0x21_2000, 0x21_5000] {
        m.set_pte(page, page | 6);
    }
    for n in 0..0x8000 / 4 {
        m.write_u32(0x20_0000 + n * 4, n.wrapping_mul(0x9E37_79B9));
    }
    m.code(|a| {
        a.sti().unwrap();
        a.mov(ebp, 3).unwrap();
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        // 5 odd pages with faults in the middle, first bytes, then dwords backwards.
        a.mov(esi, 0x20_0123).unwrap();
        a.mov(edi, 0x21_0001).unwrap();
        a.mov(ecx, 0x6800).unwrap();
        a.rep().movsb().unwrap();
        a.std().unwrap();
        a.mov(esi, 0x20_7F00).unwrap();
        a.mov(edi, 0x21_7FFD).unwrap();
        a.mov(ecx, 0x1000).unwrap();
        a.rep().movsd().unwrap();
        a.cld().unwrap();
        a.mov(edi, 0x20_1FF0).unwrap();
        a.mov(ecx, 0x2000).unwrap();
        a.mov(al, 0x77).unwrap();
        a.repne().scasb().unwrap();
        a.mov(dword_ptr(DATA + 0x20), ecx).unwrap();
        // An interrupt that OUT raises, one by INT, time.
        a.mov(eax, 0x40).unwrap();
        a.out(0x80u32, al).unwrap();
        a.int(0x80).unwrap();
        a.rdtsc().unwrap();
        a.mov(dword_ptr(DATA + 0x10), eax).unwrap();
        a.call(u64::from(patching)).unwrap();
        // Pages absent again.
        a.and(dword_ptr(PAGE_TABLE + 0x203 * 4), -2).unwrap();
        a.and(dword_ptr(PAGE_TABLE + 0x212 * 4), -2).unwrap();
        a.mov(eax, cr3).unwrap();
        a.mov(cr3, eax).unwrap();
        a.dec(ebp).unwrap();
        a.jne(again).unwrap();
        a.hlt().unwrap();
    });
    m
}

fn run_in_slices(budget: u64) -> (End, Vec<u8>) {
    let mut m = busy_program();
    loop {
        let before = m.cpu.retired;
        match m.run(budget) {
            Exit::Budget => assert_eq!(m.cpu.retired, before + budget),
            Exit::Halted => {
                assert!(m.cpu.retired - before <= budget);
                break;
            }
            exit => panic!("{exit:?}"),
        }
        assert!(m.cpu.retired < 100_000);
    }
    let mut memory = vec![0; 4 << 20];
    assert!(m.mem.dma_read(0, &mut memory));
    let mut gpr = [0; 8];
    gpr.copy_from_slice(&m.cpu.gpr[..8]);
    let end = End {
        gpr,
        eip: m.cpu.eip,
        eflags: m.cpu.eflags(),
        retired: m.cpu.retired,
        cr2: m.cpu.cr2,
        outs: m.bus.outs,
    };
    (end, memory)
}

#[test]
fn run_in_slices_of_any_size_ends_in_the_same_state_after_the_same_count() {
    let (want, memory) = run_in_slices(u64::MAX);
    // The program did what it is for.
    assert_eq!(
        want.outs,
        [
            (0x80, 1, 0x40),
            (0x81, 1, 0x11),
            (0x80, 1, 0x40),
            (0x81, 1, 0x12),
            (0x80, 1, 0x40),
            (0x81, 1, 0x13)
        ]
    );
    assert_eq!(memory[DATA as usize], 6);
    assert!(want.cr2 != 0);
    for budget in [1, 2, 3, 7, 64, 1000, 1_000_000] {
        let (got, same) = run_in_slices(budget);
        assert_eq!(got, want, "budget {budget}");
        assert!(same == memory, "memory differs with budget {budget}");
    }
}
