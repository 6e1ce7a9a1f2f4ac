//! Network cards.
//!
//! A card hands the guest's frames to its [`Cable`] the moment the guest sends them, and fetches frames for
//! the guest from it: when the machine says that some wait ([`crate::machine::Mailbox::wake_network`]), and
//! whenever the guest makes room after a frame did not fit. The queue between the thread that owns the machine
//! and the network belongs to the network; what does not fit into the guest's buffers stays there.

pub mod ne2000;
pub mod spec;

/// Where a network card puts the frames the guest sends.
pub trait NetSink: Send {
    /// Takes one Ethernet frame without its check sequence. Frames may be shorter than the 60 bytes
    /// Ethernet wants and are never longer than what the card's buffer holds. Must not block: a
    /// sink that is full drops the frame, as a wire would.
    fn send(&mut self, frame: &[u8]);
}

/// The network at the other end of a card.
pub trait Cable: NetSink {
    /// Gives the frames that wait for the guest to `deliver`, oldest first, until it returns false (there is
    /// no room: that frame stays the first) or none waits. Returns how many were taken. Must not block.
    ///
    /// Frames come without check sequence. Checksums in them are right: cards that can say so to the guest do.
    fn receive(&mut self, _deliver: &mut dyn FnMut(&[u8]) -> bool) -> usize {
        0
    }
}

/// An unplugged cable: frames vanish.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNetwork;

impl NetSink for NoNetwork {
    fn send(&mut self, _frame: &[u8]) {}
}

impl Cable for NoNetwork {}

/// What a card did with a frame for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    /// It is in the guest's buffers.
    Taken,
    /// It is not for this guest, or the card is off.
    Ignored,
    /// The guest has no room for it now.
    Full,
}
