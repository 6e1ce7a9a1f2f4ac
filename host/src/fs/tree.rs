//! Inodes and directories in memory.
//!
//! Here is what makes a tree of them: names, link counts, references, and the rules for removing and
//! renaming. Nothing here knows of the protocol, of content files or of time.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use emu_devices::p9::Errno;
use emu_devices::p9::fs::{Qid, Time, mode};

use super::contents::Contents;

/// Number of an inode. Used again when the inode is gone; `qid_path` is not.
pub type Ino = u32;

/// The root directory.
pub const ROOT: Ino = 0;

/// A name in a directory.
pub type Name = Arc<[u8]>;

/// What an inode without contents costs, in bytes, about.
const INODE_COST: u64 = 320;

/// What a name costs besides its bytes.
const NAME_COST: u64 = 160;

type Result<T> = std::result::Result<T, Errno>;

/// An object.
#[derive(Debug)]
pub struct Inode {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; directories: 2 + sub-directories, 0 when removed.
    pub nlink: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of contents.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// `qid.path`, never used again.
    pub qid_path: u64,
    /// `qid.version`.
    pub qid_version: u32,
    /// References and open handles.
    pub refs: u64,
    /// What depends on the type.
    pub body: Body,
}

impl Inode {
    /// Identification.
    pub fn qid(&self) -> Qid {
        Qid { kind: Qid::kind_of(self.mode), version: self.qid_version, path: self.qid_path }
    }

    /// True for a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    /// Size in bytes, as stat(2) shows it.
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::Directory(dir) => dir.size,
            Body::File(contents) => contents.size(),
            Body::Symlink(target) => target.len() as u64,
            Body::Special(..) => 0,
        }
    }

    /// Bytes of memory in use.
    fn cost(&self) -> u64 {
        INODE_COST
            + match &self.body {
                Body::File(contents) => contents.held(),
                Body::Symlink(target) => target.len() as u64,
                Body::Directory(_) | Body::Special(..) => 0,
            }
    }
}

/// The part of an inode that depends on its type.
#[derive(Debug)]
pub enum Body {
    /// Directory.
    Directory(Box<Directory>),
    /// Regular file.
    File(Contents),
    /// Symbolic link: its target.
    Symlink(Box<[u8]>),
    /// FIFO, socket, device: major and minor number.
    Special(u32, u32),
}

/// Names in order of creation.
#[derive(Debug)]
pub struct Directory {
    /// The directory it is in; itself for the root.
    pub parent: Ino,
    /// Size to be shown.
    pub size: u64,
    names: HashMap<Name, (Ino, u64)>,
    order: BTreeMap<u64, Name>,
    /// Place of the next new name. Places are not used again.
    next: u64,
}

impl Directory {
    /// An empty directory.
    pub fn new(parent: Ino, size: u64) -> Self {
        Self { parent, size, names: HashMap::new(), order: BTreeMap::new(), next: 0 }
    }

    /// The inode of this name.
    pub fn get(&self, name: &[u8]) -> Option<Ino> {
        self.names.get(name).map(|(ino, _)| *ino)
    }

    /// Names from place `from` up to but not including `until`, with their places.
    pub fn range(&self, from: u64, until: u64) -> impl Iterator<Item = (u64, &Name, Ino)> {
        let range = (Bound::Included(from), Bound::Excluded(until.max(from)));
        self.order.range(range).map(|(place, name)| (*place, name, self.get(name).unwrap_or(ROOT)))
    }

    /// All names in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, Ino)> {
        self.range(0, u64::MAX).map(|(_, name, ino)| (name, ino))
    }

    /// Place of the next new name.
    pub fn end(&self) -> u64 {
        self.next
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Fills an empty directory. False if a name is there twice.
    #[must_use]
    fn fill(&mut self, names: Vec<(Name, Ino)>) -> bool {
        let count = names.len();
        self.next = count as u64;
        self.names.reserve(count);
        for (place, (name, ino)) in (0..).zip(&names) {
            self.names.insert(name.clone(), (*ino, place));
        }
        self.order = (0..).zip(names.into_iter().map(|(name, _)| name)).collect();
        self.names.len() == count
    }

    /// Sets what a name stands for; returns what it stood for. The name keeps its place.
    fn set(&mut self, name: &Name, ino: Ino) -> Option<Ino> {
        if let Some((old, _)) = self.names.get_mut(name) {
            return Some(std::mem::replace(old, ino));
        }
        self.names.insert(name.clone(), (ino, self.next));
        self.order.insert(self.next, name.clone());
        self.next += 1;
        None
    }

    /// Places of the names in order.
    pub fn places(&self) -> impl Iterator<Item = u64> {
        self.order.keys().copied()
    }

    /// Puts the names, in the order they have, at other places. False, and nothing has changed, if these
    /// are not as many, do not ascend, or are not all below `next`.
    #[must_use]
    pub fn set_places(&mut self, places: &[u64], next: u64) -> bool {
        let ascending = places.iter().zip(places.iter().skip(1).chain([&next])).all(|(a, b)| a < b);
        if places.len() != self.order.len() || !ascending {
            return false;
        }
        let order = std::mem::take(&mut self.order);
        self.order = places.iter().copied().zip(order.into_values()).collect();
        for (place, name) in &self.order {
            if let Some((_, at)) = self.names.get_mut(name) {
                *at = *place;
            }
        }
        self.next = next;
        true
    }

    fn remove(&mut self, name: &[u8]) -> Option<Ino> {
        let (ino, place) = self.names.remove(name)?;
        self.order.remove(&place);
        Some(ino)
    }
}

/// All inodes.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Option<Inode>>,
    free: Vec<Ino>,
    last_qid: u64,
    cost: u64,
}

impl Tree {
    /// Just a root directory, with `qid_path` 1.
    pub fn new(mode: u32, time: Time) -> Self {
        let mut tree = Self { inodes: Vec::new(), free: Vec::new(), last_qid: 0, cost: 0 };
        let root = Inode {
            mode,
            uid: 0,
            gid: 0,
            nlink: 2,
            atime: time,
            mtime: time,
            ctime: time,
            qid_path: tree.new_qid(),
            qid_version: 0,
            refs: 0,
            body: Body::Directory(Box::new(Directory::new(ROOT, 0))),
        };
        tree.cost = root.cost();
        tree.inodes.push(Some(root));
        tree
    }

    /// The root inode of a tree that has nothing else.
    pub fn into_root(mut self) -> Option<Inode> {
        self.inodes.first_mut().and_then(Option::take)
    }

    /// A tree of these inodes: the first is the root, directories are still empty. The numbers of
    /// missing ones are free.
    pub fn from_inodes(inodes: Vec<Option<Inode>>, last_qid: u64) -> Self {
        let cost = inodes.iter().flatten().map(Inode::cost).sum();
        let free = (0..).zip(&inodes).filter(|(_, inode)| inode.is_none()).map(|(ino, _)| ino).collect();
        Self { inodes, free, last_qid, cost }
    }

    /// An inode; ESTALE if there is none of this number.
    pub fn get(&self, ino: Ino) -> Result<&Inode> {
        self.inodes.get(ino as usize).and_then(Option::as_ref).ok_or(Errno::ESTALE)
    }

    /// An inode to be changed. Contents are changed with [`Tree::with_contents`].
    pub fn get_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        self.inodes.get_mut(ino as usize).and_then(Option::as_mut).ok_or(Errno::ESTALE)
    }

    /// A directory; ENOTDIR for anything else.
    pub fn dir(&self, ino: Ino) -> Result<&Directory> {
        match &self.get(ino)?.body {
            Body::Directory(dir) => Ok(dir),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// A directory to be changed; ENOTDIR for anything else.
    pub fn dir_mut(&mut self, ino: Ino) -> Result<&mut Directory> {
        match &mut self.get_mut(ino)?.body {
            Body::Directory(dir) => Ok(dir),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// What `name` in directory `dir` stands for; ENOENT if it is not there.
    pub fn child(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        self.dir(dir)?.get(name).ok_or(Errno::ENOENT)
    }

    /// Does something to a file's contents and keeps account of their memory.
    pub fn with_contents<T>(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut Contents) -> Result<T>,
    ) -> Result<T> {
        let Body::File(contents) = &mut self.get_mut(ino)?.body else { return Err(Errno::EINVAL) };
        let before = contents.held();
        let outcome = change(contents);
        let after = contents.held();
        self.cost = self.cost + after - before;
        outcome
    }

    /// Bytes of memory in use by inodes, names and contents, about.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// What a new object with this name and `extra` bytes would cost.
    pub fn cost_of_new(name: &[u8], extra: usize) -> u64 {
        INODE_COST + Self::cost_of_name(name) + extra as u64
    }

    /// What another name costs.
    pub fn cost_of_name(name: &[u8]) -> u64 {
        NAME_COST + name.len() as u64
    }

    /// Number of objects.
    pub fn count(&self) -> u64 {
        (self.inodes.len() - self.free.len()) as u64
    }

    /// One more than the largest number in use, ever.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// False: there is a root.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// Last `qid_path` given out.
    pub fn last_qid(&self) -> u64 {
        self.last_qid
    }

    /// A `qid_path` that no object ever had.
    pub fn new_qid(&mut self) -> u64 {
        self.last_qid += 1;
        self.last_qid
    }

    /// Passes over `qid_path`s up to this one.
    pub fn skip_qid(&mut self, last: u64) {
        self.last_qid = self.last_qid.max(last);
    }

    /// Adds an object without a name; its link count is 0 (directories: 2) until it gets one.
    pub fn add(&mut self, inode: Inode) -> Result<Ino> {
        self.cost += inode.cost();
        if let Some(ino) = self.free.pop() {
            self.inodes[ino as usize] = Some(inode);
            return Ok(ino);
        }
        let ino = Ino::try_from(self.inodes.len()).map_err(|_| Errno::ENOSPC)?;
        self.inodes.push(Some(inode));
        Ok(ino)
    }

    /// Checks that a new name can be made: ENOENT if the directory was removed, EEXIST if the name
    /// is taken.
    pub fn check_new(&self, dir: Ino, name: &[u8]) -> Result<()> {
        let has_name = self.dir(dir)?.get(name).is_some();
        if self.get(dir)?.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        if has_name { Err(Errno::EEXIST) } else { Ok(()) }
    }

    /// Gives an object a name that is not taken. A directory must have none yet.
    pub fn attach(&mut self, dir: Ino, name: &[u8], ino: Ino) -> Result<()> {
        self.check_new(dir, name)?;
        if self.get(ino)?.is_directory() {
            self.dir_mut(ino)?.parent = dir;
            self.get_mut(dir)?.nlink += 1;
        } else {
            let inode = self.get_mut(ino)?;
            inode.nlink = inode.nlink.checked_add(1).ok_or(Errno::EMLINK)?;
        }
        self.cost += Self::cost_of_name(name);
        self.dir_mut(dir)?.set(&name.into(), ino);
        Ok(())
    }

    /// Gives all names at once in an empty directory that was not removed. Directories must have none
    /// yet. EEXIST if a name is there twice.
    pub fn attach_all(&mut self, dir: Ino, names: Vec<(Name, Ino)>) -> Result<()> {
        let mut directories = 0;
        for (name, ino) in &names {
            let inode = self.get_mut(*ino)?;
            match &mut inode.body {
                Body::Directory(child) => {
                    child.parent = dir;
                    directories += 1;
                }
                _ => inode.nlink = inode.nlink.checked_add(1).ok_or(Errno::EMLINK)?,
            }
            self.cost += Self::cost_of_name(name);
        }
        self.get_mut(dir)?.nlink += directories;
        if self.dir_mut(dir)?.fill(names) { Ok(()) } else { Err(Errno::EEXIST) }
    }

    /// Takes a name away from whatever has it, which is gone if that was the last and nobody uses it.
    /// Returns it.
    pub fn detach(&mut self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let ino = self.dir_mut(dir)?.remove(name).ok_or(Errno::ENOENT)?;
        self.cost -= Self::cost_of_name(name);
        self.lost_name(dir, ino);
        Ok(ino)
    }

    /// `ino` has lost a name in `dir`.
    fn lost_name(&mut self, dir: Ino, ino: Ino) {
        let Ok(inode) = self.get_mut(ino) else { return };
        if inode.is_directory() {
            inode.nlink = 0;
            if let Ok(parent) = self.get_mut(dir) {
                parent.nlink = parent.nlink.saturating_sub(1);
            }
        } else {
            inode.nlink = inode.nlink.saturating_sub(1);
        }
        self.collect(ino);
    }

    /// Adds a reference.
    pub fn acquire(&mut self, ino: Ino) {
        if let Ok(inode) = self.get_mut(ino) {
            inode.refs += 1;
        }
    }

    /// Gives back a reference.
    pub fn release(&mut self, ino: Ino) {
        if let Ok(inode) = self.get_mut(ino) {
            inode.refs = inode.refs.saturating_sub(1);
            self.collect(ino);
        }
    }

    /// Frees an inode that has neither a name nor a user, and with a directory what is in it.
    fn collect(&mut self, ino: Ino) {
        if self.get(ino).is_ok_and(|inode| inode.nlink > 0 || inode.refs > 0) {
            return;
        }
        let mut gone = vec![ino];
        while let Some(ino) = gone.pop() {
            if ino == ROOT || self.get(ino).is_ok_and(|inode| inode.nlink > 0 || inode.refs > 0) {
                continue;
            }
            let Some(inode) = self.inodes.get_mut(ino as usize).and_then(Option::take) else { continue };
            self.cost -= inode.cost();
            self.free.push(ino);
            // Only a directory whose name was overridden when loading is not empty.
            if let Body::Directory(dir) = inode.body {
                for (name, child) in dir.iter() {
                    self.cost -= Self::cost_of_name(name);
                    if let Ok(child) = self.get_mut(child) {
                        child.nlink = if child.is_directory() { 0 } else { child.nlink.saturating_sub(1) };
                    }
                    gone.push(child);
                }
            }
        }
    }

    /// Removes the name of anything but a directory.
    pub fn unlink(&mut self, dir: Ino, name: &[u8]) -> Result<Ino> {
        if self.get(self.child(dir, name)?)?.is_directory() {
            return Err(Errno::EISDIR);
        }
        self.detach(dir, name)
    }

    /// Removes an empty directory.
    pub fn rmdir(&mut self, dir: Ino, name: &[u8]) -> Result<Ino> {
        if !self.dir(self.child(dir, name)?)?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.detach(dir, name)
    }

    /// Renames, as rename(2). Returns what was renamed and what it replaced; `None` if both names
    /// are the same object's, in which case nothing happens.
    pub fn rename(
        &mut self,
        from: Ino,
        old: &[u8],
        to: Ino,
        new: &[u8],
    ) -> Result<Option<(Ino, Option<Ino>)>> {
        let ino = self.child(from, old)?;
        let is_dir = self.get(ino)?.is_directory();
        let target = self.dir(to)?.get(new);
        if self.get(to)?.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        if target == Some(ino) {
            return Ok(None);
        }
        if is_dir && self.is_inside(to, ino)? {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = target {
            match (is_dir, &self.get(target)?.body) {
                (false, Body::Directory(_)) => return Err(Errno::EISDIR),
                (true, Body::Directory(dir)) if !dir.is_empty() => return Err(Errno::ENOTEMPTY),
                (true, Body::Directory(_)) | (false, _) => {}
                (true, _) => return Err(Errno::ENOTDIR),
            }
        }
        self.dir_mut(from)?.remove(old);
        self.cost -= Self::cost_of_name(old);
        self.dir_mut(to)?.set(&new.into(), ino);
        if is_dir {
            self.get_mut(from)?.nlink -= 1;
            self.get_mut(to)?.nlink += 1;
            self.dir_mut(ino)?.parent = to;
        }
        match target {
            Some(target) => self.lost_name(to, target),
            None => self.cost += Self::cost_of_name(new),
        }
        Ok(Some((ino, target)))
    }

    /// Adds a name while loading. Unlike [`Tree::attach`], a later name overrides an earlier one,
    /// which keeps its place but loses its object.
    pub fn load_name(&mut self, dir: Ino, name: &[u8], ino: Ino) -> Result<()> {
        if self.dir(dir)?.get(name).is_none() {
            return self.attach(dir, name, ino);
        }
        if self.get(ino)?.is_directory() {
            self.dir_mut(ino)?.parent = dir;
            self.get_mut(dir)?.nlink += 1;
        } else {
            self.get_mut(ino)?.nlink += 1;
        }
        if let Some(old) = self.dir_mut(dir)?.set(&name.into(), ino) {
            self.lost_name(dir, old);
        }
        Ok(())
    }

    /// Frees everything without a name and a user except what is to be kept.
    pub fn sweep(&mut self, keep: impl Fn(Ino) -> bool) {
        for ino in (0..).take(self.inodes.len()) {
            if !keep(ino) {
                self.collect(ino);
            }
        }
    }

    /// True if `dir` is `above` or somewhere in it.
    fn is_inside(&self, dir: Ino, above: Ino) -> Result<bool> {
        let mut at = dir;
        while at != above {
            if at == ROOT {
                return Ok(false);
            }
            at = self.dir(at)?.parent;
        }
        Ok(true)
    }
}

/// True for a mode whose type bits fit the body.
pub fn mode_fits(stored: u32, body: &Body) -> bool {
    let kind = stored & mode::TYPE;
    match body {
        Body::Directory(_) => kind == mode::DIRECTORY,
        Body::File(_) => kind == mode::REGULAR,
        Body::Symlink(_) => kind == mode::SYMLINK,
        Body::Special(..) => {
            matches!(kind, mode::FIFO | mode::CHAR_DEVICE | mode::BLOCK_DEVICE | mode::SOCKET)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        Tree::new(mode::DIRECTORY | 0o755, Time::default())
    }

    fn make(tree: &mut Tree, dir: Ino, name: &str, is_dir: bool) -> Ino {
        let (mode, nlink, body) = if is_dir {
            (mode::DIRECTORY, 2, Body::Directory(Box::new(Directory::new(dir, 0))))
        } else {
            (mode::REGULAR, 0, Body::File(Contents::default()))
        };
        let time = Time::default();
        let qid_path = tree.new_qid();
        let inode = Inode {
            mode,
            uid: 0,
            gid: 0,
            nlink,
            atime: time,
            mtime: time,
            ctime: time,
            qid_path,
            qid_version: 0,
            refs: 0,
            body,
        };
        let ino = tree.add(inode).unwrap();
        tree.attach(dir, name.as_bytes(), ino).unwrap();
        ino
    }

    fn names(tree: &Tree, dir: Ino) -> Vec<String> {
        tree.dir(dir).unwrap().iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[test]
    fn detach_last_name_frees_inode_unless_in_use() {
        let mut tree = tree();
        let empty = tree.cost();
        let a = make(&mut tree, ROOT, "a", false);
        let b = make(&mut tree, ROOT, "b", false);
        tree.acquire(b);
        tree.unlink(ROOT, b"a").unwrap();
        tree.unlink(ROOT, b"b").unwrap();
        assert_eq!(tree.get(a).unwrap_err(), Errno::ESTALE);
        assert_eq!(tree.get(b).unwrap().nlink, 0);
        tree.release(b);
        assert_eq!((tree.count(), tree.cost()), (1, empty));
        assert_eq!(make(&mut tree, ROOT, "c", false), b, "numbers are used again");
        assert_eq!(tree.get(b).unwrap().qid_path, 4, "identities are not");
    }

    #[test]
    fn attach_second_name_keeps_file() {
        let mut tree = tree();
        let a = make(&mut tree, ROOT, "a", false);
        tree.attach(ROOT, b"b", a).unwrap();
        assert_eq!(tree.attach(ROOT, b"b", a), Err(Errno::EEXIST));
        tree.unlink(ROOT, b"a").unwrap();
        assert_eq!((tree.get(a).unwrap().nlink, tree.child(ROOT, b"b")), (1, Ok(a)));
    }

    #[test]
    fn removed_directory_takes_no_new_names() {
        let mut tree = tree();
        let d = make(&mut tree, ROOT, "d", true);
        let f = make(&mut tree, ROOT, "f", false);
        tree.acquire(d);
        tree.rmdir(ROOT, b"d").unwrap();
        assert_eq!(tree.get(ROOT).unwrap().nlink, 2);
        assert_eq!(tree.attach(d, b"x", f), Err(Errno::ENOENT));
        assert_eq!(tree.rename(ROOT, b"f", d, b"x"), Err(Errno::ENOENT));
    }

    #[test]
    fn rename_replaces_only_the_same_sort() {
        let mut tree = tree();
        let d = make(&mut tree, ROOT, "d", true);
        let e = make(&mut tree, ROOT, "e", true);
        make(&mut tree, ROOT, "f", false);
        let in_d = make(&mut tree, d, "x", false);
        assert_eq!(tree.rename(ROOT, b"f", ROOT, b"d"), Err(Errno::EISDIR));
        assert_eq!(tree.rename(ROOT, b"d", ROOT, b"f"), Err(Errno::ENOTDIR));
        assert_eq!(tree.rename(ROOT, b"e", ROOT, b"d"), Err(Errno::ENOTEMPTY));
        assert_eq!(tree.rename(ROOT, b"d", ROOT, b"e"), Ok(Some((d, Some(e)))));
        assert_eq!(tree.get(e).unwrap_err(), Errno::ESTALE);
        assert_eq!(tree.rename(d, b"x", ROOT, b"f").unwrap().unwrap().0, in_d);
        assert_eq!(names(&tree, ROOT), ["e", "f"]);
        assert_eq!(tree.get(ROOT).unwrap().nlink, 3);
    }

    #[test]
    fn rename_into_itself_is_einval() {
        let mut tree = tree();
        let a = make(&mut tree, ROOT, "a", true);
        let b = make(&mut tree, a, "b", true);
        assert_eq!(tree.rename(ROOT, b"a", a, b"c"), Err(Errno::EINVAL));
        assert_eq!(tree.rename(ROOT, b"a", b, b"c"), Err(Errno::EINVAL));
        assert_eq!(tree.rename(ROOT, b"a", ROOT, b"a"), Ok(None));
        assert_eq!(tree.rename(a, b"b", ROOT, b"a"), Err(Errno::ENOTEMPTY));
        assert_eq!(tree.rename(a, b"b", ROOT, b"c").map(|moved| moved.is_some()), Ok(true));
        assert_eq!(tree.dir(b).unwrap().parent, ROOT);
    }

    #[test]
    fn rename_costs_what_the_new_name_costs() {
        let mut tree = tree();
        make(&mut tree, ROOT, "a", false);
        let before = tree.cost();
        tree.rename(ROOT, b"a", ROOT, b"longer").unwrap();
        assert_eq!(tree.cost(), before + 5);
        make(&mut tree, ROOT, "b", false);
        tree.rename(ROOT, b"b", ROOT, b"longer").unwrap();
        assert_eq!(tree.cost(), before + 5);
    }

    #[test]
    fn places_are_kept_by_replacing_and_not_used_again() {
        let mut tree = tree();
        for name in ["a", "b", "c"] {
            make(&mut tree, ROOT, name, false);
        }
        tree.rename(ROOT, b"c", ROOT, b"a").unwrap();
        make(&mut tree, ROOT, "d", false);
        let dir = tree.dir(ROOT).unwrap();
        let places: Vec<_> = dir.range(0, dir.end()).map(|(place, name, _)| (place, name.to_vec())).collect();
        assert_eq!(places, [(0, b"a".to_vec()), (1, b"b".to_vec()), (3, b"d".to_vec())]);
        assert_eq!(dir.range(1, 3).count(), 1);
        assert_eq!(dir.range(9, 3).count(), 0);
    }

    #[test]
    fn load_name_twice_keeps_place_and_drops_earlier_subtree() {
        let mut tree = tree();
        let d = make(&mut tree, ROOT, "d", true);
        make(&mut tree, ROOT, "z", false);
        let before = tree.cost();
        let deep = make(&mut tree, d, "deep", true);
        make(&mut tree, deep, "file", false);
        let time = Time::default();
        let other = Inode {
            mode: mode::REGULAR,
            uid: 0,
            gid: 0,
            nlink: 0,
            atime: time,
            mtime: time,
            ctime: time,
            qid_path: 99,
            qid_version: 0,
            refs: 0,
            body: Body::File(Contents::default()),
        };
        let other = tree.add(other).unwrap();
        tree.load_name(ROOT, b"d", other).unwrap();
        assert_eq!(names(&tree, ROOT), ["d", "z"]);
        assert_eq!((tree.count(), tree.cost()), (3, before));
        assert_eq!((tree.get(ROOT).unwrap().nlink, tree.get(other).unwrap().nlink), (2, 1));
    }
}
