//! [`Filesystem`] over directories of the host.
//!
//! The root has one directory a share, called "0", "1" and so on: a client attaches to the one it wants.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use emu_devices::p9::Errno;
use emu_devices::p9::fs::{
    Attr, DirEntry, Entry, Filesystem, Handle, NodeId, OpenFlags, Owner, Qid, Result, SetAttr, StatFs, mode,
};
use rustix::fs::{AtFlags, FileType, Mode as FileMode, OFlags, RawDir, SeekFrom};

use super::nodes::Nodes;
use super::spec::{Mode, Spec};
use super::{ShareError, sys};
use crate::limits;

/// The root, which is no directory of the host.
const ROOT: NodeId = NodeId(0);

/// Guest inode number of the root. No inode of the host has it: numbers this large are counted from below.
const ROOT_PATH: u64 = u64::MAX;

/// Directory entries read at once, in bytes.
const LISTING: usize = 32 << 10;

/// Type of file system that the guest sees (`V9FS_MAGIC`).
const KIND: u32 = 0x0102_1997;

/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;

struct Share {
    root: NodeId,
    mode: Mode,
}

struct Open {
    node: NodeId,
    file: OwnedFd,
    writable: bool,
}

/// Directories of the host.
pub struct Shares {
    shares: Vec<Share>,
    nodes: Nodes,
    handles: HashMap<Handle, Open>,
    next_handle: u64,
    /// Who runs this.
    user: (u32, u32),
    /// The root is the only share, not a list of them.
    alone: bool,
}

impl Shares {
    /// Opens a directory that is the root by itself.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn alone(spec: &Spec) -> std::result::Result<Self, ShareError> {
        Ok(Self { alone: true, ..Self::open(std::slice::from_ref(spec))? })
    }

    /// Opens the directories.
    ///
    /// # Errors
    /// One cannot be opened.
    pub fn open(specs: &[Spec]) -> std::result::Result<Self, ShareError> {
        if specs.len() > limits::MAX_SHARES {
            return Err(ShareError::TooMany);
        }
        let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let mut this = Self {
            shares: Vec::new(),
            nodes: Nodes::new(),
            handles: HashMap::new(),
            next_handle: 1,
            user,
            alone: false,
        };
        for (number, spec) in specs.iter().enumerate() {
            let path = || spec.host.clone();
            let failed = |error: rustix::io::Errno| ShareError::Open { path: path(), source: error.into() };
            // The one path that is followed: the user's own.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&spec.host, flags, FileMode::empty()).map_err(failed)?;
            let stat = rustix::fs::fstat(&fd).map_err(failed)?;
            // It has to be listed, and what is in it is reached through /proc.
            sys::open_directory(fd.as_fd()).map_err(|error| {
                let source = std::io::Error::from_raw_os_error(i32::try_from(error.0).unwrap_or(0));
                ShareError::Open { path: path(), source }
            })?;
            if !std::path::Path::new("/proc/self/fd").exists() {
                return Err(ShareError::Host { path: path() });
            }
            let root = this.nodes.add_root(number, fd, &stat);
            this.shares.push(Share { root, mode: spec.mode.clone() });
        }
        Ok(this)
    }

    /// EROFS if nothing may be changed there.
    fn writable(&self, node: NodeId) -> Result<()> {
        let share = self.shares.get(self.nodes.share(node)?).ok_or(Errno::EROFS)?;
        if share.mode != Mode::ReadWrite { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// A directory in which something is about to be changed.
    fn directory_to_change(&mut self, dir: NodeId) -> Result<std::sync::Arc<OwnedFd>> {
        if dir == ROOT {
            return Err(Errno::EROFS);
        }
        if self.nodes.kind(dir)? != mode::DIRECTORY {
            return Err(Errno::ENOTDIR);
        }
        self.writable(dir)?;
        self.nodes.fd(dir)
    }

    /// Users and groups as the guest sees them.
    fn shown(&self) -> impl Fn(u32, u32) -> (u32, u32) + use<> {
        let (user, group) = self.user;
        move |uid, gid| (if uid == user { 0 } else { uid }, if gid == group { 0 } else { gid })
    }

    /// The same on the host.
    fn meant(&self, uid: u32, gid: u32) -> (u32, u32) {
        let (user, group) = self.user;
        (if uid == 0 { user } else { uid }, if gid == 0 { group } else { gid })
    }

    /// Owner and permissions of something new.
    fn finish_new(&self, open: &OwnedFd, permissions: u32, owner: Owner) -> Result<()> {
        if self.user.0 == 0 {
            let (uid, gid) = self.meant(owner.uid.unwrap_or(0), owner.gid);
            sys::set_owner(open.as_fd(), Some(uid), Some(gid))?;
        }
        sys::set_permissions_of(open.as_fd(), permissions)
    }

    fn add_handle(&mut self, node: NodeId, file: OwnedFd, writable: bool) -> Handle {
        let handle = Handle(self.next_handle);
        self.next_handle += 1;
        self.handles.insert(handle, Open { node, file, writable });
        handle
    }

    fn handle(&self, handle: Handle) -> Result<&Open> {
        self.handles.get(&handle).ok_or(Errno::EBADF)
    }

    fn root_qid() -> Qid {
        Qid { kind: Qid::DIRECTORY, version: 0, path: ROOT_PATH }
    }

    fn qid_at(&mut self, dir: &OwnedFd, name: &[u8]) -> Result<Qid> {
        let stat = sys::stat_at(dir.as_fd(), name)?;
        self.nodes.qid(&stat)
    }

    fn resize(&mut self, node: NodeId, size: u64) -> Result<()> {
        match self.nodes.kind(node)? {
            mode::REGULAR => {}
            mode::DIRECTORY => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        // Whoever has it open for writing may do so whatever its permissions are now.
        if let Some(open) = self.handles.values().find(|open| open.node == node && open.writable) {
            return rustix::fs::ftruncate(&open.file, size).map_err(sys::errno);
        }
        let found = self.nodes.fd(node)?;
        let flags = OpenFlags {
            access: emu_devices::p9::fs::Access::Write,
            truncate: false,
            directory: false,
            append: false,
        };
        let file = sys::open_file(found.as_fd(), flags)?;
        rustix::fs::ftruncate(&file, size).map_err(sys::errno)
    }

    /// Changes the owner as far as the host lets us.
    fn give(&mut self, node: NodeId, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let found = self.nodes.fd(node)?;
        let stat = sys::stat(found.as_fd())?;
        let (new_uid, new_gid) = self.meant(uid.unwrap_or(0), gid.unwrap_or(0));
        let uid = uid.map(|_| new_uid).filter(|uid| *uid != stat.st_uid);
        let gid = gid.map(|_| new_gid).filter(|gid| *gid != stat.st_gid);
        if uid.is_none() && gid.is_none() { Ok(()) } else { sys::set_owner(found.as_fd(), uid, gid) }
    }

    /// Both ends of a change of names, in one share.
    fn same_share(&self, one: NodeId, two: NodeId) -> Result<()> {
        if self.nodes.share(one)? == self.nodes.share(two)? { Ok(()) } else { Err(Errno::EXDEV) }
    }

    /// Lists the root.
    fn list_shares(&mut self, cookie: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let mut entries: Vec<(Qid, Vec<u8>)> =
            [&b"."[..], b".."].map(|name| (Self::root_qid(), name.to_vec())).into();
        for number in 0..self.shares.len() {
            let Some(root) = self.shares.get(number).map(|share| share.root) else { continue };
            let stat = sys::stat(self.nodes.fd(root)?.as_fd())?;
            entries.push((self.nodes.qid(&stat)?, number.to_string().into_bytes()));
        }
        for (at, (qid, name)) in (1u64..).zip(&entries).skip_while(|(at, _)| *at <= cookie) {
            if !emit(&DirEntry { qid: *qid, cookie: at, mode: mode::DIRECTORY, name }) {
                break;
            }
        }
        Ok(())
    }
}

/// Type bits for a type.
fn kind_bits(kind: FileType) -> Option<u32> {
    Some(match kind {
        FileType::RegularFile => mode::REGULAR,
        FileType::Directory => mode::DIRECTORY,
        FileType::Symlink => mode::SYMLINK,
        FileType::Fifo => mode::FIFO,
        FileType::Socket => mode::SOCKET,
        FileType::CharacterDevice => mode::CHAR_DEVICE,
        FileType::BlockDevice => mode::BLOCK_DEVICE,
        FileType::Unknown => return None,
    })
}

/// Permissions of a file as the host gets them.
fn permissions_of(bits: u32, directory: bool) -> u32 {
    bits & mode::PERMISSIONS & if directory { u32::MAX } else { !SET_ID }
}

/// File offsets are signed.
fn offset(offset: u64) -> Result<u64> {
    if i64::try_from(offset).is_ok() { Ok(offset) } else { Err(Errno::EINVAL) }
}

impl Filesystem for Shares {
    fn root(&mut self) -> Result<Entry> {
        if self.alone {
            return self.lookup(ROOT, b"0");
        }
        Ok(Entry { node: ROOT, qid: Self::root_qid() })
    }

    fn acquire(&mut self, node: NodeId) {
        self.nodes.acquire(node);
    }

    fn forget(&mut self, node: NodeId) {
        self.nodes.forget(node);
    }

    fn lookup(&mut self, dir: NodeId, name: &[u8]) -> Result<Entry> {
        if dir != ROOT {
            return match self.nodes.kind(dir)? {
                mode::DIRECTORY => self.nodes.lookup(dir, name),
                _ => Err(Errno::ENOTDIR),
            };
        }
        let number = std::str::from_utf8(name).ok().and_then(|name| name.parse::<usize>().ok());
        let share = number.filter(|n| n.to_string().as_bytes() == name).and_then(|n| self.shares.get(n));
        let node = share.ok_or(Errno::ENOENT)?.root;
        let stat = sys::stat(self.nodes.fd(node)?.as_fd())?;
        let qid = self.nodes.qid(&stat)?;
        self.nodes.acquire(node);
        Ok(Entry { node, qid })
    }

    fn parent(&mut self, dir: NodeId) -> Result<Entry> {
        if dir == ROOT {
            return self.root();
        }
        let node = self.nodes.parent(dir)?;
        let stat = sys::stat(self.nodes.fd(node)?.as_fd())?;
        let qid = self.nodes.qid(&stat)?;
        self.nodes.acquire(node);
        Ok(Entry { node, qid })
    }

    fn getattr(&mut self, node: NodeId) -> Result<Attr> {
        if node == ROOT {
            let nlink = 2 + self.shares.len() as u64;
            return Ok(Attr {
                qid: Self::root_qid(),
                mode: mode::DIRECTORY | 0o555,
                nlink,
                ..Attr::default()
            });
        }
        let stat = sys::stat(self.nodes.fd(node)?.as_fd())?;
        let qid = self.nodes.qid(&stat)?;
        Ok(sys::attr(&stat, qid, self.shown()))
    }

    fn setattr(&mut self, node: NodeId, set: &SetAttr) -> Result<()> {
        if node == ROOT {
            return Err(Errno::EROFS);
        }
        self.writable(node)?;
        if let Some(size) = set.size {
            self.resize(node, offset(size)?)?;
        }
        if set.uid.is_some() || set.gid.is_some() {
            self.give(node, set.uid, set.gid)?;
        }
        let found = self.nodes.fd(node)?;
        if let Some(bits) = set.mode {
            let directory = self.nodes.kind(node)? == mode::DIRECTORY;
            sys::set_permissions(found.as_fd(), permissions_of(bits, directory))?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            sys::set_times(found.as_fd(), set.atime, set.mtime)?;
        }
        Ok(())
    }

    fn readlink(&mut self, node: NodeId) -> Result<Vec<u8>> {
        if node == ROOT || self.nodes.kind(node)? != mode::SYMLINK {
            return Err(Errno::EINVAL);
        }
        sys::read_link(self.nodes.fd(node)?.as_fd())
    }

    fn open(&mut self, node: NodeId, flags: OpenFlags) -> Result<Handle> {
        let writable = flags.access.can_write() || flags.truncate;
        let kind = if node == ROOT { mode::DIRECTORY } else { self.nodes.kind(node)? };
        match kind {
            mode::DIRECTORY if writable => return Err(Errno::EISDIR),
            mode::SYMLINK => return Err(Errno::ELOOP),
            mode::DIRECTORY | mode::REGULAR => {}
            _ => return Err(Errno::ENXIO),
        }
        if flags.directory && kind != mode::DIRECTORY {
            return Err(Errno::ENOTDIR);
        }
        if self.handles.len() >= limits::SHARE_HANDLES {
            return Err(Errno::ENFILE);
        }
        if node == ROOT {
            // Its listing needs no file, but a handle has one.
            let root = self.shares.first().ok_or(Errno::ENOENT)?.root;
            let file = sys::open_directory(self.nodes.fd(root)?.as_fd())?;
            return Ok(self.add_handle(ROOT, file, false));
        }
        if writable {
            self.writable(node)?;
        }
        let found = self.nodes.fd(node)?;
        let file = match kind {
            mode::DIRECTORY => sys::open_directory(found.as_fd())?,
            _ => sys::open_file(found.as_fd(), flags)?,
        };
        Ok(self.add_handle(node, file, writable))
    }

    fn release(&mut self, handle: Handle) {
        self.handles.remove(&handle);
    }

    fn create(
        &mut self,
        dir: NodeId,
        name: &[u8],
        permissions: u32,
        owner: Owner,
        flags: OpenFlags,
    ) -> Result<(Entry, Handle)> {
        let above = self.directory_to_change(dir)?;
        if self.handles.len() >= limits::SHARE_HANDLES {
            return Err(Errno::ENFILE);
        }
        let file = sys::create(above.as_fd(), name, flags)?;
        self.finish_new(&file, permissions_of(permissions, false), owner)?;
        let entry = self.nodes.lookup(dir, name)?;
        let same = sys::stat(file.as_fd()).and_then(|stat| Ok(self.nodes.qid(&stat)? == entry.qid));
        if same != Ok(true) {
            self.nodes.forget(entry.node);
            return Err(Errno::ESTALE);
        }
        let handle = self.add_handle(entry.node, file, flags.access.can_write());
        Ok((entry, handle))
    }

    fn mkdir(&mut self, dir: NodeId, name: &[u8], permissions: u32, owner: Owner) -> Result<Qid> {
        let above = self.directory_to_change(dir)?;
        let new = sys::make_directory(above.as_fd(), name)?;
        self.finish_new(&new, permissions_of(permissions, true), owner)?;
        let stat = sys::stat(new.as_fd())?;
        self.nodes.qid(&stat)
    }

    fn symlink(&mut self, dir: NodeId, name: &[u8], target: &[u8], owner: Owner) -> Result<Qid> {
        let above = self.directory_to_change(dir)?;
        rustix::fs::symlinkat(target, &above, name).map_err(sys::errno)?;
        if self.user.0 == 0 {
            let (uid, gid) = self.meant(owner.uid.unwrap_or(0), owner.gid);
            let (found, _) = sys::find(above.as_fd(), name)?;
            sys::set_owner(found.as_fd(), Some(uid), Some(gid))?;
        }
        self.qid_at(&above, name)
    }

    fn mknod(&mut self, dir: NodeId, name: &[u8], bits: u32, _rdev: (u32, u32), owner: Owner) -> Result<Qid> {
        let above = self.directory_to_change(dir)?;
        let permissions = permissions_of(bits, false);
        match bits & mode::TYPE {
            0 | mode::REGULAR => {
                let access = emu_devices::p9::fs::Access::Write;
                let flags = OpenFlags { access, truncate: false, directory: false, append: false };
                let file = sys::create(above.as_fd(), name, flags)?;
                self.finish_new(&file, permissions, owner)?;
            }
            kind @ (mode::FIFO | mode::SOCKET) => {
                let kind = if kind == mode::FIFO { FileType::Fifo } else { FileType::Socket };
                let private = FileMode::RUSR | FileMode::WUSR;
                rustix::fs::mknodat(&above, name, kind, private, 0).map_err(sys::errno)?;
                let (found, _) = sys::find(above.as_fd(), name)?;
                sys::set_permissions(found.as_fd(), permissions)?;
            }
            // A device node would be the host's device.
            _ => return Err(Errno::EPERM),
        }
        self.qid_at(&above, name)
    }

    fn link(&mut self, node: NodeId, dir: NodeId, name: &[u8]) -> Result<()> {
        let above = self.directory_to_change(dir)?;
        if node == ROOT || self.nodes.kind(node)? == mode::DIRECTORY {
            return Err(Errno::EPERM);
        }
        self.same_share(node, dir)?;
        let found = self.nodes.fd(node)?;
        sys::link(found.as_fd(), above.as_fd(), name)
    }

    fn unlink(&mut self, dir: NodeId, name: &[u8]) -> Result<()> {
        let above = self.directory_to_change(dir)?;
        self.nodes.keep(dir, name);
        rustix::fs::unlinkat(&above, name, AtFlags::empty()).map_err(sys::errno)
    }

    fn rmdir(&mut self, dir: NodeId, name: &[u8]) -> Result<()> {
        let above = self.directory_to_change(dir)?;
        self.nodes.keep(dir, name);
        rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR).map_err(sys::errno)
    }

    fn rename(&mut self, from: NodeId, old: &[u8], to: NodeId, new: &[u8]) -> Result<()> {
        let source = self.directory_to_change(from)?;
        let target = self.directory_to_change(to)?;
        self.same_share(from, to)?;
        let moved = self.nodes.known(from, old);
        if moved.is_none() || moved != self.nodes.known(to, new) {
            self.nodes.keep(to, new);
        }
        rustix::fs::renameat(&source, old, &target, new).map_err(sys::errno)?;
        if let Some(moved) = moved {
            self.nodes.found_at(moved, to, new);
            self.nodes.named(moved);
        }
        Ok(())
    }

    fn read(&mut self, handle: Handle, at: u64, buf: &mut [u8]) -> Result<usize> {
        let at = offset(at)?;
        let open = self.handle(handle)?;
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&open.file, rest, at.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(sys::errno(error)),
            }
        }
        Ok(done)
    }

    fn write(&mut self, handle: Handle, at: u64, data: &[u8]) -> Result<usize> {
        let at = offset(at)?;
        let open = self.handle(handle)?;
        loop {
            match rustix::io::pwrite(&open.file, data, at) {
                Ok(count) => return Ok(count),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(sys::errno(error)),
            }
        }
    }

    fn fsync(&mut self, handle: Handle, datasync: bool) -> Result<()> {
        let open = self.handle(handle)?;
        let done = if datasync { rustix::fs::fdatasync(&open.file) } else { rustix::fs::fsync(&open.file) };
        done.map_err(sys::errno)
    }

    fn readdir(
        &mut self,
        handle: Handle,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let open = self.handles.get(&handle).ok_or(Errno::EBADF)?;
        if open.node == ROOT {
            return self.list_shares(cookie, emit);
        }
        if self.nodes.kind(open.node)? != mode::DIRECTORY {
            return Err(Errno::ENOTDIR);
        }
        let device = sys::stat(open.file.as_fd())?.st_dev;
        let is_root = self.shares.iter().any(|share| share.root == open.node);
        rustix::fs::seek(&open.file, SeekFrom::Start(offset(cookie)?)).map_err(sys::errno)?;
        let mut buffer = Vec::with_capacity(LISTING);
        let mut listing = RawDir::new(&open.file, buffer.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(sys::errno)?;
            let name = entry.file_name().to_bytes();
            // What is above the share is none of the guest's business.
            let above_root = is_root && name == b"..";
            let stat = match (kind_bits(entry.file_type()), above_root) {
                (Some(kind), false) => Ok((kind, sys::Key { device, inode: entry.ino() })),
                (_, true) => sys::stat(open.file.as_fd()).map(|stat| (stat.st_mode, sys::Key::of(&stat))),
                (None, _) => {
                    sys::stat_at(open.file.as_fd(), name).map(|stat| (stat.st_mode, sys::Key::of(&stat)))
                }
            };
            // Gone meanwhile.
            let Ok((bits, key)) = stat else { continue };
            let qid = Qid { kind: Qid::kind_of(bits), version: 0, path: self.nodes.path(key)? };
            let next = entry.next_entry_cookie();
            if !emit(&DirEntry { qid, cookie: next, mode: bits & mode::TYPE, name }) {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&mut self) -> Result<StatFs> {
        let root = self.shares.first().ok_or(Errno::ENOENT)?.root;
        let fd = self.nodes.fd(root)?;
        let stat = rustix::fs::fstatvfs(&*fd).map_err(sys::errno)?;
        Ok(StatFs {
            kind: KIND,
            bsize: u32::try_from(stat.f_frsize).unwrap_or(4096),
            blocks: stat.f_blocks,
            bfree: stat.f_bfree,
            bavail: stat.f_bavail,
            files: stat.f_files,
            ffree: stat.f_ffree,
            fsid: 0,
            namelen: u32::try_from(stat.f_namemax).unwrap_or(255),
        })
    }
}

#[cfg(test)]
impl Shares {
    /// Objects and descriptors kept, for tests.
    pub(super) fn kept(&self) -> (usize, usize) {
        (self.nodes.len(), self.nodes.open_descriptors())
    }
}
