//! Mux frames.
//!
//! One byte tells the type; big-endian 32-bit numbers follow, and in DATA frames the payload. "To" is the
//! number that the frame's receiver chose for its end of the channel, "from" the one its sender chose.

use std::fmt;

const OPEN: u8 = 100;
const OPEN_CONFIRM: u8 = 101;
const OPEN_FAILURE: u8 = 102;
const WINDOW_ADJUST: u8 = 103;
const DATA: u8 = 104;
const EOF: u8 = 105;
const CLOSE: u8 = 106;

/// Length of the longest header in bytes.
pub const MAX_HEADER: usize = 17;

/// A frame without the payload of DATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Asks for a channel.
    Open {
        /// The sender's number for it.
        from: u32,
        /// Bytes of payload the sender is ready to take.
        window: u32,
        /// Longest payload of a DATA frame the sender takes.
        packet: u32,
    },
    /// Grants a channel.
    OpenConfirm {
        /// The number in the OPEN frame.
        to: u32,
        /// The granting end's number.
        from: u32,
        /// As in OPEN.
        window: u32,
        /// As in OPEN.
        packet: u32,
    },
    /// Refuses a channel.
    OpenFailure {
        /// The number in the OPEN frame.
        to: u32,
    },
    /// Allows the receiver to send more payload.
    WindowAdjust {
        /// Channel.
        to: u32,
        /// How many bytes more.
        add: u32,
    },
    /// Announces `length` bytes of payload, which follow.
    Data {
        /// Channel.
        to: u32,
        /// Bytes that follow.
        length: u32,
    },
    /// The sender has no more payload.
    Eof {
        /// Channel.
        to: u32,
    },
    /// The sender is done with the channel, both directions.
    Close {
        /// Channel.
        to: u32,
    },
}

/// A byte that is no frame type: the stream is out of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownType(pub u8);

/// Length of a frame's header, payload not counted, by its first byte.
pub fn header_length(kind: u8) -> Result<usize, UnknownType> {
    match kind {
        OPEN => Ok(13),
        OPEN_CONFIRM => Ok(17),
        OPEN_FAILURE | EOF | CLOSE => Ok(5),
        WINDOW_ADJUST | DATA => Ok(9),
        other => Err(UnknownType(other)),
    }
}

impl Frame {
    /// Reads a header from the start of `bytes`. `None` if it is not complete.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, UnknownType> {
        let Some(&kind) = bytes.first() else { return Ok(None) };
        let length = header_length(kind)?;
        let Some(numbers) = bytes.get(1..length) else { return Ok(None) };
        let number = |index: usize| {
            let at = numbers.get(4 * index..4 * index + 4).unwrap_or(&[0; 4]);
            at.iter().fold(0, |value: u32, &byte| value << 8 | u32::from(byte))
        };
        let frame = match kind {
            OPEN => Self::Open { from: number(0), window: number(1), packet: number(2) },
            OPEN_CONFIRM => {
                Self::OpenConfirm { to: number(0), from: number(1), window: number(2), packet: number(3) }
            }
            OPEN_FAILURE => Self::OpenFailure { to: number(0) },
            WINDOW_ADJUST => Self::WindowAdjust { to: number(0), add: number(1) },
            DATA => Self::Data { to: number(0), length: number(1) },
            EOF => Self::Eof { to: number(0) },
            _ => Self::Close { to: number(0) },
        };
        Ok(Some((frame, length)))
    }

    /// Appends the header to `out`.
    pub fn encode(self, out: &mut Vec<u8>) {
        let mut put = |kind: u8, numbers: &[u32]| {
            out.push(kind);
            for number in numbers {
                out.extend_from_slice(&number.to_be_bytes());
            }
        };
        match self {
            Self::Open { from, window, packet } => put(OPEN, &[from, window, packet]),
            Self::OpenConfirm { to, from, window, packet } => put(OPEN_CONFIRM, &[to, from, window, packet]),
            Self::OpenFailure { to } => put(OPEN_FAILURE, &[to]),
            Self::WindowAdjust { to, add } => put(WINDOW_ADJUST, &[to, add]),
            Self::Data { to, length } => put(DATA, &[to, length]),
            Self::Eof { to } => put(EOF, &[to]),
            Self::Close { to } => put(CLOSE, &[to]),
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Open { from, window, packet } => {
                write!(f, "open from={from} window={window} packet={packet}")
            }
            Self::OpenConfirm { to, from, window, packet } => {
                write!(f, "confirm to={to} from={from} window={window} packet={packet}")
            }
            Self::OpenFailure { to } => write!(f, "failure to={to}"),
            Self::WindowAdjust { to, add } => write!(f, "adjust to={to} add={add}"),
            Self::Data { to, length } => write!(f, "data to={to} length={length}"),
            Self::Eof { to } => write!(f, "eof to={to}"),
            Self::Close { to } => write!(f, "close to={to}"),
        }
    }
}

/// Appends a DATA frame with its payload to `out`.
pub fn data(to: u32, payload: &[u8], out: &mut Vec<u8>) {
    Frame::Data { to, length: u32::try_from(payload.len()).unwrap_or(u32::MAX) }.encode(out);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_of_every_prefix_waits_for_the_rest() {
        let frames = [
            Frame::Open { from: 1, window: 2, packet: 0xfffe_fdfc },
            Frame::OpenConfirm { to: 1, from: 2, window: 3, packet: 4 },
            Frame::OpenFailure { to: u32::MAX },
            Frame::WindowAdjust { to: 0, add: 7 },
            Frame::Data { to: 5, length: 0 },
            Frame::Eof { to: 9 },
            Frame::Close { to: 10 },
        ];
        for frame in frames {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            for length in 0..bytes.len() {
                assert_eq!(Frame::decode(&bytes[..length]), Ok(None), "{frame}");
            }
            bytes.push(0xaa);
            assert_eq!(Frame::decode(&bytes), Ok(Some((frame, bytes.len() - 1))));
        }
    }

    #[test]
    fn decode_of_other_first_bytes_is_an_error() {
        for kind in (0..=255).filter(|kind| !(100..=106).contains(kind)) {
            assert_eq!(Frame::decode(&[kind]), Err(UnknownType(kind)));
        }
    }
}
