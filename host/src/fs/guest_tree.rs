//! The overlay as the search for a kernel sees it (`bzimage_initrd_from_filesystem`).
//!
//! Only regular files count: v86 follows no symbolic links there, and Debian's `/vmlinuz` is one. Names
//! that are not UTF-8 are passed over.

use std::io;

use emu_devices::p9::Errno;
use emu_devices::p9::fs::mode;

use super::overlay::Overlay;
use crate::image::kernel_source::GuestTree;

impl GuestTree for Overlay {
    fn files(&mut self, path: &str) -> io::Result<Vec<String>> {
        let names = match self.list_dir(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Vec::new()),
            other => other.map_err(error)?,
        };
        let files = names.iter().filter(|(_, file_mode)| file_mode & mode::TYPE == mode::REGULAR);
        Ok(files.filter_map(|(name, _)| std::str::from_utf8(name).ok().map(str::to_owned)).collect())
    }

    fn read(&mut self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        self.read_file(path, limit).map_err(error)
    }
}

/// Linux's error numbers are not the host's everywhere.
fn error(errno: Errno) -> io::Error {
    match errno {
        Errno::ENOENT => io::ErrorKind::NotFound.into(),
        Errno::EFBIG => io::ErrorKind::FileTooLarge.into(),
        // Its reason has been reported.
        Errno::EIO => io::Error::other("its content file cannot be used"),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::{SAMPLE, overlay};

    #[test]
    fn files_are_regular_ones_in_order() {
        let mut tree = overlay(
            r#"{"version":3,"fsroot":[
                ["vmlinuz",1,0,41471,0,0,"boot/vmlinuz"], ["initrd",5,0,33188,0,0,"hello"],
                ["boot",0,0,16877,0,0,[
                    ["z",5,0,33188,0,0,"hello"], ["initrd.d",0,0,16877,0,0,[]],
                    ["caf\udce9",5,0,33188,0,0,"hello"], ["a",5,0,33188,0,0,"hello"]]]]}"#,
        );
        assert_eq!(tree.files("/").unwrap(), ["initrd"]);
        assert_eq!(tree.files("/boot/").unwrap(), ["z", "a"]);
        assert!(tree.files("/nothing").unwrap().is_empty());
        assert!(tree.files("/vmlinuz").unwrap().is_empty());
    }

    #[test]
    fn read_gives_contents_up_to_the_limit() {
        let mut tree = overlay(SAMPLE);
        assert_eq!(tree.read("/etc/motd", 5).unwrap(), b"hello");
        assert_eq!(tree.read("/etc/motd", 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(tree.read("/etc/none", 4).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(tree.read("/etc/missing", 5).unwrap_err().to_string().contains("content file"));
    }
}
