//! Each exception once, delivered: vector, fault or trap (where EIP points), error code or none, and
//! that the instruction that faulted changed nothing. The conditions in full are in `system_*.rs`,
//! `x87.rs` and the silicon tests.

mod common;

use common::*;
use emu_core::cpu::{cr0, cr4, gpr, seg, vector};
use emu_core::engine::CpuEngine;
use iced_x86::code_asm::*;

/// Runs bytes at CODE; the fault, which must find the registers as they were.
fn fault_of(m: &mut Machine, bytes: &[u8]) -> (u8, u32) {
    m.bytes(bytes);
    let (gpr, flags) = (m.cpu.gpr, m.cpu.eflags() & 0x8D5);
    let count = m.cpu.retired;
    let f = m.fault();
    assert_eq!(f.eip, CODE, "{bytes:02x?}: a fault points at its instruction");
    assert_eq!(m.cpu.retired, count + 2, "{bytes:02x?}: delivery and HLT count, the instruction does not");
    assert_eq!(f.eflags & 0x8D5, flags, "{bytes:02x?}");
    for r in [gpr::EAX, gpr::ECX, gpr::EDX, gpr::EBX, gpr::EBP, gpr::ESI, gpr::EDI] {
        assert_eq!(m.cpu.gpr[r], gpr[r], "{bytes:02x?}");
    }
    assert_eq!(m.engine.stats().exceptions[usize::from(f.vector)], 1);
    (f.vector, f.error)
}

#[test]
fn de_is_a_fault_of_division_by_zero_and_of_quotients_that_do_not_fit() {
    // EDX:EAX, ECX, bytes
    let cases: [(u32, u32, u32, &[u8]); 14] = [
        (0, 1, 0, &[0xF7, 0xF1]),                      // div ecx by 0
        (0, 1, 0, &[0xF7, 0xF9]),                      // idiv ecx by 0
        (0, 1, 0, &[0xF6, 0xF1]),                      // div cl by 0
        (0, 1, 0, &[0x66, 0xF7, 0xF9]),                // idiv cx by 0
        (1, 0, 1, &[0xF7, 0xF1]),                      // quotient 2^32
        (0, 0x100, 1, &[0xF6, 0xF1]),                  // quotient 2^8
        (1, 0, 1, &[0x66, 0xF7, 0xF1]),                // quotient 2^16
        (0xFFFF_FFFF, 0x8000_0000, !0, &[0xF7, 0xF9]), // -2^31 / -1
        (0xFFFF, 0x8000, !0, &[0x66, 0xF7, 0xF9]),     // -2^15 / -1
        (0, 0xFF80, !0, &[0xF6, 0xF9]),                // -2^7 / -1
        (0, 0x8000_0000, 1, &[0xF7, 0xF9]),            // 2^31 / 1
        (0x8000_0000, 0, !0, &[0xF7, 0xF9]),           // -2^63 / -1
        (0, 0x8000, !0, &[0xF6, 0xF9]),                // -2^15 / -1 of bytes
        (0, 5, 0, &[0xD4, 0]),                         // aam by 0
    ];
    for (high, low, divisor, bytes) in cases {
        let mut m = Machine::protected();
        m.set(gpr::EDX, high).set(gpr::EAX, low).set(gpr::ECX, divisor);
        assert_eq!(fault_of(&mut m, bytes), (vector::DE, 0), "{bytes:02x?}");
    }
}

#[test]
fn de_is_not_raised_by_the_largest_quotients() {
    // EDX:EAX, ECX, bytes, EAX behind it
    let cases: [(u32, u32, u32, &[u8], u32); 5] = [
        (0, u32::MAX, 1, &[0xF7, 0xF1], u32::MAX),
        (!0, 0x8000_0000, 1, &[0xF7, 0xF9], 0x8000_0000),
        (0, 0x7FFF_FFFF, 1, &[0xF7, 0xF9], 0x7FFF_FFFF),
        (0, 0xFF80, 1, &[0xF6, 0xF9], 0x0080),
        (0xFFFF, 0x8000, 1, &[0x66, 0xF7, 0xF9], 0x8000),
    ];
    for (high, low, divisor, bytes, want) in cases {
        let mut m = Machine::protected();
        m.set(gpr::EDX, high).set(gpr::EAX, low).set(gpr::ECX, divisor);
        m.bytes(&[bytes, &[0xF4]].concat());
        m.finish();
        assert_eq!(m.eax(), want, "{bytes:02x?}");
    }
}

#[test]
fn db_bp_and_of_are_traps_behind_their_instruction() {
    for (bytes, want) in [
        (&[0xF1][..], vector::DB), // int1
        (&[0xCC], vector::BP),
        (&[0xCD, 3], vector::BP),
        (&[0xCE], vector::OF),
    ] {
        let mut m = Machine::protected();
        m.cpu.set_eflags(0x802);
        m.bytes(bytes);
        let f = m.fault();
        assert_eq!((f.vector, f.error, f.eip), (want, 0, CODE + bytes.len() as u32), "{bytes:02x?}");
    }
}

#[test]
fn br_is_a_fault_of_bound() {
    let mut m = Machine::protected();
    m.write_u32(DATA, 10);
    m.write_u32(DATA + 4, 20);
    m.set(gpr::EAX, 21).set(gpr::ECX, DATA);
    assert_eq!(fault_of(&mut m, &[0x62, 0x01]), (vector::BR, 0));
}

#[test]
fn ud_is_a_fault_without_error_code() {
    for bytes in [&[0x0F, 0x0B][..], &[0x0F, 0xFF, 0xC0], &[0x8D, 0xC0], &[0xF0, 0x90], &[0x8E, 0xC8]] {
        assert_eq!(fault_of(&mut Machine::protected(), bytes), (vector::UD, 0), "{bytes:02x?}");
    }
}

/// One instruction each of x87, MMX, SSE and SSE2, and FXSAVE.
const FP: [&[u8]; 5] =
    [&[0xD9, 0xE8], &[0x0F, 0xEF, 0xC0], &[0x0F, 0x57, 0xC0], &[0x66, 0x0F, 0xEF, 0xC0], &[0x0F, 0xAE, 0x01]];

#[test]
fn nm_is_a_fault_of_floating_point_after_a_task_switch() {
    for bytes in FP {
        let mut m = Machine::protected();
        m.set(gpr::ECX, DATA);
        m.set_cr4(cr4::OSFXSR);
        m.cpu.cr0 = (m.cpu.cr0 | cr0::TS) & !cr0::EM;
        assert_eq!(fault_of(&mut m, bytes), (vector::NM, 0), "{bytes:02x?}");
    }
    let mut m = Machine::protected();
    m.cpu.cr0 |= cr0::TS | cr0::MP;
    assert_eq!(fault_of(&mut m, &[0x9B]), (vector::NM, 0));
}

#[test]
fn emulation_raises_nm_for_x87_and_ud_for_mmx_and_sse() {
    for (bytes, want) in FP.into_iter().zip([vector::NM, vector::UD, vector::UD, vector::UD, vector::NM]) {
        let mut m = Machine::protected();
        m.set(gpr::ECX, DATA);
        m.set_cr4(cr4::OSFXSR);
        m.cpu.cr0 |= cr0::EM;
        assert_eq!(fault_of(&mut m, bytes), (want, 0), "{bytes:02x?}");
    }
}

#[test]
fn sse_without_osfxsr_raises_ud() {
    for bytes in [FP[2], FP[3]] {
        let mut m = Machine::protected();
        m.cpu.cr0 &= !cr0::EM;
        assert_eq!(fault_of(&mut m, bytes), (vector::UD, 0), "{bytes:02x?}");
    }
}

#[test]
fn df_has_error_code_0_and_follows_a_fault_of_delivery() {
    let mut m = Machine::protected();
    // #GP's gate is not present: #NP while delivering #GP.
    m.set_idt(vector::GP, gate(CODE0, Machine::handler(vector::GP), 0x6E, 0));
    m.force_segment(seg::DS, 0);
    m.bytes(&[0xA1, 0, 0, 2, 0]);
    assert_eq!(m.fault_code(), (vector::DF, 0));
}

#[test]
fn ts_np_ss_and_gp_carry_the_selector() {
    // mov ds, ax
    let load = |selector: u16| {
        let mut m = Machine::protected();
        m.set(gpr::EAX, selector.into());
        fault_of(&mut m, &[0x8E, 0xD8])
    };
    assert_eq!(load(ABSENT_DATA), (vector::NP, ABSENT_DATA.into()));
    assert_eq!(load(EXECUTE_ONLY), (vector::GP, EXECUTE_ONLY.into()));
    assert_eq!(load(0x7FF8), (vector::GP, 0x7FF8));
    let mut m = Machine::protected();
    m.set(gpr::EAX, ABSENT_DATA.into());
    assert_eq!(fault_of(&mut m, &[0x8E, 0xD0]), (vector::SS, ABSENT_DATA.into()));
    // INT from ring 3 with a ring 3 SS0; #TS itself needs no inner stack: its handler conforms.
    let mut m = Machine::user();
    m.write_u32(TSS + 8, DATA3.into());
    m.set_idt(vector::TS, gate(CONFORMING0, Machine::handler(vector::TS), 0xEE, 0));
    m.bytes(&[0xCD, 0x40]);
    m.step();
    assert_eq!(m.cpu.eip, Machine::handler(vector::TS));
    assert_eq!((m.stack(0), m.stack(1)), (u32::from(DATA3 & !3), CODE));
}

#[test]
fn pf_has_address_and_access_and_pushes_the_address_of_the_instruction() {
    let mut m = Machine::user();
    m.enable_paging();
    m.set_pte(DATA, 0);
    m.set(gpr::EAX, DATA + 4);
    assert_eq!(fault_of(&mut m, &[0xFF, 0x00]), (vector::PF, 6));
    assert_eq!(m.cpu.cr2, DATA + 4);
}

#[test]
fn mf_is_a_fault_of_the_next_waiting_instruction() {
    let mut m = Machine::protected();
    m.cpu.cr0 = (m.cpu.cr0 | cr0::NE) & !(cr0::EM | cr0::TS);
    // fninit; fldcw [DATA] (zero divide unmasked); fld1; fldz; fdivp; nop; fld1
    m.write_u16(DATA, 0x037B);
    code!(m; fninit(); fldcw(word_ptr(DATA)); fld1(); fldz(); fdivp(st1, st0); nop());
    let size = assemble(32, CODE, |a| {
        a.fninit().unwrap();
        a.fldcw(word_ptr(DATA)).unwrap();
        a.fld1().unwrap();
        a.fldz().unwrap();
        a.fdivp(st1, st0).unwrap();
        a.nop().unwrap();
    });
    let waiting = CODE + size.len() as u32;
    m.write(waiting, &[0xD9, 0xE8]);
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip), (vector::MF, 0, waiting));
}

#[test]
fn ac_is_a_fault_with_error_code_0() {
    let mut m = Machine::user();
    m.cpu.cr0 |= cr0::AM;
    m.cpu.set_eflags(0x4_0002);
    m.cpu.update_alignment_check();
    m.set(gpr::EAX, DATA + 2);
    assert_eq!(fault_of(&mut m, &[0x8B, 0x08]), (vector::AC, 0));
}

#[test]
fn xm_is_a_fault_of_unmasked_sse_exceptions_and_ud_without_osxmmexcpt() {
    for (bit, want) in [(cr4::OSXMMEXCPT, vector::XM), (0, vector::UD)] {
        let mut m = Machine::protected();
        m.cpu.cr0 &= !(cr0::EM | cr0::TS);
        m.set_cr4(cr4::OSFXSR | bit);
        // Zero divide unmasked: ldmxcsr [DATA]; movss xmm0, [1.0]; xorps xmm1, xmm1; divss xmm0, xmm1
        m.write_u32(DATA, 0x1D80);
        m.write_u32(DATA + 4, 0x3F80_0000);
        let start = assemble(32, CODE, |a| {
            a.ldmxcsr(dword_ptr(DATA)).unwrap();
            a.movss(xmm0, dword_ptr(DATA + 4)).unwrap();
            a.xorps(xmm1, xmm1).unwrap();
        });
        m.bytes(&[&start[..], &[0xF3, 0x0F, 0x5E, 0xC1]].concat());
        let f = m.fault();
        assert_eq!((f.vector, f.error, f.eip), (want, 0, CODE + start.len() as u32));
    }
}

#[test]
fn exceptions_of_vm86_and_real_mode_arrive_too() {
    let mut m = Machine::vm86(3);
    m.bytes(&[0xF7, 0xF1]);
    m.set(gpr::ECX, 0);
    let f = m.fault();
    assert_eq!((f.vector, f.eip), (vector::DE, 0));
    let mut m = Machine::real();
    m.set(gpr::ECX, 0);
    m.bytes(&[0x90, 0xF7, 0xF1]);
    let f = m.fault();
    assert_eq!((f.vector, f.eip), (vector::DE, 1));
}
