//! Limits for untrusted input. Each has a test that hits it.

/// Largest `image.json` in bytes.
pub const MAX_IMAGE_JSON: u64 = 1 << 20;

/// Largest `fs.json` in bytes. A full Debian has about 10 MB of it.
pub const MAX_FS_JSON: u64 = 256 << 20;

/// Length of a file name in bytes.
pub const MAX_FILE_NAME: usize = emu_devices::limits::P9_NAME;

/// Length of a symbolic link's target in bytes.
pub const MAX_LINK_TARGET: usize = emu_devices::limits::P9_LINK_TARGET;

/// Rows in an `fs.json`, and inodes in a snapshot.
pub const MAX_INODES: usize = 1 << 22;

/// Directories inside each other in an `fs.json`.
pub const MAX_TREE_DEPTH: usize = 1024;

/// Size of a file in bytes. Files with holes may be larger than memory, so this is what keeps
/// offsets sensible.
pub const MAX_FILE_SIZE: u64 = 1 << 40;

/// Default for the bytes a guest may add to an image: contents and, roughly, names and inodes.
pub const OVERLAY_BYTES: u64 = 4 << 30;

/// Default for the bytes of contents kept in memory although no guest has the file open.
pub const BLOB_CACHE: u64 = 64 << 20;

/// Bytes of contents kept in memory because a guest has the files open. Beyond, contents are
/// dropped and read again.
pub const BLOB_PINNED: u64 = 1 << 30;

/// Content files kept open.
pub const OPEN_BLOBS: usize = 128;

/// Larger uncompressed content files are read piece by piece instead of being kept in memory.
pub const SMALL_BLOB: u64 = 1 << 20;

/// Size of a compressed content file's contents in bytes; these have to be in memory.
pub const MAX_UNPACKED_BLOB: u64 = 2 << 30;

/// Largest kernel file in bytes.
pub const MAX_KERNEL: u64 = 256 << 20;

/// Largest initrd in bytes. It has to fit into guest RAM, which is below 2 GiB.
pub const MAX_INITRD: u64 = 1 << 30;

/// Largest kernel command line in bytes; Linux takes 2047.
pub const MAX_CMDLINE: usize = 16 << 10;

/// Largest guest RAM that can be asked for, in bytes.
pub const MAX_MEMORY: u64 = 2 << 30;

/// Smallest guest RAM that can be asked for, in bytes.
pub const MIN_MEMORY: u64 = 1 << 20;

/// Smallest guest RAM with an initrd, in bytes: v86 gives no less.
pub const MIN_MEMORY_WITH_INITRD: u64 = 64 << 20;

/// Longest text `--exit-on` can look for, in bytes.
pub const MAX_EXIT_PATTERN: usize = 4 << 10;

/// Guest output waiting for the terminal, in bytes; when it is full the guest waits.
pub const OUTPUT_QUEUE: usize = 256 << 10;

/// Longest error message printed, in characters: reasons may quote a hostile file.
pub const MAX_MESSAGE: usize = 1000;

/// Largest file of environment variables read, in bytes.
pub const MAX_ENV_FILE: u64 = 1 << 20;

/// Directories of the host that a guest may be shown.
pub const MAX_SHARES: usize = 64;

/// Objects of shared directories that a guest may hold at once.
pub const MAX_SHARE_NODES: usize = 1 << 20;

/// Directories inside each other in a shared directory.
pub const MAX_SHARE_DEPTH: usize = 4096;

/// Descriptors kept for objects of shared directories, apart from files the guest has open; and those kept
/// for objects without a name.
pub const SHARE_DESCRIPTORS: usize = 200;

/// Shared directories that stay known when the guest holds none of them: clients without a cache go through
/// the same ones with every request.
pub const SHARE_RESTING: usize = 64;

/// Files of shared directories that a guest may have open at once. With the above, a process with the usual
/// limit of 1024 descriptors has enough.
pub const SHARE_HANDLES: usize = 400;

/// Files a split snapshot may consist of. They have 10 MiB each.
pub const MAX_SNAPSHOT_PARTS: u64 = 1024;

/// Longest name of a snapshot, in bytes.
pub const MAX_SNAPSHOT_NAME: usize = 100;

/// Frames from the guest that wait for the network's thread, in bytes; more are dropped.
pub const CABLE_TO_NET: usize = 1 << 20;

/// Frames for the guest that its card has not taken, in bytes; the network waits.
pub const CABLE_TO_CARD: usize = 256 << 10;

/// TCP connections of a guest, those being made included. Further ones get no answer.
pub const NET_TCP_FLOWS: usize = 2048;

/// TCP connections being made to the outside. The oldest one gives way to a new one.
pub const NET_TCP_PENDING: usize = 512;

/// UDP conversations of a guest. The one that was silent for longest gives way to a new one.
pub const NET_UDP_FLOWS: usize = 512;

/// Destinations and identifiers of a guest's pings. The oldest gives way.
pub const NET_PINGS: usize = 64;

/// DNS questions that wait for an answer. Further ones are dropped.
pub const NET_DNS_QUERIES: usize = 256;

/// IPv6 addresses of guests that a network remembers: a card makes itself some, and others over time.
pub const NET_NEIGHBOURS: usize = 64;

/// Datagrams being put together from fragments. The oldest gives way.
pub const NET_REASSEMBLIES: usize = 16;

/// Machines that the relay of `env86 network` serves at a time.
pub const RELAY_CONNECTIONS: usize = 16;

/// Ports of the host that lead to a guest.
pub const NET_FORWARDS: usize = 256;

/// Rules of the network's policy, for either verdict.
pub const NET_RULES: usize = 1024;

/// Addresses remembered for names that rules speak of. The one that expires first gives way.
pub const NET_LEARNT: usize = 1024;

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
