//! Page faults and their error codes, accessed and dirty bits, large, global and PAE pages, flushes.

mod common;

use common::*;
use emu_core::cpu::{cr0, cr4, gpr, vector};
use emu_core::engine::Exit;
use iced_x86::code_asm::*;

const P: u32 = 1;
const W: u32 = 2;
const U: u32 = 4;
const A: u32 = 0x20;
const D: u32 = 0x40;
const PS: u32 = 0x80;
const G: u32 = 0x100;

/// Error code of an access to DATA with these PTE bits, `None` if it works.
fn access(user: bool, write: bool, wp: bool, bits: u32) -> Option<u32> {
    let mut m = if user { Machine::user() } else { Machine::protected() };
    m.enable_paging();
    m.set_pte(DATA, DATA | bits);
    if wp {
        m.cpu.cr0 |= cr0::WP;
    }
    if write {
        code!(m; mov(dword_ptr(DATA), eax); int3());
    } else {
        code!(m; mov(eax, dword_ptr(DATA)); int3());
    }
    let f = m.fault();
    let pte = m.pte(DATA);
    if f.vector == 3 {
        assert_eq!(pte & (A | D), if write { A | D } else { A });
        return None;
    }
    assert_eq!((f.vector, f.eip, m.cpu.cr2), (vector::PF, CODE, DATA));
    assert_eq!(pte & (A | D), 0, "a fault sets no bits");
    Some(f.error)
}

#[test]
fn pf_matrix_of_present_write_user_and_wp() {
    for wp in [false, true] {
        for (write, w) in [(false, 0), (true, 2)] {
            // not present: P clear in the error code whatever the other bits are
            for bits in [0, W, U, W | U] {
                assert_eq!(access(true, write, wp, bits), Some(4 | w));
                assert_eq!(access(false, write, wp, bits), Some(w));
            }
            // supervisor page
            assert_eq!(access(true, write, wp, P | W), Some(5 | w));
            assert_eq!(access(true, write, wp, P), Some(5 | w));
            assert_eq!(access(false, write, wp, P | W), None);
            // user page, writable
            assert_eq!(access(true, write, wp, P | W | U), None);
            assert_eq!(access(false, write, wp, P | W | U), None);
        }
        assert_eq!(access(true, false, wp, P | U), None);
        assert_eq!(access(false, false, wp, P | U), None);
        assert_eq!(access(false, false, wp, P), None);
    }
}

#[test]
fn pf_user_write_to_readonly_page_has_error_code_7() {
    assert_eq!(access(true, true, false, P | U), Some(7));
    assert_eq!(access(true, true, true, P | U), Some(7));
}

#[test]
fn pf_supervisor_write_to_readonly_page_needs_wp() {
    for bits in [P, P | U] {
        assert_eq!(access(false, true, false, bits), None);
        assert_eq!(access(false, true, true, bits), Some(3));
    }
}

#[test]
fn pf_rights_are_those_of_directory_and_table_together() {
    for (pde, expected) in [(P | W | U, None), (P | W, Some(7)), (P | U, Some(7)), (W | U, Some(6))] {
        let mut m = Machine::user();
        m.enable_paging();
        // The second directory entry maps the same table at 4 MiB.
        m.write_u32(PAGE_DIR + 4, PAGE_TABLE | pde);
        code!(m; mov(dword_ptr(0x40_0000 + DATA), eax); int3());
        let f = m.fault();
        assert_eq!((f.vector != 3).then_some(f.error), expected, "{pde:#x}");
        assert_eq!(m.read_u32(PAGE_DIR + 4) & A, if expected.is_none() { A } else { 0 });
    }
}

#[test]
fn pf_on_fetch_has_the_address_of_the_instruction() {
    let mut m = Machine::user();
    m.enable_paging();
    m.set_pte(0x3_0000, 0x3_0003);
    code!(m; jmp(0x3_0010));
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip, m.cpu.cr2), (vector::PF, 5, 0x3_0010, 0x3_0010));
}

#[test]
fn pf_on_the_second_page_of_an_instruction_reports_that_page() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.cpu.eip = 0x2_FFFE;
    m.bytes(&[0xB8, 1, 2, 3, 4]);
    m.set_pte(0x3_0000, 0);
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip, m.cpu.cr2), (vector::PF, 0, 0x2_FFFE, 0x3_0000));
}

#[test]
fn pf_on_a_straddling_write_changes_neither_page() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.cpu.cr0 |= cr0::WP;
    m.set_pte(0x3_0000, 0x3_0000 | P);
    m.set(gpr::EAX, 0xFFFF_FFFF);
    code!(m; mov(dword_ptr(0x2_FFFE), eax));
    let f = m.fault();
    assert_eq!((f.vector, f.error, m.cpu.cr2), (vector::PF, 3, 0x3_0000));
    assert_eq!(m.read_u16(0x2_FFFE), 0);
}

#[test]
fn pf_of_a_read_modify_write_is_a_write_fault() {
    let mut m = Machine::user();
    m.enable_paging();
    m.set_pte(DATA, DATA | P | U);
    code!(m; add(dword_ptr(DATA), 1));
    assert_eq!(m.fault_code(), (vector::PF, 7));
}

#[test]
fn cr2_changes_with_page_faults_only() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.cpu.cr2 = 0x1234;
    code!(m; mov(eax, 0xC0u32); mov(ds, ax));
    m.fault();
    assert_eq!(m.cpu.cr2, 0x1234);
}

#[test]
fn dirty_bit_is_set_by_the_first_write_behind_reads() {
    let mut m = Machine::protected();
    m.enable_paging();
    code!(m; mov(eax, dword_ptr(DATA)); mov(eax, dword_ptr(DATA)); mov(dword_ptr(DATA), eax); hlt());
    m.step();
    m.step();
    assert_eq!(m.pte(DATA) & (A | D), A);
    m.step();
    assert_eq!(m.pte(DATA) & (A | D), A | D);
    assert_eq!(m.read_u32(PAGE_DIR) & (A | D), A);
}

#[test]
fn dirty_bit_cleared_by_the_guest_is_set_again_after_invlpg() {
    let mut m = Machine::protected();
    m.enable_paging();
    code!(m;
        mov(dword_ptr(DATA), eax);
        and(dword_ptr(PAGE_TABLE + (DATA >> 12) * 4), !0x40i32);
        invlpg(ptr(DATA));
        mov(dword_ptr(DATA), eax);
        hlt());
    m.step();
    m.step();
    assert_eq!(m.pte(DATA) & D, 0);
    m.finish();
    assert_eq!(m.pte(DATA) & D, D);
}

// ---- large pages ---------------------------------------------------------------------------------

#[test]
fn pse_large_page_maps_4_mib_and_sets_its_own_bits() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.set_cr4(cr4::PSE);
    m.write_u32(PAGE_DIR + 4, 0x80_0000 | PS | P | W);
    m.write_u32(0x80_0000 + 0x12_3458, 0xCAFE_BABE);
    code!(m; mov(eax, dword_ptr(0x52_3458)); mov(ebx, PAGE_DIR); mov(ecx, dword_ptr(ebx + 4)); mov(dword_ptr(0x40_0000), eax); hlt());
    m.finish();
    assert_eq!((m.eax(), m.cpu.gpr[gpr::ECX] & (A | D)), (0xCAFE_BABE, A));
    assert_eq!(m.read_u32(PAGE_DIR + 4) & (A | D), A | D);
    assert_eq!(m.read_u32(0x80_0000), 0xCAFE_BABE);
}

#[test]
fn ps_bit_without_pse_names_a_table() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.write_u32(PAGE_DIR + 4, PAGE_TABLE | PS | P | W);
    m.write_u32(DATA, 77);
    code!(m; mov(eax, dword_ptr(0x40_0000 + DATA)); hlt());
    m.finish();
    assert_eq!(m.eax(), 77);
}

#[test]
fn pse_large_page_with_reserved_bits_raises_pf_with_rsvd() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.set_cr4(cr4::PSE);
    m.write_u32(PAGE_DIR + 4, 0x80_0000 | 0x20_0000 | PS | P | W);
    code!(m; mov(eax, dword_ptr(0x40_0000)));
    assert_eq!(m.fault_code(), (vector::PF, 9));
}

/// PAE tables: the first GiB's directory at 301000h, its first entry a table at 302000h that maps
/// 2 MiB one to one.
fn pae() -> Machine {
    let mut m = Machine::protected();
    m.write_u32(0x30_0000, 0x30_1001);
    m.write_u32(0x30_1000, 0x30_2007);
    for n in 0..512 {
        m.write_u32(0x30_2000 + n * 8, n << 12 | 7);
    }
    m.write_u32(0x30_1008, 0x20_0083); // the second 2 MiB, large, so that the tables can be reached
    code!(m;
        mov(eax, cr4); or(eax, 0x20); mov(cr4, eax);
        mov(eax, 0x30_0000); mov(cr3, eax);
        mov(eax, cr0); or(eax, 0x8000_0000u32); mov(cr0, eax));
    for _ in 0..8 {
        m.step();
    }
    assert_ne!(m.cpu.cr0 & cr0::PG, 0);
    m
}

#[test]
fn pae_maps_4_kib_and_2_mib_pages() {
    let mut m = pae();
    m.write_u32(0x30_1010, 0x80_0000 | PS | P | W);
    m.write_u32(0x80_1234, 0x1357_9BDF);
    m.write_u32(DATA, 0x2468_ACE0);
    code!(m; mov(eax, dword_ptr(0x40_1234)); mov(ebx, dword_ptr(DATA)); hlt());
    m.finish();
    assert_eq!((m.eax(), m.cpu.gpr[gpr::EBX]), (0x1357_9BDF, 0x2468_ACE0));
    assert_eq!(m.read_u32(0x30_1010) & (A | D), A);
}

#[test]
fn pae_page_directory_pointer_that_is_absent_raises_pf() {
    let mut m = pae();
    code!(m; mov(eax, dword_ptr(0x4000_0000)));
    assert_eq!(m.fault_code(), (vector::PF, 0));
    assert_eq!(m.cpu.cr2, 0x4000_0000);
}

#[test]
fn pae_entry_with_high_bits_raises_pf_with_rsvd() {
    let mut m = pae();
    m.write_u32(0x30_2000 + (DATA >> 12) * 8 + 4, 0x8000_0000);
    code!(m; mov(eax, dword_ptr(DATA)));
    assert_eq!(m.fault_code(), (vector::PF, 9));
}

#[test]
fn pae_page_directory_pointers_are_read_at_cr3_loads_only() {
    let mut m = pae();
    m.write_u32(0x30_0000, 0);
    code!(m; mov(eax, dword_ptr(DATA)); mov(eax, cr3); mov(cr3, eax));
    m.step();
    m.step();
    m.step();
    // Now nothing is mapped: #PF, then triple fault.
    assert_eq!(m.run(10), Exit::Shutdown);
}

#[test]
fn mov_cr3_with_reserved_bits_in_a_pointer_raises_gp_0() {
    let mut m = pae();
    m.write_u32(0x30_4000, 0x30_11E7);
    code!(m; mov(eax, 0x30_4000); mov(cr3, eax));
    assert_eq!(m.fault_code(), (vector::GP, 0));
    assert_eq!((m.cpu.cr3, m.cpu.pdpte[0]), (0x30_0000, 0x30_1001));
}

// ---- flushes -------------------------------------------------------------------------------------

const PTE_OF_DATA: u32 = PAGE_TABLE + (DATA >> 12) * 4;

/// EAX read through a translation that changed after it was cached, with `flush` in between.
fn read_after(m: &mut Machine, flush: impl FnOnce(&mut iced_x86::code_asm::CodeAssembler)) -> u32 {
    m.enable_paging();
    m.write_u32(DATA, 1);
    m.write_u32(0x3_0000, 2);
    m.code(|a| {
        a.mov(ebx, dword_ptr(DATA)).unwrap();
        a.and(dword_ptr(PTE_OF_DATA), 0xFFF).unwrap();
        a.or(dword_ptr(PTE_OF_DATA), 0x3_0000).unwrap();
        flush(a);
        a.mov(eax, dword_ptr(DATA)).unwrap();
        a.hlt().unwrap();
    });
    m.finish();
    assert_eq!(m.cpu.gpr[gpr::EBX], 1);
    m.eax()
}

#[test]
fn invlpg_drops_one_translation() {
    let mut m = Machine::protected();
    assert_eq!(read_after(&mut m, |a| a.invlpg(ptr(DATA + 0x123)).unwrap()), 2);
    // The segment base counts.
    let mut m = Machine::protected();
    m.set_gdt(FREE, descriptor(DATA, 0xF_FFFF, 0x93, 0xC));
    m.force_segment(emu_core::cpu::seg::FS, FREE);
    assert_eq!(read_after(&mut m, |a| a.invlpg(ptr(0).fs()).unwrap()), 2);
}

#[test]
fn mov_cr3_drops_translations() {
    let mut m = Machine::protected();
    let flush = |a: &mut CodeAssembler| {
        a.mov(ecx, cr3).unwrap();
        a.mov(cr3, ecx).unwrap();
    };
    assert_eq!(read_after(&mut m, flush), 2);
}

#[test]
fn global_page_survives_mov_cr3_but_not_invlpg_or_a_change_of_pge() {
    let global = || {
        let mut m = Machine::protected();
        m.set_cr4(cr4::PGE);
        m
    };
    let prepare = |m: &mut Machine| {
        m.enable_paging();
        m.set_pte(DATA, DATA | G | 7);
    };
    // read_after() rewrites the table, so the bit goes in behind it: by code.
    let run = |flush: &dyn Fn(&mut CodeAssembler)| {
        let mut m = global();
        prepare(&mut m);
        m.write_u32(DATA, 1);
        m.write_u32(0x3_0000, 2);
        m.code(|a| {
            a.mov(ebx, dword_ptr(DATA)).unwrap();
            a.mov(dword_ptr(PTE_OF_DATA), 0x3_0107).unwrap();
            flush(a);
            a.mov(eax, dword_ptr(DATA)).unwrap();
            a.hlt().unwrap();
        });
        m.finish();
        m.eax()
    };
    let cr3_write = |a: &mut CodeAssembler| {
        a.mov(ecx, cr3).unwrap();
        a.mov(cr3, ecx).unwrap();
    };
    assert_eq!(run(&cr3_write), 1);
    assert_eq!(run(&|a| a.invlpg(ptr(DATA)).unwrap()), 2);
    let pge = |a: &mut CodeAssembler| {
        a.mov(ecx, cr4).unwrap();
        a.xor(ecx, 0x80).unwrap();
        a.mov(cr4, ecx).unwrap();
    };
    assert_eq!(run(&pge), 2);
}

#[test]
fn change_of_wp_takes_effect_on_cached_translations() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.set_pte(DATA, DATA | P);
    code!(m;
        mov(dword_ptr(DATA), eax);
        mov(ecx, cr0); or(ecx, 0x1_0000); mov(cr0, ecx);
        mov(dword_ptr(DATA), eax));
    m.step();
    assert_eq!(m.fault_code(), (vector::PF, 3));
}

#[test]
fn change_of_privilege_takes_effect_on_cached_translations() {
    // Ring 0 caches the page, ring 3 must not profit.
    let mut m = Machine::protected();
    m.enable_paging();
    m.set_pte(DATA, DATA | P | W);
    let top = STACK0 - 20;
    m.set(gpr::ESP, top);
    for (n, v) in [CODE + 0x100, CODE3.into(), 2, STACK3, DATA3.into()].into_iter().enumerate() {
        m.write_u32(top + 4 * n as u32, v);
    }
    code!(m; mov(dword_ptr(DATA), eax); iretd());
    code_at!(m, CODE + 0x100; mov(eax, u32::from(DATA3)); mov(ds, ax); mov(dword_ptr(DATA), eax));
    assert_eq!(m.fault_code(), (vector::PF, 7));
}

#[test]
fn paging_off_is_the_identity_again() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.set_pte(DATA, 0x3_0007);
    m.write_u32(DATA, 1);
    m.write_u32(0x3_0000, 2);
    code!(m;
        mov(ebx, dword_ptr(DATA));
        mov(ecx, cr0); and(ecx, 0x7FFF_FFFF); mov(cr0, ecx);
        mov(eax, dword_ptr(DATA));
        hlt());
    m.finish();
    assert_eq!((m.cpu.gpr[gpr::EBX], m.eax()), (2, 1));
}
