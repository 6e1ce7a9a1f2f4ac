//! POSIX byte range locks (fcntl F_SETLK, F_GETLK).
//!
//! An owner is a process of a client. Its own locks never stand in its way: a new one replaces what
//! it covers, and an unlock may cut one in two. Nobody waits here; a client that wants to wait asks
//! again.

use std::collections::HashMap;
use std::sync::Arc;

use super::errno::Errno;
use super::fs::NodeId;
use crate::limits;

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockOwner {
    /// Process in the guest.
    pub proc_id: u32,
    /// Name the client gave itself.
    pub client_id: Arc<[u8]>,
}

/// A locked range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Holder.
    pub owner: LockOwner,
    /// Write lock; nobody else may have a lock there.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Last byte; u64::MAX = to the end of the file, wherever that is.
    pub last: u64,
    /// Fid through which it was taken; with it, it goes. `None` after a restore.
    pub fid: Option<u32>,
}

impl Lock {
    /// Length as the protocol has it: 0 = to the end.
    pub fn length(&self) -> u64 {
        if self.last == u64::MAX { 0 } else { self.last.wrapping_sub(self.start).wrapping_add(1) }
    }

    fn overlaps(&self, start: u64, last: u64) -> bool {
        self.start <= last && start <= self.last
    }

    fn conflicts(&self, owner: &LockOwner, exclusive: bool, start: u64, last: u64) -> bool {
        self.overlaps(start, last) && self.owner != *owner && (self.exclusive || exclusive)
    }
}

/// Last byte of a range; length 0 = to the end. A range beyond the end of the number space is
/// EINVAL.
pub fn last_byte(start: u64, length: u64) -> Result<u64, Errno> {
    match length.checked_sub(1) {
        None => Ok(u64::MAX),
        Some(more) => start.checked_add(more).ok_or(Errno::EINVAL),
    }
}

/// All locks of a session.
#[derive(Debug, Default)]
pub struct LockTable {
    /// Per file, sorted by start.
    files: HashMap<NodeId, Vec<Lock>>,
    count: usize,
}

impl LockTable {
    /// The first lock that stands in the way of this one.
    pub fn conflict(
        &self,
        node: NodeId,
        owner: &LockOwner,
        exclusive: bool,
        start: u64,
        last: u64,
    ) -> Option<&Lock> {
        self.files.get(&node)?.iter().find(|lock| lock.conflicts(owner, exclusive, start, last))
    }

    /// Takes a lock; false if somebody else's is in the way. ENOLCK if there are too many.
    pub fn lock(&mut self, node: NodeId, new: Lock) -> Result<bool, Errno> {
        if self.conflict(node, &new.owner, new.exclusive, new.start, new.last).is_some() {
            return Ok(false);
        }
        // Replacing can cut one lock in two and adds one.
        if self.count.saturating_add(2) > limits::P9_LOCKS {
            return Err(Errno::ENOLCK);
        }
        self.unlock(node, &new.owner, new.start, new.last)?;
        let locks = self.files.entry(node).or_default();
        let before = locks.len();
        let mut new = new;
        locks.retain(|lock| {
            // Restored locks may have come through different fids.
            let same_fid = lock.fid == new.fid && new.fid.is_some();
            let same = lock.owner == new.owner && lock.exclusive == new.exclusive && same_fid;
            // What overlapped has been cut away; what is left can only touch.
            let touches =
                lock.last.checked_add(1) == Some(new.start) || new.last.checked_add(1) == Some(lock.start);
            if same && touches {
                new.start = new.start.min(lock.start);
                new.last = new.last.max(lock.last);
            }
            !(same && touches)
        });
        let at = locks.partition_point(|lock| lock.start <= new.start);
        locks.insert(at, new);
        let after = locks.len();
        self.recount(before, after);
        Ok(true)
    }

    /// Gives back whatever `owner` has in the range. ENOLCK if that would make too many pieces.
    pub fn unlock(&mut self, node: NodeId, owner: &LockOwner, start: u64, last: u64) -> Result<(), Errno> {
        let Some(locks) = self.files.get_mut(&node) else { return Ok(()) };
        let before = locks.len();
        let split = |lock: &Lock| lock.owner == *owner && lock.start < start && last < lock.last;
        if self.count >= limits::P9_LOCKS && locks.iter().any(split) {
            return Err(Errno::ENOLCK);
        }
        let mut tail = None;
        locks.retain_mut(|lock| {
            if lock.owner != *owner || !lock.overlaps(start, last) {
                return true;
            }
            if last < lock.last {
                let rest = Lock { start: last.saturating_add(1), ..lock.clone() };
                if lock.start >= start {
                    *lock = rest;
                    return true;
                }
                tail = Some(rest);
            }
            lock.last = start.saturating_sub(1);
            lock.start < start
        });
        locks.extend(tail);
        locks.sort_by_key(|lock| lock.start);
        let after = locks.len();
        if after == 0 {
            self.files.remove(&node);
        }
        self.recount(before, after);
        Ok(())
    }

    /// Drops the locks taken through a fid.
    pub fn release_fid(&mut self, node: NodeId, fid: u32) {
        self.retain(node, |lock| lock.fid != Some(fid));
    }

    /// Drops all locks of a file.
    pub fn release_node(&mut self, node: NodeId) {
        self.retain(node, |_| false);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.files.clear();
        self.count = 0;
    }

    /// Number of locks.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All locks by file and start.
    pub fn all(&self) -> Vec<(NodeId, &Lock)> {
        let mut nodes: Vec<_> = self.files.iter().collect();
        nodes.sort_by_key(|(node, _)| **node);
        nodes.into_iter().flat_map(|(node, locks)| locks.iter().map(|lock| (*node, lock))).collect()
    }

    fn retain(&mut self, node: NodeId, keep: impl FnMut(&Lock) -> bool) {
        let Some(locks) = self.files.get_mut(&node) else { return };
        let before = locks.len();
        locks.retain(keep);
        let after = locks.len();
        if after == 0 {
            self.files.remove(&node);
        }
        self.recount(before, after);
    }

    fn recount(&mut self, before: usize, after: usize) {
        self.count = self.count.saturating_add(after).saturating_sub(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: NodeId = NodeId(1);

    fn owner(proc_id: u32) -> LockOwner {
        LockOwner { proc_id, client_id: Arc::from(&b"guest"[..]) }
    }

    fn lock(proc_id: u32, exclusive: bool, start: u64, last: u64) -> Lock {
        Lock { owner: owner(proc_id), exclusive, start, last, fid: Some(proc_id) }
    }

    fn ranges(table: &LockTable) -> Vec<(u64, u64)> {
        table.all().iter().map(|(_, lock)| (lock.start, lock.last)).collect()
    }

    #[test]
    fn lock_overlapping_exclusive_of_other_owner_is_refused() {
        let mut table = LockTable::default();
        assert_eq!(table.lock(FILE, lock(1, true, 10, 19)), Ok(true));
        assert_eq!(table.lock(FILE, lock(2, false, 19, 30)), Ok(false));
        assert_eq!(table.lock(FILE, lock(2, false, 20, 30)), Ok(true));
        assert_eq!(table.lock(NodeId(2), lock(2, false, 10, 19)), Ok(true));
    }

    #[test]
    fn locks_that_touch_are_one_only_if_they_came_through_the_same_fid() {
        let pair = |fids: [Option<u32>; 2]| {
            let mut table = LockTable::default();
            for (fid, start) in fids.into_iter().zip([0, 10]) {
                table.lock(FILE, Lock { fid, ..lock(1, false, start, start + 9) }).unwrap();
            }
            ranges(&table)
        };
        assert_eq!(pair([Some(1), Some(1)]), [(0, 19)]);
        assert_eq!(pair([Some(1), Some(2)]), [(0, 9), (10, 19)]);
        assert_eq!(pair([None, None]), [(0, 9), (10, 19)], "restored: not known");
    }

    #[test]
    fn lock_shared_by_two_owners_is_granted_but_not_upgraded() {
        let mut table = LockTable::default();
        assert_eq!(table.lock(FILE, lock(1, false, 0, u64::MAX)), Ok(true));
        assert_eq!(table.lock(FILE, lock(2, false, 5, 6)), Ok(true));
        assert_eq!(table.lock(FILE, lock(1, true, 0, 9)), Ok(false));
        assert_eq!(table.conflict(FILE, &owner(1), true, 0, 9).unwrap().owner, owner(2));
    }

    #[test]
    fn unlock_in_the_middle_cuts_lock_in_two() {
        let mut table = LockTable::default();
        table.lock(FILE, lock(1, true, 0, u64::MAX)).unwrap();
        table.unlock(FILE, &owner(1), 10, 19).unwrap();
        assert_eq!(ranges(&table), [(0, 9), (20, u64::MAX)]);
        assert_eq!(table.len(), 2);
        assert_eq!(table.all()[1].1.length(), 0);
        assert_eq!(table.all()[0].1.length(), 10);
    }

    #[test]
    fn lock_next_to_own_lock_is_merged() {
        let mut table = LockTable::default();
        table.lock(FILE, lock(1, true, 0, 9)).unwrap();
        table.lock(FILE, lock(1, true, 20, 29)).unwrap();
        table.lock(FILE, lock(1, true, 10, 19)).unwrap();
        assert_eq!(ranges(&table), [(0, 29)]);
        table.lock(FILE, lock(1, false, 5, 6)).unwrap();
        assert_eq!(ranges(&table), [(0, 4), (5, 6), (7, 29)]);
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn release_fid_drops_only_its_locks() {
        let mut table = LockTable::default();
        table.lock(FILE, lock(1, true, 0, 9)).unwrap();
        table.lock(FILE, lock(2, true, 20, 29)).unwrap();
        table.release_fid(FILE, 1);
        assert_eq!(ranges(&table), [(20, 29)]);
        table.release_node(FILE);
        assert!(table.is_empty());
    }

    #[test]
    fn lock_beyond_limit_is_enolck() {
        let mut table = LockTable::default();
        let mut file = 0;
        while table.lock(NodeId(file), lock(1, true, 10, 19)) == Ok(true) {
            file += 1;
        }
        assert_eq!(table.lock(NodeId(file), lock(1, true, 0, 0)), Err(Errno::ENOLCK));
        assert_eq!(table.len(), limits::P9_LOCKS - 1);
        table.unlock(NodeId(0), &owner(1), 12, 13).unwrap();
        assert_eq!(table.unlock(NodeId(1), &owner(1), 12, 13), Err(Errno::ENOLCK));
        assert_eq!(table.unlock(NodeId(1), &owner(1), 0, 13), Ok(()));
        assert_eq!(table.len(), limits::P9_LOCKS);
    }

    #[test]
    fn last_byte_of_range_beyond_number_space_is_einval() {
        assert_eq!(last_byte(5, 0), Ok(u64::MAX));
        assert_eq!(last_byte(5, 1), Ok(5));
        assert_eq!(last_byte(u64::MAX, 1), Ok(u64::MAX));
        assert_eq!(last_byte(u64::MAX, 2), Err(Errno::EINVAL));
    }

    proptest! {
        /// Against one lock state per byte and owner.
        #[test]
        fn lock_table_random_operations_match_model(
            ops in proptest::collection::vec((0u32..3, 0u8..3, 0u64..24, 0u64..24), 1..80)
        ) {
            let mut table = LockTable::default();
            let mut model = [[None::<bool>; 24]; 3];
            for (who, kind, a, b) in ops {
                let (start, last) = (a.min(b), a.max(b));
                let range = start as usize..=last as usize;
                if kind == 2 {
                    table.unlock(FILE, &owner(who), start, last).unwrap();
                    model[who as usize][range].fill(None);
                } else {
                    let exclusive = kind == 1;
                    let free = (0..3).filter(|other| *other != who as usize).all(|other| {
                        model[other][range.clone()].iter().all(|l| !matches!((l, exclusive), (Some(true), _) | (Some(_), true)))
                    });
                    prop_assert_eq!(table.lock(FILE, lock(who, exclusive, start, last)).unwrap(), free);
                    if free {
                        model[who as usize][range].fill(Some(exclusive));
                    }
                }
                let mut seen = [[None::<bool>; 24]; 3];
                let mut previous = 0;
                for (_, lock) in table.all() {
                    prop_assert!(lock.start >= previous && lock.start <= lock.last);
                    previous = lock.start;
                    for byte in lock.start..=lock.last {
                        let cell = &mut seen[lock.owner.proc_id as usize][byte as usize];
                        prop_assert!(cell.is_none());
                        *cell = Some(lock.exclusive);
                    }
                }
                prop_assert_eq!(seen, model);
                prop_assert_eq!(table.len(), table.all().len());
            }
        }
    }
}
