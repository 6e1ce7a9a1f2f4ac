//! ELF32 executables: uncompressed Linux kernels and multiboot kernels.

use super::{LinuxBoot, LoadError, bzimage, enter_protected_mode, u16_at, u32_at};
use emu_core::cpu::CpuState;
use emu_core::mem::Memory;

const PT_LOAD: u32 = 1;
const EM_386: u16 = 3;

pub(super) fn is_elf(kernel: &[u8]) -> bool {
    kernel.starts_with(b"\x7FELF")
}

/// What [`load_segments`] put where.
pub(super) struct Loaded {
    /// Physical entry point.
    pub(super) entry: u32,
    /// End of the highest segment.
    pub(super) end: u64,
}

/// Copies the PT_LOAD segments to their physical addresses and clears their BSS.
pub(super) fn load_segments(kernel: &[u8], mem: &mut Memory) -> Result<Loaded, LoadError> {
    let have = kernel.len() as u64;
    let truncated = |what, needed| LoadError::Truncated { what, needed, have };
    match kernel.get(4) {
        Some(1) => {}
        Some(2) => return Err(LoadError::Needs64Bit),
        _ => return Err(LoadError::BadHeader("ELF class")),
    }
    let machine = u16_at(kernel, 18).ok_or(truncated("its ELF header", 52))?;
    if machine != EM_386 {
        return Err(LoadError::WrongMachine(machine));
    }
    let word = |at| u32_at(kernel, at).ok_or(truncated("its ELF header", at as u64 + 4));
    let entry = word(24)?;
    let table = word(28)? as usize;
    let entry_size = usize::from(u16_at(kernel, 42).ok_or(truncated("its ELF header", 52))?);
    let count = usize::from(u16_at(kernel, 44).ok_or(truncated("its ELF header", 52))?);
    if entry_size < 32 {
        return Err(LoadError::BadHeader("size of a program header"));
    }
    let mut loaded = Loaded { entry, end: 0 };
    let mut any = false;
    for n in 0..count {
        let at = table.saturating_add(n * entry_size);
        let word = |k: usize| {
            at.checked_add(k)
                .and_then(|p| u32_at(kernel, p))
                .ok_or(truncated("its program headers", at as u64 + 32))
        };
        if word(0)? != PT_LOAD {
            continue;
        }
        let (offset, vaddr, paddr) = (word(4)?, word(8)?, word(12)?);
        let (file_size, mem_size) = (word(16)?, word(20)?);
        let end = u64::from(offset) + u64::from(file_size);
        let data = kernel.get(offset as usize..end as usize).ok_or(truncated("a segment", end))?;
        let total = mem_size.max(file_size);
        let target = mem.dma_slice_mut(u64::from(paddr), total as usize);
        let Some(target) = target else {
            let needed = u64::from(paddr) + u64::from(total);
            return Err(LoadError::NoRoom { what: "kernel", needed, have: mem.ram_len() });
        };
        let (file_part, bss) = target.split_at_mut(data.len());
        file_part.copy_from_slice(data);
        bss.fill(0);
        // An entry point given as a virtual address lies in the segment that maps it.
        if entry >= vaddr && entry - vaddr < total && entry.wrapping_sub(paddr) >= total {
            loaded.entry = entry - vaddr + paddr;
        }
        loaded.end = loaded.end.max(u64::from(paddr) + u64::from(total));
        any = true;
    }
    if !any {
        return Err(LoadError::BadHeader("no loadable segment"));
    }
    Ok(loaded)
}

/// An uncompressed Linux kernel (vmlinux): same entry contract as a bzImage's 32-bit code.
pub(super) fn load_linux(boot: &LinuxBoot, mem: &mut Memory, cpu: &mut CpuState) -> Result<(), LoadError> {
    let loaded = load_segments(&boot.kernel, mem)?;
    let mut params = vec![0u8; 4096];
    if let Some(magic) = params.get_mut(0x202..0x208) {
        magic.copy_from_slice(b"HdrS\x0F\x02");
    }
    bzimage::finish(boot, mem, cpu, &mut params, 2048, 0x37FF_FFFF, loaded.end)?;
    enter_protected_mode(mem, cpu, loaded.entry, 0x10, 0x18);
    Ok(())
}
