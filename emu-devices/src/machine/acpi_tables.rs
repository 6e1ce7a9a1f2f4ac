//! ACPI tables for kernels that boot without firmware (ACPI 1.0b): RSDP, RSDT, FADT, FACS, DSDT, MADT.
//!
//! They describe what `acpi: true` adds: the PIIX4 PM block, local APIC and IOAPIC, the PCI root with
//! its interrupt routing, and soft-off (S5).

use emu_core::mem::Memory;

/// Where the tables lie: in the area kernels search and the memory map reserves.
const BASE: u64 = 0xF_5000;
/// ISA inputs of PIRQ A-D, as the PCI bus is set up.
const PIRQ_GSI: [u8; 4] = [10, 10, 11, 11];
const OEM: &[u8; 6] = b"ENV86 ";

/// Writes the tables.
pub(super) fn write(mem: &mut Memory) {
    let mut at = BASE + 64;
    let mut put = |mem: &mut Memory, table: &[u8]| {
        let here = at;
        let _ = mem.dma_write(here, table);
        at = (at + table.len() as u64).next_multiple_of(64);
        here as u32
    };
    let mut facs = vec![0u8; 64];
    facs.splice(0..4, *b"FACS");
    facs.splice(4..8, 64u32.to_le_bytes());
    let facs = put(mem, &facs);
    let dsdt = put(mem, &table(b"DSDT", 1, &dsdt()));
    let fadt = put(mem, &table(b"FACP", 1, &fadt(facs, dsdt)));
    let madt = put(mem, &table(b"APIC", 1, &madt()));
    let pointers: Vec<u8> = [fadt, madt].into_iter().flat_map(u32::to_le_bytes).collect();
    let rsdt = put(mem, &table(b"RSDT", 1, &pointers));

    let mut rsdp = b"RSD PTR \0".to_vec();
    rsdp.extend_from_slice(OEM);
    rsdp.push(0);
    rsdp.extend_from_slice(&rsdt.to_le_bytes());
    set_checksum(&mut rsdp, 8);
    let _ = mem.dma_write(BASE, &rsdp);
}

fn set_checksum(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0u8, |s, b| s.wrapping_add(*b));
    if let Some(b) = bytes.get_mut(at) {
        *b = b.wrapping_sub(sum);
    }
}

/// A table with its 36-byte header.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut t = signature.to_vec();
    t.extend_from_slice(&(36 + body.len() as u32).to_le_bytes());
    t.extend_from_slice(&[revision, 0]);
    t.extend_from_slice(OEM);
    t.extend_from_slice(b"ENV86PC ");
    t.extend_from_slice(&1u32.to_le_bytes());
    t.extend_from_slice(b"EN86");
    t.extend_from_slice(&1u32.to_le_bytes());
    t.extend_from_slice(body);
    set_checksum(&mut t, 9);
    t
}

/// Fixed ACPI description table, 116 bytes with its header.
fn fadt(facs: u32, dsdt: u32) -> Vec<u8> {
    let mut b = Vec::new();
    b.extend_from_slice(&facs.to_le_bytes());
    b.extend_from_slice(&dsdt.to_le_bytes());
    // interrupt model: multiple APIC; SCI 9; no SMI command: ACPI is always on
    b.extend_from_slice(&[1, 0]);
    b.extend_from_slice(&9u16.to_le_bytes());
    b.extend_from_slice(&[0; 8]);
    for port in [0xB000u32, 0, 0xB004, 0, 0, 0xB008, 0xAFE0, 0] {
        b.extend_from_slice(&port.to_le_bytes());
    }
    // lengths: event, control, PM2, timer, GPE0, GPE1, GPE1 base, reserved
    b.extend_from_slice(&[4, 2, 0, 4, 4, 0, 0, 0]);
    // C2 and C3 unusable, no flush
    b.extend_from_slice(&0xFFFu16.to_le_bytes());
    b.extend_from_slice(&0xFFFu16.to_le_bytes());
    b.extend_from_slice(&[0; 8]);
    b.extend_from_slice(&[0, 0, 0x32, 0]);
    b.extend_from_slice(&[0, 0, 0]);
    b.resize(112 - 36, 0);
    // flags: WBINVD works, C1 exists, sleep button and RTC wake not in fixed space
    b.extend_from_slice(&0x0000_00A5u32.to_le_bytes());
    b
}

fn madt() -> Vec<u8> {
    let mut b = Vec::new();
    b.extend_from_slice(&0xFEE0_0000u32.to_le_bytes());
    b.extend_from_slice(&1u32.to_le_bytes());
    // local APIC 0, enabled
    b.extend_from_slice(&[0, 8, 0, 0, 1, 0, 0, 0]);
    // IOAPIC 0 with GSI 0
    b.extend_from_slice(&[1, 12, 0, 0]);
    b.extend_from_slice(&0xFEC0_0000u32.to_le_bytes());
    b.extend_from_slice(&0u32.to_le_bytes());
    // PCI interrupts and the SCI are level-triggered, active high
    for irq in [5u8, 9, 10, 11] {
        b.extend_from_slice(&[2, 10, 0, irq]);
        b.extend_from_slice(&u32::from(irq).to_le_bytes());
        b.extend_from_slice(&0x000Du16.to_le_bytes());
    }
    // LINT1 is NMI
    b.extend_from_slice(&[4, 6, 0xFF, 0, 0, 1]);
    b
}

// ---- AML, the few terms needed -------------------------------------------------------------------

/// Package length that covers itself and `len` bytes behind it.
fn pkg_length(len: usize) -> Vec<u8> {
    let one = len + 1;
    if one < 0x40 {
        return vec![one as u8];
    }
    let two = len + 2;
    if two < 0x1000 {
        return vec![0x40 | (two & 15) as u8, (two >> 4) as u8];
    }
    let three = len + 3;
    vec![0x80 | (three & 15) as u8, (three >> 4) as u8, (three >> 12) as u8]
}

fn with_length(op: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = op.to_vec();
    out.extend(pkg_length(body.len()));
    out.extend_from_slice(body);
    out
}

fn integer(v: u32) -> Vec<u8> {
    match v {
        0 => vec![0],
        1..=0xFF => vec![0x0A, v as u8],
        _ => [&[0x0C][..], &v.to_le_bytes()].concat(),
    }
}

fn package(elements: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![elements.len() as u8];
    body.extend(elements.concat());
    with_length(&[0x12], &body)
}

fn name(id: &[u8; 4], value: &[u8]) -> Vec<u8> {
    [&[0x08][..], id, value].concat()
}

fn buffer(bytes: &[u8]) -> Vec<u8> {
    let mut body = integer(bytes.len() as u32);
    body.extend_from_slice(bytes);
    with_length(&[0x11], &body)
}

fn dsdt() -> Vec<u8> {
    // \_S5: SLP_TYP 0 switches the PIIX4 off
    let zero = || integer(0);
    let s5 = name(b"_S5_", &package(&[zero(), zero(), zero(), zero()]));

    // _PRT: device 1-31, pins A-D; pirq = (pin + device - 1) & 3
    let mut routes = Vec::new();
    for device in 1..32u32 {
        for pin in 0..4u32 {
            let pirq = (pin + device - 1) & 3;
            let gsi = PIRQ_GSI.get(pirq as usize).copied().unwrap_or(10);
            routes.push(package(&[
                integer(device << 16 | 0xFFFF),
                integer(pin),
                integer(0),
                integer(u32::from(gsi)),
            ]));
        }
    }
    let prt = name(b"_PRT", &package(&routes));

    let mut resources = Vec::new();
    // bus numbers 0-0
    resources.extend_from_slice(&[0x88, 13, 0, 2, 0x0C, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    // configuration ports
    resources.extend_from_slice(&[0x47, 0x01, 0xF8, 0x0C, 0xF8, 0x0C, 1, 8]);
    // I/O 0-CF7, D00-FFFF
    for (first, last) in [(0u16, 0xCF7u16), (0xD00, 0xFFFF)] {
        resources.extend_from_slice(&[0x88, 13, 0, 1, 0x0C, 3, 0, 0]);
        resources.extend_from_slice(&first.to_le_bytes());
        resources.extend_from_slice(&last.to_le_bytes());
        resources.extend_from_slice(&[0, 0]);
        resources.extend_from_slice(&(last - first).wrapping_add(1).to_le_bytes());
    }
    // memory: VGA window and the device area
    for (first, last) in [(0xA_0000u32, 0xB_FFFFu32), (0x8000_0000, 0xFEBF_FFFF)] {
        resources.extend_from_slice(&[0x87, 23, 0, 0, 0x0C, 1, 0, 0, 0, 0]);
        resources.extend_from_slice(&first.to_le_bytes());
        resources.extend_from_slice(&last.to_le_bytes());
        resources.extend_from_slice(&[0; 4]);
        resources.extend_from_slice(&(last - first).wrapping_add(1).to_le_bytes());
    }
    resources.extend_from_slice(&[0x79, 0]);
    let crs = name(b"_CRS", &buffer(&resources));

    // EISAID("PNP0A03")
    let hid = name(b"_HID", &integer(0x030A_D041));
    let root =
        with_length(&[0x5B, 0x82], &[&b"PCI0"[..], &hid, &name(b"_ADR", &zero()), &crs, &prt].concat());
    let scope = with_length(&[0x10], &[&b"\\_SB_"[..], &root].concat());
    [s5, scope].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |s, b| s.wrapping_add(*b))
    }

    #[test]
    fn acpi_tables_have_valid_checksums_and_are_reachable_from_the_rsdp() {
        let mut mem = Memory::new(1 << 20).unwrap();
        write(&mut mem);
        let rsdp = mem.dma_slice(BASE, 20).unwrap();
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!(sum(rsdp), 0);
        let rsdt = u64::from(mem.dma_read_u32(BASE + 16).unwrap());
        let check = |at: u64, signature: &[u8]| {
            let len = mem.dma_read_u32(at + 4).unwrap() as usize;
            let t = mem.dma_slice(at, len).unwrap();
            assert_eq!(&t[..4], signature);
            assert_eq!(sum(t), 0, "{signature:?}");
            len
        };
        assert_eq!(check(rsdt, b"RSDT"), 36 + 8);
        let fadt = u64::from(mem.dma_read_u32(rsdt + 36).unwrap());
        assert_eq!(check(fadt, b"FACP"), 116);
        check(u64::from(mem.dma_read_u32(rsdt + 40).unwrap()), b"APIC");
        check(u64::from(mem.dma_read_u32(fadt + 40).unwrap()), b"DSDT");
        assert_eq!(mem.dma_read_u32(u64::from(mem.dma_read_u32(fadt + 36).unwrap())), Some(0x5343_4146));
        const { assert!(BASE + 0x4000 < 0xF_F000) };
    }

    #[test]
    fn aml_package_lengths_count_themselves() {
        assert_eq!(pkg_length(5), [6]);
        assert_eq!(pkg_length(0x3F), [0x41, 0x04]);
        assert_eq!(pkg_length(0x1000), [0x83, 0x00, 0x01]);
    }
}
