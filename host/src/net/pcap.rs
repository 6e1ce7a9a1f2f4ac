//! Capture files in the classic format of libpcap: microseconds, Ethernet.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

/// Longest part of a frame that is written.
const SNAP: u32 = 65535;

/// A capture file. When it cannot be written any more, the capture ends and the network goes on.
pub(super) struct Pcap {
    file: Option<BufWriter<File>>,
    unflushed: bool,
}

impl Pcap {
    /// Creates the file.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(64 << 10, File::create(path)?);
        let mut header = Vec::with_capacity(24);
        header.extend(0xa1b2_c3d4_u32.to_le_bytes());
        header.extend([2, 0, 4, 0]); // version 2.4
        header.extend([0; 8]); // UTC; accuracy
        header.extend(SNAP.to_le_bytes());
        header.extend(1_u32.to_le_bytes()); // LINKTYPE_ETHERNET
        file.write_all(&header)?;
        file.flush()?;
        Ok(Self { file: Some(file), unflushed: false })
    }

    /// Adds a frame that passed at that time since 1970.
    pub(super) fn write(&mut self, frame: &[u8], at: Duration) {
        let Some(file) = &mut self.file else { return };
        let mut record = [0; 16];
        let words = [at.as_secs() as u32, at.subsec_micros(), frame.len() as u32, frame.len() as u32];
        for (space, word) in record.chunks_exact_mut(4).zip(words) {
            space.copy_from_slice(&word.to_le_bytes());
        }
        if file.write_all(&record).and_then(|()| file.write_all(frame)).is_err() {
            self.file = None;
        }
        self.unflushed = true;
    }

    /// Hands everything to the host, so that somebody else can look at it.
    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.unflushed)
            && let Some(file) = &mut self.file
            && file.flush().is_err()
        {
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcap_has_header_and_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let mut pcap = Pcap::create(&path).unwrap();
        pcap.write(&[1, 2, 3], Duration::new(5, 7_000_000));
        pcap.flush();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(bytes[16..24], [0xff, 0xff, 0, 0, 1, 0, 0, 0]);
        let record = [5, 0, 0, 0, 0x58, 0x1b, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3];
        assert_eq!(bytes[24..], record);
    }

    #[test]
    fn pcap_that_cannot_be_written_ends() {
        let mut pcap = Pcap::create(Path::new("/dev/full")).err();
        assert!(pcap.take().is_some(), "the header does not fit on a full disk");
        assert!(Pcap::create(Path::new("/nonexistent/x.pcap")).is_err());
    }
}
