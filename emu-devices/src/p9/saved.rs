//! A session and its file system as snapshots hold them.
//!
//! These are plain tables, close to the arrays in v86's snapshots, which are translated elsewhere
//! (the fid table and `SavedTree` are slot 45). They hold no handles: fids opened in the snapshot
//! are opened again at their first use.
//!
//! Names and link targets are bytes. Where a format has only Unicode strings, a byte *b* that is not
//! part of UTF-8 is to be written as the lone surrogate U+DC00+*b*, as Python does, and read back.
//!
//! Numbers and names are the guest's choice as they were when saved, and may be anything when
//! they come out of a file: [`Filesystem::restore`](super::Filesystem::restore) and
//! [`Server::restore`](super::Server::restore) check them.

use super::fs::{NodeId, Time};

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
    /// Name it was last walked to by; information only.
    pub name: Vec<u8>,
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
    /// When saving: in memory, to be had from
    /// [`Filesystem::read_saved`](super::Filesystem::read_saved).
    Changed,
    /// When restoring: here. What is missing up to the size is zeros, what is too much is ignored.
    Bytes(Vec<u8>),
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
