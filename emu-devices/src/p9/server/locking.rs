//! Byte range locks.

use std::sync::Arc;

use super::{Result, Server};
use crate::limits;
use crate::p9::errno::Errno;
use crate::p9::locks::{Lock, LockOwner, last_byte};
use crate::p9::wire::{Reader, Writer, lock};

impl Server {
    /// Tlock: fid[4] type[1] flags[4] start[8] length[8] proc_id[4] client_id[s] -> status[1]
    ///
    /// A client that wants to wait asks again, so a conflict is answered at once in any case.
    pub(super) fn lock(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let fid = m.u32()?;
        let kind = m.u8()?;
        let _flags = m.u32()?;
        let (start, last, owner) = range_and_owner(m)?;
        let node = self.node(fid)?;
        let granted = match kind {
            lock::TYPE_READ | lock::TYPE_WRITE => {
                let exclusive = kind == lock::TYPE_WRITE;
                self.locks.lock(node, Lock { owner, exclusive, start, last, fid: Some(fid) })?
            }
            lock::TYPE_UNLOCK => {
                self.locks.unlock(node, &owner, start, last)?;
                true
            }
            _ => return Err(Errno::EINVAL),
        };
        out.u8(if granted { lock::SUCCESS } else { lock::BLOCKED })
    }

    /// Tgetlock: fid[4] type[1] start[8] length[8] proc_id[4] client_id[s] -> the same without fid:
    /// the lock in the way, or the request with type "unlock" if there is none
    pub(super) fn getlock(&mut self, m: &mut Reader<'_>, out: &mut Writer<'_>) -> Result<()> {
        let fid = m.u32()?;
        let kind = m.u8()?;
        let mut request = m.clone();
        let (start, last, owner) = range_and_owner(m)?;
        let node = self.node(fid)?;
        if !matches!(kind, lock::TYPE_READ | lock::TYPE_WRITE) {
            return Err(Errno::EINVAL);
        }
        match self.locks.conflict(node, &owner, kind == lock::TYPE_WRITE, start, last) {
            Some(other) => {
                out.u8(if other.exclusive { lock::TYPE_WRITE } else { lock::TYPE_READ })?;
                out.u64(other.start)?;
                out.u64(other.length())?;
                out.u32(other.owner.proc_id)?;
                out.string(&other.owner.client_id)
            }
            None => {
                out.u8(lock::TYPE_UNLOCK)?;
                out.u64(request.u64()?)?;
                out.u64(request.u64()?)?;
                out.u32(request.u32()?)?;
                out.string(request.string()?)
            }
        }
    }
}

/// start[8] length[8] proc_id[4] client_id[s] as first byte, last byte and owner.
fn range_and_owner(m: &mut Reader<'_>) -> Result<(u64, u64, LockOwner)> {
    let start = m.u64()?;
    let length = m.u64()?;
    let proc_id = m.u32()?;
    let client_id = m.string()?;
    if client_id.len() > limits::P9_LOCK_CLIENT {
        return Err(Errno::EINVAL);
    }
    Ok((start, last_byte(start, length)?, LockOwner { proc_id, client_id: Arc::from(client_id) }))
}
