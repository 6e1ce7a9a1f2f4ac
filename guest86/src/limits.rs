//! Limits for what the other end sends. Each has a test that hits it.

/// Smallest "maximum packet" an end may offer, in bytes of payload.
pub const MIN_PACKET: u32 = 9;

/// Largest "maximum packet" an end may offer, in bytes of payload.
pub const MAX_PACKET: u32 = 1 << 31;

/// Window we offer on each channel, in bytes: what we may have to hold for a slow reader.
pub const WINDOW: u32 = 256 << 10;

/// "Maximum packet" we offer, in bytes. A longer DATA frame ends the session.
pub const PACKET: u32 = 16 << 10;

/// Payload of the DATA frames we send, in bytes, even if the other end takes more: other channels have to
/// get their turn on the line.
pub const PIECE: usize = 4 << 10;

/// Payload sent and not yet credited on a channel, in bytes, whatever the window says: the guest's terminal
/// driver has a finite buffer behind which bytes are lost.
pub const IN_FLIGHT: u32 = 32 << 10;

/// Bytes read from a channel before they are credited, at most.
pub const CREDIT_STEP: u32 = 8 << 10;

/// Bytes waiting for the line before writers of channels have to wait.
pub const OUTBOX: usize = 16 << 10;

/// Bytes waiting for the line before the session is given up: the other end asks without listening.
pub const MAX_OUTBOX: usize = 1 << 20;

/// Channels open at a time. An OPEN beyond them is refused.
pub const CHANNELS: usize = 256;

/// Data items inside each other in one CBOR item.
pub const CBOR_DEPTH: usize = 16;

/// Data items in one CBOR item: a directory of 100,000 entries has over two million.
pub const CBOR_ITEMS: usize = 4 << 20;

/// Data items in a request, which has to fit into a small guest.
pub const REQUEST_ITEMS: usize = 64 << 10;

/// Length of a call header in bytes.
pub const CALL_HEADER: usize = 4 << 10;

/// Length of a call's argument in bytes; contents of files are not counted.
pub const REQUEST: usize = 1 << 20;

/// Length of a response or an output record in bytes; contents of files are not counted.
pub const RESPONSE: usize = 16 << 20;

/// Contents of a file that are read as one response, in bytes. Streams have no such limit.
pub const FILE: u64 = 1 << 30;

/// Contents of a file whose size is not known beforehand (as in `/proc`), in bytes, as one response.
pub const UNSIZED_FILE: usize = 1 << 20;
