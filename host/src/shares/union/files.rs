//! [`Filesystem`] over two directories.

use std::collections::HashMap;

use emu_devices::p9::Errno;
use emu_devices::p9::fs::{
    Attr, DirEntry, Entry, Filesystem, Handle, NodeId, OpenFlags, Owner, Qid, Result, SetAttr, StatFs, mode,
};

use super::change::READ;
use super::table::Parts;
use super::{Open, RESERVED, Union, reserved};
use crate::limits;

/// A name in a listing.
pub(super) struct Listed {
    qid: Qid,
    mode: u32,
    name: Box<[u8]>,
}

impl Union {
    /// The object that was found at a place, with a reference; those of `found` are used up.
    fn node_at(&mut self, dir: NodeId, name: &[u8], found: Parts) -> Result<NodeId> {
        if let Some(known) = self.table.known(dir, name, &found) {
            let old = self.table.parts(known)?;
            self.table.set_parts(known, Parts { qid: old.qid, ..found });
            self.table.acquire(known);
            self.forget_parts(old);
            return Ok(known);
        }
        if self.table.len() >= limits::MAX_SHARE_NODES {
            self.forget_parts(found);
            return Err(Errno::ENFILE);
        }
        // Somebody on the host has put something else there.
        if let Some(other) = self.table.child(dir, name) {
            self.lose_name(other);
        }
        Ok(self.table.insert(Some((dir, name)), found))
    }

    /// The object has no name any more.
    fn lose_name(&mut self, id: NodeId) {
        if let Some(dir) = self.table.detach(id) {
            self.forget(dir);
        }
    }

    fn entry(&self, node: NodeId) -> Result<Entry> {
        Ok(Entry { node, qid: self.table.parts(node)?.qid })
    }

    /// The upper part of a directory in which `name` is about to be made.
    fn place_for(&mut self, dir: NodeId, name: &[u8]) -> Result<NodeId> {
        if reserved(name) {
            return Err(Errno::EINVAL);
        }
        match self.find(dir, name) {
            Ok(found) => {
                self.forget_parts(found);
                Err(Errno::EEXIST)
            }
            Err(Errno::ENOENT) => self.upper_directory(dir),
            Err(error) => Err(error),
        }
    }

    /// Goes through all names of a directory of either part.
    pub(super) fn list(&mut self, dir: NodeId, mut each: impl FnMut(&DirEntry<'_>, &[u8])) -> Result<()> {
        let handle = self.files.open(dir, OpenFlags { directory: true, ..READ })?;
        let listed = self.files.readdir(handle, 0, &mut |entry| {
            each(entry, entry.name);
            true
        });
        self.files.release(handle);
        listed
    }

    /// All names of a directory, both parts together.
    fn names(&mut self, dir: NodeId) -> Result<Vec<Listed>> {
        let parts = self.table.parts(dir)?;
        let above = match self.table.place(dir)? {
            Some((above, _)) => self.table.parts(above)?.qid,
            None => parts.qid,
        };
        let special = |qid, name: &[u8]| Listed { qid, mode: mode::DIRECTORY, name: name.into() };
        let mut all = vec![special(parts.qid, b"."), special(above, b"..")];
        let mut places: HashMap<Box<[u8]>, Option<usize>> = HashMap::new();
        let mut room = true;
        if let Some(upper) = parts.upper {
            self.list(upper, |entry, name| {
                room &= all.len() < limits::MAX_SHARE_NODES;
                if !room || matches!(name, b"." | b"..") {
                    return;
                }
                if let Some(hidden) = name.strip_prefix(RESERVED) {
                    places.insert(hidden.into(), None);
                    return;
                }
                all.push(Listed { qid: entry.qid, mode: entry.mode, name: name.into() });
                // A directory below is the same one, unless it is hidden.
                let merged = entry.mode == mode::DIRECTORY && !places.contains_key(name);
                places.insert(name.into(), merged.then(|| all.len() - 1));
            })?;
        }
        let upper = all.len();
        if let Some(lower) = parts.lower {
            self.list(lower, |entry, name| {
                room &= all.len() < limits::MAX_SHARE_NODES;
                if !room || matches!(name, b"." | b"..") || reserved(name) {
                    return;
                }
                match places.get(name) {
                    None => all.push(Listed { qid: entry.qid, mode: entry.mode, name: name.into() }),
                    Some(Some(at)) if entry.mode == mode::DIRECTORY => {
                        if let Some(listed) = all.get_mut(*at) {
                            listed.qid = entry.qid;
                        }
                    }
                    Some(_) => {}
                }
            })?;
        }
        if !room {
            return Err(Errno::ENFILE);
        }
        // What was copied is known by the number it had.
        for listed in all.iter_mut().take(upper).skip(2) {
            let known = self.table.child(dir, &listed.name).and_then(|id| self.table.parts(id).ok());
            if let Some(known) = known.filter(|parts| parts.qid.kind == listed.qid.kind) {
                listed.qid = known.qid;
            }
        }
        Ok(all)
    }

    /// ENOTEMPTY if there are names in it.
    fn check_empty(&mut self, dir: NodeId) -> Result<()> {
        if self.names(dir)?.len() > 2 { Err(Errno::ENOTEMPTY) } else { Ok(()) }
    }

    fn remove(&mut self, dir: NodeId, name: &[u8], id: NodeId, directory: bool) -> Result<()> {
        let parts = self.table.parts(id)?;
        match (parts.is_directory(), directory) {
            (true, false) => return Err(Errno::EISDIR),
            (false, true) => return Err(Errno::ENOTDIR),
            (true, true) => self.check_empty(id)?,
            (false, false) => {}
        }
        self.hide(dir, name)?;
        if let Some(upper) = parts.upper {
            let above = self.upper_directory(dir)?;
            if directory {
                self.clear(upper)?;
                self.files.rmdir(above, name)?;
            } else {
                self.files.unlink(above, name)?;
            }
        }
        self.lose_name(id);
        Ok(())
    }

    fn remove_name(&mut self, dir: NodeId, name: &[u8], directory: bool) -> Result<()> {
        let id = self.lookup(dir, name)?.node;
        let removed = self.remove(dir, name, id, directory);
        self.forget(id);
        removed
    }

    /// Renames `id` over `target`, if there is one.
    fn replace(
        &mut self,
        (from, old): (NodeId, &[u8]),
        (to, new): (NodeId, &[u8]),
        id: NodeId,
        target: Option<NodeId>,
    ) -> Result<()> {
        let parts = self.table.parts(id)?;
        let directory = parts.is_directory();
        if directory && parts.lower.is_some() {
            // The name of what is in the lower directory cannot be changed: whoever renames copies.
            return Err(Errno::EXDEV);
        }
        let moved = self.upper(id, true)?;
        if let Some(target) = target {
            let there = self.table.parts(target)?;
            if target == id || there.upper == Some(moved) {
                return Ok(());
            }
            match (directory, there.is_directory()) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) => {
                    self.check_empty(target)?;
                    if let Some(upper) = there.upper {
                        self.clear(upper)?;
                    }
                }
                (false, false) => {}
            }
        }
        let source = self.upper_directory(from)?;
        let place = self.upper_directory(to)?;
        if directory {
            // Nothing of a directory below may show through.
            self.hide(to, new)?;
        }
        self.hide(from, old)?;
        self.files.rename(source, old, place, new)?;
        if let Some(target) = target {
            self.lose_name(target);
        }
        self.lose_name(id);
        self.table.attach(id, to, new);
        Ok(())
    }

    fn handle(&self, handle: Handle) -> Result<Handle> {
        self.handles.get(&handle).ok_or(Errno::EBADF)?.inner.ok_or(Errno::EISDIR)
    }

    fn add_handle(&mut self, node: NodeId, inner: Option<Handle>, lower: bool) -> Handle {
        let handle = Handle(self.next_handle);
        self.next_handle += 1;
        self.table.acquire(node);
        self.handles.insert(handle, Open { node, inner, lower, listing: None });
        handle
    }

    /// Begins a listing anew.
    fn start_listing(&mut self, handle: Handle) -> Result<()> {
        let node = self.handles.get(&handle).ok_or(Errno::EBADF)?.node;
        let names = self.names(node)?;
        if self.listed.saturating_add(names.len()) > limits::MAX_SHARE_NODES {
            return Err(Errno::ENFILE);
        }
        self.listed += names.len();
        let open = self.handles.get_mut(&handle).ok_or(Errno::EBADF)?;
        self.listed -= open.listing.replace(names).map_or(0, |old| old.len());
        Ok(())
    }
}

impl Filesystem for Union {
    fn root(&mut self) -> Result<Entry> {
        self.table.acquire(self.root);
        self.entry(self.root)
    }

    fn acquire(&mut self, node: NodeId) {
        self.table.acquire(node);
    }

    fn forget(&mut self, node: NodeId) {
        let mut next = Some(node);
        while let Some((parts, dir)) = next.and_then(|id| self.table.release(id)) {
            self.forget_parts(parts);
            next = dir;
        }
    }

    fn lookup(&mut self, dir: NodeId, name: &[u8]) -> Result<Entry> {
        let found = self.find(dir, name)?;
        let node = self.node_at(dir, name, found)?;
        self.entry(node)
    }

    fn parent(&mut self, dir: NodeId) -> Result<Entry> {
        let above = match self.table.place(dir)? {
            Some((above, _)) => above,
            None if dir == self.root => dir,
            None => return Err(Errno::ENOENT),
        };
        self.table.acquire(above);
        self.entry(above)
    }

    fn getattr(&mut self, node: NodeId) -> Result<Attr> {
        let parts = self.table.parts(node)?;
        let attr = self.files.getattr(parts.active()?)?;
        // The links of a directory in two places cannot be counted; 1 says so.
        let merged = parts.lower.is_some() && parts.upper.is_some();
        Ok(Attr { qid: parts.qid, nlink: if merged { 1 } else { attr.nlink }, ..attr })
    }

    fn setattr(&mut self, node: NodeId, set: &SetAttr) -> Result<()> {
        let upper = self.upper(node, set.size != Some(0))?;
        self.files.setattr(upper, set)
    }

    fn readlink(&mut self, node: NodeId) -> Result<Vec<u8>> {
        self.files.readlink(self.table.parts(node)?.active()?)
    }

    fn open(&mut self, node: NodeId, flags: OpenFlags) -> Result<Handle> {
        let parts = self.table.parts(node)?;
        if self.handles.len() >= limits::SHARE_HANDLES {
            return Err(Errno::ENFILE);
        }
        let writes = flags.access.can_write() || flags.truncate;
        if parts.is_directory() {
            return if writes { Err(Errno::EISDIR) } else { Ok(self.add_handle(node, None, false)) };
        }
        if flags.directory {
            return Err(Errno::ENOTDIR);
        }
        let part = match parts.lower {
            // What is no file is refused below, and needs no copy for that.
            Some(lower) if writes && self.files.getattr(lower)?.mode & mode::TYPE == mode::REGULAR => {
                self.upper(node, !flags.truncate)?
            }
            _ => parts.active()?,
        };
        let inner = self.files.open(part, flags)?;
        Ok(self.add_handle(node, Some(inner), Some(part) == parts.lower))
    }

    fn release(&mut self, handle: Handle) {
        let Some(open) = self.handles.remove(&handle) else { return };
        self.listed -= open.listing.map_or(0, |listing| listing.len());
        if let Some(inner) = open.inner {
            self.files.release(inner);
        }
        self.forget(open.node);
    }

    fn create(
        &mut self,
        dir: NodeId,
        name: &[u8],
        permissions: u32,
        owner: Owner,
        flags: OpenFlags,
    ) -> Result<(Entry, Handle)> {
        if self.handles.len() >= limits::SHARE_HANDLES {
            return Err(Errno::ENFILE);
        }
        let above = self.place_for(dir, name)?;
        let (made, inner) = self.files.create(above, name, permissions, owner, flags)?;
        let parts = Parts { lower: None, upper: Some(made.node), qid: made.qid };
        let node = match self.node_at(dir, name, parts) {
            Ok(node) => node,
            Err(error) => {
                self.files.release(inner);
                return Err(error);
            }
        };
        let handle = self.add_handle(node, Some(inner), false);
        Ok((self.entry(node)?, handle))
    }

    fn mkdir(&mut self, dir: NodeId, name: &[u8], permissions: u32, owner: Owner) -> Result<Qid> {
        let above = self.place_for(dir, name)?;
        self.files.mkdir(above, name, permissions, owner)
    }

    fn symlink(&mut self, dir: NodeId, name: &[u8], target: &[u8], owner: Owner) -> Result<Qid> {
        let above = self.place_for(dir, name)?;
        self.files.symlink(above, name, target, owner)
    }

    fn mknod(&mut self, dir: NodeId, name: &[u8], mode: u32, rdev: (u32, u32), owner: Owner) -> Result<Qid> {
        let above = self.place_for(dir, name)?;
        self.files.mknod(above, name, mode, rdev, owner)
    }

    fn link(&mut self, node: NodeId, dir: NodeId, name: &[u8]) -> Result<()> {
        if self.table.parts(node)?.is_directory() {
            return Err(Errno::EPERM);
        }
        let above = self.place_for(dir, name)?;
        let target = self.upper(node, true)?;
        self.files.link(target, above, name)
    }

    fn unlink(&mut self, dir: NodeId, name: &[u8]) -> Result<()> {
        self.remove_name(dir, name, false)
    }

    fn rmdir(&mut self, dir: NodeId, name: &[u8]) -> Result<()> {
        self.remove_name(dir, name, true)
    }

    fn rename(&mut self, from: NodeId, old: &[u8], to: NodeId, new: &[u8]) -> Result<()> {
        if reserved(new) {
            return Err(Errno::EINVAL);
        }
        let id = self.lookup(from, old)?.node;
        let target = match self.lookup(to, new) {
            Ok(entry) => Ok(Some(entry.node)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        };
        let renamed = target.and_then(|target| {
            let renamed = self.replace((from, old), (to, new), id, target);
            target.into_iter().for_each(|target| self.forget(target));
            renamed
        });
        self.forget(id);
        renamed
    }

    fn read(&mut self, handle: Handle, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let inner = self.handle(handle)?;
        self.files.read(inner, offset, buf)
    }

    fn write(&mut self, handle: Handle, offset: u64, data: &[u8]) -> Result<usize> {
        let inner = self.handle(handle)?;
        self.files.write(inner, offset, data)
    }

    fn fsync(&mut self, handle: Handle, datasync: bool) -> Result<()> {
        match self.handle(handle) {
            Ok(inner) => self.files.fsync(inner, datasync),
            Err(Errno::EISDIR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn readdir(
        &mut self,
        handle: Handle,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let open = self.handles.get(&handle).ok_or(Errno::EBADF)?;
        if open.inner.is_some() {
            return Err(Errno::ENOTDIR);
        }
        if cookie == 0 || open.listing.is_none() {
            self.start_listing(handle)?;
        }
        let open = self.handles.get(&handle).ok_or(Errno::EBADF)?;
        let names = open.listing.as_deref().unwrap_or_default();
        let from = usize::try_from(cookie).unwrap_or(usize::MAX).min(names.len());
        for (at, listed) in (from as u64..).zip(names.get(from..).unwrap_or_default()) {
            let entry = DirEntry { qid: listed.qid, cookie: at + 1, mode: listed.mode, name: &listed.name };
            if !emit(&entry) {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&mut self) -> Result<StatFs> {
        self.files.statfs()
    }
}
