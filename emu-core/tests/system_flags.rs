//! Flag instructions: CLI, STI, PUSHF, POPF and their privileges; alignment checks.

mod common;

use common::*;
use emu_core::cpu::{cr0, gpr, vector};
use iced_x86::code_asm::*;

#[test]
fn carry_and_direction_flags() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(0x8D7);
    code!(m; clc(); cld(); pushfd(); pop(eax); stc(); std(); pushfd(); pop(ebx); cmc(); pushfd(); pop(ecx); hlt());
    m.finish();
    assert_eq!((m.eax(), m.cpu.gpr[gpr::EBX], m.cpu.gpr[gpr::ECX]), (0x8D6, 0xCD7, 0xCD6));
}

#[test]
fn lahf_sahf_and_salc() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(0x8D7);
    m.bytes(&[
        0x9F, // lahf
        0x89, 0xC3, // mov ebx, eax
        0xB4, 0x00, 0x9E, // mov ah, 0; sahf
        0xD6, 0x89, 0xC1, // salc; mov ecx, eax
        0xB4, 0xFF, 0x9E, 0xD6, 0xF4, // mov ah, ffh; sahf; salc; hlt
    ]);
    m.finish();
    assert_eq!((m.cpu.gpr[gpr::EBX], m.cpu.gpr[gpr::ECX] & 0xFF, m.eax()), (0xD700, 0, 0xFFFF));
    assert_eq!(m.cpu.eflags(), 0x8D7);
}

#[test]
fn popfd_at_cpl_0_loads_all_but_vm_rf_vif_vip() {
    let mut m = Machine::protected();
    code!(m; push(0xFFFF_FEFFu32 as i32); popfd(); pushfd(); pop(eax); hlt());
    m.finish();
    assert_eq!(m.eax(), 0x24_7ED7);
    m.cpu.halted = false;
    code!(m; push(0i32); popfd(); pushfd(); pop(eax); hlt());
    m.finish();
    assert_eq!(m.eax(), 2);
}

#[test]
fn popf16_keeps_the_upper_half() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(0x24_0002);
    m.set(gpr::EBX, 0x0ED7);
    code!(m; push(bx); popf(); pushfd(); pop(eax); hlt());
    m.finish();
    assert_eq!((m.eax(), m.cpu.gpr[gpr::ESP]), (0x24_0ED7, STACK0));
}

#[test]
fn popf_above_cpl_0_keeps_iopl_and_above_iopl_keeps_if() {
    let mut m = Machine::user();
    m.cpu.set_eflags(0x202);
    code!(m; push(0x3002i32); popfd(); int3());
    assert_eq!(m.fault().eflags, 0x202);
    let mut m = Machine::user();
    m.cpu.set_eflags(0x3202);
    code!(m; push(2i32); popfd(); int3());
    assert_eq!(m.fault().eflags, 0x3002);
}

#[test]
fn popf_that_sets_if_lets_a_pending_interrupt_in_at_once() {
    let mut m = Machine::protected();
    m.bus.interrupts.push_back(0x30);
    code!(m; push(0x202i32); popfd(); inc(eax));
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.eax()), (0x30, CODE + 6, 0));
}

#[test]
fn popf_faults_before_any_change() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.set(gpr::ESP, 0x3_0000);
    m.set_pte(0x3_0000, 0);
    code!(m; popfd());
    let f = m.fault();
    assert_eq!((f.vector, f.eflags & !0x1_0000), (vector::PF, 2));
}

#[test]
fn cli_and_sti_above_iopl_raise_gp_0() {
    for bytes in [[0xFA], [0xFB]] {
        let mut m = Machine::user();
        m.cpu.set_eflags(0x2002);
        m.bytes(&bytes);
        assert_eq!(m.fault_code(), (vector::GP, 0));
        let mut m = Machine::user();
        m.cpu.set_eflags(0x3002);
        m.bytes(&[bytes[0], 0xCC]);
        let f = m.fault();
        assert_eq!((f.vector, f.eflags & 0x200), (3, if bytes[0] == 0xFB { 0x200 } else { 0 }));
    }
}

#[test]
fn misaligned_access_at_cpl_3_with_ac_and_am_raises_ac_0() {
    let run = |user: bool, am: bool, ac: bool| {
        let mut m = if user { Machine::user() } else { Machine::protected() };
        if am {
            m.cpu.cr0 |= cr0::AM;
        }
        code!(m; push(if ac { 0x4_0002 } else { 2i32 }); popfd(); mov(eax, dword_ptr(DATA)); mov(eax, dword_ptr(DATA + 1)); int3());
        m.fault_code()
    };
    assert_eq!(run(true, true, true), (vector::AC, 0));
    assert_eq!(run(false, true, true), (3, 0));
    assert_eq!(run(true, false, true), (3, 0));
    assert_eq!(run(true, true, false), (3, 0));
}

#[test]
fn stored_pseudo_descriptor_has_to_lie_at_an_odd_word_address() {
    let run = |at: u32| {
        let mut m = Machine::user();
        m.cpu.cr0 |= cr0::AM;
        m.cpu.set_eflags(0x4_0002);
        m.cpu.update_alignment_check();
        code!(m; sgdt(ptr(DATA + at)); int3());
        m.fault_code()
    };
    for at in [0, 1, 3, 4] {
        assert_eq!(run(at), (vector::AC, 0), "at {at}");
    }
    assert_eq!(run(2), (3, 0));
}

#[test]
fn alignment_check_ends_with_the_entry_to_ring_0() {
    let mut m = Machine::user();
    m.cpu.cr0 |= cr0::AM;
    m.cpu.set_eflags(0x4_0002);
    m.cpu.update_alignment_check();
    code_at!(m, Machine::handler(0x80); mov(eax, dword_ptr(DATA + 1)); hlt());
    code!(m; int(0x80));
    m.fault();
    assert!(!m.cpu.alignment_checked);
}
