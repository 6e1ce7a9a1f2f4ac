//! Kernel files: bzImage, ELF, multiboot. What is accepted runs for a moment; the machine has 2 MiB.

#![no_main]

use emu_core::interp::Interpreter;
use emu_devices::machine::{Boot, LinuxBoot, Machine, Mailbox};
use env86_fuzz::input::{Input, Seed};
use env86_fuzz::machines::config;

/// Guest time of a machine, nanoseconds: two thousand instructions.
const RUN_NS: u64 = 200_000;

fn word(image: &mut [u8], at: usize, value: u32, len: usize) {
    image[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

/// A bzImage of `payload` (SETUP header of boot protocol 2.10).
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x400];
    for (at, value, len) in [
        (0x1F1, 1, 1),
        (0x1FE, 0xAA55, 2),
        (0x200, 0x62EB, 2),
        (0x202, u32::from_le_bytes(*b"HdrS"), 4),
        (0x206, 0x020A, 2),
        (0x211, 1, 1),
        (0x214, 0x10_0000, 4),
        (0x22C, 0x37FF_FFFF, 4),
        (0x230, 0x1000, 4),
        (0x234, 1, 1),
        (0x238, 255, 4),
        (0x258, 0x10_0000, 4),
        (0x260, 0x2000, 4),
    ] {
        word(&mut image, at, value, len);
    }
    image.extend(payload);
    image
}

/// An ELF file with one segment.
fn elf(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x54];
    image[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    for (at, value, len) in [
        (16, 2, 2),
        (18, 3, 2),
        (20, 1, 4),
        (24, 0x10_0000, 4),
        (28, 0x34, 4),
        (40, 0x34, 2),
        (42, 0x20, 2),
        (44, 1, 2),
        (0x34, 1, 4),
        (0x38, 0x54, 4),
        (0x3C, 0x10_0000, 4),
        (0x40, 0x10_0000, 4),
        (0x44, payload.len() as u32, 4),
        (0x48, 0x1000, 4),
        (0x4C, 7, 4),
    ] {
        word(&mut image, at, value, len);
    }
    image.extend(payload);
    image
}

/// A multiboot image that says itself where to load it, or an ELF file with the header inside.
fn multiboot(payload: &[u8], inside_elf: bool) -> Vec<u8> {
    const MAGIC: u32 = 0x1BAD_B002;
    let bits = if inside_elf { 3 } else { 1 << 16 | 3 };
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(bits);
    let header = [MAGIC, bits, checksum, 0x10_0000, 0x10_0000, 0, 0, 0x10_0020];
    let mut image: Vec<u8> = header.iter().flat_map(|v| v.to_le_bytes()).collect();
    image.extend(payload);
    if inside_elf { elf(&image) } else { image }
}

fn seeds() -> Vec<Vec<u8>> {
    // mov al, 'x'; out E9h, al; in al, 60h; jmp to the start
    let code = [0xB0, b'x', 0xE6, 0xE9, 0xE4, 0x60, 0xEB, 0xF8];
    let images = [bzimage(&code), elf(&code), multiboot(&code, false), multiboot(&code, true)];
    let all = images.iter().enumerate().flat_map(|(n, image)| {
        [0u8, 1, 2, 3].map(|with| {
            let start = Seed::new().u8(with).u8(if n % 2 == 0 { 12 } else { 0 });
            start
                .bytes(b"console=ttyS0".get(..if n % 2 == 0 { 12 } else { 0 }).unwrap_or_default())
                .bytes(image)
                .0
        })
    });
    all.collect()
}

env86_fuzz::target!(seeds, |data: &[u8]| {
    let input = &mut Input::new(data);
    let with = input.u8();
    let len = usize::from(input.u8()) << if with & 4 != 0 { 6 } else { 0 };
    let cmdline = String::from_utf8_lossy(input.bytes(len)).into_owned();
    let initrd = (with & 1 != 0).then(|| vec![0x5A; usize::from(with >> 3) * 3000]);
    let boot = Boot::Linux(LinuxBoot { kernel: input.rest().to_vec(), initrd, cmdline });
    let mut config = config(boot);
    config.acpi = with & 2 == 0;
    if let Ok(mut machine) = Machine::new(config, Interpreter::new(), Mailbox::new()) {
        let _ = machine.run_until(RUN_NS);
        let _ = machine.report();
    }
});
