//! A directory of the host as a tree in memory, for mounts whose changes are kept there.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use emu_devices::p9::fs::{Time, mode};
use rustix::fs::{AtFlags, Mode as FileMode, OFlags, RawDir};

use super::ShareError;
use super::spec::Spec;
use super::sys::{self, Key};
use crate::clock;
use crate::fs::blobs::{BlobError, BlobSource, RawBlob};
use crate::fs::cache::Warn;
use crate::fs::fsjson::{FsJson, Row, RowBody};
use crate::fs::overlay::{Overlay, OverlayOptions};
use crate::limits;

/// Directory entries read at once, in bytes.
const LISTING: usize = 32 << 10;

/// Where a row was found: the directory's row, and the name there.
type Place = (u32, Box<[u8]>);

/// Contents of the files of a directory.
struct HostFiles {
    root: OwnedFd,
    path: String,
    /// By number, as the rows are numbered; what it has to be, too.
    places: Vec<Place>,
    keys: HashMap<u32, Key>,
}

impl HostFiles {
    /// Goes down from the root to a row's directory, one name at a time.
    fn directory(&self, row: u32) -> Result<OwnedFd, emu_devices::p9::Errno> {
        let mut names = Vec::new();
        let mut at = row;
        while let Some((parent, name)) = at.checked_sub(1).and_then(|at| self.places.get(at as usize)) {
            names.push(name);
            at = *parent;
        }
        let mut fd = self.root.try_clone().map_err(|_| emu_devices::p9::Errno::ENFILE)?;
        for name in names.into_iter().rev() {
            let (found, stat) = sys::find(fd.as_fd(), name)?;
            if stat.st_mode & mode::TYPE != mode::DIRECTORY {
                return Err(emu_devices::p9::Errno::ENOTDIR);
            }
            fd = found;
        }
        Ok(fd)
    }
}

impl BlobSource for HostFiles {
    fn open(&self, name: &str) -> Result<RawBlob, BlobError> {
        let row: u32 = name.parse().map_err(|_| BlobError::BadName)?;
        let place = row.checked_sub(1).and_then(|at| self.places.get(at as usize));
        let (parent, name) = place.ok_or(BlobError::Missing)?;
        let failed = |_| BlobError::Missing;
        let above = self.directory(*parent).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&above, &**name, flags, FileMode::empty()).map_err(io::Error::from)?;
        let stat = sys::stat(file.as_fd()).map_err(failed)?;
        if stat.st_mode & mode::TYPE != mode::REGULAR || self.keys.get(&row) != Some(&Key::of(&stat)) {
            return Err(BlobError::NotAFile);
        }
        Ok(RawBlob::File(File::from(file)))
    }

    fn describe(&self, name: &str) -> String {
        let row = name.parse::<u32>().ok().and_then(|row| row.checked_sub(1));
        let place = row.and_then(|at| self.places.get(at as usize));
        let name = place.map(|(_, name)| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
        format!("{} in {}", name, self.path)
    }
}

/// Reads the tree below a directory.
pub(super) fn overlay(spec: &Spec, warn: Warn) -> Result<Overlay, ShareError> {
    let failed = |source| ShareError::Open { path: spec.host.clone(), source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(&spec.host, flags, FileMode::empty()).map_err(|errno| failed(errno.into()))?;
    let path = spec.host.display().to_string();
    let mut files = HostFiles { root, path, places: Vec::new(), keys: HashMap::new() };
    let mut rows = Vec::new();
    let mut size = 0u64;
    let mut left_out = 0;
    // Directories whose entries are to be read, with their depth.
    let mut waiting = vec![(0u32, 0usize)];
    while let Some((parent, depth)) = waiting.pop() {
        // One that cannot be read, or is gone by now, looks empty.
        let Ok(above) = files.directory(parent) else { continue };
        let Ok(listed) = sys::open_directory(above.as_fd()) else { continue };
        let mut buffer = Vec::with_capacity(LISTING);
        let mut listing = RawDir::new(&listed, buffer.spare_capacity_mut());
        while let Some(Ok(entry)) = listing.next() {
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&listed, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let number = u32::try_from(rows.len() + 1).unwrap_or(u32::MAX);
            if rows.len() >= limits::MAX_INODES {
                return Err(ShareError::TooLarge { path: spec.host.clone() });
            }
            let length = u64::try_from(stat.st_size).unwrap_or(0);
            let body = match stat.st_mode & mode::TYPE {
                mode::DIRECTORY if depth < limits::MAX_TREE_DEPTH => {
                    waiting.push((number, depth + 1));
                    RowBody::Directory
                }
                mode::REGULAR => {
                    size = size.saturating_add(length);
                    files.keys.insert(number, Key::of(&stat));
                    RowBody::File((length > 0).then(|| number.to_string().into()))
                }
                mode::SYMLINK => match rustix::fs::readlinkat(&listed, name, Vec::new()) {
                    Ok(target) => RowBody::Symlink(target.into_bytes().into()),
                    Err(_) => continue,
                },
                _ => {
                    left_out += 1;
                    continue;
                }
            };
            let own = |id: u32, ours: u32| if id == ours { 0 } else { id };
            files.places.push((parent, name.into()));
            rows.push(Row {
                parent,
                name: name.into(),
                size: length,
                mtime: stat.st_mtime,
                mode: stat.st_mode,
                uid: own(stat.st_uid, rustix::process::geteuid().as_raw()),
                gid: own(stat.st_gid, rustix::process::getegid().as_raw()),
                qid_path: u64::from(number) + 1,
                body,
            });
        }
    }
    let row_count = rows.len() as u64;
    let index = FsJson { rows, size, row_count, left_out };
    let clock = || {
        let now = clock::wall();
        Time { sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX), nsec: now.subsec_nanos() }
    };
    Ok(Overlay::from_index(index, Arc::new(files), OverlayOptions::new(Box::new(clock), warn)))
}
