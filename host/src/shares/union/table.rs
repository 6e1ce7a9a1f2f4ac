//! The objects the guest knows, each with its part in either directory.

use std::collections::HashMap;

use emu_devices::p9::Errno;
use emu_devices::p9::fs::{NodeId, Qid, Result};

/// Where an object is. Each number stands for a reference to a node of the shares below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// In the directory that is only read.
    pub(super) lower: Option<NodeId>,
    /// In the directory that has the changes.
    pub(super) upper: Option<NodeId>,
    /// What the guest knows it by; stays the same when it is copied.
    pub(super) qid: Qid,
}

impl Parts {
    /// The part that counts: contents and attributes are this one's.
    pub(super) fn active(&self) -> Result<NodeId> {
        self.upper.or(self.lower).ok_or(Errno::ESTALE)
    }

    /// Whether it is a directory.
    pub(super) fn is_directory(&self) -> bool {
        self.qid.kind == Qid::DIRECTORY
    }

    /// Whether both speak of the same object.
    fn same(&self, other: &Self) -> bool {
        let either = |one: Option<NodeId>, two: Option<NodeId>| one.is_some() && one == two;
        let parts = either(self.lower, other.lower) || either(self.upper, other.upper);
        // A file that was copied on the host meanwhile is another one; a directory that was made is a part.
        parts && (self.is_directory() || (self.lower == other.lower && self.upper == other.upper))
    }
}

/// An object.
struct Node {
    refs: u64,
    parts: Parts,
    /// Directory and name; holds a reference. `None`: the root, or it has lost its name.
    place: Option<(NodeId, Box<[u8]>)>,
    /// Objects in it that the guest knows.
    children: HashMap<Box<[u8]>, NodeId>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Table {
    nodes: HashMap<NodeId, Node>,
    next: u64,
}

impl Table {
    fn get(&self, id: NodeId) -> Result<&Node> {
        self.nodes.get(&id).ok_or(Errno::ESTALE)
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn parts(&self, id: NodeId) -> Result<Parts> {
        self.get(id).map(|node| node.parts)
    }

    /// Directory and name.
    pub(super) fn place(&self, id: NodeId) -> Result<Option<(NodeId, Box<[u8]>)>> {
        self.get(id).map(|node| node.place.clone())
    }

    pub(super) fn child(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        self.nodes.get(&dir)?.children.get(name).copied()
    }

    pub(super) fn set_parts(&mut self, id: NodeId, parts: Parts) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.parts = parts;
        }
    }

    pub(super) fn acquire(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.refs += 1;
        }
    }

    /// Adds an object with one reference.
    pub(super) fn insert(&mut self, place: Option<(NodeId, &[u8])>, parts: Parts) -> NodeId {
        self.next += 1;
        let id = NodeId(self.next);
        self.nodes.insert(id, Node { refs: 1, parts, place: None, children: HashMap::new() });
        if let Some((dir, name)) = place {
            self.attach(id, dir, name);
        }
        id
    }

    /// Gives an object that has none a name.
    pub(super) fn attach(&mut self, id: NodeId, dir: NodeId, name: &[u8]) {
        let Some(above) = self.nodes.get_mut(&dir) else { return };
        above.children.insert(name.into(), id);
        above.refs += 1;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.place = Some((dir, name.into()));
        }
    }

    /// Takes an object's name. Gives the directory, whose reference is the caller's.
    #[must_use]
    pub(super) fn detach(&mut self, id: NodeId) -> Option<NodeId> {
        let (dir, name) = self.nodes.get_mut(&id)?.place.take()?;
        if let Some(above) = self.nodes.get_mut(&dir)
            && above.children.get(&name) == Some(&id)
        {
            above.children.remove(&name);
        }
        Some(dir)
    }

    /// The known object at a place, if it is what was found there.
    pub(super) fn known(&self, dir: NodeId, name: &[u8], found: &Parts) -> Option<NodeId> {
        let id = self.child(dir, name)?;
        self.get(id).is_ok_and(|node| node.parts.same(found)).then_some(id)
    }

    /// Gives back a reference. What goes with the last one: its parts, and the directory to give back next.
    #[must_use]
    pub(super) fn release(&mut self, id: NodeId) -> Option<(Parts, Option<NodeId>)> {
        let node = self.nodes.get_mut(&id)?;
        node.refs = node.refs.saturating_sub(1);
        if node.refs > 0 {
            return None;
        }
        let dir = self.detach(id);
        self.nodes.remove(&id).map(|node| (node.parts, dir))
    }
}
