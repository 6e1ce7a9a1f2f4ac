//! Speaks the protocol to a server.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::p9::errno::Errno;
use crate::p9::fs::Qid;
use crate::p9::server::Server;
use crate::p9::testfs::{Counters, MemFs};
use crate::p9::wire::{self, Reader, Writer, request};

pub const MSIZE: u32 = 65536;
pub const ROOT: u32 = 0;
pub const LARGE: usize = 1 << 21;

/// Speaks to a server.
pub struct Client {
    pub server: Server,
    pub counters: Arc<Counters>,
}

/// Body of a request.
#[derive(Default, Clone)]
pub struct Body(pub Vec<u8>);

impl Body {
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    pub fn s(mut self, value: impl AsRef<[u8]>) -> Self {
        self = self.u16(value.as_ref().len() as u16);
        self.0.extend(value.as_ref());
        self
    }
    pub fn message(&self, kind: u8, tag: u16) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, usize::MAX, kind, tag).unwrap();
        writer.bytes(&self.0).unwrap();
        writer.finish();
        out
    }
}

pub fn body() -> Body {
    Body::default()
}

pub type Reply = Result<Vec<u8>, Errno>;

impl Client {
    /// With a session and the root attached.
    pub fn new() -> Self {
        let (fs, counters) = MemFs::new();
        let mut client = Self { server: Server::new(Box::new(fs)), counters };
        client.start();
        client
    }

    pub fn start(&mut self) {
        self.ask(request::VERSION, body().u32(MSIZE).s("9P2000.L")).unwrap();
        self.attach(ROOT, "").unwrap();
    }

    pub fn raw(&mut self, message: &[u8], max_reply: usize) -> Vec<u8> {
        let mut reply = vec![0xee; 3];
        self.server.handle(message, &mut reply, max_reply);
        reply
    }

    pub fn ask(&mut self, kind: u8, body: Body) -> Reply {
        let reply = self.raw(&body.message(kind, 0x1234), LARGE);
        let mut reader = Reader::new(&reply);
        assert_eq!(reader.u32().unwrap() as usize, reply.len());
        let answer = reader.u8().unwrap();
        assert_eq!(reader.u16(), Ok(0x1234));
        if answer == wire::RLERROR {
            assert_eq!(reply.len(), wire::ERROR_REPLY);
            return Err(Errno(reader.u32().unwrap()));
        }
        assert_eq!(answer, kind + 1);
        Ok(reply[wire::HEADER..].to_vec())
    }

    pub fn attach(&mut self, fid: u32, aname: &str) -> Reply {
        self.ask(request::ATTACH, body().u32(fid).u32(wire::NO_FID).s("nobody").s(aname).u32(1000))
    }

    pub fn walk(&mut self, fid: u32, new: u32, names: &[&str]) -> Result<usize, Errno> {
        let mut message = body().u32(fid).u32(new).u16(names.len() as u16);
        for name in names {
            message = message.s(name);
        }
        let reply = self.ask(request::WALK, message)?;
        let count = usize::from(u16::from_le_bytes([reply[0], reply[1]]));
        assert_eq!(reply.len(), 2 + 13 * count);
        Ok(count)
    }

    pub fn clunk(&mut self, fid: u32) -> Reply {
        self.ask(request::CLUNK, body().u32(fid))
    }

    pub fn lopen(&mut self, fid: u32, flags: u32) -> Reply {
        self.ask(request::LOPEN, body().u32(fid).u32(flags))
    }

    /// Makes `name` in the directory `fid`, which then stands for the file.
    pub fn create(&mut self, fid: u32, name: &str) -> Reply {
        self.ask(request::LCREATE, body().u32(fid).s(name).u32(2 | 0o100).u32(0o100644).u32(5))
    }

    /// Makes a file of this name in the root.
    pub fn make_file(&mut self, name: &str, data: &[u8]) {
        self.walk(ROOT, 99, &[]).unwrap();
        self.create(99, name).unwrap();
        assert_eq!(self.write(99, 0, data), Ok(data.len()));
        self.clunk(99).unwrap();
    }

    pub fn mkdir(&mut self, dir: u32, name: &str) -> Reply {
        self.ask(request::MKDIR, body().u32(dir).s(name).u32(0o40755).u32(0))
    }

    pub fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let mut message = body().u32(fid).u64(offset).u32(data.len() as u32);
        message.0.extend(data);
        self.ask(request::WRITE, message)
            .map(|reply| u32::from_le_bytes(reply[..4].try_into().unwrap()) as usize)
    }

    pub fn read(&mut self, fid: u32, offset: u64, count: u32) -> Reply {
        let reply = self.ask(request::READ, body().u32(fid).u64(offset).u32(count))?;
        assert_eq!(u32::from_le_bytes(reply[..4].try_into().unwrap()) as usize, reply.len() - 4);
        Ok(reply[4..].to_vec())
    }

    pub fn unlinkat(&mut self, dir: u32, name: &str, flags: u32) -> Reply {
        self.ask(request::UNLINKAT, body().u32(dir).s(name).u32(flags))
    }

    pub fn renameat(&mut self, from: u32, old: &str, to: u32, new: &str) -> Reply {
        self.ask(request::RENAMEAT, body().u32(from).s(old).u32(to).s(new))
    }

    pub fn remove(&mut self, fid: u32) -> Reply {
        self.ask(request::REMOVE, body().u32(fid))
    }

    pub fn readdir(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<(String, u64, u8)>, Errno> {
        let reply = self.ask(request::READDIR, body().u32(fid).u64(offset).u32(count))?;
        let mut reader = Reader::new(&reply[4..]);
        let mut entries = Vec::new();
        while let Ok(qid_kind) = reader.u8() {
            reader.bytes(12).unwrap();
            let cookie = reader.u64().unwrap();
            let kind = reader.u8().unwrap();
            let name = String::from_utf8(reader.string().unwrap().to_vec()).unwrap();
            assert_eq!(qid_kind, if kind == 4 { Qid::DIRECTORY } else { 0 });
            entries.push((name, cookie, kind));
        }
        Ok(entries)
    }

    pub fn lock(&mut self, fid: u32, kind: u8, start: u64, length: u64, proc_id: u32) -> Result<u8, Errno> {
        let message = body().u32(fid).u8(kind).u32(0).u64(start).u64(length).u32(proc_id).s("host");
        self.ask(request::LOCK, message).map(|reply| reply[0])
    }

    pub fn held(&self) -> (i64, i64) {
        (self.counters.references.load(Ordering::Relaxed), self.counters.handles.load(Ordering::Relaxed))
    }
}
