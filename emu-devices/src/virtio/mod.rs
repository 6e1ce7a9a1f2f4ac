//! virtio 1.0 devices behind PCI.
//!
//! | file | what |
//! | --- | --- |
//! | `spec` | numbers and layouts of the virtio specification |
//! | `queue` | split virtqueues and descriptor chains |
//! | `state` | the common configuration registers |
//! | `pci` | the transport: port regions, notification, ISR; [`VirtioDevice`] |
//! | `saved` | registers and queues as snapshots hold them |
//! | `p9`, `net`, `console`, `balloon`, `rng` | the devices |
//!
//! The driver is not trusted. What it can get wrong in a ring (addresses outside RAM, indices that
//! jump, tables that loop) ends in DEVICE_NEEDS_RESET, as the specification recommends; the work and
//! the memory one notification can cause are bounded (`limits`).

#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod balloon;
pub mod console;
#[cfg(test)]
mod driver;
pub mod net;
pub mod p9;
mod pci;
mod queue;
pub mod rng;
mod saved;
pub mod spec;
mod state;
#[cfg(test)]
mod tests;

pub use balloon::VirtioBalloon;
pub use console::{ConsoleSink, VirtioConsole};
pub use net::{Offload, VirtioNet};
pub use p9::{P9Handler, SaveReport, VirtioP9};
pub use pci::{CorePlace, Queues, VirtioDevice, VirtioPci};
pub use queue::{Chain, Interrupts, Queue, QueueError, Segment};
pub use rng::VirtioRng;
pub use state::{QueueSpec, VirtioState};

use crate::pci::devfn;

/// Where a virtio function sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// PCI device and function.
    pub devfn: u8,
    /// First home port. Device configuration is at +0, ISR at +100h, common configuration at
    /// +200h and notification at +300h.
    pub ports: u16,
}

impl Slot {
    /// virtio-9p, the root file system.
    pub const P9: Self = Self { devfn: devfn::VIRTIO_9P, ports: 0xA600 };
    /// virtio-net.
    pub const NET: Self = Self { devfn: devfn::VIRTIO_NET, ports: 0xC600 };
    /// virtio-balloon.
    pub const BALLOON: Self = Self { devfn: devfn::VIRTIO_BALLOON, ports: 0xD600 };
    /// virtio-console.
    pub const CONSOLE: Self = Self { devfn: devfn::VIRTIO_CONSOLE, ports: 0xB600 };
    /// virtio-rng; v86 has neither the slot nor the ports.
    pub const RNG: Self = Self { devfn: devfn::VIRTIO_RNG, ports: 0xE600 };
    /// A second virtio-9p; v86 has neither the slot nor the ports.
    pub const SHARES: Self = Self { devfn: devfn::VIRTIO_SHARES, ports: 0xF600 };
}
