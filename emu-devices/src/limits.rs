//! What a guest may make us keep or compute, in one place.

/// Descriptors of one virtio chain, an indirect table included: the largest queue, and eight times
/// what Linux' 9P client uses. A longer chain is an error of the driver. Bounds a chain's memory to
/// 8 KiB.
pub const VIRTIO_CHAIN_DESCRIPTORS: usize = 1024;

/// Bytes of a 9P request or reply. v86 has the same bound on its reply buffer; longer requests get
/// an empty reply.
pub const VIRTIO_P9_MESSAGE: usize = 16 << 20;

/// Bytes of a frame virtio-net sends or receives, without FCS. Longer ones are dropped.
pub const VIRTIO_NET_FRAME: usize = 65_536;

/// Bytes taken from one chain of a virtio-console port; the rest of the chain is dropped. Linux
/// writes at most 32 KiB at once, or as much as a pipe holds (1 MiB unless the administrator raised
/// it).
pub const VIRTIO_CONSOLE_WRITE: usize = 1 << 20;

/// virtio-console control messages kept while the guest has posted no buffer for them: announcing
/// and naming four ports takes sixteen.
pub const VIRTIO_CONSOLE_BACKLOG: usize = 64;

/// Longest virtio-console control message taken from a snapshot, in bytes: eight and a port's name.
pub const VIRTIO_CONSOLE_MESSAGE: usize = 64;

/// Random bytes virtio-rng gives for one chain; a driver asks again for more.
pub const VIRTIO_RNG_REQUEST: usize = 65_536;

/// Bytes of one virtio-balloon statistics report that are looked at (10 bytes an entry).
pub const VIRTIO_BALLOON_STATS: usize = 1024;
/// Longest frame taken from the network, bytes without check sequence (one 802.1Q tag allowed).
pub const NET_MAX_FRAME: usize = 1518;

/// Bytes of a disk transfer held in memory at a time; longer transfers are moved piece by piece.
pub const DISK_WINDOW: usize = 128 << 10;
/// Bytes of an unfinished disk transfer that a snapshot holds: the longest one of a hard disk. v86
/// does not get more of a longer one of a CD-ROM.
pub const IDE_SAVED_TRANSFER: usize = 32 << 20;
/// Descriptors of one bus-master IDE transfer: the table may not cross a 64 KiB boundary.
pub const IDE_PRD_ENTRIES: u32 = 8192;

/// Fastest rate at which the sound card consumes samples, hertz.
pub const SB16_MAX_RATE: u32 = 96_000;
/// Slowest such rate.
pub const SB16_MIN_RATE: u32 = 1_000;
/// Samples made up at once to fill the gap since the last directly written sample.
pub const SB16_DIRECT_GAP: u64 = 2_205;

/// Smallest video memory, bytes.
pub const VGA_MEMORY_MIN: usize = 256 << 10;
/// Largest video memory, bytes.
pub const VGA_MEMORY_MAX: usize = 256 << 20;
/// Most pixels in a row.
pub const VGA_MAX_WIDTH: u16 = 2560;
/// Most rows.
pub const VGA_MAX_HEIGHT: u16 = 1600;

/// Largest message size we agree to, in bytes. Linux asks for at most 500 KiB over virtio (128
/// pages less three); larger messages save nothing.
pub const P9_MAX_MSIZE: u32 = 1 << 20;

/// Smallest message size we agree to. Linux refuses to use less itself.
pub const P9_MIN_MSIZE: u32 = 4096;

/// Message size before Tversion.
pub const P9_DEFAULT_MSIZE: u32 = 8192;

/// Largest message size taken from a snapshot (v86 agreed to anything and kept a reply buffer
/// of at most this).
pub const P9_RESTORED_MSIZE: u32 = 16 << 20;

/// Fids in use at a time. Linux keeps one per cached directory entry, so this has to exceed
/// what fits into the memory of the largest guest.
pub const P9_FIDS: usize = 1 << 20;

/// Length of a file name in bytes (Linux: NAME_MAX).
pub const P9_NAME: usize = 255;

/// Length of a symbolic link's target in bytes (Linux: PATH_MAX less the NUL).
pub const P9_LINK_TARGET: usize = 4095;

/// Path elements in one Twalk (9P: MAXWELEM).
pub const P9_WALK: usize = 16;

/// Path elements in an attach name.
pub const P9_ATTACH_DEPTH: usize = 256;

/// Locked byte ranges at a time.
pub const P9_LOCKS: usize = 1 << 16;

/// Length of the client's name in a lock request, in bytes (Linux sends the host name, at most 64).
pub const P9_LOCK_CLIENT: usize = 256;

/// Bytes of changed files in a snapshot. Its length has 32 bits, and guest memory is in it too.
pub const P9_SAVED_CONTENTS: u64 = 3 << 30;

/// Bytes of holes that are written out as zeros because v86 knows no holes, in all changed files of a
/// snapshot together. Files with more holes get a form that v86 does not know.
pub const P9_SAVED_HOLES: u64 = 64 << 20;

/// Fid numbers that v86's table of fids can have in addition to twice the number of fids: the table has
/// an entry for every number up to the largest. Fids beyond are saved in a form that v86 does not know.
/// Linux uses the lowest free number.
pub const P9_SAVED_FIDS: usize = 4096;
