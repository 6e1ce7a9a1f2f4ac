//! File server of the virtio-9p device: protocol 9P2000.L over a [`Filesystem`].
//!
//! The [`Server`] takes one request and gives one reply, synchronously; it knows nothing of
//! virtqueues or of where files come from. A [`Filesystem`] knows nothing of the protocol.
//!
//! | file | what |
//! | --- | --- |
//! | `wire` | message numbers, reading and writing of fields |
//! | `server` | sessions and requests |
//! | `fid` | the client's handles ("fids") |
//! | `locks` | POSIX byte range locks |
//! | `fs` | what a file system has to offer |
//! | `saved` | file system and session as a snapshot holds them |
//!
//! Bounds on what a guest can make us keep are `P9_*` in [`crate::limits`].
//!
//! Access control is the guest's: its kernel decides who may do what, as with a local disk. The
//! server only keeps a guest inside the exported tree.
//!
//! Protocol: "9P2000.L" as documented by the diod project and as spoken by Linux (`net/9p`,
//! `fs/9p`). Where the two differ we do what Linux expects.

#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod errno;
pub mod fid;
pub mod fs;
pub mod locks;
pub mod saved;
pub mod server;
#[cfg(test)]
pub(crate) mod testfs;
pub mod wire;

pub use errno::Errno;
pub use fs::Filesystem;
pub use server::Server;
