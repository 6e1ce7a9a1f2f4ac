//! The host's system calls, one component at a time.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use emu_devices::p9::Errno;
use emu_devices::p9::fs::{Access, Attr, OpenFlags, Qid, SetTime, Time, mode};
use rustix::fs::{self, AtFlags, Mode, OFlags, Stat, Timespec, Timestamps};

/// Result of a file system operation.
pub(super) type Result<T> = std::result::Result<T, Errno>;

/// The host's error in the guest's numbers, which are Linux's too.
pub(super) fn errno(error: rustix::io::Errno) -> Errno {
    Errno(u32::try_from(error.raw_os_error()).unwrap_or(Errno::EIO.0))
}

/// Identity of an object of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl Key {
    pub(super) fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// Finds an object without opening it: neither its contents nor what a link points to.
pub(super) fn find(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(OwnedFd, Stat)> {
    let fd = fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let fd = fd.map_err(errno)?;
    let stat = stat(fd.as_fd())?;
    Ok((fd, stat))
}

/// Attributes of what a name stands for, without following it.
pub(super) fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Stat> {
    fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(errno)
}

/// Attributes.
pub(super) fn stat(fd: BorrowedFd<'_>) -> Result<Stat> {
    fs::fstat(fd).map_err(errno)
}

/// A path that stands for the object of a descriptor, whatever its name is now.
fn path_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Flags for opening, without those that a guest has no business with.
pub(super) fn open_flags(flags: OpenFlags) -> OFlags {
    let access = match flags.access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::WRONLY,
        Access::ReadWrite => OFlags::RDWR,
    };
    let truncate = if flags.truncate { OFlags::TRUNC } else { OFlags::empty() };
    // Others of the host may append to the same file.
    let append = if flags.append { OFlags::APPEND } else { OFlags::empty() };
    access | truncate | append | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK
}

/// Opens a regular file that was found.
pub(super) fn open_file(found: BorrowedFd<'_>, flags: OpenFlags) -> Result<OwnedFd> {
    fs::open(path_of(found), open_flags(flags), Mode::empty()).map_err(errno)
}

/// Opens a directory that was found, for listing.
pub(super) fn open_directory(found: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::openat(found, c".", flags, Mode::empty()).map_err(errno)
}

/// The directory above.
pub(super) fn find_parent(dir: BorrowedFd<'_>) -> Result<Key> {
    fs::statat(dir, c"..", AtFlags::SYMLINK_NOFOLLOW).map(|stat| Key::of(&stat)).map_err(errno)
}

/// Makes a regular file and opens it.
pub(super) fn create(dir: BorrowedFd<'_>, name: &[u8], flags: OpenFlags) -> Result<OwnedFd> {
    let flags = open_flags(flags) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(errno)
}

/// Makes a directory and opens it.
pub(super) fn make_directory(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    fs::mkdirat(dir, name, Mode::RWXU).map_err(errno)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, name, flags, Mode::empty()).map_err(errno)
}

/// Sets permissions of an object opened for reading or writing.
pub(super) fn set_permissions_of(open: BorrowedFd<'_>, permissions: u32) -> Result<()> {
    fs::fchmod(open, Mode::from_raw_mode(permissions)).map_err(errno)
}

/// Sets permissions of an object that was found.
pub(super) fn set_permissions(found: BorrowedFd<'_>, permissions: u32) -> Result<()> {
    fs::chmod(path_of(found), Mode::from_raw_mode(permissions)).map_err(errno)
}

/// Sets the owner of an object that was found.
pub(super) fn set_owner(found: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let uid = uid.map(fs::Uid::from_raw);
    let gid = gid.map(fs::Gid::from_raw);
    fs::chownat(found, c"", uid, gid, AtFlags::EMPTY_PATH).map_err(errno)
}

/// Sets the times of an object that was found.
pub(super) fn set_times(found: BorrowedFd<'_>, atime: Option<SetTime>, mtime: Option<SetTime>) -> Result<()> {
    let time = |time: Option<SetTime>| match time {
        None => Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW },
        Some(SetTime::To(time)) => Timespec { tv_sec: time.sec, tv_nsec: time.nsec.min(999_999_999).into() },
    };
    let times = Timestamps { last_access: time(atime), last_modification: time(mtime) };
    // A link's descriptor stands for the link: nothing is followed beyond it.
    fs::utimensat(fs::CWD, path_of(found), &times, AtFlags::empty()).map_err(errno)
}

/// Gives an object that was found another name.
pub(super) fn link(found: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    fs::linkat(fs::CWD, path_of(found), dir, name, AtFlags::SYMLINK_FOLLOW).map_err(errno)
}

/// Target of a symbolic link that was found.
pub(super) fn read_link(found: BorrowedFd<'_>) -> Result<Vec<u8>> {
    fs::readlinkat(found, c"", Vec::new()).map(std::ffi::CString::into_bytes).map_err(errno)
}

/// What the guest sees of an object. `own` maps users and groups.
#[allow(clippy::unnecessary_cast, reason = "the types of the fields depend on the host's architecture")]
pub(super) fn attr(stat: &Stat, qid: Qid, own: impl Fn(u32, u32) -> (u32, u32)) -> Attr {
    let (uid, gid) = own(stat.st_uid, stat.st_gid);
    let time = |sec: i64, nsec: u64| Time { sec, nsec: u32::try_from(nsec).unwrap_or(0).min(999_999_999) };
    let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
    Attr {
        qid,
        mode: stat.st_mode,
        uid,
        gid,
        nlink: stat.st_nlink as u64,
        rdev: match stat.st_mode & mode::TYPE {
            mode::CHAR_DEVICE | mode::BLOCK_DEVICE => (fs::major(stat.st_rdev), fs::minor(stat.st_rdev)),
            _ => (0, 0),
        },
        size: unsigned(stat.st_size),
        blksize: 4096,
        blocks: unsigned(stat.st_blocks),
        atime: time(stat.st_atime, stat.st_atime_nsec as u64),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec as u64),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec as u64),
        btime: None,
        generation: 0,
    }
}
