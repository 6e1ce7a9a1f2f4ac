//! The socket of a machine, from before it is built until it ends.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use super::ControlError;
use super::names::{Directory, Name};

/// A name that this process has, with its socket. Dropping it gives both back.
#[derive(Debug)]
pub struct Endpoint {
    directory: Directory,
    name: Name,
    listener: UnixListener,
    /// Device and inode of the socket.
    identity: (u64, u64),
}

impl Endpoint {
    /// Takes a name. Clients wait from then on.
    ///
    /// # Errors
    /// A machine has it; the directory is not usable.
    pub fn claim(directory: &Directory, name: &Name) -> Result<Self, ControlError> {
        let _lock = directory.lock()?;
        if directory.connect_locked(name)?.is_some() {
            return Err(ControlError::Taken(name.as_str().to_owned()));
        }
        let path = directory.socket(name);
        let failed = |source| ControlError::Host { path: path.clone(), source };
        let listener = UnixListener::bind(&path).map_err(failed)?;
        // Nobody else gets into the directory meanwhile.
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        let meta = fs::symlink_metadata(&path).map_err(failed)?;
        let identity = (meta.dev(), meta.ino());
        Ok(Self { directory: directory.clone(), name: name.clone(), listener, identity })
    }

    /// The name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Where clients connect.
    pub(super) fn listener(&self) -> std::io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let Ok(_lock) = self.directory.lock() else { return };
        let meta = fs::symlink_metadata(self.directory.socket(&self.name));
        // Somebody may have removed it and started another one.
        if meta.is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity) {
            self.directory.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_once_and_given_back() {
        let base = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let directory = Directory::at(base.path().join("env86"), uid).unwrap();
        let name = Name::new("one").unwrap();
        assert!(directory.connect(&name).unwrap().is_none());
        let endpoint = Endpoint::claim(&directory, &name).unwrap();
        let socket = directory.socket(&name);
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Endpoint::claim(&directory, &name), Err(ControlError::Taken(_))));
        assert!(directory.connect(&name).unwrap().is_some());
        fs::write(directory.log(&name), "output").unwrap();
        drop(endpoint);
        assert!(directory.connect(&name).unwrap().is_none());
        assert!(!socket.exists() && !directory.log(&name).exists());
        assert_eq!(directory.names().unwrap(), []);
    }

    #[test]
    fn socket_of_a_machine_that_has_died_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let directory = Directory::at(base.path().join("env86"), uid).unwrap();
        let (one, two) = (Name::new("one").unwrap(), Name::new("two").unwrap());
        for name in [&one, &two] {
            // The standard library leaves the file behind, as a process that is killed does.
            drop(UnixListener::bind(directory.socket(name)).unwrap());
        }
        assert_eq!(directory.names().unwrap(), [one.clone(), two.clone()]);
        assert!(directory.connect(&one).unwrap().is_none());
        assert!(!directory.socket(&one).exists());
        let endpoint = Endpoint::claim(&directory, &two).unwrap();
        assert_eq!(directory.names().unwrap(), [two]);
        drop(endpoint);
    }
}
