//! Replacing a file so that it is, at any moment and whatever happens, the old one or the new one.
//!
//! The new content goes to a temporary file in the same directory, which is written to the disk, renamed,
//! and then the directory is written to the disk. The temporary file is locked while its process lives;
//! [`sweep`] removes those that nobody holds a lock on, which processes left that were killed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// End of a temporary file's name.
const SUFFIX: &str = ".env86-tmp";

/// A file that takes another one's place when it is complete. Removed when dropped before.
#[derive(Debug)]
pub struct Replacement {
    target: PathBuf,
    path: PathBuf,
    file: Option<File>,
}

impl Replacement {
    /// An empty file that can take the place of `target`.
    ///
    /// # Errors
    /// The host's.
    pub fn create(target: &Path) -> io::Result<Self> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let directory = directory_of(target);
        // More than one try is needed only if somebody sweeps at the wrong moment.
        for _ in 0..100 {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
            let mut temporary = OsString::from(".");
            temporary.push(name);
            temporary.push(format!(".{:016x}{SUFFIX}", u64::from_le_bytes(random)));
            let path = directory.join(temporary);
            let file = match open_new(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            // Where there are no locks, nobody sweeps either.
            if lock(&file).unwrap_or(true) && !is_gone(&file) {
                return Ok(Self { target: target.to_owned(), path, file: Some(file) });
            }
        }
        Err(io::Error::other("the temporary file disappears"))
    }

    /// The new file.
    ///
    /// # Errors
    /// None before [`Replacement::commit`].
    pub fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Puts the new file, which is complete, in place of the old one. The old one's permissions stay.
    ///
    /// # Errors
    /// The host's; the old file is still there then, unless only the very last step failed: that the
    /// directory is on the disk.
    pub fn commit(mut self) -> io::Result<()> {
        let file = self.file.take().ok_or(io::ErrorKind::NotFound)?;
        if let Ok(old) = fs::metadata(&self.target) {
            // A file system without permissions is no reason to fail.
            let _ = file.set_permissions(old.permissions());
        }
        let renamed = file.sync_all().and_then(|()| {
            // Windows renames only what nobody has open.
            let _open = cfg!(unix).then_some(file);
            fs::rename(&self.path, &self.target)
        });
        if let Err(error) = renamed {
            let _ = fs::remove_file(&self.path);
            return Err(error);
        }
        sync_directory(directory_of(&self.target))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes the names in a directory to the disk.
///
/// # Errors
/// The host's.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

/// Directory that a file is in.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Removes temporary files that dead processes left in `directory`: those for `target`, or for any file.
/// Errors are nobody's concern here: such files are in nobody's way.
pub fn sweep(directory: &Path, target: Option<&OsStr>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if !is_temporary(&entry.file_name(), target) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(file) = open_to_check(&entry.path()) else { continue };
        if lock(&file).unwrap_or(false) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_temporary(name: &OsStr, target: Option<&OsStr>) -> bool {
    let rest = name.as_encoded_bytes().strip_prefix(b".").and_then(|n| n.strip_suffix(SUFFIX.as_bytes()));
    let Some((of, [b'.', random @ ..])) =
        rest.and_then(|rest| rest.split_at_checked(rest.len().checked_sub(17)?))
    else {
        return false;
    };
    let of_target = target.is_none_or(|target| target.as_encoded_bytes() == of);
    of_target && random.iter().all(u8::is_ascii_hexdigit)
}

#[cfg(unix)]
fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

#[cfg(unix)]
fn open_to_check(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Takes the lock; false if somebody else has it.
#[cfg(unix)]
fn lock(file: &File) -> io::Result<bool> {
    use rustix::fs::{FlockOperation, flock};
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// True if the file has no name any more.
#[cfg(unix)]
fn is_gone(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|meta| meta.nlink() == 0)
}

/// Nobody else may open the file: that is the lock.
#[cfg(windows)]
fn open_new(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    OpenOptions::new().read(true).write(true).create_new(true).share_mode(0).open(path)
}

#[cfg(windows)]
fn open_to_check(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    const FILE_SHARE_DELETE: u32 = 4;
    OpenOptions::new().read(true).write(true).share_mode(FILE_SHARE_DELETE).open(path)
}

#[cfg(windows)]
fn lock(_: &File) -> io::Result<bool> {
    Ok(true)
}

#[cfg(windows)]
fn is_gone(_: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replacement_committed_is_the_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("state");
        for content in ["first", "second"] {
            let new = Replacement::create(&target).unwrap();
            new.file().unwrap().write_all(content.as_bytes()).unwrap();
            assert_eq!(names(dir.path()).len(), if content == "first" { 1 } else { 2 });
            new.commit().unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
            assert_eq!(names(dir.path()), ["state"]);
        }
    }

    #[test]
    fn replacement_dropped_or_refused_leaves_the_old_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("state");
        fs::write(&target, "old").unwrap();
        let new = Replacement::create(&target).unwrap();
        new.file().unwrap().write_all(b"new").unwrap();
        drop(new);
        assert_eq!(
            (names(dir.path()), fs::read_to_string(&target).unwrap()),
            (vec!["state".into()], "old".into())
        );
        // A directory in its place cannot be replaced.
        let target = dir.path().join("dir");
        fs::create_dir(&target).unwrap();
        Replacement::create(&target).unwrap().commit().unwrap_err();
        assert_eq!(names(dir.path()), ["dir", "state"]);
        assert!(Replacement::create(&dir.path().join("missing/state")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn replacement_keeps_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("state");
        fs::write(&target, "old").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
        Replacement::create(&target).unwrap().commit().unwrap();
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn sweep_removes_what_the_dead_left_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let kept = ["state", ".state.env86-tmp", ".state.12.env86-tmp", ".state.0123456789abcdeg.env86-tmp"];
        for name in kept {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let dead = ".other.0123456789abcdef.env86-tmp";
        fs::write(dir.path().join(dead), "x").unwrap();
        fs::create_dir(dir.path().join(".dir.0123456789abcdef.env86-tmp")).unwrap();
        let live = Replacement::create(&dir.path().join("state")).unwrap();
        let before = names(dir.path());
        sweep(dir.path(), Some(OsStr::new("state")));
        assert_eq!(names(dir.path()), before);
        sweep(dir.path(), None);
        let expected: Vec<_> = before.into_iter().filter(|name| name != dead).collect();
        assert_eq!(names(dir.path()), expected);
        live.commit().unwrap();
    }
}
