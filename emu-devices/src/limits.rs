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

/// Random bytes virtio-rng gives for one chain; a driver asks again for more.
pub const VIRTIO_RNG_REQUEST: usize = 65_536;

/// Bytes of one virtio-balloon statistics report that are looked at (10 bytes an entry).
pub const VIRTIO_BALLOON_STATS: usize = 1024;
