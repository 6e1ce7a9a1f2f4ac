//! Images: what `env86 boot` and the other verbs take.
//!
//! An image is a directory, or a gzip-compressed tar archive of one:
//!
//! ```text
//! image.json               required; configuration, see `image_json`
//! fs.json                  index of the guest's file tree
//! fs/<name>                file contents
//! initial.state[.zst]      snapshot, optional
//! ```
//!
//! Files are asked for by their name inside the image. Names are cleaned lexically; none leaves
//! the image, whatever an archive or `image.json` says.

mod dir;
pub mod image_json;
pub mod kernel_source;
pub mod store;
mod tgz;
pub mod tree;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::limits::{self, ArchiveLimits};
use crate::progress::Progress;
use crate::snapshot::source::Stored;
use image_json::{ImageJson, JsonError};

/// Name of the configuration file.
pub const IMAGE_JSON: &str = "image.json";

/// Names of snapshots, the preferred first.
pub const STATE_FILES: [&str; 2] = ["initial.state.zst", "initial.state"];

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file system refused the image itself.
    #[error("Cannot open the image: {}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// Neither a path nor a name in the store.
    #[error("Cannot find the image: {}: {}", name.to_string_lossy(), match home {
        Some(home) => format!("no such path, and no image of that name in {}", home.display()),
        None => "no such path".to_owned(),
    })]
    NotFound {
        /// The argument.
        name: std::ffi::OsString,
        /// The store that was searched.
        home: Option<PathBuf>,
    },
    /// The archive cannot be read.
    #[error("Cannot read the image archive: {}: {reason}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// `image.json` is missing.
    #[error("Cannot open the image: {}: no image.json found in image", path.display())]
    NoImageJson {
        /// The image.
        path: PathBuf,
        /// The archive holds the image in this folder.
        inside: Option<String>,
    },
    /// `image.json` is not what it should be.
    #[error("Cannot read the image's configuration: {}: {reason}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Syntax error, or key and reason.
        reason: JsonError,
    },
    /// A file of the image is missing.
    #[error("Cannot read from the image: {}: no such file", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// A name inside the image is not allowed.
    #[error("Cannot read from the image: {}: bad name {name:?}: {reason}", path.display())]
    BadName {
        /// The image.
        path: PathBuf,
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A file of the image cannot be read.
    #[error("Cannot read from the image: {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// The name belongs to something that is no regular file.
    #[error("Cannot read from the image: {}: {what}", file.display())]
    NotAFile {
        /// The file.
        file: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file of the image is larger than this version accepts.
    #[error("Cannot read from the image: {}: larger than {limit} bytes", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
}

impl ImageError {
    /// What the user can try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { name, .. } => {
                let name = name.to_string_lossy();
                let looks_like_a_path = name.starts_with(['.', '/', '~']) || name.ends_with(".tgz");
                Some(if looks_like_a_path {
                    "an image is a directory or a .tgz archive with an image.json".to_owned()
                } else {
                    "give a directory, a .tgz archive, or the name of a pulled image".to_owned()
                })
            }
            Self::NoImageJson { inside: Some(folder), .. } => Some(format!(
                "the archive holds the image in '{folder}/'; pack it with: tar -C {folder} -czf image.tgz ."
            )),
            Self::NoImageJson { inside: None, .. } => {
                Some("an image.json holding {} makes a directory an image".to_owned())
            }
            _ => None,
        }
    }
}

/// An opened image.
#[derive(Clone)]
pub struct Image {
    path: PathBuf,
    files: Arc<Files>,
    json: Arc<ImageJson>,
}

enum Files {
    Dir(dir::DirImage),
    Archive(tgz::ArchiveImage),
}

impl Image {
    /// Opens the image at `path`: a directory, or anything else as a gzip-compressed tar archive.
    ///
    /// # Errors
    /// See [`ImageError`]; `image.json` is read and checked here.
    pub fn open(path: &Path, progress: &Progress) -> Result<Self, ImageError> {
        Self::open_with_limits(path, progress, ArchiveLimits::default())
    }

    /// [`Image::open`] with other limits for archives.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn open_with_limits(
        path: &Path,
        progress: &Progress,
        archive_limits: ArchiveLimits,
    ) -> Result<Self, ImageError> {
        let open_error = |source| ImageError::Open { path: path.to_owned(), source };
        let kind = std::fs::metadata(path).map_err(open_error)?;
        let files = if kind.is_dir() {
            Files::Dir(dir::DirImage::new(path.to_owned()))
        } else if kind.is_file() {
            Files::Archive(tgz::ArchiveImage::open(path, progress, archive_limits)?)
        } else {
            return Err(open_error(io::Error::other("neither a directory nor a file")));
        };
        let mut image =
            Self { path: path.to_owned(), files: Arc::new(files), json: Arc::new(ImageJson::default()) };
        let text = match image.read(IMAGE_JSON, limits::MAX_IMAGE_JSON) {
            Ok(text) => text,
            Err(ImageError::Missing { .. }) => {
                return Err(ImageError::NoImageJson { path: path.to_owned(), inside: image.folder_inside() });
            }
            Err(error) => return Err(error),
        };
        let json = ImageJson::parse(&text)
            .map_err(|reason| ImageError::Json { file: image.file(IMAGE_JSON), reason })?;
        image.json = Arc::new(json);
        Ok(image)
    }

    /// The image's own path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its configuration.
    pub fn json(&self) -> &ImageJson {
        &self.json
    }

    /// Path of the file `name` of this image, for messages.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name.trim_start_matches('/'))
    }

    /// Whole content of the file `name`, at most `limit` bytes.
    ///
    /// # Errors
    /// [`ImageError::Missing`], [`ImageError::TooLarge`], [`ImageError::BadName`] and the host's.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let clean = clean_name(name).map_err(|reason| ImageError::BadName {
            path: self.path.clone(),
            name: name.to_owned(),
            reason,
        })?;
        match &*self.files {
            Files::Dir(dir) => dir.read(&clean, limit),
            Files::Archive(archive) => archive.read(&clean, limit),
        }
    }

    /// The file `name` for reading at any place.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn stored(&self, name: &str) -> Result<Stored, ImageError> {
        let clean = clean_name(name).map_err(|reason| ImageError::BadName {
            path: self.path.clone(),
            name: name.to_owned(),
            reason,
        })?;
        match &*self.files {
            Files::Dir(dir) => {
                let failed = |source| ImageError::Read { file: self.file(&clean), source };
                Stored::file(dir.open(&clean)?).map_err(failed)
            }
            Files::Archive(archive) => Ok(Stored::Bytes(archive.shared(&clean)?)),
        }
    }

    /// True if there is a file or folder `name`.
    pub fn contains(&self, name: &str) -> bool {
        let Ok(clean) = clean_name(name) else { return false };
        match &*self.files {
            Files::Dir(dir) => dir.contains(&clean),
            Files::Archive(archive) => archive.contains(&clean),
        }
    }

    /// True for archives: they are read whole into memory.
    pub fn is_archive(&self) -> bool {
        matches!(&*self.files, Files::Archive(_))
    }

    fn folder_inside(&self) -> Option<String> {
        match &*self.files {
            Files::Dir(_) => None,
            Files::Archive(archive) => archive.folder_with(IMAGE_JSON),
        }
    }
}

/// Cleans a name inside an image: `/`-separated, without `.`, `..` and empty components.
///
/// # Errors
/// Why the name cannot be meant: absolute, or leading out of the image.
pub fn clean_name(name: &str) -> Result<String, &'static str> {
    if name.starts_with('/') {
        return Err("it is absolute");
    }
    if name.contains('\0') {
        return Err("it contains a NUL byte");
    }
    if cfg!(windows) && name.contains(['\\', ':']) {
        return Err("it contains a character that Windows gives a meaning");
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or("it leads out of the image")?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Reads all of `reader`, but not more than `limit` bytes; `None` if there is more. `expected` is
/// a size somebody claims: it is not believed beyond a megabyte.
fn read_limited(reader: impl Read, expected: u64, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(expected.min(limit).min(1 << 20) as usize);
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_name_resolves_dots_lexically() {
        assert_eq!(clean_name("./fs/../image.json").as_deref(), Ok("image.json"));
        assert_eq!(clean_name("fs//./a").as_deref(), Ok("fs/a"));
        assert_eq!(clean_name("./").as_deref(), Ok(""));
        assert_eq!(clean_name("..."), Ok("...".to_owned()));
    }

    #[test]
    fn clean_name_refuses_names_that_leave_the_image() {
        for name in ["..", "../x", "fs/../../x", "/etc/passwd", "a\0b"] {
            assert!(clean_name(name).is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn read_limited_tells_exact_from_too_long() {
        assert_eq!(read_limited(&b"abc"[..], u64::MAX, 3).unwrap().as_deref(), Some(&b"abc"[..]));
        assert_eq!(read_limited(&b"abcd"[..], 0, 3).unwrap(), None);
    }
}
