//! The session as snapshots hold it.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Place, Result, Server};
use crate::limits;
use crate::p9::errno::Errno;
use crate::p9::fid::Io;
use crate::p9::locks::{Lock, LockOwner, last_byte};
use crate::p9::saved::{RestoreError, SavedFid, SavedIndex, SavedLock, SavedServer, node_of};

impl Server {
    /// The session and its file system. Contents of changed files are fetched afterwards with
    /// [`Filesystem::read_saved`](crate::p9::Filesystem::read_saved), before anything changes.
    pub fn save(&mut self) -> Result<SavedServer> {
        let tree = self.fs.save()?;
        let index = |node: crate::p9::fs::NodeId| SavedIndex::try_from(node.0).map_err(|_| Errno::EIO);
        let mut fids = Vec::with_capacity(self.fids.len());
        for (number, fid) in self.fids.all() {
            let name = fid.link.as_ref().map(|link| link.name.to_vec()).unwrap_or_default();
            fids.push(SavedFid { fid: number, inode: index(fid.node)?, uid: fid.uid, name });
        }
        let mut locks = Vec::with_capacity(self.locks.len());
        for (node, lock) in self.locks.all() {
            locks.push(SavedLock {
                inode: index(node)?,
                exclusive: lock.exclusive,
                start: lock.start,
                length: lock.length(),
                proc_id: lock.owner.proc_id,
                client_id: lock.owner.client_id.to_vec(),
            });
        }
        Ok(SavedServer { msize: self.msize, fids, locks, tree })
    }

    /// Replaces session and file system by saved ones. On an error the session is gone and the files
    /// are as they were.
    pub fn restore(&mut self, saved: SavedServer) -> std::result::Result<(), RestoreError> {
        if saved.fids.len() > limits::P9_FIDS {
            return Err(RestoreError::TooMany { what: "file handles" });
        }
        self.reset();
        let exists = |inode: SavedIndex| {
            usize::try_from(inode).ok().and_then(|at| saved.tree.inodes.get(at)).is_some_and(Option::is_some)
        };
        let fids: Vec<SavedFid> = saved.fids.into_iter().filter(|fid| exists(fid.inode)).collect();
        let referenced: HashSet<_> = fids.iter().map(|fid| node_of(fid.inode)).collect();
        self.fs.restore(saved.tree, &|node| referenced.contains(&node))?;
        self.msize = saved.msize.clamp(limits::P9_MIN_MSIZE, limits::P9_RESTORED_MSIZE);
        for SavedFid { fid, inode, uid, .. } in fids {
            let node = node_of(inode);
            let Ok(attr) = self.fs.getattr(node) else { continue };
            if self.fids.check_free(fid).is_ok() {
                self.fs.acquire(node);
                self.bind(fid, Place { node, qid: attr.qid, link: None }, uid, Io::Restored);
            }
        }
        for SavedLock { inode, exclusive, start, length, proc_id, client_id } in saved.locks {
            let node = node_of(inode);
            let Ok(last) = last_byte(start, length) else { continue };
            if self.fids.has_node(node) && client_id.len() <= limits::P9_LOCK_CLIENT {
                let owner = LockOwner { proc_id, client_id: Arc::from(client_id) };
                // One that conflicts with an earlier one cannot have been granted; it is dropped.
                let _ = self.locks.lock(node, Lock { owner, exclusive, start, last, fid: None });
            }
        }
        Ok(())
    }
}
