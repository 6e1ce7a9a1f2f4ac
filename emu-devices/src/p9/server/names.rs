//! Making, removing and renaming directory entries.

use super::{Result, Server, check_entry_name, check_name};
use crate::limits;
use crate::p9::errno::Errno;
use crate::p9::fs::{NodeId, mode};
use crate::p9::wire::{AT_REMOVEDIR, Reader, Writer};

impl Server {
    /// Tsymlink: dfid[4] name[s] target[s] gid[4] -> qid[13]
    pub(super) fn symlink(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let dir = m.u32()?;
        let name = m.string()?;
        let target = m.string()?;
        let gid = m.u32()?;
        let (dir, owner) = self.place_for_new(dir, gid)?;
        check_entry_name(name, Errno::EEXIST)?;
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.contains(&0) {
            return Err(Errno::EINVAL);
        }
        if target.len() > limits::P9_LINK_TARGET {
            return Err(Errno::ENAMETOOLONG);
        }
        let qid = self.fs.symlink(dir, name, target, owner)?;
        out.qid(qid)
    }

    /// Tmknod: dfid[4] name[s] mode[4] major[4] minor[4] gid[4] -> qid[13]
    pub(super) fn mknod(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let dir = m.u32()?;
        let name = m.string()?;
        let mode = m.u32()?;
        let major = m.u32()?;
        let minor = m.u32()?;
        let gid = m.u32()?;
        let (dir, owner) = self.place_for_new(dir, gid)?;
        check_entry_name(name, Errno::EEXIST)?;
        let kind = match mode & mode::TYPE {
            0 => mode::REGULAR,
            mode::DIRECTORY => return Err(Errno::EPERM),
            mode::SYMLINK => return Err(Errno::EINVAL),
            kind @ (mode::FIFO | mode::CHAR_DEVICE | mode::BLOCK_DEVICE | mode::REGULAR | mode::SOCKET) => {
                kind
            }
            _ => return Err(Errno::EINVAL),
        };
        let rdev = match kind {
            mode::CHAR_DEVICE | mode::BLOCK_DEVICE => (major, minor),
            _ => (0, 0),
        };
        let qid = self.fs.mknod(dir, name, kind | mode & mode::PERMISSIONS, rdev, owner)?;
        out.qid(qid)
    }

    /// Tmkdir: dfid[4] name[s] mode[4] gid[4] -> qid[13]
    pub(super) fn mkdir(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let dir = m.u32()?;
        let name = m.string()?;
        let permissions = m.u32()? & mode::PERMISSIONS;
        let gid = m.u32()?;
        let (dir, owner) = self.place_for_new(dir, gid)?;
        check_entry_name(name, Errno::EEXIST)?;
        let qid = self.fs.mkdir(dir, name, permissions, owner)?;
        out.qid(qid)
    }

    /// Tlink: dfid[4] fid[4] name[s]
    pub(super) fn link(&mut self, m: &mut Reader<'_>) -> Result<()> {
        let dir = m.u32()?;
        let file = m.u32()?;
        let name = m.string()?;
        let dir = self.node(dir)?;
        let node = self.node(file)?;
        check_entry_name(name, Errno::EEXIST)?;
        self.fs.link(node, dir, name)
    }

    /// Trename: fid[4] dfid[4] name[s]
    pub(super) fn rename(&mut self, m: &mut Reader<'_>) -> Result<()> {
        let file = m.u32()?;
        let dir = m.u32()?;
        let name = m.string()?;
        let dir = self.node(dir)?;
        let (_, link) = self.linked(file)?;
        self.rename_entry(link.dir, &link.name, dir, name)
    }

    /// Trenameat: olddirfid[4] oldname[s] newdirfid[4] newname[s]
    pub(super) fn renameat(&mut self, m: &mut Reader<'_>) -> Result<()> {
        let from = m.u32()?;
        let old = m.string()?;
        let to = m.u32()?;
        let new = m.string()?;
        let from = self.node(from)?;
        let to = self.node(to)?;
        self.rename_entry(from, old, to, new)
    }

    /// Tunlinkat: dirfd[4] name[s] flags[4]
    pub(super) fn unlinkat(&mut self, m: &mut Reader<'_>) -> Result<()> {
        let dir = m.u32()?;
        let name = m.string()?;
        let flags = m.u32()?;
        let dir = self.node(dir)?;
        check_name(name)?;
        match (flags, name) {
            (0, b"." | b"..") => Err(Errno::EISDIR),
            (0, _) => self.fs.unlink(dir, name),
            (AT_REMOVEDIR, b".") => Err(Errno::EINVAL),
            (AT_REMOVEDIR, b"..") => Err(Errno::ENOTEMPTY),
            (AT_REMOVEDIR, _) => self.fs.rmdir(dir, name),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Treadlink: fid[4] -> target[s]
    pub(super) fn readlink(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let node = self.node(m.u32()?)?;
        let target = self.fs.readlink(node)?;
        out.string(&target)
    }

    /// Renames, and lets the fids that were found by the old name follow.
    fn rename_entry(&mut self, from: NodeId, old: &[u8], to: NodeId, new: &[u8]) -> Result<()> {
        check_entry_name(old, Errno::EBUSY)?;
        check_entry_name(new, Errno::EBUSY)?;
        let moved = self.fs.lookup(from, old)?.node;
        let outcome = self.fs.rename(from, old, to, new);
        // Renaming one name of a file to another of its names leaves both.
        let left = match &outcome {
            Ok(()) => self.fs.lookup(from, old).map(|entry| self.fs.forget(entry.node)).is_err(),
            Err(_) => false,
        };
        if left {
            for _ in 0..self.fids.relink(moved, (from, old), (to, new)) {
                self.fs.acquire(to);
                self.fs.forget(from);
            }
        }
        self.fs.forget(moved);
        outcome
    }
}
