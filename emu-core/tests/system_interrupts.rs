//! Delivery of interrupts and exceptions: gates, stacks, error codes, double and triple faults.

mod common;

use common::*;
use emu_core::cpu::{gpr, seg, vector};
use emu_core::engine::Exit;
use iced_x86::code_asm::*;

/// Access bytes of gates with DPL 3.
const INTERRUPT32: u32 = 0xEE;
const TRAP32: u32 = 0xEF;
const INTERRUPT16: u32 = 0xE6;

// ---- gates ---------------------------------------------------------------------------------------

#[test]
fn interrupt_gate_pushes_eflags_cs_eip_and_clears_if() {
    let mut m = Machine::protected();
    code!(m; sti(); int(0x80));
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.cs, f.eflags), (0x80, CODE + 3, CODE0, 0x202));
    assert_eq!((f.sp, f.outer), (STACK0 - 12, None));
    assert_eq!(m.cpu.eflags & 0x200, 0);
}

#[test]
fn trap_gate_leaves_if() {
    let mut m = Machine::protected();
    m.set_idt(0x80, gate(CODE0, Machine::handler(0x80), TRAP32, 0));
    code!(m; sti(); int(0x80));
    m.fault();
    assert_eq!(m.cpu.eflags & 0x200, 0x200);
}

#[test]
fn interrupt_gate16_pushes_words() {
    let mut m = Machine::protected();
    m.set_idt(0x80, gate(CODE0, Machine::handler(0x80), INTERRUPT16, 0));
    m.cpu.set_eflags(0x0020_0002);
    code!(m; int(0x80));
    m.step();
    assert_eq!(m.cpu.eip, Machine::handler(0x80));
    assert_eq!(m.cpu.gpr[gpr::ESP], STACK0 - 6);
    assert_eq!((m.stack16(0), m.stack16(1), m.stack16(2)), ((CODE + 2) as u16, CODE0, 2));
}

#[test]
fn interrupt_gate16_drops_the_upper_half_of_its_offset() {
    let mut m = Machine::protected();
    m.set_idt(0x80, gate(CODE0, 0x1_0000 | Machine::handler(0x80), INTERRUPT16, 0));
    code!(m; int(0x80));
    m.step();
    assert_eq!(m.cpu.eip, Machine::handler(0x80));
}

#[test]
fn interrupt_clears_tf_nt_and_rf_in_the_handler() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(0x4002);
    code!(m; int(0x80));
    assert_eq!(m.fault().eflags, 0x4002);
    assert_eq!(m.cpu.eflags & 0x1_4100, 0);
}

#[test]
fn interrupt_from_user_code_switches_to_the_tss_stack() {
    let mut m = Machine::user();
    code!(m; int(0x80));
    let f = m.fault();
    assert_eq!((f.eip, f.cs, f.outer), (CODE + 2, CODE3, Some((STACK3, DATA3))));
    assert_eq!((f.sp, m.cpu.cpl), (INNER_STACK - 20, 0));
    assert_eq!((m.selector(seg::CS), m.selector(seg::SS)), (CODE0, DATA0));
    assert_eq!(m.selector(seg::DS), DATA3);
}

#[test]
fn interrupt_from_user_code_to_ring_1_uses_the_ring_1_stack() {
    let mut m = Machine::user();
    m.set_idt(0x80, gate(CODE1, Machine::handler(0x80), INTERRUPT32, 0));
    code!(m; int(0x80));
    m.step();
    assert_eq!((m.cpu.cpl, m.selector(seg::CS), m.selector(seg::SS)), (1, CODE1, DATA1));
    assert_eq!(m.cpu.gpr[gpr::ESP], INNER_STACK - 0x800 - 20);
}

#[test]
fn interrupt_takes_its_stack_from_a_16_bit_tss() {
    let mut m = Machine::user();
    m.cpu.tr.attr = 0x83;
    m.write_u16(TSS + 2, 0x9000);
    m.write_u16(TSS + 4, DATA0);
    code!(m; int(0x80));
    m.step();
    assert_eq!((m.cpu.gpr[gpr::ESP], m.selector(seg::SS)), (0x9000 - 20, DATA0));
}

#[test]
fn interrupt_to_a_conforming_segment_keeps_cpl_and_stack() {
    let mut m = Machine::user();
    m.set_idt(0x80, gate(CONFORMING0, Machine::handler(0x80), INTERRUPT32, 0));
    code!(m; int(0x80));
    m.step();
    assert_eq!((m.cpu.cpl, m.selector(seg::CS)), (3, CONFORMING0 | 3));
    assert_eq!((m.cpu.gpr[gpr::ESP], m.stack(0), m.stack(1)), (STACK3 - 12, CODE + 2, CODE3.into()));
}

#[test]
fn interrupt_with_16_bit_inner_stack_changes_sp_only() {
    let mut m = Machine::user();
    m.write_u32(TSS + 4, 0x1234_9000);
    m.write_u32(TSS + 8, DATA0_16.into());
    m.set(gpr::ESP, 0x5678_0000);
    code!(m; int(0x80));
    m.step();
    assert_eq!(m.cpu.gpr[gpr::ESP], 0x5678_9000 - 20);
    assert_eq!(m.read_u32(0x9000 - 8), 0x5678_0000);
}

#[test]
fn interrupt_sets_the_accessed_bits_of_its_segments() {
    let mut m = Machine::user();
    m.set_gdt(CODE0, descriptor(0, 0xF_FFFF, 0x9A, 0xC));
    m.set_gdt(DATA0, descriptor(0, 0xF_FFFF, 0x92, 0xC));
    code!(m; int(0x80));
    m.fault();
    assert_eq!(m.gdt(CODE0).1 >> 8 & 0xFF, 0x9B);
    assert_eq!(m.gdt(DATA0).1 >> 8 & 0xFF, 0x93);
}

#[test]
fn int3_and_into_use_their_vectors_and_return_behind_themselves() {
    let mut m = Machine::protected();
    code!(m; int3());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.eflags), (3, CODE + 1, 2));
    let mut m = Machine::protected();
    code!(m; mov(al, 0x7F); inc(al); into());
    let f = m.fault();
    assert_eq!((f.vector, f.eip), (4, CODE + 5));
}

#[test]
fn into_without_of_does_nothing() {
    let mut m = Machine::protected();
    code!(m; into(); hlt());
    m.finish();
}

#[test]
fn bound_raises_br_outside_its_bounds_only() {
    for (index, inside) in [(-5i32, false), (-4, true), (0, true), (10, true), (11, false)] {
        let mut m = Machine::protected();
        m.write_u32(DATA, -4i32 as u32);
        m.write_u32(DATA + 4, 10);
        m.set(gpr::EAX, index as u32);
        code!(m; bound(eax, qword_ptr(DATA)); hlt());
        if inside {
            m.finish();
        } else {
            let f = m.fault();
            assert_eq!((f.vector, f.eip), (vector::BR, CODE), "{index}");
        }
    }
}

// ---- checks of gates and code segments -----------------------------------------------------------

/// Vector and error code of INT 80h at CPL 0 with its gate changed.
fn int_80_through(low_high: (u32, u32)) -> (u8, u32) {
    let mut m = Machine::protected();
    m.set_idt(0x80, low_high);
    code!(m; int(0x80));
    let f = m.fault();
    assert_eq!(f.eip, CODE);
    (f.vector, f.error)
}

#[test]
fn int_through_a_gate_that_is_not_present_raises_np_with_idt_error() {
    assert_eq!(int_80_through(gate(CODE0, 0x4000, 0x6E, 0)), (vector::NP, 0x402));
}

#[test]
fn int_through_an_entry_that_is_no_interrupt_gate_raises_gp_with_idt_error() {
    for kind in [0x8C, 0x84, 0x89, 0x82, 0x93, 0x9B, 0x80] {
        assert_eq!(int_80_through(gate(CODE0, 0x4000, kind | 0x60, 0)), (vector::GP, 0x402), "{kind:#x}");
    }
}

#[test]
fn int_beyond_the_idt_limit_raises_gp_with_idt_error() {
    let mut m = Machine::protected();
    m.cpu.idtr.limit = 0x406;
    code!(m; int(0x80));
    assert_eq!(m.fault_code(), (vector::GP, 0x402));
}

#[test]
fn int_gate_with_null_selector_raises_gp_0() {
    assert_eq!(int_80_through(gate(3, 0x4000, INTERRUPT32, 0)), (vector::GP, 0));
}

#[test]
fn int_gate_with_selector_outside_the_gdt_raises_gp_selector() {
    assert_eq!(int_80_through(gate(0xC0, 0x4000, INTERRUPT32, 0)), (vector::GP, 0xC0));
}

#[test]
fn int_gate_to_a_data_segment_raises_gp_selector() {
    assert_eq!(int_80_through(gate(DATA0, 0x4000, INTERRUPT32, 0)), (vector::GP, DATA0.into()));
}

#[test]
fn int_gate_to_a_less_privileged_segment_raises_gp_selector() {
    assert_eq!(int_80_through(gate(CODE3, 0x4000, INTERRUPT32, 0)), (vector::GP, 0x18));
}

#[test]
fn int_gate_to_an_absent_segment_raises_np_selector() {
    let mut m = Machine::protected();
    m.set_gdt(FREE, descriptor(0, 0xF_FFFF, 0x1B, 0xC));
    m.set_idt(0x80, gate(FREE, 0x4000, INTERRUPT32, 0));
    code!(m; int(0x80));
    assert_eq!(m.fault_code(), (vector::NP, FREE.into()));
}

#[test]
fn int_gate_with_offset_beyond_the_code_limit_raises_gp_0() {
    assert_eq!(int_80_through(gate(CODE0_16, 0x1_0000, INTERRUPT32, 0)), (vector::GP, 0));
}

#[test]
fn int_n_from_user_code_through_a_dpl_0_gate_raises_gp_with_idt_error() {
    let mut m = Machine::user();
    m.set_idt(0x80, gate(CODE0, 0x4000, 0x8E, 0));
    code!(m; int(0x80));
    assert_eq!(m.fault_code(), (vector::GP, 0x402));
}

#[test]
fn int3_from_user_code_through_a_dpl_0_gate_raises_gp_with_idt_error() {
    let mut m = Machine::user();
    m.set_idt(3, gate(CODE0, Machine::handler(3), 0x8E, 0));
    code!(m; int3());
    assert_eq!(m.fault_code(), (vector::GP, 3 * 8 + 2));
}

#[test]
fn int1_exceptions_and_interrupts_ignore_the_gate_privilege() {
    let mut m = Machine::user();
    m.set_idt(1, gate(CODE0, Machine::handler(1), 0x8E, 0));
    m.bytes(&[0xF1]);
    let f = m.fault();
    assert_eq!((f.vector, f.eip), (1, CODE + 1));
    let mut m = Machine::user();
    m.set_idt(6, gate(CODE0, Machine::handler(6), 0x8E, 0));
    code!(m; ud2());
    assert_eq!(m.fault().vector, 6);
    let mut m = Machine::user();
    m.set_idt(0x30, gate(CODE0, Machine::handler(0x30), 0x8E, 0));
    m.cpu.set_eflags(0x202);
    m.bus.interrupts.push_back(0x30);
    code!(m; nop());
    assert_eq!(m.fault().vector, 0x30);
}

#[test]
fn error_code_has_ext_when_the_event_is_external() {
    // exception
    let mut m = Machine::protected();
    m.set_idt(6, gate(CODE0, 0, 0x6E, 0));
    code!(m; ud2());
    assert_eq!(m.fault_code(), (vector::NP, 6 * 8 + 3));
    // interrupt
    let mut m = Machine::protected();
    m.set_idt(0x30, gate(DATA0, 0, INTERRUPT32, 0));
    m.cpu.set_eflags(0x202);
    m.bus.interrupts.push_back(0x30);
    code!(m; nop());
    assert_eq!(m.fault_code(), (vector::GP, u32::from(DATA0) + 1));
}

// ---- checks of the inner stack -------------------------------------------------------------------

/// INT 80h from user code with a broken TSS; #TS and #SS go to conforming handlers, which need no
/// stack of the TSS. Returns vector and error code.
fn int_80_with_tss(change: impl FnOnce(&mut Machine)) -> (u8, u32) {
    let mut m = Machine::user();
    for v in [vector::TS, vector::SS, vector::GP] {
        m.set_idt(v, gate(CONFORMING0, Machine::handler(v), INTERRUPT32, 0));
    }
    change(&mut m);
    code!(m; int(0x80));
    m.step();
    assert_eq!((m.cpu.cpl, m.stack(1), m.stack(2)), (3, CODE, CODE3.into()));
    (((m.cpu.eip - HANDLERS) / 16) as u8, m.stack(0))
}

#[test]
fn inner_stack_outside_the_tss_raises_ts_with_tr() {
    assert_eq!(int_80_with_tss(|m| m.cpu.tr.limit = 8), (vector::TS, TSS_SEL.into()));
}

#[test]
fn inner_stack_with_null_ss_raises_ts_0() {
    assert_eq!(int_80_with_tss(|m| m.write_u32(TSS + 8, 0)), (vector::TS, 0));
}

#[test]
fn inner_stack_with_ss_outside_the_gdt_raises_ts_selector() {
    assert_eq!(int_80_with_tss(|m| m.write_u32(TSS + 8, 0xC0)), (vector::TS, 0xC0));
}

#[test]
fn inner_stack_with_wrong_rpl_raises_ts_selector() {
    assert_eq!(int_80_with_tss(|m| m.write_u32(TSS + 8, 0x13)), (vector::TS, 0x10));
}

#[test]
fn inner_stack_with_wrong_dpl_raises_ts_selector() {
    assert_eq!(int_80_with_tss(|m| m.write_u32(TSS + 8, 0x20)), (vector::TS, 0x20));
}

#[test]
fn inner_stack_in_a_read_only_segment_raises_ts_selector() {
    let e = int_80_with_tss(|m| m.write_u32(TSS + 8, READ_ONLY.into()));
    assert_eq!(e, (vector::TS, READ_ONLY.into()));
}

#[test]
fn inner_stack_that_is_absent_raises_ss_selector() {
    let e = int_80_with_tss(|m| m.write_u32(TSS + 8, ABSENT_DATA.into()));
    assert_eq!(e, (vector::SS, ABSENT_DATA.into()));
}

#[test]
fn inner_stack_without_room_raises_ss_selector() {
    let e = int_80_with_tss(|m| {
        m.set_gdt(FREE, descriptor(0, 0xFFF, 0x93, 4));
        m.write_u32(TSS + 8, FREE.into());
    });
    assert_eq!(e, (vector::SS, FREE.into()));
}

#[test]
fn inner_stack_in_an_unmapped_page_raises_pf_and_leaves_the_state() {
    let mut m = Machine::user();
    m.enable_paging();
    m.write_u32(TSS + 12, 0x3_0008);
    m.set_pte(0x2_F000, 0);
    m.set_idt(0x80, gate(CODE1, Machine::handler(0x80), INTERRUPT32, 0));
    code!(m; int(0x80));
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip, f.cs), (vector::PF, 2, CODE, CODE3));
    assert_eq!(f.outer, Some((STACK3, DATA3)));
    assert_eq!(m.cpu.cr2, 0x2_FFFC);
    // What fitted into the mapped page was not stored either.
    assert_eq!(m.read_u32(0x3_0000), 0);
}

#[test]
fn same_level_stack_without_room_raises_ss_0() {
    let mut m = Machine::user();
    m.set_gdt(FREE, descriptor(0, 0xFFF, 0xF3, 4));
    m.force_segment(seg::SS, FREE | 3);
    m.set(gpr::ESP, 8);
    m.set_idt(0x80, gate(CONFORMING0, Machine::handler(0x80), INTERRUPT32, 0));
    code!(m; int(0x80));
    assert_eq!(m.fault_code(), (vector::SS, 0));
}

// ---- double and triple faults --------------------------------------------------------------------

fn absent(m: &mut Machine, vectors: &[u8]) {
    for &v in vectors {
        m.set_idt(v, gate(CODE0, 0, 0x6E, 0));
    }
}

#[test]
fn double_fault_after_two_contributory_exceptions() {
    let mut m = Machine::protected();
    absent(&mut m, &[vector::GP]);
    code!(m; mov(eax, 0xC0u32); mov(ds, ax));
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip), (vector::DF, 0, CODE + 5));
}

#[test]
fn double_fault_after_page_fault_and_contributory_exception() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.set_pte(DATA, 0);
    absent(&mut m, &[vector::PF]);
    code!(m; mov(eax, dword_ptr(DATA)));
    let f = m.fault();
    assert_eq!((f.vector, f.error, m.cpu.cr2), (vector::DF, 0, DATA));
}

/// Moves the IDT so that vectors from `first` on lie in an unmapped page.
fn split_idt(m: &mut Machine, first: u32) -> u32 {
    let base = 0x8_1000 - first * 8;
    for n in 0..0x200 {
        let v = m.read_u32(IDT + n * 4);
        m.write_u32(base + n * 4, v);
    }
    m.cpu.idtr.base = base;
    m.enable_paging();
    m.set_pte(0x8_1000, 0);
    base
}

#[test]
fn double_fault_after_two_page_faults_and_cr2_has_the_second() {
    let mut m = Machine::protected();
    let base = split_idt(&mut m, 9);
    m.set_pte(DATA, 0);
    code!(m; mov(eax, dword_ptr(DATA)));
    assert_eq!(m.fault_code(), (vector::DF, 0));
    assert_eq!(m.cpu.cr2, base + 14 * 8);
}

#[test]
fn page_fault_while_delivering_a_contributory_exception_is_served() {
    let mut m = Machine::protected();
    split_idt(&mut m, 14);
    // Only the entry of #GP lies in the unmapped page: it is the last one of the first page's copy.
    m.set_pte(0x8_1000, 0x8_1007);
    m.set_pte(0x8_0000, 0);
    code!(m; mov(eax, 0xC0u32); mov(ds, ax));
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip), (vector::PF, 0, CODE + 5));
}

#[test]
fn contributory_exception_while_delivering_a_benign_one_is_served() {
    let mut m = Machine::protected();
    absent(&mut m, &[vector::UD]);
    code!(m; ud2());
    assert_eq!(m.fault().vector, vector::NP);
}

#[test]
fn triple_fault_shuts_down() {
    let mut m = Machine::protected();
    absent(&mut m, &[vector::GP, vector::DF]);
    code!(m; mov(eax, 0xC0u32); mov(ds, ax));
    assert_eq!(m.run(100), Exit::Shutdown);
    assert_eq!(m.cpu.eip, CODE + 5);
}

#[test]
fn triple_fault_without_an_idt_shuts_down() {
    let mut m = Machine::protected();
    m.cpu.idtr.limit = 0;
    code!(m; int3());
    assert_eq!(m.run(100), Exit::Shutdown);
}

#[test]
fn exceptions_without_end_use_up_the_budget() {
    let mut m = Machine::protected();
    m.write(Machine::handler(6), &[0x0F, 0x0B]);
    code!(m; ud2());
    assert_eq!(m.run(1000), Exit::Budget);
    assert_eq!(m.cpu.retired, 1000);
}

// ---- external interrupts, NMI, HLT ---------------------------------------------------------------

#[test]
fn interrupt_waits_for_if() {
    let mut m = Machine::protected();
    m.bus.interrupts.push_back(0x30);
    code!(m; nop(); sti(); nop(); hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.eip), (0x30, CODE + 3));
}

#[test]
fn interrupt_raised_by_out_is_taken_behind_it() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(0x202);
    m.bus.trigger = Some(0x80);
    code!(m; mov(al, 0x31); out(0x80, al); inc(eax); hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.eip), (0x31, CODE + 4));
}

#[test]
fn hlt_ends_with_an_interrupt_that_returns_behind_it() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(0x202);
    code!(m; hlt());
    assert_eq!(m.run(10), Exit::Halted);
    assert!(m.cpu.halted);
    assert_eq!(m.run(10), Exit::Halted);
    m.bus.interrupts.push_back(0x30);
    let f = m.fault();
    assert_eq!((f.vector, f.eip), (0x30, CODE + 1));
}

#[test]
fn hlt_with_if_clear_ignores_interrupts_but_not_nmi() {
    let mut m = Machine::protected();
    code!(m; hlt());
    m.bus.interrupts.push_back(0x30);
    m.finish();
    m.bus.nmi = true;
    assert_eq!(m.fault().vector, vector::NMI);
}

#[test]
fn nmi_is_blocked_until_iret() {
    let mut m = Machine::protected();
    code_at!(m, Machine::handler(2); inc(ebx); iretd());
    code!(m; nop(); nop(); hlt());
    m.bus.nmi = true;
    m.step();
    assert!(m.cpu.nmi_blocked);
    m.bus.nmi = true;
    assert_eq!(m.cpu.eip, Machine::handler(2) + 1);
    // IRET lets the second one in at once.
    m.step();
    assert_eq!((m.cpu.gpr[gpr::EBX], m.cpu.eip), (1, Machine::handler(2)));
    assert!(m.cpu.nmi_blocked && !m.bus.nmi);
    m.run(100);
    assert_eq!(m.cpu.gpr[gpr::EBX], 2);
    assert_eq!(m.cpu.eip, CODE + 3);
    assert!(!m.cpu.nmi_blocked);
}

#[test]
fn sti_delays_interrupts_by_one_instruction() {
    let mut m = Machine::protected();
    m.bus.interrupts.push_back(0x30);
    code!(m; sti(); inc(eax); inc(eax); hlt());
    let f = m.fault();
    assert_eq!((f.eip, m.eax()), (CODE + 2, 1));
}

#[test]
fn sti_with_if_set_delays_nothing() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(0x202);
    m.bus.trigger = Some(0x80);
    code!(m; mov(al, 0x31); sti(); out(0x80, al); hlt());
    assert_eq!(m.fault().eip, CODE + 5);
}

#[test]
fn sti_cli_pair_lets_no_interrupt_in() {
    let mut m = Machine::protected();
    m.bus.interrupts.push_back(0x30);
    code!(m; sti(); cli(); nop(); hlt());
    m.finish();
}

#[test]
fn sti_hlt_pair_sleeps_before_the_interrupt_is_taken() {
    let mut m = Machine::protected();
    m.bus.interrupts.push_back(0x30);
    code!(m; sti(); hlt());
    assert_eq!(m.fault().eip, CODE + 2);
}

#[test]
fn mov_ss_delays_interrupts_by_one_instruction() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(0x202);
    m.bus.trigger = Some(0x80);
    // The interrupt is pending when MOV SS ends: OUT raises it while IF is clear.
    m.cpu.set_eflags(2);
    code!(m; mov(al, 0x31); out(0x80, al); mov(ecx, ss); sti(); mov(ss, cx); inc(ebx); inc(ebx); hlt());
    let f = m.fault();
    assert_eq!((f.vector, m.cpu.gpr[gpr::EBX]), (0x31, 1));
}

#[test]
fn pop_ss_delays_interrupts_by_one_instruction() {
    let mut m = Machine::protected();
    m.bus.interrupts.push_back(0x31);
    code!(m; push(ss); sti(); pop(ss); inc(ebx); inc(ebx); hlt());
    m.fault();
    assert_eq!(m.cpu.gpr[gpr::EBX], 1);
}

#[test]
fn lss_delays_nothing() {
    let mut m = Machine::protected();
    m.write_u32(DATA, STACK0);
    m.write_u16(DATA + 4, DATA0);
    m.bus.interrupts.push_back(0x31);
    code!(m; sti(); lss(esp, fword_ptr(DATA)); inc(ebx); hlt());
    m.fault();
    assert_eq!(m.cpu.gpr[gpr::EBX], 0);
}

// ---- real mode -----------------------------------------------------------------------------------

#[test]
fn real_mode_int_pushes_flags_cs_ip_and_clears_if_tf() {
    let mut m = Machine::real();
    m.cpu.set_eflags(0x4_0202);
    code!(m; int(0x21));
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.cs, f.eflags), (0x21, 2, 0x1000, 0x202));
    assert_eq!(f.sp, 0xE000 - 6);
    assert_eq!(m.cpu.eflags & 0x4_0300, 0);
}

#[test]
fn real_mode_exception_pushes_no_error_code() {
    let mut m = Machine::real();
    code!(m; ud2());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.sp), (6, 0, 0xE000 - 6));
}

#[test]
fn real_mode_vectors_come_from_the_idtr() {
    let mut m = Machine::real();
    m.cpu.idtr.base = 0x800;
    m.write_u32(0x800 + 0x21 * 4, 0x0400_0550);
    code!(m; int(0x21));
    assert_eq!(m.fault().vector, 0x55);
}

#[test]
fn real_mode_vector_beyond_the_idt_limit_raises_gp() {
    let mut m = Machine::real();
    m.cpu.idtr.limit = 0x37;
    code!(m; int(0x21));
    let f = m.fault();
    assert_eq!((f.vector, f.eip), (vector::GP, 0));
}

#[test]
fn real_mode_without_room_on_the_stack_shuts_down() {
    let mut m = Machine::real();
    m.set(gpr::ESP, 1);
    code!(m; int(0x21));
    assert_eq!(m.run(10), Exit::Shutdown);
}

#[test]
fn real_mode_stack_wraps_at_64_kib() {
    let mut m = Machine::real();
    m.set(gpr::ESP, 0xABCD_0002);
    code!(m; int(0x21));
    m.step();
    assert_eq!(m.cpu.gpr[gpr::ESP], 0xABCD_FFFC);
    assert_eq!((m.read_u16(0xFFFC), m.read_u16(0xFFFE), m.read_u16(0)), (2, 0x1000, 2));
}

#[test]
fn real_mode_interrupt_is_taken_and_returns() {
    let mut m = Machine::real();
    m.write(HANDLERS + 0x300, &[0x43, 0xCF]); // inc bx; iret
    m.cpu.set_eflags(0x202);
    m.bus.interrupts.push_back(0x30);
    code!(m; nop(); hlt());
    m.finish();
    assert_eq!((m.cpu.gpr[gpr::EBX], m.cpu.eip, m.cpu.gpr[gpr::ESP]), (1, 2, 0xE000));
    assert_eq!(m.cpu.eflags & 0x200, 0x200);
}
