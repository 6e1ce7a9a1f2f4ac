//! Network cards.
//!
//! A card hands the guest's frames to a [`NetSink`] the moment the guest sends them. Frames for the
//! guest are pushed in by the machine through the card's `receive`, on the thread that owns the
//! machine; the queue between that thread and the network belongs to the network.

pub mod ne2000;
pub mod spec;

/// Where a network card puts the frames the guest sends.
pub trait NetSink: Send {
    /// Takes one Ethernet frame without its check sequence. Frames may be shorter than the 60 bytes
    /// Ethernet wants and are never longer than what the card's buffer holds. Must not block: a
    /// sink that is full drops the frame, as a wire would.
    fn send(&mut self, frame: &[u8]);
}

/// An unplugged cable: frames vanish.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNetwork;

impl NetSink for NoNetwork {
    fn send(&mut self, _frame: &[u8]) {}
}
