//! Linux boot protocol 2.02-2.15, 32-bit entry (Documentation/arch/x86/boot.rst).

use super::{BASE_MEMORY_KIB, LinuxBoot, LoadError, enter_protected_mode, u16_at, u32_at};
use emu_core::cpu::{CpuState, gpr};
use emu_core::mem::Memory;

/// `boot_params`, one page.
const BOOT_PARAMS: u64 = 0x9_0000;
/// Command line.
const CMDLINE: u64 = 0x9_1000;
/// Protected-mode code of a bzImage.
const KERNEL: u64 = 0x10_0000;
/// `xloadflags`: the kernel is 64-bit.
const XLF_KERNEL_64: u16 = 1;

/// Offsets in the setup header, the same in file and `boot_params`.
mod offset {
    pub(super) const SETUP_SECTS: usize = 0x1F1;
    pub(super) const SYSSIZE: usize = 0x1F4;
    pub(super) const VID_MODE: usize = 0x1FA;
    pub(super) const BOOT_FLAG: usize = 0x1FE;
    pub(super) const JUMP: usize = 0x201;
    pub(super) const HEADER: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const TYPE_OF_LOADER: usize = 0x210;
    pub(super) const LOADFLAGS: usize = 0x211;
    pub(super) const CODE32_START: usize = 0x214;
    pub(super) const RAMDISK_IMAGE: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21C;
    pub(super) const HEAP_END_PTR: usize = 0x224;
    pub(super) const CMD_LINE_PTR: usize = 0x228;
    pub(super) const INITRD_ADDR_MAX: usize = 0x22C;
    pub(super) const XLOADFLAGS: usize = 0x236;
    pub(super) const CMDLINE_SIZE: usize = 0x238;
    pub(super) const INIT_SIZE: usize = 0x260;
}

pub(super) fn is_bzimage(kernel: &[u8]) -> bool {
    u16_at(kernel, offset::BOOT_FLAG) == Some(0xAA55)
        && kernel.get(offset::HEADER..offset::HEADER + 4) == Some(b"HdrS")
}

pub(super) fn load(boot: &LinuxBoot, mem: &mut Memory, cpu: &mut CpuState) -> Result<(), LoadError> {
    let kernel = &boot.kernel;
    let have = kernel.len() as u64;
    let truncated = |what, needed| LoadError::Truncated { what, needed, have };
    let header_end = offset::HEADER + usize::from(*kernel.get(offset::JUMP).unwrap_or(&0));
    let header = kernel
        .get(offset::SETUP_SECTS..header_end)
        .ok_or(truncated("its setup header", header_end as u64))?;
    let version =
        u16_at(kernel, offset::VERSION).ok_or(truncated("its setup header", offset::LOADFLAGS as u64))?;
    if version < 0x202 {
        return Err(LoadError::ProtocolTooOld(version));
    }
    if kernel.get(offset::LOADFLAGS).is_none_or(|f| f & 1 == 0) {
        return Err(LoadError::LoadsLow);
    }
    if version >= 0x20C && u16_at(kernel, offset::XLOADFLAGS).unwrap_or(0) & XLF_KERNEL_64 != 0 {
        return Err(LoadError::Needs64Bit);
    }
    let setup_sects = match kernel.get(offset::SETUP_SECTS).copied().unwrap_or(0) {
        0 => 4,
        n => u64::from(n),
    };
    let code_at = (setup_sects + 1) * 512;
    let syssize = u64::from(u32_at(kernel, offset::SYSSIZE).unwrap_or(0)) * 16;
    // The last paragraph need not be complete.
    if code_at + syssize.saturating_sub(15) > have || syssize == 0 {
        return Err(truncated("its compressed part", code_at + syssize));
    }
    let code = kernel.get(code_at as usize..).unwrap_or(&[]);

    let init_size = if version >= 0x20A {
        u64::from(u32_at(kernel, offset::INIT_SIZE).unwrap_or(0)).max(code.len() as u64)
    } else {
        code.len() as u64
    };
    let room = mem.ram_len().saturating_sub(KERNEL);
    if init_size > room || !mem.dma_write(KERNEL, code) {
        return Err(LoadError::NoRoom { what: "kernel", needed: init_size, have: room });
    }

    let mut params = vec![0u8; 4096];
    if let Some(dst) = params.get_mut(offset::SETUP_SECTS..header_end.min(0x290)) {
        let n = dst.len();
        dst.copy_from_slice(header.get(..n).unwrap_or(&[]));
    }
    let max_cmdline =
        if version >= 0x206 { u32_at(kernel, offset::CMDLINE_SIZE).unwrap_or(255) as usize } else { 255 };
    let initrd_max = if version >= 0x203 {
        u64::from(u32_at(kernel, offset::INITRD_ADDR_MAX).unwrap_or(0x37FF_FFFF))
    } else {
        0x37FF_FFFF
    };
    // Above what the kernel unpacks into; relocatable kernels may move up to their preferred address.
    let kernel_end = (KERNEL + init_size).max(0x100_0000 + init_size).min(mem.ram_len());
    finish(boot, mem, cpu, &mut params, max_cmdline.min(2048), initrd_max, kernel_end)?;
    let entry = u32_at(kernel, offset::CODE32_START).unwrap_or(KERNEL as u32);
    let entry = if u64::from(entry) == KERNEL { entry } else { KERNEL as u32 };
    enter_protected_mode(mem, cpu, entry, 0x10, 0x18);
    Ok(())
}

/// Fills in what every kernel format shares, places the initrd and the command line, and writes
/// `boot_params`; ESI points to it.
pub(super) fn finish(
    boot: &LinuxBoot,
    mem: &mut Memory,
    cpu: &mut CpuState,
    params: &mut [u8],
    max_cmdline: usize,
    initrd_max: u64,
    kernel_end: u64,
) -> Result<(), LoadError> {
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(dst) = params.get_mut(at..at + bytes.len()) {
            dst.copy_from_slice(bytes);
        }
    };
    let ram = mem.ram_len();

    if boot.cmdline.len() > max_cmdline {
        return Err(LoadError::CommandLineTooLong(boot.cmdline.len(), max_cmdline));
    }
    let mut cmdline = boot.cmdline.clone().into_bytes();
    cmdline.push(0);
    if !mem.dma_write(CMDLINE, &cmdline) {
        return Err(LoadError::NoRoom { what: "command line", needed: CMDLINE, have: ram });
    }

    if let Some(initrd) = &boot.initrd {
        let len = initrd.len() as u64;
        let top = ram.min(initrd_max.saturating_add(1));
        let at = top.saturating_sub(len) & !0xFFF;
        if at < kernel_end || len == 0 || !mem.dma_write(at, initrd) {
            let have = top.saturating_sub(kernel_end);
            return Err(LoadError::NoRoom { what: "initial RAM disk", needed: len, have });
        }
        put(offset::RAMDISK_IMAGE, &(at as u32).to_le_bytes());
        put(offset::RAMDISK_SIZE, &(len as u32).to_le_bytes());
    }

    // screen_info: VGA text mode 3
    put(0x06, &[3, 80]);
    put(0x0E, &[25, 1]);
    put(0x10, &16u16.to_le_bytes());
    let ext_kib = ram.saturating_sub(0x10_0000) / 1024;
    put(0x02, &(ext_kib.min(0xFC00) as u16).to_le_bytes());
    put(0x1E0, &(ext_kib as u32).to_le_bytes());

    let base_end = u64::from(BASE_MEMORY_KIB) * 1024;
    let e820: [(u64, u64, u32); 4] = [
        (0, base_end, 1),
        (base_end, 0xA_0000 - base_end, 2),
        (0xF_0000, 0x1_0000, 2),
        (0x10_0000, ram.saturating_sub(0x10_0000), 1),
    ];
    put(0x1E8, &[e820.len() as u8]);
    for (n, (start, len, kind)) in e820.iter().enumerate() {
        let at = 0x2D0 + n * 20;
        put(at, &start.to_le_bytes());
        put(at + 8, &len.to_le_bytes());
        put(at + 16, &kind.to_le_bytes());
    }

    put(offset::VID_MODE, &0xFFFFu16.to_le_bytes());
    put(offset::TYPE_OF_LOADER, &[0xFF]);
    put(offset::HEAP_END_PTR, &0xDE00u16.to_le_bytes());
    put(offset::CMD_LINE_PTR, &(CMDLINE as u32).to_le_bytes());
    if let Some(flags) = params.get_mut(offset::LOADFLAGS) {
        // can use heap, not quiet, load segments
        *flags = (*flags & !0x60) | 0x80;
    }
    if !mem.dma_write(BOOT_PARAMS, params) {
        return Err(LoadError::NoRoom { what: "boot parameters", needed: BOOT_PARAMS + 4096, have: ram });
    }
    cpu.gpr[gpr::ESI] = BOOT_PARAMS as u32;
    cpu.gpr[gpr::EDI] = 0;
    cpu.gpr[gpr::EBX] = 0;
    Ok(())
}
