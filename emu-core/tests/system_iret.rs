//! IRET in real and protected mode. VM86 mode: `system_vm86.rs`; task return: `system_tasks.rs`.

mod common;

use common::*;
use emu_core::cpu::{gpr, seg, vector};

/// Puts dwords on the stack, the first at the top.
fn frame(m: &mut Machine, values: &[u32]) {
    let top = m.cpu.gpr[gpr::ESP] - 4 * values.len() as u32;
    m.set(gpr::ESP, top);
    for (&v, n) in values.iter().zip(0..) {
        m.write_u32(m.cpu.seg[seg::SS].base + top + 4 * n, v);
    }
}

const TARGET: u32 = CODE + 0x100;
/// Bits of EFLAGS that IRETD can load at CPL 0: all but VM and the fixed ones.
const LOADABLE: u32 = 0x3D_7FD5;

#[test]
fn iretd_to_the_same_level_loads_eflags_cs_eip() {
    let mut m = Machine::protected();
    code!(m; iretd());
    frame(&mut m, &[TARGET, CODE0.into(), 0x3C_7ED7]);
    m.step();
    assert_eq!((m.cpu.eip, m.cpu.gpr[gpr::ESP]), (TARGET, STACK0));
    assert_eq!(m.cpu.eflags(), 0x3C_7ED7);
}

#[test]
fn iret16_loads_words_and_keeps_the_upper_flags() {
    let mut m = Machine::protected();
    code!(m; iret());
    m.cpu.set_eflags(0x20_0002);
    let top = STACK0 - 6;
    m.set(gpr::ESP, top);
    m.write_u16(top, 0x4321);
    m.write_u16(top + 2, CODE0);
    m.write_u16(top + 4, 0x0041);
    m.step();
    assert_eq!((m.cpu.eip, m.cpu.gpr[gpr::ESP]), (0x4321, STACK0));
    assert_eq!(m.cpu.eflags(), 0x20_0043);
}

#[test]
fn iretd_to_user_code_switches_stacks_and_nulls_inner_segments() {
    let mut m = Machine::protected();
    code!(m; iretd());
    frame(&mut m, &[TARGET, CODE3.into(), 0x202, STACK3, DATA3.into()]);
    m.force_segment(seg::FS, DATA3);
    m.force_segment(seg::GS, CONFORMING0);
    m.step();
    assert_eq!((m.cpu.cpl, m.cpu.eip, m.cpu.gpr[gpr::ESP]), (3, TARGET, STACK3));
    assert_eq!((m.selector(seg::CS), m.selector(seg::SS)), (CODE3, DATA3));
    assert_eq!((m.selector(seg::DS), m.selector(seg::ES)), (0, 0));
    assert!(!m.cpu.seg[seg::DS].is_present());
    assert_eq!((m.selector(seg::FS), m.selector(seg::GS)), (DATA3, CONFORMING0));
}

#[test]
fn iretd_to_an_outer_16_bit_stack_keeps_the_upper_half_of_esp() {
    let mut m = Machine::protected();
    m.set_gdt(FREE, descriptor(0, 0xFFFF, 0xF3, 0));
    code!(m; iretd());
    m.set(gpr::ESP, 0x2_E000);
    frame(&mut m, &[TARGET, CODE3.into(), 2, 0xABCD_8000, (FREE | 3).into()]);
    m.step();
    assert_eq!(m.cpu.gpr[gpr::ESP], 0x2_8000);
}

#[test]
fn iretd_above_cpl_0_cannot_change_iopl_or_vm() {
    let mut m = Machine::user();
    m.cpu.set_eflags(0x3202);
    code!(m; iretd());
    frame(&mut m, &[TARGET, CODE3.into(), 0x0002_0002]);
    m.step();
    assert_eq!(m.cpu.eflags(), 0x3002);
}

#[test]
fn iretd_above_iopl_cannot_change_if() {
    let mut m = Machine::user();
    m.cpu.set_eflags(0x202);
    code!(m; iretd());
    frame(&mut m, &[TARGET, CODE3.into(), LOADABLE & !0x4200]);
    m.step();
    assert_eq!(m.cpu.eflags() & 0x3200, 0x200);
}

#[test]
fn iretd_that_sets_if_lets_a_pending_interrupt_in() {
    let mut m = Machine::protected();
    m.bus.interrupts.push_back(0x30);
    code!(m; iretd());
    frame(&mut m, &[TARGET, CODE0.into(), 0x202]);
    let f = m.fault();
    assert_eq!((f.vector, f.eip), (0x30, TARGET));
}

/// Vector and error of an IRETD at CPL 0 with this frame; the state must be untouched.
fn bad_iret(values: &[u32]) -> (u8, u32) {
    let mut m = Machine::protected();
    code!(m; iretd());
    m.set_gdt(FREE, descriptor(0, 0xF_FFFF, 0x7B, 0xC)); // absent code, DPL 3
    m.set_gdt(FREE + 8, descriptor(0, 0xF_FFFF, 0x73, 0xC)); // absent data, DPL 3
    m.set_gdt(FREE + 16, descriptor(0, 0xFFF, 0xFB, 4)); // small code, DPL 3
    m.set_gdt(FREE + 24, descriptor(0, 0xF_FFFF, 0xFF, 0xC)); // conforming, DPL 3
    frame(&mut m, values);
    let top = m.cpu.gpr[gpr::ESP];
    let f = m.fault();
    assert_eq!((f.eip, f.cs, f.sp), (CODE, CODE0, top - 16));
    (f.vector, f.error)
}

#[test]
fn iret_to_a_null_selector_raises_gp_0() {
    assert_eq!(bad_iret(&[TARGET, 2, 2]), (vector::GP, 0));
}

#[test]
fn iret_to_a_selector_outside_the_gdt_raises_gp_selector() {
    assert_eq!(bad_iret(&[TARGET, 0xC3, 2]), (vector::GP, 0xC0));
}

#[test]
fn iret_to_a_data_segment_raises_gp_selector() {
    assert_eq!(bad_iret(&[TARGET, DATA0.into(), 2]), (vector::GP, DATA0.into()));
}

#[test]
fn iret_with_rpl_unlike_dpl_raises_gp_selector() {
    assert_eq!(bad_iret(&[TARGET, 0x18, 2]), (vector::GP, 0x18));
}

#[test]
fn iret_to_a_conforming_segment_with_dpl_above_rpl_raises_gp_selector() {
    let s = u32::from(FREE + 24);
    assert_eq!(bad_iret(&[TARGET, s, 2]), (vector::GP, s));
}

#[test]
fn iret_to_an_inner_level_raises_gp_selector() {
    let mut m = Machine::user();
    code!(m; iretd());
    frame(&mut m, &[TARGET, CODE0.into(), 2]);
    assert_eq!(m.fault_code(), (vector::GP, CODE0.into()));
}

#[test]
fn iret_to_an_absent_segment_raises_np_selector() {
    assert_eq!(bad_iret(&[TARGET, u32::from(FREE) | 3, 2]), (vector::NP, FREE.into()));
}

#[test]
fn iret_beyond_the_code_limit_raises_gp_0() {
    assert_eq!(bad_iret(&[0x1_0000, CODE0_16.into(), 2]), (vector::GP, 0));
    assert_eq!(bad_iret(&[0x1000, u32::from(FREE + 16) | 3, 2, STACK3, DATA3.into()]), (vector::GP, 0));
}

#[test]
fn iret_to_an_outer_level_with_bad_ss_raises_gp_or_ss() {
    let user = |stack: u32| [TARGET, CODE3.into(), 2, STACK3, stack];
    assert_eq!(bad_iret(&user(0)), (vector::GP, 0));
    assert_eq!(bad_iret(&user(0xC3)), (vector::GP, 0xC0));
    assert_eq!(bad_iret(&user(DATA0.into())), (vector::GP, 0x10)); // RPL 0
    assert_eq!(bad_iret(&user(0x13)), (vector::GP, 0x10)); // DPL 0
    assert_eq!(bad_iret(&user(CODE3.into())), (vector::GP, 0x18)); // not data
    assert_eq!(bad_iret(&user(u32::from(FREE + 8) | 3)), (vector::SS, u32::from(FREE + 8)));
}

#[test]
fn iret_frame_beyond_the_stack_limit_raises_ss_0() {
    let mut m = Machine::protected();
    m.set_gdt(FREE, descriptor(0, 0xEFFF, 0x93, 4));
    m.force_segment(seg::SS, FREE);
    m.set(gpr::ESP, 0xEFF8);
    code!(m; iretd());
    assert_eq!(m.fault_code(), (vector::SS, 0));
}

#[test]
fn iret_with_an_unmapped_outer_part_of_the_frame_raises_pf_and_leaves_the_state() {
    let mut m = Machine::protected();
    m.enable_paging();
    code!(m; iretd());
    m.set(gpr::ESP, 0x3_0000);
    frame(&mut m, &[TARGET, CODE3.into(), 2]);
    m.set_pte(0x3_0000, 0);
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip, f.cs), (vector::PF, 0, CODE, CODE0));
    assert_eq!(m.cpu.cr2, 0x3_0000);
}

#[test]
fn iret_real_mode_16_and_32_bit() {
    let mut m = Machine::real();
    code!(m; iret());
    m.set(gpr::ESP, 0xDFFA);
    for (n, v) in [0x1234u16, 0x2000, 0x0FD7].into_iter().enumerate() {
        m.write_u16(0xDFFA + 2 * n as u32, v);
    }
    m.step();
    assert_eq!((m.cpu.eip, m.selector(seg::CS), m.cpu.gpr[gpr::ESP]), (0x1234, 0x2000, 0xE000));
    assert_eq!(m.cpu.seg[seg::CS].base, 0x2_0000);
    assert_eq!(m.cpu.eflags(), 0x0FD7);

    let mut m = Machine::real();
    code!(m; iretd());
    frame(&mut m, &[0x1234, 0x2000, 0x3F_0002]);
    m.step();
    // VM, VIF and VIP stay as they were. RF lasts for the next instruction only.
    assert_eq!(m.cpu.eflags() & !0x1_0000, 0x24_0002);
}

#[test]
fn iret_real_mode_beyond_64_kib_raises_gp() {
    let mut m = Machine::real();
    code!(m; iretd());
    frame(&mut m, &[0x1_0000, 0x2000, 2]);
    assert_eq!(m.fault().vector, vector::GP);
}
