//! Machines that have a name: other env86 processes find them and use them.
//!
//! | module | what |
//! | --- | --- |
//! | [`names`] | names, and the directory with a socket for each |
//! | [`endpoint`] | the socket of a machine, from before it is built until it ends |
//! | [`server`] | what a machine's process answers |
//! | [`client`] | asking it |
//! | [`message`] | requests and replies |
//! | [`splice`] | calls of the guest service, passed through the machine's process |
//! | [`copy`] | files and directories, into the guest and out of it |
//! | [`archive`] | the same as tar archives |
//!
//! A connection begins with one request and one reply, each a JSON object on a line. After
//! [`message::Request::Guest`] it carries the guest service's own protocol (the crate `guest86`): the machine's
//! process opens a channel to the guest for every channel the client opens, and carries bytes. So all that
//! [`crate::rpc::Guest`] can do works from here too, with flow control and errors as they are.
//!
//! Sockets have mode 0600 in a directory with mode 0700 that belongs to the user. Whoever can connect can do
//! in the guest what its root can, and end it; to the host nothing more than the user who started it.

pub mod archive;
pub mod client;
pub mod copy;
pub mod endpoint;
mod host_files;
pub mod message;
pub mod names;
pub mod server;
mod splice;

use std::path::PathBuf;

use crate::rpc::RpcError;

/// Why a machine cannot be found, named or used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nothing a machine can be called.
    #[error("Cannot name a VM {0:?}: letters, digits, '.', '_' and '-', the first a letter or digit, at most {max} of them", max = names::LONGEST)]
    BadName(String),
    /// A machine has this name.
    #[error("Cannot name the VM {0}: one with this name runs already")]
    Taken(String),
    /// No machine has this name.
    #[error("no VM named {0}; env86 ps lists them")]
    Unknown(String),
    /// The directory of the sockets is not ours alone.
    #[error("Cannot use {}: {why}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The host's reason.
    #[error("Cannot use {}", path.display())]
    Host {
        /// Which file or directory.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The machine's process does not answer, or not as it should.
    #[error("The VM {name} does not answer: {why}")]
    Silent {
        /// The machine.
        name: String,
        /// What happened.
        why: String,
    },
    /// The machine's process says no.
    #[error("The VM {name}: {why}")]
    Refused {
        /// The machine.
        name: String,
        /// Why.
        why: String,
    },
    /// The guest service.
    #[error(transparent)]
    Guest(#[from] RpcError),
}

impl ControlError {
    /// What the user can try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Taken(name) => {
                Some(format!("'env86 stop {name}' ends it, 'env86 exec {name} -- COMMAND' uses it"))
            }
            Self::Unsafe { .. } => {
                Some("remove it, or set XDG_RUNTIME_DIR to a directory of your own".to_owned())
            }
            _ => None,
        }
    }
}
