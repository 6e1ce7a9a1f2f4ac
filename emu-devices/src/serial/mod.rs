//! Serial ports.

pub mod spec;
pub mod uart16550;

/// Where the bytes a guest sends go.
pub trait SerialSink: Send {
    /// One byte was sent.
    fn write(&mut self, byte: u8);

    /// The guest stopped sending for now: buffered bytes should become visible.
    fn flush(&mut self) {}
}

/// Drops everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullSink;

impl SerialSink for NullSink {
    fn write(&mut self, _: u8) {}
}
