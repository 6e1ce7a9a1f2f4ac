//! A guest for tests of the console; see `guests/console.s`.

use std::fs;
use std::path::PathBuf;

/// An image directory of that guest.
pub struct ConsoleImage {
    dir: tempfile::TempDir,
}

impl ConsoleImage {
    /// Writes it to a temporary place.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let hex: Vec<u8> =
            include_str!("../guests/console.bin.hex").bytes().filter(u8::is_ascii_hexdigit).collect();
        let digit = |c: u8| char::from(c).to_digit(16).expect("a digit") as u8;
        let kernel: Vec<u8> = hex.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
        fs::write(dir.path().join("kernel"), kernel).expect("temporary file");
        let json = r#"{"multiboot": {"url": "./kernel"}, "memory_size": 2097152}"#;
        fs::write(dir.path().join("image.json"), json).expect("temporary file");
        Self { dir }
    }

    /// Path of the image.
    pub fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}
