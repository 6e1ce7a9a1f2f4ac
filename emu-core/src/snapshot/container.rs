//! Header, info block and buffers.
//!
//! ```text
//! 0   86768676h, version, total length, length of the info block (32 bits each)
//! 16  info block: {"buffer_infos":[{"offset":…,"length":…},…],"state":[…]}
//!     padding to 4 bytes; then the buffers, each at a multiple of 4
//! ```
//!
//! In what we write, packed memory is buffer 0. In a raw file the info block is filled up with spaces, so
//! that guest pages lie at multiples of 4096 and can be mapped.

use std::fs::File;
use std::io;

use super::error::{FieldError, SnapshotError};
use super::json::{BufferInfo, Info, Parser, Printer};
use super::pages::PackedMemory;
use super::value::{Kind, Typed, Value};
use super::{STATE_MAGIC, STATE_VERSION, State, slots};
use crate::mem::GuestRam;

const HEADER: u64 = 16;
const PAGE: u64 = 4096;

/// Marks the value that stands for packed memory while writing.
const MEMORY: u32 = u32::MAX - 1;

type Result<T> = std::result::Result<T, SnapshotError>;

/// What a snapshot may cost before it is refused.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Length of the decompressed file in bytes.
    pub file: u64,
    /// Length of the info block in bytes.
    pub info: u64,
    /// JSON values in it.
    pub values: u64,
    /// Buffers besides guest memory, together, in bytes.
    pub buffers: u64,
    /// Guest memory in bytes.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file: 6 << 30, info: 512 << 20, values: 64 << 20, buffers: 4 << 30, memory: 2 << 30 }
    }
}

/// Where a snapshot comes from.
pub trait Source {
    /// Reads exactly `buf.len()` bytes at `offset` of the decompressed file. Offsets ascend unless the
    /// source is seekable.
    ///
    /// # Errors
    /// The host's; `UnexpectedEof` if the file is shorter.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Length, if known before reading everything.
    fn total_len(&self) -> Option<u64>;

    /// True if offsets may go back.
    fn is_seekable(&self) -> bool {
        true
    }

    /// The file, if its bytes are the snapshot's and it can be mapped: nobody will change it, only
    /// replace it.
    fn file(&self) -> Option<&File> {
        None
    }

    /// Everything was read: looks at what follows, such as a checksum.
    ///
    /// # Errors
    /// What is wrong with it.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for &[u8] {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn total_len(&self) -> Option<u64> {
        Some(self.len() as u64)
    }
}

/// Where things lie in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Length of the decompressed file as the header says.
    pub total: u64,
    /// Length of the info block.
    pub info: u64,
    /// Offset of the first buffer.
    pub base: u64,
    buffers: Vec<BufferInfo>,
}

impl Layout {
    /// Number of buffers.
    pub fn buffers(&self) -> usize {
        self.buffers.len()
    }

    fn wrong(&self, id: usize, reason: &'static str) -> SnapshotError {
        let info = self.buffers.get(id).copied().unwrap_or(BufferInfo { offset: 0, length: 0 });
        SnapshotError::Buffer {
            id: id as u64,
            offset: self.base.saturating_add(info.offset),
            length: info.length,
            reason,
        }
    }

    /// Offset in the file and length of buffer `id`, if it lies in the file.
    fn place(&self, id: usize) -> Result<(u64, u64)> {
        let Some(info) = self.buffers.get(id) else { return Err(self.wrong(id, "there is no such buffer")) };
        let start = self.base.checked_add(info.offset);
        let end = start.and_then(|start| start.checked_add(info.length));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.total => Ok((start, info.length)),
            _ => Err(self.wrong(id, "it reaches beyond the end")),
        }
    }
}

/// A snapshot whose info block has been read.
pub struct Reader<S> {
    source: S,
    limits: Limits,
    layout: Layout,
    state: State,
}

fn read(source: &mut impl Source, offset: u64, buf: &mut [u8], what: &'static str) -> Result<()> {
    source.read_at(offset, buf).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            SnapshotError::Truncated { offset: offset.saturating_add(buf.len() as u64), what }
        }
        _ => SnapshotError::Io { offset, what, source: error },
    })
}

/// Reads `len` bytes; what is not there is not allocated either.
fn read_vec(source: &mut impl Source, offset: u64, len: u64, what: &'static str) -> Result<Vec<u8>> {
    /// As much is allocated on trust.
    const STEP: u64 = 8 << 20;
    let mut data = Vec::new();
    while (data.len() as u64) < len {
        let done = data.len();
        let step = (len - done as u64).min(STEP) as usize;
        data.try_reserve(step).map_err(|_| SnapshotError::Limit {
            what: "bytes",
            found: len,
            limit: done as u64,
        })?;
        data.resize(done + step, 0);
        let Some(part) = data.get_mut(done..) else { break };
        read(source, offset + done as u64, part, what)?;
    }
    Ok(data)
}

fn limit(what: &'static str, found: u64, limit: u64) -> Result<()> {
    if found > limit { Err(SnapshotError::Limit { what, found, limit }) } else { Ok(()) }
}

impl<S: Source> Reader<S> {
    /// Reads header and info block.
    ///
    /// # Errors
    /// It is no snapshot, or one that cannot be read.
    pub fn open(mut source: S, limits: Limits) -> Result<Self> {
        let mut header = [0; HEADER as usize];
        read(&mut source, 0, &mut header, "header")?;
        let word =
            |n: usize| header.iter().skip(n * 4).take(4).rev().fold(0u32, |v, b| v << 8 | u32::from(*b));
        if word(0) != STATE_MAGIC {
            return Err(SnapshotError::Magic { magic: word(0) });
        }
        let version = word(1) as i32;
        if version != STATE_VERSION {
            return Err(SnapshotError::Version(version));
        }
        let total = u64::from(word(2));
        if let Some(actual) = source.total_len()
            && actual != total
        {
            return Err(SnapshotError::Length { header: total, actual });
        }
        limit("bytes", total, limits.file)?;
        let info_len = u64::from(word(3));
        limit("bytes of description", info_len, limits.info)?;
        let base = (HEADER + info_len).next_multiple_of(4);
        if HEADER + info_len > total {
            return Err(SnapshotError::Truncated { offset: HEADER + info_len, what: "info block" });
        }
        let text = read_vec(&mut source, HEADER, info_len, "info block")?;
        let Info { buffers, slots, offsets } = Parser::new(&text, HEADER, limits.values).info()?;
        let layout = Layout { total, info: info_len, base, buffers };
        let state = State::from_parts(slots, offsets);
        Ok(Self { source, limits, layout, state })
    }

    /// The state array. Typed arrays are still empty.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where things lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Guest RAM of the machine, bytes.
    ///
    /// # Errors
    /// The snapshot says none, or one that cannot be.
    pub fn memory_size(&self) -> Result<u64> {
        const STEP: i64 = 128 << 10;
        let error = |reason: String| self.state.error(slots::MEMORY_SIZE, FieldError::here(reason));
        match self.state.get(slots::MEMORY_SIZE) {
            Value::Int(n) if *n > 0 && n % STEP == 0 && *n as u64 <= self.limits.memory => Ok(*n as u64),
            Value::Int(n) => {
                Err(error(format!("{n} bytes of memory; whole 128 KiB up to {}", self.limits.memory)))
            }
            other => Err(error(format!("expected a number, found {}", other.describe()))),
        }
    }

    /// Bytes of guest memory that are stored.
    pub fn stored_memory(&self) -> u64 {
        match self.state.get(slots::PACKED_MEMORY) {
            Value::Typed(typed) => {
                self.layout.buffers.get(typed.buffer as usize).map_or(0, |info| info.length)
            }
            _ => 0,
        }
    }

    fn buffer_of(&self, slot: usize) -> Result<usize> {
        match self.state.get(slot) {
            Value::Typed(typed) if typed.kind == Kind::Uint8 => Ok(typed.buffer as usize),
            other => {
                let found = other.describe();
                Err(self.state.error(slot, FieldError::here(format!("expected bytes, found {found}"))))
            }
        }
    }

    /// Reads the buffers. Guest memory goes to `ram`, which must be clear; it is mapped where that is
    /// possible. Without `ram`, memory is left out.
    ///
    /// # Errors
    /// A buffer is not as it must be.
    pub fn load(mut self, mut ram: Option<&mut GuestRam>) -> Result<State> {
        let memory = self.buffer_of(slots::PACKED_MEMORY)?;
        let bitmap = self.buffer_of(slots::MEMORY_BITMAP)?;
        let stored = self.check_memory(memory, bitmap)?;
        let mut wanted = vec![false; self.layout.buffers.len()];
        for (slot, value) in self.state.slots().iter().enumerate() {
            self.claim(value, &mut wanted).map_err(|error| self.at(slot, error))?;
        }
        let total: u64 = (self.layout.buffers.iter().zip(&wanted).enumerate())
            .filter(|(id, (_, wanted))| **wanted && *id != memory)
            .fold(0, |sum, (_, (info, _))| sum.saturating_add(info.length));
        limit("bytes of buffers", total, self.limits.buffers)?;

        let mut order: Vec<usize> = (0..wanted.len()).filter(|id| wanted.get(*id) == Some(&true)).collect();
        order.sort_by_key(|id| self.layout.buffers.get(*id).map(|info| info.offset));
        let mut buffers: Vec<Option<Vec<u8>>> = vec![None; wanted.len()];
        let mut read_to = self.layout.base;
        for id in order {
            let (start, length) = self.layout.place(id)?;
            if start < read_to && !self.source.is_seekable() {
                return Err(self.layout.wrong(id, "it overlaps another one"));
            }
            read_to = start + length;
            if id == memory {
                if let Some(ram) = ram.as_deref_mut()
                    && !self.source.is_seekable()
                {
                    let part = ram.as_mut_slice().get_mut(..stored as usize);
                    let part = part.ok_or_else(|| self.layout.wrong(id, "it is larger than guest memory"))?;
                    read(&mut self.source, start, part, "packed memory")?;
                }
                continue;
            }
            if let Some(place) = buffers.get_mut(id) {
                *place = Some(read_vec(&mut self.source, start, length, "buffer")?);
            }
        }
        if let Some(ram) = ram {
            let bits = buffers.get(bitmap).and_then(Option::as_deref).unwrap_or_default();
            self.fill(ram, memory, bits)?;
        }
        self.source.finish().map_err(|source| SnapshotError::Io {
            offset: self.layout.total,
            what: "end of the file",
            source,
        })?;
        for value in &mut self.state.slots {
            deliver(value, &mut buffers);
        }
        Ok(self.state)
    }

    fn at(&self, slot: usize, error: ClaimError) -> SnapshotError {
        match error {
            ClaimError::Buffer(id, reason) => self.layout.wrong(id, reason),
            ClaimError::Field(error) => self.state.error(slot, error),
        }
    }

    /// Marks the buffers that `value` refers to.
    fn claim(&self, value: &Value, wanted: &mut [bool]) -> std::result::Result<(), ClaimError> {
        match value {
            Value::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    self.claim(item, wanted).map_err(|error| match error {
                        ClaimError::Field(error) => ClaimError::Field(error.within(n)),
                        other => other,
                    })?;
                }
            }
            Value::Typed(typed) => {
                let id = typed.buffer as usize;
                let Some(seen) = wanted.get_mut(id) else {
                    let reason = format!("buffer {id} does not exist");
                    return Err(ClaimError::Field(FieldError::here(reason)));
                };
                if std::mem::replace(seen, true) {
                    return Err(ClaimError::Field(FieldError::here(format!("buffer {id} is used twice"))));
                }
                let length = self.layout.buffers.get(id).map_or(0, |info| info.length);
                if !length.is_multiple_of(typed.kind.size() as u64) {
                    return Err(ClaimError::Buffer(id, "its length is no whole number of elements"));
                }
                self.layout.place(id).map_err(|_| ClaimError::Buffer(id, "it reaches beyond the end"))?;
            }
            // Never decoded by v86 either: the maps it writes are empty.
            Value::Map(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Text(_) => {}
        }
        Ok(())
    }

    /// Checks sizes of bitmap and packed memory. Returns the bytes stored.
    fn check_memory(&self, memory: usize, bitmap: usize) -> Result<u64> {
        let pages = self.memory_size()? / PAGE;
        let (_, stored) = self.layout.place(memory)?;
        if !stored.is_multiple_of(PAGE) || stored / PAGE > pages {
            return Err(self.layout.wrong(memory, "packed memory is whole pages, at most all there are"));
        }
        let (_, bits) = self.layout.place(bitmap)?;
        if bits != pages.div_ceil(8) {
            return Err(self.layout.wrong(bitmap, "the memory bitmap has one bit per page"));
        }
        Ok(stored)
    }

    /// Brings packed memory to where it belongs.
    fn fill(&mut self, ram: &mut GuestRam, memory: usize, bitmap: &[u8]) -> Result<()> {
        let (start, stored) = self.layout.place(memory)?;
        let pages = (ram.len() as u64 / PAGE) as u32;
        let packed = PackedMemory::from_bitmap(bitmap, pages)
            .ok_or_else(|| self.layout.wrong(memory, "the memory bitmap has pages that do not exist"))?;
        if packed.stored_bytes() != stored {
            return Err(self.layout.wrong(memory, "the memory bitmap has another number of pages"));
        }
        if !self.source.is_seekable() {
            if packed.spread(ram.as_mut_slice()) {
                return Ok(());
            }
            return Err(self.layout.wrong(memory, "it is larger than guest memory"));
        }
        if let Some(file) = self.source.file()
            && start.is_multiple_of(PAGE)
            && ram.map_file(file, start, &packed).is_ok()
        {
            return Ok(());
        }
        let mut at = start;
        for run in &packed.runs {
            if let Some(part) = ram.as_mut_slice().get_mut(run.start()..run.start() + run.len()) {
                read(&mut self.source, at, part, "packed memory")?;
            }
            at += run.len() as u64;
        }
        Ok(())
    }
}

enum ClaimError {
    Buffer(usize, &'static str),
    Field(FieldError),
}

/// Puts the buffers read into the typed arrays they belong to.
fn deliver(value: &mut Value, buffers: &mut [Option<Vec<u8>>]) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| deliver(item, buffers)),
        Value::Typed(typed) => {
            if let Some(data) = buffers.get_mut(typed.buffer as usize).and_then(Option::take) {
                typed.data = data;
            }
        }
        _ => {}
    }
}

/// Where a snapshot goes.
pub trait Output {
    /// Writes bytes.
    ///
    /// # Errors
    /// The host's.
    fn write(&mut self, data: &[u8]) -> io::Result<()>;

    /// Writes that many zeros; a file may have a hole there.
    ///
    /// # Errors
    /// The host's.
    fn zeros(&mut self, count: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut left = count;
        while left > 0 {
            let n = left.min(ZEROS.len() as u64);
            self.write(ZEROS.get(..n as usize).unwrap_or_default())?;
            left -= n;
        }
        Ok(())
    }
}

impl Output for Vec<u8> {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.extend_from_slice(data);
        Ok(())
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Length of the file, decompressed.
    pub bytes: u64,
}

/// Writes a snapshot. `slots` has everything but packed memory and its bitmap; `pages` gives the bytes of
/// each run of `memory`. With `mappable`, guest pages lie at multiples of the page size.
///
/// # Errors
/// The host's, or `FileTooLarge` for a snapshot v86 could not read.
pub fn write<'a>(
    out: &mut dyn Output,
    state: &mut State,
    memory: &PackedMemory,
    mut pages: impl FnMut(super::PageRun) -> &'a [u8],
    mappable: bool,
) -> io::Result<Written> {
    state.set(
        slots::PACKED_MEMORY,
        Value::Typed(Box::new(Typed { kind: Kind::Uint8, data: Vec::new(), buffer: MEMORY })),
    );
    state.set(slots::MEMORY_BITMAP, Value::bytes(memory.bitmap()));

    // Numbers are given in the order of the text, as v86 does, after guest memory.
    let mut lengths = vec![memory.stored_bytes()];
    let mut text = Printer { out: Vec::new() };
    text.array(state.slots(), &mut |typed| {
        if typed.buffer == MEMORY {
            return 0;
        }
        lengths.push(typed.data.len() as u64);
        lengths.len() - 1
    });
    let mut info = Printer { out: b"{\"buffer_infos\":[".to_vec() };
    let mut offset = 0u64;
    for (n, length) in lengths.iter().enumerate() {
        info.out.extend_from_slice(if n > 0 { b",{\"offset\":" } else { b"{\"offset\":" });
        info.integer(offset as i64);
        info.out.extend_from_slice(b",\"length\":");
        info.integer(*length as i64);
        info.out.push(b'}');
        offset += length.next_multiple_of(4);
    }
    info.out.extend_from_slice(b"],\"state\":");
    info.out.append(&mut text.out);
    info.out.push(b'}');
    if mappable {
        let end = (HEADER + info.out.len() as u64).next_multiple_of(PAGE);
        info.out.resize((end - HEADER) as usize, b' ');
    }
    let base = (HEADER + info.out.len() as u64).next_multiple_of(4);
    let total = base + offset;
    // v86 cannot read more, but we can.
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "a snapshot has at most 4 GiB");
    let total32 = u32::try_from(total).map_err(|_| too_large())?;
    for word in [STATE_MAGIC, STATE_VERSION as u32, total32, info.out.len() as u32] {
        out.write(&word.to_le_bytes())?;
    }
    out.write(&info.out)?;
    out.zeros(base - HEADER - info.out.len() as u64)?;
    drop(info);
    for run in &memory.runs {
        let data = pages(*run);
        if mappable { write_sparse(out, data)? } else { out.write(data)? }
    }
    for value in state.slots() {
        write_buffers(out, value)?;
    }
    Ok(Written { bytes: total })
}

/// Writes pages, those that are zero as holes.
fn write_sparse(out: &mut dyn Output, data: &[u8]) -> io::Result<()> {
    let mut start = 0;
    let mut at = 0;
    for page in data.chunks(PAGE as usize) {
        if super::pages::is_zero(page) {
            out.write(data.get(start..at).unwrap_or_default())?;
            out.zeros(page.len() as u64)?;
            start = at + page.len();
        }
        at += page.len();
    }
    out.write(data.get(start..).unwrap_or_default())
}

fn write_buffers(out: &mut dyn Output, value: &Value) -> io::Result<()> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| write_buffers(out, item)),
        Value::Typed(typed) if typed.buffer != MEMORY => {
            out.write(&typed.data)?;
            let len = typed.data.len() as u64;
            out.zeros(len.next_multiple_of(4) - len)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values;

    fn state() -> State {
        let mut state = State::new();
        state.set(0, 1 << 20);
        state.set(1, Value::bytes([1, 2, 3]));
        state.set(50, values![7, Value::u16s(&[5, 6, 7]), values![Value::f64s(&[0.5])]]);
        state
    }

    fn snapshot(mappable: bool) -> (Vec<u8>, GuestRam) {
        let mut ram = GuestRam::new(1 << 20).unwrap();
        for at in [0, 4096 * 3 + 5, 4096 * 5, (1 << 20) - 1] {
            ram.as_mut_slice()[at] = 0xA5;
        }
        let mut packed = PackedMemory::scan(&ram);
        if mappable {
            packed = packed.for_mapping();
        }
        let mut out = Vec::new();
        let pages = |run: super::super::PageRun| &ram.as_slice()[run.start()..run.start() + run.len()];
        let written = write(&mut out, &mut state(), &packed, pages, mappable).unwrap();
        assert_eq!(written.bytes, out.len() as u64);
        (out, ram)
    }

    /// A source that only goes forward.
    struct Stream<'a>(&'a [u8], u64);

    impl Source for Stream<'_> {
        fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            assert!(offset >= self.1, "went back");
            self.1 = offset + buf.len() as u64;
            self.0.read_at(offset, buf)
        }
        fn total_len(&self) -> Option<u64> {
            None
        }
        fn is_seekable(&self) -> bool {
            false
        }
    }

    #[test]
    fn container_written_is_read_back_from_file_and_stream() {
        for mappable in [false, true] {
            let (file, ram) = snapshot(mappable);
            assert!(file.len().is_multiple_of(4));
            let reader = Reader::open(&file[..], Limits::default()).unwrap();
            assert_eq!(reader.memory_size().unwrap(), 1 << 20);
            assert!(!mappable || reader.layout().base.is_multiple_of(4096));
            let mut got = GuestRam::new(1 << 20).unwrap();
            let back = reader.load(Some(&mut got)).unwrap();
            assert!(got.as_slice() == ram.as_slice());
            let mut memory = GuestRam::new(1 << 20).unwrap();
            let reader = Reader::open(Stream(&file, 0), Limits::default()).unwrap();
            let streamed = reader.load(Some(&mut memory)).unwrap();
            assert!(memory.as_slice() == ram.as_slice());
            for state in [back, streamed] {
                let Value::Array(items) = state.get(50) else { panic!() };
                let Value::Typed(typed) = &items[1] else { panic!() };
                assert_eq!((typed.kind, &typed.data[..]), (Kind::Uint16, &[5, 0, 6, 0, 7, 0][..]));
                let Value::Typed(bytes) = state.get(1) else { panic!() };
                assert_eq!(bytes.data, [1, 2, 3]);
            }
        }
    }

    #[test]
    fn container_cut_off_anywhere_is_an_error() {
        let (file, _) = snapshot(false);
        for len in (0..file.len()).step_by(61).chain(file.len() - 3..file.len()) {
            assert!(Reader::open(&file[..len], Limits::default()).is_err(), "{len}");
            let stream = Reader::open(Stream(&file[..len], 0), Limits::default());
            let mut ram = GuestRam::new(1 << 20).unwrap();
            let cut = stream.and_then(|reader| reader.load(Some(&mut ram)));
            // The last buffer may be followed by padding nobody needs.
            assert!(cut.is_err() || len >= file.len() - 3, "{len}");
        }
    }

    #[test]
    fn container_header_lies_are_named() {
        let (file, _) = snapshot(false);
        let open = |at: usize, value: u32| {
            let mut file = file.clone();
            file[at..at + 4].copy_from_slice(&value.to_le_bytes());
            Reader::open(&file[..], Limits::default()).map(|_| ()).unwrap_err()
        };
        assert!(matches!(open(0, 0xFD2F_B528), SnapshotError::Magic { .. }));
        assert!(matches!(open(4, 5), SnapshotError::Version(5)));
        assert!(matches!(open(8, 4), SnapshotError::Length { header: 4, .. }));
        assert!(matches!(open(12, u32::MAX), SnapshotError::Limit { .. }));
        assert!(matches!(open(12, 1 << 21), SnapshotError::Truncated { .. }));
    }

    fn with_text(from: &str, to: &str) -> Result<State> {
        let (file, _) = snapshot(false);
        let at = file.windows(from.len()).position(|part| part == from.as_bytes()).expect("text is there");
        assert_eq!(from.len(), to.len());
        let mut file = file;
        file[at..at + to.len()].copy_from_slice(to.as_bytes());
        let mut ram = GuestRam::new(1 << 20).unwrap();
        Reader::open(&file[..], Limits::default())?.load(Some(&mut ram))
    }

    #[test]
    fn container_buffers_that_cannot_be_are_refused() {
        let buffer = |reason| move |error: &SnapshotError| matches!(error, SnapshotError::Buffer { reason: r, .. } if r.contains(reason));
        let field = |text| move |error: &SnapshotError| matches!(error, SnapshotError::Field { error, .. } if error.reason.contains(text));
        let check = |from: &str, to: &str, expected: &dyn Fn(&SnapshotError) -> bool| {
            let error = with_text(from, to).expect_err(to);
            assert!(expected(&error), "{to}: {error}");
        };
        check("\"length\":16384", "\"length\":16383", &buffer("whole pages"));
        check("\"length\":32}", "\"length\":31}", &buffer("one bit per page"));
        check("\"length\":6}", "\"length\":7}", &buffer("whole number of elements"));
        check("\"offset\":16384", "\"offset\":99999", &buffer("beyond the end"));
        check("\"buffer_id\":2", "\"buffer_id\":1", &field("used twice"));
        check("\"buffer_id\":2", "\"buffer_id\":9", &field("does not exist"));
        assert!(matches!(with_text("[1048576,", "[1048577,"), Err(SnapshotError::Field { slot: 0, .. })));
    }

    #[test]
    fn container_beyond_each_limit_is_refused() {
        let (file, ram) = snapshot(false);
        let enough = Limits { file: 1 << 20, info: 4096, values: 200, buffers: 1000, memory: 1 << 20 };
        let load = |limits: Limits| {
            let reader = Reader::open(&file[..], limits)?;
            assert_eq!(reader.memory_size()?, 1 << 20);
            reader.load(Some(&mut GuestRam::new(ram.len()).unwrap())).map(drop)
        };
        load(enough).unwrap();
        let total = file.len() as u64 - 1;
        for (limits, expected) in [
            (Limits { file: total, ..enough }, "bytes"),
            (Limits { info: 100, ..enough }, "bytes of description"),
            (Limits { values: 20, ..enough }, "values"),
            (Limits { buffers: 48, ..enough }, "bytes of buffers"),
        ] {
            match load(limits) {
                Err(SnapshotError::Limit { what, .. }) => assert_eq!(what, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
        let small = load(Limits { memory: (1 << 20) - 1, ..enough });
        assert!(matches!(small, Err(SnapshotError::Field { slot: slots::MEMORY_SIZE, .. })), "{small:?}");
    }
}
