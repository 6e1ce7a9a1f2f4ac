//! Where an image keeps its snapshots.
//!
//! | what | where |
//! | --- | --- |
//! | the image's snapshot | `initial.state.zst`, else `initial.state`, else what `image.json` names: `initial_state`, else `initial_state_parts` files `state/initial.state.N` |
//! | named snapshots of a directory | `snapshots/NAME.state.zst`, else `snapshots/NAME.state` |

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use emu_core::snapshot::{Limits, Reader};

use super::SnapshotFileError;
use super::source::{StateSource, Stored};
use crate::image::kernel_source::name_in_image;
use crate::image::{Image, ImageError, STATE_FILES, store};
use crate::limits;

/// Folder of an image directory that holds named snapshots.
pub const FOLDER: &str = "snapshots";

/// Ends of a named snapshot's file name, the preferred first.
pub const EXTENSIONS: [&str; 2] = [".state.zst", ".state"];

/// Folder and beginning of the names of a split snapshot's files.
pub const PARTS: &str = "state/initial.state.";

type Result<T> = std::result::Result<T, SnapshotFileError>;

/// Name of a snapshot: part of a file name on any host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// Why it cannot be one.
    pub fn parse(text: &str) -> std::result::Result<Self, &'static str> {
        if text.is_empty() {
            return Err("it is empty");
        }
        if text.len() > limits::MAX_SNAPSHOT_NAME {
            return Err("it is too long");
        }
        if text.starts_with(['.', '-']) {
            return Err("it begins with a dot or a dash");
        }
        let good = |c: char| c.is_alphanumeric() || "._-+@=,".contains(c);
        if !text.chars().all(good) {
            return Err("only letters, digits and . _ - + @ = , are possible");
        }
        if text.ends_with('.') || EXTENSIONS.iter().any(|end| text.ends_with(end)) {
            return Err("it ends like a file name");
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Finds what `IMAGE[:name]` means. What exists as an image is one, whatever is in its name.
///
/// # Errors
/// There is no such image, or the name is not possible.
pub fn resolve(argument: &OsStr, home: Option<&Path>) -> Result<(PathBuf, Option<Name>)> {
    let whole = match store::resolve(argument, home) {
        Ok(path) => return Ok((path, None)),
        Err(error @ ImageError::NotFound { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    let Some((image, name)) = argument.to_str().and_then(|text| text.rsplit_once(':')) else {
        return Err(whole.into());
    };
    let Ok(path) = store::resolve(OsStr::new(image), home) else { return Err(whole.into()) };
    match Name::parse(name) {
        Ok(name) => Ok((path, Some(name))),
        Err(reason) => Err(SnapshotFileError::BadName { name: name.to_owned(), reason }),
    }
}

/// A snapshot that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The file of this name in the image.
    File(String),
    /// So many parts.
    Parts(u64),
}

/// The image's own snapshot, if it has one.
///
/// # Errors
/// `image.json` names one that is not in the image.
pub fn current(image: &Image) -> Result<Option<Found>> {
    if let Some(name) = STATE_FILES.into_iter().find(|name| image.contains(name)) {
        return Ok(Some(Found::File(name.to_owned())));
    }
    let json = image.json();
    if let Some(file) = &json.initial_state {
        let name = name_in_image(&file.url)
            .map_err(|reason| SnapshotFileError::Url { image: image.path().to_owned(), reason })?;
        return Ok(Some(Found::File(name)));
    }
    Ok(json.initial_state_parts.map(Found::Parts))
}

/// The snapshot `name` of the image, if it has that one.
pub fn named(image: &Image, name: &Name) -> Option<Found> {
    let files = EXTENSIONS.iter().map(|end| format!("{FOLDER}/{name}{end}"));
    files.into_iter().find(|file| image.contains(file)).map(Found::File)
}

/// The image's own snapshot, or the one of that name.
///
/// # Errors
/// As [`current`]; there is none of that name.
pub fn find(image: &Image, name: Option<&Name>) -> Result<Option<Found>> {
    let Some(name) = name else { return current(image) };
    let missing = || SnapshotFileError::Missing {
        image: image.path().to_owned(),
        name: name.clone(),
        others: list(image.path()).into_iter().map(|entry| entry.name).collect(),
    };
    named(image, name).map(Some).ok_or_else(missing)
}

/// A named snapshot's file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Its file.
    pub path: PathBuf,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// When it was written.
    pub modified: Option<SystemTime>,
}

/// The named snapshots of the image directory `image`, by name.
pub fn list(image: &Path) -> Vec<Entry> {
    let Ok(files) = std::fs::read_dir(image.join(FOLDER)) else { return Vec::new() };
    let mut found: Vec<Entry> = Vec::new();
    for file in files.flatten() {
        let file_name = file.file_name();
        let Some(text) = file_name.to_str() else { continue };
        let Some(text) = EXTENSIONS.iter().find_map(|end| text.strip_suffix(end)) else { continue };
        let Ok(name) = Name::parse(text) else { continue };
        let Ok(meta) = std::fs::metadata(file.path()) else { continue };
        let entry = Entry { name, path: file.path(), bytes: meta.len(), modified: meta.modified().ok() };
        if meta.is_file() {
            found.push(entry);
        }
    }
    // The compressed one of two comes first, and is the one that counts.
    found.sort_by(|a, b| a.name.cmp(&b.name).then(b.path.cmp(&a.path)));
    found.dedup_by(|b, a| a.name == b.name);
    found
}

/// A snapshot opened for reading.
pub struct Opened {
    /// Its file, for messages: that of the first part if there are several.
    pub path: PathBuf,
    /// How many parts it has, if it is split.
    pub parts: Option<u64>,
    /// Stored bytes.
    pub stored: u64,
    /// It is compressed.
    pub compressed: bool,
    /// Header and info block, and the way to the rest.
    pub reader: Reader<StateSource>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Found {
    /// Its file, or that of its first part, in `image`.
    pub fn path(&self, image: &Image) -> PathBuf {
        match self {
            Self::File(name) => image.file(name),
            Self::Parts(_) => image.file(&format!("{PARTS}0")),
        }
    }

    /// The bytes as they are stored.
    ///
    /// # Errors
    /// A file is missing or cannot be opened.
    pub fn stored(&self, image: &Image) -> Result<Stored> {
        match self {
            Self::File(name) => Ok(image.stored(name)?),
            Self::Parts(count) => {
                let count = *count;
                if count > limits::MAX_SNAPSHOT_PARTS {
                    let path = image.path().to_owned();
                    return Err(SnapshotFileError::TooManyParts { path, count });
                }
                let parts = (0..count).map(|n| match image.stored(&format!("{PARTS}{n}")) {
                    Err(ImageError::Missing { file }) => {
                        Err(SnapshotFileError::Part { file, number: n + 1, count })
                    }
                    other => Ok(other?),
                });
                Ok(Stored::joined(parts.collect::<Result<Vec<_>>>()?))
            }
        }
    }

    /// Opens it and reads its header.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(&self, image: &Image) -> Result<Opened> {
        let parts = match self {
            Self::Parts(count) => Some(*count),
            Self::File(_) => None,
        };
        Ok(Opened { parts, ..open(self.path(image), self.stored(image)?)? })
    }
}

/// Opens stored bytes, from `path`, as a snapshot.
///
/// # Errors
/// It is none.
pub fn open(path: PathBuf, stored: Stored) -> Result<Opened> {
    let bytes = stored.len();
    let source =
        stored.into_source().map_err(|source| SnapshotFileError::Open { path: path.clone(), source })?;
    let compressed = source.is_compressed();
    let reader = Reader::open(source, Limits::default()).map_err(|source| SnapshotFileError::Read {
        path: path.clone(),
        compressed,
        source,
    })?;
    Ok(Opened { path, parts: None, stored: bytes, compressed, reader })
}

/// Opens the snapshot file `path`.
///
/// # Errors
/// It is none.
pub fn open_file(path: &Path) -> Result<Opened> {
    let failed = |source| SnapshotFileError::Open { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    open(path.to_owned(), Stored::file(file).map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use std::fs;

    fn image(json: &str, files: &[&str]) -> (tempfile::TempDir, Image) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("image.json"), json).unwrap();
        for name in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let image = Image::open(dir.path(), &Progress::hidden()).unwrap();
        (dir, image)
    }

    #[test]
    fn current_snapshot_is_the_file_then_what_image_json_says() {
        let json = r#"{"initial_state": {"url": "./other.state"}, "initial_state_parts": 2}"#;
        let file = |name: &str| Some(Found::File(name.to_owned()));
        let current = |json: &str, files: &[&str]| current(&image(json, files).1).unwrap();
        assert_eq!(current("{}", &[]), None);
        assert_eq!(current(json, &["initial.state", "initial.state.zst"]), file("initial.state.zst"));
        assert_eq!(current(json, &["initial.state"]), file("initial.state"));
        assert_eq!(current(json, &[]), file("other.state"));
        assert_eq!(current(r#"{"initial_state_parts": 2}"#, &[]), Some(Found::Parts(2)));
    }

    #[test]
    fn snapshot_elsewhere_is_an_error() {
        let (_dir, image) = image(r#"{"initial_state": {"url": "https://h/s"}}"#, &[]);
        assert!(matches!(current(&image), Err(SnapshotFileError::Url { .. })));
    }

    #[test]
    fn parts_are_joined_and_a_missing_one_is_named() {
        let names: Vec<String> = (0..11).map(|n| format!("{PARTS}{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (_dir, image) = image(r#"{"initial_state_parts": 11}"#, &names);
        let stored = Found::Parts(11).stored(&image).unwrap();
        let mut all = vec![0; stored.len() as usize];
        stored.read_at(0, &mut all).unwrap();
        assert_eq!(String::from_utf8(all).unwrap(), names.concat());
        let missing = Found::Parts(13).stored(&image).unwrap_err();
        assert!(missing.to_string().contains("initial.state.11: part 12 of 13 is missing"), "{missing}");
        let many = Found::Parts(u64::MAX).stored(&image).unwrap_err();
        assert!(matches!(many, SnapshotFileError::TooManyParts { .. }));
    }

    #[test]
    fn named_snapshots_are_listed_once() {
        let files = [
            "snapshots/b.state",
            "snapshots/a.state",
            "snapshots/a.state.zst",
            "snapshots/x",
            "snapshots/.t.state",
        ];
        let (dir, image) = image("{}", &files);
        let found: Vec<_> = list(dir.path()).iter().map(|e| (e.name.to_string(), e.bytes)).collect();
        assert_eq!(found, [("a".to_owned(), 21), ("b".to_owned(), 17)]);
        let name = |text| Name::parse(text).unwrap();
        assert_eq!(named(&image, &name("a")), Some(Found::File("snapshots/a.state.zst".to_owned())));
        let error = find(&image, Some(&name("c"))).unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("there are: a, b"));
    }

    #[test]
    fn names_are_parts_of_file_names() {
        for good in ["a", "before-upgrade", "v1.2_3", "größe", "a@b"] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a\\b", "a:b", "a b", "a.", "a.state", "x\0", &"x".repeat(101)] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn path_that_exists_wins_over_a_name_after_a_colon() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).into_os_string();
        for name in ["img", "img:old"] {
            fs::create_dir(at(name)).unwrap();
        }
        assert_eq!(resolve(&at("img:old"), None).unwrap(), (at("img:old").into(), None));
        let (path, name) = resolve(&at("img:new"), None).unwrap();
        assert_eq!((path.into_os_string(), name.unwrap().as_str()), (at("img"), "new"));
        assert!(matches!(resolve(&at("img:"), None), Err(SnapshotFileError::BadName { .. })));
        let missing = resolve(&at("gone:new"), None).unwrap_err();
        assert!(missing.to_string().contains("gone:new: no such path"), "{missing}");
    }
}
