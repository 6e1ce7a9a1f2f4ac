//! What a file system has to offer to be served over 9P.
//!
//! Objects are named by [`NodeId`]s, not by paths: a node stays the same object when it is
//! renamed, and stays usable when its last name goes. Whoever holds a `NodeId` holds a
//! *reference*: every [`Entry`] returned carries one, [`Filesystem::acquire`] adds one and
//! [`Filesystem::forget`] gives one back. A node without names, references and open handles is
//! gone, and its number may be used again.
//!
//! The server has checked names before they get here: one component, 1 to 255 bytes, not `.` or
//! `..`, without `/` and NUL. They need not be UTF-8. It has not checked permissions; nobody does.

use super::errno::Errno;
use super::saved::{RestoreError, SavedTree};

/// Result of a file system operation.
pub type Result<T> = std::result::Result<T, Errno>;

/// An object (file, directory, link, …) of one file system. Valid while referenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// An opened node, between [`Filesystem::open`] and [`Filesystem::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// The server's unique identification of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qid {
    /// [`Qid::DIRECTORY`], [`Qid::SYMLINK`] or 0.
    pub kind: u8,
    /// Changes when a caching client has to throw away what it knows. Linux takes a changed
    /// version for a different file when it looks up a second name of a file it has in use, so a
    /// tree that nobody else changes keeps it constant.
    pub version: u32,
    /// Never the same for two objects, not even one after the other. The guest's inode number.
    pub path: u64,
}

impl Qid {
    /// Directory (QTDIR).
    pub const DIRECTORY: u8 = 0x80;
    /// Symbolic link (QTSYMLINK).
    pub const SYMLINK: u8 = 0x02;

    /// Qid type of an object with this mode.
    pub fn kind_of(mode: u32) -> u8 {
        match mode & mode::TYPE {
            mode::DIRECTORY => Self::DIRECTORY,
            mode::SYMLINK => Self::SYMLINK,
            _ => 0,
        }
    }
}

/// Bits of a file mode (`st_mode`).
pub mod mode {
    /// The bits that say what an object is (S_IFMT).
    pub const TYPE: u32 = 0o170000;
    /// FIFO (S_IFIFO).
    pub const FIFO: u32 = 0o010000;
    /// Character device (S_IFCHR).
    pub const CHAR_DEVICE: u32 = 0o020000;
    /// Directory (S_IFDIR).
    pub const DIRECTORY: u32 = 0o040000;
    /// Block device (S_IFBLK).
    pub const BLOCK_DEVICE: u32 = 0o060000;
    /// Regular file (S_IFREG).
    pub const REGULAR: u32 = 0o100000;
    /// Symbolic link (S_IFLNK).
    pub const SYMLINK: u32 = 0o120000;
    /// Socket (S_IFSOCK).
    pub const SOCKET: u32 = 0o140000;
    /// Everything that chmod changes: permissions, set-uid, set-gid, sticky.
    pub const PERMISSIONS: u32 = 0o7777;
}

/// A node found or made, with one reference for the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node.
    pub node: NodeId,
    /// Its identification.
    pub qid: Qid,
}

/// A point in calendar time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970-01-01 UTC.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

/// Attributes of a node (`struct stat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Identification.
    pub qid: Qid,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names (directories: 2 + sub-directories).
    pub nlink: u64,
    /// Device number (major, minor) of device nodes.
    pub rdev: (u32, u32),
    /// Size in bytes.
    pub size: u64,
    /// Preferred size of reads and writes in bytes.
    pub blksize: u64,
    /// Space used, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Creation, if the file system knows it.
    pub btime: Option<Time>,
    /// Differs between objects with the same `qid.path`; 0 where there are none such.
    pub generation: u64,
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the operation.
    Now,
    /// This time.
    To(Time),
}

/// Attributes to be changed; `None` leaves one alone. All or none are changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// New permission bits ([`mode::PERMISSIONS`]).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size: cut off, or filled up with zeros.
    pub size: Option<u64>,
    /// New time of last access.
    pub atime: Option<SetTime>,
    /// New time of last change.
    pub mtime: Option<SetTime>,
}

/// Which way data may flow through a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// O_RDONLY.
    Read,
    /// O_WRONLY.
    Write,
    /// O_RDWR.
    ReadWrite,
}

impl Access {
    /// True if reads are allowed.
    pub fn can_read(self) -> bool {
        self != Access::Write
    }

    /// True if writes are allowed.
    pub fn can_write(self) -> bool {
        self != Access::Read
    }
}

/// How a node is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlags {
    /// Direction.
    pub access: Access,
    /// Cut a regular file to size 0 (O_TRUNC). Only with write access.
    pub truncate: bool,
    /// Fail with ENOTDIR if it is not a directory (O_DIRECTORY).
    pub directory: bool,
    /// Write at the file's end, wherever that is then (O_APPEND). The server sees to it among its clients; others
    /// may change the file too.
    pub append: bool,
}

/// Owner of an object to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User of the attach; `None` if the client did not say.
    pub uid: Option<u32>,
    /// Group given in the request.
    pub gid: u32,
}

/// One entry of a directory listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Identification.
    pub qid: Qid,
    /// Give this to [`Filesystem::readdir`] to go on behind this entry. Never 0.
    pub cookie: u64,
    /// Mode; only the type bits matter.
    pub mode: u32,
    /// Name; `.` and `..` come first.
    pub name: &'a [u8],
}

/// Totals of the file system (`struct statfs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Magic number of the type.
    pub kind: u32,
    /// Block size in bytes.
    pub bsize: u32,
    /// Size in blocks.
    pub blocks: u64,
    /// Blocks not in use.
    pub bfree: u64,
    /// Blocks that can be used.
    pub bavail: u64,
    /// Objects.
    pub files: u64,
    /// Objects that can be made.
    pub ffree: u64,
    /// Identification.
    pub fsid: u64,
    /// Longest name in bytes.
    pub namelen: u32,
}

/// A file system that can be served.
///
/// Methods that are given a `NodeId` that is not a directory where one is needed answer ENOTDIR.
/// Implementations must not fail on anything a guest can send: every argument is hostile, except
/// that nodes are referenced and handles open.
pub trait Filesystem: Send {
    /// The root directory.
    fn root(&mut self) -> Result<Entry>;

    /// Adds a reference.
    fn acquire(&mut self, node: NodeId);

    /// Gives a reference back.
    fn forget(&mut self, node: NodeId);

    /// The object called `name` in `dir`; symbolic links are not followed.
    fn lookup(&mut self, dir: NodeId, name: &[u8]) -> Result<Entry>;

    /// The directory above `dir`; the root is above itself.
    fn parent(&mut self, dir: NodeId) -> Result<Entry>;

    /// Attributes.
    fn getattr(&mut self, node: NodeId) -> Result<Attr>;

    /// Changes attributes. A change of anything sets ctime.
    fn setattr(&mut self, node: NodeId, set: &SetAttr) -> Result<()>;

    /// Target of a symbolic link; EINVAL for anything else.
    fn readlink(&mut self, node: NodeId) -> Result<Vec<u8>>;

    /// Opens a regular file or a directory. Symbolic links give ELOOP, special files ENXIO,
    /// directories to be written EISDIR.
    fn open(&mut self, node: NodeId, flags: OpenFlags) -> Result<Handle>;

    /// Closes.
    fn release(&mut self, handle: Handle);

    /// Makes a regular file and opens it. EEXIST if the name is taken.
    fn create(
        &mut self,
        dir: NodeId,
        name: &[u8],
        permissions: u32,
        owner: Owner,
        flags: OpenFlags,
    ) -> Result<(Entry, Handle)>;

    /// Makes a directory. EEXIST if the name is taken.
    fn mkdir(&mut self, dir: NodeId, name: &[u8], permissions: u32, owner: Owner) -> Result<Qid>;

    /// Makes a symbolic link. The target is stored as it is. EEXIST if the name is taken.
    fn symlink(&mut self, dir: NodeId, name: &[u8], target: &[u8], owner: Owner) -> Result<Qid>;

    /// Makes an object of the type in `mode`: an empty regular file, FIFO, socket or device node.
    /// EEXIST if the name is taken.
    fn mknod(&mut self, dir: NodeId, name: &[u8], mode: u32, rdev: (u32, u32), owner: Owner) -> Result<Qid>;

    /// Gives `node` another name. EPERM for directories, EEXIST if the name is taken.
    fn link(&mut self, node: NodeId, dir: NodeId, name: &[u8]) -> Result<()>;

    /// Removes the name of anything but a directory (EISDIR).
    fn unlink(&mut self, dir: NodeId, name: &[u8]) -> Result<()>;

    /// Removes an empty directory.
    fn rmdir(&mut self, dir: NodeId, name: &[u8]) -> Result<()>;

    /// Renames as rename(2): an existing target is replaced if it is of the same sort (ENOTDIR,
    /// EISDIR) and, as a directory, empty (ENOTEMPTY). EINVAL if a directory would get into itself.
    fn rename(&mut self, from: NodeId, old: &[u8], to: NodeId, new: &[u8]) -> Result<()>;

    /// Reads from a file; returns the number of bytes, less than asked for only at the end.
    fn read(&mut self, handle: Handle, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Writes to a file, growing it as needed; returns the number of bytes.
    fn write(&mut self, handle: Handle, offset: u64, data: &[u8]) -> Result<usize>;

    /// Makes what was written permanent.
    fn fsync(&mut self, handle: Handle, datasync: bool) -> Result<()>;

    /// Lists a directory from behind `cookie` (0 = from the start) until `emit` returns false,
    /// which means that it had no use for that entry. Entries that exist all the time are given
    /// exactly once, whatever is made and removed meanwhile.
    fn readdir(
        &mut self,
        handle: Handle,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()>;

    /// Totals.
    fn statfs(&mut self) -> Result<StatFs>;

    /// Where the listing of an open directory ends: names made later are left out of it. Snapshots hold
    /// this; the number means something only to the file system.
    fn listing_end(&mut self, _handle: Handle) -> u64 {
        0
    }

    /// Makes the listing of an open directory end where [`Filesystem::listing_end`] of the saved one did.
    fn set_listing_end(&mut self, _handle: Handle, _end: u64) {}

    /// The tree as snapshots hold it; contents of changed files are then fetched with
    /// [`Filesystem::read_saved`]. Inode *n* of the result is `NodeId(n)`. EOPNOTSUPP if this file
    /// system is not part of snapshots.
    fn save(&mut self) -> Result<SavedTree> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Contents of a file that [`Filesystem::save`] reported as changed. Fills `buf`.
    fn read_saved(&mut self, _node: NodeId, _offset: u64, _buf: &mut [u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Where such a file has contents, ascending: offset, length. Elsewhere it has holes.
    fn saved_extents(&mut self, node: NodeId) -> Result<Vec<(u64, u64)>> {
        Ok(vec![(0, self.getattr(node)?.size)])
    }

    /// Replaces the whole tree. Inode *n* becomes `NodeId(n)`. No reference or handle may be held.
    /// Nodes without a name are kept only if `referenced` says so. On an error nothing has changed.
    fn restore(
        &mut self,
        _tree: SavedTree,
        _referenced: &dyn Fn(NodeId) -> bool,
    ) -> std::result::Result<(), RestoreError> {
        Err(RestoreError::Unsupported)
    }
}
