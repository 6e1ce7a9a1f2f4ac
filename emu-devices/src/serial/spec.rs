//! Registers of the 16550A (National Semiconductor PC16550D data sheet).

/// Receive buffer / transmit holding / divisor low, by DLAB and direction.
pub const DATA: u16 = 0;
/// Interrupt enable / divisor high.
pub const IER: u16 = 1;
/// Interrupt identification (read), FIFO control (write).
pub const IIR_FCR: u16 = 2;
/// Line control.
pub const LCR: u16 = 3;
/// Modem control.
pub const MCR: u16 = 4;
/// Line status.
pub const LSR: u16 = 5;
/// Modem status.
pub const MSR: u16 = 6;
/// Scratch.
pub const SCR: u16 = 7;

/// Received data available.
pub const IER_RECEIVE: u8 = 1 << 0;
/// Transmit holding register empty.
pub const IER_THRE: u8 = 1 << 1;
/// Line status.
pub const IER_LINE: u8 = 1 << 2;
/// Modem status.
pub const IER_MODEM: u8 = 1 << 3;
/// Bits that exist.
pub const IER_MASK: u8 = 0x0F;

/// No interrupt pending.
pub const IIR_NONE: u8 = 0x01;
/// Modem status changed.
pub const IIR_MODEM: u8 = 0x00;
/// Transmit holding register empty.
pub const IIR_THRE: u8 = 0x02;
/// Received data available, or FIFO trigger level reached.
pub const IIR_RECEIVE: u8 = 0x04;
/// Line status (errors).
pub const IIR_LINE: u8 = 0x06;
/// Characters wait in the FIFO below its trigger level.
pub const IIR_TIMEOUT: u8 = 0x0C;
/// FIFOs are on.
pub const IIR_FIFO: u8 = 0xC0;

/// FIFOs on.
pub const FCR_ENABLE: u8 = 1 << 0;
/// Empties the receive FIFO.
pub const FCR_CLEAR_RECEIVE: u8 = 1 << 1;
/// Bits that do not clear themselves: enable, DMA mode, trigger level.
pub const FCR_STORED: u8 = 0xC9;
/// Receive FIFO trigger levels by FCR bits 7:6.
pub const TRIGGER_LEVELS: [usize; 4] = [1, 4, 8, 14];

/// Divisor latch access.
pub const LCR_DLAB: u8 = 1 << 7;

/// Data terminal ready.
pub const MCR_DTR: u8 = 1 << 0;
/// Request to send.
pub const MCR_RTS: u8 = 1 << 1;
/// User output 1.
pub const MCR_OUT1: u8 = 1 << 2;
/// User output 2 (gates the interrupt on PC boards).
pub const MCR_OUT2: u8 = 1 << 3;
/// Loopback.
pub const MCR_LOOP: u8 = 1 << 4;
/// Bits that exist.
pub const MCR_MASK: u8 = 0x1F;

/// Data ready.
pub const LSR_DATA: u8 = 1 << 0;
/// A received character was lost.
pub const LSR_OVERRUN: u8 = 1 << 1;
/// Transmit holding register and shift register empty.
pub const LSR_EMPTY: u8 = 0x60;

/// Clear to send.
pub const MSR_CTS: u8 = 1 << 4;
/// Data set ready.
pub const MSR_DSR: u8 = 1 << 5;
/// Ring indicator.
pub const MSR_RI: u8 = 1 << 6;
/// Carrier detect.
pub const MSR_DCD: u8 = 1 << 7;

/// FIFO size.
pub const FIFO_SIZE: usize = 16;
