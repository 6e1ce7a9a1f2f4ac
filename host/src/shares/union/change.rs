//! Copies from the lower to the upper directory, and whiteouts.

use emu_devices::p9::Errno;
use emu_devices::p9::fs::{
    Access, Attr, Filesystem, NodeId, OpenFlags, Owner, Result, SetAttr, SetTime, mode,
};

use super::table::Parts;
use super::{COPY, OPAQUE, Union, reserved, whiteout};
use crate::limits;

/// Bytes copied at once.
const PIECE: usize = 1 << 20;

/// Whiteouts belong to the user.
const ROOT: Owner = Owner { uid: Some(0), gid: 0 };

/// Opens for reading.
pub(super) const READ: OpenFlags =
    OpenFlags { access: Access::Read, truncate: false, directory: false, append: false };
const WRITE: OpenFlags =
    OpenFlags { access: Access::Write, truncate: false, directory: false, append: false };

fn owner(attr: &Attr) -> Owner {
    Owner { uid: Some(attr.uid), gid: attr.gid }
}

fn times(attr: &Attr) -> SetAttr {
    SetAttr {
        atime: Some(SetTime::To(attr.atime)),
        mtime: Some(SetTime::To(attr.mtime)),
        ..SetAttr::default()
    }
}

impl Union {
    /// A node below called `name` with a reference, if there is one.
    fn below(&mut self, dir: Option<NodeId>, name: &[u8]) -> Result<Option<Parts>> {
        let Some(dir) = dir else { return Ok(None) };
        match self.files.lookup(dir, name) {
            Ok(entry) => Ok(Some(Parts { lower: Some(entry.node), upper: None, qid: entry.qid })),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the upper directory `dir` has a name of the overlay's own.
    fn has(&mut self, dir: NodeId, name: &[u8]) -> Result<bool> {
        match self.files.lookup(dir, name) {
            Ok(entry) => {
                self.files.forget(entry.node);
                Ok(true)
            }
            // What has no room for the prefix cannot be hidden.
            Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What `name` in a directory stands for. Its references are the caller's.
    pub(super) fn find(&mut self, dir: NodeId, name: &[u8]) -> Result<Parts> {
        let above = self.table.parts(dir)?;
        if !above.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        if reserved(name) {
            return Err(Errno::ENOENT);
        }
        let upper = self.below(above.upper, name)?;
        let found = self.find_below(above, upper.as_ref(), name);
        match (upper, found) {
            (Some(upper), Ok(Some(lower))) => {
                Ok(Parts { upper: upper.lower, lower: lower.lower, qid: lower.qid })
            }
            (Some(upper), Ok(None)) => Ok(Parts { upper: upper.lower, lower: None, qid: upper.qid }),
            (None, Ok(Some(lower))) => Ok(lower),
            (None, Ok(None)) => Err(Errno::ENOENT),
            (upper, Err(error)) => {
                upper.into_iter().for_each(|parts| self.forget_parts(parts));
                Err(error)
            }
        }
    }

    /// What the lower directory adds to `upper`.
    fn find_below(&mut self, dir: Parts, upper: Option<&Parts>, name: &[u8]) -> Result<Option<Parts>> {
        let hidden = match dir.upper {
            _ if dir.lower.is_none() || upper.is_some_and(|parts| !parts.is_directory()) => true,
            Some(dir) => self.has(dir, &whiteout(name))?,
            None => false,
        };
        if hidden {
            return Ok(None);
        }
        let Some(lower) = self.below(dir.lower, name)? else { return Ok(None) };
        let Some(upper) = upper.and_then(|upper| upper.lower) else { return Ok(Some(lower)) };
        let opaque = if lower.is_directory() { self.has(upper, OPAQUE) } else { Ok(true) };
        if opaque != Ok(false) {
            self.forget_parts(lower);
        }
        opaque.map(|opaque| (!opaque).then_some(lower))
    }

    pub(super) fn forget_parts(&mut self, parts: Parts) {
        [parts.lower, parts.upper].into_iter().flatten().for_each(|node| self.files.forget(node));
    }

    /// The upper part of a directory, made if need be, and those above it.
    pub(super) fn upper_directory(&mut self, dir: NodeId) -> Result<NodeId> {
        let mut path = Vec::new();
        let mut at = dir;
        let mut above = loop {
            let parts = self.table.parts(at)?;
            if !parts.is_directory() {
                return Err(Errno::ENOTDIR);
            }
            if let Some(upper) = parts.upper {
                break upper;
            }
            let Some((above, name)) = self.table.place(at)? else { return Err(Errno::ENOENT) };
            path.push((at, parts, name));
            if path.len() > limits::MAX_SHARE_DEPTH {
                return Err(Errno::ELOOP);
            }
            at = above;
        };
        for (node, parts, name) in path.into_iter().rev() {
            let attr = self.files.getattr(parts.active()?)?;
            match self.files.mkdir(above, &name, attr.mode & mode::PERMISSIONS, owner(&attr)) {
                Ok(_) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error),
            }
            let made = self.files.lookup(above, &name)?;
            if made.qid.kind != parts.qid.kind {
                self.files.forget(made.node);
                return Err(Errno::ESTALE);
            }
            self.files.setattr(made.node, &times(&attr))?;
            self.table.set_parts(node, Parts { upper: Some(made.node), ..parts });
            above = made.node;
        }
        Ok(above)
    }

    /// The upper part of an object, copied if need be; without its `contents` if nobody wants them.
    pub(super) fn upper(&mut self, id: NodeId, contents: bool) -> Result<NodeId> {
        let parts = self.table.parts(id)?;
        if let Some(upper) = parts.upper {
            return Ok(upper);
        }
        if parts.is_directory() {
            return self.upper_directory(id);
        }
        let lower = parts.active()?;
        let (dir, name) = self.table.place(id)?.ok_or(Errno::ENOENT)?;
        let above = self.upper_directory(dir)?;
        let attr = self.files.getattr(lower)?;
        let copy = match attr.mode & mode::TYPE {
            mode::REGULAR => self.copy_file(lower, &attr, above, &name, contents)?,
            mode::SYMLINK => {
                let target = self.files.readlink(lower)?;
                self.files.symlink(above, &name, &target, owner(&attr))?;
                self.files.lookup(above, &name)?.node
            }
            mode::FIFO | mode::SOCKET => {
                self.files.mknod(above, &name, attr.mode, attr.rdev, owner(&attr))?;
                self.files.lookup(above, &name)?.node
            }
            _ => return Err(Errno::EPERM),
        };
        if attr.mode & mode::TYPE != mode::REGULAR {
            self.files.setattr(copy, &times(&attr))?;
        }
        self.table.set_parts(id, Parts { lower: None, upper: Some(copy), ..parts });
        self.reopen(id, copy);
        self.files.forget(lower);
        Ok(copy)
    }

    /// A copy of a file, complete when it has its name.
    fn copy_file(
        &mut self,
        from: NodeId,
        attr: &Attr,
        dir: NodeId,
        name: &[u8],
        contents: bool,
    ) -> Result<NodeId> {
        // Of a run that was killed.
        let _ = self.files.unlink(dir, COPY);
        let (entry, to) = self.files.create(dir, COPY, 0o600, owner(attr), WRITE)?;
        let node = entry.node;
        let filled = if contents { self.copy_contents(from, to, attr.size) } else { Ok(()) };
        let size = if contents { attr.size } else { 0 };
        let whole = SetAttr { size: Some(size), mode: Some(attr.mode & mode::PERMISSIONS), ..times(attr) };
        let done = filled.and_then(|()| self.files.setattr(node, &whole));
        self.files.release(to);
        let done = done.and_then(|()| self.files.rename(dir, COPY, dir, name));
        if let Err(error) = done {
            self.files.forget(node);
            let _ = self.files.unlink(dir, COPY);
            return Err(error);
        }
        Ok(node)
    }

    fn copy_contents(&mut self, from: NodeId, to: emu_devices::p9::fs::Handle, size: u64) -> Result<()> {
        let source = self.files.open(from, READ)?;
        let length = usize::try_from(size).unwrap_or(PIECE).clamp(1, PIECE);
        let mut buffer = vec![0; length];
        let mut at = 0;
        let copied = loop {
            let count = match self.files.read(source, at, &mut buffer) {
                Ok(0) => break Ok(()),
                Ok(count) => count,
                Err(error) => break Err(error),
            };
            let mut piece = buffer.get(..count).unwrap_or_default();
            let mut place = at;
            at = at.saturating_add(count as u64);
            // Holes stay holes.
            if piece.iter().all(|byte| *byte == 0) {
                continue;
            }
            let written = loop {
                if piece.is_empty() {
                    break Ok(());
                }
                match self.files.write(to, place, piece) {
                    Ok(0) => break Err(Errno::EIO),
                    Ok(count) => {
                        place = place.saturating_add(count as u64);
                        piece = piece.get(count..).unwrap_or_default();
                    }
                    Err(error) => break Err(error),
                }
            };
            if written.is_err() {
                break written;
            }
        };
        self.files.release(source);
        copied
    }

    /// What was open for reading is now open in the copy: changes are seen through it.
    fn reopen(&mut self, id: NodeId, copy: NodeId) {
        for open in self.handles.values_mut().filter(|open| open.node == id && open.lower) {
            // Without another descriptor it goes on with the old contents.
            if let (Some(old), Ok(new)) = (open.inner, self.files.open(copy, READ)) {
                self.files.release(old);
                open.inner = Some(new);
                open.lower = false;
            }
        }
    }

    /// Hides what the lower directory calls `name`, if anything.
    pub(super) fn hide(&mut self, dir: NodeId, name: &[u8]) -> Result<()> {
        let lower = self.table.parts(dir)?.lower;
        let Some(found) = self.below(lower, name)? else { return Ok(()) };
        self.forget_parts(found);
        let above = self.upper_directory(dir)?;
        match self.files.create(above, &whiteout(name), 0o600, ROOT, WRITE) {
            Ok((entry, handle)) => {
                self.files.release(handle);
                self.files.forget(entry.node);
                Ok(())
            }
            Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the overlay's own names from an upper directory that is about to go.
    pub(super) fn clear(&mut self, dir: NodeId) -> Result<()> {
        let mut names = Vec::new();
        self.list(dir, |_, name| {
            if reserved(name) {
                names.push(name.to_vec());
            }
        })?;
        names.iter().try_for_each(|name| self.files.unlink(dir, name))
    }
}
