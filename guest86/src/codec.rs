//! Codec frames: a big-endian 32-bit length, then one CBOR item. They are cut over DATA frames at will.

use crate::cbor::{CborError, Value};
use crate::link::{Channel, LinkError, Patience};

/// Length of the prefix in bytes.
pub const PREFIX: usize = 4;

/// Why no item could be read from a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecError {
    /// The channel ended before a frame began.
    End,
    /// The channel ended inside a frame.
    Truncated,
    /// The frame is longer than the reader takes.
    TooLong(u64),
    /// The item in it.
    Cbor(CborError),
    /// The channel.
    Link(LinkError),
}

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // The Go service's word for it.
            Self::End => f.write_str("EOF"),
            Self::Truncated => f.write_str("unexpected EOF"),
            Self::TooLong(length) => write!(f, "message of {length} bytes is too long"),
            Self::Cbor(error) => error.fmt(f),
            Self::Link(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CodecError {}

impl From<LinkError> for CodecError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<CborError> for CodecError {
    fn from(error: CborError) -> Self {
        Self::Cbor(error)
    }
}

/// The prefix of a frame with this many bytes. Longer frames than 2^32-1 cannot be said.
pub fn prefix(length: u64) -> Option<[u8; PREFIX]> {
    u32::try_from(length).ok().map(u32::to_be_bytes)
}

/// A whole codec frame.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = vec![0; PREFIX];
    value.encode(&mut out);
    let length = u32::try_from(out.len() - PREFIX).unwrap_or(u32::MAX);
    out[..PREFIX].copy_from_slice(&length.to_be_bytes());
    out
}

/// Fills `buffer` from a channel and returns how much of it could be filled before the end.
pub fn fill(channel: &Channel, buffer: &mut [u8], patience: Patience<'_>) -> Result<usize, LinkError> {
    let mut done = 0;
    while done < buffer.len() {
        match channel.read(&mut buffer[done..], patience)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

/// Reads the length of the next frame.
pub fn read_prefix(channel: &Channel, patience: Patience<'_>) -> Result<u64, CodecError> {
    let mut bytes = [0; PREFIX];
    match fill(channel, &mut bytes, patience)? {
        0 => Err(CodecError::End),
        PREFIX => Ok(u64::from(u32::from_be_bytes(bytes))),
        _ => Err(CodecError::Truncated),
    }
}

/// Reads the bytes of a frame whose length is known. Memory is taken as they arrive.
pub fn read_body(channel: &Channel, length: u64, patience: Patience<'_>) -> Result<Vec<u8>, CodecError> {
    const STEP: usize = 64 << 10;
    let length = usize::try_from(length).map_err(|_| CodecError::TooLong(length))?;
    let mut body = Vec::new();
    while body.len() < length {
        let start = body.len();
        // Doubling keeps the copying linear.
        let size = (length - start).min(STEP.max(start));
        body.resize(start + size, 0);
        if fill(channel, &mut body[start..], patience)? < size {
            return Err(CodecError::Truncated);
        }
    }
    Ok(body)
}

/// Reads the next frame of at most `limit` bytes and the item in it; bytes after the item are ignored.
pub fn read(
    channel: &Channel,
    limit: usize,
    items: usize,
    patience: Patience<'_>,
) -> Result<Value, CodecError> {
    let length = read_prefix(channel, patience)?;
    if length > limit as u64 {
        return Err(CodecError::TooLong(length));
    }
    let body = read_body(channel, length, patience)?;
    Ok(Value::decode(&body, items)?.0)
}
