//! Opening, reading and writing.

use super::{Place, Result, Server, check_entry_name};
use crate::p9::errno::Errno;
use crate::p9::fid::{Io, Link};
use crate::p9::fs::{Access, Handle, OpenFlags, Qid, mode};
use crate::p9::wire::{Reader, Writer, open_flags};

/// Size of a directory entry without its name: qid[13] offset[8] type[1] length[2].
const DIR_ENTRY: usize = 24;

impl Server {
    /// Tlopen: fid[4] flags[4] -> qid[13] iounit[4]
    pub(super) fn lopen(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let number = m.u32()?;
        let flags = flags(m.u32()?)?;
        let fid = self.fids.get(number)?;
        if matches!(fid.io, Io::Open(..)) {
            return Err(Errno::EINVAL);
        }
        let node = fid.node;
        let handle = self.fs.open(node, flags)?;
        self.fids.set_io(number, Io::Open(handle, flags.access));
        if flags.append {
            self.fids.set_append(number);
        }
        out.qid(self.fs.getattr(node)?.qid)?;
        out.u32(self.iounit())
    }

    /// Tlcreate: fid[4] name[s] flags[4] mode[4] gid[4] -> qid[13] iounit[4]
    ///
    /// The fid, which stood for the directory, stands for the new file then. Linux sends this only
    /// for a name that does not exist, so O_EXCL is implied.
    pub(super) fn lcreate(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let number = m.u32()?;
        let name = m.string()?;
        let flags = flags(m.u32()?)?;
        let permissions = m.u32()? & mode::PERMISSIONS;
        let gid = m.u32()?;
        check_entry_name(name, Errno::EEXIST)?;
        if flags.directory {
            return Err(Errno::EINVAL);
        }
        let (dir, owner) = self.place_for_new(number, gid)?;
        let fid = self.fids.get(number)?;
        let uid = fid.uid;
        if matches!(fid.io, Io::Open(..)) {
            return Err(Errno::EINVAL);
        }
        let (entry, handle) = self.fs.create(dir, name, permissions, owner, flags)?;
        self.fs.acquire(dir);
        let link = Some(Link { dir, name: name.into() });
        let place = Place { node: entry.node, qid: entry.qid, link };
        self.bind(number, place, uid, Io::Open(handle, flags.access));
        if flags.append {
            self.fids.set_append(number);
        }
        out.qid(entry.qid)?;
        out.u32(self.iounit())
    }

    /// Tread: fid[4] offset[8] count[4] -> count[4] data[count]
    pub(super) fn read(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let number = m.u32()?;
        let offset = m.u64()?;
        let count = m.u32()?;
        let (handle, access) = self.opened(number)?;
        if !access.can_read() {
            return Err(Errno::EBADF);
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        out.counted(count, |buf| self.fs.read(handle, offset, buf))
    }

    /// Twrite: fid[4] offset[8] count[4] data[count] -> count[4]
    pub(super) fn write(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let number = m.u32()?;
        let offset = m.u64()?;
        let count = m.u32()?;
        let data = m.bytes(usize::try_from(count).unwrap_or(usize::MAX))?;
        let (handle, access) = self.opened(number)?;
        if !access.can_write() {
            return Err(Errno::EBADF);
        }
        // The client's idea of the end is old if another program has appended since.
        let fid = self.fids.get(number)?;
        let offset = if fid.append { self.fs.getattr(fid.node)?.size } else { offset };
        let written = self.fs.write(handle, offset, data)?.min(data.len());
        // Not more than the 32-bit count of the request.
        out.u32(u32::try_from(written).unwrap_or(count))
    }

    /// Tfsync: fid[4] datasync[4] (old clients leave the latter out)
    pub(super) fn fsync(&mut self, m: &mut Reader<'_>) -> Result<()> {
        let number = m.u32()?;
        let datasync = m.u32().unwrap_or(0) != 0;
        let (handle, _) = self.opened(number)?;
        self.fs.fsync(handle, datasync)
    }

    /// Treaddir: fid[4] offset[8] count[4] -> count[4] count bytes of
    /// (qid[13] offset[8] type[1] name[s])
    ///
    /// Only whole entries are given. The offset of an entry leads to the one behind it. If there
    /// are more but the first does not fit, the answer is EINVAL; none at all means the end.
    pub(super) fn readdir(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let number = m.u32()?;
        let offset = m.u64()?;
        let count = m.u32()?;
        let (handle, _) = self.opened(number)?;
        let count_at = out.position();
        out.u32(0)?;
        let start = out.position();
        let end = start.saturating_add(out.room().min(usize::try_from(count).unwrap_or(usize::MAX)));
        let mut outcome = Ok(());
        let mut full = false;
        self.fs.readdir(handle, offset, &mut |entry| {
            let size = DIR_ENTRY.saturating_add(entry.name.len());
            full = out.position().saturating_add(size) > end;
            if !full {
                outcome = write_dir_entry(out, entry.qid, entry.cookie, entry.mode, entry.name);
            }
            !full && outcome.is_ok()
        })?;
        outcome?;
        let length = out.position().saturating_sub(start);
        if length == 0 && full {
            return Err(Errno::EINVAL);
        }
        out.patch(count_at, length);
        Ok(())
    }

    /// The handle of an opened fid. One from a snapshot is opened now; it may have been open in
    /// any way.
    fn opened(&mut self, number: u32) -> Result<(Handle, Access)> {
        let fid = self.fids.get(number)?;
        match fid.io {
            Io::Open(handle, access) => return Ok((handle, access)),
            Io::Closed => return Err(Errno::EBADF),
            Io::Restored => {}
        }
        let node = fid.node;
        let mut access = if fid.qid.kind == Qid::DIRECTORY { Access::Read } else { Access::ReadWrite };
        let flags = |access| OpenFlags { access, truncate: false, directory: false, append: false };
        let handle = match self.fs.open(node, flags(access)) {
            Err(Errno::EROFS | Errno::EACCES) => {
                access = Access::Read;
                self.fs.open(node, flags(access))?
            }
            other => other?,
        };
        self.fids.set_io(number, Io::Open(handle, access));
        Ok((handle, access))
    }
}

/// Flags of Tlopen and Tlcreate. O_NONBLOCK, O_DIRECT and so on are the client's business.
fn flags(flags: u32) -> Result<OpenFlags> {
    let access = match flags & open_flags::ACCESS {
        0 => Access::Read,
        open_flags::WRONLY => Access::Write,
        open_flags::RDWR => Access::ReadWrite,
        _ => return Err(Errno::EINVAL),
    };
    Ok(OpenFlags {
        access,
        // Without write access O_TRUNC is undefined; the harmless reading is "no".
        truncate: flags & open_flags::TRUNC != 0 && access.can_write(),
        directory: flags & open_flags::DIRECTORY != 0,
        append: flags & open_flags::APPEND != 0 && access.can_write(),
    })
}

fn write_dir_entry(out: &mut Writer<'_>, qid: Qid, cookie: u64, entry_mode: u32, name: &[u8]) -> Result<()> {
    out.qid(qid)?;
    out.u64(cookie)?;
    // DT_DIR and so on are the type bits of the mode, shifted down.
    out.u8(u8::try_from((entry_mode & mode::TYPE) >> 12).unwrap_or(0))?;
    out.string(name)
}
