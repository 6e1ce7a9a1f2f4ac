//! Contents of a regular file: a part of a content file, and what was written over it.
//!
//! Written parts are kept in chunks of up to [`CHUNK`] bytes, so that changing a byte of a large file
//! copies little, and holes cost nothing. Where there is no chunk, the content file shows through as
//! far as the file was never cut shorter; the rest is zeros.
//!
//! What a file counts against the guest's limit depends on nothing but where it has no holes, so that it is the same
//! after a restore: a snapshot holds a changed file whole, and so it counts whole.

use std::collections::BTreeMap;

use emu_devices::p9::Errno;

use super::cache::{BlobCache, BlobId};
use crate::limits;

/// Largest chunk in bytes.
pub const CHUNK: u64 = 64 << 10;

/// Smallest memory a chunk is given.
const MIN_CAPACITY: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Base {
    blob: BlobId,
    /// How much of it still shows.
    length: u64,
    /// All of it.
    whole: u64,
}

/// Contents of a regular file.
#[derive(Debug, Default)]
pub struct Contents {
    size: u64,
    base: Option<Base>,
    /// By position divided by [`CHUNK`]. Behind the end of a chunk, the part it stands for is zeros.
    chunks: BTreeMap<u64, Vec<u8>>,
    /// What the chunks count.
    held: u64,
    /// What those parts of the content file count that no chunk covers, once the file is changed.
    uncovered: u64,
    /// Bytes that are not in holes.
    filled: u64,
}

impl Contents {
    /// Contents of a content file.
    pub fn from_blob(blob: BlobId, size: u64) -> Self {
        let base = (size > 0).then_some(Base { blob, length: size, whole: size });
        Self { size, base, filled: size, uncovered: counted_up_to(size), ..Self::default() }
    }

    /// These bytes, cut off or filled up with a hole to `size`. Chunks of zeros become holes.
    pub fn from_bytes(bytes: &[u8], size: u64) -> Self {
        let mut contents = Self { size, ..Self::default() };
        let bytes = &bytes[..bytes.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
        for (index, part) in (0..).zip(bytes.chunks(CHUNK as usize)) {
            if part.iter().any(|byte| *byte != 0) {
                contents.add_chunks(index, part);
            }
        }
        contents
    }

    /// These bytes at these offsets, and holes elsewhere. `None` if the offsets do not ascend or are no
    /// multiples of [`CHUNK`], or if something lies beyond `size`.
    pub fn from_extents(extents: &[(u64, &[u8])], size: u64) -> Option<Self> {
        let mut contents = Self { size, ..Self::default() };
        let mut free = 0;
        for (offset, bytes) in extents {
            let end = offset.checked_add(bytes.len() as u64)?;
            if *offset < free || offset % CHUNK != 0 || end > size {
                return None;
            }
            free = end;
            contents.add_chunks(offset / CHUNK, bytes);
        }
        Some(contents)
    }

    /// Bytes from a chunk on.
    fn add_chunks(&mut self, first: u64, bytes: &[u8]) {
        for (index, part) in (first..).zip(bytes.chunks(CHUNK as usize)) {
            let chunk = part.to_vec();
            self.held += counted(chunk.len());
            self.filled += part.len() as u64;
            self.chunks.insert(index, chunk);
        }
    }

    /// Where there are no holes, ascending: offset (a multiple of [`CHUNK`]), length.
    pub fn extents(&self) -> Vec<(u64, u64)> {
        let shows = self.base.map_or(0, |base| base.length);
        let mut extents: Vec<(u64, u64)> = Vec::new();
        let mut add = |start: u64, end: u64| match extents.last_mut() {
            _ if start >= end => {}
            Some((offset, length)) if *offset + *length == start => *length = end - *offset,
            _ => extents.push((start, end - start)),
        };
        let mut at = 0;
        for (index, chunk) in &self.chunks {
            let start = index * CHUNK;
            add(at, shows.min(start));
            add(start, (start + chunk.len() as u64).min(self.size));
            at = start + CHUNK;
        }
        add(at, shows);
        extents
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that count against the guest's limit: at least the memory in use, nothing for what the image has.
    pub fn held(&self) -> u64 {
        if self.unchanged().is_some() { 0 } else { self.held + self.uncovered }
    }

    /// Bytes that are not in holes: what [`Self::extents`] sum up to.
    pub fn allocated(&self) -> u64 {
        self.filled
    }

    /// The content file that shows through somewhere.
    pub fn blob(&self) -> Option<BlobId> {
        self.base.map(|base| base.blob)
    }

    /// The content file, if these are exactly its contents.
    pub fn unchanged(&self) -> Option<BlobId> {
        let base = self.base?;
        (self.chunks.is_empty() && base.length == base.whole && self.size == base.whole).then_some(base.blob)
    }

    /// Reads at `offset` as much as there is; returns how much.
    pub fn read(&self, offset: u64, buf: &mut [u8], cache: &mut BlobCache) -> Result<usize, Errno> {
        let rest = self.size.saturating_sub(offset);
        let count = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        let buf = &mut buf[..count];
        let mut at = offset;
        let mut done = 0;
        let end = offset + count as u64;
        for (index, chunk) in self.chunks.range(offset / CHUNK..) {
            let start = index * CHUNK;
            if start >= end {
                break;
            }
            if at < start {
                let gap = (start - at) as usize;
                self.read_base(at, &mut buf[done..done + gap], cache)?;
                at += gap as u64;
                done += gap;
            }
            let within = (at - start) as usize;
            let length = ((start + CHUNK).min(end) - at) as usize;
            copy_with_zeros(chunk.get(within..).unwrap_or_default(), &mut buf[done..done + length]);
            at += length as u64;
            done += length;
        }
        self.read_base(at, &mut buf[done..], cache)?;
        Ok(count)
    }

    /// Reads where there are no chunks.
    fn read_base(&self, offset: u64, buf: &mut [u8], cache: &mut BlobCache) -> Result<(), Errno> {
        let Some(base) = self.base else {
            buf.fill(0);
            return Ok(());
        };
        let shows = usize::try_from(base.length.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        let (from_blob, zeros) = buf.split_at_mut(shows);
        zeros.fill(0);
        cache.read(base.blob, offset, from_blob)
    }

    /// Writes at `offset`, growing the file as needed and taking at most `room` bytes of memory.
    /// Returns how much was written: less than all only if memory ran out on the way, or the file
    /// reached its greatest size.
    pub fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        cache: &mut BlobCache,
        room: u64,
    ) -> Result<usize, Errno> {
        if data.is_empty() {
            return Ok(0);
        }
        if offset >= limits::MAX_FILE_SIZE {
            return Err(Errno::EFBIG);
        }
        let longest = usize::try_from(limits::MAX_FILE_SIZE - offset).unwrap_or(usize::MAX);
        let data = &data[..data.len().min(longest)];
        let first = if self.unchanged().is_some() { self.uncovered } else { 0 };
        let mut room = room.checked_sub(first).ok_or(Errno::ENOSPC)?;
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let within = (at % CHUNK) as usize;
            let part = (data.len() - done).min(CHUNK as usize - within);
            match self.write_chunk(at / CHUNK, within, &data[done..done + part], cache, room) {
                Ok(taken) => room = room.saturating_sub(taken),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += part;
            self.size = self.size.max(at + part as u64);
        }
        Ok(done)
    }

    /// Writes into one chunk. Returns what it counts more than before.
    fn write_chunk(
        &mut self,
        index: u64,
        within: usize,
        data: &[u8],
        cache: &mut BlobCache,
        room: u64,
    ) -> Result<u64, Errno> {
        let end = within + data.len();
        if let Some(chunk) = self.chunks.get_mut(&index) {
            let before = chunk.len();
            let taken = grow(chunk, end, counted(before), room)?;
            put(chunk, within, data);
            self.held += taken;
            self.filled += (chunk.len() - before) as u64;
            return Ok(taken);
        }
        let start = index * CHUNK;
        let shows = self.base.map_or(0, |base| base.length).saturating_sub(start).min(CHUNK) as usize;
        let mut chunk = Vec::new();
        let taken = grow(&mut chunk, end.max(shows), counted(shows), room)?;
        // What will be overwritten anyway need not be read.
        if within > 0 || end < shows {
            chunk.resize(shows, 0);
            self.read_base(start, &mut chunk, cache)?;
        }
        put(&mut chunk, within, data);
        self.filled += (chunk.len() - shows) as u64;
        self.chunks.insert(index, chunk);
        self.uncovered -= counted(shows);
        self.held += counted(shows) + taken;
        Ok(taken)
    }

    /// What the parts of the content file that show through would count as chunks.
    fn count_uncovered(&self) -> u64 {
        let shows = self.base.map_or(0, |base| base.length);
        let covered =
            self.chunks.keys().map(|index| counted(shows.saturating_sub(index * CHUNK).min(CHUNK) as usize));
        counted_up_to(shows) - covered.sum::<u64>()
    }

    /// Cuts off or fills up with zeros.
    pub fn set_size(&mut self, size: u64) -> Result<(), Errno> {
        if size > limits::MAX_FILE_SIZE {
            return Err(Errno::EFBIG);
        }
        if size < self.size {
            self.chunks.split_off(&size.div_ceil(CHUNK));
            let within = (size % CHUNK) as usize;
            if let Some(chunk) = self.chunks.get_mut(&(size / CHUNK))
                && chunk.len() > within
            {
                chunk.truncate(within);
                chunk.shrink_to_fit();
            }
            if let Some(base) = &mut self.base {
                base.length = base.length.min(size);
                if base.length == 0 {
                    self.base = None;
                }
            }
            self.size = size;
            self.filled = self.extents().iter().map(|(_, length)| length).sum();
            self.held = self.chunks.values().map(|chunk| counted(chunk.len())).sum();
            self.uncovered = self.count_uncovered();
        }
        self.size = size;
        Ok(())
    }
}

/// What a chunk of this length counts: the memory that it has at most.
fn counted(length: usize) -> u64 {
    if length == 0 { 0 } else { length.next_power_of_two().clamp(MIN_CAPACITY, CHUNK as usize) as u64 }
}

/// What chunks of everything before `end` would count.
fn counted_up_to(end: u64) -> u64 {
    end / CHUNK * CHUNK + counted((end % CHUNK) as usize)
}

/// Makes room for `length` bytes in a chunk that counts `old`, so that appending is cheap. Returns what it counts
/// more with that length; ENOSPC if that is more than `room`.
fn grow(chunk: &mut Vec<u8>, length: usize, old: u64, room: u64) -> Result<u64, Errno> {
    let wanted = counted(length.max(chunk.len()));
    let taken = wanted.saturating_sub(old);
    if taken > room {
        return Err(Errno::ENOSPC);
    }
    chunk.reserve_exact((wanted as usize).saturating_sub(chunk.len()));
    Ok(taken)
}

/// Puts `data` into a chunk that has the room; a gap in front is zeros.
fn put(chunk: &mut Vec<u8>, within: usize, data: &[u8]) {
    if chunk.len() < within {
        chunk.resize(within, 0);
    }
    let (over, behind) = data.split_at((chunk.len() - within).min(data.len()));
    chunk[within..within + over.len()].copy_from_slice(over);
    chunk.extend_from_slice(behind);
}

fn copy_with_zeros(from: &[u8], to: &mut [u8]) {
    let count = from.len().min(to.len());
    let (head, tail) = to.split_at_mut(count);
    head.copy_from_slice(&from[..count]);
    tail.fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::blobs::MemoryBlobs;
    use proptest::prelude::*;
    use std::sync::Arc;

    const ROOM: u64 = u64::MAX;

    fn blob_bytes(size: u64) -> Vec<u8> {
        (0..size).map(|i| (i % 251) as u8 + 1).collect()
    }

    /// A cache with one content file.
    fn cache(size: u64) -> (BlobCache, BlobId) {
        let mut blobs = MemoryBlobs::new("test");
        blobs.insert("base", blob_bytes(size));
        let mut cache = BlobCache::new(Arc::new(blobs), 0, Box::new(|message| panic!("{message}")));
        let id = cache.register("base", size);
        (cache, id)
    }

    fn all(contents: &Contents, cache: &mut BlobCache) -> Vec<u8> {
        let mut buf = vec![0xee; contents.size() as usize + 10];
        let count = contents.read(0, &mut buf, cache).unwrap();
        assert_eq!(count as u64, contents.size());
        buf.truncate(count);
        buf
    }

    #[test]
    fn from_blob_untouched_shows_blob_and_holds_nothing() {
        let (mut cache, id) = cache(3 * CHUNK + 5);
        let contents = Contents::from_blob(id, 3 * CHUNK + 5);
        assert_eq!(all(&contents, &mut cache), blob_bytes(3 * CHUNK + 5));
        assert_eq!((contents.held(), contents.unchanged()), (0, Some(id)));
    }

    #[test]
    fn extents_are_what_is_no_hole() {
        let (mut cache, id) = cache(3 * CHUNK + 5);
        let mut contents = Contents::from_blob(id, 3 * CHUNK + 5);
        assert_eq!(contents.extents(), [(0, 3 * CHUNK + 5)]);
        contents.write(CHUNK + 1, b"x", &mut cache, ROOM).unwrap();
        contents.write(8 * CHUNK + 5, b"end", &mut cache, ROOM).unwrap();
        contents.write(5 * CHUNK, &vec![7; CHUNK as usize + 1], &mut cache, ROOM).unwrap();
        let expected = [(0, 3 * CHUNK + 5), (5 * CHUNK, CHUNK + 1), (8 * CHUNK, 8)];
        assert_eq!(contents.extents(), expected);
        let parts: Vec<_> = expected
            .iter()
            .map(|(offset, length)| {
                let mut bytes = vec![0; *length as usize];
                contents.read(*offset, &mut bytes, &mut cache).unwrap();
                (*offset, bytes)
            })
            .collect();
        let parts: Vec<_> = parts.iter().map(|(offset, bytes)| (*offset, &bytes[..])).collect();
        let again = Contents::from_extents(&parts, contents.size()).unwrap();
        assert_eq!(all(&again, &mut cache), all(&contents, &mut cache));
        assert_eq!(again.extents(), expected);
        assert_eq!(Contents::default().extents(), []);
    }

    #[test]
    fn from_extents_that_cannot_be_is_none() {
        let size = 4 * CHUNK;
        let extents = |parts: &[(u64, usize)]| {
            let bytes = vec![1; CHUNK as usize + 1];
            let parts: Vec<_> = parts.iter().map(|(offset, length)| (*offset, &bytes[..*length])).collect();
            Contents::from_extents(&parts, size).map(|contents| contents.held())
        };
        assert_eq!(extents(&[(CHUNK, 1), (3 * CHUNK, CHUNK as usize)]), Some(CHUNK + MIN_CAPACITY as u64));
        assert_eq!(extents(&[(1, 1)]), None);
        assert_eq!(extents(&[(CHUNK, 1), (0, 1)]), None);
        assert_eq!(extents(&[(0, CHUNK as usize + 1), (CHUNK, 1)]), None);
        assert_eq!(extents(&[(3 * CHUNK, CHUNK as usize + 1)]), None);
        assert_eq!(extents(&[(u64::MAX - CHUNK + 1, CHUNK as usize)]), None);
    }

    #[test]
    fn from_bytes_zeros_hold_nothing() {
        let mut bytes = vec![0; 3 * CHUNK as usize];
        bytes[CHUNK as usize + 3] = 1;
        let contents = Contents::from_bytes(&bytes, 3 * CHUNK);
        assert_eq!((contents.held(), contents.size()), (CHUNK, 3 * CHUNK));
        assert_eq!(all(&contents, &mut cache(0).0), bytes);
    }

    #[test]
    fn write_copies_only_the_chunk() {
        let (mut cache, id) = cache(3 * CHUNK);
        let mut contents = Contents::from_blob(id, 3 * CHUNK);
        assert_eq!(contents.write(CHUNK + 1, b"x", &mut cache, ROOM), Ok(1));
        assert_eq!((contents.held, contents.held()), (CHUNK, 3 * CHUNK), "it counts as if copied");
        let mut expected = blob_bytes(3 * CHUNK);
        expected[CHUNK as usize + 1] = b'x';
        assert_eq!(all(&contents, &mut cache), expected);
        assert_eq!(contents.unchanged(), None);
    }

    #[test]
    fn write_of_whole_chunks_does_not_read_the_blob() {
        let blobs = MemoryBlobs::new("nothing there");
        let mut cache = BlobCache::new(Arc::new(blobs), 0, Box::new(|_| ()));
        let id = cache.register("missing", 100);
        let mut contents = Contents::from_blob(id, 100);
        assert_eq!(contents.write(50, b"x", &mut cache, ROOM), Err(Errno::EIO));
        assert_eq!(contents.held(), 0);
        assert_eq!(contents.write(0, &[7; 100], &mut cache, ROOM), Ok(100));
        assert_eq!(all(&contents, &mut cache), [7; 100]);
    }

    #[test]
    fn small_file_holds_little_and_growth_is_amortised() {
        let (mut cache, _) = cache(0);
        let mut contents = Contents::default();
        contents.write(0, b"x", &mut cache, ROOM).unwrap();
        assert_eq!(contents.held(), MIN_CAPACITY as u64);
        let mut steps = 0;
        for i in 1..CHUNK {
            let before = contents.held();
            contents.write(i, b"x", &mut cache, ROOM).unwrap();
            steps += u32::from(contents.held() != before);
        }
        assert_eq!((contents.held(), steps), (CHUNK, 10));
    }

    #[test]
    fn shrunk_and_regrown_file_shows_zeros() {
        let (mut cache, id) = cache(2 * CHUNK);
        let mut contents = Contents::from_blob(id, 2 * CHUNK);
        contents.write(10, b"abc", &mut cache, ROOM).unwrap();
        contents.set_size(11).unwrap();
        contents.set_size(CHUNK + 5).unwrap();
        let mut expected = blob_bytes(10);
        expected.push(b'a');
        expected.resize(CHUNK as usize + 5, 0);
        assert_eq!(all(&contents, &mut cache), expected);
        contents.set_size(0).unwrap();
        assert_eq!((contents.held(), contents.blob()), (0, None));
    }

    #[test]
    fn sparse_file_costs_only_what_is_written() {
        let (mut cache, _) = cache(0);
        let mut contents = Contents::default();
        contents.set_size(limits::MAX_FILE_SIZE).unwrap();
        contents.write(limits::MAX_FILE_SIZE - 1, b"x", &mut cache, ROOM).unwrap();
        assert!(contents.held() <= CHUNK);
        // Within its chunk, what is in front of it is zeros.
        assert_eq!(contents.allocated(), CHUNK);
        let mut buf = [9; 3];
        assert_eq!(contents.read(limits::MAX_FILE_SIZE - 2, &mut buf, &mut cache), Ok(2));
        assert_eq!(buf, [0, b'x', 9]);
    }

    #[test]
    fn size_limit_is_efbig_after_a_short_write() {
        let (mut cache, _) = cache(0);
        let mut contents = Contents::default();
        assert_eq!(contents.set_size(limits::MAX_FILE_SIZE + 1), Err(Errno::EFBIG));
        assert_eq!(contents.write(limits::MAX_FILE_SIZE - 1, b"xyz", &mut cache, ROOM), Ok(1));
        assert_eq!(contents.write(limits::MAX_FILE_SIZE, b"yz", &mut cache, ROOM), Err(Errno::EFBIG));
        assert_eq!(contents.write(u64::MAX, b"yz", &mut cache, ROOM), Err(Errno::EFBIG));
        assert_eq!(contents.read(u64::MAX, &mut [0], &mut cache), Ok(0));
    }

    #[test]
    fn room_used_up_is_enospc_after_a_short_write() {
        let (mut cache, _) = cache(0);
        let mut contents = Contents::default();
        let data = vec![1; 3 * CHUNK as usize];
        assert_eq!(contents.write(0, &data, &mut cache, 2 * CHUNK + 100), Ok(2 * CHUNK as usize));
        assert_eq!((contents.size(), contents.held()), (2 * CHUNK, 2 * CHUNK));
        assert_eq!(contents.write(2 * CHUNK, &data, &mut cache, 100), Err(Errno::ENOSPC));
        assert_eq!(contents.write(5, &data[..100], &mut cache, 0), Ok(100), "no memory needed");
    }

    #[test]
    fn from_bytes_is_cut_or_filled_up() {
        let (mut cache, _) = cache(0);
        assert_eq!(all(&Contents::from_bytes(b"hello", 3), &mut cache), b"hel");
        assert_eq!(all(&Contents::from_bytes(b"hello", 7), &mut cache), b"hello\0\0");
        let large = blob_bytes(2 * CHUNK + 3);
        let contents = Contents::from_bytes(&large, large.len() as u64);
        assert_eq!((all(&contents, &mut cache), contents.held()), (large, 2 * CHUNK + MIN_CAPACITY as u64));
    }

    proptest! {
        #[test]
        fn random_operations_match_a_plain_vector(
            base in 0..3 * CHUNK,
            ops in proptest::collection::vec((0..4 * CHUNK, 0usize..100_000, any::<bool>()), 0..30),
        ) {
            let (mut cache, id) = cache(base);
            let mut contents = Contents::from_blob(id, base);
            let mut model = blob_bytes(base);
            for (step, (offset, length, is_write)) in ops.into_iter().enumerate() {
                if is_write {
                    let data = vec![step as u8 ^ 0x80; length];
                    prop_assert_eq!(contents.write(offset, &data, &mut cache, ROOM), Ok(length));
                    let end = offset as usize + length;
                    if length > 0 && model.len() < end {
                        model.resize(end, 0);
                    }
                    if length > 0 {
                        model[offset as usize..end].copy_from_slice(&data);
                    }
                } else {
                    contents.set_size(offset).unwrap();
                    model.resize(offset as usize, 0);
                }
                if contents.unchanged().is_none() {
                    let held: usize = contents.chunks.values().map(Vec::capacity).sum();
                    prop_assert!(contents.held >= held as u64);
                    let bytes = all(&contents, &mut cache);
                    let part = |&(offset, length): &(u64, u64)| (offset, &bytes[offset as usize..][..length as usize]);
                    let extents = contents.extents();
                    let parts: Vec<_> = extents.iter().map(part).collect();
                    let restored = Contents::from_extents(&parts, contents.size()).unwrap();
                    prop_assert_eq!(contents.held(), restored.held());
                }
                let filled: u64 = contents.extents().iter().map(|(_, length)| length).sum();
                prop_assert_eq!(contents.allocated(), filled);
                let mut buf = vec![0xee; length];
                let count = contents.read(offset / 2, &mut buf, &mut cache).unwrap();
                let expected = model.get(offset as usize / 2..).unwrap_or_default();
                prop_assert!(buf[..count] == expected[..expected.len().min(length)]);
            }
            prop_assert!(all(&contents, &mut cache) == model);
        }
    }
}
