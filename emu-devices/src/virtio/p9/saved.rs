//! virtio-9p as snapshots hold it.
//!
//! v86's array: tag as numbers, its length, registers and queues, "9P2000.L", 8192, message size, reply
//! buffer, length of the last reply, fids, file system. Session and files, and our own state, are
//! translated by `p9::saved`.
//!
//! v86 uses the reply buffer as it is after restoring, so it must have the size that v86 would have
//! given it. What is in it means nothing, nor does the length of the last reply.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{TAG_LEN, VirtioP9};
use crate::device::DeviceState;
use crate::limits::VIRTIO_P9_MESSAGE;
use crate::p9::saved::{RestoreError, SaveError, SavedServer, SessionValues};
use crate::p9::wire;

type Result<T> = std::result::Result<T, FieldError>;

/// Block size v86 reports to nobody.
const BLOCK_SIZE: u32 = 8192;
/// Element that is the file system, and in that the inodes.
const FILES: usize = 9;
const INODES: usize = 0;

pub(super) struct SavedP9 {
    tag: Vec<u8>,
    /// `None` if the snapshot has none.
    session: Option<SavedServer>,
}

impl SavedP9 {
    pub(super) fn capture(p9: &mut VirtioP9) -> std::result::Result<Self, SaveError> {
        let VirtioP9 { tag, handler, request: _, reply: _, report: _ } = p9;
        Ok(Self { tag: tag.clone(), session: Some(handler.save()?) })
    }

    pub(super) fn into_state(self, core: Value) -> (DeviceState, u32) {
        let tag_len = self.tag.len() as u32;
        let tag = self.tag.into_iter().map(Value::from).collect::<Vec<_>>();
        let SessionValues { msize, fids, files, extra, not_for_v86 } =
            self.session.map(SavedServer::into_values).unwrap_or_default();
        let reply = vec![0; VIRTIO_P9_MESSAGE.min(2 * msize as usize)];
        let version = Value::text(wire::VERSION);
        let v86 =
            values![tag, tag_len, core, version, BLOCK_SIZE, msize, Value::bytes(reply), 0, fids, files];
        (DeviceState { v86, extra }, not_for_v86)
    }

    /// What is missing is as in `p9`. Uses the state up.
    pub(super) fn read(state: &mut DeviceState, p9: &VirtioP9) -> Result<Self> {
        let mut saved = Self { tag: p9.tag.clone(), session: None };
        let mut values =
            SessionValues { extra: std::mem::take(&mut state.extra), ..SessionValues::default() };
        if let Some(mut f) = Fields::of(&mut state.v86)? {
            if matches!(f.get(3), Value::Map(_)) {
                return Err(FieldError::at(
                    3,
                    "the files are not in the snapshot but with whoever served them",
                ));
            }
            let length = f.u32(1)?;
            let tag = f.array(0, |f| {
                let length = length.map_or(f.len(), |length| f.len().min(length as usize)).min(TAG_LEN);
                (0..length).map(|n| Ok(f.u8(n)?.unwrap_or(0))).collect::<Result<Vec<_>>>()
            })?;
            saved.tag = tag.unwrap_or(saved.tag);
            if f.text(3)?.is_some_and(|version| version != wire::VERSION) {
                return Err(FieldError::at(3, "another protocol"));
            }
            f.u32(4)?;
            values.msize = f.u32(5)?.unwrap_or(crate::limits::P9_DEFAULT_MSIZE);
            f.bytes_up_to(6, VIRTIO_P9_MESSAGE)?;
            f.u32(7)?;
            values.fids = f.take(8);
            values.files = f.take(FILES);
        }
        saved.session = SavedServer::from_values(&mut values)?;
        Ok(saved)
    }

    pub(super) fn apply(self, p9: &mut VirtioP9) -> Result<()> {
        let Self { tag, session } = self;
        if let Some(session) = session {
            p9.handler.restore(session).map_err(|error| {
                let reason = error.to_string();
                match error {
                    RestoreError::Inode { inode, .. } => {
                        FieldError::at(inode as usize, reason).within(INODES).within(FILES)
                    }
                    _ => FieldError::at(FILES, reason),
                }
            })?;
        }
        p9.tag = tag;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::p9::Server;
    use crate::p9::testfs::MemFs;
    use crate::p9::wire::{Writer, request};
    use crate::snapshot_conformance;
    use crate::testing::TestBoard;
    use crate::virtio::driver::Driver;
    use crate::virtio::p9::REQUESTS;
    use crate::virtio::{P9Handler, SaveReport, Slot, VirtioDevice, VirtioPci};

    fn make() -> VirtioPci<VirtioP9> {
        VirtioPci::new(VirtioP9::new("host9p", Box::new(Server::new(Box::new(MemFs::new().0)))), Slot::P9)
    }

    /// Asks and returns the body of the answer.
    fn ask(d: &mut Driver<VirtioP9>, kind: u8, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut message = Vec::new();
        let mut writer = Writer::new(&mut message, 4096, kind, 1).unwrap();
        fill(&mut writer);
        writer.finish();
        let sent = d.add(REQUESTS, &[&message], &[4096]);
        d.kick(REQUESTS);
        let used = d.used(REQUESTS);
        assert_eq!(used.len(), 1);
        let reply = d.get(sent.out[0], used[0].1 as usize);
        assert_eq!(reply[4], kind + 1, "no error");
        reply[wire::HEADER..].to_vec()
    }

    fn fill(writer: &mut Writer<'_>, numbers: &[u32], text: &[u8], more: &[u32]) {
        numbers.iter().for_each(|n| writer.u32(*n).unwrap());
        writer.string(text).unwrap();
        more.iter().for_each(|n| writer.u32(*n).unwrap());
    }

    /// Fid 0 is the root, 2 an open file "f" with contents and a lock, 9000 (beyond the table) the root,
    /// listed half. There are a link, a directory, a socket and a device.
    fn busy(d: &mut Driver<VirtioP9>) {
        d.start(d.dev.device().features());
        ask(d, request::VERSION, |w| fill(w, &[8192], b"9P2000.L", &[]));
        ask(d, request::ATTACH, |w| {
            w.u32(0).unwrap();
            w.u32(wire::NO_FID).unwrap();
            w.string(b"").unwrap();
            w.string(b"").unwrap();
            w.u32(wire::NO_UID).unwrap();
        });
        for fid in [2, 9000] {
            ask(d, request::WALK, |w| {
                w.u32(0).unwrap();
                w.u32(fid).unwrap();
                w.u16(0).unwrap();
            });
        }
        ask(d, request::LCREATE, |w| fill(w, &[2], b"f\xFF", &[2, 0o600, 7]));
        ask(d, request::WRITE, |w| {
            w.u32(2).unwrap();
            w.u64(0).unwrap();
            w.u32(5).unwrap();
            w.bytes(b"hello").unwrap();
        });
        ask(d, request::MKDIR, |w| fill(w, &[0], b"d", &[0o755, 0]));
        ask(d, request::SYMLINK, |w| {
            w.u32(0).unwrap();
            w.string(b"l").unwrap();
            w.string(b"f").unwrap();
            w.u32(0).unwrap();
        });
        ask(d, request::MKNOD, |w| fill(w, &[0], b"s", &[0o140777, 3, 4, 0]));
        ask(d, request::MKNOD, |w| fill(w, &[0], b"tty", &[0o020666, 5, 1, 0]));
        ask(d, request::SETATTR, |w| {
            let (atime_set, mtime_set) = (1 << 4 | 1 << 7, 1 << 5 | 1 << 8);
            [2, atime_set | mtime_set, 0, 0, 0].iter().for_each(|n| w.u32(*n).unwrap());
            [0u64, 1 << 60, 5, 77, 6].iter().for_each(|n| w.u64(*n).unwrap());
        });
        for (start, length) in [(3, 4), (1 << 60, 0)] {
            ask(d, request::LOCK, |w| {
                w.u32(2).unwrap();
                w.u8(1).unwrap();
                w.u32(0).unwrap();
                w.u64(start).unwrap();
                w.u64(length).unwrap();
                w.u32(42).unwrap();
                w.string(b"guest").unwrap();
            });
        }
        ask(d, request::LOPEN, |w| [9000, 0].iter().for_each(|n| w.u32(*n).unwrap()));
    }

    snapshot_conformance!(
        saved_p9_conforms,
        make: make,
        exercise: |dev, board| {
            let mut d = Driver::over(std::mem::replace(dev, make()), std::mem::take(board));
            busy(&mut d);
            (*dev, *board) = (d.dev, d.bench);
        },
        ignored: &[],
    );

    fn busy_driver() -> Driver<VirtioP9> {
        let mut d = Driver::over(make(), TestBoard::new());
        busy(&mut d);
        d
    }

    #[test]
    fn saved_p9_is_v86s_array() {
        let mut d = busy_driver();
        let DeviceState { v86, extra } = d.dev.save(&mut d.bench.ctx());
        assert_eq!(*d.dev.device().save_report(), SaveReport::default());
        let Value::Array(items) = v86 else { panic!() };
        let tag = b"host9p".map(Value::from).to_vec();
        let text = Value::text("9P2000.L");
        assert_eq!(items[..2], [Value::from(tag), Value::Int(6)]);
        assert_eq!(items[3..8], [text, 8192.into(), 8192.into(), Value::bytes(vec![0; 16384]), 0.into()]);
        let unused = || values![-1, -1, 0, Value::text("")];
        let file = values![10, 1, u32::MAX, Value::text(b"f\xFF")];
        assert_eq!(items[8], values![values![0, 1, u32::MAX, Value::text("")], unused(), file]);
        // "." and "..", then in order of creation; numbers between are not in use.
        let name = |name: &[u8], inode: i64| values![Value::text(name), inode];
        let root = values![
            name(b".", 0),
            name(b"..", 0),
            name(b"f\xFF", 10),
            name(b"d", 11),
            name(b"l", 12),
            name(b"s", 13),
            name(b"tty", 14)
        ];
        let none = || Value::Array(vec![]);
        let inode = |mode: i64, body: Value, index: i64, nlink: i64| {
            values![mode, body, none(), 0, 0, 65534, 0, index, 0, 0, 0, 0, index, nlink]
        };
        let mut inodes = vec![values![0o040755, root, none(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3]];
        inodes.extend(
            (1..10).map(|n| values![0o100000, Value::text(""), none(), -1, 0, 0, 0, n, 0, 0, 0, 0, 0, 0]),
        );
        let lock = values![1, 3, 4, 42, Value::text("guest")];
        let (seconds, empty) = (1i64 << 53, Value::text(""));
        inodes.push(values![0o100600, empty, values![lock], 0, 5, 65534, 7, 10, 0, seconds, 77, 0, 10, 1]);
        inodes.push(inode(0o040755, values![name(b".", 11), name(b"..", 0)], 11, 2));
        inodes.push(inode(0o120777, Value::text("f"), 12, 1));
        inodes.push(inode(0o140777, values![0, 0], 13, 1));
        inodes.push(inode(0o020666, Value::Null, 14, 1));
        let contents = values![values![Value::text("10"), Value::bytes(*b"hello")]];
        assert_eq!(items[9], values![inodes, 15, contents, 5i64 << 30, 7]);
        assert_eq!(items.len(), 10);

        let fids = [0, u32::MAX, 0, 0, 2, 0, 3, 0, 9000, u32::MAX, 1, 0];
        let Value::Array(own) = extra else { panic!() };
        let expected = values![
            1,
            values![values![9000, 0, u32::MAX, Value::text("")]],
            Value::u32s(&fids),
            values![values![10, true, 1i64 << 60, 0, 42, Value::text("guest")]],
            Value::u32s(&[10, 0, 5, 6]),
            Value::u32s(&[14, 5, 1]),
            values![values![10, 0, 1i64 << 60, 77, 10]],
            15,
        ];
        let Value::Array(expected) = expected else { panic!() };
        assert_eq!(own[..8], expected);
        assert_eq!(own[9], Value::Null);
    }

    #[test]
    fn restored_p9_goes_on_with_open_files() {
        let mut d = busy_driver();
        let state = d.dev.save(&mut d.bench.ctx());
        d.dev = make();
        d.dev.restore(&mut d.bench.ctx(), state).unwrap();
        let read = ask(&mut d, request::READ, |w| {
            w.u32(2).unwrap();
            w.u64(1).unwrap();
            w.u32(100).unwrap();
        });
        assert_eq!(read, b"\x04\0\0\0ello");
        let listed = ask(&mut d, request::READDIR, |w| {
            w.u32(9000).unwrap();
            w.u64(11).unwrap();
            w.u32(100).unwrap();
        });
        assert!(listed.ends_with(b"\x03\0tty") && !listed.windows(3).any(|name| name == b"\x01\0d"));
    }

    /// As v86 saves it: one data array is too long, a fid was given back, one is an xattr, there is junk
    /// above the mode.
    #[test]
    fn restored_p9_of_v86_is_taken_over() {
        let (none, empty) = (|| Value::Array(vec![]), || Value::text(""));
        let name = |name: &str, inode: i64| values![Value::text(name), inode];
        let root = values![name(".", 0), name("..", 0), name("f", 1), name("c", 2)];
        let inodes = values![
            values![2147500525i64, root, none(), 0, 0, 0, 0, 0, 1.5, 7, 7, 0, 1, 3],
            values![0o100644, Value::text("old.bin"), none(), 0, 5, -1, 4294967295i64, 1, 7, 8, 9, 2, 2, 1],
            values![0o100644, Value::text("2cf24dba.bin"), none(), 2, 5, 0, 0, 2, 7, 8, 9, 2, 3, 1],
            values![0o100644, Value::text("2cf24dba.bin"), none(), 4, 5, 0, 0, 3, 7, 8, 9, 2, 4, 0],
            values![0o100644, empty(), none(), -1, 0, 0, 0, 4, 7, 8, 9, 2, 5, 0],
            values![0o140777, values![4, 3], none(), 0, 0, 0, 0, 5, 7, 8, 9, 2, 6, 1],
        ];
        let contents = values![values![Value::text("1"), Value::bytes(*b"hello\0\0")]];
        let fid = |inode: i64, kind: i64| values![inode, kind, 1000, empty()];
        let mut values = SessionValues {
            msize: 8192,
            fids: values![fid(0, 1), fid(-1, -1), Value::Null, fid(1, 2), fid(3, 1)],
            files: values![inodes, 5, contents, 274877906944i64, 3],
            ..SessionValues::default()
        };
        let saved = SavedServer::from_values(&mut values).unwrap().unwrap();
        use crate::p9::saved::{SavedBody, SavedContents, SavedIo};
        let fids: Vec<_> = saved.fids.iter().map(|fid| (fid.fid, fid.inode, fid.io)).collect();
        assert_eq!(fids, [(0, 0, SavedIo::Unknown), (3, 1, SavedIo::Closed), (4, 3, SavedIo::Unknown)]);
        let inode = |n: usize| saved.tree.inodes[n].as_ref().unwrap();
        assert_eq!((inode(0).mode, inode(0).ctime.sec), (2147500525, 1));
        assert_eq!((inode(1).uid, inode(1).gid), (u32::MAX, u32::MAX));
        assert_eq!(inode(1).body, SavedBody::File(SavedContents::Bytes(b"hello\0\0".to_vec())));
        for n in [2, 3] {
            assert_eq!(inode(n).body, SavedBody::File(SavedContents::Stored("2cf24dba.bin".into())));
        }
        assert_eq!(saved.tree.inodes[4], None);
        assert_eq!(inode(5).body, SavedBody::Special(3, 4));
        // Only the first five bytes count.
        let Value::Array(files) = saved.into_values().files else { panic!() };
        assert_eq!(files[2], values![values![Value::text("1"), Value::bytes(*b"hello")]]);
        let Value::Array(inodes) = &files[0] else { panic!() };
        assert_eq!(inodes[5], values![0o140777, values![4, 3], none(), 0, 0, 0, 0, 5, 7, 8, 9, 2, 6, 1]);
    }

    #[test]
    fn restored_p9_of_another_kind_is_refused() {
        let mut d = Driver::over(make(), TestBoard::new());
        let mut refused = |v86: Value, path: &[u32]| {
            let result = d.dev.restore(&mut d.bench.ctx(), DeviceState::v86(v86));
            assert_eq!(result.unwrap_err().path, path);
        };
        let null = || Value::Null;
        refused(values![null(), null(), null(), Value::Map(vec![])], &[3]);
        refused(values![null(), null(), null(), Value::text("9P2000.u")], &[3]);
        let with_files =
            |files| values![null(), null(), null(), null(), null(), null(), null(), null(), null(), files];
        refused(with_files(values![values![]]), &[9]);
        refused(with_files(values![null(), 0, null(), 0, 0, values![]]), &[9, 5]);
        refused(with_files(values![values![values![0o100644, null(), null(), 5]]]), &[9, 0, 0, 3]);
        refused(with_files(values![null(), 0, values![values![Value::text("x"), null()]]]), &[9, 2, 0, 0]);
    }

    #[test]
    fn saving_what_cannot_be_saved_is_reported() {
        struct Other;
        impl P9Handler for Other {
            fn handle(&mut self, _: &[u8], _: &mut Vec<u8>, _: usize) {}
            fn reset(&mut self) {}
        }
        let mut d =
            Driver::over(VirtioPci::new(VirtioP9::new("x", Box::new(Other)), Slot::P9), TestBoard::new());
        assert_eq!(d.dev.save(&mut d.bench.ctx()), DeviceState::default());
        assert_eq!(d.dev.device().save_report().error, Some(SaveError::Unsupported));
        let state = DeviceState::v86(make().save(&mut d.bench.ctx()).v86);
        assert_eq!(d.dev.restore(&mut d.bench.ctx(), state).unwrap_err().path, [9]);
    }
}
