//! Images that are gzip-compressed tar archives.
//!
//! The archive is read once, from front to back, into memory; nothing is unpacked to disk. What
//! it claims about itself is not believed: sizes are counted while reading, and everything read
//! between two entries (headers, long names) is bounded too, so that a small file cannot unpack
//! into more than [`ArchiveLimits`] allow.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::{ImageError, clean_name, read_limited};
use crate::limits::ArchiveLimits;
use crate::progress::Progress;

/// An archive in memory.
pub(super) struct ArchiveImage {
    path: PathBuf,
    entries: HashMap<String, Entry>,
}

enum Entry {
    File(Arc<Vec<u8>>),
    Dir,
    /// Links and devices: kept to say why the file cannot be read.
    Other(&'static str),
}

impl ArchiveImage {
    pub(super) fn open(path: &Path, progress: &Progress, limits: ArchiveLimits) -> Result<Self, ImageError> {
        let open = |source| ImageError::Open { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(open)?;
        let len = file.metadata().map_err(open)?.len();
        let failed = |reason| ImageError::Archive { path: path.to_owned(), reason };

        let mut magic = [0; 2];
        let known = file.read(&mut magic).map_err(open)?;
        if magic.get(..known) != Some(&[0x1F, 0x8B]) {
            return Err(failed("not a gzip-compressed tar archive".to_owned()));
        }
        let task = progress.bytes("Reading the image", len);
        let reader = BufReader::new(task.reader(io::Read::chain(&magic[..], file)));
        let entries = read_archive(reader, limits).map_err(failed)?;
        task.done();
        Ok(Self { path: path.to_owned(), entries })
    }

    /// `name` must be clean (see [`clean_name`]).
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let bytes = self.shared(name)?;
        if bytes.len() as u64 > limit {
            return Err(ImageError::TooLarge { file: self.path.join(name), limit });
        }
        Ok(bytes.to_vec())
    }

    /// The content of a file without a copy. `name` must be clean.
    pub(super) fn shared(&self, name: &str) -> Result<Arc<Vec<u8>>, ImageError> {
        let file = self.path.join(name);
        match self.entries.get(name) {
            None => Err(ImageError::Missing { file }),
            Some(Entry::File(bytes)) => Ok(bytes.clone()),
            Some(Entry::Dir) => Err(ImageError::NotAFile { file, what: "it is a directory" }),
            Some(Entry::Other(what)) => Err(ImageError::NotAFile { file, what }),
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        matches!(self.entries.get(name), Some(Entry::File(_) | Entry::Dir))
    }

    /// A top-level folder of the archive that holds the file `name`.
    pub(super) fn folder_with(&self, name: &str) -> Option<String> {
        let folders = self.entries.keys().filter_map(|key| key.strip_suffix(name)?.strip_suffix('/'));
        folders.filter(|folder| !folder.contains('/')).min().map(str::to_owned)
    }
}

/// Reads all entries, or says why not.
fn read_archive(compressed: impl Read, limits: ArchiveLimits) -> Result<HashMap<String, Entry>, String> {
    let budget = Budget::default();
    let reader = Budgeted { inner: MultiGzDecoder::new(compressed), budget: budget.clone() };
    let mut archive = tar::Archive::new(reader);
    let mut entries = HashMap::new();
    let mut left = limits.total_bytes;
    let mut count = 0;

    budget.set(limits.header_bytes);
    for entry in archive.entries().map_err(|e| reason(&e))? {
        let entry = entry.map_err(|e| reason(&e))?;
        count += 1;
        if count > limits.entries {
            return Err(format!("more than {} entries", limits.entries));
        }
        let name = match std::str::from_utf8(&entry.path_bytes()) {
            Ok(name) => clean_name(name).map_err(|why| format!("bad entry name {name:?}: {why}"))?,
            // Nothing in an image asks for such a name; its content is skipped below.
            Err(_) => String::new(),
        };
        let kind = entry.header().entry_type();
        let size = entry.size();
        // Sparse entries expand without reading, so that what is produced is counted as well.
        budget.set(left.saturating_add(BLOCK));
        let new = if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            let content = read_limited(entry, size, left).map_err(|e| format!("{name}: {}", reason(&e)))?;
            let mut bytes =
                content.ok_or_else(|| format!("unpacks to more than {} bytes", limits.total_bytes))?;
            if (bytes.len() as u64) < size {
                return Err(format!("{name}: unexpected end of file"));
            }
            left -= bytes.len() as u64;
            bytes.shrink_to_fit();
            Entry::File(Arc::new(bytes))
        } else {
            let skipped = io::copy(&mut entry.take(left), &mut io::sink()).map_err(|e| reason(&e))?;
            left -= skipped;
            if kind.is_dir() {
                Entry::Dir
            } else if kind.is_symlink() || kind.is_hard_link() {
                Entry::Other("it is a link, and links inside archives are not followed")
            } else {
                Entry::Other("it is not a regular file")
            }
        };
        if !name.is_empty() {
            entries.insert(name, new);
        }
        budget.set(limits.header_bytes);
    }
    if count == 0 {
        return Err("it is empty".to_owned());
    }
    // The rest is padding; read to its end, because there stands the checksum.
    budget.set(limits.total_bytes);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|e| reason(&e))?;
    Ok(entries)
}

const BLOCK: u64 = 512;

/// Bytes that may still be unpacked before somebody looks.
type Budget = Rc<Cell<u64>>;

struct Budgeted<R> {
    inner: R,
    budget: Budget,
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        match self.budget.get().checked_sub(n as u64) {
            Some(left) => self.budget.set(left),
            None => return Err(io::Error::other("unpacks to more than this version accepts")),
        }
        Ok(n)
    }
}

/// The cause of an error, without the layers around it, which repeat file names and each other.
fn reason(error: &io::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "unexpected end of file".to_owned(),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    const SMALL: ArchiveLimits = ArchiveLimits { total_bytes: 1 << 20, entries: 20, header_bytes: 4 << 10 };

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    fn raw(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, kind, content) in entries {
            out.extend_from_slice(header(name, *kind, content.len() as u64).as_bytes());
            out.extend_from_slice(content);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }

    fn archive(entries: HashMap<String, Entry>) -> ArchiveImage {
        ArchiveImage { path: PathBuf::from("x.tgz"), entries }
    }

    fn error_of(tar: &[u8]) -> String {
        match read_archive(&gzip(tar)[..], SMALL) {
            Ok(_) => panic!("the archive was accepted"),
            Err(reason) => reason,
        }
    }

    use tar::EntryType as T;

    #[test]
    fn archive_names_are_cleaned_and_the_last_of_a_name_wins() {
        let tar = raw(&[
            ("./", T::Directory, b""),
            ("./image.json", T::Regular, b"{}"),
            ("fs/./x/../a", T::Regular, b"old"),
            ("fs/a", T::Regular, b"new"),
        ]);
        let image = archive(read_archive(&gzip(&tar)[..], SMALL).unwrap());
        assert_eq!(image.read("image.json", 10).unwrap(), b"{}");
        assert_eq!(image.read("fs/a", 10).unwrap(), b"new");
        assert!(matches!(image.read("fs/a", 2), Err(ImageError::TooLarge { .. })));
        assert!(matches!(image.read("fs/b", 2), Err(ImageError::Missing { .. })));
    }

    #[test]
    fn archive_links_are_not_resolved() {
        let mut link = header("image.json", T::Symlink, 0);
        link.set_link_name("/etc/passwd").unwrap();
        link.set_cksum();
        let mut tar = link.as_bytes().to_vec();
        tar.resize(tar.len() + 1024, 0);
        let image = archive(read_archive(&gzip(&tar)[..], SMALL).unwrap());
        assert!(!image.contains("image.json"));
        assert!(matches!(image.read("image.json", 10), Err(ImageError::NotAFile { .. })));
    }

    #[test]
    fn archive_with_names_that_leave_it_is_refused() {
        for name in ["../evil", "/etc/passwd", "fs/../../evil"] {
            let reason = error_of(&raw(&[(name, T::Regular, b"x")]));
            assert!(reason.contains("bad entry name"), "{name}: {reason}");
        }
    }

    #[test]
    fn archive_in_a_folder_is_recognised() {
        let tar = raw(&[("alpine/", T::Directory, b""), ("alpine/image.json", T::Regular, b"{}")]);
        let image = archive(read_archive(&gzip(&tar)[..], SMALL).unwrap());
        assert_eq!(image.folder_with("image.json").as_deref(), Some("alpine"));
    }

    #[test]
    fn archive_bomb_in_one_file_hits_the_limit() {
        let zeros = vec![0; (SMALL.total_bytes + 1) as usize];
        assert!(error_of(&raw(&[("bomb", T::Regular, &zeros)])).contains("unpacks to more than"));
        let fits = &zeros[1..];
        assert!(read_archive(&gzip(&raw(&[("ok", T::Regular, fits)]))[..], SMALL).is_ok());
    }

    #[test]
    fn archive_bomb_in_many_files_hits_the_limit() {
        let half = vec![0; (SMALL.total_bytes / 2 + 1) as usize];
        let tar = raw(&[("a", T::Regular, &half), ("b", T::Regular, &half)]);
        assert!(error_of(&tar).contains("unpacks to more than"));
        let tar = raw(&[("a", T::Fifo, &half), ("b", T::Fifo, &half), ("c", T::Fifo, &half)]);
        assert!(error_of(&tar).contains("unpacks to more than"));
    }

    #[test]
    fn archive_bomb_in_long_names_hits_the_limit() {
        let name = vec![b'n'; (SMALL.header_bytes + 1) as usize];
        let tar = raw(&[("././@LongLink", T::GNULongName, &name), ("n", T::Regular, b"x")]);
        assert!(error_of(&tar).contains("unpacks to more than"));
        let tar = raw(&[("pax", T::XHeader, &name), ("n", T::Regular, b"x")]);
        assert!(error_of(&tar).contains("unpacks to more than"));
    }

    #[test]
    fn archive_sparse_bomb_hits_the_limit() {
        let mut bomb = header("bomb", T::GNUSparse, 0);
        let gnu = bomb.as_gnu_mut().unwrap();
        gnu.sparse[0].offset = *b"77777777777\0";
        gnu.sparse[0].numbytes = *b"00000000000\0";
        gnu.realsize = *b"77777777777\0";
        bomb.set_cksum();
        let mut tar = bomb.as_bytes().to_vec();
        tar.resize(tar.len() + 1024, 0);
        let reason = error_of(&tar);
        assert!(reason.contains("unpacks to more than") || reason.contains("sparse"), "{reason}");
    }

    #[test]
    fn archive_with_too_many_entries_hits_the_limit() {
        let names: Vec<String> = (0..=SMALL.entries).map(|i| i.to_string()).collect();
        let entries: Vec<_> = names.iter().map(|n| (n.as_str(), T::Regular, &b""[..])).collect();
        assert!(error_of(&raw(&entries)).contains("more than 20 entries"));
    }

    #[test]
    fn archive_header_that_lies_about_its_size_allocates_nothing_and_fails() {
        let mut tar = header("big", T::Regular, u64::MAX / 4).as_bytes().to_vec();
        tar.extend_from_slice(b"short");
        let reason = error_of(&tar);
        assert!(reason.contains("unexpected end of file"), "{reason}");
    }

    #[test]
    fn archive_cut_anywhere_is_an_error() {
        let noise: Vec<u8> = (0..2000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let whole = gzip(&raw(&[("image.json", T::Regular, b"{}"), ("fs/a", T::Regular, &noise)]));
        for len in 0..whole.len() {
            assert!(read_archive(&whole[..len], SMALL).is_err(), "cut at {len} was accepted");
        }
        assert!(read_archive(&whole[..], SMALL).is_ok());
    }

    #[test]
    fn archive_with_a_flipped_bit_never_panics_and_never_reads_differently() {
        let json = br#"{"a": [1, 2, 3]}"#;
        let whole = gzip(&raw(&[("image.json", T::Regular, json)]));
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bad = whole.clone();
                bad[at] ^= 1 << bit;
                // Some bits do not matter: the time in the header, padding after the last symbol.
                if let Ok(entries) = read_archive(&bad[..], SMALL) {
                    let read = archive(entries).read("image.json", 100);
                    assert_eq!(read.unwrap(), json, "bit {bit} of byte {at}");
                }
            }
        }
    }
}
