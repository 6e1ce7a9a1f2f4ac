//! Messages on the wire: numbers and fields.
//!
//! Every message is `size[4] type[1] tag[2]` and a body; integers are little-endian, strings are
//! a 16-bit length and that many bytes. A reply's type is the request's plus one.

use super::errno::Errno;
use super::fs::{Qid, Time};

/// Size of `size[4] type[1] tag[2]`.
pub const HEADER: usize = 7;
/// Size of an Rlerror.
pub const ERROR_REPLY: usize = HEADER + 4;
/// What a Tread or Twrite may need besides the data (Linux: P9_IOHDRSZ).
pub const IO_HEADER: u32 = 24;
/// "No fid".
pub const NO_FID: u32 = u32::MAX;
/// "No numeric user id".
pub const NO_UID: u32 = u32::MAX;
/// The version we speak.
pub const VERSION: &[u8] = b"9P2000.L";
/// The answer to a client that speaks something else.
pub const UNKNOWN_VERSION: &[u8] = b"unknown";

/// Request types. A reply's type is one more.
pub mod request {
    #![allow(missing_docs, reason = "names from the protocol")]
    pub const STATFS: u8 = 8;
    pub const LOPEN: u8 = 12;
    pub const LCREATE: u8 = 14;
    pub const SYMLINK: u8 = 16;
    pub const MKNOD: u8 = 18;
    pub const RENAME: u8 = 20;
    pub const READLINK: u8 = 22;
    pub const GETATTR: u8 = 24;
    pub const SETATTR: u8 = 26;
    pub const XATTRWALK: u8 = 30;
    pub const XATTRCREATE: u8 = 32;
    pub const READDIR: u8 = 40;
    pub const FSYNC: u8 = 50;
    pub const LOCK: u8 = 52;
    pub const GETLOCK: u8 = 54;
    pub const LINK: u8 = 70;
    pub const MKDIR: u8 = 72;
    pub const RENAMEAT: u8 = 74;
    pub const UNLINKAT: u8 = 76;
    pub const VERSION: u8 = 100;
    pub const AUTH: u8 = 102;
    pub const ATTACH: u8 = 104;
    pub const FLUSH: u8 = 108;
    pub const WALK: u8 = 110;
    pub const READ: u8 = 116;
    pub const WRITE: u8 = 118;
    pub const CLUNK: u8 = 120;
    pub const REMOVE: u8 = 122;
}

/// Type of an error reply.
pub const RLERROR: u8 = 7;

/// Flags of Tlopen and Tlcreate. The values are those of Linux on x86.
pub mod open_flags {
    #![allow(missing_docs, reason = "names from the protocol")]
    pub const ACCESS: u32 = 3;
    pub const WRONLY: u32 = 1;
    pub const RDWR: u32 = 2;
    pub const TRUNC: u32 = 0o1000;
    /// What is written goes to the end.
    pub const APPEND: u32 = 0o2000;
    pub const DIRECTORY: u32 = 0o200000;
}

/// Bits of Tgetattr and Rgetattr.
pub mod getattr {
    /// mode, nlink, uid, gid, rdev, the three times, ino, size and blocks.
    pub const BASIC: u64 = 0x7ff;
    /// Creation time.
    pub const BTIME: u64 = 0x800;
    /// Generation.
    pub const GEN: u64 = 0x1000;
}

/// Bits of Tsetattr.
pub mod setattr {
    #![allow(missing_docs, reason = "names from the protocol")]
    pub const MODE: u32 = 1;
    pub const UID: u32 = 2;
    pub const GID: u32 = 4;
    pub const SIZE: u32 = 8;
    pub const ATIME: u32 = 0x10;
    pub const MTIME: u32 = 0x20;
    pub const ATIME_SET: u32 = 0x80;
    pub const MTIME_SET: u32 = 0x100;
}

/// Flag of Tunlinkat: remove a directory.
pub const AT_REMOVEDIR: u32 = 0x200;

/// Fields of Tlock, Rlock, Tgetlock and Rgetlock.
pub mod lock {
    #![allow(missing_docs, reason = "names from the protocol")]
    pub const TYPE_READ: u8 = 0;
    pub const TYPE_WRITE: u8 = 1;
    pub const TYPE_UNLOCK: u8 = 2;
    pub const SUCCESS: u8 = 0;
    pub const BLOCKED: u8 = 1;
}

/// Takes a request apart. Running out of bytes is EINVAL.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Errno> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Errno::EINVAL)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Errno::EINVAL)?;
        self.rest = rest;
        Ok(*head)
    }

    /// An 8-bit integer.
    pub fn u8(&mut self) -> Result<u8, Errno> {
        self.array().map(u8::from_le_bytes)
    }

    /// A 16-bit integer.
    pub fn u16(&mut self) -> Result<u16, Errno> {
        self.array().map(u16::from_le_bytes)
    }

    /// A 32-bit integer.
    pub fn u32(&mut self) -> Result<u32, Errno> {
        self.array().map(u32::from_le_bytes)
    }

    /// A 64-bit integer.
    pub fn u64(&mut self) -> Result<u64, Errno> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string. It can be any bytes.
    pub fn string(&mut self) -> Result<&'a [u8], Errno> {
        let length = self.u16()?;
        self.bytes(usize::from(length))
    }
}

/// Puts a message together, up to a largest size; more is EMSGSIZE.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
}

impl<'a> Writer<'a> {
    /// Starts a message in `out`, which is cleared. [`Writer::finish`] fills in the size.
    pub fn new(out: &'a mut Vec<u8>, limit: usize, kind: u8, tag: u16) -> Result<Self, Errno> {
        out.clear();
        let mut writer = Self { out, limit };
        writer.u32(0)?;
        writer.u8(kind)?;
        writer.u16(tag)?;
        Ok(writer)
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.out.len())
    }

    /// Bytes so far.
    pub fn position(&self) -> usize {
        self.out.len()
    }

    /// Raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.len() > self.room() {
            return Err(Errno::EMSGSIZE);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// An 8-bit integer.
    pub fn u8(&mut self, value: u8) -> Result<(), Errno> {
        self.bytes(&[value])
    }

    /// A 16-bit integer.
    pub fn u16(&mut self, value: u16) -> Result<(), Errno> {
        self.bytes(&value.to_le_bytes())
    }

    /// A 32-bit integer.
    pub fn u32(&mut self, value: u32) -> Result<(), Errno> {
        self.bytes(&value.to_le_bytes())
    }

    /// A 64-bit integer.
    pub fn u64(&mut self, value: u64) -> Result<(), Errno> {
        self.bytes(&value.to_le_bytes())
    }

    /// A string.
    pub fn string(&mut self, string: &[u8]) -> Result<(), Errno> {
        self.u16(u16::try_from(string.len()).map_err(|_| Errno::EMSGSIZE)?)?;
        self.bytes(string)
    }

    /// A QID (13 bytes).
    pub fn qid(&mut self, qid: Qid) -> Result<(), Errno> {
        self.u8(qid.kind)?;
        self.u32(qid.version)?;
        self.u64(qid.path)
    }

    /// A time: seconds and nanoseconds, 64 bits each.
    pub fn time(&mut self, time: Time) -> Result<(), Errno> {
        self.u64(time.sec.cast_unsigned())?;
        self.u64(u64::from(time.nsec))
    }

    /// A count and up to `wanted` bytes, as many as fit, produced by `fill`, which returns how many
    /// it produced.
    pub fn counted(
        &mut self,
        wanted: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        self.u32(0)?;
        let start = self.out.len();
        let room = wanted.min(self.room());
        self.out.resize(start.saturating_add(room), 0);
        let filled = fill(self.out.get_mut(start..).unwrap_or_default())?.min(room);
        self.out.truncate(start.saturating_add(filled));
        self.patch(start.saturating_sub(4), filled);
        Ok(())
    }

    /// Overwrites the 32-bit integer at `position`, which was written before.
    pub fn patch(&mut self, position: usize, value: usize) {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        if let Some(field) = self.out.get_mut(position..).and_then(|rest| rest.first_chunk_mut::<4>()) {
            *field = value.to_le_bytes();
        }
    }

    /// Completes the message.
    pub fn finish(mut self) {
        let size = self.out.len();
        self.patch(0, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_fields_are_little_endian_and_in_order() {
        let mut reader = Reader::new(&[1, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0x80, 2, 0, b'a', b'b']);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(2));
        assert_eq!(reader.u32(), Ok(3));
        assert_eq!(reader.u64(), Ok(0x8000_0000_0000_0004));
        assert_eq!(reader.string(), Ok(&b"ab"[..]));
        assert_eq!(reader.u8(), Err(Errno::EINVAL));
    }

    #[test]
    fn reader_string_longer_than_message_is_einval() {
        assert_eq!(Reader::new(&[3, 0, b'a', b'b']).string(), Err(Errno::EINVAL));
        assert_eq!(Reader::new(&[3]).string(), Err(Errno::EINVAL));
    }

    #[test]
    fn writer_message_has_size_type_and_tag() {
        let mut out = vec![9, 9];
        let mut writer = Writer::new(&mut out, 100, 5, 0x0201).unwrap();
        writer.string(b"xy").unwrap();
        writer.finish();
        assert_eq!(out, [11, 0, 0, 0, 5, 1, 2, 2, 0, b'x', b'y']);
    }

    #[test]
    fn writer_over_its_limit_is_emsgsize() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, 10, 5, 0).unwrap();
        assert_eq!(writer.u32(1), Err(Errno::EMSGSIZE));
        assert_eq!(writer.room(), 3);
        assert!(Writer::new(&mut out, 6, 5, 0).is_err());
    }

    #[test]
    fn writer_counted_is_cut_to_room_and_to_what_was_produced() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, 15, 5, 0).unwrap();
        writer
            .counted(100, |buf| {
                assert_eq!(buf.len(), 4);
                buf.fill(7);
                Ok(3)
            })
            .unwrap();
        writer.finish();
        assert_eq!(out, [14, 0, 0, 0, 5, 0, 0, 3, 0, 0, 0, 7, 7, 7]);
    }
}
