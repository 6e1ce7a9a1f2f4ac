//! IN, OUT, INS, OUTS: permission, widths, the back door.

mod common;

use common::*;
use emu_core::cpu::{gpr, seg, vector};
use iced_x86::code_asm::*;

/// Clears the bit of a port in the I/O permission bitmap.
fn allow(m: &mut Machine, port: u16) {
    let at = TSS + 0x88 + u32::from(port >> 3);
    let b = m.read_u8(at) & !(1 << (port & 7));
    m.write(at, &[b]);
}

#[test]
fn in_and_out_of_all_widths_reach_the_bus() {
    let mut m = Machine::protected();
    for (port, v) in [(0x40, 0x11), (0x41, 0x2222), (0x42, 0x4444_4444), (0x1234, 0xFFFF_FF99)] {
        m.bus.ports.insert(port, v);
    }
    m.set(gpr::EAX, 0xAAAA_AAAA).set(gpr::EDX, 0xFFFF_1234);
    code!(m; in_(al, 0x40); out(0x80, al); in_(ax, 0x41); out(0x80, ax); in_(eax, 0x42); out(0x80, eax);
        in_(al, dx); out(dx, al); out(dx, ax); out(dx, eax); hlt());
    m.finish();
    assert_eq!(m.bus.ins, [(0x40, 1), (0x41, 2), (0x42, 4), (0x1234, 1)]);
    let outs = [
        (0x80, 1, 0x11),
        (0x80, 2, 0x2222),
        (0x80, 4, 0x4444_4444),
        (0x1234, 1, 0x99),
        (0x1234, 2, 0x4499),
        (0x1234, 4, 0x4444_4499),
    ];
    assert_eq!(m.bus.outs, outs);
}

#[test]
fn in_keeps_the_rest_of_eax() {
    let mut m = Machine::protected();
    m.bus.ports.insert(0x40, 0xFFFF_1122);
    m.set(gpr::EAX, 0xAABB_CCDD);
    code!(m; in_(al, 0x40); mov(ebx, eax); in_(ax, 0x40); hlt());
    m.finish();
    assert_eq!((m.cpu.gpr[gpr::EBX], m.eax()), (0xAABB_CC22, 0xAABB_1122));
}

#[test]
fn io_with_cpl_up_to_iopl_needs_no_bitmap() {
    let mut m = Machine::user();
    m.cpu.set_eflags(0x3002);
    code!(m; out(0x80, al); int3());
    assert_eq!(m.fault().vector, 3);
    assert_eq!(m.bus.outs.len(), 1);
}

#[test]
fn io_above_iopl_follows_the_bitmap() {
    let mut m = Machine::user();
    allow(&mut m, 0x80);
    code!(m; out(0x80, al); out(0x81, al));
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip, m.bus.outs.len()), (vector::GP, 0, CODE + 2, 1));
}

#[test]
fn io_of_several_bytes_needs_every_bit() {
    let mut m = Machine::user();
    for port in [0x86, 0x87, 0x88, 0x89] {
        allow(&mut m, port);
    }
    code!(m; out(0x86, eax); out(0x87, eax));
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.bus.outs.len()), (vector::GP, CODE + 2, 1));
    let mut m = Machine::user();
    allow(&mut m, 0x80);
    code!(m; in_(ax, 0x80));
    assert_eq!(m.fault_code(), (vector::GP, 0));
    assert!(m.bus.ins.is_empty());
}

#[test]
fn io_beyond_the_bitmap_raises_gp_0() {
    let mut m = Machine::user();
    for port in 0x70..0x90 {
        allow(&mut m, port);
    }
    // The byte behind the one that holds the bit must exist too.
    m.cpu.tr.limit = 0x88 + (0x80 >> 3);
    code!(m; out(0x78, al); out(0x80, al));
    assert_eq!(m.fault().eip, CODE + 2);
    for limit in [0x66, 0x67] {
        let mut m = Machine::user();
        m.cpu.tr.limit = limit;
        code!(m; out(0x80, al));
        assert_eq!(m.fault_code(), (vector::GP, 0));
    }
}

#[test]
fn io_with_a_16_bit_tss_raises_gp_0() {
    let mut m = Machine::user();
    allow(&mut m, 0x80);
    m.cpu.tr.attr = 0x83;
    m.write_u16(TSS + 2, INNER_STACK as u16);
    m.write_u16(TSS + 4, DATA0);
    code!(m; out(0x80, al));
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

#[test]
fn io_in_vm86_mode_follows_the_bitmap_whatever_iopl_is() {
    let mut m = Machine::vm86(3);
    code!(m; out(0x80, al));
    assert_eq!(m.fault_code(), (vector::GP, 0));
    let mut m = Machine::vm86(0);
    allow(&mut m, 0x80);
    code!(m; out(0x80, al); int3());
    assert_eq!(m.fault().vector, 3);
}

#[test]
fn string_io_checks_the_bitmap() {
    let mut m = Machine::user();
    m.set(gpr::EDX, 0x80).set(gpr::ESI, DATA);
    code!(m; outsb());
    assert_eq!(m.fault_code(), (vector::GP, 0));
    let mut m = Machine::user();
    allow(&mut m, 0x80);
    m.write(DATA, b"xy");
    m.set(gpr::EDX, 0x80).set(gpr::ESI, DATA).set(gpr::ECX, 2);
    m.bytes(&[0xF3, 0x6E, 0xCC]);
    assert_eq!(m.fault().vector, 3);
    assert_eq!(m.bus.outs, [(0x80, 1, 0x78), (0x80, 1, 0x79)]);
}

#[test]
fn io_in_real_mode_is_free() {
    let mut m = Machine::real();
    code!(m; out(0x80, al); hlt());
    m.finish();
    assert_eq!(m.bus.outs.len(), 1);
}

#[test]
fn backdoor_sees_and_sets_the_registers() {
    let mut m = Machine::protected();
    m.bus.backdoor = Some([1, 2, 3, 4, 5, 6]);
    m.set(gpr::EAX, 0x564D_5868).set(gpr::EBX, 20).set(gpr::ECX, 10).set(gpr::EDX, 0x5658);
    m.set(gpr::ESI, 50).set(gpr::EDI, 60);
    code!(m; in_(eax, dx); hlt());
    m.finish();
    assert_eq!(m.bus.backdoor_seen, Some([0x564D_5868, 20, 10, 0x5658, 50, 60]));
    let g = &m.cpu.gpr;
    assert_eq!([g[0], g[3], g[1], g[2], g[6], g[7]], [1, 2, 3, 4, 5, 6]);
    assert!(m.bus.ins.is_empty());
}

#[test]
fn backdoor_without_answer_is_a_port() {
    let mut m = Machine::protected();
    m.bus.ports.insert(0x5658, 77);
    m.set(gpr::EDX, 0x5658);
    code!(m; in_(eax, dx); in_(al, dx); hlt());
    m.finish();
    assert_eq!((m.eax(), m.bus.ins.len()), (77, 2));
    assert_eq!(m.selector(seg::CS), CODE0);
}
