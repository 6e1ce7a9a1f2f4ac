//! Registers of the DP8390 core in an NE2000 and of the RTL8029's additions.
//!
//! Names are those of National Semiconductor's DP8390D data sheet; offsets are from the card's
//! first port. The page is selected by bits 7:6 of the command register.

/// Command register (all pages).
pub const CR: u16 = 0x00;
/// Page start (page 0 write, page 2 read; the RTL8029 also reads it on page 0).
pub const PSTART: u16 = 0x01;
/// Page stop.
pub const PSTOP: u16 = 0x02;
/// Boundary pointer: the page the driver reads next.
pub const BNRY: u16 = 0x03;
/// Transmit page start (write) and transmit status (read).
pub const TPSR: u16 = 0x04;
/// Transmit byte count, low.
pub const TBCR0: u16 = 0x05;
/// Transmit byte count, high.
pub const TBCR1: u16 = 0x06;
/// Interrupt status (page 0) and current page (page 1).
pub const ISR: u16 = 0x07;
/// Remote start address, low (page 0); first byte of the multicast filter (page 1).
pub const RSAR0: u16 = 0x08;
/// Remote start address, high.
pub const RSAR1: u16 = 0x09;
/// Remote byte count, low (write); first byte of the RTL8029's id (read).
pub const RBCR0: u16 = 0x0A;
/// Remote byte count, high (write); second byte of the RTL8029's id (read).
pub const RBCR1: u16 = 0x0B;
/// Receive configuration (write) and receive status (read).
pub const RCR: u16 = 0x0C;
/// Transmit configuration.
pub const TCR: u16 = 0x0D;
/// Data configuration.
pub const DCR: u16 = 0x0E;
/// Interrupt mask.
pub const IMR: u16 = 0x0F;
/// Data port of the remote DMA.
pub const DATA: u16 = 0x10;
/// Reading this port resets the card.
pub const RESET: u16 = 0x1F;

/// CR: stopped.
pub const CR_STP: u8 = 0x01;
/// CR: transmit.
pub const CR_TXP: u8 = 0x04;
/// CR: remote read or write (not "abort", bit 5).
pub const CR_RD: u8 = 0x18;

/// ISR: packet received.
pub const ISR_PRX: u8 = 0x01;
/// ISR: packet transmitted.
pub const ISR_PTX: u8 = 0x02;
/// ISR: remote DMA complete.
pub const ISR_RDC: u8 = 0x40;
/// ISR: reset.
pub const ISR_RST: u8 = 0x80;

/// DCR: the data port moves words.
pub const DCR_WTS: u8 = 0x01;

/// RCR: accept broadcast.
pub const RCR_AB: u8 = 0x04;
/// RCR: accept multicast.
pub const RCR_AM: u8 = 0x08;
/// RCR: promiscuous.
pub const RCR_PRO: u8 = 0x10;

/// Receive status: received without error.
pub const RSR_PRX: u8 = 0x01;
/// Receive status as the register reads: without error, receiver enabled.
pub const RSR_IDLE: u8 = 0x09;
/// Transmit status: transmitted without error.
pub const TSR_PTX: u8 = 0x01;

/// The RTL8029 says who it is where an NE2000 has write-only registers: "PC".
pub const RTL8029_ID: [u8; 2] = [0x50, 0x43];

/// Bytes of card memory, PROM included.
pub const MEMORY_LEN: usize = 0x8000;
/// Bytes of the station address PROM at address 0.
pub const PROM_LEN: usize = 32;
/// First page of packet memory.
pub const FIRST_PAGE: u8 = 0x40;
/// First page after packet memory.
pub const LAST_PAGE: u8 = 0x80;
/// Where boundary and current page stand after power-up.
pub const FIRST_RX_PAGE: u8 = 0x4C;
/// Shortest frame on an Ethernet wire, without the check sequence.
pub const MIN_FRAME: usize = 60;
/// Bytes of the header the card puts before each received frame.
pub const RX_HEADER: usize = 4;
