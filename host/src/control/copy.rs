//! Files and directories, into the guest and out of it.
//!
//! As `cp -R` copies: what is copied into a directory that exists goes under its own name, unless the source
//! ends in `/.`; otherwise it gets the name it is copied to. Links are copied as links. Modes and times are
//! kept; in the guest everything belongs to root, on the host to the user.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use guest86::call::{Attributes, Details, Entry};

use super::host_files::Target;
use crate::limits;
use crate::rpc::{Deadline, Guest, RpcError};

/// How long the guest may take for one step; contents of files have no limit.
const STEP: Duration = Duration::from_secs(60);

pub(super) const TYPE: u32 = 0o170_000;
pub(super) const DIRECTORY: u32 = 0o040_000;
pub(super) const REGULAR: u32 = 0o100_000;
pub(super) const LINK: u32 = 0o120_000;

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// On the host.
    #[error("{path}: {source}")]
    Host {
        /// Which file.
        path: String,
        /// The host's reason.
        source: io::Error,
    },
    /// In the guest.
    #[error("{path} in the guest: {source}")]
    Guest {
        /// Which file.
        path: String,
        /// The service's reason.
        source: RpcError,
    },
    /// It does not fit what is there.
    #[error("{path}: {why}")]
    Target {
        /// Which file.
        path: String,
        /// What is in the way.
        why: &'static str,
    },
}

/// What was copied.
#[derive(Clone, Debug, Default)]
pub struct Copied {
    /// Files, directories and links.
    pub entries: u64,
    /// Contents of files in bytes.
    pub bytes: u64,
    /// What is neither, and was left out.
    pub left_out: Vec<String>,
}

pub(super) fn step() -> Deadline {
    Deadline::after(STEP)
}

pub(super) fn in_guest(path: &str) -> impl FnOnce(RpcError) -> CopyError + '_ {
    move |source| CopyError::Guest { path: path.to_owned(), source }
}

fn on_host(path: &Path) -> impl FnOnce(io::Error) -> CopyError + '_ {
    move |source| CopyError::Host { path: path.display().to_string(), source }
}

pub(super) fn wrong(path: &str, why: &'static str) -> CopyError {
    CopyError::Target { path: path.to_owned(), why }
}

/// What stands at a path of the guest, links followed if asked; `None` if there is nothing.
pub(super) fn look(guest: &Guest, path: &str) -> Result<Option<Entry>, CopyError> {
    match guest.lstat(path, step()) {
        Ok(entry) => Ok(Some(entry)),
        Err(RpcError::Remote(why)) if why.ends_with("no such file or directory") => Ok(None),
        Err(source) => Err(in_guest(path)(source)),
    }
}

/// Whether a path of the guest is a directory, or a link to one.
pub(super) fn is_directory(guest: &Guest, path: &str) -> bool {
    guest.stat(path, step()).is_ok_and(|entry| entry.is_dir)
}

pub(super) fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// Last part of a path as it is written; `None` for `/`, `.` and `..`.
pub(super) fn last(path: &str) -> Option<&str> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    (!matches!(name, "" | "." | "..")).then_some(name)
}

/// Whether only what is in the directory is meant.
pub(super) fn contents_only(path: &str) -> bool {
    path.ends_with("/.") || path == "."
}

/// Copies a file or directory of the host to `to` in the guest. A link that `from` is, is copied as a link
/// unless it is to be followed.
///
/// # Errors
/// The first thing that went wrong. What was copied until then stays.
pub fn into_guest(guest: &Guest, from: &Path, to: &str, follow: bool) -> Result<Copied, CopyError> {
    let text = from.to_string_lossy();
    let meta = fs::symlink_metadata(from).map_err(on_host(from))?;
    // A slash at the end asks for what a link points to.
    let meta = if text.ends_with('/') || follow { fs::metadata(from).map_err(on_host(from))? } else { meta };
    let to = if to.starts_with('/') { to.to_owned() } else { format!("/{to}") };
    let mut copied = Copied::default();
    let target = if is_directory(guest, &to) {
        if meta.is_dir() && contents_only(&text) {
            to
        } else {
            let name = match last(&text) {
                Some(name) => name.to_owned(),
                None => {
                    let real = from.canonicalize().map_err(on_host(from))?;
                    real.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
                }
            };
            join(&to, &name)
        }
    } else {
        if meta.is_dir() && look(guest, &to)?.is_some() {
            return Err(wrong(&to, "is a file in the guest, not a directory"));
        }
        if !meta.is_dir() && to.ends_with('/') {
            return Err(wrong(&to, "there is no such directory in the guest"));
        }
        let to = to.trim_end_matches('/').to_owned();
        let above = to.rsplit_once('/').map_or("/", |(above, _)| if above.is_empty() { "/" } else { above });
        if !is_directory(guest, above) {
            return Err(wrong(above, "there is no such directory in the guest"));
        }
        to
    };
    put(guest, from, &meta, &target, 0, &mut copied)?;
    Ok(copied)
}

fn attributes(path: &str, meta: &fs::Metadata) -> Attributes {
    Attributes {
        path: path.to_owned(),
        mode: Some(meta.mode() & 0o7777),
        owner: Some((0, 0)),
        mtime: Some((meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0))),
    }
}

fn put(
    guest: &Guest,
    from: &Path,
    meta: &fs::Metadata,
    to: &str,
    depth: usize,
    copied: &mut Copied,
) -> Result<(), CopyError> {
    let failed = |source| CopyError::Guest { path: to.to_owned(), source };
    if depth > limits::MAX_TREE_DEPTH {
        return Err(wrong(to, "there are too many directories inside each other"));
    }
    let kind = meta.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(from).map_err(on_host(from))?;
        let Some(target) = target.to_str() else {
            return Err(wrong(&from.display().to_string(), "the link's target is not UTF-8"));
        };
        if let Some(entry) = look(guest, to)? {
            if entry.is_dir {
                return Err(wrong(to, "is a directory in the guest"));
            }
            guest.remove_all(to, step()).map_err(failed)?;
        }
        guest.symlink(target, to, step()).map_err(failed)?;
    } else if kind.is_file() {
        let mut file = File::open(from).map_err(on_host(from))?;
        if look(guest, to)?.is_some_and(|entry| entry.details.is_some_and(|d| d.mode & TYPE == LINK)) {
            guest.remove_all(to, step()).map_err(failed)?;
        }
        guest.put(&attributes(to, meta), &mut file, Deadline::never()).map_err(failed)?;
        copied.bytes += meta.size();
    } else if kind.is_dir() {
        match look(guest, to)? {
            None => guest.make_dir(to, step()).map_err(failed)?,
            Some(_) if is_directory(guest, to) => {}
            Some(_) => return Err(wrong(to, "is a file in the guest, not a directory")),
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(from).map_err(on_host(from))? {
            names.push(entry.map_err(on_host(from))?.file_name());
        }
        names.sort();
        for name in names {
            let path = from.join(&name);
            let Some(name) = name.to_str() else {
                return Err(wrong(&path.display().to_string(), "the name is not UTF-8"));
            };
            let meta = fs::symlink_metadata(&path).map_err(on_host(&path))?;
            put(guest, &path, &meta, &join(to, name), depth + 1, copied)?;
        }
        // Last, because its time changes with what is put in, and its mode may forbid that.
        guest.set_attributes(&attributes(to, meta), step()).map_err(failed)?;
    } else {
        copied.left_out.push(from.display().to_string());
        return Ok(());
    }
    copied.entries += 1;
    Ok(())
}

/// What is to be copied out of the guest.
pub(super) struct Source {
    /// Where it is.
    pub(super) path: String,
    /// How the user calls it.
    pub(super) shown: String,
    /// What it is.
    pub(super) details: Details,
    /// When it was changed last.
    pub(super) mtime: i64,
}

/// Links followed before it is a loop.
const LINKS: usize = 40;

/// Finds what is to be copied out of the guest.
pub(super) fn source(guest: &Guest, from: &str, follow: bool) -> Result<Source, CopyError> {
    let shown = if from.starts_with('/') { from.to_owned() } else { format!("/{from}") };
    let mut path = shown.clone();
    let mut entry = guest.lstat(&path, step()).map_err(in_guest(&path))?;
    if path.ends_with('/') && is_directory(guest, &path) {
        // The service takes the slash away; the link's directory is meant.
        entry = guest.lstat(&join(&path, "."), step()).map_err(in_guest(&path))?;
    }
    for _ in 0..LINKS {
        let details = entry.details.clone().unwrap_or_default();
        if !follow || details.mode & TYPE != LINK {
            return Ok(Source { path, shown, details, mtime: entry.mtime });
        }
        let above = path.trim_end_matches('/').rsplit_once('/').map_or("", |(above, _)| above);
        path = if details.target.starts_with('/') { details.target } else { join(above, &details.target) };
        entry = guest.lstat(&path, step()).map_err(in_guest(&path))?;
    }
    Err(wrong(&shown, "too many links lead to it"))
}

/// Copies a file or directory of the guest to `to` on the host.
///
/// Nothing of it can land elsewhere, whatever the guest says: each name is one component, created in a
/// directory that is open, and links on the host are replaced, never followed. Set-user-ID bits are dropped.
///
/// A link that `from` is, is copied as a link unless it is to be followed.
///
/// # Errors
/// The first thing that went wrong. What was copied until then stays.
pub fn out_of_guest(guest: &Guest, from: &str, to: &Path, follow: bool) -> Result<Copied, CopyError> {
    let Source { path: source, shown: from, details, .. } = source(guest, from, follow)?;
    let is_dir = details.mode & TYPE == DIRECTORY;
    let mut copied = Copied::default();
    let (directory, name) = if to.is_dir() {
        if is_dir && contents_only(&from) {
            let directory = Target::open(to).map_err(on_host(to))?;
            fill(guest, &source, &directory, to, 0, &mut copied)?;
            copied.entries += 1;
            return Ok(copied);
        }
        let name = last(&from).unwrap_or("root").as_bytes().to_vec();
        (to.to_path_buf(), name)
    } else {
        if is_dir && to.exists() {
            return Err(wrong(&to.display().to_string(), "is a file, not a directory"));
        }
        if !is_dir && to.as_os_str().as_bytes().ends_with(b"/") {
            return Err(wrong(&to.display().to_string(), "there is no such directory"));
        }
        let above = to.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = to.file_name().map(|name| name.as_bytes().to_vec());
        let Some(name) = name else { return Err(wrong(&to.display().to_string(), "is no name for a file")) };
        (above.to_path_buf(), name)
    };
    let target = Target::open(&directory).map_err(on_host(&directory))?;
    get(guest, &source, &details, &target, &name, &directory, 0, &mut copied)?;
    Ok(copied)
}

#[allow(clippy::too_many_arguments)]
fn get(
    guest: &Guest,
    from: &str,
    details: &Details,
    target: &Target,
    name: &[u8],
    directory: &Path,
    depth: usize,
    copied: &mut Copied,
) -> Result<(), CopyError> {
    let path = directory.join(std::ffi::OsStr::from_bytes(name));
    let failed = |source| CopyError::Host { path: path.display().to_string(), source };
    if depth > limits::MAX_TREE_DEPTH {
        return Err(wrong(from, "there are too many directories inside each other"));
    }
    match details.mode & TYPE {
        LINK => target.link(name, details.target.as_bytes()).map_err(failed)?,
        REGULAR => {
            let mut file = target.file(name).map_err(failed)?;
            let entry = guest.get(from, &mut file, Deadline::never()).map_err(in_guest(from))?;
            let details = entry.details.unwrap_or_default();
            super::host_files::finish(&file, details.mode, entry.mtime, details.mtime_nanos)
                .map_err(failed)?;
            copied.bytes += u64::try_from(entry.size).unwrap_or(0);
        }
        DIRECTORY => {
            let inner = target.directory(name).map_err(failed)?;
            fill(guest, from, &inner, &path, depth, copied)?;
        }
        _ => {
            copied.left_out.push(from.to_owned());
            return Ok(());
        }
    }
    copied.entries += 1;
    Ok(())
}

/// Copies what is in a directory of the guest, and then its mode and time.
fn fill(
    guest: &Guest,
    from: &str,
    into: &Target,
    path: &Path,
    depth: usize,
    copied: &mut Copied,
) -> Result<(), CopyError> {
    let own = guest.lstat(&join(from, "."), step()).map_err(in_guest(from))?;
    for entry in guest.read_dir(from, step()).map_err(in_guest(from))? {
        if entry.name.is_empty() || entry.name.contains(['/', '\0']) || matches!(&*entry.name, "." | "..") {
            return Err(wrong(from, "the guest gives a name that is none"));
        }
        let details = entry.details.unwrap_or_default();
        let inner = join(from, &entry.name);
        get(guest, &inner, &details, into, entry.name.as_bytes(), path, depth + 1, copied)?;
    }
    let details = own.details.unwrap_or_default();
    into.finish(details.mode, own.mtime, details.mtime_nanos).map_err(on_host(path))
}
