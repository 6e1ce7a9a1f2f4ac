//! Attributes of files and of the file system.

use super::{Result, Server};
use crate::p9::errno::Errno;
use crate::p9::fs::{SetAttr, SetTime, Time, mode};
use crate::p9::wire::{Reader, Writer, getattr, setattr};

impl Server {
    /// Tgetattr: fid[4] request_mask[8] -> valid[8] qid[13] mode[4] uid[4] gid[4] nlink[8] rdev[8]
    /// size[8] blksize[8] blocks[8] and seconds[8] nanoseconds[8] of access, change of contents,
    /// change of anything and creation; gen[8] data_version[8]
    pub(super) fn getattr(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let node = self.node(m.u32()?)?;
        let wanted = m.u64()?;
        let attr = self.fs.getattr(node)?;
        let known = getattr::BASIC | getattr::GEN | if attr.btime.is_some() { getattr::BTIME } else { 0 };
        out.u64(wanted & known)?;
        out.qid(attr.qid)?;
        out.u32(attr.mode)?;
        out.u32(attr.uid)?;
        out.u32(attr.gid)?;
        out.u64(attr.nlink)?;
        out.u64(encode_device(attr.rdev))?;
        out.u64(attr.size)?;
        out.u64(attr.blksize)?;
        out.u64(attr.blocks)?;
        out.time(attr.atime)?;
        out.time(attr.mtime)?;
        out.time(attr.ctime)?;
        out.time(attr.btime.unwrap_or_default())?;
        out.u64(attr.generation)?;
        out.u64(0)
    }

    /// Tsetattr: fid[4] valid[4] mode[4] uid[4] gid[4] size[8] and seconds[8] nanoseconds[8] of
    /// access and change
    pub(super) fn setattr(&mut self, m: &mut Reader<'_>) -> Result<()> {
        let node = self.node(m.u32()?)?;
        let valid = m.u32()?;
        let new_mode = m.u32()? & mode::PERMISSIONS;
        let uid = m.u32()?;
        let gid = m.u32()?;
        let size = m.u64()?;
        let atime = (m.u64()?, m.u64()?);
        let mtime = (m.u64()?, m.u64()?);
        let has = |bit| valid & bit != 0;
        let set = SetAttr {
            mode: has(setattr::MODE).then_some(new_mode),
            // As with chown(2), -1 leaves it alone.
            uid: (has(setattr::UID) && uid != u32::MAX).then_some(uid),
            gid: (has(setattr::GID) && gid != u32::MAX).then_some(gid),
            size: has(setattr::SIZE).then_some(size),
            atime: set_time(has(setattr::ATIME), has(setattr::ATIME_SET), atime)?,
            mtime: set_time(has(setattr::MTIME), has(setattr::MTIME_SET), mtime)?,
        };
        // The bit for ctime needs nothing done: any change sets it.
        self.fs.setattr(node, &set)
    }

    /// Tstatfs: fid[4] -> type[4] bsize[4] blocks[8] bfree[8] bavail[8] files[8] ffree[8] fsid[8]
    /// namelen[4]
    pub(super) fn statfs(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        self.node(m.u32()?)?;
        let totals = self.fs.statfs()?;
        out.u32(totals.kind)?;
        out.u32(totals.bsize)?;
        for value in [totals.blocks, totals.bfree, totals.bavail, totals.files, totals.ffree, totals.fsid] {
            out.u64(value)?;
        }
        out.u32(totals.namelen)
    }

    /// Txattrwalk, Txattrcreate: there are no extended attributes. Linux takes this answer as "none"
    /// and does not ask again for access control lists.
    pub(super) fn xattr(&mut self, m: &mut Reader<'_>) -> Result<()> {
        self.node(m.u32()?)?;
        Err(Errno::EOPNOTSUPP)
    }
}

/// Device number as Linux passes it to user space (`new_encode_dev`).
fn encode_device((major, minor): (u32, u32)) -> u64 {
    let value = minor & 0xff | major << 8 | (minor & !0xff) << 12;
    u64::from(value)
}

fn set_time(now: bool, given: bool, (sec, nsec): (u64, u64)) -> Result<Option<SetTime>> {
    if given {
        let nsec = u32::try_from(nsec).ok().filter(|nsec| *nsec < 1_000_000_000).ok_or(Errno::EINVAL)?;
        return Ok(Some(SetTime::To(Time { sec: sec.cast_signed(), nsec })));
    }
    Ok(now.then_some(SetTime::Now))
}
