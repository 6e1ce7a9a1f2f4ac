use std::sync::{Arc, Mutex};

use super::*;
use crate::testing::TestBoard;

pub(in crate::net::ne2000) const MAC: MacAddr = [0x00, 0x22, 0x15, 1, 2, 3];
const LINE: IrqLine = IrqLine::wired_to(10);
const BASE: u16 = Ne2000Pci::BASE;

#[derive(Clone, Default)]
pub(in crate::net::ne2000) struct Wire(Arc<Mutex<Vec<Vec<u8>>>>);

impl NetSink for Wire {
    fn send(&mut self, frame: &[u8]) {
        self.0.lock().unwrap().push(frame.to_vec());
    }
}

impl Cable for Wire {}

pub(in crate::net::ne2000) fn card() -> (TestBoard, Ne2000Pci, Wire) {
    let wire = Wire::default();
    (TestBoard::new(), Ne2000Pci::new(LINE, MAC, Box::new(wire.clone())), wire)
}

/// As Linux's driver starts the card: word mode, ring 46h-80h, broadcast and own address.
pub(in crate::net::ne2000) fn start(board: &mut TestBoard, nic: &mut Ne2000Pci) {
    for (reg, value) in [
        (CR, 0x21),
        (DCR, 0x49),
        (PSTART, 0x46),
        (PSTOP, 0x80),
        (BNRY, 0x46),
        (RCR, RCR_AB),
        (CR, 0x61),
        (ISR, 0x46),
        (CR, 0x22),
        (IMR, 0x3F),
    ] {
        board.outb(nic, BASE + reg, value);
    }
}

pub(in crate::net::ne2000) fn remote_read(
    board: &mut TestBoard,
    nic: &mut Ne2000Pci,
    addr: u16,
    len: u16,
) -> Vec<u8> {
    for (reg, value) in [
        (RBCR0, len as u8),
        (RBCR1, (len >> 8) as u8),
        (RSAR0, addr as u8),
        (RSAR1, (addr >> 8) as u8),
        (CR, 0x0A),
    ] {
        board.outb(nic, BASE + reg, value);
    }
    let mut out = vec![0; usize::from(len)];
    let n = nic.port_read_block(&mut board.ctx(), BASE + DATA, AccessSize::Word, &mut out);
    assert_eq!(n, usize::from(len) / 2);
    out
}

pub(in crate::net::ne2000) fn frame(to: MacAddr, len: usize) -> Vec<u8> {
    let mut f = vec![0; len];
    f[..6].copy_from_slice(&to);
    for (i, b) in f.iter_mut().enumerate().skip(6) {
        *b = i as u8;
    }
    f
}

#[test]
fn ne2000_prom_read_bytewise_in_word_mode_gives_address_and_signature() {
    let (mut board, mut nic, _) = card();
    assert_eq!(board.inb(&mut nic, BASE + RBCR0), 0x50);
    assert_eq!(board.inb(&mut nic, BASE + RBCR1), 0x43);
    // The probe of Linux's ne2k-pci.
    board.outb(&mut nic, BASE + CR, 0x61);
    board.outb(&mut nic, BASE + TCR, 0xFF);
    board.outb(&mut nic, BASE + CR, 0x20);
    assert_eq!(board.inb(&mut nic, BASE + TCR), 0);
    assert_eq!(board.inb(&mut nic, BASE + RESET), 0);
    assert_eq!(board.inb(&mut nic, BASE + ISR) & ISR_RST, ISR_RST);
    board.outb(&mut nic, BASE + ISR, 0xFF);
    for (reg, value) in [(CR, 0x21), (DCR, 0x49), (RBCR0, 32), (RBCR1, 0), (RSAR0, 0), (RSAR1, 0), (CR, 0x0A)]
    {
        board.outb(&mut nic, BASE + reg, value);
    }
    let prom: Vec<u8> = (0..16).map(|_| board.inb(&mut nic, BASE + DATA)).collect();
    assert_eq!(prom[..6], MAC);
    assert_eq!(prom[14..], [0x57, 0x57]);
    assert_eq!(board.inb(&mut nic, BASE + ISR), ISR_RDC);
}

#[test]
fn ne2000_transmit_sends_the_frame_and_interrupts() {
    let (mut board, mut nic, wire) = card();
    start(&mut board, &mut nic);
    let sent = frame([0xFF; 6], 98);
    for (reg, value) in [(RBCR0, 98), (RBCR1, 0), (RSAR0, 0), (RSAR1, 0x40), (CR, 0x12)] {
        board.outb(&mut nic, BASE + reg, value);
    }
    assert_eq!(nic.port_write_block(&mut board.ctx(), BASE + DATA, AccessSize::Word, &sent), sent.len() / 2);
    assert_eq!(board.inb(&mut nic, BASE + ISR), ISR_RDC);
    for (reg, value) in [(TPSR, 0x40), (TBCR0, 98), (TBCR1, 0), (CR, 0x26)] {
        board.outb(&mut nic, BASE + reg, value);
    }
    assert_eq!(*wire.0.lock().unwrap(), vec![sent]);
    assert_eq!(board.inb(&mut nic, BASE + CR) & CR_TXP, 0);
    assert!(board.irq.is_high(LINE));
    board.outb(&mut nic, BASE + ISR, 0xFF);
    assert!(!board.irq.is_high(LINE));
}

#[test]
fn ne2000_receive_writes_header_and_padded_frame() {
    let (mut board, mut nic, _) = card();
    start(&mut board, &mut nic);
    let f = frame(MAC, 42);
    assert!(nic.receive(&mut board.ctx(), &f));
    assert!(board.irq.is_high(LINE));
    let got = remote_read(&mut board, &mut nic, 0x4600, 64);
    assert_eq!(got[..4], [1, 0x47, 64, 0]);
    assert_eq!(got[4..46], f);
    assert!(got[46..].iter().all(|&b| b == 0));
}

#[test]
fn ne2000_receive_wraps_at_the_end_of_the_ring() {
    let (mut board, mut nic, _) = card();
    start(&mut board, &mut nic);
    board.outb(&mut nic, BASE + CR, 0x62);
    board.outb(&mut nic, BASE + ISR, 0x7E);
    board.outb(&mut nic, BASE + CR, 0x22);
    board.outb(&mut nic, BASE + BNRY, 0x7E);
    let f = frame(MAC, 1000);
    assert!(nic.receive(&mut board.ctx(), &f));
    // Pages 7E, 7F, 46, 47; next is 48. The remote read wraps the same way.
    let got = remote_read(&mut board, &mut nic, 0x7E00, 1004);
    assert_eq!(got[..4], [1, 0x48, 0xEC, 0x03]);
    assert_eq!(got[4..], f);
}

#[test]
fn ne2000_receive_filters_by_address_and_mode() {
    let (mut board, mut nic, _) = card();
    assert!(!nic.receive(&mut board.ctx(), &frame(MAC, 60)), "stopped");
    start(&mut board, &mut nic);
    assert!(nic.receive(&mut board.ctx(), &frame([0xFF; 6], 60)));
    assert!(!nic.receive(&mut board.ctx(), &frame([1, 0, 0x5E, 0, 0, 1], 60)));
    assert!(!nic.receive(&mut board.ctx(), &frame([2; 6], 60)));
    assert!(!nic.receive(&mut board.ctx(), &frame(MAC, NET_MAX_FRAME + 1)));
    assert!(!nic.receive(&mut board.ctx(), &[0; 3]));
    board.outb(&mut nic, BASE + RCR, RCR_PRO);
    assert!(nic.receive(&mut board.ctx(), &frame([2; 6], 60)));
}

/// A cable with frames in it.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<std::collections::VecDeque<Vec<u8>>>>);

impl NetSink for Waiting {
    fn send(&mut self, _: &[u8]) {}
}

impl Cable for Waiting {
    fn receive(&mut self, deliver: &mut dyn FnMut(&[u8]) -> bool) -> usize {
        let mut frames = self.0.lock().unwrap();
        let mut taken = 0;
        while frames.front().is_some_and(|frame| deliver(frame)) {
            frames.pop_front();
            taken += 1;
        }
        taken
    }
}

#[test]
fn ne2000_driver_that_reads_a_part_of_a_burst_is_interrupted_again() {
    let cable = Waiting::default();
    let mut board = TestBoard::new();
    let mut nic = Ne2000Pci::new(LINE, MAC, Box::new(cable.clone()));
    start(&mut board, &mut nic);
    // The boundary is behind the page that is read next, as the data sheet recommends.
    board.outb(&mut nic, BASE + CR, 0x62);
    board.outb(&mut nic, BASE + ISR, 0x47);
    board.outb(&mut nic, BASE + CR, 0x22);
    cable.0.lock().unwrap().extend((0..3).map(|_| frame(MAC, 60)));
    nic.fetch(&mut board.ctx());
    board.outb(&mut nic, BASE + ISR, ISR_PRX);
    assert!(!board.irq.is_high(LINE), "it acknowledges before it reads");
    board.outb(&mut nic, BASE + BNRY, 0x48);
    board.outb(&mut nic, BASE + ISR, ISR_PRX);
    assert!(board.irq.is_high(LINE), "one is left");
    board.outb(&mut nic, BASE + ISR, ISR_PRX);
    assert!(!board.irq.is_high(LINE), "it does nothing about it");
    board.outb(&mut nic, BASE + BNRY, 0x49);
    board.outb(&mut nic, BASE + ISR, ISR_PRX);
    assert!(!board.irq.is_high(LINE), "all are read");
}

#[test]
fn ne2000_ring_is_never_filled_to_where_it_looks_empty() {
    let (mut board, mut nic, _) = card();
    start(&mut board, &mut nic);
    // 58 pages: 57 frames of a page each.
    let taken = (0..100).take_while(|_| nic.receive(&mut board.ctx(), &frame(MAC, 60))).count();
    assert_eq!(taken, 57);
}

#[test]
fn ne2000_full_ring_leaves_frames_in_the_cable_until_the_boundary_moves() {
    let cable = Waiting::default();
    let mut board = TestBoard::new();
    let mut nic = Ne2000Pci::new(LINE, MAC, Box::new(cable.clone()));
    start(&mut board, &mut nic);
    let left = || cable.0.lock().unwrap().len();
    cable.0.lock().unwrap().extend((0..20).map(|_| frame(MAC, 1500)));
    nic.fetch(&mut board.ctx());
    // 58 pages hold nine frames of six pages.
    assert_eq!(left(), 11);
    board.outb(&mut nic, BASE + BNRY, 0x46 + 12);
    assert_eq!(left(), 9, "the guest has read two");
    // Not for this card: they must not hold up what follows.
    cable.0.lock().unwrap().extend((0..5).map(|_| frame([2; 6], 60)));
    board.outb(&mut nic, BASE + CR, 0x21);
    nic.fetch(&mut board.ctx());
    assert_eq!(left(), 0, "nobody listens");
}

#[test]
fn ne2000_block_transfers_equal_single_accesses_at_every_edge() {
    use AccessSize::{Byte, Dword, Word};
    for size in [Byte, Word, Dword] {
        for (dcr, address, count, len) in [
            (0x49, 0x7FF0u16, 40u16, 40usize), // wraps
            (0x49, 0x4000, 31, 48),            // count ends in between
            (0x48, 0x4000, 64, 64),            // byte mode
            (0x49, 0, 32, 32),                 // PROM
            (0x49, 0x3FF8, 16, 16),            // from the hole into packet memory
            (0x49, 0x4100, 0, 24),             // no count
            (0x49, 0xFFF0, 64, 64),            // far beyond
        ] {
            let mut results = Vec::new();
            for block in [false, true] {
                let mut chip = Ne2000::new(MAC);
                chip.pstart = 0x46;
                chip.write(DCR, dcr);
                let data: Vec<u8> = (0..len as u8).collect();
                (chip.rsar, chip.rbcr) = (address, count);
                let step = size.bytes() as usize;
                if block {
                    chip.write_block(size, &data);
                } else {
                    for piece in data.chunks_exact(step) {
                        chip.write_data(size, piece.iter().rev().fold(0, |v, &b| v << 8 | u32::from(b)));
                    }
                }
                let written = (chip.rsar, chip.rbcr, chip.isr, chip.memory.to_vec());
                (chip.rsar, chip.rbcr, chip.isr) = (address, count, 0);
                let mut out = vec![0xEE; len];
                if block {
                    chip.read_block(size, &mut out);
                } else {
                    for piece in out.chunks_exact_mut(step) {
                        piece.copy_from_slice(&chip.read_data(size).to_le_bytes()[..step]);
                    }
                }
                results.push((written, chip.rsar, chip.rbcr, chip.isr, out));
            }
            assert!(results[0] == results[1], "{size:?} {dcr:x} {address:x} {count}");
        }
    }
}

#[test]
fn ne2000_wide_register_reads_are_empty_ports() {
    let (mut board, mut nic, _) = card();
    assert_eq!(board.port_in(&mut nic, BASE + CR, AccessSize::Word), 1);
    assert_eq!(board.port_in(&mut nic, BASE + PSTART, AccessSize::Word), 0xFFFF);
    assert_eq!(board.port_in(&mut nic, BASE + DCR, AccessSize::Word), 0);
    assert_eq!(board.inb(&mut nic, BASE + 0x11), 0xFF);
}
