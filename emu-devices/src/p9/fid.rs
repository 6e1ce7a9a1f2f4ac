//! The client's handles.

use std::collections::HashMap;

use super::errno::Errno;
use super::fs::{Access, Handle, NodeId, Qid};
use super::wire;
use crate::limits;

/// What a fid can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// Walked to, not opened.
    Closed,
    /// Opened.
    Open(Handle, Access),
    /// From a snapshot, which does not tell: opened when first read or written.
    Restored,
}

/// The directory entry a fid was walked to by. Tremove and Trename need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Directory; the fid holds a reference.
    pub dir: NodeId,
    /// Name in it.
    pub name: Box<[u8]>,
}

/// A fid.
#[derive(Clone, Debug)]
pub struct Fid {
    /// What it stands for; the fid holds a reference.
    pub node: NodeId,
    /// Identification of the node.
    pub qid: Qid,
    /// User of the attach ([`wire::NO_UID`] if none was given).
    pub uid: u32,
    /// Where it was found; `None` for the root and after restoring a snapshot of v86, which does not tell.
    pub link: Option<Link>,
    /// Opened or not.
    pub io: Io,
    /// Opened for appending: what is written goes to the file's end.
    pub append: bool,
}

/// All fids of a session. References and handles are the caller's business.
#[derive(Debug, Default)]
pub struct FidTable {
    fids: HashMap<u32, Fid>,
    /// The fids of a node, so that renaming one is not a search through all of them.
    nodes: HashMap<NodeId, Vec<u32>>,
}

impl FidTable {
    /// The fid of this number; EBADF if it is not in use.
    pub fn get(&self, fid: u32) -> Result<&Fid, Errno> {
        self.fids.get(&fid).ok_or(Errno::EBADF)
    }

    /// Sets what a fid can be used for.
    pub fn set_io(&mut self, fid: u32, io: Io) {
        if let Some(fid) = self.fids.get_mut(&fid) {
            fid.io = io;
        }
    }

    /// Says that what is written to a fid goes to the file's end.
    pub fn set_append(&mut self, fid: u32) {
        if let Some(fid) = self.fids.get_mut(&fid) {
            fid.append = true;
        }
    }

    /// Checks that a new fid of this number can be made: EBADF if it is in use or no number,
    /// ENFILE if there are too many.
    pub fn check_free(&self, fid: u32) -> Result<(), Errno> {
        if fid == wire::NO_FID || self.fids.contains_key(&fid) {
            return Err(Errno::EBADF);
        }
        if self.fids.len() >= limits::P9_FIDS {
            return Err(Errno::ENFILE);
        }
        Ok(())
    }

    /// Puts in a fid; returns the one it takes the place of.
    pub fn insert(&mut self, number: u32, fid: Fid) -> Option<Fid> {
        let old = self.remove(number);
        self.nodes.entry(fid.node).or_default().push(number);
        self.fids.insert(number, fid);
        old
    }

    /// Takes out a fid.
    pub fn remove(&mut self, number: u32) -> Option<Fid> {
        let fid = self.fids.remove(&number)?;
        if let Some(numbers) = self.nodes.get_mut(&fid.node) {
            if let Some(at) = numbers.iter().rposition(|other| *other == number) {
                numbers.swap_remove(at);
            }
            if numbers.is_empty() {
                self.nodes.remove(&fid.node);
            }
        }
        Some(fid)
    }

    /// True if some fid stands for this node.
    pub fn has_node(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// The fids of `node` that were walked to by this entry get another one. Returns how many.
    pub fn relink(&mut self, node: NodeId, old: (NodeId, &[u8]), new: (NodeId, &[u8])) -> usize {
        let mut changed = 0;
        for number in self.nodes.get(&node).into_iter().flatten() {
            let Some(link) = self.fids.get_mut(number).and_then(|fid| fid.link.as_mut()) else { continue };
            if (link.dir, &*link.name) == old {
                *link = Link { dir: new.0, name: new.1.into() };
                changed += 1;
            }
        }
        changed
    }

    /// Takes out everything.
    pub fn drain(&mut self) -> impl Iterator<Item = Fid> + use<> {
        self.nodes.clear();
        std::mem::take(&mut self.fids).into_values()
    }

    /// All fids, ascending.
    pub fn all(&self) -> Vec<(u32, &Fid)> {
        let mut all: Vec<_> = self.fids.iter().map(|(number, fid)| (*number, fid)).collect();
        all.sort_by_key(|(number, _)| *number);
        all
    }

    /// Number of fids.
    pub fn len(&self) -> usize {
        self.fids.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.fids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fid(node: u64, link: Option<(u64, &[u8])>) -> Fid {
        Fid {
            node: NodeId(node),
            qid: Qid::default(),
            uid: 0,
            link: link.map(|(dir, name)| Link { dir: NodeId(dir), name: name.into() }),
            io: Io::Closed,
            append: false,
        }
    }

    #[test]
    fn check_free_used_reserved_or_too_many_is_refused() {
        let mut table = FidTable::default();
        table.insert(7, fid(1, None));
        assert_eq!(table.check_free(7), Err(Errno::EBADF));
        assert_eq!(table.check_free(wire::NO_FID), Err(Errno::EBADF));
        assert_eq!(table.check_free(8), Ok(()));
        for number in 0..limits::P9_FIDS as u32 {
            table.insert(number, fid(u64::from(number), None));
        }
        assert_eq!(table.check_free(limits::P9_FIDS as u32), Err(Errno::ENFILE));
    }

    #[test]
    fn remove_last_fid_of_node_forgets_node() {
        let mut table = FidTable::default();
        table.insert(1, fid(5, None));
        table.insert(2, fid(5, None));
        table.remove(1).unwrap();
        assert!(table.has_node(NodeId(5)));
        table.remove(2).unwrap();
        assert!(!table.has_node(NodeId(5)));
        assert!(table.remove(2).is_none());
    }

    #[test]
    fn insert_over_used_number_returns_old_fid() {
        let mut table = FidTable::default();
        table.insert(1, fid(5, None));
        assert_eq!(table.insert(1, fid(6, None)).unwrap().node, NodeId(5));
        assert!(!table.has_node(NodeId(5)));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn relink_changes_only_fids_with_that_entry() {
        let mut table = FidTable::default();
        table.insert(1, fid(5, Some((1, b"a"))));
        table.insert(2, fid(5, Some((1, b"b"))));
        table.insert(3, fid(6, Some((1, b"a"))));
        assert_eq!(table.relink(NodeId(5), (NodeId(1), b"a"), (NodeId(2), b"c")), 1);
        let link = |number| table.get(number).unwrap().link.clone().unwrap();
        assert_eq!(link(1), Link { dir: NodeId(2), name: (*b"c").into() });
        assert_eq!(&*link(2).name, b"b");
        assert_eq!(&*link(3).name, b"a");
    }
}
