//! Guest time: the only clock below `host` (decision D11).

mod clock;
mod events;

pub use clock::{ClockSource, HostTime, VmClock};
pub use events::{EventId, EventQueue};

/// Nanoseconds of guest time since power-on. It runs only while the machine runs.
pub type VmTime = u64;

/// Nanoseconds in a second.
pub const NS_PER_SEC: u64 = 1_000_000_000;
