//! Where the bytes of a snapshot come from: a file, the parts of a split one, an archive in memory, and
//! any of them compressed.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use emu_core::snapshot::Source;

use super::zstd_source::ZstdSource;

/// First bytes of a zstd frame. v86 looks for them too; file names mean nothing to it.
pub const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// The stored bytes of a snapshot, compressed or not, at any offset.
#[derive(Debug)]
pub enum Stored {
    /// One file.
    File {
        /// The file.
        file: File,
        /// Its length.
        len: u64,
    },
    /// Several of the others, one after the other, each with the offset of its end.
    Parts(Vec<(Stored, u64)>),
    /// A file in memory.
    Bytes(Arc<Vec<u8>>),
}

impl Stored {
    /// A file.
    ///
    /// # Errors
    /// The host's.
    pub fn file(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::File { file, len })
    }

    /// What belongs one after the other.
    pub fn joined(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut end = 0u64;
        let parts = parts.into_iter().map(|part| {
            end = end.saturating_add(part.len());
            (part, end)
        });
        Self::Parts(parts.collect())
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Parts(parts) => parts.last().map_or(0, |(_, end)| *end),
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// True if there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads exactly `buf.len()` bytes at `offset`.
    ///
    /// # Errors
    /// The host's; `UnexpectedEof` if there are fewer.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File { file, .. } => read_exact_at(file, buf, offset),
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                let part = bytes.get(start..).and_then(|rest| rest.get(..buf.len()));
                buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Self::Parts(parts) => {
                let (mut at, mut left) = (offset, buf);
                let mut start = 0;
                for (stored, end) in parts {
                    let here = end.saturating_sub(at).min(left.len() as u64);
                    if here > 0 {
                        let (part, rest) = left.split_at_mut(here as usize);
                        stored.read_at(at.saturating_sub(start), part)?;
                        left = rest;
                        at = at.saturating_add(here);
                    }
                    start = *end;
                }
                if left.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            }
        }
    }

    /// True if it is compressed.
    ///
    /// # Errors
    /// The host's.
    pub fn is_compressed(&self) -> io::Result<bool> {
        let mut magic = [0; 4];
        match self.read_at(0, &mut magic) {
            Ok(()) => Ok(magic == ZSTD_MAGIC),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The bytes from the beginning.
    pub fn into_reader(self) -> StoredReader {
        StoredReader { stored: self, at: 0 }
    }

    /// The snapshot in it, decompressed if need be.
    ///
    /// # Errors
    /// The host's.
    pub fn into_source(self) -> io::Result<StateSource> {
        if self.is_compressed()? {
            return Ok(StateSource::Zstd(Box::new(ZstdSource::new(self.into_reader())?)));
        }
        Ok(StateSource::Plain(self))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = buf.get_mut(n..).unwrap_or_default();
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads stored bytes from front to back.
#[derive(Debug)]
pub struct StoredReader {
    stored: Stored,
    at: u64,
}

impl Read for StoredReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.stored.len().saturating_sub(self.at).min(buf.len() as u64) as usize;
        self.stored.read_at(self.at, buf.get_mut(..n).unwrap_or_default())?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A snapshot's bytes, decompressed.
#[derive(Debug)]
pub enum StateSource {
    /// As stored.
    Plain(Stored),
    /// Decompressed on the way.
    Zstd(Box<ZstdSource>),
}

impl StateSource {
    /// True if the stored bytes are compressed.
    pub fn is_compressed(&self) -> bool {
        matches!(self, Self::Zstd(_))
    }
}

impl Source for StateSource {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Plain(stored) => stored.read_at(offset, buf),
            Self::Zstd(zstd) => zstd.read_at(offset, buf),
        }
    }

    fn total_len(&self) -> Option<u64> {
        match self {
            Self::Plain(stored) => Some(stored.len()),
            Self::Zstd(_) => None,
        }
    }

    fn is_seekable(&self) -> bool {
        !self.is_compressed()
    }

    fn file(&self) -> Option<&File> {
        match self {
            Self::Plain(Stored::File { file, .. }) => Some(file),
            _ => None,
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Zstd(zstd) => zstd.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn stored_bytes_are_the_same_from_file_parts_and_memory() {
        let sources = [
            Stored::file(file(b"0123456789")).unwrap(),
            Stored::joined(
                ["012", "", "3456", "789"].map(|part| Stored::file(file(part.as_bytes())).unwrap()),
            ),
            Stored::Bytes(Arc::new(b"0123456789".to_vec())),
        ];
        for stored in sources {
            assert_eq!(stored.len(), 10);
            for start in 0..10 {
                for len in 0..=10 - start {
                    let mut buf = vec![0; len];
                    stored.read_at(start as u64, &mut buf).unwrap();
                    assert_eq!(buf, &b"0123456789"[start..start + len], "{stored:?}");
                }
            }
            let beyond = stored.read_at(8, &mut [0; 3]).unwrap_err();
            assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof, "{stored:?}");
            assert!(stored.read_at(u64::MAX, &mut [0]).is_err());
            let mut all = Vec::new();
            stored.into_reader().read_to_end(&mut all).unwrap();
            assert_eq!(all, b"0123456789");
        }
    }

    #[test]
    fn compression_is_told_by_the_first_bytes() {
        let bytes = |bytes: &[u8]| Stored::Bytes(Arc::new(bytes.to_vec()));
        assert!(bytes(&ZSTD_MAGIC).is_compressed().unwrap());
        assert!(!bytes(&ZSTD_MAGIC[..3]).is_compressed().unwrap());
        assert!(!bytes(&[0x76, 0x86, 0x76, 0x86, 6, 0, 0, 0]).is_compressed().unwrap());
        assert!(!bytes(b"").is_compressed().unwrap());
    }

    #[test]
    fn only_a_plain_file_can_be_mapped() {
        assert!(Stored::file(file(b"plain")).unwrap().into_source().unwrap().file().is_some());
        let zstd = zstd::encode_all(&b"plain"[..], 3).unwrap();
        assert!(Stored::file(file(&zstd)).unwrap().into_source().unwrap().file().is_none());
        assert!(
            Stored::joined([Stored::file(file(b"plain")).unwrap()]).into_source().unwrap().file().is_none()
        );
    }
}
