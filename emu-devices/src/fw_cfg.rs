//! Firmware configuration device of QEMU in the old style: select a key, read its bytes.
//!
//! Keys as v86 serves them; there is no DMA interface. Files named `genroms/…` run as option ROMs
//! under SeaBIOS.

use emu_core::bus::AccessSize;
use emu_core::snapshot::FieldError;

use crate::device::{Ctx, Device, DeviceState, ResetKind};

mod saved;

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;

const KEY_SIGNATURE: u16 = 0x00;
const KEY_RAM_SIZE: u16 = 0x03;
const KEY_CPUS: u16 = 0x05;
const KEY_NUMA: u16 = 0x0D;
const KEY_MAX_CPUS: u16 = 0x0F;
const KEY_DIRECTORY: u16 = 0x19;
/// Keys of files count from here.
const KEY_FIRST_FILE: u16 = 0xC000;

/// Length of a name in the directory.
const NAME_LEN: usize = 56;

/// The device.
#[derive(Clone, Debug)]
pub struct FwCfg {
    ram_size: u64,
    files: Vec<(String, Vec<u8>)>,
    /// What is being read.
    selected: Vec<u8>,
    position: usize,
}

impl FwCfg {
    /// Ports to claim: `(first, count)`.
    pub const PORTS: &[(u16, u16)] = &[(SELECTOR, 2)];

    /// Without files. `ram_size` is in bytes.
    pub fn new(ram_size: u64) -> Self {
        Self { ram_size, files: Vec::new(), selected: Vec::new(), position: 0 }
    }

    /// Adds a file. Names are cut to 55 bytes. Returns false if there is no key left for it.
    #[must_use]
    pub fn add_file(&mut self, name: &str, content: Vec<u8>) -> bool {
        if self.files.len() >= usize::from(u16::MAX - KEY_FIRST_FILE) {
            return false;
        }
        self.files.push((name.to_owned(), content));
        true
    }

    fn item(&self, key: u16) -> Vec<u8> {
        match key {
            KEY_SIGNATURE => b"QEMU".to_vec(),
            KEY_RAM_SIZE => self.ram_size.to_le_bytes().to_vec(),
            KEY_CPUS | KEY_MAX_CPUS => 1u32.to_le_bytes().to_vec(),
            KEY_NUMA => vec![0; 16],
            KEY_DIRECTORY => self.directory(),
            KEY_FIRST_FILE.. => {
                let file = self.files.get(usize::from(key - KEY_FIRST_FILE));
                file.map_or_else(|| vec![0; 4], |(_, content)| content.clone())
            }
            // Including key 01h: no interface beyond these ports.
            _ => vec![0; 4],
        }
    }

    /// Count and entries, big-endian.
    fn directory(&self) -> Vec<u8> {
        let mut out = (self.files.len() as u32).to_be_bytes().to_vec();
        for (key, (name, content)) in (KEY_FIRST_FILE..).zip(&self.files) {
            out.extend(u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend(key.to_be_bytes());
            out.extend([0, 0]);
            let name = name.bytes().take(NAME_LEN - 1).chain(std::iter::repeat(0));
            out.extend(name.take(NAME_LEN));
        }
        out
    }
}

impl Device for FwCfg {
    fn name(&self) -> &'static str {
        "fw-cfg"
    }

    fn port_read(&mut self, _: &mut Ctx<'_>, port: u16, size: AccessSize) -> Option<u32> {
        if (port, size) != (DATA, AccessSize::Byte) {
            return None;
        }
        let byte = self.selected.get(self.position).copied().unwrap_or(0);
        self.position = self.position.saturating_add(1);
        Some(u32::from(byte))
    }

    /// REP INSB, which firmware uses for files.
    fn port_read_block(&mut self, _: &mut Ctx<'_>, port: u16, size: AccessSize, out: &mut [u8]) -> usize {
        if (port, size) != (DATA, AccessSize::Byte) {
            return 0;
        }
        let rest = self.selected.get(self.position..).unwrap_or_default();
        for (to, from) in out.iter_mut().zip(rest.iter().chain(std::iter::repeat(&0))) {
            *to = *from;
        }
        self.position = self.position.saturating_add(out.len());
        out.len()
    }

    fn port_write(&mut self, _: &mut Ctx<'_>, port: u16, size: AccessSize, value: u32) {
        if (port, size) == (SELECTOR, AccessSize::Word) {
            self.selected = self.item(value as u16);
            self.position = 0;
        }
    }

    fn reset(&mut self, _: &mut Ctx<'_>, _: ResetKind) {
        self.selected.clear();
        self.position = 0;
    }

    fn save(&mut self, _: &mut Ctx<'_>) -> DeviceState {
        saved::SavedFwCfg::capture(self).into_state()
    }

    fn restore(&mut self, _: &mut Ctx<'_>, state: DeviceState) -> Result<(), FieldError> {
        saved::SavedFwCfg::capture(self).read(state)?.apply(self);
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestBoard;

    fn read(board: &mut TestBoard, dev: &mut FwCfg, key: u16, len: usize) -> Vec<u8> {
        dev.port_write(&mut board.ctx(), SELECTOR, AccessSize::Word, u32::from(key));
        (0..len).map(|_| board.inb(dev, DATA)).collect()
    }

    #[test]
    fn fw_cfg_keys_match_the_reference() {
        let (mut board, mut dev) = (TestBoard::new(), FwCfg::new(0x1234_5000));
        assert_eq!(read(&mut board, &mut dev, 0x00, 5), [0x51, 0x45, 0x4D, 0x55, 0x00]);
        assert_eq!(read(&mut board, &mut dev, 0x19, 4), [0; 4]);
        assert_eq!(read(&mut board, &mut dev, 0x03, 8), [0x00, 0x50, 0x34, 0x12, 0, 0, 0, 0]);
        assert_eq!(read(&mut board, &mut dev, 0x05, 4), [1, 0, 0, 0]);
        for key in [0x01, 0x8002, 0xBFFF, 0xC000, 0xFFFF] {
            assert_eq!(read(&mut board, &mut dev, key, 6), [0; 6]);
        }
    }

    #[test]
    fn fw_cfg_directory_lists_files_and_serves_them() {
        let (mut board, mut dev) = (TestBoard::new(), FwCfg::new(0));
        assert!(dev.add_file("genroms/kernel.bin", vec![0x55, 0xAA, 3]));
        assert!(dev.add_file(&"x".repeat(100), vec![9]));
        let dir = read(&mut board, &mut dev, 0x19, 4 + 2 * 64);
        assert_eq!(dir[..12], [0, 0, 0, 2, 0, 0, 0, 3, 0xC0, 0, 0, 0]);
        assert_eq!(&dir[12..31], b"genroms/kernel.bin\0");
        assert_eq!(dir[68..76], [0, 0, 0, 1, 0xC0, 1, 0, 0]);
        assert_eq!(dir[131], 0);
        assert_eq!(read(&mut board, &mut dev, 0xC000, 4), [0x55, 0xAA, 3, 0]);
        let mut block = [0xFF; 5];
        assert_eq!(read(&mut board, &mut dev, 0xC000, 1), [0x55]);
        assert_eq!(dev.port_read_block(&mut board.ctx(), DATA, AccessSize::Byte, &mut block), 5);
        assert_eq!(block, [0xAA, 3, 0, 0, 0]);
    }

    #[test]
    fn fw_cfg_other_widths_are_empty_and_reset_drops_the_selection() {
        let (mut board, mut dev) = (TestBoard::new(), FwCfg::new(0));
        board.outb(&mut dev, SELECTOR, 0x00);
        assert_eq!(board.inb(&mut dev, DATA), 0);
        assert_eq!(board.inb(&mut dev, SELECTOR), 0xFF);
        assert_eq!(read(&mut board, &mut dev, 0x00, 1), [0x51]);
        dev.reset(&mut board.ctx(), ResetKind::Warm);
        assert_eq!(board.inb(&mut dev, DATA), 0);
    }
}
