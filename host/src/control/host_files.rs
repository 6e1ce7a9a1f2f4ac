//! Files made on the host from what a guest says: one name at a time, in directories that are open.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory in which something is made.
pub(super) struct Target(OwnedFd);

impl Target {
    /// One that the user named: links are followed.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, OPEN_DIRECTORY, Mode::empty())?))
    }

    /// Makes room for a file or link. A directory is not removed.
    fn clear(&self, name: &[u8]) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A new file, for the user only until [`finish`].
    pub(super) fn file(&self, name: &[u8]) -> io::Result<File> {
        one(name)?;
        self.clear(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// A new link.
    pub(super) fn link(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        one(name)?;
        self.clear(name)?;
        Ok(rustix::fs::symlinkat(target, &self.0, name)?)
    }

    /// A directory, which may be there already.
    pub(super) fn directory(&self, name: &[u8]) -> io::Result<Self> {
        one(name)?;
        match rustix::fs::mkdirat(&self.0, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(Self(rustix::fs::openat(&self.0, name, OPEN_DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?))
    }

    /// Gives it mode and time.
    pub(super) fn finish(&self, mode: u32, seconds: i64, nanos: u32) -> io::Result<()> {
        finish(&self.0, mode, seconds, nanos)
    }
}

/// Whether a name is one component.
fn one(name: &[u8]) -> io::Result<()> {
    let bad =
        name.is_empty() || matches!(name, b"." | b"..") || name.iter().any(|byte| matches!(byte, b'/' | 0));
    if bad { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
}

/// Gives an open file mode and time.
pub(super) fn finish(file: impl AsFd, mode: u32, seconds: i64, nanos: u32) -> io::Result<()> {
    rustix::fs::fchmod(&file, Mode::from_raw_mode((mode & 0o777) as _))?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.min(999_999_999).into() },
    };
    Ok(rustix::fs::futimens(&file, &times)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    #[test]
    fn names_that_lead_elsewhere_make_nothing() {
        let base = tempfile::tempdir().unwrap();
        let (inside, outside) = (base.path().join("inside"), base.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "untouched").unwrap();
        let target = Target::open(&inside).unwrap();
        for name in [&b""[..], b".", b"..", b"../outside/file", b"/etc/x", b"a/b", b"a\0b"] {
            assert!(target.file(name).is_err(), "{name:?}");
            assert!(target.link(name, b"x").is_err(), "{name:?}");
            assert!(target.directory(name).is_err(), "{name:?}");
        }
        // A link of the guest's, or the user's, is replaced and not followed.
        for link in ["dir", "file"] {
            symlink(outside.join(if link == "dir" { "" } else { link }), inside.join(link)).unwrap();
        }
        assert!(target.directory(b"dir").is_err());
        target.file(b"file").unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"untouched");
        assert_eq!(fs::read(inside.join("file")).unwrap(), b"new");
        target.file(b"dir").unwrap();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn modes_are_kept_without_set_user_id() {
        use std::os::unix::fs::PermissionsExt;
        let base = tempfile::tempdir().unwrap();
        let target = Target::open(base.path()).unwrap();
        let file = target.file(b"program").unwrap();
        finish(&file, 0o104_755, 86, 7).unwrap();
        let meta = fs::metadata(base.path().join("program")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o755);
        let modified = meta.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(modified, std::time::Duration::new(86, 7));
        // Directories that are there are filled, others than directories are in the way.
        target.directory(b"new").unwrap().finish(0o700, 0, 0).unwrap();
        target.directory(b"new").unwrap();
        assert!(target.directory(b"program").is_err());
        assert!(target.file(b"new").is_err());
    }
}
