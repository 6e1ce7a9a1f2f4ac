//! MMX and SSE instructions: what they check in the control registers, in which order, and that
//! nothing changes when they fault. (What they compute is compared with silicon elsewhere.)

mod common;

use common::*;
use emu_core::cpu::{cr0, cr4, gpr, seg, vector};

/// Address of DATA in EBX, as all memory operands here have it.
fn machine(code: &[u8]) -> Machine {
    let mut m = Machine::protected();
    m.cpu.cr0 |= cr0::NE | cr0::MP;
    m.cpu.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
    m.set(gpr::EBX, DATA).set(gpr::EDI, DATA);
    m.cpu.xmm = std::array::from_fn(|n| 0x0101_0101_0101_0101_0101_0101_0101_0101 * n as u128);
    for n in 0..8 {
        m.cpu.x87.regs[n].significand = 0x0202_0202_0202_0202 * n as u64;
    }
    m.cpu.x87.top = 3;
    m.write(DATA, &[0; 64]);
    m.bytes(&[code, &[0xF4]].concat());
    m
}

/// What the instruction raises, if anything.
fn outcome(m: &mut Machine) -> Option<u8> {
    m.run(100);
    let at = m.cpu.seg[seg::CS].base.wrapping_add(m.cpu.eip);
    (HANDLERS..HANDLERS + 0x1000).contains(&at).then(|| ((at - 1 - HANDLERS) / 16) as u8)
}

/// Instructions with XMM registers or MXCSR: one of each kind of function.
const SSE: &[&[u8]] = &[
    &[0x0F, 0x28, 0xC1],             // movaps xmm0, xmm1
    &[0x0F, 0x28, 0x03],             // movaps xmm0, [ebx]
    &[0x0F, 0x29, 0x03],             // movaps [ebx], xmm0
    &[0x0F, 0x10, 0x03],             // movups xmm0, [ebx]
    &[0x0F, 0x11, 0x03],             // movups [ebx], xmm0
    &[0xF2, 0x0F, 0x10, 0x03],       // movsd xmm0, [ebx]
    &[0xF2, 0x0F, 0x10, 0xC1],       // movsd xmm0, xmm1
    &[0xF2, 0x0F, 0x11, 0x03],       // movsd [ebx], xmm0
    &[0xF3, 0x0F, 0x7E, 0xC1],       // movq xmm0, xmm1
    &[0x66, 0x0F, 0x6E, 0xC0],       // movd xmm0, eax
    &[0x0F, 0x17, 0x03],             // movhps [ebx], xmm0
    &[0x0F, 0x50, 0xC0],             // movmskps eax, xmm0
    &[0x0F, 0x2B, 0x03],             // movntps [ebx], xmm0
    &[0x66, 0x0F, 0xF7, 0xC1],       // maskmovdqu xmm0, xmm1
    &[0x66, 0x0F, 0xEF, 0xC1],       // pxor xmm0, xmm1
    &[0x66, 0x0F, 0xFC, 0x03],       // paddb xmm0, [ebx]
    &[0x66, 0x0F, 0x71, 0xD0, 1],    // psrlw xmm0, 1
    &[0x66, 0x0F, 0x73, 0xF8, 1],    // pslldq xmm0, 1
    &[0x66, 0x0F, 0x70, 0xC1, 0x1B], // pshufd xmm0, xmm1, 1Bh
    &[0x66, 0x0F, 0xC5, 0xC0, 1],    // pextrw eax, xmm0, 1
    &[0x0F, 0x58, 0xC1],             // addps xmm0, xmm1
    &[0xF2, 0x0F, 0x59, 0x03],       // mulsd xmm0, [ebx]
    &[0x0F, 0xC2, 0xC1, 1],          // cmpltps xmm0, xmm1
    &[0x66, 0x0F, 0x2E, 0xC1],       // ucomisd xmm0, xmm1
    &[0x0F, 0x53, 0xC1],             // rcpps xmm0, xmm1
    &[0xF2, 0x0F, 0x7C, 0xC1],       // haddps xmm0, xmm1
    &[0xF2, 0x0F, 0x2A, 0xC0],       // cvtsi2sd xmm0, eax
    &[0xF3, 0x0F, 0x2C, 0xC1],       // cvttss2si eax, xmm1
    &[0x0F, 0x5B, 0xC1],             // cvtdq2ps xmm0, xmm1
    &[0x0F, 0x2A, 0x03],             // cvtpi2ps xmm0, [ebx]
    &[0x66, 0x0F, 0x2A, 0x03],       // cvtpi2pd xmm0, [ebx]
    &[0x0F, 0xAE, 0x13],             // ldmxcsr [ebx]
    &[0x0F, 0xAE, 0x1B],             // stmxcsr [ebx]
];

/// Instructions with both an XMM and an MMX register.
const BOTH: &[&[u8]] = &[
    &[0x0F, 0x2A, 0xC1],       // cvtpi2ps xmm0, mm1
    &[0x66, 0x0F, 0x2A, 0xC1], // cvtpi2pd xmm0, mm1
    &[0x0F, 0x2C, 0x03],       // cvttps2pi mm0, [ebx]
    &[0x66, 0x0F, 0x2D, 0xC1], // cvtpd2pi mm0, xmm1
    &[0xF3, 0x0F, 0xD6, 0xC1], // movq2dq xmm0, mm1
    &[0xF2, 0x0F, 0xD6, 0xC1], // movdq2q mm0, xmm1
];

/// Instructions with MMX registers.
const MMX: &[&[u8]] = &[
    &[0x0F, 0x6F, 0x03],       // movq mm0, [ebx]
    &[0x0F, 0x7F, 0x03],       // movq [ebx], mm0
    &[0x0F, 0x6E, 0xC0],       // movd mm0, eax
    &[0x0F, 0x7E, 0x03],       // movd [ebx], mm0
    &[0x0F, 0xE7, 0x03],       // movntq [ebx], mm0
    &[0x0F, 0xF7, 0xC1],       // maskmovq mm0, mm1
    &[0x0F, 0xEF, 0xC1],       // pxor mm0, mm1
    &[0x0F, 0xE0, 0x03],       // pavgb mm0, [ebx]
    &[0x0F, 0x71, 0xD0, 1],    // psrlw mm0, 1
    &[0x0F, 0x60, 0x03],       // punpcklbw mm0, [ebx]
    &[0x0F, 0x70, 0xC1, 0x1B], // pshufw mm0, mm1, 1Bh
    &[0x0F, 0xC4, 0x03, 1],    // pinsrw mm0, [ebx], 1
    &[0x0F, 0xD7, 0xC1],       // pmovmskb eax, mm1
    &[0x0F, 0x77],             // emms
];

fn outcome_with(code: &[u8], change: impl FnOnce(&mut Machine)) -> Option<u8> {
    let mut m = machine(code);
    change(&mut m);
    outcome(&mut m)
}

fn pending(m: &mut Machine) {
    m.cpu.x87.control &= !1;
    m.cpu.x87.status |= 1;
}

#[test]
fn sse_checks_em_osfxsr_ts_in_order() {
    for code in SSE.iter().chain(BOTH) {
        assert_eq!(outcome_with(code, |_| {}), None, "{code:02x?}");
        let ts = |m: &mut Machine| m.cpu.cr0 |= cr0::TS;
        let em = |m: &mut Machine| m.cpu.cr0 |= cr0::EM | cr0::TS;
        let no_fxsr = |m: &mut Machine| {
            m.cpu.cr4 &= !cr4::OSFXSR;
            m.cpu.cr0 |= cr0::TS;
        };
        assert_eq!(outcome_with(code, ts), Some(vector::NM), "{code:02x?}");
        assert_eq!(outcome_with(code, em), Some(vector::UD), "{code:02x?}");
        assert_eq!(outcome_with(code, no_fxsr), Some(vector::UD), "{code:02x?}");
    }
}

#[test]
fn mmx_checks_em_ts_pending_in_order_and_not_osfxsr() {
    for code in MMX {
        assert_eq!(outcome_with(code, |m| m.cpu.cr4 = 0), None, "{code:02x?}");
        let ts = |m: &mut Machine| {
            m.cpu.cr0 |= cr0::TS;
            pending(m);
        };
        let em = |m: &mut Machine| {
            m.cpu.cr0 |= cr0::EM | cr0::TS;
            pending(m);
        };
        assert_eq!(outcome_with(code, ts), Some(vector::NM), "{code:02x?}");
        assert_eq!(outcome_with(code, em), Some(vector::UD), "{code:02x?}");
    }
}

#[test]
fn pending_x87_exception_stops_mmx_but_not_sse() {
    for code in MMX.iter().chain(BOTH) {
        assert_eq!(outcome_with(code, pending), Some(vector::MF), "{code:02x?}");
    }
    for code in SSE {
        assert_eq!(outcome_with(code, pending), None, "{code:02x?}");
    }
}

#[test]
fn checks_come_before_memory() {
    for code in SSE.iter().chain(MMX).chain(BOTH) {
        let unmapped = |m: &mut Machine| {
            m.cpu.cr0 |= cr0::TS;
            m.enable_paging();
            m.set_pte(DATA, 0);
        };
        assert_eq!(outcome_with(code, unmapped), Some(vector::NM), "{code:02x?}");
    }
}

#[test]
fn movnti_and_prefetch_need_no_vector_unit() {
    for code in [&[0x0F, 0xC3, 0x03][..], &[0x0F, 0x18, 0x03], &[0x0F, 0xAE, 0xF8]] {
        let off = |m: &mut Machine| {
            m.cpu.cr0 |= cr0::EM | cr0::TS;
            m.cpu.cr4 = 0;
        };
        assert_eq!(outcome_with(code, off), None, "{code:02x?}");
    }
}

#[test]
fn mmx_use_changes_top_and_tags_emms_empties() {
    for code in MMX.iter().chain(BOTH) {
        let mut m = machine(code);
        assert_eq!(outcome(&mut m), None);
        let emptied = code == &[0x0F, 0x77];
        assert_eq!((m.cpu.x87.top, m.cpu.x87.valid), (0, if emptied { 0 } else { 0xFF }), "{code:02x?}");
    }
    let mut m = machine(&[0x0F, 0x6E, 0xD0]); // movd mm2, eax
    m.set(gpr::EAX, 0x1234_5678);
    assert_eq!(outcome(&mut m), None);
    assert_eq!((m.cpu.x87.regs[2].significand, m.cpu.x87.regs[2].sign_exponent), (0x1234_5678, 0xFFFF));
}

#[test]
fn unmasked_exception_sets_flags_and_keeps_destination() {
    // divps xmm1, xmm0: 1/3, 1/0, 0/3, 0/3.
    for (osxmmexcpt, expected) in [(true, vector::XM), (false, vector::UD)] {
        let mut m = machine(&[0x0F, 0x5E, 0xC8]);
        if !osxmmexcpt {
            m.cpu.cr4 &= !cr4::OSXMMEXCPT;
        }
        m.cpu.mxcsr = 0x1F80 & !0x200; // ZM
        let three = 0x4040_0000u128;
        let one = 0x3F80_0000u128;
        m.cpu.xmm[1] = one | one << 32;
        m.cpu.xmm[0] = three | three << 64 | three << 96;
        let before = m.cpu.xmm;
        let f = m.fault();
        assert_eq!((f.vector, f.eip), (expected, CODE));
        assert_eq!(m.cpu.xmm, before);
        // PE of 1/3 is not reported: the zero divide shows before anything is computed.
        assert_eq!(m.cpu.mxcsr & 0x3F, 4);
    }
}

#[test]
fn unmasked_precision_reports_all_elements() {
    let mut m = machine(&[0x0F, 0x5E, 0xC8]); // divps xmm1, xmm0
    m.cpu.mxcsr = 0x1F80 & !0x1000; // PM
    let (three, one) = (0x4040_0000u128, 0x3F80_0000u128);
    m.cpu.xmm[1] = one | one << 32 | one << 64 | one << 96;
    m.cpu.xmm[0] = three | one << 64 | one << 96; // 1/3, 1/0, 1/1, 1/1
    assert_eq!(m.fault_code(), (vector::XM, 0));
    assert_eq!(m.cpu.mxcsr & 0x3F, 0x24);
}

#[test]
fn unmasked_exception_of_comparison_keeps_eflags() {
    let mut m = machine(&[0x66, 0x0F, 0x2F, 0xC1]); // comisd xmm0, xmm1
    m.cpu.mxcsr = 0x1F80 & !0x80; // IM
    m.cpu.xmm[0] = 0x7FF8_0000_0000_0000;
    m.cpu.set_eflags(0x2 | 0x80);
    let f = m.fault();
    assert_eq!((f.vector, f.eflags & 0xCD5), (vector::XM, 0x80));
}

#[test]
fn ldmxcsr_reserved_bit_raises_gp() {
    let mut m = machine(&[0x0F, 0xAE, 0x13]);
    m.write_u32(DATA, 0x1_1F80);
    assert_eq!(m.fault_code(), (vector::GP, 0));
    assert_eq!(m.cpu.mxcsr, 0x1F80);
    let mut m = machine(&[0x0F, 0xAE, 0x13]);
    m.write_u32(DATA, 0xFFFF);
    assert_eq!(outcome(&mut m), None);
    assert_eq!(m.cpu.mxcsr, 0xFFFF);
}

#[test]
fn misaligned_operand_raises_gp_before_page_fault() {
    let aligned: [&[u8]; 6] = [
        &[0x0F, 0x28, 0x03],       // movaps xmm0, [ebx]
        &[0x0F, 0x29, 0x03],       // movaps [ebx], xmm0
        &[0x66, 0x0F, 0xE7, 0x03], // movntdq [ebx], xmm0
        &[0x66, 0x0F, 0xFC, 0x03], // paddb xmm0, [ebx]
        &[0x0F, 0x58, 0x03],       // addps xmm0, [ebx]
        &[0x0F, 0x5B, 0x03],       // cvtdq2ps xmm0, [ebx]
    ];
    for code in aligned {
        for mapped in [true, false] {
            let mut m = machine(code);
            m.enable_paging();
            m.set(gpr::EBX, DATA + 8);
            if !mapped {
                m.set_pte(DATA, 0);
            }
            assert_eq!(m.fault_code(), (vector::GP, 0), "{code:02x?}");
        }
    }
    for code in [&[0x0F, 0x10, 0x03][..], &[0xF2, 0x0F, 0xF0, 0x03], &[0xF3, 0x0F, 0x7F, 0x03]] {
        let mut m = machine(code);
        m.set(gpr::EBX, DATA + 5);
        assert_eq!(outcome(&mut m), None, "{code:02x?}");
    }
}

#[test]
fn alignment_is_that_of_the_linear_address() {
    let mut m = machine(&[0x0F, 0x28, 0x03]);
    m.set_gdt(FREE, descriptor(DATA + 8, 0xFFFF, access::DATA, 4));
    m.force_segment(seg::DS, FREE);
    m.set(gpr::EBX, 8);
    assert_eq!(outcome(&mut m), None);
    m = machine(&[0x0F, 0x28, 0x03]);
    m.set_gdt(FREE, descriptor(DATA + 8, 0xFFFF, access::DATA, 4));
    m.force_segment(seg::DS, FREE);
    m.set(gpr::EBX, 16);
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

#[test]
fn segment_limit_covers_all_bytes() {
    for (limit, faults) in [(0x1F, false), (0x1E, true)] {
        for (code, vector) in [
            (&[0x0F, 0x28, 0x40, 0x10][..], vector::GP), // movaps xmm0, [eax+10h]
            (&[0x0F, 0x29, 0x45, 0x10], vector::SS),     // movaps [ebp+10h], xmm0
        ] {
            let mut m = machine(code);
            m.set_gdt(FREE, descriptor(DATA, limit, access::DATA, 4));
            m.force_segment(seg::DS, FREE);
            m.force_segment(seg::SS, FREE);
            m.set(gpr::EAX, 0).set(gpr::EBP, 0);
            // Not delivered: the handler would have no stack.
            let result = m.engine.step(&mut m.cpu, &mut m.mem, &mut m.bus);
            let raised = match result {
                Ok(()) => None,
                Err(emu_core::cpu::TrapKind::Exception(e)) => Some(e.vector),
                Err(other) => panic!("{other:?}"),
            };
            assert_eq!(raised, faults.then_some(vector), "{code:02x?} {limit:x}");
        }
    }
}

#[test]
fn store_across_pages_faults_without_effect() {
    for code in [&[0x0F, 0x11, 0x03][..], &[0x0F, 0x7F, 0x03], &[0x0F, 0xF7, 0xC1], &[0x66, 0x0F, 0xF7, 0xC1]]
    {
        let mut m = machine(code);
        m.enable_paging();
        m.cpu.cr0 |= cr0::WP;
        let at = DATA + 0x1000 - 4;
        m.set(gpr::EBX, at).set(gpr::EDI, at);
        m.set_pte(DATA + 0x1000, (DATA + 0x1000) | 5);
        m.cpu.xmm[1] = u128::MAX;
        m.cpu.x87.regs[1].significand = u64::MAX;
        m.write_u32(at, 0x5555_5555);
        assert_eq!(m.fault_code(), (vector::PF, 3), "{code:02x?}");
        assert_eq!(m.cpu.cr2, DATA + 0x1000);
        assert_eq!(m.read_u32(at), 0x5555_5555);
    }
}

#[test]
fn faulting_mmx_load_keeps_x87_state() {
    let mut m = machine(&[0x0F, 0x6F, 0x03]); // movq mm0, [ebx]
    m.enable_paging();
    m.set_pte(DATA, 0);
    assert_eq!(m.fault_code(), (vector::PF, 0));
    assert_eq!((m.cpu.x87.top, m.cpu.x87.valid), (3, 0));
}

#[test]
fn masked_store_writes_selected_bytes_with_16_bit_addresses() {
    let mut m = machine(&[0x67, 0x66, 0x0F, 0xF7, 0xC1]); // maskmovdqu xmm0, xmm1, address size 16
    m.set_gdt(FREE, descriptor(DATA, 0xFFFF, access::DATA, 4));
    m.force_segment(seg::DS, FREE);
    m.set(gpr::EDI, 0xABCD_0010);
    m.cpu.xmm[0] = 0x0F0E_0D0C_0B0A_0908_0706_0504_0302_0100;
    m.cpu.xmm[1] = 0x8000_0000_0000_0080_0000_0000_0000_8000;
    assert_eq!(outcome(&mut m), None);
    let bytes: Vec<u8> = (0..16).map(|n| m.read_u8(DATA + 16 + n)).collect();
    assert_eq!(bytes, [0, 1, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 15]);
}
