//! The network card as snapshots hold it.
//!
//! v86's array: registers and queues, number of the network (0), address. That is everything. The guest's
//! driver uses the address it found, so the card gets it back; who runs two copies of one snapshot on the
//! same network gives them other ones ([`VirtioNet::set_mac`]).
//!
//! A card that takes work over from the guest (v86 has none) says so in env86's own part, `[1]`: the machine that
//! restores it has to offer the same.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{Offload, VirtioNet};
use crate::device::DeviceState;
use crate::virtio::saved::VERSION;

pub(super) struct SavedNet {
    mac: [u8; 6],
    offloads: bool,
}

impl SavedNet {
    pub(super) fn capture(net: &VirtioNet) -> Self {
        // The MTU is the board's; frames under way are lost, as on a wire.
        let VirtioNet { mac, mtu: _, offload, cable: _, frame: _, piece: _, joined: _, waiting: _ } = net;
        Self { mac: *mac, offloads: *offload != Offload::None }
    }

    pub(super) fn into_state(self, core: Value) -> DeviceState {
        let v86 = values![core, 0, Value::bytes(self.mac)];
        let extra = if self.offloads { values![VERSION] } else { Value::Null };
        DeviceState { v86, extra }
    }

    pub(super) fn read(state: &mut DeviceState, net: &VirtioNet) -> Result<Self, FieldError> {
        let mut saved = Self::capture(net);
        if let Some(mut f) = Fields::of(&mut state.v86)? {
            f.u32(1)?;
            saved.mac = f.u8s::<6>(2)?.unwrap_or(saved.mac);
        }
        Ok(saved)
    }

    pub(super) fn apply(self, net: &mut VirtioNet) {
        let Self { mac, offloads: _ } = self;
        net.mac = mac;
    }
}

#[cfg(test)]
mod tests {
    use emu_core::bus::AccessSize::Byte;

    use super::*;
    use crate::device::Device;
    use crate::net::NetSink;
    use crate::snapshot_conformance;
    use crate::virtio::driver::Driver;
    use crate::virtio::{Slot, VirtioDevice, VirtioPci};

    struct Sink;

    impl NetSink for Sink {
        fn send(&mut self, _: &[u8]) {}
    }

    impl crate::net::Cable for Sink {}

    fn make() -> VirtioPci<VirtioNet> {
        VirtioPci::new(VirtioNet::new([2, 0, 0, 0, 0, 1], 1500, Offload::None, Box::new(Sink)), Slot::NET)
    }

    /// The guest gives itself an address, sends, and posts two receive buffers.
    fn busy(d: &mut Driver<VirtioNet>) {
        d.start(d.dev.device().features());
        d.add(2, &[&[1, 1], &[2, 0, 0, 0, 0, 9]], &[1]);
        d.kick(2);
        d.add(1, &[&[0; 12], b"frame"], &[]);
        d.kick(1);
        d.add(0, &[], &[64]);
        d.add(0, &[], &[64]);
        d.kick(0);
    }

    snapshot_conformance!(
        saved_net_conforms,
        make: make,
        exercise: |dev, board| {
            let mut d = Driver::over(std::mem::replace(dev, make()), std::mem::take(board));
            busy(&mut d);
            (*dev, *board) = (d.dev, d.bench);
        },
        ignored: &[],
    );

    #[test]
    fn restored_net_receives_into_buffers_posted_before() {
        let mut d = Driver::over(make(), crate::testing::TestBoard::new());
        busy(&mut d);
        assert!(d.dev.receive(&mut d.bench.ctx(), b"first"));
        d.used(0);
        let state = d.dev.save(&mut d.bench.ctx());
        let Value::Array(items) = &state.v86 else { panic!() };
        assert_eq!(items[1..], [Value::Int(0), Value::bytes([2, 0, 0, 0, 0, 9])]);
        assert_eq!(state.extra, Value::Null);
        d.dev = make();
        d.dev.restore(&mut d.bench.ctx(), state).unwrap();
        assert_eq!(d.input(5, Byte), Some(9));
        assert!(d.dev.receive(&mut d.bench.ctx(), b"second"));
        assert!(!d.dev.receive(&mut d.bench.ctx(), b"third"), "no buffer left");
        let used = d.used(0);
        assert_eq!(used.iter().map(|u| u.1).collect::<Vec<_>>(), [12 + 6]);
    }
}
