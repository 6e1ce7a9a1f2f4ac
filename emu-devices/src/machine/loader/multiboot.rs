//! Multiboot 0.6.96 kernels, loaded as v86 loads them (information structure at 7C00h).

use super::{LinuxBoot, LoadError, elf, enter_protected_mode, u32_at};
use emu_core::cpu::{CpuState, cr0, gpr};
use emu_core::mem::Memory;

const MAGIC: u32 = 0x1BAD_B002;
const BOOTLOADER_MAGIC: u32 = 0x2BAD_B002;
/// Information structure.
const INFO: u64 = 0x7C00;
/// Bytes of the fixed part of the information structure.
const INFO_LEN: u64 = 116;
/// The header lies in the first 8 KiB, 4-byte aligned.
const SEARCH: usize = 8192;

/// Header flags.
mod flag {
    pub(super) const MEMORY_MAP: u32 = 1 << 1;
    pub(super) const ADDRESSES: u32 = 1 << 16;
}

/// Offset of the multiboot header, if there is one.
pub(super) fn find_header(kernel: &[u8]) -> Option<usize> {
    (0..SEARCH.min(kernel.len())).step_by(4).find(|&at| {
        let word = |k| u32_at(kernel, at + k);
        match (word(0), word(4), word(8)) {
            (Some(MAGIC), Some(flags), Some(checksum)) => {
                MAGIC.wrapping_add(flags).wrapping_add(checksum) == 0
            }
            _ => false,
        }
    })
}

pub(super) fn load(boot: &LinuxBoot, mem: &mut Memory, cpu: &mut CpuState) -> Result<(), LoadError> {
    let kernel = &boot.kernel;
    let at = find_header(kernel).ok_or(LoadError::UnknownFormat)?;
    let flags = u32_at(kernel, at + 4).unwrap_or(0);
    let (entry, end) = if flags & flag::ADDRESSES != 0 {
        load_by_addresses(kernel, at, mem)?
    } else if elf::is_elf(kernel) {
        let loaded = elf::load_segments(kernel, mem)?;
        (loaded.entry, loaded.end)
    } else {
        return Err(LoadError::BadHeader("neither ELF nor load addresses"));
    };
    let ram = mem.ram_len();

    let mut info = vec![0u8; INFO_LEN as usize];
    let mut info_flags = 1u32;
    let mut tail: Vec<u8> = Vec::new();
    let put = |info: &mut Vec<u8>, at: usize, v: u32| {
        if let Some(dst) = info.get_mut(at..at + 4) {
            dst.copy_from_slice(&v.to_le_bytes());
        }
    };
    put(&mut info, 4, 640);
    put(&mut info, 8, (ram.saturating_sub(0x10_0000) / 1024) as u32);

    let here = |tail: &Vec<u8>| (INFO + INFO_LEN + tail.len() as u64) as u32;
    info_flags |= 1 << 2;
    put(&mut info, 16, here(&tail));
    tail.extend_from_slice(boot.cmdline.as_bytes());
    tail.push(0);

    if flags & flag::MEMORY_MAP != 0 {
        info_flags |= 1 << 6;
        let start = here(&tail);
        for (base, top) in [(0u64, 0xA_0000u64), (0xC_0000, ram)] {
            tail.extend_from_slice(&20u32.to_le_bytes());
            tail.extend_from_slice(&base.to_le_bytes());
            tail.extend_from_slice(&top.saturating_sub(base).to_le_bytes());
            tail.extend_from_slice(&1u32.to_le_bytes());
        }
        put(&mut info, 44, here(&tail) - start);
        put(&mut info, 48, start);
    }
    if let Some(initrd) = &boot.initrd {
        let module = end.next_multiple_of(4096);
        let module_end = module + initrd.len() as u64;
        if !mem.dma_write(module, initrd) {
            return Err(LoadError::NoRoom { what: "module", needed: module_end, have: ram });
        }
        info_flags |= 1 << 3;
        put(&mut info, 20, 1);
        put(&mut info, 24, here(&tail));
        for v in [module as u32, module_end as u32, 0, 0] {
            tail.extend_from_slice(&v.to_le_bytes());
        }
    }
    put(&mut info, 0, info_flags);
    info.extend_from_slice(&tail);
    if !mem.dma_write(INFO, &info) {
        return Err(LoadError::NoRoom {
            what: "boot information",
            needed: INFO + info.len() as u64,
            have: ram,
        });
    }

    enter_protected_mode(mem, cpu, entry, 0x08, 0x10);
    cpu.cr0 = cr0::PE | cr0::ET;
    cpu.gpr[gpr::EAX] = BOOTLOADER_MAGIC;
    cpu.gpr[gpr::EBX] = INFO as u32;
    Ok(())
}

/// Loads by the header's address fields. Returns entry point and end.
fn load_by_addresses(kernel: &[u8], at: usize, mem: &mut Memory) -> Result<(u32, u64), LoadError> {
    let have = kernel.len() as u64;
    let word = |k: usize| {
        u32_at(kernel, at + k).ok_or(LoadError::Truncated {
            what: "its multiboot header",
            needed: (at + 32) as u64,
            have,
        })
    };
    let (header, load, load_end, bss_end, entry) = (word(12)?, word(16)?, word(20)?, word(24)?, word(28)?);
    let before = header.checked_sub(load).ok_or(LoadError::BadHeader("header address below load address"))?;
    let start = at
        .checked_sub(before as usize)
        .ok_or(LoadError::BadHeader("load address before the start of the file"))?;
    let len = if load_end == 0 {
        kernel.len() - start
    } else {
        load_end.checked_sub(load).ok_or(LoadError::BadHeader("load end below load address"))? as usize
    };
    let data = kernel.get(start..start.saturating_add(len)).ok_or(LoadError::Truncated {
        what: "its load range",
        needed: start as u64 + len as u64,
        have,
    })?;
    let end = (u64::from(load) + data.len() as u64).max(u64::from(bss_end));
    let total = (end - u64::from(load)) as usize;
    let Some(target) = mem.dma_slice_mut(u64::from(load), total) else {
        return Err(LoadError::NoRoom { what: "kernel", needed: end, have: mem.ram_len() });
    };
    let (file_part, bss) = target.split_at_mut(data.len());
    file_part.copy_from_slice(data);
    bss.fill(0);
    Ok((entry, end))
}
