//! Numbers of the virtio specification, version 1.0 (sections in parentheses).

/// Device types (5).
pub mod kind {
    /// Network card.
    pub const NET: u16 = 1;
    /// Console.
    pub const CONSOLE: u16 = 3;
    /// Entropy source.
    pub const RNG: u16 = 4;
    /// Memory balloon.
    pub const BALLOON: u16 = 5;
    /// 9P transport.
    pub const P9: u16 = 9;
}

/// Feature bits that concern the transport (6).
pub mod feature {
    /// Chains may be in a table of their own.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notification suppression by ring index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Device status bits (2.1).
pub mod status {
    /// The guest found the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest has a driver for it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u8 = 8;
    /// The device gave up.
    pub const NEEDS_RESET: u8 = 64;
}

/// ISR bits (4.1.4.5).
pub mod isr {
    /// A queue has used buffers.
    pub const QUEUE: u8 = 1;
    /// The configuration changed.
    pub const CONFIG: u8 = 2;
}

/// Descriptor flags (2.4.5).
pub mod desc {
    /// The chain goes on.
    pub const NEXT: u16 = 1;
    /// The device writes.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
    /// Bytes of a descriptor.
    pub const SIZE: u32 = 16;
}

/// Available ring flag (2.4.6): the driver does not want interrupts.
pub const AVAIL_NO_INTERRUPT: u16 = 1;

/// Offsets in the common configuration (4.1.4.3).
pub mod common {
    /// Which 32 feature bits `DEVICE_FEATURE` shows.
    pub const DEVICE_FEATURE_SELECT: u16 = 0x00;
    /// Offered features.
    pub const DEVICE_FEATURE: u16 = 0x04;
    /// Which 32 feature bits `DRIVER_FEATURE` is.
    pub const DRIVER_FEATURE_SELECT: u16 = 0x08;
    /// Accepted features.
    pub const DRIVER_FEATURE: u16 = 0x0C;
    /// MSI-X vector for configuration changes.
    pub const MSIX_CONFIG: u16 = 0x10;
    /// Number of queues.
    pub const NUM_QUEUES: u16 = 0x12;
    /// Device status.
    pub const DEVICE_STATUS: u16 = 0x14;
    /// Changes when the configuration does.
    pub const CONFIG_GENERATION: u16 = 0x15;
    /// Queue the registers from here on mean.
    pub const QUEUE_SELECT: u16 = 0x16;
    /// Entries.
    pub const QUEUE_SIZE: u16 = 0x18;
    /// MSI-X vector of the queue.
    pub const QUEUE_MSIX_VECTOR: u16 = 0x1A;
    /// 1 = in use.
    pub const QUEUE_ENABLE: u16 = 0x1C;
    /// Notification address, in units of the capability's multiplier.
    pub const QUEUE_NOTIFY_OFF: u16 = 0x1E;
    /// Descriptor table, low half (the high half follows).
    pub const QUEUE_DESC: u16 = 0x20;
    /// Available ring, low half.
    pub const QUEUE_AVAIL: u16 = 0x28;
    /// Used ring, low half.
    pub const QUEUE_USED: u16 = 0x30;

    /// Widths of the fields in order, in bytes.
    pub const WIDTHS: [u8; 19] = [4, 4, 4, 4, 2, 2, 1, 1, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4];
}
