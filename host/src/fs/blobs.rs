//! Content files: the immutable contents of an image's files, in its `fs/` directory.
//!
//! They are named by their contents: the first 8 hexadecimal digits of the SHA-256, and `.bin`; other
//! tools use all 64. A further `.zst` means that the file is zstd-compressed (the hash is that of what
//! comes out). Any other name is allowed and says nothing.
//!
//! [`load`] checks what it gives out against the expected size and, where the name has it, the hash.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::limits;

/// Window of a zstd frame we accept: 2 to the power of this (128 MiB, as v86).
const ZSTD_WINDOW_LOG: u32 = 27;

/// Why a content file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The name is not a plain file name.
    #[error("Not a plain file name")]
    BadName,
    /// There is no such file.
    #[error("No such file")]
    Missing,
    /// It is a directory or a special file.
    #[error("Not a regular file")]
    NotAFile,
    /// Its size is not the one in the index.
    #[error("Size is {found} bytes, expected {expected}")]
    WrongSize {
        /// Of the file, or of what came out of it.
        found: u64,
        /// According to the index.
        expected: u64,
    },
    /// Its contents are not those it is named for.
    #[error("SHA-256 is {found}, which does not match the name")]
    WrongHash {
        /// Of the contents, hexadecimal.
        found: String,
    },
    /// What comes out of a `.zst` file has to be in memory, and this is too much.
    #[error("Compressed files of more than {} bytes cannot be used", limits::MAX_UNPACKED_BLOB)]
    TooLarge,
    /// It could not be read or decompressed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Bytes in memory, possibly a part of something larger. Cheap to clone.
#[derive(Clone)]
pub struct BlobBytes {
    data: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl BlobBytes {
    /// A part of `data`, for example of an unpacked archive; `None` if it is not inside.
    pub fn part(data: Arc<Vec<u8>>, range: Range<usize>) -> Option<Self> {
        data.get(range.clone())?;
        Some(Self { data, range })
    }

    /// True if this is a part of something larger, so that dropping it frees nothing.
    fn is_part(&self) -> bool {
        self.range.len() < self.data.len() || Arc::strong_count(&self.data) > 1
    }
}

impl From<Vec<u8>> for BlobBytes {
    fn from(data: Vec<u8>) -> Self {
        let range = 0..data.len();
        Self { data: Arc::new(data), range }
    }
}

impl std::ops::Deref for BlobBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.data[self.range.clone()]
    }
}

impl fmt::Debug for BlobBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobBytes({} bytes)", self.len())
    }
}

/// A content file as it is stored, not yet checked.
#[derive(Debug)]
pub enum RawBlob {
    /// In memory.
    Bytes(BlobBytes),
    /// A regular file.
    File(File),
}

/// Where content files come from.
pub trait BlobSource: Send + Sync {
    /// The content file of this name, which [`is_valid_name`].
    fn open(&self, name: &str) -> Result<RawBlob, BlobError>;

    /// How messages to the user call a content file.
    fn describe(&self, name: &str) -> String;
}

/// Content files in a directory.
#[derive(Debug)]
pub struct DirectoryBlobs {
    path: PathBuf,
}

impl DirectoryBlobs {
    /// The directory; usually the `fs` of an image. It is not looked at until a file is needed.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl BlobSource for DirectoryBlobs {
    fn open(&self, name: &str) -> Result<RawBlob, BlobError> {
        if !is_valid_name(name) {
            return Err(BlobError::BadName);
        }
        let path = self.path.join(name);
        // Looked at first, because opening a FIFO would wait for a writer.
        let metadata = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BlobError::Missing),
            other => other?,
        };
        if !metadata.is_file() {
            return Err(BlobError::NotAFile);
        }
        Ok(RawBlob::File(File::open(path)?))
    }

    fn describe(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

/// Content files in memory, such as those of an archived image.
#[derive(Debug, Default)]
pub struct MemoryBlobs {
    label: String,
    files: HashMap<String, BlobBytes>,
}

impl MemoryBlobs {
    /// None yet. `label` is what messages put in front of a name, for example the archive's path.
    pub fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), files: HashMap::new() }
    }

    /// Adds a file, or replaces it.
    pub fn insert(&mut self, name: impl Into<String>, contents: impl Into<BlobBytes>) {
        self.files.insert(name.into(), contents.into());
    }
}

impl BlobSource for MemoryBlobs {
    fn open(&self, name: &str) -> Result<RawBlob, BlobError> {
        self.files.get(name).cloned().map(RawBlob::Bytes).ok_or(BlobError::Missing)
    }

    fn describe(&self, name: &str) -> String {
        format!("{}: fs/{name}", self.label)
    }
}

/// True for names that stay inside a directory on every host: one component without separators,
/// drive letters and control characters.
pub fn is_valid_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= limits::MAX_FILE_NAME
        && !name.contains(|character: char| matches!(character, '/' | '\\' | ':') || character.is_control())
}

/// The hash that a name promises, as lower-case hexadecimal digits.
fn promised_hash(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".zst").unwrap_or(name);
    let (hash, has_suffix) = match name.strip_suffix(".bin") {
        Some(hash) => (hash, true),
        None => (name, false),
    };
    let is_hash = hash.len() == 64 || hash.len() == 8 && has_suffix;
    (is_hash && hash.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))).then_some(hash)
}

/// Checked contents.
#[derive(Debug)]
pub enum Blob {
    /// In memory.
    Bytes(BlobBytes),
    /// An uncompressed file of this size, read where needed.
    File(File, u64),
}

impl Blob {
    /// Bytes of memory that dropping it would free.
    pub fn memory(&self) -> u64 {
        match self {
            Blob::Bytes(bytes) if !bytes.is_part() => bytes.len() as u64,
            _ => 0,
        }
    }

    /// Reads at `offset`; it is an error if not all of `buf` is inside.
    pub fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Blob::Bytes(bytes) => {
                let part =
                    usize::try_from(offset).ok().and_then(|start| bytes.get(start..)?.get(..buf.len()));
                buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Blob::File(file, _) => {
                let mut file = file;
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(buf)
            }
        }
    }
}

/// Opens a content file and checks it: it must have, when uncompressed, `size` bytes, and the hash
/// its name promises.
pub fn load(source: &dyn BlobSource, name: &str, size: u64) -> Result<Blob, BlobError> {
    if !is_valid_name(name) {
        return Err(BlobError::BadName);
    }
    let raw = source.open(name)?;
    let blob = if name.ends_with(".zst") {
        if size > limits::MAX_UNPACKED_BLOB {
            return Err(BlobError::TooLarge);
        }
        let unpacked = match raw {
            RawBlob::Bytes(bytes) => unpack(&bytes[..], size)?,
            RawBlob::File(file) => unpack(file, size)?,
        };
        Blob::Bytes(unpacked.into())
    } else {
        match raw {
            RawBlob::Bytes(bytes) => Blob::Bytes(bytes),
            RawBlob::File(file) => {
                let found = file.metadata()?.len();
                if found != size {
                    return Err(BlobError::WrongSize { found, expected: size });
                }
                if size <= limits::SMALL_BLOB {
                    let mut bytes = Vec::with_capacity(size as usize + 1);
                    file.take(size + 1).read_to_end(&mut bytes)?;
                    Blob::Bytes(bytes.into())
                } else {
                    Blob::File(file, size)
                }
            }
        }
    };
    if let Blob::Bytes(bytes) = &blob
        && bytes.len() as u64 != size
    {
        return Err(BlobError::WrongSize { found: bytes.len() as u64, expected: size });
    }
    if let Some(expected) = promised_hash(name) {
        let found = hash(&blob)?;
        if !found.starts_with(expected) {
            return Err(BlobError::WrongHash { found });
        }
    }
    Ok(blob)
}

/// Decompresses what must come out as `size` bytes.
fn unpack(packed: impl Read, size: u64) -> Result<Vec<u8>, BlobError> {
    let mut decoder = zstd::stream::read::Decoder::new(packed)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    let mut bytes = Vec::new();
    // One byte more shows that there is more.
    decoder.take(size + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != size {
        return Err(BlobError::WrongSize { found: bytes.len() as u64, expected: size });
    }
    bytes.shrink_to_fit();
    Ok(bytes)
}

/// SHA-256 in hexadecimal.
fn hash(blob: &Blob) -> io::Result<String> {
    let mut hasher = Sha256::new();
    match blob {
        Blob::Bytes(bytes) => hasher.update(&bytes[..]),
        Blob::File(file, _) => {
            let mut file = file;
            file.seek(SeekFrom::Start(0))?;
            io::copy(&mut file, &mut hasher)?;
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &[u8] = b"hello";
    const HELLO_HASH: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn memory(name: &str, contents: impl Into<Vec<u8>>) -> MemoryBlobs {
        let mut blobs = MemoryBlobs::new("image.tgz");
        blobs.insert(name, contents.into());
        blobs
    }

    fn contents(blob: &Blob, size: usize) -> Vec<u8> {
        let mut buf = vec![0; size];
        blob.read_exact_at(0, &mut buf).unwrap();
        buf
    }

    #[test]
    fn load_right_hash_gives_contents() {
        for name in
            ["2cf24dba.bin".into(), HELLO_HASH.to_owned(), format!("{HELLO_HASH}.bin"), "any-name".into()]
        {
            let blob = load(&memory(&name, HELLO), &name, 5).unwrap();
            assert_eq!(contents(&blob, 5), HELLO);
        }
    }

    #[test]
    fn load_wrong_hash_is_refused() {
        for name in ["2cf24dbb.bin".into(), "0".repeat(64)] {
            let error = load(&memory(&name, HELLO), &name, 5).unwrap_err();
            assert!(error.to_string().contains(HELLO_HASH), "{error}");
        }
        let packed = zstd::encode_all(&b"hallo"[..], 3).unwrap();
        let error = load(&memory("2cf24dba.bin.zst", packed), "2cf24dba.bin.zst", 5).unwrap_err();
        assert!(matches!(error, BlobError::WrongHash { .. }));
    }

    #[test]
    fn load_wrong_size_is_refused() {
        for size in [4, 6, 1 << 30] {
            let error = load(&memory("x", HELLO), "x", size).unwrap_err();
            assert!(matches!(error, BlobError::WrongSize { found: 5, expected } if expected == size));
        }
    }

    #[test]
    fn load_compressed_is_unpacked_and_checked() {
        let packed = zstd::encode_all(HELLO, 19).unwrap();
        let blobs = memory("2cf24dba.bin.zst", packed.clone());
        assert_eq!(contents(&load(&blobs, "2cf24dba.bin.zst", 5).unwrap(), 5), HELLO);
        assert!(matches!(load(&blobs, "2cf24dba.bin.zst", 4), Err(BlobError::WrongSize { .. })));
        assert!(matches!(load(&blobs, "2cf24dba.bin.zst", 6), Err(BlobError::WrongSize { .. })));
        for cut in 0..packed.len() {
            assert!(load(&memory("x.zst", &packed[..cut]), "x.zst", 5).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn load_compressed_bomb_stops_at_the_expected_size() {
        let bomb = zstd::encode_all(io::repeat(0).take(1 << 30), 1).unwrap();
        let error = load(&memory("x.zst", bomb), "x.zst", 1000).unwrap_err();
        assert!(matches!(error, BlobError::WrongSize { found: 1001, expected: 1000 }));
    }

    #[test]
    fn load_compressed_beyond_limit_is_refused() {
        let error = load(&memory("x.zst", HELLO), "x.zst", limits::MAX_UNPACKED_BLOB + 1).unwrap_err();
        assert!(matches!(error, BlobError::TooLarge));
    }

    #[test]
    fn directory_small_and_large_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("2cf24dba.bin"), HELLO).unwrap();
        let large: Vec<u8> = (0..limits::SMALL_BLOB as usize + 10).map(|i| (i / 7) as u8).collect();
        std::fs::write(dir.path().join("large"), &large).unwrap();
        let blobs = DirectoryBlobs::new(dir.path());
        let small = load(&blobs, "2cf24dba.bin", 5).unwrap();
        assert_eq!((contents(&small, 5), small.memory()), (HELLO.to_vec(), 5));
        let blob = load(&blobs, "large", large.len() as u64).unwrap();
        assert!(matches!(blob, Blob::File(..)));
        let mut buf = [0; 10];
        blob.read_exact_at(limits::SMALL_BLOB, &mut buf).unwrap();
        assert_eq!(buf, large[limits::SMALL_BLOB as usize..]);
        assert!(blob.read_exact_at(limits::SMALL_BLOB + 1, &mut buf).is_err());
        assert!(matches!(load(&blobs, "large", 5), Err(BlobError::WrongSize { .. })));
    }

    #[test]
    fn directory_large_file_with_wrong_hash_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let size = limits::SMALL_BLOB + 1;
        std::fs::write(dir.path().join("00000000.bin"), vec![1; size as usize]).unwrap();
        let error = load(&DirectoryBlobs::new(dir.path()), "00000000.bin", size).unwrap_err();
        assert!(matches!(error, BlobError::WrongHash { .. }));
    }

    #[test]
    fn directory_missing_or_not_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/x"), HELLO).unwrap();
        let blobs = DirectoryBlobs::new(dir.path());
        assert!(matches!(load(&blobs, "x", 5), Err(BlobError::Missing)));
        assert!(matches!(load(&blobs, "sub", 5), Err(BlobError::NotAFile)));
        for name in ["", ".", "..", "sub/x", "/etc/passwd", "..\\x", "C:x", "a\0b", &"n".repeat(256)] {
            assert!(matches!(blobs.open(name), Err(BlobError::BadName)), "{name:?}");
            assert!(matches!(load(&blobs, name, 5), Err(BlobError::BadName)), "{name:?}");
        }
    }

    #[test]
    fn bytes_part_outside_is_refused() {
        let data = Arc::new(HELLO.to_vec());
        assert_eq!(&*BlobBytes::part(data.clone(), 1..3).unwrap(), b"el");
        assert!(BlobBytes::part(data.clone(), 3..6).is_none());
        assert_eq!(Blob::Bytes(BlobBytes::part(data, 1..3).unwrap()).memory(), 0);
    }
}
