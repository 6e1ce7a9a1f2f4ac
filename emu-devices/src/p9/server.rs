//! The 9P2000.L server: one session, one request at a time.
//!
//! This file has sessions and fids; the requests that do something with files are in the
//! sub-modules. A request either succeeds or is answered by Rlerror; a request too short to have a
//! tag is dropped, as is one whose reply buffer cannot even take an Rlerror. Because every request
//! is answered before the next is looked at, Tflush never finds anything to cancel.

mod attributes;
mod files;
mod locking;
mod names;
mod saving;
#[cfg(test)]
mod tests;

use super::errno::Errno;
use super::fid::{Fid, FidTable, Io, Link};
use super::fs::{Entry, Filesystem, NodeId, Owner, Qid};
use super::locks::LockTable;
use super::wire::{self, Reader, Writer, request};
use crate::limits;

type Result<T> = std::result::Result<T, Errno>;

/// A 9P2000.L server for one client.
pub struct Server {
    fs: Box<dyn Filesystem>,
    fids: FidTable,
    locks: LockTable,
    msize: u32,
}

impl Server {
    /// A server without a session.
    pub fn new(fs: Box<dyn Filesystem>) -> Self {
        Self { fs, fids: FidTable::default(), locks: LockTable::default(), msize: limits::P9_DEFAULT_MSIZE }
    }

    /// Answers one request. `reply` is overwritten with the reply, of at most `max_reply` bytes,
    /// or left empty if there is none.
    pub fn handle(&mut self, request: &[u8], reply: &mut Vec<u8>, max_reply: usize) {
        reply.clear();
        let mut reader = Reader::new(request);
        let (Ok(size), Ok(kind), Ok(tag)) = (reader.u32(), reader.u8(), reader.u16()) else { return };
        let outcome = self.check_size(size).and_then(|body| {
            // Bytes behind the message are the transport's padding.
            let body = Reader::new(reader.bytes(body)?);
            self.dispatch(kind, tag, body, reply, max_reply)
        });
        if let Err(error) = outcome
            && error_reply(reply, max_reply, tag, error).is_err()
        {
            reply.clear();
        }
    }

    /// The transport was reset: the client has forgotten everything, so do we.
    pub fn reset(&mut self) {
        self.end_session();
        self.msize = limits::P9_DEFAULT_MSIZE;
    }

    /// The file system served. Its nodes must not be given back more often than they are taken.
    pub fn filesystem(&mut self) -> &mut dyn Filesystem {
        &mut *self.fs
    }

    /// Negotiated message size in bytes.
    pub fn msize(&self) -> u32 {
        self.msize
    }

    /// Number of fids in use.
    pub fn fid_count(&self) -> usize {
        self.fids.len()
    }

    /// Length of the body of a message of this size.
    fn check_size(&self, size: u32) -> Result<usize> {
        if size > self.msize {
            return Err(Errno::EMSGSIZE);
        }
        usize::try_from(size).ok().and_then(|size| size.checked_sub(wire::HEADER)).ok_or(Errno::EINVAL)
    }

    fn dispatch(
        &mut self,
        kind: u8,
        tag: u16,
        mut body: Reader<'_>,
        reply: &mut Vec<u8>,
        max_reply: usize,
    ) -> Result<()> {
        let limit = match kind {
            request::VERSION => max_reply,
            _ => max_reply.min(usize::try_from(self.msize).unwrap_or(usize::MAX)),
        };
        let mut out = Writer::new(reply, limit, kind.wrapping_add(1), tag)?;
        let m = &mut body;
        match kind {
            request::VERSION => self.version(m, &mut out),
            request::ATTACH => self.attach(m, &mut out),
            request::FLUSH => m.u16().map(|_old_tag| ()),
            request::WALK => self.walk(m, &mut out),
            request::CLUNK => self.clunk(m),
            request::REMOVE => self.remove(m),

            request::LOPEN => self.lopen(m, &mut out),
            request::LCREATE => self.lcreate(m, &mut out),
            request::READ => self.read(m, &mut out),
            request::WRITE => self.write(m, &mut out),
            request::FSYNC => self.fsync(m),
            request::READDIR => self.readdir(m, &mut out),

            request::SYMLINK => self.symlink(m, &mut out),
            request::MKNOD => self.mknod(m, &mut out),
            request::MKDIR => self.mkdir(m, &mut out),
            request::LINK => self.link(m),
            request::RENAME => self.rename(m),
            request::RENAMEAT => self.renameat(m),
            request::UNLINKAT => self.unlinkat(m),
            request::READLINK => self.readlink(m, &mut out),

            request::GETATTR => self.getattr(m, &mut out),
            request::SETATTR => self.setattr(m),
            request::STATFS => self.statfs(m, &mut out),
            request::XATTRWALK | request::XATTRCREATE => self.xattr(m),

            request::LOCK => self.lock(m, &mut out),
            request::GETLOCK => self.getlock(m, &mut out),

            // Tauth too: there is no authentication.
            _ => Err(Errno::EOPNOTSUPP),
        }?;
        out.finish();
        Ok(())
    }

    // Sessions

    /// Tversion: msize[4] version[s] -> msize[4] version[s]
    fn version(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let msize = m.u32()?;
        let version = m.string()?;
        self.reset();
        if msize < limits::P9_MIN_MSIZE {
            return Err(Errno::EMSGSIZE);
        }
        let msize = msize.min(limits::P9_MAX_MSIZE);
        out.u32(msize)?;
        // A suffix after a dot is a variant the client can do without.
        let known = version.strip_prefix(wire::VERSION).is_some_and(|rest| matches!(rest, [] | [b'.', ..]));
        if !known {
            return out.string(wire::UNKNOWN_VERSION);
        }
        self.msize = msize;
        out.string(wire::VERSION)
    }

    /// Tattach: fid[4] afid[4] uname[s] aname[s] n_uname[4] -> qid[13]
    fn attach(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let number = m.u32()?;
        let afid = m.u32()?;
        let _uname = m.string()?;
        let aname = m.string()?;
        let uid = m.u32()?;
        if afid != wire::NO_FID {
            return Err(Errno::EBADF);
        }
        self.fids.check_free(number)?;
        let root = self.fs.root()?;
        let mut place = Place { node: root.node, qid: root.qid, link: None };
        let names = aname.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        for (depth, name) in names.enumerate() {
            let step = match depth {
                limits::P9_ATTACH_DEPTH.. => Err(Errno::ENAMETOOLONG),
                _ => self.step(&mut place, name),
            };
            if let Err(error) = step {
                self.leave(place);
                return Err(error);
            }
        }
        if place.qid.kind != Qid::DIRECTORY {
            self.leave(place);
            return Err(Errno::ENOTDIR);
        }
        // The root of an attach has no entry that could be removed.
        if let Some(link) = place.link.take() {
            self.fs.forget(link.dir);
        }
        out.qid(place.qid).inspect_err(|_| self.fs.forget(place.node))?;
        self.bind(number, place, uid, Io::Closed);
        Ok(())
    }

    /// Twalk: fid[4] newfid[4] nwname[2] nwname*(name[s]) -> nwqid[2] nwqid*(qid[13])
    ///
    /// A first name that is not there is an error; a later one ends the walk, which shows by fewer
    /// QIDs, and `newfid` is not made.
    fn walk(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let number = m.u32()?;
        let new = m.u32()?;
        let count = usize::from(m.u16()?);
        if count > limits::P9_WALK {
            return Err(Errno::EINVAL);
        }
        let names = (0..count).map(|_| m.string()).collect::<Result<Vec<_>>>()?;
        let source = self.fids.get(number)?.clone();
        if new != number {
            self.fids.check_free(new)?;
        } else if matches!(source.io, Io::Open(..)) {
            return Err(Errno::EBADF);
        }
        self.fs.acquire(source.node);
        if let Some(link) = &source.link {
            self.fs.acquire(link.dir);
        }
        let mut place = Place { node: source.node, qid: source.qid, link: source.link };
        let mut qids = Vec::with_capacity(count);
        for name in &names {
            match self.step(&mut place, name) {
                Ok(()) => qids.push(place.qid),
                Err(error) if qids.is_empty() => {
                    self.leave(place);
                    return Err(error);
                }
                Err(_) => break,
            }
        }
        let reply = walk_reply(out, &qids);
        if qids.len() < count || reply.is_err() {
            self.leave(place);
        } else if new == number && count == 0 {
            // A clone of itself: nothing happens to it.
            self.leave(place);
        } else {
            self.bind(new, place, source.uid, Io::Closed);
        }
        reply
    }

    /// Tclunk: fid[4]
    fn clunk(&mut self, m: &mut Reader<'_>) -> Result<()> {
        let number = m.u32()?;
        let fid = self.fids.remove(number).ok_or(Errno::EBADF)?;
        self.drop_fid(number, fid);
        Ok(())
    }

    /// Tremove: fid[4]. The fid is gone in any case.
    fn remove(&mut self, m: &mut Reader<'_>) -> Result<()> {
        let number = m.u32()?;
        let outcome = self.linked(number).and_then(|(fid, link)| match fid.qid.kind {
            Qid::DIRECTORY => self.fs.rmdir(link.dir, &link.name),
            _ => self.fs.unlink(link.dir, &link.name),
        });
        let fid = self.fids.remove(number).ok_or(Errno::EBADF)?;
        self.drop_fid(number, fid);
        outcome
    }

    // Fids

    /// Goes one name further. On an error `place` is where it was.
    fn step(&mut self, place: &mut Place, name: &[u8]) -> Result<()> {
        if place.qid.kind != Qid::DIRECTORY {
            return Err(Errno::ENOTDIR);
        }
        let (found, link) = match name {
            b"." => return Ok(()),
            b".." => {
                let found = self.fs.parent(place.node)?;
                self.fs.forget(place.node);
                (found, None)
            }
            _ => {
                check_name(name).map_err(|error| match error {
                    Errno::EINVAL => Errno::ENOENT,
                    other => other,
                })?;
                // The reference to the directory passes from the place to the link.
                (self.fs.lookup(place.node, name)?, Some(Link { dir: place.node, name: name.into() }))
            }
        };
        if let Some(old) = std::mem::replace(&mut place.link, link) {
            self.fs.forget(old.dir);
        }
        place.node = found.node;
        place.qid = found.qid;
        Ok(())
    }

    /// Gives back what a place holds.
    fn leave(&mut self, place: Place) {
        self.fs.forget(place.node);
        if let Some(link) = place.link {
            self.fs.forget(link.dir);
        }
    }

    /// Makes a fid of a place, taking over its references.
    fn bind(&mut self, number: u32, place: Place, uid: u32, io: Io) {
        let fid = Fid { node: place.node, qid: place.qid, uid, link: place.link, io, append: false };
        if let Some(old) = self.fids.insert(number, fid) {
            self.drop_fid(number, old);
        }
    }

    /// Gives back what a fid holds. It must be out of the table.
    fn drop_fid(&mut self, number: u32, fid: Fid) {
        self.locks.release_fid(fid.node, number);
        if !self.fids.has_node(fid.node) {
            self.locks.release_node(fid.node);
        }
        if let Io::Open(handle, _) = fid.io {
            self.fs.release(handle);
        }
        if let Some(link) = fid.link {
            self.fs.forget(link.dir);
        }
        self.fs.forget(fid.node);
    }

    fn end_session(&mut self) {
        self.locks.clear();
        for fid in self.fids.drain() {
            self.drop_fid(wire::NO_FID, fid);
        }
    }

    /// The node of a fid.
    fn node(&self, number: u32) -> Result<NodeId> {
        self.fids.get(number).map(|fid| fid.node)
    }

    /// A fid and the entry by which it can be removed or renamed. EBUSY for a root, ENOENT if the
    /// entry is gone or is something else's by now.
    fn linked(&mut self, number: u32) -> Result<(Fid, Link)> {
        let fid = self.fids.get(number)?.clone();
        let link = fid.link.clone().ok_or(Errno::EBUSY)?;
        let Entry { node, .. } = self.fs.lookup(link.dir, &link.name)?;
        self.fs.forget(node);
        if node != fid.node {
            return Err(Errno::ENOENT);
        }
        Ok((fid, link))
    }

    /// Directory and owner for something new.
    fn place_for_new(&self, dir: u32, gid: u32) -> Result<(NodeId, Owner)> {
        let fid = self.fids.get(dir)?;
        let uid = (fid.uid != wire::NO_UID).then_some(fid.uid);
        Ok((fid.node, Owner { uid, gid }))
    }

    /// Largest read or write in one message.
    fn iounit(&self) -> u32 {
        self.msize.saturating_sub(wire::IO_HEADER)
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("msize", &self.msize)
            .field("fids", &self.fids.len())
            .field("locks", &self.locks.len())
            .finish_non_exhaustive()
    }
}

/// Where a walk is. Holds a reference to the node and to the link's directory.
struct Place {
    node: NodeId,
    qid: Qid,
    link: Option<Link>,
}

fn walk_reply(out: &mut Writer<'_>, qids: &[Qid]) -> Result<()> {
    out.u16(u16::try_from(qids.len()).map_err(|_| Errno::EMSGSIZE)?)?;
    qids.iter().try_for_each(|qid| out.qid(*qid))
}

fn error_reply(reply: &mut Vec<u8>, max_reply: usize, tag: u16, error: Errno) -> Result<()> {
    let mut out = Writer::new(reply, max_reply, wire::RLERROR, tag)?;
    out.u32(error.0)?;
    out.finish();
    Ok(())
}

/// EINVAL if this cannot be the name of anything (`.` and `..` can).
fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        return Err(Errno::EINVAL);
    }
    if name.len() > limits::P9_NAME {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(())
}

/// Checks a name; `.` and `..` are `if_dots`.
fn check_entry_name(name: &[u8], if_dots: Errno) -> Result<()> {
    check_name(name)?;
    if matches!(name, b"." | b"..") { Err(if_dots) } else { Ok(()) }
}
