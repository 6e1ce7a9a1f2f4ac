//! 9P messages to start from: one of each kind, in an order in which they succeed.

use emu_devices::p9::wire::{self, Writer, request};

struct Message<'a>(Writer<'a>);

impl Message<'_> {
    // The messages are small: there is room.
    fn u8(mut self, v: u8) -> Self {
        let _ = self.0.u8(v);
        self
    }
    fn u16(mut self, v: u16) -> Self {
        let _ = self.0.u16(v);
        self
    }
    fn u32(mut self, v: u32) -> Self {
        let _ = self.0.u32(v);
        self
    }
    fn u64(mut self, v: u64) -> Self {
        let _ = self.0.u64(v);
        self
    }
    fn text(mut self, v: &str) -> Self {
        let _ = self.0.string(v.as_bytes());
        self
    }
    fn data(mut self, v: &[u8]) -> Self {
        let _ = self.0.u32(v.len() as u32);
        let _ = self.0.bytes(v);
        self
    }
}

/// Messages of a session with [`crate::files::server`].
pub fn messages() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut ask = |kind: u8, fill: &dyn for<'a> Fn(Message<'a>) -> Message<'a>| {
        let mut message = Vec::new();
        if let Ok(writer) = Writer::new(&mut message, 4096, kind, 1) {
            fill(Message(writer)).0.finish();
        }
        all.push(message);
    };
    ask(request::VERSION, &|m| m.u32(8192).text("9P2000.L"));
    ask(request::ATTACH, &|m| m.u32(0).u32(wire::NO_FID).text("").text("").u32(0));
    ask(request::WALK, &|m| m.u32(0).u32(1).u16(0));
    ask(request::LCREATE, &|m| m.u32(1).text("new").u32(2).u32(0o600).u32(7));
    ask(request::WRITE, &|m| m.u32(1).u64(3).data(b"hello"));
    ask(request::WRITE, &|m| m.u32(1).u64(70_000).data(b"far"));
    ask(request::READ, &|m| m.u32(1).u64(1).u32(100));
    ask(request::FSYNC, &|m| m.u32(1).u32(0));
    ask(request::MKDIR, &|m| m.u32(0).text("dir").u32(0o755).u32(0));
    ask(request::MKDIR, &|m| m.u32(0).text("gone").u32(0o755).u32(0));
    ask(request::SYMLINK, &|m| m.u32(0).text("link").text("dir/x").u32(0));
    ask(request::MKNOD, &|m| m.u32(0).text("tty").u32(0o020_666).u32(5).u32(1).u32(0));
    ask(request::WALK, &|m| m.u32(0).u32(2).u16(0));
    ask(request::LOPEN, &|m| m.u32(2).u32(0));
    ask(request::READDIR, &|m| m.u32(2).u64(0).u32(200));
    ask(request::LOCK, &|m| m.u32(1).u8(1).u32(0).u64(3).u64(4).u32(42).text("guest"));
    ask(request::LOCK, &|m| m.u32(1).u8(0).u32(0).u64(100).u64(0).u32(43).text("g"));
    ask(request::GETLOCK, &|m| m.u32(1).u8(1).u64(0).u64(0).u32(9).text("o"));
    ask(request::GETATTR, &|m| m.u32(1).u64(0x7FF));
    ask(request::UNLINKAT, &|m| m.u32(0).text("gone").u32(wire::AT_REMOVEDIR));
    ask(request::WALK, &|m| m.u32(0).u32(3).u16(1).text("dir"));
    ask(request::RENAMEAT, &|m| m.u32(0).text("new").u32(3).text("moved"));
    ask(request::WALK, &|m| m.u32(0).u32(4).u16(2).text("etc").text("motd"));
    ask(request::LOPEN, &|m| m.u32(4).u32(2));
    ask(request::READ, &|m| m.u32(4).u64(1).u32(100));
    ask(request::WRITE, &|m| m.u32(4).u64(2).data(b"XX"));
    ask(request::SETATTR, &|m| {
        m.u32(4).u32(0x1FF).u32(0o640).u32(1).u32(2).u64(7).u64(5).u64(6).u64(7).u64(8)
    });
    ask(request::WALK, &|m| m.u32(0).u32(9000).u16(2).text("etc").text("large"));
    ask(request::LOPEN, &|m| m.u32(9000).u32(0));
    ask(request::READ, &|m| m.u32(9000).u64(9_000).u32(500));
    ask(request::WALK, &|m| m.u32(0).u32(6).u16(1).text("link"));
    ask(request::READLINK, &|m| m.u32(6));
    ask(request::LINK, &|m| m.u32(3).u32(4).text("second"));
    ask(request::WALK, &|m| m.u32(1).u32(5).u16(0));
    ask(request::RENAME, &|m| m.u32(4).u32(3).text("third"));
    ask(request::STATFS, &|m| m.u32(0));
    ask(request::XATTRWALK, &|m| m.u32(0).u32(7).text("user.x"));
    ask(request::XATTRCREATE, &|m| m.u32(1).text("user.x").u64(4).u32(0));
    ask(request::FLUSH, &|m| m.u16(1));
    ask(request::UNLINKAT, &|m| m.u32(3).text("moved").u32(0));
    ask(request::REMOVE, &|m| m.u32(6));
    ask(request::CLUNK, &|m| m.u32(5));
    ask(request::VERSION, &|m| m.u32(4096).text("9P2000.L"));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_messages_of_the_session_succeed() {
        let mut server = crate::files::server();
        let mut refused = Vec::new();
        for (n, message) in messages().iter().enumerate() {
            let mut reply = Vec::new();
            server.handle(message, &mut reply, 8192);
            // Rlerror is type 7.
            if reply.get(4) == Some(&7) {
                refused.push((n, message[4]));
            }
        }
        // Extended attributes do not exist.
        assert!(
            refused.iter().all(|(_, kind)| matches!(*kind, request::XATTRWALK | request::XATTRCREATE)),
            "{refused:?}"
        );
    }
}
