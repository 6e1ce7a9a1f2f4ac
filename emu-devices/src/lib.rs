//! The PC around the CPU: chips, PCI, virtio, 9P server and the motherboard that wires them.

pub mod acpi;
pub mod audio;
pub mod block;
pub mod bus;
pub mod coprocessor;
pub mod debug_exit;
pub mod device;
pub mod dma8237;
pub mod fw_cfg;
pub mod input;
pub mod irqchip;
pub mod limits;
pub mod machine;
pub mod net;
pub mod p9;
pub mod parallel;
pub mod pci;
mod saved;
pub mod serial;
pub mod system_ports;
pub mod testdev;
#[doc(hidden)]
pub mod testing;
pub mod timer;
pub mod vga;
pub mod virtio;
pub mod vmware_port;
