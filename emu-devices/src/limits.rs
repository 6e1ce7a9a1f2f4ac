//! What a guest may make us keep or compute, in one place.

/// Frames a network card keeps while its receive ring is full; later ones are dropped.
pub const NET_BACKLOG_FRAMES: usize = 256;
/// Bytes of such frames.
pub const NET_BACKLOG_BYTES: usize = 512 << 10;
/// Longest frame taken from the network, bytes without check sequence (one 802.1Q tag allowed).
pub const NET_MAX_FRAME: usize = 1518;

/// Bytes of a disk transfer held in memory at a time; longer transfers are moved piece by piece.
pub const DISK_WINDOW: usize = 128 << 10;
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
