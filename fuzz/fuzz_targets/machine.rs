//! A guest's program on a whole machine, in reach of every port and window: it ends on the interpreter and
//! as translated code in the same state, also if the machine is saved and restored on the way.

#![no_main]

use emu_core::engine::CpuEngine;
use emu_core::interp::Interpreter;
use emu_core::snapshot::{Limits, Reader};
use emu_devices::machine::{Boot, HostMessage, LinuxBoot, Machine, Mailbox};
use emu_jit::{Jit, Options};
use env86_fuzz::input::{Input, Seed};
use env86_fuzz::machines::{config, restorable};

/// Guest time of a run, nanoseconds: six thousand instructions.
const RUN_NS: u64 = 600_000;

/// A multiboot image: a stack, vectors that halt and go on, then the program.
fn image(code: &[u8]) -> Vec<u8> {
    const MAGIC: u32 = 0x1BAD_B002;
    const BITS: u32 = 1 << 16;
    const LOAD: u32 = 0x10_0000;
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(BITS);
    let entry = LOAD + 0x1000;
    let header = [MAGIC, BITS, checksum, LOAD, LOAD, 0, 0, entry];
    let mut image: Vec<u8> = header.iter().flat_map(|v| v.to_le_bytes()).collect();
    // The operand of LIDT at 28h, vectors at 100h, the handler at 900h: end of interrupt, IRET.
    image.resize(0x28, 0);
    image.extend(0x7FFu16.to_le_bytes());
    image.extend((LOAD + 0x100).to_le_bytes());
    image.resize(0x100, 0);
    let [a, b, c, d] = (LOAD + 0x900).to_le_bytes();
    (0..256).for_each(|_| image.extend([a, b, 8, 0, 0, 0x8E, c, d]));
    // push eax; mov al, 20h; out A0h, al; out 20h, al; pop eax; iretd
    image.extend([0x50, 0xB0, 0x20, 0xE6, 0xA0, 0xE6, 0x20, 0x58, 0xCF]);
    image.resize(0x1000, 0);
    // mov esp, 9000h; lidt [LOAD + 28h]
    image.extend([0xBC, 0, 0x90, 0, 0, 0x0F, 0x01, 0x1D]);
    image.extend((LOAD + 0x28).to_le_bytes());
    image.extend(code);
    image
}

fn machine<E: CpuEngine>(code: &[u8], with: u8, engine: E) -> Machine<E> {
    let boot = Boot::Linux(LinuxBoot { kernel: image(code), initrd: None, cmdline: String::new() });
    let mut config = config(boot);
    config.acpi = with & 1 == 0;
    let mailbox = Mailbox::new();
    let sent = mailbox.send(HostMessage::Keyboard(vec![0x1E, 0x9E, with]))
        && mailbox.send(HostMessage::Serial { port: 0, bytes: vec![with; 20] });
    assert!(sent, "an empty mailbox takes a message");
    Machine::new(config, engine, mailbox).expect("a valid image")
}

/// Interrupt controllers, timer, and pieces that use devices.
fn seeds() -> Vec<Vec<u8>> {
    let out = |port: u8, value: u8| [0xB0, value, 0xE6, port];
    let pics =
        [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0xA0, 0x11), (0xA1, 0x28), (0xA1, 2), (0xA1, 1)];
    let mut start: Vec<u8> = pics.iter().flat_map(|(port, value)| out(*port, *value)).collect();
    for (port, value) in [(0x21, 0), (0xA1, 0), (0x43, 0x34), (0x40, 60), (0x40, 0)] {
        start.extend(out(port, value));
    }
    // mov dx, port; mov eax, value; out dx, eax
    let out_dx = |port: u16, value: u32| {
        Seed::new().bytes(&[0x66, 0xBA]).u16(port).bytes(&[0xB8]).u32(value).bytes(&[0xEF]).0
    };
    let pieces: Vec<Vec<u8>> = vec![
        vec![0xFB, 0xF4, 0xEB, 0xFC],
        [out_dx(0xCF8, 0x8000_3010), out_dx(0xCFC, 0xD000), vec![0xED]].concat(),
        [out(0x70, 0x0B), out(0x71, 0x42), out(0x70, 0x0C), [0xE4, 0x71, 0x90, 0x90]].concat(),
        [out(0x64, 0xFE), out(0x60, 0xF4)].concat(),
        // mov dword [FEE000F0h], 1FFh
        vec![0xC7, 0x05, 0xF0, 0, 0xE0, 0xFE, 0xFF, 1, 0, 0],
        // mov dword [B8000h], eax; mov eax, [E0000000h]
        vec![0xA3, 0, 0x80, 0x0B, 0, 0xA1, 0, 0, 0, 0xE0],
        // mov edi, 5000h; mov ecx, 40h; mov dx, 1F0h; rep insd
        vec![0xBF, 0, 0x50, 0, 0, 0xB9, 0x40, 0, 0, 0, 0x66, 0xBA, 0xF0, 1, 0xF3, 0x6D],
        vec![0xD9, 0xEB, 0xD9, 0xFE, 0x9B, 0xDB, 0xE3, 0x0F, 0x31, 0x0F, 0xA2],
        vec![0xB9, 9, 0, 0, 0, 0xE2, 0xFE, 0xFB, 0xEB, 0xF6],
    ];
    let mut seeds = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        for with in 0..4 {
            let code = [&start[..], piece, &pieces[(n + 1) % pieces.len()], &[0xEB, 0xFE]].concat();
            seeds.push(Seed::new().u8(with).u16(n as u16 * 900).bytes(&code).0);
        }
    }
    seeds
}

env86_fuzz::target!(seeds, |data: &[u8]| {
    let input = &mut Input::new(data);
    let (with, middle) = (input.u8(), u64::from(input.u16()) % RUN_NS);
    let code = input.rest();
    let mut plain = machine(code, with, Interpreter::new());
    let end = plain.run_until(RUN_NS);
    let options = Options { threshold: 1, cache_bytes: 512 << 10, ..Options::default() };
    let mut translated = machine(code, with, Jit::with_options(options).expect("a code cache"));
    assert_eq!(end, translated.run_until(RUN_NS), "why the engines stopped");
    assert_eq!(plain.state_hash(), translated.state_hash(), "interpreter and translated code");
    let _ = plain.vga().map(|vga| vga.text_screen());
    if with & 2 == 0 {
        return;
    }
    let mut first = machine(code, with, Interpreter::new());
    let mut saved = Vec::new();
    if first.run_until(middle).is_some() || first.snapshot().write(&mut saved, false).is_err() {
        return;
    }
    let reader = Reader::open(&saved[..], Limits::default()).expect("what was written");
    let mut config = restorable();
    config.acpi = with & 1 == 0;
    let mut again =
        Machine::restore(config, Interpreter::new(), Mailbox::new(), reader).expect("what was saved");
    first.run_until(RUN_NS);
    again.run_until(RUN_NS);
    // A guest that reboots finds nothing to boot in the restored machine.
    if again.reboot_error().is_none() {
        assert_eq!(first.state_hash(), again.state_hash(), "gone on, and restored");
    }
});
