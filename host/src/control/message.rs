//! Requests and replies: one JSON object on a line each, at the beginning of a connection.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use guest86::call::Info;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest line in bytes.
const LONGEST: usize = 256 << 10;

/// What a client wants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// What the machine is. Ends the connection.
    Status,
    /// Ends the machine. The connection ends with its process.
    Stop {
        /// How long its command has to end after it was asked, in seconds.
        patience: f64,
    },
    /// A session with the guest service. After the reply, both ends speak its protocol.
    Guest {
        /// How long the guest may take until its service is there, in seconds.
        patience: f64,
    },
}

/// What a machine is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Process id on the host.
    pub pid: u32,
    /// Path of its image.
    pub image: PathBuf,
    /// The command it runs; empty if it was booted.
    pub command: Vec<String>,
    /// When it was started: seconds since 1970.
    pub started: u64,
    /// Where the output goes, if it runs in the background.
    pub log: Option<PathBuf>,
}

/// What the machine's process answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Stop`].
    Done,
    /// To [`Request::Guest`]: what the service says about itself.
    Guest {
        /// Its version.
        version: String,
        /// Its protocol.
        protocol: i64,
        /// The guest's kernel.
        kernel: String,
        /// What it can do.
        features: Vec<String>,
    },
    /// Why not.
    Error(String),
}

impl From<&Info> for Reply {
    fn from(info: &Info) -> Self {
        Self::Guest {
            version: info.version.clone(),
            protocol: info.protocol,
            kernel: info.kernel.clone(),
            features: info.features.clone(),
        }
    }
}

/// Writes one.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one, and no byte more.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        from.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return Ok(serde_json::from_slice(&line)?),
            _ if line.len() >= LONGEST => return Err(io::ErrorKind::InvalidData.into()),
            [byte] => line.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lines_and_nothing_after_them_is_read() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Request::Guest { patience: 1.5 }).unwrap();
        bytes.extend(b"rest");
        let mut from = &bytes[..];
        assert!(
            matches!(read::<Request>(&mut from).unwrap(), Request::Guest { patience } if patience == 1.5)
        );
        assert_eq!(from, b"rest");
        for bad in [&b""[..], b"{}", b"{}\n", b"null\n", b"{\"request\":\"x\"}\n", &[b' '; LONGEST + 10]] {
            assert!(read::<Request>(&mut { bad }).is_err());
        }
    }
}
