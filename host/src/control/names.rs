//! Names of machines, and where their sockets are.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::ControlError;
use crate::clock::Random;

/// Longest name in bytes. Addresses of sockets have about a hundred.
pub const LONGEST: usize = 48;

const SOCKET: &str = "sock";
const LOG: &str = "log";

/// A name that a machine can have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// It is none.
    pub fn new(text: &str) -> Result<Self, ControlError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if first && text.len() <= LONGEST && text.bytes().all(good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ControlError::BadName(text.to_owned()))
        }
    }

    /// A name for a machine of this image that nobody has named.
    pub fn invent(image: &Path) -> Self {
        let stem = image.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let stem: String = stem.chars().filter(char::is_ascii_alphanumeric).take(20).collect();
        let stem = if stem.is_empty() { "vm".to_owned() } else { stem };
        let number =
            Random::system().map(|mut random| random.next_u32()).unwrap_or_else(|_| std::process::id());
        Self(format!("{stem}-{:06x}", number & 0xff_ffff))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory with the sockets of this user's machines.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// `$XDG_RUNTIME_DIR/env86`, else `/tmp/env86-UID`. Made if it is not there; refused if it belongs to
    /// somebody else, or lets somebody else in.
    ///
    /// # Errors
    /// It cannot be made or is not ours alone.
    pub fn open() -> Result<Self, ControlError> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let uid = rustix::process::geteuid().as_raw();
        let path = match runtime.filter(|path| path.is_absolute() && path.is_dir()) {
            Some(path) => path.join("env86"),
            None => PathBuf::from(format!("/tmp/env86-{uid}")),
        };
        Self::at(path, uid)
    }

    /// That directory, for the user with this number.
    pub(super) fn at(path: PathBuf, uid: u32) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Host { path: path.clone(), source };
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let meta = fs::symlink_metadata(&path).map_err(failed)?;
        let why = match () {
            () if !meta.is_dir() => "it is no directory",
            () if meta.uid() != uid => "it belongs to another user",
            () if meta.mode() & 0o077 != 0 => "others may use it too (its mode has to be 0700)",
            () => return Ok(Self(path)),
        };
        Err(ControlError::Unsafe { path, why })
    }

    /// Where the socket of a machine is.
    pub fn socket(&self, name: &Name) -> PathBuf {
        self.0.join(format!("{name}.{SOCKET}"))
    }

    /// Where the output of a machine in the background goes.
    pub fn log(&self, name: &Name) -> PathBuf {
        self.0.join(format!("{name}.{LOG}"))
    }

    /// Held by whoever makes or removes a socket, so that nobody removes one that has just been made.
    ///
    /// # Errors
    /// The host's.
    pub fn lock(&self) -> Result<File, ControlError> {
        let failed = |source| ControlError::Host { path: self.0.clone(), source };
        let file = File::open(&self.0).map_err(failed)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        Ok(file)
    }

    /// Connects to a machine. `None` if there is none with this name; what it has left is removed then.
    ///
    /// # Errors
    /// The host's.
    pub fn connect(&self, name: &Name) -> Result<Option<UnixStream>, ControlError> {
        match self.try_connect(name)? {
            Some(stream) => Ok(Some(stream)),
            None => {
                let _lock = self.lock()?;
                self.connect_locked(name)
            }
        }
    }

    /// The same for one who has the lock.
    pub(super) fn connect_locked(&self, name: &Name) -> Result<Option<UnixStream>, ControlError> {
        let stream = self.try_connect(name)?;
        if stream.is_none() {
            self.remove(name);
        }
        Ok(stream)
    }

    fn try_connect(&self, name: &Name) -> Result<Option<UnixStream>, ControlError> {
        let path = self.socket(name);
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(ControlError::Host { path, source: error }),
            },
        }
    }

    /// Removes what belongs to a name, for one who has the lock.
    pub(super) fn remove(&self, name: &Name) {
        // What cannot be removed is found to be nobody's again by the next one.
        let _ = fs::remove_file(self.socket(name));
        let _ = fs::remove_file(self.log(name));
    }

    /// Names of machines, among them those of which only the socket is left.
    ///
    /// # Errors
    /// The host's.
    pub fn names(&self) -> Result<Vec<Name>, ControlError> {
        let failed = |source| ControlError::Host { path: self.0.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let file = PathBuf::from(entry.map_err(failed)?.file_name());
            if file.extension().is_some_and(|end| end == SOCKET)
                && let Some(name) = file.file_stem().and_then(|stem| stem.to_str())
            {
                names.extend(Name::new(name));
            }
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn names_are_file_names_and_flags_are_none() {
        for good in ["a", "web-1", "A.b_c", "0", &"x".repeat(LONGEST)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", ".a", "a/b", "a b", "ä", "a\0", &"x".repeat(LONGEST + 1)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        let invented = Name::invent(Path::new("/images/my image.tgz"));
        assert!(invented.as_str().starts_with("myimage-"), "{invented}");
        assert_eq!(Name::new(invented.as_str()).unwrap(), invented);
        assert!(Name::new(Name::invent(Path::new("/")).as_str()).is_ok());
    }

    #[test]
    fn directory_of_somebody_else_or_open_to_others_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let path = base.path().join("env86");
        Directory::at(path.clone(), uid).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(Directory::at(path.clone(), uid + 1), Err(ControlError::Unsafe { .. })));
        let link = base.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(Directory::at(link, uid), Err(ControlError::Unsafe { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(Directory::at(path, uid), Err(ControlError::Unsafe { .. })));
    }
}
