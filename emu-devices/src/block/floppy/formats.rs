//! Floppy disk formats, told apart by the size of the image.

/// CMOS drive type of a 360 KB 5.25-inch drive.
pub const TYPE_360K: u8 = 1;
/// CMOS drive type of a 1.2 MB 5.25-inch drive.
pub const TYPE_1200K: u8 = 2;
/// CMOS drive type of a 720 KB 3.5-inch drive.
pub const TYPE_720K: u8 = 3;
/// CMOS drive type of a 1.44 MB 3.5-inch drive.
pub const TYPE_1440K: u8 = 4;
/// CMOS drive type of a 2.88 MB 3.5-inch drive.
pub const TYPE_2880K: u8 = 5;

/// How a disk is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// CMOS type of the drive it is for.
    pub drive_type: u8,
    /// Sectors per track.
    pub sectors: u8,
    /// Tracks per side.
    pub tracks: u8,
    /// Sides.
    pub heads: u8,
}

impl Format {
    /// Bytes on the disk.
    pub const fn bytes(&self) -> u64 {
        self.sectors as u64 * self.tracks as u64 * self.heads as u64 * 512
    }
}

const fn format(drive_type: u8, sectors: u8, tracks: u8, heads: u8) -> Format {
    Format { drive_type, sectors, tracks, heads }
}

/// All formats; several have the same size, the first match wins.
pub const FORMATS: [Format; 36] = [
    format(TYPE_1440K, 18, 80, 2),
    format(TYPE_1440K, 20, 80, 2),
    format(TYPE_1440K, 21, 80, 2),
    format(TYPE_1440K, 21, 82, 2),
    format(TYPE_1440K, 21, 83, 2),
    format(TYPE_1440K, 22, 80, 2),
    format(TYPE_1440K, 23, 80, 2),
    format(TYPE_1440K, 24, 80, 2),
    format(TYPE_2880K, 36, 80, 2),
    format(TYPE_2880K, 39, 80, 2),
    format(TYPE_2880K, 40, 80, 2),
    format(TYPE_2880K, 44, 80, 2),
    format(TYPE_2880K, 48, 80, 2),
    format(TYPE_1440K, 8, 80, 2),
    format(TYPE_1440K, 9, 80, 2),
    format(TYPE_1440K, 10, 80, 2),
    format(TYPE_1440K, 10, 82, 2),
    format(TYPE_1440K, 10, 83, 2),
    format(TYPE_1440K, 13, 80, 2),
    format(TYPE_1440K, 14, 80, 2),
    format(TYPE_1200K, 15, 80, 2),
    format(TYPE_1200K, 18, 80, 2),
    format(TYPE_1200K, 18, 82, 2),
    format(TYPE_1200K, 18, 83, 2),
    format(TYPE_1200K, 20, 80, 2),
    format(TYPE_1200K, 9, 80, 2),
    format(TYPE_1200K, 11, 80, 2),
    format(TYPE_1200K, 9, 40, 2),
    format(TYPE_1200K, 9, 40, 1),
    format(TYPE_1200K, 10, 41, 2),
    format(TYPE_1200K, 10, 42, 2),
    format(TYPE_1200K, 8, 40, 2),
    format(TYPE_1200K, 8, 40, 1),
    format(TYPE_1440K, 9, 80, 1),
    format(TYPE_360K, 10, 40, 1),
    format(TYPE_360K, 10, 40, 2),
];

/// True for drives that take 3.5-inch disks.
fn is_small(drive_type: u8) -> bool {
    matches!(drive_type, TYPE_720K | TYPE_1440K | TYPE_2880K)
}

/// Format for an image of `bytes`. With a known drive, formats of its type are preferred, then of
/// its disk size, then any. Without an exact match it is the smallest format the image fits on;
/// `None` if it fits on none.
pub fn find(bytes: u64, drive_type: Option<u8>) -> Option<Format> {
    let exact = || FORMATS.iter().copied().filter(|f| f.bytes() == bytes);
    exact()
        .find(|f| drive_type.is_none_or(|t| t == f.drive_type))
        .or_else(|| exact().find(|f| drive_type.is_some_and(|t| is_small(t) == is_small(f.drive_type))))
        .or_else(|| exact().next())
        .or_else(|| FORMATS.iter().copied().filter(|f| f.bytes() > bytes).min_by_key(Format::bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floppy_format_is_found_by_size_and_drive() {
        assert_eq!(find(1_474_560, None), Some(format(TYPE_1440K, 18, 80, 2)));
        assert_eq!(find(1_474_560, Some(TYPE_1200K)), Some(format(TYPE_1200K, 18, 80, 2)));
        assert_eq!(find(1_474_560, Some(TYPE_2880K)), Some(format(TYPE_1440K, 18, 80, 2)));
        assert_eq!(find(368_640, None), Some(format(TYPE_1200K, 9, 40, 2)));
        assert_eq!(find(368_640, Some(TYPE_1440K)), Some(format(TYPE_1440K, 9, 80, 1)));
        assert_eq!(find(409_600, None), Some(format(TYPE_360K, 10, 40, 2)));
    }

    #[test]
    fn floppy_image_of_odd_size_gets_the_next_larger_format_or_none() {
        assert_eq!(find(512, None), Some(format(TYPE_1200K, 8, 40, 1)));
        assert_eq!(find(1_474_559, None), Some(format(TYPE_1440K, 18, 80, 2)));
        assert_eq!(find(3_932_160, None), Some(format(TYPE_2880K, 48, 80, 2)));
        assert_eq!(find(3_932_161, None), None);
    }
}
