//! How runs end, and reboots.

mod machine_support;

use emu_core::cpu::gpr;
use emu_devices::machine::{Boot, StopReason};
use emu_devices::testdev::TestDevice;
use machine_support::{CELL, Code, HLT, cell, config, machine};

/// Enough for any guest here; a run that takes longer is stuck.
const LONG: u64 = 1_000_000_000;

#[test]
fn acpi_soft_off_ends_the_run_as_power_off() {
    let mut code = Code::new();
    code.out16(0xB004, 0x2001).halt();
    let mut with = config(code.image());
    with.acpi = true;
    assert_eq!(machine(with).run_until(LONG), Some(StopReason::PowerOff));
    assert_eq!(
        machine(config(code.image())).run_until(LONG),
        Some(StopReason::Halted),
        "without ACPI the port is empty"
    );
}

#[test]
fn halt_with_interrupts_disabled_ends_the_run() {
    let mut m = machine(config(Code::new().halt().image()));
    assert_eq!(m.run(), StopReason::Halted);
    assert_eq!(m.retired(), 2);
}

#[test]
fn halt_with_interrupts_enabled_waits() {
    let mut m = machine(config(Code::new().bytes(&[0xFB, HLT]).image()));
    assert_eq!(m.run_until(LONG), None);
    assert_eq!(m.now(), LONG);
}

#[test]
fn triple_fault_ends_the_run_with_a_report_of_registers() {
    let mut code = Code::new();
    // mov eax, 0DEADBEEFh; lidt of six zero bytes; ud2
    code.bytes(&[0xB8]).u32(0xDEAD_BEEF);
    let zeros = code.here() + 7 + 2;
    code.bytes(&[0x0F, 0x01, 0x1D]).u32(zeros);
    let ud2 = code.here();
    code.bytes(&[0x0F, 0x0B]).bytes(&[0; 6]);
    let mut m = machine(config(code.image()));
    assert_eq!(m.run_until(LONG), Some(StopReason::TripleFault));
    let report = m.report();
    for part in ["EAX=deadbeef", "ESP=", "CR0=", "CS=0008", "protected mode", "Code at EIP: 0f 0b"] {
        assert!(report.contains(part), "{part} in\n{report}");
    }
    assert!(report.contains(&format!("EIP={ud2:08x}")), "{report}");
}

/// A guest that counts its boots, does `reboot` twice and halts in its third life.
fn boots(reboot: impl Fn(&mut Code)) -> (Option<StopReason>, u32) {
    let mut action = Code::new();
    reboot(&mut action);
    action.bytes(&[0xEB, 0xFE]);
    let mut code = Code::new();
    // inc dword [CELL]; cmp dword [CELL], 3; jb action; cli; hlt
    code.count().bytes(&[0x83, 0x3D]).u32(CELL).bytes(&[3, 0x72, 0x02]).halt().bytes(&action.0);
    let mut m = machine(config(code.image()));
    let reason = m.run_until(LONG);
    (reason, cell(&m))
}

#[test]
fn keyboard_controller_reset_reboots() {
    let end = boots(|code| {
        code.out8(0x64, 0xFE);
    });
    assert_eq!(end, (Some(StopReason::Halted), 3));
}

#[test]
fn reset_control_register_reboots() {
    let end = boots(|code| {
        code.out8(0xCF9, 0x02).out8(0xCF9, 0x06);
    });
    assert_eq!(end, (Some(StopReason::Halted), 3));
}

#[test]
fn system_control_port_a_reboots() {
    let end = boots(|code| {
        code.out8(0x92, 0x01);
    });
    assert_eq!(end, (Some(StopReason::Halted), 3));
}

#[test]
fn exit_port_ends_the_run_of_a_multiboot_guest_with_its_status() {
    let mut m = machine(config(Code::new().out8(0xF4, 42).halt().image()));
    assert_eq!(m.run_until(LONG), Some(StopReason::GuestExit(42)));
}

#[test]
fn exit_port_takes_dwords() {
    let mut m = machine(config(Code::new().out32(0xF4, 0x0100_0007).halt().image()));
    assert_eq!(m.run_until(LONG), Some(StopReason::GuestExit(7)));
}

#[test]
fn attached_device_answers_at_its_ports_and_addresses() {
    let mut code = Code::new();
    // out E0h, eax; mov dword [FF000000h], 12345678h
    code.out32(0xE0, 0xABCD).bytes(&[0xC7, 0x05]).u32(0xFF00_0000).u32(0x1234_5678);
    // in al, E1h; mov ah, [FF000002h]; cli; hlt
    code.bytes(&[0xE4, 0xE1, 0x8A, 0x25]).u32(0xFF00_0002).halt();
    let mut m = machine(config(code.image()));
    assert!(m.attach(Box::new(TestDevice::new()), TestDevice::PORTS, TestDevice::MMIO));
    assert_eq!(m.run_until(LONG), Some(StopReason::Halted));
    assert_eq!(m.cpu().gpr[gpr::EAX] & 0xFFFF, 0x34AB);
    assert!(!m.attach(Box::new(TestDevice::new()), &[], TestDevice::MMIO), "the window is taken");
}

#[test]
fn exit_port_does_not_exist_under_firmware() {
    let mut bios = vec![HLT; 64 << 10];
    // at FFFFFFF0h: mov al, 42; out F4h, al; cli; hlt
    bios[0xFFF0..0xFFF6].copy_from_slice(&[0xB0, 42, 0xE6, 0xF4, 0xFA, HLT]);
    let mut firmware = config(Vec::new());
    firmware.boot = Boot::Firmware { bios, vga_bios: None };
    assert_eq!(machine(firmware).run_until(LONG), Some(StopReason::Halted));
}
