//! Overlays whose writes are kept in a directory of the host.
//!
//! Two directories are shown as one: the *lower* one, which is only read, and the *upper* one, which has what
//! the guest changed. Both are reached as every share is ([`super::server`]): one name at a time, no link
//! followed, nothing outside.
//!
//! | module | what |
//! | --- | --- |
//! | [`table`] | the objects the guest knows, each with its part in either directory |
//! | [`change`] | copies from the lower to the upper directory, whiteouts |
//! | `files` | [`emu_devices::p9::Filesystem`] over them |
//!
//! The upper directory is laid out as a layer of an OCI image is, so that other programs can read and make
//! it: a file or directory `NAME` in it hides a file `NAME` below; directories in both are merged; an empty
//! file `.wh.NAME` hides what is called `NAME` below, also if there is a `NAME` beside it; `.wh..wh..opq` in a
//! directory hides everything below. Names that begin with `.wh.` therefore do not exist for the guest.
//!
//! A file is copied when it is opened for writing, or its attributes, its name or its number of links
//! change; it appears under its name when the copy is complete, so that a run that is killed leaves no half
//! of one. A directory of the lower one cannot be renamed (EXDEV, on which `mv` copies it), and a copy of one
//! of several hard links is a file of its own.

mod change;
mod files;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use emu_devices::p9::fs::{Filesystem, Handle, NodeId};
use rustix::fs::{Access, AtFlags, FlockOperation, Mode as FileMode, OFlags};

use super::server::Shares;
use super::spec::{Mode, Spec};
use super::sys::Key;
use super::{ShareError, TAG};
use crate::limits;
use table::{Parts, Table};

/// What names for the overlay's own use begin with.
const RESERVED: &[u8] = b".wh.";

/// In a directory: nothing below it is seen.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A copy that is not complete.
const COPY: &[u8] = b".wh..wh.copy";

/// Something open.
struct Open {
    node: NodeId,
    /// The part that is open: `None` for directories in both.
    inner: Option<Handle>,
    /// It is the lower part.
    lower: bool,
    /// Names of a directory in both, as they were when the listing began.
    listing: Option<Vec<files::Listed>>,
}

/// Two directories as one.
pub(super) struct Union {
    /// Both directories: "0" is the upper one.
    files: Shares,
    table: Table,
    root: NodeId,
    handles: HashMap<Handle, Open>,
    next_handle: u64,
    /// Names in listings.
    listed: usize,
    /// Keeps others from using the upper directory.
    _lock: OwnedFd,
}

impl Union {
    /// Shows `spec`'s directory with changes kept in `upper`, which is made if it is not there.
    pub(super) fn open(spec: &Spec, upper: &Path) -> Result<Self, ShareError> {
        let failed = |source| ShareError::Writes { path: upper.to_owned(), source };
        match std::fs::create_dir(upper) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let part = |host: &Path, mode| Spec { host: host.to_owned(), guest: format!("/{TAG}"), mode };
        let mut files = Shares::open(&[part(upper, Mode::ReadWrite), part(&spec.host, Mode::ReadOnly)])?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(upper, flags, FileMode::empty()).map_err(|errno| failed(errno.into()))?;
        let wanted = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(&lock, c".", wanted, AtFlags::EACCESS).map_err(|errno| failed(errno.into()))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            let busy = errno == rustix::io::Errno::WOULDBLOCK;
            if busy { ShareError::Busy { path: upper.to_owned() } } else { failed(errno.into()) }
        })?;
        let lower = rustix::fs::open(&spec.host, flags, FileMode::empty())
            .map_err(|errno| ShareError::Open { path: spec.host.clone(), source: errno.into() })?;
        if inside(&lock, &lower).map_err(failed)? || inside(&lower, &lock).map_err(failed)? {
            return Err(ShareError::Nested { lower: spec.host.clone(), upper: upper.to_owned() });
        }
        let told = |error: emu_devices::p9::Errno| {
            failed(io::Error::from_raw_os_error(i32::try_from(error.0).unwrap_or(0)))
        };
        let top = files.root().map_err(told)?.node;
        let upper = files.lookup(top, b"0").map_err(told)?;
        let lower = files.lookup(top, b"1").map_err(told)?;
        let parts = Parts { lower: Some(lower.node), upper: Some(upper.node), qid: lower.qid };
        let mut table = Table::default();
        let root = table.insert(None, parts);
        Ok(Self { files, table, root, handles: HashMap::new(), next_handle: 1, listed: 0, _lock: lock })
    }
}

/// Whether `dir` is `other` or inside it.
fn inside(dir: &OwnedFd, other: &OwnedFd) -> io::Result<bool> {
    let key = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| Key::of(&stat));
    let wanted = key(other)?;
    let mut at = dir.try_clone()?;
    for _ in 0..limits::MAX_SHARE_DEPTH {
        let here = key(&at)?;
        if here == wanted {
            return Ok(true);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = rustix::fs::openat(at.as_fd(), c"..", flags, FileMode::empty())?;
        if key(&above)? == here {
            return Ok(false);
        }
        at = above;
    }
    Err(rustix::io::Errno::NAMETOOLONG.into())
}

/// Whether a name is the overlay's own.
fn reserved(name: &[u8]) -> bool {
    name.starts_with(RESERVED)
}

/// The name that hides `name`.
fn whiteout(name: &[u8]) -> Vec<u8> {
    [RESERVED, name].concat()
}
