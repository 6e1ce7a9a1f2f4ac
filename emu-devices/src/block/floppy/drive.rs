//! A floppy drive and the disk in it.

use super::formats;
use crate::block::backend::{BlockBackend, PaddedDisk};

/// Bytes of a sector.
pub(super) const SECTOR: usize = 512;

/// A medium that does not fit any format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Floppy image has {0} bytes, the largest format holds 3932160")]
pub struct ImageTooLarge(pub u64);

/// A drive and its medium.
pub(super) struct Drive {
    /// CMOS type; `None` until the first medium or the first power-up decides.
    pub(super) drive_type: Option<u8>,
    pub(super) tracks: u8,
    pub(super) heads: u8,
    pub(super) sectors: u8,
    pub(super) track: u8,
    pub(super) head: u8,
    pub(super) sector: u8,
    pub(super) perpendicular: u8,
    pub(super) read_only: bool,
    pub(super) changed: bool,
    pub(super) medium: Option<Box<dyn BlockBackend>>,
}

/// Why a position cannot be reached.
pub(super) enum SeekError {
    Track,
    Sector,
}

impl Drive {
    pub(super) fn new() -> Self {
        Self {
            drive_type: None,
            tracks: 0,
            heads: 0,
            sectors: 0,
            track: 0,
            head: 0,
            sector: 1,
            perpendicular: 0,
            read_only: false,
            changed: true,
            medium: None,
        }
    }

    pub(super) fn insert(
        &mut self,
        medium: Box<dyn BlockBackend>,
        read_only: bool,
    ) -> Result<(), ImageTooLarge> {
        let bytes = medium.len();
        let format = formats::find(bytes, self.drive_type).ok_or(ImageTooLarge(bytes))?;
        (self.tracks, self.heads, self.sectors) = (format.tracks, format.heads, format.sectors);
        self.read_only = read_only || medium.is_read_only();
        self.changed = true;
        self.drive_type = self.drive_type.or(Some(format.drive_type));
        self.medium = Some(match bytes < format.bytes() {
            true => Box::new(PaddedDisk::new(medium, format.bytes())),
            false => medium,
        });
        Ok(())
    }

    pub(super) fn eject(&mut self) -> Option<Box<dyn BlockBackend>> {
        (self.tracks, self.heads, self.sectors) = (0, 0, 0);
        self.changed = true;
        self.read_only = false;
        self.medium.take()
    }

    pub(super) fn seek(&mut self, head: u8, track: u8, sector: u8) -> Result<(), SeekError> {
        if track > self.tracks || (head != 0 && self.heads == 1) {
            return Err(SeekError::Track);
        }
        if sector > self.sectors {
            return Err(SeekError::Sector);
        }
        if self.track != track && self.medium.is_some() {
            self.changed = false;
        }
        (self.head, self.track, self.sector) = (head, track, sector);
        match self.medium {
            Some(_) => Ok(()),
            None => Err(SeekError::Track),
        }
    }

    /// Medium offset of a sector; `None` if it does not exist.
    pub(super) fn offset(&self, at: Address) -> Option<u64> {
        if at.track >= self.tracks || at.head >= self.heads || at.sector > self.sectors {
            return None;
        }
        let track = u64::from(at.track) * u64::from(self.heads) + u64::from(at.head);
        let lba = track * u64::from(self.sectors) + u64::from(at.sector.checked_sub(1)?);
        Some(lba * SECTOR as u64)
    }
}

/// Track, head and sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) track: u8,
    pub(super) head: u8,
    pub(super) sector: u8,
}
