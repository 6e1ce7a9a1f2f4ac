//! The host's end of the guest service's line.
//!
//! | module | what |
//! | --- | --- |
//! | [`channel`] | what a line has to be able to do; whether somebody listens at its other end |
//! | [`mux`] | one line: attaching to whatever runs in the guest, sessions, what to do when they break |
//! | [`client`] | calls: files, connections, mounts |
//! | [`command`] | commands in the guest and their streams |
//! | [`fresh`] | clock and entropy of a restored guest |
//! | `network` | the network of a guest that has to set it up again |
//! | [`wire`] | the line of a machine: its second serial port |
//!
//! The wire itself is in the crate `guest86`, which the service shares. Everything that comes over it is
//! hostile: it is limited in size and depth (`guest86::limits`), every wait has a deadline, and a guest that
//! breaks the protocol loses its session and nothing else.

pub mod channel;
pub mod client;
pub mod command;
pub mod fresh;
pub mod mux;
mod network;
#[cfg(all(test, target_os = "linux"))]
mod tests;
pub mod wire;

pub use channel::{Line, Port};
pub use client::{Contents, Guest, RawStream};
pub use command::{Command, Control, Input, Output, Running, exit_code};
pub use fresh::freshen;
pub use guest86::call::{Attributes, Entry, Info, RunOptions, Status};

use guest86::codec::CodecError;
use guest86::link::LinkError;
use std::time::{Duration, Instant};

use crate::clock;

/// When to stop waiting.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// After this time.
    pub fn after(time: Duration) -> Self {
        Self(clock::now().checked_add(time))
    }

    /// Not at all; only for waits that end with the machine.
    pub fn never() -> Self {
        Self(None)
    }

    /// What is left; `None` for ever.
    pub fn left(self) -> Option<Duration> {
        self.0.map(|end| end.saturating_duration_since(clock::now()))
    }

    /// This one, or after `time` if that comes first.
    pub fn or_after(self, time: Duration) -> Self {
        let other = Self::after(time);
        match (self.0, other.0) {
            (Some(one), Some(two)) => Self(Some(one.min(two))),
            (None, _) => other,
            (_, None) => self,
        }
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// Nobody answers.
    #[error("the guest service does not answer")]
    NoService,
    /// It took too long.
    #[error("the guest service did not answer in time")]
    TimedOut,
    /// The guest broke the protocol.
    #[error("the guest service is out of sync: {0}")]
    OutOfSync(String),
    /// The machine has ended, the service has, or another session has begun.
    #[error("the guest service is gone: it has ended, or the guest has ended or restarted")]
    Gone,
    /// What the service says went wrong.
    #[error("{0}")]
    Remote(String),
    /// A command could not be started.
    #[error("{message}")]
    Start {
        /// What the service says.
        message: String,
        /// The exit status a shell would give: 127 if the program is missing, else 126.
        code: u8,
    },
    /// The service's answer is not what the call promises.
    #[error("the guest service gives a wrong answer to {0}")]
    WrongAnswer(&'static str),
    /// The service in the guest is too old for this.
    #[error("the guest service cannot do this: {0}")]
    Unsupported(&'static str),
    /// Something of the host: what a file is read from or written to.
    #[error(transparent)]
    Host(#[from] std::io::Error),
}

impl From<LinkError> for RpcError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::TimedOut => Self::TimedOut,
            LinkError::Lost(violation) => Self::OutOfSync(violation.to_string()),
            LinkError::Refused => Self::Remote("the guest service takes no more calls".into()),
            LinkError::Closed | LinkError::Down => Self::Gone,
        }
    }
}

impl From<CodecError> for RpcError {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Link(error) => error.into(),
            CodecError::End | CodecError::Truncated => Self::Gone,
            CodecError::TooLong(_) | CodecError::Cbor(_) => Self::OutOfSync(error.to_string()),
        }
    }
}
