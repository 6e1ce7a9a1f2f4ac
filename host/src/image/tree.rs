//! The guest's file tree as an image has it: the index (`fs.json`) and the content files (`fs/`).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::image_json::FilesystemRef;
use super::kernel_source::{UrlError, name_in_image};
use super::{Files, Image, ImageError, clean_name};
use crate::fs::blobs::{BlobBytes, BlobError, BlobSource, DirectoryBlobs, RawBlob};
use crate::fs::fsjson::FsJsonError;
use crate::fs::overlay::{Overlay, OverlayOptions};
use crate::limits;

/// Why the tree cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The index cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// There is no index.
    #[error("Cannot read the image's file tree: {}: no fs.json found in image", image.display())]
    NoIndex {
        /// The image.
        image: PathBuf,
    },
    /// The index makes no sense.
    #[error("Cannot read the image's file tree: {0}")]
    Index(FsJsonError),
    /// `image.json` names an index or contents that are not in the image.
    #[error("Cannot read the image's file tree: {}: filesystem.{key}: {reason}", image.display())]
    Url {
        /// The image.
        image: PathBuf,
        /// "basefs" or "baseurl".
        key: &'static str,
        /// What is wrong with it.
        reason: UrlError,
    },
}

impl TreeError {
    /// What the user can try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image(error) => error.hint(),
            Self::Index(error) if error.field == "version" => {
                Some("recreate the image with a current tool: version 3 is needed".to_owned())
            }
            _ => None,
        }
    }
}

/// Opens the tree of an image. `None` if the image has none: neither an index nor contents, and
/// nothing in `image.json` that needs one.
///
/// # Errors
/// See [`TreeError`].
pub fn open(image: &Image, options: OverlayOptions) -> Result<Option<Overlay>, TreeError> {
    let json = image.json();
    let source = json.filesystem.clone().unwrap_or_default();
    let FilesystemRef { baseurl, basefs } = &source;
    let url = |key, reason| TreeError::Url { image: image.path().to_owned(), key, reason };
    let index = name_in_image(basefs).map_err(|reason| url("basefs", reason))?;
    let contents = name_in_image(baseurl).map_err(|reason| url("baseurl", reason))?;
    let text = match image.read(&index, limits::MAX_FS_JSON) {
        Ok(text) => text,
        Err(ImageError::Missing { .. }) if source == FilesystemRef::default() => {
            let needed =
                json.filesystem.is_some() || json.kernel_from_filesystem || image.contains(&contents);
            return match needed {
                true => Err(TreeError::NoIndex { image: image.path().to_owned() }),
                false => Ok(None),
            };
        }
        Err(error) => return Err(error.into()),
    };
    let file = image.file(&index).display().to_string();
    let overlay = Overlay::from_fs_json(&text, &file, blobs(image, &contents), options);
    overlay.map(Some).map_err(TreeError::Index)
}

/// The tree of a snapshot of an image, still empty: only contents come from the image.
///
/// # Errors
/// [`TreeError::Url`].
pub fn open_empty(image: &Image, options: OverlayOptions) -> Result<Overlay, TreeError> {
    let FilesystemRef { baseurl, .. } = image.json().filesystem.clone().unwrap_or_default();
    let contents = name_in_image(&baseurl).map_err(|reason| TreeError::Url {
        image: image.path().to_owned(),
        key: "baseurl",
        reason,
    })?;
    Ok(Overlay::empty(blobs(image, &contents), options))
}

/// The content files in the folder `folder` of an image.
fn blobs(image: &Image, folder: &str) -> Arc<dyn BlobSource> {
    match &*image.files {
        Files::Dir(_) => Arc::new(DirectoryBlobs::new(image.file(folder))),
        Files::Archive(_) => Arc::new(ArchiveBlobs { image: image.clone(), folder: folder.to_owned() }),
    }
}

/// Content files of an archive, which is in memory anyway.
struct ArchiveBlobs {
    image: Image,
    folder: String,
}

impl BlobSource for ArchiveBlobs {
    fn open(&self, name: &str) -> Result<RawBlob, BlobError> {
        let Files::Archive(archive) = &*self.image.files else { return Err(BlobError::Missing) };
        let name = clean_name(&format!("{}/{name}", self.folder)).map_err(|_| BlobError::BadName)?;
        let bytes = archive.shared(&name).map_err(|error| match error {
            ImageError::Missing { .. } => BlobError::Missing,
            ImageError::NotAFile { .. } => BlobError::NotAFile,
            other => BlobError::Io(io::Error::other(other)),
        })?;
        let len = bytes.len();
        BlobBytes::part(bytes, 0..len).map(RawBlob::Bytes).ok_or(BlobError::Missing)
    }

    fn describe(&self, name: &str) -> String {
        self.image.file(&self.folder).join(name).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::kernel_source::GuestTree;
    use crate::progress::Progress;
    use emu_devices::p9::fs::Time;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::fs::{self, File};
    use std::path::Path;

    fn options() -> OverlayOptions {
        OverlayOptions::new(Box::new(Time::default), Box::new(|_| {}))
    }

    fn open_at(path: &Path) -> Result<Option<Overlay>, TreeError> {
        open(&Image::open(path, &Progress::hidden()).unwrap(), options())
    }

    /// A directory with these files.
    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    const INDEX: &str = r#"{"fsroot": [["a", 5, 0, 33188, 0, 0, "plain"]], "version": 3, "size": 5}"#;

    #[test]
    fn tree_of_directory_and_archive_reads_the_same() {
        let dir = dir(&[("image.json", "{}"), ("fs.json", INDEX), ("fs/plain", "hello")]);
        let archive = dir.path().join("img.tgz");
        let gzip = GzEncoder::new(File::create(&archive).unwrap(), Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        for name in ["image.json", "fs.json", "fs/plain"] {
            tar.append_path_with_name(dir.path().join(name), name).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        for path in [dir.path(), &archive] {
            let mut tree = open_at(path).unwrap().unwrap();
            assert_eq!(GuestTree::files(&mut tree, "/").unwrap(), ["a"]);
            assert_eq!(GuestTree::read(&mut tree, "/a", 5).unwrap(), b"hello", "{}", path.display());
        }
    }

    #[test]
    fn tree_elsewhere_in_the_image_is_found() {
        let json = r#"{"filesystem": {"basefs": "./tree/index.json", "baseurl": "tree/files"}}"#;
        let dir = dir(&[("image.json", json), ("tree/index.json", INDEX), ("tree/files/plain", "hello")]);
        let mut tree = open_at(dir.path()).unwrap().unwrap();
        assert_eq!(GuestTree::read(&mut tree, "/a", 5).unwrap(), b"hello");
    }

    #[test]
    fn tree_may_be_missing_only_if_nothing_needs_it() {
        assert!(open_at(dir(&[("image.json", "{}")]).path()).unwrap().is_none());
        for files in [
            &[("image.json", "{}"), ("fs/plain", "hello")][..],
            &[("image.json", r#"{"bzimage_initrd_from_filesystem": true}"#)],
            &[("image.json", r#"{"filesystem": {}}"#)],
        ] {
            let error = open_at(dir(files).path()).err().unwrap();
            assert!(error.to_string().ends_with("no fs.json found in image"), "{error}");
        }
        let json = r#"{"filesystem": {"basefs": "gone.json"}}"#;
        let error = open_at(dir(&[("image.json", json)]).path()).err().unwrap();
        assert!(matches!(error, TreeError::Image(ImageError::Missing { .. })), "{error}");
    }

    #[test]
    fn tree_on_the_network_or_outside_is_refused() {
        for (key, url) in [("basefs", "https://h/fs.json"), ("basefs", "../fs.json")] {
            let json = format!(r#"{{"filesystem": {{"{key}": "{url}"}}}}"#);
            let error = open_at(dir(&[("image.json", &json)]).path()).err().unwrap();
            assert!(error.to_string().contains("filesystem.basefs"), "{error}");
        }
        let json = r#"{"filesystem": {"basefs": "fs.json", "baseurl": "http://h/"}}"#;
        let error = open_at(dir(&[("image.json", json), ("fs.json", INDEX)]).path()).err().unwrap();
        assert!(error.to_string().contains("filesystem.baseurl"), "{error}");
    }

    #[test]
    fn index_larger_than_the_limit_is_refused() {
        let dir = dir(&[("image.json", "{}")]);
        File::create(dir.path().join("fs.json")).unwrap().set_len(limits::MAX_FS_JSON + 1).unwrap();
        let error = open_at(dir.path()).err().unwrap();
        assert!(matches!(error, TreeError::Image(ImageError::TooLarge { .. })), "{error}");
    }
}
