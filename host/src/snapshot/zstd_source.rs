//! Compressed snapshots, decompressed while they are read.
//!
//! A second thread decompresses ahead into a few buffers, so that parsing, copying into guest memory and
//! the page faults that causes go on at the same time.
//!
//! v86 reads one frame with a window of at most 128 MiB and never looks at the frame's end. We take
//! frames one after the other too (parallel compressors write those), and verify the checksum. A
//! checksum that is missing because the file is four bytes short is forgiven, as v86 does.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::DParameter;

use super::source::{StoredReader, ZSTD_MAGIC};

/// Largest window accepted, as a power of two: v86's limit.
const MAX_WINDOW_LOG: u32 = 27;

/// Bytes of a buffer handed from thread to thread.
const PIECE: usize = 1 << 20;

/// Buffers that may be full at the same time.
const PIECES: usize = 6;

/// Compressed bytes read at once.
const INPUT: usize = 256 << 10;

/// Bytes of a frame's checksum.
const CHECKSUM: usize = 4;

/// What may follow the last byte the snapshot's reader wanted: padding.
const MAX_REST: u64 = 4096;

/// Decompresses frames from a reader.
struct Frames<R> {
    reader: R,
    decoder: Decoder<'static>,
    input: Vec<u8>,
    /// Part of `input` that has not been decompressed.
    from: usize,
    to: usize,
    /// Bytes the decoder wants next; 0 at the end of a frame.
    wanted: usize,
    ended: bool,
}

impl<R: Read> Frames<R> {
    fn new(reader: R) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
        let (input, wanted) = (vec![0; INPUT], usize::MAX);
        Ok(Self { reader, decoder, input, from: 0, to: 0, wanted, ended: false })
    }

    /// Reads until at least `least` bytes of input are there, or there are no more.
    fn fill(&mut self, least: usize) -> io::Result<()> {
        if self.to - self.from >= least {
            return Ok(());
        }
        self.input.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to - self.from);
        while self.to < least {
            match self.reader.read(self.input.get_mut(self.to..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(n) => self.to += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Decompresses at least one byte into `out`; 0 at the end of everything. A file that ends in the
    /// middle of a frame is `UnexpectedEof`.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.ended {
                return Ok(0);
            }
            if self.wanted == 0 {
                // What follows the frame is another one, or nobody's business.
                self.fill(ZSTD_MAGIC.len())?;
                if self.input.get(self.from..self.to).is_some_and(|rest| rest.starts_with(&ZSTD_MAGIC)) {
                    self.decoder.reinit()?;
                } else {
                    self.ended = true;
                    continue;
                }
            }
            self.fill(1)?;
            let at_end = self.from == self.to;
            let mut input = InBuffer::around(self.input.get(self.from..self.to).unwrap_or_default());
            let mut output = OutBuffer::around(&mut *out);
            let wanted = self.decoder.run(&mut input, &mut output).map_err(invalid)?;
            let (used, made) = (input.pos(), output.pos());
            self.from += used;
            if made > 0 {
                self.wanted = wanted;
                return Ok(made);
            }
            if at_end && wanted > 0 {
                if self.wanted == CHECKSUM {
                    self.ended = true;
                    continue;
                }
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the compressed data are cut off"));
            }
            self.wanted = wanted;
        }
    }
}

fn invalid(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What the decompressing thread hands over: a full piece, or why there is none.
type Piece = io::Result<Vec<u8>>;

/// A compressed snapshot's bytes, in ascending order only.
#[derive(Debug)]
pub struct ZstdSource {
    full: Option<Receiver<Piece>>,
    empty: SyncSender<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
    piece: Vec<u8>,
    /// Bytes of `piece` already read.
    used: usize,
    /// Offset of the next byte.
    at: u64,
}

impl ZstdSource {
    /// Begins to decompress `reader`.
    ///
    /// # Errors
    /// The host starts no thread, or has no memory.
    pub fn new(reader: StoredReader) -> io::Result<Self> {
        let mut frames = Frames::new(reader)?;
        let (filled, full) = sync_channel(PIECES);
        let (empty, emptied) = sync_channel::<Vec<u8>>(PIECES + 2);
        for _ in 0..PIECES {
            // The queue has room for all.
            let _ = empty.try_send(Vec::new());
        }
        let body = move || {
            while let Ok(mut piece) = emptied.recv() {
                piece.resize(PIECE, 0);
                let (done, error) = read_full(&mut frames, &mut piece);
                piece.truncate(done);
                // An empty piece would look like the end.
                let sent = if done > 0 { filled.send(Ok(piece)) } else { Ok(()) };
                if let Some(error) = error {
                    let _ = filled.send(Err(error));
                    return;
                }
                // Nobody listens any more only if the rest is not wanted.
                if sent.is_err() || done < PIECE {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("zstd".to_owned()).spawn(body)?;
        Ok(Self { full: Some(full), empty, thread: Some(thread), piece: Vec::new(), used: 0, at: 0 })
    }

    /// The bytes that are there; empty at the end.
    fn available(&mut self) -> io::Result<&[u8]> {
        if self.used == self.piece.len() {
            let old = std::mem::take(&mut self.piece);
            self.used = 0;
            // Refused only by a thread that has ended.
            let _ = self.empty.try_send(old);
            if let Some(piece) = self.full.as_ref().and_then(|full| full.recv().ok()) {
                self.piece = piece?;
            }
        }
        Ok(self.piece.get(self.used..).unwrap_or_default())
    }

    /// Reads at `offset`, which must not be before what was read last.
    ///
    /// # Errors
    /// The file is damaged or ends too early.
    pub fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut skip = offset.checked_sub(self.at).ok_or(io::ErrorKind::NotSeekable)?;
        while skip > 0 {
            let n = (self.available()?.len() as u64).min(skip) as usize;
            self.advance(n)?;
            skip -= n as u64;
        }
        let mut left = buf;
        while !left.is_empty() {
            let data = self.available()?;
            let n = data.len().min(left.len());
            let (part, rest) = left.split_at_mut(n);
            part.copy_from_slice(data.get(..n).unwrap_or_default());
            left = rest;
            self.advance(n)?;
        }
        Ok(())
    }

    fn advance(&mut self, n: usize) -> io::Result<()> {
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.used += n;
        self.at += n as u64;
        Ok(())
    }

    /// Reads to the end of the data, which must be near, so that the checksum is verified.
    ///
    /// # Errors
    /// There is more, or the checksum is wrong.
    pub fn finish(&mut self) -> io::Result<()> {
        let mut rest = 0u64;
        loop {
            let n = self.available()?.len();
            if n == 0 {
                return Ok(());
            }
            rest += n as u64;
            if rest > MAX_REST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the compressed data go on"));
            }
            self.advance(n)?;
        }
    }
}

impl Drop for ZstdSource {
    fn drop(&mut self) {
        // Tells the thread that nobody waits, wherever it is.
        self.full = None;
        self.empty = sync_channel(0).0;
        if let Some(thread) = self.thread.take() {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Fills `buf`, or as much of it as there are data. Returns how much, and what went wrong then.
fn read_full<R: Read>(frames: &mut Frames<R>, buf: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while done < buf.len() {
        match frames.read(buf.get_mut(done..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::source::Stored;
    use std::io::Write;
    use std::sync::Arc;
    use zstd::zstd_safe::CParameter;

    fn data() -> Vec<u8> {
        (0..5_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> (24 + n / 1_000_000)) as u8).collect()
    }

    fn compress(data: &[u8], window_log: u32, checksum: bool) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(checksum).unwrap();
        encoder.set_parameter(CParameter::EnableLongDistanceMatching(window_log > 24)).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn source(bytes: Vec<u8>) -> ZstdSource {
        ZstdSource::new(Stored::Bytes(Arc::new(bytes)).into_reader()).unwrap()
    }

    /// Reads `len` bytes and the end.
    fn read(bytes: Vec<u8>, len: usize) -> io::Result<Vec<u8>> {
        let mut source = source(bytes);
        let mut out = vec![0; len];
        source.read_at(0, &mut out)?;
        source.finish()?;
        Ok(out)
    }

    #[test]
    fn zstd_source_reads_what_was_compressed() {
        let data = data();
        for (window, checksum) in [(17, true), (23, false), (27, true)] {
            let packed = compress(&data, window, checksum);
            assert!(read(packed.clone(), data.len()).unwrap() == data);
            let mut source = source(packed);
            let mut part = [0; 1000];
            for at in [16, 3_000_001, 4_000_000, data.len() as u64 - 1000] {
                source.read_at(at, &mut part).unwrap();
                assert!(part == data[at as usize..][..1000]);
            }
            source.finish().unwrap();
        }
    }

    #[test]
    fn zstd_source_going_back_is_an_error() {
        let mut source = source(compress(&data(), 20, true));
        source.read_at(1000, &mut [0; 10]).unwrap();
        assert_eq!(source.read_at(1000, &mut [0; 10]).unwrap_err().kind(), io::ErrorKind::NotSeekable);
    }

    #[test]
    fn zstd_window_beyond_v86_limit_is_refused() {
        let error = read(compress(&data(), 28, true), 10).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }

    #[test]
    fn zstd_checksum_is_verified_but_may_be_missing() {
        let data = data();
        let packed = compress(&data, 20, true);
        let without = packed[..packed.len() - 4].to_vec();
        assert!(read(without, data.len()).unwrap() == data);
        let mut wrong = packed;
        *wrong.last_mut().unwrap() ^= 1;
        let error = read(wrong, data.len()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }

    #[test]
    fn zstd_file_cut_off_anywhere_is_an_error() {
        let data = data();
        let packed = compress(&data, 20, true);
        for cut in [1, 2, 3, 5, 6, 7, 100, packed.len() / 2, packed.len() - 5, packed.len()] {
            let error = read(packed[..packed.len() - cut].to_vec(), data.len()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}: {error}");
        }
    }

    #[test]
    fn zstd_frames_one_after_the_other_and_what_follows() {
        let data = data();
        let (first, second) = data.split_at(1_234_567);
        let mut packed = compress(first, 20, true);
        packed.extend(compress(second, 20, false));
        assert!(read(packed.clone(), data.len()).unwrap() == data);
        packed.extend(b"garbage");
        assert!(read(packed, data.len()).unwrap() == data);
    }

    #[test]
    fn zstd_bomb_is_only_decompressed_as_far_as_wanted() {
        let bomb = zstd::encode_all(io::repeat(0).take(1 << 30), 1).unwrap();
        assert!(bomb.len() < 1 << 20);
        let error = read(bomb, 4096).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}
