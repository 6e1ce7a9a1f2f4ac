//! A small file system for the server's tests. It counts references and open handles, and
//! complains (by panic) about any use of a node or handle that is not held.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::errno::Errno;
use super::fs::{
    Attr, DirEntry, Entry, Filesystem, Handle, NodeId, OpenFlags, Owner, Qid, Result, SetAttr, StatFs, Time,
    mode,
};
use super::saved::{RestoreError, SavedBody, SavedContents, SavedInode, SavedListing, SavedTree};

/// Largest file.
pub const MAX_SIZE: u64 = 1 << 20;

#[derive(Default)]
pub struct Counters {
    pub references: AtomicI64,
    pub handles: AtomicI64,
}

#[derive(Default)]
struct Node {
    attr: Attr,
    references: i64,
    parent: u64,
    target: Vec<u8>,
    data: Vec<u8>,
    /// Name to node and cookie.
    entries: BTreeMap<Vec<u8>, (u64, u64)>,
}

pub struct MemFs {
    nodes: BTreeMap<u64, Node>,
    handles: HashMap<u64, u64>,
    counters: Arc<Counters>,
    next: u64,
    next_handle: u64,
    pub read_only: bool,
}

impl MemFs {
    pub fn new() -> (Self, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        let mut fs = Self {
            nodes: BTreeMap::new(),
            handles: HashMap::new(),
            counters: counters.clone(),
            next: 10,
            next_handle: 0,
            read_only: false,
        };
        fs.nodes.insert(0, Node::default());
        let attr = &mut fs.nodes.get_mut(&0).unwrap().attr;
        attr.mode = mode::DIRECTORY | 0o755;
        attr.nlink = 2;
        attr.qid = Qid { kind: Qid::DIRECTORY, version: 0, path: 1 };
        (fs, counters)
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        let found = self.nodes.get_mut(&node.0).expect("node exists");
        assert!(found.references > 0, "node is referenced");
        found
    }

    fn dir(&mut self, node: NodeId) -> Result<&mut Node> {
        let found = self.node(node);
        if found.attr.mode & mode::TYPE == mode::DIRECTORY { Ok(found) } else { Err(Errno::ENOTDIR) }
    }

    fn entry(&mut self, node: u64) -> Entry {
        let found = self.nodes.get_mut(&node).expect("node exists");
        found.references += 1;
        self.counters.references.fetch_add(1, Ordering::Relaxed);
        Entry { node: NodeId(node), qid: found.attr.qid }
    }

    fn child(&mut self, dir: NodeId, name: &[u8]) -> Result<u64> {
        self.dir(dir)?.entries.get(name).map(|(node, _)| *node).ok_or(Errno::ENOENT)
    }

    fn make(&mut self, dir: NodeId, name: &[u8], mode: u32, owner: Owner) -> Result<u64> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        let number = self.next;
        let parent = self.dir(dir)?;
        if parent.attr.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        if parent.entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        parent.entries.insert(name.to_vec(), (number, number));
        self.next += 1;
        let is_dir = mode & mode::TYPE == mode::DIRECTORY;
        let mut node = Node { parent: dir.0, ..Node::default() };
        node.attr.mode = mode;
        node.attr.nlink = if is_dir { 2 } else { 1 };
        node.attr.uid = owner.uid.unwrap_or(65534);
        node.attr.gid = owner.gid;
        node.attr.qid = Qid { kind: Qid::kind_of(mode), version: 0, path: number };
        self.nodes.insert(number, node);
        if is_dir {
            self.nodes.get_mut(&dir.0).unwrap().attr.nlink += 1;
        }
        Ok(number)
    }

    fn drop_entry(&mut self, dir: NodeId, name: &[u8]) {
        let (node, _) = self.nodes.get_mut(&dir.0).unwrap().entries.remove(name).unwrap();
        let gone = self.nodes.get_mut(&node).unwrap();
        if gone.attr.mode & mode::TYPE == mode::DIRECTORY {
            gone.attr.nlink = 0;
            self.nodes.get_mut(&dir.0).unwrap().attr.nlink -= 1;
        } else {
            gone.attr.nlink -= 1;
        }
        self.collect(node);
    }

    fn collect(&mut self, node: u64) {
        let found = &self.nodes[&node];
        if found.attr.nlink == 0 && found.references == 0 {
            self.nodes.remove(&node);
        }
    }

    fn is_dir(&self, node: u64) -> bool {
        self.nodes[&node].attr.mode & mode::TYPE == mode::DIRECTORY
    }

    fn opened(&self, handle: Handle) -> u64 {
        self.handles[&handle.0]
    }
}

impl Filesystem for MemFs {
    fn root(&mut self) -> Result<Entry> {
        Ok(self.entry(0))
    }

    fn acquire(&mut self, node: NodeId) {
        self.entry(node.0);
    }

    fn forget(&mut self, node: NodeId) {
        self.node(node).references -= 1;
        self.counters.references.fetch_sub(1, Ordering::Relaxed);
        self.collect(node.0);
    }

    fn lookup(&mut self, dir: NodeId, name: &[u8]) -> Result<Entry> {
        let node = self.child(dir, name)?;
        Ok(self.entry(node))
    }

    fn parent(&mut self, dir: NodeId) -> Result<Entry> {
        let parent = self.dir(dir)?.parent;
        Ok(self.entry(parent))
    }

    fn getattr(&mut self, node: NodeId) -> Result<Attr> {
        let node = self.nodes.get(&node.0).ok_or(Errno::ENOENT)?;
        Ok(Attr { size: (node.data.len() + node.target.len()) as u64, ..node.attr })
    }

    fn setattr(&mut self, node: NodeId, set: &SetAttr) -> Result<()> {
        let node = self.node(node);
        if let Some(size) = set.size {
            if node.attr.mode & mode::TYPE != mode::REGULAR {
                return Err(Errno::EINVAL);
            }
            if size > MAX_SIZE {
                return Err(Errno::EFBIG);
            }
            node.data.resize(size as usize, 0);
        }
        let attr = &mut node.attr;
        attr.mode = set.mode.map_or(attr.mode, |new| attr.mode & mode::TYPE | new);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        let time = |new: Option<super::fs::SetTime>, old| match new {
            None => old,
            Some(super::fs::SetTime::Now) => Time { sec: 1000, nsec: 1 },
            Some(super::fs::SetTime::To(time)) => time,
        };
        attr.atime = time(set.atime, attr.atime);
        attr.mtime = time(set.mtime, attr.mtime);
        Ok(())
    }

    fn readlink(&mut self, node: NodeId) -> Result<Vec<u8>> {
        let node = self.node(node);
        if node.target.is_empty() { Err(Errno::EINVAL) } else { Ok(node.target.clone()) }
    }

    fn open(&mut self, node: NodeId, flags: OpenFlags) -> Result<Handle> {
        let read_only = self.read_only;
        let found = self.node(node);
        match found.attr.mode & mode::TYPE {
            mode::DIRECTORY if flags.access.can_write() => return Err(Errno::EISDIR),
            mode::DIRECTORY => {}
            _ if flags.directory => return Err(Errno::ENOTDIR),
            mode::REGULAR if read_only && flags.access.can_write() => return Err(Errno::EROFS),
            mode::REGULAR => {}
            mode::SYMLINK => return Err(Errno::ELOOP),
            _ => return Err(Errno::ENXIO),
        }
        if flags.truncate {
            found.data.clear();
        }
        let handle = self.next_handle;
        self.next_handle += 1;
        self.entry(node.0);
        self.handles.insert(handle, node.0);
        self.counters.handles.fetch_add(1, Ordering::Relaxed);
        Ok(Handle(handle))
    }

    fn release(&mut self, handle: Handle) {
        let node = self.handles.remove(&handle.0).expect("handle is open");
        self.counters.handles.fetch_sub(1, Ordering::Relaxed);
        self.forget(NodeId(node));
    }

    fn create(
        &mut self,
        dir: NodeId,
        name: &[u8],
        permissions: u32,
        owner: Owner,
        flags: OpenFlags,
    ) -> Result<(Entry, Handle)> {
        let node = self.make(dir, name, mode::REGULAR | permissions, owner)?;
        let entry = self.entry(node);
        let handle = self.open(entry.node, flags)?;
        Ok((entry, handle))
    }

    fn mkdir(&mut self, dir: NodeId, name: &[u8], permissions: u32, owner: Owner) -> Result<Qid> {
        let node = self.make(dir, name, mode::DIRECTORY | permissions, owner)?;
        Ok(self.nodes[&node].attr.qid)
    }

    fn symlink(&mut self, dir: NodeId, name: &[u8], target: &[u8], owner: Owner) -> Result<Qid> {
        let node = self.make(dir, name, mode::SYMLINK | 0o777, owner)?;
        self.nodes.get_mut(&node).unwrap().target = target.to_vec();
        Ok(self.nodes[&node].attr.qid)
    }

    fn mknod(&mut self, dir: NodeId, name: &[u8], mode: u32, rdev: (u32, u32), owner: Owner) -> Result<Qid> {
        let node = self.make(dir, name, mode, owner)?;
        let attr = &mut self.nodes.get_mut(&node).unwrap().attr;
        attr.rdev = rdev;
        Ok(attr.qid)
    }

    fn link(&mut self, node: NodeId, dir: NodeId, name: &[u8]) -> Result<()> {
        if self.is_dir(node.0) {
            return Err(Errno::EPERM);
        }
        let cookie = self.next;
        let dir = self.dir(dir)?;
        if dir.entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        dir.entries.insert(name.to_vec(), (node.0, cookie));
        self.next += 1;
        self.node(node).attr.nlink += 1;
        Ok(())
    }

    fn unlink(&mut self, dir: NodeId, name: &[u8]) -> Result<()> {
        let node = self.child(dir, name)?;
        if self.is_dir(node) {
            return Err(Errno::EISDIR);
        }
        self.drop_entry(dir, name);
        Ok(())
    }

    fn rmdir(&mut self, dir: NodeId, name: &[u8]) -> Result<()> {
        let node = self.child(dir, name)?;
        if !self.is_dir(node) {
            return Err(Errno::ENOTDIR);
        }
        if !self.nodes[&node].entries.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.drop_entry(dir, name);
        Ok(())
    }

    /// Enough for the server's tests: no replacing of directories.
    fn rename(&mut self, from: NodeId, old: &[u8], to: NodeId, new: &[u8]) -> Result<()> {
        let node = self.child(from, old)?;
        self.dir(to)?;
        let mut above = to.0;
        while self.is_dir(node) && above != 0 {
            if above == node {
                return Err(Errno::EINVAL);
            }
            above = self.nodes[&above].parent;
        }
        if let Ok(target) = self.child(to, new) {
            if target == node {
                return Ok(());
            }
            if self.is_dir(target) {
                return Err(Errno::EISDIR);
            }
            self.drop_entry(to, new);
        }
        let entry = self.nodes.get_mut(&from.0).unwrap().entries.remove(old).unwrap();
        self.nodes.get_mut(&to.0).unwrap().entries.insert(new.to_vec(), entry);
        if self.is_dir(node) {
            self.nodes.get_mut(&from.0).unwrap().attr.nlink -= 1;
            self.nodes.get_mut(&to.0).unwrap().attr.nlink += 1;
            self.nodes.get_mut(&node).unwrap().parent = to.0;
        }
        Ok(())
    }

    fn read(&mut self, handle: Handle, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let node = self.opened(handle);
        if self.is_dir(node) {
            return Err(Errno::EISDIR);
        }
        let data = &self.nodes[&node].data;
        let rest = usize::try_from(offset).ok().and_then(|offset| data.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write(&mut self, handle: Handle, offset: u64, data: &[u8]) -> Result<usize> {
        let node = self.opened(handle);
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        let file = &mut self.nodes.get_mut(&node).unwrap().data;
        if file.len() < end as usize {
            file.resize(end as usize, 0);
        }
        file[offset as usize..end as usize].copy_from_slice(data);
        Ok(data.len())
    }

    fn fsync(&mut self, handle: Handle, _datasync: bool) -> Result<()> {
        self.opened(handle);
        Ok(())
    }

    fn readdir(
        &mut self,
        handle: Handle,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let dir = &self.nodes[&self.opened(handle)];
        if dir.attr.mode & mode::TYPE != mode::DIRECTORY {
            return Err(Errno::ENOTDIR);
        }
        let mut all: Vec<_> =
            dir.entries.iter().map(|(name, (node, cookie))| (*cookie, *node, &name[..])).collect();
        all.extend([(1, self.opened(handle), &b"."[..]), (2, dir.parent, &b".."[..])]);
        all.sort();
        for (at, node, name) in all.into_iter().filter(|(at, ..)| *at > cookie) {
            let attr = &self.nodes[&node].attr;
            if !emit(&DirEntry { qid: attr.qid, cookie: at, mode: attr.mode, name }) {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&mut self) -> Result<StatFs> {
        Ok(StatFs { kind: 0x0102_1997, bsize: 4096, blocks: 1 << 40, namelen: 255, ..StatFs::default() })
    }

    fn save(&mut self) -> Result<SavedTree> {
        let last = self.nodes.keys().max().copied().unwrap_or(0);
        let mut listings = Vec::new();
        let inodes = (0..=last).map(|number| {
            let node = self.nodes.get(&number)?;
            let attr = &node.attr;
            let body = match attr.mode & mode::TYPE {
                mode::DIRECTORY => {
                    let mut entries: Vec<_> = node.entries.iter().collect();
                    entries.sort_by_key(|(_, (_, cookie))| *cookie);
                    let places = entries.iter().map(|(_, (_, cookie))| *cookie).collect();
                    listings.push(SavedListing { inode: number as u32, places, next: self.next });
                    let mut names =
                        vec![(b".".to_vec(), number as u32), (b"..".to_vec(), node.parent as u32)];
                    names.extend(entries.iter().map(|(name, (node, _))| (name.to_vec(), *node as u32)));
                    SavedBody::Directory(names)
                }
                mode::REGULAR => SavedBody::File(SavedContents::Changed),
                mode::SYMLINK => SavedBody::Symlink(node.target.clone()),
                _ => SavedBody::Special(attr.rdev.0, attr.rdev.1),
            };
            Some(SavedInode {
                mode: attr.mode,
                body,
                size: node.data.len() as u64,
                uid: attr.uid,
                gid: attr.gid,
                ctime: attr.ctime,
                atime: attr.atime,
                mtime: attr.mtime,
                qid_version: attr.qid.version,
                qid_path: attr.qid.path,
                nlink: attr.nlink as u32,
            })
        });
        Ok(SavedTree {
            inodes: inodes.collect(),
            last_qid: self.next,
            total: 5 << 30,
            used: 7,
            added: None,
            listings,
            filled: Vec::new(),
        })
    }

    fn read_saved(&mut self, node: NodeId, offset: u64, buf: &mut [u8]) -> Result<()> {
        let offset = offset as usize;
        buf.copy_from_slice(&self.nodes[&node.0].data[offset..offset + buf.len()]);
        Ok(())
    }

    fn saved_extents(&mut self, node: NodeId) -> Result<Vec<(u64, u64)>> {
        Ok(vec![(0, self.nodes[&node.0].data.len() as u64)])
    }

    fn restore(
        &mut self,
        tree: SavedTree,
        _referenced: &dyn Fn(NodeId) -> bool,
    ) -> std::result::Result<(), RestoreError> {
        assert!(self.nodes.values().all(|node| node.references == 0), "nothing is held");
        if !matches!(tree.inodes.first(), Some(Some(_))) {
            return Err(RestoreError::NoRoot);
        }
        self.nodes.clear();
        self.next = tree.last_qid.min(1 << 40);
        for (number, inode) in tree.inodes.into_iter().enumerate() {
            let Some(inode) = inode else { continue };
            let attr = Attr {
                qid: Qid { kind: Qid::kind_of(inode.mode), version: inode.qid_version, path: inode.qid_path },
                mode: inode.mode,
                uid: inode.uid,
                gid: inode.gid,
                nlink: inode.nlink.into(),
                atime: inode.atime,
                mtime: inode.mtime,
                ctime: inode.ctime,
                ..Attr::default()
            };
            let mut node = Node { attr, ..Node::default() };
            match inode.body {
                SavedBody::Directory(entries) => {
                    let listing = tree.listings.iter().find(|listing| listing.inode == number as u32);
                    let mut places = listing.map(|listing| listing.places.iter()).into_iter().flatten();
                    for (name, inode) in entries {
                        match &name[..] {
                            b"." => {}
                            b".." => node.parent = inode.into(),
                            _ => {
                                let place = places.next().copied().unwrap_or(10 + u64::from(inode));
                                node.entries.insert(name, (inode.into(), place));
                            }
                        }
                    }
                }
                SavedBody::File(SavedContents::Bytes(data)) => node.data = data,
                SavedBody::Symlink(target) => node.target = target,
                SavedBody::Special(major, minor) => node.attr.rdev = (major, minor),
                SavedBody::File(_) => {}
            }
            self.nodes.insert(number as u64, node);
        }
        Ok(())
    }
}
