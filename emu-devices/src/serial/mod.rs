//! Serial ports.

pub mod spec;
pub mod uart16550;

/// Where the bytes a guest sends go.
pub trait SerialSink: Send {
    /// One byte was sent.
    fn write(&mut self, byte: u8);

    /// The guest stopped sending for now: buffered bytes should become visible.
    fn flush(&mut self) {}

    /// The guest has set the port up anew: interrupt enable and modem control registers, divisor latch. All are
    /// zero after a reset. By these whoever is at the other end knows when a program opens the port or closes it.
    fn setup(&mut self, _ier: u8, _mcr: u8, _divisor: u16) {}
}

/// Drops everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullSink;

impl SerialSink for NullSink {
    fn write(&mut self, _: u8) {}
}
