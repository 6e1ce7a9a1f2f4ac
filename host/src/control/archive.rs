//! Files and directories as tar archives, into the guest and out of it.
//!
//! Unlike what is copied ([`super::copy`]), members of archives keep the numbers of their owners.

use std::collections::HashSet;
use std::io::{self, Read, Write};

use guest86::call::{Attributes, Details, Entry};
use tar::{EntryType, Header};

use super::copy::{
    self, Copied, CopyError, DIRECTORY, LINK, REGULAR, Source, TYPE, contents_only, in_guest, is_directory,
    join, last, look, step, wrong,
};
use crate::limits;
use crate::rpc::{Deadline, Guest, RpcError, exit_code};
use crate::run::quoted;

fn of_archive(path: &str) -> impl FnOnce(io::Error) -> CopyError + '_ {
    move |source| CopyError::Host { path: format!("archive: {path}"), source }
}

/// Writes a file or directory of the guest as an archive: under its own name, or if only what is in it is meant
/// under `.`.
///
/// # Errors
/// The first thing that went wrong. The archive is not complete then.
pub fn out_of_guest(
    guest: &Guest,
    from: &str,
    to: &mut dyn Write,
    follow: bool,
) -> Result<Copied, CopyError> {
    let Source { path, shown, details, mtime } = copy::source(guest, from, follow)?;
    let name = match contents_only(&shown) {
        true => ".",
        false => last(&shown).unwrap_or("."),
    };
    let mut writer = Writer { guest, builder: tar::Builder::new(to), copied: Copied::default() };
    writer.add(&path, name, &details, mtime, 0)?;
    let failed = |error| of_archive("its end")(error);
    writer.builder.into_inner().and_then(|to| to.flush()).map_err(failed)?;
    Ok(writer.copied)
}

struct Writer<'a> {
    guest: &'a Guest,
    builder: tar::Builder<&'a mut dyn Write>,
    copied: Copied,
}

/// A member's header, but for its name.
fn header(kind: EntryType, details: &Details, mtime: i64, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(details.mode & 0o7777);
    header.set_uid(details.uid.into());
    header.set_gid(details.gid.into());
    header.set_mtime(u64::try_from(mtime).unwrap_or(0));
    header.set_size(size);
    header
}

impl Writer<'_> {
    fn add(
        &mut self,
        path: &str,
        name: &str,
        details: &Details,
        mtime: i64,
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > limits::MAX_TREE_DEPTH {
            return Err(wrong(path, "there are too many directories inside each other"));
        }
        match details.mode & TYPE {
            LINK => {
                let mut header = header(EntryType::Symlink, details, mtime, 0);
                self.builder.append_link(&mut header, name, &details.target).map_err(of_archive(name))?;
            }
            REGULAR => {
                let (entry, contents) = self.guest.open(path, Deadline::never()).map_err(in_guest(path))?;
                let size = u64::try_from(entry.size).unwrap_or(0);
                let details = entry.details.unwrap_or_default();
                let mut header = header(EntryType::Regular, &details, entry.mtime, size);
                self.builder.append_data(&mut header, name, contents).map_err(of_archive(name))?;
                self.copied.bytes += size;
            }
            DIRECTORY => {
                let mut header = header(EntryType::Directory, details, mtime, 0);
                let shown = format!("{name}/");
                self.builder.append_data(&mut header, &shown, io::empty()).map_err(of_archive(name))?;
                for entry in self.guest.read_dir(path, step()).map_err(in_guest(path))? {
                    self.add_entry(path, name, entry, depth)?;
                }
            }
            _ => {
                self.copied.left_out.push(path.to_owned());
                return Ok(());
            }
        }
        self.copied.entries += 1;
        Ok(())
    }

    fn add_entry(&mut self, above: &str, name: &str, entry: Entry, depth: usize) -> Result<(), CopyError> {
        let own = entry.name;
        if own.is_empty() || own.contains(['/', '\0']) || matches!(&*own, "." | "..") {
            return Err(wrong(above, "the guest gives a name that is none"));
        }
        let details = entry.details.unwrap_or_default();
        // No "./" before names: short ones would lose it and long ones not, and a reader that takes the two for
        // different directories sets the times of one too early.
        let named = if name == "." { own.clone() } else { format!("{name}/{own}") };
        self.add(&join(above, &own), &named, &details, entry.mtime, depth + 1)
    }
}

/// The path in the guest of a member; `None` for the directory itself. An error if it leads out of it.
fn place(to: &str, name: &str) -> Result<Option<String>, CopyError> {
    let mut place = to.trim_end_matches('/').to_owned();
    let whole = place.len();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(wrong(&format!("archive: {name}"), "the name leads out of the directory")),
            part => {
                place.push('/');
                place.push_str(part);
            }
        }
    }
    Ok((place.len() > whole).then_some(place))
}

/// Unpacks an archive into a directory of the guest.
///
/// # Errors
/// The first thing that went wrong. What was unpacked until then stays.
pub fn into_guest(guest: &Guest, from: &mut dyn Read, to: &str) -> Result<Copied, CopyError> {
    let to = if to.starts_with('/') { to.to_owned() } else { format!("/{to}") };
    if !is_directory(guest, &to) {
        return Err(wrong(&to, "there is no such directory in the guest"));
    }
    let mut reader = Reader { guest, to, made: HashSet::new(), last: Vec::new(), copied: Copied::default() };
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries().map_err(of_archive("its beginning"))? {
        reader.unpack(entry.map_err(of_archive("its next member"))?)?;
    }
    // Modes and times of directories last: they change with what is put in, and may forbid that.
    for attributes in reader.last.iter().rev() {
        guest.set_attributes(attributes, step()).map_err(in_guest(&attributes.path))?;
    }
    Ok(reader.copied)
}

struct Reader<'a> {
    guest: &'a Guest,
    to: String,
    /// Directories that are there.
    made: HashSet<String>,
    /// Attributes to be set at the end.
    last: Vec<Attributes>,
    copied: Copied,
}

impl Reader<'_> {
    fn unpack(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<(), CopyError> {
        let text = |bytes: &[u8], what| {
            let lossy = String::from_utf8_lossy(bytes).into_owned();
            std::str::from_utf8(bytes)
                .map(str::to_owned)
                .map_err(|_| wrong(&format!("archive: {lossy}"), what))
        };
        let name = text(&entry.path_bytes(), "the name is not UTF-8")?;
        let Some(path) = place(&self.to, &name)? else { return Ok(()) };
        let target = entry.link_name_bytes().map(|target| text(&target, "the link's target is not UTF-8"));
        let target = target.transpose()?.unwrap_or_default();
        let header = entry.header();
        let owner = |id: io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
        let attributes = Attributes {
            path: path.clone(),
            mode: header.mode().ok().map(|mode| mode & 0o7777),
            owner: Some((owner(header.uid()), owner(header.gid()))),
            mtime: header.mtime().ok().and_then(|time| Some((i64::try_from(time).ok()?, 0))),
        };
        let failed = in_guest(&path);
        let guest = self.guest;
        match header.entry_type() {
            EntryType::Directory => {
                self.directory(&path)?;
                self.last.push(attributes);
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.room(&path, true)?;
                guest.put(&attributes, &mut entry, Deadline::never()).map_err(failed)?;
                self.copied.bytes += entry.size();
            }
            EntryType::Symlink => {
                self.room(&path, false)?;
                guest.symlink(&target, &path, step()).map_err(failed)?;
            }
            EntryType::Link => {
                let Some(target) = place(&self.to, &target)? else {
                    return Err(wrong(&name, "a hard link to a directory"));
                };
                self.room(&path, false)?;
                // The service has no call for it.
                let script = format!("ln {} {}", quoted(&target), quoted(&path));
                let (status, output) = guest.shell(&script, &[], step()).map_err(failed)?;
                if exit_code(status) != 0 {
                    let source = RpcError::Remote(output);
                    return Err(CopyError::Guest { path, source });
                }
            }
            EntryType::XGlobalHeader => return Ok(()),
            _ => {
                self.copied.left_out.push(name);
                return Ok(());
            }
        }
        self.copied.entries += 1;
        Ok(())
    }

    /// Makes a directory and those above it.
    fn directory(&mut self, path: &str) -> Result<(), CopyError> {
        if self.made.contains(path) || path == self.to.trim_end_matches('/') || path.is_empty() {
            return Ok(());
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above)?;
        }
        if look(self.guest, path)?.is_none() {
            self.guest.make_dir(path, step()).map_err(in_guest(path))?;
        } else if !is_directory(self.guest, path) {
            return Err(wrong(path, "is a file in the guest, not a directory"));
        }
        self.made.insert(path.to_owned());
        Ok(())
    }

    /// Makes sure that something can be made at a path: what is in the way goes, unless it is a directory. A
    /// plain file may stay if one is to take its place.
    fn room(&mut self, path: &str, file: bool) -> Result<(), CopyError> {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above)?;
        }
        let Some(there) = look(self.guest, path)? else { return Ok(()) };
        if there.is_dir {
            return Err(wrong(path, "is a directory in the guest"));
        }
        if file && there.details.is_some_and(|details| details.mode & TYPE == REGULAR) {
            return Ok(());
        }
        self.guest.remove_all(path, step()).map_err(in_guest(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stay_in_the_directory() {
        let place = |name| place("/to/", name).map_err(|error| error.to_string());
        assert_eq!(place("a/b"), Ok(Some("/to/a/b".into())));
        assert_eq!(place("/etc//passwd"), Ok(Some("/to/etc/passwd".into())));
        assert_eq!(place("./a/./b/"), Ok(Some("/to/a/b".into())));
        for itself in ["", ".", "./", "/"] {
            assert_eq!(place(itself), Ok(None), "{itself}");
        }
        for out in ["..", "a/../../b", "/..", "./.."] {
            assert!(place(out).is_err(), "{out}");
        }
        assert_eq!(super::place("/", "a").unwrap(), Some("/a".into()));
    }
}
