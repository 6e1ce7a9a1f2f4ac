//! The NE2000, and the other end of every network card's cable.

use emu_core::irq::IrqLine;
use emu_devices::net::{Cable, NetSink};
use emu_devices::net::ne2000::Ne2000Pci;

use super::script::Seeds;
use super::{Log, Subject};

/// Takes frames.
pub struct Wire(pub Log);

impl NetSink for Wire {
    fn send(&mut self, frame: &[u8]) {
        self.0.add(1, &(frame.len() as u32).to_le_bytes());
        self.0.add(2, frame);
    }
}

impl Cable for Wire {}

const BASE: u16 = 0x300;

fn seeds(s: &mut Seeds) {
    // Start; ring of receive buffers from page 46h to 80h; all interrupts; promiscuous.
    const SETUP: &[(u16, u8)] = &[
        (0x00, 0x21),
        (0x0E, 0x49),
        (0x01, 0x46),
        (0x02, 0x80),
        (0x03, 0x46),
        (0x04, 0x40),
        (0x0C, 0x1C),
        (0x0D, 0x02),
        (0x07, 0xFF),
        (0x0F, 0xFF),
        (0x00, 0x61),
        (0x07, 0x47),
        (0x00, 0x22),
    ];
    let setup: Vec<_> = SETUP.iter().map(|(port, value)| (BASE + port, *value)).collect();
    let frame = [&[0xFFu8; 6][..], &[0, 0x22, 0x15, 1, 2, 3, 8, 0], &[9; 46]].concat();
    let at = |writes: &[(u16, u8)]| writes.iter().map(|(p, v)| (BASE + p, *v)).collect::<Vec<_>>();
    s.out(&setup).host(0, &frame).read(&[BASE + 7]).save();
    // Remote DMA: reads the frame's header, then writes a frame to page 40h and sends it.
    s.out(&at(&[(8, 0), (9, 0x46), (0xA, 64), (0xB, 0), (0, 0x0A)])).ins(BASE + 0x10, 1, 32);
    s.out(&at(&[(8, 0), (9, 0x40), (0xA, 60), (0xB, 0), (0, 0x12)])).outs(BASE + 0x10, 0, &frame);
    s.out(&at(&[(5, 60), (6, 0), (0, 0x26)])).host(0, &[0x5A; 1514]).save().host(0, &frame).read(&[BASE + 7]);
    // Long frames until the ring is full, reset port, multicast filter.
    s.another().out(&setup);
    for _ in 0..12 {
        s.host(0, &[0xFF; 1514]);
    }
    s.read(&[BASE + 0x1F]).out(&at(&[(0x1F, 0), (0, 0x61), (8, 0xFF), (0, 0x22), (0xC, 0x08)]));
    s.host(0, &[1; 100]).read_wide(BASE + 0x10, 2);
}

/// The NE2000.
pub fn ne2000() -> Subject<Ne2000Pci> {
    Subject {
        ports: Ne2000Pci::PORTS.to_vec(),
        mmio: Vec::new(),
        make: |log| {
            let mut card =
                Ne2000Pci::new(IrqLine::wired_to(10), [0, 0x22, 0x15, 1, 2, 3], Box::new(Wire(log.clone())));
            card.set_preserve_mac(true);
            card
        },
        host: |card, board, _, frame| card.receive(&mut board.ctx(), frame).into(),
        virtio: None,
        saved: true,
        seeds,
    }
}
