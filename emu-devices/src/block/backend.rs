//! Where the bytes of a medium are.

use std::collections::BTreeMap;
use std::io;

/// Bytes of a block in [`SavedMedium::Blocks`].
pub const SAVED_BLOCK: usize = 256;

/// A block of a medium: its number (its offset by [`SAVED_BLOCK`]) and its bytes.
pub type SavedBlock = (u64, Box<[u8; SAVED_BLOCK]>);

/// What a snapshot holds of a medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SavedMedium {
    /// All of it, because it is nowhere else.
    Whole(Vec<u8>),
    /// The blocks that differ from the image the machine was given, ascending. The snapshot is only
    /// of use together with that image.
    Blocks(Vec<SavedBlock>),
}

/// A disk, CD or floppy image. Addresses are bytes; drives do their own sector arithmetic.
pub trait BlockBackend: Send {
    /// Size of the medium in bytes.
    fn len(&self) -> u64;

    /// True for a medium without bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// The range is not on the medium, or the host could not read it.
    fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// The range is not on the medium, the medium is write protected, or the host could not write.
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes written data durable.
    ///
    /// # Errors
    /// The host could not.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// True if [`BlockBackend::write`] always fails.
    fn is_read_only(&self) -> bool {
        false
    }

    /// What a snapshot has to hold. Nothing for a medium whose writes are on the host already.
    fn save(&mut self) -> SavedMedium {
        SavedMedium::Blocks(Vec::new())
    }

    /// Takes over what [`SavedMedium::Blocks`] holds in place of what was written since. Blocks
    /// behind the end are dropped.
    ///
    /// # Errors
    /// The host could not write.
    fn restore_blocks(&mut self, blocks: Vec<SavedBlock>) -> io::Result<()> {
        write_blocks(self, blocks)
    }
}

/// Writes blocks of a snapshot.
fn write_blocks<B: BlockBackend + ?Sized>(disk: &mut B, blocks: Vec<SavedBlock>) -> io::Result<()> {
    for (number, bytes) in blocks {
        let offset = number.saturating_mul(SAVED_BLOCK as u64);
        let n = part_on_medium(disk.len(), offset, bytes.len());
        if let Some(data) = bytes.get(..n).filter(|data| !data.is_empty()) {
            disk.write(offset, data)?;
        }
    }
    Ok(())
}

fn out_of_range() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "Beyond the end of the medium")
}

/// Length of the part of `offset..offset + len` that lies on a medium of `size` bytes.
fn part_on_medium(size: u64, offset: u64, len: usize) -> usize {
    usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(len)
}

/// Reads; what lies beyond the end reads as zero. Images need not end at a sector boundary.
///
/// # Errors
/// Those of the backend.
pub fn read_padded(disk: &mut dyn BlockBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
    let n = part_on_medium(disk.len(), offset, out.len());
    let (data, padding) = out.split_at_mut(n);
    padding.fill(0);
    if data.is_empty() { Ok(()) } else { disk.read(offset, data) }
}

/// Writes; what lies beyond the end is dropped.
///
/// # Errors
/// Those of the backend.
pub fn write_clipped(disk: &mut dyn BlockBackend, offset: u64, data: &[u8]) -> io::Result<()> {
    let n = part_on_medium(disk.len(), offset, data.len());
    match data.get(..n) {
        Some(data) if !data.is_empty() => disk.write(offset, data),
        _ => Ok(()),
    }
}

/// A medium that is treated as followed by zeros up to a larger size; what is written behind its
/// end lives as long as this value.
pub struct PaddedDisk {
    inner: Box<dyn BlockBackend>,
    inner_len: u64,
    tail: Vec<u8>,
}

impl PaddedDisk {
    /// `inner` as a medium of `len` bytes. The difference is kept in memory.
    pub fn new(inner: Box<dyn BlockBackend>, len: u64) -> Self {
        let inner_len = inner.len();
        let tail = usize::try_from(len.saturating_sub(inner_len)).unwrap_or(0);
        Self { inner, inner_len, tail: vec![0; tail] }
    }

    /// Part of the tail that `offset..offset + len` covers; `None` if the range is too long.
    fn tail(&mut self, offset: u64, len: usize) -> Option<&mut [u8]> {
        let start = usize::try_from(offset.saturating_sub(self.inner_len)).ok()?;
        self.tail.get_mut(start..start.checked_add(len)?)
    }
}

impl BlockBackend for PaddedDisk {
    fn len(&self) -> u64 {
        self.inner_len.saturating_add(self.tail.len() as u64)
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (head, rest) = out.split_at_mut(part_on_medium(self.inner_len, offset, out.len()));
        if !rest.is_empty() {
            rest.copy_from_slice(self.tail(offset, rest.len()).ok_or_else(out_of_range)?);
        }
        if head.is_empty() { Ok(()) } else { self.inner.read(offset, head) }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (head, rest) = data.split_at(part_on_medium(self.inner_len, offset, data.len()));
        if !rest.is_empty() {
            self.tail(offset, rest.len()).ok_or_else(out_of_range)?.copy_from_slice(rest);
        }
        if head.is_empty() { Ok(()) } else { self.inner.write(offset, head) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn is_read_only(&self) -> bool {
        self.inner.is_read_only()
    }
}

/// Bytes of one page of [`MemoryDisk`]'s overlay.
pub const OVERLAY_PAGE: usize = 4096;

/// Read-only bytes with a copy-on-write overlay: what the guest writes is kept beside them, at most
/// as much as the medium is large.
pub struct MemoryDisk {
    base: Box<dyn AsRef<[u8]> + Send>,
    len: u64,
    overlay: BTreeMap<u64, Box<[u8; OVERLAY_PAGE]>>,
    /// The base exists nowhere but here.
    embedded: bool,
}

impl MemoryDisk {
    /// A medium with the contents of `base` (a vector, a mapped file).
    pub fn new(base: impl AsRef<[u8]> + Send + 'static) -> Self {
        let len = base.as_ref().len() as u64;
        Self { base: Box::new(base), len, overlay: BTreeMap::new(), embedded: false }
    }

    /// The same followed by zeros up to `len` bytes; `base` is never cut off.
    pub fn with_len(base: impl AsRef<[u8]> + Send + 'static, len: u64) -> Self {
        let mut disk = Self::new(base);
        disk.len = disk.len.max(len);
        disk
    }

    /// A medium that came out of a snapshot: the next one has to hold all of it again.
    pub fn embedded(image: Vec<u8>) -> Self {
        Self { embedded: true, ..Self::new(image) }
    }

    /// Pages the guest has written, by page number, in ascending order.
    pub fn written_pages(&self) -> impl Iterator<Item = (u64, &[u8; OVERLAY_PAGE])> {
        self.overlay.iter().map(|(&n, page)| (n, page.as_ref()))
    }

    /// Forgets everything that was written.
    pub fn discard_writes(&mut self) {
        self.overlay.clear();
    }

    fn read_base(base: &[u8], offset: u64, out: &mut [u8]) {
        let n = part_on_medium(base.len() as u64, offset, out.len());
        let (data, padding) = out.split_at_mut(n);
        padding.fill(0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(src) = start.checked_add(n).and_then(|end| base.get(start..end)) {
            data.copy_from_slice(src);
        }
    }

    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(out_of_range()),
        }
    }
}

/// Splits `offset..offset + len` at overlay pages: `(page, offset in page, bytes)`.
fn pages(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let mut left = len;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let within = (at % OVERLAY_PAGE as u64) as usize;
        let n = left.min(OVERLAY_PAGE - within);
        let item = (at / OVERLAY_PAGE as u64, within, n);
        at += n as u64;
        left -= n;
        Some(item)
    })
}

impl BlockBackend for MemoryDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check(offset, out.len())?;
        let base = (*self.base).as_ref();
        if self.overlay.is_empty() {
            Self::read_base(base, offset, out);
            return Ok(());
        }
        let mut rest = out;
        for (number, within, n) in pages(offset, rest.len()) {
            let (part, tail) = rest.split_at_mut(n);
            match self.overlay.get(&number).and_then(|page| page.get(within..within + n)) {
                Some(src) => part.copy_from_slice(src),
                None => Self::read_base(base, number * OVERLAY_PAGE as u64 + within as u64, part),
            }
            rest = tail;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len())?;
        let base = (*self.base).as_ref();
        let mut rest = data;
        for (number, within, n) in pages(offset, data.len()) {
            let (part, tail) = rest.split_at(n);
            let page = self.overlay.entry(number).or_insert_with(|| {
                let mut page = Box::new([0; OVERLAY_PAGE]);
                Self::read_base(base, number * OVERLAY_PAGE as u64, page.as_mut());
                page
            });
            if let Some(dst) = page.get_mut(within..within + n) {
                dst.copy_from_slice(part);
            }
            rest = tail;
        }
        Ok(())
    }

    fn save(&mut self) -> SavedMedium {
        if self.embedded {
            let mut image = vec![0; usize::try_from(self.len).unwrap_or(0)];
            // Cannot fail: the range is the medium's.
            let _ = self.read(0, &mut image);
            return SavedMedium::Whole(image);
        }
        let base = (*self.base).as_ref();
        let mut blocks = Vec::new();
        let mut original = [0; SAVED_BLOCK];
        for (&number, page) in &self.overlay {
            let start = number * OVERLAY_PAGE as u64;
            for (offset, bytes) in (start..).step_by(SAVED_BLOCK).zip(page.chunks_exact(SAVED_BLOCK)) {
                Self::read_base(base, offset, &mut original);
                if offset < self.len && bytes != original {
                    let mut block = Box::new([0; SAVED_BLOCK]);
                    block.copy_from_slice(bytes);
                    blocks.push((offset / SAVED_BLOCK as u64, block));
                }
            }
        }
        SavedMedium::Blocks(blocks)
    }

    fn restore_blocks(&mut self, blocks: Vec<SavedBlock>) -> io::Result<()> {
        self.discard_writes();
        write_blocks(self, blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i / 7) as u8).collect()
    }

    #[test]
    fn memory_disk_write_is_seen_by_reads_across_pages_and_base_is_kept() {
        let base = numbered(3 * OVERLAY_PAGE);
        let mut disk = MemoryDisk::new(base.clone());
        disk.write(OVERLAY_PAGE as u64 - 3, &[0xAA; 6]).unwrap();
        let mut expected = base;
        expected[OVERLAY_PAGE - 3..OVERLAY_PAGE + 3].fill(0xAA);
        let mut got = vec![0; expected.len()];
        disk.read(0, &mut got).unwrap();
        assert_eq!(got, expected);
        assert_eq!(disk.written_pages().map(|(n, _)| n).collect::<Vec<_>>(), [0, 1]);
        disk.discard_writes();
        disk.read(0, &mut got).unwrap();
        assert_eq!(got, numbered(3 * OVERLAY_PAGE));
    }

    #[test]
    fn memory_disk_longer_than_its_base_ends_in_zeros() {
        let mut disk = MemoryDisk::with_len(vec![7u8; 100], 10_000);
        let mut got = [1; 200];
        disk.read(0, &mut got).unwrap();
        assert_eq!(got[..100], [7; 100]);
        assert_eq!(got[100..], [0; 100]);
        disk.write(9_999, &[5]).unwrap();
        disk.read(9_990, &mut got[..10]).unwrap();
        assert_eq!(got[..10], [0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    }

    #[test]
    fn memory_disk_access_beyond_the_end_fails() {
        let mut disk = MemoryDisk::new(vec![0u8; 512]);
        assert!(disk.read(511, &mut [0; 2]).is_err());
        assert!(disk.write(512, &[0]).is_err());
        assert!(disk.read(u64::MAX, &mut [0; 2]).is_err());
        assert!(disk.read(512, &mut []).is_ok());
    }

    #[test]
    fn memory_disk_saves_the_blocks_that_differ_and_restores_them_alone() {
        let base = numbered(3 * OVERLAY_PAGE + 100);
        let mut disk = MemoryDisk::new(base.clone());
        disk.write(250, &[0xEE; 10]).unwrap();
        let end = base.len() as u64;
        disk.write(end - 2, &[0xDD; 2]).unwrap();
        // Written, but with what was there.
        disk.write(5000, &base[5000..6000]).unwrap();
        let SavedMedium::Blocks(blocks) = disk.save() else { panic!() };
        assert_eq!(blocks.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1, 48]);
        assert_eq!((blocks[0].1[250], blocks[1].1[3], blocks[1].1[4]), (0xEE, 0xEE, base[260]));

        let mut other = MemoryDisk::new(base);
        other.write(2048, &[1; 512]).unwrap();
        let mut restored = blocks.clone();
        restored.push((1 << 60, Box::new([9; SAVED_BLOCK])));
        restored.push((u64::MAX, Box::new([9; SAVED_BLOCK])));
        other.restore_blocks(restored).unwrap();
        assert_eq!(other.save(), SavedMedium::Blocks(blocks));
        let (mut a, mut b) = (vec![0; end as usize], vec![0; end as usize]);
        disk.read(0, &mut a).unwrap();
        other.read(0, &mut b).unwrap();
        assert_eq!(a, b);
    }

    #[test]
    fn memory_disk_out_of_a_snapshot_is_saved_as_a_whole() {
        let mut disk = MemoryDisk::embedded(numbered(1000));
        disk.write(999, &[0xEE]).unwrap();
        let mut expected = numbered(1000);
        expected[999] = 0xEE;
        assert_eq!(disk.save(), SavedMedium::Whole(expected));
    }

    #[test]
    fn padded_access_treats_the_medium_as_followed_by_zeros() {
        let mut disk = MemoryDisk::new(vec![9u8; 700]);
        let mut got = [1; 512];
        read_padded(&mut disk, 512, &mut got).unwrap();
        assert_eq!(got[..188], [9; 188]);
        assert_eq!(got[188..], [0; 324]);
        write_clipped(&mut disk, 512, &[3; 512]).unwrap();
        read_padded(&mut disk, 698, &mut got[..4]).unwrap();
        assert_eq!(got[..4], [3, 3, 0, 0]);
        read_padded(&mut disk, 4096, &mut got).unwrap();
        assert_eq!(got, [0; 512]);
    }
}
