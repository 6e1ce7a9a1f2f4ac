//! The tree of an image with what the guest has changed, in memory.
//!
//! Nothing is ever written to the image. Contents of unchanged files come from the image's content
//! files, when they are first read.
//!
//! Reading does not change access times: guests keep those themselves, and it would turn every file
//! read into a changed one.
//!
//! Inode *n* is `NodeId(n)`. Numbers follow the order of `fs.json`, which makes them those that v86
//! gives, so that snapshots can be exchanged.

use std::fmt;
use std::sync::Arc;

use emu_devices::p9::Errno;
use emu_devices::p9::fs::{
    Attr, DirEntry, Entry, Filesystem, Handle, NodeId, OpenFlags, Owner, Qid, Result, SetAttr, SetTime,
    StatFs, Time, mode,
};
use emu_devices::p9::saved::{RestoreError, SavedTree};

use super::blobs::BlobSource;
use super::cache::{BlobCache, BlobId, Warn};
use super::contents::Contents;
use super::fsjson::{self, FsJson, FsJsonError, RowBody};
use super::tree::{Body, Directory, Ino, Inode, Name, ROOT, Tree};
use crate::limits;

/// Owner of what a guest makes without saying who it is ("nobody").
const NOBODY: u32 = 65534;

/// Size shown for a new directory.
const DIRECTORY_SIZE: u64 = 4096;

/// Block size of statfs and preferred size of transfers.
const BLOCK_SIZE: u32 = 8192;

/// Size of the file system that statfs reports, in bytes (v86's figure).
const TOTAL_BYTES: u64 = 256 << 30;

/// Inodes that statfs says can be made.
const FREE_INODES: u64 = 1 << 20;

/// What is added to the place of a name to get its readdir cookie.
///
/// Cookies of v86 are byte offsets into a listing, always below this; a guest from one of its
/// snapshots may be in the middle of such a listing. All stay below 2^31, because programs with
/// 32-bit file offsets get to see them.
const COOKIE_BASE: u64 = 1 << 30;

/// Cookies of `.` and `..`, and of the first name.
const COOKIE_DOT: u64 = COOKIE_BASE;
const COOKIE_DOTDOT: u64 = COOKIE_BASE + 1;
const COOKIE_FIRST: u64 = COOKIE_BASE + 2;

/// Size of an entry in v86's listing, besides its name.
const V86_ENTRY: u64 = 24;

/// Tells the calendar time.
pub type Clock = Box<dyn FnMut() -> Time + Send>;

/// Settings of an [`Overlay`].
pub struct OverlayOptions {
    /// Bytes a guest may add: contents and, roughly, names and inodes.
    pub limit: u64,
    /// Bytes of contents kept in memory although the guest has no file open that has them.
    pub cache: u64,
    /// Time stamps come from here.
    pub clock: Clock,
    /// Takes messages for the user, one line each.
    pub warn: Warn,
}

impl OverlayOptions {
    /// Default limits.
    pub fn new(clock: Clock, warn: Warn) -> Self {
        Self { limit: limits::OVERLAY_BYTES, cache: limits::BLOB_CACHE, clock, warn }
    }
}

/// An image's tree and what was changed.
pub struct Overlay {
    pub(super) tree: Tree,
    pub(super) cache: BlobCache,
    clock: Clock,
    handles: Vec<Option<OpenFile>>,
    free_handles: Vec<usize>,
    limit: u64,
    /// What the tree cost when loaded; only what comes on top counts. Below zero after restoring a tree
    /// whose contents take less memory than they did when they were counted.
    pub(super) loaded_cost: i64,
    /// Size of the file system, for statfs.
    pub(super) total: u64,
    /// Bytes used by the image, for statfs.
    pub(super) used: u64,
}

/// A handle.
#[derive(Debug)]
struct OpenFile {
    ino: Ino,
    /// Content file that is to stay in memory.
    pin: Option<BlobId>,
    /// Directories: names from this place on were made after the listing began, and are left out.
    /// Otherwise a program that renames what it finds could go on for ever.
    end: u64,
}

impl Overlay {
    /// The tree described by an `fs.json`, whose name is for messages.
    pub fn from_fs_json(
        text: &[u8],
        file: &str,
        blobs: Arc<dyn BlobSource>,
        options: OverlayOptions,
    ) -> std::result::Result<Self, FsJsonError> {
        Ok(Self::from_index(fsjson::parse(text, file)?, blobs, options))
    }

    /// An empty tree, to be filled from a snapshot.
    pub fn empty(blobs: Arc<dyn BlobSource>, options: OverlayOptions) -> Self {
        let index = FsJson { rows: Vec::new(), size: 0, row_count: 0, left_out: 0 };
        Self::from_index(index, blobs, options)
    }

    /// The tree described by a parsed `fs.json`.
    pub fn from_index(index: FsJson, blobs: Arc<dyn BlobSource>, options: OverlayOptions) -> Self {
        let OverlayOptions { limit, cache, mut clock, warn } = options;
        let mut cache = BlobCache::new(blobs, cache, warn);
        let root = Tree::new(mode::DIRECTORY | 0o777, clock());
        let tree = load(root, index.rows, index.row_count, &mut cache);
        Self {
            loaded_cost: signed(tree.cost()),
            tree,
            cache,
            clock,
            handles: Vec::new(),
            free_handles: Vec::new(),
            limit,
            total: TOTAL_BYTES,
            used: index.size,
        }
    }

    /// Names in a directory, with their modes, in order. Symbolic links are not followed.
    pub fn list_dir(&self, path: impl AsRef<[u8]>) -> Result<Vec<(Name, u32)>> {
        let dir = self.tree.dir(self.resolve(path.as_ref())?)?;
        Ok(dir
            .iter()
            .map(|(name, ino)| (name.clone(), self.tree.get(ino).map_or(0, |inode| inode.mode)))
            .collect())
    }

    /// Contents of a regular file; EFBIG if it is larger than `limit` bytes. Symbolic links are not
    /// followed.
    pub fn read_file(&mut self, path: impl AsRef<[u8]>, limit: u64) -> Result<Vec<u8>> {
        let ino = self.resolve(path.as_ref())?;
        let Body::File(contents) = &self.tree.get(ino)?.body else { return Err(Errno::EISDIR) };
        if contents.size() > limit {
            return Err(Errno::EFBIG);
        }
        let mut bytes = vec![0; usize::try_from(contents.size()).map_err(|_| Errno::EFBIG)?];
        let count = contents.read(0, &mut bytes, &mut self.cache)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Bytes the guest has added.
    pub fn added(&self) -> u64 {
        u64::try_from(self.balance()).unwrap_or(0)
    }

    /// The same, below zero if it has removed more of the image than it has added.
    pub(super) fn balance(&self) -> i64 {
        signed(self.tree.cost()).saturating_sub(self.loaded_cost)
    }

    /// Number of files open.
    pub fn open_files(&self) -> usize {
        self.handles.len() - self.free_handles.len()
    }

    pub(super) fn resolve(&self, path: &[u8]) -> Result<Ino> {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(ROOT, |dir, name| self.tree.child(dir, name))
    }

    fn room(&self) -> u64 {
        self.limit.saturating_sub(self.added())
    }

    fn check_room(&self, bytes: u64) -> Result<()> {
        if bytes > self.room() { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// An entry with a reference.
    fn entry(&mut self, ino: Ino) -> Result<Entry> {
        let qid = self.tree.get(ino)?.qid();
        self.tree.acquire(ino);
        Ok(Entry { node: NodeId(ino.into()), qid })
    }

    /// Makes an object and gives it a name.
    fn make(&mut self, dir: NodeId, name: &[u8], mode: u32, owner: Owner, body: Body) -> Result<Ino> {
        let dir = ino(dir)?;
        self.tree.check_new(dir, name)?;
        let extra = if let Body::Symlink(target) = &body { target.len() } else { 0 };
        self.check_room(Tree::cost_of_new(name, extra))?;
        let now = (self.clock)();
        let inode = Inode {
            mode,
            uid: owner.uid.unwrap_or(NOBODY),
            gid: owner.gid,
            nlink: if matches!(body, Body::Directory(_)) { 2 } else { 0 },
            atime: now,
            mtime: now,
            ctime: now,
            qid_path: self.tree.new_qid(),
            qid_version: 0,
            refs: 0,
            body,
        };
        let ino = self.tree.add(inode)?;
        self.tree.attach(dir, name, ino)?;
        self.changed_contents(dir, now);
        Ok(ino)
    }

    fn changed_contents(&mut self, ino: Ino, now: Time) {
        if let Ok(inode) = self.tree.get_mut(ino) {
            inode.mtime = now;
            inode.ctime = now;
        }
    }

    fn changed(&mut self, ino: Ino, now: Time) {
        if let Ok(inode) = self.tree.get_mut(ino) {
            inode.ctime = now;
        }
    }

    fn file(&self, handle: Handle) -> Result<&OpenFile> {
        usize::try_from(handle.0).ok().and_then(|at| self.handles.get(at)?.as_ref()).ok_or(Errno::EBADF)
    }

    /// Where a listing goes on behind a cookie: `.`, `..` or a place.
    fn listing_position(dir: &Directory, cookie: u64) -> ListingPosition {
        match cookie {
            0 => ListingPosition::Dot,
            COOKIE_DOT => ListingPosition::DotDot,
            COOKIE_DOTDOT => ListingPosition::Place(0),
            COOKIE_FIRST.. => ListingPosition::Place((cookie - COOKIE_FIRST).saturating_add(1)),
            // v86's offset behind some entry.
            _ => {
                let mut at = V86_ENTRY + 1;
                if cookie <= at {
                    return ListingPosition::DotDot;
                }
                at += V86_ENTRY + 2;
                if cookie <= at {
                    return ListingPosition::Place(0);
                }
                for (place, name, _) in dir.range(0, u64::MAX) {
                    at += V86_ENTRY + name.len() as u64;
                    if cookie <= at {
                        return ListingPosition::Place(place + 1);
                    }
                }
                ListingPosition::Place(dir.end())
            }
        }
    }
}

/// What comes next in a listing.
enum ListingPosition {
    Dot,
    DotDot,
    Place(u64),
}

impl Filesystem for Overlay {
    fn root(&mut self) -> Result<Entry> {
        self.entry(ROOT)
    }

    fn acquire(&mut self, node: NodeId) {
        if let Ok(ino) = ino(node) {
            self.tree.acquire(ino);
        }
    }

    fn forget(&mut self, node: NodeId) {
        if let Ok(ino) = ino(node) {
            self.tree.release(ino);
        }
    }

    fn lookup(&mut self, dir: NodeId, name: &[u8]) -> Result<Entry> {
        let ino = self.tree.child(ino(dir)?, name)?;
        self.entry(ino)
    }

    fn parent(&mut self, dir: NodeId) -> Result<Entry> {
        let dir = ino(dir)?;
        let parent = self.tree.dir(dir)?.parent;
        if self.tree.get(dir)?.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        self.entry(parent)
    }

    fn getattr(&mut self, node: NodeId) -> Result<Attr> {
        let inode = self.tree.get(ino(node)?)?;
        let (rdev, allocated) = match &inode.body {
            Body::Special(major, minor) => ((*major, *minor), 0),
            Body::File(contents) => ((0, 0), contents.allocated()),
            Body::Directory(_) | Body::Symlink(_) => ((0, 0), inode.size()),
        };
        Ok(Attr {
            qid: inode.qid(),
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            nlink: inode.nlink.into(),
            rdev,
            size: inode.size(),
            blksize: BLOCK_SIZE.into(),
            blocks: allocated.div_ceil(512),
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            btime: None,
            // Identities are not used again.
            generation: 0,
        })
    }

    fn setattr(&mut self, node: NodeId, set: &SetAttr) -> Result<()> {
        let ino = ino(node)?;
        let now = (self.clock)();
        if let Some(size) = set.size {
            if self.tree.get(ino)?.is_directory() {
                return Err(Errno::EISDIR);
            }
            self.tree.with_contents(ino, |contents| contents.set_size(size))?;
        }
        let inode = self.tree.get_mut(ino)?;
        if set.size.is_some() {
            inode.mtime = now;
        }
        if let Some(permissions) = set.mode {
            inode.mode = inode.mode & mode::TYPE | permissions & mode::PERMISSIONS;
        }
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        for (time, new) in [(&mut inode.atime, set.atime), (&mut inode.mtime, set.mtime)] {
            match new {
                None => {}
                Some(SetTime::Now) => *time = now,
                Some(SetTime::To(given)) => *time = given,
            }
        }
        inode.ctime = now;
        Ok(())
    }

    fn readlink(&mut self, node: NodeId) -> Result<Vec<u8>> {
        match &self.tree.get(ino(node)?)?.body {
            Body::Symlink(target) => Ok(target.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(&mut self, node: NodeId, flags: OpenFlags) -> Result<Handle> {
        let ino = ino(node)?;
        let mut file = OpenFile { ino, pin: None, end: 0 };
        match &self.tree.get(ino)?.body {
            Body::Directory(_) if flags.access.can_write() => return Err(Errno::EISDIR),
            Body::Directory(dir) => file.end = dir.end(),
            _ if flags.directory => return Err(Errno::ENOTDIR),
            Body::Symlink(_) => return Err(Errno::ELOOP),
            Body::Special(..) => return Err(Errno::ENXIO),
            Body::File(_) => {
                if flags.truncate {
                    self.tree.with_contents(ino, |contents| contents.set_size(0))?;
                    let now = (self.clock)();
                    self.changed_contents(ino, now);
                }
            }
        }
        if let Body::File(contents) = &self.tree.get(ino)?.body {
            file.pin = contents.blob();
        }
        if let Some(blob) = file.pin {
            self.cache.pin(blob);
        }
        self.tree.acquire(ino);
        let at = self.free_handles.pop().unwrap_or_else(|| {
            self.handles.push(None);
            self.handles.len() - 1
        });
        self.handles[at] = Some(file);
        Ok(Handle(at as u64))
    }

    fn release(&mut self, handle: Handle) {
        let Ok(at) = usize::try_from(handle.0) else { return };
        let Some(file) = self.handles.get_mut(at).and_then(Option::take) else { return };
        self.free_handles.push(at);
        if let Some(blob) = file.pin {
            self.cache.unpin(blob);
        }
        self.tree.release(file.ino);
    }

    fn create(
        &mut self,
        dir: NodeId,
        name: &[u8],
        permissions: u32,
        owner: Owner,
        flags: OpenFlags,
    ) -> Result<(Entry, Handle)> {
        let mode = mode::REGULAR | permissions & mode::PERMISSIONS;
        let ino = self.make(dir, name, mode, owner, Body::File(Contents::default()))?;
        let entry = self.entry(ino)?;
        let handle = self.open(entry.node, flags)?;
        Ok((entry, handle))
    }

    fn mkdir(&mut self, dir: NodeId, name: &[u8], permissions: u32, owner: Owner) -> Result<Qid> {
        let mode = mode::DIRECTORY | permissions & mode::PERMISSIONS;
        let body = Body::Directory(Box::new(Directory::new(ino(dir)?, DIRECTORY_SIZE)));
        let ino = self.make(dir, name, mode, owner, body)?;
        Ok(self.tree.get(ino)?.qid())
    }

    fn symlink(&mut self, dir: NodeId, name: &[u8], target: &[u8], owner: Owner) -> Result<Qid> {
        let ino = self.make(dir, name, mode::SYMLINK | 0o777, owner, Body::Symlink(target.into()))?;
        Ok(self.tree.get(ino)?.qid())
    }

    fn mknod(&mut self, dir: NodeId, name: &[u8], mode: u32, rdev: (u32, u32), owner: Owner) -> Result<Qid> {
        let body = match mode & mode::TYPE {
            mode::REGULAR => Body::File(Contents::default()),
            mode::DIRECTORY | mode::SYMLINK => return Err(Errno::EINVAL),
            _ => Body::Special(rdev.0, rdev.1),
        };
        let ino = self.make(dir, name, mode & (mode::TYPE | mode::PERMISSIONS), owner, body)?;
        Ok(self.tree.get(ino)?.qid())
    }

    fn link(&mut self, node: NodeId, dir: NodeId, name: &[u8]) -> Result<()> {
        let (node, dir) = (ino(node)?, ino(dir)?);
        let inode = self.tree.get(node)?;
        if inode.is_directory() {
            return Err(Errno::EPERM);
        }
        self.tree.check_new(dir, name)?;
        // As Linux: what lost its last name does not get a new one.
        if inode.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        self.check_room(Tree::cost_of_name(name))?;
        self.tree.attach(dir, name, node)?;
        let now = (self.clock)();
        self.changed(node, now);
        self.changed_contents(dir, now);
        Ok(())
    }

    fn unlink(&mut self, dir: NodeId, name: &[u8]) -> Result<()> {
        let dir = ino(dir)?;
        let gone = self.tree.unlink(dir, name)?;
        let now = (self.clock)();
        self.changed(gone, now);
        self.changed_contents(dir, now);
        Ok(())
    }

    fn rmdir(&mut self, dir: NodeId, name: &[u8]) -> Result<()> {
        let dir = ino(dir)?;
        let gone = self.tree.rmdir(dir, name)?;
        let now = (self.clock)();
        self.changed(gone, now);
        self.changed_contents(dir, now);
        Ok(())
    }

    fn rename(&mut self, from: NodeId, old: &[u8], to: NodeId, new: &[u8]) -> Result<()> {
        let (from, to) = (ino(from)?, ino(to)?);
        // A longer name costs a little more.
        self.check_room((new.len() as u64).saturating_sub(old.len() as u64))?;
        let Some((moved, replaced)) = self.tree.rename(from, old, to, new)? else { return Ok(()) };
        let now = (self.clock)();
        self.changed(moved, now);
        if let Some(replaced) = replaced {
            self.changed(replaced, now);
        }
        self.changed_contents(from, now);
        self.changed_contents(to, now);
        Ok(())
    }

    fn read(&mut self, handle: Handle, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let ino = self.file(handle)?.ino;
        match &self.tree.get(ino)?.body {
            Body::File(contents) => contents.read(offset, buf, &mut self.cache),
            Body::Directory(_) => Err(Errno::EISDIR),
            Body::Symlink(_) | Body::Special(..) => Err(Errno::EINVAL),
        }
    }

    fn write(&mut self, handle: Handle, offset: u64, data: &[u8]) -> Result<usize> {
        let ino = self.file(handle)?.ino;
        let room = self.room();
        let cache = &mut self.cache;
        let written = self.tree.with_contents(ino, |contents| contents.write(offset, data, cache, room))?;
        if written > 0 {
            let now = (self.clock)();
            self.changed_contents(ino, now);
        }
        Ok(written)
    }

    fn fsync(&mut self, handle: Handle, _datasync: bool) -> Result<()> {
        self.file(handle).map(|_| ())
    }

    fn readdir(
        &mut self,
        handle: Handle,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let &OpenFile { ino, end, .. } = self.file(handle)?;
        let dir = self.tree.dir(ino)?;
        let mut end = end;
        if cookie == 0 {
            // From the start again: a new listing.
            end = dir.end();
            if let Some(file) = self.handles.get_mut(handle.0 as usize).and_then(Option::as_mut) {
                file.end = end;
            }
        }
        let mut give = |ino: Ino, cookie: u64, name: &[u8]| {
            let inode = self.tree.get(ino)?;
            Ok(emit(&DirEntry { qid: inode.qid(), cookie, mode: inode.mode, name }))
        };
        let position = Overlay::listing_position(dir, cookie);
        if matches!(position, ListingPosition::Dot) && !give(ino, COOKIE_DOT, b".")? {
            return Ok(());
        }
        if matches!(position, ListingPosition::Dot | ListingPosition::DotDot) {
            // The directory above a removed one may be gone.
            let above = if self.tree.get(ino)?.nlink == 0 { ino } else { dir.parent };
            if !give(above, COOKIE_DOTDOT, b"..")? {
                return Ok(());
            }
        }
        let from = if let ListingPosition::Place(place) = position { place } else { 0 };
        for (place, name, ino) in dir.range(from, end) {
            if !give(ino, COOKIE_FIRST + place, name)? {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&mut self) -> Result<StatFs> {
        let block = u64::from(BLOCK_SIZE);
        let blocks = self.total / block;
        let used = self.used.saturating_add(self.added()).div_ceil(block);
        let bfree = blocks.saturating_sub(used);
        Ok(StatFs {
            kind: 0x0102_1997,
            bsize: BLOCK_SIZE,
            blocks,
            bfree,
            // What there is memory for.
            bavail: bfree.min(self.room() / block),
            files: self.tree.count(),
            ffree: FREE_INODES,
            fsid: 0,
            namelen: limits::MAX_FILE_NAME as u32,
        })
    }

    fn listing_end(&mut self, handle: Handle) -> u64 {
        self.file(handle).map_or(0, |file| file.end)
    }

    fn set_listing_end(&mut self, handle: Handle, end: u64) {
        let open = usize::try_from(handle.0).ok().and_then(|at| self.handles.get_mut(at)?.as_mut());
        if let Some(file) = open {
            file.end = file.end.min(end);
        }
    }

    fn save(&mut self) -> Result<SavedTree> {
        self.save_tree()
    }

    fn read_saved(&mut self, node: NodeId, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Body::File(contents) = &self.tree.get(ino(node)?)?.body else { return Err(Errno::EINVAL) };
        let count = contents.read(offset, buf, &mut self.cache)?;
        if count < buf.len() { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn saved_extents(&mut self, node: NodeId) -> Result<Vec<(u64, u64)>> {
        match &self.tree.get(ino(node)?)?.body {
            Body::File(contents) => Ok(contents.extents()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn restore(
        &mut self,
        tree: SavedTree,
        referenced: &dyn Fn(NodeId) -> bool,
    ) -> std::result::Result<(), RestoreError> {
        self.restore_tree(tree, referenced)
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay")
            .field("files", &self.tree.count())
            .field("added", &self.added())
            .finish_non_exhaustive()
    }
}

/// A number of bytes for differences. What does not fit is more than any guest can have.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn ino(node: NodeId) -> Result<Ino> {
    Ino::try_from(node.0).map_err(|_| Errno::ESTALE)
}

/// Puts the rows of an `fs.json` into a tree that has only a root.
fn load(root: Tree, rows: Vec<fsjson::Row>, row_count: u64, cache: &mut BlobCache) -> Tree {
    let mut names = Vec::with_capacity(rows.len());
    let mut inodes = Vec::with_capacity(rows.len() + 1);
    inodes.push(root.into_root());
    for row in rows {
        let time = Time { sec: row.mtime, nsec: 0 };
        let body = match row.body {
            RowBody::Directory => Body::Directory(Box::new(Directory::new(row.parent, row.size))),
            RowBody::File(Some(name)) => {
                Body::File(Contents::from_blob(cache.register(name, row.size), row.size))
            }
            RowBody::File(None) => Body::File(Contents::default()),
            RowBody::Symlink(target) => Body::Symlink(target),
        };
        inodes.push(Some(Inode {
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            nlink: if matches!(body, Body::Directory(_)) { 2 } else { 0 },
            atime: time,
            mtime: time,
            ctime: time,
            qid_path: row.qid_path,
            qid_version: 0,
            refs: 0,
            body,
        }));
        names.push((row.parent, row.name));
    }
    let mut tree = Tree::from_inodes(inodes, 1 + row_count);
    for (ino, (parent, name)) in (1..).zip(names) {
        // Rows come after their directories, so this finds them.
        let _ = tree.load_name(parent, &name, ino);
    }
    tree
}
