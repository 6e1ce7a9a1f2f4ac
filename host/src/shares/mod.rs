//! Directories of the host, shown to the guest.
//!
//! | module | what |
//! | --- | --- |
//! | [`spec`] | `HOST:GUEST[:ro|:overlay[=DIR]]` as people write it |
//! | [`scan`] | a directory as a tree in memory, for overlays |
//! | [`mounts`] | all directories of a machine, behind one server or one each |
//! | [`union`] | a directory and one that has what the guest changed in it, as one |
//! | [`nodes`] | the objects the guest knows, each tied to an inode, with few open descriptors |
//! | [`server`] | [`emu_devices::p9::Filesystem`] over them |
//! | [`sys`] | the host's system calls, one component at a time |
//!
//! **Confinement.** A guest is hostile, and so may be a program on the host that changes the directory
//! meanwhile. No path with more than one component ever reaches the host: each step opens one name in a
//! directory that is open already, and never follows a symbolic link. `.` and `..` are no names. What was
//! found is an inode from then on: everything done to it goes through its descriptor, or through one opened
//! again by the same steps and compared. So a name that is swapped for a link between two requests gives an
//! error or the link itself, never what the link points to. Links made by the guest are stored as they are;
//! nothing here follows them. Device nodes cannot be made, FIFOs, sockets and devices are not opened, and
//! set-user-ID bits are not set on files.
//!
//! **Overlays.** The tree is read once, when the machine starts, and lives in memory from then on, as that of
//! an image does ([`crate::fs::overlay`]). Contents are read when the guest needs them, from the same inode,
//! found by the same steps; a file that has another size by then cannot be read. With `overlay=DIR` nothing is
//! read ahead, and what the guest writes goes into that directory, as [`union`] says.
//!
//! **Ownership.** The user who runs env86 appears as root (0:0) to the guest, everybody else under their own
//! number. What the guest makes belongs to that user. A change of owner is done if the host lets us, accepted
//! if it changes nothing, and refused otherwise.

#[cfg(target_os = "linux")]
mod mounts;
#[cfg(target_os = "linux")]
mod nodes;
#[cfg(all(test, target_os = "linux"))]
mod recorded;
#[cfg(target_os = "linux")]
mod scan;
#[cfg(target_os = "linux")]
mod server;
pub mod spec;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(all(test, target_os = "linux"))]
mod tests;
#[cfg(target_os = "linux")]
mod union;

use std::path::PathBuf;

#[cfg(target_os = "linux")]
pub use mounts::{Mounts, alone};
#[cfg(target_os = "linux")]
pub use server::Shares;
pub use spec::{Mode, Spec};

/// Mount tag of the device that serves the shares.
pub use emu_devices::machine::SHARES_TAG as TAG;

/// Why a directory cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The text is not `HOST:GUEST[:ro|:overlay[=DIR]]`.
    #[error("Cannot mount {text:?}: {why}")]
    Syntax {
        /// As written.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The directory cannot be opened.
    #[error("Cannot mount {}: {source}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// The host's reason.
        source: std::io::Error,
    },
    /// Too many.
    #[error("Cannot mount more than {} directories", crate::limits::MAX_SHARES)]
    TooMany,
    /// It has more in it than is kept in memory.
    #[error("Cannot mount {} as an overlay: it has more than {} files", path.display(), crate::limits::MAX_INODES)]
    TooLarge {
        /// The directory.
        path: PathBuf,
    },
    /// The directory for an overlay's writes cannot be used.
    #[error("Cannot keep writes in {}: {source}", path.display())]
    Writes {
        /// The directory.
        path: PathBuf,
        /// The host's reason.
        source: std::io::Error,
    },
    /// Another machine, or another mount, keeps its writes there.
    #[error("Cannot keep writes in {}: another mount that is in use does so", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The directory for the writes and the mounted one overlap.
    #[error("Cannot mount {} with its writes in {}: one is inside the other", lower.display(), upper.display())]
    Nested {
        /// The directory that is mounted.
        lower: PathBuf,
        /// The directory for the writes.
        upper: PathBuf,
    },
    /// The host has nothing this could be done with.
    #[error("Cannot mount {}: directories can be mounted on Linux hosts with /proc only", path.display())]
    Host {
        /// The directory.
        path: PathBuf,
    },
}
