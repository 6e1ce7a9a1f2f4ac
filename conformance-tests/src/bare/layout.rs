//! Where everything lies in a bare-metal program's memory, and what its descriptor tables hold.
//!
//! ```text
//! 000000  IVT; low memory for 16-bit code        202000  TSS, I/O map behind it
//! 100000  image: header, code                    205000  LDT
//! 1C0000  image: data                            206000  two more TSSs
//! 200000  GDT                                    208000  record of the last exception, log
//! 201000  IDT                                    210000  stacks
//!                                                240000  page tables, then pages for tests
//! ```

/// Start of the image.
pub const LOAD: u32 = 0x10_0000;
/// First instruction, behind the multiboot header.
pub const ENTRY: u32 = LOAD + 32;
/// Data of the image: texts, tables, 16-bit code before it is copied.
pub const DATA: u32 = 0x1C_0000;
/// First byte behind what an image may fill.
pub const IMAGE_END: u32 = 0x20_0000;

/// GDT.
pub const GDT: u32 = 0x20_0000;
/// Limit of the GDT: 64 entries.
pub const GDT_LIMIT: u16 = 0x1FF;
/// IDT.
pub const IDT: u32 = 0x20_1000;
/// Limit of the IDT: vectors up to 5Fh.
pub const IDT_LIMIT: u16 = 0x60 * 8 - 1;
/// TSS that is current when a case begins.
pub const TSS: u32 = 0x20_2000;
/// Its limit: no I/O map.
pub const TSS_LIMIT: u32 = 0x67;
/// LDT.
pub const LDT: u32 = 0x20_5000;
/// Limit of the LDT: 16 entries.
pub const LDT_LIMIT: u32 = 0x7F;
/// A TSS that is free for tests.
pub const TSS2: u32 = 0x20_6000;
/// Another one.
pub const TSS3: u32 = 0x20_6800;

/// What the recorder stores: its stack as it stood (see [`rec`]).
pub const RECORD: u32 = 0x20_8000;
/// Address a case goes on at after its exception.
pub const RESUME: u32 = 0x20_8100;
/// Whether exceptions are logged and returned from: see [`mode`].
pub const MODE: u32 = 0x20_8104;
/// Number of entries in the log.
pub const LOG_LEN: u32 = 0x20_8108;
/// Log entries, [`LOG_ENTRY`] bytes each.
pub const LOG: u32 = 0x20_8200;
/// Vector, error code, EIP, DR6.
pub const LOG_ENTRY: u32 = 16;
/// After so many the next exception ends the case.
pub const LOG_MAX: u32 = 24;
/// Words that tests may use; zero when a case begins.
pub const CELLS: u32 = 0x20_9000;
/// Bytes that are zeroed there.
pub const CELLS_LEN: u32 = 0x100;

/// Top of the stack of ring 0.
pub const STACK0: u32 = 0x21_4000;
/// ESP0 of the TSS.
pub const INNER0: u32 = 0x21_8000;
/// ESP1 of the TSS.
pub const INNER1: u32 = 0x21_C000;
/// ESP2 of the TSS.
pub const INNER2: u32 = 0x22_0000;
/// Top of the stack that code above ring 0 starts with.
pub const OUTER: u32 = 0x22_4000;

/// Page directory (or page-directory pointers).
pub const PAGE_DIR: u32 = 0x24_0000;
/// First free page for page tables.
pub const PAGE_TABLES: u32 = 0x24_1000;
/// Memory for what tests map.
pub const PAGES: u32 = 0x30_0000;

/// `mode` of a case.
pub mod mode {
    /// The first exception ends the case.
    pub const END: u32 = 0;
    /// #DB, NMI, #BP, #OF and vectors from 20h on are logged, then the handler returns.
    pub const LOG: u32 = 1;
    /// Like `LOG`, with RF set in what is returned to.
    pub const LOG_RF: u32 = 3;
}

/// Selectors of the fixed descriptors.
pub mod sel {
    /// Flat 32-bit code, ring 0.
    pub const CODE0: u16 = 0x08;
    /// Flat data, ring 0.
    pub const DATA0: u16 = 0x10;
    /// TSS.
    pub const TSS: u16 = 0x48;
    /// LDT.
    pub const LDT: u16 = 0x50;
    /// 16-bit code, base 0, 64 KiB, ring 0.
    pub const CODE16: u16 = 0x58;
    /// 16-bit data, base 0, 64 KiB, ring 0.
    pub const DATA16: u16 = 0x60;
    /// Available 32-bit TSS at [`super::TSS2`].
    pub const TSS2: u16 = 0x68;
    /// Available 32-bit TSS at [`super::TSS3`].
    pub const TSS3: u16 = 0x70;

    /// Flat code of a ring, with that RPL.
    pub const fn code(ring: u16) -> u16 {
        0x08 + ring * 0x10 + ring
    }

    /// Flat data of a ring, with that RPL.
    pub const fn data(ring: u16) -> u16 {
        0x10 + ring * 0x10 + ring
    }

    /// GDT entries that are free for tests: 0 to 31.
    pub const fn slot(n: u16) -> u16 {
        0x100 + n * 8
    }

    /// LDT entry with RPL 0.
    pub const fn ldt(n: u16) -> u16 {
        n * 8 + 4
    }
}

/// Offsets in [`RECORD`].
#[allow(missing_docs)] // names of registers
pub mod rec {
    pub const GS: u32 = 0;
    pub const FS: u32 = 4;
    pub const ES: u32 = 8;
    pub const DS: u32 = 12;
    pub const EDI: u32 = 16;
    pub const ESI: u32 = 20;
    pub const EBP: u32 = 24;
    pub const EBX: u32 = 32;
    pub const EDX: u32 = 36;
    pub const ECX: u32 = 40;
    pub const EAX: u32 = 44;
    pub const VECTOR: u32 = 48;
    pub const ERROR: u32 = 52;
    pub const EIP: u32 = 56;
    pub const CS: u32 = 60;
    pub const EFLAGS: u32 = 64;
    /// ESP and SS of the frame, if there was a change of stack.
    pub const OUTER_ESP: u32 = 68;
    pub const OUTER_SS: u32 = 72;
    /// ES, DS, FS, GS of the frame, if it came from VM86 mode.
    pub const VM_ES: u32 = 76;
    pub const VM_DS: u32 = 80;
    pub const VM_FS: u32 = 84;
    pub const VM_GS: u32 = 88;
    /// Dwords that are copied from the stack.
    pub const STACK_DWORDS: u32 = 23;
    /// SS of the handler.
    pub const SS: u32 = 92;
    pub const TR: u32 = 96;
    pub const CR2: u32 = 100;
    pub const DR6: u32 = 104;
    pub const CR0: u32 = 108;
    /// ESP as the exception left it, at the error code if there is one.
    pub const FRAME: u32 = 112;
    pub const DR7: u32 = 116;
    pub const CR3: u32 = 120;
    pub const LDTR: u32 = 124;
    pub const CR4: u32 = 128;
}

/// Makes descriptors.
pub mod desc {
    /// Present.
    pub const P: u8 = 0x80;
    /// Code or data.
    pub const S: u8 = 0x10;
    /// Read/write data, accessed.
    pub const DATA: u8 = 0x93;
    /// Execute/read code, accessed.
    pub const CODE: u8 = 0x9B;
    /// Flags nibble: 4 KiB units.
    pub const G: u8 = 8;
    /// Flags nibble: 32-bit.
    pub const D: u8 = 4;

    /// DPL bits of an access byte.
    pub const fn dpl(ring: u8) -> u8 {
        ring << 5
    }

    /// Segment or TSS descriptor; `limit` in the units that `flags` says.
    pub const fn segment(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
        let low = (base << 16) | (limit & 0xFFFF);
        let high = (base & 0xFF00_0000)
            | (flags as u32) << 20
            | (limit & 0xF_0000)
            | (access as u32) << 8
            | ((base >> 16) & 0xFF);
        (high as u64) << 32 | low as u64
    }

    /// Flat 4 GiB segment.
    pub const fn flat(access: u8) -> u64 {
        segment(0, 0xF_FFFF, access, G | D)
    }

    /// Gate.
    pub const fn gate(access: u8, selector: u16, offset: u32, parameters: u8) -> u64 {
        let low = (selector as u32) << 16 | (offset & 0xFFFF);
        let high = (offset & 0xFFFF_0000) | (access as u32) << 8 | parameters as u32;
        (high as u64) << 32 | low as u64
    }
}
