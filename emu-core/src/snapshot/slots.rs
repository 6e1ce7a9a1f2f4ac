//! Elements of v86's state array.
#![allow(missing_docs)] // named as what they hold; see docs/snapshots.md

pub const MEMORY_SIZE: usize = 0;
pub const SEGMENT_NULL_AND_ACCESS: usize = 1;
pub const SEGMENT_BASES: usize = 2;
pub const SEGMENT_LIMITS: usize = 3;
pub const PROTECTED_MODE: usize = 4;
pub const IDTR_BASE: usize = 5;
pub const IDTR_LIMIT: usize = 6;
pub const GDTR_BASE: usize = 7;
pub const GDTR_LIMIT: usize = 8;
pub const CR: usize = 10;
pub const CPL: usize = 11;
pub const CODE32: usize = 13;
pub const STACK32: usize = 16;
pub const HALTED: usize = 17;
pub const LAST_VIRT_EIP: usize = 18;
pub const EIP_PHYS: usize = 19;
pub const SYSENTER_CS: usize = 22;
pub const SYSENTER_EIP: usize = 23;
pub const SYSENTER_ESP: usize = 24;
pub const PREFIXES: usize = 25;
pub const EFLAGS: usize = 26;
pub const FLAGS_CHANGED: usize = 27;
pub const LAST_OP1: usize = 28;
pub const LAST_OP_SIZE: usize = 30;
pub const LINEAR_EIP: usize = 37;
pub const PREVIOUS_IP: usize = 38;
pub const GPR: usize = 39;
pub const SELECTORS: usize = 40;
pub const DR: usize = 41;
pub const PDPTE: usize = 42;
pub const TSC: usize = 43;
pub const VIRTIO_9P: usize = 45;
pub const LAPIC: usize = 46;
pub const RTC: usize = 47;
pub const PCI: usize = 48;
pub const DMA: usize = 49;
pub const ACPI: usize = 50;
pub const VGA: usize = 52;
pub const PS2: usize = 53;
pub const UART0: usize = 54;
pub const FLOPPY: usize = 55;
pub const OLD_IDE_CD: usize = 56;
pub const OLD_IDE_DISK: usize = 57;
pub const PIT: usize = 58;
pub const NE2000: usize = 59;
pub const PIC: usize = 60;
pub const SB16: usize = 61;
pub const FW_CFG: usize = 62;
pub const IOAPIC: usize = 63;
pub const TSS32: usize = 64;
pub const XMM: usize = 66;
pub const FPU_REGS: usize = 67;
pub const FPU_EMPTY: usize = 68;
pub const FPU_TOP: usize = 69;
pub const FPU_CONTROL: usize = 70;
pub const FPU_IP: usize = 71;
pub const FPU_CS: usize = 72;
pub const FPU_DP: usize = 73;
pub const FPU_DS: usize = 74;
pub const FPU_OPCODE: usize = 75;
pub const PACKED_MEMORY: usize = 77;
pub const MEMORY_BITMAP: usize = 78;
pub const UART1: usize = 79;
pub const UART2: usize = 80;
pub const UART3: usize = 81;
pub const VIRTIO_CONSOLE: usize = 82;
pub const VIRTIO_NET: usize = 83;
pub const VIRTIO_BALLOON: usize = 84;
pub const IDE: usize = 85;
pub const LAST_RESULT: usize = 86;
pub const FPU_STATUS: usize = 87;
pub const MXCSR: usize = 88;
pub const VMWARE: usize = 89;
pub const LPT1: usize = 90;
pub const LPT2: usize = 91;

/// What v86 has no slot for. It ignores elements it does not know; this one is far beyond those it may
/// get. `["env86", 1, [[name, value], …]]`.
pub const EXTRA: usize = 192;

/// What a slot holds, for messages.
pub fn name(slot: usize) -> &'static str {
    match slot {
        MEMORY_SIZE => "memory size",
        1..=3 | SELECTORS => "segment registers",
        4..=8 => "descriptor tables",
        CR => "control registers",
        9..=38 => "CPU",
        GPR => "general registers",
        DR => "debug registers",
        PDPTE => "page directory pointers",
        TSC => "time stamp counter",
        VIRTIO_9P => "virtio-9p",
        LAPIC => "local APIC",
        RTC => "RTC",
        PCI => "PCI",
        DMA => "8237 DMA",
        ACPI => "ACPI",
        VGA => "VGA",
        PS2 => "8042 keyboard controller",
        UART0 => "UART0",
        FLOPPY => "floppy",
        OLD_IDE_CD | OLD_IDE_DISK | IDE => "IDE",
        PIT => "8254 PIT",
        NE2000 => "NE2000",
        PIC => "8259 PIC",
        SB16 => "Sound Blaster 16",
        FW_CFG => "fw_cfg",
        IOAPIC => "IOAPIC",
        TSS32 => "task register",
        XMM | MXCSR => "SSE",
        67..=75 | FPU_STATUS => "x87",
        PACKED_MEMORY => "packed memory",
        MEMORY_BITMAP => "memory bitmap",
        UART1 => "UART1",
        UART2 => "UART2",
        UART3 => "UART3",
        VIRTIO_CONSOLE => "virtio-console",
        VIRTIO_NET => "virtio-net",
        VIRTIO_BALLOON => "virtio-balloon",
        LAST_RESULT => "flags",
        VMWARE => "VMware port",
        LPT1 | LPT2 => "parallel port",
        EXTRA => "env86's own state",
        _ => "unknown",
    }
}
