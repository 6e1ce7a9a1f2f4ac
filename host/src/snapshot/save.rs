//! Saving into an image.
//!
//! What is written follows what is there, as the old env86 had it: a compressed snapshot stays compressed,
//! any other and a new one are raw. A named file of `image.json` is written where it is.
//!
//! A split snapshot (`state/initial.state.N`, for web pages) cannot be replaced in one step. It becomes
//! `initial.state`: from the moment that file is there, env86 loads it, and so does the old env86. Then
//! `image.json` is changed to name it, from when on web pages load it too; then the parts go. Whoever
//! loads the image between two steps gets the old snapshot or the new one, whole.
//!
//! The same goes for a snapshot whose compression changes: the preferred name decides, and the file that
//! is not wanted any more goes last.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use emu_core::snapshot::{Output, Written};
use emu_devices::machine::MachineSnapshot;
use serde_json::json;

use super::archive::{self, Member};
use super::atomic::{self, Replacement, directory_of};
use super::locate::{self, EXTENSIONS, FOLDER, Found, Name, PARTS};
use super::output::{Counted, SparseFile, ZstdFile};
use super::source::Stored;
use super::{SnapshotFileError, locate::current};
use crate::image::{IMAGE_JSON, Image, STATE_FILES};
use crate::progress::{Progress, Task};

type Result<T> = std::result::Result<T, SnapshotFileError>;

/// A machine's state that can be written.
pub trait Capture {
    /// Bytes of guest memory in it.
    fn stored_bytes(&self) -> u64;

    /// Writes it; `mappable` for a raw file.
    ///
    /// # Errors
    /// The output's.
    fn write(&mut self, out: &mut dyn Output, mappable: bool) -> io::Result<Written>;
}

impl Capture for MachineSnapshot<'_> {
    fn stored_bytes(&self) -> u64 {
        MachineSnapshot::stored_bytes(self)
    }

    fn write(&mut self, out: &mut dyn Output, mappable: bool) -> io::Result<Written> {
        MachineSnapshot::write(self, out, mappable)
    }
}

/// Where a snapshot is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    place: Place,
    compressed: bool,
    /// The image had so many parts.
    parts: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A file, and another one that is to go afterwards.
    File { image: PathBuf, path: PathBuf, obsolete: Option<PathBuf> },
    /// A member of an archive.
    Member { archive: PathBuf, name: String, image_json: Vec<u8> },
}

/// What was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Where, for messages.
    pub path: PathBuf,
    /// Bytes of the snapshot, decompressed.
    pub bytes: u64,
}

impl Target {
    /// The image's own snapshot; `compressed` if the user has a wish.
    ///
    /// # Errors
    /// `image.json` names a snapshot that is not in the image; the image cannot be read.
    pub fn current(image: &Image, compressed: Option<bool>) -> Result<Self> {
        let [zstd_file, raw_file] = STATE_FILES;
        let wish = compressed;
        let (found, parts) = match current(image)? {
            Some(Found::Parts(parts)) => (None, parts),
            Some(Found::File(name)) => (Some(name), 0),
            None => (None, 0),
        };
        let (name, compressed) = match found {
            Some(name) if !STATE_FILES.contains(&name.as_str()) => {
                let was = match image.contains(&name) {
                    true => is_compressed(image, &name)?,
                    false => name.ends_with(".zst"),
                };
                (name, compressed.unwrap_or(was))
            }
            found => {
                let compressed = compressed.unwrap_or(found.as_deref() == Some(zstd_file));
                (if compressed { zstd_file } else { raw_file }.to_owned(), compressed)
            }
        };
        let other = match name.as_str() {
            name if name == raw_file => Some(zstd_file),
            name if name == zstd_file && wish.is_some() => Some(raw_file),
            _ => None,
        };
        Self::at(image, name, other, compressed, parts)
    }

    /// The snapshot `name` of the image; a new one is compressed if `compressed`.
    ///
    /// # Errors
    /// The image is an archive.
    pub fn named(image: &Image, name: &Name, compressed: Option<bool>) -> Result<Self> {
        if image.is_archive() {
            return Err(SnapshotFileError::Archive { image: image.path().to_owned() });
        }
        let [zstd, raw] = EXTENSIONS.map(|end| format!("{FOLDER}/{name}{end}"));
        let compressed = compressed.unwrap_or(locate::named(image, name) == Some(Found::File(zstd.clone())));
        let (file, other) = if compressed { (zstd, raw) } else { (raw, zstd) };
        Self::at(image, file, Some(&other), compressed, 0)
    }

    fn at(image: &Image, name: String, other: Option<&str>, compressed: bool, parts: u64) -> Result<Self> {
        let failed = |source| SnapshotFileError::Save { path: image.path().to_owned(), source };
        // A store's `latest` is a link, and what it leads to is what changes.
        let root = image.path().canonicalize().map_err(failed)?;
        let place = if image.is_archive() {
            let image_json = if parts > 0 { without_parts(image) } else { Vec::new() };
            Place::Member { archive: root, name, image_json }
        } else {
            let obsolete = other.map(|other| root.join(other)).filter(|other| other.exists());
            Place::File { path: root.join(name), image: root, obsolete }
        };
        Ok(Self { place, compressed, parts })
    }

    /// Where, for messages.
    pub fn path(&self) -> PathBuf {
        match &self.place {
            Place::File { path, .. } => path.clone(),
            Place::Member { archive, name, .. } => archive.join(name),
        }
    }

    /// Finds out whether anything can be written there.
    ///
    /// # Errors
    /// The host's reason why not.
    pub fn check(&self) -> Result<()> {
        let path = match &self.place {
            // The folder may not be there yet.
            Place::File { image, path, .. } if path.starts_with(image.join(FOLDER)) => image.join(IMAGE_JSON),
            Place::File { path, .. } | Place::Member { archive: path, .. } => path.clone(),
        };
        let failed = |source| SnapshotFileError::Save { path: self.path(), source };
        Replacement::create(&path).map(drop).map_err(failed)
    }

    /// Saves a machine.
    ///
    /// # Errors
    /// The host's; what was there before is still there.
    pub fn save(&self, capture: &mut dyn Capture, progress: &Progress) -> Result<Saved> {
        let total = capture.stored_bytes();
        let mut bytes = 0;
        self.write(total, progress, &mut |out, mappable| {
            bytes = capture.write(out, mappable)?.bytes;
            Ok(())
        })?;
        Ok(Saved { path: self.path(), bytes })
    }

    /// Saves a copy of stored bytes, which are compressed if the target is.
    ///
    /// # Errors
    /// The host's; what was there before is still there.
    pub fn copy(&self, stored: Stored, progress: &Progress) -> Result<()> {
        let task = progress.bytes("Copying", stored.len());
        let len = stored.len();
        self.replace(progress, &mut |mut file| {
            if clone_file(&stored, file) {
                return Ok(());
            }
            let mut out = SparseFile::new(&mut file);
            copy_sparse(&stored, len, &mut Counted::new(&mut out, task.counter()))?;
            out.finish().map(drop)
        })
    }

    fn write(
        &self,
        total: u64,
        progress: &Progress,
        write: &mut dyn FnMut(&mut dyn Output, bool) -> io::Result<()>,
    ) -> Result<()> {
        let task = progress.bytes("Saving", total);
        let mut write =
            |out: &mut dyn Output, mappable| write(&mut Counted::new(out, task.counter()), mappable);
        self.replace(progress, &mut |mut file| match self.compressed {
            true => {
                let mut out = ZstdFile::new(io::BufWriter::with_capacity(1 << 20, &mut file))?;
                write(&mut out, false)?;
                out.finish()?.flush()
            }
            false => {
                let mut out = SparseFile::new(&mut file);
                write(&mut out, true)?;
                out.finish().map(drop)
            }
        })
    }

    /// Puts what `write` writes in place.
    fn replace(&self, progress: &Progress, write: &mut dyn FnMut(&File) -> io::Result<()>) -> Result<()> {
        let path = self.path();
        let failed = |source| SnapshotFileError::Save { path: path.clone(), source };
        match &self.place {
            Place::File { image, path, obsolete } => {
                let in_folder = path.parent().is_some_and(|folder| folder.ends_with(FOLDER));
                if in_folder && !directory_of(path).exists() {
                    let made = fs::create_dir_all(directory_of(path));
                    made.and_then(|()| atomic::sync_directory(image)).map_err(failed)?;
                }
                replace_file(path, write).map_err(failed)?;
                self.clean_up(image, obsolete.as_deref()).map_err(failed)
            }
            Place::Member { archive, name, image_json } => {
                let new = Replacement::create(archive).map_err(failed)?;
                // The archive says how long a member is before the member comes.
                let content = Replacement::create(archive).map_err(failed)?;
                let rewritten = content.file().and_then(write).and_then(|()| {
                    let mut content = content.file()?;
                    content.rewind()?;
                    let len = content.metadata()?.len();
                    let mut members = vec![Member { name, content: &mut content, len }];
                    let mut image_json = &image_json[..];
                    if self.parts > 0 {
                        let len = image_json.len() as u64;
                        members.push(Member { name: IMAGE_JSON, content: &mut image_json, len });
                    }
                    let old = File::open(archive)?;
                    let task = progress.bytes("Writing the archive", old.metadata()?.len());
                    self.rewrite(&task, old, new.file()?, &mut members)
                });
                rewritten.and_then(|()| new.commit()).map_err(failed)
            }
        }
    }

    fn rewrite(&self, task: &Task, old: File, new: &File, members: &mut [Member<'_>]) -> io::Result<()> {
        let replaced: Vec<String> = members.iter().map(|member| member.name.to_owned()).collect();
        let [preferred, raw] = STATE_FILES;
        let leave_out = |name: &str| {
            let part = || name.strip_prefix(PARTS).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
            // A file that would be preferred to the new one.
            let hides = || name == preferred && replaced.iter().any(|new| new == raw);
            replaced.iter().any(|new| new == name) || self.parts > 0 && part() || hides()
        };
        let old = io::BufReader::with_capacity(1 << 18, task.reader(old));
        let new = io::BufWriter::with_capacity(1 << 18, new);
        archive::rewrite(old, new, &leave_out, members)?.flush()
    }

    /// Removes what the new snapshot takes the place of, besides its own file.
    fn clean_up(&self, image: &Path, obsolete: Option<&Path>) -> io::Result<()> {
        if let Some(obsolete) = obsolete {
            match fs::remove_file(obsolete) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.parts > 0 {
            let path = image.join(IMAGE_JSON);
            let text = fs::read(&path)?;
            if let Some(text) = change_image_json(&text) {
                replace_file(&path, &mut |mut file| file.write_all(&text))?;
            }
            for part in 0..self.parts {
                // A part that stays is in nobody's way: nothing names it any more.
                let _ = fs::remove_file(image.join(format!("{PARTS}{part}")));
            }
            let _ = fs::remove_dir(image.join("state"));
        }
        Ok(())
    }
}

fn replace_file(path: &Path, write: &mut dyn FnMut(&File) -> io::Result<()>) -> io::Result<()> {
    let new = Replacement::create(path)?;
    write(new.file()?)?;
    new.commit()
}

/// `image.json` that names the snapshot as one file instead of parts, the way the old env86 names it.
fn change_image_json(text: &[u8]) -> Option<Vec<u8>> {
    let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).ok()?;
    json.remove("initial_state_parts")?;
    json.insert("initial_state".to_owned(), json!({ "url": format!("/image/{}", STATE_FILES[1]) }));
    serde_json::to_vec_pretty(&json).ok()
}

fn without_parts(image: &Image) -> Vec<u8> {
    let text = serde_json::to_vec(&image.json().raw).unwrap_or_default();
    change_image_json(&text).unwrap_or(text)
}

fn is_compressed(image: &Image, name: &str) -> Result<bool> {
    let open = |source| SnapshotFileError::Open { path: image.file(name), source };
    image.stored(name)?.is_compressed().map_err(open)
}

/// Makes `to` share the blocks of a stored file, where the host can: it takes no time and no space.
#[cfg(target_os = "linux")]
fn clone_file(stored: &Stored, to: &File) -> bool {
    match stored {
        Stored::File { file, .. } => rustix::fs::ioctl_ficlone(to, file).is_ok(),
        _ => false,
    }
}

#[cfg(not(target_os = "linux"))]
fn clone_file(_: &Stored, _: &File) -> bool {
    false
}

/// Copies bytes, leaving holes for zeros.
fn copy_sparse(from: &Stored, len: u64, out: &mut dyn Output) -> io::Result<()> {
    const PIECE: usize = 1 << 20;
    const PAGE: usize = 4096;
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < len {
        let piece = buffer.get_mut(..(len - at).min(PIECE as u64) as usize).unwrap_or_default();
        from.read_at(at, piece)?;
        for page in piece.chunks(PAGE) {
            if page.len() == PAGE && page.iter().fold(0, |all, b| all | b) == 0 {
                out.zeros(PAGE as u64)?;
            } else {
                out.write(page)?;
            }
        }
        at += piece.len() as u64;
    }
    Ok(())
}

/// Removes what processes left in or beside an image that were killed while saving.
pub fn sweep(image: &Path) {
    let Ok(image) = image.canonicalize() else { return };
    if image.is_dir() {
        atomic::sweep(&image, None);
        atomic::sweep(&image.join(FOLDER), None);
    } else {
        // Other files beside an archive are none of our business.
        atomic::sweep(directory_of(&image), image.file_name());
    }
}

/// Reads everything, to see whether it is whole.
///
/// # Errors
/// It is not.
pub fn verify(opened: locate::Opened) -> Result<()> {
    let locate::Opened { path, compressed, reader, .. } = opened;
    let checked = reader.load(None);
    checked.map(drop).map_err(|source| SnapshotFileError::Read { path, compressed, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::store;
    use std::ffi::OsStr;
    use std::io::Read;

    /// A snapshot of zeros and ones that can fail.
    struct Fake {
        text: &'static [u8],
        fails: bool,
    }

    impl Capture for Fake {
        fn stored_bytes(&self) -> u64 {
            self.text.len() as u64
        }
        fn write(&mut self, out: &mut dyn Output, mappable: bool) -> io::Result<Written> {
            out.write(if mappable { b"raw " } else { b"" })?;
            out.write(self.text)?;
            if self.fails {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(Written { bytes: self.text.len() as u64 })
        }
    }

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn open(path: &Path) -> Image {
        let path = store::resolve(OsStr::new(path), None).unwrap();
        Image::open(&path, &Progress::hidden()).unwrap()
    }

    fn save(target: &Target, text: &'static str, fails: bool) -> Result<Saved> {
        target.save(&mut Fake { text: text.as_bytes(), fails }, &Progress::hidden())
    }

    /// All files, by name.
    fn files(dir: &Path) -> Vec<String> {
        let mut names = Vec::new();
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path => names.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned()),
                }
            }
        }
        names.sort();
        names
    }

    fn content(image: &Image) -> Vec<u8> {
        let stored = current(image).unwrap().unwrap().stored(image).unwrap();
        let compressed = stored.is_compressed().unwrap();
        let mut bytes = Vec::new();
        stored.into_reader().read_to_end(&mut bytes).unwrap();
        if compressed { zstd::decode_all(&bytes[..]).unwrap() } else { bytes }
    }

    #[test]
    fn snapshot_is_saved_as_the_one_before_was() {
        let old_state = "old";
        let named = r#"{"initial_state": {"url": "./my/own.bin"}}"#;
        for (json, old, expected, bytes) in [
            ("{}", None, "initial.state", "raw new"),
            ("{}", Some("initial.state"), "initial.state", "raw new"),
            ("{}", Some("initial.state.zst"), "initial.state.zst", "new"),
            (named, Some("my/own.bin"), "my/own.bin", "raw new"),
            (named, None, "", ""),
        ] {
            let dir = directory(&[("image.json", json)]);
            if let Some(old) = old {
                fs::create_dir_all(dir.path().join("my")).unwrap();
                fs::write(dir.path().join(old), old_state).unwrap();
            }
            let image = open(dir.path());
            let target = Target::current(&image, None).unwrap();
            if expected.is_empty() {
                // The folder is not there, and nobody asked for one.
                assert!(save(&target, "new", false).is_err());
                continue;
            }
            let saved = save(&target, "new", false).unwrap();
            assert!(saved.path.ends_with(expected), "{}", saved.path.display());
            assert_eq!(files(dir.path()).len(), 2);
            assert_eq!(content(&open(dir.path())), bytes.as_bytes());
        }
    }

    #[test]
    fn error_while_saving_leaves_everything_as_it_was() {
        let dir = directory(&[("image.json", "{}"), ("initial.state", "old"), ("snapshots/a.state", "a")]);
        let image = open(dir.path());
        let before = files(dir.path());
        let a = Name::parse("a").unwrap();
        for target in [
            Target::current(&image, None),
            Target::current(&image, Some(true)),
            Target::named(&image, &a, None),
        ] {
            let error = save(&target.unwrap(), "new", true).unwrap_err();
            assert!(error.to_string().ends_with("unchanged"), "{error}");
            assert_eq!(files(dir.path()), before);
            assert_eq!(content(&image), b"old");
        }
    }

    #[test]
    fn compression_that_changes_leaves_one_file() {
        let dir = directory(&[("image.json", "{}"), ("initial.state", "old")]);
        for (compressed, expected) in [(true, "initial.state.zst"), (false, "initial.state")] {
            let target = Target::current(&open(dir.path()), Some(compressed)).unwrap();
            save(&target, "new", false).unwrap();
            assert_eq!(files(dir.path()), ["image.json", expected]);
        }
        let name = Name::parse("n").unwrap();
        for (compressed, expected) in [(false, "n.state"), (true, "n.state.zst"), (false, "n.state")] {
            let target = Target::named(&open(dir.path()), &name, Some(compressed)).unwrap();
            save(&target, "new", false).unwrap();
            assert_eq!(files(&dir.path().join(FOLDER)), [expected]);
        }
    }

    #[test]
    fn split_snapshot_becomes_one_file_that_image_json_names() {
        let json = r#"{"initial_state_parts": 2, "cmdline": "quiet"}"#;
        let dir = directory(&[
            ("image.json", json),
            ("state/initial.state.0", "ab"),
            ("state/initial.state.1", "c"),
        ]);
        let image = open(dir.path());
        assert_eq!(content(&image), b"abc");
        let target = Target::current(&image, None).unwrap();
        // Saving again during the same run is no different.
        for _ in 0..2 {
            save(&target, "new", false).unwrap();
            assert_eq!(files(dir.path()), ["image.json", "initial.state"]);
        }
        let image = open(dir.path());
        assert_eq!(content(&image), b"raw new");
        assert_eq!(image.json().initial_state_parts, None);
        assert_eq!(image.json().initial_state.as_ref().unwrap().url, "/image/initial.state");
        assert_eq!(image.json().cmdline.as_deref(), Some("quiet"));
    }

    fn pack(dir: &Path, archive: &Path) {
        let gzip = flate2::write::GzEncoder::new(File::create(archive).unwrap(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        tar.append_dir_all(".", dir).unwrap();
        tar.into_inner().unwrap().finish().unwrap();
    }

    #[test]
    fn archive_gets_the_snapshot_and_keeps_the_rest() {
        let parts = r#"{"initial_state_parts": 1}"#;
        for (json, old, expected, bytes) in [
            ("{}", "initial.state", "initial.state", "raw new"),
            ("{}", "initial.state.zst", "initial.state.zst", "new"),
            ("{}", "fs/x", "initial.state", "raw new"),
            (parts, "state/initial.state.0", "initial.state", "raw new"),
        ] {
            let dir = directory(&[("image.json", json), ("fs/a", "A"), (old, "old")]);
            let place = tempfile::tempdir().unwrap();
            let archive = place.path().join("img.tgz");
            pack(dir.path(), &archive);
            let target = Target::current(&open(&archive), None).unwrap();
            assert!(save(&target, "new", true).is_err());
            assert_eq!(files(place.path()), ["img.tgz"]);
            for _ in 0..2 {
                save(&target, "new", false).unwrap();
                assert_eq!(files(place.path()), ["img.tgz"]);
                let image = open(&archive);
                assert_eq!(current(&image).unwrap(), Some(Found::File(expected.to_owned())));
                assert_eq!(content(&image), bytes.as_bytes());
                assert_eq!(image.read("fs/a", 9).unwrap(), b"A");
                assert!(!image.contains("state/initial.state.0"));
            }
            let name = Name::parse("n").unwrap();
            assert!(matches!(
                Target::named(&open(&archive), &name, None),
                Err(SnapshotFileError::Archive { .. })
            ));
        }
    }

    #[test]
    fn copy_is_the_same_bytes_and_a_file_of_its_own() {
        let dir = directory(&[("image.json", "{}"), ("initial.state", "old")]);
        let image = open(dir.path());
        let target = Target::named(&image, &Name::parse("copy").unwrap(), None).unwrap();
        target.copy(image.stored("initial.state").unwrap(), &Progress::hidden()).unwrap();
        fs::write(dir.path().join("initial.state"), "other").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("snapshots/copy.state")).unwrap(), "old");
    }

    #[test]
    fn sweep_looks_beside_archives_only_for_their_own_files() {
        let tmp = |name: &str| format!(".{name}.0123456789abcdef.env86-tmp");
        let dir = directory(&[
            ("image.json", "{}"),
            (&tmp("initial.state"), ""),
            (&format!("snapshots/{}", tmp("n.state")), ""),
        ]);
        sweep(dir.path());
        assert_eq!(files(dir.path()), ["image.json"]);
        let dir = directory(&[("img.tgz", ""), (&tmp("img.tgz"), ""), (&tmp("other.tgz"), "")]);
        sweep(&dir.path().join("img.tgz"));
        assert_eq!(files(dir.path()), [tmp("other.tgz"), "img.tgz".to_owned()]);
    }
}
