//! The content files of an opened image.

use std::sync::Arc;

use super::blobs::{BlobError, BlobSource, DirectoryBlobs, RawBlob, is_valid_name};
use crate::image::{Image, ImageError};
use crate::limits;

/// The content files in `folder` of an image, usually `fs`.
pub fn image_blobs(image: &Image, folder: &str) -> Arc<dyn BlobSource> {
    if !image.is_archive() {
        // A directory: large files need not be in memory.
        Arc::new(DirectoryBlobs::new(image.path().join(folder)))
    } else {
        Arc::new(ArchiveBlobs { image: image.clone(), folder: folder.to_owned() })
    }
}

/// Content files of an archive, which has them in memory.
struct ArchiveBlobs {
    image: Image,
    folder: String,
}

impl BlobSource for ArchiveBlobs {
    fn open(&self, name: &str) -> Result<RawBlob, BlobError> {
        if !is_valid_name(name) {
            return Err(BlobError::BadName);
        }
        match self.image.read(&format!("{}/{name}", self.folder), limits::MAX_FILE_SIZE) {
            Ok(bytes) => Ok(RawBlob::Bytes(bytes.into())),
            Err(ImageError::Missing { .. }) => Err(BlobError::Missing),
            Err(ImageError::NotAFile { .. }) => Err(BlobError::NotAFile),
            Err(error) => Err(BlobError::Io(std::io::Error::other(error))),
        }
    }

    fn describe(&self, name: &str) -> String {
        self.image.file(&format!("{}/{name}", self.folder)).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::blobs::load;
    use crate::progress::Progress;
    use std::path::Path;

    /// The same small image as a directory and as an archive.
    fn images(dir: &Path) -> [Image; 2] {
        let folder = dir.join("image");
        std::fs::create_dir_all(folder.join("fs")).unwrap();
        std::fs::write(folder.join("image.json"), b"{}").unwrap();
        std::fs::write(folder.join("fs/2cf24dba.bin"), b"hello").unwrap();
        let file = std::fs::File::create(dir.join("image.tgz")).unwrap();
        let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()));
        archive.append_dir_all(".", &folder).unwrap();
        archive.into_inner().unwrap().finish().unwrap();
        [folder, dir.join("image.tgz")].map(|path| Image::open(&path, &Progress::hidden()).unwrap())
    }

    #[test]
    fn content_files_come_from_directory_and_archive() {
        let dir = tempfile::tempdir().unwrap();
        for image in images(dir.path()) {
            let blobs = image_blobs(&image, "fs");
            let mut buf = [0; 5];
            load(&*blobs, "2cf24dba.bin", 5).unwrap().read_exact_at(0, &mut buf).unwrap();
            assert_eq!(&buf, b"hello");
            assert!(matches!(load(&*blobs, "00000000.bin", 5), Err(BlobError::Missing)));
            assert!(matches!(blobs.open("../image.json"), Err(BlobError::BadName)));
            let file = image.path().join("fs").join("x");
            assert_eq!(blobs.describe("x"), file.display().to_string());
        }
    }
}
