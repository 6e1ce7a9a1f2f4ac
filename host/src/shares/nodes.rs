//! The objects the guest knows.
//!
//! A node is an inode of the host together with the way it was found: a directory's node and a name. Its
//! descriptor can be closed at any time and opened again that way; that it is still the same object is
//! checked. Only an object that has lost its name while the guest uses it needs to keep its descriptor.
//!
//! Some directories stay known when the guest has given them back: a client that caches no names walks through
//! them with every request. What a name stands for is asked each time all the same.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use emu_devices::p9::Errno;
use emu_devices::p9::fs::{Entry, NodeId, Qid, mode};
use rustix::fs::Stat;

use super::sys::{self, Key, Result};
use crate::limits;

/// An object.
struct Node {
    refs: u64,
    share: usize,
    key: Key,
    /// Type bits of its mode.
    kind: u32,
    /// Where it was found; holds a reference. `None` for the root of a share.
    place: Option<(NodeId, Box<[u8]>)>,
    fd: Option<Arc<OwnedFd>>,
    /// It has no name any more: the descriptor is all there is.
    nameless: bool,
    /// Used since the last look for descriptors to be closed.
    used: bool,
    /// It is among those that rest.
    resting: bool,
}

/// All of them.
pub(super) struct Nodes {
    nodes: HashMap<NodeId, Node>,
    by_key: HashMap<(usize, Key), NodeId>,
    next: u64,
    /// Nodes with a descriptor that may be closed, oldest first.
    order: VecDeque<NodeId>,
    nameless: usize,
    /// Directories that have been given back, oldest first; some may be in use again.
    resting: VecDeque<NodeId>,
    devices: Vec<u64>,
    /// Numbers for inodes that are too large to be one with their device.
    large: HashMap<Key, u64>,
}

/// Bits of a guest inode number that are the host's; above is the device.
const INODE_BITS: u32 = 48;

impl Nodes {
    pub(super) fn new() -> Self {
        Self {
            nodes: HashMap::new(),
            by_key: HashMap::new(),
            next: 1,
            order: VecDeque::new(),
            nameless: 0,
            resting: VecDeque::new(),
            devices: Vec::new(),
            large: HashMap::new(),
        }
    }

    /// Adds the root of a share, which stays for ever.
    pub(super) fn add_root(&mut self, share: usize, fd: OwnedFd, stat: &Stat) -> NodeId {
        self.insert(share, fd, stat, None, true)
    }

    fn insert(
        &mut self,
        share: usize,
        fd: OwnedFd,
        stat: &Stat,
        place: Option<(NodeId, Box<[u8]>)>,
        nameless: bool,
    ) -> NodeId {
        let id = NodeId(self.next);
        self.next += 1;
        let key = Key::of(stat);
        let kind = stat.st_mode & mode::TYPE;
        let fd = Some(Arc::new(fd));
        self.nodes
            .insert(id, Node { refs: 1, share, key, kind, place, fd, nameless, used: true, resting: false });
        self.by_key.insert((share, key), id);
        if nameless {
            self.nameless += 1;
        } else {
            self.order.push_back(id);
            self.close_some();
        }
        id
    }

    fn get(&self, id: NodeId) -> Result<&Node> {
        self.nodes.get(&id).ok_or(Errno::ESTALE)
    }

    /// Type bits of the mode.
    pub(super) fn kind(&self, id: NodeId) -> Result<u32> {
        self.get(id).map(|node| node.kind)
    }

    /// The share it belongs to.
    pub(super) fn share(&self, id: NodeId) -> Result<usize> {
        self.get(id).map(|node| node.share)
    }

    pub(super) fn acquire(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.refs += 1;
        }
    }

    pub(super) fn forget(&mut self, id: NodeId) {
        let mut next = Some(id);
        // A node that goes gives back its directory, and so on.
        while let Some(id) = next.take() {
            let Some(node) = self.nodes.get_mut(&id) else { return };
            node.refs = node.refs.saturating_sub(1);
            if node.refs > 0 {
                return;
            }
            next =
                if node.kind == mode::DIRECTORY && !node.nameless { self.rest(id) } else { self.remove(id) };
        }
    }

    /// Lets a directory that nobody holds stay for a while. Gives what is to be given back for it.
    fn rest(&mut self, id: NodeId) -> Option<NodeId> {
        let node = self.nodes.get_mut(&id)?;
        if node.resting {
            return None;
        }
        node.resting = true;
        self.resting.push_back(id);
        if self.resting.len() <= limits::SHARE_RESTING {
            return None;
        }
        let oldest = self.resting.pop_front()?;
        let node = self.nodes.get_mut(&oldest)?;
        node.resting = false;
        if node.refs == 0 { self.remove(oldest) } else { None }
    }

    /// Removes a node that nobody holds. Gives the directory to be given back for it.
    fn remove(&mut self, id: NodeId) -> Option<NodeId> {
        let node = self.nodes.remove(&id)?;
        self.nameless -= usize::from(node.nameless);
        if self.by_key.get(&(node.share, node.key)) == Some(&id) {
            self.by_key.remove(&(node.share, node.key));
        }
        if node.resting {
            self.resting.retain(|other| *other != id);
        }
        node.place.map(|(dir, _)| dir)
    }

    /// A descriptor of the object, opened again if need be. ESTALE if it is not where it was found.
    pub(super) fn fd(&mut self, id: NodeId) -> Result<Arc<OwnedFd>> {
        // Upwards to something open, then down again.
        let mut path = Vec::new();
        let mut at = id;
        let mut fd = loop {
            let node = self.nodes.get_mut(&at).ok_or(Errno::ESTALE)?;
            node.used = true;
            if let Some(fd) = &node.fd {
                break fd.clone();
            }
            let Some((dir, _)) = node.place else { return Err(Errno::ESTALE) };
            path.push(at);
            if path.len() > limits::MAX_SHARE_DEPTH {
                return Err(Errno::ELOOP);
            }
            at = dir;
        };
        for id in path.into_iter().rev() {
            let node = self.get(id)?;
            let Some((_, name)) = &node.place else { return Err(Errno::ESTALE) };
            let (found, stat) = sys::find(fd.as_fd(), name).map_err(|error| match error {
                Errno::ENOENT | Errno::ENOTDIR => Errno::ESTALE,
                other => other,
            })?;
            if Key::of(&stat) != node.key || stat.st_mode & mode::TYPE != node.kind {
                return Err(Errno::ESTALE);
            }
            fd = Arc::new(found);
            if let Some(node) = self.nodes.get_mut(&id) {
                node.fd = Some(fd.clone());
            }
            self.order.push_back(id);
        }
        self.close_some();
        Ok(fd)
    }

    /// Closes descriptors until there are few enough.
    fn close_some(&mut self) {
        while self.order.len() > limits::SHARE_DESCRIPTORS {
            let Some(id) = self.order.pop_front() else { return };
            match self.nodes.get_mut(&id) {
                Some(node) if node.nameless => {}
                Some(node) if node.used => {
                    node.used = false;
                    self.order.push_back(id);
                }
                Some(node) => node.fd = None,
                None => {}
            }
        }
    }

    /// The object called `name` in `dir`.
    pub(super) fn lookup(&mut self, dir: NodeId, name: &[u8]) -> Result<Entry> {
        let share = self.share(dir)?;
        let above = self.fd(dir)?;
        // What is known needs no descriptor now.
        let stat = sys::stat_at(above.as_fd(), name)?;
        if let Some(entry) = self.look_up_known(share, &stat, dir, name)? {
            return Ok(entry);
        }
        let (fd, stat) = sys::find(above.as_fd(), name)?;
        if let Some(entry) = self.look_up_known(share, &stat, dir, name)? {
            return Ok(entry);
        }
        let qid = self.qid(&stat)?;
        if self.nodes.len() >= limits::MAX_SHARE_NODES {
            return Err(Errno::ENFILE);
        }
        self.acquire(dir);
        let id = self.insert(share, fd, &stat, Some((dir, name.into())), false);
        Ok(Entry { node: id, qid })
    }

    /// The node, with a reference, of what was found, if there is one.
    fn look_up_known(
        &mut self,
        share: usize,
        stat: &Stat,
        dir: NodeId,
        name: &[u8],
    ) -> Result<Option<Entry>> {
        let known = self.by_key.get(&(share, Key::of(stat))).copied();
        // An inode number may be in use again for something else.
        let Some(id) = known.filter(|id| self.kind(*id) == Ok(stat.st_mode & mode::TYPE)) else {
            return Ok(None);
        };
        let qid = self.qid(stat)?;
        self.acquire(id);
        self.found_at(id, dir, name);
        Ok(Some(Entry { node: id, qid }))
    }

    /// Notes where a node was found last.
    pub(super) fn found_at(&mut self, id: NodeId, dir: NodeId, name: &[u8]) {
        // Roots have no place, and no directory can be below itself, whatever moves on the host meanwhile.
        let mut at = Some(dir);
        let mut depth = 0;
        while let Some(above) = at {
            depth += 1;
            if above == id || depth > limits::MAX_SHARE_DEPTH {
                return;
            }
            at = self.nodes.get(&above).and_then(|node| node.place.as_ref().map(|(dir, _)| *dir));
        }
        let Some(node) = self.nodes.get(&id).filter(|node| node.place.is_some()) else { return };
        if node.place.as_ref().is_some_and(|(d, n)| *d == dir && **n == *name) {
            return;
        }
        self.acquire(dir);
        let old = self.nodes.get_mut(&id).and_then(|node| node.place.replace((dir, name.into())));
        if let Some((dir, _)) = old {
            self.forget(dir);
        }
    }

    /// What `name` in `dir` stands for is about to lose that name: if the guest uses it, its descriptor has to
    /// last.
    pub(super) fn keep(&mut self, dir: NodeId, name: &[u8]) {
        let (Ok(share), Ok(above)) = (self.share(dir), self.fd(dir)) else { return };
        let Ok(stat) = sys::stat_at(above.as_fd(), name) else { return };
        let Some(id) = self.by_key.get(&(share, Key::of(&stat))).copied() else { return };
        if self.get(id).is_ok_and(|node| node.refs == 0) {
            if let Some(dir) = self.remove(id) {
                self.forget(dir);
            }
            return;
        }
        self.found_at(id, dir, name);
        let open = self.fd(id).is_ok();
        // Beyond the limit such a file becomes stale once others need its descriptor.
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| open && !node.nameless)
            && self.nameless < limits::SHARE_DESCRIPTORS
        {
            node.nameless = true;
            self.nameless += 1;
        }
    }

    /// The node, if there is one, of what `name` in `dir` stands for.
    pub(super) fn known(&mut self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        let share = self.share(dir).ok()?;
        let above = self.fd(dir).ok()?;
        let stat = sys::stat_at(above.as_fd(), name).ok()?;
        self.by_key.get(&(share, Key::of(&stat))).copied()
    }

    /// A node whose name was given to it again, or another one.
    pub(super) fn named(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.nameless && node.place.is_some()) {
            node.nameless = false;
            self.nameless -= 1;
            self.order.push_back(id);
        }
    }

    /// The directory above. ESTALE if the host has moved `dir` meanwhile.
    pub(super) fn parent(&mut self, dir: NodeId) -> Result<NodeId> {
        let Some((above, _)) = self.get(dir)?.place.clone() else { return Ok(dir) };
        let fd = self.fd(dir)?;
        if sys::find_parent(fd.as_fd())? == self.get(above)?.key { Ok(above) } else { Err(Errno::ESTALE) }
    }

    /// The identification of an object: as long as the device has fewer than 2^48 inodes the host's inode
    /// number with a number for the device, else a number of its own.
    pub(super) fn qid(&mut self, stat: &Stat) -> Result<Qid> {
        let key = Key::of(stat);
        let kind = Qid::kind_of(stat.st_mode);
        // Numbers of the host mean the same for the whole run, so a client that remembers them is right.
        self.path(key).map(|path| Qid { kind, version: 0, path })
    }

    /// The guest inode number of an object.
    pub(super) fn path(&mut self, key: Key) -> Result<u64> {
        let device = self.devices.iter().position(|device| *device == key.device);
        let device = device.unwrap_or_else(|| {
            self.devices.push(key.device);
            self.devices.len() - 1
        });
        let device = u64::try_from(device).unwrap_or(u64::MAX);
        let top = u64::MAX >> INODE_BITS;
        if key.inode >> INODE_BITS == 0 && device < top {
            return Ok(device << INODE_BITS | key.inode);
        }
        if let Some(path) = self.large.get(&key) {
            return Ok(*path);
        }
        let count = u64::try_from(self.large.len()).unwrap_or(u64::MAX);
        if self.large.len() >= limits::MAX_SHARE_NODES {
            return Err(Errno::ENFILE);
        }
        let path = top << INODE_BITS | count;
        self.large.insert(key, path);
        Ok(path)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    #[cfg(test)]
    pub(super) fn open_descriptors(&self) -> usize {
        self.nodes.values().filter(|node| node.fd.is_some()).count()
    }
}
