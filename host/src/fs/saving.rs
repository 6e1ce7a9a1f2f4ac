//! The overlay's tree as snapshots hold it, and back.

use std::collections::HashMap;

use emu_devices::p9::fs::{NodeId, Result, mode};
use emu_devices::p9::saved::{
    RestoreError, SavedBody, SavedContents, SavedIndex, SavedInode, SavedListing, SavedTree, node_of,
};

use super::blobs;
use super::cache::BlobCache;
use super::contents::Contents;
use super::fsjson::{bad_name, unix_mode};
use super::overlay::{Overlay, signed};
use super::tree::{Body, Directory, Ino, Inode, Name, ROOT, Tree, mode_fits};
use crate::limits;

/// A guest that removes everything an image can hold gets this far below what it began with; a snapshot that says
/// more is not believed.
const MOST_REMOVED: i64 = -(limits::MAX_INODES as i64) * 1024;

/// Names in a directory.
type Listing = Vec<(Vec<u8>, SavedIndex)>;

impl Overlay {
    pub(super) fn save_tree(&self) -> Result<SavedTree> {
        let inodes = (0..).take(self.tree.len()).map(|ino| self.save_inode(ino)).collect();
        let listings = (0..).take(self.tree.len()).filter_map(|ino| self.save_listing(ino)).collect();
        let last_qid = self.tree.last_qid();
        Ok(SavedTree {
            inodes,
            last_qid,
            total: self.total,
            used: self.used,
            added: Some(self.balance()),
            listings,
            filled: Vec::new(),
        })
    }

    /// The places of a directory's names, if some were removed.
    fn save_listing(&self, ino: Ino) -> Option<SavedListing> {
        let dir = self.tree.dir(ino).ok()?;
        let gaps = dir.end() != dir.len() as u64;
        gaps.then(|| SavedListing { inode: ino, places: dir.places().collect(), next: dir.end() })
    }

    fn save_inode(&self, ino: Ino) -> Option<SavedInode> {
        let inode = self.tree.get(ino).ok()?;
        let body = match &inode.body {
            Body::Directory(dir) => {
                // One that was removed has nothing above it any more.
                let above = if inode.nlink == 0 { ino } else { dir.parent };
                let mut names = vec![(b".".to_vec(), ino), (b"..".to_vec(), above)];
                names.extend(dir.iter().map(|(name, ino)| (name.to_vec(), ino)));
                SavedBody::Directory(names)
            }
            Body::File(contents) => SavedBody::File(match contents.unchanged() {
                Some(blob) => SavedContents::Stored(self.cache.name(blob).to_owned()),
                None => SavedContents::Changed,
            }),
            Body::Symlink(target) => SavedBody::Symlink(target.to_vec()),
            Body::Special(major, minor) => SavedBody::Special(*major, *minor),
        };
        Some(SavedInode {
            mode: inode.mode,
            body,
            size: inode.size(),
            uid: inode.uid,
            gid: inode.gid,
            ctime: inode.ctime,
            atime: inode.atime,
            mtime: inode.mtime,
            qid_version: inode.qid_version,
            qid_path: inode.qid_path,
            nlink: inode.nlink,
        })
    }

    pub(super) fn restore_tree(
        &mut self,
        saved: SavedTree,
        referenced: &dyn Fn(NodeId) -> bool,
    ) -> std::result::Result<(), RestoreError> {
        if saved.inodes.len() > limits::MAX_INODES {
            return Err(RestoreError::TooMany { what: "files" });
        }
        let mut inodes = Vec::with_capacity(saved.inodes.len());
        let mut listings = Vec::with_capacity(saved.inodes.len());
        let mut last_qid = saved.last_qid;
        self.cache.reserve(saved.inodes.len());
        let mut filled: HashMap<_, _> =
            saved.filled.into_iter().map(|file| (file.inode, file.parts)).collect();
        for (index, inode) in (0..).zip(saved.inodes) {
            let (inode, listing) = match inode {
                None => (None, Vec::new()),
                Some(inode) => {
                    last_qid = last_qid.max(inode.qid_path);
                    let (inode, listing) =
                        restore_inode(index, inode, filled.remove(&index), &mut self.cache)?;
                    (Some(inode), listing)
                }
            };
            inodes.push(inode);
            listings.push(listing);
        }
        if !inodes.first().and_then(Option::as_ref).is_some_and(Inode::is_directory) {
            return Err(RestoreError::NoRoot);
        }
        // Far beyond what can have been given out; counting on from there could overflow.
        if last_qid > u64::MAX / 2 {
            return Err(RestoreError::TooMany { what: "identities" });
        }
        let mut tree = Tree::from_inodes(inodes, last_qid);
        link(&mut tree, listings)?;
        for SavedListing { inode, places, next } in saved.listings {
            let placed = tree.dir_mut(inode).is_ok_and(|dir| dir.set_places(&places, next));
            if !placed {
                return Err(RestoreError::Inode { inode, reason: "its listing does not fit it" });
            }
        }
        tree.sweep(|ino| referenced(node_of(ino)));
        // v86 does not say what was added: contents were.
        let contents = || signed((0..).take(tree.len()).filter_map(|ino| held(&tree, ino)).sum());
        let added = saved.added.unwrap_or_else(contents).max(MOST_REMOVED);
        self.loaded_cost = signed(tree.cost()).saturating_sub(added);
        self.tree = tree;
        self.total = saved.total;
        self.used = saved.used;
        Ok(())
    }
}

fn held(tree: &Tree, ino: Ino) -> Option<u64> {
    match &tree.get(ino).ok()?.body {
        Body::File(contents) => Some(contents.held()),
        _ => None,
    }
}

/// Gives the inodes their names, from the root down.
fn link(tree: &mut Tree, mut listings: Vec<Listing>) -> std::result::Result<(), RestoreError> {
    if let Ok(root) = tree.get_mut(ROOT) {
        root.nlink = 2;
    }
    let mut to_do = vec![ROOT];
    while let Some(dir) = to_do.pop() {
        let wrong = |reason| RestoreError::Inode { inode: dir, reason };
        let listing = std::mem::take(&mut listings[dir as usize]);
        let mut names: Vec<(Name, Ino)> = Vec::with_capacity(listing.len());
        for (name, child) in listing {
            if matches!(&name[..], b"." | b"..") {
                continue;
            }
            if bad_name(&name).is_some() {
                return Err(wrong("a name in it is not possible"));
            }
            let inode = tree.get_mut(child).map_err(|_| wrong("a name in it stands for nothing"))?;
            if inode.is_directory() {
                // Those reached before have a link count, the root too.
                if std::mem::replace(&mut inode.nlink, 2) != 0 {
                    return Err(wrong("a directory in it is somewhere else too"));
                }
                to_do.push(child);
            }
            names.push((name.into(), child));
        }
        tree.attach_all(dir, names).map_err(|_| wrong("a name in it is there twice"))?;
    }
    Ok(())
}

/// An inode without names, and the listing if it is a directory.
fn restore_inode(
    index: SavedIndex,
    saved: SavedInode,
    filled: Option<Vec<(u64, u64)>>,
    cache: &mut BlobCache,
) -> std::result::Result<(Inode, Listing), RestoreError> {
    let wrong = |reason| RestoreError::Inode { inode: index, reason };
    let mut listing = Vec::new();
    if matches!(saved.body, SavedBody::File(_)) && saved.size > limits::MAX_FILE_SIZE {
        return Err(wrong("too large"));
    }
    let body = match saved.body {
        SavedBody::Directory(names) => {
            listing = names;
            Body::Directory(Box::new(Directory::new(index, saved.size)))
        }
        SavedBody::File(SavedContents::Stored(name)) => {
            if !blobs::is_valid_name(&name) {
                return Err(wrong("the name of its content file is not possible"));
            }
            Body::File(Contents::from_blob(cache.register(name, saved.size), saved.size))
        }
        SavedBody::File(SavedContents::Bytes(bytes)) => Body::File(match filled {
            None => Contents::from_bytes(&bytes, saved.size),
            Some(parts) => {
                let part = |(offset, length): (u64, u64)| {
                    let range =
                        usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(length)?).ok()?;
                    Some((offset, bytes.get(range)?))
                };
                let extents: Option<Vec<_>> = parts.into_iter().map(part).collect();
                let contents = extents.and_then(|extents| Contents::from_extents(&extents, saved.size));
                contents.ok_or_else(|| wrong("its holes lie where they cannot be"))?
            }
        }),
        SavedBody::File(SavedContents::Extents(extents)) => {
            let extents: Vec<_> = extents.iter().map(|(offset, bytes)| (*offset, &bytes[..])).collect();
            let contents = Contents::from_extents(&extents, saved.size);
            Body::File(contents.ok_or_else(|| wrong("its contents lie where they cannot be"))?)
        }
        SavedBody::File(SavedContents::Changed) => return Err(wrong("its contents are missing")),
        SavedBody::Symlink(target) => {
            if target.len() > limits::MAX_LINK_TARGET {
                return Err(wrong("its target is too long"));
            }
            Body::Symlink(target.into())
        }
        SavedBody::Special(major, minor) => Body::Special(major, minor),
    };
    if !mode_fits(saved.mode, &body) {
        return Err(wrong("its mode is that of something else"));
    }
    let inode = Inode {
        mode: unix_mode(saved.mode) & (mode::TYPE | mode::PERMISSIONS),
        uid: saved.uid,
        gid: saved.gid,
        nlink: 0,
        atime: saved.atime,
        mtime: saved.mtime,
        ctime: saved.ctime,
        qid_path: saved.qid_path,
        qid_version: saved.qid_version,
        refs: 0,
        body,
    };
    Ok((inode, listing))
}
