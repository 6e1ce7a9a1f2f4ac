//! All directories of a machine, behind one server or one each.

use emu_devices::p9::fs::{
    Attr, DirEntry, Entry, Filesystem, Handle, NodeId, OpenFlags, Owner, Qid, Result, SetAttr, StatFs,
};
use emu_devices::p9::{Errno, Server};
use emu_devices::virtio::P9Handler;

use super::server::Shares;
use super::spec::{Mode, Spec};
use super::{ShareError, scan, union::Union};
use crate::descriptors;
use crate::fs::cache::Warn;
use crate::limits;

/// Numbers of nodes and handles of overlay *n* have this bit and *n* above [`INNER`]. Those of directories that
/// are the host's count from zero and never get there.
const OVERLAID: u64 = 1 << 63;

/// Bits of a number that are the overlay's own.
const INNER: u32 = 48;

/// Where an overlay's number is in identifications: above what inodes and devices use ([`super::nodes`]).
const NUMBER: u32 = 56;

/// Directories of the host: the root has one directory for each, called "0", "1" and so on.
pub struct Mounts {
    shares: Shares,
    /// By number of the directory.
    overlays: Vec<Option<Box<dyn Filesystem>>>,
    /// By number: overlays whose writes are kept. They are opened when a guest comes for them, because a guest
    /// without a driver gets them from another server.
    kept: Vec<Option<Spec>>,
}

/// A server for one directory, which is its root.
///
/// # Errors
/// It cannot be opened.
pub fn alone(spec: &Spec, warn: Warn) -> std::result::Result<Box<dyn P9Handler>, ShareError> {
    let files = match overlay(spec, || warn)? {
        Some(overlay) => overlay,
        None => Box::new(Shares::alone(spec)?),
    };
    Ok(Box::new(Server::new(files)))
}

/// Whether both keep their writes in one directory.
fn same_writes(one: &Mode, other: &Mode) -> bool {
    let (Mode::OverlayIn(one), Mode::OverlayIn(other)) = (one, other) else { return false };
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// What serves an overlay; `None` for the other modes.
fn overlay(
    spec: &Spec,
    warn: impl FnOnce() -> Warn,
) -> std::result::Result<Option<Box<dyn Filesystem>>, ShareError> {
    Ok(match &spec.mode {
        Mode::Overlay => Some(Box::new(scan::overlay(spec, warn())?)),
        Mode::OverlayIn(upper) => {
            descriptors::raise_by(limits::SHARE_HANDLES + 2 * limits::SHARE_DESCRIPTORS);
            Some(Box::new(Union::open(spec, upper)?))
        }
        Mode::ReadOnly | Mode::ReadWrite => None,
    })
}

impl Mounts {
    /// Opens the directories. `warn` makes what takes messages for the user.
    ///
    /// # Errors
    /// One cannot be opened.
    pub fn open(specs: &[Spec], warn: impl Fn() -> Warn) -> std::result::Result<Self, ShareError> {
        // Overlaid ones are there too, so that the others have their numbers; nobody gets to see them.
        let shares = Shares::open(specs)?;
        let (mut overlays, mut kept) = (Vec::new(), Vec::new());
        for spec in specs {
            let overlay = overlay(spec, &warn)?;
            let later = matches!(spec.mode, Mode::OverlayIn(_));
            overlays.push(overlay.filter(|_| !later));
            kept.push(later.then(|| spec.clone()));
        }
        // The first of two with the same directory has been closed again by now.
        for (number, one) in specs.iter().enumerate() {
            if let Mode::OverlayIn(path) = &one.mode
                && specs.iter().take(number).any(|other| same_writes(&one.mode, &other.mode))
            {
                return Err(ShareError::Busy { path: path.clone() });
            }
        }
        Ok(Self { shares, overlays, kept })
    }

    /// Who has this number, and what it is called there.
    fn part(&mut self, number: u64) -> Result<(&mut dyn Filesystem, u64)> {
        if number & OVERLAID == 0 {
            return Ok((&mut self.shares, number));
        }
        let index = usize::try_from((number & !OVERLAID) >> INNER).unwrap_or(usize::MAX);
        let overlay = self.overlays.get_mut(index).and_then(Option::as_mut).ok_or(Errno::ESTALE)?;
        Ok((&mut **overlay, number & ((1 << INNER) - 1)))
    }

    fn of_node(&mut self, node: NodeId) -> Result<(&mut dyn Filesystem, NodeId)> {
        self.part(node.0).map(|(part, number)| (part, NodeId(number)))
    }

    fn of_handle(&mut self, handle: Handle) -> Result<(&mut dyn Filesystem, Handle)> {
        self.part(handle.0).map(|(part, number)| (part, Handle(number)))
    }
}

/// A number of the same directory as `beside`, from that directory's own.
fn outer(beside: u64, inner: u64) -> u64 {
    if beside & OVERLAID == 0 { inner } else { beside & !((1 << INNER) - 1) | inner }
}

/// The identification of an object of the same directory as `beside`. A client sees all directories as one file
/// system, in which no two objects may have the same.
fn marked(beside: u64, qid: Qid) -> Qid {
    if beside & OVERLAID == 0 {
        return qid;
    }
    let number = (beside & !OVERLAID) >> INNER;
    Qid { path: qid.path ^ (OVERLAID | number << NUMBER), ..qid }
}

fn seen(beside: NodeId, entry: Entry) -> Entry {
    Entry { node: NodeId(outer(beside.0, entry.node.0)), qid: marked(beside.0, entry.qid) }
}

/// Whether both belong to the same directory, as far as can be told here.
fn together(one: NodeId, two: NodeId) -> Result<()> {
    if outer(one.0, 0) == outer(two.0, 0) { Ok(()) } else { Err(Errno::EXDEV) }
}

impl Filesystem for Mounts {
    fn root(&mut self) -> Result<Entry> {
        self.shares.root()
    }

    fn acquire(&mut self, node: NodeId) {
        if let Ok((part, node)) = self.of_node(node) {
            part.acquire(node);
        }
    }

    fn forget(&mut self, node: NodeId) {
        if let Ok((part, node)) = self.of_node(node) {
            part.forget(node);
        }
    }

    fn lookup(&mut self, dir: NodeId, name: &[u8]) -> Result<Entry> {
        let root = self.shares.root()?.node;
        let mut numbers = (0..self.overlays.len()).filter(|_| dir == root);
        let number = numbers.find(|number| number.to_string().as_bytes() == name);
        if let Some(overlay) = number.and_then(|number| self.overlays.get_mut(number)) {
            let kept = number.and_then(|number| self.kept.get(number)?.as_ref());
            if let Some(spec) = kept.filter(|_| overlay.is_none()) {
                *overlay = self::overlay(spec, || Box::new(|_| {})).map_err(|error| match error {
                    ShareError::Busy { .. } => Errno::EBUSY,
                    _ => Errno::EIO,
                })?;
            }
            if let Some(overlay) = overlay {
                let number = number.unwrap_or_default() as u64;
                let entry = overlay.root()?;
                return Ok(seen(NodeId(OVERLAID | number << INNER), entry));
            }
        }
        let (part, inner) = self.of_node(dir)?;
        part.lookup(inner, name).map(|entry| seen(dir, entry))
    }

    fn parent(&mut self, dir: NodeId) -> Result<Entry> {
        let (part, inner) = self.of_node(dir)?;
        part.parent(inner).map(|entry| seen(dir, entry))
    }

    fn getattr(&mut self, node: NodeId) -> Result<Attr> {
        let (part, inner) = self.of_node(node)?;
        let attr = part.getattr(inner)?;
        Ok(Attr { qid: marked(node.0, attr.qid), ..attr })
    }

    fn setattr(&mut self, node: NodeId, set: &SetAttr) -> Result<()> {
        let (part, node) = self.of_node(node)?;
        part.setattr(node, set)
    }

    fn readlink(&mut self, node: NodeId) -> Result<Vec<u8>> {
        let (part, node) = self.of_node(node)?;
        part.readlink(node)
    }

    fn open(&mut self, node: NodeId, flags: OpenFlags) -> Result<Handle> {
        let (part, inner) = self.of_node(node)?;
        part.open(inner, flags).map(|handle| Handle(outer(node.0, handle.0)))
    }

    fn release(&mut self, handle: Handle) {
        if let Ok((part, handle)) = self.of_handle(handle) {
            part.release(handle);
        }
    }

    fn create(
        &mut self,
        dir: NodeId,
        name: &[u8],
        permissions: u32,
        owner: Owner,
        flags: OpenFlags,
    ) -> Result<(Entry, Handle)> {
        let (part, inner) = self.of_node(dir)?;
        let (entry, handle) = part.create(inner, name, permissions, owner, flags)?;
        Ok((seen(dir, entry), Handle(outer(dir.0, handle.0))))
    }

    fn mkdir(&mut self, dir: NodeId, name: &[u8], permissions: u32, owner: Owner) -> Result<Qid> {
        let (part, inner) = self.of_node(dir)?;
        part.mkdir(inner, name, permissions, owner).map(|qid| marked(dir.0, qid))
    }

    fn symlink(&mut self, dir: NodeId, name: &[u8], target: &[u8], owner: Owner) -> Result<Qid> {
        let (part, inner) = self.of_node(dir)?;
        part.symlink(inner, name, target, owner).map(|qid| marked(dir.0, qid))
    }

    fn mknod(&mut self, dir: NodeId, name: &[u8], mode: u32, rdev: (u32, u32), owner: Owner) -> Result<Qid> {
        let (part, inner) = self.of_node(dir)?;
        part.mknod(inner, name, mode, rdev, owner).map(|qid| marked(dir.0, qid))
    }

    fn link(&mut self, node: NodeId, dir: NodeId, name: &[u8]) -> Result<()> {
        together(node, dir)?;
        let (_, node) = self.of_node(node)?;
        let (part, dir) = self.of_node(dir)?;
        part.link(node, dir, name)
    }

    fn unlink(&mut self, dir: NodeId, name: &[u8]) -> Result<()> {
        let (part, dir) = self.of_node(dir)?;
        part.unlink(dir, name)
    }

    fn rmdir(&mut self, dir: NodeId, name: &[u8]) -> Result<()> {
        let (part, dir) = self.of_node(dir)?;
        part.rmdir(dir, name)
    }

    fn rename(&mut self, from: NodeId, old: &[u8], to: NodeId, new: &[u8]) -> Result<()> {
        together(from, to)?;
        let (_, from) = self.of_node(from)?;
        let (part, to) = self.of_node(to)?;
        part.rename(from, old, to, new)
    }

    fn read(&mut self, handle: Handle, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (part, handle) = self.of_handle(handle)?;
        part.read(handle, offset, buf)
    }

    fn write(&mut self, handle: Handle, offset: u64, data: &[u8]) -> Result<usize> {
        let (part, handle) = self.of_handle(handle)?;
        part.write(handle, offset, data)
    }

    fn fsync(&mut self, handle: Handle, datasync: bool) -> Result<()> {
        let (part, handle) = self.of_handle(handle)?;
        part.fsync(handle, datasync)
    }

    fn readdir(
        &mut self,
        handle: Handle,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let (part, inner) = self.of_handle(handle)?;
        part.readdir(inner, cookie, &mut |entry| {
            emit(&DirEntry { qid: marked(handle.0, entry.qid), ..*entry })
        })
    }

    fn statfs(&mut self) -> Result<StatFs> {
        self.shares.statfs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use emu_devices::p9::fs::Access;
    use std::fs;

    const OWNER: Owner = Owner { uid: Some(0), gid: 0 };

    fn flags(access: Access) -> OpenFlags {
        OpenFlags { access, truncate: false, directory: false, append: false }
    }

    fn contents(files: &mut Mounts, dir: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        let node = files.lookup(dir, name)?.node;
        let handle = files.open(node, flags(Access::Read))?;
        let mut bytes = vec![0; 100];
        let count = files.read(handle, 0, &mut bytes)?;
        bytes.truncate(count);
        files.release(handle);
        Ok(bytes)
    }

    #[test]
    fn overlay_takes_writes_and_the_host_keeps_what_it_had() {
        let base = tempfile::tempdir().unwrap();
        for name in ["plain", "over"] {
            let dir = base.path().join(name);
            fs::create_dir_all(dir.join("sub")).unwrap();
            fs::write(dir.join("sub/file"), name).unwrap();
            std::os::unix::fs::symlink("/etc", dir.join("link")).unwrap();
        }
        let spec = |name: &str, mode| Spec { host: base.path().join(name), guest: "/m".into(), mode };
        let specs = [spec("plain", Mode::ReadWrite), spec("over", Mode::Overlay)];
        let mut files = Mounts::open(&specs, || Box::new(|_| {})).unwrap();
        let root = files.root().unwrap().node;
        let [plain, over] = [b"0", b"1"].map(|name| files.lookup(root, name).unwrap().node);
        for (top, name) in [(plain, "plain"), (over, "over")] {
            let sub = files.lookup(top, b"sub").unwrap().node;
            assert_eq!(contents(&mut files, sub, b"file").unwrap(), name.as_bytes());
            let link = files.lookup(top, b"link").unwrap().node;
            assert_eq!(files.readlink(link).unwrap(), b"/etc");
            let node = files.lookup(sub, b"file").unwrap().node;
            let handle = files.open(node, flags(Access::Write)).unwrap();
            files.write(handle, 0, b"CHANGED").unwrap();
            files.release(handle);
            files.rename(sub, b"file", top, b"moved").unwrap();
            assert_eq!(contents(&mut files, top, b"moved").unwrap(), b"CHANGED");
            files.mkdir(top, b"new", 0o755, OWNER).unwrap();
            let (_, handle) = files.create(top, b"made", 0o644, OWNER, flags(Access::Write)).unwrap();
            files.release(handle);
        }
        assert_eq!(fs::read(base.path().join("plain/moved")).unwrap(), b"CHANGED");
        assert_eq!(fs::read(base.path().join("over/sub/file")).unwrap(), b"over");
        assert_eq!(fs::read_dir(base.path().join("over")).unwrap().count(), 2);
        // Nothing moves from one to the other.
        assert_eq!(files.rename(plain, b"moved", over, b"x"), Err(Errno::EXDEV));
        let node = files.lookup(plain, b"moved").unwrap().node;
        assert_eq!(files.link(node, over, b"x"), Err(Errno::EXDEV));
        assert_eq!(files.parent(over).unwrap().node, over);
    }

    #[test]
    fn overlay_reads_nothing_through_a_name_that_was_swapped() {
        let base = tempfile::tempdir().unwrap();
        let (inside, outside) = (base.path().join("in"), base.path().join("out"));
        for dir in [&inside, &outside] {
            fs::create_dir_all(dir.join("sub")).unwrap();
        }
        for file in ["sub/a", "b"] {
            fs::write(inside.join(file), "good").unwrap();
            fs::write(outside.join(file), "evil").unwrap();
        }
        let spec = Spec { host: inside.clone(), guest: "/m".into(), mode: Mode::Overlay };
        let mut files = Mounts::open(&[spec], || Box::new(|_| {})).unwrap();
        let root = files.root().unwrap().node;
        let top = files.lookup(root, b"0").unwrap().node;
        let sub = files.lookup(top, b"sub").unwrap().node;
        fs::remove_dir_all(inside.join("sub")).unwrap();
        fs::remove_file(inside.join("b")).unwrap();
        std::os::unix::fs::symlink(outside.join("sub"), inside.join("sub")).unwrap();
        std::os::unix::fs::symlink(outside.join("b"), inside.join("b")).unwrap();
        assert!(contents(&mut files, sub, b"a").is_err());
        assert!(contents(&mut files, top, b"b").is_err());
        // Not the inode that was there either.
        fs::remove_file(inside.join("b")).unwrap();
        fs::hard_link(outside.join("b"), inside.join("b")).unwrap();
        assert!(contents(&mut files, top, b"b").is_err());
    }

    #[test]
    fn server_alone_has_the_directory_as_its_root() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("file"), "x").unwrap();
        let spec = Spec { host: base.path().into(), guest: "/m".into(), mode: Mode::ReadWrite };
        let mut files = Shares::alone(&spec).unwrap();
        let root = files.root().unwrap().node;
        files.lookup(root, b"file").unwrap();
        assert_eq!(files.parent(root).unwrap().node, root);
        let mut names = Vec::new();
        let handle = files.open(root, flags(Access::Read)).unwrap();
        files
            .readdir(handle, 0, &mut |entry| {
                names.push(entry.name.to_vec());
                true
            })
            .unwrap();
        names.sort();
        assert_eq!(names, [&b"."[..], b"..", b"file"]);
        for mode in [Mode::ReadOnly, Mode::Overlay] {
            alone(&Spec { mode, ..spec.clone() }, Box::new(|_| {})).unwrap();
        }
    }
}
