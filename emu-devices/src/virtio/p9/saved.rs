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
