//! Interrupt and exception delivery.

mod common;

use common::*;

#[test]
fn int_n_in_protected_mode_pushes_eflags_cs_eip() {
    let mut m = Machine::protected();
    m.code(|a| {
        a.sti().unwrap();
        a.int(0x80).unwrap();
    });
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.cs, f.eflags), (0x80, CODE + 3, CODE0, 0x202));
    assert_eq!(f.sp, STACK0 - 12);
    assert_eq!(m.cpu.eflags & 0x200, 0);
}

#[test]
fn ud_from_user_code_switches_to_the_tss_stack() {
    let mut m = Machine::user();
    m.code(|a| a.ud2().unwrap());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.cs, f.outer), (6, CODE, CODE3, Some((STACK3, DATA3))));
    assert_eq!(f.eflags, 0x10002);
    assert_eq!(m.cpu.cpl, 0);
}

#[test]
fn real_mode_int_pushes_flags_cs_ip() {
    let mut m = Machine::real();
    m.code(|a| a.int(0x21).unwrap());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.cs, f.eflags), (0x21, 2, 0x1000, 2));
}

#[test]
fn vm86_fault_saves_and_clears_the_data_segments() {
    let mut m = Machine::vm86(3);
    m.code(|a| a.hlt().unwrap());
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip, f.cs), (13, 0, 0, 0x1000));
    assert_eq!(f.outer, Some((0xF000, 0x1000)));
    assert_eq!(m.cpu.seg[emu_core::cpu::seg::DS].selector, 0);
}
