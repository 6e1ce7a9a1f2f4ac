//! Segment loads, limits and types, LAR LSL VERR VERW ARPL, LLDT.

mod common;

use common::*;
use emu_core::cpu::segment::Segment;
use emu_core::cpu::{gpr, seg, vector};
use iced_x86::code_asm::*;

// ---- loads ---------------------------------------------------------------------------------------

/// Vector and error of MOV DS, AX and POP ES, which must agree.
fn data_load(m: impl Fn() -> Machine, selector: u16) -> Option<(u8, u32)> {
    let mut by_mov = m();
    by_mov.set(gpr::EAX, selector.into());
    code!(by_mov; mov(ds, ax); int3());
    let mut by_pop = m();
    by_pop.set(gpr::EAX, selector.into());
    code!(by_pop; push(eax); pop(es); int3());
    let (a, b) = (by_mov.fault(), by_pop.fault());
    assert_eq!((a.vector, a.error), (b.vector, b.error));
    if a.vector == 3 {
        assert_eq!((by_mov.selector(seg::DS), by_pop.selector(seg::ES)), (selector, selector));
        return None;
    }
    // ESP is restored, DS and ES are not changed.
    let before = m();
    assert_eq!(
        (by_mov.selector(seg::DS), by_pop.selector(seg::ES)),
        (before.selector(seg::DS), before.selector(seg::ES))
    );
    Some((a.vector, a.error))
}

#[test]
fn data_segment_loads_follow_type_privilege_and_presence() {
    let gp = |s: u16| Some((vector::GP, u32::from(s & !3)));
    let k = Machine::protected;
    let u = Machine::user;
    assert_eq!(data_load(k, DATA0), None);
    assert_eq!(data_load(k, DATA3), None);
    assert_eq!(data_load(k, READ_ONLY), None);
    assert_eq!(data_load(k, CODE0), None); // readable code
    assert_eq!(data_load(k, CONFORMING0 | 3), None); // conforming: no privilege check
    assert_eq!(data_load(u, CONFORMING0 | 3), None);
    assert_eq!(data_load(u, DATA3), None);
    assert_eq!(data_load(k, DATA0 | 3), gp(DATA0)); // RPL > DPL
    assert_eq!(data_load(u, DATA0), gp(DATA0)); // CPL > DPL
    assert_eq!(data_load(k, EXECUTE_ONLY), gp(EXECUTE_ONLY));
    assert_eq!(data_load(k, TSS_SEL), gp(TSS_SEL));
    assert_eq!(data_load(k, 0xC0), gp(0xC0));
    assert_eq!(data_load(k, 0x0C), gp(0x0C)); // no LDT
    assert_eq!(data_load(k, ABSENT_DATA), Some((vector::NP, ABSENT_DATA.into())));
}

#[test]
fn null_selector_loads_and_faults_on_use() {
    for selector in 0..4 {
        assert_eq!(data_load(Machine::protected, selector), None);
    }
    let mut m = Machine::protected();
    code!(m; xor(eax, eax); mov(ds, ax); mov(ebx, dword_ptr(DATA)));
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip), (vector::GP, 0, CODE + 5));
}

#[test]
fn stack_segment_loads_need_writable_data_of_cpl() {
    let cases = [
        (0u16, vector::GP, 0u16),
        (3, vector::GP, 0),
        (0xC0, vector::GP, 0xC0),
        (DATA0 | 3, vector::GP, DATA0),
        (DATA3, vector::GP, DATA3 & !3),
        (READ_ONLY, vector::GP, READ_ONLY),
        (CODE0, vector::GP, CODE0),
        (TSS_SEL, vector::GP, TSS_SEL),
        (ABSENT_DATA, vector::SS, ABSENT_DATA),
    ];
    for (selector, v, error) in cases {
        let mut m = Machine::protected();
        m.set(gpr::EAX, selector.into());
        code!(m; mov(ss, ax));
        let f = m.fault();
        assert_eq!((f.vector, f.error, f.eip), (v, error.into(), CODE), "{selector:#x}");
        assert_eq!(m.selector(seg::SS), DATA0);
    }
    let mut m = Machine::protected();
    m.set(gpr::EAX, DATA0_16.into());
    code!(m; mov(ss, ax); push(eax); hlt());
    m.finish();
    assert!(!m.cpu.mode.stack32());
}

#[test]
fn mov_to_cs_raises_ud() {
    let mut m = Machine::protected();
    m.bytes(&[0x8E, 0xC8]);
    assert_eq!(m.fault().vector, vector::UD);
}

#[test]
fn mov_from_segment_zero_extends_registers_and_stores_words() {
    let mut m = Machine::protected();
    m.write_u32(DATA, 0xFFFF_FFFF);
    m.set(gpr::EAX, 0xFFFF_FFFF).set(gpr::EBX, 0xFFFF_FFFF);
    code!(m; mov(eax, ds); mov(bx, cs); mov(word_ptr(DATA), ss); hlt());
    m.finish();
    assert_eq!((m.eax(), m.cpu.gpr[gpr::EBX]), (DATA0.into(), 0xFFFF_0000 | u32::from(CODE0)));
    assert_eq!(m.read_u32(DATA), 0xFFFF_0000 | u32::from(DATA0));
}

#[test]
fn accessed_bit_is_set_by_loads_and_only_then() {
    let mut m = Machine::protected();
    m.set_gdt(FREE, descriptor(0, 0xF_FFFF, 0x92, 0xC));
    m.set_gdt(FREE + 8, descriptor(0, 0xF_FFFF, 0x12, 0xC));
    m.set(gpr::EAX, FREE.into()).set(gpr::EBX, u32::from(FREE + 8));
    code!(m; mov(ds, ax); mov(es, bx));
    assert_eq!(m.fault_code(), (vector::NP, u32::from(FREE + 8)));
    assert_eq!((m.gdt(FREE).1 >> 8 & 0xFF, m.gdt(FREE + 8).1 >> 8 & 0xFF), (0x93, 0x12));
}

#[test]
fn accessed_segment_loads_from_a_read_only_gdt_page() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.cpu.cr0 |= emu_core::cpu::cr0::WP;
    m.set_gdt(FREE, descriptor(0, 0xF_FFFF, 0x92, 0xC));
    m.set_pte(GDT, GDT | 5);
    code!(m; mov(eax, u32::from(DATA3)); mov(fs, ax); mov(eax, u32::from(FREE)); mov(fs, ax));
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip), (vector::PF, 3, CODE + 13));
    assert_eq!((m.cpu.cr2, m.selector(seg::FS)), (GDT + u32::from(FREE) + 5, DATA3));
}

#[test]
fn gdt_reads_are_supervisor_accesses_at_cpl_3() {
    let mut m = Machine::user();
    m.enable_paging();
    m.set_pte(GDT, GDT | 3);
    code!(m; mov(eax, u32::from(DATA3)); mov(fs, ax); int3());
    assert_eq!(m.fault().vector, 3);
    let mut m = Machine::user();
    m.enable_paging();
    // The handlers' own segments lie in the page too: move only the one entry of the LDT.
    m.cpu.ldtr = m.segment(LDT_SEL);
    m.cpu.ldtr.base = 0x3_0000;
    m.set_pte(0x3_0000, 0);
    code!(m; mov(eax, 7u32); mov(fs, ax));
    assert_eq!(m.fault_code(), (vector::PF, 0));
}

#[test]
fn lxs_loads_segment_and_register_or_nothing() {
    let mut m = Machine::protected();
    m.write_u32(DATA, 0x1234_5678);
    m.write_u16(DATA + 4, DATA3);
    m.write_u32(DATA + 8, 0x9999_9999);
    m.write_u16(DATA + 12, 0xC0);
    code!(m; les(eax, fword_ptr(DATA)); lfs(ebx, fword_ptr(DATA)); lgs(cx, dword_ptr(DATA + 2)); hlt());
    m.write_u16(DATA + 4, DATA3);
    m.finish();
    assert_eq!((m.eax(), m.selector(seg::ES), m.selector(seg::FS)), (0x1234_5678, DATA3, DATA3));
    assert_eq!((m.cpu.gpr[gpr::ECX], m.selector(seg::GS)), (0x1234, DATA3));
    let mut m = Machine::protected();
    m.write_u32(DATA, 0x1234_5678);
    m.write_u16(DATA + 4, 0xC0);
    code!(m; lds(eax, fword_ptr(DATA)));
    assert_eq!(m.fault_code(), (vector::GP, 0xC0));
    assert_eq!((m.eax(), m.selector(seg::DS)), (0, DATA0));
}

#[test]
fn lxs_with_a_register_operand_raises_ud() {
    let mut m = Machine::protected();
    m.bytes(&[0x0F, 0xB2, 0xC0]);
    assert_eq!(m.fault().vector, vector::UD);
}

#[test]
fn real_mode_segment_load_keeps_the_limit_of_big_real_mode() {
    let mut m = Machine::real();
    let big = Segment { limit: u32::MAX, attr: 0x8093, ..Segment::real(0, 0) };
    m.cpu.set_segment(seg::DS, big);
    code!(m; mov(ax, 0x3000u32); mov(ds, ax); mov(ebx, 0x2_0000u32); mov(dword_ptr(ebx), eax); hlt());
    m.finish();
    assert_eq!(m.read_u16(0x5_0000), 0x3000);
    assert_eq!(m.cpu.seg[seg::DS].limit, u32::MAX);
}

// ---- limits and types ----------------------------------------------------------------------------

/// A data segment in DS and its access outcome: `None` if the access works.
fn access_through(d: (u32, u32), write: bool, offset: u32) -> Option<(u8, u32)> {
    let mut m = Machine::protected();
    m.set_gdt(FREE, d);
    m.force_segment(seg::DS, FREE);
    m.set(gpr::EBX, offset);
    if write {
        code!(m; mov(dword_ptr(ebx), eax); int3());
    } else {
        code!(m; mov(eax, dword_ptr(ebx)); int3());
    }
    let f = m.fault();
    (f.vector != 3).then_some((f.vector, f.error))
}

#[test]
fn data_beyond_the_limit_raises_gp_0() {
    let d = descriptor(DATA, 0xFFF, 0x93, 4);
    for write in [false, true] {
        assert_eq!(access_through(d, write, 0xFFC), None);
        assert_eq!(access_through(d, write, 0xFFD), Some((vector::GP, 0)));
        assert_eq!(access_through(d, write, 0xFFFF_FFFE), Some((vector::GP, 0)));
    }
}

#[test]
fn expand_down_data_below_its_limit_raises_gp_0() {
    let d = descriptor(0, 0xFFF, 0x97, 0);
    assert_eq!(access_through(d, false, 0x1000), None);
    assert_eq!(access_through(d, false, 0xFFF), Some((vector::GP, 0)));
    assert_eq!(access_through(d, false, 0xFFFD), Some((vector::GP, 0)));
}

#[test]
fn write_to_read_only_data_or_code_raises_gp_0() {
    assert_eq!(access_through(descriptor(DATA, 0xFFF, 0x91, 4), true, 0), Some((vector::GP, 0)));
    assert_eq!(access_through(descriptor(DATA, 0xFFF, 0x9B, 4), true, 0), Some((vector::GP, 0)));
    assert_eq!(access_through(descriptor(DATA, 0xFFF, 0x9B, 4), false, 0), None);
    let mut m = Machine::protected();
    m.bytes(&[0x2E, 0xA3, 0, 0, 2, 0]); // mov cs:[20000h], eax
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

#[test]
fn read_of_execute_only_code_raises_gp_0() {
    let mut m = Machine::protected();
    m.force_segment(seg::CS, EXECUTE_ONLY);
    m.bytes(&[0x2E, 0xA1, 0, 0, 2, 0]); // mov eax, cs:[20000h]
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

#[test]
fn stack_beyond_the_limit_raises_ss_0() {
    let mut m = Machine::user();
    m.set_gdt(FREE, descriptor(0, 0xFFF, 0xF3, 4));
    m.force_segment(seg::SS, FREE | 3);
    m.set(gpr::ESP, 0x1004);
    code!(m; push(eax));
    assert_eq!(m.fault_code(), (vector::SS, 0));
    let mut m = Machine::user();
    m.force_segment(seg::SS, FREE | 3);
    m.set(gpr::EBP, 0x1000);
    m.set_gdt(FREE, descriptor(0, 0xFFF, 0xF3, 4));
    m.force_segment(seg::SS, FREE | 3);
    code!(m; mov(eax, dword_ptr(ebp)));
    assert_eq!(m.fault_code(), (vector::SS, 0));
}

#[test]
fn code_running_over_its_limit_raises_gp_0() {
    let mut m = Machine::protected();
    m.set_gdt(FREE, descriptor(CODE, 0x10, 0x9B, 4));
    m.force_segment(seg::CS, FREE);
    m.cpu.eip = 0xE;
    m.bytes(&[0x90, 0x90, 0x90, 0x90]);
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip), (vector::GP, 0, 0x11));
    // An instruction that crosses the limit faults as a whole.
    let mut m = Machine::protected();
    m.set_gdt(FREE, descriptor(CODE, 0x10, 0x9B, 4));
    m.force_segment(seg::CS, FREE);
    m.cpu.eip = 0xE;
    m.bytes(&[0xB8, 1, 2, 3, 4]);
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.eax()), (vector::GP, 0xE, 0));
}

#[test]
fn near_jump_beyond_the_limit_raises_gp_0_at_the_jump() {
    let mut m = Machine::protected();
    m.set_gdt(FREE, descriptor(CODE, 0xFF, 0x9B, 4));
    m.force_segment(seg::CS, FREE);
    m.cpu.eip = 0;
    m.bytes(&[0xE9, 0xFB, 0, 0, 0]); // jmp 100h
    assert_eq!(m.fault().eip, 0);
}

// ---- looking at descriptors ----------------------------------------------------------------------

/// ZF and destination of an instruction with a selector in BX.
fn look(m: &mut Machine, bytes: &[u8], selector: u16) -> (bool, u32) {
    m.set(gpr::EAX, 0xAAAA_AAAA).set(gpr::EBX, selector.into());
    m.cpu.eip = CODE;
    m.bytes(bytes);
    m.step();
    assert_eq!(m.cpu.eip, CODE + bytes.len() as u32);
    (m.cpu.eflags() & 0x40 != 0, m.eax())
}

const LAR: &[u8] = &[0x0F, 0x02, 0xC3];
const LSL: &[u8] = &[0x0F, 0x03, 0xC3];
const VERR: &[u8] = &[0x0F, 0x00, 0xE3];
const VERW: &[u8] = &[0x0F, 0x00, 0xEB];
const NOTHING: (bool, u32) = (false, 0xAAAA_AAAA);

#[test]
fn lar_loads_rights_of_visible_descriptors() {
    let mut m = Machine::protected();
    assert_eq!(look(&mut m, LAR, DATA0), (true, 0x00CF_9300));
    assert_eq!(look(&mut m, LAR, CODE3), (true, 0x00CF_FB00));
    assert_eq!(look(&mut m, LAR, TSS_SEL), (true, 0x0000_8B00));
    assert_eq!(look(&mut m, LAR, ABSENT_DATA), (true, 0x00CF_1300));
    assert_eq!(look(&mut m, &[0x66, 0x0F, 0x02, 0xC3], DATA0), (true, 0xAAAA_9300));
    assert_eq!(look(&mut m, LAR, 0), NOTHING);
    assert_eq!(look(&mut m, LAR, 0xC0), NOTHING);
    assert_eq!(look(&mut m, LAR, DATA0 | 3), NOTHING); // RPL
    assert_eq!(look(&mut m, LAR, CONFORMING0 | 3), (true, 0x00CF_9F00));
    let mut m = Machine::user();
    assert_eq!(look(&mut m, LAR, DATA0), NOTHING); // CPL
}

#[test]
fn lar_and_lsl_know_which_system_types_they_show() {
    for kind in 0..16u32 {
        let mut m = Machine::protected();
        m.set_gdt(FREE, descriptor(0, 0x1234, 0x80 | kind, 0));
        let lar = matches!(kind, 1..=5 | 9 | 11 | 12);
        let lsl = matches!(kind, 1..=3 | 9 | 11);
        assert_eq!(look(&mut m, LAR, FREE), if lar { (true, 0x8000 | kind << 8) } else { NOTHING });
        assert_eq!(look(&mut m, LSL, FREE), if lsl { (true, 0x1234) } else { NOTHING });
    }
}

#[test]
fn lsl_loads_the_limit_in_bytes() {
    let mut m = Machine::protected();
    assert_eq!(look(&mut m, LSL, DATA0), (true, u32::MAX));
    assert_eq!(look(&mut m, LSL, CODE0_16), (true, 0xFFFF));
    assert_eq!(look(&mut m, LSL, TSS_SEL), (true, 0x7FF));
    assert_eq!(look(&mut m, &[0x66, 0x0F, 0x03, 0xC3], DATA0), (true, 0xAAAA_FFFF));
    assert_eq!(look(&mut m, LSL, 0), NOTHING);
    assert_eq!(look(&mut m, LSL, DATA0 | 1), NOTHING);
}

#[test]
fn verr_and_verw_tell_what_may_be_accessed() {
    let mut m = Machine::protected();
    let cases = [
        (DATA0, true, true),
        (DATA3, true, true),
        (READ_ONLY, true, false),
        (CODE0, true, false),
        (EXECUTE_ONLY, false, false),
        (CONFORMING0 | 3, true, false),
        (DATA0 | 3, false, false),
        (TSS_SEL, false, false),
        (0, false, false),
        (0xC0, false, false),
    ];
    for (selector, read, write) in cases {
        assert_eq!(look(&mut m, VERR, selector).0, read, "{selector:#x}");
        assert_eq!(look(&mut m, VERW, selector).0, write, "{selector:#x}");
    }
}

#[test]
fn look_ups_leave_the_other_flags() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(0x8D7);
    look(&mut m, VERR, 0);
    assert_eq!(m.cpu.eflags(), 0x897);
}

#[test]
fn arpl_raises_rpl_and_sets_zf() {
    let mut m = Machine::protected();
    m.set(gpr::EAX, 0xFFFF_0010).set(gpr::EBX, 3);
    code!(m; arpl(ax, bx); hlt());
    m.finish();
    assert_eq!((m.eax(), m.cpu.eflags() & 0x40), (0xFFFF_0013, 0x40));
    let mut m = Machine::protected();
    m.write_u16(DATA, 0x0013);
    m.set(gpr::EBX, 2);
    m.cpu.set_eflags(0x42);
    code!(m; arpl(word_ptr(DATA), bx); hlt());
    m.finish();
    assert_eq!((m.read_u16(DATA), m.cpu.eflags() & 0x40), (0x13, 0));
}

#[test]
fn arpl_writes_its_operand_only_if_it_changes() {
    let run = |selector: u16| {
        let mut m = Machine::protected();
        m.write_u16(DATA, selector);
        m.force_segment(seg::DS, READ_ONLY);
        m.set(gpr::EBX, 2);
        code!(m; arpl(word_ptr(DATA), bx); int3());
        m.fault_code()
    };
    assert_eq!(run(0x12), (3, 0));
    assert_eq!(run(0x11), (vector::GP, 0));
}

#[test]
fn protected_mode_instructions_raise_ud_in_real_mode() {
    for bytes in [
        LAR,
        LSL,
        VERR,
        VERW,
        &[0x63, 0xC3],
        &[0x0F, 0x00, 0xC3],
        &[0x0F, 0x00, 0xCB],
        &[0x0F, 0x00, 0xD3],
        &[0x0F, 0x00, 0xDB],
    ] {
        let mut m = Machine::real();
        m.bytes(bytes);
        assert_eq!(m.fault().vector, vector::UD, "{bytes:x?}");
    }
}

// ---- LLDT, SLDT, STR -----------------------------------------------------------------------------

#[test]
fn lldt_loads_ldts_and_null_only() {
    for (selector, expected) in [
        (LDT_SEL, None),
        (0, None),
        (DATA0, Some((vector::GP, DATA0))),
        (TSS_SEL, Some((vector::GP, TSS_SEL))),
        (LDT_SEL | 4, Some((vector::GP, LDT_SEL | 4))),
        (0xC0, Some((vector::GP, 0xC0))),
        (FREE, Some((vector::NP, FREE))),
    ] {
        let mut m = Machine::protected();
        m.set_gdt(FREE, descriptor(LDT, 0xFF, 2, 0));
        m.set(gpr::EAX, selector.into());
        code!(m; lldt(ax); sldt(ebx); str(ecx); int3());
        let f = m.fault();
        match expected {
            Some((v, code)) => assert_eq!((f.vector, f.error), (v, code.into()), "{selector:#x}"),
            None => assert_eq!((m.cpu.gpr[gpr::EBX], m.cpu.gpr[gpr::ECX]), (selector.into(), TSS_SEL.into())),
        }
    }
}

#[test]
fn lldt_with_null_makes_ldt_selectors_invalid() {
    let mut m = Machine::protected();
    m.cpu.ldtr = m.segment(LDT_SEL);
    code!(m; xor(eax, eax); lldt(ax); mov(al, 4); mov(ds, ax));
    assert_eq!(m.fault_code(), (vector::GP, 4));
}

#[test]
fn lldt_and_ltr_above_cpl_0_raise_gp_0_and_sldt_str_do_not() {
    for bytes in [[0x0F, 0x00, 0xD0], [0x0F, 0x00, 0xD8]] {
        let mut m = Machine::user();
        m.bytes(&bytes);
        assert_eq!(m.fault_code(), (vector::GP, 0));
    }
    let mut m = Machine::user();
    code!(m; sldt(eax); str(ebx); int3());
    assert_eq!(m.fault().vector, 3);
    assert_eq!((m.eax(), m.cpu.gpr[gpr::EBX]), (0, TSS_SEL.into()));
}
