//! The PC around the CPU: chips, PCI, virtio, 9P server and the motherboard that wires them.

pub mod audio;
pub mod block;
pub mod bus;
pub mod device;
pub mod limits;
pub mod net;
pub mod parallel;
#[doc(hidden)]
pub mod testing;
