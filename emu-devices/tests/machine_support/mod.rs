//! Tiny guests for machines: a multiboot image around hand-assembled 32-bit code.

// Each test file uses a part of it.
#![allow(dead_code)]

pub mod random;

use std::sync::{Arc, Mutex};

use emu_core::interp::Interpreter;
use emu_core::time::ClockSource;
use emu_devices::machine::{Boot, LinuxBoot, Machine, MachineConfig, Mailbox};
use emu_devices::serial::SerialSink;

/// Where the image is loaded; code begins behind its 32-byte header.
pub const LOAD: u32 = 0x10_0000;
/// First instruction.
pub const ENTRY: u32 = LOAD + 32;
/// A cell that survives reboots.
pub const CELL: u32 = 0x1000;

/// Picoseconds per instruction: ten million instructions per second.
pub const PS: u64 = 100_000;

pub const CLI: u8 = 0xFA;
pub const STI: u8 = 0xFB;
pub const HLT: u8 = 0xF4;

/// Code under construction.
#[derive(Default)]
pub struct Code(pub Vec<u8>);

impl Code {
    pub fn new() -> Self {
        Self::default()
    }

    /// Address of the next instruction.
    pub fn here(&self) -> u32 {
        ENTRY + self.0.len() as u32
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }

    /// `mov dx, port; mov al, value; out dx, al`
    pub fn out8(&mut self, port: u16, value: u8) -> &mut Self {
        self.dx(port).bytes(&[0xB0, value, 0xEE])
    }

    /// `mov dx, port; mov eax, value; out dx, ax`
    pub fn out16(&mut self, port: u16, value: u16) -> &mut Self {
        self.dx(port).bytes(&[0xB8]).u32(u32::from(value)).bytes(&[0x66, 0xEF])
    }

    /// `mov dx, port; mov eax, value; out dx, eax`
    pub fn out32(&mut self, port: u16, value: u32) -> &mut Self {
        self.dx(port).bytes(&[0xB8]).u32(value).bytes(&[0xEF])
    }

    /// `mov dx, port`
    pub fn dx(&mut self, port: u16) -> &mut Self {
        let [low, high] = port.to_le_bytes();
        self.bytes(&[0x66, 0xBA, low, high])
    }

    /// `inc dword [CELL]`
    pub fn count(&mut self) -> &mut Self {
        self.bytes(&[0xFF, 0x05]).u32(CELL)
    }

    /// `cli; hlt`
    pub fn halt(&mut self) -> &mut Self {
        self.bytes(&[CLI, HLT])
    }

    /// `mov esp, 9000h; lidt` of a table in which every vector leads to `handler`.
    pub fn stack_and_idt(&mut self, handler: u32) -> &mut Self {
        let mut table = Vec::new();
        for _ in 0..256 {
            table.extend_from_slice(&(handler as u16).to_le_bytes());
            // code selector 8, present 32-bit interrupt gate
            table.extend_from_slice(&[0x08, 0x00, 0x00, 0x8E]);
            table.extend_from_slice(&((handler >> 16) as u16).to_le_bytes());
        }
        self.bytes(&[0xBC]).u32(0x9000);
        // lidt [pointer]; jmp over pointer and table
        let pointer = self.here() + 7 + 5;
        self.bytes(&[0x0F, 0x01, 0x1D]).u32(pointer);
        self.bytes(&[0xE9]).u32(6 + 2048);
        self.bytes(&2047u16.to_le_bytes()).u32(pointer + 6).bytes(&table)
    }

    /// Both 8259s with vectors 20h-2Fh and these masks.
    pub fn pics(&mut self, master_mask: u8, slave_mask: u8) -> &mut Self {
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 0x04),
            (0x21, 0x01),
            (0xA0, 0x11),
            (0xA1, 0x28),
            (0xA1, 0x02),
            (0xA1, 0x01),
            (0x21, master_mask),
            (0xA1, slave_mask),
        ] {
            self.out8(port, value);
        }
        self
    }

    /// The kernel image.
    pub fn image(&self) -> Vec<u8> {
        const MAGIC: u32 = 0x1BAD_B002;
        const FLAGS: u32 = 1 << 16;
        let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(FLAGS);
        let header = [MAGIC, FLAGS, checksum, LOAD, LOAD, 0, 0, ENTRY];
        let mut image: Vec<u8> = header.iter().flat_map(|v| v.to_le_bytes()).collect();
        image.extend_from_slice(&self.0);
        image
    }
}

/// Collects a serial port's output.
#[derive(Clone, Default)]
pub struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl SerialSink for Screen {
    fn write(&mut self, byte: u8) {
        self.0.lock().unwrap().push(byte);
    }
}

/// A small machine with the deterministic clock that boots `image`.
pub fn config(image: Vec<u8>) -> MachineConfig {
    let mut random = 1u32;
    MachineConfig {
        memory_size: 2 << 20,
        vga_memory_size: 256 << 10,
        acpi: false,
        serial: [None, None, None, None],
        cpuid_level: 22,
        boot: Boot::Linux(LinuxBoot { kernel: image, ..LinuxBoot::default() }),
        filesystem: None,
        clock: ClockSource::Deterministic {
            ps_per_instruction: PS,
            wall_start_ns: 1_700_000_000_000_000_000,
        },
        random: Box::new(move || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random
        }),
        network_card: emu_devices::machine::NetworkCard::Ne2000,
        network: None,
        mac: [0, 0x22, 0x15, 1, 2, 3],
        preserve_mac: false,
        shares: None,
        virtio_rng: false,
    }
}

pub fn machine(config: MachineConfig) -> Machine<Interpreter> {
    Machine::new(config, Interpreter::new(), Mailbox::new()).expect("a machine")
}

/// Value of [`CELL`].
pub fn cell(machine: &Machine<Interpreter>) -> u32 {
    machine.memory().dma_read_u32(u64::from(CELL)).unwrap()
}
