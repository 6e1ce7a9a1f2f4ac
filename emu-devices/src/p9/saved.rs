//! A session and its file system as snapshots hold them.
//!
//! These are plain tables, close to the arrays in v86's snapshots, to and from which `values` translates
//! them. They hold no handles: what was open is opened again, when restoring or, if the snapshot does
//! not say how it was open, at its first use.
//!
//! Names and link targets are bytes.
//!
//! Numbers and names are the guest's choice as they were when saved, and may be anything when
//! they come out of a file: [`Filesystem::restore`](super::Filesystem::restore) and
//! [`Server::restore`](super::Server::restore) check them.

mod extra;
mod values;

use super::errno::Errno;
use super::fs::{Access, NodeId, Time};

pub use values::SessionValues;

/// Number of an inode in a [`SavedTree`].
pub type SavedIndex = u32;

/// Everything a 9P server has to remember.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedServer {
    /// Negotiated message size.
    pub msize: u32,
    /// Fids in use, ascending. A client chooses the numbers (Linux: the lowest free one). When
    /// restoring, fids that stand for a missing inode are dropped.
    pub fids: Vec<SavedFid>,
    /// Locked ranges, by inode and start. When restoring, those of inodes without a fid are
    /// dropped.
    pub locks: Vec<SavedLock>,
    /// The files.
    pub tree: SavedTree,
}

/// A fid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedFid {
    /// The client's number.
    pub fid: u32,
    /// What it stands for.
    pub inode: SavedIndex,
    /// User of the attach it comes from, u32::MAX if none was given.
    pub uid: u32,
    /// Name it was last walked to by; information only, unless `dir` is there.
    pub name: Vec<u8>,
    /// Directory it was last found in by that name, if that is known.
    pub dir: Option<SavedIndex>,
    /// Opened or not.
    pub io: SavedIo,
}

/// What a fid could be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavedIo {
    /// Not known: opened when it is first used.
    Unknown,
    /// Not opened.
    Closed,
    /// Opened.
    Open {
        /// Which way.
        access: Access,
        /// Directories: where its listing ends ([`Filesystem::listing_end`](super::Filesystem::listing_end)).
        listing: u64,
    },
}

/// A locked byte range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedLock {
    /// The file.
    pub inode: SavedIndex,
    /// True for a write lock.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Number of bytes; 0 = to the end of the file, wherever that is.
    pub length: u64,
    /// Process in the guest.
    pub proc_id: u32,
    /// Name the client gave itself.
    pub client_id: Vec<u8>,
    /// Fid through which it was taken, if that is known; with it, it goes.
    pub fid: Option<u32>,
}

/// A file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedTree {
    /// Inodes; the position is the number. `None` is a number not in use. 0 is the root directory.
    pub inodes: Vec<Option<SavedInode>>,
    /// Last `qid.path` given out.
    pub last_qid: u64,
    /// Size of the file system in bytes, for statfs.
    pub total: u64,
    /// Bytes in use when the image was made, for statfs.
    pub used: u64,
    /// Bytes the guest has added, contents and names, if that is known; they count towards what it may add. Below
    /// zero if it has removed more than that.
    pub added: Option<i64>,
    /// Directories whose names are not at places 0, 1, 2 and so on. Guests that are in the middle of
    /// listing one know where by its places.
    pub listings: Vec<SavedListing>,
    /// Changed files whose contents are saved whole, because v86 knows no holes: where there are none.
    pub filled: Vec<SavedFilled>,
}

/// Where a file has no holes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedFilled {
    /// The file.
    pub inode: SavedIndex,
    /// Offsets, ascending, and lengths.
    pub parts: Vec<(u64, u64)>,
}

/// Where the names of a directory are in its listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedListing {
    /// The directory.
    pub inode: SavedIndex,
    /// Places of its names (without `.` and `..`), ascending.
    pub places: Vec<u64>,
    /// Place of the next new name.
    pub next: u64,
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedInode {
    /// Type and permissions. From old images also with Go's file mode bits above bit 15.
    pub mode: u32,
    /// What depends on the type.
    pub body: SavedBody,
    /// Size in bytes. A changed file with holes can be far larger than the memory it takes.
    pub size: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of anything.
    pub ctime: Time,
    /// Last access.
    pub atime: Time,
    /// Last change of the contents.
    pub mtime: Time,
    /// `qid.version`.
    pub qid_version: u32,
    /// `qid.path`.
    pub qid_path: u64,
    /// Names; 0 for a file that was removed but is in use. Counted anew when restoring.
    pub nlink: u32,
}

/// The part of an inode that depends on its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SavedBody {
    /// Names in order of creation. When saved, `.` and `..` come first; when restoring they may be
    /// anywhere or missing.
    Directory(Vec<(Vec<u8>, SavedIndex)>),
    /// A regular file.
    File(SavedContents),
    /// Target of a symbolic link.
    Symlink(Vec<u8>),
    /// FIFO, socket or device node: major and minor number.
    Special(u32, u32),
}

/// Where the contents of a regular file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SavedContents {
    /// In the image, in the content file of this name.
    Stored(String),
    /// In memory, to be had from [`Filesystem::read_saved`](super::Filesystem::read_saved). Only
    /// [`Filesystem::save`](super::Filesystem::save) says this.
    Changed,
    /// Here. What is missing up to the size is zeros, what is too much is ignored.
    Bytes(Vec<u8>),
    /// Here, but for holes that are too large: offsets, ascending, and what is there.
    Extents(Vec<(u64, Vec<u8>)>),
}

/// Why a session cannot be saved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveError {
    /// The file system served is not part of snapshots.
    #[error("This file system cannot be part of a snapshot")]
    Unsupported,
    /// The contents of a changed file cannot be read.
    #[error("Cannot read the changed file with inode {inode}: {error}")]
    Contents {
        /// Its number.
        inode: SavedIndex,
        /// Why.
        error: Errno,
    },
    /// There is no room for the contents of changed files.
    #[error("Changed files have more than {limit} bytes")]
    TooLarge {
        /// How much there is room for.
        limit: u64,
    },
    /// The host has no memory for them.
    #[error("There is no memory for {bytes} bytes of changed files")]
    Memory {
        /// How much would have been needed.
        bytes: u64,
    },
    /// Something else.
    #[error("Saving the files failed: {0}")]
    Other(Errno),
}

/// Why a saved session cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The file system served is not part of snapshots.
    #[error("This file system cannot be restored from a snapshot")]
    Unsupported,
    /// Inode 0 is missing or not a directory.
    #[error("The snapshot's file system has no root directory")]
    NoRoot,
    /// An inode is not as it must be.
    #[error("Inode {inode} of the snapshot's file system: {reason}")]
    Inode {
        /// Its number.
        inode: SavedIndex,
        /// What is wrong.
        reason: &'static str,
    },
    /// More of something than a guest can have made.
    #[error("The snapshot's file system has too many {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
    },
}

/// The node an inode number stands for.
pub fn node_of(inode: SavedIndex) -> NodeId {
    NodeId(u64::from(inode))
}
