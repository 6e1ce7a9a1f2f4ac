//! Speaks 9P to a server.

use emu_devices::p9::wire::{self, Reader, Writer, request};
use emu_devices::p9::{Errno, Server};

use crate::fs::overlay::Overlay;

pub(crate) const ROOT: u32 = 0;

pub(crate) struct Client {
    pub(crate) server: Server,
}

/// A directory entry: name, cookie, type.
pub(crate) type DirEntry = (String, u64, u8);

type Reply = Result<Vec<u8>, Errno>;

/// Puts the body of a request together.
pub(crate) fn body(parts: &[Part<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, usize::MAX, 0, 0).unwrap();
    for part in parts {
        match part {
            Part::B(value) => writer.u8(*value),
            Part::W(value) => writer.u16(*value),
            Part::D(value) => writer.u32(*value),
            Part::Q(value) => writer.u64(*value),
            Part::S(value) => writer.string(value.as_bytes()),
            Part::Raw(value) => writer.bytes(value),
        }
        .unwrap();
    }
    out.split_off(wire::HEADER)
}

/// A field.
pub(crate) enum Part<'a> {
    B(u8),
    W(u16),
    D(u32),
    Q(u64),
    S(&'a str),
    Raw(&'a [u8]),
}

use Part::{B, D, Q, Raw, S, W};

impl Client {
    /// With the root attached as fid [`ROOT`].
    pub(crate) fn new(overlay: Overlay) -> Self {
        Self::of(Server::new(Box::new(overlay)), "")
    }

    /// Attached to `tree`.
    pub(crate) fn of(server: Server, tree: &str) -> Self {
        let mut client = Self { server };
        client.ask(request::VERSION, &[D(1 << 20), S("9P2000.L")]).unwrap();
        client.ask(request::ATTACH, &[D(ROOT), D(wire::NO_FID), S(""), S(tree), D(1000)]).unwrap();
        client
    }

    pub(crate) fn ask(&mut self, kind: u8, parts: &[Part<'_>]) -> Reply {
        let mut message = Vec::new();
        let mut writer = Writer::new(&mut message, usize::MAX, kind, 1).unwrap();
        writer.bytes(&body(parts)).unwrap();
        writer.finish();
        let mut reply = Vec::new();
        self.server.handle(&message, &mut reply, 1 << 20);
        let rest = reply.split_off(wire::HEADER);
        if reply[4] == wire::RLERROR {
            return Err(Errno(Reader::new(&rest).u32().unwrap()));
        }
        assert_eq!(reply[4], kind + 1);
        Ok(rest)
    }

    /// Walks from the root along a path with `/`; at most 16 names.
    pub(crate) fn walk(&mut self, path: &str, new: u32) -> Result<(), Errno> {
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let mut parts = vec![D(ROOT), D(new), W(names.len() as u16)];
        parts.extend(names.iter().map(|name| S(name)));
        let reply = self.ask(request::WALK, &parts)?;
        if usize::from(Reader::new(&reply).u16().unwrap()) < names.len() {
            Err(Errno::ENOENT)
        } else {
            Ok(())
        }
    }

    pub(crate) fn clunk(&mut self, fid: u32) {
        self.ask(request::CLUNK, &[D(fid)]).unwrap();
    }

    /// Walks and opens.
    pub(crate) fn open(&mut self, path: &str, fid: u32, flags: u32) -> Result<(), Errno> {
        self.walk(path, fid)?;
        let opened = self.ask(request::LOPEN, &[D(fid), D(flags)]);
        if opened.is_err() {
            self.clunk(fid);
        }
        opened.map(|_| ())
    }

    pub(crate) fn create(&mut self, dir: &str, name: &str, fid: u32) -> Result<(), Errno> {
        self.walk(dir, fid)?;
        let created = self.ask(request::LCREATE, &[D(fid), S(name), D(2), D(0o100644), D(0)]);
        if created.is_err() {
            self.clunk(fid);
        }
        created.map(|_| ())
    }

    pub(crate) fn read(&mut self, fid: u32, offset: u64, count: u32) -> Reply {
        self.ask(request::READ, &[D(fid), Q(offset), D(count)]).map(|mut reply| reply.split_off(4))
    }

    pub(crate) fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let parts = [D(fid), Q(offset), D(data.len() as u32), Raw(data)];
        self.ask(request::WRITE, &parts).map(|reply| Reader::new(&reply).u32().unwrap())
    }

    /// Does something with a fid for a directory.
    pub(crate) fn at<T>(
        &mut self,
        dir: &str,
        fid: u32,
        act: impl FnOnce(&mut Self) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.walk(dir, fid)?;
        let outcome = act(self);
        self.clunk(fid);
        outcome
    }

    pub(crate) fn mkdir(&mut self, dir: &str, name: &str) -> Result<(), Errno> {
        let parts = [D(50), S(name), D(0o755), D(0)];
        self.at(dir, 50, |client| client.ask(request::MKDIR, &parts)).map(|_| ())
    }

    pub(crate) fn symlink(&mut self, dir: &str, name: &str, target: &str) -> Result<(), Errno> {
        let parts = [D(50), S(name), S(target), D(0)];
        self.at(dir, 50, |client| client.ask(request::SYMLINK, &parts)).map(|_| ())
    }

    pub(crate) fn unlink(&mut self, dir: &str, name: &str, flags: u32) -> Result<(), Errno> {
        let parts = [D(50), S(name), D(flags)];
        self.at(dir, 50, |client| client.ask(request::UNLINKAT, &parts)).map(|_| ())
    }

    pub(crate) fn rename(&mut self, from: &str, old: &str, to: &str, new: &str) -> Result<(), Errno> {
        self.at(from, 50, |client| {
            client.at(to, 51, |client| client.ask(request::RENAMEAT, &[D(50), S(old), D(51), S(new)]))
        })
        .map(|_| ())
    }

    pub(crate) fn link(&mut self, file: &str, dir: &str, name: &str) -> Result<(), Errno> {
        self.at(file, 50, |client| {
            client.at(dir, 51, |client| client.ask(request::LINK, &[D(51), D(50), S(name)]))
        })
        .map(|_| ())
    }

    pub(crate) fn truncate(&mut self, path: &str, size: u64) -> Result<(), Errno> {
        let parts = [D(50), D(8), D(0), D(0), D(0), Q(size), Q(0), Q(0), Q(0), Q(0)];
        self.at(path, 50, |client| client.ask(request::SETATTR, &parts)).map(|_| ())
    }

    pub(crate) fn readlink(&mut self, path: &str) -> Result<String, Errno> {
        let reply = self.at(path, 50, |client| client.ask(request::READLINK, &[D(50)]))?;
        Ok(String::from_utf8(Reader::new(&reply).string().unwrap().to_vec()).unwrap())
    }

    /// Attributes of a fid.
    pub(crate) fn attr(&mut self, fid: u32) -> Attr {
        let reply = self.ask(request::GETATTR, &[D(fid), Q(0x7ff)]).unwrap();
        let mut reader = Reader::new(&reply[8..]);
        let kind = reader.u8().unwrap();
        let version = reader.u32().unwrap();
        let path = reader.u64().unwrap();
        let mode = reader.u32().unwrap();
        let (uid, gid) = (reader.u32().unwrap(), reader.u32().unwrap());
        let (nlink, _rdev, size) = (reader.u64().unwrap(), reader.u64().unwrap(), reader.u64().unwrap());
        let (_blksize, blocks) = (reader.u64().unwrap(), reader.u64().unwrap());
        let mut time = || (reader.u64().unwrap() as i64, reader.u64().unwrap()).0;
        let (atime, mtime, ctime) = (time(), time(), time());
        Attr { qid: (kind, version, path), mode, uid, gid, nlink, size, blocks, atime, mtime, ctime }
    }

    /// Attributes of a path.
    pub(crate) fn stat(&mut self, path: &str) -> Result<Attr, Errno> {
        self.at(path, 50, |client| Ok(client.attr(50)))
    }

    pub(crate) fn readdir(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<DirEntry>, Errno> {
        let reply = self.ask(request::READDIR, &[D(fid), Q(offset), D(count)])?;
        let mut reader = Reader::new(&reply[4..]);
        let mut entries = Vec::new();
        while reader.bytes(13).is_ok() {
            let (cookie, kind) = (reader.u64().unwrap(), reader.u8().unwrap());
            entries.push((String::from_utf8(reader.string().unwrap().to_vec()).unwrap(), cookie, kind));
        }
        Ok(entries)
    }

    /// Names in a directory but `.` and `..`.
    pub(crate) fn names(&mut self, path: &str) -> Result<Vec<String>, Errno> {
        self.open(path, 52, 0)?;
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let part = match self.readdir(52, offset, 300) {
                Ok(part) => part,
                Err(error) => {
                    self.clunk(52);
                    return Err(error);
                }
            };
            let Some(last) = part.last() else { break };
            offset = last.1;
            names.extend(part.into_iter().map(|entry| entry.0).filter(|name| name != "." && name != ".."));
        }
        self.clunk(52);
        Ok(names)
    }

    /// Contents of a file.
    pub(crate) fn contents(&mut self, path: &str) -> Reply {
        self.open(path, 52, 0)?;
        let mut bytes = Vec::new();
        let outcome = loop {
            match self.read(52, bytes.len() as u64, 1 << 19) {
                Ok(part) if part.is_empty() => break Ok(bytes),
                Ok(part) => bytes.extend(part),
                Err(error) => break Err(error),
            }
        };
        self.clunk(52);
        outcome
    }

    pub(crate) fn lock(&mut self, fid: u32, kind: u8) -> u8 {
        let parts = [D(fid), B(kind), D(0), Q(0), Q(0), D(77), S("host")];
        self.ask(request::LOCK, &parts).unwrap()[0]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attr {
    pub(crate) qid: (u8, u32, u64),
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u64,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) atime: i64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
}
