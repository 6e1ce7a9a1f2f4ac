//! The session as snapshots hold it.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Place, Result, Server};
use crate::limits;
use crate::p9::errno::Errno;
use crate::p9::fid::{Fid, Io, Link};
use crate::p9::fs::{Access, Filesystem, NodeId, OpenFlags, Qid};
use crate::p9::locks::{Lock, LockOwner, last_byte};
use crate::p9::saved::{
    RestoreError, SaveError, SavedBody, SavedContents, SavedFid, SavedFilled, SavedIndex, SavedIo, SavedLock,
    SavedServer, SavedTree, node_of,
};

impl Server {
    /// The session and its file system, with the contents of changed files.
    pub fn save(&mut self) -> std::result::Result<SavedServer, SaveError> {
        let mut tree = self.fs.save().map_err(|error| match error {
            Errno::EOPNOTSUPP => SaveError::Unsupported,
            other => SaveError::Other(other),
        })?;
        fetch_contents(&mut *self.fs, &mut tree)?;
        let (fids, locks) = self.save_session().map_err(SaveError::Other)?;
        Ok(SavedServer { msize: self.msize, fids, locks, tree })
    }

    fn save_session(&mut self) -> Result<(Vec<SavedFid>, Vec<SavedLock>)> {
        let index = |node: NodeId| SavedIndex::try_from(node.0).map_err(|_| Errno::EIO);
        let mut fids = Vec::with_capacity(self.fids.len());
        for (number, fid) in self.fids.all() {
            // Which fids append is not kept: the client's offsets count after a restore.
            let Fid { node, qid: _, uid, link, io, append: _ } = fid;
            let (dir, name) = match link {
                Some(Link { dir, name }) => (Some(index(*dir)?), name.to_vec()),
                None => (None, Vec::new()),
            };
            let io = match *io {
                Io::Closed => SavedIo::Closed,
                Io::Restored => SavedIo::Unknown,
                Io::Open(handle, access) => SavedIo::Open { access, listing: self.fs.listing_end(handle) },
            };
            fids.push(SavedFid { fid: number, inode: index(*node)?, uid: *uid, name, dir, io });
        }
        let mut locks = Vec::with_capacity(self.locks.len());
        for (node, lock) in self.locks.all() {
            let Lock { owner: LockOwner { proc_id, client_id }, exclusive, start, last: _, fid } = lock;
            locks.push(SavedLock {
                inode: index(node)?,
                exclusive: *exclusive,
                start: *start,
                length: lock.length(),
                proc_id: *proc_id,
                client_id: client_id.to_vec(),
                fid: *fid,
            });
        }
        Ok((fids, locks))
    }

    /// Replaces session and file system by saved ones. On an error the session is gone and the files
    /// are as they were.
    pub fn restore(&mut self, saved: SavedServer) -> std::result::Result<(), RestoreError> {
        let SavedServer { msize, fids, locks, tree } = saved;
        if fids.len() > limits::P9_FIDS {
            return Err(RestoreError::TooMany { what: "file handles" });
        }
        self.reset();
        let exists = |inode: SavedIndex| {
            usize::try_from(inode).ok().and_then(|at| tree.inodes.get(at)).is_some_and(Option::is_some)
        };
        let fids: Vec<SavedFid> = fids.into_iter().filter(|fid| exists(fid.inode)).collect();
        let referenced: HashSet<_> =
            fids.iter().flat_map(|fid| fid.dir.into_iter().chain([fid.inode])).map(node_of).collect();
        self.fs.restore(tree, &|node| referenced.contains(&node))?;
        self.msize = msize.clamp(limits::P9_MIN_MSIZE, limits::P9_RESTORED_MSIZE);
        for fid in fids {
            self.restore_fid(fid);
        }
        for SavedLock { inode, exclusive, start, length, proc_id, client_id, fid } in locks {
            let node = node_of(inode);
            let Ok(last) = last_byte(start, length) else { continue };
            if self.fids.has_node(node) && client_id.len() <= limits::P9_LOCK_CLIENT {
                let owner = LockOwner { proc_id, client_id: Arc::from(client_id) };
                // One that conflicts with an earlier one cannot have been granted; it is dropped.
                let _ = self.locks.lock(node, Lock { owner, exclusive, start, last, fid });
            }
        }
        Ok(())
    }

    /// Puts in a fid, if there can be one of this number. How it was open and where it was found are
    /// only believed as far as they are possible.
    fn restore_fid(&mut self, saved: SavedFid) {
        let SavedFid { fid, inode, uid, name, dir, io } = saved;
        let node = node_of(inode);
        let Ok(attr) = self.fs.getattr(node) else { return };
        if self.fids.check_free(fid).is_err() {
            return;
        }
        self.fs.acquire(node);
        let is_directory = |fs: &mut dyn Filesystem, node| {
            fs.getattr(node).is_ok_and(|attr| Qid::kind_of(attr.mode) == Qid::DIRECTORY)
        };
        let dir = dir.map(node_of).filter(|dir| !name.is_empty() && is_directory(&mut *self.fs, *dir));
        let link = dir.map(|dir| {
            self.fs.acquire(dir);
            Link { dir, name: name.into() }
        });
        let io = match io {
            SavedIo::Closed => Io::Closed,
            SavedIo::Unknown => Io::Restored,
            SavedIo::Open { access, listing } => self.reopen(node, access, listing),
        };
        self.bind(fid, Place { node, qid: attr.qid, link }, uid, io);
    }

    fn reopen(&mut self, node: NodeId, access: Access, listing: u64) -> Io {
        match self.fs.open(node, OpenFlags { access, truncate: false, directory: false, append: false }) {
            Ok(handle) => {
                self.fs.set_listing_end(handle, listing);
                Io::Open(handle, access)
            }
            Err(_) => Io::Restored,
        }
    }
}

/// Reads the contents of changed files into the tree. Holes become zeros as long as there is not too much
/// of them.
fn fetch_contents(fs: &mut dyn Filesystem, tree: &mut SavedTree) -> std::result::Result<(), SaveError> {
    let mut room = limits::P9_SAVED_CONTENTS;
    let mut holes_left = limits::P9_SAVED_HOLES;
    for (index, inode) in (0..).zip(&mut tree.inodes) {
        let Some(inode) = inode else { continue };
        let SavedBody::File(contents @ SavedContents::Changed) = &mut inode.body else { continue };
        let node = node_of(index);
        let failed = |error| SaveError::Contents { inode: index, error };
        let extents = fs.saved_extents(node).map_err(failed)?;
        let data = extents.iter().fold(0u64, |sum, (_, length)| sum.saturating_add(*length));
        let holes = inode.size.saturating_sub(data);
        let whole = holes <= holes_left;
        let cost = if whole { inode.size } else { data };
        room = room.checked_sub(cost).ok_or(SaveError::TooLarge { limit: limits::P9_SAVED_CONTENTS })?;
        *contents = if whole {
            holes_left -= holes;
            tree.filled.push(SavedFilled { inode: index, parts: extents.clone() });
            let mut bytes = zeros(inode.size)?;
            for (offset, length) in extents {
                let part = usize::try_from(offset)
                    .ok()
                    .zip(usize::try_from(offset.saturating_add(length)).ok())
                    .and_then(|(start, end)| bytes.get_mut(start..end));
                fs.read_saved(node, offset, part.ok_or(failed(Errno::EIO))?).map_err(failed)?;
            }
            SavedContents::Bytes(bytes)
        } else {
            let mut parts = Vec::with_capacity(extents.len());
            for (offset, length) in extents {
                let mut bytes = zeros(length)?;
                fs.read_saved(node, offset, &mut bytes).map_err(failed)?;
                parts.push((offset, bytes));
            }
            SavedContents::Extents(parts)
        };
    }
    Ok(())
}

fn zeros(length: u64) -> std::result::Result<Vec<u8>, SaveError> {
    let error = SaveError::Memory { bytes: length };
    let length = usize::try_from(length).map_err(|_| error.clone())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| error)?;
    bytes.resize(length, 0);
    Ok(bytes)
}
