//! Bounds on what a guest can make the file server keep or build. Each has a test that hits it.

/// Largest message size we agree to, in bytes. Linux asks for at most 500 KiB over virtio (128
/// pages less three); larger messages save nothing.
pub const MAX_MSIZE: u32 = 1 << 20;

/// Smallest message size we agree to. Linux refuses to use less itself.
pub const MIN_MSIZE: u32 = 4096;

/// Message size before Tversion.
pub const DEFAULT_MSIZE: u32 = 8192;

/// Largest message size taken from a snapshot (v86 agreed to anything and kept a reply buffer
/// of at most this).
pub const MAX_RESTORED_MSIZE: u32 = 16 << 20;

/// Fids in use at a time. Linux keeps one per cached directory entry, so this has to exceed
/// what fits into the memory of the largest guest.
pub const MAX_FIDS: usize = 1 << 20;

/// Length of a file name in bytes (Linux: NAME_MAX).
pub const MAX_NAME: usize = 255;

/// Length of a symbolic link's target in bytes (Linux: PATH_MAX less the NUL).
pub const MAX_TARGET: usize = 4095;

/// Path elements in one Twalk (9P: MAXWELEM).
pub const MAX_WALK: usize = 16;

/// Path elements in an attach name.
pub const MAX_ATTACH_DEPTH: usize = 256;

/// Locked byte ranges at a time.
pub const MAX_LOCKS: usize = 1 << 16;

/// Length of the client's name in a lock request, in bytes (Linux sends the host name, at most 64).
pub const MAX_LOCK_CLIENT: usize = 256;
