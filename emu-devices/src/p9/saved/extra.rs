//! What v86's arrays have no place for in a session.
//!
//! | element | |
//! | --- | --- |
//! | 0 | version: 1 |
//! | 1 | fids beyond v86's table: `[fid, inode, uid, name]` each |
//! | 2 | fids: number, directory they were found in, how they are open, end of the listing (`U32`) |
//! | 3 | locks beyond exact numbers: `[inode, exclusive, start, length, process, client]` each, 64 bits signed |
//! | 4 | nanoseconds: inode, ctime, atime, mtime (`U32`) |
//! | 5 | device numbers: inode, major, minor (`U32`) |
//! | 6 | times and QIDs beyond exact numbers: `[inode, ctime, atime, mtime, QID path]` each |
//! | 7 | last QID path |
//! | 8 | listings: `[inode, next place, places (U32)]` each |
//! | 9 | contents of files with large holes: `[inode, [offset, bytes, offset, bytes, …]]` each |
//! | 10 | bytes the guest has added |
//! | 11 | changed files: `[inode, [offset, length, offset, length, …]]`, what is no hole |
//! | 12 | fids through which the locks were taken, by inode and start; FFFFFFFFh is not known (`U32`) |
//!
//! Elements with nothing in them are null.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::values::{natural, take_text};
use super::{
    SavedBody, SavedContents, SavedFid, SavedFilled, SavedIndex, SavedInode, SavedIo, SavedListing,
    SavedLock, SavedServer,
};
use crate::p9::fs::Access;

type Result<T> = std::result::Result<T, FieldError>;

const VERSION: u32 = 1;

/// Second in nanoseconds.
const SECOND: u32 = 1_000_000_000;

/// How a fid is open.
const CLOSED: u32 = 0;
const READ: u32 = 1;
const WRITE: u32 = 2;
const READ_WRITE: u32 = 3;
const UNKNOWN: u32 = 4;

/// No directory.
const NONE: u32 = u32::MAX;

/// Contents of a file with holes.
type Extents = Vec<(u64, Vec<u8>)>;

/// What v86's table does not tell of a fid.
pub(super) struct FidRecord {
    pub(super) fid: u32,
    pub(super) dir: Option<SavedIndex>,
    pub(super) io: SavedIo,
}

/// Numbers of an inode that are not exact in v86.
pub(super) struct Wide {
    pub(super) inode: SavedIndex,
    /// Seconds of ctime, atime, mtime.
    pub(super) times: [i64; 3],
    pub(super) qid_path: u64,
}

#[derive(Default)]
pub(super) struct Extra {
    pub(super) fids: Vec<SavedFid>,
    pub(super) fid_records: Vec<FidRecord>,
    pub(super) locks: Vec<SavedLock>,
    /// Inode, ctime, atime, mtime.
    pub(super) nanoseconds: Vec<[u32; 4]>,
    /// Inode, major, minor.
    pub(super) devices: Vec<[u32; 3]>,
    pub(super) wide: Vec<Wide>,
    pub(super) last_qid: Option<u64>,
    pub(super) listings: Vec<SavedListing>,
    pub(super) extents: Vec<(SavedIndex, Extents)>,
    pub(super) added: Option<i64>,
    pub(super) filled: Vec<SavedFilled>,
    pub(super) lock_fids: Vec<[u32; 1]>,
}

/// Null instead of nothing: v86 cannot read many empty buffers in a row.
fn records<const N: usize>(items: Vec<[u32; N]>) -> Value {
    if items.is_empty() { Value::Null } else { Value::u32s(items.as_flattened()) }
}

fn list<T>(items: Vec<T>, value: impl FnMut(T) -> Value) -> Value {
    if items.is_empty() { Value::Null } else { Value::Array(items.into_iter().map(value).collect()) }
}

/// 64 bits; a sign means nothing.
fn bits(n: u64) -> Value {
    Value::Int(n as i64)
}

impl FidRecord {
    fn pack(&self) -> [u32; 4] {
        let (io, listing) = match self.io {
            SavedIo::Unknown => (UNKNOWN, 0),
            SavedIo::Closed => (CLOSED, 0),
            SavedIo::Open { access, listing } => {
                let io = match access {
                    Access::Read => READ,
                    Access::Write => WRITE,
                    Access::ReadWrite => READ_WRITE,
                };
                (io, u32::try_from(listing).unwrap_or(u32::MAX))
            }
        };
        [self.fid, self.dir.unwrap_or(NONE), io, listing]
    }

    fn unpack([fid, dir, io, listing]: [u32; 4]) -> Self {
        let open = |access| SavedIo::Open { access, listing: listing.into() };
        let io = match io {
            CLOSED => SavedIo::Closed,
            READ => open(Access::Read),
            WRITE => open(Access::Write),
            READ_WRITE => open(Access::ReadWrite),
            _ => SavedIo::Unknown,
        };
        Self { fid, dir: (dir != NONE).then_some(dir), io }
    }
}

impl Extra {
    pub(super) fn into_value(self) -> Value {
        let Self {
            fids,
            fid_records,
            locks,
            nanoseconds,
            devices,
            wide,
            last_qid,
            listings,
            extents,
            added,
            filled,
            lock_fids,
        } = self;
        values![
            VERSION,
            list(fids, |fid| values![fid.fid, fid.inode, fid.uid, Value::Text(fid.name.into())]),
            records(fid_records.iter().map(FidRecord::pack).collect()),
            list(locks, |lock| {
                let SavedLock { inode, exclusive, start, length, proc_id, client_id, fid: _ } = lock;
                values![inode, exclusive, bits(start), bits(length), proc_id, Value::Text(client_id.into())]
            }),
            records(nanoseconds),
            records(devices),
            list(wide, |Wide { inode, times: [c, a, m], qid_path }| values![inode, c, a, m, bits(qid_path)]),
            last_qid.map(bits),
            // Places that do not fit are beyond what 32-bit programs can have seen.
            list(listings, |listing| {
                let SavedListing { inode, places, next } = listing;
                let places =
                    places.into_iter().map(u32::try_from).collect::<std::result::Result<Vec<_>, _>>();
                match (places, u32::try_from(next)) {
                    (Ok(places), Ok(next)) => {
                        values![inode, next, records(places.into_iter().map(|place| [place]).collect())]
                    }
                    _ => Value::Null,
                }
            }),
            list(extents, |(inode, parts)| {
                let parts = parts.into_iter().filter(|(_, bytes)| !bytes.is_empty());
                let parts = parts.flat_map(|(offset, bytes)| [bits(offset), Value::bytes(bytes)]);
                values![inode, parts.collect::<Vec<_>>()]
            }),
            added.map(Value::Int),
            list(filled, |SavedFilled { inode, parts }| {
                let parts = parts.into_iter().flat_map(|(offset, length)| [bits(offset), bits(length)]);
                values![inode, parts.collect::<Vec<_>>()]
            }),
            records(lock_fids),
        ]
    }

    pub(super) fn read(value: &mut Value) -> Result<Option<Self>> {
        let Some(mut f) = Fields::of(value)? else { return Ok(None) };
        if f.u32(0)? != Some(VERSION) {
            return Err(FieldError::at(0, "from a version of env86 that is not known"));
        }
        let mut extra = Self::default();
        each(&mut f, 1, |f| {
            if let (Some(fid), Some(inode)) = (f.u32(0)?, f.u32(1)?) {
                let uid = f.u32(2)?.unwrap_or(0);
                let name = take_text(f, 3)?.unwrap_or_default();
                extra.fids.push(SavedFid { fid, inode, uid, name, dir: None, io: SavedIo::Unknown });
            }
            Ok(())
        })?;
        extra.fid_records = read_records(&mut f, 2)?.into_iter().map(FidRecord::unpack).collect();
        each(&mut f, 3, |f| {
            if let Some(inode) = f.u32(0)? {
                extra.locks.push(SavedLock {
                    inode,
                    exclusive: f.bool(1)?.unwrap_or(false),
                    start: f.i64(2)?.unwrap_or(0) as u64,
                    length: f.i64(3)?.unwrap_or(0) as u64,
                    proc_id: f.u32(4)?.unwrap_or(0),
                    client_id: take_text(f, 5)?.unwrap_or_default(),
                    fid: None,
                });
            }
            Ok(())
        })?;
        extra.nanoseconds = read_records(&mut f, 4)?;
        extra.devices = read_records(&mut f, 5)?;
        each(&mut f, 6, |f| {
            if let (Some(inode), Some(c), Some(a), Some(m), Some(qid_path)) =
                (f.u32(0)?, f.i64(1)?, f.i64(2)?, f.i64(3)?, natural(f, 4)?)
            {
                extra.wide.push(Wide { inode, times: [c, a, m], qid_path });
            }
            Ok(())
        })?;
        extra.last_qid = natural(&f, 7)?;
        each(&mut f, 8, |f| {
            if let (Some(inode), Some(next)) = (f.u32(0)?, f.u32(1)?) {
                let places = read_records(f, 2)?.into_iter().map(|[place]| place.into()).collect();
                extra.listings.push(SavedListing { inode, places, next: next.into() });
            }
            Ok(())
        })?;
        each(&mut f, 9, |f| {
            let Some(inode) = f.u32(0)? else { return Ok(()) };
            let mut parts = Vec::new();
            f.array(1, |f| {
                for at in (0..f.len()).step_by(2) {
                    if let (Some(offset), Some(bytes)) = (natural(f, at)?, f.bytes_up_to(at + 1, usize::MAX)?)
                    {
                        parts.push((offset, bytes));
                    }
                }
                Ok(())
            })?;
            extra.extents.push((inode, parts));
            Ok(())
        })?;
        extra.added = f.i64(10)?;
        each(&mut f, 11, |f| {
            let Some(inode) = f.u32(0)? else { return Ok(()) };
            let mut parts = Vec::new();
            f.array(1, |f| {
                for at in (0..f.len()).step_by(2) {
                    if let (Some(offset), Some(length)) = (natural(f, at)?, natural(f, at + 1)?) {
                        parts.push((offset, length));
                    }
                }
                Ok(())
            })?;
            extra.filled.push(SavedFilled { inode, parts });
            Ok(())
        })?;
        extra.lock_fids = read_records(&mut f, 12)?;
        Ok(Some(extra))
    }

    /// Adds it to what v86's arrays say. What refers to nothing is dropped.
    pub(super) fn add_to(self, saved: &mut SavedServer) {
        let Self {
            fids,
            fid_records,
            locks,
            nanoseconds,
            devices,
            wide,
            last_qid,
            listings,
            extents,
            added,
            filled,
            lock_fids,
        } = self;
        saved.fids.extend(fids);
        saved.fids.sort_by_key(|fid| fid.fid);
        for FidRecord { fid, dir, io } in fid_records {
            if let Ok(at) = saved.fids.binary_search_by_key(&fid, |fid| fid.fid)
                && let Some(fid) = saved.fids.get_mut(at)
            {
                (fid.dir, fid.io) = (dir, io);
            }
        }
        if !locks.is_empty() {
            saved.locks.extend(locks);
            saved.locks.sort_by_key(|lock| (lock.inode, lock.start));
        }
        for (lock, [fid]) in saved.locks.iter_mut().zip(lock_fids) {
            lock.fid = (fid != NONE).then_some(fid);
        }
        let inodes = &mut saved.tree.inodes;
        for Wide { inode: index, times: [c, a, m], qid_path } in wide {
            if let Some(inode) = inode_of(inodes, index) {
                (inode.ctime.sec, inode.atime.sec, inode.mtime.sec) = (c, a, m);
                inode.qid_path = qid_path;
            }
        }
        for [index, c, a, m] in nanoseconds {
            if let Some(inode) = inode_of(inodes, index) {
                let nsec = [c, a, m].map(|nsec| nsec.min(SECOND - 1));
                [inode.ctime.nsec, inode.atime.nsec, inode.mtime.nsec] = nsec;
            }
        }
        for [index, major, minor] in devices {
            if let Some(SavedInode { body: SavedBody::Special(to_major, to_minor), .. }) =
                inode_of(inodes, index)
            {
                (*to_major, *to_minor) = (major, minor);
            }
        }
        for (index, parts) in extents {
            if let Some(SavedInode { body: SavedBody::File(contents), .. }) = inode_of(inodes, index) {
                *contents = SavedContents::Extents(parts);
            }
        }
        saved.tree.last_qid = last_qid.unwrap_or(saved.tree.last_qid);
        saved.tree.listings = listings;
        saved.tree.added = added;
        saved.tree.filled = filled;
    }
}

fn inode_of(inodes: &mut [Option<SavedInode>], index: SavedIndex) -> Option<&mut SavedInode> {
    inodes.get_mut(usize::try_from(index).ok()?)?.as_mut()
}

/// Reads each array in an array.
fn each(f: &mut Fields<'_>, index: usize, mut read: impl FnMut(&mut Fields<'_>) -> Result<()>) -> Result<()> {
    f.array(index, |f| {
        f.each(|_, item| match Fields::of(item)? {
            Some(mut f) => read(&mut f),
            None => Ok(()),
        })
    })?;
    Ok(())
}

/// Reads groups of `N` numbers.
fn read_records<const N: usize>(f: &mut Fields<'_>, index: usize) -> Result<Vec<[u32; N]>> {
    let Some(typed) = f.typed(index)? else { return Ok(Vec::new()) };
    let numbers = typed.to_u32s().ok_or_else(|| FieldError::at(index, "expected 32-bit numbers"))?;
    let (groups, rest) = numbers.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(FieldError::at(index, format!("a number of elements that is no multiple of {N}")));
    }
    Ok(groups.to_vec())
}
