//! Putting a kernel into RAM and the CPU at its entry, without firmware (decision D7).

mod bzimage;
mod elf;
mod multiboot;

use emu_core::bus::AccessSize;
use emu_core::cpu::{CpuState, Segment, cr0, gpr, seg};
use emu_core::mem::Memory;

/// What to boot.
#[derive(Clone, Default)]
pub struct LinuxBoot {
    /// bzImage, ELF or multiboot kernel.
    pub kernel: Vec<u8>,
    /// Initial RAM disk or multiboot module.
    pub initrd: Option<Vec<u8>>,
    /// Kernel command line.
    pub cmdline: String,
}

/// Why a kernel cannot be booted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// No known format.
    #[error("Not a kernel: neither a bzImage, nor an ELF file, nor a multiboot image")]
    UnknownFormat,
    /// A part that the headers promise is missing.
    #[error("The kernel file is truncated: {what} needs {needed} bytes, the file has {have}")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Bytes the headers promise.
        needed: u64,
        /// Bytes there are.
        have: u64,
    },
    /// Made for another processor.
    #[error("This is a 64-bit kernel; the emulated CPU is a 32-bit i386. Use an i386 (686) kernel")]
    Needs64Bit,
    /// An ELF file for another machine.
    #[error("This ELF kernel is for machine type {0}, not for the i386 (3)")]
    WrongMachine(u16),
    /// Too old.
    #[error("Linux boot protocol {}.{:02} is too old; 2.02 or newer is needed", .0 >> 8, .0 & 255)]
    ProtocolTooOld(u16),
    /// zImage.
    #[error("This zImage must be loaded below 640 KiB, which is not supported; use a bzImage")]
    LoadsLow,
    /// RAM is too small.
    #[error("The {what} does not fit: it needs {needed} bytes of guest memory, {have} are available")]
    NoRoom {
        /// Which part.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        have: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("The kernel command line has {0} bytes; this kernel takes at most {1}")]
    CommandLineTooLong(usize, usize),
    /// A field of the headers makes no sense.
    #[error("The kernel's header is damaged: {0}")]
    BadHeader(&'static str),
}

/// Loads the kernel and points the CPU at it.
///
/// # Errors
/// See [`LoadError`]; memory may hold parts of the kernel then.
pub fn load(boot: &LinuxBoot, mem: &mut Memory, cpu: &mut CpuState) -> Result<(), LoadError> {
    write_bios_data_area(mem);
    if is_multiboot(&boot.kernel) {
        multiboot::load(boot, mem, cpu)
    } else if elf::is_elf(&boot.kernel) {
        elf::load_linux(boot, mem, cpu)
    } else if bzimage::is_bzimage(&boot.kernel) {
        bzimage::load(boot, mem, cpu)
    } else {
        Err(LoadError::UnknownFormat)
    }
}

/// True if the kernel has a multiboot header and will be booted by it.
pub fn is_multiboot(kernel: &[u8]) -> bool {
    multiboot::find_header(kernel).is_some()
}

/// Base memory in KiB below the extended BIOS data area.
const BASE_MEMORY_KIB: u16 = 639;

/// The words of the BIOS data area that kernels look at: COM ports, base memory, EBDA.
fn write_bios_data_area(mem: &mut Memory) {
    let words: &[(u64, u16)] = &[
        (0x400, 0x3F8),
        (0x402, 0x2F8),
        (0x40E, BASE_MEMORY_KIB * 64),
        (0x413, BASE_MEMORY_KIB),
        (0x449, 3),
        (0x44A, 80),
        (0x463, 0x3D4),
    ];
    for &(at, value) in words {
        let _ = mem.dma_write(at, &value.to_le_bytes());
    }
}

/// Where the loader's GDT lies.
const GDT: u64 = 0x8_F000;

/// 32-bit flat protected mode: CS 10h, the others 18h, as the Linux boot protocol asks for.
fn enter_protected_mode(mem: &mut Memory, cpu: &mut CpuState, entry: u32, code: u16, data: u16) {
    const FLAT_CODE: u64 = 0x00CF_9B00_0000_FFFF;
    const FLAT_DATA: u64 = 0x00CF_9300_0000_FFFF;
    for (selector, descriptor) in [(code, FLAT_CODE), (data, FLAT_DATA)] {
        let _ = mem.dma_write(GDT + u64::from(selector & !7), &descriptor.to_le_bytes());
    }
    cpu.gdtr.base = GDT as u32;
    cpu.gdtr.limit = 0x1F;
    cpu.cr0 = cr0::PE | cr0::ET;
    cpu.cpl = 0;
    let split = |d: u64| (d as u32, (d >> 32) as u32);
    let (low, high) = split(FLAT_DATA);
    for s in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
        cpu.set_segment(s, Segment::from_descriptor(data, low, high));
    }
    let (low, high) = split(FLAT_CODE);
    cpu.set_segment(seg::CS, Segment::from_descriptor(code, low, high));
    cpu.set_eflags(2);
    cpu.eip = entry;
    cpu.gpr[gpr::EBP] = 0;
    mem.flush_views();
}

/// Little-endian field of a header; `None` beyond its end.
fn field(bytes: &[u8], at: usize, size: AccessSize) -> Option<u32> {
    let raw = bytes.get(at..at.checked_add(size.bytes() as usize)?)?;
    Some(raw.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b)))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at, AccessSize::Word).map(|v| v as u16)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at, AccessSize::Dword)
}

#[cfg(test)]
mod tests;
