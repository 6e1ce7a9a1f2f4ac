//! Bounds on what images and guests can make the file system keep. Each has a test that hits it.

/// Length of a file name in bytes.
pub const MAX_NAME: usize = emu_devices::p9::limits::MAX_NAME;

/// Length of a symbolic link's target in bytes.
pub const MAX_TARGET: usize = emu_devices::p9::limits::MAX_TARGET;

/// Rows in an `fs.json`, and inodes in a snapshot.
pub const MAX_INODES: usize = 1 << 22;

/// Directories inside each other in an `fs.json`.
pub const MAX_DEPTH: usize = 1024;

/// Size of a file in bytes. Files with holes may be larger than memory, so this is what keeps
/// offsets sensible.
pub const MAX_FILE_SIZE: u64 = 1 << 40;

/// Default for the bytes a guest may add to an image: contents and, roughly, names and inodes.
pub const DEFAULT_OVERLAY_BYTES: u64 = 4 << 30;

/// Default for the bytes of contents kept in memory although no guest has the file open.
pub const DEFAULT_CACHE_BYTES: u64 = 64 << 20;

/// Bytes of contents kept in memory because a guest has the files open. Beyond, contents are
/// dropped and read again.
pub const MAX_PINNED_BYTES: u64 = 1 << 30;

/// Content files kept open.
pub const MAX_OPEN_BLOBS: usize = 128;

/// Larger uncompressed content files are read piece by piece instead of being kept in memory.
pub const SMALL_BLOB: u64 = 1 << 20;

/// Size of a compressed content file's contents in bytes; these have to be in memory.
pub const MAX_UNPACKED: u64 = 2 << 30;

/// Size of the file system that statfs reports, in bytes (v86's figure).
pub const TOTAL_BYTES: u64 = 256 << 30;
