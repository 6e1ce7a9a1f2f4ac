//! A saved session as the arrays in v86's snapshots, and back.
//!
//! v86 has a table of fids by number, `[inode, type, uid, name]` each, and the file system: inodes by
//! number, the last QID, contents of changed files, total and used size. An inode is
//!
//! | element | |
//! | --- | --- |
//! | 0 | mode |
//! | 1 | directory: `[name, inode]` each; file: its content file; link: its target; socket: `[minor, major]` |
//! | 2 | locks: `[exclusive, start, length, process, client]` each |
//! | 3 | 0 in memory, 2 in its content file, 4 without a name but open, -1 not in use |
//! | 4, 5, 6 | size, owner, group |
//! | 7 | its number |
//! | 8, 9, 10 | ctime, atime, mtime in seconds |
//! | 11, 12, 13 | QID version, QID path, names |
//!
//! Contents are `[number as a string, bytes]` each. There is never an entry without bytes, because v86
//! cannot read a compressed snapshot with many empty buffers in a row.
//!
//! What has no place there is in `extra`. Values are moved, not copied: a tree may have a million
//! inodes.

use emu_core::snapshot::{FieldError, Fields, Kind, Value};
use emu_core::values;

use super::extra::{Extra, FidRecord, Wide};
use super::{
    SavedBody, SavedContents, SavedFid, SavedIndex, SavedInode, SavedIo, SavedLock, SavedServer, SavedTree,
};
use crate::limits;
use crate::p9::fs::{Time, mode};

type Result<T> = std::result::Result<T, FieldError>;

/// Elements of v86's array for virtio-9p.
const FIDS: usize = 8;
const FILES: usize = 9;

/// Integers beyond are not exact in v86.
pub(super) const EXACT: u64 = 1 << 53;

/// Types of fids.
const FID_UNUSED: i64 = -1;
const FID_INODE: i64 = 1;
const FID_XATTR: i64 = 2;

/// States of inodes.
const IN_MEMORY: i64 = 0;
const IN_CONTENT_FILE: i64 = 2;
const UNLINKED: i64 = 4;
const MOUNT_POINT: i64 = 5;
const DELETED: i64 = -1;

/// A session as values.
#[derive(Debug, Default)]
pub struct SessionValues {
    /// Negotiated message size.
    pub msize: u32,
    /// Element 8 of v86's array for virtio-9p: fids.
    pub fids: Value,
    /// Element 9: the file system.
    pub files: Value,
    /// What v86 has no place for.
    pub extra: Value,
    /// Number of files with holes so large that v86 cannot have their contents.
    pub not_for_v86: u32,
}

impl SavedServer {
    /// The session as values.
    pub fn into_values(self) -> SessionValues {
        let Self { msize, fids, locks, tree } = self;
        let mut extra = Extra::default();
        let fids = fid_table(fids, &mut extra);
        let files = files(tree, locks, &mut extra);
        let not_for_v86 = u32::try_from(extra.extents.len()).unwrap_or(u32::MAX);
        SessionValues { msize, fids, files, extra: extra.into_value(), not_for_v86 }
    }

    /// A session from values; `None` if there is no file system. The values are used up.
    ///
    /// # Errors
    /// What is not as it must be, seen from v86's array or from `extra`.
    pub fn from_values(values: &mut SessionValues) -> Result<Option<Self>> {
        let SessionValues { msize, fids, files, extra, not_for_v86: _ } = values;
        let mut locks = Vec::new();
        let tree = read_files(files, &mut locks).map_err(|error| error.within(FILES))?;
        let fids = read_fids(fids).map_err(|error| error.within(FIDS))?;
        let extra = Extra::read(extra).map_err(FieldError::in_extra)?;
        let Some(tree) = tree else { return Ok(None) };
        let mut saved = Self { msize: *msize, fids, locks, tree };
        if let Some(extra) = extra {
            extra.add_to(&mut saved);
        }
        Ok(Some(saved))
    }
}

/// A number that v86 can have.
fn number(n: u64) -> Value {
    Value::Int(n.min(EXACT) as i64)
}

fn seconds(time: Time) -> Value {
    Value::Int(time.sec.clamp(-(EXACT as i64), EXACT as i64))
}

fn fid_table(fids: Vec<SavedFid>, extra: &mut Extra) -> Value {
    let bound = 2 * fids.len() + limits::P9_SAVED_FIDS;
    let mut table = Vec::with_capacity(fids.len());
    let unused = || values![-1, FID_UNUSED, 0, Value::text("")];
    for fid in fids {
        let SavedFid { fid: number, inode, uid, dir, io, .. } = fid;
        extra.fid_records.push(FidRecord { fid: number, dir, io });
        match usize::try_from(number) {
            // A number may come only once; were it otherwise, the last one wins.
            Ok(at) if at < bound => {
                if table.len() <= at {
                    table.resize_with(at + 1, unused);
                }
                if let Some(place) = table.get_mut(at) {
                    *place = values![inode, FID_INODE, uid, Value::Text(fid.name.into())];
                }
            }
            _ => extra.fids.push(fid),
        }
    }
    Value::Array(table)
}

fn read_fids(table: &mut Value) -> Result<Vec<SavedFid>> {
    let Some(mut table) = Fields::of(table)? else { return Ok(Vec::new()) };
    let mut fids = Vec::new();
    table.each(|number, item| {
        let Some(f) = Fields::of(item)? else { return Ok(()) };
        let (inode, kind, uid) = (f.u32(0)?, f.i64(1)?, f.u32(2)?);
        let name = f.text(3)?.unwrap_or_default().to_vec();
        let io = match kind {
            None | Some(FID_UNUSED) => return Ok(()),
            Some(FID_INODE) => SavedIo::Unknown,
            // There are no extended attributes here: all that can be done with it is to give it back.
            Some(FID_XATTR) => SavedIo::Closed,
            Some(other) => return Err(FieldError::at(1, format!("{other} is no type of a fid"))),
        };
        if let (Some(inode), Ok(fid)) = (inode, u32::try_from(number)) {
            fids.push(SavedFid { fid, inode, uid: uid.unwrap_or(0), name, dir: None, io });
        }
        Ok(())
    })?;
    Ok(fids)
}

fn files(tree: SavedTree, mut locks: Vec<SavedLock>, extra: &mut Extra) -> Value {
    let SavedTree { inodes, last_qid, total, used, added, listings, filled } = tree;
    extra.last_qid = Some(last_qid);
    extra.added = added;
    extra.listings = listings;
    extra.filled = filled;
    locks.sort_by_key(|lock| lock.inode);
    extra.lock_fids = locks.iter().map(|lock| [lock.fid.unwrap_or(u32::MAX)]).collect();
    let mut locks = locks.into_iter().peekable();
    let mut contents = Vec::new();
    let mut items = Vec::with_capacity(inodes.len());
    for (index, inode) in (0..).zip(inodes) {
        let mut own = Vec::new();
        while let Some(lock) = locks.next_if(|lock| lock.inode <= index) {
            if lock.start < EXACT && lock.length < EXACT {
                own.push(lock_value(lock));
            } else {
                extra.locks.push(lock);
            }
        }
        items.push(match inode {
            Some(inode) => inode_value(index, inode, own, &mut contents, extra),
            None => {
                let kind = mode::REGULAR;
                values![kind, Value::text(""), own, DELETED, 0, 0, 0, index, 0, 0, 0, 0, 0, 0]
            }
        });
    }
    values![items, number(last_qid), contents, number(total), number(used)]
}

fn lock_value(lock: SavedLock) -> Value {
    let SavedLock { inode: _, exclusive, start, length, proc_id, client_id, fid: _ } = lock;
    let client = Value::Text(client_id.into());
    values![u8::from(exclusive), number(start), number(length), proc_id, client]
}

fn inode_value(
    index: SavedIndex,
    inode: SavedInode,
    locks: Vec<Value>,
    contents: &mut Vec<Value>,
    extra: &mut Extra,
) -> Value {
    let SavedInode {
        mode: saved_mode,
        body,
        size,
        uid,
        gid,
        ctime,
        atime,
        mtime,
        qid_version,
        qid_path,
        nlink,
    } = inode;
    let times = [ctime, atime, mtime];
    if times.iter().any(|time| time.nsec != 0) {
        let [c, a, m] = times.map(|time| time.nsec);
        extra.nanoseconds.push([index, c, a, m]);
    }
    if qid_path > EXACT || times.iter().any(|time| time.sec.unsigned_abs() > EXACT) {
        extra.wide.push(Wide { inode: index, times: times.map(|time| time.sec), qid_path });
    }
    let mut status = IN_MEMORY;
    let body = match body {
        SavedBody::Directory(names) => Value::Array(
            names.into_iter().map(|(name, inode)| values![Value::Text(name.into()), inode]).collect(),
        ),
        SavedBody::File(SavedContents::Stored(name)) => {
            status = IN_CONTENT_FILE;
            Value::text(name)
        }
        SavedBody::File(SavedContents::Bytes(mut bytes)) => {
            bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
            if !bytes.is_empty() {
                contents.push(values![Value::text(index.to_string()), Value::bytes(bytes)]);
            }
            Value::text("")
        }
        SavedBody::File(SavedContents::Extents(extents)) => {
            extra.extents.push((index, extents));
            Value::text("")
        }
        // Is replaced before it gets here.
        SavedBody::File(SavedContents::Changed) => Value::text(""),
        SavedBody::Symlink(target) => Value::Text(target.into()),
        SavedBody::Special(major, minor) if saved_mode & mode::TYPE == mode::SOCKET => values![minor, major],
        SavedBody::Special(major, minor) => {
            if (major, minor) != (0, 0) {
                extra.devices.push([index, major, minor]);
            }
            Value::Null
        }
    };
    if nlink == 0 {
        status = UNLINKED;
    }
    let [ctime, atime, mtime] = times.map(seconds);
    let (size, qid_path) = (number(size), number(qid_path));
    values![
        saved_mode,
        body,
        locks,
        status,
        size,
        uid,
        gid,
        index,
        ctime,
        atime,
        mtime,
        qid_version,
        qid_path,
        nlink
    ]
}

fn read_files(files: &mut Value, locks: &mut Vec<SavedLock>) -> Result<Option<SavedTree>> {
    let Some(mut f) = Fields::of(files)? else { return Ok(None) };
    if f.len() > 5 && !f.get(5).is_null() {
        return Err(FieldError::at(5, "file systems mounted inside cannot be restored"));
    }
    let inodes = f.array(0, |f| {
        let mut inodes = Vec::with_capacity(f.len());
        f.each(|index, item| {
            inodes.push(match (Fields::of(item)?, SavedIndex::try_from(index)) {
                (Some(mut f), Ok(index)) => read_inode(&mut f, index, locks)?,
                _ => None,
            });
            Ok(())
        })?;
        Ok(inodes)
    })?;
    let mut inodes: Vec<Option<SavedInode>> = inodes.unwrap_or_default();
    let last_qid = natural(&f, 1)?.unwrap_or(0);
    f.array(2, |f| {
        f.each(|_, item| {
            let Some(mut f) = Fields::of(item)? else { return Ok(()) };
            let index = match f.get(0) {
                Value::Text(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
                _ => natural(&f, 0)?.and_then(|n| usize::try_from(n).ok()),
            };
            let Some(index) = index else { return Err(FieldError::at(0, "no number of an inode")) };
            let Some(typed) = f.typed(1)? else { return Ok(()) };
            if typed.kind != Kind::Uint8 {
                return Err(FieldError::at(1, format!("expected bytes, found {}", typed.kind.name())));
            }
            if let Some(Some(inode)) = inodes.get_mut(index)
                && let SavedBody::File(contents) = &mut inode.body
            {
                *contents = SavedContents::Bytes(typed.data);
            }
            Ok(())
        })
    })?;
    let total = natural(&f, 3)?.unwrap_or(0);
    let used = natural(&f, 4)?.unwrap_or(0);
    Ok(Some(SavedTree { inodes, last_qid, total, used, ..SavedTree::default() }))
}

/// An inode; `None` if it is not in use.
fn read_inode(
    f: &mut Fields<'_>,
    index: SavedIndex,
    locks: &mut Vec<SavedLock>,
) -> Result<Option<SavedInode>> {
    let saved_mode = f.u32(0)?.unwrap_or(0);
    let status = f.i64(3)?.unwrap_or(IN_MEMORY);
    let size = natural(f, 4)?.unwrap_or(0);
    let (uid, gid) = (f.u32(5)?.unwrap_or(0), f.u32(6)?.unwrap_or(0));
    f.i64(7)?;
    let (ctime, atime, mtime) = (read_seconds(f, 8)?, read_seconds(f, 9)?, read_seconds(f, 10)?);
    let qid_version = f.u32(11)?.unwrap_or(0);
    let qid_path = natural(f, 12)?.unwrap_or(0);
    let nlink = f.u32(13)?.unwrap_or(0);
    if status == MOUNT_POINT {
        return Err(FieldError::at(3, "file systems mounted inside cannot be restored"));
    }
    let body = match saved_mode & mode::TYPE {
        mode::DIRECTORY => SavedBody::Directory(f.array(1, read_names)?.unwrap_or_default()),
        mode::SYMLINK => SavedBody::Symlink(take_text(f, 1)?.unwrap_or_default()),
        mode::SOCKET => {
            let numbers = f.array(1, |f| Ok((f.u32(1)?.unwrap_or(0), f.u32(0)?.unwrap_or(0))))?;
            let (major, minor) = numbers.unwrap_or_default();
            SavedBody::Special(major, minor)
        }
        mode::REGULAR => {
            let name = take_text(f, 1)?.unwrap_or_default();
            // What was changed has contents in memory, which come later, or none; its name is stale. What
            // lost its last name while it was open may still be in its content file.
            let stored = status == IN_CONTENT_FILE || status == UNLINKED && size > 0;
            SavedBody::File(if stored && !name.is_empty() {
                let name = String::from_utf8(name).map_err(|_| FieldError::at(1, "not UTF-8"))?;
                SavedContents::Stored(name)
            } else {
                SavedContents::Bytes(Vec::new())
            })
        }
        _ => SavedBody::Special(0, 0),
    };
    f.array(2, |f| {
        f.each(|_, item| {
            let Some(mut f) = Fields::of(item)? else { return Ok(()) };
            locks.push(SavedLock {
                inode: index,
                exclusive: f.bool(0)?.unwrap_or(false),
                start: natural(&f, 1)?.unwrap_or(0),
                length: natural(&f, 2)?.unwrap_or(0),
                proc_id: f.u32(3)?.unwrap_or(0),
                client_id: take_text(&mut f, 4)?.unwrap_or_default(),
                fid: None,
            });
            Ok(())
        })
    })?;
    if status == DELETED {
        return Ok(None);
    }
    Ok(Some(SavedInode {
        mode: saved_mode,
        body,
        size,
        uid,
        gid,
        ctime,
        atime,
        mtime,
        qid_version,
        qid_path,
        nlink,
    }))
}

fn read_names(f: &mut Fields<'_>) -> Result<Vec<(Vec<u8>, SavedIndex)>> {
    let mut names = Vec::with_capacity(f.len());
    f.each(|_, item| {
        let Some(mut f) = Fields::of(item)? else { return Ok(()) };
        if let (Some(name), Some(inode)) = (take_text(&mut f, 0)?, f.u32(1)?) {
            names.push((name, inode));
        }
        Ok(())
    })?;
    Ok(names)
}

/// A string, without a copy.
pub(super) fn take_text(f: &mut Fields<'_>, index: usize) -> Result<Option<Vec<u8>>> {
    match f.take(index) {
        Value::Null => Ok(None),
        Value::Text(text) => Ok(Some(text.into())),
        other => Err(FieldError::at(index, format!("expected a string, found {}", other.describe()))),
    }
}

/// A number that is not negative.
pub(super) fn natural(f: &Fields<'_>, index: usize) -> Result<Option<u64>> {
    match f.i64(index)?.map(u64::try_from) {
        None => Ok(None),
        Some(Ok(n)) => Ok(Some(n)),
        Some(Err(_)) => Err(FieldError::at(index, "negative")),
    }
}

/// Seconds; a fraction does not count.
fn read_seconds(f: &Fields<'_>, index: usize) -> Result<Time> {
    let sec = match f.get(index) {
        Value::Float(seconds) => seconds.floor() as i64,
        _ => f.i64(index)?.unwrap_or(0),
    };
    Ok(Time { sec, nsec: 0 })
}
