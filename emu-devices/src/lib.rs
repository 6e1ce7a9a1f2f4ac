//! The PC around the CPU: chips, PCI, virtio, 9P server and the motherboard that wires them.
