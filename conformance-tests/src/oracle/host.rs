//! What the oracle needs of Linux.

use std::time::Duration;

use crate::layout::LDT;

/// Maps zeroed pages at a fixed address.
pub(super) fn map(at: u64, len: usize, executable: bool) -> bool {
    let mut prot = libc::PROT_READ | libc::PROT_WRITE;
    if executable {
        prot |= libc::PROT_EXEC;
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE;
    // SAFETY: MAP_FIXED_NOREPLACE cannot take away another mapping.
    let p = unsafe { libc::mmap(at as usize as *mut libc::c_void, len, prot, flags, -1, 0) };
    p as usize == at as usize
}

/// Makes pages of [`map`] read-only code.
pub(super) fn seal_code(at: u64, len: usize) -> bool {
    // SAFETY: the caller mapped these pages; nobody writes to them any more.
    unsafe { libc::mprotect(at as usize as *mut libc::c_void, len, libc::PROT_READ | libc::PROT_EXEC) == 0 }
}

/// WRFSBASE is allowed: loading FS for a case destroys the base that thread-local storage needs.
pub(super) fn can_write_fs_base() -> bool {
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    // SAFETY: a plain query.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 }
}

/// Processor time of this process: what other processes take does not count.
pub fn processor_time() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut t) };
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// `struct user_desc` of the kernel.
#[repr(C)]
struct UserDesc {
    entry: u32,
    base: u32,
    limit: u32,
    flags: u32,
}

/// Installs [`LDT`] for this process.
pub(super) fn install_ldt() -> bool {
    LDT.iter().enumerate().all(|(entry, d)| {
        let mut desc = UserDesc { entry: entry as u32, base: 0, limit: 0, flags: 0 };
        if let Some(d) = d {
            desc.base = d.base;
            desc.limit = d.limit;
            // seg_32bit, contents, read_exec_only, limit_in_pages, seg_not_present
            desc.flags = u32::from(d.big)
                | d.contents << 1
                | u32::from(d.less) << 3
                | u32::from(d.pages) << 4
                | u32::from(!d.present) << 5;
        } else {
            // An empty entry: read_exec_only and seg_not_present, all else zero.
            desc.flags = 1 << 3 | 1 << 5;
        }
        // SAFETY: modify_ldt reads the structure; entries of the LDT concern selectors that nothing but
        // cases loads.
        unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, &raw const desc, size_of::<UserDesc>()) == 0 }
    })
}
