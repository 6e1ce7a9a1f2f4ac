//! Far JMP, CALL and RET, call gates, SYSENTER and SYSEXIT. Task switches: `system_tasks.rs`.

mod common;

use common::*;
use emu_core::cpu::{gpr, seg, vector};
use iced_x86::code_asm::*;

const TARGET: u32 = CODE + 0x100;
/// Selector of the call gate under test, DPL 3.
const GATE: u16 = FREE;
const GATE32: u32 = 0xEC;
const GATE16: u32 = 0xE4;

/// JMP or CALL ptr16:32 as bytes (the assembler has no name for them).
fn far(opcode: u8, selector: u16, offset: u32) -> Vec<u8> {
    let mut b = vec![opcode];
    b.extend(offset.to_le_bytes());
    b.extend(selector.to_le_bytes());
    b
}

fn jmp(m: &mut Machine, selector: u16, offset: u32) {
    m.bytes(&far(0xEA, selector, offset));
}

fn call(m: &mut Machine, selector: u16, offset: u32) {
    m.bytes(&far(0x9A, selector, offset));
}

// ---- JMP -----------------------------------------------------------------------------------------

#[test]
fn jmp_far_to_a_16_bit_segment_changes_the_mode() {
    let mut m = Machine::protected();
    m.set_gdt(FREE, descriptor(CODE, 0xFFFF, 0x9A, 0));
    jmp(&mut m, FREE, 0x200);
    m.write(CODE + 0x200, &[0xB8, 0x34, 0x12, 0xF4]); // mov ax, 1234h; hlt
    m.set(gpr::EAX, 0xFFFF_0000);
    m.finish();
    assert_eq!((m.eax(), m.selector(seg::CS), m.cpu.eip), (0xFFFF_1234, FREE, 0x204));
    assert_eq!(m.gdt(FREE).1 >> 8 & 0xFF, 0x9B);
}

#[test]
fn jmp_far_through_memory_reads_offset_then_selector() {
    let mut m = Machine::protected();
    m.write_u32(DATA, TARGET);
    m.write_u16(DATA + 4, CODE0);
    m.bytes(&[0xFF, 0x2D, 0x00, 0x00, 0x02, 0x00]);
    m.step();
    assert_eq!(m.cpu.eip, TARGET);
}

#[test]
fn jmp_far_sets_rpl_to_cpl() {
    let mut m = Machine::user();
    jmp(&mut m, CODE3 & !3, TARGET);
    m.step();
    assert_eq!((m.selector(seg::CS), m.cpu.eip), (CODE3, TARGET));
    let mut m = Machine::user();
    jmp(&mut m, CONFORMING0, TARGET);
    m.step();
    assert_eq!((m.selector(seg::CS), m.cpu.cpl), (CONFORMING0 | 3, 3));
}

/// Vector and error of a far transfer from CPL 3, for JMP and CALL alike.
fn bad_transfer(setup: impl Fn(&mut Machine), selector: u16, offset: u32) -> (u8, u32) {
    let mut results = Vec::new();
    for opcode in [0xEA, 0x9A] {
        let mut m = Machine::user();
        setup(&mut m);
        m.bytes(&far(opcode, selector, offset));
        let f = m.fault();
        assert_eq!((f.eip, f.cs, f.outer), (CODE, CODE3, Some((STACK3, DATA3))));
        results.push((f.vector, f.error));
    }
    assert_eq!(results[0], results[1]);
    results[0]
}

#[test]
fn far_transfer_to_a_null_selector_raises_gp_0() {
    assert_eq!(bad_transfer(|_| (), 3, TARGET), (vector::GP, 0));
}

#[test]
fn far_transfer_outside_the_tables_raises_gp_selector() {
    assert_eq!(bad_transfer(|_| (), 0xC0, TARGET), (vector::GP, 0xC0));
    assert_eq!(bad_transfer(|_| (), 0x0F, TARGET), (vector::GP, 0x0C)); // no LDT
}

#[test]
fn far_transfer_to_a_more_privileged_segment_raises_gp_selector() {
    assert_eq!(bad_transfer(|_| (), CODE0 | 3, TARGET), (vector::GP, CODE0.into()));
}

#[test]
fn far_transfer_to_data_raises_gp_selector() {
    assert_eq!(bad_transfer(|_| (), DATA3, TARGET), (vector::GP, u32::from(DATA3 & !3)));
}

#[test]
fn far_transfer_to_an_absent_segment_raises_np_selector() {
    let absent = |m: &mut Machine| m.set_gdt(FREE, descriptor(0, 0xF_FFFF, 0x7B, 0xC));
    assert_eq!(bad_transfer(absent, FREE | 3, TARGET), (vector::NP, FREE.into()));
}

#[test]
fn far_transfer_beyond_the_limit_raises_gp_0() {
    let small = |m: &mut Machine| m.set_gdt(FREE, descriptor(0, 0xFFF, 0xFB, 4));
    assert_eq!(bad_transfer(small, FREE | 3, 0x1000), (vector::GP, 0));
}

#[test]
fn far_transfer_with_rpl_above_cpl_raises_gp_selector() {
    let mut m = Machine::protected();
    jmp(&mut m, CODE0 | 1, TARGET);
    assert_eq!(m.fault_code(), (vector::GP, CODE0.into()));
}

#[test]
fn far_transfer_to_an_ldt_descriptor_or_interrupt_gate_raises_gp_selector() {
    for kind in [0xE2, 0xEE, 0xE7, 0xEB] {
        let system = |m: &mut Machine| m.set_gdt(FREE, descriptor(0, 0xFFFF, kind, 0));
        assert_eq!(bad_transfer(system, FREE | 3, TARGET), (vector::GP, FREE.into()), "{kind:#x}");
    }
}

#[test]
fn far_transfer_uses_the_ldt() {
    let mut m = Machine::protected();
    m.cpu.ldtr = m.segment(LDT_SEL);
    let (low, high) = m.gdt(CODE0);
    m.write_u32(LDT, low);
    m.write_u32(LDT + 4, high);
    jmp(&mut m, 4, TARGET);
    m.step();
    assert_eq!((m.cpu.eip, m.selector(seg::CS)), (TARGET, 4));
}

// ---- CALL and RET --------------------------------------------------------------------------------

#[test]
fn call_far_pushes_cs_and_eip_and_retf_returns() {
    let mut m = Machine::protected();
    call(&mut m, CODE0, TARGET);
    code_at!(m, TARGET; retf());
    m.step();
    assert_eq!((m.stack(0), m.stack(1), m.cpu.gpr[gpr::ESP]), (CODE + 7, CODE0.into(), STACK0 - 8));
    m.step();
    assert_eq!((m.cpu.eip, m.cpu.gpr[gpr::ESP]), (CODE + 7, STACK0));
}

#[test]
fn call_far_without_room_raises_ss_0_and_pushes_nothing() {
    let mut m = Machine::user();
    m.set_gdt(FREE, descriptor(0, 0xFFF, 0xF3, 4));
    m.force_segment(seg::SS, FREE | 3);
    m.set(gpr::ESP, 4);
    call(&mut m, CODE3, TARGET);
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip, m.read_u32(0)), (vector::SS, 0, CODE, Machine::real().read_u32(0)));
}

#[test]
fn retf_releases_parameters() {
    let mut m = Machine::protected();
    call(&mut m, CODE0, TARGET);
    code_at!(m, TARGET; retf_1(0x10));
    m.step();
    m.step();
    assert_eq!((m.cpu.eip, m.cpu.gpr[gpr::ESP]), (CODE + 7, STACK0 + 0x10));
}

#[test]
fn retf_to_user_code_switches_stacks_and_nulls_inner_segments() {
    let mut m = Machine::protected();
    let top = STACK0 - 24;
    m.set(gpr::ESP, top);
    for (n, v) in [TARGET, CODE3.into(), 0xAAAA, 0xBBBB, STACK3, DATA3.into()].into_iter().enumerate() {
        m.write_u32(top + 4 * n as u32, v);
    }
    code!(m; retf_1(8));
    m.step();
    assert_eq!((m.cpu.cpl, m.cpu.eip, m.cpu.gpr[gpr::ESP]), (3, TARGET, STACK3 + 8));
    assert_eq!((m.selector(seg::SS), m.selector(seg::DS)), (DATA3, 0));
}

#[test]
fn retf_to_an_inner_level_raises_gp_selector() {
    let mut m = Machine::user();
    m.set(gpr::ESP, STACK3 - 8);
    m.write_u32(STACK3 - 8, TARGET);
    m.write_u32(STACK3 - 4, CODE0.into());
    code!(m; retf());
    assert_eq!(m.fault_code(), (vector::GP, CODE0.into()));
}

#[test]
fn retf_to_an_absent_segment_raises_np_selector() {
    let mut m = Machine::protected();
    m.set_gdt(FREE, descriptor(0, 0xF_FFFF, 0x1B, 0xC));
    m.set(gpr::ESP, STACK0 - 8);
    m.write_u32(STACK0 - 8, TARGET);
    m.write_u32(STACK0 - 4, FREE.into());
    code!(m; retf());
    assert_eq!(m.fault_code(), (vector::NP, FREE.into()));
}

#[test]
fn far_transfers_in_real_mode() {
    let mut m = Machine::real();
    m.bytes(&[0x9A, 0x00, 0x02, 0x00, 0x20]); // call 2000:0200
    m.write(0x2_0200, &[0xCB]); // retf
    m.write(CODE + 5, &[0xEA, 0x00, 0x03, 0x00, 0x20]); // jmp 2000:0300
    m.step();
    assert_eq!((m.selector(seg::CS), m.cpu.eip, m.stack16(0), m.stack16(1)), (0x2000, 0x200, 5, 0x1000));
    m.step();
    assert_eq!((m.selector(seg::CS), m.cpu.eip, m.cpu.gpr[gpr::ESP]), (0x1000, 5, 0xE000));
    m.step();
    assert_eq!((m.selector(seg::CS), m.cpu.eip, m.cpu.seg[seg::CS].base), (0x2000, 0x300, 0x2_0000));
}

#[test]
fn far_jump_in_real_mode_beyond_64_kib_raises_gp() {
    let mut m = Machine::real();
    m.bytes(&[0x66, 0xEA, 0x00, 0x00, 0x01, 0x00, 0x00, 0x20]);
    assert_eq!(m.fault().vector, vector::GP);
}

// ---- call gates ----------------------------------------------------------------------------------

#[test]
fn call_gate_to_an_inner_level_copies_parameters_to_the_new_stack() {
    let mut m = Machine::user();
    m.set_gdt(GATE, gate(CODE0, TARGET, GATE32, 3));
    m.set(gpr::ESP, STACK3 - 12);
    for (n, v) in [0x11, 0x22, 0x33].into_iter().enumerate() {
        m.write_u32(STACK3 - 12 + 4 * n as u32, v);
    }
    call(&mut m, GATE | 3, 0xDEAD_BEEF);
    m.step();
    assert_eq!((m.cpu.cpl, m.cpu.eip, m.selector(seg::CS)), (0, TARGET, CODE0));
    assert_eq!((m.selector(seg::SS), m.cpu.gpr[gpr::ESP]), (DATA0, INNER_STACK - 28));
    let frame: Vec<u32> = (0..7).map(|n| m.stack(n)).collect();
    assert_eq!(frame, [CODE + 7, CODE3.into(), 0x11, 0x22, 0x33, STACK3 - 12, DATA3.into()]);
}

#[test]
fn call_gate_returns_with_retf_that_releases_parameters_on_both_stacks() {
    let mut m = Machine::user();
    m.set_gdt(GATE, gate(CODE0, TARGET, GATE32, 2));
    code_at!(m, TARGET; retf_1(8));
    m.set(gpr::ESP, STACK3 - 8);
    call(&mut m, GATE | 3, 0);
    m.step();
    m.step();
    assert_eq!((m.cpu.cpl, m.cpu.eip, m.cpu.gpr[gpr::ESP]), (3, CODE + 7, STACK3));
}

#[test]
fn call_gate16_pushes_words() {
    let mut m = Machine::user();
    m.set_gdt(GATE, gate(CODE0, 0x4000, GATE16, 1));
    m.set(gpr::ESP, STACK3 - 2);
    m.write_u16(STACK3 - 2, 0x1111);
    call(&mut m, GATE | 3, 0);
    m.step();
    assert_eq!((m.cpu.eip, m.cpu.gpr[gpr::ESP]), (0x4000, INNER_STACK - 10));
    let frame: Vec<u16> = (0..5).map(|n| m.stack16(n)).collect();
    assert_eq!(frame, [(CODE + 7) as u16, CODE3, 0x1111, (STACK3 - 2) as u16, DATA3]);
}

#[test]
fn call_gate_at_the_same_level_copies_nothing() {
    let mut m = Machine::user();
    m.set_gdt(GATE, gate(CODE3, TARGET, GATE32, 5));
    call(&mut m, GATE | 3, 0);
    m.step();
    assert_eq!((m.cpu.cpl, m.cpu.eip, m.cpu.gpr[gpr::ESP]), (3, TARGET, STACK3 - 8));
    assert_eq!((m.stack(0), m.stack(1)), (CODE + 7, CODE3.into()));
}

#[test]
fn call_gate_to_a_conforming_segment_keeps_cpl() {
    let mut m = Machine::user();
    m.set_gdt(GATE, gate(CONFORMING0, TARGET, GATE32, 0));
    call(&mut m, GATE | 3, 0);
    m.step();
    assert_eq!((m.cpu.cpl, m.selector(seg::CS), m.cpu.gpr[gpr::ESP]), (3, CONFORMING0 | 3, STACK3 - 8));
}

#[test]
fn jmp_through_a_call_gate_stays_at_its_level() {
    let mut m = Machine::user();
    m.set_gdt(GATE, gate(CODE3, TARGET, GATE32, 0));
    jmp(&mut m, GATE | 3, 0);
    m.step();
    assert_eq!((m.cpu.eip, m.cpu.gpr[gpr::ESP]), (TARGET, STACK3));
    let mut m = Machine::user();
    m.set_gdt(GATE, gate(CODE0, TARGET, GATE32, 0));
    jmp(&mut m, GATE | 3, 0);
    assert_eq!(m.fault_code(), (vector::GP, CODE0.into()));
}

fn bad_gate(g: (u32, u32)) -> (u8, u32) {
    bad_transfer(|m| m.set_gdt(GATE, g), GATE | 3, 0)
}

#[test]
fn call_gate_with_dpl_below_cpl_raises_gp_gate() {
    assert_eq!(bad_gate(gate(CODE0, TARGET, 0x8C, 0)), (vector::GP, GATE.into()));
}

#[test]
fn call_gate_that_is_absent_raises_np_gate() {
    assert_eq!(bad_gate(gate(CODE3, TARGET, 0x6C, 0)), (vector::NP, GATE.into()));
}

#[test]
fn call_gate_with_null_selector_raises_gp_0() {
    assert_eq!(bad_gate(gate(0, TARGET, GATE32, 0)), (vector::GP, 0));
}

#[test]
fn call_gate_to_data_raises_gp_selector() {
    assert_eq!(bad_gate(gate(DATA3, TARGET, GATE32, 0)), (vector::GP, u32::from(DATA3 & !3)));
}

#[test]
fn call_gate_beyond_the_limit_raises_gp_0() {
    let setup = |m: &mut Machine| {
        m.set_gdt(FREE + 8, descriptor(0, 0xFFF, 0xFB, 4));
        m.set_gdt(GATE, gate(FREE + 8, 0x1000, GATE32, 0));
    };
    assert_eq!(bad_transfer(setup, GATE | 3, 0), (vector::GP, 0));
}

#[test]
fn call_gate_with_a_bad_inner_stack_raises_ts_and_leaves_the_state() {
    let mut m = Machine::user();
    m.set_gdt(GATE, gate(CODE1, TARGET, GATE32, 0));
    m.write_u32(TSS + 16, 0x58); // RPL 0, DPL 1
    call(&mut m, GATE | 3, 0);
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip, f.outer), (vector::TS, 0x58, CODE, Some((STACK3, DATA3))));
}

#[test]
fn call_gate_without_room_on_the_inner_stack_raises_ss_selector() {
    let mut m = Machine::user();
    m.set_gdt(GATE, gate(CODE1, TARGET, GATE32, 0));
    m.write_u32(TSS + 12, 12);
    m.set_gdt(FREE + 8, descriptor(0, 0xFFF, 0xB3, 4));
    m.write_u32(TSS + 16, u32::from(FREE + 8) | 1);
    call(&mut m, GATE | 3, 0);
    assert_eq!(m.fault_code(), (vector::SS, u32::from(FREE + 8)));
}

#[test]
fn call_gate_with_unreadable_parameters_raises_pf_and_leaves_the_state() {
    let mut m = Machine::user();
    m.enable_paging();
    m.set_gdt(GATE, gate(CODE0, TARGET, GATE32, 2));
    m.set(gpr::ESP, 0x2_FFFC);
    m.set_pte(0x3_0000, 0);
    call(&mut m, GATE | 3, 0);
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip, m.cpu.cr2), (vector::PF, 4, CODE, 0x3_0000));
    assert_eq!(f.outer, Some((0x2_FFFC, DATA3)));
}

// ---- SYSENTER, SYSEXIT ---------------------------------------------------------------------------

#[test]
fn sysenter_enters_flat_ring_0_with_interrupts_off() {
    let mut m = Machine::user();
    m.cpu.sysenter_cs = 0x8B;
    m.cpu.sysenter_esp = 0x9000;
    m.cpu.sysenter_eip = TARGET;
    m.cpu.set_eflags(0x3202);
    code!(m; sysenter());
    m.step();
    assert_eq!((m.cpu.cpl, m.cpu.eip, m.cpu.gpr[gpr::ESP]), (0, TARGET, 0x9000));
    assert_eq!((m.selector(seg::CS), m.selector(seg::SS)), (0x88, 0x90));
    assert_eq!((m.cpu.seg[seg::CS].base, m.cpu.seg[seg::CS].limit), (0, u32::MAX));
    assert_eq!((m.cpu.seg[seg::CS].attr, m.cpu.seg[seg::SS].attr), (0xC09B, 0xC093));
    assert_eq!(m.cpu.eflags(), 0x3002);
}

#[test]
fn sysenter_without_a_target_or_in_real_mode_raises_gp_0() {
    let mut m = Machine::user();
    m.cpu.sysenter_cs = 3;
    code!(m; sysenter());
    assert_eq!(m.fault_code(), (vector::GP, 0));
    let mut m = Machine::real();
    m.cpu.sysenter_cs = 8;
    code!(m; sysenter());
    assert_eq!(m.fault().vector, vector::GP);
}

#[test]
fn sysexit_enters_flat_ring_3() {
    let mut m = Machine::protected();
    m.cpu.sysenter_cs = 0x88;
    m.set(gpr::ECX, 0x9000).set(gpr::EDX, TARGET);
    code!(m; sysexit());
    m.step();
    assert_eq!((m.cpu.cpl, m.cpu.eip, m.cpu.gpr[gpr::ESP]), (3, TARGET, 0x9000));
    assert_eq!((m.selector(seg::CS), m.selector(seg::SS)), (0x9B, 0xA3));
    assert_eq!((m.cpu.seg[seg::CS].attr, m.cpu.seg[seg::SS].attr), (0xC0FB, 0xC0F3));
}

#[test]
fn sysexit_above_cpl_0_or_without_a_target_raises_gp_0() {
    let mut m = Machine::user();
    m.cpu.sysenter_cs = 0x88;
    code!(m; sysexit());
    assert_eq!(m.fault_code(), (vector::GP, 0));
    let mut m = Machine::protected();
    code!(m; sysexit());
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

#[test]
fn sysenter_and_sysexit_change_the_page_rights() {
    let mut m = Machine::user();
    m.enable_paging();
    m.set_pte(DATA, DATA | 3);
    m.cpu.sysenter_cs = CODE0.into();
    m.cpu.sysenter_esp = STACK0;
    m.cpu.sysenter_eip = TARGET;
    code!(m; sysenter());
    code_at!(m, TARGET; mov(eax, dword_ptr(DATA)); mov(edx, TARGET + 0x100); mov(ecx, STACK3); sysexit());
    code_at!(m, TARGET + 0x100; mov(eax, dword_ptr(DATA)));
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip), (vector::PF, 5, TARGET + 0x100));
}
