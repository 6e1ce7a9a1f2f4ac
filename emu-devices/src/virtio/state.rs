//! The common configuration registers and the queues behind them.

use super::queue::Queue;
use super::spec::{common, isr, status};

/// A queue as the device offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// Most entries, a power of two.
    pub max_size: u16,
    /// Notification address, in units of two ports. Queues may share one.
    pub notify_off: u16,
}

/// What a virtio function holds besides its device: the state a snapshot saves.
#[derive(Clone, Debug)]
pub struct VirtioState {
    pub(crate) device_feature_select: u32,
    pub(crate) driver_feature_select: u32,
    pub(crate) device_features: [u32; 4],
    pub(crate) driver_features: [u32; 4],
    /// False once the driver accepted a bit that was not offered; FEATURES_OK does not stick then.
    pub(crate) features_ok: bool,
    pub(crate) status: u8,
    pub(crate) config_changed: bool,
    pub(crate) config_generation: u8,
    pub(crate) isr: u8,
    pub(crate) queue_select: u16,
    pub(crate) queues: Vec<Queue>,
}

/// What a write to the common configuration asks of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    None,
    /// The driver wrote 0 to the device status.
    Reset,
    /// A configuration interrupt that had to wait for the driver.
    ConfigInterrupt,
}

impl VirtioState {
    /// Power-up state.
    pub fn new(features: u64, queues: &[QueueSpec]) -> Self {
        let device_features = [features as u32, (features >> 32) as u32, 0, 0];
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            device_features,
            // Until the driver says otherwise everything counts as accepted.
            driver_features: device_features,
            features_ok: true,
            status: 0,
            config_changed: false,
            config_generation: 0,
            isr: 0,
            queue_select: 0,
            queues: queues.iter().map(|q| Queue::new(q.max_size, q.notify_off)).collect(),
        }
    }

    /// Back to the power-up state.
    pub fn reset(&mut self) {
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = self.device_features;
        self.features_ok = true;
        self.status = 0;
        self.config_changed = false;
        self.config_generation = 0;
        self.isr = 0;
        self.queue_select = 0;
        self.queues.iter_mut().for_each(Queue::reset);
    }

    /// True if all bits of `feature` (one of `spec::feature`) are accepted.
    pub fn negotiated(&self, feature: u64) -> bool {
        let [low, high, ..] = self.driver_features.map(u64::from);
        (high << 32 | low) & feature == feature
    }

    /// Device status byte.
    pub fn status(&self) -> u8 {
        self.status
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// Reads the whole field at `offset`.
    pub(super) fn read(&self, offset: u16) -> u32 {
        let select = |features: &[u32; 4], i: u32| {
            usize::try_from(i).ok().and_then(|i| features.get(i)).copied().unwrap_or(0)
        };
        let queue = |f: fn(&Queue) -> u32| self.queue().map_or(0, f);
        match offset {
            common::DEVICE_FEATURE_SELECT => self.device_feature_select,
            common::DEVICE_FEATURE => select(&self.device_features, self.device_feature_select),
            common::DRIVER_FEATURE_SELECT => self.driver_feature_select,
            common::DRIVER_FEATURE => select(&self.driver_features, self.driver_feature_select),
            // There is no MSI-X: no vector.
            common::MSIX_CONFIG | common::QUEUE_MSIX_VECTOR => 0xFFFF,
            common::NUM_QUEUES => self.queues.len() as u32,
            common::DEVICE_STATUS => u32::from(self.status),
            common::CONFIG_GENERATION => u32::from(self.config_generation),
            common::QUEUE_SELECT => u32::from(self.queue_select),
            common::QUEUE_SIZE => queue(|q| u32::from(q.size)),
            common::QUEUE_ENABLE => queue(|q| u32::from(q.enabled)),
            common::QUEUE_NOTIFY_OFF => queue(|q| u32::from(q.notify_off)),
            common::QUEUE_DESC => queue(|q| q.desc),
            common::QUEUE_AVAIL => queue(|q| q.avail),
            common::QUEUE_USED => queue(|q| q.used),
            _ => 0, // high halves of addresses
        }
    }

    /// Writes the whole field at `offset`.
    pub(super) fn write(&mut self, offset: u16, value: u32) -> Action {
        match offset {
            common::DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            common::DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            common::DRIVER_FEATURE => self.accept_features(value),
            common::DEVICE_STATUS => return self.write_status(value as u8),
            common::QUEUE_SELECT => self.queue_select = value as u16,
            _ => {
                if let Some(q) = self.queues.get_mut(usize::from(self.queue_select)) {
                    write_queue(q, offset, value);
                }
            }
        }
        Action::None
    }

    fn accept_features(&mut self, value: u32) {
        let index = self.driver_feature_select as usize;
        let offered = self.device_features.get(index).copied().unwrap_or(0);
        if let Some(accepted) = self.driver_features.get_mut(index) {
            *accepted = value & offered;
        }
        self.features_ok &= value & !offered == 0;
    }

    fn write_status(&mut self, value: u8) -> Action {
        if value == 0 {
            return Action::Reset;
        }
        let waiting = self.status & (status::NEEDS_RESET | status::DRIVER_OK) == status::NEEDS_RESET;
        self.status = if self.features_ok { value } else { value & !status::FEATURES_OK };
        if waiting && value & status::DRIVER_OK != 0 { Action::ConfigInterrupt } else { Action::None }
    }

    /// Notes a change of the device configuration. True if the driver is to be interrupted.
    #[must_use]
    pub(super) fn config_change(&mut self) -> bool {
        self.config_changed = true;
        let tell = self.status & status::DRIVER_OK != 0;
        if tell {
            self.isr |= isr::CONFIG;
        }
        tell
    }

    /// The driver read device configuration: a change it may have seen half of gets a new
    /// generation.
    pub(super) fn config_was_read(&mut self) {
        if std::mem::take(&mut self.config_changed) {
            self.config_generation = self.config_generation.wrapping_add(1);
        }
    }
}

fn write_queue(q: &mut Queue, offset: u16, value: u32) {
    match offset {
        common::QUEUE_SIZE => q.set_size(value as u16),
        common::QUEUE_ENABLE if value == 1 => q.enable(),
        common::QUEUE_DESC => q.desc = value,
        common::QUEUE_AVAIL => q.avail = value,
        common::QUEUE_USED => q.used = value,
        _ => {}
    }
}
