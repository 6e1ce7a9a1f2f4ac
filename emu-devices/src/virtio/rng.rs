//! virtio-rng: random bytes for the guest. v86 has no such device; it is opt-in.
//!
//! Snapshots hold only its registers and queues. Bytes the guest was given before but has not used are in
//! guest memory, and machines restored from one snapshot share them: a buffer that was given back is the
//! driver's, who may have put it to another use, so it cannot be filled anew.

use crate::limits::VIRTIO_RNG_REQUEST;

use super::pci::{Queues, VirtioDevice};
use super::spec::{feature, kind};
use super::state::QueueSpec;

const QUEUES: [QueueSpec; 1] = [QueueSpec { max_size: 16, notify_off: 0 }];

/// Fills a buffer with random bytes.
pub type EntropySource = Box<dyn FnMut(&mut [u8]) + Send>;

/// virtio-rng device.
pub struct VirtioRng {
    source: EntropySource,
    bytes: Vec<u8>,
}

impl VirtioRng {
    /// A device that takes its bytes from `source`.
    pub fn new(source: EntropySource) -> Self {
        Self { source, bytes: Vec::new() }
    }
}

impl VirtioDevice for VirtioRng {
    fn name(&self) -> &'static str {
        "virtio-rng"
    }

    fn device_id(&self) -> u16 {
        kind::RNG
    }

    fn features(&self) -> u64 {
        feature::VERSION_1
    }

    fn queues(&self) -> &'static [QueueSpec] {
        &QUEUES
    }

    fn notify(&mut self, q: u16, queues: &mut Queues<'_>) {
        while let Some(mut chain) = queues.pop(q) {
            self.bytes.clear();
            self.bytes.resize(chain.writable_len().min(VIRTIO_RNG_REQUEST as u64) as usize, 0);
            (self.source)(&mut self.bytes);
            chain.write(queues.mem_mut(), &self.bytes);
            queues.push(q, chain);
        }
        queues.flush(q);
    }
}

#[cfg(test)]
mod tests {
    use emu_core::bus::AccessSize::Byte;

    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::virtio::Slot;
    use crate::virtio::driver::Driver;

    fn rng() -> Driver<VirtioRng> {
        let mut next = 0u8;
        let source = move |out: &mut [u8]| {
            for byte in out {
                next = next.wrapping_add(1);
                *byte = next;
            }
        };
        Driver::new(VirtioRng::new(Box::new(source)), Slot::RNG)
    }

    #[test]
    fn rng_fills_the_buffers_it_is_given() {
        let mut d = rng();
        let sent = d.add(0, &[], &[3, 5]);
        d.kick(0);
        assert_eq!(d.used(0), [(sent.head, 8)]);
        assert_eq!(d.get(sent.out[0], 4), [1, 2, 3, 0]);
        assert_eq!(d.get(sent.out[1], 6), [4, 5, 6, 7, 8, 0]);
        assert!(d.irq());
    }

    #[test]
    fn rng_gives_a_limited_amount_per_request() {
        let mut d = rng();
        let sent = d.add(0, &[], &[VIRTIO_RNG_REQUEST as u32, 16]);
        d.kick(0);
        assert_eq!(d.used(0), [(sent.head, VIRTIO_RNG_REQUEST as u32)]);
        assert_eq!(d.get(sent.out[1], 1), [0]);
    }

    snapshot_conformance!(
        saved_rng_conforms,
        make: || rng().dev,
        exercise: |dev, board| {
            let mut d = Driver::over(std::mem::replace(dev, rng().dev), std::mem::take(board));
            d.start(d.dev.device().features());
            d.add(0, &[], &[8]);
            d.kick(0);
            (*dev, *board) = (d.dev, d.bench);
        },
        ignored: &[],
    );

    #[test]
    fn rng_restored_answers_what_is_asked_afterwards() {
        let mut d = rng();
        d.add(0, &[], &[8]);
        d.kick(0);
        d.used(0);
        let sent = d.add(0, &[], &[4]);
        let state = d.dev.save(&mut d.bench.ctx());
        assert!(state.v86.is_null());
        d.dev = rng().dev;
        d.dev.restore(&mut d.bench.ctx(), state).unwrap();
        d.kick(0);
        assert_eq!(d.used(0), [(sent.head, 4)]);
        assert_eq!(d.get(sent.out[0], 4), [1, 2, 3, 4], "from the new source");
    }

    #[test]
    fn rng_has_no_device_configuration() {
        let mut d = rng();
        assert_eq!(d.input(0, Byte), None);
        let f = d.dev.pci_function();
        assert_eq!((f.read32(0), f.read32(0x2C)), (0x1044_1AF4, 0x0004_1AF4));
        assert_eq!((f.bar(3), f.read32(0x1C)), (None, 0));
        // The capability behind ISR is the last one: PCI configuration access.
        assert_eq!((f.read8(0x65), f.read8(0x75), f.read8(0x77)), (0x74, 0, 5));
    }
}
