//! Limits for untrusted input. Each has a test that hits it.

/// Largest `image.json` in bytes.
pub const MAX_IMAGE_JSON: u64 = 1 << 20;

/// Largest `fs.json` in bytes. A full Debian has about 10 MB of it.
pub const MAX_FS_JSON: u64 = 256 << 20;

/// Largest kernel file in bytes.
pub const MAX_KERNEL: u64 = 256 << 20;

/// Largest initrd in bytes. It has to fit into guest RAM, which is below 2 GiB.
pub const MAX_INITRD: u64 = 1 << 30;

/// Largest kernel command line in bytes; Linux takes 2047.
pub const MAX_CMDLINE: usize = 16 << 10;

/// Guest RAM ends here at the latest: v86 has no larger machines, and snapshots go both ways.
pub const MAX_MEMORY: u64 = (1 << 31) - MEMORY_GRANULE;

/// Smallest guest RAM.
pub const MIN_MEMORY: u64 = 1 << 20;

/// Smallest guest RAM with an initrd: it is loaded at 64 MiB or just below the end of memory.
pub const MIN_MEMORY_WITH_INITRD: u64 = 64 << 20;

/// Guest RAM is a multiple of this.
pub const MEMORY_GRANULE: u64 = 128 << 10;

/// Smallest video memory.
pub const MIN_VGA_MEMORY: u64 = 256 << 10;

/// Largest video memory.
pub const MAX_VGA_MEMORY: u64 = 256 << 20;

/// Longest text `--exit-on` can look for, in bytes.
pub const MAX_EXIT_PATTERN: usize = 4 << 10;

/// Guest output waiting for the terminal, in bytes; when it is full the guest waits.
pub const OUTPUT_QUEUE: usize = 256 << 10;

/// Longest error message printed, in characters: reasons may quote a hostile file.
pub const MAX_MESSAGE: usize = 2000;

/// What an archive image may cost before it is refused.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveLimits {
    /// All files together, unpacked, in bytes. An archive is kept in memory.
    pub total_bytes: u64,
    /// Number of entries.
    pub entries: u64,
    /// Headers and long names before one entry, in bytes.
    pub header_bytes: u64,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self { total_bytes: 4 << 30, entries: 1 << 20, header_bytes: 1 << 20 }
    }
}
