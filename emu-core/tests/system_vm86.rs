//! VM86 mode: entering, leaving, IOPL, and the virtual-mode extensions (CR4.VME, CR4.PVI).

mod common;

use common::*;
use emu_core::cpu::{cr4, gpr, seg, vector};
use iced_x86::code_asm::*;

const VM: u32 = 1 << 17;
const VIF: u32 = 1 << 19;
const VIP: u32 = 1 << 20;
const IF: u32 = 1 << 9;
const TF: u32 = 1 << 8;

#[test]
fn iretd_enters_vm86_with_all_segments() {
    let mut m = Machine::protected();
    let values = [0x1234, 0x1000, VM | 0x3202, 0x8765_4321, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000];
    let top = STACK0 - 36;
    m.set(gpr::ESP, top);
    for (n, v) in values.into_iter().enumerate() {
        m.write_u32(top + 4 * n as u32, v);
    }
    code!(m; iretd());
    m.step();
    assert!(m.cpu.vm86());
    assert_eq!((m.cpu.cpl, m.cpu.eip, m.cpu.gpr[gpr::ESP]), (3, 0x1234, 0x8765_4321));
    let selectors: Vec<u16> = (0..6).map(|n| m.selector(n)).collect();
    assert_eq!(selectors, [0x3000, 0x1000, 0x2000, 0x4000, 0x5000, 0x6000]);
    assert_eq!(m.cpu.seg[seg::DS].base, 0x4_0000);
    assert_eq!((m.cpu.seg[seg::DS].limit, m.cpu.mode.code32()), (0xFFFF, false));
    assert_eq!(m.cpu.eflags(), VM | 0x3202);
}

#[test]
fn iretd_to_vm86_with_eip_beyond_64_kib_raises_gp_0() {
    let mut m = Machine::protected();
    let top = STACK0 - 36;
    m.set(gpr::ESP, top);
    m.write_u32(top, 0x1_0000);
    m.write_u32(top + 8, VM | 2);
    code!(m; iretd());
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

#[test]
fn exception_leaves_vm86_and_clears_the_data_segments() {
    let mut m = Machine::vm86(3);
    for (n, s) in [seg::ES, seg::DS, seg::FS, seg::GS].into_iter().enumerate() {
        m.cpu.set_segment(s, emu_core::cpu::segment::Segment::real(0x100 * (n as u16 + 1), 3));
    }
    code!(m; hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip, f.cs), (13, 0, 0, 0x1000));
    assert_eq!((f.outer, f.eflags), (Some((0xF000, 0x1000)), VM | 0x1_3002));
    // error code, EIP, CS, EFLAGS, ESP, SS, then ES DS FS GS
    assert_eq!(f.sp, INNER_STACK - 40);
    assert_eq!([m.stack(6), m.stack(7), m.stack(8), m.stack(9)], [0x100, 0x200, 0x300, 0x400]);
    assert!(!m.cpu.vm86());
    assert_eq!((m.cpu.cpl, m.selector(seg::CS), m.selector(seg::SS)), (0, CODE0, DATA0));
    for s in [seg::ES, seg::DS, seg::FS, seg::GS] {
        assert_eq!(m.selector(s), 0);
        assert!(!m.cpu.seg[s].is_present());
    }
}

#[test]
fn external_interrupt_leaves_vm86_and_iretd_returns() {
    let mut m = Machine::vm86(3);
    code_at!(m, Machine::handler(0x30); iretd());
    m.cpu.eflags |= IF;
    m.bus.interrupts.push_back(0x30);
    code!(m; inc(ax); int3());
    m.set_idt(3, gate(CODE0, Machine::handler(3), 0xEE, 0));
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.cs, f.outer), (3, 2, 0x1000, Some((0xF000, 0x1000))));
    assert_eq!((m.eax(), m.bus.interrupts.len()), (1, 0));
}

#[test]
fn vm86_handler_must_be_in_ring_0() {
    for s in [CODE1, CONFORMING0, CODE3] {
        let mut m = Machine::vm86(3);
        m.set_idt(0x80, gate(s, Machine::handler(0x80), 0xEE, 0));
        code!(m; int(0x80));
        assert_eq!(m.fault_code(), (vector::GP, u32::from(s & !3)));
    }
}

#[test]
fn vm86_interrupt_through_a_16_bit_gate_pushes_words() {
    let mut m = Machine::vm86(3);
    m.set_idt(0x80, gate(CODE0, 0x4800, 0xE6, 0));
    code!(m; int(0x80));
    m.step();
    assert_eq!((m.cpu.eip, m.cpu.gpr[gpr::ESP]), (0x4800, INNER_STACK - 18));
    assert_eq!((m.stack16(0), m.stack16(1), m.stack16(3), m.stack16(4)), (2, 0x1000, 0xF000, 0x1000));
}

#[test]
fn vm86_segment_loads_multiply_by_16() {
    let mut m = Machine::vm86(0);
    m.write_u32(0x2_0010, 0xCAFE_F00D);
    code!(m; mov(ax, 0x2000u32); mov(ds, ax); mov(eax, dword_ptr(0x10)); int3());
    m.fault();
    assert_eq!(m.eax(), 0xCAFE_F00D);
}

// ---- IOPL ----------------------------------------------------------------------------------------

#[test]
fn vm86_with_iopl_below_3_faults_on_sensitive_instructions() {
    let sensitive: [&[u8]; 7] = [&[0xFA], &[0xFB], &[0x9C], &[0x9D], &[0xCD, 0x21], &[0xCF], &[0x66, 0x9C]];
    for bytes in sensitive {
        let mut m = Machine::vm86(2);
        m.bytes(bytes);
        let f = m.fault();
        assert_eq!((f.vector, f.error, f.eip), (vector::GP, 0, 0), "{bytes:x?}");
        assert_eq!(f.outer, Some((0xF000, 0x1000)));
    }
}

#[test]
fn vm86_int3_and_into_are_not_sensitive_to_iopl() {
    let mut m = Machine::vm86(0);
    code!(m; int3());
    assert_eq!(m.fault().vector, 3);
    let mut m = Machine::vm86(0);
    code!(m; mov(al, 0x7F); inc(al); into());
    assert_eq!(m.fault().vector, 4);
}

#[test]
fn vm86_with_iopl_3_executes_sensitive_instructions() {
    let mut m = Machine::vm86(3);
    code!(m; sti(); pushf(); cli(); popf(); pushf(); pop(ax); cli(); int(0x21));
    let f = m.fault();
    assert_eq!((f.vector, f.eflags & IF), (0x21, 0));
    assert_eq!(m.eax() & 0xFFFF, 0x3202);
}

#[test]
fn vm86_popf_and_iret_cannot_change_iopl_or_vm() {
    let mut m = Machine::vm86(3);
    code!(m; push(0i32); popf(); int3());
    assert_eq!(m.fault().eflags, VM | 0x3002);
    let mut m = Machine::vm86(3);
    m.set(gpr::ESP, 0xEFF4);
    for (n, v) in [0x100, 0x1000, 0].into_iter().enumerate() {
        m.write_u32(CODE + 0xEFF4 + 4 * n as u32, v);
    }
    code!(m; iretd());
    m.write(CODE + 0x100, &[0xCC]);
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.eflags), (3, 0x101, VM | 0x3002));
}

#[test]
fn vm86_raises_ud_on_protected_mode_instructions() {
    let protected: [&[u8]; 7] = [
        &[0x0F, 0x00, 0xC0], // sldt ax
        &[0x0F, 0x00, 0xC8], // str ax
        &[0x0F, 0x00, 0xD0], // lldt ax
        &[0x0F, 0x00, 0xE0], // verr ax
        &[0x0F, 0x02, 0xC0], // lar ax, ax
        &[0x0F, 0x03, 0xC0], // lsl ax, ax
        &[0x63, 0xC0],       // arpl ax, ax
    ];
    for bytes in protected {
        let mut m = Machine::vm86(3);
        m.bytes(bytes);
        assert_eq!(m.fault().vector, vector::UD, "{bytes:x?}");
    }
}

#[test]
fn vm86_raises_gp_on_privileged_instructions() {
    let privileged: [&[u8]; 6] = [
        &[0xF4],
        &[0x0F, 0x06],                   // clts
        &[0x0F, 0x20, 0xC0],             // mov eax, cr0
        &[0x0F, 0x01, 0x16, 0x00, 0x00], // lgdt
        &[0x0F, 0x32],                   // rdmsr
        &[0x0F, 0x09],                   // wbinvd
    ];
    for bytes in privileged {
        let mut m = Machine::vm86(3);
        m.bytes(bytes);
        assert_eq!(m.fault_code(), (vector::GP, 0), "{bytes:x?}");
    }
}

// ---- virtual-mode extensions ---------------------------------------------------------------------

fn vme(iopl: u32) -> Machine {
    let mut m = Machine::vm86(iopl);
    m.cpu.cr4 |= cr4::VME;
    // Redirection bitmap below the I/O map: INT 21h goes to the 8086 program.
    m.write(TSS + 0x68, &[0xFF; 32]);
    m.write(TSS + 0x68 + 4, &[0xFD]);
    m.write_u32(0x21 * 4, 0x1000_0200);
    m
}

#[test]
fn vme_cli_and_sti_change_vif() {
    let mut m = vme(0);
    code!(m; sti(); int3());
    assert_eq!(m.fault().eflags, VM | VIF | 2);
    let mut m = vme(0);
    m.cpu.eflags |= VIF;
    code!(m; cli(); int3());
    assert_eq!(m.fault().eflags, VM | 2);
}

#[test]
fn vme_sti_with_vip_raises_gp_0() {
    let mut m = vme(0);
    m.cpu.eflags |= VIP;
    code!(m; sti());
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

#[test]
fn vme_pushf_shows_vif_as_if_and_iopl_3() {
    let mut m = vme(0);
    m.cpu.eflags |= VIF;
    code!(m; pushf(); pop(ax); int3());
    m.fault();
    assert_eq!(m.eax() & 0xFFFF, 0x3202);
    let mut m = vme(0);
    m.bytes(&[0x66, 0x9C]); // pushfd
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

#[test]
fn vme_popf_loads_if_into_vif() {
    let mut m = vme(0);
    code!(m; push(0x0202i32); popf(); int3());
    assert_eq!(m.fault().eflags, VM | VIF | 2);
    let mut m = vme(0);
    m.cpu.eflags |= VIP;
    code!(m; push(0x0202i32); popf());
    assert_eq!(m.fault_code(), (vector::GP, 0));
    let mut m = vme(0);
    code!(m; push(TF as i32); popf());
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

#[test]
fn vme_iret_loads_if_into_vif() {
    let mut m = vme(0);
    code!(m; push(0x0202i32); push(0x1000i32); push(0x0100i32); iret());
    m.write(CODE + 0x100, &[0xCC]);
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.eflags), (3, 0x101, VM | VIF | 2));
}

#[test]
fn vme_int_with_a_clear_redirection_bit_goes_to_the_8086_handler() {
    let mut m = vme(0);
    m.cpu.eflags |= VIF;
    code!(m; int(0x21));
    m.step();
    assert!(m.cpu.vm86());
    assert_eq!((m.cpu.eip, m.selector(seg::CS), m.cpu.gpr[gpr::ESP]), (0x200, 0x1000, 0xEFFA));
    assert_eq!((m.stack16(0), m.stack16(1), m.stack16(2)), (2, 0x1000, 0x3202));
    assert_eq!(m.cpu.eflags & VIF, 0);

    let mut m = vme(3);
    m.cpu.eflags |= IF;
    code!(m; int(0x21));
    m.step();
    assert_eq!((m.cpu.eip, m.stack16(2), m.cpu.eflags & IF), (0x200, 0x3202, 0));
}

#[test]
fn vme_int_with_a_set_redirection_bit_goes_to_the_monitor() {
    let mut m = vme(3);
    code!(m; int(0x22));
    assert_eq!(m.fault().vector, 0x22);
    let mut m = vme(0);
    code!(m; int(0x22));
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

#[test]
fn pvi_cli_and_sti_at_cpl_3_change_vif() {
    let mut m = Machine::user();
    m.cpu.cr4 |= cr4::PVI;
    code!(m; sti(); int3());
    assert_eq!(m.fault().eflags, VIF | 2);
    let mut m = Machine::user();
    m.cpu.cr4 |= cr4::PVI;
    m.cpu.eflags |= VIP;
    code!(m; cli(); sti());
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip), (vector::GP, 0, CODE + 1));
}
