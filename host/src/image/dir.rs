//! Images that are directories.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use super::{ImageError, read_limited};

/// An image directory. Symbolic links in it are followed by the host.
pub(super) struct DirImage {
    root: PathBuf,
}

impl DirImage {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// `name` must be clean (see [`super::clean_name`]).
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let reader = self.open(name)?;
        let file = self.root.join(name);
        let failed = |source| ImageError::Read { file: file.clone(), source };
        let len = reader.metadata().map_err(failed)?.len();
        let bytes = if len > limit { None } else { read_limited(reader, len, limit).map_err(failed)? };
        bytes.ok_or(ImageError::TooLarge { file, limit })
    }

    /// `name` must be clean.
    pub(super) fn open(&self, name: &str) -> Result<File, ImageError> {
        let file = self.root.join(name);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                ImageError::Missing { file: file.clone() }
            }
            _ => ImageError::Read { file: file.clone(), source },
        };
        // Looked at before it is opened: opening a FIFO would wait for its other end.
        let meta = fs::metadata(&file).map_err(failed)?;
        if meta.is_dir() {
            return Err(ImageError::NotAFile { file, what: "it is a directory" });
        }
        if !meta.is_file() {
            return Err(ImageError::NotAFile { file, what: "it is not a regular file" });
        }
        File::open(&file).map_err(failed)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.root.join(name).exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dir_read_returns_content_and_reports_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("fs")).unwrap();
        fs::write(dir.path().join("fs/a"), b"12345").unwrap();
        let image = DirImage::new(dir.path().to_owned());
        assert_eq!(image.read("fs/a", 5).unwrap(), b"12345");
        assert!(matches!(image.read("fs/a", 4), Err(ImageError::TooLarge { limit: 4, .. })));
        assert!(matches!(image.read("fs", 9), Err(ImageError::NotAFile { .. })));
        assert!(matches!(image.read("fs/b", 9), Err(ImageError::Missing { .. })));
        assert!(matches!(image.read("fs/a/b", 9), Err(ImageError::Missing { .. })));
        assert!(image.contains("fs/a") && !image.contains("fs/b"));
    }

    #[cfg(unix)]
    #[test]
    fn dir_read_follows_links_but_not_in_circles() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("real"), b"x").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("loop2", dir.path().join("loop1")).unwrap();
        std::os::unix::fs::symlink("loop1", dir.path().join("loop2")).unwrap();
        let image = DirImage::new(dir.path().to_owned());
        assert_eq!(image.read("link", 9).unwrap(), b"x");
        assert!(matches!(image.read("loop1", 9), Err(ImageError::Read { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn dir_read_of_an_endless_device_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero")).unwrap();
        let image = DirImage::new(dir.path().to_owned());
        assert!(matches!(image.read("zero", 9), Err(ImageError::NotAFile { .. })));
    }
}
