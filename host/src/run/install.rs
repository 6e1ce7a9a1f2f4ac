//! The guest service, put into the tree of a guest that boots without one. The image stays as it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use emu_devices::p9::Errno;
use emu_devices::p9::fs::{Access, Filesystem, NodeId, OpenFlags, Owner, mode};

use crate::paths;

/// The service, if it was there when this was built.
static BUILT_IN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest86"));

/// Name of the program.
const NAME: &str = "guest86";

/// Where it goes.
const DIRECTORY: &str = "bin";

/// Links followed on the way to that directory (`/bin` is one to `usr/bin` today).
const LINKS: usize = 8;

/// Largest service in bytes.
const LARGEST: u64 = 64 << 20;

/// Why the service is not in the guest.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is none to be put there.
    #[error("Cannot install the guest service: there is none")]
    Missing,
    /// The file cannot be read.
    #[error("Cannot install the guest service: {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The guest's tree does not take it.
    #[error("Cannot install the guest service in the guest's /bin: error {}", .0.0)]
    Tree(Errno),
}

impl InstallError {
    /// What the user can try.
    pub fn hint(&self) -> Option<String> {
        matches!(self, Self::Missing).then(|| {
            "put the program guest86 beside env86 or into the home directory of env86 (~/.env86)".to_owned()
        })
    }
}

/// The service: a file beside this program or in the home directory, else the one built in. A file that is no
/// program for the guest's processor (a build directory has one for the host) is passed over.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn find() -> Result<Vec<u8>, InstallError> {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join(NAME)));
    let candidates = [beside, paths::home().map(|home| home.join(NAME))];
    for path in candidates.into_iter().flatten().filter(|path| path.is_file()) {
        let program = read(&path).map_err(|source| InstallError::Read { path, source })?;
        if is_i386(&program) {
            return Ok(program);
        }
    }
    if BUILT_IN.is_empty() { Err(InstallError::Missing) } else { Ok(BUILT_IN.to_vec()) }
}

/// A 32-bit ELF file for the 80386 (ELF specification, e_ident and e_machine).
fn is_i386(program: &[u8]) -> bool {
    program.starts_with(b"\x7fELF\x01\x01") && program.get(18..20) == Some(&[3, 0])
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > LARGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs::read(path)
}

/// Writes the service into a guest's tree.
///
/// # Errors
/// The tree's.
pub fn install(files: &mut dyn Filesystem, program: &[u8]) -> Result<(), InstallError> {
    write(files, program).map_err(InstallError::Tree)
}

fn write(files: &mut dyn Filesystem, program: &[u8]) -> Result<(), Errno> {
    let root = files.root()?.node;
    let mut links = 0;
    let bin = descend(files, root, root, DIRECTORY.as_bytes(), &mut links)?;
    match files.unlink(bin, NAME.as_bytes()) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    let owner = Owner { uid: Some(0), gid: 0 };
    let flags = OpenFlags { access: Access::Write, truncate: false, directory: false, append: false };
    let (_, handle) = files.create(bin, NAME.as_bytes(), 0o755, owner, flags)?;
    let mut done = 0;
    let mut result = Ok(());
    while let Some(rest) = program.get(done..).filter(|rest| !rest.is_empty()) {
        match files.write(handle, done as u64, rest) {
            Ok(count) => done += count,
            Err(errno) => {
                result = Err(errno);
                break;
            }
        }
    }
    files.release(handle);
    result
}

/// Goes down a path, through links, and makes the directories that are not there.
fn descend(
    files: &mut dyn Filesystem,
    root: NodeId,
    from: NodeId,
    path: &[u8],
    links: &mut usize,
) -> Result<NodeId, Errno> {
    let mut at = if path.starts_with(b"/") { root } else { from };
    for name in path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
        if name == b".." {
            at = files.parent(at)?.node;
            continue;
        }
        let next = match files.lookup(at, name) {
            Ok(entry) => entry.node,
            Err(Errno::ENOENT) => {
                files.mkdir(at, name, 0o755, Owner { uid: Some(0), gid: 0 })?;
                files.lookup(at, name)?.node
            }
            Err(errno) => return Err(errno),
        };
        at = match files.getattr(next)?.mode & mode::TYPE {
            mode::DIRECTORY => next,
            mode::SYMLINK => {
                *links += 1;
                if *links > LINKS {
                    return Err(Errno::ELOOP);
                }
                let target = files.readlink(next)?;
                descend(files, root, at, &target, links)?
            }
            _ => return Err(Errno::ENOTDIR),
        };
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::blobs::MemoryBlobs;
    use crate::fs::overlay::{Overlay, OverlayOptions};
    use emu_devices::p9::fs::Time;
    use std::sync::Arc;

    #[test]
    fn programs_for_other_processors_are_passed_over() {
        let elf = |class, machine| {
            let mut header = *b"\x7fELF\x00\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\0\0";
            (header[4], header[18]) = (class, machine);
            header
        };
        assert!(is_i386(&elf(1, 3)));
        assert!(!is_i386(&elf(2, 62)) && !is_i386(&elf(1, 40)) && !is_i386(b"#!/bin/sh") && !is_i386(b""));
    }

    #[test]
    fn program_goes_where_bin_leads() {
        for bin in ["", "usr/bin", "/usr/bin", "loop"] {
            let options = OverlayOptions::new(Box::new(Time::default), Box::new(|_| {}));
            let mut files = Overlay::empty(Arc::new(MemoryBlobs::new("")), options);
            let root = files.root().unwrap().node;
            let owner = Owner { uid: Some(0), gid: 0 };
            if !bin.is_empty() {
                files.symlink(root, b"bin", bin.as_bytes(), owner).unwrap();
            }
            if bin == "loop" {
                files.symlink(root, b"loop", b"bin", owner).unwrap();
                assert!(matches!(install(&mut files, b"x"), Err(InstallError::Tree(Errno::ELOOP))));
                continue;
            }
            install(&mut files, b"old").unwrap();
            install(&mut files, b"program").unwrap();
            let path = if bin.is_empty() { "/bin/guest86" } else { "/usr/bin/guest86" };
            assert_eq!(files.read_file(path, 100).unwrap(), b"program");
        }
    }
}
