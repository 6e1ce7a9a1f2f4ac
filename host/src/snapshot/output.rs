//! Where a snapshot is written to: files with holes, and compressed ones.

use std::io::{self, Seek, SeekFrom, Write};

use emu_core::snapshot::Output;

use crate::progress::Counter;

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 20;

/// Fewer zeros than this are written, not left out.
const HOLE: u64 = 4096;

/// Compression level: v86's tools and the old env86 use about this one.
const LEVEL: i32 = 3;

/// A file, in which long rows of zeros become holes.
#[derive(Debug)]
pub struct SparseFile<F> {
    file: F,
    buffer: Vec<u8>,
    /// Zeros left out so far and not followed by anything.
    hole: u64,
}

impl<F: Write + Seek> SparseFile<F> {
    /// Writes to an empty file.
    pub fn new(file: F) -> Self {
        Self { file, buffer: Vec::with_capacity(BUFFER), hole: 0 }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Skips the zeros left out, because something follows.
    fn end_hole(&mut self) -> io::Result<()> {
        if self.hole > 0 {
            let hole = i64::try_from(self.hole).map_err(|_| io::ErrorKind::FileTooLarge)?;
            self.file.seek(SeekFrom::Current(hole))?;
            self.hole = 0;
        }
        Ok(())
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// The host's.
    pub fn finish(mut self) -> io::Result<F> {
        self.flush()?;
        if self.hole > 0 {
            // The last byte makes the file as long as it should be.
            self.hole -= 1;
            self.end_hole()?;
            self.file.write_all(&[0])?;
        }
        Ok(self.file)
    }
}

impl<F: Write + Seek> Output for SparseFile<F> {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.end_hole()?;
        if self.buffer.len() + data.len() > BUFFER {
            self.flush()?;
        }
        if data.len() >= BUFFER {
            return self.file.write_all(data);
        }
        self.buffer.extend_from_slice(data);
        Ok(())
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        if count < HOLE {
            const ZEROS: [u8; HOLE as usize] = [0; HOLE as usize];
            return self.write(ZEROS.get(..count as usize).unwrap_or_default());
        }
        self.flush()?;
        self.hole += count;
        Ok(())
    }
}

/// A zstd frame as v86 can read it: one frame, a window far below its limit, a checksum.
pub struct ZstdFile<W: Write> {
    encoder: zstd::Encoder<'static, W>,
}

impl<W: Write> ZstdFile<W> {
    /// Begins a frame in `writer`.
    ///
    /// # Errors
    /// The host's.
    pub fn new(writer: W) -> io::Result<Self> {
        let mut encoder = zstd::Encoder::new(writer, LEVEL)?;
        encoder.include_checksum(true)?;
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
        if threads > 1 {
            // Still one frame. Where threads cannot be had, it is done without.
            let _ = encoder.multithread(threads as u32);
        }
        Ok(Self { encoder })
    }

    /// Ends the frame.
    ///
    /// # Errors
    /// The host's.
    pub fn finish(self) -> io::Result<W> {
        self.encoder.finish()
    }
}

impl<W: Write> Output for ZstdFile<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.encoder.write_all(data)
    }
}

/// Moves a progress bar by what is written through it.
pub struct Counted<'a> {
    inner: &'a mut dyn Output,
    counter: Counter,
}

impl<'a> Counted<'a> {
    /// Counts what goes to `inner`.
    pub fn new(inner: &'a mut dyn Output, counter: Counter) -> Self {
        Self { inner, counter }
    }
}

impl Output for Counted<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        /// The bar moves at least this often.
        const STEP: usize = 4 << 20;
        for part in data.chunks(STEP) {
            self.inner.write(part)?;
            self.counter.add(part.len() as u64);
        }
        Ok(())
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        self.counter.add(count);
        self.inner.zeros(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// Data and zeros in turn, and what they are.
    fn pieces() -> (Vec<(Vec<u8>, u64)>, Vec<u8>) {
        let sizes = [(0, 9000), (5, 0), (3000, 4096), (BUFFER + 7, 10), (1, 4095), (BUFFER - 1, 8192)];
        let pieces: Vec<_> = sizes.iter().map(|(n, zeros)| (vec![0xA5; *n], *zeros)).collect();
        let mut whole = Vec::new();
        for (data, zeros) in &pieces {
            whole.extend_from_slice(data);
            whole.resize(whole.len() + *zeros as usize, 0);
        }
        (pieces, whole)
    }

    fn feed(out: &mut dyn Output, pieces: &[(Vec<u8>, u64)]) {
        for (data, zeros) in pieces {
            out.write(data).unwrap();
            out.zeros(*zeros).unwrap();
        }
    }

    #[test]
    fn sparse_file_has_the_same_bytes() {
        let (pieces, whole) = pieces();
        let mut file = SparseFile::new(Cursor::new(Vec::new()));
        feed(&mut file, &pieces);
        assert!(file.finish().unwrap().into_inner() == whole);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn sparse_file_leaves_out_zeros() {
        use std::os::unix::fs::MetadataExt;
        let mut file = SparseFile::new(tempfile::tempfile().unwrap());
        file.write(b"begin").unwrap();
        file.zeros(64 << 20).unwrap();
        file.write(b"end").unwrap();
        file.zeros(64 << 20).unwrap();
        let meta = file.finish().unwrap().metadata().unwrap();
        assert_eq!(meta.len(), (128 << 20) + 8);
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    }

    #[test]
    fn zstd_file_is_one_frame_with_a_checksum() {
        let (pieces, whole) = pieces();
        let mut file = ZstdFile::new(Vec::new()).unwrap();
        feed(&mut file, &pieces);
        let packed = file.finish().unwrap();
        assert!(zstd::decode_all(&packed[..]).unwrap() == whole);
        assert_eq!(zstd::zstd_safe::find_frame_compressed_size(&packed), Ok(packed.len()));
        // Frame header descriptor: bit 2 = checksum. Window descriptor: exponent above 10, mantissa.
        assert_eq!(packed[4] & 0b10_0100, 0b100, "checksum, not a single segment");
        assert!(10 + (packed[5] >> 3) <= 23, "window {:#x}", packed[5]);
    }
}
