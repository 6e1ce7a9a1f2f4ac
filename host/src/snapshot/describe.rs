//! What is in a snapshot, and how two differ.

use emu_core::mem::GuestRam;
use emu_core::snapshot::{PackedMemory, State, Value, slots};
use emu_devices::pci::devfn;
use serde::Serialize;

use super::SnapshotFileError;
use super::guest_files::{self, Change, GuestFiles};
use super::locate::Opened;

type Result<T> = std::result::Result<T, SnapshotFileError>;

/// Beginning of the text that Linux prints first.
const BANNER: &[u8] = b"Linux version ";

/// Longest such text.
const MAX_BANNER: usize = 512;

/// Fields of a slot that are named when two snapshots differ.
const MAX_FIELDS: usize = 8;

/// A snapshot in memory.
pub struct Loaded {
    state: State,
    ram: GuestRam,
    container: Container,
    memory: Memory,
}

/// How a snapshot is stored. The names are those of `describe --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Container {
    /// Its file.
    pub file: String,
    /// Version of the format.
    pub version: i32,
    /// Program that wrote it: "env86" or "v86".
    pub writer: &'static str,
    /// "raw" or "zstd".
    pub compression: &'static str,
    /// Number of files it is divided into.
    pub parts: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Bytes, decompressed.
    pub bytes: u64,
    /// Bytes of the description.
    pub info_bytes: u64,
    /// Buffers after that.
    pub buffers: usize,
    /// Guest memory lies so that it can be mapped.
    pub mappable: bool,
}

/// Guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Bytes of RAM.
    pub bytes: u64,
    /// Bytes that are stored: the rest is zero.
    pub stored_bytes: u64,
}

/// The processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// "real", "virtual-8086", "protected 16-bit" or "protected 32-bit".
    pub mode: &'static str,
    /// Paging is on.
    pub paging: bool,
    /// Physical addresses have more than 32 bits.
    pub pae: bool,
    /// Privilege level.
    pub cpl: i64,
    /// CS.
    pub cs: u32,
    /// EIP.
    pub eip: u32,
    /// It waits for an interrupt.
    pub halted: bool,
}

/// The guest's file tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Files {
    /// Inodes.
    pub inodes: usize,
    /// Files whose contents are in the snapshot because the guest made or changed them.
    pub changed: usize,
    /// Bytes of these.
    pub changed_bytes: u64,
    /// Largest message of the 9P session.
    pub msize: u64,
}

/// What is in a snapshot. The names are those of `describe --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// How it is stored.
    pub container: Container,
    /// Guest memory.
    pub memory: Memory,
    /// The processor.
    pub cpu: Cpu,
    /// Devices.
    pub devices: Vec<&'static str>,
    /// The guest's file tree, if it has one from the host.
    pub files: Option<Files>,
    /// What the guest's kernel says of itself, if it is Linux.
    pub kernel: Option<String>,
}

/// How two snapshots differ. The names are those of `diff --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// RAM in bytes, of both.
    pub memory_bytes: [u64; 2],
    /// Pages of 4 KiB.
    pub pages: u64,
    /// Pages with different contents.
    pub changed_pages: u64,
    /// Elements of the state array that differ.
    pub slots: Vec<SlotDifference>,
    /// Files that differ.
    pub files: Vec<FileDifference>,
}

/// An element of the state array that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotDifference {
    /// Its number.
    pub slot: usize,
    /// What it is.
    pub name: &'static str,
    /// The first few fields that differ.
    pub fields: Vec<String>,
}

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileDifference {
    /// Its path in the guest.
    pub path: String,
    /// How.
    pub change: Change,
}

/// Reads a snapshot as a whole.
///
/// # Errors
/// It cannot be read.
pub fn load(opened: Opened) -> Result<Loaded> {
    let Opened { path, parts, stored, compressed, reader } = opened;
    let failed = |source| SnapshotFileError::Read { path: path.clone(), compressed, source };
    let memory =
        Memory { bytes: reader.memory_size().map_err(failed)?, stored_bytes: reader.stored_memory() };
    let layout = reader.layout().clone();
    let mut ram = GuestRam::new(memory.bytes as usize)
        .map_err(|source| SnapshotFileError::Open { path: path.clone(), source })?;
    let state = reader.load(Some(&mut ram)).map_err(failed)?;
    let container = Container {
        file: path.display().to_string(),
        version: emu_core::snapshot::STATE_VERSION,
        writer: if state.get(slots::EXTRA).is_null() { "v86" } else { "env86" },
        compression: if compressed { "zstd" } else { "raw" },
        parts: parts.unwrap_or(1),
        stored_bytes: stored,
        bytes: layout.total,
        info_bytes: layout.info,
        buffers: layout.buffers(),
        mappable: ram.file_backed() > 0,
    };
    Ok(Loaded { state, ram, container, memory })
}

fn integer(state: &State, slot: usize) -> i64 {
    match state.get(slot) {
        Value::Int(n) => *n,
        Value::Bool(b) => i64::from(*b),
        _ => 0,
    }
}

/// Element `index` of the array of 16- or 32-bit numbers in `slot`.
fn element(state: &State, slot: usize, index: usize) -> u32 {
    let Value::Typed(typed) = state.get(slot) else { return 0 };
    let size = typed.kind.size();
    let bytes = typed.data.chunks_exact(size).nth(index).unwrap_or_default();
    bytes.iter().take(4).rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// PE and PG of CR0, PAE of CR4, VM of EFLAGS (SDM vol. 3, 2.3 and 2.5).
const CR0_PE: u32 = 1;
const CR0_PG: u32 = 1 << 31;
const CR4_PAE: u32 = 1 << 5;
const EFLAGS_VM: i64 = 1 << 17;

/// Place of CS in arrays of segment registers.
const CS: usize = 1;

fn cpu(state: &State) -> Cpu {
    let cr0 = element(state, slots::CR, 0);
    let mode = if cr0 & CR0_PE == 0 {
        "real"
    } else if integer(state, slots::EFLAGS) & EFLAGS_VM != 0 {
        "virtual-8086"
    } else if integer(state, slots::CODE32) != 0 {
        "protected 32-bit"
    } else {
        "protected 16-bit"
    };
    let linear = integer(state, slots::LINEAR_EIP) as u32;
    Cpu {
        mode,
        paging: cr0 & CR0_PG != 0,
        pae: element(state, slots::CR, 4) & CR4_PAE != 0,
        cpl: integer(state, slots::CPL),
        cs: element(state, slots::SELECTORS, CS),
        eip: linear.wrapping_sub(element(state, slots::SEGMENT_BASES, CS)),
        halted: integer(state, slots::HALTED) != 0,
    }
}

fn devices(state: &State) -> Vec<&'static str> {
    // Whoever writes a snapshot fills in slots for devices that are on no bus; v86 wants them.
    let on_pci = |devfn: u8| match state.get(slots::PCI) {
        Value::Array(items) => items.get(usize::from(devfn)).is_some_and(|space| !space.is_null()),
        _ => false,
    };
    let present = |slot: &usize| match *slot {
        slots::VIRTIO_CONSOLE => on_pci(devfn::VIRTIO_CONSOLE),
        slots::VIRTIO_NET => on_pci(devfn::VIRTIO_NET),
        slots::VIRTIO_BALLOON => on_pci(devfn::VIRTIO_BALLOON),
        slots::VIRTIO_9P => on_pci(devfn::VIRTIO_9P),
        slots::ACPI => on_pci(devfn::PIIX4_PM),
        slots::NE2000 => on_pci(devfn::NE2000),
        _ => true,
    };
    const DEVICES: [usize; 27] = [
        slots::VIRTIO_9P,
        slots::LAPIC,
        slots::RTC,
        slots::PCI,
        slots::DMA,
        slots::ACPI,
        slots::VGA,
        slots::PS2,
        slots::UART0,
        slots::UART1,
        slots::UART2,
        slots::UART3,
        slots::FLOPPY,
        slots::OLD_IDE_CD,
        slots::OLD_IDE_DISK,
        slots::IDE,
        slots::PIT,
        slots::NE2000,
        slots::PIC,
        slots::SB16,
        slots::FW_CFG,
        slots::IOAPIC,
        slots::VIRTIO_CONSOLE,
        slots::VIRTIO_NET,
        slots::VIRTIO_BALLOON,
        slots::VMWARE,
        slots::LPT1,
    ];
    let there = DEVICES.iter().filter(|slot| !state.get(**slot).is_null() && present(slot));
    let mut names: Vec<_> = there.map(|slot| slots::name(*slot)).collect();
    names.dedup();
    names
}

impl Loaded {
    fn packed(&self) -> PackedMemory {
        let pages = (self.ram.len() / 4096) as u32;
        let packed = match self.state.get(slots::MEMORY_BITMAP) {
            Value::Typed(bitmap) => PackedMemory::from_bitmap(&bitmap.data, pages),
            _ => None,
        };
        packed.unwrap_or_default()
    }

    /// What Linux says of itself when it starts.
    fn kernel(&self) -> Option<String> {
        let finder = memchr::memmem::Finder::new(BANNER);
        for run in self.packed().runs {
            // The text may begin at the end of one run and go on in the next one.
            let end = (run.start() + run.len() + MAX_BANNER).min(self.ram.len());
            let part = self.ram.as_slice().get(run.start()..end).unwrap_or_default();
            for at in finder.find_iter(part) {
                let text = part.get(at..).unwrap_or_default();
                let text = text.get(..text.len().min(MAX_BANNER)).unwrap_or_default();
                if let Some(text) = banner(text) {
                    return Some(text);
                }
            }
        }
        None
    }

    /// What is in it.
    pub fn describe(&self) -> Description {
        let files = GuestFiles::of(&self.state).map(|files| {
            let (changed, changed_bytes) = files.held();
            Files { inodes: files.inodes(), changed, changed_bytes, msize: files.msize }
        });
        Description {
            container: self.container.clone(),
            memory: self.memory.clone(),
            cpu: cpu(&self.state),
            devices: devices(&self.state),
            files,
            kernel: self.kernel(),
        }
    }

    /// How `after` differs from this one.
    pub fn compare(&self, after: &Self) -> Difference {
        let slot_count = self.state.len().max(after.state.len());
        let memory_slots = [slots::PACKED_MEMORY, slots::MEMORY_BITMAP];
        let differing = (0..slot_count).filter(|slot| !memory_slots.contains(slot)).filter_map(|slot| {
            let mut fields = Vec::new();
            differences(self.state.get(slot), after.state.get(slot), &mut String::new(), &mut fields);
            (!fields.is_empty()).then(|| SlotDifference { slot, name: slots::name(slot), fields })
        });
        let changes = match (GuestFiles::of(&self.state), GuestFiles::of(&after.state)) {
            (Some(before), Some(after)) => guest_files::compare(&before, &after),
            _ => Vec::new(),
        };
        Difference {
            memory_bytes: [self.memory.bytes, after.memory.bytes],
            pages: self.memory.bytes.max(after.memory.bytes) / 4096,
            changed_pages: self.changed_pages(after),
            slots: differing.collect(),
            files: changes.into_iter().map(|(path, change)| FileDifference { path, change }).collect(),
        }
    }

    fn changed_pages(&self, after: &Self) -> u64 {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut pages: Vec<u32> = Vec::new();
        for packed in [self.packed(), after.packed()] {
            pages.extend(packed.runs.iter().flat_map(|run| run.first..run.first + run.count));
        }
        pages.sort_unstable();
        pages.dedup();
        let page = |ram: &GuestRam, page: u32| {
            let start = page as usize * 4096;
            ram.as_slice().get(start..start + 4096).is_none_or(|bytes| bytes == ZEROS)
        };
        let same = |n: &u32| {
            let start = *n as usize * 4096;
            match (
                self.ram.as_slice().get(start..start + 4096),
                after.ram.as_slice().get(start..start + 4096),
            ) {
                (Some(a), Some(b)) => a == b,
                // Memory one of them does not have is as good as zeros.
                _ => page(&self.ram, *n) && page(&after.ram, *n),
            }
        };
        pages.iter().filter(|page| !same(page)).count() as u64
    }
}

/// The banner at the beginning of `text`: a line, with a number first.
fn banner(text: &[u8]) -> Option<String> {
    let end = text.iter().position(|b| matches!(b, b'\n' | 0))?;
    let line = std::str::from_utf8(text.get(..end)?).ok()?;
    let version = line.as_bytes().get(BANNER.len())?;
    let real = version.is_ascii_digit() && line.contains('#') && !line.chars().any(char::is_control);
    real.then(|| line.to_owned())
}

/// Names the fields in which two values differ.
fn differences(a: &Value, b: &Value, path: &mut String, out: &mut Vec<String>) {
    if out.len() >= MAX_FIELDS {
        return;
    }
    let mut differ =
        |what: String| out.push(format!("{path}{}{what}", if path.is_empty() { "" } else { ": " }));
    match (a, b) {
        (Value::Array(a), Value::Array(b)) | (Value::Map(a), Value::Map(b)) => {
            if a.len() != b.len() {
                differ(format!("{} elements -> {}", a.len(), b.len()));
            }
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                let len = path.len();
                path.push_str(&format!("[{index}]"));
                differences(a, b, path, out);
                path.truncate(len);
            }
        }
        (Value::Typed(a), Value::Typed(b)) => {
            if a.kind != b.kind || a.data.len() != b.data.len() {
                let count = |typed: &emu_core::snapshot::Typed| typed.data.len() / typed.kind.size();
                differ(format!("{}({}) -> {}({})", a.kind.name(), count(a), b.kind.name(), count(b)));
            } else if a.data != b.data {
                let size = a.kind.size();
                let pairs = a.data.chunks(size).zip(b.data.chunks(size));
                differ(format!("{} elements changed", pairs.filter(|(a, b)| a != b).count()));
            }
        }
        (a, b) if a != b => differ(format!("{} -> {}", brief(a), brief(b))),
        _ => {}
    }
}

/// A value in a few characters.
fn brief(value: &Value) -> String {
    match value {
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(f) => f.to_string(),
        Value::Text(text) => format!("{:.40?}", String::from_utf8_lossy(text)),
        other => other.describe().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use emu_core::values;

    #[test]
    fn banner_is_a_line_with_a_version() {
        let good = b"Linux version 6.6.9-0-lts (b@h) (gcc 13) #1-Alpine SMP Wed\n\0rest";
        assert_eq!(banner(good).unwrap(), "Linux version 6.6.9-0-lts (b@h) (gcc 13) #1-Alpine SMP Wed");
        for bad in [
            &b"Linux version %s (%s)\n"[..],
            b"Linux version 6.6 without an end",
            b"Linux version 6 \x1b #\n",
        ] {
            assert_eq!(banner(bad), None);
        }
    }

    #[test]
    fn differences_name_the_field() {
        let a = values![1, values![2, Value::bytes([1, 2, 3])], Value::text("x")];
        let b = values![1, values![3, Value::bytes([1, 9, 9])], Value::text("x")];
        let mut out = Vec::new();
        differences(&a, &b, &mut String::new(), &mut out);
        assert_eq!(out, ["[1][0]: 2 -> 3", "[1][1]: 2 elements changed"]);
        out.clear();
        differences(&a, &a, &mut String::new(), &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn cpu_mode_and_eip_come_from_the_slots() {
        let mut state = State::new();
        state.set(slots::CR, Value::i32s(&[0x10, 0, 0, 0, 0, 0, 0, 0]));
        state.set(slots::SEGMENT_BASES, Value::i32s(&[0, 0xF0000, 0, 0, 0, 0, 0, 0]));
        state.set(slots::SELECTORS, Value::u16s(&[0, 0xF000, 0, 0, 0, 0, 0, 0]));
        state.set(slots::LINEAR_EIP, 0xFFFF0);
        let real = cpu(&state);
        assert_eq!((real.mode, real.cs, real.eip, real.paging), ("real", 0xF000, 0xFFF0, false));
        state.set(slots::CR, Value::i32s(&[0x8000_0011, 0, 0, 0, 0x20, 0, 0, 0]));
        state.set(slots::CODE32, 1);
        let linux = cpu(&state);
        assert_eq!((linux.mode, linux.paging, linux.pae), ("protected 32-bit", true, true));
        state.set(slots::EFLAGS, 1 << 17);
        assert_eq!(cpu(&state).mode, "virtual-8086");
        assert_eq!(cpu(&State::new()).mode, "real");
    }
}
